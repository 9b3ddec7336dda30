//! The log's own code on a simulated disk, beside a model that keeps everything in maps. One seed is one history of lives:
//! each opens the folder, works, and ends by a close, a kill or a power cut, often in the midst of an operation.

mod model;
mod world;

use testkit::sim::{Outcome, Sim, Tally, run, seeds};

use world::World;

/// Everything that must have happened when many seeds ran; what never did was not tested.
const KINDS: &[&str] = &[
    "bit rot",
    "clean end",
    "disk full",
    "folder fsync failed",
    "folder fsync found no room",
    "fsync failed",
    "fsync found no room",
    "kill",
    "length without data",
    "lost length",
    "lost name",
    "lost write",
    "operation cut short",
    "power cut",
    "read failed",
    "remove failed",
    "torn write",
    "write failed",
    "records acknowledged",
    "records read again",
    "records refused",
    "records sealed",
    "records trimmed",
    "positions rewritten",
];

fn one(sim: &Sim) -> Result<(), String> {
    let mut world = World::new(sim);
    let operations = sim.between(5, 60);
    let mut done = 0;
    while done < operations {
        if world.open()? {
            let life = sim.between(1, 15);
            for _ in 0..life {
                done += 1;
                if done > operations || !sim.step() {
                    done = operations;
                    break;
                }
                world.step()?;
                if world.is_off() {
                    break;
                }
            }
        } else {
            done += 1;
        }
        world.end();
    }
    world.heal()
}

fn told(tally: &Tally) {
    println!("eventlog: {tally}");
}

#[test]
fn simulated_crashes_and_failing_disks_take_nothing_that_was_acknowledged() {
    let seeds = seeds(500);
    let is_one = seeds.end - seeds.start == 1;
    let tally = run("eventlog", seeds, one);
    told(&tally);
    let missing = tally.missing(KINDS);
    assert!(is_one || missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn a_simulated_seed_is_the_same_run_each_time() {
    for seed in 1_000_000..1_000_020 {
        let first = Outcome::of(seed, one);
        assert_eq!(first.violation, None);
        assert_eq!(Outcome::of(seed, one), first, "seed {seed}");
    }
}

#[test]
fn what_a_simulated_sync_lost_is_not_read_after_a_restart_and_cuts_off_nothing_later() {
    for seed in 0..50 {
        let outcome = Outcome::of(seed, |sim| World::new(sim).fails_once_and_goes_on());
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

#[test]
fn a_simulated_folder_that_a_killed_process_made_is_there_after_a_power_cut() {
    for operation in 1..20 {
        for seed in 0..10 {
            let one = |sim: &Sim| World::new(sim).is_killed_as_it_begins(operation);
            let outcome = Outcome::of(seed, one);
            assert_eq!(outcome.violation, None, "operation {operation}, seed {seed}");
        }
    }
}

#[test]
fn a_simulated_topic_that_is_made_after_a_failed_attempt_is_there_after_a_power_cut() {
    for seed in 0..100 {
        let outcome = Outcome::of(seed, |sim| World::new(sim).makes_a_topic_after_a_failure());
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}
