//! A calendar that is read minute by minute, and knows nothing of how the next moment of a cron is computed.

use base::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

pub(crate) const MINUTE: i64 = 60_000_000;
pub(crate) const ZONES: [&str; 6] = [
    "UTC",
    "Asia/Seoul",
    "America/New_York",
    "Australia/Lord_Howe",
    "Europe/London",
    // Clocks change at midnight.
    "Africa/Cairo",
];
pub(crate) const TEXTS: [&str; 14] = [
    "0 9 * * *",
    "30 2 * * *",
    "0,15,45 1-2 * * *",
    "*/7 2 * * 0",
    "15 * * * *",
    "*/20 */3 * * *",
    "0 0 * * *",
    "30 0,23 * * 5",
    "59 23 28-31 * *",
    "0 12 29 2 *",
    "5 4 13 * 5",
    "0 3 1 1-12/3 *",
    "45 1 * 3,4,10,11 0",
    "0 6 */9 */5 *",
];

/// What clocks in a zone show, minute by minute.
pub(crate) fn shown(zone: &TimeZone, (begin, end): (Timestamp, Timestamp)) -> Vec<DateTime> {
    let minutes = begin.micros() / MINUTE..end.micros() / MINUTE;
    minutes
        .map(|minute| zone.to_datetime(jiff::Timestamp::from_microsecond(minute * MINUTE).unwrap()))
        .collect()
}

/// The first number of each field, which `*` begins with: there is no day and no month 0.
const FIRST: [usize; 5] = [0, 0, 1, 1, 0];

/// Which numbers a field names.
fn named(field: &str, first: usize) -> Vec<bool> {
    let mut named = vec![false; 100];
    for part in field.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (low, high): (usize, usize) = match range.split_once('-') {
            Some((low, high)) => (low.parse().unwrap(), high.parse().unwrap()),
            None if range == "*" => (first, 99),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        (low..=high).step_by(step.parse().unwrap()).for_each(|number| named[number] = true);
    }
    named
}

/// What a calendar gives that is read minute by minute, and knows nothing of how `next` is computed.
pub(crate) fn naive(text: &str, begin: Timestamp, shown: &[DateTime]) -> Vec<Timestamp> {
    let fields: Vec<&str> = text.split(' ').collect();
    let sets: Vec<Vec<bool>> =
        fields.iter().zip(FIRST).map(|(field, first)| named(field, first)).collect();
    let has = |field: usize, number: i8| sets[field][usize::try_from(number).unwrap()];
    let either = fields[2] != "*" && fields[4] != "*";
    let is_named = |shown: DateTime| {
        let weekday = || has(4, shown.weekday().to_sunday_zero_offset());
        let day = has(2, shown.day());
        has(0, shown.minute())
            && has(1, shown.hour())
            && has(3, shown.month())
            && if either { day || weekday() } else { day && weekday() }
    };
    let by_elapsed_time = fields[1].starts_with('*');
    let minute = jiff::Span::new().minutes(1);
    let mut found = Vec::new();
    // The first minute that no clock has shown.
    let mut first_new = shown[0];
    for (time, shown) in (begin.micros()..).step_by(60_000_000).zip(shown) {
        let is_new = *shown >= first_new;
        let mut is_due = is_named(*shown) && (by_elapsed_time || is_new);
        if is_new {
            // Minutes that no clock shows.
            while first_new < *shown {
                is_due |= !by_elapsed_time && is_named(first_new);
                first_new = first_new.checked_add(minute).unwrap();
            }
            first_new = first_new.checked_add(minute).unwrap();
        }
        if is_due {
            found.push(Timestamp::from_micros(time));
        }
    }
    found
}
