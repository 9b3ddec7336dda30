use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobs::{Attempt, Config, Error, Kind, New, Outcome, State};
use parking_lot::Mutex;
use relational::Tx;

use crate::ground::{Ground, OURS, Opened, Server, config, effect, kind, living, new};

pub(crate) async fn a_dead_workers_job_runs_again_and_its_late_end_is_refused(ground: &Ground) {
    let opened = ground.open().await;
    let held: Arc<Mutex<Vec<Attempt>>> = Arc::default();
    let register = |jobs: &jobs::Jobs| {
        let held = held.clone();
        let hold = move |attempt: Attempt| {
            let number = attempt.number();
            held.lock().push(attempt.clone());
            async move {
                if number == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(attempt.done())
            }
        };
        jobs.handle("hold", kind(), hold).unwrap();
    };
    let dying = opened.server(register).await;
    let id = dying.enqueue(new("hold")).await;
    opened.until("the first attempt began", async || held.lock().len() == 1).await;
    dying.kill();
    let server = opened.other(register).await;
    server.until(id, State::Done).await;
    let (job, attempts) = server.jobs.history(OURS, id).await.unwrap();
    let outcomes: Vec<Outcome> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!((job.attempts, outcomes), (2, vec![Outcome::Lost, Outcome::Done]));
    let is_counted = async || server.metric("madang_jobs_lost_total") == 1;
    opened.until("it is counted", is_counted).await;
    // The dead one comes back and wants its effect.
    let late = held.lock()[0].clone();
    let write = async move |tx: &mut Tx| {
        effect(tx, &late).await.unwrap();
        late.complete_in(tx).await.map(drop)
    };
    let refused = opened.db.write(write).await.unwrap_err();
    assert!(matches!(refused, Error::Replaced { attempt: 1, .. }), "{refused}");
    assert!(opened.effects().await.is_empty(), "its effect went with it");
}

/// Whose effects are in rows: one for each that is done, whatever died in between.
fn register(jobs: &jobs::Jobs) {
    let patient = Kind { attempts_max: 1_000, ..kind() };
    jobs.handle_in_rows("rows", patient.clone(), effect).unwrap();
    // Some take a while, so that a worker dies with them in hand.
    let slow = |attempt: Attempt| async move {
        base::Clock::system().sleep(Duration::from_millis(20)).await;
        Ok(attempt.done())
    };
    jobs.handle("slow", patient, slow).unwrap();
}

