//! Rows: the registry, the rules, the alerts, the last reading of each series, and how far each pipeline is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, EventId, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Migration, NewEvent, Read, Row, Tx, Value, params};
use serde::{Deserialize, Serialize};

use crate::needs::{Notice, Notifier};
use crate::registry::{Additions, Device, Position, Registry, Sensor, SensorValue};
use crate::rule::{Condition, Deed, Range, Rule, RuleId, RuleText, Window};
use crate::{Error, Result};

/// The topic that tells of raised alerts.
pub(crate) const ALERTS: &str = "alerts";

/// Rows that are loaded at once; below the limit of any database.
const CHUNK_ROWS: i64 = 5_000;

pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        id: "0001-devices",
        sql: "
CREATE TABLE sensors (
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    fields TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, name)
);
CREATE TABLE devices (
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    label VARCHAR(128),
    latitude DOUBLE PRECISION,
    longitude DOUBLE PRECISION,
    sensors TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, name)
);
CREATE TABLE rules (
    organisation VARCHAR(36) NOT NULL,
    id VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    sensor VARCHAR(128) NOT NULL,
    device VARCHAR(128),
    is_enabled BIGINT NOT NULL,
    body TEXT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    PRIMARY KEY (organisation, id)
);
CREATE TABLE alerts (
    organisation VARCHAR(36) NOT NULL,
    id VARCHAR(36) NOT NULL,
    rule VARCHAR(36) NOT NULL,
    rule_name VARCHAR(128) NOT NULL,
    device VARCHAR(128) NOT NULL,
    sensor VARCHAR(128) NOT NULL,
    time BIGINT NOT NULL,
    reading TEXT NOT NULL,
    raised BIGINT NOT NULL,
    mail_error TEXT,
    PRIMARY KEY (organisation, id)
);
CREATE INDEX alerts_of_rule ON alerts (organisation, rule, device, time);
CREATE INDEX alerts_newest ON alerts (organisation, raised, id);
CREATE TABLE series (
    organisation VARCHAR(36) NOT NULL,
    device VARCHAR(128) NOT NULL,
    sensor VARCHAR(128) NOT NULL,
    time BIGINT NOT NULL,
    reading TEXT NOT NULL,
    PRIMARY KEY (organisation, device, sensor)
);
CREATE TABLE pipelines (
    organisation VARCHAR(36) NOT NULL,
    part BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    readings BIGINT NOT NULL,
    alerts BIGINT NOT NULL,
    PRIMARY KEY (organisation, part)
);
",
    },
    // What became of dead letters since they were written; the letters themselves are in the log.
    Migration {
        id: "0002-letters",
        sql: "
CREATE TABLE letters (
    organisation VARCHAR(36) NOT NULL,
    letter_offset BIGINT NOT NULL,
    is_settled BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    reason TEXT NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (organisation, letter_offset)
);
",
    },
];

/// An alert that was raised, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alert {
    /// Derived from the rule and the reading's identity.
    pub id: EventId,
    pub rule: RuleId,
    pub rule_name: String,
    pub device: String,
    pub sensor: String,
    pub time: Timestamp,
    /// The reading's values as JSON.
    pub values: String,
    pub raised: Timestamp,
    /// Why a mail about it was not taken; the alert stands all the same.
    pub mail_error: Option<String>,
}

/// The last reading of one sensor of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Series {
    pub device: String,
    pub sensor: String,
    pub time: Timestamp,
    pub values: String,
}

/// What one batch of readings changes, all of it or nothing.
#[derive(Debug)]
pub(crate) struct Commit {
    pub organisation: OrganisationId,
    pub partition: u32,
    /// Where the pipeline stood; another that moved it in between makes the commit fail.
    pub from: u64,
    pub next: u64,
    pub readings: u64,
    pub alerts: Vec<(Alert, Vec<Notice>)>,
    pub new_series: Vec<Series>,
    pub moved_series: Vec<Series>,
}

/// Numbers for the overview.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub readings: u64,
    pub alerts: u64,
}

