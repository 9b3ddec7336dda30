//! Frames of STOMP 1.0, 1.1 and 1.2, from bytes and to bytes. <https://stomp.github.io/stomp-specification-1.2.html>

use std::borrow::Cow;
use std::io::Write;

use bytes::{Buf, Bytes, BytesMut};

use crate::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V10,
    V11,
    V12,
}

impl Version {
    pub(crate) const ALL: [Self; 3] = [Self::V12, Self::V11, Self::V10];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::V10 => "1.0",
            Self::V11 => "1.1",
            Self::V12 => "1.2",
        }
    }
}

/// What a client can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Connect,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "CONNECT" | "STOMP" => Self::Connect,
            "SEND" => Self::Send,
            "SUBSCRIBE" => Self::Subscribe,
            "UNSUBSCRIBE" => Self::Unsubscribe,
            "ACK" => Self::Ack,
            "NACK" => Self::Nack,
            "BEGIN" => Self::Begin,
            "COMMIT" => Self::Commit,
            "ABORT" => Self::Abort,
            "DISCONNECT" => Self::Disconnect,
            _ => return None,
        })
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Send => "SEND",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Abort => "ABORT",
            Self::Disconnect => "DISCONNECT",
        }
    }
}

/// Why a connection ends: what its ERROR frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) Cow<'static, str>);

impl From<&'static str> for Fault {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) command: Command,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

/// Headers in their order; of a name that is repeated the first counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// How large a frame may be, under the names that the configuration has for it.
#[allow(clippy::struct_field_names, reason = "each is the limit of that name")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) header_count_max: usize,
    pub(crate) header_bytes_max: usize,
    pub(crate) body_bytes_max: usize,
}

impl Limits {
    /// Of somebody who has not proved who they are.
    pub(crate) fn before_connect(config: &Config) -> Self {
        Self {
            header_count_max: config.header_count_max,
            header_bytes_max: config.connect_bytes_max,
            body_bytes_max: 0,
        }
    }

    pub(crate) fn after_connect(config: &Config) -> Self {
        Self {
            header_count_max: config.header_count_max,
            header_bytes_max: config.header_bytes_max,
            body_bytes_max: config.body_bytes_max,
        }
    }
}

/// Finds frames in a stream of bytes. It holds at most one frame of the largest size and what was pushed last.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// What both sides agreed on; nothing before CONNECT.
    pub(crate) version: Option<Version>,
    buffer: BytesMut,
    /// How far the buffer was searched in vain.
    searched: usize,
    head: Option<Head>,
}

#[derive(Debug)]
struct Head {
    command: Command,
    headers: Headers,
    body_bytes: Option<usize>,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame. Lone ends of lines, which are heart-beats, are skipped.
    pub(crate) fn next(&mut self, limits: &Limits) -> Result<Option<Frame>, Fault> {
        if self.head.is_none() {
            self.skip_beats();
            let Some(end) = self.find_end_of_head(limits)? else {
                if self.buffer.len() > limits.header_bytes_max {
                    return Err(too_large("the headers are", limits.header_bytes_max));
                }
                return Ok(None);
            };
            let head = self.buffer.split_to(end);
            self.searched = 0;
            self.head = Some(self.parse_head(&head, limits)?);
        }
        let Some(end) = self.find_end_of_body(limits)? else { return Ok(None) };
        let body = self.buffer.split_to(end).freeze();
        self.buffer.advance(1);
        self.searched = 0;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        let Head { command, headers, .. } = self.head.take().expect("it was there or was read");
        if !body.is_empty() && command != Command::Send {
            return Err(format!("a {} frame must have no body", command.text()).into());
        }
        Ok(Some(Frame { command, headers, body }))
    }

    fn skip_beats(&mut self) {
        let mut count = 0;
        loop {
            match self.buffer.get(count..) {
                Some([b'\n', ..]) => count += 1,
                Some([b'\r', b'\n', ..]) => count += 2,
                _ => break,
            }
        }
        if count > 0 {
            self.buffer.advance(count);
            self.searched = 0;
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
        }
    }

    /// Where the body begins: after an empty line.
    fn find_end_of_head(&mut self, limits: &Limits) -> Result<Option<usize>, Fault> {
        let bytes_max = limits.header_bytes_max;
        loop {
            let rest = &self.buffer[self.searched..];
            let Some(found) = memchr::memchr2(b'\n', 0, rest) else {
                self.searched = self.buffer.len();
                return Ok(None);
            };
            let at = self.searched + found;
            let end = match self.buffer[at..] {
                _ if at >= bytes_max => at + 2,
                [0, ..] => return Err("a frame without an empty line after its headers".into()),
                [_, b'\n', ..] => at + 2,
                [_, b'\r', b'\n', ..] => at + 3,
                [_] | [_, b'\r'] => {
                    self.searched = at;
                    return Ok(None);
                }
                _ => {
                    self.searched = at + 1;
                    continue;
                }
            };
            if end > bytes_max {
                return Err(too_large("the headers are", bytes_max));
            }
            return Ok(Some(end));
        }
    }

