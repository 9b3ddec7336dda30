//! What one connection does is waited for on its thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::Error;

/// Why there is no answer: `E` is the driver's error.
pub(crate) enum Wrong<E> {
    Late,
    Error(E),
}

pub(crate) fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread().enable_all().build().map_err(|source| Error::Unavailable {
        during: "start a connection".into(),
        source: Arc::new(source),
    })
}

pub(crate) fn within<T, E>(
    runtime: &Runtime,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Wrong<E>> {
    match runtime.block_on(async { tokio::time::timeout(limit, work).await }) {
        Ok(done) => done.map_err(Wrong::Error),
        Err(_) => Err(Wrong::Late),
    }
}
