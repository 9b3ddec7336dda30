//! Scripts: a Lua 5.1 of its own for each organisation, which sees the store through `redis.call` and nothing else. What
//! a script changes is in the log as what it changed, never as the script. See docs/decisions/0016-scripts.md.

mod bits;
mod json;
mod library;
mod msgpack;
mod patterns;
mod raise;
mod reply;
mod run;
mod structs;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use indexmap::IndexMap;
use mlua::{Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState};
use sha1::{Digest, Sha1};

use crate::command;
use crate::engine::{DATABASES, Engine, Turn};
use crate::session::Session;
use crate::wire::reply::Fault;

pub(crate) use library::{Libraries, Library};
use raise::{Raised, guarded};
pub(crate) use run::Busy;

const PRELUDE: &str = include_str!("script/prelude.lua");
/// Instructions between two looks at the clock.
const LOOK_EVERY: u32 = 10_000;
/// Lua collects when its memory is so many per cent of what lived after the last time.
const GC_PAUSE_PERCENT: i32 = 120;
/// Of memory, in mlua's words.
const UNLIMITED: usize = 0;
/// The names under which a run that goes on has what Lua calls: all that a script may ask of it, and what a library may.
const RUN: &str = "run";
const REGISTER: &str = "register";

/// What a script asks of its run.
mod deed {
    pub(super) const LOOK: u8 = 0;
    pub(super) const CALL: u8 = 1;
    pub(super) const MAY: u8 = 2;
    pub(super) const SETRESP: u8 = 3;
}

/// Where the scripts of rooms are: no organisation's databases begin there.
const ROOMS_HOME: usize = usize::MAX;

const NOT_NOW: &str = "ERR redis.call/pcall can only be called inside a script invocation";
const BYTECODE: u8 = 0x1b;

/// Why a script ended, and whether that is counted among the errors already.
struct Failed {
    fault: Fault,
    is_counted: bool,
}

impl<T: Into<Fault>> From<T> for Failed {
    fn from(fault: T) -> Self {
        Self { fault: fault.into(), is_counted: false }
    }
}

const NO_MEMORY: Fault = Fault(std::borrow::Cow::Borrowed(
    "OOM not enough memory: the script needs more than script_memory_bytes_max",
));

/// A script's name: the checksum of its text, in hexadecimal.
pub(crate) type Name = String;

pub(crate) fn sha1_hex(bytes: &[u8]) -> Name {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |number: u8| char::from(DIGITS[usize::from(number)]);
    let digest = Sha1::digest(bytes);
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What a script or function promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a promise of its own")]
pub(crate) struct Flags {
    pub(crate) no_writes: bool,
    pub(crate) allow_oom: bool,
    pub(crate) allow_stale: bool,
    pub(crate) no_cluster: bool,
    pub(crate) allow_cross_slot: bool,
    /// It has promised something: then Redis holds it to it from the start.
    pub(crate) is_given: bool,
}

impl Flags {
    const NAMES: [&'static str; 5] =
        ["no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"];

    pub(crate) fn add(&mut self, name: &str) -> bool {
        match name {
            "no-writes" => self.no_writes = true,
            "allow-oom" => self.allow_oom = true,
            "allow-stale" => self.allow_stale = true,
            "no-cluster" => self.no_cluster = true,
            "allow-cross-slot-keys" => self.allow_cross_slot = true,
            _ => return false,
        }
        true
    }

    pub(crate) fn names(self) -> Vec<&'static str> {
        let given = [
            self.no_writes,
            self.allow_oom,
            self.allow_stale,
            self.no_cluster,
            self.allow_cross_slot,
        ];
        Self::NAMES
            .into_iter()
            .zip(given)
            .filter(|(_, is_given)| *is_given)
            .map(|(n, _)| n)
            .collect()
    }
}

/// What is to be run for a client when its command has ended.
pub(crate) struct Call {
    pub(crate) what: What,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) args: Vec<Vec<u8>>,
    /// By the name of a command that only reads.
    pub(crate) reads_only: bool,
}

pub(crate) enum What {
    Script(Name),
    Function(String),
    /// Libraries' codes, all or none of which become known.
    Load(Vec<Vec<u8>>, Policy),
}

/// What becomes of the libraries that are there when others come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// One by its own command: none of its name may be there.
    New,
    /// As `Replace`, for one by its own command.
    ReplaceOne,
    Append,
    Replace,
    Flush,
}

