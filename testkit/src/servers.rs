//! Real database servers, each in a folder of its own on a free port, that end with their handle.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::stack::free_port;
use crate::wait::within;

/// PostgreSQL of Debian's package, durable as it comes; texts are ordered by a language, not by bytes.
pub struct Postgres(Server);

/// MariaDB of Debian's package, durable as it comes.
pub struct MariaDb(Server);

/// A kind of database that rows can be in.
pub enum Database {
    /// In the process that asks; no server.
    Embedded,
    Postgres(Postgres),
    MariaDb(MariaDb),
}

struct Server {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
    port: u16,
    /// The account under which a server runs that refuses to be root.
    account: Option<u32>,
}

const READY_WITHIN: Duration = Duration::from_mins(1);
const PASSWORD: &str = "a secret";

impl Postgres {
    pub fn start() -> Result<Self> {
        let bin = newest("/usr/lib/postgresql")?.join("bin");
        let folder = tempfile::tempdir()?;
        let account = if rustix::process::getuid().is_root() {
            let account = account("postgres")?;
            std::os::unix::fs::chown(folder.path(), Some(account), None)?;
            Some(account)
        } else {
            None
        };
        let data = folder.path().join("data").display().to_string();
        let words = folder.path().join("password");
        fs::write(&words, PASSWORD)?;
        if let Some(account) = account {
            std::os::unix::fs::chown(&words, Some(account), None)?;
        }
        let words = format!("--pwfile={}", words.display());
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["-D", &data, "-U", "madang", &words, "-A", "scram-sha-256", "--no-sync"]);
        initdb.args(["-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"]);
        done(initdb, account, folder.path()).context("make a PostgreSQL database")?;
        let port = free_port()?;
        let number = port.to_string();
        let arguments = ["-D", &data, "-p", &number, "-c", "listen_addresses=127.0.0.1"];
        let settings = ["-c", "unix_socket_directories=", "-c", "max_connections=300"];
        let arguments = arguments.into_iter().chain(settings).map(str::to_owned).collect();
        let program = bin.join("postgres");
        let server = Server::start(program, arguments, folder, (port, account))?;
        let server = Self(server);
        within(READY_WITHIN, "PostgreSQL", || Ok(server.sql("postgres", "SELECT 1").ok()))?;
        Ok(server)
    }

    /// Makes an empty database and gives its address.
    pub fn database(&self, name: &str) -> Result<String> {
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(name))
    }

    pub fn url(&self, name: &str) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!("postgres://madang:{password}@127.0.0.1:{}/{name}", self.0.port)
    }

    /// What psql prints for the statement.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let port = self.0.port.to_string();
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-U", "madang", "-p", &port, "-d", database]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-qAtXc", sql]).env("PGPASSWORD", PASSWORD);
        output(psql)
    }

    pub fn pid(&self) -> u32 {
        self.0.child.id()
    }

    /// Ends it as a crash does, and starts it again.
    pub fn crash(&mut self) -> Result<()> {
        self.0.crash()?;
        within(READY_WITHIN, "PostgreSQL", || {
            self.0.revive()?;
            Ok(self.sql("postgres", "SELECT 1").ok())
        })?;
        Ok(())
    }
}

impl MariaDb {
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = format!("--datadir={}", folder.path().join("data").display());
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", &data, "--skip-test-db"]);
        install.arg("--auth-root-authentication-method=normal");
        done(install, None, folder.path()).context("make a MariaDB database")?;
        let init = folder.path().join("init.sql");
        let who = "madang@'%'";
        fs::write(
            &init,
            format!(
                "CREATE USER IF NOT EXISTS {who} IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {who};\n"
            ),
        )?;
        let port = free_port()?;
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            data,
            format!("--port={port}"),
            format!("--socket={}", folder.path().join("socket").display()),
            format!("--init-file={}", init.display()),
            "--bind-address=127.0.0.1".into(),
            "--skip-name-resolve".into(),
            "--max-connections=300".into(),
            "--innodb-buffer-pool-size=256M".into(),
        ];
        if rustix::process::getuid().is_root() {
            arguments.push("--user=root".into());
        }
        let program = "/usr/sbin/mariadbd".into();
        let server = Self(Server::start(program, arguments, folder, (port, None))?);
        within(READY_WITHIN, "MariaDB", || Ok(server.sql("SELECT 1").ok()))?;
        Ok(server)
    }

    /// Makes an empty database and gives its address.
    pub fn database(&self, name: &str) -> Result<String> {
        self.sql(&format!("CREATE DATABASE {name}"))?;
        Ok(self.url(name))
    }

    pub fn url(&self, name: &str) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!("mysql://madang:{password}@127.0.0.1:{}/{name}", self.0.port)
    }

    /// What the client prints for the statement.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let port = format!("-P{}", self.0.port);
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-h127.0.0.1", &port, "-umadang", "-BN", "-e", sql]);
        client.env("MYSQL_PWD", PASSWORD);
        output(client)
    }

    pub fn pid(&self) -> u32 {
        self.0.child.id()
    }

    /// Ends it as a crash does, and starts it again.
    pub fn crash(&mut self) -> Result<()> {
        self.0.crash()?;
        within(READY_WITHIN, "MariaDB", || {
            self.0.revive()?;
            Ok(self.sql("SELECT 1").ok())
        })?;
        Ok(())
    }
}

