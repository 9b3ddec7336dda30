//! Endpoints: where webhooks and Slack's messages go.

use base::access::Action;
use base::{ErrorKind, Timestamp};
use delivery::{
    Channel, EmailAddress, Endpoint, EndpointChange, EndpointId, NewEndpoint, SecretInfo, Tested,
};
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Routes, State, Undeclared,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Doors;
use super::accounts::by;
use super::messages::refused;

const READ: Action = delivery::READ;
const WRITE: Action = delivery::WRITE;

/// By what a message goes out.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Channel")]
#[serde(rename_all = "lowercase")]
pub(super) enum ChannelName {
    Email,
    /// Signed JSON by the Standard Webhooks specification.
    Webhook,
    /// A Slack-shaped incoming webhook.
    Slack,
}

impl From<Channel> for ChannelName {
    fn from(channel: Channel) -> Self {
        match channel {
            Channel::Email => Self::Email,
            Channel::Webhook => Self::Webhook,
            Channel::Slack => Self::Slack,
        }
    }
}

impl From<ChannelName> for Channel {
    fn from(name: ChannelName) -> Self {
        match name {
            ChannelName::Email => Self::Email,
            ChannelName::Webhook => Self::Webhook,
            ChannelName::Slack => Self::Slack,
        }
    }
}

/// An endpoint to be made.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewEndpoint")]
#[serde(deny_unknown_fields)]
struct NewBody {
    /// `webhook` or `slack`.
    channel: ChannelName,
    name: String,
    url: String,
    /// Events that it is told whoever raised them: `alert.raised`. A rule that names the endpoint reaches it anyway.
    #[serde(default)]
    event_types: Vec<String>,
    /// Who is told by mail when the endpoint is paused.
    contact: Option<String>,
    /// Messages a second, instead of its channel's number.
    rate_max: Option<u32>,
}

/// What changes; what is left out stays.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EndpointChange")]
#[serde(deny_unknown_fields)]
#[allow(clippy::option_option, reason = "left out, null and a value are three different wishes")]
struct ChangeBody {
    name: Option<String>,
    url: Option<String>,
    event_types: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    contact: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    rate_max: Option<Option<u32>>,
    /// True ends a pause too, and lets go what was held; false holds what waits.
    enabled: Option<bool>,
}

/// Tells a field that is null from one that is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Endpoint")]
struct EndpointBody {
    id: String,
    channel: ChannelName,
    name: String,
    /// Without its path and query, which may be a secret.
    url: String,
    event_types: Vec<String>,
    contact: Option<String>,
    rate_max: Option<u32>,
    /// `active`, `disabled` (by somebody) or `paused` (it failed for days, or is gone).
    state: &'static str,
    /// Why it is paused.
    reason: Option<String>,
    /// Failed attempts in a row.
    failures: u32,
    failing_since: Option<String>,
    /// Nothing is tried before this moment.
    rests_until: Option<String>,
    last_success: Option<String>,
    /// Those that sign now, newest first.
    secrets: Vec<SecretBody>,
    created: String,
    changed: String,
}

/// That a secret signs; the secret itself is shown once, when it is made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointSecret")]
struct SecretBody {
    created: String,
    /// Until when it signs; absent for the newest.
    expires: Option<String>,
}

/// A new endpoint with its secret, which is never shown again.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointMade")]
struct MadeBody {
    #[serde(flatten)]
    endpoint: EndpointBody,
    /// `whsec_…`, to verify signatures with; absent for Slack.
    secret: Option<String>,
}

/// A new secret, which is never shown again.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SecretMade")]
struct SecretMade {
    secret: String,
}

