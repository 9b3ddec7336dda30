use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::mosquitto::Mosquitto;
use crate::mqtt_client::{MqttClient, frame};
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::within;

/// Devices that publish at once.
const SENDERS: usize = 10;
/// Publishes of QoS 1 that one device has on their way, and those of any QoS that it writes at once.
const WINDOW: usize = 100;
/// When nothing more came for so long, nothing will.
const QUIET: Duration = Duration::from_secs(3);
/// Rounds of which the median counts.
const ROUNDS: usize = 3;
const READING_BYTES: usize = 64;
/// What makes Mosquitto drop nothing that it has memory for.
const WITHOUT_LIMITS: &str = "max_inflight_messages 0\nmax_queued_messages 0";

/// Ten devices publish readings of 64 bytes as fast as they are taken, and one client hears all of them: with QoS 1 at least 1.5
/// times as many a second as Mosquitto, durable before they are acknowledged, with QoS 0 twice as many. A client that reads
/// nothing for a while gets each message or finds it counted, and no reading is lost.
pub fn mosquitto_beside(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let mut sent = 0;
    for (qos, least) in [(1, 1.5), (0, 2.0)] {
        let count = ground.count(200, if qos == 0 { 50_000 } else { 20_000 }) * SENDERS;
        let mut ours = Vec::new();
        let mut theirs = [Vec::new(), Vec::new()];
        for _ in 0..ground.count(1, ROUNDS) {
            ours.push(on_madang(&stack, qos, (sent, count))?);
            sent += count;
            if ground.size == Size::Full {
                for (settings, theirs) in ["", WITHOUT_LIMITS].into_iter().zip(&mut theirs) {
                    theirs.push(on_mosquitto(settings, qos, count)?);
                }
            }
        }
        let ours = Fan::median(ours);
        report.bound(
            ours.is_accounted_for,
            format!(
                "QoS {qos}, {count} readings of {SENDERS} devices to one client: {}",
                ours.told("madang")
            ),
        );
        let [as_it_comes, without_limits] = theirs.map(Fan::median);
        if ground.size == Size::Full {
            // The peer in its better form.
            let best = as_it_comes.rate().max(without_limits.rate());
            let ratio = ours.rate() / best;
            report.bound(
                ratio >= least,
                format!(
                    "QoS {qos}: {}; {}: {ratio:.2} times the better one",
                    as_it_comes.told("Mosquitto as it comes"),
                    without_limits.told("Mosquitto without limits")
                ),
            );
        }
    }
    overload(ground, &stack, sent, &mut report)?;
    Ok(report)
}

/// What one run gave.
#[derive(Default)]
struct Fan {
    sent: usize,
    heard: usize,
    /// Until the last one was heard, and all of QoS 1 acknowledged.
    took: Duration,
    cpu: Duration,
    /// The same with all that the server does after it.
    cpu_after: Duration,
    /// Every reading is stored, and each message was heard or counted as dropped.
    is_accounted_for: bool,
}

impl Fan {
    fn rate(&self) -> f64 {
        self.heard as f64 / self.took.as_secs_f64()
    }

    fn median(mut all: Vec<Self>) -> Self {
        all.sort_by(|one, other| one.rate().total_cmp(&other.rate()));
        let middle = all.len() / 2;
        all.into_iter().nth(middle).unwrap_or_default()
    }

    fn told(&self, who: &str) -> String {
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.sent.max(1) as f64;
        let lost = match self.sent - self.heard {
            0 => String::new(),
            lost => format!(", {lost} not heard"),
        };
        let after = if self.cpu_after > self.cpu {
            format!(", {:.2} with rules, rows and tables", each(self.cpu_after))
        } else {
            String::new()
        };
        format!(
            "{who} {:.0} a second, {:.2} µs of processors each{after}{lost}",
            self.rate(),
            each(self.cpu)
        )
    }
}

fn total(stack: &Stack) -> Result<usize> {
    let total = stack.api().get("/v1/overview")?.ok()?["readings_total"].as_u64();
    Ok(usize::try_from(total.context("no total")?)?)
}

/// Messages that somebody did not get, whatever the reason.
fn dropped(stack: &Stack) -> Result<usize> {
    let text = String::from_utf8(stack.api().get("/metrics")?.body)?;
    let lines = text.lines().filter(|line| line.starts_with("madang_mqtt_dropped_total{"));
    let mut sum = 0;
    for line in lines {
        sum += line.rsplit(' ').next().unwrap_or_default().parse::<usize>()?;
    }
    Ok(sum)
}

