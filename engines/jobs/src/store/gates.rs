//! How many jobs of a kind, or of a key, run at the same time: counted from the rows whenever it is asked.

use std::collections::HashMap;

use base::OrganisationId;
use relational::{Tx, params};

use crate::kind::Kinds;
use crate::store::{self, Claimed, LANE};
use crate::{Error, JobId};

const WAITS: i64 = 0;
const RUNS: i64 = 1;
pub(crate) const HELD_BACK: i64 = 2;
/// Gates that one sweep looks at.
const SWEPT_MAX: i64 = 500;

/// The gates that a job goes through.
pub(crate) fn names(
    kinds: &Kinds,
    organisation: OrganisationId,
    kind: &str,
    concurrency: Option<&str>,
) -> Vec<String> {
    let of_key = concurrency.map(|key| format!("key/{organisation}/{kind}/{key}"));
    let is_limited = kinds.find(kind).is_some_and(|kind| kind.options.running_max.is_some());
    let of_kind = is_limited.then(|| format!("kind/{kind}"));
    of_kind.into_iter().chain(of_key).collect()
}

fn of(kinds: &Kinds, claimed: &Claimed) -> Vec<String> {
    names(kinds, claimed.organisation, &claimed.kind, claimed.concurrency.as_deref())
}

/// How many a gate lets through at the same time.
fn max_of(kinds: &Kinds, gate: &str) -> u64 {
    let kind = match gate.split('/').collect::<Vec<_>>()[..] {
        ["kind", kind] | ["key", _, kind, ..] => kinds.find(kind),
        _ => None,
    };
    let Some(kind) = kind else { return u64::MAX };
    let is_of_kind = gate.starts_with("kind/");
    let options = &kind.options;
    let limit = if is_of_kind { options.running_max } else { Some(options.per_key_max) };
    limit.map_or(u64::MAX, u64::from)
}

async fn running(tx: &mut Tx, gate: &str) -> Result<u64, Error> {
    // Who ended a job without knowing its kind left its gate as it was.
    let count = "SELECT COUNT(*) AS running FROM job_gate JOIN job ON job.id = job_gate.job
        WHERE job_gate.state = ? AND job_gate.gate = ? AND job.state = 'running'";
    Ok(tx.query_one(count, params![RUNS, gate]).await?.get("running")?)
}

/// Lets candidates through as far as their gates allow, and holds the others back until one in front ends.
pub(crate) async fn pass(
    tx: &mut Tx,
    kinds: &Kinds,
    candidates: Vec<Claimed>,
) -> Result<Vec<Claimed>, Error> {
    let mut free: HashMap<String, u64> = HashMap::new();
    let (mut passed, mut held_back) = (Vec::with_capacity(candidates.len()), Vec::new());
    for claimed in candidates {
        let gates = of(kinds, &claimed);
        for gate in &gates {
            if !free.contains_key(gate) {
                let running = running(tx, gate).await?;
                free.insert(gate.clone(), max_of(kinds, gate).saturating_sub(running));
            }
        }
        if let Some(full) = gates.iter().find(|gate| free.get(*gate) == Some(&0)) {
            set(tx, full, &claimed, HELD_BACK).await?;
            held_back.push(claimed.id);
            continue;
        }
        for gate in &gates {
            free.entry(gate.clone()).and_modify(|free| *free -= 1);
            set(tx, gate, &claimed, RUNS).await?;
        }
        passed.push(claimed);
    }
    let hold = "UPDATE job SET state = 'limited', place = NULL WHERE id IN";
    store::for_ids_later(tx, hold, &[], &held_back).await?;
    Ok(passed)
}

async fn set(tx: &mut Tx, gate: &str, claimed: &Claimed, state: i64) -> Result<(), Error> {
    let update = "UPDATE job_gate SET state = ? WHERE gate = ? AND job = ?";
    if tx.execute(update, params![state, gate, claimed.id]).await? == 0 {
        // It was enqueued before there was a limit.
        let insert = "INSERT INTO job_gate (gate, job, priority, state) VALUES (?, ?, ?, ?)";
        tx.execute(insert, params![gate, claimed.id, claimed.priority, state]).await?;
    }
    Ok(())
}

/// A job that runs no more frees its places for those that were held back.
pub(crate) async fn leave(
    tx: &mut Tx,
    kinds: &Kinds,
    claimed: &Claimed,
    is_finished: bool,
) -> Result<(), Error> {
    for gate in of(kinds, claimed) {
        if is_finished {
            let delete = "DELETE FROM job_gate WHERE gate = ? AND job = ?";
            tx.execute(delete, params![gate, claimed.id]).await?;
        } else {
            set(tx, &gate, claimed, WAITS).await?;
        }
        release(tx, kinds, &gate).await?;
    }
    Ok(())
}

/// Puts as many as there is room for back into their lanes.
async fn release(tx: &mut Tx, kinds: &Kinds, gate: &str) -> Result<(), Error> {
    let free = max_of(kinds, gate).saturating_sub(running(tx, gate).await?);
    let free = i64::try_from(free).unwrap_or(SWEPT_MAX).min(SWEPT_MAX);
    if free == 0 {
        return Ok(());
    }
    let next =
        "SELECT job FROM job_gate WHERE state = ? AND gate = ? ORDER BY priority, job LIMIT ?";
    let rows = tx.query(next, params![HELD_BACK, gate, free]).await?;
    let ids = rows.iter().map(|row| row.get("job")).collect::<Result<Vec<JobId>, _>>()?;
    let free =
        format!("UPDATE job SET state = 'ready', place = {LANE} WHERE state = 'limited' AND id IN");
    store::for_ids_later(tx, &free, &[], &ids).await?;
    let wait = "UPDATE job_gate SET state = ? WHERE gate = ? AND job IN";
    store::for_ids_later(tx, wait, params![WAITS, gate], &ids).await
}

/// Looks at the gates that hold jobs back: a limit may have been raised, or the job in front may be gone.
pub(crate) async fn sweep(tx: &mut Tx, kinds: &Kinds) -> Result<(), Error> {
    let stale = "DELETE FROM job_gate WHERE state = ? AND NOT EXISTS
        (SELECT 1 FROM job WHERE job.id = job_gate.job AND job.state = 'running')";
    tx.execute(stale, params![RUNS]).await?;
    let full = "SELECT DISTINCT gate FROM job_gate WHERE state = ? LIMIT ?";
    for row in tx.query(full, params![HELD_BACK, SWEPT_MAX]).await? {
        release(tx, kinds, &row.get::<String>("gate")?).await?;
    }
    Ok(())
}
