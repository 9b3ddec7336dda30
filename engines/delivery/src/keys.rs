//! What seals the secrets of endpoints in their rows: ChaCha20-Poly1305 under keys in a file that is not in the rows. What is
//! sealed names its key, and opens only in the row and column for which it was sealed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use base::{Entropy, Id, OrganisationId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{EndpointId, Error};

/// Marks the ids of keys; never constructed.
#[derive(Debug)]
pub(crate) enum Sealing {}

pub(crate) type SealingKeyId = Id<Sealing>;

/// The keys of the file; what is sealed anew is sealed under the newest.
pub(crate) struct Keys {
    newest: SealingKeyId,
    by_id: BTreeMap<SealingKeyId, LessSafeKey>,
    entropy: Entropy,
}

/// A text as its row keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) key: SealingKeyId,
    /// Nonce, what is sealed and tag, in base64.
    pub(crate) text: String,
}

/// The row and column that a text is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) column: Column,
    pub(crate) organisation: OrganisationId,
    pub(crate) row: EndpointId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Url,
    Secret,
}

const KEY_BYTES: usize = 32;
const HEAD: &str = "\
# Opens the URLs and secrets of endpoints in the rows. Keep it with the backup of the rows, and not in it.
# A line is an id and a key; the last one seals. To rotate, add a line and start again. See docs/guides/delivery.md.
";

impl Keys {
    /// Reads the file, or makes it with one key.
    pub(crate) fn open(path: &Path, now: Timestamp, entropy: &Entropy) -> Result<Self, Error> {
        let failed = |error: &dyn fmt::Display| {
            Error::Config(format!("delivery.key_file: {}: {error}", path.display()))
        };
        let text = match read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(path, now, entropy).and_then(|()| read(path))
            }
            read => read,
        };
        let text = text.map_err(|error| failed(&error))?;
        let mut by_id = BTreeMap::new();
        let mut newest = None;
        let lines = text.lines().map(str::trim).enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            // The line is not repeated: it holds a key.
            let (id, key) = key_of(line)
                .ok_or_else(|| failed(&format!("line {} is not an id and a key", number + 1)))?;
            if by_id.insert(id, key).is_some() {
                return Err(failed(&format!("the key {id} is there twice")));
            }
            newest = Some(id);
        }
        let newest = newest.ok_or_else(|| failed(&"there is no key in it"))?;
        Ok(Self { newest, by_id, entropy: entropy.clone() })
    }

    pub(crate) fn newest(&self) -> SealingKeyId {
        self.newest
    }

    pub(crate) fn older(&self) -> impl Iterator<Item = SealingKeyId> {
        self.by_id.keys().copied().filter(|key| *key != self.newest)
    }

    pub(crate) fn has(&self, key: SealingKeyId) -> bool {
        self.by_id.contains_key(&key)
    }

    pub(crate) fn seal(&self, place: Place, text: &str) -> Sealed {
        let nonce: [u8; NONCE_LEN] = self.entropy.bytes();
        let key = self.by_id.get(&self.newest).expect("the newest is one of them");
        let mut sealed = text.as_bytes().to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_of, Aad::from(place.said()), &mut sealed)
            .expect("it is shorter than the cipher's limit");
        let text = STANDARD.encode([&nonce[..], &sealed].concat());
        Sealed { key: self.newest, text }
    }

    /// The text again; an error when its key is not there, or when it was changed or moved.
    pub(crate) fn open_sealed(&self, place: Place, sealed: &Sealed) -> Result<String, Error> {
        let Sealed { key, text } = sealed;
        let wrong = || Error::Sealed { row: place.row, key: key.to_string() };
        let opener = self.by_id.get(key).ok_or_else(wrong)?;
        let mut bytes = STANDARD.decode(text).map_err(|_| wrong())?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let plain = opener.open_in_place(nonce, Aad::from(place.said()), sealed);
        let plain = plain.map_err(|_| wrong())?.to_vec();
        String::from_utf8(plain).map_err(|_| wrong())
    }
}

impl Place {
    fn said(self) -> Vec<u8> {
        let column: &[u8] = match self.column {
            Column::Url => b"delivery_endpoints.url",
            Column::Secret => b"delivery_secrets.secret",
        };
        [column, &self.organisation.bytes()[..], &self.row.bytes()[..]].concat()
    }
}

