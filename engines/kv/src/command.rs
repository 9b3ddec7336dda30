//! The table of commands: the one place that dispatch, COMMAND, access and the guide are made from.

mod acl;
mod bits;
pub(crate) mod connection;
mod dumps;
mod fields;
mod geo;
mod groups;
mod hashes;
mod hyperloglog;
mod key_flags;
pub(crate) mod keys;
mod lists;
pub(crate) mod options;
mod pubsub;
mod random;
mod reading;
mod scripts;
mod server;
mod sets;
mod sort;
mod sorted;
mod streams;
mod strings;
mod table;
mod tracking;
mod waiting;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::context::{Ctx, Outcome};
use crate::wire::reply::Fault;
use crate::wire::request::Args;

pub(crate) use reading::waits;
pub(crate) use table::COMMANDS;

/// What a command is, as bits.
pub(crate) mod flag {
    pub(crate) const WRITE: u32 = 1 << 0;
    pub(crate) const READ: u32 = 1 << 1;
    /// Takes about the same time always: it is not timed.
    pub(crate) const FAST: u32 = 1 << 2;
    /// Can take more memory: refused when memory is full.
    pub(crate) const GROWS: u32 = 1 << 3;
    pub(crate) const ADMIN: u32 = 1 << 4;
    /// For clients that have not proved who they are.
    pub(crate) const UNKNOWN: u32 = 1 << 5;
    /// Not queued by MULTI.
    pub(crate) const UNQUEUED: u32 = 1 << 6;
    /// For RESP2 clients that listen.
    pub(crate) const LISTENING: u32 = 1 << 7;
    pub(crate) const PUBLISHES: u32 = 1 << 8;
    pub(crate) const SUBSCRIBES: u32 = 1 << 9;
    /// Reads or writes keys that it does not name.
    pub(crate) const WHOLE: u32 = 1 << 10;
    pub(crate) const BLOCKING: u32 = 1 << 11;
    /// Its arguments are not shown.
    pub(crate) const SECRET: u32 = 1 << 12;
    /// Never in a transaction.
    pub(crate) const ALONE: u32 = 1 << 13;
    /// Has subcommands beside what it does alone.
    pub(crate) const PARENT: u32 = 1 << 14;
    /// Runs scripts, or is about them.
    pub(crate) const RUNS: u32 = 1 << 15;
    /// Taken while a script keeps the store busy.
    pub(crate) const WHEN_BUSY: u32 = 1 << 16;
}

pub(crate) type Run = fn(&mut Ctx<'_>, Args<'_>) -> Outcome;

pub(crate) struct Command {
    /// In lower case; a subcommand is `config|get`.
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// How many arguments, the name included; at least so many when negative.
    arity: i32,
    flags: u32,
    pub(crate) first_key: usize,
    last_key: i32,
    step: usize,
    /// Where the number of keys stands that follow, beside those above; 0 is nowhere.
    counted_at: usize,
    pub(crate) group: Group,
    since: &'static str,
    summary: &'static str,
}

/// The families, by Redis's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Generic,
    String,
    Hash,
    List,
    Set,
    SortedSet,
    Stream,
    HyperLogLog,
    Geo,
    Scripting,
    Bitmap,
    PubSub,
    Transactions,
    Connection,
    Server,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "sorted-set",
            Self::Stream => "stream",
            Self::HyperLogLog => "hyperloglog",
            Self::Geo => "geo",
            Self::Scripting => "scripting",
            Self::Bitmap => "bitmap",
            Self::PubSub => "pubsub",
            Self::Transactions => "transactions",
            Self::Connection => "connection",
            Self::Server => "server",
        }
    }

    /// The category of ACL that its commands are in.
    fn category(self) -> &'static str {
        match self {
            Self::Generic => "@keyspace",
            Self::String => "@string",
            Self::Hash => "@hash",
            Self::List => "@list",
            Self::Set => "@set",
            Self::SortedSet => "@sortedset",
            Self::Stream => "@stream",
            Self::HyperLogLog => "@hyperloglog",
            Self::Geo => "@geo",
            Self::Scripting => "@scripting",
            Self::Bitmap => "@bitmap",
            Self::PubSub => "@pubsub",
            Self::Transactions => "@transaction",
            Self::Connection => "@connection",
            Self::Server => "@admin",
        }
    }
}

impl Command {
    #[inline]
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(crate) fn takes(&self, count: usize) -> bool {
        let count = count as i32;
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }

