//! Bytes to packets. The codec crate reads the packets; this module cuts them out within a limit, checks what
//! the codec does not, and survives it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::{types, v3, v5};
use tokio_util::codec::Decoder;

use crate::packet::{
    Close, Connect, Options, Packet, Publish, Reason, RetainedAt, Subscribe, Version, Will,
};
use crate::{Properties, Qos};

/// One whole packet.
pub(crate) struct Frame {
    bytes: BytesMut,
    /// Where the fixed header ends.
    body: usize,
}

/// What the first packet of a connection is.
pub(crate) enum Greeting {
    Speaks(Version),
    /// MQTT, but a version that is refused; with the answer that it understands.
    Unacceptable(&'static [u8]),
}

/// Cuts the next packet out of `input`; none while it is incomplete. It is copied, so that what is kept of it does not
/// keep the rest of the buffer.
pub(crate) fn take_frame(input: &mut BytesMut, bytes_max: u32) -> Result<Option<Frame>, Close> {
    let Some((body, length)) = header(input)? else { return Ok(None) };
    let total = body + length;
    if total > bytes_max as usize {
        return Err(Close::of(Reason::TOO_LARGE, "a packet is larger than the limit"));
    }
    if input.len() < total {
        return Ok(None);
    }
    // The codec asks for room behind the packet; having it saves it an allocation.
    let mut bytes = BytesMut::with_capacity(total + 8);
    bytes.extend_from_slice(&input[..total]);
    input.advance(total);
    Ok(Some(Frame { bytes, body }))
}

/// Whether the next packet is a PUBLISH that will be acknowledged.
pub(crate) fn is_acknowledged_publish(input: &[u8]) -> bool {
    input.first().is_some_and(|first| first & 0xF0 == 0x30 && first & 0x06 != 0)
}

fn header(input: &[u8]) -> Result<Option<(usize, usize)>, Close> {
    let mut length = 0;
    for position in 1..=4 {
        let Some(byte) = input.get(position) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * (position - 1));
        if byte & 0x80 == 0 {
            return Ok(Some((position + 1, length)));
        }
    }
    Err(Close::malformed("the length of a packet is too long"))
}

/// Reads the protocol's name and level of a CONNECT: MQTT 5, sections 3.1.2.1 and 3.1.2.2.
pub(crate) fn greeting(frame: &Frame) -> Result<Greeting, Close> {
    if frame.bytes[0] != 0x10 {
        return Err(Close::protocol("the first packet is not a CONNECT"));
    }
    let body = &frame.bytes[frame.body..];
    if body.starts_with(b"\x00\x06MQIsdp") {
        return Ok(Greeting::Unacceptable(b"\x20\x02\x00\x01"));
    }
    if !body.starts_with(b"\x00\x04MQTT") {
        return Err(Close::protocol("the protocol is not MQTT"));
    }
    match body.get(6) {
        Some(4) => Ok(Greeting::Speaks(Version::V3)),
        Some(5) => Ok(Greeting::Speaks(Version::V5)),
        Some(0..4) => Ok(Greeting::Unacceptable(b"\x20\x02\x00\x01")),
        Some(_) => Ok(Greeting::Unacceptable(b"\x20\x03\x00\x84\x00")),
        None => Err(Close::malformed("a CONNECT is too short")),
    }
}

pub(crate) fn packet(version: Version, mut frame: Frame) -> Result<Packet, Close> {
    let first = frame.bytes[0];
    match (first, version) {
        (0x10, _) => return connect(version, frame),
        (0x82, Version::V3) => check_requested_qos(&frame.bytes[frame.body..])?,
        // A first delivery is not a second one, and what is not acknowledged is not delivered twice: 3.3.1.1.
        (0x30..=0x3F, _) if first & 0x0E == 0x08 => {
            return Err(Close::malformed("DUP without a QoS"));
        }
        _ => {}
    }
    match version {
        Version::V3 => from_v3(decode(v3::Codec::new(0), &mut frame.bytes)?),
        Version::V5 => from_v5(decode(v5::Codec::new(0, 0), &mut frame.bytes)?),
    }
}

