//! The store with its clients, without sockets, files, threads or a clock: bytes and the moment in; replies, effects
//! and wishes out.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::OrganisationId;
use base::access::{Authority, Principal, Refused};

use crate::access::{self, Denied, Rights};
use crate::command::{self, Command, flag};
use crate::context::Ctx;
use crate::fields::Due;
use crate::latency::{Latency, SAMPLED_EVERY};
use crate::log::{FOLLOWS, effect};
use crate::notify::{self, Class};
use crate::pubsub::Channels;
use crate::script::{Busy, Scripts};
use crate::session::{Blocked, Hello, Multi, Replies, Session, State, Timeout, Token};
use crate::settings::{Policy, Settings};
use crate::slow::SlowLog;
use crate::space::Space;
use crate::stats::Stats;
use crate::store::arena::Ref;
use crate::store::number::i64_text;
use crate::store::object::Kind;
use crate::store::{Found, Store, Waste};
use crate::tracking::Trackers;
use crate::unsettled::Unsettled;
use crate::wire::reply::{Fault, Reply, TOO_LONG};
use crate::wire::request::{Args, Limits, Owned, Parsed, Progress, Span, parse};

/// Databases of each organisation.
pub(crate) const DATABASES: usize = 16;
/// Requests that are read ahead, so that the memory they need is fetched at once.
const BATCH: usize = 64;
/// Commands of a transaction, at most.
const QUEUE_MAX: usize = 1 << 20;
/// A client's requests wait while more than this waits to be sent to it.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Buffers larger than this are given back when they are empty.
const KEPT_BYTES_MAX: usize = 64 << 10;
const SPARE_BUFFERS_MAX: usize = 256;

/// The moment of a turn, and a watch for what takes long.
pub(crate) struct Turn<'a> {
    /// Milliseconds since 1970.
    pub(crate) now: i64,
    /// Microseconds since 1970.
    pub(crate) micros: i64,
    /// Microseconds since any moment.
    pub(crate) watch: &'a dyn Fn() -> u64,
    /// Hears other clients while a script keeps the store busy.
    pub(crate) aside: &'a Aside<'a>,
}

pub(crate) type Aside<'a> = dyn Fn(&mut Engine, &Turn<'_>) + 'a;

/// What the engine needs from outside.
pub(crate) enum Wish {
    /// Ask the authority; the answer is given to [`Engine::authenticated`].
    Authenticate { token: Token, session: u64, key: String, secret: String },
}

/// Who waits for a key, by when they came.
pub(crate) type Queue = BTreeMap<u64, Token>;

/// Why nothing can be written now, as the error's text.
pub(crate) type Refusal = &'static str;

/// Who is asked about clients.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) authority: Arc<dyn Authority>,
    /// Who a client is that has not said so. Nobody by default.
    pub(crate) anonymous: Option<Principal>,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) sessions: Vec<Option<Box<Session>>>,
    spare_tokens: Vec<Token>,
    next_id: u64,
    pub(crate) clients: usize,
    pub(crate) settings: Settings,
    pub(crate) stats: Stats,
    pub(crate) slow: SlowLog,
    pub(crate) latency: Latency,
    pub(crate) effects: Vec<u8>,
    pub(crate) watchers: HashMap<(usize, Box<[u8]>), Vec<Token>>,
    pub(crate) channels: Channels,
    pub(crate) trackers: Trackers,
    /// Who waits for each key, in the order they came.
    pub(crate) waiting: HashMap<(usize, Box<[u8]>), Queue>,
    /// When the waiting of those ends that do not wait for ever.
    deadlines: BTreeSet<(i64, Token)>,
    /// When hashes have fields that expire.
    pub(crate) due_fields: BTreeSet<Due>,
    arrivals: u64,
    pub(crate) offers: Vec<(usize, Box<[u8]>)>,
    /// Sessions with something to send, or to be closed.
    pub(crate) touched: Vec<Token>,
    /// Sessions whose waiting input can go on.
    pub(crate) runnable: Vec<Token>,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) gate: Gate,
    /// Whose each group of [`DATABASES`] is.
    pub(crate) spaces: Vec<Space>,
    space_numbers: HashMap<Space, usize>,
    pub(crate) refusal: Option<Refusal>,
    /// What was changed and could not be put on disk.
    pub(crate) unsettled: Option<Unsettled>,
    /// A panic may have left the data half changed: nothing of it is used any more.
    pub(crate) is_broken: bool,
    /// Whose command that was, and what it is told.
    pub(crate) culprit: Option<(Token, &'static str)>,
    /// A script keeps everybody waiting.
    pub(crate) busy: Option<Box<Busy>>,
    /// An entry is being taken out beside a command's own work.
    is_changing: bool,
    pub(crate) monitors: usize,
    /// The session whose command runs, and what came for it meanwhile.
    current: Token,
    pub(crate) mail: Reply,
    random: u64,
    /// The session whose command runs watches a key that changed.
    pub(crate) own_spoiled: bool,
    pub(crate) is_replaying: bool,
    /// Sessions that changed something in this turn, or were told something after a change.
    bound: Vec<Token>,
    pub(crate) expires_actively: bool,
    pub(crate) wants_rewrite: bool,
    /// Somebody waits until everything is on disk.
    pub(crate) wants_sync: bool,
    spans: Vec<Span>,
    batch: Vec<Planned>,
    /// Entries that a batch is about.
    near: Vec<Ref>,
    pub(crate) spare_buffers: Vec<Vec<u8>>,
    pub(crate) scripts: Scripts,
    /// Values that were put aside, and how many of them another thread has freed.
    aside: u64,
    freed: Arc<AtomicU64>,
    pub(crate) lazily_freed_before: u64,
}

/// A request that was read and not run yet.
struct Planned {
    command: Option<&'static Command>,
    line: Option<Owned>,
    first: usize,
    count: usize,
    start: usize,
    end: usize,
    ready: (*const u8, u32),
}

// The pointer in `ready` is only compared, never followed.
pub(crate) const NOT_READY: (*const u8, u32) = (std::ptr::null(), 0);
const NOBODY: Token = Token::MAX;

