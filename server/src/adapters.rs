//! One room's handle becomes another's need. This file is the map of couplings.

use base::Timestamp;
use base::access::{Principal, Refused, Subject};
use bytes::Bytes;
use delivery::{Delivery, EmailAddress, OutgoingMail};
use devices::{
    Devices, IssuedKey, KeyIssuer, KeyRequest, Mail, Mailer, NeedError, Outcome, TxFuture,
};
use edge::{Begun, BoxFuture, Claims, Keyed, Sessions};
use identity::{Grant, Identity, NewKey};
use jobs::{Attempt, Failed, Jobs, Kind};
use mqtt::{Accepted, Intake, Message};
use relational::{Claimed, Commands, Deed, NewCommand, Tx, Unhandled};
use serde::{Deserialize, Serialize};

/// Messages to `data/<device>` are readings.
pub(crate) struct Readings(pub(crate) Devices);

impl Intake for Readings {
    fn accept<'a>(
        &'a self,
        principal: &'a Principal,
        message: &'a Message,
    ) -> BoxFuture<'a, Accepted> {
        Box::pin(async move {
            let Some(device) = Devices::device_of(&message.topic) else { return Accepted::NotMine };
            match self.0.accept(principal, device, &message.payload).await {
                Outcome::Stored => Accepted::Stored,
                Outcome::Refused { reason } => Accepted::Refused { reason },
                Outcome::Unavailable => Accepted::Unavailable,
            }
        })
    }
}

/// Alerts are mailed by a command, so that a full queue of mails delays a mail and does not lose it.
pub(crate) struct AlertMails;

/// Puts a mail into the queue of those that go out.
const SEND_MAIL: &str = "mail.send";

/// What the command carries.
#[derive(Serialize, Deserialize)]
struct MailToSend {
    to: String,
    subject: String,
    body: String,
}

impl Mailer for AlertMails {
    fn accepts(&self, address: &str) -> bool {
        address.parse::<EmailAddress>().is_ok()
    }

    fn enqueue<'a>(
        &'a self,
        tx: &'a mut Tx,
        mail: &'a Mail,
    ) -> TxFuture<'a, Result<(), NeedError>> {
        Box::pin(async move {
            let Mail { organisation, to, subject, body, key } = mail.clone();
            let payload = serde_json::to_vec(&MailToSend { to, subject, body });
            let command = NewCommand {
                organisation,
                name: SEND_MAIL,
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
    commands.handle(SEND_MAIL, async move |tx, command| {
        let invalid = |error: &(dyn std::error::Error + 'static)| {
            Unhandled::new(base::ErrorKind::Invalid, error)
        };
        let mail: MailToSend =
            serde_json::from_slice(&command.payload).map_err(|error| invalid(&error))?;
        let mail = OutgoingMail {
            organisation: command.organisation,
            to: mail.to.parse::<EmailAddress>().map_err(|error| invalid(&error))?,
            subject: mail.subject,
            body_text: mail.body,
            idempotency_key: command.key.clone(),
        };
        let enqueued = delivery.enqueue(tx, mail).await;
        enqueued.map_err(|error| Unhandled::new(error.kind(), &error))?;
        Ok(())
    })
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
            let key = self.0.create_key(principal, new).await;
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

/// Browsers come with a session.
pub(crate) struct BrowserSessions(pub(crate) Identity);

impl Sessions for BrowserSessions {
    fn session<'a>(&'a self, cookie: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(self.0.session(cookie))
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

fn deed(request: &Keyed) -> Deed {
    let subject = match request.subject {
        Subject::Account(id) => format!("account {id}"),
        Subject::Key(id) => format!("key {id}"),
        Subject::System(part) => format!("system {part}"),
    };
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
