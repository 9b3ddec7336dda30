use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) fsyncs: Counter,
    pub(crate) fsync_seconds: Histogram,
    pub(crate) failed: Gauge,
}

impl Metrics {
    pub(crate) fn register(metrics: &base::Metrics) -> Self {
        // From a tenth of a millisecond to three seconds.
        let fsync_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        Self {
            records: metrics.register(
                "eventlog_appended_records",
                "Records that are on disk.",
                Counter::default(),
            ),
            bytes: metrics.register(
                "eventlog_appended_bytes",
                "Bytes of batches that are on disk.",
                Counter::default(),
            ),
            fsyncs: metrics.register(
                "eventlog_fsyncs",
                "Syncs of segment files.",
                Counter::default(),
            ),
            fsync_seconds: metrics.register(
                "eventlog_fsync_seconds",
                "How long a sync of a segment file took.",
                fsync_seconds,
            ),
            failed: metrics.register(
                "eventlog_failed_partitions",
                "Partitions that take nothing until a restart, because the disk failed.",
                Gauge::default(),
            ),
        }
    }
}
