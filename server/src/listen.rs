//! Opens the doors' ports: the configured ones, or the next free ones where they were only defaults.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use base::{Base, Tls};
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Config, Door};
use crate::tls::Shown;

/// How sure we are about a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// Somebody set it: when it is busy, that is an error.
    Configured,
    /// Our usual one: when it is busy, the next free one is taken and said loudly.
    Usual,
    /// Any free one.
    Free,
}

/// How many ports after the usual one are tried.
const TRIES: u16 = 100;
/// Connections that wait until they are accepted, as far as the system lets them (`net.core.somaxconn`). A fleet comes back all at
/// once; who finds no place tries again after one second, then two, then four.
const WAITING_MAX: u32 = 65_535;

pub(crate) fn listen(door: &str, address: &str, port: Port) -> Result<TcpListener> {
    let mut address: SocketAddr = address
        .parse()
        .with_context(|| format!("[{door}] listen = \"{address}\": not an address and a port"))?;
    if port == Port::Free {
        address.set_port(0);
    }
    let usual = address.port();
    for _ in 0..TRIES {
        match bind(address) {
            Ok(listener) => {
                if port == Port::Usual && address.port() != usual {
                    tracing::warn!(
                        door,
                        usual,
                        taken = address.port(),
                        "the usual port is busy, another one is taken"
                    );
                }
                return Ok(listener);
            }
            Err(error) if port == Port::Usual && error.kind() == std::io::ErrorKind::AddrInUse => {
                address.set_port(address.port().saturating_add(1));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("listen for {door} on {address}"));
            }
        }
    }
    bail!("no free port for {door} from {usual} on")
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What is left of connections of a server before it keeps no port busy.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING_MAX)
}

/// How sure each port is.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: Port,
    pub(crate) http_tls: Port,
    pub(crate) mqtt: Port,
    pub(crate) mqtt_tls: Port,
    pub(crate) kv: Port,
    pub(crate) kv_tls: Port,
}

/// A port, and what it shows under TLS.
pub(crate) struct Entry {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Tls>,
    pub(crate) address: SocketAddr,
}

/// The ports of a part: bare, and under TLS.
pub(crate) struct Entries {
    pub(crate) bare: Entry,
    pub(crate) secured: Option<Entry>,
}

/// All ports of a server.
pub(crate) struct Entrances {
    pub(crate) http: Entries,
    pub(crate) mqtt: Entries,
    /// Nothing where clients ask another server for the keys.
    pub(crate) kv: Option<Entries>,
    pub(crate) stomp: Vec<Entry>,
    pub(crate) shown: Option<Shown>,
}

impl Entrances {
    /// Opens every port that the configuration names or leaves as it usually is.
    pub(crate) fn open(config: &Config, ports: Ports, base: &Base) -> Result<Self> {
        let shown = Shown::open(&config.tls, &config.data_dir, base)?;
        let tls = |of: fn(&Shown) -> &Tls| shown.as_ref().map(|shown| of(shown).clone());
        let usual = ["127.0.0.1:8080", "127.0.0.1:8443"];
        let ports_of = (ports.http, ports.http_tls);
        let http = entries("http", &config.http, usual, ports_of, tls(|it| &it.http))?;
        let usual = ["127.0.0.1:1883", "127.0.0.1:8883"];
        let ports_of = (ports.mqtt, ports.mqtt_tls);
        let mqtt = entries("mqtt", &config.mqtt, usual, ports_of, tls(|it| &it.mqtt))?;
        let kv = if config.kv.part.url.is_embedded() {
            let usual = ["127.0.0.1:6379", "127.0.0.1:6380"];
            let ports_of = (ports.kv, ports.kv_tls);
            Some(entries("kv", &config.kv, usual, ports_of, tls(|it| &it.other))?)
        } else {
            ensure!(
                config.kv.listen.is_none() && config.kv.listen_tls.is_none(),
                "kv.listen and kv.url exclude each other: clients ask the server at kv.url themselves"
            );
            None
        };
        let mut stomp = vec![];
        if let Some(address) = &config.sockets.listen {
            stomp.push(entry("sockets", address, Port::Configured, None)?);
        }
        if let Some(address) = &config.sockets.listen_tls {
            let tls = tls(|it| &it.other);
            ensure!(
                tls.is_some(),
                "[sockets] listen_tls wants [tls] certificate and key, or [tls.acme]"
            );
            stomp.push(entry("sockets", address, Port::Configured, tls)?);
        }
        Ok(Self { http, mqtt, kv, stomp, shown })
    }
}

/// The ports of a part.
pub(crate) fn entries<T>(
    name: &str,
    door: &Door<T>,
    usual: [&str; 2],
    (bare, secured): (Port, Port),
    tls: Option<Tls>,
) -> Result<Entries> {
    ensure!(
        tls.is_some() || door.listen_tls.is_none(),
        "[{name}] listen_tls wants [tls] certificate and key, or [tls.acme]"
    );
    let address = door.listen.as_deref().unwrap_or(usual[0]);
    let bare = entry(name, address, bare, None)?;
    let secured = match tls {
        Some(tls) => {
            let address = door.listen_tls.as_deref().unwrap_or(usual[1]);
            Some(entry(name, address, secured, Some(tls))?)
        }
        None => None,
    };
    Ok(Entries { bare, secured })
}

fn entry(door: &str, address: &str, port: Port, tls: Option<Tls>) -> Result<Entry> {
    let listener = listen(door, address, port)?;
    let address = listener.local_addr()?;
    if tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(door, %address, "this door is open to the network without TLS");
    }
    Ok(Entry { listener, tls, address })
}

impl Entries {
    pub(crate) fn secured_address(&self) -> Option<SocketAddr> {
        self.secured.as_ref().map(|entry| entry.address)
    }

    /// Each of them.
    pub(crate) fn each(self) -> impl Iterator<Item = Entry> {
        std::iter::once(self.bare).chain(self.secured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_usual_port_moves_on_and_a_busy_configured_one_is_an_error() {
        let first = listen("http", "127.0.0.1:0", Port::Free).unwrap();
        let busy = first.local_addr().unwrap().to_string();
        let next = listen("http", &busy, Port::Usual).unwrap();
        assert_ne!(next.local_addr().unwrap().port(), first.local_addr().unwrap().port());
        let error = listen("http", &busy, Port::Configured).unwrap_err();
        assert!(format!("{error:#}").contains(&busy), "{error:#}");
        assert!(listen("http", "localhost", Port::Free).is_err());
    }

    #[tokio::test]
    async fn as_many_wait_to_be_accepted_as_the_system_lets() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let count = system.trim().parse::<usize>().unwrap().min(1_500);
        let listener = listen("mqtt", "127.0.0.1:0", Port::Free).unwrap();
        let address = listener.local_addr().unwrap();
        // Who finds no place waits for a second.
        let limit = std::time::Duration::from_millis(900);
        let come = || std::net::TcpStream::connect_timeout(&address, limit);
        let waiting: Vec<_> = (0..count).map(|_| come().unwrap()).collect();
        assert_eq!(waiting.len(), count);
    }
}
