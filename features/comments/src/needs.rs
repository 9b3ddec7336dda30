//! What comments need from other rooms, in words of their own; the server fulfils it.

use base::{ErrorKind, Failure};
use edge::BoxFuture;

/// Makes hashes of guests' passwords, and compares with them.
pub trait Passwords: Send + Sync + 'static {
    fn hash<'a>(&'a self, password: &'a str) -> BoxFuture<'a, Result<String, NeedError>>;

    /// As much work without a hash as with one.
    fn is<'a>(
        &'a self,
        password: &'a str,
        hash: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, NeedError>>;
}

/// Why another room did not do what was needed.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct NeedError {
    pub kind: ErrorKind,
    pub source: Failure,
}
