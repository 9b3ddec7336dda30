//! Health in rows and events: one task per organisation judges, writes down and tells.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Principal, Resource};
use base::{ErrorKind, EventId, Failure, OrganisationId, Page, PageRequest, Timestamp};
use lake::Format;
use relational::{NewEvent, Read, Row, Tx, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fleet::Fleet;
use crate::health::{BATTERY, Battery, Change, Health, Kept, Link, Reason, State};
use crate::needs::{Notice, Notifier, Recipient};
use crate::registry::Device;
use crate::{Devices, Error, MQTT_PUBLISH, Result};

/// The topic that tells of changed health.
pub(crate) const HEALTH: &str = "health";

/// How often signs are looked at; what is seen in between is told together.
const TURN_EVERY: Duration = Duration::from_millis(200);
/// Devices that one turn judges, and one transaction writes down.
const DEVICES_AT_ONCE: usize = 1_000;
/// Rows that are loaded at once.
const CHUNK_ROWS: i64 = 5_000;

/// One entry of a device's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub number: u64,
    pub time: Timestamp,
    pub state: State,
    pub reason: Reason,
    pub silent: Vec<String>,
}

/// Judges whoever has new signs, forever.
pub(crate) async fn run(fleet: Arc<Fleet>) -> Result<(), Failure> {
    loop {
        fleet.house.base.clock.sleep(TURN_EVERY).await;
        while fleet.health_turn().await? {}
    }
}

impl Devices {
    /// A client of the broker was let in. Its identifier says which device it is, when it may publish as that; what else
    /// it carries is known when it publishes.
    pub fn client_arrived(&self, principal: &Principal, client: &str) {
        let Some(fleet) = self.opened(principal.organisation) else { return };
        fleet.vitals.lock().arrived(client, self.house.config.health_clients_max);
        let is_device = fleet.registry(|registry| registry.devices.contains_key(client));
        let path = format!("mqtt/data/{client}");
        let resource = Resource { organisation: principal.organisation, path: &path };
        let authority = &self.house.needs.authority;
        if is_device && authority.authorize(principal, Action(MQTT_PUBLISH), resource).is_ok() {
            self.client_carries(principal, client, client);
        }
    }

    /// A reading of the device came by this client and was taken.
    pub fn client_carries(&self, principal: &Principal, client: &str, device: &str) {
        if let Some(fleet) = self.opened(principal.organisation) {
            fleet.vitals.lock().bind(client, device, self.house.config.health_clients_max);
        }
    }

    /// A connection of a client is over. A lost one had no farewell: its keep-alive ran out, its socket broke, or it
    /// asked for its will.
    pub fn client_left(&self, principal: &Principal, client: &str, is_lost: bool) {
        let now = self.house.base.clock.now();
        if let Some(fleet) = self.opened(principal.organisation) {
            fleet.vitals.lock().left(client, is_lost, now);
        }
    }

    fn opened(&self, organisation: OrganisationId) -> Option<Arc<Fleet>> {
        self.fleets.lock().get(&organisation)?.get().cloned()
    }
}

impl Fleet {
    /// Loads what the rows know.
    pub(crate) async fn restore_health(&self) -> Result<()> {
        let organisation = self.organisation;
        let load = async move |read: &mut Read| {
            Ok::<_, Error>((kept(read, organisation).await?, heard(read, organisation).await?))
        };
        let (kept, heard) = self.house.needs.db.read(load).await?;
        let now = self.house.base.clock.now();
        let expected = (now, now.plus(self.house.config.health_reconnect_max));
        let mut vitals = self.vitals.lock();
        for kept in kept {
            vitals.restore(kept, expected);
        }
        for Heard { device, sensor, received, time, values } in heard {
            if let Some(received) = received {
                vitals.heard(&device, &sensor, received);
            }
            let values: HashMap<String, f64> = serde_json::from_str(&values).unwrap_or_default();
            if let Some(percent) = values.get(BATTERY) {
                vitals.powered(&device, Battery { percent: *percent, time });
            }
        }
        Ok(())
    }

    pub(crate) fn health_of(&self, device: &Device) -> Health {
        let told = self.vitals.lock().told(&device.name).cloned();
        told.unwrap_or_else(|| Health::unknown(device.created))
    }

    pub(crate) fn battery_of(&self, device: &str) -> Option<Battery> {
        self.vitals.lock().battery(device)
    }

