//! A ranking that is written anew every night by a job that may be killed at any moment. It writes a new version in
//! batches, each with how far it is, and switches to it in the transaction of its own end. Who reads goes by the version
//! that counts, so they have the old ranking whole or the new one whole.

use base::{Failure, OrganisationId, Timestamp};
use jobs::{Attempt, Done, Failed, Missed, NewSchedule};
use relational::{Db, Migration, Read, Row, Tx, Value, params};

pub(crate) const OURS: OrganisationId = OrganisationId::DEFAULT;
pub(crate) const KIND: &str = "ranking";
/// Rows of one INSERT.
const ROWS: usize = 200;
/// Places that one look of a reader takes.
pub(crate) const PLACES: usize = 50;

pub(crate) static TABLES: &[Migration] = &[Migration {
    id: "0001-ranking",
    // A version is the time that the job was for, so every attempt at it goes on with the same one.
    sql: "CREATE TABLE lecture (
        organisation VARCHAR(36) NOT NULL,
        id BIGINT NOT NULL,
        points BIGINT NOT NULL,
        created BIGINT NOT NULL,
        PRIMARY KEY (organisation, id)
    );
    CREATE TABLE ranking (
        organisation VARCHAR(36) NOT NULL,
        version BIGINT NOT NULL,
        lecture BIGINT NOT NULL,
        score DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (organisation, version, lecture)
    );
    CREATE INDEX ranking_by_score ON ranking (organisation, version, score, lecture);
    CREATE TABLE ranking_state (
        organisation VARCHAR(36) NOT NULL PRIMARY KEY,
        version BIGINT,
        former BIGINT,
        switches BIGINT NOT NULL,
        building BIGINT,
        reached BIGINT NOT NULL
    )",
}];

pub(crate) fn schedule() -> NewSchedule {
    let cron = "0 3 * * *".parse().expect("it is a cron");
    let new = NewSchedule::of(OURS, "ranking", KIND, cron);
    NewSchedule { zone: "Asia/Seoul".to_owned(), missed: Missed::Once, ..new }
}

/// Points lose weight with the hours since the lecture.
pub(crate) fn score(points: i64, created: Timestamp, now: Timestamp) -> f64 {
    let hours = now.since(created).as_secs_f64() / 3_600.0;
    (points - 1) as f64 / (hours + 2.0).powf(1.8)
}

/// What a batch left for the next one.
pub(crate) struct Step {
    pub(crate) reached: i64,
    pub(crate) is_last: bool,
}

/// The job: batches until there are no more lectures, then the switch. `tell` hears of each step that is durable.
pub(crate) async fn build(
    db: Db,
    attempt: Attempt,
    batch: i64,
    tell: impl Fn(&Step),
) -> Result<Done, Failed> {
    let version = attempt.due();
    loop {
        let step = db.write(async move |tx| write_batch(tx, version, batch).await).await?;
        tell(&step);
        if step.is_last {
            break;
        }
    }
    db.write(async move |tx| {
        let done = attempt.complete_in(tx).await?;
        let switch = "UPDATE ranking_state SET former = version, version = building,
            building = NULL, reached = 0, switches = switches + 1
            WHERE organisation = ? AND building = ?";
        match tx.execute(switch, params![attempt.organisation(), version]).await? {
            1 => Ok(done),
            _ => Err(Failed::again("another ranking is being built")),
        }
    })
    .await
}

/// Scores the lectures behind those that are scored, and lets as many of the ranking before the last one go.
async fn write_batch(tx: &mut Tx, version: Timestamp, batch: i64) -> Result<Step, Failure> {
    let standing =
        "SELECT version, former, building, reached FROM ranking_state WHERE organisation = ?";
    let row = tx.query_one(standing, params![OURS]).await?;
    let moment = |column| row.get::<Option<Timestamp>>(column);
    let (current, former, building) = (moment("version")?, moment("former")?, moment("building")?);
    if current >= Some(version) {
        return Err("a ranking of this time or a later one counts already".into());
    }
    let reached: i64 = if building == Some(version) { row.get("reached")? } else { 0 };
    if let Some(given_up) = building.filter(|building| *building != version) {
        let rows = "DELETE FROM ranking WHERE organisation = ? AND version = ?";
        tx.execute(rows, params![OURS, given_up]).await?;
    }
    let next = "SELECT id, points, created FROM lecture
        WHERE organisation = ? AND id > ? ORDER BY id LIMIT ?";
    let lectures = tx.query(next, params![OURS, reached, batch]).await?;
    let is_last = i64::try_from(lectures.len())? < batch;
    let last = lectures.last().map(|row| row.get("id")).transpose()?.unwrap_or(reached);
    for some in lectures.chunks(ROWS) {
        insert(tx, version, some).await?;
    }
    let old = "DELETE FROM ranking
        WHERE organisation = ? AND version = ? AND lecture > ? AND lecture <= ?";
    tx.execute(old, params![OURS, former, reached, last]).await?;
    let note = "UPDATE ranking_state SET building = ?, reached = ? WHERE organisation = ?";
    tx.execute(note, params![version, last, OURS]).await?;
    Ok(Step { reached: last, is_last })
}

async fn insert(tx: &mut Tx, version: Timestamp, lectures: &[Row]) -> Result<(), Failure> {
    let mut values: Vec<Value> = Vec::with_capacity(lectures.len() * 4);
    for row in lectures {
        let score = score(row.get("points")?, row.get("created")?, version);
        let lecture: i64 = row.get("id")?;
        values.extend([OURS.into(), version.into(), lecture.into(), score.into()]);
    }
    let marks = vec!["(?, ?, ?, ?)"; lectures.len()].join(", ");
    let sql = format!("INSERT INTO ranking (organisation, version, lecture, score) VALUES {marks}");
    tx.execute(&sql, &values).await?;
    Ok(())
}

/// A part of a ranking as a reader has it.
pub(crate) struct Page {
    pub(crate) version: Timestamp,
    pub(crate) places: Vec<(i64, f64)>,
}

/// The best places of the ranking that counts.
pub(crate) async fn best(read: &mut Read) -> Result<Option<Page>, Failure> {
    let which = "SELECT version FROM ranking_state WHERE organisation = ?";
    let row = read.query_one(which, params![OURS]).await?;
    let Some(version) = row.get::<Option<Timestamp>>("version")? else { return Ok(None) };
    Ok(Some(Page { version, places: page(read, version, 0, PLACES).await? }))
}

/// Places of one version, which stays until the next but one counts.
pub(crate) async fn page(
    read: &mut Read,
    version: Timestamp,
    after: usize,
    count: usize,
) -> Result<Vec<(i64, f64)>, Failure> {
    let places = "SELECT lecture, score FROM ranking WHERE organisation = ? AND version = ?
        ORDER BY score DESC, lecture DESC LIMIT ? OFFSET ?";
    let (count, after) = (i64::try_from(count)?, i64::try_from(after)?);
    let rows = read.query(places, params![OURS, version, count, after]).await?;
    let place = |row: &Row| Ok((row.get("lecture")?, row.get("score")?));
    rows.iter().map(place).collect::<Result<_, Failure>>()
}

/// How many rows a version has, and the sum of their lectures.
pub(crate) async fn size(read: &mut Read, version: Timestamp) -> Result<(i64, i64), Failure> {
    let size = "SELECT COUNT(*) AS number, COALESCE(SUM(lecture), 0) AS sum FROM ranking
        WHERE organisation = ? AND version = ?";
    let row = read.query_one(size, params![OURS, version]).await?;
    Ok((row.get("number")?, row.get("sum")?))
}
