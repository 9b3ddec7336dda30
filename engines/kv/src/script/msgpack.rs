//! The module `cmsgpack`: MessagePack of Lua's values and back.

use mlua::{Lua, Result, Table, Value};

use super::guarded;
use super::raise::{check_length, told, whole};

/// Tables within tables; what is deeper is written as nil.
const DEPTH_MAX: usize = 16;

pub(super) fn module(lua: &Lua, limit: usize) -> Result<Table> {
    let module = lua.create_table()?;
    module.set("_NAME", "cmsgpack")?;
    module.set("_VERSION", "lua-cmsgpack 0.4.0")?;
    module.set(
        "pack",
        guarded(lua, move |lua, args| {
            if args.is_empty() {
                return Err("bad argument #0 to 'pack' (MessagePack pack needs input.)".into());
            }
            let mut out = Vec::new();
            for value in args {
                push((&mut out, limit), value, 0)?;
            }
            lua.create_string(&out).map(|out| vec![Value::String(out)]).map_err(told)
        })?,
    )?;
    module.set("unpack", guarded(lua, |lua, args| unpack(lua, args, (usize::MAX, false)))?)?;
    module.set(
        "unpack_one",
        guarded(lua, |lua, args| {
            let mut args = args.to_vec();
            args.insert(1.min(args.len()), Value::Number(1.0));
            unpack(lua, &args, (1, true))
        })?,
    )?;
    module.set(
        "unpack_limit",
        guarded(lua, |lua, args| {
            let limit =
                whole(lua, args.get(1)).and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
            unpack(lua, args, (if limit == 0 { usize::MAX } else { limit }, true))
        })?,
    )?;
    Ok(module)
}

/// Values that a function gives Lua at once.
const RESULTS_MAX: usize = 7_000;

type Packed = std::result::Result<(), String>;

