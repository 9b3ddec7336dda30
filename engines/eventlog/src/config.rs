use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// Limits and places; the defaults serve a small machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of the log; one process at a time.
    pub dir: PathBuf,
    /// A segment file is sealed before a batch would make it larger than this.
    pub segment_bytes: u64,
    /// How many partitions a new topic has; an existing one keeps its count.
    pub partitions: u32,
    /// How many appends and commits wait for the writer; further ones wait before they are queued.
    pub append_queue_max: usize,
    /// How many bytes of records wait for the writer; further ones wait before they are queued.
    pub append_queue_bytes_max: usize,
    /// How many bytes share one sync of the disk; no single append may be larger.
    pub group_bytes_max: usize,
    /// Small appends share a batch up to this size; a larger append has a batch of its own.
    pub batch_bytes_max: usize,
    /// The size of one record: key, value and headers.
    pub record_bytes_max: usize,
    /// How much one fetch reads, whatever it asks for; a single batch may be larger.
    pub fetch_bytes_max: usize,
    /// A segment's index has an entry for every so many bytes.
    pub index_interval_bytes: u64,
    /// How many topics there may be, over all organisations.
    pub topics_max: usize,
    /// How many files the writer keeps open.
    pub open_files_max: usize,
    /// How many positions of consumer groups there may be, over all organisations.
    pub group_positions_max: usize,
    /// So few positions of groups are never worth a rewrite of their file.
    pub group_rewrite_records_min: u64,
    /// Makes every sync take longer, for tests.
    #[serde(skip)]
    pub fsync_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("madang-data/log"),
            segment_bytes: 64 << 20,
            partitions: 1,
            append_queue_max: 4_096,
            append_queue_bytes_max: 64 << 20,
            group_bytes_max: 8 << 20,
            batch_bytes_max: 256 << 10,
            record_bytes_max: 1 << 20,
            fetch_bytes_max: 16 << 20,
            index_interval_bytes: 64 << 10,
            topics_max: 10_000,
            open_files_max: 256,
            group_positions_max: 100_000,
            group_rewrite_records_min: 10_000,
            fsync_delay: Duration::ZERO,
        }
    }
}

impl Config {
    /// What a partition of a topic may be numbered up to.
    const PARTITIONS_MAX: u32 = 1_024;
    /// Keeps every length in a batch within Kafka's 32 bits.
    const BYTES_MAX: usize = 1 << 30;

    pub(crate) fn check(&self) -> Result<(), Error> {
        let bytes = 1..=Self::BYTES_MAX;
        let wrong = [
            (self.segment_bytes == 0, "segment_bytes must be at least 1"),
            (
                !(1..=Self::PARTITIONS_MAX).contains(&self.partitions),
                "partitions must be between 1 and 1024",
            ),
            (self.append_queue_max == 0, "append_queue_max must be at least 1"),
            (
                !bytes.contains(&self.append_queue_bytes_max),
                "append_queue_bytes_max must be between 1 and 1 GiB",
            ),
            (!bytes.contains(&self.group_bytes_max), "group_bytes_max must be between 1 and 1 GiB"),
            (!bytes.contains(&self.batch_bytes_max), "batch_bytes_max must be between 1 and 1 GiB"),
            (self.record_bytes_max == 0, "record_bytes_max must be at least 1"),
            (!bytes.contains(&self.fetch_bytes_max), "fetch_bytes_max must be between 1 and 1 GiB"),
            (self.index_interval_bytes == 0, "index_interval_bytes must be at least 1"),
            (
                self.index_interval_bytes > Self::BYTES_MAX as u64,
                "index_interval_bytes must be at most 1 GiB",
            ),
            (self.topics_max == 0, "topics_max must be at least 1"),
            (self.open_files_max == 0, "open_files_max must be at least 1"),
        ];
        match wrong.iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, what)) => Err(Error::Config(what)),
            None => Ok(()),
        }
    }
}
