//! The broker over real sockets.

mod access;
mod client;
mod delivery;
mod house;
mod kept;
mod limits;
