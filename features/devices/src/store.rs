//! Rows: the registry, the rules, the alerts, the last reading of each series, and how far each pipeline is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, EventId, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Migration, NewEvent, Read, Row, Tx, Value, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::commands::{self, Command};
use crate::needs::{Notice, Notifier};
use crate::registry::{Actuator, Additions, Device, Position, Registry, Sensor, SensorValue, Step};
use crate::rollup::rows::SensorDay;
use crate::rule::{
    Area, Change, Comparison, Condition, Day, Days, Deed, Direction, Escalation, Range, Remembered,
    Rule, RuleId, RuleText, Test, Window,
};
use crate::{Error, Result, rollup};

/// The topic that tells of raised alerts.
pub(crate) const ALERTS: &str = "alerts";

/// Rows that are loaded at once; below the limit of any database.
const CHUNK_ROWS: i64 = 5_000;
/// How much of a name rows keep of who did something.
pub(crate) const AUTHOR_CHARS_MAX: usize = 256;

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
    Migration {
        id: "0003-health",
        sql: "
ALTER TABLE sensors ADD COLUMN silent_after BIGINT;
ALTER TABLE sensors ADD COLUMN lateness BIGINT;
ALTER TABLE devices ADD COLUMN tags TEXT;
ALTER TABLE devices ADD COLUMN group_name VARCHAR(128);
ALTER TABLE devices ADD COLUMN provisioned BIGINT;
ALTER TABLE series ADD COLUMN received BIGINT;
CREATE TABLE health (
    organisation VARCHAR(36) NOT NULL,
    device VARCHAR(128) NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason VARCHAR(16) NOT NULL,
    silent TEXT NOT NULL,
    since BIGINT NOT NULL,
    link VARCHAR(8) NOT NULL,
    link_time BIGINT NOT NULL,
    changes BIGINT NOT NULL,
    PRIMARY KEY (organisation, device)
);
CREATE TABLE health_history (
    organisation VARCHAR(36) NOT NULL,
    device VARCHAR(128) NOT NULL,
    number BIGINT NOT NULL,
    time BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason VARCHAR(16) NOT NULL,
    silent TEXT NOT NULL,
    PRIMARY KEY (organisation, device, number)
);
",
    },
    Migration {
        id: "0004-rules",
        sql: "
ALTER TABLE rules ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE alerts ADD COLUMN why TEXT;
ALTER TABLE alerts ADD COLUMN acknowledged BIGINT;
ALTER TABLE alerts ADD COLUMN acknowledged_by VARCHAR(256);
ALTER TABLE alerts ADD COLUMN cleared BIGINT;
ALTER TABLE alerts ADD COLUMN cleared_by VARCHAR(256);
ALTER TABLE alerts ADD COLUMN note TEXT;
CREATE TABLE rule_versions (
    organisation VARCHAR(36) NOT NULL,
    rule VARCHAR(36) NOT NULL,
    version BIGINT NOT NULL,
    name VARCHAR(128) NOT NULL,
    sensor VARCHAR(128) NOT NULL,
    device VARCHAR(128),
    is_enabled BIGINT NOT NULL,
    body TEXT NOT NULL,
    time BIGINT NOT NULL,
    author VARCHAR(256) NOT NULL,
    PRIMARY KEY (organisation, rule, version)
);
CREATE TABLE rule_memory (
    organisation VARCHAR(36) NOT NULL,
    rule VARCHAR(36) NOT NULL,
    device VARCHAR(128) NOT NULL,
    version BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (organisation, rule, device)
);
",
    },
    // A command waits for `due`; behind another one of its chain, and when it is over, that is null.
    Migration {
        id: "0005-commands",
        sql: "
CREATE TABLE actuators (
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    commands TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, name)
);
ALTER TABLE devices ADD COLUMN actuators TEXT;
CREATE TABLE device_commands (
    organisation VARCHAR(36) NOT NULL,
    id VARCHAR(36) NOT NULL,
    chain VARCHAR(36) NOT NULL,
    step BIGINT NOT NULL,
    device VARCHAR(128) NOT NULL,
    actuator VARCHAR(128) NOT NULL,
    command VARCHAR(128) NOT NULL,
    given TEXT NOT NULL,
    pause BIGINT NOT NULL,
    timeout BIGINT NOT NULL,
    author VARCHAR(256) NOT NULL,
    alert VARCHAR(36),
    created BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL,
    due BIGINT,
    attempts BIGINT NOT NULL,
    sent BIGINT,
    ended BIGINT,
    reason TEXT,
    PRIMARY KEY (organisation, id)
);
CREATE INDEX device_commands_due ON device_commands (organisation, due);
CREATE INDEX device_commands_newest ON device_commands (organisation, device, created, id);
CREATE INDEX device_commands_chain ON device_commands (organisation, chain, step);
CREATE TABLE twins (
    organisation VARCHAR(36) NOT NULL,
    device VARCHAR(128) NOT NULL,
    desired TEXT NOT NULL,
    desired_version BIGINT NOT NULL,
    desired_time BIGINT,
    desired_by VARCHAR(256),
    due BIGINT,
    reported TEXT NOT NULL,
    reported_version BIGINT NOT NULL,
    reported_time BIGINT,
    seen_version BIGINT,
    PRIMARY KEY (organisation, device)
);
CREATE INDEX twins_due ON twins (organisation, due);
ALTER TABLE alerts ADD COLUMN escalate BIGINT;
ALTER TABLE alerts ADD COLUMN escalated BIGINT;
CREATE INDEX alerts_escalate ON alerts (organisation, escalate);
",
    },
    // A day waits under the partition whose pipeline marked it, or under -1 while it is rolled up.
    Migration {
        id: "0006-rollups",
        sql: "
ALTER TABLE sensors ADD COLUMN retention TEXT;
CREATE TABLE rollup_days (
    organisation VARCHAR(36) NOT NULL,
    sensor VARCHAR(128) NOT NULL,
    day BIGINT NOT NULL,
    part BIGINT NOT NULL,
    PRIMARY KEY (organisation, sensor, day, part)
);
CREATE TABLE rollup_sensors (
    organisation VARCHAR(36) NOT NULL,
    sensor VARCHAR(128) NOT NULL,
    forgotten BIGINT NOT NULL,
    PRIMARY KEY (organisation, sensor)
);
",
    },
    Migration {
        id: "0007-dashboards",
        sql: "
CREATE TABLE dashboards (
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    document TEXT NOT NULL,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    author VARCHAR(256) NOT NULL,
    PRIMARY KEY (organisation, name)
);
",
    },
];

