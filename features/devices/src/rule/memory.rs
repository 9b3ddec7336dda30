//! What rules remember of a device from one reading to the next. It is written down with the position of the pipeline, so
//! after a crash both go on from the same reading.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::rule::{Direction, RuleId};

/// Values that a condition on change remembers; beyond it the window is shorter.
pub(crate) const SAMPLES_MAX: usize = 1_024;

/// What one rule remembers of one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of the rule; another text begins anew.
    #[serde(skip)]
    pub version: u64,
    /// The reading since which all of it holds, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// It holds, and an alert said so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_raised: bool,
    /// Which conditions hold until their value has left another range, by their place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<usize>,
    /// What conditions on change have seen, by their place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<(usize, Past)>,
    #[serde(skip)]
    is_stored: bool,
    #[serde(skip)]
    is_dirty: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The extremes of a window: of those values that can still be the lowest or the highest of what is to come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "PastRow", into = "PastRow")]
pub(crate) struct Past {
    /// Times and values, both ascending.
    lows: VecDeque<(i64, f64)>,
    /// Times ascending, values descending.
    highs: VecDeque<(i64, f64)>,
}

/// Values by their bits, since they are to be the same to the last one.
#[derive(Serialize, Deserialize)]
struct PastRow {
    lows: Vec<(i64, u64)>,
    highs: Vec<(i64, u64)>,
}

impl From<Past> for PastRow {
    fn from(past: Past) -> Self {
        let bits = |side: VecDeque<(i64, f64)>| {
            side.into_iter().map(|(time, value)| (time, value.to_bits())).collect()
        };
        Self { lows: bits(past.lows), highs: bits(past.highs) }
    }
}

impl From<PastRow> for Past {
    fn from(row: PastRow) -> Self {
        let values = |side: Vec<(i64, u64)>| {
            side.into_iter().map(|(time, bits)| (time, f64::from_bits(bits))).collect()
        };
        Self { lows: values(row.lows), highs: values(row.highs) }
    }
}

impl Past {
    /// The value and its time that this one has changed from by at least `by`, no earlier than `from`; then remembers this one.
    pub(crate) fn change(
        &mut self,
        (time, value): (i64, f64),
        from: i64,
        (by, direction): (f64, Direction),
    ) -> Option<(i64, f64)> {
        for side in [&mut self.lows, &mut self.highs] {
            while side.front().is_some_and(|(time, _)| *time < from) {
                side.pop_front();
            }
        }
        let low = self.lows.front().filter(|_| direction != Direction::Fall).copied();
        let high = self.highs.front().filter(|_| direction != Direction::Rise).copied();
        let found = low
            .filter(|(_, low)| value - low >= by)
            .or_else(|| high.filter(|(_, high)| high - value >= by));
        if direction != Direction::Fall {
            while self.lows.back().is_some_and(|(_, low)| *low >= value) {
                self.lows.pop_back();
            }
            self.lows.push_back((time, value));
        }
        if direction != Direction::Rise {
            while self.highs.back().is_some_and(|(_, high)| *high <= value) {
                self.highs.pop_back();
            }
            self.highs.push_back((time, value));
        }
        for side in [&mut self.lows, &mut self.highs] {
            if side.len() > SAMPLES_MAX {
                side.pop_front();
            }
        }
        found
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.since.is_none() && !self.is_raised && self.held.is_empty() && self.past.is_empty()
    }

    pub(crate) fn past(&mut self, place: usize) -> &mut Past {
        let known = self.past.iter().position(|(at, _)| *at == place);
        let at = known.unwrap_or_else(|| {
            self.past.push((place, Past::default()));
            self.past.len() - 1
        });
        &mut self.past[at].1
    }

    /// Notes whether a condition is held on, and says whether that is news.
    pub(crate) fn hold(&mut self, place: usize, is_held: bool) -> bool {
        let known = self.held.iter().position(|at| *at == place);
        match (known, is_held) {
            (None, true) => self.held.push(place),
            (Some(at), false) => drop(self.held.swap_remove(at)),
            _ => return false,
        }
        true
    }
}

/// What is to be written down of one rule and device; no body: it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub device: String,
    pub rule: RuleId,
    pub version: u64,
    pub body: Option<String>,
}

/// What rules remember, of all devices of a pipeline.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Room for the values of one reading.
    pub(crate) row: Vec<f64>,
    states: HashMap<String, HashMap<RuleId, State>>,
    count: usize,
    pairs_max: usize,
    /// What changed since it was written down.
    dirty: Vec<(String, RuleId)>,
    /// How often there was no room to remember something.
    pub(crate) full: u64,
}

impl Memory {
    pub(crate) fn new(pairs_max: usize) -> Self {
        let (states, dirty) = (HashMap::new(), Vec::new());
        Self { row: Vec::new(), states, count: 0, pairs_max, dirty, full: 0 }
    }

    /// Puts back what was written down; none when it cannot be read.
    pub(crate) fn restore(&mut self, kept: Remembered) -> Option<()> {
        let state: State = serde_json::from_str(kept.body.as_deref()?).ok()?;
        let state = State { version: kept.version, is_stored: true, ..state };
        self.count += 1;
        self.states.entry(kept.device).or_default().insert(kept.rule, state);
        Some(())
    }

    /// Lets a rule look at what it remembers of a device. `look` says whether it changed that.
    pub(crate) fn with<T>(
        &mut self,
        device: &str,
        (rule, version): (RuleId, u64),
        look: impl FnOnce(&mut State, &[f64]) -> (T, bool),
    ) -> T {
        let known = self.states.get_mut(device).and_then(|rules| rules.get_mut(&rule));
        if let Some(state) = known {
            if state.version != version {
                let is_dirty = state.is_dirty;
                *state =
                    State { version, is_stored: state.is_stored, is_dirty, ..State::default() };
            }
            let (found, has_changed) = look(state, &self.row);
            if has_changed && !std::mem::replace(&mut state.is_dirty, true) {
                self.dirty.push((device.to_owned(), rule));
            }
            return found;
        }
        let mut state = State { version, ..State::default() };
        let (found, has_changed) = look(&mut state, &self.row);
        if has_changed {
            if self.count >= self.pairs_max {
                self.full += 1;
                return found;
            }
            self.count += 1;
            state.is_dirty = true;
            self.states.entry(device.to_owned()).or_default().insert(rule, state);
            self.dirty.push((device.to_owned(), rule));
        }
        found
    }

    /// An alert said that the rule holds.
    pub(crate) fn raised(&mut self, device: &str, rule: (RuleId, u64)) {
        self.with(device, rule, |state, _| ((), !std::mem::replace(&mut state.is_raised, true)));
    }

    /// What changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Vec<Remembered> {
        let mut changes = Vec::with_capacity(self.dirty.len());
        for (device, rule) in std::mem::take(&mut self.dirty) {
            let Some(rules) = self.states.get_mut(&device) else { continue };
            let Some(state) = rules.get_mut(&rule) else { continue };
            state.is_dirty = false;
            let version = state.version;
            let body = if state.is_empty() {
                let is_stored = state.is_stored;
                rules.remove(&rule);
                self.count -= 1;
                if rules.is_empty() {
                    self.states.remove(&device);
                }
                if !is_stored {
                    continue;
                }
                None
            } else {
                state.is_stored = true;
                let body = serde_json::to_string(state);
                Some(body.expect("finite numbers always become JSON"))
            };
            changes.push(Remembered { device, rule, version, body });
        }
        changes
    }
}
