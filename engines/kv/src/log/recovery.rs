//! The data as it was: the newest snapshot, then every log from it on. The last log's torn end is cut off, and logs
//! behind it that count only if nothing of it is missing.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{self, draft_path, log_path, snapshot_path};
use super::frame::{FRAME_HEADER, MAGIC, UNSURE, header, is_whole};
use super::{Log, Tail, effect};
use crate::engine::Engine;
use crate::error::Error;

/// The first effect of a log that counts only if the one before it ends where this says.
pub(crate) const FOLLOWS: &[u8] = b"FOLLOWS";

pub(crate) struct Recovered {
    pub(crate) log: Log,
    pub(crate) effects: u64,
    pub(crate) cut_bytes: u64,
}

/// Looks that nothing is kept in a folder, for a store that would neither read it nor go on with it.
pub(crate) fn unused(dir: &Path) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(());
    }
    let (logs, snapshots) = files::numbers(dir)?;
    if logs.is_empty() && snapshots.is_empty() { Ok(()) } else { Err(Error::Kept(dir.to_owned())) }
}

/// Takes the folder and puts what it holds into an empty engine.
pub(crate) fn recover(dir: PathBuf, engine: &mut Engine) -> Result<Recovered, Error> {
    let lock = files::hold(&dir)?;
    let draft = draft_path(&dir);
    if draft.exists() {
        fs::remove_file(&draft).map_err(Error::io("delete", &draft))?;
    }
    engine.is_replaying = true;
    let (logs, snapshots) = files::numbers(&dir)?;
    let mut effects = 0;
    let first = snapshots.last().copied().unwrap_or(1);
    if let Some(&number) = snapshots.last() {
        let path = snapshot_path(&dir, number);
        let read = read_frames(&path, engine)?;
        if !read.is_ended {
            return Err(damaged(&path, read.end, "the snapshot is not whole"));
        }
        effects += read.effects;
    }
    let logs: Vec<u64> = logs.into_iter().filter(|number| *number >= first).collect();
    if let Some(gap) = logs.iter().zip(first..).find(|(found, expected)| *found != expected) {
        return Err(damaged(&log_path(&dir, gap.1), 0, "a log is missing"));
    }
    if logs.is_empty() && !snapshots.is_empty() {
        return Err(damaged(&log_path(&dir, first), 0, "a log is missing"));
    }
    let mut tail = Tail { number: first, end: MAGIC.len() as u64, sequence: 0, older_bytes: 0 };
    let mut cut_bytes = 0;
    for (at, &number) in logs.iter().enumerate() {
        let path = log_path(&dir, number);
        let read = read_frames(&path, engine)?;
        effects += read.effects;
        let later = logs.get(at + 1).map(|later| log_path(&dir, *later));
        let opening = later.as_deref().map(opening).transpose()?;
        let is_last = match opening {
            None => true,
            Some(Opening::Sure) if read.torn_bytes > 0 => {
                return Err(damaged(&path, read.end, "a frame is broken, and later logs follow"));
            }
            Some(Opening::Sure) => false,
            Some(Opening::Follows(end)) => read.torn_bytes > 0 || end != Some(read.end),
        };
        if read.torn_bytes > 0 {
            tracing::warn!(at = read.end, bytes = read.torn_bytes, "the log's torn end is cut off");
            cut_bytes = read.torn_bytes;
        }
        if is_last {
            end_at(&path, read.end)?;
            delete_later(&dir, &logs[at + 1..])?;
        } else {
            tail.older_bytes += read.end;
            if let (Some(later), Some(Opening::Follows(_))) = (later, opening) {
                make_sure(&path, &later)?;
            }
        }
        tail = Tail {
            number,
            end: read.end.max(MAGIC.len() as u64),
            sequence: read.sequence.max(tail.sequence),
            ..tail
        };
        if is_last {
            break;
        }
    }
    engine.is_replaying = false;
    files::remove_before(&dir, first)?;
    let log = Log::open(dir, lock, &tail)?;
    Ok(Recovered { log, effects, cut_bytes })
}

/// Cuts the last log where its whole frames end.
fn end_at(path: &Path, end: u64) -> Result<(), Error> {
    let file = files::open(path)?;
    file.set_len(end).map_err(Error::io("cut", path))?;
    if end == 0 {
        file.write_all_at(MAGIC, 0).map_err(Error::io("write", path))?;
    }
    file.sync_all().map_err(Error::io("sync", path))
}

/// Deletes logs that do not count, the last one first, so that none is ever missing between two.
fn delete_later(dir: &Path, numbers: &[u64]) -> Result<(), Error> {
    for &number in numbers.iter().rev() {
        let path = log_path(dir, number);
        tracing::warn!(log = %path.display(), "a log without what came before it is deleted");
        fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        files::sync_folder(dir)?;
    }
    Ok(())
}

