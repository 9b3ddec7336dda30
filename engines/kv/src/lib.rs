//! A store of keys that Redis clients take for Redis: RESP2 and RESP3, durable before it is acknowledged.
//!
//! One thread owns everything: it reads what came from all clients, runs it, puts what changed on disk with one fsync
//! and sends the replies. It is one node: it replicates nothing. What it does not have it
//! refuses as Redis refuses an unknown command; docs/guides/kv.md lists what there is.
//!
//! Start at [`Kv`]. Inside, `engine` is everything without sockets, files or a clock; `store` the data; `command` the
//! table of commands; `script` Lua; `wire` the protocol; `log` the files; `net` the thread.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "lengths, places and counts are bounded by limits that are checked where they come in"
)]
#![allow(clippy::format_push_string, reason = "only in replies about the server itself")]
#![allow(clippy::unnecessary_wraps, reason = "every command has the form that the table holds")]

mod access;
mod command;
mod config;
mod context;
mod engine;
mod error;
mod evict;
mod fields;
mod log;
mod metrics;
mod net;
mod notify;
mod pubsub;
mod script;
mod session;
mod settings;
mod slow;
mod stats;
mod store;
mod tracking;
mod unsettled;
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
use tokio::sync::{oneshot, watch};

pub use access::ACTIONS;
pub use config::{Config, Durability};
pub use error::Error;

use engine::{Engine, Gate};
use net::{Message, Parts, Server, WAKER};

/// Of the thread: Lua and what it calls may be deep within each other.
const STACK_BYTES: usize = 16 << 20;

/// The store; cloning shares it.
#[derive(Clone)]
pub struct Kv(Arc<Shared>);

struct Shared {
    sender: Sender<Message>,
    waker: Arc<Waker>,
    base: Base,
    /// Becomes true when the thread has ended.
    ended: watch::Receiver<bool>,
}

impl Kv {
    /// Reads the folder back and starts the thread. Nobody is let in before [`Kv::serve`]. A client that has not said
    /// who it is may do nothing, or what `anonymous` may.
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
        let failed = |deed| Error::io(deed, dir);
        let poll = Poll::new().map_err(failed("watch sockets for"))?;
        let waker =
            Arc::new(Waker::new(poll.registry(), WAKER).map_err(failed("watch sockets for"))?);
        let (sender, messages) = channel();
        let (ready, opened) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let shared =
            Shared { sender: sender.clone(), waker: waker.clone(), base: base.clone(), ended };
        let (dir_owned, base, runtime) =
            (dir.to_owned(), base.clone(), tokio::runtime::Handle::current());
        let metrics = metrics::Metrics::register(&base.metrics);
        std::thread::Builder::new()
            .name("kv".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let now = base.clock.now().millis();
                let gate = Gate { authority, anonymous };
                let (secret, random) = (base.entropy.bytes(), base.entropy.number());
                let mut engine =
                    Engine::new(secret, random, gate, settings::Settings::new(&config), now);
                let recovered = match log::recover(dir_owned, &mut engine) {
                    Ok(recovered) => recovered,
                    Err(error) => {
                        drop(ready.send(Err(error)));
                        return;
                    }
                };
                tracing::info!(
                    effects = recovered.effects,
                    cut_bytes = recovered.cut_bytes,
                    "the store was read back"
                );
                let parts = Parts {
                    poll,
                    waker,
                    engine,
                    log: recovered.log,
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
        Ok(Self(Arc::new(shared)))
    }

    /// Lets clients in by one more door: over TLS where there is some, else bare.
    pub fn listen(&self, listener: TcpListener, tls: Option<Tls>) -> Result<(), Error> {
        self.tell(Message::Listen(listener, tls))
    }

    /// Serves clients until the server stops; then what is not on disk yet is put there.
    pub async fn serve(&self, listener: TcpListener) -> Result<(), Error> {
        self.listen(listener, None)?;
        tokio::select! {
            () = self.0.base.tasks.stopping().cancelled_owned() => self.close().await,
            () = self.has_ended() => Err(Error::Ended),
        }
    }

    /// Runs one command in the server's own name, for an organisation; the reply is RESP3, and on disk when it comes.
    pub async fn command(
        &self,
        organisation: OrganisationId,
        request: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, Error> {
        let (answer, reply) = oneshot::channel();
        self.tell(Message::Command { organisation, request, answer })?;
        reply.await.map_err(|_| Error::Ended)
    }

    /// Ends the thread in good order.
    pub async fn close(&self) -> Result<(), Error> {
        if *self.0.ended.borrow() {
            return Ok(());
        }
        self.tell(Message::Stop)?;
        self.has_ended().await;
        Ok(())
    }

    async fn has_ended(&self) {
        // An error means that the thread is gone too.
        drop(self.0.ended.clone().wait_for(|ended| *ended).await.map(|_| ()));
    }

    fn tell(&self, message: Message) -> Result<(), Error> {
        self.0.sender.send(message).map_err(|_| Error::Ended)?;
        self.0.waker.wake().map_err(|_| Error::Ended)
    }
}
