use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A client of RESP servers, as plain as can be.
pub struct Resp {
    reader: BufReader<TcpStream>,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
}

/// A server that says nothing for so long is taken for dead.
const PATIENCE: Duration = Duration::from_mins(1);

impl Resp {
    pub fn connect(address: impl ToSocketAddrs + Display) -> Result<Self> {
        let stream = TcpStream::connect(&address).with_context(|| format!("connect {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::with_capacity(1 << 14, stream) })
    }

    /// Sends a request and takes its reply.
    pub fn ask<T: AsRef<[u8]>>(&mut self, request: &[T]) -> Result<Value> {
        self.send(&encoded(request))?;
        self.read()
    }

    /// As [`Resp::ask`], where an error reply is an error.
    pub fn done<T: AsRef<[u8]>>(&mut self, request: &[T]) -> Result<Value> {
        match self.ask(request)? {
            Value::Error(text) => bail!("{text}"),
            value => Ok(value),
        }
    }

    pub fn number<T: AsRef<[u8]>>(&mut self, request: &[T]) -> Result<i64> {
        match self.done(request)? {
            Value::Int(number) => Ok(number),
            other => bail!("no number: {other:?}"),
        }
    }

    /// A reply's text.
    pub fn text<T: AsRef<[u8]>>(&mut self, request: &[T]) -> Result<String> {
        match self.done(request)? {
            Value::Simple(text) => Ok(text),
            Value::Bulk(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            other => bail!("no text: {other:?}"),
        }
    }

    /// Sends requests at once, whose replies are read one after the other.
    pub fn send_all<T: AsRef<[u8]>>(&mut self, requests: &[Vec<T>]) -> Result<()> {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| encoded(request)).collect();
        self.send(&bytes)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    pub fn read(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        ensure!(!line.is_empty(), "the connection is closed");
        let Some((&kind, text)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first())
        else {
            bail!("no reply: {}", String::from_utf8_lossy(&line));
        };
        let text = String::from_utf8_lossy(text).into_owned();
        Ok(match kind {
            b'+' | b',' | b'#' | b'(' => Value::Simple(text),
            b'-' => Value::Error(text),
            b':' => Value::Int(text.parse()?),
            b'_' => Value::Null,
            b'$' | b'=' => match usize::try_from(text.parse::<i64>()?) {
                Err(_) => Value::Null,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.reader.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Value::Bulk(bytes)
                }
            },
            b'*' | b'~' | b'>' | b'%' => match usize::try_from(text.parse::<i64>()?) {
                Err(_) => Value::Null,
                Ok(length) => {
                    let length = if kind == b'%' { length * 2 } else { length };
                    Value::Array((0..length).map(|_| self.read()).collect::<Result<_>>()?)
                }
            },
            other => bail!("a reply of kind {}", char::from(other)),
        })
    }
}

/// A request's bytes.
pub(crate) fn encoded<T: AsRef<[u8]>>(request: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for argument in request {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
