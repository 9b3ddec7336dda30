//! Rows in maps: each call is late, whole or not at all, and in the order of the calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base::access::Principal;
use base::{Base, OrganisationId, Timestamp};
use parking_lot::Mutex;
use testkit::sim::Sim;
use tokio::sync::Semaphore;

use crate::outbox::Delivery;
use crate::packet::Options;
use crate::store::{Begun, Kept, Queued, RetainedChange, Store};
use crate::{Error, Message};

#[derive(Default)]
pub(super) struct Tables {
    sessions: BTreeMap<u64, Session>,
    subscriptions: BTreeMap<(u64, Arc<str>), Options>,
    queue: BTreeMap<(u64, u64), Queued>,
    retained: BTreeMap<(OrganisationId, Arc<str>), Message>,
    /// The process that wrote here is gone.
    is_dead: bool,
}

struct Session {
    client: Arc<str>,
    principal: Principal,
    expiry: u32,
    disconnected: Option<Timestamp>,
}

/// The rows as one life of the broker sees them.
pub(super) struct Memory {
    sim: Sim,
    base: Base,
    tables: Arc<Mutex<Tables>>,
    turn: Arc<Semaphore>,
    is_calm: Arc<AtomicBool>,
}

impl Tables {
    /// What a start does: deliveries of sessions that are gone go as well.
    pub(super) fn begin_life(&mut self) {
        self.is_dead = false;
        let Self { sessions, subscriptions, queue, .. } = self;
        queue.retain(|(session, _), _| sessions.contains_key(session));
        subscriptions.retain(|(session, _), _| sessions.contains_key(session));
    }

    pub(super) fn end_life(&mut self) {
        self.is_dead = true;
    }
}

impl Memory {
    pub(super) fn new(
        sim: &Sim,
        base: &Base,
        tables: &Arc<Mutex<Tables>>,
        is_calm: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            sim: sim.clone(),
            base: base.clone(),
            tables: tables.clone(),
            turn: Arc::new(Semaphore::new(1)),
            is_calm: is_calm.clone(),
        }
    }

    /// It goes on when the caller waits no more, as a transaction does.
    async fn commit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sim, clock, tables) = (self.sim.clone(), self.base.clock.clone(), self.tables.clone());
        let (turn, is_calm) = (self.turn.clone(), self.is_calm.clone());
        let late = |sim: &Sim| Duration::from_millis(sim.below(12));
        let job = async move {
            let held = turn.acquire_owned().await.ok()?;
            clock.sleep(late(&sim)).await;
            let fails = if is_calm.load(Ordering::Relaxed) { 0 } else { 80 };
            if tables.lock().is_dead || sim.strikes("commit failed", fails) {
                return None;
            }
            let done = work(&mut tables.lock());
            drop(held);
            clock.sleep(late(&sim)).await;
            Some(done)
        };
        let done = self.base.tasks.spawn("rows", job).await;
        done.ok().flatten().flatten().ok_or(Error::Unavailable)
    }
}

#[async_trait]
impl Store for Memory {
    async fn last_number(&self) -> Result<u64, Error> {
        let tables = self.tables.lock();
        let sessions = tables.sessions.keys().copied();
        Ok(sessions.chain(tables.queue.keys().map(|(_, number)| *number)).max().unwrap_or(0))
    }

    async fn sessions(&self, after: u64) -> Result<Vec<Kept>, Error> {
        let tables = self.tables.lock();
        let kept = tables.sessions.range(after + 1..).map(|(number, session)| {
            let queued = tables.queue.range((*number, 0)..=(*number, u64::MAX));
            let filters = tables.subscriptions.iter().filter(|((of, _), _)| of == number);
            Kept {
                number: *number,
                client: session.client.clone(),
                principal: Some(session.principal.clone()),
                expiry: session.expiry,
                disconnected: session.disconnected,
                queued: queued.clone().count(),
                queued_bytes: queued.map(|(_, it)| it.message.cost()).sum(),
                subscriptions: filters.map(|((_, filter), it)| (filter.clone(), *it)).collect(),
            }
        });
        Ok(kept.collect())
    }

