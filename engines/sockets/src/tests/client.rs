//! A client that shares no code with the server: it writes frames as text and reads them as bytes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Client {
    pub(super) stream: TcpStream,
    read: Vec<u8>,
    /// Messages that came before what was waited for.
    aside: VecDeque<Heard>,
}

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) command: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Heard {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(super) async fn dial(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            read: Vec::new(),
            aside: VecDeque::new(),
        }
    }

    /// Logs in, and gives the CONNECTED frame.
    pub(super) async fn enter(&mut self, key: &str, version: &str) -> Heard {
        let connect = format!(
            "CONNECT\naccept-version:{version}\nlogin:{key}\npasscode:{key}-secret\nheart-beat:0,0\n\n\0"
        );
        self.send(&connect).await;
        let heard = self.hear().await;
        assert_eq!(heard.command, "CONNECTED", "{heard:?}");
        heard
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a frame that wants a receipt and waits for it.
    pub(super) async fn done(&mut self, frame: &str) {
        let (head, body) = frame.split_once("\n\n").unwrap_or((frame, ""));
        self.send(&format!("{head}\nreceipt:done\n\n{body}\0")).await;
        let heard = loop {
            let heard = self.come().await.expect("the server says something");
            if heard.command != "MESSAGE" {
                break heard;
            }
            self.aside.push_back(heard);
        };
        let said = (heard.command.as_str(), heard.header("receipt-id"));
        assert_eq!(said, ("RECEIPT", "done"), "{heard:?}");
    }

    pub(super) async fn subscribe(&mut self, id: &str, destination: &str) {
        self.done(&format!("SUBSCRIBE\nid:{id}\ndestination:{destination}")).await;
    }

    pub(super) async fn publish(&mut self, destination: &str, body: &str) {
        self.done(&format!("SEND\ndestination:{destination}\n\n{body}")).await;
    }

    /// The next frame; nothing when the server has closed.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        match self.aside.pop_front() {
            Some(heard) => Some(heard),
            None => self.come().await,
        }
    }

    async fn come(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.parse() {
                return Some(heard);
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    pub(super) async fn hear(&mut self) -> Heard {
        self.next().await.expect("the server says something")
    }

    /// The text of the next MESSAGE.
    pub(super) async fn message(&mut self) -> String {
        let heard = self.hear().await;
        assert_eq!(heard.command, "MESSAGE", "{heard:?}");
        heard.text().to_owned()
    }

    /// The text of an ERROR, behind which the connection is closed.
    pub(super) async fn error(&mut self) -> Heard {
        let heard = loop {
            let heard = self.hear().await;
            if heard.command != "MESSAGE" {
                break heard;
            }
        };
        assert_eq!(heard.command, "ERROR", "{heard:?}");
        assert_eq!(self.next().await, None, "an ERROR is the last thing");
        heard
    }

    /// Nothing more came before the answer to something else.
    pub(super) async fn hears_nothing(&mut self) {
        self.done("BEGIN\ntransaction:nothing").await;
        self.done("ABORT\ntransaction:nothing").await;
        assert_eq!(self.aside, [], "nothing more comes");
    }

    pub(super) async fn read_more(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await;
        // A reset is a close too.
        let count = read.expect("the server says something in time").unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Lone ends of lines at the front: heart-beats.
    pub(super) fn beats(&mut self) -> usize {
        let count = self.read.iter().take_while(|byte| **byte == b'\n').count();
        self.read.drain(..count);
        count
    }

    fn parse(&mut self) -> Option<Heard> {
        self.beats();
        let head_end = self.read.windows(2).position(|two| two == b"\n\n")?;
        let head = String::from_utf8(self.read[..head_end].to_vec()).unwrap();
        let mut lines = head.split('\n');
        let command = lines.next().unwrap().to_owned();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let body_at = head_end + 2;
        let rest = &self.read[body_at..];
        let length = match length {
            Some((_, length)) => length.parse().unwrap(),
            None => rest.iter().position(|byte| *byte == 0)?,
        };
        if rest.len() <= length {
            return None;
        }
        assert_eq!(rest[length], 0, "a NUL ends a frame");
        let body = rest[..length].to_vec();
        self.read.drain(..=body_at + length);
        Some(Heard { command, headers, body })
    }
}
