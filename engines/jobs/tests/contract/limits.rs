use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use jobs::{Attempt, Config, Error, Kind, New, State};
use parking_lot::Mutex;

use crate::ground::{Ground, OURS, THEIRS, config, kind, living, new, nothing};

/// How many run now and ran at most, by name.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<HashMap<String, (usize, usize)>>>);

impl Counted {
    fn enter(&self, name: &str) {
        let mut counts = self.0.lock();
        let count = counts.entry(name.to_owned()).or_default();
        count.0 += 1;
        count.1 = count.1.max(count.0);
    }

    fn leave(&self, name: &str) {
        self.0.lock().get_mut(name).unwrap().0 -= 1;
    }

    fn most(&self, name: &str) -> usize {
        self.0.lock().get(name).map_or(0, |count| count.1)
    }
}

pub(crate) async fn a_key_and_a_kind_run_as_many_as_they_may_and_none_is_forgotten(
    ground: &Ground,
) {
    let opened = ground.open().await;
    let counted = Counted::default();
    let register = |jobs: &jobs::Jobs| {
        let counted = counted.clone();
        let work = move |attempt: Attempt| {
            let (counted, clock) = (counted.clone(), base::Clock::system());
            async move {
                let names = [
                    attempt.kind().to_owned(),
                    format!("{}/{}", attempt.kind(), String::from_utf8_lossy(attempt.payload())),
                ];
                for name in &names {
                    counted.enter(name);
                }
                clock.sleep(Duration::from_millis(2)).await;
                for name in &names {
                    counted.leave(name);
                }
                match attempt.number() {
                    1 if attempt.id().bytes()[15].is_multiple_of(4) => Err("once more".into()),
                    _ => Ok(attempt.done()),
                }
            }
        };
        let keyed = Kind { per_key_max: 2, ..kind() };
        jobs.handle("keyed", keyed, work.clone()).unwrap();
        jobs.handle("few", Kind { running_max: Some(3), ..kind() }, work).unwrap();
    };
    let servers =
        [opened.server_with(living(), register).await, opened.other_with(living(), register).await];
    let mut all = Vec::new();
    for number in 0..60 {
        let key = format!("k{}", number % 3);
        let concurrency_key = Some(key.clone());
        all.push(New { concurrency_key, payload: key.into(), ..new("keyed") });
        all.push(new("few"));
    }
    let ids = servers[0].enqueue_all(all).await;
    for id in ids {
        servers[0].until(id, State::Done).await;
    }
    for key in ["k0", "k1", "k2"] {
        assert!((1..=2).contains(&counted.most(&format!("keyed/{key}"))), "{key}");
    }
    assert!((2..=3).contains(&counted.most("few")), "{}", counted.most("few"));
    let left = "SELECT COUNT(*) AS rows FROM job_gate";
    let left = opened.db.read(async |read| read.query_one(left, &[]).await).await;
    let left: relational::Row = left.unwrap();
    assert_eq!(left.get::<i64>("rows").unwrap(), 0);
}

pub(crate) async fn an_organisation_with_many_jobs_lets_the_others_have_their_turn(
    ground: &Ground,
) {
    const MANY: usize = 4_000;
    let opened = ground.open().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let busy = jobs::Config { running_max: 4, claim_max: 64, ..config() };
    let server = opened
        .server_with(busy, |jobs| {
            let order = order.clone();
            let note = move |attempt: Attempt| {
                order.lock().push(attempt.organisation());
                async move {
                    base::Clock::system().sleep(Duration::from_millis(1)).await;
                    Ok(attempt.done())
                }
            };
            jobs.handle("note", kind(), note).unwrap();
        })
        .await;
    server.enqueue_all(vec![new("note"); MANY]).await;
    opened.until("the many have begun", async || order.lock().len() > 100).await;
    let before = order.lock().len();
    let few = vec![New { organisation: THEIRS, ..new("note") }; 50];
    server.enqueue_all(few).await;
    let theirs = || order.lock().iter().filter(|of| **of == THEIRS).count();
    opened.until("the few have run", async || theirs() == 50).await;
    let place = order.lock().iter().rposition(|of| *of == THEIRS).unwrap();
    // Half of the beginnings are theirs, once what was claimed before them has begun.
    let behind = place - before;
    assert!(behind < 1_500, "the last of 50 began behind {behind} others");
    assert!(
        server.jobs.counts(OURS).await.unwrap()[&State::Ready] > 0,
        "the many were not done before"
    );
}

