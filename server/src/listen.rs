//! Opens a door's port: the configured one, or the next free one when it was only a default.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;

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

pub(crate) async fn listen(door: &str, address: &str, port: Port) -> Result<TcpListener> {
    let mut address: SocketAddr = address
        .parse()
        .with_context(|| format!("[{door}] listen = \"{address}\": not an address and a port"))?;
    if !address.ip().is_loopback() {
        tracing::warn!(door, %address, "this door is open to the network without TLS: put a TLS proxy before it");
    }
    if port == Port::Free {
        address.set_port(0);
    }
    let usual = address.port();
    for _ in 0..TRIES {
        match TcpListener::bind(address).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_usual_port_moves_on_and_a_busy_configured_one_is_an_error() {
        let first = listen("http", "127.0.0.1:0", Port::Free).await.unwrap();
        let busy = first.local_addr().unwrap().to_string();
        let next = listen("http", &busy, Port::Usual).await.unwrap();
        assert_ne!(next.local_addr().unwrap().port(), first.local_addr().unwrap().port());
        let error = listen("http", &busy, Port::Configured).await.unwrap_err();
        assert!(format!("{error:#}").contains(&busy), "{error:#}");
        assert!(listen("http", "localhost", Port::Free).await.is_err());
    }
}
