//! Bodies of requests and answers, and how they become what the rest of the room works with.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::Duration;

use base::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::evidence::Evidence;
use crate::health::keeper::Entry;
use crate::health::{Battery, Health, State};
use crate::needs::IssuedKey;
use crate::reading::{check_name, moment};
use crate::registry::{Device, DeviceFilter, Position, Rectangle, Sensor, SensorValue, Step};
use crate::rollup::Retention;
use crate::rule::{
    Area, Change, Comparison, Condition, Day, Days, Deed, Direction, Escalation, Range, Rule,
    RuleText, Test, Window, check_title,
};
use crate::series::{Resolution, Wanted};
use crate::store::{Alert, AlertFilter, AlertState, Series, Version, Why};
use crate::trial::Trial;
use crate::{Config, Error, Fault, Result, backfill, csv};

/// A unit that nobody can read is longer than this.
const UNIT_CHARS_MAX: usize = 32;
/// Points of a series when nobody says how many.
const POINTS: usize = 500;
/// What people say of an alert is not longer.
const NOTE_CHARS_MAX: usize = 1_000;
/// Ten years: longer than anything that people wait for.
const SECONDS_MAX: u64 = 315_360_000;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SensorBody {
    pub name: String,
    /// In the order in which people see them.
    #[serde(default)]
    pub values: Vec<SensorValueBody>,
    /// A device whose sensor of this type says nothing for so long is not well. Null: it may be silent.
    #[serde(default)]
    pub silent_after_seconds: Option<u64>,
    /// Rules look at no reading that is older than the newest one of its device by more. Null: at all of them.
    #[serde(default)]
    pub lateness_seconds: Option<u64>,
    /// How long readings and their roll-ups are kept. Null: readings for ever, and there are no roll-ups.
    #[serde(default)]
    pub retention: Option<Retention>,
}

