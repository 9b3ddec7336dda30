//! A stream: entries under growing ids in nodes of bounded size, and groups of consumers that share them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::number::push_u64;
use super::pack::{Item, Pack};

/// What a node costs beside its bytes: its place in the map.
const NODE_BYTES: usize = 64;
/// An entry that waits for its acknowledgement: in its group's map and in its consumer's set.
const PENDING_BYTES: usize = 96;
const CONSUMER_BYTES: usize = 112;
const GROUP_BYTES: usize = 160;
/// The entry is marked as deleted.
const DELETED: i64 = 1;
/// The entry has the fields of its node's first one.
const SAME_FIELDS: i64 = 2;
/// More bytes than this are not taken as one entry.
pub(crate) const ENTRY_BYTES_MAX: usize = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Id {
    pub(crate) ms: u64,
    pub(crate) seq: u64,
}

impl Id {
    pub(crate) const ZERO: Self = Self { ms: 0, seq: 0 };
    pub(crate) const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    pub(crate) fn next(self) -> Option<Self> {
        match (self.seq.checked_add(1), self.ms.checked_add(1)) {
            (Some(seq), _) => Some(Self { seq, ..self }),
            (None, Some(ms)) => Some(Self { ms, seq: 0 }),
            (None, None) => None,
        }
    }

    pub(crate) fn previous(self) -> Option<Self> {
        match (self.seq.checked_sub(1), self.ms.checked_sub(1)) {
            (Some(seq), _) => Some(Self { seq, ..self }),
            (None, Some(ms)) => Some(Self { ms, seq: u64::MAX }),
            (None, None) => None,
        }
    }

    pub(crate) fn text(self) -> Vec<u8> {
        let mut text = Vec::with_capacity(24);
        push_u64(&mut text, self.ms);
        text.push(b'-');
        push_u64(&mut text, self.seq);
        text
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.ms.to_be_bytes());
        bytes[8..].copy_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (ms, seq) = bytes.split_at_checked(8)?;
        Some(Self {
            ms: u64::from_be_bytes(ms.try_into().ok()?),
            seq: u64::from_be_bytes(seq.try_into().ok()?),
        })
    }
}

/// How an entry's id is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The moment, or what follows the last id.
    Any(u64),
    /// This moment, and what follows within it.
    Within(u64),
    Exactly(Id),
}

/// How far to trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trim {
    Length(usize),
    From(Id),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    nodes: BTreeMap<Id, Pack>,
    pub(crate) length: usize,
    /// The first entry that is there.
    pub(crate) first: Id,
    /// The last id that was given.
    pub(crate) last: Id,
    /// The highest id that was deleted one by one.
    pub(crate) deleted: Id,
    /// Entries that ever were.
    pub(crate) added: u64,
    groups: BTreeMap<Box<[u8]>, Group>,
    node_bytes: usize,
    group_bytes: usize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    /// The last id that was delivered.
    pub(crate) last: Id,
    /// How many entries were delivered, if that is known.
    pub(crate) read: Option<u64>,
    pub(crate) pending: BTreeMap<Id, Pending>,
    pub(crate) consumers: BTreeMap<Arc<[u8]>, Consumer>,
}

/// An entry that was delivered and is not acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) consumer: Arc<[u8]>,
    /// Milliseconds since 1970.
    pub(crate) time: i64,
    pub(crate) count: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Consumer {
    pub(crate) seen: i64,
    pub(crate) pending: BTreeSet<Id>,
}

/// An entry within its node.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) id: Id,
    node: &'a Pack,
    flags: i64,
    flags_at: usize,
    /// How many pairs it has, and where they begin.
    pub(crate) pairs: usize,
    values_at: usize,
    end: usize,
}

impl<'a> Entry<'a> {
    fn is_deleted(&self) -> bool {
        self.flags & DELETED != 0
    }

    /// Fields and values by turns.
    pub(crate) fn items(self) -> impl Iterator<Item = Item<'a>> {
        let is_same = self.flags & SAME_FIELDS != 0;
        let node = self.node;
        let (mut field_at, mut value_at) = (master_fields(node), self.values_at);
        (0..self.pairs * 2).filter_map(move |turn| {
            let at = if is_same && turn % 2 == 0 { &mut field_at } else { &mut value_at };
            let (item, next) = node.read(*at)?;
            *at = next;
            Some(item)
        })
    }
}

