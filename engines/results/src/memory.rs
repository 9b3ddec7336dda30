//! Kept answers within an exact bound of bytes. It does no I/O.
//!
//! Each organisation has a shelf, evicted by SIEVE (Zhang and others, NSDI 2024): a queue in the order of
//! coming, and a hand that goes from the oldest to the newest, spares what was used since it last came by,
//! and takes what was not. When the whole is full, the organisation that takes most gives: nobody loses an
//! answer to others while holding less than an equal share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{OrganisationId, Timestamp};
use bytes::Bytes;
use parking_lot::RwLock;

use crate::meter::{Meter, QuestionMeter, Reason};
use crate::mirror::{Versions, covers};
use crate::question::{Asked, Identity};

/// An answer and what it was computed from.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) identity: Arc<Identity>,
    pub(crate) versions: Versions,
    pub(crate) until: Timestamp,
    pub(crate) bytes: Bytes,
    pub(crate) meter: Arc<QuestionMeter>,
}

pub(crate) struct Memory {
    bytes_max: u64,
    entries_max: usize,
    shelves: RwLock<Shelves>,
    meter: Arc<Meter>,
}

#[derive(Default)]
struct Shelves {
    places: hashbrown::HashMap<Name, Place, RandomState>,
    nodes: Vec<Option<Node>>,
    free: Vec<Place>,
    organisations: HashMap<OrganisationId, Shelf>,
    /// Who takes how much, so that who takes most is found at once.
    by_bytes: BTreeSet<(u64, OrganisationId)>,
    bytes: u64,
    entries: usize,
}

type Place = u32;

#[derive(PartialEq, Eq, Hash)]
struct Name(Arc<Identity>);

struct Node {
    kept: Kept,
    bytes: u64,
    was_used: AtomicBool,
    newer: Option<Place>,
    older: Option<Place>,
}

/// The answers of one organisation, from the newest to the oldest.
#[derive(Default)]
struct Shelf {
    newest: Option<Place>,
    oldest: Option<Place>,
    hand: Option<Place>,
    bytes: u64,
    subjects: HashMap<Box<str>, HashSet<Place>>,
}

/// What an entry takes beside its texts and its value: its node, its places in the maps (which are filled
/// to a half at worst), its identity, and the allocator's headers.
const ENTRY_BYTES: usize = size_of::<Node>()
    + 2 * (size_of::<Name>() + size_of::<Place>() + 1)
    + size_of::<Identity>()
    + 6 * ALLOCATION_BYTES;
/// What each subject of an entry takes beside its text: a version, and places in the index.
const SUBJECT_BYTES: usize = size_of::<i64>()
    + 2 * (size_of::<Place>() + 1)
    + 2 * size_of::<(Box<str>, HashSet<Place>)>()
    + 3 * ALLOCATION_BYTES;
const ALLOCATION_BYTES: usize = 16;

impl Memory {
    pub(crate) fn new(bytes_max: u64, entries_max: usize, meter: Arc<Meter>) -> Self {
        Self { bytes_max, entries_max, shelves: RwLock::default(), meter }
    }

    /// An answer that is at least as new as `versions`. It is lent, not copied.
    pub(crate) fn find(
        &self,
        asked: &Asked<'_>,
        versions: &[i64],
        now: Timestamp,
    ) -> Option<(Bytes, Arc<QuestionMeter>)> {
        let shelves = self.shelves.read();
        let node = shelves.node(*shelves.places.get(asked)?);
        let kept = &node.kept;
        if now >= kept.until || !covers(&kept.versions, versions) {
            return None;
        }
        // Written only when it changes: the line is shared by every core.
        if !node.was_used.load(Ordering::Relaxed) {
            node.was_used.store(true, Ordering::Relaxed);
        }
        Some((kept.bytes.clone(), kept.meter.clone()))
    }

    /// Keeps an answer in the place of an older one to the same question. What has to go for it is gone
    /// before this returns.
    pub(crate) fn keep(&self, kept: Kept, now: Timestamp) {
        let bytes = weight(&kept);
        if bytes > self.bytes_max || self.entries_max == 0 || now >= kept.until {
            return;
        }
        // Freed after the lock is.
        let mut gone = Vec::new();
        let mut shelves = self.shelves.write();
        if let Some(place) = shelves.places.get(&Name(kept.identity.clone())).copied() {
            let former = &shelves.node(place).kept;
            if now < former.until && !covers(&kept.versions, &former.versions) {
                return;
            }
            gone.push(shelves.take(place));
            self.meter.evicted(Reason::Replaced, 1);
        }
        let replaced = gone.len();
        while shelves.bytes + bytes > self.bytes_max || shelves.entries >= self.entries_max {
            let Some(victim) = shelves.victim() else { break };
            gone.push(shelves.take(victim));
        }
        shelves.put(kept, bytes);
        debug_assert!(shelves.bytes <= self.bytes_max, "room was made before");
        self.meter.bytes.set(i64::try_from(shelves.bytes).unwrap_or(i64::MAX));
        self.meter.entries.set(i64::try_from(shelves.entries).unwrap_or(i64::MAX));
        drop(shelves);
        self.meter.evicted(Reason::Room, gone.len() - replaced);
    }

