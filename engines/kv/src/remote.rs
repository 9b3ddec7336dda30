//! Keys on another server, a cluster, or servers behind sentinels. Every key begins with the prefix and its
//! organisation in braces, so the keys of an organisation are in one slot of a cluster, and commands and scripts on
//! several of them work there too.

use std::time::{Duration, Instant};

use base::{Base, OrganisationId};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, ServerError, TlsCertificates,
    TlsMode,
};
use tokio::sync::Semaphore;

use crate::address::{Form, Place};
use crate::command::Command;
use crate::value::Value;
use crate::wire::request::Owned;
use crate::{Config, Error};

/// Before a command is sent again that a node refused because its slot is elsewhere, or is not served now.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const SLOTS: u16 = 16_384;

pub(crate) struct Remote {
    place: Place,
    shown: String,
    config: Config,
    roots: Option<Vec<u8>>,
    base: Base,
    link: Mutex<Link>,
    /// One place: who connects.
    connecting: Semaphore,
    connects: Counter,
    lost: Counter,
}

#[derive(Default)]
struct Link {
    open: Option<Wire>,
    /// Grows with each connection, so that only the one that broke is given up.
    number: u64,
    failed: Option<(Instant, String)>,
}

#[derive(Clone)]
enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Remote {
    /// Tries to connect. A server that is not there now is no error; one that refuses the password is.
    pub(crate) async fn open(config: Config, place: Place, base: &Base) -> Result<Self, Error> {
        let roots = match &config.tls_roots {
            None => None,
            Some(path) => {
                Some(std::fs::read(path).map_err(Error::io("read the certificates of", path))?)
            }
        };
        if place.has_tls {
            // Another one may be there already, which is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let counter = |name, help| base.metrics.register(name, help, Counter::default());
        let remote = Self {
            place,
            shown: config.url.to_string(),
            config,
            roots,
            base: base.clone(),
            link: Mutex::default(),
            connecting: Semaphore::new(1),
            connects: counter("kv_remote_connects", "Connections to the server of the keys."),
            lost: counter("kv_remote_lost", "Commands that the server of the keys did not answer."),
        };
        match remote.wire().await {
            Ok(_) => tracing::info!(server = remote.shown, "the keys are on another server"),
            Err(error) if error.kind() == base::ErrorKind::Unavailable => {
                tracing::warn!(server = remote.shown, %error, "the keys cannot be reached now");
            }
            Err(error) => return Err(error),
        }
        Ok(remote)
    }

    /// Runs a command on the keys of an organisation that rooms of this process keep for it.
    pub(crate) async fn ask(
        &self,
        organisation: OrganisationId,
        command: &'static Command,
        request: &Owned,
    ) -> Result<Value, Error> {
        let prefix = self.prefix(organisation);
        let args = request.args();
        let keys = command.keys(args);
        let mut cmd = Cmd::with_capacity(args.len(), request.held_bytes());
        for (at, arg) in args.iter().enumerate() {
            if keys.contains(&at) {
                cmd.arg([prefix.as_bytes(), arg].concat());
            } else {
                cmd.arg(arg);
            }
        }
        let answer = self.send(slot(organisation), &cmd).await.map_err(|error| match error {
            // An error may name keys.
            Error::Reply(text) => Error::Reply(text.replace(&prefix, "")),
            other => other,
        })?;
        Ok(match command.name {
            "lmpop" | "zmpop" | "xread" | "xreadgroup" => bared(answer, prefix.as_bytes()),
            _ => answer,
        })
    }

    /// A page of the names that begin so.
    pub(crate) async fn scan(
        &self,
        organisation: OrganisationId,
        (pattern, cursor, count): (&[u8], &str, u32),
    ) -> Result<Value, Error> {
        let prefix = self.prefix(organisation);
        let mut cmd = redis::cmd("SCAN");
        cmd.arg(cursor).arg("MATCH").arg([prefix.as_bytes(), pattern].concat());
        cmd.arg("COUNT").arg(count);
        let answer = self.send(slot(organisation), &cmd).await?;
        let Value::List(mut parts) = answer else { return Err(Error::NoReply) };
        if let Some(Value::List(names)) = parts.get_mut(1) {
            for name in names {
                bare(name, prefix.as_bytes());
            }
        }
        Ok(Value::List(parts))
    }

    fn prefix(&self, organisation: OrganisationId) -> String {
        format!("{}:{{{organisation}}}:", self.config.prefix)
    }

    async fn send(&self, slot: u16, cmd: &Cmd) -> Result<Value, Error> {
        let (clock, began) = (&self.base.clock, self.base.clock.instant());
        loop {
            let (number, wire) = self.wire().await?;
            let sent = tokio::time::timeout(self.config.reply_wait_max, wire.send(slot, cmd)).await;
            let error = match sent {
                Ok(Ok(redis::Value::ServerError(error))) => RedisError::from(error),
                Ok(Ok(value)) => return converted(value),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.give_up(number);
                    self.lost.inc();
                    return Err(Error::Lost(format!("{:?} are over", self.config.reply_wait_max)));
                }
            };
            match ServerError::try_from(error) {
                // Nothing was done, and soon another node may do it.
                Ok(error) if is_for_another(error.code()) => {
                    if matches!(self.place.form, Form::Sentinel) {
                        self.give_up(number);
                    }
                    if clock.instant() - began + AGAIN_AFTER >= self.config.reply_wait_max {
                        return Err(Error::Reply(told(&error)));
                    }
                    clock.sleep(AGAIN_AFTER).await;
                }
                Ok(error) => return Err(Error::Reply(told(&error))),
                Err(error) => {
                    self.give_up(number);
                    self.lost.inc();
                    return Err(Error::Lost(error.to_string()));
                }
            }
        }
    }

    /// The open connection, or a new one.
    async fn wire(&self) -> Result<(u64, Wire), Error> {
        if let Some(found) = self.open_wire() {
            return found;
        }
        let _turn = self.connecting.acquire().await.map_err(|_| Error::Ended)?;
        // Somebody else may have tried while this waited.
        if let Some(found) = self.open_wire() {
            return found;
        }
        let limit = self.config.connect_wait_max;
        let reason = match tokio::time::timeout(limit, self.connect()).await {
            Ok(Ok(wire)) => {
                self.connects.inc();
                let mut link = self.link.lock();
                link.failed = None;
                link.number += 1;
                link.open = Some(wire.clone());
                return Ok((link.number, wire));
            }
            Ok(Err(error)) if is_refusal(&error) => {
                return Err(Error::Reply(match ServerError::try_from(error) {
                    Ok(error) => told(&error),
                    Err(error) => format!("WRONGPASS {error}"),
                }));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {limit:?}"),
        };
        self.link.lock().failed = Some((self.base.clock.instant(), reason.clone()));
        Err(Error::Unreachable(reason))
    }

    /// The open connection, or why there is none now; nothing when it is time to try.
    fn open_wire(&self) -> Option<Result<(u64, Wire), Error>> {
        let link = self.link.lock();
        if let Some(wire) = &link.open {
            return Some(Ok((link.number, wire.clone())));
        }
        let (at, reason) = link.failed.as_ref()?;
        let since = self.base.clock.instant().saturating_duration_since(*at);
        (since < self.config.reconnect_after).then(|| Err(Error::Unreachable(reason.clone())))
    }

    fn give_up(&self, number: u64) {
        let mut link = self.link.lock();
        if link.number == number {
            link.open = None;
        }
    }

    async fn connect(&self) -> RedisResult<Wire> {
        let place = &self.place;
        let certificates = TlsCertificates { client_tls: None, root_cert: self.roots.clone() };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_wait_max))
            .set_response_timeout(None);
        match place.form {
            Form::One => {
                let info = self.info(0)?;
                let client = if place.has_tls {
                    Client::build_with_tls(info, certificates)?
                } else {
                    Client::open(info)?
                };
                client.get_multiplexed_async_connection_with_config(&config).await.map(Wire::One)
            }
            Form::Cluster => {
                let nodes: RedisResult<Vec<_>> =
                    (0..place.hosts.len()).map(|at| self.info(at)).collect();
                let mut builder = ClusterClientBuilder::new(nodes?)
                    // A command that broke off may have been done: it is not sent again.
                    .retries(0)
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(self.config.connect_wait_max)
                    .response_timeout(self.config.reply_wait_max);
                if place.has_tls {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                builder.build()?.get_async_connection().await.map(Wire::Cluster)
            }
            Form::Sentinel => {
                let mut builder = SentinelClientBuilder::new(
                    (0..place.hosts.len()).map(|at| self.host(at)),
                    &place.service,
                    SentinelServerType::Master,
                )?
                .set_client_to_redis_protocol(ProtocolVersion::RESP3)
                .set_client_to_redis_db(place.db);
                if let Some(user) = &place.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = &place.password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(password) = &place.sentinel_password {
                    builder = builder.set_client_to_sentinel_password(password);
                }
                if place.has_tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                let mut client = builder.build()?;
                client.get_async_connection_with_config(&config).await.map(Wire::One)
            }
        }
    }

    fn host(&self, at: usize) -> ConnectionAddr {
        let (host, port) = self.place.hosts[at].clone();
        if self.place.has_tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn info(&self, at: usize) -> RedisResult<ConnectionInfo> {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(self.place.db);
        if let Some(user) = &self.place.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.place.password {
            settings = settings.set_password(password);
        }
        Ok(self.host(at).into_connection_info()?.set_redis_settings(settings))
    }
}

impl Wire {
    async fn send(self, slot: u16, cmd: &Cmd) -> RedisResult<redis::Value> {
        match self {
            Self::One(mut connection) => connection.req_packed_command(cmd).await,
            Self::Cluster(mut connection) => {
                let route = SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
                connection.route_command(cmd.clone(), RoutingInfo::SingleNode(route)).await
            }
        }
    }
}

/// A node says that the command is for another one, or for later.
fn is_for_another(code: &str) -> bool {
    matches!(
        code,
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY"
    )
}

/// Whether trying again later is in vain: the server is there and does not let us in.
fn is_refusal(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
}

/// An error as the server wrote it.
fn told(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// The slot of a cluster in which all keys of an organisation are: CRC16 (XMODEM) of what stands in braces.
fn slot(organisation: OrganisationId) -> u16 {
    let tag = organisation.to_string();
    let crc = tag.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

fn converted(value: redis::Value) -> Result<Value, Error> {
    use redis::Value as Their;
    let all = |values: Vec<Their>| values.into_iter().map(converted).collect::<Result<_, _>>();
    Ok(match value {
        Their::Nil => Value::Null,
        Their::Int(number) => Value::Integer(number),
        Their::BulkString(bytes) | Their::BigNumber(bytes) => Value::Bytes(bytes),
        Their::SimpleString(text) | Their::VerbatimString { text, .. } => {
            Value::Bytes(text.into_bytes())
        }
        Their::Okay => Value::Bytes(b"OK".to_vec()),
        Their::Array(values) | Their::Set(values) | Their::Push { data: values, .. } => {
            Value::List(all(values)?)
        }
        Their::Map(pairs) => {
            let pairs =
                pairs.into_iter().map(|(key, value)| Ok((converted(key)?, converted(value)?)));
            Value::Map(pairs.collect::<Result<_, Error>>()?)
        }
        Their::Double(number) => Value::Double(number),
        Their::Boolean(is_so) => Value::Bool(is_so),
        Their::Attribute { data, .. } => converted(*data)?,
        Their::ServerError(error) => return Err(Error::Reply(told(&error))),
        _ => return Err(Error::NoReply),
    })
}

/// An answer whose keys are named as the one who asked names them.
fn bared(mut answer: Value, prefix: &[u8]) -> Value {
    match &mut answer {
        Value::Map(pairs) => pairs.iter_mut().for_each(|(key, _)| bare(key, prefix)),
        Value::List(values) => {
            if let Some(key) = values.first_mut() {
                bare(key, prefix);
            }
        }
        _ => {}
    }
    answer
}

fn bare(name: &mut Value, prefix: &[u8]) {
    if let Value::Bytes(bytes) = name
        && bytes.starts_with(prefix)
    {
        bytes.drain(..prefix.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organisation_is_in_the_slot_that_redis_says() {
        // CLUSTER KEYSLOT x{00000000-0000-0000-0000-000000000001}
        assert_eq!(slot(OrganisationId::DEFAULT), 14_501);
    }
}
