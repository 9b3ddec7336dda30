//! Sockets with their surroundings.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, KeyId, OrganisationId, Timestamp};
use bytes::Bytes;
use eventlog::{EventLog, Record};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use relational::Db;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::client::Client;
use crate::{Config, Sockets, Source};

pub(super) const OTHER: OrganisationId = OrganisationId::fixed(2);

/// Knows the keys `mina`, `joon` and `bora` of one organisation and `foreign` of another; each one's secret is its name
/// with `-secret`.
pub(super) struct Doorman {
    epoch: watch::Sender<u64>,
    revoked: Mutex<HashSet<String>>,
    /// Parts of `action resource` that nobody may.
    forbidden: Mutex<HashSet<String>>,
    /// Loses its key while it is being let in.
    leaving: Mutex<Option<String>>,
}

impl Doorman {
    fn new() -> Self {
        Self {
            epoch: watch::Sender::new(1),
            revoked: Mutex::default(),
            forbidden: Mutex::new(HashSet::from(["forbidden".to_owned()])),
            leaving: Mutex::default(),
        }
    }

    pub(super) fn revoke(&self, key: &str) {
        self.revoked.lock().insert(key.to_owned());
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub(super) fn revoke_while_let_in(&self, key: &str) {
        *self.leaving.lock() = Some(key.to_owned());
    }

    pub(super) fn forbid(&self, part: &str) {
        self.forbidden.lock().insert(part.to_owned());
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub(super) fn principal(key: &str) -> Option<Principal> {
        let number = ["mina", "joon", "bora", "foreign"].iter().position(|it| *it == key)?;
        Some(Principal {
            organisation: if key == "foreign" { OTHER } else { OrganisationId::DEFAULT },
            subject: Subject::Key(KeyId::fixed(number as u128 + 1)),
            name: key.into(),
        })
    }
}

impl Authority for Doorman {
    fn authenticate<'a>(
        &'a self,
        door: Door,
        key: &'a str,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Principal, Refused>> {
        assert_eq!(door, Door::Stomp);
        let is_right = secret == format!("{key}-secret") && !self.revoked.lock().contains(key);
        let found = Self::principal(key).filter(|_| is_right);
        let leaves = self.leaving.lock().as_deref() == Some(key);
        Box::pin(async move {
            if leaves {
                self.revoke(key);
                // The connection hears of it meanwhile.
                base::Clock::system().sleep(Duration::from_millis(50)).await;
            }
            found.ok_or(Refused::Unauthenticated)
        })
    }

    fn authorize(&self, _: &Principal, action: Action, on: Resource<'_>) -> Result<(), Refused> {
        let deed = format!("{} {}", action.0, on.path);
        let is_forbidden = self.forbidden.lock().iter().any(|part| deed.contains(part.as_str()));
        if is_forbidden { Err(Refused::Forbidden) } else { Ok(()) }
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    fn is_current(&self, principal: &Principal) -> bool {
        !self.revoked.lock().contains(&*principal.name)
    }
}

/// Records of the topic `measured`: told as `sea.KEY`, and all of them as `sea`.
pub(super) struct Sea;

impl Source for Sea {
    fn log_topic(&self) -> &'static str {
        "measured"
    }

    fn owns(&self, name: &str) -> bool {
        name == "sea" || name.starts_with("sea.")
    }

    fn key<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix("sea.")
    }

    fn needs(&self, name: &str) -> Option<(Action, String)> {
        Some((Action("sea.read"), format!("measured/{name}")))
    }

    fn names(&self, record: &Record) -> Vec<String> {
        let key = record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        key.map(|key| vec![format!("sea.{key}"), "sea".to_owned()]).unwrap_or_default()
    }
}

pub(super) struct House {
    pub(super) base: Base,
    pub(super) sockets: Sockets,
    pub(super) log: EventLog,
    pub(super) db: Db,
    pub(super) doorman: Arc<Doorman>,
    pub(super) address: SocketAddr,
    config: Config,
    folder: Arc<TempDir>,
}

impl House {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::start(folder, config, Arc::new(Doorman::new())).await
    }

    async fn start(folder: Arc<TempDir>, config: Config, doorman: Arc<Doorman>) -> Self {
        let base = Base::system();
        let rows = relational::Config { path: folder.path().join("rows.db"), ..Default::default() };
        let db = Db::open(rows, &base).await.unwrap();
        let log = eventlog::Config {
            dir: folder.path().join("log"),
            segment_bytes: 64 << 10,
            ..Default::default()
        };
        let log = EventLog::open(log, &base).await.unwrap();
        let stores = (log.clone(), db.clone());
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(Sea)];
        let opened = Sockets::open(config.clone(), &base, stores, doorman.clone(), sources).await;
        let sockets = opened.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = sockets.clone();
        base.tasks.spawn("serve", async move { server.listen(listener).await });
        Self { base, sockets, log, db, doorman, address, config, folder }
    }

    /// Stops everything and starts it again on the same files.
    pub(super) async fn restarted(self) -> Self {
        assert!(self.base.tasks.stop(Duration::from_secs(5)).await, "everything ends");
        self.log.close().await;
        self.db.close().await;
        let (folder, config, doorman) =
            (self.folder.clone(), self.config.clone(), self.doorman.clone());
        drop(self);
        Self::start(folder, config, doorman).await
    }

    /// Somebody who is let in by version 1.2.
    pub(super) async fn client(&self, key: &str) -> Client {
        let mut client = Client::dial(self.address).await;
        client.enter(key, "1.2").await;
        client
    }

    /// Appends what a source tells.
    pub(super) async fn measure(&self, key: &str, value: &str) -> u64 {
        let topic = self.log.topic(OrganisationId::DEFAULT, "measured").await.unwrap();
        let record = Record {
            timestamp: Timestamp::from_millis(0),
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Bytes::copy_from_slice(value.as_bytes()),
            headers: Vec::new(),
        };
        topic.append(0, vec![record]).await.unwrap()
    }

    pub(super) fn metric(&self, name: &str) -> u64 {
        let text = self.base.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Waits until the condition holds; what it waits for is a test's only clock.
    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            self.base.clock.sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came true that {what}");
    }
}
