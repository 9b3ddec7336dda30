//! What a device is to be like and what it says it is like: two JSON objects with versions.
//!
//! The wish is a kept message on `desired/<device>`; the device says what it is on `reported/<device>`. Both are
//! changed by merge patches (RFC 7396): null takes a member away.

use base::{OrganisationId, Timestamp};
use relational::{Read, Row, Tx, params};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::fleet::Fleet;
use crate::store::{AUTHOR_CHARS_MAX, parse};
use crate::{Error, Result};

/// How deep the objects may nest.
const DEPTH_MAX: usize = 8;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Twin {
    pub desired: Side,
    pub reported: Side,
    /// Who wrote the wish last.
    pub by: Option<String>,
    /// The version of the wish that the device knew when it reported last.
    pub seen: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Side {
    pub state: Map<String, Value>,
    /// How often it was changed.
    pub version: u64,
    pub time: Option<Timestamp>,
}

/// What a device says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// A merge patch of what it said before.
    pub state: Map<String, Value>,
    /// The version of the wish that it has seen.
    #[serde(default)]
    pub version: Option<u64>,
}

impl Twin {
    /// The members of the wish that the device does not say it has.
    pub(crate) fn delta(&self) -> Map<String, Value> {
        let wish = self.desired.state.iter();
        let missing = wish.filter(|(name, value)| self.reported.state.get(*name) != Some(*value));
        missing.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl Side {
    /// Changes it; says whether that changes anything.
    fn merge(
        &mut self,
        patch: Map<String, Value>,
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<bool> {
        let mut state = Value::Object(std::mem::take(&mut self.state));
        let before = state.clone();
        merge(&mut state, Value::Object(patch));
        let has_changed = state != before;
        if depth(&state) > DEPTH_MAX {
            return Err(Error::invalid("/state", format!("nested deeper than {DEPTH_MAX}")));
        }
        if state.to_string().len() > bytes_max {
            return Err(Error::invalid("/state", format!("more than {bytes_max} bytes")));
        }
        if let Value::Object(state) = state {
            self.state = state;
        }
        if has_changed {
            self.version += 1;
            self.time = Some(now);
        }
        Ok(has_changed)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// RFC 7396.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (name, value) in patch {
            if value.is_null() {
                target.remove(&name);
            } else {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
    }
}

/// What is published to a device.
pub(crate) fn message(twin: &Side) -> Vec<u8> {
    json!({ "version": twin.version, "state": twin.state }).to_string().into_bytes()
}

impl Fleet {
    pub(crate) async fn twin(&self, device: &str) -> Result<Twin> {
        self.device(device)?;
        let (organisation, device) = (self.organisation, device.to_owned());
        let ask = async move |read: &mut Read| {
            let row = read.query_optional(SELECT, params![organisation, device]).await?;
            row.as_ref().map_or_else(|| Ok(Twin::default()), twin_of)
        };
        self.house.needs.db.read(ask).await
    }

    /// Changes the wish. With a version it is refused when somebody else was first.
    pub(crate) async fn desire(
        &self,
        device: &str,
        (patch, version): (Map<String, Value>, Option<u64>),
        author: &str,
    ) -> Result<Twin> {
        self.device(device)?;
        let author: String = author.chars().take(AUTHOR_CHARS_MAX).collect();
        let change = (device.to_owned(), patch, author);
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let bytes_max = self.house.config.twin_bytes_max;
        let write = async move |tx: &mut Tx| {
            let (device, patch, author) = &change;
            let mut twin = load(tx, organisation, device).await?;
            if let Some(version) = version.filter(|version| *version != twin.desired.version) {
                let known = twin.desired.version;
                return Err(Error::InUse(format!(
                    "the wish has version {known} and not {version}"
                )));
            }
            if twin.desired.merge(patch.clone(), now, bytes_max)? {
                twin.by = Some(author.clone());
                put(tx, organisation, device, &twin).await?;
                let sql = "UPDATE twins SET due = ? WHERE organisation = ? AND device = ?";
                tx.execute(sql, params![now, organisation, device]).await?;
            }
            Ok(twin)
        };
        let twin = self.house.needs.db.write(write).await?;
        self.errands.expect(now);
        Ok(twin)
    }

    /// Takes what a device says of itself.
    pub(crate) async fn reported(&self, device: &str, report: Report) -> Result<()> {
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let bytes_max = self.house.config.twin_bytes_max;
        let change = (device.to_owned(), report.state);
        let write = async move |tx: &mut Tx| {
            let (device, patch) = &change;
            let mut twin = load(tx, organisation, device).await?;
            let has_changed = twin.reported.merge(patch.clone(), now, bytes_max)?;
            let seen = report.version.or(twin.seen);
            if has_changed || seen != twin.seen {
                twin.seen = seen;
                put(tx, organisation, device, &twin).await?;
            }
            Ok::<_, Error>(())
        };
        self.house.needs.db.write(write).await
    }
}

const SELECT: &str = "SELECT desired, desired_version, desired_time, desired_by, reported, \
                      reported_version, reported_time, seen_version FROM twins \
                      WHERE organisation = ? AND device = ?";

async fn load(tx: &mut Tx, organisation: OrganisationId, device: &str) -> Result<Twin> {
    let row = tx.query_optional(SELECT, params![organisation, device]).await?;
    row.as_ref().map_or_else(|| Ok(Twin::default()), twin_of)
}

fn twin_of(row: &Row) -> Result<Twin> {
    let side = |state: &str, version: &str, time: &str| {
        Ok::<_, Error>(Side {
            state: parse(&row.get::<String>(state)?)?,
            version: row.get(version)?,
            time: row.get(time)?,
        })
    };
    Ok(Twin {
        desired: side("desired", "desired_version", "desired_time")?,
        reported: side("reported", "reported_version", "reported_time")?,
        by: row.get("desired_by")?,
        seen: row.get("seen_version")?,
    })
}

async fn put(tx: &mut Tx, organisation: OrganisationId, device: &str, twin: &Twin) -> Result<()> {
    let Twin { desired, reported, by, seen } = twin;
    let text = |side: &Side| Value::Object(side.state.clone()).to_string();
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (wish, said) = (text(desired), text(reported));
    let (wishes, reports) = (number(desired.version), number(reported.version));
    let seen = seen.map(number);
    let sql = "UPDATE twins SET desired = ?, desired_version = ?, desired_time = ?, \
               desired_by = ?, reported = ?, reported_version = ?, reported_time = ?, \
               seen_version = ? WHERE organisation = ? AND device = ?";
    let given = params![
        wish,
        wishes,
        desired.time,
        by,
        said,
        reports,
        reported.time,
        seen,
        organisation,
        device
    ];
    if tx.execute(sql, given).await? == 0 {
        let sql = "INSERT INTO twins (organisation, device, desired, desired_version, \
                   desired_time, desired_by, reported, reported_version, reported_time, \
                   seen_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let given = params![
            organisation,
            device,
            wish,
            wishes,
            desired.time,
            by,
            said,
            reports,
            reported.time,
            seen
        ];
        tx.execute(sql, given).await?;
    }
    Ok(())
}

/// Wishes that wait to be published, and until when each is looked at again.
pub(crate) async fn due(
    tx: &mut Tx,
    organisation: OrganisationId,
    (now, again): (Timestamp, Timestamp),
    most: i64,
) -> Result<Vec<(String, Side)>> {
    let sql = "SELECT device, desired, desired_version FROM twins \
               WHERE organisation = ? AND due <= ? ORDER BY due, device LIMIT ?";
    let mut found = Vec::new();
    for row in tx.query(sql, params![organisation, now, most]).await? {
        let device: String = row.get("device")?;
        let state = parse(&row.get::<String>("desired")?)?;
        let side = Side { state, version: row.get("desired_version")?, time: None };
        let sql = "UPDATE twins SET due = ? WHERE organisation = ? AND device = ?";
        tx.execute(sql, params![again, organisation, device]).await?;
        found.push((device, side));
    }
    Ok(found)
}

/// A wish was published, unless it was changed meanwhile.
pub(crate) async fn told(
    tx: &mut Tx,
    organisation: OrganisationId,
    device: &str,
    version: u64,
) -> Result<()> {
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let sql = "UPDATE twins SET due = NULL \
               WHERE organisation = ? AND device = ? AND desired_version = ?";
    tx.execute(sql, params![organisation, device, version]).await?;
    Ok(())
}

/// Forgets a device in the transaction that deletes it.
pub(crate) async fn delete(tx: &mut Tx, organisation: OrganisationId, device: &str) -> Result<()> {
    let sql = "DELETE FROM twins WHERE organisation = ? AND device = ?";
    tx.execute(sql, params![organisation, device]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(members) = value else { panic!("not an object: {value}") };
        members
    }

    #[test]
    fn a_patch_changes_adds_and_takes_away() {
        let mut side = Side::default();
        let now = Timestamp::from_micros(1);
        let patch = object(json!({"a": 1, "b": {"c": 2, "d": 3}}));
        assert!(side.merge(patch.clone(), now, 100).unwrap());
        assert!(!side.merge(patch, now, 100).unwrap(), "the same again is no news");
        assert!(side.merge(object(json!({"a": null, "b": {"c": [1]}})), now, 100).unwrap());
        assert_eq!(side.state, object(json!({"b": {"c": [1], "d": 3}})));
        assert_eq!(side.version, 2);
        assert!(side.merge(object(json!({"long": "x".repeat(100)})), now, 100).is_err());
    }

    #[test]
    fn the_delta_is_what_the_device_does_not_say_it_has() {
        let side = |value: Value| Side { state: object(value), ..Side::default() };
        let twin = Twin {
            desired: side(json!({"a": 1, "b": 2, "c": {"d": 1}})),
            reported: side(json!({"a": 1, "b": 3, "e": 4, "c": {"d": 1}})),
            ..Twin::default()
        };
        assert_eq!(twin.delta(), object(json!({"b": 2})));
    }
}
