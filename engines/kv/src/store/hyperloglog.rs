//! A HyperLogLog in a string: the bytes, the hash and the estimate are Redis's, so both count alike and read each other.

use std::borrow::Cow;

const MAGIC: &[u8; 4] = b"HYLL";
/// Magic, form, three spare bytes, the count that was computed last.
const HEADER: usize = 16;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const FORM: usize = 4;
const CACHE: std::ops::Range<usize> = 8..16;
/// Set when the cached count is out of date.
const STALE: u8 = 0x80;
pub(crate) const REGISTERS: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 14;
/// Bits of the hash behind the index.
const RANKS: usize = 64 - INDEX_BITS as usize;
const REGISTER_BITS: usize = 6;
const DENSE_BYTES: usize = HEADER + REGISTERS * REGISTER_BITS / 8;
/// The highest register that the sparse form can hold.
const SPARSE_RANK_MAX: u8 = 32;
const SEED: u64 = 0xadc8_3b19;
/// Runs that a change looks at to join equal neighbours.
const JOINED_MAX: usize = 5;

/// The bytes are no HyperLogLog, or a damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    Kind,
    Damaged,
}

#[derive(Debug, Clone)]
pub(crate) struct Sketch(Vec<u8>);

/// A run of equal registers in the sparse form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// 0 is no element.
    rank: u8,
    length: usize,
    bytes: usize,
}

fn run(bytes: &[u8], at: usize) -> Option<Run> {
    let &first = bytes.get(at)?;
    Some(match first >> 6 {
        0 => Run { rank: 0, length: usize::from(first & 0x3f) + 1, bytes: 1 },
        1 => {
            let length = usize::from(first & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
            Run { rank: 0, length: length + 1, bytes: 2 }
        }
        _ => Run { rank: (first >> 2 & 0x1f) + 1, length: usize::from(first & 3) + 1, bytes: 1 },
    })
}

/// Writes a run of empty registers.
fn push_empty(out: &mut Vec<u8>, length: usize) {
    match length {
        0 => {}
        1..=64 => out.push((length - 1) as u8),
        _ => out.extend_from_slice(&[0x40 | ((length - 1) >> 8) as u8, (length - 1) as u8]),
    }
}

fn set_run(rank: u8, length: usize) -> u8 {
    0x80 | (rank - 1) << 2 | (length - 1) as u8
}

impl Sketch {
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[FORM] = SPARSE;
        push_empty(&mut bytes, REGISTERS);
        Self(bytes)
    }

    pub(crate) fn of(bytes: Vec<u8>) -> Result<Self, Wrong> {
        let is_one = bytes.len() >= HEADER
            && bytes.starts_with(MAGIC)
            && bytes[FORM] <= SPARSE
            && (bytes[FORM] == SPARSE || bytes.len() == DENSE_BYTES);
        if is_one { Ok(Self(bytes)) } else { Err(Wrong::Kind) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.0[FORM] == DENSE
    }

    /// The count that was computed last, if nothing came since.
    pub(crate) fn cached(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[CACHE]);
        (bytes[7] & STALE == 0).then(|| u64::from_le_bytes(bytes))
    }

    pub(crate) fn cache(&mut self, count: u64) {
        self.0[CACHE].copy_from_slice(&count.to_le_bytes());
    }

    pub(crate) fn spoil(&mut self) {
        self.0[HEADER - 1] |= STALE;
    }

    /// Adds an element; says whether a register grew.
    pub(crate) fn add(&mut self, element: &[u8], sparse_max: usize) -> Result<bool, Wrong> {
        let (index, rank) = place(element);
        self.raise(index, rank, sparse_max)
    }

    /// Sets a register if it is lower.
    pub(crate) fn raise(
        &mut self,
        index: usize,
        rank: u8,
        sparse_max: usize,
    ) -> Result<bool, Wrong> {
        if self.is_dense() {
            return Ok(self.raise_dense(index, rank));
        }
        if rank <= SPARSE_RANK_MAX
            && let Some(grew) = self.raise_sparse(index, rank, sparse_max)?
        {
            return Ok(grew);
        }
        self.make_dense()?;
        Ok(self.raise_dense(index, rank))
    }

    fn raise_dense(&mut self, index: usize, rank: u8) -> bool {
        let registers = &mut self.0[HEADER..];
        if register(registers, index) >= rank {
            return false;
        }
        let bit = index * REGISTER_BITS;
        let (byte, shift) = (bit / 8, bit % 8);
        let mask = 0x3fu16 << shift;
        let low = u16::from(registers[byte]);
        let high = registers.get(byte + 1).map_or(0, |high| u16::from(*high));
        let both = (high << 8 | low) & !mask | u16::from(rank) << shift;
        registers[byte] = both as u8;
        if let Some(high) = registers.get_mut(byte + 1) {
            *high = (both >> 8) as u8;
        }
        true
    }

    /// Nothing when it has to become dense.
    fn raise_sparse(
        &mut self,
        index: usize,
        rank: u8,
        sparse_max: usize,
    ) -> Result<Option<bool>, Wrong> {
        let (mut at, mut first, mut before) = (HEADER, 0, None);
        let found = loop {
            let found = run(&self.0, at).ok_or(Wrong::Damaged)?;
            if index < first + found.length {
                break found;
            }
            before = Some(at);
            at += found.bytes;
            first += found.length;
        };
        if found.rank >= rank {
            return Ok(Some(false));
        }
        let last = first + found.length - 1;
        let mut parts = Vec::with_capacity(5);
        let push_rest = |parts: &mut Vec<u8>, length: usize| {
            if found.rank == 0 {
                push_empty(parts, length);
            } else if length > 0 {
                parts.push(set_run(found.rank, length));
            }
        };
        push_rest(&mut parts, index - first);
        parts.push(set_run(rank, 1));
        push_rest(&mut parts, last - index);
        if parts.len() > found.bytes && self.0.len() + parts.len() - found.bytes > sparse_max {
            return Ok(None);
        }
        self.0.splice(at..at + found.bytes, parts);
        self.join(before.unwrap_or(HEADER));
        Ok(Some(true))
    }

    /// Joins equal neighbours from a run on.
    fn join(&mut self, mut at: usize) {
        for _ in 0..JOINED_MAX {
            let Some(left) = run(&self.0, at) else { return };
            let right = run(&self.0, at + left.bytes);
            if left.rank > 0
                && let Some(right) = right.filter(|right| right.rank == left.rank)
                && left.length + right.length <= 4
            {
                self.0[at + 1] = set_run(left.rank, left.length + right.length);
                self.0.remove(at);
                continue;
            }
            at += left.bytes;
        }
    }

    pub(crate) fn make_dense(&mut self) -> Result<(), Wrong> {
        if self.is_dense() {
            return Ok(());
        }
        let ranks = self.ranks()?.into_owned();
        let mut dense = Self(self.0[..HEADER].to_vec());
        dense.0[FORM] = DENSE;
        dense.0.resize(DENSE_BYTES, 0);
        for (index, rank) in ranks.into_iter().enumerate().filter(|(_, rank)| *rank > 0) {
            dense.raise_dense(index, rank);
        }
        *self = dense;
        Ok(())
    }

    /// All registers.
    pub(crate) fn ranks(&self) -> Result<Cow<'static, [u8]>, Wrong> {
        let mut ranks = Vec::with_capacity(REGISTERS);
        if self.is_dense() {
            let registers = &self.0[HEADER..];
            ranks.extend((0..REGISTERS).map(|index| register(registers, index)));
            return Ok(ranks.into());
        }
        let mut at = HEADER;
        while at < self.0.len() {
            let run = run(&self.0, at).ok_or(Wrong::Damaged)?;
            at += run.bytes;
            if ranks.len() + run.length > REGISTERS {
                return Err(Wrong::Damaged);
            }
            ranks.resize(ranks.len() + run.length, run.rank);
        }
        if ranks.len() == REGISTERS { Ok(ranks.into()) } else { Err(Wrong::Damaged) }
    }
}

