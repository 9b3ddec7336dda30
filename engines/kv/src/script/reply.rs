//! Replies as Lua's values, and Lua's values as replies.

use mlua::{Lua, Table, Value};

use crate::wire::reply::{Fault, Reply, TOO_LONG};

/// Tables within tables that are answered.
const DEPTH_MAX: usize = 500;

/// A failure, as scripts see one.
pub(super) fn fault(lua: &Lua, text: &str) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("err", text)?;
    Ok(Value::Table(table))
}

/// In a table with `err`: the error is counted already. It is Redis's name.
const COUNTED: &str = "ignore_error_stats_update";

/// As [`fault`], of a command, whose errors are counted already.
pub(super) fn counted_fault(lua: &Lua, text: &str) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("err", text)?;
    table.raw_set(COUNTED, true)?;
    Ok(Value::Table(table))
}

/// Whether what a script raised or gave is an error that is counted already.
pub(super) fn is_counted(value: &Value) -> bool {
    matches!(value, Value::Table(table) if table.raw_get(COUNTED).unwrap_or(false))
}

/// The reply that stands at the beginning of the bytes.
pub(super) fn read(lua: &Lua, bytes: &[u8]) -> mlua::Result<Value> {
    Reader { lua, bytes, at: 0 }.value()
}

struct Reader<'a> {
    lua: &'a Lua,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = memchr::memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        self.at += end + 2;
        &rest[..end]
    }

    fn number(&mut self) -> i64 {
        crate::store::number::parse_i64(self.line()).unwrap_or(-1)
    }

    fn bulk(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()).ok()?;
        let bytes = self.bytes.get(self.at..self.at + length)?;
        self.at += length + 2;
        Some(bytes)
    }

    fn named(&self, name: &str, value: impl mlua::IntoLua) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    }

    fn value(&mut self) -> mlua::Result<Value> {
        // A command without a reply of its own gives nothing.
        let Some(&mark) = self.bytes.get(self.at) else { return Ok(Value::Boolean(false)) };
        self.at += 1;
        match mark {
            b':' => Ok(Value::Number(self.number() as f64)),
            b'+' => {
                let text = self.lua.create_string(self.line())?;
                self.named("ok", text)
            }
            b'-' => {
                let text = self.lua.create_string(self.line())?;
                self.named("err", text)
            }
            b'$' => match self.bulk() {
                Some(bytes) => Ok(Value::String(self.lua.create_string(bytes)?)),
                None => Ok(Value::Boolean(false)),
            },
            b'*' | b'>' => match usize::try_from(self.number()) {
                Ok(length) => self.array(length).map(Value::Table),
                Err(_) => Ok(Value::Boolean(false)),
            },
            b'_' => {
                self.line();
                Ok(Value::Nil)
            }
            b'#' => Ok(Value::Boolean(self.line() == b"t")),
            b',' => {
                let text = String::from_utf8_lossy(self.line()).into_owned();
                self.named("double", text.parse::<f64>().unwrap_or(f64::NAN))
            }
            b'(' => {
                let text = self.lua.create_string(self.line())?;
                self.named("big_number", text)
            }
            b'=' => {
                let bytes = self.bulk().unwrap_or_default();
                let (format, text) = bytes.split_at_checked(4).unwrap_or((b"txt:", bytes));
                let table = self.lua.create_table()?;
                table.raw_set("format", self.lua.create_string(&format[..3])?)?;
                table.raw_set("string", self.lua.create_string(text)?)?;
                self.named("verbatim_string", table)
            }
            b'%' => {
                let length = usize::try_from(self.number()).unwrap_or(0);
                let table = self.lua.create_table()?;
                for _ in 0..length {
                    let (key, value) = (self.value()?, self.value()?);
                    if !key.is_nil() {
                        table.raw_set(key, value)?;
                    }
                }
                self.named("map", table)
            }
            b'~' => {
                let length = usize::try_from(self.number()).unwrap_or(0);
                let table = self.lua.create_table()?;
                for _ in 0..length {
                    let member = self.value()?;
                    if !member.is_nil() {
                        table.raw_set(member, true)?;
                    }
                }
                self.named("set", table)
            }
            _ => Ok(Value::Nil),
        }
    }

    fn array(&mut self, length: usize) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(length, 0)?;
        for at in 1..=length {
            let value = self.value()?;
            table.raw_set(at, value)?;
        }
        Ok(table)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn broken(error: mlua::Error) -> Fault {
    format!("ERR {error}").into()
}

/// Answers what a script gave. `is_resp3` is what the script chose; the client has its own.
pub(super) fn write(
    (out, limit): (&mut Reply, usize),
    value: &Value,
    is_resp3: bool,
) -> Result<(), Fault> {
    let end = out.bytes.len().saturating_add(limit);
    write_at((out, end), value, is_resp3, 0)
}

/// A reply, and how long it may become.
type Room<'a> = (&'a mut Reply, usize);

