use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

use crate::answer::Answer;
use crate::engine::Engine;
use crate::metrics::Counters;
use crate::query::Session;
use crate::stop::Stop;
use crate::table::Table;
use crate::{Config, Error};

/// The few threads of low priority that queries run on, so that a heavy one starves nobody else.
pub(crate) struct Analysis {
    config: Arc<Config>,
    engine: Arc<Engine>,
    counters: Counters,
    running: Arc<Semaphore>,
    /// Started with the first query.
    started: Mutex<Option<Started>>,
}

struct Started {
    runtime: Runtime,
    session: Arc<Session>,
}

/// Stops its query when the asker goes away.
struct AbortOnDrop(tokio::task::AbortHandle, Stop);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.1.now();
        self.0.abort();
    }
}

/// Added to the process's own: under load these threads get about a tenth of the processor.
const NICENESS: i32 = 10;
/// Threads that read files for the queries; they end when idle.
const READERS_MAX: usize = 4;

impl Analysis {
    pub(crate) fn new(config: Arc<Config>, engine: Arc<Engine>, counters: Counters) -> Self {
        let running = Arc::new(Semaphore::new(config.queries_max));
        Self { config, engine, counters, running, started: Mutex::new(None) }
    }

    /// Runs the query and then `finish` on the threads for queries, within all limits.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        sql: &str,
        tables: Vec<Table>,
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let result = self.run(sql, tables, finish).await;
        if let Err(Error::TooMany(_)) = &result {
            self.counters.refused.inc();
        }
        result
    }

    async fn run<T: Send + 'static>(
        &self,
        sql: &str,
        tables: Vec<Table>,
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if sql.len() > self.config.query_text_bytes_max {
            return Err(Error::TooMany("lake.query_text_bytes_max"));
        }
        let permit = self.running.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooMany("lake.queries_max"))?;
        self.counters.queries.inc();
        let (handle, session) = self.start()?;
        let sql = sql.to_owned();
        let stop = Stop::default();
        let watched = stop.clone();
        let work = handle.spawn(async move {
            // Held by the work itself: a query that is slow to stop still counts.
            let _permit = permit;
            finish(session.run(&sql, &tables, &watched).await?)
        });
        let _abort = AbortOnDrop(work.abort_handle(), stop);
        match tokio::time::timeout(self.config.query_time_max, work).await {
            Err(_) => Err(Error::TooMany("lake.query_time_max")),
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                tracing::error!(%error, "a query ended in a panic");
                Err(Error::internal("run a query", error))
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.config.queries_max - self.running.available_permits()
    }

    #[cfg(test)]
    pub(crate) fn has_started(&self) -> bool {
        self.started.lock().is_some()
    }

    fn start(&self) -> Result<(Handle, Arc<Session>), Error> {
        let mut started = self.started.lock();
        if let Some(started) = &*started {
            return Ok((started.runtime.handle().clone(), started.session.clone()));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.config.query_threads)
            .max_blocking_threads(READERS_MAX)
            .thread_name("analysis")
            .on_thread_start(lower_priority)
            .enable_time()
            .build()
            .map_err(|error| Error::internal("start the threads for queries", error))?;
        let session = Arc::new(Session::new(&self.config, &self.engine)?);
        let handle = runtime.handle().clone();
        *started = Some(Started { runtime, session: session.clone() });
        Ok((handle, session))
    }
}

/// On Linux the priority belongs to the thread that asks.
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "queries run at normal priority");
    }
}

impl Drop for Analysis {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another runtime.
        if let Some(started) = self.started.lock().take() {
            started.runtime.shutdown_background();
        }
    }
}
