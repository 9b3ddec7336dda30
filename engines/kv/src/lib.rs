//! A store of keys that Redis clients take for Redis: RESP2 and RESP3, durable before it is acknowledged. Rooms of this
//! process reach it by [`Keys`], which does the same where `url` names a Redis, a Valkey, a cluster or sentinels.
//!
//! One thread owns everything: it reads what came from all clients, runs it, puts what changed on disk with one fsync
//! and sends the replies. It is one node: it replicates nothing. What it does not have it
//! refuses as Redis refuses an unknown command; docs/guides/kv.md lists what there is.
//!
//! Start at [`Kv`]. Inside, `engine` is everything without sockets, files or a clock; `store` the data; `command` the
//! table of commands; `script` Lua; `wire` the protocol; `log` the files; `net` the thread; `remote` other servers.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "lengths, places and counts are bounded by limits that are checked where they come in"
)]
#![allow(clippy::format_push_string, reason = "only in replies about the server itself")]
#![allow(clippy::unnecessary_wraps, reason = "every command has the form that the table holds")]

mod access;
mod address;
mod command;
mod config;
mod context;
mod engine;
mod error;
mod evict;
mod fields;
mod keys;
mod latency;
mod log;
mod metrics;
mod net;
mod notify;
mod pubsub;
mod remote;
mod script;
mod session;
mod settings;
mod slow;
mod space;
mod stats;
mod store;
mod tracking;
mod unsettled;
mod value;
mod wire;

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use base::access::{Authority, Principal};
use base::{Base, OrganisationId, Tls};
use mio::{Poll, Waker};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub use access::{ACTIONS, ADMIN, READ};
pub use address::Address;
pub use config::{Config, Durability};
pub use error::Error;
pub use keys::{Keys, Page, pattern_of};
pub use value::Value;

use engine::{Engine, Gate};
use net::{Message, Parts, Server, WAKER};
use remote::Remote;
use space::Space;

/// Of the thread: Lua and what it calls may be deep within each other.
const STACK_BYTES: usize = 16 << 20;

/// The store; cloning shares it.
#[derive(Clone)]
pub struct Kv(Arc<Shared>);

struct Shared {
    backend: Backend,
    /// Commands of rooms that may wait at once.
    places: Arc<Semaphore>,
    requests_max: usize,
}

/// A place among the commands that wait: held by who waits, and until the command is run also when nobody does any more.
type Queued = Arc<OwnedSemaphorePermit>;

enum Backend {
    Embedded(Embedded),
    Remote(Box<Remote>),
}

/// The way to the thread.
struct Embedded {
    sender: Sender<Message>,
    waker: Arc<Waker>,
    base: Base,
    /// Becomes true when the thread has ended.
    ended: watch::Receiver<bool>,
}

