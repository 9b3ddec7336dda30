//! Measures the pipeline alone: real readings that stand in the log, ten rules on their sensor, from the first fetch
//! until the position is durable and SQL shows the rows. Takes the count of readings, 100,000 without.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, ErrorKind, Failure, KeyId, OrganisationId};
use devices::{
    Config, Devices, IssuedKey, KeyIssuer, KeyRequest, NeedError, Needs, Notice, Notifier,
    READINGS_TOPIC, TxFuture,
};
use edge::{BoxFuture, Gate, Sessions};
use eventlog::{EventLog, Record};
use lake::Lake;
use relational::{Db, Tx};
use results::Results;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

/// 26,115 hours of weather at three airports, each given to so many sets of stations.
static ROWS: &[u8] = include_bytes!("../../../samples/weather/weather.csv.gz");
const OWN: OrganisationId = OrganisationId::DEFAULT;
const BATCH: usize = 1_000;

fn main() -> Result<(), Failure> {
    let count = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(count))
}

async fn measure(count: usize) -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(".")?;
    let base = Base::system();
    let stack = Stack::open(folder.path(), &base).await?;
    stack.register().await?;
    stack.close(&base).await?;

    let base = Base::system();
    let log = open_log(folder.path(), &base).await?;
    let began = base.clock.instant();
    let values = fill(&log, count, &base).await?;
    let took = base.clock.instant() - began;
    println!("{count} readings with {values} values, put into the log in {took:.2?}");
    log.close().await;
    base.tasks.stop(Duration::from_secs(10)).await;

    let base = Base::system();
    let cpu = processor_seconds()?;
    let began = base.clock.instant();
    let stack = Stack::open(folder.path(), &base).await?;
    let table = stack.lake.table(OWN, devices::readings_table()).await?;
    while table.rows() < values {
        base.clock.sleep(Duration::from_millis(1)).await;
    }
    let took = base.clock.instant() - began;
    let cpu = processor_seconds()? - cpu;
    println!("{took:.3?} until all rows are there, the start included");
    let text = base.metrics.text();
    let of = |name: &str| number(&text, name).unwrap_or(f64::NAN);
    println!(
        "{:.3} s in {} batches, of which {:.3} s of one thread for JSON and rules ({:.3} µs a reading)",
        of("madang_devices_batch_seconds_sum"),
        of("madang_devices_batch_seconds_count"),
        of("madang_devices_rules_seconds_total"),
        of("madang_devices_rules_seconds_total") / count as f64 * 1e6,
    );
    println!("{:.3} µs of processors a reading", cpu / count as f64 * 1e6);
    let began = base.clock.instant();
    table.flush().await?;
    println!("{:.3?} more until Delta has them", base.clock.instant() - began);
    stack.close(&base).await?;
    Ok(())
}

fn processor_seconds() -> Result<f64, Failure> {
    // In ticks of a hundredth: user and system.
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> =
        after.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn number(text: &str, name: &str) -> Option<f64> {
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|it| it.starts_with(' ')));
    line?.rsplit(' ').next()?.parse().ok()
}

/// Puts readings into the log as the door would, and gives how many values they have.
async fn fill(log: &EventLog, count: usize, base: &Base) -> Result<u64, Failure> {
    let mut csv = String::new();
    flate2::read::GzDecoder::new(ROWS).read_to_string(&mut csv)?;
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').skip(2).collect();
    let rows: Vec<&str> = lines.collect();
    let topic = log.topic(OWN, READINGS_TOPIC).await?;
    let (mut batch, mut values) = (VecDeque::new(), 0);
    for number in 0..count {
        let (set, row) = (number / rows.len(), rows[number % rows.len()]);
        let mut fields = row.split(',');
        let device = format!("{}-{set}", fields.next().unwrap_or_default());
        let time = fields.next().unwrap_or_default();
        let mut text =
            format!(r#"{{"device":"{device}","sensor":"weather","time":"{time}","values":{{"#);
        let found = names.iter().zip(fields).filter(|(_, field)| !field.is_empty());
        for (index, (name, field)) in found.enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(text, "{comma}{}:{}", json!(name), json!(field.parse::<f64>()?))?;
            values += 1;
        }
        text += "}}";
        let now = base.clock.now();
        batch.push_back(Record {
            timestamp: now,
            key: Some(device.into_bytes().into()),
            value: text.into_bytes().into(),
            headers: vec![("received".to_owned(), now.micros().to_string().into())],
        });
        if batch.len() == BATCH || number + 1 == count {
            topic.append(0, batch.drain(..).collect()).await?;
        }
    }
    Ok(values)
}

