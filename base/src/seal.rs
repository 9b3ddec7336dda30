//! What must be read again and shall not lie open in rows: sealed under keys in a file that is not in the rows.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use ring::hmac::{self, HMAC_SHA256};

use crate::{Base, Entropy, Id};

/// Marks the ids of keys; never constructed.
#[derive(Debug)]
pub enum Sealing {}

/// Names a key of the file, wherever something is sealed under it.
pub type SealingKeyId = Id<Sealing>;

/// The keys of a file; what is sealed anew is sealed under the last of them. What is sealed opens only in the place (row and
/// column) for which it was sealed.
pub struct Seal {
    newest: SealingKeyId,
    keys: BTreeMap<SealingKeyId, Key>,
    entropy: Entropy,
}

struct Key {
    cipher: LessSafeKey,
    /// What keys of other purposes are made of.
    root: hmac::Key,
}

const KEY_BYTES: usize = 32;
const HEAD: &str = "\
# A line is an id and a key; the last one seals. To rotate, add a line and start again.
";

impl Seal {
    /// Reads the file, or makes it with one key below the comment `what`.
    pub fn open(path: &Path, what: &str, base: &Base) -> io::Result<Self> {
        let text = match read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(path, what, base).and_then(|()| read(path))
            }
            read => read,
        }?;
        let wrong = |text: String| io::Error::new(ErrorKind::InvalidData, text);
        let (mut keys, mut newest) = (BTreeMap::new(), None);
        let lines = text.lines().map(str::trim).enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            // The line is not repeated: it holds a key.
            let (id, key) = key_of(line)
                .ok_or_else(|| wrong(format!("line {} is not an id and a key", number + 1)))?;
            if keys.insert(id, key).is_some() {
                return Err(wrong(format!("the key {id} is there twice")));
            }
            newest = Some(id);
        }
        let newest = newest.ok_or_else(|| wrong("there is no key in it".to_owned()))?;
        Ok(Self { newest, keys, entropy: base.entropy.clone() })
    }

    pub fn newest(&self) -> SealingKeyId {
        self.newest
    }

    pub fn older(&self) -> impl Iterator<Item = SealingKeyId> {
        self.keys.keys().copied().filter(|key| *key != self.newest)
    }

    pub fn has(&self, key: SealingKeyId) -> bool {
        self.keys.contains_key(&key)
    }

    /// Seals under the newest key, for those who keep its id beside what is sealed: nonce, text and tag.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> (SealingKeyId, Vec<u8>) {
        let nonce: [u8; NONCE_LEN] = self.entropy.bytes();
        let mut sealed = plain.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        self.newest_key()
            .cipher
            .seal_in_place_append_tag(nonce_of, Aad::from(place), &mut sealed)
            .expect("it is shorter than the cipher's limit");
        (self.newest, [&nonce[..], &sealed].concat())
    }

    /// What [`Seal::seal`] made; nothing when its key is not there, or when it was changed or moved.
    pub fn open_under(&self, key: SealingKeyId, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut bytes = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let cipher = &self.keys.get(&key)?.cipher;
        let length = cipher.open_in_place(nonce, Aad::from(place), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }

    /// Seals under the newest key, whose id goes before.
    pub fn close(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let (key, sealed) = self.seal(place, plain);
        [&key.bytes()[..], &sealed].concat()
    }

    /// What [`Seal::close`] made, or what an earlier version sealed without saying the key.
    pub fn open_closed(&self, place: &[u8], closed: &[u8]) -> Option<Vec<u8>> {
        let named = closed.split_first_chunk().and_then(|(key, sealed)| {
            self.open_under(SealingKeyId::from_bytes(*key), place, sealed)
        });
        let nameless = || self.keys.keys().find_map(|key| self.open_under(*key, place, closed));
        named.or_else(nameless)
    }

    /// What only a holder of the newest key can say about these parts, each of which has a fixed length.
    pub fn tag(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let tag = hmac::sign(&self.newest_key().of(purpose), &parts.concat());
        tag.as_ref().try_into().expect("a tag of SHA-256 has 32 bytes")
    }

    pub fn is_tag(&self, purpose: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        let said = parts.concat();
        self.keys.values().any(|key| hmac::verify(&key.of(purpose), &said, tag).is_ok())
    }

    fn newest_key(&self) -> &Key {
        self.keys.get(&self.newest).expect("the newest is one of them")
    }
}

impl Key {
    fn new(algorithm: &'static Algorithm, bytes: &[u8]) -> Option<Self> {
        let cipher = LessSafeKey::new(UnboundKey::new(algorithm, bytes).ok()?);
        Some(Self { cipher, root: hmac::Key::new(HMAC_SHA256, bytes) })
    }

    /// The key of another purpose.
    fn of(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(HMAC_SHA256, hmac::sign(&self.root, purpose.as_bytes()).as_ref())
    }
}

fn key_of(line: &str) -> Option<(SealingKeyId, Key)> {
    let Some((id, key)) = line.split_once(char::is_whitespace) else { return nameless_key(line) };
    let key = Key::new(&CHACHA20_POLY1305, &STANDARD.decode(key.trim()).ok()?)?;
    Some((id.parse().ok()?, key))
}

