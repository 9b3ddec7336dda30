//! Many readings as a pipeline keeps them: numbers beside each other, and every name once. It borrows nothing, so it can be
//! made on one thread and used on another.

use std::borrow::Cow;
use std::collections::HashMap;

use base::Timestamp;

use super::canonical::Cursor;
use super::{Reading, Refusal, VALUE_COUNT_HARD_MAX};

/// Beyond so many lists of names, and beginnings of them, no further reading is taken in.
const SHAPES_MAX: usize = 65_536;
/// A sheaf takes memory for at most as many readings at once.
const ROOM_MAX: usize = 16_384;
/// Values of a usual reading.
const VALUES: usize = 8;
/// What stands behind the name of a value.
const BEHIND: &str = "\":";

#[derive(Debug, Default)]
pub(crate) struct Sheaf {
    pub items: Vec<Item>,
    pub lanes: Vec<Lane>,
    pub shapes: Shapes,
    values: Vec<f64>,
    /// By device, a control character, which no name has, and sensor.
    places: HashMap<Box<str>, u32>,
    /// The last record up to its time, when its form was the usual one, and its lane.
    beginning: (Vec<u8>, u32),
    /// To look for lanes.
    key: String,
}

/// A reading with its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub offset: u64,
    pub received: Option<Timestamp>,
    pub time: Timestamp,
    pub lane: u32,
    pub shape: u32,
    first: usize,
}

/// The device and the sensor that readings have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub device: Box<str>,
    pub sensor: Box<str>,
}

/// The lists of names that readings have, as a tree: a name is a branch of the list before it, so that what was said of a
/// list is said once.
#[derive(Debug)]
pub(crate) struct Shapes(Vec<Shape>);

#[derive(Debug, Default)]
struct Shape {
    /// All but the last name.
    before: u32,
    length: usize,
    /// The last name as it is written, with what stands behind it.
    written: Box<str>,
    /// The same to be compared at once, where it is short enough.
    head: Option<Head>,
    /// It was met in the usual form, so it is written as it is.
    is_plain: bool,
    /// The branch that was taken last; 0 for none.
    likely: u32,
    branches: HashMap<Box<str>, u32>,
}

/// The beginning of a text, as a number; the mask leaves out what is behind it.
#[derive(Debug, Clone, Copy)]
struct Head {
    text: u128,
    mask: u128,
}

impl Head {
    const BYTES: usize = size_of::<u128>();

    fn of(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let behind = u32::try_from((Self::BYTES - text.len()) * 8).ok()?;
        let mask = u128::MAX.checked_shr(behind)?;
        Some(Self { text: u128::from_le_bytes(bytes), mask })
    }

    fn begins(self, text: &[u8; Self::BYTES]) -> bool {
        u128::from_le_bytes(*text) & self.mask == self.text
    }
}

impl Default for Shapes {
    fn default() -> Self {
        Self(vec![Shape::default()])
    }
}

impl Shapes {
    /// No names.
    const ROOT: u32 = 0;

