use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Timestamp;

/// Counts deeds in windows of time, for limits such as so many attempts of an address in 15 minutes. It is in memory, so
/// a restart forgets them.
#[derive(Debug)]
pub struct Tally<K> {
    counts: Mutex<HashMap<K, Count>>,
    window: Duration,
    kept_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Timestamp,
    count: u32,
}

impl<K: Eq + Hash + Clone> Tally<K> {
    /// At most `kept_max` counts are kept; the oldest gives way to a new one.
    pub fn new(window: Duration, kept_max: usize) -> Self {
        Self { counts: Mutex::default(), window, kept_max }
    }

    /// Counts one more of each, unless one of them is at its limit: then none, and the answer is how long its window
    /// still lasts.
    pub fn count(&self, now: Timestamp, limits: &[(K, u32)]) -> Result<(), Duration> {
        let mut counts = self.counts.lock();
        let is_current = |count: &Count| now.since(count.since) < self.window;
        let full = limits.iter().filter_map(|(of, max)| {
            let current = counts.get(of).copied().filter(is_current);
            let current = current.unwrap_or(Count { since: now, count: 0 });
            (current.count >= *max).then(|| self.window.saturating_sub(now.since(current.since)))
        });
        if let Some(pause) = full.max() {
            return Err(pause);
        }
        let new = limits.iter().filter(|(of, _)| !counts.contains_key(of)).count();
        if new > 0 && counts.len() + new > self.kept_max {
            counts.retain(|_, count| is_current(count));
            // All are current: whoever began first has waited longest.
            while counts.len() + new > self.kept_max {
                let oldest = counts.iter().min_by_key(|(_, count)| count.since);
                let Some(oldest) = oldest.map(|(of, _)| of.clone()) else { break };
                counts.remove(&oldest);
            }
        }
        for (of, _) in limits {
            let count = counts.entry(of.clone()).or_insert(Count { since: now, count: 0 });
            if !is_current(count) {
                *count = Count { since: now, count: 0 };
            }
            count.count += 1;
        }
        Ok(())
    }

    /// Takes one back.
    pub fn take_back(&self, of: &K) {
        if let Some(count) = self.counts.lock().get_mut(of) {
            count.count = count.count.saturating_sub(1);
        }
    }

    /// Begins anew with one.
    pub fn forget(&self, of: &K) {
        self.counts.lock().remove(of);
    }

    /// How many counts are kept.
    pub fn len(&self) -> usize {
        self.counts.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const WINDOW: Duration = Duration::from_mins(15);

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_limit_holds_for_its_window_and_says_how_long_that_lasts() {
        let tally = Tally::new(WINDOW, 10);
        for _ in 0..3 {
            assert_eq!(tally.count(NOW, &[("a", 3)]), Ok(()));
        }
        assert_eq!(tally.count(at(60), &[("a", 3)]), Err(Duration::from_mins(14)));
        assert_eq!(tally.count(at(60), &[("b", 3)]), Ok(()), "each for itself");
        assert_eq!(tally.count(at(900), &[("a", 3)]), Ok(()));
        assert_eq!(tally.count(NOW, &[("none", 0)]), Err(WINDOW));
    }

    #[test]
    fn what_is_refused_counts_nowhere() {
        let tally = Tally::new(WINDOW, 10);
        tally.count(NOW, &[("a", 1)]).unwrap();
        for _ in 0..5 {
            assert!(tally.count(NOW, &[("b", 2), ("a", 1)]).is_err());
        }
        for _ in 0..2 {
            assert_eq!(tally.count(NOW, &[("b", 2)]), Ok(()));
        }
        tally.take_back(&"b");
        assert_eq!(tally.count(NOW, &[("b", 2)]), Ok(()));
        tally.forget(&"b");
        assert_eq!(tally.count(NOW, &[("b", 1)]), Ok(()));
    }

    #[test]
    fn counts_are_bounded_and_the_oldest_gives_way() {
        let tally = Tally::new(WINDOW, 10);
        for number in 0..100 {
            tally.count(at(number), &[(number, 5), (number + 1_000, 5)]).unwrap();
            assert!(tally.len() <= 10);
        }
        tally.count(at(100), &[(99, 1)]).unwrap_err();
        tally.count(at(100), &[(0, 1)]).unwrap();
        // One that is known needs no room.
        tally.count(at(100), &[(98, 5)]).unwrap();
        tally.count(at(100), &[(99, 1)]).unwrap_err();
    }
}