/// The organisations that ever had a pipeline.
pub(crate) async fn organisations(read: &mut Read) -> Result<Vec<OrganisationId>> {
    let sql = "SELECT DISTINCT organisation FROM pipelines ORDER BY organisation";
    let rows = read.query(sql, params![]).await?;
    rows.iter().map(|row| Ok(row.get("organisation")?)).collect()
}

/// Makes the rows that say how far the pipelines are, where they are missing.
pub(crate) async fn ensure_pipelines(
    tx: &mut Tx,
    organisation: OrganisationId,
    partitions: u32,
) -> Result<()> {
    for partition in 0..partitions {
        let sql = "SELECT part FROM pipelines WHERE organisation = ? AND part = ?";
        if tx.query_optional(sql, params![organisation, partition]).await?.is_none() {
            let sql = "INSERT INTO pipelines (organisation, part, next_offset, readings, alerts) \
                       VALUES (?, ?, 0, 0, 0)";
            tx.execute(sql, params![organisation, partition]).await?;
        }
    }
    Ok(())
}

/// The offset that the pipeline reads next.
pub(crate) async fn next_offset(
    read: &mut Read,
    organisation: OrganisationId,
    partition: u32,
) -> Result<u64> {
    let sql = "SELECT next_offset FROM pipelines WHERE organisation = ? AND part = ?";
    Ok(read.query_one(sql, params![organisation, partition]).await?.get("next_offset")?)
}

pub(crate) async fn registry(read: &mut Read, organisation: OrganisationId) -> Result<Registry> {
    let mut registry = Registry::default();
    let mut after = String::new();
    loop {
        let sql = "SELECT name, fields, created FROM sensors \
                   WHERE organisation = ? AND name > ? ORDER BY name LIMIT ?";
        let rows = read.query(sql, params![organisation, after, CHUNK_ROWS]).await?;
        let Some(last) = rows.last() else { break };
        after = last.get("name")?;
        for row in &rows {
            let sensor = sensor_of(row)?;
            registry.sensors.insert(sensor.name.clone(), Arc::new(sensor));
        }
    }
    let mut after = String::new();
    loop {
        let sql = "SELECT name, label, latitude, longitude, sensors, created FROM devices \
                   WHERE organisation = ? AND name > ? ORDER BY name LIMIT ?";
        let rows = read.query(sql, params![organisation, after, CHUNK_ROWS]).await?;
        let Some(last) = rows.last() else { break };
        after = last.get("name")?;
        for row in &rows {
            let device = device_of(row)?;
            registry.devices.insert(device.name.clone(), Arc::new(device));
        }
    }
    Ok(registry)
}

