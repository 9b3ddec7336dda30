use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::median;
use crate::node::{Node, NodeLaunch};
use crate::proofs::{Ground, Report, Size};
use crate::redis::RedisKind;
use crate::resp::{Resp, encoded};

/// Keys that the requests are about.
const KEYS: usize = 100_000;
/// Keys beside them that expire while it is measured.
const EXPIRING: usize = 100_000;
const EXPIRING_WITHIN_MILLIS: usize = 600_000;
const KEYS_AT_ONCE: usize = 1_000;
/// Everybody asks for it, so that whoever sends a request is known.
const PASSWORD: &str = "bench:secret";
/// How much longer the 99th of a hundred may take before it is called worse: so much do two runs of one server differ.
const P99_MARGIN: f64 = 1.1;

/// One kind of work.
#[derive(Clone, Copy)]
struct Kind {
    command: &'static str,
    is_durable: bool,
    pipeline: usize,
    bytes: usize,
}

/// What one run showed, or the medians of several.
struct Figures {
    per_second: f64,
    cpu_micros: f64,
    p99_millis: f64,
}

struct Server {
    name: &'static str,
    node: Node,
}

impl Figures {
    fn median(runs: &[Self]) -> Self {
        Self {
            per_second: median(runs.iter().map(|run| run.per_second).collect()),
            cpu_micros: median(runs.iter().map(|run| run.cpu_micros).collect()),
            p99_millis: median(runs.iter().map(|run| run.p99_millis).collect()),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { per_second, cpu_micros, p99_millis } = self;
        write!(f, "{per_second:.0}/s, {cpu_micros:.2} µs, {p99_millis:.2} ms")
    }
}

/// Server CPU and throughput beside redis-server and valkey-server, one build and one configuration of each.
pub fn speed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    for kind in [RedisKind::Redis, RedisKind::Valkey] {
        let version = Command::new(kind.program()?).arg("--version").output()?;
        report.figure(String::from_utf8_lossy(&version.stdout).trim().to_owned());
    }
    report.figure(format!("redis-benchmark, 50 connections that said AUTH, {KEYS} keys beside {EXPIRING} that expire; medians of five runs, in turns; CPU is utime + stime of the server's process"));
    for is_durable in [false, true] {
        let sizes: &[usize] = if ground.size == Size::Test { &[64] } else { &[64, 256] };
        for &bytes in sizes {
            run(ground, is_durable, bytes, &mut report)?;
        }
    }
    Ok(report)
}

fn run(ground: &Ground, is_durable: bool, bytes: usize, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // As durable as the peers: without their log ours has none.
    let durability = if is_durable { "durability=always" } else { "durability=memory" };
    let ours = |name: &str, durability| -> Result<Node> {
        NodeLaunch::new(&ground.binary, &folder.path().join(name))?
            .setting(durability)
            .setting("closed=true")
            .setting("memory_bytes_max=4294967296")
            .setting("eviction=allkeys-lru")
            .start()
    };
    let mut settings =
        vec!["--save", "", "--maxmemory", "4gb", "--maxmemory-policy", "allkeys-lru"];
    settings.extend(["--requirepass", PASSWORD]);
    settings.extend(if is_durable {
        ["--appendonly", "yes", "--appendfsync", "always"].as_slice()
    } else {
        &["--appendonly", "no"]
    });
    let peer = |kind: RedisKind, name: &str| {
        NodeLaunch::program(&kind.program()?, &folder.path().join(name), &settings)
    };
    report.figure(format!(
        "{durability} memory_bytes_max=4294967296 eviction=allkeys-lru closed=true, beside {}",
        settings.join(" ")
    ));
    let mut servers = vec![
        Server { name: "madang", node: ours("kv", durability)? },
        Server { name: "redis", node: peer(RedisKind::Redis, "redis")?.start()? },
        Server { name: "valkey", node: peer(RedisKind::Valkey, "valkey")?.start()? },
    ];
    if !is_durable {
        servers.push(Server { name: "madang with a log", node: ours("log", "durability=off")? });
    }
    for server in &servers {
        fill(ground, server, bytes)?;
    }
    let commands: &[&str] = if is_durable { &["set"] } else { &["set", "get"] };
    let pipelines: &[usize] = if is_durable { &[1, 16] } else { &[1, 16, 100] };
    for &pipeline in pipelines {
        for command in commands {
            let kind = Kind { command, is_durable, pipeline, bytes };
            compare(ground, kind, &servers, report)?;
        }
    }
    Ok(())
}

