//! The thread that serves: it reads what came from every client, runs it, puts what changed on disk once, and only
//! then sends the replies.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener as StdListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use base::Base;
use base::access::{Door, Principal, Refused};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token as Place, Waker};
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::{oneshot, watch};

use crate::engine::{Engine, Refusal, Turn, Wish, text_of};
use crate::error::Error;
use crate::log::{self, Log, Rewrite};
use crate::metrics::Metrics;
use crate::session::{State, Token};

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
const EFFECTS_KEPT_MAX: usize = 16 << 20;
const SPARE_BUFFERS_MAX: usize = 256;
/// Milliseconds between looks at what is due.
const TICK: i64 = 100;
/// Milliseconds between looks at who is idle.
const IDLE_TICK: i64 = 1_000;
/// Milliseconds after which a rewrite that failed is tried again.
const REWRITE_AGAIN: i64 = 10_000;
/// Questions without an answer after which a silent peer is gone.
const KEEPALIVE_RETRIES: u32 = 3;
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
    /// The other end sends nothing more, which is told once only.
    is_ending: bool,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
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
    idle_looked_at: i64,
    /// After a rewrite that failed, the next one is not begun before this.
    rewrites_from: i64,
    /// Somebody waits at the door who could not be let in.
    accepts_again: bool,
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
            idle_looked_at: 0,
            rewrites_from: 0,
            accepts_again: false,
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
            let turned = catch_unwind(AssertUnwindSafe(|| self.turn(&events)));
            if let Err(panic) = &turned {
                tracing::error!(panic = text_of(&**panic), "a turn of the store panicked");
                self.engine.stats.panics += 1;
            }
            if turned.is_err() || self.engine.is_broken {
                self.begin_again()?;
            }
        }
        self.engine.store.give_up_capture();
        self.look_at_the_log(self.base.clock.now().millis());
        self.commit(self.base.clock.now().millis()).ok();
        self.flush();
        self.log.close()
    }

    /// After a panic that may have left the data half changed: nothing of this turn was acknowledged, everybody is
    /// sent away, and the data is read back from the log.
    fn begin_again(&mut self) -> Result<(), Error> {
        tracing::warn!("the store reads its log back, and its clients have to connect again");
        if let Some(token) = self.engine.culprit
            && let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut)
            && connection.sent == 0
        {
            // It fits into the socket's buffer or the client is gone; nothing more can be done for it.
            drop(
                connection
                    .stream
                    .write(b"-ERR internal error, nothing of the last requests was done\r\n"),
            );
        }
        self.connections.clear();
        self.eager.clear();
        if let Some(rewrite) = self.rewrite.take() {
            rewrite.abandon();
        }
        let has_failed = self.log.retire();
        self.engine.begin_again(self.base.entropy.bytes(), self.base.clock.now().millis());
        self.log = log::recover(self.log.dir.clone(), &mut self.engine)?.log;
        if has_failed {
            self.log.stay_failed();
        }
        self.snapshot_bytes = self.engine.store.used_bytes() as u64;
        self.has_overdue = false;
        self.writes_expected = true;
        self.metrics.show(&self.engine, self.log.bytes());
        Ok(())
    }

    /// How long nothing may come before something is to be done.
    fn timeout(&self, now: i64) -> Option<Duration> {
        if self.has_overdue || !self.eager.is_empty() || !self.engine.runnable.is_empty() {
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
            self.look_at_the_log(now);
        }
        for token in std::mem::take(&mut self.eager) {
            self.read(token, &turn);
        }
        for event in events {
            match event.token() {
                LISTENER => self.accept(now),
                WAKER => self.take_messages(&turn),
                Place(token) => {
                    if event.is_read_closed()
                        && let Some(Some(connection)) = self.connections.get_mut(token)
                    {
                        connection.is_ending = true;
                    }
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
        if self.engine.is_broken {
            return;
        }
        self.expire(now);
        self.advance_rewrite();
        if now - self.ticked_at >= TICK {
            self.tick(now);
        }
        self.wish();
        // A failure is told to those it concerns.
        self.commit(now).ok();
        self.flush();
    }

    /// Finds out whether something can be written, after what could not be until now.
    fn look_at_the_log(&mut self, now: i64) {
        self.writes_expected = false;
        if self.engine.unsettled.is_some() {
            if let Err(refusal) = self.put_on_disk(now) {
                self.engine.refusal = Some(refusal);
                return;
            }
            self.engine.unsettled = None;
        }
        self.engine.refusal = self.log.check();
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
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    self.accepts_again = true;
                    return;
                }
            };
            if let Err(error) = prepare(&stream, self.engine.settings.keepalive_seconds) {
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
            self.connections[token] = Some(Connection {
                stream,
                sent: 0,
                is_stuck: false,
                has_more: false,
                is_ending: false,
            });
        }
    }

    fn read(&mut self, token: Token, turn: &Turn<'_>) {
        for _ in 0..READS_MAX {
            if self.engine.is_broken {
                return;
            }
            let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
                return;
            };
            let Some(session) = self.engine.sessions[token].as_ref() else { return };
            if session.is_closing {
                return;
            }
            let is_waiting = !matches!(session.state, State::Ready);
            if is_waiting && session.input.len() > AHEAD_BYTES_MAX {
                connection.has_more = true;
                return;
            }
            connection.has_more = false;
            match connection.stream.read(&mut self.input) {
                Ok(0) => {
                    self.end(token);
                    return;
                }
                Ok(length) => {
                    let is_ending = connection.is_ending;
                    self.engine.stats.bytes_in += length as u64;
                    self.engine.input(token, &self.input[..length], turn);
                    if length < self.input.len() && !is_ending {
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

    /// The client sends nothing more: it still gets what it asked for, when that is on disk.
    fn end(&mut self, token: Token) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        let Some(session) = self.engine.sessions[token].as_mut() else { return };
        if matches!(session.state, State::Authenticating(_)) {
            connection.has_more = true;
        } else if session.out.bytes.is_empty() {
            self.close(token);
        } else {
            session.is_closing = true;
            if !std::mem::replace(&mut session.is_listed, true) {
                self.engine.touched.push(token);
            }
        }
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
                    if self.engine.is_broken {
                        return;
                    }
                    let mut reply = self.engine.run_for_server(organisation, &request, turn);
                    if self.engine.is_broken {
                        return;
                    }
                    if let Err(refusal) = self.commit(turn.now) {
                        reply = format!("-{refusal}\r\n").into_bytes();
                    }
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
        if std::mem::take(&mut self.accepts_again) {
            self.accept(now);
        }
        if now - self.idle_looked_at >= IDLE_TICK {
            self.idle_looked_at = now;
            self.close_idle(now);
        }
        self.log.sync_if_due(self.engine.settings.durability, now);
        let live = self.engine.store.used_bytes() as u64;
        let is_mostly_dead = self.log.bytes() > self.config.rewrite_bytes_min
            && self.log.bytes() > self.config.rewrite_factor * live.max(self.snapshot_bytes);
        if self.rewrite.is_none() && is_mostly_dead && now >= self.rewrites_from {
            self.engine.wants_rewrite = true;
        }
        self.metrics.show(&self.engine, self.log.bytes());
    }

    /// Closes clients that said nothing for too long; who waits or listens says nothing by right.
    fn close_idle(&mut self, now: i64) {
        let idle = self.engine.settings.idle_seconds_max;
        if idle == 0 {
            return;
        }
        let sessions = self.engine.sessions.iter().flatten();
        let late = sessions.filter(|session| {
            now - session.active > idle * 1_000
                && session.subscriptions.is_none()
                && !session.is_blocked()
                && !session.is_monitor
        });
        let late: Vec<Token> = late.map(|session| session.token).collect();
        for token in late {
            self.close(token);
        }
    }

    /// Puts what changed on disk. If that fails, those who changed something or saw a change get no reply: they are
    /// closed.
    fn commit(&mut self, now: i64) -> Result<(), Refusal> {
        let mut committed = Ok(());
        if self.engine.has_effects() && self.engine.unsettled.is_none() {
            self.writes_expected = true;
            committed = self.put_on_disk(now);
            if let Err(refusal) = committed {
                self.engine.refusal = Some(refusal);
                self.metrics.refused.inc();
                self.engine.disown();
            }
        }
        self.engine.release();
        committed
    }

    fn put_on_disk(&mut self, now: i64) -> Result<(), Refusal> {
        let durability = self.engine.settings.durability;
        self.log.commit(&mut self.engine.effects, durability, now)?;
        self.engine.effects.truncate(log::frame::FRAME_HEADER);
        if self.engine.effects.capacity() > EFFECTS_KEPT_MAX {
            self.engine.effects = log::empty_frame();
        }
        Ok(())
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
        if output.len() < connection.sent {
            // What was left of it was thrown away.
            self.close(token);
            return;
        }
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
                    self.rewrites_from = self.base.clock.now().millis() + REWRITE_AGAIN;
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
        if self.commit(self.base.clock.now().millis()).is_err() || self.engine.has_effects() {
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
            Err(error) => {
                tracing::error!(%error, "the log cannot be rewritten");
                self.rewrites_from = self.base.clock.now().millis() + REWRITE_AGAIN;
            }
        }
    }
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
