//! When to try again.

use std::time::Duration;

use base::Timestamp;

/// Doubles with each of the `tries`; up to half of it is taken off by chance, so that messages spread.
pub(crate) fn back_off((min, max): (Duration, Duration), tries: u32, chance: u64) -> Duration {
    let whole = min.saturating_mul(1 << tries.saturating_sub(1).min(30)).min(max);
    let half = u64::try_from(whole.as_micros() / 2).unwrap_or(u64::MAX - 1);
    whole.saturating_sub(Duration::from_micros(chance % (half + 1)))
}

/// What a Retry-After asks for, in seconds or by a date (RFC 9110 §10.2.3); at most `max`.
pub(crate) fn retry_after(text: &str, now: Timestamp, max: Duration) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().map_or(max, |seconds| Duration::from_secs(seconds).min(max)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_micros(date.as_microsecond()).since(now).min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_half() {
        let bounds = (Duration::from_secs(5), Duration::from_hours(1));
        for (tries, whole) in
            [(1, 5), (2, 10), (3, 20), (10, 2_560), (11, 3_600), (u32::MAX, 3_600)]
        {
            let whole = Duration::from_secs(whole);
            assert_eq!(back_off(bounds, tries, 0), whole);
            for chance in [1, 12_345_678_901, u64::MAX] {
                let pause = back_off(bounds, tries, chance);
                assert!(whole / 2 <= pause && pause <= whole, "{tries}: {pause:?}");
            }
        }
        let longest = (Duration::MAX, Duration::MAX);
        assert!(back_off(longest, 2, u64::MAX) > Duration::from_hours(1));
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date_and_never_longer_than_allowed() {
        let now: Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
        let max = Duration::from_hours(1);
        let read = |text: &str| retry_after(text, now, max);
        assert_eq!(read("120"), Some(Duration::from_mins(2)));
        assert_eq!(read(" 0 "), Some(Duration::ZERO));
        assert_eq!(read("7200"), Some(max));
        assert_eq!(read("99999999999999999999999"), Some(max));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        for text in ["", "-1", "soon", "1.5", "12 s", "2015-10-21"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
