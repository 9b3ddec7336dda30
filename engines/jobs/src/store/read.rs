//! Lists.

use std::collections::{BTreeMap, HashMap};

use base::{OrganisationId, Page, PageRequest, Timestamp};
use relational::{Read, Row, Value, params};

use crate::graph::{Run, RunDetail, run_state};
use crate::job::{made, named};
use crate::store::deeds::state_of;
use crate::store::{self, gates, lane};
use crate::{AttemptRecord, Error, Job, JobId, Outcome, Priority, RunId, State};
use std::fmt;

const COLUMNS: &str = "id, organisation, kind, queue, priority, state, payload, created, due, attempt, claimed, \
    finished, cancel, unique_key, concurrency, run, task, last_error";

fn job_of(row: &Row, now: Timestamp) -> Result<Job, Error> {
    let (state, due): (State, Timestamp) = (state_of(row)?, row.get("due")?);
    // A worker holds it already, so that it begins on time.
    let state = if state == State::Running && due > now { State::Scheduled } else { state };
    Ok(Job {
        id: row.get("id")?,
        organisation: row.get("organisation")?,
        kind: row.get("kind")?,
        queue: row.get("queue")?,
        priority: Priority::numbered(row.get("priority")?),
        state,
        payload: row.get("payload")?,
        created: row.get("created")?,
        due,
        attempts: row.get("attempt")?,
        claimed: row.get("claimed")?,
        finished: row.get("finished")?,
        is_cancelling: state == State::Running && row.get("cancel")?,
        key: row.get("unique_key")?,
        concurrency_key: row.get("concurrency")?,
        run: row.get("run")?,
        task: row.get("task")?,
        last_error: row.get("last_error")?,
    })
}

/// Which of an organisation's jobs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub state: Option<State>,
    pub kind: Option<String>,
    pub queue: Option<String>,
}

/// Newest first. Each state has its part of one index, so all states are as many looks.
pub(crate) async fn page(
    read: &mut Read,
    organisation: OrganisationId,
    filter: &Filter,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Page<Job>, Error> {
    let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX);
    let after = match &page.after {
        Some(after) => after.parse::<JobId>().map_err(|_| Error::Cursor)?.to_string(),
        // Behind every id.
        None => "g".to_owned(),
    };
    let states = filter.state.map_or_else(|| State::ALL.to_vec(), |state| vec![state]);
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for state in states {
        let mut part = format!(
            "SELECT * FROM (SELECT {COLUMNS} FROM job WHERE organisation = ? AND state = ? AND id < ?"
        );
        values.extend([organisation.into(), state.name().into(), Value::from(after.clone())]);
        for (column, wanted) in [("kind", &filter.kind), ("queue", &filter.queue)] {
            if let Some(wanted) = wanted {
                part.extend([" AND ", column, " = ?"]);
                values.push(Value::from(wanted));
            }
        }
        part.extend([" ORDER BY id DESC LIMIT ?) AS ", state.name()]);
        values.push(Value::Int(i64::try_from(limit + 1).unwrap_or(i64::MAX)));
        parts.push(part);
    }
    let rows = read.query(&parts.join(" UNION ALL "), &values).await?;
    let mut jobs = rows.iter().map(|row| job_of(row, now)).collect::<Result<Vec<_>, _>>()?;
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    Ok(Page::of(jobs, limit, |job| job.id.to_string()))
}

pub(crate) async fn one(
    read: &mut Read,
    organisation: OrganisationId,
    id: JobId,
    now: Timestamp,
) -> Result<Job, Error> {
    let sql = format!("SELECT {COLUMNS} FROM job WHERE organisation = ? AND id = ?");
    let row = read.query_optional(&sql, params![organisation, id]).await?;
    job_of(&row.ok_or(Error::NoJob(id))?, now)
}

/// The newest attempts, the newest last.
pub(crate) async fn attempts(read: &mut Read, id: JobId) -> Result<Vec<AttemptRecord>, Error> {
    let sql = "SELECT attempt, began, ended, outcome, error, log FROM job_attempt
        WHERE job = ? ORDER BY attempt DESC LIMIT ?";
    let rows = read.query(sql, params![id, ATTEMPTS_LISTED]).await?;
    let mut attempts = rows.iter().map(attempt_of).collect::<Result<Vec<_>, _>>()?;
    attempts.reverse();
    Ok(attempts)
}

const ATTEMPTS_LISTED: i64 = 100;

