//! What clients say, the same for both versions of the protocol.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Properties, Qos};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1, protocol level 4.
    V3,
    /// 5.0, protocol level 5.
    V5,
}

#[derive(Debug)]
pub(crate) enum Packet {
    Connect(Box<Connect>),
    Publish(Box<Publish>),
    PublishAck { id: u16 },
    PublishRelease { id: u16 },
    Subscribe(Subscribe),
    Unsubscribe { id: u16, filters: Vec<String> },
    Ping,
    Disconnect { reason: u8, expiry: Option<u32> },
}

#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client: String,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive: u16,
    /// Seconds; 0 ends the session with the connection.
    pub(crate) expiry: u32,
    pub(crate) receive_max: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) wants_problems: bool,
    pub(crate) wants_enhanced: bool,
    pub(crate) will: Option<Will>,
    pub(crate) key: Option<String>,
    pub(crate) secret: Option<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Will {
    pub(crate) delay: u32,
    pub(crate) publish: Publish,
}

#[derive(Debug)]
pub(crate) struct Publish {
    /// Empty when only the alias names it.
    pub(crate) topic: Arc<str>,
    pub(crate) alias: Option<u16>,
    /// 0 in `Qos::AtMostOnce`.
    pub(crate) id: u16,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) expiry: Option<u32>,
    pub(crate) payload: Bytes,
    pub(crate) properties: Properties,
    /// Only the broker writes them; read from stored packets.
    pub(crate) identifiers: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Subscribe {
    pub(crate) id: u16,
    pub(crate) filters: Vec<(String, Options)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retained: RetainedAt,
    pub(crate) identifier: Option<u32>,
}

/// When a subscription gets the retained messages: MQTT 5, section 3.8.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetainedAt {
    Subscribe,
    NewSubscribe,
    Never,
}

/// Why a connection ends before its client says so. MQTT 5 clients are told in a DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Close {
    pub(crate) reason: Reason,
    pub(crate) text: &'static str,
}

impl Close {
    pub(crate) const fn malformed(text: &'static str) -> Self {
        Self { reason: Reason::MALFORMED, text }
    }

    pub(crate) const fn protocol(text: &'static str) -> Self {
        Self { reason: Reason::PROTOCOL, text }
    }

    pub(crate) const fn of(reason: Reason, text: &'static str) -> Self {
        Self { reason, text }
    }
}

/// A reason code: MQTT 5, section 2.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) u8);

impl Reason {
    pub(crate) const SUCCESS: Self = Self(0x00);
    pub(crate) const NO_SUBSCRIPTION: Self = Self(0x11);
    pub(crate) const MALFORMED: Self = Self(0x81);
    pub(crate) const PROTOCOL: Self = Self(0x82);
    pub(crate) const VERSION: Self = Self(0x84);
    pub(crate) const CLIENT_ID: Self = Self(0x85);
    pub(crate) const CREDENTIALS: Self = Self(0x86);
    pub(crate) const NOT_AUTHORIZED: Self = Self(0x87);
    pub(crate) const UNAVAILABLE: Self = Self(0x88);
    pub(crate) const BUSY: Self = Self(0x89);
    pub(crate) const SHUTTING_DOWN: Self = Self(0x8B);
    pub(crate) const AUTH_METHOD: Self = Self(0x8C);
    pub(crate) const KEEP_ALIVE: Self = Self(0x8D);
    pub(crate) const TAKEN_OVER: Self = Self(0x8E);
    pub(crate) const FILTER: Self = Self(0x8F);
    pub(crate) const TOPIC: Self = Self(0x90);
    pub(crate) const ID_NOT_FOUND: Self = Self(0x92);
    pub(crate) const RECEIVE_MAX: Self = Self(0x93);
    pub(crate) const ALIAS: Self = Self(0x94);
    pub(crate) const TOO_LARGE: Self = Self(0x95);
    pub(crate) const QUOTA: Self = Self(0x97);
    pub(crate) const PAYLOAD: Self = Self(0x99);
    pub(crate) const SHARED: Self = Self(0x9E);
    pub(crate) const RATE: Self = Self(0x9F);
}
