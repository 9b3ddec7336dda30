//! A database over the network: each thread has one connection and runs one closure at a time on it, and
//! again when it lost against another one or the connection went away before the commit.

mod keeper;
mod mysql;
mod postgres;
mod session;
mod tls;
mod wait;
mod worker;

use std::sync::Arc;

use base::watch::What;

use self::keeper::{Keeper, Signal};
use self::mysql::MySql;
use self::postgres::Postgres;
pub(crate) use self::session::Session;
use self::session::{Access, Driver};
use self::worker::{Turns, Worker};
use crate::config::Scheme;
use crate::engine::Engine;
use crate::session::Session as AnySession;
use crate::shared::Shared;
use crate::sqlite::Slot;
use crate::threads::Threads;
use crate::{Error, Read, Tx};

/// Opens one connection before any thread starts, so that a wrong address is the caller's error; the
/// others are opened when they are first needed.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<Engine, Error> {
    let config = &shared.config;
    let turns = Arc::new(Turns::default());
    let signal: Arc<Signal> = Arc::default();
    let engine = Engine::new(shared, Threads::new(&turns), signal.clone());
    let (queues, threads) = (&engine.queues, &engine.threads);
    for number in 0..config.writers {
        let mut session = open(shared, Access::Write)?;
        if number == 0 {
            session.connect()?;
        }
        let slot = Slot::new(What::Write, shared);
        session.report_to(&slot);
        let tx = Tx(Read { session: AnySession::Remote(Box::new(session)) });
        let worker = Worker::new(tx, queues.writes.clone(), slot, turns.clone());
        threads.start("rows-write", move || worker.run())?;
    }
    for _ in 0..config.remote_readers() {
        let mut session = open(shared, Access::Read)?;
        let slot = Slot::new(What::Read, shared);
        session.report_to(&slot);
        let read = Read { session: AnySession::Remote(Box::new(session)) };
        let worker = Worker::new(read, queues.reads.clone(), slot, turns.clone());
        threads.start("rows-read", move || worker.run())?;
    }
    let keeper = Keeper::new(open(shared, Access::Read)?, signal);
    threads.start("rows-keep", move || keeper.run())?;
    Ok(engine)
}

fn open(shared: &Arc<Shared>, access: Access) -> Result<Session, Error> {
    let config = &shared.config;
    let driver: Box<dyn Driver> = match config.url.scheme()? {
        Some(Scheme::Postgres) => Box::new(Postgres::new(config, access)?),
        Some(Scheme::MySql) => Box::new(MySql::new(config, access)?),
        None => return Err(Error::Config("the url names no database".into())),
    };
    Ok(Session::new(driver, shared))
}
