//! One room's handle becomes another's need. This file is the map of couplings.

use std::sync::Arc;

use base::access::{Action, Door, Principal, Refused, Subject};
use base::{Base, Failure, OrganisationId, Timestamp};
use bytes::Bytes;
use comments::Passwords;
use delivery::egress::{Target, Verb};
use delivery::{Delivery, EmailAddress, EndpointId, OutgoingEvent, OutgoingMail};
use devices::{
    Devices, IssuedKey, KeyIssuer, KeyRequest, Messenger, NeedError, Notice, Notifier, Outcome,
    Recipient, TxFuture,
};
use edge::{Begun, BoxFuture, Claims, Keyed, Sessions};
use eventlog::Record;
use identity::{Grant, Identity, Letter, Mailer, NewKey, Web, WebAnswer, WebRequest};
use jobs::{Attempt, Failed, Jobs, Kind};
use mqtt::{Accepted, Intake, Left, Message, Mqtt, Outgoing, Qos};
use relational::{Claimed, Commands, Deed, NewCommand, Tx, Unhandled};
use serde::{Deserialize, Serialize};
use sockets::Source;

/// Messages to `data/<device>` are readings; those to `answer/` and `reported/` say what became of commands and wishes.
pub(crate) struct Readings(pub(crate) Devices);

impl Intake for Readings {
    fn accept<'a>(
        &'a self,
        principal: &'a Principal,
        message: &'a Message,
    ) -> BoxFuture<'a, Accepted> {
        Box::pin(async move {
            let received = self.0.receive(principal, &message.topic, &message.payload).await;
            let Some((device, outcome)) = received else { return Accepted::NotMine };
            if outcome == Outcome::Stored {
                self.0.client_carries(principal, &message.client, device);
            }
            accepted(outcome)
        })
    }

    fn accept_all<'a>(
        &'a self,
        principal: &'a Principal,
        messages: &'a [Arc<Message>],
    ) -> BoxFuture<'a, Vec<Accepted>> {
        Box::pin(async move {
            let given: Vec<(&str, &[u8])> =
                messages.iter().map(|message| (&*message.topic, &*message.payload)).collect();
            let received = self.0.receive_all(principal, &given).await;
            // Most of what comes together is of one device.
            let mut carried = None;
            let answers = received.into_iter().zip(messages).map(|(received, message)| {
                let Some((device, outcome)) = received else { return Accepted::NotMine };
                if outcome == Outcome::Stored && carried != Some(device) {
                    self.0.client_carries(principal, &message.client, device);
                    carried = Some(device);
                }
                accepted(outcome)
            });
            answers.collect()
        })
    }

    fn arrived(&self, principal: &Principal, client: &str) {
        self.0.client_arrived(principal, client);
    }

    fn left(&self, principal: &Principal, client: &str, how: Left) {
        self.0.client_left(principal, client, how == Left::Lost);
    }
}

fn accepted(outcome: Outcome) -> Accepted {
    match outcome {
        Outcome::Stored => Accepted::Stored,
        Outcome::Refused { reason } => Accepted::Refused { reason },
        Outcome::Denied => Accepted::Denied,
        Outcome::Unavailable => Accepted::Unavailable,
    }
}

/// Commands and wishes go out by the broker.
pub(crate) struct DeviceMessages(pub(crate) Mqtt);

impl Messenger for DeviceMessages {
    fn publish(
        &self,
        organisation: OrganisationId,
        message: devices::Message,
    ) -> BoxFuture<'_, Result<(), NeedError>> {
        Box::pin(async move {
            let devices::Message { topic, payload, is_kept } = message;
            let outgoing =
                Outgoing { topic, payload: payload.into(), qos: Qos::AtLeastOnce, retain: is_kept };
            let published = self.0.publish(organisation, outgoing).await;
            published.map_err(|error| NeedError { kind: error.kind(), source: error.into() })
        })
    }
}

/// Alerts are told by commands, so that a full queue of messages delays one and does not lose it.
pub(crate) struct AlertNotices(pub(crate) Delivery);

/// Puts a mail into the queue of those that go out.
const SEND_MAIL: &str = "mail.send";
/// Puts an event for one endpoint into its queue.
const TELL_ENDPOINT: &str = "endpoint.tell";

