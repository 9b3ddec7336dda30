//! A value in the form of Redis's dump files, version 10: what DUMP gives and RESTORE takes, also from and for Redis.

use std::sync::Arc;

use super::crc64::crc64;
use super::hash::Hash;
use super::list::{End, List};
use super::number::{i64_text, parse_f64};
use super::object::{Collection, Object};
use super::pack::{Item, Pack};
use super::set::Set;
use super::sorted::Sorted;
use super::stream::{Group, Id, Pending, Stream};

/// The version of the form; a higher one is not read.
const VERSION: u16 = 10;
/// Version and checksum.
const FOOTER: usize = 10;

const STRING: u8 = 0;
const LIST: u8 = 1;
const SET: u8 = 2;
const SORTED_TEXT: u8 = 3;
const HASH: u8 = 4;
const SORTED: u8 = 5;
const SET_NUMBERS: u8 = 11;
const HASH_PACKED: u8 = 16;
const SORTED_PACKED: u8 = 17;
const LIST_PACKED: u8 = 18;
const STREAM_OLD: u8 = 15;
const STREAM: u8 = 19;
/// Stands before a library of functions.
const FUNCTION: u8 = 0xf5;

/// Compressed text may claim to be so many times as long as its bytes, not more.
const INFLATION_MAX: usize = 300;

/// A value that was read.
#[derive(Debug)]
pub(crate) enum Value {
    String(Vec<u8>),
    Object(Object),
}

/// Why a payload is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Version or checksum.
    Frame,
    Content,
}

pub(crate) fn write_string(value: &[u8]) -> Vec<u8> {
    let mut out = vec![STRING];
    push_text(&mut out, value);
    sealed(out)
}

