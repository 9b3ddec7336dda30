//! `cargo xtask prove AREA/NAME`: an acceptance line at full count, its output kept under docs/proofs/.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::proofs::{ALL, Ground, Report, Size, kv};

use crate::{clients, newcomer, realworld, shell, tcl};

type Runner = fn() -> Result<Report>;

/// Proofs that need more than a binary, or less.
const HERE: &[(&str, Runner)] = &[
    ("first/newcomer", newcomer::newcomer),
    ("first/newcomer-test", newcomer::newcomer_test),
    ("spine/fence", || example("relational", "fence")),
    ("spine/no-event-lost", || example("relational", "no_event_lost")),
    ("spine/commits", || example("relational", "commits")),
    ("spine/simulated", simulated),
    ("kv/clients", || clients::clients(&kv_node()?)),
    ("kv/in-step", || example("kv", "in_step")),
    ("kv/tcl", || tcl::tcl(&kv_node()?)),
    ("people/realworld", || realworld::realworld(&madang()?)),
    ("work/jobs", || example("jobs", "throughput")),
    ("work/jobs-chaos", || example("jobs", "chaos")),
    ("work/ranking", || example("jobs", "ranking")),
    ("work/clocks", || example("jobs", "clocks")),
];

/// Seeds of each simulation at full count.
const SIMULATED: &[(&str, u64)] = &[("eventlog", 100_000), ("mqtt", 100_000)];

/// Proofs of a binary whose work goes wrong when it is asked to.
const FAULTY: &[&str] = &["spine/isolation", "spine/leak"];

pub(crate) fn list() {
    for name in names() {
        println!("{name}");
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let here = HERE.iter().map(|(name, _)| *name);
    here.chain(ALL.iter().chain(kv::ALL).map(|(name, _)| *name))
}

/// What proofs start beside what tests do.
const PEERS: &[(&str, &str)] =
    &[("mosquitto", "/usr/sbin/mosquitto"), ("rabbitmq-server", "/usr/lib/rabbitmq")];

/// Proves the binary of this tree in the release profile, or another one.
pub(crate) fn prove(name: &str, binary: Option<PathBuf>) -> Result<()> {
    let built = if binary.is_some() { "a binary that was given" } else { "release profile" };
    let report = if let Some((_, proof)) = HERE.iter().find(|(known, _)| *known == name) {
        proof()?
    } else {
        let Some((_, proof)) = ALL.iter().chain(kv::ALL).find(|(known, _)| *known == name) else {
            bail!("no proof {name}; there are: {}", names().collect::<Vec<_>>().join(", "));
        };
        shell::install(&crate::PACKAGES.iter().chain(PEERS).copied().collect::<Vec<_>>())?;
        if matches!(name, "kv/memory" | "kv/speed") {
            crate::fetch_valkey()?;
        }
        if name == "identity/providers" {
            crate::fetch_oidc_provider()?;
        }
        let binary = if let Some(binary) = binary {
            std::fs::canonicalize(&binary)?
        } else if kv::ALL.iter().any(|(known, _)| *known == name) {
            kv_node()?
        } else {
            let is_faulty = FAULTY.contains(&name);
            let (package, program) =
                if is_faulty { ("faulty", "faulty") } else { ("server", "madang") };
            shell::run("cargo", &["build", "--release", "-p", package])?;
            target_folder()?.join("release").join(program)
        };
        let evidence = Path::new("docs/proofs").join(name.replace('/', "-"));
        proof(&Ground { binary, evidence, size: Size::Full })?
    };
    let text = page(name, built, &report)?;
    println!("{text}");
    let file = Path::new("docs/proofs").join(format!("{}.md", name.replace('/', "-")));
    keep(&file, name, &text)?;
    if !report.short.is_empty() {
        bail!("{name} fell short");
    }
    Ok(())
}

/// The server, in the release profile.
fn madang() -> Result<PathBuf> {
    shell::run("cargo", &["build", "--release", "-p", "server"])?;
    Ok(target_folder()?.join("release/madang"))
}

/// The store of keys alone, in the release profile.
fn kv_node() -> Result<PathBuf> {
    shell::run("cargo", &["build", "--release", "-q", "-p", "kv", "--example", "node"])?;
    Ok(target_folder()?.join("release/examples/node"))
}

/// Runs a part's example, which prints figures and fails when it falls short.
fn example(part: &str, name: &str) -> Result<Report> {
    let arguments = ["run", "--release", "-q", "-p", part, "--example", name];
    let ran = Command::new("cargo").args(arguments).output().context("start cargo")?;
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
    let short = if ran.status.success() { Vec::new() } else { lines(&ran.stderr) };
    Ok(Report { figures: lines(&ran.stdout), short })
}

/// Runs the simulations of the cores, which are tests that take a count of seeds.
fn simulated() -> Result<Report> {
    let mut report = Report::default();
    for (part, seeds) in SIMULATED {
        let arguments =
            ["test", "--release", "-q", "-p", part, "--lib", "simulated", "--", "--nocapture"];
        let ran = Command::new("cargo")
            .args(arguments)
            .env("MADANG_SIM_SEEDS", seeds.to_string())
            .output()
            .context("start cargo")?;
        let said = String::from_utf8_lossy(&ran.stdout);
        let name = format!("{part}: ");
        let figures: Vec<&str> = said.lines().filter(|line| line.starts_with(&name)).collect();
        report.figures.extend(figures.iter().flat_map(|line| line.split("; ")).map(str::to_owned));
        let told = figures.iter().any(|line| line.starts_with(&format!("{name}{seeds} seeds")));
        if !ran.status.success() || !told {
            let errors = String::from_utf8_lossy(&ran.stderr);
            let why = errors.lines().chain(said.lines()).filter(|line| !line.is_empty());
            report.short.push(format!("{part}: {}", why.take(40).collect::<Vec<_>>().join("\n")));
        }
    }
    Ok(report)
}

/// Replaces the figures of a proof's page and leaves what people wrote above them.
fn keep(file: &Path, name: &str, text: &str) -> Result<()> {
    const MARK: &str = "## Last run";
    std::fs::create_dir_all("docs/proofs")?;
    let old = std::fs::read_to_string(file).unwrap_or_else(|_| format!("# {name}\n\n"));
    let head = old.split(MARK).next().unwrap_or_default().trim_end();
    Ok(std::fs::write(file, format!("{head}\n\n{MARK}\n\n```text\n{text}```\n"))?)
}

fn page(name: &str, built: &str, report: &Report) -> Result<String> {
    let mut text = String::new();
    let date = shell::output("date", &["-u", "+%Y-%m-%d"])?;
    let cores = std::thread::available_parallelism()?;
    writeln!(text, "{} on {cores} cores, {built}", date.trim())?;
    for figure in &report.figures {
        writeln!(text, "{figure}")?;
    }
    writeln!(text, "{}", report.verdict(name))?;
    Ok(text)
}

pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = shell::output("cargo", &["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    Ok(metadata["target_directory"].as_str().context("no target directory")?.into())
}
