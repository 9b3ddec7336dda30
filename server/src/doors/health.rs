//! Whether the process lives, whether it is ready, and its figures.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use base::access::Action;
use certificates::{Phase, Status};
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

/// The certificate of the doors, where an authority issues it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Certificate")]
struct CertificateBody {
    /// Whom it is ordered from.
    directory: String,
    domains: Vec<String>,
    /// `http-01` or `tls-alpn-01`.
    challenge: &'static str,
    /// `none` (nobody is let in under TLS), `shown`, or `ended` (it is shown all the same).
    state: &'static str,
    begin: Option<String>,
    end: Option<String>,
    is_ordering: bool,
    /// When the next order is made.
    next_order: Option<String>,
    /// Orders that failed since one did not.
    failures: u32,
    failed: Option<String>,
    /// Why the last one failed.
    fault: Option<String>,
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
        .add(
            Operation::get("/v1/certificate")
                .id("showCertificate")
                .summary("How it stands with the certificate of the doors under TLS, where an authority issues it.")
                .tag("system")
                .loopback_or(Action("system.metrics"))
                .kinds(&[ErrorKind::NotFound])
                .at_the_door(),
            certificate,
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

async fn certificate(State(doors): State<Doors>) -> edge::Result<Json<CertificateBody>> {
    let Some(certificates) = &doors.certificates else {
        return Err(edge::Error::not_found("no authority issues the certificate here"));
    };
    let Status { directory, domains, challenge, validity, phase, next, failures, failure } =
        certificates.status();
    let now = doors.base.clock.now();
    let (failed, fault) = failure.map(|(at, fault)| (at.to_string(), fault)).unzip();
    Ok(Json(CertificateBody {
        directory,
        domains,
        challenge: challenge.as_str(),
        state: match &validity {
            None => "none",
            Some(validity) if validity.end <= now => "ended",
            Some(_) => "shown",
        },
        begin: validity.map(|validity| validity.begin.to_string()),
        end: validity.map(|validity| validity.end.to_string()),
        is_ordering: phase == Phase::Ordering,
        next_order: next.map(|next| next.to_string()),
        failures,
        failed,
        fault,
    }))
}