    /// How full the battery of a device was, the newest first, before a moment.
    pub(crate) async fn battery_history(
        &self,
        device: &str,
        request: &PageRequest,
    ) -> Result<Page<Battery>> {
        let before: i64 = match &request.after {
            None => self.house.base.clock.now().plus(self.house.config.ahead_max).micros(),
            Some(cursor) => cursor.parse().map_err(|_| Error::cursor(cursor))?,
        };
        let quoted = format!("'{}'", device.replace('\'', "''"));
        let (before, limit) = (Timestamp::from_micros(before), request.limit + 1);
        let sql = format!(
            "SELECT CAST(time AS BIGINT) AS micros, value FROM readings WHERE device = {quoted} \
             AND name = '{BATTERY}' AND value IS NOT NULL AND time < '{before}' \
             ORDER BY time DESC LIMIT {limit}"
        );
        let asked = self.house.needs.lake.query_encoded(self.organisation, &sql, Format::Json);
        let answer = asked.await?;
        let rows: Batteries = serde_json::from_slice(&answer.bytes)
            .map_err(|_| Error::damaged("an answer of the lake"))?;
        let entries = rows
            .rows
            .into_iter()
            .map(|(time, percent)| Battery { percent, time: Timestamp::from_micros(time) });
        let entries = entries.collect();
        Ok(Page::of(entries, request.limit, |entry: &Battery| entry.time.micros().to_string()))
    }

    /// Judges some devices and writes down what changed; says whether there may be more.
    async fn health_turn(&self) -> Result<bool> {
        let now = self.house.base.clock.now();
        let config = &self.house.config;
        let (changes, is_more) = self.registry(|registry| {
            let mut vitals = self.vitals.lock();
            let changes = vitals.turn(registry, config, now, DEVICES_AT_ONCE);
            (changes, vitals.has_touched())
        });
        if changes.is_empty() {
            return Ok(is_more);
        }
        let changes = Arc::new(changes);
        let (organisation, rows) = (self.organisation, changes.clone());
        let entries_max = config.health_entries_max as u64;
        let notifier = self.house.needs.notifier.clone();
        let put = async move |tx: &mut Tx| {
            for change in &*rows {
                if let Some(told) = put(tx, organisation, change, (now, entries_max)).await? {
                    tell(tx, &*notifier, organisation, (change, now, told)).await?;
                }
            }
            Ok::<_, Error>(())
        };
        match self.house.needs.db.write(put).await {
            Ok(()) => {
                self.vitals.lock().tell(&changes);
                self.house.meters.health_changes.inc_by(changes.len() as u64);
                Ok(true)
            }
            Err(error) => {
                self.vitals.lock().again(&changes);
                Err(error)
            }
        }
    }
}

async fn kept(read: &mut Read, organisation: OrganisationId) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let sql = "SELECT device, state, reason, silent, since, link, link_time, changes \
                   FROM health WHERE organisation = ? AND device > ? ORDER BY device LIMIT ?";
        let rows = read.query(sql, params![organisation, after, CHUNK_ROWS]).await?;
        let Some(last) = rows.last() else { return Ok(all) };
        after = last.get("device")?;
        for row in &rows {
            all.push(kept_of(row)?);
        }
    }
}

fn kept_of(row: &Row) -> Result<Kept> {
    let link = match row.get::<String>("link")?.as_str() {
        "up" => Link::Up,
        "lost" => Link::Lost { at: row.get("link_time")? },
        _ => Link::None,
    };
    let (state, reason, silent) = judged(row)?;
    let (since, changes) = (row.get("since")?, row.get("changes")?);
    let health = Health { state, reason, silent, since, changes };
    Ok(Kept { device: row.get("device")?, link, health })
}

fn judged(row: &Row) -> Result<(State, Reason, Vec<String>)> {
    let state = State::read(&row.get::<String>("state")?);
    let reason = Reason::read(&row.get::<String>("reason")?);
    let silent = serde_json::from_str(&row.get::<String>("silent")?).ok();
    match (state, reason, silent) {
        (Some(state), Some(reason), Some(silent)) => Ok((state, reason, silent)),
        _ => Err(Error::damaged("the health of a device")),
    }
}

/// The last reading of a series.
struct Heard {
    device: String,
    sensor: String,
    received: Option<Timestamp>,
    time: Timestamp,
    values: String,
}

/// When each series was heard last, and what it said.
async fn heard(read: &mut Read, organisation: OrganisationId) -> Result<Vec<Heard>> {
    let mut all = Vec::new();
    let (mut device, mut sensor) = (String::new(), String::new());
    loop {
        let sql = "SELECT device, sensor, received, time, reading FROM series \
                   WHERE organisation = ? AND (device > ? OR (device = ? AND sensor > ?)) \
                   ORDER BY device, sensor LIMIT ?";
        let given = params![organisation, device, device, sensor, CHUNK_ROWS];
        let rows = read.query(sql, given).await?;
        let Some(last) = rows.last() else { return Ok(all) };
        (device, sensor) = (last.get("device")?, last.get("sensor")?);
        for row in &rows {
            all.push(Heard {
                device: row.get("device")?,
                sensor: row.get("sensor")?,
                received: row.get("received")?,
                time: row.get("time")?,
                values: row.get("reading")?,
            });
        }
    }
}

