//! Through the routes, on embedded rows and accounts of identity.

mod cards;
mod native;
mod people;
mod reader;
mod reads;
mod search;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use base::access::{Authority, Principal, Refused};
use base::{Base, Spent};
use edge::{BoxFuture, Gate, Peer, Router, Sessions};
use http_body_util::BodyExt;
use identity::{Entered, Holds, Identity, Visitor};
use kv::Kv;
use relational::Db;
use results::Results;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{Articles, Config, Needs};

const NOW: &str = "2026-11-21T00:00:00Z";

/// Chance must differ from one start to the next, as it does in life.
static STARTS: AtomicU64 = AtomicU64::new(1);

struct Stack {
    _dir: TempDir,
    base: Base,
    identity: Identity,
    articles: Articles,
    router: Router,
}

struct NoCookies;

impl Sessions for NoCookies {
    fn session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(std::future::ready(Err(Refused::Unauthenticated)))
    }
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Value,
    statements: u64,
}

impl Stack {
    async fn start() -> Self {
        Self::with(Config { sign_up: crate::SignUp::Open, ..Config::default() }).await
    }

    async fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let seed = STARTS.fetch_add(1, Ordering::Relaxed);
        let base = Base::simulated(NOW.parse().unwrap(), seed);
        let rows = relational::Config {
            path: dir.path().join("rows.db"),
            ..relational::Config::default()
        };
        let db = Db::open(rows, &base).await.unwrap();
        let accounts = identity::Config {
            key_file: dir.path().join("identity.key"),
            removed_file: dir.path().join("removed"),
            hash_memory_kib: 8,
            hash_passes: 1,
            sign_ups_per_address_max: 1_000,
            ..identity::Config::default()
        };
        let needs = identity::Needs::default();
        let identity = Identity::open(accounts, &base, db.clone(), needs).await.unwrap();
        let kv = Kv::for_rooms(kv::Config::default(), &base, &dir.path().join("kv")).await.unwrap();
        let results =
            Results::open_alone(results::Config::default(), &base, &db, &kv).await.unwrap();
        let authority: Arc<dyn Authority> = Arc::new(identity.clone());
        let articles =
            Articles::open(config, &base, Needs { db, identity: identity.clone(), results })
                .await
                .unwrap();
        let gate = Gate {
            authority,
            sessions: Arc::new(NoCookies),
            claims: None,
            config: edge::Config::default(),
            base: base.clone(),
            handlers: base.tasks.clone(),
        };
        let router = articles.routes().build(gate);
        Self { _dir: dir, base, identity, articles, router }
    }

    async fn ask(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.ask_with(token, method, path, body, &[]).await
    }

    #[expect(clippy::too_many_arguments, reason = "a request has so many parts")]
    async fn ask_with(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(header::HeaderName, &str)],
    ) -> Answer {
        // Time goes on between any two requests.
        self.base.clock.advance(Duration::from_millis(2));
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Token {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Peer("192.0.2.1".parse().unwrap()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let statements = response.extensions().get::<Spent>().unwrap().statements();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status, headers: parts.headers, body, statements }
    }

    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "a request has so many parts")]
    fn expect(
        &self,
        status: u16,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> impl Future<Output = Value> {
        let (asked, place) = (format!("{method} {path}"), std::panic::Location::caller());
        let (token, path) = (token.to_owned(), path.to_owned());
        async move {
            let answer = self.ask(&token, method, &path, body).await;
            assert_eq!(answer.status, status, "{asked} at {place}: {}", answer.body);
            answer.body
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.expect(200, "", Method::GET, path, None).await
    }

    /// The token of the administrator of the first start.
    async fn admin(&self) -> String {
        let link = self.identity.administrator_link().await.unwrap().unwrap();
        let visitor = Visitor::from(IpAddr::from([192, 0, 2, 2]));
        match self.identity.redeem_link(&visitor, &link, Holds::Bearer).await.unwrap() {
            Entered::In(session) => session.access.unwrap().text,
            Entered::Second(_) => panic!("there is no second factor"),
        }
    }

    /// Makes an account and gives its token.
    async fn register(&self, name: &str) -> String {
        let user = json!({"user": {
            "username": name, "email": format!("{name}@example.com"), "password": "password123",
        }});
        let made = self.expect(201, "", Method::POST, "/conduit/api/users", Some(user)).await;
        made["user"]["token"].as_str().unwrap().to_owned()
    }

    /// Publishes an article and gives its slug.
    async fn publish(&self, token: &str, title: &str, body: &str, tags: &[&str]) -> String {
        let article = json!({"article": {
            "title": title, "description": "d", "body": body, "tagList": tags,
        }});
        let path = "/conduit/api/articles";
        let made = self.expect(201, token, Method::POST, path, Some(article)).await;
        made["article"]["slug"].as_str().unwrap().to_owned()
    }
}
