//! Sockets with their surroundings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Door};
use base::{Base, OrganisationId, Timestamp};
use bytes::Bytes;
use eventlog::{EventLog, Record};
use relational::Db;
use tempfile::TempDir;
use testkit::Doorman;
use tokio::net::TcpListener;

use super::client::Client;
use crate::{Config, Sockets, Source};

pub(super) fn doorman() -> Doorman {
    Doorman::new(Door::Stomp, &["mina", "joon", "bora", "foreign"])
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
        Self::start(folder, config, Arc::new(doorman())).await
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
        base.tasks.spawn("serve", async move { server.listen(listener, None).await });
        Self { base, sockets, log, db, doorman, address, config, folder }
    }

    /// Stops everything and starts it again on the same files.
    pub(super) async fn restarted(self) -> Self {
        assert!(self.base.tasks.stop(Duration::from_secs(20)).await, "everything ends");
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
        testkit::metric(&self.base.metrics, name).unwrap_or(0)
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        testkit::until(&self.base.clock, what, holds).await;
    }
}
