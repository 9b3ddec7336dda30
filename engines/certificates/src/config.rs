use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Names in one certificate; public authorities take no more.
const DOMAINS_MAX: usize = 100;

/// `[tls.acme]`: with `domains` the certificate of all doors comes from an authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the authority says what it offers.
    pub directory: String,
    /// The names in the certificate. Without one there is no ACME.
    pub domains: Vec<String>,
    /// How the authority sees that the names lead here.
    pub challenge: Challenge,
    /// You have read the authority's terms of service, and agree.
    pub terms_agreed: bool,
    /// Where the authority may write to you, as `mailto:ops@example.org`.
    pub contacts: Vec<String>,
    /// A PEM file of further certificate authorities to trust when the directory is asked, for private ones.
    pub certificate_authorities: Option<PathBuf>,
    /// From the first word of an order to its certificate.
    #[serde(with = "friendly")]
    pub order_time_max: Duration,
    /// One request to the authority, connecting included.
    #[serde(with = "friendly")]
    pub request_time_max: Duration,
    /// Bytes of an answer of the authority.
    pub answer_bytes_max: usize,
    /// The pause after an order that failed; it doubles with each, up to `back_off_max`.
    #[serde(with = "friendly")]
    pub back_off_min: Duration,
    /// The longest pause, unless the authority asks for a longer one.
    #[serde(with = "friendly")]
    pub back_off_max: Duration,
}

/// How an authority sees that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Challenge {
    /// It asks the bare HTTP door, which the name's port 80 has to lead to.
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// It comes to the HTTPS door, which the name's port 443 has to lead to.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Challenge {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            domains: vec![],
            challenge: Challenge::default(),
            terms_agreed: false,
            contacts: vec![],
            certificate_authorities: None,
            order_time_max: Duration::from_mins(3),
            request_time_max: Duration::from_secs(30),
            answer_bytes_max: 1 << 20,
            back_off_min: Duration::from_mins(2),
            back_off_max: Duration::from_hours(6),
        }
    }
}

impl Config {
    pub fn is_on(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Says what is wrong, by its key.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Config(text));
        if !self.directory.starts_with("https://") {
            return wrong("directory does not begin with https://".to_owned());
        }
        if self.domains.len() > DOMAINS_MAX {
            return wrong(format!("domains are more than {DOMAINS_MAX}"));
        }
        for (at, domain) in self.domains.iter().enumerate() {
            if let Some(fault) = fault_of(domain) {
                return wrong(format!("domains: \"{domain}\" {fault}"));
            }
            if self.domains[..at].contains(domain) {
                return wrong(format!("domains: \"{domain}\" is there twice"));
            }
        }
        for contact in &self.contacts {
            if !contact.starts_with("mailto:") {
                return wrong(format!("contacts: \"{contact}\" does not begin with mailto:"));
            }
        }
        if !self.terms_agreed {
            let text = "terms_agreed = true is missing: it says that you agree to the authority's terms of service";
            return wrong(text.to_owned());
        }
        for (key, is_nothing) in [
            ("order_time_max", self.order_time_max.is_zero()),
            ("request_time_max", self.request_time_max.is_zero()),
            ("answer_bytes_max", self.answer_bytes_max == 0),
            ("back_off_min", self.back_off_min.is_zero()),
        ] {
            if is_nothing {
                return wrong(format!("{key} must be more than nothing"));
            }
        }
        if self.back_off_max < self.back_off_min {
            return wrong("back_off_max is less than back_off_min".to_owned());
        }
        Ok(())
    }
}

/// Why a text is no name that can be in a certificate by these challenges.
fn fault_of(domain: &str) -> Option<&'static str> {
    if domain.starts_with("*.") {
        return Some("is a wildcard, which needs a challenge by DNS; that is not there");
    }
    if domain.parse::<IpAddr>().is_ok() {
        return Some("is an address; only names are ordered");
    }
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = domain.len() <= 253 && domain.contains('.') && domain.split('.').all(is_label);
    (!is_name).then_some("is no name of a host in small letters (others as xn--…)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_said_by_its_key() {
        let agreed = "terms_agreed = true\n";
        let fine = "domains = [\"a.example.org\", \"xn--9g3b.example\"]";
        let config: Config = toml::from_str(&format!("{agreed}{fine}")).unwrap();
        config.check().unwrap();
        assert!(config.is_on() && !Config::default().is_on());
        assert!(wrong(fine).contains("terms_agreed"));
        for (text, said) in [
            ("domains = [\"*.example.org\"]", "wildcard"),
            ("domains = [\"192.0.2.1\"]", "address"),
            ("domains = [\"2001:db8::1\"]", "address"),
            ("domains = [\"localhost\"]", "no name"),
            ("domains = [\"A.example.org\"]", "no name"),
            ("domains = [\"마당.example\"]", "no name"),
            ("domains = [\"a..org\"]", "no name"),
            ("domains = [\"-a.org\"]", "no name"),
            ("domains = [\"a.org\", \"a.org\"]", "twice"),
            ("directory = \"http://ca.example\"", "https"),
            ("contacts = [\"ops@example.org\"]", "mailto"),
            ("order_time_max = \"0s\"", "order_time_max"),
            ("back_off_min = \"7h\"", "back_off_max"),
        ] {
            let found = wrong(&format!("{agreed}{text}"));
            assert!(found.contains(said), "{text}: {found}");
        }
        assert!(toml::from_str::<Config>("challenge = \"dns-01\"").is_err());
        assert!(toml::from_str::<Config>("domain = \"a\"").is_err());
    }
}
