use super::*;
use crate::fleet::Fleet;
use crate::rollup::RolledUp;

/// Of 2013-01-01, and now is 2026-01-01.
const SO_MANY_DAYS: u32 = 4_748;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

async fn fleet(stack: &Stack) -> Arc<Fleet> {
    stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap()
}

async fn roll_up(stack: &Stack) -> RolledUp {
    let (done, failed) = fleet(stack).await.roll_up(|| true).await;
    assert!(failed.is_none(), "{failed:?}");
    done
}

impl Stack {
    async fn keep(&self, retention: Value) {
        let change = json!({ "retention": retention });
        self.expect(StatusCode::OK, Method::PATCH, "/v1/sensors/weather", Some(change)).await;
    }

    async fn rolled(&self, table: &str) -> Value {
        let sql = format!(
            "SELECT device, CAST(time AS BIGINT) / 1000000 - 1356998400, name, count, min, max, sum, avg, last, \
             CAST(last_time AS BIGINT) / 1000000 - 1356998400 FROM {table} ORDER BY 1, 2, 3"
        );
        self.sql(&sql).await
    }

    async fn count_of(&self, table: &str) -> Value {
        self.sql(&format!("SELECT count(*) FROM {table}")).await[0][0].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_says_what_its_readings_say_late_ones_too() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let early = [reading(10, 4.0), reading(50, 2.0), reading(70, 9.0), reading(HOUR, 5.0)];
    stack.stored("EWR", &early).await;
    stack.stored("EWR", &[reading(DAY, 1.0)]).await;
    stack.settled().await;
    assert_eq!(roll_up(&stack).await, RolledUp::default(), "nobody asked for roll-ups");
    stack.keep(json!({})).await;
    assert_eq!(roll_up(&stack).await.days, 2);

    let minutes = json!([
        ["EWR", 0, "temp", 2, 2.0, 4.0, 6.0, 3.0, 2.0, 50],
        ["EWR", 60, "temp", 1, 9.0, 9.0, 9.0, 9.0, 9.0, 70],
        ["EWR", HOUR, "temp", 1, 5.0, 5.0, 5.0, 5.0, 5.0, HOUR],
        ["EWR", DAY, "temp", 1, 1.0, 1.0, 1.0, 1.0, 1.0, DAY],
    ]);
    assert_eq!(stack.rolled("readings_1m").await, minutes);
    let hours = json!([
        ["EWR", 0, "temp", 3, 2.0, 9.0, 15.0, 5.0, 9.0, 70],
        ["EWR", HOUR, "temp", 1, 5.0, 5.0, 5.0, 5.0, 5.0, HOUR],
        ["EWR", DAY, "temp", 1, 1.0, 1.0, 1.0, 1.0, 1.0, DAY],
    ]);
    assert_eq!(stack.rolled("readings_1h").await, hours);
    assert_eq!(roll_up(&stack).await, RolledUp::default(), "nothing is new");

    // Late, for another device, and a repeat.
    stack.stored("EWR", &[reading(55, 1.0), reading(10, 99.0)]).await;
    stack.stored("JFK", &[reading(20, 7.0)]).await;
    stack.settled().await;
    let stack = stack.restart().await;
    assert_eq!(roll_up(&stack).await.days, 1, "the other day is as it was");
    let days = json!([
        ["EWR", 0, "temp", 5, 1.0, 9.0, 21.0, 4.2, 5.0, HOUR],
        ["EWR", DAY, "temp", 1, 1.0, 1.0, 1.0, 1.0, 1.0, DAY],
        ["JFK", 0, "temp", 1, 7.0, 7.0, 7.0, 7.0, 7.0, 20],
    ]);
    assert_eq!(stack.rolled("readings_1d").await, days);
    assert_eq!(stack.rolled("readings_1m").await[0][3], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_go_by_the_day_when_they_are_rolled_up_and_do_not_come_back() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.post("/v1/sensors", &json!({"name": "room", "values": [{"name": "temp"}]})).await;
    let other = json!({"sensor": "room", "time": at(30), "values": {"temp": 20.0}});
    stack.stored("EWR", &[reading(0, 4.0), reading(HOUR, 6.0), reading(DAY, 1.0), other]).await;
    stack.settled().await;
    stack.keep(json!({"raw_days": SO_MANY_DAYS - 1})).await;
    let done = roll_up(&stack).await;
    assert_eq!((done.days, done.deleted, done.has_more), (2, 2, false));
    let left = json!([["EWR", 1_356_998_430, "temp", 20.0], ["EWR", 1_357_084_800, "temp", 1.0]]);
    assert_eq!(stack.rows().await, left, "those of another sensor and of another day stay");
    let days = stack.rolled("readings_1d").await;
    assert_eq!(days[0], json!(["EWR", 0, "temp", 2, 4.0, 6.0, 10.0, 5.0, 6.0, HOUR]));

    // A repeat of what is gone, something late, and a device whose history begins there.
    let stack = stack.restart().await;
    stack.stored("EWR", &[reading(0, 4.0), reading(1, 50.0)]).await;
    stack.stored("JFK", &[reading(5, 3.0)]).await;
    stack.settled().await;
    assert_eq!(stack.rows().await, left);
    assert_eq!(roll_up(&stack).await, RolledUp::default());
    assert_eq!(stack.rolled("readings_1d").await, days);
    let overview = stack.devices.overview(OrganisationId::DEFAULT).await.unwrap();
    assert_eq!(overview.readings_total, 4);

    stack.keep(json!({"raw_days": 1, "minute_days": 1, "hour_days": 36_500})).await;
    let done = roll_up(&stack).await;
    assert_eq!(done.deleted, 4, "a reading and three minutes");
    assert_eq!(stack.count_of("readings_1m").await, 0);
    assert_eq!(
        (stack.count_of("readings_1h").await, stack.count_of("readings_1d").await),
        (json!(3), json!(2))
    );
    let path = |more: &str| {
        let (from, to) = (at(0), at(2 * HOUR));
        format!("/v1/devices/EWR/series?sensor=weather&value=temp&from={from}&to={to}{more}")
    };
    let series = stack.get(&path("")).await;
    assert_eq!((&series["resolution"], &series["step_seconds"]), (&json!("hour"), &json!(3_600)));
    assert_eq!(
        (&series["points"][0]["max"], &series["points"][1]["max"]),
        (&json!(4.0), &json!(6.0))
    );
    let minutes = stack.get(&path("&resolution=minute")).await;
    assert_eq!(minutes["points"], json!([]), "what was asked for is not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_too_large_for_a_sum_have_no_mean_and_their_chart_comes() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let (most, least) = (f64::MAX, f64::MIN);
    stack
        .stored(
            "EWR",
            &[reading(0, most), reading(1, most), reading(70, least), reading(71, least)],
        )
        .await;
    stack.stored("EWR", &[reading(HOUR, 2.0)]).await;
    stack.settled().await;
    let series = async |more: &str| {
        let (from, to) = (at(0), at(2 * HOUR));
        let path =
            format!("/v1/devices/EWR/series?sensor=weather&value=temp&from={from}&to={to}{more}");
        stack.get(&path).await["points"].clone()
    };
    let check = async || {
        let hours = series("&resolution=hour").await;
        assert_eq!(
            (&hours[0]["avg"], &hours[0]["max"], &hours[0]["count"]),
            (&json!(null), &json!(most), &json!(4))
        );
        assert_eq!(hours[1]["avg"], 2.0);
        let minutes = series("&resolution=minute").await;
        assert_eq!((&minutes[0]["avg"], &minutes[1]["avg"]), (&json!(null), &json!(null)));
    };
    check().await;
    stack.keep(json!({})).await;
    roll_up(&stack).await;
    check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_of_sensors_that_are_not_rolled_up_leave_no_marks() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.stored("EWR", &[reading(0, 1.0), reading(DAY, 2.0)]).await;
    stack.settled().await;
    let fleet = fleet(&stack).await;
    let organisation = fleet.organisation;
    let marks = async || {
        let read = async move |read: &mut Read| crate::rollup::rows::all(read, organisation).await;
        fleet.house.needs.db.read(read).await.unwrap().len()
    };
    assert_eq!(marks().await, 0);
    stack.keep(json!({})).await;
    assert_eq!(roll_up(&stack).await.days, 2);
    stack.stored("EWR", &[reading(2 * DAY, 3.0)]).await;
    stack.settled().await;
    assert_eq!(marks().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_step_a_kill_hits_the_roll_ups_are_whole() {
    for step in [Step::Taken, Step::Exchanged, Step::Forgotten, Step::Deleted] {
        let stack = Stack::start().await;
        stack.weather_sensor().await;
        let before = [reading(0, 4.0), reading(HOUR, 6.0), reading(DAY, 1.0)];
        stack.stored("EWR", &before).await;
        stack.settled().await;
        stack.keep(json!({"raw_days": SO_MANY_DAYS - 1})).await;
        stack.devices.house.hook.arm(step);
        let rolling = fleet(&stack).await;
        let rolling = stack.base.tasks.spawn("rolling", async move {
            let _ = rolling.roll_up(|| true).await;
        });
        stack.devices.house.hook.reached().await;
        rolling.abort();
        let stack = stack.killed().await;
        stack.settled().await;
        roll_up(&stack).await;

        assert_eq!(stack.rows().await, json!([["EWR", 1_357_084_800, "temp", 1.0]]), "{step:?}");
        let days = json!([
            ["EWR", 0, "temp", 2, 4.0, 6.0, 10.0, 5.0, 6.0, HOUR],
            ["EWR", DAY, "temp", 1, 1.0, 1.0, 1.0, 1.0, 1.0, DAY],
        ]);
        assert_eq!(stack.rolled("readings_1d").await, days, "{step:?}");
        assert_eq!(stack.count_of("readings_1m").await, 3, "{step:?}");
        assert_eq!(roll_up(&stack).await, RolledUp::default(), "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_and_not_yet_in_the_lake_is_waited_for() {
    let config = Config { roll_up_wait_max: Duration::from_secs(2), ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.keep(json!({})).await;
    stack.stored("EWR", &[reading(0, 4.0)]).await;
    stack.settled().await;
    roll_up(&stack).await;
    stack.devices.house.hook.arm(Step::Committed);
    stack.stored("EWR", &[reading(5, 6.0)]).await;
    stack.devices.house.hook.reached().await;
    // The pipeline hangs with the reading in the rows alone, so nothing is rolled up; then it is killed.
    let (_, failed) = fleet(&stack).await.roll_up(|| true).await;
    assert_eq!(failed.unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(stack.rolled("readings_1d").await[0][3], 1);
    let stack = stack.killed().await;
    stack.settled().await;
    roll_up(&stack).await;
    let days = json!([["EWR", 0, "temp", 2, 4.0, 6.0, 10.0, 5.0, 6.0, 5]]);
    assert_eq!(stack.rolled("readings_1d").await, days);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_comes_from_roll_ups_where_they_are_whole() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    let first: Vec<Value> = (0..48).map(|hour| reading(hour * HOUR, hour as f64)).collect();
    stack.stored("EWR", &first).await;
    stack.settled().await;
    let path = |more: &str| {
        format!(
            "/v1/devices/EWR/series?sensor=weather&value=temp&from={}&to={}{more}",
            at(0),
            at(2 * DAY)
        )
    };
    let asked = ["&points=2", "&points=48", "&resolution=raw", "&points=24"];
    let mut expected = Vec::new();
    for more in asked {
        let series = stack.get(&path(more)).await;
        assert_eq!(
            (&series["resolution"], &series["is_truncated"]),
            (&json!("raw"), &json!(false))
        );
        expected.push(series["points"].clone());
    }
    assert_eq!(expected[0][1]["avg"], 35.5);
    assert_eq!(expected[0][1]["last"], 47.0);
    assert_eq!(expected[1].as_array().unwrap().len(), 48);

    // The first day goes, the second is rolled up, and then it has one more.
    stack.keep(json!({"raw_days": SO_MANY_DAYS - 1})).await;
    roll_up(&stack).await;
    let resolutions = ["day", "hour", "raw", "hour"];
    for ((more, expected), resolution) in asked.iter().zip(&expected).zip(resolutions) {
        let series = stack.get(&path(more)).await;
        assert_eq!(series["resolution"], resolution);
        if resolution != "raw" {
            assert_eq!(series["points"], *expected, "{more}");
        }
    }
    assert_eq!(stack.get(&path("&resolution=raw")).await["points"].as_array().unwrap().len(), 24);
    stack.stored("EWR", &[reading(2 * DAY - 1, 100.0)]).await;
    stack.settled().await;
    let series = stack.get(&path("&points=2")).await;
    assert_eq!(
        (&series["points"][1]["max"], &series["points"][1]["count"]),
        (&json!(100.0), &json!(25))
    );
    assert_eq!(series["points"][0], expected[0][0]);
    let cut = stack.get(&path("&resolution=hour&points=3")).await;
    assert_eq!((cut["points"].as_array().unwrap().len(), &cut["is_truncated"]), (3, &json!(true)));

    for (more, status) in [
        ("&points=0", StatusCode::UNPROCESSABLE_ENTITY),
        ("&points=10001", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        stack.expect(status, Method::GET, &path(more), None).await;
    }
    let unknown = path("").replace("EWR", "nowhere");
    stack.expect(StatusCode::NOT_FOUND, Method::GET, &unknown, None).await;
    let bad = json!({"retention": {"raw_days": 0}});
    stack
        .expect(StatusCode::UNPROCESSABLE_ENTITY, Method::PATCH, "/v1/sensors/weather", Some(bad))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_the_lake_gets_what_was_kept_and_nothing_else() {
    let config = Config { roll_up_wait_max: Duration::from_secs(2), ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.stored("EWR", &[reading(0, 4.0), reading(3 * DAY, 1.0)]).await;
    stack.settled().await;
    stack.keep(json!({"raw_days": SO_MANY_DAYS - 1})).await;
    roll_up(&stack).await;
    fleet(&stack).await.table.flush().await.unwrap();

    // In one batch: a repeat of what is gone, one that is too late, and one that is kept.
    stack.devices.house.hook.arm(Step::Committed);
    let batch = [reading(0, 4.0), reading(1, 50.0), reading(DAY, 7.0)];
    let batch: Vec<Vec<u8>> = batch.iter().map(|one| one.to_string().into_bytes()).collect();
    let batch: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
    fleet(&stack).await.take(&principal("admin"), "EWR", &batch).await.unwrap();
    stack.devices.house.hook.reached().await;
    // Before the lake has it, its day is taken, and is no longer kept.
    let (_, failed) = fleet(&stack).await.roll_up(|| true).await;
    assert_eq!(failed.unwrap().kind(), ErrorKind::Unavailable);
    let before = crate::rollup::day_start(15_708);
    assert_eq!(before.to_string(), at(2 * DAY));
    let forget = async move |tx: &mut Tx| {
        crate::rollup::rows::forget(tx, OrganisationId::DEFAULT, "weather", before).await
    };
    stack.db.write(forget).await.unwrap();
    let stack = stack.killed().await;
    stack.settled().await;
    let rows = json!([
        ["EWR", 1_356_998_400 + DAY, "temp", 7.0],
        ["EWR", 1_356_998_400 + 3 * DAY, "temp", 1.0],
    ]);
    assert_eq!(stack.rows().await, rows);
    stack.keep(json!({"raw_days": SO_MANY_DAYS - 2})).await;
    roll_up(&stack).await;
    let days = json!([
        ["EWR", 0, "temp", 1, 4.0, 4.0, 4.0, 4.0, 4.0, 0],
        ["EWR", DAY, "temp", 1, 7.0, 7.0, 7.0, 7.0, 7.0, DAY],
        ["EWR", 3 * DAY, "temp", 1, 1.0, 1.0, 1.0, 1.0, 1.0, 3 * DAY],
    ]);
    assert_eq!(stack.rolled("readings_1d").await, days);
    assert_eq!(stack.rows().await, json!([rows[1]]));
    let overview = stack.devices.overview(OrganisationId::DEFAULT).await.unwrap();
    assert_eq!(overview.readings_total, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_cannot_be_rolled_up_keeps_its_readings_and_holds_up_no_other() {
    let config = Config { roll_up_cells_max: 2, roll_up_days_max: 1, ..Config::default() };
    let stack = Stack::with(config).await;
    stack.weather_sensor().await;
    stack.post("/v1/sensors", &json!({"name": "wind", "values": [{"name": "temp"}]})).await;
    let wind = json!({"sensor": "wind", "time": at(30), "values": {"temp": 20.0}});
    let large = [reading(0, 1.0), reading(60, 2.0), reading(120, 3.0)];
    stack.stored("EWR", &large).await;
    stack.stored("EWR", &[reading(DAY, 4.0), reading(DAY + 60, 5.0), wind]).await;
    stack.settled().await;
    stack.keep(json!({"raw_days": 1})).await;
    let change = json!({"retention": {}});
    stack.expect(StatusCode::OK, Method::PATCH, "/v1/sensors/wind", Some(change)).await;
    let (done, failed) = fleet(&stack).await.roll_up(|| true).await;
    assert_eq!(failed.unwrap().kind(), ErrorKind::TooMany);
    assert_eq!((done.days, done.deleted, done.has_more), (2, 2, false));
    assert_eq!(stack.sql("SELECT count(*) FROM readings WHERE sensor = 'weather'").await[0][0], 3);
    let days = stack.sql("SELECT sensor, sum FROM readings_1d ORDER BY 1").await;
    assert_eq!(days, json!([["weather", 9.0], ["wind", 20.0]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_too_late_is_counted_as_such() {
    let stack = Stack::start().await;
    stack.weather_sensor().await;
    stack.stored("EWR", &[reading(DAY, 1.0)]).await;
    stack.keep(json!({"raw_days": SO_MANY_DAYS - 1})).await;
    roll_up(&stack).await;
    stack.stored("EWR", &[reading(0, 1.0), reading(DAY, 1.0), reading(1, 1.0)]).await;
    stack.settled().await;
    let meters = &stack.devices.house.meters;
    assert_eq!((meters.stored.get(), meters.repeated.get(), meters.expired.get()), (1, 1, 2));
    assert_eq!(stack.alerts().await, []);
}
