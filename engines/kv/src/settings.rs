//! What CONFIG GET and CONFIG SET know: Redis's names, of which some act, some are kept because they are only about
//! Redis's own inner forms, and all others are refused.

use std::collections::BTreeMap;

use crate::config::{Config, Durability};
use crate::notify::{self, Class};
use crate::store::glob;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Never,
    AllLru,
    AllLfu,
    AllRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

const POLICIES: &[(&str, Policy)] = &[
    ("noeviction", Policy::Never),
    ("allkeys-lru", Policy::AllLru),
    ("allkeys-lfu", Policy::AllLfu),
    ("allkeys-random", Policy::AllRandom),
    ("volatile-lru", Policy::VolatileLru),
    ("volatile-lfu", Policy::VolatileLfu),
    ("volatile-random", Policy::VolatileRandom),
    ("volatile-ttl", Policy::VolatileTtl),
];

impl Policy {
    pub(crate) fn of(name: &str) -> Option<Self> {
        POLICIES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, policy)| *policy)
    }

    pub(crate) fn name(self) -> &'static str {
        POLICIES.iter().find(|(_, policy)| *policy == self).map_or("noeviction", |(name, _)| name)
    }

    pub(crate) fn is_volatile(self) -> bool {
        matches!(
            self,
            Self::VolatileLru | Self::VolatileLfu | Self::VolatileRandom | Self::VolatileTtl
        )
    }

    pub(crate) fn is_lfu(self) -> bool {
        matches!(self, Self::AllLfu | Self::VolatileLfu)
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) clients_max: usize,
    pub(crate) memory_max: usize,
    pub(crate) policy: Policy,
    pub(crate) samples: usize,
    pub(crate) notify: Class,
    slow_micros: i64,
    pub(crate) slow_entries_max: usize,
    pub(crate) arguments_max: usize,
    pub(crate) argument_bytes_max: usize,
    pub(crate) query_bytes_max: usize,
    pub(crate) output_bytes_max: usize,
    /// Seconds after which a silent client is closed; 0 is never.
    pub(crate) idle_seconds_max: i64,
    /// Seconds of silence after which a peer is asked whether it is there; 0 is never. For new connections.
    pub(crate) keepalive_seconds: u64,
    pub(crate) durability: Durability,
    lfu_log_factor: u64,
    lfu_decay_minutes: u32,
    pub(crate) hash_packed: (usize, usize),
    pub(crate) sorted_packed: (usize, usize),
    pub(crate) numbers_max: usize,
    /// Bytes and entries of a stream's node; 0 is no limit.
    pub(crate) stream_node: (usize, usize),
    /// Bytes of a HyperLogLog in its sparse form.
    pub(crate) sparse_bytes_max: usize,
    pub(crate) scripts: crate::script::Limits,
    /// Keys that clients are told about when they change.
    pub(crate) tracked_keys_max: usize,
    /// From how many milliseconds on LATENCY remembers what took long; 0 is never.
    pub(crate) latency_millis: i64,
    /// What waits to be run for clients and to be sent to them, all together.
    clients_share: Share,
    /// What is kept and shown only.
    kept: BTreeMap<&'static str, String>,
}

/// Names that are taken and shown and change nothing: they are about how Redis holds values inside, or about files
/// that are kept in another way here.
const KEPT: &[(&str, &str)] = &[
    ("activedefrag", "no"),
    ("active-expire-effort", "1"),
    ("close-on-replica-write", "yes"),
    ("key-load-delay", "0"),
    ("latency-tracking", "yes"),
    ("lazyfree-lazy-eviction", "no"),
    ("lazyfree-lazy-expire", "no"),
    ("lazyfree-lazy-server-del", "no"),
    ("lazyfree-lazy-user-del", "no"),
    ("lazyfree-lazy-user-flush", "no"),
    ("list-compress-depth", "0"),
    ("list-max-listpack-size", "-2"),
    ("list-max-ziplist-size", "-2"),
    ("min-replicas-to-write", "0"),
    ("rdb-key-save-delay", "0"),
    ("repl-backlog-size", "1048576"),
    ("repl-min-slaves-to-write", "0"),
    ("sanitize-dump-payload", "no"),
    ("save", ""),
];

