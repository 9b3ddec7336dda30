//! Messages out: e-mail by SMTP, signed webhooks and Slack, written in the caller's transaction, sent at least once,
//! told apart by one id for all repeats.
//!
//! It is no mailing list, composes no HTML, receives nothing and judges no bounces: a server that takes a message has it.
//! Start at [`Delivery::enqueue`]; how attempts, leases and crashes go together is told in `worker.rs`, how one endpoint
//! holds back nobody else in `lanes.rs`, and whom Madang may connect to at all in [`egress`].
//!
//! Without `[delivery.smtp] url` mails are held and listed. Held ones stay held when a server comes, until
//! [`Delivery::release`]. Egress refuses addresses that are not public unless `[egress] allow` lists them.

mod address;
mod at_once;
mod config;
pub mod egress;
mod endpoint;
mod endpoints;
mod enqueue;
mod error;
mod keys;
mod lanes;
mod mail;
mod message;
mod messages;
mod pace;
mod persons;
mod post;
mod schedule;
mod signature;
mod smtp;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::access::Action;
use base::{Base, Clock, Entropy, OrganisationId, Seal, Tasks};
use lettre::message::Mailbox;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use relational::{Db, Tx};
use tokio::sync::{Notify, Semaphore};

pub use address::{AddressError, EmailAddress};
pub use config::{Config, Endpoints, Smtp, SmtpUrl, SmtpUrlError};
pub use egress::Egress;
pub use endpoint::{
    Endpoint, EndpointChange, EndpointId, EndpointState, NewEndpoint, NewlyMade, OutgoingEvent,
    Receiver, SecretInfo, Tested,
};
pub use error::Error;
pub use message::{
    Attempt, AttemptOutcome, Channel, Counts, Enqueued, Message, MessageFilter, MessageId,
    Outgoing, OutgoingMail, OutgoingMessage, State,
};
pub use signature::{NotASecret, Secret};

use lanes::{Board, Lane};

/// Listing an organisation's messages and endpoints.
pub const READ: Action = Action("delivery.read");
/// Releasing, retrying and discarding messages; making and changing endpoints.
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
    client: egress::Client,
    seal: Arc<Seal>,
    board: Arc<Mutex<Board>>,
    tests: Arc<Semaphore>,
    wake: Arc<Notify>,
    /// Unsent messages by organisation and lane, near enough for a limit: a transaction that is rolled back stays
    /// counted until the next round.
    backlog: Mutex<HashMap<(OrganisationId, Lane), u64>>,
}

struct Meters {
    sent: Counter,
    failed: Counter,
    retried: Counter,
    unknown: Counter,
    endpoints_read: Counter,
    held: Gauge,
    waiting: Gauge,
    seconds: Histogram,
}

impl Delivery {
    /// Checks the configuration, makes the tables and starts the worker.
    pub async fn open(config: Config, egress: Egress, base: &Base, db: Db) -> Result<Self, Error> {
        egress.check()?;
        let client = egress::Client::open(egress).await?;
        Self::open_with(config, client, base, db).await
    }

    async fn open_with(
        config: Config,
        client: egress::Client,
        base: &Base,
        db: Db,
    ) -> Result<Self, Error> {
        let delivery = Self::new(config, client, base, db).await?;
        let inner = delivery.0.clone();
        base.tasks.supervise("delivery", move || worker::run(inner.clone()));
        Ok(delivery)
    }

