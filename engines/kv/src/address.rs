//! Where the keys are: in this process, or on servers that speak Redis's protocol.

use std::fmt;

use crate::Error;

/// The address of a store. It is shown without its passwords.
///
/// Empty for the embedded store; else `redis://user:password@host:6379/0`, `redis-cluster://host,host:7001`, or
/// `redis-sentinel://host,host/0?service=mymaster`. With `rediss` in place of `redis` by TLS. `valkey` and `valkeys` say
/// the same. Sentinels that ask for a password get `sentinel_password`.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Address(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    One,
    Cluster,
    Sentinel,
}

/// An address that was read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) form: Form,
    pub(crate) has_tls: bool,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) db: i64,
    /// What sentinels call the servers.
    pub(crate) service: String,
    pub(crate) sentinel_password: Option<String>,
}

const PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;
const HOSTS_MAX: usize = 64;

impl Address {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Whether the store of this process is meant.
    pub fn is_embedded(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the address; nothing for the embedded store.
    pub(crate) fn place(&self) -> Result<Option<Place>, Error> {
        if self.is_embedded() {
            return Ok(None);
        }
        let wrong = |what: &str| Error::Address(format!("url {self} {what}"));
        let (scheme, rest) = self.0.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let (form, has_tls) = form(scheme).ok_or_else(|| {
            wrong("begins with none of redis://, rediss://, redis-cluster:// and redis-sentinel://")
        })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, hosts) = match authority.rsplit_once('@') {
            Some((who, hosts)) => (Some(who), hosts),
            None => (None, authority),
        };
        let decoded = |text: &str| decoded(text).ok_or_else(|| wrong("has a broken % in it"));
        let filled = |text: String| (!text.is_empty()).then_some(text);
        let (user, password) = match who.map(|who| who.split_once(':').unwrap_or((who, ""))) {
            Some((user, password)) => (filled(decoded(user)?), filled(decoded(password)?)),
            None => (None, None),
        };
        let port = if form == Form::Sentinel { SENTINEL_PORT } else { PORT };
        let hosts: Option<Vec<_>> = hosts.split(',').map(|one| host(one, port)).collect();
        let hosts = hosts.filter(|all| all.len() <= HOSTS_MAX);
        let hosts = hosts.ok_or_else(|| wrong("names no host, or a port that is none"))?;
        if form == Form::One && hosts.len() > 1 {
            return Err(wrong("names several hosts: redis-cluster:// or redis-sentinel:// do"));
        }
        let db = if path.is_empty() { Ok(0) } else { path.parse::<u16>() };
        let db = db.map_err(|_| wrong("has a path that is no number of a database"))?;
        if form == Form::Cluster && db != 0 {
            return Err(wrong("names a database, and a cluster has one only"));
        }
        let (mut service, mut sentinel_password) = (String::new(), None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("service", name)) if form == Form::Sentinel => service = decoded(name)?,
                Some(("sentinel_password", text)) if form == Form::Sentinel => {
                    sentinel_password = Some(decoded(text)?);
                }
                _ => return Err(wrong("says behind ? what is not known")),
            }
        }
        if form == Form::Sentinel && service.is_empty() {
            return Err(wrong("lacks ?service=, the name that the sentinels have for the servers"));
        }
        let db = i64::from(db);
        Ok(Some(Place { form, has_tls, user, password, hosts, db, service, sentinel_password }))
    }
}

fn form(scheme: &str) -> Option<(Form, bool)> {
    let (kind, form) = match scheme.split_once('-') {
        None => (scheme, Form::One),
        Some((kind, "cluster")) => (kind, Form::Cluster),
        Some((kind, "sentinel")) => (kind, Form::Sentinel),
        Some(_) => return None,
    };
    match kind {
        "redis" | "valkey" => Some((form, false)),
        "rediss" | "valkeys" => Some((form, true)),
        _ => None,
    }
}

/// `host`, `host:port`, `[::1]:port`
fn host(text: &str, port: u16) -> Option<(String, u16)> {
    let (host, given) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return None;
    }
    let port = given.map_or(Some(port), |given| given.parse().ok())?;
    Some((host.to_owned(), port))
}

/// Text with `%2F` for `/`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, left)) = rest.split_first() {
        rest = left;
        if byte == b'%' {
            let (digits, left) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = left;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str(&self.0) };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        write!(f, "{scheme}://")?;
        match rest.rsplit_once('@') {
            Some((who, hosts)) => {
                let user = who.split_once(':').map_or("", |(user, _)| user);
                write!(f, "{user}:…@{hosts}")?;
            }
            None => f.write_str(rest)?,
        }
        let mut mark = '?';
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let shown =
                if pair.starts_with("sentinel_password") { "sentinel_password=…" } else { pair };
            write!(f, "{mark}{shown}")?;
            mark = '&';
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Address::new(url).place().unwrap().unwrap()
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        assert!(Address::default().place().unwrap().is_none());
        let one = place("redis://app:p%40ss%3A@keys.example:7000/3");
        assert_eq!((one.form, one.has_tls, one.db), (Form::One, false, 3));
        assert_eq!((one.user.as_deref(), one.password.as_deref()), (Some("app"), Some("p@ss:")));
        assert_eq!(one.hosts, [("keys.example".to_owned(), 7_000)]);
        let password = place("rediss://:only@localhost");
        assert!(password.has_tls && password.user.is_none());
        assert_eq!(password.password.as_deref(), Some("only"));
        let cluster = place("valkey-cluster://a,b:7001,[::1]:7002");
        assert_eq!(cluster.form, Form::Cluster);
        let hosts = [("a".to_owned(), 6_379), ("b".into(), 7_001), ("::1".into(), 7_002)];
        assert_eq!(cluster.hosts, hosts);
        let sentinel = place("rediss-sentinel://:k@a,b/2?service=mymaster&sentinel_password=s%20s");
        assert_eq!((sentinel.form, sentinel.db), (Form::Sentinel, 2));
        assert_eq!(sentinel.hosts[0].1, 26_379);
        assert_eq!(sentinel.service, "mymaster");
        assert_eq!(sentinel.sentinel_password.as_deref(), Some("s s"));
    }

    #[test]
    fn what_is_no_address_is_refused_and_says_why() {
        for (url, reason) in [
            ("localhost:6379", "no scheme"),
            ("http://a", "begins with none"),
            ("redis-ring://a", "begins with none"),
            ("redis://", "names no host"),
            ("redis://a:x", "names no host, or a port"),
            ("redis://a,b", "several hosts"),
            ("redis://a/b", "no number"),
            ("redis-cluster://a/1", "one only"),
            ("redis-sentinel://a", "lacks ?service="),
            ("redis://a?service=b", "not known"),
            ("redis://a%:b@c", "broken %"),
        ] {
            let error = Address::new(url).place().err().unwrap().to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_passwords() {
        for (url, shown) in [
            ("redis://app:secret@a/1", "redis://app:…@a/1"),
            ("redis://secret@a", "redis://:…@a"),
            (
                "redis-sentinel://a?service=m&sentinel_password=secret",
                "redis-sentinel://a?service=m&sentinel_password=…",
            ),
        ] {
            assert_eq!(Address::new(url).to_string(), shown);
        }
    }
}
