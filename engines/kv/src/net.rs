//! The thread that serves: it reads what came from every client, runs it, puts what changed on disk once, and only
//! then sends the replies.

mod desk;

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::TcpListener as StdListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use base::access::{Principal, Refused};
use base::{Base, Tls};
use mio::{Events, Poll, Token as Place, Waker};
use tokio::sync::{oneshot, watch};

use crate::config::Durability;
use crate::engine::{Engine, Refusal, Turn, text_of};
use crate::error::Error;
use crate::log::{self, Log, Rewrite};
use crate::metrics::Metrics;
use crate::session::Token;
use crate::space::Space;
use desk::{DOORS, Desk};

pub(crate) use desk::WAKER;

const EVENTS: usize = 1_024;
/// Reads of one client in one turn.
const READS_MAX: usize = 16;
const EFFECTS_KEPT_MAX: usize = 16 << 20;
/// So many bytes of changes are written, and so many of replies sent, before a turn ends: they are still near then.
const EARLY_EFFECTS: usize = 128 << 10;
const EARLY_OUTPUT: usize = 4 << 10;
/// Milliseconds between looks at what is due.
const TICK: i64 = 100;
/// Milliseconds between looks at who is idle.
const IDLE_TICK: i64 = 1_000;
/// Milliseconds after which a rewrite that failed is tried again.
const REWRITE_AGAIN: i64 = 10_000;
/// Entries that a snapshot takes in one turn, and segments that expiry looks at.
const CAPTURED_PER_TURN: usize = 512;
const SEGMENTS_PER_TURN: usize = 64;

