//! Commands on sets.

use super::options::{Scan, cursor, integer, nothing_scanned, numbered_keys};
use super::random::{Wanted, picks, wanted};
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, SET};
use crate::store::set::Set;
use crate::wire::reply::{Fault, SYNTAX};
use crate::wire::request::Args;

pub(crate) fn sadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let added = ctx.edit_or_new(key, |set: &mut Set| {
        args.from(2).iter().filter(|member| set.add(member)).count()
    })?;
    if added > 0 {
        ctx.changed_with(SET, "sadd", key);
        ctx.verbatim();
    }
    ctx.out().count(added);
    Ok(())
}

pub(crate) fn srem(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let edited = ctx.edit(key, |set: &mut Set| {
        args.from(2).iter().filter(|member| set.remove(member)).count()
    })?;
    let removed = edited.as_ref().map_or(0, |edited| edited.result);
    if removed > 0 {
        ctx.changed_with(SET, "srem", key);
        if edited.is_some_and(|edited| edited.is_gone) {
            ctx.notify(GENERIC, "del", key);
        }
        ctx.verbatim();
    }
    ctx.out().count(removed);
    Ok(())
}

pub(crate) fn scard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (set, out) = ctx.collection_and_out::<Set>(args.at(1))?;
    out.count(set.map_or(0, Set::len));
    Ok(())
}

pub(crate) fn sismember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (set, out) = ctx.collection_and_out::<Set>(args.at(1))?;
    out.flag(set.is_some_and(|set| set.has(args.at(2))));
    Ok(())
}

pub(crate) fn smismember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (set, out) = ctx.collection_and_out::<Set>(args.at(1))?;
    out.array(args.len() - 2);
    for member in args.from(2).iter() {
        out.flag(set.is_some_and(|set| set.has(member)));
    }
    Ok(())
}

pub(crate) fn smembers(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (set, out) = ctx.collection_and_out::<Set>(args.at(1))?;
    out.set(set.map_or(0, Set::len));
    for member in set.iter().flat_map(|set| set.iter()) {
        out.bulk(member);
    }
    Ok(())
}

pub(crate) fn smove(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (from, to, member) = (args.at(1), args.at(2), args.at(3));
    let is_there = ctx.collection::<Set>(from)?.map(|set| set.has(member));
    if is_there.is_some() {
        ctx.collection::<Set>(to)?;
    }
    if is_there != Some(true) {
        ctx.out().int(0);
        return Ok(());
    }
    if from == to {
        ctx.out().int(1);
        return Ok(());
    }
    let edited = ctx.edit(from, |set: &mut Set| set.remove(member))?;
    ctx.changed_with(SET, "srem", from);
    if edited.is_some_and(|edited| edited.is_gone) {
        ctx.notify(GENERIC, "del", from);
    }
    let is_new = ctx.edit_or_new(to, |set: &mut Set| set.add(member))?;
    if is_new {
        ctx.changed_with(SET, "sadd", to);
    }
    ctx.verbatim();
    ctx.out().int(1);
    Ok(())
}

pub(crate) fn spop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let count = match args.len() {
        2 => None,
        3 => Some(
            integer(args.at(2))
                .ok()
                .filter(|count| *count >= 0)
                .ok_or("ERR value is out of range, must be positive")?,
        ),
        _ => return Err(SYNTAX),
    };
    let wanted = wanted(count)?;
    let seed = ctx.chance();
    let members: Vec<Vec<u8>> = match ctx.collection::<Set>(key)? {
        None => Vec::new(),
        Some(set) => picks(set.len(), wanted, seed)
            .into_iter()
            .filter_map(|at| set.at(at).map(<[u8]>::to_vec))
            .collect(),
    };
    if wanted == Wanted::One {
        ctx.out().maybe(members.first().map(Vec::as_slice));
    } else {
        ctx.out().set(members.len());
        for member in &members {
            ctx.out().bulk(member);
        }
    }
    if members.is_empty() {
        return Ok(());
    }
    let edited = ctx.edit(key, |set: &mut Set| {
        members.iter().fold(0, |count, member| count + usize::from(set.remove(member)))
    })?;
    ctx.changed_with(SET, "spop", key);
    if edited.is_some_and(|edited| edited.is_gone) {
        ctx.notify(GENERIC, "del", key);
        ctx.effect(&[b"DEL", key]);
    } else {
        let effect: Vec<&[u8]> =
            [&b"SREM"[..], key].into_iter().chain(members.iter().map(Vec::as_slice)).collect();
        ctx.effect(&effect);
    }
    Ok(())
}

