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

/// A rule that must last for a minute.
fn lasting(min: f64) -> Value {
    let mut rule = hot(min, 0);
    rule["for_seconds"] = json!(60);
    rule["once"] = json!(true);
    rule
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_remembers_outlives_a_kill_and_the_alert_says_why() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let rule = stack.post("/v1/rules", &lasting(90.0)).await;
    stack.stored("EWR", &[reading(0, 50.0), reading(10, 91.0), reading(40, 92.0)]).await;
    stack.stored("JFK", &[reading(10, 91.0), reading(60, 50.0), reading(70, 91.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 0);
    let stack = stack.killed().await;
    // The second is late: the rule goes along the time of the readings.
    stack.stored("EWR", &[reading(70, 93.0), reading(65, 10.0), reading(80, 94.0)]).await;
    stack.stored("JFK", &[reading(71, 91.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await, [("EWR".to_owned(), at(70))]);
    let stack = stack.restart().await;
    stack.stored("EWR", &[reading(200, 95.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 1, "it still holds, and that was said");
    stack.stored("EWR", &[reading(210, 1.0), reading(220, 95.0), reading(280, 95.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 2);

    let first = stack.get("/v1/alerts?device=EWR").await["items"][1].clone();
    let path = format!("/v1/alerts/{}", first["id"].as_str().unwrap());
    let detail = stack.get(&path).await;
    assert_eq!(detail["why"]["since"], at(10));
    assert_eq!(detail["why"]["version"], 1);
    let saw =
        json!([{"value": "temp", "observed": 93.0, "other": null, "then": null, "held": false}]);
    assert_eq!(detail["why"]["conditions"], saw);
    let times: Vec<&Value> =
        detail["readings"].as_array().unwrap().iter().map(|it| &it["time"]).collect();
    assert_eq!(
        times,
        [&json!(at(0)), &json!(at(10)), &json!(at(40)), &json!(at(65)), &json!(at(70))]
    );
    let change = json!({"for_seconds": 0});
    let path_of_rule = format!("/v1/rules/{}", rule["id"].as_str().unwrap());
    let changed = stack.expect(StatusCode::OK, Method::PATCH, &path_of_rule, Some(change)).await;
    assert_eq!((&changed["version"], &changed["for_seconds"]), (&json!(2), &json!(0)));
    assert_eq!(stack.get(&path).await["rule_text"]["for_seconds"], 60, "the rule as it was then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_has_versions_and_a_former_one_comes_back() {
    let config = Config { rule_versions_max: 3, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    let id = stack.hot_rule(90.0, 0).await;
    let path = format!("/v1/rules/{id}");
    for min in [80.0, 70.0, 60.0] {
        let conditions = json!([{"value": "temp", "ranges": [{"min": min}]}]);
        let change = json!({"conditions": conditions});
        stack.expect(StatusCode::OK, Method::PATCH, &path, Some(change)).await;
    }
    let versions = stack.get(&format!("{path}/versions")).await;
    let numbers: Vec<_> =
        versions["items"].as_array().unwrap().iter().map(|it| it["version"].clone()).collect();
    assert_eq!(numbers, [4, 3, 2], "older ones are forgotten");
    assert_eq!(versions["items"][0]["author"], "admin");
    let restore = format!("{path}/restore");
    let gone = Some(json!({"version": 1}));
    stack.expect(StatusCode::NOT_FOUND, Method::POST, &restore, gone).await;
    let back = Some(json!({"version": 2}));
    let restored = stack.expect(StatusCode::OK, Method::POST, &restore, back).await;
    assert_eq!(restored["version"], 5);
    assert_eq!(restored["conditions"][0]["ranges"][0]["min"], 80.0);
    stack.stored("EWR", &[reading(0, 75.0), reading(1, 85.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await, [("EWR".to_owned(), at(1))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_go_elsewhere_and_come_back_all_or_none() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let mut deep = lasting(90.0);
    deep["name"] = json!("deep");
    deep["tags"] = json!(["outdoor"]);
    deep["groups"] = json!(["roof"]);
    let shape = json!({"type": "circle", "latitude": 40.7, "longitude": -74.2, "metres": 5000.0});
    deep["area"] = json!({"outside": true, "shape": shape});
    let days = json!(["saturday", "sunday"]);
    deep["window"] = json!({"from": "00:00", "to": "00:00", "zone": "Asia/Seoul", "days": days});
    deep["conditions"] = json!([
        {"value": "temp", "ranges": [{"min": 30.0, "max": null}], "hold": {"min": 28.0, "max": null}},
        {"value": "temp", "compare": {"is": "at-least", "value": "humid", "plus": 2.5}},
        {"value": "humid", "change": {"by": 5.0, "within_seconds": 600, "direction": "rise"}},
    ]);
    stack.post("/v1/rules", &deep).await;
    // The older one is the first.
    stack.base.clock.advance(Duration::from_millis(1));
    stack.hot_rule(90.0, 0).await;
    let stack = stack.restart().await;
    let exported = stack.get("/v1/rules-export").await;
    assert_eq!(exported["rules"].as_array().unwrap().len(), 2);
    for (name, value) in deep.as_object().unwrap() {
        if name != "conditions" {
            assert_eq!(exported["rules"][0][name], *value, "{name}");
        }
    }
    let import = async |expected: StatusCode, body: &Value| {
        stack.expect(expected, Method::POST, "/v1/rules-import", Some(body.clone())).await
    };
    let same = import(StatusCode::OK, &exported).await;
    assert_eq!(same, json!({"created": 0, "changed": 0}));
    let mut wrong = exported.clone();
    wrong["rules"][0]["name"] = json!("another");
    wrong["rules"][1]["sensor"] = json!("soil");
    let problem = import(StatusCode::UNPROCESSABLE_ENTITY, &wrong).await;
    assert_eq!(problem["errors"][0]["pointer"], "/rules/1/sensor");
    assert_eq!(stack.get("/v1/rules").await["items"].as_array().unwrap().len(), 2, "none is taken");
    wrong["rules"][1] = exported["rules"][1].clone();
    wrong["rules"][1]["cooldown_seconds"] = json!(7);
    assert_eq!(import(StatusCode::OK, &wrong).await, json!({"created": 1, "changed": 1}));
    let rules = stack.get("/v1/rules").await;
    let named = |name: &str| {
        rules["items"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone()
    };
    assert_eq!(named("hot")["version"], 2);
    assert_eq!(named("another")["version"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_is_taken_in_hand_and_cleared_by_whoever_was_first() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    stack.stored("EWR", &[reading(0, 95.0), reading(1, 95.0)]).await;
    stack.settled().await;
    let id =
        stack.get("/v1/alerts?state=open").await["items"][0]["id"].as_str().unwrap().to_owned();
    let deed = async |deed: &str, body: Value| {
        let path = format!("/v1/alerts/{id}/{deed}");
        stack.expect(StatusCode::OK, Method::POST, &path, Some(body)).await
    };
    let taken = deed("acknowledge", json!({"note": "on my way"})).await;
    assert_eq!((&taken["state"], &taken["note"]), (&json!("acknowledged"), &json!("on my way")));
    assert_eq!(taken["acknowledged"], json!({"time": NOW, "by": "admin"}));
    stack.base.clock.advance(Duration::from_secs(5));
    assert_eq!(deed("acknowledge", json!({})).await["acknowledged"]["time"], NOW);
    let cleared = deed("clear", json!({})).await;
    assert_eq!((&cleared["state"], &cleared["note"]), (&json!("cleared"), &json!("on my way")));
    for (state, count) in [("open", 1), ("acknowledged", 0), ("cleared", 1)] {
        let page = stack.get(&format!("/v1/alerts?state={state}")).await;
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{state}");
    }
    let long = json!({"note": "x".repeat(1_001)});
    let path = format!("/v1/alerts/{id}/clear");
    stack.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, &path, Some(long)).await;
    let path = format!("/v1/alerts/{}/clear", base::EventId::fixed(7));
    stack.expect(StatusCode::NOT_FOUND, Method::POST, &path, Some(json!({}))).await;
    let (status, _) = stack.request("other", Method::GET, &format!("/v1/alerts/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "it is not another organisation's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_later_than_its_sensor_allows_raises_nothing_and_is_stored() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let patch = json!({"lateness_seconds": 60});
    stack.expect(StatusCode::OK, Method::PATCH, "/v1/sensors/weather", Some(patch)).await;
    stack.hot_rule(90.0, 0).await;
    stack.stored("EWR", &[reading(100, 95.0), reading(40, 95.0), reading(39, 95.0)]).await;
    stack.settled().await;
    let expected = [("EWR".to_owned(), at(100)), ("EWR".to_owned(), at(40))];
    let mut alerts = stack.alerts().await;
    alerts.sort_by(|a, b| b.cmp(a));
    assert_eq!(alerts, expected);
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 3);
    assert!(stack.base.metrics.text().contains("devices_rules_late_total 1\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_that_comes_once_is_not_swallowed_by_the_cool_down() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let mut rule = hot(90.0, 100);
    rule["once"] = json!(true);
    stack.post("/v1/rules", &rule).await;
    let seconds = [(0, 95.0), (10, 5.0), (50, 95.0), (99, 95.0), (100, 95.0), (300, 95.0)];
    let readings: Vec<Value> =
        seconds.iter().map(|&(second, temp)| reading(second, temp)).collect();
    stack.stored("EWR", &readings).await;
    stack.settled().await;
    // It begins to hold again at 50, within the cool-down, and is told when that is over.
    let expected = [0, 100].map(|second| ("EWR".to_owned(), at(second)));
    assert_eq!(stack.alerts().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_on_tags_follows_the_tags_and_a_trial_says_the_same() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    for (name, tags) in [("EWR", json!(["outdoor"])), ("JFK", json!([]))] {
        stack
            .post("/v1/devices", &json!({"name": name, "sensors": ["weather"], "tags": tags}))
            .await;
    }
    let mut rule = hot(90.0, 0);
    rule["tags"] = json!(["outdoor", "roof"]);
    stack.post("/v1/rules", &rule).await;
    stack.stored("EWR", &[reading(0, 95.0)]).await;
    stack.stored("JFK", &[reading(0, 95.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await, [("EWR".to_owned(), at(0))]);
    let patch = json!({"tags": ["roof"], "group": "Seoul"});
    stack.expect(StatusCode::OK, Method::PATCH, "/v1/devices/JFK", Some(patch)).await;
    stack.stored("JFK", &[reading(1, 95.0)]).await;
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 2);
    let body = json!({"rule": rule, "from": at(0), "to": at(10)});
    let trial = stack.expect(StatusCode::OK, Method::POST, "/v1/rules/dry-run", Some(body)).await;
    assert_eq!(trial["alerts"].as_array().unwrap().len(), 3, "by the tags of now");
    let found = stack.get("/v1/devices?q=seo").await;
    assert_eq!(found["items"][0]["name"], "JFK");
    assert_eq!(stack.get("/v1/devices?tag=outdoor").await["items"][0]["name"], "EWR");
}