/// `from` readings were sent before these.
fn on_madang(stack: &Stack, qos: u8, (from, count): (usize, usize)) -> Result<Fan> {
    let (before, dropped_before) = (stack.cpu()?, dropped(stack)?);
    let key = (stack.mqtt_user(), stack.mqtt_password());
    let devices: Vec<(usize, u8)> = (0..SENDERS).map(|number| (number, qos)).collect();
    let is_open = AtomicBool::new(true);
    let (heard, took) =
        fan_in((stack.mqtt_address(), key), (&devices, from, count), (qos, &is_open))?;
    let cpu = stack.cpu()?.saturating_sub(before);
    within(Duration::from_mins(5), "the readings", || {
        Ok((total(stack)? >= from + count).then_some(()))
    })?;
    let cpu_after = stack.cpu()?.saturating_sub(before);
    let counted = dropped(stack)? - dropped_before;
    let is_accounted_for = total(stack)? == from + count && heard + counted == count;
    Ok(Fan { sent: count, heard, took, cpu, cpu_after, is_accounted_for })
}

fn on_mosquitto(settings: &str, qos: u8, count: usize) -> Result<Fan> {
    let server = Mosquitto::start(settings)?;
    let before = server.cpu()?;
    let devices: Vec<(usize, u8)> = (0..SENDERS).map(|number| (number, qos)).collect();
    let is_open = AtomicBool::new(true);
    let (heard, took) =
        fan_in((&server.address(), ("nobody", "nothing")), (&devices, 0, count), (qos, &is_open))?;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(Fan { sent: count, heard, took, cpu, ..Fan::default() })
}

/// A client of QoS 0 that reads nothing until everything was sent, by devices of both QoS.
fn overload(ground: &Ground, stack: &Stack, from: usize, report: &mut Report) -> Result<()> {
    let count = ground.count(200, 50_000) * SENDERS;
    let before = dropped(stack)?;
    let devices: Vec<(usize, u8)> =
        (0..SENDERS).map(|number| (number, u8::from(number % 2 == 0))).collect();
    let late = |address: &str, key: (&str, &str), from: usize| {
        let is_open = AtomicBool::new(false);
        fan_in((address, key), (&devices, from, count), (0, &is_open))
    };
    let key = (stack.mqtt_user(), stack.mqtt_password());
    let (heard, _) = late(stack.mqtt_address(), key, from)?;
    let stored = within(Duration::from_mins(5), "the readings", || {
        let stored = total(stack)? - from;
        Ok((stored >= count).then_some(stored))
    });
    let stored = stored.or_else(|_| Ok::<_, anyhow::Error>(total(stack)? - from))?;
    let counted = dropped(stack)? - before;
    report.bound(
        stored == count && heard + counted == count,
        format!(
            "a client that reads nothing while {count} are sent: it heard {heard}, {counted} are counted as dropped, {stored} readings are stored"
        ),
    );
    if ground.size == Size::Full {
        let server = Mosquitto::start("")?;
        let (heard, _) = late(&server.address(), ("nobody", "nothing"), 0)?;
        report.figure(format!("the same with Mosquitto as it comes: it heard {heard} of {count}"));
    }
    Ok(())
}

