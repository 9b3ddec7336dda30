//! What stands in kv: it outlasts the process, stays within its limits, and whatever becomes of kv, nobody is told an error
//! or an old answer.

use testkit::{RedisKind, RedisServer};

use super::*;

fn all_kept() -> Config {
    Config { kept_from: Duration::ZERO, ttl_jitter_percent: 0, ..Config::default() }
}

/// The same rows and kv, and nothing in memory: a process that was started again.
async fn again(fixture: &Fixture, config: Config) -> (Results, Base) {
    let base = Base { metrics: base::Metrics::default(), ..fixture.base.clone() };
    let Fixture { db, kv, .. } = fixture;
    (Results::open(patient(config), &base, db, kv).await.unwrap(), base)
}

async fn ask(results: &Results, key: &str, answer: &str) -> Bytes {
    let answer = Bytes::copy_from_slice(answer.as_bytes());
    let compute = move || async move { Ok::<_, Error>(answer) };
    let handle = results.for_organisation(ORGANISATION);
    let asked = handle.answer(question(key, &["rows"]), compute);
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("it ends").unwrap()
}

/// Keys of answers, and what their index says: how many, and their bytes.
async fn kept(fixture: &Fixture) -> (usize, i64, i64) {
    let keys = fixture.kv.keys(ORGANISATION);
    let (mut names, mut from) = (Vec::new(), None);
    loop {
        let page = keys.scan(b"results:", from.as_deref(), 1_000).await.unwrap();
        names.extend(page.names);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let of = |end: &str| names.iter().find(|name| name.ends_with(end.as_bytes())).cloned();
    let (Some(ends), Some(sizes)) = (of(":ends"), of(":sizes")) else { return (0, 0, 0) };
    let count = keys.ask(&[&b"ZCARD"[..], &ends[..]]).await.unwrap().integer().unwrap();
    let total = keys.ask(&[&b"HGET"[..], &sizes[..], b"total"]).await.unwrap().bytes().unwrap();
    let total: i64 = String::from_utf8(total).unwrap().parse().unwrap();
    let mut bytes = 0;
    let mut answers = 0;
    for name in names {
        let tail = name.rsplit(|byte| *byte == b':').next().unwrap();
        if tail.len() == 64 {
            answers += 1;
            let length = keys.ask(&[&b"STRLEN"[..], &name[..]]).await.unwrap().integer().unwrap();
            bytes += length + 64;
        }
    }
    assert_eq!(total, bytes, "the account is true");
    (answers, count, total)
}

async fn until_stored(fixture: &Fixture, count: u64) {
    fixture.until("answers in kv", || fixture.count("stored_total") == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_outlasts_the_process_until_a_commit_or_its_time() {
    let fixture = fixture(Form::Nodes, all_kept()).await;
    fixture.bump(&["rows"]).await;
    assert_eq!(fixture.ask("a", "one").await.unwrap(), "one");
    until_stored(&fixture, 1).await;
    let (second, base) = again(&fixture, all_kept()).await;
    assert_eq!(ask(&second, "a", "two").await, "one");
    assert_eq!((counted(&base, "from_kv_total"), counted(&base, "computes_total")), (1, 0));
    fixture.bump(&["rows"]).await;
    let (third, base) = again(&fixture, all_kept()).await;
    assert_eq!(ask(&third, "a", "three").await, "three");
    fixture.until("it in kv", || counted(&base, "stored_total") == 1).await;
    fixture.base.clock.advance(HOUR);
    let (fourth, _) = again(&fixture, all_kept()).await;
    assert_eq!(ask(&fourth, "a", "four").await, "four");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cheap_to_compute_stays_out_of_kv() {
    let fixture = fixture(Form::Alone, Config { kept_from: HOUR, ..all_kept() }).await;
    fixture.ask("a", "one").await.unwrap();
    fixture.until("its end", || fixture.count("flights") == 0).await;
    assert_eq!((fixture.count("stored_total"), kept(&fixture).await), (0, (0, 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_set_back_are_not_answered_from_what_came_after() {
    let fixture = fixture(Form::Nodes, all_kept()).await;
    fixture.bump(&["rows"]).await;
    let state = fixture.results.0.store.spot(&question("a", &["rows"]).of(ORGANISATION).kept());
    let now = fixture.base.clock.now();
    // Of a commit that the rows do not know any more.
    let versions = vec![now.micros() + 1_000_000];
    let lost = Answer { versions, until: now.plus(HOUR), bytes: "lost".into() };
    fixture.results.0.store.keep(&state, &lost).await;
    assert_eq!(fixture.ask("a", "right").await.unwrap(), "right");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rows_in_the_same_kv_have_other_answers() {
    let one = fixture(Form::Alone, all_kept()).await;
    assert_eq!(one.ask("a", "one").await.unwrap(), "one");
    until_stored(&one, 1).await;
    let other = fixture(Form::Alone, all_kept()).await;
    let base = Base { metrics: base::Metrics::default(), ..other.base.clone() };
    let Fixture { results, db, .. } = other;
    drop(results);
    // Chance is the same in both fixtures, and so is the name that it gave.
    db.write(async |tx| tx.execute("UPDATE result_place SET name = 'another'", &[]).await)
        .await
        .unwrap();
    let results = Results::open(patient(all_kept()), &base, &db, &one.kv);
    let results = tokio::time::timeout(Duration::from_secs(20), results).await.unwrap().unwrap();
    assert_eq!(ask(&results, "a", "other").await, "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_kv_stay_within_their_limits_and_the_account_is_true() {
    let limits = Config {
        kept_bytes_max: 2_000,
        kept_value_bytes_max: 700,
        kept_entries_max: 5,
        bytes_max: 0,
        value_bytes_max: 0,
        ..all_kept()
    };
    let fixture = fixture(Form::Nodes, limits).await;
    let mut most = 0;
    for number in 0..30usize {
        let answer = "x".repeat(number % 6 * 130);
        let before = fixture.count("stored_total");
        fixture.ask(&format!("key {}", number % 12), &answer).await.unwrap();
        fixture.until("its end", || fixture.count("flights") == 0).await;
        let (answers, count, bytes) = kept(&fixture).await;
        assert_eq!(i64::try_from(answers).unwrap(), count);
        assert!(count <= 5 && bytes <= 2_000, "{count} answers, {bytes} bytes");
        assert!(answer.len() <= 600 || fixture.count("stored_total") <= before + 1);
        most = most.max(answers);
    }
    assert_eq!(most, 5);
    assert_eq!(fixture.count("no_room_total"), 0);
    // A part that was evicted makes the other worth nothing.
    let keys = fixture.kv.keys(ORGANISATION);
    let page = keys.scan(b"results:", None, 10_000).await.unwrap();
    let ends = page.names.iter().find(|name| name.ends_with(b":ends")).unwrap();
    keys.delete(&[ends]).await.unwrap();
    fixture.bump(&["rows"]).await;
    fixture.ask("fresh", "x").await.unwrap();
    fixture.until("its end", || fixture.count("flights") == 0).await;
    let count = keys.ask(&[&b"ZCARD"[..], &ends[..]]).await.unwrap();
    assert_eq!(count.integer(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_another_form_in_kv_is_computed_anew() {
    let fixture = fixture(Form::Nodes, all_kept()).await;
    fixture.ask("a", "no json").await.unwrap();
    until_stored(&fixture, 1).await;
    let (second, _) = again(&fixture, all_kept()).await;
    let compute = || async { Ok::<_, Error>(vec![1u32]) };
    let handle = second.for_organisation(ORGANISATION);
    let asked = handle.answer_json(question("a", &["rows"]), compute).await;
    assert_eq!(asked.unwrap(), vec![1]);
}

/// A server that comes and goes, as the place of the answers.
async fn outgrown(config: Config) -> (Fixture, RedisServer) {
    let server = RedisServer::start(RedisKind::Redis, &[]).unwrap();
    let mut fixture = fixture(Form::Nodes, Config::default()).await;
    let config_of_kv = kv::Config {
        url: kv::Address::new(server.url()),
        reconnect_after: Duration::from_millis(10),
        ..kv::Config::default()
    };
    fixture.base = Base::system();
    fixture.kv = Kv::for_rooms(config_of_kv, &fixture.base, fixture.dir.path()).await.unwrap();
    let Fixture { base, db, kv, .. } = &fixture;
    fixture.results = Results::open(config, base, db, kv).await.unwrap();
    (fixture, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kv_on_another_server_may_go_and_come_and_nobody_is_told_an_error_or_an_old_answer() {
    let config = Config {
        kept_wait_max: Duration::from_millis(500),
        kept_rest: Duration::from_millis(30),
        ..all_kept()
    };
    let (fixture, mut server) = outgrown(config.clone()).await;
    assert_eq!(fixture.ask("a", "one").await.unwrap(), "one");
    until_stored(&fixture, 1).await;
    let base = Base { metrics: base::Metrics::default(), ..fixture.base.clone() };
    let second = Results::open(config.clone(), &base, &fixture.db, &fixture.kv).await.unwrap();
    assert_eq!(ask(&second, "a", "two").await, "one", "from the other server");

    server.kill().unwrap();
    fixture.bump(&["rows"]).await;
    let began = fixture.base.clock.instant();
    for number in 0..20 {
        let key = format!("while it is away {number}");
        assert_eq!(fixture.ask(&key, "computed").await.unwrap(), "computed");
    }
    assert!(fixture.base.clock.instant() - began < Duration::from_secs(10), "it rests");
    let shared = question("shared", &["rows"]).shared();
    let compute = || async { Ok::<_, Error>(Bytes::from("alone")) };
    assert_eq!(fixture.handle().answer(shared, compute).await.unwrap(), "alone");
    assert!(fixture.count("kept_failures_total") > 0);
    assert_eq!(fixture.ask("a", "three").await.unwrap(), "three", "after the commit");

    server.revive().unwrap();
    let stored = fixture.count("stored_total");
    let mut number = 0;
    while fixture.count("stored_total") == stored {
        number += 1;
        assert!(fixture.ask(&format!("back {number}"), "kept").await.unwrap() == "kept");
        fixture.until("its end", || fixture.count("flights") == 0).await;
        assert!(fixture.base.clock.instant() - began < Duration::from_mins(1), "it stays away");
    }
    assert_eq!(ask(&second, "a", "three").await, "three", "the old one is not given");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kv_that_hangs_costs_one_wait_and_no_more() {
    let config = Config {
        kept_wait_max: Duration::from_secs(2),
        kept_rest: Duration::from_mins(5),
        ..all_kept()
    };
    let (fixture, server) = outgrown(config).await;
    fixture.ask("a", "one").await.unwrap();
    until_stored(&fixture, 1).await;
    server.client().unwrap().done(&["CLIENT", "PAUSE", "60000", "ALL"]).unwrap();
    let began = fixture.base.clock.instant();
    for number in 0..50 {
        fixture.ask(&number.to_string(), "computed").await.unwrap();
    }
    let took = fixture.base.clock.instant() - began;
    assert!(took < Duration::from_secs(50), "{took:?}");
    assert_eq!(fixture.count("kept_failures_total"), 1);
}
