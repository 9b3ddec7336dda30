use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};

use crate::{EmailAddress, Error};

/// `[delivery]`: how messages are kept and retried.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The server that takes e-mail.
    pub smtp: Smtp,
    /// Webhooks and Slack.
    pub endpoints: Endpoints,
    /// The keys that seal URLs and secrets of endpoints in the rows; made at the first start, for its owner alone. Servers
    /// that share rows have the same file.
    pub key_file: PathBuf,
    /// Starts although a key is missing: endpoints sealed under it are paused when it is their turn.
    pub key_lost: bool,
    /// Attempts until a message is failed; with the other defaults they spread over a day.
    pub attempts_max: u32,
    /// The pause after the first attempt; it doubles with each further one, and up to half of it is chance.
    #[serde(with = "friendly")]
    pub back_off_min: Duration,
    /// The longest pause between two attempts.
    #[serde(with = "friendly")]
    pub back_off_max: Duration,
    /// How long after `send_time_max` an attempt that never reported its end is taken for crashed.
    #[serde(with = "friendly")]
    pub lease_margin: Duration,
    /// Days until a message that was sent, failed or held all along is forgotten, its idempotency key too.
    pub keep_days: u32,
    /// Mails of one organisation that may wait or be held; checked approximately.
    pub unsent_max: u64,
    /// Bytes of a subject in UTF-8.
    pub subject_bytes_max: usize,
    /// Bytes of a mail's body in UTF-8.
    pub body_bytes_max: usize,
    /// Characters of an answer that are kept with an attempt.
    pub answer_chars_max: usize,
}

/// `[delivery.endpoints]`: webhooks and Slack.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoints {
    /// Endpoints of one organisation.
    pub endpoints_max: u32,
    /// Event types that one endpoint names.
    pub event_types_max: usize,
    /// Secrets of one webhook that sign at the same time.
    pub secrets_max: u32,
    /// How long the old secret still signs beside a new one.
    #[serde(with = "friendly")]
    pub secret_overlap: Duration,
    /// Bytes of what is sent.
    pub body_bytes_max: usize,
    /// Messages of one endpoint that may wait or be held; checked approximately.
    pub unsent_max: u64,
    /// Requests at the same time.
    pub in_flight_max: usize,
    /// Requests to one endpoint at the same time; one while it fails.
    pub in_flight_each_max: usize,
    /// Messages a second to one webhook.
    pub webhooks_per_second_max: u32,
    /// Messages a second to one Slack URL, which takes no more.
    pub slack_per_second_max: u32,
    /// Failures in a row from which on an endpoint rests between attempts.
    pub failures_max: u32,
    /// The longest such rest.
    #[serde(with = "friendly")]
    pub rest_max: Duration,
    /// The longest Retry-After that is obeyed.
    #[serde(with = "friendly")]
    pub retry_after_max: Duration,
    /// Days of nothing but failures after which an endpoint is paused.
    pub pause_after_days: u32,
    /// Test requests at the same time.
    pub tests_max: usize,
}