/// What other threads ask of this one.
pub(crate) enum Message {
    Listen(StdListener, Option<Tls>),
    Authenticated {
        client: (Token, u64),
        answer: Result<Principal, Refused>,
    },
    /// Runs one command for the server itself; the reply is RESP3.
    Command {
        /// And the database in it.
        place: (Space, usize),
        request: Vec<Vec<u8>>,
        answer: oneshot::Sender<Vec<u8>>,
        /// Its place among those that wait.
        queued: crate::Queued,
    },
    Stop,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub(crate) struct Server {
    /// Shared with a turn, which hears others while a script runs.
    desk: Rc<RefCell<Desk>>,
    engine: Engine,
    /// Nothing where nothing is kept.
    log: Option<Log>,
    rewrite: Option<Rewrite>,
    /// Bytes of the data when the log last began anew.
    snapshot_bytes: u64,
    input: Vec<u8>,
    base: Base,
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
    writes_expected: bool,
    is_stopping: bool,
    /// What rooms of this process are told when the turn is on disk.
    answers: Vec<(oneshot::Sender<Vec<u8>>, Vec<u8>)>,
    /// Where large values are freed that nobody waits for.
    freeing: tokio::runtime::Handle,
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) waker: Arc<Waker>,
    pub(crate) engine: Engine,
    pub(crate) log: Option<Log>,
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
        let base_of_desk = base.clone();
        let freeing = runtime.clone();
        let desk = desk::Parts { poll, messages, sender, waker, base: base_of_desk, runtime };
        Self {
            desk: Rc::new(RefCell::new(Desk::new(desk))),
            engine,
            log,
            rewrite: None,
            snapshot_bytes,
            input: desk::buffer(),
            base,
            epoch,
            metrics,
            config,
            origin,
            ticked_at: 0,
            expired_at: 0,
            has_overdue: false,
            idle_looked_at: 0,
            rewrites_from: 0,
            writes_expected: true,
            is_stopping: false,
            answers: Vec::new(),
            freeing,
        }
    }

    /// Serves until it is told to stop.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_stopping {
            let now = self.base.clock.now().millis();
            let timeout = self.timeout(now);
            let polled = self.desk.borrow_mut().poll.poll(&mut events, timeout);
            if let Err(error) = polled
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
        self.log.as_mut().map_or(Ok(()), Log::close)
    }

    /// After a panic that may have left the data half changed: nothing of this turn was acknowledged, everybody is
    /// sent away, and the data is read back from the log. Without one it is gone.
    fn begin_again(&mut self) -> Result<(), Error> {
        tracing::warn!(
            is_kept = self.log.is_some(),
            "the store begins with what it kept, and its clients have to connect again"
        );
        let mut desk = self.desk.borrow_mut();
        if let Some((token, text)) = self.engine.culprit
            && let Some(connection) = desk.connection(token)
            && connection.sent == 0
        {
            // It fits into the socket's buffer or the client is gone; nothing more can be done for it.
            drop(connection.write(format!("-{text}\r\n").as_bytes()));
        }
        desk.connections.clear();
        desk.eager.clear();
        // Dropped unanswered: nothing of them was done.
        self.answers.clear();
        drop(desk);
        if let Some(rewrite) = self.rewrite.take() {
            rewrite.abandon();
        }
        let retired = self.log.as_mut().map(|log| (log.retire(), log.dir.clone()));
        self.engine.begin_again(self.base.entropy.bytes(), self.base.clock.now().millis());
        if let Some((has_failed, dir)) = retired {
            let log = self.log.insert(log::recover(dir, &mut self.engine)?.log);
            if has_failed {
                log.stay_failed();
            }
        }
        self.snapshot_bytes = self.engine.store.used_bytes() as u64;
        self.has_overdue = false;
        self.writes_expected = true;
        self.metrics.show(&self.engine, self.log_bytes());
        Ok(())
    }

    /// How long nothing may come before something is to be done.
    fn timeout(&self, now: i64) -> Option<Duration> {
        let desk = self.desk.borrow();
        let is_eager = !desk.eager.is_empty() || desk.has_postponed();
        if self.has_overdue || is_eager || !self.engine.runnable.is_empty() {
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
        let desk = self.desk.clone();
        let aside = |engine: &mut Engine, turn: &Turn<'_>| desk.borrow_mut().aside(engine, turn);
        let turn = Turn { now, micros, watch: &watch, aside: &aside };
        self.engine.store.stamp = (now / 1_000) as u32 & 0x00ff_ffff;
        self.engine.stats.micros = micros;
        if self.writes_expected {
            self.look_at_the_log(now);
        }
        if desk.borrow().has_postponed() {
            self.take_messages(&turn);
        }
        let eager = std::mem::take(&mut desk.borrow_mut().eager);
        for token in eager {
            self.read(token, &turn);
            self.send_early(token, now);
        }
        for event in events {
            match event.token() {
                WAKER => self.take_messages(&turn),
                Place(DOORS..) => desk.borrow_mut().accept(&mut self.engine, now),
                Place(token) => {
                    if event.is_read_closed()
                        && let Some(connection) = desk.borrow_mut().connection(token)
                    {
                        connection.is_ending = true;
                    }
                    if event.is_readable() || event.is_read_closed() {
                        self.read(token, &turn);
                        self.send_early(token, now);
                    }
                    if event.is_writable() {
                        desk.borrow_mut().unstick(&mut self.engine, token);
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
        desk.borrow().wish(&mut self.engine);
        // A failure is told to those it concerns.
        self.commit(now).ok();
        self.flush();
        self.free_aside();
    }

    fn free_aside(&mut self) {
        if self.engine.store.aside.is_empty() {
            return;
        }
        let (aside, freed) = self.engine.take_aside();
        self.freeing.spawn_blocking(move || {
            for one in aside {
                let objects = one.objects;
                one.free();
                freed.fetch_add(objects, Ordering::AcqRel);
            }
        });
    }

    /// Tells rooms of this process what became of their commands, which share the turn's fsync with everybody.
    fn answer_rooms(&mut self, committed: Result<(), Refusal>) {
        for (answer, mut reply) in self.answers.drain(..) {
            if let Err(refusal) = committed {
                reply = format!("-{refusal}\r\n").into_bytes();
            }
            // Whoever asked may be gone; what was done stays done.
            drop(answer.send(reply));
        }
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
        let durability = self.engine.settings.durability;
        self.engine.refusal = self.log.as_mut().and_then(|log| log.check(durability));
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
                let mut desk = self.desk.borrow_mut();
                if desk.connection(token).is_some_and(|connection| connection.has_more) {
                    desk.eager.push(token);
                }
            }
        }
    }

    fn read(&mut self, token: Token, turn: &Turn<'_>) {
        for _ in 0..READS_MAX {
            if self.engine.is_broken {
                return;
            }
            let came = self.desk.borrow_mut().read(&mut self.engine, token, &mut self.input);
            let Some(came) = came else { return };
            self.engine.input(token, &self.input[..came.length], turn);
            if came.is_all {
                return;
            }
        }
        self.desk.borrow_mut().eager.push(token);
    }

    fn message(&self) -> Option<Message> {
        self.desk.borrow_mut().message()
    }

    fn take_messages(&mut self, turn: &Turn<'_>) {
        while let Some(message) = self.message() {
            match message {
                Message::Listen(listener, tls) => self.desk.borrow_mut().listen(listener, tls),
                Message::Authenticated { client, answer } => {
                    self.engine.authenticated(client, answer);
                }
                Message::Command { place, request, answer, queued } => {
                    if self.engine.is_broken {
                        return;
                    }
                    let reply = self.engine.run_for_server(place, &request, turn);
                    self.answers.push((answer, reply));
                    drop(queued);
                }
                Message::Stop => self.is_stopping = true,
            }
        }
    }

    fn expire(&mut self, now: i64) {
        if now == self.expired_at && !self.has_overdue {
            return;
        }
        self.expired_at = now;
        let limits = (SEGMENTS_PER_TURN, self.config.expired_per_turn_max);
        let found = self.engine.stats.expired + self.engine.stats.expired_fields;
        let began = self.base.clock.instant();
        let has_more = self.engine.expire_some(now, limits)
            || self.engine.expire_some_fields(now, self.config.expired_per_turn_max);
        // A search that found nothing goes on with the next turn that comes anyway.
        let removed = self.engine.stats.expired + self.engine.stats.expired_fields;
        self.has_overdue = has_more && removed > found;
        self.engine.note_latency("expire-cycle", now, self.micros_since(began));
    }

    fn tick(&mut self, now: i64) {
        self.ticked_at = now;
        self.writes_expected = true;
        if self.epoch.has_changed().unwrap_or(false) {
            self.epoch.mark_unchanged();
            self.engine.look_again();
        }
        let mut desk = self.desk.borrow_mut();
        if std::mem::take(&mut desk.accepts_again) {
            desk.accept(&mut self.engine, now);
        }
        drop(desk);
        if now - self.idle_looked_at >= IDLE_TICK {
            self.idle_looked_at = now;
            self.close_idle(now);
        }
        self.limit_clients();
        if let Some(log) = &mut self.log {
            log.sync_if_due(self.engine.settings.durability, now);
        }
        let (live, bytes) = (self.engine.store.used_bytes() as u64, self.log_bytes());
        let is_mostly_dead = bytes > self.config.rewrite_bytes_min
            && bytes > self.config.rewrite_factor * live.max(self.snapshot_bytes);
        if self.rewrite.is_none() && is_mostly_dead && now >= self.rewrites_from {
            self.engine.wants_rewrite = true;
        }
        self.metrics.show(&self.engine, bytes);
    }

    fn log_bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::bytes)
    }

    /// Closes those for whom and from whom most waits, until all together are within their part of memory.
    fn limit_clients(&mut self) {
        let limit = self.engine.settings.clients_bytes_max();
        if limit == 0 {
            return;
        }
        let sessions = self.engine.sessions.iter().flatten();
        let mut held: Vec<(usize, Token)> = sessions
            .filter(|session| !session.is_kept)
            .map(|session| (session.waiting_bytes(), session.token))
            .collect();
        let mut sum: usize = held.iter().map(|(bytes, _)| bytes).sum();
        held.sort_unstable();
        while sum > limit
            && let Some((bytes, token)) = held.pop()
        {
            tracing::warn!(bytes, "a client is closed: too much waits for all of them together");
            sum -= bytes;
            self.engine.stats.evicted_clients += 1;
            self.desk.borrow_mut().close(&mut self.engine, token);
        }
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
            self.desk.borrow_mut().close(&mut self.engine, token);
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
        if std::mem::take(&mut self.engine.wants_sync) && committed.is_ok() {
            committed = self.log.as_mut().map_or(Ok(()), Log::settle);
            if let Err(refusal) = committed {
                self.engine.refusal = Some(refusal);
                self.metrics.refused.inc();
                self.engine.disown();
            }
        }
        self.engine.release();
        self.answer_rooms(committed);
        committed
    }

    fn micros_since(&self, began: Instant) -> u64 {
        self.base.clock.instant().saturating_duration_since(began).as_micros() as u64
    }

    fn put_on_disk(&mut self, now: i64) -> Result<(), Refusal> {
        let durability = self.engine.settings.durability;
        if let Some(log) = &mut self.log {
            let began = self.base.clock.instant();
            let committed = log.commit(&mut self.engine.effects, durability, now);
            let is_synced = durability == Durability::Always;
            let event = if is_synced { "aof-fsync-always" } else { "aof-write" };
            self.engine.note_latency(event, now, self.micros_since(began));
            committed?;
        }
        self.engine.effects.truncate(log::frame::FRAME_HEADER);
        if self.engine.effects.capacity() > EFFECTS_KEPT_MAX {
            self.engine.effects = log::empty_frame();
        }
        Ok(())
    }

    /// Sends what need not wait for the turn's end: replies without changes before them, and where nothing is synced first
    /// also those whose changes are many enough to be written now.
    fn send_early(&mut self, token: Token, now: i64) {
        if self.engine.is_broken || self.engine.wants_sync {
            return;
        }
        if self.engine.has_effects() {
            let is_synced = self.engine.settings.durability == Durability::Always;
            let is_little = self.engine.effects.len() < EARLY_EFFECTS;
            if is_synced || is_little || self.engine.unsettled.is_some() {
                return;
            }
            // A failure is told to those it concerns.
            self.commit(now).ok();
        } else {
            let session = self.engine.sessions.get(token).and_then(Option::as_ref);
            if session.is_none_or(|session| session.out.bytes.len() < EARLY_OUTPUT) {
                return;
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.engine.touched);
        let mut desk = self.desk.borrow_mut();
        for token in touched.drain(..) {
            desk.send(&mut self.engine, token);
        }
        if self.engine.touched.is_empty() {
            self.engine.touched = touched;
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
                    if let Some(log) = &mut self.log {
                        log.older_are_gone();
                    }
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
        let durability = self.engine.settings.durability;
        let is_prepared = match &mut self.log {
            Some(log) => log.prepare(durability),
            None => return self.engine.wants_rewrite = false,
        };
        if let Ok(false) = is_prepared {
            return;
        }
        self.engine.wants_rewrite = false;
        if self.commit(self.base.clock.now().millis()).is_err() || self.engine.has_effects() {
            return;
        }
        let Some(log) = &mut self.log else { return };
        let begun = is_prepared.and_then(|_| log.roll(durability)).and_then(|()| {
            let mut rewrite = Rewrite::begin(&log.dir, log.number)?;
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
