//! The relying party's part of Web Authentication (W3C, Level 3, sections 7.1 and 7.2): bytes in, a key or a verdict out.
//!
//! No attestation is asked for, and what comes is not looked at: who made an authenticator does not matter here.
//! User verification is required, so a passkey is something one has and something one knows or is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::cbor::{self, Value};

/// The algorithms of signatures that are taken, best first: ES256, EdDSA, RS256.
pub(crate) const ALGORITHMS: [i64; 3] = [-7, -8, -257];
/// Section 5.8.3 of Level 3.
const CREDENTIAL_BYTES_MAX: usize = 1_023;

/// For whom passkeys are, and where they may be shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party<'a> {
    pub(crate) id: &'a str,
    pub(crate) origin: &'a str,
}

/// A passkey that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) credential: Vec<u8>,
    /// In COSE's form (RFC 9052).
    pub(crate) public_key: Vec<u8>,
    pub(crate) counter: u32,
    pub(crate) is_backed_up: bool,
}

/// What signing said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) counter: u32,
    pub(crate) is_backed_up: bool,
}

/// Why it was not taken.
pub(crate) type Refusal = &'static str;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientData {
    r#type: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
    #[serde(default)]
    top_origin: Option<String>,
}

/// What the browser collected, if it was for this deed in this place: its challenge.
pub(crate) fn challenge(
    party: Party<'_>,
    deed: &str,
    client_data: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let data: ClientData =
        serde_json::from_slice(client_data).map_err(|_| "the client data cannot be read")?;
    if data.r#type != deed {
        return Err("it is for another deed");
    }
    if data.origin != party.origin {
        return Err("it comes from another origin");
    }
    if data.cross_origin || data.top_origin.is_some() {
        return Err("it comes out of a frame of another origin");
    }
    URL_SAFE_NO_PAD.decode(&data.challenge).map_err(|_| "the challenge cannot be read")
}

/// Section 7.1, after the challenge.
pub(crate) fn made(party: Party<'_>, attestation: &[u8]) -> Result<Made, Refusal> {
    const UNREADABLE: Refusal = "the attestation cannot be read";
    let (object, rest) = cbor::read(attestation).ok_or(UNREADABLE)?;
    let data = object.get(&Value::Text("authData")).and_then(Value::bytes).ok_or(UNREADABLE)?;
    if !rest.is_empty() {
        return Err(UNREADABLE);
    }
    let (head, rest) = Head::read(party, data)?;
    if !head.has_credential {
        return Err("there is no credential in it");
    }
    // The model of the authenticator is passed over.
    let (length, rest) =
        rest.get(16..).and_then(|rest| rest.split_first_chunk::<2>()).ok_or(UNREADABLE)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > CREDENTIAL_BYTES_MAX {
        return Err("the credential's id is too long");
    }
    let (credential, key) = rest.split_at_checked(length).ok_or(UNREADABLE)?;
    let (parsed, rest) = cbor::read(key).ok_or(UNREADABLE)?;
    let public_key = &key[..key.len() - rest.len()];
    head.check_extensions(rest)?;
    Key::of(&parsed).ok_or("the key is of a kind that was not asked for")?;
    Ok(Made {
        credential: credential.to_vec(),
        public_key: public_key.to_vec(),
        counter: head.counter,
        is_backed_up: head.is_backed_up,
    })
}

/// Section 7.2, after the challenge.
pub(crate) fn signed(
    party: Party<'_>,
    public_key: &[u8],
    (client_data, authenticator_data, signature): (&[u8], &[u8], &[u8]),
) -> Result<Signed, Refusal> {
    let (head, rest) = Head::read(party, authenticator_data)?;
    if head.has_credential {
        return Err("there is a credential in it");
    }
    head.check_extensions(rest)?;
    let (parsed, _) = cbor::read(public_key).ok_or("the stored key cannot be read")?;
    let key = Key::of(&parsed).ok_or("the stored key cannot be read")?;
    let message = [authenticator_data, &Sha256::digest(client_data)].concat();
    if !key.has_signed(&message, signature) {
        return Err("the signature is wrong");
    }
    Ok(Signed { counter: head.counter, is_backed_up: head.is_backed_up })
}

/// What authenticator data begin with (section 6.1).
struct Head {
    counter: u32,
    is_backed_up: bool,
    has_credential: bool,
    has_extensions: bool,
}

impl Head {
    fn read<'a>(party: Party<'_>, data: &'a [u8]) -> Result<(Self, &'a [u8]), Refusal> {
        const TOO_SHORT: Refusal = "the authenticator data are too short";
        let (for_whom, rest) = data.split_first_chunk::<32>().ok_or(TOO_SHORT)?;
        let (flags, rest) = rest.split_first().ok_or(TOO_SHORT)?;
        let (counter, rest) = rest.split_first_chunk::<4>().ok_or(TOO_SHORT)?;
        if for_whom[..] != Sha256::digest(party.id)[..] {
            return Err("it is for another site");
        }
        let has = |bit: u8| flags & (1 << bit) != 0;
        if !has(0) {
            return Err("nobody was there");
        }
        if !has(2) {
            return Err("nobody was recognised");
        }
        if has(4) && !has(3) {
            return Err("it is backed up and cannot be");
        }
        let head = Self {
            counter: u32::from_be_bytes(*counter),
            is_backed_up: has(4),
            has_credential: has(6),
            has_extensions: has(7),
        };
        Ok((head, rest))
    }

    fn check_extensions(&self, rest: &[u8]) -> Result<(), Refusal> {
        let is_whole = if self.has_extensions {
            matches!(cbor::read(rest), Some((Value::Map(_), [])))
        } else {
            rest.is_empty()
        };
        if is_whole { Ok(()) } else { Err("there is more in it than there should be") }
    }
}

/// A public key in COSE's form.
enum Key<'a> {
    P256([u8; 65]),
    Ed25519(&'a [u8]),
    Rsa { n: &'a [u8], e: &'a [u8] },
}

impl<'a> Key<'a> {
    fn of(cose: &Value<'a>) -> Option<Self> {
        let field = |label: i64| cose.get(&Value::Int(label));
        let (kind, algorithm) = (field(1)?.int()?, field(3)?.int()?);
        let curve = || field(-1)?.int();
        match (kind, algorithm) {
            (2, -7) if curve() == Some(1) => {
                let (x, y) = (field(-2)?.bytes()?, field(-3)?.bytes()?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                let mut point = [4; 65];
                point[1..33].copy_from_slice(x);
                point[33..].copy_from_slice(y);
                Some(Self::P256(point))
            }
            (1, -8) if curve() == Some(6) => {
                field(-2)?.bytes().filter(|x| x.len() == 32).map(Self::Ed25519)
            }
            (3, -257) => {
                let (n, e) = (field(-1)?.bytes()?, field(-2)?.bytes()?);
                (256..=1_024).contains(&n.len()).then_some(Self::Rsa { n, e })
            }
            _ => None,
        }
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
        };
        verified.is_ok()
    }
}
