//! The single way out: whom Madang itself may connect to.
//!
//! A name is resolved once, the addresses are judged, and the connection goes to a judged address, so that
//! a second answer of the name server cannot lead it elsewhere. TLS is still checked against the name. [`Client`] is
//! the one HTTP client of the house; a URL that somebody chose becomes a [`Target`] first.

mod client;
mod names;
mod target;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use base::Cidr;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::Error;

pub use client::{Answer, Client, Request, Verb};
#[cfg(test)]
pub(crate) use names::Lookup;
pub(crate) use names::{Names, SystemNames};
pub use target::{Target, TargetError};

/// Addresses of one name that are tried, one after the other.
const ADDRESSES_MAX: usize = 4;

/// `[egress]`: addresses that are not public are refused unless a network listed here holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Networks that may be reached although they are not public, such as `127.0.0.1/32`.
    pub allow: Vec<Cidr>,
    /// Whether URLs may begin with `http://`, so that what is sent can be read on its way.
    pub plain_http: bool,
    /// A PEM file of further certificate authorities to trust, for servers with private ones.
    pub certificate_authorities: Option<PathBuf>,
    /// Looking a name up, connecting and TLS.
    #[serde(with = "friendly")]
    pub connect_time_max: Duration,
    /// A whole HTTP request, connecting included.
    #[serde(with = "friendly")]
    pub request_time_max: Duration,
    /// Bytes of an answer's body that are read.
    pub answer_bytes_max: usize,
    /// Bytes of a URL.
    pub url_bytes_max: usize,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            plain_http: false,
            certificate_authorities: None,
            connect_time_max: Duration::from_secs(5),
            request_time_max: Duration::from_secs(15),
            answer_bytes_max: 4 << 10,
            url_bytes_max: 2_048,
        }
    }
}

impl Egress {
    /// Says what is wrong with the configuration, by its key.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (key, is_nothing) in [
            ("connect_time_max", self.connect_time_max.is_zero()),
            ("request_time_max", self.request_time_max.is_zero()),
            ("url_bytes_max", self.url_bytes_max == 0),
        ] {
            if is_nothing {
                return Err(Error::Config(format!("egress.{key} must be more than nothing")));
            }
        }
        Ok(())
    }

    /// The addresses of a host that may be reached; at least one.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => SystemNames
                .addresses(host, port)
                .await
                .map_err(|source| Error::Unresolved { host: host.to_owned(), source })?,
        };
        self.judged(host, found)
    }

    /// Those of the addresses that were found for a host which may be reached; at least one.
    fn judged(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            match self.judge(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(network) => refused = Some((address.ip(), network)),
            }
        }
        allowed.truncate(ADDRESSES_MAX);
        match refused {
            Some((address, network)) if allowed.is_empty() => {
                Err(Error::EgressRefused { host: host.to_owned(), address, network })
            }
            None if allowed.is_empty() => Err(Error::Unresolved {
                host: host.to_owned(),
                source: std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    "the name has no address",
                ),
            }),
            _ => Ok(allowed),
        }
    }

    /// A connection to a judged address, each tried for its share of `within`.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        within: Duration,
    ) -> Result<TcpStream, Error> {
        let addresses = self.resolve(host, port).await?;
        Self::reach((host, port), addresses, within).await
    }

    async fn reach(
        (host, port): (&str, u16),
        judged: Vec<SocketAddr>,
        within: Duration,
    ) -> Result<TcpStream, Error> {
        let share = within / u32::try_from(judged.len()).unwrap_or(1).max(1);
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in judged {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Without this a short mail's last line waits for the peer's delayed acknowledgement.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%address, %error, "no-delay could not be set");
                    }
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::Error::from(std::io::ErrorKind::TimedOut),
            }
        }
        Err(Error::Unreachable { host: host.to_owned(), port, source: last })
    }

    /// Whether an address may be reached; if not, what kind of network it is in.
    pub fn judge(&self, address: IpAddr) -> Result<(), &'static str> {
        let Some(network) = special(address) else { return Ok(()) };
        let plain = address.to_canonical();
        let is_listed = self.allow.iter().any(|net| net.holds(address) || net.holds(plain));
        if is_listed { Ok(()) } else { Err(network) }
    }
}

