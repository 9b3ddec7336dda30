//! The words and surroundings that every part of Madang shares: ids, time, chance, error kinds,
//! access, supervised tasks, metrics, limits by address and by time, who holds what for too long, the seal on secrets in rows, and the connections of
//! doors, bare or under TLS.
//!
//! It holds no feature logic, opens no socket and no file but by a path that it is given, and names no other crate of the workspace.
//! Start at [`Base`], the bundle that every part receives first.

pub mod access;
mod entropy;
mod error;
mod id;
mod metrics;
mod network;
mod page;
pub mod personal;
mod seal;
mod shares;
mod spent;
mod stream;
mod tally;
mod tasks;
mod time;
pub mod tls;
mod trust;
pub mod watch;
mod whole;

pub use entropy::Entropy;
pub use error::{ErrorKind, Failure};
pub use id::{AccountId, CommandId, EventId, Id, KeyId, OrganisationId};
pub use metrics::{Metrics, TaskLabels};
pub use network::{Cidr, CidrError, network_of};
pub use page::{Page, PageRequest};
pub use seal::{Seal, SealingKeyId};
pub use shares::{Share, Shares};
pub use spent::Spent;
pub use stream::Stream;
pub use tally::Tally;
pub use tasks::Tasks;
pub use time::{Clock, Timestamp};
pub use tls::Tls;
pub use trust::trusting;
pub use watch::Watch;
pub use whole::write_whole;

/// What surrounds every part; cloning it is cheap.
#[derive(Clone)]
pub struct Base {
    pub clock: Clock,
    pub entropy: Entropy,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub watch: Watch,
}

impl Base {
    /// The real surroundings: the system's clock and randomness.
    pub fn system() -> Self {
        Self::new(Clock::system(), Entropy::system())
    }

    /// Surroundings for tests: time stands at `now` until it is moved, and chance repeats by `seed`.
    pub fn simulated(now: Timestamp, seed: u64) -> Self {
        Self::new(Clock::simulated(now), Entropy::seeded(seed))
    }

    /// The same surroundings, with tasks on other threads.
    #[must_use]
    pub fn on(&self, threads: &tokio::runtime::Handle) -> Self {
        Self { tasks: self.tasks.on(threads), ..self.clone() }
    }

    fn new(clock: Clock, entropy: Entropy) -> Self {
        let metrics = Metrics::default();
        let (tasks, watch) = (Tasks::new(&metrics), Watch::new(&clock, &metrics));
        Self { clock, entropy, tasks, metrics, watch }
    }
}
