//! Writing a snapshot while the store goes on: the engine's thread gives effects away in pieces, another one writes
//! them, and when all are on disk the older files go.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::files::{self, draft_path, snapshot_path};
use super::frame::{self, FRAME_HEADER, MAGIC};
use crate::error::Error;

/// Pieces that wait to be written.
const PIECES_MAX: usize = 8;

pub(crate) struct Rewrite {
    pieces: Option<SyncSender<Vec<u8>>>,
    waiting: Option<Vec<u8>>,
    outcome: Receiver<Result<u64, Error>>,
    thread: JoinHandle<()>,
    /// The engine has given everything.
    pub(crate) is_captured: bool,
    pub(crate) is_all_given: bool,
}

impl Rewrite {
    pub(crate) fn begin(dir: &Path, number: u64) -> Result<Self, Error> {
        let (pieces, received) = sync_channel(PIECES_MAX);
        let (answer, outcome) = sync_channel(1);
        let dir = dir.to_owned();
        let about = dir.clone();
        let thread = std::thread::Builder::new()
            .name("kv-snapshot".into())
            .spawn(move || {
                let written = write(&dir, number, &received);
                // Whoever asked may be gone; the files are as they are.
                drop(answer.send(written));
            })
            .map_err(Error::io("start a thread for", &about))?;
        Ok(Self {
            pieces: Some(pieces),
            waiting: None,
            outcome,
            thread,
            is_captured: false,
            is_all_given: false,
        })
    }

    /// Whether a piece can be given now.
    pub(crate) fn has_room(&mut self) -> bool {
        let Some(piece) = self.waiting.take() else { return true };
        let Some(pieces) = &self.pieces else { return false };
        match pieces.try_send(piece) {
            Ok(()) => true,
            Err(TrySendError::Full(piece)) => {
                self.waiting = Some(piece);
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// Gives effects, behind room for the header of their frame.
    pub(crate) fn give(&mut self, frame: Vec<u8>) {
        debug_assert!(self.waiting.is_none(), "it was asked whether there is room");
        self.waiting = Some(frame);
        self.has_room();
    }

    /// Says that no more pieces come, once the last one is given.
    pub(crate) fn end(&mut self) {
        if self.has_room() {
            // An empty frame ends the file.
            self.is_all_given = true;
            self.waiting = Some(vec![0; FRAME_HEADER]);
            self.has_room();
        }
    }

    /// Gives it up, or lets it finish if everything was given; the files stand still afterwards.
    pub(crate) fn abandon(self) {
        drop(self.pieces);
        if self.thread.join().is_err() {
            tracing::error!("the thread that wrote a snapshot panicked");
        }
    }

    /// How it ended, if it has: the snapshot's bytes.
    pub(crate) fn outcome(&mut self) -> Option<Result<u64, Error>> {
        if self.is_all_given && self.waiting.is_some() {
            self.has_room();
        }
        match self.outcome.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Error::Ended)),
        }
    }
}

/// Writes the pieces until the empty one; without it nothing counts.
fn write(dir: &Path, number: u64, pieces: &Receiver<Vec<u8>>) -> Result<u64, Error> {
    let draft = draft_path(dir);
    let written = write_draft(&draft, pieces);
    if let Ok(Some(bytes)) = written {
        let path = snapshot_path(dir, number);
        fs::rename(&draft, &path).map_err(Error::io("rename", &draft))?;
        files::sync_folder(dir)?;
        files::remove_before(dir, number)?;
        return Ok(bytes);
    }
    // A draft that is left over is deleted at the next start too.
    drop(fs::remove_file(&draft));
    written.map(Option::unwrap_or_default)
}

fn write_draft(draft: &PathBuf, pieces: &Receiver<Vec<u8>>) -> Result<Option<u64>, Error> {
    let mut file = File::create(draft).map_err(Error::io("create", draft))?;
    file.write_all(MAGIC).map_err(Error::io("write", draft))?;
    let (mut bytes, mut sequence) = (MAGIC.len() as u64, 0);
    while let Ok(mut piece) = pieces.recv() {
        sequence += 1;
        frame::seal(&mut piece, sequence);
        file.write_all(&piece).map_err(Error::io("write", draft))?;
        bytes += piece.len() as u64;
        if piece.len() == FRAME_HEADER {
            file.sync_all().map_err(Error::io("sync", draft))?;
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
