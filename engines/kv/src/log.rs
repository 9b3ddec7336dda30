//! The append log: effects in frames with a checksum, one frame and one fsync a turn; and snapshots beside it, so that
//! it can begin anew.

pub(crate) mod effect;
mod files;
pub(crate) mod frame;
mod recovery;
mod rewrite;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::config::Durability;
use crate::engine::Refusal;
use crate::error::Error;
use frame::{FRAME_HEADER, MAGIC, UNSURE};
pub(crate) use recovery::{FOLLOWS, Recovered, recover, unused};
pub(crate) use rewrite::Rewrite;

/// Room on disk is taken at least this much ahead, so that a full disk is seen before a change is made.
const RESERVE_MIN: u64 = 4 << 20;
/// Where everything is synced, room is written with zeros: so much at a time, for which one turn waits.
const WRITTEN_STEP: u64 = 1 << 20;
/// Elsewhere it is promised, which costs the same for little and for much.
const PROMISED_STEP: u64 = 16 << 20;
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
/// What the other thread is asked for and has not begun, at most.
const TASKS_MAX: usize = 4;
/// A turn that waits for the other thread's fsync gives it this long, in milliseconds.
const SYNC_EVERY: i64 = 1_000;

pub(crate) const FULL: Refusal = "MISCONF the disk is full, so that nothing can be written; reads go on, and writes will when there is room";
pub(crate) const FAILED: Refusal = "MISCONF the log could not be put on disk, so that nothing is acknowledged until the store is started again";

pub(crate) struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) number: u64,
    file: Arc<File>,
    /// Where the next frame goes.
    end: u64,
    /// Up to here the file has room on disk.
    reserved: u64,
    room: Room,
    sequence: u64,
    is_failed: bool,
    is_unsynced: bool,
    synced_at: i64,
    syncer: Option<(SyncSender<Task>, JoinHandle<()>)>,
    sync_failed: Arc<AtomicBool>,
    /// Older logs that may not be on disk, each before the next.
    unsynced_before: Vec<Arc<File>>,
    next: Next,
    begun: Receiver<Result<File, Error>>,
    /// Bytes of older logs that are still needed.
    pub(crate) older_bytes: u64,
    /// Held as long as the log is open.
    lock: Option<File>,
}

/// How room can be taken ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// The file system gives it without its being written.
    Promised,
    Written,
    Not,
}

/// The log after this one, where the turn to it waits for nothing.
enum Next {
    Unknown,
    IsBegun,
    Ready(File),
}

/// What the other thread does.
enum Task {
    Sync(Arc<File>),
    Begin(PathBuf, PathBuf),
    /// Lets go of deleted files, which takes a while when they are long.
    Close(Vec<Arc<File>>),
}

/// Where the log goes on after recovery.
pub(crate) struct Tail {
    pub(crate) number: u64,
    pub(crate) end: u64,
    pub(crate) sequence: u64,
    pub(crate) older_bytes: u64,
}

impl Log {
    pub(crate) fn open(dir: PathBuf, lock: File, tail: &Tail) -> Result<Self, Error> {
        let path = files::log_path(&dir, tail.number);
        let file = if path.exists() { files::open(&path)? } else { begin(&dir, &path, *MAGIC)? };
        let (syncer, tasks) = sync_channel(TASKS_MAX);
        let (answer, begun) = sync_channel(TASKS_MAX);
        let sync_failed = Arc::new(AtomicBool::new(false));
        let failed = sync_failed.clone();
        let thread = std::thread::Builder::new()
            .name("kv-sync".into())
            .spawn(move || work(&tasks, &answer, &failed))
            .map_err(Error::io("start a thread for", &path))?;
        Ok(Self {
            number: tail.number,
            file: Arc::new(file),
            end: tail.end,
            reserved: tail.end,
            room: Room::Promised,
            sequence: tail.sequence,
            is_failed: false,
            is_unsynced: false,
            synced_at: 0,
            syncer: Some((syncer, thread)),
            sync_failed,
            unsynced_before: Vec::new(),
            next: Next::Unknown,
            begun,
            older_bytes: tail.older_bytes,
            dir,
            lock: Some(lock),
        })
    }

