//! Identity: who may do what by which door, how soon that ends, and what it costs.

mod attack;
mod providers;
mod revoked;
mod rights;
mod speed;

pub use attack::attack;
pub use providers::providers;
pub use revoked::revoked;
pub use rights::{OTHER_ACTIONS, rights};
pub use speed::speed;

use crate::proofs::Report;

/// What was tried in one part, and what of it went wrong.
#[derive(Default)]
struct Tried {
    count: usize,
    wrong: Vec<String>,
}

/// Of what went wrong, so much is told.
const TOLD_MAX: usize = 20;

impl Tried {
    fn check(&mut self, held: bool, what: impl FnOnce() -> String) {
        self.count += 1;
        if !held {
            self.wrong.push(what());
        }
    }

    fn tell(self, report: &mut Report, name: &str) {
        let (count, wrong) = (self.count, self.wrong.len());
        report.bound(wrong == 0, format!("{name}: {count} tried, {wrong} wrong"));
        report.short.extend(self.wrong.into_iter().take(TOLD_MAX));
    }
}
