use std::sync::Arc;
use std::time::Duration;

use base::{Id, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use relational::params;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::{Error, Identity, jwt};

/// Marks the ids of keys; never a value.
#[derive(Debug)]
enum SigningKeys {}

/// Signs what tools are told, by ES256 (RFC 7518, section 3.4): `ring` makes no keys for RSA.
pub(super) struct SigningKey {
    id: Id<SigningKeys>,
    created: Timestamp,
    pair: EcdsaKeyPair,
}

/// The keys as they were last read.
#[derive(Default)]
pub(crate) struct Signing(Mutex<Option<(Timestamp, Arc<[SigningKey]>)>>);

/// How long keys are not read anew, here and by tools. Shorter than any time for which a new one is shown.
pub(super) const KEPT: Duration = Duration::from_mins(1);
/// In the sealed text's place in rows.
const PLACE: &[u8] = b"signing_key.sealed";

impl SigningKey {
    fn read(id: Id<SigningKeys>, created: Timestamp, document: &[u8]) -> Result<Self, Error> {
        let (algorithm, chance) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document, &chance);
        Ok(Self { id, created, pair: pair.map_err(|_| Error::Stored("signing key"))? })
    }

    /// As tools read it (RFC 7518, section 6.2).
    pub(super) fn public(&self) -> Value {
        // A byte says that both coordinates follow.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id.to_string(),
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    fn sign(&self, claims: &Value) -> Result<String, Error> {
        let head = json!({ "alg": "ES256", "typ": "JWT", "kid": self.id.to_string() }).to_string();
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let text = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(head));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.map_err(|_| Error::Stored("signing key"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

impl Identity {
    /// Signs with the newest key that was shown for long enough, or with the only one.
    pub(super) async fn sign(&self, claims: &Value) -> Result<String, Error> {
        let shown = self.0.base.clock.now().minus(self.0.config.signing_announced);
        let keys = self.signing_keys().await?;
        let newest = keys.iter().rev().find(|key| key.created <= shown).or_else(|| keys.first());
        newest.ok_or(Error::Stored("signing key"))?.sign(claims)
    }

    /// What a token says that this server signed for a tool, however old it is.
    pub(super) async fn signed_here(&self, token: &str) -> Result<Option<Value>, Error> {
        let keys: Vec<Value> = self.signing_keys().await?.iter().map(SigningKey::public).collect();
        Ok(jwt::signed(token, &json!({ "keys": keys })))
    }

    /// Those that count, oldest first. A new one is made before the newest has signed for its time.
    pub(super) async fn signing_keys(&self) -> Result<Arc<[SigningKey]>, Error> {
        let now = self.0.base.clock.now();
        if let Some((read, keys)) = &*self.0.signing.0.lock()
            && now.since(*read) < KEPT
        {
            return Ok(keys.clone());
        }
        let keys: Arc<[SigningKey]> = self.read_signing_keys(now).await?.into();
        *self.0.signing.0.lock() = Some((now, keys.clone()));
        Ok(keys)
    }

    async fn read_signing_keys(&self, now: Timestamp) -> Result<Vec<SigningKey>, Error> {
        let config = &self.0.config;
        // What the key before signed is believed until its time is over, and a while after.
        let gone = now.minus(config.signing_time_max * 2);
        let due = now.minus(config.signing_time_max.saturating_sub(config.signing_announced));
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| Error::Stored("signing key"))?;
        let sealed = self.0.seal.close(PLACE, made.as_ref());
        let id: Id<SigningKeys> = Id::new(now, &self.0.base.entropy);
        // Of two nodes that make one at once, one counts.
        let rows = self.0.db.write(async move |tx| {
            let newest = "SELECT created FROM signing_key ORDER BY created DESC, id DESC LIMIT 1";
            let newest = tx.query_optional(newest, params![]).await?;
            let newest = newest.map(|row| row.get::<Timestamp>("created")).transpose()?;
            if newest.is_none_or(|newest| newest <= due) {
                let sql = "INSERT INTO signing_key (id, sealed, created) VALUES (?, ?, ?)";
                tx.execute(sql, params![id, sealed, now]).await?;
                let sql = "DELETE FROM signing_key WHERE created <= ? AND id <> ?";
                tx.execute(sql, params![gone, id]).await?;
            }
            let sql = "SELECT id, sealed, created FROM signing_key ORDER BY created, id LIMIT 100";
            let rows = tx.query(sql, params![]).await?;
            rows.iter()
                .map(|row| Ok((row.get("id")?, row.get("created")?, row.get("sealed")?)))
                .collect::<Result<Vec<(Id<SigningKeys>, Timestamp, Vec<u8>)>, Error>>()
        });
        let open = |(id, created, sealed): (_, _, Vec<u8>)| {
            let document = self.0.seal.open_closed(PLACE, &sealed).ok_or(Error::SealBroken)?;
            SigningKey::read(id, created, &document)
        };
        rows.await?.into_iter().map(open).collect()
    }
}
