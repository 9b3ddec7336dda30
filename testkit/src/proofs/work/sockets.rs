use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::read_p99;
use crate::proofs::{Ground, Report, Size};
use crate::rabbitmq::RabbitMq;
use crate::stack::{Launch, Stack};
use crate::stomp_client::StompClient;

/// Rounds of which the medians are kept.
const ROUNDS: usize = 5;
const TICK: Duration = Duration::from_millis(10);
const PER_CORE_MIN: f64 = 100_000.0;

/// 10,000 idle subscribers at most 12 KB each in our process (the kernel's socket buffers apart), with the p99 of HTTP within
/// 20 %; at least 100,000 deliveries a second and core; a connection that is cut and resumed 1,000 times misses and repeats
/// nothing.
pub fn sockets(ground: &Ground) -> Result<Report> {
    raise_open_files()?;
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    idle(ground, &stack, &mut report)?;
    deliveries(ground, &stack, &mut report)?;
    cut(ground, &stack, &mut report)?;
    Ok(report)
}

fn idle(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let count = ground.count(200, 10_000);
    let requests = ground.count(200, 5_000);
    // What the first connections and requests make stays.
    let mut clients = open(stack, 20)?;
    read_p99(stack, requests)?;
    let (alone, before) = (read_p99(stack, requests)?, stack.resident()?);
    clients.extend(open(stack, count)?);
    let each = stack.resident()?.saturating_sub(before) / count as u64;
    // An unoptimised binary keeps larger futures; the line itself is about a release.
    let each_max = if ground.size == Size::Full { 12_000 } else { 40_000 };
    report.bound(
        each <= each_max,
        format!("{each} bytes resident for each of {count} idle subscribers"),
    );
    let with = read_p99(stack, requests)?;
    let line = format!("HTTP p99 {alone:?} alone, {with:?} with {count} subscribers idle");
    // Few requests on a machine that does something else say nothing about a tail.
    report.bound(ground.size == Size::Test || with <= alone.mul_f64(1.2), line);
    drop(clients);
    crate::wait::within(Duration::from_secs(30), "the connections to go", || {
        let text = stack.api().get("/metrics")?;
        let text = String::from_utf8_lossy(&text.body).into_owned();
        Ok(text.contains("madang_sockets_connections 0\n").then_some(()))
    })?;
    Ok(())
}

fn open(stack: &Stack, count: usize) -> Result<Vec<StompClient>> {
    (0..count)
        .map(|number| {
            let mut client = StompClient::connect(stack.http_address(), stack.token())?;
            client.done(&format!("SUBSCRIBE\nid:0\ndestination:/topic/idle.{}", number % 100))?;
            Ok(client)
        })
        .collect()
}

/// Many subscribers of one topic, one sender that does not wait; five times in turns with RabbitMQ and its web-stomp.
fn deliveries(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let (subscribers, messages) = (ground.count(10, 100), ground.count(500, 20_000));
    let count = subscribers * messages;
    let ours = || {
        let open = || StompClient::connect(stack.http_address(), stack.token());
        fan_out((subscribers, messages), &open, &|| stack.cpu())
    };
    if ground.size == Size::Test {
        report_fan_out(&[ours()?], count, "us", None, report);
        return Ok(());
    }
    let rabbit = RabbitMq::start()?;
    let theirs = || fan_out((subscribers, messages), &|| rabbit.connect(), &|| rabbit.cpu());
    let (mut us, mut them) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        us.push(ours()?);
        them.push(theirs()?);
    }
    let us = report_fan_out(&us, count, "us", Some(PER_CORE_MIN), report);
    let them = report_fan_out(&them, count, "RabbitMQ", None, report);
    report.figure(format!(
        "RabbitMQ takes {:.1} times our processor time and {:.1} times our time; ours are in the log, fsynced, before the receipt, its are transient",
        them.cpu.as_secs_f64() / us.cpu.as_secs_f64(),
        them.took.as_secs_f64() / us.took.as_secs_f64(),
    ));
    Ok(())
}

/// What it took to deliver everything to everybody.
#[derive(Clone, Copy)]
struct FanOut {
    took: Duration,
    cpu: Duration,
}

