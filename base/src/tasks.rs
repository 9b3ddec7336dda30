use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::watch::{self, Place};
use crate::{Failure, Metrics, Spent};

/// The one place that spawns tasks: each has a name, its panic is caught, logged and counted, and it
/// ends at shutdown. Cloning shares it.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
    /// Where they run; nothing for the threads of whoever spawns.
    threads: Option<Handle>,
}

struct Inner {
    tracker: TaskTracker,
    stopping: CancellationToken,
    metrics: Metrics,
}

/// Makes the work that is supervised, once more after each failure.
type Make = Box<dyn Fn() -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A task that ran this long is taken for healthy: its next failure starts with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

impl Tasks {
    pub fn new(metrics: &Metrics) -> Self {
        let inner = Inner {
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
            metrics: metrics.clone(),
        };
        Self { inner: Arc::new(inner), threads: None }
    }

    /// The same tasks, spawned on these threads.
    #[must_use]
    pub fn on(&self, threads: &Handle) -> Self {
        Self { inner: self.inner.clone(), threads: Some(threads.clone()) }
    }

    /// Runs one piece of work, such as one connection. Its panic ends it and nothing else; the handle then
    /// gives `None`. The work itself listens to [`Tasks::stopping`] when it could outlive shutdown.
    #[track_caller]
    pub fn spawn<F>(&self, name: &'static str, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let place = Location::caller();
        match Spent::current() {
            Some(spent) => self.start(name, place, spent.scope(work).boxed()),
            None => self.start(name, place, work.boxed()),
        }
    }

    /// Work is boxed by now: what follows is compiled for each answer, and not for each work.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    fn start<T: Send + 'static>(
        &self,
        name: &'static str,
        place: Place,
        work: BoxFuture<'static, T>,
    ) -> JoinHandle<Option<T>> {
        let metrics = self.inner.metrics.clone();
        let work = watch::task(name, place, work);
        let caught = async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(output) => Some(output),
                Err(panic) => {
                    metrics.task_panicked(name);
                    tracing::error!(task = name, panic = text_of(&*panic), "a task panicked");
                    None
                }
            }
        };
        match &self.threads {
            Some(threads) => self.inner.tracker.spawn_on(caught, threads),
            None => self.inner.tracker.spawn(caught),
        }
    }

    /// Runs `make()` for the life of the process: after a panic or an error it is made and run again, with
    /// back-off. It is dropped at shutdown, so it must be safe to stop at any await; `Ok` ends it for good.
    #[track_caller]
    pub fn supervise<M, F>(&self, name: &'static str, make: M)
    where
        M: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.keep(name, Location::caller(), Box::new(move || make().boxed()));
    }

    #[allow(clippy::disallowed_methods, reason = "the pause between two runs")]
    fn keep(&self, name: &'static str, place: Place, make: Make) {
        let tasks = self.clone();
        let metrics = self.inner.metrics.clone();
        // It outlives whoever begins it, so what it asks of the rows is its own.
        let work = async move {
            let stopping = tasks.stopping();
            let mut pause = BACK_OFF_MIN;
            loop {
                let started = tokio::time::Instant::now();
                let run = AssertUnwindSafe(async { make().await }).catch_unwind();
                let ended = tokio::select! {
                    ended = run => ended,
                    () = stopping.cancelled() => return,
                };
                match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        tracing::warn!(task = name, %error, "a task failed, starting it again");
                    }
                    Err(panic) => {
                        metrics.task_panicked(name);
                        tracing::error!(
                            task = name,
                            panic = text_of(&*panic),
                            "a task panicked, starting it again"
                        );
                    }
                }
                if started.elapsed() >= HEALTHY_AFTER {
                    pause = BACK_OFF_MIN;
                }
                metrics.task_restarted(name);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stopping.cancelled() => return,
                }
                pause = (pause * 2).min(BACK_OFF_MAX);
            }
        };
        self.start(name, place, work.boxed());
    }

    /// Becomes cancelled when shutdown begins.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// Begins shutdown and waits for every task, at most `within`. Says whether all ended.
    pub async fn stop(&self, within: Duration) -> bool {
        self.inner.stopping.cancel();
        self.inner.tracker.close();
        tokio::time::timeout(within, self.inner.tracker.wait()).await.is_ok()
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_started_again() {
        let metrics = Metrics::default();
        let tasks = Tasks::new(&metrics);
        let runs = Arc::new(AtomicUsize::new(0));
        let (done, mut seen) = tokio::sync::mpsc::channel(1);
        tasks.supervise("fragile", {
            let runs = runs.clone();
            move || {
                let (runs, done) = (runs.clone(), done.clone());
                async move {
                    match runs.fetch_add(1, Ordering::SeqCst) {
                        0 => panic!("the first run breaks"),
                        1 => Err("the second run fails".into()),
                        _ => {
                            done.send(()).await?;
                            std::future::pending().await
                        }
                    }
                }
            }
        });
        seen.recv().await.unwrap();
        assert!(metrics.text().contains("madang_task_panics_total{task=\"fragile\"} 1"));
        assert!(metrics.text().contains("madang_task_restarts_total{task=\"fragile\"} 2"));
        assert!(tasks.stop(Duration::from_secs(1)).await, "a pending task ends at shutdown");
    }

    #[tokio::test]
    async fn a_panic_in_one_piece_of_work_gives_none() {
        let tasks = Tasks::new(&Metrics::default());
        assert_eq!(tasks.spawn("broken", async { panic!("no") }).await.unwrap(), None::<()>);
        assert_eq!(tasks.spawn("sound", async { 3 }).await.unwrap(), Some(3));
    }
}
