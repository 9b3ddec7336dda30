//! Values that are not strings, each behind a small number that its entry holds.

use super::hash::Hash;
use super::list::List;
use super::set::Set;
use super::sorted::Sorted;
use super::stream::Stream;

/// What kind of value an entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    Hash,
    List,
    Set,
    Sorted,
    Stream,
}

impl Kind {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::String => 0,
            Self::Hash => 1,
            Self::List => 2,
            Self::Set => 3,
            Self::Sorted => 4,
            Self::Stream => 5,
        }
    }

    #[inline]
    pub(crate) const fn of(number: u8) -> Self {
        match number {
            1 => Self::Hash,
            2 => Self::List,
            3 => Self::Set,
            4 => Self::Sorted,
            5 => Self::Stream,
            _ => Self::String,
        }
    }

    /// What TYPE answers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::Sorted => "zset",
            Self::Stream => "stream",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Object {
    /// A number that is not given now.
    Spare,
    Hash(Box<Hash>),
    List(Box<List>),
    Set(Box<Set>),
    Sorted(Box<Sorted>),
    Stream(Box<Stream>),
}

/// A kind of value that is not a string.
pub(crate) trait Collection: Default {
    const KIND: Kind;

    fn of(object: &Object) -> Option<&Self>;
    fn of_mut(object: &mut Object) -> Option<&mut Self>;
    fn wrap(self) -> Object;
    /// Its key goes when it is.
    fn is_empty(&self) -> bool;
    /// About what it holds of memory.
    fn bytes(&self) -> usize;
}

macro_rules! collection {
    ($name:ident, $is_empty:expr) => {
        impl Collection for $name {
            const KIND: Kind = Kind::$name;

            fn of(object: &Object) -> Option<&Self> {
                if let Object::$name(inner) = object { Some(inner) } else { None }
            }

            fn of_mut(object: &mut Object) -> Option<&mut Self> {
                if let Object::$name(inner) = object { Some(inner) } else { None }
            }

            fn wrap(self) -> Object {
                Object::$name(Box::new(self))
            }

            fn is_empty(&self) -> bool {
                let is_empty: fn(&Self) -> bool = $is_empty;
                is_empty(self)
            }

            fn bytes(&self) -> usize {
                self.held_bytes()
            }
        }
    };
}
collection!(Hash, |hash| hash.len() == 0);
collection!(List, |list| list.len() == 0);
collection!(Set, |set| set.len() == 0);
collection!(Sorted, |sorted| sorted.len() == 0);
// A stream without entries has its last id and its groups.
collection!(Stream, |_| false);

impl Object {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Spare | Self::Hash(_) => Kind::Hash,
            Self::List(_) => Kind::List,
            Self::Set(_) => Kind::Set,
            Self::Sorted(_) => Kind::Sorted,
            Self::Stream(_) => Kind::Stream,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Spare => 0,
            Self::Hash(inner) => inner.bytes(),
            Self::List(inner) => inner.bytes(),
            Self::Set(inner) => inner.bytes(),
            Self::Sorted(inner) => inner.bytes(),
            Self::Stream(inner) => inner.bytes(),
        }
    }
}

impl Object {
    pub(crate) fn elements(&self) -> usize {
        match self {
            Self::Spare => 0,
            Self::Hash(inner) => inner.len(),
            Self::List(inner) => inner.len(),
            Self::Set(inner) => inner.len(),
            Self::Sorted(inner) => inner.len(),
            Self::Stream(inner) => inner.length,
        }
    }
}

const CHUNK_BITS: u32 = 12;

/// All objects. It grows by chunks, so that none is ever copied.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    chunks: Vec<Vec<Object>>,
    spare: Vec<u32>,
}

impl Objects {
    pub(crate) fn add(&mut self, object: Object) -> u32 {
        if let Some(number) = self.spare.pop() {
            *self.get_mut(number) = object;
            return number;
        }
        let is_full = self.chunks.last().is_none_or(|chunk| chunk.len() == 1 << CHUNK_BITS);
        if is_full {
            self.chunks.push(Vec::with_capacity(if self.chunks.is_empty() {
                16
            } else {
                1 << CHUNK_BITS
            }));
        }
        let last = self.chunks.len() - 1;
        self.chunks[last].push(object);
        (last << CHUNK_BITS | (self.chunks[last].len() - 1)) as u32
    }

    pub(crate) fn take(&mut self, number: u32) -> Object {
        self.spare.push(number);
        std::mem::replace(self.get_mut(number), Object::Spare)
    }

    pub(crate) fn get(&self, number: u32) -> &Object {
        &self.chunks[(number >> CHUNK_BITS) as usize][(number & ((1 << CHUNK_BITS) - 1)) as usize]
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Object {
        &mut self.chunks[(number >> CHUNK_BITS) as usize]
            [(number & ((1 << CHUNK_BITS) - 1)) as usize]
    }
}
