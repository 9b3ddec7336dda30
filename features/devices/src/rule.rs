//! Rules: which readings raise an alert. Pure: readings in, matches out; rows, mails and clocks are elsewhere.
//!
//! Readings are evaluated in the order in which they arrive, every new one once, whatever its time. A
//! cool-down counts in the time of the readings and in both directions: a match is quiet when an alert of the
//! same rule and device stands less than the cool-down before or after it. So the first alert is never
//! swallowed, and what is quiet follows from the stored alerts alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::{Id, Timestamp};
use jiff::tz::TimeZone;

use crate::reading::{Reading, check_name};
use crate::registry::Sensor;
use crate::{Config, Fault};

/// The kind of [`RuleId`]; never constructed.
#[derive(Debug)]
pub enum RuleKind {}
pub type RuleId = Id<RuleKind>;

/// A rule as it is stored and shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub id: RuleId,
    pub text: RuleText,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// What a person writes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RuleText {
    pub name: String,
    pub sensor: String,
    /// None: every device.
    pub device: Option<String>,
    pub is_enabled: bool,
    /// All must hold.
    pub conditions: Vec<Condition>,
    pub window: Option<Window>,
    pub cooldown: Duration,
    pub actions: Vec<Deed>,
}

/// Holds when any of its ranges has the value; a missing value is in none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub value: String,
    pub ranges: Vec<Range>,
}

/// `min <= v < max`; an open side has no bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// A time of day, `from <= t < to` on the wall clocks of a zone; over midnight when `from` is the later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub from: Minute,
    pub to: Minute,
    pub zone: String,
}

/// A minute of the day, 00:00 to 23:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Minute(u16);

/// What an alert sets off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    Email {
        to: String,
    },
    /// A webhook or a Slack channel.
    Endpoint {
        endpoint: String,
    },
}

impl std::str::FromStr for Minute {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let &[h, hh, b':', m, mm] = text.as_bytes() else { return Err(()) };
        if ![h, hh, m, mm].iter().all(u8::is_ascii_digit) {
            return Err(());
        }
        let two = |tens: u8, ones: u8| u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
        let (hour, minute) = (two(h, hh), two(m, mm));
        if hour > 23 || minute > 59 { Err(()) } else { Ok(Self(hour * 60 + minute)) }
    }
}

impl std::fmt::Display for Minute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// The zone of the IANA database with this name.
pub(crate) fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok().filter(|zone| zone.iana_name().is_some())
}

impl RuleText {
    /// Says what is wrong with the text by itself and against the sensor it names (None: no such sensor).
    pub(crate) fn faults(
        &self,
        sensor: Option<&Sensor>,
        accepts_address: impl Fn(&str) -> bool,
        config: &Config,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |pointer: String, text: String| faults.push(Fault { pointer, text });
        if let Err(why) = check_title(&self.name) {
            fault("/name".into(), format!("the name {why}"));
        }
        if sensor.is_none() {
            fault("/sensor".into(), format!("there is no sensor {:?}", self.sensor));
        }
        if let Some(device) = &self.device
            && let Err(why) = check_name(device)
        {
            fault("/device".into(), format!("the name {why}"));
        }
        if self.conditions.is_empty() {
            fault("/conditions".into(), "a rule has at least one condition".into());
        }
        if self.conditions.len() > config.conditions_max {
            fault("/conditions".into(), format!("more than {}", config.conditions_max));
        }
        for (index, condition) in self.conditions.iter().enumerate() {
            let at = format!("/conditions/{index}");
            let known =
                sensor.is_none_or(|sensor| sensor.values.iter().any(|v| v.name == condition.value));
            if !known {
                let text = format!("{:?} has no value {:?}", self.sensor, condition.value);
                fault(format!("{at}/value"), text);
            }
            if condition.ranges.is_empty() {
                fault(format!("{at}/ranges"), "a condition has at least one range".into());
            }
            if condition.ranges.len() > config.ranges_max {
                fault(format!("{at}/ranges"), format!("more than {}", config.ranges_max));
            }
            for (index, range) in condition.ranges.iter().enumerate() {
                if let Range { min: Some(min), max: Some(max) } = range
                    && min >= max
                {
                    let text = "min is not less than max, so nothing is ever in the range";
                    fault(format!("{at}/ranges/{index}"), text.into());
                }
            }
        }
        if let Some(window) = &self.window {
            if window.from == window.to {
                let text = "from and to are the same; leave the window out for the whole day";
                fault("/window/to".into(), text.into());
            }
            if zone(&window.zone).is_none() {
                fault("/window/zone".into(), format!("there is no zone {:?}", window.zone));
            }
        }
        if self.cooldown > config.cooldown_max {
            let text = format!("more than {}", config.cooldown_max.as_secs());
            fault("/cooldown_seconds".into(), text);
        }
        if self.actions.len() > config.actions_max {
            fault("/actions".into(), format!("more than {}", config.actions_max));
        }
        for (index, action) in self.actions.iter().enumerate() {
            if let Deed::Email { to } = action
                && (!is_address(to) || !accepts_address(to))
            {
                fault(format!("/actions/{index}/to"), "not an e-mail address".into());
            }
        }
        faults
    }
}

