//! Messages to those who are connected: STOMP 1.0, 1.1 and 1.2 over WebSocket or on a bare connection, with topics that
//! resume by offset, queues that give each message to one consumer, and queues of users.
//!
//! A message to a topic is in the log before it is told, so whoever comes back gets what they missed; a message to a
//! queue is a row until it is acknowledged. It decides nothing about who may do what: that is the
//! [`base::access::Authority`]. It has no wildcards, no selectors and no broker behind it, and one process serves it.
//!
//! Start at [`Sockets`]. Inside, `frame` and `web` are the two codecs and `session` one connection's protocol, all without
//! a socket or a clock; `lane` is a partition of the log with its listeners, `queue` a queue with its consumers,
//! `hub` all of them, and `connection` moves the bytes.

mod config;
mod connection;
mod destination;
mod error;
mod follow;
mod frame;
mod hub;
mod lane;
mod message;
mod meter;
mod outbox;
mod pool;
mod queue;
mod session;
mod store;
mod web;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::access::{Action, Authority, Principal, Subject};
use base::{Base, OrganisationId, Stream, Tls};
use bytes::Bytes;
use eventlog::EventLog;
use relational::Db;
use tokio::net::TcpListener;

pub use config::Config;
pub use connection::{Arrival, Guest, Still};
pub use error::Error;
pub use follow::{Follow, Followed};
pub use hub::ConnectionInfo;
pub use lane::{Source, TopicInfo};
pub use queue::QueueInfo;

use destination::Destination;
use hub::Hub;
use message::{Draft, is_name, is_passed_on};

/// Listening to a destination: `sockets/topic/NAME`, `sockets/queue/NAME` or, of one's own, `sockets/user/NAME`.
pub const SUBSCRIBE: Action = Action("sockets.subscribe");
/// Sending to a destination: the same, and `sockets/users/ID/NAME` for the queue of somebody else.
pub const PUBLISH: Action = Action("sockets.publish");
/// Seeing who is connected, and what topics and queues there are.
pub const READ: Action = Action("sockets.read");
/// Closing a connection.
pub const WRITE: Action = Action("sockets.write");

/// What STOMP's frames over WebSocket are called, newest first.
pub const PROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

/// The topic of the log that keeps what is sent to topics.
const TOPIC_OF_THE_LOG: &str = "sockets";

/// Connections over the limit that are told so; more are closed unheard.
const REFUSALS_MAX: usize = 64;

/// How long no connection is accepted after the system had no room for one.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// The connections, topics and queues of all organisations; cloning shares them.
#[derive(Clone)]
pub struct Sockets(Arc<Hub>);

impl Sockets {
    /// Makes the tables. `sources` appear as topics by themselves.
    pub async fn open(
        config: Config,
        base: &Base,
        stores: (EventLog, Db),
        authority: Arc<dyn Authority>,
        sources: Vec<Arc<dyn Source>>,
    ) -> Result<Self, Error> {
        Ok(Self(Hub::open(config, base, stores, authority, sources).await?))
    }

    /// Serves one accepted connection to its end.
    pub async fn serve(&self, arrival: Arrival) {
        let Some(share) = self.0.peers.take(arrival.peer) else {
            self.0.base.metrics.refused_connection("stomp");
            let peer = arrival.peer;
            tracing::debug!(%peer, "a connection is closed: its address has too many that do not log in");
            return;
        };
        let open = Open::new(&self.0);
        let max = self.0.config.connections_max;
        if open.before < max + REFUSALS_MAX {
            connection::serve(self.0.clone(), arrival, share, open.before >= max).await;
        }
    }

