//! Whose keys a group of databases holds.

use base::OrganisationId;

/// The keys of an organisation: those of its clients, or those that rooms of this process keep for it, which no client
/// reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Space {
    pub(crate) organisation: OrganisationId,
    pub(crate) is_for_rooms: bool,
}

const NAME: &[u8] = b"ORGANISATION";
const ROOMS: &[u8] = b"ROOMS";

impl Space {
    pub(crate) fn of_clients(organisation: OrganisationId) -> Self {
        Self { organisation, is_for_rooms: false }
    }

    pub(crate) fn of_rooms(organisation: OrganisationId) -> Self {
        Self { organisation, is_for_rooms: true }
    }

    /// What the log holds of it.
    pub(crate) fn effect(&self) -> Vec<&[u8]> {
        let mut args = vec![NAME, self.organisation.bytes().as_slice()];
        args.extend(self.is_for_rooms.then_some(ROOMS));
        args
    }

    pub(crate) fn read(effect: &[&[u8]]) -> Option<Self> {
        let organisation = OrganisationId::from_bytes((*effect.get(1)?).try_into().ok()?);
        match effect.get(2) {
            None => Some(Self::of_clients(organisation)),
            Some(holder) => (*holder == ROOMS).then(|| Self::of_rooms(organisation)),
        }
    }
}
