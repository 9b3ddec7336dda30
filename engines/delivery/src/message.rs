use std::fmt;

use base::{Id, OrganisationId, Timestamp};

use crate::EmailAddress;

/// Marks the ids of messages; never constructed.
#[derive(Debug)]
pub enum Outgoing {}

/// Names one message in Madang; its `Message-ID` header is another thing.
pub type MessageId = Id<Outgoing>;

/// An e-mail to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingMail {
    pub organisation: OrganisationId,
    pub to: EmailAddress,
    /// Line breaks and other control characters become spaces.
    pub subject: String,
    /// Plain text.
    pub body_text: String,
    /// Says which deed this mail tells of, such as an event's id and the number of the rule's action. The same key of the
    /// same organisation is one message, and one `Message-ID`.
    pub idempotency_key: String,
}

/// What became of an [`OutgoingMail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It is sent once the transaction is committed.
    Waiting(MessageId),
    /// It is kept: no server is configured.
    Held(MessageId),
    /// This idempotency key was there before, so nothing was added.
    Repeated(MessageId),
}

impl Enqueued {
    pub fn id(self) -> MessageId {
        match self {
            Self::Waiting(id) | Self::Held(id) | Self::Repeated(id) => id,
        }
    }
}

/// A message as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: MessageId,
    pub channel: Channel,
    pub to: String,
    pub subject: String,
    pub body: String,
    pub state: State,
    /// Attempts begun so far.
    pub attempts: u32,
    /// When it is tried next; of a message being sent, when that attempt is taken for crashed.
    pub next_attempt: Option<Timestamp>,
    /// Why the last attempt failed; nothing once it was sent.
    pub last_error: Option<String>,
    /// The `Message-ID` header with its angle brackets, the same at every attempt.
    pub message_id: String,
    pub created: Timestamp,
    pub sent: Option<Timestamp>,
}

/// By what a message goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    Email,
}

impl Channel {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        (name == Self::Email.name()).then_some(Self::Email)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a message is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Kept since no server was configured; leaves by [`crate::Delivery::release`] only.
    Held,
    Waiting,
    Sending,
    Sent,
    /// Refused for good or out of attempts; leaves by [`crate::Delivery::retry`] only.
    Failed,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Held, Self::Waiting, Self::Sending, Self::Sent, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many messages of an organisation are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub held: u64,
    pub waiting: u64,
    pub sending: u64,
    pub sent: u64,
    pub failed: u64,
}

impl Counts {
    pub(crate) fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Held => &mut self.held,
            State::Waiting => &mut self.waiting,
            State::Sending => &mut self.sending,
            State::Sent => &mut self.sent,
            State::Failed => &mut self.failed,
        }
    }
}
