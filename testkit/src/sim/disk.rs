//! Files and folders in memory that know what a power cut would leave of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Sim;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

const ENOSPC: i32 = 28;
const ROOT: usize = 0;

/// How often the disk fails: once in so many operations, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Odds {
    pub write_fails: u64,
    pub fsync_fails: u64,
    /// The system found no room only when it wrote behind: ENOSPC from fsync.
    pub fsync_is_full: u64,
    pub folder_fsync_fails: u64,
    pub folder_fsync_is_full: u64,
    pub remove_fails: u64,
    pub read_fails: u64,
}

/// One disk; cloning shares it. Paths are absolute or relative to its root, which is there from the first moment.
///
/// What was written is seen at once by everybody, and is on disk for good when the file was synced; a name is when its folder
/// was. At a power cut everything else is kept, lost or torn at [`SECTOR_BYTES`], each write and each name for itself.
/// After a failed fsync of a file the same is true of what it should have written, and what was lost stays to be read until
/// the cache forgets it, as on Linux.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

/// An open file.
#[derive(Clone)]
pub struct DiskFile {
    disk: Disk,
    id: usize,
}

struct State {
    sim: Sim,
    odds: Odds,
    inodes: Vec<Inode>,
    /// How many more bytes fit.
    room: Option<u64>,
    /// So many operations until everything stops.
    left: Option<u64>,
    is_off: bool,
    operations: u64,
}

enum Inode {
    File(File),
    Folder(Folder),
}

#[derive(Default)]
struct File {
    /// What is read.
    live: Vec<u8>,
    /// What is on disk for good.
    kept: Vec<u8>,
    /// What was done since the last fsync.
    pending: Vec<Change>,
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Default)]
struct Folder {
    live: BTreeMap<String, usize>,
    kept: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
}

#[derive(Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename { from: String, to: String, id: usize },
}

/// What an operation does when the machine stops in the midst of it.
#[derive(Clone, Copy)]
enum Begin {
    Goes,
    Stops,
}

impl Disk {
    pub fn new(sim: &Sim) -> Self {
        Self(Arc::new(Mutex::new(State {
            sim: sim.clone(),
            odds: Odds::default(),
            inodes: vec![Inode::Folder(Folder::default())],
            room: None,
            left: None,
            is_off: false,
            operations: 0,
        })))
    }

    pub fn set_odds(&self, odds: Odds) {
        self.0.lock().odds = odds;
    }

