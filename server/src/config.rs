//! The configuration: defaults < `madang.toml` < environment `MADANG__HTTP__LISTEN` < flags. Unknown keys are errors.
//! The only place that reads the environment or a configuration file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{client, threads, tls};

/// Everything that can be set. Each part's section is its own `Config`, with a default for everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    pub(crate) http: Door<edge::Config>,
    pub(crate) mqtt: Door<mqtt::Config>,
    pub(crate) kv: Door<kv::Config>,
    /// It listens on a port of its own only where `listen` says so; the WebSocket is a path of the HTTP port.
    pub(crate) sockets: Door<sockets::Config>,
    pub(crate) tls: tls::Config,
    pub(crate) identity: identity::Config,
    pub(crate) relational: relational::Config,
    pub(crate) results: results::Config,
    pub(crate) eventlog: eventlog::Config,
    pub(crate) lake: lake::Config,
    pub(crate) delivery: delivery::Config,
    pub(crate) egress: delivery::Egress,
    pub(crate) jobs: jobs::Config,
    pub(crate) comments: comments::Config,
    pub(crate) devices: devices::Config,
    pub(crate) articles: articles::Config,
    pub(crate) client: client::Config,
    pub(crate) threads: threads::Config,
    pub(crate) watch: base::watch::Config,
    pub(crate) log: Log,
}

/// The section of a part that listens: where, and the part's own keys beside.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Table", bound = "T: serde::de::DeserializeOwned")]
pub(crate) struct Door<T> {
    /// Address and port. When it is not set and the usual port is busy, the next free one is taken.
    pub(crate) listen: Option<String>,
    /// The same for TLS, which is there with `[tls]`.
    pub(crate) listen_tls: Option<String>,
    /// How people reach it from elsewhere, for links; by default the address listened on.
    pub(crate) public_url: Option<String>,
    pub(crate) part: T,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// What is logged, as in `info,mqtt=debug`.
    pub(crate) filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "madang-data".into(),
            http: Door::default(),
            mqtt: Door::default(),
            kv: Door::default(),
            sockets: Door::default(),
            tls: tls::Config::default(),
            identity: identity::Config::default(),
            relational: relational::Config::default(),
            results: results::Config::default(),
            eventlog: eventlog::Config::default(),
            lake: lake::Config::default(),
            delivery: delivery::Config::default(),
            egress: delivery::Egress::default(),
            jobs: jobs::Config::default(),
            comments: comments::Config::default(),
            devices: devices::Config::default(),
            articles: articles::Config::default(),
            client: client::Config::default(),
            threads: threads::Config::default(),
            watch: base::watch::Config::default(),
            log: Log::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info,buoyant_kernel=warn,deltalake_core=warn,datafusion=warn".into() }
    }
}

impl<T: serde::de::DeserializeOwned> TryFrom<Table> for Door<T> {
    type Error = toml::de::Error;

    fn try_from(mut table: Table) -> Result<Self, Self::Error> {
        let mut take = |name| table.remove(name).map(Value::try_into).transpose();
        let (listen, listen_tls) = (take("listen")?, take("listen_tls")?);
        let public_url = take("public_url")?;
        Ok(Self { listen, listen_tls, public_url, part: table.try_into()? })
    }
}

/// What was set, before defaults: also tells what was set at all.
#[derive(Debug, Default)]
pub(crate) struct Settings(Table);

const PREFIX: &str = "MADANG__";

/// Where each part keeps its things below `data_dir`.
const PLACES: [(&str, &str, &str); 6] = [
    ("relational", "path", "rows/rows.db"),
    ("eventlog", "dir", "log"),
    ("lake", "dir", "lake"),
    ("delivery", "key_file", "keys/delivery"),
    ("identity", "key_file", "keys/identity"),
    ("identity", "removed_file", "keys/removed"),
];

impl Settings {
    /// Reads the file (its absence is an error only when it was named) and the environment.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn read(file: Option<&Path>) -> Result<Self> {
        let mut settings = Self::default();
        let path = file.unwrap_or_else(|| Path::new("madang.toml"));
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let table = text.parse::<Table>();
                settings.0 = table.with_context(|| format!("read {}", path.display()))?;
            }
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => bail!("read {}: {error}", path.display()),
        }
        for (name, value) in std::env::vars() {
            if let Some(key) = name.strip_prefix(PREFIX) {
                let parts: Vec<String> = key.split("__").map(str::to_lowercase).collect();
                settings.set(&parts, value_of(&value))?;
            }
        }
        Ok(settings)
    }

    /// Sets a key by its path; what was there is replaced.
    pub(crate) fn set(&mut self, path: &[impl AsRef<str>], value: Value) -> Result<()> {
        let Some((last, folders)) = path.split_last() else { bail!("an empty key") };
        let mut table = &mut self.0;
        for folder in folders {
            let entry = table.entry(folder.as_ref()).or_insert_with(|| Value::Table(Table::new()));
            table = entry
                .as_table_mut()
                .with_context(|| format!("`{}` is a value, not a section", folder.as_ref()))?;
        }
        table.insert(last.as_ref().to_owned(), value);
        Ok(())
    }

    pub(crate) fn is_set(&self, section: &str, key: &str) -> bool {
        self.0.get(section).is_some_and(|table| table.get(key).is_some())
    }

    /// What was set, with defaults for the rest. Each part keeps its things in its own folder of `data_dir`.
    pub(crate) fn config(&self) -> Result<Config> {
        let mut settings = Self(self.0.clone());
        let data_dir = match settings.0.get("data_dir") {
            Some(folder) => PathBuf::from(folder.as_str().context("data_dir is not a text")?),
            None => Config::default().data_dir,
        };
        for (section, key, place) in PLACES {
            if !self.is_set(section, key) {
                let place = data_dir.join(place).display().to_string();
                settings.set(&[section, key], Value::String(place))?;
            }
        }
        settings.0.try_into().context("configuration")
    }
}

