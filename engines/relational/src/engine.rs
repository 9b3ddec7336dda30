use std::sync::Arc;
use std::time::Duration;

use crate::queue::Queues;
use crate::shared::Shared;
use crate::threads::Threads;
use crate::work::Order;
use crate::{Error, Read, Tx};

/// The queues to the threads of a database, whichever it is. Dropping it lets the threads finish what waits
/// and end.
pub(crate) struct Engine {
    pub(crate) queues: Queues,
    pub(crate) threads: Arc<Threads>,
    keeper: Arc<dyn Ends>,
    close_time_max: Duration,
}

/// Tells the thread that keeps house to end.
pub(crate) trait Ends: Send + Sync {
    fn end(&self);

    /// Comes when all threads have ended.
    fn ended(&self) {}
}

impl Engine {
    /// Runs `start`, which opens connections, where it may wait.
    pub(crate) async fn open(
        shared: Arc<Shared>,
        start: fn(&Arc<Shared>) -> Result<Self, Error>,
    ) -> Result<Self, Error> {
        tokio::task::spawn_blocking(move || start(&shared)).await.map_err(|source| {
            Error::Unavailable { during: "open".into(), source: Arc::new(source) }
        })?
    }

    pub(crate) fn new(shared: &Shared, threads: Threads, keeper: Arc<dyn Ends>) -> Self {
        Self {
            queues: Queues::new(shared),
            threads: Arc::new(threads),
            keeper,
            close_time_max: shared.config.close_time_max,
        }
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
        let keeper = self.keeper.clone();
        let joined = tokio::task::spawn_blocking(move || {
            threads.join(wait);
            keeper.ended();
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "the database did not close");
        }
    }

    fn end(&self) {
        self.queues.close();
        self.keeper.end();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}
