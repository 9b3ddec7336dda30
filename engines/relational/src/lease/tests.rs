use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::Config;

#[path = "../../examples/fence/rounds.rs"]
mod rounds;

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const LASTS: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(2);

static TABLES: &[Migration] = &[Migration {
    id: "0001-writes",
    sql: "CREATE TABLE writes (name TEXT NOT NULL, token BIGINT NOT NULL)",
}];

struct Fixture {
    db: Db,
    leases: Leases,
    base: Base,
    dir: TempDir,
}

async fn fixture(seed: u64) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::simulated(Timestamp::from_millis(1_000_000), seed);
    let db = Db::open(config(&dir), &base).await.unwrap();
    db.migrate("writes", TABLES).await.unwrap();
    Fixture { leases: Leases::new(&db, &base), db, base, dir }
}

fn config(dir: &TempDir) -> Config {
    Config { path: dir.path().join("rows.db"), lease_grace: GRACE, ..Config::default() }
}

impl Fixture {
    async fn acquire(&self, name: &str) -> Option<Lease> {
        self.leases.acquire(ORGANISATION, name, LASTS).await.unwrap()
    }

    async fn write(&self, lease: &Lease) -> Result<(), Error> {
        let lease = lease.clone();
        let write = async move |tx: &mut Tx| {
            tx.fenced(&lease).await?;
            let insert = "INSERT INTO writes (name, token) VALUES (?, ?)";
            tx.execute(insert, params![lease.name(), lease.token()]).await?;
            Ok(())
        };
        self.db.write(write).await
    }

    async fn writes(&self) -> i64 {
        let count = self.db.read(async |read| {
            read.query_one("SELECT COUNT(*) AS n FROM writes", &[]).await?.get("n")
        });
        let count: Result<i64, Error> = count.await;
        count.unwrap()
    }
}

