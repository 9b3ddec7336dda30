use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base::access::{Door, Principal, Refused, Subject};
use base::{AccountId, Base, OrganisationId, Timestamp};
use relational::{Tx, params};

use crate::accounts::normal_email;
use crate::audit::{Change, note};
use crate::{Error, Identity, token};

/// An address and a password that somebody typed.
#[derive(Clone)]
pub struct SignIn {
    pub email: String,
    pub password: String,
}

/// A session that just began; its text is shown here only.
pub struct NewSession {
    pub token: String,
    pub lifetime: Duration,
    pub principal: Principal,
}

impl fmt::Debug for NewSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// What is needed to begin a session inside a transaction, again if it is run again.
#[derive(Clone)]
struct Beginning {
    token: String,
    account: AccountId,
    organisation: OrganisationId,
    now: Timestamp,
    expires: Timestamp,
    kept: i64,
}

/// Stores a one-time link of `(account, organisation)` for the time `(from, until)`.
pub(crate) async fn insert_link(
    tx: &mut Tx,
    secret: &str,
    (account, organisation): (AccountId, OrganisationId),
    (created, expires): (Timestamp, Timestamp),
) -> Result<(), Error> {
    let hash = token::hash(secret).ok_or(Error::LinkInvalid)?;
    let sql = "INSERT INTO link (token_hash, organisation, account, created, expires)
        VALUES (?, ?, ?, ?, ?)";
    let values = params![token::hex(&hash), organisation, account, created, expires];
    tx.execute(sql, values).await?;
    Ok(())
}

impl Identity {
    /// The text of a one-time link for the default organisation's administrator, in place of any older
    /// one. Nothing once the administrator has a password.
    pub async fn administrator_link(&self) -> Result<Option<String>, Error> {
        let inner = &self.0;
        let secret = token::secret(&inner.base.entropy);
        let now = inner.base.clock.now();
        let expires = now.plus(inner.config.link_time_max);
        let organisation = OrganisationId::DEFAULT;
        let link = secret.clone();
        let made = inner.db.write(async move |tx| {
            let sql = "SELECT id, password_hash FROM account
                WHERE organisation = ? AND role = 'admin' ORDER BY id";
            let rows = tx.query(sql, params![organisation]).await?;
            for row in &rows {
                if row.get::<Option<String>>("password_hash")?.is_some() {
                    return Ok::<_, Error>(false);
                }
            }
            let account: AccountId =
                rows.first().ok_or(Error::Stored("administrator"))?.get("id")?;
            tx.execute("DELETE FROM link WHERE account = ?", params![account]).await?;
            insert_link(tx, &link, (account, organisation), (now, expires)).await?;
            Ok(true)
        });
        Ok(made.await?.then_some(secret))
    }

    /// Lets the holder of a one-time link in, once.
    pub async fn redeem_link(&self, link: &str) -> Result<NewSession, Error> {
        let inner = &self.0;
        let hash = token::hex(&token::hash(link).ok_or(Error::LinkInvalid)?);
        let (base, config) = (inner.base.clone(), inner.config.clone());
        let secret = token::secret(&inner.base.entropy);
        let session = secret.clone();
        let account = inner
            .db
            .write(async move |tx| {
                let now = base.clock.now();
                let sql = "UPDATE link SET used = ?
                    WHERE token_hash = ? AND used IS NULL AND expires > ?";
                if tx.execute(sql, params![now, hash, now]).await? == 0 {
                    return Err(Error::LinkInvalid);
                }
                let sql = "SELECT account, organisation FROM link WHERE token_hash = ?";
                let row = tx.query_one(sql, params![hash]).await?;
                let beginning = Beginning {
                    token: session.clone(),
                    account: row.get("account")?,
                    organisation: row.get("organisation")?,
                    now,
                    expires: now.plus(config.session_time_max),
                    kept: config.sessions_per_account_max.into(),
                };
                begin(tx, &base, &beginning, "session.link").await?;
                Ok(beginning.account)
            })
            .await?;
        self.begun(account, secret)
    }

    /// Lets somebody in who knows the password. Says the same, after the same work, whether the address or
    /// the password was wrong.
    pub async fn sign_in(&self, from: IpAddr, given: SignIn) -> Result<NewSession, Error> {
        let inner = &self.0;
        // What is no address is nobody's, and costs as much.
        let email = normal_email(&given.email).unwrap_or_default();
        inner.attempts.sign_in(inner.base.clock.now(), &email, from)?;
        let address = email.clone();
        let stored = inner.db.read(async move |read| {
            let sql = "SELECT id, organisation, password_hash FROM account WHERE email = ?";
            let Some(row) = read.query_optional(sql, params![address]).await? else {
                return Ok::<_, Error>(None);
            };
            let hash: Option<String> = row.get("password_hash")?;
            Ok(Some((row.get::<AccountId>("id")?, row.get("organisation")?, hash)))
        });
        let stored = stored.await?;
        let hash = stored.as_ref().and_then(|(_, _, hash)| hash.clone());
        let is_right = inner.hasher.verify(&given.password, hash.as_deref()).await?;
        let (true, Some((account, organisation, Some(hash)))) = (is_right, stored.clone()) else {
            if let Some((account, organisation, _)) = stored {
                inner.denials.unproved(organisation, Door::Http, Subject::Account(account));
            }
            return Err(Error::SignInFailed);
        };
        inner.attempts.succeeded(&email, from);

        let now = inner.base.clock.now();
        let beginning = Beginning {
            token: token::secret(&inner.base.entropy),
            account,
            organisation,
            now,
            expires: now.plus(inner.config.session_time_max),
            kept: inner.config.sessions_per_account_max.into(),
        };
        let secret = beginning.token.clone();
        let base = inner.base.clone();
        inner
            .db
            .write(async move |tx| {
                // A password that was changed meanwhile opens nothing.
                let sql = "SELECT 1 AS same FROM account WHERE id = ? AND password_hash = ?";
                if tx.query_optional(sql, params![account, hash]).await?.is_none() {
                    return Err(Error::SignInFailed);
                }
                begin(tx, &base, &beginning, "session.sign-in").await
            })
            .await?;
        self.begun(account, secret)
    }

