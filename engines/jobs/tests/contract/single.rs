use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{ErrorKind, PageRequest};
use futures::future::join_all;
use jobs::{Cancelled, Enqueued, Error, Failed, Filter, Key, Kind, New, Outcome, Priority, State};
use parking_lot::Mutex;
use relational::Tx;
use tokio::sync::Semaphore;

use crate::ground::{Ground, OURS, THEIRS, effect, kind, new, nothing};

pub(crate) async fn a_job_runs_once_its_transaction_is_committed_and_never_when_it_is_not(
    ground: &Ground,
) {
    let opened = ground.open().await;
    let server =
        opened.server(|jobs| jobs.handle_in_rows("note", Kind::default(), effect).unwrap()).await;
    let jobs = server.jobs.clone();
    let rolled_back = async move |tx: &mut Tx| {
        jobs.enqueue(tx, new("note")).await?;
        Err::<(), Error>(Error::Config("the caller changed its mind".into()))
    };
    assert!(server.db.write(rolled_back).await.is_err());
    let id = server.enqueue(new("note")).await;
    server.until(id, State::Done).await;
    assert_eq!(opened.effects().await, [(id, 1)]);
    let (job, attempts) = server.jobs.history(OURS, id).await.unwrap();
    assert_eq!((job.attempts, attempts.len()), (1, 1));
    assert_eq!((attempts[0].number, attempts[0].outcome), (1, Outcome::Done));
    assert!(job.created <= attempts[0].began && attempts[0].began <= attempts[0].ended);
    let is_counted = async || server.metric("madang_jobs_done_total") == 1;
    opened.until("it is counted", is_counted).await;
}

pub(crate) async fn a_key_is_one_job_however_many_ask_at_once(ground: &Ground) {
    let opened = ground.open().await;
    let gate = Arc::new(Semaphore::new(0));
    let server = opened
        .server(|jobs| {
            let gate = gate.clone();
            let wait = move |attempt: jobs::Attempt| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await?.forget();
                    Ok(attempt.done())
                }
            };
            jobs.handle("wait", Kind::default(), wait).unwrap();
        })
        .await;
    let once = New { key: Some(Key::once("order-7")), ..new("wait") };
    let asked = (0..20).map(|_| server.try_enqueue(once.clone()));
    let asked: Vec<Enqueued> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    let ids: BTreeSet<_> = asked.iter().map(|asked| asked.id()).collect();
    let added = asked.iter().filter(|asked| matches!(asked, Enqueued::Added(_))).count();
    assert_eq!((ids.len(), added), (1, 1));
    let refresh = New { key: Some(Key::while_unfinished("refresh")), ..new("wait") };
    let first = server.enqueue(refresh.clone()).await;
    assert_eq!(server.enqueue(refresh.clone()).await, first);
    let elsewhere = New { organisation: THEIRS, ..refresh.clone() };
    assert_ne!(server.enqueue(elsewhere).await, first);
    gate.add_permits(3);
    server.until(first, State::Done).await;
    let again = server.enqueue(refresh).await;
    assert_ne!(again, first, "the first is finished");
    assert_eq!(server.enqueue(once).await, asked[0].id(), "it is kept, and its key with it");
    gate.add_permits(1);
    server.until(again, State::Done).await;
}

pub(crate) async fn a_failed_job_is_tried_again_until_it_is_dead_and_then_by_hand(ground: &Ground) {
    let opened = ground.open().await;
    let tried = Arc::new(AtomicUsize::new(0));
    let server = opened
        .server(|jobs| {
            let tried = tried.clone();
            let fail = move |attempt: jobs::Attempt| {
                let number = tried.fetch_add(1, Ordering::SeqCst) + 1;
                async move {
                    attempt.log(format!("try {number}"));
                    match number {
                        1..4 => Err(Failed::again(format!("no {number}"))),
                        _ => Ok(attempt.done()),
                    }
                }
            };
            jobs.handle("fail", Kind { attempts_max: 3, ..kind() }, fail).unwrap();
        })
        .await;
    let id = server.enqueue(new("fail")).await;
    server.until(id, State::Dead).await;
    assert_eq!(tried.load(Ordering::SeqCst), 3);
    let (job, attempts) = server.jobs.history(OURS, id).await.unwrap();
    assert_eq!(job.last_error.as_deref(), Some("no 3"));
    let errors: Vec<_> = attempts.iter().map(|at| (at.error.as_deref(), at.log.as_str())).collect();
    assert_eq!(
        errors,
        [(Some("no 1"), "try 1\n"), (Some("no 2"), "try 2\n"), (Some("no 3"), "try 3\n")]
    );
    server.jobs.retry(OURS, id).await.unwrap();
    server.until(id, State::Done).await;
    let (job, attempts) = server.jobs.history(OURS, id).await.unwrap();
    assert_eq!((job.attempts, attempts.len(), job.last_error), (4, 4, None));
    let again = server.jobs.retry(OURS, id).await.unwrap_err();
    assert!(matches!(again, Error::WrongState { state: State::Done, .. }), "{again}");
    let is_counted = async || server.metric("madang_jobs_dead_total") == 1;
    opened.until("it is counted", is_counted).await;
}

