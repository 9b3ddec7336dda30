use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::http::Http;
use crate::redis::cache_folder;
use crate::stack::{cpu_of, free_port};
use crate::wait::within_every;

/// Isso of PyPI, the comment server that most blogs host themselves, with two workers in a folder of its own.
pub struct Isso {
    server: Child,
    folder: TempDir,
    port: u16,
}

const PACKAGES: [&str; 2] = ["isso==0.14.0", "gunicorn==27.0.1"];

impl Isso {
    pub fn start() -> Result<Self> {
        let tools = installed()?;
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let at = |name: &str| folder.path().join(name);
        let rows = at("comments.db");
        let config = format!(
            "[general]\ndbpath = {}\nhost = http://localhost:{port}\n[guard]\nenabled = false\n",
            rows.display()
        );
        fs::write(at("isso.cfg"), config)?;
        let log = fs::File::create(at("log"))?;
        let server = Command::new(tools.join("bin/gunicorn"))
            .args(["-w", "2", "-b", &format!("127.0.0.1:{port}"), "isso.run"])
            .env("ISSO_SETTINGS", at("isso.cfg"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start gunicorn")?;
        let mut isso = Self { server, folder, port };
        within_every(Duration::from_millis(100), Duration::from_mins(1), "Isso", || {
            let log = isso.folder.path().join("log");
            let ended = isso.server.try_wait()?;
            ensure!(ended.is_none(), "{}", fs::read_to_string(log).unwrap_or_default());
            Ok(Http::new(&isso.address()).get("/?uri=/none").is_ok().then_some(()))
        })?;
        Ok(isso)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Writes a comment and gives its number.
    pub fn write(&self, uri: &str, text: &str, parent: Option<u64>) -> Result<u64> {
        let body = json!({"title": "Long", "author": "Mina", "text": text, "parent": parent});
        let written = Http::new(&self.address()).post(&format!("/new?uri={uri}"), &body)?.ok()?;
        written["id"].as_u64().context("no id")
    }

    /// Gives comments so many likes as their numbers have over a multiple of `every`; one address likes once only.
    pub fn like(&self, every: u64) -> Result<()> {
        let script = "import sqlite3, sys\nrows = sqlite3.connect(sys.argv[1])\n\
            rows.execute('UPDATE comments SET likes = id % ?', (int(sys.argv[2]),))\nrows.commit()";
        let done = Command::new(installed()?.join("bin/python"))
            .args(["-c", script])
            .arg(self.folder.path().join("comments.db"))
            .arg(every.to_string())
            .status()?;
        ensure!(done.success(), "the likes were not written");
        Ok(())
    }

    /// User and system time of its workers so far.
    pub fn cpu(&self) -> Result<Duration> {
        let master = self.server.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        children.split_whitespace().map(|child| cpu_of(child.parse()?)).sum()
    }
}

impl Drop for Isso {
    fn drop(&mut self) {
        // The workers end with it.
        let pid = rustix::process::Pid::from_child(&self.server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.server.wait().ok();
    }
}

/// Where its programs are; they are installed once.
fn installed() -> Result<PathBuf> {
    let folder = cache_folder()?.join("isso");
    let (mark, wanted) = (folder.join("version"), PACKAGES.join(" "));
    if fs::read_to_string(&mark).is_ok_and(|known| known == wanted) {
        return Ok(folder);
    }
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).status()?;
    ensure!(made.success(), "python3 -m venv (Debian package python3-venv)");
    let pip = folder.join("bin/pip");
    let added = Command::new(pip).args(["install", "-q"]).args(PACKAGES).status()?;
    ensure!(added.success(), "pip install {wanted}");
    fs::write(mark, wanted)?;
    Ok(folder)
}
