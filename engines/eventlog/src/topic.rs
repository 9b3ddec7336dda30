use std::sync::Arc;

use base::OrganisationId;
use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Inner;
use crate::core::{batch, murmur};
use crate::error::Error;
use crate::partition::Partition;
use crate::record::{Fetched, Record, Stored};
use crate::writer::{Append, Payload, Request};

/// A named row of partitions that belongs to one organisation; cloning it is cheap.
#[derive(Clone)]
pub struct Topic {
    pub(crate) log: Arc<Inner>,
    pub(crate) parts: Arc<Parts>,
}

/// What is known of a topic without a handle to the log.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) organisation: OrganisationId,
    pub(crate) name: String,
    pub(crate) partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    pub fn organisation(&self) -> OrganisationId {
        self.parts.organisation
    }

    pub fn partitions(&self) -> u32 {
        self.parts.count()
    }

    /// The partition that every Kafka client would choose for this key.
    pub fn partition_for(&self, key: &[u8]) -> u32 {
        murmur::partition_for(key, self.partitions())
    }

    /// Appends records together and gives the offset of the first. They are on disk when this returns. Dropping
    /// the future does not take them back. Waits while the queue is full.
    pub async fn append(&self, partition: u32, records: Vec<Record>) -> Result<u64, Error> {
        let target = self.parts.partition(partition)?;
        if records.is_empty() {
            return Ok(target.log.lock().end());
        }
        let bytes_max = self.log.config.record_bytes_max;
        if let Some(large) = records.iter().find(|record| record.bytes() > bytes_max) {
            return Err(Error::TooLarge { what: "a record", bytes: large.bytes(), bytes_max });
        }
        let bytes = records.iter().map(Record::encoded_bytes_max).sum();
        self.send(target, Payload::Records(records), bytes).await
    }

    /// Appends one batch that somebody else encoded, as a Kafka producer does: its offsets and leader epoch are
    /// set, the rest is stored as it is. Compressed, transactional, idempotent and control batches are refused.
    pub async fn append_batch(&self, partition: u32, batch: BytesMut) -> Result<u64, Error> {
        let target = self.parts.partition(partition)?;
        let header = batch::check(&batch).map_err(|flaw| Error::Batch(flaw.to_string()))?;
        let bytes = batch.len();
        self.send(target, Payload::Batch { batch, count: header.count }, bytes).await
    }

    /// Reads whole batches up to the durable end: the records at and after `from`, none at the end. Stops before
    /// `bytes_max`, but gives at least one batch. The records share the memory that was read.
    pub async fn fetch(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, Error> {
        self.read(partition, from, bytes_max, Partition::read).await
    }

    /// The same for whoever goes over all records at once: they stay as they lie on disk.
    pub async fn fetch_raw(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
    ) -> Result<Fetched, Error> {
        let fetched = self.read(partition, from, bytes_max, Partition::read_raw).await?;
        Ok(Fetched { from, ..fetched })
    }

    async fn read<T: Default + Send + 'static>(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        read: fn(&Partition, u64, usize) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let target = self.parts.partition(partition)?;
        let place = target.log.lock().locate(from);
        match place {
            Err(range) => Err(Error::OutOfRange { start: range.start, end: range.end }),
            Ok(None) => Ok(T::default()),
            Ok(Some(_)) => {
                let target = target.clone();
                let bytes_max = bytes_max.min(self.log.config.fetch_bytes_max);
                let read = tokio::task::spawn_blocking(move || read(&target, from, bytes_max));
                // It is not cancelled and does not panic, unless the runtime is going down.
                read.await.map_err(|_| Error::Closed)?
            }
        }
    }

    /// The first offset that is still there; 0 for a partition that does not exist.
    pub fn start(&self, partition: u32) -> u64 {
        self.parts.partition(partition).map_or(0, |partition| partition.log.lock().start())
    }

    /// The durable end: the offset that the next record gets. It changes after every append, which wakes
    /// consumers. For a partition that does not exist it stays 0.
    pub fn end(&self, partition: u32) -> watch::Receiver<u64> {
        match self.parts.partition(partition) {
            Ok(partition) => partition.end.subscribe(),
            Err(_) => watch::Sender::new(0).subscribe(),
        }
    }

    /// Deletes whole segments whose records all lie before the offset; gives the new start. The last segment stays.
    pub async fn trim(&self, partition: u32, before: u64) -> Result<u64, Error> {
        let partition = self.parts.partition(partition)?.clone();
        let (answer, answered) = oneshot::channel();
        self.log.send(Request::Trim { partition, before, answer }).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    async fn send(
        &self,
        partition: &Arc<Partition>,
        payload: Payload,
        bytes: usize,
    ) -> Result<u64, Error> {
        let bytes_max = self.log.config.group_bytes_max;
        if bytes > bytes_max {
            return Err(Error::TooLarge { what: "an append", bytes, bytes_max });
        }
        partition.check()?;
        let wanted = u32::try_from(bytes).expect("the configuration keeps an append below 1 GiB");
        let room = self.log.room.clone().acquire_many_owned(wanted).await;
        let room = room.map_err(|_| Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let partition = partition.clone();
        self.log.send(Request::Append(Append { partition, payload, bytes, answer, room })).await?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

impl Parts {
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("the configuration keeps partitions few")
    }

    pub(crate) fn partition(&self, partition: u32) -> Result<&Arc<Partition>, Error> {
        let found = usize::try_from(partition).ok().and_then(|i| self.partitions.get(i));
        found.ok_or_else(|| Error::UnknownPartition { topic: self.name.clone(), partition })
    }
}

impl Inner {
    pub(crate) async fn send(&self, request: Request) -> Result<(), Error> {
        self.queue.send(request).await.map_err(|mpsc::error::SendError(_)| Error::Closed)
    }
}
