//! A partition's folder: opened and verified, then read up to the durable end.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Config;
use crate::core::batch::{self, Flaw, Front, Header};
use crate::core::partition::{Index, Partition as Core, Place, Segment, Tail};
use crate::core::scan::{Role, Scan, Stop, Verdict};
use crate::error::Error;
use crate::files::{Files, LogFile};
use crate::record::{Fetched, Stored};

/// How much a look over a segment reads at a time.
const SCAN_BYTES: u64 = 1 << 20;

/// Shared by the writer, which alone changes it, and by readers.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Unlike any other in this process.
    pub(crate) id: u64,
    /// For messages: `readings/0`.
    pub(crate) name: Arc<str>,
    files: Files,
    folder: PathBuf,
    index_interval: u64,
    pub(crate) log: Mutex<Core>,
    pub(crate) end: watch::Sender<u64>,
    failed: OnceLock<Arc<str>>,
}

/// Names a segment's file after its first offset.
pub(crate) fn segment_path(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("{base:020}.log"))
}

/// The base offsets of the segment files in a folder, in order.
pub(crate) fn segment_bases(files: &Files, folder: &Path) -> Result<Vec<u64>, Error> {
    let mut bases = Vec::new();
    for path in files.list(folder).map_err(Error::io("list", folder))? {
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let base = (stem.len() == 20).then(|| stem.parse().ok()).flatten();
        let Some(base) = base else {
            let reason = "a segment is named by the 20 digits of its first offset".to_owned();
            return Err(Error::Format { path, reason });
        };
        bases.push(base);
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Makes an empty first segment in a new folder.
pub(crate) fn create(files: &Files, folder: &Path) -> Result<(), Error> {
    files.create_folder(folder).map_err(Error::io("create", folder))?;
    let path = segment_path(folder, 0);
    files.create(&path).and_then(|file| file.sync()).map_err(Error::io("create", &path))?;
    files.sync_folder(folder).map_err(Error::io("sync", folder))
}

/// Looks over a file's first `bytes` bytes. Says what is good, and what is wrong behind it.
pub(crate) fn scan(file: &LogFile, bytes: u64, mut scan: Scan) -> io::Result<(Scan, Option<Flaw>)> {
    let mut buffer = Vec::new();
    loop {
        let (taken, stop) = scan.take(&buffer);
        buffer.drain(..taken);
        let wanted = match stop {
            Stop::Flaw(flaw) => return Ok((scan, Some(flaw))),
            Stop::More { bytes } => bytes as u64,
        };
        let read = buffer.len() as u64;
        let left = bytes - scan.position - read;
        if read + left < wanted {
            let flaw = (read + left > 0).then_some(Flaw::Torn);
            return Ok((scan, flaw));
        }
        let more = (wanted - read).max(SCAN_BYTES).min(left);
        let at = buffer.len();
        buffer.resize(at + in_memory(more), 0);
        file.read_exact_at(&mut buffer[at..], scan.position + read)?;
    }
}

/// Opens a file that a crash may have torn, cuts it behind the last good batch, and gives what is good.
/// All of it is on disk when this returns: a killed process may have left bytes that were never synced, and after a failed
/// sync the system remembers bytes that it will never write, so what could be such is read from the disk itself.
pub(crate) fn recover(
    files: &Files,
    config: &Config,
    path: &Path,
    start: Scan,
) -> Result<Scan, Error> {
    let file = files.open(path).map_err(Error::io("open", path))?;
    file.sync().map_err(Error::io("sync", path))?;
    // No more than one group of appends was ever written without a sync; its headers are in the double.
    file.forget_cache_of_last(2 * config.group_bytes_max as u64)
        .map_err(Error::io("read", path))?;
    let bytes = file.length().map_err(Error::io("read", path))?;
    let (scan, flaw) = scan(&file, bytes, start).map_err(Error::io("read", path))?;
    match scan.verdict(Role::Last, flaw) {
        Verdict::Keep => {}
        Verdict::Cut(flaw) | Verdict::Corrupt(flaw) => {
            tracing::warn!(
                file = %path.display(), position = scan.position, cut_bytes = bytes - scan.position, reason = %flaw,
                "cut the torn end of the log"
            );
            file.truncate(scan.position).map_err(Error::io("truncate", path))?;
        }
    }
    Ok(scan)
}

impl Partition {
    /// Verifies the last segment; a sealed one is verified when it is first read.
    pub(crate) fn open(
        files: &Files,
        config: &Config,
        folder: PathBuf,
        (id, name): (u64, Arc<str>),
    ) -> Result<Self, Error> {
        let bases = segment_bases(files, &folder)?;
        let Some((&last, sealed)) = bases.split_last() else {
            return Err(Error::Format { path: folder, reason: "it has no segment".to_owned() });
        };
        let mut segments = Vec::with_capacity(bases.len());
        for &base in sealed {
            let path = segment_path(&folder, base);
            let bytes = files.open(&path).and_then(|file| file.length());
            let bytes = bytes.map_err(Error::io("read", &path))?;
            segments.push(Segment { base, bytes, index: None });
        }
        let interval = config.index_interval_bytes;
        let scan = recover(files, config, &segment_path(&folder, last), Scan::new(last, interval))?;
        files.sync_folder(&folder).map_err(Error::io("sync", &folder))?;
        let end = scan.next;
        segments.push(Segment { base: last, bytes: scan.position, index: Some(scan.index) });
        Ok(Self {
            id,
            name,
            files: files.clone(),
            folder,
            index_interval: interval,
            log: Mutex::new(Core::new(segments, end, interval)),
            end: watch::Sender::new(end),
            failed: OnceLock::new(),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn tail(&self) -> Tail {
        self.log.lock().tail()
    }

    pub(crate) fn segment_path(&self, base: u64) -> PathBuf {
        segment_path(&self.folder, base)
    }

    /// From now on nothing is acknowledged: what the disk holds behind the durable end is not known.
    pub(crate) fn fail(&self, error: &io::Error) {
        tracing::error!(partition = %self.name, %error, "a partition of the event log failed");
        self.failed.get_or_init(|| error.to_string().into());
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.failed.get() {
            Some(reason) => {
                Err(Error::Unavailable { of: self.name.clone(), reason: reason.clone() })
            }
            None => Ok(()),
        }
    }

    /// Whole batches from the one that holds `from` on, as many as fit in `bytes_max` but at least one; of them
    /// the records at and after `from`. Blocks on the disk.
    pub(crate) fn read(&self, from: u64, bytes_max: usize) -> Result<Vec<Stored>, Error> {
        let mut stored = Vec::new();
        self.read_batches(from, bytes_max, |header, bytes| {
            batch::decode(&bytes, &header, from, &mut stored)
        })?;
        Ok(stored)
    }

    /// The same, with nothing copied.
    pub(crate) fn read_raw(&self, from: u64, bytes_max: usize) -> Result<Fetched, Error> {
        let mut batches = Vec::new();
        self.read_batches(from, bytes_max, |header, bytes| {
            batch::walk(&bytes, &header, |_, _| {})?;
            batches.push((header, bytes));
            Ok(())
        })?;
        Ok(Fetched { from, batches })
    }

    fn read_batches(
        &self,
        from: u64,
        bytes_max: usize,
        take: impl FnMut(Header, Bytes) -> Result<(), Flaw>,
    ) -> Result<(), Error> {
        loop {
            let place = self.log.lock().locate(from);
            let place = place.map_err(|o| Error::OutOfRange { start: o.start, end: o.end })?;
            let Some(place) = place else { return Ok(()) };
            let path = self.segment_path(place.segment);
            let file = match self.files.open(&path) {
                // A trim deleted it meanwhile; the next round says that the offset is gone.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && self.log.lock().start() > place.segment =>
                {
                    continue;
                }
                opened => opened.map_err(Error::io("open", &path))?,
            };
            if let Some(position) = place.position {
                let reader = Reader { file, path, end: place.bytes, position };
                return reader.read(from, (bytes_max, self.index_interval), take);
            }
            let index = self.verify(&file, &path, place)?;
            self.log.lock().indexed(place.segment, index);
        }
    }

    fn verify(&self, file: &LogFile, path: &Path, place: Place) -> Result<Index, Error> {
        let start = Scan::new(place.segment, self.index_interval);
        let (scan, flaw) = scan(file, place.bytes, start).map_err(Error::io("read", path))?;
        let role = place.sealed_by.map_or(Role::Last, |next| Role::Sealed { next });
        match scan.verdict(role, flaw) {
            Verdict::Keep => Ok(scan.index),
            Verdict::Cut(flaw) | Verdict::Corrupt(flaw) => Err(corrupt(path, scan.position, flaw)),
        }
    }
}

/// One fetch from one segment.
struct Reader {
    file: LogFile,
    path: PathBuf,
    /// How many bytes may be read.
    end: u64,
    /// Of the next batch to look at.
    position: u64,
}

impl Reader {
    fn read(
        mut self,
        from: u64,
        (bytes_max, skip): (usize, u64),
        mut take: impl FnMut(Header, Bytes) -> Result<(), Flaw>,
    ) -> Result<(), Error> {
        let mut is_there = false;
        let mut taken = 0;
        let mut next = None;
        let mut bytes = self.load(skip + bytes_max as u64)?;
        while self.position < self.end {
            let front = batch::front(&bytes).map_err(|flaw| self.corrupt(flaw))?;
            let header = match front {
                Front::Batch(header) => header,
                Front::Part { .. } if taken > 0 => break,
                Front::Part { bytes: wanted } if wanted as u64 > self.end - self.position => {
                    return Err(self.corrupt(Flaw::Torn));
                }
                Front::Part { bytes: wanted } => {
                    bytes = self.load(wanted.max(bytes_max) as u64)?;
                    continue;
                }
            };
            // The checksum does not cover the offset.
            if next.is_some_and(|next| next != header.base_offset) {
                return Err(self.corrupt(Flaw::Offset));
            }
            next = Some(header.next_offset());
            let batch = bytes.split_to(header.bytes);
            if header.next_offset() > from {
                if taken > 0 && taken + header.bytes > bytes_max {
                    break;
                }
                is_there |= header.base_offset <= from;
                take(header, batch).map_err(|flaw| self.corrupt(flaw))?;
                taken += header.bytes;
            }
            self.position += header.bytes as u64;
        }
        if is_there { Ok(()) } else { Err(self.corrupt(Flaw::Offset)) }
    }

    /// Reads from the position on.
    fn load(&self, bytes: u64) -> Result<Bytes, Error> {
        let mut buffer = vec![0; in_memory(bytes.min(self.end - self.position))];
        let read = self.file.read_exact_at(&mut buffer, self.position);
        read.map_err(Error::io("read", &self.path))?;
        Ok(Bytes::from(buffer))
    }

    fn corrupt(&self, flaw: Flaw) -> Error {
        corrupt(&self.path, self.position, flaw)
    }
}

fn corrupt(path: &Path, position: u64, flaw: Flaw) -> Error {
    tracing::error!(file = %path.display(), position, reason = %flaw, "the log is corrupt");
    Error::Corrupt { file: path.to_owned(), position, reason: flaw.to_string() }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is read at once is limited and fits in memory")
}
