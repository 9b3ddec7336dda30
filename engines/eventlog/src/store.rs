//! The folder of the log: who holds it, which format it has, which topics are in it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::OrganisationId;

use crate::config::Config;
use crate::error::Error;
use crate::files::Files;
use crate::partition::{self, Partition};
use crate::topic::Parts;

/// What the marker file holds. The number changes when an older Madang could not read the folder any more.
const FORMAT: &str = "madang eventlog 1\n";
const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
const GROUPS_FOLDER: &str = "groups";
/// Ends the name of a topic that is being made; no topic's name may contain it.
const DRAFT: char = '~';

pub(crate) type Topics = BTreeMap<OrganisationId, BTreeMap<String, Arc<Parts>>>;

/// Takes the lock; nothing when another process has it.
pub(crate) fn lock(files: &Files, dir: &Path) -> Result<Option<File>, Error> {
    files.create_folder(dir).map_err(Error::io("create", dir))?;
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "process {}", std::process::id()))
        .map_err(Error::io("write", &path))?;
    Ok(Some(file))
}

/// Who has the lock, in the words of the holder.
pub(crate) fn in_use(dir: &Path) -> Error {
    let holder = fs::read_to_string(dir.join(LOCK_FILE)).unwrap_or_default();
    let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() }.to_owned();
    Error::InUse { dir: dir.to_owned(), holder }
}

/// Makes the marker in a new folder and checks it in an old one.
pub(crate) fn check_format(files: &Files, dir: &Path) -> Result<(), Error> {
    let path = dir.join(FORMAT_FILE);
    let wrong = |reason: String| Error::Format { path: path.clone(), reason };
    match fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => return Ok(()),
        Ok(found) => {
            let (found, wanted) = (found.trim(), FORMAT.trim());
            return Err(wrong(format!("this version reads {wanted:?}, found {found:?}")));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("read", &path)(error)),
    }
    let draft = dir.join(format!("{FORMAT_FILE}{DRAFT}"));
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?.path();
        if entry != dir.join(LOCK_FILE) && entry != draft {
            return Err(wrong("missing, and the folder is not empty".to_owned()));
        }
    }
    if draft.exists() {
        files.remove(&draft).map_err(Error::io("remove", &draft))?;
    }
    files
        .create(&draft)
        .and_then(|file| {
            file.write_at(FORMAT.as_bytes(), 0)?;
            file.sync()?;
            files.rename(&draft, &path)
        })
        .map_err(Error::io("write", &path))
}

pub(crate) fn groups_folder(dir: &Path) -> PathBuf {
    dir.join(GROUPS_FOLDER)
}

/// Opens every topic of every organisation.
pub(crate) fn load(files: &Files, config: &Config) -> Result<Topics, Error> {
    let mut topics = Topics::new();
    // A killed process may have left names that are not on disk; what is stored behind them must not hang on that.
    files.sync_folder(&config.dir).map_err(Error::io("sync", &config.dir))?;
    for folder in folders(&config.dir)? {
        let name = file_name(&folder)?;
        if name == GROUPS_FOLDER {
            continue;
        }
        let organisation: OrganisationId = name.parse().map_err(|_| Error::Format {
            path: folder.clone(),
            reason: "a folder here is named by the id of an organisation".to_owned(),
        })?;
        files.sync_folder(&folder).map_err(Error::io("sync", &folder))?;
        for folder in folders(&folder)? {
            let name = file_name(&folder)?;
            if name.ends_with(DRAFT) {
                // A crash came while the topic was made; nobody was told that it exists.
                fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
                continue;
            }
            check_topic_name(name)?;
            let parts = open_topic(files, config, organisation, &folder)?;
            topics.entry(organisation).or_default().insert(name.to_owned(), Arc::new(parts));
        }
    }
    Ok(topics)
}

/// Makes a topic: under another name first, so that after a crash it is there with all its partitions or not at all.
pub(crate) fn create_topic(
    files: &Files,
    config: &Config,
    organisation: OrganisationId,
    name: &str,
) -> Result<Parts, Error> {
    let above = config.dir.join(organisation.to_string());
    let folder = above.join(name);
    let draft = above.join(format!("{name}{DRAFT}"));
    if folder.exists() {
        // An earlier attempt got this far and failed to put the name on disk.
        files.sync_folder(&above).map_err(Error::io("sync", &above))?;
        return open_topic(files, config, organisation, &folder);
    }
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(Error::io("remove", &draft))?;
    }
    for number in 0..config.partitions {
        partition::create(files, &draft.join(number.to_string()))?;
    }
    files.rename(&draft, &folder).map_err(Error::io("create", &folder))?;
    open_topic(files, config, organisation, &folder)
}

pub(crate) fn check_topic_name(name: &str) -> Result<(), Error> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_good = (1..=249).contains(&name.len())
        && name.bytes().all(is_known)
        && name != "."
        && name != "..";
    if is_good { Ok(()) } else { Err(Error::TopicName(name.chars().take(250).collect())) }
}

fn open_topic(
    files: &Files,
    config: &Config,
    organisation: OrganisationId,
    folder: &Path,
) -> Result<Parts, Error> {
    static ID: AtomicU64 = AtomicU64::new(0);
    let name = file_name(folder)?.to_owned();
    let found = folders(folder)?.len();
    let mut partitions = Vec::with_capacity(found);
    for number in 0..found {
        let path = folder.join(number.to_string());
        if !path.is_dir() {
            let reason = format!("partition {number} is missing");
            return Err(Error::Format { path: folder.to_owned(), reason });
        }
        let id = ID.fetch_add(1, Ordering::Relaxed);
        let identity = (id, Arc::from(format!("{name}/{number}")));
        partitions.push(Arc::new(Partition::open(files, config, path, identity)?));
    }
    if partitions.is_empty() {
        let reason = "the topic has no partition".to_owned();
        return Err(Error::Format { path: folder.to_owned(), reason });
    }
    Ok(Parts { organisation, name, partitions })
}

fn folders(above: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(above).map_err(Error::io("list", above))? {
        let path = entry.map_err(Error::io("list", above))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn file_name(path: &Path) -> Result<&str, Error> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::Format {
        path: path.to_owned(),
        reason: "its name is not text".to_owned(),
    })
}
