//! A rule tried on past readings: the same evaluation as the pipeline's, over what the lake has, in the order of
//! the readings' times. It stores nothing and waits for no pipeline.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use lake::Format;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fleet::Fleet;
use crate::reading::{Reading, parse_number};
use crate::registry::Device;
use crate::rule::{Memory, Order, Quiet, Rule, RuleId, RuleSet, RuleText, Verdict};
use crate::{Config, Error, Result};

/// Alerts that an answer lists.
const ALERTS_MAX: usize = 1_000;

/// What a rule would have done.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Trial {
    pub readings: u64,
    /// Readings that the rule matched, whatever the cool-down.
    pub matches: u64,
    pub alerts: Vec<TrialAlert>,
    /// A limit was reached: there are more alerts, or not all readings were looked at.
    pub is_truncated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrialAlert {
    pub device: String,
    pub time: Timestamp,
    pub values: Vec<(String, f64)>,
}

/// Where the next page begins: at this reading.
#[derive(Debug, Clone)]
struct Cursor {
    time: Timestamp,
    device: String,
}

impl Fleet {
    /// Tries a rule on the readings with `from <= time < to`.
    pub(crate) async fn trial(
        &self,
        mut text: RuleText,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Trial> {
        self.check_rule(&text)?;
        let house = &self.house;
        let Ok(_place) = house.trials.try_acquire() else {
            return Err(Error::TooMany("too many rules are being tried at once"));
        };
        // Whoever tries a rule wants to know what it would do.
        text.is_enabled = true;
        let began = house.base.clock.instant();
        let mut work = Work::new(text, &house.config);
        if work.set.needs_device(&work.rule.text.sensor) {
            work.devices = self.registry(|registry| registry.devices.clone());
        }
        let mut cursor = Cursor { time: from, device: String::new() };
        loop {
            let rows = house.config.trial_rows_max;
            let sql = page(&work.rule.text, &cursor, to, rows);
            let left =
                house.config.trial_time_max.saturating_sub(house.base.clock.instant() - began);
            let asked = house.needs.lake.query_encoded(self.organisation, &sql, Format::Json);
            let Ok(answer) = tokio::time::timeout(left, asked).await else {
                work.trial.is_truncated = true;
                return Ok(work.trial);
            };
            let answer = answer?;
            // Parsing a page takes long enough to hold others up.
            let step = tokio::task::spawn_blocking(move || {
                let next = work.page(&answer.bytes, answer.truncated, rows);
                (work, next)
            });
            let next;
            (work, next) = step.await.map_err(|_| Error::Unavailable("the server is stopping"))?;
            match next? {
                Some(next) => cursor = next,
                None => return Ok(work.trial),
            }
        }
    }
}

fn page(text: &RuleText, cursor: &Cursor, to: Timestamp, rows: usize) -> String {
    let Cursor { time, device } = cursor;
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (sensor, device) = (quoted(&text.sensor), quoted(device));
    let only = text.device.as_deref().map(quoted);
    let only = only.map_or_else(String::new, |only| format!(" AND device = {only}"));
    format!(
        "SELECT device, CAST(time AS BIGINT) AS micros, name, value FROM readings \
         WHERE sensor = {sensor}{only} AND time >= '{time}' AND time < '{to}' \
         AND (time > '{time}' OR device >= {device}) \
         ORDER BY time, device, name LIMIT {rows}"
    )
}

struct Work {
    rule: Arc<Rule>,
    set: RuleSet,
    quiet: HashMap<String, Quiet>,
    memory: Memory,
    /// As they are now, for rules that ask what a device is.
    devices: BTreeMap<String, Arc<Device>>,
    readings_max: u64,
    trial: Trial,
}

/// What the lake answers, borrowed from its text.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    rows: Vec<(String, i64, String, Option<&'a RawValue>)>,
}

impl Work {
    fn new(text: RuleText, config: &Config) -> Self {
        let now = Timestamp::from_micros(0);
        let id = RuleId::fixed(0);
        let rule = Arc::new(Rule { id, version: 1, text, created: now, updated: now });
        Self {
            set: RuleSet::new(1, BTreeMap::from([(id, rule.clone())])),
            rule,
            quiet: HashMap::new(),
            memory: Memory::new(config.rule_memory_pairs_max),
            devices: BTreeMap::new(),
            readings_max: config.trial_readings_max as u64,
            trial: Trial::default(),
        }
    }

    /// Evaluates a page; the reading that may go on in the next page is left for that.
    fn page(&mut self, json: &[u8], was_cut: bool, rows_max: usize) -> Result<Option<Cursor>> {
        let page: Page<'_> =
            serde_json::from_slice(json).map_err(|_| Error::damaged("an answer of the lake"))?;
        let is_last = !was_cut && page.rows.len() < rows_max;
        let mut groups = page.rows.chunk_by(|a, b| (&a.0, a.1) == (&b.0, b.1)).peekable();
        let mut is_first = true;
        while let Some(group) = groups.next() {
            let (device, time) = (&group[0].0, Timestamp::from_micros(group[0].1));
            if !is_last && groups.peek().is_none() {
                // A page holds more rows than a reading has values, unless the lake cut it very short.
                if is_first {
                    return Err(Error::TooMany("one reading does not fit the lake's answer"));
                }
                return Ok(Some(Cursor { time, device: device.clone() }));
            }
            if self.trial.readings >= self.readings_max {
                self.trial.is_truncated = true;
                return Ok(None);
            }
            is_first = false;
            let values = group.iter().filter_map(|(_, _, name, value)| {
                Some((name.as_str().into(), parse_number((*value)?).ok()??))
            });
            self.reading(&Reading {
                device: device.as_str().into(),
                sensor: self.rule.text.sensor.clone().into(),
                time,
                values: values.collect(),
            });
        }
        Ok(None)
    }

    fn reading(&mut self, reading: &Reading<'_>) {
        self.trial.readings += 1;
        let device = self.devices.get(&*reading.device).map(|device| &**device);
        let mut matched = Vec::new();
        // They come in the order of their times.
        let about = (device, Order::Newest);
        self.set.evaluate(reading, about, &mut self.memory, &mut matched);
        if matched.is_empty() {
            return;
        }
        self.trial.matches += 1;
        let cooldown: Duration = self.rule.text.cooldown;
        let quiet = self.quiet.entry(reading.device.to_string()).or_default();
        if quiet.verdict(reading.time, cooldown) != Verdict::Alert {
            return;
        }
        quiet.note(reading.time, usize::MAX);
        if self.rule.text.is_once {
            self.memory.raised(&reading.device, (self.rule.id, self.rule.version));
        }
        if self.trial.alerts.len() == ALERTS_MAX {
            self.trial.is_truncated = true;
            return;
        }
        let values = reading.values.iter().map(|(name, value)| (name.to_string(), *value));
        self.trial.alerts.push(TrialAlert {
            device: reading.device.to_string(),
            time: reading.time,
            values: values.collect(),
        });
    }
}
