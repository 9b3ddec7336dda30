use base::{OrganisationId, Timestamp};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn schedule(cron: &str, zone: &str, missed: Missed) -> NewSchedule {
    let new = NewSchedule::of(OrganisationId::DEFAULT, "s", "k", cron.parse().unwrap());
    NewSchedule { zone: zone.to_owned(), missed, ..new }
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What is enqueued while the clock shows these moments, one after the other.
fn enqueued(new: &NewSchedule, clock: &[Timestamp]) -> Vec<Timestamp> {
    let config = Config::default();
    let mut next = new.first(clock[0]).unwrap();
    let mut times = Vec::new();
    for now in clock {
        let Some(first) = next else { break };
        let tick = new.tick(first, *now, &config).unwrap();
        times.extend(tick.times);
        next = tick.next;
    }
    times
}

fn minutes(begin: &str, end: &str) -> Vec<Timestamp> {
    let (begin, end) = (moment(begin), moment(end));
    let step = |now: &Timestamp| Some(now.plus(Duration::from_mins(1)));
    std::iter::successors(Some(begin), step).take_while(|now| *now <= end).collect()
}

/// A year in which the clock is set back and forward and the server is down for a while gives what a calendar
/// that nothing happens to gives, less what was missed by choice.
#[test]
fn a_year_with_a_clock_that_jumps_uses_every_time_once() {
    for zone_name in ["Asia/Seoul", "America/New_York", "Australia/Lord_Howe"] {
        for missed in [Missed::Once, Missed::All, Missed::Skip] {
            let new = schedule("30 1,2 * * *", zone_name, missed);
            let steady = minutes("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
            let calendar = {
                let zone = zone(zone_name).unwrap();
                new.between(steady[1], *steady.last().unwrap(), 10_000, &zone)
            };
            assert_eq!(enqueued(&new, &steady), calendar, "{zone_name}, {missed}");
            // Every six hours the clock is set back an hour: it shows each of those minutes again.
            let mut jumping: Vec<Timestamp> = Vec::new();
            for now in &steady {
                jumping.push(*now);
                if now.micros() % 21_600_000_000 == 0 {
                    jumping.extend(
                        (0..60).map(|minute| now.minus(HOUR).plus(Duration::from_mins(minute))),
                    );
                }
            }
            assert_eq!(enqueued(&new, &jumping), calendar, "{zone_name}, {missed}, set back");
        }
    }
}

#[test]
fn a_clock_that_is_set_forward_an_hour_misses_what_the_choice_says() {
    let mut clock = minutes("2024-06-01T00:00:00Z", "2024-06-01T04:00:00Z");
    let skipped = moment("2024-06-01T02:00:00Z");
    clock.retain(|now| *now <= skipped || *now >= skipped.plus(HOUR));
    let of = |missed| enqueued(&schedule("*/20 * * * *", "UTC", missed), &clock).len();
    // 12 times in four hours; 02:20 and 02:40 are jumped over, and 03:00 is there at once.
    assert_eq!(of(Missed::All), 12);
    assert_eq!(of(Missed::Once), 10);
    assert_eq!(of(Missed::Skip), 10);
}

#[test]
fn times_missed_in_a_long_absence_are_run_once_all_or_not_at_all() {
    let (left, back) = (moment("2024-02-01T00:30:00Z"), moment("2024-03-01T12:10:00Z"));
    let clock = [left, back, back.plus(Duration::from_mins(1))];
    let of = |missed| enqueued(&schedule("0 12 * * *", "UTC", missed), &clock);
    let days = |times: &[Timestamp]| times.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(days(&of(Missed::Once)), ["2024-03-01T12:00:00Z"]);
    assert_eq!(of(Missed::All).len(), 30, "the leap day is one of them");
    assert!(of(Missed::All).contains(&moment("2024-02-29T12:00:00Z")));
    assert!(of(Missed::Skip).is_empty(), "ten minutes late is missed");
    let punctual = [left, moment("2024-03-01T12:00:30Z")];
    let skip = schedule("0 12 * * *", "UTC", Missed::Skip);
    assert_eq!(days(&enqueued(&skip, &punctual)), ["2024-03-01T12:00:00Z"]);
}

#[test]
fn a_year_of_missed_minutes_is_bounded_and_found_at_once() {
    let clock = [moment("2023-01-01T00:00:00Z"), moment("2024-01-01T00:00:30Z")];
    let config = Config::default();
    let all = enqueued(&schedule("* * * * *", "Asia/Seoul", Missed::All), &clock);
    assert_eq!(all.len(), config.catch_up_max);
    assert_eq!(all.last(), Some(&moment("2024-01-01T00:00:00Z")));
    assert!(all.is_sorted());
}

#[test]
fn a_zone_is_one_of_the_database() {
    assert!(zone("Asia/Seoul").is_ok());
    for name in ["", "KST9", "Mars/Olympus", "../etc/passwd"] {
        assert!(matches!(zone(name), Err(Error::Zone(_))), "{name}");
    }
}