pub(crate) async fn a_panic_and_a_handler_without_end_are_failures(ground: &Ground) {
    let opened = ground.open().await;
    let server = opened
        .server(|jobs| {
            let once = Kind { attempts_max: 1, ..kind() };
            let panic = |attempt: jobs::Attempt| async move {
                assert_eq!(attempt.number(), 0, "over the edge");
                Ok(attempt.done())
            };
            jobs.handle("panic", once.clone(), panic).unwrap();
            let short = Kind { time_max: Duration::from_millis(30), ..once };
            let endless = |_| std::future::pending();
            jobs.handle("endless", short, endless).unwrap();
            jobs.handle("note", Kind::default(), nothing).unwrap();
        })
        .await;
    let ids = [server.enqueue(new("panic")).await, server.enqueue(new("endless")).await];
    for (id, reason) in ids.into_iter().zip(["over the edge", "longer than 30ms"]) {
        server.until(id, State::Dead).await;
        let error = server.job(id).await.last_error.unwrap();
        assert!(error.contains(reason), "{error}");
    }
    let id = server.enqueue(new("note")).await;
    server.until(id, State::Done).await;
    server.jobs.discard(OURS, ids[0]).await.unwrap();
    assert_eq!(server.job(ids[0]).await.state, State::Discarded);
    assert!(server.jobs.discard(OURS, id).await.is_err());
}

pub(crate) async fn a_job_that_can_never_succeed_is_dead_at_once_and_one_that_is_early_waits(
    ground: &Ground,
) {
    let opened = ground.open().await;
    let server = opened
        .server(|jobs| {
            let read = |attempt: jobs::Attempt| async move {
                attempt.json::<Vec<u32>>()?;
                Ok(attempt.done())
            };
            jobs.handle("read", kind(), read).unwrap();
            let early = |attempt: jobs::Attempt| async move {
                match attempt.number() {
                    1..6 => Err(Failed::later(Duration::from_millis(1), "not there yet")),
                    _ => Ok(attempt.done()),
                }
            };
            jobs.handle("early", Kind { attempts_max: 2, ..kind() }, early).unwrap();
        })
        .await;
    let wrong = server.enqueue(new("read")).await;
    let right = server.enqueue(New { payload: b"[1, 2]".to_vec(), ..new("read") }).await;
    let early = server.enqueue(new("early")).await;
    server.until(wrong, State::Dead).await;
    server.until(right, State::Done).await;
    server.until(early, State::Done).await;
    assert_eq!(server.job(wrong).await.attempts, 1);
    let (_, attempts) = server.jobs.history(OURS, early).await.unwrap();
    assert_eq!(attempts.iter().filter(|at| at.outcome == Outcome::Early).count(), 5);
}

pub(crate) async fn the_urgent_come_first_then_the_early(ground: &Ground) {
    let opened = ground.open().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let one_at_a_time =
        jobs::Config { running_max: 1, buffer_time: Duration::ZERO, ..crate::ground::config() };
    let server = opened
        .server_with(one_at_a_time, |jobs| {
            let order = order.clone();
            let note = move |attempt: jobs::Attempt| {
                order.lock().push(attempt.id());
                async move { Ok(attempt.done()) }
            };
            jobs.handle("note", Kind::default(), note).unwrap();
        })
        .await;
    let wanted = [
        Priority::Low,
        Priority::Normal,
        Priority::Urgent,
        Priority::Normal,
        Priority::High,
        Priority::Urgent,
    ];
    let all = wanted.map(|priority| New { priority, ..new("note") });
    let ids = server.enqueue_all(all.to_vec()).await;
    for id in &ids {
        server.until(*id, State::Done).await;
    }
    let expected = [2, 5, 4, 1, 3, 0].map(|place: usize| ids[place]);
    assert_eq!(*order.lock(), expected);
}

