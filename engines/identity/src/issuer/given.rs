use std::time::Duration;

use base::access::Door;
use base::{AccountId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relational::{Tx, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ACCESS, Algorithm, GRANT, Grant, REFRESH, Shown, Tool, ToolId, delete, seconds};
use crate::audit::{Change, note};
use crate::{Error, Identity, token};

/// What a tool shows to exchange a code (RFC 6749, section 4.1.3).
#[derive(Clone, Default)]
pub struct Exchange {
    pub tool: Shown,
    pub code: String,
    pub redirect_uri: String,
    pub code_verifier: String,
}

/// What a tool gets.
pub struct Issued {
    pub access_token: String,
    pub lifetime: Duration,
    pub refresh_token: Option<String>,
    pub id_token: String,
    pub scope: String,
}

/// The texts that come next, and until when they count.
#[derive(Clone)]
struct Next {
    now: Timestamp,
    access: String,
    access_expires: Timestamp,
    refresh: String,
    expires: Timestamp,
}

const NOT_VALID: Error = Error::OfTool("invalid_grant", "it is not valid, or was used");
/// RFC 7636, section 4.1.
const VERIFIER_BYTES: std::ops::RangeInclusive<usize> = 43..=128;

impl Identity {
    /// Exchanges a code. One that comes twice was stolen, or the first was: what was given for it ends.
    pub async fn exchange_code(&self, given: Exchange) -> Result<Issued, Error> {
        let Tool { id: tool, algorithm, .. } = self.shown_tool(&given.tool).await?;
        let hash = token::stored(&given.code).ok_or(NOT_VALID)?;
        let next = self.next();
        let (base, wanted) = (self.0.base.clone(), next.clone());
        let used = self.0.db.write(async move |tx| {
            let sql = format!("{GRANT} AND code_hash = ? AND tool = ?");
            let row = tx.query_optional(&sql, params![hash, tool]).await?;
            let Some(grant) = row.as_ref().map(Grant::of).transpose()? else { return Ok(None) };
            if grant.is_used {
                delete(tx, grant.id).await?;
                note(tx, &base, &reused(&grant)).await?;
                return Ok(None);
            }
            // Who has a code and not what goes with it is somebody else, and gets no second try.
            if !is_fitting(&grant, &given) || grant.code_expires <= wanted.now {
                delete(tx, grant.id).await?;
                return Ok(None);
            }
            renew(tx, &grant, &wanted).await?;
            let sql = "UPDATE tool_grant SET code_used = ? WHERE id = ?";
            tx.execute(sql, params![wanted.now, grant.id]).await?;
            Ok::<_, Error>(Some(grant))
        });
        let grant = used.await?.ok_or(NOT_VALID)?;
        self.issued(&grant, next, (grant.nonce.as_deref(), algorithm)).await
    }

    /// Exchanges a refresh token for the next two texts (RFC 9700, section 4.14). One that comes twice ends what it was of.
    pub async fn refresh_tool(&self, shown: &Shown, refresh: &str) -> Result<Issued, Error> {
        let Tool { id: tool, algorithm, .. } = self.shown_tool(shown).await?;
        let hash = refresh.strip_prefix(REFRESH).and_then(token::stored).ok_or(NOT_VALID)?;
        let next = self.next();
        let (base, wanted) = (self.0.base.clone(), next.clone());
        let used = self.0.db.write(async move |tx| {
            let sql = format!("{GRANT} AND refresh_hash = ? AND tool = ? AND expires > ?");
            let row = tx.query_optional(&sql, params![hash, tool, wanted.now]).await?;
            let Some(grant) = row.as_ref().map(Grant::of).transpose()? else {
                if let Some(grant) = spent(tx, &hash, tool).await? {
                    delete(tx, grant.id).await?;
                    note(tx, &base, &reused(&grant)).await?;
                }
                return Ok(None);
            };
            let sql = "INSERT INTO tool_spent (token_hash, organisation, given, expires)
                VALUES (?, ?, ?, ?)";
            let values = params![hash, grant.organisation, grant.id, grant.expires];
            tx.execute(sql, values).await?;
            renew(tx, &grant, &wanted).await?;
            Ok::<_, Error>(Some(grant))
        });
        let grant = used.await?.ok_or(NOT_VALID)?;
        self.issued(&grant, next, (None, algorithm)).await
    }

    /// Who somebody is, for a tool that shows what it got. Asked of rows each time.
    pub async fn user_info(&self, access: &str) -> Result<Value, Error> {
        let grant = self.grant_of_access(access).await?.ok_or(Error::TokenInvalid)?;
        self.claims(grant.account, &grant.scope).ok_or(Error::TokenInvalid)
    }

    /// What a text of a tool's own still opens (RFC 7662). Only for tools that show a secret.
    pub async fn introspect(&self, shown: &Shown, text: &str) -> Result<Value, Error> {
        let tool = self.shown_tool(shown).await?;
        if !tool.has_secret {
            let why = "only a client with a secret may ask";
            return Err(Error::OfTool("invalid_client", why));
        }
        let is_access = text.starts_with(ACCESS);
        let found = if is_access {
            self.grant_of_access(text).await?
        } else {
            self.grant_of_refresh(text).await?
        };
        let found = found.filter(|grant| grant.tool == tool.id);
        let holder = found.as_ref().and_then(|grant| self.holder(grant.account));
        let (Some(grant), Some(holder)) = (found, holder) else {
            return Ok(json!({ "active": false }));
        };
        let ends = if is_access { grant.access_expires } else { Some(grant.expires) };
        Ok(json!({
            "active": true,
            "scope": grant.scope,
            "client_id": tool.id.to_string(),
            "username": *holder.name,
            "token_type": if is_access { "Bearer" } else { "refresh_token" },
            "exp": ends.map(seconds),
            "sub": grant.account.to_string(),
            "aud": tool.id.to_string(),
            "iss": self.0.origin.text(),
        }))
    }

    /// Ends what a text is of (RFC 7009): the other texts end with it. One that is not there is ended already.
    pub async fn revoke_text(&self, shown: &Shown, text: &str) -> Result<(), Error> {
        let tool = self.shown_tool(shown).await?.id;
        let column = if text.starts_with(ACCESS) { "access_hash" } else { "refresh_hash" };
        let secret = text.strip_prefix(ACCESS).or_else(|| text.strip_prefix(REFRESH));
        let Some(hash) = secret.and_then(token::stored) else { return Ok(()) };
        let base = self.0.base.clone();
        let revoked = self.0.db.write(async move |tx| {
            let sql = format!("{GRANT} AND {column} = ? AND tool = ?");
            let Some(row) = tx.query_optional(&sql, params![hash, tool]).await? else {
                return Ok(());
            };
            let grant = Grant::of(&row)?;
            delete(tx, grant.id).await?;
            let change = change_of(&grant, "tool.revoke", "the tool gave it back");
            note(tx, &base, &change).await
        });
        revoked.await
    }

    async fn grant_of_access(&self, access: &str) -> Result<Option<Grant>, Error> {
        self.grant_by(ACCESS, "access_hash = ? AND access_expires > ?", access).await
    }

    async fn grant_of_refresh(&self, refresh: &str) -> Result<Option<Grant>, Error> {
        self.grant_by(REFRESH, "refresh_hash = ? AND expires > ?", refresh).await
    }

    async fn grant_by(
        &self,
        begin: &str,
        condition: &'static str,
        text: &str,
    ) -> Result<Option<Grant>, Error> {
        let Some(hash) = text.strip_prefix(begin).and_then(token::stored) else { return Ok(None) };
        let now = self.0.base.clock.now();
        let found = self.0.db.read(async move |read| {
            let sql = format!("{GRANT} AND {condition}");
            let row = read.query_optional(&sql, params![hash, now]).await?;
            row.as_ref().map(Grant::of).transpose()
        });
        let found = found.await?;
        // Somebody whose address is not theirs any more is nobody to tools.
        Ok(found.filter(|grant| !self.is_unverified(grant.account)))
    }

    fn next(&self) -> Next {
        let (entropy, now) = (&self.0.base.entropy, self.0.base.clock.now());
        Next {
            now,
            access: token::secret(entropy),
            access_expires: now.plus(self.0.config.access_time_max),
            refresh: token::secret(entropy),
            expires: now.plus(self.0.config.tool_time_max),
        }
    }

    /// Writes the texts of a grant that was just renewed, and signs who it is of.
    async fn issued(
        &self,
        grant: &Grant,
        next: Next,
        (nonce, algorithm): (Option<&str>, Algorithm),
    ) -> Result<Issued, Error> {
        let lifetime = self.0.config.access_time_max;
        let access_token = format!("{ACCESS}{}", next.access);
        let mut claims = self.claims_of(grant.account, &grant.scope)?;
        claims["iss"] = self.0.origin.text().into();
        claims["aud"] = grant.tool.to_string().into();
        claims["iat"] = seconds(next.now).into();
        claims["exp"] = seconds(next.now.plus(lifetime)).into();
        claims["auth_time"] = seconds(grant.auth_time).into();
        // OpenID Connect Core 1.0, section 3.1.3.6.
        let left = &Sha256::digest(access_token.as_bytes())[..16];
        claims["at_hash"] = URL_SAFE_NO_PAD.encode(left).into();
        if let Some(methods) = &grant.methods {
            claims["amr"] = methods.split(' ').collect::<Vec<_>>().into();
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let id_token = self.sign(&claims, algorithm).await?;
        let refresh_token = grant.is_offline.then(|| format!("{REFRESH}{}", next.refresh));
        let scope = grant.scope.clone();
        Ok(Issued { access_token, lifetime, refresh_token, id_token, scope })
    }

    fn claims_of(&self, account: AccountId, scope: &str) -> Result<Value, Error> {
        self.claims(account, scope).filter(|_| !self.is_unverified(account)).ok_or(NOT_VALID)
    }
}

/// Whether a code is used for what it was given for (RFC 7636, section 4.6).
fn is_fitting(grant: &Grant, given: &Exchange) -> bool {
    let verifier = given.code_verifier.as_bytes();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    VERIFIER_BYTES.contains(&verifier.len())
        && bool::from(challenge.as_bytes().ct_eq(grant.challenge.as_bytes()))
        && grant.redirect_uri == given.redirect_uri
}

async fn renew(tx: &mut Tx, grant: &Grant, next: &Next) -> Result<(), Error> {
    let access = token::stored(&next.access);
    let refresh = token::stored(&next.refresh).filter(|_| grant.is_offline);
    // The time of a grant goes on from the answer, however often it is renewed.
    let expires = match (grant.is_offline, grant.is_used) {
        (true, true) => grant.expires,
        (true, false) => next.expires,
        (false, _) => next.access_expires,
    };
    let sql =
        "UPDATE tool_grant SET access_hash = ?, access_expires = ?, refresh_hash = ?, expires = ?
        WHERE id = ?";
    tx.execute(sql, params![access, next.access_expires, refresh, expires, grant.id]).await?;
    Ok(())
}

/// What a refresh token was of that was exchanged before.
async fn spent(tx: &mut Tx, hash: &str, tool: ToolId) -> Result<Option<Grant>, Error> {
    let sql = format!(
        "{GRANT} AND tool = ? AND id IN (SELECT given FROM tool_spent WHERE token_hash = ?)"
    );
    let row = tx.query_optional(&sql, params![tool, hash]).await?;
    row.as_ref().map(Grant::of).transpose()
}

fn reused(grant: &Grant) -> Change {
    change_of(grant, "tool.token-reused", "a code or token came twice: what was given for it ended")
}

fn change_of(grant: &Grant, action: &'static str, detail: &str) -> Change {
    Change {
        organisation: grant.organisation,
        subject: format!("account:{}", grant.account),
        door: Some(Door::Http),
        action,
        resource: format!("tool/{}", grant.tool),
        detail: detail.into(),
    }
}