/// Enqueues while whatever happens, and again when it does not know whether it did: under the same key.
async fn enqueue(server: &Server, count: usize) {
    for number in 0..count {
        let name = if number % 4 == 0 { "slow" } else { "rows" };
        let key = Some(jobs::Key::once(format!("n{number}")));
        let new = New { key, ..new(name) };
        while server.try_enqueue(new.clone()).await.is_err() {
            server.base.clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every job is done, and none twice: by its effect, and by the ends of its attempts.
async fn all_are_done_once(opened: &Opened, server: &Server, count: usize) {
    let sql = "SELECT COUNT(*) AS jobs FROM job WHERE state = 'done' AND kind IN ('rows', 'slow')";
    let done = async || {
        let row = opened.db.read(async |read| read.query_one(sql, &[]).await).await;
        row.map_or(0, |row: relational::Row| row.get::<i64>("jobs").unwrap())
    };
    opened.until("all are done", async || done().await == i64::try_from(count).unwrap()).await;
    let effects = opened.effects().await;
    let twice: Vec<_> = effects.iter().filter(|(_, times)| *times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(effects.len(), count - count.div_ceil(4));
    let sql = "SELECT job, outcome, COUNT(*) AS times FROM job_attempt GROUP BY job, outcome";
    let rows = opened.db.read(async |read| read.query(sql, &[]).await).await;
    let rows: Vec<relational::Row> = rows.unwrap();
    let mut outcomes: BTreeMap<String, i64> = BTreeMap::new();
    for row in rows {
        let (outcome, times): (String, i64) =
            (row.get("outcome").unwrap(), row.get("times").unwrap());
        assert!(outcome != "done" || times == 1, "a job is done {times} times");
        *outcomes.entry(outcome).or_default() += times;
    }
    eprintln!("{outcomes:?}, {} refused late", server.metric("madang_jobs_late_ends_total"));
}

pub(crate) async fn none_is_lost_or_done_twice_while_workers_die_again_and_again(ground: &Ground) {
    const COUNT: usize = 300;
    let opened = ground.open().await;
    let steady = opened.server(register).await;
    let killing = async {
        for round in 0..8 {
            let victim = opened.other(register).await;
            victim.base.clock.sleep(Duration::from_millis(60 + 17 * round)).await;
            victim.kill();
        }
    };
    tokio::join!(killing, enqueue(&steady, COUNT));
    all_are_done_once(&opened, &steady, COUNT).await;
}

pub(crate) async fn a_stopping_worker_gives_back_what_it_has(ground: &Ground) {
    let opened = ground.open().await;
    let began = Arc::new(AtomicUsize::new(0));
    let register = |jobs: &jobs::Jobs| {
        let began = began.clone();
        let work = move |attempt: Attempt| {
            began.fetch_add(1, Ordering::SeqCst);
            async move {
                if attempt.number() == 1 {
                    attempt.cancelled().cancelled().await;
                    return Err(jobs::Failed::again("asked to stop"));
                }
                Ok(attempt.done())
            }
        };
        jobs.handle("work", Kind { attempts_max: 1, ..kind() }, work).unwrap();
    };
    let few = jobs::Config { running_max: 2, ..config() };
    let stopping = opened.server_with(few, register).await;
    let ids = stopping.enqueue_all(vec![new("work"); 10]).await;
    opened.until("two have begun", async || began.load(Ordering::SeqCst) == 2).await;
    assert!(stopping.base.tasks.stop(Duration::from_secs(20)).await, "it ends");
    let states = "SELECT COUNT(*) AS jobs FROM job WHERE state = 'ready'";
    let row = opened.db.read(async |read| read.query_one(states, &[]).await).await;
    let row: relational::Row = row.unwrap();
    assert_eq!(row.get::<i64>("jobs").unwrap(), 10, "all wait again, and none counts as failed");
    let server = opened.other(register).await;
    opened.until("the others begin", async || began.load(Ordering::SeqCst) >= 12).await;
    let (_, attempts) = server.jobs.history(OURS, ids[0]).await.unwrap();
    assert_eq!(attempts[0].outcome, Outcome::Interrupted);
    drop(server);
}

pub(crate) async fn two_servers_share_the_work_and_do_each_job_once(ground: &Ground) {
    const COUNT: usize = 1_000;
    let opened = ground.open().await;
    let servers =
        [opened.other_with(living(), register).await, opened.other_with(living(), register).await];
    let mut shares = Vec::new();
    // One that the machine held up does its share of the next ones.
    for round in 1..=5 {
        let all = (0..COUNT).map(|number| new(if number % 4 == 0 { "slow" } else { "rows" }));
        servers[0].enqueue_all(all.collect()).await;
        all_are_done_once(&opened, &servers[1], round * COUNT).await;
        let done = |server: &Server| server.metric("madang_jobs_done_total");
        shares = servers.iter().map(done).collect::<Vec<u64>>();
        if shares.iter().all(|share| *share > 50) {
            return;
        }
    }
    panic!("{shares:?}");
}

pub(crate) async fn cut_connections_lose_nothing_and_double_nothing(ground: &Ground) {
    const COUNT: usize = 200;
    let opened = ground.open().await;
    let server = opened.other(register).await;
    let cutting = async {
        for _ in 0..5 {
            server.base.clock.sleep(Duration::from_millis(120)).await;
            ground.0.cut(&opened.name).unwrap();
        }
    };
    tokio::join!(cutting, enqueue(&server, COUNT));
    all_are_done_once(&opened, &server, COUNT).await;
}

pub(crate) async fn a_crash_of_the_database_loses_nothing_and_doubles_nothing(ground: &mut Ground) {
    const COUNT: usize = 150;
    let opened = ground.open().await;
    let server = opened.other(register).await;
    let half = enqueue(&server, COUNT / 2);
    tokio::join!(half, async { ground.0.crash().unwrap() });
    enqueue(&server, COUNT).await;
    all_are_done_once(&opened, &server, COUNT).await;
}

pub(crate) async fn a_delayed_job_of_a_dead_worker_begins_on_its_time(ground: &Ground) {
    let opened = ground.open().await;
    let began = Arc::new(Mutex::new(Vec::new()));
    let register = |jobs: &jobs::Jobs| {
        let began = began.clone();
        let note = move |attempt: Attempt| {
            began.lock().push((attempt.due(), base::Clock::system().now()));
            async move { Ok(attempt.done()) }
        };
        jobs.handle("note", kind(), note).unwrap();
    };
    let ahead = || Config { ahead: Duration::from_mins(1), ..config() };
    let dying = opened.server_with(ahead(), register).await;
    let run_at = dying.base.clock.now().plus(Duration::from_secs(15));
    let id = dying.enqueue(New { run_at: Some(run_at), ..new("note") }).await;
    let place = "SELECT COUNT(*) AS jobs FROM job WHERE state = 'running' AND place LIKE '~%'";
    let is_held = async || {
        let row = opened.db.read(async |read| read.query_one(place, &[]).await).await;
        row.is_ok_and(|row: relational::Row| row.get::<i64>("jobs").unwrap() == 1)
    };
    opened.until("it is claimed ahead", is_held).await;
    dying.kill();
    let server = opened.other_with(ahead(), register).await;
    server.until(id, State::Done).await;
    let began = began.lock().clone();
    assert!(began.iter().all(|(due, at)| *due == run_at && at >= due), "{began:?}");
    let (job, attempts) = server.jobs.history(OURS, id).await.unwrap();
    assert_eq!((job.attempts, attempts.len()), (2, 1), "the first one never began: {attempts:?}");
}

pub(crate) async fn a_server_that_stops_repeats_nothing_that_is_done(ground: &Ground) {
    const COUNT: usize = 2_000;
    let opened = ground.open().await;
    let ran: Arc<Mutex<BTreeMap<jobs::JobId, usize>>> = Arc::default();
    let register = |jobs: &jobs::Jobs| {
        let ran = ran.clone();
        let count = move |attempt: Attempt| {
            *ran.lock().entry(attempt.id()).or_default() += 1;
            async move { Ok(attempt.done()) }
        };
        jobs.handle("count", kind(), count).unwrap();
    };
    let mut server = opened.server(register).await;
    for part in 1..=4 {
        server.enqueue_all(vec![new("count"); COUNT / 4]).await;
        let some = COUNT / 4 * part - COUNT / 8;
        opened.until("some have run", async || ran.lock().len() >= some).await;
        assert!(server.base.tasks.stop(Duration::from_secs(20)).await, "it ends");
        server = opened.other(register).await;
    }
    opened.until("all have run", async || ran.lock().len() == COUNT).await;
    let ran = ran.lock();
    let twice = ran.values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0, "{twice} ran twice");
}

pub(crate) async fn a_late_end_is_refused_by_its_place_and_by_its_number(ground: &Ground) {
    let opened = ground.open().await;
    let held: Arc<Mutex<Vec<Attempt>>> = Arc::default();
    let register = |jobs: &jobs::Jobs| {
        let held = held.clone();
        let hold = move |attempt: Attempt| {
            held.lock().push(attempt.clone());
            async move {
                if attempt.number() == 1 {
                    return Err(jobs::Failed::again("it goes on by itself"));
                }
                std::future::pending().await
            }
        };
        jobs.handle("hold", kind(), hold).unwrap();
    };
    let end = async |late: Attempt| {
        let write = async move |tx: &mut Tx| {
            effect(tx, &late).await.unwrap();
            late.complete_in(tx).await.map(drop)
        };
        opened.db.write(write).await
    };
    // The same worker has the next attempt: only the number tells them apart.
    let dying = opened.server(register).await;
    let id = dying.enqueue(new("hold")).await;
    opened.until("the second attempt began", async || held.lock().len() == 2).await;
    let both = held.lock().clone();
    let [first, second] = &both[..] else { panic!("there are two") };
    let refused = end(first.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Replaced { attempt: 1, .. }), "{refused}");
    // Nobody has taken it since it was taken away: only the place does.
    dying.jobs.pause(OURS, "default").await.unwrap();
    dying.kill();
    let server = opened.other(register).await;
    server.until(id, State::Ready).await;
    let refused = end(second.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Replaced { attempt: 2, .. }), "{refused}");
    assert!(opened.effects().await.is_empty(), "their effects went with them");
}
