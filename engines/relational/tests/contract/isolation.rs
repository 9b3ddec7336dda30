use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::OrganisationId;
use relational::{Db, Error, Migration, NewEvent, params};

use crate::ground::{Ground, Opened};

static TABLES: &[Migration] = &[Migration {
    id: "0001-notes",
    sql: "CREATE TABLE notes (
            name VARCHAR(60) NOT NULL PRIMARY KEY,
            size BIGINT NOT NULL,
            place BIGINT NOT NULL
        );
        CREATE INDEX notes_by_place ON notes (place)",
}];

/// Some callers share a commit, and others come after it.
async fn notes(ground: &Ground) -> Opened {
    let opened = ground.open_with(|config| config.group_max = 16).await;
    opened.db.migrate("notes", TABLES).await.unwrap();
    opened
}

async fn insert(db: &Db, name: String, place: i64) {
    let insert = async move |tx: &mut relational::Tx| {
        let note = "INSERT INTO notes (name, size, place) VALUES (?, 0, ?)";
        tx.execute(note, params![name, place]).await
    };
    db.write(insert).await.unwrap();
}

pub(crate) fn event(kind: &'static str, key: String, number: i64) -> NewEvent {
    NewEvent {
        organisation: OrganisationId::DEFAULT,
        topic: "notes",
        kind,
        key,
        payload: number.to_string().into_bytes(),
    }
}