pub(crate) async fn rules(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<BTreeMap<RuleId, Arc<Rule>>> {
    let mut rules = BTreeMap::new();
    let mut after = String::new();
    loop {
        let sql = "SELECT id, name, sensor, device, is_enabled, body, created, updated FROM rules \
                   WHERE organisation = ? AND id > ? ORDER BY id LIMIT ?";
        let rows = read.query(sql, params![organisation, after, CHUNK_ROWS]).await?;
        let Some(last) = rows.last() else { break };
        after = last.get("id")?;
        for row in &rows {
            let rule = rule_of(row)?;
            rules.insert(rule.id, Arc::new(rule));
        }
    }
    Ok(rules)
}

/// The time of the last reading of every series: device, sensor, time.
pub(crate) async fn series_times(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<Vec<(String, String, Timestamp)>> {
    let mut all = Vec::new();
    let (mut device, mut sensor) = (String::new(), String::new());
    loop {
        let sql = "SELECT device, sensor, time FROM series WHERE organisation = ? \
                   AND (device > ? OR (device = ? AND sensor > ?)) \
                   ORDER BY device, sensor LIMIT ?";
        let given = params![organisation, device, device, sensor, CHUNK_ROWS];
        let rows = read.query(sql, given).await?;
        let Some(last) = rows.last() else { return Ok(all) };
        (device, sensor) = (last.get("device")?, last.get("sensor")?);
        for row in &rows {
            all.push((row.get("device")?, row.get("sensor")?, row.get("time")?));
        }
    }
}

/// The last readings of these devices, by device.
pub(crate) async fn last_readings(
    read: &mut Read,
    organisation: OrganisationId,
    devices: &[String],
) -> Result<HashMap<String, Vec<Series>>> {
    let mut found = HashMap::<String, Vec<Series>>::new();
    // Statements of few lengths, so that few are prepared.
    for names in devices.chunks(100) {
        let marks = vec!["?"; if names.len() == 1 { 1 } else { 100 }].join(", ");
        let sql = format!(
            "SELECT device, sensor, time, reading FROM series \
             WHERE organisation = ? AND device IN ({marks}) ORDER BY device, sensor"
        );
        let mut given = vec![Value::from(organisation)];
        given.extend(names.iter().map(|name| Value::Text(name.clone())));
        if names.len() > 1 {
            given.resize(101, Value::Null);
        }
        for row in read.query(&sql, &given).await? {
            let series = Series {
                device: row.get("device")?,
                sensor: row.get("sensor")?,
                time: row.get("time")?,
                values: row.get("reading")?,
            };
            found.entry(series.device.clone()).or_default().push(series);
        }
    }
    Ok(found)
}

pub(crate) async fn put_sensor(
    tx: &mut Tx,
    organisation: OrganisationId,
    sensor: &Sensor,
) -> Result<()> {
    let fields: Vec<FieldRow<'_>> = sensor.values.iter().map(FieldRow::from).collect();
    let fields = json(&fields);
    let sql = "SELECT name FROM sensors WHERE organisation = ? AND name = ?";
    if tx.query_optional(sql, params![organisation, sensor.name]).await?.is_some() {
        let sql = "UPDATE sensors SET fields = ? WHERE organisation = ? AND name = ?";
        tx.execute(sql, params![fields, organisation, sensor.name]).await?;
        return Ok(());
    }
    let sql = "INSERT INTO sensors (organisation, name, fields, created) VALUES (?, ?, ?, ?)";
    tx.execute(sql, params![organisation, sensor.name, fields, sensor.created]).await?;
    Ok(())
}

pub(crate) async fn put_device(
    tx: &mut Tx,
    organisation: OrganisationId,
    device: &Device,
) -> Result<()> {
    let Device { name, label, position, sensors, created } = device;
    let (latitude, longitude) = (position.map(|p| p.latitude), position.map(|p| p.longitude));
    let sensors = json(sensors);
    let sql = "SELECT name FROM devices WHERE organisation = ? AND name = ?";
    if tx.query_optional(sql, params![organisation, name]).await?.is_some() {
        let sql = "UPDATE devices SET label = ?, latitude = ?, longitude = ?, sensors = ? \
                   WHERE organisation = ? AND name = ?";
        let given = params![label, latitude, longitude, sensors, organisation, name];
        tx.execute(sql, given).await?;
        return Ok(());
    }
    let sql = "INSERT INTO devices \
               (organisation, name, label, latitude, longitude, sensors, created) \
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    let given = params![organisation, name, label, latitude, longitude, sensors, created];
    tx.execute(sql, given).await?;
    Ok(())
}

/// Stores what first readings register. The same again changes nothing.
pub(crate) async fn put_additions(
    tx: &mut Tx,
    organisation: OrganisationId,
    added: &Additions,
) -> Result<()> {
    for sensor in added.sensors.values() {
        put_sensor(tx, organisation, sensor).await?;
    }
    for device in added.devices.values() {
        put_device(tx, organisation, device).await?;
    }
    Ok(())
}

pub(crate) async fn delete_sensor(
    tx: &mut Tx,
    organisation: OrganisationId,
    name: &str,
) -> Result<()> {
    let sql = "DELETE FROM sensors WHERE organisation = ? AND name = ?";
    tx.execute(sql, params![organisation, name]).await?;
    Ok(())
}

/// Forgets a device. Its readings, alerts and series stay: a reading that comes again is still known.
pub(crate) async fn delete_device(
    tx: &mut Tx,
    organisation: OrganisationId,
    name: &str,
) -> Result<()> {
    let sql = "DELETE FROM devices WHERE organisation = ? AND name = ?";
    tx.execute(sql, params![organisation, name]).await?;
    Ok(())
}

pub(crate) async fn put_rule(tx: &mut Tx, organisation: OrganisationId, rule: &Rule) -> Result<()> {
    let Rule { id, text, created, updated } = rule;
    let RuleText { name, sensor, device, is_enabled, .. } = text;
    let body = json(&BodyRow::from(text));
    let sql = "UPDATE rules SET name = ?, sensor = ?, device = ?, is_enabled = ?, body = ?, \
               updated = ? WHERE organisation = ? AND id = ?";
    let given = params![name, sensor, device, is_enabled, body, updated, organisation, id];
    if tx.execute(sql, given).await? > 0 {
        return Ok(());
    }
    let sql = "INSERT INTO rules \
               (organisation, id, name, sensor, device, is_enabled, body, created, updated) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let given = params![organisation, id, name, sensor, device, is_enabled, body, created, updated];
    tx.execute(sql, given).await?;
    Ok(())
}

pub(crate) async fn delete_rule(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: RuleId,
) -> Result<()> {
    let sql = "DELETE FROM rules WHERE organisation = ? AND id = ?";
    tx.execute(sql, params![organisation, id]).await?;
    Ok(())
}

/// Stores the effects of a batch: alerts with their events and mails, last readings, and the position.
/// Gives the alerts as stored.
pub(crate) async fn commit(
    tx: &mut Tx,
    commit: &Commit,
    notifier: &dyn Notifier,
) -> Result<Vec<Alert>> {
    let Commit { organisation, partition, .. } = commit;
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (from, next) = (number(commit.from), number(commit.next));
    let (readings, alerts) = (number(commit.readings), number(commit.alerts.len() as u64));
    let sql = "UPDATE pipelines SET next_offset = ?, readings = readings + ?, alerts = alerts + ? \
               WHERE organisation = ? AND part = ? AND next_offset = ?";
    let given = params![next, readings, alerts, organisation, partition, from];
    if tx.execute(sql, given).await? != 1 {
        return Err(Error::Overtaken);
    }
    for Series { device, sensor, time, values } in &commit.new_series {
        let sql = "INSERT INTO series (organisation, device, sensor, time, reading) \
                   VALUES (?, ?, ?, ?, ?)";
        tx.execute(sql, params![organisation, device, sensor, time, values]).await?;
    }
    for Series { device, sensor, time, values } in &commit.moved_series {
        let sql = "UPDATE series SET time = ?, reading = ? \
                   WHERE organisation = ? AND device = ? AND sensor = ?";
        tx.execute(sql, params![time, values, organisation, device, sensor]).await?;
    }
    let mut raised = Vec::with_capacity(commit.alerts.len());
    for (alert, mails) in &commit.alerts {
        let mut alert = alert.clone();
        for mail in mails {
            if let Err(error) = notifier.enqueue(tx, mail).await {
                // A mail that can never be taken, or not for now, must not stop the readings behind it.
                if !matches!(error.kind, ErrorKind::Invalid | ErrorKind::TooMany) {
                    return Err(error.into());
                }
                alert.mail_error = Some(error.to_string());
            }
        }
        raise(tx, *organisation, &alert).await?;
        raised.push(alert);
    }
    Ok(raised)
}

async fn raise(tx: &mut Tx, organisation: OrganisationId, alert: &Alert) -> Result<()> {
    let Alert { id, rule, rule_name, device, sensor, time, values, raised, mail_error } = alert;
    let sql = "INSERT INTO alerts (organisation, id, rule, rule_name, device, sensor, time, \
               reading, raised, mail_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let given = params![
        organisation,
        id,
        rule,
        rule_name,
        device,
        sensor,
        time,
        values,
        raised,
        mail_error
    ];
    tx.execute(sql, given).await?;
    tx.emit(NewEvent {
        organisation,
        topic: ALERTS,
        kind: "alert.raised",
        key: device.clone(),
        payload: alert.to_json().into_bytes(),
    })
    .await?;
    Ok(())
}

impl Alert {
    /// The form that the event carries.
    pub(crate) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Wire<'a> {
            id: String,
            rule: String,
            rule_name: &'a str,
            device: &'a str,
            sensor: &'a str,
            time: String,
            values: Option<&'a serde_json::value::RawValue>,
            raised: String,
        }
        json(&Wire {
            id: self.id.to_string(),
            rule: self.rule.to_string(),
            rule_name: &self.rule_name,
            device: &self.device,
            sensor: &self.sensor,
            time: self.time.to_string(),
            values: serde_json::from_str(&self.values).ok(),
            raised: self.raised.to_string(),
        })
    }
}