pub(crate) async fn a_cancelled_job_does_not_begin_and_a_running_one_stops(ground: &Ground) {
    let opened = ground.open().await;
    let began = Arc::new(Semaphore::new(0));
    let server = opened
        .server(|jobs| {
            let polite = began.clone();
            let polite = move |attempt: jobs::Attempt| {
                polite.add_permits(1);
                async move {
                    attempt.cancelled().cancelled().await;
                    Err(Failed::again("stopped half-way"))
                }
            };
            jobs.handle("polite", kind(), polite).unwrap();
            let deaf = began.clone();
            let deaf = move |_| {
                deaf.add_permits(1);
                std::future::pending()
            };
            jobs.handle("deaf", kind(), deaf).unwrap();
            jobs.handle("note", kind(), nothing).unwrap();
        })
        .await;
    let later = server.base.clock.now().plus(Duration::from_hours(1));
    let waiting = server.enqueue(New { run_at: Some(later), ..new("note") }).await;
    assert_eq!(server.jobs.cancel(OURS, waiting).await.unwrap(), Cancelled::AtOnce);
    assert_eq!(server.job(waiting).await.state, State::Cancelled);
    for (name, reason) in [("polite", "stopped half-way"), ("deaf", "was ended")] {
        let id = server.enqueue(new(name)).await;
        began.acquire().await.unwrap().forget();
        assert_eq!(server.jobs.cancel(OURS, id).await.unwrap(), Cancelled::Asked);
        server.until(id, State::Cancelled).await;
        let job = server.job(id).await;
        assert!(job.last_error.as_ref().unwrap().contains(reason), "{job:?}");
        assert_eq!(job.attempts, 1);
    }
    let error = server.jobs.cancel(OURS, waiting).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    server.jobs.retry(OURS, waiting).await.unwrap();
    server.until(waiting, State::Done).await;
}

pub(crate) async fn a_paused_queue_begins_nothing_and_the_others_go_on(ground: &Ground) {
    let opened = ground.open().await;
    let server = opened
        .server(|jobs| {
            jobs.handle("slow", Kind { queue: "slow", ..kind() }, nothing).unwrap();
            jobs.handle("note", kind(), nothing).unwrap();
        })
        .await;
    server.jobs.pause(OURS, "slow").await.unwrap();
    server.jobs.pause(OURS, "slow").await.unwrap();
    let soon = server.base.clock.now().plus(Duration::from_millis(20));
    let held = server.enqueue(new("slow")).await;
    let delayed = server.enqueue(New { run_at: Some(soon), ..new("slow") }).await;
    let theirs = server.enqueue(New { organisation: THEIRS, ..new("slow") }).await;
    let free = server.enqueue(new("note")).await;
    server.until(free, State::Done).await;
    opened
        .until("the other organisation's job is done", async || {
            server.jobs.job(THEIRS, theirs).await.unwrap().state == State::Done
        })
        .await;
    server.until(delayed, State::Ready).await;
    assert_eq!(server.job(held).await.state, State::Ready);
    let queues = server.jobs.queues(OURS).await.unwrap();
    let slow = queues.iter().find(|queue| queue.name == "slow").unwrap();
    assert!(slow.since.is_some() && slow.ready == 2 && slow.oldest.is_some(), "{slow:?}");
    server.jobs.resume(OURS, "slow").await.unwrap();
    server.until(held, State::Done).await;
    server.until(delayed, State::Done).await;
}

