//! Functions: libraries of them that stay until they are deleted, and are in the log as the code they came from.

use std::collections::{BTreeMap, BTreeSet};

use mlua::{Function, Table, Value};

use super::raise::told;
use super::run::{Ended, Plan, with_register};
use super::{BYTECODE, Flags, Home, Policy};
use crate::engine::{Engine, Turn};
use crate::session::Session;
use crate::wire::reply::Fault;
use crate::wire::request::split_line;

/// Functions of one library.
const FUNCTIONS_MAX: usize = 10_000;

pub(crate) struct Libraries {
    load: Function,
    pub(super) run: Function,
    /// The functions by their numbers, within Lua: there are few places for such outside of it.
    callbacks: Table,
    last_number: i64,
    all: BTreeMap<String, Library>,
}

pub(crate) struct Library {
    pub(crate) code: Vec<u8>,
    /// By their names in lower case.
    pub(crate) functions: BTreeMap<String, Registered>,
}

pub(crate) struct Registered {
    pub(crate) name: String,
    /// Its number among the callbacks.
    callback: i64,
    pub(crate) flags: Flags,
    pub(crate) description: Option<Vec<u8>>,
}

impl Libraries {
    pub(super) fn new((load, run): (Function, Function), callbacks: Table) -> Self {
        Self { load, run, callbacks, last_number: 0, all: BTreeMap::new() }
    }

    pub(super) fn callback(&self, registered: &Registered) -> mlua::Result<Function> {
        self.callbacks.raw_get(registered.callback)
    }

    fn drop_callbacks(&self, library: &Library) {
        for registered in library.functions.values() {
            if let Err(error) = self.callbacks.raw_set(registered.callback, Value::Nil) {
                tracing::warn!(%error, "a function was not forgotten");
            }
        }
    }

    pub(crate) fn all(&self) -> &BTreeMap<String, Library> {
        &self.all
    }

    /// Names of functions are the same in any case.
    pub(crate) fn find(&self, name: &str) -> Option<&Registered> {
        let name = name.to_ascii_lowercase();
        self.all.values().find_map(|library| library.functions.get(&name))
    }

    pub(crate) fn codes(&self) -> impl Iterator<Item = &[u8]> {
        self.all.values().map(|library| &*library.code)
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let removed = self.all.remove(name);
        if let Some(library) = &removed {
            self.drop_callbacks(library);
        }
        removed.is_some()
    }

    pub(crate) fn clear(&mut self) {
        let all = std::mem::take(&mut self.all);
        for library in all.values() {
            self.drop_callbacks(library);
        }
    }

