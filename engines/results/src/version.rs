//! Versions in the rows: how a transaction moves them, and how many callers share one read of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base::{Entropy, OrganisationId, Tasks, Timestamp};
use parking_lot::Mutex;
use relational::{Db, Migration, Read, Tx, Value, params};
use tokio::sync::oneshot;

use crate::Error;
use crate::meter::Meter;
use crate::mirror::Versions;
use crate::question::{Asked, SUBJECT_RULE, is_subject};

pub(crate) static MIGRATIONS: &[Migration] = &[
    Migration {
        id: "0001-results",
        // A version is never smaller than the moment of its change. `bytes` is null for an answer that is too
        // large to share; `versions` has one number per subject of the question, in its order.
        sql: "CREATE TABLE result_version (
            organisation VARCHAR(36) NOT NULL,
            subject VARCHAR(128) NOT NULL,
            version BIGINT NOT NULL,
            PRIMARY KEY (organisation, subject)
        );
        CREATE TABLE result_kept (
            organisation VARCHAR(36) NOT NULL,
            hash VARCHAR(64) NOT NULL,
            versions TEXT NOT NULL,
            until_time BIGINT NOT NULL,
            size BIGINT NOT NULL,
            bytes BLOB,
            PRIMARY KEY (organisation, hash)
        );
        CREATE INDEX result_kept_by_end ON result_kept (organisation, until_time);
        CREATE TABLE result_total (
            organisation VARCHAR(36) NOT NULL PRIMARY KEY,
            entries BIGINT NOT NULL,
            bytes BIGINT NOT NULL
        )",
    },
    Migration {
        id: "0002-answers-in-kv",
        // The name of these rows in kv, which other rows may use too.
        sql: "DROP TABLE result_kept;
        DROP TABLE result_total;
        CREATE TABLE result_place (
            one BIGINT NOT NULL PRIMARY KEY,
            name VARCHAR(32) NOT NULL
        )",
    },
];

/// What distinguishes these rows from others whose answers stand in the same kv.
pub(crate) async fn place(db: &Db, entropy: &Entropy) -> Result<String, relational::Error> {
    let fresh = format!("{:032x}", u128::from_le_bytes(entropy.bytes()));
    db.write(async move |tx| {
        let found = tx.query_optional("SELECT name FROM result_place WHERE one = 1", &[]).await?;
        if let Some(row) = found {
            return row.get("name");
        }
        let insert = "INSERT INTO result_place (one, name) VALUES (1, ?)";
        tx.execute(insert, params![fresh]).await?;
        Ok(fresh.clone())
    })
    .await
}

/// Subjects in one statement.
const SUBJECTS_AT_ONCE: usize = 64;
/// Callers whose subjects are read in one snapshot.
const CALLERS_AT_ONCE: usize = 1_024;
/// Forgotten subjects that go in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 500;

/// Moves the subject's version on. It grows with every change, and also where the former one was forgotten,
/// for it is at least the present moment.
pub(crate) async fn bump(
    tx: &mut Tx,
    organisation: OrganisationId,
    subject: &str,
    now: Timestamp,
) -> Result<(), relational::Error> {
    if !is_subject(subject) {
        return Err(relational::Error::Rule { rule: format!("{SUBJECT_RULE}, not {subject:?}") });
    }
    let update = "UPDATE result_version
        SET version = CASE WHEN version < ? THEN ? ELSE version + 1 END
        WHERE organisation = ? AND subject = ?";
    if tx.execute(update, params![now, now, organisation, subject]).await? == 0 {
        let insert = "INSERT INTO result_version (organisation, subject, version) VALUES (?, ?, ?)";
        tx.execute(insert, params![organisation, subject, now]).await?;
    }
    Ok(())
}

/// The version that this transaction sees; 0 for a subject that never changed.
pub(crate) async fn version(
    tx: &mut Tx,
    organisation: OrganisationId,
    subject: &str,
) -> Result<i64, relational::Error> {
    let version = "SELECT version FROM result_version WHERE organisation = ? AND subject = ?";
    let row = tx.query_optional(version, params![organisation, subject]).await?;
    row.map_or(Ok(0), |row| row.get("version"))
}

/// Takes away the versions of subjects that have not changed since `before`.
pub(crate) async fn forget(db: &Db, before: Timestamp) -> Result<(), relational::Error> {
    loop {
        let old = db.read(async move |read| {
            let old = "SELECT organisation, subject FROM result_version WHERE version < ? LIMIT ?";
            let rows = read.query(old, params![before, FORGOTTEN_AT_ONCE]).await?;
            let of = |row: &relational::Row| Ok((row.get("organisation")?, row.get("subject")?));
            rows.iter().map(of).collect::<Result<Vec<(OrganisationId, String)>, _>>()
        });
        let old = old.await?;
        if old.is_empty() {
            return Ok(());
        }
        db.write(async move |tx| {
            let delete = "DELETE FROM result_version
                WHERE organisation = ? AND subject = ? AND version < ?";
            for (organisation, subject) in &old {
                tx.execute(delete, params![organisation, subject, before]).await?;
            }
            Ok::<_, relational::Error>(())
        })
        .await?;
    }
}

