use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::disk::{Disk, EIO};
use crate::http::Reply;
use crate::load::Publishers;
use crate::mailbox::Mailbox;
use crate::mqtt_client::MqttClient;
use crate::proofs::ledger::{Ledger, check, make_rule, wait_for_load};
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};
use crate::wait::within;

const PUBLISHERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// A full disk is refused with a clear error while reads go on, and left behind when there is room. After a failed
/// fsync nothing is acknowledged until what failed was opened again and verified.
pub fn disk(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mut place = Place::new(ground)?;
    let mut stack = place.launch.start()?;
    make_rule(&stack)?;
    for round in 0..ground.count(1, 8) as u64 {
        place.full(&stack, round, &mut report)?;
        stack = place.failed_fsync_of_the_log(stack, round, &mut report)?;
        place.failed_fsync_of_rows(&stack, round, &mut report)?;
        stack = place.failed_fsync_of_the_lake(stack, &mut report)?;
    }
    place.cut(stack, &mut report)?;
    Ok(report)
}

struct Place {
    launch: Launch,
    disk: Disk,
    mailbox: Mailbox,
    ledger: Ledger,
    /// Names of sensors whose making was acknowledged.
    sensors: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new(ground: &Ground) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Disk::new(&folder.path().join("data"), &folder.path().join("disk"))?;
        let mailbox = Mailbox::open()?;
        let mut launch = Launch::new(&ground.binary, folder.path())
            .mail_to(mailbox.port)
            .environment("MADANG__DELIVERY__SMTP__SEND_TIME_MAX", "2s")
            .environment("MADANG__DELIVERY__LEASE_MARGIN", "1s")
            .environment("MADANG__LAKE__FLUSH_INTERVAL", "100ms");
        for (name, value) in disk.environment() {
            launch = launch.environment(&name, &value);
        }
        let (ledger, sensors) = (Ledger::default(), vec![]);
        Ok(Self { launch, disk, mailbox, ledger, sensors, _folder: folder })
    }

    /// The disk fills up under load.
    fn full(&mut self, stack: &Stack, round: u64, report: &mut Report) -> Result<()> {
        let load = self.load(stack);
        wait_for_load(stack, 200)?;
        self.disk.limit_room(20_000 + 4_096 * round)?;
        // Each publisher ends when its connection is closed.
        self.ledger.add(load.join()?);
        report.bound(
            !is_acknowledged(stack)?,
            "full: a QoS 1 reading is not acknowledged, and its connection is closed",
        );
        // Later on rows go over old parts of the write-ahead log, which takes no room.
        let tries = if round == 0 { 1_000 } else { 20 };
        let replies = (0..tries).map(|_| self.make_sensor(stack));
        let refused = replies.filter_map(|reply| match reply {
            Ok(reply) if reply.status == 201 => None,
            other => Some(other),
        });
        match refused.take(1).next().transpose()? {
            Some(reply) => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                report.bound(
                    reply.status == 503
                        && reply.content_type == "application/problem+json"
                        && said.contains("full"),
                    format!("full: HTTP answers {} {said}", reply.status),
                );
            }
            None => report.bound(round > 0, "full: rows found room in the write-ahead log"),
        }
        reads_go_on(stack, "full", report)?;
        self.disk.make_room()?;
        self.recovers(stack, "full, then room", report)
    }

    fn failed_fsync_of_the_log(
        &mut self,
        stack: Stack,
        round: u64,
        report: &mut Report,
    ) -> Result<Stack> {
        let load = self.load(&stack);
        wait_for_load(&stack, 100)?;
        self.disk.fail_only("/readings/0/")?;
        self.disk.fail_fsync(1 + round, EIO)?;
        self.ledger.add(load.join()?);
        report.bound(
            !is_acknowledged(&stack)?,
            "one fsync of the log failed: nothing is acknowledged any more",
        );
        reads_go_on(&stack, "one fsync of the log failed", report)?;
        stack.kill()?;
        let stack = self.launch.start()?;
        self.recovers(&stack, "one fsync of the log failed, then a restart", report)?;
        Ok(stack)
    }

    /// SQLite's connection is opened again and the database looked over without a restart.
    fn failed_fsync_of_rows(
        &mut self,
        stack: &Stack,
        round: u64,
        report: &mut Report,
    ) -> Result<()> {
        let failures = self.disk.failures()?;
        self.disk.fail_only("/rows.db-wal")?;
        self.disk.fail_fsync(1 + round % 3, EIO)?;
        let refused = within(PATIENCE, "a refused row", || {
            let reply = self.make_sensor(stack)?;
            Ok((reply.status != 201 || self.disk.failures()? > failures).then_some(reply))
        })?;
        report.bound(
            matches!(refused.status, 201 | 503) && self.disk.failures()? == failures + 1,
            format!("one fsync of the rows failed: HTTP answers {}", refused.status),
        );
        self.recovers(stack, "one fsync of the rows failed", report)
    }

    fn failed_fsync_of_the_lake(&mut self, stack: Stack, report: &mut Report) -> Result<Stack> {
        let failures = self.disk.failures()?;
        self.disk.fail_only("/lake/")?;
        self.disk.fail_fsync(1, EIO)?;
        let load = self.load(&stack);
        within(PATIENCE, "an fsync of the lake", || {
            Ok((self.disk.failures()? > failures).then_some(()))
        })?;
        self.ledger.add(load.stop()?);
        stack.kill()?;
        let stack = self.launch.start()?;
        self.recovers(&stack, "one fsync of the lake failed, then a restart", report)?;
        Ok(stack)
    }

    /// After all of this, what was acknowledged is also on the disk.
    fn cut(&mut self, stack: Stack, report: &mut Report) -> Result<()> {
        let load = self.load(&stack);
        self.disk.cut_at(200, "")?;
        stack.ended(PATIENCE)?;
        self.ledger.add(load.join()?);
        self.disk.restore_bare()?;
        let stack = self.launch.start()?;
        self.recovers(&stack, "after a power cut in the end", report)
    }

    /// Everybody is served again, and everything acknowledged is there.
    fn recovers(&mut self, stack: &Stack, when: &str, report: &mut Report) -> Result<()> {
        self.disk.fail_only("")?;
        within(PATIENCE, "rows that are taken", || {
            Ok((self.make_sensor(stack)?.status == 201).then_some(()))
        })
        .with_context(|| when.to_owned())?;
        let load = self.load(stack);
        wait_for_load(stack, 100).with_context(|| when.to_owned())?;
        self.ledger.add(load.stop()?);
        let found = stack.api().all("/v1/sensors")?;
        let is_lost = |name: &&String| !found.iter().any(|sensor| sensor["name"] == **name);
        let lost = self.sensors.iter().filter(is_lost).count();
        report.bound(
            lost == 0,
            format!("{when}: {} sensors made, {lost} of them lost", self.sensors.len()),
        );
        check(stack, &self.mailbox, &self.ledger, when, report)
    }

    fn make_sensor(&mut self, stack: &Stack) -> Result<Reply> {
        let name = format!("made-{}", self.sensors.len());
        let sensor = json!({"name": name, "values": [{"name": "temp", "unit": "°C"}]});
        let reply = stack.api().post("/v1/sensors", &sensor)?;
        // Refused while it was being committed, it may be there all the same.
        if matches!(reply.status, 201 | 409) {
            self.sensors.push(name);
        }
        Ok(reply)
    }

    fn load(&self, stack: &Stack) -> Publishers {
        Publishers::start(
            PUBLISHERS,
            stack.mqtt_address(),
            (stack.mqtt_user(), stack.mqtt_password()),
            &self.ledger.next(PUBLISHERS),
            4,
        )
    }
}

fn reads_go_on(stack: &Stack, when: &str, report: &mut Report) -> Result<()> {
    let api = stack.api();
    let listed = api.get("/v1/devices")?.status;
    let counted = api.sql_number("SELECT count(*) FROM readings");
    report.bound(
        listed == 200 && counted.is_ok(),
        format!("{when}: reads go on, devices {listed}, SQL {counted:?}"),
    );
    Ok(())
}

/// Whether a reading of a known device is acknowledged.
fn is_acknowledged(stack: &Stack) -> Result<bool> {
    let (user, password) = (stack.mqtt_user(), stack.mqtt_password());
    let mut client = MqttClient::connect(stack.mqtt_address(), "probe", user, password)?;
    let reading =
        json!({"sensor": "load", "time": "2020-01-30T00:00:00Z", "values": {"temp": 1.0}});
    client.publish("data/load-000", 1, reading.to_string().as_bytes())?;
    let answer = client.puback();
    if let Err(error) = &answer {
        let text = format!("{error:#}");
        ensure!(text.contains("closed") || text.contains("reset"), "{text}");
    }
    Ok(answer.is_ok())
}
