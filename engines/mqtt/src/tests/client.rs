//! A client for tests, on the codec crate, so that what the broker writes is read by somebody else's code.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::{self, PublishProperties, RetainHandling, SubscriptionOptions};
use rmqtt_codec::{MqttCodec, MqttPacket, v3};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::{Decoder, Encoder};

pub(super) use crate::packet::Version;

pub(super) const BOTH: [Version; 2] = [Version::V3, Version::V5];

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the broker said, the same for both versions.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    Welcome { present: bool, code: u8 },
    Publish(Box<Publish>),
    Ack(u16, u8),
    Received(u16, u8),
    Complete(u16, u8),
    Subscribed(u16, Vec<u8>),
    Unsubscribed(u16, Vec<u8>),
    Pong,
    Disconnect(u8),
    Closed,
}

pub(super) struct Client {
    stream: TcpStream,
    codec: MqttCodec,
    input: BytesMut,
    version: Version,
    last_id: u16,
    /// All that an MQTT 5 broker said when it let us in.
    pub(super) welcome: Option<Box<v5::ConnectAck>>,
    /// The last text that came with a refusal.
    pub(super) reason: String,
}

/// A CONNECT in the making.
pub(super) struct Dial {
    address: SocketAddr,
    version: Version,
    pub(super) connect: v5::Connect,
}

impl Client {
    pub(super) fn dial(address: SocketAddr, version: Version) -> Dial {
        let connect = v5::Connect {
            clean_start: true,
            client_id: "client".into(),
            username: Some("roof".into()),
            password: Some(Bytes::from_static(b"roof-secret")),
            ..v5::Connect::default()
        };
        Dial { address, version, connect }
    }

    /// A socket on which nothing was said yet.
    pub(super) async fn raw(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let codec = match version {
            Version::V3 => MqttCodec::V3(v3::Codec::new(0)),
            Version::V5 => MqttCodec::V5(v5::Codec::new(0, 0)),
        };
        let input = BytesMut::new();
        Self { stream, codec, input, version, last_id: 0, welcome: None, reason: String::new() }
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        // The broker may have closed it, which the test then hears.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends nothing more, and still listens.
    pub(super) async fn hang_up(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    async fn send(&mut self, packet: MqttPacket) {
        let bytes = self.encoded(packet);
        self.send_bytes(&bytes).await;
    }

    fn encoded(&mut self, packet: MqttPacket) -> BytesMut {
        let mut bytes = BytesMut::new();
        self.codec.encode(packet, &mut bytes).unwrap();
        bytes
    }

    pub(super) async fn hear(&mut self) -> Heard {
        timeout(PATIENCE, self.hear_packet()).await.expect("the broker says something in time")
    }

    async fn hear_packet(&mut self) -> Heard {
        loop {
            if let Some((packet, _)) = self.codec.decode(&mut self.input).unwrap() {
                return self.heard(packet);
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Heard::Closed,
            }
        }
    }

    fn heard(&mut self, packet: MqttPacket) -> Heard {
        match packet {
            MqttPacket::V3(packet) => match packet {
                v3::Packet::ConnectAck(ack) => {
                    Heard::Welcome { present: ack.session_present, code: ack.return_code.into() }
                }
                v3::Packet::Publish(publish) => Heard::Publish(publish),
                v3::Packet::PublishAck { packet_id } => Heard::Ack(packet_id.get(), 0),
                v3::Packet::PublishReceived { packet_id } => Heard::Received(packet_id.get(), 0),
                v3::Packet::PublishComplete { packet_id } => Heard::Complete(packet_id.get(), 0),
                v3::Packet::SubscribeAck { packet_id, status } => {
                    let code = |status: &v3::SubscribeReturnCode| match status {
                        v3::SubscribeReturnCode::Success(qos) => qos.value(),
                        v3::SubscribeReturnCode::Failure => 0x80,
                    };
                    Heard::Subscribed(packet_id.get(), status.iter().map(code).collect())
                }
                v3::Packet::UnsubscribeAck { packet_id } => {
                    Heard::Unsubscribed(packet_id.get(), Vec::new())
                }
                v3::Packet::PingResponse => Heard::Pong,
                other => panic!("a broker does not say {other:?}"),
            },
            MqttPacket::V5(packet) => self.heard_v5(packet),
            MqttPacket::Version(_) => unreachable!(),
        }
    }

    fn heard_v5(&mut self, packet: v5::Packet) -> Heard {
        match packet {
            v5::Packet::ConnectAck(ack) => {
                let (present, code) = (ack.session_present, ack.reason_code.into());
                self.welcome = Some(ack);
                Heard::Welcome { present, code }
            }
            v5::Packet::Publish(publish) => Heard::Publish(publish),
            v5::Packet::PublishAck(ack) => {
                self.reason = ack.reason_string.unwrap_or_default().to_string();
                Heard::Ack(ack.packet_id.get(), ack.reason_code.into())
            }
            v5::Packet::PublishReceived(ack) => {
                Heard::Received(ack.packet_id.get(), ack.reason_code.into())
            }
            v5::Packet::PublishComplete(ack) => {
                Heard::Complete(ack.packet_id.get(), ack.reason_code.into())
            }
            v5::Packet::SubscribeAck(ack) => {
                let codes = ack.status.iter().map(|code| (*code).into()).collect();
                Heard::Subscribed(ack.packet_id.get(), codes)
            }
            v5::Packet::UnsubscribeAck(ack) => {
                let codes = ack.status.iter().map(|code| (*code).into()).collect();
                Heard::Unsubscribed(ack.packet_id.get(), codes)
            }
            v5::Packet::PingResponse => Heard::Pong,
            v5::Packet::Disconnect(packet) => Heard::Disconnect(packet.reason_code.into()),
            other => panic!("a broker does not say {other:?}"),
        }
    }

    fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a publish; gives its identifier.
    pub(super) async fn publish(&mut self, topic: &str, payload: &str, qos: u8) -> u16 {
        self.publish_with(topic, payload, qos, |_| {}).await
    }

    pub(super) async fn publish_with(
        &mut self,
        topic: &str,
        payload: &str,
        qos: u8,
        change: impl FnOnce(&mut Publish),
    ) -> u16 {
        let id = if qos == 0 { 0 } else { self.next_id() };
        let mut publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::try_from(qos).unwrap(),
            topic: topic.into(),
            packet_id: NonZeroU16::new(id),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            properties: (self.version == Version::V5).then(PublishProperties::default),
        };
        change(&mut publish);
        let id = publish.packet_id.map_or(0, u16::from);
        let packet = match self.version {
            Version::V3 => MqttPacket::V3(v3::Packet::Publish(Box::new(publish))),
            Version::V5 => MqttPacket::V5(v5::Packet::Publish(Box::new(publish))),
        };
        self.send(packet).await;
        id
    }

    /// Publishes in QoS 1 and hears that it was taken.
    pub(super) async fn store(&mut self, topic: &str, payload: &str) {
        let id = self.publish(topic, payload, 1).await;
        assert_eq!(self.hear().await, Heard::Ack(id, 0), "{topic}");
    }

    pub(super) async fn retain(&mut self, topic: &str, payload: &str) {
        let id = self.publish_with(topic, payload, 1, |publish| publish.retain = true).await;
        assert_eq!(self.hear().await, Heard::Ack(id, 0), "{topic}");
    }

    /// Subscribes and gives the code.
    pub(super) async fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        self.subscribe_with(filter, qos, None, |_| {}).await
    }

