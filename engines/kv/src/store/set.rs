use indexmap::IndexSet;

use super::number::parse_i64;

/// What a member costs beside its bytes: its place in the map and an allocation.
const MEMBER_BYTES: usize = 48;

/// Members without an order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Set {
    members: IndexSet<Box<[u8]>>,
    content_bytes: usize,
    /// How many members are no whole numbers.
    words: usize,
    has_had_words: bool,
}

impl Set {
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn has(&self, member: &[u8]) -> bool {
        self.members.contains(member)
    }

    /// Whether the member is new.
    pub(crate) fn add(&mut self, member: &[u8]) -> bool {
        if self.members.contains(member) {
            return false;
        }
        self.members.insert(member.into());
        self.content_bytes += member.len();
        if parse_i64(member).is_none() {
            self.words += 1;
            self.has_had_words = true;
        }
        true
    }

    pub(crate) fn remove(&mut self, member: &[u8]) -> bool {
        let Some(member) = self.members.swap_take(member) else { return false };
        self.content_bytes -= member.len();
        self.words -= usize::from(parse_i64(&member).is_none());
        if self.members.capacity() > 64 && self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
        true
    }

    /// Lets a computed set be held as if it were new.
    pub(crate) fn renew(&mut self) {
        self.has_had_words = self.words > 0;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.members.iter().map(|member| &**member)
    }

    pub(crate) fn at(&self, index: usize) -> Option<&[u8]> {
        self.members.get_index(index).map(|member| &**member)
    }

    /// Whether Redis would hold it as sorted numbers.
    pub(crate) fn is_numbers(&self, entries_max: usize) -> bool {
        !self.has_had_words && self.len() <= entries_max
    }

    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.content_bytes + self.members.capacity() * MEMBER_BYTES
    }
}
