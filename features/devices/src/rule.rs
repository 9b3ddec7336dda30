//! Rules: which readings raise an alert. Pure: readings in, matches out; rows, mails and clocks are elsewhere.
//!
//! Readings are evaluated in the order in which they arrive, every new one once. A rule that remembers nothing looks at
//! each whatever its time. One that remembers (it must last, holds on, looks for change, or alerts once) goes along the
//! time of the readings: one that is older than the newest of its device and sensor is not looked at. A sensor may
//! say how late a reading may be; later ones are looked at by no rule.
//!
//! A cool-down counts in the time of the readings and in both directions: a match is quiet when an alert of the
//! same rule and device stands less than the cool-down before or after it. So the first alert is never
//! swallowed, and what is quiet follows from the stored alerts alone.

pub(crate) mod area;
pub(crate) mod memory;
mod quiet;
mod set;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base::{Id, Timestamp};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reading::check_name;
use crate::registry::{Sensor, Step};
use crate::{Config, Fault};

pub(crate) use area::{Area, Day, Days};
pub(crate) use memory::{Memory, Remembered};
pub(crate) use quiet::{Quiet, Verdict};
pub(crate) use set::{Looking, Matched, Order, RuleSet};

/// The kind of [`RuleId`]; never constructed.
#[derive(Debug)]
pub enum RuleKind {}
pub type RuleId = Id<RuleKind>;

/// A rule as it is stored and shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub id: RuleId,
    /// Counted from 1; each text has its own.
    pub version: u64,
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
    /// Devices with any of them; none: whatever their tags.
    pub tags: Vec<String>,
    /// Devices in any of them; none: whatever their group.
    pub groups: Vec<String>,
    pub area: Option<Area>,
    pub is_enabled: bool,
    /// All must hold.
    pub conditions: Vec<Condition>,
    pub window: Option<Window>,
    /// From the first reading for which all of it holds to the one that raises the alert, none in between for which
    /// it does not.
    pub lasting: Duration,
    /// After an alert there is no other before a reading for which it does not hold.
    pub is_once: bool,
    pub cooldown: Duration,
    pub actions: Vec<Deed>,
    pub escalation: Option<Escalation>,
}

/// What an alert sets off when nobody has taken it in hand for so long.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Escalation {
    pub after: Duration,
    /// Mails and endpoints.
    pub actions: Vec<Deed>,
}

/// What is asked of one value; a missing one never holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub value: String,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    /// It is in any of the ranges. Once it was, it holds on while it is in `hold`.
    Ranges {
        ranges: Vec<Range>,
        hold: Option<Range>,
    },
    /// It is so compared with another value of the same reading, to which `plus` is added.
    Compare {
        is: Comparison,
        other: String,
        plus: f64,
    },
    Change(Change),
}

/// It differs by at least `by` from a reading that is at most `within` older.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub by: f64,
    pub within: Duration,
    pub direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    NotEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    #[default]
    Either,
    Rise,
    Fall,
}

impl Comparison {
    #[expect(clippy::float_cmp, reason = "people ask whether two values are the same")]
    pub(crate) fn holds(self, value: f64, other: f64) -> bool {
        match self {
            Self::Above => value > other,
            Self::AtLeast => value >= other,
            Self::Below => value < other,
            Self::AtMost => value <= other,
            Self::Equal => value == other,
            Self::NotEqual => value != other && !value.is_nan() && !other.is_nan(),
        }
    }
}

impl Condition {
    /// The values that it looks at.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        let other = match &self.test {
            Test::Compare { other, .. } => Some(other.as_str()),
            _ => None,
        };
        std::iter::once(self.value.as_str()).chain(other)
    }
}

/// `min <= v < max`; an open side has no bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// A time of day, `from <= t < to` on the wall clocks of a zone; over midnight when `from` is not the earlier. It belongs
/// to the day on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub from: Minute,
    pub to: Minute,
    pub days: Days,
    pub zone: String,
}

/// A minute of the day, 00:00 to 23:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Minute(u16);