/// Tells endpoints that want to hear of it. A full queue or a wrong address must not stop the others.
async fn tell(
    tx: &mut Tx,
    notifier: &dyn Notifier,
    organisation: OrganisationId,
    (change, now, data): (&Change, Timestamp, String),
) -> Result<()> {
    let Change { device, health, .. } = change;
    let mut hash = Sha256::new();
    hash.update(organisation.bytes());
    hash.update(device.as_bytes());
    hash.update(health.changes.to_le_bytes());
    hash.update(now.micros().to_le_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    let mut body = health.reason.word().to_owned();
    if !health.silent.is_empty() {
        body = format!("{body}: {}", health.silent.join(", "));
    }
    let notice = Notice {
        organisation,
        event: "device.health",
        to: Recipient::Subscribers,
        subject: format!("{device}: {}", health.state.word()),
        body,
        occurred: now,
        data,
        key: EventId::from_bytes(key),
    };
    match notifier.enqueue(tx, &notice).await {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind, ErrorKind::Invalid | ErrorKind::TooMany) => {
            tracing::warn!(%error, device, "a change of health was not told");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes one change down: the state, the history and the event, together. Gives what the event says, if there is one.
async fn put(
    tx: &mut Tx,
    organisation: OrganisationId,
    change: &Change,
    (now, entries_max): (Timestamp, u64),
) -> Result<Option<String>> {
    let Change { device, link, health, was } = change;
    let Health { state, reason, silent, since, changes } = health;
    let (link, link_time) = match link {
        Link::Up => ("up", now),
        Link::Lost { at } => ("lost", *at),
        Link::None | Link::Expected { .. } => ("none", now),
    };
    let silent_text = serde_json::to_string(silent).expect("texts always become JSON");
    let (state, reason) = (state.word(), reason.word());
    let number = i64::try_from(*changes).unwrap_or(i64::MAX);
    let sql = "UPDATE health SET state = ?, reason = ?, silent = ?, since = ?, link = ?, \
               link_time = ?, changes = ? WHERE organisation = ? AND device = ?";
    let given =
        params![state, reason, silent_text, since, link, link_time, number, organisation, device];
    if tx.execute(sql, given).await? == 0 {
        let sql = "INSERT INTO health (organisation, device, state, reason, silent, since, link, \
                   link_time, changes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let given = params![
            organisation,
            device,
            state,
            reason,
            silent_text,
            since,
            link,
            link_time,
            number
        ];
        tx.execute(sql, given).await?;
    }
    let Some(was) = was else { return Ok(None) };
    let sql = "INSERT INTO health_history (organisation, device, number, time, state, reason, \
               silent) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let given = params![organisation, device, number, now, state, reason, silent_text];
    tx.execute(sql, given).await?;
    let oldest = number - i64::try_from(entries_max).unwrap_or(i64::MAX);
    let sql = "DELETE FROM health_history WHERE organisation = ? AND device = ? AND number <= ?";
    tx.execute(sql, params![organisation, device, oldest]).await?;
    let told = Told {
        device,
        state,
        was: was.word(),
        reason,
        silent,
        since: since.to_string(),
        time: now.to_string(),
    };
    let told = serde_json::to_string(&told).expect("texts always become JSON");
    tx.emit(NewEvent {
        organisation,
        topic: HEALTH,
        kind: "device.health",
        key: device.clone(),
        payload: told.clone().into_bytes(),
    })
    .await?;
    Ok(Some(told))
}

/// Forgets a device in the transaction that deletes it.
pub(crate) async fn delete(tx: &mut Tx, organisation: OrganisationId, device: &str) -> Result<()> {
    let sql = "DELETE FROM health WHERE organisation = ? AND device = ?";
    tx.execute(sql, params![organisation, device]).await?;
    let sql = "DELETE FROM health_history WHERE organisation = ? AND device = ?";
    tx.execute(sql, params![organisation, device]).await?;
    Ok(())
}

/// What a device went through, the newest first. The cursor is the number of the last entry.
pub(crate) async fn history(
    read: &mut Read,
    organisation: OrganisationId,
    device: &str,
    request: &PageRequest,
) -> Result<Page<Entry>> {
    let before = match &request.after {
        None => i64::MAX,
        Some(cursor) => cursor.parse().map_err(|_| Error::cursor(cursor))?,
    };
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let sql = "SELECT number, time, state, reason, silent FROM health_history \
               WHERE organisation = ? AND device = ? AND number < ? ORDER BY number DESC LIMIT ?";
    let rows = read.query(sql, params![organisation, device, before, limit]).await?;
    let entries = rows.iter().map(|row| {
        let (state, reason, silent) = judged(row)?;
        let (number, time) = (row.get("number")?, row.get("time")?);
        Ok(Entry { number, time, state, reason, silent })
    });
    let entries = entries.collect::<Result<Vec<_>>>()?;
    Ok(Page::of(entries, request.limit, |entry| entry.number.to_string()))
}

/// What the lake answers.
#[derive(Deserialize)]
struct Batteries {
    rows: Vec<(i64, f64)>,
}

/// What the event says.
#[derive(Serialize)]
struct Told<'a> {
    device: &'a str,
    state: &'a str,
    was: &'a str,
    reason: &'a str,
    /// The sensors that are silent for too long.
    silent: &'a [String],
    since: String,
    time: String,
}
