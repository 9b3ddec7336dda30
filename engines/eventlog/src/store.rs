//! The folder of the log: who holds it, which format it has, which topics are in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::OrganisationId;

use crate::config::Config;
use crate::error::Error;
use crate::files::{Files, Lock};
use crate::groups::GroupLog;
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
pub(crate) fn lock(files: &Files, dir: &Path) -> Result<Option<Lock>, Error> {
    files.create_folder(dir).map_err(Error::io("create", dir))?;
    // A process that made it may have been killed before its name was on disk.
    files.sync_name(dir).map_err(Error::io("sync", dir))?;
    let path = dir.join(LOCK_FILE);
    files.lock(&path).map_err(Error::io("lock", &path))
}

/// Opens everything in a folder whose lock is held.
pub(crate) fn open(files: &Files, config: &Config) -> Result<(Topics, GroupLog), Error> {
    check_format(files, &config.dir)?;
    let groups = GroupLog::open(files, config, config.dir.join(GROUPS_FOLDER))?;
    Ok((load(files, config)?, groups))
}

/// Who has the lock, in the words of the holder.
pub(crate) fn in_use(files: &Files, dir: &Path) -> Error {
    let holder = files.read(&dir.join(LOCK_FILE)).unwrap_or_default();
    let holder = String::from_utf8_lossy(&holder);
    let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() }.to_owned();
    Error::InUse { dir: dir.to_owned(), holder }
}

/// Makes the marker in a new folder and checks it in an old one.
fn check_format(files: &Files, dir: &Path) -> Result<(), Error> {
    let path = dir.join(FORMAT_FILE);
    let wrong = |reason: String| Error::Format { path: path.clone(), reason };
    match files.read(&path) {
        Ok(found) if found == FORMAT.as_bytes() => return Ok(()),
        Ok(found) => {
            let found = String::from_utf8_lossy(&found);
            let (found, wanted) = (found.trim(), FORMAT.trim());
            return Err(wrong(format!("this version reads {wanted:?}, found {found:?}")));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("read", &path)(error)),
    }
    let draft = dir.join(format!("{FORMAT_FILE}{DRAFT}"));
    for entry in files.list(dir).map_err(Error::io("list", dir))? {
        if entry != dir.join(LOCK_FILE) && entry != draft {
            return Err(wrong("missing, and the folder is not empty".to_owned()));
        }
    }
    if files.exists(&draft) {
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

/// Opens every topic of every organisation.
fn load(files: &Files, config: &Config) -> Result<Topics, Error> {
    let mut topics = Topics::new();
    // A killed process may have left names that are not on disk; what is stored behind them must not hang on that.
    files.sync_folder(&config.dir).map_err(Error::io("sync", &config.dir))?;
    for folder in folders(files, &config.dir)? {
        let name = file_name(&folder)?;
        if name == GROUPS_FOLDER {
            continue;
        }
        let organisation: OrganisationId = name.parse().map_err(|_| Error::Format {
            path: folder.clone(),
            reason: "a folder here is named by the id of an organisation".to_owned(),
        })?;
        files.sync_folder(&folder).map_err(Error::io("sync", &folder))?;
        for folder in folders(files, &folder)? {
            let name = file_name(&folder)?;
            if name.ends_with(DRAFT) {
                // A crash came while the topic was made; nobody was told that it exists.
                files.remove_folder(&folder).map_err(Error::io("remove", &folder))?;
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
    if files.exists(&folder) {
        // An earlier attempt got this far and failed to put the name on disk.
        files.sync_folder(&above).map_err(Error::io("sync", &above))?;
        files.sync_name(&above).map_err(Error::io("sync", &config.dir))?;
        return open_topic(files, config, organisation, &folder);
    }
    if files.exists(&draft) {
        files.remove_folder(&draft).map_err(Error::io("remove", &draft))?;
    }
    for number in 0..config.partitions {
        partition::create(files, &draft.join(number.to_string()))?;
    }
    // An earlier attempt may have made the organisation's folder and failed to put its name on disk.
    files.sync_name(&above).map_err(Error::io("sync", &config.dir))?;
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
    let found = folders(files, folder)?.len();
    let mut partitions = Vec::with_capacity(found);
    for number in 0..found {
        let path = folder.join(number.to_string());
        if !files.is_folder(&path) {
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

fn folders(files: &Files, above: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut folders = files.list(above).map_err(Error::io("list", above))?;
    folders.retain(|path| files.is_folder(path));
    Ok(folders)
}

fn file_name(path: &Path) -> Result<&str, Error> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::Format {
        path: path.to_owned(),
        reason: "its name is not text".to_owned(),
    })
}
