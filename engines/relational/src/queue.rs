use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Clock;
use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::shared::Shared;
use crate::work::Order;
use crate::{Error, Read, Tx};

/// A bounded queue from tasks to threads.
pub(crate) struct Queue<T> {
    name: &'static str,
    items: Mutex<Items<T>>,
    filled: Condvar,
    room: Semaphore,
    wait_max: Duration,
    depth: Gauge,
}

struct Items<T> {
    waiting: VecDeque<T>,
    is_closed: bool,
    /// Why nothing more is taken in for now.
    refusal: Option<Error>,
}

impl<T> Queue<T> {
    pub(crate) fn new(name: &'static str, max: usize, wait_max: Duration, depth: Gauge) -> Self {
        Self {
            name,
            items: Mutex::new(Items { waiting: VecDeque::new(), is_closed: false, refusal: None }),
            filled: Condvar::new(),
            room: Semaphore::new(max.min(Semaphore::MAX_PERMITS)),
            wait_max,
            depth,
        }
    }

    pub(crate) async fn push(&self, item: T) -> Result<(), Error> {
        match self.room.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::Closed) => return Err(Error::Closed),
            Err(TryAcquireError::NoPermits) => {
                match tokio::time::timeout(self.wait_max, self.room.acquire()).await {
                    Ok(Ok(permit)) => permit.forget(),
                    Ok(Err(_)) => return Err(Error::Closed),
                    Err(_) => return Err(Error::QueueFull { queue: self.name }),
                }
            }
        }
        let mut items = self.items.lock();
        if items.is_closed {
            return Err(Error::Closed);
        }
        if let Some(error) = items.refusal.clone() {
            drop(items);
            self.room.add_permits(1);
            return Err(error);
        }
        items.waiting.push_back(item);
        drop(items);
        self.depth.inc();
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for work and takes up to `max`; nothing once the queue is closed and empty.
    pub(crate) fn take(&self, max: usize) -> Option<VecDeque<T>> {
        let mut items = self.items.lock();
        while items.waiting.is_empty() {
            if items.is_closed {
                return None;
            }
            self.filled.wait(&mut items);
        }
        let count = items.waiting.len().min(max);
        let taken: VecDeque<T> = items.waiting.drain(..count).collect();
        drop(items);
        self.taken(taken.len());
        Some(taken)
    }

    /// Gives `each` whatever comes until the moment `until`. Says whether the queue is still open.
    pub(crate) fn drain(&self, clock: &Clock, until: Instant, mut each: impl FnMut(T)) -> bool {
        while clock.instant() < until {
            let mut items = self.items.lock();
            if items.waiting.is_empty() {
                if items.is_closed {
                    return false;
                }
                self.filled.wait_until(&mut items, until);
            }
            let taken = std::mem::take(&mut items.waiting);
            drop(items);
            self.taken(taken.len());
            taken.into_iter().for_each(&mut each);
        }
        true
    }

    /// Refuses what comes from now on; gives what waited.
    pub(crate) fn refuse(&self, error: Error) -> VecDeque<T> {
        let mut items = self.items.lock();
        items.refusal = Some(error);
        let waiting = std::mem::take(&mut items.waiting);
        drop(items);
        self.taken(waiting.len());
        waiting
    }

    /// Takes in again what comes. Says whether it was refused before.
    pub(crate) fn accept(&self) -> bool {
        self.items.lock().refusal.take().is_some()
    }

    /// Why what comes is refused, if it is.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.items.lock().refusal.clone()
    }

    /// Drops what waits; for a thread that ends before its queue is empty.
    pub(crate) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.items.lock().waiting);
        self.taken(waiting.len());
    }

    pub(crate) fn close(&self) {
        self.items.lock().is_closed = true;
        self.room.close();
        self.filled.notify_all();
    }

    fn taken(&self, count: usize) {
        self.room.add_permits(count);
        self.depth.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// What waits for the threads of a database.
#[derive(Clone)]
pub(crate) struct Queues {
    pub(crate) writes: Arc<Queue<Order<Tx>>>,
    pub(crate) reads: Arc<Queue<Order<Read>>>,
}

impl Queues {
    pub(crate) fn new(shared: &Shared) -> Self {
        let (config, meter) = (&shared.config, &shared.meter);
        Self {
            writes: Arc::new(Queue::new(
                "writes",
                config.writes_queue_max,
                config.queue_wait_max,
                meter.writes_waiting.clone(),
            )),
            reads: Arc::new(Queue::new(
                "reads",
                config.reads_queue_max,
                config.queue_wait_max,
                meter.reads_waiting.clone(),
            )),
        }
    }

    /// Why writes or reads are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.writes.refusal().or_else(|| self.reads.refusal())
    }

    pub(crate) fn close(&self) {
        self.reads.close();
        self.writes.close();
    }
}