impl Engine {
    pub(crate) fn new(
        secret: [u8; 16],
        random: u64,
        gate: Gate,
        settings: Settings,
        now: i64,
    ) -> Self {
        let mut engine = Self {
            store: Store::new(secret, now),
            sessions: Vec::new(),
            spare_tokens: Vec::new(),
            next_id: 1,
            clients: 0,
            settings,
            stats: Stats::new(now),
            slow: SlowLog::default(),
            latency: Latency::default(),
            effects: crate::log::empty_frame(),
            watchers: HashMap::new(),
            channels: Channels::default(),
            trackers: Trackers::default(),
            waiting: HashMap::new(),
            deadlines: BTreeSet::new(),
            due_fields: BTreeSet::new(),
            arrivals: 0,
            offers: Vec::new(),
            touched: Vec::new(),
            runnable: Vec::new(),
            wishes: Vec::new(),
            gate,
            spaces: Vec::new(),
            space_numbers: HashMap::new(),
            refusal: None,
            unsettled: None,
            is_broken: false,
            culprit: None,
            busy: None,
            is_changing: false,
            monitors: 0,
            current: NOBODY,
            mail: Reply::default(),
            random: random | 1,
            own_spoiled: false,
            is_replaying: false,
            bound: Vec::new(),
            expires_actively: true,
            wants_rewrite: false,
            wants_sync: false,
            spans: Vec::new(),
            batch: Vec::new(),
            near: Vec::new(),
            spare_buffers: Vec::new(),
            scripts: Scripts::default(),
            aside: 0,
            freed: Arc::default(),
            lazily_freed_before: 0,
        };
        engine.space(Space::of_clients(OrganisationId::DEFAULT));
        engine
    }

    /// Becomes empty, so that the data can be read back from the log; settings and counts stay.
    pub(crate) fn begin_again(&mut self, secret: [u8; 16], now: i64) {
        let (gate, settings) = (self.gate.clone(), self.settings.clone());
        let mut fresh = Self::new(secret, self.random, gate, settings, now);
        // An answer that is still on its way must not meet another client.
        fresh.next_id = self.next_id;
        fresh.stats = std::mem::replace(&mut self.stats, Stats::new(now));
        fresh.stats.blocked = 0;
        fresh.expires_actively = self.expires_actively;
        *self = fresh;
    }

    /// Where the databases of a space begin; they are made when it is new.
    pub(crate) fn space(&mut self, space: Space) -> usize {
        if let Some(at) = self.space_numbers.get(&space) {
            return at * DATABASES;
        }
        let base = self.spaces.len() * DATABASES;
        self.space_numbers.insert(space, self.spaces.len());
        self.spaces.push(space);
        self.store.make_databases(self.spaces.len() * DATABASES);
        if base > 0 && !self.is_replaying {
            self.log_effect(base, &space.effect());
        }
        base
    }

    /// Welcomes a client; nothing when there are too many.
    pub(crate) fn connect(&mut self, address: String, now: i64) -> Option<Token> {
        if self.clients >= self.settings.clients_max {
            self.stats.rejected += 1;
            return None;
        }
        let token = self.spare_tokens.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        let mut session = Box::new(Session::new(token, self.next_id, address, now));
        session.out.limit = self.settings.output_bytes_max;
        self.next_id += 1;
        if let Some(principal) = self.gate.anonymous.clone() {
            self.let_in(&mut session, principal);
        }
        self.sessions[token] = Some(session);
        self.clients += 1;
        self.stats.connections += 1;
        Some(token)
    }

    pub(crate) fn disconnect(&mut self, token: Token) {
        let Some(mut session) = self.sessions.get_mut(token).and_then(Option::take) else { return };
        self.forget(&mut session);
        if !self.trackers.is_empty() {
            self.trackers.leave(session.id);
        }
        self.clients -= 1;
        self.spare_tokens.push(token);
    }

    /// Takes a session out of everything that it is registered with.
    pub(crate) fn forget(&mut self, session: &mut Session) {
        self.unwatch(session);
        self.unblock(session);
        self.channels.leave_all(session);
        if std::mem::take(&mut session.is_tracking) {
            self.trackers.stop(session.id);
        }
        if std::mem::take(&mut session.is_monitor) {
            self.monitors -= 1;
        }
    }

    pub(crate) fn let_in(&mut self, session: &mut Session, principal: Principal) {
        session.rights = Rights::of(&*self.gate.authority, &principal);
        let number = session.db - session.base;
        session.base = self.space(Space::of_clients(principal.organisation));
        session.db = session.base + number;
        session.principal = Some(principal);
    }

    /// Bytes that came from a client, or nothing new for one that can go on.
    pub(crate) fn input(&mut self, token: Token, bytes: &[u8], turn: &Turn<'_>) {
        let Some(mut session) = self.sessions.get_mut(token).and_then(Option::take) else { return };
        session.active = turn.now;
        if session.out.bytes.capacity() == 0 {
            session.out.bytes = self.spare_buffers.pop().unwrap_or_default();
        }
        self.current = token;
        (self.mail.is_resp3, self.mail.limit) = (session.out.is_resp3, session.out.limit);
        if session.input.is_empty() {
            let used = self.run_all(&mut session, bytes, turn);
            session.input.extend_from_slice(&bytes[used..]);
        } else {
            session.input.extend_from_slice(bytes);
            let mut buffer = std::mem::take(&mut session.input);
            let used = self.run_all(&mut session, &buffer, turn);
            if used == buffer.len() {
                session.input = Vec::new();
            } else {
                buffer.drain(..used);
                session.input = buffer;
            }
        }
        if session.input.len() + session.kept_bytes() > self.settings.query_bytes_max {
            tracing::warn!(client = session.id, "a client's requests are over the limit");
            session.is_closing = true;
        }
        self.current = NOBODY;
        self.list(&mut session);
        self.sessions[token] = Some(session);
    }

    /// As [`Engine::input`], of another client while a command runs: what that one waits to give stays with it.
    pub(crate) fn input_aside(&mut self, token: Token, bytes: &[u8], turn: &Turn<'_>) {
        let current = self.current;
        let (mail, offers) = (std::mem::take(&mut self.mail), std::mem::take(&mut self.offers));
        let own_spoiled = std::mem::take(&mut self.own_spoiled);
        self.input(token, bytes, turn);
        (self.current, self.mail, self.offers) = (current, mail, offers);
        self.own_spoiled = own_spoiled;
    }

