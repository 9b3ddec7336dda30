//! How far consumer groups have read: a small log of its own, rewritten when most of it is superseded.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{OrganisationId, Timestamp};
use bytes::{Buf, BufMut, Bytes};
use parking_lot::RwLock;

use crate::config::Config;
use crate::core::batch::{self, Builder, Flaw, Front};
use crate::core::scan::Scan;
use crate::error::Error;
use crate::files::{Files, LogFile, is_full};
use crate::partition::{recover, segment_bases, segment_path};
use crate::record::Record;

/// Consumers that share the records of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    pub organisation: OrganisationId,
    pub name: String,
}

/// How far a group has read: `offset` is the next one that it wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) organisation: OrganisationId,
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: u32,
}

/// What is durable, for everybody to read.
pub(crate) type Positions = Arc<RwLock<BTreeMap<Key, u64>>>;

/// The writer's side.
#[derive(Debug)]
pub(crate) struct GroupLog {
    files: Files,
    folder: PathBuf,
    file: LogFile,
    positions: Positions,
    /// How many bytes are on disk for good.
    bytes: u64,
    /// The offset of the next record in this file.
    next: u64,
    /// A rewrite is due when the file reaches this offset.
    rewrite_at: u64,
    positions_max: usize,
    rewrite_records_min: u64,
    failed: Option<Arc<str>>,
}

/// The first byte of every key and value.
const VERSION: u8 = 1;
const NAME: &str = "the positions of consumer groups";
const GROUP_NAME_BYTES_MAX: usize = 249;

impl Group {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_good = (1..=GROUP_NAME_BYTES_MAX).contains(&self.name.len());
        is_good.then_some(()).ok_or(Error::GroupName)
    }
}

impl GroupLog {
    pub(crate) fn open(files: &Files, config: &Config, folder: PathBuf) -> Result<Self, Error> {
        files.create_folder(&folder).map_err(Error::io("create", &folder))?;
        let mut bases = segment_bases(files, &folder)?;
        // The newest file holds everything: older ones are left-overs of a rewrite.
        let base = bases.pop();
        for base in bases {
            let path = segment_path(&folder, base);
            files.remove(&path).map_err(Error::io("remove", &path))?;
        }
        let base = base.unwrap_or(0);
        let path = segment_path(&folder, base);
        if !files.exists(&path) {
            files.create(&path).and_then(|file| file.sync()).map_err(Error::io("create", &path))?;
        }
        files.sync_folder(&folder).map_err(Error::io("sync", &folder))?;
        let scan = recover(files, config, &path, Scan::new(base, config.index_interval_bytes))?;
        let positions = read(files, &path)?;
        let rewrite_records_min = config.group_rewrite_records_min;
        let rewrite_at = rewrite_at(base, positions.len(), rewrite_records_min);
        Ok(Self {
            file: files.open(&path).map_err(Error::io("open", &path))?,
            files: files.clone(),
            folder,
            positions: Arc::new(RwLock::new(positions)),
            bytes: scan.position,
            next: scan.next,
            rewrite_at,
            positions_max: config.group_positions_max,
            rewrite_records_min,
            failed: None,
        })
    }

    pub(crate) fn positions(&self) -> Positions {
        self.positions.clone()
    }

    /// Stores positions in one batch and one sync; of one key the last counts. Gives an answer for each.
    pub(crate) fn commit(&mut self, commits: &[(Key, u64)]) -> Vec<Result<(), Error>> {
        let mut changed = BTreeMap::new();
        let mut answers = Vec::with_capacity(commits.len());
        {
            let positions = self.positions.read();
            let mut count = positions.len();
            for (key, offset) in commits {
                let is_new = !positions.contains_key(key) && !changed.contains_key(key);
                if is_new && count >= self.positions_max {
                    let what = "positions of consumer groups";
                    answers.push(Err(Error::TooMany { what, max: self.positions_max }));
                    continue;
                }
                count += usize::from(is_new);
                changed.insert(key.clone(), *offset);
                answers.push(Ok(()));
            }
        }
        if changed.is_empty() {
            return answers;
        }
        match self.store(changed) {
            Ok(()) => answers,
            Err(error) => {
                answers.into_iter().map(|a| a.and_then(|()| Err(error.clone()))).collect()
            }
        }
    }

    fn store(&mut self, changed: BTreeMap<Key, u64>) -> Result<(), Error> {
        if let Some(reason) = &self.failed {
            return Err(Error::Unavailable { of: NAME.into(), reason: reason.clone() });
        }
        let mut bytes = Vec::new();
        encode(&changed, self.next, &mut bytes);
        let written = self.file.write_at(&bytes, self.bytes).and_then(|()| self.file.sync());
        if let Err(error) = written {
            return Err(self.take_back(error));
        }
        self.bytes += bytes.len() as u64;
        self.next += changed.len() as u64;
        self.positions.write().extend(changed);
        if self.next >= self.rewrite_at {
            self.rewrite();
        }
        Ok(())
    }

