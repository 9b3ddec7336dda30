use futures::StreamExt;

use super::*;

impl Stack {
    /// Waits until the device is in this state.
    async fn health(&self, device: &str, state: &str, reason: &str) {
        let path = format!("/v1/devices/{device}");
        eventually(&format!("{device} is {state}, {reason}"), async || {
            let health = &self.get(&path).await["health"];
            (health["state"] == state && health["reason"] == reason).then_some(())
        })
        .await;
    }

    async fn guarded_sensor(&self) {
        let sensor = json!({
            "name": "weather",
            "values": [{"name": "temp", "unit": "°F"}],
            "silent_after_seconds": 60
        });
        self.post("/v1/sensors", &sensor).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_device_is_told_and_its_history_outlives_a_restart() {
    let stack = Stack::start().await;
    stack.guarded_sensor().await;
    stack.post("/v1/devices", &json!({"name": "EWR", "sensors": ["weather"]})).await;
    assert_eq!(stack.get("/v1/devices/EWR").await["health"]["state"], "unknown");
    let mut events = stack.events("?topic=health", None).await;
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    stack.health("EWR", "stable", "heard").await;
    let event = events.next().await.unwrap();
    assert!(event.contains("event: health") && event.contains("\"was\":\"unknown\""), "{event}");

    stack.base.clock.advance(Duration::from_mins(1));
    // Beside other tests only a standstill is told from a loaded machine.
    let told = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
    let event = told.expect("soon").unwrap();
    assert!(event.contains("\"state\":\"disconnected\""), "{event}");
    assert!(event.contains("\"silent\":[\"weather\"]"), "{event}");
    let found = stack.get("/v1/devices?health=disconnected").await;
    assert_eq!(found["items"][0]["name"], "EWR");
    assert_eq!(stack.get("/v1/devices?health=stable").await["items"], json!([]));

    let stack = stack.restart().await;
    stack.health("EWR", "disconnected", "silent").await;
    let history = stack.get("/v1/devices/EWR/health?limit=1").await;
    assert_eq!(history["items"][0]["state"], "disconnected");
    let next = history["next"].as_str().unwrap();
    let rest = stack.get(&format!("/v1/devices/EWR/health?after={next}")).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest["items"][0]["state"], "stable");
    // Any reading is a sign of life, one that was there before too.
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    stack.health("EWR", "stable", "heard").await;
    let without = json!({"silent_after_seconds": null});
    stack.base.clock.advance(Duration::from_hours(1));
    stack.health("EWR", "disconnected", "silent").await;
    stack.expect(StatusCode::OK, Method::PATCH, "/v1/sensors/weather", Some(without)).await;
    stack.health("EWR", "unknown", "quiet").await;
    stack.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/devices/EWR", None).await;
    stack.expect(StatusCode::NOT_FOUND, Method::GET, "/v1/devices/EWR/health", None).await;
    stack.post("/v1/devices", &json!({"name": "EWR", "sensors": ["weather"]})).await;
    let history = stack.get("/v1/devices/EWR/health").await;
    assert_eq!(history["items"], json!([]), "a device of the same name begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_a_sign_of_the_devices_that_it_carries() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    for name in ["EWR", "JFK"] {
        stack.post("/v1/devices", &json!({"name": name, "sensors": ["weather"]})).await;
    }
    let admin = principal("admin");
    // A client that is called as a device is that device, when it may publish as it.
    stack.devices.client_arrived(&admin, "EWR");
    stack.health("EWR", "stable", "connected").await;
    stack.devices.client_arrived(&principal("sender"), "JFK");
    stack.devices.client_arrived(&principal("other"), "JFK");
    stack.devices.client_carries(&admin, "gateway", "EWR");
    stack.devices.client_carries(&admin, "gateway", "JFK");
    stack.health("JFK", "stable", "connected").await;
    stack.devices.client_left(&admin, "gateway", true);
    stack.health("JFK", "disconnected", "lost").await;
    stack.health("EWR", "stable", "connected").await;
    stack.devices.client_arrived(&admin, "gateway");
    stack.health("JFK", "stable", "connected").await;
    stack.devices.client_left(&admin, "gateway", false);
    stack.health("JFK", "unknown", "never-heard").await;

    // The server stops while it is connected, and it does not come back.
    let stack = stack.restart().await;
    stack.health("EWR", "stable", "connected").await;
    stack.base.clock.advance(Config::default().health_reconnect_max);
    stack.health("EWR", "disconnected", "lost").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_battery_is_a_part_of_health_and_has_a_history() {
    let stack = Stack::start().await;
    let says = |second: i64, percent: f64| json!({"sensor": "power", "time": at(second), "values": {"battery": percent}});
    stack.stored("roof", &[says(0, 80.0), says(60, 14.5), says(30, 50.0)]).await;
    stack.settled().await;
    let health = eventually("the battery is low", async || {
        let device = stack.get("/v1/devices/roof").await;
        (device["health"]["reason"] == "battery-low").then(|| device["health"].clone())
    });
    let health = health.await;
    assert_eq!(health["state"], "unstable");
    assert_eq!(health["battery"], json!({"percent": 14.5, "time": at(60)}));
    let first = stack.get("/v1/devices/roof/battery?limit=2").await;
    let percents = |page: &Value| -> Vec<f64> {
        page["items"].as_array().unwrap().iter().map(|it| it["percent"].as_f64().unwrap()).collect()
    };
    assert_eq!(percents(&first), [14.5, 50.0]);
    let path = format!("/v1/devices/roof/battery?after={}", first["next"].as_str().unwrap());
    assert_eq!(percents(&stack.get(&path).await), [80.0]);
    let stack = stack.restart().await;
    let device = stack.get("/v1/devices/roof").await;
    assert_eq!(device["health"]["battery"]["percent"], 14.5);
    assert_eq!(device["health"]["reason"], "battery-low");
    stack.stored("roof", &[says(90, 100.0)]).await;
    eventually("it is well", async || {
        (stack.get("/v1/devices/roof").await["health"]["state"] == "stable").then_some(())
    })
    .await;
}