impl Kv {
    /// Reads the folder back and starts the thread; where `url` names another server, connects to it and leaves the
    /// folder alone. Nobody is let in before [`Kv::serve`]. A client that has not said who it is may do nothing, or
    /// what `anonymous` may.
    pub async fn open(
        config: Config,
        base: &Base,
        dir: &Path,
        authority: Arc<dyn Authority>,
        anonymous: Option<Principal>,
    ) -> Result<Self, Error> {
        if let Some(limit) = config.fault() {
            return Err(Error::Config(limit));
        }
        let requests_max = config.requests_max;
        let backend = if let Some(place) = config.url.place()? {
            Backend::Remote(Box::new(Remote::open(config, place, base).await?))
        } else {
            let gate = Gate { authority, anonymous };
            Backend::Embedded(Embedded::open(config, base, dir, gate).await?)
        };
        let places = Arc::new(Semaphore::new(requests_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self(Arc::new(Shared { backend, places, requests_max })))
    }

    /// As [`Kv::open`], for rooms alone: no client is ever let in.
    pub async fn for_rooms(config: Config, base: &Base, dir: &Path) -> Result<Self, Error> {
        let nobody = Arc::new(access::Nobody(watch::Sender::new(0)));
        Self::open(config, base, dir, nobody, None).await
    }

    /// What rooms keep for an organisation.
    pub fn keys(&self, organisation: OrganisationId) -> Keys {
        Keys::new(self.clone(), organisation)
    }

    /// Whether the keys are in this process, and clients can be served.
    pub fn is_embedded(&self) -> bool {
        matches!(self.0.backend, Backend::Embedded(_))
    }

    /// Lets clients in by one more door: over TLS where there is some, else bare.
    pub fn listen(&self, listener: TcpListener, tls: Option<Tls>) -> Result<(), Error> {
        self.embedded()?.tell(Message::Listen(listener, tls))
    }

    /// Serves clients until the server stops; then what is not on disk yet is put there.
    pub async fn serve(&self, listener: TcpListener) -> Result<(), Error> {
        let embedded = self.embedded()?;
        self.listen(listener, None)?;
        tokio::select! {
            () = embedded.base.tasks.stopping().cancelled_owned() => self.close().await,
            () = embedded.has_ended() => Err(Error::Ended),
        }
    }

    /// Runs one command on a database of an organisation's clients, in the server's own name: whoever asks has judged who
    /// may. The reply is on disk when it comes. It is for the embedded store.
    pub async fn command<T: AsRef<[u8]>>(
        &self,
        (organisation, db): (OrganisationId, u8),
        request: &[T],
    ) -> Result<Value, Error> {
        self.embedded()?;
        let queued = self.place_in_queue()?;
        let request = request.iter().map(|argument| argument.as_ref().to_vec()).collect();
        let place = (Space::of_clients(organisation), usize::from(db));
        value::read(&self.run(place, request, queued).await?)
    }

    /// Ends the thread in good order.
    pub async fn close(&self) -> Result<(), Error> {
        let Backend::Embedded(embedded) = &self.0.backend else { return Ok(()) };
        if *embedded.ended.borrow() {
            return Ok(());
        }
        embedded.tell(Message::Stop)?;
        embedded.has_ended().await;
        Ok(())
    }

    fn embedded(&self) -> Result<&Embedded, Error> {
        match &self.0.backend {
            Backend::Embedded(embedded) => Ok(embedded),
            Backend::Remote(_) => {
                Err(Error::Refused("the keys are on another server, which clients ask".into()))
            }
        }
    }

    fn remote(&self) -> Option<&Remote> {
        match &self.0.backend {
            Backend::Remote(remote) => Some(remote),
            Backend::Embedded(_) => None,
        }
    }

    fn place_in_queue(&self) -> Result<Queued, Error> {
        let requests_max = self.0.requests_max;
        let place = self.0.places.clone().try_acquire_owned();
        place.map(Arc::new).map_err(|_| Error::TooMany { requests_max })
    }

    /// The reply as it stands on the wire.
    async fn run(
        &self,
        place: (Space, usize),
        request: Vec<Vec<u8>>,
        queued: Queued,
    ) -> Result<Vec<u8>, Error> {
        let (answer, reply) = oneshot::channel();
        let embedded = self.embedded()?;
        embedded.tell(Message::Command { place, request, answer, queued: queued.clone() })?;
        reply.await.map_err(|_| {
            if *embedded.ended.borrow() {
                Error::Ended
            } else {
                Error::Lost("it began again".into())
            }
        })
    }
}

impl Embedded {
    async fn open(config: Config, base: &Base, dir: &Path, gate: Gate) -> Result<Self, Error> {
        let failed = |deed| Error::io(deed, dir);
        let poll = Poll::new().map_err(failed("watch sockets for"))?;
        let waker =
            Arc::new(Waker::new(poll.registry(), WAKER).map_err(failed("watch sockets for"))?);
        let (sender, messages) = channel();
        let (ready, opened) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let embedded =
            Self { sender: sender.clone(), waker: waker.clone(), base: base.clone(), ended };
        let (dir_owned, base, runtime) =
            (dir.to_owned(), base.clone(), tokio::runtime::Handle::current());
        let metrics = metrics::Metrics::register(&base.metrics);
        std::thread::Builder::new()
            .name("kv".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let now = base.clock.now().millis();
                let (secret, random) = (base.entropy.bytes(), base.entropy.number());
                let mut engine =
                    Engine::new(secret, random, gate, settings::Settings::new(&config), now);
                let opened = if config.durability.is_kept() {
                    log::recover(dir_owned, &mut engine).map(Some)
                } else {
                    log::unused(&dir_owned).map(|()| None)
                };
                let recovered = match opened {
                    Ok(recovered) => recovered,
                    Err(error) => {
                        drop(ready.send(Err(error)));
                        return;
                    }
                };
                if let Some(log::Recovered { effects, cut_bytes, .. }) = &recovered {
                    tracing::info!(effects, cut_bytes, "the store was read back");
                } else {
                    tracing::info!("the store keeps nothing: durability is memory");
                }
                let parts = Parts {
                    poll,
                    waker,
                    engine,
                    log: recovered.map(|recovered| recovered.log),
                    messages,
                    sender,
                    base,
                    runtime,
                    metrics,
                    config,
                };
                let server = Server::new(parts);
                drop(ready.send(Ok(())));
                if let Err(error) = server.run() {
                    tracing::error!(%error, "the store did not end in good order");
                }
                end.send_replace(true);
            })
            .map_err(failed("start a thread for"))?;
        opened.await.map_err(|_| Error::Ended)??;
        Ok(embedded)
    }

    async fn has_ended(&self) {
        // An error means that the thread is gone too.
        drop(self.ended.clone().wait_for(|ended| *ended).await.map(|_| ()));
    }

    fn tell(&self, message: Message) -> Result<(), Error> {
        self.sender.send(message).map_err(|_| Error::Ended)?;
        self.waker.wake().map_err(|_| Error::Ended)
    }
}
