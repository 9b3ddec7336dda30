//! How many jobs a second go from enqueueing to done, and how late 100,000 timers of one second begin.
//!
//! `cargo run --release -p jobs --example throughput [-- embedded|postgres|mariadb [jobs]]`

#![allow(clippy::print_stdout, reason = "it prints its figures")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it says what went wrong by ending")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base::{Base, OrganisationId, Timestamp};
use jobs::{Attempt, Config, Jobs, Kind, New};
use relational::{Address, Db, Tx};
use testkit::{MariaDb, Postgres};
use tokio::sync::Notify;

const OURS: OrganisationId = OrganisationId::DEFAULT;
/// Jobs that one transaction enqueues where it enqueues many.
const TOGETHER: usize = 500;
const TIMERS: usize = 100_000;

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

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next().unwrap_or_else(|| "embedded".to_owned());
    let count = arguments.next().map_or(50_000, |count| count.parse().expect("a number of jobs"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.db");
    let (postgres, mariadb);
    let url = match which.as_str() {
        "embedded" => String::new(),
        "postgres" => {
            postgres = Postgres::start().unwrap();
            postgres.database("jobs").unwrap()
        }
        "mariadb" => {
            mariadb = MariaDb::start().unwrap();
            mariadb.database("jobs").unwrap()
        }
        other => panic!("no database {other}: embedded, postgres or mariadb"),
    };
    let base = Base::system();
    let config = relational::Config { url: Address::new(url), path, ..Default::default() };
    let db = Db::open(config, &base).await.unwrap();
    let jobs = Jobs::open(Config::default(), &base, db.clone()).await.unwrap();
    let seen = Arc::new(Seen::default());
    jobs.handle("light", Kind::default(), handler(&seen, &base)).unwrap();
    jobs.start().await.unwrap();
    let ground = Ground { which, base, db, jobs, seen };
    ground.throughput(count / 10, TOGETHER, "to warm up").await;
    ground.throughput(count, TOGETHER, "500 to a transaction").await;
    ground.throughput(count, 1, "each in its own transaction").await;
    ground.timers().await;
    let metrics = ground.base.metrics.text();
    for line in metrics.lines().filter(|line| line.contains("transactions_again")) {
        println!("{line}");
    }
    ground.base.tasks.stop(Duration::from_secs(10)).await;
    ground.db.close().await;
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
    which: String,
    base: Base,
    db: Db,
    jobs: Jobs,
    seen: Arc<Seen>,
}

impl Ground {
    /// Many callers enqueue while the worker works; the time ends when every end is durable.
    async fn throughput(&self, count: usize, together: usize, how: &str) {
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
                    enqueue(&jobs, &db, vec![New::of(OURS, "light", "{\"number\": 1}"); some]).await;
                }
            }));
        }
        for caller in enqueuing {
            caller.await.unwrap().unwrap();
        }
        let enqueued = self.base.clock.instant() - began;
        self.seen.all.notified().await;
        while self.done() < before + count as u64 {
            self.base.clock.sleep(Duration::from_millis(1)).await;
        }
        let took = self.base.clock.instant() - began;
        println!(
            "{}: {count} jobs, {how}: {:.0} a second from enqueueing to done ({:.0} a second enqueued)",
            self.which,
            count as f64 / took.as_secs_f64(),
            count as f64 / enqueued.as_secs_f64(),
        );
    }

    async fn timers(&self) {
        self.seen.want(TIMERS);
        self.seen.late_max_micros.store(0, Ordering::Release);
        let begin = self.base.clock.now().plus(Duration::from_secs(30));
        let micros = 1_000_000 / TIMERS as i64;
        let due = |number: usize| Timestamp::from_micros(begin.micros() + number as i64 * micros);
        for some in (0..TIMERS).collect::<Vec<_>>().chunks(TOGETHER) {
            let new = some.iter().map(|number| New {
                run_at: Some(due(*number)),
                ..New::of(OURS, "light", "{}")
            });
            enqueue(&self.jobs, &self.db, new.collect()).await;
        }
        let left = begin.since(self.base.clock.now());
        assert!(left > Duration::from_secs(6), "enqueueing took too long: {left:?} left");
        self.seen.all.notified().await;
        let late = Duration::from_micros(self.seen.late_max_micros.load(Ordering::Acquire));
        println!("{}: {TIMERS} timers due in one second: the latest began {late:?} late", self.which);
    }

    /// Ends that are durable.
    fn done(&self) -> u64 {
        let text = self.base.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix("madang_jobs_done_total "));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

async fn enqueue(jobs: &Jobs, db: &Db, new: Vec<New>) {
    let jobs = jobs.clone();
    let enqueue = async move |tx: &mut Tx| jobs.enqueue_all(tx, new.clone()).await;
    db.write(enqueue).await.unwrap();
}
