use std::fmt;
use std::time::Duration;

use base::{Id, OrganisationId, Timestamp};

use crate::{EmailAddress, EndpointId, OutgoingEvent};

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

/// What can be enqueued: one message on one channel.
#[derive(Debug, Clone, PartialEq)]
pub enum OutgoingMessage {
    Mail(OutgoingMail),
    Event(OutgoingEvent),
}

impl From<OutgoingMail> for OutgoingMessage {
    fn from(mail: OutgoingMail) -> Self {
        Self::Mail(mail)
    }
}

impl From<OutgoingEvent> for OutgoingMessage {
    fn from(event: OutgoingEvent) -> Self {
        Self::Event(event)
    }
}

/// What became of an [`OutgoingMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It is sent once the transaction is committed.
    Waiting(MessageId),
    /// It is kept: no mail server is configured, or the endpoint is switched off.
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
    /// Nothing for a mail, and nothing to be found when the endpoint was deleted.
    pub endpoint: Option<EndpointId>,
    /// An address, or an endpoint's name.
    pub to: String,
    /// Of a mail; the event's type on other channels.
    pub subject: String,
    /// What is sent: a mail's text, or JSON.
    pub body: String,
    pub state: State,
    /// Attempts begun so far.
    pub attempts: u32,
    /// When it is tried next; of a message being sent, when that attempt is taken for crashed.
    pub next_attempt: Option<Timestamp>,
    /// Why the last attempt failed; nothing once it was sent.
    pub last_error: Option<String>,
    /// The `Message-ID` header of a mail with its angle brackets, the `webhook-id` of a webhook: the same at every
    /// attempt. Slack is not told.
    pub message_id: String,
    pub created: Timestamp,
    pub sent: Option<Timestamp>,
}

/// By what a message goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    Email,
    /// Signed JSON by the Standard Webhooks specification.
    Webhook,
    /// A Slack-shaped incoming webhook: `{"text": …}`.
    Slack,
}

impl Channel {
    pub const ALL: [Self; 3] = [Self::Email, Self::Webhook, Self::Slack];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Webhook => "webhook",
            Self::Slack => "slack",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
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
    /// Kept since no mail server is configured, or its endpoint is switched off.
    Held,
    Waiting,
    Sending,
    Sent,
    /// Refused for good or out of attempts; leaves by [`crate::Delivery::retry`] or [`crate::Delivery::discard`] only.
    Failed,
    /// Given up by somebody; kept so that its key is not sent after all.
    Discarded,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Held, Self::Waiting, Self::Sending, Self::Sent, Self::Failed, Self::Discarded];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One attempt to hand a message over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Counts up for ever, from 1.
    pub number: u32,
    pub began: Timestamp,
    pub outcome: AttemptOutcome,
    /// Of HTTP or SMTP; nothing when no answer came.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The first bytes of the answer, on one line.
    pub answer: Option<String>,
    pub took: Option<Duration>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// It runs, or nobody lived to write its end: the receiver may have the message.
    Unknown,
    Sent,
    /// Another attempt follows.
    Retry,
    /// The last one.
    Failed,
}

impl AttemptOutcome {
    const ALL: [Self; 4] = [Self::Unknown, Self::Sent, Self::Retry, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Sent => "sent",
            Self::Retry => "retry",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// Which messages are listed; all of them without any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageFilter {
    pub state: Option<State>,
    pub channel: Option<Channel>,
    pub endpoint: Option<EndpointId>,
}

/// How many messages of an organisation are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub held: u64,
    pub waiting: u64,
    pub sending: u64,
    pub sent: u64,
    pub failed: u64,
    pub discarded: u64,
}

impl Counts {
    pub(crate) fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Held => &mut self.held,
            State::Waiting => &mut self.waiting,
            State::Sending => &mut self.sending,
            State::Sent => &mut self.sent,
            State::Failed => &mut self.failed,
            State::Discarded => &mut self.discarded,
        }
    }
}