    fn parse_head(&self, bytes: &[u8], limits: &Limits) -> Result<Head, Fault> {
        let text = std::str::from_utf8(bytes).map_err(|_| Fault::from("headers are not UTF-8"))?;
        // Only 1.2 takes a carriage return for a part of the end of a line.
        let strips = self.version.is_none_or(|version| version == Version::V12);
        let mut lines = text.split('\n').map(|line| match line.strip_suffix('\r') {
            Some(stripped) if strips => stripped,
            _ => line,
        });
        let command = lines.next().unwrap_or_default();
        let command = Command::parse(command)
            .ok_or_else(|| format!("{:?} is not a command of a client", shown(command)))?;
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty() && *line != "\r") {
            if headers.len() == limits.header_count_max {
                return Err(format!("more than {} headers", limits.header_count_max).into());
            }
            headers.push(self.header(command, line)?);
        }
        let headers = Headers(headers);
        let body_bytes = match headers.get("content-length") {
            None => None,
            Some(text) => {
                let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
                let bytes = text.parse::<usize>().ok().filter(|_| is_number);
                Some(bytes.ok_or("the content-length is not a number of bytes")?)
            }
        };
        if body_bytes.is_some_and(|bytes| bytes > limits.body_bytes_max) {
            return Err(too_large("the body is", limits.body_bytes_max));
        }
        Ok(Head { command, headers, body_bytes })
    }

    fn header(&self, command: Command, line: &str) -> Result<(String, String), Fault> {
        let (name, value) = line
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("{:?} is not a header", shown(line)))?;
        if command == Command::Connect {
            // CONNECT is the same in all versions; 1.0 writes a space after the colon.
            return Ok((name.trim().to_owned(), value.trim().to_owned()));
        }
        match self.version {
            Some(Version::V10) | None => Ok((name.trim().to_owned(), value.trim().to_owned())),
            Some(version) => Ok((unescape(name, version)?, unescape(value, version)?)),
        }
    }

    /// Where the NUL after the body is.
    fn find_end_of_body(&mut self, limits: &Limits) -> Result<Option<usize>, Fault> {
        let head = self.head.as_ref().expect("the head was read before");
        if let Some(bytes) = head.body_bytes {
            return match self.buffer.get(bytes) {
                None => Ok(None),
                Some(0) => Ok(Some(bytes)),
                Some(_) => Err("no NUL stands after the content-length".into()),
            };
        }
        if let Some(found) = memchr::memchr(0, &self.buffer[self.searched..]) {
            let end = self.searched + found;
            if end > limits.body_bytes_max {
                return Err(too_large("the body is", limits.body_bytes_max));
            }
            return Ok(Some(end));
        }
        self.searched = self.buffer.len();
        if self.buffer.len() > limits.body_bytes_max {
            return Err(too_large("the body is", limits.body_bytes_max));
        }
        Ok(None)
    }
}

fn too_large(what: &str, bytes_max: usize) -> Fault {
    format!("{what} larger than {bytes_max} bytes").into()
}

/// A client's own words, short enough for a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn unescape(text: &str, version: Version) -> Result<String, Fault> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next() {
            Some('n') => '\n',
            Some('c') => ':',
            Some('\\') => '\\',
            Some('r') if version == Version::V12 => '\r',
            _ => return Err(format!("{:?} has an undefined escape", shown(text)).into()),
        });
    }
    Ok(plain)
}

/// Writes a name or a value of a header; 1.0 has no words for what would end a line.
pub(crate) fn escape(into: &mut Vec<u8>, text: &str, version: Version) {
    for byte in text.bytes() {
        let escaped: &[u8] = match (byte, version) {
            (b'\n' | b'\r', Version::V10) | (0, _) => b" ",
            (b':' | b'\\', Version::V10) | (b'\r', Version::V11) => {
                into.push(byte);
                continue;
            }
            (b'\n', _) => b"\\n",
            (b'\r', _) => b"\\r",
            (b':', _) => b"\\c",
            (b'\\', _) => b"\\\\",
            _ => {
                into.push(byte);
                continue;
            }
        };
        into.extend_from_slice(escaped);
    }
}

/// Writes a name: in 1.0, which has no words for a colon either, one that can be taken for no other.
fn escape_name(into: &mut Vec<u8>, name: &str, version: Version) {
    if version != Version::V10 {
        return escape(into, name, version);
    }
    let is_sign = |byte| matches!(byte, b'\n' | b'\r' | b':' | 0);
    into.extend(name.bytes().map(|byte| if is_sign(byte) { b'_' } else { byte }));
}

/// Whether a text reads the same in every version.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| matches!(byte, b'\n' | b'\r' | b':' | b'\\' | 0))
}

pub(crate) fn write_header(into: &mut Vec<u8>, name: &str, value: &str, version: Version) {
    escape_name(into, name, version);
    into.push(b':');
    escape(into, value, version);
    into.push(b'\n');
}

/// CONNECTED, RECEIPT or ERROR.
pub(crate) fn encode(
    command: &str,
    headers: &[(&str, &str)],
    body: &str,
    version: Version,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + body.len());
    bytes.extend_from_slice(command.as_bytes());
    bytes.push(b'\n');
    // CONNECTED is the same in all versions.
    let version = if command == "CONNECTED" { Version::V10 } else { version };
    for (name, value) in headers {
        write_header(&mut bytes, name, value, version);
    }
    if !body.is_empty() {
        writeln!(bytes, "content-length:{}", body.len()).expect("writing to memory");
    }
    bytes.push(b'\n');
    bytes.extend_from_slice(body.as_bytes());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests;
