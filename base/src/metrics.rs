use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};

/// Everything that `/metrics` shows, in the `OpenMetrics` text format; cloning shares it.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    task_panics: Family<TaskLabels, Counter>,
    task_restarts: Family<TaskLabels, Counter>,
    connections_refused: Family<DoorLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    door: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TaskLabels {
    pub task: &'static str,
}

impl Metrics {
    /// Adds a metric and gives it back: `let sent = metrics.register("sent", "Mails sent.", Counter::default())`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.registry.lock().register(name, help, metric.clone());
        metric
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry.lock())
            .expect("writing to a string cannot fail");
        text
    }

    /// Counts a connection that a door closed at once, since its peer has too many.
    pub fn refused_connection(&self, door: &'static str) {
        self.0.connections_refused.get_or_create(&DoorLabels { door }).inc();
    }

    pub(crate) fn task_panicked(&self, task: &'static str) {
        self.0.task_panics.get_or_create(&TaskLabels { task }).inc();
    }

    pub(crate) fn task_restarted(&self, task: &'static str) {
        self.0.task_restarts.get_or_create(&TaskLabels { task }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("madang");
        let task_panics = Family::<TaskLabels, Counter>::default();
        let task_restarts = Family::<TaskLabels, Counter>::default();
        registry.register("task_panics", "Panics caught in a task.", task_panics.clone());
        registry.register(
            "task_restarts",
            "Times a task was started again.",
            task_restarts.clone(),
        );
        let connections_refused = Family::<DoorLabels, Counter>::default();
        registry.register(
            "connections_refused",
            "Connections that were closed at once, since their peer had too many.",
            connections_refused.clone(),
        );
        let registry = Mutex::new(registry);
        Self(Arc::new(Inner { registry, task_panics, task_restarts, connections_refused }))
    }
}
