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
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::config::Durability;
use crate::engine::Refusal;
use crate::error::Error;
use frame::{FRAME_HEADER, MAGIC};
pub(crate) use recovery::recover;
pub(crate) use rewrite::Rewrite;

/// Room on disk is taken this much ahead, so that a full disk is seen before a change is made.
const RESERVE: u64 = 8 << 20;
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
const RESERVE_MIN: u64 = 4 << 20;
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
    can_reserve: bool,
    sequence: u64,
    is_failed: bool,
    is_unsynced: bool,
    synced_at: i64,
    syncer: Option<(SyncSender<Arc<File>>, JoinHandle<()>)>,
    sync_failed: Arc<AtomicBool>,
    /// Bytes of older logs that are still needed.
    pub(crate) older_bytes: u64,
    /// Held as long as the log is open.
    lock: Option<File>,
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
        let file = if path.exists() { files::open(&path)? } else { begin(&dir, &path)? };
        let (syncer, requests) = sync_channel(1);
        let sync_failed = Arc::new(AtomicBool::new(false));
        let failed = sync_failed.clone();
        let thread = std::thread::Builder::new()
            .name("kv-sync".into())
            .spawn(move || sync_all(&requests, &failed))
            .map_err(Error::io("start a thread for", &path))?;
        Ok(Self {
            number: tail.number,
            file: Arc::new(file),
            end: tail.end,
            reserved: tail.end,
            can_reserve: true,
            sequence: tail.sequence,
            is_failed: false,
            is_unsynced: false,
            synced_at: 0,
            syncer: Some((syncer, thread)),
            sync_failed,
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
    pub(crate) fn check(&mut self) -> Option<Refusal> {
        if self.is_failed || self.sync_failed.load(Ordering::Acquire) {
            self.is_failed = true;
            return Some(FAILED);
        }
        if self.reserved >= self.end + RESERVE_MIN || !self.can_reserve {
            return None;
        }
        match self.reserve(self.end + RESERVE) {
            Ok(()) => None,
            Err(error) if files::is_full(&error) => Some(FULL),
            Err(_) => {
                // What is wrong is then seen by the write.
                self.can_reserve = false;
                None
            }
        }
    }

    fn reserve(&mut self, to: u64) -> io::Result<()> {
        // A long frame may have gone beyond what was reserved.
        self.reserved = self.reserved.max(self.end);
        // Written and not only promised: a sync later has nothing to note but what was appended.
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
        if syncer.try_send(self.file.clone()).is_ok() {
            self.is_unsynced = false;
            self.synced_at = now;
        }
    }

    pub(crate) fn sync(&mut self) -> Result<(), Refusal> {
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

    /// Goes on in a new file, of which a snapshot of this moment is the beginning.
    pub(crate) fn roll(&mut self) -> Result<(), Error> {
        let old = files::log_path(&self.dir, self.number);
        // The room that was taken ahead is given back.
        if let Err(error) = self.file.set_len(self.end).and_then(|()| self.file.sync_all()) {
            self.fail(&error);
            return Err(Error::io("sync", &old)(error));
        }
        self.is_unsynced = false;
        self.reserved = self.end;
        let path = files::log_path(&self.dir, self.number + 1);
        let file = match begin(&self.dir, &path) {
            Ok(file) => file,
            Err(error) => {
                // With a later log beside it, a torn end of this one would not be taken for its end.
                if let Err(error) = fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::error!(%error, "a log that did not begin cannot be deleted");
                    self.is_failed = true;
                }
                return Err(error);
            }
        };
        self.older_bytes += self.end;
        self.number += 1;
        self.end = MAGIC.len() as u64;
        self.reserved = self.end;
        self.file = Arc::new(file);
        Ok(())
    }

    /// Ends the log in good order: everything is on disk and nothing stands behind it.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        let path = files::log_path(&self.dir, self.number);
        if self.is_failed {
            return Ok(());
        }
        self.file.set_len(self.end).map_err(Error::io("cut", &path))?;
        self.file.sync_all().map_err(Error::io("sync", &path))
    }
}

/// Makes a log that is on disk with its name before anything is in it.
fn begin(dir: &Path, path: &Path) -> Result<File, Error> {
    let file = files::open(path)?;
    file.write_all_at(MAGIC, 0).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))?;
    files::sync_folder(dir)?;
    Ok(file)
}

fn sync_all(requests: &Receiver<Arc<File>>, failed: &AtomicBool) {
    while let Ok(file) = requests.recv() {
        if let Err(error) = file.sync_data() {
            tracing::error!(%error, "the log could not be put on disk");
            failed.store(true, Ordering::Release);
        }
    }
}

/// A buffer for effects, with room for the header of their frame.
pub(crate) fn empty_frame() -> Vec<u8> {
    vec![0; FRAME_HEADER]
}