fn decode<C, P>(mut codec: C, bytes: &mut BytesMut) -> Result<P, Close>
where
    C: Decoder<Item = (P, u32), Error = DecodeError>,
{
    match catch_unwind(AssertUnwindSafe(|| codec.decode(bytes))) {
        Ok(Ok(Some((packet, _)))) => Ok(packet),
        Ok(Ok(None)) => Err(Close::malformed("a packet is incomplete")),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a packet cannot be read");
            Err(Close::malformed("a packet cannot be read"))
        }
        Err(_) => {
            tracing::error!("the codec panicked on a packet");
            Err(Close::malformed("a packet cannot be read"))
        }
    }
}

fn connect(version: Version, mut frame: Frame) -> Result<Packet, Close> {
    let flags_at = frame.body + 7;
    let Some(flags) = frame.bytes.get(flags_at).copied() else {
        return Err(Close::malformed("a CONNECT is too short"));
    };
    if flags & 0x04 == 0 && flags & 0x38 != 0 {
        return Err(Close::malformed("a will's flags without a will"));
    }
    if version == Version::V3 && flags & 0xC0 == 0x40 {
        return Err(Close::malformed("a password without a user name"));
    }
    // The codec refuses an empty client identifier without this flag, in its own way; we do it in the protocol's.
    frame.bytes[flags_at] |= 0x02;
    let mut connect = match version {
        Version::V3 => match decode(v3::Codec::new(0), &mut frame.bytes)? {
            v3::Packet::Connect(connect) => connect_from_v3(*connect)?,
            _ => return Err(Close::malformed("not a CONNECT")),
        },
        Version::V5 => match decode(v5::Codec::new(0, 0), &mut frame.bytes)? {
            v5::Packet::Connect(connect) => connect_from_v5(*connect)?,
            _ => return Err(Close::malformed("not a CONNECT")),
        },
    };
    connect.clean_start = flags & 0x02 != 0;
    if version == Version::V3 {
        connect.expiry = if connect.clean_start { 0 } else { u32::MAX };
    }
    Ok(Packet::Connect(Box::new(connect)))
}

fn connect_from_v3(connect: v3::Connect) -> Result<Connect, Close> {
    let will = match connect.last_will {
        None => None,
        Some(will) => Some(Will {
            delay: 0,
            publish: Publish {
                topic: text(&will.topic)?,
                alias: None,
                id: 0,
                qos: qos(will.qos),
                retain: will.retain,
                expiry: None,
                payload: will.message,
                properties: Properties::default(),
                identifiers: Vec::new(),
            },
        }),
    };
    Ok(Connect {
        version: Version::V3,
        client: string(&connect.client_id)?,
        clean_start: connect.clean_session,
        keep_alive: connect.keep_alive,
        expiry: 0,
        receive_max: u16::MAX,
        packet_bytes_max: u32::MAX,
        wants_problems: false,
        wants_enhanced: false,
        will,
        key: connect.username.map(|name| string(&name)).transpose()?,
        secret: connect.password,
    })
}

