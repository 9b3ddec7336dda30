use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::metric;
use crate::http::Http;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

/// Readings of one request.
const BATCH: usize = 1_000;

/// Ten million evaluations a second and core, reading the records' JSON included; a rule that is changed a thousand times
/// under load meets no reading with its former text after the answer, and skips none.
pub fn rules(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let values: Vec<Value> = ["temp", "humid", "wind"].map(|name| json!({ "name": name })).into();
    stack.api().post("/v1/sensors", &json!({"name": "load", "values": values}))?.ok()?;
    stack.api().post("/v1/sensors", &json!({"name": "swap", "values": values}))?.ok()?;
    for count in [10, ground.count(100, 1_000)] {
        speed(ground, &stack, count, &mut report)?;
    }
    swaps(ground, &stack, &mut report)?;
    Ok(report)
}

/// Rules of every kind that looks at one reading, none of which ever matches: what costs is the looking.
pub(super) fn many(count: usize) -> Value {
    let rules = (0..count).map(|number| {
        let beyond = 1_000 + number;
        let condition = match number % 3 {
            0 => json!({"value": "temp", "ranges": [{"min": beyond}, {"max": -1_000}]}),
            1 => json!({"value": "humid", "compare": {"is": "above", "value": "temp", "plus": beyond}}),
            _ => json!({"value": "wind", "ranges": [{"min": beyond, "max": beyond + 1}]}),
        };
        json!({"name": format!("rule {number}"), "sensor": "load", "conditions": [condition]})
    });
    json!({ "rules": rules.collect::<Vec<_>>() })
}

fn speed(ground: &Ground, stack: &Stack, count: usize, report: &mut Report) -> Result<()> {
    stack.api().post("/v1/rules-import", &many(count))?.ok()?;
    let readings = ground.count(2, 200) * BATCH;
    let device = format!("load-{count}");
    let (evaluated, seconds) = looked(stack)?;
    for batch in 0..readings / BATCH {
        let readings: Vec<Value> = (0..BATCH)
            .map(|number| reading("load", batch * BATCH + number, number as f64 / 10.0))
            .collect();
        send(&stack.api(), &device, &json!(readings))?;
    }
    let wanted = evaluated + (readings * count) as f64;
    within(Duration::from_mins(5), "every evaluation", || {
        Ok((looked(stack)?.0 >= wanted).then_some(()))
    })?;
    let (after, took) = looked(stack)?;
    let rate = (after - evaluated) / (took - seconds);
    // The line is about a release.
    let least = if ground.size == Size::Full && count > 10 { 1e7 } else { 0.0 };
    let of_parsing = readings as f64 / (took - seconds);
    report.bound(
        rate >= least,
        format!(
            "{count} rules on {readings} readings: {:.2} M evaluations a second and core, {of_parsing:.0} readings a second and core, their JSON read",
            rate / 1e6
        ),
    );
    Ok(())
}

/// How often rules looked at readings, and what it took with reading them.
fn looked(stack: &Stack) -> Result<(f64, f64)> {
    Ok((
        metric(stack, "madang_devices_rules_evaluated_total")?,
        metric(stack, "madang_devices_rules_seconds_total")?,
    ))
}

pub(super) fn reading(sensor: &str, second: usize, temp: f64) -> Value {
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let time = format!(
        "2013-{:02}-{:02}T{:02}:{minute:02}:{:02}Z",
        1 + hour / 24 / 28,
        1 + hour / 24 % 28,
        hour % 24,
        second % 60
    );
    json!({"sensor": sensor, "time": time, "values": {"temp": temp, "humid": 50.5, "wind": 3.25}})
}

pub(super) fn send(api: &Http, device: &str, readings: &Value) -> Result<()> {
    let taken = api.post(&format!("/v1/devices/{device}/readings"), readings)?.ok()?;
    ensure!(taken["refused"].as_array().is_some_and(Vec::is_empty), "refused: {taken}");
    Ok(())
}

/// Each text of the rule matches one value alone, so an alert says which text a reading met.
fn swaps(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let rounds = ground.count(20, 1_000);
    let api = stack.api();
    let text =
        |round: usize| json!([{"value": "temp", "ranges": [{"min": round, "max": round + 1}]}]);
    let rule = json!({"name": "swapped", "sensor": "swap", "conditions": text(0)});
    let rule = api.post("/v1/rules", &rule)?.ok()?;
    let id = rule["id"].as_str().context("no id")?.to_owned();
    let (is_over, loaded) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(stack, &is_over, &loaded));
        let swapped = (|| {
            for round in 1..=rounds {
                let change = json!({"conditions": text(round)});
                api.patch(&format!("/v1/rules/{id}"), &change)?.ok()?;
                // One for the former text and one for this one, the seconds apart.
                let (former, own) = (round as f64 - 1.0, round as f64);
                let pair =
                    [reading("swap", 2 * round, former), reading("swap", 2 * round + 1, own)];
                let last = pair[1]["time"].clone();
                send(&api, "swap", &json!(pair))?;
                taken(&api, &last)?;
            }
            anyhow::Ok(())
        })();
        is_over.store(true, Ordering::Release);
        let loading = load.join().map_err(|_| anyhow::anyhow!("the load broke"))?;
        swapped.and(loading)
    });
    done?;
    let alerts = all_of_rule(&api, &id)?;
    let mut met = vec![0_usize; rounds + 1];
    let mut strangers = 0;
    for alert in &alerts {
        let value = alert["values"]["temp"].as_f64().unwrap_or(-1.0);
        let second = alert["time"].as_str().unwrap_or_default();
        let round = (0..=rounds).find(|round| value.to_bits() == (*round as f64).to_bits());
        let is_own = round.is_some_and(|round| {
            reading("swap", 2 * round + 1, value)["time"].as_str() == Some(second)
        });
        match round {
            Some(round) if is_own => met[round] += 1,
            _ => strangers += 1,
        }
    }
    let skipped = met[1..].iter().filter(|count| **count == 0).count();
    let doubled = met.iter().filter(|count| **count > 1).count();
    let load = loaded.load(Ordering::Acquire);
    report.bound(
        strangers == 0 && skipped == 0 && doubled == 0,
        format!(
            "{rounds} swaps beside {load} other readings: {strangers} readings met a former text after the answer, {skipped} were skipped, {doubled} alerted twice"
        ),
    );
    Ok(())
}

fn all_of_rule(api: &Http, id: &str) -> Result<Vec<Value>> {
    let alerts = api.all("/v1/alerts")?;
    Ok(alerts.into_iter().filter(|alert| alert["rule"] == id).collect())
}

/// Readings of other devices, as fast as they are taken.
fn load(stack: &Stack, is_over: &AtomicBool, loaded: &AtomicU64) -> Result<()> {
    let api = stack.api();
    let mut second = 0;
    while !is_over.load(Ordering::Acquire) {
        let readings: Vec<Value> = (0..50).map(|n| reading("swap", second + n, -5.0)).collect();
        send(&api, "beside", &json!(readings))?;
        second += 50;
        loaded.fetch_add(50, Ordering::AcqRel);
    }
    Ok(())
}

/// Waits until the pipeline has taken the reading; else the next text could rightly meet it.
fn taken(api: &Http, time: &Value) -> Result<()> {
    within_every(Duration::from_millis(1), Duration::from_mins(1), "the pipeline", || {
        let device = api.get("/v1/devices/swap")?.ok()?;
        let last = device["last"].as_array().context("no last readings")?;
        Ok(last.iter().any(|last| last["time"] == *time).then_some(()))
    })
}
