//! What functions of the server raise within Lua, and how scripts see it.

use mlua::{Error, Function, IntoLuaMulti, Lua, MultiValue, RegistryKey, Result, Value};

use super::reply;

/// Frames that are looked through for the script's own.
const FRAMES_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum Raised {
    /// A text, as Lua's own functions raise.
    #[error("{0}")]
    Text(String),
    /// A table with `err`, as Redis's functions raise.
    #[error("{0}")]
    Fault(String),
    /// The same of a command, whose errors are counted already.
    #[error("{0}")]
    Command(String),
    /// Whatever a function of the script raised that the server had called.
    #[error("a value was raised")]
    Value(RegistryKey),
    /// The script is to end: nothing catches this.
    #[error("the script is ended")]
    End,
}

impl From<Raised> for Error {
    fn from(raised: Raised) -> Self {
        Self::external(raised)
    }
}

fn raised(error: &Error) -> Option<&Raised> {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => raised(cause),
        Error::ExternalError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// What an error of Rust is said as.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => text(cause),
        Error::MemoryError(_) => NO_MEMORY.to_owned(),
        Error::RuntimeError(text) => text.lines().next().unwrap_or_default().to_owned(),
        error => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

/// As [`text`], of an error that is not needed any more.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(super) fn told(error: Error) -> String {
    text(&error)
}

/// As Lua says it.
pub(super) const NO_MEMORY: &str = "not enough memory";

/// A function for the prelude: an error as scripts see it, and whether it is the script's end instead.
pub(super) fn seen(lua: &Lua) -> Result<Function> {
    lua.create_function(|lua, value: Value| {
        let Value::Error(error) = &value else { return Ok((value, false)) };
        Ok(match raised(error) {
            Some(Raised::End) => (value, true),
            Some(Raised::Fault(text)) => (reply::fault(lua, text)?, false),
            Some(Raised::Value(key)) => (lua.registry_value(key)?, false),
            Some(Raised::Command(text)) => (reply::counted_fault(lua, text)?, false),
            _ => (Value::String(lua.create_string(text(error))?), false),
        })
    })
}

/// Makes a function for Lua; a failure is raised as a text with the place of its call before it.
pub(super) fn guarded(
    lua: &Lua,
    run: impl Fn(&Lua, &[Value]) -> std::result::Result<Vec<Value>, String> + 'static,
) -> Result<Function> {
    lua.create_function(move |lua, args: MultiValue| {
        let args: Vec<Value> = args.into_iter().collect();
        match run(lua, &args) {
            Ok(values) => values.into_iter().collect::<MultiValue>().into_lua_multi(lua),
            Err(text) if text == NO_MEMORY => Err(Error::MemoryError(text)),
            Err(text) => Err(Raised::Text(located(lua, &text)).into()),
        }
    })
}

/// A text with where it came to that, as `luaL_error` writes it.
pub(super) fn located(lua: &Lua, text: &str) -> String {
    match place(lua, 1) {
        (Some(source), Some(line)) => {
            format!("{}:{line}: {text}", source.trim_start_matches(['@', '=']))
        }
        _ => text.to_owned(),
    }
}

/// Where in its own text a script is: the source and the line.
pub(super) fn place(lua: &Lua, from: usize) -> (Option<String>, Option<usize>) {
    let frames = (from..FRAMES_MAX).map_while(|level| {
        lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let name = source.source.unwrap_or_default().into_owned();
            let line = frame.current_line();
            (source.what != "C" && name != "=prelude" && line.is_some()).then_some((name, line))
        })
    });
    match frames.flatten().next() {
        Some((source, line)) => (Some(source), line),
        None => (None, None),
    }
}

/// What a function writes for Lua is no longer than Lua's memory.
pub(super) fn check_length(length: usize, limit: usize) -> std::result::Result<(), String> {
    if length > limit { Err(NO_MEMORY.to_owned()) } else { Ok(()) }
}

/// A number that a function was given, as Lua takes it: texts of numbers too.
pub(super) fn number(lua: &Lua, value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Integer(value) => Some(*value as f64),
        Value::Number(value) => Some(*value),
        value @ Value::String(_) => lua.coerce_number(value.clone()).ok().flatten(),
        _ => None,
    }
}

/// As [`number`], for places and lengths.
pub(super) fn whole(lua: &Lua, value: Option<&Value>) -> Option<i64> {
    number(lua, value).map(|value| value as i64)
}
