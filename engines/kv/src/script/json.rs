//! The module `cjson`: JSON of Lua's values and back.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Lua, Result, Table, Value};

use super::guarded;
use super::raise::{check_length, told};
use crate::store::number::general;

/// What scripts may set.
#[derive(Clone)]
struct Settings {
    encode_depth: Rc<Cell<usize>>,
    decode_depth: Rc<Cell<usize>>,
    digits: Rc<Cell<usize>>,
    /// Arrays with more holes become objects: or not, how many times as long as filled, from this length on.
    sparse: Rc<Cell<(bool, usize, usize)>>,
    keeps: Rc<Cell<usize>>,
    /// Whether NaN and the infinite are written (as null, if so much is said), and read.
    writes_invalid: Rc<Cell<Invalid>>,
    reads_invalid: Rc<Cell<Invalid>>,
    /// Bytes that are written.
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Refused,
    Taken,
    Null,
}

/// Tables within tables, at most: each takes some of the thread's stack.
const DEPTH_MAX: usize = 1_000;

pub(super) fn module(lua: &Lua, limit: usize) -> Result<Table> {
    let settings = Settings {
        encode_depth: Rc::new(Cell::new(DEPTH_MAX)),
        decode_depth: Rc::new(Cell::new(DEPTH_MAX)),
        digits: Rc::new(Cell::new(14)),
        sparse: Rc::new(Cell::new((false, 2, 10))),
        keeps: Rc::new(Cell::new(1)),
        writes_invalid: Rc::new(Cell::new(Invalid::Refused)),
        reads_invalid: Rc::new(Cell::new(Invalid::Taken)),
        limit,
    };
    let module = lua.create_table()?;
    module.set("null", Value::NULL)?;
    module.set("_NAME", "cjson")?;
    module.set("_VERSION", "2.1.0")?;
    let own = settings.clone();
    module.set(
        "encode",
        guarded(lua, move |lua, args| {
            let [value] = args else {
                return Err("bad argument #1 to 'encode' (expected 1 argument)".into());
            };
            let mut encoder = Encoder { out: Vec::new(), settings: &own };
            encoder.value(value, 0)?;
            text(lua, &encoder.out)
        })?,
    )?;
    let own = settings.clone();
    module.set(
        "decode",
        guarded(lua, move |lua, args| {
            let [Value::String(source)] = args else {
                return match args {
                    [Value::Integer(_) | Value::Number(_)] => Ok(args.to_vec()),
                    [other] => Err(format!(
                        "bad argument #1 to 'decode' (string expected, got {})",
                        other.type_name()
                    )),
                    _ => Err("bad argument #1 to 'decode' (expected 1 argument)".into()),
                };
            };
            let source = source.as_bytes().to_vec();
            if matches!(source[..], [0, _, ..] | [_, 0, ..]) {
                return Err("JSON parser does not support UTF-16 or UTF-32".into());
            }
            let mut decoder = Decoder {
                lua,
                source: &source,
                at: 0,
                most: own.decode_depth.get(),
                reads_invalid: own.reads_invalid.get() != Invalid::Refused,
            };
            let value = decoder.value(0)?;
            decoder.blanks();
            if decoder.at < source.len() {
                return Err(decoder.wrong("the end"));
            }
            Ok(vec![value])
        })?,
    )?;
    for (name, cell) in [
        ("encode_max_depth", settings.encode_depth),
        ("decode_max_depth", settings.decode_depth),
        ("encode_number_precision", settings.digits),
        ("encode_keep_buffer", settings.keeps),
    ] {
        module.set(name, number_setting(lua, name, cell)?)?;
    }
    for (name, cell) in [
        ("encode_invalid_numbers", settings.writes_invalid),
        ("decode_invalid_numbers", settings.reads_invalid),
    ] {
        module.set(name, invalid_setting(lua, cell)?)?;
    }
    let sparse = settings.sparse;
    module.set(
        "encode_sparse_array",
        guarded(lua, move |_, args| {
            let (mut converts, mut ratio, mut safe) = sparse.get();
            if let Some(Value::Boolean(given)) = args.first() {
                converts = *given;
            }
            ratio = args.get(1).and_then(Value::as_usize).unwrap_or(ratio);
            safe = args.get(2).and_then(Value::as_usize).unwrap_or(safe);
            sparse.set((converts, ratio, safe));
            Ok(vec![
                Value::Boolean(converts),
                Value::Number(ratio as f64),
                Value::Number(safe as f64),
            ])
        })?,
    )?;
    Ok(module)
}

fn number_setting(lua: &Lua, name: &'static str, cell: Rc<Cell<usize>>) -> Result<mlua::Function> {
    guarded(lua, move |_, args| {
        if let Some(given) = args.first() {
            let most = if name == "encode_number_precision" { 14 } else { DEPTH_MAX };
            let given = match given {
                Value::Boolean(given) => usize::from(*given),
                given => given.as_usize().filter(|given| (1..=most).contains(given)).ok_or_else(
                    || "bad argument #1 (expected integer between 1 and the highest)".to_owned(),
                )?,
            };
            cell.set(given);
        }
        Ok(vec![Value::Number(cell.get() as f64)])
    })
}