struct Body {
    flags: Flags,
    text: Vec<u8>,
}

/// An organisation's scripts.
pub(crate) struct Home {
    lua: Lua,
    mailbox: Mailbox,
    /// What Lua takes without any script.
    empty_bytes: usize,
    compile: Function,
    run: Function,
    /// The functions of the scripts by their names, within Lua: there are few places for such outside of it.
    functions: Table,
    bodies: IndexMap<Name, Body>,
    pub(crate) libraries: Libraries,
}

/// All organisations' scripts, by where their databases begin.
#[derive(Default)]
pub(crate) struct Scripts(HashMap<usize, Box<Home>>);

impl Scripts {
    pub(crate) fn get(&self, base: usize) -> Option<&Home> {
        self.0.get(&base).map(|home| &**home)
    }
}

/// Limits of scripts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// After so many microseconds others are told that the store is busy; 0 is never.
    pub(crate) busy_micros: u64,
    /// After so many microseconds a script is ended.
    pub(crate) micros: u64,
    /// The same for the code of a library that says which functions it has.
    pub(crate) load_micros: u64,
    pub(crate) memory_bytes: usize,
    /// A script that grows the data or the log by more is ended.
    pub(crate) write_bytes: usize,
    pub(crate) count: usize,
}

/// What a script gives a command, put where the run finds it: Lua's stack has too little room to hand it on.
type Mailbox = Rc<RefCell<Mail>>;

#[derive(Default)]
struct Mail {
    texts: Vec<Vec<u8>>,
    /// Bytes of all texts, at most.
    limit: usize,
}

/// What came of a command for a script.
fn ask(
    lua: &Lua,
    (deed, mailbox): (u8, &Mailbox),
    args: MultiValue,
) -> mlua::Result<Result<Value, Raised>> {
    let run: Option<Function> = lua.named_registry_value(RUN)?;
    let Some(run) = run else { return Ok(Err(Raised::Fault(NOT_NOW.to_owned()))) };
    let limit = mailbox.borrow().limit;
    match run::texts(args, limit) {
        Ok(texts) => mailbox.borrow_mut().texts = texts,
        Err(fault) => return Ok(Err(Raised::Fault(fault.0.into_owned()))),
    }
    Ok(match run.call::<(bool, Value)>((deed, Value::Nil))? {
        (true, value) => Ok(value),
        (false, reason) => Err(Raised::Command(lossy(&reason))),
    })
}

/// `redis.setresp`
fn setresp(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    let fault = |text: &str| Err(Raised::Fault(text.to_owned()).into());
    let mut args = args.into_iter();
    let (Some(version), None) = (args.next(), args.next()) else {
        return fault("ERR redis.setresp() requires one argument.");
    };
    let run: Option<Function> = lua.named_registry_value(RUN)?;
    let Some(run) = run else { return fault(NOT_NOW) };
    match run.call::<(bool, Value)>((deed::SETRESP, version))? {
        (true, _) => Ok(()),
        (false, reason) => fault(&lossy(&reason)),
    }
}

/// `redis.register_function`
fn register(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    let fault = |text: &str| Err(Raised::Fault(text.to_owned()).into());
    let register: Option<Function> = lua.named_registry_value(REGISTER)?;
    let Some(register) = register else {
        return fault("ERR redis.register_function can only be called on FUNCTION LOAD command");
    };
    match register.call::<(bool, Value)>(args)? {
        (true, _) => Ok(()),
        (false, reason) => fault(&lossy(&reason)),
    }
}

fn lossy(text: &Value) -> String {
    text.as_string().map_or_else(String::new, mlua::String::to_string_lossy)
}