/// Prints the medians and gives them.
fn report_fan_out(
    rounds: &[FanOut],
    count: usize,
    who: &str,
    per_core_min: Option<f64>,
    report: &mut Report,
) -> FanOut {
    let median = |of: fn(&FanOut) -> Duration| {
        let mut all: Vec<_> = rounds.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    // The system counts in ticks; a small run may not see one.
    let cpu = median(|round| round.cpu).max(TICK);
    let middle = FanOut { took: median(|round| round.took), cpu };
    let per_second = count as f64 / middle.took.as_secs_f64();
    let per_core = count as f64 / middle.cpu.as_secs_f64();
    let micros = 1e6 / per_core;
    let line = format!(
        "{who}: {count} deliveries of 64 bytes: {per_second:.0}/s, {micros:.2} µs of server CPU each, {per_core:.0}/s and core, medians of {}",
        rounds.len()
    );
    report.bound(per_core_min.is_none_or(|least| per_core >= least), line);
    middle
}

fn fan_out(
    (subscribers, messages): (usize, usize),
    open: &dyn Fn() -> Result<StompClient>,
    cpu: &dyn Fn() -> Result<Duration>,
) -> Result<FanOut> {
    let (told, done) = mpsc::channel();
    let mut readers = Vec::new();
    for _ in 0..subscribers {
        let mut client = open()?;
        client.done("SUBSCRIBE\nid:0\ndestination:/topic/fan")?;
        let told = told.clone();
        readers.push(std::thread::spawn(move || {
            // Whoever waits for it says what went wrong.
            told.send(count_messages(&client.stream, messages)).ok();
        }));
    }
    let mut sender = open()?;
    let message = format!("SEND\ndestination:/topic/fan\n\n{}", "x".repeat(64));
    let (before, began) = (cpu()?, now());
    // As far ahead as may wait for a subscriber, no further.
    for _ in 0..messages / 100 {
        sender.say_all((0..99).map(|_| message.clone()))?;
        sender.done(&message)?;
    }
    for _ in 0..subscribers {
        done.recv_timeout(Duration::from_mins(2)).context("a reader")??;
    }
    let fanned = FanOut { took: began.elapsed(), cpu: cpu()?.saturating_sub(before) };
    for reader in readers {
        ensure!(reader.join().is_ok(), "a reader panicked");
    }
    Ok(fanned)
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// Counts messages by the last letter of their body and the NUL behind it, which is much cheaper than to parse them.
fn count_messages(mut stream: &TcpStream, wanted: usize) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let (mut count, mut before) = (0, 0);
    while count < wanted {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "closed after {count} messages");
        for byte in &buffer[..read] {
            count += usize::from(before == b'x' && *byte == 0);
            before = *byte;
        }
    }
    Ok(())
}

/// A sender that goes on while a listener is cut again and again.
fn cut(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let rounds = ground.count(50, 1_000);
    let (address, token) = (stack.http_address().to_owned(), stack.token().to_owned());
    let count = rounds * 4;
    let sending = std::thread::spawn(move || -> Result<()> {
        let mut sender = StompClient::connect(&address, &token)?;
        for number in 0..count {
            let topic = if number % 3 == 0 { "other" } else { "cut" };
            sender.done(&format!("SEND\ndestination:/topic/{topic}\n\n{number}"))?;
        }
        sender.done("SEND\ndestination:/topic/cut\n\nend")
    });
    let (mut heard, mut last, mut cuts) = (Vec::new(), String::new(), 0);
    let mut has_ended = false;
    while !has_ended {
        let mut client = StompClient::connect(stack.http_address(), stack.token())?;
        let resume =
            if last.is_empty() { "from:earliest".to_owned() } else { format!("resume:{last}") };
        client.say(&format!("SUBSCRIBE\nid:0\ndestination:/topic/cut\n{resume}\n\n"))?;
        // Cut after a few messages, with others on their way.
        for _ in 0..=(cuts % 4) {
            let message = client.message()?;
            message.header("message-id").clone_into(&mut last);
            has_ended = message.text() == "end";
            if has_ended {
                break;
            }
            heard.push(message.text().parse::<usize>()?);
        }
        cuts += 1;
    }
    ensure!(sending.join().is_ok_and(|sent| sent.is_ok()), "the sender failed");
    let wanted: Vec<usize> = (0..count).filter(|number| number % 3 != 0).collect();
    report.bound(heard == wanted, format!("{} messages over {cuts} connections that were cut: none missing, none repeated, in order", heard.len()));
    report.bound(cuts >= rounds, format!("{cuts} connections were cut and resumed"));
    Ok(())
}

/// Sockets are files.
fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
