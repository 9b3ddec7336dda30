use axum::body::Body;
use axum::http::Request;
use axum::http::request::Builder;
use base::{OrganisationId, Spent};
use delivery::OutgoingMail;
use identity::{Grant, NewKey};
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::adapters::BrowserSessions;
use crate::wiring;

#[test]
fn the_kept_openapi_document_is_the_one_of_the_code() {
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let kept = std::fs::read_to_string(kept).unwrap();
    let made = openapi_document().unwrap();
    assert!(kept == made, "docs/openapi.json is old: run `cargo xtask openapi`");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_asks_of_the_rows_does_not_grow_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = crate::config::Settings::default();
    let place = folder.path().display().to_string();
    settings.set(&["data_dir"], toml::Value::String(place)).unwrap();
    let base = Base::system();
    let bases = Bases { io: base.clone(), handlers: base.clone() };
    let rooms = wiring::open(&settings.config().unwrap(), None, &bases, None).await.unwrap();
    let doors = rooms.doors;
    let identity = Arc::new(doors.identity.clone());
    let sessions = Arc::new(BrowserSessions(doors.identity.clone()));
    let router = doors.router(identity, sessions, edge::Config::default());
    let new = NewKey { label: "test".into(), grants: vec![Grant::new("*", "*")] };
    let token = doors.identity.ensure_key(OrganisationId::DEFAULT, new).await.unwrap().token;
    let ask = async |request: Builder, body: Body| {
        let request = request.header("authorization", format!("Bearer {token}"));
        router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    };
    let statements = async |path: &str| {
        let answer = ask(Request::get(path), Body::empty()).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.extensions().get::<Spent>().unwrap().statements()
    };
    let mut before = Vec::new();
    for rows in [1, 40] {
        for number in 0..rows {
            let grants = json!([{"action": "readings.read", "resource": "*"}]);
            let key = json!({"label": format!("{rows} {number}"), "grants": grants}).to_string();
            let request = Request::post("/v1/keys").header("content-type", "application/json");
            assert_eq!(ask(request, key.into()).await.status(), 201);
            let mail = OutgoingMail {
                organisation: OrganisationId::DEFAULT,
                to: "ops@example.com".parse().unwrap(),
                subject: "hot".into(),
                body_text: "hot".into(),
                idempotency_key: format!("{rows} {number}"),
            };
            let delivery = doors.delivery.clone();
            let write =
                async move |tx: &mut relational::Tx| delivery.enqueue(tx, mail.clone()).await;
            doors.db.write(write).await.unwrap();
        }
        // The first request of an organisation loads what is kept in memory.
        statements("/v1/overview").await;
        let mut asked = Vec::new();
        for path in [
            "/v1/keys",
            "/v1/audit",
            "/v1/messages",
            "/v1/overview",
            "/v1/dead-letters",
            "/v1/sockets/queues",
            "/readyz",
        ] {
            asked.push((path, statements(path).await));
        }
        assert!(asked.iter().all(|(_, statements)| (1..=5).contains(statements)), "{asked:?}");
        assert!(before.is_empty() || before == asked, "{before:?} became {asked:?}");
        before = asked;
    }
    base.tasks.stop(std::time::Duration::from_secs(5)).await;
}
