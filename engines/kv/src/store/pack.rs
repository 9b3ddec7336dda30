//! Items one after another in one block of bytes, small numbers in a byte or two: Redis's list pack, so that nodes of
//! streams are cut where Redis cuts them and go out with DUMP as they are.

use super::number::{i64_text, parse_i64};

/// Length of the block and number of items.
const HEADER: usize = 6;
const END: u8 = 0xff;
/// As many items or more are not counted in the header.
const COUNT_MAX: u16 = u16::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Int(i64),
    Text(&'a [u8]),
}

impl Item<'_> {
    pub(crate) fn to_vec(self) -> Vec<u8> {
        match self {
            Self::Int(value) => i64_text(value),
            Self::Text(text) => text.to_vec(),
        }
    }

    pub(crate) fn int(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            Self::Text(text) => parse_i64(text),
        }
    }

    pub(crate) fn is(self, other: &[u8]) -> bool {
        match self {
            Self::Int(value) => parse_i64(other) == Some(value),
            Self::Text(text) => text == other,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Pack(Vec<u8>);

impl Default for Pack {
    fn default() -> Self {
        let mut pack = Self(vec![0; HEADER]);
        pack.0.push(END);
        pack.seal(0);
        pack
    }
}

impl Pack {
    /// Takes bytes that somebody else made; nothing when they are no list pack.
    pub(crate) fn of(bytes: Vec<u8>) -> Option<Self> {
        let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        if length != bytes.len() || bytes.len() <= HEADER || bytes.last() != Some(&END) {
            return None;
        }
        let pack = Self(bytes);
        let (mut at, mut count) = (HEADER, 0usize);
        while pack.0[at] != END {
            let (_, next) = pack.read(at)?;
            if next >= pack.0.len() || !is_back_length(&pack.0, at, next) {
                return None;
            }
            at = next;
            count += 1;
        }
        let told = usize::from(u16::from_le_bytes([pack.0[4], pack.0[5]]));
        let is_told = told == count || told == usize::from(COUNT_MAX);
        (at + 1 == pack.0.len() && is_told).then_some(pack)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    pub(crate) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Where the first item is.
    pub(crate) const fn first() -> usize {
        HEADER
    }

    pub(crate) fn is_end(&self, at: usize) -> bool {
        self.0.get(at).is_none_or(|byte| *byte == END)
    }

    pub(crate) fn push(&mut self, text: &[u8]) {
        match parse_i64(text) {
            Some(value) => self.push_int(value),
            None => self.add(|out| encode_text(out, text)),
        }
    }

    pub(crate) fn push_int(&mut self, value: i64) {
        self.add(|out| encode_int(out, value));
    }

    fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.0.pop();
        let from = self.0.len();
        encode(&mut self.0);
        let length = self.0.len() - from;
        push_back_length(&mut self.0, length);
        self.0.push(END);
        self.seal(1);
    }

    /// Writes the length, and the count with so many more.
    fn seal(&mut self, more: u16) {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        let count = u16::from_le_bytes([self.0[4], self.0[5]]).saturating_add(more);
        self.0[4..6].copy_from_slice(&count.to_le_bytes());
    }

    /// The item at a place, and where the next one is. Nothing when the bytes are damaged.
    pub(crate) fn read(&self, at: usize) -> Option<(Item<'_>, usize)> {
        let bytes = &self.0;
        let &first = bytes.get(at)?;
        let byte = |offset: usize| bytes.get(at + offset).copied();
        let (item, length) = match first {
            0x00..=0x7f => (Item::Int(i64::from(first)), 1),
            0x80..=0xbf => {
                let length = usize::from(first & 0x3f);
                (Item::Text(bytes.get(at + 1..at + 1 + length)?), 1 + length)
            }
            0xc0..=0xdf => {
                let value = i64::from(first & 0x1f) << 8 | i64::from(byte(1)?);
                (Item::Int(if value >= 1 << 12 { value - (1 << 13) } else { value }), 2)
            }
            0xe0..=0xef => {
                let length = usize::from(first & 0x0f) << 8 | usize::from(byte(1)?);
                (Item::Text(bytes.get(at + 2..at + 2 + length)?), 2 + length)
            }
            0xf0 => {
                let length = little(bytes.get(at + 1..at + 5)?) as usize;
                (Item::Text(bytes.get(at + 5..(at + 5).checked_add(length)?)?), 5 + length)
            }
            0xf1 => (Item::Int(little(bytes.get(at + 1..at + 3)?)), 3),
            0xf2 => (Item::Int(little(bytes.get(at + 1..at + 4)?)), 4),
            0xf3 => (Item::Int(little(bytes.get(at + 1..at + 5)?)), 5),
            0xf4 => (Item::Int(little(bytes.get(at + 1..at + 9)?)), 9),
            _ => return None,
        };
        let item = match (first, item) {
            (0xf1, Item::Int(value)) => Item::Int(i64::from(value as i16)),
            (0xf2, Item::Int(value)) => Item::Int((value << 40) >> 40),
            (0xf3, Item::Int(value)) => Item::Int(i64::from(value as i32)),
            (_, item) => item,
        };
        Some((item, at + length + back_length_size(length)))
    }

    /// Puts a whole number in place of the item there.
    pub(crate) fn replace_int(&mut self, at: usize, value: i64) {
        let Some((_, next)) = self.read(at) else { return };
        let mut encoded = Vec::with_capacity(12);
        encode_int(&mut encoded, value);
        let length = encoded.len();
        push_back_length(&mut encoded, length);
        self.0.splice(at..next, encoded);
        self.seal(0);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        let mut at = HEADER;
        std::iter::from_fn(move || {
            if self.is_end(at) {
                return None;
            }
            let (item, next) = self.read(at)?;
            at = next;
            Some(item)
        })
    }
}

fn little(bytes: &[u8]) -> i64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | i64::from(*byte))
}

