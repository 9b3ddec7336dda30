use std::collections::BTreeSet;

use base::ErrorKind;
use relational::{Error, Migration, Tx, Value, params};

use crate::ground::{Ground, Opened};
use crate::isolation::event;

static TABLES: &[Migration] = &[Migration {
    id: "0001-things",
    sql: "CREATE TABLE things (
            name VARCHAR(20) NOT NULL PRIMARY KEY,
            number BIGINT,
            fraction DOUBLE PRECISION,
            body TEXT,
            bytes BLOB,
            parent VARCHAR(20),
            size BIGINT NOT NULL DEFAULT 0 CHECK (size >= 0),
            FOREIGN KEY (parent) REFERENCES things (name)
        );
        CREATE TABLE counted (sequence INTEGER PRIMARY KEY, key VARCHAR(200) NOT NULL);
        CREATE UNIQUE INDEX counted_by_key ON counted (key)",
}];

async fn things(ground: &Ground) -> Opened {
    let opened = ground.open().await;
    opened.db.migrate("things", TABLES).await.unwrap();
    opened
}

const INSERT: &str =
    "INSERT INTO things (name, number, fraction, body, bytes, parent) VALUES (?, ?, ?, ?, ?, ?)";

pub(crate) async fn values_come_back_as_they_went_in(ground: &Ground) {
    let Opened { db, .. } = things(ground).await;
    let long = "가나다 🦊 ".repeat(20_000);
    let rows = vec![
        ("empty", Value::Null, Value::Null, Value::Null, Value::Null),
        ("least", i64::MIN.into(), f64::MIN.into(), "".into(), Value::Blob(vec![])),
        ("most", i64::MAX.into(), f64::MAX.into(), long.into(), Value::Blob(vec![0, 255, 39, 92])),
        (
            "small",
            0.into(),
            5e-324.into(),
            "a 'b' \\n \"c\" ?".into(),
            Value::Blob(vec![0; 70_000]),
        ),
    ];
    for (name, number, fraction, body, bytes) in rows {
        let given = [number, fraction, body, bytes];
        let kept = given.clone();
        db.write(async move |tx: &mut Tx| {
            let [number, fraction, body, bytes] = &kept;
            tx.execute(INSERT, params![name, number, fraction, body, bytes, None::<&str>]).await
        })
        .await
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let row = db.read(async move |read| {
            let all = "SELECT number, fraction, body, bytes FROM things WHERE name = ?";
            read.query_one(all, params![name]).await
        });
        let row = Result::<_, Error>::unwrap(row.await);
        let found: Vec<Value> = row.columns().map(|(_, value)| value.clone()).collect();
        assert_eq!(found, given, "{name}");
    }
    let sums = db.read(async |read| {
        let sums = "SELECT COUNT(*) AS n, SUM(size) AS total, MAX(name) AS last FROM things";
        read.query_one(sums, &[]).await
    });
    let sums = Result::<_, Error>::unwrap(sums.await);
    assert_eq!(sums.get::<i64>("n").unwrap(), 4);
    assert_eq!(sums.get::<i64>("total").unwrap(), 0);
    assert_eq!(sums.get::<String>("last").unwrap(), "small");
}

pub(crate) async fn errors_have_one_kind_everywhere(ground: &Ground) {
    let Opened { db, .. } = things(ground).await;
    let row = |name: &str, parent: Option<&str>| {
        params![name, 1, 1.5, "body", vec![1_u8], parent].to_vec()
    };
    let first = row("first", None);
    db.write(async move |tx: &mut Tx| tx.execute(INSERT, &first).await).await.unwrap();
    let long = "x".repeat(21);
    let update = "UPDATE things SET size = ? WHERE name = 'first'";
    let cases: Vec<(&str, &str, Vec<Value>, ErrorKind)> = vec![
        ("twice", INSERT, row("first", None), ErrorKind::AlreadyExists),
        ("no parent", INSERT, row("other", Some("nobody")), ErrorKind::Conflict),
        ("too long", INSERT, row(&long, None), ErrorKind::Invalid),
        ("a zero byte", INSERT, row("a\0b", None), ErrorKind::Invalid),
        ("a rule", update, vec![(-1).into()], ErrorKind::Invalid),
        ("not null", update, vec![Value::Null], ErrorKind::Invalid),
        ("no such table", "SELECT a FROM nowhere", vec![], ErrorKind::Internal),
        ("no such column", "UPDATE things SET colour = 1", vec![], ErrorKind::Internal),
        ("nonsense", "SELECT FROM WHERE", vec![], ErrorKind::Internal),
        ("too few parameters", update, vec![], ErrorKind::Internal),
    ];
    for (what, sql, params, kind) in cases {
        let refused = db.write(async move |tx: &mut Tx| {
            let failed = tx.execute(sql, &params).await;
            // A failed statement ends the transaction, also when the closure goes on.
            let after = tx.execute("UPDATE things SET size = 5", &[]).await;
            assert!(after.is_err(), "{what}");
            assert!(failed.is_err(), "{what}");
            Ok::<_, Error>(())
        });
        let error = refused.await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
    }
    let known = db.write(async move |tx: &mut Tx| {
        tx.execute(update, params![1]).await?;
        tx.execute(update, &[]).await
    });
    let error = known.await.unwrap_err();
    assert!(matches!(error, Error::Parameters { wanted: 1, given: 0, .. }), "{error:?}");
    let wrote = db.read(async |read| {
        read.query("INSERT INTO counted (key) VALUES ('x')", &[]).await.map(drop)
    });
    assert_eq!(Result::<_, Error>::unwrap_err(wrote.await).kind(), ErrorKind::Internal);
    let after = db.read(async |read| {
        read.query_one("SELECT COUNT(*) AS n, SUM(size) AS total FROM things", &[]).await
    });
    let after = Result::<_, Error>::unwrap(after.await);
    assert_eq!(after.get::<i64>("n").unwrap(), 1);
    assert_eq!(after.get::<i64>("total").unwrap(), 0);
}

