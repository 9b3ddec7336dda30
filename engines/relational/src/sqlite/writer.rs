use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::keeper::{Signal, Slot};
use super::session::{BEGIN_WRITE, RELEASE, ROLLBACK_TO, SAVEPOINT, Session};
use crate::queue::Queue;
use crate::session::Session as AnySession;
use crate::shared::Shared;
use crate::work::{Fate, Order, Verdict, poll_once};
use crate::{Error, Read, Tx};

/// Has the only connection that writes. Closures that wait together share one commit; each is a savepoint
/// in it, so that one that fails takes nothing of the others along.
pub(crate) struct Writer {
    tx: Tx,
    shared: Arc<Shared>,
    queue: Arc<Queue<Order<Tx>>>,
    signal: Arc<Signal>,
    slot: Arc<Slot>,
    /// The keeper is called when the write-ahead log has this many pages.
    checkpoint_at: u32,
}

/// A closure that ran in the open group.
struct Ran {
    order: Order<Tx>,
    fate: Fate,
    is_kept: bool,
    emitted: i64,
    sent: i64,
    wakes: Vec<Arc<Notify>>,
}

type Group = VecDeque<Order<Tx>>;

/// SQLite's page size, which is never changed.
const PAGE_BYTES: u64 = 4_096;
/// The share of the write-ahead log's limit after which the keeper copies it back.
const CHECKPOINT_SHARE: u64 = 8;
/// How long commits wait, once in a while, for readers to leave the write-ahead log.
const RESTART_WAIT: Duration = Duration::from_millis(20);
const REOPEN_PAUSE_MIN: Duration = Duration::from_millis(50);
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(5);

impl Writer {
    pub(crate) fn new(
        mut session: Session,
        queue: Arc<Queue<Order<Tx>>>,
        signal: Arc<Signal>,
        slot: Arc<Slot>,
    ) -> Self {
        let shared = session.shared().clone();
        session.report_to(&slot);
        let tx = Tx(Read { session: AnySession::Embedded(session) });
        Self { tx, shared, queue, signal, slot, checkpoint_at: 0 }
    }

    pub(crate) fn run(mut self) {
        let closing = Closing(self.queue.clone());
        self.checkpoint_at = self.checkpoint_step();
        while let Some(group) = self.queue.take(self.shared.config.group_max) {
            let mut groups = VecDeque::from([group]);
            loop {
                if self.session().is_suspect() {
                    self.recover(&mut groups);
                }
                let Some(group) = groups.pop_front() else { break };
                self.group(group, &mut groups);
            }
            self.tidy();
        }
        drop(closing);
    }

    fn session(&mut self) -> &mut Session {
        self.tx.session.embedded()
    }

    /// Runs a group and commits it. What could not be part of it comes back to the front of `groups`.
    fn group(&mut self, mut waiting: Group, groups: &mut VecDeque<Group>) {
        waiting.retain(|order| !order.work.is_abandoned());
        if waiting.is_empty() {
            return;
        }
        if let Err(error) = self.session().own(BEGIN_WRITE) {
            refuse(waiting, &error);
            return;
        }
        let began = self.shared.clock.instant();
        let mut ran = Vec::with_capacity(waiting.len());
        while let Some(mut order) = waiting.pop_front() {
            match self.work(&mut order) {
                Ok((fate, is_kept)) => {
                    let session = self.session();
                    let (emitted, sent) =
                        if is_kept { (session.emitted(), session.sent()) } else { (0, 0) };
                    let wakes = if is_kept { session.wakes() } else { Vec::new() };
                    ran.push(Ran { order, fate, is_kept, emitted, sent, wakes });
                }
                Err(fate) => {
                    // SQLite gave up the whole transaction for this one: the earlier ones run again.
                    self.session().rollback();
                    self.shared.meter.transactions_refused.inc();
                    order.answer(fate);
                    groups.push_front(waiting);
                    groups.push_front(ran.into_iter().map(|ran| ran.order).collect());
                    return;
                }
            }
            if self.shared.clock.instant() - began >= self.shared.config.group_time_max {
                break;
            }
        }
        groups.push_front(waiting);
        self.commit(ran, groups);
    }

