//! The sensor platform as its users meet it: health by MQTT, rules and alerts in the console.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Browser, MqttClient, Stack, within};

use crate::launch;

fn device(stack: &Stack, name: &str) -> MqttClient {
    MqttClient::connect(stack.mqtt_address(), name, stack.mqtt_user(), stack.mqtt_password())
        .unwrap()
}

/// Publishes readings of `temp` and `dew`, each a minute after the one before.
fn publish(client: &mut MqttClient, topic: &str, from: u16, temps: &[f64]) {
    for (minute, temp) in (from..).zip(temps) {
        let time = format!("2026-01-02T03:{minute:02}:00Z");
        let payload =
            json!({"sensor": "weather", "time": time, "values": {"temp": temp, "dew": 20.0}});
        client.publish(topic, minute + 1, payload.to_string().as_bytes()).unwrap();
        client.puback().unwrap();
    }
}

fn register(stack: &Stack) {
    let values = json!([{"name": "temp", "unit": "°C"}, {"name": "dew", "unit": "°C", "label": "Dew point"}]);
    let sensor = json!({"name": "weather", "values": values, "silent_after_seconds": 3600});
    stack.api().post("/v1/sensors", &sensor).unwrap().ok().unwrap();
    for (name, latitude) in [("roof-1", 37.56), ("roof-2", 37.48)] {
        let device = json!({
            "name": name, "latitude": latitude, "longitude": 126.97, "sensors": ["weather"],
            "tags": ["outdoor"], "group": "Seoul",
        });
        stack.api().post("/v1/devices", &device).unwrap().ok().unwrap();
    }
}

#[test]
fn a_lost_connection_is_told_within_a_second_and_a_key_of_a_fleet_makes_keys() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    register(&stack);
    let mut events = stack.api().events("/v1/events?topic=health").unwrap();
    let mut told = |state: &str, reason: &str| {
        let data = loop {
            let (_, event, data) = events.next_event().unwrap().unwrap();
            let data: Value = serde_json::from_str(&data).unwrap();
            assert_eq!(event, "health");
            // Its reading may be seen a moment before whose connection carried it.
            if data["reason"] != "heard" {
                break data;
            }
        };
        assert_eq!((&data["state"], &data["reason"]), (&json!(state), &json!(reason)));
    };
    let client = device(&stack, "roof-1");
    told("stable", "connected");
    drop(client);
    told("disconnected", "lost");
    // A gateway by another name carries what it publishes.
    let mut gateway = device(&stack, "gateway");
    publish(&mut gateway, "data/roof-2", 0, &[20.0]);
    told("stable", "connected");
    drop(gateway);
    told("disconnected", "lost");

    let grants = json!([
        {"action": "devices.provision", "resource": "device/roof-*"},
        {"action": "mqtt.publish", "resource": "mqtt/data/*"},
        {"action": "readings.publish", "resource": "device/*"},
    ]);
    let key = json!({"label": "fleet", "grants": grants});
    let key = stack.api().post("/v1/keys", &key).unwrap().ok().unwrap();
    let fleet = stack.stranger().bearer(key["token"].as_str().unwrap());
    let own = fleet.post("/v1/devices/roof-9/provision", &json!({})).unwrap();
    assert_eq!(own.status, 201);
    let own = own.ok().unwrap();
    let (user, password) =
        (own["mqtt_user"].as_str().unwrap(), own["mqtt_password"].as_str().unwrap());
    let client = MqttClient::connect(stack.mqtt_address(), "roof-9", user, password).unwrap();
    told("stable", "connected");
    drop(client);
    assert_eq!(fleet.post("/v1/devices/roof-9/provision", &json!({})).unwrap().status, 409);
    assert_eq!(fleet.post("/v1/devices/cellar/provision", &json!({})).unwrap().status, 403);
    assert_eq!(fleet.get("/v1/devices").unwrap().status, 403);
}

