use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// STOMP in a WebSocket, written by hand so that it sees every frame and can be cut at any byte.
pub struct StompClient {
    pub stream: TcpStream,
    /// Bytes of WebSocket frames.
    wire: Vec<u8>,
    /// Bytes of STOMP frames.
    text: Vec<u8>,
}

/// A frame of the server.
#[derive(Debug, Clone)]
pub struct StompFrame {
    pub command: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl StompFrame {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl StompClient {
    /// Opens the WebSocket and no more. `headers` stand in the request as they are, each with its end of line.
    pub fn open(address: &str, headers: &str) -> Result<Self> {
        Self::open_at(address, "/v1/stomp", headers)
    }

    /// The same at another path.
    pub(crate) fn open_at(address: &str, path: &str, headers: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut client = Self { stream, wire: Vec::new(), text: Vec::new() };
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: v12.stomp\r\n{headers}\r\n"
        );
        client.stream.write_all(request.as_bytes())?;
        let end = loop {
            if let Some(end) = client.wire.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(client.read()?, "closed before the answer");
        };
        let answer = String::from_utf8_lossy(&client.wire[..end]).to_lowercase();
        ensure!(answer.starts_with("http/1.1 101"), "{answer}");
        // The example of RFC 6455, section 1.3.
        ensure!(answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        ensure!(answer.contains("sec-websocket-protocol: v12.stomp"), "{answer}");
        client.wire.drain(..end);
        Ok(client)
    }

    /// Opens it and logs in with a bearer key.
    pub fn connect(address: &str, token: &str) -> Result<Self> {
        let mut client = Self::open(address, "")?;
        client.log_in(&format!("passcode:{token}"))?;
        Ok(client)
    }

    /// Sends CONNECT with the headers that say who it is.
    pub fn log_in(&mut self, who: &str) -> Result<()> {
        self.say(&format!("CONNECT\naccept-version:1.2\n{who}\nheart-beat:0,0\n\n"))?;
        let heard = self.hear()?.context("closed")?;
        ensure!(heard.command == "CONNECTED", "{heard:?}");
        Ok(())
    }

    /// Sends a frame; its NUL is added.
    pub fn say(&mut self, frame: &str) -> Result<()> {
        let mut bytes = Vec::with_capacity(frame.len() + 16);
        encode(&mut bytes, frame);
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Sends many frames at once.
    pub fn say_all(&mut self, frames: impl IntoIterator<Item = String>) -> Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            encode(&mut bytes, &frame);
        }
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Sends a frame that wants a receipt, and waits for it.
    pub fn done(&mut self, frame: &str) -> Result<()> {
        let (head, body) = frame.split_once("\n\n").unwrap_or((frame, ""));
        self.say(&format!("{head}\nreceipt:done\n\n{body}"))?;
        let heard = self.hear()?.context("closed")?;
        ensure!(heard.command == "RECEIPT" && heard.header("receipt-id") == "done", "{heard:?}");
        Ok(())
    }

    /// The next frame; nothing when the server has closed.
    pub fn hear(&mut self) -> Result<Option<StompFrame>> {
        loop {
            if let Some(frame) = self.parse()? {
                return Ok(Some(frame));
            }
            if !self.unwrap()? && !self.read()? {
                return Ok(None);
            }
        }
    }

    /// The next MESSAGE.
    pub fn message(&mut self) -> Result<StompFrame> {
        let heard = self.hear()?.context("closed")?;
        ensure!(heard.command == "MESSAGE", "{heard:?}");
        Ok(heard)
    }

    fn read(&mut self) -> Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let count = match self.stream.read(&mut buffer) {
            Ok(count) => count,
            // A reset is a close too.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error.into()),
        };
        self.wire.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// Takes one WebSocket frame, if one is there.
    fn unwrap(&mut self) -> Result<bool> {
        let [first, second, ..] = self.wire[..] else { return Ok(false) };
        ensure!(second & 0x80 == 0, "a server does not mask");
        let (at, length) = match second {
            126 if self.wire.len() >= 4 => {
                (4, usize::from(u16::from_be_bytes([self.wire[2], self.wire[3]])))
            }
            127 if self.wire.len() >= 10 => {
                let length: [u8; 8] = self.wire[2..10].try_into()?;
                (10, usize::try_from(u64::from_be_bytes(length))?)
            }
            126 | 127 => return Ok(false),
            short => (2, usize::from(short)),
        };
        if self.wire.len() < at + length {
            return Ok(false);
        }
        match first & 0x0F {
            1 | 2 => self.text.extend_from_slice(&self.wire[at..at + length]),
            8 | 10 => {}
            other => bail!("a frame of kind {other}"),
        }
        self.wire.drain(..at + length);
        Ok(true)
    }

    fn parse(&mut self) -> Result<Option<StompFrame>> {
        let beats = self.text.iter().take_while(|byte| **byte == b'\n').count();
        self.text.drain(..beats);
        let Some(head_end) = self.text.windows(2).position(|two| two == b"\n\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&self.text[..head_end])?.to_owned();
        let mut lines = head.split('\n');
        let command = lines.next().context("a command")?.to_owned();
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').context("a header")?;
            headers.push((name.to_owned(), value.to_owned()));
        }
        let rest = &self.text[head_end + 2..];
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = match length {
            Some((_, length)) => length.parse()?,
            None => match rest.iter().position(|byte| *byte == 0) {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        if rest.len() <= length {
            return Ok(None);
        }
        ensure!(rest[length] == 0, "a NUL ends a frame");
        let body = rest[..length].to_vec();
        self.text.drain(..=head_end + 2 + length);
        Ok(Some(StompFrame { command, headers, body }))
    }
}

/// One masked text frame; a mask of zeros hides nothing and is a mask.
fn encode(bytes: &mut Vec<u8>, frame: &str) {
    let length = frame.len() + 1;
    bytes.push(0x81);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => bytes.push(0x80 | short),
        (_, Ok(middle)) => {
            bytes.push(0x80 | 0x7E);
            bytes.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(frame.as_bytes());
    bytes.push(0);
}