    /// Bytes that recovery would read beside the snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        self.older_bytes + self.end
    }

    /// Why nothing can be written now, found out before anything is changed.
    pub(crate) fn check(&mut self, durability: Durability) -> Option<Refusal> {
        if self.is_failed || self.sync_failed.load(Ordering::Acquire) {
            self.is_failed = true;
            return Some(FAILED);
        }
        if self.reserved >= self.end + RESERVE_MIN || self.room == Room::Not {
            return None;
        }
        match self.reserve(durability) {
            Ok(()) => None,
            Err(error) if files::is_full(&error) => Some(FULL),
            Err(_) => {
                // What is wrong is then seen by the write.
                self.room = Room::Not;
                None
            }
        }
    }

    fn reserve(&mut self, durability: Durability) -> io::Result<()> {
        // A long frame may have gone beyond what was reserved.
        self.reserved = self.reserved.max(self.end);
        let least = self.end + RESERVE_MIN;
        if durability != Durability::Always && self.room == Room::Promised {
            let more = least + PROMISED_STEP - self.reserved;
            match fallocate(&*self.file, FallocateFlags::empty(), self.reserved, more) {
                Ok(()) => {
                    self.reserved += more;
                    return Ok(());
                }
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.room = Room::Written,
                // There may be room for less.
                Err(Errno::NOSPC | Errno::DQUOT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Written and not only promised: a sync later has nothing to note but what was appended.
        let to = least + WRITTEN_STEP;
        while self.reserved < to {
            let length = usize::try_from(to - self.reserved).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_all_at(&ZEROS[..length], self.reserved)?;
            self.reserved += length as u64;
        }
        Ok(())
    }

    /// Writes the frame whose body stands behind the room for its header, and makes it as durable as was asked for.
    /// On failure nothing of it counts, and it is as it was.
    pub(crate) fn commit(
        &mut self,
        frame: &mut [u8],
        durability: Durability,
        now: i64,
    ) -> Result<(), Refusal> {
        if self.is_failed {
            return Err(FAILED);
        }
        frame::seal(frame, self.sequence + 1);
        if let Err(error) = self.file.write_all_at(frame, self.end) {
            if files::is_full(&error) {
                tracing::warn!("the disk is full");
                return Err(FULL);
            }
            return Err(self.fail(&error));
        }
        self.is_unsynced = true;
        if durability == Durability::Always {
            self.sync()?;
        } else if durability == Durability::Everysec && now - self.synced_at >= SYNC_EVERY {
            self.sync_aside(now);
        }
        self.end += frame.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Lets the other thread sync what was written, when a second has passed.
    pub(crate) fn sync_if_due(&mut self, durability: Durability, now: i64) {
        if self.is_unsynced
            && durability == Durability::Everysec
            && now - self.synced_at >= SYNC_EVERY
        {
            self.sync_aside(now);
        }
    }

    fn sync_aside(&mut self, now: i64) {
        // While the last one still runs, the next turn asks again.
        let Some((syncer, _)) = &self.syncer else { return };
        if syncer.try_send(Task::Sync(self.file.clone())).is_ok() {
            self.is_unsynced = false;
            self.synced_at = now;
        }
    }

    pub(crate) fn sync(&mut self) -> Result<(), Refusal> {
        if !self.unsynced_before.is_empty()
            && let Err(error) = self.sync_before()
        {
            return Err(self.fail(&error));
        }
        if !self.is_unsynced {
            return Ok(());
        }
        if let Err(error) = self.file.sync_data() {
            return Err(self.fail(&error));
        }
        self.is_unsynced = false;
        Ok(())
    }

    /// Waits until everything so far is on disk, also what another thread syncs meanwhile.
    pub(crate) fn settle(&mut self) -> Result<(), Refusal> {
        self.is_unsynced = true;
        self.sync()
    }

    /// Puts the older logs on disk, after which each log stands for itself.
    fn sync_before(&mut self) -> io::Result<()> {
        let files = std::mem::take(&mut self.unsynced_before);
        let later = files.iter().skip(1).chain([&self.file]);
        for (file, later) in files.iter().zip(later) {
            file.sync_data()?;
            later.write_all_at(MAGIC, 0)?;
        }
        self.is_unsynced = true;
        Ok(())
    }

    /// A snapshot stands for the older logs, which are deleted.
    pub(crate) fn older_are_gone(&mut self) {
        self.older_bytes = 0;
        let files = std::mem::take(&mut self.unsynced_before);
        if !files.is_empty()
            && let Some((syncer, _)) = &self.syncer
            && syncer.try_send(Task::Close(files)).is_err()
        {
            tracing::debug!("deleted logs are closed at once");
        }
    }

    fn fail(&mut self, error: &io::Error) -> Refusal {
        // What the disk holds is not known after this, so it is not tried again.
        tracing::error!(%error, "the log could not be put on disk");
        self.is_failed = true;
        FAILED
    }

    /// Lets go of the folder, so that it can be read back; says whether a sync has failed.
    pub(crate) fn retire(&mut self) -> bool {
        if let Some((syncer, thread)) = self.syncer.take() {
            drop(syncer);
            if thread.join().is_err() {
                self.is_failed = true;
            }
        }
        self.lock = None;
        self.is_failed || self.sync_failed.load(Ordering::Acquire)
    }

    /// After a failed sync that another log of this folder saw: nothing is acknowledged here either.
    pub(crate) fn stay_failed(&mut self) {
        self.is_failed = true;
    }

    /// Makes sure that [`Log::roll`] will wait for no disk but where everything does; says whether it is so already.
    pub(crate) fn prepare(&mut self, durability: Durability) -> Result<bool, Error> {
        if matches!(self.next, Next::IsBegun) {
            match self.begun.try_recv() {
                Ok(Ok(file)) => self.next = Next::Ready(file),
                Ok(Err(error)) => {
                    self.next = Next::Unknown;
                    return Err(error);
                }
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => return Err(Error::Ended),
            }
        }
        if durability == Durability::Always || matches!(self.next, Next::Ready(_)) {
            return Ok(true);
        }
        let path = files::log_path(&self.dir, self.number + 1);
        if let Some((syncer, _)) = &self.syncer
            && syncer.try_send(Task::Begin(self.dir.clone(), path)).is_ok()
        {
            self.next = Next::IsBegun;
        }
        Ok(false)
    }

    /// Goes on in a new file, of which a snapshot of this moment is the beginning.
    pub(crate) fn roll(&mut self, durability: Durability) -> Result<(), Error> {
        let next = std::mem::replace(&mut self.next, Next::Unknown);
        let (file, end) = match next {
            Next::Ready(file) if durability != Durability::Always => self.follow(file)?,
            _ => self.begin_synced()?,
        };
        self.older_bytes += self.end;
        self.number += 1;
        self.end = end;
        self.reserved = end;
        self.file = Arc::new(file);
        if durability == Durability::Everysec {
            self.sync_older_aside();
        }
        Ok(())
    }

    /// Goes on in a file that counts only if everything of this one is there too.
    fn follow(&mut self, file: File) -> Result<(File, u64), Error> {
        let mut link = recovery::link(self.end);
        frame::seal(&mut link, self.sequence + 1);
        if let Err(error) = file.write_all_at(&link, UNSURE.len() as u64) {
            self.next = Next::Ready(file);
            return Err(Error::io("write", &files::log_path(&self.dir, self.number + 1))(error));
        }
        // The room that was taken ahead is given back.
        if let Err(error) = self.file.set_len(self.end) {
            tracing::warn!(%error, "a log keeps room that it does not need");
        }
        self.sequence += 1;
        self.unsynced_before.push(self.file.clone());
        self.is_unsynced = true;
        Ok((file, (UNSURE.len() + link.len()) as u64))
    }

    /// Lets the other thread put on disk what the turn to a new file left behind, before anything of the new one.
    fn sync_older_aside(&mut self) {
        let (Some(older), Some((syncer, _))) = (self.unsynced_before.last(), &self.syncer) else {
            return;
        };
        if syncer.try_send(Task::Sync(older.clone())).is_err()
            && let Err(error) = older.sync_data()
        {
            self.fail(&error);
        }
    }

    fn begin_synced(&mut self) -> Result<(File, u64), Error> {
        let old = files::log_path(&self.dir, self.number);
        // The room that was taken ahead is given back.
        let synced = self.sync_before().and_then(|()| self.file.set_len(self.end));
        if let Err(error) = synced.and_then(|()| self.file.sync_all()) {
            self.fail(&error);
            return Err(Error::io("sync", &old)(error));
        }
        self.is_unsynced = false;
        self.reserved = self.end;
        let path = files::log_path(&self.dir, self.number + 1);
        match begin(&self.dir, &path, *MAGIC) {
            Ok(file) => Ok((file, MAGIC.len() as u64)),
            Err(error) => {
                // With a later log beside it, a torn end of this one would not be taken for its end.
                if let Err(error) = fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::error!(%error, "a log that did not begin cannot be deleted");
                    self.is_failed = true;
                }
                Err(error)
            }
        }
    }

    /// Ends the log in good order: everything is on disk and nothing stands behind it.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        let path = files::log_path(&self.dir, self.number);
        if self.is_failed {
            return Ok(());
        }
        self.sync_before().map_err(Error::io("sync", &path))?;
        self.file.set_len(self.end).map_err(Error::io("cut", &path))?;
        self.file.sync_all().map_err(Error::io("sync", &path))
    }
}

/// Makes a log that is on disk with its name before anything is in it.
fn begin(dir: &Path, path: &Path, magic: [u8; 8]) -> Result<File, Error> {
    let file = files::open(path)?;
    file.write_all_at(&magic, 0).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))?;
    files::sync_folder(dir)?;
    Ok(file)
}

fn work(tasks: &Receiver<Task>, begun: &SyncSender<Result<File, Error>>, failed: &AtomicBool) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Sync(file) => {
                if let Err(error) = file.sync_data() {
                    tracing::error!(%error, "the log could not be put on disk");
                    failed.store(true, Ordering::Release);
                }
            }
            Task::Close(files) => drop(files),
            // Whoever asked may be gone; a log that nothing is in is deleted at the next start.
            Task::Begin(dir, path) => drop(begun.send(begin(&dir, &path, *UNSURE))),
        }
    }
}

/// A buffer for effects, with room for the header of their frame.
pub(crate) fn empty_frame() -> Vec<u8> {
    vec![0; FRAME_HEADER]
}