    /// Runs one closure as a savepoint. `Err` when the transaction around it is gone.
    fn work(&mut self, order: &mut Order<Tx>) -> Result<(Fate, bool), Fate> {
        self.session().own(SAVEPOINT).map_err(Fate::Failed)?;
        self.session().begin(order.place, order.limit);
        self.slot.begin(order.place, order.limit);
        let said = poll_once(&mut *order.work, &mut self.tx, order.place);
        self.slot.end();
        order.count(self.session().statements());
        let failed = self.session().end();
        let (fate, is_kept) = match (said, failed) {
            (Err(error), _) | (Ok(Verdict::Keep), Some(error)) => (Fate::Failed(error), false),
            (Ok(verdict), _) => (Fate::AsItSaid, verdict == Verdict::Keep),
        };
        if !self.session().is_in_transaction() {
            return Err(if is_kept { Fate::Failed(Error::Conflict) } else { fate });
        }
        let session = self.session();
        let undone = if is_kept { Ok(()) } else { session.own(ROLLBACK_TO) };
        undone.and_then(|()| session.own(RELEASE)).map_err(Fate::Failed)?;
        Ok((fate, is_kept))
    }

    /// Makes the group durable and answers it; or answers everyone that nothing of it is kept.
    fn commit(&mut self, ran: Vec<Ran>, groups: &mut VecDeque<Group>) {
        let started = self.shared.clock.instant();
        if let Err(uncommitted) = self.session().commit() {
            self.session().rollback();
            if uncommitted.is_of_one && ran.len() > 1 {
                for ran in ran.into_iter().rev() {
                    groups.push_front(Group::from([ran.order]));
                }
                return;
            }
            let error = uncommitted.error;
            tracing::error!(error = ?error, writes = ran.len(), "a commit failed");
            refuse(ran.into_iter().map(|ran| ran.order), &error);
            return;
        }
        let took = self.shared.clock.instant() - started;
        let kept = ran.iter().filter(|ran| ran.is_kept).count();
        let meter = &self.shared.meter;
        meter.transactions.inc_by(kept as u64);
        meter.transactions_refused.inc_by((ran.len() - kept) as u64);
        if kept > 0 {
            meter.commits.inc();
            meter.group_size.observe(kept as f64);
            meter.commit_seconds.observe(took.as_secs_f64());
        }
        self.shared.outbox_changed(ran.iter().map(|ran| ran.emitted).sum());
        self.shared.commands_changed(ran.iter().map(|ran| ran.sent).sum());
        ran.iter().flat_map(|ran| &ran.wakes).for_each(|waiting| waiting.notify_one());
        for ran in ran {
            ran.order.answer(ran.fate);
        }
    }

    /// After a fault of the machine: acknowledges nothing until the database was opened again and looked
    /// over. Whoever waits meanwhile is told.
    fn recover(&mut self, groups: &mut VecDeque<Group>) {
        let mut pause = REOPEN_PAUSE_MIN;
        loop {
            match self.session().reopen() {
                Ok(()) => {
                    self.shared.meter.reopenings.inc();
                    tracing::warn!("the database was opened again after a fault, and is whole");
                    return;
                }
                Err(error) => {
                    tracing::error!(error = ?error, "the database cannot be opened again yet");
                }
            }
            for group in groups.drain(..) {
                refuse(group, &Error::Recovering);
            }
            let until = self.shared.clock.instant() + pause;
            let refuse = |order: Order<Tx>| order.answer(Fate::Failed(Error::Recovering));
            if !self.queue.drain(&self.shared.clock, until, refuse) {
                return;
            }
            pause = (pause * 2).min(REOPEN_PAUSE_MAX);
        }
    }

    /// Keeps the write-ahead log short without making commits wait for its copying.
    fn tidy(&mut self) {
        let pages = self.session().wal_pages();
        let step = self.checkpoint_step();
        if pages.saturating_add(2 * step) < self.checkpoint_at {
            self.checkpoint_at = step;
        }
        if self.signal.take_restart() {
            match self.session().restart_wal(RESTART_WAIT) {
                Ok(true) => self.checkpoint_at = step,
                Ok(false) => {
                    if u64::from(pages) * PAGE_BYTES > self.shared.config.wal_bytes_max {
                        let bytes = u64::from(pages) * PAGE_BYTES;
                        tracing::warn!(bytes, "a long read keeps the write-ahead log growing");
                    }
                }
                Err(error) => tracing::error!(error = ?error, "the write-ahead log stays"),
            }
        } else if pages >= self.checkpoint_at {
            self.checkpoint_at = pages + step;
            self.signal.checkpoint();
        }
    }

    fn checkpoint_step(&self) -> u32 {
        let pages = self.shared.config.wal_bytes_max / PAGE_BYTES / CHECKPOINT_SHARE;
        u32::try_from(pages).unwrap_or(u32::MAX / 4).max(1)
    }
}

fn refuse(orders: impl IntoIterator<Item = Order<Tx>>, error: &Error) {
    for order in orders {
        order.answer(Fate::Failed(error.clone()));
    }
}

/// Lets nobody wait for a writer that ended, even by a defect.
struct Closing(Arc<Queue<Order<Tx>>>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
