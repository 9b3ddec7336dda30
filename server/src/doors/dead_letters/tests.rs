use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base::access::Principal;
use base::{Base, OrganisationId};
use edge::Router;
use identity::{Grant, NewKey};
use relational::{
    Command, Commands, Error, Handler, Migration, NewCommand, NewEvent, Tx, Unhandled, params,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::adapters::BrowserSessions;
use crate::wiring::Rooms;

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;

static TABLES: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (sequence INTEGER PRIMARY KEY, text TEXT NOT NULL)",
}];

/// Everything but the sockets, with a handler of events and one of commands that fail until they are mended.
struct House {
    rooms: Rooms,
    router: Router,
    base: Base,
    is_mended: Arc<AtomicBool>,
    token: String,
    _folder: TempDir,
}

impl House {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = crate::config::Settings::default();
        let place = folder.path().display().to_string();
        settings.set(&["data_dir"], toml::Value::String(place)).unwrap();
        let once = toml::Value::Integer(1);
        settings.set(&["relational", "command_attempts_max"], once.clone()).unwrap();
        // So few that pages of refused readings end early.
        settings.set(&["devices", "dead_letters_looked_at_max"], once).unwrap();
        let config = settings.config().unwrap();
        let base = Base::system();
        let bases = crate::wiring::Bases { io: base.clone(), handlers: base.clone() };
        let rooms = crate::wiring::open(&config, None, &bases, None).await.unwrap();
        let sessions = Arc::new(BrowserSessions(rooms.doors.identity.clone()));
        let edge_config = config.http.part.clone();
        let router = rooms.doors.router(rooms.authority.clone(), sessions, edge_config);
        let is_mended = Arc::new(AtomicBool::new(false));
        let token = String::new();
        let mut house = Self { rooms, router, base, is_mended, token, _folder: folder };
        house.token = house.key(&["*"]).await;
        house.rooms.doors.db.migrate("test-effects", TABLES).await.unwrap();
        house.handle().await;
        house
    }

    /// A key with these actions on everything.
    async fn key(&self, actions: &[&str]) -> String {
        let grants = actions.iter().map(|action| Grant::new(*action, "*")).collect();
        let new = NewKey { label: actions.join(" "), grants };
        self.rooms.doors.identity.ensure_key(ORGANISATION, new).await.unwrap().token
    }

    async fn handle(&self) {
        let (db, log) = (self.rooms.doors.db.clone(), self.rooms.log.clone());
        let mut commands = Commands::new(&db, &self.base);
        let is_mended = self.is_mended.clone();
        let handle = async move |tx: &mut Tx, command: &Command| {
            effect(tx, &is_mended, &command.payload).await
        };
        commands.handle("deed.do", handle).unwrap();
        commands.start().await.unwrap();
        let is_mended = self.is_mended.clone();
        let handler = Handler { name: "feed", organisation: ORGANISATION, topic: "deeds".into() };
        let run = relational::run_handler(db, log, handler, async move |tx, stored| {
            effect(tx, &is_mended, &stored.record.value).await
        });
        self.base.tasks.spawn("feed", run);
    }

    /// An event and a command that fail, each with a payload of its own.
    async fn fail(&self) {
        let send = async |tx: &mut Tx| {
            let (organisation, key) = (ORGANISATION, "roof".to_owned());
            let (topic, kind) = ("deeds", "deed.done");
            let payload = b"an event".to_vec();
            tx.emit(NewEvent { organisation, topic, kind, key: key.clone(), payload }).await?;
            let (name, payload) = ("deed.do", [0xFF].repeat(5_000));
            tx.send(NewCommand { organisation, name, key, payload, not_before: None }).await?;
            Ok::<_, Error>(())
        };
        self.rooms.doors.db.write(send).await.unwrap();
        while self.rooms.doors.db.dead_letters_count(ORGANISATION).await.unwrap() < 2 {
            tokio::task::yield_now().await;
        }
    }

    async fn refuse_a_reading(&self) {
        let principal = Principal {
            organisation: ORGANISATION,
            subject: base::access::Subject::System("test"),
            name: "roof-1".into(),
        };
        self.rooms.doors.devices.accept(&principal, "roof-1", b"not JSON").await;
    }

    async fn effects(&self) -> Vec<String> {
        let effects = self.rooms.doors.db.read(async |read| {
            let rows = read.query("SELECT text FROM effects ORDER BY sequence", &[]).await?;
            rows.iter().map(|row| row.get("text")).collect()
        });
        let effects: Result<_, Error> = effects.await;
        effects.unwrap()
    }

    async fn as_key(
        &self,
        request: (Method, &str, Option<Value>),
        headers: &[(&str, &str)],
    ) -> (StatusCode, Value) {
        let (method, path, body) = request;
        let mut made = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            made = made.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                made = made.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let answer = self.router.clone().oneshot(made.body(body).unwrap()).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let bearer = format!("Bearer {}", self.token);
        self.as_key((method, path, body), &[("authorization", &bearer)]).await
    }

    /// All pages of a list.
    async fn list(&self, query: &str) -> Vec<Value> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/dead-letters?{query}{after}");
            let (status, page) = self.request(Method::GET, &path, None).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            items.extend(page["items"].as_array().unwrap().clone());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return items,
            }
        }
    }

    async fn only(&self, query: &str) -> Value {
        let mut items = self.list(query).await;
        assert_eq!(items.len(), 1, "{query}: {items:?}");
        items.remove(0)
    }
}

