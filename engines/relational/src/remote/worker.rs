use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::session::{Ended, Session};
use crate::queue::Queue;
use crate::shared::Shared;
use crate::sqlite::Slot;
use crate::work::{Fate, Order, Place, Verdict, poll_once};
use crate::{Error, Read, Tx};

/// One thread with its connection.
pub(crate) struct Worker<On> {
    on: On,
    shared: Arc<Shared>,
    queue: Arc<Queue<Order<On>>>,
    slot: Arc<Slot>,
    turns: Arc<Turns>,
}

/// Transactions that run side by side share it; one that lost again and again has it alone, so that of many
/// that want the same rows each comes to its turn.
#[derive(Default)]
pub(crate) struct Turns {
    running: RwLock<()>,
}

/// What a thread lends to a closure.
pub(crate) trait On {
    fn session(&mut self) -> &mut Session;
    /// Counts one that ended.
    fn count(shared: &Shared, kept: Option<&Session>);
}

/// Losses after which a closure runs alone.
const LOSSES_MAX: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(200);

impl On for Tx {
    fn session(&mut self) -> &mut Session {
        self.session.remote()
    }

    fn count(shared: &Shared, kept: Option<&Session>) {
        if let Some(session) = kept {
            shared.meter.transactions.inc();
            shared.meter.commits.inc();
            shared.meter.group_size.observe(1.0);
            shared.outbox_changed(session.emitted());
            shared.commands_changed(session.sent());
            session.wakes().iter().for_each(|waiting| waiting.notify_one());
        } else {
            shared.meter.transactions_refused.inc();
        }
    }
}

impl On for Read {
    fn session(&mut self) -> &mut Session {
        self.session.remote()
    }

    fn count(shared: &Shared, _: Option<&Session>) {
        shared.meter.reads.inc();
    }
}

impl<O: On> Worker<O> {
    pub(crate) fn new(
        mut on: O,
        queue: Arc<Queue<Order<O>>>,
        slot: Arc<Slot>,
        turns: Arc<Turns>,
    ) -> Self {
        let shared = on.session().shared().clone();
        Self { on, shared, queue, slot, turns }
    }

    pub(crate) fn run(mut self) {
        while let Some(orders) = self.queue.take(1) {
            for mut order in orders {
                if order.work.is_abandoned() {
                    continue;
                }
                self.slot.begin(order.place, order.limit);
                let fate = self.work(&mut order);
                self.slot.end();
                order.answer(fate);
            }
        }
    }

    /// Runs the closure until it is committed, refused or out of time.
    fn work(&mut self, order: &mut Order<O>) -> Fate {
        let until = self.shared.clock.instant() + order.limit;
        let turns = self.turns.clone();
        let (mut losses, mut cuts) = (0, 0);
        loop {
            let (_shared, _alone);
            if losses < LOSSES_MAX {
                _shared = turns.running.read();
            } else {
                _alone = turns.running.write();
            }
            let (ended, is_kept) = self.attempt(order, until);
            let error = match ended {
                Ended::AsItSaid => {
                    let session = self.on.session();
                    O::count(&self.shared, is_kept.then_some(&*session));
                    return Fate::AsItSaid;
                }
                Ended::Failed(error) => {
                    O::count(&self.shared, None);
                    return Fate::Failed(error);
                }
                Ended::Again(error) => error,
            };
            if matches!(error, Error::Conflict) {
                losses += 1;
            } else {
                cuts += 1;
            }
            let pause = (PAUSE_MIN * 2_u32.saturating_pow(cuts)).min(PAUSE_MAX);
            if self.shared.clock.instant() + pause >= until {
                O::count(&self.shared, None);
                return Fate::Failed(error);
            }
            self.shared.meter.transactions_again.inc();
            if cuts > 0 {
                wait(pause);
            }
        }
    }

    fn attempt(&mut self, order: &mut Order<O>, until: std::time::Instant) -> (Ended, bool) {
        let (place, limit): (Place, Duration) = (order.place, order.limit);
        if let Err(ended) = self.on.session().begin(place, limit, until) {
            return (ended, false);
        }
        let said = poll_once(&mut *order.work, &mut self.on, place);
        order.count(self.on.session().statements());
        let is_kept = matches!(said, Ok(Verdict::Keep));
        (self.on.session().end(said), is_kept)
    }
}

/// Waits on a thread that has nothing else to do.
fn wait(pause: Duration) {
    Condvar::new().wait_for(&mut Mutex::new(()).lock(), pause);
}
