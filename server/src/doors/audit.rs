//! Who did what by which door, and who was refused what: a list with filters, and the whole of it as CSV.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base::{OrganisationId, Timestamp};
use edge::{Caller, Operation, PageBody, Paging, Query, Routes, State};
use futures::stream;
use identity::{Entry, Filter, Identity, Outcome, actions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::session::refused;

#[derive(Serialize, JsonSchema)]
struct AuditBody {
    id: String,
    time: String,
    /// `account:…`, `key:…`, `system:…` or `nobody`.
    subject: String,
    /// `http`, `mqtt`, `resp`, `stomp`, or `-` where it is not known or the server did it.
    door: String,
    action: String,
    resource: String,
    /// `done` or `denied`.
    outcome: String,
    detail: String,
}

#[derive(Deserialize, JsonSchema)]
struct Wanted {
    /// A subject as it is listed, or the address of an account.
    actor: Option<String>,
    /// An action such as `key.create`, or the beginning of some: `key.*`.
    action: Option<String>,
    outcome: Option<OutcomeName>,
    door: Option<String>,
    /// From this moment on (RFC 3339).
    from: Option<String>,
    /// Before this moment (RFC 3339).
    until: Option<String>,
}

#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum OutcomeName {
    Done,
    Denied,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/audit")
                .id("listAudit")
                .summary("Who changed what and who was refused, newest first.")
                .tag("keys")
                .action(actions::AUDIT_READ),
            list,
        )
        .add(
            Operation::get("/v1/audit.csv")
                .id("exportAudit")
                .summary("The same, all of it, as CSV (RFC 4180).")
                .tag("keys")
                .action(actions::AUDIT_READ)
                .media("text/csv"),
            export,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
    Paging(page): Paging,
) -> edge::Result<PageBody<AuditBody>> {
    let filter = wanted.filter()?;
    let entries = doors.identity.audit(caller.organisation(), &filter, &page).await;
    Ok(entries.map_err(refused)?.map(AuditBody::from).into())
}

/// Where an export stands.
struct Export {
    identity: Identity,
    organisation: OrganisationId,
    filter: Filter,
    next: Option<String>,
}

async fn export(
    State(doors): State<Doors>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> edge::Result<Response> {
    let (filter, identity) = (wanted.filter()?, doors.identity.clone());
    let organisation = caller.organisation();
    let first = identity.audit_csv(organisation, &filter, None).await;
    let (text, next) = first.map_err(refused)?;
    // What comes later comes as fast as it is taken. An error breaks the answer off, so that it is no whole one.
    let export = Export { identity, organisation, filter, next };
    let rest = stream::try_unfold(export, |mut export| async move {
        let Some(after) = export.next.take() else { return Ok(None) };
        let (organisation, filter) = (export.organisation, &export.filter);
        let part = export.identity.audit_csv(organisation, filter, Some(after)).await?;
        export.next = part.1;
        Ok::<_, identity::Error>(Some((Bytes::from(part.0), export)))
    });
    let first = stream::once(async move { Ok(Bytes::from(text)) });
    let body = Body::from_stream(futures::StreamExt::chain(first, rest));
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"audit.csv\""),
    ];
    Ok((headers, body).into_response())
}

impl Wanted {
    fn filter(self) -> edge::Result<Filter> {
        let moment = |name: &str, text: Option<String>| {
            text.map(|text| {
                text.parse::<Timestamp>().map_err(|error| {
                    edge::Error::unreadable("the query cannot be read").at(name, error.to_string())
                })
            })
            .transpose()
        };
        Ok(Filter {
            actor: self.actor,
            action: self.action,
            outcome: self.outcome.map(|outcome| match outcome {
                OutcomeName::Done => Outcome::Done,
                OutcomeName::Denied => Outcome::Denied,
            }),
            door: self.door,
            from: moment("from", self.from)?,
            until: moment("until", self.until)?,
        })
    }
}

impl From<Entry> for AuditBody {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id.to_string(),
            time: entry.time.to_string(),
            subject: entry.subject,
            door: entry.door,
            action: entry.action,
            resource: entry.resource,
            outcome: entry.outcome,
            detail: entry.detail,
        }
    }
}
