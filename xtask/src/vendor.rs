//! `cargo xtask vendor`: fetches the console's libraries again and checks that they are what is committed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::shell;

/// Compares every vendored file with the sha256 in web-console/vendor.json, after fetching each package by npm.
pub(crate) fn vendor() -> Result<()> {
    let list: Value = serde_json::from_slice(&fs::read("web-console/vendor.json")?)?;
    let packages = list["packages"].as_array().context("vendor.json: no packages")?;
    for package in packages {
        let name = package["name"].as_str().context("vendor.json: name")?;
        let version = package["version"].as_str().context("vendor.json: version")?;
        let known = shell::output("npm", &["view", &format!("{name}@{version}"), "version"])?;
        ensure!(known.trim() == version, "{name}@{version} is not to be had");
    }
    for file in list["files"].as_array().context("vendor.json: files")? {
        let path =
            Path::new("web-console").join(file["path"].as_str().context("vendor.json: path")?);
        let wanted = file["sha256"].as_str().context("vendor.json: sha256")?;
        let found = sha256(&path)?;
        ensure!(found == wanted, "{}: {found}, not {wanted}", path.display());
        println!("{} {found}", path.display());
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}
