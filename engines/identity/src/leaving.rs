//! Leaving: somebody is removed, by an administrator, a directory or themselves. Identity forgets them in the commit that tells
//! the other rooms to; who comes back with a backup of the rows is removed again.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use base::access::{Principal, Subject};
use base::personal::{Someone, Texts};
use base::{AccountId, Base, OrganisationId, Timestamp};
use relational::{Tx, params};

use crate::audit::{By, Change, note};
use crate::ledger::Removed;
use crate::people::{
    About, Standing, check_above_still, check_administrators, locked, set_about, sign_out,
};
use crate::sessions::account_of;
use crate::settling::Whom;
use crate::{Config, Error, Grant, Identity, accounts, live};

/// Tells other rooms, in the commit that removes somebody here, that they are to forget them.
pub trait Farewell: Send + Sync + 'static {
    fn forget<'a>(
        &'a self,
        tx: &'a mut Tx,
        who: &'a Someone,
        texts: Texts,
    ) -> Pin<Box<dyn Future<Output = Result<(), relational::Error>> + 'a>>;
}

/// A removal that was looked at and goes into rows.
#[derive(Clone)]
struct Removal {
    organisation: OrganisationId,
    id: AccountId,
    texts: Texts,
    noted: Change,
    by: Remover,
    base: Base,
    farewell: Option<Arc<dyn Farewell>>,
}

/// Who removes somebody, which says what is looked at once more in the transaction.
#[derive(Clone)]
enum Remover {
    /// May do all that they may, and leaves the organisation an administrator who can come in, perhaps by a mailed link.
    Person { own: Vec<Grant>, config: Box<Config>, can_send: bool },
    /// Themselves: also who may do little, since they did not show whose their address is.
    Own { can_send: bool },
    /// They were removed before, whatever has become of the organisation meanwhile.
    Before(Timestamp),
}

impl Identity {
    /// Removes somebody: they are signed out everywhere, and what says who they are is forgotten here, and soon in every
    /// other room. Keys that they made for the organisation stay.
    pub async fn remove_person(
        &self,
        by: By<'_>,
        id: AccountId,
        texts: Texts,
    ) -> Result<(), Error> {
        self.check_above(by.0, id)?;
        let change = Change::of(by, "account.remove", format!("account/{id}"));
        let own = self.with_grants(by.0, <[Grant]>::to_vec);
        let (config, can_send) = (Box::new(self.0.config.clone()), self.0.post.can_send());
        let remover = Remover::Person { own, config, can_send };
        self.remove(by.0.organisation, id, (texts, change, remover)).await
    }

