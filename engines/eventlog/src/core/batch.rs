//! Kafka's record batch, version 2: the format on disk and, later, on the wire.
//! <https://kafka.apache.org/documentation/#recordbatch>

use base::Timestamp;
use bytes::Bytes;

use super::varint;
use crate::record::{Record, Stored};

pub(crate) const HEADER_BYTES: usize = 61;
/// Base offset and length: what the length field itself does not count.
const PREFIX_BYTES: usize = 12;
const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const COUNT_AT: usize = 57;
const MAGIC: u8 = 2;

/// What is wrong with the bytes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("the batch is cut short")]
    Torn,
    #[error("the length of the batch is impossible")]
    Length,
    #[error("the batch is not of version 2")]
    Magic,
    #[error("the checksum does not match")]
    Checksum,
    #[error("the offset does not follow the one before")]
    Offset,
    #[error("the count of records is impossible")]
    Count,
    #[error("a record cannot be read")]
    Record,
    #[error("compressed, transactional and control batches are not supported")]
    Attributes,
    #[error("idempotent producers are not supported")]
    Producer,
}

/// The fields of a batch's header that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: u64,
    /// Of the whole batch, header included.
    pub(crate) bytes: usize,
    pub(crate) count: u32,
    base_ms: i64,
    attributes: i16,
    producer_id: i64,
}

impl Header {
    /// The offset after the last record.
    pub(crate) fn next_offset(&self) -> u64 {
        self.base_offset + u64::from(self.count)
    }
}

/// What stands at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// A whole batch with a right checksum.
    Batch(Header),
    /// More is needed to tell: at least this many bytes from the front.
    Part { bytes: usize },
}

/// Looks at the batch at the front of `bytes` and checks everything but the records inside.
pub(crate) fn front(bytes: &[u8]) -> Result<Front, Flaw> {
    if bytes.get(MAGIC_AT).is_some_and(|&magic| magic != MAGIC) {
        return Err(Flaw::Magic);
    }
    if bytes.len() < HEADER_BYTES {
        return Ok(Front::Part { bytes: HEADER_BYTES });
    }
    let length = i32::from_be_bytes(field(bytes, LENGTH_AT));
    let size = usize::try_from(length).map_err(|_| Flaw::Length)? + PREFIX_BYTES;
    if size < HEADER_BYTES {
        return Err(Flaw::Length);
    }
    if bytes.len() < size {
        return Ok(Front::Part { bytes: size });
    }
    let crc = u32::from_be_bytes(field(bytes, CRC_AT));
    if crc32c::crc32c(&bytes[ATTRIBUTES_AT..size]) != crc {
        return Err(Flaw::Checksum);
    }
    let count = i32::from_be_bytes(field(bytes, COUNT_AT));
    let last = i32::from_be_bytes(field(bytes, LAST_OFFSET_DELTA_AT));
    if count < 1 || last != count - 1 {
        return Err(Flaw::Count);
    }
    let base_offset = i64::from_be_bytes(field(bytes, 0));
    if base_offset < 0 || base_offset.checked_add(i64::from(count)).is_none() {
        return Err(Flaw::Offset);
    }
    Ok(Front::Batch(Header {
        base_offset: base_offset.cast_unsigned(),
        bytes: size,
        count: count.cast_unsigned(),
        base_ms: i64::from_be_bytes(field(bytes, BASE_TIMESTAMP_AT)),
        attributes: i16::from_be_bytes(field(bytes, ATTRIBUTES_AT)),
        producer_id: i64::from_be_bytes(field(bytes, PRODUCER_ID_AT)),
    }))
}

/// Checks a batch that somebody else encoded, with every record in it, so that no reader stumbles later.
pub(crate) fn check(bytes: &[u8]) -> Result<Header, Flaw> {
    let Front::Batch(header) = front(bytes)? else { return Err(Flaw::Torn) };
    if header.bytes != bytes.len() {
        return Err(Flaw::Length);
    }
    if header.producer_id != -1 {
        return Err(Flaw::Producer);
    }
    walk(bytes, &header, |_, _| {})?;
    Ok(header)
}

/// Gives a batch its place. Both fields lie outside the checksum, so nothing else changes.
pub(crate) fn patch(batch: &mut [u8], base_offset: u64, leader_epoch: i32) {
    put_at(batch, 0, &base_offset.to_be_bytes());
    put_at(batch, LEADER_EPOCH_AT, &leader_epoch.to_be_bytes());
}

