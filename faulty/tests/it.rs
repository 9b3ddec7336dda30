//! The acceptance lines that need work which goes wrong, with small counts; `cargo xtask prove` runs the same at
//! full count.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by ending there")]

use std::path::Path;

use testkit::proofs::{Ground, Proof, spine};

fn holds(proof: Proof) {
    let report = proof(&Ground::test(Path::new(env!("CARGO_BIN_EXE_faulty")))).unwrap();
    for figure in &report.figures {
        eprintln!("{figure}");
    }
    assert!(report.short.is_empty(), "{:#?}", report.short);
}

#[test]
fn what_holds_too_long_is_named_while_others_are_served() {
    holds(spine::leak);
}

#[test]
fn a_feature_that_goes_wrong_holds_up_nobody_else() {
    holds(spine::isolation);
}
