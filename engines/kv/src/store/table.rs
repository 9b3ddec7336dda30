//! The index of one database: extendible hashing over segments of at most 1,024 slots. It grows by splitting one
//! segment, so no insert waits for more than that; and everything in it can be walked in the order of hashes, which
//! makes SCAN's cursors and the snapshot's progress independent of splits, inserts and deletes.

use super::arena::{REF_BITS, Ref};
use super::keyhash::BITS;

/// A place in the table; good until the next insert or removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    segment: u32,
    slot: u32,
}

const SLOTS_MIN: usize = 8;
const SLOTS_MAX: usize = 1024;
/// Beyond, segments grow: a split would use up the bits that choose a slot's home.
const DEPTH_MAX: u32 = 20;
const REF_MASK: u64 = (1 << REF_BITS) - 1;
/// One more than the largest hash.
pub(crate) const HASHES: u32 = 1 << BITS;

#[derive(Debug)]
pub(crate) struct Table {
    depth: u32,
    /// The segment of each beginning of a hash.
    directory: Vec<u32>,
    segments: Vec<Segment>,
    len: usize,
    expiring: usize,
    slot_bytes: usize,
}

#[derive(Debug)]
struct Segment {
    depth: u32,
    len: usize,
    /// Hash and reference; 0 is empty.
    slots: Vec<u64>,
    /// When the entry of each slot expires, as [`Due`]; empty while none does.
    due: Vec<Due>,
    /// No entry expires before.
    due_min: Due,
}

/// A coarse moment for finding what expired; the entry has the exact one. 0 is never.
pub(crate) type Due = u32;

impl Default for Table {
    fn default() -> Self {
        let first = Segment::new(0, SLOTS_MIN);
        let slot_bytes = first.bytes();
        Self {
            depth: 0,
            directory: vec![0],
            segments: vec![first],
            len: 0,
            expiring: 0,
            slot_bytes,
        }
    }
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Entries that expire.
    pub(crate) fn expiring(&self) -> usize {
        self.expiring
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slot_bytes
            + self.directory.capacity() * 4
            + self.segments.capacity() * size_of::<Segment>()
    }