/// Reads the records at and after `from` out of one whole batch. They share its memory.
pub(crate) fn decode(
    batch: &Bytes,
    header: &Header,
    from: u64,
    stored: &mut Vec<Stored>,
) -> Result<(), Flaw> {
    let share = |part: &[u8]| batch.slice_ref(part);
    walk(batch, header, |offset, raw| {
        if offset < from {
            return;
        }
        let headers = raw.headers.iter().map(|(name, value)| ((*name).to_owned(), share(value)));
        let record = Record {
            timestamp: Timestamp::from_millis(raw.ms),
            key: raw.key.map(share),
            value: share(raw.value),
            headers: headers.collect(),
        };
        stored.push(Stored { offset, record });
    })
}

/// A record whose parts lie in its batch. An absent value reads as an empty one.
pub(crate) struct Raw<'a> {
    pub(crate) ms: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: &'a [u8],
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
}

/// Visits the records of a whole batch in their order, with their offsets.
pub(crate) fn walk<'a>(
    batch: &'a [u8],
    header: &Header,
    mut visit: impl FnMut(u64, &Raw<'a>),
) -> Result<(), Flaw> {
    if header.attributes != 0 {
        return Err(Flaw::Attributes);
    }
    let mut rest = &batch[HEADER_BYTES..header.bytes];
    let mut raw = Raw { ms: 0, key: None, value: &[], headers: Vec::new() };
    for delta in 0..header.count {
        take_record(&mut rest, header.base_ms, delta, &mut raw)?;
        visit(header.base_offset + u64::from(delta), &raw);
    }
    if rest.is_empty() { Ok(()) } else { Err(Flaw::Record) }
}

fn take_record<'a>(
    rest: &mut &'a [u8],
    base_ms: i64,
    delta: u32,
    raw: &mut Raw<'a>,
) -> Result<(), Flaw> {
    let length = take_number(rest)?;
    let mut body = take_bytes(rest, length)?;
    // The attributes of a record have no meaning yet.
    take_bytes(&mut body, 1)?;
    raw.ms = base_ms.checked_add(take_number(&mut body)?).ok_or(Flaw::Record)?;
    if take_number(&mut body)? != i64::from(delta) {
        return Err(Flaw::Record);
    }
    raw.key = take_optional(&mut body)?;
    raw.value = take_optional(&mut body)?.unwrap_or_default();
    raw.headers.clear();
    let headers = u32::try_from(take_number(&mut body)?).map_err(|_| Flaw::Record)?;
    for _ in 0..headers {
        let name = take_optional(&mut body)?.ok_or(Flaw::Record)?;
        let name = str::from_utf8(name).map_err(|_| Flaw::Record)?;
        raw.headers.push((name, take_optional(&mut body)?.unwrap_or_default()));
    }
    if body.is_empty() { Ok(()) } else { Err(Flaw::Record) }
}

/// Takes a length and as many bytes; a length of -1 says that there is nothing.
fn take_optional<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Flaw> {
    match take_number(rest)? {
        -1 => Ok(None),
        length => take_bytes(rest, length).map(Some),
    }
}

fn take_bytes<'a>(rest: &mut &'a [u8], length: i64) -> Result<&'a [u8], Flaw> {
    let length = usize::try_from(length).map_err(|_| Flaw::Record)?;
    let (front, back) = rest.split_at_checked(length).ok_or(Flaw::Record)?;
    *rest = back;
    Ok(front)
}

fn take_number(rest: &mut &[u8]) -> Result<i64, Flaw> {
    varint::take(rest).ok_or(Flaw::Record)
}

/// Encodes one batch straight into the end of a buffer that others are written to as well.
#[derive(Debug)]
pub(crate) struct Builder {
    start: usize,
    base_offset: u64,
    count: u32,
    base_ms: i64,
    max_ms: i64,
}

impl Builder {
    pub(crate) fn begin(out: &mut Vec<u8>, base_offset: u64) -> Self {
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        Self { start, base_offset, count: 0, base_ms: 0, max_ms: i64::MIN }
    }

