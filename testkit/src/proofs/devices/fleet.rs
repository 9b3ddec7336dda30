use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::load::Figures;
use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::within;

/// Threads that play the devices.
const THREADS: usize = 4;
/// Devices behind one gateway.
const BEHIND: usize = 25;
/// Devices of one import.
const IMPORTED: usize = 1_000;
/// A reader of the console; who asks without a pause takes a core for itself.
const ASKED_EVERY: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(10);
const SENSOR: &str = "fleet";

/// 10,000 devices, each with a key of its own, come at once to a server that was killed: all are in within five seconds, and HTTP
/// answers within 50 ms meanwhile. 50,000 devices send 5,000 readings a second for ten minutes in bounded memory.
pub fn fleet(ground: &Ground) -> Result<Report> {
    raise_open_files()?;
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let launch = Launch::new(&ground.binary, folder.path());
    let stack = launch.start()?;
    stack
        .api()
        .post("/v1/sensors", &json!({"name": SENSOR, "values": [{"name": "temp"}]}))?
        .ok()?;
    let count = ground.count(200, 10_000);
    let keys = keys(&stack, count)?;
    stack.kill()?;
    let stack = launch.start()?;
    come(ground, &stack, &keys, &mut report)?;
    steady(ground, &stack, &mut report)?;
    Ok(report)
}

/// A device with what it logs in by.
struct Key {
    device: String,
    user: String,
    password: String,
}

fn keys(stack: &Stack, count: usize) -> Result<Vec<Key>> {
    let names: Vec<String> = (0..count).map(|number| format!("own-{number}")).collect();
    register(stack, &names)?;
    let made = parted(&names, |names| {
        let api = stack.api();
        names
            .iter()
            .map(|device| {
                let key = api.post(&format!("/v1/devices/{device}/keys"), &json!({}))?.ok()?;
                let text = |name: &str| key[name].as_str().map(str::to_owned).context("no text");
                let (user, password) = (text("mqtt_user")?, text("mqtt_password")?);
                Ok(Key { device: device.clone(), user, password })
            })
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(made.into_iter().flatten().collect())
}

fn register(stack: &Stack, names: &[String]) -> Result<()> {
    for names in names.chunks(IMPORTED) {
        let devices: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "sensors": [SENSOR]})).collect();
        stack.api().post("/v1/devices-import", &json!({ "devices": devices }))?.ok()?;
    }
    Ok(())
}

/// Does the same with parts of a list on threads of their own.
fn parted<T: Sync, R: Send>(all: &[T], work: impl Fn(&[T]) -> Result<R> + Sync) -> Result<Vec<R>> {
    let of_thread = all.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            all.chunks(of_thread).map(|part| scope.spawn(|| work(part))).collect();
        let ended = threads.into_iter().map(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of devices broke"))?
        });
        ended.collect()
    })
}

/// All connect at once; then each sends a reading.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn come(ground: &Ground, stack: &Stack, keys: &[Key], report: &mut Report) -> Result<()> {
    let api = stack.api();
    for _ in 0..20 {
        api.get("/v1/sensors")?.ok()?;
    }
    let is_over = AtomicBool::new(false);
    let (took, samples, clients) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut samples = Vec::new();
            while !is_over.load(Ordering::Acquire) || samples.len() < 20 {
                let began = Instant::now();
                api.get("/v1/sensors")?.ok()?;
                samples.push(began.elapsed());
                std::thread::sleep(ASKED_EVERY);
            }
            anyhow::Ok(samples)
        });
        let began = Instant::now();
        let clients = parted(keys, |keys| let_in(stack, keys));
        let took = began.elapsed();
        is_over.store(true, Ordering::Release);
        let samples = asking.join().map_err(|_| anyhow::anyhow!("the reader broke"))?;
        anyhow::Ok((took, Figures::new(samples?), clients?))
    })?;
    // The line is about a release.
    let is_full = ground.size == Size::Full;
    let (took_max, p99_max) = if is_full { (5, 50) } else { (60, 60_000) };
    report.bound(
        took <= Duration::from_secs(took_max),
        format!("{} devices with keys of their own are in after {took:.2?}", keys.len()),
    );
    let p99 = samples.quantile(0.99);
    report.bound(
        p99 < Duration::from_millis(p99_max),
        format!("{} requests of HTTP meanwhile, p99 {p99:.2?}", samples.count()),
    );
    let resident = stack.resident()?;
    let mut clients: Vec<_> = clients.into_iter().flatten().collect();
    for (client, key) in clients.iter_mut().zip(keys) {
        let reading = reading(0, 0);
        client.publish(&format!("data/{}", key.device), 1, reading.as_bytes())?;
    }
    for client in &mut clients {
        client.puback()?;
    }
    let total = counted(stack, keys.len())?;
    report.bound(
        total == keys.len(),
        format!(
            "each sent a reading, {total} are counted; {:.0} MiB resident with all connected",
            resident as f64 / f64::from(1 << 20)
        ),
    );
    Ok(())
}

/// Sends every CONNECT before an answer is read.
fn let_in(stack: &Stack, keys: &[Key]) -> Result<Vec<MqttClient>> {
    let mut clients = Vec::with_capacity(keys.len());
    for Key { device, user, password } in keys {
        let mut client = MqttClient::open(stack.mqtt_address())?;
        client.begin_log_in(device, user, password)?;
        clients.push(client);
    }
    for client in &mut clients {
        let code = client.logged_in()?;
        ensure!(code == 0, "CONNACK {code}");
    }
    Ok(clients)
}

