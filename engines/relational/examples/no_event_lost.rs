//! `cargo run --release -p relational --example no_event_lost [EVENTS] [SEED]`: 64 writers, a relay and a handler
//! that are killed at random, on each of three databases; every event is handled, its effect is there once,
//! and the events of a key are handled in the order of their commits.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]

#[path = "no_event_lost/flow.rs"]
mod flow;

use base::{Base, Failure};
use relational::{Address, Config};

const EVENTS: u64 = 1_000_000;
const SEED: u64 = 31;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let events = arguments.next().map_or(Ok(EVENTS), |text| text.parse())?;
    let seed = arguments.next().map_or(Ok(SEED), |text| text.parse())?;
    let dir = tempfile::tempdir_in(".")?;
    let postgres = testkit::Postgres::start()?;
    let mariadb = testkit::MariaDb::start()?;
    let grounds = [
        ("SQLite", String::new()),
        ("PostgreSQL 15", postgres.database("events")?),
        ("MariaDB 10.11", mariadb.database("events")?),
    ];
    let mut short = Vec::new();
    for (name, url) in grounds {
        let folder = dir.path().join(name);
        let path = folder.join("rows.db");
        let config = Config { url: Address::new(url), path, ..Config::default() };
        let base = Base::system();
        let outcome = flow::run(config, &folder.join("log"), &base, events, seed).await?;
        println!("{name}: {outcome}");
        short.extend(outcome.faults().map(|fault| format!("{name}: {fault}")));
    }
    if short.is_empty() { Ok(()) } else { Err(short.join("; ").into()) }
}
