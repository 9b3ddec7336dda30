//! The broker's own code, from the bytes of a connection to the rows, with clients over a network that cuts, delays and
//! breaks up, and rows that are late, fail and lose power. MQTT 3.1.1, QoS 0 and 1.

mod client;
mod memory;
mod model;
mod world;

use testkit::sim::{Outcome, Sim, run, seeds};

use world::World;

/// Everything that must have happened when many seeds ran; what never did was not tested.
const KINDS: &[&str] = &[
    "clean end",
    "commit failed",
    "connection cut",
    "connection stalled",
    "delivered again",
    "half-open connection",
    "intake failed",
    "messages acknowledged",
    "messages delivered",
    "messages sent again",
    "partial read",
    "partial write",
    "power cut",
    "retained messages compared",
    "sessions resumed",
    "taken over",
    "wills published",
];

fn one(sim: &Sim) -> Result<(), String> {
    World::new(sim).run()
}

#[test]
fn simulated_cuts_and_crashes_lose_no_message_that_was_acknowledged_and_double_none() {
    let seeds = seeds(60);
    let is_one = seeds.end - seeds.start == 1;
    let tally = run("mqtt", seeds, one);
    println!("mqtt: {tally}");
    let missing = tally.missing(KINDS);
    assert!(is_one || missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn a_simulated_seed_is_the_same_run_each_time() {
    for seed in 1_000_000..1_000_006 {
        let first = Outcome::of(seed, one);
        assert_eq!(first.violation, None, "seed {seed}");
        assert_eq!(Outcome::of(seed, one), first, "seed {seed}");
    }
}
