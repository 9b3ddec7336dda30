//! Every convention, asked through the router as a client would.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{AccountId, Base, ErrorKind, KeyId, OrganisationId, Page, Spent, Tasks, Timestamp};
use bytes::Bytes;
use edge::{
    Begun, BoxFuture, Caller, Claims, Config, Created, Error, Event, Events, Form, FromOwnPage,
    Gate, Info, Json, Keyed, LastEventId, NoContent, Operation, PageBody, Paging, Path, Peer,
    Query, Router, Routes, SessionCookie, SessionToken, Sessions, State, Streams,
};
use futures::StreamExt;
use http_body_util::BodyExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tower::ServiceExt;

const READ: Action = Action("yard.read");
const WRITE: Action = Action("yard.write");

/// `madang_k1_good` may read everything and write `thing/mine`; `madang_k1_late` is too fast. `madang_s1_fresh` is an
/// app's, until the epoch is `STALE`.
struct Grants(watch::Sender<u64>);

const STALE: u64 = 7;

fn holder(subject: Subject) -> Principal {
    Principal { organisation: OrganisationId::DEFAULT, subject, name: "holder".into() }
}

impl Authority for Grants {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        key: &'a str,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(async move {
            match (key, secret) {
                ("k1", "good") => Ok(holder(Subject::Key(KeyId::fixed(1)))),
                ("s1", "fresh") if *self.0.borrow() != STALE => {
                    Ok(holder(Subject::Account(AccountId::fixed(2))))
                }
                ("k1", "late") => Err(Refused::TooMany),
                ("k1", "down") => Err(Refused::Unavailable),
                _ => Err(Refused::Unauthenticated),
            }
        })
    }

    fn authorize(
        &self,
        _: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        if action == READ || resource.path == "thing/mine" {
            return Ok(());
        }
        Err(Refused::Forbidden)
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        *self.0.borrow() != 1
    }
}