fn is_fenced(said: &Result<(), Error>) -> bool {
    matches!(said, Err(Error::Fenced { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_holder_cannot_write_renew_or_free_what_is_not_its_own() {
    let fixture = fixture(1).await;
    let mut dead = fixture.acquire("file").await.unwrap();
    fixture.write(&dead).await.unwrap();
    fixture.base.clock.advance(Duration::from_micros(11_999_999));
    assert_eq!(fixture.acquire("file").await, None, "the grace is not over");
    fixture.write(&dead).await.expect("nobody else was granted it yet");
    fixture.base.clock.advance(Duration::from_micros(1));
    let next = fixture.acquire("file").await.unwrap();
    assert!(next.token() > dead.token());
    assert!(is_fenced(&fixture.write(&dead).await));
    assert!(is_fenced(&fixture.leases.renew(&mut dead, LASTS).await));
    fixture.leases.release(dead).await.unwrap();
    assert_eq!(fixture.acquire("file").await, None, "the new holder still has it");
    fixture.write(&next).await.unwrap();
    assert_eq!(fixture.writes().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_that_ignores_the_refusal_writes_nothing() {
    let fixture = fixture(2).await;
    let lease = fixture.acquire("file").await.unwrap();
    fixture.leases.release(lease.clone()).await.unwrap();
    let said: Result<(), Error> = fixture
        .db
        .write(async move |tx| {
            drop(tx.fenced(&lease).await);
            drop(tx.execute("INSERT INTO writes (name, token) VALUES ('x', 1)", &[]).await);
            Ok(())
        })
        .await;
    assert!(is_fenced(&said), "{said:?}");
    assert_eq!(fixture.writes().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_through_releases_and_restarts_and_a_restart_frees() {
    let fixture = fixture(3).await;
    let first = fixture.acquire("file").await.unwrap();
    fixture.leases.release(first.clone()).await.unwrap();
    let second = fixture.acquire("file").await.unwrap();
    let other = OrganisationId::fixed(7);
    let elsewhere = fixture.leases.acquire(other, "file", LASTS).await.unwrap().unwrap();
    assert_eq!((first.token(), second.token(), elsewhere.token()), (1, 2, 1));
    fixture.db.close().await;
    let db = Db::open(config(&fixture.dir), &fixture.base).await.unwrap();
    let again = Fixture { leases: Leases::new(&db, &fixture.base), db, ..fixture };
    assert!(is_fenced(&again.write(&second).await), "its process has ended");
    assert_eq!(again.acquire("file").await.unwrap().token(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_at_once_one_gets_it() {
    let fixture = fixture(4).await;
    for round in 1..=20 {
        let asking = (0..50).map(|_| fixture.leases.acquire(ORGANISATION, "file", LASTS));
        let granted = futures::future::try_join_all(asking).await.unwrap();
        let granted: Vec<Lease> = granted.into_iter().flatten().collect();
        assert_eq!(granted.len(), 1);
        assert_eq!(granted[0].token(), round);
        fixture.leases.release(granted[0].clone()).await.unwrap();
    }
}

/// What a lease on one name should be: its newest token, and its end while it is held.
#[derive(Default)]
struct Model {
    token: i64,
    until: Option<Timestamp>,
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_do_what_the_model_says_whatever_comes() {
    for seed in 0..4 {
        let fixture = fixture(seed).await;
        let chance = &fixture.base.entropy;
        let names = ["a", "b", "c"];
        let mut model: BTreeMap<&str, Model> = BTreeMap::new();
        let mut known: Vec<Lease> = Vec::new();
        for step in 0..500 {
            let now = fixture.base.clock.now();
            let name = names[usize::try_from(chance.number() % 3).unwrap()];
            let place = usize::try_from(chance.number()).unwrap_or(0) % known.len().max(1);
            let at = format!("seed {seed}, step {step}");
            match (chance.number() % 6, known.get(place).cloned()) {
                (0 | 1, _) | (_, None) => {
                    let expected = model.entry(name).or_default();
                    let free = expected.until.is_none_or(|until| now >= until.plus(GRACE));
                    let granted = fixture.acquire(name).await;
                    assert_eq!(granted.is_some(), free, "{at}");
                    if let Some(lease) = granted {
                        expected.token += 1;
                        expected.until = Some(now.plus(LASTS));
                        assert_eq!(lease.token(), expected.token, "{at}");
                        known.push(lease);
                    }
                }
                (deed, Some(mut lease)) => {
                    let expected = model.get_mut(&*lease.name).unwrap();
                    let is_held = expected.token == lease.token && expected.until.is_some();
                    match deed {
                        2 => {
                            let renewed = fixture.leases.renew(&mut lease, LASTS).await;
                            assert_eq!(!is_fenced(&renewed), is_held, "{at}: {renewed:?}");
                            if is_held {
                                expected.until = Some(now.plus(LASTS));
                                assert_eq!(Some(lease.until), expected.until, "{at}");
                                known[place] = lease;
                            }
                        }
                        3 => {
                            fixture.leases.release(lease).await.unwrap();
                            expected.until = expected.until.filter(|_| !is_held);
                        }
                        4 => {
                            let written = fixture.write(&lease).await;
                            assert_eq!(!is_fenced(&written), is_held, "{at}: {written:?}");
                        }
                        _ => {
                            let millis = chance.number() % 8_000;
                            fixture.base.clock.advance(Duration::from_millis(millis));
                        }
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_work_keeps_its_lease_beyond_its_time_and_lets_it_go_at_its_end() {
    let base = Base::system();
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(config(&dir), &base).await.unwrap();
    db.migrate("writes", TABLES).await.unwrap();
    let leases = Leases::new(&db, &base);
    let fixture = Fixture { db, leases: leases.clone(), base: base.clone(), dir };
    // Long enough for a machine that is busy with other things to renew in time.
    let lasts = Duration::from_secs(8);
    let token = leases
        .hold(ORGANISATION, "file", lasts, async |held: Held| {
            let ends = held.lease.until().plus(lasts / 10);
            while base.clock.now() < ends {
                fixture.write(&held.lease).await.unwrap();
            }
            assert!(!held.lost.is_cancelled());
            held.lease.token()
        })
        .await
        .unwrap();
    let next = leases.hold(ORGANISATION, "file", lasts, async |held: Held| held.lease.token());
    assert_eq!(next.await.unwrap(), token + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_hears_that_its_lease_is_lost_and_a_dropped_hold_lets_go() {
    let fixture = fixture(5).await;
    let lasts = Duration::from_millis(60);
    fixture
        .leases
        .hold(ORGANISATION, "file", lasts, async |held: Held| {
            fixture.base.clock.advance(lasts + GRACE);
            // Either the renewal comes first, or this does.
            let taken = loop {
                if let Some(taken) = fixture.acquire("file").await {
                    break taken;
                }
                fixture.base.clock.advance(lasts + GRACE);
            };
            held.lost.cancelled().await;
            assert!(is_fenced(&fixture.write(&held.lease).await));
            fixture.leases.release(taken).await.unwrap();
        })
        .await
        .unwrap();
    let (began, has_begun) = tokio::sync::oneshot::channel();
    let holding = fixture.leases.hold(ORGANISATION, "other", LASTS, async |held: Held| {
        began.send(held.lease).unwrap();
        std::future::pending::<()>().await;
    });
    let lease = tokio::select! {
        _ = holding => unreachable!("the work does not end"),
        lease = has_begun => lease.unwrap(),
    };
    let next = loop {
        match fixture.acquire("other").await {
            Some(next) => break next,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(next.token(), lease.token() + 1, "without a step of the clock");
    assert!(is_fenced(&fixture.write(&lease).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writes_at_a_time_while_holders_die_and_oversleep() {
    let outcome = rounds::rounds(300, 3).await.unwrap();
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert!(outcome.rounds >= 300 && outcome.late > 20, "{outcome:?}");
    assert!(outcome.releases > 0 && outcome.killed > 0 && outcome.paused > 0, "{outcome:?}");
    assert!(outcome.refused >= outcome.late_refused, "{outcome:?}");
}