pub(crate) async fn what_is_too_large_or_unknown_is_refused(ground: &Ground) {
    let opened = ground.open().await;
    let small = jobs::Config { payload_bytes_max: 10, enqueue_max: 3, ..config() };
    let server =
        opened.server_with(small, |jobs| jobs.handle("note", kind(), nothing).unwrap()).await;
    let refused = async |new: New| server.try_enqueue(new).await.unwrap_err();
    assert!(matches!(refused(new("other")).await, Error::NoHandler(_)));
    let long = New { payload: vec![b'x'; 11], ..new("note") };
    assert_eq!(refused(long).await.to_string(), "the payload is longer than 10 bytes");
    for queue in ["a/b", "", "Ä"] {
        let wrong = refused(New { queue: Some(queue.into()), ..new("note") }).await;
        assert_eq!(wrong.kind(), ErrorKind::Invalid, "{queue}");
    }
    let key = Some(jobs::Key::once("k".repeat(201)));
    assert_eq!(refused(New { key, ..new("note") }).await.kind(), ErrorKind::Invalid);
    let jobs = server.jobs.clone();
    let many =
        async move |tx: &mut relational::Tx| jobs.enqueue_all(tx, vec![new("note"); 4]).await;
    assert_eq!(server.db.write(many).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(matches!(
        server.jobs.handle("note", kind(), nothing),
        Err(Error::HandledTwice("note"))
    ));
}

pub(crate) async fn a_job_that_ended_where_its_kind_is_unknown_holds_no_limit(ground: &Ground) {
    let opened = ground.open().await;
    let one = Kind { running_max: Some(1), ..kind() };
    let hold = |_| std::future::pending();
    let dying = opened.server(|jobs| jobs.handle("one", one.clone(), hold).unwrap()).await;
    let id = dying.enqueue(new("one")).await;
    dying.until(id, State::Running).await;
    dying.kill();
    // One that knows nothing of the kind takes the dead one's job away and ends it.
    let stranger = opened.other(|_| {}).await;
    stranger.jobs.cancel(OURS, id).await.unwrap();
    stranger.until(id, State::Cancelled).await;
    let server = opened.other(|jobs| jobs.handle("one", one.clone(), nothing).unwrap()).await;
    let next = server.enqueue(new("one")).await;
    server.until(next, State::Done).await;
}

pub(crate) async fn jobs_that_a_limit_holds_back_count_as_waiting(ground: &Ground) {
    let opened = ground.open().await;
    let hold = |_| std::future::pending();
    let handle = |jobs: &jobs::Jobs| jobs.handle("hold", kind(), hold).unwrap();
    let server = opened.server_with(living(), handle).await;
    let same = New { concurrency_key: Some("k".into()), ..new("hold") };
    let ids = server.enqueue_all(vec![same.clone(); 10]).await;
    server.until(ids[9], State::Limited).await;
    // It counts when it starts.
    let few = Config { unfinished_max: 5, ..living() };
    let other = opened.server_with(few, handle).await;
    let refused = async || {
        let refused = other.try_enqueue(same.clone()).await;
        matches!(refused, Err(jobs::Error::TooManyWaiting { unfinished_max: 5 }))
    };
    opened.until("those that wait are counted", refused).await;
    assert!(server.job(ids[0]).await.state == State::Running);
}