/// `[delivery.smtp]`: the server that takes e-mail; without `url` messages are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtp {
    /// `smtps://user:password@host`, `smtp://host:25?tls=required`, or nothing.
    pub url: Option<SmtpUrl>,
    /// The sender's address; `madang@<host of url>` without it.
    pub from: Option<EmailAddress>,
    /// The sender's name.
    pub from_name: String,
    /// A PEM file of further certificate authorities to trust, for a server with a private one.
    pub certificate_authorities: Option<PathBuf>,
    /// Messages sent at the same time; also the most connections.
    pub in_flight_max: usize,
    /// How long connecting and sending one message may take.
    #[serde(with = "friendly")]
    pub send_time_max: Duration,
    /// How long a connection is kept for the next message.
    #[serde(with = "friendly")]
    pub connection_idle_max: Duration,
    /// Messages a second.
    pub messages_per_second_max: u32,
    /// Attempts to send a mail that is stored nowhere, one after another with a growing pause.
    pub at_once_attempts_max: u32,
    /// Messages sent over one connection; many servers close it after a hundred.
    pub messages_per_connection_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            smtp: Smtp::default(),
            endpoints: Endpoints::default(),
            key_file: PathBuf::from("madang-data/keys/delivery"),
            key_lost: false,
            attempts_max: 30,
            back_off_min: Duration::from_secs(5),
            back_off_max: Duration::from_hours(1),
            lease_margin: Duration::from_secs(30),
            keep_days: 30,
            unsent_max: 100_000,
            subject_bytes_max: 400,
            body_bytes_max: 16 << 10,
            answer_chars_max: 500,
        }
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            endpoints_max: 100,
            event_types_max: 50,
            secrets_max: 4,
            secret_overlap: Duration::from_hours(24),
            body_bytes_max: 64 << 10,
            unsent_max: 10_000,
            in_flight_max: 64,
            in_flight_each_max: 4,
            webhooks_per_second_max: 100,
            slack_per_second_max: 1,
            failures_max: 5,
            rest_max: Duration::from_mins(5),
            retry_after_max: Duration::from_hours(1),
            pause_after_days: 5,
            tests_max: 4,
        }
    }
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            url: None,
            from: None,
            from_name: "Madang".to_owned(),
            certificate_authorities: None,
            in_flight_max: 8,
            send_time_max: Duration::from_secs(30),
            connection_idle_max: Duration::from_secs(20),
            messages_per_second_max: 100,
            at_once_attempts_max: 4,
            messages_per_connection_max: 100,
        }
    }
}

impl Config {
    /// Says what is wrong with the configuration, by its key.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, why: &str| Err(Error::Config(format!("delivery.{key} {why}")));
        let at_least_one = [
            ("attempts_max", u64::from(self.attempts_max)),
            ("keep_days", u64::from(self.keep_days)),
            ("unsent_max", self.unsent_max),
            ("subject_bytes_max", self.subject_bytes_max as u64),
            ("body_bytes_max", self.body_bytes_max as u64),
            ("smtp.in_flight_max", self.smtp.in_flight_max as u64),
            ("smtp.messages_per_connection_max", u64::from(self.smtp.messages_per_connection_max)),
            ("smtp.at_once_attempts_max", u64::from(self.smtp.at_once_attempts_max)),
            ("smtp.messages_per_second_max", u64::from(self.smtp.messages_per_second_max)),
            ("endpoints.in_flight_max", self.endpoints.in_flight_max as u64),
            ("endpoints.in_flight_each_max", self.endpoints.in_flight_each_max as u64),
            (
                "endpoints.webhooks_per_second_max",
                u64::from(self.endpoints.webhooks_per_second_max),
            ),
            ("endpoints.slack_per_second_max", u64::from(self.endpoints.slack_per_second_max)),
            ("endpoints.failures_max", u64::from(self.endpoints.failures_max)),
            ("endpoints.pause_after_days", u64::from(self.endpoints.pause_after_days)),
            ("endpoints.body_bytes_max", self.endpoints.body_bytes_max as u64),
            ("endpoints.unsent_max", self.endpoints.unsent_max),
            ("endpoints.secrets_max", u64::from(self.endpoints.secrets_max)),
            ("endpoints.tests_max", self.endpoints.tests_max as u64),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return wrong(key, "must be at least 1");
        }
        for (key, time) in [
            ("back_off_min", self.back_off_min),
            ("lease_margin", self.lease_margin),
            ("smtp.send_time_max", self.smtp.send_time_max),
            ("endpoints.rest_max", self.endpoints.rest_max),
            ("endpoints.retry_after_max", self.endpoints.retry_after_max),
        ] {
            if time.is_zero() {
                return wrong(key, "must be longer than nothing");
            }
        }
        if self.back_off_max < self.back_off_min {
            return wrong("back_off_max", "is shorter than delivery.back_off_min");
        }
        if self.key_file.file_name().is_none() {
            return wrong("key_file", "names no file");
        }
        if self.smtp.from_name.chars().any(char::is_control) {
            return wrong("smtp.from_name", "holds a control character");
        }
        Ok(())
    }

    /// The sender's address; of a domain that cannot exist while neither it nor a server is configured.
    pub(crate) fn sender(&self) -> Result<EmailAddress, Error> {
        match (&self.smtp.from, &self.smtp.url) {
            (Some(from), _) => Ok(from.clone()),
            (None, Some(url)) => url.default_sender(),
            (None, None) => {
                Ok("madang@madang.invalid".parse().expect("a constant address is valid"))
            }
        }
    }
}

