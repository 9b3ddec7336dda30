//! What the broker says, as bytes. Written here and not by the codec crate: its writer needs an owned packet for each
//! delivery, and underflows when a client's Maximum Packet Size is small.

use bytes::{BufMut, BytesMut};

use crate::packet::{Reason, Version};
use crate::{Message, Properties, Qos};

/// One delivery of a message to one client.
pub(crate) struct Delivered<'a> {
    pub(crate) message: &'a Message,
    pub(crate) qos: Qos,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) id: u16,
    /// Seconds that are left.
    pub(crate) expiry: Option<u32>,
    pub(crate) identifiers: &'a [u32],
}

/// Appends a PUBLISH, unless it would be larger than `bytes_max`; says whether it did.
pub(crate) fn publish(
    out: &mut BytesMut,
    version: Version,
    delivered: &Delivered<'_>,
    bytes_max: u32,
) -> bool {
    let message = delivered.message;
    let properties = match version {
        Version::V3 => 0,
        Version::V5 => properties_bytes(delivered),
    };
    let mut body = 2 + message.topic.len() + message.payload.len();
    if delivered.qos != Qos::AtMostOnce {
        body += 2;
    }
    if version == Version::V5 {
        body += length_bytes(properties) + properties;
    }
    let total = 1 + length_bytes(body) + body;
    if total > bytes_max as usize {
        return false;
    }
    out.reserve(total);
    let flags = u8::from(delivered.dup) << 3 | delivered.qos.bits() << 1;
    out.put_u8(0x30 | flags | u8::from(delivered.retain));
    put_length(out, body);
    put_text(out, &message.topic);
    if delivered.qos != Qos::AtMostOnce {
        out.put_u16(delivered.id);
    }
    if version == Version::V5 {
        put_length(out, properties);
        put_properties(out, delivered);
    }
    out.put_slice(&message.payload);
    true
}

fn properties_bytes(delivered: &Delivered<'_>) -> usize {
    let Properties { is_utf8, content_type, response_topic, correlation, user } =
        &delivered.message.properties;
    let texts = [content_type, response_topic].into_iter().flatten().map(|text| 3 + text.len());
    let identifiers =
        delivered.identifiers.iter().map(|identifier| 1 + length_bytes(*identifier as usize));
    2 * usize::from(*is_utf8)
        + 5 * usize::from(delivered.expiry.is_some())
        + texts.sum::<usize>()
        + correlation.as_ref().map_or(0, |data| 3 + data.len())
        + identifiers.sum::<usize>()
        + user.iter().map(|(key, value)| 5 + key.len() + value.len()).sum::<usize>()
}

fn put_properties(out: &mut BytesMut, delivered: &Delivered<'_>) {
    let properties = &delivered.message.properties;
    if properties.is_utf8 {
        out.put_slice(&[0x01, 1]);
    }
    if let Some(seconds) = delivered.expiry {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    if let Some(content_type) = &properties.content_type {
        out.put_u8(0x03);
        put_text(out, content_type);
    }
    if let Some(topic) = &properties.response_topic {
        out.put_u8(0x08);
        put_text(out, topic);
    }
    if let Some(data) = &properties.correlation {
        out.put_u8(0x09);
        put_bytes(out, data);
    }
    for identifier in delivered.identifiers {
        out.put_u8(0x0B);
        put_length(out, *identifier as usize);
    }
    for (key, value) in &properties.user {
        out.put_u8(0x26);
        put_text(out, key);
        put_text(out, value);
    }
}

/// The packets that answer a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Ack = 0x40,
    Received = 0x50,
    Complete = 0x70,
}

/// PUBACK, PUBREC and PUBCOMP. Version 3 has room for the identifier only.
pub(crate) fn answer(out: &mut BytesMut, answer: Answer, id: u16, why: Why<'_>) {
    out.put_u8(answer as u8);
    if why.reason == Reason::SUCCESS {
        put_length(out, 2);
        out.put_u16(id);
        return;
    }
    // Without a text the length of the properties may be left out: 3.4.2.2.1.
    let text = if why.text.is_empty() { 0 } else { 1 + text_property_bytes(why.text) };
    put_length(out, 3 + text);
    out.put_u16(id);
    out.put_u8(why.reason.0);
    if text > 0 {
        put_reason_text(out, why.text);
    }
}

/// A reason and, when it is not empty, its text.
#[derive(Clone, Copy)]
pub(crate) struct Why<'a> {
    pub(crate) reason: Reason,
    pub(crate) text: &'a str,
}

/// SUBACK, and UNSUBACK of MQTT 5. That of 3.1.1 has no codes.
pub(crate) fn codes(out: &mut BytesMut, first: u8, id: u16, version: Version, codes: &[Reason]) {
    let properties = usize::from(version == Version::V5);
    let codes = if first == 0xB0 && version == Version::V3 { &[] } else { codes };
    out.put_u8(first);
    put_length(out, 2 + properties + codes.len());
    out.put_u16(id);
    out.put_bytes(0, properties);
    for code in codes {
        // Version 3 knows one failure.
        let failed = version == Version::V3 && code.0 >= 0x80;
        out.put_u8(if failed { 0x80 } else { code.0 });
    }
}

pub(crate) fn pong(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// A DISCONNECT of MQTT 5.
pub(crate) fn disconnect(out: &mut BytesMut, why: Why<'_>) {
    out.put_u8(0xE0);
    put_length(out, 2 + text_property_bytes(why.text));
    out.put_u8(why.reason.0);
    put_reason_text(out, why.text);
}

/// What a CONNACK tells a client that is let in.
#[derive(Debug, Default)]
pub(crate) struct Welcome<'a> {
    pub(crate) session_present: bool,
    pub(crate) assigned: Option<&'a str>,
    /// Only when it is not what the client asked for.
    pub(crate) expiry: Option<u32>,
    pub(crate) keep_alive: Option<u16>,
    pub(crate) receive_max: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) topic_alias_max: u16,
}

