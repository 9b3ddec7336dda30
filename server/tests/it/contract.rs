//! What later parts and outside programs rely on: the announcement, the reading, SQL, the streams.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Launch, MqttClient, Stack, within};

use crate::launch;

fn device(stack: &Stack, name: &str) -> MqttClient {
    MqttClient::connect(stack.mqtt_address(), name, stack.mqtt_user(), stack.mqtt_password())
        .unwrap()
}

fn publish(client: &mut MqttClient, topic: &str, payload: &str) {
    client.publish(topic, 7, payload.as_bytes()).unwrap();
    assert_eq!(client.puback().unwrap().0, 7);
}

/// Waits until a query gives exactly these rows.
fn rows_become(stack: &Stack, sql: &str, wanted: &Value) {
    within(Duration::from_secs(20), sql, || {
        let rows = json!(stack.api().sql(sql)?);
        anyhow::ensure!(rows == *wanted, "{rows}");
        Ok(Some(()))
    })
    .unwrap();
}

const READING: &str = r#"{"sensor":"weather","time":"2013-01-01T06:00:00-05:00","values":{"temp":39.0,"humid":59.4,"gust":null}}"#;

#[test]
fn the_first_reading_registers_its_device_and_sent_again_it_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    first_reading(&launch(&folder));
}

pub(crate) fn first_reading(launch: &Launch) {
    let stack = launch.start().unwrap();
    let mut client = device(&stack, "roof-1");
    publish(&mut client, "data/roof-1", READING);
    publish(&mut client, "data/roof-1", READING);
    publish(&mut client, "data/roof-1", &READING.replace("39.0", "41.5"));
    publish(&mut client, "data/roof-1", &READING.replace("06:00", "07:00"));
    let sql = "SELECT device, sensor, time, name, value FROM readings ORDER BY time, name";
    let wanted = json!([
        ["roof-1", "weather", "2013-01-01T11:00:00Z", "humid", 59.4],
        ["roof-1", "weather", "2013-01-01T11:00:00Z", "temp", 39.0],
        ["roof-1", "weather", "2013-01-01T12:00:00Z", "humid", 59.4],
        ["roof-1", "weather", "2013-01-01T12:00:00Z", "temp", 39.0],
    ]);
    rows_become(&stack, sql, &wanted);

    let devices = stack.api().all("/v1/devices").unwrap();
    assert_eq!(devices.len(), 1, "{devices:?}");
    assert_eq!(devices[0]["name"], "roof-1");
    let sensors = stack.api().all("/v1/sensors").unwrap();
    assert_eq!(sensors[0]["name"], "weather", "{sensors:?}");

    // The same after a restart, where nothing is remembered but what is on disk.
    stack.terminate().unwrap();
    let stack = launch.start().unwrap();
    let mut client = device(&stack, "roof-1");
    publish(&mut client, "data/roof-1", &READING.replace("39.0", "43.0"));
    publish(&mut client, "data/roof-1", &READING.replace("06:00", "05:00"));
    rows_become(&stack, "SELECT count(*), count(DISTINCT time) FROM readings", &json!([[6, 3]]));
    rows_become(&stack, "SELECT max(value) FROM readings WHERE name = 'temp'", &json!([[39.0]]));
}

#[test]
fn what_cannot_be_taken_is_a_dead_letter_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = device(&stack, "roof-1");
    let bad = [
        "not json",
        r#"{"sensor":"weather","time":"2013-01-01T06:00:00","values":{"temp":1}}"#,
        r#"{"sensor":"weather","time":"2013-01-01T06:00:00Z","values":{"temp":"warm"}}"#,
        r#"{"sensor":"weather","time":"2013-01-01T06:00:00Z","values":{"temp":1},"surprise":1}"#,
        r#"{"sensor":"weather","time":"2013-01-01T06:00:00Z","values":{}}"#,
    ];
    for payload in bad {
        publish(&mut client, "data/roof-1", payload);
    }
    publish(&mut client, "data/roof-1", READING);
    rows_become(&stack, "SELECT count(DISTINCT time) FROM readings", &json!([[1]]));
    let letters = stack.api().all("/v1/dead-letters").unwrap();
    assert_eq!(letters.len(), bad.len(), "{letters:#?}");
    for letter in &letters {
        assert!(!letter["reason"].as_str().unwrap().is_empty(), "{letter}");
    }
}

