//! The embedded database: one thread writes for everybody, some read, one keeps house.

mod keeper;
mod lock;
mod reader;
mod session;
mod writer;

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use base::watch::What;
use parking_lot::Mutex;

use self::keeper::{Keeper, Signal, Slot};
use self::lock::Lock;
use self::reader::Reader;
use self::session::Access;
pub(crate) use self::session::Session;
use self::writer::Writer;
use crate::queue::Queue;
use crate::shared::Shared;
use crate::work::Order;
use crate::{Error, Read, Tx};

/// The queues to the threads. Dropping it lets the threads finish what waits and end.
pub(crate) struct Engine {
    queues: Queues,
    signal: Arc<Signal>,
    threads: Arc<Threads>,
    close_time_max: Duration,
}

#[derive(Clone)]
struct Queues {
    writes: Arc<Queue<Order<Tx>>>,
    reads: Arc<Queue<Order<Read>>>,
}

/// The threads that have a connection. Each holds the lock until its connection is closed.
struct Threads {
    lock: Weak<Lock>,
    started: Mutex<Vec<JoinHandle<()>>>,
}

/// How often closing looks whether the threads have ended.
const CLOSE_STEP: Duration = Duration::from_millis(5);

impl Engine {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self, Error> {
        tokio::task::spawn_blocking(move || Self::start(&shared)).await.map_err(|source| {
            Error::Unavailable { during: "open".into(), source: Arc::new(source) }
        })?
    }

    pub(crate) async fn write(&self, order: Order<Tx>) -> Result<(), Error> {
        self.queues.writes.push(order).await
    }

    pub(crate) async fn read(&self, order: Order<Read>) -> Result<(), Error> {
        self.queues.reads.push(order).await
    }

    /// Why writes or reads are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.queues.writes.refusal().or_else(|| self.queues.reads.refusal())
    }

    pub(crate) async fn close(&self) {
        self.end();
        let (threads, wait) = (self.threads.clone(), self.close_time_max);
        let joined = tokio::task::spawn_blocking(move || threads.join(wait));
        if let Err(error) = joined.await {
            tracing::error!(%error, "the database did not close");
        }
    }

    fn end(&self) {
        self.queues.reads.close();
        self.queues.writes.close();
        self.signal.close();
    }

    /// Opens every connection before any thread starts, so that an error is the caller's.
    fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        let config = &shared.config;
        lock::make_folder(&config.path)?;
        let lock = Arc::new(Lock::hold(&config.path, config.lock_wait_max)?);
        let threads = Threads { lock: Arc::downgrade(&lock), started: Mutex::default() };
        let engine = Self {
            queues: Queues::new(shared),
            signal: Arc::default(),
            threads: Arc::new(threads),
            close_time_max: config.close_time_max,
        };
        let (queues, signal, threads) = (&engine.queues, &engine.signal, &engine.threads);
        let write = Slot::new(What::Write, shared);
        let session = Session::open(shared, Access::Write)?;
        let writer = Writer::new(session, queues.writes.clone(), signal.clone(), write.clone());
        let (mut readers, mut slots) = (Vec::new(), Vec::new());
        for _ in 0..config.readers() {
            let (session, slot) =
                (Session::open(shared, Access::Read)?, Slot::new(What::Read, shared));
            readers.push(Reader::new(session, queues.reads.clone(), slot.clone()));
            slots.push(slot);
        }
        let posts = (queues.clone(), threads.clone());
        let keeper = Keeper::open(shared, signal.clone(), posts, (write, slots))?;
        threads.start("rows-write", move || writer.run())?;
        for reader in readers {
            threads.start("rows-read", move || reader.run())?;
        }
        threads.start("rows-keep", move || keeper.run())?;
        Ok(engine)
    }
}

impl Queues {
    fn new(shared: &Shared) -> Self {
        let (config, meter) = (&shared.config, &shared.meter);
        Self {
            writes: Arc::new(Queue::new(
                "writes",
                config.writes_queue_max,
                config.queue_wait_max,
                meter.writes_waiting.clone(),
            )),
            reads: Arc::new(Queue::new(
                "reads",
                config.reads_queue_max,
                config.queue_wait_max,
                meter.reads_waiting.clone(),
            )),
        }
    }
}

impl Threads {
    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        // Whoever starts a thread holds the lock: it opens the database, or it is a thread of it.
        let lock = self.lock.upgrade().ok_or(Error::Closed)?;
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            run();
            drop(lock);
        });
        let thread = thread.map_err(|source| Error::Unavailable {
            during: format!("start the thread {name}"),
            source: Arc::new(source),
        })?;
        let mut started = self.started.lock();
        started.retain(|thread| !thread.is_finished());
        started.push(thread);
        Ok(())
    }

    /// Waits until all have ended, but not for ever: a closure may never end.
    fn join(&self, wait: Duration) {
        let mut threads = std::mem::take(&mut *self.started.lock());
        let mut waited = Duration::ZERO;
        while waited < wait && !threads.iter().all(JoinHandle::is_finished) {
            std::thread::park_timeout(CLOSE_STEP);
            waited += CLOSE_STEP;
        }
        for thread in threads.drain(..) {
            if !thread.is_finished() {
                tracing::error!("a closure does not end, so its connection stays open");
            } else if thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Failures that tests ask for.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Faults {
    /// Commits that fail as a failed sync does.
    pub(crate) commits: std::sync::atomic::AtomicU32,
    /// Openings that fail.
    pub(crate) opens: std::sync::atomic::AtomicU32,
}