impl Database {
    pub fn postgres() -> Result<Self> {
        Ok(Self::Postgres(Postgres::start()?))
    }

    pub fn mariadb() -> Result<Self> {
        Ok(Self::MariaDb(MariaDb::start()?))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
            Self::MariaDb(_) => "MariaDB",
        }
    }

    /// Makes an empty database and gives its address, which is empty for the embedded one.
    pub fn make(&self, name: &str) -> Result<String> {
        match self {
            Self::Embedded => Ok(String::new()),
            Self::Postgres(server) => server.database(name),
            Self::MariaDb(server) => server.database(name),
        }
    }

    /// Cuts every connection to a database.
    pub fn cut(&self, name: &str) -> Result<()> {
        match self {
            Self::Embedded => bail!("the embedded database has no connections"),
            Self::Postgres(server) => {
                let cut = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
                );
                server.sql("postgres", &cut)?;
            }
            Self::MariaDb(server) => {
                let list =
                    format!("SELECT id FROM information_schema.processlist WHERE db = '{name}'");
                for id in server.sql(&list)?.lines() {
                    // It may have gone by itself.
                    server.sql(&format!("KILL {id}")).ok();
                }
            }
        }
        Ok(())
    }

    /// Kills the server and starts it again on its folder.
    pub fn crash(&mut self) -> Result<()> {
        match self {
            Self::Embedded => bail!("the embedded database ends with its process"),
            Self::Postgres(server) => server.crash(),
            Self::MariaDb(server) => server.crash(),
        }
    }
}

impl Server {
    fn start(
        program: PathBuf,
        arguments: Vec<String>,
        folder: TempDir,
        (port, account): (u16, Option<u32>),
    ) -> Result<Self> {
        let child = spawn(&program, &arguments, folder.path(), account)?;
        Ok(Self { child, program, arguments, folder, port, account })
    }

    fn crash(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again if it has ended: a server refuses to start while children of the killed one live.
    fn revive(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            self.child = spawn(&self.program, &self.arguments, self.folder.path(), self.account)?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // The quick end of both: no wait for clients, everything on disk.
            rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        }
        let ended = within(Duration::from_secs(10), "its end", || Ok(self.child.try_wait()?));
        if ended.is_err() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn spawn(
    program: &Path,
    arguments: &[String],
    folder: &Path,
    account: Option<u32>,
) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(account) = account {
        command.uid(account).gid(account);
    }
    command.spawn().with_context(|| format!("start {}", program.display()))
}

fn done(mut command: Command, account: Option<u32>, folder: &Path) -> Result<()> {
    if let Some(account) = account {
        command.uid(account).gid(account);
    }
    command.current_dir(folder);
    output(command).map(drop)
}

fn output(mut command: Command) -> Result<String> {
    let ran = command.stdin(Stdio::null()).output();
    let ran = ran.with_context(|| format!("start {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&ran.stdout).trim_end().to_owned();
    ensure!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    Ok(said)
}

fn newest(folder: &str) -> Result<PathBuf> {
    let found = fs::read_dir(folder).with_context(|| format!("no {folder}: install postgresql"))?;
    let mut found: Vec<PathBuf> = found.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found.pop().with_context(|| format!("{folder} is empty: install postgresql"))
}

/// The number of an account that a package made.
fn account(name: &str) -> Result<u32> {
    let accounts = fs::read_to_string("/etc/passwd")?;
    let found = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    found.with_context(|| format!("no account {name}"))
}
