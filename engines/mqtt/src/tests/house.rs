//! A broker with its surroundings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Door, Principal};
use base::{Base, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use relational::Db;
use tempfile::TempDir;
use testkit::Doorman;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::client::{Client, Version};
use crate::{Accepted, Config, Intake, Left, Message, Mqtt};

pub(super) fn doorman() -> Doorman {
    Doorman::new(Door::Mqtt, &["roof", "cellar", "attic", "foreign"])
}

/// Takes messages over as their topic says.
#[derive(Default)]
pub(super) struct Desk {
    seen: Mutex<Vec<Arc<str>>>,
    /// Who came (`+`), took leave (`-`) and was lost (`!`).
    visits: Mutex<Vec<String>>,
    gates: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Desk {
    pub(super) fn seen(&self) -> Vec<Arc<str>> {
        self.seen.lock().clone()
    }

    pub(super) fn visits(&self) -> Vec<String> {
        self.visits.lock().clone()
    }

    /// What waits until it is let through: `gate/<name>`.
    pub(super) fn open(&self, gate: &str) {
        self.gate(gate).add_permits(1);
    }

    fn gate(&self, gate: &str) -> Arc<Semaphore> {
        let closed = || Arc::new(Semaphore::new(0));
        self.gates.lock().entry(gate.to_owned()).or_insert_with(closed).clone()
    }
}

impl Intake for Desk {
    fn accept<'a>(&'a self, _: &'a Principal, message: &'a Message) -> BoxFuture<'a, Accepted> {
        self.seen.lock().push(message.topic.clone());
        let (kind, rest) = message.topic.split_once('/').unwrap_or((&message.topic, ""));
        match kind {
            "data" => async { Accepted::Stored }.boxed(),
            "bad" => async { Accepted::Refused { reason: "not a reading".to_owned() } }.boxed(),
            "denied" => async { Accepted::Denied }.boxed(),
            "down" => async { Accepted::Unavailable }.boxed(),
            "panic" => async { panic!("the intake broke") }.boxed(),
            "gate" => {
                let gate = self.gate(rest);
                async move {
                    gate.acquire().await.unwrap().forget();
                    Accepted::Stored
                }
                .boxed()
            }
            _ => async { Accepted::NotMine }.boxed(),
        }
    }

    fn arrived(&self, _: &Principal, client: &str) {
        self.visits.lock().push(format!("+{client}"));
    }

    fn left(&self, _: &Principal, client: &str, how: Left) {
        let sign = if how == Left::Lost { '!' } else { '-' };
        self.visits.lock().push(format!("{sign}{client}"));
    }
}

pub(super) struct House {
    pub(super) base: Base,
    pub(super) mqtt: Mqtt,
    pub(super) db: Db,
    pub(super) doorman: Arc<Doorman>,
    pub(super) desk: Arc<Desk>,
    pub(super) address: SocketAddr,
    pub(super) served: tokio::task::JoinHandle<Option<Result<(), crate::Error>>>,
    config: Config,
    folder: TempDir,
}

impl House {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(Base::system(), change).await
    }

    /// Time stands still until it is moved.
    pub(super) async fn simulated(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(Base::simulated(Timestamp::from_millis(1_000_000), 7), change).await
    }

    async fn at(base: Base, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let doorman = Arc::new(doorman());
        let desk = Arc::new(Desk::default());
        Self::start(base, folder, config, (doorman, desk)).await
    }

    async fn start(
        base: Base,
        folder: TempDir,
        config: Config,
        (doorman, desk): (Arc<Doorman>, Arc<Desk>),
    ) -> Self {
        let rows = relational::Config { path: folder.path().join("rows.db"), ..Default::default() };
        let db = Db::open(rows, &base).await.unwrap();
        let opened =
            Mqtt::open(config.clone(), &base, db.clone(), doorman.clone(), desk.clone()).await;
        let mqtt = opened.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = mqtt.clone();
        let served = base.tasks.spawn("serve", async move { server.serve(listener, None).await });
        Self { base, mqtt, db, doorman, desk, address, served, config, folder }
    }

    /// Stops the broker and starts it again on the same rows, at the same time of day.
    pub(super) async fn restarted(self) -> Self {
        assert!(self.base.tasks.stop(Duration::from_secs(20)).await, "everything ends");
        self.db.close().await;
        let base = Base::simulated(self.base.clock.now(), 8);
        Self::start(base, self.folder, self.config, (self.doorman, self.desk)).await
    }

    /// A clean client of the key `roof`.
    pub(super) async fn client(&self, version: Version, name: &str) -> Client {
        let (client, present) = Client::dial(self.address, version).name(name).enter().await;
        assert!(!present);
        client
    }

    pub(super) fn metric(&self, name: &str) -> u64 {
        testkit::metric(&self.base.metrics, name).unwrap_or(0)
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        testkit::until(&self.base.clock, what, holds).await;
    }
}