    /// Serves STOMP without WebSocket, over TLS where there is some, until the server stops.
    pub async fn listen(&self, listener: TcpListener, tls: Option<Tls>) {
        let base = &self.0.base;
        let stopping = base.tasks.stopping();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopping.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    base.clock.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let stream = match Stream::accepted(stream, tls.as_ref()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a socket was gone at once");
                    continue;
                }
            };
            let (sockets, peer) = (self.clone(), peer.ip());
            base.tasks.spawn("sockets-connection", async move {
                let (read, guest) = (Bytes::new(), None);
                sockets.serve(Arrival { stream, read, peer, guest, is_web: false }).await;
            });
        }
    }

    /// Sends in the server's own name to `/topic/NAME`, `/queue/NAME` or `/user/ID/queue/NAME`. It is on disk when this
    /// returns. No grant is asked for. Headers that the server says itself are left out.
    pub async fn publish(
        &self,
        organisation: OrganisationId,
        destination: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(), Error> {
        let bytes_max = self.0.config.destination_bytes_max;
        let parsed = Destination::parse(destination, bytes_max);
        let parsed = parsed.map_err(|fault| Error::Destination(fault.0.into_owned()))?;
        if matches!(parsed, Destination::Own(_)) {
            let text = format!("{destination:?} does not say whose");
            return Err(Error::Destination(text));
        }
        if let Some((name, _)) = headers.iter().find(|(name, _)| !is_name(name)) {
            return Err(Error::Destination(format!("{name:?} is not a header's name")));
        }
        let headers = headers.iter().filter(|(name, _)| is_passed_on(name));
        let headers = headers.map(|(name, it)| ((*name).to_owned(), (*it).to_owned())).collect();
        let subject = Subject::System("sockets");
        let principal = Principal { organisation, subject, name: "server".into() };
        // A task of its own, so that it ends also when the caller stops waiting.
        let hub = self.0.clone();
        let work = async move { hub.publish(&principal, &parsed, Draft { headers, body }).await };
        let published = self.0.base.tasks.spawn("sockets-send", work).await;
        published.ok().flatten().unwrap_or(Err(Error::Stopping))
    }

    /// The same to every connection of an account or a key, now and when it resumes.
    pub async fn tell(
        &self,
        organisation: OrganisationId,
        (subject, queue): (Subject, &str),
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(), Error> {
        let destination = format!("/user/{}/queue/{queue}", destination::holder(subject));
        self.publish(organisation, &destination, headers, body).await
    }

    /// Messages of a topic as they come, for a reader that stays connected in another way. `last` is the id of the
    /// last message that it saw. It ends when the reader may no longer listen or is too slow; then it resumes.
    pub async fn follow(
        &self,
        principal: &Principal,
        name: &str,
        last: Option<&str>,
    ) -> Result<Follow, Error> {
        Follow::open(self.0.clone(), principal.clone(), name, last).await
    }

    /// Open connections, those included that are not let in yet.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Those of an organisation that are let in, by id, after an id.
    pub fn connections_of(
        &self,
        organisation: OrganisationId,
        after: u64,
        max: usize,
    ) -> Vec<ConnectionInfo> {
        self.0.connections_of(organisation, after, max)
    }

    /// Closes a connection with an ERROR that says so.
    pub fn close(&self, organisation: OrganisationId, connection: u64) -> Result<(), Error> {
        self.0.close(organisation, connection)
    }

    /// Topics that somebody listens to, by name.
    pub fn topics(&self, organisation: OrganisationId) -> Vec<TopicInfo> {
        self.0.topics(organisation)
    }

    /// Queues that have messages or consumers, by name.
    pub async fn queues(&self, organisation: OrganisationId) -> Result<Vec<QueueInfo>, Error> {
        self.0.queues(organisation).await
    }
}

/// Counts one connection while it is there.
struct Open {
    hub: Arc<Hub>,
    /// How many there were before it.
    before: usize,
}

impl Open {
    fn new(hub: &Arc<Hub>) -> Self {
        hub.meter.connections.inc();
        let before = hub.connections.fetch_add(1, Ordering::AcqRel);
        Self { hub: hub.clone(), before }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.connections.fetch_sub(1, Ordering::AcqRel);
        self.hub.meter.connections.dec();
    }
}
