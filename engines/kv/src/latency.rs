//! What took long, by what it was, and how long commands take: for LATENCY.

use std::collections::{BTreeMap, VecDeque};

use crate::command::COMMANDS;

/// Moments of one event that are remembered.
const MOMENTS_MAX: usize = 160;
/// A bucket holds what took less than twice as many microseconds as the one before it.
const BUCKETS: usize = 32;
/// Commands that take about the same time always are timed each so many calls.
pub(crate) const SAMPLED_EVERY: u64 = 64;

#[derive(Default)]
pub(crate) struct Latency {
    events: BTreeMap<&'static str, Event>,
    /// Of each command, when it was timed.
    histograms: Vec<Option<Box<[u64; BUCKETS]>>>,
}

#[derive(Default)]
pub(crate) struct Event {
    /// Seconds since 1970 and milliseconds, the newest last; of one second the longest.
    pub(crate) moments: VecDeque<(i64, i64)>,
    pub(crate) longest: i64,
}

impl Latency {
    /// Something took so many milliseconds.
    pub(crate) fn note(&mut self, event: &'static str, now: i64, millis: i64) {
        let event = self.events.entry(event).or_default();
        event.longest = event.longest.max(millis);
        let second = now.div_euclid(1_000);
        match event.moments.back_mut() {
            Some((last, took)) if *last == second => *took = (*took).max(millis),
            _ => event.moments.push_back((second, millis)),
        }
        if event.moments.len() > MOMENTS_MAX {
            event.moments.pop_front();
        }
    }

    pub(crate) fn events(&self) -> &BTreeMap<&'static str, Event> {
        &self.events
    }

    /// Forgets those events, or all; says how many there were.
    pub(crate) fn forget(&mut self, names: &[String]) -> usize {
        let before = self.events.len();
        self.events.retain(|name, _| !names.is_empty() && !names.iter().any(|one| one == name));
        before - self.events.len()
    }

    /// A command took so many microseconds.
    pub(crate) fn count(&mut self, command: usize, micros: u64) {
        if self.histograms.is_empty() {
            self.histograms.resize_with(COMMANDS.len(), || None);
        }
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        let histogram = self.histograms[command].get_or_insert_with(|| Box::new([0; BUCKETS]));
        histogram[bucket.min(BUCKETS - 1)] += 1;
    }

    /// Upper bounds in microseconds, and how many took no longer.
    pub(crate) fn histogram(&self, command: usize) -> Vec<(u64, u64)> {
        let Some(Some(histogram)) = self.histograms.get(command) else { return Vec::new() };
        let mut sum = 0;
        let all = histogram.iter().enumerate().map(|(bucket, count)| {
            sum += count;
            (1 << bucket, sum)
        });
        let all: Vec<(u64, u64)> = all.filter(|(_, count)| *count > 0).collect();
        let most = all.last().map_or(0, |(_, count)| *count);
        let needed = all.iter().take_while(|(_, count)| *count < most).count() + 1;
        all.into_iter().take(needed).collect()
    }

    pub(crate) fn forget_histograms(&mut self) {
        self.histograms.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_second_the_longest_is_remembered_and_old_moments_go() {
        let mut latency = Latency::default();
        for (now, millis) in [(1_000, 30), (1_999, 50), (1_500, 40), (2_000, 10)] {
            latency.note("command", now, millis);
        }
        let event = &latency.events()["command"];
        assert_eq!(event.moments, [(1, 50), (2, 10)]);
        assert_eq!(event.longest, 50);
        for second in 0..200 {
            latency.note("expire-cycle", second * 1_000, 5);
        }
        assert_eq!(latency.events()["expire-cycle"].moments.len(), MOMENTS_MAX);
        assert_eq!(latency.forget(&["nothing".into()]), 0);
        assert_eq!(latency.forget(&["command".into()]), 1);
        assert_eq!(latency.forget(&[]), 1);
    }

    #[test]
    fn a_histogram_counts_what_took_no_longer() {
        let mut latency = Latency::default();
        assert!(latency.histogram(3).is_empty());
        for micros in [0, 3, 3, 9] {
            latency.count(3, micros);
        }
        assert_eq!(latency.histogram(3), [(1, 1), (2, 1), (4, 3), (8, 3), (16, 4)]);
        latency.forget_histograms();
        assert!(latency.histogram(3).is_empty());
    }
}
