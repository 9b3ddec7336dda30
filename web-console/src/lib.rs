//! The console: the files of `ui/`, embedded in the binary, and the headers that belong to them.
//!
//! It is not a server: it names no HTTP library and opens no socket. `server` mounts [`asset`] below
//! everything else on the HTTP port and sends [`content_security_policy`] with every answer.
//! There is no build step: what is in `ui/` is what runs. A debug build reads the files from disk at
//! each request, so that save and reload is enough.
//!
//! Start at [`asset`]; the pages start at `ui/main.js`, and `ui/README.md` says how they are made.

mod asset;
mod policy;

#[cfg(test)]
mod ui_tests;

pub use asset::{Asset, Body, Encoding, Packing, asset, paths};
pub use policy::content_security_policy;
