//! The module `bit`: numbers of 32 bits, as LuaJIT's.

use mlua::{Function, Lua, Result, Table, Value};

use super::guarded;
use super::raise::{number, told};

/// The lowest 32 bits of a number.
fn low(value: f64) -> u32 {
    let bits = if value.abs() < 9.2e18 { value.round_ties_even() as i64 } else { 0 };
    bits as u32
}

fn shown(bits: u32) -> Vec<Value> {
    vec![Value::Number(f64::from(bits as i32))]
}

/// A function of numbers, at least as many as are `needed`.
fn of(
    lua: &Lua,
    (name, needed): (&'static str, usize),
    run: fn(&[f64]) -> Vec<Value>,
) -> Result<Function> {
    guarded(lua, move |lua, args| {
        let mut numbers = Vec::with_capacity(args.len());
        for at in 0..args.len().max(needed) {
            let given = number(lua, args.get(at)).ok_or_else(|| {
                let found = args.get(at).map_or("no value", Value::type_name);
                format!("bad argument #{} to '{name}' (number expected, got {found})", at + 1)
            })?;
            numbers.push(given);
        }
        Ok(run(&numbers))
    })
}

fn fold(numbers: &[f64], step: fn(u32, u32) -> u32) -> Vec<Value> {
    shown(numbers[1..].iter().fold(low(numbers[0]), |bits, other| step(bits, low(*other))))
}

fn shift(numbers: &[f64], step: fn(u32, u32) -> u32) -> Vec<Value> {
    shown(step(low(numbers[0]), low(numbers[1]) & 31))
}

type Deed = (&'static str, usize, fn(&[f64]) -> Vec<Value>);

const DEEDS: &[Deed] = &[
    ("tobit", 1, |n| shown(low(n[0]))),
    ("bnot", 1, |n| shown(!low(n[0]))),
    ("bswap", 1, |n| shown(low(n[0]).swap_bytes())),
    ("band", 1, |n| fold(n, |a, b| a & b)),
    ("bor", 1, |n| fold(n, |a, b| a | b)),
    ("bxor", 1, |n| fold(n, |a, b| a ^ b)),
    ("lshift", 2, |n| shift(n, |bits, by| bits << by)),
    ("rshift", 2, |n| shift(n, |bits, by| bits >> by)),
    ("arshift", 2, |n| shift(n, |bits, by| (bits as i32 >> by) as u32)),
    ("rol", 2, |n| shift(n, u32::rotate_left)),
    ("ror", 2, |n| shift(n, u32::rotate_right)),
];

pub(super) fn module(lua: &Lua) -> Result<Table> {
    let module = lua.create_table()?;
    for (name, needed, run) in DEEDS {
        module.set(*name, of(lua, (name, *needed), *run)?)?;
    }
    let hex = guarded(lua, |lua, args| {
        let value =
            number(lua, args.first()).ok_or("bad argument #1 to 'tohex' (number expected)")?;
        let digits = number(lua, args.get(1)).map_or(8, |digits| digits as i32);
        let count = digits.unsigned_abs().min(8) as usize;
        let text =
            if digits < 0 { format!("{:08X}", low(value)) } else { format!("{:08x}", low(value)) };
        let text = lua.create_string(&text[8 - count..]).map_err(told)?;
        Ok(vec![Value::String(text)])
    })?;
    module.set("tohex", hex)?;
    Ok(module)
}
