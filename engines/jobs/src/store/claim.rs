//! Which jobs a worker gets: lanes in turn, so that an organisation with a million of them takes no more than
//! its share; in each lane by priority, then in the order in which they were enqueued.

use base::Timestamp;
use relational::{Tx, Value, params};

use crate::kind::Kinds;
use crate::store::{self, COLUMNS, Claimed, LANE, gates};
use crate::{Error, JobId};

/// Who claims, and how much.
pub(crate) struct Wanted<'a> {
    pub(crate) kinds: &'a Kinds,
    /// Where the claimed ones go.
    pub(crate) place: &'a str,
    pub(crate) now: Timestamp,
    pub(crate) count: usize,
    pub(crate) lanes_max: usize,
    /// The lane that was served last.
    pub(crate) after: &'a str,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) claimed: Vec<Claimed>,
    /// The lane to go on behind.
    pub(crate) after: String,
    /// There may be more.
    pub(crate) is_more: bool,
}

/// Timers that one commit moves.
const TIMERS_MAX: i64 = 1_000;

/// Each step is one look into the index, however many jobs a lane has.
const LANES: &str = "WITH RECURSIVE walk (lane) AS (
        SELECT MIN(place) FROM job WHERE place > ? AND place < '~'
        UNION ALL
        SELECT (SELECT MIN(job.place) FROM job WHERE job.place > walk.lane AND job.place < '~')
        FROM walk WHERE walk.lane IS NOT NULL
    )
    SELECT walk.lane AS lane FROM walk WHERE walk.lane IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM job_pause WHERE job_pause.lane = walk.lane)
    LIMIT ?";

/// Puts those whose time has come into their lanes. Says whether there may be more.
pub(crate) async fn promote(tx: &mut Tx, now: Timestamp) -> Result<bool, Error> {
    let due = "SELECT job FROM job_timer WHERE due <= ? ORDER BY due, job LIMIT ?";
    let rows = tx.query(due, params![now, TIMERS_MAX]).await?;
    let ids = rows.iter().map(|row| row.get("job")).collect::<Result<Vec<JobId>, _>>()?;
    let ready = format!(
        "UPDATE job SET state = 'ready', place = {LANE} WHERE state = 'scheduled' AND id IN"
    );
    store::for_ids_later(tx, &ready, &[], &ids).await?;
    forget_timers(tx, &ids).await?;
    Ok(i64::try_from(rows.len()).is_ok_and(|moved| moved == TIMERS_MAX))
}

async fn forget_timers(tx: &mut Tx, ids: &[JobId]) -> Result<(), Error> {
    store::for_ids_later(tx, "DELETE FROM job_timer WHERE job IN", &[], ids).await
}

/// Claims what is ready.
pub(crate) async fn ready(tx: &mut Tx, wanted: &Wanted<'_>) -> Result<Found, Error> {
    let mut lanes = lanes(tx, wanted.after, wanted.lanes_max).await?;
    if lanes.len() < wanted.lanes_max && !wanted.after.is_empty() {
        let mut before = self::lanes(tx, "", wanted.lanes_max - lanes.len()).await?;
        before.retain(|lane| lane.as_str() <= wanted.after);
        lanes.extend(before);
    }
    let count = lanes.len().min(wanted.count);
    if count == 0 {
        return Ok(Found::default());
    }
    let is_cut = count < lanes.len() || count == wanted.lanes_max;
    lanes.truncate(count);
    let share = wanted.count / count;
    let candidates = candidates(tx, wanted, &lanes, share).await?;
    let is_more = is_cut || candidates.len() >= share;
    let passed = gates::pass(tx, wanted.kinds, candidates).await?;
    let claimed = take(tx, wanted, passed).await?;
    let after = if is_cut { lanes.pop().unwrap_or_default() } else { String::new() };
    Ok(Found { claimed, after, is_more })
}

async fn lanes(tx: &mut Tx, after: &str, max: usize) -> Result<Vec<String>, Error> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = tx.query(LANES, params![after, max]).await?;
    Ok(rows.iter().map(|row| row.get("lane")).collect::<Result<_, _>>()?)
}