/// What a test gave.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointTested")]
struct TestedBody {
    /// Whether the answer was 2xx.
    taken: bool,
    status: Option<u16>,
    error: Option<String>,
    /// The first characters of the answer.
    answer: Option<String>,
    took_ms: f64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RetriedMany")]
struct RetriedBody {
    /// At most 1,000 by one request.
    retried: u64,
}

impl From<SecretInfo> for SecretBody {
    fn from(secret: SecretInfo) -> Self {
        let expires = secret.expires.map(|time| time.to_string());
        Self { created: secret.created.to_string(), expires }
    }
}

impl From<Endpoint> for EndpointBody {
    fn from(endpoint: Endpoint) -> Self {
        let text = |time: Timestamp| time.to_string();
        Self {
            id: endpoint.id.to_string(),
            channel: endpoint.channel.into(),
            name: endpoint.name,
            url: endpoint.url,
            event_types: endpoint.event_types,
            contact: endpoint.contact.map(|address| address.to_string()),
            rate_max: endpoint.rate_max,
            state: endpoint.state.name(),
            reason: endpoint.reason,
            failures: endpoint.failures,
            failing_since: endpoint.failing_since.map(text),
            rests_until: endpoint.rests_until.map(text),
            last_success: endpoint.last_success.map(text),
            secrets: endpoint.secrets.into_iter().map(SecretBody::from).collect(),
            created: endpoint.created.to_string(),
            changed: endpoint.changed.to_string(),
        }
    }
}

impl From<Tested> for TestedBody {
    fn from(tested: Tested) -> Self {
        Self {
            taken: tested.was_taken,
            status: tested.status,
            error: tested.error,
            answer: tested.answer,
            took_ms: tested.took.as_secs_f64() * 1e3,
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("endpoints");
    let found = &[ErrorKind::NotFound];
    Routes::new(doors.clone())
        .add(
            of(Operation::get("/v1/endpoints"))
                .id("listEndpoints")
                .summary("Webhooks and Slack channels, newest first.")
                .action(READ),
            list,
        )
        .add(
            of(Operation::post("/v1/endpoints"))
                .id("createEndpoint")
                .summary("Makes an endpoint. A webhook's secret is shown in this answer only.")
                .action(WRITE)
                .secret()
                .kinds(&[ErrorKind::TooMany]),
            create,
        )
        .add(
            of(Operation::get("/v1/endpoints/{id}"))
                .id("readEndpoint")
                .summary("One endpoint.")
                .action(READ)
                .kinds(found),
            read,
        )
        .add(
            of(Operation::patch("/v1/endpoints/{id}"))
                .id("changeEndpoint")
                .summary("Changes an endpoint, or switches it off and on (JSON merge patch).")
                .action(WRITE)
                .secret()
                .kinds(found),
            change,
        )
        .add(
            of(Operation::delete("/v1/endpoints/{id}"))
                .id("deleteEndpoint")
                .summary("Deletes an endpoint; what was not sent to it is failed.")
                .action(WRITE)
                .kinds(found),
            delete,
        )
        .join(deeds(doors))
}

fn deeds(doors: &Doors) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("endpoints");
    Routes::new(doors.clone())
        .add(
            of(Operation::post("/v1/endpoints/{id}/secrets"))
                .id("rotateEndpointSecret")
                .summary("Makes a new secret; the old one signs beside it for a day.")
                .action(WRITE)
                .secret()
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::TooMany]),
            rotate,
        )
        .add(
            of(Operation::post("/v1/endpoints/{id}/test"))
                .id("testEndpoint")
                .summary(
                    "Posts a test now, also to an endpoint that is off, and says what came back.",
                )
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::TooMany]),
            test,
        )
        .add(
            of(Operation::post("/v1/endpoints/{id}/retry"))
                .id("retryEndpointMessages")
                .summary("Tries the oldest failed messages of an endpoint again, up to 1,000.")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound]),
            retry,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<EndpointBody>> {
    let page = doors.delivery.endpoints(caller.organisation(), page).await.map_err(refused)?;
    Ok(page.map(EndpointBody::from).into())
}

async fn create(
    State(doors): State<Doors>,
    caller: Caller,
    Json(new): Json<NewBody>,
) -> edge::Result<Created<MadeBody>> {
    let new = NewEndpoint {
        channel: new.channel.into(),
        name: new.name,
        url: new.url,
        event_types: new.event_types,
        contact: new.contact.map(|text| address(&text)).transpose()?,
        rate_max: new.rate_max,
    };
    let made = doors.delivery.create_endpoint(caller.organisation(), new).await;
    let made = made.map_err(refused)?;
    doors.note_endpoint(&caller, made.endpoint.id, "made").await;
    let secret = made.secret.map(|secret| secret.reveal());
    Ok(Created(MadeBody { endpoint: made.endpoint.into(), secret }))
}

async fn read(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<EndpointBody>> {
    let id = parse_endpoint(&id)?;
    let endpoint = doors.delivery.endpoint(caller.organisation(), id).await.map_err(refused)?;
    Ok(Json(endpoint.into()))
}

async fn change(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<ChangeBody>,
) -> edge::Result<Json<EndpointBody>> {
    let id = parse_endpoint(&id)?;
    let contact = match body.contact {
        Some(Some(text)) => Some(Some(address(&text)?)),
        Some(None) => Some(None),
        None => None,
    };
    let change = EndpointChange {
        name: body.name,
        url: body.url,
        event_types: body.event_types,
        contact,
        rate_max: body.rate_max,
        is_enabled: body.enabled,
    };
    let changed = doors.delivery.change_endpoint(caller.organisation(), id, change).await;
    let changed = changed.map_err(refused)?;
    doors.note_endpoint(&caller, id, "changed").await;
    Ok(Json(changed.into()))
}

async fn delete(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    let id = parse_endpoint(&id)?;
    doors.delivery.delete_endpoint(caller.organisation(), id).await.map_err(refused)?;
    doors.note_endpoint(&caller, id, "deleted").await;
    Ok(NoContent)
}

async fn rotate(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Created<SecretMade>> {
    let id = parse_endpoint(&id)?;
    let secret = doors.delivery.rotate_secret(caller.organisation(), id).await.map_err(refused)?;
    doors.note_endpoint(&caller, id, "secret rotated").await;
    Ok(Created(SecretMade { secret: secret.reveal() }))
}

async fn test(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<TestedBody>> {
    let id = parse_endpoint(&id)?;
    let tested = doors.delivery.test_endpoint(caller.organisation(), id).await.map_err(refused)?;
    Ok(Json(tested.into()))
}

async fn retry(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<RetriedBody>> {
    let id = parse_endpoint(&id)?;
    let retried = doors.delivery.retry_failed(caller.organisation(), id).await.map_err(refused)?;
    Ok(Json(RetriedBody { retried }))
}

impl Doors {
    async fn note_endpoint(&self, caller: &Caller, id: EndpointId, detail: &str) {
        let resource = format!("endpoint/{id}");
        let noted = self.identity.note(by(caller), WRITE, resource, detail.into()).await;
        if let Err(error) = noted {
            tracing::error!(%error, %id, "a deed is missing in the audit log");
        }
    }
}

/// What is no id names no endpoint.
pub(super) fn parse_endpoint(id: &str) -> edge::Result<EndpointId> {
    id.parse().map_err(|_| edge::Error::not_found("there is no such endpoint"))
}

fn address(text: &str) -> edge::Result<EmailAddress> {
    text.parse().map_err(|error: delivery::AddressError| {
        edge::Error::invalid(error.to_string()).at("/contact", error.to_string())
    })
}