    /// Only so many more bytes fit; all do with `None`.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.0.lock().room = bytes;
    }

    /// Lets everything stop in the midst of the n-th operation from now; 1 is the next.
    pub fn stop_at(&self, operation: u64) {
        self.0.lock().left = Some(operation);
    }

    /// Stops now.
    pub fn stop(&self) {
        self.0.lock().is_off = true;
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().is_off
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The process was killed and the machine goes on: everything that was written is still there to be read.
    pub fn restart_process(&self) {
        let mut state = self.0.lock();
        (state.is_off, state.left) = (false, None);
    }

    /// The power went, and comes back.
    pub fn restart_machine(&self) {
        let mut state = self.0.lock();
        (state.is_off, state.left) = (false, None);
        let sim = state.sim.clone();
        for inode in &mut state.inodes {
            match inode {
                Inode::File(file) => file.cut(&sim),
                Inode::Folder(folder) => folder.cut(&sim),
            }
        }
    }

    /// One bit of a file changes on the platter, unnoticed. Nothing happens to an empty file.
    pub fn rot(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let id = state.find(path)?;
        let sim = state.sim.clone();
        let file = state.file(id)?;
        if file.kept.is_empty() || sim.spares("bit rot") {
            return Ok(());
        }
        let at = sim.index(file.kept.len());
        let bit = 1 << sim.below(8);
        file.kept[at] ^= bit;
        if let Some(byte) = file.live.get_mut(at) {
            *byte ^= bit;
        }
        sim.note(format_args!("bit rot at {at} of {}", path.display()));
        sim.count("bit rot");
        Ok(())
    }

    pub fn exists(&self, path: &Path) -> bool {
        self.0.lock().find(path).is_ok()
    }

    pub fn is_folder(&self, path: &Path) -> bool {
        let state = self.0.lock();
        state.find(path).is_ok_and(|id| matches!(state.inodes[id], Inode::Folder(_)))
    }

    /// What is in a folder, in no order that anybody may rely on.
    pub fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.0.lock();
        state.read_may_fail()?;
        let id = state.find(path)?;
        let mut names: Vec<PathBuf> =
            state.folder(id)?.live.keys().map(|name| path.join(name)).collect();
        let sim = state.sim.clone();
        for last in (1..names.len()).rev() {
            names.swap(last, sim.index(last + 1));
        }
        Ok(names)
    }

    pub fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.make(path, Inode::Folder(Folder::default())).map(drop)
    }

    /// Makes an empty file; one of this name must not be there.
    pub fn create(&self, path: &Path) -> io::Result<DiskFile> {
        let id = self.make(path, Inode::File(File::default()))?;
        Ok(DiskFile { disk: self.clone(), id })
    }

    fn make(&self, path: &Path, inode: Inode) -> io::Result<usize> {
        let mut state = self.0.lock();
        let stops = state.begin("create", path)?;
        let (above, name) = state.place(path)?;
        if state.folder(above)?.live.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if state.room == Some(0) {
            state.sim.count("disk full");
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        state.inodes.push(inode);
        let id = state.inodes.len() - 1;
        state.rename_in(above, NameChange::Link(name, id), stops)?;
        Ok(id)
    }

    pub fn open(&self, path: &Path) -> io::Result<DiskFile> {
        let mut state = self.0.lock();
        state.read_may_fail()?;
        let id = state.find(path)?;
        state.file(id)?;
        Ok(DiskFile { disk: self.clone(), id })
    }

    /// Within one folder only: what a crash between two folders leaves is not simulated.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let stops = state.begin("rename", to)?;
        let ((above, from), (other, to)) = (state.place(from)?, state.place(to)?);
        if above != other {
            return Err(ErrorKind::CrossesDevices.into());
        }
        let id = state.folder(above)?.live.get(&from).copied();
        let id = id.ok_or(ErrorKind::NotFound)?;
        state.rename_in(above, NameChange::Rename { from, to, id }, stops)
    }

    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let stops = state.begin("remove", path)?;
        let one_in = state.odds.remove_fails;
        if state.sim.strikes("remove failed", one_in) {
            return Err(broken("remove failed"));
        }
        let (above, name) = state.place(path)?;
        if !state.folder(above)?.live.contains_key(&name) {
            return Err(ErrorKind::NotFound.into());
        }
        state.rename_in(above, NameChange::Unlink(name), stops)
    }

    /// Removes a folder with everything in it, each for itself.
    pub fn remove_folder(&self, path: &Path) -> io::Result<()> {
        for inside in self.list(path)? {
            if self.is_folder(&inside) {
                self.remove_folder(&inside)?;
            } else {
                self.remove(&inside)?;
            }
        }
        self.remove(path)
    }

    /// Puts the names in a folder on disk for good.
    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let stops = state.begin("sync folder", path)?;
        let id = state.find(path)?;
        let sim = state.sim.clone();
        let odds = state.odds;
        let folder = state.folder(id)?;
        if matches!(stops, Begin::Stops) {
            return Err(off());
        }
        if sim.strikes("folder fsync failed", odds.folder_fsync_fails) {
            folder.sync_partly(&sim);
            return Err(broken("folder fsync failed"));
        }
        if sim.strikes("folder fsync found no room", odds.folder_fsync_is_full) {
            folder.sync_partly(&sim);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        folder.sync();
        Ok(())
    }

    /// A number for everything that can be read, names included.
    pub fn fingerprint(&self) -> u64 {
        let state = self.0.lock();
        let mut trace = super::Trace::default();
        for inode in &state.inodes {
            match inode {
                Inode::File(file) => trace.mix(&file.live),
                Inode::Folder(folder) => folder.live.keys().for_each(|k| trace.mix(k.as_bytes())),
            }
        }
        trace.0
    }
}