#[test]
fn a_devices_key_opens_its_own_topic_only() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let sensor = json!({"name": "weather", "values": [{"name": "temp", "unit": "°C"}, {"name": "humid", "unit": "%"}]});
    stack.api().post("/v1/sensors", &sensor).unwrap().ok().unwrap();
    for name in ["roof-1", "roof-2"] {
        let device = json!({"name": name, "sensors": ["weather"]});
        stack.api().post("/v1/devices", &device).unwrap().ok().unwrap();
    }
    let key = stack.api().post("/v1/devices/roof-1/keys", &json!({})).unwrap().ok().unwrap();
    let (user, password) =
        (key["mqtt_user"].as_str().unwrap(), key["mqtt_password"].as_str().unwrap());
    let mut client = MqttClient::connect(stack.mqtt_address(), "roof-1", user, password).unwrap();
    publish(&mut client, "data/roof-1", READING);
    rows_become(&stack, "SELECT DISTINCT device FROM readings", &json!([["roof-1"]]));
    // MQTT 3.1.1 has no word for it: acknowledged and dropped (section 3.3.5).
    client.publish("data/roof-2", 8, READING.as_bytes()).unwrap();
    assert_eq!(client.puback().unwrap().0, 8);
    publish(&mut client, "data/roof-1", &READING.replace("06:00", "08:00"));
    rows_become(&stack, "SELECT DISTINCT device FROM readings", &json!([["roof-1"]]));
    assert_eq!(
        stack.stranger().bearer(key["token"].as_str().unwrap()).get("/v1/keys").unwrap().status,
        403
    );

    // Revoked, the open connection closes within a second or two, and a new one is refused.
    let id = key["id"].as_str().unwrap();
    stack.api().delete(&format!("/v1/keys/{id}")).unwrap().ok().unwrap();
    client.closed().unwrap();
    let code =
        MqttClient::open(stack.mqtt_address()).unwrap().log_in("roof-1", user, password).unwrap();
    assert!(code == 4 || code == 5, "CONNACK {code}");
}

#[test]
fn the_event_stream_resumes_after_the_last_event() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = device(&stack, "roof-1");
    let mut stream = stack.api().events("/v1/events?topic=readings").unwrap();
    publish(&mut client, "data/roof-1", READING);
    let (id, event, data) = stream.next_event().unwrap().unwrap();
    assert_eq!(event, "reading");
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data["device"], "roof-1");
    assert_eq!(data["time"], "2013-01-01T11:00:00Z");
    drop(stream);
    for hour in ["07:00", "08:00", "09:00"] {
        publish(&mut client, "data/roof-1", &READING.replace("06:00", hour));
    }
    let again = stack.api().header("last-event-id", &id);
    let mut stream = again.events("/v1/events?topic=readings").unwrap();
    for hour in [12, 13, 14] {
        let (_, _, data) = stream.next_event().unwrap().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(data["time"], format!("2013-01-01T{hour}:00:00Z"));
    }
}

#[test]
fn sql_answers_in_three_forms_and_only_reads() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = device(&stack, "roof-1");
    publish(&mut client, "data/roof-1", READING);
    rows_become(&stack, "SELECT count(*) FROM readings", &json!([[2]]));
    let question = json!({"sql": "SELECT name, value FROM readings ORDER BY name"});
    let answer = stack.api().post("/v1/sql", &question).unwrap().ok().unwrap();
    assert_eq!(
        answer["columns"],
        json!([{"name": "name", "type": "text"}, {"name": "value", "type": "double"}])
    );
    let csv = stack.api().header("accept", "text/csv").post("/v1/sql", &question).unwrap();
    assert_eq!(String::from_utf8_lossy(&csv.body), "name,value\r\nhumid,59.4\r\ntemp,39.0\r\n");
    let arrow = stack.api().header("accept", "application/vnd.apache.arrow.stream");
    let arrow = arrow.post("/v1/sql", &question).unwrap();
    assert_eq!(&arrow.body[..4], [0xFF; 4], "an Arrow stream begins with its continuation mark");
    for sql in [
        "DROP TABLE readings",
        "DELETE FROM readings",
        "INSERT INTO readings VALUES (1)",
        "COPY readings TO '/tmp/x'",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "SELECT 1; SELECT 2",
        "SELECT * FROM '/etc/passwd'",
    ] {
        let refused = stack.api().post("/v1/sql", &json!({ "sql": sql })).unwrap();
        assert!((400..500).contains(&refused.status), "{sql}: {}", refused.status);
    }
    rows_become(&stack, "SELECT count(*) FROM readings", &json!([[2]]));
}