    pub(crate) fn push(&mut self, out: &mut Vec<u8>, record: &Record) {
        let ms = record.timestamp.millis();
        if self.count == 0 {
            self.base_ms = ms;
        }
        self.max_ms = self.max_ms.max(ms);
        put_record(out, record, ms - self.base_ms, self.count);
        self.count += 1;
    }

    /// The size so far, header included.
    pub(crate) fn bytes(&self, out: &[u8]) -> usize {
        out.len() - self.start
    }

    /// Writes the header, now that everything in it is known, and the checksum over the whole.
    pub(crate) fn finish(self, out: &mut [u8]) {
        debug_assert!(self.count > 0, "a batch has records");
        let batch = &mut out[self.start..];
        let length = i32::try_from(batch.len() - PREFIX_BYTES)
            .expect("the configuration keeps a batch below 1 GiB");
        let count = self.count.cast_signed();
        patch(batch, self.base_offset, 0);
        put_at(batch, LENGTH_AT, &length.to_be_bytes());
        batch[MAGIC_AT] = MAGIC;
        put_at(batch, LAST_OFFSET_DELTA_AT, &(count - 1).to_be_bytes());
        put_at(batch, BASE_TIMESTAMP_AT, &self.base_ms.to_be_bytes());
        put_at(batch, MAX_TIMESTAMP_AT, &self.max_ms.to_be_bytes());
        // Producer id, epoch and sequence: -1 says that the producer has none.
        batch[PRODUCER_ID_AT..COUNT_AT].fill(0xFF);
        put_at(batch, COUNT_AT, &count.to_be_bytes());
        let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        put_at(batch, CRC_AT, &crc.to_be_bytes());
    }
}

fn put_record(out: &mut Vec<u8>, record: &Record, ms_delta: i64, offset_delta: u32) {
    let key = record.key.as_deref();
    let key_length = key.map_or(-1, signed);
    let mut body = 1
        + varint::size(ms_delta)
        + varint::size(i64::from(offset_delta))
        + varint::size(key_length)
        + key.map_or(0, <[u8]>::len)
        + sized(&record.value)
        + varint::size(signed_count(record.headers.len()));
    for (name, value) in &record.headers {
        body += sized(name.as_bytes()) + sized(value);
    }
    varint::put(out, signed_count(body));
    out.push(0);
    varint::put(out, ms_delta);
    varint::put(out, i64::from(offset_delta));
    varint::put(out, key_length);
    out.extend_from_slice(key.unwrap_or_default());
    put_bytes(out, &record.value);
    varint::put(out, signed_count(record.headers.len()));
    for (name, value) in &record.headers {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, signed(bytes));
    out.extend_from_slice(bytes);
}

fn sized(bytes: &[u8]) -> usize {
    varint::size(signed(bytes)) + bytes.len()
}

fn signed(bytes: &[u8]) -> i64 {
    signed_count(bytes.len())
}

fn signed_count(count: usize) -> i64 {
    i64::try_from(count).expect("nothing in memory is longer than 2^63")
}