pub(crate) fn welcome(out: &mut BytesMut, version: Version, welcome: &Welcome<'_>) {
    let present = u8::from(welcome.session_present);
    if version == Version::V3 {
        out.put_slice(&[0x20, 2, present, 0]);
        return;
    }
    let mut properties = BytesMut::with_capacity(64);
    if let Some(seconds) = welcome.expiry {
        properties.put_u8(0x11);
        properties.put_u32(seconds);
    }
    properties.put_u8(0x21);
    properties.put_u16(welcome.receive_max);
    properties.put_u8(0x27);
    properties.put_u32(welcome.packet_bytes_max);
    if let Some(client) = welcome.assigned {
        properties.put_u8(0x12);
        put_text(&mut properties, client);
    }
    if welcome.topic_alias_max > 0 {
        properties.put_u8(0x22);
        properties.put_u16(welcome.topic_alias_max);
    }
    // Shared subscriptions are not available.
    properties.put_slice(&[0x2A, 0]);
    if let Some(seconds) = welcome.keep_alive {
        properties.put_u8(0x13);
        properties.put_u16(seconds);
    }
    out.put_u8(0x20);
    put_length(out, 2 + length_bytes(properties.len()) + properties.len());
    out.put_slice(&[present, 0]);
    put_length(out, properties.len());
    out.put_slice(&properties);
}

/// A CONNACK that refuses.
pub(crate) fn refusal(out: &mut BytesMut, version: Version, why: Why<'_>) {
    if version == Version::V3 {
        let code = match why.reason {
            Reason::CLIENT_ID => 2,
            Reason::CREDENTIALS => 4,
            Reason::NOT_AUTHORIZED => 5,
            _ => 3,
        };
        out.put_slice(&[0x20, 2, 0, code]);
        return;
    }
    out.put_u8(0x20);
    put_length(out, 3 + text_property_bytes(why.text));
    out.put_slice(&[0, why.reason.0]);
    put_reason_text(out, why.text);
}

fn text_property_bytes(text: &str) -> usize {
    if text.is_empty() { 0 } else { 3 + text.len() }
}

/// The length of the properties and the Reason String; texts are a few hundred bytes at most.
fn put_reason_text(out: &mut BytesMut, text: &str) {
    debug_assert!(text.len() <= REASON_BYTES_MAX, "a reason is short");
    put_length(out, text_property_bytes(text));
    if !text.is_empty() {
        out.put_u8(0x1F);
        put_text(out, text);
    }
}

/// With it the length of all properties is a single byte.
pub(crate) const REASON_BYTES_MAX: usize = 120;

fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("it came from a packet, where lengths are u16");
    out.put_u16(length);
    out.put_slice(bytes);
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7F).expect("seven bits fit");
        length >>= 7;
        if length == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

const fn length_bytes(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use base::Timestamp;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::decode;
    use crate::packet::Packet;

    fn texts() -> impl Strategy<Value = Option<std::sync::Arc<str>>> {
        prop::option::of("[a-z]{0,200}".prop_map(Into::into))
    }

    prop_compose! {
        fn messages()(
            topic in "[a-z/]{1,200}",
            payload in prop::collection::vec(any::<u8>(), 0..20_000),
            is_utf8 in any::<bool>(),
            content_type in texts(),
            response_topic in texts(),
            correlation in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
            user in prop::collection::vec(("[a-z]{0,9}", "[a-z]{0,9}"), 0..20),
        ) -> Message {
            Message {
                topic: topic.into(),
                payload: payload.into(),
                qos: Qos::AtLeastOnce,
                retain: false,
                client: "".into(),
                received: Timestamp::from_millis(0),
                expires: None,
                properties: Properties {
                    is_utf8,
                    content_type,
                    response_topic,
                    correlation: correlation.map(Bytes::from),
                    user: user.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn a_written_publish_is_read_as_it_was(
            message in messages(),
            is_v5 in any::<bool>(),
            qos in prop::sample::select(vec![Qos::AtMostOnce, Qos::AtLeastOnce]),
            expiry in prop::option::of(1_u32..),
            identifiers in prop::collection::vec(1_u32..0x0FFF_FFFF, 0..4),
        ) {
            let version = if is_v5 { Version::V5 } else { Version::V3 };
            let delivered = Delivered {
                message: &message,
                qos,
                dup: false,
                retain: true,
                id: 7,
                expiry,
                identifiers: &identifiers,
            };
            let mut out = BytesMut::new();
            prop_assert!(publish(&mut out, version, &delivered, u32::MAX));
            let size = u32::try_from(out.len()).unwrap();
            prop_assert!(!publish(&mut BytesMut::new(), version, &delivered, size - 1));
            prop_assert!(publish(&mut BytesMut::new(), version, &delivered, size));
            let frame = decode::take_frame(&mut out, size).unwrap().unwrap();
            prop_assert!(out.is_empty());
            let Packet::Publish(read) = decode::packet(version, frame).unwrap() else { panic!() };
            prop_assert_eq!(&read.topic, &message.topic);
            prop_assert_eq!(&read.payload, &message.payload);
            prop_assert_eq!((read.qos, read.retain), (qos, true));
            if is_v5 {
                prop_assert_eq!(&read.properties, &message.properties);
                prop_assert_eq!((read.expiry, &read.identifiers), (expiry, &identifiers));
            }
        }
    }
}