/// Where the fields of the node's first entry are.
fn master_fields(node: &Pack) -> usize {
    skip(node, Pack::first(), 3)
}

fn skip(node: &Pack, mut at: usize, items: usize) -> usize {
    for _ in 0..items {
        match node.read(at) {
            Some((_, next)) => at = next,
            None => break,
        }
    }
    at
}

fn int_at(node: &Pack, at: usize) -> i64 {
    node.read(at).and_then(|(item, _)| item.int()).unwrap_or(0)
}

/// Entries that are there, and those that are marked as deleted.
fn counts(node: &Pack) -> (usize, usize) {
    let at = Pack::first();
    (int_at(node, at).max(0) as usize, int_at(node, skip(node, at, 1)).max(0) as usize)
}

/// All entries of a node, deleted ones too.
fn entries(first: Id, node: &Pack) -> impl Iterator<Item = Entry<'_>> {
    let fields = int_at(node, skip(node, Pack::first(), 2)).max(0) as usize;
    let mut at = skip(node, master_fields(node), fields + 1);
    std::iter::from_fn(move || {
        if node.is_end(at) {
            return None;
        }
        let entry = entry(first, node, at, fields)?;
        // The number of its items stands behind it.
        at = skip(node, entry.end, 1);
        Some(entry)
    })
}

fn entry(first: Id, node: &Pack, flags_at: usize, fields: usize) -> Option<Entry<'_>> {
    let (flags, at) = node.read(flags_at)?;
    let (ms, at) = node.read(at)?;
    let (seq, at) = node.read(at)?;
    let flags = flags.int()?;
    let (pairs, values_at, items) = if flags & SAME_FIELDS != 0 {
        (fields, at, fields)
    } else {
        let (pairs, at) = node.read(at)?;
        let pairs = usize::try_from(pairs.int()?).ok()?;
        (pairs, at, pairs.checked_mul(2)?)
    };
    let id = Id {
        ms: first.ms.wrapping_add(ms.int()? as u64),
        seq: first.seq.wrapping_add(seq.int()? as u64),
    };
    Some(Entry { id, node, flags, flags_at, pairs, values_at, end: skip(node, values_at, items) })
}

impl Stream {
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = (&Id, &Pack)> {
        self.nodes.iter()
    }

    /// A node that somebody else made, behind all others. Says whether it makes sense.
    pub(crate) fn push_node(&mut self, first: Id, node: Pack) -> bool {
        let is_behind = self.nodes.last_key_value().is_none_or(|(last, _)| *last < first);
        if !is_behind || !is_sound(first, &node) {
            return false;
        }
        self.node_bytes += node.capacity() + NODE_BYTES;
        self.nodes.insert(first, node);
        true
    }

    /// The id that an entry would get; nothing when it would not be above the last one.
    pub(crate) fn choose(&self, wish: Wish) -> Option<Id> {
        let id = match wish {
            Wish::Any(now) if now > self.last.ms => Id { ms: now, seq: 0 },
            Wish::Any(_) => self.last.next()?,
            Wish::Within(ms) if ms == self.last.ms => Id { ms, seq: self.last.seq.checked_add(1)? },
            Wish::Within(ms) => Id { ms, seq: 0 },
            Wish::Exactly(id) => id,
        };
        (id > self.last).then_some(id)
    }