impl Sessions for Grants {
    fn session<'a>(&'a self, cookie: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(async move {
            if cookie != "baked" {
                return Err(Refused::Unauthenticated);
            }
            Ok(holder(Subject::Account(AccountId::fixed(2))))
        })
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Part {
    weight: f64,
}

#[derive(Deserialize, JsonSchema)]
struct Rectangle {
    left: f64,
    right: Option<f64>,
}

#[derive(Debug, thiserror::Error)]
#[error("sector 7 of disk 3")]
struct Broken;

async fn list(_: Caller, Paging(page): Paging) -> PageBody<u32> {
    let items = (0..5).take(page.limit).collect();
    Page { items, next: page.after }.into()
}

async fn make(Json(thing): Json<Thing>) -> edge::Result<Created<Thing>> {
    match thing.name.as_str() {
        "taken" => Err(Error::new(ErrorKind::AlreadyExists, "thing taken exists")),
        "broken" => Err(Error::of(ErrorKind::Internal, Broken)),
        "panic" => panic!("a defect"),
        _ => Ok(Created(thing)),
    }
}

async fn remove(State(limit): State<u32>, Path(name): Path<String>) -> edge::Result<NoContent> {
    if name.len() > limit as usize {
        return Err(Error::not_found(format!("no thing {name}")));
    }
    Ok(NoContent)
}

async fn area(Query(rectangle): Query<Rectangle>) -> Json<f64> {
    Json(rectangle.right.unwrap_or(0.0) - rectangle.left)
}

async fn measure(
    FromOwnPage(is_own): FromOwnPage,
    Form(rectangle): Form<Rectangle>,
) -> Json<(bool, f64)> {
    Json((is_own, rectangle.right.unwrap_or(0.0) - rectangle.left))
}

async fn me(caller: Caller, peer: Peer) -> Json<String> {
    Json(format!("{} {}", caller.principal.name, peer.0))
}

async fn greet(caller: Option<Caller>) -> Json<bool> {
    Json(caller.is_some())
}

async fn sign_out(token: SessionToken) -> (SessionCookie, NoContent) {
    assert_eq!(token.0.as_deref(), Some("baked"), "the gate let somebody else in");
    (SessionCookie::clear(), NoContent)
}

async fn slow() -> NoContent {
    std::future::pending().await
}

async fn events(streams: Streams, from: LastEventId) -> edge::Result<Events> {
    let start = from.0.and_then(|id| id.parse().ok()).unwrap_or(0);
    let counted = futures::stream::iter(start..start + 2).map(|number| Event {
        id: Some(number.to_string()),
        event: "tick",
        data: format!("{number}\n{number}"),
    });
    streams.open(counted.chain(futures::stream::pending()))
}

fn routes() -> Routes<u32> {
    Routes::new(8)
        .add(Operation::get("/v1/things").id("listThings").summary("Lists.").action(READ), list)
        .add(Operation::post("/v1/things").id("makeThing").summary("Makes.").public(), make)
        .add(
            Operation::delete("/v1/things/{name}")
                .id("removeThing")
                .summary("Removes.")
                .tag("things")
                .action(WRITE)
                .resource("thing/{name}"),
            remove,
        )
        .add(Operation::get("/v1/area").id("area").summary("Measures.").public(), area)
        .add(
            Operation::post("/v1/area").id("measure").summary("Measures.").public().any_query(),
            measure,
        )
        .add(Operation::get("/v1/me").id("me").summary("Says who.").signed_in(), me)
        .add(Operation::get("/v1/hi").id("hi").summary("Greets.").session_or_public(), greet)
        .add(
            Operation::get("/v1/open")
                .id("open")
                .summary("Greets pages of other origins too.")
                .session_or_public()
                .cross_origin(),
            greet,
        )
        .add(Operation::delete("/v1/session").id("signOut").summary("Ends.").session(), sign_out)
        .add(Operation::get("/v1/slow").id("slow").summary("Waits.").public(), slow)
        .add(Operation::get("/v1/events").id("events").summary("Tells.").action(READ), events)
        .add(
            Operation::get("/metrics").id("metrics").summary("Counts.").loopback_or(WRITE),
            || async { NoContent },
        )
        .describe(INFO)
}

/// Claims in memory.
#[derive(Default)]
struct Book(parking_lot::Mutex<HashMap<(Subject, &'static str, String), Entry>>);

/// One claim: its fingerprint, when it began, how it ended.
type Entry = ([u8; 32], Timestamp, Option<Bytes>);

impl Claims for Book {
    fn begin<'a>(&'a self, request: &'a Keyed) -> BoxFuture<'a, edge::Result<Begun>> {
        let place = (request.subject, request.operation, request.key.clone());
        let mut book = self.0.lock();
        let said = match book.get(&place) {
            None => {
                let claim = Timestamp::from_millis(0);
                book.insert(place, (request.fingerprint, claim, None));
                Begun::New { claim }
            }
            Some((fingerprint, ..)) if *fingerprint != request.fingerprint => Begun::Other,
            Some((_, since, None)) => Begun::Running { since: *since },
            Some((.., Some(outcome))) => Begun::Ended(outcome.clone()),
        };
        Box::pin(async { Ok(said) })
    }

    fn end<'a>(
        &'a self,
        request: &'a Keyed,
        _: Timestamp,
        outcome: Option<Bytes>,
    ) -> BoxFuture<'a, edge::Result<()>> {
        let place = (request.subject, request.operation, request.key.clone());
        match outcome {
            None => drop(self.0.lock().remove(&place)),
            outcome => self.0.lock().get_mut(&place).unwrap().2 = outcome,
        }
        Box::pin(async { Ok(()) })
    }
}

/// What the handlers under a key did, and a gate that one of them waits at.
#[derive(Clone, Default)]
struct Made(Arc<(AtomicU32, Notify)>);

impl Made {
    fn count(&self) -> u32 {
        self.0.0.load(Ordering::SeqCst)
    }
}

async fn make_once(State(made): State<Made>, Json(thing): Json<Thing>) -> edge::Result<Response> {
    let number = made.0.0.fetch_add(1, Ordering::SeqCst) + 1;
    let text = format!("{} {number}", thing.name);
    match thing.name.as_str() {
        "waits" => made.0.1.notified().await,
        "panic" => panic!("a defect"),
        "down" => return Err(Error::new(ErrorKind::Unavailable, "not now")),
        "busy" => return Err(Error::new(ErrorKind::TooMany, "too many")),
        "taken" => return Err(Error::new(ErrorKind::AlreadyExists, text)),
        "cookie" => return Ok(([(header::SET_COOKIE, "a=b")], text).into_response()),
        "stream" => {
            let pieces = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(text))]);
            return Ok(Body::from_stream(pieces).into_response());
        }
        "large" => return Ok("x".repeat(100_000).into_response()),
        _ => {}
    }
    Ok((StatusCode::CREATED, [(header::CONTENT_TYPE, "text/x-thing")], text).into_response())
}

fn once_routes(made: Made) -> Routes<Made> {
    let once = Operation::post("/v1/once").id("once").summary("Makes once.").tag("once");
    let secret = Operation::put("/v1/secret").id("secret").summary("Keeps none.").signed_in();
    Routes::new(made)
        .add(once.signed_in().returns::<String>(201), make_once)
        .add(secret.secret().returns::<String>(201), make_once)
}

const INFO: Info = Info { title: "Yard", version: "1", description: "" };

struct Yard {
    router: Router,
    base: Base,
    grants: Arc<Grants>,
    claims: Arc<Book>,
    made: Made,
}

fn yard() -> Yard {
    yard_with(Config { body_bytes_max: 1_000, streams_max: 2, ..Config::default() })
}

