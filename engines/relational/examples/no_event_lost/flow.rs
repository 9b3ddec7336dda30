use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Base, Failure, OrganisationId};
use eventlog::{EventLog, Stored};
use relational::{Config, Db, Error, Handler, Migration, NewEvent, Tx, Unhandled, params};

const WRITERS: u64 = 64;
const KEYS: u64 = 256;
/// Events of one transaction, at most.
const EVENTS_MAX: u64 = 8;
/// Times that the relay and the handler are killed at least, however fast it goes.
const KILLS_MIN: u64 = 3;
const TOPIC: &str = "counts";

static TABLES: &[Migration] = &[Migration {
    id: "0001-counts",
    sql: "CREATE TABLE counts (key VARCHAR(20) NOT NULL PRIMARY KEY, told BIGINT NOT NULL);
        CREATE TABLE effects (
            key VARCHAR(20) NOT NULL PRIMARY KEY,
            last BIGINT NOT NULL,
            handled BIGINT NOT NULL,
            disordered BIGINT NOT NULL
        )",
}];

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) told: u64,
    pub(crate) relayed: u64,
    handled: i64,
    disordered: i64,
    /// Keys whose last effect is not of their last event.
    behind: u64,
    unhandled: u64,
    pub(crate) relay_kills: u64,
    pub(crate) handler_kills: u64,
    again: u64,
    took: Duration,
}

impl Outcome {
    /// What does not hold.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        let told = i64::try_from(self.told).unwrap_or(i64::MAX);
        let cases = [
            (
                self.relayed < self.told,
                format!("{} events never came to the log", self.told - self.relayed.min(self.told)),
            ),
            (self.handled != told, format!("{} effects of {told} events", self.handled)),
            (self.disordered != 0, format!("{} events out of order", self.disordered)),
            (self.behind != 0, format!("{} keys behind", self.behind)),
            (self.unhandled != 0, format!("{} events in the outbox or set aside", self.unhandled)),
            (self.relay_kills < KILLS_MIN, format!("only {} kills of the relay", self.relay_kills)),
            (
                self.handler_kills < KILLS_MIN,
                format!("only {} kills of the handler", self.handler_kills),
            ),
        ];
        cases.into_iter().filter(|(is_fault, _)| *is_fault).map(|(_, fault)| fault)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events of {KEYS} keys by {WRITERS} writers in {:.1?} ({:.0}/s), {} records in the log, \
             {} effects, {} out of order; relay killed {} times, handler {}; {} transactions ran again",
            self.told,
            self.took,
            self.told as f64 / self.took.as_secs_f64(),
            self.relayed,
            self.handled,
            self.disordered,
            self.relay_kills,
            self.handler_kills,
            self.again,
        )
    }
}

/// Tells `events` events and handles them all.
pub(crate) async fn run(
    config: Config,
    log: &Path,
    base: &Base,
    events: u64,
    seed: u64,
) -> Result<Outcome, Failure> {
    let db = Db::open(config, base).await?;
    db.migrate("counts", TABLES).await?;
    prepare(&db).await?;
    let log_config = eventlog::Config { dir: log.to_owned(), ..eventlog::Config::default() };
    let log = EventLog::open(log_config, base).await?;
    let began = base.clock.instant();
    let left = Arc::new(AtomicU64::new(events));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let random = Random(seed ^ (writer + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            base.tasks.spawn("writer", write(db.clone(), left.clone(), random))
        })
        .collect();
    let relay_kills = Arc::new(AtomicU64::new(0));
    let handler_kills = Arc::new(AtomicU64::new(0));
    let relay = {
        let (db, log, kills) = (db.clone(), log.clone(), relay_kills.clone());
        let start = move || relational::relay(db.clone(), log.clone());
        base.tasks.spawn("relays", killed(base.clone(), Random(seed + 1), kills, start))
    };
    let handler = {
        let (db, log, kills) = (db.clone(), log.clone(), handler_kills.clone());
        let start = move || {
            let organisation = OrganisationId::DEFAULT;
            let handler = Handler { name: "counter", organisation, topic: TOPIC.into() };
            relational::run_handler(db.clone(), log.clone(), handler, handle)
        };
        base.tasks.spawn("handlers", killed(base.clone(), Random(seed + 2), kills, start))
    };
    let mut told = 0;
    for writer in writers {
        told += writer.await?.ok_or("a writer panicked")??;
    }
    let mut outcome = Outcome { told, ..Outcome::default() };
    wait(&db, base, &mut outcome, (&relay_kills, &handler_kills)).await?;
    relay.abort();
    handler.abort();
    outcome.took = base.clock.instant() - began;
    outcome.relay_kills = relay_kills.load(Ordering::Relaxed);
    outcome.handler_kills = handler_kills.load(Ordering::Relaxed);
    let topic = log.topic(OrganisationId::DEFAULT, TOPIC).await?;
    outcome.relayed = (0..topic.partitions()).map(|number| *topic.end(number).borrow()).sum();
    let again = "madang_relational_transactions_again_total ";
    let text = base.metrics.text();
    let again = text.lines().find_map(|line| line.strip_prefix(again)).unwrap_or("0");
    outcome.again = again.parse()?;
    db.close().await;
    Ok(outcome)
}

