//! The rules of an organisation, ready to evaluate.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base::Timestamp;

use crate::reading::Reading;
use crate::reading::sheaf::{Item, Sheaf};
use crate::registry::Device;
use crate::rule::area::{Area, Hours, position_of};
use crate::rule::memory::{Memory, State};
use crate::rule::{Change, Comparison, Condition, Rule, RuleId, RuleText, Test};

/// Never changed: a change makes another with a later version.
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
    needs_device: bool,
}

/// What rules ask of a reading beside the row of its values.
#[derive(Clone, Copy)]
struct Line<'a> {
    device: &'a str,
    time: Timestamp,
    /// As it is registered.
    registered: Option<&'a Device>,
    order: Order,
    value: &'a dyn Fn(&str) -> Option<f64>,
}

/// Whether a reading is the newest of its device and sensor so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Newest,
    Late,
}

/// A rule that a reading matches, before any cool-down.
#[derive(Debug)]
pub(crate) struct Matched<'s> {
    pub rule: &'s Arc<Rule>,
    /// Since when it holds, in microseconds.
    pub since: i64,
    pub seen: Vec<Seen>,
}

/// What one condition saw when it held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub observed: f64,
    /// The value that it was compared with.
    pub other: Option<f64>,
    /// The time and value that it changed from.
    pub then: Option<(i64, f64)>,
    /// It has left its range and not yet the one that it is held in.
    pub is_held: bool,
}

#[derive(Debug)]
struct Compiled {
    rule: Arc<Rule>,
    scope: Option<Scope>,
    checks: Vec<Check>,
    hours: Option<Hours>,
    /// In microseconds.
    lasting: i64,
    remembers: bool,
}

/// Which devices, beside the one that is named.
#[derive(Debug)]
struct Scope {
    tags: Vec<String>,
    groups: Vec<String>,
    area: Option<Area>,
}

#[derive(Debug)]
struct Check {
    column: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Ranges(Vec<(f64, f64)>),
    Held { ranges: Vec<(f64, f64)>, hold: (f64, f64) },
    Compare { is: Comparison, other: usize, plus: f64 },
    Change { change: Change, within: i64 },
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

    /// Whether a rule on the sensor asks what the device is or where it stands.
    pub(crate) fn needs_device(&self, sensor: &str) -> bool {
        self.sensors.get(sensor).is_some_and(|rules| rules.needs_device)
    }

    /// The rules on a sensor, to look at many readings of it; none where there are none.
    pub(crate) fn looking(&self, sensor: &str) -> Option<Looking<'_>> {
        let rules = self.sensors.get(sensor)?;
        Some(Looking { rules, places: Vec::new(), columns: Vec::new() })
    }

    /// Adds the rules that a reading matches, before any cool-down. Rules that remember do not look at late readings.
    pub(crate) fn evaluate<'s>(
        &'s self,
        reading: &Reading<'_>,
        about: (Option<&Device>, Order),
        memory: &mut Memory,
        matched: &mut Vec<Matched<'s>>,
    ) {
        if let Some(mut looking) = self.looking(&reading.sensor) {
            looking.evaluate(reading, about, memory, matched);
        }
    }
}

/// The rules on one sensor while they look at readings of it.
#[derive(Debug)]
pub(crate) struct Looking<'s> {
    rules: &'s SensorRules,
    /// The values of the last reading and their columns: those of the next are mostly the same in the same order.
    places: Vec<(String, Option<usize>)>,
    /// By the shape of a reading in a sheaf, the columns of its values.
    columns: Vec<Option<Box<[Option<usize>]>>>,
}

impl<'s> Looking<'s> {
    pub(crate) fn count(&self) -> usize {
        self.rules.rules.len()
    }

    /// Whether a rule asks what the device is or where it stands.
    pub(crate) fn needs_device(&self) -> bool {
        self.rules.needs_device
    }