/// An alert that was raised, once.
#[derive(Debug, Clone, PartialEq)]
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
    /// None for those that were raised before reasons were kept.
    pub why: Option<Why>,
    pub handling: Handling,
    /// When more people are told, unless somebody has taken it in hand by then.
    pub escalate: Option<Timestamp>,
    /// When they were.
    pub escalated: Option<Timestamp>,
}

/// Why a rule raised an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Why {
    /// The rule's text at that time.
    pub version: u64,
    /// The reading since which all of it held.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// What each condition saw, in the rule's order.
    pub conditions: Vec<Saw>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Saw {
    pub value: String,
    pub observed: f64,
    /// The value that it was compared with.
    pub other: Option<f64>,
    /// The reading that it changed from.
    pub then: Option<Then>,
    /// It was out of its ranges and still held on.
    pub held: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Then {
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    pub observed: f64,
}

/// What people did about an alert: when and who.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Handling {
    pub acknowledged: Option<(Timestamp, String)>,
    pub cleared: Option<(Timestamp, String)>,
    pub note: Option<String>,
}

/// Where an alert is in the hands of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AlertState {
    Open,
    Acknowledged,
    Cleared,
}

impl Handling {
    pub(crate) fn state(&self) -> AlertState {
        match (&self.acknowledged, &self.cleared) {
            (_, Some(_)) => AlertState::Cleared,
            (Some(_), None) => AlertState::Acknowledged,
            (None, None) => AlertState::Open,
        }
    }
}

/// Which alerts; all of them without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AlertFilter {
    pub state: Option<AlertState>,
    pub device: Option<String>,
    pub rule: Option<RuleId>,
}

/// One text that a rule had.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Version {
    pub number: u64,
    pub text: RuleText,
    pub time: Timestamp,
    /// Who wrote it, as people know them.
    pub author: String,
}

