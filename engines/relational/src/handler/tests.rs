use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::{Base, PageRequest};
use bytes::Bytes;
use eventlog::Record;
use tempfile::TempDir;

use super::*;
use crate::{Config, DeadLetterFilter, Migration, NewEvent, relay};

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;

static TABLES: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (
        sequence INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        number BIGINT NOT NULL
    )",
}];

struct Fixture {
    db: Db,
    log: EventLog,
    base: Base,
    _dir: TempDir,
}

async fn fixture(base: Base, partitions: u32) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { path: dir.path().join("rows.db"), ..Config::default() };
    let db = Db::open(config, &base).await.unwrap();
    db.migrate("effects", TABLES).await.unwrap();
    let config =
        eventlog::Config { dir: dir.path().join("log"), partitions, ..eventlog::Config::default() };
    let log = EventLog::open(config, &base).await.unwrap();
    Fixture { db, log, base, _dir: dir }
}

impl Fixture {
    fn relay(&self) {
        let (db, log) = (self.db.clone(), self.log.clone());
        self.base.tasks.supervise("relay", move || relay(db.clone(), log.clone()));
    }

    async fn effects(&self) -> Vec<(String, i64)> {
        let effects = self.db.read(async |read| {
            let rows = read.query("SELECT key, number FROM effects ORDER BY sequence", &[]).await?;
            rows.iter().map(|row| Ok((row.get("key")?, row.get("number")?))).collect()
        });
        fine(effects.await)
    }

