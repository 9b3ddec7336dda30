use std::num::NonZero;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as text;
use serde::{Deserialize, Serialize};

use crate::origin::Origin;
use crate::password::MEMORY_KIB_MAX;
use crate::providers::Providers;
use crate::{Error, Grant, Holds, Role};

/// Limits and choices of identity. Durations are written as `30d`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who may make an account.
    pub sign_up: SignUp,
    /// Where people reach this server, `https://example.org`: for links in mails and for passkeys. Never read from a
    /// request and no key of this section: the server fills it in from `http.public_url`.
    #[serde(skip)]
    pub origin: String,
    /// Whether whoever makes an account must show that its address is theirs. Needs a mail server; without one nobody
    /// is asked.
    pub email_check: bool,
    /// Whether an account whose address is not shown yet may sign in, with `unverified_grants`.
    pub unverified_sign_in: bool,
    /// What accounts may do whose address is not shown yet.
    pub unverified_grants: Vec<Grant>,
    /// The keys that seal what must be read again, made at the first start. Without them second factors are lost.
    pub key_file: PathBuf,
    /// Who was removed, so that a backup of the rows brings nobody back. Not in the rows, nor with their backups.
    pub removed_file: PathBuf,
    /// Passwords that leaked elsewhere, which no account gets: a file of SHA-1 hashes in ascending order, or a folder of such files by their
    /// first five digits, as Have I Been Pwned gives them. Empty: none.
    pub leaked_passwords: PathBuf,
    /// Whether users too, who only use what an organisation offers, get no password that others guess first.
    pub user_passwords_checked: bool,
    /// Who vouches for people beside Madang, by name.
    pub providers: Providers,
    /// How long somebody may take to come back from a provider.
    #[serde(with = "text")]
    pub provider_time_max: Duration,
    /// The address of the first start's administrator.
    pub administrator_email: String,
    /// What accounts may do that are not administrators.
    pub member_grants: Vec<Grant>,
    /// What accounts may do that only use what the organisation offers.
    pub user_grants: Vec<Grant>,
    /// How long the text of a client lasts that keeps one and cannot exchange it.
    #[serde(with = "text")]
    pub bearer_time_max: Duration,
    /// How long a session lasts without being used.
    #[serde(with = "text")]
    pub session_time_max: Duration,
    /// How long a browser's session lasts at most, however it is used.
    #[serde(with = "text")]
    pub session_age_max: Duration,
    /// A session's use is written down at most this often.
    #[serde(with = "text")]
    pub session_touch: Duration,
    /// Sessions of one account; the oldest end first.
    pub sessions_per_account_max: u32,
    /// How long the text lasts that an app shows with each request.
    #[serde(with = "text")]
    pub access_time_max: Duration,
    /// Apps' sessions that are held in memory; the others are looked up.
    pub sessions_in_memory_max: usize,
    /// How long a link can be used that the server prints, and one that shows whose an address is.
    #[serde(with = "text")]
    pub link_time_max: Duration,
    /// How long a mailed link can be used that signs in or sets a password (OWASP ASVS 6.5.5: 10 minutes).
    #[serde(with = "text")]
    pub mailed_link_time_max: Duration,
    /// How long an invitation can be accepted.
    #[serde(with = "text")]
    pub invitation_time_max: Duration,
    /// Tools of one organisation that let people in by this server.
    pub tools_max: u32,
    /// How long somebody may take to answer the page that a tool sends them to.
    #[serde(with = "text")]
    pub tool_asking_time_max: Duration,
    /// How long a tool may take to exchange a code.
    #[serde(with = "text")]
    pub tool_code_time_max: Duration,
    /// How long a tool may exchange its texts for the next, from the answer on.
    #[serde(with = "text")]
    pub tool_time_max: Duration,
    /// How long a key signs what tools are told; then the next one does.
    #[serde(with = "text")]
    pub signing_time_max: Duration,
    /// How long a new key is shown before it signs, so that tools know it by then.
    #[serde(with = "text")]
    pub signing_announced: Duration,
    /// Invitations of one organisation that wait to be accepted.
    pub invitations_max: u32,
    /// Mails with links that wait to be written and sent; more are refused.
    pub mails_waiting_max: usize,
    /// Mails with links that are written and sent at once.
    pub mails_at_once: usize,
    /// After being asked for, a mail waits between a half of this and the whole: so nobody sees by what the server does next whether an address
    /// has an account.
    #[serde(with = "text")]
    pub mails_pause: Duration,
    /// Accounts of this installation, held in memory.
    pub accounts_max: usize,
    /// Keys of this installation, held in memory.
    pub keys_max: usize,
    /// Grants of one key or one group.
    pub grants_per_key_max: usize,
    /// Groups of one organisation.
    pub groups_max: u32,
    /// Groups that one account is in.
    pub groups_per_account_max: usize,
    /// Keys of one label that the server itself made and that still open; the oldest are revoked first.
    pub server_keys_max: u32,
    /// Memory of one password hash (OWASP: 19 MiB with two passes), at most 1 GiB.
    pub hash_memory_kib: u32,
    /// Passes over that memory.
    pub hash_passes: u32,
    /// Passwords that are hashed at once, by default on half of the processors; up to twice as many where they have to be made once more, see `hash_patience`.
    pub hash_at_once: usize,
    /// Passwords that may wait to be hashed.
    pub hash_waiting_max: usize,
    /// Hashes are made where no other work wants a core. One that has not ended after so long is made once more with the priority of others.
    #[serde(with = "text")]
    pub hash_patience: Duration,
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
    /// How long a browser may take to make or show a passkey.
    #[serde(with = "text")]
    pub passkey_time_max: Duration,
    /// Passkeys of one account.
    pub passkeys_per_account_max: u32,
    /// How long a second factor may take after the first.
    #[serde(with = "text")]
    pub second_time_max: Duration,
    /// Codes that may be tried after one right password.
    pub second_tries_max: u32,
    /// Wrong codes of one account.
    pub second_per_account_max: u32,
    /// Mails asked for with one address.
    pub mails_per_email_max: u32,
    /// Mails asked for from one address of the network.
    pub mails_per_address_max: u32,
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

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignUp {
    /// Nobody.
    Closed,
    /// Whoever was invited into an organisation.
    Invitation,
    /// Strangers too, each with an organisation of its own.
    Open,
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl Default for Config {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            sign_up: SignUp::Invitation,
            origin: "http://localhost:8080".into(),
            email_check: true,
            unverified_sign_in: true,
            unverified_grants: vec![
                Grant::new("devices.read", "*"),
                Grant::new("readings.read", "*"),
                Grant::new("alerts.read", "*"),
            ],
            key_file: "keys/identity".into(),
            removed_file: "keys/removed".into(),
            leaked_passwords: PathBuf::new(),
            user_passwords_checked: false,
            providers: Providers::new(),
            provider_time_max: Duration::from_mins(10),
            administrator_email: "admin@localhost".into(),
            member_grants: vec![
                Grant::new("devices.*", "*"),
                Grant::new("readings.*", "*"),
                Grant::new("rules.*", "*"),
                Grant::new("alerts.*", "*"),
                Grant::new("commands.send", "*"),
                Grant::new("lake.query", "*"),
                Grant::new("mqtt.publish", "mqtt/data/*"),
                Grant::new("mqtt.subscribe", "*"),
                Grant::new("articles.write", "*"),
            ],
            user_grants: vec![Grant::new("articles.write", "*")],
            bearer_time_max: 30 * DAY,
            session_time_max: 30 * DAY,
            session_age_max: 90 * DAY,
            session_touch: Duration::from_hours(1),
            sessions_per_account_max: 100,
            access_time_max: Duration::from_mins(10),
            sessions_in_memory_max: 100_000,
            link_time_max: DAY,
            mailed_link_time_max: Duration::from_mins(10),
            invitation_time_max: 7 * DAY,
            tools_max: 100,
            tool_asking_time_max: Duration::from_mins(10),
            tool_code_time_max: Duration::from_mins(1),
            tool_time_max: 30 * DAY,
            signing_time_max: 30 * DAY,
            signing_announced: DAY,
            invitations_max: 1_000,
            mails_waiting_max: 256,
            mails_at_once: 4,
            mails_pause: Duration::from_secs(2),
            accounts_max: 100_000,
            keys_max: 100_000,
            grants_per_key_max: 32,
            groups_max: 1_000,
            groups_per_account_max: 100,
            server_keys_max: 32,
            hash_memory_kib: 19 * 1_024,
            hash_passes: 2,
            hash_at_once: processors().div_ceil(2),
            hash_waiting_max: 64,
            hash_patience: Duration::from_millis(250),
            attempts_window: Duration::from_mins(15),
            attempts_per_pair_max: 10,
            attempts_per_account_max: 100,
            attempts_per_address_max: 50,
            sign_ups_per_address_max: 50,
            passkey_time_max: Duration::from_mins(5),
            passkeys_per_account_max: 20,
            second_time_max: Duration::from_mins(5),
            second_tries_max: 5,
            second_per_account_max: 10,
            mails_per_email_max: 5,
            mails_per_address_max: 20,
            attempts_kept_max: 20_000,
            denials_waiting_max: 1_024,
            denials_interval: Duration::from_secs(1),
            audit_kept: 90 * DAY,
        }
    }
}