    fn at(&self, shape: u32) -> &Shape {
        &self.0[shape as usize]
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many values a reading of this shape has.
    pub(crate) fn length(&self, shape: u32) -> usize {
        self.at(shape).length
    }

    /// The names, the last one first.
    fn backwards(&self, mut shape: u32) -> impl Iterator<Item = &str> {
        std::iter::from_fn(move || {
            let Shape { before, length, written, .. } = self.at(shape);
            shape = *before;
            (*length > 0).then(|| &written[..written.len() - BEHIND.len()])
        })
    }

    pub(crate) fn names(&self, shape: u32) -> Vec<&str> {
        let mut names: Vec<&str> = self.backwards(shape).collect();
        names.reverse();
        names
    }

    /// The branch that was taken last, when the text goes on like it, and how long its name is there.
    fn likely(&self, shape: u32, text: &[u8]) -> Option<(u32, usize)> {
        let likely = self.at(shape).likely;
        let Shape { written, head, is_plain, .. } = self.at(likely);
        let begins = match (head, text.first_chunk()) {
            (Some(head), Some(text)) => head.begins(text),
            _ => text.starts_with(written.as_bytes()),
        };
        (*is_plain && begins).then_some((likely, written.len()))
    }

    /// The list with one more name; none when it would be there twice, or be too long.
    fn branch(&mut self, shape: u32, name: &str, is_plain: bool) -> Option<u32> {
        let known = self.at(shape).branches.get(name).copied();
        let branch = if let Some(known) = known {
            known
        } else {
            let length = self.length(shape) + 1;
            if length > VALUE_COUNT_HARD_MAX || self.backwards(shape).any(|known| known == name) {
                return None;
            }
            let next = u32::try_from(self.0.len()).ok()?;
            let written: Box<str> = format!("{name}{BEHIND}").into();
            let head = Head::of(&written);
            self.0.push(Shape { before: shape, length, written, head, ..Shape::default() });
            self.0[shape as usize].branches.insert(name.into(), next);
            next
        };
        self.0[branch as usize].is_plain |= is_plain;
        self.0[shape as usize].likely = branch;
        Some(branch)
    }
}

impl Sheaf {
    /// With memory for so many readings.
    pub(crate) fn with_room(readings: usize) -> Self {
        let room = readings.min(ROOM_MAX);
        let (items, values) = (Vec::with_capacity(room), Vec::with_capacity(room * VALUES));
        Self { items, values, ..Self::default() }
    }

    /// It is to be used before more is taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.shapes.count() >= SHAPES_MAX
    }

    /// Takes in what the log keeps at an offset: the same as [`Reading::recorded`] would read.
    pub(crate) fn push(
        &mut self,
        value: &[u8],
        offset: u64,
        received: Option<Timestamp>,
    ) -> Result<(), Refusal> {
        let first = self.values.len();
        let (lane, time, shape) = if let Some(read) = self.canonical(value) {
            read
        } else {
            self.values.truncate(first);
            self.parsed(value)?
        };
        self.items.push(Item { offset, received, time, lane, shape, first });
        Ok(())
    }

    /// Takes the last reading out again.
    pub(crate) fn pop(&mut self) {
        if let Some(item) = self.items.pop() {
            self.values.truncate(item.first);
        }
    }

