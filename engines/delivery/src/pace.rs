//! How fast one way may be used: so many a second, as many at once after a pause.

use std::time::Duration;

use base::Timestamp;

/// What may be sent within a second, counted by when the last one's share of time ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    spent_until: Timestamp,
}

const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { spent_until: Timestamp::from_micros(0) }
    }

    /// How many may go now.
    pub(crate) fn allowed(self, per_second: u32, now: Timestamp) -> usize {
        let left = now.plus(BURST).since(self.begin(now)).as_micros();
        usize::try_from(left / share(per_second).as_micros().max(1)).unwrap_or(usize::MAX)
    }

    pub(crate) fn take(&mut self, count: usize, per_second: u32, now: Timestamp) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.spent_until = self.begin(now).plus(share(per_second).saturating_mul(count));
    }

    /// How long until one more may go, if `count` go now.
    pub(crate) fn wait(mut self, count: usize, per_second: u32, now: Timestamp) -> Duration {
        self.take(count, per_second, now);
        self.spent_until.plus(share(per_second)).since(now.plus(BURST))
    }

    /// Nothing of what was spent matters any more.
    pub(crate) fn is_fresh(self, now: Timestamp) -> bool {
        self.spent_until <= now
    }

    /// A clock that was set back must not stop the way for as long.
    fn begin(self, now: Timestamp) -> Timestamp {
        self.spent_until.max(now).min(now.plus(BURST))
    }
}

fn share(per_second: u32) -> Duration {
    BURST / per_second.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn a_second_worth_goes_at_once_and_then_one_by_one() {
        let mut pace = Pace::new();
        assert_eq!(pace.allowed(4, NOW), 4);
        assert_eq!(pace.wait(3, 4, NOW), Duration::ZERO);
        assert_eq!(pace.wait(4, 4, NOW), Duration::from_millis(250));
        pace.take(4, 4, NOW);
        assert_eq!(pace.allowed(4, NOW), 0);
        assert!(!pace.is_fresh(NOW));
        let later = NOW.plus(Duration::from_millis(250));
        assert_eq!(pace.allowed(4, later), 1);
        let much_later = NOW.plus(Duration::from_hours(1));
        assert_eq!(pace.allowed(4, much_later), 4, "a long pause saves nothing up");
        assert!(pace.is_fresh(much_later));
    }

    #[test]
    fn over_any_second_no_more_than_twice_the_rate_goes_and_over_many_the_rate() {
        let mut pace = Pace::new();
        let mut sent = 0;
        for millis in 0..10_000 {
            let now = NOW.plus(Duration::from_millis(millis));
            let allowed = pace.allowed(7, now);
            pace.take(allowed, 7, now);
            sent += allowed;
            if millis == 999 {
                assert!(sent <= 14, "{sent}");
            }
        }
        assert!((70..=77).contains(&sent), "{sent}");
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing_for_long() {
        let mut pace = Pace::new();
        pace.take(4, 4, NOW);
        let before = NOW.minus(Duration::from_hours(5));
        assert_eq!(pace.allowed(4, before), 0);
        assert!(pace.wait(0, 4, before) <= Duration::from_millis(250));
    }
}