#[test]
fn a_device_goes_on_under_its_next_key_and_nobody_else_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    register(&stack);
    let enter = |key: &Value| {
        let (user, password) = (&key["mqtt_user"], &key["mqtt_password"]);
        let mut client = MqttClient::open(stack.mqtt_address()).unwrap();
        let entered = client.log_in("roof-1", user.as_str().unwrap(), password.as_str().unwrap());
        (entered.unwrap(), client)
    };
    let own = || stack.api().post("/v1/devices/roof-1/keys", &json!({})).unwrap().ok().unwrap();
    let (first, next) = (own(), own());
    let grants = json!([{"action": "mqtt.*", "resource": "mqtt/*"}]);
    let other = json!({"label": "other", "grants": grants});
    let other = stack.api().post("/v1/keys", &other).unwrap().ok().unwrap();
    let (code, client) = enter(&first);
    assert_eq!(code, 0);
    assert_eq!(enter(&other).0, 2, "identifier rejected");
    let sessions = stack.api().get("/v1/mqtt/sessions").unwrap().ok().unwrap();
    let session = &sessions["items"][0];
    assert_eq!((&session["client"], &session["connected"]), (&json!("roof-1"), &json!(true)));
    assert_eq!((&session["name"], &session["missed"]), (&json!("roof-1"), &json!(0)));
    let (code, _taken) = enter(&next);
    assert_eq!(code, 0);
    drop(client);
    assert_eq!(enter(&other).0, 2);
}

struct Console {
    browser: Browser,
}

impl Console {
    fn open(stack: &Stack) -> Self {
        let browser = Browser::open(1280, 1000, "en-US").unwrap();
        browser.go(&stack.link().unwrap()).unwrap();
        browser.click("set-password-skip").unwrap();
        browser.find("nav-overview").unwrap();
        Self { browser }
    }

    fn look(&self, name: &str) {
        let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("devices");
        self.browser.screenshot(&shots.join(format!("{name}.png"))).unwrap();
    }

    /// Waits until an element says that it is in this state.
    fn state(&self, hook: &str, state: &str) {
        let script = format!(
            "return document.querySelector('[data-test=\"{hook}\"]')?.dataset.state === '{state}'"
        );
        self.browser.until(&format!("{hook} is {state}"), &script).unwrap();
    }

    fn go(&self, stack: &Stack, path: &str) {
        self.browser.go(&format!("http://{}/#{path}", stack.http_address())).unwrap();
    }
}

#[test]
fn rules_alerts_and_devices_are_worked_with_in_the_console() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    register(&stack);
    let console = Console::open(&stack);
    let browser = &console.browser;
    let mut client = device(&stack, "roof-1");
    publish(&mut client, "data/roof-1", 0, &[20.0, 21.0, 22.0]);

    // The map follows the health of devices.
    browser.click("nav-map").unwrap();
    console.state("health-roof-1", "stable");
    console.state("marker-roof-1", "stable");
    console.state("marker-roof-2", "unknown");
    console.look("1-map");
    write_rule(&console);
    let rule = stack.api().all("/v1/rules").unwrap().remove(0);
    let wanted = json!([
        {"value": "temp", "ranges": [{"min": 30.0, "max": null}], "hold": {"min": 28.0, "max": null}, "compare": null, "change": null},
        {"value": "temp", "ranges": [], "hold": null, "compare": {"is": "at-least", "value": "dew", "plus": 2.0}, "change": null},
        {"value": "temp", "ranges": [], "hold": null, "compare": null, "change": {"by": 5.0, "within_seconds": 3600, "direction": "rise"}},
    ]);
    assert_eq!(rule["conditions"], wanted);
    assert_eq!((&rule["for_seconds"], &rule["once"]), (&json!(120), &json!(true)));
    assert_eq!(rule["tags"], json!(["outdoor"]));
    assert_eq!(rule["area"]["shape"]["type"], "circle");

    // It holds from the fourth minute on, and alerts two minutes later, once.
    publish(&mut client, "data/roof-1", 3, &[20.0, 31.0, 29.0, 28.5, 30.0]);
    within(Duration::from_secs(10), "the alert", || {
        Ok((stack.api().all("/v1/alerts")?.len() == 1).then_some(()))
    })
    .unwrap();
    let alert = stack.api().all("/v1/alerts").unwrap().remove(0);
    assert_eq!(alert["time"], "2026-01-02T03:06:00Z");
    handle_alert(&console);
    assert_eq!(stack.api().all("/v1/alerts").unwrap()[0]["state"], "cleared");

    console.go(&stack, "/device/roof-1");
    console.state("device-health", "stable");
    browser.find("chart").unwrap();
    drop(client);
    console.state("device-health", "disconnected");
    browser
        .until(
            "two entries of its history",
            "return document.querySelectorAll('[data-test=\"health-history\"] li').length === 2",
        )
        .unwrap();
    console.look("6-device");
    browser.click("nav-devices").unwrap();
    browser.choose("devices-health", "disconnected").unwrap();
    browser
        .until(
            "one device in the list",
            "return document.querySelectorAll('[data-test=\"devices-list\"] tbody tr').length === 1",
        )
        .unwrap();
    console.look("7-devices");
    in_korean_and_dark(&stack, &console, rule["id"].as_str().unwrap());
    assert_eq!(browser.complaints().unwrap(), Vec::<String>::new());
}

