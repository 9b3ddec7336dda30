use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use crate::http::Http;
use crate::load::{Figures, Publishers};
use crate::proofs::spine::faulty::{Device, Fault, settled, stop, stuck};
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

const DOORS: [&str; 3] = ["MQTT PUBLISH to PUBACK", "HTTP GET /v1/devices", "append to the log"];
/// How much later the slowest of a hundred may be answered beside a fault.
const SHARE_MAX: f64 = 1.2;
/// Panics of one second, which is a feature that fails at every request.
const PANICS_PAUSE: Duration = Duration::from_millis(20);
const HANGING: usize = 50;

/// A panic, a stuck task and an endless loop in one feature leave MQTT, HTTP and the log within a fifth of their
/// p99, measured in the same process in turns: without the fault, with it, without …
pub fn isolation(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mut house = House::start(ground)?;
    house.window(house.samples)?;
    for fault in [Kind::Panic, Kind::Hang, Kind::Loop] {
        house.compare(fault, &mut report)?;
    }
    house.under_load(ground, &mut report)?;
    let alive = house.stack.api().get("/readyz")?.status;
    report.bound(alive == 200, format!("in the end /readyz answers {alive}"));
    Ok(report)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Panic,
    Hang,
    Loop,
}

struct House {
    stack: Stack,
    api: Http,
    device: Device,
    windows: usize,
    samples: usize,
    /// What is added to the share: how far two windows without a fault differ.
    floor: Duration,
    _folder: tempfile::TempDir,
}

/// The p99 of each door.
type Window = [Duration; 3];

impl House {
    fn start(ground: &Ground) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let stack = Launch::new(&ground.binary, folder.path()).start()?;
        let (api, device) = (stack.api(), Device::connect(&stack)?);
        let windows = ground.count(3, 15);
        let samples = ground.count(100, 1_000);
        // Beside other tests and without optimisation only a standstill is told from noise.
        let floor = match ground.size {
            Size::Test => Duration::from_secs(3),
            Size::Full => FLOOR,
        };
        Ok(Self { stack, api, device, windows, samples, floor, _folder: folder })
    }

    fn compare(&mut self, kind: Kind, report: &mut Report) -> Result<()> {
        let (mut without, mut with) = (vec![], vec![]);
        for _ in 0..self.windows {
            without.push(self.window(self.samples)?);
            let fault = Faulty::begin(&self.stack, kind)?;
            let began = self.window(self.samples);
            let ended = fault.end(&self.stack);
            with.push(began?);
            ended?;
            settled(&self.stack)?;
        }
        for (number, door) in DOORS.iter().enumerate() {
            let median = |windows: &[Window]| {
                Figures::new(windows.iter().map(|window| window[number]).collect()).quantile(0.5)
            };
            let (before, beside) = (median(&without), median(&with));
            report.bound(
                beside <= before.mul_f64(SHARE_MAX) + self.floor,
                format!(
                    "{kind:?}: {door}: p99 {before:?}, beside the fault {beside:?} ({:+.0} %), medians of {} windows of {}",
                    100.0 * (beside.as_secs_f64() / before.as_secs_f64() - 1.0),
                    self.windows,
                    self.samples
                ),
            );
        }
        Ok(())
    }

    /// One client of each door, one after the other.
    fn window(&mut self, samples: usize) -> Result<Window> {
        let (mut acknowledged, mut answered) = (vec![], vec![]);
        for _ in 0..samples {
            let began = now();
            self.device.publish()?;
            acknowledged.push(began.elapsed());
            let began = now();
            self.api.get("/v1/devices")?.ok()?;
            answered.push(began.elapsed());
        }
        let asked = json!({"count": samples, "pause_micros": 1_000});
        let appended = self.api.post("/v1/faults/appends", &asked)?.ok()?;
        let appended = appended["micros"].as_array().context("no times")?.iter();
        let appended = appended.filter_map(|micros| Some(Duration::from_micros(micros.as_u64()?)));
        let p99 = |samples: Vec<Duration>| Figures::new(samples).quantile(0.99);
        Ok([p99(acknowledged), p99(answered), p99(appended.collect())])
    }

    /// What a loop costs everybody together when the machine has no time to spare; a figure without a bound.
    fn under_load(&mut self, ground: &Ground, report: &mut Report) -> Result<()> {
        let seconds = ground.count(1, 5) as u64;
        let mut rates = [vec![], vec![]];
        let mut next = vec![0; 8];
        for _ in 0..ground.count(1, 3) {
            for (turn, rate) in rates.iter_mut().enumerate() {
                let fault = (turn == 1).then(|| Faulty::begin(&self.stack, Kind::Loop));
                let fault = fault.transpose()?;
                let key = (self.stack.mqtt_user(), self.stack.mqtt_password());
                let load = Publishers::start(8, self.stack.mqtt_address(), key, &next, 8);
                let began = now();
                within_every(Duration::from_secs(seconds), Duration::from_mins(1), "load", || {
                    Ok((began.elapsed() >= Duration::from_secs(seconds)).then_some(()))
                })?;
                let sent = load.stop()?;
                let took = began.elapsed();
                let count: usize = sent.iter().map(|sent| sent.acknowledged.len()).sum();
                for (next, sent) in next.iter_mut().zip(&sent) {
                    *next = sent.acknowledged.last().map_or(*next, |last| last + 1);
                }
                rate.push(count as f64 / took.as_secs_f64());
                if let Some(fault) = fault {
                    fault.end(&self.stack)?;
                    settled(&self.stack)?;
                }
            }
        }
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        report.figure(format!(
            "Loop: readings acknowledged for 8 publishers with 8 in flight: {:.0}/s, beside the fault {:.0}/s",
            mean(&rates[0]),
            mean(&rates[1])
        ));
        Ok(())
    }
}

