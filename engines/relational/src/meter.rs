use base::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// What `/metrics` shows of the rows.
#[derive(Clone)]
pub(crate) struct Meter {
    pub(crate) commits: Counter,
    pub(crate) transactions: Counter,
    pub(crate) transactions_refused: Counter,
    pub(crate) transactions_again: Counter,
    pub(crate) reads: Counter,
    pub(crate) statements: Counter,
    pub(crate) statements_slow: Counter,
    pub(crate) reopenings: Counter,
    pub(crate) group_size: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) writes_waiting: Gauge,
    pub(crate) reads_waiting: Gauge,
    pub(crate) outbox_length: Gauge,
    pub(crate) events_relayed: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) dead_letters_replayed: Counter,
    pub(crate) dead_letters_discarded: Counter,
    pub(crate) commands_waiting: Gauge,
    pub(crate) commands_running: Gauge,
    pub(crate) commands_done: Counter,
    pub(crate) commands_retried: Counter,
    pub(crate) commands_dead: Counter,
}

impl Meter {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| {
            metrics.register(&format!("relational_{name}"), help, Counter::default())
        };
        let gauge = |name: &str, help: &str| {
            metrics.register(&format!("relational_{name}"), help, Gauge::default())
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            metrics.register(&format!("relational_{name}"), help, Histogram::new(buckets))
        };
        Self {
            commits: counter("commits", "Commits made durable, each for a group of writes."),
            transactions: counter("transactions", "Writes that were committed."),
            transactions_refused: counter("transactions_refused", "Writes that were rolled back."),
            transactions_again: counter(
                "transactions_again",
                "Times that a transaction ran again after it lost against another one.",
            ),
            reads: counter("reads", "Read closures that ran."),
            statements: counter("statements", "Statements that ran."),
            statements_slow: counter("statements_slow", "Statements above the slow limit."),
            reopenings: counter("reopenings", "Times the database was opened again after a fault."),
            group_size: histogram(
                "group_size",
                "Writes that shared one commit.",
                exponential_buckets(1.0, 2.0, 12).collect(),
            ),
            commit_seconds: histogram(
                "commit_seconds",
                "Time of one commit, its sync included.",
                exponential_buckets(0.000_05, 2.0, 16).collect(),
            ),
            writes_waiting: gauge("writes_waiting", "Writes in the queue."),
            reads_waiting: gauge("reads_waiting", "Reads in the queue."),
            outbox_length: gauge("outbox_length", "Committed events that await the relay."),
            events_relayed: counter("events_relayed", "Events moved into the event log."),
            dead_letters: counter(
                "dead_letters",
                "Events and commands set aside because they cannot be handled.",
            ),
            dead_letters_replayed: counter(
                "dead_letters_replayed",
                "Dead letters that were handled, or put back to be.",
            ),
            dead_letters_discarded: counter(
                "dead_letters_discarded",
                "Dead letters that somebody gave up.",
            ),
            commands_waiting: gauge("commands_waiting", "Commands not carried out yet."),
            commands_running: gauge("commands_running", "Commands being carried out here."),
            commands_done: counter("commands_done", "Commands carried out."),
            commands_retried: counter("commands_retried", "Attempts at commands that failed."),
            commands_dead: counter("commands_dead", "Commands that became dead letters."),
        }
    }
}
