//! `cargo run --release -p jobs --example ranking [LECTURES NIGHTS]`: the job of 03:00 that ranks lectures, in a process
//! that is killed at seeded moments of it, on SQLite and on PostgreSQL. Readers in that process see the ranking of the night
//! before or the new one, never a mixture, and the job goes on by itself.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]
#![allow(clippy::disallowed_methods, reason = "a development tool waits in real time")]

#[path = "ranking/build.rs"]
mod build;
#[path = "ranking/worker.rs"]
mod worker;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use base::{Entropy, Failure};
use testkit::Database;

use worker::{Told, Work};

const LECTURES: i64 = 100_000;
const NIGHTS: u32 = 20;
const KILLS_MAX: u64 = 4;
const SEED: u64 = 1_800;
const LIMIT: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(work) = Work::asked_for(&arguments)? {
        return worker::work(work).await;
    }
    let mut numbers = arguments.iter();
    let lectures = numbers.next().map_or(Ok(LECTURES), |text| text.parse())?;
    let nights = numbers.next().map_or(Ok(NIGHTS), |text| text.parse())?;
    let folder = tempfile::tempdir_in(".")?;
    let mut short = Vec::new();
    for database in [Database::Embedded, Database::postgres()?] {
        let outcome = run(&database, (lectures, nights), folder.path())?;
        println!("{}: {outcome}", database.name());
        short.extend(outcome.faults(nights).map(|fault| format!("{}: {fault}", database.name())));
    }
    if short.is_empty() { Ok(()) } else { Err(short.join("; ").into()) }
}

#[derive(Default)]
struct Outcome {
    lectures: i64,
    nights: u32,
    /// Kills while batches were written, and of those after the last one.
    kills: u32,
    at_the_switch: u32,
    before: u64,
    after: u64,
    /// Rankings that were compared place by place with one made at once.
    whole: u32,
    switches: i64,
    slowest: Duration,
    faults: Vec<String>,
}

impl Outcome {
    fn faults(&self, nights: u32) -> impl Iterator<Item = String> {
        let all = self.whole == nights && self.switches == i64::from(nights);
        let (whole, switches) = (self.whole, self.switches);
        let few = (!all).then(|| format!("{whole} rankings and {switches} switches"));
        let idle = (self.kills < nights || self.before == 0 || self.after == 0)
            .then(|| "too little happened to say anything".to_owned());
        self.faults.iter().take(5).cloned().chain(few).chain(idle)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lectures, nights, kills, at_the_switch, before, after, whole, .. } = self;
        write!(
            f,
            "{nights} nights at 03:00 over {lectures} lectures, killed {kills} times, {at_the_switch} of them between \
             the last batch and the switch; {} reads: {before} saw the ranking before, {after} the new one, {} anything \
             else; {whole} rankings the same as made at once, {} switches; the latest went on {:.1?} after a restart",
            before + after,
            self.faults.len(),
            self.switches,
            self.slowest,
        )
    }
}

/// A process with a worker and readers, and what it says.
struct Process {
    child: Child,
    told: Receiver<Told>,
}

impl Process {
    fn start(work: &Work) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(work.arguments())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().ok_or("no output")?;
        let (teller, told) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(said).lines().map_while(Result::ok);
            // Whoever listens may have killed it and gone on.
            lines.filter_map(|line| Told::read(&line)).all(|it| teller.send(it).is_ok())
        });
        Ok(Self { child, told })
    }

    fn next(&self) -> Result<Told, Failure> {
        match self.told.recv_timeout(LIMIT) {
            Ok(told) => Ok(told),
            Err(RecvTimeoutError::Timeout) => Err("the job does not go on".into()),
            Err(RecvTimeoutError::Disconnected) => Err("the process ended by itself".into()),
        }
    }

    /// Kills it, and takes in what it said before.
    fn kill(mut self, outcome: &mut Outcome) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        self.told.iter().for_each(|told| outcome.note(&told));
        Ok(())
    }
}

impl Outcome {
    fn note(&mut self, told: &Told) {
        match told {
            Told::Reads { before, after } => {
                self.before += before;
                self.after += after;
            }
            Told::Fault(fault) => self.faults.push(fault.clone()),
            Told::Whole { switches } => {
                // One that was killed right after it said so says it once more.
                self.whole += u32::from(*switches > self.switches);
                self.switches = *switches;
            }
            Told::Batch { .. } => {}
        }
    }
}

fn run(
    database: &Database,
    (lectures, nights): (i64, u32),
    folder: &Path,
) -> Result<Outcome, Failure> {
    let path: PathBuf = folder.join(database.name()).join("rows.db");
    let mut work = Work::new(database.make("ranking")?, path, lectures);
    let mut outcome = Outcome { lectures, nights, ..Outcome::default() };
    let chance = Entropy::seeded(SEED);
    for night in 1..=nights {
        let began = Instant::now();
        work.night = night;
        let mut kills = 1 + chance.number() % KILLS_MAX;
        let mut from = 0;
        loop {
            work.since_begin = began.elapsed();
            // Somewhere behind where it is, the moment after the last batch included.
            let left = work.batches().saturating_sub(from).max(1);
            let kill_at = (kills > 0).then(|| from + chance.number() % left);
            let pause = Duration::from_micros(chance.number() % 4_000);
            let process = Process::start(&work)?;
            let Some(reached) = watch(&process, (from, kill_at), &mut outcome)? else {
                let seen = outcome.after;
                while outcome.after == seen {
                    let told = process.next()?;
                    outcome.note(&told);
                }
                process.kill(&mut outcome)?;
                break;
            };
            std::thread::sleep(pause);
            process.kill(&mut outcome)?;
            kills -= 1;
            outcome.kills += 1;
            outcome.at_the_switch += u32::from(reached + 1 >= work.batches());
            from = reached;
        }
    }
    Ok(outcome)
}

/// Listens until a batch is written at which it is to be killed; nothing when the night is over.
fn watch(
    process: &Process,
    (from, kill_at): (u64, Option<u64>),
    outcome: &mut Outcome,
) -> Result<Option<u64>, Failure> {
    let began = Instant::now();
    let mut is_first = true;
    loop {
        let told = process.next()?;
        outcome.note(&told);
        match told {
            Told::Batch { number } => {
                if std::mem::take(&mut is_first) && from > 0 {
                    outcome.slowest = outcome.slowest.max(began.elapsed());
                    if number + 1 < from {
                        let fault = format!("batch {number} is written again after {from}");
                        outcome.faults.push(fault);
                    }
                }
                if kill_at.is_some_and(|kill_at| number >= kill_at) {
                    return Ok(Some(number));
                }
            }
            Told::Whole { .. } => return Ok(None),
            Told::Reads { .. } | Told::Fault(_) => {}
        }
    }
}
