use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, PageRequest, Timestamp};
use jobs::{
    Attempt, Config, Error, FORGET, FORGET_SCHEDULE, Filter, Kind, Missed, New, NewSchedule, State,
};
use parking_lot::Mutex;
use relational::{Tx, params};

use crate::ground::{Ground, OURS, THEIRS, config, kind, new, nothing};

pub(crate) async fn a_delayed_job_begins_on_time_and_at_once_when_asked(ground: &Ground) {
    let opened = ground.open().await;
    let late = Arc::new(Mutex::new(Vec::new()));
    let server = opened
        .server(|jobs| {
            let late = late.clone();
            let note = move |attempt: Attempt| {
                let now = base::Clock::system().now();
                late.lock().push((attempt.due(), now));
                async move { Ok(attempt.done()) }
            };
            // One kind is claimed ahead of its time, the other by its lane only.
            jobs.handle("note", kind(), note.clone()).unwrap();
            jobs.handle("few", Kind { running_max: Some(100), ..kind() }, note).unwrap();
        })
        .await;
    let now = server.base.clock.now();
    let mut all = Vec::new();
    for number in 0..60 {
        let run_at = Some(now.plus(Duration::from_millis(100 + 10 * number)));
        all.push(New { run_at, ..new(if number % 2 == 0 { "note" } else { "few" }) });
    }
    let ids = server.enqueue_all(all).await;
    let hour = New { run_at: Some(now.plus(Duration::from_hours(1))), ..new("note") };
    let soon = New { run_at: Some(now.plus(Duration::from_mins(1))), ..new("note") };
    let asked = server.enqueue_all(vec![hour, soon]).await;
    for id in ids {
        server.until(id, State::Done).await;
    }
    let latest = {
        let late = late.lock();
        assert_eq!(late.len(), 60);
        assert!(late.iter().all(|(due, began)| began >= due), "none began before its time");
        late.iter().map(|(due, began)| began.since(*due)).max().unwrap()
    };
    // The proof has the true bound; beside other tests only a timer that waits for the next look is told from a loaded machine.
    assert!(latest < Duration::from_millis(4_500), "{latest:?}");
    for id in &asked {
        assert_eq!(server.job(*id).await.state, State::Scheduled);
        server.jobs.run_now(OURS, *id).await.unwrap();
    }
    opened.until("those asked for have run", async || late.lock().len() == 62).await;
    server.until(asked[0], State::Done).await;
    let error = server.jobs.run_now(OURS, asked[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

/// Puts a schedule's next time into the past, as an absence does.
async fn miss(db: &relational::Db, name: &'static str, next: Timestamp) {
    let miss = async move |tx: &mut Tx| {
        let update = "UPDATE job_schedule SET next = ? WHERE name = ?";
        tx.execute(update, params![next, name]).await
    };
    assert_eq!(Result::<u64, relational::Error>::unwrap(db.write(miss).await), 1);
}

pub(crate) async fn a_schedule_enqueues_each_of_its_times_once(ground: &Ground) {
    let opened = ground.open().await;
    let register = |jobs: &jobs::Jobs| {
        jobs.handle("tick", Kind { is_open: true, ..kind() }, nothing).unwrap();
        jobs.handle("inner", kind(), nothing).unwrap();
    };
    let of = |name: &str, missed| NewSchedule {
        missed,
        zone: "Asia/Seoul".into(),
        ..NewSchedule::of(OURS, name, "tick", "0 * * * *".parse().unwrap())
    };
    let made = opened.server(register).await;
    for (name, missed) in [("once", Missed::Once), ("all", Missed::All), ("skip", Missed::Skip)] {
        let schedule = made.jobs.create_schedule(of(name, missed)).await.unwrap();
        assert!(schedule.next.is_some_and(|next| next > made.base.clock.now()));
    }
    let twice = made.jobs.create_schedule(of("once", Missed::Once)).await.unwrap_err();
    assert!(matches!(twice, Error::ScheduleExists(_)));
    for (wrong, kind) in [
        (NewSchedule { kind: "inner".into(), ..of("w", Missed::Once) }, ErrorKind::Invalid),
        (NewSchedule { kind: "gone".into(), ..of("w", Missed::Once) }, ErrorKind::Conflict),
        (NewSchedule { zone: "Mars".into(), ..of("w", Missed::Once) }, ErrorKind::Invalid),
        (NewSchedule { name: "Ä/b".into(), ..of("w", Missed::Once) }, ErrorKind::Invalid),
    ] {
        assert_eq!(made.jobs.create_schedule(wrong).await.unwrap_err().kind(), kind);
    }
    made.jobs.pause_schedule(OURS, "once", true).await.unwrap();
    let paused = made.jobs.schedules(OURS).await.unwrap();
    assert!(paused.iter().any(|of| of.new.name == "once" && of.next.is_none() && of.is_paused));
    made.jobs.pause_schedule(OURS, "once", false).await.unwrap();
    made.kill();
    // Nobody was there for ten hours and half of one.
    let hour = Duration::from_hours(1);
    let now = opened.base.clock.now();
    let whole = Timestamp::from_micros(now.micros() - now.micros() % 3_600_000_000);
    for name in ["once", "all", "skip"] {
        miss(&opened.db, name, whole.minus(9 * hour)).await;
    }
    let servers = [opened.server(register).await, opened.other(register).await];
    let ticks = async || {
        let filter = Filter { kind: Some("tick".into()), ..Filter::default() };
        servers[0].jobs.jobs(OURS, filter, PageRequest::default()).await.unwrap().items
    };
    opened.until("what was missed is done", async || ticks().await.len() >= 11).await;
    for job in ticks().await {
        servers[0].until(job.id, State::Done).await;
    }
    let keys: Vec<String> = ticks().await.into_iter().map(|job| job.key.unwrap()).collect();
    let count = |name: &str| keys.iter().filter(|key| key.starts_with(name)).count();
    // Where the hour has just begun, the time of now is not missed.
    let is_punctual = now.since(whole) < Config::default().late_max;
    assert_eq!((count("once@"), count("all@")), (1, 10), "{keys:?}");
    assert_eq!(count("skip@"), usize::from(is_punctual), "{keys:?}");
    let schedules = servers[0].jobs.schedules(OURS).await.unwrap();
    assert!(schedules.iter().all(|of| of.next.is_some_and(|next| next > now)), "{schedules:?}");
    servers[0].jobs.delete_schedule(OURS, "all").await.unwrap();
    let gone = servers[0].jobs.delete_schedule(OURS, "all").await.unwrap_err();
    assert!(matches!(gone, Error::NoSchedule(_)));
    let built_in = servers[0].jobs.delete_schedule(OURS, FORGET_SCHEDULE).await.unwrap_err();
    assert!(matches!(built_in, Error::ScheduleIsBuiltIn(_)));
    let theirs = servers[0].jobs.pause_schedule(THEIRS, "once", true).await.unwrap_err();
    assert_eq!(theirs.kind(), ErrorKind::NotFound);
}

pub(crate) async fn finished_jobs_are_forgotten_in_their_time(ground: &Ground) {
    let opened = ground.open().await;
    let server = opened
        .server_with(config(), |jobs| {
            jobs.handle("note", kind(), nothing).unwrap();
            let dead = |_| async { Err(jobs::Failed::dead("no")) };
            jobs.handle("dead", kind(), dead).unwrap();
        })
        .await;
    let key = Some(jobs::Key::once("k"));
    let (old, kept) = (server.enqueue(New { key: key.clone(), ..new("note") }).await, {
        server.enqueue(new("note")).await
    });
    let dead = server.enqueue(new("dead")).await;
    let graph = jobs::Graph::new(OURS, "old").task("a", jobs::Task::of("note", "{}"), []);
    let jobs = server.jobs.clone();
    let run = async move |tx: &mut Tx| jobs.enqueue_graph(tx, graph.clone()).await;
    let run: jobs::RunId = server.db.write(run).await.unwrap();
    let task = server.jobs.run(OURS, run).await.unwrap().tasks[0].id;
    for (id, state) in
        [(old, State::Done), (kept, State::Done), (dead, State::Dead), (task, State::Done)]
    {
        server.until(id, state).await;
    }
    // Ten days ago, by its row and by its id.
    let days = |days: u64| server.base.clock.now().minus(Duration::from_hours(24 * days));
    let backdate = async |id: jobs::JobId, finished: Timestamp| {
        let mut bytes = *id.bytes();
        let millis = u64::try_from(finished.millis()).unwrap().to_be_bytes();
        bytes[..6].copy_from_slice(&millis[2..]);
        let older = jobs::JobId::from_bytes(bytes);
        let change = async move |tx: &mut Tx| {
            let update = "UPDATE job SET id = ?, finished = ? WHERE id = ?";
            tx.execute(update, params![older, finished, id]).await?;
            let update = "UPDATE job_key SET job = ? WHERE job = ?";
            tx.execute(update, params![older, id]).await?;
            Ok::<_, relational::Error>(())
        };
        server.db.write(change).await.unwrap();
        older
    };
    let (old, dead) = (backdate(old, days(10)).await, backdate(dead, days(10)).await);
    let id = server.enqueue(new(FORGET)).await;
    server.until(id, State::Done).await;
    let (_, attempts) = server.jobs.history(OURS, id).await.unwrap();
    assert_eq!(attempts[0].log, "1 finished jobs were deleted\n");
    assert!(server.jobs.job(OURS, old).await.is_err());
    server.jobs.job(OURS, kept).await.unwrap();
    server.jobs.job(OURS, dead).await.unwrap();
    server.jobs.run(OURS, run).await.unwrap();
    let again = server.try_enqueue(New { key, ..new("note") }).await.unwrap();
    assert!(matches!(again, jobs::Enqueued::Added(_)), "the key went with its job");
    let dead = backdate(dead, days(40)).await;
    let id = server.enqueue(new(FORGET)).await;
    server.until(id, State::Done).await;
    assert!(server.jobs.job(OURS, dead).await.is_err());
}

pub(crate) async fn an_attempt_is_told_the_same_time_however_often_it_is_tried(ground: &Ground) {
    let opened = ground.open().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let server = opened
        .server(|jobs| {
            let told = told.clone();
            let fail = move |attempt: Attempt| {
                told.lock().push(attempt.due());
                async move { Err(jobs::Failed::again("not yet")) }
            };
            jobs.handle("fail", Kind { attempts_max: 3, ..kind() }, fail).unwrap();
        })
        .await;
    let run_at = server.base.clock.now().plus(Duration::from_millis(100));
    let id = server.enqueue(New { run_at: Some(run_at), ..new("fail") }).await;
    server.until(id, State::Dead).await;
    server.jobs.retry(OURS, id).await.unwrap();
    opened.until("it was tried again by hand", async || told.lock().len() == 6).await;
    assert_eq!(*told.lock(), [run_at; 6]);
}

pub(crate) async fn a_ready_job_begins_though_the_clock_was_set_back(ground: &Ground) {
    let opened = ground.open().await;
    let late = opened.base.clock.now();
    let register = |jobs: &jobs::Jobs| jobs.handle("note", kind(), nothing).unwrap();
    let before = opened.server_at(late, register).await;
    before.jobs.pause(OURS, "default").await.unwrap();
    let id = before.enqueue(new("note")).await;
    assert_eq!(before.job(id).await.state, State::Ready);
    // A claim of its that came after the others went on would be a dead server's until its clock's lease is over.
    before.killed().await;
    let early = late.minus(Duration::from_hours(1));
    let after = opened.server_at(early, register).await;
    after.jobs.resume(OURS, "default").await.unwrap();
    after.until(id, State::Done).await;
}
