//! Commands on strings.

use super::options::{self, When};
use crate::context::{Ctx, Outcome};
use crate::engine::Engine;
use crate::notify::{GENERIC, STRING};
use crate::store::number::{add_decimals, i64_text, parse_f64, parse_i64};
use crate::store::{Expiry, Found};
use crate::wire::reply::{Fault, NOT_FLOAT, NOT_INTEGER, SYNTAX};
use crate::wire::request::Args;

const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
const WOULD_OVERFLOW: &str = "ERR increment or decrement would overflow";

#[inline]
pub(crate) fn get(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    match ctx.string(args.at(1))? {
        Some(found) => ctx.session.out.bulk(ctx.engine.store.string(found)),
        None => ctx.out().null(),
    }
    Ok(())
}

/// What SET was asked for beside its key and value.
struct SetOptions {
    when: When,
    expiry: Expiry,
    gets: bool,
}

pub(crate) fn set(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, value) = (args.at(1), args.at(2));
    if args.len() == 3 {
        let found = ctx.find(key);
        ctx.set(key, found, value, Expiry::Never)?;
        ctx.changed_with(STRING, "set", key);
        ctx.verbatim();
        ctx.out().ok();
        return Ok(());
    }
    let options = set_options(ctx, args)?;
    let found = if options.gets { ctx.string_for_write(key)? } else { ctx.find(key) };
    if options.gets {
        match found {
            Some(found) => ctx.session.out.bulk(ctx.engine.store.string(found)),
            None => ctx.out().null(),
        }
    }
    if !options.when.allows(found.is_some()) {
        if !options.gets {
            ctx.out().null();
        }
        return Ok(());
    }
    store(ctx, key, found, (value, options.expiry))?;
    if !options.gets {
        ctx.out().ok();
    }
    Ok(())
}

fn set_options(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<SetOptions, Fault> {
    let mut options = SetOptions { when: When::Always, expiry: Expiry::Never, gets: false };
    let mut has_expiry = false;
    let mut moment = None;
    let mut at = 3;
    while at < args.len() {
        match () {
            () if args.is(at, "NX") && options.when != When::Exists => options.when = When::Missing,
            () if args.is(at, "XX") && options.when != When::Missing => options.when = When::Exists,
            () if args.is(at, "GET") => options.gets = true,
            () if args.is(at, "KEEPTTL") && !has_expiry => {
                options.expiry = Expiry::Keep;
                has_expiry = true;
            }
            () if !has_expiry && options::Unit::of(args, at).is_some() && at + 1 < args.len() => {
                let unit = options::Unit::of(args, at).ok_or(SYNTAX)?;
                moment = Some((unit, args.at(at + 1)));
                has_expiry = true;
                at += 1;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    // The form is judged before the moment.
    if let Some((unit, text)) = moment {
        options.expiry = Expiry::At(unit.deadline(ctx.now, text, "set")?);
    }
    Ok(options)
}

/// Writes a string with its events and its effect.
fn store(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    found: Option<Found>,
    (value, expiry): (&[u8], Expiry),
) -> Outcome {
    if let Expiry::At(at) = expiry
        && at <= ctx.now
    {
        if ctx.remove(key) {
            ctx.effect(&[b"DEL", key]);
            ctx.notify(GENERIC, "del", key);
        }
        return Ok(());
    }
    ctx.set(key, found, value, expiry)?;
    ctx.changed_with(STRING, "set", key);
    match expiry {
        Expiry::Never => ctx.effect(&[b"SET", key, value]),
        Expiry::Keep => ctx.effect(&[b"SET", key, value, b"KEEPTTL"]),
        Expiry::At(at) => {
            ctx.notify(GENERIC, "expire", key);
            ctx.effect(&[b"SET", key, value, b"PXAT", &Engine::moment_text(at)]);
        }
    }
    Ok(())
}

pub(crate) fn setnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let is_missing = ctx.find(key).is_none();
    if is_missing {
        store(ctx, key, None, (args.at(2), Expiry::Never))?;
    }
    ctx.out().flag(is_missing);
    Ok(())
}

pub(crate) fn setex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    set_expiring(ctx, args, options::Unit::Seconds, "setex")
}

pub(crate) fn psetex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    set_expiring(ctx, args, options::Unit::Millis, "psetex")
}

fn set_expiring(ctx: &mut Ctx<'_>, args: Args<'_>, unit: options::Unit, name: &str) -> Outcome {
    let deadline = unit.deadline(ctx.now, args.at(2), name)?;
    let found = ctx.find(args.at(1));
    store(ctx, args.at(1), found, (args.at(3), Expiry::At(deadline)))?;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn getset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let found = ctx.string_for_write(args.at(1))?;
    match found {
        Some(found) => ctx.session.out.bulk(ctx.engine.store.string(found)),
        None => ctx.out().null(),
    }
    store(ctx, args.at(1), found, (args.at(2), Expiry::Never))
}

pub(crate) fn getdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let Some(found) = ctx.string(args.at(1))? else {
        ctx.out().null();
        return Ok(());
    };
    ctx.session.out.bulk(ctx.engine.store.string(found));
    ctx.remove(args.at(1));
    ctx.notify(GENERIC, "del", args.at(1));
    ctx.effect(&[b"DEL", args.at(1)]);
    Ok(())
}

