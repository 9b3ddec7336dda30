use base::Timestamp;
use bytes::Bytes;

use crate::core::batch::{self, Header, Raw};

/// What is appended to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Kept to the millisecond, as the format on disk has it.
    pub timestamp: Timestamp,
    pub key: Option<Bytes>,
    pub value: Bytes,
    /// A name may come more than once; order is kept.
    pub headers: Vec<(String, Bytes)>,
}

/// A record and its place in its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub offset: u64,
    pub record: Record,
}

/// What one fetch read, still as it lies on disk: nothing is copied out of it.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// What comes before is not wanted.
    pub(crate) from: u64,
    /// Whole batches, each with the records in it looked over.
    pub(crate) batches: Vec<(Header, Bytes)>,
}

/// A record in the memory of its [`Fetched`].
#[derive(Clone, Copy)]
pub struct RecordView<'a, 'r> {
    pub offset: u64,
    pub value: &'a [u8],
    raw: &'r Raw<'a>,
}

impl Fetched {
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The offset that was asked for.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// The offset after the last record; where the fetch began when it read nothing.
    pub fn next(&self) -> u64 {
        self.batches.last().map_or(self.from, |(header, _)| header.next_offset())
    }

    /// Shows the records in their order.
    pub fn visit<'a>(&'a self, mut see: impl FnMut(RecordView<'a, '_>)) {
        for (header, bytes) in &self.batches {
            let walked = batch::walk(bytes, header, |offset, raw| {
                if offset >= self.from {
                    see(RecordView { offset, value: raw.value, raw });
                }
            });
            debug_assert!(walked.is_ok(), "the batch was looked over when it was read");
        }
    }
}

impl<'a> RecordView<'a, '_> {
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.raw.ms)
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        self.raw.key
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.raw.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

impl Record {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// What counts against `record_bytes_max`: key, value and headers.
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len() + headers
    }

    /// At least what the record takes on disk.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        /// Length, attributes, time, offset, key length, value length and header count.
        const FIELDS: usize = 40;
        /// Two lengths.
        const HEADER_FIELDS: usize = 10;
        FIELDS + self.bytes() + self.headers.len() * HEADER_FIELDS
    }
}