    /// Adds an entry under an id above all others; `items` are fields and values by turns.
    pub(crate) fn append<'a>(
        &mut self,
        id: Id,
        items: impl Iterator<Item = &'a [u8]> + Clone,
        (node_bytes_max, node_entries_max): (usize, usize),
    ) {
        let content: usize = items.clone().map(<[u8]>::len).sum();
        let pairs = items.clone().count() / 2;
        let is_full = self.nodes.last_key_value().is_none_or(|(_, node)| {
            let (live, deleted) = counts(node);
            node.bytes().len() + content >= node_bytes_max
                || (node_entries_max > 0 && live + deleted >= node_entries_max)
        });
        if is_full {
            self.begin_node(id, pairs, items.clone().step_by(2));
        }
        let Some(mut last) = self.nodes.last_entry() else { return };
        let first = *last.key();
        let node = last.get_mut();
        let before = node.capacity();
        let is_same = is_full || has_fields(node, pairs, items.clone().step_by(2));
        if !is_full {
            let (live, _) = counts(node);
            node.replace_int(Pack::first(), live as i64 + 1);
        }
        node.push_int(if is_same { SAME_FIELDS } else { 0 });
        node.push_int(id.ms.wrapping_sub(first.ms) as i64);
        node.push_int(id.seq.wrapping_sub(first.seq) as i64);
        if is_same {
            items.skip(1).step_by(2).for_each(|value| node.push(value));
        } else {
            node.push_int(pairs as i64);
            items.for_each(|item| node.push(item));
        }
        let count = if is_same { pairs + 3 } else { pairs * 2 + 4 };
        node.push_int(count as i64);
        self.node_bytes = self.node_bytes + node.capacity() - before;
        if self.length == 0 {
            self.first = id;
        }
        self.length += 1;
        self.added += 1;
        self.last = id;
    }

    fn begin_node<'a>(&mut self, id: Id, pairs: usize, fields: impl Iterator<Item = &'a [u8]>) {
        if let Some(mut last) = self.nodes.last_entry() {
            let before = last.get().capacity();
            last.get_mut().shrink();
            self.node_bytes = self.node_bytes + last.get().capacity() - before;
        }
        let mut node = Pack::default();
        node.push_int(1);
        node.push_int(0);
        node.push_int(pairs as i64);
        fields.for_each(|field| node.push(field));
        node.push_int(0);
        self.node_bytes += node.capacity() + NODE_BYTES;
        self.nodes.insert(id, node);
    }

    /// Entries from an id to another, both included.
    pub(crate) fn range(&self, from: Id, to: Id) -> impl Iterator<Item = Entry<'_>> {
        self.nodes_of(from, to)
            .flat_map(|(first, node)| entries(*first, node))
            .filter(move |entry| entry.id >= from && !entry.is_deleted())
            .take_while(move |entry| entry.id <= to)
    }

    /// As [`Stream::range`], the last first.
    pub(crate) fn range_falling(&self, from: Id, to: Id) -> impl Iterator<Item = Entry<'_>> {
        self.nodes_of(from, to)
            .rev()
            .flat_map(|(first, node)| entries(*first, node).collect::<Vec<_>>().into_iter().rev())
            .filter(move |entry| entry.id <= to && !entry.is_deleted())
            .take_while(move |entry| entry.id >= from)
    }

    fn nodes_of(&self, from: Id, to: Id) -> impl DoubleEndedIterator<Item = (&Id, &Pack)> {
        let first = self.nodes.range(..=from).next_back().map_or(from, |(first, _)| *first);
        // A range that ends before it begins is empty.
        self.nodes.range(first..=to.max(first)).filter(move |_| from <= to)
    }

    pub(crate) fn get(&self, id: Id) -> Option<Entry<'_>> {
        self.range(id, id).next()
    }

    /// The last entry that is there; what stands for none is below all ids.
    pub(crate) fn top(&self) -> Id {
        self.range_falling(Id::ZERO, Id::MAX).next().map_or(Id::ZERO, |entry| entry.id)
    }

    /// Deletes one entry, whose place stays in its node; says whether it was there.
    pub(crate) fn delete(&mut self, id: Id) -> bool {
        let Some(entry) = self.get(id) else { return false };
        let (flags, flags_at) = (entry.flags, entry.flags_at);
        let Some((&first, _)) = self.nodes.range(..=id).next_back() else { return false };
        if let Some(node) = self.nodes.get_mut(&first) {
            let (live, deleted) = counts(node);
            if live == 1 {
                self.drop_node(first);
            } else {
                let before = node.capacity();
                node.replace_int(flags_at, flags | DELETED);
                set_counts(node, live - 1, deleted + 1);
                self.node_bytes = self.node_bytes + node.capacity() - before;
            }
        }
        self.length -= 1;
        self.deleted = self.deleted.max(id);
        if id == self.first {
            self.find_first();
        }
        true
    }

    fn drop_node(&mut self, first: Id) {
        if let Some(node) = self.nodes.remove(&first) {
            self.node_bytes -= node.capacity() + NODE_BYTES;
        }
    }

    fn find_first(&mut self) {
        let first = self.range(Id::ZERO, Id::MAX).next().map(|entry| entry.id);
        self.first = first.unwrap_or(Id::ZERO);
    }

    /// Removes the oldest entries; gives how many. `whole` removes whole nodes only, `limit` (0 is none) bounds the work.
    pub(crate) fn trim(&mut self, trim: Trim, whole: bool, limit: usize) -> usize {
        let before = self.length;
        while let Some((&first, node)) = self.nodes.first_key_value() {
            let (live, _) = counts(node);
            if matches!(trim, Trim::Length(most) if self.length <= most)
                || (limit > 0 && before - self.length + live > limit)
            {
                break;
            }
            let goes_whole = match trim {
                Trim::Length(most) => self.length - live >= most,
                Trim::From(id) => entries(first, node).last().is_none_or(|last| last.id < id),
            };
            if goes_whole {
                self.drop_node(first);
                self.length -= live;
                continue;
            }
            if !whole {
                self.trim_node(first, trim);
            }
            break;
        }
        if before != self.length {
            self.find_first();
        }
        before - self.length
    }

    /// Marks the oldest entries of the first node as deleted.
    fn trim_node(&mut self, first: Id, trim: Trim) {
        let Some(node) = self.nodes.get_mut(&first) else { return };
        let (live, deleted) = counts(node);
        let most = match trim {
            Trim::Length(most) => self.length.saturating_sub(most),
            Trim::From(_) => usize::MAX,
        };
        let doomed: Vec<(usize, i64)> = entries(first, node)
            .take_while(|entry| !matches!(trim, Trim::From(id) if entry.id >= id))
            .filter(|entry| !entry.is_deleted())
            .take(most)
            .map(|entry| (entry.flags_at, entry.flags))
            .collect();
        for (at, flags) in &doomed {
            node.replace_int(*at, flags | DELETED);
        }
        let before = node.capacity();
        set_counts(node, live - doomed.len(), deleted + doomed.len());
        self.node_bytes = self.node_bytes + node.capacity() - before;
        self.length -= doomed.len();
    }

    pub(crate) fn groups(&self) -> &BTreeMap<Box<[u8]>, Group> {
        &self.groups
    }

    pub(crate) fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Makes a group; says whether the name was free.
    pub(crate) fn add_group(&mut self, name: &[u8], group: Group) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        self.group_bytes += GROUP_BYTES + name.len() + group.bytes();
        self.groups.insert(name.into(), group);
        true
    }

    pub(crate) fn drop_group(&mut self, name: &[u8]) -> bool {
        let Some(group) = self.groups.remove(name) else { return false };
        self.group_bytes -= GROUP_BYTES + name.len() + group.bytes();
        true
    }

    /// Changes a group and settles the account of its memory.
    pub(crate) fn edit_group<R>(
        &mut self,
        name: &[u8],
        change: impl FnOnce(&mut Group) -> R,
    ) -> Option<R> {
        let group = self.groups.get_mut(name)?;
        let before = group.bytes();
        let result = change(group);
        self.group_bytes = self.group_bytes + group.bytes() - before;
        Some(result)
    }

    /// Notes that a group was given an entry.
    pub(crate) fn deliver(&mut self, name: &[u8], id: Id) {
        let Some(group) = self.groups.get(name) else { return };
        if id <= group.last {
            return;
        }
        let read = match group.read {
            Some(read) if !self.has_gaps(id) => Some(read + 1),
            _ if self.added > 0 => self.estimate(id),
            read => read,
        };
        if let Some(group) = self.groups.get_mut(name) {
            (group.last, group.read) = (id, read);
        }
    }

    /// Whether something was deleted from this id on.
    fn has_gaps(&self, from: Id) -> bool {
        self.length > 0
            && self.deleted != Id::ZERO
            && self.first <= self.deleted
            && from <= self.deleted
    }

    /// How many entries came up to this id since the stream was made, if that can be known.
    fn estimate(&self, id: Id) -> Option<u64> {
        if self.added == 0 {
            return Some(0);
        }
        if self.length == 0 && id < self.last {
            return Some(self.added);
        }
        if id >= self.last {
            return (id == self.last).then_some(self.added);
        }
        if self.deleted != Id::ZERO && self.deleted >= self.first {
            return None;
        }
        let before = self.added.saturating_sub(self.length as u64);
        match id.cmp(&self.first) {
            std::cmp::Ordering::Less => Some(before),
            std::cmp::Ordering::Equal => Some(before + 1),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// How many entries a group has yet to read, if that is known.
    pub(crate) fn lag(&self, group: &Group) -> Option<i64> {
        if self.added == 0 {
            return Some(0);
        }
        let read = match group.read {
            Some(read) if !self.has_gaps(group.last) => Some(read),
            _ => self.estimate(group.last),
        };
        read.map(|read| (self.added as i64).wrapping_sub(read as i64))
    }

    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.node_bytes + self.group_bytes
    }

    /// How many nodes Redis's tree of such keys has.
    pub(crate) fn tree_nodes(&self) -> usize {
        let keys: Vec<[u8; 16]> = self.nodes.keys().map(|id| id.to_bytes()).collect();
        1 + tree_nodes(&keys, 0)
    }
}

