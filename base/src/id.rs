use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use uuid::Uuid;

use crate::{Entropy, Timestamp};

/// An identity of one kind of thing: a UUID version 7 (RFC 9562), so later ids sort after earlier ones.
pub struct Id<Kind> {
    uuid: Uuid,
    kind: PhantomData<fn() -> Kind>,
}

/// The kinds of ids; never constructed.
mod kind {
    #[derive(Debug)]
    pub enum Organisation {}
    #[derive(Debug)]
    pub enum Account {}
    #[derive(Debug)]
    pub enum Key {}
    #[derive(Debug)]
    pub enum Event {}
    #[derive(Debug)]
    pub enum Command {}
}

pub type OrganisationId = Id<kind::Organisation>;
pub type AccountId = Id<kind::Account>;
/// Names a key; the secret that goes with it is not part of it.
pub type KeyId = Id<kind::Key>;
/// Travels with an event from the commit that made it to every effect that it has.
pub type EventId = Id<kind::Event>;
/// Travels with a command from the commit that sent it through every attempt.
pub type CommandId = Id<kind::Command>;

impl<Kind> Id<Kind> {
    pub fn new(now: Timestamp, entropy: &Entropy) -> Self {
        let millis = u64::try_from(now.millis()).unwrap_or(0);
        let mut chance = [0; 10];
        entropy.fill(&mut chance);
        Self::from(uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid())
    }

    /// An id that is the same in every installation, for things that exist from the first start.
    pub const fn fixed(number: u128) -> Self {
        Self { uuid: Uuid::from_u128(number), kind: PhantomData }
    }

    pub const fn bytes(&self) -> &[u8; 16] {
        self.uuid.as_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from(Uuid::from_bytes(bytes))
    }
}

impl OrganisationId {
    /// The organisation of a team that never made another.
    pub const DEFAULT: Self = Self::fixed(1);
}

impl<Kind> From<Uuid> for Id<Kind> {
    fn from(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }
}

impl<Kind> FromStr for Id<Kind> {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Uuid>().map(Self::from)
    }
}

impl<Kind> fmt::Display for Id<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.as_hyphenated().fmt(f)
    }
}

impl<Kind> fmt::Debug for Id<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Written out: a derive would ask the same of `Kind`, which is never a value.
impl<Kind> Clone for Id<Kind> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Kind> Copy for Id<Kind> {}
impl<Kind> PartialEq for Id<Kind> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<Kind> Eq for Id<Kind> {}
impl<Kind> PartialOrd for Id<Kind> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<Kind> Ord for Id<Kind> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<Kind> Hash for Id<Kind> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ids_sort_after_earlier_ones_and_survive_text() {
        let entropy = Entropy::seeded(7);
        let early = EventId::new(Timestamp::from_millis(1_000), &entropy);
        let late = EventId::new(Timestamp::from_millis(2_000), &entropy);
        assert!(early < late);
        assert_eq!(early.to_string().parse::<EventId>().unwrap(), early);
        assert_eq!(EventId::from_bytes(*late.bytes()), late);
        assert!("not-an-id".parse::<EventId>().is_err());
    }
}
