use std::sync::atomic::{AtomicU64, Ordering};

use base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

pub(crate) struct Meter {
    pub(crate) connections: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) received: Counter,
    pub(crate) told: Counter,
    pub(crate) sent: Counter,
    pub(crate) resumed: Counter,
    closed: Family<CloseLabels, Counter>,
    unkept: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabels {
    reason: &'static str,
}

impl Meter {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        let gauge = |name, help| metrics.register(name, help, Gauge::default());
        Self {
            connections: gauge("sockets_connections", "Open STOMP connections."),
            subscriptions: gauge("sockets_subscriptions", "Subscriptions of open connections."),
            received: counter("sockets_messages_received", "Messages that clients sent."),
            told: counter("sockets_messages_told", "Messages put out for subscribers of topics."),
            sent: counter("sockets_messages_sent", "Messages written to connections."),
            resumed: counter("sockets_messages_resumed", "Messages that a resume read again."),
            closed: metrics.register(
                "sockets_closed",
                "Connections that were closed with an ERROR, by reason.",
                Family::default(),
            ),
            unkept: AtomicU64::new(0),
        }
    }

    pub(crate) fn told(&self, count: usize) {
        self.told.inc_by(count as u64);
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&CloseLabels { reason }).inc();
    }

    /// Numbers a message that is not kept.
    pub(crate) fn unkept(&self) -> u64 {
        self.unkept.fetch_add(1, Ordering::Relaxed)
    }
}