/// The last reading of one sensor of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Series {
    pub device: String,
    pub sensor: String,
    pub time: Timestamp,
    pub values: String,
    /// By the server's clock.
    pub received: Option<Timestamp>,
}

/// An alert with what it sets off.
#[derive(Debug)]
pub(crate) struct Raised {
    pub alert: Alert,
    pub notices: Vec<Notice>,
    /// The steps of each chain, one after another.
    pub commands: Vec<Vec<Command>>,
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
    pub alerts: Vec<Raised>,
    pub new_series: Vec<Series>,
    pub moved_series: Vec<Series>,
    pub memory: Vec<Remembered>,
    /// Days with new readings that are not marked yet.
    pub marks: Vec<SensorDay>,
    /// Commands of the organisation that may wait or be on their way.
    pub commands_open_max: usize,
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
        let sql = "SELECT name, fields, silent_after, lateness, retention, created FROM sensors \
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
        let sql = "SELECT name, commands, created FROM actuators \
                   WHERE organisation = ? AND name > ? ORDER BY name LIMIT ?";
        let rows = read.query(sql, params![organisation, after, CHUNK_ROWS]).await?;
        let Some(last) = rows.last() else { break };
        after = last.get("name")?;
        for row in &rows {
            let commands = parse(&row.get::<String>("commands")?)?;
            let actuator =
                Actuator { name: row.get("name")?, commands, created: row.get("created")? };
            registry.actuators.insert(actuator.name.clone(), Arc::new(actuator));
        }
    }
    let mut after = String::new();
    loop {
        let sql = "SELECT name, label, latitude, longitude, sensors, actuators, tags, group_name, \
                   provisioned, created FROM devices WHERE organisation = ? AND name > ? ORDER BY name LIMIT ?";
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
        let sql = "SELECT id, version, name, sensor, device, is_enabled, body, created, updated \
                   FROM rules WHERE organisation = ? AND id > ? ORDER BY id LIMIT ?";
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
            "SELECT device, sensor, time, reading, received FROM series \
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
                received: row.get("received")?,
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
    let Sensor { name, silent_after, lateness, retention, created, .. } = sensor;
    let retention = retention.as_ref().map(json);
    let seconds = |time: &Option<Duration>| {
        time.map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    };
    let (silent_after, lateness) = (seconds(silent_after), seconds(lateness));
    let sql = "SELECT name FROM sensors WHERE organisation = ? AND name = ?";
    if tx.query_optional(sql, params![organisation, name]).await?.is_some() {
        let sql = "UPDATE sensors SET fields = ?, silent_after = ?, lateness = ?, retention = ? \
                   WHERE organisation = ? AND name = ?";
        let given = params![fields, silent_after, lateness, retention, organisation, name];
        tx.execute(sql, given).await?;
        return Ok(());
    }
    let sql = "INSERT INTO sensors (organisation, name, fields, silent_after, lateness, retention, \
               created) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let given = params![organisation, name, fields, silent_after, lateness, retention, created];
    tx.execute(sql, given).await?;
    Ok(())
}

pub(crate) async fn put_actuator(
    tx: &mut Tx,
    organisation: OrganisationId,
    actuator: &Actuator,
) -> Result<()> {
    let Actuator { name, commands, created } = actuator;
    let commands = json(commands);
    let sql = "UPDATE actuators SET commands = ? WHERE organisation = ? AND name = ?";
    if tx.execute(sql, params![commands, organisation, name]).await? == 0 {
        let sql =
            "INSERT INTO actuators (organisation, name, commands, created) VALUES (?, ?, ?, ?)";
        tx.execute(sql, params![organisation, name, commands, created]).await?;
    }
    Ok(())
}

pub(crate) async fn delete_actuator(
    tx: &mut Tx,
    organisation: OrganisationId,
    name: &str,
) -> Result<()> {
    let sql = "DELETE FROM actuators WHERE organisation = ? AND name = ?";
    tx.execute(sql, params![organisation, name]).await?;
    Ok(())
}

