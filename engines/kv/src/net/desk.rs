//! The sockets: who comes, what they send, and what is sent to them. It is also used while a script keeps the store
//! busy: then others hear so.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use base::access::Door;
use base::tls::Session;
use base::{Base, Tls};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token as Place, Waker};
use socket2::{SockRef, TcpKeepalive};

use super::Message;
use crate::engine::{Engine, Turn, Wish};
use crate::script::Busy;
use crate::session::{State, Token};

/// Events from here on are of listeners, one after the other.
pub(super) const DOORS: usize = usize::MAX - 1 - DOORS_MAX;
const DOORS_MAX: usize = 16;
pub(crate) const WAKER: Place = Place(usize::MAX - 1);
const READ_BYTES: usize = 64 << 10;
/// A client that cannot go on is not read from beyond this.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// Questions without an answer after which a silent peer is gone.
const KEEPALIVE_RETRIES: u32 = 3;
/// What is looked at in one go while a script runs.
const EVENTS_ASIDE: usize = 64;

pub(super) struct Desk {
    pub(super) poll: Poll,
    pub(super) connections: Vec<Option<Connection>>,
    /// Clients to be read again in the next turn.
    pub(super) eager: Vec<Token>,
    /// Somebody waits at the door who could not be let in.
    pub(super) accepts_again: bool,
    listeners: Vec<Listener>,
    messages: Receiver<Message>,
    /// Messages that came while a script ran.
    postponed: VecDeque<Message>,
    sender: Sender<Message>,
    waker: Arc<Waker>,
    base: Base,
    runtime: tokio::runtime::Handle,
    buffer: Vec<u8>,
    events: Events,
}

struct Listener {
    socket: TcpListener,
    tls: Option<Tls>,
}

pub(super) struct Connection {
    stream: TcpStream,
    tls: Option<Box<Session>>,
    /// How much of the output is sent.
    pub(super) sent: usize,
    /// The socket takes nothing now.
    is_stuck: bool,
    /// More may have come that was not read.
    pub(super) has_more: bool,
    /// The other end sends nothing more, which is told once only.
    pub(super) is_ending: bool,
}

impl Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.read(buffer),
            Some(tls) => tls.read(&mut self.stream, buffer),
        }
    }

    /// After `WouldBlock` it wants the same bytes again, to which more may be added.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write(bytes),
            Some(tls) => tls.write(&mut self.stream, bytes),
        }
    }

    /// The socket takes something again. Says whether somebody waited for that.
    fn unstick(&mut self) -> bool {
        if let Some(tls) = &mut self.tls
            && tls.wants_write()
            && let Err(error) = tls.flush(&mut self.stream)
            && error.kind() == ErrorKind::WouldBlock
        {
            return false;
        }
        std::mem::take(&mut self.is_stuck)
    }
}

/// What could be read of a client.
pub(super) struct Came {
    pub(super) length: usize,
    /// Nothing more is there now.
    pub(super) is_all: bool,
}

/// What a desk is made of.
pub(super) struct Parts {
    pub(super) poll: Poll,
    pub(super) messages: Receiver<Message>,
    pub(super) sender: Sender<Message>,
    pub(super) waker: Arc<Waker>,
    pub(super) base: Base,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Desk {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { poll, messages, sender, waker, base, runtime } = parts;
        Self {
            poll,
            connections: Vec::new(),
            eager: Vec::new(),
            accepts_again: false,
            listeners: Vec::new(),
            messages,
            postponed: VecDeque::new(),
            sender,
            waker,
            base,
            runtime,
            buffer: buffer(),
            events: Events::with_capacity(EVENTS_ASIDE),
        }
    }

