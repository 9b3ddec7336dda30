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

use crate::needs::IssuedKey;
use crate::reading::{check_name, moment};
use crate::registry::{Device, Position, Rectangle, Sensor, SensorValue};
use crate::rule::{Condition, Deed, Range, Rule, RuleText, Window, check_title};
use crate::store::{Alert, Series};
use crate::trial::Trial;
use crate::{Config, Error, Fault, Result};

/// A unit that nobody can read is longer than this.
const UNIT_CHARS_MAX: usize = 32;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SensorBody {
    pub name: String,
    /// In the order in which people see them.
    #[serde(default)]
    pub values: Vec<SensorValueBody>,
}

/// What can be changed of a sensor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SensorFields {
    pub values: Vec<SensorValueBody>,
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
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct DeviceView {
    name: String,
    label: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    sensors: Vec<String>,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    /// The last reading of each sensor, by the readings' times.
    last: Vec<LastView>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct LastView {
    sensor: String,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    values: Map<String, Value>,
}

/// All four or none. `left` may be greater than `right`: the rectangle then crosses the antimeridian.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(crate) struct RectangleQuery {
    left: Option<f64>,
    right: Option<f64>,
    up: Option<f64>,
    down: Option<f64>,
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
    #[serde(default = "yes")]
    pub enabled: bool,
    /// All must hold.
    pub conditions: Vec<ConditionBody>,
    /// Null: the whole day.
    pub window: Option<WindowBody>,
    /// After an alert, and before it in the readings' time, the rule is quiet for the device for so long.
    #[serde(default)]
    pub cooldown_seconds: u64,
    #[serde(default)]
    pub actions: Vec<ActionBody>,
}

/// Holds when the value is in any of the ranges; a missing value is in none.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionBody {
    value: String,
    ranges: Vec<RangeBody>,
}

/// `min <= value < max`; null is no bound.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeBody {
    min: Option<f64>,
    max: Option<f64>,
}

/// `from <= time of day < to` on the clocks of the zone; over midnight when `from` is the later.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowBody {
    /// Such as `22:00`.
    from: String,
    /// Such as `06:00`.
    to: String,
    /// Of the IANA database, such as `America/New_York`.
    zone: String,
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
}

impl From<ActionBody> for Deed {
    fn from(body: ActionBody) -> Self {
        match body {
            ActionBody::Email { to } => Self::Email { to },
            ActionBody::Endpoint { endpoint } => Self::Endpoint { endpoint },
        }
    }
}

impl From<&Deed> for ActionBody {
    fn from(deed: &Deed) -> Self {
        match deed {
            Deed::Email { to } => Self::Email { to: to.clone() },
            Deed::Endpoint { endpoint } => Self::Endpoint { endpoint: endpoint.clone() },
        }
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct RuleView {
    pub id: String,
    #[serde(flatten)]
    rule: RuleBody,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    #[schemars(extend("format" = "date-time"))]
    updated: String,
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
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let values = self.values.into_iter().map(SensorValue::from).collect();
        Ok(Sensor { name: self.name, values, created })
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
        Self { values: sensor.values.iter().map(SensorValueBody::from).collect() }
    }
}

impl From<&Sensor> for SensorView {
    fn from(sensor: &Sensor) -> Self {
        Self {
            name: sensor.name.clone(),
            values: sensor.values.iter().map(SensorValueBody::from).collect(),
            created: sensor.created.to_string(),
        }
    }
}

impl DeviceFields {
    pub(crate) fn named(self, name: String) -> DeviceBody {
        let Self { label, latitude, longitude, sensors } = self;
        DeviceBody { name, label, latitude, longitude, sensors }
    }
}

impl From<&Device> for DeviceFields {
    fn from(device: &Device) -> Self {
        Self {
            label: device.label.clone(),
            latitude: device.position.map(|position| position.latitude),
            longitude: device.position.map(|position| position.longitude),
            sensors: device.sensors.iter().cloned().collect(),
        }
    }
}

impl DeviceBody {
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
        let position = Position::checked(self.latitude, self.longitude);
        match position {
            Ok(position) if faults.is_empty() => Ok(Device {
                name: self.name,
                label: self.label,
                position,
                sensors: self.sensors.into_iter().collect(),
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
    pub(crate) fn new(device: &Device, last: Vec<Series>) -> Self {
        let DeviceFields { label, latitude, longitude, sensors } = device.into();
        let last = last.into_iter().map(|series| LastView {
            sensor: series.sensor,
            time: series.time.to_string(),
            values: object(&series.values),
        });
        Self {
            name: device.name.clone(),
            label,
            latitude,
            longitude,
            sensors,
            created: device.created.to_string(),
            last: last.collect(),
        }
    }
}

/// What the rows keep as text was written as an object of numbers.
fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

impl TryFrom<RectangleQuery> for Option<Rectangle> {
    type Error = Error;

    fn try_from(query: RectangleQuery) -> Result<Self> {
        let RectangleQuery { left, right, up, down } = query;
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
        let window = match body.window {
            None => None,
            Some(WindowBody { from, to, zone }) => {
                let mut faults = Vec::new();
                let mut minute = |pointer: &str, text: &str| {
                    let minute = text.parse().ok();
                    if minute.is_none() {
                        faults.push(Fault::new(pointer, "not a time of day from 00:00 to 23:59"));
                    }
                    minute
                };
                match (minute("/window/from", &from), minute("/window/to", &to)) {
                    (Some(from), Some(to)) => Some(Window { from, to, zone }),
                    _ => return Err(Error::Invalid(faults)),
                }
            }
        };
        let conditions = body.conditions.into_iter().map(|condition| Condition {
            value: condition.value,
            ranges: condition
                .ranges
                .into_iter()
                .map(|r| Range { min: r.min, max: r.max })
                .collect(),
        });
        let actions = body.actions.into_iter().map(Deed::from);
        Ok(Self {
            name: body.name,
            sensor: body.sensor,
            device: body.device,
            is_enabled: body.enabled,
            conditions: conditions.collect(),
            window,
            cooldown: Duration::from_secs(body.cooldown_seconds),
            actions: actions.collect(),
        })
    }
}

impl From<&RuleText> for RuleBody {
    fn from(text: &RuleText) -> Self {
        let conditions = text.conditions.iter().map(|condition| ConditionBody {
            value: condition.value.clone(),
            ranges: condition
                .ranges
                .iter()
                .map(|range| RangeBody { min: range.min, max: range.max })
                .collect(),
        });
        let window = text.window.as_ref().map(|window| WindowBody {
            from: window.from.to_string(),
            to: window.to.to_string(),
            zone: window.zone.clone(),
        });
        let actions = text.actions.iter().map(ActionBody::from);
        Self {
            name: text.name.clone(),
            sensor: text.sensor.clone(),
            device: text.device.clone(),
            enabled: text.is_enabled,
            conditions: conditions.collect(),
            window,
            cooldown_seconds: text.cooldown.as_secs(),
            actions: actions.collect(),
        }
    }
}

impl From<&Rule> for RuleView {
    fn from(rule: &Rule) -> Self {
        Self {
            id: rule.id.to_string(),
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
        }
    }
}