/// What can be changed of a sensor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SensorFields {
    pub values: Vec<SensorValueBody>,
    #[serde(default)]
    pub silent_after_seconds: Option<u64>,
    #[serde(default)]
    pub lateness_seconds: Option<u64>,
    #[serde(default)]
    pub retention: Option<Retention>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SensorValueBody {
    pub name: String,
    /// Such as `°F`; empty when there is none.
    #[serde(default)]
    pub unit: String,
    /// For people, where the name is not for them.
    pub label: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SensorView {
    name: String,
    values: Vec<SensorValueBody>,
    silent_after_seconds: Option<u64>,
    lateness_seconds: Option<u64>,
    retention: Option<Retention>,
    #[schemars(extend("format" = "date-time"))]
    created: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceBody {
    pub name: String,
    pub label: Option<String>,
    /// From -90 to 90; with a longitude or not at all.
    pub latitude: Option<f64>,
    /// From -180 to 180; with a latitude or not at all.
    pub longitude: Option<f64>,
    /// The sensor types that it carries.
    #[serde(default)]
    pub sensors: Vec<String>,
    /// The actuators that it carries.
    #[serde(default)]
    pub actuators: Vec<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    /// The one group that it belongs to, such as a building.
    pub group: Option<String>,
}

/// What can be changed of a device.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceFields {
    pub label: Option<String>,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    #[serde(default)]
    pub sensors: Vec<String>,
    #[serde(default)]
    pub actuators: Vec<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    pub group: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeviceView {
    name: String,
    label: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    sensors: Vec<String>,
    actuators: Vec<String>,
    tags: Vec<String>,
    group: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    health: HealthView,
    /// The last reading of each sensor, by the readings' times.
    last: Vec<LastView>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LastView {
    sensor: String,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    values: Map<String, Value>,
    /// By the server's clock.
    #[schemars(extend("format" = "date-time"))]
    received: Option<String>,
}

/// Devices to take elsewhere, and from there.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DevicesBody {
    pub devices: Vec<DeviceBody>,
}

/// Either `devices` or `csv`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DevicesImportBody {
    #[serde(default)]
    pub devices: Vec<DeviceBody>,
    /// Columns `name`, `label`, `latitude`, `longitude`, `sensors`, `actuators`, `tags` and `group` in any order, the first
    /// at least; sensors, actuators and tags are parted by semicolons.
    pub csv: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExportFormat {
    #[default]
    Json,
    Csv,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(crate) struct ExportQuery {
    /// `json` when absent.
    pub format: Option<ExportFormat>,
}

/// How well a device is heard.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct HealthView {
    state: HealthState,
    /// `never-heard`, `connected`, `heard`, `quiet` (heard long ago, and nothing says that it should be), `silent`,
    /// `lost` (its connection), `flapping` (its connection, again and again) or `battery-low`.
    reason: &'static str,
    /// The sensors that say nothing for longer than they may.
    silent: Vec<String>,
    #[schemars(extend("format" = "date-time"))]
    since: String,
    /// By the newest reading with a value `battery`.
    battery: Option<BatteryView>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct BatteryView {
    percent: f64,
    /// Of the reading.
    #[schemars(extend("format" = "date-time"))]
    time: String,
}

/// What a device went through.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct HealthEntryView {
    #[schemars(extend("format" = "date-time"))]
    time: String,
    state: HealthState,
    reason: &'static str,
    silent: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HealthState {
    Stable,
    Unstable,
    Disconnected,
    Unknown,
}

/// A rectangle has all four sides. `left` may be greater than `right`: it then crosses the antimeridian.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(crate) struct DevicesQuery {
    left: Option<f64>,
    right: Option<f64>,
    up: Option<f64>,
    down: Option<f64>,
    /// A part of the name, the label, the group or a tag, whatever its case.
    q: Option<String>,
    tag: Option<String>,
    group: Option<String>,
    pub health: Option<HealthState>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyBody {
    /// The device's name when absent.
    pub label: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct IssuedKeyView {
    id: String,
    label: String,
    /// For HTTP; never shown again.
    token: String,
    mqtt_user: String,
    /// Never shown again.
    mqtt_password: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleBody {
    pub name: String,
    pub sensor: String,
    /// Null: every device.
    pub device: Option<String>,
    /// Only devices with any of these tags; empty: whatever their tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Only devices in any of these groups; empty: whatever their group.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Only where the reading (its values `latitude` and `longitude`) or else its device is inside, or outside.
    #[serde(default)]
    pub area: Option<Area>,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// All must hold.
    pub conditions: Vec<ConditionBody>,
    /// Null: the whole day.
    pub window: Option<WindowBody>,
    /// All of it must hold for so long: from one reading to another, and at each in between.
    #[serde(default)]
    pub for_seconds: u64,
    /// After an alert there is no other before a reading for which the rule does not hold.
    #[serde(default)]
    pub once: bool,
    /// After an alert, and before it in the readings' time, the rule is quiet for the device for so long.
    #[serde(default)]
    pub cooldown_seconds: u64,
    #[serde(default)]
    pub actions: Vec<ActionBody>,
    #[serde(default)]
    pub escalation: Option<EscalationBody>,
}

/// What is asked of a value: `ranges`, `compare` or `change`, one of them. A missing value never holds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionBody {
    value: String,
    /// It is in any of them.
    #[serde(default)]
    ranges: Vec<RangeBody>,
    /// With `ranges`: once it was in one of them, it holds on while it is in this one.
    #[serde(default)]
    hold: Option<RangeBody>,
    #[serde(default)]
    compare: Option<CompareBody>,
    #[serde(default)]
    change: Option<ChangeBody>,
}

/// With another value of the same reading.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompareBody {
    is: Comparison,
    /// The other value.
    value: String,
    /// Added to the other value.
    #[serde(default)]
    plus: f64,
}

/// By how much it differs from a reading that is at most so much older.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeBody {
    by: f64,
    within_seconds: u64,
    #[serde(default)]
    direction: Direction,
}

/// `min <= value < max`; null is no bound.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeBody {
    min: Option<f64>,
    max: Option<f64>,
}

/// `from <= time of day < to` on the clocks of the zone; over midnight when `from` is not the earlier.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowBody {
    /// Such as `22:00`.
    from: String,
    /// Such as `06:00`.
    to: String,
    /// Of the IANA database, such as `America/New_York`.
    zone: String,
    /// On which the window begins; empty: every day.
    #[serde(default)]
    days: Vec<Day>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ActionBody {
    Email {
        to: String,
    },
    /// A webhook or a Slack channel, which gets the alert as `alert.raised`.
    Endpoint {
        /// An endpoint's id.
        endpoint: String,
    },
    /// Commands to a device.
    Actuator {
        /// Null: the device of the reading.
        #[serde(default)]
        device: Option<String>,
        actuator: String,
        /// One after another: each waits for the acknowledgement of the one before.
        steps: Vec<Step>,
        /// How long the device may take to answer each.
        #[serde(default = "super::acting::timeout")]
        timeout_seconds: u64,
    },
}

/// Who is told when nobody takes an alert in hand.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EscalationBody {
    /// From the alert to the escalation, unless it is acknowledged or cleared by then.
    after_seconds: u64,
    /// Mails and endpoints; these get the alert as `alert.escalated`.
    actions: Vec<ActionBody>,
}

impl From<ActionBody> for Deed {
    fn from(body: ActionBody) -> Self {
        match body {
            ActionBody::Email { to } => Self::Email { to },
            ActionBody::Endpoint { endpoint } => Self::Endpoint { endpoint },
            ActionBody::Actuator { device, actuator, steps, timeout_seconds } => {
                let timeout = Duration::from_secs(timeout_seconds);
                Self::Actuator { device, actuator, steps, timeout }
            }
        }
    }
}