    /// The same as [`RuleSet::evaluate`], of readings of this sensor.
    pub(crate) fn evaluate(
        &mut self,
        reading: &Reading<'_>,
        (registered, order): (Option<&Device>, Order),
        memory: &mut Memory,
        matched: &mut Vec<Matched<'s>>,
    ) {
        self.begin(memory);
        for (index, (name, value)) in reading.values.iter().enumerate() {
            let column = match self.places.get(index) {
                Some((known, column)) if known == name => *column,
                _ => self.place(index, name),
            };
            if let Some(column) = column {
                memory.row[column] = *value;
            }
        }
        let value = |wanted: &str| {
            reading.values.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value)
        };
        let (device, time, value) = (&*reading.device, reading.time, &value);
        let line = Line { device, time, registered, order, value };
        self.look(line, memory, matched);
    }

    /// The same of a reading in a sheaf; always the same one.
    pub(crate) fn evaluate_item(
        &mut self,
        (sheaf, item): (&Sheaf, &Item),
        (registered, order): (Option<&Device>, Order),
        memory: &mut Memory,
        matched: &mut Vec<Matched<'s>>,
    ) {
        self.begin(memory);
        let shape = item.shape as usize;
        if self.columns.len() <= shape {
            self.columns.resize(sheaf.shapes.count(), None);
        }
        let columns = self.columns[shape].get_or_insert_with(|| {
            let names = sheaf.shapes.names(item.shape).into_iter();
            names.map(|name| self.rules.columns.get(name).copied()).collect()
        });
        for (column, value) in columns.iter().zip(sheaf.values(item)) {
            if let Some(column) = column {
                memory.row[*column] = *value;
            }
        }
        let value = |wanted: &str| sheaf.value(item, wanted);
        let (device, time, value) = (&*sheaf.lane_of(item).device, item.time, &value);
        let line = Line { device, time, registered, order, value };
        self.look(line, memory, matched);
    }

    fn begin(&self, memory: &mut Memory) {
        memory.row.clear();
        // NaN is in no range, so a missing value never matches.
        memory.row.resize(self.rules.columns.len(), f64::NAN);
    }

    fn look(&self, line: Line<'_>, memory: &mut Memory, matched: &mut Vec<Matched<'s>>) {
        for compiled in &self.rules.rules {
            let found = if compiled.remembers {
                if line.order == Order::Late {
                    continue;
                }
                compiled.remembering(line, memory)
            } else {
                compiled.at_once(line, &memory.row)
            };
            if let Some((since, seen)) = found {
                matched.push(Matched { rule: &compiled.rule, since, seen });
            }
        }
    }

    fn place(&mut self, index: usize, name: &str) -> Option<usize> {
        let column = self.rules.columns.get(name).copied();
        self.places.truncate(index);
        self.places.push((name.to_owned(), column));
        column
    }
}

impl SensorRules {
    fn add(&mut self, rule: &Arc<Rule>) {
        let RuleText { conditions, window, tags, groups, area, lasting, .. } = &rule.text;
        let checks: Vec<Check> = conditions.iter().map(|it| self.check(it)).collect();
        let hours = match window {
            None => None,
            Some(window) => match Hours::new(window) {
                Some(hours) => Some(hours),
                None => return,
            },
        };
        let is_everywhere = tags.is_empty() && groups.is_empty() && area.is_none();
        let scope = (!is_everywhere).then(|| Scope {
            tags: tags.clone(),
            groups: groups.clone(),
            area: area.clone(),
        });
        let remembers = rule.text.remembers();
        self.needs_device |= scope.is_some();
        let lasting = i64::try_from(lasting.as_micros()).unwrap_or(i64::MAX);
        self.rules.push(Compiled {
            rule: Arc::clone(rule),
            scope,
            checks,
            hours,
            lasting,
            remembers,
        });
    }

    fn check(&mut self, condition: &Condition) -> Check {
        let bounds = |range: &crate::rule::Range| {
            (range.min.unwrap_or(f64::NEG_INFINITY), range.max.unwrap_or(f64::INFINITY))
        };
        let column = self.column(&condition.value);
        let kind = match &condition.test {
            Test::Ranges { ranges, hold } => {
                let ranges = ranges.iter().map(bounds).collect();
                match hold {
                    None => Kind::Ranges(ranges),
                    Some(hold) => Kind::Held { ranges, hold: bounds(hold) },
                }
            }
            Test::Compare { is, other, plus } => {
                Kind::Compare { is: *is, other: self.column(other), plus: *plus }
            }
            Test::Change(change) => {
                let within = i64::try_from(change.within.as_micros()).unwrap_or(i64::MAX);
                Kind::Change { change: change.clone(), within }
            }
        };
        Check { column, kind }
    }

    fn column(&mut self, value: &str) -> usize {
        let next = self.columns.len();
        *self.columns.entry(value.to_owned()).or_insert(next)
    }
}

fn in_any(ranges: &[(f64, f64)], value: f64) -> bool {
    ranges.iter().any(|&(min, max)| min <= value && value < max)
}

impl Compiled {
    fn is_about(&self, line: Line<'_>) -> bool {
        let only = self.rule.text.device.as_deref();
        if only.is_some_and(|only| only != line.device) {
            return false;
        }
        self.scope.as_ref().is_none_or(|scope| scope.has(line))
    }

