//! Identity: who may do what by which door, how soon that ends, and what it costs.

mod attack;
mod providers;
mod revoked;
mod rights;
mod speed;

pub use attack::{attack, attack_alike};
pub use providers::providers;
pub use revoked::revoked;
pub use rights::{OTHER_ACTIONS, rights};
pub use speed::speed;
