//! What the log should hold: nothing but maps.

use std::collections::{BTreeMap, BTreeSet};

use crate::groups::Key;
use crate::{Record, Stored};

/// One partition.
#[derive(Default)]
pub(super) struct Lane {
    /// Whatever was tried, by its number.
    pub(super) appends: BTreeMap<u64, Vec<Record>>,
    /// What somebody was told, by an acknowledgement or by a read.
    pub(super) seen: BTreeMap<u64, Record>,
    /// The start that was told last.
    pub(super) start: u64,
    /// The largest offset that somebody wanted to trim to.
    pub(super) trim: u64,
    /// A sealed segment rotted; an error that says so is right.
    pub(super) is_rotten: bool,
}

/// What a group committed.
#[derive(Default)]
pub(super) struct Commits {
    pub(super) acknowledged: Option<u64>,
    /// Tried since then.
    pub(super) tried: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) lanes: BTreeMap<(String, u32), Lane>,
    pub(super) commits: BTreeMap<Key, Commits>,
    /// Whether the topic was said to be there; it may be there otherwise.
    pub(super) topics: BTreeMap<String, bool>,
}

/// Which append a record belongs to, and its place in it.
fn origin(record: &Record) -> Option<(u64, usize)> {
    let key = str::from_utf8(record.key.as_ref()?).ok()?;
    let (append, place) = key.split_once('-')?;
    Some((append.parse().ok()?, place.parse().ok()?))
}

impl Lane {
    pub(super) fn acknowledged(&mut self, first: u64, append: u64) -> Result<(), String> {
        for (offset, record) in (first..).zip(self.appends[&append].clone()) {
            if let Some(other) = self.seen.insert(offset, record) {
                return Err(format!("offset {offset} was given twice, before to {:?}", other.key));
            }
        }
        Ok(())
    }

    /// Compares what a live log reads with what was told.
    pub(super) fn is_as_seen(&self, stored: &[Stored]) -> Result<(), String> {
        for Stored { offset, record } in stored {
            // What lies behind a rotten place was not compared when the log was opened.
            let is_right = match self.seen.get(offset) {
                Some(seen) => seen == record,
                None => self.is_rotten && self.is_appended(record),
            };
            if !is_right {
                return Err(format!("offset {offset} reads as {:?}, which it is not", record.key));
            }
        }
        Ok(())
    }

    fn is_appended(&self, record: &Record) -> bool {
        let found =
            origin(record).and_then(|(append, place)| self.appends.get(&append)?.get(place));
        found == Some(record)
    }

    /// Compares everything that was read after a start, up to the end or to a rotten place, with what was told and tried.
    pub(super) fn survived(
        &mut self,
        start: u64,
        end: u64,
        stored: &[Stored],
    ) -> Result<(), String> {
        if start < self.start {
            return Err(format!("the start went back from {} to {start}", self.start));
        }
        if start > self.start.max(self.trim) {
            return Err(format!("the start is {start} and was {}", self.start));
        }
        let is_whole = start + stored.len() as u64 == end;
        if !is_whole && !self.is_rotten {
            return Err(format!("{} records from {start} to {end}", stored.len()));
        }
        let mut found = BTreeSet::new();
        let mut before = None;
        for (offset, stored) in (start..).zip(stored) {
            if stored.offset != offset {
                return Err(format!("offset {} stands where {offset} should", stored.offset));
            }
            let Some((append, place)) = origin(&stored.record) else {
                return Err(format!("offset {offset} holds what nobody appended"));
            };
            if self.appends.get(&append).and_then(|it| it.get(place)) != Some(&stored.record) {
                return Err(format!("offset {offset} holds a changed record"));
            }
            if !found.insert((append, place)) {
                return Err(format!("record {append}-{place} is there twice"));
            }
            let follows = match before {
                Some((other, last)) if other == append => place == last + 1,
                Some((other, last)) => place == 0 && last + 1 == self.appends[&other].len(),
                None => place == 0 || start > 0,
            };
            if !follows {
                return Err(format!("append {append} is there in part, at offset {offset}"));
            }
            before = Some((append, place));
        }
        let is_cut = before.is_some_and(|(append, last)| last + 1 != self.appends[&append].len());
        if is_cut && is_whole {
            return Err("the last append is there in part".to_owned());
        }
        let read = start + stored.len() as u64;
        if let Some((lost, _)) = self.seen.range(end..).next() {
            return Err(format!("offset {lost} is lost, the end is {end}"));
        }
        for (offset, record) in self.seen.range(start..read) {
            let there = usize::try_from(offset - start).ok().and_then(|i| stored.get(i));
            if there.map(|stored| &stored.record) != Some(record) {
                return Err(format!("offset {offset} held {:?} before", record.key));
            }
        }
        self.start = start;
        self.seen.extend(stored.iter().map(|stored| (stored.offset, stored.record.clone())));
        Ok(())
    }
}

impl Commits {
    /// Compares what a start found with what was told and tried.
    pub(super) fn survived(&mut self, found: Option<u64>) -> Result<(), String> {
        let is_tried = found.is_some_and(|found| self.tried.contains(&found));
        if found != self.acknowledged && !is_tried {
            return Err(format!("it is {found:?}, was {:?}", self.acknowledged));
        }
        *self = Self { acknowledged: found, tried: Vec::new() };
        Ok(())
    }
}
