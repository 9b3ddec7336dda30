use std::sync::Arc;

use base::Timestamp;
use bytes::Bytes;

/// How hard a message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
    /// From clients to the broker only; subscribers get `AtLeastOnce`.
    ExactlyOnce,
}

/// One published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: Qos,
    /// Whether it replaces the retained message of its topic; an empty payload removes that.
    pub retain: bool,
    /// The client identifier of the sender; empty when the server itself sends.
    pub client: Arc<str>,
    pub received: Timestamp,
    /// After this moment nobody gets it any more.
    pub expires: Option<Timestamp>,
    pub properties: Properties,
}

/// What MQTT 5 senders say about a message; handed to MQTT 5 subscribers unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// The payload is said to be UTF-8 text; nobody checked.
    pub is_utf8: bool,
    pub content_type: Option<Arc<str>>,
    pub response_topic: Option<Arc<str>>,
    pub correlation: Option<Bytes>,
    pub user: Vec<(Arc<str>, Arc<str>)>,
}

/// What a message costs beside its bytes: the allocations that hold it.
const OVERHEAD_BYTES: usize = 160;
const PAIR_BYTES: usize = 64;

impl Message {
    /// What it counts for in the limits of queues and retained messages.
    pub(crate) fn cost(&self) -> usize {
        let properties = &self.properties;
        let texts = [&properties.content_type, &properties.response_topic];
        let pairs = properties.user.iter().map(|(key, value)| key.len() + value.len() + PAIR_BYTES);
        OVERHEAD_BYTES
            + self.topic.len()
            + self.payload.len()
            + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
            + properties.correlation.as_ref().map_or(0, Bytes::len)
            + pairs.sum::<usize>()
    }

    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The seconds that are left, as the protocol writes them: rounded up, so never 0.
    pub(crate) fn seconds_left(&self, now: Timestamp) -> Option<u32> {
        let left = self.expires?.since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX).max(1))
    }
}

impl Qos {
    pub(crate) const fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }

    /// What a subscriber is granted of it: the broker delivers at least once at most.
    pub(crate) fn granted(self) -> Self {
        self.min(Self::AtLeastOnce)
    }
}
