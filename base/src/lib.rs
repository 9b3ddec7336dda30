//! The words and surroundings that every part of Madang shares: ids, time, chance, error kinds,
//! access, supervised tasks and metrics.
//!
//! It holds no feature logic, does no I/O of its own and names no other crate of the workspace.
//! Start at [`Base`], the bundle that every part receives first.

pub mod access;
mod entropy;
mod error;
mod id;
mod metrics;
mod page;
mod tasks;
mod time;

pub use entropy::Entropy;
pub use error::{ErrorKind, Failure};
pub use id::{AccountId, CommandId, EventId, Id, KeyId, OrganisationId};
pub use metrics::{Metrics, TaskLabels};
pub use page::{Page, PageRequest};
pub use tasks::Tasks;
pub use time::{Clock, Timestamp};

/// What surrounds every part; cloning it is cheap.
#[derive(Clone)]
pub struct Base {
    pub clock: Clock,
    pub entropy: Entropy,
    pub tasks: Tasks,
    pub metrics: Metrics,
}

impl Base {
    /// The real surroundings: the system's clock and randomness.
    pub fn system() -> Self {
        let metrics = Metrics::default();
        Self {
            clock: Clock::system(),
            entropy: Entropy::system(),
            tasks: Tasks::new(&metrics),
            metrics,
        }
    }

    /// Surroundings for tests: time stands at `now` until it is moved, and chance repeats by `seed`.
    pub fn simulated(now: Timestamp, seed: u64) -> Self {
        let metrics = Metrics::default();
        Self {
            clock: Clock::simulated(now),
            entropy: Entropy::seeded(seed),
            tasks: Tasks::new(&metrics),
            metrics,
        }
    }
}