pub(crate) async fn put_device(
    tx: &mut Tx,
    organisation: OrganisationId,
    device: &Device,
) -> Result<()> {
    let Device { name, label, position, sensors, actuators, tags, group, provisioned, created } =
        device;
    let (latitude, longitude) = (position.map(|p| p.latitude), position.map(|p| p.longitude));
    let (sensors, actuators, tags) = (json(sensors), json(actuators), json(tags));
    let sql = "SELECT name FROM devices WHERE organisation = ? AND name = ?";
    if tx.query_optional(sql, params![organisation, name]).await?.is_some() {
        let sql = "UPDATE devices SET label = ?, latitude = ?, longitude = ?, sensors = ?, \
                   actuators = ?, tags = ?, group_name = ?, provisioned = ? WHERE organisation = ? AND name = ?";
        let given = params![
            label,
            latitude,
            longitude,
            sensors,
            actuators,
            tags,
            group,
            provisioned,
            organisation,
            name
        ];
        tx.execute(sql, given).await?;
        return Ok(());
    }
    let sql = "INSERT INTO devices \
               (organisation, name, label, latitude, longitude, sensors, actuators, tags, \
               group_name, provisioned, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let given = params![
        organisation,
        name,
        label,
        latitude,
        longitude,
        sensors,
        actuators,
        tags,
        group,
        provisioned,
        created
    ];
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

/// Stores a rule's text as its newest version, and forgets versions beyond `versions_max`.
pub(crate) async fn put_rule(
    tx: &mut Tx,
    organisation: OrganisationId,
    rule: &Rule,
    (author, versions_max): (&str, usize),
) -> Result<()> {
    let Rule { id, version, text, created, updated } = rule;
    let RuleText { name, sensor, device, is_enabled, .. } = text;
    let body = json(&BodyRow::from(text));
    let version = i64::try_from(*version).unwrap_or(i64::MAX);
    let sql = "UPDATE rules SET version = ?, name = ?, sensor = ?, device = ?, is_enabled = ?, \
               body = ?, updated = ? WHERE organisation = ? AND id = ?";
    let given = params![version, name, sensor, device, is_enabled, body, updated, organisation, id];
    if tx.execute(sql, given).await? == 0 {
        let sql = "INSERT INTO rules (organisation, id, version, name, sensor, device, \
                   is_enabled, body, created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let given = params![
            organisation,
            id,
            version,
            name,
            sensor,
            device,
            is_enabled,
            body,
            created,
            updated
        ];
        tx.execute(sql, given).await?;
    }
    let author: String = author.chars().take(AUTHOR_CHARS_MAX).collect();
    let sql = "INSERT INTO rule_versions (organisation, rule, version, name, sensor, device, \
               is_enabled, body, time, author) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let given =
        params![organisation, id, version, name, sensor, device, is_enabled, body, updated, author];
    tx.execute(sql, given).await?;
    let oldest = version.saturating_sub(i64::try_from(versions_max).unwrap_or(i64::MAX));
    let sql = "DELETE FROM rule_versions WHERE organisation = ? AND rule = ? AND version <= ?";
    tx.execute(sql, params![organisation, id, oldest]).await?;
    Ok(())
}

/// Forgets a rule and what it remembers. Its versions stay, since its alerts speak of them.
pub(crate) async fn delete_rule(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: RuleId,
) -> Result<()> {
    let sql = "DELETE FROM rules WHERE organisation = ? AND id = ?";
    tx.execute(sql, params![organisation, id]).await?;
    let sql = "DELETE FROM rule_memory WHERE organisation = ? AND rule = ?";
    tx.execute(sql, params![organisation, id]).await?;
    Ok(())
}

/// The texts that a rule had, the newest first. The cursor is the number of the last one.
pub(crate) async fn versions(
    read: &mut Read,
    organisation: OrganisationId,
    id: RuleId,
    request: &PageRequest,
) -> Result<Page<Version>> {
    let before = match &request.after {
        None => i64::MAX,
        Some(cursor) => cursor.parse().map_err(|_| Error::cursor(cursor))?,
    };
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let sql = "SELECT version, name, sensor, device, is_enabled, body, time, author \
               FROM rule_versions WHERE organisation = ? AND rule = ? AND version < ? \
               ORDER BY version DESC LIMIT ?";
    let rows = read.query(sql, params![organisation, id, before, limit]).await?;
    let versions = rows.iter().map(version_of).collect::<Result<Vec<_>>>()?;
    Ok(Page::of(versions, request.limit, |version| version.number.to_string()))
}