    /// Its place in the table.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        (std::ptr::from_ref(self) as usize - COMMANDS.as_ptr() as usize) / size_of::<Self>()
    }

    /// Whether it may have keys.
    pub(crate) fn has_keys(&self) -> bool {
        self.first_key > 0 || self.counted_at > 0 || matches!(self.name, "xread" | "xreadgroup")
    }

    /// Where its keys are.
    pub(crate) fn keys(&self, args: Args<'_>) -> Vec<usize> {
        let mut keys = Vec::new();
        if self.first_key > 0 {
            let last = if self.last_key < 0 {
                args.len().saturating_sub(self.last_key.unsigned_abs() as usize)
            } else {
                self.last_key as usize
            };
            keys.extend(
                (self.first_key..=last.min(args.len().saturating_sub(1))).step_by(self.step.max(1)),
            );
        }
        if self.counted_at > 0
            && let Some(Ok(range)) =
                args.get(self.counted_at).map(|_| options::numbered_keys(args, self.counted_at))
        {
            keys.extend(range);
        }
        if matches!(self.name, "xread" | "xreadgroup")
            && let Some(streams) = reading::streams_at(args)
        {
            keys.extend(streams..streams + (args.len() - streams) / 2);
        }
        if self.name == "sort" {
            let store = (2..args.len()).rev().find(|at| args.is(*at, "STORE"));
            keys.extend(store.map(|at| at + 1).filter(|at| *at < args.len()));
        }
        if matches!(self.name, "georadius" | "georadiusbymember") {
            let stores =
                (5..args.len()).filter(|at| args.is(*at, "STORE") || args.is(*at, "STOREDIST"));
            keys.extend(stores.map(|at| at + 1).filter(|at| *at < args.len()));
        }
        keys
    }

    /// Words of COMMAND INFO for its flags.
    pub(crate) fn flag_words(&self) -> Vec<&'static str> {
        let words = [
            (flag::WRITE, "write"),
            (flag::READ, "readonly"),
            (flag::GROWS, "denyoom"),
            (flag::ADMIN, "admin"),
            (flag::PUBLISHES | flag::SUBSCRIBES, "pubsub"),
            (flag::BLOCKING, "blocking"),
            (flag::FAST, "fast"),
            (flag::UNKNOWN, "no_auth"),
            (flag::UNQUEUED | flag::ALONE, "no_multi"),
            (flag::RUNS, "noscript"),
            (flag::WHEN_BUSY, "allow_busy"),
        ];
        let mut words: Vec<&str> =
            words.into_iter().filter(|(bit, _)| self.has(*bit)).map(|(_, word)| word).collect();
        if self.counted_at > 0
            || matches!(
                self.name,
                "sort" | "sort_ro" | "xread" | "xreadgroup" | "georadius" | "georadiusbymember"
            )
        {
            words.push("movablekeys");
        }
        words
    }

    pub(crate) fn categories(&self) -> Vec<&'static str> {
        let mut words = vec![self.group.category()];
        for (bit, word) in [
            (flag::WRITE, "@write"),
            (flag::READ, "@read"),
            (flag::FAST, "@fast"),
            (flag::BLOCKING, "@blocking"),
            (flag::ADMIN, "@dangerous"),
        ] {
            if self.has(bit) {
                words.push(word);
            }
        }
        if !self.has(flag::FAST) {
            words.push("@slow");
        }
        words
    }
}

struct Lookup {
    /// Names of up to 16 bytes with their index, at the place of their hash.
    short: Vec<(u128, u16)>,
    all: HashMap<&'static str, u16>,
    /// Commands that have subcommands.
    containers: Vec<&'static str>,
}

const SHORT_SLOTS: usize = 2_048;
const SHORT_BYTES: usize = 16;
const NAME_BYTES_MAX: usize = 64;

fn lookup() -> &'static Lookup {
    static LOOKUP: OnceLock<Lookup> = OnceLock::new();
    LOOKUP.get_or_init(|| {
        let mut short = vec![(0, 0); SHORT_SLOTS];
        let mut all = HashMap::new();
        let mut containers = Vec::new();
        for (index, command) in COMMANDS.iter().enumerate() {
            let index = index as u16;
            all.insert(command.name, index);
            if let Some((parent, _)) = command.name.split_once('|') {
                if !containers.contains(&parent) {
                    containers.push(parent);
                }
            } else if let Some(packed) = pack(command.name.as_bytes()) {
                let mut at = slot(packed);
                while short[at].0 != 0 {
                    at = (at + 1) % SHORT_SLOTS;
                }
                short[at] = (packed, index);
            }
        }
        Lookup { short, all, containers }
    })
}

/// A short name in lower case as one number.
#[inline]
fn pack(name: &[u8]) -> Option<u128> {
    if name.len() > SHORT_BYTES {
        return None;
    }
    Some(name.iter().fold(0, |packed, byte| packed << 8 | u128::from(byte.to_ascii_lowercase())))
}

#[inline]
fn slot(packed: u128) -> usize {
    let folded = (packed as u64) ^ ((packed >> 64) as u64).rotate_left(23);
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53) as usize
}

