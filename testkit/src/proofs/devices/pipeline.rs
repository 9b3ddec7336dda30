use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::metric;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

const BATCH: usize = 1_000;
/// The hours of weather at three airports, 26,115 of them, are given to as many sets of stations as it takes.
static ROWS: &[u8] = include_bytes!("../../../../samples/weather/weather.csv.gz");

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
    let values = fill(&stack, count)?;
    stack.terminate()?;
    std::fs::remove_dir_all(fresh.join("data/log"))?;
    copy(&filled.join("data/log"), &fresh.join("data/log"))?;

    let launch = Launch::new(&ground.binary, &fresh);
    let stack = launch.start()?;
    let sql = "SELECT count(*) FROM readings";
    let rows = i64::try_from(values)?;
    // Whoever asks more often, or by SQL, takes a part of the cores that are measured.
    within_every(Duration::from_millis(250), Duration::from_mins(2), "the readings", || {
        let stored = metric(&stack, "madang_devices_readings_stored_total")?;
        Ok((stored >= count as f64).then_some(()))
    })?;
    let shown = stack.api().sql_number(sql)?;
    ensure!(shown == rows, "SQL shows {shown} rows of {rows}");
    let seconds = metric(&stack, "madang_devices_batch_seconds_sum")?;
    let batches = metric(&stack, "madang_devices_batch_seconds_count")?;
    let cpu = metric(&stack, "madang_devices_rules_seconds_total")?;
    let per_record = cpu / count as f64 * 1e6;
    // The line is about a release.
    let most = if ground.size == Size::Full { 0.1 } else { f64::INFINITY };
    report.bound(
        seconds <= most,
        format!(
            "{count} readings with {values} values in {seconds:.3} s and {batches} batches, ten rules each"
        ),
    );
    report.figure(format!("{per_record:.2} µs of one thread a record for its JSON and the rules"));
    within(Duration::from_mins(2), "the commits to Delta", || {
        Ok((metric(&stack, "madang_lake_rows_committed_total")? >= values as f64).then_some(()))
    })?;
    let (took, commits) = (
        metric(&stack, "madang_lake_commit_seconds_total")?,
        metric(&stack, "madang_lake_commits_total")?,
    );
    report.figure(format!("{took:.3} s for {commits} commits to Delta, beside it and after it"));
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

/// The columns of the sample behind the station and the time.
fn names(csv: &str) -> Vec<&str> {
    csv.lines().next().unwrap_or_default().split(',').skip(2).collect()
}

fn sample() -> Result<String> {
    let mut csv = String::new();
    flate2::read::GzDecoder::new(ROWS).read_to_string(&mut csv)?;
    Ok(csv)
}

fn register(stack: &Stack) -> Result<()> {
    let csv = sample()?;
    let values: Vec<Value> = names(&csv).iter().map(|name| json!({ "name": name })).collect();
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

/// Sends readings, and gives how many values they have.
fn fill(stack: &Stack, count: usize) -> Result<usize> {
    let csv = sample()?;
    let names = names(&csv);
    let rows: Vec<&str> = csv.lines().skip(1).collect();
    let mut waiting = BTreeMap::<String, Vec<Value>>::new();
    let mut values = 0;
    for number in 0..count {
        let mut fields = rows[number % rows.len()].split(',');
        let device = format!("{}-{}", fields.next().unwrap_or_default(), number / rows.len());
        let time = fields.next().context("no time")?;
        let mut found = serde_json::Map::new();
        for (name, field) in names.iter().zip(fields).filter(|(_, field)| !field.is_empty()) {
            found.insert((*name).to_owned(), field.parse::<f64>()?.into());
        }
        values += found.len();
        let batch = waiting.entry(device.clone()).or_default();
        batch.push(json!({"sensor": "weather", "time": time, "values": found}));
        if batch.len() == BATCH {
            let batch = std::mem::take(batch);
            send(stack, (device, batch))?;
        }
    }
    for batch in waiting.into_iter().filter(|(_, batch)| !batch.is_empty()) {
        send(stack, batch)?;
    }
    Ok(values)
}

fn send(stack: &Stack, (device, readings): (String, Vec<Value>)) -> Result<()> {
    let taken =
        stack.api().post(&format!("/v1/devices/{device}/readings"), &json!(readings))?.ok()?;
    ensure!(taken["accepted"] == readings.len(), "not all were taken: {taken}");
    Ok(())
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
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
