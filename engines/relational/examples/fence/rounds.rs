//! Many workers want one thing; holders die and pause at random. The rows that they write under the lease
//! are the evidence.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use base::{Base, Entropy, Failure, OrganisationId, Timestamp};
use relational::{Config, Db, Error, Lease, Leases, Migration, params};

const WORKERS: u64 = 20;
const NAME: &str = "the one file";
const LASTS: Duration = Duration::from_secs(10);
/// What the simulated clock moves when somebody waits in vain.
const STEP: Duration = Duration::from_millis(50);

static TABLES: &[Migration] = &[Migration {
    id: "0001-writes",
    sql: "CREATE TABLE writes (
        sequence INTEGER PRIMARY KEY,
        token BIGINT NOT NULL,
        worker BIGINT NOT NULL
    )",
}];

/// What happened, and what speaks against one writer at a time.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rounds: u64,
    pub(crate) releases: u64,
    pub(crate) killed: u64,
    pub(crate) paused: u64,
    pub(crate) writes: u64,
    /// Writes of holders who knew that they had been replaced, and how many of them were refused.
    pub(crate) late: u64,
    pub(crate) late_refused: u64,
    /// All refused writes and renewals.
    pub(crate) refused: u64,
    pub(crate) broken: Vec<String>,
}

/// How one reign ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Release,
    Kill,
    /// Stops for a while, and writes again when it may have been replaced.
    Pause,
    /// Stops until it was replaced, and writes again.
    Oversleep,
}

#[derive(Default)]
struct Counts {
    rounds: AtomicI64,
    releases: AtomicU64,
    killed: AtomicU64,
    paused: AtomicU64,
    writes: AtomicU64,
    late: AtomicU64,
    late_refused: AtomicU64,
    refused: AtomicU64,
}

#[derive(Clone)]
struct Worker {
    number: u64,
    db: Db,
    base: Base,
    leases: Leases,
    counts: Arc<Counts>,
    rounds: i64,
}

/// Lets the workers compete until the lease was granted `rounds` times, and reads the evidence.
pub(crate) async fn rounds(rounds: u32, seed: u64) -> Result<Outcome, Failure> {
    let dir = tempfile::tempdir()?;
    let base = Base::simulated(Timestamp::from_millis(1_700_000_000_000), seed);
    let config = Config { path: dir.path().join("rows.db"), ..Config::default() };
    let db = Db::open(config, &base).await?;
    db.migrate("fence", TABLES).await?;
    let counts = Arc::new(Counts::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let leases = Leases::new(&db, &base);
            let (db, base, counts) = (db.clone(), base.clone(), counts.clone());
            let worker =
                Worker { number, db, base: base.clone(), leases, counts, rounds: rounds.into() };
            base.tasks.spawn("worker", worker.run(Entropy::seeded(seed ^ (number << 32))))
        })
        .collect();
    let mut granted = Vec::new();
    for worker in workers {
        granted.extend(worker.await?.ok_or("a worker panicked")??);
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let outcome = Outcome {
        rounds: granted.len() as u64,
        releases: count(&counts.releases),
        killed: count(&counts.killed),
        paused: count(&counts.paused),
        writes: count(&counts.writes),
        late: count(&counts.late),
        late_refused: count(&counts.late_refused),
        refused: count(&counts.refused),
        broken: Vec::new(),
    };
    judge(&db, granted, outcome).await
}

/// The store's own evidence: tokens in the order of the writes never go back, each has one writer, and
/// what was acknowledged is there, no more and no less.
async fn judge(db: &Db, mut granted: Vec<i64>, mut outcome: Outcome) -> Result<Outcome, Failure> {
    granted.sort_unstable();
    if granted.windows(2).any(|pair| pair[0] == pair[1]) {
        outcome.broken.push("a token was granted twice".into());
    }
    let mut last = (0, 0, -1);
    let mut there = 0;
    loop {
        let after = last.0;
        let page = db.read(async move |read| {
            let writes = "SELECT sequence, token, worker FROM writes
                WHERE sequence > ? ORDER BY sequence LIMIT 10000";
            let rows = read.query(writes, params![after]).await?;
            let write = |row: &relational::Row| {
                Ok((row.get("sequence")?, row.get("token")?, row.get("worker")?))
            };
            rows.iter().map(write).collect::<Result<Vec<(i64, i64, i64)>, Error>>()
        });
        let page = page.await?;
        if page.is_empty() {
            break;
        }
        there += page.len() as u64;
        for write in page {
            if write.1 < last.1 {
                outcome.broken.push(format!("token {} wrote after {}", write.1, last.1));
            }
            if write.1 == last.1 && write.2 != last.2 {
                outcome.broken.push(format!("token {} has two writers", write.1));
            }
            last = write;
        }
    }
    if there != outcome.writes {
        let writes = outcome.writes;
        outcome.broken.push(format!("{writes} writes were acknowledged and {there} are there"));
    }
    if outcome.late_refused != outcome.late {
        let through = outcome.late - outcome.late_refused;
        outcome.broken.push(format!("{through} writes of replaced holders went through"));
    }
    Ok(outcome)
}