impl From<&Deed> for ActionBody {
    fn from(deed: &Deed) -> Self {
        match deed {
            Deed::Email { to } => Self::Email { to: to.clone() },
            Deed::Endpoint { endpoint } => Self::Endpoint { endpoint: endpoint.clone() },
            Deed::Actuator { device, actuator, steps, timeout } => Self::Actuator {
                device: device.clone(),
                actuator: actuator.clone(),
                steps: steps.clone(),
                timeout_seconds: timeout.as_secs(),
            },
        }
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct RuleView {
    pub id: String,
    /// Counted from 1; each change makes the next.
    version: u64,
    #[serde(flatten)]
    rule: RuleBody,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    #[schemars(extend("format" = "date-time"))]
    updated: String,
}

/// A text that a rule has or had.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct VersionView {
    version: u64,
    rule: RuleBody,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    /// Who wrote it.
    author: String,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestoreBody {
    /// The version whose text is to be the newest.
    pub version: u64,
}

/// Rules to take elsewhere, and from there.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RulesBody {
    pub rules: Vec<RuleBody>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ImportedView {
    pub created: usize,
    pub changed: usize,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrialBody {
    rule: RuleBody,
    /// RFC 3339, included.
    #[schemars(extend("format" = "date-time"))]
    from: String,
    /// RFC 3339, not included.
    #[schemars(extend("format" = "date-time"))]
    to: String,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeriesQuery {
    sensor: String,
    /// The name of a value of the sensor.
    value: String,
    /// RFC 3339, included; with roll-ups the time that one of them begins before it.
    #[schemars(extend("format" = "date-time"))]
    from: String,
    /// RFC 3339, not included; with roll-ups the time that one of them ends after it.
    #[schemars(extend("format" = "date-time"))]
    to: String,
    /// `auto` when absent.
    resolution: Option<Resolution>,
    /// Points that are wanted at most; 500 when absent.
    points: Option<usize>,
}

impl SeriesQuery {
    pub(crate) fn wanted(self, device: String) -> Result<Wanted> {
        let at = |name: &str, text: &str| {
            moment(text).map_err(|refusal| Error::invalid(name, refusal.reason()))
        };
        Ok(Wanted {
            device,
            from: at("from", &self.from)?,
            to: at("to", &self.to)?,
            sensor: self.sensor,
            name: self.value,
            resolution: self.resolution.unwrap_or_default(),
            points: self.points.unwrap_or(POINTS),
        })
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct TrialView {
    /// How many were looked at.
    readings: u64,
    /// How many the rule matched, whatever the cool-down.
    matches: u64,
    /// The first 1,000 alerts, in the order of the readings' times.
    alerts: Vec<TrialAlertView>,
    /// There are more alerts, or not all readings were looked at.
    truncated: bool,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct TrialAlertView {
    device: String,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    values: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct AlertView {
    id: String,
    rule: String,
    /// As it was when the alert was raised.
    rule_name: String,
    device: String,
    sensor: String,
    /// Of the reading.
    #[schemars(extend("format" = "date-time"))]
    time: String,
    values: Map<String, Value>,
    #[schemars(extend("format" = "date-time"))]
    raised: String,
    /// Why no mail was sent, when one should have been.
    mail_error: Option<String>,
    state: AlertState,
    acknowledged: Option<DoneView>,
    cleared: Option<DoneView>,
    note: Option<String>,
    /// When more people were told, since nobody had taken it in hand.
    #[schemars(extend("format" = "date-time"))]
    escalated: Option<String>,
}

/// What somebody did, and when.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DoneView {
    #[schemars(extend("format" = "date-time"))]
    time: String,
    by: String,
}

/// An alert with the reasons for it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct AlertDetailView {
    #[serde(flatten)]
    pub alert: AlertView,
    /// Null for an alert from before reasons were kept.
    pub why: Option<Why>,
    /// The rule as it was then; null when that version is no longer kept.
    pub rule_text: Option<RuleBody>,
    /// The newest readings up to the alert's, the oldest first; as far back as the rule looked, or an hour.
    pub readings: Vec<PastView>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct PastView {
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    pub values: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(crate) struct AlertsQuery {
    state: Option<AlertState>,
    device: Option<String>,
    /// A rule's id.
    rule: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HandleBody {
    /// What others should know of it; up to 1,000 characters.
    pub note: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct TakenView {
    /// In the log, on disk.
    pub accepted: usize,
    /// Among the dead letters.
    pub refused: Vec<RefusedView>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct RefusedView {
    /// The place in the list that was sent.
    pub index: usize,
    pub reason: String,
}

/// Readings of the past as a table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackfillBody {
    /// CSV with a heading: `time`, `device`, `sensor`, and a column for each value, empty where it is absent.
    csv: String,
    /// The device of all lines, where there is no such column.
    #[serde(default)]
    device: Option<String>,
    /// The sensor type of all lines, where there is no such column.
    #[serde(default)]
    sensor: Option<String>,
    /// Of times without an offset, such as `Asia/Seoul`. Null: they are refused.
    #[serde(default)]
    zone: Option<String>,
}

impl BackfillBody {
    pub(crate) fn table(self) -> backfill::Table {
        let Self { csv, device, sensor, zone } = self;
        backfill::Table { csv, device, sensor, zone }
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct BackfilledView {
    /// In the log, on disk.
    accepted: usize,
    /// Lines without any value.
    empty: usize,
    /// Among the dead letters.
    refused: usize,
    /// The first 100 of those, by their place below the heading, counted from 0.
    reasons: Vec<RefusedView>,
}

impl BackfilledView {
    const REASONS_MAX: usize = 100;

    pub(crate) fn new(accepted: usize, empty: usize, mut reasons: Vec<RefusedView>) -> Self {
        let refused = reasons.len();
        reasons.truncate(Self::REASONS_MAX);
        Self { accepted, empty, refused, reasons }
    }
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(crate) struct EventsQuery {
    /// `readings` when absent.
    pub topic: Option<EventsTopic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventsTopic {
    Readings,
    Alerts,
    Health,
}

/// One reading or a list of them, as they were written: each is judged by itself, as one that came by MQTT.
#[derive(Debug)]
pub(crate) struct ReadingsBody(Box<RawValue>);

impl<'de> Deserialize<'de> for ReadingsBody {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(from).map(Self)
    }
}

impl JsonSchema for ReadingsBody {
    fn schema_name() -> Cow<'static, str> {
        "Readings".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let reading = json_schema!({
            "type": "object",
            "properties": {
                "sensor": { "type": "string" },
                "time": { "type": "string", "format": "date-time" },
                "values": {
                    "type": "object",
                    "additionalProperties": { "type": ["number", "null"] }
                }
            },
            "required": ["sensor", "time", "values"],
            "additionalProperties": false
        });
        json_schema!({ "oneOf": [reading, { "type": "array", "items": reading }] })
    }
}

impl ReadingsBody {
    /// The readings as bytes, none of them looked at.
    pub(crate) fn payloads(&self) -> Result<Vec<&[u8]>> {
        let text = self.0.get();
        if !text.trim_start().starts_with('[') {
            return Ok(vec![text.as_bytes()]);
        }
        let readings: Vec<&RawValue> = serde_json::from_str(text)
            .map_err(|error| Error::invalid("", format!("not a list of readings: {error}")))?;
        Ok(readings.into_iter().map(|reading| reading.get().as_bytes()).collect())
    }
}

/// Changes to the fields of a `T`: a JSON merge patch (RFC 7396).
#[derive(Debug)]
pub(crate) struct Patch<T> {
    fields: Map<String, Value>,
    of: PhantomData<fn() -> T>,
}

impl<'de, T> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Map::deserialize(from).map(|fields| Self { fields, of: PhantomData })
    }
}

impl<T: JsonSchema> JsonSchema for Patch<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Patch", T::schema_name()).into()
    }

    fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(schemas);
        schema.remove("required");
        schema
    }
}

impl<T: Serialize + DeserializeOwned> Patch<T> {
    pub(crate) fn apply(self, to: &T) -> Result<T> {
        let mut whole = serde_json::to_value(to).expect("wire types always become JSON");
        for (name, value) in &self.fields {
            if whole.get(name).is_none() {
                return Err(Error::invalid(&format!("/{}", escaped(name)), "cannot be changed"));
            }
            // One field at a time, so that the fault can be pointed at.
            merge(&mut whole[name.as_str()], value.clone());
            if let Err(error) = T::deserialize(&whole) {
                return Err(Error::invalid(&format!("/{}", escaped(name)), error.to_string()));
            }
        }
        T::deserialize(&whole).map_err(|error| Error::invalid("", error.to_string()))
    }
}

fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            for (name, value) in fields {
                if value.is_null() {
                    target.as_object_mut().and_then(|target| target.shift_remove(&name));
                } else {
                    merge(&mut target[name.as_str()], value);
                }
            }
        }
        other => *target = other,
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

impl SensorBody {
    pub(crate) fn sensor(self, created: Timestamp, config: &Config) -> Result<Sensor> {
        let mut faults = Vec::new();
        if let Err(why) = check_name(&self.name) {
            faults.push(Fault::new("/name", format!("the name {why}")));
        }
        if self.values.len() > config.value_count_max {
            faults.push(Fault::new("/values", format!("more than {}", config.value_count_max)));
        }
        let mut seen = BTreeSet::new();
        for (index, value) in self.values.iter().enumerate() {
            let at = |field: &str| format!("/values/{index}/{field}");
            if let Err(why) = check_name(&value.name) {
                faults.push(Fault::new(at("name"), format!("the name {why}")));
            }
            if !seen.insert(&value.name) {
                faults.push(Fault::new(at("name"), "there are two values of this name"));
            }
            let is_long = value.unit.chars().nth(UNIT_CHARS_MAX).is_some();
            if is_long || value.unit.contains(char::is_control) {
                faults
                    .push(Fault::new(at("unit"), format!("not up to {UNIT_CHARS_MAX} characters")));
            }
            if let Some(Err(why)) = value.label.as_deref().map(check_title) {
                faults.push(Fault::new(at("label"), format!("the label {why}")));
            }
        }
        let times = [
            ("/silent_after_seconds", self.silent_after_seconds, 1),
            ("/lateness_seconds", self.lateness_seconds, 0),
        ];
        for (pointer, seconds, least) in times {
            if seconds.is_some_and(|seconds| !(least..=SECONDS_MAX).contains(&seconds)) {
                faults.push(Fault::new(pointer, format!("not from {least} to {SECONDS_MAX}")));
            }
        }
        if let Some(part) = self.retention.as_ref().and_then(Retention::fault) {
            faults.push(Fault::new(format!("/retention/{part}"), "not from 1 to 36500"));
        }
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let values = self.values.into_iter().map(SensorValue::from).collect();
        Ok(Sensor {
            name: self.name,
            values,
            silent_after: self.silent_after_seconds.map(Duration::from_secs),
            lateness: self.lateness_seconds.map(Duration::from_secs),
            retention: self.retention,
            created,
        })
    }
}

impl From<SensorValueBody> for SensorValue {
    fn from(body: SensorValueBody) -> Self {
        Self { name: body.name, unit: body.unit, label: body.label }
    }
}

impl From<&SensorValue> for SensorValueBody {
    fn from(value: &SensorValue) -> Self {
        let SensorValue { name, unit, label } = value.clone();
        Self { name, unit, label }
    }
}

impl From<&Sensor> for SensorFields {
    fn from(sensor: &Sensor) -> Self {
        Self {
            values: sensor.values.iter().map(SensorValueBody::from).collect(),
            silent_after_seconds: sensor.silent_after.map(|time| time.as_secs()),
            lateness_seconds: sensor.lateness.map(|time| time.as_secs()),
            retention: sensor.retention,
        }
    }
}

impl From<&Sensor> for SensorView {
    fn from(sensor: &Sensor) -> Self {
        Self {
            name: sensor.name.clone(),
            values: sensor.values.iter().map(SensorValueBody::from).collect(),
            silent_after_seconds: sensor.silent_after.map(|time| time.as_secs()),
            lateness_seconds: sensor.lateness.map(|time| time.as_secs()),
            retention: sensor.retention,
            created: sensor.created.to_string(),
        }
    }
}

impl DeviceFields {
    pub(crate) fn named(self, name: String) -> DeviceBody {
        let Self { label, latitude, longitude, sensors, actuators, tags, group } = self;
        DeviceBody { name, label, latitude, longitude, sensors, actuators, tags, group }
    }
}

impl From<&Device> for DeviceFields {
    fn from(device: &Device) -> Self {
        Self {
            label: device.label.clone(),
            latitude: device.position.map(|position| position.latitude),
            longitude: device.position.map(|position| position.longitude),
            sensors: device.sensors.iter().cloned().collect(),
            actuators: device.actuators.iter().cloned().collect(),
            tags: device.tags.iter().cloned().collect(),
            group: device.group.clone(),
        }
    }
}

impl DevicesImportBody {
    pub(crate) fn devices(self, now: Timestamp, config: &Config) -> Result<Vec<Device>> {
        let bodies = match self.csv {
            None => self.devices,
            Some(_) if !self.devices.is_empty() => {
                return Err(Error::invalid("/csv", "either devices or csv"));
            }
            Some(csv) => csv::read(&csv)?
                .into_iter()
                .enumerate()
                .map(|(index, row)| DeviceBody::of_row(row, index))
                .collect::<Result<_>>()?,
        };
        if bodies.len() > config.import_devices_max {
            let most = config.import_devices_max;
            return Err(Error::invalid("", format!("more than {most} devices")));
        }
        let (mut devices, mut faults) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for (index, body) in bodies.into_iter().enumerate() {
            if !seen.insert(body.name.clone()) {
                let text = "there are two devices of this name";
                faults.push(Fault::new(format!("/devices/{index}/name"), text));
            }
            match body.device(now, config) {
                Ok(device) => devices.push(device),
                Err(Error::Invalid(more)) => faults.extend(more.into_iter().map(|fault| Fault {
                    pointer: format!("/devices/{index}{}", fault.pointer),
                    ..fault
                })),
                Err(error) => return Err(error),
            }
        }
        if faults.is_empty() { Ok(devices) } else { Err(Error::Invalid(faults)) }
    }
}

impl From<&Device> for DeviceBody {
    fn from(device: &Device) -> Self {
        DeviceFields::from(device).named(device.name.clone())
    }
}

impl DeviceBody {
    pub(crate) fn row(self) -> [String; csv::COLUMNS.len()] {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        [
            self.name,
            self.label.unwrap_or_default(),
            number(self.latitude),
            number(self.longitude),
            self.sensors.join(";"),
            self.actuators.join(";"),
            self.tags.join(";"),
            self.group.unwrap_or_default(),
        ]
    }

    fn of_row(row: [String; csv::COLUMNS.len()], index: usize) -> Result<Self> {
        let [name, label, latitude, longitude, sensors, actuators, tags, group] = row;
        let number = |column: &str, text: &str| {
            let text = text.trim();
            let number = (!text.is_empty()).then(|| text.parse::<f64>()).transpose();
            number.map_err(|_| {
                let pointer = format!("/devices/{index}/{column}");
                Error::invalid(&pointer, format!("{text:?} is not a number"))
            })
        };
        let some = |text: String| (!text.trim().is_empty()).then_some(text);
        Ok(Self {
            name,
            label: some(label),
            latitude: number("latitude", &latitude)?,
            longitude: number("longitude", &longitude)?,
            sensors: csv::list(&sensors),
            actuators: csv::list(&actuators),
            tags: csv::list(&tags),
            group: some(group),
        })
    }

    pub(crate) fn device(self, created: Timestamp, config: &Config) -> Result<Device> {
        let mut faults = Vec::new();
        if let Err(why) = check_name(&self.name) {
            faults.push(Fault::new("/name", format!("the name {why}")));
        }
        if let Some(Err(why)) = self.label.as_deref().map(check_title) {
            faults.push(Fault::new("/label", format!("the label {why}")));
        }
        if self.sensors.len() > config.device_sensors_max {
            faults.push(Fault::new("/sensors", format!("more than {}", config.device_sensors_max)));
        }
        if self.actuators.len() > config.device_sensors_max {
            let text = format!("more than {}", config.device_sensors_max);
            faults.push(Fault::new("/actuators", text));
        }
        if let Some(Err(why)) = self.group.as_deref().map(check_title) {
            faults.push(Fault::new("/group", format!("the group {why}")));
        }
        if self.tags.len() > config.device_tags_max {
            faults.push(Fault::new("/tags", format!("more than {}", config.device_tags_max)));
        }
        for (index, tag) in self.tags.iter().enumerate() {
            if let Err(why) = check_title(tag) {
                faults.push(Fault::new(format!("/tags/{index}"), format!("the tag {why}")));
            }
        }
        let position = Position::checked(self.latitude, self.longitude);
        match position {
            Ok(position) if faults.is_empty() => Ok(Device {
                name: self.name,
                label: self.label,
                position,
                sensors: self.sensors.into_iter().collect(),
                actuators: self.actuators.into_iter().collect(),
                tags: self.tags.into_iter().collect(),
                group: self.group,
                provisioned: None,
                created,
            }),
            Ok(_) => Err(Error::Invalid(faults)),
            Err(more) => {
                faults.extend(more);
                Err(Error::Invalid(faults))
            }
        }
    }
}

impl DeviceView {
    pub(crate) fn new(
        device: &Device,
        (health, battery): (Health, Option<Battery>),
        last: Vec<Series>,
    ) -> Self {
        let DeviceFields { label, latitude, longitude, sensors, actuators, tags, group } =
            device.into();
        let last = last.into_iter().map(|series| LastView {
            sensor: series.sensor,
            time: series.time.to_string(),
            values: object(&series.values),
            received: series.received.map(|received| received.to_string()),
        });
        Self {
            name: device.name.clone(),
            label,
            latitude,
            longitude,
            sensors,
            actuators,
            tags,
            group,
            created: device.created.to_string(),
            health: HealthView::new(health, battery),
            last: last.collect(),
        }
    }
}

/// What the rows keep as text was written as an object of numbers.
fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

impl From<State> for HealthState {
    fn from(state: State) -> Self {
        match state {
            State::Stable => Self::Stable,
            State::Unstable => Self::Unstable,
            State::Disconnected => Self::Disconnected,
            State::Unknown => Self::Unknown,
        }
    }
}

impl HealthView {
    fn new(health: Health, battery: Option<Battery>) -> Self {
        let Health { state, reason, silent, since, .. } = health;
        let (state, reason, since) = (state.into(), reason.word(), since.to_string());
        Self { state, reason, silent, since, battery: battery.map(BatteryView::from) }
    }
}

impl From<Battery> for BatteryView {
    fn from(battery: Battery) -> Self {
        Self { percent: battery.percent, time: battery.time.to_string() }
    }
}

impl From<Entry> for HealthEntryView {
    fn from(entry: Entry) -> Self {
        Self {
            time: entry.time.to_string(),
            state: entry.state.into(),
            reason: entry.reason.word(),
            silent: entry.silent,
        }
    }
}

impl TryFrom<DevicesQuery> for DeviceFilter {
    type Error = Error;

    fn try_from(query: DevicesQuery) -> Result<Self> {
        let text = query.q.as_ref().map(|text| text.trim().to_lowercase());
        let text = text.filter(|text| !text.is_empty());
        let (tag, group) = (query.tag.clone(), query.group.clone());
        Ok(Self { rectangle: query.rectangle()?, text, tag, group })
    }
}

impl DevicesQuery {
    fn rectangle(&self) -> Result<Option<Rectangle>> {
        let (left, right, up, down) = (self.left, self.right, self.up, self.down);
        let sides = [
            ("left", left, 180.0),
            ("right", right, 180.0),
            ("up", up, 90.0),
            ("down", down, 90.0),
        ];
        if sides.iter().all(|(_, side, _)| side.is_none()) {
            return Ok(None);
        }
        let mut faults = Vec::new();
        for (name, side, most) in sides {
            match side {
                None => faults.push(Fault::new(name, "missing beside the others")),
                Some(side) if !(-most..=most).contains(&side) => {
                    faults.push(Fault::new(name, format!("not between -{most} and {most}")));
                }
                Some(_) => {}
            }
        }
        match (left, right, up, down) {
            (Some(left), Some(right), Some(up), Some(down)) if faults.is_empty() => {
                if down > up {
                    return Err(Error::invalid("down", "above up"));
                }
                Ok(Some(Rectangle { left, right, up, down }))
            }
            _ => Err(Error::Invalid(faults)),
        }
    }
}

impl From<IssuedKey> for IssuedKeyView {
    fn from(key: IssuedKey) -> Self {
        let IssuedKey { id, label, token, mqtt_user, mqtt_password } = key;
        Self { id, label, token, mqtt_user, mqtt_password }
    }
}

fn yes() -> bool {
    true
}

impl TryFrom<RuleBody> for RuleText {
    type Error = Error;

    fn try_from(body: RuleBody) -> Result<Self> {
        let mut faults = Vec::new();
        let window = body.window.and_then(|window| window.window(&mut faults));
        let conditions = body.conditions.into_iter().enumerate();
        let conditions = conditions
            .filter_map(|(index, condition)| condition.condition(index, &mut faults))
            .collect();
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        Ok(Self {
            name: body.name,
            sensor: body.sensor,
            device: body.device,
            tags: body.tags,
            groups: body.groups,
            area: body.area,
            is_enabled: body.enabled,
            conditions,
            window,
            lasting: Duration::from_secs(body.for_seconds),
            is_once: body.once,
            cooldown: Duration::from_secs(body.cooldown_seconds),
            actions: body.actions.into_iter().map(Deed::from).collect(),
            escalation: body.escalation.map(|body| Escalation {
                after: Duration::from_secs(body.after_seconds),
                actions: body.actions.into_iter().map(Deed::from).collect(),
            }),
        })
    }
}

impl WindowBody {
    fn window(self, faults: &mut Vec<Fault>) -> Option<Window> {
        let mut minute = |pointer: &str, text: &str| {
            let minute = text.parse().ok();
            if minute.is_none() {
                faults.push(Fault::new(pointer, "not a time of day from 00:00 to 23:59"));
            }
            minute
        };
        let (from, to) = (minute("/window/from", &self.from), minute("/window/to", &self.to));
        Some(Window { from: from?, to: to?, days: Days::of(&self.days), zone: self.zone })
    }
}

impl ConditionBody {
    fn condition(self, index: usize, faults: &mut Vec<Fault>) -> Option<Condition> {
        let Self { value, ranges, hold, compare, change } = self;
        let range = |range: RangeBody| Range { min: range.min, max: range.max };
        let test = match (compare, change) {
            (None, None) => Test::Ranges {
                ranges: ranges.into_iter().map(range).collect(),
                hold: hold.map(range),
            },
            (Some(compare), None) if ranges.is_empty() && hold.is_none() => {
                let CompareBody { is, value, plus } = compare;
                Test::Compare { is, other: value, plus }
            }
            (None, Some(change)) if ranges.is_empty() && hold.is_none() => {
                let ChangeBody { by, within_seconds, direction } = change;
                Test::Change(Change { by, within: Duration::from_secs(within_seconds), direction })
            }
            _ => {
                let text = "ranges, compare and change do not go together";
                faults.push(Fault::new(format!("/conditions/{index}"), text));
                return None;
            }
        };
        Some(Condition { value, test })
    }
}

impl From<&Condition> for ConditionBody {
    fn from(condition: &Condition) -> Self {
        let range = |range: &Range| RangeBody { min: range.min, max: range.max };
        let value = condition.value.clone();
        let mut body = Self { value, ranges: Vec::new(), hold: None, compare: None, change: None };
        match &condition.test {
            Test::Ranges { ranges, hold } => {
                body.ranges = ranges.iter().map(range).collect();
                body.hold = hold.as_ref().map(range);
            }
            Test::Compare { is, other, plus } => {
                body.compare = Some(CompareBody { is: *is, value: other.clone(), plus: *plus });
            }
            Test::Change(Change { by, within, direction }) => {
                let (by, direction) = (*by, *direction);
                let within_seconds = within.as_secs();
                body.change = Some(ChangeBody { by, within_seconds, direction });
            }
        }
        body
    }
}

impl From<&RuleText> for RuleBody {
    fn from(text: &RuleText) -> Self {
        let window = text.window.as_ref().map(|window| WindowBody {
            from: window.from.to_string(),
            to: window.to.to_string(),
            zone: window.zone.clone(),
            days: window.days.list(),
        });
        let actions = text.actions.iter().map(ActionBody::from);
        Self {
            name: text.name.clone(),
            sensor: text.sensor.clone(),
            device: text.device.clone(),
            tags: text.tags.clone(),
            groups: text.groups.clone(),
            area: text.area.clone(),
            enabled: text.is_enabled,
            conditions: text.conditions.iter().map(ConditionBody::from).collect(),
            window,
            for_seconds: text.lasting.as_secs(),
            once: text.is_once,
            cooldown_seconds: text.cooldown.as_secs(),
            actions: actions.collect(),
            escalation: text.escalation.as_ref().map(|escalation| EscalationBody {
                after_seconds: escalation.after.as_secs(),
                actions: escalation.actions.iter().map(ActionBody::from).collect(),
            }),
        }
    }
}

impl From<Version> for VersionView {
    fn from(version: Version) -> Self {
        Self {
            version: version.number,
            rule: RuleBody::from(&version.text),
            time: version.time.to_string(),
            author: version.author,
        }
    }
}

impl TryFrom<RulesBody> for Vec<RuleText> {
    type Error = Error;

    fn try_from(body: RulesBody) -> Result<Self> {
        let mut texts = Self::new();
        let mut faults = Vec::new();
        for (index, rule) in body.rules.into_iter().enumerate() {
            match RuleText::try_from(rule) {
                Ok(text) => texts.push(text),
                Err(Error::Invalid(more)) => faults.extend(more.into_iter().map(|fault| Fault {
                    pointer: format!("/rules/{index}{}", fault.pointer),
                    ..fault
                })),
                Err(error) => return Err(error),
            }
        }
        if faults.is_empty() { Ok(texts) } else { Err(Error::Invalid(faults)) }
    }
}

impl TryFrom<AlertsQuery> for AlertFilter {
    type Error = Error;

    fn try_from(query: AlertsQuery) -> Result<Self> {
        let AlertsQuery { state, device, rule } = query;
        let rule = rule.map(|id| id.parse()).transpose();
        let rule = rule.map_err(|_| Error::invalid("rule", "not the id of a rule"))?;
        Ok(Self { state, device, rule })
    }
}

impl From<&Rule> for RuleView {
    fn from(rule: &Rule) -> Self {
        Self {
            id: rule.id.to_string(),
            version: rule.version,
            rule: RuleBody::from(&rule.text),
            created: rule.created.to_string(),
            updated: rule.updated.to_string(),
        }
    }
}

impl TrialBody {
    pub(crate) fn parts(self) -> Result<(RuleText, Timestamp, Timestamp)> {
        let time = |pointer: &str, text: &str| {
            moment(text).map_err(|refusal| Error::invalid(pointer, refusal.reason()))
        };
        let (from, to) = (time("/from", &self.from)?, time("/to", &self.to)?);
        if from > to {
            return Err(Error::invalid("/to", "before from"));
        }
        let text = RuleText::try_from(self.rule).map_err(inside_rule)?;
        Ok((text, from, to))
    }
}

/// The rule is a part of a body, so its pointers go through it.
pub(crate) fn inside_rule(error: Error) -> Error {
    match error {
        Error::Invalid(faults) => Error::Invalid(
            faults
                .into_iter()
                .map(|fault| Fault { pointer: format!("/rule{}", fault.pointer), ..fault })
                .collect(),
        ),
        error => error,
    }
}

impl From<Trial> for TrialView {
    fn from(trial: Trial) -> Self {
        let alerts = trial.alerts.into_iter().map(|alert| TrialAlertView {
            device: alert.device,
            time: alert.time.to_string(),
            values: alert.values.into_iter().map(|(name, value)| (name, value.into())).collect(),
        });
        Self {
            readings: trial.readings,
            matches: trial.matches,
            alerts: alerts.collect(),
            truncated: trial.is_truncated,
        }
    }
}

impl From<Evidence> for AlertDetailView {
    fn from(evidence: Evidence) -> Self {
        let Evidence { alert, rule, readings } = evidence;
        let readings = readings.into_iter().map(|(time, values)| PastView {
            time: time.to_string(),
            values: values.into_iter().map(|(name, value)| (name, value.into())).collect(),
        });
        Self {
            why: alert.why.clone(),
            alert: alert.into(),
            rule_text: rule.as_ref().map(RuleBody::from),
            readings: readings.collect(),
        }
    }
}

impl HandleBody {
    pub(crate) fn checked(self) -> Result<Option<String>> {
        let is_long =
            self.note.as_ref().is_some_and(|note| note.chars().nth(NOTE_CHARS_MAX).is_some());
        if is_long {
            return Err(Error::invalid("/note", format!("more than {NOTE_CHARS_MAX} characters")));
        }
        Ok(self.note)
    }
}

impl From<Alert> for AlertView {
    fn from(alert: Alert) -> Self {
        Self {
            id: alert.id.to_string(),
            rule: alert.rule.to_string(),
            rule_name: alert.rule_name,
            device: alert.device,
            sensor: alert.sensor,
            time: alert.time.to_string(),
            values: object(&alert.values),
            raised: alert.raised.to_string(),
            mail_error: alert.mail_error,
            state: alert.handling.state(),
            acknowledged: alert.handling.acknowledged.map(DoneView::from),
            cleared: alert.handling.cleared.map(DoneView::from),
            note: alert.handling.note,
            escalated: alert.escalated.map(|escalated| escalated.to_string()),
        }
    }
}

impl From<(Timestamp, String)> for DoneView {
    fn from((time, by): (Timestamp, String)) -> Self {
        Self { time: time.to_string(), by }
    }
}
