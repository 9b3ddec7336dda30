use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Base, ErrorKind, PageRequest};
use eventlog::EventLog;
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::dead_letter::NewDeadLetter;
use crate::{Commands, Config, Migration, NewCommand, NewEvent, event_id, event_kind, run_handler};

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const OTHER: OrganisationId = OrganisationId::fixed(2);

static TABLES: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (
        sequence INTEGER PRIMARY KEY,
        handler TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL
    )",
}];

struct Fixture {
    db: Db,
    log: EventLog,
    base: Base,
    /// Handlers fail until it is set.
    is_mended: Arc<AtomicBool>,
    _dir: TempDir,
}

async fn fixture() -> Fixture {
    let (dir, base) = (tempfile::tempdir().unwrap(), Base::system());
    let pause = Duration::from_millis(1);
    let config = Config {
        path: dir.path().join("rows.db"),
        command_attempts_max: 2,
        command_back_off_min: pause,
        command_back_off_max: pause,
        replay_max: 5,
        ..Config::default()
    };
    let db = Db::open(config, &base).await.unwrap();
    db.migrate("effects", TABLES).await.unwrap();
    let config = eventlog::Config {
        dir: dir.path().join("log"),
        partitions: 1,
        ..eventlog::Config::default()
    };
    let log = EventLog::open(config, &base).await.unwrap();
    let (supervised, with) = (db.clone(), log.clone());
    base.tasks.supervise("relay", move || crate::relay(supervised.clone(), with.clone()));
    let is_mended = Arc::new(AtomicBool::new(false));
    Fixture { db, log, base, is_mended, _dir: dir }
}

