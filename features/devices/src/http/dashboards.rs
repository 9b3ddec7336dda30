//! Dashboards as documents.

use base::ErrorKind;
use edge::{Caller, Json, NoContent, Operation, PageBody, Paging, Path, Routes, State, Undeclared};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Result, author};
use crate::dashboards::{Dashboard, Document, Write};
use crate::{DEVICES_READ, DEVICES_WRITE, Devices};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DashboardBody {
    document: Document,
    /// The version that it is a change of, 0 for a new one; another one is refused. Null: whatever there is.
    #[serde(default)]
    version: Option<u64>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct DashboardView {
    name: String,
    document: Document,
    /// How often it was written.
    version: u64,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    #[schemars(extend("format" = "date-time"))]
    updated: String,
    /// Who wrote it last.
    author: String,
}

impl From<Dashboard> for DashboardView {
    fn from(dashboard: Dashboard) -> Self {
        let Dashboard { name, document, version, created, updated, author } = dashboard;
        let (created, updated) = (created.to_string(), updated.to_string());
        Self { name, document, version, created, updated, author }
    }
}

pub(super) fn routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("devices");
    routes
        .add(
            of(Operation::get("/v1/dashboards"))
                .id("listDashboards")
                .summary("The dashboards by name.")
                .action(DEVICES_READ),
            list,
        )
        .add(
            of(Operation::get("/v1/dashboards/{name}"))
                .id("readDashboard")
                .summary("One dashboard.")
                .action(DEVICES_READ)
                .resource("dashboard/{name}")
                .kinds(&[ErrorKind::NotFound]),
            read,
        )
        .add(
            of(Operation::put("/v1/dashboards/{name}"))
                .id("writeDashboard")
                .summary(
                    "Keeps a dashboard under a name, a new one or another text of a known one.",
                )
                .action(DEVICES_WRITE)
                .resource("dashboard/{name}")
                .kinds(&[
                    ErrorKind::NotFound,
                    ErrorKind::AlreadyExists,
                    ErrorKind::Conflict,
                    ErrorKind::TooMany,
                ]),
            write,
        )
        .add(
            of(Operation::delete("/v1/dashboards/{name}"))
                .id("deleteDashboard")
                .summary("Removes a dashboard.")
                .action(DEVICES_WRITE)
                .resource("dashboard/{name}")
                .kinds(&[ErrorKind::NotFound]),
            delete,
        )
}

async fn list(
    State(devices): State<Devices>,
    caller: Caller,
    Paging(request): Paging,
) -> Result<PageBody<DashboardView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let page = fleet.dashboards(request).await?;
    Ok(page.map(|dashboard| shown(&devices, &caller, dashboard)).into())
}

async fn read(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<DashboardView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    Ok(Json(shown(&devices, &caller, fleet.dashboard(name).await?)))
}

async fn write(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<DashboardBody>,
) -> Result<Json<DashboardView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let DashboardBody { document, version } = body;
    let wish = Write { name, document, version, author: author(&caller) };
    Ok(Json(shown(&devices, &caller, fleet.write_dashboard(wish).await?)))
}

/// A dashboard with who wrote it as people know them.
fn shown(devices: &Devices, caller: &Caller, mut dashboard: Dashboard) -> DashboardView {
    dashboard.author = devices.house.name_of(caller.organisation(), dashboard.author);
    dashboard.into()
}

async fn delete(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<NoContent> {
    let fleet = devices.fleet(caller.organisation()).await?;
    fleet.delete_dashboard(name).await?;
    Ok(NoContent)
}
