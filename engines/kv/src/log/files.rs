//! The folder of the store: names, the lock, and what must be on disk before it counts.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

const FORMAT: &str = "madang kv 1\n";

pub(crate) fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

pub(crate) fn snapshot_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.snapshot"))
}

/// A snapshot that is being written.
pub(crate) fn draft_path(dir: &Path) -> PathBuf {
    dir.join("snapshot.draft")
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub(crate) fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::io("open", path))
}

/// Puts the names in the folder on disk.
pub(crate) fn sync_folder(dir: &Path) -> Result<(), Error> {
    let folder = File::open(dir).map_err(Error::io("open", dir))?;
    folder.sync_all().map_err(Error::io("sync", dir))
}

/// Makes the folder if it is missing, checks its format and keeps other processes out.
pub(crate) fn hold(dir: &Path) -> Result<File, Error> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        sync_folder(above)?;
    }
    let path = dir.join("lock");
    let lock = open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    let path = dir.join("format");
    match fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => {}
        Ok(found) if !found.is_empty() => {
            return Err(Error::Format { path: dir.to_owned(), found: found.trim().to_owned() });
        }
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io("read", &path)(error));
        }
        _ => {
            let mut file = open(&path)?;
            file.write_all(FORMAT.as_bytes()).map_err(Error::io("write", &path))?;
            file.sync_all().map_err(Error::io("sync", &path))?;
            sync_folder(dir)?;
        }
    }
    Ok(lock)
}

/// Numbers of the logs and snapshots in the folder, in order.
pub(crate) fn numbers(dir: &Path) -> Result<(Vec<u64>, Vec<u64>), Error> {
    let (mut logs, mut snapshots) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        let name = name.to_string_lossy();
        if let Some((number, kind)) = name.split_once('.')
            && let Ok(number) = number.parse()
        {
            match kind {
                "log" => logs.push(number),
                "snapshot" => snapshots.push(number),
                _ => {}
            }
        }
    }
    logs.sort_unstable();
    snapshots.sort_unstable();
    Ok((logs, snapshots))
}

/// Deletes logs and snapshots that one of this number replaces.
pub(crate) fn remove_before(dir: &Path, number: u64) -> Result<(), Error> {
    let (logs, snapshots) = numbers(dir)?;
    let old = logs.into_iter().filter(|old| *old < number).map(|old| log_path(dir, old));
    let old = old.chain(
        snapshots.into_iter().filter(|old| *old < number).map(|old| snapshot_path(dir, old)),
    );
    for path in old {
        fs::remove_file(&path).map_err(Error::io("delete", &path))?;
    }
    sync_folder(dir)
}
