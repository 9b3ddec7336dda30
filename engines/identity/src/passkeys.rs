//! Passkeys: made and shown by browsers (Web Authentication), known here by their public keys.

use std::net::IpAddr;

use base::access::{Door, Principal, Subject};
use base::{AccountId, Id, OrganisationId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relational::{Row, Tx, params};

use crate::accounts::normal_name;
use crate::audit::{By, Change, note};
use crate::letters::Changed;
use crate::sessions::{Holds, NewSession, Visitor, account_of};
use crate::webauthn::{self, Party};
use crate::{Error, Identity, token};

/// Names a passkey here; authenticators know it by another id.
pub type PasskeyId = Id<Passkeys>;

/// Marks the ids of passkeys; never a value.
#[derive(Debug)]
pub enum Passkeys {}

/// A passkey as its account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    pub id: PasskeyId,
    pub name: String,
    /// It is on more than one device.
    pub is_backed_up: bool,
    pub created: Timestamp,
    pub used: Option<Timestamp>,
}

/// What a browser is told to make a passkey with; ids and challenge are base64url.
#[derive(Debug, Clone)]
pub struct PasskeyRequest {
    pub challenge: String,
    pub relying_party: String,
    /// Nothing where a passkey is shown rather than made.
    pub user: Option<PasskeyUser>,
    /// COSE's numbers of algorithms, best first.
    pub algorithms: Vec<i64>,
    pub lifetime: std::time::Duration,
}

#[derive(Debug, Clone)]
pub struct PasskeyUser {
    pub id: String,
    pub name: String,
    /// Passkeys that the account has: the same authenticator makes no second one.
    pub has: Vec<String>,
}

/// What a browser answers when it made one.
#[derive(Debug, Clone)]
pub struct NewPasskey {
    pub name: String,
    pub client_data: Vec<u8>,
    pub attestation: Vec<u8>,
}

/// What a browser answers when it showed one.
#[derive(Debug, Clone)]
pub struct ShownPasskey {
    pub credential: Vec<u8>,
    pub client_data: Vec<u8>,
    pub authenticator_data: Vec<u8>,
    pub signature: Vec<u8>,
    /// Whose it is, by the authenticator.
    pub user: Vec<u8>,
}

/// A passkey as it is stored, with whose it is.
struct Stored {
    id: PasskeyId,
    account: AccountId,
    organisation: OrganisationId,
    public_key: Vec<u8>,
    counter: i64,
}

const NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
const CHALLENGE_BYTES: usize = 8 + NONCE_BYTES + TAG_BYTES;
/// The purpose that tags of challenges are for.
const TAGS: &str = "madang identity tags";
const NOBODY: [u8; 16] = [0; 16];

impl Identity {
    /// Begins to make a passkey.
    pub async fn begin_passkey(
        &self,
        by: By<'_>,
        from: IpAddr,
        password: Option<&str>,
    ) -> Result<PasskeyRequest, Error> {
        let account = account_of(by.0)?;
        let (relying_party, _) = self.0.origin.relying_party().ok_or(Error::NoPasskeys)?;
        self.again(account, from, password).await?;
        let has = self.0.db.read(async move |read| {
            let sql = "SELECT credential FROM passkey WHERE account = ? ORDER BY id LIMIT 1000";
            let rows = read.query(sql, params![account]).await?;
            let ids: Result<Vec<String>, _> =
                rows.iter().map(|row| row.get("credential")).collect();
            Ok::<_, Error>(ids?)
        });
        Ok(PasskeyRequest {
            challenge: self.challenge(account.bytes()),
            relying_party,
            user: Some(PasskeyUser {
                id: URL_SAFE_NO_PAD.encode(account.bytes()),
                name: by.0.name.to_string(),
                has: has.await?,
            }),
            algorithms: webauthn::ALGORITHMS.to_vec(),
            lifetime: self.0.config.passkey_time_max,
        })
    }

