//! The data: databases of entries, without clients, clocks or files.

pub(crate) mod arena;
pub(crate) mod crc64;
pub(crate) mod dump;
pub(crate) mod geohash;
pub(crate) mod glob;
pub(crate) mod hash;
pub(crate) mod hyperloglog;
pub(crate) mod keyhash;
pub(crate) mod list;
pub(crate) mod number;
pub(crate) mod object;
pub(crate) mod pack;
pub(crate) mod set;
pub(crate) mod snapshot;
pub(crate) mod sorted;
pub(crate) mod stream;
pub(crate) mod table;

use arena::{Arena, Ref};
use keyhash::KeyHash;
use object::{Collection, Kind, Object, Objects};
use snapshot::Capture;
use table::{Due, Place, Table};

/// An entry that was found; good until the next change of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) hash: u32,
    place: Place,
    entry: Ref,
}

/// What happens to the expiry of a key that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    Keep,
    /// Milliseconds since 1970.
    At(i64),
}

pub(crate) struct Store {
    hash: KeyHash,
    arena: Arena,
    tables: Vec<Table>,
    /// Bytes of all tables, kept up to date so that no write has to add them up.
    table_bytes: usize,
    objects: Objects,
    /// While it is set, large values are not freed but put aside for another thread.
    pub(crate) frees_later: bool,
    pub(crate) aside: Vec<Waste>,
    object_bytes: usize,
    capture: Option<Capture>,
    /// Milliseconds since 1970 at which coarse expiry begins to count.
    epoch: i64,
    /// Where the search for expired entries goes on: database and segment.
    expire_at: (usize, usize),
    /// What a found entry is marked with: 24 bits, for eviction.
    pub(crate) stamp: u32,
}

/// Set when a running snapshot is done with the entry.
const CAPTURED: u8 = 0x20;
const EXPIRES: u8 = 0x10;
/// The string was changed in place, which Redis shows as its encoding.
const RAW: u8 = 0x40;
const KIND_MASK: u8 = 0x0f;
const HEADER: usize = 8;
const DEADLINE: usize = 8;
/// Milliseconds of one step of coarse expiry.
const DUE_STEP: i64 = 64;

/// Bytes that come near together.
const LINE_BYTES: usize = 64;
/// What is behind comes in time by itself.
const FETCHED_BYTES_MAX: usize = 512;

/// Where the parts of an entry are in its bytes.
struct Parts {
    key: usize,
    value: usize,
    end: usize,
}

impl Store {
    /// `secret` keeps clients from choosing keys that collide.
    pub(crate) fn new(secret: [u8; 16], now: i64) -> Self {
        Self {
            hash: KeyHash::new(secret),
            arena: Arena::default(),
            tables: Vec::new(),
            table_bytes: 0,
            objects: Objects::default(),
            frees_later: false,
            aside: Vec::new(),
            object_bytes: 0,
            capture: None,
            epoch: now,
            expire_at: (0, 0),
            stamp: 0,
        }
    }

    /// Makes sure that databases up to this number are there.
    pub(crate) fn make_databases(&mut self, count: usize) {
        while self.tables.len() < count {
            let table = Table::default();
            self.table_bytes += table.bytes();
            self.tables.push(table);
        }
    }

    #[inline]
    pub(crate) fn hash_of(&self, key: &[u8]) -> u32 {
        self.hash.of(key)
    }

    pub(crate) fn len(&self, db: usize) -> usize {
        self.tables[db].len()
    }

    pub(crate) fn expiring(&self, db: usize) -> usize {
        self.tables[db].expiring()
    }

    pub(crate) fn databases(&self) -> usize {
        self.tables.len()
    }

    /// Bytes in use by keys and values.
    pub(crate) fn used_bytes(&self) -> usize {
        debug_assert_eq!(self.table_bytes, self.tables.iter().map(Table::bytes).sum::<usize>());
        self.arena.live_bytes() + self.table_bytes + self.object_bytes
    }

