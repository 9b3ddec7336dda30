//! The embedded database: one thread writes for everybody, some read, one keeps house.

mod keeper;
mod lock;
mod reader;
mod session;
mod writer;

use std::sync::Arc;

pub(crate) use self::keeper::Slot;
use self::keeper::{Keeper, Signal};
use self::lock::Lock;
use self::reader::Reader;
use self::session::Access;
pub(crate) use self::session::Session;
use self::writer::Writer;
use crate::Error;
use crate::engine::Engine;
use crate::shared::Shared;
use crate::threads::Threads;
use base::watch::What;

/// Opens every connection before any thread starts, so that an error is the caller's.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<Engine, Error> {
    let config = &shared.config;
    lock::make_folder(&config.path)?;
    let lock = Arc::new(Lock::hold(&config.path, config.lock_wait_max)?);
    let signal = Arc::new(Signal::new(&shared.config.path));
    let engine = Engine::new(shared, Threads::new(&lock), signal.clone());
    let (queues, threads) = (&engine.queues, &engine.threads);
    let write = Slot::new(What::Write, shared);
    let session = Session::open(shared, Access::Write)?;
    let writer = Writer::new(session, queues.writes.clone(), signal.clone(), write.clone());
    let (mut readers, mut slots) = (Vec::new(), Vec::new());
    for _ in 0..config.readers() {
        let (session, slot) = (Session::open(shared, Access::Read)?, Slot::new(What::Read, shared));
        readers.push(Reader::new(session, queues.reads.clone(), slot.clone()));
        slots.push(slot);
    }
    let posts = (queues.clone(), threads.clone());
    let keeper = Keeper::open(shared, signal, posts, (write, slots))?;
    threads.start("rows-write", move || writer.run())?;
    for reader in readers {
        threads.start("rows-read", move || reader.run())?;
    }
    threads.start("rows-keep", move || keeper.run())?;
    Ok(engine)
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
