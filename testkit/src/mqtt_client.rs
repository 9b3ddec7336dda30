use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A blocking MQTT 3.1.1 publisher that knows exactly which publish was acknowledged, for load and faults.
/// Written out on purpose: a client that resends by itself would hide what is proved.
pub struct MqttClient {
    socket: TcpStream,
    received: Vec<u8>,
}

/// The packet identifier that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Puback(pub u16);

impl MqttClient {
    pub fn connect(address: &str, client: &str, user: &str, password: &str) -> Result<Self> {
        let mut connection = Self::open(address)?;
        let code = connection.log_in(client, user, password)?;
        ensure!(code == 0, "CONNACK {code}");
        Ok(connection)
    }

    /// Connects without logging in.
    pub fn open(address: &str) -> Result<Self> {
        let socket = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { socket, received: vec![] })
    }

    /// Sends CONNECT and gives the return code of CONNACK.
    pub fn log_in(&mut self, client: &str, user: &str, password: &str) -> Result<u8> {
        self.begin_log_in(client, user, password)?;
        self.logged_in()
    }

    /// Sends CONNECT and does not wait.
    pub fn begin_log_in(&mut self, client: &str, user: &str, password: &str) -> Result<()> {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0b1100_0010, 0, 0];
        for field in [client, user, password] {
            push_text(&mut body, field);
        }
        self.send(0x10, &body)
    }

    /// The return code of the next CONNACK.
    pub fn logged_in(&mut self) -> Result<u8> {
        let (kind, body) = self.packet()?;
        ensure!(kind == 0x20, "expected CONNACK, got packet type {kind:#x}");
        body.get(1).copied().context("short CONNACK")
    }

    /// Sends a QoS 1 PUBLISH and does not wait.
    pub fn publish(&mut self, topic: &str, packet: u16, payload: &[u8]) -> Result<()> {
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        push_text(&mut body, topic);
        body.extend(packet.to_be_bytes());
        body.extend(payload);
        self.send(0x32, &body)
    }

    /// Waits for the next PUBACK.
    pub fn puback(&mut self) -> Result<Puback> {
        loop {
            let (kind, body) = self.packet()?;
            match kind & 0xF0 {
                0x40 => return Ok(Puback(u16::from_be_bytes([body[0], body[1]]))),
                0xD0 | 0x30 => {}
                other => bail!("expected PUBACK, got packet type {other:#x}"),
            }
        }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(bytes)?)
    }

    /// Subscribes with QoS 0, and gives what SUBACK says; 0x80 is a refusal.
    pub fn subscribe(&mut self, filter: &str) -> Result<u8> {
        self.subscribe_with(filter, 0)
    }

    /// The same with a QoS.
    pub fn subscribe_with(&mut self, filter: &str, qos: u8) -> Result<u8> {
        let mut body = vec![0, 9];
        push_text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body)?;
        loop {
            let (kind, body) = self.packet()?;
            if kind & 0xF0 == 0x90 {
                return body.last().copied().context("an empty SUBACK");
            }
        }
    }

    /// The next message with QoS 0: its topic and its payload.
    pub fn message(&mut self) -> Result<(String, Vec<u8>)> {
        loop {
            let (kind, body) = self.packet()?;
            if kind & 0xF0 == 0x30 {
                let (length, rest) = body.split_at(2);
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let (topic, payload) = rest.split_at(length);
                return Ok((String::from_utf8_lossy(topic).into_owned(), payload.to_vec()));
            }
        }
    }

    /// The socket alone, for whoever reads and writes packets in bulk; nothing may have come that was not read.
    pub fn into_socket(self) -> Result<TcpStream> {
        ensure!(self.received.is_empty(), "something came that was not read");
        Ok(self.socket)
    }

    /// Waits until the server closes.
    pub fn closed(&mut self) -> Result<()> {
        let mut buffer = [0; 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let mut packet = vec![kind];
        let mut length = body.len();
        loop {
            let byte = u8::try_from(length % 128)?;
            length /= 128;
            packet.push(if length > 0 { byte | 0x80 } else { byte });
            if length == 0 {
                break;
            }
        }
        packet.extend(body);
        Ok(self.socket.write_all(&packet)?)
    }

    fn packet(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            if let Some((start, end)) = frame(&self.received) {
                let kind = self.received[0];
                let body = self.received[start..end].to_vec();
                self.received.drain(..end);
                return Ok((kind, body));
            }
            let mut buffer = [0; 16 * 1024];
            let count = self.socket.read(&mut buffer)?;
            ensure!(count > 0, "the server closed the connection");
            self.received.extend_from_slice(&buffer[..count]);
        }
    }
}

/// Where the body of the first whole packet stands.
pub(crate) fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for index in 0..4 {
        let byte = *bytes.get(1 + index)?;
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let start = 2 + index;
            return (bytes.len() >= start + length).then_some((start, start + length));
        }
    }
    None
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("test fields are short");
    body.extend(length.to_be_bytes());
    body.extend(text.as_bytes());
}