/// What the first carries.
#[derive(Serialize, Deserialize)]
struct MailToSend {
    to: String,
    subject: String,
    body: String,
}

/// What the second carries.
#[derive(Serialize, Deserialize)]
struct EventToTell {
    endpoint: String,
    event_type: String,
    /// In microseconds since 1970.
    occurred: i64,
    text: String,
    data: serde_json::Value,
}

impl Notifier for AlertNotices {
    fn accepts(&self, address: &str) -> bool {
        address.parse::<EmailAddress>().is_ok()
    }

    fn knows<'a>(
        &'a self,
        organisation: OrganisationId,
        endpoint: &'a str,
    ) -> BoxFuture<'a, Result<bool, NeedError>> {
        Box::pin(async move {
            let Ok(id) = endpoint.parse::<EndpointId>() else { return Ok(false) };
            match self.0.endpoint(organisation, id).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == base::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(NeedError { kind: error.kind(), source: error.into() }),
            }
        })
    }

    fn enqueue<'a>(
        &'a self,
        tx: &'a mut Tx,
        notice: &'a Notice,
    ) -> TxFuture<'a, Result<(), NeedError>> {
        Box::pin(async move {
            let Notice { organisation, event, to, subject, body, occurred, data, key } =
                notice.clone();
            let data: serde_json::Value = serde_json::from_str(&data).map_err(|error| {
                NeedError { kind: base::ErrorKind::Internal, source: error.into() }
            })?;
            let event_type = event.to_owned();
            let (name, payload) = match to {
                Recipient::Subscribers => {
                    let event = OutgoingEvent {
                        organisation,
                        endpoint: EndpointId::fixed(0),
                        event_type,
                        occurred,
                        text: format!("{subject}\n{body}"),
                        data,
                        idempotency_key: key.to_string(),
                    };
                    return match self.0.publish(tx, &event).await {
                        Ok(_) => Ok(()),
                        Err(error) => Err(NeedError { kind: error.kind(), source: error.into() }),
                    };
                }
                Recipient::Email(to) => {
                    (SEND_MAIL, serde_json::to_vec(&MailToSend { to, subject, body }))
                }
                Recipient::Endpoint(endpoint) => {
                    let event = EventToTell {
                        endpoint,
                        event_type,
                        occurred: occurred.micros(),
                        text: format!("{subject}\n{body}"),
                        data,
                    };
                    (TELL_ENDPOINT, serde_json::to_vec(&event))
                }
            };
            let command = NewCommand {
                organisation,
                name,
                key: key.to_string(),
                payload: payload.expect("texts always become JSON"),
                not_before: None,
            };
            match tx.send(command).await {
                Ok(_) => Ok(()),
                Err(error) => Err(NeedError { kind: error.kind(), source: error.into() }),
            }
        })
    }
}

/// Registers what carries out the commands of all rooms.
pub(crate) fn handle_commands(
    commands: &mut Commands,
    delivery: Delivery,
) -> Result<(), relational::Error> {
    let mails = delivery.clone();
    commands.handle(SEND_MAIL, async move |tx, command| {
        let mail: MailToSend =
            serde_json::from_slice(&command.payload).map_err(|error| invalid(&error))?;
        let mail = OutgoingMail {
            organisation: command.organisation,
            to: mail.to.parse::<EmailAddress>().map_err(|error| invalid(&error))?,
            subject: mail.subject,
            body_text: mail.body,
            idempotency_key: command.key.clone(),
        };
        let enqueued = mails.enqueue(tx, mail).await;
        enqueued.map_err(|error| Unhandled::new(error.kind(), &error))?;
        Ok(())
    })?;
    commands.handle(TELL_ENDPOINT, async move |tx, command| {
        let event: EventToTell =
            serde_json::from_slice(&command.payload).map_err(|error| invalid(&error))?;
        let event = OutgoingEvent {
            organisation: command.organisation,
            endpoint: event.endpoint.parse::<EndpointId>().map_err(|error| invalid(&error))?,
            event_type: event.event_type,
            occurred: Timestamp::from_micros(event.occurred),
            text: event.text,
            data: event.data,
            idempotency_key: command.key.clone(),
        };
        match delivery.enqueue(tx, event).await {
            Ok(_) => Ok(()),
            // Deleted since the rule named it: no later attempt finds it.
            Err(error @ delivery::Error::NoEndpoint(_)) => Err(invalid(&error)),
            Err(error) => Err(Unhandled::new(error.kind(), &error)),
        }
    })
}

