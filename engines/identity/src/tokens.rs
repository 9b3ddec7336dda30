//! Sessions of apps: a text to show with each request, and one to exchange for the next two (RFC 9700 section 4.14).

use base::access::{Door, Principal, Refused};
use base::{AccountId, OrganisationId, Timestamp};
use relational::{Tx, params};
use subtle::ConstantTimeEq;

use crate::audit::{Change, note};
use crate::live::LiveSession;
use crate::sessions::{AccessToken, NewSession, SessionId, delete, unavailable};
use crate::{Error, Identity, token};

/// What came of an exchange.
enum Exchanged {
    Next {
        id: SessionId,
        account: AccountId,
        expires: Timestamp,
    },
    /// The text had been exchanged before: somebody else has it too.
    Again(SessionId),
    Unknown,
}

/// The texts that follow.
#[derive(Clone)]
struct Next {
    refresh: String,
    access: String,
    now: Timestamp,
    access_expires: Timestamp,
}

impl Identity {
    /// Exchanges a text for the next two. Each is good for one exchange: one that comes again was stolen, or its
    /// successor was, so the session ends for both who have it.
    pub async fn refresh(&self, refresh: &str) -> Result<NewSession, Error> {
        let inner = &self.0;
        let given = token::refresh_secret(refresh).and_then(token::stored);
        let given = given.ok_or(Error::TokenInvalid)?;
        let (entropy, now) = (&inner.base.entropy, inner.base.clock.now());
        let next = Next {
            refresh: token::secret(entropy),
            access: token::secret(entropy),
            now,
            access_expires: now.plus(inner.config.access_time_max),
        };
        let (base, wanted) = (inner.base.clone(), next.clone());
        let exchanged = inner.db.write(async move |tx| {
            let exchanged = exchange(tx, &given, &wanted).await?;
            if let Exchanged::Again(id) = exchanged {
                let sql = "SELECT organisation, account FROM session WHERE id = ?";
                if let Some(row) = tx.query_optional(sql, params![id]).await? {
                    let (organisation, account) = (row.get("organisation")?, row.get("account")?);
                    delete(tx, id).await?;
                    note(tx, &base, &reused(organisation, account, id)).await?;
                }
            }
            Ok::<_, Error>(exchanged)
        });
        let (id, account, expires) = match exchanged.await? {
            Exchanged::Next { id, account, expires } => (id, account, expires),
            Exchanged::Again(id) => {
                self.ended(&[id]);
                return Err(Error::TokenInvalid);
            }
            Exchanged::Unknown => return Err(Error::TokenInvalid),
        };
        let principal = self.holder(account).ok_or(Error::TokenInvalid)?;
        // The one before goes from memory, so that only the newest opens.
        let mut live = inner.live.write();
        live.generation += 1;
        live.sessions.remove(&id);
        drop(live);
        Ok(NewSession {
            id,
            token: token::refresh_text(&next.refresh),
            lifetime: expires.since(now),
            access: Some(AccessToken {
                text: token::access_text(id, &next.access),
                lifetime: inner.config.access_time_max,
            }),
            principal,
        })
    }

    /// Ends an app's session by the text that it would exchange (RFC 7009). One that is not there is ended already.
    pub async fn end_tokens(&self, refresh: &str) -> Result<(), Error> {
        let given = token::refresh_secret(refresh).and_then(token::stored);
        let Some(hash) = given else { return Ok(()) };
        let sql = "SELECT id, account, organisation FROM session WHERE token_hash = ?";
        self.end(sql, hash, "session.sign-out").await?;
        Ok(())
    }

    /// Finds the holder of the text that an app shows. Answered from memory, but for the first time.
    pub(crate) async fn token_holder(
        &self,
        door: Door,
        id: SessionId,
        secret: &str,
    ) -> Result<Principal, Refused> {
        if door != Door::Http {
            return Err(Refused::Unauthenticated);
        }
        let given = token::hash(secret).ok_or(Refused::Unauthenticated)?;
        let now = self.0.base.clock.now();
        let known = self.0.live.read().sessions.get(&id).copied();
        let session = match known {
            Some(session) => session,
            None => self.load_session(id, now).await?.ok_or(Refused::Unauthenticated)?,
        };
        let is_right = bool::from(given.ct_eq(&session.access_hash));
        if !is_right || session.access_expires <= now {
            return Err(Refused::Unauthenticated);
        }
        self.holder(session.account).ok_or(Refused::Unauthenticated)
    }

    async fn load_session(
        &self,
        id: SessionId,
        now: Timestamp,
    ) -> Result<Option<LiveSession>, Refused> {
        let before = self.0.live.read().generation;
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT account, access_hash, access_expires FROM session
                WHERE id = ? AND kind = 'tokens' AND expires > ?";
            let Some(row) = read.query_optional(sql, params![id, now]).await? else {
                return Ok::<_, Error>(None);
            };
            let hash: String = row.get("access_hash")?;
            Ok(Some(LiveSession {
                account: row.get("account")?,
                access_hash: token::from_hex(&hash).ok_or(Error::Stored("hash of a session"))?,
                access_expires: row.get("access_expires")?,
            }))
        });
        let found = found.await.map_err(unavailable)?;
        let Some(session) = found else { return Ok(None) };
        let mut live = self.0.live.write();
        // What ended while it was read must not come back into memory.
        if live.generation == before {
            if live.sessions.len() >= self.0.config.sessions_in_memory_max {
                live.sessions.clear();
            }
            live.sessions.insert(id, session);
        }
        Ok(Some(session))
    }
}

async fn exchange(tx: &mut Tx, given: &str, next: &Next) -> Result<Exchanged, Error> {
    let sql = "SELECT id, organisation, account, expires FROM session
        WHERE token_hash = ? AND kind = 'tokens' AND expires > ?";
    let Some(row) = tx.query_optional(sql, params![given, next.now]).await? else {
        let sql = "SELECT session FROM spent_token WHERE token_hash = ?";
        let spent = tx.query_optional(sql, params![given]).await?;
        return Ok(match spent {
            Some(row) => Exchanged::Again(row.get("session")?),
            None => Exchanged::Unknown,
        });
    };
    let (id, account): (SessionId, AccountId) = (row.get("id")?, row.get("account")?);
    let (organisation, expires): (OrganisationId, Timestamp) =
        (row.get("organisation")?, row.get("expires")?);
    let sql = "INSERT INTO spent_token (token_hash, organisation, session, expires)
        VALUES (?, ?, ?, ?)";
    tx.execute(sql, params![given, organisation, id, expires]).await?;
    let refresh = token::stored(&next.refresh).ok_or(Error::TokenInvalid)?;
    let access = token::stored(&next.access).ok_or(Error::TokenInvalid)?;
    let sql = "UPDATE session SET token_hash = ?, access_hash = ?, access_expires = ?, seen = ?
        WHERE id = ? AND token_hash = ?";
    let values = params![refresh, access, next.access_expires, next.now, id, given];
    if tx.execute(sql, values).await? == 0 {
        return Ok(Exchanged::Again(id));
    }
    Ok(Exchanged::Next { id, account, expires })
}

fn reused(organisation: OrganisationId, account: AccountId, id: SessionId) -> Change {
    Change {
        organisation,
        subject: format!("account:{account}"),
        door: Some(Door::Http),
        action: "session.token-reused",
        resource: format!("session/{id}"),
        detail: "a token was exchanged twice: the session ended".into(),
    }
}
