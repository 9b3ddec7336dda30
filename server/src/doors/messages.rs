//! Mails on their way out, as the console shows them.

use base::ErrorKind;
use base::access::Action;
use delivery::{Message, MessageId};
use edge::{Caller, NoContent, Operation, PageBody, Paging, Path, Routes, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Doors;

const READ: Action = delivery::READ;
const WRITE: Action = delivery::WRITE;

/// A mail: kept, waiting, sent or failed.
#[derive(Serialize, JsonSchema)]
pub(super) struct MessageBody {
    id: String,
    channel: &'static str,
    to: String,
    subject: String,
    body: String,
    /// `held` (no mail server is configured), `waiting`, `sending`, `sent` or `failed`.
    state: &'static str,
    /// Attempts begun so far.
    attempts: u32,
    next_attempt: Option<String>,
    last_error: Option<String>,
    /// The Message-ID header: the same at every attempt.
    message_id: String,
    created: String,
    sent: Option<String>,
}

impl From<Message> for MessageBody {
    fn from(message: Message) -> Self {
        Self {
            id: message.id.to_string(),
            channel: message.channel.name(),
            to: message.to,
            subject: message.subject,
            body: message.body,
            state: message.state.name(),
            attempts: message.attempts,
            next_attempt: message.next_attempt.map(|time| time.to_string()),
            last_error: message.last_error,
            message_id: message.message_id,
            created: message.created.to_string(),
            sent: message.sent.map(|time| time.to_string()),
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/messages")
                .id("listMessages")
                .summary("Mails, newest first.")
                .tag("messages")
                .action(READ),
            list,
        )
        .add(
            Operation::post("/v1/messages/{id}/release")
                .id("releaseMessage")
                .summary("Sends a mail that was held while no mail server was configured.")
                .tag("messages")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            release,
        )
        .add(
            Operation::post("/v1/messages/{id}/retry")
                .id("retryMessage")
                .summary("Tries a failed mail again, under its old Message-ID.")
                .tag("messages")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            retry,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<MessageBody>> {
    let page = doors.delivery.messages(caller.organisation(), page).await.map_err(refused)?;
    Ok(page.map(MessageBody::from).into())
}

async fn release(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.delivery.release(caller.organisation(), parse(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}

async fn retry(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.delivery.retry(caller.organisation(), parse(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}

/// What is no id names no message.
fn parse(id: &str) -> edge::Result<MessageId> {
    id.parse().map_err(|_| edge::Error::not_found("there is no such message"))
}

fn refused(error: delivery::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
