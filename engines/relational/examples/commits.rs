//! `cargo run --release -p relational --example commits [SECONDS]`: durable transactions with one outbox event
//! each from 64 callers, on the embedded database and on PostgreSQL beside it, alone and while others read
//! 500 rows per transaction.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Base, Failure, OrganisationId};
use relational::{Address, Config, Db, Error, Migration, NewEvent, Tx, params};

const CALLERS: i64 = 64;
const READERS: usize = 4;
const ROWS_READ: i64 = 500;
/// What the embedded database must reach.
const PER_SECOND_MIN: f64 = 20_000.0;
const P99_MAX: Duration = Duration::from_millis(20);

static TABLES: &[Migration] = &[Migration {
    id: "0001-deeds",
    sql: "CREATE TABLE deeds (caller BIGINT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (caller, number));
        CREATE TABLE library (book BIGINT NOT NULL PRIMARY KEY, title TEXT NOT NULL)",
}];

struct Figures {
    per_second: f64,
    writes: Vec<Duration>,
    reads: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let lasts = Duration::from_secs(seconds);
    let mut short = Vec::new();
    let dir = tempfile::tempdir_in(".")?;
    for readers in [0, READERS] {
        let path = dir.path().join(format!("{readers}/rows.db"));
        let config = Config { path, ..Config::default() };
        let figures = run(config, CALLERS, readers, lasts).await?;
        say("embedded (SQLite, WAL, synchronous=FULL)", readers, &figures);
        if figures.per_second < PER_SECOND_MIN {
            short.push(format!("{:.0}/s is less than {PER_SECOND_MIN}/s", figures.per_second));
        }
        let p99 = at(&figures.writes, 990);
        if p99 >= P99_MAX {
            short.push(format!("p99 {p99:.1?} is not below {P99_MAX:?}"));
        }
    }
    let alone = run(
        Config { path: dir.path().join("alone/rows.db"), ..Config::default() },
        0,
        READERS,
        lasts,
    )
    .await?;
    println!(
        "embedded, {READERS} readers alone: {}",
        times("reads", alone.reads.len() as f64 / lasts.as_secs_f64(), &alone.reads)
    );
    let postgres = testkit::Postgres::start()?;
    for readers in [0, READERS] {
        let url = Address::new(postgres.database(&format!("commits{readers}"))?);
        let config = Config { url, ..Config::default() };
        let figures = run(config, CALLERS, readers, lasts).await?;
        say("PostgreSQL 15 (fsync=on, synchronous_commit=on, serializable)", readers, &figures);
    }
    if short.is_empty() { Ok(()) } else { Err(short.join("; ").into()) }
}

fn say(which: &str, readers: usize, figures: &Figures) {
    println!(
        "{which}, {CALLERS} callers: {}",
        times("transactions", figures.per_second, &figures.writes)
    );
    if readers > 0 {
        let reads = figures.reads.len();
        println!(
            "  {readers} readers of {ROWS_READ} rows meanwhile: {}",
            times("reads in all", reads as f64, &figures.reads)
        );
    }
}

fn times(what: &str, count: f64, took: &[Duration]) -> String {
    let (p50, p99, longest) = (at(took, 500), at(took, 990), at(took, 1_000));
    format!("{count:.0} {what} per second, p50 {p50:.1?}, p99 {p99:.1?}, longest {longest:.1?}")
        .replace("in all per second", "in all")
}

fn at(took: &[Duration], thousandths: usize) -> Duration {
    took.get(took.len().saturating_sub(1) * thousandths / 1_000).copied().unwrap_or_default()
}

async fn run(
    config: Config,
    callers: i64,
    readers: usize,
    lasts: Duration,
) -> Result<Figures, Failure> {
    let base = Base::system();
    let db = Db::open(config, &base).await?;
    db.migrate("deeds", TABLES).await?;
    db.write(async |tx: &mut Tx| {
        for book in 0..ROWS_READ {
            let insert = "INSERT INTO library (book, title) VALUES (?, ?)";
            tx.execute(insert, params![book, format!("Volume {book}")]).await?;
        }
        Ok::<_, Error>(())
    })
    .await?;
    let stop = Arc::new(AtomicBool::new(false));
    let began = base.clock.instant();
    let reading: Vec<_> = (0..readers)
        .map(|_| base.tasks.spawn("reader", read(db.clone(), base.clone(), stop.clone())))
        .collect();
    let calling: Vec<_> = (0..callers)
        .map(|caller| {
            base.tasks.spawn("caller", call(db.clone(), base.clone(), caller, stop.clone()))
        })
        .collect();
    base.clock.sleep(lasts).await;
    stop.store(true, Ordering::Relaxed);
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for caller in calling {
        writes.extend(caller.await?.ok_or("a caller panicked")??);
    }
    let seconds = (base.clock.instant() - began).as_secs_f64();
    for reader in reading {
        reads.extend(reader.await?.ok_or("a reader panicked")??);
    }
    writes.sort();
    reads.sort();
    let per_second = writes.len() as f64 / seconds;
    db.close().await;
    Ok(Figures { per_second, writes, reads })
}

async fn read(db: Db, base: Base, stop: Arc<AtomicBool>) -> Result<Vec<Duration>, Error> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started = base.clock.instant();
        let rows = db.read(async |read| {
            read.query("SELECT book, title FROM library ORDER BY book", &[]).await
        });
        let rows: Vec<relational::Row> = rows.await?;
        assert_eq!(i64::try_from(rows.len()), Ok(ROWS_READ), "the library is whole");
        took.push(base.clock.instant() - started);
        // Visitors come and go: the machine's two cores are for the writers too.
        base.clock.sleep(Duration::from_millis(5)).await;
    }
    Ok(took)
}

async fn call(
    db: Db,
    base: Base,
    caller: i64,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Duration>, Error> {
    let mut took = Vec::new();
    for number in 0_i64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let started = base.clock.instant();
        db.write(async move |tx| {
            let insert = "INSERT INTO deeds (caller, number) VALUES (?, ?)";
            tx.execute(insert, params![caller, number]).await?;
            tx.emit(NewEvent {
                organisation: OrganisationId::DEFAULT,
                topic: "deeds",
                kind: "deed.done",
                key: caller.to_string(),
                payload: format!("{{\"caller\":{caller},\"number\":{number}}}").into_bytes(),
            })
            .await
        })
        .await?;
        took.push(base.clock.instant() - started);
    }
    Ok(took)
}
