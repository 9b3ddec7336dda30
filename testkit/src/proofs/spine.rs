//! The spine: what every later part trusts.

mod disk;
mod faulty;
mod isolation;
mod leak;
mod power_cut;

pub use disk::disk;
pub use isolation::isolation;
pub use leak::leak;
pub use power_cut::{power_cut, power_cut_fails};
