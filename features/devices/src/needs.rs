//! What devices need from other rooms, in words of their own; the server fulfils it.

use std::pin::Pin;

use base::access::Principal;
use base::{ErrorKind, EventId, Failure, OrganisationId};
use edge::BoxFuture;
use relational::Tx;

/// Work inside a transaction; it stays on the transaction's thread.
pub type TxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Sends mails.
pub trait Mailer: Send + Sync + 'static {
    /// Whether mails can be addressed to this text; asked before a rule is stored.
    fn accepts(&self, address: &str) -> bool;

    /// Puts a mail into the caller's transaction. The same key again changes nothing. A refusal of the kind
    /// `Invalid` or `TooMany` is noted at the alert; any other stops the pipeline, which tries again.
    fn enqueue<'a>(&'a self, tx: &'a mut Tx, mail: &'a Mail)
    -> TxFuture<'a, Result<(), NeedError>>;
}

/// A mail about an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    pub organisation: OrganisationId,
    pub to: String,
    pub subject: String,
    pub body: String,
    /// Derived from the rule, the device, the sensor, the reading's time and the place among the rule's
    /// actions: the same after any crash.
    pub key: EventId,
}

/// Makes keys for devices.
pub trait KeyIssuer: Send + Sync + 'static {
    fn issue<'a>(
        &'a self,
        principal: &'a Principal,
        request: KeyRequest,
    ) -> BoxFuture<'a, Result<IssuedKey, NeedError>>;
}

/// A key that opens nothing but these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    pub label: String,
    /// Action and resource, such as `mqtt.publish` on `mqtt/data/roof-1`.
    pub grants: Vec<(&'static str, String)>,
}

/// A key with its secret, which is never shown again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedKey {
    pub id: String,
    pub label: String,
    pub token: String,
    pub mqtt_user: String,
    pub mqtt_password: String,
}

/// Why another room did not do what was needed.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct NeedError {
    pub kind: ErrorKind,
    pub source: Failure,
}