pub(crate) async fn what_a_closure_may_not_do_is_refused(ground: &Ground) {
    let Opened { db, .. } = things(ground).await;
    for sql in ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT a", "-- c\n COMMIT"] {
        let refused = db.write(async move |tx: &mut Tx| {
            tx.execute("INSERT INTO counted (key) VALUES ('x')", &[]).await?;
            tx.execute(sql, &[]).await
        });
        let error: Error = refused.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{sql}: {error:?}");
    }
    let awaited = db.write(async |tx: &mut Tx| {
        tx.execute("INSERT INTO counted (key) VALUES ('x')", &[]).await?;
        tokio::task::yield_now().await;
        Ok::<_, Error>(())
    });
    assert!(matches!(awaited.await, Err(Error::Awaited { .. })));
    let left = db.read(async |read| {
        read.query_one("SELECT COUNT(*) AS n FROM counted", &[]).await?.get::<i64>("n")
    });
    assert_eq!(Result::<_, Error>::unwrap(left.await), 0);
}

/// A reader of pages sees every row that was there all the time, once and in order.
pub(crate) async fn pages_show_every_row_once_while_others_write(ground: &Ground) {
    let Opened { db, base, .. } = things(ground).await;
    let keys = |from: u32| (from..400).step_by(2).map(|number| format!("{number:05}"));
    for some in keys(0).collect::<Vec<_>>().chunks(50) {
        let some = some.to_vec();
        db.write(async move |tx: &mut Tx| {
            for key in &some {
                tx.execute("INSERT INTO counted (key) VALUES (?)", params![key]).await?;
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    }
    let writer = {
        let db = db.clone();
        base.tasks.spawn("writer", async move {
            for key in keys(1) {
                let (add, remove) = (key.clone(), key);
                db.write(async move |tx: &mut Tx| {
                    tx.execute("INSERT INTO counted (key) VALUES (?)", params![add]).await
                })
                .await?;
                db.write(async move |tx: &mut Tx| {
                    tx.execute("DELETE FROM counted WHERE key = ?", params![remove]).await
                })
                .await?;
            }
            Ok::<_, Error>(())
        })
    };
    let mut rounds = 0;
    loop {
        let is_last = writer.is_finished();
        let mut seen: Vec<String> = Vec::new();
        loop {
            let after = seen.last().cloned().unwrap_or_default();
            let page = db.read(async move |read| {
                let page = "SELECT key FROM counted WHERE key > ? ORDER BY key LIMIT 17";
                let rows = read.query(page, params![after]).await?;
                rows.iter().map(|row| row.get("key")).collect::<Result<Vec<String>, Error>>()
            });
            let page = page.await.unwrap();
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert!(seen.is_sorted(), "{seen:?}");
        let once: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(once.len(), seen.len());
        assert!(keys(0).all(|key| once.contains(&key)));
        rounds += 1;
        if is_last {
            break;
        }
    }
    writer.await.unwrap().unwrap().unwrap();
    assert!(rounds > 1, "nobody wrote meanwhile");
}

pub(crate) async fn texts_are_ordered_by_their_bytes(ground: &Ground) {
    let Opened { db, .. } = things(ground).await;
    let mut words =
        vec!["b", "B", "a", "a ", "A", "é", "e", "z", "나", "가", "_", "-", "1", "10", "2", ""];
    let given = words.clone();
    db.write(async move |tx: &mut Tx| {
        for word in &given {
            tx.execute("INSERT INTO counted (key) VALUES (?)", params![word]).await?;
        }
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    words.sort_unstable();
    let found = db.read(async |read| {
        let rows = read.query("SELECT key FROM counted ORDER BY key", &[]).await?;
        rows.iter().map(|row| row.get("key")).collect::<Result<Vec<String>, Error>>()
    });
    assert_eq!(found.await.unwrap(), words);
    let exactly = db.read(async |read| {
        read.query("SELECT key FROM counted WHERE key = 'a' OR key = 'É'", &[]).await
    });
    assert_eq!(
        Result::<_, Error>::unwrap(exactly.await).len(),
        1,
        "no case, no accent, no space is equal"
    );
}

/// The same closures ask the database the same number of times.
pub(crate) async fn counts_are_equal(grounds: &[Ground]) {
    let mut counts = Vec::new();
    for ground in grounds {
        let opened = things(ground).await;
        let db = &opened.db;
        let before = opened.metric("madang_relational_statements_total");
        for number in 0..10_i64 {
            db.write(async move |tx: &mut Tx| {
                let key = format!("key {number}");
                let known = "SELECT sequence FROM counted WHERE key = ?";
                if tx.query_optional(known, params![key]).await?.is_none() {
                    tx.execute("INSERT INTO counted (key) VALUES (?)", params![key]).await?;
                    tx.emit(event("thing.counted", key, number)).await?;
                }
                Ok::<_, Error>(())
            })
            .await
            .unwrap();
        }
        let all = db.read(async |read| read.query("SELECT key FROM counted", &[]).await);
        assert_eq!(Result::<_, Error>::unwrap(all.await).len(), 10);
        counts.push((ground.name(), opened.metric("madang_relational_statements_total") - before));
    }
    let expected = 10 * 3 + 1;
    for (name, count) in counts {
        assert_eq!(count, expected, "{name}");
    }
}

pub(crate) async fn what_is_said_for_later_is_in_order_and_its_mistake_ends_the_transaction(
    ground: &Ground,
) {
    const NAME: &str = "INSERT INTO things (name, number) VALUES (?, ?)";
    const SUM: &str = "SELECT SUM(number) AS sum, COUNT(*) AS count FROM things";
    let Opened { db, .. } = things(ground).await;
    let seen = db.write(async |tx: &mut Tx| {
        for number in 0..40 {
            tx.execute_later(NAME, params![format!("n{number}"), number]).await?;
        }
        let change = "UPDATE things SET number = 100 WHERE name = ?";
        tx.execute_later(change, params!["n39"]).await?;
        let sum: i64 = tx.query_one(SUM, &[]).await?.get("sum")?;
        tx.execute_later(NAME, params!["last", 1_000]).await?;
        Ok::<_, Error>(sum)
    });
    let seen = seen.await.unwrap();
    assert_eq!(seen, (0..39).sum::<i64>() + 100, "each sees those before it");
    let all = async |db: &relational::Db| -> (i64, i64) {
        let row = db.read(async |read| read.query_one(SUM, &[]).await).await.unwrap();
        (row.get("sum").unwrap(), row.get("count").unwrap())
    };
    assert_eq!(all(&db).await, (seen + 1_000, 41), "the last one went with the commit");

    // The mistake is found by the commit, by the next statement, and by one that says how many it changed.
    for then in [None, Some("SELECT 1 AS one"), Some("UPDATE things SET number = 0")] {
        let refused = db.write(async move |tx: &mut Tx| {
            tx.execute_later(NAME, params!["other", 1]).await?;
            // That it went wrong is said by the transaction, whatever the closure makes of it.
            let _ = tx.execute_later(NAME, params!["n1", 1]).await;
            match then {
                Some(sql) if sql.starts_with("SELECT") => drop(tx.query(sql, &[]).await),
                Some(sql) => drop(tx.execute(sql, &[]).await),
                None => {}
            }
            Ok::<_, Error>(())
        });
        let error = refused.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{then:?}: {error:?}");
        assert_eq!(all(&db).await, (seen + 1_000, 41), "{then:?}: nothing of it is kept");
    }
    let dropped = db.write(async |tx: &mut Tx| {
        tx.execute_later(NAME, params!["other", 1]).await?;
        Err::<(), _>(Error::NotFound)
    });
    assert_eq!(dropped.await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(all(&db).await, (seen + 1_000, 41), "a refused closure says nothing later either");
}