    pub(super) async fn subscribe_with(
        &mut self,
        filter: &str,
        qos: u8,
        identifier: Option<u32>,
        change: impl FnOnce(&mut SubscriptionOptions),
    ) -> u8 {
        let id = self.next_id();
        let packet_id = NonZeroU16::new(id).unwrap();
        let qos = QoS::try_from(qos).unwrap();
        let mut options = SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::AtSubscribe,
        };
        change(&mut options);
        let packet = match self.version {
            Version::V3 => MqttPacket::V3(v3::Packet::Subscribe {
                packet_id,
                topic_filters: vec![(filter.into(), qos)],
            }),
            Version::V5 => MqttPacket::V5(v5::Packet::Subscribe(v5::Subscribe {
                packet_id,
                id: identifier.and_then(NonZeroU32::new),
                user_properties: Vec::new(),
                topic_filters: vec![(filter.into(), options)],
            })),
        };
        self.send(packet).await;
        match self.hear().await {
            Heard::Subscribed(acknowledged, codes) => {
                assert_eq!((acknowledged, codes.len()), (id, 1));
                codes[0]
            }
            other => panic!("instead of a SUBACK: {other:?}"),
        }
    }

    pub(super) async fn unsubscribe(&mut self, filter: &str) -> Vec<u8> {
        let id = self.next_id();
        let packet_id = NonZeroU16::new(id).unwrap();
        let packet = match self.version {
            Version::V3 => MqttPacket::V3(v3::Packet::Unsubscribe {
                packet_id,
                topic_filters: vec![filter.into()],
            }),
            Version::V5 => MqttPacket::V5(v5::Packet::Unsubscribe(v5::Unsubscribe {
                packet_id,
                user_properties: Vec::new(),
                topic_filters: vec![filter.into()],
            })),
        };
        self.send(packet).await;
        match self.hear().await {
            Heard::Unsubscribed(acknowledged, codes) if acknowledged == id => codes,
            other => panic!("instead of an UNSUBACK: {other:?}"),
        }
    }

    /// Hears a delivery and acknowledges it.
    pub(super) async fn take(&mut self) -> Publish {
        let publish = self.look().await;
        if let Some(id) = publish.packet_id {
            self.acknowledge(id.get()).await;
        }
        publish
    }

    /// Hears a delivery without acknowledging it.
    pub(super) async fn look(&mut self) -> Publish {
        match self.hear().await {
            Heard::Publish(publish) => *publish,
            other => panic!("instead of a PUBLISH: {other:?}"),
        }
    }

    /// Takes a delivery and says it in short.
    pub(super) async fn text(&mut self) -> String {
        let publish = self.take().await;
        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
        let retain = if publish.retain { " retained" } else { "" };
        let dup = if publish.dup { " again" } else { "" };
        format!("{} {payload} {}{retain}{dup}", publish.topic, publish.qos.value())
    }

    pub(super) async fn acknowledge(&mut self, id: u16) {
        let bytes = [0x40, 2, (id >> 8) as u8, (id & 0xFF) as u8];
        self.send_bytes(&bytes).await;
    }

    pub(super) async fn release(&mut self, id: u16) {
        self.send_bytes(&[0x62, 2, (id >> 8) as u8, (id & 0xFF) as u8]).await;
    }

    pub(super) async fn ping(&mut self) {
        self.send_bytes(&[0xC0, 0]).await;
    }

    /// Everything that was sent before was handled, and nothing came of it.
    pub(super) async fn hears_nothing(&mut self) {
        self.ping().await;
        assert_eq!(self.hear().await, Heard::Pong);
    }

    /// Says good-bye and waits until the broker has closed.
    pub(super) async fn leave(mut self) {
        self.send_bytes(&[0xE0, 0]).await;
        assert_eq!(self.hear().await, Heard::Closed);
    }

    /// Says good-bye with a reason, in version 5.
    pub(super) async fn leave_with(mut self, reason: u8) {
        self.send_bytes(&[0xE0, 1, reason]).await;
        assert_eq!(self.hear().await, Heard::Closed);
    }
}

