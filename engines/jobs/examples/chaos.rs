//! `cargo run --release -p jobs --example chaos [JOBS]`: workers in processes of their own that are killed, once and
//! again and again; the database killed; its connections cut; its pool exhausted. On each of three databases
//! every job is done, and none twice.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]
#![allow(clippy::disallowed_methods, reason = "a development tool waits in real time")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{Base, Failure, OrganisationId};
use jobs::{Attempt, Config, Failed, Jobs, Key, Kind, New};
use relational::{Address, Db, Migration, Read, Tx, params};
use testkit::Database;

const JOBS: usize = 20_000;
const OURS: OrganisationId = OrganisationId::DEFAULT;
const KILLS: usize = 12;
const LIMIT: Duration = Duration::from_mins(5);
/// Jobs that one transaction enqueues.
const TOGETHER: usize = 20;

static EFFECTS: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (
        sequence INTEGER PRIMARY KEY,
        job VARCHAR(36) NOT NULL,
        attempt BIGINT NOT NULL
    )",
}];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chaos {
    KilledOnce,
    KilledAgainAndAgain,
    DatabaseKilled,
    ConnectionsCut,
    PoolExhausted,
}

const ALL: [Chaos; 5] = [
    Chaos::KilledOnce,
    Chaos::KilledAgainAndAgain,
    Chaos::DatabaseKilled,
    Chaos::ConnectionsCut,
    Chaos::PoolExhausted,
];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, url, path, count, pool] = &arguments[..]
        && word == "worker"
    {
        let place = Place { url: url.clone(), path: path.into() };
        return worker(&place, count.parse()?, pool == "narrow").await;
    }
    let count = arguments.first().map_or(Ok(JOBS), |count| count.parse())?;
    let folder = tempfile::tempdir_in(".")?;
    let mut databases = [Database::Embedded, Database::postgres()?, Database::mariadb()?];
    let mut short = Vec::new();
    for database in &mut databases {
        for chaos in ALL {
            let is_of_server = matches!(chaos, Chaos::DatabaseKilled | Chaos::ConnectionsCut);
            if is_of_server && matches!(database, Database::Embedded) {
                continue;
            }
            let outcome = run(database, chaos, count, folder.path()).await?;
            let name = database.name();
            println!("{name}, {}: {outcome}", chaos.name());
            short.extend(outcome.faults(count).map(|fault| format!("{name}, {chaos:?}: {fault}")));
        }
    }
    if short.is_empty() { Ok(()) } else { Err(short.join("; ").into()) }
}

impl Chaos {
    fn name(self) -> &'static str {
        match self {
            Self::KilledOnce => "a worker killed",
            Self::KilledAgainAndAgain => "workers killed again and again",
            Self::DatabaseKilled => "the database killed",
            Self::ConnectionsCut => "connections cut",
            Self::PoolExhausted => "the pool exhausted",
        }
    }
}

struct Place {
    url: String,
    path: PathBuf,
}

impl Place {
    fn config(&self) -> relational::Config {
        let url = Address::new(self.url.clone());
        relational::Config { url, path: self.path.clone(), ..relational::Config::default() }
    }
}

struct Outcome {
    done: usize,
    effects: usize,
    twice: usize,
    kills: usize,
    attempts: Vec<(String, i64)>,
}

impl Outcome {
    fn faults(&self, count: usize) -> impl Iterator<Item = String> {
        let lost = (self.done != count || self.effects != count)
            .then(|| format!("{} done and {} effects of {count}", self.done, self.effects));
        let twice = (self.twice > 0).then(|| format!("{} done twice", self.twice));
        lost.into_iter().chain(twice)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { done, effects, twice, kills, attempts } = self;
        write!(f, "{done} jobs done, {effects} effects, {twice} twice; {kills} kills; attempts")?;
        attempts.iter().try_for_each(|(outcome, count)| write!(f, " {outcome} {count}"))
    }
}

