use base::{Entropy, Id, KeyId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// 256 bits of chance as URL-safe text; only its hash is ever stored.
pub(crate) fn secret(entropy: &Entropy) -> String {
    URL_SAFE_NO_PAD.encode(entropy.bytes::<32>())
}

const SECRET_BYTES_MAX: usize = 100;

/// The hash of a secret; nothing for what is too long to be one. A secret has 256 bits of its own, so it
/// needs no slow hash.
pub(crate) fn hash(secret: &str) -> Option<[u8; 32]> {
    (secret.len() <= SECRET_BYTES_MAX).then(|| Sha256::digest(secret.as_bytes()).into())
}

/// The hash of a secret as it is stored.
pub(crate) fn stored(secret: &str) -> Option<String> {
    hash(secret).map(|hash| hex(&hash))
}

/// How a hash is stored: 64 hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A key's id as clients write it, also as MQTT user name: 32 hexadecimal digits.
pub fn key_text(id: KeyId) -> String {
    hex(id.bytes())
}

/// Reads what [`key_text`] wrote.
pub fn key_id(text: &str) -> Option<KeyId> {
    from_hex::<16>(text).map(KeyId::from_bytes)
}

const REFRESH: &str = "madang_refresh_";

/// What an app shows with each request: of the form of a key.
pub(crate) fn access_text<Kind>(id: Id<Kind>, secret: &str) -> String {
    format!("madang_{}_{secret}", hex(id.bytes()))
}

/// What an app exchanges for the next; begins so that scanners of code know it.
pub(crate) fn refresh_text(secret: &str) -> String {
    format!("{REFRESH}{secret}")
}

pub(crate) fn refresh_secret(text: &str) -> Option<&str> {
    text.strip_prefix(REFRESH)
}