pub(crate) fn getex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let change = match args.len() {
        2 => None,
        3 if args.is(2, "PERSIST") => Some(None),
        4 => {
            let unit = options::Unit::of(args, 2).ok_or(SYNTAX)?;
            Some(Some(unit.deadline(ctx.now, args.at(3), "getex")?))
        }
        _ => return Err(SYNTAX),
    };
    let Some(found) = ctx.string(key)? else {
        ctx.out().null();
        return Ok(());
    };
    ctx.session.out.bulk(ctx.engine.store.string(found));
    match change {
        Some(Some(deadline)) => super::keys::expire_at(ctx, key, found, deadline),
        Some(None) => {
            super::keys::persist_found(ctx, key, found)?;
            Ok(())
        }
        None => Ok(()),
    }
}

pub(crate) fn mget(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    ctx.out().array(args.len() - 1);
    for key in args.from(1).iter() {
        match ctx.string(key) {
            Ok(Some(found)) => ctx.session.out.bulk(ctx.engine.store.string(found)),
            _ => ctx.out().null(),
        }
    }
    Ok(())
}

pub(crate) fn mset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    set_pairs(ctx, args)?;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn msetnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'msetnx' command".into());
    }
    for key in args.from(1).iter().step_by(2) {
        if ctx.find(key).is_some() {
            ctx.out().int(0);
            return Ok(());
        }
    }
    set_pairs(ctx, args)?;
    ctx.out().int(1);
    Ok(())
}

fn set_pairs(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'mset' command".into());
    }
    for at in (1..args.len()).step_by(2) {
        let found = ctx.find(args.at(at));
        ctx.set(args.at(at), found, args.at(at + 1), Expiry::Never)?;
        ctx.changed_with(STRING, "set", args.at(at));
    }
    ctx.effect_with(b"MSET", args.from(1));
    Ok(())
}

pub(crate) fn strlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let length = ctx.string(args.at(1))?.map_or(0, |found| ctx.engine.store.string(found).len());
    ctx.out().count(length);
    Ok(())
}

pub(crate) fn append(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, more) = (args.at(1), args.at(2));
    let length = match ctx.string_for_write(key)? {
        None => {
            ctx.set(key, None, more, Expiry::Never)?;
            more.len()
        }
        Some(found) => {
            let old = ctx.engine.store.string(found).len();
            let length = checked_length(ctx, old, more.len())?;
            let grown = resize(ctx, found, length)?;
            ctx.engine.store.string_mut(ctx.session.db, grown)[old..].copy_from_slice(more);
            length
        }
    };
    ctx.changed_with(STRING, "append", key);
    ctx.verbatim();
    ctx.out().count(length);
    Ok(())
}

