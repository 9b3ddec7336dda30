//! Work and word: jobs that run, messages that arrive.

mod delivery;
mod receiver;

pub use delivery::delivery;