/// Of two who are on call each may leave if the other stays.
pub(crate) async fn write_skew_is_impossible(ground: &Ground) {
    let Opened { db, base, .. } = notes(ground).await;
    for round in 0..20 {
        let names = [format!("a{round}"), format!("b{round}")];
        for name in &names {
            insert(&db, name.clone(), round).await;
        }
        let leavers = names.map(|name| {
            let db = db.clone();
            base.tasks.spawn("leaver", async move {
                db.write(async move |tx| {
                    let there = "SELECT COUNT(*) AS n FROM notes WHERE place = ? AND size = 0";
                    let there: i64 = tx.query_one(there, params![round]).await?.get("n")?;
                    if there < 2 {
                        return Err(Error::NotFound);
                    }
                    tx.execute("UPDATE notes SET size = 1 WHERE name = ?", params![name]).await
                })
                .await
            })
        });
        let mut left = 0;
        for leaver in leavers {
            match leaver.await.unwrap().unwrap() {
                Ok(_) => left += 1,
                Err(Error::NotFound) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        assert_eq!(left, 1, "round {round}");
    }
}

/// Two coupons for one payment: look whether it was issued, and issue it if not. No constraint helps.
pub(crate) async fn a_thousand_callers_issue_one_coupon(ground: &Ground) {
    let Opened { db, base, .. } = notes(ground).await;
    let callers: Vec<_> = (0..1_000_i64)
        .map(|caller| {
            let db = db.clone();
            base.tasks.spawn("caller", async move {
                db.write(async move |tx| {
                    let issued = "SELECT COUNT(*) AS n FROM notes WHERE place = 7";
                    if tx.query_one(issued, &[]).await?.get::<i64>("n")? > 0 {
                        return Ok(false);
                    }
                    let issue = "INSERT INTO notes (name, size, place) VALUES (?, 0, 7)";
                    tx.execute(issue, params![format!("issued to {caller}")]).await?;
                    tx.emit(event("coupon.issued", "coupon".into(), caller)).await?;
                    Ok::<_, Error>(true)
                })
                .await
            })
        })
        .collect();
    let mut won = 0;
    for caller in callers {
        won += usize::from(caller.await.unwrap().unwrap().unwrap());
    }
    assert_eq!(won, 1);
    let counts = db.read(async |read| {
        let coupons = read.query_one("SELECT COUNT(*) AS n FROM notes", &[]).await?.get("n")?;
        let events = read.query_one("SELECT COUNT(*) AS n FROM outbox", &[]).await?.get("n")?;
        Ok::<(i64, i64), Error>((coupons, events))
    });
    assert_eq!(counts.await.unwrap(), (1, 1));
}

pub(crate) async fn a_rule_over_many_rows_holds_while_all_are_added_at_once(ground: &Ground) {
    const MOST: i64 = 100;
    let Opened { db, base, .. } = notes(ground).await;
    let writers: Vec<_> = (0..300_i64)
        .map(|number| {
            let db = db.clone();
            base.tasks.spawn("writer", async move {
                db.write(async move |tx| {
                    let size = number % 7 + 1;
                    let sum = "SELECT COALESCE(SUM(size), 0) AS total FROM notes WHERE place = 1";
                    let sum: i64 = tx.query_one(sum, &[]).await?.get("total")?;
                    if sum + size > MOST {
                        return Ok(0);
                    }
                    let insert = "INSERT INTO notes (name, size, place) VALUES (?, ?, 1)";
                    tx.execute(insert, params![number.to_string(), size]).await?;
                    Ok::<_, Error>(size)
                })
                .await
            })
        })
        .collect();
    let mut taken = 0;
    for writer in writers {
        taken += writer.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(taken, MOST, "there are pieces of size 1 enough to fill it");
    let sum = db.read(async |read| {
        let sum = "SELECT COALESCE(SUM(size), 0) AS total FROM notes WHERE place = 1";
        read.query_one(sum, &[]).await?.get("total")
    });
    let sum = Result::<i64, Error>::unwrap(sum.await);
    assert_eq!(sum, MOST, "the rows hold what the writers were told");
}

pub(crate) async fn a_counter_misses_nobody(ground: &Ground) {
    let Opened { db, base, .. } = notes(ground).await;
    insert(&db, "counter".into(), 0).await;
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let db = db.clone();
            base.tasks.spawn("caller", async move {
                db.write(async |tx| {
                    let old = "SELECT size FROM notes WHERE name = 'counter'";
                    let old: i64 = tx.query_one(old, &[]).await?.get("size")?;
                    let new = "UPDATE notes SET size = ? WHERE name = 'counter'";
                    tx.execute(new, params![old + 1]).await
                })
                .await
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().unwrap(), 1);
    }
    let size = db.read(async |read| {
        read.query_one("SELECT size FROM notes WHERE name = 'counter'", &[]).await?.get("size")
    });
    assert_eq!(Result::<i64, Error>::unwrap(size.await), 200);
}

/// Money that moves between two accounts is never seen on the way.
pub(crate) async fn a_read_sees_one_moment(ground: &Ground) {
    let Opened { db, base, .. } = notes(ground).await;
    for name in ["from", "to"] {
        insert(&db, name.into(), 0).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mover = {
        let (db, stop) = (db.clone(), stop.clone());
        base.tasks.spawn("mover", async move {
            let mut moves = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                db.write(async |tx| {
                    let less = "UPDATE notes SET size = size - 1 WHERE name = 'from'";
                    tx.execute(less, &[]).await?;
                    let more = "UPDATE notes SET size = size + 1 WHERE name = 'to'";
                    tx.execute(more, &[]).await
                })
                .await
                .unwrap();
                moves += 1;
            }
            moves
        })
    };
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 20 {
        let sizes = db.read(async |read| {
            let of = "SELECT size FROM notes WHERE name = ?";
            let from: i64 = read.query_one(of, params!["from"]).await?.get("size")?;
            let to: i64 = read.query_one(of, params!["to"]).await?.get("size")?;
            Ok::<_, Error>((from, to))
        });
        let (from, to) = sizes.await.unwrap();
        assert_eq!(from + to, 0);
        seen.insert(to);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(mover.await.unwrap().unwrap() >= 19);
}

/// Each commit tells the next number of its key; closures that are slow after telling try to be overtaken.
pub(crate) async fn events_of_a_key_are_told_in_the_order_of_their_commits(ground: &Ground) {
    const KEYS: i64 = 4;
    let Opened { db, base, .. } = notes(ground).await;
    for key in 0..KEYS {
        insert(&db, format!("key{key}"), key).await;
    }
    let writers: Vec<_> = (0..240_i64)
        .map(|number| {
            let db = db.clone();
            base.tasks.spawn("writer", async move {
                db.write(async move |tx| {
                    let name = format!("key{}", number % KEYS);
                    let old = "SELECT size FROM notes WHERE name = ?";
                    let old: i64 = tx.query_one(old, params![name]).await?.get("size")?;
                    tx.emit(event("key.counted", name.clone(), old + 1)).await?;
                    for _ in 0..number % 3 {
                        tx.query("SELECT COUNT(*) AS n FROM notes WHERE place = 99", &[]).await?;
                    }
                    let new = "UPDATE notes SET size = ? WHERE name = ?";
                    tx.execute(new, params![old + 1, name]).await
                })
                .await
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap().unwrap();
    }
    let told = db.read(async |read| {
        read.query("SELECT key, payload FROM outbox ORDER BY sequence", &[]).await
    });
    let mut last = std::collections::BTreeMap::new();
    for row in Result::<_, Error>::unwrap(told.await) {
        let number: i64 = String::from_utf8(row.get("payload").unwrap()).unwrap().parse().unwrap();
        let before = last.insert(row.get::<String>("key").unwrap(), number).unwrap_or(0);
        assert_eq!(number, before + 1);
    }
    assert_eq!(last.values().sum::<i64>(), 240);
    assert!(db.outbox_length() >= 240 || !wait_for_length(&db, 240).await.is_zero());
}

/// The length of the outbox over the network is looked up now and then.
async fn wait_for_length(db: &Db, length: u64) -> Duration {
    let mut waited = Duration::ZERO;
    while db.outbox_length() < length {
        let step = Duration::from_millis(10);
        base::Base::system().clock.sleep(step).await;
        waited += step;
        assert!(waited < Duration::from_secs(10), "the outbox is {} long", db.outbox_length());
    }
    waited
}
