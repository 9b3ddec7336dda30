//! A URL that a stranger chose: what its text alone must be like before anything is looked up.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::Egress;

/// A URL that may be posted to as far as its text tells; where its name leads is judged at each request.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    host: String,
    port: u16,
}

/// Why a URL is not taken. It does not repeat the URL, which may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the URL is longer than {0} bytes")]
    TooLong(usize),
    #[error("the URL is not of the form https://host/path")]
    Shape,
    #[error("the URL must begin with https://")]
    Scheme,
    #[error("the URL must begin with https://: plain http is not allowed by [egress] plain_http")]
    Plain,
    #[error("the URL has a user or a password, which are not sent")]
    Credentials,
    #[error("the URL has a part after #, which is never sent")]
    Fragment,
    #[error("the URL's host is a number in an unusual form: write it as 192.0.2.1")]
    NumericHost,
    #[error("the URL's host is not valid")]
    Host,
    #[error("port {0} is not one of HTTP: 80, 443 or from 1024 on")]
    Port(u16),
    #[error("{address} is of {network} network that [egress] allow does not list")]
    Refused { address: IpAddr, network: &'static str },
}

/// Below it only the ports of HTTP: a request must not be read as mail, a name query or a remote shell.
const FREE_PORTS_FROM: u16 = 1024;

impl Target {
    pub fn parse(text: &str, egress: &Egress) -> Result<Self, TargetError> {
        if text.len() > egress.url_bytes_max {
            return Err(TargetError::TooLong(egress.url_bytes_max));
        }
        // What the parser would take away or turn round in silence is refused instead.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(TargetError::Shape);
        }
        let url: Url = text.parse().map_err(|_| TargetError::Shape)?;
        match url.scheme() {
            "https" => {}
            "http" if egress.plain_http => {}
            "http" => return Err(TargetError::Plain),
            _ => return Err(TargetError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        let written = written_host(text).ok_or(TargetError::Shape)?;
        let host = match url.host().ok_or(TargetError::Shape)? {
            Host::Domain(name) if written.contains('%') || name.ends_with('.') => {
                return Err(TargetError::Host);
            }
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) if written != address.to_string() => {
                return Err(TargetError::NumericHost);
            }
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            egress.judge(address).map_err(|network| TargetError::Refused { address, network })?;
        }
        let port = url.port_or_known_default().ok_or(TargetError::Shape)?;
        if !matches!(port, 80 | 443) && port < FREE_PORTS_FROM {
            return Err(TargetError::Port(port));
        }
        Ok(Self { url, host, port })
    }

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The whole URL, which may hold a secret.
    pub fn reveal(&self) -> &str {
        self.url.as_str()
    }

    /// `host[:port]`, as the Host header has it.
    pub(super) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub(super) fn path_and_query(&self) -> &str {
        let whole = self.url.as_str();
        let after = self.url.scheme().len() + "://".len();
        whole[after..].find('/').map_or("/", |slash| &whole[after + slash..])
    }
}

/// The host as it was written, before any parser made something else of it.
fn written_host(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = match authority.strip_prefix('[') {
        Some(inner) => inner.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

/// Without path and query, which may be a secret as a whole.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.url.scheme(), self.authority())?;
        f.write_str(if self.path_and_query() == "/" { "/" } else { "/…" })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, TargetError> {
        Target::parse(text, &Egress::default())
    }

    #[test]
    fn usual_urls_are_taken_and_shown_without_their_secrets() {
        let check = |text: &str, host: &str, port: u16, path: &str, shown: &str| {
            let target = parse(text).expect(text);
            assert_eq!((target.host(), target.port()), (host, port), "{text}");
            assert_eq!((target.path_and_query(), target.to_string().as_str()), (path, shown));
            assert!(target.is_tls());
        };
        check("https://example.org", "example.org", 443, "/", "https://example.org/");
        let slack = "https://hooks.slack.com/services/T0/B0/secret?x=1";
        let path = "/services/T0/B0/secret?x=1";
        check(slack, "hooks.slack.com", 443, path, "https://hooks.slack.com/…");
        check("https://a.kr:8443/h?k=s", "a.kr", 8443, "/h?k=s", "https://a.kr:8443/…");
        check("https://8.8.8.8/", "8.8.8.8", 443, "/", "https://8.8.8.8/");
        let six = "https://[2001:4860:4860::8888]/a";
        check(six, "2001:4860:4860::8888", 443, "/a", "https://[2001:4860:4860::8888]/…");
        check("https://마당.kr/", "xn--ok1b32k.kr", 443, "/", "https://xn--ok1b32k.kr/");
        check("https://a.kr?k=s", "a.kr", 443, "/?k=s", "https://a.kr/…");
    }

    #[test]
    fn numbers_that_hide_an_address_are_refused_also_when_it_is_public() {
        for host in [
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.1",
            "127.0.0.01",
            "127.0.0.1.",
            "134744072",
            "0x08080808",
            "010.8.8.8",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "①②⑦.0.0.1",
        ] {
            assert_eq!(parse(&format!("https://{host}/")), Err(TargetError::NumericHost), "{host}");
        }
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_by_their_text() {
        for host in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fd00::1]",
            "[fe80::1]",
        ] {
            let refused = parse(&format!("https://{host}/"));
            assert!(matches!(refused, Err(TargetError::Refused { .. })), "{host}: {refused:?}");
        }
    }

    #[test]
    fn what_is_no_plain_https_url_is_refused_without_being_repeated() {
        let refused = [
            ("", TargetError::Shape),
            ("example.org/secret", TargetError::Shape),
            ("https:/secret", TargetError::Shape),
            ("https:///secret", TargetError::Shape),
            ("https://a.kr/ secret", TargetError::Shape),
            ("https://a.kr\\@secret", TargetError::Shape),
            ("https://a.kr/\tsecret", TargetError::Shape),
            ("http://a.kr/secret", TargetError::Plain),
            ("ftp://a.kr/secret", TargetError::Scheme),
            ("file:///secret", TargetError::Scheme),
            ("gopher://a.kr/secret", TargetError::Scheme),
            ("https://user:secret@a.kr/", TargetError::Credentials),
            ("https://a.kr/#secret", TargetError::Fragment),
            ("https://a%2ekr/secret", TargetError::Host),
            ("https://a.kr./secret", TargetError::Host),
            ("https://[fe80::1%25eth0]/secret", TargetError::Shape),
            ("https://a.kr:25/secret", TargetError::Port(25)),
            ("https://a.kr:6379999/secret", TargetError::Shape),
        ];
        for (text, error) in refused {
            assert_eq!(parse(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        let long = format!("https://a.kr/{}", "a".repeat(2_048));
        assert_eq!(parse(&long), Err(TargetError::TooLong(2_048)));
        let plain = Egress { plain_http: true, ..Egress::default() };
        let target = Target::parse("http://a.kr:8080/x", &plain).unwrap();
        assert!(!target.is_tls());
        assert_eq!(target.port(), 8080);
    }
}
