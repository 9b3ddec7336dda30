//! Measures what a kept answer costs, beside the read of the rows that it saves, and what memory answers
//! really take beside what is counted.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]

use std::time::Duration;

use base::{Base, Failure, OrganisationId};
use bytes::Bytes;
use kv::Kv;
use relational::{Db, Error, Migration, params};
use results::{Config, OrganisationResults, Question, Results};

const HOUR: Duration = Duration::from_hours(1);
const ARTICLES: i64 = 1_000;
const SUBJECTS: &[&str] = &["articles", "comments/42"];

static TABLES: &[Migration] = &[Migration {
    id: "0001-articles",
    sql: "CREATE TABLE articles (id BIGINT NOT NULL PRIMARY KEY, title TEXT NOT NULL)",
}];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(".")?;
    let base = Base::system();
    let db = open(&dir.path().join("rows.db"), &base).await?;
    let kv = Kv::for_rooms(kv::Config::default(), &base, &dir.path().join("kv")).await?;
    let nodes = Results::open(Config::default(), &base, &db, &kv).await?;
    let nodes = nodes.for_organisation(OrganisationId::DEFAULT);
    println!("an answer of 20 of {ARTICLES} rows, time and time on processors for one:");
    println!("  one caller");
    let not_kept = per_call(&base, 20_000, async || drop(newest(&db).await)).await;
    println!("    rows, not kept                    {not_kept}");
    let hit = per_call(&base, 20_000, async || drop(ask(&nodes, &db).await)).await;
    println!("    kept, versions asked of the rows  {hit}");
    // Nothing is bumped here, so the two forms can stand side by side.
    let alone = Results::open_alone(Config::default(), &base, &db, &kv).await?;
    let alone = alone.for_organisation(OrganisationId::DEFAULT);
    let hit = per_call(&base, 1_000_000, async || drop(ask(&alone, &db).await)).await;
    println!("    kept, versions known in memory    {hit}");
    println!("  64 callers");
    let rows = db.clone();
    let not_kept = shared(&base, 64, 1_000, move || {
        let db = rows.clone();
        async move { drop(newest(&db).await) }
    });
    println!("    rows, not kept                    {}", not_kept.await?);
    for (name, results, calls) in [
        ("kept, versions asked of the rows", &nodes, 2_000),
        ("kept, versions known in memory  ", &alone, 20_000),
    ] {
        let (results, db) = (results.clone(), db.clone());
        let hit = shared(&base, 64, calls, move || {
            let (results, db) = (results.clone(), db.clone());
            async move { drop(ask(&results, &db).await) }
        });
        println!("    {name}  {}", hit.await?);
    }
    memory(&base, &alone).await
}

async fn open(path: &std::path::Path, base: &Base) -> Result<Db, Error> {
    let config = relational::Config { path: path.to_owned(), ..relational::Config::default() };
    let db = Db::open(config, base).await?;
    db.migrate("articles", TABLES).await?;
    db.write(async |tx| {
        for id in 0..ARTICLES {
            let insert = "INSERT INTO articles (id, title) VALUES (?, ?)";
            tx.execute(insert, params![id, format!("Article number {id}")]).await?;
        }
        Ok::<_, Error>(())
    })
    .await?;
    Ok(db)
}

async fn newest(db: &Db) -> Result<Bytes, Error> {
    db.read(async |read| {
        let newest = "SELECT title FROM articles ORDER BY id DESC LIMIT 20";
        let rows = read.query(newest, &[]).await?;
        let titles = rows.iter().map(|row| row.get("title"));
        Ok(titles.collect::<Result<Vec<String>, Error>>()?.join("\n").into())
    })
    .await
}

async fn ask(results: &OrganisationResults, db: &Db) -> Result<Bytes, results::Error> {
    let question = Question::new("articles.newest", "20", SUBJECTS, HOUR);
    let db = db.clone();
    results.answer(question, move || async move { newest(&db).await }).await
}

async fn per_call(base: &Base, calls: u64, call: impl AsyncFn()) -> String {
    for _ in 0..1_000 {
        call().await;
    }
    let began = Began::now(base);
    for _ in 0..calls {
        call().await;
    }
    began.share(base, calls)
}

async fn shared<C, F>(base: &Base, callers: u64, calls: u64, call: C) -> Result<String, Failure>
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let began = Began::now(base);
    let mut running = Vec::new();
    for _ in 0..callers {
        let call = call.clone();
        running.push(base.tasks.spawn("caller", async move {
            for _ in 0..calls {
                call().await;
            }
        }));
    }
    for caller in running {
        caller.await?.ok_or("a caller panicked")?;
    }
    Ok(began.share(base, callers * calls))
}

struct Began {
    instant: std::time::Instant,
    processors: u64,
}

impl Began {
    fn now(base: &Base) -> Self {
        Self { instant: base.clock.instant(), processors: processors() }
    }

    fn share(&self, base: &Base, calls: u64) -> String {
        let time = (base.clock.instant() - self.instant).as_nanos() / u128::from(calls);
        format!("{time:>7} ns {:>7} ns", (processors() - self.processors) / calls)
    }
}

/// Nanoseconds on processors of all threads, as Linux tells; 0 elsewhere.
fn processors() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    };
    threads.map(of).sum()
}

/// Fills the memory with small answers, whose keys and places weigh most, and looks what the process takes.
async fn memory(base: &Base, results: &OrganisationResults) -> Result<(), Failure> {
    let before = resident();
    for number in 0..200_000 {
        let size = usize::try_from(1 + base.entropy.number() % 200)?;
        let key = format!("a key as long as most are, {number}");
        let question = Question::new("memory", &key, &["rows"], HOUR);
        let answer = move || async move { Ok::<_, Error>(vec![7; size].into()) };
        results.answer(question, answer).await?;
    }
    let (counted, resident) = (results.bytes() >> 20, resident().saturating_sub(before) >> 20);
    println!("small answers: {counted} MiB counted, {resident} MiB more in the process");
    Ok(())
}

/// Bytes of this process in memory, as Linux tells; 0 elsewhere.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
