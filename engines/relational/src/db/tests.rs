use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use base::{ErrorKind, OrganisationId};
use tempfile::TempDir;

use super::*;
use crate::{NewEvent, params};

static TABLES: &[Migration] = &[Migration {
    id: "0001-notes",
    sql: "CREATE TABLE notes (
            name TEXT NOT NULL PRIMARY KEY,
            size BIGINT NOT NULL DEFAULT 0 CHECK (size >= 0),
            parent TEXT REFERENCES notes (name),
            later TEXT REFERENCES notes (name) DEFERRABLE INITIALLY DEFERRED
        );
        CREATE TABLE bulk (bytes BLOB NOT NULL);",
}];

struct Fixture {
    db: Db,
    base: Base,
    dir: TempDir,
}

async fn fixture(change: impl FnOnce(&mut Config)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    change(&mut config);
    let base = Base::system();
    let db = Db::open(config, &base).await.unwrap();
    db.migrate("notes", TABLES).await.unwrap();
    Fixture { db, base, dir }
}

fn config(dir: &Path) -> Config {
    Config { path: dir.join("deep/rows.db"), lock_wait_max: Duration::ZERO, ..Config::default() }
}

/// Unwraps, and says which error the closure has.
fn fine<T>(said: Result<T, Error>) -> T {
    said.unwrap()
}

async fn insert(db: &Db, name: impl Into<String>) -> Result<(), Error> {
    let name = name.into();
    db.write(async move |tx| {
        tx.execute("INSERT INTO notes (name) VALUES (?)", params![name]).await?;
        Ok(())
    })
    .await
}

async fn count(db: &Db, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) AS n FROM {table}");
    fine(db.read(async move |read| read.query_one(&sql, &[]).await?.get("n")).await)
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

fn event(key: String) -> NewEvent {
    let organisation = OrganisationId::DEFAULT;
    NewEvent { organisation, topic: "notes", kind: "note.made", key, payload: b"{}".to_vec() }
}