/// Nodes of a tree of compressed prefixes, below the one that is there anyway.
fn tree_nodes(keys: &[[u8; 16]], depth: usize) -> usize {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return 0 };
    let shared = (depth..16).take_while(|at| first[*at] == last[*at]).count();
    let chain = usize::from(shared > 0);
    let depth = depth + shared;
    if depth == 16 {
        return chain;
    }
    let mut nodes = chain;
    for branch in keys.chunk_by(|a, b| a[depth] == b[depth]) {
        nodes += 1 + tree_nodes(branch, depth + 1);
    }
    nodes
}

fn set_counts(node: &mut Pack, live: usize, deleted: usize) {
    node.replace_int(Pack::first(), live as i64);
    node.replace_int(skip(node, Pack::first(), 1), deleted as i64);
}

/// Whether the node's first entry has exactly these fields.
fn has_fields<'a>(node: &Pack, pairs: usize, fields: impl Iterator<Item = &'a [u8]>) -> bool {
    if int_at(node, skip(node, Pack::first(), 2)) != pairs as i64 {
        return false;
    }
    let mut at = master_fields(node);
    for field in fields {
        match node.read(at) {
            Some((item, next)) if item.is(field) => at = next,
            _ => return false,
        }
    }
    true
}

/// Whether a foreign node can be read to its end and holds growing ids.
fn is_sound(first: Id, node: &Pack) -> bool {
    let items = node.iter().count();
    let fields = int_at(node, skip(node, Pack::first(), 2));
    if items < 4 || !(0..=items as i64).contains(&fields) {
        return false;
    }
    let (live, deleted) = counts(node);
    let mut seen = (0, 0);
    let mut used = 4 + fields as usize;
    let mut previous: Option<Id> = None;
    for entry in entries(first, node) {
        if previous.is_some_and(|previous| entry.id <= previous) || entry.id < first {
            return false;
        }
        previous = Some(entry.id);
        let is_same = entry.flags & SAME_FIELDS != 0;
        used += 4 + if is_same { entry.pairs } else { 1 + entry.pairs.saturating_mul(2) };
        if entry.is_deleted() { seen.1 += 1 } else { seen.0 += 1 }
    }
    used == items && seen == (live, deleted)
}

