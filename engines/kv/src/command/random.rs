//! Elements by chance.

use crate::wire::reply::Fault;

/// How many elements, and whether one may come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    One,
    Different(usize),
    Any(usize),
}

/// What a count asks for: a negative one allows repeats.
pub(crate) fn wanted(count: Option<i64>) -> Result<Wanted, Fault> {
    match count {
        None => Ok(Wanted::One),
        Some(count) if count >= 0 => Ok(Wanted::Different(count as usize)),
        Some(count) if count < -(i64::MAX / 2) => Err("ERR value is out of range".into()),
        Some(count) => Ok(Wanted::Any(count.unsigned_abs() as usize)),
    }
}

/// Places below `length`.
pub(crate) fn picks(length: usize, wanted: Wanted, seed: u64) -> Vec<usize> {
    let mut random = Random(seed);
    match wanted {
        _ if length == 0 => Vec::new(),
        Wanted::One => vec![random.below(length)],
        Wanted::Any(count) => (0..count).map(|_| random.below(length)).collect(),
        Wanted::Different(count) if count >= length => (0..length).collect(),
        Wanted::Different(count) if count * 3 > length => {
            let mut all: Vec<usize> = (0..length).collect();
            for at in 0..count {
                let other = at + random.below(length - at);
                all.swap(at, other);
            }
            all.truncate(count);
            all
        }
        Wanted::Different(count) => {
            let mut chosen = indexmap::IndexSet::with_capacity(count);
            while chosen.len() < count {
                chosen.insert(random.below(length));
            }
            chosen.into_iter().collect()
        }
    }
}

/// SplitMix64 from a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, length: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * length as u128) >> 64) as usize
    }
}
