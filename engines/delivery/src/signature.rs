//! Signatures of webhooks by the Standard Webhooks specification: HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;
use std::str::FromStr;

use base::{Entropy, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// The key that a webhook's receiver checks signatures with; written as `whsec_` and base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A text is no secret. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secret: whsec_ and the base64 of 24 to 64 bytes")]
pub struct NotASecret;

const PREFIX: &str = "whsec_";
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

impl Secret {
    pub(crate) fn new(entropy: &Entropy) -> Self {
        Self(entropy.bytes::<32>().to_vec())
    }

    /// As its receiver needs it. Shown once, never logged.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// `v1,` and the signature.
    pub(crate) fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(id.as_bytes());
        context.update(format!(".{}.", seconds(at)).as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// Whole seconds since 1970, as the timestamp header has them.
pub(crate) fn seconds(at: Timestamp) -> i64 {
    at.micros().div_euclid(1_000_000)
}

/// One signature per secret, so that a receiver verifies with the old or the new one.
pub(crate) fn header(secrets: &[Secret], id: &str, at: Timestamp, body: &[u8]) -> String {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(id, at, body)).collect();
    signatures.join(" ")
}

impl FromStr for Secret {
    type Err = NotASecret;

    fn from_str(text: &str) -> Result<Self, NotASecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(NotASecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NotASecret)?;
        if BYTES.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(NotASecret) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_libraries_vector_is_signed_the_same() {
        let secret: Secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap();
        let at = Timestamp::from_millis(1_649_367_553_999);
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            secret.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", at, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn while_secrets_overlap_each_signs() {
        let entropy = Entropy::seeded(3);
        let (old, new) = (Secret::new(&entropy), Secret::new(&entropy));
        let at = Timestamp::from_millis(1_000);
        let both = header(&[new.clone(), old.clone()], "msg_1", at, b"{}");
        let each = format!("{} {}", new.sign("msg_1", at, b"{}"), old.sign("msg_1", at, b"{}"));
        assert_eq!(both, each);
        assert_ne!(new.sign("msg_1", at, b"{}"), old.sign("msg_1", at, b"{}"));
    }

    #[test]
    fn a_secret_is_read_back_and_never_shown_by_accident() {
        let secret = Secret::new(&Entropy::seeded(3));
        assert_eq!(secret.reveal().parse::<Secret>().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "whsec_***");
        for text in ["", "whsec_", "whsec_c2hvcnQ=", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_!"]
        {
            assert_eq!(text.parse::<Secret>(), Err(NotASecret), "{text}");
        }
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        assert_eq!(long.parse::<Secret>(), Err(NotASecret));
    }
}
