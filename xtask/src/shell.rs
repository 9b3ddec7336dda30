//! Runs commands and installs what they need.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Runs a command to its end, its output being ours.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status =
        command(program).args(arguments).status().with_context(|| format!("start {program}"))?;
    ensure!(status.success(), "`{program} {}` ended with {status}", arguments.join(" "));
    Ok(())
}

/// What a command printed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        command(program).args(arguments).output().with_context(|| format!("start {program}"))?;
    ensure!(output.status.success(), "`{program} {}` failed", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// A command in the surroundings that cargo started us from. What cargo told us of this package would be news to the
/// build scripts of others (ring's reads `CARGO_MANIFEST_DIR`), and everything above them would be built again.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO"
        });
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

/// Installs the Debian packages whose file is missing, as root or by sudo; else says which are missing.
pub(crate) fn install(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let is_root = output("id", &["-u"])?.trim() == "0";
    let has_sudo =
        Command::new("sudo").args(["-n", "true"]).status().is_ok_and(|done| done.success());
    let prefix: &[&str] = match (is_root, has_sudo) {
        (true, _) => &["env"],
        (_, true) => &["sudo", "-n", "env"],
        _ => bail!(
            "missing Debian packages, install them first: apt-get install {}",
            missing.join(" ")
        ),
    };
    let apt = |arguments: &[&str]| {
        let all =
            [&prefix[1..], &["DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q"], arguments];
        run(prefix[0], &all.concat())
    };
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], missing.as_slice()].concat())?;
    for (package, file) in packages {
        ensure!(Path::new(file).exists(), "{package} was installed, but {file} is not there");
    }
    Ok(())
}
