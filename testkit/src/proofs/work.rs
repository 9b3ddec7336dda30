//! Work and word: messages that arrive, sockets that resume.

mod delivery;
mod receiver;
mod sockets;

pub use delivery::delivery;
pub use sockets::sockets;