fn write_rule(console: &Console) {
    let browser = &console.browser;
    browser.click("nav-rules").unwrap();
    browser.click("rule-new").unwrap();
    browser.fill("rule-name", "Heat").unwrap();
    browser.choose("rule-value", "temp").unwrap();
    browser.fill("rule-min", "30").unwrap();
    browser.click("rule-hold").unwrap();
    browser.fill("rule-min-hold", "28").unwrap();
    browser.click("rule-and").unwrap();
    browser.click("rule-kind-compare-1").unwrap();
    browser.choose("rule-compare", "at-least").unwrap();
    browser.choose("rule-other", "dew").unwrap();
    browser.fill("rule-plus", "2").unwrap();
    browser.click("rule-and").unwrap();
    browser.click("rule-kind-change-2").unwrap();
    browser.choose("rule-direction", "rise").unwrap();
    browser.fill("rule-by", "5").unwrap();
    browser.fill("rule-within", "60").unwrap();
    browser.fill("rule-minutes", "2").unwrap();
    browser.click("rule-which").unwrap();
    browser.fill("rule-tags", "outdoor").unwrap();
    browser.click("rule-area").unwrap();
    browser.fill("rule-metres", "50000").unwrap();
    browser.click("rule-once").unwrap();
    browser.fill("rule-email", "ops@example.com").unwrap();
    console.look("2-rule");
    browser.click("rule-save").unwrap();
    browser.find("rule-item-Heat").unwrap();
    console.look("3-rules");
}

fn handle_alert(console: &Console) {
    let browser = &console.browser;
    browser.click("tab-alerts").unwrap();
    browser.click("alert-acknowledge").unwrap();
    browser.find("alert-clear").unwrap();
    console.look("4-alerts");
    browser.click("alert-why").unwrap();
    browser.find("why-readings").unwrap();
    browser.fill("alert-note", "opened a window").unwrap();
    console.look("5-why");
    browser.keys("why-dialog", "\u{E00C}").unwrap();
    browser.click("alert-clear").unwrap();
    browser
        .until(
            "a cleared alert",
            "return document.querySelector('[data-test=\"alerts-list\"] tr[data-state=\"cleared\"]') !== null",
        )
        .unwrap();
}

fn in_korean_and_dark(stack: &Stack, console: &Console, rule: &str) {
    let browser = &console.browser;
    browser
        .script("localStorage.setItem('madang.language', 'ko'); localStorage.setItem('madang.theme', 'dark'); location.reload();")
        .unwrap();
    browser.find("nav-overview").unwrap();
    for (name, path, hook) in [
        ("8-map-ko-dark", "/map?device=roof-1".to_owned(), "panel-device"),
        ("9-rule-ko-dark", format!("/rules/{rule}"), "rule-versions"),
        ("10-alerts-ko-dark", "/rules/alerts".to_owned(), "alerts-list"),
        ("11-device-ko-dark", "/device/roof-1".to_owned(), "health-history"),
    ] {
        console.go(stack, &path);
        browser.find(hook).unwrap();
        console.look(name);
    }
    browser.click("nav-rules").unwrap();
    browser.click("tab-alerts").unwrap();
    browser.click("alert-why").unwrap();
    browser.find("why-reasons").unwrap();
    console.look("12-why-ko-dark");
    browser.keys("why-dialog", "\u{E00C}").unwrap();
    browser.resize(390, 844).unwrap();
    console.go(stack, &format!("/rules/{rule}"));
    browser.find("rule-save").unwrap();
    console.look("13-rule-phone");
    console.go(stack, "/device/roof-1");
    browser.find("health-history").unwrap();
    console.look("14-device-phone");
}
