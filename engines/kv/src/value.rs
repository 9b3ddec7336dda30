//! What a command answers, the same from the embedded store and from another server.

use crate::Error;

/// An answer in the forms of RESP3.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Double(f64),
    /// Text of any kind, bytes as they are.
    Bytes(Vec<u8>),
    /// An array, or a set in the order that it came.
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

/// No answer nests deeper.
const DEPTH_MAX: usize = 64;

impl Value {
    /// The bytes of a text.
    pub fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    pub fn list(self) -> Option<Vec<Value>> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }
}

/// Reads one whole reply; an error reply is an error.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, Error> {
    let mut rest = bytes;
    read_one(&mut rest, 0)
}

fn read_one(rest: &mut &[u8], depth: usize) -> Result<Value, Error> {
    let line = line(rest).ok_or(Error::NoReply)?;
    let (&kind, text) = line.split_first().ok_or(Error::NoReply)?;
    if depth > DEPTH_MAX {
        return Err(Error::NoReply);
    }
    match kind {
        b'-' => Err(Error::Reply(String::from_utf8_lossy(text).into_owned())),
        b'+' | b'(' => Ok(Value::Bytes(text.to_vec())),
        b':' => Ok(Value::Integer(number(text)?)),
        b',' => {
            let text = std::str::from_utf8(text).map_err(|_| Error::NoReply)?;
            text.parse().map(Value::Double).map_err(|_| Error::NoReply)
        }
        b'#' => Ok(Value::Bool(text == b"t")),
        b'_' => Ok(Value::Null),
        b'$' | b'=' => {
            let Ok(length) = usize::try_from(number(text)?) else { return Ok(Value::Null) };
            let (bytes, left) = rest.split_at_checked(length + 2).ok_or(Error::NoReply)?;
            *rest = left;
            // A verbatim text says first of what kind it is.
            let from = if kind == b'=' { 4.min(length) } else { 0 };
            Ok(Value::Bytes(bytes[from..length].to_vec()))
        }
        b'*' | b'~' | b'>' => {
            let Ok(length) = usize::try_from(number(text)?) else { return Ok(Value::Null) };
            let values = (0..length).map(|_| read_one(rest, depth + 1));
            values.collect::<Result<_, _>>().map(Value::List)
        }
        b'%' => {
            let length = usize::try_from(number(text)?).map_err(|_| Error::NoReply)?;
            let mut pair = || Ok((read_one(rest, depth + 1)?, read_one(rest, depth + 1)?));
            (0..length).map(|_| pair()).collect::<Result<_, _>>().map(Value::Map)
        }
        _ => Err(Error::NoReply),
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\r', rest)?;
    let line = &rest[..end];
    *rest = rest.get(end + 2..)?;
    Some(line)
}

fn number(text: &[u8]) -> Result<i64, Error> {
    crate::store::number::parse_i64(text).ok_or(Error::NoReply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn every_form_of_a_reply_is_read() {
        for (bytes, value) in [
            ("+OK\r\n", text("OK")),
            ("$3\r\na\rb\r\n", text("a\rb")),
            ("=8\r\ntxt:a\nb\n\r\n", text("a\nb\n")),
            (":-5\r\n", Value::Integer(-5)),
            (",1.5\r\n", Value::Double(1.5)),
            (",inf\r\n", Value::Double(f64::INFINITY)),
            ("#t\r\n", Value::Bool(true)),
            ("_\r\n", Value::Null),
            ("$-1\r\n", Value::Null),
            (
                "*2\r\n:1\r\n~1\r\n_\r\n",
                Value::List(vec![Value::Integer(1), Value::List(vec![Value::Null])]),
            ),
            ("%1\r\n+a\r\n:1\r\n", Value::Map(vec![(text("a"), Value::Integer(1))])),
        ] {
            assert_eq!(read(bytes.as_bytes()).unwrap(), value, "{bytes}");
        }
        let error = read(b"-WRONGTYPE no\r\n").unwrap_err();
        assert!(matches!(error, Error::Reply(text) if text == "WRONGTYPE no"));
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_no_panic() {
        for bytes in ["", "$5\r\nabc", "*2\r\n:1\r\n", "?\r\n", ":x\r\n", "\r\n", "$9999999999\r\n"]
        {
            assert!(matches!(read(bytes.as_bytes()), Err(Error::NoReply)), "{bytes:?}");
        }
        let deep = "*1\r\n".repeat(200);
        assert!(matches!(read(deep.as_bytes()), Err(Error::NoReply)));
    }
}
