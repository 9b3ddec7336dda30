use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base::watch::{Begin, Running, Thread, What};
use parking_lot::{Condvar, Mutex};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags};

use super::reader::Reader;
use super::session::{Access, Session, connect};
use crate::Error;
use crate::engine::Ends;
use crate::queue::Queues;
use crate::shared::Shared;
use crate::threads::Threads;
use crate::work::{Fate, Order, Place};

/// Copies the write-ahead log back into the database while others write, and keeps others served when a closure
/// does not come to an end.
pub(crate) struct Keeper {
    connection: Connection,
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    queues: Queues,
    threads: Arc<Threads>,
    writer: Arc<Slot>,
    readers: Vec<Arc<Slot>>,
    /// Readers that others took the place of, and whose closures still run.
    replaced: Vec<Arc<Slot>>,
}

/// How the writer talks to the keeper.
pub(crate) struct Signal {
    asked: Mutex<Asked>,
    changed: Condvar,
    /// The log is copied but for its end: the writer empties it.
    restart: AtomicBool,
    /// Of the database, for who closes it last.
    path: PathBuf,
}

#[derive(Default)]
struct Asked {
    checkpoint: bool,
    is_closed: bool,
}

/// What one thread runs at the moment.
pub(crate) struct Slot {
    what: What,
    shared: Arc<Shared>,
    thread: OnceLock<Thread>,
    held: Mutex<Option<Held>>,
    is_replaced: AtomicBool,
}

struct Held {
    place: Place,
    limit: Duration,
    since: Instant,
    running: Running,
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much longer than its limit a closure may take before nobody waits for it any more.
const PATIENCE: Duration = Duration::from_secs(1);
const PAGE_BYTES: u64 = 4_096;

impl Keeper {
    pub(crate) fn open(
        shared: &Arc<Shared>,
        signal: Arc<Signal>,
        posts: (Queues, Arc<Threads>),
        slots: (Arc<Slot>, Vec<Arc<Slot>>),
    ) -> Result<Self, Error> {
        let connection = connect(shared, Access::Write).map_err(|source| Error::Unavailable {
            during: format!("open {}", shared.config.path.display()),
            source: Arc::new(source),
        })?;
        let ((queues, threads), (writer, readers)) = (posts, slots);
        let (shared, replaced) = (shared.clone(), Vec::new());
        Ok(Self { connection, shared, signal, queues, threads, writer, readers, replaced })
    }

    pub(crate) fn run(mut self) {
        while let Some(checkpoint) = self.signal.wait() {
            if checkpoint {
                self.checkpoint();
            }
            let now = self.shared.clock.instant();
            self.look_at_writer(now);
            self.look_at_readers(now);
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

    /// A closure that writes has the only lock there is, so no other thread can take its place: whoever comes is
    /// told so at once.
    fn look_at_writer(&self, now: Instant) {
        let Some(place) = self.writer.outlasted(now) else {
            if self.queues.writes.accept() {
                tracing::info!("the write has ended, and others are taken again");
            }
            return;
        };
        let error = Error::Stuck { what: What::Write.label(), place };
        if self.queues.writes.refusal().is_none() {
            tracing::error!(%place, "a write does not end, and all others are refused");
        }
        answer(self.queues.writes.refuse(error.clone()), &error);
    }

    /// Another reader takes the place of one whose closure does not end; when there are too many of these,
    /// whoever comes is told.
    fn look_at_readers(&mut self, now: Instant) {
        self.replaced.retain(|slot| slot.held.lock().is_some());
        let mut stuck = Vec::new();
        for number in 0..self.readers.len() {
            let slot = self.readers[number].clone();
            let Some(place) = slot.outlasted(now).or_else(|| slot.lost(now)) else { continue };
            if self.replaced.len() >= self.shared.config.readers_stuck_max {
                stuck.push(place);
                continue;
            }
            match self.replace(number) {
                Ok(()) => tracing::warn!(%place, "a read does not end: another reader took over"),
                Err(error) => {
                    tracing::error!(%error, "no reader could take over from one that is stuck");
                    stuck.push(place);
                }
            }
        }
        if let Some(place) = stuck.first().filter(|_| stuck.len() == self.readers.len()) {
            let error = Error::Stuck { what: What::Read.label(), place };
            answer(self.queues.reads.refuse(error.clone()), &error);
        } else if self.queues.reads.accept() {
            tracing::info!("a read has ended, and others are taken again");
        }
    }

    fn replace(&mut self, number: usize) -> Result<(), Error> {
        let session = Session::open(&self.shared, Access::Read)?;
        let slot = Slot::new(What::Read, &self.shared);
        let reader = Reader::new(session, self.queues.reads.clone(), slot.clone());
        self.threads.start("rows-read", move || reader.run())?;
        let old = std::mem::replace(&mut self.readers[number], slot);
        old.is_replaced.store(true, Ordering::Release);
        // It ends with its closure, so it is never made quick again.
        old.thread.get().copied().map(Thread::slow);
        self.replaced.push(old);
        Ok(())
    }
}

fn answer<On>(orders: VecDeque<Order<On>>, error: &Error) {
    for order in orders {
        order.answer(Fate::Failed(error.clone()));
    }
}

impl Signal {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            asked: Mutex::default(),
            changed: Condvar::new(),
            restart: AtomicBool::new(false),
            path: path.to_owned(),
        }
    }

