use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Http;
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};
use crate::wait::within;

/// Seconds between two readings of a device.
const EVERY: i64 = 300;
/// 2013-01-01.
const BEGIN: i64 = 1_356_998_400;
/// What the sensor says of late readings.
const LATENESS: i64 = 7_200;
const QUIET: i64 = 1_800;
const LASTING: i64 = 3_600;
/// Readings of one request.
const BATCH: usize = 200;

/// A reading as a device sends it.
#[derive(Clone, Copy)]
struct Sent {
    time: i64,
    temp: i64,
}

/// A week of devices behind gateways that go away and come back with the newest first, with clocks that are wrong,
/// duplicates with other values, and late data; and `kill -9` in the middle. The alerts are those of a naive recount.
pub fn night(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let launch = Launch::new(&ground.binary, folder.path());
    let stack = launch.start()?;
    register(&stack.api())?;
    let days = i64::try_from(ground.count(1, 7))?;
    let devices = ground.count(3, 20);
    let mut expected = BTreeSet::new();
    let (mut sent, mut distinct, mut late) = (0, 0, 0);
    let all: Vec<(String, Vec<Sent>)> =
        (0..devices).map(|number| (format!("room-{number}"), week(number as u64, days))).collect();
    for (device, readings) in &all {
        let recount = recount(device, readings);
        sent += readings.len();
        distinct += recount.distinct;
        late += recount.too_late;
        expected.extend(recount.alerts);
    }
    let api = stack.api();
    for (device, readings) in &all {
        send(&api, device, &readings[..readings.len() / 2])?;
    }
    stack.kill()?;
    let stack = launch.start()?;
    let api = stack.api();
    for (device, readings) in &all {
        send(&api, device, &readings[readings.len() / 2..])?;
    }
    within(Duration::from_mins(5), "the readings", || {
        let total = api.get("/v1/overview")?.ok()?["readings_total"].as_u64().unwrap_or(0);
        Ok((total >= distinct as u64).then_some(()))
    })?;
    let found = alerts(&stack)?;
    let (missing, strange) =
        (expected.difference(&found).count(), found.difference(&expected).count());
    report.bound(
        missing == 0 && strange == 0 && !expected.is_empty(),
        format!(
            "{devices} devices, {days} days, {sent} messages of {distinct} readings, {late} too late for rules: {} alerts as recounted, {missing} missing, {strange} too many",
            expected.len()
        ),
    );
    Ok(report)
}

fn register(api: &Http) -> Result<()> {
    let sensor =
        json!({"name": "room", "values": [{"name": "temp"}], "lateness_seconds": LATENESS});
    api.post("/v1/sensors", &sensor)?.ok()?;
    let at_least = |min: i64| json!({"value": "temp", "ranges": [{"min": min}]});
    let hysteresis = json!({"value": "temp", "ranges": [{"min": 28}], "hold": {"min": 26}});
    let rules = json!({"rules": [
        {"name": "at once", "sensor": "room", "conditions": [at_least(30)], "cooldown_seconds": QUIET},
        {"name": "lasting", "sensor": "room", "conditions": [at_least(25)], "for_seconds": LASTING, "once": true},
        {"name": "held", "sensor": "room", "conditions": [hysteresis], "cooldown_seconds": QUIET},
    ]});
    api.post("/v1/rules-import", &rules)?.ok().map(drop)
}

/// Numbers that look like chance and are the same at every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> i64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % limit).unwrap_or(0)
    }
}