impl Worker {
    /// Gives the tokens that it was granted.
    async fn run(self, chance: Entropy) -> Result<Vec<i64>, Error> {
        let mut granted = Vec::new();
        while self.counts.rounds.load(Ordering::SeqCst) < self.rounds {
            let lease = self.leases.acquire(OrganisationId::DEFAULT, NAME, LASTS).await?;
            let Some(lease) = lease else {
                self.base.clock.advance(STEP);
                continue;
            };
            self.counts.rounds.fetch_add(1, Ordering::SeqCst);
            granted.push(lease.token());
            self.reign(lease, &chance).await?;
        }
        Ok(granted)
    }

    async fn reign(&self, mut lease: Lease, chance: &Entropy) -> Result<(), Error> {
        let end = match chance.number() % 10 {
            0..4 => End::Release,
            4..6 => End::Kill,
            6..8 => End::Pause,
            _ => End::Oversleep,
        };
        for _ in 0..=chance.number() % 3 {
            if !self.write(&lease).await? {
                return Ok(());
            }
        }
        // Even a healthy holder finds out here when it was too slow.
        if chance.number().is_multiple_of(2)
            && let Err(error) = self.leases.renew(&mut lease, LASTS).await
        {
            return self.expect_fenced(error);
        }
        match end {
            End::Release => {
                self.counts.releases.fetch_add(1, Ordering::SeqCst);
                self.leases.release(lease).await
            }
            End::Kill => {
                self.counts.killed.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            End::Pause => {
                self.counts.paused.fetch_add(1, Ordering::SeqCst);
                let until =
                    lease.until().plus(STEP * u32::try_from(chance.number() % 128).unwrap_or(0));
                self.wait(|now, _| now >= until).await?;
                self.write(&lease).await.map(drop)
            }
            End::Oversleep => {
                self.counts.paused.fetch_add(1, Ordering::SeqCst);
                if !self.wait(|_, newest| newest > lease.token()).await? {
                    return Ok(());
                }
                self.counts.late.fetch_add(1, Ordering::SeqCst);
                if !self.write(&lease).await? {
                    self.counts.late_refused.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }
        }
    }

    /// Writes under the lease. False when the store refuses it.
    async fn write(&self, lease: &Lease) -> Result<bool, Error> {
        let (under, worker) = (lease.clone(), i64::try_from(self.number).unwrap_or(-1));
        let written = self.db.write(async move |tx| {
            tx.fenced(&under).await?;
            let insert = "INSERT INTO writes (token, worker) VALUES (?, ?)";
            tx.execute(insert, params![under.token(), worker]).await
        });
        match written.await {
            Ok(_) => {
                self.counts.writes.fetch_add(1, Ordering::SeqCst);
                Ok(true)
            }
            Err(error) => self.expect_fenced(error).map(|()| false),
        }
    }

    fn expect_fenced(&self, error: Error) -> Result<(), Error> {
        match error {
            Error::Fenced { .. } => {
                self.counts.refused.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Time goes on while the others wait. False when the rounds are over before it holds.
    async fn wait(&self, holds: impl Fn(Timestamp, i64) -> bool) -> Result<bool, Error> {
        loop {
            let newest = self.db.read(async |read| {
                let newest = "SELECT token FROM lease WHERE name = ?";
                read.query_one(newest, params![NAME]).await?.get("token")
            });
            if holds(self.base.clock.now(), newest.await?) {
                return Ok(true);
            }
            if self.counts.rounds.load(Ordering::SeqCst) >= self.rounds {
                return Ok(false);
            }
            self.base.clock.advance(STEP / 10);
        }
    }
}
