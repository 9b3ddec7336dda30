//! Replies, in the protocol's version that the client asked for.

use std::borrow::Cow;

use crate::store::number::{f64_text, push_i64, push_u64};

/// The text of an error reply, its code first.
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

pub(crate) const SYNTAX: Fault = Fault(Cow::Borrowed("ERR syntax error"));
pub(crate) const WRONG_TYPE: Fault =
    Fault(Cow::Borrowed("WRONGTYPE Operation against a key holding the wrong kind of value"));
pub(crate) const NOT_INTEGER: Fault =
    Fault(Cow::Borrowed("ERR value is not an integer or out of range"));
pub(crate) const NOT_FLOAT: Fault = Fault(Cow::Borrowed("ERR value is not a valid float"));
pub(crate) const NO_KEY: Fault = Fault(Cow::Borrowed("ERR no such key"));
pub(crate) const OUT_OF_RANGE: Fault = Fault(Cow::Borrowed("ERR index out of range"));
pub(crate) const TOO_LONG: Fault =
    Fault(Cow::Borrowed("ERR the reply is longer than output_bytes_max"));
pub(crate) const FULL: Fault =
    Fault(Cow::Borrowed("OOM the table of keys has no room for more entries"));

/// The bytes that wait to be sent to one client.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_resp3: bool,
    /// A value with which it would be longer is left out.
    pub(crate) limit: usize,
    /// Something was left out, so what stands there is no reply.
    pub(crate) is_over: bool,
}

impl Default for Reply {
    fn default() -> Self {
        Self { bytes: Vec::new(), is_resp3: false, limit: usize::MAX, is_over: false }
    }
}

impl Reply {
    pub(crate) fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    pub(crate) fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.line(text.as_bytes());
    }

    pub(crate) fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        // An error is one line whatever it quotes.
        self.bytes.extend(
            text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
        );
        self.bytes.extend_from_slice(b"\r\n");
    }

    #[inline]
    pub(crate) fn int(&mut self, value: i64) {
        if let 0..=9 = value {
            self.bytes.extend_from_slice(&[b':', b'0' + value as u8, b'\r', b'\n']);
            return;
        }
        self.bytes.push(b':');
        push_i64(&mut self.bytes, value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn count(&mut self, value: usize) {
        self.int(value as i64);
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.int(i64::from(value));
    }

    #[inline]
    pub(crate) fn bulk(&mut self, value: &[u8]) {
        if value.len() > self.limit.saturating_sub(self.bytes.len()) {
            self.is_over = true;
            return;
        }
        self.bytes.reserve(value.len() + 16);
        self.header(b'$', value.len());
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.bulk(value.as_bytes());
    }

    pub(crate) fn bulk_int(&mut self, value: i64) {
        self.bulk(&crate::store::number::i64_text(value));
    }

    pub(crate) fn maybe(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.null(),
        }
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub(crate) fn null_array(&mut self) {
        self.bytes.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.header(b'*', length);
    }

    /// A map of so many pairs, in RESP2 an array of twice as many.
    pub(crate) fn map(&mut self, pairs: usize) {
        if self.is_resp3 { self.header(b'%', pairs) } else { self.header(b'*', pairs * 2) }
    }

    pub(crate) fn set(&mut self, length: usize) {
        self.header(if self.is_resp3 { b'~' } else { b'*' }, length);
    }

    /// A message that answers no command, in RESP2 an array.
    pub(crate) fn push(&mut self, length: usize) {
        self.header(if self.is_resp3 { b'>' } else { b'*' }, length);
    }

    pub(crate) fn double(&mut self, value: f64) {
        self.decimal(&f64_text(value));
    }

    /// A number that is written out already, in RESP2 as text.
    pub(crate) fn decimal(&mut self, text: &str) {
        if self.is_resp3 {
            self.bytes.push(b',');
            self.line(text.as_bytes());
        } else {
            self.text(text);
        }
    }

    pub(crate) fn verbatim(&mut self, text: &str) {
        if self.is_resp3 {
            self.header(b'=', text.len() + 4);
            self.bytes.extend_from_slice(b"txt:");
            self.line(text.as_bytes());
        } else {
            self.text(text);
        }
    }

    fn line(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn header(&mut self, mark: u8, length: usize) {
        match length {
            0..=9 => self.bytes.extend_from_slice(&[mark, b'0' + length as u8, b'\r', b'\n']),
            10..=99 => {
                let (tens, ones) = (b'0' + (length / 10) as u8, b'0' + (length % 10) as u8);
                self.bytes.extend_from_slice(&[mark, tens, ones, b'\r', b'\n']);
            }
            _ => {
                self.bytes.push(mark);
                push_u64(&mut self.bytes, length as u64);
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_own_forms() {
        let forms = |is_resp3| {
            let mut reply = Reply { is_resp3, ..Reply::default() };
            reply.null();
            reply.null_array();
            reply.map(1);
            reply.set(2);
            reply.double(0.5);
            reply.verbatim("a");
            reply.push(3);
            String::from_utf8(reply.bytes).unwrap()
        };
        assert_eq!(forms(false), "$-1\r\n*-1\r\n*2\r\n*2\r\n$3\r\n0.5\r\n$1\r\na\r\n*3\r\n");
        assert_eq!(forms(true), "_\r\n_\r\n%1\r\n~2\r\n,0.5\r\n=5\r\ntxt:a\r\n>3\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let mut reply = Reply::default();
        reply.error("ERR a\r\n+OK");
        assert_eq!(reply.bytes, b"-ERR a  +OK\r\n");
    }
}
