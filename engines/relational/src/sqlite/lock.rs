use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::Error;

/// Held while the database is open; the system lets go of it when the process ends in any way.
pub(crate) struct Lock(#[allow(dead_code, reason = "held, never read")] File);

const STEP: Duration = Duration::from_millis(20);

impl Lock {
    /// Waits at most `wait` for another server to end.
    pub(crate) fn hold(database: &Path, wait: Duration) -> Result<Self, Error> {
        let path = beside(database, "-lock");
        let failed = |source| unavailable(format!("lock {}", path.display()), source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let mut waited = Duration::ZERO;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(error) if error == rustix::io::Errno::WOULDBLOCK => {}
                Err(error) => return Err(failed(error.into())),
            }
            if waited >= wait {
                return Err(Error::InUse { path: database.to_owned(), holder: holder(&mut file) });
            }
            // This thread is there for opening only; the system has no lock with a time limit.
            std::thread::park_timeout(STEP);
            waited += STEP;
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self(file))
    }
}

/// Makes the folder of the database, each new name durable in its parent.
pub(crate) fn make_folder(database: &Path) -> Result<(), Error> {
    let folder = match database.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => return Ok(()),
    };
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    let made = std::fs::create_dir_all(folder);
    made.map_err(|source| unavailable(format!("make the folder {}", folder.display()), source))?;
    for made in missing {
        let parent = match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|source| unavailable(format!("sync {}", parent.display()), source))?;
    }
    Ok(())
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn holder(file: &mut File) -> String {
    let mut process = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut process));
    match read {
        Ok(_) if !process.is_empty() => format!("process {process}"),
        _ => "another process".into(),
    }
}

fn unavailable(during: String, source: std::io::Error) -> Error {
    Error::Unavailable { during, source: Arc::new(source) }
}