impl Config {
    /// How long the text lasts that a client shows.
    pub(crate) fn access_time(&self, holds: Holds) -> Duration {
        match holds {
            Holds::Bearer => self.bearer_time_max,
            Holds::Cookie | Holds::Tokens => self.access_time_max,
        }
    }

    /// How long a session lasts without being used.
    pub(crate) fn session_time(&self, holds: Holds) -> Duration {
        match holds {
            Holds::Bearer => self.bearer_time_max,
            Holds::Cookie | Holds::Tokens => self.session_time_max,
        }
    }

    /// What a role lets somebody do.
    pub(crate) fn grants_of(&self, role: Role) -> &[Grant] {
        static ALL: LazyLock<[Grant; 1]> = LazyLock::new(|| [Grant::all()]);
        match role {
            Role::Admin => &*ALL,
            Role::Member => &self.member_grants,
            Role::User => &self.user_grants,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        for (name, grants) in [
            ("member_grants", &self.member_grants),
            ("user_grants", &self.user_grants),
            ("unverified_grants", &self.unverified_grants),
        ] {
            for grant in grants {
                grant.check().map_err(|error| Error::Config(format!("{name}: {error}")))?;
            }
        }
        Origin::parse(&self.origin)?;
        for (name, provider) in &self.providers {
            provider.check(name)?;
        }
        if self.signing_announced >= self.signing_time_max {
            return Err(Error::Config("signing_announced must be below signing_time_max".into()));
        }
        if self.hash_memory_kib > MEMORY_KIB_MAX {
            return Err(Error::Config(format!("hash_memory_kib must be at most {MEMORY_KIB_MAX}")));
        }
        if self.hash_at_once == 0 {
            return Err(Error::Config("hash_at_once must be at least 1".into()));
        }
        Ok(())
    }
}
