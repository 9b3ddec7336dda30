//! What a client may do. The grants are asked for once per connection and change of the authority, and again for
//! single keys only when they do not cover all of them.

use std::future::{Future, ready};
use std::pin::Pin;

use base::access::{Action, Authority, Door, Principal, Refused, Resource};
use tokio::sync::watch;

use crate::command::{Command, flag};
use crate::wire::request::Args;

/// The deeds of this part that can be granted, and on what.
pub const ACTIONS: &[(Action, &str)] = &[
    (READ, "kv/<key>"),
    (WRITE, "kv/<key>"),
    (ADMIN, "kv/*"),
    (PUBLISH, "kv-channel/<channel>"),
    (SUBSCRIBE, "kv-channel/<channel>"),
];

/// Reading keys.
pub const READ: Action = Action("kv.read");
const WRITE: Action = Action("kv.write");
/// Settings, clients and slow commands.
pub const ADMIN: Action = Action("kv.admin");
const PUBLISH: Action = Action("kv.publish");
const SUBSCRIBE: Action = Action("kv.subscribe");

const ALL_KEYS: &str = "kv/*";
const ALL_CHANNELS: &str = "kv-channel/*";

/// Lets nobody in: for a store that rooms alone use.
pub(crate) struct Nobody(pub(crate) watch::Sender<u64>);

impl Authority for Nobody {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        _: &'a str,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>> {
        Box::pin(ready(Err(Refused::Unauthenticated)))
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Err(Refused::Forbidden)
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        false
    }
}

/// What somebody may do to everything.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub(crate) struct Rights {
    reads: bool,
    writes: bool,
    administers: bool,
    publishes: bool,
    subscribes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    Command,
    Key,
    Channel,
}

impl Rights {
    pub(crate) const ALL: Self =
        Self { reads: true, writes: true, administers: true, publishes: true, subscribes: true };

    pub(crate) fn of(authority: &dyn Authority, principal: &Principal) -> Self {
        let may = |action, path| allows(authority, principal, action, path);
        Self {
            reads: may(READ, ALL_KEYS),
            writes: may(WRITE, ALL_KEYS),
            administers: may(ADMIN, ALL_KEYS),
            publishes: may(PUBLISH, ALL_CHANNELS),
            subscribes: may(SUBSCRIBE, ALL_CHANNELS),
        }
    }

    /// Whether every key may be read.
    pub(crate) fn reads_all(self) -> bool {
        self.reads
    }

    pub(crate) fn writes_all(self) -> bool {
        self.writes
    }

    pub(crate) fn administers_all(self) -> bool {
        self.administers
    }

    /// Whether every channel may be used.
    pub(crate) fn hears_all(self) -> bool {
        self.publishes && self.subscribes
    }

    /// Whether nothing needs to be asked for a command.
    #[inline]
    pub(crate) fn cover(self, command: &Command) -> bool {
        (self.reads || !command.has(flag::READ | flag::WHOLE))
            && (self.writes || !command.has(flag::WRITE))
            && (self.administers || !command.has(flag::ADMIN))
            && (self.publishes || !command.has(flag::PUBLISHES))
            && (self.subscribes || !command.has(flag::SUBSCRIBES))
    }
}

/// Asks for every key and channel of a command that the rights do not cover.
pub(crate) fn check(
    authority: &dyn Authority,
    principal: &Principal,
    rights: Rights,
    (command, args): (&Command, Args<'_>),
) -> Result<(), Denied> {
    if command.has(flag::ADMIN) && !rights.administers {
        return Err(Denied::Command);
    }
    let (action, covers) = match () {
        () if command.has(flag::WRITE) => (WRITE, rights.writes),
        () => (READ, rights.reads),
    };
    if command.has(flag::WHOLE) && !covers {
        return Err(Denied::Command);
    }
    if command.has(flag::READ | flag::WRITE) && !covers {
        for index in command.keys(args) {
            let key = args.get(index).unwrap_or_default();
            if !allows(authority, principal, action, &path("kv/", key)) {
                return Err(Denied::Key);
            }
        }
    }
    let is_publish = command.has(flag::PUBLISHES);
    if (is_publish && !rights.publishes) || (command.has(flag::SUBSCRIBES) && !rights.subscribes) {
        let action = if is_publish { PUBLISH } else { SUBSCRIBE };
        let last = if is_publish { 2 } else { args.len() };
        for channel in args.iter().take(last).skip(1) {
            if !allows(authority, principal, action, &path("kv-channel/", channel)) {
                return Err(Denied::Channel);
            }
        }
    }
    Ok(())
}

/// Whether all keys may be read that begin so.
pub(crate) fn may_read_all(
    authority: &dyn Authority,
    principal: &Principal,
    prefix: &[u8],
) -> bool {
    allows(authority, principal, READ, &path("kv/", &[prefix, b"*"].concat()))
}

fn allows(authority: &dyn Authority, principal: &Principal, action: Action, path: &str) -> bool {
    let resource = Resource { organisation: principal.organisation, path };
    authority.authorize(principal, action, resource).is_ok()
}

/// The path of a key. One that is no text has its readable beginning and a mark that no grant names.
fn path(kind: &str, key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(key) => format!("{kind}{key}"),
        Err(error) => {
            let readable = String::from_utf8_lossy(&key[..error.valid_up_to()]);
            format!("{kind}{readable}\u{FFFD}")
        }
    }
}
