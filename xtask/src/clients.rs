//! kv/clients: the clients that people use, unchanged, against the store. Each is a script under testkit/clients/kv that
//! ends with `ok N checks`; what they need is fetched once from PyPI and npm, in fixed versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::proofs::Report;
use testkit::{Node, NodeLaunch, Value, cache_folder};

use crate::shell;

/// A client, how it is started, and the commands without which it cannot work.
struct Client {
    name: &'static str,
    program: Program,
    needs: &'static [&'static str],
}

enum Program {
    /// A script for bash, with HOST and PORT.
    Shell(&'static str),
    Python(&'static str),
    Node(&'static str),
    /// A package of its own, with its lock.
    Rust(&'static str),
}

const CLIENTS: &[Client] = &[
    Client { name: "redis-cli 7.0.15", program: Program::Shell("redis_cli.sh"), needs: &[] },
    Client {
        name: "redis-benchmark 7.0.15",
        program: Program::Shell("redis_benchmark.sh"),
        needs: &[],
    },
    Client { name: "redis-py", program: Program::Python("redis_py.py"), needs: &[] },
    Client { name: "ioredis", program: Program::Node("ioredis.mjs"), needs: &[] },
    Client { name: "redis-rs", program: Program::Rust("redis_rs"), needs: &["eval", "xadd"] },
    Client { name: "RQ", program: Program::Python("rq_jobs.py"), needs: &["eval", "xadd"] },
    Client { name: "Celery", program: Program::Python("celery_tasks.py"), needs: &["eval"] },
    Client { name: "BullMQ", program: Program::Node("bullmq.mjs"), needs: &["eval", "xadd"] },
];

const PACKAGES: &[(&str, &str)] = &[
    ("redis-server", "/usr/bin/redis-server"),
    ("redis-tools", "/usr/bin/redis-benchmark"),
    ("python3-venv", "/usr/bin/python3"),
    ("nodejs", "/usr/bin/node"),
    ("npm", "/usr/bin/npm"),
];
const SCRIPTS: &str = "testkit/clients/kv";

pub(crate) fn clients(node: &Path) -> Result<Report> {
    shell::install(PACKAGES)?;
    let scripts = fs::canonicalize(SCRIPTS).context(SCRIPTS)?;
    let lock = fs::canonicalize("Cargo.lock").context("Cargo.lock")?;
    let cache = cache_folder()?.join("clients");
    let (python, modules) = (python(&cache, &scripts)?, modules(&cache, &scripts)?);
    let folder = cache.join(format!("data-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let mut report = Report::default();
    for (number, client) in CLIENTS.iter().enumerate() {
        let node = NodeLaunch::new(node, &folder.join(number.to_string()))?.start()?;
        if let Some(missing) = client.needs.iter().find(|name| !has(&node, name).unwrap_or(false)) {
            report.figure(format!(
                "{}: not yet, {} is not there",
                client.name,
                missing.to_uppercase()
            ));
            continue;
        }
        let places = Places {
            python: &python,
            modules: &modules,
            scripts: &scripts,
            lock: &lock,
            cache: &cache,
        };
        let (said, is_well) = run(client, &node, &places)?;
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let is_well = is_well && last.contains("ok ");
        let shown = if is_well { last.to_owned() } else { said };
        report.bound(is_well, format!("{}: {shown}", client.name));
    }
    fs::remove_dir_all(&folder)?;
    Ok(report)
}

fn has(node: &Node, name: &str) -> Result<bool> {
    let reply = node.client()?.done(&["COMMAND", "INFO", name])?;
    Ok(matches!(&reply, Value::Array(all) if all.iter().any(|one| matches!(one, Value::Array(_)))))
}

/// Where programs and what they need are.
struct Places<'a> {
    python: &'a Path,
    modules: &'a Path,
    scripts: &'a Path,
    /// The workspace's Cargo.lock.
    lock: &'a Path,
    cache: &'a Path,
}

fn run(client: &Client, node: &Node, places: &Places<'_>) -> Result<(String, bool)> {
    let scripts = places.scripts;
    let (program, script) = match client.program {
        Program::Shell(script) => (Path::new("bash").to_owned(), Some(scripts.join(script))),
        Program::Python(script) => (places.python.to_owned(), Some(scripts.join(script))),
        // A module is looked for beside the script that names it.
        Program::Node(script) => (Path::new("node").to_owned(), Some(places.modules.join(script))),
        Program::Rust(package) => (built(package, places)?, None),
    };
    let (host, port) = node.address.rsplit_once(':').context("an address")?;
    let output = Command::new("timeout")
        .arg("120")
        .arg(&program)
        .args(script)
        .env("HOST", host)
        .env("PORT", port)
        .env("PYTHONPATH", scripts)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    // What it logs beside is of interest only when something is wrong.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok((text(&output.stdout), true));
    }
    Ok((text(&[output.stdout, output.stderr].concat()), false))
}

/// A program of Rust, built once outside the tree, with what it depends on in the versions of the workspace's lock.
fn built(package: &str, places: &Places<'_>) -> Result<PathBuf> {
    let (source, folder) = (places.scripts.join(package), places.cache.join(package));
    fs::create_dir_all(folder.join("src"))?;
    for file in ["Cargo.toml", "src/main.rs"] {
        fs::copy(source.join(file), folder.join(file))?;
    }
    fs::copy(places.lock, folder.join("Cargo.lock"))?;
    let manifest = folder.join("Cargo.toml").display().to_string();
    let target = places.cache.join("rust");
    let target_text = target.display().to_string();
    shell::run(
        "cargo",
        &["build", "-q", "--manifest-path", &manifest, "--target-dir", &target_text],
    )?;
    Ok(target.join("debug").join(package))
}

/// A Python of its own with the packages of requirements.txt.
fn python(cache: &Path, scripts: &Path) -> Result<PathBuf> {
    let folder = cache.join("python");
    let python = folder.join("bin/python");
    let list = scripts.join("requirements.txt");
    if !is_as_asked(&folder, &list)? {
        let (folder_text, list_text) = (folder.display().to_string(), list.display().to_string());
        shell::run("python3", &["-m", "venv", "--clear", &folder_text])?;
        let program = python.display().to_string();
        shell::run(&program, &["-m", "pip", "install", "-q", "-r", &list_text])?;
        fs::copy(&list, folder.join("asked"))?;
    }
    ensure!(python.exists(), "{} was not made", python.display());
    Ok(python)
}

/// The packages of package.json, with the scripts beside them.
fn modules(cache: &Path, scripts: &Path) -> Result<PathBuf> {
    let folder = cache.join("node");
    let list = scripts.join("package.json");
    if !is_as_asked(&folder, &list)? {
        fs::create_dir_all(&folder)?;
        fs::copy(&list, folder.join("package.json"))?;
        let folder_text = folder.display().to_string();
        shell::run(
            "npm",
            &["install", "--silent", "--no-audit", "--no-fund", "--prefix", &folder_text],
        )?;
        fs::copy(&list, folder.join("asked"))?;
    }
    for entry in fs::read_dir(scripts)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "mjs") {
            fs::copy(&path, folder.join(path.file_name().context("a name")?))?;
        }
    }
    Ok(folder)
}

fn is_as_asked(folder: &Path, list: &Path) -> Result<bool> {
    let asked = fs::read(list)?;
    Ok(fs::read(folder.join("asked")).is_ok_and(|found| found == asked))
}
