use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::session::{Ended, Session};
pub(crate) use crate::sqlite::Slot;
use crate::work::Verdict;
use crate::{Error, command, outbox};

/// Knows how many events and commands wait, whoever sent them, and names closures that do not come to an end.
pub(crate) struct Keeper {
    session: Session,
    signal: Arc<Signal>,
}

/// How the threads talk to the keeper.
pub(crate) struct Signal {
    is_closed: Mutex<bool>,
    closed: Condvar,
    slots: Vec<Arc<Slot>>,
}

/// Other servers send too, so relay and runner are called this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Signal {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            is_closed: Mutex::new(false),
            closed: Condvar::new(),
            slots: (0..slots).map(|_| Arc::default()).collect(),
        }
    }

    pub(crate) fn slot(&self, number: usize) -> Arc<Slot> {
        self.slots[number].clone()
    }

    pub(crate) fn close(&self) {
        *self.is_closed.lock() = true;
        self.closed.notify_all();
    }

    fn wait(&self) -> bool {
        let mut is_closed = self.is_closed.lock();
        if !*is_closed {
            self.closed.wait_for(&mut is_closed, LOOK_EVERY);
        }
        !*is_closed
    }
}

impl Keeper {
    pub(crate) fn new(session: Session, signal: Arc<Signal>) -> Self {
        Self { session, signal }
    }

    pub(crate) fn run(mut self) {
        let shared = self.session.shared().clone();
        let mut is_told = false;
        while self.signal.wait() {
            let now = shared.clock.instant();
            for slot in &self.signal.slots {
                slot.look(now);
            }
            match self.waiting() {
                Ok((events, commands)) => {
                    is_told = false;
                    shared.outbox_is(events);
                    shared.commands_are(commands);
                }
                Err(error) if !is_told => {
                    is_told = true;
                    tracing::warn!(%error, "the database does not say what waits");
                }
                Err(_) => {}
            }
        }
    }

    /// How many events and commands. Events leave the outbox about in the order that they came, so its span
    /// says how many there are without counting them.
    fn waiting(&mut self) -> Result<(i64, i64), Error> {
        let shared = self.session.shared().clone();
        let limit = shared.config.read_time_max;
        let place = std::panic::Location::caller();
        let begun = self.session.begin(place, limit, shared.clock.instant() + limit);
        match begun {
            Ok(()) | Err(Ended::AsItSaid) => {}
            Err(Ended::Again(error) | Ended::Failed(error)) => return Err(error),
        }
        let span = self.session.look(outbox::SPAN);
        let count = self.session.look(command::COUNT);
        match self.session.end(Ok(Verdict::Keep)) {
            Ended::AsItSaid => {}
            Ended::Again(error) | Ended::Failed(error) => return Err(error),
        }
        let commands = match count? {
            Some(row) => row.get("length")?,
            None => 0,
        };
        Ok((outbox::span(span?.as_ref())?, commands))
    }
}