fn modules(lua: &Lua, (seed, limit): (u64, usize), mailbox: &Mailbox) -> mlua::Result<Table> {
    let modules = lua.create_table()?;
    modules.set("version", command::connection::REDIS_VERSION)?;
    modules.set("seen", raise::seen(lua)?)?;
    modules.set("where", lua.create_function(|lua, ()| Ok(raise::place(lua, 2)))?)?;
    for (word, deed) in [("call", deed::CALL), ("may", deed::MAY)] {
        let mailbox = mailbox.clone();
        let function = lua.create_function(move |lua, args: MultiValue| {
            ask(lua, (deed, &mailbox), args)?.map_err(mlua::Error::from)
        })?;
        modules.set(word, function)?;
    }
    let mailbox = mailbox.clone();
    let pcall = lua.create_function(move |lua, args: MultiValue| {
        match ask(lua, (deed::CALL, &mailbox), args)? {
            Ok(value) => Ok(value),
            Err(Raised::Command(text)) => reply::counted_fault(lua, &text),
            Err(raised) => reply::fault(lua, &raised.to_string()),
        }
    })?;
    modules.set("pcall", pcall)?;
    modules.set("setresp", lua.create_function(setresp)?)?;
    modules.set("register", lua.create_function(register)?)?;
    modules.set("bit", bits::module(lua)?)?;
    modules.set("cjson", json::module(lua, limit)?)?;
    modules.set("cmsgpack", msgpack::module(lua, limit)?)?;
    modules.set("struct", structs::module(lua, limit)?)?;
    modules.set("patterns", patterns::module(lua, limit)?)?;
    modules.set("sha1hex", lua.create_function(sha1hex)?)?;
    modules.set("log", lua.create_function(log)?)?;
    add_chance(lua, &modules, seed)?;
    Ok(modules)
}

