//! Which days are to be rolled up, and from when on readings are kept, in rows.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use base::{OrganisationId, Timestamp};
use relational::{Read, Tx, params};

use crate::Result;

/// In the place of a partition: a day that is being rolled up.
const TAKEN: i64 = -1;
/// In the place of a partition: a day that was there before days were marked.
const FOUND: i64 = -2;

/// A sensor and a day, counted from 1970-01-01.
pub(crate) type SensorDay = (String, i64);

/// The days that a pipeline has marked and nobody has taken.
pub(crate) async fn marks(
    read: &mut Read,
    organisation: OrganisationId,
    partition: u32,
) -> Result<Vec<SensorDay>> {
    let sql = "SELECT sensor, day FROM rollup_days WHERE organisation = ? AND part = ?";
    let rows = read.query(sql, params![organisation, partition]).await?;
    rows.iter().map(|row| Ok((row.get("sensor")?, row.get("day")?))).collect()
}

/// Every marked day, taken or not.
pub(crate) async fn all(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<HashSet<SensorDay>> {
    let sql = "SELECT DISTINCT sensor, day FROM rollup_days WHERE organisation = ?";
    let rows = read.query(sql, params![organisation]).await?;
    rows.iter().map(|row| Ok((row.get("sensor")?, row.get("day")?))).collect()
}

/// Marks days that have new readings; they are not among [`marks`].
pub(crate) async fn mark(
    tx: &mut Tx,
    organisation: OrganisationId,
    partition: u32,
    days: &[SensorDay],
) -> Result<()> {
    put(tx, organisation, i64::from(partition), days).await
}

async fn put(
    tx: &mut Tx,
    organisation: OrganisationId,
    part: i64,
    days: &[SensorDay],
) -> Result<()> {
    for (sensor, day) in days {
        let sql = "INSERT INTO rollup_days (organisation, sensor, day, part) VALUES (?, ?, ?, ?)";
        tx.execute(sql, params![organisation, sensor, day, part]).await?;
    }
    Ok(())
}

/// Marks the days that a sensor had before days were marked, once.
pub(crate) async fn found(
    tx: &mut Tx,
    organisation: OrganisationId,
    sensor: &str,
    days: &BTreeSet<i64>,
) -> Result<()> {
    let sql = "SELECT sensor FROM rollup_sensors WHERE organisation = ? AND sensor = ?";
    if tx.query_optional(sql, params![organisation, sensor]).await?.is_some() {
        return Ok(());
    }
    let days: Vec<SensorDay> = days.iter().map(|day| (sensor.to_owned(), *day)).collect();
    put(tx, organisation, FOUND, &days).await?;
    let sql = "INSERT INTO rollup_sensors (organisation, sensor, forgotten) VALUES (?, ?, ?)";
    tx.execute(sql, params![organisation, sensor, i64::MIN]).await?;
    Ok(())
}

/// From when on the readings of each sensor are kept, where that was ever looked at.
pub(crate) async fn forgotten(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<HashMap<String, Timestamp>> {
    let sql = "SELECT sensor, forgotten FROM rollup_sensors WHERE organisation = ?";
    let rows = read.query(sql, params![organisation]).await?;
    rows.iter().map(|row| Ok((row.get("sensor")?, row.get("forgotten")?))).collect()
}

/// Says that readings before this are no longer taken.
pub(crate) async fn forget(
    tx: &mut Tx,
    organisation: OrganisationId,
    sensor: &str,
    before: Timestamp,
) -> Result<()> {
    let sql = "UPDATE rollup_sensors SET forgotten = ? \
               WHERE organisation = ? AND sensor = ? AND forgotten < ?";
    tx.execute(sql, params![before, organisation, sensor, before]).await?;
    Ok(())
}

/// Takes some marked days of a sensor, the oldest first, with those that were taken and not finished.
pub(crate) async fn take(
    tx: &mut Tx,
    organisation: OrganisationId,
    (sensor, days): (&str, &Range<i64>),
    most: usize,
) -> Result<Vec<i64>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let sql = "SELECT DISTINCT day FROM rollup_days \
               WHERE organisation = ? AND sensor = ? AND day >= ? AND day < ? ORDER BY day LIMIT ?";
    let rows = tx.query(sql, params![organisation, sensor, days.start, days.end, most]).await?;
    let days: Vec<i64> = rows.iter().map(|row| Ok(row.get("day")?)).collect::<Result<_>>()?;
    for day in &days {
        let sql = "DELETE FROM rollup_days WHERE organisation = ? AND sensor = ? AND day = ?";
        tx.execute(sql, params![organisation, sensor, day]).await?;
        put(tx, organisation, TAKEN, &[(sensor.to_owned(), *day)]).await?;
    }
    Ok(days)
}

/// The day is rolled up, as far as it was there when it was taken.
pub(crate) async fn finish(
    tx: &mut Tx,
    organisation: OrganisationId,
    sensor: &str,
    day: i64,
) -> Result<()> {
    let sql = "DELETE FROM rollup_days \
               WHERE organisation = ? AND sensor = ? AND day = ? AND part = ?";
    tx.execute(sql, params![organisation, sensor, day, TAKEN]).await?;
    Ok(())
}

/// The days of a sensor whose roll-ups lack something, in order.
pub(crate) async fn waiting(
    read: &mut Read,
    organisation: OrganisationId,
    sensor: &str,
) -> Result<BTreeSet<i64>> {
    let sql = "SELECT DISTINCT day FROM rollup_days WHERE organisation = ? AND sensor = ?";
    let rows = read.query(sql, params![organisation, sensor]).await?;
    rows.iter().map(|row| Ok(row.get("day")?)).collect()
}