fn connect_from_v5(connect: v5::Connect) -> Result<Connect, Close> {
    if connect.auth_method.is_none() && connect.auth_data.is_some() {
        return Err(Close::protocol("authentication data without a method"));
    }
    let will = match connect.last_will {
        None => None,
        Some(will) => Some(Will {
            delay: will.will_delay_interval_sec.unwrap_or(0),
            publish: Publish {
                topic: text(&will.topic)?,
                alias: None,
                id: 0,
                qos: qos(will.qos),
                retain: will.retain,
                expiry: will.message_expiry_interval.map(u32::from),
                payload: will.message,
                properties: Properties {
                    is_utf8: will.is_utf8_payload.unwrap_or(false),
                    content_type: will.content_type.map(|it| text(&it)).transpose()?,
                    response_topic: will.response_topic.map(|it| text(&it)).transpose()?,
                    correlation: will.correlation_data,
                    user: will.user_properties.iter().map(pair).collect::<Result<_, _>>()?,
                },
                identifiers: Vec::new(),
            },
        }),
    };
    Ok(Connect {
        version: Version::V5,
        client: string(&connect.client_id)?,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        expiry: connect.session_expiry_interval_secs,
        receive_max: connect.receive_max.map_or(u16::MAX, u16::from),
        packet_bytes_max: connect.max_packet_size.map_or(u32::MAX, u32::from),
        wants_problems: connect.request_problem_info,
        wants_enhanced: connect.auth_method.is_some(),
        will,
        key: connect.username.map(|name| string(&name)).transpose()?,
        secret: connect.password,
    })
}

fn from_v3(packet: v3::Packet) -> Result<Packet, Close> {
    Ok(match packet {
        v3::Packet::Publish(packet) => Packet::Publish(Box::new(publish(*packet)?)),
        v3::Packet::PublishAck { packet_id } => Packet::PublishAck { id: packet_id.get() },
        v3::Packet::PublishRelease { packet_id } => Packet::PublishRelease { id: packet_id.get() },
        v3::Packet::Subscribe { packet_id, topic_filters } => Packet::Subscribe(Subscribe {
            id: packet_id.get(),
            filters: topic_filters
                .iter()
                .map(|(filter, wanted)| Ok((string(filter)?, Options::plain(qos(*wanted)))))
                .collect::<Result<_, Close>>()?,
        }),
        v3::Packet::Unsubscribe { packet_id, topic_filters } => Packet::Unsubscribe {
            id: packet_id.get(),
            filters: topic_filters.iter().map(|it| string(it)).collect::<Result<_, _>>()?,
        },
        v3::Packet::PingRequest => Packet::Ping,
        v3::Packet::Disconnect => Packet::Disconnect { reason: 0, expiry: None },
        _ => return Err(Close::protocol("a packet that clients do not send")),
    })
}

fn from_v5(packet: v5::Packet) -> Result<Packet, Close> {
    Ok(match packet {
        v5::Packet::Publish(packet) => Packet::Publish(Box::new(publish(*packet)?)),
        v5::Packet::PublishAck(ack) => Packet::PublishAck { id: ack.packet_id.get() },
        v5::Packet::PublishRelease(ack) => Packet::PublishRelease { id: ack.packet_id.get() },
        v5::Packet::Subscribe(packet) => {
            let identifier = packet.id.map(u32::from);
            Packet::Subscribe(Subscribe {
                id: packet.packet_id.get(),
                filters: packet
                    .topic_filters
                    .iter()
                    .map(|(filter, wanted)| Ok((string(filter)?, options(*wanted, identifier))))
                    .collect::<Result<_, Close>>()?,
            })
        }
        v5::Packet::Unsubscribe(packet) => Packet::Unsubscribe {
            id: packet.packet_id.get(),
            filters: packet.topic_filters.iter().map(|it| string(it)).collect::<Result<_, _>>()?,
        },
        v5::Packet::PingRequest => Packet::Ping,
        v5::Packet::Disconnect(packet) => Packet::Disconnect {
            reason: packet.reason_code.into(),
            expiry: packet.session_expiry_interval_secs,
        },
        _ => return Err(Close::protocol("a packet that clients do not send")),
    })
}