/// The newest alert times of a rule and a device, at most `limit`.
pub(crate) async fn newest_alerts(
    read: &mut Read,
    organisation: OrganisationId,
    (rule, device): (RuleId, &str),
    limit: usize,
) -> Result<BTreeSet<i64>> {
    let sql = "SELECT DISTINCT time FROM alerts WHERE organisation = ? AND rule = ? AND device = ? \
               ORDER BY time DESC LIMIT ?";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = read.query(sql, params![organisation, rule, device, limit]).await?;
    rows.iter().map(|row| Ok(row.get("time")?)).collect()
}

/// Whether an alert of the rule and the device stands less than the cool-down away from `time`.
pub(crate) async fn has_alert_near(
    read: &mut Read,
    organisation: OrganisationId,
    (rule, device): (RuleId, &str),
    time: Timestamp,
    cooldown: Duration,
) -> Result<bool> {
    let sql = "SELECT id FROM alerts WHERE organisation = ? AND rule = ? AND device = ? \
               AND time > ? AND time < ? LIMIT 1";
    let given = params![organisation, rule, device, time.minus(cooldown), time.plus(cooldown)];
    Ok(read.query_optional(sql, given).await?.is_some())
}

/// Alerts, the newest first. The cursor is the moment and the id of the last one.
pub(crate) async fn alerts(
    read: &mut Read,
    organisation: OrganisationId,
    request: &PageRequest,
) -> Result<Page<Alert>> {
    let (raised, id) = match &request.after {
        None => (i64::MAX, String::new()),
        Some(cursor) => cursor
            .split_once(':')
            .and_then(|(raised, id)| {
                Some((raised.parse().ok()?, id.parse::<EventId>().ok()?.to_string()))
            })
            .ok_or_else(|| Error::cursor(cursor))?,
    };
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let sql = "SELECT id, rule, rule_name, device, sensor, time, reading, raised, mail_error \
               FROM alerts WHERE organisation = ? AND (raised < ? OR (raised = ? AND id < ?)) \
               ORDER BY raised DESC, id DESC LIMIT ?";
    let rows = read.query(sql, params![organisation, raised, raised, id, limit]).await?;
    let alerts = rows.iter().map(alert_of).collect::<Result<Vec<_>>>()?;
    Ok(Page::of(alerts, request.limit, |alert| format!("{}:{}", alert.raised.micros(), alert.id)))
}