/// Shown only to who asks by the whole name, as in Redis.
const HIDDEN: &[&str] = &["key-load-delay"];

/// A part of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// 0 is no limit.
    Bytes(usize),
    /// Of `maxmemory`.
    Percent(usize),
}

impl Share {
    fn of(value: &str) -> Result<Self, String> {
        let Some(percent) = value.strip_suffix('%') else { return memory(value).map(Self::Bytes) };
        match percent.parse() {
            Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
            Ok(_) => Err("percentage argument must be less or equal to 100".into()),
            Err(_) => Err("argument must be a memory or percent value".into()),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }
}

impl Settings {
    pub(crate) fn new(config: &Config) -> Self {
        let dead = (config.rewrite_factor - 1).saturating_mul(100);
        let log = [
            ("appendonly", if config.durability.is_kept() { "yes" } else { "no" }.to_owned()),
            ("auto-aof-rewrite-percentage", dead.to_string()),
            ("auto-aof-rewrite-min-size", config.rewrite_bytes_min.to_string()),
        ];
        let kept = KEPT.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Self {
            clients_max: config.connections_max,
            memory_max: config.memory_bytes_max,
            policy: Policy::of(&config.eviction).unwrap_or(Policy::Never),
            samples: 5,
            notify: 0,
            slow_micros: i64::try_from(config.slow_min.as_micros()).unwrap_or(i64::MAX),
            slow_entries_max: config.slow_entries_max,
            arguments_max: config.arguments_max,
            argument_bytes_max: config.argument_bytes_max,
            query_bytes_max: config.request_bytes_max,
            output_bytes_max: config.output_bytes_max,
            idle_seconds_max: i64::try_from(config.idle_max.as_secs()).unwrap_or(i64::MAX / 1_000),
            keepalive_seconds: config.keepalive.as_secs(),
            durability: config.durability,
            lfu_log_factor: 10,
            lfu_decay_minutes: 1,
            hash_packed: (128, 64),
            sorted_packed: (128, 64),
            numbers_max: 512,
            stream_node: (4_096, 100),
            sparse_bytes_max: 3_000,
            scripts: crate::script::Limits {
                busy_micros: micros(config.script_busy_after),
                micros: micros(config.script_time_max),
                load_micros: micros(config.function_load_time_max),
                memory_bytes: config.script_memory_bytes_max,
                write_bytes: config.script_write_bytes_max,
                count: config.scripts_max,
            },
            tracked_keys_max: config.tracked_keys_max,
            latency_millis: 0,
            clients_share: Share::Bytes(0),
            kept: kept.chain(log).collect(),
        }
    }

    /// What may wait for and from clients, all together; 0 is no limit.
    pub(crate) fn clients_bytes_max(&self) -> usize {
        match self.clients_share {
            Share::Bytes(bytes) => bytes,
            Share::Percent(percent) => self.memory_max / 100 * percent,
        }
    }

    pub(crate) fn is_slow(&self, micros: u64) -> bool {
        self.slow_micros >= 0
            && i64::try_from(micros).is_ok_and(|micros| micros >= self.slow_micros)
    }

    /// Whether also those commands are timed that are never slow.
    pub(crate) fn times_everything(&self) -> bool {
        (0..1_000).contains(&self.slow_micros)
    }

    /// The stamp after one more use: 16 bits of minutes, 8 bits of a counter that grows ever more slowly.
    pub(crate) fn counted(&self, stamp: u32, minutes: u32, random: u64) -> u32 {
        let count = u64::from(self.decayed(stamp, minutes));
        let base = count.saturating_sub(5);
        let odds = base * self.lfu_log_factor + 1;
        let grows = count < 255 && random.is_multiple_of(odds);
        minutes << 8 | (count + u64::from(grows)) as u32
    }

    pub(crate) fn decayed(&self, stamp: u32, minutes: u32) -> u32 {
        let passed = minutes.wrapping_sub(stamp >> 8) & 0xffff;
        let lost = passed.checked_div(self.lfu_decay_minutes).unwrap_or(0);
        (stamp & 0xff).saturating_sub(lost)
    }