    /// Frees every answer that depends on the subject, and says how many.
    pub(crate) fn evict(&self, organisation: OrganisationId, subject: &str) -> usize {
        let mut shelves = self.shelves.write();
        let shelf = shelves.organisations.get(&organisation);
        let places = shelf.and_then(|shelf| shelf.subjects.get(subject)).cloned();
        let gone: Vec<Node> =
            places.into_iter().flatten().map(|place| shelves.take(place)).collect();
        self.meter.bytes.set(i64::try_from(shelves.bytes).unwrap_or(i64::MAX));
        self.meter.entries.set(i64::try_from(shelves.entries).unwrap_or(i64::MAX));
        drop(shelves);
        self.meter.evicted(Reason::Subject, gone.len());
        gone.len()
    }

    /// What one organisation takes.
    pub(crate) fn bytes_of(&self, organisation: OrganisationId) -> u64 {
        self.shelves.read().organisations.get(&organisation).map_or(0, |shelf| shelf.bytes)
    }
}

/// What an entry takes of the memory that there is.
pub(crate) fn weight(kept: &Kept) -> u64 {
    let subjects = kept.identity.subjects.len();
    // Once more in the index of subjects.
    let texts = 2 * kept.identity.bytes();
    (kept.bytes.len() + texts + ENTRY_BYTES + subjects * SUBJECT_BYTES) as u64
}

impl Shelves {
    fn node(&self, place: Place) -> &Node {
        self.nodes[place as usize].as_ref().expect("places in use name nodes")
    }

    fn node_mut(&mut self, place: Place) -> &mut Node {
        self.nodes[place as usize].as_mut().expect("places in use name nodes")
    }

    /// Who goes next, of the organisation that takes most.
    fn victim(&mut self) -> Option<Place> {
        let (_, organisation) = *self.by_bytes.last()?;
        let shelf = &self.organisations[&organisation];
        let (oldest, mut hand) = (shelf.oldest, shelf.hand.or(shelf.oldest)?);
        let victim = loop {
            let node = self.node(hand);
            if !node.was_used.swap(false, Ordering::Relaxed) {
                break hand;
            }
            hand = node.newer.or(oldest)?;
        };
        if let Some(shelf) = self.organisations.get_mut(&organisation) {
            shelf.hand = Some(victim);
        }
        Some(victim)
    }

    fn put(&mut self, kept: Kept, bytes: u64) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            Place::try_from(self.nodes.len() - 1).expect("memory holds fewer than 2^32 entries")
        });
        let organisation = kept.identity.organisation;
        self.places.insert(Name(kept.identity.clone()), place);
        let shelf = self.organisations.entry(organisation).or_default();
        for subject in &kept.identity.subjects {
            shelf.subjects.entry(subject.clone()).or_default().insert(place);
        }
        let older = shelf.newest.replace(place);
        shelf.oldest.get_or_insert(place);
        self.by_bytes.remove(&(shelf.bytes, organisation));
        shelf.bytes += bytes;
        self.by_bytes.insert((shelf.bytes, organisation));
        let was_used = AtomicBool::new(false);
        self.nodes[place as usize] = Some(Node { kept, bytes, was_used, newer: None, older });
        if let Some(older) = older {
            self.node_mut(older).newer = Some(place);
        }
        self.bytes += bytes;
        self.entries += 1;
    }

    fn take(&mut self, place: Place) -> Node {
        let node = self.nodes[place as usize].take().expect("places in use name nodes");
        self.free.push(place);
        self.places.remove(&Name(node.kept.identity.clone()));
        self.bytes -= node.bytes;
        self.entries -= 1;
        if let Some(newer) = node.newer {
            self.node_mut(newer).older = node.older;
        }
        if let Some(older) = node.older {
            self.node_mut(older).newer = node.newer;
        }
        let organisation = node.kept.identity.organisation;
        let shelf = self.organisations.get_mut(&organisation).expect("its entry stands on it");
        if shelf.newest == Some(place) {
            shelf.newest = node.older;
        }
        if shelf.oldest == Some(place) {
            shelf.oldest = node.newer;
        }
        if shelf.hand == Some(place) {
            shelf.hand = node.newer;
        }
        for subject in &node.kept.identity.subjects {
            if let Some(places) = shelf.subjects.get_mut(subject) {
                places.remove(&place);
                if places.is_empty() {
                    shelf.subjects.remove(subject);
                }
            }
        }
        self.by_bytes.remove(&(shelf.bytes, organisation));
        shelf.bytes -= node.bytes;
        if shelf.newest.is_none() {
            self.organisations.remove(&organisation);
        } else {
            self.by_bytes.insert((shelf.bytes, organisation));
        }
        node
    }
}

impl AsRef<Identity> for Name {
    fn as_ref(&self) -> &Identity {
        &self.0
    }
}

#[cfg(test)]
mod tests;
