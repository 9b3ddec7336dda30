#[path = "../../examples/clocks/calendar.rs"]
mod calendar;

use base::Timestamp;
use jiff::tz::TimeZone;

use super::{Cron, CronError};
use calendar::{TEXTS, ZONES, naive, shown};

fn cron(text: &str) -> Cron {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_simulated_year_equals_a_naive_calendar() {
    for name in ZONES {
        let zone = TimeZone::get(name).unwrap();
        // 2024 is a leap year; the days around it show the year's edges.
        let (begin, end) = (moment("2023-12-30T00:00:00Z"), moment("2025-01-02T00:00:00Z"));
        let shown = shown(&zone, (begin, end));
        for text in TEXTS {
            let expected = naive(text, begin, &shown);
            let (cron, mut found) = (cron(text), Vec::new());
            let mut after = Timestamp::from_micros(begin.micros() - 1);
            while let Some(next) = cron.next(after, &zone).filter(|next| *next < end) {
                assert!(next > after, "{text} in {name} goes back");
                found.push(next);
                after = next;
            }
            let both = found.iter().zip(&expected).find(|(one, other)| one != other);
            assert_eq!(both, None, "{text} in {name}");
            assert_eq!(found.len(), expected.len(), "{text} in {name}");
        }
    }
}

#[test]
fn a_skipped_moment_comes_at_the_end_of_the_gap_and_a_repeated_one_once() {
    let new_york = TimeZone::get("America/New_York").unwrap();
    let check = |text: &str, after: &str, next: &str| {
        assert_eq!(cron(text).next(moment(after), &new_york), Some(moment(next)), "{text}");
    };
    // On 10 March 2024 clocks go from 02:00 to 03:00, on 3 November from 02:00 to 01:00.
    check("30 2 * * *", "2024-03-10T00:00:00-05:00", "2024-03-10T03:00:00-04:00");
    check("30 2 * * *", "2024-03-10T03:00:00-04:00", "2024-03-11T02:30:00-04:00");
    check("30 1 * * *", "2024-11-03T00:00:00-04:00", "2024-11-03T01:30:00-04:00");
    check("30 1 * * *", "2024-11-03T01:30:00-04:00", "2024-11-04T01:30:00-05:00");
    check("30 * * * *", "2024-11-03T01:30:00-04:00", "2024-11-03T01:30:00-05:00");
    check("30 * * * *", "2024-03-10T01:30:00-05:00", "2024-03-10T03:30:00-04:00");
}

#[test]
fn a_leap_day_comes_when_there_is_one() {
    let leap = cron("0 0 29 2 *");
    let next = leap.next(moment("2096-03-01T00:00:00Z"), &TimeZone::UTC);
    assert_eq!(next, Some(moment("2104-02-29T00:00:00Z")), "2100 is no leap year");
    let after = leap.next(moment("2024-02-29T00:00:00Z"), &TimeZone::UTC);
    assert_eq!(after, Some(moment("2028-02-29T00:00:00Z")));
}

#[test]
fn names_ranges_and_short_forms_are_read() {
    let after = moment("2026-01-01T00:00:00Z");
    let check = |text: &str, next: &str| {
        assert_eq!(cron(text).next(after, &TimeZone::UTC), Some(moment(next)), "{text}");
    };
    check("0 9 * * MON-fri", "2026-01-01T09:00:00Z");
    check("0 0 * feb,Mar *", "2026-02-01T00:00:00Z");
    check("0 0 * * 7", "2026-01-04T00:00:00Z");
    check("0 0 * * 5-7", "2026-01-02T00:00:00Z");
    check("5/20 3 * * *", "2026-01-01T03:05:00Z");
    check("@hourly", "2026-01-01T01:00:00Z");
    check("@daily", "2026-01-02T00:00:00Z");
    check("@weekly", "2026-01-04T00:00:00Z");
    check("@monthly", "2026-02-01T00:00:00Z");
    check("@yearly", "2027-01-01T00:00:00Z");
    assert_eq!(cron(" 0  9 * * * ").to_string(), "0 9 * * *");
}

#[test]
fn what_is_no_cron_is_refused_by_the_name_of_its_field() {
    let refused = |text: &str| text.parse::<Cron>().unwrap_err().to_string();
    assert_eq!("* * * *".parse::<Cron>(), Err(CronError::Fields));
    assert_eq!("0 0 30 2 *".parse::<Cron>(), Err(CronError::Never));
    for (text, field) in [
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        (", * * * *", "minute"),
        ("+5 * * * *", "minute"),
        ("* * * juni *", "month"),
    ] {
        assert!(refused(text).contains(&format!("field {field} ")), "{text}: {}", refused(text));
    }
}
