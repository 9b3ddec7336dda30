use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::engine::Engine;

/// Figures that are shown ten times a second at most.
#[derive(Clone)]
pub(crate) struct Metrics {
    commands: Gauge<u64, AtomicU64>,
    clients: Gauge<u64, AtomicU64>,
    rejected: Gauge<u64, AtomicU64>,
    keys: Gauge<u64, AtomicU64>,
    memory: Gauge<u64, AtomicU64>,
    expired: Gauge<u64, AtomicU64>,
    evicted: Gauge<u64, AtomicU64>,
    log_bytes: Gauge<u64, AtomicU64>,
    output_closed: Gauge<u64, AtomicU64>,
    panics: Gauge<u64, AtomicU64>,
    /// Turns that could not be put on disk.
    pub(crate) refused: Counter,
    pub(crate) rewrites: Counter,
}

impl Metrics {
    pub(crate) fn register(metrics: &base::Metrics) -> Self {
        let gauge = |name, help| metrics.register(name, help, Gauge::<u64, AtomicU64>::default());
        let counter = |name, help| metrics.register(name, help, Counter::default());
        Self {
            commands: gauge("kv_commands", "Commands that were run."),
            clients: gauge("kv_clients", "Open connections."),
            rejected: gauge("kv_rejected_clients", "Connections over the limit."),
            keys: gauge("kv_keys", "Keys, of all databases."),
            memory: gauge("kv_memory_bytes", "Bytes of keys and values."),
            expired: gauge("kv_expired_keys", "Keys whose time came."),
            evicted: gauge("kv_evicted_keys", "Keys that went to make room."),
            log_bytes: gauge("kv_log_bytes", "Bytes that a start would read beside the snapshot."),
            output_closed: gauge(
                "kv_slow_clients_closed",
                "Clients that did not take their output.",
            ),
            panics: gauge("kv_panics", "Commands and turns that ended in a panic."),
            refused: counter("kv_refused_turns", "Turns that could not be put on disk."),
            rewrites: counter("kv_rewrites", "Times the log began anew with a snapshot."),
        }
    }

    pub(crate) fn show(&self, engine: &Engine, log_bytes: u64) {
        let stats = &engine.stats;
        self.commands.set(stats.commands);
        self.clients.set(engine.clients as u64);
        self.rejected.set(stats.rejected);
        let keys: usize = (0..engine.store.databases()).map(|db| engine.store.len(db)).sum();
        self.keys.set(keys as u64);
        self.memory.set(engine.store.used_bytes() as u64);
        self.expired.set(stats.expired);
        self.evicted.set(stats.evicted);
        self.log_bytes.set(log_bytes);
        self.output_closed.set(stats.output_closed);
        self.panics.set(stats.panics);
    }
}
