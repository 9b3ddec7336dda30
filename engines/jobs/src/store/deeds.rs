//! What people do to jobs.

use base::{OrganisationId, Timestamp};
use relational::{Row, Tx, params};

use crate::kind::Kinds;
use crate::store::ends::{Writer, unlink};
use crate::store::{self, COLUMNS, Claimed, runs};
use crate::{Error, JobId, State};

struct Standing {
    claimed: Claimed,
    state: State,
    place: Option<String>,
}

async fn standing(tx: &mut Tx, organisation: OrganisationId, id: JobId) -> Result<Standing, Error> {
    let sql = format!("SELECT {COLUMNS}, state, place FROM job WHERE organisation = ? AND id = ?");
    let row = tx.query_optional(&sql, params![organisation, id]).await?.ok_or(Error::NoJob(id))?;
    Ok(Standing { claimed: Claimed::of(&row)?, state: state_of(&row)?, place: row.get("place")? })
}

pub(crate) fn state_of(row: &Row) -> Result<State, Error> {
    let name: String = row.get("state")?;
    State::named(&name).ok_or_else(|| store::unknown("state"))
}

async fn forget_timer(tx: &mut Tx, claimed: &Claimed) -> Result<(), Error> {
    let delete = "DELETE FROM job_timer WHERE due = ? AND job = ?";
    tx.execute(delete, params![claimed.due, claimed.id]).await?;
    Ok(())
}

/// How a job was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not begun, and does not begin.
    AtOnce,
    /// It runs and was asked to stop.
    Asked,
}

pub(crate) async fn cancel(
    tx: &mut Tx,
    kinds: &Kinds,
    (organisation, id): (OrganisationId, JobId),
    now: Timestamp,
) -> Result<Cancelled, Error> {
    let Standing { claimed, state, .. } = standing(tx, organisation, id).await?;
    match state {
        State::Running => {
            tx.execute("UPDATE job SET cancel = 1 WHERE id = ?", params![id]).await?;
            return Ok(Cancelled::Asked);
        }
        State::Scheduled => forget_timer(tx, &claimed).await?,
        State::Ready | State::Limited | State::Waiting => {}
        state => return Err(Error::WrongState { id, state, deed: "cancelled" }),
    }
    let update = "UPDATE job SET state = 'cancelled', place = NULL, finished = ?, last_error = ?
        WHERE id = ?";
    tx.execute(update, params![now, "cancelled before it began", id]).await?;
    unlink(tx, Writer { kinds, place: "", now }, &claimed, State::Cancelled).await?;
    Ok(Cancelled::AtOnce)
}

/// Gives a job that ended undone a whole new set of attempts.
pub(crate) async fn retry(
    tx: &mut Tx,
    kinds: &Kinds,
    (organisation, id): (OrganisationId, JobId),
    now: Timestamp,
) -> Result<(), Error> {
    let Standing { claimed, state, .. } = standing(tx, organisation, id).await?;
    if !matches!(state, State::Dead | State::Cancelled | State::Discarded) {
        return Err(Error::WrongState { id, state, deed: "retried" });
    }
    kinds.get(&claimed.kind)?;
    if let Some(run) = claimed.run {
        // As one that was skipped it takes part in its run again, which says whether it can begin.
        let update =
            "UPDATE job SET meant = COALESCE(meant, due), state = 'skipped', place = NULL, due = ?,
            tries = 0, cancel = 0 WHERE id = ?";
        tx.execute(update, params![now, id]).await?;
        return runs::settle(tx, Writer { kinds, place: "", now }, run).await;
    }
    let update = "UPDATE job SET meant = COALESCE(meant, due), state = 'ready', place = ?, due = ?,
        tries = 0, cancel = 0, finished = NULL WHERE id = ?";
    tx.execute(update, params![claimed.lane, now, id]).await?;
    if let Some(key) = &claimed.key {
        take_key_again(tx, &claimed, key).await?;
    }
    Ok(())
}

