use std::collections::HashMap;
use std::sync::Arc;

use base::Metrics;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// What `/metrics` shows of kept results.
pub(crate) struct Meter {
    pub(crate) bytes: Gauge,
    pub(crate) entries: Gauge,
    pub(crate) flights: Gauge,
    pub(crate) version_reads: Counter,
    pub(crate) stored: Counter,
    pub(crate) no_room: Counter,
    pub(crate) kept_failures: Counter,
    evictions: Family<Evicted, Counter>,
    families: Families,
    /// Of each question, so that a look-up of labels is not part of every answer.
    questions: Mutex<HashMap<&'static str, Arc<QuestionMeter>>>,
}

/// What is counted of one kind of question.
pub(crate) struct QuestionMeter {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) joined: Counter,
    pub(crate) computes: Counter,
    pub(crate) failures: Counter,
    pub(crate) too_large: Counter,
    pub(crate) from_kv: Counter,
    pub(crate) compute_seconds: Histogram,
}

struct Families {
    hits: Family<Named, Counter>,
    misses: Family<Named, Counter>,
    joined: Family<Named, Counter>,
    computes: Family<Named, Counter>,
    failures: Family<Named, Counter>,
    too_large: Family<Named, Counter>,
    from_kv: Family<Named, Counter>,
    compute_seconds: Family<Named, Histogram, fn() -> Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    question: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evicted {
    reason: Reason,
}

/// Why an answer is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Reason {
    /// Others needed its room.
    Room,
    /// A newer answer took its place.
    Replaced,
    /// Its subject was evicted.
    Subject,
}

impl Meter {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| {
            metrics.register(&format!("results_{name}"), help, Family::<Named, Counter>::default())
        };
        let gauge = |name: &str, help: &str| {
            metrics.register(&format!("results_{name}"), help, Gauge::default())
        };
        let count = |name: &str, help: &str| {
            metrics.register(&format!("results_{name}"), help, Counter::default())
        };
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 4.0, 11));
        Self {
            bytes: gauge("bytes", "Memory of kept answers with their keys."),
            entries: gauge("entries", "Answers that are kept."),
            flights: gauge("flights", "Computations under way."),
            version_reads: count(
                "version_reads",
                "Reads of versions from the rows, each for everybody who waited.",
            ),
            stored: count("stored", "Answers that were put into kv."),
            no_room: count("no_room", "Answers for which an organisation's part of kv was full."),
            kept_failures: count(
                "kept_failures",
                "Times that kv did not say or do what was asked.",
            ),
            evictions: metrics.register(
                "results_evictions",
                "Answers no longer kept.",
                Family::default(),
            ),
            families: Families {
                hits: counter("hits", "Answers that were kept already."),
                misses: counter("misses", "Questions that began a computation."),
                joined: counter("joined", "Questions that waited for another's computation."),
                computes: counter("computes", "Computations that ran."),
                failures: counter("compute_failures", "Computations that gave no answer."),
                too_large: counter("too_large", "Answers given and not kept for their size."),
                from_kv: counter("from_kv", "Answers that stood in kv."),
                compute_seconds: metrics.register(
                    "results_compute_seconds",
                    "How long computations ran.",
                    Family::new_with_constructor(seconds),
                ),
            },
            questions: Mutex::default(),
        }
    }

    pub(crate) fn question(&self, question: &'static str) -> Arc<QuestionMeter> {
        let mut questions = self.questions.lock();
        questions.entry(question).or_insert_with(|| Arc::new(self.families.of(question))).clone()
    }

    pub(crate) fn evicted(&self, reason: Reason, count: usize) {
        if count > 0 {
            self.evictions.get_or_create(&Evicted { reason }).inc_by(count as u64);
        }
    }
}

impl Families {
    fn of(&self, question: &'static str) -> QuestionMeter {
        let named = Named { question };
        QuestionMeter {
            hits: self.hits.get_or_create(&named).clone(),
            misses: self.misses.get_or_create(&named).clone(),
            joined: self.joined.get_or_create(&named).clone(),
            computes: self.computes.get_or_create(&named).clone(),
            failures: self.failures.get_or_create(&named).clone(),
            too_large: self.too_large.get_or_create(&named).clone(),
            from_kv: self.from_kv.get_or_create(&named).clone(),
            compute_seconds: self.compute_seconds.get_or_create(&named).clone(),
        }
    }
}
