//! `cargo xtask prove AREA/NAME`: an acceptance line at full count, its output kept under docs/proofs/.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use testkit::proofs::{ALL, Ground, Report, Size};

use crate::{newcomer, shell};

/// Proofs that need more than a binary.
const HERE: &[&str] = &["first/newcomer"];

pub(crate) fn list() {
    for name in names() {
        println!("{name}");
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    HERE.iter().copied().chain(ALL.iter().map(|(name, _)| *name))
}

pub(crate) fn prove(name: &str) -> Result<()> {
    let report = if name == "first/newcomer" {
        newcomer::newcomer()?
    } else {
        let Some((_, proof)) = ALL.iter().find(|(known, _)| *known == name) else {
            bail!("no proof {name}; there are: {}", names().collect::<Vec<_>>().join(", "));
        };
        shell::run("cargo", &["build", "--release"])?;
        let binary = target_folder()?.join("release/madang");
        let evidence = Path::new("docs/proofs").join(name.replace('/', "-"));
        proof(&Ground { binary, evidence, size: Size::Full })?
    };
    let text = page(name, &report)?;
    println!("{text}");
    let file = Path::new("docs/proofs").join(format!("{}.md", name.replace('/', "-")));
    keep(&file, name, &text)?;
    if !report.short.is_empty() {
        bail!("{name} fell short");
    }
    Ok(())
}

/// Replaces the figures of a proof's page and leaves what people wrote above them.
fn keep(file: &Path, name: &str, text: &str) -> Result<()> {
    const MARK: &str = "## Last run";
    std::fs::create_dir_all("docs/proofs")?;
    let old = std::fs::read_to_string(file).unwrap_or_else(|_| format!("# {name}\n\n"));
    let head = old.split(MARK).next().unwrap_or_default().trim_end();
    Ok(std::fs::write(file, format!("{head}\n\n{MARK}\n\n```text\n{text}```\n"))?)
}

fn page(name: &str, report: &Report) -> Result<String> {
    let mut text = String::new();
    let date = shell::output("date", &["-u", "+%Y-%m-%d"])?;
    let cores = std::thread::available_parallelism()?;
    writeln!(text, "{} on {cores} cores, release profile", date.trim())?;
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
