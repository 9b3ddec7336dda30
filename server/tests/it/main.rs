//! The real binary, over real sockets, with real clients. One test binary for all.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by ending there")]

mod articles;
mod clients;
mod command_line;
mod comments;
mod contract;
mod databases;
mod dead_letters;
mod devices;
mod document;
mod endpoints;
mod identity;
mod jobs;
mod kv;
mod leaving;
mod metrics;
mod oidc;
mod people;
mod proofs;
mod sockets;
mod tls;

use std::path::Path;

use testkit::Launch;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_madang"))
}

/// A stack on a folder of its own, which goes with the folder.
fn launch(folder: &tempfile::TempDir) -> Launch {
    Launch::new(binary(), folder.path())
}