impl Fixture {
    /// Runs a handler that cannot take these values until it is mended.
    fn handle(
        &self,
        name: &'static str,
        fails: &'static [&'static str],
    ) -> AbortOnDropHandle<Ended> {
        let handler = Handler { name, organisation: ORGANISATION, topic: "deeds".into() };
        let is_mended = self.is_mended.clone();
        let work = async move |tx: &mut Tx, stored: &Stored| {
            assert!(event_id(stored).is_some() && event_kind(stored) == Some("deed.done"));
            let value = String::from_utf8_lossy(&stored.record.value).into_owned();
            if fails.contains(&&*value) && !is_mended.load(Ordering::SeqCst) {
                return Err(Unhandled::invalid(format!("{name} cannot take {value}")));
            }
            let key = String::from_utf8_lossy(stored.record.key.as_deref().unwrap()).into_owned();
            effect(tx, name, &key, &value).await
        };
        let run = run_handler(self.db.clone(), self.log.clone(), handler, work);
        AbortOnDropHandle::new(self.base.tasks.spawn("handler", run))
    }

    async fn emit(&self, key: &'static str, value: &'static str) {
        let emit = async move |tx: &mut Tx| {
            let (topic, kind) = ("deeds", "deed.done");
            let (key, payload) = (key.to_owned(), value.as_bytes().to_vec());
            tx.emit(NewEvent { organisation: ORGANISATION, topic, kind, key, payload }).await?;
            Ok::<_, Error>(())
        };
        self.db.write(emit).await.unwrap();
    }

    fn mend(&self) {
        self.is_mended.store(true, Ordering::SeqCst);
    }

    /// Handler, key and value of each effect.
    async fn effects(&self) -> Vec<String> {
        let effects = self.db.read(async |read| {
            let rows = read.query("SELECT * FROM effects ORDER BY sequence", &[]).await?;
            let text = |row: &crate::Row| {
                let column = |name| row.get::<String>(name);
                Ok(format!("{} {} {}", column("handler")?, column("key")?, column("value")?))
            };
            rows.iter().map(text).collect()
        });
        let effects: Result<_, Error> = effects.await;
        effects.unwrap()
    }

    async fn effects_when(&self, count: usize) -> Vec<String> {
        loop {
            let effects = self.effects().await;
            if effects.len() >= count {
                return effects;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn list(&self, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
        let page = PageRequest::default();
        self.db.dead_letters(ORGANISATION, filter, &page).await.unwrap().items
    }

    async fn letters_when(&self, count: usize) -> Vec<DeadLetter> {
        loop {
            let letters = self.list(&all()).await;
            if letters.len() >= count {
                return letters;
            }
            tokio::task::yield_now().await;
        }
    }
}

type Ended = Option<Result<(), base::Failure>>;

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

async fn effect(tx: &mut Tx, handler: &str, key: &str, value: &str) -> Result<(), Unhandled> {
    let insert = "INSERT INTO effects (handler, key, value) VALUES (?, ?, ?)";
    tx.execute(insert, params![handler, key, value]).await?;
    Ok(())
}

/// A letter that nobody wrote by failing.
async fn keep(db: &Db, topic: &'static str, event: EventId, place: Option<(u32, u64)>) {
    let now = db.now();
    let keep = async move |tx: &mut Tx| {
        let letter = NewDeadLetter {
            organisation: ORGANISATION,
            handler: if place.is_some() { "feed" } else { "relay" },
            topic,
            place,
            event: Some(event.to_string()),
            kind: Some("deed.done"),
            key: Some(b"roof"),
            payload: b"7",
            reason: "by hand",
            attempts: 1,
            record_time: now,
            headers: None,
        };
        dead_letter::keep(tx, letter).await
    };
    db.write(keep).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_replayed_to_the_handler_that_failed_and_to_no_other() {
    let fixture = fixture().await;
    let _runs = [fixture.handle("feed", &["2"]), fixture.handle("search", &[])];
    for value in ["1", "2", "3"] {
        fixture.emit("roof", value).await;
    }
    let letter = fixture.letters_when(1).await.remove(0);
    fixture.effects_when(5).await;
    assert_eq!((letter.origin, &*letter.handler, letter.attempts), (Origin::Event, "feed", 1));
    assert_eq!((&*letter.reason, letter.tried), ("feed cannot take 2", None));
    let read = fixture.db.dead_letter(ORGANISATION, letter.id).await.unwrap();
    assert_eq!(read, letter);

    let again = fixture.db.replay(ORGANISATION, letter.id).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    assert_eq!(again.to_string(), "it could not be handled again: feed cannot take 2");
    let tried = fixture.list(&all()).await.remove(0);
    assert_eq!((tried.id, tried.attempts, tried.time), (letter.id, 2, letter.time));
    assert!(tried.tried.is_some());

    fixture.mend();
    let (one, two) = futures::join!(
        fixture.db.replay(ORGANISATION, letter.id),
        fixture.db.replay(ORGANISATION, letter.id),
    );
    let handled = [&one, &two].iter().filter(|r| matches!(r, Ok(Replayed::Handled))).count();
    let gone = [&one, &two].iter().filter(|r| matches!(r, Err(Error::NotFound))).count();
    assert_eq!((handled, gone), (1, 1), "{one:?} {two:?}");
    assert!(fixture.list(&all()).await.is_empty());
    let effects = fixture.effects().await;
    assert_eq!(effects.len(), 6, "{effects:?}");
    assert_eq!(effects[5], "feed roof 2");
    assert_eq!(effects.iter().filter(|effect| effect.ends_with("roof 2")).count(), 2);
    let text = fixture.base.metrics.text();
    assert!(text.contains("madang_relational_dead_letters_replayed_total 1\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_replays_at_once_have_one_effect() {
    let fixture = fixture().await;
    let _run = fixture.handle("feed", &["2"]);
    fixture.emit("roof", "2").await;
    let letter = fixture.letters_when(1).await.remove(0);
    fixture.mend();
    let replays = (0..50).map(|_| fixture.db.replay(ORGANISATION, letter.id));
    let replayed = futures::future::join_all(replays).await;
    assert_eq!(replayed.iter().filter(|replayed| replayed.is_ok()).count(), 1, "{replayed:?}");
    assert_eq!(fixture.effects().await, ["feed roof 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_set_aside_twice_has_one_effect() {
    let fixture = fixture().await;
    let _run = fixture.handle("feed", &["2"]);
    fixture.emit("roof", "2").await;
    let letter = fixture.letters_when(1).await.remove(0);
    // The relay died after the append and repeated the record.
    keep(&fixture.db, "deeds", letter.event.unwrap(), Some((0, 1))).await;
    assert_eq!(fixture.list(&all()).await.len(), 2);
    fixture.mend();
    fixture.db.replay(ORGANISATION, letter.id).await.unwrap();
    assert!(fixture.list(&all()).await.is_empty(), "its twin is gone too");
    // The repetition comes only now, after the replay.
    keep(&fixture.db, "deeds", letter.event.unwrap(), Some((0, 1))).await;
    let late = fixture.list(&all()).await.remove(0);
    fixture.db.replay(ORGANISATION, late.id).await.unwrap();
    assert_eq!(fixture.effects().await, ["feed roof 2"]);
    assert!(fixture.list(&all()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_its_handler_and_finds_one_that_was_started_again() {
    let fixture = fixture().await;
    let run = fixture.handle("feed", &["2"]);
    fixture.emit("roof", "2").await;
    let letter = fixture.letters_when(1).await.remove(0);
    fixture.mend();
    run.abort();
    drop(run.await);
    let gone = fixture.db.replay(ORGANISATION, letter.id).await.unwrap_err();
    assert_eq!(
        (gone.kind(), &*gone.to_string()),
        (ErrorKind::Conflict, "nobody here handles feed")
    );
    assert_eq!(fixture.list(&all()).await[0], letter);
    let _run = fixture.handle("feed", &["2"]);
    while fixture.db.replay(ORGANISATION, letter.id).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.effects().await, ["feed roof 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_log_refused_goes_back_into_the_outbox() {
    let fixture = fixture().await;
    let _run = fixture.handle("feed", &[]);
    let event = EventId::fixed(77);
    keep(&fixture.db, "deeds", event, None).await;
    let letter = fixture.list(&all()).await.remove(0);
    assert_eq!(letter.origin, Origin::Outbox);
    let replayed = fixture.db.replay(ORGANISATION, letter.id).await.unwrap();
    assert_eq!(replayed, Replayed::Waiting);
    assert_eq!(fixture.effects_when(1).await, ["feed roof 7"]);
    let topic = fixture.log.topic(ORGANISATION, "deeds").await.unwrap();
    let stored = topic.fetch(0, 0, 1 << 20).await.unwrap();
    assert_eq!(event_id(&stored[0]), Some(event));
    // One that it refuses still comes back as a letter.
    keep(&fixture.db, "no/such topic", EventId::fixed(78), None).await;
    let letter = fixture.list(&all()).await.remove(0);
    fixture.db.replay(ORGANISATION, letter.id).await.unwrap();
    let back = fixture.letters_when(1).await.remove(0);
    assert_ne!((back.id, &*back.reason), (letter.id, "by hand"));
    assert_eq!(back.event, letter.event);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_command_is_carried_out_from_the_first_attempt_under_its_id() {
    let fixture = fixture().await;
    let mut commands = Commands::new(&fixture.db, &fixture.base);
    let is_mended = fixture.is_mended.clone();
    let handle = async move |tx: &mut Tx, command: &Command| {
        if !is_mended.load(Ordering::SeqCst) {
            return Err(Unhandled::new(ErrorKind::Unavailable, &Error::Recovering));
        }
        effect(tx, &command.id.to_string(), &command.key, &command.attempt.to_string()).await
    };
    commands.handle("deed.do", handle).unwrap();
    commands.start().await.unwrap();
    let send = async |tx: &mut Tx| {
        let (organisation, name, key) = (ORGANISATION, "deed.do", "roof".to_owned());
        let payload = b"{}".to_vec();
        tx.send(NewCommand { organisation, name, key, payload, not_before: None }).await
    };
    let id = fixture.db.write(send).await.unwrap();
    for death in 1..=2 {
        let letter = fixture.letters_when(1).await.remove(0);
        assert_eq!((letter.origin, letter.attempts), (Origin::Command, 2), "death {death}");
        assert_eq!(letter.event.unwrap().to_string(), id.to_string());
        if death == 2 {
            fixture.mend();
        }
        let replayed = fixture.db.replay(ORGANISATION, letter.id).await.unwrap();
        assert_eq!(replayed, Replayed::Waiting);
    }
    assert_eq!(fixture.effects_when(1).await, [format!("{id} roof 1")]);
    assert!(fixture.list(&all()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_match_are_replayed_in_order_and_none_behind_one_that_fails() {
    let fixture = fixture().await;
    let _runs =
        [fixture.handle("feed", &["1", "2", "3", "4", "5", "6"]), fixture.handle("search", &["2"])];
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("b", "5"), ("c", "6")] {
        fixture.emit(key, value).await;
    }
    fixture.letters_when(7).await;
    let feed = DeadLetterFilter { handler: Some("feed".into()), ..all() };
    assert_eq!(fixture.list(&feed).await.len(), 6);
    let part = DeadLetterFilter { reason: Some("CANNOT take 2".into()), ..all() };
    assert_eq!(fixture.list(&part).await.len(), 2);
    let literal = DeadLetterFilter { reason: Some("take _".into()), ..all() };
    assert!(fixture.list(&literal).await.is_empty(), "a sign is itself");
    let kind = DeadLetterFilter { kind: Some("deed.undone".into()), ..all() };
    assert!(fixture.list(&kind).await.is_empty());
    let origin = |origin| DeadLetterFilter { origin: Some(origin), ..all() };
    assert_eq!(fixture.list(&origin(Origin::Event)).await.len(), 7);
    assert!(fixture.list(&origin(Origin::Command)).await.is_empty());
    assert!(fixture.list(&origin(Origin::Outbox)).await.is_empty());

    // Five at most: 1 a and 2 b fail, 3 a, 4 a and 5 b are behind them.
    let done = fixture.db.replay_matching(ORGANISATION, &feed).await.unwrap();
    assert_eq!(done, ReplayedMany { replayed: 0, failed: 2, held: 3, is_more: true });
    fixture.mend();
    let done = fixture.db.replay_matching(ORGANISATION, &feed).await.unwrap();
    assert_eq!(done, ReplayedMany { replayed: 5, failed: 0, held: 0, is_more: true });
    let done = fixture.db.replay_matching(ORGANISATION, &feed).await.unwrap();
    assert_eq!(done, ReplayedMany { replayed: 1, ..ReplayedMany::default() });
    let effects = fixture.effects().await;
    let effects: Vec<&str> = effects.iter().filter_map(|e| e.strip_prefix("feed ")).collect();
    assert_eq!(effects, ["a 1", "b 2", "a 3", "a 4", "b 5", "c 6"]);
    let left = fixture.list(&all()).await;
    assert_eq!((left.len(), &*left[0].handler), (1, "search"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_discarded_once_by_its_own_organisation_and_never_by_an_old_name() {
    let fixture = fixture().await;
    let _run = fixture.handle("feed", &["1", "2", "3"]);
    fixture.emit("roof", "1").await;
    let first = fixture.letters_when(1).await.remove(0);
    for (organisation, kind) in [(OTHER, ErrorKind::NotFound)] {
        assert_eq!(fixture.db.discard(organisation, first.id).await.unwrap_err().kind(), kind);
        assert_eq!(fixture.db.replay(organisation, first.id).await.unwrap_err().kind(), kind);
        assert_eq!(fixture.db.dead_letter(organisation, first.id).await.unwrap_err().kind(), kind);
        let none = fixture.db.replay_matching(organisation, &all()).await.unwrap();
        assert_eq!(none, ReplayedMany::default());
        assert_eq!(fixture.db.dead_letters_count(organisation).await.unwrap(), 0);
    }
    fixture.db.discard(ORGANISATION, first.id).await.unwrap();
    assert_eq!(fixture.db.dead_letters_count(ORGANISATION).await.unwrap(), 0);
    fixture.emit("roof", "2").await;
    let second = fixture.letters_when(1).await.remove(0);
    // SQLite gives the number of a row that is gone again.
    assert_eq!(second.id.sequence, first.id.sequence);
    let old = fixture.db.discard(ORGANISATION, first.id).await.unwrap_err();
    assert_eq!(old.kind(), ErrorKind::NotFound);
    fixture.emit("roof", "3").await;
    fixture.letters_when(2).await;
    let two = DeadLetterFilter { reason: Some("take 2".into()), ..all() };
    assert_eq!(fixture.db.discard_matching(ORGANISATION, &two).await.unwrap(), (1, false));
    let left = fixture.list(&all()).await;
    assert_eq!((left.len(), &*left[0].payload), (1, b"3".as_slice()));
    fixture.mend();
    assert!(fixture.effects().await.is_empty());
}
