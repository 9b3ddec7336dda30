use edge::Info;
use futures::StreamExt;

use super::*;
use crate::{Encoding, LetterFilter};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_and_a_device_live_their_life() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let device = json!({
        "name": "EWR",
        "label": "Newark",
        "latitude": 40.69,
        "longitude": -74.17,
        "sensors": ["weather"]
    });
    let made = stack.post("/v1/devices", &device).await;
    for (name, value) in device.as_object().unwrap() {
        assert_eq!(made[name], *value);
    }
    assert_eq!((&made["created"], &made["last"]), (&json!(NOW), &json!([])));
    stack.expect(StatusCode::CONFLICT, Method::POST, "/v1/devices", Some(device)).await;
    let patch =
        |body: Value| stack.expect(StatusCode::OK, Method::PATCH, "/v1/devices/EWR", Some(body));
    assert_eq!(patch(json!({"label": null})).await["label"], Value::Null);
    assert_eq!(patch(json!({"latitude": 41})).await["longitude"], -74.17);
    let none = patch(json!({"latitude": null, "longitude": null, "sensors": []})).await;
    assert_eq!((&none["latitude"], &none["sensors"]), (&Value::Null, &json!([])));
    patch(json!({"sensors": ["weather"]})).await;

    let stack = stack.restart().await;
    assert_eq!(stack.get("/v1/devices").await["items"][0]["sensors"], json!(["weather"]));
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/sensors/weather", None).await;
    assert_eq!(stack.get("/v1/devices/EWR").await["sensors"], json!([]));
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/devices/EWR", None).await;
    stack.expect(StatusCode::NOT_FOUND, Method::DELETE, "/v1/devices/EWR", None).await;
    stack.expect(StatusCode::NOT_FOUND, Method::GET, "/v1/devices/EWR", None).await;
    let stack = stack.restart().await;
    assert_eq!(stack.get("/v1/devices").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_use_stays_and_the_refusal_names_the_user() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.post("/v1/devices", &json!({"name": "EWR", "sensors": ["weather"]})).await;
    let mut rule = hot(90.0, 0);
    rule["device"] = json!("EWR");
    let id = stack.post("/v1/rules", &rule).await["id"].as_str().unwrap().to_owned();
    for path in ["/v1/sensors/weather", "/v1/devices/EWR"] {
        let problem = stack.expect(StatusCode::CONFLICT, Method::DELETE, path, None).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("the rule \"hot\""), "{detail}");
    }
    let without = json!({"values": [{"name": "humid"}]});
    stack.expect(StatusCode::CONFLICT, Method::PATCH, "/v1/sensors/weather", Some(without)).await;
    let path = format!("/v1/rules/{id}");
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, &path, None).await;
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/devices/EWR", None).await;
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/sensors/weather", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_device_keeps_its_readings_and_is_known_again() {
    let stack = Stack::start().await;
    stack.stored("EWR", &[reading(5, 50.0)]).await;
    stack.settled().await;
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/devices/EWR", None).await;
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 1);
    let stack = stack.restart().await;
    stack.stored("EWR", &[reading(5, 99.0)]).await;
    stack.settled().await;
    assert_eq!(stack.rows().await, json!([["EWR", 1_356_998_405, "temp", 50.0]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_its_place() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let rule = |change: Value| {
        let mut rule = hot(90.0, 180);
        rule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        rule
    };
    let window = |from: &str, to: &str, zone: &str| {
        rule(json!({"window": {"from": from, "to": to, "zone": zone}}))
    };
    let range = |min: Value, max: Value| {
        rule(json!({"conditions": [{"value": "temp", "ranges": [{"min": min, "max": max}]}]}))
    };
    let to = |to: &str| rule(json!({"actions": [{"type": "email", "to": to}]}));
    let cases = [
        ("/v1/devices", json!({"name": "a/b"}), "/name"),
        ("/v1/devices", json!({"name": ""}), "/name"),
        ("/v1/devices", json!({"name": "a", "latitude": 91, "longitude": 0}), "/latitude"),
        ("/v1/devices", json!({"name": "a", "latitude": 1}), "/longitude"),
        ("/v1/devices", json!({"name": "a", "sensors": ["soil"]}), "/sensors/0"),
        ("/v1/devices", json!({"name": "a", "colour": "red"}), "/colour"),
        (
            "/v1/sensors",
            json!({"name": "a", "values": [{"name": "x"}, {"name": "x"}]}),
            "/values/1/name",
        ),
        (
            "/v1/sensors",
            json!({"name": "a", "values": [{"name": "x", "unit": "\n"}]}),
            "/values/0/unit",
        ),
        ("/v1/rules", rule(json!({"sensor": "soil"})), "/sensor"),
        ("/v1/rules", rule(json!({"device": "nowhere"})), "/device"),
        ("/v1/rules", rule(json!({"conditions": []})), "/conditions"),
        ("/v1/rules", rule(json!({"cooldown_seconds": u64::MAX})), "/cooldown_seconds"),
        ("/v1/rules", range(json!(2), json!(1)), "/conditions/0/ranges/0"),
        ("/v1/rules", window("25:00", "06:00", "UTC"), "/window/from"),
        ("/v1/rules", window("06:00", "06:00", "UTC"), "/window/to"),
        ("/v1/rules", window("22:00", "06:00", "Mars/Base"), "/window/zone"),
        ("/v1/rules", to("keeper"), "/actions/0/to"),
        ("/v1/rules", to("nobody@example.org"), "/actions/0/to"),
        (
            "/v1/rules",
            rule(json!({"actions": [{"type": "endpoint", "endpoint": "cellar"}]})),
            "/actions/0/endpoint",
        ),
    ];
    for (path, body, pointer) in cases {
        let expected = StatusCode::UNPROCESSABLE_ENTITY;
        let problem = stack.expect(expected, Method::POST, path, Some(body.clone())).await;
        let errors = problem["errors"].as_array().unwrap();
        assert!(errors.iter().any(|e| e["pointer"] == pointer), "{body}: {problem}");
    }
    let trial = json!({"rule": to("keeper"), "from": at(0), "to": at(1)});
    let problem = stack
        .expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, "/v1/rules/dry-run", Some(trial))
        .await;
    assert_eq!(problem["errors"][0]["pointer"], "/rule/actions/0/to");
    let id = stack.hot_rule(1.0, 0).await;
    let path = format!("/v1/rules/{id}");
    for (patch, pointer) in [
        (json!({"id": "x"}), "/id"),
        (json!({"colour": 1}), "/colour"),
        (json!({"enabled": "yes"}), "/enabled"),
        (json!({"sensor": null}), "/sensor"),
        (json!({"window": {"zone": "UTC"}}), "/window"),
    ] {
        let expected = StatusCode::UNPROCESSABLE_ENTITY;
        let problem = stack.expect(expected, Method::PATCH, &path, Some(patch.clone())).await;
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{patch}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_shown_as_it_was_written() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let mut body = hot(90.0, 180);
    body["device"] = Value::Null;
    body["enabled"] = json!(false);
    body["window"] = json!({"from": "22:00", "to": "06:00", "zone": "Asia/Seoul", "days": []});
    for kind in ["hold", "compare", "change"] {
        body["conditions"][0][kind] = Value::Null;
    }
    let made = stack.post("/v1/rules", &body).await;
    for (name, value) in body.as_object().unwrap() {
        assert_eq!(made[name], *value, "{name}");
    }
    let path = format!("/v1/rules/{}", made["id"].as_str().unwrap());
    let patch = json!({"enabled": true, "window": null, "name": "warm"});
    let changed = stack.expect(StatusCode::OK, Method::PATCH, &path, Some(patch)).await;
    assert_eq!((&changed["enabled"], &changed["window"]), (&json!(true), &Value::Null));
    stack.base.clock.advance(Duration::from_secs(1));
    stack.hot_rule(1.0, 0).await;
    let stack = stack.restart().await;
    let first = stack.get("/v1/rules?limit=1").await;
    assert_eq!(first["items"][0], changed);
    let next = first["next"].as_str().unwrap();
    let second = stack.get(&format!("/v1/rules?limit=1&after={next}")).await;
    assert_eq!((&second["items"][0]["name"], &second["next"]), (&json!("hot"), &Value::Null));
    stack.expect(StatusCode::NOT_FOUND, Method::GET, "/v1/rules/none", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_found_in_a_rectangle_page_by_page() {
    let stack = Stack::start().await;
    for (name, latitude, longitude) in
        [("Fiji", -18.0, 178.0), ("Samoa", -13.8, -172.0), ("Seoul", 37.5, 127.0)]
    {
        let device = json!({"name": name, "latitude": latitude, "longitude": longitude});
        stack.post("/v1/devices", &device).await;
    }
    stack.post("/v1/devices", &json!({"name": "Nowhere"})).await;
    let names = async |query: &str| {
        let page = stack.get(&format!("/v1/devices?{query}")).await;
        let names = page["items"].as_array().unwrap().iter().map(|d| d["name"].clone());
        (names.collect::<Vec<_>>(), page["next"].clone())
    };
    let pacific = "left=170&right=-170&up=0&down=-30";
    assert_eq!(names(pacific).await.0, ["Fiji", "Samoa"]);
    let (first, next) = names(&format!("{pacific}&limit=1")).await;
    assert_eq!((first, &next), (vec![json!("Fiji")], &json!("Fiji")));
    assert_eq!(names(&format!("{pacific}&limit=1&after=Fiji")).await.0, ["Samoa"]);
    assert_eq!(names("").await.0.len(), 4);
    for wrong in ["left=1", "left=NaN&right=1&up=1&down=1", "left=0&right=1&up=0&down=1"] {
        let (status, problem) =
            stack.request("admin", Method::GET, &format!("/v1/devices?{wrong}"), None).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_by_http_are_judged_one_by_one() {
    let stack = Stack::start().await;
    let path = "/v1/devices/EWR/readings";
    let one = stack.expect(StatusCode::ACCEPTED, Method::POST, path, Some(reading(0, 50.1))).await;
    assert_eq!(one, json!({"accepted": 1, "refused": []}));
    let list = json!([reading(1, 51.0), {"sensor": "weather"}, 7, reading(2, 52.0)]);
    let taken = stack.expect(StatusCode::ACCEPTED, Method::POST, path, Some(list)).await;
    assert_eq!(taken["accepted"], 2);
    assert_eq!(
        (&taken["refused"][0]["index"], &taken["refused"][1]["index"]),
        (&json!(1), &json!(2))
    );
    assert!(taken["refused"][0]["reason"].as_str().unwrap().contains("missing field"));
    let many = Value::Array(vec![json!(1); 1_001]);
    stack.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, path, Some(many)).await;
    stack.settled().await;
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 3);

    let first = stack.letters(&LetterFilter::default(), 1, None).await;
    assert_eq!(first.items[0].payload, "7", "the newest first");
    let second = stack.letters(&LetterFilter::default(), 1, first.next).await;
    assert_eq!(second.items[0].payload, r#"{"sensor":"weather"}"#);
    assert_eq!(second.next, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_no_text_is_kept_as_base64_and_a_long_one_is_cut() {
    let stack = Stack::start().await;
    let admin = principal("admin");
    stack.devices.accept(&admin, "EWR", &[0xFF, 0x00]).await;
    stack.devices.accept(&admin, "EWR", "가".repeat(5_000).as_bytes()).await;
    let letters = stack.all_letters().await;
    let (long, bytes) = (&letters[0], &letters[1]);
    assert_eq!((bytes.encoding, &*bytes.payload), (Encoding::Base64, "/wA="));
    assert_eq!((long.encoding, long.is_truncated), (Encoding::Utf8, true));
    assert_eq!(long.payload.chars().count(), 4_096 / 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_key_opens_its_own_device_only() {
    let stack = Stack::start().await;
    stack.post("/v1/devices", &json!({"name": "50%"})).await;
    let key = stack.post("/v1/devices/50%25/keys", &json!({})).await;
    assert_eq!((&key["label"], &key["token"]), (&json!("50%"), &json!("device/50%25")));
    assert_eq!(key["mqtt_password"], "mqtt/data/50% mqtt/answer/50% mqtt/reported/50%");
    let nobody = "/v1/devices/nobody/keys";
    stack.expect(StatusCode::NOT_FOUND, Method::POST, nobody, Some(json!({}))).await;
    // A star in a name would be a grant on every device.
    let star = Some(json!({"name": "*"}));
    stack.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, "/v1/devices", star).await;
}

impl Stack {
    /// Opens an event stream and gives its text as it comes.
    pub(super) async fn events(
        &self,
        query: &str,
        last: Option<&str>,
    ) -> impl futures::Stream<Item = String> + Unpin + use<> {
        let mut request = Request::get(format!("/v1/events{query}"))
            .header(header::AUTHORIZATION, "Bearer madang_admin_secret");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().into_data_stream();
        Box::pin(body.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_begin_now_or_where_the_reader_left_and_end_with_the_server() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    let mut live = stack.events("?topic=readings", None).await;
    let mut alerts = stack.events("?topic=alerts", None).await;
    stack.stored("EWR", &[reading(1, 95.0)]).await;
    let event = live.next().await.unwrap();
    assert!(event.contains("event: reading"), "{event}");
    assert!(event.contains("id: 0:1"), "{event}");
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let expected =
        json!({"device": "EWR", "sensor": "weather", "time": at(1), "values": {"temp": 95.0}});
    assert_eq!(data, expected);
    let alert = alerts.next().await.unwrap();
    assert!(alert.contains("event: alert") && alert.contains("\"rule_name\":\"hot\""), "{alert}");

    let mut resumed = stack.events("", Some("0:0")).await;
    assert!(resumed.next().await.unwrap().contains("id: 0:1"));
    let (status, _) = stack.request("admin", Method::GET, "/v1/events?topic=mails", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    stack.base.tasks.stopping().cancel();
    assert_eq!(live.next().await, None);
    assert_eq!(resumed.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_goes_elsewhere_as_json_and_csv_all_or_none() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let csv = "name,latitude,longitude,tags,sensors,label,group\n\
               roof,37.5,127,outdoor;new,weather,\"a, b\",Seoul\ncellar,,,,,,\n";
    let import = async |expected: StatusCode, body: Value| {
        stack.expect(expected, Method::POST, "/v1/devices-import", Some(body)).await
    };
    let made = import(StatusCode::OK, json!({"csv": csv})).await;
    assert_eq!(made, json!({"created": 2, "changed": 0}));
    let exported = stack.get("/v1/devices-export").await;
    let roof = json!({
        "name": "roof", "label": "a, b", "latitude": 37.5, "longitude": 127.0,
        "sensors": ["weather"], "actuators": [], "tags": ["new", "outdoor"], "group": "Seoul"
    });
    assert_eq!(exported["devices"][1], roof);
    assert_eq!(import(StatusCode::OK, exported.clone()).await, json!({"created": 0, "changed": 0}));
    let mut changed = exported.clone();
    changed["devices"][0]["label"] = json!("below");
    changed["devices"][1]["sensors"] = json!(["soil"]);
    let problem = import(StatusCode::UNPROCESSABLE_ENTITY, changed.clone()).await;
    assert_eq!(problem["errors"][0]["pointer"], "/devices/1/sensors");
    assert_eq!(stack.get("/v1/devices/cellar").await["label"], Value::Null, "none was taken");
    changed["devices"][1] = roof;
    assert_eq!(import(StatusCode::OK, changed).await, json!({"created": 0, "changed": 1}));
    for (body, pointer) in [
        (json!({"csv": "name\na/b"}), "/devices/0/name"),
        (json!({"csv": "name,latitude\na,north"}), "/devices/0/latitude"),
        (json!({"csv": "name\na\na"}), "/devices/1/name"),
        (json!({"csv": "colour\nred"}), "/csv"),
    ] {
        let problem = import(StatusCode::UNPROCESSABLE_ENTITY, body).await;
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let stack = stack.restart().await;
    let (status, _) =
        stack.request("admin", Method::GET, "/v1/devices-export?format=csv", None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(stack.get("/v1/devices/cellar").await["label"], "below");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_of_a_fleet_gets_its_key_once() {
    let stack = Stack::start().await;
    let path = "/v1/devices/roof-7/provision";
    let key = stack.post(path, &json!({})).await;
    assert_eq!(key["mqtt_password"], "mqtt/data/roof-7 mqtt/answer/roof-7 mqtt/reported/roof-7");
    assert_eq!(stack.get("/v1/devices/roof-7").await["name"], "roof-7");
    stack.expect(StatusCode::CONFLICT, Method::POST, path, Some(json!({}))).await;
    let stack = stack.restart().await;
    stack.expect(StatusCode::CONFLICT, Method::POST, path, Some(json!({}))).await;
    // One that is known already may still ask once, and one that did not get it asks again.
    stack.post("/v1/devices", &json!({"name": "roof-8"})).await;
    let path = "/v1/devices/roof-8/provision";
    let wrong = json!({"label": " "});
    stack.expect(StatusCode::UNPROCESSABLE_ENTITY, Method::POST, path, Some(wrong)).await;
    stack.post(path, &json!({})).await;
    stack.expect(StatusCode::CONFLICT, Method::POST, path, Some(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_described() {
    let stack = Stack::start().await;
    let info = Info { title: "Devices", version: "0", description: "" };
    let document = stack.devices.routes().document(info);
    let rule = &document["components"]["schemas"]["RuleBody"];
    assert_eq!(rule["additionalProperties"], json!(false), "{rule}");
    let patch = &document["paths"]["/v1/rules/{id}"]["patch"]["requestBody"];
    assert!(patch.to_string().contains("RuleBodyPatch"), "{patch}");
    assert!(document["components"]["schemas"]["RuleBodyPatch"].get("required").is_none());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_asks_of_the_rows_does_not_grow_with_them() {
    const LISTS: [(&str, u64); 6] = [
        ("/v1/sensors", 0),
        ("/v1/devices", 1),
        ("/v1/devices?left=-1&right=1&up=1&down=-1", 1),
        ("/v1/devices/EWR", 1),
        ("/v1/rules", 0),
        ("/v1/alerts", 1),
    ];
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let mut filled = 0;
    for rows in [1, 40] {
        while filled < rows {
            let name = if filled == 0 { "EWR".to_owned() } else { format!("device-{filled}") };
            let device = json!({"name": name, "latitude": 0.5, "longitude": 0.5});
            stack.post("/v1/devices", &device).await;
            stack.hot_rule(90.0, 0).await;
            stack.stored(&name, &[reading(filled, 95.0)]).await;
            stack.send(&name, &json!("no reading")).await;
            filled += 1;
        }
        stack.settled().await;
        assert!(!stack.alerts().await.is_empty());
        for (path, statements) in LISTS {
            assert_eq!(stack.statements(path).await, statements, "{path} with {rows} rows");
        }
    }
}
