//! Runs of graphs: which tasks come next.

use std::collections::HashMap;

use base::{OrganisationId, Timestamp};
use relational::{Row, Tx, Value, params};

use crate::graph::{Settled, Standing, settle as settled};
use crate::store::ends::Writer;
use crate::store::{self, LANE, gates};
use crate::{Error, JobId, RunId, State};

/// A run to be written: its tasks are in [`store::insert`].
pub(crate) struct NewRun {
    pub(crate) id: RunId,
    pub(crate) organisation: OrganisationId,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) tasks: Vec<(String, JobId)>,
    pub(crate) edges: Vec<(JobId, JobId)>,
}

pub(crate) async fn insert(tx: &mut Tx, new: NewRun) -> Result<(), Error> {
    let run = "INSERT INTO job_run (id, organisation, name, created) VALUES (?, ?, ?, ?)";
    tx.execute(run, params![new.id, new.organisation, new.name, new.created]).await?;
    let id = new.id;
    let tasks = new.tasks.into_iter().map(|(name, job)| vec![id.into(), name.into(), job.into()]);
    store::insert_all(tx, "job_task (run, name, job)", tasks.collect()).await?;
    let edges = new.edges.into_iter().map(|(job, next)| vec![id.into(), job.into(), next.into()]);
    store::insert_all(tx, "job_edge (run, job, next)", edges.collect()).await
}

/// Lets those begin that waited for this task alone.
pub(crate) async fn succeeded(
    tx: &mut Tx,
    run: RunId,
    task: JobId,
    now: Timestamp,
) -> Result<(), Error> {
    let next = "SELECT next FROM job_edge WHERE run = ? AND job = ?";
    let rows = tx.query(next, params![run, task]).await?;
    let next = rows.iter().map(|row| row.get("next")).collect::<Result<Vec<JobId>, _>>()?;
    let count = "UPDATE job SET waits = waits - 1 WHERE state = 'waiting' AND id IN";
    store::for_ids_later(tx, count, &[], &next).await?;
    let begin = format!(
        "UPDATE job SET state = 'ready', place = {LANE}, due = ?
        WHERE state = 'waiting' AND waits = 0 AND id IN"
    );
    store::for_ids_later(tx, &begin, params![now], &next).await
}

struct Task {
    standing: Standing,
    gates: Vec<String>,
}

/// Skips what can no more begin, and takes back what was skipped and can again.
pub(crate) async fn settle(tx: &mut Tx, writer: Writer<'_>, run: RunId) -> Result<(), Error> {
    let tasks = "SELECT job.id AS id, job_task.name AS name, job.state AS state, job.kind AS kind,
        job.organisation AS organisation, job.concurrency AS concurrency
        FROM job_task JOIN job ON job.id = job_task.job WHERE job_task.run = ?";
    let rows = tx.query(tasks, params![run]).await?;
    let tasks = rows.iter().map(|row| task(row, writer)).collect::<Result<Vec<_>, _>>()?;
    let edges = "SELECT job, next FROM job_edge WHERE run = ?";
    let rows = tx.query(edges, params![run]).await?;
    let edges = rows.iter().map(|row| Ok((row.get("job")?, row.get("next")?)));
    let edges = edges.collect::<Result<Vec<_>, relational::Error>>()?;
    let standing: Vec<Standing> = tasks.iter().map(|task| task.standing.clone()).collect();
    let by_id: HashMap<JobId, &Task> = tasks.iter().map(|task| (task.standing.id, task)).collect();
    for (id, settled) in settled(&standing, &edges) {
        let Some(task) = by_id.get(&id) else { continue };
        change(tx, writer.now, task, &settled).await?;
    }
    Ok(())
}

fn task(row: &Row, writer: Writer<'_>) -> Result<Task, Error> {
    let state: String = row.get("state")?;
    let state = State::named(&state).ok_or_else(|| store::unknown("state"))?;
    let (kind, concurrency): (String, Option<String>) = (row.get("kind")?, row.get("concurrency")?);
    let organisation = row.get("organisation")?;
    let gates = gates::names(writer.kinds, organisation, &kind, concurrency.as_deref());
    Ok(Task { standing: Standing { id: row.get("id")?, name: row.get("name")?, state }, gates })
}

async fn change(tx: &mut Tx, now: Timestamp, task: &Task, settled: &Settled) -> Result<(), Error> {
    let id = task.standing.id;
    match (settled, task.standing.state) {
        (Settled::Ready, _) => {
            let update = format!(
                "UPDATE job SET state = 'ready', place = {LANE}, due = ?, waits = 0, finished = NULL,
                last_error = NULL WHERE id = ?"
            );
            tx.execute(&update, params![now, id]).await?;
        }
        (Settled::Waiting { waits }, State::Skipped) => {
            let update =
                "UPDATE job SET state = 'waiting', place = NULL, waits = ?, finished = NULL,
                last_error = NULL WHERE id = ?";
            tx.execute(update, params![*waits, id]).await?;
        }
        (Settled::Skipped { reason }, State::Waiting) => {
            let update = "UPDATE job SET state = 'skipped', place = NULL, finished = ?,
                last_error = ? WHERE id = ?";
            tx.execute(update, params![now, reason, id]).await?;
            for gate in &task.gates {
                let delete = "DELETE FROM job_gate WHERE gate = ? AND job = ?";
                tx.execute(delete, params![gate, id]).await?;
            }
        }
        (Settled::Waiting { .. } | Settled::Skipped { .. }, _) => {}
    }
    Ok(())
}

/// Deletes runs of before the bound of which every task is finished; says how many rows went.
pub(crate) async fn forget(
    tx: &mut Tx,
    before: Timestamp,
    (oldest, limit): (RunId, i64),
) -> Result<u64, Error> {
    let old = "SELECT id FROM job_run WHERE id < ? AND NOT EXISTS (
            SELECT 1 FROM job_task JOIN job ON job.id = job_task.job
            WHERE job_task.run = job_run.id AND (job.finished IS NULL OR job.finished >= ?)
        ) ORDER BY id LIMIT ?";
    let mut gone = 0;
    for row in tx.query(old, params![oldest, before, limit]).await? {
        let run: RunId = row.get("id")?;
        let jobs = tx.query("SELECT job FROM job_task WHERE run = ?", params![run]).await?;
        let jobs = jobs.iter().map(|row| row.get("job")).collect::<Result<Vec<JobId>, _>>()?;
        gone += super::deeds::delete(tx, &jobs).await?;
        let of_run: &[Value] = params![run];
        tx.execute("DELETE FROM job_edge WHERE run = ?", of_run).await?;
        tx.execute("DELETE FROM job_task WHERE run = ?", of_run).await?;
        tx.execute("DELETE FROM job_run WHERE id = ?", of_run).await?;
    }
    Ok(gone)
}
