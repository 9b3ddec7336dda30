use base::Base;
use tempfile::TempDir;

use super::*;
use crate::{Config, Leases, NewEvent};

const LASTS: Duration = Duration::from_millis(40);
const ASKED: Asked = Asked { lasts: LASTS, of_own: OfOwn::Waits };

struct Fixture {
    db: Db,
    log: EventLog,
    base: Base,
    _dir: TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::simulated(Timestamp::from_millis(1_000_000), 1);
    let path = dir.path().join("rows.db");
    let config = Config { path, relay_lease: LASTS, ..Config::default() };
    let db = Db::open(config, &base).await.unwrap();
    let config = eventlog::Config { dir: dir.path().join("log"), ..eventlog::Config::default() };
    let log = EventLog::open(config, &base).await.unwrap();
    Fixture { db, log, base, _dir: dir }
}

impl Fixture {
    async fn emit(&self, count: u32) {
        let emit = async move |tx: &mut Tx| {
            for number in 0..count {
                tx.emit(NewEvent {
                    organisation: LEASE_OF,
                    topic: "deeds",
                    kind: "deed.done",
                    key: "k".into(),
                    payload: number.to_string().into_bytes(),
                })
                .await?;
            }
            Ok::<_, Error>(())
        };
        self.db.write(emit).await.unwrap();
    }

    /// The lease, for another server, once whoever holds it has run out.
    async fn take_over(&self) -> Lease {
        self.base.clock.advance(LASTS + self.db.config().lease_grace);
        let lease = lease::acquire(&self.db, LEASE_OF, NAME, ASKED).await.unwrap().unwrap();
        let rename =
            async |tx: &mut Tx| tx.execute("UPDATE lease SET holder = 'another'", &[]).await;
        self.db.write(rename).await.unwrap();
        lease
    }

    async fn token(&self) -> i64 {
        let token = self
            .db
            .read(async |read| read.query_one("SELECT token FROM lease", &[]).await?.get("token"));
        let token: Result<i64, Error> = token.await;
        token.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_relay_deletes_nothing_from_the_outbox() {
    let fixture = fixture().await;
    fixture.emit(3).await;
    let waiting = fixture.db.read(async |read| next(read, 10).await).await.unwrap();
    let old = fixture.take_over().await;
    let new = fixture.take_over().await;
    let late = relay_batch(&fixture.db, &fixture.log, &old, waiting.clone()).await;
    assert!(is_fenced(&*late.unwrap_err()));
    assert_eq!(fixture.db.outbox_length(), 3);
    relay_batch(&fixture.db, &fixture.log, &new, waiting).await.unwrap();
    assert_eq!(fixture.db.outbox_length(), 0);
    // At least once: the late one's records are in the log as well, under the same ids.
    let topic = fixture.log.topic(LEASE_OF, "deeds").await.unwrap();
    let stored = topic.fetch(0, 0, 1 << 20).await.unwrap();
    let ids: Vec<EventId> = stored.iter().filter_map(event_id).collect();
    assert_eq!(ids[..3], ids[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_waits_while_another_server_relays_and_goes_on_afterwards() {
    let fixture = fixture().await;
    let (db, log) = (fixture.db.clone(), fixture.log.clone());
    fixture.base.tasks.supervise("relay", move || relay(db.clone(), log.clone()));
    fixture.emit(2).await;
    while fixture.db.outbox_length() > 0 {
        tokio::task::yield_now().await;
    }
    let other = fixture.take_over().await;
    fixture.emit(2).await;
    Leases::new(&fixture.db, &fixture.base).release(other.clone()).await.unwrap();
    while fixture.db.outbox_length() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.token().await, other.token() + 1, "not under the old one's lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_started_again_does_not_wait_for_its_own_lease() {
    let fixture = fixture().await;
    for round in 1..=3 {
        let (db, log) = (fixture.db.clone(), fixture.log.clone());
        fixture.emit(1).await;
        let emptied = async {
            while fixture.db.outbox_length() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = relay(db, log) => ended.unwrap(),
            () = emptied => {}
        }
        assert_eq!(fixture.token().await, round, "the clock stood still");
    }
}
