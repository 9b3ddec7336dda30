use std::time::Duration;

use crate::Error;

/// How much is kept, how long, and how much work may run at once.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Memory for kept answers with their keys, of all organisations together.
    pub bytes_max: u64,
    /// Answers kept at once.
    pub entries_max: usize,
    /// A larger answer is given and not kept.
    pub value_bytes_max: u64,
    /// The longest key of a question.
    pub key_bytes_max: usize,
    /// Subjects that one question may depend on.
    pub question_subjects_max: usize,
    /// The longest that an answer is kept, whatever its question asks for.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub ttl_max: Duration,
    /// How much earlier than asked an answer may end, by chance, so that not all end at once.
    pub ttl_jitter_percent: u8,
    /// Answers that are computed at once; beyond it new computations are refused.
    pub flights_max: usize,
    /// How long one computation may run.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub compute_time_max: Duration,
    /// Subjects whose versions are known in memory, where this process alone writes.
    pub subjects_mirrored_max: usize,
    /// Callers that may wait for versions from the rows.
    pub version_waits_max: usize,
    /// Answers kept in kv, where they outlast the process and other nodes find them, in bytes of one organisation.
    pub kept_bytes_max: u64,
    /// The same, in answers of one organisation; 0 keeps none.
    pub kept_entries_max: u64,
    /// A larger answer is not kept in kv.
    pub kept_value_bytes_max: u64,
    /// An answer that took less time to compute is not kept in kv, unless its question is shared.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub kept_from: Duration,
    /// How long kv may take; then the answer is computed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub kept_wait_max: Duration,
    /// How long a kv that failed is left alone.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub kept_rest: Duration,
    /// How soon another node takes over from one that stopped while computing a shared answer.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub shared_lease: Duration,
    /// How often a node looks for an answer that another node computes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub shared_look: Duration,
    /// How long a node waits for another one before it computes for itself.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub shared_wait_max: Duration,
    /// How often rows that nobody needs any more are removed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub tidy_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            entries_max: 100_000,
            value_bytes_max: 4 << 20,
            key_bytes_max: 16 << 10,
            question_subjects_max: 16,
            ttl_max: Duration::from_hours(24),
            ttl_jitter_percent: 10,
            flights_max: 1_024,
            compute_time_max: Duration::from_mins(5),
            subjects_mirrored_max: 100_000,
            version_waits_max: 16_384,
            kept_bytes_max: 64 << 20,
            kept_entries_max: 10_000,
            kept_value_bytes_max: 1 << 20,
            kept_from: Duration::from_millis(5),
            kept_wait_max: Duration::from_millis(250),
            kept_rest: Duration::from_secs(1),
            shared_lease: Duration::from_secs(10),
            shared_look: Duration::from_millis(50),
            shared_wait_max: Duration::from_secs(30),
            tidy_every: Duration::from_mins(10),
        }
    }
}

impl Config {
    /// Says what is wrong, by the field's name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = [
            ("key_bytes_max", self.key_bytes_max),
            ("question_subjects_max", self.question_subjects_max),
            ("flights_max", self.flights_max),
            ("subjects_mirrored_max", self.subjects_mirrored_max),
            ("version_waits_max", self.version_waits_max),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::Config(format!("{name} must be at least 1")));
            }
        }
        let times = [
            ("compute_time_max", self.compute_time_max),
            ("shared_lease", self.shared_lease),
            ("shared_look", self.shared_look),
            ("kept_wait_max", self.kept_wait_max),
            ("tidy_every", self.tidy_every),
        ];
        for (name, value) in times {
            if value.is_zero() {
                return Err(Error::Config(format!("{name} must be longer than nothing")));
            }
        }
        if self.ttl_jitter_percent > 100 {
            return Err(Error::Config("ttl_jitter_percent must be at most 100".into()));
        }
        if self.value_bytes_max > self.bytes_max {
            return Err(Error::Config("value_bytes_max must be at most bytes_max".into()));
        }
        if self.kept_value_bytes_max > self.kept_bytes_max {
            let problem = "kept_value_bytes_max must be at most kept_bytes_max";
            return Err(Error::Config(problem.into()));
        }
        Ok(())
    }

    /// How long after its last change a subject's version must be remembered: longer than anything that
    /// was computed before that change can be kept, or be under way.
    pub(crate) fn versions_kept(&self) -> Duration {
        (self.ttl_max + self.compute_time_max) * 2 + CLOCKS_DIFFER_MAX
    }
}

/// How much the clocks of two nodes, or of one node at two times, may differ before a forgotten subject's
/// next version could be taken for an older one.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_hours(24);
