use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::stack::{cpu_of, free_port};
use crate::stomp_client::StompClient;
use crate::wait::within_every;

/// RabbitMQ of Debian's package with its web-stomp plugin, as it comes, in a folder and on ports of its own.
pub struct RabbitMq {
    child: Child,
    folder: TempDir,
    web: String,
    names: u16,
}

const PACKAGE: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

impl RabbitMq {
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let (web, stomp, names) = (free_port()?, free_port()?, free_port()?);
        fs::write(
            at("rabbitmq.conf"),
            format!(
                "listeners.tcp = none\nstomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n\
                 web_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {web}\n"
            ),
        )?;
        fs::write(at("plugins"), "[rabbitmq_web_stomp].\n")?;
        let log = fs::File::create(at("log"))?;
        let mut command = Command::new(PACKAGE);
        command
            .env("HOME", folder.path())
            .env("RABBITMQ_NODENAME", format!("madang-{web}@localhost"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("logs"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", names.to_string())
            // The virtual machine in place of the script, so that its processor time is the child's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().with_context(|| format!("start {PACKAGE}"))?;
        let mut server = Self { child, folder, web: format!("127.0.0.1:{web}"), names };
        within_every(Duration::from_millis(200), Duration::from_mins(1), "RabbitMQ", || {
            let log = server.folder.path().join("log");
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{}", fs::read_to_string(log).unwrap_or_default());
            Ok(server.connect().ok().map(drop))
        })?;
        Ok(server)
    }

    /// STOMP over its WebSocket, logged in.
    pub fn connect(&self) -> Result<StompClient> {
        let mut client = StompClient::open_at(&self.web, "/ws", "")?;
        client.log_in("login:guest\npasscode:guest\nhost:/")?;
        Ok(client)
    }

    /// User and system time of the process so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Its own name server, started with the first node and left behind by it.
        let mut names = Command::new("epmd");
        names.args(["-port", &self.names.to_string(), "-kill"]);
        names.env("ERL_EPMD_RELAXED_COMMAND_CHECK", "true");
        names.stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
    }
}
