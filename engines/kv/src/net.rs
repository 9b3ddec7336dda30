//! The thread that serves: it reads what came from every client, runs it, puts what changed on disk once, and only
//! then sends the replies.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use base::Base;
use base::access::{Door, Principal, Refused};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token as Place, Waker};
use tokio::sync::{oneshot, watch};

use crate::engine::{Engine, Turn, Wish};
use crate::error::Error;
use crate::log::{self, Log, Rewrite};
use crate::metrics::Metrics;
use crate::session::Token;

const LISTENER: Place = Place(usize::MAX - 1);
pub(crate) const WAKER: Place = Place(usize::MAX - 2);
const EVENTS: usize = 1_024;
const READ_BYTES: usize = 64 << 10;
/// Reads of one client in one turn.
const READS_MAX: usize = 16;
/// A client that cannot go on is not read from beyond this.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// Buffers larger than this are given back when they are empty.
const KEPT_BYTES_MAX: usize = 64 << 10;
const SPARE_BUFFERS_MAX: usize = 256;
/// Milliseconds between looks at what is due.
const TICK: i64 = 100;
/// Entries that a snapshot takes in one turn, and segments that expiry looks at.
const CAPTURED_PER_TURN: usize = 512;
const SEGMENTS_PER_TURN: usize = 64;

