//! people/realworld: the official Hurl suite of the RealWorld (Conduit) API against a fresh server, twice in a row. The suite is
//! no part of this repository: it is taken at one commit from its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::Launch;
use testkit::proofs::Report;

use crate::shell;
use testkit::cache_folder;

const SUITE: &str = "https://github.com/realworld-apps/realworld";
/// The state of the suite that is the judge.
const COMMIT: &str = "5d510ce6ec41bb97723e92fbd8d3e3458a381c09";
const FILES: usize = 13;
const REQUESTS: usize = 154;
const HURL: &str = "8.0.1";
/// What building Hurl needs.
const PACKAGES: &[(&str, &str)] = &[
    ("clang", "/usr/bin/clang"),
    ("libcurl4-openssl-dev", "/usr/bin/curl-config"),
    ("libxml2-dev", "/usr/bin/xml2-config"),
    ("pkg-config", "/usr/bin/pkg-config"),
];

pub(crate) fn realworld(binary: &Path) -> Result<Report> {
    let mut report = Report::default();
    let cache = cache_folder()?;
    let (suite, hurl) = (suite(&cache)?, hurl(&cache)?);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&suite)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|kind| kind == "hurl"));
    files.sort();
    report.bound(files.len() == FILES, format!("{} files of the suite", files.len()));

    let folder = tempfile::tempdir()?;
    let stack = Launch::new(binary, folder.path()).start()?;
    for round in 1..=2 {
        let output = Command::new(&hurl)
            .args(["--test", "--jobs", "1"])
            .args(["--variable", &format!("host=http://{}/conduit", stack.http_address())])
            .args(["--variable", &format!("uid=round{round}")])
            .args(&files)
            .output()
            .with_context(|| format!("start {}", hurl.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let (requests, passed) = counts(&said);
        let is_whole = output.status.success() && requests == REQUESTS && passed == FILES;
        report.bound(
            is_whole,
            format!(
                "round {round}: {passed} files of {FILES} passed, {requests} requests of {REQUESTS}"
            ),
        );
        if !is_whole {
            println!("{said}");
        }
    }
    Ok(report)
}

/// How many requests ran and how many files passed, by Hurl's last lines.
fn counts(said: &str) -> (usize, usize) {
    let number = |begin: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(begin));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (number("Executed requests:"), number("Succeeded files:"))
}

/// The folder of the suite's files at its one commit, fetched once.
fn suite(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(format!("realworld-{COMMIT}"));
    let files = folder.join("specs/api/hurl");
    if !files.is_dir() {
        fs::create_dir_all(&folder)?;
        let place = folder.display().to_string();
        shell::run("git", &["init", "-q", &place])?;
        shell::run("git", &["-C", &place, "fetch", "-q", "--depth", "1", SUITE, COMMIT])?;
        shell::run("git", &["-C", &place, "checkout", "-q", COMMIT])?;
    }
    ensure!(files.is_dir(), "{} is not there", files.display());
    Ok(files)
}

/// Hurl, built once.
fn hurl(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("hurl");
    let program = folder.join("bin/hurl");
    if !program.exists() {
        shell::install(PACKAGES)?;
        let root = folder.display().to_string();
        shell::run("cargo", &["install", "hurl", "--version", HURL, "--locked", "--root", &root])?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_hurl_are_understood() {
        let said = "a.hurl: Success (17 request(s) in 100 ms)\n----\nExecuted files:    13\n\
            Executed requests: 154 (1200.0/s)\nSucceeded files:   12 (92.3%)\nFailed files:      1 (7.7%)";
        assert_eq!(counts(said), (154, 12));
    }
}
