use base::ErrorKind;
use eventlog::Record;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_is_in_sql_and_its_alert_and_mail_are_there_once() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 180).await;
    let payload = json!({
        "sensor": "weather",
        "time": "2013-01-01T06:00:00-05:00",
        "values": {"temp": 91.5, "humid": null}
    });
    stack.stored("EWR", &[payload]).await;
    stack.settled().await;

    assert_eq!(stack.rows().await, json!([["EWR", 1_357_038_000, "temp", 91.5]]));
    assert_eq!(stack.alerts().await, [("EWR".into(), "2013-01-01T11:00:00Z".into())]);
    assert_eq!(stack.mails().await, [("keeper@example.org".into(), "hot: EWR".into())]);
    let device = stack.get("/v1/devices/EWR").await;
    let last = json!([{
        "sensor": "weather",
        "time": "2013-01-01T11:00:00Z",
        "values": {"temp": 91.5},
        "received": NOW
    }]);
    assert_eq!(device["last"], last);
    assert_eq!(device["sensors"], json!(["weather"]));
    let overview = stack.devices.overview(OrganisationId::DEFAULT).await.unwrap();
    assert_eq!((overview.readings_total, overview.alerts_total, overview.alerts_today), (1, 1, 1));
    assert_eq!((overview.devices, overview.sensors, overview.rules), (1, 1, 1));
    assert!(overview.readings_per_second > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_sent_again_changes_nothing() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    let first = [reading(10, 91.0), reading(30, 93.0), reading(20, 92.0)];
    stack.stored("EWR", &first).await;
    stack.settled().await;
    let expected = stack.rows().await;
    assert_eq!(expected.as_array().unwrap().len(), 3, "a late reading is taken too");

    // The same, other values, in another order, twice in one batch, on a clean and on a killed server.
    let again = [reading(30, 93.0), reading(10, 191.0), reading(20, 92.0), reading(20, 192.0)];
    stack.stored("EWR", &again).await;
    stack.settled().await;
    assert_eq!(stack.rows().await, expected);
    let stack = stack.restart().await;
    stack.stored("EWR", &again).await;
    stack.settled().await;
    assert_eq!(stack.rows().await, expected);
    let stack = stack.killed().await;
    stack.stored("EWR", &again).await;
    stack.settled().await;

    assert_eq!(stack.rows().await, expected);
    assert_eq!(stack.alerts().await.len(), 3);
    assert_eq!(stack.mails().await.len(), 3);
    let last = stack.get("/v1/devices/EWR").await["last"][0].clone();
    assert_eq!((&last["time"], &last["values"]["temp"]), (&json!(at(30)), &json!(93.0)));
    let overview = stack.devices.overview(OrganisationId::DEFAULT).await.unwrap();
    assert_eq!(overview.readings_total, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_step_a_kill_hits_each_reading_and_alert_is_there_once() {
    for step in [Step::Fetched, Step::Buried, Step::Committed, Step::Appended] {
        let stack = Stack::start().await;
        stack.weather_sensor().await;
        stack.hot_rule(90.0, 60).await;
        stack.stored("EWR", &[reading(0, 95.0), reading(120, 50.0)]).await;
        stack.settled().await;
        stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap().table.flush().await.unwrap();
        stack.stored("JFK", &[reading(0, 95.0)]).await;
        stack.settled().await;

        stack.devices.house.hook.arm(step);
        // Late, repeated, new and quiet readings in the batch that is killed.
        let payloads = [
            reading(60, 96.0),
            reading(0, 99.0),
            reading(240, 97.0),
            reading(240, 98.0),
            reading(241, 99.0),
        ];
        stack.stored("EWR", &payloads).await;
        stack.devices.house.hook.reached().await;
        let stack = stack.killed().await;
        // The sender did not hear about some of them and sends all of them again.
        stack.stored("EWR", &payloads).await;
        stack.stored("JFK", &[reading(0, 95.0)]).await;
        stack.settled().await;

        let expected = json!([
            ["EWR", 1_356_998_400, "temp", 95.0],
            ["EWR", 1_356_998_460, "temp", 96.0],
            ["EWR", 1_356_998_520, "temp", 50.0],
            ["EWR", 1_356_998_640, "temp", 97.0],
            ["EWR", 1_356_998_641, "temp", 99.0],
            ["JFK", 1_356_998_400, "temp", 95.0],
        ]);
        assert_eq!(stack.rows().await, expected, "{step:?}");
        let alerts = [("EWR", 0), ("EWR", 60), ("EWR", 240), ("JFK", 0)];
        let alerts = alerts.map(|(device, second)| (device.to_owned(), at(second)));
        assert_eq!(stack.alerts().await, alerts, "{step:?}");
        assert_eq!(stack.mails().await.len(), 4, "{step:?}");
        let told = eventually("all alerts are told", async || {
            let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
            let told = fleet.alerts.fetch(0, 0, 1 << 20).await.unwrap();
            (told.len() >= 4).then_some(told)
        })
        .await;
        let mut ids: Vec<_> = told.iter().map(|stored| stored.record.value.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4, "{step:?}: an alert told again is the same alert");
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_is_behind_by_many_batches_catches_up() {
    let config = Config { batch_readings_max: 3, ..Config::default() };
    let stack = Stack::with(config).await;
    for second in 0..20 {
        stack.stored("EWR", &[reading(second * 10, 50.0), reading(second * 5, 60.0)]).await;
    }
    stack.settled().await;
    let expected = stack.rows().await;
    let stack = stack.killed().await;
    stack.settled().await;
    assert_eq!(stack.rows().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_no_reading_becomes_a_dead_letter_and_stops_nobody() {
    let stack = Stack::start().await;
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    let foreign = |value: &str| Record {
        timestamp: NOW.parse().unwrap(),
        key: None,
        value: value.to_owned().into(),
        headers: Vec::new(),
    };
    let other =
        json!({"device": "kafka-1", "sensor": "weather", "time": at(0), "values": {"temp": 1}});
    let records = vec![foreign("not JSON"), foreign(&other.to_string()), foreign("{}")];
    fleet.readings.append(0, records).await.unwrap();
    stack.stored("EWR", &[reading(1, 51.0)]).await;
    stack.settled().await;
    let devices = stack.sql("SELECT device, COUNT(*) FROM readings GROUP BY 1 ORDER BY 1").await;
    assert_eq!(devices, json!([["EWR", 2], ["kafka-1", 1]]));
    let letters = stack.all_letters().await;
    assert_eq!(letters.len(), 2);
    assert_eq!((&*letters[1].topic, &*letters[1].payload), ("readings/0/1", "not JSON"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_device_is_registered_by_those_who_may_and_a_dead_letter_from_others() {
    let stack = Stack::start().await;
    let sender = principal("sender");
    let bytes = reading(0, 50.0).to_string().into_bytes();
    let refused = stack.devices.accept(&sender, "EWR", &bytes).await;
    let Outcome::Refused { reason } = refused else { panic!("{refused:?}") };
    assert!(reason.contains("\"EWR\" is not registered"), "{reason}");
    stack.stored("EWR", &[reading(1, 50.0)]).await;
    assert_eq!(stack.devices.accept(&sender, "EWR", &bytes).await, Outcome::Stored);
    // A new value of a known sensor, and a known sensor on a device that does not carry it.
    let humid = json!({"sensor": "weather", "time": at(2), "values": {"temp": 1, "humid": 2}});
    let refused = stack.devices.accept(&sender, "EWR", humid.to_string().as_bytes()).await;
    assert!(matches!(refused, Outcome::Refused { .. }), "{refused:?}");
    stack.stored("EWR", &[humid]).await;
    stack.settled().await;
    let letters = stack.all_letters().await;
    assert_eq!(letters.len(), 2);
    assert_eq!((&*letters[1].topic, &*letters[1].from), ("data/EWR", "sender"));
    assert!(letters[0].reason.contains("no value \"humid\""), "{letters:?}");
    let sensor = stack.get("/v1/sensors/weather").await;
    assert_eq!(sensor["values"][1]["name"], "humid");
    let stack = stack.restart().await;
    assert_eq!(stack.get("/v1/sensors/weather").await, sensor, "it is in the rows as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_comes_at_once_is_registered_once() {
    let stack = Stack::start().await;
    let admin = principal("admin");
    let sends = (0..300).map(|number| {
        let (devices, admin) = (stack.devices.clone(), admin.clone());
        async move {
            let payload = reading(number / 100, 50.0).to_string();
            devices.accept(&admin, &format!("roof-{}", number % 100), payload.as_bytes()).await
        }
    });
    let outcomes = futures::future::join_all(sends).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
    stack.settled().await;
    let count = async |sql: &'static str| {
        let count = async move |read: &mut Read| read.query_one(sql, params![]).await;
        stack.db.read(count).await.unwrap().get::<i64>("number").unwrap()
    };
    assert_eq!(count("SELECT COUNT(*) AS number FROM devices").await, 100);
    assert_eq!(count("SELECT COUNT(*) AS number FROM sensors").await, 1);
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_refuse_with_their_name_and_nothing_is_dropped_silently() {
    let config = Config { devices_max: 1, payload_bytes_max: 200, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    let refused = stack.send("JFK", &reading(0, 50.0)).await;
    let Outcome::Refused { reason } = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "the organisation has no room for another device: the limit is 1");
    let long = json!({"sensor": "x".repeat(300), "time": at(0), "values": {"temp": 1}});
    assert!(matches!(stack.send("EWR", &long).await, Outcome::Refused { .. }));
    assert_eq!(stack.all_letters().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_takes_nothing_is_not_acknowledged() {
    let stack = Stack::start().await;
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    stack.log.close().await;
    assert_eq!(stack.send("EWR", &reading(1, 50.0)).await, Outcome::Unavailable);
    assert_eq!(stack.send("EWR", &json!("no reading")).await, Outcome::Unavailable);
    let (status, _) = stack
        .request("admin", Method::POST, "/v1/devices/EWR/readings", Some(&reading(1, 50.0)))
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_alerts_than_one_commit_takes_come_with_the_next() {
    let config = Config { batch_alerts_max: 3, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    stack.hot_rule(80.0, 0).await;
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    let payloads: Vec<Vec<u8>> =
        (0..50).map(|n| reading(n, 95.0).to_string().into_bytes()).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    fleet.take(&principal("admin"), "EWR", &payloads).await.unwrap();
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 100);
    assert_eq!(stack.mails().await.len(), 100);
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_ahead_of_a_batch_that_was_cut_is_read_again() {
    let config = Config { batch_alerts_max: 3, batch_readings_max: 10, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    // Batches of ten, each cut where it has three alerts, with more behind it.
    let of =
        |n: usize| reading(n.try_into().unwrap(), if n.is_multiple_of(3) { 95.0 } else { 5.0 });
    let payloads: Vec<Vec<u8>> = (0..200).map(|n| of(n).to_string().into_bytes()).collect();
    for payloads in payloads.chunks(40) {
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        fleet.take(&principal("admin"), "EWR", &payloads).await.unwrap();
    }
    stack.settled().await;
    assert_eq!(stack.alerts().await.len(), 67);
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_is_refused_is_told_at_its_alert_and_one_that_fails_is_tried_again() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    *stack.mails.refusals.lock() = vec![ErrorKind::TooMany, ErrorKind::Unavailable];
    stack.stored("EWR", &[reading(0, 95.0), reading(1, 96.0)]).await;
    stack.settled().await;
    let alerts = stack.get("/v1/alerts").await;
    let errors: Vec<_> =
        alerts["items"].as_array().unwrap().iter().map(|a| a["mail_error"].clone()).collect();
    assert_eq!(errors.len(), 2);
    assert_eq!(errors.iter().filter(|error| **error == "no mail today").count(), 1);
    assert_eq!(errors.iter().filter(|error| error.is_null()).count(), 1);
    assert_eq!(stack.mails().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_organisation_has_its_own_devices_readings_and_alerts() {
    let stack = Stack::start().await;
    stack.stored("EWR", &[reading(0, 95.0)]).await;
    let payload = reading(0, 5.0).to_string();
    let outcome = stack.devices.accept(&principal("other"), "EWR", payload.as_bytes()).await;
    assert_eq!(
        outcome,
        Outcome::Stored,
        "the same identity in another organisation is another reading"
    );
    stack.settled().await;
    stack.settled_of(OTHER).await;
    assert_eq!(stack.rows().await, json!([["EWR", 1_356_998_400, "temp", 95.0]]));
    let (_, device) = stack.request("other", Method::GET, "/v1/devices/EWR", None).await;
    assert_eq!(device["last"][0]["values"]["temp"], 5.0);
    stack.weather_sensor_is_there().await;
}

impl Stack {
    async fn weather_sensor_is_there(&self) {
        let (status, _) = self.request("other", Method::GET, "/v1/sensors/weather", None).await;
        assert_eq!(status, StatusCode::OK);
        self.expect(StatusCode::NO_CONTENT, Method::DELETE, "/v1/sensors/weather", None).await;
        let (status, _) = self.request("other", Method::GET, "/v1/sensors/weather", None).await;
        assert_eq!(status, StatusCode::OK, "the other's sensor is another one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_was_set_back_takes_nothing_twice() {
    let stack = Stack::start().await;
    stack.stored("EWR", &[reading(0, 50.0)]).await;
    stack.settled().await;
    let back = async |tx: &mut Tx| {
        tx.execute("UPDATE pipelines SET next_offset = 0", params![]).await?;
        Ok::<_, Error>(())
    };
    stack.db.write(back).await.unwrap();
    stack.stored("EWR", &[reading(1, 51.0)]).await;
    stack.settled().await;
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 2, "what is read again is known");
    assert!(stack.base.metrics.text().contains("task_restarts_total{task=\"devices-pipeline\"} 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_were_deleted_before_they_were_taken_do_not_stop_those_after_them() {
    let stack = Stack::start().await;
    stack.devices.house.hook.arm(Step::Fetched);
    let padded = |second: i64| json!({"sensor": "weather", "time": at(second), "values": {"x".repeat(100): second}});
    for second in 0..300 {
        stack.stored("EWR", &[padded(second)]).await;
    }
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    let start = fleet.readings.trim(0, 300).await.unwrap();
    assert!(start > 0, "a segment was deleted");
    drop(fleet);
    let stack = stack.restart().await;
    stack.settled().await;
    assert_eq!(stack.rows().await.as_array().unwrap().len() as u64, 300 - start);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_together_are_answered_one_by_one() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.hot_rule(90.0, 0).await;
    let payload = |second: i64, temp: f64| reading(second, temp).to_string();
    let given = [
        ("data/EWR", payload(0, 95.0)),
        ("data/EWR", "nothing".to_owned()),
        ("news", payload(1, 95.0)),
        ("data/JFK", payload(2, 50.0)),
        ("command/EWR", "{}".to_owned()),
        ("data/EWR", payload(3, 96.0)),
        ("answer/EWR", "nothing".to_owned()),
        ("data/EWR", payload(3, 97.0)),
    ];
    let given: Vec<(&str, &[u8])> =
        given.iter().map(|(topic, payload)| (*topic, payload.as_bytes())).collect();
    let answers = stack.devices.receive_all(&principal("admin"), &given).await;
    let kinds: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            None => "none".to_owned(),
            Some((device, Outcome::Stored)) => format!("{device} stored"),
            Some((device, Outcome::Refused { .. })) => format!("{device} refused"),
            Some((device, other)) => format!("{device} {other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "EWR stored",
            "EWR refused",
            "none",
            "JFK stored",
            "EWR Denied",
            "EWR stored",
            "EWR refused",
            "EWR stored"
        ]
    );
    stack.settled().await;
    assert_eq!(stack.all_letters().await.len(), 2);
    let rows = json!([
        ["EWR", 1_356_998_400, "temp", 95.0],
        ["EWR", 1_356_998_403, "temp", 96.0],
        ["JFK", 1_356_998_402, "temp", 50.0],
    ]);
    assert_eq!(stack.rows().await, rows, "of two with one time the first counts");
    assert_eq!(stack.alerts().await.len(), 2);
    assert_eq!(stack.devices.house.meters.accepted.get(), 4);

    stack.log.close().await;
    let answers = stack.devices.receive_all(&principal("admin"), &given[..4]).await;
    let lost =
        |answer: &Option<(&str, Outcome)>| matches!(answer, None | Some((_, Outcome::Unavailable)));
    assert!(answers.iter().all(lost), "{answers:?}");
}