fn register(registers: &[u8], index: usize) -> u8 {
    let bit = index * REGISTER_BITS;
    let (byte, shift) = (bit / 8, bit % 8);
    let high = registers.get(byte + 1).map_or(0, |high| u16::from(*high));
    ((high << 8 | u16::from(registers[byte])) >> shift) as u8 & 0x3f
}

/// The register of an element, and what it says.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur(element);
    let rest = hash >> INDEX_BITS | 1 << RANKS;
    ((hash as usize) & (REGISTERS - 1), rest.trailing_zeros() as u8 + 1)
}

/// MurmurHash2, 64 bits.
fn murmur(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word ^= word >> SHIFT;
        hash = (hash ^ word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> SHIFT;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ hash >> SHIFT
}

/// About how many different elements made these registers (Ertl, New cardinality estimation algorithms, 2017).
pub(crate) fn estimate(ranks: &[u8]) -> u64 {
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let mut counts = [0u32; 64];
    for rank in ranks {
        counts[usize::from(*rank & 0x3f)] += 1;
    }
    let all = REGISTERS as f64;
    let mut z = all * tau((all - f64::from(counts[RANKS + 1])) / all);
    for count in counts[1..=RANKS].iter().rev() {
        z = (z + f64::from(*count)) * 0.5;
    }
    z += all * sigma(f64::from(counts[0]) / all);
    (ALPHA * all * all / z).round() as u64
}

#[allow(clippy::float_cmp, reason = "the series ends when a step changes nothing")]
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

#[allow(clippy::float_cmp, reason = "the series ends when a step changes nothing")]
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_the_same_registers_and_count_within_their_error() {
        let (mut sparse, mut dense) = (Sketch::new(), Sketch::new());
        dense.make_dense().unwrap();
        for number in 0..1_500u32 {
            let element = number.to_string();
            let grew = sparse.add(element.as_bytes(), 3_000).unwrap();
            assert_eq!(dense.add(element.as_bytes(), 3_000).unwrap(), grew);
            assert!(!sparse.add(element.as_bytes(), 3_000).unwrap());
        }
        assert_eq!(sparse.ranks().unwrap(), dense.ranks().unwrap());
        let counted = estimate(&sparse.ranks().unwrap());
        assert!((1_450..1_550).contains(&counted), "{counted}");
        for number in 0..100_000u32 {
            sparse.add(format!("more{number}").as_bytes(), 3_000).unwrap();
        }
        assert!(sparse.is_dense());
        let counted = estimate(&sparse.ranks().unwrap());
        assert!((98_000..105_000).contains(&counted), "{counted}");
    }

    #[test]
    fn what_is_damaged_is_refused() {
        assert_eq!(Sketch::of(b"HYLL".to_vec()).unwrap_err(), Wrong::Kind);
        let mut bytes = Sketch::new().0;
        bytes.pop();
        assert_eq!(Sketch::of(bytes).unwrap().ranks().unwrap_err(), Wrong::Damaged);
        assert_eq!(Sketch::of(vec![0; DENSE_BYTES]).unwrap_err(), Wrong::Kind);
    }
}
