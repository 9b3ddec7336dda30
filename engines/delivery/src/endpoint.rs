use std::fmt;

use base::{Id, OrganisationId, Timestamp};
use serde_json::Value;

use crate::{Channel, EmailAddress, Secret};

/// Marks the ids of endpoints; never constructed.
#[derive(Debug)]
pub enum Receiver {}

/// Names one endpoint of an organisation.
pub type EndpointId = Id<Receiver>;

/// An event told to one endpoint: as signed JSON to a webhook, as a text to Slack.
#[derive(Debug, Clone, PartialEq)]
pub struct OutgoingEvent {
    pub organisation: OrganisationId,
    pub endpoint: EndpointId,
    /// Such as `alert.raised`: what happened, in words of letters, digits and `_` with full stops between them.
    pub event_type: String,
    pub occurred: Timestamp,
    /// For people: what Slack shows.
    pub text: String,
    /// For programs: what a webhook gets as `data`.
    pub data: Value,
    /// As [`crate::OutgoingMail::idempotency_key`]; the receiver's `webhook-id` is made of it.
    pub idempotency_key: String,
}

/// An endpoint to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEndpoint {
    /// [`Channel::Webhook`] or [`Channel::Slack`].
    pub channel: Channel,
    /// For people.
    pub name: String,
    pub url: String,
    /// Which of the events that [`crate::Delivery::publish`] tells it gets; none when empty.
    pub event_types: Vec<String>,
    /// Who is told by mail when it is paused.
    pub contact: Option<EmailAddress>,
    /// Messages a second, instead of its channel's number.
    pub rate_max: Option<u32>,
}

/// What changes of an endpoint; nothing stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointChange {
    pub name: Option<String>,
    pub url: Option<String>,
    pub event_types: Option<Vec<String>>,
    pub contact: Option<Option<EmailAddress>>,
    pub rate_max: Option<Option<u32>>,
    /// On also ends a pause, and lets go what was held; off holds what waits.
    pub is_enabled: Option<bool>,
}

/// An endpoint as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: EndpointId,
    pub channel: Channel,
    pub name: String,
    /// Without its path and query, which may be a secret.
    pub url: String,
    pub event_types: Vec<String>,
    pub contact: Option<EmailAddress>,
    pub rate_max: Option<u32>,
    pub state: EndpointState,
    /// Why it is paused.
    pub reason: Option<String>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Since when nothing was taken, if the last attempt failed.
    pub failing_since: Option<Timestamp>,
    /// Nothing is tried before this moment.
    pub rests_until: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    /// The secrets that sign now, newest first; empty unless it is a webhook.
    pub secrets: Vec<SecretInfo>,
    pub created: Timestamp,
    pub changed: Timestamp,
}

/// That a secret signs, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretInfo {
    pub created: Timestamp,
    /// Nothing for the newest.
    pub expires: Option<Timestamp>,
}

/// A new endpoint, and its secret, which is never shown again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewlyMade {
    pub endpoint: Endpoint,
    /// Of a webhook.
    pub secret: Option<Secret>,
}

/// Whether an endpoint gets messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointState {
    Active,
    /// Switched off by somebody.
    Disabled,
    /// Switched off because it failed for too long, or said that it is gone.
    Paused,
}

impl EndpointState {
    const ALL: [Self; 3] = [Self::Active, Self::Disabled, Self::Paused];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Paused => "paused",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a test of an endpoint gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    pub was_taken: bool,
    /// Nothing when no answer came.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The first bytes of the answer, on one line.
    pub answer: Option<String>,
    pub took: std::time::Duration,
}

/// Whether a text names an event type: words of letters, digits and `_` with full stops between them.
pub(crate) fn is_event_type(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    text.len() <= EVENT_TYPE_BYTES_MAX && text.split('.').all(is_word)
}

const EVENT_TYPE_BYTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_words_with_full_stops() {
        for sound in ["a", "alert.raised", "user_2.created.x"] {
            assert!(is_event_type(sound), "{sound}");
        }
        let long = "a".repeat(101);
        for wrong in ["", ".", "a.", ".a", "a..b", "a b", "a-b", "알림", "a\n", &long] {
            assert!(!is_event_type(wrong), "{wrong}");
        }
    }
}