    /// Everything but the worker.
    async fn new(
        config: Config,
        client: egress::Client,
        base: &Base,
        db: Db,
    ) -> Result<Self, Error> {
        config.check()?;
        let from = config.sender()?;
        let relay = match &config.smtp.url {
            None => None,
            Some(url) => {
                let authorities = authorities(&config.smtp).await?;
                let ends = (url.clone(), from.clone());
                let ways = (client.egress().clone(), base.clock.clone());
                Some(smtp::Relay::new(&config.smtp, ends, ways, authorities.as_deref())?)
            }
        };
        db.migrate(store::ROOM, store::MIGRATIONS).await?;
        let seal = sealing(&config, base, &db).await?;
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
            client,
            seal,
            board: Arc::new(Mutex::new(Board::new(&config))),
            tests: Arc::new(Semaphore::new(config.endpoints.tests_max)),
            wake: Arc::new(Notify::new()),
            backlog: Mutex::new(HashMap::new()),
            config,
        };
        worker::count(&inner).await?;
        Ok(Self(Arc::new(inner)))
    }

    /// The one HTTP client for whatever leaves the house.
    pub fn client(&self) -> &egress::Client {
        &self.0.client
    }

    /// Writes a message in the caller's transaction: it is sent when that is committed, and never when it is not.
    /// What is addressed to an endpoint goes there whatever event types it names.
    pub async fn enqueue(
        &self,
        tx: &mut Tx,
        message: impl Into<OutgoingMessage>,
    ) -> Result<Enqueued, Error> {
        match message.into() {
            OutgoingMessage::Mail(mail) => self.enqueue_mail(tx, mail).await,
            OutgoingMessage::Event(event) => {
                let (organisation, id) = (event.organisation, event.endpoint);
                let addressee = store::endpoints::addressee(tx, organisation, id).await?;
                let addressee = addressee.ok_or(Error::NoEndpoint(id))?;
                self.enqueue_event(tx, &addressee, &event).await
            }
        }
    }

    /// Writes an event for every endpoint of its organisation that names its type, in the caller's transaction;
    /// [`OutgoingEvent::endpoint`] is not looked at.
    pub async fn publish(
        &self,
        tx: &mut Tx,
        event: &OutgoingEvent,
    ) -> Result<Vec<Enqueued>, Error> {
        let mut enqueued = Vec::new();
        for addressee in store::endpoints::addressees(tx, event.organisation).await? {
            if addressee.event_types.contains(&event.event_type) {
                let event = OutgoingEvent {
                    endpoint: addressee.id,
                    idempotency_key: format!("{}/{}", event.idempotency_key, addressee.id),
                    ..event.clone()
                };
                enqueued.push(self.enqueue_event(tx, &addressee, &event).await?);
            }
        }
        Ok(enqueued)
    }
}

impl Inner {
    /// How long an attempt has its mail for itself.
    fn mail_lease(&self) -> Duration {
        self.config.smtp.send_time_max.saturating_add(self.config.lease_margin)
    }

    /// How long an attempt at an endpoint has its message for itself.
    fn post_lease(&self) -> Duration {
        self.client.egress().request_time_max.saturating_add(self.config.lease_margin)
    }

    fn left_the_queue(&self, organisation: OrganisationId, lane: Lane) {
        if let Some(unsent) = self.backlog.lock().get_mut(&(organisation, lane)) {
            *unsent = unsent.saturating_sub(1);
        }
    }

    fn reading(&self) -> post::Reading {
        post::Reading {
            answer_chars_max: self.config.answer_chars_max,
            retry_after_max: self.config.endpoints.retry_after_max,
        }
    }

    fn patience(&self) -> store::endpoints::Patience {
        let limits = &self.config.endpoints;
        let back_off_min = self.config.back_off_min.min(limits.rest_max);
        store::endpoints::Patience {
            failures_max: limits.failures_max,
            rest: (back_off_min, limits.rest_max),
            pause_after: Duration::from_secs(u64::from(limits.pause_after_days) * 24 * 60 * 60),
            chance: self.entropy.number(),
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
            unknown: counter(
                "delivery_unknown",
                "Attempts whose end nobody wrote: the receiver may have got a message twice.",
            ),
            endpoints_read: counter(
                "delivery_endpoints_read",
                "Endpoints that were looked at for messages that are due.",
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

/// The seal, once all that its keys open is sealed under the newest.
async fn sealing(config: &Config, base: &Base, db: &Db) -> Result<Arc<Seal>, Error> {
    let (path, now) = (&config.key_file, base.clock.now());
    let seal = Seal::open(path, keys::WHAT, base);
    let seal = seal.map_err(|error| {
        Error::Config(format!("delivery.key_file: {}: {error}", path.display()))
    })?;
    let seal = Arc::new(seal);
    let (known, is_lost) = (seal.clone(), config.key_lost);
    db.write(async move |tx| store::sealed::agree(tx, &known, is_lost, now).await).await?;
    loop {
        let known = seal.clone();
        let renew = async move |tx: &mut Tx| {
            let is_more = store::sealed::seal_some(tx, &known).await?;
            if !is_more {
                store::sealed::forget_older(tx, &known).await?;
            }
            Ok::<_, Error>(is_more)
        };
        if !db.write(renew).await? {
            return Ok(seal);
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
