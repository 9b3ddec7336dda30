//! Commands on the bits of strings.

use super::options::integer;
use super::strings::string_of_length;
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, STRING};
use crate::store::Expiry;
use crate::wire::reply::{Fault, SYNTAX};
use crate::wire::request::Args;

const NOT_OFFSET: &str = "ERR bit offset is not an integer or out of range";
const NOT_BIT: &str = "ERR bit is not an integer or out of range";
const NOT_TYPE: &str = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";

/// A place of a bit; with `#` it counts in fields of `width` bits.
fn offset(ctx: &Ctx<'_>, text: &[u8], width: Option<u32>) -> Result<u64, Fault> {
    let (text, scale) = match (text.strip_prefix(b"#"), width) {
        (Some(rest), Some(width)) => (rest, u64::from(width)),
        _ => (text, 1),
    };
    let number = integer(text).ok().and_then(|number| u64::try_from(number).ok());
    let place = number.and_then(|number| number.checked_mul(scale)).ok_or(NOT_OFFSET)?;
    let end = place.checked_add(u64::from(width.unwrap_or(1)) - 1).ok_or(NOT_OFFSET)?;
    if end >> 3 >= ctx.engine.settings.argument_bytes_max as u64 {
        return Err(NOT_OFFSET.into());
    }
    Ok(place)
}

pub(crate) fn setbit(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let place = offset(ctx, args.at(2), None)?;
    let bit = integer(args.at(3)).ok().filter(|bit| matches!(bit, 0 | 1)).ok_or(NOT_BIT)?;
    let at = (place >> 3) as usize;
    let length = ctx.string_for_write(key)?.map(|found| ctx.engine.store.string(found).len());
    let found = string_of_length(ctx, key, at + 1)?;
    let mask = 0x80u8 >> (place & 7);
    let byte = &mut ctx.engine.store.string_mut(ctx.session.db, found)[at];
    let old = *byte & mask != 0;
    if bit == 1 {
        *byte |= mask;
    } else {
        *byte &= !mask;
    }
    if old != (bit == 1) || length.is_none_or(|length| length <= at) {
        ctx.changed_with(STRING, "setbit", key);
        ctx.verbatim();
    }
    ctx.out().flag(old);
    Ok(())
}

pub(crate) fn getbit(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let place = offset(ctx, args.at(2), None)?;
    let found = ctx.string(args.at(1))?;
    let value = found.map_or(&b""[..], |found| ctx.engine.store.string(found));
    let bit = bit_at(value, place);
    ctx.out().flag(bit);
    Ok(())
}

fn bit_at(value: &[u8], place: u64) -> bool {
    value.get((place >> 3) as usize).is_some_and(|byte| byte & (0x80 >> (place & 7)) != 0)
}

/// First and last bit of a range in bytes or bits; nothing when it is empty.
fn bit_range(from: i64, to: i64, in_bits: bool, bytes: usize) -> Option<(u64, u64)> {
    let length = if in_bits { bytes as i64 * 8 } else { bytes as i64 };
    let from = if from < 0 { (from + length).max(0) } else { from };
    let to = if to < 0 { (to + length).max(0) } else { to }.min(length - 1);
    if from > to {
        return None;
    }
    Some(if in_bits { (from as u64, to as u64) } else { (from as u64 * 8, to as u64 * 8 + 7) })
}

fn unit(args: Args<'_>, at: usize) -> Result<bool, Fault> {
    match args.get(at) {
        None => Ok(false),
        Some(_) if args.is(at, "BIT") => Ok(true),
        Some(_) if args.is(at, "BYTE") => Ok(false),
        Some(_) => Err(SYNTAX),
    }
}

pub(crate) fn bitcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    // As in Redis the key is looked at first: without one the range may be anything.
    let Some(found) = ctx.string(args.at(1))? else {
        ctx.out().count(0);
        return Ok(());
    };
    let range = match args.len() {
        2 => None,
        4 | 5 => {
            let (from, to) = (integer(args.at(2))?, integer(args.at(3))?);
            // As in Redis this is seen before the unit is, and by this command alone.
            if from < 0 && to < 0 && from > to {
                ctx.out().count(0);
                return Ok(());
            }
            Some((from, to, unit(args, 4)?))
        }
        _ => return Err(SYNTAX),
    };
    let value = ctx.engine.store.string(found);
    let (from, to, in_bits) = range.unwrap_or((0, -1, false));
    let count = match bit_range(from, to, in_bits, value.len()) {
        None => 0,
        Some((first, last)) => count_ones(value, first, last),
    };
    ctx.out().count(count);
    Ok(())
}

