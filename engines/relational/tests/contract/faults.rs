use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Base, ErrorKind};
use relational::{Address, Config, Db, Error, Migration, Tx, params};

use crate::ground::{Ground, Opened};

static TABLES: &[Migration] = &[Migration {
    id: "0001-deeds",
    sql: "CREATE TABLE deeds (name VARCHAR(60) NOT NULL PRIMARY KEY, done BIGINT NOT NULL)",
}];

const ENDLESS: &str = "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM endless)
    SELECT COUNT(*) AS n FROM endless";

async fn deeds(ground: &Ground) -> Opened {
    deeds_with(ground, Config::default().read_time_max).await
}

async fn deeds_with(ground: &Ground, read_time_max: Duration) -> Opened {
    let opened = ground.open_with(|config| config.read_time_max = read_time_max).await;
    opened.db.migrate("deeds", TABLES).await.unwrap();
    opened
}

async fn does(db: &Db, name: String) -> Result<(), Error> {
    db.write(async move |tx: &mut Tx| {
        tx.execute("INSERT INTO deeds (name, done) VALUES (?, 1)", params![name]).await?;
        Ok(())
    })
    .await
}

async fn done(db: &Db) -> Vec<String> {
    let all = db.read(async |read| {
        let rows = read.query("SELECT name FROM deeds ORDER BY name", &[]).await?;
        rows.iter().map(|row| row.get("name")).collect::<Result<Vec<String>, Error>>()
    });
    all.await.unwrap()
}

pub(crate) async fn a_statement_that_takes_too_long_is_ended(ground: &Ground) {
    let limit = Duration::from_secs(1);
    let Opened { db, base, .. } = deeds_with(ground, limit).await;
    let began = base.clock.instant();
    let endless = db.read(async |read| {
        // MariaDB ends a recursion by itself after a thousand rows, unless it is told otherwise.
        let rows = "SELECT COUNT(*) AS n FROM deeds a, deeds b, deeds c, deeds d, deeds e, deeds f";
        let sql = if read.query(ENDLESS, &[]).await.is_ok() { rows } else { ENDLESS };
        loop {
            read.query(sql, &[]).await?;
        }
        #[allow(unreachable_code, reason = "the closure's type")]
        Ok::<(), Error>(())
    });
    let error = endless.await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(base.clock.instant() - began < Duration::from_secs(15), "it goes on");
    does(&db, "after".into()).await.unwrap();
    assert_eq!(done(&db).await, ["after"]);
}

pub(crate) async fn a_closure_that_goes_wrong_keeps_nothing(ground: &Ground) {
    let Opened { db, .. } = deeds(ground).await;
    let refused = db.write(async |tx: &mut Tx| {
        tx.execute("INSERT INTO deeds (name, done) VALUES ('refused', 1)", &[]).await?;
        Err::<(), _>(Error::NotFound)
    });
    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::NotFound);
    let panicked = db.write(async |tx: &mut Tx| {
        tx.execute("INSERT INTO deeds (name, done) VALUES ('panicked', 1)", &[]).await?;
        let rows = tx.query("SELECT name FROM deeds WHERE name = 'nobody'", &[]).await?;
        assert!(!rows.is_empty(), "as asked");
        Ok::<_, Error>(())
    });
    assert!(matches!(panicked.await, Err(Error::Panicked { .. })));
    does(&db, "kept".into()).await.unwrap();
    assert_eq!(done(&db).await, ["kept"]);
}

/// Writers run on while every connection is cut again and again: who was told yes is there once, who was
/// told no is not, and whoever was told that it is not known is there once or not at all.
pub(crate) async fn cut_connections_lose_nothing_and_double_nothing(ground: &Ground) {
    let opened = deeds(ground).await;
    let writers = Writers::start(&opened);
    for _ in 0..8 {
        let before = done(&opened.db).await.len();
        tokio::task::block_in_place(|| ground.0.cut(&opened.name).unwrap());
        while done(&opened.db).await.len() < before + 20 {}
    }
    writers.check(&opened.db).await;
}

pub(crate) async fn a_crash_of_the_server_loses_nothing_that_was_acknowledged(ground: &mut Ground) {
    eprintln!("{}: a_crash_of_the_server_loses_nothing_that_was_acknowledged", ground.name());
    let opened = deeds(ground).await;
    let writers = Writers::start(&opened);
    for more in [100, 200] {
        while done(&opened.db).await.len() < more {}
        tokio::task::block_in_place(|| ground.0.crash().unwrap());
    }
    while done(&opened.db).await.len() < 300 {}
    writers.check(&opened.db).await;
}

type Told = Vec<(String, Result<(), Error>)>;

/// Write as fast as they can until they are stopped, and note what they were told.
struct Writers {
    stop: Arc<AtomicBool>,
    running: Vec<tokio::task::JoinHandle<Option<Told>>>,
}

impl Writers {
    fn start(opened: &Opened) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let running = (0..8).map(|writer| {
            let (db, stop) = (opened.db.clone(), stop.clone());
            opened.base.tasks.spawn("writer", async move {
                let mut told = Told::new();
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("{writer}-{}", told.len());
                    told.push((name.clone(), does(&db, name).await));
                }
                told
            })
        });
        Self { running: running.collect(), stop }
    }

    async fn check(self, db: &Db) {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Told::new();
        for writer in self.running {
            told.extend(writer.await.unwrap().unwrap());
        }
        check(&done(db).await, told);
    }
}

fn check(there: &[String], told: Told) {
    let mut unknown = 0;
    for (name, said) in told {
        let is_there = there.iter().filter(|other| **other == name).count();
        match said {
            Ok(()) => assert_eq!(is_there, 1, "{name} was acknowledged"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error:?}");
                unknown += is_there;
            }
        }
    }
    eprintln!("{unknown} were committed without an answer");
}

pub(crate) async fn an_address_where_nobody_answers_is_refused_without_its_password(
    ground: &Ground,
) {
    let (_, mut config) = ground.fresh();
    let scheme = if ground.name() == "PostgreSQL" { "postgres" } else { "mysql" };
    config.url = Address::new(format!("{scheme}://madang:hidden@127.0.0.1:1/rows"));
    let error = Db::open(config.clone(), &Base::system()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!format!("{error:?}{error}{config:?}").contains("hidden"), "{error:?}");
    config.url = Address::new("oracle://madang:hidden@127.0.0.1/rows");
    let error = Db::open(config, &Base::system()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.to_string().contains("hidden"), "{error}");
}
