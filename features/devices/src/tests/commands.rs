use super::*;

const ROOF: &str = "/v1/devices/roof/commands";

async fn valve(stack: &Stack) {
    let commands = json!([
        {"name": "open", "values": [{"name": "percent", "unit": "%", "min": 0, "max": 100}]},
        {"name": "close"},
    ]);
    stack.post("/v1/actuators", &json!({"name": "valve", "commands": commands})).await;
    stack.post("/v1/devices", &json!({"name": "roof", "actuators": ["valve"]})).await;
}

fn open(percent: i64) -> Value {
    json!({"command": "open", "values": {"percent": percent}})
}

fn wish(steps: &[Value]) -> Value {
    json!({"actuator": "valve", "steps": steps, "timeout_seconds": 60})
}

impl Stack {
    /// The states of the commands to the device, each chain in its order.
    async fn states(&self) -> Vec<String> {
        let page = self.get(ROOF).await;
        let mut all: Vec<&Value> = page["items"].as_array().unwrap().iter().collect();
        all.sort_by_key(|it| (it["chain"].as_str(), it["step"].as_u64()));
        all.iter().map(|it| it["state"].as_str().unwrap().to_owned()).collect()
    }

    async fn until(&self, states: &[&str]) {
        eventually(&format!("{states:?}"), async || (self.states().await == states).then_some(()))
            .await;
    }

    /// What was sent on a topic, the oldest first.
    fn sent(&self, topic: &str) -> Vec<Value> {
        let sent = self.messages.sent.lock();
        let of_topic = sent.iter().filter(|message| message.topic == topic);
        of_topic.map(|message| serde_json::from_slice(&message.payload).unwrap()).collect()
    }

