use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as text;
use serde::{Deserialize, Serialize};

use crate::{Error, Grant};

/// Limits and choices of identity. Durations are written as `30d`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether strangers may make an account, each with an organisation of its own.
    pub open_sign_up: bool,
    /// The address of the first start's administrator.
    pub administrator_email: String,
    /// What accounts may do that are not administrators.
    pub member_grants: Vec<Grant>,
    /// How long a session lasts without being used.
    #[serde(with = "text")]
    pub session_time_max: Duration,
    /// A session's use is written down at most this often.
    #[serde(with = "text")]
    pub session_touch: Duration,
    /// Sessions of one account; the oldest end first.
    pub sessions_per_account_max: u32,
    /// How long a one-time link can be used.
    #[serde(with = "text")]
    pub link_time_max: Duration,
    /// Accounts of this installation, held in memory.
    pub accounts_max: usize,
    /// Keys of this installation, held in memory.
    pub keys_max: usize,
    /// Grants of one key.
    pub grants_per_key_max: usize,
    /// Keys of one label that the server itself made and that still open; the oldest are revoked first.
    pub server_keys_max: u32,
    /// Memory of one password hash (OWASP: 19 MiB with two passes).
    pub hash_memory_kib: u32,
    /// Passes over that memory.
    pub hash_passes: u32,
    /// Passwords that are hashed at once.
    pub hash_at_once: usize,
    /// Passwords that may wait to be hashed.
    pub hash_waiting_max: usize,
    /// The time in which attempts to sign in are counted.
    #[serde(with = "text")]
    pub attempts_window: Duration,
    /// Failed attempts at one account from one address.
    pub attempts_per_pair_max: u32,
    /// Failed attempts at one account from anywhere.
    pub attempts_per_account_max: u32,
    /// Failed attempts from one address (an IPv6 address counts with its /64).
    pub attempts_per_address_max: u32,
    /// Accounts made from one address.
    pub sign_ups_per_address_max: u32,
    /// Counts of attempts that are kept; the oldest go first.
    pub attempts_kept_max: usize,
    /// Kinds of refusal that wait to be written to the audit log; more are counted only.
    pub denials_waiting_max: usize,
    /// How long refusals of one kind are gathered into one entry.
    #[serde(with = "text")]
    pub denials_interval: Duration,
    /// How long the audit log goes back.
    #[serde(with = "text")]
    pub audit_kept: Duration,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            open_sign_up: false,
            administrator_email: "admin@localhost".into(),
            member_grants: vec![
                Grant::new("devices.*", "*"),
                Grant::new("lake.query", "*"),
                Grant::new("mqtt.publish", "mqtt/data/*"),
                Grant::new("mqtt.subscribe", "*"),
            ],
            session_time_max: 30 * DAY,
            session_touch: Duration::from_hours(1),
            sessions_per_account_max: 100,
            link_time_max: DAY,
            accounts_max: 100_000,
            keys_max: 100_000,
            grants_per_key_max: 32,
            server_keys_max: 32,
            hash_memory_kib: 19 * 1_024,
            hash_passes: 2,
            hash_at_once: 2,
            hash_waiting_max: 32,
            attempts_window: Duration::from_mins(15),
            attempts_per_pair_max: 10,
            attempts_per_account_max: 100,
            attempts_per_address_max: 50,
            sign_ups_per_address_max: 50,
            attempts_kept_max: 20_000,
            denials_waiting_max: 1_024,
            denials_interval: Duration::from_secs(1),
            audit_kept: 90 * DAY,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        for grant in &self.member_grants {
            grant.check().map_err(|error| Error::Config(format!("member_grants: {error}")))?;
        }
        if self.hash_at_once == 0 {
            return Err(Error::Config("hash_at_once must be at least 1".into()));
        }
        Ok(())
    }
}