/// What an alert sets off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Deed {
    Email {
        to: String,
    },
    /// A webhook or a Slack channel.
    Endpoint {
        endpoint: String,
    },
    /// Commands to a device, one after another.
    Actuator {
        /// None: the device of the reading.
        device: Option<String>,
        actuator: String,
        steps: Vec<Step>,
        /// How long the device may take to acknowledge each.
        timeout: Duration,
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
            condition.faults(&at, (&self.sensor, sensor), config, &mut fault);
        }
        for (pointer, names) in [("tags", &self.tags), ("groups", &self.groups)] {
            if names.len() > config.ranges_max {
                fault(format!("/{pointer}"), format!("more than {}", config.ranges_max));
            }
            for (index, name) in names.iter().enumerate() {
                if let Err(why) = check_title(name) {
                    fault(format!("/{pointer}/{index}"), format!("the name {why}"));
                }
            }
        }
        if let Some(why) = self.area.as_ref().and_then(|area| area.fault(config.area_points_max)) {
            fault("/area".into(), why);
        }
        if self.lasting > config.lasting_max {
            fault("/for_seconds".into(), format!("more than {}", config.lasting_max.as_secs()));
        }
        if let Some(window) = &self.window {
            if window.from == window.to && window.days == Days::ALL {
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
        let mut check = |at: &str, actions: &[Deed], is_escalation: bool| {
            if actions.len() > config.actions_max {
                fault(at.into(), format!("more than {}", config.actions_max));
            }
            for (index, action) in actions.iter().enumerate() {
                match action {
                    Deed::Email { to } if !is_address(to) || !accepts_address(to) => {
                        fault(format!("{at}/{index}/to"), "not an e-mail address".into());
                    }
                    Deed::Actuator { .. } if is_escalation => {
                        fault(format!("{at}/{index}"), "an escalation tells people".into());
                    }
                    _ => {}
                }
            }
        };
        check("/actions", &self.actions, false);
        if let Some(Escalation { after, actions }) = &self.escalation {
            check("/escalation/actions", actions, true);
            let most = config.escalation_after_max.as_secs();
            if !(1..=most).contains(&after.as_secs()) {
                fault("/escalation/after_seconds".into(), format!("not from 1 to {most}"));
            }
            if actions.is_empty() {
                fault("/escalation/actions".into(), "an escalation has at least one action".into());
            }
        }
        faults
    }

    /// Whether it goes by more than the reading that it looks at.
    pub(crate) fn remembers(&self) -> bool {
        let of_test = |condition: &Condition| {
            matches!(&condition.test, Test::Change(_) | Test::Ranges { hold: Some(_), .. })
        };
        self.is_once || !self.lasting.is_zero() || self.conditions.iter().any(of_test)
    }

    /// The commands that it gives to an actuator.
    pub(crate) fn steps_of(&self, name: &str) -> Vec<&[Step]> {
        let steps = self.actions.iter().filter_map(|action| match action {
            Deed::Actuator { actuator, steps, .. } if actuator == name => Some(steps.as_slice()),
            _ => None,
        });
        steps.collect()
    }

    /// Whether it says this device by its name.
    pub(crate) fn names_device(&self, name: &str) -> bool {
        let of_action = |action: &Deed| match action {
            Deed::Actuator { device, .. } => device.as_deref() == Some(name),
            _ => false,
        };
        self.device.as_deref() == Some(name) || self.actions.iter().any(of_action)
    }

    /// The values that it looks at.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().flat_map(Condition::values)
    }
}

impl Condition {
    fn faults(
        &self,
        at: &str,
        (sensor_name, sensor): (&str, Option<&Sensor>),
        config: &Config,
        fault: &mut impl FnMut(String, String),
    ) {
        let mut known = |pointer: String, value: &str| {
            if sensor.is_some_and(|sensor| !sensor.has(value)) {
                fault(pointer, format!("{sensor_name:?} has no value {value:?}"));
            }
        };
        known(format!("{at}/value"), &self.value);
        if let Test::Compare { other, .. } = &self.test {
            known(format!("{at}/compare/value"), other);
        }
        match &self.test {
            Test::Ranges { ranges, hold } => {
                if ranges.is_empty() {
                    fault(format!("{at}/ranges"), "a condition has at least one range".into());
                }
                if ranges.len() > config.ranges_max {
                    fault(format!("{at}/ranges"), format!("more than {}", config.ranges_max));
                }
                let hold = hold.iter().map(|range| (format!("{at}/hold"), range));
                let ranges = ranges.iter().enumerate();
                let ranges = ranges.map(|(index, range)| (format!("{at}/ranges/{index}"), range));
                for (pointer, range) in ranges.chain(hold) {
                    if let Range { min: Some(min), max: Some(max) } = range
                        && min >= max
                    {
                        let text = "min is not less than max, so nothing is ever in the range";
                        fault(pointer, text.into());
                    }
                }
            }
            Test::Compare { other, plus, .. } => {
                if *other == self.value {
                    let text = "it is compared with itself; use ranges";
                    fault(format!("{at}/compare/value"), text.into());
                }
                if !plus.is_finite() {
                    fault(format!("{at}/compare/plus"), "not a number".into());
                }
            }
            Test::Change(Change { by, within, .. }) => {
                if !(by.is_finite() && *by > 0.0) {
                    fault(format!("{at}/change/by"), "not above 0".into());
                }
                if within.is_zero() || *within > config.lasting_max {
                    let most = config.lasting_max.as_secs();
                    fault(format!("{at}/change/within_seconds"), format!("not from 1 to {most}"));
                }
            }
        }
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