fn write_at(
    (out, end): Room<'_>,
    value: &Value,
    is_resp3: bool,
    depth: usize,
) -> Result<(), Fault> {
    if out.bytes.len() > end || std::mem::take(&mut out.is_over) {
        return Err(TOO_LONG);
    }
    if depth > DEPTH_MAX {
        return Err("ERR reached lua stack limit".into());
    }
    match value {
        Value::String(text) => out.bulk(&text.as_bytes()),
        Value::Integer(value) => out.int(*value),
        Value::Number(value) => out.int(truncated(*value)),
        Value::Boolean(false) if !is_resp3 => out.null(),
        Value::Boolean(value) if is_resp3 && out.is_resp3 => {
            out.bytes.extend_from_slice(if *value { b"#t\r\n" } else { b"#f\r\n" });
        }
        Value::Boolean(value) => out.flag(*value),
        Value::Table(table) => write_table((out, end), table, is_resp3, depth)?,
        _ => out.null(),
    }
    Ok(())
}

/// As C does it on the usual processors: what is beyond a whole number is the least.
fn truncated(value: f64) -> i64 {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if (-END..END).contains(&value) { value as i64 } else { i64::MIN }
}

/// Redis hands on lines as texts of C.
fn up_to_zero(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

fn field(table: &Table, name: &str) -> Result<Value, Fault> {
    table.raw_get(name).map_err(broken)
}

fn write_table(
    (out, end): Room<'_>,
    table: &Table,
    is_resp3: bool,
    depth: usize,
) -> Result<(), Fault> {
    if let Value::String(text) = field(table, "err")? {
        out.error(up_to_zero(&text.to_string_lossy()));
        return Ok(());
    }
    if let Value::String(text) = field(table, "ok")? {
        let text = up_to_zero(&text.to_string_lossy()).replace(['\r', '\n'], " ");
        out.simple(&text);
        return Ok(());
    }
    if let Some(value) = number(&field(table, "double")?) {
        out.double(value);
        return Ok(());
    }
    if let Value::Table(map) = field(table, "map")? {
        out.map(length(&map)?);
        for pair in map.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(broken)?;
            write_at((out, end), &key, is_resp3, depth + 1)?;
            write_at((out, end), &value, is_resp3, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::Table(set) = field(table, "set")? {
        out.set(length(&set)?);
        for pair in set.pairs::<Value, Value>() {
            let (member, _) = pair.map_err(broken)?;
            write_at((out, end), &member, is_resp3, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::String(text) = field(table, "big_number")? {
        let text = text.to_string_lossy().replace(['\r', '\n'], " ");
        if out.is_resp3 {
            out.bytes.extend_from_slice(format!("({text}\r\n").as_bytes());
        } else {
            out.text(&text);
        }
        return Ok(());
    }
    if let Value::Table(verbatim) = field(table, "verbatim_string")?
        && let (Value::String(text), Value::String(format)) =
            (field(&verbatim, "string")?, field(&verbatim, "format")?)
    {
        write_verbatim(out, &text.as_bytes(), &format.to_string_lossy());
        return Ok(());
    }
    // Values are held one at a time: there are few places for them outside of Lua.
    let is_there =
        |at: usize| Ok::<bool, Fault>(!table.raw_get::<Value>(at).map_err(broken)?.is_nil());
    let mut length = 0;
    while is_there(length + 1)? {
        length += 1;
    }
    out.array(length);
    for at in 1..=length {
        let item: Value = table.raw_get(at).map_err(broken)?;
        write_at((out, end), &item, is_resp3, depth + 1)?;
    }
    Ok(())
}

/// How many pairs a table has.
fn length(table: &Table) -> Result<usize, Fault> {
    let mut length = 0;
    let counted = table.for_each(|_: Value, _: Value| {
        length += 1;
        Ok(())
    });
    counted.map_err(broken)?;
    Ok(length)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(value) => Some(*value),
        Value::Integer(value) => Some(*value as f64),
        _ => None,
    }
}

fn write_verbatim(out: &mut Reply, text: &[u8], format: &str) {
    if !out.is_resp3 {
        out.bulk(text);
        return;
    }
    let mut format = format.to_owned();
    format.truncate(3);
    out.bytes.extend_from_slice(format!("={}\r\n{format:<3}:", text.len() + 4).as_bytes());
    out.bytes.extend_from_slice(text);
    out.bytes.extend_from_slice(b"\r\n");
}

/// The error that an ended script answers: what was raised, and where.
pub(super) fn failure(value: &Value, name: &str) -> Fault {
    let Value::Table(table) = value else {
        return format!("ERR Error running script {name}, execution failure").into();
    };
    let text = |field: &str| match table.raw_get::<Value>(field) {
        Ok(Value::String(text)) => Some(text.to_string_lossy()),
        Ok(Value::Number(value)) => Some(value.to_string()),
        Ok(Value::Integer(value)) => Some(value.to_string()),
        _ => None,
    };
    let reason = text("err").unwrap_or_else(|| "ERR unknown error".to_owned());
    let reason = up_to_zero(&reason);
    match (text("source"), text("line")) {
        (Some(source), Some(line)) => {
            format!("{reason} script: {name}, on {source}:{line}.").into()
        }
        _ => reason.to_owned().into(),
    }
}