fn encode_int(out: &mut Vec<u8>, value: i64) {
    match value {
        0..=127 => out.push(value as u8),
        -4_096..=4_095 => {
            let value = (value & 0x1fff) as u16;
            out.extend_from_slice(&[0xc0 | (value >> 8) as u8, value as u8]);
        }
        -32_768..=32_767 => put(out, 0xf1, value, 2),
        -8_388_608..=8_388_607 => put(out, 0xf2, value, 3),
        -2_147_483_648..=2_147_483_647 => put(out, 0xf3, value, 4),
        _ => put(out, 0xf4, value, 8),
    }
}

fn put(out: &mut Vec<u8>, mark: u8, value: i64, bytes: usize) {
    out.push(mark);
    out.extend_from_slice(&value.to_le_bytes()[..bytes]);
}

fn encode_text(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ 0..64 => out.push(0x80 | length as u8),
        length @ 64..4_096 => out.extend_from_slice(&[0xe0 | (length >> 8) as u8, length as u8]),
        length => {
            out.push(0xf0);
            out.extend_from_slice(&(length as u32).to_le_bytes());
        }
    }
    out.extend_from_slice(text);
}

fn back_length_size(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

/// The item's length behind it, so that it can be read from the end: the lowest seven bits last.
fn push_back_length(out: &mut Vec<u8>, length: usize) {
    let size = back_length_size(length);
    for group in (0..size).rev() {
        let bits = (length >> (7 * group)) as u8 & 0x7f;
        out.push(if group + 1 == size { bits } else { bits | 0x80 });
    }
}

fn is_back_length(bytes: &[u8], at: usize, next: usize) -> bool {
    let mut expected = Vec::with_capacity(5);
    let lengths = (1..=5).filter_map(|size| Some((size, (next - at).checked_sub(size)?)));
    let Some((_, length)) =
        lengths.into_iter().find(|(size, length)| back_length_size(*length) == *size)
    else {
        return false;
    };
    push_back_length(&mut expected, length);
    bytes[..next].ends_with(&expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_they_were_pushed_and_damage_is_refused() {
        let mut pack = Pack::default();
        let texts: Vec<Vec<u8>> = [0, 1, 63, 64, 200, 4_095, 4_096, 20_000]
            .into_iter()
            .map(|length| vec![b'x'; length])
            .collect();
        let edges = [7u32, 12, 15, 23, 31, 62].map(|bits| 1i64 << bits);
        let numbers: Vec<i64> = edges
            .into_iter()
            .flat_map(|edge| [edge - 1, edge, -edge, -edge - 1])
            .chain([0, 1, -1, i64::MIN, i64::MAX])
            .collect();
        for text in &texts {
            pack.push(text);
        }
        for number in &numbers {
            pack.push(&i64_text(*number));
        }
        let again = Pack::of(pack.bytes().to_vec()).unwrap();
        let items: Vec<Item<'_>> = again.iter().collect();
        for (item, text) in items.iter().zip(&texts) {
            assert_eq!(*item, Item::Text(text));
        }
        for (item, number) in items[texts.len()..].iter().zip(&numbers) {
            assert_eq!(*item, Item::Int(*number));
        }
        assert_eq!(items.len(), texts.len() + numbers.len());
        for length in 0..pack.bytes().len() {
            assert!(Pack::of(pack.bytes()[..length].to_vec()).is_none());
        }
    }

    #[test]
    fn a_number_is_replaced_by_one_of_another_width() {
        let mut pack = Pack::default();
        for text in ["1", "a", "2"] {
            pack.push(text.as_bytes());
        }
        for value in [127, 128, 70_000, -1, 3] {
            pack.replace_int(Pack::first(), value);
            let items: Vec<Vec<u8>> = pack.iter().map(Item::to_vec).collect();
            assert_eq!(items, [i64_text(value), b"a".to_vec(), b"2".to_vec()]);
            assert!(Pack::of(pack.bytes().to_vec()).is_some());
        }
    }
}
