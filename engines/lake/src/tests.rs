//! What a caller can rely on, checked through the public interface.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base::{Base, ErrorKind, OrganisationId, Timestamp};

use super::*;

const OWN: OrganisationId = OrganisationId::fixed(7);
const OTHER: OrganisationId = OrganisationId::fixed(8);
/// 2013-01-01T00:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_356_998_400_000);
const HOUR: Duration = Duration::from_hours(1);

fn readings() -> TableSpec {
    TableSpec::new(
        "readings",
        &[
            ("device", ColumnType::Text),
            ("sensor", ColumnType::Text),
            ("time", ColumnType::Timestamp),
            ("temp", ColumnType::Float),
            ("count", ColumnType::Int),
        ],
        "time",
        &["device", "sensor", "time"],
    )
}

/// Commits only when asked, unless a test says otherwise.
fn quiet(dir: &Path) -> Config {
    Config { dir: dir.to_path_buf(), flush_interval: HOUR, ..Config::default() }
}

fn time_of(offset: u64) -> Timestamp {
    START.plus(HOUR * u32::try_from(offset).unwrap())
}

fn fill(rows: &mut Rows, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        let number = i64::try_from(offset).unwrap();
        let temp = (!offset.is_multiple_of(10)).then_some(number as f64 / 2.0);
        let row =
            ["JFK".into(), "weather".into(), time_of(offset).into(), temp.into(), number.into()];
        rows.push(&row).unwrap();
    }
}

async fn append(table: &Table, offsets: std::ops::Range<u64>) {
    let mut rows = table.rows_builder();
    let last = offsets.end - 1;
    fill(&mut rows, offsets);
    table.append("readings/0", last, rows).await.unwrap();
}

fn key(offset: u64) -> Key {
    Key::new(&["JFK".into(), "weather".into(), time_of(offset).into()]).unwrap()
}

