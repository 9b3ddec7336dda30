use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base::{Base, Clock, Entropy, EventId, Watch};
use tokio::sync::{Notify, Semaphore};

use crate::command::CommandsState;
use crate::meter::Meter;
use crate::replay::Handlers;
use crate::work::Place;
use crate::{Config, Error};

/// What the handle, its threads and every transaction have in common.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    /// Tells this opening of the database from every other one.
    pub(crate) process: String,
    pub(crate) meter: Meter,
    pub(crate) watch: Watch,
    pub(crate) outbox: OutboxState,
    pub(crate) commands: CommandsState,
    pub(crate) handlers: Handlers,
    #[cfg(test)]
    pub(crate) faults: crate::sqlite::Faults,
}

/// How many events wait, and who is told that there are more.
pub(crate) struct OutboxState {
    length: AtomicI64,
    pub(crate) filled: Notify,
    /// Held by the one relay: two would break the order of a key.
    pub(crate) relay: Semaphore,
}

impl Shared {
    pub(crate) fn new(config: Config, base: &Base) -> Self {
        Self {
            config,
            clock: base.clock.clone(),
            entropy: base.entropy.clone(),
            process: EventId::new(base.clock.now(), &base.entropy).to_string(),
            meter: Meter::new(&base.metrics),
            watch: base.watch.clone(),
            outbox: OutboxState {
                length: AtomicI64::new(0),
                filled: Notify::new(),
                relay: Semaphore::new(1),
            },
            commands: CommandsState::default(),
            handlers: Handlers::default(),
            #[cfg(test)]
            faults: crate::sqlite::Faults::default(),
        }
    }

    /// Counts what a commit added to the outbox, less what it took from it.
    pub(crate) fn outbox_changed(&self, by: i64) {
        if by == 0 {
            return;
        }
        let length = self.outbox.length.fetch_add(by, Ordering::AcqRel) + by;
        self.meter.outbox_length.set(length);
        if by > 0 {
            self.outbox.filled.notify_one();
        }
    }

    /// Sets what counting commits of this server alone cannot know.
    pub(crate) fn outbox_is(&self, length: i64) {
        self.outbox.length.store(length, Ordering::Release);
        self.meter.outbox_length.set(length);
        if length > 0 {
            self.outbox.filled.notify_one();
        }
    }

    /// Counts a statement, and names a slow one.
    pub(crate) fn statement_ran(&self, place: Place, sql: &str, took: Duration) {
        self.meter.statements.inc();
        self.statement_took(place, sql, took);
    }

    pub(crate) fn statement_took(&self, place: Place, sql: &str, took: Duration) {
        if took > self.config.statement_slow {
            self.meter.statements_slow.inc();
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(took_ms, %place, sql = shortened(sql), "a slow statement");
        }
    }

    pub(crate) fn outbox_length(&self) -> u64 {
        u64::try_from(self.outbox.length.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Refuses an event that would make the outbox longer than its limit, `more` counted in.
    pub(crate) fn outbox_has_room(&self, more: i64) -> Result<(), Error> {
        let length = self.outbox_length().saturating_add_signed(more);
        if length >= self.config.outbox_max {
            return Err(Error::OutboxFull { length });
        }
        Ok(())
    }
}

const SQL_LOGGED_CHARS: usize = 500;

/// A statement for messages and logs.
pub(crate) fn shortened(sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().collect();
    words.join(" ").chars().take(SQL_LOGGED_CHARS).collect()
}
