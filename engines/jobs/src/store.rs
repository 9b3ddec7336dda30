//! The rows of jobs, and the statements that every part of the room shares.
//!
//! `place` says in one index where a job stands: in its lane (`queue/organisation`) while it is ready, with its
//! worker (`~holder`) while it runs, and nowhere else. A claim takes it out of its lane and raises `attempt`; whatever an
//! attempt writes asks for both. Everything that few jobs have stands in a table of its own, so that a plain job
//! is three small changes of one row and a note of its attempt.

pub(crate) mod claim;
pub(crate) mod deeds;
pub(crate) mod ends;
pub(crate) mod gates;
pub(crate) mod read;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod workers;

use std::sync::Arc;

use base::{OrganisationId, Timestamp};
use relational::{Migration, Row, Tx, Value};

use crate::job::Lasts;
use crate::{Error, JobId, RunId, State};

pub(crate) const ROOM: &str = "jobs";

pub(crate) const MIGRATIONS: &[Migration] = &[JOBS, TIMERS_BY_JOB, MEANT];

// PostgreSQL looks for each job of a list through all timers of the span, when the key begins with the time.
const TIMERS_BY_JOB: Migration = Migration {
    id: "0002-timers-by-job",
    sql: "CREATE INDEX job_timer_by_job ON job_timer (job);",
};

const MEANT: Migration =
    Migration { id: "0003-meant", sql: "ALTER TABLE job ADD COLUMN meant BIGINT" };

const JOBS: Migration = Migration {
    id: "0001-jobs",
    // `attempt` counts the attempts begun and names the newest; `tries` counts those that failed. `waits` counts the
    // tasks before it that are not done. A gate is in state 0 with a job that waits, 1 with one that runs, and 2
    // with one that it holds back. `until_time` of a worker is 0 once it was taken for dead.
    sql: "
CREATE TABLE job (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    kind VARCHAR(100) NOT NULL,
    queue VARCHAR(60) NOT NULL,
    priority BIGINT NOT NULL,
    state VARCHAR(12) NOT NULL,
    place VARCHAR(100),
    payload BLOB NOT NULL,
    created BIGINT NOT NULL,
    due BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    claimed BIGINT,
    finished BIGINT,
    cancel BIGINT NOT NULL,
    unique_key VARCHAR(200),
    key_lasts BIGINT NOT NULL,
    concurrency VARCHAR(150),
    run VARCHAR(36),
    task VARCHAR(100),
    waits BIGINT NOT NULL,
    last_error TEXT
);
CREATE INDEX job_by_place ON job (place, priority, id);
CREATE INDEX job_by_state ON job (organisation, state, id);
CREATE TABLE job_timer (
    due BIGINT NOT NULL,
    job VARCHAR(36) NOT NULL,
    organisation VARCHAR(36) NOT NULL,
    PRIMARY KEY (due, job)
);
CREATE TABLE job_key (
    organisation VARCHAR(36) NOT NULL,
    kind VARCHAR(100) NOT NULL,
    unique_key VARCHAR(200) NOT NULL,
    job VARCHAR(36) NOT NULL,
    PRIMARY KEY (organisation, kind, unique_key)
);
CREATE TABLE job_gate (
    gate VARCHAR(300) NOT NULL,
    job VARCHAR(36) NOT NULL,
    priority BIGINT NOT NULL,
    state BIGINT NOT NULL,
    PRIMARY KEY (gate, job)
);
CREATE INDEX job_gate_by_state ON job_gate (state, gate, priority, job);
CREATE TABLE job_attempt (
    job VARCHAR(36) NOT NULL,
    attempt BIGINT NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT NOT NULL,
    outcome VARCHAR(12) NOT NULL,
    error TEXT,
    log TEXT,
    PRIMARY KEY (job, attempt)
);
CREATE TABLE job_worker (
    holder VARCHAR(36) NOT NULL PRIMARY KEY,
    opening VARCHAR(36) NOT NULL,
    until_time BIGINT NOT NULL
);
CREATE TABLE job_pause (
    lane VARCHAR(100) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    queue VARCHAR(60) NOT NULL,
    since BIGINT NOT NULL
);
CREATE TABLE job_run (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(100) NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX job_run_list ON job_run (organisation, id);
CREATE TABLE job_task (
    run VARCHAR(36) NOT NULL,
    name VARCHAR(100) NOT NULL,
    job VARCHAR(36) NOT NULL,
    PRIMARY KEY (run, name)
);
CREATE TABLE job_edge (
    run VARCHAR(36) NOT NULL,
    job VARCHAR(36) NOT NULL,
    next VARCHAR(36) NOT NULL,
    PRIMARY KEY (run, job, next)
);
CREATE TABLE job_schedule (
    organisation VARCHAR(36) NOT NULL,
    name VARCHAR(100) NOT NULL,
    kind VARCHAR(100) NOT NULL,
    payload BLOB NOT NULL,
    priority BIGINT NOT NULL,
    cron VARCHAR(200) NOT NULL,
    zone VARCHAR(100) NOT NULL,
    missed VARCHAR(12) NOT NULL,
    next BIGINT,
    last BIGINT,
    is_paused BIGINT NOT NULL,
    is_built_in BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, name)
);
CREATE INDEX job_schedule_by_next ON job_schedule (next);
",
};

