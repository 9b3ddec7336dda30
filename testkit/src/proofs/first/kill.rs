use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::load::{Publishers, Sent};
use crate::mailbox::Mailbox;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

/// 20 × kill -9 under load by 50 publishers: every acknowledged reading is there once, no alert lost, an alert's repeats
/// carry one Message-ID; up again in under 2 s. After the last the same with the last segment torn.
pub fn kill(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mailbox = Mailbox::open()?;
    let folder = tempfile::tempdir()?;
    // A mail that was being sent when its server was killed is tried again after its lease.
    let launch = Launch::new(&ground.binary, folder.path())
        .mail_to(mailbox.port)
        .environment("MADANG__DELIVERY__SMTP__SEND_TIME_MAX", "2s")
        .environment("MADANG__DELIVERY__LEASE_MARGIN", "1s");
    let publishers = ground.count(50, 50);
    let rounds = ground.count(5, 20);
    let mut ledger = Ledger::default();
    let mut slowest_start = Duration::ZERO;

    let mut stack = launch.start()?;
    make_rule(&stack)?;
    for round in 0..rounds {
        let load = Publishers::start(
            publishers,
            stack.mqtt_address(),
            (stack.mqtt_user(), stack.mqtt_password()),
            &ledger.next(publishers),
            4,
        );
        let before = ledger.acknowledged();
        let wanted = 200 * (1 + round as u64 % 4);
        wait_for_load(&stack, wanted)?;
        stack.kill()?;
        ledger.add(load.join()?);
        ensure!(ledger.acknowledged() > before, "round {round}: nothing was acknowledged");
        stack = launch.start()?;
        slowest_start = slowest_start.max(stack.ready_after);
    }
    let start_max =
        if ground.size == Size::Test { Duration::from_secs(10) } else { Duration::from_secs(2) };
    report.bound(
        slowest_start < start_max,
        format!("{rounds} kills under {publishers} publishers; slowest start after one {slowest_start:?}"),
    );
    check(&stack, &mailbox, &ledger, "after the kills", &mut report)?;

    // A torn tail: half a batch follows what was acknowledged, as a lost machine leaves it.
    stack.kill()?;
    let torn = tear_last_segment(&folder.path().join("data"))?;
    report.figure(format!("torn: {}", torn.display()));
    let stack = launch.start()?;
    report.bound(
        stack.ready_after < start_max,
        format!("start with a torn segment {:?}", stack.ready_after),
    );
    let load = Publishers::start(
        publishers,
        stack.mqtt_address(),
        (stack.mqtt_user(), stack.mqtt_password()),
        &ledger.next(publishers),
        4,
    );
    wait_for_load(&stack, 400)?;
    ledger.add(load.stop()?);
    check(&stack, &mailbox, &ledger, "after the torn segment", &mut report)?;
    Ok(report)
}

/// What every publisher knows of its readings, over all rounds.
#[derive(Default)]
struct Ledger(BTreeMap<String, Sent>);

impl Ledger {
    fn add(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            let known = self.0.entry(sent.device.clone()).or_default();
            known.acknowledged.extend(&sent.acknowledged);
            known.unanswered.extend(&sent.unanswered);
        }
    }

    /// Where each publisher goes on. What was not answered is sent again, as a device does.
    fn next(&self, publishers: usize) -> Vec<u64> {
        let mut next = vec![0; publishers];
        for (slot, sent) in next.iter_mut().zip(self.0.values()) {
            let unanswered = sent.unanswered.difference(&sent.acknowledged).min();
            let after = sent.acknowledged.last().map_or(0, |last| last + 1);
            *slot = unanswered.copied().unwrap_or(after).min(after);
        }
        next
    }

    fn acknowledged(&self) -> usize {
        self.0.values().map(|sent| sent.acknowledged.len()).sum()
    }
}

fn make_rule(stack: &Stack) -> Result<()> {
    let sensor = json!({"name": "load", "values": [{"name": "temp", "unit": "°C"}, {"name": "n", "unit": ""}]});
    stack.api().post("/v1/sensors", &sensor)?.ok()?;
    let rule = json!({
        "name": "Hot", "sensor": "load", "enabled": true,
        "conditions": [{"value": "temp", "ranges": [{"min": 90.0, "max": null}]}],
        "window": null, "cooldown_seconds": 60,
        "actions": [{"type": "email", "to": "ops@example.com"}],
    });
    stack.api().post("/v1/rules", &rule)?.ok().map(drop)
}

/// Waits until the running stack has taken `wanted` more readings.
fn wait_for_load(stack: &Stack, wanted: u64) -> Result<()> {
    let taken = || -> Result<u64> {
        let text = String::from_utf8(stack.api().get("/metrics")?.body)?;
        let line = text
            .lines()
            .find(|line| line.starts_with("madang_eventlog_appended_records_total"))
            .context("no metric of appended records")?;
        Ok(line.rsplit(' ').next().context("no number")?.parse()?)
    };
    let start = taken()?;
    within(Duration::from_mins(1), "the load", || Ok((taken()? >= start + wanted).then_some(())))
}

