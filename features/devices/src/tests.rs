//! Through the routes and the pipelines, on embedded engines.

mod backfill;
mod commands;
mod dashboards;
mod health;
mod http;
mod letters;
mod pipeline;
mod platform;
mod rollup;
mod rules;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, ErrorKind, EventId, KeyId, OrganisationId, Spent, Timestamp};
use edge::{BoxFuture, Gate, Router, Sessions};
use eventlog::EventLog;
use http_body_util::BodyExt;
use lake::Lake;
use parking_lot::Mutex;
use relational::{Db, Migration, Read, Tx, params};
use results::Results;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tower::ServiceExt;

use crate::pipeline::Step;
use crate::{
    Config, Devices, Error, IssuedKey, KeyIssuer, KeyRequest, Message, Messenger, NeedError, Needs,
    Notice, Notifier, Outcome, Recipient, Result, TxFuture,
};

/// Stops pipelines where a test wants them to be killed.
#[derive(Clone, Default)]
pub(crate) struct Hook(Arc<(Mutex<Option<Step>>, Notify)>);

impl Hook {
    pub(crate) async fn at(&self, step: Step) -> Result<(), Error> {
        let is_here = *self.0.0.lock() == Some(step);
        if is_here {
            self.0.1.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn arm(&self, step: Step) {
        *self.0.0.lock() = Some(step);
    }

    async fn reached(&self) {
        self.0.1.notified().await;
    }
}

/// Everything that devices stand on, in a folder.
struct Stack {
    dir: Arc<TempDir>,
    config: Config,
    base: Base,
    db: Db,
    log: EventLog,
    lake: Lake,
    devices: Devices,
    router: Router,
    mails: Arc<Mails>,
    messages: Arc<Messages>,
}

const NOW: &str = "2026-01-01T00:00:00Z";
const OTHER: OrganisationId = OrganisationId::fixed(2);

/// Chance must differ from one start to the next, as it does in life.
static STARTS: AtomicU64 = AtomicU64::new(1);

impl Stack {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), config, NOW.parse().unwrap()).await
    }

    async fn open(dir: Arc<TempDir>, config: Config, now: Timestamp) -> Self {
        let seed = STARTS.fetch_add(1, Ordering::Relaxed);
        let base = Base::simulated(now, seed);
        let path = |name: &str| dir.path().join(name);
        let rows = relational::Config { path: path("rows.db"), ..Default::default() };
        let db = Db::open(rows, &base).await.unwrap();
        db.migrate("test-mails", MAILS).await.unwrap();
        let log =
            eventlog::Config { dir: path("log"), segment_bytes: 16 << 10, ..Default::default() };
        let log = EventLog::open(log, &base).await.unwrap();
        // Only what a test flushes, or a clean stop, reaches the disk: the worst case for a kill.
        let lake = lake::Config {
            dir: path("lake"),
            flush_interval: Duration::from_hours(1),
            ..Default::default()
        };
        let lake = Lake::open(lake, &base).await.unwrap();
        let mails = Arc::new(Mails::default());
        let kv = kv::Config { durability: kv::Durability::Off, ..Default::default() };
        // A folder of its own: one whose server was killed is in use until its thread ends.
        let folder = path(&format!("kv-{seed}"));
        let kv = kv::Kv::for_rooms(kv, &base, &folder).await.unwrap();
        let config_of_results = results::Config::default();
        let results = Results::open_alone(config_of_results, &base, &db, &kv).await.unwrap();
        let needs = Needs {
            db: db.clone(),
            results,
            log: log.clone(),
            lake: lake.clone(),
            authority: Arc::new(Doorman),
            notifier: mails.clone(),
            keys: Arc::new(Keys),
        };
        let devices = Devices::open(config.clone(), &base, needs).await.unwrap();
        let messages = Arc::new(Messages::default());
        devices.connect(messages.clone());
        base.tasks.supervise("relay", {
            let (db, log) = (db.clone(), log.clone());
            move || relational::relay(db.clone(), log.clone())
        });
        let gate = Gate {
            authority: Arc::new(Doorman),
            sessions: Arc::new(Doorman),
            claims: None,
            config: edge::Config::default(),
            base: base.clone(),
            handlers: base.tasks.clone(),
        };
        let router = devices.routes().build(gate);
        Self { dir, config, base, db, log, lake, devices, router, mails, messages }
    }

    /// Stops cleanly and starts on the same folder.
    async fn restart(self) -> Self {
        let (dir, config) = (self.dir.clone(), self.config.clone());
        let now = self.base.clock.now();
        self.stop().await;
        Self::open(dir, config, now).await
    }

    async fn stop(self) {
        assert!(self.base.tasks.stop(Duration::from_secs(20)).await, "all tasks end");
        self.db.close().await;
        self.log.close().await;
    }

    /// Starts on a copy of the folder as it is now, as if the machine had stopped here.
    async fn killed(self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        // Copying takes time, in which the relay may move an event from the rows to the log: rows first, so
        // that it is in one of them at least, as the disk would have it.
        for name in ["rows.db-wal", "rows.db", "lake", "log"] {
            copy_all(&self.dir.path().join(name), &copy.path().join(name));
        }
        let next = Self::open(Arc::new(copy), self.config.clone(), self.base.clock.now()).await;
        self.stop().await;
        next
    }

    async fn send(&self, device: &str, payload: &Value) -> Outcome {
        self.devices.accept(&principal("admin"), device, payload.to_string().as_bytes()).await
    }

    async fn stored(&self, device: &str, payloads: &[Value]) {
        for payload in payloads {
            assert_eq!(self.send(device, payload).await, Outcome::Stored, "{payload}");
        }
    }

    /// Waits until the pipelines have taken everything that is in the log.
    async fn settled(&self) {
        self.settled_of(OrganisationId::DEFAULT).await;
    }

    async fn settled_of(&self, organisation: OrganisationId) {
        let fleet = self.devices.fleet(organisation).await.unwrap();
        for partition in 0..fleet.readings.partitions() {
            let end = *fleet.readings.end(partition).borrow();
            eventually("the pipeline is at the end of the log", async || {
                let next = async move |read: &mut Read| {
                    crate::store::next_offset(read, organisation, partition).await
                };
                let next = self.db.read(next).await.unwrap();
                let waiting = fleet.house.meters.lag.get();
                (next >= end && waiting == 0).then_some(())
            })
            .await;
        }
    }

    async fn sql(&self, sql: &str) -> Value {
        let answer = self.lake.query(OrganisationId::DEFAULT, sql).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.to_json().bytes).unwrap();
        answer["rows"].clone()
    }

    /// Device, time and value of every reading that SQL shows.
    async fn rows(&self) -> Value {
        self.sql("SELECT device, CAST(time AS BIGINT) / 1000000, name, value FROM readings ORDER BY 1, 2, 3")
            .await
    }

    /// Device and reading time of every alert, sorted.
    async fn alerts(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut path = "/v1/alerts?limit=1000".to_owned();
        loop {
            let page = self.get(&path).await;
            for alert in page["items"].as_array().unwrap() {
                let text = |name: &str| alert[name].as_str().unwrap().to_owned();
                all.push((text("device"), text("time")));
            }
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/alerts?limit=1000&after={next}");
        }
        all.sort();
        all
    }

    /// How often each mail was written, by its key.
    async fn mails(&self) -> Vec<(String, String)> {
        let list = async |read: &mut Read| {
            let sql = "SELECT recipient, subject FROM test_mails ORDER BY sequence";
            read.query(sql, params![]).await
        };
        let rows = self.db.read(list).await.unwrap();
        rows.iter().map(|r| (r.get("recipient").unwrap(), r.get("subject").unwrap())).collect()
    }

    async fn request(
        &self,
        who: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let (status, body, _) = self.request_spent(who, method, path, body).await;
        (status, body)
    }

    /// How many statements a GET runs on rows.
    async fn statements(&self, path: &str) -> u64 {
        let (status, body, spent) = self.request_spent("admin", Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        spent.statements()
    }

    async fn request_spent(
        &self,
        who: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (StatusCode, Value, Spent) {
        let mut request = Request::builder().method(method).uri(path);
        if !who.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer madang_{who}_secret"));
        }
        let body = match body {
            None => Body::empty(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
        };
        let request = request.body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let spent = response.extensions().get::<Spent>().cloned().unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null), spent)
    }

    #[track_caller]
    fn get(&self, path: &str) -> impl Future<Output = Value> {
        self.expect(StatusCode::OK, Method::GET, path, None)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> impl Future<Output = Value> {
        self.expect(StatusCode::CREATED, Method::POST, path, Some(body.clone()))
    }

    #[track_caller]
    fn expect(
        &self,
        expected: StatusCode,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let what = format!("{method} {path} at {caller}");
        let path = path.to_owned();
        async move {
            let (status, answer) = self.request("admin", method, &path, body.as_ref()).await;
            assert_eq!(status, expected, "{what}: {answer}");
            answer
        }
    }

    /// A rule on `weather` readings of `temp` at or above `min`.
    async fn hot_rule(&self, min: f64, cooldown_seconds: u64) -> String {
        let rule = self.post("/v1/rules", &hot(min, cooldown_seconds)).await;
        rule["id"].as_str().unwrap().to_owned()
    }

    async fn weather_sensor(&self) {
        let sensor = json!({
            "name": "weather",
            "values": [{"name": "temp", "unit": "°F"}, {"name": "humid", "unit": "%"}]
        });
        self.post("/v1/sensors", &sensor).await;
    }
}