/// What is not public, by the IANA registries of special-purpose addresses (RFC 6890 and its updates).
const SPECIAL_V4: &[(Cidr, &str)] = &[
    (Cidr::v4([0, 0, 0, 0], 8), "an unspecified"),
    (Cidr::v4([10, 0, 0, 0], 8), "a private"),
    (Cidr::v4([100, 64, 0, 0], 10), "a carrier's shared"),
    (Cidr::v4([127, 0, 0, 0], 8), "a loopback"),
    // Public by its number, and answered by the machine's host in one large cloud.
    (Cidr::v4([168, 63, 129, 16], 32), "a cloud's own"),
    (Cidr::v4([169, 254, 0, 0], 16), "a link-local"),
    (Cidr::v4([172, 16, 0, 0], 12), "a private"),
    (Cidr::v4([192, 0, 0, 0], 24), "a reserved"),
    (Cidr::v4([192, 0, 2, 0], 24), "a documentation"),
    (Cidr::v4([192, 88, 99, 0], 24), "a reserved"),
    (Cidr::v4([192, 168, 0, 0], 16), "a private"),
    (Cidr::v4([198, 18, 0, 0], 15), "a benchmarking"),
    (Cidr::v4([198, 51, 100, 0], 24), "a documentation"),
    (Cidr::v4([203, 0, 113, 0], 24), "a documentation"),
    (Cidr::v4([224, 0, 0, 0], 4), "a multicast"),
    (Cidr::v4([240, 0, 0, 0], 4), "a reserved"),
];

/// Exceptions within 2000::/3, outside of which nothing is public.
const SPECIAL_V6: &[(Cidr, &str)] = &[
    (Cidr::v6([0x64, 0xff9b, 0, 0], 96), "an IPv4-translating"),
    (Cidr::v6([0x64, 0xff9b, 1, 0], 48), "an IPv4-translating"),
    (Cidr::v6([0x2001, 0, 0, 0], 23), "a reserved"),
    (Cidr::v6([0x2001, 0xdb8, 0, 0], 32), "a documentation"),
    (Cidr::v6([0x2002, 0, 0, 0], 16), "an IPv4-translating"),
    (Cidr::v6([0x3fff, 0, 0, 0], 20), "a documentation"),
    (Cidr::v6([0xfc00, 0, 0, 0], 7), "a private"),
    (Cidr::v6([0xfe80, 0, 0, 0], 10), "a link-local"),
    (Cidr::v6([0xfec0, 0, 0, 0], 10), "a private"),
    (Cidr::v6([0xff00, 0, 0, 0], 8), "a multicast"),
];

const GLOBAL_V6: Cidr = Cidr::v6([0x2000, 0, 0, 0], 3);