pub(crate) fn write_object(object: &Object) -> Vec<u8> {
    let mut out = Vec::new();
    match object {
        Object::Spare => {}
        Object::List(list) => {
            push_head(&mut out, LIST, list.len());
            list.iter().for_each(|element| push_text(&mut out, element));
        }
        Object::Set(set) => {
            push_head(&mut out, SET, set.len());
            set.iter().for_each(|member| push_text(&mut out, member));
        }
        Object::Hash(hash) => {
            push_head(&mut out, HASH, hash.len());
            for (field, value) in hash.iter() {
                push_text(&mut out, field);
                push_text(&mut out, value);
            }
        }
        Object::Sorted(sorted) => {
            push_head(&mut out, SORTED, sorted.len());
            for (member, score) in sorted.iter() {
                push_text(&mut out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
        Object::Stream(stream) => push_stream(&mut out, stream),
    }
    sealed(out)
}

/// Libraries of functions, as FUNCTION DUMP gives them.
pub(crate) fn write_functions(codes: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for code in codes {
        out.push(FUNCTION);
        push_text(&mut out, code);
    }
    sealed(out)
}

pub(crate) fn read_functions(payload: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut reader = Reader(unsealed(payload)?);
    let mut codes = Vec::new();
    while let Some(mark) = reader.byte() {
        let code = (mark == FUNCTION).then(|| reader.text()).flatten();
        codes.push(code.ok_or(Fault::Content)?);
    }
    Ok(codes)
}

fn sealed(mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&VERSION.to_le_bytes());
    let sum = crc64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn push_head(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    push_length(out, length as u64);
}

fn push_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..64 => out.push(length as u8),
        64..16_384 => out.extend_from_slice(&[0x40 | (length >> 8) as u8, length as u8]),
        16_384..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    push_length(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn push_id(out: &mut Vec<u8>, id: Id) {
    push_length(out, id.ms);
    push_length(out, id.seq);
}

fn push_stream(out: &mut Vec<u8>, stream: &Stream) {
    push_head(out, STREAM, stream.nodes().len());
    for (first, node) in stream.nodes() {
        push_text(out, &first.to_bytes());
        push_text(out, node.bytes());
    }
    push_length(out, stream.length as u64);
    push_id(out, stream.last);
    push_id(out, stream.first);
    push_id(out, stream.deleted);
    push_length(out, stream.added);
    push_length(out, stream.groups().len() as u64);
    for (name, group) in stream.groups() {
        push_text(out, name);
        push_id(out, group.last);
        push_length(out, group.read.unwrap_or(u64::MAX));
        push_length(out, group.pending.len() as u64);
        for (id, pending) in &group.pending {
            out.extend_from_slice(&id.to_bytes());
            out.extend_from_slice(&pending.time.to_le_bytes());
            push_length(out, pending.count);
        }
        push_length(out, group.consumers.len() as u64);
        for (name, consumer) in &group.consumers {
            push_text(out, name);
            out.extend_from_slice(&consumer.seen.to_le_bytes());
            push_length(out, consumer.pending.len() as u64);
            consumer.pending.iter().for_each(|id| out.extend_from_slice(&id.to_bytes()));
        }
    }
}

/// What stands before version and checksum, if these are right.
fn unsealed(payload: &[u8]) -> Result<&[u8], Fault> {
    let body = payload.len().checked_sub(FOOTER).ok_or(Fault::Frame)?;
    let (body, footer) = payload.split_at(body);
    let version = u16::from_le_bytes([footer[0], footer[1]]);
    let sum = crc64(&payload[..payload.len() - 8]);
    if version > VERSION || footer[2..] != sum.to_le_bytes() {
        return Err(Fault::Frame);
    }
    Ok(body)
}

/// Reads a payload, which may be anything.
pub(crate) fn read(payload: &[u8]) -> Result<Value, Fault> {
    let mut reader = Reader(unsealed(payload)?);
    let value = reader.value().ok_or(Fault::Content)?;
    if reader.0.is_empty() { Ok(value) } else { Err(Fault::Content) }
}

/// The bytes that are not read yet. Nothing is what damaged ones give.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn eight(&mut self) -> Option<[u8; 8]> {
        self.take(8)?.try_into().ok()
    }

    /// A length, or the number of a special form of text.
    fn length_or_form(&mut self) -> Option<Result<u64, u8>> {
        let first = self.byte()?;
        Some(match first >> 6 {
            0 => Ok(u64::from(first & 0x3f)),
            1 => Ok(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Ok(u64::from(u32::from_be_bytes(self.take(4)?.try_into().ok()?))),
            2 if first == 0x81 => Ok(u64::from_be_bytes(self.eight()?)),
            2 => return None,
            _ => Err(first & 0x3f),
        })
    }

    fn length(&mut self) -> Option<u64> {
        self.length_or_form()?.ok()
    }

    /// How many things follow; each takes a byte at least.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.length()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let form = match self.length_or_form()? {
            Ok(length) => return Some(self.take(usize::try_from(length).ok()?)?.to_vec()),
            Err(form) => form,
        };
        match form {
            0 => Some(i64_text(i64::from(self.byte()? as i8))),
            1 => Some(i64_text(i64::from(i16::from_le_bytes(self.take(2)?.try_into().ok()?)))),
            2 => Some(i64_text(i64::from(i32::from_le_bytes(self.take(4)?.try_into().ok()?)))),
            3 => {
                let packed = usize::try_from(self.length()?).ok()?;
                let length = usize::try_from(self.length()?).ok()?;
                inflate(self.take(packed)?, length)
            }
            _ => None,
        }
    }

    fn value(&mut self) -> Option<Value> {
        let object = match self.byte()? {
            STRING => return self.text().map(Value::String),
            LIST => self.list()?.wrap(),
            LIST_PACKED => self.packed_list()?.wrap(),
            SET => self.set()?.wrap(),
            SET_NUMBERS => self.numbers()?.wrap(),
            HASH => {
                let count = self.count()?;
                let mut hash = Hash::default();
                for _ in 0..count {
                    let (field, value) = (self.text()?, self.text()?);
                    hash.set(&field, &value).then_some(())?;
                }
                (count > 0).then(|| hash.wrap())?
            }
            HASH_PACKED => {
                let mut hash = Hash::default();
                self.pairs(|field, value| hash.set(&field, &value).then_some(()))?;
                hash.wrap()
            }
            kind @ (SORTED | SORTED_TEXT) => self.sorted(kind)?.wrap(),
            SORTED_PACKED => {
                let mut sorted = Sorted::default();
                self.pairs(|member, score| {
                    let score = parse_f64(&score)?;
                    sorted.set(&member, score).is_none().then_some(())
                })?;
                sorted.wrap()
            }
            kind @ (STREAM | STREAM_OLD) => self.stream(kind == STREAM)?.wrap(),
            _ => return None,
        };
        Some(Value::Object(object))
    }

    fn list(&mut self) -> Option<List> {
        let count = self.count()?;
        let mut list = List::default();
        for _ in 0..count {
            list.push(End::Right, &self.text()?);
        }
        (count > 0).then_some(list)
    }

    /// Nodes of a list: single elements, and packs of many.
    fn packed_list(&mut self) -> Option<List> {
        let count = self.count()?;
        let mut list = List::default();
        for _ in 0..count {
            let kind = self.length()?;
            let node = self.text()?;
            match kind {
                1 => list.push(End::Right, &node),
                2 => Pack::of(node)?.iter().for_each(|item| list.push(End::Right, &item.to_vec())),
                _ => return None,
            }
        }
        (list.len() > 0).then_some(list)
    }

    fn set(&mut self) -> Option<Set> {
        let count = self.count()?;
        let mut set = Set::default();
        for _ in 0..count {
            set.add(&self.text()?).then_some(())?;
        }
        (count > 0).then_some(set)
    }

    /// Sorted whole numbers of one width.
    fn numbers(&mut self) -> Option<Set> {
        let bytes = self.text()?;
        let (head, rest) = bytes.split_at_checked(8)?;
        let width = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        let count = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
        if !matches!(width, 2 | 4 | 8) || rest.len() != width.checked_mul(count)? || count == 0 {
            return None;
        }
        let mut set = Set::default();
        for bytes in rest.chunks(width) {
            let value = match width {
                2 => i64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
                4 => i64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
                _ => i64::from_le_bytes(bytes.try_into().ok()?),
            };
            set.add(&i64_text(value)).then_some(())?;
        }
        Some(set)
    }

    /// Pairs of one pack.
    fn pairs(&mut self, mut add: impl FnMut(Vec<u8>, Vec<u8>) -> Option<()>) -> Option<()> {
        let pack = Pack::of(self.text()?)?;
        let items: Vec<Item<'_>> = pack.iter().collect();
        if items.is_empty() || !items.len().is_multiple_of(2) {
            return None;
        }
        items.chunks(2).try_for_each(|pair| add(pair[0].to_vec(), pair[1].to_vec()))
    }

    fn sorted(&mut self, kind: u8) -> Option<Sorted> {
        let count = self.count()?;
        let mut sorted = Sorted::default();
        for _ in 0..count {
            let member = self.text()?;
            let score = if kind == SORTED {
                f64::from_le_bytes(self.eight()?)
            } else {
                match self.byte()? {
                    253 => return None,
                    254 => f64::INFINITY,
                    255 => f64::NEG_INFINITY,
                    length => parse_f64(self.take(usize::from(length))?)?,
                }
            };
            (!score.is_nan() && sorted.set(&member, score).is_none()).then_some(())?;
        }
        (count > 0).then_some(sorted)
    }

    fn id(&mut self) -> Option<Id> {
        Some(Id { ms: self.length()?, seq: self.length()? })
    }

    fn stream(&mut self, is_new: bool) -> Option<Stream> {
        let mut stream = Stream::default();
        for _ in 0..self.count()? {
            let first = self.text()?;
            let first = Id::of_bytes(&first).filter(|_| first.len() == 16)?;
            let node = Pack::of(self.text()?)?;
            stream.push_node(first, node).then_some(())?;
        }
        stream.length = usize::try_from(self.length()?).ok()?;
        stream.last = self.id()?;
        let all = stream.range(Id::ZERO, Id::MAX);
        let (count, first, last) = all.fold((0, Id::ZERO, Id::ZERO), |(count, first, _), entry| {
            (count + 1, if count == 0 { entry.id } else { first }, entry.id)
        });
        if count != stream.length || last > stream.last {
            return None;
        }
        (stream.first, stream.added) = (first, count as u64);
        if is_new {
            self.id()?;
            stream.deleted = self.id()?;
            stream.added = self.length()?;
        }
        for _ in 0..self.count()? {
            let name = self.text()?;
            let group = self.group(is_new)?;
            stream.add_group(&name, group).then_some(())?;
        }
        Some(stream)
    }

    fn group(&mut self, is_new: bool) -> Option<Group> {
        let mut group = Group { last: self.id()?, ..Group::default() };
        if is_new {
            group.read = Some(self.length()?).filter(|read| i64::try_from(*read).is_ok());
        }
        let mut waiting = Vec::new();
        for _ in 0..self.count()? {
            let id = Id::of_bytes(self.take(16)?)?;
            waiting.push((id, i64::from_le_bytes(self.eight()?), self.length()?));
        }
        let waiting: std::collections::BTreeMap<Id, (i64, u64)> =
            waiting.into_iter().map(|(id, time, count)| (id, (time, count))).collect();
        for _ in 0..self.count()? {
            let name = self.text()?;
            let seen = i64::from_le_bytes(self.eight()?);
            let (name, is_made): (Arc<[u8]>, bool) = group.consumer(&name, seen);
            is_made.then_some(())?;
            for _ in 0..self.count()? {
                let id = Id::of_bytes(self.take(16)?)?;
                let &(time, count) = waiting.get(&id)?;
                (!group.pending.contains_key(&id)).then_some(())?;
                group.assign(id, Pending { consumer: name.clone(), time, count });
            }
        }
        (group.pending.len() == waiting.len()).then_some(group)
    }
}

/// Undoes LZF: runs of bytes, and references to what was written already.
fn inflate(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > packed.len().saturating_mul(INFLATION_MAX) {
        return None;
    }
    let mut out = Vec::with_capacity(length);
    let mut reader = Reader(packed);
    while let Some(control) = reader.byte() {
        let control = usize::from(control);
        if control < 32 {
            out.extend_from_slice(reader.take(control + 1)?);
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(reader.byte()?);
            }
            let back = ((control & 0x1f) << 8 | usize::from(reader.byte()?)) + 1;
            let from = out.len().checked_sub(back)?;
            for at in from..from + count + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Vec<Object> {
        let (mut list, mut set, mut hash) = (List::default(), Set::default(), Hash::default());
        let (mut sorted, mut stream) = (Sorted::default(), Stream::default());
        for number in 0..70u64 {
            let text = "x".repeat(number as usize * 7);
            let name = number.to_string();
            list.push(End::Right, text.as_bytes());
            set.add(name.as_bytes());
            hash.set(name.as_bytes(), text.as_bytes());
            sorted.set(name.as_bytes(), number as f64 / 3.0);
            let id = Id { ms: number + 1, seq: number };
            stream.append(id, [&b"f"[..], text.as_bytes()].into_iter(), (4_096, 100));
        }
        stream.delete(Id { ms: 5, seq: 4 });
        let mut group = Group { last: Id { ms: 9, seq: 8 }, read: None, ..Group::default() };
        let (consumer, _) = group.consumer(b"me", 77);
        group.assign(Id { ms: 5, seq: 4 }, Pending { consumer, time: 5, count: 3 });
        stream.add_group(b"g", group);
        vec![list.wrap(), set.wrap(), hash.wrap(), sorted.wrap(), stream.wrap()]
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_refused() {
        for object in objects() {
            let bytes = write_object(&object);
            let Ok(Value::Object(again)) = read(&bytes) else { panic!("{object:?}") };
            assert_eq!(write_object(&again), bytes);
            // Whatever stands there, with the right sum: an error or a value, never a panic.
            for at in (0..bytes.len() - FOOTER).step_by(bytes.len() / 200 + 1) {
                for value in [0, 0x3f, 0x81, 0xc3, 0xff] {
                    let mut broken = bytes[..bytes.len() - FOOTER].to_vec();
                    broken[at] = value;
                    drop(read(&sealed(broken)));
                }
                drop(read(&sealed(bytes[..at].to_vec())));
            }
            let mut flipped = bytes;
            flipped[3] ^= 1;
            assert_eq!(read(&flipped).unwrap_err(), Fault::Frame);
        }
    }

    #[test]
    fn references_of_compressed_text_are_followed() {
        // "aaaaaaaaab": one byte, eight more of it, one byte.
        assert_eq!(inflate(&[0, b'a', 0xc0, 0, 0, b'b'], 10).unwrap(), b"aaaaaaaaab");
        assert_eq!(inflate(&[0, b'a', 0xc0, 4], 9), None);
        assert_eq!(inflate(&[0, b'a'], 1 << 40), None);
    }
}
