use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// Where the rows are and how much they may take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the rows are: empty for the embedded database, else `postgres://user:password@host/database`,
    /// `mysql://…` or `mariadb://…`. TLS is demanded of another machine unless the address says otherwise
    /// (`sslmode=disable`, `require_ssl=false`).
    pub url: Address,
    /// Root certificates (PEM) to trust besides this machine's.
    pub tls_roots: Option<PathBuf>,
    /// How long opening one connection may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect_wait_max: Duration,
    /// Connections that write to a database over the network.
    pub writers: usize,
    /// The embedded database's file; its folder is made when missing.
    pub path: PathBuf,
    /// Reads that run at the same time; 0 takes one per core, between 2 and 4, and 8 over the network.
    pub readers: usize,
    /// Writes that may wait for the writer.
    pub writes_queue_max: usize,
    /// Reads that may wait for a reader.
    pub reads_queue_max: usize,
    /// How long a caller waits for a place in a full queue.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub queue_wait_max: Duration,
    /// Writes that share one commit.
    pub group_max: usize,
    /// A group that has run this long is committed with what it has.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub group_time_max: Duration,
    /// How long one write closure may run; everybody else's writes wait for it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub write_time_max: Duration,
    /// How long one read closure may run.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub read_time_max: Duration,
    /// How long the migrations of one room may run.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub migration_time_max: Duration,
    /// A statement that takes longer is logged with the place that asked for it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub statement_slow: Duration,
    /// A closure that keeps its connection for longer is named while it still does.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub held_told_after: Duration,
    /// A reader whose closure runs no statement, and has not ended after so long, gets another reader in its place.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub reader_replaced_after: Duration,
    /// Readers with closures that do not end, beside those that serve; beyond it reads are refused.
    pub readers_stuck_max: usize,
    /// How long closing waits for closures that do not end.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub close_time_max: Duration,
    /// Rows that one query may give.
    pub rows_max: usize,
    /// Prepared statements kept per connection.
    pub statements_kept_max: usize,
    /// Memory for pages: half for the writer, half shared by the readers.
    pub cache_bytes: u64,
    /// How large the database may grow; 0 leaves it to the disk.
    pub database_bytes_max: u64,
    /// The write-ahead log's size above which a commit may wait for its emptying.
    pub wal_bytes_max: u64,
    /// How long a start waits for a former server that still holds the database.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub lock_wait_max: Duration,
    /// Events that may wait for the relay; beyond it `emit` is refused.
    pub outbox_max: u64,
    /// The largest payload of one event.
    pub event_bytes_max: usize,
    /// Events that the relay moves at once.
    pub relay_batch_max: usize,
    /// Events that a handler handles in one transaction, while all of them succeed.
    pub handler_batch_max: usize,
    /// Commands that may wait to be carried out; beyond it `send` is refused.
    pub commands_max: u64,
    /// The largest payload of one command.
    pub command_bytes_max: usize,
    /// Commands that one server carries out at the same time.
    pub commands_running_max: usize,
    /// How long the outside part of one attempt at a command may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub command_time_max: Duration,
    /// Attempts until a command is a dead letter; with the other defaults they spread over half a day.
    pub command_attempts_max: u32,
    /// The pause after a command's first attempt; it doubles with each further one, and up to half of it is chance.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub command_back_off_min: Duration,
    /// The longest pause between two attempts at a command.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub command_back_off_max: Duration,
    /// Dead letters that are replayed or discarded by one call.
    pub replay_max: usize,
    /// How long a handler remembers the events that it handled, to know a repeated one.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub handled_kept: Duration,
    /// How long it is remembered that a deed was done under its key.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub claims_kept: Duration,
    /// Deeds of one organisation that are remembered at once; beyond it new ones are refused.
    pub claims_max: u64,
    /// How long after its end a lease is left alone: clocks of two servers may differ by this much.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub lease_grace: Duration,
    /// How long a relay that stopped without a word keeps others from its place.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub relay_lease: Duration,
}

/// The address of a database. It is shown without its password.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Address(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Postgres,
    MySql,
}

