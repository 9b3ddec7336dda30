use url::{Host, Url};

use crate::Error;

/// Where people reach this server: scheme, host and port, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    url: Url,
}

impl Origin {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Config(format!("origin: {reason}: {text:?}"));
        let url: Url = text.parse().map_err(|_| wrong("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(wrong("is not of the form https://example.org"));
        }
        let is_bare = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !is_bare {
            return Err(wrong("has more than scheme, host and port"));
        }
        Ok(Self { url })
    }

    /// A page of the console. What follows `#` is sent to no server, so a token in it stands in no log.
    pub(crate) fn page(&self, page: &str, token: &str) -> String {
        format!("{}/#/{page}?token={token}", self.text())
    }

    /// As browsers write it: no slash at the end, no usual port.
    pub(crate) fn text(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Whom passkeys are made for: the host. Browsers take no address for one, so on this machine it is `localhost`,
    /// which is the only name that they let be without HTTPS.
    pub(crate) fn relying_party(&self) -> Option<(String, String)> {
        match self.url.host()? {
            Host::Domain(name) => Some((name.to_owned(), self.text())),
            Host::Ipv4(address) if address.is_loopback() => Some(self.here()),
            Host::Ipv6(address) if address.is_loopback() => Some(self.here()),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    fn here(&self) -> (String, String) {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        ("localhost".into(), format!("{}://localhost{port}", self.url.scheme()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let page = |text: &str| Origin::parse(text).unwrap().page("link", "x");
        assert_eq!(page("https://example.org/"), "https://example.org/#/link?token=x");
        assert_eq!(page("https://EXAMPLE.org:443"), "https://example.org/#/link?token=x");
        assert_eq!(page("http://[::1]:80"), "http://[::1]/#/link?token=x");
        for text in [
            "",
            "example.org",
            "ftp://example.org",
            "https://example.org/path",
            "https://me@example.org",
            "https://example.org/?q",
            "https://example.org/#x",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn passkeys_are_for_a_name() {
        let party = |text: &str| Origin::parse(text).unwrap().relying_party();
        let both = |id: &str, origin: &str| Some((id.to_owned(), origin.to_owned()));
        assert_eq!(party("https://a.example.org"), both("a.example.org", "https://a.example.org"));
        assert_eq!(party("http://127.0.0.1:8080"), both("localhost", "http://localhost:8080"));
        assert_eq!(party("https://192.0.2.1"), None);
    }
}
