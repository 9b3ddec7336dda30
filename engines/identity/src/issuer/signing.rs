use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use base::{Id, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use relational::{Row, Tx, params};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, PublicKeyComponents};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};
use serde_json::{Value, json};

use crate::{Error, Identity, jwt};

/// Marks the ids of keys; never a value.
#[derive(Debug)]
enum SigningKeys {}

/// How what a tool is told is signed (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Algorithm {
    #[default]
    Es256,
    /// For tools that know nothing else. Its keys are made once a tool wants it.
    Rs256,
}

impl Algorithm {
    pub const ALL: [Self; 2] = [Self::Es256, Self::Rs256];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|known| known.as_str() == text);
        known.ok_or(Error::NotThere("algorithm"))
    }
}

/// Signs what tools are told.
pub(super) struct SigningKey {
    id: Id<SigningKeys>,
    created: Timestamp,
    pair: Pair,
}

enum Pair {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
}

/// The keys as they were last read.
#[derive(Default)]
pub(crate) struct Signing(Mutex<Option<(Timestamp, Arc<[SigningKey]>)>>);

/// How long keys are not read anew, here and by tools. Shorter than any time for which a new one is shown.
pub(super) const KEPT: Duration = Duration::from_mins(1);
/// In the sealed text's place in rows.
const PLACE: &[u8] = b"signing_key.sealed";

impl SigningKey {
    fn read(stored: &Stored, document: &[u8]) -> Result<Self, Error> {
        let &Stored { id, created, algorithm, .. } = stored;
        let pair = match algorithm {
            Algorithm::Es256 => {
                let (algorithm, chance) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
                EcdsaKeyPair::from_pkcs8(algorithm, document, &chance)
                    .map(|pair| Pair::Es256(Box::new(pair)))
            }
            Algorithm::Rs256 => {
                RsaKeyPair::from_pkcs8(document).map(|pair| Pair::Rs256(Box::new(pair)))
            }
        };
        Ok(Self { id, created, pair: pair.map_err(|_| Error::Stored("signing key"))? })
    }

    fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Es256(_) => Algorithm::Es256,
            Pair::Rs256(_) => Algorithm::Rs256,
        }
    }

    /// As tools read it (RFC 7518, sections 6.2 and 6.3).
    pub(super) fn public(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match &self.pair {
            Pair::Es256(pair) => {
                // A byte says that both coordinates follow.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
            Pair::Rs256(pair) => {
                let PublicKeyComponents { n, e } =
                    PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": text(&n), "e": text(&e) })
            }
        };
        key["use"] = "sig".into();
        key["alg"] = self.algorithm().as_str().into();
        key["kid"] = self.id.to_string().into();
        key
    }

    fn sign(&self, claims: &Value) -> Result<String, Error> {
        let algorithm = self.algorithm().as_str();
        let head =
            json!({ "alg": algorithm, "typ": "JWT", "kid": self.id.to_string() }).to_string();
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let text = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(head));
        let failed = |_| Error::Stored("signing key");
        let chance = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Es256(pair) => {
                pair.sign(&chance, text.as_bytes()).map_err(failed)?.as_ref().to_vec()
            }
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &chance, text.as_bytes(), &mut signature)
                    .map_err(failed)?;
                signature
            }
        };
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A new key, as PKCS #8. For RSA that is tens of milliseconds of work, so it is for a thread that may wait.
fn generate(algorithm: Algorithm) -> Result<Vec<u8>, Error> {
    let made = match algorithm {
        Algorithm::Es256 => {
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map(|made| made.as_ref().to_vec())
                .ok()
        }
        // `ring` signs with such keys and makes none.
        Algorithm::Rs256 => aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048)
            .and_then(|pair| AsDer::<Pkcs8V1Der<'static>>::as_der(&pair))
            .map(|made| made.as_ref().to_vec())
            .ok(),
    };
    made.ok_or(Error::Stored("signing key"))
}

/// A key's row.
struct Stored {
    id: Id<SigningKeys>,
    created: Timestamp,
    algorithm: Algorithm,
    sealed: Vec<u8>,
}

