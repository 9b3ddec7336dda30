//! Schedules as rows.

use base::{OrganisationId, Timestamp};
use relational::{Read, Row, Tx, Value, params};

use crate::kind::Kinds;
use crate::schedule::{Missed, NewSchedule, Schedule};
use crate::store;
use crate::{Config, Error, Priority};

const COLUMNS: &str = "organisation, name, kind, payload, priority, cron, zone, missed, next, last, \
    is_paused, is_built_in, created";
/// Schedules that one commit serves.
const SERVED_MAX: i64 = 100;

fn schedule_of(row: &Row) -> Result<Schedule, Error> {
    let missed: String = row.get("missed")?;
    let new = NewSchedule {
        organisation: row.get("organisation")?,
        name: row.get("name")?,
        kind: row.get("kind")?,
        payload: row.get("payload")?,
        priority: Priority::numbered(row.get("priority")?),
        cron: row.get::<String>("cron")?.parse()?,
        zone: row.get("zone")?,
        missed: Missed::named(&missed).ok_or_else(|| store::unknown("missed"))?,
    };
    Ok(Schedule {
        new,
        is_paused: row.get("is_paused")?,
        is_built_in: row.get("is_built_in")?,
        next: row.get("next")?,
        last: row.get("last")?,
        created: row.get("created")?,
    })
}

/// Who made a schedule, and when.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) is_built_in: bool,
    pub(crate) now: Timestamp,
    pub(crate) schedules_max: u64,
}

pub(crate) async fn insert(tx: &mut Tx, new: &NewSchedule, made: Made) -> Result<Schedule, Error> {
    if find(tx, new.organisation, &new.name).await?.is_some() {
        return Err(Error::ScheduleExists(new.name.clone()));
    }
    let count = "SELECT COUNT(*) AS number FROM job_schedule WHERE organisation = ?";
    let count: u64 = tx.query_one(count, params![new.organisation]).await?.get("number")?;
    if count >= made.schedules_max {
        let rule = format!("has at most {} schedules", made.schedules_max);
        return Err(Error::Invalid { what: "organisation", rule });
    }
    let next = new.first(made.now)?;
    let insert = "INSERT INTO job_schedule (kind, payload, priority, cron, zone, missed, next,
        is_built_in, organisation, name, created, is_paused)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)";
    let place = params![new.organisation, new.name, made.now];
    tx.execute(insert, &[&values(new, next, made.is_built_in)[..], place].concat()).await?;
    Ok(Schedule {
        new: new.clone(),
        is_paused: false,
        is_built_in: made.is_built_in,
        next,
        last: None,
        created: made.now,
    })
}

/// Brings a schedule of the server up to date; it stays paused, and keeps its next time unless its times changed.
pub(crate) async fn keep(tx: &mut Tx, new: &NewSchedule, made: Made) -> Result<(), Error> {
    let Some(old) = find(tx, new.organisation, &new.name).await? else {
        return insert(tx, new, made).await.map(drop);
    };
    let is_same_time = old.new.cron == new.cron && old.new.zone == new.zone;
    let next = match (old.is_paused, is_same_time) {
        (true, _) => None,
        (false, true) => old.next,
        (false, false) => new.first(made.now)?,
    };
    let update = "UPDATE job_schedule SET kind = ?, payload = ?, priority = ?, cron = ?, zone = ?,
        missed = ?, next = ?, is_built_in = ? WHERE organisation = ? AND name = ?";
    let place = params![new.organisation, new.name];
    tx.execute(update, &[&values(new, next, made.is_built_in)[..], place].concat()).await?;
    Ok(())
}

/// `kind` to `is_built_in`, as both statements name them.
fn values(new: &NewSchedule, next: Option<Timestamp>, is_built_in: bool) -> Vec<Value> {
    params![
        new.kind,
        new.payload,
        new.priority.number(),
        new.cron.to_string(),
        new.zone,
        new.missed.name(),
        next,
        is_built_in
    ]
    .to_vec()
}

