use base::Timestamp;
use bytes::Bytes;

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
