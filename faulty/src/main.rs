//! `madang` with one more room, whose work panics, hangs, loops and keeps connections when it is asked to: for the
//! proofs spine/leak and spine/isolation. It is never shipped.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::access::Action;
use base::{ErrorKind, OrganisationId};
use bytes::Bytes;
use edge::{Json, NoContent, Operation, Routes, State};
use eventlog::Record;
use relational::{Read, Tx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use server::Ground;

/// What goes wrong, and where.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fault {
    at: At,
    what: What,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum At {
    /// In the handler of this request.
    Handler,
    /// In a supervised task on the threads of features.
    Task,
    /// In a task on the threads of doors and engines.
    Door,
    Read,
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum What {
    Panic,
    /// Waits for what never comes.
    Hang,
    /// Computes for ever.
    Loop,
    /// Asks for row after row and looks at no error, as statistics once did whose day never advanced.
    Statements,
    /// One statement without end.
    Sql,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Appends {
    count: usize,
    pause_micros: u64,
}

#[derive(Serialize, JsonSchema)]
struct Appended {
    micros: Vec<u64>,
}

const FAULTS: Action = Action("faults.make");
const ENDLESS: &str = "WITH RECURSIVE days (day) AS (SELECT 1 UNION ALL SELECT day FROM days) \
    SELECT COUNT(*) AS n FROM days";

/// Loops that began before the last stop are over.
static STOPS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    server::main(Some(routes))
}

fn routes(ground: Ground) -> Routes<Ground> {
    let of = |path| Operation::post(path).tag("faults");
    Routes::new(ground)
        .add(of("/v1/faults").id("fault").summary("Goes wrong.").action(FAULTS), fault)
        .add(of("/v1/faults/stop").id("stop").summary("Ends all loops.").action(FAULTS), stop)
        .add(
            of("/v1/faults/appends")
                .id("appends")
                .summary("Times appends to the event log, one after the other.")
                .action(FAULTS),
            appends,
        )
}

async fn stop() -> NoContent {
    STOPS.fetch_add(1, Ordering::AcqRel);
    NoContent
}

async fn fault(State(ground): State<Ground>, Json(fault): Json<Fault>) -> edge::Result<NoContent> {
    match fault.at {
        At::Handler => wrong(fault.what).await,
        At::Task => ground.handlers.tasks.supervise("faulty", move || async move {
            wrong(fault.what).await;
            Ok(())
        }),
        At::Door => drop(ground.io.tasks.spawn("faulty-door", wrong(fault.what))),
        At::Read => {
            let read = async move |read: &mut Read| read_wrong(read, fault.what).await;
            ground.db.read(read).await.map_err(rows)?;
        }
        At::Write => {
            let write = async move |tx: &mut Tx| write_wrong(tx, fault.what).await;
            ground.db.write(write).await.map_err(rows)?;
        }
    }
    Ok(NoContent)
}

async fn wrong(what: What) {
    match what {
        What::Panic => panic!("asked to"),
        What::Hang => std::future::pending().await,
        What::Loop | What::Statements | What::Sql => spin(),
    }
}

async fn read_wrong(read: &mut Read, what: What) -> Result<(), relational::Error> {
    match what {
        What::Statements => {
            let began = STOPS.load(Ordering::Acquire);
            while STOPS.load(Ordering::Relaxed) == began {
                drop(black_box(read.query("SELECT 1 AS one", &[]).await));
            }
        }
        What::Sql => drop(read.query(ENDLESS, &[]).await?),
        what => wrong(what).await,
    }
    Ok(())
}

async fn write_wrong(tx: &mut Tx, what: What) -> Result<(), relational::Error> {
    match what {
        What::Statements => {
            let began = STOPS.load(Ordering::Acquire);
            while STOPS.load(Ordering::Relaxed) == began {
                drop(black_box(tx.query("SELECT 1 AS one", &[]).await));
            }
        }
        What::Sql => drop(tx.query(ENDLESS, &[]).await?),
        what => wrong(what).await,
    }
    Ok(())
}

/// Computes until the next stop.
fn spin() {
    let began = STOPS.load(Ordering::Acquire);
    while STOPS.load(Ordering::Relaxed) == began {
        for number in 0..10_000_u64 {
            black_box(number.wrapping_mul(number));
        }
    }
}

fn rows(error: relational::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}

async fn appends(
    State(ground): State<Ground>,
    Json(asked): Json<Appends>,
) -> edge::Result<Json<Appended>> {
    let Ground { io, log, .. } = ground;
    let failed = |error: eventlog::Error| edge::Error::of(error.kind(), error);
    let topic = log.topic(OrganisationId::DEFAULT, "probe").await.map_err(failed)?;
    let clock = io.clock.clone();
    // Where doors append.
    let timed = io.tasks.spawn("appends", async move {
        let mut micros = Vec::with_capacity(asked.count);
        for _ in 0..asked.count {
            clock.sleep(Duration::from_micros(asked.pause_micros)).await;
            let record = Record {
                timestamp: clock.now(),
                key: None,
                value: Bytes::from_static(&[b'x'; 100]),
                headers: Vec::new(),
            };
            let began = clock.instant();
            topic.append(0, vec![record]).await?;
            let took = clock.instant() - began;
            micros.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        Ok(micros)
    });
    let micros = timed.await.ok().flatten();
    let micros = micros.ok_or_else(|| edge::Error::new(ErrorKind::Unavailable, "interrupted"))?;
    Ok(Json(Appended { micros: micros.map_err(failed)? }))
}
