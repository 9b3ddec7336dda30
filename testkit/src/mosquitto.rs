use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::mqtt_client::MqttClient;
use crate::stack::{cpu_of, free_port};
use crate::wait::within_every;

/// Mosquitto of Debian's package, on a port of its own, open to everybody and with nothing on disk.
pub struct Mosquitto {
    child: Child,
    folder: TempDir,
    port: u16,
}

const PROGRAM: &str = "/usr/sbin/mosquitto";

impl Mosquitto {
    /// `settings` are lines of its configuration.
    pub fn start(settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let file = folder.path().join("mosquitto.conf");
        fs::write(
            &file,
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n{settings}\n"
            ),
        )?;
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(PROGRAM)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {PROGRAM}"))?;
        let mut server = Self { child, folder, port };
        within_every(Duration::from_millis(20), Duration::from_mins(1), "Mosquitto", || {
            let log = server.folder.path().join("log");
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{}", fs::read_to_string(log).unwrap_or_default());
            Ok(MqttClient::connect(&server.address(), "first", "nobody", "nothing").ok().map(drop))
        })?;
        Ok(server)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// User and system time of the process so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
