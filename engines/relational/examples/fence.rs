//! `cargo run --release -p relational --example fence [ROUNDS] [SEED]`: one writer at a time under a lease.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]

#[path = "fence/rounds.rs"]
mod rounds;

use base::{Base, Failure};

const ROUNDS: u32 = 10_000;
const SEED: u64 = 21;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(ROUNDS), |text| text.parse())?;
    let seed = arguments.next().map_or(Ok(SEED), |text| text.parse())?;
    let clock = Base::system().clock;
    let began = clock.instant();
    let outcome = rounds::rounds(rounds, seed).await?;
    let took = clock.instant() - began;
    println!(
        "20 workers, seed {seed}: the lease was granted {} times in {took:.1?}",
        outcome.rounds
    );
    println!(
        "reigns ended by: {} releases, {} deaths, {} pauses",
        outcome.releases, outcome.killed, outcome.paused
    );
    println!("writes kept: {}; refused: {}", outcome.writes, outcome.refused);
    println!("late writes: {}; refused: {}", outcome.late, outcome.late_refused);
    let enough = outcome.rounds >= u64::from(rounds) && outcome.late > u64::from(rounds) / 10;
    if !enough {
        return Err("too little happened to say anything".into());
    }
    if !outcome.broken.is_empty() {
        let first: Vec<_> = outcome.broken.iter().take(5).cloned().collect();
        return Err(format!("{} faults: {}", outcome.broken.len(), first.join("; ")).into());
    }
    Ok(())
}