fn count_ones(value: &[u8], first: u64, last: u64) -> usize {
    let (from, to) = ((first >> 3) as usize, (last >> 3) as usize);
    let mut count: usize = value[from..=to].iter().map(|byte| byte.count_ones() as usize).sum();
    // What lies before and after within the outer bytes does not count.
    count -= (0..first & 7).filter(|bit| value[from] & (0x80 >> bit) != 0).count();
    count -= ((last & 7) + 1..8).filter(|bit| value[to] & (0x80 >> bit) != 0).count();
    count
}

pub(crate) fn bitpos(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let bit = match integer(args.at(2))? {
        0 => false,
        1 => true,
        _ => return Err("ERR The bit argument must be 1 or 0.".into()),
    };
    let Some(found) = ctx.string(args.at(1))? else {
        ctx.out().int(if bit { -1 } else { 0 });
        return Ok(());
    };
    if args.len() > 6 {
        return Err(SYNTAX);
    }
    let from = args.get(3).map(integer).transpose()?.unwrap_or(0);
    let end = args.get(4).map(integer).transpose()?;
    let in_bits = unit(args, 5)?;
    let value = ctx.engine.store.string(found);
    let answer = match bit_range(from, end.unwrap_or(-1), in_bits, value.len()) {
        None => -1,
        Some((first, last)) => match first_bit(value, bit, first, last) {
            Some(place) => place as i64,
            // Behind a string without an end given there are zeros for ever.
            None if !bit && end.is_none() => value.len() as i64 * 8,
            None => -1,
        },
    };
    ctx.out().int(answer);
    Ok(())
}

fn first_bit(value: &[u8], bit: bool, first: u64, last: u64) -> Option<u64> {
    let skipped = if bit { 0 } else { 0xff };
    let mut place = first;
    while place <= last {
        if place.is_multiple_of(8) && value[(place >> 3) as usize] == skipped {
            place += 8;
            continue;
        }
        if bit_at(value, place) == bit {
            return Some(place);
        }
        place += 1;
    }
    None
}

pub(crate) fn bitop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mix: fn(u8, u8) -> u8 = match () {
        () if args.is(1, "AND") => |a, b| a & b,
        () if args.is(1, "OR") => |a, b| a | b,
        () if args.is(1, "XOR") => |a, b| a ^ b,
        () if args.is(1, "NOT") && args.len() == 4 => |a, _| !a,
        () if args.is(1, "NOT") => {
            return Err("ERR BITOP NOT must be called with a single source key.".into());
        }
        () => return Err(SYNTAX),
    };
    let mut values = Vec::with_capacity(args.len() - 3);
    for key in args.from(3).iter() {
        let found = ctx.string(key)?;
        values.push(found.map(|found| ctx.engine.store.string(found).to_vec()).unwrap_or_default());
    }
    let length = values.iter().map(Vec::len).max().unwrap_or(0);
    let mut values = values.into_iter();
    let mut result = values.next().unwrap_or_default();
    result.resize(length, 0);
    if args.is(1, "NOT") {
        for byte in &mut result {
            *byte = mix(*byte, 0);
        }
    }
    for value in values {
        for (at, byte) in result.iter_mut().enumerate() {
            *byte = mix(*byte, value.get(at).copied().unwrap_or(0));
        }
    }
    let key = args.at(2);
    ctx.out().count(length);
    if length == 0 {
        if ctx.remove(key) {
            ctx.notify(GENERIC, "del", key);
            ctx.effect(&[b"DEL", key]);
        }
        return Ok(());
    }
    let found = ctx.find(key);
    ctx.set(key, found, &result, Expiry::Never)?;
    ctx.changed_with(STRING, "set", key);
    ctx.effect(&[b"SET", key, &result]);
    Ok(())
}

/// A field's width, and whether it has a sign.
#[derive(Clone, Copy)]
struct Field {
    bits: u32,
    is_signed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Deed {
    Get,
    Set(i64),
    Add(i64),
}

struct Step {
    field: Field,
    place: u64,
    deed: Deed,
    overflow: Overflow,
}

fn field(text: &[u8]) -> Result<Field, Fault> {
    let is_signed = match text.first() {
        Some(b'i') => true,
        Some(b'u') => false,
        _ => return Err(NOT_TYPE.into()),
    };
    let bits = integer(&text[1..]).map_err(|_| NOT_TYPE)?;
    let most = if is_signed { 64 } else { 63 };
    let bits = u32::try_from(bits).ok().filter(|bits| (1..=most).contains(bits)).ok_or(NOT_TYPE)?;
    Ok(Field { bits, is_signed })
}

pub(crate) fn bitfield(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run_bitfield(ctx, args, true)
}

pub(crate) fn bitfield_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run_bitfield(ctx, args, false)
}