/// A process that enqueues the jobs, says when it has, and works; the next one goes on where it was.
struct Process {
    child: Child,
    enqueued: Arc<AtomicUsize>,
}

impl Process {
    fn start(place: &Place, count: usize, chaos: Chaos) -> Result<Self, Failure> {
        let pool = if chaos == Chaos::PoolExhausted { "narrow" } else { "wide" };
        let path = place.path.display().to_string();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", &place.url, &path, &count.to_string(), pool])
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().ok_or("no output")?;
        let enqueued = Arc::new(AtomicUsize::new(0));
        let seen = enqueued.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                seen.store(line.parse().unwrap_or(0), Ordering::Release);
            }
        });
        Ok(Self { child, enqueued })
    }

    fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn wait(&mut self, count: usize) -> Result<(), Failure> {
        let began = std::time::Instant::now();
        while self.enqueued.load(Ordering::Acquire) < count {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("a worker ended with {status}").into());
            }
            if began.elapsed() > LIMIT {
                return Err("enqueueing does not end".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

async fn run(
    database: &mut Database,
    chaos: Chaos,
    count: usize,
    folder: &Path,
) -> Result<Outcome, Failure> {
    let name = format!("chaos{}", chaos as usize);
    let path = folder.join(database.name()).join(&name).join("rows.db");
    let place = Place { url: database.make(&name)?, path };
    let mut process = Process::start(&place, count, chaos)?;
    let mut kills = 0;
    match chaos {
        Chaos::KilledOnce => {
            process.wait(count / 2)?;
            process.kill()?;
            kills = 1;
            process = Process::start(&place, count, chaos)?;
        }
        Chaos::KilledAgainAndAgain => {
            for round in 0..KILLS {
                std::thread::sleep(Duration::from_millis(250 + 60 * (round as u64 % 5)));
                process.kill()?;
                kills += 1;
                process = Process::start(&place, count, chaos)?;
            }
        }
        Chaos::DatabaseKilled => {
            for part in 1..=3 {
                process.wait(count * part / 4)?;
                database.crash()?;
                kills += 1;
            }
        }
        Chaos::ConnectionsCut => {
            for _ in 0..KILLS {
                std::thread::sleep(Duration::from_millis(200));
                database.cut(&name)?;
                kills += 1;
            }
        }
        Chaos::PoolExhausted => {}
    }
    process.wait(count)?;
    if place.url.is_empty() {
        // Only one process can look; this one goes on with the work.
        std::thread::sleep(Duration::from_millis(300));
        process.kill()?;
        let outcome = judge(&place, count, true, kills).await?;
        return Ok(outcome);
    }
    let outcome = judge(&place, count, false, kills).await?;
    process.kill()?;
    Ok(outcome)
}

/// Waits until everything is done, and counts.
async fn judge(place: &Place, count: usize, works: bool, kills: usize) -> Result<Outcome, Failure> {
    let base = Base::system();
    let db = Db::open(place.config(), &base).await?;
    if works {
        let jobs = open(&db, &base).await?;
        jobs.start().await?;
    }
    let began = base.clock.instant();
    let sql = "SELECT COUNT(*) AS jobs FROM job WHERE kind = 'effect' AND state = 'done'";
    loop {
        let done: i64 = number(&db, sql).await?;
        if usize::try_from(done)? >= count || base.clock.instant() - began > LIMIT {
            break;
        }
        base.clock.sleep(Duration::from_millis(50)).await;
    }
    let twice = "SELECT COUNT(*) AS jobs FROM
        (SELECT job FROM effects GROUP BY job HAVING COUNT(*) > 1) AS twice";
    let ends = "SELECT COUNT(*) AS jobs FROM
        (SELECT job FROM job_attempt WHERE outcome = 'done' GROUP BY job HAVING COUNT(*) > 1) AS ends";
    let effects = number(&db, "SELECT COUNT(DISTINCT job) AS jobs FROM effects").await?;
    let outcomes =
        "SELECT outcome, COUNT(*) AS number FROM job_attempt GROUP BY outcome ORDER BY outcome";
    let rows: Vec<relational::Row> =
        db.read(async |read: &mut Read| read.query(outcomes, &[]).await).await?;
    let attempts = rows.iter().map(|row| Ok((row.get("outcome")?, row.get("number")?)));
    let outcome = Outcome {
        done: usize::try_from(number(&db, sql).await?)?,
        effects: usize::try_from(effects)?,
        twice: usize::try_from(number(&db, twice).await? + number(&db, ends).await?)?,
        kills,
        attempts: attempts.collect::<Result<_, relational::Error>>()?,
    };
    base.tasks.stop(Duration::from_secs(10)).await;
    db.close().await;
    Ok(outcome)
}

async fn number(db: &Db, sql: &'static str) -> Result<i64, Failure> {
    let row: relational::Row =
        db.read(async move |read: &mut Read| read.query_one(sql, &[]).await).await?;
    Ok(row.get("jobs")?)
}

async fn open(db: &Db, base: &Base) -> Result<Jobs, Failure> {
    db.migrate("effects", EFFECTS).await?;
    let config = Config { lease: Duration::from_secs(2), ..Config::default() };
    let jobs = Jobs::open(config, base, db.clone()).await?;
    let patient = Kind {
        attempts_max: 1_000,
        back_off_min: Duration::from_millis(10),
        back_off_max: Duration::from_millis(200),
        ..Kind::default()
    };
    jobs.handle_in_rows("effect", patient, effect)?;
    Ok(jobs)
}

async fn effect(tx: &mut Tx, attempt: &Attempt) -> Result<(), Failed> {
    let insert = "INSERT INTO effects (job, attempt) VALUES (?, ?)";
    tx.execute(insert, params![attempt.id(), attempt.number()]).await?;
    Ok(())
}

/// Enqueues under keys, so that it can begin again, and works until it is killed.
async fn worker(place: &Place, count: usize, is_narrow: bool) -> Result<(), Failure> {
    let base = Base::system();
    let mut config = place.config();
    if is_narrow {
        config.writers = 1;
        config.readers = 1;
        config.writes_queue_max = 4;
        config.queue_wait_max = Duration::from_millis(100);
    }
    let db = Db::open(config, &base).await?;
    let jobs = open(&db, &base).await?;
    jobs.start().await?;
    if is_narrow {
        for _ in 0..16 {
            base.tasks.spawn("crowd", crowd(db.clone(), base.clone()));
        }
    }
    let mut number = 0;
    while number < count {
        let some = number..(number + TOGETHER).min(count);
        let new: Vec<New> = some
            .clone()
            .map(|number| New {
                key: Some(Key::once(format!("n{number}"))),
                ..New::of(OURS, "effect", "{}")
            })
            .collect();
        let jobs = jobs.clone();
        let enqueue = async move |tx: &mut Tx| jobs.enqueue_all(tx, new.clone()).await;
        match db.write(enqueue).await {
            Ok(_) => {
                number = some.end;
                println!("{number}");
            }
            // Whether it is there is not known, and the keys make it harmless to ask again.
            Err(_) => base.clock.sleep(Duration::from_millis(20)).await,
        }
    }
    std::future::pending().await
}

/// Keeps a connection busy again and again.
async fn crowd(db: Db, base: Base) {
    loop {
        let clock = base.clock.clone();
        let busy = async move |tx: &mut Tx| {
            let until = clock.instant() + Duration::from_millis(3);
            while clock.instant() < until {
                tx.query("SELECT COUNT(*) AS workers FROM job_worker", &[]).await?;
            }
            Ok::<_, relational::Error>(())
        };
        // A full queue refuses it, as it refuses the worker.
        if db.write(busy).await.is_err() {
            base.clock.sleep(Duration::from_millis(5)).await;
        }
    }
}