    async fn answer(&self, answer: &Value) -> Outcome {
        let (admin, answer) = (principal("admin"), answer.to_string());
        let received = self.devices.receive(&admin, "answer/roof", answer.as_bytes());
        received.await.unwrap().1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_one_after_another_each_when_the_one_before_is_acknowledged() {
    let stack = Stack::start().await;
    valve(&stack).await;
    let mut close = json!({"command": "close"});
    close["pause_seconds"] = json!(10);
    let sent = stack.post(ROOF, &wish(&[open(40), close])).await;
    assert_eq!(sent["items"][1]["state"], "waiting");
    stack.until(&["sent", "waiting"]).await;
    eventually("the first is sent", async || stack.sent("command/roof").pop()).await;
    let first = stack.sent("command/roof")[0].clone();
    assert_eq!(first["command"], "open");
    assert_eq!(first["values"], json!({"percent": 40.0}));
    assert_eq!(stack.answer(&json!({"id": first["id"]})).await, Outcome::Stored);
    assert_eq!(stack.states().await, ["acknowledged", "waiting"]);
    stack.base.clock.advance(Duration::from_secs(9));
    assert_eq!(stack.sent("command/roof").len(), 1, "the pause is not over");
    stack.base.clock.advance(Duration::from_secs(1));
    stack.until(&["acknowledged", "sent"]).await;
    eventually("the second is sent", async || stack.sent("command/roof").get(1).cloned()).await;
    let second = stack.sent("command/roof")[1].clone();
    let refused = json!({"id": second["id"], "ok": false, "reason": "it is stuck"});
    assert_eq!(stack.answer(&refused).await, Outcome::Stored);
    assert_eq!(stack.answer(&json!({"id": second["id"]})).await, Outcome::Stored, "too late");
    assert_eq!(stack.states().await, ["acknowledged", "refused"]);
    assert_eq!(stack.get(ROOF).await["items"][0]["reason"], "it is stuck");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_out_again_until_its_time_is_over_and_the_rest_is_cancelled() {
    let stack = Stack::start().await;
    valve(&stack).await;
    stack.messages.is_broken.store(true, Ordering::Release);
    stack.post(ROOF, &wish(&[open(1), open(2)])).await;
    stack.until(&["sent", "waiting"]).await;
    stack.messages.is_broken.store(false, Ordering::Release);
    for count in 1..=2 {
        stack.base.clock.advance(Duration::from_secs(10));
        eventually("it goes out again", async || {
            (stack.sent("command/roof").len() == count).then_some(())
        })
        .await;
    }
    let sent = stack.sent("command/roof");
    assert_eq!(sent[0], sent[1], "under the same id");
    // It is known after a crash, too.
    let stack = stack.killed().await;
    assert_eq!(stack.states().await, ["sent", "waiting"]);
    stack.base.clock.advance(Duration::from_secs(40));
    stack.until(&["timed-out", "cancelled"]).await;
    assert!(stack.base.metrics.text().contains("devices_commands_late_total 1"));
    // Whoever answers later changes nothing.
    assert_eq!(stack.answer(&json!({"id": sent[0]["id"]})).await, Outcome::Stored);
    assert_eq!(stack.states().await, ["timed-out", "cancelled"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_can_take_commands_back() {
    let stack = Stack::start().await;
    valve(&stack).await;
    let sent = stack.post(ROOF, &wish(&[open(1), open(2)])).await;
    let path = format!("/v1/commands/{}/cancel", sent["items"][0]["id"].as_str().unwrap());
    stack.expect(StatusCode::OK, Method::POST, &path, None).await;
    assert_eq!(stack.states().await, ["cancelled", "cancelled"]);
    stack.expect(StatusCode::CONFLICT, Method::POST, &path, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_and_nothing_is_sent() {
    let stack = Stack::with(Config { commands_open_max: 2, ..Config::default() }).await;
    valve(&stack).await;
    let refused = StatusCode::UNPROCESSABLE_ENTITY;
    for steps in [
        json!([]),
        json!([{"command": "explode"}]),
        json!([{"command": "open"}]),
        json!([open(101)]),
        json!([{"command": "close", "values": {"percent": 1}}]),
        json!([{"command": "close", "pause_seconds": 100_000_000}]),
    ] {
        let body = json!({"actuator": "valve", "steps": steps});
        stack.expect(refused, Method::POST, ROOF, Some(body)).await;
    }
    let body = json!({"actuator": "lamp", "steps": [open(1)]});
    stack.expect(refused, Method::POST, ROOF, Some(body)).await;
    stack.post("/v1/devices", &json!({"name": "bare"})).await;
    let bare = "/v1/devices/bare/commands";
    stack.expect(refused, Method::POST, bare, Some(wish(&[open(1)]))).await;
    let three = wish(&[open(1), open(2), open(3)]);
    stack.expect(StatusCode::TOO_MANY_REQUESTS, Method::POST, ROOF, Some(three)).await;
    assert_eq!(stack.sent("command/roof"), Vec::<Value>::new());
    // What a device or a rule needs stays.
    stack.expect(StatusCode::CONFLICT, Method::DELETE, "/v1/actuators/valve", None).await;
    let (status, _) = stack.request("sender", Method::POST, ROOF, Some(&wish(&[open(1)]))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_devices_that_cannot_be_taken_are_dead_letters() {
    let stack = Stack::start().await;
    valve(&stack).await;
    let refused = |outcome: Outcome| matches!(outcome, Outcome::Refused { .. });
    assert!(refused(stack.answer(&json!("yes")).await));
    assert!(refused(stack.answer(&json!({"id": "1"})).await));
    assert!(refused(stack.answer(&json!({"id": EventId::fixed(7).to_string()})).await));
    let admin = principal("admin");
    let says = async |topic: &str, payload: &str| {
        stack.devices.receive(&admin, topic, payload.as_bytes()).await.map(|(_, outcome)| outcome)
    };
    assert!(refused(says("reported/nobody", r#"{"state": {}}"#).await.unwrap()));
    assert!(refused(says("reported/roof", r#"{"a": 1}"#).await.unwrap()));
    assert_eq!(says("command/roof", "{}").await, Some(Outcome::Denied));
    assert_eq!(says("desired/roof", "{}").await, Some(Outcome::Denied));
    assert_eq!(says("elsewhere/roof", "{}").await, None);
    let overview = stack.devices.overview(OrganisationId::DEFAULT).await.unwrap();
    assert_eq!(overview.dead_letters, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_has_a_device_do_something_once_whatever_a_kill_hits() {
    for step in [Step::Buried, Step::Committed, Step::Appended] {
        let stack = Stack::start().await;
        stack.weather_sensor().await;
        valve(&stack).await;
        let mut rule = hot(90.0, 0);
        rule["actions"] = json!([{
            "type": "actuator", "actuator": "valve", "steps": [open(100), {"command": "close"}],
        }]);
        let made = stack.post("/v1/rules", &rule).await;
        assert_eq!(made["actions"][0]["timeout_seconds"], 30);
        stack.devices.house.hook.arm(step);
        stack.stored("roof", &[reading(0, 95.0)]).await;
        stack.stored("bare", &[reading(0, 95.0)]).await;
        stack.devices.house.hook.reached().await;
        let stack = stack.killed().await;
        stack.settled().await;
        stack.until(&["sent", "waiting"]).await;
        let commands = stack.get(ROOF).await;
        let alerts = stack.get("/v1/alerts?device=roof").await;
        assert_eq!(commands["items"][0]["alert"], alerts["items"][0]["id"], "{step:?}");
        assert_eq!(commands["items"][0]["author"], "hot");
        let alerts = stack.get("/v1/alerts?device=bare").await;
        let error = alerts["items"][0]["mail_error"].as_str().unwrap();
        assert!(error.contains("does not carry"), "{error}");
        stack
            .expect(
                StatusCode::CONFLICT,
                Method::PUT,
                "/v1/actuators/valve",
                Some(json!({
                    "commands": [{"name": "close"}],
                })),
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_is_told_and_what_the_device_says_is_kept_with_versions() {
    let stack = Stack::start().await;
    valve(&stack).await;
    let twin = "/v1/devices/roof/twin";
    let first = json!({"desired": {"rate": 5, "mode": {"night": true}}});
    let wished = stack.expect(StatusCode::OK, Method::PATCH, twin, Some(first)).await;
    assert_eq!(wished["desired"]["version"], 1);
    eventually("the device is told", async || stack.sent("desired/roof").pop()).await;
    assert!(stack.messages.sent.lock()[0].is_kept);
    let told = json!({"version": 1, "state": {"rate": 5, "mode": {"night": true}}});
    assert_eq!(stack.sent("desired/roof"), [told]);
    let stale = json!({"desired": {"rate": 6}, "version": 0});
    stack.expect(StatusCode::CONFLICT, Method::PATCH, twin, Some(stale)).await;
    let report = json!({"state": {"rate": 4, "mode": {"night": true}}, "version": 1}).to_string();
    let said = stack.devices.receive(&principal("admin"), "reported/roof", report.as_bytes()).await;
    assert_eq!(said.unwrap().1, Outcome::Stored);
    let now = stack.get(twin).await;
    assert_eq!(now["delta"], json!({"rate": 5}));
    assert_eq!((&now["reported"]["version"], &now["seen_version"]), (&json!(1), &json!(1)));
    // Not told before the server stopped, told after it.
    stack.messages.is_broken.store(true, Ordering::Release);
    let second = json!({"desired": {"mode": null}, "version": 1});
    stack.expect(StatusCode::OK, Method::PATCH, twin, Some(second)).await;
    let stack = stack.restart().await;
    stack.base.clock.advance(Duration::from_secs(10));
    let told = eventually("it is told", async || stack.sent("desired/roof").pop()).await;
    assert_eq!(told, json!({"version": 2, "state": {"rate": 5}}));
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/devices/roof", None).await;
    stack.expect(StatusCode::NOT_FOUND, Method::GET, twin, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_that_nobody_takes_in_hand_escalates_once() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let mut rule = hot(90.0, 0);
    rule["escalation"] = json!({
        "after_seconds": 600, "actions": [{"type": "email", "to": "boss@example.org"}],
    });
    let made = stack.post("/v1/rules", &rule).await;
    assert_eq!(made["escalation"], rule["escalation"]);
    stack.stored("EWR", &[reading(0, 95.0), reading(1, 96.0)]).await;
    stack.settled().await;
    let alerts = stack.get("/v1/alerts").await;
    let path = format!("/v1/alerts/{}/acknowledge", alerts["items"][0]["id"].as_str().unwrap());
    stack.expect(StatusCode::OK, Method::POST, &path, Some(json!({}))).await;
    stack.base.clock.advance(Duration::from_secs(599));
    let stack = stack.killed().await;
    assert_eq!(stack.mails().await.len(), 2);
    stack.base.clock.advance(Duration::from_secs(1));
    eventually("the boss is told", async || (stack.mails().await.len() == 3).then_some(())).await;
    assert_eq!(stack.mails().await[2].0, "boss@example.org");
    let alerts = stack.get("/v1/alerts").await;
    let escalated: Vec<bool> =
        alerts["items"].as_array().unwrap().iter().map(|it| it["escalated"].is_string()).collect();
    assert_eq!(escalated, [false, true]);
    stack.base.clock.advance(Duration::from_secs(10_000));
    let stack = stack.restart().await;
    assert_eq!(stack.mails().await.len(), 3);
    let mut wrong = rule;
    wrong["escalation"] = json!({"after_seconds": 0, "actions": []});
    let refused = StatusCode::UNPROCESSABLE_ENTITY;
    stack.expect(refused, Method::POST, "/v1/rules", Some(wrong)).await;
}
