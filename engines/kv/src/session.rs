//! What the engine knows of one client.

use std::collections::BTreeSet;

use base::access::Principal;

use crate::access::Rights;
use crate::wire::reply::Reply;
use crate::wire::request::{Owned, Progress};

/// A client's place among the sessions.
pub(crate) type Token = usize;

#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) token: Token,
    pub(crate) address: String,
    /// Where it came in.
    pub(crate) local_address: String,
    pub(crate) name: Vec<u8>,
    /// Databases of its organisation begin at this number.
    pub(crate) base: usize,
    /// Counted over all organisations.
    pub(crate) db: usize,
    pub(crate) out: Reply,
    /// Bytes that came and are no whole request yet, or wait until the client is no longer blocked.
    pub(crate) input: Vec<u8>,
    pub(crate) progress: Progress,
    pub(crate) principal: Option<Principal>,
    pub(crate) rights: Rights,
    pub(crate) state: State,
    pub(crate) multi: Option<Box<Multi>>,
    pub(crate) watched: Vec<(usize, Box<[u8]>)>,
    pub(crate) watched_bytes: usize,
    /// A watched key was changed.
    pub(crate) is_spoiled: bool,
    pub(crate) subscriptions: Option<Box<Subscriptions>>,
    pub(crate) replies: Replies,
    /// Is to be closed when its output is sent.
    pub(crate) is_closing: bool,
    /// Keeps the access marks of keys as they are.
    pub(crate) is_quiet: bool,
    pub(crate) is_kept: bool,
    pub(crate) is_monitor: bool,
    pub(crate) since: i64,
    pub(crate) active: i64,
    pub(crate) last_command: &'static str,
    /// In this turn it changed something that is not on disk yet.
    pub(crate) has_written: bool,
    /// What it was told in this turn counts only when the turn is on disk.
    pub(crate) is_bound: bool,
    /// Its place among all that wait, first come first; 0 while it does not.
    pub(crate) waits_since: u64,
    pub(crate) is_listed: bool,
    /// So much waits to be sent to it that its requests wait too.
    pub(crate) is_full: bool,
    /// Its command runs again because a key that it waits for changed.
    pub(crate) is_woken: bool,
    /// It is a script's own.
    pub(crate) is_script: bool,
    /// It is told which of the keys it read change.
    pub(crate) is_tracking: bool,
    /// What its command wants to be run.
    pub(crate) script: Option<Box<crate::script::Call>>,
}

pub(crate) enum State {
    Ready,
    /// Waits for the authority's answer; then a HELLO goes on.
    Authenticating(Option<Hello>),
    Blocked(Box<Blocked>),
}

/// What HELLO asked for beside authentication.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hello {
    pub(crate) version: Option<i64>,
    pub(crate) name: Option<Vec<u8>>,
}

/// A command that waits for one of its keys.
pub(crate) struct Blocked {
    pub(crate) command: &'static crate::command::Command,
    pub(crate) request: Owned,
    pub(crate) keys: Vec<Box<[u8]>>,
    /// Milliseconds since 1970; nothing is for ever.
    pub(crate) deadline: Option<i64>,
    /// What it gets when the time is over.
    pub(crate) on_timeout: Timeout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    NullArray,
    Null,
}

#[derive(Default)]
pub(crate) struct Multi {
    pub(crate) queue: Vec<(&'static crate::command::Command, Owned)>,
    pub(crate) queue_bytes: usize,
    pub(crate) is_broken: bool,
    /// EXEC was asked for.
    pub(crate) is_running: bool,
}

#[derive(Default)]
pub(crate) struct Subscriptions {
    pub(crate) channels: BTreeSet<Box<[u8]>>,
    pub(crate) patterns: BTreeSet<Box<[u8]>>,
    pub(crate) shards: BTreeSet<Box<[u8]>>,
    /// About what their names take.
    pub(crate) bytes: usize,
}

impl Subscriptions {
    /// What subscribing answers: shard channels are counted apart.
    pub(crate) fn plain(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

/// Which replies the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replies {
    On,
    Off,
    /// Not for the command after this one.
    SkipNext,
    Skip,
}

impl Session {
    pub(crate) fn new(token: Token, id: u64, address: String, now: i64) -> Self {
        Self {
            id,
            token,
            address,
            local_address: String::new(),
            name: Vec::new(),
            base: 0,
            db: 0,
            out: Reply::default(),
            input: Vec::new(),
            progress: Progress::default(),
            principal: None,
            rights: Rights::default(),
            state: State::Ready,
            multi: None,
            watched: Vec::new(),
            watched_bytes: 0,
            is_spoiled: false,
            subscriptions: None,
            replies: Replies::On,
            is_closing: false,
            is_quiet: false,
            is_kept: false,
            is_monitor: false,
            since: now,
            active: now,
            last_command: "NULL",
            has_written: false,
            is_bound: false,
            waits_since: 0,
            is_listed: false,
            is_full: false,
            is_woken: false,
            is_script: false,
            is_tracking: false,
            script: None,
        }
    }

    /// What waits to be run for the client and to be sent to it.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.input.capacity() + self.out.bytes.capacity() + self.kept_bytes()
    }

    /// What the client wants to be kept: queued commands, watched keys, names of channels.
    pub(crate) fn kept_bytes(&self) -> usize {
        let queued = self.multi.as_ref().map_or(0, |multi| multi.queue_bytes);
        let named = self.subscriptions.as_ref().map_or(0, |all| all.bytes);
        queued + self.watched_bytes + named
    }

    /// Whether its next request can be run now.
    pub(crate) fn goes_on(&self) -> bool {
        !self.is_closing && !self.is_full && matches!(self.state, State::Ready)
    }

    pub(crate) fn is_blocked(&self) -> bool {
        matches!(self.state, State::Blocked(_))
    }

    /// Subscribed in RESP2: only a few commands are taken.
    pub(crate) fn only_listens(&self) -> bool {
        !self.out.is_resp3
            && self.subscriptions.as_ref().is_some_and(|all| all.plain() + all.shards.len() > 0)
    }

    /// The database's number within the organisation.
    pub(crate) fn db_number(&self) -> usize {
        self.db - self.base
    }
}
