//! What publishers know of their readings, and whether a stack still knows the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::load::Sent;
use crate::mailbox::Mailbox;
use crate::proofs::Report;
use crate::stack::Stack;
use crate::wait::{within, within_every};

/// What every publisher knows of its readings, over all rounds.
#[derive(Default)]
pub(super) struct Ledger(BTreeMap<String, Sent>);

impl Ledger {
    pub(super) fn add(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            let known = self.0.entry(sent.device.clone()).or_default();
            known.acknowledged.extend(&sent.acknowledged);
            known.unanswered.extend(&sent.unanswered);
        }
    }

    /// Where each publisher goes on. What was not answered is sent again, as a device does.
    pub(super) fn next(&self, publishers: usize) -> Vec<u64> {
        let mut next = vec![0; publishers];
        for (slot, sent) in next.iter_mut().zip(self.0.values()) {
            let unanswered = sent.unanswered.difference(&sent.acknowledged).min();
            let after = sent.acknowledged.last().map_or(0, |last| last + 1);
            *slot = unanswered.copied().unwrap_or(after).min(after);
        }
        next
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.0.values().map(|sent| sent.acknowledged.len()).sum()
    }
}

pub(super) fn make_rule(stack: &Stack) -> Result<()> {
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
pub(super) fn wait_for_load(stack: &Stack, wanted: u64) -> Result<()> {
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

/// How often each reading is in SQL, by device and second.
type Found = BTreeMap<(String, u64), i64>;

/// Every acknowledged reading once in SQL, every alert once, one Message-ID for each alert's mails.
pub(super) fn check(
    stack: &Stack,
    mailbox: &Mailbox,
    ledger: &Ledger,
    when: &str,
    report: &mut Report,
) -> Result<()> {
    let view = settled(stack, ledger, Duration::from_mins(1))?;
    report.bound(view.holds(), format!("{when}: {view}"));
    if view.holds() { check_mails(stack, mailbox, view.expected, when, report) } else { Ok(()) }
}

/// How a stack's readings and alerts agree with what publishers know.
pub(super) struct View {
    acknowledged: usize,
    found: usize,
    missing: usize,
    doubled: usize,
    invented: usize,
    alerts: usize,
    /// Alerts by recount.
    expected: usize,
    are_alerts_right: bool,
}

/// Waits until all that was acknowledged is there, with the alerts for it; gives the last view otherwise.
pub(super) fn settled(stack: &Stack, ledger: &Ledger, limit: Duration) -> Result<View> {
    let mut last = None;
    let waited =
        within_every(Duration::from_millis(50), limit, "the acknowledged readings", || {
            let view = View::of(stack, ledger)?;
            let is_final = view.holds() || view.doubled + view.invented > 0;
            last = Some(view);
            Ok(is_final.then_some(()))
        });
    match (last, waited) {
        (Some(view), _) => Ok(view),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => unreachable!("a view was final"),
    }
}

impl View {
    fn of(stack: &Stack, ledger: &Ledger) -> Result<Self> {
        let found = readings(stack)?;
        let is_missing = |device: &String, n: u64| !found.contains_key(&(device.clone(), n));
        let is_invented = |(device, n): &&(String, u64)| {
            ledger
                .0
                .get(device)
                .is_none_or(|sent| !sent.acknowledged.contains(n) && !sent.unanswered.contains(n))
        };
        let expected = recount(&found);
        let alerts = stack.api().all("/v1/alerts")?;
        let raised: BTreeSet<String> = alerts.iter().map(alert_name).collect::<Result<_>>()?;
        Ok(Self {
            acknowledged: ledger.acknowledged(),
            found: found.len(),
            missing: ledger
                .0
                .iter()
                .map(|(device, sent)| {
                    sent.acknowledged.iter().filter(|n| is_missing(device, **n)).count()
                })
                .sum(),
            doubled: found.values().filter(|copies| **copies != 1).count(),
            invented: found.keys().filter(is_invented).count(),
            alerts: alerts.len(),
            expected: expected.len(),
            are_alerts_right: raised == expected && alerts.len() == raised.len(),
        })
    }

    pub(super) fn holds(&self) -> bool {
        self.missing + self.doubled + self.invented == 0 && self.are_alerts_right
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged readings, {} missing; {} in SQL, {} doubled, {} never sent; {} alerts, {} by recount, {}",
            self.acknowledged,
            self.missing,
            self.found,
            self.doubled,
            self.invented,
            self.alerts,
            self.expected,
            if self.are_alerts_right { "each once" } else { "not the same" }
        )
    }
}

/// The alerts of a naive recount of the readings: one at the first hot reading of a device, and again when the
/// cool-down of 60 s of reading time is over.
fn recount(found: &Found) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (device, n) in found.keys() {
        if n % 10 == 0 && last.get(device.as_str()).is_none_or(|last| n - last >= 60) {
            last.insert(device, *n);
            expected.insert(format!("{device} {n}"));
        }
    }
    expected
}

fn readings(stack: &Stack) -> Result<Found> {
    let sql = "SELECT device, CAST(value AS BIGINT) AS n, count(*) AS copies FROM readings WHERE name = 'n' GROUP BY device, value";
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

/// Every alert has its mail; copies of one alert's mail carry one Message-ID.
fn check_mails(
    stack: &Stack,
    mailbox: &Mailbox,
    alerts: usize,
    when: &str,
    report: &mut Report,
) -> Result<()> {
    let messages =
        within_every(Duration::from_millis(100), Duration::from_mins(1), "the mails", || {
            let messages = stack.api().all("/v1/messages")?;
            let sent = messages.iter().filter(|message| message["state"] == "sent").count();
            Ok((sent == messages.len() && messages.len() >= alerts).then_some(messages))
        })?;
    // What the server sent is read from the mail server's output a little later.
    within_every(Duration::from_millis(100), Duration::from_mins(1), "the last mails", || {
        let mails = mailbox.mails();
        let ids: BTreeSet<&str> =
            mails.iter().filter_map(|mail| mail.header("message-id")).collect();
        Ok((ids.len() >= alerts).then_some(()))
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
        of_several == 0 && distinct.len() == alerts && messages.len() == alerts,
        format!(
            "{when}: {} mails arrived with {} Message-IDs for {} alerts",
            mailbox.mails().len(),
            distinct.len(),
            alerts
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
