//! Messages out: e-mail by SMTP, written in the caller's transaction, sent at least once, told apart by one
//! `Message-ID` for all repeats.
//!
//! It is no mailing list, composes no HTML, receives no mail and judges no bounces: a server that takes a message has it.
//! Start at [`Delivery::enqueue`]; how attempts, leases and crashes go together is told in `worker.rs`, and whom Madang may
//! connect to at all in [`egress`].
//!
//! Without `[delivery.smtp] url` messages are held and listed. Held ones stay held when a server comes, until
//! [`Delivery::release`]. Egress refuses addresses that are not public unless `[egress] allow` lists them.

mod address;
mod config;
pub mod egress;
mod error;
mod mail;
mod message;
mod smtp;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::access::Action;
use base::{Base, Clock, Entropy, OrganisationId, Page, PageRequest, Tasks};
use lettre::message::Mailbox;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use relational::{Db, Tx};
use tokio::sync::{Notify, Semaphore};

pub use address::{AddressError, EmailAddress};
pub use config::{Config, Smtp, SmtpUrl, SmtpUrlError};
pub use egress::Egress;
pub use error::Error;
pub use message::{Channel, Counts, Enqueued, Message, MessageId, Outgoing, OutgoingMail, State};

/// Listing an organisation's messages.
pub const READ: Action = Action("delivery.read");
/// Releasing held messages and retrying failed ones.
pub const WRITE: Action = Action("delivery.write");

/// Sends messages of every organisation; cloning shares it.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    config: Config,
    db: Db,
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    meters: Meters,
    sender: Mailbox,
    /// Of the sender; the part of a `Message-ID` after the @.
    domain: String,
    relay: Option<smtp::Relay>,
    slots: Arc<Semaphore>,
    wake: Notify,
    /// Unsent messages by organisation, near enough for a limit: a transaction that is rolled back stays counted
    /// until the next round.
    backlog: Mutex<HashMap<OrganisationId, u64>>,
}

struct Meters {
    sent: Counter,
    failed: Counter,
    retried: Counter,
    held: Gauge,
    waiting: Gauge,
    seconds: Histogram,
}

impl Delivery {
    /// Checks the configuration, makes the tables and starts the worker.
    pub async fn open(config: Config, egress: Egress, base: &Base, db: Db) -> Result<Self, Error> {
        let delivery = Self::new(config, egress, base, db).await?;
        let inner = delivery.0.clone();
        base.tasks.supervise("delivery", move || worker::run(inner.clone()));
        Ok(delivery)
    }

    /// Everything but the worker.
    async fn new(config: Config, egress: Egress, base: &Base, db: Db) -> Result<Self, Error> {
        config.check()?;
        let from = config.sender()?;
        let relay = match &config.smtp.url {
            None => None,
            Some(url) => {
                let authorities = authorities(&config.smtp).await?;
                let ends = (url.clone(), from.clone());
                let ways = (egress, base.clock.clone());
                Some(smtp::Relay::new(&config.smtp, ends, ways, authorities.as_deref())?)
            }
        };
        db.migrate(store::ROOM, store::MIGRATIONS).await?;
        let name = Some(config.smtp.from_name.clone()).filter(|name| !name.is_empty());
        let inner = Inner {
            db,
            clock: base.clock.clone(),
            entropy: base.entropy.clone(),
            tasks: base.tasks.clone(),
            meters: Meters::new(base),
            sender: Mailbox::new(name, from.inner().clone()),
            domain: from.domain().to_owned(),
            relay,
            slots: Arc::new(Semaphore::new(config.smtp.in_flight_max)),
            wake: Notify::new(),
            backlog: Mutex::new(HashMap::new()),
            config,
        };
        worker::count(&inner).await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Writes a mail in the caller's transaction: it is sent when that is committed, and never when it is not.
    pub async fn enqueue(&self, tx: &mut Tx, mail: OutgoingMail) -> Result<Enqueued, Error> {
        let inner = &self.0;
        let (organisation, key) = (mail.organisation, mail.idempotency_key);
        let limits = [
            ("subject", mail.subject.len(), inner.config.subject_bytes_max),
            ("body", mail.body_text.len(), inner.config.body_bytes_max),
            ("idempotency key", key.len(), IDEMPOTENCY_KEY_BYTES_MAX),
        ];
        if let Some((what, _, bytes_max)) = limits.into_iter().find(|(_, bytes, max)| bytes > max) {
            return Err(Error::TooLong { what, bytes_max });
        }
        if let Some(id) = store::with_key(tx, organisation, &key).await? {
            return Ok(Enqueued::Repeated(id));
        }
        let unsent_max = inner.config.unsent_max;
        if inner.backlog.lock().get(&organisation).is_some_and(|unsent| *unsent >= unsent_max) {
            return Err(Error::TooManyUnsent { unsent_max });
        }
        let now = inner.clock.now();
        let id = MessageId::new(now, &inner.entropy);
        let state = if inner.relay.is_some() { State::Waiting } else { State::Held };
        let new = store::New {
            id,
            organisation,
            to: mail.to,
            subject: mail::one_line(&mail.subject),
            body: mail.body_text,
            message_id: mail::message_id(organisation, &key, &inner.domain),
            idempotency_key: key,
            state,
            attempts_max: inner.config.attempts_max,
            now,
        };
        store::insert(tx, &new).await?;
        *inner.backlog.lock().entry(organisation).or_default() += 1;
        inner.wake.notify_one();
        Ok(if state == State::Waiting { Enqueued::Waiting(id) } else { Enqueued::Held(id) })
    }

    /// The organisation's messages, newest first.
    pub async fn messages(
        &self,
        organisation: OrganisationId,
        page: PageRequest,
    ) -> Result<Page<Message>, Error> {
        self.list(organisation, None, page).await
    }

    /// Its messages in one state, newest first; those that failed are the dead letters.
    pub async fn messages_in(
        &self,
        organisation: OrganisationId,
        state: State,
        page: PageRequest,
    ) -> Result<Page<Message>, Error> {
        self.list(organisation, Some(state), page).await
    }

    async fn list(
        &self,
        organisation: OrganisationId,
        state: Option<State>,
        page: PageRequest,
    ) -> Result<Page<Message>, Error> {
        let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX);
        let read = async move |read: &mut relational::Read| {
            store::page(read, organisation, state, &page).await
        };
        let messages = self.0.db.read(read).await?;
        Ok(Page::of(messages, limit, |message| message.id.to_string()))
    }

