use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Address;

/// When a change is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Before it is acknowledged; what comes together shares one fsync.
    #[default]
    Always,
    /// Within about a second; a power cut loses what was acknowledged since.
    Everysec,
    /// When the system writes it; kill -9 loses nothing, a power cut may.
    Off,
    /// Never: nothing is written, and what is held is gone when the process ends, or when an error or the end of a script leaves
    /// it half changed. For caches.
    Memory,
}

impl Durability {
    /// Whether there is a log.
    pub(crate) fn is_kept(self) -> bool {
        self != Self::Memory
    }

    pub(crate) fn redis_name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Everysec => "everysec",
            Self::Off | Self::Memory => "no",
        }
    }

    pub(crate) fn of_redis(name: &str) -> Option<Self> {
        [Self::Always, Self::Everysec, Self::Off]
            .into_iter()
            .find(|durability| durability.redis_name().eq_ignore_ascii_case(name))
    }
}

/// The limits of the store.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the keys are: empty for the store of this process, else `redis://…`, `redis-cluster://…` or
    /// `redis-sentinel://…`, with `rediss` by TLS.
    pub url: Address,
    /// Root certificates (PEM) that are trusted in place of this machine's.
    pub tls_roots: Option<PathBuf>,
    /// What keys on another server begin with, before the organisation.
    pub prefix: String,
    /// How long opening a connection to another server may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect_wait_max: Duration,
    /// How long another server may take for an answer.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub reply_wait_max: Duration,
    /// After a server could not be reached, for so long nothing is tried and commands fail at once.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub reconnect_after: Duration,
    /// Commands of rooms of this process that wait for their answers; more are refused.
    pub requests_max: usize,
    /// When a change is on disk: `always`, `everysec`, `off`, or with `memory` never.
    pub durability: Durability,
    /// Open connections, in all organisations together.
    pub connections_max: usize,
    /// Bytes of keys and values; 0 is no limit. At the limit keys are evicted, or growing commands refused.
    pub memory_bytes_max: usize,
    /// What goes when memory is full, by Redis's names: `noeviction`, `allkeys-lru`, `volatile-ttl`, …
    pub eviction: String,
    /// Arguments of one command.
    pub arguments_max: usize,
    /// Bytes of one argument.
    pub argument_bytes_max: usize,
    /// Bytes of requests of one client that wait to be run.
    pub request_bytes_max: usize,
    /// Bytes that wait to be sent to one client; one that takes less is closed.
    pub output_bytes_max: usize,
    /// A client that says nothing for so long is closed, unless it waits or listens; 0 is never.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idle_max: Duration,
    /// After so much silence a peer is asked whether it is still there; 0 is never.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keepalive: Duration,
    /// From this duration on a command is in the slow log.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub slow_min: Duration,
    /// Entries of the slow log.
    pub slow_entries_max: usize,
    /// The log is rewritten when it holds so many times what the data needs.
    pub rewrite_factor: u64,
    /// A log shorter than this is not rewritten.
    pub rewrite_bytes_min: u64,
    /// Expired keys that are removed in one turn.
    pub expired_per_turn_max: usize,
    /// Others are told that the store is busy when a script takes longer; 0 is never.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub script_busy_after: Duration,
    /// A script that takes longer is ended, and what it wrote is undone.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub script_time_max: Duration,
    /// The code of a library that takes longer to say which functions it has is ended.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub function_load_time_max: Duration,
    /// Bytes of Lua's memory, for each organisation.
    pub script_memory_bytes_max: usize,
    /// Bytes by which one script may grow the data, and those of its changes in the log; one that goes beyond is ended, and
    /// what it wrote is undone.
    pub script_write_bytes_max: usize,
    /// Keys that were read by clients who want to be told of their change; more are forgotten, which is told.
    pub tracked_keys_max: usize,
    /// Scripts that are known by their names, and libraries of functions, of each organisation.
    pub scripts_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Address::default(),
            tls_roots: None,
            prefix: "madang".into(),
            connect_wait_max: Duration::from_secs(5),
            reply_wait_max: Duration::from_secs(5),
            reconnect_after: Duration::from_millis(500),
            requests_max: 10_000,
            durability: Durability::Always,
            connections_max: 10_000,
            memory_bytes_max: 0,
            eviction: "noeviction".into(),
            arguments_max: 1 << 20,
            argument_bytes_max: 512 << 20,
            request_bytes_max: 1 << 30,
            output_bytes_max: 1 << 30,
            idle_max: Duration::ZERO,
            keepalive: Duration::from_mins(5),
            slow_min: Duration::from_millis(10),
            slow_entries_max: 128,
            rewrite_factor: 2,
            rewrite_bytes_min: 256 << 20,
            expired_per_turn_max: 500,
            script_busy_after: Duration::from_secs(5),
            script_time_max: Duration::from_secs(30),
            function_load_time_max: Duration::from_millis(500),
            script_memory_bytes_max: 64 << 20,
            script_write_bytes_max: 1 << 30,
            tracked_keys_max: 1_000_000,
            scripts_max: 10_000,
        }
    }
}

impl Config {
    /// Says which limit makes no sense.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let positive = [
            (self.connections_max, "connections_max"),
            (self.arguments_max, "arguments_max"),
            (self.argument_bytes_max, "argument_bytes_max"),
            (self.request_bytes_max, "request_bytes_max"),
            (self.output_bytes_max, "output_bytes_max"),
            (self.expired_per_turn_max, "expired_per_turn_max"),
            (self.scripts_max, "scripts_max"),
            (self.script_write_bytes_max, "script_write_bytes_max"),
            (self.requests_max, "requests_max"),
        ];
        if let Some((_, name)) = positive.iter().find(|(value, _)| *value == 0) {
            return Some(name);
        }
        let waits =
            [(self.connect_wait_max, "connect_wait_max"), (self.reply_wait_max, "reply_wait_max")];
        if let Some((_, name)) = waits.iter().find(|(wait, _)| wait.is_zero()) {
            return Some(name);
        }
        if self.prefix.contains(['{', '}', ':', '*', '?', '[', ']', '\\']) {
            return Some("prefix");
        }
        // Places in a request are counted in 32 bits.
        if self.argument_bytes_max > 1 << 30 || self.request_bytes_max > 2 << 30 {
            return Some("argument_bytes_max or request_bytes_max");
        }
        if self.rewrite_factor < 2 {
            return Some("rewrite_factor");
        }
        crate::settings::Policy::of(&self.eviction).is_none().then_some("eviction")
    }
}