impl DiskFile {
    pub fn length(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock();
        if state.is_off {
            return Err(off());
        }
        Ok(state.file(self.id)?.live.len() as u64)
    }

    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.read_may_fail()?;
        let file = state.file(self.id)?;
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        let found = file.live.get(from..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    pub fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let stops = state.begin("write", Path::new(""))?;
        let sim = state.sim.clone();
        let at = usize::try_from(position).expect("a file fits in memory");
        let failing = state.odds.write_fails;
        let length = state.file(self.id)?.live.len();
        let growth = (at + bytes.len()).saturating_sub(length) as u64;
        let (taken, failure) = if matches!(stops, Begin::Stops) {
            (sim.index(bytes.len() + 1), Some(off()))
        } else if state.room.is_some_and(|room| growth > room) {
            sim.count("disk full");
            let missing = usize::try_from(growth - state.room.unwrap_or(0)).expect("it fits");
            (bytes.len() - missing, Some(io::Error::from_raw_os_error(ENOSPC)))
        } else if sim.strikes("write failed", failing) {
            (sim.index(bytes.len() + 1), Some(broken("write failed")))
        } else {
            (bytes.len(), None)
        };
        let file = state.file(self.id)?;
        let before = file.live.len();
        let change = Change::Write { at, bytes: bytes[..taken].to_vec() };
        change.apply(&mut file.live);
        let grown = (file.live.len() - before) as u64;
        file.pending.push(change);
        if let Some(room) = &mut state.room {
            *room = room.saturating_sub(grown);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Everything that was written is on disk for good when this returns.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let stops = state.begin("sync", Path::new(""))?;
        let (sim, odds) = (state.sim.clone(), state.odds);
        let file = state.file(self.id)?;
        if matches!(stops, Begin::Stops) {
            return Err(off());
        }
        if sim.strikes("fsync failed", odds.fsync_fails) {
            file.settle(&sim);
            return Err(broken("fsync failed"));
        }
        if sim.strikes("fsync found no room", odds.fsync_is_full) {
            file.settle(&sim);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        file.sync();
        Ok(())
    }

    pub fn set_length(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let stops = state.begin("set length", Path::new(""))?;
        let sim = state.sim.clone();
        if matches!(stops, Begin::Stops) && sim.one_in(2) {
            return Err(off());
        }
        let file = state.file(self.id)?;
        let before = file.live.len();
        let change = Change::Length(usize::try_from(bytes).expect("a file fits in memory"));
        change.apply(&mut file.live);
        let freed = before.saturating_sub(file.live.len()) as u64;
        file.pending.push(change);
        if let Some(room) = &mut state.room {
            *room += freed;
        }
        if matches!(stops, Begin::Stops) { Err(off()) } else { Ok(()) }
    }

    /// The system forgets what it holds of the file in memory and reads it from the disk again, but for what
    /// was not written to it yet.
    pub fn forget_cache(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let file = state.file(self.id)?;
        if file.pending.is_empty() {
            file.live.clone_from(&file.kept);
        }
        Ok(())
    }
}

impl State {
    /// Notes and counts an operation that changes something; fails when the machine is off.
    fn begin(&mut self, what: &str, path: &Path) -> io::Result<Begin> {
        if self.is_off {
            return Err(off());
        }
        self.operations += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.sim.note(format_args!("disk: {what} {name}"));
        let Some(left) = &mut self.left else { return Ok(Begin::Goes) };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return Ok(Begin::Goes);
        }
        self.is_off = true;
        self.sim.note(format_args!("disk: everything stops in the midst of it"));
        Ok(Begin::Stops)
    }

    fn read_may_fail(&mut self) -> io::Result<()> {
        if self.is_off {
            return Err(off());
        }
        if self.sim.strikes("read failed", self.odds.read_fails) {
            return Err(broken("read failed"));
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut id = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Inode::Folder(folder) = &self.inodes[id] else {
                return Err(ErrorKind::NotADirectory.into());
            };
            let name = name.to_str().ok_or(ErrorKind::InvalidFilename)?;
            id = *folder.live.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(id)
    }

    /// The folder that a name stands in, and the name.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let above = self.find(path.parent().ok_or(ErrorKind::InvalidFilename)?)?;
        let name = path.file_name().and_then(|name| name.to_str());
        Ok((above, name.ok_or(ErrorKind::InvalidFilename)?.to_owned()))
    }

    fn file(&mut self, id: usize) -> io::Result<&mut File> {
        match &mut self.inodes[id] {
            Inode::File(file) => Ok(file),
            Inode::Folder(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn folder(&mut self, id: usize) -> io::Result<&mut Folder> {
        match &mut self.inodes[id] {
            Inode::Folder(folder) => Ok(folder),
            Inode::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// Changes a name. When the machine stops in the midst of it, it happened or not.
    fn rename_in(&mut self, above: usize, change: NameChange, stops: Begin) -> io::Result<()> {
        let stops = matches!(stops, Begin::Stops);
        if stops && self.sim.one_in(2) {
            return Err(off());
        }
        let folder = self.folder(above)?;
        change.apply(&mut folder.live);
        folder.pending.push(change);
        if stops { Err(off()) } else { Ok(()) }
    }
}

impl File {
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.kept);
        }
    }

    /// What is pending gets to the disk or not, each for itself.
    fn settle(&mut self, sim: &Sim) {
        for change in std::mem::take(&mut self.pending) {
            change.apply_partly(&mut self.kept, sim);
        }
    }

    fn cut(&mut self, sim: &Sim) {
        self.settle(sim);
        self.live.clone_from(&self.kept);
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Length(bytes) => content.resize(*bytes, 0),
        }
    }

    fn apply_partly(self, content: &mut Vec<u8>, sim: &Sim) {
        let fate = sim.below(4);
        if fate == 0 {
            return self.apply(content);
        }
        let Self::Write { at, bytes } = self else {
            // A length is one thing: it is there or not.
            if fate == 1 || sim.spares("lost write") {
                self.apply(content);
            } else {
                sim.count("lost length");
            }
            return;
        };
        let end = at + bytes.len();
        let is_long = end.div_ceil(SECTOR_BYTES) - at / SECTOR_BYTES > 1;
        if fate == 1 && is_long && !sim.spares("torn write") {
            sim.count("torn write");
            let mut from = at;
            while from < end {
                let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                if sim.one_in(2) {
                    let piece = bytes[from - at..to - at].to_vec();
                    Self::Write { at: from, bytes: piece }.apply(content);
                }
                from = to;
            }
        } else if fate == 2 && end > content.len() && !sim.spares("length without data") {
            sim.count("length without data");
            content.resize(end, 0);
        } else if sim.spares("lost write") {
            Self::Write { at, bytes }.apply(content);
        } else {
            sim.count("lost write");
        }
    }
}

impl Folder {
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.kept);
        }
    }

    /// Some names get to the disk; the others are still to be written, since the system forgets no name.
    fn sync_partly(&mut self, sim: &Sim) {
        for change in &self.pending {
            if sim.one_in(2) {
                change.apply(&mut self.kept);
            }
        }
    }

    fn cut(&mut self, sim: &Sim) {
        for change in std::mem::take(&mut self.pending) {
            if sim.one_in(2) || sim.spares("lost name") {
                change.apply(&mut self.kept);
            } else {
                sim.count("lost name");
            }
        }
        self.live.clone_from(&self.kept);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename { from, to, id } => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

fn broken(what: &'static str) -> io::Error {
    io::Error::other(what)
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskFile({})", self.id)
    }
}
