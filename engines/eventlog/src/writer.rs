//! The one thread that writes: it takes everything that waits, writes once per partition, syncs every file
//! that it touched, moves the durable ends and only then answers.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use base::{Clock, Tasks};
use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::config::Config;
use crate::core::batch::{self, Builder};
use crate::core::partition::Tail;
use crate::error::Error;
use crate::files::{Files, Lock, LogFile, is_full};
use crate::groups::{GroupLog, Key};
use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::record::Record;

pub(crate) type Answer<T> = oneshot::Sender<Result<T, Error>>;

pub(crate) enum Request {
    Append(Append),
    Commit { key: Key, offset: u64, answer: Answer<()> },
    Trim { partition: Arc<Partition>, before: u64, answer: Answer<u64> },
    Close,
}

pub(crate) struct Append {
    pub(crate) partition: Arc<Partition>,
    pub(crate) payload: Payload,
    /// At least what the payload takes on disk, without the header of a batch.
    pub(crate) bytes: usize,
    pub(crate) answer: Answer<u64>,
    /// The room that it takes in the queue.
    pub(crate) room: OwnedSemaphorePermit,
}

pub(crate) enum Payload {
    Records(Vec<Record>),
    /// One whole batch that was checked.
    Batch {
        batch: BytesMut,
        count: u32,
    },
}

/// The writer on its thread, behind its queue.
pub(crate) struct Thread {
    pub(crate) queue: mpsc::Receiver<Request>,
    pub(crate) tasks: Tasks,
    pub(crate) writer: Writer,
    /// Held until the thread ends, so that no other process begins before.
    pub(crate) lock: Lock,
}

/// What it does, one group of requests after the other; it waits for nothing but the disk.
pub(crate) struct Writer {
    pub(crate) config: Config,
    pub(crate) files: Files,
    pub(crate) groups: GroupLog,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    /// The last segments of the partitions that were written to lately, by the partition's id.
    pub(crate) open: HashMap<u64, Arc<LogFile>>,
    /// Reused for every write.
    pub(crate) buffer: Vec<u8>,
}

/// Requests that share a sync.
#[derive(Default)]
struct Batched {
    bytes: usize,
    appends: Vec<Append>,
    commits: Vec<(Key, u64)>,
    commit_answers: Vec<Answer<()>>,
    trims: Vec<(Arc<Partition>, u64, Answer<u64>)>,
}

/// Records that were acknowledged nowhere yet, and whom to tell.
struct Waiting {
    answer: Answer<u64>,
    offset: u64,
    /// Given back when the answer is.
    _room: OwnedSemaphorePermit,
}

/// Written, not yet synced.
struct Dirty {
    partition: Arc<Partition>,
    file: Arc<LogFile>,
    /// Behind what was written.
    tail: Tail,
    /// Offset and position of every batch.
    batches: Vec<(u64, u64)>,
    waiting: Vec<Waiting>,
    bytes: u64,
}

/// The partition could not store something; what it answers is in [`refusal`].
struct Refused;

impl Thread {
    /// Runs until the last handle is gone, the log is closed or Madang stops; what was accepted is done first.
    pub(crate) fn run(mut self) {
        let mut received = Vec::new();
        while self.receive(&mut received) {
            if self.writer.serve(received.drain(..)) {
                self.queue.close();
            }
        }
        drop(self.lock);
    }

    /// Waits for requests; false when there will be none any more.
    fn receive(&mut self, received: &mut Vec<Request>) -> bool {
        let stopping = self.tasks.stopping();
        let limit = self.writer.config.append_queue_max;
        let queue = &mut self.queue;
        futures::executor::block_on(async {
            if !queue.is_closed() {
                tokio::select! {
                    // Stopping comes first, or appenders that never rest would keep it waiting.
                    biased;
                    () = stopping.cancelled() => queue.close(),
                    count = queue.recv_many(received, limit) => return count > 0,
                }
            }
            queue.recv_many(received, limit).await > 0
        })
    }
}

impl Writer {
    /// Does what waited, in as few syncs as limits let it. Says whether it was asked to be the last.
    pub(crate) fn serve(&mut self, received: impl Iterator<Item = Request>) -> bool {
        let mut group = Batched::default();
        let mut is_last = false;
        for request in received {
            let bytes = match &request {
                Request::Append(append) => append.bytes,
                _ => 0,
            };
            if group.bytes > 0 && group.bytes + bytes > self.config.group_bytes_max {
                self.settle(std::mem::take(&mut group));
            }
            group.bytes += bytes;
            match request {
                Request::Append(append) => group.appends.push(append),
                Request::Commit { key, offset, answer } => {
                    group.commits.push((key, offset));
                    group.commit_answers.push(answer);
                }
                Request::Trim { partition, before, answer } => {
                    group.trims.push((partition, before, answer));
                }
                Request::Close => is_last = true,
            }
        }
        self.settle(group);
        is_last
    }

