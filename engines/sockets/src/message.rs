use std::io::Write;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::frame::{Version, is_plain, write_header};
use crate::pool::{Charge, Pool};

/// Headers of a SEND that are not passed on: they are said anew, or were for the server.
const NOT_PASSED_ON: [&str; 13] = [
    "ack",
    "content-length",
    "destination",
    "kept-from",
    "message-id",
    "offset",
    "persistent",
    "receipt",
    "redelivered",
    "resume",
    "sender",
    "subscription",
    "transaction",
];

/// In any case: some clients do not tell them apart.
pub(crate) fn is_passed_on(name: &str) -> bool {
    !NOT_PASSED_ON.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a name is the same to clients that trim it or end lines in their own way: what a stranger names `content-length`
/// and a blank must not end another one's frame.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// What somebody sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    /// In the order in which they were given, `sender` first when there is one.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Draft {
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, it)| name.len() + it.len() + 2).sum();
        headers + self.body.len()
    }
}

/// A message on its way out, written once for all who get it: everything behind what differs between them.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its place in the log; nothing for what is not kept.
    pub(crate) offset: Option<u64>,
    newest: Bytes,
    /// In 1.0 and 1.1, where they differ; made when somebody speaks them.
    older: Option<Box<Older>>,
    /// The body is UTF-8, so that a WebSocket takes it as text.
    pub(crate) is_text: bool,
    body_at: usize,
    /// Held while the message is.
    charge: Option<Charge>,
}

#[derive(Debug)]
struct Older {
    headers: Vec<(String, String)>,
    made: [OnceLock<Bytes>; 2],
}

impl Message {
    /// `headers` are those of the server, then those of the sender.
    pub(crate) fn new(offset: Option<u64>, headers: Vec<(String, String)>, body: &[u8]) -> Self {
        let newest = tail(&headers, body, Version::V12);
        let is_plain = headers.iter().all(|(name, value)| is_plain(name) && is_plain(value));
        let older = (!is_plain).then(|| Box::new(Older { headers, made: Default::default() }));
        let body_at = newest.len() - body.len() - 1;
        let is_text = std::str::from_utf8(body).is_ok();
        Self { offset, newest, older, is_text, body_at, charge: None }
    }

    /// The same, counted in the memory of all that waits.
    pub(crate) fn charged(mut self, pool: &Arc<Pool>) -> Self {
        self.charge = Some(pool.charge(self.bytes()));
        self
    }

    pub(crate) fn body(&self) -> Bytes {
        self.newest.slice(self.body_at..self.newest.len() - 1)
    }

    /// The headers after those of one subscription, the body and the NUL.
    pub(crate) fn tail(&self, version: Version) -> &Bytes {
        let Some(older) = &self.older else { return &self.newest };
        let made = match version {
            Version::V12 => return &self.newest,
            Version::V11 => &older.made[1],
            Version::V10 => &older.made[0],
        };
        made.get_or_init(|| {
            let body = &self.newest[self.body_at..self.newest.len() - 1];
            tail(&older.headers, body, version)
        })
    }

    /// What it counts for while it waits for a connection.
    pub(crate) fn bytes(&self) -> usize {
        /// The rest of a frame, and its place in a queue.
        const AROUND: usize = 64;
        self.newest.len() + AROUND
    }
}

fn tail(headers: &[(String, String)], body: &[u8], version: Version) -> Bytes {
    let headers_bytes: usize = headers.iter().map(|(name, it)| name.len() + it.len() + 4).sum();
    let mut bytes = Vec::with_capacity(headers_bytes + body.len() + 32);
    for (name, value) in headers {
        write_header(&mut bytes, name, value, version);
    }
    writeln!(bytes, "content-length:{}", body.len()).expect("writing to memory");
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes.push(0);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_once_and_in_each_version_s_own_way() {
        let headers = vec![("a".to_owned(), "1:2\\3\r\n".to_owned())];
        let message = Message::new(Some(7), headers, b"hi");
        let text = |version| String::from_utf8(message.tail(version).to_vec()).unwrap();
        assert_eq!(text(Version::V12), "a:1\\c2\\\\3\\r\\n\ncontent-length:2\n\nhi\0");
        assert_eq!(text(Version::V11), "a:1\\c2\\\\3\r\\n\ncontent-length:2\n\nhi\0");
        assert_eq!(text(Version::V10), "a:1:2\\3  \ncontent-length:2\n\nhi\0");
        let headers = vec![("content-length:9".to_owned(), "1".to_owned())];
        let message = Message::new(None, headers, b"hi");
        let text = message.tail(Version::V10);
        assert_eq!(text, "content-length_9:1\ncontent-length:2\n\nhi\0");
        assert_eq!(message.body(), "hi");
        let plain = Message::new(None, vec![("a".to_owned(), "1".to_owned())], b"\xFF");
        let same = plain.tail(Version::V10).as_ptr();
        assert_eq!(same, plain.tail(Version::V12).as_ptr(), "the same memory");
        assert!(message.is_text && !plain.is_text);
    }
}
