use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_answer_no_reading_meets_the_old_text() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let id = stack.hot_rule(1_000.0, 0).await;
    let path = format!("/v1/rules/{id}");
    let mut second = 0;
    let mut expected = Vec::new();
    for round in 0..20 {
        let is_hot = round % 2 == 0;
        let min = if is_hot { 0.0 } else { 1_000.0 };
        let change =
            json!({"conditions": [{"value": "temp", "ranges": [{"min": min, "max": null}]}]});
        // Readings are under way while the rule changes; after the answer the new text holds.
        let cold = reading(second, -5.0);
        let load = stack.send("load", &cold);
        let (loaded, _) =
            tokio::join!(load, stack.expect(StatusCode::OK, Method::PATCH, &path, Some(change)));
        assert_eq!(loaded, Outcome::Stored);
        for _ in 0..5 {
            second += 1;
            stack.stored("EWR", &[reading(second, 50.0)]).await;
            if is_hot {
                expected.push(("EWR".to_owned(), at(second)));
            }
        }
        // Else a reading of this round may rightly meet the next text.
        stack.settled().await;
    }
    assert_eq!(stack.alerts().await, expected);
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, &path, None).await;
    stack.stored("EWR", &[reading(second + 1, 5_000.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_a_pipeline_that_still_evaluates_and_says_so_when_it_takes_too_long() {
    let config = Config { rules_swap_time_max: Duration::from_millis(50), ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.devices.house.hook.arm(Step::Committed);
    stack.stored("EWR", &[reading(0, 1.0)]).await;
    stack.devices.house.hook.reached().await;
    let (status, problem) =
        stack.request("admin", Method::POST, "/v1/rules", Some(&hot(0.0, 0))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem["detail"].as_str().unwrap().contains("the rule is stored"));
    assert_eq!(stack.get("/v1/rules").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cool_down_counts_in_the_time_of_the_readings_and_outlives_a_restart() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 180).await;
    stack.stored("EWR", &[reading(0, 95.0), reading(179, 95.0), reading(180, 95.0)]).await;
    stack.settled().await;
    let stack = stack.restart().await;
    stack.stored("EWR", &[reading(359, 95.0), reading(1_000, 95.0), reading(700, 95.0)]).await;
    // Late, and some of them quiet for an alert that comes after them in time.
    stack.stored("EWR", &[reading(900, 95.0), reading(520, 95.0), reading(360, 95.0)]).await;
    stack.stored("JFK", &[reading(1, 95.0)]).await;
    stack.settled().await;
    let expected = [("EWR", 0), ("EWR", 180), ("EWR", 520), ("EWR", 700)];
    let mut expected: Vec<_> = expected.iter().map(|(d, s)| ((*d).to_owned(), at(*s))).collect();
    expected.push(("EWR".into(), at(1_000)));
    expected.push(("JFK".into(), at(1)));
    assert_eq!(stack.alerts().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cool_downs_that_reach_further_back_than_memory_are_asked_from_the_rows() {
    let config = Config { cooldown_times_max: 2, cooldown_pairs_max: 0, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 10).await;
    for second in [0, 20, 40, 60, 80] {
        stack.stored("EWR", &[reading(second, 95.0)]).await;
    }
    stack.settled().await;
    stack.stored("EWR", &[reading(5, 95.0), reading(21, 95.0), reading(30, 95.0)]).await;
    stack.settled().await;
    let seconds = [0, 20, 30, 40, 60, 80];
    assert_eq!(stack.alerts().await, seconds.map(|s| ("EWR".to_owned(), at(s))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_says_what_the_pipeline_did() {
    // Pages of the lake that end within readings.
    let config = Config { trial_rows_max: 1_025, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    let mut rule = hot(90.0, 1_800);
    rule["window"] = json!({"from": "22:00", "to": "06:00", "zone": "America/New_York"});
    rule["name"] = json!("warm nights");
    stack.post("/v1/rules", &rule).await;
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    for device in ["EWR", "JFK", "LGA"] {
        let payloads: Vec<Vec<u8>> = (0..500)
            .map(|number| {
                let temp = 80.0 + f64::from((number * 7) % 20);
                let mut payload = reading(i64::from(number) * 600, temp);
                payload["values"]["humid"] = json!(number);
                payload.to_string().into_bytes()
            })
            .collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let refusals = fleet.take(&principal("admin"), device, &payloads).await.unwrap();
        assert!(refusals.iter().all(Option::is_none));
    }
    stack.settled().await;
    let alerts = stack.alerts().await;
    assert!(alerts.len() > 30, "{}", alerts.len());

    rule["enabled"] = json!(false);
    let body = json!({"rule": rule, "from": at(0), "to": at(500 * 600)});
    let trial =
        stack.expect(StatusCode::OK, Method::POST, "/v1/rules/dry-run", Some(body.clone())).await;
    let mut tried: Vec<(String, String)> = trial["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["device"].as_str().unwrap().into(), a["time"].as_str().unwrap().into()))
        .collect();
    tried.sort();
    assert_eq!(tried, alerts);
    assert_eq!((&trial["readings"], &trial["truncated"]), (&json!(1_500), &json!(false)));
    assert!(trial["alerts"][0]["values"]["humid"].is_number());

    let mut half = body.clone();
    half["to"] = json!(at(250 * 600));
    half["rule"]["device"] = json!("JFK");
    let trial = stack.expect(StatusCode::OK, Method::POST, "/v1/rules/dry-run", Some(half)).await;
    assert_eq!(trial["readings"], 250, "the end is not included");
    let stored = stack.alerts().await;
    assert_eq!(stored, alerts, "a trial stores nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_is_bounded() {
    let config = Config { trial_readings_max: 10, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    let payloads: Vec<_> = (0..20).map(|n| reading(n, 95.0)).collect();
    stack.stored("O'Hare", &payloads).await;
    stack.settled().await;
    let mut rule = hot(90.0, 0);
    rule["device"] = json!("O'Hare");
    let body = json!({"rule": rule, "from": at(0), "to": at(100)});
    let trial = stack.expect(StatusCode::OK, Method::POST, "/v1/rules/dry-run", Some(body)).await;
    assert_eq!((&trial["readings"], &trial["truncated"]), (&json!(10), &json!(true)));
}
