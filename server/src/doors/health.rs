//! Whether the process lives, whether it is ready, and its figures.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base::access::Action;
use edge::{Json, NoContent, Operation, Routes, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Doors;

#[derive(Serialize, JsonSchema)]
struct Ready {
    /// Always true: what is not ready does not answer here.
    ready: bool,
    version: &'static str,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/livez")
                .id("livez")
                .summary("204 while the process runs.")
                .tag("system")
                .public(),
            livez,
        )
        .add(
            Operation::get("/readyz")
                .id("readyz")
                .summary("200 when rows can be read and every door is open.")
                .tag("system")
                .public(),
            readyz,
        )
        .add(
            Operation::get("/metrics")
                .id("metrics")
                .summary("Figures in the OpenMetrics text format, for Prometheus.")
                .tag("system")
                .loopback_or(Action("system.metrics"))
                .media("application/openmetrics-text; version=1.0.0; charset=utf-8"),
            metrics,
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
    Ok(Json(Ready { ready: true, version: env!("CARGO_PKG_VERSION") }))
}

async fn metrics(State(doors): State<Doors>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], doors.base.metrics.text()).into_response()
}
