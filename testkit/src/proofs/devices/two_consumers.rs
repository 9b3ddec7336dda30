use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::pipeline::copy;
use super::rules::{many, reading, send};
use crate::http::Http;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

/// Readings of one device, in one request: so many in all that the start of the server is little beside them.
const OF_DEVICE: usize = 1_000;
/// One reading in so many raises an alert.
const ALERTS_EVERY: usize = 200;
/// Whoever asks more often takes a part of the cores that are measured.
const ASKED_EVERY: Duration = Duration::from_millis(100);
const SENSOR: &str = "load";
/// How many consumers the readings have, one for each partition.
const PARTITIONS: &str = "MADANG__EVENTLOG__PARTITIONS";

/// Two consumers, each with a core, take readings with a thousand rules on their sensor at least 1.7 times as fast as one does, and
/// when they are killed twenty times in the middle, none is lost and no alert is raised twice.
pub fn two_consumers(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let devices = ground.count(10, 1_000);
    let rules = ground.count(20, 1_000);
    let one = Backlog::make(ground, 1, devices, rules)?;
    let alone = one.taken(ground, "0")?;
    drop(one);
    let two = Backlog::make(ground, 2, devices, rules)?;
    let together = two.taken(ground, "0,1")?;
    let ratio = alone.as_secs_f64() / together.as_secs_f64();
    let count = devices * OF_DEVICE;
    let rate = |took: Duration| count as f64 / took.as_secs_f64();
    // The line is about a release.
    let least = if ground.size == Size::Full { 1.7 } else { 0.0 };
    report.bound(
        ratio >= least,
        format!(
            "{count} readings, {rules} rules each: {:.0} a second by one consumer on one core, {:.0} by two on two: {ratio:.2} times",
            rate(alone),
            rate(together)
        ),
    );
    two.killed(ground, &mut report)?;
    Ok(report)
}

/// Readings that stand in a log and were taken by nobody.
struct Backlog {
    folder: tempfile::TempDir,
    partitions: usize,
    devices: usize,
}

impl Backlog {
    fn make(ground: &Ground, partitions: usize, devices: usize, rules: usize) -> Result<Self> {
        let made = Self { folder: tempfile::tempdir()?, partitions, devices };
        let launch = made.launch(&ground.binary, "filled");
        let stack = launch.start()?;
        let values: Vec<Value> =
            ["temp", "humid", "wind"].map(|name| json!({ "name": name })).into();
        stack.api().post("/v1/sensors", &json!({"name": SENSOR, "values": values}))?.ok()?;
        stack.api().post("/v1/rules-import", &many(rules - 1))?.ok()?;
        let telling = json!({
            "name": "telling", "sensor": SENSOR,
            "conditions": [{"value": "temp", "ranges": [{"min": 500, "max": 501}]}],
        });
        stack.api().post("/v1/rules", &telling)?.ok()?;
        stack.terminate()?;
        copy(&made.path("filled"), &made.path("fresh"))?;
        let stack = launch.start()?;
        for device in 0..devices {
            let readings: Vec<Value> = (0..OF_DEVICE)
                .map(|number| {
                    let temp = if number % ALERTS_EVERY == 0 { 500.0 } else { 20.0 };
                    reading(SENSOR, number, temp)
                })
                .collect();
            send(&stack.api(), &format!("device-{device}"), &json!(readings))?;
        }
        stack.terminate()?;
        Ok(made)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn count(&self) -> usize {
        self.devices * OF_DEVICE
    }

    fn launch(&self, binary: &Path, folder: &str) -> Launch {
        Launch::new(binary, &self.path(folder))
            .environment(PARTITIONS, &self.partitions.to_string())
    }

    /// A folder of its own, in which the readings stand.
    fn stand(&self, name: &str) -> Result<()> {
        copy(&self.path("fresh"), &self.path(name))?;
        std::fs::remove_dir_all(self.path(name).join("data/log"))?;
        copy(&self.path("filled").join("data/log"), &self.path(name).join("data/log"))
    }

    /// How long a server on these cores alone takes for all of them, its start included.
    #[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
    fn taken(&self, ground: &Ground, cores: &str) -> Result<Duration> {
        self.stand("timed")?;
        let script = self.path("pinned");
        let text =
            format!("#!/bin/sh\nexec taskset -c {cores} '{}' \"$@\"\n", ground.binary.display());
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let began = Instant::now();
        let stack = self.launch(&script, "timed").start()?;
        within_every(ASKED_EVERY, Duration::from_mins(5), "all readings", || {
            Ok((total(&stack)? == self.count()).then_some(()))
        })?;
        let took = began.elapsed();
        stack.kill()?;
        Ok(took)
    }

    fn killed(&self, ground: &Ground, report: &mut Report) -> Result<()> {
        self.stand("killed")?;
        let launch = self.launch(&ground.binary, "killed");
        let kills = ground.count(3, 20);
        let mut in_the_middle = 0;
        for kill in 1..=kills {
            let stack = launch.start()?;
            let wanted = self.count() * kill / (kills + 1);
            let found =
                within_every(Duration::ZERO, Duration::from_mins(1), "some readings", || {
                    let found = total(&stack)?;
                    Ok((found >= wanted).then_some(found))
                })?;
            stack.kill()?;
            in_the_middle += usize::from(found < self.count());
        }
        let stack = launch.start()?;
        within(Duration::from_mins(5), "all readings", || {
            Ok((total(&stack)? >= self.count()).then_some(()))
        })?;
        let api = stack.api();
        let rows = i64::try_from(self.count() * 3)?;
        let found = within(Duration::from_mins(1), "the rows", || {
            let found = api.sql_number("SELECT count(*) FROM readings")?;
            Ok((found >= rows).then_some(found))
        })?;
        let alerts = alerts(&api)?;
        let wanted: BTreeSet<(String, String)> = (0..self.devices)
            .flat_map(|device| {
                (0..OF_DEVICE).step_by(ALERTS_EVERY).map(move |number| (device, number))
            })
            .map(|(device, number)| {
                let time = reading(SENSOR, number, 0.0)["time"].as_str().unwrap_or_default().into();
                (format!("device-{device}"), time)
            })
            .collect();
        let missing = wanted.iter().filter(|wanted| !alerts.contains_key(*wanted)).count();
        let strange = alerts.keys().filter(|found| !wanted.contains(*found)).count();
        let twice = alerts.values().filter(|times| **times > 1).count();
        let count = total(&stack)?;
        report.bound(
            found == rows && count == self.count() && missing + strange + twice == 0,
            format!(
                "{kills} times kill -9, {in_the_middle} of them in the middle: {count} readings of {} counted, {found} rows of {rows}, {} alerts of {}, {missing} missing, {strange} too many, {twice} twice",
                self.count(),
                alerts.len(),
                wanted.len()
            ),
        );
        let has_to = ground.size == Size::Full;
        ensure!(!has_to || in_the_middle > kills / 2, "too few kills came in the middle");
        Ok(())
    }
}

fn total(stack: &Stack) -> Result<usize> {
    let total = stack.api().get("/v1/overview")?.ok()?["readings_total"].as_u64();
    Ok(usize::try_from(total.context("no total")?)?)
}

/// How often there is an alert of each device and time.
fn alerts(api: &Http) -> Result<BTreeMap<(String, String), usize>> {
    let mut found = BTreeMap::new();
    for alert in api.all("/v1/alerts")? {
        let of = |name: &str| alert[name].as_str().map(str::to_owned).context("no text");
        *found.entry((of("device")?, of("time")?)).or_default() += 1;
    }
    Ok(found)
}