fn invalid_setting(lua: &Lua, cell: Rc<Cell<Invalid>>) -> Result<mlua::Function> {
    guarded(lua, move |lua, args| {
        match args.first() {
            None | Some(Value::Nil) => {}
            Some(Value::Boolean(given)) => {
                cell.set(if *given { Invalid::Taken } else { Invalid::Refused });
            }
            Some(Value::String(text)) if text.as_bytes() == b"null" => cell.set(Invalid::Null),
            Some(_) => return Err("bad argument #1 (invalid option)".into()),
        }
        Ok(vec![match cell.get() {
            Invalid::Refused => Value::Boolean(false),
            Invalid::Taken => Value::Boolean(true),
            Invalid::Null => Value::String(lua.create_string("null").map_err(told)?),
        }])
    })
}

fn text(lua: &Lua, bytes: &[u8]) -> std::result::Result<Vec<Value>, String> {
    let text = lua.create_string(bytes).map_err(told)?;
    Ok(vec![Value::String(text)])
}

struct Encoder<'a> {
    out: Vec<u8>,
    settings: &'a Settings,
}

type Encoded = std::result::Result<(), String>;

impl Encoder<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Encoded {
        check_length(self.out.len(), self.settings.limit)?;
        match value {
            Value::Nil => self.out.extend_from_slice(b"null"),
            value if value.is_null() => self.out.extend_from_slice(b"null"),
            Value::Boolean(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Integer(value) => self.number(*value as f64)?,
            Value::Number(value) => self.number(*value)?,
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Table(table) => self.table(table, depth + 1)?,
            other => {
                return Err(format!("Cannot serialise {}: type not supported", other.type_name()));
            }
        }
        Ok(())
    }

    fn number(&mut self, value: f64) -> Encoded {
        if !value.is_finite() {
            match self.settings.writes_invalid.get() {
                Invalid::Refused => {
                    return Err("Cannot serialise number: must not be NaN or Inf".into());
                }
                Invalid::Null => {
                    self.out.extend_from_slice(b"null");
                    return Ok(());
                }
                Invalid::Taken => {}
            }
        }
        self.out.extend_from_slice(general(value, self.settings.digits.get()).as_bytes());
        Ok(())
    }

    fn string(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for &byte in text {
            match byte {
                b'"' => self.out.extend_from_slice(b"\\\""),
                b'\\' => self.out.extend_from_slice(b"\\\\"),
                b'/' => self.out.extend_from_slice(b"\\/"),
                8 => self.out.extend_from_slice(b"\\b"),
                12 => self.out.extend_from_slice(b"\\f"),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                b'\t' => self.out.extend_from_slice(b"\\t"),
                0..32 | 127 => {
                    self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                }
                byte => self.out.push(byte),
            }
        }
        self.out.push(b'"');
    }

    /// The last place of an array; nothing for what is none.
    fn array_length(&self, table: &Table) -> std::result::Result<Option<usize>, String> {
        let (mut most, mut items) = (0usize, 0usize);
        let mut is_array = true;
        table
            .for_each(|key: Value, _: Value| {
                let place = match key {
                    Value::Integer(at) => usize::try_from(at).ok(),
                    Value::Number(at) if at.fract() == 0.0 && (1.0..9e15).contains(&at) => {
                        Some(at as usize)
                    }
                    _ => None,
                };
                match place.filter(|place| *place > 0) {
                    Some(place) => (most, items) = (most.max(place), items + 1),
                    None => is_array = false,
                }
                Ok(())
            })
            .map_err(told)?;
        if !is_array || most == 0 {
            return Ok(None);
        }
        let (converts, ratio, safe) = self.settings.sparse.get();
        if ratio > 0 && most > items * ratio && most > safe {
            if !converts {
                return Err("Cannot serialise table: excessively sparse array".into());
            }
            return Ok(None);
        }
        Ok(Some(most))
    }

    fn table(&mut self, table: &Table, depth: usize) -> Encoded {
        if depth > self.settings.encode_depth.get() {
            return Err(format!("Cannot serialise, excessive depth ({depth})"));
        }
        let failed = told;
        if let Some(length) = self.array_length(table)? {
            self.out.push(b'[');
            for at in 1..=length {
                if at > 1 {
                    self.out.push(b',');
                }
                self.value(&table.raw_get(at).map_err(failed)?, depth)?;
            }
            self.out.push(b']');
            return Ok(());
        }
        self.out.push(b'{');
        let mut is_first = true;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(failed)?;
            if !std::mem::take(&mut is_first) {
                self.out.push(b',');
            }
            match key {
                Value::String(key) => self.string(&key.as_bytes()),
                Value::Integer(_) | Value::Number(_) => {
                    self.out.push(b'"');
                    self.value(&key, depth)?;
                    self.out.push(b'"');
                }
                _ => {
                    return Err(
                        "Cannot serialise table: table key must be a number or string".into()
                    );
                }
            }
            self.out.push(b':');
            self.value(&value, depth)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

struct Decoder<'a> {
    lua: &'a Lua,
    source: &'a [u8],
    at: usize,
    most: usize,
    reads_invalid: bool,
}

type Decoded<T> = std::result::Result<T, String>;

impl Decoder<'_> {
    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    /// What an unexpected place is told as.
    fn wrong(&self, expected: &str) -> String {
        let found = match self.peek() {
            None => "T_END",
            Some(b'{') => "T_OBJ_BEGIN",
            Some(b'}') => "T_OBJ_END",
            Some(b'[') => "T_ARR_BEGIN",
            Some(b']') => "T_ARR_END",
            Some(b'"') => "T_STRING",
            Some(b':') => "T_COLON",
            Some(b',') => "T_COMMA",
            Some(b'0'..=b'9' | b'-') => "T_NUMBER",
            Some(_) => "invalid token",
        };
        format!("Expected {expected} but found {found} at character {}", self.at + 1)
    }

