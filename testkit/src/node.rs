use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::resp::{Resp, Value};
use crate::stack::{cpu_of, free_port};
use crate::wait::within_every;

/// How to start a store of keys alone: the example `node` of `kv`, or a `redis-server` beside it.
#[derive(Clone)]
pub struct NodeLaunch {
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    port: u16,
    log: PathBuf,
}

/// One running store. Killed when dropped.
pub struct Node {
    child: Child,
    pub address: String,
    /// From the start of the process to its first reply.
    pub ready_after: Duration,
}

impl NodeLaunch {
    /// `node` on a folder; it writes what it says beside it.
    pub fn new(binary: &Path, folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let arguments = vec![folder.display().to_string(), port.to_string()];
        let log = folder.with_extension("log");
        Ok(Self { binary: binary.to_owned(), arguments, environment: vec![], port, log })
    }

    /// Debian's redis-server on a folder, with what the arguments say and nothing else.
    pub fn redis(folder: &Path, arguments: &[&str]) -> Result<Self> {
        Self::program(Path::new("redis-server"), folder, arguments)
    }

    /// A program that takes the arguments of redis-server.
    pub(crate) fn program(program: &Path, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let port = free_port()?;
        std::fs::create_dir_all(folder)?;
        let folder_text = folder.display().to_string();
        let mut all: Vec<String> =
            ["--port", &port.to_string(), "--dir", &folder_text].map(str::to_owned).to_vec();
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let log = folder.with_extension("log");
        Ok(Self { binary: program.to_owned(), arguments: all, environment: vec![], port, log })
    }

    /// The same program as a sentinel, with settings in a file that it writes itself.
    pub(crate) fn sentinel(program: &Path, settings: &Path) -> Result<Self> {
        let port = free_port()?;
        let file = settings.display().to_string();
        let arguments = vec![file, "--sentinel".into(), "--port".into(), port.to_string()];
        let log = settings.with_extension("log");
        Ok(Self { binary: program.to_owned(), arguments, environment: vec![], port, log })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A setting of the store, `durability=off`.
    #[must_use]
    pub fn setting(mut self, setting: &str) -> Self {
        self.arguments.push(setting.to_owned());
        self
    }

    #[must_use]
    pub fn environment(mut self, variables: Vec<(String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// What it says goes to this file instead.
    #[must_use]
    pub fn says_in(mut self, file: &Path) -> Self {
        self.log = file.to_owned();
        self
    }

    /// Starts it and waits for its first reply.
    #[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
    pub fn start(&self) -> Result<Node> {
        let said = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let started = Instant::now();
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let address = format!("127.0.0.1:{}", self.port);
        let answered = within_every(
            Duration::from_millis(2),
            Duration::from_mins(1),
            "the first reply",
            || {
                if let Some(status) = child.try_wait()? {
                    return Ok(Some(Err(status)));
                }
                let Ok(mut client) = Resp::connect(&address) else { return Ok(None) };
                // Where keys are asked for, that is a reply too.
                let reply = client.ask(&["PING"]);
                let is_ready = matches!(&reply, Ok(Value::Simple(_)))
                    || matches!(&reply, Ok(Value::Error(text)) if text.starts_with("NOAUTH"));
                Ok(is_ready.then_some(Ok(())))
            },
        );
        match answered {
            Ok(Ok(())) => Ok(Node { child, address, ready_after: started.elapsed() }),
            Ok(Err(status)) => bail!("the store ended with {status}\n{}", self.log()),
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                bail!("{error:#}\n{}", self.log());
            }
        }
    }

    /// The last of what it said.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Node {
    pub fn client(&self) -> Result<Resp> {
        Resp::connect(&self.address)
    }

    /// kill -9: nothing is flushed, nothing is said.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until its disk has ended the process.
    pub fn ended(mut self, limit: Duration) -> Result<()> {
        within_every(Duration::from_millis(5), limit, "the end", || Ok(self.child.try_wait()?))?;
        Ok(())
    }

    /// Resident memory in bytes, now and at most so far, from /proc.
    pub fn resident(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let bytes = |name: &str| -> Result<u64> {
            let line = status.lines().find(|line| line.starts_with(name)).context("status")?;
            Ok(line.split_whitespace().nth(1).context("status")?.parse::<u64>()? * 1024)
        };
        Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
    }

    /// User and system time of the process so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
