//! A database over the network: each thread has one connection and runs one closure at a time on it, and
//! again when it lost against another one or the connection went away before the commit.

mod keeper;
mod mysql;
mod postgres;
mod session;
mod tls;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use self::keeper::{Keeper, Signal};
use self::mysql::MySql;
use self::postgres::Postgres;
pub(crate) use self::session::Session;
use self::session::{Access, Driver};
use self::worker::{Turns, Worker};
use crate::config::Scheme;
use crate::queue::Queue;
use crate::session::Session as AnySession;
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

    /// Opens one connection of each kind before any thread starts, so that a wrong address is the caller's
    /// error; the others are opened when they are first needed.
    fn start(shared: &Arc<Shared>) -> Result<Self, Error> {
        let config = &shared.config;
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
            signal: Arc::new(Signal::new(config.writers + config.remote_readers())),
            threads: Mutex::new(Vec::new()),
        };
        let turns = Arc::new(Turns::default());
        let mut slots = 0..;
        let mut slot = || engine.signal.slot(slots.next().unwrap_or_default());
        for number in 0..config.writers {
            let mut session = open(shared, Access::Write)?;
            if number == 0 {
                session.connect()?;
            }
            let tx = Tx { session: AnySession::Remote(Box::new(session)) };
            let worker = Worker::new(tx, engine.writes.clone(), slot(), turns.clone());
            engine.thread("rows-write", move || worker.run())?;
        }
        for _ in 0..config.remote_readers() {
            let session = open(shared, Access::Read)?;
            let read = Read { session: AnySession::Remote(Box::new(session)) };
            let worker = Worker::new(read, engine.reads.clone(), slot(), turns.clone());
            engine.thread("rows-read", move || worker.run())?;
        }
        let keeper = Keeper::new(open(shared, Access::Read)?, engine.signal.clone());
        engine.thread("rows-keep", move || keeper.run())?;
        Ok(engine)
    }

    fn thread(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
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
