use std::sync::atomic::AtomicU64;

use base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// What `/metrics` shows of devices, over all organisations.
pub(crate) struct Meters {
    pub accepted: Counter,
    pub refused: Family<RefusalLabels, Counter>,
    pub repeated: Counter,
    pub stored: Counter,
    pub alerts: Counter,
    pub mails_refused: Counter,
    pub health_changes: Counter,
    pub commands_sent: Counter,
    pub commands_late: Counter,
    pub rules_evaluated: Counter,
    /// What reading records and evaluating rules took of one thread.
    pub rules_seconds: Counter<f64, AtomicU64>,
    pub rules_late: Counter,
    pub rules_forgotten: Counter,
    pub expired: Counter,
    pub lag: Gauge,
    pub seconds: Histogram,
    pub batch_seconds: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusalLabels {
    pub reason: &'static str,
}

impl Meters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        let seconds = |name, help| {
            metrics.register(name, help, Histogram::new(exponential_buckets(0.001, 2.0, 16)))
        };
        Self {
            accepted: counter("devices_readings_accepted", "Readings put into the log."),
            refused: metrics.register(
                "devices_readings_refused",
                "Messages that became dead letters.",
                Family::default(),
            ),
            repeated: counter("devices_readings_repeated", "Readings that were there before."),
            stored: counter("devices_readings_stored", "Readings that pipelines took as new."),
            alerts: counter("devices_alerts", "Alerts raised."),
            mails_refused: counter(
                "devices_mails_refused",
                "Alerts whose mail was not taken; the alert says why.",
            ),
            health_changes: counter(
                "devices_health_changes",
                "Changes of devices' health that were written down.",
            ),
            commands_sent: counter(
                "devices_commands_sent",
                "Commands published, each as often as it went out.",
            ),
            commands_late: counter(
                "devices_commands_late",
                "Commands that no device answered in time.",
            ),
            rules_evaluated: counter(
                "devices_rules_evaluated",
                "How often a rule looked at a reading.",
            ),
            rules_seconds: metrics.register(
                "devices_rules_seconds",
                "Seconds of one thread for reading records and evaluating rules.",
                Counter::default(),
            ),
            rules_late: counter(
                "devices_rules_late",
                "Readings that came later than their sensor allows; no rule looked at them.",
            ),
            rules_forgotten: counter(
                "devices_rules_forgotten",
                "How often a rule had no room to remember something (rule_memory_pairs_max).",
            ),
            expired: counter(
                "devices_readings_expired",
                "Readings that came when readings of their day were no longer kept.",
            ),
            lag: metrics.register(
                "devices_pipeline_lag_records",
                "Records in the log that no pipeline has taken yet.",
                Gauge::default(),
            ),
            seconds: seconds(
                "devices_reading_seconds",
                "Seconds from receiving a reading until SQL shows it.",
            ),
            batch_seconds: seconds(
                "devices_batch_seconds",
                "Seconds that a pipeline takes for one batch.",
            ),
        }
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }
}