/// Reads versions. Who asks while a read runs waits for the next one, which begins after they asked and
/// serves all of them.
pub(crate) struct Asking {
    db: Db,
    tasks: Tasks,
    meter: Arc<Meter>,
    waits_max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    wanted: Vec<Wanted>,
    is_reading: bool,
}

struct Wanted {
    organisation: OrganisationId,
    subjects: Vec<Arc<str>>,
    reply: oneshot::Sender<Result<Versions, Error>>,
}

impl Asking {
    pub(crate) fn new(db: &Db, tasks: &Tasks, meter: Arc<Meter>, waits_max: usize) -> Self {
        let (db, tasks) = (db.clone(), tasks.clone());
        Self { db, tasks, meter, waits_max, waiting: Mutex::default() }
    }

    pub(crate) async fn versions(self: &Arc<Self>, asked: &Asked<'_>) -> Result<Versions, Error> {
        if asked.subjects.is_empty() {
            return Ok(Versions::new());
        }
        let (reply, answer) = oneshot::channel();
        let subjects = asked.subjects.iter().map(|subject| Arc::from(*subject)).collect();
        let wanted = Wanted { organisation: asked.organisation, subjects, reply };
        let is_first = {
            let mut waiting = self.waiting.lock();
            if waiting.wanted.len() >= self.waits_max {
                return Err(Error::TooManyWaits { waits_max: self.waits_max });
            }
            waiting.wanted.push(wanted);
            !std::mem::replace(&mut waiting.is_reading, true)
        };
        if is_first {
            let reading = Reading { asking: self.clone(), has_ended: false };
            self.tasks.spawn("results_versions", reading.run());
        }
        answer.await.unwrap_or(Err(Error::Stopping))
    }
}

/// The task that reads while anybody waits. However it ends, nobody waits for it.
struct Reading {
    asking: Arc<Asking>,
    has_ended: bool,
}

impl Reading {
    async fn run(mut self) {
        loop {
            let wanted: Vec<Wanted> = {
                let mut waiting = self.asking.waiting.lock();
                let count = waiting.wanted.len().min(CALLERS_AT_ONCE);
                if count == 0 {
                    waiting.is_reading = false;
                    self.has_ended = true;
                    return;
                }
                waiting.wanted.drain(..count).collect()
            };
            self.asking.meter.version_reads.inc();
            let read = read(&self.asking.db, &wanted).await;
            for wanted in wanted {
                let versions = read.as_ref().map_err(Clone::clone).map(|known| known.of(&wanted));
                // A caller that went away does not want to know.
                drop(wanted.reply.send(versions.map_err(Error::from)));
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut waiting = self.asking.waiting.lock();
            waiting.is_reading = false;
            waiting.wanted.clear();
        }
    }
}

/// What one snapshot says.
#[derive(Default)]
struct Snapshot(HashMap<(OrganisationId, String), i64>);

impl Snapshot {
    fn of(&self, wanted: &Wanted) -> Versions {
        let of = |subject: &Arc<str>| {
            // The key is made for the look-up; it is small beside the read itself.
            self.0.get(&(wanted.organisation, subject.to_string())).copied().unwrap_or(0)
        };
        wanted.subjects.iter().map(of).collect()
    }
}

async fn read(db: &Db, wanted: &[Wanted]) -> Result<Snapshot, relational::Error> {
    let mut subjects: BTreeMap<OrganisationId, BTreeSet<Arc<str>>> = BTreeMap::new();
    for wanted in wanted {
        subjects.entry(wanted.organisation).or_default().extend(wanted.subjects.iter().cloned());
    }
    db.read(async move |read| {
        let mut snapshot = Snapshot::default();
        for (organisation, subjects) in &subjects {
            let subjects: Vec<&Arc<str>> = subjects.iter().collect();
            for subjects in subjects.chunks(SUBJECTS_AT_ONCE) {
                some(read, *organisation, subjects, &mut snapshot).await?;
            }
        }
        Ok(snapshot)
    })
    .await
}

async fn some(
    read: &mut Read,
    organisation: OrganisationId,
    subjects: &[&Arc<str>],
    snapshot: &mut Snapshot,
) -> Result<(), relational::Error> {
    // Of few lengths, so that few statements are prepared; the last subject fills up.
    let places = subjects.len().next_power_of_two();
    let marks = vec!["?"; places].join(", ");
    let query = format!(
        "SELECT subject, version FROM result_version WHERE organisation = ? AND subject IN ({marks})"
    );
    let last = subjects[subjects.len() - 1];
    let padded = subjects.iter().copied().chain(std::iter::repeat(last)).take(places);
    let named = padded.map(|subject| Value::Text(subject.to_string()));
    let params: Vec<Value> = std::iter::once(organisation.into()).chain(named).collect();
    for row in read.query(&query, &params).await? {
        snapshot.0.insert((organisation, row.get("subject")?), row.get("version")?);
    }
    Ok(())
}
