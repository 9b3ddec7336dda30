//! Fields of hashes that expire: before a hash is looked at, and in time when nobody looks.

use crate::engine::Engine;
use crate::notify;
use crate::store::Found;
use crate::store::hash::Hash;
use crate::store::object::Kind;

/// A moment, and the hash that has a field which expires then; it may have changed since.
pub(crate) type Due = (i64, usize, Box<[u8]>);

impl Engine {
    /// Notes that a hash has a field that expires.
    pub(crate) fn schedule_fields(&mut self, db: usize, key: &[u8], at: i64) {
        self.due_fields.insert((at, db, key.into()));
    }

    /// The same of a value that came to a key, whatever it is.
    pub(crate) fn schedule_value(&mut self, db: usize, key: &[u8]) {
        if self.due_fields.is_empty() {
            return;
        }
        let hash = self.store.hash_of(key);
        let found = self.store.find(db, hash, key);
        let next = found.and_then(|found| self.store.collection::<Hash>(found)?.next_deadline());
        if let Some(at) = next {
            self.schedule_fields(db, key, at);
        }
    }

    /// Two databases took each other's place.
    pub(crate) fn swap_due_fields(&mut self, a: usize, b: usize) {
        let swapped = |(at, db, key): Due| {
            let db = if db == a {
                b
            } else if db == b {
                a
            } else {
                db
            };
            (at, db, key)
        };
        self.due_fields = std::mem::take(&mut self.due_fields).into_iter().map(swapped).collect();
    }

    /// Whether a value is a hash with fields whose time has come.
    #[inline]
    pub(crate) fn has_due_fields(&self, found: Found, now: i64) -> bool {
        self.store.kind(found) == Kind::Hash
            && self
                .store
                .collection::<Hash>(found)
                .and_then(Hash::next_deadline)
                .is_some_and(|at| at <= now)
    }

    /// Removes a hash's fields whose time has come; says whether the hash is gone with them.
    pub(crate) fn expire_fields(
        &mut self,
        (db, found): (usize, Found),
        key: &[u8],
        (now, most): (i64, usize),
    ) -> bool {
        let edited = self.store.edit(db, found, |hash: &mut Hash| {
            (hash.take_due(now, most), hash.next_deadline(), hash.len() == 0)
        });
        let Some((gone, next, is_empty)) = edited else { return false };
        if gone.is_empty() {
            return false;
        }
        let mut args: Vec<&[u8]> = vec![b"HDEL", key];
        args.extend(gone.iter().map(|field| &**field));
        self.log_effect(db, &args);
        self.stats.expired_fields += gone.len() as u64;
        self.notify(db, (notify::HASH, "hexpired", key));
        if is_empty {
            self.store.remove(db, found);
            self.notify(db, (notify::GENERIC, "del", key));
        } else if let Some(at) = next {
            self.schedule_fields(db, key, at);
        }
        self.spoil(db, key);
        if !self.trackers.is_empty() {
            self.invalidate(db, key, None);
        }
        is_empty
    }

    /// Removes a bounded number of fields whose time has come; says whether there may be more.
    pub(crate) fn expire_some_fields(&mut self, now: i64, most: usize) -> bool {
        if !self.expires_actively || self.refusal.is_some() {
            return false;
        }
        let before = self.stats.expired_fields;
        while (self.stats.expired_fields - before) < most as u64 {
            let is_due = self.due_fields.first().is_some_and(|(at, _, _)| *at <= now);
            let Some((_, db, key)) = is_due.then(|| self.due_fields.pop_first()).flatten() else {
                return false;
            };
            let hash = self.store.hash_of(&key);
            if let Some(found) = self.store.find(db, hash, &key) {
                self.expire_fields((db, found), &key, (now, most));
            }
        }
        true
    }
}
