use std::collections::{BTreeSet, HashMap};

use indexmap::IndexMap;

/// Up to so many fields keep the order in which they came, as in Redis.
const ORDERED_MAX: usize = 128;
/// What a field costs beside its bytes: its place in the map and two allocations.
const FIELD_BYTES: usize = 80;

/// What a field with a deadline costs beside its name, which is held twice more.
const DEADLINE_BYTES: usize = 120;

/// When fields expire, in milliseconds since 1970.
#[derive(Debug, Clone, Default)]
struct Deadlines {
    of_fields: HashMap<Box<[u8]>, i64>,
    in_order: BTreeSet<(i64, Box<[u8]>)>,
    name_bytes: usize,
}

impl Deadlines {
    fn remove(&mut self, field: &[u8]) -> bool {
        let Some((field, at)) = self.of_fields.remove_entry(field) else { return false };
        self.name_bytes -= field.len();
        self.in_order.remove(&(at, field))
    }

    fn set(&mut self, field: &[u8], at: i64) {
        self.remove(field);
        self.name_bytes += field.len();
        self.of_fields.insert(field.into(), at);
        self.in_order.insert((at, field.into()));
    }
}

/// Fields with values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hash {
    fields: IndexMap<Box<[u8]>, Box<[u8]>>,
    content_bytes: usize,
    longest: usize,
    is_wide: bool,
    deadlines: Option<Box<Deadlines>>,
}

impl Hash {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(crate) fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.fields.get(field).map(|value| &**value)
    }

    /// Whether the field is new. One that was there expires no more.
    pub(crate) fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.persist(field);
        self.change(field, value)
    }

    /// As [`Hash::set`], and the field expires as before.
    pub(crate) fn change(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.longest = self.longest.max(field.len()).max(value.len());
        if let Some(old) = self.fields.get_mut(field) {
            self.content_bytes = self.content_bytes + value.len() - old.len();
            if old.len() == value.len() {
                old.copy_from_slice(value);
            } else {
                *old = value.into();
            }
            return false;
        }
        self.content_bytes += field.len() + value.len();
        self.fields.insert(field.into(), value.into());
        self.is_wide |= self.fields.len() > ORDERED_MAX;
        true
    }

    pub(crate) fn remove(&mut self, field: &[u8]) -> bool {
        let removed = if self.is_wide {
            self.fields.swap_remove_entry(field)
        } else {
            self.fields.shift_remove_entry(field)
        };
        let Some((field, value)) = removed else { return false };
        self.persist(&field);
        self.content_bytes -= field.len() + value.len();
        true
    }

    /// When a field expires.
    pub(crate) fn deadline(&self, field: &[u8]) -> Option<i64> {
        self.deadlines.as_ref()?.of_fields.get(field).copied()
    }

    /// When the first field expires.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<i64> {
        self.deadlines.as_ref()?.in_order.first().map(|(at, _)| *at)
    }

    /// Lets a field that is there expire.
    pub(crate) fn set_deadline(&mut self, field: &[u8], at: i64) {
        if self.fields.contains_key(field) {
            self.deadlines.get_or_insert_default().set(field, at);
        }
    }

    /// Lets a field stay; says whether it would have expired.
    pub(crate) fn persist(&mut self, field: &[u8]) -> bool {
        let Some(deadlines) = &mut self.deadlines else { return false };
        let removed = deadlines.remove(field);
        if deadlines.of_fields.is_empty() {
            self.deadlines = None;
        }
        removed
    }

    /// Fields with the moments at which they expire, the first first.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = (i64, &[u8])> {
        let all = self.deadlines.iter().flat_map(|deadlines| deadlines.in_order.iter());
        all.map(|(at, field)| (*at, &**field))
    }

    /// Removes so many of the fields whose time has come, and gives their names.
    pub(crate) fn take_due(&mut self, now: i64, most: usize) -> Vec<Box<[u8]>> {
        let due = self.deadlines().take_while(|(at, _)| *at <= now).take(most);
        let due: Vec<Box<[u8]>> = due.map(|(_, field)| field.into()).collect();
        for field in &due {
            self.remove(field);
        }
        due
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(field, value)| (&**field, &**value))
    }

    pub(crate) fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.fields.get_index(index).map(|(field, value)| (&**field, &**value))
    }

    /// Whether Redis would hold it in a list pack.
    pub(crate) fn is_packed(&self, (entries, bytes): (usize, usize)) -> bool {
        !self.is_wide && self.len() <= entries && self.longest <= bytes
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let deadlines = self.deadlines.as_ref().map_or(0, |deadlines| {
            deadlines.of_fields.len() * DEADLINE_BYTES + 2 * deadlines.name_bytes
        });
        size_of::<Self>() + self.content_bytes + self.fields.capacity() * FIELD_BYTES + deadlines
    }
}