    /// Changes a table and settles the account of its memory.
    #[inline]
    fn with_table<R>(&mut self, db: usize, change: impl FnOnce(&mut Table) -> R) -> R {
        let table = &mut self.tables[db];
        let before = table.bytes();
        let result = change(table);
        self.table_bytes = self.table_bytes + table.bytes() - before;
        result
    }

    /// Bytes taken from the system for them.
    pub(crate) fn held_bytes(&self) -> usize {
        self.used_bytes() - self.arena.live_bytes() + self.arena.held_bytes()
    }

    #[inline]
    pub(crate) fn touch_slot(&self, db: usize, hash: u32) -> u64 {
        self.tables[db].touch(hash)
    }

    /// The entry that a key with this hash probably has.
    #[inline]
    pub(crate) fn likely(&self, db: usize, hash: u32) -> Option<Ref> {
        self.tables[db].likely(hash)
    }

    #[inline]
    pub(crate) fn touch_beginning(&self, entry: Ref) -> u64 {
        u64::from(self.arena.bytes(entry)[0])
    }

    /// Brings the lines of an entry near behind the first, as far as they are worth it.
    #[inline]
    pub(crate) fn touch_rest(&self, entry: Ref) -> u64 {
        let bytes = self.arena.bytes(entry);
        let end = parts(entry, bytes).end.min(FETCHED_BYTES_MAX).min(bytes.len());
        let lines = bytes[..end].iter().step_by(LINE_BYTES).skip(1).chain(bytes[..end].last());
        lines.map(|byte| u64::from(*byte)).sum()
    }

    #[inline]
    pub(crate) fn find(&self, db: usize, hash: u32, key: &[u8]) -> Option<Found> {
        let (place, entry) = self.tables[db].find(hash, |entry| self.has_key(entry, key))?;
        Some(Found { hash, place, entry })
    }

    #[inline]
    fn has_key(&self, entry: Ref, key: &[u8]) -> bool {
        let bytes = self.arena.bytes(entry);
        let parts = parts(entry, bytes);
        &bytes[parts.key..parts.value] == key
    }

    pub(crate) fn key(&self, found: Found) -> &[u8] {
        let bytes = self.arena.bytes(found.entry);
        let parts = parts(found.entry, bytes);
        &bytes[parts.key..parts.value]
    }

    #[inline]
    pub(crate) fn kind(&self, found: Found) -> Kind {
        Kind::of(self.arena.bytes(found.entry)[0] & KIND_MASK)
    }

    /// Whether a string was changed in place since it was set.
    pub(crate) fn is_raw(&self, found: Found) -> bool {
        self.arena.bytes(found.entry)[0] & RAW != 0
    }

    /// The bytes of a string; of another kind, the number of its object.
    #[inline]
    pub(crate) fn string(&self, found: Found) -> &[u8] {
        let bytes = self.arena.bytes(found.entry);
        let parts = parts(found.entry, bytes);
        &bytes[parts.value..parts.end]
    }

    /// When the entry expires, in milliseconds since 1970.
    #[inline]
    pub(crate) fn deadline(&self, found: Found) -> Option<i64> {
        let bytes = self.arena.bytes(found.entry);
        (bytes[0] & EXPIRES != 0).then(|| read_i64(&bytes[HEADER..]))
    }

    pub(crate) fn stamp_of(&self, found: Found) -> u32 {
        let bytes = self.arena.bytes(found.entry);
        u32::from_le_bytes([bytes[1], bytes[2], bytes[3], 0])
    }

    #[inline]
    pub(crate) fn set_stamp(&mut self, found: Found, stamp: u32) {
        let stamp = stamp.to_le_bytes();
        self.arena.bytes_mut(found.entry)[1..4].copy_from_slice(&stamp[..3]);
    }

