use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// Where the rows are and how much they may take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The embedded database's file; its folder is made when missing.
    pub path: PathBuf,
    /// Reads that run at the same time; 0 takes one per core, between 2 and 4.
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

impl Default for Config {
    fn default() -> Self {
        Self {
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
            ("writes_queue_max", self.writes_queue_max),
            ("reads_queue_max", self.reads_queue_max),
            ("group_max", self.group_max),
            ("rows_max", self.rows_max),
            ("statements_kept_max", self.statements_kept_max),
            ("event_bytes_max", self.event_bytes_max),
            ("relay_batch_max", self.relay_batch_max),
            ("handler_batch_max", self.handler_batch_max),
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
        ];
        for (name, value) in times {
            if value.is_zero() {
                return Err(Error::Config(format!("{name} must be longer than nothing")));
            }
        }
        if self.path.file_name().is_none() {
            return Err(Error::Config(format!("path {} names no file", self.path.display())));
        }
        if self.wal_bytes_max < 1 << 20 {
            return Err(Error::Config("wal_bytes_max must be at least 1 MiB".into()));
        }
        Ok(())
    }

    pub(crate) fn readers(&self) -> usize {
        if self.readers > 0 {
            return self.readers;
        }
        std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
    }
}