#[test]
fn without_a_mail_server_mails_are_kept_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    mails_are_kept(&launch(&folder));
}

pub(crate) fn mails_are_kept(launch: &Launch) {
    let stack = launch.start().unwrap();
    let sensor = json!({"name": "weather", "values": [{"name": "temp", "unit": "°C"}]});
    stack.api().post("/v1/sensors", &sensor).unwrap().ok().unwrap();
    let rule = json!({
        "name": "온도 경보", "sensor": "weather", "enabled": true,
        "conditions": [{"value": "temp", "ranges": [{"min": 30.0, "max": null}]}],
        "window": null, "cooldown_seconds": 180,
        "actions": [{"type": "email", "to": "ops@example.com"}],
    });
    stack.api().post("/v1/rules", &rule).unwrap().ok().unwrap();
    let mut client = device(&stack, "roof-1");
    publish(
        &mut client,
        "data/roof-1",
        r#"{"sensor":"weather","time":"2013-01-01T06:00:00Z","values":{"temp":31}}"#,
    );
    let messages = within(Duration::from_secs(10), "the mail", || {
        let messages = stack.api().all("/v1/messages")?;
        Ok((!messages.is_empty()).then_some(messages))
    })
    .unwrap();
    assert_eq!(messages[0]["state"], "held");
    assert_eq!(messages[0]["to"], "ops@example.com");
    assert!(messages[0]["subject"].as_str().unwrap().contains("온도 경보"), "{}", messages[0]);
}

#[test]
fn a_request_sent_again_under_its_key_is_done_once_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    done_once(&launch(&folder));
}

pub(crate) fn done_once(launch: &Launch) {
    let stack = launch.start().unwrap();
    let sensor = |name: &str| json!({"name": name, "values": [{"name": "temp", "unit": "°C"}]});
    let keyed = |stack: &Stack| stack.api().header("idempotency-key", "once-1");
    let first = keyed(&stack).post("/v1/sensors", &sensor("weather")).unwrap();
    assert_eq!(first.status, 201);
    let again = keyed(&stack).post("/v1/sensors", &sensor("weather")).unwrap();
    assert_eq!((again.status, &again.body), (201, &first.body));
    let plain = stack.api().post("/v1/sensors", &sensor("weather")).unwrap();
    assert_eq!(plain.status, 409, "without the key it is a second one");
    assert_eq!(keyed(&stack).post("/v1/sensors", &sensor("other")).unwrap().status, 422);
    let secret = keyed(&stack).post("/v1/keys", &json!({"label": "x", "grants": []})).unwrap();
    assert_eq!(secret.status, 400, "a secret is not kept");
    // An administrator's key is made anew at each start, so this one is its own.
    let grants = json!([{"action": "*", "resource": "*"}]);
    let key = stack.api().post("/v1/keys", &json!({"label": "mine", "grants": grants}));
    let key = key.unwrap().ok().unwrap();
    let token = key["token"].as_str().unwrap();
    let mine = |stack: &Stack| stack.stranger().bearer(token).header("idempotency-key", "once-2");
    let first = mine(&stack).post("/v1/sensors", &sensor("soil")).unwrap();
    assert_eq!(first.status, 201);
    stack.terminate().unwrap();
    let stack = launch.start().unwrap();
    let again = mine(&stack).post("/v1/sensors", &sensor("soil")).unwrap();
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(stack.api().all("/v1/sensors").unwrap().len(), 2);
}
