//! The memory of everything that waits for connections, all together. When it is full, the connection for which the most
//! waits goes: it is the slowest or the greediest, and what it missed is there when it resumes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::outbox::{End, Outbox};

#[derive(Default)]
pub(crate) struct Pool {
    bytes: AtomicUsize,
    bytes_max: usize,
    last: AtomicU64,
    boxes: Mutex<HashMap<u64, Weak<Outbox>>>,
}

/// Bytes that are held for as long as this is.
pub(crate) struct Charge(Arc<Pool>, usize);

impl Pool {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, ..Self::default() })
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.add(bytes);
        Charge(self.clone(), bytes)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn free(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, outbox: &Weak<Outbox>) -> u64 {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        self.boxes.lock().insert(id, outbox.clone());
        id
    }

    pub(crate) fn leave(&self, id: u64) {
        self.boxes.lock().remove(&id);
    }

    /// Ends the connection for which the most waits, when there is too much. Nobody may hold the state of an outbox.
    pub(crate) fn relieve(&self) {
        if self.bytes() <= self.bytes_max {
            return;
        }
        // The last owner of one takes it out of here.
        let boxes: Vec<Arc<Outbox>> =
            self.boxes.lock().values().filter_map(Weak::upgrade).collect();
        let weights = boxes.iter().map(|outbox| (outbox.weight(), outbox));
        if let Some((bytes, largest)) = weights.max_by_key(|(bytes, _)| *bytes)
            && bytes > 0
        {
            largest.end(End::Crowded(bytes));
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.free(self.1);
    }
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Charge({})", self.1)
    }
}
