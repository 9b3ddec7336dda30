use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;

use super::session::{Access, connect};
use crate::Error;
use crate::shared::Shared;
use crate::work::Place;

/// Copies the write-ahead log back into the database while others write, and names closures that do not
/// come to an end.
pub(crate) struct Keeper {
    connection: Connection,
    shared: Arc<Shared>,
    signal: Arc<Signal>,
}

/// How the threads talk to the keeper.
pub(crate) struct Signal {
    asked: Mutex<Asked>,
    changed: Condvar,
    /// The log is copied but for its end: the writer empties it.
    restart: AtomicBool,
    slots: Vec<Arc<Slot>>,
}

#[derive(Default)]
struct Asked {
    checkpoint: bool,
    is_closed: bool,
}

/// What one thread runs at the moment.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Running>>);

struct Running {
    place: Place,
    limit: Duration,
    since: Instant,
    is_told: bool,
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much longer than its limit a closure may take before it is named.
const PATIENCE: Duration = Duration::from_secs(1);
const PAGE_BYTES: u64 = 4_096;

impl Keeper {
    pub(crate) fn open(shared: &Arc<Shared>, signal: Arc<Signal>) -> Result<Self, Error> {
        let connection = connect(shared, Access::Write).map_err(|source| Error::Unavailable {
            during: format!("open {}", shared.config.path.display()),
            source: Arc::new(source),
        })?;
        Ok(Self { connection, shared: shared.clone(), signal })
    }

    pub(crate) fn run(self) {
        while let Some(checkpoint) = self.signal.wait() {
            if checkpoint {
                self.checkpoint();
            }
            let now = self.shared.clock.instant();
            for slot in &self.signal.slots {
                slot.look(now);
            }
        }
    }

    fn checkpoint(&self) {
        match self.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            Ok((pages, _)) => {
                let bytes = u64::try_from(pages).unwrap_or(0) * PAGE_BYTES;
                if bytes >= self.shared.config.wal_bytes_max / 2 {
                    self.signal.restart.store(true, Ordering::Release);
                }
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log was not copied back"),
        }
    }
}

impl Signal {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            asked: Mutex::default(),
            changed: Condvar::new(),
            restart: AtomicBool::new(false),
            slots: (0..slots).map(|_| Arc::default()).collect(),
        }
    }

    pub(crate) fn slot(&self, number: usize) -> Arc<Slot> {
        self.slots[number].clone()
    }

    pub(crate) fn checkpoint(&self) {
        self.asked.lock().checkpoint = true;
        self.changed.notify_one();
    }

    pub(crate) fn take_restart(&self) -> bool {
        self.restart.load(Ordering::Relaxed) && self.restart.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn close(&self) {
        self.asked.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Whether a checkpoint is asked for; nothing once closed.
    fn wait(&self) -> Option<bool> {
        let mut asked = self.asked.lock();
        if !asked.checkpoint && !asked.is_closed {
            self.changed.wait_for(&mut asked, LOOK_EVERY);
        }
        if asked.is_closed {
            return None;
        }
        Some(std::mem::take(&mut asked.checkpoint))
    }
}

impl Slot {
    pub(crate) fn begin(&self, place: Place, limit: Duration, since: Instant) {
        *self.0.lock() = Some(Running { place, limit, since, is_told: false });
    }

    pub(crate) fn end(&self) {
        *self.0.lock() = None;
    }

    pub(crate) fn look(&self, now: Instant) {
        let mut running = self.0.lock();
        let Some(running) = running.as_mut() else { return };
        let took = now.saturating_duration_since(running.since);
        if !running.is_told && took > running.limit + PATIENCE {
            running.is_told = true;
            let place = running.place;
            tracing::error!(%place, ?took, "a closure holds its connection and does not end");
        }
    }
}