impl Group {
    fn bytes(&self) -> usize {
        // Names are counted as short ones: walking all consumers at each change would cost more than it tells.
        self.consumers.len() * CONSUMER_BYTES + self.pending.len() * PENDING_BYTES
    }

    /// The consumer of a name, made if it is not there; says whether it was made.
    pub(crate) fn consumer(&mut self, name: &[u8], seen: i64) -> (Arc<[u8]>, bool) {
        if let Some((known, _)) = self.consumers.get_key_value(name) {
            let known = known.clone();
            if let Some(consumer) = self.consumers.get_mut(name) {
                consumer.seen = seen;
            }
            return (known, false);
        }
        let shared: Arc<[u8]> = name.into();
        self.consumers.insert(shared.clone(), Consumer { seen, pending: BTreeSet::new() });
        (shared, true)
    }

    /// Makes an entry pending for a consumer, whoever had it before.
    pub(crate) fn assign(&mut self, id: Id, pending: Pending) {
        self.acknowledge(id);
        if let Some(consumer) = self.consumers.get_mut(&pending.consumer) {
            consumer.pending.insert(id);
            self.pending.insert(id, pending);
        }
    }

    /// Forgets a pending entry; says whether it was there.
    pub(crate) fn acknowledge(&mut self, id: Id) -> bool {
        let Some(pending) = self.pending.remove(&id) else { return false };
        if let Some(consumer) = self.consumers.get_mut(&pending.consumer) {
            consumer.pending.remove(&id);
        }
        true
    }