/// The command that these arguments begin with.
#[inline]
pub(crate) fn find(args: Args<'_>) -> Option<&'static Command> {
    let lookup = lookup();
    let name = args.get(0)?;
    let Some(packed) = pack(name) else { return find_long(name) };
    let mut at = slot(packed);
    loop {
        let (known, index) = lookup.short[at];
        if known == packed && packed != 0 {
            let command = &COMMANDS[usize::from(index)];
            if command.has(flag::PARENT) && args.len() > 1 {
                return find_sub(lookup, name, args.at(1));
            }
            return Some(command);
        }
        if known == 0 {
            return find_sub(lookup, name, args.get(1)?);
        }
        at = (at + 1) % SHORT_SLOTS;
    }
}

/// A command whose name is not short.
fn find_long(name: &[u8]) -> Option<&'static Command> {
    let is_name = name.len() <= NAME_BYTES_MAX && !name.contains(&b'|');
    if is_name { by_name(name) } else { None }
}

fn find_sub(lookup: &Lookup, name: &[u8], sub: &[u8]) -> Option<&'static Command> {
    if sub.len() > NAME_BYTES_MAX {
        return None;
    }
    let full = [name, b"|", sub].concat().to_ascii_lowercase();
    let index = lookup.all.get(std::str::from_utf8(&full).ok()?)?;
    Some(&COMMANDS[usize::from(*index)])
}

/// A command by its name, `get` or `config|get`.
pub(crate) fn by_name(name: &[u8]) -> Option<&'static Command> {
    let name = name.to_ascii_lowercase();
    let index = lookup().all.get(std::str::from_utf8(&name).ok()?)?;
    Some(&COMMANDS[usize::from(*index)])
}

pub(crate) fn is_container(name: &[u8]) -> bool {
    lookup().containers.iter().any(|container| container.as_bytes().eq_ignore_ascii_case(name))
}

/// Subcommands of a command.
pub(crate) fn subcommands(name: &str) -> impl Iterator<Item = &'static Command> {
    let prefix = format!("{name}|");
    COMMANDS.iter().filter(move |command| command.name.starts_with(&prefix))
}

pub(crate) fn containers() -> &'static [&'static str] {
    &lookup().containers
}

/// What Redis says to a command that is not there.
pub(crate) fn unknown(args: Args<'_>) -> Fault {
    let name = args.get(0).unwrap_or_default();
    let shown = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(128)]).into_owned();
    if is_container(name) {
        return match args.get(1) {
            None => {
                let name = shown(name).to_lowercase();
                format!("ERR wrong number of arguments for '{name}' command").into()
            }
            Some(sub) => {
                let (sub, name) = (shown(sub), shown(name).to_uppercase());
                format!("ERR unknown subcommand '{sub}'. Try {name} HELP.").into()
            }
        };
    }
    let mut rest = String::new();
    for arg in args.from(1).iter() {
        if rest.len() >= 128 {
            break;
        }
        let room = 128 - rest.len();
        rest.push_str(&format!("'{}' ", String::from_utf8_lossy(&arg[..arg.len().min(room)])));
    }
    format!("ERR unknown command '{}', with args beginning with: {rest}", shown(name)).into()
}

/// The guide's table of commands.
#[cfg(test)]
pub(crate) fn guide() -> String {
    let mut groups: Vec<(Group, Vec<String>)> = Vec::new();
    for command in COMMANDS {
        let name = format!("`{}`", command.name.replace('|', " ").to_uppercase());
        match groups.iter_mut().find(|(group, _)| *group == command.group) {
            Some((_, names)) => names.push(name),
            None => groups.push((command.group, vec![name])),
        }
    }
    let mut text = String::from("| family | commands |\n|---|---|\n");
    for (group, mut names) in groups {
        names.sort();
        text.push_str(&format!("| {} | {} |\n", group.name(), names.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::Owned;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for command in COMMANDS {
            let upper = command.name.to_uppercase();
            let words: Vec<&[u8]> = upper.split('|').map(str::as_bytes).collect();
            let owned = Owned::new(words.into_iter());
            let found = find(owned.args()).unwrap();
            assert_eq!(found.name, command.name);
            assert!(std::ptr::eq(found, &raw const COMMANDS[found.index()]));
        }
        let owned = Owned::new([&b"nonsense"[..], b"x"].into_iter());
        assert!(find(owned.args()).is_none());
        assert_eq!(
            unknown(owned.args()).0,
            "ERR unknown command 'nonsense', with args beginning with: 'x' "
        );
    }

    #[test]
    fn the_guide_lists_exactly_the_commands_that_are_there() {
        let page = include_str!("../../../docs/guides/kv.md");
        assert!(page.contains(&guide()), "docs/guides/kv.md should hold:\n{}", guide());
    }
}