/// A value as TOML has it; anything that is not TOML is text.
fn value_of(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>();
    parsed
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

impl Config {
    /// The configuration as TOML, secrets masked.
    pub(crate) fn masked(&self) -> Result<String> {
        let mut shown = Table::new();
        shown.insert("data_dir".into(), Value::try_from(&self.data_dir)?);
        shown.insert("http".into(), self.http.shown()?);
        shown.insert("mqtt".into(), self.mqtt.shown()?);
        shown.insert("kv".into(), self.kv.shown()?);
        shown.insert("sockets".into(), self.sockets.shown()?);
        shown.insert("tls".into(), Value::try_from(&self.tls)?);
        shown.insert("identity".into(), Value::try_from(&self.identity)?);
        shown.insert("relational".into(), Value::try_from(&self.relational)?);
        shown.insert("results".into(), Value::try_from(&self.results)?);
        shown.insert("eventlog".into(), Value::try_from(&self.eventlog)?);
        shown.insert("lake".into(), Value::try_from(&self.lake)?);
        shown.insert("delivery".into(), Value::try_from(&self.delivery)?);
        shown.insert("egress".into(), Value::try_from(&self.egress)?);
        shown.insert("jobs".into(), Value::try_from(&self.jobs)?);
        shown.insert("comments".into(), Value::try_from(&self.comments)?);
        shown.insert("devices".into(), Value::try_from(&self.devices)?);
        shown.insert("articles".into(), Value::try_from(&self.articles)?);
        let key = if self.client.key.is_empty() { "" } else { "***" };
        let client = client::Config { key: key.to_owned(), ..self.client.clone() };
        shown.insert("client".into(), Value::try_from(&client)?);
        shown.insert("threads".into(), Value::try_from(&self.threads)?);
        shown.insert("watch".into(), Value::try_from(&self.watch)?);
        shown.insert("log".into(), Value::try_from(&self.log)?);
        let providers = shown["identity"].get_mut("providers").and_then(Value::as_table_mut);
        for (_, provider) in providers.into_iter().flatten() {
            if let Some(Value::String(secret)) = provider.get_mut("client_secret")
                && !secret.is_empty()
            {
                *secret = "***".into();
            }
        }
        let url = shown["delivery"].get_mut("smtp").and_then(|smtp| smtp.get_mut("url"));
        if let Some(Value::String(url)) = url {
            *url = mask_password(url);
        }
        Ok(toml::to_string(&shown)?)
    }
}

impl<T: Serialize> Door<T> {
    fn shown(&self) -> Result<Value> {
        let mut table = Table::try_from(&self.part)?;
        for (name, value) in [
            ("listen", &self.listen),
            ("listen_tls", &self.listen_tls),
            ("public_url", &self.public_url),
        ] {
            if let Some(value) = value {
                table.insert(name.into(), Value::String(value.clone()));
            }
        }
        Ok(Value::Table(table))
    }
}

/// `smtp://user:secret@host` as `smtp://user:***@host`.
fn mask_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let Some((credentials, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = credentials.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:***@{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings(text.parse().unwrap())
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        for text in ["[http]\nlissten = \"x\"", "[eventlog]\nlissten = 1", "lissten = 1"] {
            let error = settings(text).config().unwrap_err();
            assert!(format!("{error:#}").contains("lissten"), "{error:#}");
        }
    }

    #[test]
    fn what_is_not_set_has_its_default_and_what_is_set_wins() {
        let mut settings =
            settings("data_dir = \"here\"\n[http]\nlisten = \"0.0.0.0:80\"\nbody_bytes_max = 5");
        settings.set(&["http", "listen"], value_of("127.0.0.1:81")).unwrap();
        settings.set(&["egress", "allow"], value_of("[\"10.0.0.0/8\"]")).unwrap();
        settings.set(&["identity", "sign_up"], value_of("open")).unwrap();
        let config = settings.config().unwrap();
        assert_eq!(config.http.listen.as_deref(), Some("127.0.0.1:81"));
        assert_eq!(config.http.part.body_bytes_max, 5);
        assert_eq!(config.mqtt.listen, None);
        assert_eq!(config.egress.allow.len(), 1);
        assert_eq!(config.identity.sign_up, identity::SignUp::Open);
        assert_eq!(config.identity.key_file, Path::new("here/keys/identity"));
        assert_eq!(config.eventlog.dir, Path::new("here/log"));
    }

    #[test]
    fn the_printed_configuration_masks_the_password_and_reads_back() {
        let url = "smtps://me:se%40cret@mail.example.com";
        let config = settings(&format!("[delivery.smtp]\nurl = \"{url}\"")).config().unwrap();
        let printed = config.masked().unwrap();
        assert!(!printed.contains("cret@"), "{printed}");
        let again = Settings(printed.parse().unwrap()).config().unwrap();
        assert_eq!(again.masked().unwrap(), printed);
    }
}