fn publish(packet: types::Publish) -> Result<Publish, Close> {
    let (mut properties, mut alias, mut expiry) = (Properties::default(), None, None);
    let mut identifiers = Vec::new();
    if let Some(given) = packet.properties {
        alias = given.topic_alias.map(u16::from);
        expiry = given.message_expiry_interval.map(u32::from);
        identifiers = given.subscription_ids.into_iter().map(u32::from).collect();
        properties = Properties {
            is_utf8: given.is_utf8_payload,
            content_type: given.content_type.map(|it| text(&it)).transpose()?,
            response_topic: given.response_topic.map(|it| text(&it)).transpose()?,
            correlation: given.correlation_data,
            user: given.user_properties.iter().map(pair).collect::<Result<_, _>>()?,
        };
    }
    Ok(Publish {
        topic: text(&packet.topic)?,
        alias,
        id: packet.packet_id.map_or(0, u16::from),
        qos: qos(packet.qos),
        retain: packet.retain,
        expiry,
        payload: packet.payload,
        properties,
        identifiers,
    })
}

/// Reads a PUBLISH that the broker itself wrote, in the form of MQTT 5.
pub(crate) fn stored_publish(bytes: &[u8]) -> Result<Publish, Close> {
    let mut input = BytesMut::from(bytes);
    let Some(frame) = take_frame(&mut input, u32::MAX)? else {
        return Err(Close::malformed("a stored message is incomplete"));
    };
    match packet(Version::V5, frame)? {
        Packet::Publish(publish) => Ok(*publish),
        _ => Err(Close::malformed("a stored message is something else")),
    }
}

/// The codec ignores the reserved bits of a requested QoS, which must be 0: MQTT 3.1.1, section 3.8.3.
fn check_requested_qos(body: &[u8]) -> Result<(), Close> {
    let mut rest = body.get(2..).unwrap_or_default();
    while rest.has_remaining() {
        if rest.remaining() < 2 {
            return Err(Close::malformed("a SUBSCRIBE is cut off"));
        }
        let filter = usize::from(rest.get_u16());
        match rest.get(filter) {
            Some(0..=2) => rest.advance(filter + 1),
            _ => return Err(Close::malformed("a SUBSCRIBE asks for an unknown QoS")),
        }
    }
    Ok(())
}

fn options(wanted: v5::SubscriptionOptions, identifier: Option<u32>) -> Options {
    Options {
        qos: qos(wanted.qos),
        no_local: wanted.no_local,
        retain_as_published: wanted.retain_as_published,
        retained: match wanted.retain_handling {
            v5::RetainHandling::AtSubscribe => RetainedAt::Subscribe,
            v5::RetainHandling::AtSubscribeNew => RetainedAt::NewSubscribe,
            v5::RetainHandling::NoAtSubscribe => RetainedAt::Never,
        },
        identifier,
    }
}

impl Options {
    pub(crate) fn plain(qos: Qos) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retained: RetainedAt::Subscribe,
            identifier: None,
        }
    }
}