const VERSION: &str = "SELECT version, name, sensor, device, is_enabled, body, time, author \
                       FROM rule_versions WHERE organisation = ? AND rule = ? AND version = ?";

/// One text that a rule had, if it is kept.
pub(crate) async fn version(
    read: &mut Read,
    organisation: OrganisationId,
    (id, version): (RuleId, u64),
) -> Result<Option<Version>> {
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let row = read.query_optional(VERSION, params![organisation, id, version]).await?;
    row.as_ref().map(version_of).transpose()
}

/// The same inside a transaction.
pub(crate) async fn written_version(
    tx: &mut Tx,
    organisation: OrganisationId,
    (id, version): (RuleId, u64),
) -> Result<Option<Version>> {
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let row = tx.query_optional(VERSION, params![organisation, id, version]).await?;
    row.as_ref().map(version_of).transpose()
}

/// What rules remember of devices.
pub(crate) async fn memory(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<Vec<Remembered>> {
    let mut all = Vec::new();
    let (mut rule, mut device) = (String::new(), String::new());
    loop {
        let sql = "SELECT rule, device, version, body FROM rule_memory WHERE organisation = ? \
                   AND (rule > ? OR (rule = ? AND device > ?)) ORDER BY rule, device LIMIT ?";
        let given = params![organisation, rule, rule, device, CHUNK_ROWS];
        let rows = read.query(sql, given).await?;
        let Some(last) = rows.last() else { return Ok(all) };
        (rule, device) = (last.get("rule")?, last.get("device")?);
        for row in &rows {
            all.push(Remembered {
                device: row.get("device")?,
                rule: row.get("rule")?,
                version: row.get("version")?,
                body: Some(row.get("body")?),
            });
        }
    }
}

async fn remember(tx: &mut Tx, organisation: OrganisationId, kept: &Remembered) -> Result<()> {
    let Remembered { device, rule, version, body } = kept;
    let version = i64::try_from(*version).unwrap_or(i64::MAX);
    let Some(body) = body else {
        let sql = "DELETE FROM rule_memory WHERE organisation = ? AND rule = ? AND device = ?";
        tx.execute(sql, params![organisation, rule, device]).await?;
        return Ok(());
    };
    let sql = "SELECT version FROM rule_memory \
               WHERE organisation = ? AND rule = ? AND device = ?";
    if tx.query_optional(sql, params![organisation, rule, device]).await?.is_some() {
        let sql = "UPDATE rule_memory SET version = ?, body = ? \
                   WHERE organisation = ? AND rule = ? AND device = ?";
        tx.execute(sql, params![version, body, organisation, rule, device]).await?;
        return Ok(());
    }
    let sql = "INSERT INTO rule_memory (organisation, rule, device, version, body) \
               VALUES (?, ?, ?, ?, ?)";
    tx.execute(sql, params![organisation, rule, device, version, body]).await?;
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
    for Series { device, sensor, time, values, received } in &commit.new_series {
        let sql = "INSERT INTO series (organisation, device, sensor, time, reading, received) \
                   VALUES (?, ?, ?, ?, ?, ?)";
        tx.execute(sql, params![organisation, device, sensor, time, values, received]).await?;
    }
    for Series { device, sensor, time, values, received } in &commit.moved_series {
        let sql = "UPDATE series SET time = ?, reading = ?, received = ? \
                   WHERE organisation = ? AND device = ? AND sensor = ?";
        tx.execute(sql, params![time, values, received, organisation, device, sensor]).await?;
    }
    for kept in &commit.memory {
        remember(tx, *organisation, kept).await?;
    }
    rollup::rows::mark(tx, *organisation, *partition, &commit.marks).await?;
    let mut raised = Vec::with_capacity(commit.alerts.len());
    for Raised { alert, notices, commands } in &commit.alerts {
        let mut alert = alert.clone();
        for notice in notices {
            if let Err(error) = notifier.enqueue(tx, notice).await {
                // A mail that can never be taken, or not for now, must not stop the readings behind it.
                if !matches!(error.kind, ErrorKind::Invalid | ErrorKind::TooMany) {
                    return Err(error.into());
                }
                alert.mail_error = Some(error.to_string());
            }
        }
        for chain in commands {
            match commands::put(tx, *organisation, chain, commit.commands_open_max).await {
                Ok(()) => {}
                Err(error @ Error::Full(..)) => alert.mail_error = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        raise(tx, *organisation, &alert).await?;
        raised.push(alert);
    }
    Ok(raised)
}

async fn raise(tx: &mut Tx, organisation: OrganisationId, alert: &Alert) -> Result<()> {
    let Alert {
        id,
        rule,
        rule_name,
        device,
        sensor,
        time,
        values,
        raised,
        mail_error,
        why,
        escalate,
        ..
    } = alert;
    let why = why.as_ref().map(json);
    let sql = "INSERT INTO alerts (organisation, id, rule, rule_name, device, sensor, time, \
               reading, raised, mail_error, why, escalate) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
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
        mail_error,
        why,
        escalate
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
    filter: &AlertFilter,
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
    let AlertFilter { state, device, rule } = filter;
    let state = match state {
        None => "",
        Some(AlertState::Open) => " AND acknowledged IS NULL AND cleared IS NULL",
        Some(AlertState::Acknowledged) => " AND acknowledged IS NOT NULL AND cleared IS NULL",
        Some(AlertState::Cleared) => " AND cleared IS NOT NULL",
    };
    let of_device = if device.is_some() { " AND device = ?" } else { "" };
    let of_rule = if rule.is_some() { " AND rule = ?" } else { "" };
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT {ALERT_COLUMNS} FROM alerts WHERE organisation = ? \
         AND (raised < ? OR (raised = ? AND id < ?)){state}{of_device}{of_rule} \
         ORDER BY raised DESC, id DESC LIMIT ?"
    );
    let mut given = params![organisation, raised, raised, id].to_vec();
    given.extend(device.iter().map(|device| Value::Text(device.clone())));
    given.extend(rule.iter().map(|rule| Value::Text(rule.to_string())));
    given.push(Value::from(limit));
    let rows = read.query(&sql, &given).await?;
    let alerts = rows.iter().map(alert_of).collect::<Result<Vec<_>>>()?;
    Ok(Page::of(alerts, request.limit, |alert| format!("{}:{}", alert.raised.micros(), alert.id)))
}

const ALERT_COLUMNS: &str = "id, rule, rule_name, device, sensor, time, reading, raised, \
                             mail_error, why, acknowledged, acknowledged_by, cleared, \
                             cleared_by, note, escalate, escalated";

pub(crate) async fn alert(
    read: &mut Read,
    organisation: OrganisationId,
    id: EventId,
) -> Result<Option<Alert>> {
    let sql = format!("SELECT {ALERT_COLUMNS} FROM alerts WHERE organisation = ? AND id = ?");
    let row = read.query_optional(&sql, params![organisation, id]).await?;
    row.as_ref().map(alert_of).transpose()
}

/// Notes who took an alert in hand, or that it is over; whoever was first stays. Says whether there is such an alert.
pub(crate) async fn handle_alert(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: EventId,
    (state, now, who, note): (AlertState, Timestamp, &str, Option<&str>),
) -> Result<bool> {
    let who: String = who.chars().take(AUTHOR_CHARS_MAX).collect();
    let sql = "SELECT id FROM alerts WHERE organisation = ? AND id = ?";
    if tx.query_optional(sql, params![organisation, id]).await?.is_none() {
        return Ok(false);
    }
    let sql = match state {
        AlertState::Cleared => {
            "UPDATE alerts SET cleared = ?, cleared_by = ?, escalate = NULL \
             WHERE organisation = ? AND id = ? AND cleared IS NULL"
        }
        AlertState::Open | AlertState::Acknowledged => {
            "UPDATE alerts SET acknowledged = ?, acknowledged_by = ?, escalate = NULL \
             WHERE organisation = ? AND id = ? AND acknowledged IS NULL"
        }
    };
    tx.execute(sql, params![now, who, organisation, id]).await?;
    if let Some(note) = note {
        let sql = "UPDATE alerts SET note = ? WHERE organisation = ? AND id = ?";
        tx.execute(sql, params![note, organisation, id]).await?;
    }
    Ok(true)
}

/// Alerts that nobody has taken in hand in time, the longest waiting first.
pub(crate) async fn neglected(
    tx: &mut Tx,
    organisation: OrganisationId,
    now: Timestamp,
    most: i64,
) -> Result<Vec<Alert>> {
    let sql = format!(
        "SELECT {ALERT_COLUMNS} FROM alerts WHERE organisation = ? AND escalate <= ? \
         ORDER BY escalate, id LIMIT ?"
    );
    let rows = tx.query(&sql, params![organisation, now, most]).await?;
    rows.iter().map(alert_of).collect()
}

/// Notes that more people are told of an alert; says whether that is still to be done.
pub(crate) async fn escalate(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: EventId,
    now: Timestamp,
) -> Result<bool> {
    let sql = "UPDATE alerts SET escalate = NULL, escalated = ? WHERE organisation = ? \
               AND id = ? AND escalate IS NOT NULL AND acknowledged IS NULL AND cleared IS NULL";
    Ok(tx.execute(sql, params![now, organisation, id]).await? == 1)
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
    let seconds = |name: &str| -> Result<Option<Duration>> {
        Ok(row.get::<Option<u64>>(name)?.map(Duration::from_secs))
    };
    Ok(Sensor {
        name: row.get("name")?,
        values: values.collect(),
        silent_after: seconds("silent_after")?,
        lateness: seconds("lateness")?,
        retention: row
            .get::<Option<String>>("retention")?
            .map(|retention| parse(&retention))
            .transpose()?,
        created: row.get("created")?,
    })
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
        actuators: match row.get::<Option<String>>("actuators")? {
            Some(actuators) => parse(&actuators)?,
            None => BTreeSet::new(),
        },
        tags: match row.get::<Option<String>>("tags")? {
            Some(tags) => parse(&tags)?,
            None => BTreeSet::new(),
        },
        group: row.get("group_name")?,
        provisioned: row.get("provisioned")?,
        created: row.get("created")?,
    })
}

