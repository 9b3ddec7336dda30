use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base::{AccountId, Id, KeyId, OrganisationId, Timestamp};
use relational::{Db, Read, Row, params};

use crate::groups::GroupId;
use crate::sessions::SessionId;
use crate::token::from_hex;
use crate::{Config, Error, Grant, Role};

/// All that can come in, in memory: doors ask for every deed.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) accounts: HashMap<AccountId, LiveAccount>,
    pub(crate) keys: HashMap<KeyId, LiveKey>,
    pub(crate) groups: HashMap<GroupId, LiveGroup>,
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
    pub(crate) is_suspended: bool,
    pub(crate) groups: BTreeSet<GroupId>,
    /// What the role and the groups let it do together; nothing where there is no group and the role says all.
    grants: Option<Box<[Grant]>>,
}

pub(crate) struct LiveGroup {
    pub(crate) organisation: OrganisationId,
    pub(crate) name: Arc<str>,
    pub(crate) grants: Vec<Grant>,
}

impl LiveAccount {
    /// Of somebody in no group.
    pub(crate) fn new(
        organisation: OrganisationId,
        email: Arc<str>,
        role: Role,
        is_verified: bool,
    ) -> Self {
        let (is_suspended, groups, grants) = (false, BTreeSet::new(), None);
        Self { organisation, email, role, is_verified, is_suspended, groups, grants }
    }

    /// Of a row; its groups are to be added.
    pub(crate) fn of(row: &Row) -> Result<Self, Error> {
        let role = Role::parse(&row.get::<String>("role")?)?;
        let is_verified = row.get::<Option<Timestamp>>("verified")?.is_some();
        let email = row.get::<String>("email")?.into();
        let mut account = Self::new(row.get("organisation")?, email, role, is_verified);
        account.is_suspended = row.get::<Option<Timestamp>>("suspended")?.is_some();
        Ok(account)
    }

    /// What it may do once its address is shown.
    pub(crate) fn grants<'a>(&'a self, config: &'a Config) -> &'a [Grant] {
        match &self.grants {
            Some(grants) => grants,
            None => config.grants_of(self.role),
        }
    }
}

impl Live {
    /// Sums up once more what an account's role and groups let it do.
    pub(crate) fn sum_up(&mut self, config: &Config, id: AccountId) {
        let Self { accounts, groups, .. } = self;
        let Some(account) = accounts.get_mut(&id) else { return };
        account.groups.retain(|group| groups.contains_key(group));
        account.grants = (!account.groups.is_empty()).then(|| {
            let of_groups = account.groups.iter().filter_map(|group| groups.get(group));
            let mut all = config.grants_of(account.role).to_vec();
            for grant in of_groups.flat_map(|group| &group.grants) {
                if !all.contains(grant) {
                    all.push(grant.clone());
                }
            }
            all.into_boxed_slice()
        });
    }

    pub(crate) fn members(&self, group: GroupId) -> impl Iterator<Item = AccountId> {
        let is_in = move |account: &LiveAccount| account.groups.contains(&group);
        self.accounts.iter().filter(move |(_, account)| is_in(account)).map(|(id, _)| *id)
    }
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
    let config = config.clone();
    db.read(async move |read| {
        let mut live = Live::default();
        let accounts = "SELECT id, organisation, email, role, verified, suspended FROM account
            WHERE id > ? AND removed IS NULL ORDER BY id LIMIT ?";
        each(read, accounts, async |row| {
            live.accounts.insert(row.get("id")?, LiveAccount::of(row)?);
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
        load_groups(read, &mut live).await?;
        let with_groups = live.accounts.iter().filter(|(_, account)| !account.groups.is_empty());
        let with_groups: Vec<AccountId> = with_groups.map(|(id, _)| *id).collect();
        for id in with_groups {
            live.sum_up(&config, id);
        }
        Ok(live)
    })
    .await
}

async fn load_groups(read: &mut Read, live: &mut Live) -> Result<(), Error> {
    let groups = "SELECT id, organisation, name FROM people_group
        WHERE id > ? ORDER BY id LIMIT ?";
    each(read, groups, async |row| {
        let (organisation, name) = (row.get("organisation")?, row.get::<String>("name")?.into());
        let group = LiveGroup { organisation, name, grants: Vec::new() };
        live.groups.insert(row.get("id")?, group);
        Ok(())
    })
    .await?;
    for (id, group) in &mut live.groups {
        group.grants = grants_of(read, *id).await?;
        let members = "SELECT account AS id FROM group_member
            WHERE account > ? AND people_group = ? ORDER BY account LIMIT ?";
        let mut after = String::new();
        loop {
            let rows = read.query(members, params![after, id, BATCH]).await?;
            for row in &rows {
                if let Some(account) = live.accounts.get_mut(&row.get("id")?) {
                    account.groups.insert(*id);
                }
            }
            let Some(last) = rows.last() else { break };
            after = last.get("id")?;
        }
    }
    Ok(())
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

/// Of a key or of a group.
pub(crate) async fn grants_of<K>(read: &mut Read, subject: Id<K>) -> Result<Vec<Grant>, Error> {
    let sql = "SELECT action, resource FROM access_grant WHERE subject = ? ORDER BY position";
    let rows = read.query(sql, params![subject]).await?;
    rows.iter().map(Grant::of).collect()
}

fn within(what: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count > max {
        return Err(Error::Config(format!(
            "more {what} are stored than the configured most, {max}"
        )));
    }
    Ok(())
}