/// Where e-mail is handed over: `smtp[s]://[user:password@]host[:port][?tls=required|opportunistic|none]`.
///
/// `smtps` begins with TLS (port 465). `smtp` turns to TLS by STARTTLS: `opportunistic` (the default: if the server
/// offers it), `required` or `none`; port 587, or 25 with `none`. User and password are percent-encoded. They are never
/// shown, and never sent without TLS except over loopback.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SmtpUrl {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Tls,
    pub(crate) credentials: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    /// From the first byte.
    Wrapped,
    /// By STARTTLS, or nothing is sent.
    Required,
    /// By STARTTLS if the server offers it.
    Opportunistic,
    None,
}

/// Why a text is no SMTP URL. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SmtpUrlError {
    #[error("the SMTP URL is not of the form smtp://user:password@host:port?tls=required")]
    Shape,
    #[error("the SMTP URL must begin with smtp:// or smtps://")]
    Scheme,
    #[error("the SMTP URL has no host")]
    Host,
    #[error("the SMTP URL takes nothing after the host but ?tls=required, opportunistic or none")]
    Option,
    #[error("the SMTP URL says smtps:// and another ?tls=")]
    Contradiction,
    #[error("the SMTP URL must have both a user and a password, percent-encoded, or neither")]
    Credentials,
}

impl SmtpUrl {
    fn default_sender(&self) -> Result<EmailAddress, Error> {
        // An address is no domain of mail; what listens there is on this machine or in this network.
        let is_address = self.host.parse::<std::net::IpAddr>().is_ok();
        let domain = if is_address { "localhost" } else { &self.host };
        format!("madang@{domain}").parse().map_err(|_| {
            Error::Config(
                "delivery.smtp.from is needed: the host of the url is no mail domain".into(),
            )
        })
    }
}

impl FromStr for SmtpUrl {
    type Err = SmtpUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: url::Url = text.parse().map_err(|_| SmtpUrlError::Shape)?;
        let is_wrapped = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            _ => return Err(SmtpUrlError::Scheme),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(SmtpUrlError::Host)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(SmtpUrlError::Option);
        }
        let tls = match (url.query(), is_wrapped) {
            (None, true) => Tls::Wrapped,
            (None | Some("tls=opportunistic"), false) => Tls::Opportunistic,
            (Some("tls=required"), false) => Tls::Required,
            (Some("tls=none"), false) => Tls::None,
            (Some("tls=required" | "tls=opportunistic" | "tls=none"), true) => {
                return Err(SmtpUrlError::Contradiction);
            }
            _ => return Err(SmtpUrlError::Option),
        };
        let port = match tls {
            Tls::Wrapped => 465,
            Tls::Required | Tls::Opportunistic => 587,
            Tls::None => 25,
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => {
                let decoded = percent_decoded(user).zip(percent_decoded(password));
                Some(decoded.ok_or(SmtpUrlError::Credentials)?)
            }
            _ => return Err(SmtpUrlError::Credentials),
        };
        Ok(Self { host: host.to_owned(), port: url.port().unwrap_or(port), tls, credentials })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|d| !d.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The URL without its user and password.
impl fmt::Display for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls == Tls::Wrapped { "smtps" } else { "smtp" };
        let masked = if self.credentials.is_some() { "***:***@" } else { "" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{masked}{open}{}{close}:{}", self.host, self.port)?;
        match self.tls {
            Tls::Wrapped => Ok(()),
            Tls::Required => f.write_str("?tls=required"),
            Tls::Opportunistic => f.write_str("?tls=opportunistic"),
            Tls::None => f.write_str("?tls=none"),
        }
    }
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for SmtpUrl {
    type Error = SmtpUrlError;

    fn try_from(text: String) -> Result<Self, SmtpUrlError> {
        text.parse()
    }
}