fn checked_length(ctx: &Ctx<'_>, from: usize, more: usize) -> Result<usize, Fault> {
    from.checked_add(more)
        .filter(|length| *length <= ctx.engine.settings.argument_bytes_max)
        .ok_or_else(|| TOO_LONG.into())
}

fn resize(ctx: &mut Ctx<'_>, found: Found, length: usize) -> Result<Found, Fault> {
    let db = ctx.session.db;
    ctx.engine.store.resize_string(db, found, length).ok_or(crate::wire::reply::FULL)
}

/// The string made at least `length` long, with zeros.
pub(crate) fn string_of_length(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    length: usize,
) -> Result<Found, Fault> {
    match ctx.string_for_write(key)? {
        Some(found) if ctx.engine.store.string(found).len() >= length => Ok(found),
        Some(found) => resize(ctx, found, length),
        None => {
            let zeros = vec![0; length];
            ctx.set(key, None, &zeros, Expiry::Never)
        }
    }
}

pub(crate) fn setrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, piece) = (args.at(1), args.at(3));
    let offset = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let Ok(offset) = usize::try_from(offset) else {
        return Err("ERR offset is out of range".into());
    };
    let old = ctx.string_for_write(key)?.map_or(0, |found| ctx.engine.store.string(found).len());
    if piece.is_empty() {
        ctx.out().count(old);
        return Ok(());
    }
    let end = checked_length(ctx, offset, piece.len())?;
    let found = string_of_length(ctx, key, end)?;
    let value = ctx.engine.store.string_mut(ctx.session.db, found);
    value[offset..end].copy_from_slice(piece);
    let length = value.len();
    ctx.changed_with(STRING, "setrange", key);
    ctx.verbatim();
    ctx.out().count(length);
    Ok(())
}

pub(crate) fn getrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let from = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let to = parse_i64(args.at(3)).ok_or(NOT_INTEGER)?;
    let found = ctx.string(args.at(1))?;
    let value = found.map_or(&b""[..], |found| ctx.engine.store.string(found));
    ctx.session.out.bulk(slice(value, from, to));
    Ok(())
}

/// A piece by first and last place, which count from the end when negative.
fn slice(value: &[u8], from: i64, to: i64) -> &[u8] {
    let length = value.len() as i64;
    if from < 0 && to < 0 && from > to {
        return b"";
    }
    let from = if from < 0 { (from + length).max(0) } else { from };
    let to = if to < 0 { (to + length).max(0) } else { to }.min(length - 1);
    if from > to || length == 0 { b"" } else { &value[from as usize..=to as usize] }
}

pub(crate) fn incr(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    add(ctx, args, 1)
}

pub(crate) fn decr(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    add(ctx, args, -1)
}

pub(crate) fn incrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let by = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    add(ctx, args, by)
}

pub(crate) fn decrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let by = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let by = by.checked_neg().ok_or("ERR decrement would overflow")?;
    add(ctx, args, by)
}

fn add(ctx: &mut Ctx<'_>, args: Args<'_>, by: i64) -> Outcome {
    let key = args.at(1);
    let found = ctx.string_for_write(key)?;
    let old = match found {
        Some(found) => parse_i64(ctx.engine.store.string(found)).ok_or(NOT_INTEGER)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or(WOULD_OVERFLOW)?;
    ctx.set(key, found, &i64_text(new), Expiry::Keep)?;
    ctx.changed_with(STRING, "incrby", key);
    ctx.verbatim();
    ctx.out().int(new);
    Ok(())
}

pub(crate) fn incrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let found = ctx.string_for_write(key)?;
    let old = found.map_or_else(|| b"0".to_vec(), |found| ctx.engine.store.string(found).to_vec());
    parse_f64(&old).ok_or(NOT_FLOAT)?;
    let by = parse_f64(args.at(2)).ok_or(NOT_FLOAT)?;
    let sum = add_decimals(&old, args.at(2)).filter(|_| by.is_finite());
    let sum = sum.ok_or("ERR increment would produce NaN or Infinity")?;
    ctx.set(key, found, sum.as_bytes(), Expiry::Keep)?;
    ctx.changed_with(STRING, "incrbyfloat", key);
    ctx.effect(&[b"SET", key, sum.as_bytes(), b"KEEPTTL"]);
    ctx.out().text(&sum);
    Ok(())
}

