//! The rows of endpoints and of the secrets that sign for them.

use std::collections::HashMap;
use std::time::Duration;

use base::{OrganisationId, PageRequest, Seal, Timestamp};
use relational::{Read, Row, Tx, Value, params};

use super::{Destination, Ended, Health, channel_of, number_of, sealed, unknown};
use crate::keys::{Column, Place, Sealed};
use crate::lanes::{Lane, Look, Standing};
use crate::schedule::back_off;
use crate::{EmailAddress, Endpoint, EndpointId, EndpointState, Error, NewEndpoint, SecretInfo};

/// Those that may be tried, with their first message, and how many rows were read; without a message they are left out.
pub(super) async fn standing(tx: &mut Tx, look: &Look) -> Result<(Vec<Standing>, u64), Error> {
    let mut sql = "SELECT e.id, e.channel, e.failures, e.rate_max, e.not_before, \
               (SELECT MIN(m.next_attempt) FROM delivery_messages m WHERE m.lane = e.id AND m.next_attempt > 0) AS due \
               FROM delivery_endpoints e WHERE e.state = 'active'"
        .to_owned();
    let mut values = Vec::new();
    if let Look::Lively { endpoints, .. } = look {
        if endpoints.is_empty() {
            return Ok((Vec::new(), 0));
        }
        values.extend(endpoints.iter().map(|id| Value::Text(id.to_string())));
        let places = vec!["?"; values.len()].join(", ");
        sql.extend([" AND e.id IN (", &places, ")"]);
    }
    let mut lanes = Vec::new();
    let rows = tx.query(&sql, &values).await?;
    let read = rows.len() as u64;
    for row in rows {
        let Some(due) = row.get::<Option<Timestamp>>("due")? else { continue };
        let not_before: Option<Timestamp> = row.get("not_before")?;
        lanes.push(Standing {
            lane: Lane::Endpoint(row.get("id")?),
            channel: channel_of(&row)?,
            failures: row.get("failures")?,
            rate_max: row.get("rate_max")?,
            due: not_before.map_or(due, |moment| moment.max(due)),
        });
    }
    Ok((lanes, read))
}