    fn settle(&mut self, group: Batched) {
        let mut appends = group.appends;
        // Stable, so a partition's appends keep the order in which they were called.
        appends.sort_by_key(|append| append.partition.id);
        let mut dirty = Vec::new();
        let mut appends = appends.into_iter().peekable();
        while let Some(first) = appends.next() {
            let partition = first.partition.clone();
            let mut run = vec![first];
            while let Some(next) = appends.next_if(|next| next.partition.id == partition.id) {
                run.push(next);
            }
            dirty.extend(self.write_run(&partition, run));
        }
        for dirty in dirty {
            // Whoever waits has been told.
            let _: Result<(), Refused> = self.sync(dirty);
        }
        let answers = self.groups.commit(&group.commits);
        for (answer, result) in group.commit_answers.into_iter().zip(answers) {
            tell(answer, result);
        }
        for (partition, before, answer) in group.trims {
            tell(answer, self.trim(&partition, before));
        }
        if self.open.len() > self.config.open_files_max {
            self.open.clear();
        }
    }

    /// Writes appends of one partition. All but what goes to the last segment is synced and answered as well.
    fn write_run(&mut self, partition: &Arc<Partition>, run: Vec<Append>) -> Option<Dirty> {
        let mut run = run.into_iter();
        if let Err(error) = partition.check() {
            run.for_each(|append| tell(append.answer, Err(error.clone())));
            return None;
        }
        let mut chunk = Chunk::new(partition.tail(), std::mem::take(&mut self.buffer));
        while let Some(append) = run.next() {
            if chunk.rolls(&append, &self.config) {
                let Ok(next) = self.roll(partition, chunk) else {
                    let rest = std::iter::once(append).chain(run);
                    rest.for_each(|append| tell(append.answer, Err(refusal(partition))));
                    return None;
                };
                chunk = next;
            }
            chunk.push(append, self.config.batch_bytes_max);
        }
        self.write(partition, chunk).unwrap_or_default()
    }

    /// Settles the chunk and begins a new segment behind it.
    fn roll(&mut self, partition: &Arc<Partition>, chunk: Chunk) -> Result<Chunk, Refused> {
        if let Some(dirty) = self.write(partition, chunk)? {
            self.sync(dirty)?;
        }
        let path = partition.segment_path(partition.log.lock().end());
        let made = self.files.create(&path).and_then(|file| {
            self.files.sync_folder(partition.folder())?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                self.open.insert(partition.id, Arc::new(file));
                partition.log.lock().roll();
                Ok(Chunk::new(partition.tail(), std::mem::take(&mut self.buffer)))
            }
            Err(error) => {
                // A power cut must not bring it back when this segment has grown beyond its name.
                let is_gone = !self.files.exists(&path)
                    || self.files.remove(&path).is_ok()
                        && self.files.sync_folder(partition.folder()).is_ok();
                if !is_full(&error) || !is_gone {
                    self.fail(partition, &error);
                }
                Err(Refused)
            }
        }
    }

    fn write(
        &mut self,
        partition: &Arc<Partition>,
        mut chunk: Chunk,
    ) -> Result<Option<Dirty>, Refused> {
        chunk.close_batch();
        let Chunk { start, tail, mut bytes, batches, waiting, .. } = chunk;
        if bytes.is_empty() {
            self.buffer = bytes;
            return Ok(None);
        }
        let file = self.last_segment(partition);
        let written = file.and_then(|file| {
            file.write_at(&bytes, start.position)
                .map(|()| file.clone())
                .map_err(|e| (e, Some(file)))
        });
        let length = bytes.len() as u64;
        bytes.clear();
        self.buffer = bytes;
        match written {
            Ok(file) => {
                let partition = partition.clone();
                Ok(Some(Dirty { partition, file, tail, batches, waiting, bytes: length }))
            }
            Err((error, file)) => {
                self.take_back(partition, file.as_deref(), error);
                refuse(partition, waiting);
                Err(Refused)
            }
        }
    }

    /// Makes what was written durable and says so.
    fn sync(&mut self, dirty: Dirty) -> Result<(), Refused> {
        let Dirty { partition, file, tail, batches, waiting, bytes } = dirty;
        let began = self.clock.instant();
        let synced = file.sync();
        self.metrics.fsyncs.inc();
        self.metrics
            .fsync_seconds
            .observe(self.clock.instant().duration_since(began).as_secs_f64());
        if let Err(error) = synced {
            self.take_back(&partition, Some(&file), error);
            refuse(&partition, waiting);
            return Err(Refused);
        }
        let records = {
            let mut log = partition.log.lock();
            let records = tail.next - log.end();
            log.advance(&batches, tail);
            records
        };
        self.metrics.records.inc_by(records);
        self.metrics.bytes.inc_by(bytes);
        partition.end.send_replace(tail.next);
        for waiting in waiting {
            tell(waiting.answer, Ok(waiting.offset));
        }
        Ok(())
    }

