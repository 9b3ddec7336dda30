use std::sync::atomic::AtomicU64;

use base::Metrics;
use prometheus_client::metrics::counter::Counter;

/// What the lake shows on `/metrics`.
#[derive(Clone)]
pub(crate) struct Counters {
    pub(crate) commits: Counter,
    pub(crate) rows: Counter,
    pub(crate) seconds: Counter<f64, AtomicU64>,
    pub(crate) failures: Counter,
    pub(crate) compactions: Counter,
    pub(crate) queries: Counter,
    pub(crate) refused: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            commits: counter("lake_commits", "Commits of rows to a table."),
            rows: counter("lake_rows_committed", "Rows committed to tables."),
            seconds: metrics.register(
                "lake_commit_seconds",
                "Seconds that commits of rows took.",
                Counter::default(),
            ),
            failures: counter("lake_commit_failures", "Commits and compactions that failed."),
            compactions: counter("lake_compactions", "Days whose small files became one."),
            queries: counter("lake_queries", "Queries begun."),
            refused: counter("lake_queries_refused", "Queries stopped or refused at a limit."),
        }
    }
}