pub(crate) async fn destination(
    tx: &mut Tx,
    id: EndpointId,
    now: Timestamp,
    seal: &Seal,
) -> Result<Destination, Error> {
    let sql =
        "SELECT id, organisation, channel, url, sealed_by FROM delivery_endpoints WHERE id = ?";
    let row = tx.query_optional(sql, params![id]).await?.ok_or(Error::NoEndpoint(id))?;
    let (channel, url) = (channel_of(&row)?, url_of(&row, seal)?);
    let sql = "SELECT id, organisation, secret, sealed_by FROM delivery_secrets \
               WHERE endpoint = ? AND (expires IS NULL OR expires > ?) \
               ORDER BY CASE WHEN expires IS NULL THEN 0 ELSE 1 END, id DESC";
    let (mut secrets, mut refused) = (Vec::new(), None);
    for row in tx.query(sql, params![id, now]).await? {
        let place = Place {
            column: Column::Secret,
            organisation: row.get("organisation")?,
            row: row.get("id")?,
        };
        match sealed::opened(&row, seal, place, "secret") {
            Ok(secret) => secrets.push(secret.parse().map_err(|_| unknown("secret"))?),
            // A newer one may have been made since its key was lost.
            Err(error @ Error::Sealed { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if secrets.is_empty() => Err(error),
        _ => Ok(Destination { channel, url, secrets }),
    }
}

/// The whole URL of an endpoint's row.
fn url_of(row: &Row, seal: &Seal) -> Result<String, Error> {
    let place =
        Place { column: Column::Url, organisation: row.get("organisation")?, row: row.get("id")? };
    sealed::opened(row, seal, place, "url")
}

/// Whether an endpoint of the organisation gets messages, with its channel and name.
pub(crate) struct Addressee {
    pub(crate) id: EndpointId,
    pub(crate) channel: crate::Channel,
    pub(crate) name: String,
    pub(crate) event_types: Vec<String>,
    pub(crate) state: EndpointState,
}

pub(crate) async fn addressee(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: EndpointId,
) -> Result<Option<Addressee>, Error> {
    let sql = "SELECT id, channel, name, event_types, state FROM delivery_endpoints \
               WHERE organisation = ? AND id = ?";
    let row = tx.query_optional(sql, params![organisation, id]).await?;
    row.as_ref().map(addressee_of).transpose()
}

pub(crate) async fn addressees(
    tx: &mut Tx,
    organisation: OrganisationId,
) -> Result<Vec<Addressee>, Error> {
    let sql = "SELECT id, channel, name, event_types, state FROM delivery_endpoints \
               WHERE organisation = ? ORDER BY id";
    tx.query(sql, params![organisation]).await?.iter().map(addressee_of).collect()
}

fn addressee_of(row: &Row) -> Result<Addressee, Error> {
    Ok(Addressee {
        id: row.get("id")?,
        channel: channel_of(row)?,
        name: row.get("name")?,
        event_types: event_types_of(row)?,
        state: state_of(row)?,
    })
}

pub(crate) async fn insert(
    tx: &mut Tx,
    (organisation, id): (OrganisationId, EndpointId),
    new: &NewEndpoint,
    url: &Sealed,
    now: Timestamp,
) -> Result<(), Error> {
    let sql = "INSERT INTO delivery_endpoints (id, organisation, channel, name, url, sealed_by, event_types, contact, \
               rate_max, state, failures, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'active', 0, ?, ?)";
    let given = params![
        id,
        organisation,
        new.channel.name(),
        new.name,
        url.text,
        url.key,
        texts(&new.event_types),
        new.contact.as_ref().map(EmailAddress::to_string),
        new.rate_max,
        now,
        now
    ];
    tx.execute(sql, given).await?;
    Ok(())
}

/// Writes what can be changed by hand.
pub(crate) async fn update(
    tx: &mut Tx,
    id: EndpointId,
    new: &NewEndpoint,
    url: &Sealed,
    now: Timestamp,
) -> Result<(), Error> {
    let sql = "UPDATE delivery_endpoints SET name = ?, url = ?, sealed_by = ?, event_types = ?, contact = ?, \
               rate_max = ?, changed = ? WHERE id = ?";
    let contact = new.contact.as_ref().map(EmailAddress::to_string);
    let types = texts(&new.event_types);
    let given = params![new.name, url.text, url.key, types, contact, new.rate_max, now, id];
    tx.execute(sql, given).await?;
    Ok(())
}

/// An endpoint's row as it was written.
pub(crate) struct Written {
    /// Without its URL.
    pub(crate) endpoint: NewEndpoint,
    /// The whole URL; an error when it cannot be opened.
    pub(crate) url: Result<String, Error>,
    pub(crate) state: EndpointState,
}

pub(crate) async fn written(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: EndpointId,
    seal: &Seal,
) -> Result<Written, Error> {
    let sql = "SELECT id, organisation, channel, name, url, sealed_by, event_types, contact, rate_max, state \
               FROM delivery_endpoints WHERE organisation = ? AND id = ?";
    let row = tx.query_optional(sql, params![organisation, id]).await?;
    let row = row.ok_or(Error::NoEndpoint(id))?;
    let endpoint = NewEndpoint {
        channel: channel_of(&row)?,
        name: row.get("name")?,
        url: String::new(),
        event_types: event_types_of(&row)?,
        contact: contact_of(&row)?,
        rate_max: row.get("rate_max")?,
    };
    Ok(Written { endpoint, url: url_of(&row, seal), state: state_of(&row)? })
}

pub(crate) async fn count(tx: &mut Tx, organisation: OrganisationId) -> Result<u64, Error> {
    let sql = "SELECT COUNT(*) AS number FROM delivery_endpoints WHERE organisation = ?";
    number_of(&tx.query_one(sql, params![organisation]).await?)
}

/// Switches an endpoint; on lets go what was held for it, off holds what waits.
pub(crate) async fn switch(
    tx: &mut Tx,
    id: EndpointId,
    (state, reason): (EndpointState, Option<&str>),
    now: Timestamp,
) -> Result<(), Error> {
    let reason = reason.map(str::to_owned);
    if state == EndpointState::Active {
        let sql = "UPDATE delivery_endpoints SET state = ?, reason = ?, changed = ?, failures = 0, \
                   failing_since = NULL, not_before = NULL WHERE id = ?";
        tx.execute(sql, params![state.name(), reason, now, id]).await?;
        let sql = "UPDATE delivery_messages SET state = 'waiting', next_attempt = ? WHERE lane = ? AND state = 'held'";
        tx.execute(sql, params![now, id]).await?;
    } else {
        let sql = "UPDATE delivery_endpoints SET state = ?, reason = ?, changed = ? WHERE id = ?";
        tx.execute(sql, params![state.name(), reason, now, id]).await?;
        let sql = "UPDATE delivery_messages SET state = 'held', next_attempt = NULL WHERE lane = ? AND state = 'waiting'";
        tx.execute(sql, params![id]).await?;
    }
    Ok(())
}

/// Deletes an endpoint and its secrets. What was not sent is failed.
pub(crate) async fn delete(tx: &mut Tx, id: EndpointId) -> Result<(), Error> {
    let sql = "UPDATE delivery_messages SET state = 'failed', next_attempt = NULL, \
               last_error = 'the endpoint was deleted' \
               WHERE lane = ? AND state IN ('held', 'waiting', 'sending')";
    tx.execute(sql, params![id]).await?;
    tx.execute("DELETE FROM delivery_secrets WHERE endpoint = ?", params![id]).await?;
    tx.execute("DELETE FROM delivery_endpoints WHERE id = ?", params![id]).await?;
    Ok(())
}

pub(crate) async fn insert_secret(
    tx: &mut Tx,
    (organisation, endpoint): (OrganisationId, EndpointId),
    id: EndpointId,
    secret: &Sealed,
    now: Timestamp,
) -> Result<(), Error> {
    let sql = "INSERT INTO delivery_secrets (id, organisation, endpoint, secret, sealed_by, created) \
               VALUES (?, ?, ?, ?, ?, ?)";
    tx.execute(sql, params![id, organisation, endpoint, secret.text, secret.key, now]).await?;
    Ok(())
}

/// Lets the newest secret sign until `expires` only; says how many sign at `now`.
pub(crate) async fn expire_newest(
    tx: &mut Tx,
    endpoint: EndpointId,
    expires: Timestamp,
    now: Timestamp,
) -> Result<u64, Error> {
    let sql = "UPDATE delivery_secrets SET expires = ? WHERE endpoint = ? AND expires IS NULL";
    tx.execute(sql, params![expires, endpoint]).await?;
    let sql = "SELECT COUNT(*) AS number FROM delivery_secrets \
               WHERE endpoint = ? AND (expires IS NULL OR expires > ?)";
    number_of(&tx.query_one(sql, params![endpoint, now]).await?)
}

pub(super) async fn forget_secrets(tx: &mut Tx, now: Timestamp) -> Result<(), Error> {
    tx.execute("DELETE FROM delivery_secrets WHERE expires <= ?", params![now]).await?;
    Ok(())
}

const COLUMNS: &str = "id, organisation, channel, name, url, sealed_by, event_types, contact, rate_max, state, reason, failures, \
                       failing_since, not_before, last_success, created, changed";

pub(crate) async fn page(
    read: &mut Read,
    organisation: OrganisationId,
    page: &PageRequest,
    now: Timestamp,
    seal: &Seal,
) -> Result<Vec<Endpoint>, Error> {
    let mut sql = format!("SELECT {COLUMNS} FROM delivery_endpoints WHERE organisation = ?");
    let mut values = params![organisation].to_vec();
    if let Some(after) = &page.after {
        let after: EndpointId = after.parse().map_err(|_| Error::Cursor)?;
        sql.push_str(" AND id < ?");
        values.push(Value::Text(after.to_string()));
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX) + 1;
    values.push(Value::Int(i64::try_from(limit).unwrap_or(i64::MAX)));
    let rows = read.query(&sql, &values).await?;
    let sql = "SELECT endpoint, created, expires FROM delivery_secrets \
               WHERE organisation = ? AND (expires IS NULL OR expires > ?) \
               ORDER BY CASE WHEN expires IS NULL THEN 0 ELSE 1 END, id DESC";
    let mut secrets = HashMap::<EndpointId, Vec<SecretInfo>>::new();
    for row in read.query(sql, params![organisation, now]).await? {
        secrets.entry(row.get("endpoint")?).or_default().push(secret_of(&row)?);
    }
    let endpoint = |row: &Row| -> Result<Endpoint, Error> {
        let id: EndpointId = row.get("id")?;
        let secrets = secrets.get(&id).cloned().unwrap_or_default();
        endpoint_of(row, secrets, seal)
    };
    rows.iter().map(endpoint).collect()
}

pub(crate) async fn one(
    read: &mut Read,
    organisation: OrganisationId,
    id: EndpointId,
    now: Timestamp,
    seal: &Seal,
) -> Result<Endpoint, Error> {
    let sql = format!("SELECT {COLUMNS} FROM delivery_endpoints WHERE organisation = ? AND id = ?");
    let row = read.query_optional(&sql, params![organisation, id]).await?;
    let row = row.ok_or(Error::NoEndpoint(id))?;
    let sql = "SELECT created, expires FROM delivery_secrets \
               WHERE endpoint = ? AND (expires IS NULL OR expires > ?) \
               ORDER BY CASE WHEN expires IS NULL THEN 0 ELSE 1 END, id DESC";
    let secrets = read.query(sql, params![id, now]).await?;
    endpoint_of(&row, secrets.iter().map(secret_of).collect::<Result<_, _>>()?, seal)
}

/// How an endpoint's failures are judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) failures_max: u32,
    /// The shortest and the longest rest.
    pub(crate) rest: (Duration, Duration),
    pub(crate) pause_after: Duration,
    pub(crate) chance: u64,
}

/// An endpoint that was just paused.
#[derive(Debug, Clone)]
pub(crate) struct Paused {
    pub(crate) id: EndpointId,
    pub(crate) organisation: OrganisationId,
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) contact: Option<EmailAddress>,
}

/// A success is written again when it is this much newer than the last that was.
const SUCCESS_GRAIN: Duration = Duration::from_mins(1);

/// Notes at the endpoint what an attempt says of it, and pauses it when that is enough.
pub(crate) async fn note(
    tx: &mut Tx,
    id: EndpointId,
    ended: &Ended,
    patience: Patience,
) -> Result<Option<Paused>, Error> {
    let (retry_after, gone) = match &ended.health {
        Health::Silent => return Ok(None),
        Health::Well => {
            let sql = "UPDATE delivery_endpoints SET failures = 0, failing_since = NULL, last_success = ? \
                       WHERE id = ? AND (failures > 0 OR last_success IS NULL OR last_success < ?)";
            tx.execute(sql, params![ended.at, id, ended.at.minus(SUCCESS_GRAIN)]).await?;
            return Ok(None);
        }
        Health::Unwell { retry_after } => (*retry_after, None),
        Health::Gone(reason) => (None, Some(reason.clone())),
    };
    let sql = "SELECT organisation, name, contact, state, failures, failing_since, not_before \
               FROM delivery_endpoints WHERE id = ?";
    let Some(row) = tx.query_optional(sql, params![id]).await? else { return Ok(None) };
    let failures = row.get::<u32>("failures")?.saturating_add(1);
    let since = row.get::<Option<Timestamp>>("failing_since")?.unwrap_or(ended.at);
    let rest = (failures >= patience.failures_max)
        .then(|| back_off(patience.rest, failures - patience.failures_max + 1, patience.chance));
    let until = rest.max(retry_after).map(|rest| ended.at.plus(rest));
    let not_before = until.max(row.get("not_before")?);
    let sql = "UPDATE delivery_endpoints SET failures = ?, failing_since = ?, not_before = ? WHERE id = ?";
    tx.execute(sql, params![failures, since, not_before, id]).await?;
    let failing = ended.at.since(since);
    let reason = match gone {
        Some(reason) => reason,
        None if failing >= patience.pause_after => {
            let days = failing.as_secs() / (24 * 60 * 60);
            format!("nothing was taken for {days} days")
        }
        None => return Ok(None),
    };
    if state_of(&row)? != EndpointState::Active {
        return Ok(None);
    }
    switch(tx, id, (EndpointState::Paused, Some(&reason)), ended.at).await?;
    Ok(Some(Paused {
        id,
        organisation: row.get("organisation")?,
        name: row.get("name")?,
        reason,
        contact: contact_of(&row)?,
    }))
}

fn endpoint_of(row: &Row, secrets: Vec<SecretInfo>, seal: &Seal) -> Result<Endpoint, Error> {
    let url = match url_of(row, seal) {
        Ok(url) => shown(&url),
        // The others of the list are shown all the same.
        Err(Error::Sealed { key, .. }) => format!("(sealed under {key})"),
        Err(error) => return Err(error),
    };
    Ok(Endpoint {
        id: row.get("id")?,
        channel: channel_of(row)?,
        name: row.get("name")?,
        url,
        event_types: event_types_of(row)?,
        contact: contact_of(row)?,
        rate_max: row.get("rate_max")?,
        state: state_of(row)?,
        reason: row.get("reason")?,
        failures: row.get("failures")?,
        failing_since: row.get("failing_since")?,
        rests_until: row.get("not_before")?,
        last_success: row.get("last_success")?,
        secrets,
        created: row.get("created")?,
        changed: row.get("changed")?,
    })
}

/// Scheme, host and port of a URL that was taken once, whatever the rules are by now.
fn shown(url: &str) -> String {
    let after = url.find("://").map_or(0, |at| at + 3);
    match url[after..].find('/') {
        Some(slash) if url.len() > after + slash + 1 => format!("{}/…", &url[..after + slash]),
        _ => url.to_owned(),
    }
}

fn secret_of(row: &Row) -> Result<SecretInfo, Error> {
    Ok(SecretInfo { created: row.get("created")?, expires: row.get("expires")? })
}

fn contact_of(row: &Row) -> Result<Option<EmailAddress>, Error> {
    let contact: Option<String> = row.get("contact")?;
    contact.map(|text| text.parse().map_err(|_| unknown("contact"))).transpose()
}

fn state_of(row: &Row) -> Result<EndpointState, Error> {
    EndpointState::named(&row.get::<String>("state")?).ok_or_else(|| unknown("state"))
}

fn texts(list: &[String]) -> String {
    serde_json::to_string(list).expect("texts always become JSON")
}

fn event_types_of(row: &Row) -> Result<Vec<String>, Error> {
    serde_json::from_str(&row.get::<String>("event_types")?).map_err(|_| unknown("event_types"))
}