fn attempt_of(row: &Row) -> Result<AttemptRecord, Error> {
    let outcome: String = row.get("outcome")?;
    Ok(AttemptRecord {
        number: row.get("attempt")?,
        began: row.get("began")?,
        ended: row.get("ended")?,
        outcome: Outcome::named(&outcome).ok_or_else(|| store::unknown("outcome"))?,
        error: row.get("error")?,
        log: row.get::<Option<String>>("log")?.unwrap_or_default(),
    })
}

/// How many of an organisation's jobs stand how; of each state at most [`COUNTED_MAX`] are counted.
pub(crate) async fn counts(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<BTreeMap<State, u64>, Error> {
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for state in State::ALL {
        let name = state.name();
        parts.push(format!(
            "SELECT '{name}' AS state, COUNT(*) AS number FROM
            (SELECT id FROM job WHERE organisation = ? AND state = ? LIMIT ?) AS {name}"
        ));
        values.extend([organisation.into(), Value::from(name), Value::from(COUNTED_MAX)]);
    }
    let mut counts = BTreeMap::new();
    for row in read.query(&parts.join(" UNION ALL "), &values).await? {
        counts.insert(state_of(&row)?, row.get("number")?);
    }
    Ok(counts)
}

/// As far as a state's jobs are counted for people.
pub const COUNTED_MAX: i64 = 10_000;

named! {
    /// Whether workers take jobs of a queue.
    QueueState { Running = "running", Paused = "paused" }
}

/// An organisation's jobs of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub state: QueueState,
    /// Since when it is paused.
    pub since: Option<Timestamp>,
    /// Jobs that could begin; at most [`COUNTED_MAX`] are counted.
    pub ready: u64,
    /// When the oldest of them was enqueued.
    pub oldest: Option<Timestamp>,
}

pub(crate) async fn queues(
    read: &mut Read,
    organisation: OrganisationId,
    known: Vec<String>,
) -> Result<Vec<Queue>, Error> {
    let paused = "SELECT queue, since FROM job_pause WHERE organisation = ? ORDER BY queue";
    let rows = read.query(paused, params![organisation]).await?;
    let mut names = known;
    let mut since: HashMap<String, Timestamp> = HashMap::new();
    for row in &rows {
        let name: String = row.get("queue")?;
        names.push(name.clone());
        since.insert(name, row.get("since")?);
    }
    names.sort();
    names.dedup();
    let mut queues = Vec::with_capacity(names.len());
    for name in names {
        let place = lane(&name, organisation);
        let count = "SELECT COUNT(*) AS number, MIN(id) AS oldest FROM
            (SELECT id FROM job WHERE place = ? LIMIT ?) AS some";
        let row = read.query_one(count, params![place, COUNTED_MAX]).await?;
        let since = since.get(&name).copied();
        let state = if since.is_some() { QueueState::Paused } else { QueueState::Running };
        let oldest: Option<JobId> = row.get("oldest")?;
        let ready = row.get("number")?;
        queues.push(Queue { name, state, since, ready, oldest: oldest.map(made) });
    }
    Ok(queues)
}

/// What waits, for metrics and limits: by lane, and what is in none by organisation.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) lanes: Vec<(String, u64, Option<JobId>)>,
    pub(crate) delayed: Vec<(OrganisationId, u64)>,
    /// Held back by a limit.
    pub(crate) limited: Vec<(OrganisationId, u64)>,
}

pub(crate) async fn waiting(read: &mut Read) -> Result<Waiting, Error> {
    let lanes = "SELECT place, COUNT(*) AS number, MIN(id) AS oldest FROM job
        WHERE place > '' AND place < '~' GROUP BY place";
    let mut waiting = Waiting::default();
    for row in read.query(lanes, &[]).await? {
        waiting.lanes.push((row.get("place")?, row.get("number")?, row.get("oldest")?));
    }
    let delayed = "SELECT organisation, COUNT(*) AS number FROM job_timer GROUP BY organisation";
    for row in read.query(delayed, &[]).await? {
        waiting.delayed.push((row.get("organisation")?, row.get("number")?));
    }
    let limited = "SELECT job.organisation AS organisation, COUNT(*) AS number
        FROM job_gate JOIN job ON job.id = job_gate.job
        WHERE job_gate.state = ? GROUP BY job.organisation";
    for row in read.query(limited, params![gates::HELD_BACK]).await? {
        waiting.limited.push((row.get("organisation")?, row.get("number")?));
    }
    Ok(waiting)
}

