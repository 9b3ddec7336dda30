use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::browser::Browser;
use crate::mailbox::Mailbox;
use crate::proofs::{Ground, Report};
use crate::stack::Launch;
use crate::wait::within;

/// Chromium does it all: signs in by the one-time link, sees three stations and a moving chart, asks SQL, makes a rule, sees
/// the dry run, receives the mail in a real SMTP server.
pub fn first_hour(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mailbox = Mailbox::open()?;
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path())
        .argument("--sample")
        .mail_to(mailbox.port)
        .start()?;
    let browser = Browser::open(1280, 900, "en-US")?;
    let look = |name: &str| browser.screenshot(&ground.evidence.join(format!("{name}.png")));

    // Signed in by the link; a password for the next time.
    browser.go(&stack.link()?)?;
    browser.fill("set-password", "correct horse battery staple")?;
    look("1-link")?;
    browser.click("set-password-submit")?;
    browser.find("nav-overview")?;
    report.figure("signed in by the one-time link and set a password");

    // The year of three stations arrives through MQTT.
    let readings = within(Duration::from_mins(4), "the sample's history", || {
        let count =
            stack.api().sql_number("SELECT count(DISTINCT (device, time)) FROM readings")?;
        Ok((count >= 26_115).then_some(count))
    })?;
    report.figure(format!("{readings} readings of the sample in SQL"));
    browser.click("nav-overview")?;
    browser.find("live-state")?;
    look("2-overview")?;

    // Three stations, told apart, and a chart that moves.
    browser.click("nav-map")?;
    for station in ["EWR", "JFK", "LGA"] {
        browser.find(&format!("station-{station}"))?;
    }
    browser.click("station-JFK")?;
    browser.find("chart")?;
    let points = || -> Result<u64> {
        let points = browser.attribute("chart-points", "data-count")?.context("data-count")?;
        Ok(points.parse()?)
    };
    let first = within(Duration::from_secs(30), "a drawn chart", || {
        Ok(Some(points()?).filter(|points| *points > 0))
    })?;
    let later = within(Duration::from_secs(30), "a moving chart", || {
        Ok(Some(points()?).filter(|points| *points > first))
    })?;
    look("3-map")?;
    report.figure(format!(
        "three stations on the map; the chart grew from {first} to {later} points"
    ));

    // SQL.
    browser.click("nav-sql")?;
    browser.find("sql-editor")?;
    browser.script(
        "const e = document.querySelector('[data-test=\"sql-editor\"]'); e.focus(); e.value = \
         \"SELECT device, count(*) AS readings, avg(value) AS temp FROM readings WHERE name = 'temp' GROUP BY device ORDER BY device\"; \
         e.dispatchEvent(new Event('input', {bubbles: true}));",
    )?;
    browser.click("sql-run")?;
    browser.until(
        "three rows of SQL",
        "return document.querySelector('[data-test=\"sql-row-count\"]')?.dataset.count === '3'",
    )?;
    look("4-sql")?;
    report.figure("SQL: one row for each of three stations");

    make_rule(&browser, &look, &mut report)?;
    let mail = mailbox.wait(Duration::from_mins(1), |mail| mail.text().contains("Any wind"))?;
    ensure!(mail.header("message-id").is_some(), "the mail has no Message-ID");
    report.figure(format!("the mail arrived: {}", mail.header("subject").unwrap_or_default()));

    // The same in Korean and dark.
    browser.script("localStorage.setItem('madang.language', 'ko'); localStorage.setItem('madang.theme', 'dark'); location.reload();")?;
    browser.find("nav-overview")?;
    browser.click("nav-overview")?;
    browser.find("live-state")?;
    look("6-overview-ko-dark")?;
    let complaints = browser.complaints()?;
    report.bound(
        complaints.is_empty(),
        format!("{} errors in the browser's console {complaints:?}", complaints.len()),
    );
    Ok(report)
}

fn make_rule(
    browser: &Browser,
    look: &impl Fn(&str) -> Result<()>,
    report: &mut Report,
) -> Result<()> {
    browser.click("nav-rules")?;
    browser.click("rule-new")?;
    browser.fill("rule-name", "Any wind")?;
    browser.choose("rule-sensor", "weather")?;
    browser.choose("rule-value", "wind_speed")?;
    browser.fill("rule-min", "0")?;
    browser.fill("rule-email", "ops@example.com")?;
    browser.click("rule-dry-run")?;
    browser.find("dry-run-alerts")?;
    let alerts = browser.attribute("dry-run-alerts", "data-count")?.context("data-count")?;
    let alerts: u64 = alerts.parse()?;
    report.bound(alerts > 100, format!("the dry run on past data shows {alerts} alerts"));
    look("5-rule-dry-run")?;
    browser.click("rule-save")?;
    browser.until("the rule in the list", "return document.body.innerText.includes('Any wind')")
}
