//! Who asks, for what, and who decides. Engines and features declare their actions as data;
//! `identity` decides; no door goes round it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::{AccountId, KeyId, OrganisationId};

/// Somebody who proved who they are. Made by an [`Authority`] only (and by tests).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The only organisation whose things they can reach.
    pub organisation: OrganisationId,
    pub subject: Subject,
    /// For people and logs: an e-mail address or a key's label.
    pub name: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Account(AccountId),
    Key(KeyId),
    /// A part of Madang itself, such as the sample's replay.
    System(&'static str),
}

/// A deed that can be granted, as `room.verb`: `devices.write`, `mqtt.publish`, `lake.query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Action(pub &'static str);

/// What a deed is done to: a slash-separated path inside one organisation, `device/roof-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    pub organisation: OrganisationId,
    pub path: &'a str,
}

/// Why somebody was not let in. Says nothing about what exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no valid credentials")]
    Unauthenticated,
    #[error("not allowed")]
    Forbidden,
    #[error("too many attempts, try again later")]
    TooMany,
    #[error("credentials cannot be checked now")]
    Unavailable,
}

/// The door that somebody came through, for the audit log and for what a key may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    Http,
    Mqtt,
    Resp,
    Stomp,
}

/// Decides who somebody is and what they may do. One for all doors.
pub trait Authority: Send + Sync + 'static {
    /// Finds the holder of a generated key by its id and secret.
    fn authenticate<'a>(
        &'a self,
        door: Door,
        key: &'a str,
        secret: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>>;

    /// Answers from memory; doors call it for every deed.
    fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused>;

    /// The same, by a door that says which it is, for the log of refusals.
    fn authorize_at(
        &self,
        _door: Door,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        self.authorize(principal, action, resource)
    }

    /// Changes with every change of keys and grants, so that doors look again at open connections.
    fn epoch(&self) -> watch::Receiver<u64>;

    /// By which somebody signs in, for lists that show who did something and keep no more than an id; nothing once they left.
    fn address_of(&self, _organisation: OrganisationId, _account: AccountId) -> Option<Arc<str>> {
        None
    }

    /// Whether the principal's account or key is still there.
    fn is_current(&self, principal: &Principal) -> bool;
}
