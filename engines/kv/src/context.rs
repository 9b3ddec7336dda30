//! What a command works with: the data, its client, the moment, and the record of what it changed.

use crate::engine::Engine;
use crate::notify::{self, Class};
use crate::session::Session;
use crate::store::object::{Collection, Kind};
use crate::store::{Expiry, Found};
use crate::wire::reply::{FULL, Fault, Reply, WRONG_TYPE};
use crate::wire::request::Args;

pub(crate) type Outcome = Result<(), Fault>;

pub(crate) struct Ctx<'a> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) session: &'a mut Session,
    /// Milliseconds since 1970.
    pub(crate) now: i64,
    /// Within a transaction, where nothing waits.
    pub(crate) is_nested: bool,
    /// Its arguments do the same again, so they are what the log gets.
    pub(crate) is_verbatim: bool,
    /// The hash of the key that was made ready, and where that key is.
    pub(crate) ready: (*const u8, u32),
}

/// What became of an edited collection.
pub(crate) struct Edited<R> {
    pub(crate) result: R,
    /// It was emptied, and its key went with it.
    pub(crate) is_gone: bool,
}

impl Ctx<'_> {
    #[inline]
    pub(crate) fn out(&mut self) -> &mut Reply {
        &mut self.session.out
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        if key.as_ptr() == self.ready.0 { self.ready.1 } else { self.engine.store.hash_of(key) }
    }

    /// The entry of a key that is there and has not expired.
    #[inline]
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<Found> {
        self.find_in(self.session.db, key)
    }

    #[inline]
    pub(crate) fn find_in(&mut self, db: usize, key: &[u8]) -> Option<Found> {
        let hash = self.hash(key);
        let found = self.engine.store.find(db, hash, key)?;
        if let Some(deadline) = self.engine.store.deadline(found)
            && deadline <= self.now
        {
            // Where nothing can be written down it is passed over.
            if self.engine.refusal.is_none() {
                self.engine.expire(db, found, key);
            }
            return None;
        }
        if !self.engine.due_fields.is_empty()
            && self.engine.has_due_fields(found, self.now)
            && self.engine.refusal.is_none()
            && self.engine.expire_fields((db, found), key, (self.now, usize::MAX))
        {
            return None;
        }
        if !self.session.is_quiet {
            self.engine.mark_used(found);
        }
        Some(found)
    }

    /// As [`Ctx::find`], counted as a hit or a miss.
    #[inline]
    pub(crate) fn look_up(&mut self, key: &[u8]) -> Option<Found> {
        let found = self.find(key);
        if found.is_some() {
            self.engine.stats.hits += 1;
        } else {
            self.engine.stats.misses += 1;
            self.notify(notify::MISS, "keymiss", key);
        }
        found
    }

    /// As [`Ctx::look_up`], without marking the key as used.
    pub(crate) fn glance(&mut self, key: &[u8]) -> Option<Found> {
        let was_quiet = std::mem::replace(&mut self.session.is_quiet, true);
        let found = self.look_up(key);
        self.session.is_quiet = was_quiet;
        found
    }

    /// The entry of a key that holds a string, if the key is there.
    #[inline]
    pub(crate) fn string(&mut self, key: &[u8]) -> Result<Option<Found>, Fault> {
        let found = self.look_up(key);
        self.check(found, Kind::String)
    }

    pub(crate) fn string_for_write(&mut self, key: &[u8]) -> Result<Option<Found>, Fault> {
        let found = self.find(key);
        self.check(found, Kind::String)
    }

    #[inline]
    fn check(&self, found: Option<Found>, kind: Kind) -> Result<Option<Found>, Fault> {
        match found {
            Some(found) if self.engine.store.kind(found) != kind => Err(WRONG_TYPE),
            found => Ok(found),
        }
    }

    pub(crate) fn collection<C: Collection>(&mut self, key: &[u8]) -> Result<Option<&C>, Fault> {
        let Some(found) = self.look_up(key) else { return Ok(None) };
        self.engine.store.collection::<C>(found).map(Some).ok_or(WRONG_TYPE)
    }

    /// As [`Ctx::collection`], with the client's reply beside it.
    pub(crate) fn collection_and_out<C: Collection>(
        &mut self,
        key: &[u8],
    ) -> Result<(Option<&C>, &mut Reply), Fault> {
        let Some(found) = self.look_up(key) else { return Ok((None, &mut self.session.out)) };
        let collection = self.engine.store.collection::<C>(found).ok_or(WRONG_TYPE)?;
        Ok((Some(collection), &mut self.session.out))
    }

    /// Changes a collection that is there; one that is empty afterwards goes.
    pub(crate) fn edit<C: Collection, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> R,
    ) -> Result<Option<Edited<R>>, Fault> {
        let db = self.session.db;
        let found = self.find(key);
        let Some(found) = self.check(found, C::KIND)? else { return Ok(None) };
        let edited = self.engine.store.edit(db, found, |collection: &mut C| {
            let result = change(collection);
            Edited { result, is_gone: collection.is_empty() }
        });
        let edited = edited.ok_or(WRONG_TYPE)?;
        if edited.is_gone {
            self.engine.store.remove(db, found);
        }
        Ok(Some(edited))
    }

    /// Changes a collection, which is made if the key is not there.
    pub(crate) fn edit_or_new<C: Collection, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> R,
    ) -> Result<R, Fault> {
        let found = self.find(key);
        if let Some(found) = self.check(found, C::KIND)? {
            return self.engine.store.edit(self.session.db, found, change).ok_or(WRONG_TYPE);
        }
        let mut collection = C::default();
        let result = change(&mut collection);
        if !collection.is_empty() {
            self.put(key, collection)?;
        }
        Ok(result)
    }

    /// Puts a collection in place of whatever the key held.
    pub(crate) fn put<C: Collection>(&mut self, key: &[u8], collection: C) -> Result<(), Fault> {
        let db = self.session.db;
        let old = self.find(key);
        if let Some(found) = old {
            self.offer_stream(key, found);
            self.engine.store.remove(db, found);
        }
        let hash = self.hash(key);
        let inserted = self.engine.store.insert_object(db, (hash, key), collection.wrap());
        inserted.ok_or(FULL)?;
        if old.is_none() {
            self.notify(notify::NEW, "new", key);
        }
        Ok(())
    }

    /// Puts a string in place of whatever the key held.
    #[inline]
    pub(crate) fn set(
        &mut self,
        key: &[u8],
        found: Option<Found>,
        value: &[u8],
        expiry: Expiry,
    ) -> Result<Found, Fault> {
        let (db, hash) = (self.session.db, self.hash(key));
        if let Some(found) = found {
            self.offer_stream(key, found);
        }
        let set =
            self.engine.store.set_string(db, (hash, key, found), value, expiry).ok_or(FULL)?;
        if found.is_none() {
            self.notify(notify::NEW, "new", key);
        }
        Ok(set)
    }

    /// Takes a key away; says whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let Some(found) = self.find(key) else { return false };
        self.offer_stream(key, found);
        self.engine.store.remove(self.session.db, found);
        self.changed(key);
        true
    }

    /// The command's arguments are what the log gets.
    #[inline]
    pub(crate) fn verbatim(&mut self) {
        self.is_verbatim = true;
    }

    /// Gives the log this in place of the command's arguments.
    pub(crate) fn effect(&mut self, args: &[&[u8]]) {
        self.engine.log_effect(self.session.db, args);
        self.session.has_written = true;
    }

    /// As [`Ctx::effect`], with the command's own arguments from an index on.
    pub(crate) fn effect_with<'a>(&mut self, name: &'a [u8], rest: Args<'a>) {
        let mut args = Vec::with_capacity(rest.len() + 1);
        args.push(name);
        args.extend(rest.iter());
        self.engine.log_effect(self.session.db, &args);
        self.session.has_written = true;
    }

    /// Tells whoever watches the key.
    #[inline]
    pub(crate) fn changed(&mut self, key: &[u8]) {
        self.changed_in(self.session.db, key);
    }

    #[inline]
    pub(crate) fn changed_in(&mut self, db: usize, key: &[u8]) {
        self.engine.stats.dirty += 1;
        if !self.engine.watchers.is_empty() {
            self.engine.spoil(db, key);
        }
        if !self.engine.trackers.is_empty() {
            self.engine.invalidate(db, key, Some(self.session.id));
        }
    }

    #[inline]
    pub(crate) fn notify(&mut self, class: Class, event: &str, key: &[u8]) {
        self.notify_in(self.session.db, class, event, key);
    }

    #[inline]
    pub(crate) fn notify_in(&mut self, db: usize, class: Class, event: &str, key: &[u8]) {
        if self.engine.settings.notify & class != 0 {
            self.engine.notify(db, (class, event, key));
        }
    }

    /// The key, its change and its event, together.
    #[inline]
    pub(crate) fn changed_with(&mut self, class: Class, event: &str, key: &[u8]) {
        self.changed(key);
        self.notify(class, event, key);
    }

    /// An element came to a key that clients may wait for.
    #[inline]
    pub(crate) fn offer(&mut self, key: &[u8]) {
        if !self.engine.waiting.is_empty() {
            self.engine.offers.push((self.session.db, key.into()));
        }
    }

    /// A stream goes: who waits as a consumer of its groups is told.
    #[inline]
    pub(crate) fn offer_stream(&mut self, key: &[u8], found: Found) {
        self.engine.offer_stream(self.session.db, found, key);
    }

    pub(crate) fn chance(&mut self) -> u64 {
        self.engine.chance()
    }
}