/// Checks a name that only people read.
pub(crate) fn check_title(name: &str) -> Result<(), &'static str> {
    if name.trim().is_empty() {
        return Err("is empty");
    }
    if name.chars().nth(crate::reading::NAME_CHARS_MAX).is_some() {
        return Err("is longer than 128 characters");
    }
    if name.contains(char::is_control) {
        return Err("has a control character");
    }
    Ok(())
}

/// One plain address, as people have them: no display name, no quotes, no comments, ASCII.
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let atoms = |part: &str| part.split('.').all(|p| !p.is_empty() && p.chars().all(is_atom));
    let labels = |part: &str| {
        part.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
    };
    text.len() <= 254 && local.len() <= 64 && atoms(local) && labels(domain)
}

/// The rules of an organisation, ready to evaluate. Never changed: a change makes another with a later version.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    pub version: u64,
    pub rules: BTreeMap<RuleId, Arc<Rule>>,
    sensors: HashMap<String, SensorRules>,
}

#[derive(Debug, Default)]
struct SensorRules {
    /// Where the value of this name stands in the row that the rules look at.
    columns: HashMap<String, usize>,
    rules: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    rule: Arc<Rule>,
    conditions: Vec<(usize, Vec<(f64, f64)>)>,
    window: Option<(i64, i64, TimeZone)>,
}

impl RuleSet {
    /// Compiles the enabled rules. A zone that vanished from the database never matches; it was checked when
    /// the rule was written.
    pub(crate) fn new(version: u64, rules: BTreeMap<RuleId, Arc<Rule>>) -> Self {
        let mut sensors = HashMap::<String, SensorRules>::new();
        for rule in rules.values().filter(|rule| rule.text.is_enabled) {
            sensors.entry(rule.text.sensor.clone()).or_default().add(rule);
        }
        Self { version, rules, sensors }
    }

    /// The rules that a reading matches, before any cool-down. `row` is scratch space.
    pub(crate) fn matches<'s>(
        &'s self,
        reading: &Reading<'_>,
        row: &mut Vec<f64>,
    ) -> impl Iterator<Item = &'s Arc<Rule>> {
        let sensor = self.sensors.get(&*reading.sensor);
        row.clear();
        if let Some(sensor) = sensor {
            // NaN is in no range, so a missing value never matches.
            row.resize(sensor.columns.len(), f64::NAN);
            for (name, value) in &reading.values {
                if let Some(&column) = sensor.columns.get(&**name) {
                    row[column] = *value;
                }
            }
        }
        sensor.map_or(&[][..], |sensor| &sensor.rules[..]).iter().filter_map(move |compiled| {
            compiled.holds(&reading.device, reading.time, row).then_some(&compiled.rule)
        })
    }
}