    /// Finds the holder of a session. Each use makes it last longer.
    pub async fn session(&self, token: &str) -> Result<Principal, Refused> {
        let inner = &self.0;
        let hash = token::hash(token).ok_or(Refused::Unauthenticated)?;
        let hash = token::hex(&hash);
        let now = inner.base.clock.now();
        let wanted = hash.clone();
        let found = inner.db.read(async move |read| {
            let sql = "SELECT account, seen FROM session WHERE token_hash = ? AND expires > ?";
            let Some(row) = read.query_optional(sql, params![wanted, now]).await? else {
                return Ok::<_, Error>(None);
            };
            Ok(Some((row.get("account")?, row.get("seen")?)))
        });
        let found: Option<(AccountId, Timestamp)> = found.await.map_err(unavailable)?;
        let (account, seen) = found.ok_or(Refused::Unauthenticated)?;
        let principal = self.holder(account).ok_or(Refused::Unauthenticated)?;
        if now.since(seen) >= inner.config.session_touch {
            let expires = now.plus(inner.config.session_time_max);
            let touched = inner.db.write(async move |tx| {
                let sql = "UPDATE session SET seen = ?, expires = ? WHERE token_hash = ?";
                tx.execute(sql, params![now, expires, hash]).await?;
                Ok::<_, Error>(())
            });
            // The session is good all the same; its next use tries again.
            if let Err(error) = touched.await {
                tracing::warn!(%error, "a session's use could not be written down");
            }
        }
        Ok(principal)
    }

    /// Ends a session; one that is not there is ended already.
    pub async fn sign_out(&self, token: &str) -> Result<(), Error> {
        let Some(hash) = token::hash(token) else { return Ok(()) };
        let hash = token::hex(&hash);
        let base = self.0.base.clone();
        self.0
            .db
            .write(async move |tx| {
                let sql = "SELECT account, organisation FROM session WHERE token_hash = ?";
                let Some(row) = tx.query_optional(sql, params![hash]).await? else {
                    return Ok::<_, Error>(());
                };
                let account: AccountId = row.get("account")?;
                tx.execute("DELETE FROM session WHERE token_hash = ?", params![hash]).await?;
                let change = Change {
                    organisation: row.get("organisation")?,
                    subject: format!("account:{account}"),
                    action: "session.sign-out",
                    resource: format!("account/{account}"),
                    detail: String::new(),
                };
                note(tx, &base, &change).await
            })
            .await?;
        self.changed();
        Ok(())
    }

    fn begun(&self, account: AccountId, token: String) -> Result<NewSession, Error> {
        let principal = self.holder(account).ok_or(Error::SignInFailed)?;
        Ok(NewSession { token, lifetime: self.0.config.session_time_max, principal })
    }

    fn holder(&self, id: AccountId) -> Option<Principal> {
        let live = self.0.live.read();
        let account = live.accounts.get(&id)?;
        Some(Principal {
            organisation: account.organisation,
            subject: Subject::Account(id),
            name: account.email.clone(),
        })
    }
}

async fn begin(
    tx: &mut Tx,
    base: &Base,
    beginning: &Beginning,
    action: &'static str,
) -> Result<(), Error> {
    let Beginning { token, account, organisation, now, expires, kept } = beginning;
    let hash = token::hash(token).ok_or(Error::SignInFailed)?;
    let sql = "INSERT INTO session (token_hash, organisation, account, created, seen, expires)
        VALUES (?, ?, ?, ?, ?, ?)";
    let values = params![token::hex(&hash), organisation, account, now, now, expires];
    tx.execute(sql, values).await?;
    let sql = "SELECT token_hash FROM session WHERE account = ? AND token_hash <> ?
        ORDER BY created DESC, token_hash LIMIT 1000 OFFSET ?";
    let others = kept.saturating_sub(1);
    for row in tx.query(sql, params![account, token::hex(&hash), others]).await? {
        let old: String = row.get("token_hash")?;
        tx.execute("DELETE FROM session WHERE token_hash = ?", params![old]).await?;
    }
    let sql = "UPDATE account SET signed_in = ? WHERE id = ?";
    tx.execute(sql, params![now, account]).await?;
    let change = Change {
        organisation: *organisation,
        subject: format!("account:{account}"),
        action,
        resource: format!("account/{account}"),
        detail: String::new(),
    };
    note(tx, base, &change).await
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: Error) -> Refused {
    tracing::warn!(%error, "a session could not be looked up");
    Refused::Unavailable
}