impl From<SmtpUrl> for String {
    fn from(url: SmtpUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_host_port_and_tls() {
        let check = |text: &str, host: &str, port: u16, tls: Tls| {
            let url: SmtpUrl = text.parse().expect(text);
            assert_eq!((url.host.as_str(), url.port, url.tls), (host, port, tls), "{text}");
        };
        check("smtp://mail.example.org", "mail.example.org", 587, Tls::Opportunistic);
        check("smtp://127.0.0.1:2525", "127.0.0.1", 2525, Tls::Opportunistic);
        check("smtp://mail.example.org/?tls=required", "mail.example.org", 587, Tls::Required);
        check("smtp://mail.example.org?tls=none", "mail.example.org", 25, Tls::None);
        check("smtps://mail.example.org", "mail.example.org", 465, Tls::Wrapped);
        check("smtp://[::1]:25?tls=none", "::1", 25, Tls::None);
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        let refused = [
            ("", SmtpUrlError::Shape),
            ("mail.example.org", SmtpUrlError::Shape),
            ("http://mail.example.org", SmtpUrlError::Scheme),
            ("smtp:///", SmtpUrlError::Host),
            ("smtp://host/path", SmtpUrlError::Option),
            ("smtp://host?tls=maybe", SmtpUrlError::Option),
            ("smtp://host?tls=none&x=1", SmtpUrlError::Option),
            ("smtps://host?tls=none", SmtpUrlError::Contradiction),
            ("smtp://user@host", SmtpUrlError::Credentials),
            ("smtp://:secret@host", SmtpUrlError::Credentials),
            ("smtp://user:%ff@host", SmtpUrlError::Credentials),
            ("smtp://user:sec%2@host", SmtpUrlError::Credentials),
        ];
        for (text, error) in refused {
            assert_eq!(text.parse::<SmtpUrl>(), Err(error), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let text = "smtps://kim%40example.org:p%2Bw%3Ad@mail.example.org";
        let config: Config = toml::from_str(&format!("smtp.url = \"{text}\"")).unwrap();
        let url = config.smtp.url.clone().unwrap();
        assert_eq!(url.credentials, Some(("kim@example.org".into(), "p+w:d".into())));
        let shown = [
            format!("{config:?}"),
            url.to_string(),
            serde_json::to_string(&config).unwrap(),
            toml::to_string(&config).unwrap(),
        ];
        for text in shown {
            assert!(text.contains("smtps://***:***@mail.example.org:465"), "{text}");
            assert!(!text.contains("kim") && !text.contains("p%2Bw") && !text.contains("p+w"));
        }
    }

    #[test]
    fn the_sender_follows_from_the_host() {
        let sender = |text: &str| toml::from_str::<Config>(text).unwrap().sender();
        assert_eq!(sender("").unwrap().to_string(), "madang@madang.invalid");
        assert_eq!(sender("smtp.url='smtps://a.kr'").unwrap().to_string(), "madang@a.kr");
        assert_eq!(sender("smtp.url='smtp://[::1]'").unwrap().to_string(), "madang@localhost");
        let text = "smtp.url='smtps://a.kr'\nsmtp.from='alerts@b.kr'";
        assert_eq!(sender(text).unwrap().to_string(), "alerts@b.kr");
        assert!(sender("smtp.url='smtps://a_b.kr'").is_err());
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_the_name_of_its_key() {
        Config::default().check().unwrap();
        let wrong = [
            ("attempts_max=0", "delivery.attempts_max"),
            ("smtp.in_flight_max=0", "delivery.smtp.in_flight_max"),
            ("smtp.send_time_max='0s'", "delivery.smtp.send_time_max"),
            ("smtp.messages_per_second_max=0", "delivery.smtp.messages_per_second_max"),
            ("endpoints.in_flight_max=0", "delivery.endpoints.in_flight_max"),
            ("endpoints.rest_max='0s'", "delivery.endpoints.rest_max"),
            ("back_off_min='1m'\nback_off_max='1s'", "delivery.back_off_max"),
            ("key_file='/'", "delivery.key_file"),
            ("smtp.from_name=\"a\\nBcc: b\"", "delivery.smtp.from_name"),
        ];
        for (text, key) in wrong {
            let error = toml::from_str::<Config>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(toml::from_str::<Config>("attempts=1").is_err());
        assert!(toml::from_str::<Config>("smtp.from='not an address'").is_err());
    }
}