/// What other threads ask of this one.
pub(crate) enum Message {
    Listen(StdListener),
    Authenticated {
        client: (Token, u64),
        answer: Result<Principal, Refused>,
    },
    /// Runs one command for the server itself; the reply is RESP3.
    Command {
        organisation: base::OrganisationId,
        request: Vec<Vec<u8>>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    Stop,
}

struct Connection {
    stream: TcpStream,
    /// How much of the output is sent.
    sent: usize,
    /// The socket takes nothing now.
    is_stuck: bool,
    /// More may have come that was not read.
    has_more: bool,
}

pub(crate) struct Server {
    poll: Poll,
    listener: Option<TcpListener>,
    engine: Engine,
    log: Log,
    rewrite: Option<Rewrite>,
    /// Bytes of the data when the log last began anew.
    snapshot_bytes: u64,
    connections: Vec<Option<Connection>>,
    /// Clients to be read again in the next turn.
    eager: Vec<Token>,
    input: Vec<u8>,
    messages: Receiver<Message>,
    sender: Sender<Message>,
    waker: Arc<Waker>,
    base: Base,
    runtime: tokio::runtime::Handle,
    epoch: watch::Receiver<u64>,
    metrics: Metrics,
    config: crate::Config,
    origin: Instant,
    ticked_at: i64,
    expired_at: i64,
    has_overdue: bool,
    writes_expected: bool,
    is_stopping: bool,
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) waker: Arc<Waker>,
    pub(crate) engine: Engine,
    pub(crate) log: Log,
    pub(crate) messages: Receiver<Message>,
    pub(crate) sender: Sender<Message>,
    pub(crate) base: Base,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) metrics: Metrics,
    pub(crate) config: crate::Config,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { poll, waker, engine, log, messages, sender, base, runtime, metrics, config } =
            parts;
        let origin = base.clock.instant();
        let epoch = engine.gate.authority.epoch();
        let snapshot_bytes = engine.store.used_bytes() as u64;
        Self {
            poll,
            listener: None,
            engine,
            log,
            rewrite: None,
            snapshot_bytes,
            connections: Vec::new(),
            eager: Vec::new(),
            input: vec![0; READ_BYTES],
            messages,
            sender,
            waker,
            base,
            runtime,
            epoch,
            metrics,
            config,
            origin,
            ticked_at: 0,
            expired_at: 0,
            has_overdue: false,
            writes_expected: true,
            is_stopping: false,
        }
    }

    /// Serves until it is told to stop.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_stopping {
            let now = self.base.clock.now().millis();
            let timeout = self.timeout(now);
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "the store cannot wait for its clients");
            }
            self.turn(&events);
        }
        self.engine.store.give_up_capture();
        self.commit(self.base.clock.now().millis());
        self.flush();
        self.log.close()
    }

    /// How long nothing may come before something is to be done.
    fn timeout(&self, now: i64) -> Option<Duration> {
        if self.has_overdue || !self.eager.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.rewrite.is_some() || self.engine.wants_rewrite {
            return Some(Duration::from_millis(1));
        }
        let tick = if self.engine.clients > 0 { TICK } else { TICK * 10 };
        let waits =
            self.engine.next_timeout().map_or(tick, |deadline| (deadline - now).clamp(0, tick));
        Some(Duration::from_millis(waits.unsigned_abs()))
    }

    fn turn(&mut self, events: &Events) {
        let moment = self.base.clock.now();
        let (now, micros) = (moment.millis(), moment.micros());
        let (clock, origin) = (self.base.clock.clone(), self.origin);
        let watch = move || clock.instant().duration_since(origin).as_micros() as u64;
        let turn = Turn { now, micros, watch: &watch };
        self.engine.store.stamp = (now / 1_000) as u32 & 0x00ff_ffff;
        self.engine.stats.micros = micros;
        if self.writes_expected {
            self.engine.refusal = self.log.check();
            self.writes_expected = false;
        }
        for token in std::mem::take(&mut self.eager) {
            self.read(token, &turn);
        }
        for event in events {
            match event.token() {
                LISTENER => self.accept(now),
                WAKER => self.take_messages(&turn),
                Place(token) => {
                    if event.is_readable() || event.is_read_closed() {
                        self.read(token, &turn);
                    }
                    if event.is_writable() {
                        self.unstick(token);
                    }
                }
            }
        }
        self.engine.time_out(now);
        self.go_on(&turn);
        self.expire(now);
        self.advance_rewrite();
        if now - self.ticked_at >= TICK {
            self.tick(now);
        }
        self.wish();
        self.commit(now);
        self.flush();
    }

    /// Lets clients go on whose input had to wait.
    fn go_on(&mut self, turn: &Turn<'_>) {
        // One that waits again waits for the next turn, so this ends.
        for _ in 0..4 {
            if self.engine.runnable.is_empty() {
                return;
            }
            for token in std::mem::take(&mut self.engine.runnable) {
                self.engine.input(token, b"", turn);
                if self.connections.get(token).and_then(Option::as_ref).is_some_and(|c| c.has_more)
                {
                    self.eager.push(token);
                }
            }
        }
    }

    fn accept(&mut self, now: i64) {
        while let Some(listener) = &self.listener {
            let (mut stream, address) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    return;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a socket was gone at once");
                continue;
            }
            let Some(token) = self.engine.connect(address.to_string(), now) else {
                // It fits into the socket's buffer or the client is gone; nothing more can be done for it.
                drop(stream.write(b"-ERR max number of clients reached\r\n"));
                continue;
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.poll.registry().register(&mut stream, Place(token), interest) {
                tracing::warn!(%error, "a connection cannot be watched");
                self.engine.disconnect(token);
                continue;
            }
            if self.connections.len() <= token {
                self.connections.resize_with(token + 1, || None);
            }
            self.connections[token] =
                Some(Connection { stream, sent: 0, is_stuck: false, has_more: false });
        }
    }

    fn read(&mut self, token: Token, turn: &Turn<'_>) {
        for _ in 0..READS_MAX {
            let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
                return;
            };
            let Some(session) = self.engine.sessions[token].as_ref() else { return };
            if session.is_closing {
                return;
            }
            let is_waiting = !matches!(session.state, crate::session::State::Ready);
            if is_waiting && session.input.len() > AHEAD_BYTES_MAX {
                connection.has_more = true;
                return;
            }
            connection.has_more = false;
            match connection.stream.read(&mut self.input) {
                Ok(0) => {
                    self.close(token);
                    return;
                }
                Ok(length) => {
                    self.engine.stats.bytes_in += length as u64;
                    self.engine.input(token, &self.input[..length], turn);
                    if length < self.input.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(token);
                    return;
                }
            }
        }
        self.eager.push(token);
    }

    fn unstick(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        if std::mem::take(&mut connection.is_stuck) {
            self.engine.touched.push(token);
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.get_mut(token).and_then(Option::take) {
            if let Err(error) = self.poll.registry().deregister(&mut connection.stream) {
                tracing::debug!(%error, "a closing connection was not watched");
            }
            self.engine.disconnect(token);
        }
    }

    fn take_messages(&mut self, turn: &Turn<'_>) {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Listen(listener) => self.listen(listener),
                Message::Authenticated { client, answer } => {
                    self.engine.authenticated(client, answer);
                }
                Message::Command { organisation, request, answer } => {
                    let reply = self.engine.run_for_server(organisation, &request, turn);
                    self.commit(turn.now);
                    let reply = if self.engine.refusal.is_some() && self.engine.has_effects() {
                        b"-MISCONF not on disk\r\n".to_vec()
                    } else {
                        reply
                    };
                    // Whoever asked may be gone; what was done stays done.
                    drop(answer.send(reply));
                }
                Message::Stop => self.is_stopping = true,
            }
        }
    }

    fn listen(&mut self, listener: StdListener) {
        let watched = listener.set_nonblocking(true).and_then(|()| {
            let mut listener = TcpListener::from_std(listener);
            self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Ok(listener)
        });
        match watched {
            Ok(listener) => self.listener = Some(listener),
            Err(error) => tracing::error!(%error, "the store cannot listen"),
        }
    }

    fn wish(&mut self) {
        for wish in std::mem::take(&mut self.engine.wishes) {
            let Wish::Authenticate { token, session, key, secret } = wish;
            let authority = self.engine.gate.authority.clone();
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

    fn expire(&mut self, now: i64) {
        if now == self.expired_at && !self.has_overdue {
            return;
        }
        self.expired_at = now;
        let limits = (SEGMENTS_PER_TURN, self.config.expired_per_turn_max);
        let found = self.engine.stats.expired;
        let has_more = self.engine.expire_some(now, limits);
        // A search that found nothing goes on with the next turn that comes anyway.
        self.has_overdue = has_more && self.engine.stats.expired > found;
    }

    fn tick(&mut self, now: i64) {
        self.ticked_at = now;
        self.writes_expected = true;
        if self.epoch.has_changed().unwrap_or(false) {
            self.epoch.mark_unchanged();
            self.engine.look_again();
        }
        let idle = self.engine.settings.idle_seconds_max;
        if idle > 0 {
            let late: Vec<Token> = self
                .engine
                .sessions
                .iter()
                .flatten()
                .filter(|session| {
                    now - session.active > idle * 1_000
                        && session.subscriptions.is_none()
                        && !session.is_blocked()
                })
                .map(|session| session.token)
                .collect();
            for token in late {
                self.close(token);
            }
        }
        self.log.sync_if_due(self.engine.settings.durability, now);
        let live = self.engine.store.used_bytes() as u64;
        let is_mostly_dead = self.log.bytes() > self.config.rewrite_bytes_min
            && self.log.bytes() > self.config.rewrite_factor * live.max(self.snapshot_bytes);
        if self.rewrite.is_none() && is_mostly_dead {
            self.engine.wants_rewrite = true;
        }
        self.metrics.show(&self.engine, self.log.bytes());
    }

    /// Puts what changed on disk. Clients whose changes are not there get no reply: they are closed.
    fn commit(&mut self, now: i64) {
        if self.engine.has_effects() {
            self.writes_expected = true;
            let durability = self.engine.settings.durability;
            let committed = self.log.commit(&mut self.engine.effects, durability, now);
            match committed {
                Ok(()) => {
                    self.engine.effects.truncate(log::frame::FRAME_HEADER);
                    if self.engine.effects.capacity() > 16 << 20 {
                        self.engine.effects = log::empty_frame();
                    }
                }
                Err(refusal) => {
                    self.engine.refusal = Some(refusal);
                    self.metrics.refused.inc();
                    self.engine.disown_writers();
                }
            }
        }
        self.engine.forget_writers();
    }

    fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.engine.touched);
        for token in touched.drain(..) {
            self.send(token);
        }
        if self.engine.touched.is_empty() {
            self.engine.touched = touched;
        }
    }

    fn send(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        let Some(session) = self.engine.sessions[token].as_mut() else { return };
        session.is_listed = false;
        let output = &session.out.bytes;
        while connection.sent < output.len() && !connection.is_stuck {
            match connection.stream.write(&output[connection.sent..]) {
                Ok(length) => {
                    connection.sent += length;
                    self.engine.stats.bytes_out += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.is_stuck = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(token);
                    return;
                }
            }
        }
        if connection.sent == output.len() {
            connection.sent = 0;
            let mut buffer = std::mem::take(&mut session.out.bytes);
            let is_closing = session.is_closing;
            buffer.clear();
            if buffer.capacity() <= KEPT_BYTES_MAX
                && self.engine.spare_buffers.len() < SPARE_BUFFERS_MAX
            {
                self.engine.spare_buffers.push(buffer);
            }
            if is_closing {
                self.close(token);
            }
        } else if session.is_closing && session.out.bytes.len() - connection.sent > AHEAD_BYTES_MAX
        {
            self.close(token);
        }
    }

    /// Takes the next step of a rewrite, or begins one that is wanted.
    fn advance_rewrite(&mut self) {
        if self.rewrite.is_none() && self.engine.wants_rewrite && self.engine.refusal.is_none() {
            self.begin_rewrite();
        }
        let Some(rewrite) = &mut self.rewrite else { return };
        if let Some(outcome) = rewrite.outcome() {
            match outcome {
                Ok(bytes) => {
                    self.log.older_bytes = 0;
                    self.snapshot_bytes = bytes;
                    self.metrics.rewrites.inc();
                }
                Err(error) => {
                    tracing::error!(%error, "the log was not rewritten; the old files stay");
                    self.engine.store.give_up_capture();
                }
            }
            self.rewrite = None;
            return;
        }
        if rewrite.is_all_given || !rewrite.has_room() {
            return;
        }
        if rewrite.is_captured {
            rewrite.end();
            return;
        }
        let Some((effects, is_done)) = self.engine.store.capture(CAPTURED_PER_TURN) else {
            // Everything was flushed meanwhile: from the beginning.
            self.rewrite = None;
            self.engine.wants_rewrite = true;
            return;
        };
        rewrite.is_captured = is_done;
        if !effects.is_empty() {
            let mut frame = log::empty_frame();
            frame.extend_from_slice(&effects);
            rewrite.give(frame);
        }
    }

    fn begin_rewrite(&mut self) {
        self.engine.wants_rewrite = false;
        self.commit(self.base.clock.now().millis());
        if self.engine.has_effects() {
            return;
        }
        let begun = self.log.roll().and_then(|()| {
            let mut rewrite = Rewrite::begin(&self.log.dir, self.log.number)?;
            rewrite.give(self.engine.organisations_frame());
            Ok(rewrite)
        });
        match begun {
            Ok(rewrite) => {
                self.engine.store.begin_capture();
                self.rewrite = Some(rewrite);
            }
            Err(error) => tracing::error!(%error, "the log cannot be rewritten"),
        }
    }
}