fn counted(stack: &Stack, wanted: usize) -> Result<usize> {
    within(Duration::from_mins(5), "the readings", || {
        let total = stack.api().get("/v1/overview")?.ok()?["readings_total"].as_u64();
        let total = usize::try_from(total.context("no total")?)?;
        Ok((total >= wanted).then_some(total))
    })
}

/// The reading of a device at its turn; each turn is ten seconds of 2020 later.
fn reading(turn: usize, number: usize) -> String {
    let second = turn * 10;
    format!(
        r#"{{"sensor":"{SENSOR}","time":"2020-01-{:02}T{:02}:{:02}:{:02}Z","values":{{"temp":{}.5}}}}"#,
        1 + second / 86_400,
        second / 3_600 % 24,
        second / 60 % 60,
        second % 60,
        number % 40
    )
}

/// A gateway, whose devices send in turns.
struct Gateway {
    client: MqttClient,
    first: usize,
    sent: usize,
}

/// Many devices behind gateways send steadily.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn steady(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let devices = ground.count(100, 50_000);
    let rate = ground.count(100, 5_000);
    let seconds = ground.count(3, 600);
    let before = counted(stack, 0)?;
    let names: Vec<String> = (0..devices).map(|number| format!("behind-{number}")).collect();
    register(stack, &names)?;
    let firsts: Vec<usize> = (0..devices).step_by(BEHIND).collect();
    let of_thread = firsts.len().div_ceil(THREADS).max(1);
    let threads = firsts.len().div_ceil(of_thread);
    let (sent, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let resident = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut samples = Vec::new();
            while !is_over.load(Ordering::Acquire) {
                samples.push(stack.resident()?);
                std::thread::sleep(Duration::from_millis(500));
            }
            anyhow::Ok(samples)
        });
        let done = parted(&firsts, |firsts| {
            send(stack, firsts, (rate * seconds).div_ceil(threads), (seconds, &sent))
        });
        is_over.store(true, Ordering::Release);
        let samples = watching.join().map_err(|_| anyhow::anyhow!("the watcher broke"))?;
        done.and(samples)
    })?;
    let sent = sent.load(Ordering::Acquire);
    let total = counted(stack, before + sent)? - before;
    let rows = within(Duration::from_mins(2), "the rows", || {
        let sql = "SELECT count(*) FROM readings WHERE device LIKE 'behind-%'";
        let rows = usize::try_from(stack.api().sql_number(sql)?)?;
        Ok((rows >= sent).then_some(rows))
    })?;
    report.bound(
        total == sent && rows == sent && sent >= rate * seconds * 98 / 100,
        format!(
            "{devices} devices behind {} gateways, {sent} readings in {seconds} s, all acknowledged: {total} counted, {rows} rows",
            firsts.len()
        ),
    );
    let of =
        |samples: &[u64]| samples.iter().max().copied().unwrap_or(0) as f64 / f64::from(1 << 20);
    let (half, tenth) = (resident.len() / 2, (resident.len() / 10).max(1));
    let (middle, last) = (of(&resident[..=half]), of(&resident[resident.len() - tenth..]));
    // A few seconds say nothing about memory.
    let is_bounded = ground.size == Size::Test || last <= middle * 1.1 + 32.0;
    report.bound(
        is_bounded,
        format!(
            "resident at most {:.0} MiB; {middle:.0} MiB in the first half, {last:.0} MiB in the last tenth",
            of(&resident)
        ),
    );
    Ok(())
}

/// One thread's gateways send so many readings in so many seconds, each after its last one was acknowledged.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn send(
    stack: &Stack,
    firsts: &[usize],
    count: usize,
    (seconds, sent): (usize, &AtomicUsize),
) -> Result<()> {
    let mut gateways: Vec<Gateway> = firsts
        .iter()
        .map(|first| {
            let (user, password) = (stack.mqtt_user(), stack.mqtt_password());
            let name = format!("gateway-{first}");
            let client = MqttClient::connect(stack.mqtt_address(), &name, user, password)?;
            Ok(Gateway { client, first: *first, sent: 0 })
        })
        .collect::<Result<_>>()?;
    let ticks = seconds * 1_000 / usize::try_from(TICK.as_millis())?;
    let began = Instant::now();
    let mut next = 0;
    for tick in 1..=ticks {
        while next < count * tick / ticks {
            let places = gateways.len();
            let Gateway { client, first, sent } = &mut gateways[next % places];
            if *sent > 0 {
                client.puback()?;
            }
            let device = *first + *sent % BEHIND;
            let payload = reading(*sent / BEHIND, device);
            let packet = u16::try_from(*sent % 65_000)? + 1;
            client.publish(&format!("data/behind-{device}"), packet, payload.as_bytes())?;
            *sent += 1;
            next += 1;
        }
        let due = TICK * u32::try_from(tick)?;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    for gateway in gateways.iter_mut().filter(|gateway| gateway.sent > 0) {
        gateway.client.puback()?;
    }
    sent.fetch_add(next, Ordering::AcqRel);
    Ok(())
}

/// Sockets are files.
fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
