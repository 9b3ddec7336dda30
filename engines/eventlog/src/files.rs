//! Every touch of the disk, in one place, so that tests can make it fail and a simulation can be one.

#[cfg(test)]
pub(crate) mod faults;
mod system;

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use system::System;

/// A disk as the log uses it.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Makes one folder; the one above is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Puts the names in a folder on disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    fn is_folder(&self, path: &Path) -> bool;
    fn exists(&self, path: &Path) -> bool;
    /// Makes a file that is not there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Takes a lock that lasts as long as what it gives; nothing when another process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
}

/// An open file of a [`Disk`].
pub(crate) trait DiskFile: fmt::Debug + Send + Sync {
    fn length(&self) -> io::Result<u64>;
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Puts what was written and the length on disk.
    fn sync(&self) -> io::Result<()>;
    fn set_length(&self, bytes: u64) -> io::Result<()>;
    /// Lets the next read from `position` on come from the disk, not from what the system remembers.
    fn forget_cache(&self, position: u64) -> io::Result<()>;
}

/// Held until it is dropped.
pub(crate) type Lock = Box<dyn fmt::Debug + Send + Sync>;

#[derive(Debug, Clone)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    pub(crate) fsync_delay: Duration,
}

/// A file that is written to.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    fsync_delay: Duration,
}

/// Whether a write failed for want of room, so that it can succeed later.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Files {
    pub(crate) fn system(fsync_delay: Duration) -> Self {
        Self { disk: Arc::new(System), fsync_delay }
    }

    #[cfg(test)]
    pub(crate) fn on(disk: impl Disk + 'static) -> Self {
        Self { disk: Arc::new(disk), fsync_delay: Duration::ZERO }
    }

    /// Makes a folder and every missing one above it. Each is on disk when this returns.
    pub(crate) fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.disk.is_folder(path) {
            return Ok(());
        }
        let above = parent(path);
        self.create_folder(above)?;
        match self.disk.create_folder(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync_folder(above)
    }

    /// Puts the names in a folder on disk: of files made, renamed and deleted.
    pub(crate) fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_folder(path)
    }

    /// Puts the name of a file or folder on disk.
    pub(crate) fn sync_name(&self, path: &Path) -> io::Result<()> {
        self.sync_folder(parent(path))
    }

    /// The paths in a folder, in any order.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(path)
    }

    pub(crate) fn is_folder(&self, path: &Path) -> bool {
        self.disk.is_folder(path)
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }

    /// Makes an empty file; its name is on disk after [`Files::sync_folder`].
    pub(crate) fn create(&self, path: &Path) -> io::Result<LogFile> {
        Ok(self.log_file(self.disk.create(path)?, path))
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<LogFile> {
        Ok(self.log_file(self.disk.open(path)?, path))
    }

    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path)?;
        let length = usize::try_from(file.length()?).map_err(|_| ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Gives a file its final name at once, in the place of another that may have it.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        self.sync_name(to)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    pub(crate) fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_folder(path)
    }

    pub(crate) fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        self.disk.lock(path)
    }

    fn log_file(&self, file: Box<dyn DiskFile>, path: &Path) -> LogFile {
        LogFile { file, path: path.to_owned(), fsync_delay: self.fsync_delay }
    }
}

impl LogFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, position)
    }

    pub(crate) fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    /// What was written is on disk when this returns, and the length with it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if !self.fsync_delay.is_zero() {
            slow_down(self.fsync_delay);
        }
        self.file.sync()
    }

    /// The next read of the last `bytes` bytes comes from the disk, not from what the system remembers.
    pub(crate) fn forget_cache_of_last(&self, bytes: u64) -> io::Result<()> {
        self.file.forget_cache(self.file.length()?.saturating_sub(bytes))
    }

    /// Takes back what lies behind a length; done for good when this returns.
    pub(crate) fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_length(bytes)?;
        self.sync()
    }
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own plays a slow disk in tests")]
fn slow_down(delay: Duration) {
    std::thread::sleep(delay);
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}
