//! The module `struct`: values as bytes by a format, and back.

use mlua::{Lua, Result, Table, Value};

use super::guarded;
use super::raise::{check_length, number, told, whole};

/// Bytes of a whole number, at most.
const INT_BYTES_MAX: usize = 32;
const ALIGN_MAX: usize = 8;
/// Values that a function gives Lua at once.
const RESULTS_MAX: usize = 7_000;

pub(super) fn module(lua: &Lua, limit: usize) -> Result<Table> {
    let module = lua.create_table()?;
    module.set("pack", guarded(lua, move |lua, args| pack(lua, args, limit))?)?;
    module.set("unpack", guarded(lua, unpack)?)?;
    module.set(
        "size",
        guarded(lua, |_, args| {
            let format = format(args)?;
            let mut steps = Steps::new(&format);
            let mut total = 0usize;
            while let Some(step) = steps.next()? {
                if matches!(step.kind, Kind::Line | Kind::Text(0)) {
                    return Err("bad argument #1 to 'size' (variable-size format in 'size')".into());
                }
                total = total
                    .checked_add(step.padding(total) + step.size())
                    .filter(|total| i32::try_from(*total).is_ok())
                    .ok_or_else(|| "too large".to_owned())?;
            }
            Ok(vec![Value::Number(total as f64)])
        })?,
    )?;
    Ok(module)
}

fn format(args: &[Value]) -> std::result::Result<Vec<u8>, String> {
    match args.first() {
        Some(Value::String(format)) => Ok(format.as_bytes().to_vec()),
        _ => Err("bad argument #1 (string expected)".into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int {
        bytes: usize,
        is_signed: bool,
    },
    Float,
    Double,
    Pad,
    /// With a zero behind it.
    Line,
    /// So many bytes; 0 is what the value before says.
    Text(usize),
}

#[derive(Clone, Copy)]
struct Step {
    kind: Kind,
    is_little: bool,
    align: usize,
}

impl Step {
    fn size(self) -> usize {
        match self.kind {
            Kind::Int { bytes, .. } | Kind::Text(bytes) => bytes,
            Kind::Float => 4,
            Kind::Double => 8,
            Kind::Pad => 1,
            Kind::Line => 0,
        }
    }

    /// Bytes before it, so that it stands where it should.
    fn padding(self, at: usize) -> usize {
        let align = self.size().min(self.align);
        if align <= 1 || matches!(self.kind, Kind::Text(_) | Kind::Line | Kind::Pad) {
            return 0;
        }
        (align - (at & (align - 1))) & (align - 1)
    }
}

struct Steps<'a> {
    rest: &'a [u8],
    is_little: bool,
    align: usize,
}

impl<'a> Steps<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, is_little: true, align: 1 }
    }

    fn number(&mut self) -> std::result::Result<Option<usize>, String> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        if digits == 0 {
            return Ok(None);
        }
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<i32>().ok());
        number.map(|number| Some(number as usize)).ok_or_else(|| "integral size overflow".into())
    }

    fn int(&mut self, is_signed: bool) -> std::result::Result<Kind, String> {
        let bytes = self.number()?.unwrap_or(4);
        if bytes == 0 || bytes > INT_BYTES_MAX {
            return Err(format!("integral size {bytes} is larger than limit of {INT_BYTES_MAX}"));
        }
        Ok(Kind::Int { bytes, is_signed })
    }

    fn next(&mut self) -> std::result::Result<Option<Step>, String> {
        while let Some((&letter, rest)) = self.rest.split_first() {
            self.rest = rest;
            let int = |bytes, is_signed| Kind::Int { bytes, is_signed };
            let kind = match letter {
                b'b' => int(1, true),
                b'B' => int(1, false),
                b'h' => int(2, true),
                b'H' => int(2, false),
                b'l' => int(8, true),
                b'L' | b'T' => int(8, false),
                b'i' => self.int(true)?,
                b'I' => self.int(false)?,
                b'f' => Kind::Float,
                b'd' | b'n' => Kind::Double,
                b'x' => Kind::Pad,
                b's' => Kind::Line,
                b'c' => Kind::Text(self.number()?.unwrap_or(1)),
                b' ' => continue,
                b'>' => {
                    self.is_little = false;
                    continue;
                }
                b'<' => {
                    self.is_little = true;
                    continue;
                }
                b'!' => {
                    self.align = self.number()?.unwrap_or(ALIGN_MAX);
                    if !self.align.is_power_of_two() {
                        return Err("alignment is not a power of 2".into());
                    }
                    continue;
                }
                other => {
                    return Err(format!("invalid format option '{}'", char::from(other)));
                }
            };
            return Ok(Some(Step { kind, is_little: self.is_little, align: self.align }));
        }
        Ok(None)
    }
}

fn missing(at: usize, what: &str) -> String {
    format!("bad argument #{} to 'pack' ({what} expected)", at + 1)
}