pub(crate) async fn counts(read: &mut Read, organisation: OrganisationId) -> Result<Counts> {
    let sql = "SELECT readings, alerts FROM pipelines WHERE organisation = ?";
    let mut counts = Counts::default();
    for row in read.query(sql, params![organisation]).await? {
        counts.readings += row.get::<u64>("readings")?;
        counts.alerts += row.get::<u64>("alerts")?;
    }
    Ok(counts)
}

/// Alerts that were raised since then.
pub(crate) async fn alerts_since(
    read: &mut Read,
    organisation: OrganisationId,
    since: Timestamp,
) -> Result<u64, relational::Error> {
    let sql = "SELECT COUNT(*) AS number FROM alerts WHERE organisation = ? AND raised >= ?";
    read.query_one(sql, params![organisation, since]).await?.get("number")
}

fn sensor_of(row: &Row) -> Result<Sensor> {
    let fields: Vec<FieldRow<'static>> = parse(&row.get::<String>("fields")?)?;
    let values = fields.into_iter().map(|field| SensorValue {
        name: field.name.into_owned(),
        unit: field.unit.into_owned(),
        label: field.label.map(std::borrow::Cow::into_owned),
    });
    Ok(Sensor { name: row.get("name")?, values: values.collect(), created: row.get("created")? })
}

fn device_of(row: &Row) -> Result<Device> {
    let position = match (row.get("latitude")?, row.get("longitude")?) {
        (Some(latitude), Some(longitude)) => Some(Position { latitude, longitude }),
        _ => None,
    };
    Ok(Device {
        name: row.get("name")?,
        label: row.get("label")?,
        position,
        sensors: parse(&row.get::<String>("sensors")?)?,
        created: row.get("created")?,
    })
}

