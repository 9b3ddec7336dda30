//! The embedded database: one thread writes for everybody, some read, one keeps house.

mod keeper;
mod lock;
mod reader;
mod session;
mod writer;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::keeper::Slot;
use self::keeper::{Keeper, Signal};
use self::lock::Lock;
use self::reader::Reader;
use self::session::Access;
pub(crate) use self::session::Session;
use self::writer::Writer;
use crate::queue::Queues;
use crate::shared::Shared;
use crate::threads::Threads;
use crate::work::Order;
use crate::{Error, Read, Tx};
use base::watch::What;

/// The queues to the threads. Dropping it lets the threads finish what waits and end.
pub(crate) struct Engine {
    queues: Queues,
    signal: Arc<Signal>,
    threads: Arc<Threads>,
    close_time_max: Duration,
}

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
        self.queues.refusal()
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
        self.queues.close();
        self.signal.close();
    }

    /// Opens every connection before any thread starts, so that an error is the caller's.
    fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        let config = &shared.config;
        lock::make_folder(&config.path)?;
        let lock = Arc::new(Lock::hold(&config.path, config.lock_wait_max)?);
        let threads = Threads::new(&lock);
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
