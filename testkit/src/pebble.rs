use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::stack::free_port;
use crate::wait::within;

/// Pebble of Debian's package: a certificate authority that speaks ACME and looks whether names lead to a door, as a public one does. Every name
/// leads to this machine. It ends with its handle.
pub struct Pebble {
    children: Vec<Child>,
    folder: TempDir,
    directory: String,
    authority: String,
    management: u16,
}

const READY_WITHIN: Duration = Duration::from_secs(20);

impl Pebble {
    /// At this port it is asked, where it shows one of these certificates; at the ports of the doors (HTTP, HTTPS) it looks. What it issues lives so long.
    /// It calls no good nonce bad: by chance, as it does when left alone, would fail a test now and then.
    pub fn start(
        port: u16,
        certificates: &Certificates,
        doors: (u16, u16),
        life: Duration,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (names, management) = (free_port()?, free_port()?);
        let config = folder.path().join("pebble.json");
        let settings = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificates.path("chain.pem"),
            "privateKey": certificates.path("key.pem"),
            "httpPort": doors.0,
            "tlsPort": doors.1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": life.as_secs(),
        }});
        fs::write(&config, settings.to_string())?;
        let mut resolver = Command::new("pebble-challtestsrv");
        resolver.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        resolver.args(["-dns01", &format!("127.0.0.1:{names}")]);
        resolver.args(["-management", &format!("127.0.0.1:{}", free_port()?)]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(&config);
        pebble.args(["-dnsserver", &format!("127.0.0.1:{names}")]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        pebble.env("PEBBLE_WFE_NONCEREJECT", "0");
        let mut started = Self {
            children: vec![],
            folder,
            directory: format!("https://127.0.0.1:{port}/dir"),
            authority: certificates.path("authority.pem"),
            management,
        };
        for (mut command, log) in [(resolver, "names.log"), (pebble, "pebble.log")] {
            let log = fs::File::create(started.folder.path().join(log))?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let name = command.get_program().display().to_string();
            started.children.push(command.spawn().with_context(|| format!("start {name}"))?);
        }
        within(READY_WITHIN, "Pebble", || Ok(started.root().ok()))?;
        Ok(started)
    }

    /// Where it says what it offers.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The authority of the certificates that it issues, in PEM. It is another one after each start.
    pub fn root(&self) -> Result<String> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let output = Command::new("curl")
            .args(["-sf", "--cacert", &self.authority, &url])
            .output()
            .context("start curl")?;
        ensure!(output.status.success(), "Pebble does not answer: {}", self.log());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What it told.
    pub fn log(&self) -> String {
        let path: &Path = self.folder.path();
        fs::read_to_string(path.join("pebble.log")).unwrap_or_default()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
