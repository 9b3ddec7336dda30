use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;

use crate::stack::free_port;
use crate::wait::within;

/// A real SMTP server (aiosmtpd) that keeps what it received.
pub struct Mailbox {
    child: Child,
    pub port: u16,
    mails: Arc<Mutex<Vec<Mail>>>,
}

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub struct Mail {
    pub lines: Vec<String>,
    pub arrived: Instant,
}

impl Mail {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.lines.iter().take_while(|line| !line.is_empty());
        headers.find_map(|line| {
            let (head, value) = line.split_once(':')?;
            head.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

const FOLLOWS: &str = "---------- MESSAGE FOLLOWS ----------";
const END: &str = "------------ END MESSAGE ------------";

impl Mailbox {
    pub fn open() -> Result<Self> {
        let port = free_port()?;
        let mut child = Command::new("/usr/bin/aiosmtpd")
            .args(["-n", "-c", "aiosmtpd.handlers.Debugging", "stdout"])
            .args(["-l", &format!("127.0.0.1:{port}")])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start aiosmtpd (Debian package python3-aiosmtpd)")?;
        let mails = Arc::new(Mutex::new(vec![]));
        let output = BufReader::new(child.stdout.take().context("no output of aiosmtpd")?);
        let kept = mails.clone();
        std::thread::spawn(move || collect(output, &kept));
        within(Duration::from_secs(20), "the SMTP server", || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Self { child, port, mails })
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().clone()
    }

    /// Waits for a mail that fits.
    pub fn wait(&self, limit: Duration, fits: impl Fn(&Mail) -> bool) -> Result<Mail> {
        within(limit, "the mail", || Ok(self.mails().into_iter().find(&fits)))
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn collect(output: impl BufRead, mails: &Mutex<Vec<Mail>>) {
    let mut lines = None;
    for line in output.lines() {
        let Ok(line) = line else { return };
        match (line.as_str(), &mut lines) {
            (FOLLOWS, _) => lines = Some(vec![]),
            (END, _) => {
                if let Some(lines) = lines.take() {
                    let mail = Mail { lines, arrived: Instant::now() };
                    mails.lock().push(mail);
                }
            }
            (_, Some(lines)) => lines.push(line),
            _ => {}
        }
    }
}