    /// The object of an entry that is no string.
    pub(crate) fn object(&self, found: Found) -> &Object {
        debug_assert!(self.kind(found) != Kind::String, "a string has no object");
        self.objects.get(object_number(self.string(found)))
    }

    pub(crate) fn collection<C: Collection>(&self, found: Found) -> Option<&C> {
        if self.kind(found) == C::KIND { C::of(self.object(found)) } else { None }
    }

    /// Changes a collection and settles the account of its memory.
    pub(crate) fn edit<C: Collection, R>(
        &mut self,
        db: usize,
        found: Found,
        change: impl FnOnce(&mut C) -> R,
    ) -> Option<R> {
        if self.kind(found) != C::KIND {
            return None;
        }
        self.guard(db, found);
        let number = object_number(self.string(found));
        let object = C::of_mut(self.objects.get_mut(number))?;
        let before = object.bytes();
        let result = change(object);
        self.object_bytes = self.object_bytes + object.bytes() - before;
        Some(result)
    }

    /// Writes a string in place of whatever the key held. Nothing when there is no room for more entries.
    pub(crate) fn set_string(
        &mut self,
        db: usize,
        (hash, key, found): (u32, &[u8], Option<Found>),
        value: &[u8],
        expiry: Expiry,
    ) -> Option<Found> {
        let Some(found) = found else {
            let deadline = if let Expiry::At(at) = expiry { Some(at) } else { None };
            return self.insert(db, (hash, key), Kind::String, (value, deadline));
        };
        self.guard(db, found);
        let deadline = match expiry {
            Expiry::Never => None,
            Expiry::Keep => self.deadline(found),
            Expiry::At(at) => Some(at),
        };
        self.free_object(found);
        let length =
            HEADER + if deadline.is_some() { DEADLINE } else { 0 } + key.len() + value.len();
        let has_room =
            if Arena::is_large(found.entry) { false } else { self.arena.fits(found.entry, length) };
        let had_deadline = self.arena.bytes(found.entry)[0] & EXPIRES != 0;
        let stamp = self.stamp;
        let entry = if has_room {
            found.entry
        } else {
            let entry = self.arena.allocate(length)?;
            let captured = self.arena.bytes(found.entry)[0] & CAPTURED;
            self.arena.bytes_mut(entry)[0] = captured;
            self.arena.free(found.entry);
            self.tables[db].replace(found.place, entry);
            entry
        };
        let captured = self.arena.bytes(entry)[0] & CAPTURED;
        write(
            self.arena.bytes_mut(entry),
            entry,
            (Kind::String, captured, stamp),
            (key, value, deadline),
        );
        if had_deadline || deadline.is_some() {
            let due = self.due_of(deadline);
            self.with_table(db, |table| table.set_due(found.place, due));
        }
        Some(Found { entry, ..found })
    }

    /// Adds a key that is not there.
    pub(crate) fn insert(
        &mut self,
        db: usize,
        (hash, key): (u32, &[u8]),
        kind: Kind,
        (value, deadline): (&[u8], Option<i64>),
    ) -> Option<Found> {
        let length =
            HEADER + if deadline.is_some() { DEADLINE } else { 0 } + key.len() + value.len();
        let entry = self.arena.allocate(length)?;
        let captured = if self.is_ahead(db, hash) { CAPTURED } else { 0 };
        let stamp = self.stamp;
        write(self.arena.bytes_mut(entry), entry, (kind, captured, stamp), (key, value, deadline));
        let place = self.with_table(db, |table| table.insert(hash, entry));
        if deadline.is_some() {
            let due = self.due_of(deadline);
            self.with_table(db, |table| table.set_due(place, due));
        }
        Some(Found { hash, place, entry })
    }

    /// Adds a collection under a key that is not there.
    pub(crate) fn insert_object(
        &mut self,
        db: usize,
        (hash, key): (u32, &[u8]),
        object: Object,
    ) -> Option<Found> {
        let kind = object.kind();
        self.object_bytes += object.bytes();
        let number = self.objects.add(object);
        let found = self.insert(db, (hash, key), kind, (&number.to_le_bytes(), None));
        if found.is_none() {
            self.drop_object(number);
        }
        found
    }