async fn json(lake: &Lake, sql: &str) -> serde_json::Value {
    let answer = lake.query(OWN, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    serde_json::from_slice(&answer.to_json().bytes).unwrap()
}

async fn rows_of(lake: &Lake, sql: &str) -> String {
    json(lake, sql).await["rows"].to_string()
}

/// Every row once: the count, the sum and the number of different offsets.
async fn assert_exactly(lake: &Lake, offsets: u64) {
    let sql = "SELECT count(*), sum(count), count(DISTINCT count) FROM readings";
    let sum = offsets * (offsets - 1) / 2;
    assert_eq!(rows_of(lake, sql).await, format!("[[{offsets},{sum},{offsets}]]"));
}

struct Place {
    folder: tempfile::TempDir,
    base: Base,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), base: Base::system() }
    }

    async fn lake(&self) -> Lake {
        self.lake_with(quiet(self.folder.path())).await
    }

    async fn lake_with(&self, config: Config) -> Lake {
        Lake::open(config, &self.base).await.unwrap()
    }

    async fn open(&self) -> (Lake, Table) {
        let lake = self.lake().await;
        let table = lake.table(OWN, readings()).await.unwrap();
        (lake, table)
    }

    /// Twenty rows, of which the last ten are in the log while the task does not know: their commit landed, and its answer was
    /// lost.
    async fn open_unheard(&self) -> (Lake, Table) {
        let (lake, table) = self.open().await;
        append(&table, 0..10).await;
        table.flush().await.unwrap();
        append(&table, 10..20).await;
        let folder = self.folder.path().join(OWN.to_string()).join("readings");
        let folder = std::fs::canonicalize(folder).unwrap();
        let mut delta = Delta::open(&folder, &lake.0.engine.files).await.unwrap().unwrap();
        let files = delta.version().await.unwrap().files;
        delta.append(&table.begin_flush(), &files).await.unwrap();
        assert!(table.flush().await.is_err(), "the log has a commit that the task does not know");
        (lake, table)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_those_that_are_missing_are_the_same_in_the_tail_and_on_disk() {
    let place = Place::new();
    let lake = place.lake().await;
    let mut spec = readings();
    spec.columns.push(("note".into(), ColumnType::Text));
    spec.columns.push(("never".into(), ColumnType::Text));
    let table = lake.table(OWN, spec).await.unwrap();
    // One row each: as many as are put together meanwhile.
    let add = async |offsets: std::ops::Range<u64>| {
        for offset in offsets {
            let mut rows = table.rows_builder();
            let note = ["rain", "", "가"].get(usize::try_from(offset % 4).unwrap()).copied();
            let mut row = vec![Value::Null; 7];
            (row[0], row[1], row[2]) = ("JFK".into(), "weather".into(), time_of(offset).into());
            row[5] = note.into();
            rows.push(&row).unwrap();
            table.append("readings/0", offset, rows).await.unwrap();
        }
    };
    let sql =
        "SELECT note, never, count(*) FROM readings GROUP BY note, never ORDER BY note NULLS LAST";
    let of = |count: u64| {
        format!(
            r#"[["",null,{count}],["rain",null,{count}],["가",null,{count}],[null,null,{count}]]"#
        )
    };
    add(0..40).await;
    assert_eq!(rows_of(&lake, sql).await, of(10));
    table.flush().await.unwrap();
    assert_eq!(rows_of(&lake, sql).await, of(10));
    add(40..80).await;
    assert_eq!(rows_of(&lake, sql).await, of(20), "half of them in files");
    let like = "SELECT count(*) FROM readings WHERE note LIKE 'r%' OR note = '가'";
    assert_eq!(rows_of(&lake, like).await, "[[40]]");
    let seen = |seen: &mut Vec<Option<String>>, row: &[Value<'_>]| {
        seen.push(match row[5] {
            Value::Text(text) => Some(text.to_owned()),
            _ => None,
        });
    };
    let mut notes = table.visit_day(time_of(73), Vec::new(), seen).await.unwrap();
    notes.sort();
    assert_eq!(notes.iter().filter(|note| note.is_none()).count(), 2, "{notes:?}");
    table.flush().await.unwrap();
    assert_eq!(rows_of(&lake, sql).await, of(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_is_visible_at_once_and_still_there_after_the_flush() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    assert_eq!(rows_of(&lake, "SELECT count(*) FROM readings").await, "[[0]]");
    append(&table, 0..100).await;
    assert_eq!((table.rows(), table.durable("readings/0")), (100, None));
    assert_exactly(&lake, 100).await;
    table.flush().await.unwrap();
    assert_eq!((table.rows(), table.durable("readings/0")), (100, Some(99)));
    assert_eq!(table.durable("readings/1"), None);
    append(&table, 100..120).await;
    assert_exactly(&lake, 120).await;
    let days = "SELECT DISTINCT date_trunc('day', time) FROM readings ORDER BY 1";
    assert_eq!(json(&lake, days).await["rows"].as_array().unwrap().len(), 5);
    assert_eq!(
        rows_of(&lake, "SELECT * FROM readings WHERE count = 11").await,
        r#"[["JFK","weather","2013-01-01T11:00:00Z",5.5,11]]"#
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_tail_and_flush_is_healed_by_replay_from_any_offset() {
    let place = Place::new();
    {
        let (_lake, table) = place.open().await;
        append(&table, 0..50).await;
        table.flush().await.unwrap();
        append(&table, 50..80).await;
    }
    let (lake, table) = place.open().await;
    assert_eq!(table.durable("readings/0"), Some(49), "the tail was lost, as a crash loses it");
    assert_exactly(&lake, 50).await;
    append(&table, 0..20).await;
    append(&table, 20..50).await;
    append(&table, 50..80).await;
    append(&table, 50..80).await;
    assert_exactly(&lake, 80).await;
    table.flush().await.unwrap();
    drop((lake, table));
    let (lake, table) = place.open().await;
    assert_eq!(table.durable("readings/0"), Some(79));
    assert_exactly(&lake, 80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_have_offsets_of_their_own_that_survive_checkpoints() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    let mut rows = table.rows_builder();
    fill(&mut rows, 1_000..1_001);
    table.append("rare/0", 5, rows).await.unwrap();
    // Delta checkpoints every 64 commits, so the rare source is only in a checkpoint.
    for offset in 0..70 {
        append(&table, offset..offset + 1).await;
        table.flush().await.unwrap();
    }
    // Nothing to add still moves an offset.
    table.append("readings/0", 500, table.rows_builder()).await.unwrap();
    table.flush().await.unwrap();
    drop((lake, table));
    let log = place.folder.path().join(OWN.to_string()).join("readings/_delta_log");
    assert!(log.join("_last_checkpoint").exists());
    let (_lake, table) = place.open().await;
    assert_eq!(table.durable("rare/0"), Some(5));
    assert_eq!(table.durable("readings/0"), Some(500));
    assert_eq!(table.rows(), 71);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_during_a_flush_or_a_compaction_sees_every_row_once() {
    let place = Place::new();
    let config = Config { compact_commits: 4, compact_files_min: 2, ..quiet(place.folder.path()) };
    let lake = place.lake_with(config).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let times = Arc::new(AtomicUsize::new(0));
    let (asker, stop, counted) = (lake.clone(), done.clone(), times.clone());
    let asking = place.base.tasks.spawn("asking", async move {
        let mut before = 0;
        while !stop.load(Ordering::Acquire) {
            let sql = "SELECT count(*), count(DISTINCT count), coalesce(max(count), -1) + 1, \
                       sum(CASE WHEN temp > -1 OR temp IS NULL THEN 1 ELSE 0 END) FROM readings";
            let answer = json(&asker, sql).await;
            let row = answer["rows"][0].as_array().unwrap().clone();
            let count = row[0].as_u64().unwrap();
            assert_eq!(row[1], count, "a row was seen twice");
            assert_eq!(row[2], count, "a row was missing");
            assert!(count >= before, "rows went away");
            before = count;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // At least so long, and until some were asked meanwhile.
    let mut rounds = 0;
    while rounds < 20 || (times.load(Ordering::Relaxed) < 3 && rounds < 500) {
        append(&table, rounds * 10..rounds * 10 + 10).await;
        table.flush().await.unwrap();
        rounds += 1;
    }
    done.store(true, Ordering::Release);
    asking.await.unwrap().expect("no count was wrong");
    assert!(times.load(Ordering::Relaxed) >= 3);
    assert_exactly(&lake, rounds * 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_leaves_few_files_and_loses_no_row_and_no_offset() {
    let place = Place::new();
    let config = Config {
        compact_commits: 10,
        compact_files_min: 3,
        file_retention: Duration::ZERO,
        ..quiet(place.folder.path())
    };
    let lake = place.lake_with(config).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    for offset in 0..12 {
        append(&table, offset..offset + 1).await;
        table.flush().await.unwrap();
    }
    let folder = place.folder.path().join(OWN.to_string()).join("readings");
    let files = || std::fs::read_dir(folder.join("day=2013-01-01")).unwrap().count();
    // The files that were replaced go with the clean-up; the last two commits may have come after it.
    while files() > 3 {
        tokio::task::yield_now().await;
    }
    assert_exactly(&lake, 12).await;
    append(&table, 12..30).await;
    table.flush().await.unwrap();
    drop((lake, table));
    let (lake, table) = place.open().await;
    assert_eq!(table.durable("readings/0"), Some(29));
    assert_exactly(&lake, 30).await;
}

/// Device, hour and count of every row.
const ALL: &str =
    "SELECT device, CAST(time AS BIGINT) / 3600000000 - 376944, count FROM readings ORDER BY 1, 2";

fn of_device(table: &Table, device: &str, offsets: std::ops::Range<u64>) -> Rows {
    let mut rows = table.rows_builder();
    for offset in offsets {
        let (time, count) = (time_of(offset).into(), Value::Int(1_000));
        rows.push(&[device.into(), "weather".into(), time, 1.5.into(), count]).unwrap();
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_one_day_and_text_give_place_to_others() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    append(&table, 22..26).await;
    table.flush().await.unwrap();
    // These wait in the tail.
    table.append("other/0", 1, of_device(&table, "EWR", 22..26)).await.unwrap();
    let rows = of_device(&table, "JFK", 20..22);
    assert_eq!(table.exchange(START, ("device", "JFK"), rows).await.unwrap(), 2);
    let expected = r#"[["EWR",22,1000],["EWR",23,1000],["EWR",24,1000],["EWR",25,1000],["JFK",20,1000],["JFK",21,1000],["JFK",24,24],["JFK",25,25]]"#;
    assert_eq!(rows_of(&lake, ALL).await, expected);
    assert_eq!(table.rows(), 8);

    let nothing = table.exchange(START, ("device", "LGA"), table.rows_builder()).await;
    assert_eq!(nothing.unwrap(), 0);
    let late = of_device(&table, "JFK", 24..25);
    assert!(table.exchange(START, ("device", "JFK"), late).await.is_err(), "of another day");
    assert!(table.exchange(START, ("temp", "JFK"), table.rows_builder()).await.is_err());
    assert_eq!(rows_of(&lake, ALL).await, expected, "a refused exchange changes nothing");

    let tomorrow = START.plus(HOUR * 24);
    let gone = table.exchange(tomorrow, ("device", "JFK"), table.rows_builder()).await;
    assert_eq!(gone.unwrap(), 2);
    append(&table, 26..27).await;
    let see = |seen: &mut Vec<String>, row: &[Value<'_>]| seen.push(format!("{:?}", row[0]));
    let mut seen = table.visit_day(tomorrow, Vec::new(), see).await.unwrap();
    seen.sort();
    assert_eq!(seen, [r#"Text("EWR")"#, r#"Text("EWR")"#, r#"Text("JFK")"#]);
    assert!(table.visit_day(tomorrow.plus(HOUR * 24), Vec::new(), see).await.unwrap().is_empty());
    let first = i64::from(crate::rows::day_of(START.micros()));
    let days = std::collections::BTreeSet::from([first, first + 1]);
    assert_eq!(table.days(), days, "one day is in files, both wait");
    table.flush().await.unwrap();
    assert_eq!(table.days(), days);
    drop((lake, table));

    let (lake, table) = place.open().await;
    let expected = r#"[["EWR",22,1000],["EWR",23,1000],["EWR",24,1000],["EWR",25,1000],["JFK",20,1000],["JFK",21,1000],["JFK",26,26]]"#;
    assert_eq!(rows_of(&lake, ALL).await, expected);
    assert_eq!((table.durable("readings/0"), table.durable("other/0")), (Some(26), Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_hundred_days_go_into_one_commit() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    let mut rows = table.rows_builder();
    for day in (0..100).rev() {
        fill(&mut rows, day * 24..day * 24 + 2);
    }
    table.append("readings/0", 0, rows).await.unwrap();
    table.flush().await.unwrap();
    let folder = place.folder.path().join(OWN.to_string()).join("readings");
    assert!(folder.join("_delta_log/00000000000000000001.json").exists());
    assert!(!folder.join("_delta_log/00000000000000000002.json").exists());
    let by_day = "SELECT count(*), sum(n) FROM (SELECT count(*) AS n FROM readings \
                  GROUP BY date_trunc('day', time))";
    assert_eq!(rows_of(&lake, by_day).await, "[[100,200]]");
    let two = "SELECT count FROM readings WHERE time >= '2013-02-01' AND time < '2013-02-02'";
    assert_eq!(rows_of(&lake, two).await, "[[744],[745]]");
    let plan = rows_of(&lake, &format!("EXPLAIN {two}")).await;
    assert_eq!(plan.matches(".parquet").count(), 1, "other days' files are read: {plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_committed_without_being_asked() {
    let place = Place::new();
    let soon = Config { flush_interval: Duration::from_millis(20), ..quiet(place.folder.path()) };
    let lake = place.lake_with(soon).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    append(&table, 0..1).await;
    while table.durable("readings/0") != Some(0) {
        tokio::task::yield_now().await;
    }
    drop((lake, table));
    let many = Config { flush_rows: 10, ..quiet(place.folder.path()) };
    let lake = place.lake_with(many).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    append(&table, 1..11).await;
    while table.durable("readings/0") != Some(10) {
        tokio::task::yield_now().await;
    }
    append(&table, 11..12).await;
    assert!(place.base.tasks.stop(Duration::from_secs(10)).await);
    assert_eq!(table.durable("readings/0"), Some(11), "shutdown commits what waits");
    let rows = table.rows_builder();
    let error = table.append("readings/0", 12, rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "nobody would commit it");
    table.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tail_makes_appends_wait_and_loses_nothing() {
    let place = Place::new();
    let config = Config { tail_rows_max: 25, ..quiet(place.folder.path()) };
    let lake = place.lake_with(config).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    for round in 0..10 {
        append(&table, round * 10..round * 10 + 10).await;
    }
    let durable = table.durable("readings/0").expect("the tail holds two batches only");
    assert!(durable >= 79, "{durable}");
    assert_exactly(&lake, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_of_one_row_stay_few_batches() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    for offset in 0..1_000 {
        append(&table, offset..offset + 1).await;
    }
    assert!(table.view().tail.len() < 64, "{}", table.view().tail.len());
    assert_exactly(&lake, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_are_found_exactly_in_the_tail_and_in_old_days() {
    let place = Place::new();
    let (_lake, table) = place.open().await;
    assert_eq!(table.existing(vec![]).await.unwrap(), Vec::<bool>::new());
    assert_eq!(table.existing(vec![key(1)]).await.unwrap(), [false]);
    append(&table, 0..60).await;
    table.flush().await.unwrap();
    append(&table, 60..90).await;
    let asked = [0, 24, 59, 60, 89, 90, 1_000].map(key);
    let found = table.existing(asked.to_vec()).await.unwrap();
    assert_eq!(found, [true, true, true, true, true, false, false]);
    let near = START.plus(Duration::from_micros(1));
    let others = vec![
        Key::new(&["JFK".into(), "weather".into(), near.into()]).unwrap(),
        Key::new(&["LGA".into(), "weather".into(), START.into()]).unwrap(),
        Key::new(&["JFKw".into(), "eather".into(), START.into()]).unwrap(),
        key(0),
    ];
    assert_eq!(table.existing(others).await.unwrap(), [false, false, false, true]);
    let micros = table.rows_builder();
    let mut rows = micros;
    rows.push(&["JFK".into(), "weather".into(), near.into(), Value::Null, 1.into()]).unwrap();
    table.append("late/0", 0, rows).await.unwrap();
    table.flush().await.unwrap();
    let near = Key::new(&["JFK".into(), "weather".into(), near.into()]).unwrap();
    assert_eq!(table.existing(vec![near]).await.unwrap(), [true], "the log cuts microseconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_organisations_tables_cannot_be_named() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    append(&table, 0..10).await;
    table.flush().await.unwrap();
    let plan = rows_of(&lake, "EXPLAIN SELECT * FROM readings").await;
    let dir = place.folder.path().file_name().unwrap().to_str().unwrap();
    assert!(
        plan.contains(".parquet") && !plan.contains(dir),
        "a plan tells where files lie: {plan}"
    );
    let path = format!("{}", place.folder.path().join(OWN.to_string()).join("readings").display());
    for from in [
        "readings".to_owned(),
        "public.readings".to_owned(),
        "madang.public.readings".to_owned(),
        format!("\"{OWN}\".readings"),
        format!("'{path}'"),
        format!("\"{path}\""),
        format!("'file://{path}'"),
        "'/etc/passwd'".to_owned(),
    ] {
        let error = lake.query(OTHER, &format!("SELECT * FROM {from}")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{from}: {error}");
    }
    let names = lake.query(OTHER, "SHOW TABLES").await.unwrap().to_csv();
    assert!(!String::from_utf8(names.bytes).unwrap().contains("readings"));
    let names = rows_of(
        &lake,
        "SELECT table_name FROM information_schema.tables \
                                WHERE table_schema = 'public'",
    )
    .await;
    assert_eq!(names, r#"[["readings"]]"#);
    let columns = rows_of(
        &lake,
        "SELECT column_name FROM information_schema.columns \
                                  WHERE table_name = 'readings' ORDER BY ordinal_position",
    )
    .await;
    assert_eq!(columns, r#"[["device"],["sensor"],["time"],["temp"],["count"]]"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_on_disk_can_be_asked_before_anybody_opens_them() {
    let place = Place::new();
    {
        let (_lake, table) = place.open().await;
        append(&table, 0..10).await;
        table.flush().await.unwrap();
    }
    let lake = place.lake().await;
    assert_exactly(&lake, 10).await;
    let mut other = readings();
    other.columns.pop();
    let error = lake.table(OWN, other).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(lake.table(OWN, readings()).await.unwrap().rows(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_reading_statements_run() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    append(&table, 0..3).await;
    let out = place.folder.path().join("out.csv");
    let copy = format!("COPY (SELECT * FROM readings) TO '{}'", out.display());
    let external = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'";
    for sql in [
        "INSERT INTO readings VALUES ('a', 'b', now(), 1.0, 1)",
        "UPDATE readings SET temp = 0",
        "DELETE FROM readings",
        "TRUNCATE TABLE readings",
        "DROP TABLE readings",
        "ALTER TABLE readings ADD COLUMN x INT",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE SCHEMA s",
        "CREATE FUNCTION f(int) RETURNS int RETURN $1",
        external,
        copy.as_str(),
        "EXPLAIN INSERT INTO readings SELECT * FROM readings",
        "EXPLAIN ANALYZE DELETE FROM readings",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "BEGIN",
        "COMMIT",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE readings",
        "SELECT * FROM nowhere",
        "SELECT nothing FROM readings",
        "SELEC 1",
        "",
        " -- nothing",
        "SELECT 1 / 0",
    ] {
        let error = lake.query(OWN, sql).await.err().unwrap_or_else(|| panic!("{sql} ran"));
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error:?}");
    }
    assert!(!out.exists());
    assert_exactly(&lake, 3).await;
    for sql in [
        "SELECT 1;",
        "WITH r AS (SELECT * FROM readings) SELECT count(*) FROM r",
        "EXPLAIN SELECT * FROM readings",
        "EXPLAIN ANALYZE SELECT * FROM readings",
        "SHOW TABLES",
        "SHOW COLUMNS FROM readings",
        "DESCRIBE readings",
        "VALUES (1), (2)",
        "SELECT device, avg(temp) OVER (ORDER BY time) FROM readings",
        "SELECT count(*) FROM readings WHERE time >= '2013-01-01' AND time < now()",
        "SELECT * FROM generate_series(1, 3)",
        "SELECT repeat('ab', 3), lpad('a', 5), range(0, 5), array_repeat(1, 3)",
        "SELECT unnest(generate_series(TIMESTAMP '2013-01-01', TIMESTAMP '2013-01-02', INTERVAL '1 hour'))",
    ] {
        lake.query(OWN, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// The name of the limit that stopped it.
async fn stopped_by(lake: &Lake, sql: &str) -> &'static str {
    match lake.query(OWN, sql).await {
        Err(Error::TooMany(limit)) => limit,
        other => panic!("{sql}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_stop_queries_and_say_their_name() {
    let place = Place::new();
    let config = Config {
        query_memory_bytes_max: 4 << 20,
        query_spill_bytes_max: 1 << 20,
        function_values_max: 10_000,
        query_text_bytes_max: 1_000,
        ..quiet(place.folder.path())
    };
    let lake = place.lake_with(config).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    append(&table, 0..10).await;
    let sort = "SELECT value FROM generate_series(1, 3000000) ORDER BY value DESC";
    let limit = stopped_by(&lake, sort).await;
    assert!(limit.starts_with("lake.query_"), "{limit}");
    let group =
        "SELECT count(*) FROM (SELECT value FROM generate_series(1, 3000000) GROUP BY value)";
    let limit = stopped_by(&lake, group).await;
    assert!(limit.starts_with("lake.query_"), "{limit}");
    let join = "SELECT count(*) FROM generate_series(1, 3000000) a(x) \
                JOIN generate_series(1, 3000000) b(x) ON a.x = b.x";
    assert_eq!(stopped_by(&lake, join).await, "lake.query_memory_bytes_max");
    for sql in [
        "SELECT repeat('abc', 1000000000)",
        "SELECT lpad(device, 2000000000) FROM readings",
        "SELECT range(0, 1000000000000)",
        "SELECT array_repeat(1, 1000000000)",
        "SELECT generate_series(TIMESTAMP '2013-01-01', TIMESTAMP '2023-01-01', INTERVAL '1 second')",
    ] {
        assert_eq!(stopped_by(&lake, sql).await, "lake.function_values_max", "{sql}");
    }
    let long = format!("SELECT '{}'", "x".repeat(1_000));
    assert_eq!(stopped_by(&lake, &long).await, "lake.query_text_bytes_max");
    let deep = format!("SELECT {}1{}", "(".repeat(400), ")".repeat(400));
    assert_eq!(lake.query(OWN, &deep).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_exactly(&lake, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_larger_than_memory_spills_and_is_right() {
    let place = Place::new();
    let config = Config { query_memory_bytes_max: 12 << 20, ..quiet(place.folder.path()) };
    let lake = place.lake_with(config.clone()).await;
    let sql = "SELECT max(place), sum(CASE WHEN place + value = 1000001 THEN 1 ELSE 0 END) \
               FROM (SELECT value, row_number() OVER (ORDER BY value DESC) AS place \
               FROM generate_series(1, 1000000))";
    assert_eq!(rows_of(&lake, sql).await, "[[1000000,1000000]]");
    std::fs::write(place.folder.path().join("spill/left"), "by a crash").unwrap();
    let config = Config { query_spill_bytes_max: 1 << 10, ..config };
    let lake = place.lake_with(config).await;
    assert_eq!(stopped_by(&lake, sql).await, "lake.query_spill_bytes_max");
    assert!(!place.folder.path().join("spill/left").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_past_its_time_really_stops() {
    let place = Place::new();
    let config = Config {
        query_time_max: Duration::from_millis(300),
        queries_max: 1,
        ..quiet(place.folder.path())
    };
    let lake = place.lake_with(config).await;
    let table = lake.table(OWN, readings()).await.unwrap();
    append(&table, 0..1_000).await;
    table.flush().await.unwrap();
    append(&table, 1_000..2_000).await;
    for sql in [
        "SELECT sum(a.temp), sum(b.temp), sum(c.temp) FROM readings a, readings b, readings c, readings d",
        "SELECT count(*) FROM readings a, readings b, readings c WHERE a.temp + b.temp + c.temp < 0",
        "SELECT max(a.temp * b.temp * c.temp) FROM readings a CROSS JOIN readings b CROSS JOIN readings c",
        "SELECT count(*) FROM readings a JOIN readings b ON a.device = b.device \
         JOIN readings c ON b.device = c.device WHERE a.temp + b.temp + c.temp < 0",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT sum(value) FROM generate_series(1, 1000000000000)",
    ] {
        let began = place.base.clock.instant();
        assert_eq!(stopped_by(&lake, sql).await, "lake.query_time_max", "{sql}");
        // With one query at a time, the next is let in only when this one is gone.
        while let Err(Error::TooMany("lake.queries_max")) = lake.query(OWN, "SELECT 1").await {
            tokio::task::yield_now().await;
        }
        let took = place.base.clock.instant() - began;
        assert!(took < Duration::from_secs(20), "{sql} took {took:?} to stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_queries_than_the_limit_run_at_once() {
    let place = Place::new();
    let config = Config { queries_max: 2, ..quiet(place.folder.path()) };
    let lake = place.lake_with(config).await;
    let forever = "SELECT sum(value) FROM generate_series(1, 1000000000000)";
    let mut first = Box::pin(lake.query(OWN, forever));
    let mut second = Box::pin(lake.query(OWN, forever));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    // Both need a moment to list the tables before they count.
    while lake.0.analysis.running() < 2 {
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(stopped_by(&lake, "SELECT 1").await, "lake.queries_max");
    drop((first, second));
    while lake.query(OWN, "SELECT 1").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_cut_at_their_limits_and_say_so() {
    let place = Place::new();
    let few = Config { rows_max: 5, ..quiet(place.folder.path()) };
    let lake = place.lake_with(few).await;
    let answer = lake.query(OWN, "SELECT * FROM generate_series(1, 5)").await.unwrap();
    assert_eq!((answer.rows(), answer.truncated), (5, false));
    let answer = lake.query(OWN, "SELECT * FROM generate_series(1, 6)").await.unwrap();
    assert_eq!((answer.rows(), answer.truncated), (5, true));
    let body = String::from_utf8(answer.to_json().bytes).unwrap();
    assert!(body.ends_with("\"rows\":[[1],[2],[3],[4],[5]],\"truncated\":true}"), "{body}");
    let small = Config { response_bytes_max: 1_000, ..quiet(place.folder.path()) };
    let lake = place.lake_with(small).await;
    for format in [Format::Json, Format::Csv, Format::Arrow] {
        let sql = "SELECT repeat('x', 100) FROM generate_series(1, 50)";
        let body = lake.query_encoded(OWN, sql, format).await.unwrap();
        let (length, xs) = (body.bytes.len(), body.bytes.iter().filter(|byte| **byte == b'x'));
        assert!(body.truncated && length < 2_000, "{format:?} {length}");
        assert!((500..=1_000).contains(&xs.count()), "{format:?} holds what fits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_written_as_json_csv_and_arrow() {
    let place = Place::new();
    let lake = place.lake().await;
    let sql = "SELECT 'a,\"b\"' AS t, '' AS empty, CAST(NULL AS BIGINT) AS n, 1.5 AS f, 2 AS i, \
               true AS b, TIMESTAMP '2013-01-01T06:00:00.5' AS ts, DATE '2013-01-02' AS d, \
               CAST('NaN' AS DOUBLE) AS nan, CAST('inf' AS DOUBLE) AS inf, [1, NULL] AS list, \
               named_struct('x', 1, 'y', ['é']) AS obj, CAST(1.25 AS DECIMAL(5, 2)) AS dec, \
               INTERVAL '1 hour' AS iv, arrow_cast('z', 'Dictionary(Int32, Utf8)') AS dict, \
               CAST(0.1 AS REAL) AS r, arrow_cast('v', 'Utf8View') AS v";
    let answer = lake.query(OWN, sql).await.unwrap();
    let types: Vec<_> = answer.columns.iter().map(|column| column.type_name.as_str()).collect();
    assert_eq!(
        types,
        [
            "text",
            "text",
            "bigint",
            "double",
            "bigint",
            "boolean",
            "timestamp",
            "date",
            "double",
            "double",
            "bigint[]",
            "json",
            "numeric",
            "interval",
            "text",
            "real",
            "text"
        ]
    );
    let json: serde_json::Value = serde_json::from_slice(&answer.to_json().bytes).unwrap();
    assert_eq!(json["columns"][0], serde_json::json!({"name": "t", "type": "text"}));
    assert_eq!(
        json["rows"][0].to_string(),
        "[\"a,\\\"b\\\"\",\"\",null,1.5,2,true,\"2013-01-01T06:00:00.5Z\",\"2013-01-02\",null,\
         null,[1,null],{\"x\":1,\"y\":[\"é\"]},1.25,\"1 hours\",\"z\",0.1,\"v\"]"
    );
    assert_eq!(
        String::from_utf8(answer.to_csv().bytes).unwrap(),
        "t,empty,n,f,i,b,ts,d,nan,inf,list,obj,dec,iv,dict,r,v\r\n\
         \"a,\"\"b\"\"\",\"\",,1.5,2,true,2013-01-01T06:00:00.5Z,2013-01-02,NaN,inf,\"[1,null]\",\
         \"{\"\"x\"\":1,\"\"y\"\":[\"\"é\"\"]}\",1.25,1 hours,z,0.1,v\r\n"
    );
    let bytes = answer.to_arrow().unwrap().bytes;
    let reader = datafusion::arrow::ipc::reader::StreamReader::try_new(&*bytes, None).unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(batches, answer.batches);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_followed_by_fsync_and_a_failed_one_stops_acknowledging() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    let sync = lake.0.engine.sync.clone();
    let before = sync.files.load(Ordering::Relaxed);
    append(&table, 0..30).await;
    table.flush().await.unwrap();
    assert_eq!(sync.files.load(Ordering::Relaxed) - before, 3, "two days and the commit");
    append(&table, 30..40).await;
    sync.fail("the disk is gone");
    let error = table.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = table.append("readings/0", 50, table.rows_builder()).await.unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert_exactly(&lake, 40).await;
    assert_eq!(table.durable("readings/0"), Some(29));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_commit_keeps_its_rows_and_is_tried_again() {
    let place = Place::new();
    let (lake, table) = place.open().await;
    append(&table, 0..10).await;
    let folder = place.folder.path().join(OWN.to_string()).join("readings");
    let away = place.folder.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    assert_eq!(table.flush().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_exactly(&lake, 10).await;
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    table.flush().await.unwrap();
    assert_eq!(table.durable("readings/0"), Some(9));
    drop((lake, table));
    let (lake, _table) = place.open().await;
    assert_exactly(&lake, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_landed_and_was_reported_failed_is_not_repeated() {
    let place = Place::new();
    let (lake, table) = place.open_unheard().await;
    table.flush().await.unwrap();
    assert_exactly(&lake, 20).await;
    assert_eq!((table.rows(), table.durable("readings/0")), (20, Some(19)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_waits_until_a_failed_commit_is_settled() {
    let place = Place::new();
    let (_lake, table) = place.open_unheard().await;
    let (day, device) = (crate::rows::day_of(START.micros()), table.spec().index("device"));
    let gone = table.exchange_durable(day, (device, "JFK"), table.rows_builder()).await;
    assert_eq!(gone.unwrap(), 20);
    table.flush().await.unwrap();
    assert_eq!(table.rows(), 0, "no row comes back with the commit that is tried again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_lake_opens_quickly_and_starts_no_thread_for_queries() {
    let place = Place::new();
    let began = place.base.clock.instant();
    let lake = place.lake().await;
    let took = place.base.clock.instant() - began;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!lake.0.analysis.has_started());
    lake.query(OWN, "SELECT 1").await.unwrap();
    assert!(lake.0.analysis.has_started());
}
