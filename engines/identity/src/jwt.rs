//! Checks an ID token (OpenID Connect Core 1.0, section 3.1.3.7; RFC 8725) against a provider's keys (RFC 7517). No I/O.

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

/// What a token must say to be for this log-in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) now: Timestamp,
}

/// What is believed of a token that holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    pub(crate) sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: i64,
    iat: i64,
    nonce: Option<String>,
    pub(crate) email: Option<String>,
    /// Some providers write it as text.
    email_verified: Option<Value>,
}

impl Claims {
    /// The address, if the provider says that it is theirs.
    pub(crate) fn verified_email(&self) -> Option<&str> {
        let is_verified = match &self.email_verified {
            Some(Value::Bool(is)) => *is,
            Some(Value::String(text)) => text == "true",
            _ => false,
        };
        self.email.as_deref().filter(|_| is_verified)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// The keys of a provider; those of kinds that are not known are passed over.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Keys {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// A clock may be this much off, in seconds.
const LEEWAY: i64 = 60;
const SUBJECT_BYTES_MAX: usize = 255;
const TOKEN_BYTES_MAX: usize = 16 << 10;

const UNREADABLE: &str = "the ID token cannot be read";

pub(crate) fn check(token: &str, keys: &Keys, wanted: Wanted<'_>) -> Result<Claims, &'static str> {
    let claims: Claims = serde_json::from_slice(&body(token, keys)?).map_err(|_| UNREADABLE)?;
    check_claims(&claims, wanted)?;
    Ok(claims)
}

/// What a token says that was signed with one of these keys, whenever and for whomever.
pub(crate) fn signed(token: &str, keys: &Value) -> Option<Value> {
    let keys: Keys = serde_json::from_value(keys.clone()).ok()?;
    serde_json::from_slice(&body(token, &keys).ok()?).ok()
}

/// The part with the claims, once the signature is checked.
fn body(token: &str, keys: &Keys) -> Result<Vec<u8>, &'static str> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err("the ID token is too long");
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(UNREADABLE)?;
    let (head, body) = signed.split_once('.').ok_or(UNREADABLE)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| UNREADABLE);
    let head: Head = serde_json::from_slice(&decoded(head)?).map_err(|_| UNREADABLE)?;
    if head.crit.is_some() {
        return Err("the ID token has an extension that is not known");
    }
    let signature = decoded(signature)?;
    let has_signed = keys.keys.iter().any(|key| key.has_signed(&head, signed, &signature));
    if !has_signed {
        return Err("the ID token is not signed by the provider");
    }
    decoded(body)
}

fn check_claims(claims: &Claims, wanted: Wanted<'_>) -> Result<(), &'static str> {
    let now = wanted.now.millis() / 1_000;
    if claims.iss != wanted.issuer {
        return Err("the ID token is of another provider");
    }
    let (is_for_us, is_for_one) = match &claims.aud {
        Audience::One(one) => (one == wanted.client, true),
        Audience::Many(many) => (many.iter().any(|one| one == wanted.client), many.len() == 1),
    };
    let party = claims.azp.as_deref();
    if !is_for_us || party.is_some_and(|party| party != wanted.client) {
        return Err("the ID token is for somebody else");
    }
    if !is_for_one && party.is_none() {
        return Err("the ID token is for several and does not say whom");
    }
    if claims.exp <= now - LEEWAY {
        return Err("the ID token is too old");
    }
    if claims.iat > now + LEEWAY {
        return Err("the ID token is of the future");
    }
    if claims.nonce.as_deref() != Some(wanted.nonce) {
        return Err("the ID token is for another log-in");
    }
    if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX {
        return Err("the ID token names nobody");
    }
    Ok(())
}

impl Key {
    /// The algorithm is the key's, never only what the token says.
    fn has_signed(&self, head: &Head, signed: &str, signature: &[u8]) -> bool {
        let is_named = head.kid.is_none() || self.kid == head.kid;
        let is_for_this = self.r#use.as_deref().is_none_or(|it| it == "sig")
            && self.alg.as_deref().is_none_or(|alg| alg == head.alg);
        if !is_named || !is_for_this {
            return false;
        }
        self.verify(&head.alg, signed.as_bytes(), signature).unwrap_or(false)
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
        let decoded = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_deref()?).ok();
        let verified = match (algorithm, &*self.kty) {
            ("RS256", "RSA") => {
                let key = RsaPublicKeyComponents { n: decoded(&self.n)?, e: decoded(&self.e)? };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            ("ES256", "EC") if self.crv.as_deref() == Some("P-256") => {
                let point = [&[4][..], &decoded(&self.x)?, &decoded(&self.y)?].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            _ => return None,
        };
        Some(verified.is_ok())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    /// A provider's signing key.
    pub(crate) struct Signer(EcdsaKeyPair);

    impl Signer {
        pub(crate) fn new() -> Self {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
        }

        pub(crate) fn keys(&self) -> Value {
            let point = self.0.public_key().as_ref();
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            json!({"keys": [
                {"kty": "oct", "k": "AAAA"},
                {"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
                    "x": text(&point[1..33]), "y": text(&point[33..])},
            ]})
        }

        pub(crate) fn sign(&self, head: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(head), part(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn checked(
        signer: &Signer,
        keys: &Value,
        head: &Value,
        claims: &Value,
    ) -> Result<Claims, &'static str> {
        let keys: Keys = serde_json::from_value(keys.clone()).unwrap();
        let wanted =
            Wanted { issuer: "https://id.example", client: "madang", nonce: "n", now: NOW };
        check(&signer.sign(head, claims), &keys, wanted)
    }

    #[test]
    fn a_token_holds_for_this_log_in_only() {
        let signer = Signer::new();
        let head = json!({"alg": "ES256", "kid": "k1"});
        let good = json!({"iss": "https://id.example", "sub": "7", "aud": "madang", "nonce": "n",
            "exp": 1_800_000_300, "iat": 1_800_000_000, "email": "a@b.c", "email_verified": "true"});
        let check = |claims: &Value| checked(&signer, &signer.keys(), &head, claims);
        let claims = check(&good).unwrap();
        assert_eq!((&*claims.sub, claims.verified_email()), ("7", Some("a@b.c")));
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            check(&claims)
        };
        for (name, value) in [
            ("iss", json!("https://id.example/")),
            ("aud", json!("other")),
            ("aud", json!(["madang", "other"])),
            ("azp", json!("other")),
            ("exp", json!(1_799_999_940)),
            ("iat", json!(1_800_000_061)),
            ("nonce", json!("m")),
            ("nonce", Value::Null),
            ("sub", json!("")),
            ("sub", json!("x".repeat(256))),
            ("sub", json!(7)),
        ] {
            assert!(with(name, value.clone()).is_err(), "{name}: {value}");
        }
        for (name, value) in [
            ("aud", json!(["madang"])),
            ("exp", json!(1_799_999_941)),
            ("iat", json!(1_800_000_060)),
            ("azp", json!("madang")),
        ] {
            assert!(with(name, value.clone()).is_ok(), "{name}: {value}");
        }
        for is_verified in [json!(false), json!("false"), json!(1), Value::Null] {
            assert_eq!(with("email_verified", is_verified).unwrap().verified_email(), None);
        }
    }

    #[test]
    fn only_the_providers_keys_sign() {
        let signer = Signer::new();
        let good = json!({"iss": "https://id.example", "sub": "7", "aud": "madang", "nonce": "n",
            "exp": 1_800_000_300, "iat": 1_800_000_000});
        let check = |head: Value| checked(&signer, &signer.keys(), &head, &good);
        assert!(check(json!({"alg": "ES256"})).is_ok(), "a token need not name its key");
        for head in [
            json!({"alg": "none"}),
            json!({"alg": "HS256"}),
            json!({"alg": "RS256", "kid": "k1"}),
            json!({"alg": "ES256", "kid": "k2"}),
            json!({"alg": "ES256", "kid": "k1", "crit": ["x"]}),
        ] {
            assert!(check(head.clone()).is_err(), "{head}");
        }
        for (name, value) in [("alg", "ES384"), ("use", "enc"), ("kid", "k2"), ("crv", "P-384")] {
            let mut keys = signer.keys();
            keys["keys"][1][name] = json!(value);
            let head = json!({"alg": "ES256", "kid": "k1"});
            assert!(checked(&signer, &keys, &head, &good).is_err(), "{name}: {value}");
        }
        let others = Signer::new().keys();
        assert!(checked(&signer, &others, &json!({"alg": "ES256"}), &good).is_err());
        let keys: Keys = serde_json::from_value(signer.keys()).unwrap();
        let wanted =
            Wanted { issuer: "https://id.example", client: "madang", nonce: "n", now: NOW };
        let token = signer.sign(&json!({"alg": "ES256"}), &good);
        for broken in ["", ".", "..", &token[1..], &token[..token.len() - 4], &"x".repeat(20_000)] {
            assert!(super::check(broken, &keys, wanted).is_err());
        }
    }
}
