//! A picture of all data at one moment, taken in small steps while it changes: the walk goes in the order of
//! (database, hash), and what it has not reached is written down before it changes.

use super::arena::Ref;
use super::object::{Kind, Object};
use super::table::HASHES;
use super::{CAPTURED, Found, KIND_MASK, Store, parts, read_i64};
use super::{EXPIRES, HEADER, object_number};
use crate::log::effect;
use crate::store::number::{f64_text, i64_text};

/// Elements of one effect: a large collection becomes many.
const ELEMENTS: usize = 512;

pub(crate) struct Capture {
    /// Everything before this database and hash is written.
    db: usize,
    hash: u32,
    /// Effects that make the data again.
    pub(crate) bytes: Vec<u8>,
    pub(crate) keys: u64,
}

impl Store {
    pub(crate) fn begin_capture(&mut self) {
        self.capture = Some(Capture { db: 0, hash: 0, bytes: Vec::new(), keys: 0 });
    }

    pub(crate) fn is_capturing(&self) -> bool {
        self.capture.is_some()
    }

    /// Writes about `count` more entries down; gives the effects so far and whether these are all. Nothing when the
    /// capture was given up.
    pub(crate) fn capture(&mut self, count: usize) -> Option<(Vec<u8>, bool)> {
        let mut capture = self.capture.take()?;
        let mut entries: Vec<Ref> = Vec::new();
        while capture.db < self.tables.len() && entries.len() < count {
            let db = capture.db;
            entries.clear();
            capture.hash =
                self.tables[db].walk(capture.hash, count, |_, entry| entries.push(entry));
            for &entry in &entries {
                let flags = &mut self.arena.bytes_mut(entry)[0];
                if *flags & CAPTURED == 0 {
                    self.put_down(db, entry, &mut capture);
                } else {
                    *flags &= !CAPTURED;
                }
            }
            if capture.hash >= HASHES {
                (capture.db, capture.hash) = (db + 1, 0);
            }
        }
        let is_done = capture.db >= self.tables.len();
        let bytes = std::mem::take(&mut capture.bytes);
        if !is_done {
            self.capture = Some(capture);
        }
        Some((bytes, is_done))
    }

    /// Ends a capture before it is done; the marks that it left are removed.
    pub(crate) fn give_up_capture(&mut self) {
        if self.capture.take().is_none() {
            return;
        }
        for db in 0..self.tables.len() {
            let mut entries = Vec::new();
            self.tables[db].walk(0, usize::MAX, |_, entry| entries.push(entry));
            for entry in entries {
                self.arena.bytes_mut(entry)[0] &= !CAPTURED;
            }
        }
    }

    /// Called before an entry changes: a running capture writes it down as it was.
    #[inline]
    pub(super) fn guard(&mut self, db: usize, found: Found) {
        if self.capture.is_some() && self.is_ahead(db, found.hash) {
            self.guard_slowly(db, found.entry);
        }
    }

    fn guard_slowly(&mut self, db: usize, entry: Ref) {
        let flags = &mut self.arena.bytes_mut(entry)[0];
        if *flags & CAPTURED != 0 {
            return;
        }
        *flags |= CAPTURED;
        if let Some(mut capture) = self.capture.take() {
            self.put_down(db, entry, &mut capture);
            self.capture = Some(capture);
        }
    }

    /// Whether a running capture has yet to come to this hash.
    #[inline]
    pub(super) fn is_ahead(&self, db: usize, hash: u32) -> bool {
        self.capture.as_ref().is_some_and(|capture| (db, hash) >= (capture.db, capture.hash))
    }

    fn put_down(&self, db: usize, entry: Ref, capture: &mut Capture) {
        capture.keys += 1;
        let bytes = self.arena.bytes(entry);
        let parts = parts(entry, bytes);
        let key = &bytes[parts.key..parts.value];
        let value = &bytes[parts.value..parts.end];
        let deadline = (bytes[0] & EXPIRES != 0).then(|| i64_text(read_i64(&bytes[HEADER..])));
        let out = &mut capture.bytes;
        if Kind::of(bytes[0] & KIND_MASK) == Kind::String {
            match deadline {
                Some(at) => put(out, db, &[b"SET", key, value, b"PXAT", &at]),
                None => put(out, db, &[b"SET", key, value]),
            }
            return;
        }
        put_object(out, db, key, self.objects.get(object_number(value)));
        if let Some(at) = deadline {
            put(out, db, &[b"PEXPIREAT", key, &at]);
        }
    }
}

fn put(out: &mut Vec<u8>, db: usize, args: &[&[u8]]) {
    effect::push(out, db, args.iter().copied());
}

/// Writes the effects that make an object.
pub(crate) fn put_object(out: &mut Vec<u8>, db: usize, key: &[u8], object: &Object) {
    let (command, elements): (&[u8], Vec<&[u8]>) = match object {
        Object::Spare => return,
        Object::Hash(hash) => (b"HSET", hash.iter().flat_map(|(f, v)| [f, v]).collect()),
        Object::List(list) => (b"RPUSH", list.iter().collect()),
        Object::Set(set) => (b"SADD", set.iter().collect()),
        Object::Stream(_) => {
            // Its ids, groups and what is pending have no other way in.
            let payload = super::dump::write_object(object);
            put(out, db, &[b"RESTORE", key, b"0", &payload, b"REPLACE"]);
            return;
        }
        Object::Sorted(sorted) => {
            let texts: Vec<(String, &[u8])> =
                sorted.iter().map(|(m, s)| (f64_text(s), m)).collect();
            for part in texts.chunks(ELEMENTS) {
                let pairs = part.iter().flat_map(|(score, member)| [score.as_bytes(), *member]);
                let args: Vec<&[u8]> = [&b"ZADD"[..], key].into_iter().chain(pairs).collect();
                put(out, db, &args);
            }
            return;
        }
    };
    for part in elements.chunks(ELEMENTS) {
        let args: Vec<&[u8]> = [command, key].into_iter().chain(part.iter().copied()).collect();
        put(out, db, &args);
    }
    if let Object::Hash(hash) = object {
        for (at, field) in hash.deadlines() {
            put(out, db, &[b"HPEXPIREAT", key, &i64_text(at), b"FIELDS", b"1", field]);
        }
    }
}