async fn prepare(db: &Db) -> Result<(), Error> {
    db.write(async |tx: &mut Tx| {
        for key in 0..KEYS {
            let key = key.to_string();
            tx.execute("INSERT INTO counts (key, told) VALUES (?, 0)", params![key]).await?;
            let effect = "INSERT INTO effects (key, last, handled, disordered) VALUES (?, 0, 0, 0)";
            tx.execute(effect, params![key]).await?;
        }
        Ok(())
    })
    .await
}

/// Tells events until enough are told; each transaction takes a different time between telling and commit.
async fn write(db: Db, left: Arc<AtomicU64>, mut random: Random) -> Result<u64, Error> {
    let mut told = 0;
    loop {
        let wanted = 1 + random.below(EVENTS_MAX);
        let before = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
            (left > 0).then(|| left.saturating_sub(wanted))
        });
        let Ok(before) = before else { return Ok(told) };
        let (count, key, delay) = (wanted.min(before), random.below(KEYS), random.below(4));
        db.write(async move |tx: &mut Tx| {
            let key = key.to_string();
            let old = "SELECT told FROM counts WHERE key = ?";
            let old: i64 = tx.query_one(old, params![key]).await?.get("told")?;
            let new = old + i64::try_from(count).unwrap_or_default();
            for number in old + 1..=new {
                tx.emit(event(&key, number)).await?;
            }
            for _ in 0..delay {
                tx.query("SELECT told FROM counts WHERE key = ?", params![key]).await?;
            }
            tx.execute("UPDATE counts SET told = ? WHERE key = ?", params![new, key]).await
        })
        .await?;
        told += count;
    }
}

fn event(key: &str, number: i64) -> NewEvent {
    NewEvent {
        organisation: OrganisationId::DEFAULT,
        topic: TOPIC,
        kind: "count.told",
        key: key.to_owned(),
        payload: number.to_string().into_bytes(),
    }
}

async fn handle(tx: &mut Tx, stored: &Stored) -> Result<(), Unhandled> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = text(stored.record.key.as_deref().unwrap_or_default());
    let number: i64 =
        text(&stored.record.value).parse().map_err(|_| Unhandled::invalid("no number"))?;
    let effect =
        "UPDATE effects SET disordered = disordered + CASE WHEN last = ? THEN 0 ELSE 1 END,
            handled = handled + 1, last = ?
        WHERE key = ?";
    let last = "SELECT last FROM effects WHERE key = ?";
    let last: i64 = tx.query_one(last, params![key]).await?.get("last")?;
    if last == number - 1 {
        // MySQL sets columns one after another, so the old value is given.
        let effect = "UPDATE effects SET handled = handled + 1, last = ? WHERE key = ?";
        tx.execute(effect, params![number, key]).await?;
    } else {
        tx.execute(effect, params![number - 1, number, key]).await?;
    }
    Ok(())
}

/// Starts it again and again, and kills it after a random time.
async fn killed<W, F>(base: Base, mut random: Random, kills: Arc<AtomicU64>, start: W)
where
    W: Fn() -> F,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    loop {
        let running = base.tasks.spawn("killed", start());
        base.clock.sleep(Duration::from_millis(20 + random.below(400))).await;
        running.abort();
        // Whatever it was doing is over before the next one begins, or goes on in the database.
        running.await.ok();
        kills.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until everything that was told is handled, or nothing moves any more.
async fn wait(
    db: &Db,
    base: &Base,
    outcome: &mut Outcome,
    kills: (&AtomicU64, &AtomicU64),
) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let mut moved = base.clock.instant();
    loop {
        let (handled, disordered, last, unhandled) = look(db).await?;
        if handled != outcome.handled {
            moved = base.clock.instant();
        }
        outcome.handled = handled;
        outcome.disordered = disordered;
        outcome.unhandled = u64::try_from(unhandled).unwrap_or(u64::MAX);
        let told = db.read(async |read| {
            let rows = read.query("SELECT key, told FROM counts", &[]).await?;
            rows.iter().map(|row| Ok((row.get("key")?, row.get("told")?))).collect()
        });
        let told: Result<BTreeMap<String, i64>, Error> = told.await;
        outcome.behind =
            told?.iter().filter(|(key, told)| last.get(*key) != Some(*told)).count() as u64;
        let is_killed =
            kills.0.load(Ordering::Relaxed).min(kills.1.load(Ordering::Relaxed)) >= KILLS_MIN;
        let is_done = outcome.behind == 0 && outcome.unhandled == 0 && is_killed;
        if is_done || base.clock.instant() - moved > PATIENCE {
            return Ok(());
        }
        base.clock.sleep(Duration::from_millis(100)).await;
    }
}

type Seen = (i64, i64, BTreeMap<String, i64>, i64);

async fn look(db: &Db) -> Result<Seen, Error> {
    db.read(async |read| {
        let mut last = BTreeMap::new();
        let (mut handled, mut disordered) = (0, 0);
        for row in read.query("SELECT key, last, handled, disordered FROM effects", &[]).await? {
            last.insert(row.get("key")?, row.get("last")?);
            handled += row.get::<i64>("handled")?;
            disordered += row.get::<i64>("disordered")?;
        }
        let outbox = "SELECT COUNT(*) AS n FROM outbox";
        let outbox: i64 = read.query_one(outbox, &[]).await?.get("n")?;
        let aside = "SELECT COUNT(*) AS n FROM dead_letter";
        let aside: i64 = read.query_one(aside, &[]).await?.get("n")?;
        Ok((handled, disordered, last, outbox + aside))
    })
    .await
}

/// Xorshift64*, <https://doi.org/10.18637/jss.v008.i14>: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}
