//! The store of keys alone: the example `node` of `kv`, which is all of it but the accounts.

mod disk;
mod history;
mod hostile;
mod kill;
mod load;
mod memory;
mod power_cut;
mod speed;

pub use disk::disk;
pub use hostile::hostile;
pub use kill::kill;
pub use memory::memory;
pub use power_cut::{power_cut, power_cut_fails};
pub use speed::speed;

use std::time::Duration;

use super::{Ground, Proof, Report, Size};

/// Proofs of a node, by their names. `Ground::binary` is the node.
pub const ALL: &[(&str, Proof)] = &[
    ("kv/disk", disk),
    ("kv/hostile", hostile),
    ("kv/kill", kill),
    ("kv/memory", memory),
    ("kv/power-cut", power_cut),
    ("kv/power-cut-fails", power_cut_fails),
    ("kv/speed", speed),
];

/// A node of a debug build on a busy machine may take longer than the line says.
fn start_max(ground: &Ground) -> Duration {
    if ground.size == Size::Test { Duration::from_secs(10) } else { Duration::from_secs(2) }
}

/// Settings with which the log is rewritten many times in a round.
const REWRITES_OFTEN: &str = "rewrite_bytes_min=400000";

fn note_wrong(report: &mut Report, when: &str, wrong: Vec<String>) -> bool {
    let is_right = wrong.is_empty();
    for wrong in wrong.into_iter().take(3) {
        report.bound(false, format!("{when}: {wrong}"));
    }
    is_right
}

/// The middle of an odd number of figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