    /// The string of a found entry, made `length` long; new bytes are zero.
    pub(crate) fn resize_string(
        &mut self,
        db: usize,
        found: Found,
        length: usize,
    ) -> Option<Found> {
        self.guard(db, found);
        let bytes = self.arena.bytes(found.entry);
        let old = parts(found.entry, bytes);
        let total = old.value + length;
        if Arena::is_large(found.entry) && total > arena::BLOCK_BYTES_MAX {
            self.arena.resize_large(found.entry, total);
            return Some(found);
        }
        let (key, deadline) = (bytes[old.key..old.value].to_vec(), self.deadline(found));
        let mut value = bytes[old.value..old.end].to_vec();
        value.resize(length, 0);
        let expiry = deadline.map_or(Expiry::Never, Expiry::At);
        self.set_string(db, (found.hash, &key, Some(found)), &value, expiry)
    }

    pub(crate) fn string_mut(&mut self, db: usize, found: Found) -> &mut [u8] {
        self.guard(db, found);
        let bytes = self.arena.bytes_mut(found.entry);
        bytes[0] |= RAW;
        let parts = parts(found.entry, bytes);
        &mut bytes[parts.value..parts.end]
    }

    pub(crate) fn set_deadline(
        &mut self,
        db: usize,
        found: Found,
        deadline: Option<i64>,
    ) -> Option<Found> {
        self.guard(db, found);
        let due = self.due_of(deadline);
        let bytes = self.arena.bytes_mut(found.entry);
        if let Some(at) = deadline
            && bytes[0] & EXPIRES != 0
        {
            bytes[HEADER..HEADER + DEADLINE].copy_from_slice(&at.to_le_bytes());
            self.with_table(db, |table| table.set_due(found.place, due));
            return Some(found);
        }
        if deadline.is_none() && bytes[0] & EXPIRES == 0 {
            return Some(found);
        }
        let old = parts(found.entry, bytes);
        let about =
            (Kind::of(bytes[0] & KIND_MASK), bytes[0] & (CAPTURED | RAW), self.stamp_of(found));
        let bytes = self.arena.bytes(found.entry);
        let (key, value) = (bytes[old.key..old.value].to_vec(), bytes[old.value..old.end].to_vec());
        let length =
            HEADER + if deadline.is_some() { DEADLINE } else { 0 } + key.len() + value.len();
        let entry = self.arena.allocate(length)?;
        write(self.arena.bytes_mut(entry), entry, about, (&key, &value, deadline));
        self.arena.free(found.entry);
        self.tables[db].replace(found.place, entry);
        self.with_table(db, |table| table.set_due(found.place, due));
        Some(Found { entry, ..found })
    }

    pub(crate) fn remove(&mut self, db: usize, found: Found) {
        self.guard(db, found);
        self.free_object(found);
        self.arena.free(found.entry);
        self.with_table(db, |table| table.remove(found.place));
    }

    /// Gives a key's value and expiry another name, which is not there yet, and takes the old one away.
    pub(crate) fn rename(
        &mut self,
        (db, found): (usize, Found),
        to: (usize, &[u8]),
    ) -> Option<Found> {
        self.guard(db, found);
        let (kind, deadline, stamp) =
            (self.kind(found), self.deadline(found), self.stamp_of(found));
        let value = self.string(found).to_vec();
        let (to_db, key) = to;
        let renamed = self.insert(to_db, (self.hash_of(key), key), kind, (&value, deadline))?;
        self.set_stamp(renamed, stamp);
        self.keep_raw(found, renamed);
        // The insert may have moved it.
        let (place, _) = self.tables[db].find(found.hash, |entry| entry == found.entry)?;
        self.arena.free(found.entry);
        self.with_table(db, |table| table.remove(place));
        Some(renamed)
    }