/// Cells of the table that LCS fills, at most.
const LCS_CELLS_MAX: usize = 1 << 28;

pub(crate) fn lcs(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let text = |ctx: &mut Ctx<'_>, key| -> Result<Vec<u8>, Fault> {
        let not_string = || Fault::from("ERR The specified keys must contain string values");
        let found = ctx.string(key).map_err(|_| not_string())?;
        Ok(found.map(|found| ctx.engine.store.string(found).to_vec()).unwrap_or_default())
    };
    let (a, b) = (text(ctx, args.at(1))?, text(ctx, args.at(2))?);
    let (mut wants_length, mut wants_places, mut with_lengths, mut least) =
        (false, false, false, 0);
    let mut at = 3;
    while at < args.len() {
        match () {
            () if args.is(at, "IDX") => wants_places = true,
            () if args.is(at, "LEN") => wants_length = true,
            () if args.is(at, "WITHMATCHLEN") => with_lengths = true,
            () if args.is(at, "MINMATCHLEN") && at + 1 < args.len() => {
                least = parse_i64(args.at(at + 1)).ok_or(NOT_INTEGER)?.max(0) as usize;
                at += 1;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    if wants_length && wants_places {
        return Err("ERR If you want both the length and indexes, please just use IDX.".into());
    }
    if (a.len() + 1).saturating_mul(b.len() + 1) > LCS_CELLS_MAX {
        return Err(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len".into()
        );
    }
    let common = common(&a, &b);
    if wants_length {
        ctx.out().count(common.length);
    } else if wants_places {
        let out = ctx.out();
        let matches: Vec<_> = common.runs.iter().filter(|run| run.2 >= least).collect();
        out.map(2);
        out.text("matches");
        out.array(matches.len());
        for &&(a_from, b_from, length) in &matches {
            out.array(if with_lengths { 3 } else { 2 });
            for from in [a_from, b_from] {
                out.array(2);
                out.count(from);
                out.count(from + length - 1);
            }
            if with_lengths {
                out.count(length);
            }
        }
        out.text("len");
        out.count(common.length);
    } else {
        let text: Vec<u8> = common
            .runs
            .iter()
            .rev()
            .flat_map(|&(from, _, length)| a[from..from + length].to_vec())
            .collect();
        ctx.out().bulk(&text);
    }
    Ok(())
}

struct Common {
    length: usize,
    /// From the last to the first: places in both and length.
    runs: Vec<(usize, usize, usize)>,
}

/// The longest common subsequence by the usual table.
fn common(left: &[u8], right: &[u8]) -> Common {
    let width = right.len() + 1;
    let mut table = vec![0u32; (left.len() + 1) * width];
    for row in 1..=left.len() {
        for column in 1..=right.len() {
            table[row * width + column] = if left[row - 1] == right[column - 1] {
                table[(row - 1) * width + column - 1] + 1
            } else {
                table[(row - 1) * width + column].max(table[row * width + column - 1])
            };
        }
    }
    let length = table[left.len() * width + right.len()] as usize;
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    let (mut row, mut column) = (left.len(), right.len());
    while row > 0 && column > 0 {
        if left[row - 1] == right[column - 1] {
            (row, column) = (row - 1, column - 1);
            match runs.last_mut() {
                Some((x, y, run)) if *x == row + 1 && *y == column + 1 => {
                    (*x, *y, *run) = (row, column, *run + 1);
                }
                _ => runs.push((row, column, 1)),
            }
        } else if table[(row - 1) * width + column] > table[row * width + column - 1] {
            row -= 1;
        } else {
            column -= 1;
        }
    }
    Common { length, runs }
}
