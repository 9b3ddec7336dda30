use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one piece of work, such as a request, has asked of the rows; cloning shares it. What the work spawns by
/// [`crate::Tasks::spawn`] counts for it.
#[derive(Debug, Clone, Default)]
pub struct Spent(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    statements: AtomicU64,
    rows_nanos: AtomicU64,
}

tokio::task_local! {
    static SPENT: Spent;
}

impl Spent {
    /// That of the work which runs now, if somebody counts.
    pub fn current() -> Option<Self> {
        SPENT.try_with(Self::clone).ok()
    }

    /// Counts for `work` here.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        SPENT.scope(self, work)
    }

    /// Counts statements that ran.
    pub fn add_statements(&self, count: u64) {
        self.0.statements.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts time that the work waited for rows.
    pub fn add_rows_time(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.rows_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn statements(&self) -> u64 {
        self.0.statements.load(Ordering::Relaxed)
    }

    pub fn rows_time(&self) -> Duration {
        Duration::from_nanos(self.0.rows_nanos.load(Ordering::Relaxed))
    }
}
