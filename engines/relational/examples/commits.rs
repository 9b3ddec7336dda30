//! Measures durable transactions with one outbox event each, from 64 callers, for some seconds.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]

use std::time::Duration;

use base::{Base, Failure, OrganisationId};
use relational::{Config, Db, Error, Migration, NewEvent, params};

const CALLERS: i64 = 64;
const LASTS: Duration = Duration::from_secs(5);

static TABLES: &[Migration] = &[Migration {
    id: "0001-deeds",
    sql: "CREATE TABLE deeds (caller BIGINT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (caller, number))",
}];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(".")?;
    let base = Base::system();
    let config = Config { path: dir.path().join("rows.db"), ..Config::default() };
    let db = Db::open(config, &base).await?;
    db.migrate("deeds", TABLES).await?;
    let began = base.clock.instant();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| base.tasks.spawn("caller", call(db.clone(), base.clone(), caller)))
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await?.ok_or("a caller panicked")??);
    }
    let seconds = (base.clock.instant() - began).as_secs_f64();
    took.sort();
    let at = |thousandths: usize| took[(took.len() - 1) * thousandths / 1_000];
    println!("{:.0} transactions/s", took.len() as f64 / seconds);
    println!("p50 {:?}, p99 {:?}, longest {:?}", at(500), at(990), at(1_000));
    let text = base.metrics.text();
    for line in text.lines().filter(|line| line.contains("relational_commits_total ")) {
        println!("{line}");
    }
    Ok(())
}

async fn call(db: Db, base: Base, caller: i64) -> Result<Vec<Duration>, Error> {
    let began = base.clock.instant();
    let mut took = Vec::new();
    for number in 0_i64.. {
        let started = base.clock.instant();
        if started - began > LASTS {
            break;
        }
        db.write(async move |tx| {
            let insert = "INSERT INTO deeds (caller, number) VALUES (?, ?)";
            tx.execute(insert, params![caller, number]).await?;
            tx.emit(NewEvent {
                organisation: OrganisationId::DEFAULT,
                topic: "deeds",
                kind: "deed.done",
                key: caller.to_string(),
                payload: format!("{{\"caller\":{caller},\"number\":{number}}}").into_bytes(),
            })
            .await
        })
        .await?;
        took.push(base.clock.instant() - started);
    }
    Ok(took)
}
