use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};

use crate::Error;

/// `[jobs]`: how many run at a time, how long they are remembered, and when a worker is taken for dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Handlers that one server runs at the same time.
    pub running_max: usize,
    /// Jobs that one commit gives to a worker.
    pub claim_max: usize,
    /// Jobs that wait in a worker's memory for a free handler; only as many as begin within `buffer_time`.
    pub buffer_max: usize,
    /// How far ahead a worker takes light jobs, so that handlers never wait for the database.
    #[serde(with = "friendly")]
    pub buffer_time: Duration,
    /// How long before its time a delayed job is given to a worker, which begins it on time.
    #[serde(with = "friendly")]
    pub ahead: Duration,
    /// Delayed jobs that a worker holds before their time.
    pub ahead_max: usize,
    /// Bytes of payloads in a worker's memory above which it takes no more.
    pub buffer_bytes_max: usize,
    /// Organisations, each with its queues, that one commit takes jobs of; the next commit goes on behind them.
    pub lanes_max: usize,
    /// Ends of attempts that one commit writes.
    pub ends_max: usize,
    /// A worker that was not heard of for so long is taken for dead, and others take its jobs.
    #[serde(with = "friendly")]
    pub lease: Duration,
    /// How often a server looks for jobs that another one enqueued.
    #[serde(with = "friendly")]
    pub look_every: Duration,
    /// How long a cancelled job may take to end by itself before it is ended.
    #[serde(with = "friendly")]
    pub cancel_time_max: Duration,
    /// How long a stopping server waits for handlers; what they have not done is done again.
    #[serde(with = "friendly")]
    pub stop_time_max: Duration,
    /// Jobs of one organisation that may wait; checked approximately.
    pub unfinished_max: u64,
    /// Bytes of one payload.
    pub payload_bytes_max: usize,
    /// Jobs enqueued by one call.
    pub enqueue_max: usize,
    /// Tasks of one graph.
    pub tasks_max: usize,
    /// Lines that one attempt may note; the rest is counted.
    pub log_lines_max: usize,
    /// Characters of one such line.
    pub log_line_chars_max: usize,
    /// Jobs for times that were missed, which one schedule makes at once.
    pub catch_up_max: usize,
    /// A time that is late by more was missed.
    #[serde(with = "friendly")]
    pub late_max: Duration,
    /// Schedules of one organisation.
    pub schedules_max: u64,
    /// Days until a job that was done, cancelled or skipped is forgotten, its key too.
    pub keep_days: u32,
    /// Days until a dead or discarded job is forgotten.
    pub keep_dead_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            running_max: 64,
            claim_max: 512,
            buffer_max: 2_048,
            buffer_time: Duration::from_millis(200),
            ahead: Duration::from_secs(5),
            ahead_max: 100_000,
            buffer_bytes_max: 64 << 20,
            lanes_max: 64,
            ends_max: 1_024,
            lease: Duration::from_secs(15),
            look_every: Duration::from_millis(200),
            cancel_time_max: Duration::from_secs(5),
            stop_time_max: Duration::from_secs(5),
            unfinished_max: 2_000_000,
            payload_bytes_max: 256 << 10,
            enqueue_max: 10_000,
            tasks_max: 1_000,
            log_lines_max: 100,
            log_line_chars_max: 500,
            catch_up_max: 100,
            late_max: Duration::from_mins(1),
            schedules_max: 1_000,
            keep_days: 7,
            keep_dead_days: 30,
        }
    }
}

impl Config {
    /// Says what is wrong with the configuration, by its key.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, why: &str| Err(Error::Config(format!("jobs.{key} {why}")));
        let at_least_one = [
            ("running_max", self.running_max as u64),
            ("claim_max", self.claim_max as u64),
            ("buffer_max", self.buffer_max as u64),
            ("buffer_bytes_max", self.buffer_bytes_max as u64),
            ("lanes_max", self.lanes_max as u64),
            ("ends_max", self.ends_max as u64),
            ("unfinished_max", self.unfinished_max),
            ("payload_bytes_max", self.payload_bytes_max as u64),
            ("enqueue_max", self.enqueue_max as u64),
            ("tasks_max", self.tasks_max as u64),
            ("log_line_chars_max", self.log_line_chars_max as u64),
            ("catch_up_max", self.catch_up_max as u64),
            ("schedules_max", self.schedules_max),
            ("keep_days", u64::from(self.keep_days)),
            ("keep_dead_days", u64::from(self.keep_dead_days)),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return wrong(key, "must be at least 1");
        }
        // More parameters than a statement can have.
        for (key, value) in [("claim_max", self.claim_max), ("ends_max", self.ends_max)] {
            if value > 10_000 {
                return wrong(key, "must be at most 10000");
            }
        }
        if self.lanes_max > 256 {
            return wrong("lanes_max", "must be at most 256");
        }
        for (key, time) in [("lease", self.lease), ("look_every", self.look_every)] {
            if time < Duration::from_millis(10) {
                return wrong(key, "must be at least 10 ms");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused_by_the_name_of_its_key() {
        Config::default().check().unwrap();
        for (text, key) in [
            ("running_max=0", "jobs.running_max"),
            ("keep_days=0", "jobs.keep_days"),
            ("claim_max=20000", "jobs.claim_max"),
            ("lanes_max=1000", "jobs.lanes_max"),
            ("lease='1ms'", "jobs.lease"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(toml::from_str::<Config>("workers=3").is_err());
    }
}
