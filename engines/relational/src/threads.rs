use std::any::Any;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Error;

/// The threads that have a connection. Each holds what all of them hold until its connection is closed.
pub(crate) struct Threads {
    held: Weak<dyn Any + Send + Sync>,
    started: Mutex<Vec<JoinHandle<()>>>,
}

/// How often closing looks whether the threads have ended.
const CLOSE_STEP: Duration = Duration::from_millis(5);

impl Threads {
    pub(crate) fn new<T: Any + Send + Sync>(held: &Arc<T>) -> Self {
        let held: Weak<T> = Arc::downgrade(held);
        Self { held, started: Mutex::default() }
    }

    pub(crate) fn start(
        &self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        // Whoever starts a thread holds it: it opens the database, or it is a thread of it.
        let held = self.held.upgrade().ok_or(Error::Closed)?;
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            run();
            drop(held);
        });
        let thread = thread.map_err(|source| Error::Unavailable {
            during: format!("start the thread {name}"),
            source: Arc::new(source),
        })?;
        let mut started = self.started.lock();
        started.retain(|thread| !thread.is_finished());
        started.push(thread);
        Ok(())
    }

    /// Waits until all have ended, but not for ever: a closure may never end.
    pub(crate) fn join(&self, wait: Duration) {
        let mut threads = std::mem::take(&mut *self.started.lock());
        let mut waited = Duration::ZERO;
        while waited < wait && !threads.iter().all(JoinHandle::is_finished) {
            std::thread::park_timeout(CLOSE_STEP);
            waited += CLOSE_STEP;
        }
        for thread in threads.drain(..) {
            if !thread.is_finished() {
                tracing::error!("a closure does not end, so its connection stays open");
            } else if thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
    }
}
