//! Cool-downs: which matches are quiet because of alerts near them.

use std::collections::BTreeSet;
use std::time::Duration;

use base::Timestamp;

/// The alerts of one rule and device that are known, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Quiet {
    times: BTreeSet<i64>,
    /// Every alert at this time or later is in `times`; None: every alert there is.
    complete_from: Option<i64>,
}

/// What [`Quiet`] says of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alert,
    Quiet,
    /// The match reaches back before what is known.
    Unknown,
}

impl Quiet {
    /// `times` are the newest alerts; when there are `limit` of them, older ones may exist.
    pub(crate) fn new(times: BTreeSet<i64>, limit: usize) -> Self {
        let complete_from = if times.len() >= limit { times.first().copied() } else { None };
        Self { times, complete_from }
    }

    pub(crate) fn verdict(&self, time: Timestamp, cooldown: Duration) -> Verdict {
        let reach = i64::try_from(cooldown.as_micros()).unwrap_or(i64::MAX);
        if reach == 0 {
            return Verdict::Alert;
        }
        let (first, last) = (
            time.micros().saturating_sub(reach).saturating_add(1),
            time.micros().saturating_add(reach).saturating_sub(1),
        );
        if self.times.range(first..=last).next().is_some() {
            return Verdict::Quiet;
        }
        match self.complete_from {
            Some(from) if first < from => Verdict::Unknown,
            _ => Verdict::Alert,
        }
    }

    /// Notes an alert; forgets the oldest beyond `limit`.
    pub(crate) fn note(&mut self, time: Timestamp, limit: usize) {
        self.times.insert(time.micros());
        while self.times.len() > limit {
            self.times.pop_first();
            self.complete_from = self.complete_from.max(self.times.first().copied());
        }
    }
}