fn yard_with(config: Config) -> Yard {
    let base = Base::simulated(Timestamp::from_millis(0), 1);
    let grants = Arc::new(Grants(watch::Sender::new(0)));
    let claims = Arc::new(Book::default());
    let gate = Gate {
        authority: grants.clone(),
        sessions: grants.clone(),
        claims: Some(claims.clone()),
        config,
        base: base.clone(),
        handlers: base.tasks.clone(),
    };
    let made = Made::default();
    Yard {
        router: routes().join(once_routes(made.clone())).build(gate),
        base,
        grants,
        claims,
        made,
    }
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Asks in the short form `POST /v1/things`, then headers as `name: value`, then the body.
async fn ask(yard: &Yard, line: &str, headers: &[&str], body: impl Into<Body>) -> Answer {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri).header("host", "yard:80");
    for line in headers {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let response = yard.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Asks and expects a refusal in the one form that all refusals have.
async fn refused(yard: &Yard, status: u16, line: &str, headers: &[&str], body: &str) -> Value {
    let answer = ask(yard, line, headers, body.to_owned()).await;
    assert_eq!(answer.status, status, "{line} {headers:?} {body}: {}", answer.body);
    assert_eq!(answer.header("content-type"), "application/problem+json", "{line}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{line}");
    assert!(!answer.header("x-request-id").is_empty(), "{line}");
    assert_eq!(answer.header("www-authenticate").is_empty(), status != 401, "{line}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{line}");
    assert_eq!(problem["type"], "about:blank", "{line}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{line}");
    problem
}

const KEY: &str = "authorization: Bearer madang_k1_good";
const COOKIE: &str = "cookie: theme=dark; madang_session=baked";
const JSON: &str = "content-type: application/json";

#[tokio::test]
async fn nobody_passes_without_credentials_that_hold() {
    let yard = yard();
    for headers in [
        &[][..],
        &["authorization: Bearer madang_k1_bad"],
        &["authorization: Bearer madang_k1"],
        &["authorization: Bearer k1_good"],
        &["authorization: Basic azE6Z29vZA=="],
        &["authorization: Bearer"],
        &["cookie: madang_session=stale"],
        // A bad key is not made good by a cookie.
        &["authorization: Bearer madang_k1_bad", COOKIE],
    ] {
        for line in ["GET /v1/things", "DELETE /v1/things/mine", "GET /v1/me", "GET /v1/events"] {
            refused(&yard, 401, line, headers, "").await;
        }
        refused(&yard, 401, "GET /metrics", headers, "").await;
    }
    refused(&yard, 429, "GET /v1/me", &["authorization: Bearer madang_k1_late"], "").await;
    refused(&yard, 503, "GET /v1/me", &["authorization: Bearer madang_k1_down"], "").await;
    refused(&yard, 403, "DELETE /v1/session", &[KEY], "").await;

    assert_eq!(ask(&yard, "GET /v1/things", &[KEY], "").await.status, 200);
    assert_eq!(
        ask(&yard, "GET /v1/me", &["authorization: bearer madang_k1_good"], "").await.json(),
        "holder 0.0.0.0"
    );
    assert_eq!(ask(&yard, "GET /v1/me", &[COOKIE], "").await.status, 200);
}

#[tokio::test]
async fn the_resource_comes_from_the_path_and_cannot_reach_out_of_it() {
    let yard = yard();
    assert_eq!(ask(&yard, "DELETE /v1/things/mine", &[KEY], "").await.status, 204);
    refused(&yard, 403, "DELETE /v1/things/yours", &[KEY], "").await;
    for name in ["x%2F..%2Fmine", "mine%2Fx", "%2A", "mine%00"] {
        refused(&yard, 403, &format!("DELETE /v1/things/{name}"), &[KEY], "").await;
    }
    refused(&yard, 400, "DELETE /v1/things/%FF", &[KEY], "").await;
}

#[tokio::test]
async fn a_cookie_changes_things_only_from_its_own_origin() {
    let yard = yard();
    let line = "DELETE /v1/things/mine";
    for origin in [
        &[COOKIE][..],
        &[COOKIE, "origin: http://evil"],
        &[COOKIE, "origin: null"],
        &[COOKIE, "origin: http://yard:81"],
        &[COOKIE, "origin: http://yard:80", "sec-fetch-site: cross-site"],
        &[COOKIE, "origin: http://yard:80", "sec-fetch-site: same-site"],
    ] {
        refused(&yard, 403, line, origin, "").await;
    }
    for origin in ["origin: http://yard:80", "sec-fetch-site: same-origin", "sec-fetch-site: none"]
    {
        assert_eq!(ask(&yard, line, &[COOKIE, origin], "").await.status, 204, "{origin}");
    }
    // A key is not sent by itself, so it needs no origin.
    assert_eq!(ask(&yard, line, &[KEY, "origin: http://evil"], "").await.status, 204);

    let bye = ask(&yard, "DELETE /v1/session", &[COOKIE, "sec-fetch-site: same-origin"], "").await;
    assert_eq!(bye.status, 204);
    assert!(bye.header("set-cookie").starts_with("madang_session=; Path=/; HttpOnly"));
}

#[tokio::test]
async fn a_page_of_another_origin_acts_for_nobody_by_a_cookie() {
    let yard = yard();
    for foreign in [
        "origin: http://evil",
        "origin: null",
        "origin: http://yard:81",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        assert_eq!(ask(&yard, "GET /v1/open", &[COOKIE, foreign], "").await.json(), false);
        assert_eq!(ask(&yard, "GET /v1/open", &[KEY, foreign], "").await.json(), true, "{foreign}");
    }
    for own in [
        &[COOKIE][..],
        &[COOKIE, "origin: http://yard:80"],
        &[COOKIE, "sec-fetch-site: same-origin"],
        &[COOKIE, "sec-fetch-site: none"],
    ] {
        assert_eq!(ask(&yard, "GET /v1/open", own, "").await.json(), true, "{own:?}");
    }
}

#[tokio::test]
async fn an_optional_caller_is_never_refused() {
    let yard = yard();
    assert_eq!(ask(&yard, "GET /v1/hi", &[KEY], "").await.json(), true);
    assert_eq!(ask(&yard, "GET /v1/hi", &[], "").await.json(), false);
    assert_eq!(ask(&yard, "GET /v1/hi", &["cookie: madang_session=stale"], "").await.json(), false);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_problem_that_says_where() {
    let yard = yard();
    let line = "POST /v1/things";
    for (status, body, pointer) in [
        (400, "", ""),
        (400, "{", ""),
        (400, r#"{"name":"a"} x"#, ""),
        (422, "{}", ""),
        (422, r#"{"name":5}"#, "/name"),
        (422, r#"{"name":"a","nmae":1}"#, "/nmae"),
        (422, r#"{"name":"a","parts":[{"weight":1},{"weight":"x"}]}"#, "/parts/1/weight"),
        (422, "[]", ""),
        (422, "null", ""),
    ] {
        let problem = refused(&yard, status, line, &[JSON], body).await;
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    refused(&yard, 422, line, &[JSON], &"[".repeat(900)).await;
    refused(&yard, 415, line, &[], "{}").await;
    refused(&yard, 415, line, &["content-type: text/plain"], "{}").await;
    refused(&yard, 413, line, &[JSON], &" ".repeat(1_001)).await;
    refused(&yard, 413, line, &[JSON, "content-length: 1001"], "").await;
    // Without a length that was said before.
    let chunks = futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(" ".repeat(100))));
    let answer = ask(&yard, line, &[JSON], Body::from_stream(chunks)).await;
    assert_eq!(answer.status, 413);
    let answer =
        ask(&yard, line, &["content-type: application/json; charset=utf-8"], r#"{"name":"a"}"#)
            .await;
    assert_eq!((answer.status.as_u16(), answer.json()), (201, json!({"name":"a","parts":[]})));
}

#[tokio::test]
async fn queries_and_pages_are_checked() {
    let yard = yard();
    for query in
        ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=1&limit=2", "offset=3", "x"]
    {
        refused(&yard, 400, &format!("GET /v1/things?{query}"), &[KEY], "").await;
    }
    let page = ask(&yard, "GET /v1/things?limit=2&after=a%20b", &[KEY], "").await;
    assert_eq!(page.json(), json!({"items": [0, 1], "next": "a b"}));
    refused(&yard, 400, "GET /v1/area", &[], "").await;
    let problem = refused(&yard, 400, "GET /v1/area?left=1&up=2", &[], "").await;
    assert_eq!(problem["errors"][0]["pointer"], "up");
    assert_eq!(ask(&yard, "GET /v1/area?left=1&right=3", &[], "").await.json(), 2.0);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let yard = yard();
    refused(&yard, 404, "GET /v2/things", &[KEY], "").await;
    refused(&yard, 404, "GET /v1/things/", &[KEY], "").await;
    for method in ["PUT", "OPTIONS", "TRACE", "BREW"] {
        refused(&yard, 405, &format!("{method} /v1/things"), &[KEY], "").await;
    }
    let allow = ask(&yard, "PUT /v1/things", &[KEY], "").await;
    assert_eq!(allow.header("allow"), "GET,HEAD,POST");
    let head = ask(&yard, "HEAD /v1/things", &[KEY], "").await;
    assert_eq!((head.status.as_u16(), head.body.as_str()), (200, ""));
    let preflight = ask(
        &yard,
        "OPTIONS /v1/things",
        &["origin: http://evil", "access-control-request-method: GET"],
        "",
    )
    .await;
    assert_eq!(preflight.status, 405);
    assert!(!preflight.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_failure_of_the_server_shows_nothing_of_it() {
    let yard = yard();
    for name in ["broken", "panic"] {
        let body = format!(r#"{{"name":"{name}"}}"#);
        let problem = refused(&yard, 500, "POST /v1/things", &[JSON], &body).await;
        assert_eq!(problem["detail"], "the server failed; see its log");
    }
    refused(&yard, 409, "POST /v1/things", &[JSON], r#"{"name":"taken"}"#).await;
    let metrics = yard.base.metrics.text();
    assert!(metrics.contains("madang_http_panics_total 1"), "{metrics}");
    assert!(
        metrics.contains(r#"http_requests_total{operation="makeThing",status="5xx"} 2"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn every_kind_of_error_has_its_status() {
    use axum::response::IntoResponse;
    for (kind, status) in [
        (ErrorKind::NotFound, 404),
        (ErrorKind::AlreadyExists, 409),
        (ErrorKind::Invalid, 422),
        (ErrorKind::Unauthenticated, 401),
        (ErrorKind::Forbidden, 403),
        (ErrorKind::Conflict, 409),
        (ErrorKind::TooMany, 429),
        (ErrorKind::Unavailable, 503),
        (ErrorKind::Internal, 500),
    ] {
        let response = Error::of(kind, Broken).into_response();
        assert_eq!(response.status(), status, "{kind:?}");
        let waits = matches!(kind, ErrorKind::TooMany | ErrorKind::Unavailable);
        assert_eq!(response.headers().contains_key(header::RETRY_AFTER), waits, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_too_long_is_given_up() {
    let yard = yard();
    let problem = refused(&yard, 503, "GET /v1/slow", &[], "").await;
    assert_eq!(problem["detail"], "the answer took too long to begin");
    let stalled = Body::from_stream(futures::stream::pending::<Result<String, std::io::Error>>());
    let answer = ask(&yard, "POST /v1/things", &[JSON], stalled).await;
    assert_eq!(answer.status, 408);
}

#[tokio::test(start_paused = true)]
async fn requests_over_the_limit_are_turned_away_and_not_queued() {
    let yard = yard_with(Config { requests_max: 1, ..Config::default() });
    let (first, second) =
        tokio::join!(ask(&yard, "GET /v1/slow", &[], ""), ask(&yard, "GET /v1/hi", &[], ""));
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (503, 503));
    assert!(second.body.contains("too many requests"), "{}", second.body);
    assert_eq!(ask(&yard, "GET /v1/hi", &[], "").await.status, 200);
}

#[tokio::test]
async fn metrics_are_open_on_this_machine_only() {
    let yard = yard();
    let with = async |host: &str, peer: &str, more: Option<(&str, &str)>| {
        let mut request = Request::get("/metrics").header("host", host);
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        yard.router.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(with("localhost:8080", "127.0.0.1", None).await, 204);
    assert_eq!(with("[::1]:8080", "::ffff:127.0.0.1", None).await, 204);
    assert_eq!(with("localhost", "10.0.0.9", None).await, 401);
    for of_a_proxy in ["x-forwarded-for", "x-forwarded-proto", "forwarded", "via", "x-real-ip"] {
        assert_eq!(with("localhost", "127.0.0.1", Some((of_a_proxy, "10.0.0.1"))).await, 401);
    }
    // A browser on this machine shows pages of everybody.
    for (origin, status) in [
        ("http://localhost:3000", 204),
        ("http://[::1]:3000", 204),
        ("http://127.0.0.1.evil", 401),
        ("https://evil", 401),
        ("null", 401),
        ("://", 401),
    ] {
        let origin = Some(("origin", origin));
        assert_eq!(with("localhost", "127.0.0.1", origin).await, status, "{origin:?}");
    }
    let old = Request::get("/metrics").version(Version::HTTP_10).header("host", "localhost");
    let mut old = old.body(Body::empty()).unwrap();
    old.extensions_mut().insert(Peer("127.0.0.1".parse().unwrap()));
    assert_eq!(yard.router.clone().oneshot(old).await.unwrap().status().as_u16(), 401);
    assert_eq!(with("rebound.evil", "127.0.0.1", None).await, 401);
}

#[tokio::test]
async fn a_request_keeps_the_id_that_it_came_with_when_it_is_harmless() {
    let yard = yard();
    let kept = ask(&yard, "GET /v1/hi", &["x-request-id: abc-1"], "").await;
    assert_eq!(kept.header("x-request-id"), "abc-1");
    for bad in ["x-request-id: a b", "x-request-id: {\"a\":1}"] {
        let made = ask(&yard, "GET /v1/hi", &[bad], "").await;
        assert_eq!(made.header("x-request-id").len(), 16);
    }
}

#[tokio::test]
async fn cookies_are_secure_when_asked() {
    let yard = yard_with(Config { cookie_secure: true, ..Config::default() });
    let bye = ask(&yard, "DELETE /v1/session", &[COOKIE, "origin: http://yard:80"], "").await;
    assert!(bye.header("set-cookie").ends_with("; Secure"), "{}", bye.header("set-cookie"));
}

/// Opens `/v1/events` and gives its body.
async fn open_events(yard: &Yard, last: Option<&str>) -> (u16, Body) {
    open_events_with(yard, "madang_k1_good", last).await
}

async fn open_events_with(yard: &Yard, token: &str, last: Option<&str>) -> (u16, Body) {
    let mut request = Request::get("/v1/events").header("authorization", format!("Bearer {token}"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = yard.router.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), response.into_body())
}

async fn next_text(body: &mut Body) -> Option<String> {
    let data = body.frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_keeps_alive_and_ends_at_shutdown() {
    let yard = yard();
    let (status, mut body) = open_events(&yard, Some("41")).await;
    assert_eq!(status, 200);
    let first = next_text(&mut body).await.unwrap();
    assert_eq!(first, "event: tick\nid: 41\ndata: 41\ndata: 41\n\n");
    next_text(&mut body).await.unwrap();
    assert_eq!(next_text(&mut body).await.unwrap(), ":\n\n", "a comment after a silence");
    assert!(yard.base.metrics.text().contains("madang_http_streams 1"));
    yard.base.tasks.stop(Duration::from_secs(1)).await;
    assert_eq!(next_text(&mut body).await, None);
    drop(body);
    assert!(yard.base.metrics.text().contains("madang_http_streams 0"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_key_is_revoked_and_streams_are_counted() {
    let yard = yard();
    let (_, mut first) = open_events(&yard, None).await;
    let (_, second) = open_events(&yard, None).await;
    assert_eq!(open_events(&yard, None).await.0, 503, "the limit is two");
    drop(second);
    assert_eq!(open_events(&yard, None).await.0, 200);
    next_text(&mut first).await.unwrap();
    next_text(&mut first).await.unwrap();
    yard.grants.0.send_replace(1);
    assert_eq!(next_text(&mut first).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_token_does_though_nobody_says_so() {
    let yard = yard();
    let (status, mut body) = open_events_with(&yard, "madang_s1_fresh", None).await;
    assert_eq!(status, 200);
    next_text(&mut body).await.unwrap();
    next_text(&mut body).await.unwrap();
    yard.grants.0.send_if_modified(|epoch| {
        *epoch = STALE;
        false
    });
    let ended = tokio::time::timeout(Duration::from_millis(1_500), next_text(&mut body)).await;
    assert_eq!(ended.unwrap(), None);
}

#[tokio::test]
async fn an_app_s_token_is_a_person_s_and_needs_no_origin() {
    let yard = yard();
    let token = "authorization: Bearer madang_s1_fresh";
    refused(&yard, 403, "DELETE /v1/session", &[KEY], "").await;
    let evil = "origin: http://evil";
    assert_eq!(ask(&yard, "DELETE /v1/session", &[token, evil, COOKIE], "").await.status, 204);
    refused(&yard, 401, "DELETE /v1/session", &["authorization: Bearer madang_s1_x"], "").await;
}

#[tokio::test]
async fn the_document_names_every_operation_its_inputs_and_its_refusals() {
    let yard = yard();
    let document = ask(&yard, "GET /openapi.json", &[], "").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let operations =
        routes().operations().map(Operation::id).map(str::to_owned).collect::<Vec<_>>();
    let mut written = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            written.push(operation["operationId"].as_str().unwrap().to_owned());
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.keys().any(|status| status.starts_with('2')) || path == "/metrics",
                "{method} {path}"
            );
            for status in ["400", "413", "500", "503", "default"] {
                assert_eq!(responses[status]["$ref"], "#/components/responses/Problem");
            }
            let is_guarded = operation["security"][0].get("bearer").is_some();
            assert!(!is_guarded || responses.contains_key("401"), "{path}");
        }
    }
    written.sort();
    let mut operations = operations;
    operations.sort();
    assert_eq!(written, operations);

    let make = &document["paths"]["/v1/things"]["post"];
    let body = &make["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["$ref"], "#/components/schemas/Thing");
    let thing = &document["components"]["schemas"]["Thing"];
    assert_eq!(thing["additionalProperties"], false);
    assert_eq!(thing["properties"]["parts"]["items"]["$ref"], "#/components/schemas/Part");
    let list = &document["paths"]["/v1/things"]["get"];
    assert_eq!(list["parameters"][0]["name"], "limit");
    assert_eq!(list["x-action"], "yard.read");
    let remove = &document["paths"]["/v1/things/{name}"]["delete"]["parameters"][0];
    assert_eq!(
        *remove,
        json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}})
    );
    let left = &document["paths"]["/v1/area"]["get"]["parameters"][0];
    assert_eq!((&left["name"], &left["required"]), (&json!("left"), &json!(true)));
    let events = &document["paths"]["/v1/events"]["get"];
    assert!(events["responses"]["200"]["content"]["text/event-stream"].is_object());
    assert_eq!(events["parameters"][0]["name"], "Last-Event-ID");
    // Every reference has its target.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn durations_are_written_as_people_write_them() {
    let config: Config = serde_json::from_value(json!({"request_time_max": "90s"})).unwrap();
    assert_eq!(config.request_time_max, Duration::from_secs(90));
    assert!(serde_json::from_value::<Config>(json!({"request_tmie_max": "90s"})).is_err());
}

const ONCE: &str = "POST /v1/once";
const FIRST: &str = "idempotency-key: first";

fn thing(name: &str) -> String {
    json!({ "name": name }).to_string()
}

#[tokio::test]
async fn a_request_sent_again_under_its_key_is_answered_as_the_first_time() {
    let yard = yard();
    let first = ask(&yard, ONCE, &[KEY, JSON, FIRST], thing("a")).await;
    assert_eq!((first.status, &*first.body), (StatusCode::CREATED, "a 1"));
    assert_eq!(first.header("idempotency-replayed"), "");
    // A quoted key is the same key.
    for again in [FIRST, "idempotency-key: \"first\""] {
        let again = ask(&yard, ONCE, &[KEY, JSON, again], thing("a")).await;
        assert_eq!((again.status, &*again.body), (StatusCode::CREATED, "a 1"));
        assert_eq!(again.header("content-type"), "text/x-thing");
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    let without = ask(&yard, ONCE, &[KEY, JSON], thing("a")).await;
    assert_eq!(without.body, "a 2");
    let another = ask(&yard, ONCE, &[KEY, JSON, "idempotency-key: second"], thing("a")).await;
    assert_eq!(another.body, "a 3");
    let someone = [COOKIE, "sec-fetch-site: same-origin", JSON, FIRST];
    assert_eq!(ask(&yard, ONCE, &someone, thing("a")).await.body, "a 4", "another subject");
    refused(&yard, 401, ONCE, &[JSON, FIRST], &thing("a")).await;
    assert_eq!(yard.made.count(), 4);
}

#[tokio::test]
async fn another_request_under_a_used_key_is_refused() {
    let yard = yard();
    ask(&yard, ONCE, &[KEY, JSON, FIRST], thing("a")).await;
    let problem = refused(&yard, 422, ONCE, &[KEY, JSON, FIRST], &thing("b")).await;
    assert_eq!(problem["errors"][0]["pointer"], "Idempotency-Key");
    assert_eq!(yard.made.count(), 1);
}

#[tokio::test]
async fn refusals_are_repeated_and_what_did_nothing_may_be_tried_again() {
    let yard = yard();
    for _ in 0..2 {
        let problem = refused(&yard, 409, ONCE, &[KEY, JSON, FIRST], &thing("taken")).await;
        assert_eq!(problem["detail"], "taken 1");
    }
    let second = "idempotency-key: second";
    for count in [2, 3] {
        refused(&yard, 429, ONCE, &[KEY, JSON, second], &thing("busy")).await;
        assert_eq!(yard.made.count(), count);
    }
}

#[tokio::test]
async fn one_caller_does_not_use_up_what_all_are_remembered_by() {
    let window = Duration::from_mins(10);
    let yard = yard_with(Config {
        keyed_requests_per_caller_max: 2,
        keyed_requests_window: window,
        ..Config::default()
    });
    let used = |number: u32| format!("idempotency-key: k{number}");
    for number in [1, 2] {
        let answer = ask(&yard, ONCE, &[KEY, JSON, &used(number)], thing("a")).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        // Neither the same request again nor one that did nothing counts.
        ask(&yard, ONCE, &[KEY, JSON, &used(1)], thing("a")).await;
        ask(&yard, ONCE, &[KEY, JSON, &used(9)], thing("busy")).await;
    }
    let refused = ask(&yard, ONCE, &[KEY, JSON, &used(3)], thing("a")).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.body);
    assert_eq!(refused.header("retry-after"), "600");
    let someone = [COOKIE, "sec-fetch-site: same-origin", JSON, &*used(3)];
    let answer = ask(&yard, ONCE, &someone, thing("a")).await;
    assert_eq!(answer.status, StatusCode::CREATED, "another caller");
    yard.base.clock.advance(window);
    let answer = ask(&yard, ONCE, &[KEY, JSON, &used(3)], thing("a")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
}

#[tokio::test]
async fn what_may_have_had_its_effect_is_not_run_again() {
    let yard = yard();
    for (number, (name, status)) in [("down", 503), ("panic", 500)].into_iter().enumerate() {
        let key = format!("idempotency-key: {name}");
        refused(&yard, status, ONCE, &[KEY, JSON, &key], &thing(name)).await;
        let problem = refused(&yard, 409, ONCE, &[KEY, JSON, &key], &thing(name)).await;
        assert!(problem["detail"].as_str().unwrap().contains("not known"), "{problem}");
        assert_eq!(yard.made.count(), u32::try_from(number).unwrap() + 1);
    }
    assert!(yard.base.metrics.text().contains("madang_http_panics_total 1"));
}

#[tokio::test]
async fn answers_that_cannot_be_kept_are_given_once() {
    let yard = yard();
    for (number, name) in ["cookie", "stream", "large"].into_iter().enumerate() {
        let key = format!("idempotency-key: {name}");
        let first = ask(&yard, ONCE, &[KEY, JSON, &key], thing(name)).await;
        assert_eq!(first.status, StatusCode::OK);
        assert!(!first.body.is_empty());
        let problem = refused(&yard, 409, ONCE, &[KEY, JSON, &key], &thing(name)).await;
        assert!(problem["detail"].as_str().unwrap().contains("answered with 200"), "{problem}");
        assert_eq!(yard.made.count(), u32::try_from(number).unwrap() + 1);
    }
    for (.., outcome) in yard.claims.0.lock().values() {
        assert!(outcome.as_ref().unwrap().len() < 100);
    }
}

#[tokio::test]
async fn a_run_goes_on_when_its_caller_leaves_and_others_wait_for_its_end() {
    let yard = yard();
    let first = ask(&yard, ONCE, &[KEY, JSON, FIRST], thing("waits"));
    let has_begun = async {
        while yard.made.count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = first => unreachable!("it waits"),
        () = has_begun => {}
    }
    let problem = refused(&yard, 409, ONCE, &[KEY, JSON, FIRST], &thing("waits")).await;
    assert!(problem["detail"].as_str().unwrap().contains("being worked on"), "{problem}");
    // When it should have ended long ago, nobody can say.
    yard.base.clock.advance(Duration::from_mins(2));
    let problem = refused(&yard, 409, ONCE, &[KEY, JSON, FIRST], &thing("waits")).await;
    assert!(problem["detail"].as_str().unwrap().contains("not known"), "{problem}");
    yard.made.0.1.notify_one();
    let answer = loop {
        let answer = ask(&yard, ONCE, &[KEY, JSON, FIRST], thing("waits")).await;
        if answer.status != StatusCode::CONFLICT {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((answer.status, &*answer.body), (StatusCode::CREATED, "waits 1"));
    assert_eq!(yard.made.count(), 1);
}

#[tokio::test]
async fn a_key_is_refused_where_it_means_nothing_and_when_it_is_none() {
    let yard = yard();
    let long = format!("idempotency-key: {}", "k".repeat(256));
    for key in ["idempotency-key: ", "idempotency-key: a b", "idempotency-key: \"a", &long] {
        refused(&yard, 400, ONCE, &[KEY, JSON, key], &thing("a")).await;
    }
    refused(&yard, 400, ONCE, &[KEY, JSON, FIRST, "idempotency-key: two"], &thing("a")).await;
    refused(&yard, 400, "PUT /v1/secret", &[KEY, JSON, FIRST], &thing("a")).await;
    refused(&yard, 400, "POST /v1/things", &[JSON, FIRST], &thing("a")).await;
    assert_eq!(ask(&yard, "GET /v1/things", &[KEY, FIRST], "").await.status, StatusCode::OK);
    assert_eq!(yard.made.count(), 0);
}

#[test]
fn the_document_says_which_operations_take_a_key() {
    let document = once_routes(Made::default()).join(routes()).document(INFO);
    let takes = |path: &str, method: &str| {
        let parameters = document["paths"][path][method]["parameters"].as_array();
        parameters.is_some_and(|all| all.iter().any(|it| it["name"] == "Idempotency-Key"))
    };
    assert!(takes("/v1/once", "post") && takes("/v1/things/{name}", "delete"));
    assert!(
        !takes("/v1/secret", "put") && !takes("/v1/things", "get") && !takes("/v1/things", "post")
    );
    assert!(document["paths"]["/v1/once"]["post"]["responses"]["409"].is_object());
}

/// Computes until told, as a handler with an endless loop does.
async fn spin(State(go): State<Arc<std::sync::Barrier>>) -> NoContent {
    go.wait();
    NoContent
}

async fn asks_rows() -> NoContent {
    Spent::current().unwrap().add_statements(4);
    NoContent
}

fn public_gate(base: &Base, handlers: Tasks) -> Gate {
    let grants = Arc::new(Grants(watch::Sender::new(0)));
    Gate {
        authority: grants.clone(),
        sessions: grants,
        claims: None,
        config: Config { request_told_after: Duration::ZERO, ..Config::default() },
        base: base.clone(),
        handlers,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_handler_that_does_not_let_go_is_named_and_holds_up_no_door() {
    let handlers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let base = Base::system();
    let go = Arc::new(std::sync::Barrier::new(2));
    let door = Operation::get("/door").id("door").summary("Is quick.").public().at_the_door();
    let router = Routes::new(go.clone())
        .add(Operation::get("/spin").id("spin").summary("Spins.").public(), spin)
        .add(door, || async { NoContent })
        .build(public_gate(&base, base.tasks.on(handlers.handle())));
    let request = |path: &str| {
        let request = Request::get(path).header("x-request-id", "r7").body(Body::empty()).unwrap();
        router.clone().oneshot(request)
    };
    let spinning = base.tasks.spawn("asker", request("/spin"));
    while base.watch.stuck().first().is_none_or(|stuck| !stuck.name.contains("/spin")) {
        tokio::task::yield_now().await;
    }
    let named = base.watch.stuck().remove(0);
    assert_eq!((named.what, named.name.as_str()), ("request", "GET /spin (spin)"));
    assert_eq!(named.id.as_deref(), Some("r7"));
    assert_eq!(request("/door").await.unwrap().status(), StatusCode::NO_CONTENT);
    tokio::task::block_in_place(|| go.wait());
    let answer = spinning.await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    drop(answer);
    assert!(base.watch.stuck().is_empty(), "{:?}", base.watch.stuck());
    handlers.shutdown_background();
}

#[tokio::test]
async fn an_answer_says_what_its_request_asked_of_the_rows() {
    let base = Base::system();
    let router = Routes::new(())
        .add(Operation::get("/asks").id("asks").summary("Asks.").public(), asks_rows)
        .build(public_gate(&base, base.tasks.clone()));
    let request = Request::get("/asks").body(Body::empty()).unwrap();
    let answer = router.oneshot(request).await.unwrap();
    assert_eq!(answer.extensions().get::<Spent>().unwrap().statements(), 4);
    let text = base.metrics.text();
    let sum = "madang_http_request_statements_sum{operation=\"asks\"} 4";
    assert!(text.contains(sum), "{text}");
}

#[tokio::test]
async fn a_form_is_read_as_pages_send_it_and_says_whose_page_it_is_of() {
    const KIND: &str = "content-type: application/x-www-form-urlencoded;charset=utf-8";
    let yard = yard();
    let own = [KIND, "sec-fetch-site: same-origin"];
    let sent = "left=1&right=3.5&unknown=a+b%26";
    let answer = ask(&yard, "POST /v1/area?what=else", &own, sent).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!([true, 2.5])));
    for (other, is_own) in [
        ("sec-fetch-site: cross-site", false),
        ("origin: null", false),
        ("origin: http://elsewhere", false),
        ("origin: http://yard:80", true),
    ] {
        let answer = ask(&yard, "POST /v1/area", &[KIND, other], sent).await;
        assert_eq!(answer.json()[0], is_own, "{other}");
    }
    let wrong = ask(&yard, "POST /v1/area", &["content-type: application/json"], sent).await;
    assert_eq!(wrong.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for broken in ["left=1&left=2", "left=x", "right=1", ""] {
        let answer = ask(&yard, "POST /v1/area", &own, broken).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{broken}");
    }
    let long = format!("left=1&pad={}", "x".repeat(2_000));
    let answer = ask(&yard, "POST /v1/area", &own, long).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let document = ask(&yard, "GET /openapi.json", &[], "").await.json();
    let content = &document["paths"]["/v1/area"]["post"]["requestBody"]["content"];
    assert!(content["application/x-www-form-urlencoded"]["schema"].is_object(), "{content}");
}