    /// For rules that remember nothing; conditions first, since most readings match none.
    fn at_once(&self, line: Line<'_>, row: &[f64]) -> Option<(i64, Vec<Seen>)> {
        let holds = self.checks.iter().all(|check| check.holds(row))
            && self.is_about(line)
            && self.hours.as_ref().is_none_or(|hours| hours.hold(line.time));
        if !holds {
            return None;
        }
        let seen = self.checks.iter().map(|check| check.seen(row)).collect();
        Some((line.time.micros(), seen))
    }

    /// Looks at every condition, since each may remember. A reading that lacks one of the values says nothing.
    fn remembering(&self, line: Line<'_>, memory: &mut Memory) -> Option<(i64, Vec<Seen>)> {
        let is_whole = self.checks.iter().all(|check| check.is_whole(&memory.row));
        if !is_whole || !self.is_about(line) {
            return None;
        }
        let time = line.time.micros();
        memory.with(line.device, (self.rule.id, self.rule.version), |state, row| {
            let mut has_changed = false;
            let mut holds = true;
            let mut seen = Vec::with_capacity(self.checks.len());
            for (place, check) in self.checks.iter().enumerate() {
                let (is_true, saw, changed) = check.look(place, time, state, row);
                holds &= is_true;
                has_changed |= changed;
                seen.push(saw);
            }
            holds = holds && self.hours.as_ref().is_none_or(|hours| hours.hold(line.time));
            if !holds {
                has_changed |= state.since.take().is_some();
                has_changed |= std::mem::take(&mut state.is_raised);
                return (None, has_changed);
            }
            let mut since = time;
            if self.lasting > 0 {
                has_changed |= state.since.is_none();
                since = *state.since.get_or_insert(time);
            }
            let has_lasted = time.saturating_sub(since) >= self.lasting;
            let is_told = self.rule.text.is_once && state.is_raised;
            ((has_lasted && !is_told).then_some((since, seen)), has_changed)
        })
    }
}

impl Scope {
    fn has(&self, line: Line<'_>) -> bool {
        let device = line.registered;
        let has_tag = self.tags.is_empty()
            || device.is_some_and(|device| self.tags.iter().any(|tag| device.tags.contains(tag)));
        let has_group = self.groups.is_empty()
            || device
                .and_then(|device| device.group.as_ref())
                .is_some_and(|group| self.groups.contains(group));
        has_tag
            && has_group
            && self.area.as_ref().is_none_or(|area| {
                position_of(line.value, device).is_some_and(|position| area.fits(position))
            })
    }
}

impl Check {
    /// Of those that remember nothing.
    fn holds(&self, row: &[f64]) -> bool {
        let value = row[self.column];
        match &self.kind {
            Kind::Ranges(ranges) => in_any(ranges, value),
            Kind::Compare { is, other, plus } => is.holds(value, row[*other] + plus),
            Kind::Held { .. } | Kind::Change { .. } => false,
        }
    }

    fn is_whole(&self, row: &[f64]) -> bool {
        let other = match &self.kind {
            Kind::Compare { other, .. } => row[*other],
            _ => 0.0,
        };
        !row[self.column].is_nan() && !other.is_nan()
    }

    fn seen(&self, row: &[f64]) -> Seen {
        let other = match &self.kind {
            Kind::Compare { other, .. } => Some(row[*other]),
            _ => None,
        };
        Seen { observed: row[self.column], other, then: None, is_held: false }
    }

    /// Whether it holds, what it saw, and whether it remembers something new.
    fn look(&self, place: usize, time: i64, state: &mut State, row: &[f64]) -> (bool, Seen, bool) {
        let value = row[self.column];
        let mut seen = self.seen(row);
        match &self.kind {
            Kind::Ranges(_) | Kind::Compare { .. } => (self.holds(row), seen, false),
            Kind::Held { ranges, hold: (min, max) } => {
                let is_in = in_any(ranges, value);
                let is_kept = state.held.contains(&place) && *min <= value && value < *max;
                let has_changed = state.hold(place, is_in || is_kept);
                seen.is_held = !is_in;
                (is_in || is_kept, seen, has_changed)
            }
            Kind::Change { change, within } => {
                let from = time.saturating_sub(*within);
                let asked = (change.by, change.direction);
                seen.then = state.past(place).change((time, value), from, asked);
                (seen.then.is_some(), seen, true)
            }
        }
    }
}