    /// Removes a consumer with what is pending for it; gives how much that was.
    pub(crate) fn drop_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let consumer = self.consumers.remove(name)?;
        for id in &consumer.pending {
            self.pending.remove(id);
        }
        Some(consumer.pending.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(stream: &mut Stream, count: u64) {
        for number in 1..=count {
            let text = number.to_string();
            let fields: [&[u8]; 4] = if number.is_multiple_of(7) {
                [b"other", text.as_bytes(), b"b", b"x"]
            } else {
                [b"a", text.as_bytes(), b"b", b"x"]
            };
            stream.append(Id { ms: number, seq: 3 }, fields.into_iter(), (4_096, 100));
        }
    }

    fn ids(stream: &Stream) -> Vec<u64> {
        stream.range(Id::ZERO, Id::MAX).map(|entry| entry.id.ms).collect()
    }

    #[test]
    fn ranges_deletions_and_trims_agree_with_a_list() {
        let mut stream = Stream::default();
        fill(&mut stream, 1_000);
        let mut model: Vec<u64> = (1..=1_000).collect();
        let mut random = 5u64;
        for _ in 0..300 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let ms = (random >> 40) % 1_000 + 1;
            let was_there = model.contains(&ms);
            assert_eq!(stream.delete(Id { ms, seq: 3 }), was_there);
            model.retain(|other| *other != ms);
            assert_eq!(stream.first.ms, model[0]);
        }
        assert_eq!((ids(&stream), stream.length), (model.clone(), model.len()));
        let falling: Vec<u64> =
            stream.range_falling(Id::ZERO, Id::MAX).map(|entry| entry.id.ms).collect();
        assert!(falling.iter().rev().eq(model.iter()));
        for entry in stream.range(Id { ms: 100, seq: 0 }, Id { ms: 300, seq: 9 }) {
            let items: Vec<Vec<u8>> = entry.items().map(Item::to_vec).collect();
            let field = if entry.id.ms.is_multiple_of(7) { "other" } else { "a" };
            let expected = [field.into(), entry.id.ms.to_string(), "b".into(), "x".into()];
            assert_eq!(items, expected.map(String::into_bytes));
        }
        let before = stream.length;
        assert_eq!(stream.trim(Trim::Length(400), false, 0), before - 400);
        assert_eq!(ids(&stream), model[before - 400..]);
        let whole = stream.trim(Trim::Length(390), true, 0);
        assert!(stream.length >= 390 && stream.length == 400 - whole);
        stream.trim(Trim::From(Id { ms: 900, seq: 0 }), false, 0);
        assert_eq!(stream.first.ms, *model.iter().find(|ms| **ms >= 900).unwrap());
        let held: usize = stream.nodes.values().map(|node| node.capacity() + NODE_BYTES).sum();
        assert_eq!(stream.node_bytes, held);
        assert!(stream.range(Id::MAX, Id::ZERO).next().is_none());
    }

    #[test]
    fn a_small_entry_takes_few_bytes() {
        let mut stream = Stream::default();
        fill(&mut stream, 10_000);
        assert!(stream.held_bytes() < 10_000 * 24, "{}", stream.held_bytes());
    }

    #[test]
    fn a_node_that_lies_is_refused() {
        let mut stream = Stream::default();
        fill(&mut stream, 50);
        let (first, node) = stream.nodes().next().unwrap();
        let (first, node) = (*first, node.clone());
        assert!(Stream::default().push_node(first, node.clone()));
        for place in 0..3 {
            let mut lying = node.clone();
            lying.replace_int(skip(&lying, Pack::first(), place), 49);
            assert!(!Stream::default().push_node(first, lying), "{place}");
        }
    }

    #[test]
    fn nodes_of_the_tree_are_counted_as_redis_counts_them() {
        let mut stream = Stream::default();
        assert_eq!(stream.tree_nodes(), 1);
        stream.append(Id { ms: 1, seq: 1 }, [&b"a"[..], b"b"].into_iter(), (1, 1));
        assert_eq!(stream.tree_nodes(), 2);
        stream.append(Id { ms: 1, seq: 2 }, [&b"a"[..], b"b"].into_iter(), (1, 1));
        // A chain of fifteen bytes, a fork, two ends.
        assert_eq!(stream.tree_nodes(), 4);
    }
}
