//! A database over the network: each thread has one connection and runs one closure at a time on it, and
//! again when it lost against another one or the connection went away before the commit.

mod keeper;
mod mysql;
mod postgres;
mod session;
mod tls;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use base::watch::What;

use self::keeper::{Keeper, Signal};
use self::mysql::MySql;
use self::postgres::Postgres;
pub(crate) use self::session::Session;
use self::session::{Access, Driver};
use self::worker::{Turns, Worker};
use crate::config::Scheme;
use crate::queue::Queues;
use crate::session::Session as AnySession;
use crate::shared::Shared;
use crate::sqlite::Slot;
use crate::threads::Threads;
use crate::work::Order;
use crate::{Error, Read, Tx};

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

    /// Opens one connection before any thread starts, so that a wrong address is the caller's error; the
    /// others are opened when they are first needed.
    fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        let config = &shared.config;
        let turns = Arc::new(Turns::default());
        let engine = Self {
            queues: Queues::new(shared),
            signal: Arc::default(),
            threads: Arc::new(Threads::new(&turns)),
            close_time_max: config.close_time_max,
        };
        let (queues, threads) = (&engine.queues, &engine.threads);
        for number in 0..config.writers {
            let mut session = open(shared, Access::Write)?;
            if number == 0 {
                session.connect()?;
            }
            let slot = Slot::new(What::Write, shared);
            session.report_to(&slot);
            let tx = Tx { session: AnySession::Remote(Box::new(session)) };
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
        let keeper = Keeper::new(open(shared, Access::Read)?, engine.signal.clone());
        threads.start("rows-keep", move || keeper.run())?;
        Ok(engine)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// What one connection does is waited for on its thread.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|source| Error::Unavailable {
        during: "start a connection".into(),
        source: Arc::new(source),
    })
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
