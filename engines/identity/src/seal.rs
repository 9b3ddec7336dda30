//! What must be read again and shall not lie open in rows: sealed with a key that is in a file beside them (AES-256-GCM).

use std::io::ErrorKind;
use std::path::Path;

use base::Entropy;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use tokio::fs;
use tokio::io::AsyncWriteExt;

use crate::{Error, token};

pub(crate) struct Seal {
    key: LessSafeKey,
    /// Of another purpose, so of another key.
    tags: hmac::Key,
    entropy: Entropy,
}

const KEY_BYTES: usize = 32;

impl Seal {
    /// Reads the key, or makes one where there is none.
    pub(crate) async fn open(path: &Path, entropy: &Entropy) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Config(format!("key_file {}: {reason}", path.display()));
        let key = match fs::read_to_string(path).await {
            Ok(text) => token::from_hex::<KEY_BYTES>(text.trim())
                .ok_or_else(|| wrong("is not 64 hexadecimal digits"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = entropy.bytes::<KEY_BYTES>();
                make(path, &key).await.map_err(|error| wrong(&error.to_string()))?;
                key
            }
            Err(error) => return Err(wrong(&error.to_string())),
        };
        let tags = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), b"madang identity tags");
        let tags = hmac::Key::new(hmac::HMAC_SHA256, tags.as_ref());
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| wrong("is no key"))?;
        Ok(Self { key: LessSafeKey::new(key), tags, entropy: entropy.clone() })
    }

    /// What only the holder of the key can say about these parts, each of which has a fixed length.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let tag = hmac::sign(&self.tags, &parts.concat());
        tag.as_ref().try_into().expect("a tag of SHA-256 has 32 bytes")
    }

    pub(crate) fn is_tag(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        hmac::verify(&self.tags, &parts.concat(), tag).is_ok()
    }

    /// Sealed for one owner: under another's name it does not open.
    pub(crate) fn close(&self, owner: &[u8], secret: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce = self.entropy.bytes::<NONCE_LEN>();
        let mut sealed = secret.to_vec();
        let closed = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(owner),
            &mut sealed,
        );
        closed.map_err(|_| Error::Stored("secret"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) fn open_for(&self, owner: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Error::SealBroken)?;
        let mut bytes = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(owner), &mut bytes);
        let length = opened.map_err(|_| Error::SealBroken)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// Written whole and synced before anything is sealed with it, and read by its owner only.
async fn make(path: &Path, key: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        fs::create_dir_all(folder).await?;
    }
    let unfinished = path.with_extension("unfinished");
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(&unfinished).await?;
    file.write_all(token::hex(key).as_bytes()).await?;
    file.sync_all().await?;
    fs::rename(&unfinished, path).await?;
    fs::File::open(folder.unwrap_or_else(|| Path::new("."))).await?.sync_all().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sealed_opens_for_its_owner_with_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/identity.key");
        let seal = Seal::open(&path, &Entropy::seeded(1)).await.unwrap();
        let sealed = seal.close(b"mina", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_ne!(sealed, seal.close(b"mina", b"secret").unwrap(), "chance is in it");
        let again = Seal::open(&path, &Entropy::seeded(2)).await.unwrap();
        assert_eq!(again.open_for(b"mina", &sealed).unwrap(), b"secret");
        assert!(again.open_for(b"joon", &sealed).is_err());
        let mut broken = sealed.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert!(again.open_for(b"mina", &broken).is_err());
        assert!(again.open_for(b"mina", b"short").is_err());

        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "not a key").unwrap();
        let error = Seal::open(&path, &Entropy::seeded(3)).await.err().unwrap();
        assert!(error.to_string().contains("is not 64 hexadecimal digits"), "{error}");
    }
}