    /// The place of the entry with this hash for which `is_it` says yes.
    #[inline]
    pub(crate) fn find(
        &self,
        hash: u32,
        mut is_it: impl FnMut(Ref) -> bool,
    ) -> Option<(Place, Ref)> {
        let number = self.directory[self.index(hash)];
        let segment = &self.segments[number as usize];
        let mask = segment.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = segment.slots[at];
            if slot == 0 {
                return None;
            }
            if slot >> REF_BITS == u64::from(hash) && is_it(Ref(slot & REF_MASK)) {
                let place = Place { segment: number, slot: at as u32 };
                return Some((place, Ref(slot & REF_MASK)));
            }
            at = (at + 1) & mask;
        }
    }

    /// Brings the slot's line near, so that many are on their way at once.
    #[inline]
    pub(crate) fn touch(&self, hash: u32) -> u64 {
        let segment = &self.segments[self.directory[self.index(hash)] as usize];
        segment.slots[hash as usize & (segment.slots.len() - 1)]
    }

    /// Some entry with this hash.
    #[inline]
    pub(crate) fn likely(&self, hash: u32) -> Option<Ref> {
        self.find(hash, |_| true).map(|(_, entry)| entry)
    }

    /// Adds an entry that is not there.
    pub(crate) fn insert(&mut self, hash: u32, entry: Ref) -> Place {
        loop {
            let index = self.index(hash);
            let number = self.directory[index] as usize;
            let segment = &mut self.segments[number];
            if segment.has_room() {
                self.len += 1;
                return Place {
                    segment: number as u32,
                    slot: segment.insert(hash, entry, 0) as u32,
                };
            }
            if segment.slots.len() < SLOTS_MAX || segment.depth >= DEPTH_MAX {
                let before = segment.bytes();
                segment.grow();
                self.slot_bytes = self.slot_bytes + segment.bytes() - before;
            } else {
                self.split(number);
            }
        }
    }

    /// Lets the entry at a place have another block.
    pub(crate) fn replace(&mut self, place: Place, entry: Ref) {
        let slot = &mut self.segments[place.segment as usize].slots[place.slot as usize];
        *slot = *slot & !REF_MASK | entry.0;
    }

    pub(crate) fn set_due(&mut self, place: Place, due: Due) {
        let segment = &mut self.segments[place.segment as usize];
        if segment.due.is_empty() {
            if due == 0 {
                return;
            }
            segment.due = vec![0; segment.slots.len()];
            self.slot_bytes += segment.slots.len() * size_of::<Due>();
        }
        let slot = &mut segment.due[place.slot as usize];
        self.expiring = self.expiring + usize::from(due != 0) - usize::from(*slot != 0);
        *slot = due;
        if due != 0 {
            segment.due_min = segment.due_min.min(due);
        }
    }

    pub(crate) fn remove(&mut self, place: Place) {
        let segment = &mut self.segments[place.segment as usize];
        self.len -= 1;
        self.expiring -=
            usize::from(segment.due.get(place.slot as usize).is_some_and(|due| *due != 0));
        segment.remove(place.slot as usize);
    }

    /// Calls `visit` with hash and entry of at least `count` entries from `from` on in the order of hashes, if there
    /// are so many, and gives the hash to go on from; [`HASHES`] at the end.
    pub(crate) fn walk(&self, from: u32, count: usize, mut visit: impl FnMut(u32, Ref)) -> u32 {
        let mut from = from;
        let mut visited = 0;
        let mut found: Vec<u64> = Vec::new();
        while from < HASHES && visited < count {
            let segment = &self.segments[self.directory[self.index(from)] as usize];
            found.clear();
            let least = u64::from(from) << REF_BITS;
            found.extend(segment.slots.iter().filter(|slot| **slot != 0 && **slot >= least));
            let wanted = count - visited;
            let is_part = found.len() > wanted;
            if is_part {
                found.select_nth_unstable(wanted - 1);
                let last = found[wanted - 1] >> REF_BITS;
                // Entries with equal hashes come together.
                found.retain(|slot| slot >> REF_BITS <= last);
                from = last as u32 + 1;
            } else {
                let width = BITS - segment.depth;
                from = ((from >> width) + 1) << width;
            }
            found.sort_unstable();
            visited += found.len();
            for slot in &found {
                visit((slot >> REF_BITS) as u32, Ref(slot & REF_MASK));
            }
        }
        from
    }

    /// Some entry; every one is about as likely as any other.
    pub(crate) fn random(&self, mut chance: impl FnMut() -> u64) -> Option<(u32, Ref)> {
        if self.len == 0 {
            return None;
        }
        let picked = |slot: u64| ((slot >> REF_BITS) as u32, Ref(slot & REF_MASK));
        for _ in 0..1_000 {
            let number = chance();
            let index = (number >> 32) as usize % self.directory.len();
            let segment = &self.segments[self.directory[index] as usize];
            let slot = segment.slots[number as usize & (segment.slots.len() - 1)];
            if slot != 0 {
                return Some(picked(slot));
            }
        }
        let all = self.segments.iter().flat_map(|segment| &segment.slots);
        all.copied().find(|slot| *slot != 0).map(picked)
    }

    /// Finds up to `count` entries that are due, from segment `from` on, looking at no more than `segments_max`
    /// segments; gives where to go on.
    pub(crate) fn due(
        &self,
        now: Due,
        (from, segments_max): (usize, usize),
        count: usize,
        found: &mut Vec<(u32, Ref)>,
    ) -> usize {
        let mut number = from;
        for _ in 0..segments_max {
            if number >= self.segments.len() {
                return 0;
            }
            let segment = &self.segments[number];
            if segment.due_min <= now && !segment.due.is_empty() {
                for (due, slot) in segment.due.iter().zip(&segment.slots) {
                    if *due != 0 && *due <= now {
                        found.push(((slot >> REF_BITS) as u32, Ref(slot & REF_MASK)));
                    }
                }
                // The rest of a segment is less than what was asked for too much.
                if found.len() >= count {
                    return number;
                }
            }
            number += 1;
        }
        number
    }

    /// After the due entries of a segment are gone: when the next one is.
    pub(crate) fn settle(&mut self, hash: u32) {
        let index = self.index(hash);
        let segment = &mut self.segments[self.directory[index] as usize];
        segment.due_min =
            segment.due.iter().copied().filter(|due| *due != 0).min().unwrap_or(Due::MAX);
        if segment.due_min == Due::MAX && !segment.due.contains(&Due::MAX) {
            self.slot_bytes -= segment.due.len() * size_of::<Due>();
            segment.due = Vec::new();
        }
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    #[inline]
    fn index(&self, hash: u32) -> usize {
        (u64::from(hash) >> (BITS - self.depth)) as usize
    }

    fn split(&mut self, number: usize) {
        let depth = self.segments[number].depth;
        if depth == self.depth {
            self.directory =
                self.directory.iter().flat_map(|&segment| [segment, segment]).collect();
            self.depth += 1;
        }
        let old = std::mem::replace(&mut self.segments[number], Segment::new(depth + 1, SLOTS_MAX));
        let mut upper = Segment::new(depth + 1, SLOTS_MAX);
        for (at, &slot) in old.slots.iter().enumerate().filter(|(_, slot)| **slot != 0) {
            let hash = (slot >> REF_BITS) as u32;
            let due = old.due.get(at).copied().unwrap_or(0);
            let is_upper = hash >> (BITS - depth - 1) & 1 == 1;
            let target = if is_upper { &mut upper } else { &mut self.segments[number] };
            target.insert(hash, Ref(slot & REF_MASK), due);
        }
        self.slot_bytes += upper.bytes() + self.segments[number].bytes();
        self.slot_bytes -= old.bytes();
        let added = self.segments.len() as u32;
        self.segments.push(upper);
        let bit = self.depth - depth - 1;
        for (index, segment) in self.directory.iter_mut().enumerate() {
            if *segment == number as u32 && index >> bit & 1 == 1 {
                *segment = added;
            }
        }
    }
}

