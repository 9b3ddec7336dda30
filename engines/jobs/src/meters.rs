use base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabel {
    pub(crate) queue: String,
}

pub(crate) struct Meters {
    pub(crate) enqueued: Counter,
    pub(crate) started: Counter,
    pub(crate) done: Counter,
    pub(crate) failed: Counter,
    pub(crate) dead: Counter,
    pub(crate) lost: Counter,
    pub(crate) late: Counter,
    pub(crate) running: Gauge,
    pub(crate) buffered: Gauge,
    pub(crate) delayed: Gauge,
    pub(crate) depth: Family<QueueLabel, Gauge>,
    pub(crate) oldest: Family<QueueLabel, Gauge>,
    pub(crate) waited: Histogram,
    pub(crate) took: Histogram,
}

impl Meters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        let gauge = |name, help| metrics.register(name, help, Gauge::default());
        let by_queue =
            |name, help| metrics.register(name, help, Family::<QueueLabel, Gauge>::default());
        let seconds = |name, help| {
            let buckets = exponential_buckets(0.000_5, 2.0, 24);
            metrics.register(name, help, Histogram::new(buckets))
        };
        Self {
            enqueued: counter(
                "jobs_enqueued",
                "Jobs enqueued by this server, those that were rolled back included.",
            ),
            started: counter("jobs_started", "Attempts begun."),
            done: counter("jobs_done", "Attempts that did their job."),
            failed: counter("jobs_failed", "Attempts that failed."),
            dead: counter("jobs_dead", "Jobs of which the last attempt failed."),
            lost: counter("jobs_lost", "Attempts whose worker went away."),
            late: counter(
                "jobs_late_ends",
                "Ends that were not kept, for another attempt had begun.",
            ),
            running: gauge("jobs_running", "Handlers that run."),
            buffered: gauge("jobs_buffered", "Jobs in the worker's memory that have not begun."),
            delayed: gauge("jobs_delayed", "Jobs that wait for their time, by the last count."),
            depth: by_queue("jobs_ready", "Jobs that could begin, by the last count."),
            oldest: by_queue(
                "jobs_oldest_seconds",
                "Since when the oldest of them was enqueued, by the last count.",
            ),
            waited: seconds("jobs_wait_seconds", "Seconds from a job's time to its beginning."),
            took: seconds("jobs_seconds", "Seconds that an attempt took."),
        }
    }
}