/// Puts all keys that the requests are about there, so that nobody is asked for what it has not, and others that expire.
fn fill(ground: &Ground, server: &Server, bytes: usize) -> Result<()> {
    let mut client = Resp::connect(&server.node.address)?;
    client.done(&["AUTH", PASSWORD])?;
    let value = "x".repeat(bytes);
    let put = |client: &mut Resp, requests: Vec<u8>| -> Result<()> {
        client.send(&requests)?;
        for _ in 0..KEYS_AT_ONCE {
            client.read()?;
        }
        Ok(())
    };
    for from in (0..KEYS).step_by(KEYS_AT_ONCE) {
        let keys = from..from + KEYS_AT_ONCE;
        let requests = keys.flat_map(|key| encoded(&["SET", &format!("key:{key:012}"), &value]));
        put(&mut client, requests.collect())?;
    }
    let expiring = ground.count(10_000, EXPIRING);
    for from in (0..expiring).step_by(KEYS_AT_ONCE) {
        let keys = from..from + KEYS_AT_ONCE;
        let requests = keys.flat_map(|key| {
            let lasts = 1 + key * (EXPIRING_WITHIN_MILLIS / expiring);
            encoded(&["SET", &format!("expires:{key}"), &value, "PX", &lasts.to_string()])
        });
        put(&mut client, requests.collect())?;
    }
    Ok(())
}

fn compare(ground: &Ground, kind: Kind, servers: &[Server], report: &mut Report) -> Result<()> {
    let rounds = if ground.size == Size::Test { 1 } else { 5 };
    let full = match (kind.is_durable, kind.pipeline) {
        (true, 1) => 200_000,
        (_, 1) => 400_000,
        (true, _) => 1_000_000,
        _ => 4_000_000,
    };
    let requests = ground.count(5_000, full);
    let mut runs: Vec<Vec<Figures>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (runs, server) in runs.iter_mut().zip(servers) {
            runs.push(benchmark(server, kind, requests)?);
        }
    }
    let figures: Vec<Figures> = runs.iter().map(|runs| Figures::median(runs)).collect();
    let [ours, redis, valkey, logged @ ..] = &figures[..] else { bail!("three servers") };
    let beside = |peer: &Figures| {
        let (cpu, rate) = (ours.cpu_micros / peer.cpu_micros, ours.per_second / peer.per_second);
        format!("{peer}: CPU {cpu:.2}x, throughput {rate:.2}x")
    };
    let text = format!(
        "{} P={} {} B{}: {:.0}/s, {:.2} µs CPU, p99 {:.2} ms; redis {}; valkey {}{}",
        kind.command.to_uppercase(),
        kind.pipeline,
        kind.bytes,
        if kind.is_durable { " durable" } else { "" },
        ours.per_second,
        ours.cpu_micros,
        ours.p99_millis,
        beside(redis),
        beside(valkey),
        logged.first().map_or_else(String::new, |it| format!("; with a log {it}")),
    );
    let cpu = ours.cpu_micros / redis.cpu_micros;
    let rate = ours.per_second / redis.per_second;
    let held = match (kind.is_durable, kind.pipeline) {
        (false, 1) => cpu <= 0.95,
        (false, 16) => rate >= 1.6,
        (false, _) => rate >= 3.0,
        (true, 1) => rate >= 1.0,
        (true, _) => rate >= 1.5,
    };
    let is_prompt = ours.p99_millis <= redis.p99_millis * P99_MARGIN;
    report.bound((held && is_prompt) || ground.size == Size::Test, text);
    Ok(())
}

fn benchmark(server: &Server, kind: Kind, requests: usize) -> Result<Figures> {
    let (_, port) = server.node.address.rsplit_once(':').context("an address")?;
    let before = server.node.cpu()?;
    let output = Command::new("redis-benchmark")
        .args(["-p", port, "-c", "50", "-r", &KEYS.to_string(), "-t", kind.command, "--csv"])
        .args(["-n", &requests.to_string(), "-P", &kind.pipeline.to_string()])
        .args(["-d", &kind.bytes.to_string(), "-a", PASSWORD])
        .output()
        .context("run redis-benchmark")?;
    let cpu = server.node.cpu()?.saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "redis-benchmark on {}: {said}", server.name);
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    let line = said
        .lines()
        .rfind(|line| line.to_lowercase().starts_with(&format!("\"{}\"", kind.command)));
    let line = line.with_context(|| format!("redis-benchmark said {said}"))?;
    let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
    ensure!(fields.len() >= 8, "redis-benchmark said {line}");
    Ok(Figures {
        per_second: fields[1].parse()?,
        cpu_micros: cpu.as_micros() as f64 / requests as f64,
        p99_millis: fields[6].parse()?,
    })
}