/// The first `share` jobs of each lane. Kinds that only another version knows are left to it.
async fn candidates(
    tx: &mut Tx,
    wanted: &Wanted<'_>,
    lanes: &[String],
    share: usize,
) -> Result<Vec<Claimed>, Error> {
    let names = wanted.kinds.names();
    let marks = vec!["?"; names.len()].join(", ");
    let share = i64::try_from(share).unwrap_or(i64::MAX);
    let mut values = Vec::new();
    // Filled up with empty questions, so that few statements are prepared.
    let parts = (0..lanes.len().next_power_of_two()).map(|number| {
        let (lane, limit) = lanes.get(number).map_or((&lanes[0], 0), |lane| (lane, share));
        values.push(Value::from(lane));
        values.extend(names.iter().map(|name| Value::from(*name)));
        values.push(Value::from(limit));
        format!(
            "SELECT * FROM (SELECT {COLUMNS} FROM job WHERE place = ? AND kind IN ({marks})
            ORDER BY priority, id LIMIT ?) AS lane{number}"
        )
    });
    let sql = parts.collect::<Vec<_>>().join(" UNION ALL ");
    tx.query(&sql, &values).await?.iter().map(Claimed::of).collect()
}

/// Makes them this worker's, each under the next number.
async fn take(
    tx: &mut Tx,
    wanted: &Wanted<'_>,
    mut claimed: Vec<Claimed>,
) -> Result<Vec<Claimed>, Error> {
    let ids: Vec<JobId> = claimed.iter().map(|claimed| claimed.id).collect();
    let update = "UPDATE job SET state = 'running', place = ?, attempt = attempt + 1, claimed = ?
        WHERE id IN";
    let changed = store::for_ids(tx, update, params![wanted.place, wanted.now], &ids).await?;
    if changed != ids.len() as u64 {
        return Err(Error::Rows(relational::Error::Conflict));
    }
    for claimed in &mut claimed {
        claimed.attempt += 1;
        claimed.began = wanted.now;
    }
    Ok(claimed)
}

/// Claims delayed jobs a little before their time; the worker begins them when it comes. Jobs with gates come through
/// their lanes only.
pub(crate) async fn ahead(
    tx: &mut Tx,
    wanted: &Wanted<'_>,
    until: Timestamp,
) -> Result<Found, Error> {
    let all = wanted.kinds.all();
    let free = all.iter().filter(|kind| kind.options.running_max.is_none());
    let names: Vec<&str> = free.map(|kind| kind.name).collect();
    if names.is_empty() || wanted.count == 0 {
        return Ok(Found::default());
    }
    let marks = vec!["?"; names.len()].join(", ");
    let soon = "SELECT job FROM job_timer WHERE due > ? AND due <= ? ORDER BY due, job LIMIT ?";
    let count = i64::try_from(wanted.count).unwrap_or(i64::MAX);
    let rows = tx.query(soon, params![wanted.now, until, count]).await?;
    let soon = rows.iter().map(|row| row.get("job")).collect::<Result<Vec<JobId>, _>>()?;
    // Two questions, since a join of an unknown number of timers makes PostgreSQL read all jobs.
    let sql = format!(
        "SELECT {COLUMNS} FROM job WHERE kind IN ({marks}) AND concurrency IS NULL AND state = 'scheduled'
        AND NOT EXISTS (SELECT 1 FROM job_pause WHERE job_pause.lane = {LANE}) AND id IN"
    );
    let kinds: Vec<Value> = names.iter().map(|name| Value::from(*name)).collect();
    let rows = store::rows_of_ids(tx, &sql, &kinds, &soon).await?;
    let candidates = rows.iter().map(Claimed::of).collect::<Result<Vec<_>, _>>()?;
    let claimed = take(tx, wanted, candidates).await?;
    let ids: Vec<JobId> = claimed.iter().map(|claimed| claimed.id).collect();
    forget_timers(tx, &ids).await?;
    let is_more = claimed.len() >= wanted.count;
    Ok(Found { claimed, after: String::new(), is_more })
}
