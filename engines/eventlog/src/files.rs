//! Every touch of the disk, in one place, so that tests can make it fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(test)]
pub(crate) mod faults;

#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub(crate) fsync_delay: Duration,
    #[cfg(test)]
    pub(crate) faults: std::sync::Arc<faults::Faults>,
}

/// A file that is written to.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    files: Files,
}

/// Whether a write failed for want of room, so that it can succeed later.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg_attr(not(test), allow(clippy::unused_self, reason = "tests make these fail"))]
impl Files {
    pub(crate) fn new(fsync_delay: Duration) -> Self {
        Self {
            fsync_delay,
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        }
    }

    /// Makes a folder and every missing one above it. Each is on disk when this returns.
    pub(crate) fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let above = parent(path);
        self.create_folder(above)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        #[cfg(test)]
        self.faults.created(path);
        self.sync_folder(above)
    }

    /// Puts the names in a folder on disk: of files made, renamed and deleted.
    pub(crate) fn sync_folder(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check(faults::Op::SyncFolder, path)?;
        File::open(path)?.sync_all()?;
        #[cfg(test)]
        self.faults.synced_folder(path);
        Ok(())
    }

    /// Makes an empty file; its name is on disk after [`Files::sync_folder`].
    pub(crate) fn create(&self, path: &Path) -> io::Result<LogFile> {
        #[cfg(test)]
        self.faults.check(faults::Op::Create, path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        #[cfg(test)]
        self.faults.created(path);
        Ok(self.log_file(file, path))
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(self.log_file(file, path))
    }

    /// Gives a file its final name at once, in the place of another that may have it.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        #[cfg(test)]
        self.faults.renamed(from, to);
        self.sync_folder(parent(to))
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check(faults::Op::Remove, path)?;
        fs::remove_file(path)
    }

    fn log_file(&self, file: File, path: &Path) -> LogFile {
        LogFile { file, path: path.to_owned(), files: self.clone() }
    }
}

impl LogFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Err((room, error)) = self.files.faults.write(&self.path, bytes.len()) {
            self.file.write_all_at(&bytes[..room], position)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, position)
    }

    /// What was written is on disk when this returns, and the length with it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.files.faults.check(faults::Op::Sync, &self.path)?;
        if !self.files.fsync_delay.is_zero() {
            slow_down(self.files.fsync_delay);
        }
        self.file.sync_data()?;
        #[cfg(test)]
        self.files.faults.synced(&self.path, self.file.metadata()?.len());
        Ok(())
    }

    /// Takes back what lies behind a length; done for good when this returns.
    pub(crate) fn truncate(&self, bytes: u64) -> io::Result<()> {
        #[cfg(test)]
        self.files.faults.check(faults::Op::Truncate, &self.path)?;
        self.file.set_len(bytes)?;
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