    /// Puts a copy of the value and its expiry under another name, which is not there yet.
    pub(crate) fn copy(&mut self, found: Found, (to_db, key): (usize, &[u8])) -> Option<Found> {
        let deadline = self.deadline(found);
        let hash = self.hash_of(key);
        if self.kind(found) == Kind::String {
            let value = self.string(found).to_vec();
            let copied = self.insert(to_db, (hash, key), Kind::String, (&value, deadline))?;
            self.keep_raw(found, copied);
            return Some(copied);
        }
        let object = self.object(found).clone();
        let copied = self.insert_object(to_db, (hash, key), object)?;
        self.set_deadline(to_db, copied, deadline)
    }

    fn keep_raw(&mut self, from: Found, to: Found) {
        let raw = self.arena.bytes(from.entry)[0] & RAW;
        self.arena.bytes_mut(to.entry)[0] |= raw;
    }

    /// Takes everything out of a database. A running snapshot is given up.
    pub(crate) fn flush(&mut self, db: usize) {
        self.give_up_capture();
        self.expire_at = (0, 0);
        let is_alone =
            self.tables.iter().enumerate().all(|(other, table)| other == db || table.len() == 0);
        let table = self.with_table(db, std::mem::take);
        if is_alone {
            self.arena = Arena::default();
            let objects = std::mem::take(&mut self.objects);
            if self.frees_later && table.len() > LATER_FROM {
                self.aside.push(Waste { objects: table.len() as u64, what: Box::new(objects) });
            }
            self.object_bytes = 0;
            return;
        }
        let mut entries = Vec::with_capacity(table.len());
        table.walk(0, usize::MAX, |_, entry| entries.push(entry));
        for entry in entries {
            let bytes = self.arena.bytes(entry);
            if bytes[0] & KIND_MASK != Kind::String.number() {
                let parts = parts(entry, bytes);
                let number = object_number(&bytes[parts.value..parts.end]);
                self.drop_object(number);
            }
            self.arena.free(entry);
        }
    }

    /// Exchanges what two databases hold. A running snapshot is given up.
    pub(crate) fn swap(&mut self, a: usize, b: usize) {
        self.give_up_capture();
        self.tables.swap(a, b);
    }

    /// Visits at least `count` keys from a cursor on and gives the next cursor, 0 at the end.
    pub(crate) fn scan(
        &self,
        db: usize,
        cursor: u64,
        count: usize,
        mut visit: impl FnMut(Found),
    ) -> u64 {
        let Ok(from) = u32::try_from(cursor) else { return 0 };
        if from >= table::HASHES {
            return 0;
        }
        let table = &self.tables[db];
        let next = table.walk(from, count, |hash, entry| {
            if let Some((place, entry)) = table.find(hash, |other| other == entry) {
                visit(Found { hash, place, entry });
            }
        });
        if next >= table::HASHES { 0 } else { u64::from(next) }
    }

    pub(crate) fn random(&self, db: usize, chance: impl FnMut() -> u64) -> Option<Found> {
        let table = &self.tables[db];
        let (hash, entry) = table.random(chance)?;
        let (place, entry) = table.find(hash, |other| other == entry)?;
        Some(Found { hash, place, entry })
    }

    /// Finds keys that have expired, at least one turn's work of them; gives database and key of each and whether
    /// everything was looked at.
    pub(crate) fn expired(
        &mut self,
        now: i64,
        (segments_max, count): (usize, usize),
        found: &mut Vec<(usize, Box<[u8]>)>,
    ) -> bool {
        let due = self.due_now(now);
        let mut entries = Vec::new();
        let (mut db, mut segment) = self.expire_at;
        let mut left = segments_max;
        while db < self.tables.len() {
            let table = &self.tables[db];
            if table.expiring() == 0 {
                (db, segment) = (db + 1, 0);
                continue;
            }
            let looked = left.min(table.segments() - segment.min(table.segments()));
            entries.clear();
            segment = table.due(due, (segment, looked.max(1)), count, &mut entries);
            found.extend(entries.iter().map(|(_, entry)| (db, self.key_of(*entry).into())));
            left -= looked.min(left);
            if found.len() >= count || left == 0 {
                self.expire_at = (db, segment);
                return false;
            }
            if segment == 0 || segment >= table.segments() {
                (db, segment) = (db + 1, 0);
            }
        }
        self.expire_at = (0, 0);
        true
    }