fn put_at(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..].first_chunk().copied().expect("the caller saw a whole header")
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn batch_of(base_offset: u64, records: &[Record]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut builder = Builder::begin(&mut out, base_offset);
        for record in records {
            builder.push(&mut out, record);
        }
        builder.finish(&mut out);
        out
    }

    pub(crate) fn any_record() -> impl Strategy<Value = Record> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let headers = proptest::collection::vec((".{0,6}", bytes()), 0..3);
        (
            -100_000_000_000_000_i64..100_000_000_000_000,
            proptest::option::of(bytes()),
            bytes(),
            headers,
        )
            .prop_map(|(ms, key, value, headers)| Record {
                timestamp: Timestamp::from_millis(ms),
                key,
                value,
                headers,
            })
    }

    fn decoded(batch: Vec<u8>, from: u64) -> Vec<Stored> {
        let header = check(&batch).unwrap();
        let mut stored = Vec::new();
        decode(&Bytes::from(batch), &header, from, &mut stored).unwrap();
        stored
    }

    fn plain(value: &str) -> Record {
        Record {
            timestamp: Timestamp::from_millis(1),
            key: None,
            value: Bytes::copy_from_slice(value.as_bytes()),
            headers: vec![],
        }
    }

    /// Replaces bytes and makes the checksum right again.
    fn forged(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
        put_at(&mut batch, at, bytes);
        let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        put_at(&mut batch, CRC_AT, &crc.to_be_bytes());
        batch
    }

    #[test]
    fn a_batch_that_kafka_wrote_is_read_and_written_the_same() {
        // One record "123" of 2017-08-18T12:43:57.116Z, as Kafka 0.11 stored it, with leader epoch 1.
        let kafka =
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00;\x00\x00\x00\x01\x02\x03\x18\xa2p\
            \x00\x00\x00\x00\x00\x00\x00\x00\x01]\xff{\x06<\x00\x00\x01]\xff{\x06<\
            \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x01\
            \x12\x00\x00\x00\x01\x06123\x00";
        let stored = decoded(kafka.to_vec(), 0);
        assert_eq!(stored[0].record.value, "123");
        assert_eq!(stored[0].record.key, None);
        let mut ours = batch_of(0, &[stored[0].record.clone()]);
        patch(&mut ours, 0, 1);
        assert_eq!(ours, kafka);
    }

    #[test]
    fn patching_the_place_leaves_the_checksum_right() {
        let mut batch = batch_of(0, &[plain("a"), plain("b")]);
        patch(&mut batch, 70, 5);
        let offsets: Vec<u64> = decoded(batch, 71).iter().map(|stored| stored.offset).collect();
        assert_eq!(offsets, [71]);
    }

    #[test]
    fn a_foreign_batch_is_refused_for_what_is_not_supported() {
        let batch = batch_of(0, &[plain("a")]);
        assert!(check(&batch).is_ok());
        for (name, batch, flaw) in [
            ("compressed", forged(batch.clone(), ATTRIBUTES_AT, &[0, 1]), Flaw::Attributes),
            ("idempotent", forged(batch.clone(), PRODUCER_ID_AT, &[0; 8]), Flaw::Producer),
            ("miscounted", forged(batch.clone(), COUNT_AT, &[0, 0, 0, 2]), Flaw::Count),
            ("garbled", forged(batch.clone(), HEADER_BYTES, &[0x7E]), Flaw::Record),
            ("old", forged(batch.clone(), MAGIC_AT, &[1]), Flaw::Magic),
            ("followed", [&batch[..], b"x"].concat(), Flaw::Length),
            ("torn", batch[..batch.len() - 1].to_vec(), Flaw::Torn),
            ("negative", forged(batch.clone(), LENGTH_AT, &[0xFF; 4]), Flaw::Length),
        ] {
            assert_eq!(check(&batch), Err(flaw), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_batch_comes_back(
            records in proptest::collection::vec(any_record(), 1..20),
            base in 0..u64::MAX / 4,
            skip in 0_u64..20,
        ) {
            let batch = batch_of(base, &records);
            prop_assert!(batch.len() <= HEADER_BYTES
                + records.iter().map(Record::encoded_bytes_max).sum::<usize>());
            let stored = decoded(batch, base + skip);
            let expected: Vec<Stored> = (base..)
                .zip(records)
                .map(|(offset, record)| Stored { offset, record })
                .skip(usize::try_from(skip).unwrap())
                .collect();
            prop_assert_eq!(stored, expected);
        }

        #[test]
        fn one_changed_byte_under_the_checksum_is_seen(
            record in any_record(), at: proptest::sample::Index, flip in 1_u8..,
        ) {
            let mut batch = batch_of(3, &[record]);
            let at = CRC_AT + at.index(batch.len() - CRC_AT);
            batch[at] ^= flip;
            prop_assert_eq!(front(&batch), Err(Flaw::Checksum));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            prop_assert!(check(&bytes).is_err());
            if bytes.len() >= HEADER_BYTES {
                let length = i32::try_from(bytes.len() - PREFIX_BYTES).unwrap();
                put_at(&mut bytes, LENGTH_AT, &length.to_be_bytes());
                put_at(&mut bytes, LAST_OFFSET_DELTA_AT, &1_i32.to_be_bytes());
                put_at(&mut bytes, ATTRIBUTES_AT, &[0, 0]);
                put_at(&mut bytes, COUNT_AT, &2_i32.to_be_bytes());
                bytes[0] = 0;
                bytes[MAGIC_AT] = MAGIC;
                let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
                put_at(&mut bytes, CRC_AT, &crc.to_be_bytes());
                // Whether it is refused depends on the bytes; that it answers is what counts.
                let _: Result<Header, Flaw> = check(&bytes);
            }
        }
    }
}