/// A job to be written for the first time.
pub(crate) struct NewRow {
    pub(crate) id: JobId,
    pub(crate) organisation: OrganisationId,
    pub(crate) kind: String,
    pub(crate) queue: String,
    pub(crate) priority: i64,
    pub(crate) payload: Vec<u8>,
    pub(crate) created: Timestamp,
    pub(crate) due: Timestamp,
    pub(crate) key: Option<(String, Lasts)>,
    pub(crate) concurrency: Option<String>,
    pub(crate) gates: Vec<String>,
    pub(crate) run: Option<(RunId, String)>,
    pub(crate) waits: u32,
}

/// A job that this worker has for itself, under the number of the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) id: JobId,
    pub(crate) organisation: OrganisationId,
    pub(crate) kind: String,
    pub(crate) lane: Arc<str>,
    pub(crate) priority: i64,
    pub(crate) payload: Vec<u8>,
    pub(crate) created: Timestamp,
    pub(crate) due: Timestamp,
    /// `due` of the first attempt.
    pub(crate) meant: Timestamp,
    pub(crate) attempt: u32,
    /// Attempts before this one that failed.
    pub(crate) tries: u32,
    /// A key that ends with the job.
    pub(crate) key: Option<String>,
    pub(crate) concurrency: Option<String>,
    pub(crate) run: Option<RunId>,
    pub(crate) task: Option<String>,
    /// When the newest attempt was given to its worker.
    pub(crate) began: Timestamp,
    pub(crate) is_cancelled: bool,
}

/// What [`Claimed`] is read from.
pub(crate) const COLUMNS: &str = "id, organisation, kind, queue, priority, payload, created, due, \
    meant, attempt, tries, claimed, cancel, unique_key, key_lasts, concurrency, run, task";

impl NewRow {
    fn state(&self) -> State {
        match (self.waits, self.due > self.created) {
            (0, false) => State::Ready,
            (0, true) => State::Scheduled,
            _ => State::Waiting,
        }
    }
}

