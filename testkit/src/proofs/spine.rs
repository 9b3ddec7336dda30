//! The spine: what every later part trusts.

mod disk;
mod power_cut;

pub use disk::disk;
pub use power_cut::{power_cut, power_cut_fails};
