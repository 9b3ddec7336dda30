use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use parking_lot::{Condvar, Mutex};

use super::session::{Ended, Session};
use crate::engine::Ends;
use crate::work::Verdict;
use crate::{Error, command, outbox};

/// Knows how many events wait and whether a command is due, whoever sent them.
pub(crate) struct Keeper {
    session: Session,
    signal: Arc<Signal>,
}

/// How the threads are told to end.
#[derive(Default)]
pub(crate) struct Signal {
    is_closed: Mutex<bool>,
    closed: Condvar,
}

/// Other servers send too, so relay and runner are called this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Signal {
    fn wait(&self) -> bool {
        let mut is_closed = self.is_closed.lock();
        if !*is_closed {
            self.closed.wait_for(&mut is_closed, LOOK_EVERY);
        }
        !*is_closed
    }
}

impl Ends for Signal {
    fn end(&self) {
        *self.is_closed.lock() = true;
        self.closed.notify_all();
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
            match self.waiting() {
                Ok((events, due)) => {
                    is_told = false;
                    shared.outbox_is(events);
                    if due.is_some_and(|due| due <= shared.clock.now()) {
                        shared.commands.sent.notify_one();
                    }
                }
                Err(error) if !is_told => {
                    is_told = true;
                    tracing::warn!(%error, "the database does not say what waits");
                }
                Err(_) => {}
            }
        }
    }

    /// How many events, and when the next command is due. Events leave the outbox about in the order that they came, so its span
    /// says how many there are without counting them.
    fn waiting(&mut self) -> Result<(i64, Option<Timestamp>), Error> {
        let shared = self.session.shared().clone();
        let limit = shared.config.read_time_max;
        let place = std::panic::Location::caller();
        let begun = self.session.begin(place, limit, shared.clock.instant() + limit);
        match begun {
            Ok(()) | Err(Ended::AsItSaid) => {}
            Err(Ended::Again(error) | Ended::Failed(error)) => return Err(error),
        }
        let span = self.session.look(outbox::SPAN);
        let due = self.session.look(command::NEXT_DUE);
        match self.session.end(Ok(Verdict::Keep)) {
            Ended::AsItSaid => {}
            Ended::Again(error) | Ended::Failed(error) => return Err(error),
        }
        let due = match due? {
            Some(row) => row.get("due")?,
            None => None,
        };
        Ok((outbox::span(span?.as_ref())?, due))
    }
}
