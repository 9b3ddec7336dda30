//! Whether the process lives, whether it is ready, and its figures.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base::access::Action;
use edge::{Json, NoContent, Operation, Routes, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Doors;

#[derive(Serialize, JsonSchema)]
#[allow(clippy::struct_field_names, reason = "the words of the API")]
struct Ready {
    /// Always true: what is not ready does not answer here.
    ready: bool,
    version: &'static str,
    /// How many things hold something for too long; `GET /v1/stuck` names them.
    stuck: usize,
}

#[derive(Serialize, JsonSchema)]
struct StuckBody {
    items: Vec<StuckView>,
}

/// Something that holds more than it should at this moment.
#[derive(Serialize, JsonSchema)]
struct StuckView {
    /// `request`, `task` (it keeps its thread), `read` or `write` (it keeps its connection).
    what: &'static str,
    name: String,
    /// The id of the request.
    request: Option<String>,
    /// The line of code that began it.
    place: Option<String>,
    /// The statement that runs, or that ran last.
    step: Option<String>,
    seconds: f64,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/livez")
                .id("livez")
                .summary("204 while the process runs.")
                .tag("system")
                .public()
                .at_the_door(),
            livez,
        )
        .add(
            Operation::get("/readyz")
                .id("readyz")
                .summary("200 when rows can be read and written and every door is open.")
                .tag("system")
                .public()
                .at_the_door(),
            readyz,
        )
        .add(
            Operation::get("/metrics")
                .id("metrics")
                .summary("Figures in the OpenMetrics text format, for Prometheus.")
                .tag("system")
                .loopback_or(Action("system.metrics"))
                .media("application/openmetrics-text; version=1.0.0; charset=utf-8")
                .at_the_door(),
            metrics,
        )
        .add(
            Operation::get("/v1/stuck")
                .id("stuck")
                .summary("What holds a thread, a connection or a request for too long now, the longest first.")
                .tag("system")
                .loopback_or(Action("system.metrics"))
                .at_the_door(),
            stuck,
        )
}

async fn livez() -> NoContent {
    NoContent
}

async fn readyz(State(doors): State<Doors>) -> edge::Result<Json<Ready>> {
    doors
        .db
        .read(async |read| read.query("SELECT 1 AS one", &[]).await)
        .await
        .map_err(super::failed_rows)?;
    doors.db.check().map_err(super::failed_rows)?;
    let stuck = doors.base.watch.stuck().len();
    Ok(Json(Ready { ready: true, version: env!("CARGO_PKG_VERSION"), stuck }))
}

async fn stuck(State(doors): State<Doors>) -> Json<StuckBody> {
    let items = doors.base.watch.stuck().into_iter().map(|stuck| StuckView {
        what: stuck.what,
        name: stuck.name,
        request: stuck.id,
        place: stuck.place,
        step: stuck.step,
        seconds: stuck.held.as_secs_f64(),
    });
    Json(StuckBody { items: items.collect() })
}

async fn metrics(State(doors): State<Doors>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], doors.base.metrics.text()).into_response()
}
