use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::proofs::spine::faulty::{Device, Fault, settled, stop, stuck};
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

/// Within so long whatever holds something must be named.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
/// The status of a process that ended by itself because everybody was held up.
const STUCK: i32 = 70;

/// Whatever holds a connection, a thread or a request for too long is named within ten seconds while others are
/// served; what holds up everybody ends the process, and nothing that was acknowledged is lost.
pub fn leak(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mut house = House::start(ground)?;
    house.computing_handler(&mut report)?;
    house.waiting_handlers(&mut report)?;
    for what in ["hang", "panic"] {
        house.refused_at_once("read", what, &mut report)?;
        house.refused_at_once("write", what, &mut report)?;
    }
    for what in ["statements", "sql"] {
        house.ended_by_its_limit("read", what, &mut report)?;
        house.ended_by_its_limit("write", what, &mut report)?;
    }
    house.lost_reads(&mut report)?;
    house.lost_write(&mut report)?;
    house.everything_is_there(&mut report)?;
    drop(house);
    end_by_itself(ground, "write", 1, &mut report)?;
    end_by_itself(ground, "handler", 4, &mut report)?;
    Ok(report)
}

struct House {
    stack: Stack,
    device: Device,
    sensors: u64,
    /// How long a write, and a read, may take.
    limits: [Duration; 2],
    /// Without optimisation, and beside other tests, everybody is slower.
    served_within: Duration,
    _folder: tempfile::TempDir,
}

