//! `cargo run --release -p jobs --example throughput [embedded|postgres|mariadb [JOBS]]`: how many jobs a second go
//! from enqueueing to done, how long a chain of 40 tasks takes, how late 100,000 timers of one second begin.

#![allow(clippy::print_stdout, reason = "it prints its figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base::{Base, Failure, OrganisationId, Timestamp};
use jobs::{Attempt, Config, Graph, Jobs, Kind, New, Task};
use relational::{Address, Db, Tx};
use testkit::Database;
use tokio::sync::Notify;

const OURS: OrganisationId = OrganisationId::DEFAULT;
/// Jobs that one transaction enqueues where it enqueues many.
const TOGETHER: usize = 500;
const TIMERS: usize = 100_000;
const COUNT: usize = 100_000;

/// What the handlers saw.
#[derive(Default)]
struct Seen {
    done: AtomicUsize,
    wanted: AtomicUsize,
    late_max_micros: AtomicU64,
    all: Notify,
}

impl Seen {
    fn count(&self) {
        let done = self.done.fetch_add(1, Ordering::AcqRel) + 1;
        if done == self.wanted.load(Ordering::Acquire) {
            self.all.notify_one();
        }
    }

    fn want(&self, count: usize) {
        self.done.store(0, Ordering::Release);
        self.wanted.store(count, Ordering::Release);
    }
}

/// Of jobs, from enqueueing to done.
const PER_SECOND_MIN: f64 = 5_000.0;
const CHAIN: usize = 40;
const CHAIN_MAX: Duration = Duration::from_millis(200);
const LATE_MAX: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next();
    let count = arguments.next().map_or(Ok(COUNT), |count| count.parse())?;
    let mut short = Vec::new();
    for name in ["embedded", "postgres", "mariadb"] {
        if which.as_ref().is_some_and(|which| which != name) {
            continue;
        }
        let ground = Ground::open(name).await?;
        // What falls short on MariaDB is shown, and bounds nothing.
        let faults = ground.measure(count).await?;
        if name != "mariadb" {
            short.extend(faults);
        }
        ground.base.tasks.stop(Duration::from_secs(10)).await;
        ground.db.close().await;
    }
    if short.is_empty() { Ok(()) } else { Err(short.join("; ").into()) }
}

fn handler(
    seen: &Arc<Seen>,
    base: &Base,
) -> impl Fn(Attempt) -> std::future::Ready<Result<jobs::Done, jobs::Failed>> + Send + Sync + 'static
{
    let (seen, clock) = (seen.clone(), base.clock.clone());
    move |attempt| {
        let late = clock.now().since(attempt.due()).as_micros();
        seen.late_max_micros.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::AcqRel);
        seen.count();
        std::future::ready(Ok(attempt.done()))
    }
}

struct Ground {
    name: &'static str,
    base: Base,
    db: Db,
    jobs: Jobs,
    seen: Arc<Seen>,
    /// A server ends with it.
    _database: Database,
    _folder: tempfile::TempDir,
}

impl Ground {
    async fn open(name: &'static str) -> Result<Self, Failure> {
        let folder = tempfile::tempdir_in(".")?;
        let path = folder.path().join("rows.db");
        let database = match name {
            "postgres" => Database::postgres()?,
            "mariadb" => Database::mariadb()?,
            _ => Database::Embedded,
        };
        let url = database.make("jobs")?;
        let base = Base::system();
        let config = relational::Config { url: Address::new(url), path, ..Default::default() };
        let db = Db::open(config, &base).await?;
        let jobs = Jobs::open(Config::default(), &base, db.clone()).await?;
        let seen = Arc::new(Seen::default());
        jobs.handle("light", Kind::default(), handler(&seen, &base))?;
        jobs.start().await?;
        Ok(Self { name, base, db, jobs, seen, _database: database, _folder: folder })
    }

    /// Says what fell short.
    async fn measure(&self, count: usize) -> Result<Vec<String>, Failure> {
        let mut short = Vec::new();
        let chain = self.chain().await?;
        if chain > CHAIN_MAX {
            short.push(format!("{}: a chain took {chain:?}", self.name));
        }
        self.throughput(count / 10, TOGETHER, "to warm up").await?;
        for (together, how) in
            [(TOGETHER, "500 to a transaction"), (1, "each in its own transaction")]
        {
            let per_second = self.throughput(count, together, how).await?;
            if per_second < PER_SECOND_MIN {
                short.push(format!("{}: {per_second:.0} a second, {how}", self.name));
            }
        }
        let late = self.timers().await?;
        if late > LATE_MAX {
            short.push(format!("{}: a timer was {late:?} late", self.name));
        }
        Ok(short)
    }