/// What a server has to look after: when a timer or a schedule is due, and whether something is ready.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) timer: Option<Timestamp>,
    pub(crate) schedule: Option<Timestamp>,
    pub(crate) is_ready: bool,
}

pub(crate) async fn look(read: &mut Read) -> Result<Look, Error> {
    let timer = read.query_one("SELECT MIN(due) AS due FROM job_timer", &[]).await?;
    let schedule = read.query_one("SELECT MIN(next) AS next FROM job_schedule", &[]).await?;
    let ready = "SELECT MIN(place) AS place FROM job WHERE place > '' AND place < '~'";
    let ready = read.query_one(ready, &[]).await?;
    Ok(Look {
        timer: timer.get("due")?,
        schedule: schedule.get("next")?,
        is_ready: ready.get::<Option<String>>("place")?.is_some(),
    })
}

pub(crate) async fn runs(
    read: &mut Read,
    organisation: OrganisationId,
    page: &PageRequest,
) -> Result<Page<Run>, Error> {
    let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX);
    let after = match &page.after {
        Some(after) => after.parse::<RunId>().map_err(|_| Error::Cursor)?.to_string(),
        None => "g".to_owned(),
    };
    let sql = "SELECT id, organisation, name, created FROM job_run
        WHERE organisation = ? AND id < ? ORDER BY id DESC LIMIT ?";
    let count = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let rows = read.query(sql, params![organisation, after, count]).await?;
    let ids = rows.iter().map(|row| row.get("id")).collect::<Result<Vec<RunId>, _>>()?;
    let mut tasks: HashMap<RunId, BTreeMap<State, u64>> = HashMap::new();
    if !ids.is_empty() {
        let marks = vec!["?"; ids.len()].join(", ");
        let states = format!(
            "SELECT job_task.run AS of_run, job.state AS state, COUNT(*) AS number
            FROM job_task JOIN job ON job.id = job_task.job
            WHERE job_task.run IN ({marks}) GROUP BY job_task.run, job.state"
        );
        let values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
        for row in read.query(&states, &values).await? {
            let of_run = tasks.entry(row.get("of_run")?).or_default();
            of_run.insert(state_of(&row)?, row.get("number")?);
        }
    }
    let with_tasks = |(row, id): (&Row, &RunId)| run_of(row, tasks.remove(id).unwrap_or_default());
    let runs = rows.iter().zip(&ids).map(with_tasks).collect::<Result<Vec<_>, _>>()?;
    Ok(Page::of(runs, limit, |run| run.id.to_string()))
}

fn run_of(row: &Row, tasks: BTreeMap<State, u64>) -> Result<Run, Error> {
    Ok(Run {
        id: row.get("id")?,
        organisation: row.get("organisation")?,
        name: row.get("name")?,
        created: row.get("created")?,
        state: run_state(&tasks),
        tasks,
    })
}

pub(crate) async fn run(
    read: &mut Read,
    organisation: OrganisationId,
    id: RunId,
    now: Timestamp,
) -> Result<RunDetail, Error> {
    let sql =
        "SELECT id, organisation, name, created FROM job_run WHERE organisation = ? AND id = ?";
    let row = read.query_optional(sql, params![organisation, id]).await?.ok_or(Error::NoRun(id))?;
    let jobs = format!(
        "SELECT {COLUMNS} FROM job WHERE id IN (SELECT job FROM job_task WHERE job_task.run = ?)
        ORDER BY id"
    );
    let rows = read.query(&jobs, params![id]).await?;
    let tasks = rows.iter().map(|row| job_of(row, now)).collect::<Result<Vec<_>, _>>()?;
    let name_of = |id: JobId| {
        let task = tasks.iter().find(|task| task.id == id);
        task.and_then(|task| task.task.clone()).unwrap_or_default()
    };
    let edges = read.query("SELECT job, next FROM job_edge WHERE run = ?", params![id]).await?;
    let edges = edges.iter().map(|row| Ok((name_of(row.get("job")?), name_of(row.get("next")?))));
    let edges = edges.collect::<Result<Vec<_>, relational::Error>>()?;
    let mut counts = BTreeMap::new();
    for task in &tasks {
        *counts.entry(task.state).or_default() += 1;
    }
    Ok(RunDetail { run: run_of(&row, counts)?, tasks, edges })
}
