//! The spine: what every later part trusts.

mod power_cut;

pub use power_cut::{power_cut, power_cut_fails};
