//! Work and word.

mod sockets;

pub use sockets::sockets;
