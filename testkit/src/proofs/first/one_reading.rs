use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::load::Figures;
use crate::mailbox::Mailbox;
use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::within_every;

/// From PUBLISH to PUBACK p99 < 5 ms; to the event stream < 100 ms; to SQL < 1 s; to the mail < 2 s.
pub fn one_reading(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mailbox = Mailbox::open()?;
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).mail_to(mailbox.port).start()?;
    let mut client = MqttClient::connect(
        stack.mqtt_address(),
        "probe",
        stack.mqtt_user(),
        stack.mqtt_password(),
    )?;
    // The first reading registers the device and its sensor.
    send(&mut client, "probe", 0, 20.0)?;
    make_rule(&stack)?;

    let pubacks = pubacks(&mut client, ground.count(300, 5_000))?;
    // Without optimisation and beside other tests medians tell a standstill; the line itself is about a release.
    let is_test = ground.size == Size::Test;
    let slack = if is_test { 20 } else { 1 };
    let worst = |of: &Figures| if is_test { of.quantile(0.5) } else { of.max() };
    let p99 = pubacks.quantile(0.99);
    let bounded = if is_test { pubacks.quantile(0.5) } else { p99 };
    report.bound(
        bounded < Duration::from_millis(5) * slack,
        format!(
            "PUBLISH to PUBACK, on disk: p50 {:?}, p99 {p99:?}, max {:?} over {}",
            pubacks.quantile(0.5),
            pubacks.max(),
            pubacks.count()
        ),
    );

    let streamed = to_stream(&stack, &mut client, ground.count(20, 200))?;
    report.bound(
        worst(&streamed) < Duration::from_millis(100) * slack,
        format!("to the event stream: p50 {:?}, max {:?}", streamed.quantile(0.5), streamed.max()),
    );

    let queried = to_sql(&stack, &mut client, ground.count(5, 30))?;
    report.bound(
        worst(&queried) < Duration::from_secs(1) * slack,
        format!(
            "to SQL, the query included: p50 {:?}, max {:?}",
            queried.quantile(0.5),
            queried.max()
        ),
    );

    let mailed = to_mail(&mailbox, &mut client, ground.count(3, 20))?;
    report.bound(
        worst(&mailed) < Duration::from_secs(2) * slack,
        format!("to the mail server: p50 {:?}, max {:?}", mailed.quantile(0.5), mailed.max()),
    );

    let total = stack.api().sql_number("SELECT count(DISTINCT time) FROM readings")?;
    // Beside those that were timed: the first, and the one that ended the stream.
    let sent = 2 + pubacks.count() + streamed.count() + queried.count() + mailed.count();
    report.bound(
        usize::try_from(total)? == sent,
        format!("{total} readings in SQL of {sent} acknowledged"),
    );
    Ok(report)
}

fn make_rule(stack: &Stack) -> Result<()> {
    let rule = json!({
        "name": "Hot", "sensor": "probe", "enabled": true,
        "conditions": [{"value": "temp", "ranges": [{"min": 90.0, "max": null}]}],
        "window": null, "cooldown_seconds": 0,
        "actions": [{"type": "email", "to": "ops@example.com"}],
    });
    stack.api().post("/v1/rules", &rule)?.ok().context("make a rule")?;
    Ok(())
}

/// A reading whose time is `number` milliseconds into 2021.
fn send(client: &mut MqttClient, device: &str, number: usize, temp: f64) -> Result<()> {
    let time = format!(
        "2021-01-01T00:{:02}:{:02}.{:03}Z",
        number / 60_000,
        number / 1_000 % 60,
        number % 1_000
    );
    let reading = json!({"sensor": "probe", "time": time, "values": {"temp": temp}});
    client.publish(&format!("data/{device}"), 1, reading.to_string().as_bytes())?;
    client.puback().map(drop)
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn pubacks(client: &mut MqttClient, count: usize) -> Result<Figures> {
    let mut samples = vec![];
    for number in 0..count {
        let started = Instant::now();
        send(client, "probe", 1 + number, 20.0)?;
        samples.push(started.elapsed());
    }
    Ok(Figures::new(samples))
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn to_stream(stack: &Stack, client: &mut MqttClient, count: usize) -> Result<Figures> {
    let mut stream = stack.api().events("/v1/events?topic=readings")?;
    let (seen, arrivals) = std::sync::mpsc::sync_channel(count);
    let reader = std::thread::spawn(move || -> Result<()> {
        while let Some((_, _, data)) = stream.next_event()? {
            let reading: Value = serde_json::from_str(&data)?;
            let temp = reading["values"]["temp"].as_f64().unwrap_or_default();
            if temp < -1_000.0 && seen.send((temp, Instant::now())).is_err() {
                break;
            }
        }
        Ok(())
    });
    let mut samples = vec![];
    for number in 0..count {
        let mark = -1_001.0 - number as f64;
        let started = Instant::now();
        send(client, "probe", 10_000 + number, mark)?;
        let (temp, arrived) = arrivals
            .recv_timeout(Duration::from_secs(20))
            .with_context(|| format!("reading {number} did not reach the event stream"))?;
        anyhow::ensure!((temp - mark).abs() < 0.5, "the stream gave {temp}, not {mark}");
        samples.push(arrived - started);
    }
    drop(arrivals);
    // One more ends the reader, which waits in a read.
    send(client, "probe", 20_000, -5_000.0)?;
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    Ok(Figures::new(samples))
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn to_sql(stack: &Stack, client: &mut MqttClient, count: usize) -> Result<Figures> {
    let mut samples = vec![];
    for number in 0..count {
        let mark = 2_000.0 + number as f64;
        let started = Instant::now();
        // A device of its own, which no other sample shares and no rule has cooled down.
        send(client, "quiet", 30_000 + number, -mark)?;
        let sql = format!("SELECT count(*) FROM readings WHERE value = -{mark:.1}");
        within_every(Duration::from_millis(1), Duration::from_secs(20), "the row", || {
            Ok((stack.api().sql_number(&sql)? == 1).then_some(()))
        })?;
        samples.push(started.elapsed());
    }
    Ok(Figures::new(samples))
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn to_mail(mailbox: &Mailbox, client: &mut MqttClient, count: usize) -> Result<Figures> {
    let mut samples = vec![];
    for number in 0..count {
        let device = format!("hot-{number:02}");
        let started = Instant::now();
        send(client, &device, 40_000 + number, 95.0)?;
        let mail = mailbox.wait(Duration::from_secs(30), |mail| mail.text().contains(&device))?;
        samples.push(mail.arrived - started);
    }
    Ok(Figures::new(samples))
}