/// Occupies the writer until told, so that what comes meanwhile is one group.
fn occupy(fixture: &Fixture) -> mpsc::Sender<()> {
    let (go, wait) = mpsc::channel();
    let wait = parking_lot::Mutex::new(wait);
    let (began, has_begun) = mpsc::channel();
    let db = fixture.db.clone();
    fixture.base.tasks.spawn("occupy", async move {
        let work = async move |_: &mut Tx| {
            began.send(()).unwrap();
            wait.lock().recv().unwrap();
            Ok::<_, Error>(())
        };
        db.write(work).await.unwrap();
    });
    tokio::task::block_in_place(|| has_begun.recv().unwrap());
    go
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_writers_share_fewer_commits_and_lose_nothing() {
    let fixture = fixture(|_| {}).await;
    let before = fixture.db.shared().meter.commits.get();
    let writers: Vec<_> = (0..1_000)
        .map(|number| {
            let db = fixture.db.clone();
            fixture.base.tasks.spawn("writer", async move {
                db.write(async move |tx| {
                    let name = format!("note {number}");
                    tx.execute("INSERT INTO notes (name) VALUES (?)", params![name]).await?;
                    tx.emit(event(name)).await
                })
                .await
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(count(&fixture.db, "notes").await, 1_000);
    assert_eq!(count(&fixture.db, "outbox").await, 1_000);
    assert_eq!(fixture.db.outbox_length(), 1_000);
    let commits = fixture.db.shared().meter.commits.get() - before;
    assert!(commits < 500, "{commits} commits for 1000 writes");
    let text = fixture.base.metrics.text();
    assert!(text.contains("madang_relational_outbox_length 1000"), "{text}");
}

/// What the members of one group do.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Succeed,
    Fail,
    Panic,
    Overrun,
    Await,
    Swallow,
    BreakLater,
}

async fn deed(db: Db, name: String, deed: Deed) -> Result<(), Error> {
    db.write(async move |tx| {
        tx.execute("INSERT INTO notes (name) VALUES (?)", params![name]).await?;
        match deed {
            Deed::Succeed => {}
            Deed::Fail => return Err(Error::NotFound),
            Deed::Panic => panic!("as asked"),
            Deed::Overrun => {
                let endless = "INSERT INTO bulk (bytes)
                    WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM endless)
                    SELECT zeroblob(n - n) FROM endless";
                tx.execute(endless, &[]).await?;
            }
            Deed::Await => tokio::task::yield_now().await,
            Deed::Swallow => {
                let twice = tx.execute("INSERT INTO notes (name) VALUES (?)", params![name]).await;
                assert_eq!(twice.unwrap_err().kind(), ErrorKind::AlreadyExists);
            }
            Deed::BreakLater => {
                let later = "UPDATE notes SET later = 'nobody' WHERE name = ?";
                tx.execute(later, params![name]).await?;
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_closure_that_goes_wrong_leaves_the_others_of_its_group() {
    let fixture = fixture(|config| config.write_time_max = Duration::from_millis(150)).await;
    let deeds = [
        Deed::Succeed,
        Deed::Fail,
        Deed::Succeed,
        Deed::Panic,
        Deed::Overrun,
        Deed::Await,
        Deed::Succeed,
        Deed::Swallow,
        Deed::BreakLater,
        Deed::Overrun,
        Deed::Succeed,
    ];
    let go = occupy(&fixture);
    let running: Vec<_> = deeds
        .into_iter()
        .enumerate()
        .map(|(number, what)| {
            let work = deed(fixture.db.clone(), format!("{what:?} {number}"), what);
            fixture.base.tasks.spawn("deed", work)
        })
        .collect();
    until(|| fixture.db.shared().meter.writes_waiting.get() == 11).await;
    go.send(()).unwrap();
    for (what, running) in deeds.into_iter().zip(running) {
        let said = running.await.unwrap().unwrap();
        let is_right = match (what, &said) {
            (Deed::Succeed, Ok(()))
            | (Deed::Fail, Err(Error::NotFound))
            | (Deed::Overrun, Err(Error::TimedOut { .. }))
            | (Deed::Await, Err(Error::Awaited { .. }))
            | (Deed::Swallow, Err(Error::AlreadyExists { .. }))
            | (Deed::BreakLater, Err(Error::Reference)) => true,
            (Deed::Panic, Err(Error::Panicked { message, .. })) => message == "as asked",
            _ => false,
        };
        assert!(is_right, "{what:?} gave {said:?}");
    }
    assert_eq!(count(&fixture.db, "notes").await, 4);
    assert_eq!(count(&fixture.db, "bulk").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_is_nobodys_and_the_database_is_opened_again() {
    let fixture = fixture(|_| {}).await;
    insert(&fixture.db, "before").await.unwrap();
    let go = occupy(&fixture);
    let running: Vec<_> = (0..5)
        .map(|number: u32| {
            let db = fixture.db.clone();
            fixture.base.tasks.spawn("writer", async move {
                let shared = db.shared().clone();
                let work = async move |tx: &mut Tx| {
                    // The fault is asked for by a member, so that it is this group's commit that fails.
                    shared.faults.commits.store(1, Ordering::SeqCst);
                    shared.faults.opens.store(3, Ordering::SeqCst);
                    let insert = "INSERT INTO notes (name) VALUES (?)";
                    tx.execute(insert, params![number]).await
                };
                db.write(work).await
            })
        })
        .collect();
    until(|| fixture.db.shared().meter.writes_waiting.get() == 5).await;
    go.send(()).unwrap();
    for running in running {
        let error = running.await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the database cannot answer: COMMIT");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    let faults = &fixture.db.shared().faults;
    while insert(&fixture.db, "after").await.is_err() {
        assert!(count(&fixture.db, "notes").await == 1, "reads go on");
    }
    assert_eq!(count(&fixture.db, "notes").await, 2);
    assert!(fixture.db.shared().meter.reopenings.get() >= 1);
    assert_eq!(faults.opens.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_refuses_writes_reads_on_and_recovers() {
    let fixture = fixture(|config| config.database_bytes_max = 400 << 10).await;
    let fill = async || {
        fixture
            .db
            .write(async |tx| {
                tx.execute("INSERT INTO bulk (bytes) VALUES (zeroblob(20000))", &[]).await
            })
            .await
    };
    let error: Error = loop {
        if let Err(error) = fill().await {
            break error;
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let rows = count(&fixture.db, "bulk").await;
    assert!(rows > 5);
    fine(fixture.db.write(async |tx| tx.execute("DELETE FROM bulk", &[]).await).await);
    fill().await.unwrap();
    assert_eq!(count(&fixture.db, "bulk").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_does_not_move_while_others_commit() {
    let fixture = fixture(|_| {}).await;
    insert(&fixture.db, "first").await.unwrap();
    let (looked, has_looked) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = parking_lot::Mutex::new(wait);
    let db = fixture.db.clone();
    let reading = fixture.base.tasks.spawn("reader", async move {
        db.read(async move |read| {
            let names = "SELECT name FROM notes";
            let before = read.query(names, &[]).await?.len();
            looked.send(()).unwrap();
            wait.lock().recv().unwrap();
            let after = read.query(names, &[]).await?.len();
            Ok::<_, Error>((before, after))
        })
        .await
    });
    tokio::task::block_in_place(|| has_looked.recv().unwrap());
    insert(&fixture.db, "second").await.unwrap();
    assert_eq!(count(&fixture.db, "notes").await, 2, "a later snapshot has it");
    go.send(()).unwrap();
    assert_eq!(reading.await.unwrap().unwrap().unwrap(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_closure_may_not_do_is_refused_in_clear_words() {
    let fixture = fixture(|config| config.rows_max = 3).await;
    insert(&fixture.db, "one").await.unwrap();
    let cases: &[(&str, ErrorKind, &str)] = &[
        ("COMMIT", ErrorKind::Internal, "this statement is not for a closure: COMMIT"),
        ("SAVEPOINT mine", ErrorKind::Internal, "this statement is not for a closure"),
        ("PRAGMA synchronous = OFF", ErrorKind::Internal, "this statement is not for a closure"),
        ("ATTACH 'x' AS y", ErrorKind::Internal, "this statement is not for a closure"),
        (
            "INSERT INTO notes (name) VALUES ('one')",
            ErrorKind::AlreadyExists,
            "there is already a row with the same notes.name",
        ),
        (
            "INSERT INTO notes (name, parent) VALUES ('two', 'nobody')",
            ErrorKind::Conflict,
            "the row names one that is not there",
        ),
        (
            "INSERT INTO notes (name, size) VALUES ('two', -1)",
            ErrorKind::Invalid,
            "a value breaks the rule size",
        ),
        (
            "INSERT INTO notes (name) VALUES (NULL)",
            ErrorKind::Invalid,
            "a value breaks the rule notes.name",
        ),
        ("SELECT name FROM nots", ErrorKind::Internal, "SELECT name FROM nots"),
        ("SELECT \"one\" FROM notes", ErrorKind::Internal, "SELECT"),
        ("SELECT name FROM notes WHERE name = ?", ErrorKind::Internal, "1 parameters are wanted"),
        ("SELECT 1; SELECT 2", ErrorKind::Internal, "SELECT 1; SELECT 2"),
        (
            "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4",
            ErrorKind::TooMany,
            "more than 3 rows",
        ),
    ];
    for &(sql, kind, text) in cases {
        let error: Error = fixture.db.write(async |tx| tx.query(sql, &[]).await).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error:?}");
        assert!(error.to_string().starts_with(text), "{sql}: {error}");
    }
    let write = "INSERT INTO notes (name) VALUES ('two') RETURNING name";
    let error: Error =
        fixture.db.read(async |read| read.query(write, &[]).await).await.unwrap_err();
    assert!(matches!(error, Error::ReadOnly), "{error:?}");
    assert_eq!(count(&fixture.db, "notes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_takes_too_long_is_ended() {
    let fixture = fixture(|config| config.read_time_max = Duration::from_millis(50)).await;
    let endless = "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM endless)
        SELECT MAX(n) FROM endless";
    let error: Error =
        fixture.db.read(async |read| read.query(endless, &[]).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("ran longer than 50ms (at "), "{error}");
    assert!(error.to_string().contains("db/tests.rs"), "{error}");
    assert_eq!(count(&fixture.db, "notes").await, 0, "the reader serves the next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_after_its_wait() {
    let fixture = fixture(|config| {
        config.writes_queue_max = 1;
        config.queue_wait_max = Duration::from_millis(5);
    })
    .await;
    let go = occupy(&fixture);
    let db = fixture.db.clone();
    let waiting = fixture.base.tasks.spawn("writer", async move { insert(&db, "waits").await });
    until(|| fixture.db.shared().meter.writes_waiting.get() == 1).await;
    let error = insert(&fixture.db, "refused").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::TooMany, "the queue for writes is full".into())
    );
    go.send(()).unwrap();
    waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(count(&fixture.db, "notes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_nobody_empties_refuses_events() {
    let fixture = fixture(|config| {
        config.outbox_max = 3;
        config.event_bytes_max = 10;
    })
    .await;
    let emit = async |count: usize| {
        fixture
            .db
            .write(async move |tx| {
                for number in 0..count {
                    tx.emit(event(number.to_string())).await?;
                }
                Ok(())
            })
            .await
    };
    emit(2).await.unwrap();
    let error: Error = emit(2).await.unwrap_err();
    assert!(matches!(error, Error::OutboxFull { length: 3 }), "{error:?}");
    emit(1).await.unwrap();
    assert_eq!(fixture.db.outbox_length(), 3);
    let large = NewEvent { payload: vec![b'x'; 11], ..event("key".into()) };
    let large = fixture.db.write(async move |tx| tx.emit(large.clone()).await).await;
    assert!(matches!(large.unwrap_err(), Error::EventTooLarge { bytes: 11, bytes_max: 10 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_database_is_refused() {
    let fixture = fixture(|_| {}).await;
    let second = Db::open(config(fixture.dir.path()), &fixture.base).await;
    let error = second.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let holder = format!("in use by process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    insert(&fixture.db, "kept").await.unwrap();
    fixture.db.close().await;
    assert!(matches!(insert(&fixture.db, "late").await, Err(Error::Closed)));
    let third = Db::open(config(fixture.dir.path()), &fixture.base).await.unwrap();
    assert_eq!(count(&third, "notes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_an_unclean_stop() {
    let fixture = fixture(|_| {}).await;
    for number in 0..50 {
        insert(&fixture.db, format!("note {number}")).await.unwrap();
    }
    // The files as a killed process leaves them: nothing was closed or copied back.
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("deep")).unwrap();
    for ending in ["", "-wal"] {
        let name = format!("deep/rows.db{ending}");
        std::fs::copy(fixture.dir.path().join(&name), copy.path().join(&name)).unwrap();
    }
    // The last bytes of a write that the stop cut off.
    let torn = std::fs::OpenOptions::new().append(true).open(copy.path().join("deep/rows.db-wal"));
    std::io::Write::write_all(&mut torn.unwrap(), &[7; 1_000]).unwrap();
    let base = Base::system();
    let db = Db::open(config(copy.path()), &base).await.unwrap();
    db.migrate("notes", TABLES).await.unwrap();
    assert_eq!(count(&db, "notes").await, 50);
    insert(&db, "more").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_applied_once_and_refused_when_they_differ() {
    const ONE: Migration = Migration { id: "1", sql: "CREATE TABLE one (a BIGINT)" };
    const TWO: Migration =
        Migration { id: "2", sql: "CREATE TABLE two (a BIGINT); INSERT INTO two VALUES (1)" };
    const CHANGED: Migration = Migration { id: "1", sql: "CREATE TABLE one (a TEXT)" };
    const BROKEN: Migration = Migration { id: "3", sql: "CREATE TABLE three (a BIGINT); nonsense" };
    const ENDING: Migration = Migration { id: "3", sql: "CREATE TABLE three (a BIGINT); COMMIT" };
    static ONLY: &[Migration] = &[ONE];
    static BOTH: &[Migration] = &[ONE, TWO];
    const CASES: &[(&[Migration], &str)] = &[
        (&[CHANGED, TWO], "migration 1 of room was changed after it was applied"),
        (&[ONE], "migration 2 of room is unknown: the database was written by a later version"),
        (&[TWO, ONE], "migration 1 of room was applied where this version has 2"),
        (&[ONE, TWO, ONE], "migration 1 of room is there twice"),
        (&[ONE, TWO, BROKEN], "\"nonsense\""),
        (&[ONE, TWO, ENDING], "this statement is not for a closure"),
    ];
    let fixture = fixture(|_| {}).await;
    fixture.db.migrate("room", ONLY).await.unwrap();
    fixture.db.migrate("room", BOTH).await.unwrap();
    fixture.db.migrate("room", BOTH).await.unwrap();
    assert_eq!(count(&fixture.db, "two").await, 1, "each ran once");
    for (migrations, text) in CASES {
        let error = fixture.db.migrate("room", migrations).await.unwrap_err();
        assert!(error.to_string().starts_with(text), "{error}");
    }
    let three = "sqlite_master WHERE name = 'three'";
    assert_eq!(count(&fixture.db, three).await, 0, "a broken one leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_stays_small_under_steady_writes() {
    let fixture = fixture(|config| config.wal_bytes_max = 1 << 20).await;
    for _ in 0..400 {
        let grow = fixture.db.write(async |tx| {
            tx.execute("INSERT INTO bulk (bytes) VALUES (zeroblob(50000))", &[]).await
        });
        fine(grow.await);
    }
    let bytes = std::fs::metadata(fixture.dir.path().join("deep/rows.db-wal")).unwrap().len();
    assert!(bytes < 10 << 20, "20 MiB were written and the log has {bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_refused_by_name() {
    let base = Base::system();
    let wrong = Config { group_max: 0, ..Config::default() };
    let error = Db::open(wrong, &base).await.err().unwrap();
    assert_eq!(error.to_string(), "group_max must be at least 1");
}

/// A closure's work that computes until told, without a statement.
fn lost(go: mpsc::Receiver<()>) -> impl Fn() + Send {
    let go = parking_lot::Mutex::new(go);
    move || go.lock().recv().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_does_not_end_is_named_and_others_are_served() {
    let fixture = fixture(|config| {
        config.readers = 1;
        config.readers_stuck_max = 1;
        config.held_told_after = Duration::from_millis(10);
        config.reader_replaced_after = Duration::from_millis(20);
    })
    .await;
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let (go, wait) = mpsc::channel();
        let (db, lost) = (fixture.db.clone(), lost(wait));
        let read = async move |read: &mut Read| {
            read.query("SELECT 1 AS one", &[]).await?;
            lost();
            Ok::<_, Error>(())
        };
        stuck.push((go, fixture.base.tasks.spawn("lost", async move { db.read(read).await })));
        until(|| fixture.base.watch.stuck().len() == stuck.len()).await;
        let named = fixture.base.watch.stuck().pop().unwrap();
        assert_eq!((named.what, named.step.as_deref()), ("read", Some("after SELECT 1 AS one")));
        assert!(named.place.unwrap().contains("db/tests.rs"));
        if stuck.len() == 1 {
            assert_eq!(count(&fixture.db, "notes").await, 0);
        }
    }
    // No reader is left, and none may be added.
    until(|| fixture.db.check().is_err()).await;
    let refused = fixture.db.read(async |read| read.query("SELECT 1", &[]).await).await;
    assert!(matches!(refused, Err(Error::Stuck { what: "read", .. })), "{refused:?}");
    insert(&fixture.db, "written meanwhile").await.unwrap();
    for (go, read) in stuck {
        go.send(()).unwrap();
        read.await.unwrap().unwrap().unwrap();
    }
    until(|| fixture.db.check().is_ok()).await;
    assert_eq!(count(&fixture.db, "notes").await, 1);
    assert!(fixture.base.watch.stuck().is_empty());
    fixture.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_write_does_not_end_others_are_refused_and_reads_go_on() {
    let fixture = fixture(|config| {
        config.write_time_max = Duration::from_millis(10);
        config.close_time_max = Duration::from_millis(10);
    })
    .await;
    let go = occupy(&fixture);
    let waiting = insert(&fixture.db, "waited").await;
    assert!(matches!(waiting, Err(Error::Stuck { what: "write", .. })), "{waiting:?}");
    let at_once = insert(&fixture.db, "came later").await;
    assert_eq!(at_once.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(fixture.db.check().unwrap_err().to_string().contains("db/tests.rs"));
    assert_eq!(count(&fixture.db, "notes").await, 0);
    go.send(()).unwrap();
    until(|| fixture.db.check().is_ok()).await;
    insert(&fixture.db, "taken again").await.unwrap();
    // Closing waits no longer than it may.
    let go = occupy(&fixture);
    fixture.db.close().await;
    go.send(()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_that_goes_on_after_its_time_is_ended_at_its_next_statement() {
    let fixture = fixture(|config| {
        config.write_time_max = Duration::from_millis(50);
        config.read_time_max = Duration::from_millis(50);
    })
    .await;
    // As statistics whose day never advanced: it looks at no error.
    let read = async |read: &mut Read| -> Result<(), Error> {
        loop {
            drop(read.query("SELECT 1 AS one", &[]).await);
        }
    };
    let ended = fixture.db.read(read).await;
    assert!(matches!(ended, Err(Error::TimedOut { .. })), "{ended:?}");
    let write = async |tx: &mut Tx| -> Result<(), Error> {
        tx.execute("INSERT INTO notes (name) VALUES ('lost')", &[]).await?;
        loop {
            drop(tx.query("SELECT 1 AS one", &[]).await);
        }
    };
    let ended = fixture.db.write(write).await;
    assert!(matches!(ended, Err(Error::TimedOut { .. })), "{ended:?}");
    insert(&fixture.db, "kept").await.unwrap();
    assert_eq!(count(&fixture.db, "notes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_count_for_whoever_asks_for_them() {
    let fixture = fixture(|_| {}).await;
    let spent = Spent::default();
    let db = fixture.db.clone();
    let work = async move {
        insert(&db, "one").await.unwrap();
        let read = async |read: &mut Read| {
            read.query("SELECT name FROM notes", &[]).await?;
            read.query_optional("SELECT name FROM notes", &[]).await
        };
        db.read(read).await.unwrap();
    };
    spent.clone().scope(work).await;
    insert(&fixture.db, "two").await.unwrap();
    assert_eq!(spent.statements(), 3);
    assert!(spent.rows_time() > Duration::ZERO);
}
