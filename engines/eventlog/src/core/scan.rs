//! What a look over the bytes of a segment accepts.

use super::batch::{self, Flaw, Front};
use super::partition::Index;

/// Goes over a segment from its first byte, piece by piece.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The offset that the next batch must have.
    pub(crate) next: u64,
    /// How many bytes are good.
    pub(crate) position: u64,
    pub(crate) index: Index,
}

/// Why [`Scan::take`] took no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It wants to see at least this many bytes from the good position on.
    More {
        bytes: usize,
    },
    Flaw(Flaw),
}

/// What a segment's place says about damage in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// The one that is appended to: a crash may have torn what was never acknowledged.
    Last,
    /// Synced as a whole before the next one began, at this offset: damage is a fault of the disk.
    Sealed { next: u64 },
}

/// What to do with a segment after the scan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// Cut the file at the good position.
    Cut(Flaw),
    /// Refuse: something acknowledged is lost.
    Corrupt(Flaw),
}

impl Scan {
    pub(crate) fn new(base: u64, index_interval: u64) -> Self {
        Self { next: base, position: 0, index: Index::new(index_interval) }
    }

    /// Takes the good batches at the front of `bytes`, which lie at the good position. Says how many bytes
    /// they are and why it stopped.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, Stop) {
        let mut taken = 0;
        loop {
            let header = match batch::front(&bytes[taken..]) {
                Ok(Front::Batch(header)) => header,
                Ok(Front::Part { bytes }) => return (taken, Stop::More { bytes }),
                Err(flaw) => return (taken, Stop::Flaw(flaw)),
            };
            if header.base_offset != self.next {
                return (taken, Stop::Flaw(Flaw::Offset));
            }
            self.index.note(self.next, self.position);
            self.next = header.next_offset();
            self.position += header.bytes as u64;
            taken += header.bytes;
        }
    }

    /// Judges a segment that ended, or whose good part ended with `flaw`.
    pub(crate) fn verdict(&self, role: Role, flaw: Option<Flaw>) -> Verdict {
        match (role, flaw) {
            (Role::Last, None) => Verdict::Keep,
            (Role::Last, Some(flaw)) => Verdict::Cut(flaw),
            (Role::Sealed { next }, None) if next == self.next => Verdict::Keep,
            (Role::Sealed { .. }, flaw) => Verdict::Corrupt(flaw.unwrap_or(Flaw::Offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::batch::tests::{any_record, batch_of};
    use super::*;

    proptest! {
        #[test]
        fn any_prefix_of_a_segment_gives_a_prefix_of_its_batches(
            groups in proptest::collection::vec(proptest::collection::vec(any_record(), 1..4), 1..6),
            cut: proptest::sample::Index,
        ) {
            let (mut bytes, mut ends, mut next) = (Vec::new(), vec![(0, 9)], 9);
            for records in &groups {
                bytes.extend(batch_of(next, records));
                next += records.len() as u64;
                ends.push((bytes.len(), next));
            }
            let cut = cut.index(bytes.len() + 1);
            let mut scan = Scan::new(9, 1);
            let (taken, stop) = scan.take(&bytes[..cut]);
            let last = *ends.iter().rev().find(|(end, _)| *end <= cut).unwrap();
            prop_assert_eq!((taken, scan.next), last);
            prop_assert_eq!(scan.position, taken as u64);
            let is_more = matches!(stop, Stop::More { .. });
            prop_assert!(is_more);
        }
    }

    #[test]
    fn damage_is_cut_in_the_last_segment_and_refused_in_a_sealed_one() {
        let scan = Scan::new(4, 1);
        assert_eq!(scan.verdict(Role::Last, None), Verdict::Keep);
        assert_eq!(scan.verdict(Role::Last, Some(Flaw::Torn)), Verdict::Cut(Flaw::Torn));
        assert_eq!(scan.verdict(Role::Sealed { next: 4 }, None), Verdict::Keep);
        let missing = scan.verdict(Role::Sealed { next: 5 }, None);
        assert_eq!(missing, Verdict::Corrupt(Flaw::Offset));
        let damaged = scan.verdict(Role::Sealed { next: 4 }, Some(Flaw::Magic));
        assert_eq!(damaged, Verdict::Corrupt(Flaw::Magic));
    }
}