async fn find(
    tx: &mut Tx,
    organisation: OrganisationId,
    name: &str,
) -> Result<Option<Schedule>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM job_schedule WHERE organisation = ? AND name = ?");
    tx.query_optional(&sql, params![organisation, name])
        .await?
        .as_ref()
        .map(schedule_of)
        .transpose()
}

async fn found(tx: &mut Tx, organisation: OrganisationId, name: &str) -> Result<Schedule, Error> {
    let found = find(tx, organisation, name).await?;
    found.ok_or_else(|| Error::NoSchedule(name.to_owned()))
}

/// Stops or goes on. What passes while it is paused is not missed: nobody wanted it.
pub(crate) async fn set_paused(
    tx: &mut Tx,
    (organisation, name): (OrganisationId, &str),
    is_paused: bool,
    now: Timestamp,
) -> Result<Schedule, Error> {
    let mut schedule = found(tx, organisation, name).await?;
    if schedule.is_paused != is_paused {
        schedule.is_paused = is_paused;
        schedule.next = if is_paused { None } else { schedule.new.first(now)? };
        let update = "UPDATE job_schedule SET is_paused = ?, next = ?
            WHERE organisation = ? AND name = ?";
        tx.execute(update, params![is_paused, schedule.next, organisation, name]).await?;
    }
    Ok(schedule)
}

pub(crate) async fn delete(
    tx: &mut Tx,
    organisation: OrganisationId,
    name: &str,
) -> Result<(), Error> {
    if found(tx, organisation, name).await?.is_built_in {
        return Err(Error::ScheduleIsBuiltIn(name.to_owned()));
    }
    let delete = "DELETE FROM job_schedule WHERE organisation = ? AND name = ?";
    tx.execute(delete, params![organisation, name]).await?;
    Ok(())
}

pub(crate) async fn all(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<Vec<Schedule>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM job_schedule WHERE organisation = ? ORDER BY name");
    read.query(&sql, params![organisation]).await?.iter().map(schedule_of).collect()
}

/// What schedules want enqueued at `now`; their next times move in the same transaction. Those of kinds that only
/// another version knows are left to it.
pub(crate) async fn due(
    tx: &mut Tx,
    now: Timestamp,
    kinds: &Kinds,
    config: &Config,
) -> Result<Vec<(NewSchedule, Timestamp)>, Error> {
    let names = kinds.names();
    let marks = vec!["?"; names.len()].join(", ");
    let sql = format!(
        "SELECT {COLUMNS} FROM job_schedule WHERE next <= ? AND kind IN ({marks}) ORDER BY next LIMIT ?"
    );
    let names = names.into_iter().map(Value::from);
    let values: Vec<Value> =
        [now.into()].into_iter().chain(names).chain([SERVED_MAX.into()]).collect();
    let mut wanted = Vec::new();
    for row in &tx.query(&sql, &values).await? {
        let (organisation, name): (OrganisationId, String) =
            (row.get("organisation")?, row.get("name")?);
        let read = schedule_of(row);
        let ticked = read.and_then(|schedule| match schedule.next {
            Some(next) => schedule.new.tick(next, now, config).map(|tick| (schedule, tick)),
            None => Err(Error::NoSchedule(name.clone())),
        });
        let (schedule, tick) = match ticked {
            Ok(ticked) => ticked,
            Err(error) => {
                // Other schedules do not wait for one that a later version wrote.
                tracing::error!(%organisation, schedule = name, %error, "a schedule cannot be read and stops");
                let stop =
                    "UPDATE job_schedule SET next = NULL WHERE organisation = ? AND name = ?";
                tx.execute(stop, params![organisation, name]).await?;
                continue;
            }
        };
        let last = tick.times.last().copied().or(schedule.last);
        let update =
            "UPDATE job_schedule SET next = ?, last = ? WHERE organisation = ? AND name = ?";
        tx.execute(update, params![tick.next, last, organisation, name]).await?;
        wanted.extend(tick.times.into_iter().map(|time| (schedule.new.clone(), time)));
    }
    Ok(wanted)
}