    /// Takes a passkey that was made.
    pub async fn add_passkey(&self, by: By<'_>, new: NewPasskey) -> Result<Passkey, Error> {
        let inner = &self.0;
        let account = account_of(by.0)?;
        let name = normal_name(&new.name)?;
        let (id, origin) = inner.origin.relying_party().ok_or(Error::NoPasskeys)?;
        let party = Party { id: &id, origin: &origin };
        let challenge = webauthn::challenge(party, "webauthn.create", &new.client_data);
        let challenge = challenge.map_err(Error::Passkey)?;
        let expires = self.check_challenge(&challenge, account.bytes())?;
        let made = webauthn::made(party, &new.attestation).map_err(Error::Passkey)?;

        let now = inner.base.clock.now();
        let passkey = Passkey {
            id: PasskeyId::new(now, &inner.base.entropy),
            name,
            is_backed_up: made.is_backed_up,
            created: now,
            used: None,
        };
        let change = Change {
            detail: passkey.name.clone(),
            ..Change::of(by, "factor.passkey-add", format!("passkey/{}", passkey.id))
        };
        let (base, row, organisation) = (inner.base.clone(), passkey.clone(), by.0.organisation);
        let max = inner.config.passkeys_per_account_max;
        let added = inner.db.write(async move |tx| {
            spend(tx, &challenge, expires).await?;
            let sql = "SELECT COUNT(*) AS there FROM passkey WHERE account = ?";
            let there: i64 = tx.query_one(sql, params![account]).await?.get("there")?;
            if there >= i64::from(max) {
                return Err(Error::Limit { what: "passkeys", max: max as usize });
            }
            let hash = credential_hash(&made.credential);
            let sql = "SELECT 1 AS there FROM passkey WHERE credential_hash = ?";
            if tx.query_optional(sql, params![hash]).await?.is_some() {
                return Err(Error::FactorExists);
            }
            let sql = "INSERT INTO passkey (id, organisation, account, name, credential_hash,
                    credential, public_key, counter, backed_up, created)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let (credential, key) = (URL_SAFE_NO_PAD.encode(&made.credential), &made.public_key);
            let Passkey { id, name, is_backed_up, created, .. } = &row;
            let values = params![
                id,
                organisation,
                account,
                name,
                hash,
                credential,
                key,
                made.counter,
                is_backed_up,
                created
            ];
            tx.execute(sql, values).await?;
            note(tx, &base, &change).await
        });
        added.await?;
        self.tell(account, Changed::Factors);
        Ok(passkey)
    }

    /// The passkeys of the principal's account, oldest first.
    pub async fn passkeys(&self, principal: &Principal) -> Result<Vec<Passkey>, Error> {
        let account = account_of(principal)?;
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT id, name, backed_up, created, used FROM passkey
                WHERE account = ? ORDER BY id LIMIT 1000";
            let rows = read.query(sql, params![account]).await?;
            rows.iter().map(passkey_row).collect::<Result<Vec<_>, Error>>()
        });
        found.await
    }

    /// Takes a passkey for lost.
    pub async fn remove_passkey(&self, by: By<'_>, id: PasskeyId) -> Result<(), Error> {
        let account = account_of(by.0)?;
        let change = Change::of(by, "factor.passkey-remove", format!("passkey/{id}"));
        let base = self.0.base.clone();
        let removed = self.0.db.write(async move |tx| {
            let sql = "DELETE FROM passkey WHERE id = ? AND account = ?";
            if tx.execute(sql, params![id, account]).await? == 0 {
                return Err(Error::NotThere("passkey"));
            }
            note(tx, &base, &change).await
        });
        removed.await?;
        self.tell(account, Changed::Factors);
        Ok(())
    }

    /// What a browser is told to show a passkey with. Nothing is stored for whoever asks.
    pub fn passkey_request(&self) -> Result<PasskeyRequest, Error> {
        let (relying_party, _) = self.0.origin.relying_party().ok_or(Error::NoPasskeys)?;
        Ok(PasskeyRequest {
            challenge: self.challenge(&NOBODY),
            relying_party,
            user: None,
            algorithms: webauthn::ALGORITHMS.to_vec(),
            lifetime: self.0.config.passkey_time_max,
        })
    }

    /// Lets in whoever shows a passkey. It is both factors: nothing else is asked.
    pub async fn passkey_sign_in(
        &self,
        visitor: &Visitor,
        shown: ShownPasskey,
        holds: Holds,
    ) -> Result<NewSession, Error> {
        let inner = &self.0;
        let (id, origin) = inner.origin.relying_party().ok_or(Error::NoPasskeys)?;
        let party = Party { id: &id, origin: &origin };
        let challenge = webauthn::challenge(party, "webauthn.get", &shown.client_data);
        let challenge = challenge.map_err(refused)?;
        let expires = self.check_challenge(&challenge, &NOBODY)?;
        let stored = self.stored_passkey(&shown.credential).await?;
        let signed = (&*shown.client_data, &*shown.authenticator_data, &*shown.signature);
        let signed = webauthn::signed(party, &stored.public_key, signed);
        let is_its_owner = shown.user[..] == stored.account.bytes()[..];
        let verdict = match signed {
            Ok(_) if !is_its_owner => Err("it is another's"),
            // Both stay at nought where an authenticator does not count.
            Ok(signed) if (signed.counter, stored.counter) == (0, 0) => Ok(signed),
            Ok(signed) if i64::from(signed.counter) > stored.counter => Ok(signed),
            Ok(_) => Err("it was shown more often than here: there is a copy of it"),
            Err(reason) => Err(reason),
        };
        let signed = verdict.map_err(|reason| {
            let account = Subject::Account(stored.account);
            inner.denials.unproved(stored.organisation, Door::Http, account);
            refused(reason)
        })?;
        if self.holder(stored.account).is_none() {
            return Err(Error::PasskeyRefused);
        }
        let whose = (stored.account, stored.organisation);
        let mut entry = self.entry(whose, holds, visitor, "session.passkey");
        entry.is_whole = true;
        let (identity, wanted) = (self.clone(), entry.clone());
        let entered = inner.db.write(async move |tx| {
            spend(tx, &challenge, expires).await?;
            let now = identity.0.base.clock.now();
            let sql = "UPDATE passkey SET counter = ?, backed_up = ?, used = ?
                WHERE id = ? AND counter = ?";
            let values =
                params![signed.counter, signed.is_backed_up, now, stored.id, stored.counter];
            // Gone, or shown by somebody else at the same moment.
            if tx.execute(sql, values).await? == 0 {
                return Err(Error::PasskeyRefused);
            }
            identity.enter(tx, &wanted).await
        });
        entered.await?;
        self.session_of(entry)
    }

    async fn stored_passkey(&self, credential: &[u8]) -> Result<Stored, Error> {
        let hash = credential_hash(credential);
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT id, account, organisation, public_key, counter FROM passkey
                WHERE credential_hash = ?";
            let row = read.query_optional(sql, params![hash]).await?;
            let row = row.ok_or(Error::PasskeyRefused)?;
            Ok(Stored {
                id: row.get("id")?,
                account: row.get("account")?,
                organisation: row.get("organisation")?,
                public_key: row.get("public_key")?,
                counter: row.get("counter")?,
            })
        });
        found.await
    }

    /// A challenge carries its end, and a tag that only this server can make for this account: so nothing is kept for
    /// those that nobody answers.
    fn challenge(&self, account: &[u8; 16]) -> String {
        let inner = &self.0;
        let expires = inner.base.clock.now().plus(inner.config.passkey_time_max);
        let expires = expires.micros().to_be_bytes();
        let nonce = inner.base.entropy.bytes::<NONCE_BYTES>();
        let tag = inner.seal.tag(TAGS, &[b"passkey", account, &expires, &nonce]);
        URL_SAFE_NO_PAD.encode([&expires[..], &nonce, &tag].concat())
    }

    /// Whether it is one of ours, for this account, in its time; gives its end.
    fn check_challenge(&self, challenge: &[u8], account: &[u8; 16]) -> Result<Timestamp, Error> {
        let challenge: &[u8; CHALLENGE_BYTES] =
            challenge.try_into().map_err(|_| refused("the challenge is not of this server"))?;
        let (said, tag) = challenge.split_at(8 + NONCE_BYTES);
        let (expires, nonce) = said.split_at(8);
        if !self.0.seal.is_tag(TAGS, &[b"passkey", account, expires, nonce], tag) {
            return Err(refused("the challenge is not of this server"));
        }
        let expires: [u8; 8] = expires.try_into().map_err(|_| Error::PasskeyRefused)?;
        let expires = Timestamp::from_micros(i64::from_be_bytes(expires));
        if expires <= self.0.base.clock.now() {
            return Err(refused("the challenge is too old"));
        }
        Ok(expires)
    }
}

/// A challenge is answered once.
pub(crate) async fn spend(tx: &mut Tx, challenge: &[u8], expires: Timestamp) -> Result<(), Error> {
    let hash = credential_hash(challenge);
    let sql = "SELECT 1 AS spent FROM spent_challenge WHERE challenge_hash = ?";
    if tx.query_optional(sql, params![hash]).await?.is_some() {
        return Err(refused("the challenge was answered before"));
    }
    let sql = "INSERT INTO spent_challenge (challenge_hash, expires) VALUES (?, ?)";
    tx.execute(sql, params![hash, expires]).await?;
    Ok(())
}

/// Whoever shows a passkey that does not fit learns nothing more; the log has why.
fn refused(reason: &'static str) -> Error {
    tracing::debug!(reason, "a passkey was refused");
    Error::PasskeyRefused
}

fn credential_hash(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    token::hex(&Sha256::digest(bytes))
}

fn passkey_row(row: &Row) -> Result<Passkey, Error> {
    Ok(Passkey {
        id: row.get("id")?,
        name: row.get("name")?,
        is_backed_up: row.get("backed_up")?,
        created: row.get("created")?,
        used: row.get("used")?,
    })
}