    pub async fn message(
        &self,
        organisation: OrganisationId,
        id: MessageId,
    ) -> Result<Message, Error> {
        self.0.db.read(async move |read| store::one(read, organisation, id).await).await
    }

    pub async fn counts(&self, organisation: OrganisationId) -> Result<Counts, Error> {
        self.0.db.read(async move |read| store::counts(read, organisation).await).await
    }

    /// Lets a held message go out. Its `Message-ID` becomes one of the sender's domain of now.
    pub async fn release(&self, organisation: OrganisationId, id: MessageId) -> Result<(), Error> {
        self.let_go(organisation, id, Deed::Release).await
    }

    /// Gives a failed message a whole new set of attempts, under its old `Message-ID`.
    pub async fn retry(&self, organisation: OrganisationId, id: MessageId) -> Result<(), Error> {
        self.let_go(organisation, id, Deed::Retry).await
    }

    async fn let_go(
        &self,
        organisation: OrganisationId,
        id: MessageId,
        deed: Deed,
    ) -> Result<(), Error> {
        if self.0.relay.is_none() {
            return Err(Error::NoServer);
        }
        let inner = self.0.clone();
        let work = async move |tx: &mut Tx| {
            let standing = store::standing(tx, organisation, id).await?;
            let (wanted, name) = match deed {
                Deed::Release => (State::Held, "released"),
                Deed::Retry => (State::Failed, "retried"),
            };
            if standing.state != wanted {
                return Err(Error::WrongState { id, state: standing.state, wanted, deed: name });
            }
            let key = &standing.idempotency_key;
            let message_id =
                (deed == Deed::Release).then(|| mail::message_id(organisation, key, &inner.domain));
            // The count goes on, since it names attempts; only its end moves.
            let attempts_max = standing.attempts.saturating_add(inner.config.attempts_max);
            let times = (attempts_max, inner.clock.now());
            store::set_waiting(tx, id, times, message_id.as_deref()).await
        };
        self.0.db.write(work).await?;
        worker::count(&self.0).await?;
        self.0.wake.notify_one();
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Release,
    Retry,
}

/// Bytes of an [`OutgoingMail::idempotency_key`].
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 200;

impl Inner {
    /// How long an attempt has its message for itself.
    fn lease(&self) -> Duration {
        self.config.smtp.send_time_max.saturating_add(self.config.lease_margin)
    }

    fn left_the_queue(&self, organisation: OrganisationId) {
        if let Some(unsent) = self.backlog.lock().get_mut(&organisation) {
            *unsent = unsent.saturating_sub(1);
        }
    }
}

impl Meters {
    fn new(base: &Base) -> Self {
        let metrics = &base.metrics;
        let counter = |name, help| metrics.register(name, help, Counter::default());
        let gauge = |name, help| metrics.register(name, help, Gauge::default());
        let seconds = Histogram::new(exponential_buckets(0.005, 2.0, 20));
        Self {
            sent: counter("delivery_sent", "Messages that the server took."),
            failed: counter("delivery_failed", "Messages given up."),
            retried: counter(
                "delivery_retried",
                "Attempts that failed and are followed by another.",
            ),
            held: gauge("delivery_held", "Messages held, by the last count."),
            waiting: gauge(
                "delivery_waiting",
                "Messages waiting or being sent, by the last count.",
            ),
            seconds: metrics.register(
                "delivery_seconds",
                "Seconds from enqueueing a message until the server took it.",
                seconds,
            ),
        }
    }
}

async fn authorities(smtp: &Smtp) -> Result<Option<Vec<u8>>, Error> {
    let Some(path) = &smtp.certificate_authorities else { return Ok(None) };
    let read = tokio::fs::read(path).await;
    read.map(Some).map_err(|error| {
        let path = path.display();
        Error::Config(format!("delivery.smtp.certificate_authorities: read {path}: {error}"))
    })
}