impl SensorRules {
    fn add(&mut self, rule: &Arc<Rule>) {
        let mut conditions = Vec::with_capacity(rule.text.conditions.len());
        for condition in &rule.text.conditions {
            let next = self.columns.len();
            let column = *self.columns.entry(condition.value.clone()).or_insert(next);
            let ranges = condition.ranges.iter().map(|range| {
                (range.min.unwrap_or(f64::NEG_INFINITY), range.max.unwrap_or(f64::INFINITY))
            });
            conditions.push((column, ranges.collect()));
        }
        let window = match &rule.text.window {
            None => None,
            Some(window) => match zone(&window.zone) {
                Some(zone) => Some((window.from.micros(), window.to.micros(), zone)),
                None => return,
            },
        };
        self.rules.push(Compiled { rule: Arc::clone(rule), conditions, window });
    }
}

impl Compiled {
    fn holds(&self, device: &str, time: Timestamp, row: &[f64]) -> bool {
        let in_any = |(column, ranges): &(usize, Vec<(f64, f64)>)| {
            let value = row[*column];
            ranges.iter().any(|&(min, max)| min <= value && value < max)
        };
        self.conditions.iter().all(in_any)
            && self.rule.text.device.as_deref().is_none_or(|only| only == device)
            && self.window.as_ref().is_none_or(|(from, to, zone)| {
                time_of_day(time, zone).is_some_and(|now| {
                    if from < to { (*from..*to).contains(&now) } else { now >= *from || now < *to }
                })
            })
    }
}

impl Minute {
    fn micros(self) -> i64 {
        i64::from(self.0) * 60_000_000
    }
}

