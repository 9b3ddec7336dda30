//! Commands on hashes.

use super::options::{Scan, cursor, integer, nothing_scanned};
use super::random::{Wanted, picks, wanted};
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, HASH};
use crate::store::hash::Hash;
use crate::store::number::{add_decimals, i64_text, parse_f64, parse_i64};
use crate::wire::reply::{Fault, NOT_INTEGER};
use crate::wire::request::Args;

pub(crate) fn hset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let added = set_fields(ctx, args, "hset")?;
    ctx.out().count(added);
    Ok(())
}

pub(crate) fn hmset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    set_fields(ctx, args, "hmset")?;
    ctx.out().ok();
    Ok(())
}

fn set_fields(ctx: &mut Ctx<'_>, args: Args<'_>, name: &str) -> Result<usize, Fault> {
    if !args.len().is_multiple_of(2) {
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    let key = args.at(1);
    let added = ctx.edit_or_new(key, |hash: &mut Hash| {
        let pairs = (2..args.len()).step_by(2);
        pairs.filter(|at| hash.set(args.at(*at), args.at(at + 1))).count()
    })?;
    ctx.changed_with(HASH, "hset", key);
    ctx.verbatim();
    Ok(added)
}

pub(crate) fn hsetnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, field) = (args.at(1), args.at(2));
    let is_there = ctx.collection::<Hash>(key)?.is_some_and(|hash| hash.get(field).is_some());
    if !is_there {
        ctx.edit_or_new(key, |hash: &mut Hash| hash.set(field, args.at(3)))?;
        ctx.changed_with(HASH, "hset", key);
        ctx.effect_with(b"HSET", args.from(1));
    }
    ctx.out().flag(!is_there);
    Ok(())
}

pub(crate) fn hget(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.maybe(hash.and_then(|hash| hash.get(args.at(2))));
    Ok(())
}

pub(crate) fn hmget(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.array(args.len() - 2);
    for field in args.from(2).iter() {
        out.maybe(hash.and_then(|hash| hash.get(field)));
    }
    Ok(())
}

pub(crate) fn hdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let edited = ctx.edit(key, |hash: &mut Hash| {
        args.from(2).iter().filter(|field| hash.remove(field)).count()
    })?;
    let removed = edited.as_ref().map_or(0, |edited| edited.result);
    if removed > 0 {
        ctx.changed_with(HASH, "hdel", key);
        if edited.is_some_and(|edited| edited.is_gone) {
            ctx.notify(GENERIC, "del", key);
        }
        ctx.verbatim();
    }
    ctx.out().count(removed);
    Ok(())
}

pub(crate) fn hlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.count(hash.map_or(0, Hash::len));
    Ok(())
}

pub(crate) fn hstrlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.count(hash.and_then(|hash| hash.get(args.at(2))).map_or(0, <[u8]>::len));
    Ok(())
}

pub(crate) fn hexists(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.flag(hash.is_some_and(|hash| hash.get(args.at(2)).is_some()));
    Ok(())
}

pub(crate) fn hkeys(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.array(hash.map_or(0, Hash::len));
    for (field, _) in hash.iter().flat_map(|hash| hash.iter()) {
        out.bulk(field);
    }
    Ok(())
}

pub(crate) fn hvals(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.array(hash.map_or(0, Hash::len));
    for (_, value) in hash.iter().flat_map(|hash| hash.iter()) {
        out.bulk(value);
    }
    Ok(())
}

pub(crate) fn hgetall(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    out.map(hash.map_or(0, Hash::len));
    for (field, value) in hash.iter().flat_map(|hash| hash.iter()) {
        out.bulk(field);
        out.bulk(value);
    }
    Ok(())
}

pub(crate) fn hincrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, field) = (args.at(1), args.at(2));
    let by = integer(args.at(3))?;
    let old = match ctx.collection::<Hash>(key)?.and_then(|hash| hash.get(field)) {
        Some(text) => parse_i64(text).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    ctx.edit_or_new(key, |hash: &mut Hash| hash.change(field, &i64_text(new)))?;
    ctx.changed_with(HASH, "hincrby", key);
    ctx.verbatim();
    ctx.out().int(new);
    Ok(())
}

pub(crate) fn hincrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, field) = (args.at(1), args.at(2));
    let by = parse_f64(args.at(3)).ok_or("ERR value is not a valid float")?;
    let old =
        ctx.collection::<Hash>(key)?.and_then(|hash| hash.get(field)).unwrap_or(b"0").to_vec();
    parse_f64(&old).ok_or("ERR hash value is not a float")?;
    if !by.is_finite() {
        return Err("ERR value is NaN or Infinity".into());
    }
    let sum =
        add_decimals(&old, args.at(3)).ok_or("ERR increment would produce NaN or Infinity")?;
    let deadline = ctx.edit_or_new(key, |hash: &mut Hash| {
        hash.change(field, sum.as_bytes());
        hash.deadline(field)
    })?;
    ctx.changed_with(HASH, "hincrbyfloat", key);
    ctx.effect(&[b"HSET", key, field, sum.as_bytes()]);
    if let Some(at) = deadline {
        ctx.effect(&[b"HPEXPIREAT", key, &i64_text(at), b"FIELDS", b"1", field]);
    }
    ctx.out().text(&sum);
    Ok(())
}

pub(crate) fn hscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    cursor(args.at(2))?;
    if ctx.collection::<Hash>(args.at(1))?.is_none() {
        nothing_scanned(ctx.out());
        return Ok(());
    }
    let scan = Scan::of(args, 2, false)?;
    let packed = ctx.engine.settings.hash_packed;
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    let Some(hash) = hash else {
        out.array(2);
        out.text("0");
        out.array(0);
        return Ok(());
    };
    let (window, next) = scan.window(hash.len(), hash.is_packed(packed));
    let found: Vec<(&[u8], &[u8])> =
        window.filter_map(|at| hash.at(at)).filter(|(field, _)| scan.matches(field)).collect();
    out.array(2);
    out.text(&next.to_string());
    out.array(found.len() * 2);
    for (field, value) in found {
        out.bulk(field);
        out.bulk(value);
    }
    Ok(())
}

pub(crate) fn hrandfield(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = args.get(2).map(|text| parse_i64(text).ok_or(NOT_INTEGER)).transpose()?;
    let with_values = match args.len() {
        2 | 3 => false,
        4 if args.is(3, "WITHVALUES") => true,
        _ => return Err(crate::wire::reply::SYNTAX),
    };
    if with_values && count.is_some_and(|count| count.unsigned_abs() > i64::MAX as u64 / 2) {
        return Err("ERR value is out of range".into());
    }
    let wanted = wanted(count)?;
    let seed = ctx.chance();
    let (hash, out) = ctx.collection_and_out::<Hash>(args.at(1))?;
    let Some(hash) = hash else {
        if wanted == Wanted::One {
            out.null();
        } else {
            out.array(0);
        }
        return Ok(());
    };
    let chosen = picks(hash.len(), wanted, seed);
    if wanted != Wanted::One {
        let is_nested = with_values && out.is_resp3;
        out.array(if with_values && !is_nested { chosen.len() * 2 } else { chosen.len() });
    }
    for (field, value) in chosen.into_iter().filter_map(|at| hash.at(at)) {
        if with_values && out.is_resp3 {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value);
        }
    }
    Ok(())
}