    async fn retained(
        &self,
        after: Option<(OrganisationId, Arc<str>)>,
    ) -> Result<Vec<(OrganisationId, Message)>, Error> {
        if after.is_some() {
            return Ok(Vec::new());
        }
        let tables = self.tables.lock();
        Ok(tables.retained.iter().map(|((of, _), message)| (*of, message.clone())).collect())
    }

    async fn begin(&self, session: Begun) -> Result<(), Error> {
        self.commit(move |tables| {
            let Begun { number, client, principal, expiry } = session;
            let row = Session { client, principal, expiry, disconnected: None };
            tables.sessions.insert(number, row);
        })
        .await
    }

    async fn resume(&self, session: Begun) -> Result<Vec<Delivery>, Error> {
        self.commit(move |tables| {
            if let Some(row) = tables.sessions.get_mut(&session.number) {
                row.principal = session.principal;
                (row.expiry, row.disconnected) = (session.expiry, None);
            }
            let rows = tables.queue.range((session.number, 0)..=(session.number, u64::MAX));
            rows.map(|(_, queued)| delivery(queued)).collect()
        })
        .await
    }

    async fn disconnected(&self, number: u64, expiry: u32, at: Timestamp) -> Result<(), Error> {
        self.commit(move |tables| {
            if let Some(row) = tables.sessions.get_mut(&number) {
                (row.expiry, row.disconnected) = (expiry, Some(at));
            }
        })
        .await
    }

    async fn end(&self, number: u64) -> Result<(), Error> {
        self.commit(move |tables| {
            tables.sessions.remove(&number);
            tables.queue.retain(|(of, _), _| *of != number);
            tables.subscriptions.retain(|(of, _), _| *of != number);
        })
        .await
    }

    async fn subscribe(
        &self,
        _: OrganisationId,
        number: u64,
        added: Vec<(Arc<str>, Options)>,
    ) -> Result<(), Error> {
        self.commit(move |tables| {
            let added = added.into_iter().map(|(filter, options)| ((number, filter), options));
            tables.subscriptions.extend(added);
        })
        .await
    }

    async fn unsubscribe(&self, number: u64, removed: Vec<Arc<str>>) -> Result<(), Error> {
        self.commit(move |tables| {
            for filter in removed {
                tables.subscriptions.remove(&(number, filter));
            }
        })
        .await
    }

    async fn keep(
        &self,
        organisation: OrganisationId,
        queued: Vec<Queued>,
        retained: Vec<RetainedChange>,
    ) -> Result<(), Error> {
        self.commit(move |tables| {
            for queued in queued {
                tables.queue.insert((queued.session, queued.sequence), queued);
            }
            for change in retained {
                let current = change.retained.lock().get(&change.topic).cloned();
                let key = (organisation, change.topic);
                match current {
                    Some(message) => tables.retained.insert(key, Message::clone(&message)),
                    None => tables.retained.remove(&key),
                };
            }
        })
        .await
    }

    async fn forget(&self, number: u64, sequences: Vec<u64>) -> Result<(), Error> {
        self.commit(move |tables| {
            for sequence in sequences {
                tables.queue.remove(&(number, sequence));
            }
        })
        .await
    }
}

/// As it would be read back from a stored packet.
fn delivery(queued: &Queued) -> Delivery {
    let message = Message {
        qos: queued.qos,
        retain: queued.retain,
        client: "".into(),
        ..Message::clone(&queued.message)
    };
    Delivery {
        message: Arc::new(message),
        qos: queued.qos,
        retain: queued.retain,
        dup: false,
        identifiers: queued.identifiers.clone(),
        sequence: queued.sequence,
        is_durable: true,
    }
}