fn pack(lua: &Lua, args: &[Value], limit: usize) -> std::result::Result<Vec<Value>, String> {
    let format = format(args)?;
    let mut steps = Steps::new(&format);
    let (mut out, mut at) = (Vec::new(), 1);
    while let Some(step) = steps.next()? {
        check_length(out.len(), limit)?;
        out.resize(out.len() + step.padding(out.len()), 0);
        let given = || number(lua, args.get(at)).ok_or_else(|| missing(at, "number"));
        match step.kind {
            Kind::Pad => {
                out.push(0);
                continue;
            }
            Kind::Int { bytes, .. } => {
                let value = given()?;
                let value = if value < 0.0 { value as i64 } else { value as u64 as i64 };
                let fill = if value < 0 { 0xff } else { 0 };
                let mut digits = value.to_le_bytes().to_vec();
                digits.resize(bytes.max(8), fill);
                digits.truncate(bytes);
                push_ordered(&mut out, digits, step.is_little);
            }
            Kind::Float => {
                push_ordered(&mut out, (given()? as f32).to_le_bytes().to_vec(), step.is_little);
            }
            Kind::Double => {
                push_ordered(&mut out, given()?.to_le_bytes().to_vec(), step.is_little);
            }
            Kind::Line | Kind::Text(_) => {
                let Some(Value::String(text)) = args.get(at) else {
                    return Err(missing(at, "string"));
                };
                let text = text.as_bytes();
                let length =
                    if let Kind::Text(length @ 1..) = step.kind { length } else { text.len() };
                let text = text.get(..length).ok_or_else(|| {
                    format!("bad argument #{} to 'pack' (string too short)", at + 1)
                })?;
                out.extend_from_slice(text);
                if step.kind == Kind::Line {
                    out.push(0);
                }
            }
        }
        at += 1;
    }
    lua.create_string(&out).map(|out| vec![Value::String(out)]).map_err(told)
}

fn push_ordered(out: &mut Vec<u8>, mut little: Vec<u8>, is_little: bool) {
    if !is_little {
        little.reverse();
    }
    out.extend_from_slice(&little);
}

fn unpack(lua: &Lua, args: &[Value]) -> std::result::Result<Vec<Value>, String> {
    let format = format(args)?;
    let Some(Value::String(data)) = args.get(1) else {
        return Err("bad argument #2 to 'unpack' (string expected)".into());
    };
    let data = data.as_bytes().to_vec();
    let first = if args.len() > 2 { whole(lua, args.get(2)).unwrap_or(0) } else { 1 };
    let mut at =
        usize::try_from(first - 1).map_err(|_| "offset must be 1 or greater".to_owned())?;
    let mut steps = Steps::new(&format);
    let mut values: Vec<Value> = Vec::new();
    let short = || "data string too short".to_owned();
    let text = |bytes: &[u8]| lua.create_string(bytes).map(Value::String).map_err(told);
    while let Some(step) = steps.next()? {
        if values.len() >= RESULTS_MAX {
            return Err("too many results to unpack".into());
        }
        at = at.checked_add(step.padding(at)).ok_or_else(short)?;
        let mut taken = data.get(at..at.saturating_add(step.size())).ok_or_else(short)?.to_vec();
        at += step.size();
        if !step.is_little && !matches!(step.kind, Kind::Text(_)) {
            taken.reverse();
        }
        match step.kind {
            Kind::Pad => {}
            Kind::Int { bytes, is_signed } => {
                let is_negative = is_signed && taken.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut eight = [if is_negative && bytes < 8 { 0xff } else { 0 }; 8];
                let used = bytes.min(8);
                eight[..used].copy_from_slice(&taken[..used]);
                let value = i64::from_le_bytes(eight);
                let value = if is_signed { value as f64 } else { value as u64 as f64 };
                values.push(Value::Number(value));
            }
            Kind::Float => {
                let bytes = taken.try_into().map_err(|_| short())?;
                values.push(Value::Number(f64::from(f32::from_le_bytes(bytes))));
            }
            Kind::Double => {
                let bytes = taken.try_into().map_err(|_| short())?;
                values.push(Value::Number(f64::from_le_bytes(bytes)));
            }
            Kind::Text(0) => {
                let length = whole(lua, values.pop().as_ref());
                let length = length.and_then(|length| usize::try_from(length).ok());
                let length =
                    length.ok_or_else(|| "format 'c0' needs a previous size".to_owned())?;
                let end = at.checked_add(length).ok_or_else(short)?;
                values.push(text(data.get(at..end).ok_or_else(short)?)?);
                at = end;
            }
            Kind::Text(_) => values.push(text(&taken)?),
            Kind::Line => {
                let rest = data.get(at..).ok_or_else(short)?;
                let end = memchr::memchr(0, rest)
                    .ok_or_else(|| "unfinished string in data".to_owned())?;
                values.push(text(&rest[..end])?);
                at += end + 1;
            }
        }
    }
    values.push(Value::Number(at as f64 + 1.0));
    Ok(values)
}
