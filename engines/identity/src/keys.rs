use std::fmt;

use base::access::{Door, Principal};
use base::{ErrorKind, KeyId, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Tx, params};

use crate::accounts::normal_name;
use crate::audit::{By, Change, note, subject_text};
use crate::grant::too_wide;
use crate::live::LiveKey;
use crate::token::{self, key_text};
use crate::{Error, Grant, Identity};

/// What a new key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    pub label: String,
    pub grants: Vec<Grant>,
}

/// A key as lists show it; its secret is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub label: String,
    pub grants: Vec<Grant>,
    /// `account:…`, `key:…` or `system:…`.
    pub created_by: String,
    pub created: Timestamp,
}

/// A new key in the forms that doors take; shown once.
#[derive(Clone)]
pub struct KeyCredentials {
    pub id: KeyId,
    pub label: String,
    /// For `Authorization: Bearer`.
    pub token: String,
    pub mqtt_user: String,
    pub mqtt_password: String,
}

impl fmt::Debug for KeyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCredentials").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key on its way into its table.
#[derive(Clone)]
struct Insert {
    id: KeyId,
    organisation: OrganisationId,
    label: String,
    secret_hash: [u8; 32],
    created_by: String,
    grants: Vec<Grant>,
}

impl Identity {
    /// Makes a key of the principal's organisation. It can be given what its maker may do, and no more.
    pub async fn create_key(&self, by: By<'_>, new: NewKey) -> Result<KeyCredentials, Error> {
        let (principal, door) = by;
        self.check_within(principal, &new.grants)?;
        let maker = (subject_text(principal.subject), Some(door));
        self.add_key(principal.organisation, maker, new, None).await
    }

    /// Makes a key of the server's own, for instance the one that it announces. A secret cannot be read
    /// back, so every start makes another; the earlier ones open on, so that whoever was told them before
    /// a restart stays in, until there are more than `server_keys_max` of them.
    pub async fn ensure_key(
        &self,
        organisation: OrganisationId,
        new: NewKey,
    ) -> Result<KeyCredentials, Error> {
        let kept = self.0.config.server_keys_max.max(1);
        self.add_key(organisation, ("system:server".into(), None), new, Some(kept)).await
    }

    /// Ends a key, also where it is in use.
    pub async fn revoke_key(&self, by: By<'_>, id: KeyId) -> Result<(), Error> {
        let organisation = by.0.organisation;
        let change = Change::of(by, "key.revoke", format!("key/{}", key_text(id)));
        let base = self.0.base.clone();
        let revoked = self.0.db.write(async move |tx| {
            let now = base.clock.now();
            let sql = "UPDATE access_key SET revoked = ?
                WHERE id = ? AND organisation = ? AND revoked IS NULL";
            if tx.execute(sql, params![now, id, organisation]).await? == 0 {
                return Err(Error::NoSuchKey);
            }
            tx.execute("DELETE FROM access_grant WHERE subject = ?", params![id]).await?;
            note(tx, &base, &change).await
        });
        let revoked = revoked.await;
        // Whether it was written is open when the answer is lost; a key that was to end opens nothing.
        let is_open = matches!(&revoked, Err(error) if error.kind() == ErrorKind::Unavailable);
        if revoked.is_ok() || is_open {
            let mut live = self.0.live.write();
            if live.keys.get(&id).is_some_and(|key| key.organisation == organisation) {
                live.keys.remove(&id);
            }
            drop(live);
            self.changed();
        }
        revoked
    }

    /// The keys of an organisation that open something, oldest first.
    pub async fn keys(
        &self,
        organisation: OrganisationId,
        page: &PageRequest,
    ) -> Result<Page<Key>, Error> {
        let after = page.after.clone().unwrap_or_default();
        let limit = page.limit;
        let keys = self.0.db.read(async move |read| {
            let sql = "SELECT k.id, k.label, k.created_by, k.created, g.action, g.resource
                FROM (SELECT id, label, created_by, created FROM access_key
                    WHERE organisation = ? AND id > ? AND revoked IS NULL ORDER BY id LIMIT ?) k
                LEFT JOIN access_grant g ON g.subject = k.id
                ORDER BY k.id, g.position";
            let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
            let mut keys = Vec::<Key>::new();
            for row in read.query(sql, params![organisation, after, more]).await? {
                let id: KeyId = row.get("id")?;
                if keys.last().is_none_or(|key| key.id != id) {
                    keys.push(Key {
                        id,
                        label: row.get("label")?,
                        grants: Vec::new(),
                        created_by: row.get("created_by")?,
                        created: row.get("created")?,
                    });
                }
                let key = keys.last_mut().expect("one was pushed above");
                if let Some(action) = row.get("action")? {
                    key.grants.push(Grant { action, resource: row.get("resource")? });
                }
            }
            Ok::<_, Error>(keys)
        });
        Ok(Page::of(keys.await?, limit, |key| key.id.to_string()))
    }

