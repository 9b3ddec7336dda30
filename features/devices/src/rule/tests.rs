//! Rules against a naive evaluator, and what is easiest to get wrong one by one.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::area::Shape;
use super::*;
use crate::reading::Reading;
use crate::registry::{Device, Position};

fn text(conditions: Vec<Condition>, window: Option<Window>) -> RuleText {
    RuleText {
        name: "hot".into(),
        sensor: "weather".into(),
        device: None,
        tags: vec![],
        groups: vec![],
        area: None,
        is_enabled: true,
        conditions,
        window,
        lasting: Duration::ZERO,
        is_once: false,
        cooldown: Duration::from_mins(3),
        actions: vec![Deed::Email { to: "keeper@example.org".into() }],
        escalation: None,
    }
}

fn at_least(value: &str, min: f64) -> Condition {
    among(value, vec![Range { min: Some(min), max: None }])
}

fn among(value: &str, ranges: Vec<Range>) -> Condition {
    Condition { value: value.into(), test: Test::Ranges { ranges, hold: None } }
}

fn set(texts: Vec<RuleText>) -> RuleSet {
    let now = Timestamp::from_micros(0);
    let rules = texts.into_iter().zip(1..).map(|(text, number)| {
        let id = RuleId::fixed(number);
        (id, Arc::new(Rule { id, version: 1, text, created: now, updated: now }))
    });
    RuleSet::new(1, rules.collect())
}