    async fn effects_when(&self, count: usize) -> Vec<(String, i64)> {
        loop {
            let effects = self.effects().await;
            if effects.len() >= count {
                return effects;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Unwraps, and says which error the closure has.
fn fine<T>(said: Result<T, Error>) -> T {
    said.unwrap()
}

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

fn handler() -> Handler {
    Handler { name: "effects", organisation: ORGANISATION, topic: "deeds".into() }
}

async fn emit(db: &Db, key: String, number: i64) -> Result<(), Error> {
    db.write(async move |tx| {
        let payload = number.to_string().into_bytes();
        let kind = "deed.done";
        let key = key.clone();
        let organisation = ORGANISATION;
        tx.emit(NewEvent { organisation, topic: "deeds", kind, key, payload }).await?;
        Ok(())
    })
    .await
}

async fn effect(tx: &mut Tx, stored: &Stored) -> Result<(), Unhandled> {
    let key = stored.record.key.as_deref().unwrap_or_default();
    let key = std::str::from_utf8(key).map_err(|error| Unhandled::invalid(error.to_string()))?;
    let number = std::str::from_utf8(&stored.record.value).unwrap().parse::<i64>();
    let number = number.map_err(|error| Unhandled::new(ErrorKind::Invalid, &error))?;
    let insert = "INSERT INTO effects (key, number) VALUES (?, ?)";
    tx.execute(insert, params![key, number]).await?;
    Ok(())
}

/// Checks that each key's numbers are 0, 1, 2 … without a gap, a repetition or a step back.
fn check_order(effects: &[(String, i64)], keys: i64, per_key: i64) {
    for key in 0..keys {
        let key = format!("key {key}");
        let numbers: Vec<i64> =
            effects.iter().filter(|effect| effect.0 == key).map(|effect| effect.1).collect();
        assert_eq!(numbers, (0..per_key).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_with_its_id_and_kind_under_its_key() {
    let fixture = fixture(Base::system(), 1).await;
    fixture.relay();
    emit(&fixture.db, "roof".into(), 7).await.unwrap();
    let topic = fixture.log.topic(ORGANISATION, "deeds").await.unwrap();
    topic.end(0).wait_for(|end| *end == 1).await.unwrap();
    let stored = topic.fetch(0, 0, 1 << 20).await.unwrap();
    assert_eq!(stored[0].record.value, "7");
    assert_eq!(stored[0].record.key.as_deref(), Some(b"roof".as_slice()));
    assert_eq!(event_kind(&stored[0]), Some("deed.done"));
    assert!(event_id(&stored[0]).is_some());
    while fixture.db.outbox_length() > 0 {
        tokio::task::yield_now().await;
    }
    // Counted right after the commit that the length follows.
    while !fixture.base.metrics.text().contains("madang_relational_events_relayed_total 1\n") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_handler_killed_at_random_lose_nothing_and_double_nothing() {
    const KEYS: i64 = 8;
    const PER_KEY: i64 = 150;
    let fixture = fixture(Base::system(), 3).await;
    let writers: Vec<_> = (0..KEYS)
        .map(|key| {
            let db = fixture.db.clone();
            fixture.base.tasks.spawn("writer", async move {
                for number in 0..PER_KEY {
                    emit(&db, format!("key {key}"), number).await.unwrap();
                }
            })
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let (db, log) = (fixture.db.clone(), fixture.log.clone());
    let relaying = fixture.base.tasks.spawn("relays", {
        let (is_over, entropy) = (is_over.clone(), fixture.base.entropy.clone());
        async move {
            let mut lives = 0;
            while !is_over.load(Ordering::SeqCst) {
                // Later lives are longer, so that a slow machine comes to an end.
                let life = Duration::from_micros(entropy.number() % (5_000 + 1_000 * lives));
                // It runs for ever, so it is the time that ends it.
                tokio::time::timeout(life, relay(db.clone(), log.clone())).await.unwrap_err();
                lives += 1;
            }
            lives
        }
    });
    let (db, log) = (fixture.db.clone(), fixture.log.clone());
    let handling = fixture.base.tasks.spawn("handlers", {
        let (is_over, entropy) = (is_over.clone(), fixture.base.entropy.clone());
        async move {
            let mut lives = 0;
            while !is_over.load(Ordering::SeqCst) {
                let life = Duration::from_micros(entropy.number() % (5_000 + 1_000 * lives));
                lives += 1;
                let work = async |tx: &mut Tx, stored: &Stored| effect(tx, stored).await;
                let run = run_handler(db.clone(), log.clone(), handler(), work);
                tokio::time::timeout(life, run).await.unwrap_err();
            }
        }
    });
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let count = usize::try_from(KEYS * PER_KEY).unwrap();
    fixture.effects_when(count).await;
    while fixture.db.outbox_length() > 0 {
        tokio::task::yield_now().await;
    }
    is_over.store(true, Ordering::SeqCst);
    let lives = relaying.await.unwrap().unwrap();
    handling.await.unwrap().unwrap();
    assert!(lives > 3, "the relay was killed {lives} times");
    // One more handler reads whatever a dying relay repeated.
    let topic = fixture.log.topic(ORGANISATION, "deeds").await.unwrap();
    let mut total = 0;
    for partition in 0..3 {
        total += *topic.end(partition).borrow();
    }
    assert!(total >= count as u64);
    let work = async |tx: &mut Tx, stored: &Stored| effect(tx, stored).await;
    let rest = run_handler(fixture.db.clone(), fixture.log.clone(), handler(), work);
    let caught_up = async {
        loop {
            let sum = "SELECT SUM(next_offset) AS n FROM handler_offset";
            let sum = fixture
                .db
                .read(async |read| read.query_one(sum, &[]).await?.get::<Option<u64>>("n"));
            if fine(sum.await) == Some(total) {
                return;
            }
        }
    };
    tokio::select! {
        ended = rest => panic!("{ended:?}"),
        () = caught_up => {}
    }
    let effects = fixture.effects().await;
    assert_eq!(effects.len(), count, "{total} records in the log");
    check_order(&effects, KEYS, PER_KEY);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_events_are_handled_once_by_their_offset() {
    let fixture = fixture(Base::system(), 1).await;
    let topic = fixture.log.topic(ORGANISATION, "deeds").await.unwrap();
    let records = (0..500).map(|number: i64| Record {
        timestamp: fixture.base.clock.now(),
        key: Some(Bytes::from_static(b"key 0")),
        value: Bytes::from(number.to_string()),
        headers: Vec::new(),
    });
    topic.append(0, records.collect()).await.unwrap();
    // Two runs at once, as when one is slow to die.
    let runs = [(); 2].map(|()| {
        let work = async |tx: &mut Tx, stored: &Stored| effect(tx, stored).await;
        let run = run_handler(fixture.db.clone(), fixture.log.clone(), handler(), work);
        fixture.base.tasks.spawn("handler", run)
    });
    fixture.effects_when(500).await;
    runs.iter().for_each(tokio::task::JoinHandle::abort);
    check_order(&fixture.effects().await, 1, 500);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_handled_is_set_aside_and_what_may_be_later_is_tried_again() {
    let fixture = fixture(Base::system(), 1).await;
    fixture.relay();
    let outages = Arc::new(AtomicU32::new(20));
    let panics = Arc::new(AtomicU32::new(0));
    let work = {
        let (outages, panics) = (outages.clone(), panics.clone());
        async move |tx: &mut Tx, stored: &Stored| match &*stored.record.value {
            b"2" => Err(Unhandled::invalid("two is never right")),
            b"4" if outages.load(Ordering::SeqCst) > 0 => {
                outages.fetch_sub(1, Ordering::SeqCst);
                Err(Unhandled::new(ErrorKind::Unavailable, &Error::Recovering))
            }
            b"6" => {
                panics.fetch_add(1, Ordering::SeqCst);
                panic!("six breaks")
            }
            _ => effect(tx, stored).await,
        }
    };
    let run = run_handler(fixture.db.clone(), fixture.log.clone(), handler(), work);
    fixture.base.tasks.spawn("handler", run);
    for number in 0..9 {
        emit(&fixture.db, "key 0".into(), number).await.unwrap();
    }
    let numbers: Vec<i64> =
        fixture.effects_when(7).await.into_iter().map(|effect| effect.1).collect();
    assert_eq!(numbers, [0, 1, 3, 4, 5, 7, 8]);
    assert_eq!(outages.load(Ordering::SeqCst), 0);
    assert!(panics.load(Ordering::SeqCst) >= ATTEMPTS_MAX);
    let page = PageRequest { after: None, limit: 1 };
    let latest = fixture.db.dead_letters(ORGANISATION, &all(), &page).await.unwrap();
    assert!(latest.items[0].reason.contains("six breaks"), "{}", latest.items[0].reason);
    assert_eq!((latest.items[0].offset, &*latest.items[0].payload), (Some(6), b"6".as_slice()));
    let page = PageRequest { after: latest.next, limit: 1 };
    let earlier = fixture.db.dead_letters(ORGANISATION, &all(), &page).await.unwrap();
    assert_eq!(earlier.items[0].reason, "two is never right");
    assert_eq!(earlier.items[0].kind.as_deref(), Some("deed.done"));
    assert_eq!(earlier.next, None);
    let other =
        fixture.db.dead_letters(OrganisationId::fixed(2), &all(), &PageRequest::default()).await;
    assert!(other.unwrap().items.is_empty(), "nobody sees another organisation's");
    let wrong = PageRequest { after: Some("x".into()), limit: 1 };
    let wrong = fixture.db.dead_letters(ORGANISATION, &all(), &wrong).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_log_refuses_does_not_block_the_others() {
    let fixture = fixture(Base::system(), 1).await;
    let wrong = NewEvent {
        organisation: ORGANISATION,
        topic: "no/such topic",
        kind: "deed.done",
        key: "key 0".into(),
        payload: b"0".to_vec(),
    };
    let emitted = fixture.db.write(async move |tx| tx.emit(wrong.clone()).await).await;
    fine(emitted);
    emit(&fixture.db, "key 0".into(), 1).await.unwrap();
    fixture.relay();
    let topic = fixture.log.topic(ORGANISATION, "deeds").await.unwrap();
    topic.end(0).wait_for(|end| *end == 1).await.unwrap();
    while fixture.db.outbox_length() > 0 {
        tokio::task::yield_now().await;
    }
    let letters =
        fixture.db.dead_letters(ORGANISATION, &all(), &PageRequest::default()).await.unwrap();
    assert_eq!(letters.items.len(), 1);
    assert_eq!((letters.items[0].handler.as_str(), letters.items[0].offset), ("relay", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_forgotten_after_its_time_and_no_sooner() {
    let base = Base::simulated(Timestamp::from_millis(1_700_000_000_000), 5);
    let fixture = fixture(base, 1).await;
    let event = base::EventId::fixed(9);
    let first = async || {
        let first = fixture.db.write(async move |tx| tx.first_time("effects", event).await);
        fine(first.await)
    };
    assert!(first().await);
    assert!(!first().await);
    let handled = fixture.base.clock.now();
    let forgotten = async |time: Timestamp| {
        let forgotten = fixture.db.write(async move |tx| forget(tx, "effects", time).await);
        fine(forgotten.await)
    };
    assert_eq!(forgotten(handled).await, 0);
    assert!(!first().await);
    assert_eq!(forgotten(handled.plus(Duration::from_micros(1))).await, 1);
    assert!(first().await);
}