fn add_chance(lua: &Lua, modules: &Table, seed: u64) -> mlua::Result<()> {
    let state = Rc::new(Cell::new(seed));
    let random = state.clone();
    let chance = lua.create_function(move |_, ()| {
        let next = random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.set(next);
        Ok((next >> 11) as f64 / (1u64 << 53) as f64)
    })?;
    modules.set("chance", chance)?;
    let seed = lua.create_function(move |_, seed: f64| {
        state.set((seed as i64 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Ok(())
    })?;
    modules.set("seed", seed)
}

/// `redis.sha1hex`
fn sha1hex(lua: &Lua, args: MultiValue) -> mlua::Result<String> {
    let mut args = args.into_iter();
    match (args.next(), args.next()) {
        (Some(value), None) => {
            let text = lua.coerce_string(value)?;
            Ok(sha1_hex(&text.map_or_else(Vec::new, |text| text.as_bytes().to_vec())))
        }
        _ => Err(Raised::Fault("ERR wrong number of arguments".into()).into()),
    }
}

/// `redis.log`
fn log(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    let fault = |text: &str| Err(Raised::Fault(format!("ERR {text}")).into());
    let mut args = args.into_iter();
    let (Some(level), Some(first)) = (args.next(), args.next()) else {
        return fault("redis.log() requires two arguments or more.");
    };
    let Some(level) = raise::whole(lua, Some(&level)) else {
        return fault("First argument must be a number (log level).");
    };
    let mut parts = Vec::new();
    for value in std::iter::once(first).chain(args) {
        if let Some(text) = lua.coerce_string(value)? {
            parts.push(text.to_string_lossy());
        }
    }
    let text = parts.join(" ");
    match level {
        0 | 1 => tracing::debug!(text, "a script says"),
        2 => tracing::info!(text, "a script says"),
        3 => tracing::warn!(text, "a script says"),
        _ => return fault("Invalid debug level."),
    }
    Ok(())
}

impl Home {
    fn new(seed: u64, limits: Limits) -> mlua::Result<Self> {
        let libs = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS;
        let lua = new_lua(libs)?;
        let mailbox = Mailbox::default();
        let modules = modules(&lua, (seed, limits.memory_bytes), &mailbox)?;
        let prelude: Table = lua.load(PRELUDE).set_name("=prelude").call(modules)?;
        let (compile, run) = (prelude.get("compile")?, prelude.get("run")?);
        let callbacks = lua.create_table()?;
        let libraries =
            Libraries::new((prelude.get("load_library")?, prelude.get("run_function")?), callbacks);
        // What is dead counts until it is collected, so that is done early.
        lua.gc_set_pause(GC_PAUSE_PERCENT);
        // Coroutines take the hook from where they are made, so it is always there.
        let triggers = HookTriggers::new().every_nth_instruction(LOOK_EVERY);
        lua.set_global_hook(triggers, |lua, _| {
            let run: Option<Function> = lua.named_registry_value(RUN)?;
            let Some(run) = run else { return Ok(VmState::Continue) };
            let (goes_on, _) = run.call::<(bool, Value)>((deed::LOOK, Value::Nil))?;
            if goes_on { Ok(VmState::Continue) } else { Err(Raised::End.into()) }
        })?;
        lua.gc_collect()?;
        let empty_bytes = lua.used_memory();
        lua.set_memory_limit(empty_bytes.saturating_add(limits.memory_bytes))?;
        let (functions, bodies) = (lua.create_table()?, IndexMap::new());
        Ok(Self { lua, mailbox, empty_bytes, compile, run, functions, bodies, libraries })
    }

    /// Makes a script's text known under its name.
    pub(crate) fn learn(&mut self, text: &[u8], limits: Limits) -> Result<Name, Fault> {
        let name = sha1_hex(text);
        if self.bodies.contains_key(&name) {
            return Ok(name);
        }
        let (flags, code) = shebang(text)?;
        if code.first() == Some(&BYTECODE) {
            return Err(
                "ERR Error compiling script (new function): attempt to load bytecode".into()
            );
        }
        let mut compiled = self.compiled(&code);
        if compiled.as_ref().is_err_and(|text| text == raise::NO_MEMORY) {
            self.relieve();
            compiled = self.compiled(&code);
        }
        let function = compiled.map_err(|text| {
            Fault::from(format!("ERR Error compiling script (new function): {text}"))
        })?;
        if self.bodies.len() >= limits.count {
            // The one that was learnt first goes; its callers get NOSCRIPT and send it again.
            self.forget_first(1);
        }
        let kept = self.functions.raw_set(name.as_str(), function);
        kept.map_err(|error| Fault::from(format!("ERR {}", raise::told(error))))?;
        self.bodies.insert(name.clone(), Body { flags, text: text.to_vec() });
        Ok(name)
    }

    fn compiled(&self, code: &[u8]) -> Result<Function, String> {
        let code = self.lua.create_string(code).map_err(raise::told)?;
        let (function, reason): (Option<Function>, Option<mlua::String>) =
            self.compile.call(code).map_err(raise::told)?;
        function.ok_or_else(|| reason.map(|text| text.to_string_lossy()).unwrap_or_default())
    }

    fn forget_first(&mut self, count: usize) {
        for (name, _) in self.bodies.drain(..count) {
            if let Err(error) = self.functions.raw_remove(name.as_str()) {
                tracing::warn!(%error, "a script was not forgotten");
            }
        }
    }

    /// Lua's memory is full: what is dead goes, and half of the scripts, whose callers get NOSCRIPT.
    fn relieve(&mut self) {
        self.forget_first(self.bodies.len().div_ceil(2));
        // To collect takes memory too: for want of it Lua would stop half-way, and everything stay.
        let collected = self.lua.set_memory_limit(UNLIMITED).and_then(|limit| {
            let collected = self.lua.gc_collect();
            self.lua.set_memory_limit(limit).and(collected)
        });
        if let Err(error) = collected {
            tracing::warn!(%error, "the memory of scripts was not collected");
        }
    }

    pub(crate) fn knows(&self, name: &str) -> bool {
        self.bodies.contains_key(name)
    }

    pub(crate) fn forget(&mut self) {
        self.forget_first(self.bodies.len());
    }

    /// How many scripts are known.
    pub(crate) fn count(&self) -> usize {
        self.bodies.len()
    }

    /// Bytes that scripts hold within Lua.
    pub(crate) fn lua_bytes(&self) -> usize {
        self.lua.used_memory().saturating_sub(self.empty_bytes)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.lua.used_memory() + self.bodies.values().map(|body| body.text.len()).sum::<usize>()
    }

    /// What the client is told whose script raised something that was not caught.
    fn failure(&mut self, value: &Value, name: &str) -> Failed {
        let text = match value {
            Value::String(text) => Some(text.clone()),
            Value::Table(table) => table.raw_get("err").ok(),
            _ => None,
        };
        let text = text.map(|text| text.to_string_lossy()).unwrap_or_default();
        if text.strip_prefix("ERR ").unwrap_or(&text) == raise::NO_MEMORY {
            self.relieve();
            return NO_MEMORY.into();
        }
        Failed { fault: reply::failure(value, name), is_counted: reply::is_counted(value) }
    }

    /// Texts as a Lua array.
    fn texts(&self, texts: &[Vec<u8>]) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(texts.len(), 0)?;
        for (at, text) in texts.iter().enumerate() {
            table.raw_set(at + 1, self.lua.create_string(text)?)?;
        }
        Ok(table)
    }
}

/// Native `pcall`: an error is whatever value was raised.
fn new_lua(libs: StdLib) -> mlua::Result<Lua> {
    Lua::new_with(libs, LuaOptions::new().catch_rust_panics(false))
}

/// The flags of a first line `#!lua flags=a,b`, and the code without that line.
fn shebang(text: &[u8]) -> Result<(Flags, Vec<u8>), Fault> {
    let mut flags = Flags::default();
    if !text.starts_with(b"#!") {
        return Ok((flags, text.to_vec()));
    }
    let end = memchr::memchr(b'\n', text).ok_or("ERR Invalid script shebang")?;
    let line = String::from_utf8_lossy(&text[..end]);
    let mut parts = line[2..].split_whitespace();
    match parts.next() {
        Some("lua") => {}
        Some(other) => {
            return Err(format!("ERR Unexpected engine in script shebang: #!{other}").into());
        }
        None => return Err("ERR Invalid engine in script shebang".into()),
    }
    flags.is_given = true;
    for part in parts {
        let Some(names) = part.strip_prefix("flags=") else {
            return Err(format!("ERR Unknown lua shebang option: {part}").into());
        };
        for name in names.split(',').filter(|name| !name.is_empty()) {
            if !flags.add(name) {
                return Err(format!("ERR Unexpected flag in script shebang: {name}").into());
            }
        }
    }
    Ok((flags, text[end..].to_vec()))
}

impl Engine {
    /// Rooms of this process trust each other: their scripts share one Lua, whatever organisation they run for.
    fn home_place(&self, base: usize) -> usize {
        if self.spaces[base / DATABASES].is_for_rooms { ROOMS_HOME } else { base }
    }

    /// The scripts of an organisation, taken out while they are used.
    pub(crate) fn take_home(&mut self, base: usize) -> Result<Box<Home>, Fault> {
        let base = self.home_place(base);
        if let Some(home) = self.scripts.0.remove(&base) {
            return Ok(home);
        }
        let seed = self.chance();
        let home = Home::new(seed, self.settings.scripts);
        home.map(Box::new).map_err(|error| format!("ERR scripts cannot be run: {error}").into())
    }

    pub(crate) fn put_home(&mut self, base: usize, home: Box<Home>) {
        self.scripts.0.insert(self.home_place(base), home);
    }

    pub(crate) fn home(&self, base: usize) -> Option<&Home> {
        self.scripts.get(self.home_place(base))
    }

    /// Forgets an organisation's scripts; its functions stay.
    pub(crate) fn forget_scripts(&mut self, base: usize) {
        if let Some(home) = self.scripts.0.get_mut(&self.home_place(base)) {
            home.forget();
        }
    }

    /// Bytes that scripts hold, of all organisations.
    pub(crate) fn script_bytes(&self) -> usize {
        self.scripts.0.values().map(|home| home.held_bytes()).sum()
    }

    /// Bytes that an organisation's scripts hold within Lua.
    pub(crate) fn lua_bytes(&self, base: usize) -> usize {
        self.home(base).map_or(0, Home::lua_bytes)
    }

    /// Functions of every organisation, as effects on its first database.
    pub(crate) fn function_effects(&self, mut put: impl FnMut(usize, &[u8])) {
        for (base, home) in self.scripts.0.iter().filter(|(base, _)| **base != ROOMS_HOME) {
            home.libraries.codes().for_each(|code| put(*base, code));
        }
    }

    /// Runs what a command asked for, in its client's name.
    pub(crate) fn run_script(&mut self, session: &mut Session, call: &Call, turn: &Turn<'_>) {
        let base = session.base;
        let before = session.out.bytes.len();
        let mut home = match self.take_home(base) {
            Ok(home) => home,
            Err(fault) => {
                self.stats.error(&fault.0);
                session.out.error(&fault.0);
                return;
            }
        };
        let ran = match &call.what {
            What::Load(codes, policy) => {
                let loaded = self.load_libraries(&mut home, session, (codes, *policy), turn);
                loaded.map_err(Failed::from).map(|name| match name {
                    Some(name) => session.out.text(&name),
                    None => session.out.ok(),
                })
            }
            _ => self.run_body(&mut home, session, call, turn),
        };
        if let Err(Failed { fault, is_counted }) = ran {
            session.out.bytes.truncate(before);
            if !is_counted {
                self.stats.error(&fault.0);
            }
            session.out.error(&fault.0);
        }
        self.put_home(base, home);
    }
}
