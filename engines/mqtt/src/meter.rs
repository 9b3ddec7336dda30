use base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Clone)]
pub(crate) struct Meter {
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) retained: Gauge,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    dropped: Family<DropLabels, Counter>,
    pub(crate) publish_seconds: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: &'static str,
}

impl Meter {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let bounds = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
        Self {
            connections: metrics.register(
                "mqtt_connections",
                "Open MQTT connections.",
                Gauge::default(),
            ),
            sessions: metrics.register(
                "mqtt_sessions",
                "MQTT sessions, connected or kept.",
                Gauge::default(),
            ),
            retained: metrics.register(
                "mqtt_retained",
                "Retained MQTT messages.",
                Gauge::default(),
            ),
            received: metrics.register(
                "mqtt_messages_received",
                "Messages that clients published.",
                Counter::default(),
            ),
            sent: metrics.register(
                "mqtt_messages_sent",
                "Messages that were sent to subscribers, repeated ones included.",
                Counter::default(),
            ),
            dropped: metrics.register(
                "mqtt_dropped",
                "Messages that somebody did not get, by reason.",
                Family::default(),
            ),
            publish_seconds: metrics.register(
                "mqtt_publish_seconds",
                "Time from a publish to its acknowledgement.",
                Histogram::new(bounds),
            ),
        }
    }

    pub(crate) fn dropped(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.dropped.get_or_create(&DropLabels { reason }).inc_by(count);
        }
    }
}
