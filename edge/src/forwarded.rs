//! Who asks, when proxies stand before the door: what they say is believed of those that the configuration names.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use base::Cidr;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The address of whoever asks, and whether they did so under TLS.
pub(crate) fn seen(
    headers: &HeaderMap,
    (peer, is_tls): (IpAddr, bool),
    trusted: &[Cidr],
) -> (IpAddr, bool) {
    let is_trusted = |address: IpAddr| {
        let plain = address.to_canonical();
        trusted.iter().any(|network| network.holds(address) || network.holds(plain))
    };
    if trusted.is_empty() || !is_trusted(peer) {
        return (peer, is_tls);
    }
    let texts = headers.get_all(FOR).iter().map(|value| value.to_str().unwrap_or_default());
    let chain: Vec<&str> = texts.flat_map(|text| text.split(',')).map(str::trim).collect();
    let mut client = peer;
    // Each proxy puts the address that it saw behind those that it was told.
    for hop in chain.iter().rev() {
        let Some(address) = address(hop) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    let proto = headers.get_all(PROTO).iter().next_back().and_then(|value| value.to_str().ok());
    let proto = proto.and_then(|text| text.rsplit(',').next()).map(str::trim);
    (client, proto.map_or(is_tls, |proto| proto.eq_ignore_ascii_case("https")))
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, headers: &[(&'static str, &str)], expected: (&str, bool)) {
        let trusted: Vec<Cidr> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|it| it.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let found = seen(&map, (peer.parse().unwrap(), false), &trusted);
        assert_eq!(found, (expected.0.parse().unwrap(), expected.1), "{peer} {headers:?}");
    }

    #[test]
    fn only_proxies_that_are_named_are_believed_and_only_for_what_they_saw() {
        let told = ("x-forwarded-for", "1.1.1.1, 8.8.8.8");
        let https = ("x-forwarded-proto", "https");
        check("9.9.9.9", &[told, https], ("9.9.9.9", false));
        check("10.0.0.1", &[told, https], ("8.8.8.8", true));
        check("::ffff:10.0.0.1", &[told], ("8.8.8.8", false));
        check("10.0.0.1", &[("x-forwarded-for", "1.1.1.1, 10.2.2.2")], ("1.1.1.1", false));
        check("10.0.0.1", &[told, ("x-forwarded-for", "10.3.3.3")], ("8.8.8.8", false));
        check("10.0.0.1", &[], ("10.0.0.1", false));
    }

    #[test]
    fn addresses_come_with_ports_and_brackets_and_what_is_none_ends_the_search() {
        check("fd00::1", &[("x-forwarded-for", "[2001:db8::1]:443")], ("2001:db8::1", false));
        check("fd00::1", &[("x-forwarded-for", "[2001:db8::1]")], ("2001:db8::1", false));
        check("fd00::1", &[("x-forwarded-for", "8.8.8.8:50000")], ("8.8.8.8", false));
        check(
            "10.0.0.1",
            &[("x-forwarded-for", "1.1.1.1, unknown, 10.2.2.2")],
            ("10.2.2.2", false),
        );
        check("10.0.0.1", &[("x-forwarded-for", "unknown")], ("10.0.0.1", false));
    }

    #[test]
    fn the_last_proxy_says_how_it_was_asked() {
        check("10.0.0.1", &[("x-forwarded-proto", "https, http")], ("10.0.0.1", false));
        check("10.0.0.1", &[("x-forwarded-proto", "HTTPS")], ("10.0.0.1", true));
    }
}
