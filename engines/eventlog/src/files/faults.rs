//! The system's disk, failing on demand, and knowing what a power cut would leave of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::system::System;
use super::{Disk, DiskFile, Lock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Write,
    Sync,
    SyncFolder,
    Truncate,
    Remove,
}

/// The disk is full.
pub(crate) const ENOSPC: i32 = 28;
/// The disk is broken.
pub(crate) const EIO: i32 = 5;

#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    failing: Vec<(Op, String, i32)>,
    /// How many bytes may still be written before the disk is full.
    room: Option<usize>,
    syncs: usize,
    writes: usize,
    /// How much of each file is on disk for good.
    lengths: BTreeMap<PathBuf, u64>,
    /// Names that are on disk for good, and those that are not yet.
    named: BTreeSet<PathBuf>,
    unnamed: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    faults: Faults,
}

impl Disk for Faults {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        System.create_folder(path)?;
        self.created(path);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.check(Op::SyncFolder, path)?;
        System.sync_folder(path)?;
        self.synced_folder(path);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        System.list(path)
    }

    fn is_folder(&self, path: &Path) -> bool {
        System.is_folder(path)
    }

    fn exists(&self, path: &Path) -> bool {
        System.exists(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.check(Op::Create, path)?;
        let file = System.create(path)?;
        self.created(path);
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), faults: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = System.open(path)?;
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), faults: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.rename(from, to)?;
        self.renamed(from, to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Op::Remove, path)?;
        System.remove(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        System.remove_folder(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        System.lock(path)
    }
}

impl DiskFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        if let Err((room, error)) = self.faults.write(&self.path, bytes.len()) {
            self.file.write_all_at(&bytes[..room], position)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.check(Op::Sync, &self.path)?;
        self.file.sync()?;
        self.faults.synced(&self.path, self.file.length()?);
        Ok(())
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.faults.check(Op::Truncate, &self.path)?;
        self.file.set_length(bytes)
    }

    fn forget_cache(&self, position: u64) -> io::Result<()> {
        self.file.forget_cache(position)
    }
}

impl Faults {
    /// Makes every such operation on paths that contain `part` fail until [`Faults::heal`].
    pub(crate) fn fail(&self, op: Op, part: &str, errno: i32) {
        self.0.lock().failing.push((op, part.to_owned(), errno));
    }

    pub(crate) fn limit_room(&self, bytes: usize) {
        self.0.lock().room = Some(bytes);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.0.lock();
        state.failing.clear();
        state.room = None;
    }

    pub(crate) fn syncs(&self) -> usize {
        self.0.lock().syncs
    }

    pub(crate) fn writes(&self) -> usize {
        self.0.lock().writes
    }

    fn check(&self, op: Op, path: &Path) -> io::Result<()> {
        let state = self.0.lock();
        let path = path.to_string_lossy();
        let failing = state.failing.iter().find(|(o, part, _)| *o == op && path.contains(part));
        match failing {
            Some((_, _, errno)) => Err(io::Error::from_raw_os_error(*errno)),
            None => Ok(()),
        }
    }

    /// How much is written before the error.
    fn write(&self, path: &Path, bytes: usize) -> Result<(), (usize, io::Error)> {
        self.check(Op::Write, path).map_err(|error| (bytes / 2, error))?;
        let mut state = self.0.lock();
        state.writes += 1;
        if let Some(room) = &mut state.room {
            if bytes > *room {
                return Err((*room, io::Error::from_raw_os_error(ENOSPC)));
            }
            *room -= bytes;
        }
        Ok(())
    }

    fn created(&self, path: &Path) {
        self.0.lock().unnamed.insert(path.to_owned());
    }

    fn synced(&self, path: &Path, bytes: u64) {
        let mut state = self.0.lock();
        state.syncs += 1;
        state.lengths.insert(path.to_owned(), bytes);
    }

    fn synced_folder(&self, path: &Path) {
        let mut state = self.0.lock();
        let (now, later) = std::mem::take(&mut state.unnamed)
            .into_iter()
            .partition(|name| name.parent() == Some(path));
        state.unnamed = later;
        state.named.extend::<BTreeSet<PathBuf>>(now);
    }

    /// Whatever lay under the old name, a folder's content included, has the new one.
    fn renamed(&self, from: &Path, to: &Path) {
        let mut state = self.0.lock();
        let moved = |path: &PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.clone(),
        };
        state.lengths = state.lengths.iter().map(|(path, bytes)| (moved(path), *bytes)).collect();
        state.unnamed = state.unnamed.iter().map(moved).collect();
        state.named = state.named.iter().map(moved).collect();
        state.named.remove(to);
        state.unnamed.insert(to.to_owned());
    }

    /// Copies to `target` what a power cut now would leave of `dir`: no byte and no name that was not synced.
    pub(crate) fn power_cut(&self, dir: &Path, target: &Path) {
        let state = self.0.lock();
        fs::create_dir_all(target).unwrap();
        let is_left = |path: &Path| {
            path.ancestors().take_while(|p| *p != dir).all(|p| state.named.contains(p))
        };
        for path in state.named.iter().filter(|path| path.starts_with(dir) && is_left(path)) {
            let copy = target.join(path.strip_prefix(dir).unwrap());
            if path.is_dir() {
                fs::create_dir_all(copy).unwrap();
            } else if let Ok(mut bytes) = fs::read(path) {
                let kept = state.lengths.get(path).copied().unwrap_or(0);
                bytes.truncate(usize::try_from(kept).unwrap());
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                fs::write(copy, bytes).unwrap();
            }
        }
    }
}
