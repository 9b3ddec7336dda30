use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::metric;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::within;

const BATCH: usize = 1_000;
const DEVICES: usize = 12;

/// A hundred thousand readings that stand in the log are taken in at most 0.1 s: from the first fetch until the position is
/// durable and SQL shows the rows, with ten rules on their sensor; and `kill -9` right after loses none.
pub fn pipeline(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let count = ground.count(4, 100) * BATCH;
    let folder = tempfile::tempdir()?;
    let (filled, fresh) = (folder.path().join("filled"), folder.path().join("fresh"));
    let launch = Launch::new(&ground.binary, &filled);
    let stack = launch.start()?;
    register(&stack)?;
    stack.terminate()?;
    // The folder as it is before any reading; the log of the other one is put in later.
    copy(&filled, &fresh)?;
    let stack = launch.start()?;
    fill(&stack, count)?;
    stack.terminate()?;
    std::fs::remove_dir_all(fresh.join("data/log"))?;
    copy(&filled.join("data/log"), &fresh.join("data/log"))?;

    let launch = Launch::new(&ground.binary, &fresh);
    let stack = launch.start()?;
    let sql = "SELECT count(*) FROM readings";
    let rows = i64::try_from(count * 3)?;
    within(Duration::from_mins(2), "the readings", || {
        Ok((stack.api().sql_number(sql)? >= rows).then_some(()))
    })?;
    let seconds = metric(&stack, "madang_devices_batch_seconds_sum")?;
    let batches = metric(&stack, "madang_devices_batch_seconds_count")?;
    let cpu = metric(&stack, "madang_devices_rules_seconds_total")?;
    let per_record = cpu / count as f64 * 1e6;
    // The line is about a release.
    let most = if ground.size == Size::Full { 0.1 } else { f64::INFINITY };
    report.bound(
        seconds <= most,
        format!("{count} readings in {seconds:.3} s and {batches} batches, ten rules each"),
    );
    report.figure(format!("{per_record:.2} µs of one thread a record for its JSON and the rules"));
    stack.kill()?;
    let stack = launch.start()?;
    let found = within(Duration::from_mins(2), "the readings after kill -9", || {
        let found = stack.api().sql_number(sql)?;
        Ok((found >= rows).then_some(found))
    })?;
    let total = stack.api().get("/v1/overview")?.ok()?["readings_total"].clone();
    report.bound(
        found == rows && total == count,
        format!("after kill -9: {found} rows of {rows}, {total} readings counted"),
    );
    Ok(report)
}

fn register(stack: &Stack) -> Result<()> {
    let values: Vec<Value> = ["temp", "humid", "wind"].map(|name| json!({ "name": name })).into();
    stack.api().post("/v1/sensors", &json!({"name": "weather", "values": values}))?.ok()?;
    let rules: Vec<Value> = (0..10)
        .map(|number| {
            json!({
                "name": format!("rule {number}"), "sensor": "weather",
                "conditions": [{"value": "temp", "ranges": [{"min": 1_000 + number}]}],
            })
        })
        .collect();
    stack.api().post("/v1/rules-import", &json!({ "rules": rules }))?.ok().map(drop)
}

fn fill(stack: &Stack, count: usize) -> Result<()> {
    for batch in 0..count / BATCH {
        let readings: Vec<Value> =
            (0..BATCH).map(|number| reading(batch * BATCH + number)).collect();
        let path = format!("/v1/devices/station-{}/readings", batch % DEVICES);
        let taken = stack.api().post(&path, &json!(readings))?.ok()?;
        ensure!(taken["accepted"] == BATCH, "not all were taken: {taken}");
    }
    Ok(())
}

fn reading(second: usize) -> Value {
    let (day, hour) = (second / 86_400, second / 3_600 % 24);
    let time =
        format!("2013-01-{:02}T{hour:02}:{:02}:{:02}Z", 1 + day, second / 60 % 60, second % 60);
    let temp = 20.0 + (second % 100) as f64 / 10.0;
    json!({"sensor": "weather", "time": time, "values": {"temp": temp, "humid": 59.4, "wind": 10.36}})
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        std::fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
        return Ok(());
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let name = entry?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}