    /// Names and values whose name matches.
    pub(crate) fn get(&self, pattern: &[u8]) -> Vec<(&'static str, String)> {
        let is_shown = |name: &str| !HIDDEN.contains(&name) || pattern == name.as_bytes();
        let all = self.kept.iter().map(|(name, value)| (*name, value.clone()));
        let all = all.filter(|(name, _)| is_shown(name));
        let acting = ACTING.iter().map(|name| (*name, self.value(name)));
        let matching =
            all.chain(acting).filter(|(name, _)| glob::matches_caseless(pattern, name.as_bytes()));
        matching.collect()
    }

    fn value(&self, name: &str) -> String {
        match name {
            "maxclients" => self.clients_max.to_string(),
            "maxmemory" => self.memory_max.to_string(),
            "maxmemory-policy" => self.policy.name().to_owned(),
            "maxmemory-samples" => self.samples.to_string(),
            "notify-keyspace-events" => notify::text(self.notify),
            "slowlog-log-slower-than" => self.slow_micros.to_string(),
            "slowlog-max-len" => self.slow_entries_max.to_string(),
            "proto-max-bulk-len" => self.argument_bytes_max.to_string(),
            "client-query-buffer-limit" => self.query_bytes_max.to_string(),
            "tcp-keepalive" => self.keepalive_seconds.to_string(),
            "timeout" => self.idle_seconds_max.to_string(),
            "appendfsync" => self.durability.redis_name().to_owned(),
            "lfu-log-factor" => self.lfu_log_factor.to_string(),
            "lfu-decay-time" => self.lfu_decay_minutes.to_string(),
            "hash-max-listpack-entries" | "hash-max-ziplist-entries" => {
                self.hash_packed.0.to_string()
            }
            "hash-max-listpack-value" | "hash-max-ziplist-value" => self.hash_packed.1.to_string(),
            "zset-max-listpack-entries" | "zset-max-ziplist-entries" => {
                self.sorted_packed.0.to_string()
            }
            "zset-max-listpack-value" | "zset-max-ziplist-value" => {
                self.sorted_packed.1.to_string()
            }
            "set-max-intset-entries" => self.numbers_max.to_string(),
            "stream-node-max-bytes" => self.stream_node.0.to_string(),
            "stream-node-max-entries" => self.stream_node.1.to_string(),
            "hll-sparse-max-bytes" => self.sparse_bytes_max.to_string(),
            "tracking-table-max-keys" => self.tracked_keys_max.to_string(),
            "busy-reply-threshold" | "lua-time-limit" => {
                (self.scripts.busy_micros / 1_000).to_string()
            }
            "databases" => crate::engine::DATABASES.to_string(),
            "daemonize" => "no".to_owned(),
            "latency-monitor-threshold" => self.latency_millis.to_string(),
            "maxmemory-clients" => self.clients_share.text(),
            _ => String::new(),
        }
    }

