use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::{Session, Tls};

/// A connection that a door accepted, bare or under TLS.
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<Session>>,
}

impl Stream {
    /// Answers go out at once. Without `tls` it is the bare connection.
    pub fn accepted(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let tls = tls.map(Tls::accept).transpose()?.map(Box::new);
        Ok(Self { tcp, tls })
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Waits until a [`Stream::try_read`] or a [`Stream::try_write`] may do something.
    pub async fn ready(&self, interest: Interest) -> io::Result<()> {
        let interest = match &self.tls {
            None => interest,
            Some(tls) if tls.has_input() && interest.is_readable() => return Ok(()),
            Some(tls) => match (tls.is_handshaking(), tls.wants_write()) {
                (true, false) => Interest::READABLE,
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (false, true) => interest | Interest::WRITABLE,
                (false, false) => interest,
            },
        };
        self.tcp.ready(interest).await.map(drop)
    }

    /// Reads what is there; 0 is the peer's end.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.try_read(buffer),
            Some(tls) => tls.read(&mut Now(&self.tcp), buffer),
        }
    }

    /// Writes what the peer takes now. After `WouldBlock` it wants the same bytes again, to which more may be added.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.try_write(bytes),
            Some(tls) => tls.write(&mut Now(&self.tcp), bytes),
        }
    }
}

/// A socket that is asked once, and says `WouldBlock`.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does it until it need not wait for the socket. `reads`: whether it goes on with what comes.
fn poll_tls<T>(
    (tcp, tls): (&TcpStream, &mut Session),
    cx: &mut Context<'_>,
    reads: fn(&Session) -> bool,
    mut deed: impl FnMut(&mut Session, &mut Now<'_>) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        match deed(tls, &mut Now(tcp)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
        let can_read = reads(tls) && tcp.poll_read_ready(cx)?.is_ready();
        let can_write = tls.wants_write() && tcp.poll_write_ready(cx)?.is_ready();
        if !can_read && !can_write {
            return Poll::Pending;
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, tls } = &mut *self;
        let Some(tls) = tls else { return Pin::new(tcp).poll_read(cx, buffer) };
        let read = |tls: &mut Session, socket: &mut Now<'_>| {
            tls.read(socket, buffer.initialize_unfilled())
        };
        let count = ready!(poll_tls((tcp, tls), cx, |_| true, read))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { tcp, tls } = &mut *self;
        match tls {
            None => Pin::new(tcp).poll_write(cx, bytes),
            Some(tls) => {
                let write = |tls: &mut Session, socket: &mut Now<'_>| tls.write(socket, bytes);
                poll_tls((tcp, tls), cx, Session::is_handshaking, write)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.tls.is_none() {
            return Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[][..], |slice| &**slice))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_none()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, tls } = &mut *self;
        match tls {
            None => Pin::new(tcp).poll_flush(cx),
            Some(tls) => poll_tls((tcp, tls), cx, |_| false, |tls, socket| tls.flush(socket)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, tls } = &mut *self;
        if let Some(tls) = tls {
            ready!(poll_tls((tcp, tls), cx, |_| false, |tls, socket| tls.close(socket)))?;
        }
        Pin::new(tcp).poll_shutdown(cx)
    }
}