/// How far the p99 of two windows without any fault lie apart on an idle machine: one look of the scheduler.
const FLOOR: Duration = Duration::from_micros(50);

/// A fault that goes on until it is ended.
enum Faulty {
    Panic(Arc<AtomicBool>, JoinHandle<Result<()>>),
    Held(Vec<Fault>),
}

impl Faulty {
    /// It is there when this returns.
    fn begin(stack: &Stack, kind: Kind) -> Result<Self> {
        match kind {
            Kind::Panic => {
                let (is_over, api) = (Arc::new(AtomicBool::new(false)), stack.api());
                let over = is_over.clone();
                let panicking = std::thread::spawn(move || {
                    while !over.load(Ordering::Acquire) {
                        let body = json!({"at": "handler", "what": "panic"});
                        anyhow::ensure!(api.post("/v1/faults", &body)?.status == 500, "no panic");
                        std::thread::park_timeout(PANICS_PAUSE);
                    }
                    Ok(())
                });
                Ok(Self::Panic(is_over, panicking))
            }
            Kind::Hang => {
                let faults = (0..HANGING).map(|_| Fault::ask(stack, "handler", "hang"));
                let faults = faults.collect::<Result<Vec<_>>>()?;
                within(Duration::from_secs(20), "requests that hang", || {
                    Ok((stuck(stack)?.len() >= HANGING).then_some(()))
                })?;
                Ok(Self::Held(faults))
            }
            Kind::Loop => {
                let fault = Fault::ask(stack, "handler", "loop")?;
                within(Duration::from_secs(20), "a task that keeps its thread", || {
                    Ok(stuck(stack)?.iter().any(|item| item["what"] == "task").then_some(()))
                })?;
                Ok(Self::Held(vec![fault]))
            }
        }
    }

    fn end(self, stack: &Stack) -> Result<()> {
        match self {
            Self::Panic(is_over, panicking) => {
                is_over.store(true, Ordering::Release);
                panicking.join().map_err(|_| anyhow!("the asking thread panicked"))?
            }
            Self::Held(faults) => {
                stop(stack)?;
                drop(faults);
                Ok(())
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn now() -> Instant {
    Instant::now()
}