impl House {
    fn start(ground: &Ground) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let limits = match ground.size {
            Size::Test => [Duration::from_secs(6), Duration::from_secs(8)],
            Size::Full => [Duration::from_secs(5), Duration::from_secs(30)],
        };
        let text = |limit: Duration| format!("{}s", limit.as_secs());
        let stack = Launch::new(&ground.binary, folder.path())
            .environment("MADANG__RELATIONAL__WRITE_TIME_MAX", &text(limits[0]))
            .environment("MADANG__RELATIONAL__READ_TIME_MAX", &text(limits[1]))
            // So that there are two on every machine.
            .environment("MADANG__RELATIONAL__READERS", "2")
            .environment("MADANG__THREADS__HANDLERS", "4")
            .start()?;
        let device = Device::connect(&stack)?;
        let served_within = Duration::from_secs(if ground.size == Size::Test { 8 } else { 1 });
        Ok(Self { stack, device, sensors: 0, limits, served_within, _folder: folder })
    }

    /// The shape of T10, where the loop stands in the handler itself.
    fn computing_handler(&mut self, report: &mut Report) -> Result<()> {
        let began = now();
        let _fault = Fault::ask(&self.stack, "handler", "loop")?;
        self.named(began, "task", "POST /v1/faults (fault)", report)?;
        self.others_are_served("a handler computes for ever", &["read", "write"], report)?;
        stop(&self.stack)?;
        settled(&self.stack)
    }

    fn waiting_handlers(&mut self, report: &mut Report) -> Result<()> {
        let began = now();
        let faults = (0..20).map(|_| Fault::ask(&self.stack, "handler", "hang"));
        let faults = faults.collect::<Result<Vec<_>>>()?;
        self.named(began, "request", "POST /v1/faults (fault)", report)?;
        self.others_are_served("20 handlers wait for ever", &["read", "write"], report)?;
        drop(faults);
        settled(&self.stack)
    }

    /// A closure that awaits something else, or panics, gives its connection back at once.
    fn refused_at_once(&mut self, at: &str, what: &str, report: &mut Report) -> Result<()> {
        let began = now();
        let reply = self.stack.api().post("/v1/faults", &json!({ "at": at, "what": what }))?;
        let took = began.elapsed();
        let log = self.stack.log();
        let line =
            log.lines().rev().find(|line| line.contains("a transaction")).unwrap_or_default();
        let place = line.split_once("(at ").and_then(|(_, place)| place.split(')').next());
        report.bound(
            reply.status == 500 && place.is_some_and(is_its_place) && took < self.served_within,
            format!(
                "{at} {what}: ended after {took:?}, named as at {}",
                place.unwrap_or("nowhere")
            ),
        );
        self.others_are_served(&format!("{at} {what}"), &["read", "write"], report)
    }

    /// What runs statements is ended by its limit, also when it looks at no error.
    fn ended_by_its_limit(&mut self, at: &str, what: &str, report: &mut Report) -> Result<()> {
        let began = now();
        let api = self.stack.api();
        let body = json!({ "at": at, "what": what });
        let asked = std::thread::spawn(move || api.post("/v1/faults", &body));
        self.named(began, at, "", report)?;
        let limit = self.limits[usize::from(at == "read")];
        if at == "read" {
            self.others_are_served(&format!("{at} {what}"), &["read", "write"], report)?;
        } else {
            // There is one connection that writes: others wait until the limit ended this one.
            self.others_are_served(&format!("{at} {what}"), &["read"], report)?;
            let status = self.make_sensor()?;
            report.bound(
                status == 201 && began.elapsed() < limit + self.served_within * 2,
                format!(
                    "{at} {what}: a write that waited was answered {status} after {:?}",
                    began.elapsed()
                ),
            );
        }
        let reply = asked.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))??;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        report.bound(
            reply.status == 503
                && said.contains("ran longer than")
                && said.contains("faulty/src/main.rs"),
            format!("{at} {what}: answered {} after {:?}: {said}", reply.status, began.elapsed()),
        );
        settled(&self.stack)
    }

    /// More closures that read and run no statement than there are readers: others take over.
    fn lost_reads(&mut self, report: &mut Report) -> Result<()> {
        let began = now();
        let faults = (0..3).map(|_| Fault::ask(&self.stack, "read", "loop"));
        let _faults = faults.collect::<Result<Vec<_>>>()?;
        self.named(began, "read", "", report)?;
        let listed = self.stack.api().get("/v1/devices")?.status;
        let took = began.elapsed();
        report.bound(
            listed == 200 && took < NAMED_WITHIN,
            format!("three reads without end on two readers: a read that waited was answered {listed} after {took:?}"),
        );
        within(NAMED_WITHIN, "readers in the place of all three", || {
            let count = self.stack.log().matches("another reader took over").count();
            Ok((count >= 3).then_some(()))
        })?;
        self.others_are_served(
            "three reads without end on two readers",
            &["read", "write"],
            report,
        )?;
        stop(&self.stack)?;
        settled(&self.stack)
    }

    /// A closure that writes and runs no statement cannot be ended: everybody is told at once, and reads go on.
    fn lost_write(&mut self, report: &mut Report) -> Result<()> {
        let began = now();
        let _fault = Fault::ask(&self.stack, "write", "loop")?;
        self.named(began, "write", "", report)?;
        let status = self.make_sensor()?;
        let took = began.elapsed();
        report.bound(
            status == 503 && took < NAMED_WITHIN,
            format!(
                "a write without end: a write that waited was answered {status} after {took:?}"
            ),
        );
        let asked = now();
        let reply = self.stack.api().post("/v1/sensors", &sensor("refused"))?;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        report.bound(
            reply.status == 503
                && said.contains("faulty/src/main.rs")
                && asked.elapsed() < self.served_within,
            format!("a write without end: the next after {:?}: {said}", asked.elapsed()),
        );
        let ready = self.stack.api().get("/readyz")?.status;
        report.bound(ready == 503, format!("a write without end: /readyz answers {ready}"));
        self.others_are_served("a write without end", &["read"], report)?;
        stop(&self.stack)?;
        settled(&self.stack)?;
        self.others_are_served("a write that ended after all", &["read", "write"], report)
    }

    fn everything_is_there(&mut self, report: &mut Report) -> Result<()> {
        let sent = i64::try_from(self.device.sent())?;
        let found = within(NAMED_WITHIN, "all readings in SQL", || {
            let sql = "SELECT count(DISTINCT time) FROM readings";
            let found = self.stack.api().sql_number(sql)?;
            Ok((found >= sent).then_some(found))
        })?;
        let sensors = self.stack.api().all("/v1/sensors")?.len() as u64;
        report.bound(
            found == sent && sensors == self.sensors + 1,
            format!("{found} readings in SQL of {sent} acknowledged, {sensors} sensors"),
        );
        Ok(())
    }

    /// Waits until it is named: by the process, and in its log.
    fn named(&self, began: Instant, what: &str, name: &str, report: &mut Report) -> Result<()> {
        let item = within_every(Duration::from_millis(50), NAMED_WITHIN * 2, "a name", || {
            let is_it = |item: &Value| {
                let place = item["place"].as_str().is_some_and(is_its_place);
                item["what"] == what && (item["name"] == name || (name.is_empty() && place))
            };
            Ok(stuck(&self.stack)?.into_iter().find(is_it))
        });
        let item = item.with_context(|| format!("{what} {name}"))?;
        let named = item["place"].as_str().or_else(|| item["request"].as_str()).unwrap_or_default();
        within(NAMED_WITHIN, "a line in the log", || {
            let log = self.stack.log();
            let is_told = |line: &str| line.contains("WARN") && line.contains(named);
            Ok(log.lines().any(is_told).then_some(()))
        })?;
        let took = began.elapsed();
        report.bound(took < NAMED_WITHIN, format!("named after {took:?}: {item}"));
        Ok(())
    }

    /// Twenty of each kind, the slowest counts.
    fn others_are_served(&mut self, when: &str, kinds: &[&str], report: &mut Report) -> Result<()> {
        let mut slowest = [Duration::ZERO; 3];
        let mut failed = 0;
        for _ in 0..20 {
            let began = now();
            self.device.publish()?;
            slowest[0] = slowest[0].max(began.elapsed());
            let began = now();
            failed += usize::from(self.stack.api().get("/v1/devices")?.status != 200);
            slowest[1] = slowest[1].max(began.elapsed());
            if kinds.contains(&"write") {
                let began = now();
                failed += usize::from(self.make_sensor()? != 201);
                slowest[2] = slowest[2].max(began.elapsed());
            }
        }
        let [acknowledged, read, written] = slowest;
        report.bound(
            failed == 0 && slowest.iter().all(|took| *took < self.served_within),
            format!(
                "{when}: {failed} others refused; slowest PUBACK {acknowledged:?}, read {read:?}, write {written:?}"
            ),
        );
        Ok(())
    }

    fn make_sensor(&mut self) -> Result<u16> {
        let name = format!("made-{}", self.sensors);
        let status = self.stack.api().post("/v1/sensors", &sensor(&name))?.status;
        self.sensors += u64::from(status == 201);
        Ok(status)
    }
}