    fn value(&mut self, depth: usize) -> Decoded<Value> {
        self.blanks();
        let lua = self.lua;
        let failed = told;
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => {
                let text = self.string()?;
                lua.create_string(&text).map(Value::String).map_err(failed)
            }
            Some(b't') if self.takes(b"true") => Ok(Value::Boolean(true)),
            Some(b'f') if self.takes(b"false") => Ok(Value::Boolean(false)),
            Some(b'n') if self.takes(b"null") => Ok(Value::NULL),
            _ => self.number(),
        }
    }

    fn takes(&mut self, word: &[u8]) -> bool {
        let is_there = self.source[self.at..].starts_with(word);
        if is_there {
            self.at += word.len();
        }
        is_there
    }

    fn number(&mut self) -> Decoded<Value> {
        let rest = &self.source[self.at..];
        let is_part =
            |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let length = rest.iter().take_while(is_part).count();
        let text = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        let lower = text.to_ascii_lowercase();
        let hex = lower.trim_start_matches('-').strip_prefix("0x");
        let value = match hex {
            Some(digits) => i64::from_str_radix(digits, 16).ok().map(|value| value as f64),
            None if lower.starts_with('+') => None,
            None => lower.parse::<f64>().ok(),
        };
        let is_taken = |value: &f64| value.is_finite() || self.reads_invalid;
        let value = value.filter(is_taken).ok_or_else(|| self.wrong("value"))?;
        self.at += length;
        let is_negative_hex = hex.is_some() && lower.starts_with('-');
        Ok(Value::Number(if is_negative_hex { -value } else { value }))
    }

    fn enter(&mut self, depth: usize) -> Decoded<Table> {
        if depth > self.most {
            return Err(format!("Found too many nested data structures ({depth})"));
        }
        self.at += 1;
        self.blanks();
        self.lua.create_table().map_err(told)
    }

    fn array(&mut self, depth: usize) -> Decoded<Value> {
        let table = self.enter(depth)?;
        if self.takes(b"]") {
            return Ok(Value::Table(table));
        }
        for place in 1.. {
            let value = self.value(depth)?;
            table.raw_set(place, value).map_err(told)?;
            self.blanks();
            if self.takes(b"]") {
                break;
            }
            if !self.takes(b",") {
                return Err(self.wrong("comma or array end"));
            }
        }
        Ok(Value::Table(table))
    }

    fn object(&mut self, depth: usize) -> Decoded<Value> {
        let table = self.enter(depth)?;
        if self.takes(b"}") {
            return Ok(Value::Table(table));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("object key string"));
            }
            let key = self.string()?;
            self.blanks();
            if !self.takes(b":") {
                return Err(self.wrong("colon"));
            }
            let value = self.value(depth)?;
            let failed = told;
            let key = self.lua.create_string(&key).map_err(failed)?;
            table.raw_set(key, value).map_err(failed)?;
            self.blanks();
            if self.takes(b"}") {
                return Ok(Value::Table(table));
            }
            if !self.takes(b",") {
                return Err(self.wrong("comma or object end"));
            }
        }
    }

    fn string(&mut self) -> Decoded<Vec<u8>> {
        let from = self.at + 1;
        self.at = from;
        let mut out = Vec::new();
        let broken =
            |at: usize| format!("Expected value but found invalid token at character {at}");
        loop {
            let byte = self.peek().ok_or_else(|| broken(from))?;
            self.at += 1;
            match byte {
                b'"' => return Ok(out),
                b'\\' => self.escape(&mut out).ok_or_else(|| broken(from))?,
                0..32 => return Err(broken(from)),
                byte => out.push(byte),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let byte = self.peek()?;
        self.at += 1;
        out.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = self.four()?;
                if (0xd800..0xdc00).contains(&code) {
                    let is_pair = self.takes(b"\\u");
                    let low = is_pair.then(|| self.four()).flatten()?;
                    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    code = 0x1_0000 + ((code - 0xd800) << 10) + low;
                }
                let letter = char::from_u32(code)?;
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Some(());
            }
            _ => return None,
        });
        Some(())
    }

    fn four(&mut self) -> Option<u32> {
        let digits = self.source.get(self.at..self.at + 4)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}