    fn canonical(&mut self, value: &[u8]) -> Option<(u32, Timestamp, u32)> {
        let mut from = Cursor { text: value, at: 0 };
        let (beginning, known) = &self.beginning;
        let lane = if !beginning.is_empty() && value.starts_with(beginning) {
            from.at = beginning.len();
            *known
        } else {
            from.skip(r#"{"device":""#)?;
            let device = from.name()?;
            from.skip(r#","sensor":""#)?;
            let sensor = from.name()?;
            from.skip(r#","time":""#)?;
            let lane = self.lane(device, sensor);
            self.beginning.0.clear();
            self.beginning.0.extend_from_slice(&value[..from.at]);
            self.beginning.1 = lane;
            lane
        };
        let time = from.time()?;
        from.skip(r#","values":{""#)?;
        let mut shape = Shapes::ROOT;
        loop {
            shape = if let Some((branch, length)) = self.shapes.likely(shape, from.rest()) {
                from.at += length;
                branch
            } else {
                let name = from.name()?;
                from.skip(":")?;
                self.shapes.branch(shape, name, true)?
            };
            self.values.push(from.number()?);
            if from.skip(r#",""#).is_none() {
                break;
            }
        }
        from.skip("}}")?;
        (from.at == value.len()).then_some((lane, time, shape))
    }

    fn parsed(&mut self, value: &[u8]) -> Result<(u32, Timestamp, u32), Refusal> {
        let reading = Reading::parsed(value)?;
        let mut shape = Shapes::ROOT;
        for (name, _) in &reading.values {
            let branch = self.shapes.branch(shape, name, false);
            shape = branch.expect("a reading has no name twice, and no more than it may have");
        }
        self.values.extend(reading.values.iter().map(|(_, value)| *value));
        Ok((self.lane(&reading.device, &reading.sensor), reading.time, shape))
    }

    fn lane(&mut self, device: &str, sensor: &str) -> u32 {
        self.key.clear();
        self.key.extend([device, "\0", sensor]);
        if let Some(known) = self.places.get(self.key.as_str()) {
            return *known;
        }
        let lane = u32::try_from(self.lanes.len()).expect("a batch has a limited number of lanes");
        self.lanes.push(Lane { device: device.into(), sensor: sensor.into() });
        self.places.insert(self.key.as_str().into(), lane);
        lane
    }

    /// Takes in all of another sheaf behind its own.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.items.is_empty() && self.lanes.is_empty() {
            self.items.reserve_exact(other.items.len());
        }
        let lanes: Vec<u32> =
            other.lanes.iter().map(|lane| self.lane(&lane.device, &lane.sensor)).collect();
        let mut shapes = Vec::with_capacity(other.shapes.count());
        shapes.push(Shapes::ROOT);
        for Shape { before, written, is_plain, .. } in &other.shapes.0[1..] {
            let name = &written[..written.len() - BEHIND.len()];
            let branch = self.shapes.branch(shapes[*before as usize], name, *is_plain);
            shapes.push(branch.expect("the list was sound before"));
        }
        let first = self.values.len();
        self.values.extend_from_slice(&other.values);
        self.items.extend(other.items.iter().map(|item| Item {
            lane: lanes[item.lane as usize],
            shape: shapes[item.shape as usize],
            first: first + item.first,
            ..*item
        }));
    }

    pub(crate) fn lane_of(&self, item: &Item) -> &Lane {
        &self.lanes[item.lane as usize]
    }

    pub(crate) fn values(&self, item: &Item) -> &[f64] {
        &self.values[item.first..item.first + self.shapes.length(item.shape)]
    }

    /// The value of this name, if the reading has it.
    pub(crate) fn value(&self, item: &Item, wanted: &str) -> Option<f64> {
        let values = self.values(item).iter().rev();
        let mut named = self.shapes.backwards(item.shape).zip(values);
        named.find(|(name, _)| *name == wanted).map(|(_, value)| *value)
    }

    /// The reading by itself.
    pub(crate) fn reading(&self, item: &Item) -> Reading<'_> {
        let Lane { device, sensor } = self.lane_of(item);
        let names = self.shapes.names(item.shape).into_iter().map(Cow::Borrowed);
        Reading {
            device: Cow::Borrowed(device),
            sensor: Cow::Borrowed(sensor),
            time: item.time,
            values: names.zip(self.values(item).iter().copied()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a sheaf makes of records, and what the parser of any JSON makes of them.
    #[track_caller]
    fn agrees(records: &[Vec<u8>]) {
        let (mut sheaf, mut joined) = (Sheaf::with_room(1), Sheaf::default());
        let mut expected = Vec::new();
        for (offset, record) in (0..).zip(records) {
            let found = sheaf.push(record, offset, None);
            match Reading::parsed(record) {
                Ok(reading) => {
                    assert_eq!(found, Ok(()));
                    expected.push((offset, reading));
                }
                Err(refusal) => assert_eq!(found, Err(refusal)),
            }
        }
        let same = |sheaf: &Sheaf| {
            assert_eq!(sheaf.items.len(), expected.len());
            for (item, (offset, expected)) in sheaf.items.iter().zip(&expected) {
                let found = sheaf.reading(item);
                assert_eq!((item.offset, &found), (*offset, expected));
                for (name, value) in &expected.values {
                    let found = sheaf.value(item, name).map(f64::to_bits);
                    assert_eq!(found, Some(value.to_bits()), "{name}");
                }
                assert_eq!(sheaf.value(item, "no such name"), None);
            }
        };
        same(&sheaf);
        let half = records.len() / 2;
        for (from, part) in [(0, &records[..half]), (half as u64, &records[half..])] {
            let mut piece = Sheaf::with_room(1);
            for (offset, record) in (from..).zip(part) {
                let _ = piece.push(record, offset, None);
            }
            joined.join(&piece);
        }
        same(&joined);
    }

    fn record(device: &str, values: &str) -> Vec<u8> {
        format!(
            r#"{{"device":"{device}","sensor":"weather","time":"2013-01-01T11:00:00Z","values":{{{values}}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn readings_of_many_shapes_are_those_that_were_written() {
        agrees(&[
            record("EWR", r#""temp":1.0,"humid":2.0"#),
            record("EWR", r#""temp":3.5,"humid":-0.0"#),
            record("JFK", r#""temp":3.5"#),
            record("JFK", r#""humid":3.5,"temp":2"#),
            record("JFK", r#""temp":3.5,"temp":2"#),
            record("JFK", r#""temp":3.5,"humid":2,"temp":4"#),
            record("EWR", r#""temperature":1.0,"temp":2.0"#),
            record("EWR", r#""temp":null,"humid":7"#),
            record("EWR", r#""temp":null"#),
            record("EWR", ""),
            record("EWR", r#""a/b":1"#),
            record("EWR", r#" "temp":1"#),
            record("EWR", r#""temp":1e5,"humid":2.0"#),
            record("EWR", r#""temp":1.0,"humid":2.0 "#),
            record("EWR", r#""temp":1.0,"humid":2.0}"#),
            b"{\"device\":\"EWR\"".to_vec(),
        ]);
    }

    #[test]
    fn a_name_that_has_to_be_escaped_is_met_only_where_it_is() {
        let escaped = record("EWR", r#""a\"b":1.0"#);
        let bare = record("EWR", r#""a"b":1.0"#);
        agrees(&[escaped.clone(), bare.clone(), escaped.clone(), bare]);
        // Met in an unusual record first, and in the usual form later.
        let (unusual, usual) =
            (record("EWR", r#""temp":1e1,"humid":2"#), record("EWR", r#""temp":1,"humid":2"#));
        agrees(&[unusual.clone(), usual.clone(), usual, unusual, escaped]);
    }

    #[test]
    fn a_reading_that_is_taken_out_leaves_the_others() {
        let mut sheaf = Sheaf::with_room(1);
        for (offset, device) in (0..).zip(["EWR", "JFK", "EWR"]) {
            sheaf.push(&record(device, r#""temp":1.0,"humid":2.0"#), offset, None).unwrap();
            if device == "JFK" {
                sheaf.pop();
            }
        }
        let devices: Vec<&str> =
            sheaf.items.iter().map(|item| &*sheaf.lane_of(item).device).collect();
        assert_eq!(devices, ["EWR", "EWR"]);
        assert_eq!(sheaf.values(&sheaf.items[1]), [1.0, 2.0]);
    }

    #[test]
    fn names_without_end_fill_a_sheaf() {
        let mut sheaf = Sheaf::with_room(1);
        let mut count = 0;
        while !sheaf.is_full() {
            let values: Vec<String> =
                (0..100).map(|place| format!(r#""{count}x{place}":1"#)).collect();
            sheaf.push(&record("EWR", &values.join(",")), count, None).unwrap();
            count += 1;
        }
        assert_eq!(count, 656);
    }

    proptest! {
        #[test]
        fn both_parsers_say_the_same(
            readings in proptest::collection::vec(
                (
                    "[ab가.\"]{1,2}",
                    "[ab]{1,2}",
                    0_i64..4_000_000_000_000_000,
                    proptest::collection::vec(("[abc\"]{1,2}", any::<f64>()), 1..6),
                ),
                1..12,
            ),
            broken in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut records: Vec<Vec<u8>> = readings
                .into_iter()
                .map(|(device, sensor, micros, values)| {
                    let values = values.into_iter().filter(|(_, value)| value.is_finite());
                    Reading {
                        device: Cow::Owned(device),
                        sensor: Cow::Owned(sensor),
                        time: Timestamp::from_micros(micros),
                        values: values.map(|(name, value)| (Cow::Owned(name), value)).collect(),
                    }
                    .to_json()
                })
                .collect();
            agrees(&records);
            let place = broken.index(records.len());
            let record = &mut records[place];
            let at = at.index(record.len());
            record[at] = byte;
            agrees(&records);
            records[place].truncate(at);
            agrees(&records);
        }
    }
}
