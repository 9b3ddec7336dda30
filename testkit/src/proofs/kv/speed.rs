use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::median;
use crate::node::{Node, NodeLaunch};
use crate::proofs::{Ground, Report, Size};

/// One kind of work.
#[derive(Clone, Copy)]
struct Kind {
    command: &'static str,
    is_durable: bool,
    pipeline: usize,
    bytes: usize,
}

/// Medians of one server.
struct Figures {
    per_second: f64,
    cpu_micros: f64,
    p99_millis: f64,
}

/// Server CPU and throughput beside redis-server, one build and one configuration of each.
pub fn speed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let version = Command::new("redis-server").arg("--version").output().context("redis-server")?;
    report.figure(String::from_utf8_lossy(&version.stdout).trim().to_owned());
    report.figure("redis-benchmark, 50 connections, 100,000 keys; medians of five runs, in turns; CPU is utime + stime of the server's process");
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
    let durability = if is_durable { "durability=always" } else { "durability=off" };
    let ours = NodeLaunch::new(&ground.binary, &folder.path().join("kv"))?
        .setting(durability)
        .setting("memory_bytes_max=4294967296")
        .setting("eviction=allkeys-lru");
    let mut settings =
        vec!["--save", "", "--maxmemory", "4gb", "--maxmemory-policy", "allkeys-lru"];
    settings.extend(if is_durable {
        ["--appendonly", "yes", "--appendfsync", "always"].as_slice()
    } else {
        &["--appendonly", "no"]
    });
    let redis = NodeLaunch::redis(&folder.path().join("redis"), &settings)?;
    report.figure(format!(
        "{durability} memory_bytes_max=4294967296 eviction=allkeys-lru, beside redis-server {}",
        settings.join(" ")
    ));
    let (ours, redis) = (ours.start()?, redis.start()?);
    let commands: &[&str] = if is_durable { &["set"] } else { &["set", "get"] };
    let pipelines: &[usize] = if is_durable { &[1, 16] } else { &[1, 16, 100] };
    for &pipeline in pipelines {
        for command in commands {
            let kind = Kind { command, is_durable, pipeline, bytes };
            compare(ground, kind, (&ours, &redis), report)?;
        }
    }
    Ok(())
}

fn compare(
    ground: &Ground,
    kind: Kind,
    (ours, redis): (&Node, &Node),
    report: &mut Report,
) -> Result<()> {
    let rounds = if ground.size == Size::Test { 1 } else { 5 };
    let full = match (kind.is_durable, kind.pipeline) {
        (true, 1) => 200_000,
        (_, 1) => 400_000,
        (true, _) => 1_000_000,
        _ => 4_000_000,
    };
    let requests = ground.count(5_000, full);
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (at, node) in [ours, redis].into_iter().enumerate() {
            runs[at].push(benchmark(node, kind, requests)?);
        }
    }
    let [a, b] = runs.map(|runs| Figures {
        per_second: median(runs.iter().map(|run| run.per_second).collect()),
        cpu_micros: median(runs.iter().map(|run| run.cpu_micros).collect()),
        p99_millis: median(runs.iter().map(|run| run.p99_millis).collect()),
    });
    let (cpu, rate) = (a.cpu_micros / b.cpu_micros, a.per_second / b.per_second);
    let text = format!(
        "{} P={} {} B{}: {:.0}/s, {:.2} µs CPU, p99 {:.2} ms; redis {:.0}/s, {:.2} µs, {:.2} ms; CPU {cpu:.2}x, throughput {rate:.2}x",
        kind.command.to_uppercase(),
        kind.pipeline,
        kind.bytes,
        if kind.is_durable { " durable" } else { "" },
        a.per_second,
        a.cpu_micros,
        a.p99_millis,
        b.per_second,
        b.cpu_micros,
        b.p99_millis
    );
    let held = match (kind.is_durable, kind.pipeline) {
        (false, 1) => cpu <= 0.95,
        (false, 16) => rate >= 1.6,
        (false, _) => rate >= 3.0,
        (true, 1) => rate >= 1.0,
        (true, _) => rate >= 1.5,
    };
    // Ten percent is what two runs of one server differ by.
    let is_prompt = a.p99_millis <= b.p99_millis * 1.1;
    report.bound((held && is_prompt) || ground.size == Size::Test, text);
    Ok(())
}

fn benchmark(node: &Node, kind: Kind, requests: usize) -> Result<Figures> {
    let (_, port) = node.address.rsplit_once(':').context("an address")?;
    let before = node.cpu()?;
    let output = Command::new("redis-benchmark")
        .args(["-p", port, "-c", "50", "-r", "100000", "-t", kind.command, "--csv"])
        .args(["-n", &requests.to_string(), "-P", &kind.pipeline.to_string()])
        .args(["-d", &kind.bytes.to_string()])
        .output()
        .context("run redis-benchmark")?;
    let cpu = node.cpu()?.saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "redis-benchmark: {said}");
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