    /// Removes one's own account; takes the password, where there is one.
    pub async fn leave(
        &self,
        (by, from): (By<'_>, IpAddr),
        password: Option<&str>,
        texts: Texts,
    ) -> Result<(), Error> {
        let account = account_of(by.0)?;
        self.again(account, from, password).await?;
        let change = Change::of(by, "account.remove", format!("account/{account}"));
        let remover = Remover::Own { can_send: self.0.post.can_send() };
        self.remove(by.0.organisation, account, (texts, change, remover)).await
    }

    /// Takes away what was written about somebody while they were removed: a request that was let in before ends after.
    pub async fn forget(tx: &mut Tx, who: &Someone) -> Result<(), Error> {
        let sql = "SELECT 1 AS there FROM account WHERE id = ? AND removed IS NOT NULL";
        if tx.query_optional(sql, params![who.account]).await?.is_some() {
            take_away(tx, who.account).await?;
        }
        Ok(())
    }

    /// Removes those again who came back with a backup of the rows, and says how many. Other rooms must be ready to be told.
    pub async fn remove_again(&self) -> Result<usize, Error> {
        let listed = self.0.ledger.lines();
        if listed.is_empty() {
            self.note_removed().await?;
            return Ok(0);
        }
        let removed = self.remove_listed(listed).await;
        // Also after an error: without an administrator there is no next start.
        let is_made = accounts::ensure_administrator(&self.0.db, &self.0.config, &self.0.base);
        if is_made.await? {
            tracing::warn!(
                "nobody administers any more who was there in the backup: an administrator is made"
            );
            self.reload().await?;
        }
        self.note_removed().await?;
        removed
    }

    async fn remove_listed(&self, listed: Vec<Removed>) -> Result<usize, Error> {
        let mut count = 0;
        for removed in listed {
            let Removed { account, organisation, at, texts } = removed;
            if !self.0.live.read().accounts.contains_key(&account) {
                continue;
            }
            let system = Principal {
                organisation,
                subject: Subject::System("removed before"),
                name: "removed before".into(),
            };
            let by = (&system, base::access::Door::Http);
            let change = Change {
                door: None,
                ..Change::of(by, "account.remove", format!("account/{account}"))
            };
            let remover = Remover::Before(at);
            match self.remove(organisation, account, (texts, change, remover)).await {
                Ok(()) => count += 1,
                // Another node that starts was faster.
                Err(Error::NotThere(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Memory learns of an administrator that was made.
    async fn reload(&self) -> Result<(), Error> {
        let read = live::load(&self.0.db, &self.0.config).await?;
        *self.0.live.write() = read;
        self.changed();
        Ok(())
    }

    /// Writes those into the list who are removed in the rows and not in it, such as by another node.
    pub(crate) async fn note_removed(&self) -> Result<(), Error> {
        let stored = self.0.db.read(async |read| {
            let sql = "SELECT id, organisation, removed, texts_erased FROM account
                WHERE removed IS NOT NULL ORDER BY removed, id";
            let rows = read.query(sql, &[]).await?;
            let removed = rows.iter().map(|row| {
                let is_erased: bool = row.get("texts_erased")?;
                Ok::<_, Error>(Removed {
                    account: row.get("id")?,
                    organisation: row.get("organisation")?,
                    at: row.get("removed")?,
                    texts: if is_erased { Texts::Erase } else { Texts::Keep },
                })
            });
            removed.collect::<Result<Vec<_>, _>>()
        });
        self.list(stored.await?).await
    }

    async fn list(&self, removed: Vec<Removed>) -> Result<(), Error> {
        let identity = self.clone();
        let added = tokio::task::spawn_blocking(move || identity.0.ledger.add(&removed)).await;
        let added = added.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        added.map_err(|error| Error::Ledger(error.to_string()))
    }

    async fn remove(
        &self,
        organisation: OrganisationId,
        id: AccountId,
        (texts, noted, by): (Texts, Change, Remover),
    ) -> Result<(), Error> {
        let (base, farewell) = (self.0.base.clone(), self.0.farewell.clone());
        let removal = Removal { organisation, id, texts, noted, by, base, farewell };
        let (db, identity) = (self.0.db.clone(), self.clone());
        let remove = async move |tx: &mut Tx| removal.write(tx).await;
        let listed = async move {
            let (at, is_empty) = db.write(remove).await?;
            if is_empty {
                let mut live = identity.0.live.write();
                live.keys.retain(|_, key| key.organisation != organisation);
            }
            // They are removed, and the list is looked after once more each hour.
            let removed = Removed { account: id, organisation, at, texts };
            if let Err(error) = identity.list(vec![removed]).await {
                tracing::error!(%error, "a backup would bring somebody back who was removed");
            }
            Ok(())
        };
        self.settle(Whom::Person(id), listed).await
    }
}

/// Nobody comes into an organisation any more where nobody is left, and nothing acts for it.
async fn close(tx: &mut Tx, organisation: OrganisationId, now: Timestamp) -> Result<(), Error> {
    tx.execute("DELETE FROM invitation WHERE organisation = ?", params![organisation]).await?;
    let sql = "DELETE FROM access_grant WHERE organisation = ?
        AND subject IN (SELECT id FROM access_key WHERE organisation = ?)";
    tx.execute(sql, params![organisation, organisation]).await?;
    let sql = "UPDATE access_key SET revoked = ? WHERE organisation = ? AND revoked IS NULL";
    tx.execute(sql, params![now, organisation]).await?;
    Ok(())
}

/// All that says who somebody is, and that they come in by.
async fn take_away(tx: &mut Tx, id: AccountId) -> Result<(), Error> {
    sign_out(tx, id).await?;
    for sql in [
        "DELETE FROM totp WHERE account = ?",
        "DELETE FROM recovery_code WHERE account = ?",
        "DELETE FROM passkey WHERE account = ?",
        "DELETE FROM provider_link WHERE account = ?",
        "DELETE FROM group_member WHERE account = ?",
        "UPDATE account SET password_hash = NULL, verified = NULL, signed_in = NULL WHERE id = ?",
    ] {
        tx.execute(sql, params![id]).await?;
    }
    // An id is nobody's address.
    set_about(tx, id, &About { email: id.to_string(), ..About::default() }).await
}

/// Whether nobody is left of an organisation that somebody made for themselves.
async fn is_empty(tx: &mut Tx, organisation: OrganisationId) -> Result<bool, Error> {
    let sql = "SELECT 1 AS there FROM account WHERE organisation = ? AND removed IS NULL LIMIT 1";
    Ok(organisation != OrganisationId::DEFAULT
        && tx.query_optional(sql, params![organisation]).await?.is_none())
}

impl Removal {
    /// The moment that counts, and whether nobody is left of the organisation.
    async fn write(&self, tx: &mut Tx) -> Result<(Timestamp, bool), Error> {
        let Self { organisation, id, .. } = *self;
        let row = locked(tx, organisation, id).await?;
        if let Remover::Person { own, config, .. } = &self.by {
            check_above_still(tx, (own, config), id, &row).await?;
        }
        let was = Standing::of(&row)?;
        let email: String = row.get("email")?;
        let is_verified = row.get::<Option<Timestamp>>("verified")?.is_some();
        take_away(tx, id).await?;
        let sql = "DELETE FROM invitation WHERE organisation = ? AND email = ?";
        tx.execute(sql, params![organisation, email]).await?;
        // An organisation of one is called by its founder's address, unless they said something else.
        let sql = "UPDATE organisation SET name = ? WHERE id = ? AND name = ?";
        tx.execute(sql, params![organisation.to_string(), organisation, email]).await?;
        let now = self.base.clock.now();
        let at = match &self.by {
            Remover::Person { .. } | Remover::Own { .. } => now,
            Remover::Before(at) => *at,
        };
        let sql = "UPDATE account SET suspended = ?, removed = ?, texts_erased = ?, changed = ?,
            version = version + 1 WHERE id = ?";
        let is_erased = self.texts == Texts::Erase;
        tx.execute(sql, params![at, at, is_erased, now, id]).await?;
        // Whoever made an organisation for themselves and leaves it empty leaves nobody behind.
        let is_empty = is_empty(tx, organisation).await?;
        if is_empty {
            close(tx, organisation, now).await?;
        }
        if let Remover::Person { can_send, .. } | Remover::Own { can_send } = &self.by {
            let one_went = was.is_administrator() && !is_empty;
            check_administrators(tx, (organisation, *can_send), one_went).await?;
        }
        if let Some(farewell) = &self.farewell {
            let who = Someone { organisation, account: id, email, is_verified };
            farewell.forget(tx, &who, self.texts).await?;
        }
        note(tx, &self.base, &self.noted).await?;
        Ok((at, is_empty))
    }
}