impl Dial {
    pub(super) fn name(mut self, name: &str) -> Self {
        self.connect.client_id = name.into();
        self
    }

    pub(super) fn key(mut self, key: &str) -> Self {
        self.connect.username = Some(key.into());
        self.connect.password = Some(Bytes::from(format!("{key}-secret")));
        self
    }

    /// Asks for the session that is there, and to keep it.
    pub(super) fn kept(mut self) -> Self {
        self.connect.clean_start = false;
        self.connect.session_expiry_interval_secs = 3_600;
        self
    }

    pub(super) fn keep_alive(mut self, seconds: u16) -> Self {
        self.connect.keep_alive = seconds;
        self
    }

    pub(super) fn will(mut self, topic: &str, payload: &str, delay: u32) -> Self {
        self.connect.last_will = Some(v5::LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: topic.into(),
            message: Bytes::copy_from_slice(payload.as_bytes()),
            will_delay_interval_sec: Some(delay),
            correlation_data: None,
            message_expiry_interval: None,
            content_type: None,
            user_properties: Vec::new(),
            is_utf8_payload: None,
            response_topic: None,
        });
        self
    }

    pub(super) fn change(mut self, change: impl FnOnce(&mut v5::Connect)) -> Self {
        change(&mut self.connect);
        self
    }

    /// Sends the CONNECT and hears the answer.
    pub(super) async fn ask(self) -> (Client, Heard) {
        let mut client = Client::raw(self.address, self.version).await;
        let packet = self.packet();
        client.send(packet).await;
        let heard = client.hear().await;
        (client, heard)
    }

    /// Is let in; says whether there was a session.
    pub(super) async fn enter(self) -> (Client, bool) {
        match self.ask().await {
            (client, Heard::Welcome { present, code: 0 }) => (client, present),
            (_, other) => panic!("not let in: {other:?}"),
        }
    }

    /// The code of the refusal, after which the connection is closed.
    pub(super) async fn refused(self) -> u8 {
        let (mut client, heard) = self.ask().await;
        let Heard::Welcome { present: false, code } = heard else { panic!("heard {heard:?}") };
        assert_ne!(code, 0, "it was let in");
        assert_eq!(client.hear().await, Heard::Closed);
        code
    }

    fn packet(self) -> MqttPacket {
        let connect = self.connect;
        match self.version {
            Version::V5 => MqttPacket::V5(v5::Packet::Connect(Box::new(connect))),
            Version::V3 => MqttPacket::V3(v3::Packet::Connect(Box::new(v3::Connect {
                clean_session: connect.clean_start,
                keep_alive: connect.keep_alive,
                last_will: connect.last_will.map(|will| v3::LastWill {
                    qos: will.qos,
                    retain: will.retain,
                    topic: will.topic,
                    message: will.message,
                }),
                client_id: connect.client_id,
                username: connect.username,
                password: connect.password,
                ..v3::Connect::default()
            }))),
        }
    }
}