impl Stored {
    fn of(row: &Row) -> Result<Self, Error> {
        // Those of before had no word for it.
        let algorithm: Option<String> = row.get("algorithm")?;
        let algorithm = algorithm.map(|text| text.parse()).transpose();
        Ok(Self {
            id: row.get("id")?,
            created: row.get("created")?,
            algorithm: algorithm.map_err(|_| Error::Stored("signing key"))?.unwrap_or_default(),
            sealed: row.get("sealed")?,
        })
    }
}

impl Identity {
    /// Signs with the newest key that was shown for long enough, or with the only one.
    pub(super) async fn sign(&self, claims: &Value, by: Algorithm) -> Result<String, Error> {
        let shown = self.0.base.clock.now().minus(self.0.config.signing_announced);
        let mut keys = self.signing_keys().await?;
        if keys.iter().all(|key| key.algorithm() != by) {
            // The first tool that wants it was made known since, maybe by another node.
            self.forget_signing_keys();
            keys = self.signing_keys().await?;
        }
        let mut fitting = keys.iter().filter(|key| key.algorithm() == by);
        let newest = fitting.clone().rev().find(|key| key.created <= shown);
        let key = newest.or_else(|| fitting.next()).ok_or(Error::Stored("signing key"))?;
        key.sign(claims)
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

    pub(super) fn forget_signing_keys(&self) {
        *self.0.signing.0.lock() = None;
    }

    async fn read_signing_keys(&self, now: Timestamp) -> Result<Vec<SigningKey>, Error> {
        let mut made = vec![];
        let stored = loop {
            let (stored, missing) = self.stored_signing_keys(now, made).await?;
            let Some(algorithm) = missing else { break stored };
            let document = tokio::task::spawn_blocking(move || generate(algorithm)).await;
            let document = document.map_err(|_| Error::Stored("signing key"))??;
            let sealed = self.0.seal.close(PLACE, &document);
            let id = Id::new(now, &self.0.base.entropy);
            made = vec![Stored { id, created: now, algorithm, sealed }];
        };
        let open = |stored: Stored| {
            let document = self.0.seal.open_closed(PLACE, &stored.sealed);
            SigningKey::read(&stored, &document.ok_or(Error::SealBroken)?)
        };
        stored.into_iter().map(open).collect()
    }

    /// The keys in rows, with those that were made where they are still due, and the algorithm of which another one is due.
    async fn stored_signing_keys(
        &self,
        now: Timestamp,
        made: Vec<Stored>,
    ) -> Result<(Vec<Stored>, Option<Algorithm>), Error> {
        let config = &self.0.config;
        // What the key before signed is believed until its time is over, and a while after.
        let gone = now.minus(config.signing_time_max * 2);
        let due = now.minus(config.signing_time_max.saturating_sub(config.signing_announced));
        let read = self.0.db.write(async move |tx| {
            let sql = "SELECT COUNT(*) AS there FROM tool WHERE algorithm = ?";
            let rs256 = Algorithm::Rs256.as_str();
            let wanting: i64 = tx.query_one(sql, params![rs256]).await?.get("there")?;
            let keys = "SELECT id, sealed, algorithm, created FROM signing_key
                ORDER BY created, id LIMIT 100";
            let all = async |tx: &mut Tx| {
                let rows = tx.query(keys, params![]).await?;
                rows.iter().map(Stored::of).collect::<Result<Vec<_>, Error>>()
            };
            let is_due = |keys: &[Stored], algorithm: Algorithm| {
                let is_wanted = algorithm == Algorithm::default() || wanting > 0;
                is_wanted && keys.iter().all(|key| key.algorithm != algorithm || key.created <= due)
            };
            let mut found = all(tx).await?;
            // Of two nodes that make one at once, one counts.
            for new in made.iter().filter(|new| is_due(&found, new.algorithm)) {
                let sql = "INSERT INTO signing_key (id, sealed, algorithm, created)
                    VALUES (?, ?, ?, ?)";
                let values = params![new.id, new.sealed, new.algorithm.as_str(), new.created];
                tx.execute(sql, values).await?;
                let sql = "DELETE FROM signing_key WHERE created <= ? AND id <> ?";
                tx.execute(sql, params![gone, new.id]).await?;
            }
            if !made.is_empty() {
                found = all(tx).await?;
            }
            let missing = Algorithm::ALL.into_iter().find(|it| is_due(&found, *it));
            Ok::<_, Error>((found, missing))
        });
        read.await
    }
}