    /// After a full disk the file goes back to its durable length and later appends may succeed; after any other
    /// failure nobody knows what the disk holds, so the partition stops.
    fn take_back(&mut self, partition: &Partition, file: Option<&LogFile>, error: io::Error) {
        let durable = partition.tail().position;
        let error = match (is_full(&error), file) {
            (true, Some(file)) => match file.truncate(durable) {
                Ok(()) => {
                    tracing::warn!(partition = %partition.name, "the disk is full");
                    return;
                }
                Err(worse) => worse,
            },
            _ => error,
        };
        self.fail(partition, &error);
    }

    fn fail(&mut self, partition: &Partition, error: &io::Error) {
        partition.fail(error);
        self.open.remove(&partition.id);
        self.metrics.failed.inc();
    }

    fn last_segment(
        &mut self,
        partition: &Partition,
    ) -> Result<Arc<LogFile>, (io::Error, Option<Arc<LogFile>>)> {
        if let Some(file) = self.open.get(&partition.id) {
            return Ok(file.clone());
        }
        let path = partition.segment_path(partition.tail().segment);
        let file = Arc::new(self.files.open(&path).map_err(|error| (error, None))?);
        self.open.insert(partition.id, file.clone());
        Ok(file)
    }

    /// Deletes sealed segments, oldest first, so that what is left is always without a gap: each is gone for good
    /// before the next one goes.
    fn trim(&self, partition: &Partition, before: u64) -> Result<u64, Error> {
        let folder = partition.folder();
        let sync = || self.files.sync_folder(folder).map_err(Error::io("sync", folder));
        // The last trim may have failed before its deletions were on disk.
        sync()?;
        loop {
            let Some(first) = partition.log.lock().drop_first(before) else { break };
            let path = partition.segment_path(first.base);
            if let Err(error) = self.files.remove(&path) {
                partition.log.lock().put_back(first);
                return Err(Error::io("remove", &path)(error));
            }
            sync()?;
        }
        Ok(partition.log.lock().start())
    }
}

/// What one write puts at the end of one segment.
struct Chunk {
    start: Tail,
    tail: Tail,
    bytes: Vec<u8>,
    batches: Vec<(u64, u64)>,
    /// The batch that small appends share.
    shared: Option<Builder>,
    waiting: Vec<Waiting>,
}

impl Chunk {
    fn new(start: Tail, bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.is_empty(), "the buffer was cleared after the last write");
        Self { start, tail: start, bytes, batches: Vec::new(), shared: None, waiting: Vec::new() }
    }

    /// Whether the segment has no room for the append. It may be overrun by the rest of a shared batch.
    fn rolls(&self, append: &Append, config: &Config) -> bool {
        let position = self.start.position + self.bytes.len() as u64;
        let bytes = (append.bytes + batch::HEADER_BYTES) as u64;
        Tail { position, ..self.tail }.rolls(bytes, config.segment_bytes)
    }

    fn push(&mut self, append: Append, batch_bytes_max: usize) {
        let Append { payload, bytes, answer, room, .. } = append;
        self.waiting.push(Waiting { answer, offset: self.tail.next, _room: room });
        match payload {
            Payload::Records(records) => self.push_records(&records, bytes, batch_bytes_max),
            Payload::Batch { batch, count } => self.push_batch(batch, count),
        }
    }

    fn push_records(&mut self, records: &[Record], bytes: usize, batch_bytes_max: usize) {
        let is_full = self
            .shared
            .as_ref()
            .is_some_and(|shared| shared.bytes(&self.bytes) + bytes > batch_bytes_max);
        if is_full {
            self.close_batch();
        }
        if self.shared.is_none() {
            self.note_batch();
        }
        let next = self.tail.next;
        let shared = self.shared.get_or_insert_with(|| Builder::begin(&mut self.bytes, next));
        for record in records {
            shared.push(&mut self.bytes, record);
        }
        self.tail.next += records.len() as u64;
    }

    fn push_batch(&mut self, mut batch: BytesMut, count: u32) {
        self.close_batch();
        self.note_batch();
        batch::patch(&mut batch, self.tail.next, 0);
        self.bytes.extend_from_slice(&batch);
        self.tail.next += u64::from(count);
        self.tail.position += batch.len() as u64;
    }

    fn note_batch(&mut self) {
        self.batches.push((self.tail.next, self.tail.position));
    }

    fn close_batch(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.finish(&mut self.bytes);
        }
        self.tail.position = self.start.position + self.bytes.len() as u64;
    }
}

fn refuse(partition: &Partition, waiting: Vec<Waiting>) {
    for waiting in waiting {
        tell(waiting.answer, Err(refusal(partition)));
    }
}

/// Why a partition refuses: it failed, or else the disk is full.
fn refusal(partition: &Partition) -> Error {
    match partition.check() {
        Err(error) => error,
        Ok(()) => Error::Full { of: partition.name.clone() },
    }
}

fn tell<T>(answer: Answer<T>, result: Result<T, Error>) {
    // Whoever asked may have gone away; what was done stays done.
    drop(answer.send(result));
}
