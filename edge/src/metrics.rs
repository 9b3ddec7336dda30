use std::time::Duration;

use base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// What the HTTP door counts. Labels are operation ids and five classes, so their number is bounded.
#[derive(Clone)]
pub(crate) struct Counts {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<OperationLabels, Histogram, fn() -> Histogram>,
    statements: Family<OperationLabels, Histogram, fn() -> Histogram>,
    pub(crate) panics: Counter,
    pub(crate) streams: Gauge,
    pub(crate) bodies: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

impl Counts {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        Self {
            requests: metrics.register("http_requests", "Requests answered.", Family::default()),
            seconds: metrics.register(
                "http_request_seconds",
                "Time until an answer began.",
                seconds,
            ),
            statements: metrics.register(
                "http_request_statements",
                "Statements that a request ran on rows.",
                Family::new_with_constructor(statements as fn() -> Histogram),
            ),
            panics: metrics.register("http_panics", "Handlers that panicked.", Counter::default()),
            streams: metrics.register("http_streams", "Event streams open.", Gauge::default()),
            bodies: metrics.register(
                "http_bodies",
                "Requests whose bodies are still coming.",
                Gauge::default(),
            ),
        }
    }

    pub(crate) fn answered(&self, operation: &'static str, status: u16, took: Duration) {
        let status = match status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { operation, status }).inc();
        self.seconds.get_or_create(&OperationLabels { operation }).observe(took.as_secs_f64());
    }

    pub(crate) fn asked(&self, operation: &'static str, statements: u64) {
        self.statements.get_or_create(&OperationLabels { operation }).observe(statements as f64);
    }
}

fn statements() -> Histogram {
    Histogram::new([0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0])
}

fn histogram() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}