fn hot(min: f64, cooldown_seconds: u64) -> Value {
    json!({
        "name": "hot",
        "sensor": "weather",
        "conditions": [{"value": "temp", "ranges": [{"min": min, "max": null}]}],
        "cooldown_seconds": cooldown_seconds,
        "actions": [{"type": "email", "to": "keeper@example.org"}]
    })
}

/// A reading at so many seconds of 2013.
fn reading(second: i64, temp: f64) -> Value {
    json!({"sensor": "weather", "time": at(second), "values": {"temp": temp}})
}

fn at(second: i64) -> String {
    Timestamp::from_micros((1_356_998_400 + second) * 1_000_000).to_string()
}

/// Asks until there is an answer.
async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            base::Clock::system().sleep(Duration::from_millis(2)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_mins(1), asking).await;
    answer.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

fn copy_all(from: &Path, to: &Path) {
    if from.is_file() {
        std::fs::copy(from, to).unwrap();
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        copy_all(&from.join(&name), &to.join(&name));
    }
}

/// `admin` may do all in the default organisation, `other` in another one, `sender` may only publish.
struct Doorman;

fn principal(key: &str) -> Principal {
    let organisation = if key == "other" { OTHER } else { OrganisationId::DEFAULT };
    Principal { organisation, subject: Subject::Key(KeyId::fixed(1)), name: key.into() }
}