impl Claimed {
    /// As the row stands.
    pub(crate) fn of(row: &Row) -> Result<Self, Error> {
        let (organisation, queue): (OrganisationId, String) =
            (row.get("organisation")?, row.get("queue")?);
        let key_ends = row.get::<i64>("key_lasts")? == lasts_number(Lasts::WhileUnfinished);
        let key: Option<String> = row.get("unique_key")?;
        let due = row.get("due")?;
        Ok(Self {
            id: row.get("id")?,
            organisation,
            kind: row.get("kind")?,
            lane: lane(&queue, organisation).into(),
            priority: row.get("priority")?,
            payload: row.get("payload")?,
            created: row.get("created")?,
            due,
            meant: row.get::<Option<Timestamp>>("meant")?.unwrap_or(due),
            attempt: row.get("attempt")?,
            tries: row.get("tries")?,
            key: key.filter(|_| key_ends),
            concurrency: row.get("concurrency")?,
            run: row.get("run")?,
            task: row.get("task")?,
            began: row.get::<Option<Timestamp>>("claimed")?.unwrap_or(Timestamp::from_micros(0)),
            is_cancelled: row.get("cancel")?,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_test(id: JobId, lane: &str) -> Self {
        let moment = Timestamp::from_micros(0);
        Self {
            id,
            organisation: OrganisationId::DEFAULT,
            kind: "k".into(),
            lane: lane.into(),
            priority: 2,
            payload: Vec::new(),
            created: moment,
            due: moment,
            meant: moment,
            attempt: 1,
            tries: 0,
            key: None,
            concurrency: None,
            run: None,
            task: None,
            began: moment,
            is_cancelled: false,
        }
    }
}

/// Where an organisation's jobs of one queue wait. Names of queues have no `/`.
pub(crate) fn lane(queue: &str, organisation: OrganisationId) -> String {
    format!("{queue}/{organisation}")
}

/// Where a worker's jobs are; behind all lanes.
pub(crate) fn place_of(holder: &str) -> String {
    format!("~{holder}")
}

/// [`lane`] in a statement.
pub(crate) const LANE: &str = "queue || '/' || organisation";

/// Rows of one INSERT.
const INSERT_MAX: usize = 128;
/// Ids of one statement.
const IDS_MAX: usize = 512;

/// Inserts rows of equal width, many at a time, together with what follows. Only numbers of rows that are powers of two are said, so
/// that few statements are prepared.
pub(crate) async fn insert_all(
    tx: &mut Tx,
    into: &str,
    mut rows: Vec<Vec<Value>>,
) -> Result<(), Error> {
    let Some(width) = rows.first().map(Vec::len) else { return Ok(()) };
    let one = format!("({})", vec!["?"; width].join(", "));
    while !rows.is_empty() {
        let count = 1 << rows.len().min(INSERT_MAX).ilog2();
        let sql = format!("INSERT INTO {into} VALUES {}", vec![one.as_str(); count].join(", "));
        let values: Vec<Value> = rows.drain(rows.len() - count..).flatten().collect();
        tx.execute_later(&sql, &values).await?;
    }
    Ok(())
}

/// Runs a statement that ends in a list of ids (`… WHERE id IN`) for all of them; says how many rows it changed.
pub(crate) async fn for_ids(
    tx: &mut Tx,
    sql: &str,
    given: &[Value],
    ids: &[JobId],
) -> Result<u64, Error> {
    let mut changed = 0;
    for some in ids.chunks(IDS_MAX) {
        let (list, values) = list_of(given, some);
        changed += tx.execute(&format!("{sql} {list}"), &values).await?;
    }
    Ok(changed)
}

/// The same together with what follows, where nobody asks how many rows it changes.
pub(crate) async fn for_ids_later(
    tx: &mut Tx,
    sql: &str,
    given: &[Value],
    ids: &[JobId],
) -> Result<(), Error> {
    for some in ids.chunks(IDS_MAX) {
        let (list, values) = list_of(given, some);
        tx.execute_later(&format!("{sql} {list}"), &values).await?;
    }
    Ok(())
}

/// The rows of such a question.
pub(crate) async fn rows_of_ids(
    tx: &mut Tx,
    sql: &str,
    given: &[Value],
    ids: &[JobId],
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for some in ids.chunks(IDS_MAX) {
        let (list, values) = list_of(given, some);
        rows.extend(tx.query(&format!("{sql} {list}"), &values).await?);
    }
    Ok(rows)
}

/// The list, filled up to a power of two with its last id.
fn list_of(given: &[Value], ids: &[JobId]) -> (String, Vec<Value>) {
    let count = ids.len().next_power_of_two();
    let list = format!("({})", vec!["?"; count].join(", "));
    let mut values = given.to_vec();
    values.extend(ids.iter().map(|id| Value::from(*id)));
    if let Some(last) = values.last().cloned() {
        values.resize(given.len() + count, last);
    }
    (list, values)
}

pub(crate) async fn insert(tx: &mut Tx, new: Vec<NewRow>) -> Result<(), Error> {
    let (mut jobs, mut timers) = (Vec::with_capacity(new.len()), Vec::new());
    let (mut keys, mut gates) = (Vec::new(), Vec::new());
    for row in new {
        let state = row.state();
        let place = (state == State::Ready).then(|| lane(&row.queue, row.organisation));
        if state == State::Scheduled {
            timers.push(vec![row.due.into(), row.id.into(), row.organisation.into()]);
        }
        for gate in row.gates {
            gates.push(vec![gate.into(), row.id.into(), row.priority.into(), 0_i64.into()]);
        }
        let lasts = row.key.as_ref().map_or(0, |(_, lasts)| lasts_number(*lasts));
        let key = row.key.map(|(key, _)| key);
        if let Some(key) = &key {
            let (kind, key) = (row.kind.clone(), key.clone());
            keys.push(vec![row.organisation.into(), kind.into(), key.into(), row.id.into()]);
        }
        let (run, task) = row.run.unzip();
        jobs.push(vec![
            row.id.into(),
            row.organisation.into(),
            row.kind.into(),
            row.queue.into(),
            row.priority.into(),
            state.name().into(),
            place.into(),
            row.payload.into(),
            row.created.into(),
            row.due.into(),
            0_i64.into(),
            0_i64.into(),
            0_i64.into(),
            key.into(),
            lasts.into(),
            row.concurrency.into(),
            run.into(),
            task.into(),
            row.waits.into(),
        ]);
    }
    insert_all(
        tx,
        "job (id, organisation, kind, queue, priority, state, place, payload, created, due, attempt, \
         tries, cancel, unique_key, key_lasts, concurrency, run, task, waits)",
        jobs,
    )
    .await?;
    insert_timers(tx, timers).await?;
    insert_all(tx, "job_key (organisation, kind, unique_key, job)", keys).await?;
    insert_all(tx, "job_gate (gate, job, priority, state)", gates).await
}

/// Rows of due time, id and organisation.
pub(crate) async fn insert_timers(tx: &mut Tx, timers: Vec<Vec<Value>>) -> Result<(), Error> {
    insert_all(tx, "job_timer (due, job, organisation)", timers).await
}

fn lasts_number(lasts: Lasts) -> i64 {
    match lasts {
        Lasts::WhileKept => 1,
        Lasts::WhileUnfinished => 2,
    }
}

/// Why something is not done, as much as is kept of it.
pub(crate) fn shortened(reason: &str) -> String {
    const CHARS_MAX: usize = 2_000;
    // A text has no zero byte: PostgreSQL cannot hold it.
    reason.chars().filter(|c| *c != '\0').take(CHARS_MAX).collect()
}

pub(crate) fn unknown(column: &str) -> Error {
    Error::Rows(relational::Error::Column {
        column: column.to_owned(),
        found: "an unknown name",
        wanted: "a known one",
    })
}

/// The job that has a key, if one has.
pub(crate) async fn with_key(
    tx: &mut Tx,
    (organisation, kind, key): &(OrganisationId, String, String),
) -> Result<Option<JobId>, Error> {
    let sql = "SELECT job FROM job_key WHERE organisation = ? AND kind = ? AND unique_key = ?";
    let row = tx.query_optional(sql, relational::params![organisation, kind, key]).await?;
    Ok(row.map(|row| row.get("job")).transpose()?)
}