/// What the clocks on the wall show, in microseconds since their midnight.
fn time_of_day(time: Timestamp, zone: &TimeZone) -> Option<i64> {
    let moment = jiff::Timestamp::from_microsecond(time.micros()).ok()?;
    let wall = zone.to_datetime(moment).time();
    let seconds = (i64::from(wall.hour()) * 60 + i64::from(wall.minute())) * 60;
    Some(
        (seconds + i64::from(wall.second())) * 1_000_000
            + i64::from(wall.subsec_nanosecond() / 1_000),
    )
}

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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use base::Entropy;
    use proptest::prelude::*;

    use super::*;

    fn text(conditions: Vec<Condition>, window: Option<Window>) -> RuleText {
        RuleText {
            name: "hot".into(),
            sensor: "weather".into(),
            device: None,
            is_enabled: true,
            conditions,
            window,
            cooldown: Duration::from_mins(3),
            actions: vec![Deed::Email { to: "keeper@example.org".into() }],
        }
    }

    fn at_least(value: &str, min: f64) -> Condition {
        Condition { value: value.into(), ranges: vec![Range { min: Some(min), max: None }] }
    }

    fn set(texts: Vec<RuleText>) -> RuleSet {
        let entropy = Entropy::seeded(1);
        let now = Timestamp::from_micros(0);
        let rules = texts.into_iter().map(|text| {
            let id = RuleId::new(now, &entropy);
            (id, Arc::new(Rule { id, text, created: now, updated: now }))
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
        set.matches(reading, &mut Vec::new()).count()
    }

    fn window(from: &str, to: &str, zone: &str) -> Window {
        Window { from: from.parse().unwrap(), to: to.parse().unwrap(), zone: zone.into() }
    }

    #[test]
    fn a_range_has_its_lower_bound_and_not_its_upper() {
        let range = Range { min: Some(1.0), max: Some(2.0) };
        let set = set(vec![text(vec![Condition { value: "v".into(), ranges: vec![range] }], None)]);
        let now = Timestamp::from_micros(0);
        for (value, expected) in [(0.999, 0), (1.0, 1), (1.999, 1), (2.0, 0), (-0.0, 0)] {
            assert_eq!(count(&set, &reading("a", now, &[("v", value)])), expected, "{value}");
        }
    }

    #[test]
    fn a_missing_value_never_matches_not_even_an_open_range() {
        let open = Condition { value: "v".into(), ranges: vec![Range { min: None, max: None }] };
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
        let sound =
            text(vec![at_least("temp", 90.0)], Some(window("22:00", "06:00", "Asia/Seoul")));
        assert!(pointers(&sound, Some(&sensor)).is_empty());
        assert_eq!(pointers(&sound, None), ["/sensor"]);
        let mut wrong = sound;
        wrong.name = " ".into();
        wrong.device = Some("a/b".into());
        wrong.conditions = vec![at_least("humid", 1.0), at_least("temp", 1.0)];
        wrong.conditions[1].ranges = vec![Range { min: Some(2.0), max: Some(2.0) }];
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

    /// Walks the window minute by minute.
    fn naive_window(window: &Window, time: i64) -> bool {
        let wall = time + offset_hours(&window.zone, time) * 3_600;
        let minute = u16::try_from(wall.rem_euclid(86_400) / 60).unwrap();
        let mut at = window.from.0;
        while at != window.to.0 {
            if at == minute {
                return true;
            }
            at = (at + 1) % 1_440;
        }
        false
    }

    fn naive(rule: &RuleText, device: &str, time: i64, values: &[(&str, Option<f64>)]) -> bool {
        if !rule.is_enabled || rule.device.as_deref().is_some_and(|only| only != device) {
            return false;
        }
        for condition in &rule.conditions {
            let mut any = false;
            for range in &condition.ranges {
                for (name, value) in values {
                    if *name != condition.value {
                        continue;
                    }
                    if let Some(value) = value {
                        let above = match range.min {
                            Some(min) => *value >= min,
                            None => true,
                        };
                        let below = match range.max {
                            Some(max) => *value < max,
                            None => true,
                        };
                        any |= above && below;
                    }
                }
            }
            if !any {
                return false;
            }
        }
        rule.window.as_ref().is_none_or(|window| naive_window(window, time))
    }

    const NAMES: [&str; 3] = ["temp", "humid", "wind"];

    fn bound() -> impl Strategy<Value = Option<f64>> {
        proptest::option::of((-3_i32..4).prop_map(f64::from))
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        let range = (bound(), bound()).prop_map(|(min, max)| Range { min, max });
        (0_usize..3, proptest::collection::vec(range, 1..3))
            .prop_map(|(name, ranges)| Condition { value: NAMES[name].into(), ranges })
    }

    fn any_window() -> impl Strategy<Value = Option<Window>> {
        let zones = prop_oneof![Just("America/New_York"), Just("Asia/Seoul"), Just("UTC")];
        proptest::option::of((0_u16..1_440, 1_u16..1_440, zones).prop_map(
            |(from, length, zone)| {
                let to = Minute((from + length) % 1_440);
                Window { from: Minute(from), to, zone: zone.into() }
            },
        ))
    }

    fn any_rule() -> impl Strategy<Value = RuleText> {
        let device = proptest::option::of(prop_oneof![Just("a".to_owned()), Just("b".to_owned())]);
        let conditions = proptest::collection::vec(any_condition(), 1..3);
        (conditions, any_window(), device, proptest::bool::weighted(0.9)).prop_map(
            |(conditions, window, device, is_enabled)| RuleText {
                device,
                is_enabled,
                ..text(conditions, window)
            },
        )
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
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn rules_match_what_a_naive_evaluator_matches(
            rules in proptest::collection::vec(any_rule(), 1..6),
            time in any_time(),
            device in prop_oneof![Just("a"), Just("b")],
            values in proptest::array::uniform3(bound()),
        ) {
            let named: Vec<(&str, Option<f64>)> = NAMES.into_iter().zip(values).collect();
            let present: Vec<(&str, f64)> =
                named.iter().filter_map(|&(name, value)| value.map(|value| (name, value))).collect();
            let reading = reading(device, Timestamp::from_micros(time * 1_000_000), &present);
            let set = set(rules.clone());
            let expected = rules.iter().filter(|rule| naive(rule, device, time, &named)).count();
            prop_assert_eq!(count(&set, &reading), expected);
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
}