fn steps(ctx: &Ctx<'_>, args: Args<'_>, can_write: bool) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "OVERFLOW") && at + 1 < args.len() {
            overflow = match () {
                () if args.is(at + 1, "WRAP") => Overflow::Wrap,
                () if args.is(at + 1, "SAT") => Overflow::Saturate,
                () if args.is(at + 1, "FAIL") => Overflow::Fail,
                () => return Err("ERR Invalid OVERFLOW type specified".into()),
            };
            at += 2;
            continue;
        }
        let (is_get, is_set, is_add) =
            (args.is(at, "GET"), args.is(at, "SET"), args.is(at, "INCRBY"));
        let needed = if is_get { 3 } else { 4 };
        if !(is_get || is_set || is_add) || at + needed > args.len() {
            return Err(SYNTAX);
        }
        let field = field(args.at(at + 1))?;
        let place = offset(ctx, args.at(at + 2), Some(field.bits))?;
        let deed = match () {
            () if is_get => Deed::Get,
            () if is_set => Deed::Set(integer(args.at(at + 3))?),
            () => Deed::Add(integer(args.at(at + 3))?),
        };
        if !can_write && !is_get {
            return Err("ERR BITFIELD_RO only supports the GET subcommand".into());
        }
        steps.push(Step { field, place, deed, overflow });
        at += needed;
    }
    Ok(steps)
}

fn run_bitfield(ctx: &mut Ctx<'_>, args: Args<'_>, can_write: bool) -> Outcome {
    let steps = steps(ctx, args, can_write)?;
    let key = args.at(1);
    ctx.string(key)?;
    let writes = |step: &&Step| !matches!(step.deed, Deed::Get);
    let end = steps
        .iter()
        .filter(writes)
        .map(|step| (step.place + u64::from(step.field.bits)).div_ceil(8))
        .max();
    let length = ctx.string_for_write(key)?.map(|found| ctx.engine.store.string(found).len());
    if let Some(end) = end {
        string_of_length(ctx, key, end as usize)?;
    }
    ctx.out().array(steps.len());
    let mut is_changed = end.is_some_and(|end| length.is_none_or(|length| length < end as usize));
    for step in &steps {
        let found = ctx.string_for_write(key)?;
        let value = found.map_or(&b""[..], |found| ctx.engine.store.string(found));
        let old = read_field(value, step.place, step.field);
        let (new, answer) = match step.deed {
            Deed::Get => (None, Some(old)),
            Deed::Set(value) => {
                let new = fit(step.field, i128::from(value), step.overflow);
                (new, new.map(|_| old))
            }
            Deed::Add(by) => {
                let new = fit(step.field, i128::from(old) + i128::from(by), step.overflow);
                (new, new)
            }
        };
        if let (Some(new), Some(found)) = (new, found) {
            write_field(
                ctx.engine.store.string_mut(ctx.session.db, found),
                step.place,
                (step.field, new),
            );
            is_changed |= new != old;
        }
        match answer {
            Some(value) => ctx.out().int(value),
            None => ctx.out().null(),
        }
    }
    if is_changed {
        ctx.changed_with(STRING, "setbit", key);
        ctx.verbatim();
    }
    Ok(())
}

fn read_field(value: &[u8], place: u64, field: Field) -> i64 {
    let mut number: u64 = 0;
    for bit in 0..u64::from(field.bits) {
        number = number << 1 | u64::from(bit_at(value, place + bit));
    }
    if field.is_signed && field.bits < 64 && number >> (field.bits - 1) & 1 == 1 {
        number |= u64::MAX << field.bits;
    }
    number as i64
}

fn write_field(value: &mut [u8], place: u64, (field, number): (Field, i64)) {
    for bit in 0..u64::from(field.bits) {
        let is_set = number as u64 >> (u64::from(field.bits) - 1 - bit) & 1 == 1;
        let (at, mask) = (((place + bit) >> 3) as usize, 0x80u8 >> ((place + bit) & 7));
        if is_set {
            value[at] |= mask;
        } else {
            value[at] &= !mask;
        }
    }
}

/// The number as the field can hold it; nothing when it may not overflow.
fn fit(field: Field, number: i128, overflow: Overflow) -> Option<i64> {
    let (least, most) = if field.is_signed {
        (-(1i128 << (field.bits - 1)), (1i128 << (field.bits - 1)) - 1)
    } else {
        (0, (1i128 << field.bits) - 1)
    };
    if (least..=most).contains(&number) {
        return Some(number as i64);
    }
    match overflow {
        Overflow::Fail => None,
        Overflow::Saturate => Some(number.clamp(least, most) as i64),
        Overflow::Wrap => {
            let wrapped = number & ((1i128 << field.bits) - 1);
            let is_negative = field.is_signed && wrapped >> (field.bits - 1) & 1 == 1;
            Some(if is_negative { wrapped - (1i128 << field.bits) } else { wrapped } as i64)
        }
    }
}
