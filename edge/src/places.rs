//! Places of requests: so many are worked on at once, and each peer has a share of them. A request whose body is still
//! coming has none: whoever sends slowly holds up nobody who asks.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use base::{ErrorKind, Share, Shares};
use futures::poll;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Config;
use crate::problem::{Error, Result};

pub(crate) struct Places {
    working: Arc<Semaphore>,
    arriving: Arc<Semaphore>,
    peers: Arc<Shares>,
    awaited: Gauge,
}

/// The place of one request, from its headers to its answer.
pub(crate) struct Place {
    working: Arc<Semaphore>,
    arriving: Arc<Semaphore>,
    /// Nothing while the rest of its body is awaited.
    held: Mutex<Option<OwnedSemaphorePermit>>,
    awaited: Gauge,
    _share: Option<Share>,
}

/// Held while a body is awaited.
struct Aside(Gauge, #[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Places {
    /// `awaited` counts the bodies that are.
    pub(crate) fn new(config: &Config, awaited: &Gauge) -> Self {
        Self {
            working: Arc::new(Semaphore::new(config.requests_max)),
            arriving: Arc::new(Semaphore::new(config.bodies_max)),
            peers: Shares::new(config.requests_per_peer_max, config.unlimited_peers()),
            awaited: awaited.clone(),
        }
    }

    /// A place for a request of a peer; nobody in particular when it came through no socket.
    pub(crate) fn take(&self, peer: Option<IpAddr>) -> Result<Arc<Place>> {
        let share = peer.map(|peer| self.peers.take(peer));
        if matches!(share, Some(None)) {
            let text = "too many requests of this address are being worked on";
            return Err(Error::new(ErrorKind::TooMany, text));
        }
        let Ok(held) = self.working.clone().try_acquire_owned() else {
            let text = "too many requests are being worked on";
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        Ok(Arc::new(Place {
            working: self.working.clone(),
            arriving: self.arriving.clone(),
            held: Mutex::new(Some(held)),
            awaited: self.awaited.clone(),
            _share: share.flatten(),
        }))
    }
}

impl Place {
    /// Waits for a body, aside, and has its place again when it is there.
    pub(crate) async fn body<T>(&self, arrival: impl Future<Output = T>) -> Result<T> {
        let mut arrival = pin!(arrival);
        if let Poll::Ready(arrived) = poll!(arrival.as_mut()) {
            return Ok(arrived);
        }
        let aside = self.step_aside()?;
        let arrived = arrival.await;
        let held = self.working.clone().acquire_owned().await;
        *self.held.lock() = Some(held.expect("the semaphore is never closed"));
        drop(aside);
        Ok(arrived)
    }

    /// Waits for what is only thrown away; behind it there is nothing to do but to answer.
    pub(crate) async fn rest(&self, arrival: impl Future<Output = ()>) {
        let mut arrival = pin!(arrival);
        if poll!(arrival.as_mut()).is_pending()
            && let Ok(_aside) = self.step_aside()
        {
            arrival.await;
        }
    }

    fn step_aside(&self) -> Result<Aside> {
        let Ok(aside) = self.arriving.clone().try_acquire_owned() else {
            let text = "too many requests are still being sent";
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        drop(self.held.lock().take());
        self.awaited.inc();
        Ok(Aside(self.awaited.clone(), aside))
    }
}