/// Every acknowledged reading once in SQL, every alert once, one Message-ID for each alert's mails.
fn check(
    stack: &Stack,
    mailbox: &Mailbox,
    ledger: &Ledger,
    when: &str,
    report: &mut Report,
) -> Result<()> {
    let sql = "SELECT device, CAST(value AS BIGINT) AS n, count(*) AS copies FROM readings WHERE name = 'n' GROUP BY device, value";
    let found = within_every(
        Duration::from_millis(200),
        Duration::from_mins(1),
        "every acknowledged reading",
        || {
            let found = readings(stack, sql)?;
            let missing = ledger.0.iter().flat_map(|(device, sent)| {
                sent.acknowledged.iter().filter(|n| !found.contains_key(&(device.clone(), **n)))
            });
            let missing = missing.count();
            ensure!(missing == 0, "{missing} acknowledged readings are not in SQL");
            Ok(Some(found))
        },
    );
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            report.bound(false, format!("{when}: {error:#}"));
            return Ok(());
        }
    };
    let doubled = found.values().filter(|copies| **copies != 1).count();
    let invented = found
        .keys()
        .filter(|(device, n)| {
            ledger
                .0
                .get(device)
                .is_none_or(|sent| !sent.acknowledged.contains(n) && !sent.unanswered.contains(n))
        })
        .count();
    report.bound(
        doubled == 0 && invented == 0,
        format!(
            "{when}: {} acknowledged readings, {} in SQL, {doubled} doubled, {invented} never sent",
            ledger.acknowledged(),
            found.len()
        ),
    );
    check_alerts(stack, mailbox, &found, when, report)
}

fn readings(stack: &Stack, sql: &str) -> Result<BTreeMap<(String, u64), i64>> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    loop {
        let page =
            stack.api().sql(&format!("{sql} ORDER BY device, n LIMIT 5000 OFFSET {offset}"))?;
        for row in &page {
            let device = row[0].as_str().context("device")?.to_owned();
            let key = (device, row[1].as_u64().context("n")?);
            found.insert(key, row[2].as_i64().context("copies")?);
        }
        if page.len() < 5000 {
            return Ok(found);
        }
        offset += page.len();
    }
}

/// The alerts equal those of a naive recount of the readings: one at the first hot reading of a device, and again when the
/// cool-down of 60 s of reading time is over.
fn check_alerts(
    stack: &Stack,
    mailbox: &Mailbox,
    found: &BTreeMap<(String, u64), i64>,
    when: &str,
    report: &mut Report,
) -> Result<()> {
    let mut expected = BTreeSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (device, n) in found.keys() {
        if n % 10 == 0 && last.get(device.as_str()).is_none_or(|last| n - last >= 60) {
            last.insert(device, *n);
            expected.insert(format!("{device} {n}"));
        }
    }
    let alerts =
        within_every(Duration::from_millis(100), Duration::from_secs(30), "the alerts", || {
            let alerts = stack.api().all("/v1/alerts")?;
            Ok((alerts.len() >= expected.len()).then_some(alerts))
        });
    let alerts = alerts.or_else(|_| stack.api().all("/v1/alerts"))?;
    let named: Vec<String> = alerts.iter().map(alert_name).collect::<Result<_>>()?;
    let raised: BTreeSet<String> = named.iter().cloned().collect();
    report.bound(
        raised == expected && named.len() == raised.len(),
        format!("{when}: {} alerts, {} by recount, each once", named.len(), expected.len()),
    );

    // Every alert has its mail; copies of one alert's mail carry one Message-ID.
    let messages =
        within_every(Duration::from_millis(100), Duration::from_mins(1), "the mails", || {
            let messages = stack.api().all("/v1/messages")?;
            let sent = messages.iter().filter(|message| message["state"] == "sent").count();
            Ok((sent == messages.len() && messages.len() >= expected.len()).then_some(messages))
        })?;
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for mail in mailbox.mails() {
        let id = mail.header("message-id").context("a mail without a Message-ID")?.to_owned();
        let body =
            mail.lines.iter().skip_while(|line| !line.is_empty()).cloned().collect::<Vec<_>>();
        ids.entry(body.join("\n")).or_default().insert(id);
    }
    let distinct: BTreeSet<&String> = ids.values().flatten().collect();
    let of_several = ids.values().filter(|ids| ids.len() > 1).count();
    report.bound(
        of_several == 0 && distinct.len() == expected.len() && messages.len() == expected.len(),
        format!(
            "{when}: {} mails arrived with {} Message-IDs for {} alerts",
            mailbox.mails().len(),
            distinct.len(),
            expected.len()
        ),
    );
    Ok(())
}

/// `device n` of an alert, n being the second of 2020 that its reading was taken at.
fn alert_name(alert: &Value) -> Result<String> {
    let device = alert["device"].as_str().context("device")?;
    let n = alert["values"]["n"].as_f64().context("n")?;
    Ok(format!("{device} {n}"))
}

/// Appends half of the newest segment's own first bytes to it: a batch that was being written.
fn tear_last_segment(data: &Path) -> Result<PathBuf> {
    let mut segments = vec![];
    collect_segments(data, &mut segments)?;
    let newest = segments
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "readings"))
        .max()
        .context("no segment of readings")?;
    let bytes = std::fs::read(&newest)?;
    let half = bytes.len().min(90);
    let mut file = OpenOptions::new().append(true).open(&newest)?;
    std::io::Write::write_all(&mut file, &bytes[..half])?;
    Ok(newest)
}

fn collect_segments(folder: &Path, segments: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_segments(&path, segments)?;
        } else if path.extension().is_some_and(|extension| extension == "log") {
            segments.push(path);
        }
    }
    Ok(())
}