/// Where another job has the key by now, this one goes on without.
async fn take_key_again(tx: &mut Tx, claimed: &Claimed, key: &str) -> Result<(), Error> {
    let taken = "SELECT job FROM job_key WHERE organisation = ? AND kind = ? AND unique_key = ?";
    let place = params![claimed.organisation, claimed.kind, key];
    if tx.query_optional(taken, place).await?.is_none() {
        let insert =
            "INSERT INTO job_key (organisation, kind, unique_key, job) VALUES (?, ?, ?, ?)";
        let row = params![claimed.organisation, claimed.kind, key, claimed.id];
        tx.execute(insert, row).await?;
    }
    Ok(())
}

/// Leaves a dead job undone.
pub(crate) async fn discard(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: JobId,
) -> Result<(), Error> {
    let Standing { state, .. } = standing(tx, organisation, id).await?;
    if state != State::Dead {
        return Err(Error::WrongState { id, state, deed: "discarded" });
    }
    tx.execute("UPDATE job SET state = 'discarded' WHERE id = ?", params![id]).await?;
    Ok(())
}

/// Lets a delayed job begin at once.
pub(crate) async fn run_now(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: JobId,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    let Standing { claimed, state, place } = standing(tx, organisation, id).await?;
    if state == State::Running && claimed.due > now {
        // A worker holds it until its time.
        return Ok(place);
    }
    if state != State::Scheduled {
        return Err(Error::WrongState { id, state, deed: "run now" });
    }
    forget_timer(tx, &claimed).await?;
    let update = "UPDATE job SET state = 'ready', place = ?, due = ? WHERE id = ?";
    tx.execute(update, params![claimed.lane, now, id]).await?;
    Ok(None)
}

/// Which finished jobs are old enough to go.
pub(crate) struct Old {
    pub(crate) states: [State; 3],
    pub(crate) finished_before: Timestamp,
    pub(crate) made_before: JobId,
    pub(crate) limit: i64,
}

/// Deletes jobs without a run that are old enough, some at a time; says how many.
pub(crate) async fn forget(tx: &mut Tx, old: &Old) -> Result<u64, Error> {
    let sql =
        "SELECT id FROM job WHERE id < ? AND state IN (?, ?, ?) AND finished < ? AND run IS NULL
        ORDER BY id LIMIT ?";
    let [one, two, three] = old.states.map(State::name);
    let given = params![old.made_before, one, two, three, old.finished_before, old.limit];
    let rows = tx.query(sql, given).await?;
    let ids = rows.iter().map(|row| row.get("id")).collect::<Result<Vec<JobId>, _>>()?;
    delete(tx, &ids).await
}

pub(crate) async fn delete(tx: &mut Tx, ids: &[JobId]) -> Result<u64, Error> {
    let keyed =
        "SELECT id, organisation, kind, unique_key FROM job WHERE unique_key IS NOT NULL AND id IN";
    for row in store::rows_of_ids(tx, keyed, &[], ids).await? {
        let (organisation, id): (OrganisationId, JobId) =
            (row.get("organisation")?, row.get("id")?);
        let (kind, key): (String, String) = (row.get("kind")?, row.get("unique_key")?);
        let delete = "DELETE FROM job_key
            WHERE organisation = ? AND kind = ? AND unique_key = ? AND job = ?";
        tx.execute(delete, params![organisation, kind, key, id]).await?;
    }
    store::for_ids_later(tx, "DELETE FROM job_attempt WHERE job IN", &[], ids).await?;
    store::for_ids(tx, "DELETE FROM job WHERE id IN", &[], ids).await
}

pub(crate) async fn pause(
    tx: &mut Tx,
    organisation: OrganisationId,
    queue: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let lane = store::lane(queue, organisation);
    let since = "SELECT since FROM job_pause WHERE lane = ?";
    if tx.query_optional(since, params![lane]).await?.is_none() {
        let insert = "INSERT INTO job_pause (lane, organisation, queue, since) VALUES (?, ?, ?, ?)";
        tx.execute(insert, params![lane, organisation, queue, now]).await?;
    }
    Ok(())
}

pub(crate) async fn resume(
    tx: &mut Tx,
    organisation: OrganisationId,
    queue: &str,
) -> Result<(), Error> {
    let lane = store::lane(queue, organisation);
    tx.execute("DELETE FROM job_pause WHERE lane = ?", params![lane]).await?;
    Ok(())
}
