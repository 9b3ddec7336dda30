//! What went wrong in an earlier platform of this kind, one test for each that a test can show here; the
//! inverted time filter and the swallowed first alert stand beside `rule.rs`.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_processed_at_a_restart_is_processed_after_it() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    stack.devices.house.hook.arm(Step::Fetched);
    stack.stored("EWR", &[reading(0, 95.0), reading(1, 96.0)]).await;
    stack.devices.house.hook.reached().await;
    assert_eq!(stack.alerts().await.len(), 0);
    let stack = stack.restart().await;
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 2);
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_rule_channel_drops_nothing() {
    // There is no such channel: rules read the log, at their own pace.
    let config = Config { batch_readings_max: 50, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    let payloads: Vec<Vec<u8>> = (0..1_000)
        .map(|n| reading(n, if n % 3 == 0 { 95.0 } else { 5.0 }).to_string().into_bytes())
        .collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    fleet.take(&principal("admin"), "EWR", &payloads).await.unwrap();
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 334);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_action_does_not_end_the_process() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    *stack.mails.refusals.lock() = vec![ErrorKind::Internal, ErrorKind::Unavailable];
    stack.stored("EWR", &[reading(0, 95.0), reading(1, 5.0)]).await;
    stack.settled().await;
    assert_eq!(stack.mails().await.len(), 1);
    assert!(stack.base.metrics.text().contains("task_restarts_total{task=\"devices-pipeline\"} 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_index_out_of_range_cannot_happen() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let mut rule = hot(90.0, 0);
    rule["conditions"] = json!([
        {"value": "humid", "ranges": [{"min": 1, "max": null}]},
        {"value": "temp", "ranges": [{"min": 90, "max": null}]},
    ]);
    stack.post("/v1/rules", &rule).await;
    let values = [
        json!({"temp": 95}),
        json!({"humid": 5}),
        json!({"a": 1, "b": 2, "c": 3, "d": 4}),
        json!({"temp": 95, "humid": 5, "z": 1}),
    ];
    for (second, values) in (0..).zip(values) {
        let payload = json!({"sensor": "weather", "time": at(second), "values": values});
        stack.stored("EWR", &[payload]).await;
    }
    stack.settled().await;
    assert_eq!(stack.alerts().await, [("EWR".to_owned(), at(3))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_answer_of_the_store_is_no_failure() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let body = json!({"rule": hot(90.0, 0), "from": at(0), "to": at(1)});
    let trial = stack.expect(StatusCode::OK, Method::POST, "/v1/rules/dry-run", Some(body)).await;
    assert_eq!(trial, json!({"readings": 0, "matches": 0, "alerts": [], "truncated": false}));
    for list in ["devices", "rules", "alerts"] {
        let page = stack.get(&format!("/v1/{list}")).await;
        assert_eq!(page, json!({"items": [], "next": null}), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drop_check_drops_only_what_it_must() {
    let stack = Stack::start().await;
    stack.stored("EWR", &[reading(0, 1.0), reading(1, 2.0), reading(1, 2.0)]).await;
    stack.settled().await;
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 2);
    let metrics = stack.base.metrics.text();
    for (name, count) in [("accepted", 3), ("stored", 2), ("repeated", 1)] {
        assert!(metrics.contains(&format!("devices_readings_{name}_total {count}\n")), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_is_there_and_none_is_open_to_a_stranger() {
    let stack = Stack::start().await;
    let routes = stack.devices.routes();
    let mut count = 0;
    for operation in routes.operations() {
        let path = operation.path().replace("{name}", "EWR").replace("{id}", "none");
        let body = json!({});
        for who in ["", "stranger"] {
            let (status, _) =
                stack.request(who, operation.method().clone(), &path, Some(&body)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} {path}", operation.method());
        }
        if !["sendReadings", "importReadings"].contains(&operation.id()) {
            let (status, _) =
                stack.request("sender", operation.method().clone(), &path, Some(&body)).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{} {path}", operation.method());
        }
        // Whatever it says of this request, it is not that there is no such route.
        if !path.contains("EWR") && !path.contains("none") && path != "/v1/events" {
            let (status, problem) =
                stack.request("admin", operation.method().clone(), &path, Some(&body)).await;
            assert_ne!(status, StatusCode::NOT_FOUND, "{path}: {problem}");
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert!(!status.is_server_error(), "{path}: {problem}");
        }
        count += 1;
    }
    assert_eq!(count, 48);
}