    /// Changes a setting, or says why not.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let name = name.to_ascii_lowercase();
        if let Some(kept) = self.kept.get_mut(name.as_str()) {
            value.clone_into(kept);
            return Ok(());
        }
        match name.as_str() {
            "maxclients" => self.clients_max = number(value, 1)?,
            "maxmemory" => self.memory_max = memory(value)?,
            "maxmemory-policy" => {
                self.policy = Policy::of(value)
                    .ok_or_else(|| one_of(POLICIES.iter().map(|(name, _)| *name)))?;
            }
            "maxmemory-samples" => self.samples = number(value, 1)?,
            "notify-keyspace-events" => {
                self.notify = notify::parse(value)
                    .ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
            }
            "slowlog-log-slower-than" => {
                self.slow_micros =
                    value.parse().map_err(|_| "argument couldn't be parsed into an integer")?;
            }
            "slowlog-max-len" => self.slow_entries_max = number(value, 0)?,
            "proto-max-bulk-len" => {
                let bytes = memory(value)?;
                if bytes < 1 << 20 {
                    return Err(
                        "argument must be between 1048576 and 9223372036854775807 inclusive".into(),
                    );
                }
                self.argument_bytes_max = bytes;
            }
            "client-query-buffer-limit" => self.query_bytes_max = memory(value)?.max(1 << 20),
            "tcp-keepalive" => self.keepalive_seconds = number(value, 0)? as u64,
            "timeout" => self.idle_seconds_max = number(value, 0)? as i64,
            "appendfsync" if !self.durability.is_kept() => {
                if value != self.value(&name) {
                    return Err(
                        "nothing is kept: the server's owner chose durability = memory".into()
                    );
                }
            }
            "appendfsync" => {
                self.durability = Durability::of_redis(value)
                    .ok_or_else(|| one_of(["always", "everysec", "no"].into_iter()))?;
            }
            "lfu-log-factor" => self.lfu_log_factor = number(value, 0)? as u64,
            "lfu-decay-time" => self.lfu_decay_minutes = number(value, 0)? as u32,
            "hash-max-listpack-entries" | "hash-max-ziplist-entries" => {
                self.hash_packed.0 = number(value, 0)?;
            }
            "hash-max-listpack-value" | "hash-max-ziplist-value" => {
                self.hash_packed.1 = number(value, 0)?;
            }
            "zset-max-listpack-entries" | "zset-max-ziplist-entries" => {
                self.sorted_packed.0 = number(value, 0)?;
            }
            "zset-max-listpack-value" | "zset-max-ziplist-value" => {
                self.sorted_packed.1 = number(value, 0)?;
            }
            "set-max-intset-entries" => self.numbers_max = number(value, 0)?,
            "stream-node-max-bytes" => self.stream_node.0 = memory(value)?,
            "stream-node-max-entries" => self.stream_node.1 = number(value, 0)?,
            "hll-sparse-max-bytes" => self.sparse_bytes_max = memory(value)?,
            "tracking-table-max-keys" => self.tracked_keys_max = number(value, 0)?,
            "busy-reply-threshold" | "lua-time-limit" => {
                self.scripts.busy_micros = number(value, 0)? as u64 * 1_000;
            }
            "maxmemory-clients" => self.clients_share = Share::of(value)?,
            "latency-monitor-threshold" => self.latency_millis = number(value, 0)? as i64,
            // What is the same changes nothing.
            "bind" | "port" if value == self.value(&name) => {}
            "port" => {
                return Err("Unable to listen on this port: the server's owner chooses it.".into());
            }
            "bind" => {
                return Err(
                    "Failed to bind to specified addresses: the server's owner chooses them."
                        .into(),
                );
            }
            "daemonize" | "databases" | "replicaof" | "slaveof" => {
                return Err("can't set immutable config".into());
            }
            _ => return Err("Unknown option or number of arguments".into()),
        }
        Ok(())
    }

    pub(crate) fn is_known(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.kept.contains_key(name.as_str()) || ACTING.contains(&name.as_str())
    }
}

const ACTING: &[&str] = &[
    "appendfsync",
    "bind",
    "busy-reply-threshold",
    "client-query-buffer-limit",
    "daemonize",
    "databases",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hash-max-ziplist-entries",
    "hash-max-ziplist-value",
    "hll-sparse-max-bytes",
    "latency-monitor-threshold",
    "lfu-decay-time",
    "lfu-log-factor",
    "lua-time-limit",
    "maxclients",
    "maxmemory",
    "maxmemory-clients",
    "maxmemory-policy",
    "maxmemory-samples",
    "notify-keyspace-events",
    "port",
    "proto-max-bulk-len",
    "replicaof",
    "set-max-intset-entries",
    "slaveof",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "tcp-keepalive",
    "timeout",
    "tracking-table-max-keys",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "zset-max-ziplist-entries",
    "zset-max-ziplist-value",
];

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn number(value: &str, least: usize) -> Result<usize, String> {
    let number: usize =
        value.parse().map_err(|_| "argument couldn't be parsed into an integer".to_owned())?;
    if number < least || number > u32::MAX as usize {
        return Err(format!("argument must be between {least} and 4294967295 inclusive"));
    }
    Ok(number)
}

/// A number of bytes, with a unit as in `100mb`.
fn memory(value: &str) -> Result<usize, String> {
    let value = value.to_ascii_lowercase();
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let scale = match &value[digits.len()..] {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err("argument must be a memory value".into()),
    };
    let number: usize = digits.parse().map_err(|_| "argument must be a memory value".to_owned())?;
    number.checked_mul(scale).ok_or_else(|| "argument must be a memory value".into())
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("argument(s) must be one of the following: {}", names.collect::<Vec<_>>().join(", "))
}
