use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Base, Clock, Spent, Timestamp};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::migration::{self, Migration};
use crate::shared::Shared;
use crate::work::{Closure, Order, Place};
use crate::{Config, Error, Read, Tx, command, lease, outbox, remote, sqlite};

/// The rows of this installation. Cloning is cheap; the last clone that goes closes it.
#[derive(Clone)]
pub struct Db(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    engine: Engine,
}

impl Db {
    /// Opens the database; makes the embedded one, which a second server is refused.
    pub async fn open(config: Config, base: &Base) -> Result<Self, Error> {
        config.check()?;
        let shared = Arc::new(Shared::new(config, base));
        let is_embedded = shared.config.url.is_embedded();
        let start = if is_embedded { sqlite::start } else { remote::start };
        let engine = Engine::open(shared.clone(), start).await?;
        let db = Self(Arc::new(Handle { shared, engine }));
        db.migrate("relational", outbox::MIGRATIONS).await?;
        if is_embedded {
            // The lock on the file says that every former holder has ended.
            db.write(async |tx| lease::free_all(tx).await).await?;
            db.write(async |tx| command::free_all(tx).await).await?;
            let waiting = db.read(async |read| outbox::length(read).await).await?;
            db.shared().outbox_is(waiting);
        }
        let waiting = db.read(async |read| command::length(read).await).await?;
        db.shared().commands_changed(waiting);
        Ok(db)
    }

    /// Brings the tables of one room up to date: each migration once, in order, all or none of them.
    #[track_caller]
    pub fn migrate(
        &self,
        room: &'static str,
        migrations: &'static [Migration],
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let order = Asked { place: Location::caller(), limit: self.config().migration_time_max };
        self.write_as(order, async move |tx: &mut Tx| migration::apply(tx, room, migrations).await)
    }

    /// Runs `work` in one transaction. Its rows and events are durable together when this returns `Ok`,
    /// and none of them is there when it returns `Err`, with two exceptions: an answer of kind
    /// `Unavailable` leaves open whether they are (as when the machine fails), and a caller that stops
    /// waiting does not stop the work.
    ///
    /// `work` may run more than once, awaits nothing but its `Tx`, and is bounded in time.
    #[track_caller]
    pub fn write<T, E, F>(&self, work: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: AsyncFn(&mut Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let asked = Asked { place: Location::caller(), limit: self.config().write_time_max };
        self.write_as(asked, work)
    }

    /// Runs `work` on one snapshot of the rows, which later commits do not change.
    #[track_caller]
    pub fn read<T, E, F>(&self, work: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: AsyncFn(&mut Read) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let place = Location::caller();
        let (closure, answer) = Closure::new(work);
        let (limit, spent) = (self.config().read_time_max, Spent::current());
        let order = Order { work: Box::new(closure), place, limit, spent: spent.clone() };
        async move {
            let _waiting = self.waiting(spent);
            self.0.engine.read(order).await.map_err(E::from)?;
            answered(answer).await
        }
    }

    /// Ends what runs and lets the database go, so that another server can open it. Work that comes
    /// later, from any clone, is refused.
    pub async fn close(&self) {
        self.0.engine.close().await;
    }

    /// An error while writes, or reads, are refused because one that began does not end.
    pub fn check(&self) -> Result<(), Error> {
        self.0.engine.refusal().map_or(Ok(()), Err)
    }

    /// Whether this process alone can have the rows open.
    pub fn is_embedded(&self) -> bool {
        self.config().url.is_embedded()
    }

    /// Tells this opening of the rows from every other one, of this process or of another.
    pub fn opening(&self) -> &str {
        &self.shared().process
    }

    /// Committed events that the event log does not hold yet.
    pub fn outbox_length(&self) -> u64 {
        self.shared().outbox_length()
    }

    /// Committed commands that were not carried out yet.
    pub fn commands_length(&self) -> u64 {
        self.shared().commands.length()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.shared.config
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.shared.clock.now()
    }

    fn waiting(&self, spent: Option<Spent>) -> Waiting<'_> {
        let clock = &self.0.shared.clock;
        Waiting { clock, began: clock.instant(), spent }
    }

    fn write_as<T, E, F>(
        &self,
        asked: Asked,
        work: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<'_, T, E, F>
    where
        F: AsyncFn(&mut Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (closure, answer) = Closure::new(work);
        let (Asked { place, limit }, spent) = (asked, Spent::current());
        let order = Order { work: Box::new(closure), place, limit, spent: spent.clone() };
        async move {
            let _waiting = self.waiting(spent);
            self.0.engine.write(order).await.map_err(E::from)?;
            answered(answer).await
        }
    }
}

/// Counts the time until it is dropped.
struct Waiting<'a> {
    clock: &'a Clock,
    began: Instant,
    spent: Option<Spent>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(spent) = &self.spent {
            spent.add_rows_time(self.clock.instant() - self.began);
        }
    }
}

#[derive(Clone, Copy)]
struct Asked {
    place: Place,
    limit: Duration,
}

async fn answered<T, E: From<Error>>(answer: oneshot::Receiver<Result<T, E>>) -> Result<T, E> {
    answer.await.unwrap_or_else(|_| Err(E::from(Error::Closed)))
}

#[cfg(test)]
mod tests;