fn key_of(line: &str) -> Option<(SealingKeyId, LessSafeKey)> {
    let (id, key) = line.split_once(char::is_whitespace)?;
    let bytes = STANDARD.decode(key.trim()).ok().filter(|bytes| bytes.len() == KEY_BYTES)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?;
    Some((id.parse().ok()?, LessSafeKey::new(key)))
}

/// Refuses what others can read: then it is no secret any more.
fn read(path: &Path) -> io::Result<String> {
    let mode = fs::metadata(path)?.mode();
    if mode & 0o077 != 0 {
        let text = "others can read it: `chmod 600` it, and add a new key behind it";
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    fs::read_to_string(path)
}

/// Makes the file whole or not at all, and never over one that is there.
fn make(path: &Path, now: Timestamp, entropy: &Entropy) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let id = SealingKeyId::new(now, entropy);
    let new = path.with_extension(format!("{id}.new"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let key = STANDARD.encode(entropy.bytes::<KEY_BYTES>());
    file.write_all(format!("{HEAD}{id} {key}\n").as_bytes())?;
    file.sync_all()?;
    let linked = match fs::hard_link(&new, path) {
        // Another process was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    fs::remove_file(&new)?;
    linked?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn keys(path: &Path) -> Result<Keys, Error> {
        Keys::open(path, NOW, &Entropy::system())
    }

    fn place(row: u128) -> Place {
        let organisation = OrganisationId::DEFAULT;
        Place { column: Column::Url, organisation, row: EndpointId::fixed(row) }
    }

    #[test]
    fn a_text_opens_only_where_it_was_sealed_and_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/delivery");
        let sealed = keys(&path).unwrap().seal(place(1), "https://hooks.slack.com/secret");
        assert!(!sealed.text.contains("slack"));
        let keys = keys(&path).unwrap();
        let opened = keys.open_sealed(place(1), &sealed).unwrap();
        assert_eq!(opened, "https://hooks.slack.com/secret");
        assert_ne!(keys.seal(place(1), &opened), sealed, "each has a nonce of its own");
        let elsewhere = [
            place(2),
            Place { column: Column::Secret, ..place(1) },
            Place { organisation: OrganisationId::fixed(9), ..place(1) },
        ];
        for other in elsewhere {
            let refused = keys.open_sealed(other, &sealed);
            assert!(matches!(refused, Err(Error::Sealed { .. })), "{other:?}");
        }
        let bytes = STANDARD.decode(&sealed.text).unwrap();
        for place_of_bit in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place_of_bit] ^= 1;
            let changed = Sealed { text: STANDARD.encode(changed), ..sealed.clone() };
            assert!(keys.open_sealed(place(1), &changed).is_err(), "byte {place_of_bit}");
        }
        for text in ["", "AAAA", "not base64"] {
            let short = Sealed { text: text.to_owned(), ..sealed.clone() };
            assert!(keys.open_sealed(place(1), &short).is_err());
        }
        let stranger = Keys::open(&folder.path().join("other"), NOW, &Entropy::system()).unwrap();
        let error = stranger.open_sealed(place(1), &sealed).unwrap_err().to_string();
        assert!(error.contains(&sealed.key.to_string()), "{error}");
    }

    #[test]
    fn the_file_is_for_its_owner_and_the_last_line_seals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/delivery");
        let first = keys(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
        let old = first.seal(place(1), "a");
        let second = SealingKeyId::new(NOW, &Entropy::system());
        let text = fs::read_to_string(&path).unwrap();
        let line = format!("{text}\n{second} {}\n", STANDARD.encode([7; KEY_BYTES]));
        fs::write(&path, &line).unwrap();
        let both = keys(&path).unwrap();
        assert_eq!((both.newest(), both.seal(place(1), "a").key), (second, second));
        assert_eq!(both.open_sealed(place(1), &old).unwrap(), "a");
        for wrong in ["", "# nothing\n", "one two\n", &format!("{line}{second} AAAA\n")] {
            fs::write(&path, wrong).unwrap();
            let error = keys(&path).err().unwrap().to_string();
            assert!(error.contains("delivery.key_file"), "{error}");
        }
        fs::write(&path, line).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = keys(&path).err().unwrap().to_string();
        assert!(error.contains("others can read it"), "{error}");
    }
}
