use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

use crate::stack::Stack;

/// One connection to the HTTP door that is kept, and no more work for its client than bytes: many clients that build and parse
/// requests would take the processor from what is measured.
pub(crate) struct Line(BufReader<TcpStream>);

impl Line {
    pub(crate) fn open(stack: &Stack) -> Result<Self> {
        let stream = TcpStream::connect(stack.http_address())?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Status and body of the whole answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.0.get_mut().write_all(request)?;
        let (mut line, mut status, mut length) = (String::new(), None, 0);
        while line != "\r\n" {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "closed");
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|it| it.parse().ok());
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status.context("no status")?, body))
    }
}