/// The kind of network that makes an address unfit for a stranger's choice; `None` for a public one.
fn special(address: IpAddr) -> Option<&'static str> {
    let table = match address {
        IpAddr::V4(_) => SPECIAL_V4,
        IpAddr::V6(v6) if v6.is_loopback() => return Some("a loopback"),
        IpAddr::V6(v6) if v6.is_unspecified() => return Some("an unspecified"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => return Some("an IPv4-mapped"),
        IpAddr::V6(_) => SPECIAL_V6,
    };
    let listed = table.iter().find(|(network, _)| network.holds(address)).map(|(_, kind)| *kind);
    match address {
        IpAddr::V6(_) if listed.is_none() && !GLOBAL_V6.holds(address) => Some("a reserved"),
        _ => listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(allow: &[&str]) -> Egress {
        let allow = allow.iter().map(|text| text.parse().unwrap()).collect();
        Egress { allow, ..Egress::default() }
    }

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        let refused = [
            ("0.0.0.0", "an unspecified"),
            ("0.1.2.3", "an unspecified"),
            ("10.0.0.1", "a private"),
            ("100.64.0.1", "a carrier's shared"),
            ("100.127.255.255", "a carrier's shared"),
            ("127.0.0.1", "a loopback"),
            ("127.255.255.254", "a loopback"),
            ("168.63.129.16", "a cloud's own"),
            ("169.254.169.254", "a link-local"),
            ("172.16.0.1", "a private"),
            ("172.31.255.255", "a private"),
            ("192.0.0.8", "a reserved"),
            ("192.0.2.1", "a documentation"),
            ("192.88.99.1", "a reserved"),
            ("192.168.0.1", "a private"),
            ("198.18.0.1", "a benchmarking"),
            ("198.19.255.255", "a benchmarking"),
            ("198.51.100.7", "a documentation"),
            ("203.0.113.7", "a documentation"),
            ("224.0.0.1", "a multicast"),
            ("239.255.255.255", "a multicast"),
            ("240.0.0.1", "a reserved"),
            ("255.255.255.255", "a reserved"),
            ("::", "an unspecified"),
            ("::1", "a loopback"),
            ("::7f00:1", "a reserved"),
            ("::ffff:127.0.0.1", "an IPv4-mapped"),
            ("::ffff:8.8.8.8", "an IPv4-mapped"),
            ("64:ff9b::7f00:1", "an IPv4-translating"),
            ("64:ff9b::a9fe:a9fe", "an IPv4-translating"),
            ("64:ff9b::808:808", "an IPv4-translating"),
            ("64:ff9b:1::1", "an IPv4-translating"),
            // ISATAP and the translated form of RFC 2765, with a loopback in them.
            ("::ffff:0:7f00:1", "a reserved"),
            ("fe80::5efe:7f00:1", "a link-local"),
            ("fd00:ec2::254", "a private"),
            // Teredo.
            ("2001:0:7f00:1::1", "a reserved"),
            // Discarded, dummy, benchmarking, ORCHID.
            ("100:0:0:1::1", "a reserved"),
            ("2001:2::1", "a reserved"),
            ("2001:20::1", "a reserved"),
            ("2002:a9fe:a9fe::1", "an IPv4-translating"),
            ("100::1", "a reserved"),
            ("2001::1", "a reserved"),
            ("2001:db8::1", "a documentation"),
            ("2002:7f00:1::", "an IPv4-translating"),
            ("3fff::1", "a documentation"),
            ("5f00::1", "a reserved"),
            ("fc00::1", "a private"),
            ("fd12:3456::1", "a private"),
            ("fe80::1", "a link-local"),
            ("fec0::1", "a private"),
            ("ff02::1", "a multicast"),
        ];
        for (address, kind) in refused {
            assert_eq!(egress(&[]).judge(address.parse().unwrap()), Err(kind), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_allowed() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.15",
            "168.63.129.17",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.0.1",
            "192.169.0.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(egress(&[]).judge(address.parse().unwrap()), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_listed_network_is_allowed_and_nothing_beside_it() {
        let check = |allow: &[&str], address: &str, allowed: bool| {
            let judged = egress(allow).judge(address.parse().unwrap());
            assert_eq!(judged.is_ok(), allowed, "{address} with {allow:?}");
        };
        check(&["127.0.0.1/32"], "127.0.0.1", true);
        check(&["127.0.0.1"], "127.0.0.1", true);
        check(&["127.0.0.1/32"], "127.0.0.2", false);
        check(&["127.0.0.1/32"], "::1", false);
        check(&["127.0.0.1/32"], "::ffff:127.0.0.1", true);
        check(&["127.0.0.1/32"], "64:ff9b::7f00:1", false);
        check(&["10.0.0.0/8"], "10.255.0.1", true);
        check(&["10.0.0.0/8"], "192.168.0.1", false);
        check(&["::1/128", "fd00::/8"], "fd00::7", true);
        check(&["64:ff9b::/96"], "64:ff9b::808:808", true);
        check(&["0.0.0.0/0"], "169.254.169.254", true);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses_however_it_is_written() {
        for host in ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "::1"] {
            let refused = egress(&[]).resolve(host, 25).await;
            assert!(
                matches!(refused, Err(Error::EgressRefused { network: "a loopback", .. })),
                "{host}: {refused:?}"
            );
        }
        let text = egress(&[]).resolve("127.0.0.1", 25).await.unwrap_err().to_string();
        assert!(text.contains("127.0.0.1") && text.contains("[egress] allow"), "{text}");
    }
}