/// Puts a log on disk that was left to the system, after which the next one stands for itself.
fn make_sure(path: &Path, later: &Path) -> Result<(), Error> {
    files::open(path)?.sync_all().map_err(Error::io("sync", path))?;
    let file = files::open(later)?;
    file.write_all_at(MAGIC, 0).map_err(Error::io("write", later))?;
    file.sync_all().map_err(Error::io("sync", later))
}

/// How a log depends on the one before it.
#[derive(Clone, Copy)]
enum Opening {
    Sure,
    /// That one must end there; without a number nothing was written to this one.
    Follows(Option<u64>),
}

fn opening(path: &Path) -> Result<Opening, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take((UNSURE.len() + link(u64::MAX).len()) as u64)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    // A log whose beginning never reached the disk is empty.
    if bytes.len() < MAGIC.len() || bytes.starts_with(&[0; MAGIC.len()]) {
        return Ok(Opening::Follows(None));
    }
    if !bytes.starts_with(UNSURE) {
        return Ok(Opening::Sure);
    }
    let first = bytes[UNSURE.len()..].first_chunk().map(header);
    let frame = first
        .and_then(|first| bytes[UNSURE.len()..].get(..FRAME_HEADER + first.length))
        .filter(|frame| is_whole(frame));
    let mut args = Vec::new();
    let is_read = frame.and_then(|frame| effect::read(&mut &frame[FRAME_HEADER..], &mut args));
    Ok(Opening::Follows(match (is_read, &args[..]) {
        (Some(_), [name, end]) if *name == FOLLOWS => {
            std::str::from_utf8(end).ok().and_then(|end| end.parse().ok())
        }
        _ => None,
    }))
}

/// The first frame of a log that counts only if the one before it ends there; its header is not filled in.
pub(crate) fn link(end: u64) -> Vec<u8> {
    let mut frame = super::empty_frame();
    effect::push(&mut frame, 0, [FOLLOWS, end.to_string().as_bytes()].into_iter());
    frame
}

struct Frames {
    /// Where the last whole frame ends.
    end: u64,
    sequence: u64,
    effects: u64,
    /// Bytes behind it that are no whole frame and not only zeros.
    torn_bytes: u64,
    /// A snapshot's end mark was found.
    is_ended: bool,
}

fn read_frames(path: &Path, engine: &mut Engine) -> Result<Frames, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("look at", path))?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut frames = Frames { end: 0, sequence: 0, effects: 0, torn_bytes: 0, is_ended: false };
    let mut magic = [0; MAGIC.len()];
    if size < MAGIC.len() as u64 {
        frames.torn_bytes = size;
        return Ok(frames);
    }
    let failed = Error::io;
    reader.read_exact(&mut magic).map_err(failed("read", path))?;
    if magic != *MAGIC && magic != *UNSURE {
        // A log whose beginning never reached the disk is empty.
        if magic == [0; MAGIC.len()] {
            frames.torn_bytes = size;
            return Ok(frames);
        }
        return Err(damaged(path, 0, "it does not begin as a log of this version"));
    }
    frames.end = MAGIC.len() as u64;
    let mut frame = Vec::new();
    loop {
        let left = size - frames.end;
        if left < FRAME_HEADER as u64 {
            frames.torn_bytes = left;
            break;
        }
        let mut head = [0; FRAME_HEADER];
        reader.read_exact(&mut head).map_err(failed("read", path))?;
        let about = header(&head);
        let is_next = frames.sequence == 0 || about.sequence == frames.sequence + 1;
        if head == [0; FRAME_HEADER] {
            // Room that was taken ahead.
            break;
        }
        if about.length as u64 > left - FRAME_HEADER as u64 || !is_next {
            frames.torn_bytes = left;
            break;
        }
        frame.clear();
        frame.extend_from_slice(&head);
        frame.resize(FRAME_HEADER + about.length, 0);
        reader.read_exact(&mut frame[FRAME_HEADER..]).map_err(failed("read", path))?;
        if !is_whole(&frame) {
            frames.torn_bytes = left;
            break;
        }
        if about.length == 0 {
            frames.is_ended = true;
            break;
        }
        let count = engine
            .replay(&frame[FRAME_HEADER..])
            .map_err(|reason| damaged(path, frames.end, &reason))?;
        frames.effects += count;
        frames.sequence = about.sequence;
        frames.end += frame.len() as u64;
    }
    Ok(frames)
}

fn damaged(path: &Path, at: u64, reason: &str) -> Error {
    Error::Damaged { path: path.to_owned(), at, reason: reason.to_owned() }
}