fn qos(qos: types::QoS) -> Qos {
    match qos {
        types::QoS::AtMostOnce => Qos::AtMostOnce,
        types::QoS::AtLeastOnce => Qos::AtLeastOnce,
        types::QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// The codec checks UTF-8; U+0000 is forbidden as well: MQTT 5, section 1.5.4.
fn text(text: &str) -> Result<Arc<str>, Close> {
    if text.contains('\0') {
        return Err(Close::malformed("a text holds U+0000"));
    }
    Ok(text.into())
}

fn string(given: &str) -> Result<String, Close> {
    text(given).map(|text| text.as_ref().to_owned())
}

fn pair<T: AsRef<str>>((key, value): &(T, T)) -> Result<(Arc<str>, Arc<str>), Close> {
    Ok((text(key.as_ref())?, text(value.as_ref())?))
}

/// Only for tests: a frame of bytes that are known to be whole.
#[cfg(test)]
pub(crate) fn frame(bytes: &[u8]) -> Frame {
    take_frame(&mut BytesMut::from(bytes), u32::MAX).unwrap().unwrap()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_over_the_limit_is_refused_by_its_header_alone() {
        let mut input = BytesMut::from(&b"\x30\xFF\x7F"[..]);
        assert_eq!(take_frame(&mut input, 100).err().unwrap().reason, Reason::TOO_LARGE);
        assert!(take_frame(&mut input, 20_000).unwrap().is_none());
        let mut input = BytesMut::from(&b"\x30\xFF\xFF\xFF\xFF"[..]);
        assert_eq!(take_frame(&mut input, u32::MAX).err().unwrap().reason, Reason::MALFORMED);
    }

    #[test]
    fn what_the_codec_lets_pass_is_refused() {
        let cases: [(&str, Version, &[u8]); 6] = [
            ("DUP in QoS 0", Version::V3, b"\x38\x03\x00\x01a"),
            ("U+0000 in a topic", Version::V3, b"\x30\x03\x00\x01\x00"),
            ("reserved bits of a QoS", Version::V3, b"\x82\x06\x00\x01\x00\x01a\x11"),
            (
                "will flags without a will",
                Version::V5,
                b"\x10\x0D\x00\x04MQTT\x05\x08\x00\x00\x00\x00\x00",
            ),
            (
                "password alone",
                Version::V3,
                b"\x10\x0F\x00\x04MQTT\x04\x42\x00\x00\x00\x01a\x00\x00",
            ),
            ("a server's packet", Version::V3, b"\x20\x02\x00\x00"),
        ];
        for (what, version, bytes) in cases {
            assert!(packet(version, frame(bytes)).is_err(), "{what}");
        }
    }

    #[test]
    fn an_empty_client_identifier_is_read() {
        let bytes = b"\x10\x0D\x00\x04MQTT\x05\x00\x00\x3C\x00\x00\x00";
        let Packet::Connect(connect) = packet(Version::V5, frame(bytes)).unwrap() else { panic!() };
        assert_eq!((connect.client.as_str(), connect.clean_start), ("", false));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            first in any::<u8>(),
            body in prop::collection::vec(any::<u8>(), 0..128),
            is_v5 in any::<bool>(),
        ) {
            let mut bytes = vec![first, u8::try_from(body.len().min(127)).unwrap()];
            bytes.extend(&body[..body.len().min(127)]);
            let _ = greeting(&frame(&bytes));
            let version = if is_v5 { Version::V5 } else { Version::V3 };
            let _ = packet(version, frame(&bytes));
        }

        #[test]
        fn a_damaged_connect_never_panics(
            damage in prop::collection::vec((0_usize..60, any::<u8>()), 0..4),
            is_v5 in any::<bool>(),
        ) {
            let mut bytes = if is_v5 {
                b"\x10\x33\x00\x04MQTT\x05\xC6\x00\x3C\x05\x11\x00\x00\x00\x0A\x00\x02c1\x05\x18\x00\x00\x00\x01\x00\x01w\x00\x02by\x00\x04user\x00\x04pass".to_vec()
            } else {
                b"\x10\x22\x00\x04MQTT\x04\xC6\x00\x3C\x00\x02c1\x00\x01w\x00\x02by\x00\x04user\x00\x04pass".to_vec()
            };
            bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
            for (position, byte) in damage {
                if position >= 2 && position < bytes.len() {
                    bytes[position] = byte;
                }
            }
            let version = if is_v5 { Version::V5 } else { Version::V3 };
            let _ = packet(version, frame(&bytes));
        }
    }

    #[test]
    fn a_packet_keeps_only_its_own_bytes() {
        let mut input = BytesMut::with_capacity(64 << 10);
        input.extend_from_slice(b"\x30\x05\x00\x01axy\xC0\x00");
        let frame = take_frame(&mut input, 100).unwrap().unwrap();
        let Packet::Publish(publish) = packet(Version::V3, frame).unwrap() else { panic!() };
        assert_eq!(publish.payload, Bytes::from_static(b"xy"));
        assert!(input.try_reclaim(60 << 10), "the buffer is free again");
    }
}