    /// The median of some.
    async fn chain(&self) -> Result<Duration, Failure> {
        let mut took = Vec::new();
        for round in 0..11 {
            self.seen.want(CHAIN);
            let began = self.base.clock.instant();
            let graph = (0..CHAIN).fold(Graph::new(OURS, "chain"), |graph, number| {
                let after = number.checked_sub(1).map(|before| format!("t{before}"));
                graph.task_after(format!("t{number}"), Task::of("light", "{}"), after)
            });
            let jobs = self.jobs.clone();
            let enqueue = async move |tx: &mut Tx| jobs.enqueue_graph(tx, graph.clone()).await;
            self.db.write(enqueue).await?;
            self.seen.all.notified().await;
            if round > 0 {
                took.push(self.base.clock.instant() - began);
            }
        }
        took.sort();
        let median = took[took.len() / 2];
        println!("{}: a chain of {CHAIN} light tasks took {median:?}", self.name);
        Ok(median)
    }

    /// Many callers enqueue while the worker works; the time ends when every end is durable.
    async fn throughput(&self, count: usize, together: usize, how: &str) -> Result<f64, Failure> {
        self.seen.want(count);
        let before = self.done();
        let began = self.base.clock.instant();
        let callers = if together == 1 { 256 } else { 4 };
        let mut enqueuing = Vec::new();
        for caller in 0..callers {
            let (jobs, db) = (self.jobs.clone(), self.db.clone());
            let share = count / callers + usize::from(caller < count % callers);
            enqueuing.push(self.base.tasks.spawn("enqueue", async move {
                let mut left = share;
                while left > 0 {
                    let some = left.min(together);
                    left -= some;
                    enqueue(&jobs, &db, vec![New::of(OURS, "light", "{\"number\": 1}"); some])
                        .await?;
                }
                Ok::<_, Failure>(())
            }));
        }
        for caller in enqueuing {
            caller.await?.ok_or("a caller panicked")??;
        }
        let enqueued = self.base.clock.instant() - began;
        self.seen.all.notified().await;
        while self.done() < before + count as u64 {
            self.base.clock.sleep(Duration::from_millis(1)).await;
        }
        let took = self.base.clock.instant() - began;
        let per_second = count as f64 / took.as_secs_f64();
        println!(
            "{}: {count} jobs, {how}: {per_second:.0} a second from enqueueing to done ({:.0} a second enqueued)",
            self.name,
            count as f64 / enqueued.as_secs_f64(),
        );
        Ok(per_second)
    }

    async fn timers(&self) -> Result<Duration, Failure> {
        self.seen.want(TIMERS);
        self.seen.late_max_micros.store(0, Ordering::Release);
        let begin = self.base.clock.now().plus(Duration::from_secs(30));
        let micros = 1_000_000 / i64::try_from(TIMERS).unwrap_or(1);
        let due = |number: usize| {
            Timestamp::from_micros(begin.micros() + i64::try_from(number).unwrap_or(0) * micros)
        };
        for some in (0..TIMERS).collect::<Vec<_>>().chunks(TOGETHER) {
            let new = some
                .iter()
                .map(|number| New { run_at: Some(due(*number)), ..New::of(OURS, "light", "{}") });
            enqueue(&self.jobs, &self.db, new.collect()).await?;
        }
        let left = begin.since(self.base.clock.now());
        if left < Duration::from_secs(6) {
            return Err(format!("enqueueing took too long: {left:?} left").into());
        }
        self.seen.all.notified().await;
        let late = Duration::from_micros(self.seen.late_max_micros.load(Ordering::Acquire));
        println!(
            "{}: {TIMERS} timers due in one second: the latest began {late:?} late",
            self.name
        );
        Ok(late)
    }

    /// Ends that are durable.
    fn done(&self) -> u64 {
        let text = self.base.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix("madang_jobs_done_total "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

async fn enqueue(jobs: &Jobs, db: &Db, new: Vec<New>) -> Result<(), Failure> {
    let jobs = jobs.clone();
    let enqueue = async move |tx: &mut Tx| jobs.enqueue_all(tx, new.clone()).await;
    db.write(enqueue).await?;
    Ok(())
}
