//! The embedded database: one thread writes for everybody, some read, one keeps house.

mod keeper;
mod lock;
mod reader;
mod session;
mod writer;

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub(crate) use self::keeper::Slot;
use self::keeper::{Keeper, Signal};
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
    writes: Arc<Queue<Order<Tx>>>,
    reads: Arc<Queue<Order<Read>>>,
    signal: Arc<Signal>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self, Error> {
        tokio::task::spawn_blocking(move || Self::start(&shared)).await.map_err(|source| {
            Error::Unavailable { during: "open".into(), source: Arc::new(source) }
        })?
    }

    pub(crate) async fn write(&self, order: Order<Tx>) -> Result<(), Error> {
        self.writes.push(order).await
    }

    pub(crate) async fn read(&self, order: Order<Read>) -> Result<(), Error> {
        self.reads.push(order).await
    }

    pub(crate) async fn close(&self) {
        self.end();
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the database panicked");
                }
            }
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "the database did not close");
        }
    }

    fn end(&self) {
        self.reads.close();
        self.writes.close();
        self.signal.close();
    }

    /// Opens every connection before any thread starts, so that an error is the caller's.
    fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        let config = &shared.config;
        lock::make_folder(&config.path)?;
        let lock = Arc::new(Lock::hold(&config.path, config.lock_wait_max)?);
        let meter = &shared.meter;
        let engine = Self {
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
            signal: Arc::new(Signal::new(config.readers() + 1)),
            threads: Mutex::new(Vec::new()),
        };
        let session = Session::open(shared, Access::Write)?;
        let writer = Writer::new(session, engine.writes.clone(), engine.signal.clone());
        let mut readers = Vec::new();
        for number in 1..=config.readers() {
            let session = Session::open(shared, Access::Read)?;
            readers.push(Reader::new(session, engine.reads.clone(), engine.signal.slot(number)));
        }
        let keeper = Keeper::open(shared, engine.signal.clone())?;
        engine.thread("rows-write", &lock, move || writer.run())?;
        for reader in readers {
            engine.thread("rows-read", &lock, move || reader.run())?;
        }
        engine.thread("rows-keep", &lock, move || keeper.run())?;
        Ok(engine)
    }

    /// Every thread holds the lock until its connection is closed.
    fn thread(
        &self,
        name: &str,
        lock: &Arc<Lock>,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let lock = lock.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            run();
            drop(lock);
        });
        let thread = thread.map_err(|source| Error::Unavailable {
            during: format!("start the thread {name}"),
            source: Arc::new(source),
        })?;
        self.threads.lock().push(thread);
        Ok(())
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
