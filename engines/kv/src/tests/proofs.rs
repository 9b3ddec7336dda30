//! The acceptance lines with small counts; `cargo xtask prove kv/NAME` runs the same at full count.

use testkit::proofs::{Ground, Proof, kv};

/// The node is an example, which cargo builds beside the tests.
fn holds(proof: Proof) {
    let tests = std::env::current_exe().unwrap();
    let node = tests.parent().unwrap().with_file_name("examples").join("node");
    assert!(node.exists(), "{} is built by `cargo test -p kv`", node.display());
    let report = proof(&Ground::test(&node)).unwrap();
    for figure in &report.figures {
        eprintln!("{figure}");
    }
    assert!(report.short.is_empty(), "{:#?}", report.short);
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    holds(kv::kill);
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    holds(kv::power_cut);
}

#[test]
fn a_missing_fsync_is_noticed_after_power_cuts() {
    holds(kv::power_cut_fails);
}

#[test]
fn a_full_or_failing_disk_is_refused_and_left_behind() {
    holds(kv::disk);
}

#[test]
fn hostile_clients_hurt_nobody_else() {
    holds(kv::hostile);
}

#[test]
fn memory_and_speed_are_measured_beside_redis() {
    holds(kv::memory);
    holds(kv::speed);
}