impl Segment {
    fn new(depth: u32, slots: usize) -> Self {
        Self { depth, len: 0, slots: vec![0; slots], due: Vec::new(), due_min: Due::MAX }
    }

    fn bytes(&self) -> usize {
        self.slots.len() * size_of::<u64>() + self.due.len() * size_of::<Due>()
    }

    fn has_room(&self) -> bool {
        self.len < self.slots.len() * 4 / 5
    }

    fn insert(&mut self, hash: u32, entry: Ref, due: Due) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = u64::from(hash) << REF_BITS | entry.0;
        self.len += 1;
        if due != 0 && self.due.is_empty() {
            self.due = vec![0; self.slots.len()];
        }
        if !self.due.is_empty() {
            self.due[at] = due;
        }
        if due != 0 {
            self.due_min = self.due_min.min(due);
        }
        at
    }

    /// Empties a slot and moves later entries of its run back, so that each is found from its home on.
    fn remove(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut at = hole;
        self.len -= 1;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            let home = (slot >> REF_BITS) as usize & mask;
            // The entry may move when its home is not between the hole and itself.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                if !self.due.is_empty() {
                    self.due[hole] = self.due[at];
                }
                hole = at;
            }
        }
        self.slots[hole] = 0;
        if !self.due.is_empty() {
            self.due[hole] = 0;
        }
    }

    fn grow(&mut self) {
        let mut larger = Self::new(self.depth, self.slots.len() * 2);
        for (at, &slot) in self.slots.iter().enumerate().filter(|(_, slot)| **slot != 0) {
            let due = self.due.get(at).copied().unwrap_or(0);
            larger.insert((slot >> REF_BITS) as u32, Ref(slot & REF_MASK), due);
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A hash for a number, and back: the entry's name is the number.
    fn hash(number: u64) -> u32 {
        (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BITS)) as u32
    }

    fn find(table: &Table, number: u64) -> Option<Place> {
        table.find(hash(number), |entry| entry.0 == number).map(|(place, _)| place)
    }

    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out() {
        let mut table = Table::default();
        let mut model: HashMap<u64, u32> = HashMap::new();
        let mut random = 3u64;
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = 1 + (random >> 40) % 30_000;
            match (find(&table, number), random % 5) {
                (Some(place), 0 | 1) => {
                    table.remove(place);
                    model.remove(&number);
                }
                (Some(place), due) => {
                    table.set_due(place, due as u32 - 2);
                    model.insert(number, due as u32 - 2);
                }
                (None, _) => {
                    table.insert(hash(number), Ref(number));
                    assert_eq!(model.insert(number, 0), None);
                }
            }
            assert_eq!(table.len(), model.len());
        }
        assert_eq!(table.expiring(), model.values().filter(|due| **due != 0).count());
        for number in 1..=30_000 {
            assert_eq!(find(&table, number).is_some(), model.contains_key(&number), "{number}");
        }
        let mut due = Vec::new();
        let mut from = 0;
        loop {
            from = table.due(1, (from, 1), usize::MAX, &mut due);
            if from == 0 {
                break;
            }
        }
        let mut due: Vec<u64> = due.into_iter().map(|(_, entry)| entry.0).collect();
        due.sort_unstable();
        let mut expected: Vec<u64> =
            model.iter().filter(|(_, due)| **due == 1).map(|(number, _)| *number).collect();
        expected.sort_unstable();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_walk_misses_nothing_while_the_table_grows_and_shrinks() {
        let mut table = Table::default();
        for number in 1..=5_000 {
            table.insert(hash(number), Ref(number));
        }
        let mut seen = std::collections::HashSet::new();
        let (mut from, mut added) = (0, 1_000_000);
        while from < HASHES {
            from = table.walk(from, 10, |_, entry| {
                assert!(seen.insert(entry.0), "{} came twice", entry.0);
            });
            for _ in 0..20 {
                added += 1;
                table.insert(hash(added), Ref(added));
            }
            if let Some(place) = find(&table, added - 100) {
                table.remove(place);
            }
        }
        assert!((1..=5_000).all(|number| seen.contains(&number)));
    }

    #[test]
    fn equal_hashes_come_together_in_a_walk() {
        let mut table = Table::default();
        for number in 1..=40 {
            table.insert(7, Ref(number));
        }
        let mut seen = 0;
        assert_eq!(table.walk(0, 1, |_, _| seen += 1), 8);
        assert_eq!(seen, 40);
    }
}