/// As `keys/identity` was written first: 64 hexadecimal digits, a key for AES. Its id follows from it, on each server the same.
fn nameless_key(line: &str) -> Option<(SealingKeyId, Key)> {
    if line.len() != KEY_BYTES * 2 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (left, right) = line.split_at(KEY_BYTES);
    let half = |text| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes);
    let key = Key::new(&AES_256_GCM, &[half(left)?, half(right)?].concat())?;
    let id = hmac::sign(&key.root, b"madang key id");
    Some((SealingKeyId::from_bytes(*id.as_ref().first_chunk()?), key))
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
fn make(path: &Path, what: &str, base: &Base) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let id = SealingKeyId::new(base.clock.now(), &base.entropy);
    let new = path.with_extension(format!("{id}.new"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let key = STANDARD.encode(base.entropy.bytes::<KEY_BYTES>());
    file.write_all(format!("# {what}\n{HEAD}{id} {key}\n").as_bytes())?;
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

    fn seal(path: &Path) -> io::Result<Seal> {
        Seal::open(path, "Opens what a test sealed.", &Base::system())
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = hex.replace(char::is_whitespace, "");
        let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(pair).collect()
    }

    #[test]
    fn a_text_opens_only_where_it_was_sealed_and_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/rows");
        let (key, sealed) = seal(&path).unwrap().seal(b"row 1", b"a secret");
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        let again = seal(&path).unwrap();
        assert_eq!(again.open_under(key, b"row 1", &sealed).unwrap(), b"a secret");
        assert_ne!(again.seal(b"row 1", b"a secret").1, sealed, "each has a nonce of its own");
        assert!(again.open_under(key, b"row 2", &sealed).is_none());
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(again.open_under(key, b"row 1", &changed).is_none(), "byte {place}");
        }
        assert!(again.open_under(key, b"row 1", b"short").is_none());
        let stranger = seal(&folder.path().join("other")).unwrap();
        assert!(stranger.open_under(key, b"row 1", &sealed).is_none());

        let closed = again.close(b"row 1", b"a secret");
        assert_eq!(again.open_closed(b"row 1", &closed).unwrap(), b"a secret");
        assert!(again.open_closed(b"row 2", &closed).is_none());
        assert!(stranger.open_closed(b"row 1", &closed).is_none());
        assert!(again.open_closed(b"row 1", b"").is_none());
    }

    #[test]
    fn the_file_is_for_its_owner_and_the_last_line_seals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/rows");
        let first = seal(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
        let old = first.close(b"row", b"a");
        let tag = first.tag("test", &[b"said"]);
        let second = SealingKeyId::fixed(7);
        let text = fs::read_to_string(&path).unwrap();
        let line = format!("{text}\n{second} {}\n", STANDARD.encode([7; KEY_BYTES]));
        fs::write(&path, &line).unwrap();
        let both = seal(&path).unwrap();
        assert_eq!((both.newest(), both.seal(b"row", b"a").0), (second, second));
        assert_eq!(both.older().collect::<Vec<_>>(), [first.newest()]);
        assert_eq!(both.open_closed(b"row", &old).unwrap(), b"a");
        assert!(both.is_tag("test", &[b"said"], &tag), "of the older key");
        assert!(both.is_tag("test", &[b"said"], &both.tag("test", &[b"said"])));
        assert!(!both.is_tag("test", &[b"else"], &tag) && !both.is_tag("other", &[b"said"], &tag));
        let (short, twice) = (format!("{line}{second} AAAA\n"), format!("{line}{line}"));
        for wrong in ["", "# nothing\n", "one two\n", "word\n", &short, &twice] {
            fs::write(&path, wrong).unwrap();
            assert!(seal(&path).is_err(), "{wrong}");
        }
        fs::write(&path, line).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = seal(&path).err().unwrap().to_string();
        assert!(error.contains("others can read it"), "{error}");
    }

    /// Test case 16 of the paper on GCM and section 2.8.2 of RFC 8439: what was written first stays readable.
    #[test]
    fn what_earlier_versions_sealed_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        seal(&path).unwrap();
        let hex = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
        fs::write(&path, hex).unwrap();
        let place = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let sealed = bytes(
            "cafebabefacedbaddecaf888
            522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
            76fc6ece0f4e1768cddf8853bb2d551b",
        );
        let plain = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let first = seal(&path).unwrap();
        assert_eq!(first.open_closed(&place, &sealed).unwrap(), plain);
        let closed = first.close(&place, b"a");
        assert_eq!(seal(&path).unwrap().open_closed(&place, &closed).unwrap(), b"a");

        let id = SealingKeyId::fixed(9);
        let key: Vec<u8> = (0x80..0xa0).collect();
        fs::write(&path, format!("{hex}\n{id} {}\n", STANDARD.encode(key))).unwrap();
        let both = seal(&path).unwrap();
        assert_eq!(both.open_closed(&place, &sealed).unwrap(), plain);
        assert_eq!(both.open_closed(&place, &closed).unwrap(), b"a");
        let sealed = bytes(
            "070000004041424344454647
            d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b
            1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
            3ff4def08e4b7a9de576d26586cec64b6116
            1ae10b594f09e26a7e902ecbd0600691",
        );
        let opened = both.open_under(id, &bytes("50515253c0c1c2c3c4c5c6c7"), &sealed).unwrap();
        assert!(opened.starts_with(b"Ladies and Gentlemen of the class of '99: If I could offer"));
    }
}
