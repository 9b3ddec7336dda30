use std::collections::BTreeSet;

use base::ErrorKind;
use relational::{Error, Migration, Tx, params};

use crate::ground::{Ground, Opened};

static FIRST: Migration = Migration {
    id: "0001-rooms",
    sql: "CREATE TABLE rooms (name VARCHAR(40) NOT NULL PRIMARY KEY, size BIGINT NOT NULL);
        CREATE INDEX rooms_by_size ON rooms (size, name);
        INSERT INTO rooms (name, size) VALUES ('first; one', 1)",
};
static SECOND: Migration = Migration {
    id: "0002-colours",
    sql: "ALTER TABLE rooms ADD COLUMN colour VARCHAR(20);
        CREATE TABLE chairs (sequence INTEGER PRIMARY KEY, room VARCHAR(40) NOT NULL, note TEXT);
        UPDATE rooms SET colour = 'red'",
};
static CHANGED: Migration = Migration { id: "0001-rooms", sql: "CREATE TABLE rooms (name TEXT)" };
static BROKEN: Migration =
    Migration { id: "0003-broken", sql: "CREATE TABLE tables (name TEXT); SELECT 1 FROM nowhere" };

static ONE: &[Migration] = &[FIRST];
static TWO: &[Migration] = &[FIRST, SECOND];
static OTHER: &[Migration] = &[CHANGED, SECOND];
static WRONG: &[Migration] = &[FIRST, SECOND, BROKEN];

pub(crate) async fn migrations_are_applied_once_and_refused_when_they_differ(ground: &Ground) {
    let Opened { db, .. } = ground.open().await;
    db.migrate("rooms", ONE).await.unwrap();
    db.migrate("rooms", ONE).await.unwrap();
    db.migrate("rooms", TWO).await.unwrap();
    db.migrate("rooms", TWO).await.unwrap();
    let colours = db.read(async |read| {
        let rows = read.query("SELECT name, colour FROM rooms", &[]).await?;
        rows.iter().map(|row| Ok((row.get("name")?, row.get("colour")?))).collect()
    });
    let colours: Result<Vec<(String, String)>, Error> = colours.await;
    assert_eq!(colours.unwrap(), [("first; one".into(), "red".into())]);
    for (migrations, problem) in [(ONE, "later version"), (OTHER, "changed after it was applied")] {
        let refused = db.migrate("rooms", migrations).await.unwrap_err();
        assert!(refused.to_string().contains(problem), "{refused}");
    }
    let broken = db.migrate("rooms", WRONG).await.unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Internal, "{broken:?}");
    assert!(broken.to_string().contains("nowhere"), "{broken}");
}

pub(crate) async fn servers_that_start_together_migrate_once(ground: &Ground) {
    let (_, config) = ground.fresh();
    let base = base::Base::system();
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let (config, base) = (config.clone(), base::Base::system());
            base.clone().tasks.spawn("start", async move {
                let db = relational::Db::open(config, &base).await?;
                db.migrate("rooms", TWO).await?;
                db.close().await;
                Ok::<_, Error>(())
            })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap().unwrap();
    }
    let db = relational::Db::open(config, &base).await.unwrap();
    let rooms = db.read(async |read| {
        read.query_one("SELECT COUNT(*) AS n FROM rooms", &[]).await?.get::<i64>("n")
    });
    assert_eq!(Result::<_, Error>::unwrap(rooms.await), 1);
}

/// A server that died between a statement and its note, after each statement.
pub(crate) async fn a_migration_that_was_interrupted_goes_on(ground: &Ground) {
    eprintln!("{}: a_migration_that_was_interrupted_goes_on", ground.name());
    let Opened { db, .. } = ground.open().await;
    db.migrate("rooms", ONE).await.unwrap();
    for done in 0..2_i64 {
        // What is left of the first migration runs again, its first statement a second time.
        db.write(async move |tx: &mut Tx| {
            let back = "UPDATE migration SET statements = ? WHERE room = 'rooms' AND position = 0";
            tx.execute(back, params![done]).await?;
            if done == 0 {
                tx.execute("DELETE FROM rooms", &[]).await?;
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
        if done == 0 {
            // The table is there, the index is not.
            continue;
        }
        db.write(async |tx: &mut Tx| tx.execute("DELETE FROM rooms", &[]).await).await.unwrap();
        db.migrate("rooms", ONE).await.unwrap();
    }
    let rooms = db.read(async |read| {
        read.query_one("SELECT COUNT(*) AS n FROM rooms", &[]).await?.get::<i64>("n")
    });
    assert_eq!(Result::<_, Error>::unwrap(rooms.await), 1);
}

/// Tables, columns, keys and indexes, as each database itself describes them.
pub(crate) async fn tables_are_equal(grounds: &[Ground]) {
    let mut found: Vec<(&str, BTreeSet<String>)> = Vec::new();
    for ground in grounds {
        let opened = ground.open().await;
        opened.db.migrate("rooms", TWO).await.unwrap();
        let described = opened.db.describe().await.unwrap();
        assert!(described.iter().any(|line| line.starts_with("rooms.colour ")), "{described:#?}");
        found.push((ground.name(), described));
    }
    let (_, expected) = &found[0];
    for (name, described) in &found[1..] {
        let missing: Vec<_> = expected.difference(described).collect();
        let more: Vec<_> = described.difference(expected).collect();
        assert!(missing.is_empty() && more.is_empty(), "{name} lacks {missing:#?}, has {more:#?}");
    }
}