    fn take_back(&mut self, mut error: io::Error) -> Error {
        if is_full(&error) {
            match self.file.truncate(self.bytes) {
                Ok(()) => return Error::Full { of: NAME.into() },
                Err(worse) => error = worse,
            }
        }
        let reason = self.fail(&error);
        Error::Unavailable { of: NAME.into(), reason }
    }

    fn fail(&mut self, error: &io::Error) -> Arc<str> {
        tracing::error!(%error, "the positions of consumer groups cannot be stored");
        self.failed.get_or_insert_with(|| error.to_string().into()).clone()
    }

    /// Goes on in a new file that begins with every position. If none could be made, the old one still serves.
    fn rewrite(&mut self) {
        let old = self.file.path().to_owned();
        let new = segment_path(&self.folder, self.next);
        match self.snapshot() {
            Ok((file, bytes, records)) => {
                self.file = file;
                self.bytes = bytes;
                self.next += records;
                if let Err(error) = self.files.remove(&old) {
                    // The next open removes it.
                    tracing::warn!(file = %old.display(), %error, "a superseded file stays");
                }
            }
            // The next open would prefer the new file, so the old one must not grow any more.
            Err(error) if self.files.exists(&new) => drop(self.fail(&error)),
            Err(error) => {
                tracing::warn!(%error, "the positions of consumer groups were not rewritten");
            }
        }
        let live = self.positions.read().len();
        self.rewrite_at = rewrite_at(self.next, live, self.rewrite_records_min);
    }

    fn snapshot(&self) -> io::Result<(LogFile, u64, u64)> {
        let path = segment_path(&self.folder, self.next);
        let draft = path.with_extension("draft");
        if self.files.exists(&draft) {
            self.files.remove(&draft)?;
        }
        let mut bytes = Vec::new();
        let records = {
            let positions = self.positions.read();
            encode(&positions, self.next, &mut bytes);
            positions.len() as u64
        };
        let file = self.files.create(&draft)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        self.files.rename(&draft, &path)?;
        Ok((self.files.open(&path)?, bytes.len() as u64, records))
    }
}

fn rewrite_at(base: u64, live: usize, records_min: u64) -> u64 {
    base + (live as u64 * 4).max(records_min)
}

fn encode(positions: &BTreeMap<Key, u64>, base: u64, out: &mut Vec<u8>) {
    let mut batch = Builder::begin(out, base);
    for (key, offset) in positions {
        batch.push(out, &record_of(key, *offset));
    }
    batch.finish(out);
}

fn record_of(key: &Key, offset: u64) -> Record {
    let mut name = vec![VERSION];
    name.put_slice(key.organisation.bytes());
    name.put_u32(key.partition);
    for text in [&key.group, &key.topic] {
        // Both are at most 249 bytes long.
        name.put_u8(u8::try_from(text.len()).expect("names were checked at the door"));
        name.put_slice(text.as_bytes());
    }
    let mut value = vec![VERSION];
    value.put_u64(offset);
    Record {
        timestamp: Timestamp::from_micros(0),
        key: Some(name.into()),
        value: value.into(),
        headers: Vec::new(),
    }
}

fn position_of(record: &Record) -> Option<(Key, u64)> {
    let mut name: &[u8] = record.key.as_deref()?;
    let mut value: &[u8] = &record.value;
    if name.try_get_u8().ok()? != VERSION || value.try_get_u8().ok()? != VERSION {
        return None;
    }
    let mut organisation = [0; 16];
    name.try_copy_to_slice(&mut organisation).ok()?;
    let partition = name.try_get_u32().ok()?;
    let mut text = || {
        let length = usize::from(name.try_get_u8().ok()?);
        let (text, rest) = name.split_at_checked(length)?;
        name = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let (group, topic) = (text()?, text()?);
    let organisation = OrganisationId::from_bytes(organisation);
    Some((Key { organisation, group, topic, partition }, value.try_get_u64().ok()?))
}

/// Reads a file that was recovered before.
fn read(files: &Files, path: &Path) -> Result<BTreeMap<Key, u64>, Error> {
    let mut bytes = Bytes::from(files.read(path).map_err(Error::io("read", path))?);
    let mut positions = BTreeMap::new();
    let mut stored = Vec::new();
    let mut position = 0;
    while !bytes.is_empty() {
        let damaged = |flaw: Flaw| Error::Corrupt {
            file: path.to_owned(),
            position,
            reason: flaw.to_string(),
        };
        let Front::Batch(header) = batch::front(&bytes).map_err(damaged)? else {
            return Err(damaged(Flaw::Torn));
        };
        batch::decode(&bytes.split_to(header.bytes), &header, 0, &mut stored).map_err(damaged)?;
        for stored in stored.drain(..) {
            let (key, offset) = position_of(&stored.record).ok_or_else(|| damaged(Flaw::Record))?;
            positions.insert(key, offset);
        }
        position += header.bytes as u64;
    }
    Ok(positions)
}
