//! Readings of the past from a table.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_readings_goes_in_once_and_tells_what_it_refused() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.post("/v1/devices", &json!({"name": "EWR", "sensors": ["weather"]})).await;
    let csv = "device,time,temp,humid\nEWR,2013-01-01 06:00:00,39.0,59.4\nEWR,2013-01-01 07:00:00,,\n\
               EWR,2013-01-01 08:00:00,warm,\nEWR,someday,1,\nEWR,2013-01-01T09:00:00Z,41.5,\n";
    let body = json!({"csv": csv, "sensor": "weather", "zone": "America/New_York"});
    for _ in 0..2 {
        let answer = stack
            .expect(StatusCode::ACCEPTED, Method::POST, "/v1/readings-import", Some(body.clone()))
            .await;
        assert_eq!(
            (&answer["accepted"], &answer["empty"], &answer["refused"]),
            (&json!(2), &json!(1), &json!(2))
        );
        let places: Vec<_> =
            answer["reasons"].as_array().unwrap().iter().map(|it| &it["index"]).collect();
        assert_eq!(places, [&json!(2), &json!(3)]);
    }
    stack.settled().await;
    let rows = json!([
        ["EWR", 1_357_030_800, "temp", 41.5],
        ["EWR", 1_357_038_000, "humid", 59.4],
        ["EWR", 1_357_038_000, "temp", 39.0],
    ]);
    assert_eq!(stack.rows().await, rows);
    let refused = stack
        .expect(
            StatusCode::UNPROCESSABLE_ENTITY,
            Method::POST,
            "/v1/readings-import",
            Some(json!({"csv": "time,temp\n", "device": "EWR"})),
        )
        .await;
    assert_eq!(refused["errors"][0]["pointer"], "/csv");
}