fn rule_of(row: &Row) -> Result<Rule> {
    Ok(Rule {
        id: row.get("id")?,
        version: row.get("version")?,
        text: text_of(row)?,
        created: row.get("created")?,
        updated: row.get("updated")?,
    })
}

fn version_of(row: &Row) -> Result<Version> {
    Ok(Version {
        number: row.get("version")?,
        text: text_of(row)?,
        time: row.get("time")?,
        author: row.get("author")?,
    })
}

fn text_of(row: &Row) -> Result<RuleText> {
    let body: BodyRow = parse(&row.get::<String>("body")?)?;
    let window = match body.window {
        None => None,
        Some(WindowRow { from, to, zone, days }) => {
            let minute = |text: &str| text.parse().map_err(|()| Error::damaged("a rule's window"));
            Some(Window { from: minute(&from)?, to: minute(&to)?, days: Days::of(&days), zone })
        }
    };
    Ok(RuleText {
        name: row.get("name")?,
        sensor: row.get("sensor")?,
        device: row.get("device")?,
        tags: body.tags,
        groups: body.groups,
        area: body.area,
        is_enabled: row.get("is_enabled")?,
        conditions: body.conditions.into_iter().map(Condition::from).collect(),
        window,
        lasting: Duration::from_secs(body.lasting_seconds),
        is_once: body.is_once,
        cooldown: Duration::from_secs(body.cooldown_seconds),
        actions: body.actions.into_iter().map(Deed::from).collect(),
        escalation: body.escalation.map(|row| Escalation {
            after: Duration::from_secs(row.after_seconds),
            actions: row.actions.into_iter().map(Deed::from).collect(),
        }),
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
        why: match row.get::<Option<String>>("why")? {
            Some(why) => Some(parse(&why)?),
            None => None,
        },
        handling: Handling {
            acknowledged: done(row, "acknowledged", "acknowledged_by")?,
            cleared: done(row, "cleared", "cleared_by")?,
            note: row.get("note")?,
        },
        escalate: row.get("escalate")?,
        escalated: row.get("escalated")?,
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

fn done(row: &Row, when: &str, who: &str) -> Result<Option<(Timestamp, String)>> {
    let (when, who): (Option<Timestamp>, Option<String>) = (row.get(when)?, row.get(who)?);
    Ok(when.zip(who))
}

/// What a row keeps of a rule beside what can be searched.
#[derive(Serialize, Deserialize)]
struct BodyRow {
    conditions: Vec<ConditionRow>,
    window: Option<WindowRow>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    area: Option<Area>,
    #[serde(default)]
    lasting_seconds: u64,
    #[serde(default)]
    is_once: bool,
    cooldown_seconds: u64,
    actions: Vec<DeedRow>,
    #[serde(default)]
    escalation: Option<EscalationRow>,
}

#[derive(Serialize, Deserialize)]
struct EscalationRow {
    after_seconds: u64,
    actions: Vec<DeedRow>,
}

type RangeRow = (Option<f64>, Option<f64>);

#[derive(Serialize, Deserialize)]
struct ConditionRow {
    value: String,
    #[serde(flatten)]
    test: TestRow,
}

/// By the names of their fields, as they were from the first one on.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TestRow {
    Compare {
        is: Comparison,
        other: String,
        plus: f64,
    },
    Change {
        by: f64,
        within_seconds: u64,
        direction: Direction,
    },
    Ranges {
        ranges: Vec<RangeRow>,
        #[serde(default)]
        hold: Option<RangeRow>,
    },
}

impl From<ConditionRow> for Condition {
    fn from(row: ConditionRow) -> Self {
        let range = |(min, max): RangeRow| Range { min, max };
        let test = match row.test {
            TestRow::Compare { is, other, plus } => Test::Compare { is, other, plus },
            TestRow::Change { by, within_seconds, direction } => {
                Test::Change(Change { by, within: Duration::from_secs(within_seconds), direction })
            }
            TestRow::Ranges { ranges, hold } => Test::Ranges {
                ranges: ranges.into_iter().map(range).collect(),
                hold: hold.map(range),
            },
        };
        Self { value: row.value, test }
    }
}

impl From<&Condition> for ConditionRow {
    fn from(condition: &Condition) -> Self {
        let row = |range: &Range| (range.min, range.max);
        let test = match &condition.test {
            Test::Compare { is, other, plus } => {
                TestRow::Compare { is: *is, other: other.clone(), plus: *plus }
            }
            Test::Change(Change { by, within, direction }) => {
                TestRow::Change { by: *by, within_seconds: within.as_secs(), direction: *direction }
            }
            Test::Ranges { ranges, hold } => TestRow::Ranges {
                ranges: ranges.iter().map(row).collect(),
                hold: hold.as_ref().map(row),
            },
        };
        Self { value: condition.value.clone(), test }
    }
}

#[derive(Serialize, Deserialize)]
struct WindowRow {
    from: String,
    to: String,
    zone: String,
    #[serde(default)]
    days: Vec<Day>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DeedRow {
    Email { to: String },
    Endpoint { endpoint: String },
    Actuator { device: Option<String>, actuator: String, steps: Vec<Step>, timeout_seconds: u64 },
}

impl From<DeedRow> for Deed {
    fn from(row: DeedRow) -> Self {
        match row {
            DeedRow::Email { to } => Self::Email { to },
            DeedRow::Endpoint { endpoint } => Self::Endpoint { endpoint },
            DeedRow::Actuator { device, actuator, steps, timeout_seconds } => {
                let timeout = Duration::from_secs(timeout_seconds);
                Self::Actuator { device, actuator, steps, timeout }
            }
        }
    }
}

impl From<&Deed> for DeedRow {
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

impl From<&RuleText> for BodyRow {
    fn from(text: &RuleText) -> Self {
        let window = text.window.as_ref().map(|window| WindowRow {
            from: window.from.to_string(),
            to: window.to.to_string(),
            zone: window.zone.clone(),
            days: window.days.list(),
        });
        let actions = text.actions.iter().map(DeedRow::from);
        Self {
            conditions: text.conditions.iter().map(ConditionRow::from).collect(),
            window,
            tags: text.tags.clone(),
            groups: text.groups.clone(),
            area: text.area.clone(),
            lasting_seconds: text.lasting.as_secs(),
            is_once: text.is_once,
            cooldown_seconds: text.cooldown.as_secs(),
            actions: actions.collect(),
            escalation: text.escalation.as_ref().map(|escalation| EscalationRow {
                after_seconds: escalation.after.as_secs(),
                actions: escalation.actions.iter().map(DeedRow::from).collect(),
            }),
        }
    }
}

pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and finite numbers always become JSON")
}

pub(crate) fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| Error::damaged("JSON in a row"))
}
