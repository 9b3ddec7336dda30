//! Files of the data directory, each written whole or not at all, and sealed.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base::{Base, Seal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

pub(crate) struct Store {
    folder: PathBuf,
    seal: Seal,
}

/// The account at the authority, with its key.
pub(crate) const ACCOUNT: &str = "account";
/// The certificate that is shown, with its key.
pub(crate) const CERTIFICATE: &str = "certificate";
/// When the authority was asked last, and until when it wants to be left alone.
pub(crate) const ATTEMPTS: &str = "attempts";

impl Store {
    pub(crate) fn open(folder: &Path, key_file: &Path, base: &Base) -> Result<Self, Error> {
        let what =
            "Opens the account at the certificate authority, and the private keys of certificates.";
        let seal = Seal::open(key_file, what, base)
            .map_err(|source| Error::File { path: key_file.to_owned(), source })?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| Error::File { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), seal })
    }

    /// Nothing where there is none.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.folder.join(name);
        let closed = match fs::read(&path) {
            Ok(closed) => closed,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { path, source }),
        };
        let Some(plain) = self.seal.open_closed(name.as_bytes(), &closed) else {
            return Err(Error::Sealed(path));
        };
        // Of an older key: that one may go, once everything is sealed anew.
        if !closed.starts_with(self.seal.newest().bytes()) {
            self.put(name, &plain)?;
        }
        let read = serde_json::from_slice(&plain);
        read.map(Some).map_err(|error| Error::File { path, source: io::Error::other(error) })
    }

    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let plain = serde_json::to_vec(value)
            .map_err(|error| Error::File { path: self.folder.join(name), source: error.into() })?;
        self.put(name, &plain)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| Error::File { path, source }),
        }
    }

    fn put(&self, name: &str, plain: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(name);
        let closed = self.seal.close(name.as_bytes(), plain);
        base::write_whole(&path, &closed).map_err(|source| Error::File { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_sealed_and_opens_under_its_own_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let (place, keys) = (folder.path().join("certificates"), folder.path().join("keys/c"));
        let base = Base::system();
        let store = Store::open(&place, &keys, &base).unwrap();
        assert_eq!(store.read::<String>(ACCOUNT).unwrap(), None);
        store.write(ACCOUNT, &"a private key").unwrap();
        let bytes = fs::read(place.join(ACCOUNT)).unwrap();
        assert!(!bytes.windows(7).any(|bytes| bytes == b"private"));
        let again = Store::open(&place, &keys, &base).unwrap();
        assert_eq!(again.read::<String>(ACCOUNT).unwrap().unwrap(), "a private key");
        fs::copy(place.join(ACCOUNT), place.join(CERTIFICATE)).unwrap();
        let error = again.read::<String>(CERTIFICATE).unwrap_err();
        assert!(error.to_string().contains("delete this file"), "{error}");
        let others = Store::open(&place, &folder.path().join("others"), &base).unwrap();
        assert!(matches!(others.read::<String>(ACCOUNT), Err(Error::Sealed(_))));
        again.remove(ACCOUNT).unwrap();
        again.remove(ACCOUNT).unwrap();
        assert_eq!(again.read::<String>(ACCOUNT).unwrap(), None);
    }

    #[test]
    fn what_an_older_key_sealed_is_sealed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let base = Base::system();
        let open = || Store::open(folder.path(), &keys, &base).unwrap();
        open().write(ACCOUNT, &1).unwrap();
        let first = fs::read_to_string(&keys).unwrap();
        let other = folder.path().join("other");
        Store::open(folder.path(), &other, &base).unwrap();
        let second = fs::read_to_string(&other).unwrap();
        let line = second.lines().last().unwrap();
        fs::write(&keys, format!("{first}{line}\n")).unwrap();
        assert_eq!(open().read::<u8>(ACCOUNT).unwrap(), Some(1));
        fs::write(&keys, second).unwrap();
        assert_eq!(open().read::<u8>(ACCOUNT).unwrap(), Some(1), "without the first key");
    }
}