    pub(super) fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(token).and_then(Option::as_mut)
    }

    pub(super) fn message(&mut self) -> Option<Message> {
        self.postponed.pop_front().or_else(|| self.messages.try_recv().ok())
    }

    pub(super) fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    pub(super) fn accept(&mut self, engine: &mut Engine, now: i64) {
        for door in 0..self.listeners.len() {
            loop {
                let Listener { socket, tls } = &self.listeners[door];
                let accepted = socket.accept().and_then(|(stream, address)| {
                    let tls = tls.as_ref().map(Tls::accept).transpose()?.map(Box::new);
                    Ok((stream, address, tls))
                });
                match accepted {
                    Ok((stream, address, tls)) => {
                        self.welcome(engine, (stream, tls), address.to_string(), now);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                        ) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        self.accepts_again = true;
                        break;
                    }
                }
            }
        }
    }

    fn welcome(
        &mut self,
        engine: &mut Engine,
        (mut stream, tls): (TcpStream, Option<Box<Session>>),
        address: String,
        now: i64,
    ) {
        if let Err(error) = prepare(&stream, engine.settings.keepalive_seconds) {
            tracing::debug!(%error, "a socket was gone at once");
            return;
        }
        let Some(token) = engine.connect(address, now) else {
            // It fits into the socket's buffer or the client is gone; nothing more can be done for it. Under TLS nothing
            // can be said yet.
            if tls.is_none() {
                drop(stream.write(b"-ERR max number of clients reached\r\n"));
            }
            return;
        };
        if let (Ok(local), Some(session)) = (stream.local_addr(), &mut engine.sessions[token]) {
            session.local_address = local.to_string();
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Place(token), interest) {
            tracing::warn!(%error, "a connection cannot be watched");
            engine.disconnect(token);
            return;
        }
        if self.connections.len() <= token {
            self.connections.resize_with(token + 1, || None);
        }
        self.connections[token] = Some(Connection {
            stream,
            tls,
            sent: 0,
            is_stuck: false,
            has_more: false,
            is_ending: false,
        });
    }

    /// What came from a client.
    pub(super) fn read(
        &mut self,
        engine: &mut Engine,
        token: Token,
        buffer: &mut [u8],
    ) -> Option<Came> {
        loop {
            let connection = self.connections.get_mut(token).and_then(Option::as_mut)?;
            let session = engine.sessions[token].as_ref()?;
            if session.is_closing {
                return None;
            }
            let is_waiting = session.is_full || !matches!(session.state, State::Ready);
            if is_waiting && session.input.len() > AHEAD_BYTES_MAX {
                connection.has_more = true;
                return None;
            }
            connection.has_more = false;
            match connection.read(buffer) {
                Ok(0) => {
                    self.end(engine, token);
                    return None;
                }
                Ok(length) => {
                    // Under TLS the socket says only by a further read that it is empty.
                    let is_all =
                        length < buffer.len() && !connection.is_ending && connection.tls.is_none();
                    engine.stats.bytes_in += length as u64;
                    return Some(Came { length, is_all });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(engine, token);
                    return None;
                }
            }
        }
    }

    /// Hears others while a script runs. Only what comes of this is sent: everything else waits for the disk.
    pub(super) fn aside(&mut self, engine: &mut Engine, turn: &Turn<'_>) {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        if let Err(error) = self.poll.poll(&mut events, Some(Duration::ZERO))
            && error.kind() != ErrorKind::Interrupted
        {
            tracing::error!(%error, "the store cannot hear its clients");
        }
        let mut waiting = std::mem::take(&mut engine.touched);
        let is_new = |busy: &mut Box<Busy>| std::mem::take(&mut busy.is_new);
        if engine.busy.as_mut().is_some_and(is_new) {
            // The turn may hold events that it has not come to, and they are not told again.
            self.accept(engine, turn.now);
            (0..self.connections.len()).for_each(|token| self.hear(engine, token, turn));
        }
        for event in &events {
            match event.token() {
                WAKER => {}
                Place(DOORS..) => self.accept(engine, turn.now),
                Place(token) => {
                    if event.is_read_closed()
                        && let Some(connection) = self.connection(token)
                    {
                        connection.is_ending = true;
                    }
                    if event.is_readable() || event.is_read_closed() {
                        self.hear(engine, token, turn);
                    }
                    if event.is_writable()
                        && self.connection(token).is_some_and(Connection::unstick)
                    {
                        waiting.push(token);
                    }
                }
            }
        }
        self.events = events;
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Authenticated { client, answer } => engine.authenticated(client, answer),
                other => self.postponed.push_back(other),
            }
        }
        self.wish(engine);
        for token in std::mem::take(&mut engine.touched) {
            self.send(engine, token);
        }
        engine.touched = waiting;
        self.eager.sort_unstable();
        self.eager.dedup();
    }

    /// Gives the engine what came from a client; an event is told once only, so it is read again in the next turn.
    fn hear(&mut self, engine: &mut Engine, token: Token, turn: &Turn<'_>) {
        if self.connection(token).is_some() {
            self.eager.push(token);
        }
        let is_ready =
            engine.sessions.get(token).and_then(Option::as_ref).is_some_and(|one| one.goes_on());
        let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        if is_ready && let Ok(length @ 1..) = connection.read(&mut self.buffer) {
            engine.stats.bytes_in += length as u64;
            engine.input_aside(token, &self.buffer[..length], turn);
        }
    }

    /// The client sends nothing more: it still gets what it asked for, when that is on disk.
    fn end(&mut self, engine: &mut Engine, token: Token) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        let Some(session) = engine.sessions[token].as_mut() else { return };
        if session.is_full || matches!(session.state, State::Authenticating(_)) {
            connection.has_more = true;
        } else if session.out.bytes.is_empty() {
            self.close(engine, token);
        } else {
            session.is_closing = true;
            if !std::mem::replace(&mut session.is_listed, true) {
                engine.touched.push(token);
            }
        }
    }

    pub(super) fn unstick(&mut self, engine: &mut Engine, token: Token) {
        if self.connection(token).is_some_and(Connection::unstick) {
            engine.touched.push(token);
        }
    }

    pub(super) fn close(&mut self, engine: &mut Engine, token: Token) {
        if let Some(mut connection) = self.connections.get_mut(token).and_then(Option::take) {
            if let Some(tls) = &mut connection.tls
                && let Err(error) = tls.close(&mut connection.stream)
            {
                tracing::debug!(%error, "a closing connection was not told so");
            }
            if let Err(error) = self.poll.registry().deregister(&mut connection.stream) {
                tracing::debug!(%error, "a closing connection was not watched");
            }
            engine.disconnect(token);
        }
    }

    pub(super) fn listen(&mut self, listener: StdListener, tls: Option<Tls>) {
        let place = Place(DOORS + self.listeners.len());
        let watched = listener.set_nonblocking(true).and_then(|()| {
            if self.listeners.len() >= DOORS_MAX {
                return Err(io::Error::other("there are too many doors"));
            }
            let mut listener = TcpListener::from_std(listener);
            self.poll.registry().register(&mut listener, place, Interest::READABLE)?;
            Ok(listener)
        });
        match watched {
            Ok(socket) => self.listeners.push(Listener { socket, tls }),
            Err(error) => tracing::error!(%error, "the store cannot listen"),
        }
    }

    pub(super) fn wish(&self, engine: &mut Engine) {
        for wish in std::mem::take(&mut engine.wishes) {
            let Wish::Authenticate { token, session, key, secret } = wish;
            let authority = engine.gate.authority.clone();
            let (sender, waker) = (self.sender.clone(), self.waker.clone());
            let _runtime = self.runtime.enter();
            self.base.tasks.spawn("kv-authenticate", async move {
                let answer = authority.authenticate(Door::Resp, &key, &secret).await;
                let told = sender.send(Message::Authenticated { client: (token, session), answer });
                if told.is_ok()
                    && let Err(error) = waker.wake()
                {
                    tracing::error!(%error, "the store's thread cannot be woken");
                }
            });
        }
    }

    pub(super) fn send(&mut self, engine: &mut Engine, token: Token) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        let Some(session) = engine.sessions[token].as_mut() else { return };
        session.is_listed = false;
        let output = &session.out.bytes;
        if output.len() < connection.sent {
            // What was left of it was thrown away.
            self.close(engine, token);
            return;
        }
        while connection.sent < output.len() && !connection.is_stuck {
            match connection.write(&output[connection.sent..]) {
                Ok(length) => {
                    connection.sent += length;
                    engine.stats.bytes_out += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.is_stuck = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(engine, token);
                    return;
                }
            }
        }
        if connection.sent == output.len() {
            connection.sent = 0;
            let mut buffer = std::mem::take(&mut session.out.bytes);
            let is_closing = session.is_closing;
            buffer.clear();
            engine.give_back(buffer);
            if is_closing {
                self.close(engine, token);
            } else {
                engine.is_sent(token);
            }
        } else if session.is_closing && session.out.bytes.len() - connection.sent > AHEAD_BYTES_MAX
        {
            self.close(engine, token);
        }
    }
}

pub(super) fn buffer() -> Vec<u8> {
    vec![0; READ_BYTES]
}

/// Answers go out at once, and a peer that is gone without a word is noticed.
fn prepare(stream: &TcpStream, keepalive_seconds: u64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if keepalive_seconds > 0 {
        let about = TcpKeepalive::new()
            .with_time(Duration::from_secs(keepalive_seconds))
            .with_interval(Duration::from_secs((keepalive_seconds / 3).max(1)))
            .with_retries(KEEPALIVE_RETRIES);
        SockRef::from(stream).set_tcp_keepalive(&about)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_asked_whether_it_is_there() {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        for (seconds, is_asked) in [(300, true), (0, false)] {
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = TcpStream::from_std(stream);
            prepare(&stream, seconds).unwrap();
            assert!(stream.nodelay().unwrap());
            assert_eq!(SockRef::from(&stream).keepalive().unwrap(), is_asked);
        }
    }
}
