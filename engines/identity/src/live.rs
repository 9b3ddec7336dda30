use std::collections::HashMap;
use std::sync::Arc;

use base::{AccountId, KeyId, OrganisationId, Timestamp};
use relational::{Db, Read, Row, params};

use crate::sessions::SessionId;
use crate::token::from_hex;
use crate::{Config, Error, Grant, Role};

/// All that can come in, in memory: doors ask for every deed.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) accounts: HashMap<AccountId, LiveAccount>,
    pub(crate) keys: HashMap<KeyId, LiveKey>,
    /// Of apps, and only some of them.
    pub(crate) sessions: HashMap<SessionId, LiveSession>,
    /// Changes when a session ends.
    pub(crate) generation: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveSession {
    pub(crate) account: AccountId,
    pub(crate) access_hash: [u8; 32],
    pub(crate) access_expires: Timestamp,
}

pub(crate) struct LiveAccount {
    pub(crate) organisation: OrganisationId,
    pub(crate) email: Arc<str>,
    pub(crate) role: Role,
    pub(crate) is_verified: bool,
}

pub(crate) struct LiveKey {
    pub(crate) organisation: OrganisationId,
    pub(crate) label: Arc<str>,
    pub(crate) secret_hash: [u8; 32],
    pub(crate) grants: Vec<Grant>,
}

/// Rows that are read at once while loading.
const BATCH: i64 = 10_000;

pub(crate) async fn load(db: &Db, config: &Config) -> Result<Live, Error> {
    let (accounts_max, keys_max) = (config.accounts_max, config.keys_max);
    db.read(async move |read| {
        let mut live = Live::default();
        let accounts = "SELECT id, organisation, email, role, verified FROM account
            WHERE id > ? ORDER BY id LIMIT ?";
        each(read, accounts, async |row| {
            let account = LiveAccount {
                organisation: row.get("organisation")?,
                email: row.get::<String>("email")?.into(),
                role: Role::parse(&row.get::<String>("role")?)?,
                is_verified: row.get::<Option<Timestamp>>("verified")?.is_some(),
            };
            live.accounts.insert(row.get("id")?, account);
            within("accounts", live.accounts.len(), accounts_max)
        })
        .await?;
        let keys = "SELECT id, organisation, label, secret_hash FROM access_key
            WHERE id > ? AND revoked IS NULL ORDER BY id LIMIT ?";
        each(read, keys, async |row| {
            let hash = row.get::<String>("secret_hash")?;
            let key = LiveKey {
                organisation: row.get("organisation")?,
                label: row.get::<String>("label")?.into(),
                secret_hash: from_hex(&hash).ok_or(Error::Stored("hash of a key"))?,
                grants: Vec::new(),
            };
            live.keys.insert(row.get("id")?, key);
            within("keys", live.keys.len(), keys_max)
        })
        .await?;
        for (id, key) in &mut live.keys {
            key.grants = grants_of(read, *id).await?;
        }
        Ok(live)
    })
    .await
}

/// Runs `take` over all rows of a query that goes on after an id.
async fn each(
    read: &mut Read,
    sql: &str,
    mut take: impl AsyncFnMut(&Row) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut after = String::new();
    loop {
        let rows = read.query(sql, params![after, BATCH]).await?;
        for row in &rows {
            take(row).await?;
        }
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.get("id")?;
    }
}

async fn grants_of(read: &mut Read, key: KeyId) -> Result<Vec<Grant>, Error> {
    let sql = "SELECT action, resource FROM access_grant WHERE subject = ? ORDER BY position";
    let rows = read.query(sql, params![key]).await?;
    rows.iter()
        .map(|row| {
            let grant = Grant { action: row.get("action")?, resource: row.get("resource")? };
            Ok(grant)
        })
        .collect()
}

fn within(what: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count > max {
        return Err(Error::Config(format!(
            "more {what} are stored than the configured most, {max}"
        )));
    }
    Ok(())
}