fn push((out, limit): (&mut Vec<u8>, usize), value: &Value, depth: usize) -> Packed {
    check_length(out.len(), limit)?;
    match value {
        Value::Boolean(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(value) => push_int(out, *value),
        Value::Number(value) => push_number(out, *value),
        Value::String(text) => {
            let text = text.as_bytes();
            match text.len() {
                length @ 0..32 => out.push(0xa0 | length as u8),
                length @ 32..256 => out.extend_from_slice(&[0xd9, length as u8]),
                length => push_length(out, (0xda, 0xdb), length),
            }
            out.extend_from_slice(&text);
        }
        Value::Table(table) if depth < DEPTH_MAX => push_table((out, limit), table, depth + 1)?,
        _ => out.push(0xc0),
    }
    Ok(())
}

fn push_length(out: &mut Vec<u8>, (short, long): (u8, u8), length: usize) {
    if let Ok(length) = u16::try_from(length) {
        out.push(short);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(long);
        out.extend_from_slice(&(length as u32).to_be_bytes());
    }
}

#[allow(clippy::float_cmp, reason = "whether the shorter form is the same number")]
fn push_number(out: &mut Vec<u8>, value: f64) {
    if value.fract() == 0.0 && value.abs() < 9.2e18 {
        push_int(out, value as i64);
    } else if f64::from(value as f32) == value {
        out.push(0xca);
        out.extend_from_slice(&(value as f32).to_be_bytes());
    } else {
        out.push(0xcb);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

fn push_int(out: &mut Vec<u8>, value: i64) {
    let bytes = value.to_be_bytes();
    match value {
        -32..=127 => out.push(value as u8),
        128..=255 => out.extend_from_slice(&[0xcc, value as u8]),
        256..=65_535 => put(out, 0xcd, &bytes[6..]),
        65_536..=4_294_967_295 => put(out, 0xce, &bytes[4..]),
        4_294_967_296.. => put(out, 0xcf, &bytes),
        -128..=-33 => out.extend_from_slice(&[0xd0, value as u8]),
        -32_768..=-129 => put(out, 0xd1, &bytes[6..]),
        -2_147_483_648..=-32_769 => put(out, 0xd2, &bytes[4..]),
        _ => put(out, 0xd3, &bytes),
    }
}

fn put(out: &mut Vec<u8>, mark: u8, bytes: &[u8]) {
    out.push(mark);
    out.extend_from_slice(bytes);
}

fn numeric(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Number(value) => Some(*value),
        _ => None,
    }
}

fn push_table((out, limit): (&mut Vec<u8>, usize), table: &Table, depth: usize) -> Packed {
    let (mut most, mut count, mut is_array, mut length) = (0.0f64, 0usize, true, 0usize);
    // Values are held one at a time: there are few places for them outside of Lua.
    let looked = table.for_each(|key: Value, _: Value| {
        length += 1;
        match numeric(&key).filter(|key| key.fract() == 0.0 && *key > 0.0) {
            Some(place) => (most, count) = (most.max(place), count + 1),
            None => is_array = false,
        }
        Ok(())
    });
    looked.map_err(told)?;
    if is_array && most as usize == count {
        match count {
            0..16 => out.push(0x90 | count as u8),
            _ => push_length(out, (0xdc, 0xdd), count),
        }
        for at in 1..=count {
            let value = table.raw_get(at).map_err(told)?;
            push((out, limit), &value, depth)?;
        }
        return Ok(());
    }
    match length {
        length @ 0..16 => out.push(0x80 | length as u8),
        length => push_length(out, (0xde, 0xdf), length),
    }
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(told)?;
        push((out, limit), &key, depth)?;
        push((out, limit), &value, depth)?;
    }
    Ok(())
}

/// Values from an offset on; with where to go on, or -1 at the end, if that is wanted.
fn unpack(
    lua: &Lua,
    args: &[Value],
    (limit, tells): (usize, bool),
) -> std::result::Result<Vec<Value>, String> {
    let Some(Value::String(source)) = args.first() else {
        return Err("bad argument #1 to 'unpack' (string expected)".into());
    };
    let source = source.as_bytes().to_vec();
    let from = whole(lua, args.get(2)).unwrap_or(0);
    let rest = usize::try_from(from).ok().and_then(|from| source.get(from..));
    let rest = rest.ok_or_else(|| {
        format!("Start offset {from} greater than input length {}.", source.len())
    })?;
    let mut reader = Reader { lua, rest };
    let mut values = Vec::new();
    while !reader.rest.is_empty() && values.len() < limit {
        if values.len() >= RESULTS_MAX {
            return Err("too many results to unpack".into());
        }
        values.push(reader.value(0)?);
    }
    if tells {
        let used = source.len() - reader.rest.len();
        let next = if reader.rest.is_empty() { -1.0 } else { used as f64 };
        values.insert(0, Value::Number(next));
    }
    Ok(values)
}

struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

/// Containers within containers that are read.
const READ_DEPTH_MAX: usize = 256;

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> std::result::Result<&'a [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| "Missing bytes in input.".to_owned())?;
        self.rest = rest;
        Ok(taken)
    }

    fn unsigned(&mut self, bytes: usize) -> std::result::Result<u64, String> {
        Ok(self.take(bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn value(&mut self, depth: usize) -> std::result::Result<Value, String> {
        if depth > READ_DEPTH_MAX {
            return Err("Bad data format in input.".into());
        }
        let mark = self.unsigned(1)? as u8;
        Ok(match mark {
            0..=0x7f => Value::Number(f64::from(mark)),
            0xe0..=0xff => Value::Number(f64::from(mark as i8)),
            0x80..=0x8f => self.map(usize::from(mark & 15), depth)?,
            0x90..=0x9f => self.array(usize::from(mark & 15), depth)?,
            0xa0..=0xbf => self.text(usize::from(mark & 31))?,
            0xc0 => Value::Nil,
            0xc2 => Value::Boolean(false),
            0xc3 => Value::Boolean(true),
            0xca => Value::Number(f64::from(f32::from_bits(self.unsigned(4)? as u32))),
            0xcb => Value::Number(f64::from_bits(self.unsigned(8)?)),
            0xcc..=0xcf => Value::Number(self.unsigned(1 << (mark - 0xcc))? as f64),
            0xd0 => Value::Number(f64::from(self.unsigned(1)? as i8)),
            0xd1 => Value::Number(f64::from(self.unsigned(2)? as i16)),
            0xd2 => Value::Number(f64::from(self.unsigned(4)? as i32)),
            0xd3 => Value::Number(self.unsigned(8)? as i64 as f64),
            0xc4..=0xc6 => {
                let length = self.unsigned(1 << (mark - 0xc4))? as usize;
                self.text(length)?
            }
            0xd9..=0xdb => {
                let length = self.unsigned(1 << (mark - 0xd9))? as usize;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let length = self.unsigned(2 << (mark - 0xdc))? as usize;
                self.array(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.unsigned(2 << (mark - 0xde))? as usize;
                self.map(length, depth)?
            }
            _ => return Err("Bad data format in input.".into()),
        })
    }

    fn text(&mut self, length: usize) -> std::result::Result<Value, String> {
        let text = self.lua.create_string(self.take(length)?).map_err(told)?;
        Ok(Value::String(text))
    }

    fn array(&mut self, length: usize, depth: usize) -> std::result::Result<Value, String> {
        let table = self.lua.create_table().map_err(told)?;
        for place in 1..=length {
            let value = self.value(depth + 1)?;
            table.raw_set(place, value).map_err(told)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, length: usize, depth: usize) -> std::result::Result<Value, String> {
        let table = self.lua.create_table().map_err(told)?;
        for _ in 0..length {
            let (key, value) = (self.value(depth + 1)?, self.value(depth + 1)?);
            table.raw_set(key, value).map_err(|_| "Bad data format in input.".to_owned())?;
        }
        Ok(Value::Table(table))
    }
}
