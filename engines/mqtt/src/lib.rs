//! Messages between devices and everybody else: a broker for MQTT 3.1.1 and 5.0, QoS 0, 1 and (from clients to
//! the broker) 2, with kept sessions, retained messages and wills as durable rows.
//!
//! It decides nothing about who may do what: that is the [`base::access::Authority`]. It knows nothing of readings: an
//! [`Intake`] sees each message before it is acknowledged. It is not a log: what no subscriber asked for and the intake
//! does not take is gone. It does not share subscriptions, bridge to other brokers or speak MQTT 3.1.
//!
//! Start at [`Mqtt`]. Inside, `protocol` is one connection without its socket, `outbox` what waits for one client,
//! `trie` the subscriptions, `route` the way of a message, and `connection` moves the bytes.

mod broker;
mod client;
mod config;
mod connection;
mod decode;
mod encode;
mod error;
mod intake;
mod message;
mod meter;
mod outbox;
mod packet;
mod protocol;
mod retained;
mod route;
mod session;
mod store;
mod subscribe;
mod topic;
mod trie;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::access::{Action, Authority};
use base::{Base, OrganisationId, Stream, Tls};
use bytes::Bytes;
use relational::Db;
use tokio::net::{TcpListener, TcpStream};

pub use client::{Client, ClientError};
pub use config::Config;
pub use error::Error;
pub use intake::{Accepted, Intake, Left};
pub use message::{Message, Properties, Qos};
pub use session::SessionInfo;

use broker::Broker;
use connection::Comer;
use protocol::Outcome;
use route::{Judged, Verdict};
use store::Rows;

/// Seeing which sessions there are.
pub const READ: Action = Action("mqtt.read");

/// Connections over the limit that are told so; more are closed unheard.
const REFUSALS_MAX: usize = 64;

/// How long no connection is accepted after the system had no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The broker; cloning shares it.
#[derive(Clone)]
pub struct Mqtt(Arc<Broker>);

impl Mqtt {
    /// Loads kept sessions and retained messages. Nobody is let in before [`Mqtt::serve`].
    pub async fn open(
        config: Config,
        base: &Base,
        db: Db,
        authority: Arc<dyn Authority>,
        intake: Arc<dyn Intake>,
    ) -> Result<Self, Error> {
        let store = Arc::new(Rows::open(db).await?);
        Ok(Self(Broker::open(config, base, store, (authority, intake)).await?))
    }

    /// Serves clients, over TLS where there is some, until the server stops. Then each is told, and its session kept;
    /// wills are not sent, since it is not the clients that are gone.
    pub async fn serve(&self, listener: TcpListener, tls: Option<Tls>) -> Result<(), Error> {
        let broker = &self.0;
        if !broker.is_served.swap(true, Ordering::AcqRel) {
            let sweeper = broker.clone();
            broker.base.tasks.supervise("mqtt-sweep", move || sweeper.clone().sweep());
        }
        let stopping = broker.base.tasks.stopping();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopping.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer.ip(), tls.as_ref()),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    broker.base.clock.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        self.wait_until_closed().await;
        Ok(())
    }

    /// Publishes in the server's own name: no grant is asked for, and the intake does not see it.
    pub async fn publish(
        &self,
        organisation: OrganisationId,
        message: Outgoing,
    ) -> Result<(), Error> {
        let broker = &self.0;
        if !topic::is_server_topic(&message.topic, broker.config.topic_levels_max) {
            return Err(Error::Topic(message.topic));
        }
        let message = Arc::new(Message {
            topic: message.topic.into(),
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            client: "".into(),
            received: broker.base.clock.now(),
            expires: None,
            properties: Properties::default(),
        });
        let batch = vec![Judged { message, verdict: Verdict::Route { is_stored: false } }];
        let (router, organisation) = (broker.clone(), broker.organisation(organisation));
        // A task of its own, so that it ends also when the caller stops waiting.
        let work = async move { router.route(&organisation, 0, batch).await };
        let routed = broker.base.tasks.spawn("mqtt-publish", work).await;
        match routed.ok().flatten().as_deref() {
            Some([Outcome::Done]) => Ok(()),
            Some([Outcome::Full]) => Err(Error::Full),
            _ => Err(Error::Unavailable),
        }
    }

    /// Sessions of an organisation by client identifier, connected or kept, after one.
    pub fn sessions(
        &self,
        organisation: OrganisationId,
        after: Option<&str>,
        max: usize,
    ) -> Vec<SessionInfo> {
        self.0.session_infos(organisation, after, max)
    }

    /// Open connections, those included that are not let in yet.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    fn welcome(&self, stream: TcpStream, peer: IpAddr, tls: Option<&Tls>) {
        let broker = self.0.clone();
        let Some(share) = broker.peers.take(peer) else {
            broker.base.metrics.refused_connection("mqtt");
            tracing::debug!(%peer, "a connection is closed: its address has too many that do not log in");
            return;
        };
        let open = Open::new(&broker);
        if open.before >= broker.config.connections_max + REFUSALS_MAX {
            return;
        }
        let is_over = open.before >= broker.config.connections_max;
        let comer = Comer { is_over, share: Some(share) };
        let tasks = broker.base.tasks.clone();
        if let Some(tls) = tls {
            let stream = match Stream::accepted(stream, Some(tls)) {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!(%error, "a socket was gone at once"),
            };
            let (read, write) = tokio::io::split(stream);
            tasks.spawn("mqtt-connection", async move {
                connection::serve(broker, read, write, comer).await;
                drop(open);
            });
            return;
        }
        tasks.spawn("mqtt-connection", async move {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a socket was gone at once");
            }
            let (read, write) = stream.into_split();
            connection::serve(broker, read, write, comer).await;
            drop(open);
        });
    }

    async fn wait_until_closed(&self) {
        let clock = &self.0.base.clock;
        let mut turns = self.0.config.close_time_max.as_millis() / 10;
        while self.connections() > 0 && turns > 0 {
            clock.sleep(Duration::from_millis(10)).await;
            turns -= 1;
        }
    }
}

/// What the server itself publishes.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
}

/// Counts one connection while it is there.
struct Open {
    broker: Arc<Broker>,
    /// How many there were before it.
    before: usize,
}

impl Open {
    fn new(broker: &Arc<Broker>) -> Self {
        broker.meter.connections.inc();
        let before = broker.connections.fetch_add(1, Ordering::AcqRel);
        Self { broker: broker.clone(), before }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.broker.connections.fetch_sub(1, Ordering::AcqRel);
        self.broker.meter.connections.dec();
    }
}