impl Address {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Whether the embedded database is meant.
    pub fn is_embedded(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn scheme(&self) -> Result<Option<Scheme>, Error> {
        match self.0.split_once("://").map(|(scheme, _)| scheme) {
            None if self.0.is_empty() => Ok(None),
            Some("postgres" | "postgresql") => Ok(Some(Scheme::Postgres)),
            Some("mysql" | "mariadb") => Ok(Some(Scheme::MySql)),
            _ => Err(Error::Config(format!(
                "url {self} begins with none of postgres://, mysql:// and mariadb://"
            ))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str(&self.0) };
        match rest.rsplit_once('@') {
            None => f.write_str(&self.0),
            Some((who, host)) => match who.split_once(':') {
                None => f.write_str(&self.0),
                Some((user, _)) => write!(f, "{scheme}://{user}:…@{host}"),
            },
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Address::default(),
            tls_roots: None,
            connect_wait_max: Duration::from_secs(5),
            writers: 16,
            path: PathBuf::from("madang-data/relational/rows.db"),
            readers: 0,
            writes_queue_max: 4_096,
            reads_queue_max: 4_096,
            queue_wait_max: Duration::from_secs(5),
            group_max: 1_024,
            group_time_max: Duration::from_millis(50),
            write_time_max: Duration::from_secs(5),
            read_time_max: Duration::from_secs(30),
            migration_time_max: Duration::from_mins(10),
            statement_slow: Duration::from_millis(200),
            held_told_after: Duration::from_secs(1),
            reader_replaced_after: Duration::from_secs(3),
            readers_stuck_max: 4,
            close_time_max: Duration::from_secs(5),
            rows_max: 100_000,
            statements_kept_max: 256,
            cache_bytes: 64 << 20,
            database_bytes_max: 0,
            wal_bytes_max: 64 << 20,
            lock_wait_max: Duration::from_secs(2),
            outbox_max: 1_000_000,
            event_bytes_max: 256 << 10,
            relay_batch_max: 512,
            handler_batch_max: 64,
            commands_max: 100_000,
            command_bytes_max: 256 << 10,
            commands_running_max: 32,
            command_time_max: Duration::from_secs(30),
            command_attempts_max: 25,
            command_back_off_min: Duration::from_secs(1),
            command_back_off_max: Duration::from_hours(1),
            replay_max: 1_000,
            handled_kept: Duration::from_hours(7 * 24),
            claims_kept: Duration::from_hours(24),
            claims_max: 100_000,
            lease_grace: Duration::from_secs(2),
            relay_lease: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Says what is wrong, by the field's name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = [
            ("writers", self.writers),
            ("writes_queue_max", self.writes_queue_max),
            ("reads_queue_max", self.reads_queue_max),
            ("group_max", self.group_max),
            ("rows_max", self.rows_max),
            ("statements_kept_max", self.statements_kept_max),
            ("event_bytes_max", self.event_bytes_max),
            ("relay_batch_max", self.relay_batch_max),
            ("handler_batch_max", self.handler_batch_max),
            ("command_bytes_max", self.command_bytes_max),
            ("commands_running_max", self.commands_running_max),
            ("command_attempts_max", self.command_attempts_max as usize),
            ("replay_max", self.replay_max),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::Config(format!("{name} must be at least 1")));
            }
        }
        let times = [
            ("write_time_max", self.write_time_max),
            ("read_time_max", self.read_time_max),
            ("migration_time_max", self.migration_time_max),
            ("relay_lease", self.relay_lease),
            ("connect_wait_max", self.connect_wait_max),
            ("command_time_max", self.command_time_max),
            ("command_back_off_min", self.command_back_off_min),
        ];
        for (name, value) in times {
            if value.is_zero() {
                return Err(Error::Config(format!("{name} must be longer than nothing")));
            }
        }
        self.url.scheme()?;
        if self.command_back_off_max < self.command_back_off_min {
            let text = "command_back_off_max is shorter than command_back_off_min";
            return Err(Error::Config(text.into()));
        }
        if self.path.file_name().is_none() {
            return Err(Error::Config(format!("path {} names no file", self.path.display())));
        }
        if self.wal_bytes_max < 1 << 20 {
            return Err(Error::Config("wal_bytes_max must be at least 1 MiB".into()));
        }
        Ok(())
    }

    pub(crate) fn remote_readers(&self) -> usize {
        if self.readers > 0 { self.readers } else { 8 }
    }

    pub(crate) fn readers(&self) -> usize {
        if self.readers > 0 {
            return self.readers;
        }
        std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
    }
}