    /// Notes that a session has something to send, and whether that counts only when the turn is on disk.
    fn list(&mut self, session: &mut Session) {
        let was_told = session.has_written || !session.out.bytes.is_empty();
        if was_told && !session.is_bound && self.has_effects() {
            session.is_bound = true;
            self.bound.push(session.token);
        }
        if !session.is_listed && (!session.out.bytes.is_empty() || session.is_closing) {
            session.is_listed = true;
            self.touched.push(session.token);
        } else if session.out.bytes.is_empty() && session.out.bytes.capacity() > 0 {
            let buffer = std::mem::take(&mut session.out.bytes);
            self.give_back(buffer);
        }
    }

    /// Keeps an empty buffer for the next replies.
    pub(crate) fn give_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BYTES_MAX && self.spare_buffers.len() < SPARE_BUFFERS_MAX {
            self.spare_buffers.push(buffer);
        }
    }

    /// Everything is sent to a client: its requests go on.
    pub(crate) fn is_sent(&mut self, token: Token) {
        let session = self.sessions[token].as_mut();
        if session.is_some_and(|session| std::mem::take(&mut session.is_full)) {
            self.runnable.push(token);
        }
    }

    /// What came for the client itself while its command ran.
    fn take_mail(&mut self, session: &mut Session) {
        session.out.bytes.append(&mut self.mail.bytes);
        if std::mem::take(&mut self.mail.is_over) {
            tracing::warn!(client = session.id, "a client does not take its output");
            session.is_closing = true;
            session.out.bytes = Vec::new();
            self.stats.output_closed += 1;
        }
    }

    fn run_all(&mut self, session: &mut Session, bytes: &[u8], turn: &Turn<'_>) -> usize {
        let mut spans = std::mem::take(&mut self.spans);
        let mut batch = std::mem::take(&mut self.batch);
        let mut start = 0;
        loop {
            spans.clear();
            batch.clear();
            if !session.goes_on() {
                break;
            }
            let (next, broken) = self.plan(session, (bytes, start), &mut spans, &mut batch);
            if batch.len() > 1 {
                self.fetch(session.db, &batch);
            }
            let mut done = next;
            for planned in &batch {
                if !session.goes_on() {
                    // What was read ahead is read again.
                    session.progress = Progress::default();
                    done = planned.start;
                    break;
                }
                let args = match &planned.line {
                    Some(line) => line.args(),
                    None => Args::new(bytes, &spans[planned.first..planned.first + planned.count]),
                };
                self.execute(session, planned.command, (args, planned.ready), turn);
                if !self.mail.bytes.is_empty() {
                    self.take_mail(session);
                }
                if !self.offers.is_empty() {
                    self.serve(turn);
                    self.take_mail(session);
                }
                session.is_full = session.out.bytes.len() > UNSENT_BYTES_MAX;
            }
            let is_stuck = done == start;
            start = done;
            if let Some(text) = broken
                && done == next
                && !session.is_closing
            {
                session.out.error(&format!("ERR {text}"));
                self.stats.errors += 1;
                session.is_closing = true;
                start = bytes.len();
                break;
            }
            if is_stuck || batch.is_empty() {
                break;
            }
        }
        self.spans = spans;
        self.batch = batch;
        start
    }

    /// Reads requests ahead; gives where the first that was not read begins, and why nothing more will be.
    fn plan(
        &mut self,
        session: &mut Session,
        (bytes, start): (&[u8], usize),
        spans: &mut Vec<Span>,
        batch: &mut Vec<Planned>,
    ) -> (usize, Option<String>) {
        let is_unknown = session.principal.is_none();
        let limits = Limits {
            arguments: self.settings.arguments_max,
            argument_bytes: self.settings.argument_bytes_max,
            is_unknown,
        };
        // Before it is known who asks, each answer decides how the next request is read.
        let ahead = if is_unknown { 1 } else { BATCH };
        let mut at = start;
        while batch.len() < ahead {
            let first = spans.len();
            let (line, end) = match parse(bytes, at, limits, &mut session.progress, spans) {
                Parsed::Command(end) => (None, end),
                Parsed::Line(line, end) => (Some(line), end),
                Parsed::Empty(end) => {
                    at = end;
                    continue;
                }
                Parsed::Incomplete => break,
                Parsed::Broken(text) => return (at, Some(text)),
            };
            let args = line.as_ref().map_or_else(|| Args::new(bytes, &spans[first..]), Owned::args);
            let command = command::find(args);
            let key =
                command.filter(|command| command.first_key > 0).and_then(|c| args.get(c.first_key));
            let ready = key.map_or(NOT_READY, |key| (key.as_ptr(), self.store.hash_of(key)));
            batch.push(Planned {
                command,
                line,
                first,
                count: spans.len() - first,
                start: at,
                end,
                ready,
            });
            at = end;
        }
        (batch.last().map_or(at, |last| last.end.max(at)), None)
    }

    /// Brings what the batch will need near, all at once: first the slots, then the beginnings of the entries, then the
    /// rest of them. Each step is short, so that many of its loads are under way together.
    fn fetch(&mut self, db: usize, batch: &[Planned]) {
        let mut entries = std::mem::take(&mut self.near);
        let mut sum = 0u64;
        let ready = || batch.iter().map(|planned| planned.ready).filter(|ready| !ready.0.is_null());
        for (_, hash) in ready() {
            sum = sum.wrapping_add(self.store.touch_slot(db, hash));
        }
        entries.extend(ready().filter_map(|(_, hash)| self.store.likely(db, hash)));
        for &entry in &entries {
            sum = sum.wrapping_add(self.store.touch_beginning(entry));
        }
        for &entry in &entries {
            sum = sum.wrapping_add(self.store.touch_rest(entry));
        }
        black_box(sum);
        entries.clear();
        self.near = entries;
    }

    /// Runs one command, or says why not.
    #[inline]
    fn execute(
        &mut self,
        session: &mut Session,
        command: Option<&'static Command>,
        (args, ready): (Args<'_>, (*const u8, u32)),
        turn: &Turn<'_>,
    ) {
        let skips = match session.replies {
            Replies::On => None,
            _ if is_push(session, command) => None,
            Replies::SkipNext => {
                session.replies = Replies::Skip;
                Some(session.out.bytes.len())
            }
            Replies::Off | Replies::Skip => Some(session.out.bytes.len()),
        };
        if self.monitors > 0 {
            self.show(session, command, args, turn);
        }
        if let Err(fault) = self.admit(session, command, args) {
            self.refuse(session, command, &fault);
        } else if let Some(command) = command {
            if let Some(multi) = session.multi.as_mut().filter(|_| !command.has(flag::UNQUEUED)) {
                enqueue(multi, command, args);
                session.out.simple("QUEUED");
            } else {
                self.call(session, command, (args, ready, false), turn);
            }
        }
        if !self.trackers.is_empty() {
            self.settle_tracking(session, command);
        }
        match (session.replies, skips) {
            (Replies::Skip, _) => {
                if let Some(length) = skips {
                    session.out.bytes.truncate(length);
                    session.replies = Replies::On;
                }
            }
            (_, Some(length)) if session.replies != Replies::On => {
                session.out.bytes.truncate(length);
            }
            _ => {}
        }
    }

    /// A command is over: who tracks keys is told what changed, and CLIENT CACHING counts no more.
    fn settle_tracking(&mut self, session: &Session, command: Option<&'static Command>) {
        self.broadcast();
        self.limit_tracking();
        let is_over = session.multi.is_none()
            && command.is_none_or(|command| !command.name.starts_with("client|"));
        if is_over
            && session.is_tracking
            && let Some(tracker) = self.trackers.of_mut(session.id)
        {
            tracker.caching = false;
        }
    }

    fn refuse(&mut self, session: &mut Session, command: Option<&Command>, fault: &Fault) {
        if command.is_some_and(|command| command.name == "exec") {
            let reason = fault.0.strip_prefix("ERR ").unwrap_or(&fault.0);
            let text = format!("EXECABORT Transaction discarded because of: {reason}");
            self.stats.error(&text);
            session.out.error(&text);
            session.multi = None;
            self.unwatch(session);
            return;
        }
        self.stats.error(&fault.0);
        if let Some(command) = command {
            self.stats.rejected_calls[command.index()] += 1;
        }
        session.out.error(&fault.0);
        if let Some(multi) = &mut session.multi {
            multi.is_broken = true;
        }
    }

    /// Whether the command is there, well-formed, allowed and possible now.
    #[inline]
    fn admit(
        &mut self,
        session: &mut Session,
        command: Option<&'static Command>,
        args: Args<'_>,
    ) -> Result<(), Fault> {
        let Some(command) = command else { return Err(command::unknown(args)) };
        if !command.takes(args.len()) {
            return Err(
                format!("ERR wrong number of arguments for '{}' command", command.name).into()
            );
        }
        if session.principal.is_none() {
            if !command.has(flag::UNKNOWN) {
                return Err("NOAUTH Authentication required.".into());
            }
        } else if !session.rights.cover(command) {
            self.check_rights(session, command, args)?;
        }
        if let Some(busy) = self.busy.as_ref().filter(|_| !command.has(flag::WHEN_BUSY)) {
            return Err(busy.refusal());
        }
        self.check_settled(command, args)?;
        if command.has(flag::WRITE) {
            if let Some(refusal) = self.refusal {
                return Err(refusal.into());
            }
            if self.settings.memory_max > 0 && !self.make_room() && command.has(flag::GROWS) {
                return Err("OOM command not allowed when used memory > 'maxmemory'.".into());
            }
        }
        if session.multi.is_some() && command.has(flag::ALONE) {
            return Err("ERR Command not allowed inside a transaction".into());
        }
        if session.subscriptions.is_some()
            && session.only_listens()
            && !command.has(flag::LISTENING)
        {
            let name = command.name;
            return Err(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            )
            .into());
        }
        Ok(())
    }

    /// Nobody is shown what is not on disk.
    #[inline]
    fn check_settled(&self, command: &'static Command, args: Args<'_>) -> Result<(), Fault> {
        match &self.unsettled {
            Some(unsettled) if unsettled.hides(command, args) => {
                Err(self.refusal.unwrap_or(crate::log::FAILED).into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_rights(
        &self,
        session: &Session,
        command: &'static Command,
        args: Args<'_>,
    ) -> Result<(), Fault> {
        let Some(principal) = &session.principal else { return Ok(()) };
        let authority = &*self.gate.authority;
        access::check(authority, principal, session.rights, (command, args)).map_err(|denied| match denied {
            Denied::Command => {
                let name = &command.name;
                format!("NOPERM this user has no permissions to run the '{name}' command").into()
            }
            Denied::Key => "NOPERM this user has no permissions to access one of the keys used as arguments".into(),
            Denied::Channel => {
                "NOPERM this user has no permissions to access one of the channels used as arguments".into()
            }
        })
    }

    /// Runs a command that was admitted.
    pub(crate) fn call(
        &mut self,
        session: &mut Session,
        command: &'static Command,
        (args, ready, is_nested): (Args<'_>, (*const u8, u32), bool),
        turn: &Turn<'_>,
    ) {
        let before = session.out.bytes.len();
        let is_always = !command.has(flag::FAST) || self.settings.times_everything();
        let is_timed = is_always || self.stats.calls[command.index()].is_multiple_of(SAMPLED_EVERY);
        let began = if is_timed { (turn.watch)() } else { 0 };
        session.last_command = command.name;
        self.stats.micros = turn.micros;
        let effects = self.effects.len();
        let mut ctx =
            Ctx { engine: self, session, now: turn.now, is_nested, is_verbatim: false, ready };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let result = (command.run)(&mut ctx, args);
            #[cfg(test)]
            crate::tests::panic_if_asked(args);
            result
        }));
        let is_verbatim = ctx.is_verbatim;
        let result = match ran {
            Ok(result) => result,
            Err(panic) => {
                let is_changed = self.effects.len() > effects || is_verbatim;
                return self.panicked(session, (command, before, is_changed), &*panic);
            }
        };
        session.is_spoiled |= std::mem::take(&mut self.own_spoiled);
        // One that waited is the same call.
        if !session.is_woken {
            self.stats.calls[command.index()] += 1;
            self.stats.commands += 1;
        }
        if session.is_tracking && command.has(flag::READ) {
            let keys = command.keys(args);
            self.remember(session, keys.into_iter().filter_map(|at| args.get(at)));
        }
        match result {
            Ok(()) if is_verbatim && !self.is_replaying => {
                session.has_written = true;
                effect::push(&mut self.effects, session.db, args.iter());
            }
            Ok(()) => {}
            Err(fault) => self.fail(session, before, &fault),
        }
        if let Some(call) = session.script.take() {
            self.run_script(session, &call, turn);
        }
        if std::mem::take(&mut session.out.is_over) {
            self.fail(session, before, &TOO_LONG);
        }
        if session.out.bytes.get(before) == Some(&b'-') {
            self.stats.failed_calls[command.index()] += 1;
        }
        if is_timed {
            let took = (turn.watch)().saturating_sub(began);
            self.latency.count(command.index(), took);
            if is_always {
                self.stats.took[command.index()] += took;
            }
            if self.settings.is_slow(took) {
                self.slow.add(args, (turn.now, took), session, self.settings.slow_entries_max);
            }
            let event = if command.has(flag::FAST) { "fast-command" } else { "command" };
            self.note_latency(event, turn.now, took);
        }
        if command.name == "exec" {
            self.run_queue(session, turn);
        }
    }

    /// Answers an error in place of what stands there of the reply.
    fn fail(&mut self, session: &mut Session, before: usize, fault: &Fault) {
        self.stats.error(&fault.0);
        session.out.bytes.truncate(before);
        session.out.error(&fault.0);
    }

    /// Remembers what took longer than `latency-monitor-threshold`.
    pub(crate) fn note_latency(&mut self, event: &'static str, now: i64, micros: u64) {
        let threshold = self.settings.latency_millis;
        let millis = i64::try_from(micros / 1_000).unwrap_or(i64::MAX);
        if threshold > 0 && millis >= threshold {
            self.latency.note(event, now, millis);
        }
    }

    /// A command's panic ends its client. Unless it only read, the data is not trusted any more.
    #[cold]
    fn panicked(
        &mut self,
        session: &mut Session,
        (command, before, is_changed): (&'static Command, usize, bool),
        panic: &(dyn Any + Send),
    ) {
        let text = text_of(panic);
        tracing::error!(command = command.name, panic = text, "a command panicked");
        self.stats.panics += 1;
        self.stats.error(PANICKED);
        session.out.bytes.truncate(before);
        session.out.error(PANICKED);
        session.is_closing = true;
        if is_changed || self.is_changing || command.has(flag::WRITE) {
            self.is_broken = true;
            self.culprit = Some((session.token, NOTHING_DONE));
        }
    }

    /// What EXEC found to be run.
    fn run_queue(&mut self, session: &mut Session, turn: &Turn<'_>) {
        let Some(mut multi) = session.multi.take_if(|multi| multi.is_running) else { return };
        for (command, request) in multi.queue.drain(..) {
            if let Err(fault) = self.admit_nested(session, command, request.args()) {
                self.stats.error(&fault.0);
                session.out.error(&fault.0);
                continue;
            }
            self.call(session, command, (request.args(), NOT_READY, true), turn);
            if self.is_broken {
                return;
            }
        }
    }

    pub(crate) fn admit_nested(
        &mut self,
        session: &Session,
        command: &'static Command,
        args: Args<'_>,
    ) -> Result<(), Fault> {
        self.check_settled(command, args)?;
        if !session.rights.cover(command) {
            self.check_rights(session, command, args)?;
        }
        Ok(())
    }

    pub(crate) fn log_effect(&mut self, db: usize, args: &[&[u8]]) {
        if !self.is_replaying {
            effect::push(&mut self.effects, db, args.iter().copied());
        }
    }

    /// Adds effects that are written down already.
    pub(crate) fn append_effects(&mut self, effects: &[u8]) {
        if !self.is_replaying {
            self.effects.extend_from_slice(effects);
        }
    }

    /// Removes an entry whose time has come.
    pub(crate) fn expire(&mut self, db: usize, found: Found, key: &[u8]) {
        self.offer_stream(db, found, key);
        self.is_changing = true;
        self.store.remove(db, found);
        self.is_changing = false;
        self.stats.expired += 1;
        self.log_effect(db, &[b"DEL", key]);
        self.spoil(db, key);
        if !self.trackers.is_empty() {
            self.invalidate(db, key, None);
        }
        if self.settings.notify & notify::EXPIRED != 0 {
            self.notify(db, (notify::EXPIRED, "expired", key));
        }
    }

    /// A stream goes: who waits as a consumer of its groups is told.
    #[inline]
    pub(crate) fn offer_stream(&mut self, db: usize, found: Found, key: &[u8]) {
        if !self.waiting.is_empty() && self.store.kind(found) == Kind::Stream {
            self.offers.push((db, key.into()));
        }
    }

    /// Expires a bounded number of keys; says whether there may be more.
    pub(crate) fn expire_some(&mut self, now: i64, (segments, keys): (usize, usize)) -> bool {
        if !self.expires_actively || self.refusal.is_some() {
            return false;
        }
        let mut due = Vec::new();
        let is_all = self.store.expired(now, (segments, keys), &mut due);
        let mut last = None;
        for (db, key) in &due {
            let hash = self.store.hash_of(key);
            if let Some(found) = self.store.find(*db, hash, key)
                && self.store.deadline(found).is_some_and(|deadline| deadline <= now)
            {
                self.expire(*db, found, key);
            }
            let place = (*db, hash >> 20);
            if last.is_some_and(|(_, settled)| settled != place) {
                self.settle(last);
            }
            last = Some(((*db, hash), place));
        }
        self.settle(last);
        if !self.trackers.is_empty() {
            self.broadcast();
        }
        !is_all
    }

    fn settle(&mut self, last: Option<((usize, u32), (usize, u32))>) {
        if let Some(((db, hash), _)) = last {
            self.store.settle(db, hash);
        }
    }

    /// Marks the clients that watch a key.
    pub(crate) fn spoil(&mut self, db: usize, key: &[u8]) {
        if self.watchers.is_empty() {
            return;
        }
        let Some(tokens) = self.watchers.get(&(db, Box::from(key))) else { return };
        for &token in tokens {
            match self.sessions[token].as_mut() {
                Some(session) => session.is_spoiled = true,
                None => self.own_spoiled |= token == self.current,
            }
        }
    }

    pub(crate) fn unwatch(&mut self, session: &mut Session) {
        for (db, key) in session.watched.drain(..) {
            let place = (db, key);
            if let Some(tokens) = self.watchers.get_mut(&place) {
                tokens.retain(|token| *token != session.token);
                if tokens.is_empty() {
                    self.watchers.remove(&place);
                }
            }
        }
        session.is_spoiled = false;
        session.watched_bytes = 0;
    }

    /// Publishes an event of a key.
    pub(crate) fn notify(&mut self, db: usize, (class, event, key): (Class, &str, &[u8])) {
        let flags = self.settings.notify;
        if flags & class == 0 {
            return;
        }
        let (base, number) = (db - db % DATABASES, db % DATABASES);
        if flags & notify::KEYSPACE != 0 {
            let channel = [format!("__keyspace@{number}__:").as_bytes(), key].concat();
            self.publish(base, &channel, event.as_bytes());
        }
        if flags & notify::KEYEVENT != 0 {
            let channel = format!("__keyevent@{number}__:{event}");
            self.publish(base, channel.as_bytes(), key);
        }
    }

    /// Writes something to a client that did not ask for it now.
    pub(crate) fn deliver(&mut self, token: Token, write: impl FnOnce(&mut Reply)) {
        if token == self.current {
            write(&mut self.mail);
            return;
        }
        let Some(mut session) = self.sessions.get_mut(token).and_then(Option::take) else { return };
        if session.is_closing {
            self.sessions[token] = Some(session);
            return;
        }
        let before = session.out.bytes.len();
        write(&mut session.out);
        if session.out.bytes.len() > before && !std::mem::replace(&mut session.is_bound, true) {
            // What it is told of may be logged after this.
            self.bound.push(token);
        }
        let is_over = std::mem::take(&mut session.out.is_over);
        if is_over || session.out.bytes.len() > self.settings.output_bytes_max {
            tracing::warn!(client = session.id, "a client does not take its output");
            session.is_closing = true;
            session.out.bytes = Vec::new();
            self.stats.output_closed += 1;
        }
        self.list(&mut session);
        self.sessions[token] = Some(session);
    }

    /// Lets a client wait for its keys. One that was served in vain keeps its place and its deadline.
    pub(crate) fn block(&mut self, session: &mut Session, blocked: Blocked) {
        if session.waits_since == 0 {
            self.arrivals += 1;
            session.waits_since = self.arrivals;
            for key in &blocked.keys {
                let queue = self.waiting.entry((session.db, key.clone())).or_default();
                queue.insert(session.waits_since, session.token);
            }
            if let Some(deadline) = blocked.deadline {
                self.deadlines.insert((deadline, session.token));
            }
        }
        self.stats.blocked += 1;
        session.state = State::Blocked(Box::new(blocked));
    }

    /// Ends a client's waiting; its input goes on with the next turn.
    pub(crate) fn unblock(&mut self, session: &mut Session) {
        if !session.is_blocked() {
            return;
        }
        let State::Blocked(blocked) = std::mem::replace(&mut session.state, State::Ready) else {
            return;
        };
        self.stats.blocked -= 1;
        let since = std::mem::take(&mut session.waits_since);
        for key in blocked.keys {
            let place = (session.db, key);
            if let Some(queue) = self.waiting.get_mut(&place) {
                queue.remove(&since);
                if queue.is_empty() {
                    self.waiting.remove(&place);
                }
            }
        }
        if let Some(deadline) = blocked.deadline {
            self.deadlines.remove(&(deadline, session.token));
        }
        self.runnable.push(session.token);
    }

    /// Gives offered elements to the clients that wait for them, first come, first served.
    fn serve(&mut self, turn: &Turn<'_>) {
        while !self.offers.is_empty() {
            for place in std::mem::take(&mut self.offers) {
                self.serve_all(&place, turn);
                if self.is_broken {
                    return;
                }
            }
        }
    }

    fn serve_all(&mut self, place: &(usize, Box<[u8]>), turn: &Turn<'_>) {
        let (db, key) = (place.0, &place.1);
        let mut last = 0;
        while let Some(queue) = self.waiting.get(place)
            && let Some((&since, &token)) = queue.range(last + 1..).next()
        {
            last = since;
            let is_served = self.serve_one(token, turn);
            // When nothing is left, the others need not be asked.
            let hash = self.store.hash_of(key);
            if self.is_broken || (!is_served && self.store.find(db, hash, key).is_none()) {
                return;
            }
        }
    }

    /// Runs a waiting client's command again; says whether its waiting is over.
    fn serve_one(&mut self, token: Token, turn: &Turn<'_>) -> bool {
        let Some(mut session) = self.sessions[token].take() else { return false };
        let State::Blocked(blocked) = std::mem::replace(&mut session.state, State::Ready) else {
            self.sessions[token] = Some(session);
            return false;
        };
        let before = session.out.bytes.len();
        let (command, errors) = (blocked.command, self.stats.errors);
        session.is_woken = true;
        // What comes for it meanwhile is sent after its reply.
        let (current, mail) = (self.current, std::mem::take(&mut self.mail));
        (self.current, self.mail.is_resp3) = (token, session.out.is_resp3);
        self.call(&mut session, command, (blocked.request.args(), NOT_READY, false), turn);
        if !self.trackers.is_empty() {
            self.settle_tracking(&session, Some(command));
        }
        let mut own = std::mem::replace(&mut self.mail, mail);
        self.current = current;
        session.is_woken = false;
        let waits_again = session.is_blocked();
        // A key that became another kind is no reason to end the waiting, but a wrong target is.
        let is_moved = command.name == "blmove" || command.name == "brpoplpush";
        let is_wrong_kind = !is_moved && session.out.bytes[before..].starts_with(b"-WRONGTYPE");
        session.state = State::Blocked(blocked);
        if waits_again {
            self.stats.blocked -= 1;
        } else if is_wrong_kind {
            session.out.bytes.truncate(before);
            self.stats.errors = errors;
        } else {
            self.unblock(&mut session);
        }
        session.out.bytes.append(&mut own.bytes);
        self.list(&mut session);
        self.sessions[token] = Some(session);
        !waits_again && !is_wrong_kind
    }

    /// Ends the waiting of clients whose time is over.
    pub(crate) fn time_out(&mut self, now: i64) {
        while let Some(&(deadline, token)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.end_wait(token, None);
        }
    }

    /// Ends a client's waiting with what it gets at its time's end, or with an error.
    pub(crate) fn end_wait(&mut self, token: Token, error: Option<&str>) {
        let Some(mut session) = self.sessions.get_mut(token).and_then(Option::take) else { return };
        if let State::Blocked(blocked) = &session.state {
            match (error, blocked.on_timeout) {
                (Some(error), _) => session.out.error(error),
                (None, Timeout::NullArray) => session.out.null_array(),
                (None, Timeout::Null) => session.out.null(),
            }
            self.unblock(&mut session);
            self.list(&mut session);
        }
        self.sessions[token] = Some(session);
    }

    /// When the first waiting client's time is over.
    pub(crate) fn next_timeout(&self) -> Option<i64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The authority's answer to a wish.
    pub(crate) fn authenticated(
        &mut self,
        (token, id): (Token, u64),
        answer: Result<Principal, Refused>,
    ) {
        let Some(mut session) = self.sessions.get_mut(token).and_then(Option::take) else { return };
        if session.id != id {
            self.sessions[token] = Some(session);
            return;
        }
        if let State::Authenticating(hello) = std::mem::replace(&mut session.state, State::Ready) {
            match answer {
                Ok(principal) => {
                    self.unwatch(&mut session);
                    self.let_in(&mut session, principal);
                    match hello {
                        Some(hello) => command::connection::greet(self, &mut session, hello),
                        None => session.out.ok(),
                    }
                }
                Err(Refused::Unavailable) => {
                    session.out.error("ERR credentials cannot be checked now");
                }
                Err(Refused::TooMany) => {
                    session.out.error("ERR too many attempts, try again later");
                }
                Err(_) => {
                    session
                        .out
                        .error("WRONGPASS invalid username-password pair or user is disabled.");
                }
            }
            self.runnable.push(token);
            self.list(&mut session);
        }
        self.sessions[token] = Some(session);
    }

    /// After a change of keys or grants: looks at every open connection again.
    pub(crate) fn look_again(&mut self) {
        for token in 0..self.sessions.len() {
            let Some(mut session) = self.sessions[token].take() else { continue };
            if let Some(principal) = &session.principal {
                if self.gate.authority.is_current(principal) {
                    session.rights = Rights::of(&*self.gate.authority, principal);
                    let may = |prefix: &[u8]| {
                        session.rights.reads_all()
                            || access::may_read_all(&*self.gate.authority, principal, prefix)
                    };
                    let tracker = self.trackers.of(session.id);
                    if tracker.is_some_and(|one| !one.wishes.prefixes.iter().all(|p| may(p))) {
                        self.trackers.stop(session.id);
                        session.is_tracking = false;
                    }
                } else {
                    session.is_closing = true;
                }
            }
            self.list(&mut session);
            self.sessions[token] = Some(session);
        }
    }

    /// What was put aside since the last time, for another thread to free, and where that one counts.
    pub(crate) fn take_aside(&mut self) -> (Vec<Waste>, Arc<AtomicU64>) {
        let aside = std::mem::take(&mut self.store.aside);
        self.aside += aside.iter().map(|one| one.objects).sum::<u64>();
        (aside, self.freed.clone())
    }

    pub(crate) fn lazily_freed(&self) -> u64 {
        self.freed.load(Ordering::Acquire)
    }

    /// Values that are put aside and not freed yet.
    pub(crate) fn lazily_pending(&self) -> u64 {
        let waiting: u64 = self.store.aside.iter().map(|one| one.objects).sum();
        (self.aside + waiting).saturating_sub(self.lazily_freed())
    }

    /// A number by chance.
    pub(crate) fn chance(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Applies effects that a log or a snapshot holds.
    pub(crate) fn replay(&mut self, mut bytes: &[u8]) -> Result<u64, String> {
        let mut session = Session::new(NOBODY, 0, String::new(), 0);
        session.rights = Rights::ALL;
        session.is_quiet = true;
        let turn = Turn { now: i64::MIN, micros: 0, watch: &|| 0, aside: &|_, _| () };
        let (mut args, mut count) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let db = effect::read(&mut bytes, &mut args).ok_or("an effect is cut")?;
            if args.first() == Some(&FOLLOWS) {
                continue;
            }
            if args.first() == Some(&&b"ORGANISATION"[..]) {
                let space = Space::read(&args).ok_or("no organisation")?;
                if self.space(space) != db {
                    return Err("organisations are out of order".into());
                }
                continue;
            }
            if db >= self.store.databases() {
                return Err(format!("database {db} is not there"));
            }
            session.base = db - db % DATABASES;
            session.db = db;
            let owned = Owned::new(args.iter().copied());
            let command =
                command::find(owned.args()).ok_or_else(|| "an effect is unknown".to_owned())?;
            self.call(&mut session, command, (owned.args(), NOT_READY, true), &turn);
            if session.out.bytes.first() == Some(&b'-') {
                return Err(String::from_utf8_lossy(&session.out.bytes).trim().to_owned());
            }
            session.out.bytes.clear();
            count += 1;
        }
        self.offers.clear();
        self.effects = crate::log::empty_frame();
        Ok(count)
    }

    /// Marks a found entry as used now.
    #[inline]
    pub(crate) fn mark_used(&mut self, found: Found) {
        let stamp = match self.settings.policy {
            Policy::AllLfu | Policy::VolatileLfu => {
                let old = self.store.stamp_of(found);
                let random = self.chance();
                self.settings.counted(old, self.stats.minutes(), random)
            }
            _ => self.store.stamp,
        };
        self.store.set_stamp(found, stamp);
    }

    pub(crate) fn show(
        &mut self,
        session: &Session,
        command: Option<&'static Command>,
        args: Args<'_>,
        turn: &Turn<'_>,
    ) {
        if command.is_none_or(|command| command.has(flag::ADMIN | flag::SECRET)) {
            return;
        }
        let mut line = format!(
            "{}.{:06} [{} {}]",
            turn.micros / 1_000_000,
            turn.micros % 1_000_000,
            session.db_number(),
            session.address
        );
        for arg in args.iter() {
            line.push(' ');
            line.push_str(&crate::slow::quoted(arg));
        }
        let watching: Vec<Token> = self
            .sessions
            .iter()
            .flatten()
            .filter(|other| other.is_monitor && other.base == session.base)
            .map(|other| other.token)
            .collect();
        for token in watching {
            self.deliver(token, |reply| reply.simple(&line));
        }
    }

    /// Frees memory down to the limit by the policy; says whether that was possible.
    pub(crate) fn make_room(&mut self) -> bool {
        crate::evict::make_room(self)
    }

    /// A hello, an authentication: asks the authority.
    pub(crate) fn ask_authority(
        &mut self,
        session: &mut Session,
        (key, secret): (&[u8], &[u8]),
        hello: Option<Hello>,
    ) -> Result<(), Fault> {
        let (Ok(key), Ok(secret)) = (std::str::from_utf8(key), std::str::from_utf8(secret)) else {
            return Err("WRONGPASS invalid username-password pair or user is disabled.".into());
        };
        let (key, secret) = (key.to_owned(), secret.to_owned());
        session.state = State::Authenticating(hello);
        self.wishes.push(Wish::Authenticate {
            token: session.token,
            session: session.id,
            key,
            secret,
        });
        Ok(())
    }

    /// Whether something changed in this turn that the log has not got.
    pub(crate) fn has_effects(&self) -> bool {
        self.effects.len() > crate::log::frame::FRAME_HEADER
    }

    /// What a client is told counts only when the turn is on disk.
    pub(crate) fn bind(&mut self, session: &mut Session) {
        if !std::mem::replace(&mut session.is_bound, true) {
            self.bound.push(session.token);
        }
    }

    /// The turn is on disk: what everybody was told counts.
    pub(crate) fn release(&mut self) {
        for token in std::mem::take(&mut self.bound) {
            if let Some(session) = self.sessions[token].as_mut() {
                session.has_written = false;
                session.is_bound = false;
            }
        }
    }

    /// The turn is not on disk: who changed something is not answered but closed, since the end is not known, and so
    /// is who may have been told of it. The changed keys are kept from everybody until they are on disk.
    pub(crate) fn disown(&mut self) {
        for token in std::mem::take(&mut self.bound) {
            if let Some(session) = self.sessions[token].as_mut() {
                session.has_written = false;
                session.is_bound = false;
                session.out.bytes.clear();
                session.is_closing = true;
                if !std::mem::replace(&mut session.is_listed, true) {
                    self.touched.push(token);
                }
            }
        }
        self.unsettled = Some(Unsettled::by(&self.effects[crate::log::frame::FRAME_HEADER..]));
    }

    /// Runs one command in the server's own name; gives the reply in RESP3.
    pub(crate) fn run_for_server(
        &mut self,
        (space, db): (Space, usize),
        request: &[Vec<u8>],
        turn: &Turn<'_>,
    ) -> Vec<u8> {
        let mut session = Session::new(NOBODY, 0, "server".into(), turn.now);
        session.rights = Rights::ALL;
        session.out.is_resp3 = true;
        session.out.limit = self.settings.output_bytes_max;
        session.base = self.space(space);
        session.db = session.base + db.min(DATABASES - 1);
        let owned = Owned::new(request.iter().map(Vec::as_slice));
        let command = command::find(owned.args());
        session.principal = Some(Principal {
            organisation: space.organisation,
            subject: base::access::Subject::System("kv"),
            name: "server".into(),
        });
        match (self.admit(&mut session, command, owned.args()), command) {
            (Ok(()), Some(command)) if !command.has(flag::SUBSCRIBES | flag::UNQUEUED) => {
                self.call(&mut session, command, (owned.args(), NOT_READY, true), turn);
                if !self.offers.is_empty() {
                    self.serve(turn);
                }
            }
            (Ok(()), _) => session.out.error("ERR this command needs a connection"),
            (Err(fault), _) => session.out.error(&fault.0),
        }
        session.out.bytes
    }

    /// The organisations in their order and their functions, as a snapshot's first frame.
    pub(crate) fn organisations_frame(&self) -> Vec<u8> {
        let mut frame = crate::log::empty_frame();
        for (at, space) in self.spaces.iter().enumerate() {
            effect::push(&mut frame, at * DATABASES, space.effect().into_iter());
        }
        self.function_effects(|base, code| {
            let args: [&[u8]; 4] = [b"FUNCTION", b"LOAD", b"REPLACE", code];
            effect::push(&mut frame, base, args.into_iter());
        });
        frame
    }

    /// A whole number as a log argument.
    pub(crate) fn moment_text(at: i64) -> Vec<u8> {
        i64_text(at)
    }
}

const NOTHING_DONE: &str = "ERR internal error, nothing of the last requests was done";
pub(crate) const PANICKED: &str =
    "ERR internal error, the connection is closed; the server's log has more";

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// What tells of listening is no reply, and comes although replies are off.
fn is_push(session: &Session, command: Option<&Command>) -> bool {
    session.replies != Replies::On
        && command.is_some_and(|command| {
            command.has(flag::SUBSCRIBES) || command.name.ends_with("unsubscribe")
        })
}

fn enqueue(multi: &mut Multi, command: &'static Command, args: Args<'_>) {
    let request = Owned::new(args.iter());
    multi.queue_bytes += request.held_bytes();
    if multi.queue.len() >= QUEUE_MAX {
        multi.is_broken = true;
        return;
    }
    multi.queue.push((command, request));
}