/// The messages of one device in the order in which they arrive.
fn week(device: u64, days: i64) -> Vec<Sent> {
    let mut dice = Dice(device + 1);
    // Two devices share a gateway, and with it its outages.
    let mut outages = Dice(1_000 + device / 2);
    let skew = dice.below(240) - 120;
    let (mut temp, mut held) = (20, Vec::new());
    let (mut all, mut away): (Vec<Sent>, i64) = (Vec::new(), 0);
    for step in 0..days * 86_400 / EVERY {
        temp = (temp + dice.below(7) - 3).clamp(10, 40);
        let one = Sent { time: BEGIN + step * EVERY + skew, temp };
        if away == 0 && outages.below(60) == 0 {
            away = 1 + outages.below(50);
        }
        if away > 0 {
            away -= 1;
            held.push(one);
            continue;
        }
        // The newest first, then what was kept.
        all.push(one);
        all.append(&mut held);
        if dice.below(20) == 0 {
            let old = all[usize::try_from(dice.below(all.len() as u64)).unwrap_or(0)];
            all.push(Sent { temp: old.temp + 50, ..old });
        }
    }
    all.append(&mut held);
    all
}

#[derive(Default)]
struct Recount {
    alerts: BTreeSet<(String, String, i64)>,
    distinct: usize,
    too_late: usize,
}

/// What the rules say, by the plainest reading of the guide.
fn recount(device: &str, readings: &[Sent]) -> Recount {
    let mut found = Recount::default();
    let mut seen = HashSet::new();
    let mut newest: Option<i64> = None;
    let (mut since, mut is_raised, mut is_held) = (None, false, false);
    let (mut at_once, mut held): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    for Sent { time, temp } in readings.iter().copied() {
        if !seen.insert(time) {
            continue;
        }
        found.distinct += 1;
        let is_late = newest.is_some_and(|newest| time < newest);
        if newest.is_some_and(|newest| newest - time > LATENESS) {
            found.too_late += 1;
            continue;
        }
        newest = newest.max(Some(time));
        let mut raise = |rule: &str| {
            found.alerts.insert((device.to_owned(), rule.to_owned(), time));
        };
        let is_quiet = |alerts: &[i64]| alerts.iter().any(|alert| (alert - time).abs() < QUIET);
        if temp >= 30 && !is_quiet(&at_once) {
            at_once.push(time);
            raise("at once");
        }
        if is_late {
            continue;
        }
        if temp >= 25 {
            let since = *since.get_or_insert(time);
            if time - since >= LASTING && !is_raised {
                is_raised = true;
                raise("lasting");
            }
        } else {
            (since, is_raised) = (None, false);
        }
        is_held = temp >= 28 || (is_held && temp >= 26);
        if is_held && !is_quiet(&held) {
            held.push(time);
            raise("held");
        }
    }
    found
}

fn text(time: i64) -> String {
    let (days, second) = ((time - BEGIN).div_euclid(86_400), (time - BEGIN).rem_euclid(86_400));
    // The days before and after the week are of the same years as their neighbours.
    let (month, day) = if days < 0 { ("2012-12", 32 + days) } else { ("2013-01", 1 + days) };
    format!("{month}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

fn send(api: &Http, device: &str, readings: &[Sent]) -> Result<()> {
    for batch in readings.chunks(BATCH) {
        let batch: Vec<Value> = batch
            .iter()
            .map(|one| json!({"sensor": "room", "time": text(one.time), "values": {"temp": one.temp}}))
            .collect();
        let taken = api.post(&format!("/v1/devices/{device}/readings"), &json!(batch))?.ok()?;
        ensure!(taken["accepted"] == batch.len(), "not all were taken: {taken}");
    }
    Ok(())
}

/// Device, rule and second of every alert.
fn alerts(stack: &Stack) -> Result<BTreeSet<(String, String, i64)>> {
    let mut found = BTreeSet::new();
    for alert in stack.api().all("/v1/alerts")? {
        let of = |name: &str| alert[name].as_str().map(str::to_owned).context("no text");
        let (device, rule, time) = (of("device")?, of("rule_name")?, of("time")?);
        found.insert((device, rule, seconds(&time)?));
    }
    Ok(found)
}

/// The second that [`text`] wrote.
fn seconds(text: &str) -> Result<i64> {
    let number = |from: usize, to: usize| -> Result<i64> {
        Ok(text.get(from..to).context("a time")?.parse()?)
    };
    let days = if text.starts_with("2012") { number(8, 10)? - 32 } else { number(8, 10)? - 1 };
    Ok(BEGIN + days * 86_400 + number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?)
}
