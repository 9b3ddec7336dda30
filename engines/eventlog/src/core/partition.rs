//! A partition as a row of segments: where the next batch goes, where a fetch begins, what may be deleted.

/// Where batches begin in a segment, one entry for every so many bytes.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    interval: u64,
    /// Offset and position, both rising.
    entries: Vec<(u64, u64)>,
}

impl Index {
    pub(crate) fn new(interval: u64) -> Self {
        Self { interval, entries: Vec::new() }
    }

    /// Hears of every batch in order and keeps few of them.
    pub(crate) fn note(&mut self, offset: u64, position: u64) {
        let is_due = self.entries.last().is_none_or(|(_, last)| position - last >= self.interval);
        if is_due {
            self.entries.push((offset, position));
        }
    }

    /// The position of a batch at or before the one that holds the offset.
    fn floor(&self, offset: u64) -> u64 {
        let after = self.entries.partition_point(|(first, _)| *first <= offset);
        after.checked_sub(1).map_or(0, |i| self.entries[i].1)
    }
}

/// One file: the batches from its base offset on.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    /// How many bytes are on disk for good.
    pub(crate) bytes: u64,
    /// A sealed segment is looked over when it is first read.
    pub(crate) index: Option<Index>,
}

/// Where the next batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The base offset of the last segment.
    pub(crate) segment: u64,
    pub(crate) position: u64,
    pub(crate) next: u64,
}

impl Tail {
    /// Whether a batch of this size begins a new segment. An empty one takes a batch of any size.
    pub(crate) fn rolls(&self, batch_bytes: u64, segment_bytes: u64) -> bool {
        self.position > 0 && self.position + batch_bytes > segment_bytes
    }
}

/// Where a fetch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    /// How many bytes of the segment may be read.
    pub(crate) bytes: u64,
    /// Of a batch at or before the wanted one; unknown until the segment has been looked over.
    pub(crate) position: Option<u64>,
    /// The base offset of the next segment, when there is one.
    pub(crate) sealed_by: Option<u64>,
}

/// The offset is not between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfRange {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Holds what is durable only: it moves after the sync, so readers never see what a crash could take back.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Never empty, in order of their base offsets.
    segments: Vec<Segment>,
    end: u64,
    index_interval: u64,
}

impl Partition {
    pub(crate) fn new(segments: Vec<Segment>, end: u64, index_interval: u64) -> Self {
        debug_assert!(!segments.is_empty(), "a partition has a segment to append to");
        debug_assert!(segments.is_sorted_by(|a, b| a.base < b.base), "segments are in order");
        Self { segments, end, index_interval }
    }

    pub(crate) fn start(&self) -> u64 {
        self.segments[0].base
    }

    /// The offset of the next record.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn tail(&self) -> Tail {
        let last = &self.segments[self.segments.len() - 1];
        Tail { segment: last.base, position: last.bytes, next: self.end }
    }

    /// Takes note of batches (offset, position) that are on disk now, and of the tail behind them.
    pub(crate) fn advance(&mut self, batches: &[(u64, u64)], tail: Tail) {
        let interval = self.index_interval;
        let last = self.segments.last_mut().expect("a partition has a segment");
        debug_assert_eq!(last.base, tail.segment, "only the last segment grows");
        debug_assert!(self.end <= tail.next, "the end never goes back");
        let index = last.index.get_or_insert_with(|| Index::new(interval));
        for (offset, position) in batches {
            index.note(*offset, *position);
        }
        last.bytes = tail.position;
        self.end = tail.next;
    }

    /// Seals the last segment; the next one begins at the end.
    pub(crate) fn roll(&mut self) {
        let index = Some(Index::new(self.index_interval));
        self.segments.push(Segment { base: self.end, bytes: 0, index });
    }

    /// Where to read for this offset; nothing at the end.
    pub(crate) fn locate(&self, offset: u64) -> Result<Option<Place>, OutOfRange> {
        let (start, end) = (self.start(), self.end);
        if offset < start || offset > end {
            return Err(OutOfRange { start, end });
        }
        if offset == end {
            return Ok(None);
        }
        let after = self.segments.partition_point(|segment| segment.base <= offset);
        let segment = &self.segments[after - 1];
        Ok(Some(Place {
            segment: segment.base,
            bytes: segment.bytes,
            position: segment.index.as_ref().map(|index| index.floor(offset)),
            sealed_by: self.segments.get(after).map(|next| next.base),
        }))
    }

    /// Keeps what a look over a sealed segment found.
    pub(crate) fn indexed(&mut self, base: u64, index: Index) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.base == base) {
            segment.index.get_or_insert(index);
        }
    }

    /// Forgets the oldest segment if all its records are before the offset, and gives it. The last one stays.
    pub(crate) fn drop_first(&mut self, before: u64) -> Option<Segment> {
        if self.segments.get(1)?.base > before {
            return None;
        }
        Some(self.segments.remove(0))
    }

    /// Remembers a segment that could not be deleted, or a later one would be and leave a gap behind it.
    pub(crate) fn put_back(&mut self, first: Segment) {
        debug_assert!(first.base < self.start(), "it was the first");
        self.segments.insert(0, first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        let mut partition =
            Partition::new(vec![Segment { base: 10, bytes: 0, index: None }], 10, 100);
        let batches = [(10, 0), (12, 60), (15, 120), (20, 180), (21, 260)];
        partition.advance(&batches, Tail { segment: 10, position: 300, next: 30 });
        partition.roll();
        partition.advance(&[(30, 0)], Tail { segment: 30, position: 50, next: 40 });
        partition
    }

    #[test]
    fn a_fetch_begins_at_the_nearest_index_entry_of_the_right_segment() {
        let partition = partition();
        for (offset, segment, position, sealed_by) in [
            (10, 10, 0, Some(30)),
            (14, 10, 0, Some(30)),
            (15, 10, 120, Some(30)),
            (20, 10, 120, Some(30)),
            (29, 10, 260, Some(30)),
            (30, 30, 0, None),
            (39, 30, 0, None),
        ] {
            let place = partition.locate(offset).unwrap().unwrap();
            assert_eq!((place.segment, place.position), (segment, Some(position)), "{offset}");
            assert_eq!(place.sealed_by, sealed_by, "{offset}");
        }
        assert_eq!(partition.locate(40), Ok(None));
        assert_eq!(partition.locate(41), Err(OutOfRange { start: 10, end: 40 }));
        assert_eq!(partition.locate(9), Err(OutOfRange { start: 10, end: 40 }));
    }

    #[test]
    fn only_whole_sealed_segments_are_dropped() {
        let mut partition = partition();
        assert!(partition.drop_first(29).is_none());
        let first = partition.drop_first(30).unwrap();
        assert_eq!((first.base, partition.start()), (10, 30));
        partition.put_back(first);
        assert_eq!(partition.start(), 10);
        partition.drop_first(30).unwrap();
        assert!(partition.drop_first(40).is_none(), "the last segment stays");
        assert_eq!((partition.start(), partition.end()), (30, 40));
    }

    #[test]
    fn a_full_segment_rolls_and_an_empty_one_never_does() {
        let tail = Tail { segment: 0, position: 90, next: 5 };
        assert!(!tail.rolls(10, 100));
        assert!(tail.rolls(11, 100));
        assert!(!Tail { position: 0, ..tail }.rolls(500, 100));
    }
}
