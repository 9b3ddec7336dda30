use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::line::Line;
use crate::load::Figures;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};

/// Rounds of which the medians are kept.
const ROUNDS: usize = 9;
/// Requests on their way at once.
const PIPELINE: usize = 50;
const LOG_INS: usize = 50;
const BEARER_MAX: f64 = 2.0;
/// Of a log-in while there is no core to spare.
const STARVED_MAX: Duration = Duration::from_secs(10);

/// A check of a bearer key costs at most 2 µs of processor; 50 log-ins by password at once leave the p99 of HTTP within
/// 20 %; and they come in also where others take every core.
pub fn speed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    // All of them are one person at one address.
    let mut launch = Launch::new(&ground.binary, folder.path());
    for of in ["PAIR", "ACCOUNT", "ADDRESS"] {
        let name = format!("MADANG__IDENTITY__ATTEMPTS_PER_{of}_MAX");
        launch = launch.environment(&name, "1000000");
    }
    let stack = launch.start()?;
    bearer(ground, &stack, &mut report)?;
    log_ins(ground, &stack, &mut report)?;
    starved(ground, &stack, &mut report)?;
    Ok(report)
}

/// What a request costs more that shows a key, where nothing else is different: this operation looks at who asks, and then
/// refuses, because no WebSocket is asked for.
fn bearer(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let requests = ground.count(2_000, 100_000);
    let key = format!("authorization: Bearer {}\r\n", stack.token());
    // As many bytes in a header that nobody reads.
    let plain = format!("x-nothing-to-see: {}\r\n", "a".repeat(key.len() - 20));
    ensure!(key.len() == plain.len(), "headers of one length");
    let (mut costs, mut bare, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (without, with) = (cost(stack, &plain, requests)?, cost(stack, &key, requests)?);
        costs.push(with - without);
        bare.push(without);
        shown.push(with);
    }
    let more = median(&mut costs);
    let (bare, shown) = (median(&mut bare), median(&mut shown));
    // An unoptimised binary is slower all over; the line itself is about a release.
    let held = ground.size == Size::Test || more <= BEARER_MAX;
    let line = format!(
        "{more:.2} µs of processor for each bearer check: {shown:.2} a request with it, {bare:.2} without ({requests} requests, {ROUNDS} times)"
    );
    report.bound(held, line);
    Ok(())
}

/// Microseconds of the server's processor for each request.
fn cost(stack: &Stack, header: &str, requests: usize) -> Result<f64> {
    let mut stream = TcpStream::connect(stack.http_address())?;
    stream.set_nodelay(true)?;
    let request = format!("GET /v1/stomp HTTP/1.1\r\nhost: here\r\n{header}\r\n");
    let batch = request.repeat(PIPELINE);
    let mut ask = |batches: usize| -> Result<()> {
        let (mut buffer, mut seen) = (vec![0; 256 << 10], Vec::new());
        for _ in 0..batches {
            stream.write_all(batch.as_bytes())?;
            seen.clear();
            while seen.windows(12).filter(|it| *it == b"HTTP/1.1 426").count() < PIPELINE {
                let count = stream.read(&mut buffer)?;
                ensure!(count > 0, "closed: {}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&buffer[..count]);
            }
        }
        Ok(())
    };
    ask(4)?;
    let before = stack.cpu()?;
    ask(requests / PIPELINE)?;
    let spent = stack.cpu()?.saturating_sub(before);
    Ok(spent.as_secs_f64() * 1e6 / (requests / PIPELINE * PIPELINE) as f64)
}

fn person() -> Value {
    json!({"email": "mina@example.org", "password": "correct horse"})
}

fn log_ins(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    stack.stranger().post("/v1/accounts", &person())?.ok()?;
    let requests = ground.count(100, 10_000);
    p99(stack, requests)?;
    let (mut alone, mut beside, mut signed_in) = (Vec::new(), Vec::new(), 0);
    let rounds = ground.count(1, 5);
    for _ in 0..rounds {
        alone.push(p99(stack, requests)?);
        let (tail, count) = crowded(stack, requests)?;
        beside.push(tail);
        signed_in += count;
    }
    alone.sort_unstable();
    beside.sort_unstable();
    let (alone, beside) = (alone[alone.len() / 2], beside[beside.len() / 2]);
    let line = format!(
        "HTTP p99 of {requests} reads {alone:?} alone, {beside:?} beside {LOG_INS} people who log in ({signed_in} times), medians of {rounds}"
    );
    report.bound(ground.size == Size::Test || beside <= alone.mul_f64(1.2), line);
    Ok(())
}

/// Of reads by key, one after another.
#[allow(clippy::disallowed_methods, reason = "a proof measures real time")]
fn p99(stack: &Stack, requests: usize) -> Result<Duration> {
    let read = format!(
        "GET /v1/sensors HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {}\r\n\r\n",
        stack.token()
    );
    let mut line = Line::open(stack)?;
    let mut samples = Vec::with_capacity(requests);
    for _ in 0..requests {
        let began = Instant::now();
        let (status, _) = line.ask(read.as_bytes())?;
        samples.push(began.elapsed());
        ensure!(status == 200, "status {status}");
    }
    Ok(Figures::new(samples).quantile(0.99))
}

/// The p99 while so many people log in again and again, and how often they were let in.
fn crowded(stack: &Stack, requests: usize) -> Result<(Duration, usize)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let people: Vec<_> =
            (0..LOG_INS).map(|_| scope.spawn(|| log_in(stack, &is_over))).collect();
        let measured = p99(stack, requests);
        is_over.store(true, Ordering::Relaxed);
        let mut count = 0;
        for person in people {
            count += person.join().ok().context("a log-in panicked")??;
        }
        Ok((measured?, count))
    })
}

fn log_in(stack: &Stack, is_over: &AtomicBool) -> Result<usize> {
    let body = person().to_string();
    let (length, mut count) = (body.len(), 0);
    let request = format!(
        "POST /v1/session HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut line = Line::open(stack)?;
    while !is_over.load(Ordering::Relaxed) {
        let (status, _) = line.ask(request.as_bytes())?;
        ensure!(matches!(status, 200 | 503), "status {status}");
        if status == 200 {
            count += 1;
        } else {
            // The queue has an end.
            thread::park_timeout(Duration::from_millis(200));
        }
    }
    Ok(count)
}

/// Log-ins while others that never wait take every core twice: what gives way to all must end all the same.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn starved(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    let is_over = AtomicBool::new(false);
    let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut times = thread::scope(|scope| {
        for _ in 0..2 * cores {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let times: Result<Vec<Duration>> = (0..ground.count(1, 10))
            .map(|_| {
                let began = Instant::now();
                stack.stranger().post("/v1/session", &person())?.ok()?;
                Ok(began.elapsed())
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        times
    })?;
    times.sort_unstable();
    let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
    let count = times.len();
    let line = format!(
        "beside {} threads that never wait: a log-in takes {middle:?}, {longest:?} at most ({count} times)",
        2 * cores
    );
    // The client gives up after a minute.
    let bound = if ground.size == Size::Test { STARVED_MAX * 5 } else { STARVED_MAX };
    report.bound(longest <= bound, line);
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
