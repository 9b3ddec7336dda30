use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::certificates::Certificates;
use crate::http::Http;
use crate::wait::{within, within_every};

/// How to start a `madang`.
pub struct Launch {
    binary: PathBuf,
    data: PathBuf,
    arguments: Vec<String>,
    is_ephemeral: bool,
    /// The port of the HTTP door, where it must be known before.
    http_port: Option<u16>,
    environment: Vec<(String, String)>,
}

/// One running `madang` with its announced doors. Killed when dropped.
pub struct Stack {
    child: Child,
    announced: Value,
    /// From the start of the process to the announcement.
    pub ready_after: Duration,
    log: PathBuf,
}

impl Launch {
    /// A stack on `data` (kept when it ends), on free ports, with sign-up open.
    pub fn new(binary: &Path, data: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            data: data.to_owned(),
            arguments: vec![],
            is_ephemeral: false,
            http_port: None,
            environment: vec![],
        }
    }

    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A setting by its environment name, such as `MADANG__DELIVERY__SMTP__URL`.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Known as `http://localhost:PORT`, for what goes by names.
    #[must_use]
    pub fn on_localhost(mut self, port: u16) -> Self {
        self.http_port = Some(port);
        self.environment("MADANG__HTTP__LISTEN", &format!("127.0.0.1:{port}"))
            .environment("MADANG__HTTP__PUBLIC_URL", &format!("http://localhost:{port}"))
            .environment("MADANG__MQTT__LISTEN", "127.0.0.1:0")
            .environment("MADANG__KV__LISTEN", "127.0.0.1:0")
    }

    /// On a temporary folder of its own that goes when it ends.
    #[must_use]
    pub fn ephemeral(mut self) -> Self {
        self.is_ephemeral = true;
        self
    }

    /// Lets mail go to a server on this machine.
    #[must_use]
    pub fn mail_to(self, smtp_port: u16) -> Self {
        self.environment("MADANG__DELIVERY__SMTP__URL", &format!("smtp://127.0.0.1:{smtp_port}"))
            .environment("MADANG__EGRESS__ALLOW", "[\"127.0.0.1/32\"]")
    }

    /// Opens the doors under TLS too, with files that are looked at often.
    #[must_use]
    pub fn tls(self, certificates: &Certificates) -> Self {
        self.environment("MADANG__TLS__CERTIFICATE", &certificates.path("chain.pem"))
            .environment("MADANG__TLS__KEY", &certificates.path("key.pem"))
            .environment("MADANG__TLS__CHECK_EVERY", "50ms")
    }

    #[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
    pub fn start(&self) -> Result<Stack> {
        std::fs::create_dir_all(&self.data)?;
        let announce = self.data.join("announce.json");
        if announce.exists() {
            std::fs::remove_file(&announce)?;
        }
        let log = self.data.join("stderr.log");
        let stderr = std::fs::File::options().create(true).append(true).open(&log)?;
        let started = Instant::now();
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--announce").arg(&announce);
        if self.is_ephemeral {
            command.arg("--ephemeral");
        } else {
            command.arg("--data-dir").arg(self.data.join("data"));
            command.arg("--open-sign-up");
            if self.http_port.is_none() {
                command.arg("--free-ports");
            }
        }
        let mut child = command
            .args(&self.arguments)
            // Reading the symbols of a debug build for one panic takes longer than a request may.
            .env("RUST_BACKTRACE", "0")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let announced = within_every(
            Duration::from_millis(2),
            Duration::from_mins(1),
            "the announcement",
            || {
                if let Some(status) = child.try_wait()? {
                    return Ok(Some(Err(anyhow!("madang ended with {status}"))));
                }
                if !announce.exists() {
                    return Ok(None);
                }
                Ok(Some(Ok(serde_json::from_slice(&std::fs::read(&announce)?)?)))
            },
        );
        let announced = match announced.and_then(|announced| announced) {
            Ok(announced) => announced,
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                bail!("{error:#}\n{}", tail_of(&log));
            }
        };
        Ok(Stack { child, announced, ready_after: started.elapsed(), log })
    }
}

impl Stack {
    fn said(&self, name: &str) -> &str {
        self.announced[name].as_str().unwrap_or_else(|| panic!("no {name} was announced"))
    }

    pub fn announced(&self) -> &Value {
        &self.announced
    }

    /// `127.0.0.1:PORT` of the HTTP door.
    pub fn http_address(&self) -> &str {
        self.said("http")
    }

    pub fn mqtt_address(&self) -> &str {
        self.said("mqtt")
    }

    /// The same of a door under TLS: `http_tls`, `mqtt_tls` or `resp_tls`.
    pub fn port(&self, door: &str) -> &str {
        self.said(door).rsplit_once(':').expect("an address has a port").1
    }

    pub fn mqtt_user(&self) -> &str {
        self.said("mqtt_user")
    }

    pub fn mqtt_password(&self) -> &str {
        self.said("mqtt_password")
    }

    pub fn resp_address(&self) -> &str {
        self.said("resp")
    }

    /// A key's id and secret, as one password.
    pub fn resp_password(&self) -> &str {
        self.said("resp_password")
    }

    pub fn token(&self) -> &str {
        self.said("admin_token")
    }

    /// The API as the administrator.
    pub fn api(&self) -> Http {
        Http::new(self.http_address()).bearer(self.token())
    }

    /// The API as nobody.
    pub fn stranger(&self) -> Http {
        Http::new(self.http_address())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process wrote to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The link that signs the first administrator in, once.
    pub fn link(&self) -> Result<String> {
        within(Duration::from_secs(20), "the one-time link", || {
            let log = self.log();
            Ok(log
                .split_whitespace()
                .find(|word| word.contains("/#/link?token="))
                .map(str::to_owned))
        })
    }

    /// Resident memory in bytes, from /proc.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kib * 1024)
    }

    /// User and system time of the process so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// kill -9: nothing is flushed, nothing is said.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until the process has ended by itself or by its disk.
    pub fn ended(mut self, limit: Duration) -> Result<ExitStatus> {
        within_every(Duration::from_millis(5), limit, "the end", || Ok(self.child.try_wait()?))
    }

    /// SIGTERM, and how long the process took to end.
    #[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
    pub fn terminate(mut self) -> Result<Duration> {
        let pid = Pid::from_child(&self.child);
        let started = Instant::now();
        kill_process(pid, Signal::TERM)?;
        let status = within_every(
            Duration::from_millis(5),
            Duration::from_secs(30),
            "the end after SIGTERM",
            || Ok(self.child.try_wait()?),
        )?;
        ensure!(status.success(), "ended with {status}: {}", tail_of(&self.log));
        Ok(started.elapsed())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// User and system time of a process so far.
pub(crate) fn cpu_of(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after = stat.rsplit_once(')').context("stat")?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn tail_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
