//! TLS as a door speaks it, over any socket and without one: bytes come from and go to whatever the caller hands in.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// The most that is encrypted before the first of it is sent.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// What a door shows to those who come; cloning shares it.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(config)
    }

    /// Begins with somebody who came. Nothing is read or written yet.
    pub fn accept(&self) -> io::Result<Session> {
        let connection = ServerConnection::new(self.0.clone()).map_err(io::Error::other)?;
        Ok(Session { connection, waiting: 0, taken: 0, is_over: false })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tls")
    }
}

/// One connection. The handshake happens within the reads and writes, so it has the time that a door gives to the first
/// request.
pub struct Session {
    connection: ServerConnection,
    /// Decrypted bytes that nobody took yet.
    waiting: usize,
    /// Bytes of the writer that are encrypted, and not all sent.
    taken: usize,
    /// Nothing more comes.
    is_over: bool,
}

impl Session {
    /// Reads what the peer said. 0 is its end; `WouldBlock` asks for more from the socket.
    pub fn read(
        &mut self,
        socket: &mut (impl Read + Write),
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        while self.waiting == 0 {
            if self.is_over || buffer.is_empty() {
                return Ok(0);
            }
            self.hear(socket)?;
        }
        let count = self.connection.reader().read(buffer)?;
        self.waiting = self.waiting.saturating_sub(count);
        Ok(count)
    }

    /// Writes as a socket does: what it says was written is on its way. After `WouldBlock` it wants the same bytes
    /// again, to which more may be added.
    pub fn write(&mut self, socket: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<usize> {
        while self.connection.is_handshaking() {
            if self.is_over {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.hear(socket)?;
        }
        if self.taken == 0 {
            self.flush(socket)?;
            let some = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
            self.taken = self.connection.writer().write(some)?;
        }
        self.flush(socket)?;
        let taken = std::mem::take(&mut self.taken);
        if taken > bytes.len() {
            return Err(io::Error::other("a write was given up and another one begun"));
        }
        Ok(taken)
    }

    /// Sends what is encrypted.
    pub fn flush(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(socket)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Says that nothing more is written.
    pub fn close(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush(socket)
    }

    /// Whether a read has something to give without the socket.
    pub fn has_input(&self) -> bool {
        self.waiting > 0 || self.is_over
    }

    /// Whether something is to be sent that no writer waits for.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// While the two sides agree on keys: a write waits for what comes too.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes what has come, and answers what TLS itself answers.
    fn hear(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        self.tell(socket)?;
        if self.connection.read_tls(socket)? == 0 {
            self.is_over = true;
            return Ok(());
        }
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.waiting = state.plaintext_bytes_to_read();
                self.is_over = state.peer_has_closed();
                self.tell(socket)
            }
            Err(error) => {
                self.is_over = true;
                self.tell(socket)?;
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// As much of a flush as the socket takes now: who sends much may read late, and is read from all the same.
    fn tell(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        match self.flush(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }
}

#[cfg(test)]
mod tests;
