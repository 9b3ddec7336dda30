//! What devices need from other rooms, in words of their own; the server fulfils it.

use std::pin::Pin;

use base::access::Principal;
use base::{ErrorKind, EventId, Failure, OrganisationId, Timestamp};
use edge::BoxFuture;
use relational::Tx;

/// Work inside a transaction; it stays on the transaction's thread.
pub type TxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Tells people and programs of alerts and of devices' health.
pub trait Notifier: Send + Sync + 'static {
    /// Whether mails can be addressed to this text; asked before a rule is stored.
    fn accepts(&self, address: &str) -> bool;

    /// Whether the organisation has this endpoint; asked before a rule is stored.
    fn knows<'a>(
        &'a self,
        organisation: OrganisationId,
        endpoint: &'a str,
    ) -> BoxFuture<'a, Result<bool, NeedError>>;

    /// Puts a notice into the caller's transaction. The same key again changes nothing. A refusal of the kind
    /// `Invalid` or `TooMany` is noted at the alert; any other stops the pipeline, which tries again.
    fn enqueue<'a>(
        &'a self,
        tx: &'a mut Tx,
        notice: &'a Notice,
    ) -> TxFuture<'a, Result<(), NeedError>>;
}

/// What is told of an alert or of a device's health, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub organisation: OrganisationId,
    /// What happened, such as `alert.raised`.
    pub event: &'static str,
    pub to: Recipient,
    pub subject: String,
    pub body: String,
    /// When the reading was taken, or the health changed.
    pub occurred: Timestamp,
    /// The alert or the health as JSON, for programs.
    pub data: String,
    /// Derived from the rule, the device, the sensor, the reading's time and the place among the rule's
    /// actions: the same after any crash.
    pub key: EventId,
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// By mail.
    Email(String),
    /// A webhook or a Slack channel, by the id of its endpoint.
    Endpoint(String),
    /// Every endpoint that wants to hear of all such events.
    Subscribers,
}

/// Sends messages to devices.
pub trait Messenger: Send + Sync + 'static {
    /// Publishes at QoS 1 in the server's own name. A kept message is given to whoever subscribes later.
    fn publish(
        &self,
        organisation: OrganisationId,
        message: Message,
    ) -> BoxFuture<'_, Result<(), NeedError>>;
}

/// A message to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    /// It is kept for those that subscribe later.
    pub is_kept: bool,
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