fn reading<'a>(device: &'a str, time: Timestamp, values: &[(&'a str, f64)]) -> Reading<'a> {
    Reading {
        device: Cow::Borrowed(device),
        sensor: Cow::Borrowed("weather"),
        time,
        values: values.iter().map(|&(name, value)| (Cow::Borrowed(name), value)).collect(),
    }
}

fn count(set: &RuleSet, reading: &Reading<'_>) -> usize {
    let mut matched = Vec::new();
    set.evaluate(reading, (None, Order::Newest), &mut Memory::new(100), &mut matched);
    matched.len()
}

fn window(from: &str, to: &str, zone: &str) -> Window {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    Window { from, to, days: Days::ALL, zone: zone.into() }
}

#[test]
fn a_range_has_its_lower_bound_and_not_its_upper() {
    let range = Range { min: Some(1.0), max: Some(2.0) };
    let set = set(vec![text(vec![among("v", vec![range])], None)]);
    let now = Timestamp::from_micros(0);
    for (value, expected) in [(0.999, 0), (1.0, 1), (1.999, 1), (2.0, 0), (-0.0, 0)] {
        assert_eq!(count(&set, &reading("a", now, &[("v", value)])), expected, "{value}");
    }
}

#[test]
fn a_missing_value_never_matches_not_even_an_open_range() {
    let open = among("v", vec![Range { min: None, max: None }]);
    let set = set(vec![text(vec![open], None)]);
    let now = Timestamp::from_micros(0);
    assert_eq!(count(&set, &reading("a", now, &[("v", -1e300)])), 1);
    assert_eq!(count(&set, &reading("a", now, &[("w", 1.0)])), 0);
}

#[test]
fn another_device_another_sensor_and_a_disabled_rule_do_not_match() {
    let mut one = text(vec![at_least("v", 0.0)], None);
    one.device = Some("a".into());
    let mut off = text(vec![at_least("v", 0.0)], None);
    off.is_enabled = false;
    let mut other = text(vec![at_least("v", 0.0)], None);
    other.sensor = "soil".into();
    let set = set(vec![one, off, other]);
    let now = Timestamp::from_micros(0);
    assert_eq!(count(&set, &reading("a", now, &[("v", 1.0)])), 1);
    assert_eq!(count(&set, &reading("b", now, &[("v", 1.0)])), 0);
}

/// s25: the time filter was inverted, so it never let anything pass.
#[test]
fn a_window_passes_what_is_inside_and_nothing_else() {
    let cases = [
        ("22:00", "06:00", "America/New_York", "2013-01-01T06:00:00-05:00", 0),
        ("22:00", "06:00", "America/New_York", "2013-01-01T05:59:59.999999-05:00", 1),
        ("22:00", "06:00", "America/New_York", "2013-01-01T22:00:00-05:00", 1),
        ("22:00", "06:00", "America/New_York", "2013-01-01T21:59:59.999999-05:00", 0),
        ("22:00", "06:00", "America/New_York", "2013-01-01T00:00:00-05:00", 1),
        ("09:00", "18:00", "Asia/Seoul", "2013-01-01T00:00:00Z", 1),
        ("09:00", "18:00", "Asia/Seoul", "2013-01-01T09:00:00Z", 0),
        ("00:00", "00:01", "UTC", "2013-01-01T00:00:59Z", 1),
        ("23:59", "00:00", "UTC", "2013-01-01T23:59:59Z", 1),
        ("23:59", "00:00", "UTC", "2013-01-01T00:00:00Z", 0),
        // The clocks go from 02:00 to 03:00: no moment is between.
        ("02:00", "03:00", "America/New_York", "2013-03-10T06:59:59Z", 0),
        ("02:00", "03:00", "America/New_York", "2013-03-10T07:00:00Z", 0),
        ("03:00", "04:00", "America/New_York", "2013-03-10T07:00:00Z", 1),
        // The clocks go from 02:00 back to 01:00: the hour from one is there twice.
        ("01:00", "02:00", "America/New_York", "2013-11-03T05:30:00Z", 1),
        ("01:00", "02:00", "America/New_York", "2013-11-03T06:30:00Z", 1),
        ("01:00", "02:00", "America/New_York", "2013-11-03T07:00:00Z", 0),
    ];
    for (from, to, zone, time, expected) in cases {
        let set = set(vec![text(vec![at_least("v", 0.0)], Some(window(from, to, zone)))]);
        let reading = reading("a", time.parse().unwrap(), &[("v", 1.0)]);
        assert_eq!(count(&set, &reading), expected, "{time} in {from}-{to} {zone}");
    }
}

#[test]
fn what_is_wrong_with_a_rule_is_pointed_at() {
    let config = Config::default();
    let sensor = Sensor::new("weather", &["temp"], Timestamp::from_micros(0));
    let pointers = |text: &RuleText, sensor: Option<&Sensor>| -> Vec<String> {
        let faults = text.faults(sensor, |to| to != "refused@example.org", &config);
        faults.into_iter().map(|fault| fault.pointer).collect()
    };
    let sound = text(vec![at_least("temp", 90.0)], Some(window("22:00", "06:00", "Asia/Seoul")));
    assert!(pointers(&sound, Some(&sensor)).is_empty());
    assert_eq!(pointers(&sound, None), ["/sensor"]);
    let mut wrong = sound;
    wrong.name = " ".into();
    wrong.device = Some("a/b".into());
    wrong.conditions = vec![at_least("humid", 1.0), at_least("temp", 1.0)];
    let empty = Range { min: Some(2.0), max: Some(2.0) };
    wrong.conditions[1] = among("temp", vec![empty]);
    wrong.conditions.push(Condition {
        value: "temp".into(),
        test: Test::Compare { is: Comparison::Above, other: "temp".into(), plus: f64::NAN },
    });
    let change = Change { by: 0.0, within: Duration::ZERO, direction: Direction::Rise };
    wrong.conditions.push(Condition { value: "temp".into(), test: Test::Change(change) });
    wrong.conditions.push(Condition {
        value: "temp".into(),
        test: Test::Ranges { ranges: vec![], hold: Some(empty) },
    });
    wrong.tags = vec![" ".into()];
    wrong.area = Some(Area { outside: false, shape: Shape::Polygon { points: vec![] } });
    wrong.lasting = Duration::MAX;
    wrong.window = Some(window("06:00", "06:00", "Asia/Busan"));
    wrong.cooldown = Duration::MAX;
    wrong.actions = ["", "a", "a@", "@b", "a@b@c", "a b@c", "a@-b.c", "a@b..c", "한@b.kr"]
        .map(|to| Deed::Email { to: to.into() })
        .into();
    wrong.actions.truncate(config.actions_max);
    wrong.actions[1] = Deed::Email { to: "refused@example.org".into() };
    let mut expected: Vec<String> = [
        "/name",
        "/device",
        "/conditions/0/value",
        "/conditions/1/ranges/0",
        "/conditions/2/compare/value",
        "/conditions/2/compare/plus",
        "/conditions/3/change/by",
        "/conditions/3/change/within_seconds",
        "/conditions/4/ranges",
        "/conditions/4/hold",
        "/tags/0",
        "/area",
        "/for_seconds",
        "/window/to",
        "/window/zone",
        "/cooldown_seconds",
    ]
    .map(String::from)
    .into();
    expected.extend((0..wrong.actions.len()).map(|index| format!("/actions/{index}/to")));
    assert_eq!(pointers(&wrong, Some(&sensor)), expected);
    wrong.conditions.clear();
    assert!(pointers(&wrong, Some(&sensor)).contains(&"/conditions".to_owned()));
}

#[test]
fn addresses_that_people_have_are_taken() {
    for sound in ["a@b", "first.last+tag@mail.example.co.kr", "o'neil@example.org"] {
        assert!(is_address(sound), "{sound}");
    }
    for wrong in ["a", "a@", "@b", "a@b@c", "a b@c", "a@-b.c", "a@b..c", "한@b.kr", "a\n@b"] {
        assert!(!is_address(wrong), "{wrong}");
    }
}

#[test]
fn a_window_belongs_to_the_day_on_which_it_begins() {
    let cases = [
        // Friday 22:00 to Saturday 06:00 in Seoul; 2013-01-04 was a Friday.
        ("22:00", "06:00", &[Day::Friday][..], "2013-01-04T22:00:00+09:00", 1),
        ("22:00", "06:00", &[Day::Friday], "2013-01-05T05:59:59+09:00", 1),
        ("22:00", "06:00", &[Day::Friday], "2013-01-05T06:00:00+09:00", 0),
        ("22:00", "06:00", &[Day::Friday], "2013-01-05T22:00:00+09:00", 0),
        ("22:00", "06:00", &[Day::Friday], "2013-01-04T05:00:00+09:00", 0),
        ("22:00", "06:00", &[Day::Sunday], "2013-01-07T00:00:00+09:00", 1),
        // Whole days, by the clocks of the zone and not of UTC.
        ("00:00", "00:00", &[Day::Saturday, Day::Sunday], "2013-01-04T15:00:00Z", 1),
        ("00:00", "00:00", &[Day::Saturday, Day::Sunday], "2013-01-04T14:59:59Z", 0),
        ("00:00", "00:00", &[Day::Saturday, Day::Sunday], "2013-01-06T14:59:59Z", 1),
        ("00:00", "00:00", &[Day::Saturday, Day::Sunday], "2013-01-06T15:00:00Z", 0),
        // A day that begins at six.
        ("06:00", "06:00", &[Day::Monday], "2013-01-08T05:59:59+09:00", 1),
        ("06:00", "06:00", &[Day::Monday], "2013-01-07T05:59:59+09:00", 0),
    ];
    for (from, to, days, time, expected) in cases {
        let window = Window { days: Days::of(days), ..window(from, to, "Asia/Seoul") };
        let set = set(vec![text(vec![at_least("v", 0.0)], Some(window))]);
        let reading = reading("a", time.parse().unwrap(), &[("v", 1.0)]);
        assert_eq!(count(&set, &reading), expected, "{time} in {from}-{to} {days:?}");
    }
}

#[test]
fn a_place_is_inside_or_outside_and_a_reading_says_it_before_its_device() {
    let circle = |metres: f64| Shape::Circle { latitude: 37.5665, longitude: 126.978, metres };
    let around = |shape: Shape, outside: bool| RuleText {
        area: Some(Area { outside, shape }),
        ..text(vec![at_least("v", 0.0)], None)
    };
    let triangle = Shape::Polygon { points: vec![(37.0, 126.0), (38.0, 127.0), (37.0, 128.0)] };
    let dateline = Shape::Rectangle { left: 170.0, right: -170.0, up: 0.0, down: -30.0 };
    let at = |latitude: f64, longitude: f64| Some(Position { latitude, longitude });
    // Seoul to Busan is 325 km.
    let busan = (35.1796, 129.0756);
    let cases = [
        (circle(324_000.0), busan, 0),
        (circle(326_000.0), busan, 1),
        (triangle.clone(), (37.5, 127.0), 1),
        (triangle.clone(), (37.9, 126.2), 0),
        (triangle, (36.9, 127.0), 0),
        (dateline.clone(), (-18.0, 178.0), 1),
        (dateline.clone(), (-13.8, -172.0), 1),
        (dateline, (-13.8, 160.0), 0),
    ];
    let now = Timestamp::from_micros(0);
    let count = |rule: RuleText, device: &Device, values: &[(&str, f64)]| {
        let (set, mut matched) = (set(vec![rule]), Vec::new());
        let reading = reading("a", now, values);
        set.evaluate(&reading, (Some(device), Order::Newest), &mut Memory::new(1), &mut matched);
        matched.len()
    };
    for (shape, (latitude, longitude), inside) in cases {
        let device = Device { position: at(latitude, longitude), ..Device::new("a", now) };
        let elsewhere = Device { position: at(0.0, 0.0), ..device.clone() };
        let own = [("v", 1.0), ("latitude", latitude), ("longitude", longitude)];
        for (outside, expected) in [(false, inside), (true, 1 - inside)] {
            let rule = || around(shape.clone(), outside);
            assert_eq!(count(rule(), &device, &[("v", 1.0)]), expected, "{shape:?}");
            assert_eq!(count(rule(), &elsewhere, &own), expected, "{shape:?}");
        }
        let nowhere = Device { position: None, ..device.clone() };
        assert_eq!(count(around(shape.clone(), true), &nowhere, &[("v", 1.0)]), 0);
    }
}

#[test]
fn memory_has_a_limit_and_another_text_begins_anew() {
    let rule = RuleText { lasting: Duration::from_mins(1), ..text(vec![at_least("v", 0.0)], None) };
    let first = set(vec![rule]);
    let mut rules = first.rules.clone();
    for rule in rules.values_mut() {
        *rule = Arc::new(Rule { version: 2, ..(**rule).clone() });
    }
    let second = RuleSet::new(2, rules);
    let mut memory = Memory::new(1);
    let mut matches = |set: &RuleSet, device: &str, second: i64| {
        let reading = reading(device, Timestamp::from_micros(second * 1_000_000), &[("v", 1.0)]);
        let mut matched = Vec::new();
        set.evaluate(&reading, (None, Order::Newest), &mut memory, &mut matched);
        (matched.len(), memory.full)
    };
    assert_eq!(matches(&first, "a", 0), (0, 0));
    assert_eq!(matches(&first, "b", 0), (0, 1), "there is no room for another device");
    assert_eq!(matches(&first, "a", 60), (1, 1));
    assert_eq!(matches(&second, "a", 61), (0, 1), "it has not lasted by this text");
    assert_eq!(matches(&second, "a", 121), (1, 1));
    assert_eq!(matches(&second, "b", 121), (0, 2));
}

/// s25: the first alert of each node was swallowed by the cool-down.
#[test]
fn the_first_alert_is_never_swallowed_and_the_next_only_within_the_cool_down() {
    let minutes = |n: i64| Timestamp::from_micros(n * 60_000_000);
    let cooldown = Duration::from_mins(3);
    let mut quiet = Quiet::default();
    assert_eq!(quiet.verdict(minutes(10), cooldown), Verdict::Alert);
    quiet.note(minutes(10), 8);
    for (minute, expected) in [
        (7, Verdict::Alert),
        (8, Verdict::Quiet),
        (10, Verdict::Quiet),
        (12, Verdict::Quiet),
        (13, Verdict::Alert),
    ] {
        assert_eq!(quiet.verdict(minutes(minute), cooldown), expected, "minute {minute}");
    }
    assert_eq!(quiet.verdict(minutes(10), Duration::ZERO), Verdict::Alert);
}

#[test]
fn what_is_no_longer_known_is_asked_and_not_guessed() {
    let mut quiet = Quiet::default();
    for minute in [10, 20, 30] {
        quiet.note(Timestamp::from_micros(minute * 60_000_000), 2);
    }
    let at = |minute: i64| {
        quiet.verdict(Timestamp::from_micros(minute * 60_000_000), Duration::from_mins(3))
    };
    assert_eq!(at(10), Verdict::Unknown);
    assert_eq!(at(22), Verdict::Quiet);
    assert_eq!(at(25), Verdict::Alert);
    let loaded = Quiet::new(BTreeSet::from([20 * 60_000_000, 30 * 60_000_000]), 2);
    assert_eq!(loaded, quiet);
}

/// Offsets by the rules that people know by heart, so that nothing of jiff judges jiff.
fn offset_hours(zone: &str, time: i64) -> i64 {
    match zone {
        "Asia/Seoul" => 9,
        "UTC" => 0,
        _ => {
            // Second Sunday of March and first of November 2013 at 02:00 local.
            let spring = 1_362_898_800;
            let autumn = 1_383_458_400;
            if (spring..autumn).contains(&time) { -4 } else { -5 }
        }
    }
}

/// Whether a window that begins on one of its days, this one or the one before, has the minute.
fn naive_window(window: &Window, time: i64) -> bool {
    let wall = time + offset_hours(&window.zone, time) * 3_600;
    let (today, minute) = (wall.div_euclid(86_400), wall.rem_euclid(86_400) / 60);
    let (from, to) = (i64::from(window.from.0), i64::from(window.to.0));
    let length = if from == to { 1_440 } else { (to - from).rem_euclid(1_440) };
    let days = window.days.list();
    [today, today - 1].into_iter().any(|begin| {
        // The first of January 1970 was a Thursday.
        let day = Day::ALL[usize::try_from((begin + 3).rem_euclid(7)).unwrap()];
        let since = (today - begin) * 1_440 + minute - from;
        (days.is_empty() || days.contains(&day)) && (0..length).contains(&since)
    })
}

/// A reading as the naive evaluator sees it.
#[derive(Debug, Clone)]
struct Seen {
    device: usize,
    time: i64,
    values: [Option<f64>; 3],
}

impl Seen {
    fn value(&self, name: &str) -> Option<f64> {
        self.values[NAMES.iter().position(|known| *known == name).unwrap()]
    }
}

fn is_in(range: &Range, value: f64) -> bool {
    let above = match range.min {
        Some(min) => value >= min,
        None => true,
    };
    let below = match range.max {
        Some(max) => value < max,
        None => true,
    };
    above && below
}

/// Whether a condition holds at the last of these readings, going through all of them.
fn naive_condition(condition: &Condition, past: &[&Seen]) -> bool {
    let values: Vec<f64> = past.iter().map(|seen| seen.value(&condition.value).unwrap()).collect();
    let (Some(last), Some(value)) = (past.last(), values.last().copied()) else { return false };
    match &condition.test {
        Test::Ranges { ranges, hold } => {
            let is_in_any = |value: f64| ranges.iter().any(|range| is_in(range, value));
            let Some(hold) = hold else { return is_in_any(value) };
            // The last time that it was in a range, and never out of the other one since.
            values
                .iter()
                .rposition(|value| is_in_any(*value))
                .is_some_and(|since| values[since + 1..].iter().all(|value| is_in(hold, *value)))
        }
        Test::Compare { is, other, plus } => {
            let other = last.value(other).unwrap() + plus;
            match is {
                Comparison::Above => value > other,
                Comparison::AtLeast => value > other || value.to_bits() == (other + 0.0).to_bits(),
                Comparison::Below => value < other,
                Comparison::AtMost => value < other || value.to_bits() == (other + 0.0).to_bits(),
                Comparison::Equal => value.to_bits() == (other + 0.0).to_bits(),
                Comparison::NotEqual => value.to_bits() != (other + 0.0).to_bits(),
            }
        }
        Test::Change(Change { by, within, direction }) => {
            let within = i64::try_from(within.as_secs()).unwrap();
            past[..past.len() - 1].iter().zip(&values).any(|(seen, then)| {
                let difference = match direction {
                    Direction::Rise => value - then,
                    Direction::Fall => then - value,
                    Direction::Either => (value - then).abs(),
                };
                last.time - seen.time <= within && difference >= *by
            })
        }
    }
}

/// Which of the readings the rule matches, an alert following each match.
fn naive(rule: &RuleText, readings: &[Seen]) -> Vec<bool> {
    let remembers = rule.remembers();
    let is_about = |seen: &Seen| {
        let device = &device(seen.device);
        let has_tag = rule.tags.is_empty() || rule.tags.iter().any(|it| device.tags.contains(it));
        let has_group = match (&device.group, rule.groups.is_empty()) {
            (_, true) => true,
            (Some(group), false) => rule.groups.contains(group),
            (None, false) => false,
        };
        let is_there = rule.area.as_ref().is_none_or(|area| {
            let Shape::Rectangle { left, right, up, down } = area.shape else { unreachable!() };
            device.position.is_some_and(|Position { latitude, longitude }| {
                let inside =
                    left <= longitude && longitude <= right && down <= latitude && latitude <= up;
                inside != area.outside
            })
        });
        rule.device.as_ref().is_none_or(|only| *only == device.name)
            && has_tag
            && has_group
            && is_there
    };
    let mut matches = Vec::new();
    for (index, seen) in readings.iter().enumerate() {
        let past: Vec<&Seen> = readings[..=index]
            .iter()
            .enumerate()
            .filter(|(at, it)| {
                let newest = readings[..*at].iter().filter(|other| other.device == it.device);
                let is_late = newest.map(|other| other.time).max().is_some_and(|max| it.time < max);
                let is_whole = rule.values().all(|value| it.value(value).is_some());
                it.device == seen.device && is_whole && is_about(it) && !(remembers && is_late)
            })
            .map(|(_, it)| it)
            .collect();
        // It is itself one of those that are looked at.
        let is_looked_at = past.last().is_some_and(|last| std::ptr::eq(*last, seen));
        let holds: Vec<bool> = (0..past.len())
            .map(|at| {
                rule.conditions.iter().all(|it| naive_condition(it, &past[..=at]))
                    && rule.window.as_ref().is_none_or(|it| naive_window(it, past[at].time))
            })
            .collect();
        let begin = holds.iter().rposition(|holds| !holds).map_or(0, |last| last + 1);
        let run = &past[begin..];
        let lasting = i64::try_from(rule.lasting.as_secs()).unwrap();
        let lasts = |at: usize| lasting == 0 || run[at].time - run[0].time >= lasting;
        let is_match = !run.is_empty() && lasts(run.len() - 1);
        let is_told = rule.is_once && (0..run.len().saturating_sub(1)).any(lasts);
        matches.push(rule.is_enabled && is_looked_at && is_match && !is_told);
    }
    matches
}

const NAMES: [&str; 3] = ["temp", "humid", "wind"];

/// `a` stands in Seoul, `b` in Berlin, `c` nowhere.
fn device(number: usize) -> Device {
    let now = Timestamp::from_micros(0);
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<BTreeSet<_>>();
    let at = |latitude: f64, longitude: f64| Some(Position { latitude, longitude });
    match number {
        0 => Device {
            tags: tags(&["outdoor", "new"]),
            group: Some("roof".into()),
            position: at(37.5, 127.0),
            ..Device::new("a", now)
        },
        1 => Device { tags: tags(&["indoor"]), position: at(52.5, 13.4), ..Device::new("b", now) },
        _ => Device { group: Some("cellar".into()), ..Device::new("c", now) },
    }
}

fn bound() -> impl Strategy<Value = Option<f64>> {
    proptest::option::of((-3_i32..4).prop_map(f64::from))
}

fn any_range() -> impl Strategy<Value = Range> {
    (bound(), bound()).prop_map(|(min, max)| Range { min, max })
}

fn any_test() -> impl Strategy<Value = Test> {
    let comparisons = prop_oneof![
        Just(Comparison::Above),
        Just(Comparison::AtLeast),
        Just(Comparison::Below),
        Just(Comparison::AtMost),
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
    ];
    let directions =
        prop_oneof![Just(Direction::Rise), Just(Direction::Fall), Just(Direction::Either)];
    let ranges = || proptest::collection::vec(any_range(), 1..3);
    prop_oneof![
        ranges().prop_map(|ranges| Test::Ranges { ranges, hold: None }),
        (ranges(), any_range())
            .prop_map(|(ranges, hold)| Test::Ranges { ranges, hold: Some(hold) }),
        (comparisons, 0_usize..3, -2_i32..3).prop_map(|(is, other, plus)| Test::Compare {
            is,
            other: NAMES[other].into(),
            plus: plus.into()
        }),
        (1_i32..5, 1_u64..400, directions).prop_map(|(by, within, direction)| {
            let within = Duration::from_secs(within);
            Test::Change(Change { by: by.into(), within, direction })
        }),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    (0_usize..3, any_test()).prop_map(|(name, test)| Condition { value: NAMES[name].into(), test })
}

fn any_window() -> impl Strategy<Value = Option<Window>> {
    let zones = prop_oneof![Just("America/New_York"), Just("Asia/Seoul"), Just("UTC")];
    let days = proptest::collection::vec(0_usize..7, 0..4);
    proptest::option::of((0_u16..1_440, 0_u16..1_440, zones, days).prop_map(
        |(from, length, zone, days)| {
            let to = Minute((from + length) % 1_440);
            let days: Vec<Day> = days.into_iter().map(|day| Day::ALL[day]).collect();
            Window { from: Minute(from), to, days: Days::of(&days), zone: zone.into() }
        },
    ))
}

fn any_rule() -> impl Strategy<Value = RuleText> {
    let names = |names: &'static [&'static str]| {
        let name = proptest::sample::select(names).prop_map(str::to_owned);
        prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(name, 1..3)]
    };
    let area = proptest::bool::ANY.prop_map(|outside| {
        let shape = Shape::Rectangle { left: 100.0, right: 150.0, up: 60.0, down: 0.0 };
        Some(Area { outside, shape })
    });
    let area = prop_oneof![3 => Just(None), 1 => area];
    let scope = (names(&["outdoor", "indoor", "new", "x"]), names(&["roof", "cellar", "y"]), area);
    let device = prop_oneof![3 => Just(None), 1 => Just(Some("a".to_owned()))];
    let lasting = prop_oneof![2 => Just(0_u64), 1 => 1_u64..600];
    let conditions = proptest::collection::vec(any_condition(), 1..3);
    let window = prop_oneof![2 => Just(None), 1 => any_window()];
    let flags = (proptest::bool::weighted(0.95), proptest::bool::weighted(0.3));
    (conditions, window, device, scope, lasting, flags).prop_map(
        |(conditions, window, device, (tags, groups, area), lasting, (is_enabled, is_once))| {
            let lasting = Duration::from_secs(lasting);
            let plain = text(conditions, window);
            RuleText { device, tags, groups, area, is_enabled, lasting, is_once, ..plain }
        },
    )
}

/// Readings of three devices as they arrive: mostly one after the other, some late, no two at one time.
fn any_readings() -> impl Strategy<Value = Vec<Seen>> {
    let one = (0_usize..3, -300_i64..600, proptest::array::uniform3(bound()));
    (any_time(), proptest::collection::vec(one, 1..30)).prop_map(|(begin, steps)| {
        let mut time = begin;
        let mut taken = BTreeSet::new();
        let mut readings = Vec::new();
        for (device, step, values) in steps {
            let at = if step < 0 { time + step } else { time + step / 4 };
            time = time.max(at);
            if taken.insert((device, at)) {
                readings.push(Seen { device, time: at, values });
            }
        }
        readings
    })
}

/// Any second of 2013, and often one near a change of the clocks or a midnight.
fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![
        1_356_998_400_i64..1_388_534_400,
        1_362_898_800_i64 - 7_200..1_362_898_800 + 7_200,
        1_383_458_400_i64 - 7_200..1_383_458_400 + 7_200,
        (15_706_i64..16_071, -60_i64..60).prop_map(|(day, second)| day * 86_400 + second),
        (15_706_i64..16_071, -60_i64..60).prop_map(|(day, s)| day * 86_400 + 5 * 3_600 + s),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// Every condition, alone and together, along readings in any order; with restarts that keep what was written down.
    #[test]
    fn rules_match_what_a_naive_evaluator_matches(
        rules in proptest::collection::vec(any_rule(), 1..4),
        readings in any_readings(),
        restarts in proptest::collection::vec(proptest::bool::weighted(0.2), 40),
    ) {
        let set = set(rules.clone());
        let ids: Vec<RuleId> = set.rules.keys().copied().collect();
        let expected: Vec<Vec<bool>> = rules.iter().map(|rule| naive(rule, &readings)).collect();
        let mut memory = Memory::new(100);
        let mut rows = HashMap::<(String, RuleId), Remembered>::new();
        let mut newest = HashMap::<usize, i64>::new();
        for (index, seen) in readings.iter().enumerate() {
            let device = device(seen.device);
            let known = newest.entry(seen.device).or_insert(seen.time);
            let order = if seen.time < *known { Order::Late } else { Order::Newest };
            *known = seen.time.max(*known);
            let named = NAMES.into_iter().zip(seen.values);
            let present: Vec<(&str, f64)> =
                named.filter_map(|(name, value)| value.map(|value| (name, value))).collect();
            let reading =
                reading(&device.name, Timestamp::from_micros(seen.time * 1_000_000), &present);
            let mut matched = Vec::new();
            set.evaluate(&reading, (Some(&device), order), &mut memory, &mut matched);
            for one in &matched {
                memory.raised(&device.name, (one.rule.id, one.rule.version));
            }
            for (rule, id) in ids.iter().enumerate() {
                let found = matched.iter().any(|one| one.rule.id == *id);
                prop_assert_eq!(found, expected[rule][index], "rule {} reading {}", rule, index);
            }
            if restarts[index] {
                for kept in memory.take_changes() {
                    let pair = (kept.device.clone(), kept.rule);
                    match &kept.body {
                        Some(_) => drop(rows.insert(pair, kept)),
                        None => prop_assert!(rows.remove(&pair).is_some()),
                    }
                }
                memory = Memory::new(100);
                for kept in rows.values() {
                    memory.restore(kept.clone()).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_bounded_memory_of_alerts_decides_as_all_of_them_would(
        times in proptest::collection::vec(0_i64..200, 1..60),
        cooldown in 0_u64..20,
    ) {
        let (mut quiet, mut all) = (Quiet::default(), Vec::<i64>::new());
        let cooldown = Duration::from_secs(cooldown);
        for second in times {
            let time = Timestamp::from_micros(second * 1_000_000);
            let near = all.iter().any(|alert| alert.abs_diff(second) < cooldown.as_secs());
            let expected = if near { Verdict::Quiet } else { Verdict::Alert };
            let verdict = quiet.verdict(time, cooldown);
            prop_assert!(verdict == expected || verdict == Verdict::Unknown);
            if !near {
                all.push(second);
                quiet.note(time, 8);
            }
        }
    }
}