struct Stack {
    db: Db,
    log: EventLog,
    kv: kv::Kv,
    lake: Lake,
    devices: Devices,
}

async fn open_log(folder: &Path, base: &Base) -> Result<EventLog, Failure> {
    let config = eventlog::Config { dir: folder.join("log"), ..Default::default() };
    Ok(EventLog::open(config, base).await?)
}

impl Stack {
    async fn open(folder: &Path, base: &Base) -> Result<Self, Failure> {
        let rows = relational::Config { path: folder.join("rows.db"), ..Default::default() };
        let db = Db::open(rows, base).await?;
        let log = open_log(folder, base).await?;
        let lake = lake::Config { dir: folder.join("lake"), ..Default::default() };
        let lake = Lake::open(lake, base).await?;
        let kv = kv::Kv::for_rooms(kv::Config::default(), base, &folder.join("kv")).await?;
        let needs = Needs {
            db: db.clone(),
            results: Results::open_alone(results::Config::default(), base, &db, &kv).await?,
            log: log.clone(),
            lake: lake.clone(),
            authority: Arc::new(Doorman),
            notifier: Arc::new(Nobody),
            keys: Arc::new(Nobody),
        };
        let devices = Devices::open(Config::default(), base, needs).await?;
        Ok(Self { db, log, kv, lake, devices })
    }

    async fn close(self, base: &Base) -> Result<(), Failure> {
        base.tasks.stop(Duration::from_mins(1)).await;
        self.kv.close().await?;
        self.db.close().await;
        self.log.close().await;
        Ok(())
    }

    async fn register(&self) -> Result<(), Failure> {
        let base = Base::system();
        let gate = Gate {
            authority: Arc::new(Doorman),
            sessions: Arc::new(Doorman),
            claims: None,
            config: edge::Config::default(),
            handlers: base.tasks.clone(),
            base,
        };
        let router = self.devices.routes().build(gate);
        let names = "temp dewp humid wind_dir wind_speed wind_gust precip pressure visib";
        let values: Vec<Value> = names.split(' ').map(|name| json!({ "name": name })).collect();
        let rules: Vec<Value> = (0..10)
            .map(|number| {
                json!({
                    "name": format!("rule {number}"), "sensor": "weather",
                    "conditions": [{"value": "temp", "ranges": [{"min": 1_000 + number}]}],
                })
            })
            .collect();
        for (path, body) in [
            ("/v1/sensors", json!({"name": "weather", "values": values})),
            ("/v1/rules-import", json!({ "rules": rules })),
        ] {
            let request = Request::post(path)
                .header(header::AUTHORIZATION, "Bearer madang_key_secret")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(body.to_string()))?;
            let answer = router.clone().oneshot(request).await?;
            if !answer.status().is_success() {
                return Err(format!("{path}: {}", answer.status()).into());
            }
        }
        Ok(())
    }
}

/// Lets everybody do everything.
struct Doorman;

impl Authority for Doorman {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Principal, Refused>> {
        let subject = Subject::Key(KeyId::fixed(1));
        let found = Principal { organisation: OWN, subject, name: "bench".into() };
        Box::pin(std::future::ready(Ok(found)))
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        // Kept for ever, as the real one is.
        Box::leak(Box::new(watch::Sender::new(0))).subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        true
    }
}

impl Sessions for Doorman {
    fn session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(std::future::ready(Err(Refused::Unauthenticated)))
    }
}

/// No rule of this example ever matches.
struct Nobody;

fn unasked<T>() -> Result<T, NeedError> {
    Err(NeedError { kind: ErrorKind::Internal, source: "nobody is asked here".into() })
}

impl Notifier for Nobody {
    fn accepts(&self, _: &str) -> bool {
        false
    }

    fn knows<'a>(
        &'a self,
        _: OrganisationId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<bool, NeedError>> {
        Box::pin(std::future::ready(unasked()))
    }

    /// Of changed health.
    fn enqueue<'a>(&'a self, _: &'a mut Tx, _: &'a Notice) -> TxFuture<'a, Result<(), NeedError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl KeyIssuer for Nobody {
    fn issue<'a>(
        &'a self,
        _: &'a Principal,
        _: KeyRequest,
    ) -> BoxFuture<'a, Result<IssuedKey, NeedError>> {
        Box::pin(std::future::ready(unasked()))
    }
}
