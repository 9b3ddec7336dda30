//! The broker over real sockets, and over simulated ones.

mod access;
mod client;
mod delivery;
mod house;
mod kept;
mod limits;
mod simulated;
