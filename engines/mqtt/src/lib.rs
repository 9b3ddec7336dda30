//! Messages between devices and everybody else: a broker for MQTT 3.1.1 and 5.0.

mod config;
mod decode;
mod encode;
mod error;
mod intake;
mod message;
mod outbox;
mod packet;
mod protocol;
mod retained;
mod topic;
mod trie;

pub use config::Config;
pub use error::Error;
pub use intake::{Accepted, Intake};
pub use message::{Message, Properties, Qos};
