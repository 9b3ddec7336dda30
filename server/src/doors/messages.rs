//! Messages on their way out, on every channel, as the console shows them.

use base::access::Action;
use base::{ErrorKind, Timestamp};
use delivery::{Attempt, Channel, Message, MessageFilter, MessageId};
use edge::{
    Caller, Json, NoContent, Operation, PageBody, Paging, Path, Query, Routes, State, Undeclared,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::endpoints::{ChannelName, parse_endpoint};

const READ: Action = delivery::READ;
const WRITE: Action = delivery::WRITE;

/// A message: kept, waiting, sent, failed or given up.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Message")]
pub(super) struct MessageBody {
    id: String,
    channel: ChannelName,
    /// Of an endpoint, when it is no mail.
    endpoint: Option<String>,
    /// An address, or an endpoint's name.
    to: String,
    /// Of a mail; the event's type on other channels.
    subject: String,
    /// A mail's text, or the JSON that is sent.
    body: String,
    /// `held` (no mail server is configured, or the endpoint is off), `waiting`, `sending`, `sent`, `failed` or
    /// `discarded`.
    state: &'static str,
    /// Attempts begun so far.
    attempts: u32,
    next_attempt: Option<String>,
    last_error: Option<String>,
    /// The Message-ID header of a mail, the webhook-id of a webhook: the same at every attempt.
    message_id: String,
    created: String,
    sent: Option<String>,
}

/// A message with its attempts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageWithAttempts")]
struct WholeBody {
    #[serde(flatten)]
    message: MessageBody,
    /// The newest hundred, newest first.
    attempts_made: Vec<AttemptBody>,
}

/// One attempt to hand a message over.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Attempt")]
struct AttemptBody {
    number: u32,
    #[schemars(extend("format" = "date-time"))]
    began: String,
    /// `sent`, `retry` (another follows), `failed` (the last one), or `unknown`: it runs, or nobody lived to write its
    /// end and the receiver may have got the message.
    outcome: &'static str,
    /// Of HTTP or SMTP; absent when no answer came.
    status: Option<u16>,
    error: Option<String>,
    /// The first characters of the answer.
    answer: Option<String>,
    took_ms: Option<f64>,
}

/// Which messages; all of them without.
#[derive(Deserialize, JsonSchema)]
struct FilterQuery {
    state: Option<StateName>,
    channel: Option<ChannelName>,
    /// An endpoint's id.
    endpoint: Option<String>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StateName {
    Held,
    Waiting,
    Sending,
    Sent,
    Failed,
    Discarded,
}

impl From<StateName> for delivery::State {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Held => Self::Held,
            StateName::Waiting => Self::Waiting,
            StateName::Sending => Self::Sending,
            StateName::Sent => Self::Sent,
            StateName::Failed => Self::Failed,
            StateName::Discarded => Self::Discarded,
        }
    }
}

impl From<Message> for MessageBody {
    fn from(message: Message) -> Self {
        let text = |time: Timestamp| time.to_string();
        Self {
            id: message.id.to_string(),
            channel: message.channel.into(),
            endpoint: message.endpoint.map(|id| id.to_string()),
            to: message.to,
            subject: message.subject,
            body: message.body,
            state: message.state.name(),
            attempts: message.attempts,
            next_attempt: message.next_attempt.map(text),
            last_error: message.last_error,
            message_id: message.message_id,
            created: message.created.to_string(),
            sent: message.sent.map(text),
        }
    }
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            began: attempt.began.to_string(),
            outcome: attempt.outcome.name(),
            status: attempt.status,
            error: attempt.error,
            answer: attempt.answer,
            took_ms: attempt.took.map(|took| took.as_secs_f64() * 1e3),
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("messages");
    Routes::new(doors.clone())
        .add(
            of(Operation::get("/v1/messages"))
                .id("listMessages")
                .summary("Messages on every channel, newest first.")
                .action(READ),
            list,
        )
        .add(
            of(Operation::get("/v1/messages/{id}"))
                .id("readMessage")
                .summary("One message with its attempts.")
                .action(READ)
                .kinds(&[ErrorKind::NotFound]),
            read,
        )
        .add(
            of(Operation::post("/v1/messages/{id}/release"))
                .id("releaseMessage")
                .summary("Sends a mail that was held while no mail server was configured.")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            release,
        )
        .add(
            of(Operation::post("/v1/messages/{id}/retry"))
                .id("retryMessage")
                .summary("Tries a failed message again, under its old id.")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            retry,
        )
        .add(
            of(Operation::post("/v1/messages/{id}/discard"))
                .id("discardMessage")
                .summary("Gives a failed or held message up. It stays listed.")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            discard,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Query(filter): Query<FilterQuery>,
    Paging(page): Paging,
) -> edge::Result<PageBody<MessageBody>> {
    let filter = MessageFilter {
        state: filter.state.map(delivery::State::from),
        channel: filter.channel.map(Channel::from),
        endpoint: filter.endpoint.as_deref().map(parse_endpoint).transpose()?,
    };
    let page = doors.delivery.messages_like(caller.organisation(), filter, page).await;
    Ok(page.map_err(refused)?.map(MessageBody::from).into())
}

async fn read(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<WholeBody>> {
    let (organisation, id) = (caller.organisation(), parse(&id)?);
    let message = doors.delivery.message(organisation, id).await.map_err(refused)?;
    let attempts = doors.delivery.attempts(organisation, id).await.map_err(refused)?;
    let attempts_made = attempts.into_iter().map(AttemptBody::from).collect();
    Ok(Json(WholeBody { message: message.into(), attempts_made }))
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

async fn discard(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.delivery.discard(caller.organisation(), parse(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}

/// What is no id names no message.
fn parse(id: &str) -> edge::Result<MessageId> {
    id.parse().map_err(|_| edge::Error::not_found("there is no such message"))
}

pub(super) fn refused(error: delivery::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