pub(crate) async fn an_organisation_sees_and_touches_only_its_own(ground: &Ground) {
    let opened = ground.open().await;
    let server = opened.server(|jobs| jobs.handle("note", kind(), nothing).unwrap()).await;
    let later = server.base.clock.now().plus(Duration::from_hours(1));
    let id = server.enqueue(New { run_at: Some(later), ..new("note") }).await;
    let jobs = &server.jobs;
    let missing = |error: Error| assert!(matches!(error, Error::NoJob(_)), "{error}");
    missing(jobs.job(THEIRS, id).await.unwrap_err());
    missing(jobs.history(THEIRS, id).await.unwrap_err());
    missing(jobs.cancel(THEIRS, id).await.unwrap_err());
    missing(jobs.retry(THEIRS, id).await.unwrap_err());
    missing(jobs.discard(THEIRS, id).await.unwrap_err());
    missing(jobs.run_now(THEIRS, id).await.unwrap_err());
    let page = jobs.jobs(THEIRS, Filter::default(), PageRequest::default()).await.unwrap();
    assert!(page.items.is_empty());
    assert_eq!(jobs.counts(THEIRS).await.unwrap()[&State::Scheduled], 0);
    assert_eq!(jobs.counts(OURS).await.unwrap()[&State::Scheduled], 1);
    assert!(jobs.schedules(THEIRS).await.unwrap().is_empty());
    assert_eq!(server.job(id).await.state, State::Scheduled);
}

pub(crate) async fn lists_are_pages_by_state_and_kind(ground: &Ground) {
    let opened = ground.open().await;
    let server = opened
        .server(|jobs| {
            jobs.handle("one", kind(), nothing).unwrap();
            jobs.handle("two", kind(), nothing).unwrap();
        })
        .await;
    let later = server.base.clock.now().plus(Duration::from_hours(1));
    let mut all = Vec::new();
    for number in 0..25 {
        let name = if number % 2 == 0 { "one" } else { "two" };
        let run_at = (number % 5 == 0).then_some(later);
        all.push(New { run_at, ..new(name) });
    }
    let ids = server.enqueue_all(all).await;
    let is_done = async || server.jobs.counts(OURS).await.unwrap()[&State::Done] == 20;
    opened.until("all that are due are done", is_done).await;
    let pages = async |filter: Filter| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let request = PageRequest { after, limit: 4 };
            let page = server.jobs.jobs(OURS, filter.clone(), request).await.unwrap();
            found.extend(page.items.iter().map(|job| job.id));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    };
    let of = |wanted: &dyn Fn(usize) -> bool| {
        let places = (0..25).rev().filter(|number| wanted(*number));
        places.map(|number| ids[number]).collect::<Vec<_>>()
    };
    assert_eq!(pages(Filter::default()).await, of(&|_| true));
    let scheduled = Filter { state: Some(State::Scheduled), ..Filter::default() };
    assert_eq!(pages(scheduled).await, of(&|number| number % 5 == 0));
    let ones = Filter { kind: Some("one".into()), state: Some(State::Done), queue: None };
    assert_eq!(pages(ones).await, of(&|number| number % 2 == 0 && number % 5 != 0));
    let wrong = PageRequest { after: Some("x".into()), limit: 4 };
    let wrong = server.jobs.jobs(OURS, Filter::default(), wrong).await;
    assert!(matches!(wrong, Err(Error::Cursor)));
}

pub(crate) async fn what_an_attempt_noted_is_kept_though_its_transaction_failed(ground: &Ground) {
    let opened = ground.open().await;
    let db = opened.db.clone();
    let server = opened
        .server(|jobs| {
            let work = move |attempt: jobs::Attempt| {
                let db = db.clone();
                async move {
                    attempt.log(format!("attempt {}", attempt.number()));
                    let is_first = attempt.number() == 1;
                    let end = async move |tx: &mut Tx| {
                        let done = attempt.complete_in(tx).await?;
                        if is_first { Err(Failed::again("the effect failed")) } else { Ok(done) }
                    };
                    db.write(end).await
                }
            };
            jobs.handle("work", kind(), work).unwrap();
        })
        .await;
    let id = server.enqueue(new("work")).await;
    server.until(id, State::Done).await;
    let (_, attempts) = server.jobs.history(OURS, id).await.unwrap();
    let logs: Vec<&str> = attempts.iter().map(|attempt| attempt.log.as_str()).collect();
    assert_eq!(logs, ["attempt 1\n", "attempt 2\n"]);
}