    /// How many libraries and functions there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.all.len(), self.all.values().map(|library| library.functions.len()).sum())
    }

    /// Whether libraries can come: their names, and the names of their functions.
    fn check(&self, come: &[(String, Library)], policy: Policy) -> Result<(), Fault> {
        let names: BTreeSet<&String> = come.iter().map(|(name, _)| name).collect();
        if let Some(name) = names.iter().find(|name| self.all.contains_key(**name)) {
            match policy {
                Policy::New => return Err(format!("ERR Library '{name}' already exists").into()),
                Policy::Append => return Err(format!("ERR Library {name} already exists").into()),
                Policy::ReplaceOne | Policy::Replace | Policy::Flush => {}
            }
        }
        let stay =
            self.all.iter().filter(|(name, _)| policy != Policy::Flush && !names.contains(name));
        let mut taken: BTreeSet<&String> =
            stay.flat_map(|(_, library)| library.functions.keys()).collect();
        for function in come.iter().flat_map(|(_, library)| library.functions.keys()) {
            if !taken.insert(function) {
                return Err(format!("ERR Function {function} already exists").into());
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

const BAD_NAME: &str = "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

/// The name in a first line `#!lua name=…`, and the code behind it.
pub(crate) fn metadata(code: &[u8]) -> Result<(String, &[u8]), Fault> {
    if !code.starts_with(b"#!") {
        return Err("ERR Missing library metadata".into());
    }
    let end = memchr::memchr(b'\n', code).ok_or("ERR Invalid library metadata")?;
    let words = split_line(&code[..end]).ok_or("ERR Invalid library metadata")?;
    let mut words = words.iter().map(|word| String::from_utf8_lossy(word).into_owned());
    let engine = words.next().unwrap_or_default();
    let engine = engine.strip_prefix("#!").unwrap_or_default();
    let mut name = None;
    for word in words {
        match word.split_once('=') {
            Some((field, value)) if field.eq_ignore_ascii_case("name") => {
                if name.is_some() {
                    return Err(
                        "ERR Invalid metadata value, name argument was given multiple times".into(),
                    );
                }
                name = Some(value.to_owned());
            }
            _ => return Err(format!("ERR Invalid metadata value given: {word}").into()),
        }
    }
    let name = name.ok_or("ERR Library name was not given")?;
    if !is_name(&name) {
        return Err(BAD_NAME.into());
    }
    if !engine.eq_ignore_ascii_case("lua") {
        return Err(format!("ERR Engine '{engine}' not found").into());
    }
    Ok((name, &code[end..]))
}

impl Engine {
    /// Runs the codes of libraries once, which say what functions they have; gives the name of one that came alone.
    pub(super) fn load_libraries(
        &mut self,
        home: &mut Home,
        session: &mut Session,
        (codes, policy): (&[Vec<u8>], Policy),
        turn: &Turn<'_>,
    ) -> Result<Option<String>, Fault> {
        let mut come: Vec<(String, Library)> = Vec::new();
        for code in codes {
            let (name, body) = metadata(code)?;
            if policy == Policy::New && home.libraries.all.contains_key(&name) {
                return Err(format!("ERR Library '{name}' already exists").into());
            }
            if come.iter().any(|(other, _)| *other == name) {
                return Err(format!("ERR Library {name} already exists").into());
            }
            if body.contains(&BYTECODE) {
                return Err("ERR Error compiling function: attempt to load bytecode".into());
            }
            let functions = self.functions_of(home, session, body, turn)?;
            come.push((name, Library { code: code.clone(), functions }));
        }
        home.libraries.check(&come, policy)?;
        if policy == Policy::Flush && !home.libraries.all.is_empty() {
            home.libraries.clear();
            self.log_effect(session.base, &[b"FUNCTION", b"FLUSH"]);
            session.has_written = true;
        }
        let limit = self.settings.scripts.count;
        let new = come.iter().filter(|(name, _)| !home.libraries.all.contains_key(name)).count();
        if home.libraries.all.len() + new > limit {
            return Err(format!("ERR there can be {limit} libraries").into());
        }
        let is_one = matches!(policy, Policy::New | Policy::ReplaceOne);
        let name = come.first().filter(|_| is_one).map(|(name, _)| name.clone());
        for (name, library) in come {
            self.log_effect(session.base, &[b"FUNCTION", b"LOAD", b"REPLACE", &library.code]);
            session.has_written = true;
            if let Some(old) = home.libraries.all.insert(name, library) {
                home.libraries.drop_callbacks(&old);
            }
        }
        Ok(name)
    }

    fn functions_of(
        &mut self,
        home: &mut Home,
        session: &Session,
        body: &[u8],
        turn: &Turn<'_>,
    ) -> Result<BTreeMap<String, Registered>, Fault> {
        let mut inner = Self::inner_session(session, turn);
        let mut found: BTreeMap<String, Registered> = BTreeMap::new();
        let load = home.libraries.load.clone();
        let (callbacks, mut last) = (home.libraries.callbacks.clone(), home.libraries.last_number);
        let plan = Plan {
            name: "FUNCTION LOAD",
            call: None,
            reads_only: true,
            flags: Flags::default(),
            micros: self.settings.scripts.load_micros,
            counts: home.libraries.counts(),
        };
        let ended = self.run_lua((home, &mut inner), &plan, turn, |lua| {
            let body = lua.create_string(body)?;
            let mut put = |args: &[Value]| register(args, &mut found, (&callbacks, &mut last));
            with_register(lua, &mut put, || {
                let (is_done, value): (bool, Value) = load.call(body)?;
                Ok(if is_done { Ended::Value(value) } else { Ended::Failed(value) })
            })
        });
        home.libraries.last_number = last;
        match ended {
            Ended::Value(_) => {}
            Ended::Failed(value) => return Err(load_failure(&value)),
            Ended::Broken(fault) => {
                return Err(format!("ERR Error registering functions: {}", fault.0).into());
            }
        }
        if found.is_empty() {
            return Err("ERR No functions registered".into());
        }
        Ok(found)
    }
}

fn load_failure(value: &Value) -> Fault {
    let reason = match value {
        Value::Table(table) => {
            table.raw_get::<mlua::String>("err").map(|text| text.to_string_lossy()).ok()
        }
        Value::String(text) => Some(format!("ERR {}", text.to_string_lossy())),
        _ => None,
    };
    let reason = reason.unwrap_or_else(|| "ERR unknown error".to_owned());
    if reason.starts_with("ERR Error compiling") {
        return reason.into();
    }
    format!("ERR Error registering functions: {reason}").into()
}

/// Takes what `redis.register_function` was given.
fn register(
    args: &[Value],
    found: &mut BTreeMap<String, Registered>,
    (callbacks, last): (&Table, &mut i64),
) -> Result<(), String> {
    let (name, callback, flags, description) = match args {
        [Value::Table(named)] => named_arguments(named)?,
        [_] => return Err("calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).".into()),
        [Value::String(name), Value::Function(callback)] => {
            let flags = Flags { is_given: true, ..Flags::default() };
            (name.to_string_lossy(), callback.clone(), flags, None)
        }
        [Value::String(_), _] => return Err("second argument to redis.register_function must be a function".into()),
        [_, _] => return Err("first argument to redis.register_function must be a string".into()),
        _ => return Err("wrong number of arguments to redis.register_function".into()),
    };
    if !is_name(&name) {
        return Err(BAD_NAME.trim_start_matches("ERR ").to_owned());
    }
    if found.len() >= FUNCTIONS_MAX {
        return Err(format!("a library has at most {FUNCTIONS_MAX} functions"));
    }
    let key = name.to_ascii_lowercase();
    if found.contains_key(&key) {
        return Err("Function already exists in the library".into());
    }
    *last += 1;
    callbacks.raw_set(*last, callback).map_err(told)?;
    found.insert(key, Registered { name, callback: *last, flags, description });
    Ok(())
}

type Named = (String, Function, Flags, Option<Vec<u8>>);

fn named_arguments(named: &Table) -> Result<Named, String> {
    let (mut name, mut callback, mut description) = (None, None, None);
    let mut flags = Flags { is_given: true, ..Flags::default() };
    for pair in named.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(told)?;
        let Value::String(key) = key else {
            return Err(
                "named argument key given to redis.register_function is not a string".into()
            );
        };
        match (&*key.to_string_lossy(), value) {
            ("function_name", Value::String(text)) => name = Some(text.to_string_lossy()),
            ("function_name", _) => return Err("function_name argument given to redis.register_function must be a string".into()),
            ("description", Value::String(text)) => description = Some(text.as_bytes().to_vec()),
            ("description", _) => return Err("description argument given to redis.register_function must be a string".into()),
            ("callback", Value::Function(given)) => callback = Some(given),
            ("callback", _) => return Err("callback argument given to redis.register_function must be a function".into()),
            ("flags", Value::Table(given)) => {
                for flag in given.sequence_values::<mlua::String>() {
                    let flag = flag.map_err(|_| "unknown flag given".to_owned())?;
                    if !flags.add(&flag.to_string_lossy()) {
                        return Err("unknown flag given".into());
                    }
                }
            }
            ("flags", _) => return Err("flags argument to redis.register_function must be a table representing function flags".into()),
            _ => return Err("unknown argument given to redis.register_function".into()),
        }
    }
    let name = name.ok_or("redis.register_function must get a function name argument")?;
    let callback = callback.ok_or("redis.register_function must get a callback argument")?;
    Ok((name, callback, flags, description))
}