pub(crate) fn srandmember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 3 {
        return Err(SYNTAX);
    }
    let wanted = wanted(args.get(2).map(integer).transpose()?)?;
    let seed = ctx.chance();
    let (set, out) = ctx.collection_and_out::<Set>(args.at(1))?;
    let Some(set) = set else {
        if wanted == Wanted::One {
            out.null();
        } else {
            out.array(0);
        }
        return Ok(());
    };
    let chosen = picks(set.len(), wanted, seed);
    if wanted != Wanted::One {
        out.array(chosen.len());
    }
    for member in chosen.into_iter().filter_map(|at| set.at(at)) {
        out.bulk(member);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mix {
    Both,
    Any,
    First,
}

impl Mix {
    fn store_name(self) -> &'static str {
        match self {
            Self::Both => "sinterstore",
            Self::Any => "sunionstore",
            Self::First => "sdiffstore",
        }
    }
}

/// The members of a mix of sets.
fn mix<'a>(
    ctx: &mut Ctx<'_>,
    keys: impl Iterator<Item = &'a [u8]> + Clone,
    mix: Mix,
) -> Result<Set, Fault> {
    // All kinds are looked at first, so that a wrong one is refused whatever the others hold.
    let mut smallest: Option<(usize, usize)> = None;
    for (at, key) in keys.clone().enumerate() {
        let length = ctx.collection::<Set>(key)?.map_or(0, Set::len);
        if smallest.is_none_or(|(least, _)| length < least) {
            smallest = Some((length, at));
        }
    }
    let begin = if mix == Mix::Both { smallest.map_or(0, |(_, at)| at) } else { 0 };
    let first = keys.clone().nth(begin).unwrap_or_default();
    let mut result = ctx.collection::<Set>(first)?.cloned().unwrap_or_default();
    for (_, key) in keys.enumerate().filter(|(at, _)| *at != begin) {
        let other = ctx.collection::<Set>(key)?;
        let Some(other) = other else {
            if mix == Mix::Both {
                return Ok(Set::default());
            }
            continue;
        };
        if mix == Mix::Any {
            for member in other.iter() {
                result.add(member);
            }
            continue;
        }
        let goes = |member: &[u8]| other.has(member) == (mix == Mix::First);
        let gone: Vec<Vec<u8>> =
            result.iter().filter(|member| goes(member)).map(<[u8]>::to_vec).collect();
        for member in &gone {
            result.remove(member);
        }
    }
    result.renew();
    Ok(result)
}

fn show(ctx: &mut Ctx<'_>, args: Args<'_>, kind: Mix) -> Outcome {
    let set = mix(ctx, args.from(1).iter(), kind)?;
    let out = ctx.out();
    out.set(set.len());
    for member in set.iter() {
        out.bulk(member);
    }
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, args: Args<'_>, kind: Mix) -> Outcome {
    let set = mix(ctx, args.from(2).iter(), kind)?;
    let (key, count) = (args.at(1), set.len());
    if count == 0 {
        if ctx.remove(key) {
            ctx.notify(GENERIC, "del", key);
            ctx.effect(&[b"DEL", key]);
        }
    } else {
        ctx.put(key, set)?;
        ctx.changed_with(SET, kind.store_name(), key);
        ctx.verbatim();
    }
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn sinter(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    show(ctx, args, Mix::Both)
}

pub(crate) fn sunion(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    show(ctx, args, Mix::Any)
}

pub(crate) fn sdiff(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    show(ctx, args, Mix::First)
}

pub(crate) fn sinterstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    store(ctx, args, Mix::Both)
}

pub(crate) fn sunionstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    store(ctx, args, Mix::Any)
}

pub(crate) fn sdiffstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    store(ctx, args, Mix::First)
}

pub(crate) fn sintercard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let keys = numbered_keys(args, 1)?;
    let mut limit = 0;
    let mut at = keys.end;
    while at < args.len() {
        if !args.is(at, "LIMIT") || at + 1 >= args.len() {
            return Err(SYNTAX);
        }
        limit = integer(args.at(at + 1))
            .ok()
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or("ERR LIMIT can't be negative")?;
        at += 2;
    }
    let set = mix(ctx, keys.map(|at| args.at(at)), Mix::Both)?;
    let count = if limit == 0 { set.len() } else { set.len().min(limit) };
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn sscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    cursor(args.at(2))?;
    if ctx.collection::<Set>(args.at(1))?.is_none() {
        nothing_scanned(ctx.out());
        return Ok(());
    }
    let scan = Scan::of(args, 2, false)?;
    let numbers_max = ctx.engine.settings.numbers_max;
    let (set, out) = ctx.collection_and_out::<Set>(args.at(1))?;
    let (window, next) =
        set.map_or((0..0, 0), |set| scan.window(set.len(), set.is_numbers(numbers_max)));
    let found: Vec<&[u8]> = window
        .filter_map(|at| set.and_then(|set| set.at(at)))
        .filter(|member| scan.matches(member))
        .collect();
    out.array(2);
    out.text(&next.to_string());
    out.array(found.len());
    for member in found {
        out.bulk(member);
    }
    Ok(())
}
