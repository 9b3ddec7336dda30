use std::collections::BTreeMap;

use crate::command;

/// What INFO and the metrics count.
pub(crate) struct Stats {
    /// Milliseconds since 1970 at the start.
    pub(crate) started: i64,
    /// The moment of the command that runs, in microseconds since 1970.
    pub(crate) micros: i64,
    pub(crate) commands: u64,
    pub(crate) connections: u64,
    pub(crate) rejected: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) expired: u64,
    /// Fields of hashes.
    pub(crate) expired_fields: u64,
    pub(crate) evicted: u64,
    pub(crate) errors: u64,
    /// Commands and turns that ended in a panic.
    pub(crate) panics: u64,
    /// Changes of keys.
    pub(crate) dirty: u64,
    /// Clients that wait now.
    pub(crate) blocked: usize,
    pub(crate) output_closed: u64,
    /// Clients that went because too much waited for all together.
    pub(crate) evicted_clients: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Calls of each command, and microseconds of those that were timed.
    pub(crate) calls: Vec<u64>,
    pub(crate) took: Vec<u64>,
    /// Calls of each command that were answered with an error, and those that were refused before they ran.
    pub(crate) failed_calls: Vec<u64>,
    pub(crate) rejected_calls: Vec<u64>,
    pub(crate) error_kinds: BTreeMap<String, u64>,
}

/// Kinds of errors that are told apart.
const ERROR_KINDS_MAX: usize = 128;

impl Stats {
    pub(crate) fn new(now: i64) -> Self {
        Self {
            started: now,
            micros: now.saturating_mul(1_000),
            commands: 0,
            connections: 0,
            rejected: 0,
            hits: 0,
            misses: 0,
            expired: 0,
            expired_fields: 0,
            evicted: 0,
            errors: 0,
            panics: 0,
            dirty: 0,
            blocked: 0,
            output_closed: 0,
            evicted_clients: 0,
            bytes_in: 0,
            bytes_out: 0,
            calls: vec![0; command::COMMANDS.len()],
            took: vec![0; command::COMMANDS.len()],
            failed_calls: vec![0; command::COMMANDS.len()],
            rejected_calls: vec![0; command::COMMANDS.len()],
            error_kinds: BTreeMap::new(),
        }
    }

    pub(crate) fn error(&mut self, text: &str) {
        self.errors += 1;
        let kind = text.split(' ').next().unwrap_or_default();
        if let Some(count) = self.error_kinds.get_mut(kind) {
            *count += 1;
        } else if self.error_kinds.len() < ERROR_KINDS_MAX {
            self.error_kinds.insert(kind.to_owned(), 1);
        }
    }

    /// Minutes since 1970, 16 bits of them.
    pub(crate) fn minutes(&self) -> u32 {
        (self.micros / 60_000_000) as u32 & 0xffff
    }

    /// CONFIG RESETSTAT.
    pub(crate) fn reset(&mut self) {
        let kept = Self {
            dirty: self.dirty,
            blocked: self.blocked,
            micros: self.micros,
            ..Self::new(self.started)
        };
        *self = kept;
    }
}