    /// Whether the principal may do all of it.
    pub(crate) fn check_within(
        &self,
        principal: &Principal,
        grants: &[Grant],
    ) -> Result<(), Error> {
        self.with_grants(principal, |own| check_grants(own, grants))
    }

    async fn add_key(
        &self,
        organisation: OrganisationId,
        (created_by, door): (String, Option<Door>),
        new: NewKey,
        kept: Option<u32>,
    ) -> Result<KeyCredentials, Error> {
        let inner = &self.0;
        let label = normal_name(&new.label)?;
        let grants = self.checked_grants(new.grants)?;
        let max = inner.config.keys_max;
        if inner.live.read().keys.len() >= max {
            return Err(Error::Limit { what: "keys", max });
        }
        let id = KeyId::new(inner.base.clock.now(), &inner.base.entropy);
        let secret = token::secret(&inner.base.entropy);
        let secret_hash = token::hash(&secret).ok_or(Error::Stored("secret"))?;
        let insert = Insert { id, organisation, label, secret_hash, created_by, grants };
        let (base, row) = (inner.base.clone(), insert.clone());
        let ended = inner
            .db
            .write(async move |tx| {
                let now = base.clock.now();
                insert_key(tx, now, &row).await?;
                let change = Change {
                    organisation,
                    subject: row.created_by.clone(),
                    door,
                    action: "key.create",
                    resource: format!("key/{}", key_text(id)),
                    detail: row.label.clone(),
                };
                note(tx, &base, &change).await?;
                match kept {
                    Some(kept) => end_oldest(tx, now, &row, kept).await,
                    None => Ok(Vec::new()),
                }
            })
            .await?;

        let Insert { label, secret_hash, grants, .. } = insert;
        let key = LiveKey { organisation, label: (*label).into(), secret_hash, grants };
        let mut live = inner.live.write();
        live.keys.insert(id, key);
        for id in ended {
            live.keys.remove(&id);
        }
        drop(live);
        self.changed();
        let mqtt_user = key_text(id);
        let token = format!("madang_{mqtt_user}_{secret}");
        Ok(KeyCredentials { id, label, token, mqtt_user, mqtt_password: secret })
    }

    pub(crate) fn checked_grants(&self, mut grants: Vec<Grant>) -> Result<Vec<Grant>, Error> {
        let max = self.0.config.grants_per_key_max;
        if grants.is_empty() {
            return Err(Error::Grant("is missing: a key needs at least one".into()));
        }
        if grants.len() > max {
            return Err(Error::Limit { what: "grants", max });
        }
        for grant in &grants {
            grant.check()?;
        }
        grants.dedup();
        Ok(grants)
    }
}

/// Whether whoever has `own` may do all that others allow.
pub(crate) fn check_grants(own: &[Grant], wanted: &[Grant]) -> Result<(), Error> {
    match too_wide(own, wanted).cloned() {
        Some(Grant { action, resource }) => Err(Error::GrantTooWide { action, resource }),
        None => Ok(()),
    }
}

async fn insert_key(tx: &mut Tx, now: Timestamp, key: &Insert) -> Result<(), Error> {
    let Insert { id, organisation, label, secret_hash, created_by, grants } = key;
    let sql = "INSERT INTO access_key (id, organisation, label, secret_hash, created_by, created)
        VALUES (?, ?, ?, ?, ?, ?)";
    let hash = token::hex(secret_hash);
    tx.execute(sql, params![id, organisation, label, hash, created_by, now]).await?;
    insert_grants(tx, *organisation, &id.to_string(), grants).await
}

/// Of a key or of a group, by its id.
pub(crate) async fn insert_grants(
    tx: &mut Tx,
    organisation: OrganisationId,
    subject: &str,
    grants: &[Grant],
) -> Result<(), Error> {
    let sql = "INSERT INTO access_grant (subject, position, organisation, action, resource)
        VALUES (?, ?, ?, ?, ?)";
    for (position, grant) in (0_i64..).zip(grants) {
        let values = params![subject, position, organisation, grant.action, grant.resource];
        tx.execute(sql, values).await?;
    }
    Ok(())
}

/// Revokes the oldest keys of the same maker and label, so that `kept` are left.
async fn end_oldest(
    tx: &mut Tx,
    now: Timestamp,
    key: &Insert,
    kept: u32,
) -> Result<Vec<KeyId>, Error> {
    let Insert { organisation, label, created_by, .. } = key;
    let sql = "SELECT id FROM access_key
        WHERE organisation = ? AND label = ? AND created_by = ? AND revoked IS NULL AND id <> ?
        ORDER BY created DESC, id DESC LIMIT 1000 OFFSET ?";
    let others = kept.saturating_sub(1);
    let rows = tx.query(sql, params![organisation, label, created_by, key.id, others]).await?;
    let mut ended = Vec::new();
    for row in rows {
        let id: KeyId = row.get("id")?;
        tx.execute("UPDATE access_key SET revoked = ? WHERE id = ?", params![now, id]).await?;
        tx.execute("DELETE FROM access_grant WHERE subject = ?", params![id]).await?;
        ended.push(id);
    }
    Ok(ended)
}
