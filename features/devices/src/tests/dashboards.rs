//! Dashboards: documents with a name and a version.

use super::*;

fn document(charts: &Value) -> Value {
    json!({"title": "Roofs", "hours": 24, "charts": charts})
}

fn line(device: &str) -> Value {
    json!({"device": device, "sensor": "weather", "value": "temp", "label": null, "show": "max"})
}

fn chart(lines: &Value) -> Value {
    json!({"title": null, "is_wide": true, "lines": lines})
}

impl Stack {
    async fn write(&self, name: &str, version: Value, document: &Value) -> (StatusCode, Value) {
        let body = json!({"version": version, "document": document});
        self.request("admin", Method::PUT, &format!("/v1/dashboards/{name}"), Some(&body)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dashboard_is_a_document_with_a_version() {
    let stack = Stack::start().await;
    let first = document(&json!([chart(&json!([line("EWR"), line("JFK")]))]));
    let (status, made) = stack.write("roofs", json!(0), &first).await;
    assert_eq!((status, &made["document"], &made["version"]), (StatusCode::OK, &first, &json!(1)));
    assert_eq!((&made["name"], &made["created"]), (&json!("roofs"), &json!(NOW)));
    // Somebody else was first, or has changed it since.
    let next = document(&json!([]));
    assert_eq!(stack.write("roofs", json!(0), &next).await.0, StatusCode::CONFLICT);
    assert_eq!(stack.write("roofs", json!(7), &next).await.0, StatusCode::CONFLICT);
    assert_eq!(stack.write("cellars", json!(1), &next).await.0, StatusCode::NOT_FOUND);
    let (status, changed) = stack.write("roofs", json!(1), &next).await;
    assert_eq!((status, &changed["version"]), (StatusCode::OK, &json!(2)));
    assert_eq!(stack.write("roofs", Value::Null, &first).await.1["version"], 3);
    stack.write("attics", json!(0), &next).await;

    let stack = stack.restart().await;
    let read = stack.get("/v1/dashboards/roofs").await;
    assert_eq!((&read["document"], &read["version"]), (&first, &json!(3)));
    let page = stack.get("/v1/dashboards?limit=1").await;
    assert_eq!(page["items"][0]["name"], "attics");
    let after = page["next"].as_str().unwrap();
    let page = stack.get(&format!("/v1/dashboards?limit=1&after={after}")).await;
    assert_eq!((&page["items"][0]["name"], &page["next"]), (&json!("roofs"), &Value::Null));
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/dashboards/roofs", None).await;
    stack.expect(StatusCode::NOT_FOUND, Method::DELETE, "/v1/dashboards/roofs", None).await;
    stack.expect(StatusCode::NOT_FOUND, Method::GET, "/v1/dashboards/roofs", None).await;
    // Its name is free again.
    assert_eq!(stack.write("roofs", json!(0), &next).await.1["version"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dashboard_that_does_not_fit_is_refused_with_its_place() {
    let config = Config { dashboards_max: 1, ..Config::default() };
    let stack = Stack::with(config).await;
    let many = vec![line("EWR"); 13];
    let long = "x".repeat(129);
    let charts = json!([
        chart(&json!([])),
        chart(&json!(many)),
        chart(&json!([line("a/b")])),
        json!({"title": long, "lines": [line("EWR")]}),
    ]);
    let (status, problem) = stack
        .write("roofs", Value::Null, &json!({"title": " ", "hours": 0, "charts": charts}))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let faults = problem["errors"].as_array().unwrap().iter();
    let places: Vec<&str> = faults.map(|fault| fault["pointer"].as_str().unwrap()).collect();
    let wanted = [
        "/document/title",
        "/document/hours",
        "/document/charts/0/lines",
        "/document/charts/1/lines",
        "/document/charts/2/lines/0/device",
        "/document/charts/3/title",
    ];
    assert_eq!(places, wanted);
    let long = json!(vec![chart(&json!(vec![line(&"x".repeat(128)); 12])); 40]);
    let (status, problem) = stack.write("roofs", Value::Null, &document(&long)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(stack.write("a*", Value::Null, &document(&json!([]))).await.0, 422);
    assert_eq!(stack.write("roofs", Value::Null, &document(&json!([]))).await.0, StatusCode::OK);
    let (status, problem) = stack.write("cellars", json!(0), &document(&json!([]))).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{problem}");
    // One that is there can be changed all the same.
    assert_eq!(stack.write("roofs", json!(1), &document(&json!([]))).await.0, StatusCode::OK);
}