    pub(crate) fn checkpoint(&self) {
        self.asked.lock().checkpoint = true;
        self.changed.notify_one();
    }

    pub(crate) fn take_restart(&self) -> bool {
        self.restart.load(Ordering::Relaxed) && self.restart.swap(false, Ordering::AcqRel)
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

impl Ends for Signal {
    fn end(&self) {
        self.asked.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Connections that close at once leave the write-ahead log behind, with all that was deleted: one more closes alone.
    fn ended(&self) {
        match emptied(&self.path) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("somebody reads: the write-ahead log stays until the next start");
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log stays until the next start"),
        }
    }
}

/// Copies the write-ahead log back and removes it. By SQL: a connection that has read nothing yet does not know of a log, and its
/// `sqlite3_wal_checkpoint_v2` does nothing and says that all is well.
fn emptied(path: &Path) -> rusqlite::Result<bool> {
    let last = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    last.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

impl Slot {
    pub(crate) fn new(what: What, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            what,
            shared: shared.clone(),
            thread: OnceLock::new(),
            held: Mutex::default(),
            is_replaced: AtomicBool::new(false),
        })
    }

    pub(crate) fn begin(&self, place: Place, limit: Duration) {
        self.thread.get_or_init(Thread::current);
        let told_after = self.shared.config.held_told_after;
        let begin = Begin { what: self.what, id: None, place: Some(place), told_after, limit };
        let running = self.shared.watch.begin(begin);
        let since = self.shared.clock.instant();
        *self.held.lock() = Some(Held { place, limit, since, running });
    }

    pub(crate) fn end(&self) {
        *self.held.lock() = None;
    }

    /// Says which statement begins.
    pub(crate) fn step(&self, sql: &str) {
        if let Some(held) = &*self.held.lock() {
            held.running.step(sql);
        }
    }

    pub(crate) fn step_ended(&self) {
        if let Some(held) = &*self.held.lock() {
            held.running.step_ended();
        }
    }

    /// Whether another thread serves in the place of this one.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    /// The place of a closure that its limit did not end.
    fn outlasted(&self, now: Instant) -> Option<Place> {
        let held = self.held.lock();
        let held = held.as_ref()?;
        let took = now.saturating_duration_since(held.since);
        (took > held.limit.saturating_add(PATIENCE)).then_some(held.place)
    }

    /// The place of a closure that runs no statement, so that no limit will end it.
    fn lost(&self, now: Instant) -> Option<Place> {
        let held = self.held.lock();
        let held = held.as_ref()?;
        let took = now.saturating_duration_since(held.since);
        let is_lost = took > self.shared.config.reader_replaced_after;
        (is_lost && held.running.is_between_steps()).then_some(held.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_left_in_the_write_ahead_log_is_gone_when_the_last_one_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("rows.db"), folder.path().join("left.db"));
        let writer = Connection::open(&path).unwrap();
        writer.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        writer.execute_batch("CREATE TABLE a (b); INSERT INTO a VALUES ('unmistakable')").unwrap();
        for end in ["", "-wal"] {
            let named = |path: &Path| format!("{}{end}", path.display());
            std::fs::copy(named(&path), named(&left)).unwrap();
        }
        let log = folder.path().join("left.db-wal");
        assert!(std::fs::metadata(&log).unwrap().len() > 0);

        Signal::new(&left).ended();
        assert!(!log.exists());
        let count: i64 = Connection::open(&left)
            .unwrap()
            .query_row("SELECT count(*) FROM a WHERE b = 'unmistakable'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 1);
    }
}