    /// After an expired key was removed: lets its neighbours' next expiry be known.
    pub(crate) fn settle(&mut self, db: usize, hash: u32) {
        self.with_table(db, |table| table.settle(hash));
    }

    fn key_of(&self, entry: Ref) -> &[u8] {
        let bytes = self.arena.bytes(entry);
        let parts = parts(entry, bytes);
        &bytes[parts.key..parts.value]
    }

    fn due_of(&self, deadline: Option<i64>) -> Due {
        let Some(deadline) = deadline else { return 0 };
        let steps = deadline.saturating_sub(self.epoch).max(0) / DUE_STEP + 1;
        Due::try_from(steps).unwrap_or(Due::MAX)
    }

    fn due_now(&self, now: i64) -> Due {
        let steps = now.saturating_sub(self.epoch).max(0) / DUE_STEP;
        // The last step means some day, not now.
        Due::try_from(steps).unwrap_or(Due::MAX).min(Due::MAX - 1)
    }

    fn free_object(&mut self, found: Found) {
        if self.kind(found) != Kind::String {
            let number = object_number(self.string(found));
            self.drop_object(number);
        }
    }

    fn drop_object(&mut self, number: u32) {
        let object = self.objects.take(number);
        self.object_bytes -= object.bytes();
        if self.frees_later && object.elements() > LATER_FROM {
            self.aside.push(Waste { objects: 1, what: Box::new(object) });
        }
    }
}

/// What goes, and how many values that are.
pub(crate) struct Waste {
    pub(crate) objects: u64,
    what: Box<dyn std::any::Any + Send>,
}

impl Waste {
    pub(crate) fn free(self) {
        drop(self.what);
    }
}

/// A value of more elements is worth a hand-over.
const LATER_FROM: usize = 64;

fn object_number(value: &[u8]) -> u32 {
    u32::from_le_bytes([value[0], value[1], value[2], value[3]])
}

fn read_i64(bytes: &[u8]) -> i64 {
    i64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ])
}

#[inline]
fn parts(entry: Ref, bytes: &[u8]) -> Parts {
    let key = if bytes[0] & EXPIRES != 0 { HEADER + DEADLINE } else { HEADER };
    if Arena::is_large(entry) {
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        return Parts { key, value: key + length, end: bytes.len() };
    }
    let value = key + usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    let end = value + usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    Parts { key, value, end }
}

/// Fills a block: header, deadline if there is one, key, value.
#[inline]
fn write(
    bytes: &mut [u8],
    entry: Ref,
    (kind, captured, stamp): (Kind, u8, u32),
    (key, value, deadline): (&[u8], &[u8], Option<i64>),
) {
    let stamp = stamp.to_le_bytes();
    bytes[1..4].copy_from_slice(&stamp[..3]);
    if Arena::is_large(entry) {
        bytes[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
    } else {
        bytes[4..6].copy_from_slice(&(key.len() as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&(value.len() as u16).to_le_bytes());
    }
    let mut at = HEADER;
    bytes[0] = kind.number() | captured;
    if let Some(deadline) = deadline {
        bytes[0] |= EXPIRES;
        bytes[at..at + DEADLINE].copy_from_slice(&deadline.to_le_bytes());
        at += DEADLINE;
    }
    bytes[at..at + key.len()].copy_from_slice(key);
    at += key.len();
    bytes[at..at + value.len()].copy_from_slice(value);
}