/// When nobody can be helped by waiting, the process says why and ends; started again it has everything.
fn end_by_itself(ground: &Ground, at: &str, count: usize, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let launch = Launch::new(&ground.binary, folder.path())
        .environment("MADANG__RELATIONAL__WRITE_TIME_MAX", "1s")
        .environment("MADANG__THREADS__HANDLERS", "4")
        .environment("MADANG__WATCH__END_AFTER", "2s");
    let stack = launch.start()?;
    let mut device = Device::connect(&stack)?;
    for number in 0..20 {
        device.publish()?;
        stack.api().post("/v1/sensors", &sensor(&format!("made-{number}")))?.ok()?;
    }
    let faults = (0..count).map(|_| Fault::ask(&stack, at, "loop"));
    let _faults = faults.collect::<Result<Vec<_>>>()?;
    let began = now();
    let log = folder.path().join("stderr.log");
    let status = stack.ended(Duration::from_secs(30))?;
    let took = began.elapsed();
    let log = std::fs::read_to_string(log)?;
    let why = log.lines().rfind(|line| line.contains("the process ends")).unwrap_or_default();
    report.bound(
        status.code() == Some(STUCK) && !why.is_empty(),
        format!("{count} × {at} loop: ended by itself with {status} after {took:?}: {why}"),
    );
    let stack = launch.start()?;
    let sensors = stack.api().all("/v1/sensors")?.len();
    let sql = "SELECT count(DISTINCT time) FROM readings";
    let sent = i64::try_from(device.sent())?;
    let found = within(NAMED_WITHIN, "all readings in SQL", || {
        let found = stack.api().sql_number(sql)?;
        Ok((found >= sent).then_some(found))
    })?;
    report.bound(
        sensors == 21 && found == sent,
        format!(
            "{count} × {at} loop: up again in {:?} with {sensors} of 21 sensors and {found} of {sent} readings",
            stack.ready_after
        ),
    );
    Ok(())
}

fn sensor(name: &str) -> Value {
    json!({"name": name, "values": [{"name": "temp", "unit": "°C"}]})
}

fn is_its_place(place: &str) -> bool {
    place.contains("faulty/src/main.rs:")
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn now() -> Instant {
    Instant::now()
}
