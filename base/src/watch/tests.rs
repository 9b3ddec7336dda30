use std::sync::mpsc;

use super::*;
use crate::Base;

const QUICK: Config = Config {
    every: Duration::from_millis(5),
    poll_time_max: Duration::from_millis(50),
    end_after: Duration::from_millis(200),
};

/// What [`Watch::start`] is given as end, and what it was called with.
fn end() -> (impl Fn(&str) + Send + 'static, mpsc::Receiver<String>) {
    let (said, why) = mpsc::channel();
    (move |why: &str| drop(said.send(why.to_owned())), why)
}

fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::yield_now();
    }
}

fn stuck(base: &Base, name: &str) -> Option<Stuck> {
    base.watch.stuck().into_iter().find(|stuck| stuck.name == name)
}

#[test]
fn work_that_does_not_end_is_named_while_it_runs_and_no_more_once_it_ended() {
    let base = Base::system();
    let limit = Duration::from_millis(500);
    let id = Some("r7".into());
    let begin = Begin { what: What::Read, id, place: None, told_after: limit, limit };
    let running = base.watch.begin(begin);
    running.name(&"list notes".into());
    running.step("SELECT\n  1");
    assert_eq!(stuck(&base, "list notes"), None);
    base.watch.start(QUICK, |_| {}).unwrap();
    until(|| base.metrics.text().contains("madang_stuck{what=\"read\"} 1"));
    let found = stuck(&base, "list notes").unwrap();
    assert_eq!((found.what, found.id.as_deref()), ("read", Some("r7")));
    assert_eq!(found.step.as_deref(), Some("SELECT 1"));
    running.step_ended();
    assert_eq!(stuck(&base, "list notes").unwrap().step.as_deref(), Some("after SELECT 1"));
    drop(running);
    until(|| base.metrics.text().contains("madang_stuck{what=\"read\"} 0"));
    assert_eq!(stuck(&base, "list notes"), None);
    assert!(base.metrics.text().contains("madang_stuck_told_total{what=\"read\"} 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_keeps_its_thread_is_named_with_its_place() {
    let base = Base::system();
    base.watch.start(QUICK, |_| {}).unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let spinning = base.tasks.spawn("spinning", async move { until(|| wait.try_recv().is_ok()) });
    base.tasks.spawn("patient", std::future::pending::<()>());
    let mut found = None;
    while found.is_none() {
        tokio::task::yield_now().await;
        found = stuck(&base, "spinning");
    }
    let place = found.unwrap().place.unwrap();
    assert!(place.contains("watch/tests.rs"), "{place}");
    assert_eq!(stuck(&base, "patient"), None, "waiting keeps no thread");
    go.send(()).unwrap();
    spinning.await.unwrap();
    until(|| stuck(&base, "spinning").is_none());
}

#[test]
fn the_end_is_asked_for_when_a_write_or_every_thread_of_a_group_is_stuck() {
    let base = Base::system();
    let (end, why) = end();
    base.watch.group("few", 1);
    base.watch.start(QUICK, end).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(|| sit("few"))
        .build()
        .unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let tasks = base.tasks.on(runtime.handle());
    tasks.spawn("greedy", async move { until(|| wait.try_recv().is_ok()) });
    let said = why.recv().unwrap();
    assert!(said.contains("all 1 threads of few") && said.contains("greedy"), "{said}");
    go.send(()).unwrap();
    until(|| stuck(&base, "greedy").is_none());

    let limit = Duration::from_millis(20);
    let place = Some(std::panic::Location::caller());
    let begin = |what| base.watch.begin(Begin { what, id: None, place, told_after: limit, limit });
    let read = begin(What::Read);
    let began = base.clock.instant();
    until(|| base.clock.instant() - began > QUICK.end_after * 2);
    assert!(why.try_iter().all(|said| said.contains("few")), "a read ends nothing");
    drop(read);
    let _write = begin(What::Write);
    until(|| why.recv().unwrap().contains("a write at"));
}

#[test]
fn a_thread_that_computes_without_end_rests_and_not_any_more_once_it_let_go() {
    let base = Base::system();
    let config = Config { poll_time_max: Duration::from_millis(500), ..QUICK };
    base.watch.start(config, |_| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(|| sit("lonely"))
        .build()
        .unwrap();
    let tasks = base.tasks.on(runtime.handle());
    let (say, thread) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (say_again, rested) = mpsc::channel();
    tasks.spawn("endless", async move {
        say.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        while wait.try_recv().is_err() {
            std::hint::spin_loop();
        }
    });
    let status = std::path::Path::new("/proc").join(thread.recv().unwrap()).join("status");
    // A thread that only computes gives its processor to nobody of its own will.
    let rests = move || {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = rests();
    until(|| rests() > before + 10);
    go.send(()).unwrap();
    until(|| stuck(&base, "endless").is_none());
    let clock = base.clock;
    tasks.spawn("short", async move {
        let before = rests();
        let began = clock.instant();
        while clock.instant() - began < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        say_again.send(rests() - before).unwrap();
    });
    assert_eq!(rested.recv().unwrap(), 0, "its work has let go");
}

#[test]
fn a_thread_that_only_waits_is_named_and_stays_as_quick_as_it_was() {
    let base = Base::system();
    base.watch.start(QUICK, |_| {}).unwrap();
    let (say, thread) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let waits = std::thread::spawn(move || {
        sit("waiting");
        say.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        let work = Arc::new(Work::new(What::Task, None));
        work.name.set("waits".into()).unwrap();
        let _seated = seat::take(&work);
        wait.recv().unwrap();
    });
    let stat = std::path::Path::new("/proc").join(thread.recv().unwrap()).join("stat");
    let niceness = || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
    };
    let before = niceness();
    until(|| stuck(&base, "waits").is_some_and(|stuck| stuck.held > QUICK.poll_time_max * 10));
    assert_eq!(niceness(), before);
    go.send(()).unwrap();
    waits.join().unwrap();
}

#[tokio::test]
async fn what_a_request_spawns_counts_for_it_and_what_outlives_it_does_not() {
    let base = Base::system();
    let spent = crate::Spent::default();
    let tasks = base.tasks.clone();
    let (done, mut seen) = tokio::sync::mpsc::channel(1);
    let work = async move {
        let spawned = tasks.spawn("part", async {
            crate::Spent::current().unwrap().add_statements(3);
        });
        spawned.await.unwrap();
        tasks.supervise("lasting", move || {
            let done = done.clone();
            async move { Ok(done.send(crate::Spent::current().is_none()).await?) }
        });
    };
    spent.clone().scope(work).await;
    assert_eq!(spent.statements(), 3);
    assert!(seen.recv().await.unwrap(), "a lasting task counts for itself");
}