impl Authority for Doorman {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        key: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Principal, Refused>> {
        let known = ["admin", "other", "sender"].contains(&key);
        let found = known.then(|| principal(key)).ok_or(Refused::Unauthenticated);
        Box::pin(std::future::ready(found))
    }

    fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        assert_eq!(principal.organisation, resource.organisation);
        let may = &*principal.name != "sender" || action == crate::READINGS_PUBLISH;
        if may { Ok(()) } else { Err(Refused::Forbidden) }
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        // Kept for ever, as the real one is.
        Box::leak(Box::new(watch::Sender::new(0))).subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        true
    }
}

impl Sessions for Doorman {
    fn session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(std::future::ready(Err(Refused::Unauthenticated)))
    }
}

const MAILS: &[Migration] = &[Migration {
    id: "0001",
    sql: "CREATE TABLE test_mails (
        sequence INTEGER PRIMARY KEY,
        organisation TEXT NOT NULL,
        idempotency TEXT NOT NULL UNIQUE,
        recipient TEXT NOT NULL,
        subject TEXT NOT NULL,
        body TEXT NOT NULL
    )",
}];

/// Keeps mails in rows. A key that comes twice breaks the transaction, so no test can miss it.
#[derive(Default)]
struct Mails {
    /// Refusals to come, the next one last.
    refusals: Mutex<Vec<ErrorKind>>,
}

impl Notifier for Mails {
    fn accepts(&self, address: &str) -> bool {
        address != "nobody@example.org"
    }

    fn knows<'a>(
        &'a self,
        _: OrganisationId,
        endpoint: &'a str,
    ) -> BoxFuture<'a, Result<bool, NeedError>> {
        Box::pin(std::future::ready(Ok(endpoint == "roof")))
    }

    fn enqueue<'a>(
        &'a self,
        tx: &'a mut Tx,
        mail: &'a Notice,
    ) -> TxFuture<'a, Result<(), NeedError>> {
        Box::pin(async move {
            let (Recipient::Email(to) | Recipient::Endpoint(to)) = &mail.to else { return Ok(()) };
            if let Some(kind) = self.refusals.lock().pop() {
                return Err(NeedError { kind, source: "no mail today".into() });
            }
            let Notice { organisation, subject, body, key, .. } = mail;
            let sql = "INSERT INTO test_mails (organisation, idempotency, recipient, subject, body) \
                       VALUES (?, ?, ?, ?, ?)";
            let written = tx.execute(sql, params![organisation, key, to, subject, body]).await;
            written.map_err(|error| NeedError { kind: error.kind(), source: error.into() })?;
            Ok(())
        })
    }
}

/// Keeps what was sent to devices; a broken one refuses.
#[derive(Default)]
struct Messages {
    sent: Mutex<Vec<Message>>,
    is_broken: std::sync::atomic::AtomicBool,
}

impl Messenger for Messages {
    fn publish(&self, _: OrganisationId, message: Message) -> BoxFuture<'_, Result<(), NeedError>> {
        let done = if self.is_broken.load(Ordering::Acquire) {
            Err(NeedError { kind: ErrorKind::Unavailable, source: "no broker today".into() })
        } else {
            self.sent.lock().push(message);
            Ok(())
        };
        Box::pin(std::future::ready(done))
    }
}

struct Keys;

impl KeyIssuer for Keys {
    fn issue<'a>(
        &'a self,
        principal: &'a Principal,
        request: KeyRequest,
    ) -> BoxFuture<'a, Result<IssuedKey, NeedError>> {
        let of = |wanted: &str| {
            let grants = request.grants.iter().filter(|(action, _)| *action == wanted);
            grants.map(|(_, path)| path.as_str()).collect::<Vec<_>>().join(" ")
        };
        Box::pin(std::future::ready(Ok(IssuedKey {
            id: principal.name.to_string(),
            token: of("readings.publish"),
            mqtt_user: of("mqtt.subscribe"),
            mqtt_password: of("mqtt.publish"),
            label: request.label.clone(),
        })))
    }
}
