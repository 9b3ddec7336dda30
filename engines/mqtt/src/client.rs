use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, Packet};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// A publisher over MQTT 3.1.1 at QoS 1: for what in Madang speaks to its own broker as a device would.
/// It subscribes to nothing and does not connect again by itself.
pub struct Client {
    connection: Framed<TcpStream, Codec>,
    unacknowledged: VecDeque<NonZeroU16>,
    last_packet: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the broker could not be reached")]
    Connect(#[source] std::io::Error),
    #[error("the broker refused: {0}")]
    Refused(&'static str),
    #[error("the connection was lost before everything was acknowledged")]
    Lost,
    #[error("the broker did not answer within {0:?}")]
    Silent(Duration),
}

const PACKET_BYTES_MAX: u32 = 1 << 20;
/// Publishes that wait for their PUBACK at once.
const IN_FLIGHT_MAX: usize = 100;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

impl Client {
    pub async fn connect(
        address: std::net::SocketAddr,
        client_id: &str,
        user: &str,
        password: &str,
    ) -> Result<Self, ClientError> {
        let socket = TcpStream::connect(address).await.map_err(ClientError::Connect)?;
        socket.set_nodelay(true).map_err(ClientError::Connect)?;
        let connection = Framed::new(socket, Codec::new(PACKET_BYTES_MAX));
        let mut client = Self { connection, unacknowledged: VecDeque::new(), last_packet: 0 };
        let connect = Connect {
            clean_session: true,
            client_id: client_id.into(),
            username: Some(user.into()),
            password: Some(Bytes::copy_from_slice(password.as_bytes())),
            ..Connect::default()
        };
        client.send(connect.into()).await?;
        match client.receive().await? {
            Packet::ConnectAck(answer)
                if answer.return_code == ConnectAckReason::ConnectionAccepted =>
            {
                Ok(client)
            }
            Packet::ConnectAck(answer) => Err(ClientError::Refused(answer.return_code.reason())),
            _ => Err(ClientError::Refused("the answer to CONNECT is no CONNACK")),
        }
    }

    /// Sends a message; with [`IN_FLIGHT_MAX`] unacknowledged it waits for the oldest first.
    pub async fn publish(&mut self, topic: &str, payload: Bytes) -> Result<(), ClientError> {
        while self.unacknowledged.len() >= IN_FLIGHT_MAX {
            self.acknowledged().await?;
        }
        let packet = NonZeroU16::new(self.last_packet.wrapping_add(1)).unwrap_or(NonZeroU16::MIN);
        self.last_packet = packet.get();
        self.unacknowledged.push_back(packet);
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: topic.into(),
            packet_id: Some(packet),
            payload,
            properties: None,
        };
        self.connection.feed(publish.into()).await.map_err(|_| ClientError::Lost)
    }

    /// Waits until everything that was sent is acknowledged.
    pub async fn settle(&mut self) -> Result<(), ClientError> {
        while !self.unacknowledged.is_empty() {
            self.acknowledged().await?;
        }
        Ok(())
    }

    async fn acknowledged(&mut self) -> Result<(), ClientError> {
        self.connection.flush().await.map_err(|_| ClientError::Lost)?;
        if let Packet::PublishAck { packet_id } = self.receive().await?
            && self.unacknowledged.front() == Some(&packet_id)
        {
            self.unacknowledged.pop_front();
        }
        Ok(())
    }

    async fn send(&mut self, packet: Packet) -> Result<(), ClientError> {
        self.connection.send(packet).await.map_err(|_| ClientError::Lost)
    }

    async fn receive(&mut self) -> Result<Packet, ClientError> {
        let packet = tokio::time::timeout(ANSWER_TIME_MAX, self.connection.next())
            .await
            .map_err(|_| ClientError::Silent(ANSWER_TIME_MAX))?;
        match packet {
            Some(Ok((packet, _))) => Ok(packet),
            Some(Err(_)) | None => Err(ClientError::Lost),
        }
    }
}