async fn effect(tx: &mut Tx, is_mended: &AtomicBool, payload: &[u8]) -> Result<(), Unhandled> {
    if !is_mended.load(Ordering::SeqCst) {
        return Err(Unhandled::invalid("it is broken"));
    }
    let text = String::from_utf8_lossy(payload).chars().take(8).collect::<String>();
    tx.execute("INSERT INTO effects (text) VALUES (?)", params![text]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_handler_is_mended_and_what_it_missed_is_handled_once() {
    let house = House::open().await;
    house.fail().await;
    let letter = house.only("source=event").await;
    assert_eq!((&letter["handler"], &letter["reason"]), (&json!("feed"), &json!("it is broken")));
    assert_eq!((&letter["topic"], &letter["kind"]), (&json!("deeds"), &json!("deed.done")));
    assert_eq!((&letter["payload"], &letter["key"]), (&json!("an event"), &json!("roof")));
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap());
    let replay = format!("{path}/replay");

    let (status, problem) = house.request(Method::POST, &replay, None).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(problem["detail"], "it could not be handled again: it is broken");
    let (_, tried) = house.request(Method::GET, &path, None).await;
    assert_eq!(tried["attempts"], 2);
    assert!(tried["tried"].is_string(), "{tried}");

    house.is_mended.store(true, Ordering::SeqCst);
    let bearer = format!("Bearer {}", house.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "\"mended\"")];
    for _ in 0..2 {
        let (status, done) = house.as_key((Method::POST, &replay, None), &headers).await;
        assert_eq!((status, &done), (StatusCode::OK, &json!({"outcome": "handled"})));
    }
    let (status, _) = house.request(Method::POST, &replay, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(house.effects().await, ["an event"]);

    let filter = Some(json!({"source": "command", "reason": "BROKEN"}));
    let (status, done) = house.request(Method::POST, "/v1/dead-letters/replay", filter).await;
    let expected = json!({"replayed": 1, "failed": 0, "held": 0, "more": false});
    assert_eq!((status, done), (StatusCode::OK, expected));
    while house.effects().await.len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(house.list("").await.is_empty());
    let (_, audit) = house.request(Method::GET, "/v1/audit", None).await;
    let lines: Vec<&str> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["action"] == "dead-letters.write")
        .map(|line| line["detail"].as_str().unwrap())
        .collect();
    assert_eq!(lines, ["replayed: 1, failed: 0, held back: 0", "replayed: handled"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_events_and_commands_stand_in_one_list() {
    let house = House::open().await;
    house.refuse_a_reading().await;
    house.fail().await;
    house.refuse_a_reading().await;
    house.refuse_a_reading().await;
    let all = house.list("").await;
    let sources: Vec<&str> = all.iter().map(|item| item["source"].as_str().unwrap()).collect();
    assert_eq!((sources[0], sources[1], sources[4]), ("reading", "reading", "reading"));
    assert!(sources[2..4].contains(&"event") && sources[2..4].contains(&"command"));
    let times: Vec<&str> = all.iter().map(|item| item["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    for limit in 1..=5 {
        assert_eq!(house.list(&format!("limit={limit}")).await, all, "{limit} a page");
    }
    assert_eq!(house.list("handler=readings").await.len(), 3);
    assert_eq!(house.list("kind=malformed").await.len(), 3);
    assert_eq!(house.list("kind=deed.done").await.len(), 1);
    assert_eq!(house.list("reason=payload+is+NOT").await.len(), 3);
    assert!(house.list("source=outbox").await.is_empty());

    let command = house.only("source=command").await;
    assert_eq!((&command["truncated"], &command["encoding"]), (&json!(true), &json!("base64")));
    let path = format!("/v1/dead-letters/{}", command["id"].as_str().unwrap());
    let (_, whole) = house.request(Method::GET, &path, None).await;
    assert_eq!(whole["truncated"], false);
    assert_eq!(whole["payload"].as_str().unwrap().len(), 5_000_usize.div_ceil(3) * 4);

    let (_, overview) = house.request(Method::GET, "/v1/overview", None).await;
    assert_eq!(overview["dead_letters"], 5);
    for path in [path, "/v1/dead-letters/reading-0".into(), "/v1/dead-letters/reading-2".into()] {
        let (status, _) = house.request(Method::DELETE, &path, None).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        for method in [Method::GET, Method::DELETE] {
            let (status, _) = house.request(method, &path, None).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    let filter = Some(json!({"handler": "feed"}));
    let (_, done) = house.request(Method::POST, "/v1/dead-letters/discard", filter).await;
    assert_eq!(done, json!({"discarded": 1, "more": false}));
    assert_eq!(house.only("").await["id"], "reading-1");
    let (_, done) = house.request(Method::POST, "/v1/dead-letters/replay", Some(json!({}))).await;
    assert_eq!(done, json!({"replayed": 0, "failed": 1, "held": 0, "more": false}));
    let (_, overview) = house.request(Method::GET, "/v1/overview", None).await;
    assert_eq!(overview["dead_letters"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_see_them_changes_nothing_and_what_names_nothing_is_not_found() {
    let house = House::open().await;
    house.refuse_a_reading().await;
    let reader = format!("Bearer {}", house.key(&["dead-letters.read"]).await);
    let headers = [("authorization", reader.as_str())];
    let one = "/v1/dead-letters/reading-0";
    for path in ["/v1/dead-letters", one] {
        let (status, _) = house.as_key((Method::GET, path, None), &headers).await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    let replay = format!("{one}/replay");
    let changes = [
        (Method::DELETE, one, None),
        (Method::POST, &*replay, None),
        (Method::POST, "/v1/dead-letters/replay", Some(json!({}))),
        (Method::POST, "/v1/dead-letters/discard", Some(json!({}))),
    ];
    for (method, path, body) in changes {
        let (status, _) = house.as_key((method, path, body), &headers).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
    }
    for id in ["reading-7", "reading-x", "7", "7-7", "none"] {
        let (status, _) = house.request(Method::GET, &format!("/v1/dead-letters/{id}"), None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
    }
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    let (status, _) = house.request(Method::GET, "/v1/dead-letters?after=7", None).await;
    assert_eq!(status, unprocessable);
    let unknown = Some(json!({"sources": "event"}));
    let (status, _) = house.request(Method::POST, "/v1/dead-letters/replay", unknown).await;
    assert_eq!(status, unprocessable);
    assert_eq!(house.list("").await.len(), 1);
}