fn rule_of(row: &Row) -> Result<Rule> {
    let body: BodyRow = parse(&row.get::<String>("body")?)?;
    let window = match body.window {
        None => None,
        Some(WindowRow { from, to, zone }) => {
            let minute = |text: &str| text.parse().map_err(|()| Error::damaged("a rule's window"));
            Some(Window { from: minute(&from)?, to: minute(&to)?, zone })
        }
    };
    let conditions = body.conditions.into_iter().map(|condition| Condition {
        value: condition.value,
        ranges: condition.ranges.into_iter().map(|(min, max)| Range { min, max }).collect(),
    });
    let text = RuleText {
        name: row.get("name")?,
        sensor: row.get("sensor")?,
        device: row.get("device")?,
        is_enabled: row.get("is_enabled")?,
        conditions: conditions.collect(),
        window,
        cooldown: Duration::from_secs(body.cooldown_seconds),
        actions: body.actions.into_iter().map(Deed::from).collect(),
    };
    Ok(Rule {
        id: row.get("id")?,
        text,
        created: row.get("created")?,
        updated: row.get("updated")?,
    })
}

fn alert_of(row: &Row) -> Result<Alert> {
    Ok(Alert {
        id: row.get("id")?,
        rule: row.get("rule")?,
        rule_name: row.get("rule_name")?,
        device: row.get("device")?,
        sensor: row.get("sensor")?,
        time: row.get("time")?,
        values: row.get("reading")?,
        raised: row.get("raised")?,
        mail_error: row.get("mail_error")?,
    })
}

/// What a row keeps of a sensor's value.
#[derive(Serialize, Deserialize)]
struct FieldRow<'a> {
    name: std::borrow::Cow<'a, str>,
    unit: std::borrow::Cow<'a, str>,
    label: Option<std::borrow::Cow<'a, str>>,
}

impl<'a> From<&'a SensorValue> for FieldRow<'a> {
    fn from(value: &'a SensorValue) -> Self {
        Self {
            name: (&value.name).into(),
            unit: (&value.unit).into(),
            label: value.label.as_ref().map(Into::into),
        }
    }
}

/// What a row keeps of a rule beside what can be searched.
#[derive(Serialize, Deserialize)]
struct BodyRow {
    conditions: Vec<ConditionRow>,
    window: Option<WindowRow>,
    cooldown_seconds: u64,
    actions: Vec<DeedRow>,
}

#[derive(Serialize, Deserialize)]
struct ConditionRow {
    value: String,
    ranges: Vec<(Option<f64>, Option<f64>)>,
}

#[derive(Serialize, Deserialize)]
struct WindowRow {
    from: String,
    to: String,
    zone: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DeedRow {
    Email { to: String },
    Endpoint { endpoint: String },
}

impl From<DeedRow> for Deed {
    fn from(row: DeedRow) -> Self {
        match row {
            DeedRow::Email { to } => Self::Email { to },
            DeedRow::Endpoint { endpoint } => Self::Endpoint { endpoint },
        }
    }
}

impl From<&Deed> for DeedRow {
    fn from(deed: &Deed) -> Self {
        match deed {
            Deed::Email { to } => Self::Email { to: to.clone() },
            Deed::Endpoint { endpoint } => Self::Endpoint { endpoint: endpoint.clone() },
        }
    }
}

impl From<&RuleText> for BodyRow {
    fn from(text: &RuleText) -> Self {
        let conditions = text.conditions.iter().map(|condition| ConditionRow {
            value: condition.value.clone(),
            ranges: condition.ranges.iter().map(|range| (range.min, range.max)).collect(),
        });
        let window = text.window.as_ref().map(|window| WindowRow {
            from: window.from.to_string(),
            to: window.to.to_string(),
            zone: window.zone.clone(),
        });
        let actions = text.actions.iter().map(DeedRow::from);
        Self {
            conditions: conditions.collect(),
            window,
            cooldown_seconds: text.cooldown.as_secs(),
            actions: actions.collect(),
        }
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and finite numbers always become JSON")
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| Error::damaged("JSON in a row"))
}