/// Devices publish so many readings, those with these numbers and QoS; says how many one client heard, and how long it took. It reads
/// from the beginning, or when all is sent.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn fan_in(
    (address, (user, password)): (&str, (&str, &str)),
    (devices, from, count): (&[(usize, u8)], usize, usize),
    (qos, is_open): (u8, &AtomicBool),
) -> Result<(usize, Duration)> {
    let mut listener = MqttClient::connect(address, "listener", user, password)?;
    ensure!(listener.subscribe_with("data/#", qos)? == qos, "the subscription is refused");
    let listener = listener.into_socket()?;
    let senders: Vec<(TcpStream, usize, u8)> = devices
        .iter()
        .map(|(number, qos)| {
            let client = MqttClient::connect(address, &format!("sender-{number}"), user, password)?;
            Ok((client.into_socket()?, *number, *qos))
        })
        .collect::<Result<_>>()?;
    let (each, first) = (count / devices.len(), from / devices.len());
    let start = Barrier::new(devices.len() + 1);
    std::thread::scope(|scope| {
        let start = &start;
        let hearing = scope.spawn(move || hear(listener, qos, count, is_open));
        let sending: Vec<_> = senders
            .into_iter()
            .map(|(socket, number, qos)| {
                scope.spawn(move || {
                    start.wait();
                    send(socket, number, (first, each), qos)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let mut ended = began;
        let sent: Vec<_> = sending.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_open.store(true, Ordering::Release);
        for sent in sent {
            ended = ended.max(sent.map_err(|_| anyhow::anyhow!("a device broke"))??);
        }
        let (heard, last) = hearing.join().map_err(|_| anyhow::anyhow!("the client broke"))??;
        Ok((heard, ended.max(last) - began))
    })
}

/// A PUBLISH of a reading, whose packet identifier and time are written in for each.
struct Packet {
    bytes: Vec<u8>,
    id: Option<usize>,
    time: usize,
}

impl Packet {
    fn new(device: usize, qos: u8) -> Result<Self> {
        let topic = format!("data/load-{device}");
        let (before, after) = (r#"{"sensor":"t","time":""#, r#"","values":{"t":1.25}}"#);
        let payload = format!("{before}2020-01-01T00:00:00Z{after}");
        ensure!(payload.len() == READING_BYTES, "a reading has {} bytes", payload.len());
        let id_bytes = if qos > 0 { 2 } else { 0 };
        let length = 2 + topic.len() + id_bytes + payload.len();
        let mut bytes = vec![0x30 | qos << 1, u8::try_from(length)?, 0, u8::try_from(topic.len())?];
        bytes.extend(topic.as_bytes());
        let id = (qos > 0).then_some(bytes.len());
        bytes.resize(bytes.len() + id_bytes, 0);
        let time = bytes.len() + before.len();
        bytes.extend(payload.as_bytes());
        Ok(Self { bytes, id, time })
    }

    /// The reading of this second since 2020.
    fn of(&mut self, number: usize) -> &[u8] {
        if let Some(id) = self.id {
            let bytes = u16::try_from(number % 65_000 + 1).unwrap_or(1).to_be_bytes();
            self.bytes[id..id + 2].copy_from_slice(&bytes);
        }
        let (day, second) = (number / 86_400, number % 86_400);
        let fields = [
            (5, 1 + day / 28),
            (8, 1 + day % 28),
            (11, second / 3_600),
            (14, second / 60 % 60),
            (17, second % 60),
        ];
        for (place, value) in fields {
            let at = self.time + place;
            self.bytes[at] = b'0' + u8::try_from(value / 10).unwrap_or(9);
            self.bytes[at + 1] = b'0' + u8::try_from(value % 10).unwrap_or(9);
        }
        &self.bytes
    }
}

/// Publishes, and gives the moment at which the last one was written, or with QoS 1 acknowledged.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn send(
    mut socket: TcpStream,
    device: usize,
    (first, count): (usize, usize),
    qos: u8,
) -> Result<Instant> {
    let mut packet = Packet::new(device, qos)?;
    let (mut sent, mut answered, mut rest) = (0, 0, 0);
    let (mut out, mut answers) = (Vec::with_capacity(16 << 10), vec![0; 4 << 10]);
    while sent < count || (qos > 0 && answered < count) {
        let most = if qos > 0 { WINDOW - (sent - answered) } else { WINDOW };
        out.clear();
        for _ in 0..most.min(count - sent) {
            out.extend_from_slice(packet.of(first + sent));
            sent += 1;
        }
        socket.write_all(&out)?;
        // Half of the window is answered before more is sent, so that packets go together.
        while qos > 0 && answered < count && (sent - answered > WINDOW / 2 || sent == count) {
            let read = socket.read(&mut answers)?;
            ensure!(read > 0, "the connection was closed");
            // PUBACK has four bytes and nothing else comes.
            answered += (rest + read) / 4;
            rest = (rest + read) % 4;
        }
    }
    let ended = Instant::now();
    if qos == 0 {
        // What is on its way is not to be thrown away by closing.
        socket.write_all(&[0xE0, 0])?;
        socket.shutdown(std::net::Shutdown::Write)?;
        while socket.read(&mut answers)? > 0 {}
    }
    Ok(ended)
}

/// Reads messages until so many came, or none for a while.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn hear(
    mut socket: TcpStream,
    qos: u8,
    count: usize,
    is_open: &AtomicBool,
) -> Result<(usize, Instant)> {
    within(Duration::from_mins(5), "the end of sending", || {
        Ok(is_open.load(Ordering::Acquire).then_some(()))
    })?;
    socket.set_read_timeout(Some(QUIET))?;
    let (mut heard, mut last) = (0, Instant::now());
    let (mut buffer, mut filled) = (vec![0; 256 << 10], 0);
    let mut acknowledged = Vec::new();
    while heard < count {
        let read = match socket.read(&mut buffer[filled..]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            read => read?,
        };
        ensure!(read > 0, "the client was disconnected after {heard}");
        filled += read;
        let mut at = 0;
        acknowledged.clear();
        while let Some((start, end)) = frame(&buffer[at..filled]) {
            let (kind, body) = (buffer[at], &buffer[at + start..at + end]);
            if kind & 0xF0 == 0x30 {
                heard += 1;
                if qos > 0 && kind & 0x06 != 0 {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    acknowledged.extend([0x40, 2, body[2 + topic], body[3 + topic]]);
                }
            }
            at += end;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        last = Instant::now();
        socket.write_all(&acknowledged)?;
    }
    Ok((heard, last))
}
