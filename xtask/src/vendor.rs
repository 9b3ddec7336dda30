//! `cargo xtask vendor`: checks the console's vendored files, and that what they are made of is still to be had. How they
//! are made again stands in web-console/ui/vendor/README.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::shell;

/// Asks npm or pip for each package's version, and compares every vendored file with its sha256 in web-console/vendor.json.
pub(crate) fn vendor() -> Result<()> {
    let list: Value = serde_json::from_slice(&fs::read("web-console/vendor.json")?)?;
    let packages = list["packages"].as_array().context("vendor.json: no packages")?;
    for package in packages {
        let name = package["name"].as_str().context("vendor.json: name")?;
        let version = package["version"].as_str().context("vendor.json: version")?;
        let known = match package["from"].as_str() {
            Some("npm") => {
                shell::output("npm", &["view", &format!("{name}@{version}"), "version"])?
            }
            Some("pypi") => shell::output("pip", &["index", "versions", name])?,
            other => bail!("vendor.json: {name} is from {other:?}"),
        };
        let is_there = known.split([' ', ',', '\n']).any(|word| word == version);
        ensure!(is_there, "{name} {version} is not to be had");
    }
    for file in list["files"].as_array().context("vendor.json: files")? {
        let path =
            Path::new("web-console").join(file["file"].as_str().context("vendor.json: file")?);
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