fn invalid(error: &(dyn std::error::Error + 'static)) -> Unhandled {
    Unhandled::new(base::ErrorKind::Invalid, error)
}

/// Registers what carries out the jobs that people may enqueue.
pub(crate) fn handle_jobs(jobs: &Jobs, delivery: Delivery) -> Result<(), jobs::Error> {
    let options = Kind { queue: "mails", is_open: true, ..Kind::default() };
    jobs.handle_in_rows(SEND_MAIL, options, async move |tx: &mut Tx, attempt: &Attempt| {
        let mail: MailToSend = attempt.json()?;
        let to =
            mail.to.parse::<EmailAddress>().map_err(|error| Failed::dead(error.to_string()))?;
        let mail = OutgoingMail {
            organisation: attempt.organisation(),
            to,
            subject: mail.subject,
            body_text: mail.body,
            idempotency_key: format!("job {}", attempt.id()),
        };
        delivery.enqueue(tx, mail).await?;
        Ok(())
    })
}

/// Devices get keys of their own.
pub(crate) struct DeviceKeys(pub(crate) Identity);

impl KeyIssuer for DeviceKeys {
    fn issue<'a>(
        &'a self,
        principal: &'a Principal,
        request: KeyRequest,
    ) -> BoxFuture<'a, Result<IssuedKey, NeedError>> {
        Box::pin(async move {
            let grants = request.grants.into_iter().map(|(action, on)| Grant::new(action, on));
            let new = NewKey { label: request.label, grants: grants.collect() };
            let key = self.0.create_key((principal, Door::Http), new).await;
            let key =
                key.map_err(|error| NeedError { kind: error.kind(), source: error.into() })?;
            Ok(IssuedKey {
                id: key.id.to_string(),
                label: key.label,
                token: key.token,
                mqtt_user: key.mqtt_user,
                mqtt_password: key.mqtt_password,
            })
        })
    }
}

/// Guests' passwords are hashed as those of accounts are.
pub(crate) struct GuestPasswords(pub(crate) Identity);

impl Passwords for GuestPasswords {
    fn hash<'a>(&'a self, password: &'a str) -> BoxFuture<'a, Result<String, comments::NeedError>> {
        Box::pin(async move { self.0.hash_password(password).await.map_err(no_password) })
    }

    fn is<'a>(
        &'a self,
        password: &'a str,
        hash: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, comments::NeedError>> {
        Box::pin(async move { self.0.is_password(password, hash).await.map_err(no_password) })
    }
}

fn no_password(error: identity::Error) -> comments::NeedError {
    comments::NeedError { kind: error.kind(), source: error.into() }
}

/// Mails with links go out at once: their tokens lie in no row.
pub(crate) struct LinkMails(pub(crate) Delivery, pub(crate) Base);

impl Mailer for LinkMails {
    fn send(&self, letter: Letter) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let Letter { organisation, to, subject, body } = letter;
            let mail = OutgoingMail {
                organisation,
                to: to.parse::<EmailAddress>()?,
                subject,
                body_text: body,
                idempotency_key: format!("link {:016x}", self.1.entropy.number()),
            };
            self.0.send_at_once(mail).await?;
            Ok(())
        })
    }
}

/// Providers are asked by the one client that leaves the house.
pub(crate) struct ProvidersWeb(pub(crate) Delivery);

