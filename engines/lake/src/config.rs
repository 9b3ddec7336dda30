use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// Where the lake lives and how much it may use.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder that holds one folder per organisation, and the spill files of running queries.
    pub dir: PathBuf,
    /// How long an accepted row waits at most before it is committed to Delta.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub flush_interval: Duration,
    /// As many waiting rows are committed at once, before the interval is over.
    pub flush_rows: usize,
    /// With as many rows waiting, an append waits for the next commit.
    pub tail_rows_max: usize,
    /// Tables that may be open at once.
    pub tables_max: usize,
    /// Keys that one identity look-up may ask for.
    pub existing_keys_max: usize,
    /// After as many commits, days with many small files are compacted.
    pub compact_commits: usize,
    /// A day with as many small files is worth compacting.
    pub compact_files_min: usize,
    /// Files below this size are small; compaction makes files of about this size.
    pub compact_file_bytes: u64,
    /// A file that compaction replaced is kept this long, for queries that still read it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub file_retention: Duration,
    /// Commits are kept in Delta's log this long.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub log_retention: Duration,
    /// Queries that may run at once; one more is refused.
    pub queries_max: usize,
    /// Threads that queries run on, at low priority, started with the first query.
    pub query_threads: usize,
    /// Memory of all running queries together; beyond it they spill or fail.
    pub query_memory_bytes_max: usize,
    /// Disk space that running queries may spill to.
    pub query_spill_bytes_max: u64,
    /// A query that runs longer is stopped.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub query_time_max: Duration,
    /// Length of the SQL text.
    pub query_text_bytes_max: usize,
    /// Values that one call of a function which makes large results may make.
    pub function_values_max: usize,
    /// An answer is cut after as many rows.
    pub rows_max: usize,
    /// An answer is cut after as many bytes, in memory and in the form that is sent.
    pub response_bytes_max: usize,
    /// Memory for the footers of files that queries have read.
    pub metadata_cache_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("lake"),
            flush_interval: Duration::from_secs(5),
            flush_rows: 1_000_000,
            tail_rows_max: 2_000_000,
            tables_max: 4_000,
            existing_keys_max: 100_000,
            compact_commits: 64,
            compact_files_min: 8,
            compact_file_bytes: 64 << 20,
            file_retention: Duration::from_hours(1),
            log_retention: Duration::from_hours(1),
            queries_max: 8,
            query_threads: 2,
            query_memory_bytes_max: 256 << 20,
            query_spill_bytes_max: 4 << 30,
            query_time_max: Duration::from_secs(30),
            query_text_bytes_max: 64 << 10,
            function_values_max: 4 << 20,
            rows_max: 100_000,
            response_bytes_max: 32 << 20,
            metadata_cache_bytes_max: 16 << 20,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = [
            ("flush_rows", self.flush_rows),
            ("tail_rows_max", self.tail_rows_max),
            ("tables_max", self.tables_max),
            ("compact_commits", self.compact_commits),
            ("queries_max", self.queries_max),
            ("query_threads", self.query_threads),
            ("query_memory_bytes_max", self.query_memory_bytes_max),
            ("rows_max", self.rows_max),
            ("response_bytes_max", self.response_bytes_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Invalid(format!("lake.{name} must not be 0")));
        }
        if self.compact_files_min < 2 {
            return Err(Error::Invalid("lake.compact_files_min must be at least 2".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_text_that_people_write() {
        let config: Config = serde_json::from_str(r#"{"flush_interval": "100ms"}"#).unwrap();
        assert_eq!(config.flush_interval, Duration::from_millis(100));
    }
}