impl Web for ProvidersWeb {
    fn ask(&self, request: WebRequest) -> BoxFuture<'_, Result<WebAnswer, Failure>> {
        Box::pin(async move {
            let client = self.0.client();
            let target = Target::parse(&request.url, client.egress())?;
            let mut headers = vec![("accept", "application/json".to_owned())];
            if let Some(bearer) = request.bearer {
                headers.push(("authorization", format!("Bearer {bearer}")));
            }
            let verb = if request.form.is_some() { Verb::Post } else { Verb::Get };
            let asked = delivery::egress::Request {
                target: &target,
                content_type: "application/x-www-form-urlencoded",
                headers,
                body: request.form.unwrap_or_default().into(),
            };
            let answer = client.ask(verb, &asked, request.answer_bytes_max).await?;
            Ok(WebAnswer { status: answer.status, body: answer.body })
        })
    }
}

/// Readings of each device are the topic `devices.NAME`.
pub(crate) struct ReadingTopics;

/// Alerts are the topic `alerts`, and those of one device `alerts.NAME`.
pub(crate) struct AlertTopics;

impl Source for ReadingTopics {
    fn log_topic(&self) -> &'static str {
        devices::READINGS_TOPIC
    }

    fn owns(&self, name: &str) -> bool {
        name.starts_with("devices.")
    }

    fn key<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix("devices.")
    }

    fn needs(&self, _: &str) -> Option<(Action, String)> {
        Some((devices::READINGS_READ, "*".to_owned()))
    }

    fn names(&self, record: &Record) -> Vec<String> {
        // What is no reading is a dead letter.
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&record.value).is_ok();
        let device = device_of(record).filter(|_| is_json);
        device.map(|device| format!("devices.{device}")).into_iter().collect()
    }
}

impl Source for AlertTopics {
    fn log_topic(&self) -> &'static str {
        devices::ALERTS_TOPIC
    }

    fn owns(&self, name: &str) -> bool {
        name == "alerts" || name.starts_with("alerts.")
    }

    fn key<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix("alerts.")
    }

    fn needs(&self, _: &str) -> Option<(Action, String)> {
        Some((devices::ALERTS_READ, "*".to_owned()))
    }

    fn names(&self, record: &Record) -> Vec<String> {
        let own = device_of(record).map(|device| format!("alerts.{device}"));
        own.into_iter().chain(["alerts".to_owned()]).collect()
    }
}

fn device_of(record: &Record) -> Option<&str> {
    std::str::from_utf8(record.key.as_ref()?).ok()
}

/// Browsers come with a session.
pub(crate) struct BrowserSessions(pub(crate) Identity);

impl Sessions for BrowserSessions {
    fn session<'a>(&'a self, cookie: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(self.0.session(cookie))
    }

    fn session_end<'a>(&'a self, cookie: &'a str) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(self.0.session_end(cookie))
    }
}

/// Requests under an `Idempotency-Key` are remembered in rows.
pub(crate) struct KeyedRequests(pub(crate) relational::Claims);

impl Claims for KeyedRequests {
    fn begin<'a>(&'a self, request: &'a Keyed) -> BoxFuture<'a, edge::Result<Begun>> {
        Box::pin(async move {
            Ok(match self.0.begin(deed(request)).await.map_err(rows)? {
                Claimed::New { claim } => Begun::New { claim },
                Claimed::Other => Begun::Other,
                Claimed::Begun { since } => Begun::Running { since },
                Claimed::Ended(outcome) => Begun::Ended(outcome.into()),
            })
        })
    }

    fn end<'a>(
        &'a self,
        request: &'a Keyed,
        claim: Timestamp,
        outcome: Option<Bytes>,
    ) -> BoxFuture<'a, edge::Result<()>> {
        Box::pin(async move {
            let outcome = outcome.map(Vec::from);
            self.0.end(deed(request), claim, outcome).await.map_err(rows)?;
            Ok(())
        })
    }
}

/// Whose requests are remembered, as rows of them say.
pub(crate) fn claimant(subject: Subject) -> String {
    match subject {
        Subject::Account(id) => format!("account {id}"),
        Subject::Key(id) => format!("key {id}"),
        Subject::System(part) => format!("system {part}"),
    }
}

fn deed(request: &Keyed) -> Deed {
    let subject = claimant(request.subject);
    Deed {
        organisation: request.organisation,
        subject,
        operation: request.operation.to_owned(),
        key: request.key.clone(),
        fingerprint: request.fingerprint.to_vec(),
    }
}

fn rows(error: relational::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
