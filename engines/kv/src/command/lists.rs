//! Commands on lists.

use super::options::{integer, range, timeout};
use super::waiting::{MultiPop, pop_first, wait};
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, LIST};
use crate::session::Timeout;
use crate::store::list::{End, List};
use crate::store::number::parse_i64;
use crate::wire::reply::{Fault, NO_KEY, OUT_OF_RANGE, SYNTAX};
use crate::wire::request::Args;

const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";

pub(crate) fn lpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    push(ctx, args, End::Left)
}

pub(crate) fn rpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    push(ctx, args, End::Right)
}

pub(crate) fn lpushx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    push_if_there(ctx, args, End::Left)
}

pub(crate) fn rpushx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    push_if_there(ctx, args, End::Right)
}

fn push_event(end: End) -> &'static str {
    if end == End::Left { "lpush" } else { "rpush" }
}

fn pop_event(end: End) -> &'static str {
    if end == End::Left { "lpop" } else { "rpop" }
}

fn push(ctx: &mut Ctx<'_>, args: Args<'_>, end: End) -> Outcome {
    let key = args.at(1);
    let length = ctx.edit_or_new(key, |list: &mut List| {
        args.from(2).iter().for_each(|element| list.push(end, element));
        list.len()
    })?;
    ctx.changed_with(LIST, push_event(end), key);
    ctx.verbatim();
    ctx.offer(key);
    ctx.out().count(length);
    Ok(())
}

fn push_if_there(ctx: &mut Ctx<'_>, args: Args<'_>, end: End) -> Outcome {
    if ctx.collection::<List>(args.at(1))?.is_none() {
        ctx.out().int(0);
        return Ok(());
    }
    push(ctx, args, end)
}

pub(crate) fn llen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (list, out) = ctx.collection_and_out::<List>(args.at(1))?;
    out.count(list.map_or(0, List::len));
    Ok(())
}

pub(crate) fn lindex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (list, out) = ctx.collection_and_out::<List>(args.at(1))?;
    let Some(list) = list else {
        out.null();
        return Ok(());
    };
    let index = integer(args.at(2))?;
    out.maybe(place(index, list.len()).and_then(|at| list.get(at)));
    Ok(())
}

/// A place from the left, or from the right when negative.
fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index + length as i64 } else { index };
    usize::try_from(index).ok().filter(|index| *index < length)
}

pub(crate) fn lset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let length = ctx.collection::<List>(key)?.map(List::len).ok_or(NO_KEY)?;
    let at = place(integer(args.at(2))?, length).ok_or(OUT_OF_RANGE)?;
    ctx.edit(key, |list: &mut List| list.set(at, args.at(3)))?;
    ctx.changed_with(LIST, "lset", key);
    ctx.verbatim();
    ctx.out().ok();
    Ok(())
}

pub(crate) fn lrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (from, to) = (integer(args.at(2))?, integer(args.at(3))?);
    let (list, out) = ctx.collection_and_out::<List>(args.at(1))?;
    let range = range(from, to, list.map_or(0, List::len));
    out.array(range.len());
    for element in list.iter().flat_map(|list| list.range(range.start, range.end)) {
        out.bulk(element);
    }
    Ok(())
}

pub(crate) fn ltrim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let (from, to) = (integer(args.at(2))?, integer(args.at(3))?);
    let edited = ctx.edit(key, |list: &mut List| {
        let kept = range(from, to, list.len());
        list.trim(kept.start, kept.end);
    })?;
    if let Some(edited) = edited {
        ctx.changed_with(LIST, "ltrim", key);
        if edited.is_gone {
            ctx.notify(GENERIC, "del", key);
        }
        ctx.verbatim();
    }
    ctx.out().ok();
    Ok(())
}

pub(crate) fn linsert(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let after = match () {
        () if args.is(2, "AFTER") => 1,
        () if args.is(2, "BEFORE") => 0,
        () => return Err(SYNTAX),
    };
    let key = args.at(1);
    let edited = ctx.edit(key, |list: &mut List| {
        let at = list.iter().position(|element| element == args.at(3))?;
        list.insert(at + after, args.at(4));
        Some(list.len())
    })?;
    match edited.map(|edited| edited.result) {
        None => ctx.out().int(0),
        Some(None) => ctx.out().int(-1),
        Some(Some(length)) => {
            ctx.changed_with(LIST, "linsert", key);
            ctx.verbatim();
            ctx.out().count(length);
        }
    }
    Ok(())
}

pub(crate) fn lrem(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let count = integer(args.at(2))?;
    let (end, most) = match count {
        0 => (End::Left, usize::MAX),
        1.. => (End::Left, count as usize),
        _ => (End::Right, count.unsigned_abs() as usize),
    };
    let edited = ctx.edit(key, |list: &mut List| list.remove(args.at(3), most, end))?;
    let removed = edited.as_ref().map_or(0, |edited| edited.result);
    if removed > 0 {
        ctx.changed_with(LIST, "lrem", key);
        if edited.is_some_and(|edited| edited.is_gone) {
            ctx.notify(GENERIC, "del", key);
        }
        ctx.verbatim();
    }
    ctx.out().count(removed);
    Ok(())
}

/// RANK, COUNT and MAXLEN of LPOS.
struct Position {
    rank: i64,
    count: Option<usize>,
    most: usize,
}

pub(crate) fn lpos(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let options = position(args)?;
    let (list, out) = ctx.collection_and_out::<List>(args.at(1))?;
    let element = args.at(2);
    let skip = options.rank.unsigned_abs() as usize - 1;
    let wanted = options.count.unwrap_or(1);
    let most = if options.most == 0 { usize::MAX } else { options.most };
    let found: Vec<usize> = match list {
        None => Vec::new(),
        Some(list) => {
            let all = list.iter().enumerate();
            let is_it = |(_, other): &(usize, &[u8])| *other == element;
            let places = if options.rank > 0 {
                all.take(most).filter(is_it).map(|(at, _)| at).collect::<Vec<_>>()
            } else {
                all.rev().take(most).filter(is_it).map(|(at, _)| at).collect()
            };
            places
                .into_iter()
                .skip(skip)
                .take(if wanted == 0 { usize::MAX } else { wanted })
                .collect()
        }
    };
    match (options.count, found.first()) {
        (None, Some(at)) => out.count(*at),
        (None, None) => out.null(),
        (Some(_), _) => {
            out.array(found.len());
            for at in found {
                out.count(at);
            }
        }
    }
    Ok(())
}

fn position(args: Args<'_>) -> Result<Position, Fault> {
    let mut options = Position { rank: 1, count: None, most: 0 };
    let mut at = 3;
    while at < args.len() {
        let value = args.get(at + 1).ok_or(SYNTAX)?;
        match () {
            () if args.is(at, "RANK") => {
                options.rank = integer(value)?;
                if options.rank == 0 {
                    return Err("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list".into());
                }
                if options.rank == i64::MIN {
                    return Err("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807".into());
                }
            }
            () if args.is(at, "COUNT") => {
                let count = parse_i64(value).and_then(|count| usize::try_from(count).ok());
                options.count = Some(count.ok_or("ERR COUNT can't be negative")?);
            }
            () if args.is(at, "MAXLEN") => {
                let most = parse_i64(value).and_then(|most| usize::try_from(most).ok());
                options.most = most.ok_or("ERR MAXLEN can't be negative")?;
            }
            () => return Err(SYNTAX),
        }
        at += 2;
    }
    Ok(options)
}

pub(crate) fn lpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop(ctx, args, End::Left)
}

pub(crate) fn rpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop(ctx, args, End::Right)
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, end: End) -> Outcome {
    if args.len() > 3 {
        let name = pop_event(end);
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    let count = match args.get(2) {
        None => None,
        Some(text) => {
            let count = parse_i64(text).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(NOT_POSITIVE)?)
        }
    };
    let key = args.at(1);
    if ctx.collection::<List>(key)?.is_none() {
        if count.is_some() {
            ctx.out().null_array();
        } else {
            ctx.out().null();
        }
        return Ok(());
    }
    if count == Some(0) {
        ctx.out().array(0);
        return Ok(());
    }
    let popped = take(ctx, key, end, count.unwrap_or(1))?;
    if count.is_some() {
        ctx.out().array(popped.len());
    }
    for element in &popped {
        ctx.out().bulk(element);
    }
    Ok(())
}

/// Takes up to `count` elements, with events and effect.
fn take(ctx: &mut Ctx<'_>, key: &[u8], end: End, count: usize) -> Result<Vec<Box<[u8]>>, Fault> {
    let edited = ctx.edit(key, |list: &mut List| {
        let count = count.min(list.len());
        (0..count).filter_map(|_| list.pop(end)).collect::<Vec<_>>()
    })?;
    let Some(edited) = edited else { return Ok(Vec::new()) };
    ctx.changed_with(LIST, pop_event(end), key);
    if edited.is_gone {
        ctx.notify(GENERIC, "del", key);
    }
    let count = edited.result.len().to_string();
    let name: &[u8] = if end == End::Left { b"LPOP" } else { b"RPOP" };
    ctx.effect(&[name, key, count.as_bytes()]);
    Ok(edited.result)
}

fn end_of(args: Args<'_>, at: usize) -> Result<End, Fault> {
    match () {
        () if args.is(at, "LEFT") => Ok(End::Left),
        () if args.is(at, "RIGHT") => Ok(End::Right),
        () => Err(SYNTAX),
    }
}

pub(crate) fn lmove(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let ends = (end_of(args, 3)?, end_of(args, 4)?);
    if !relay(ctx, (args.at(1), args.at(2)), ends)? {
        ctx.out().null();
    }
    Ok(())
}

pub(crate) fn rpoplpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if !relay(ctx, (args.at(1), args.at(2)), (End::Right, End::Left))? {
        ctx.out().null();
    }
    Ok(())
}

/// Takes an element from one list, gives it to another and answers it; says whether there was one.
fn relay(
    ctx: &mut Ctx<'_>,
    (from, to): (&[u8], &[u8]),
    (take_end, give_end): (End, End),
) -> Result<bool, Fault> {
    if ctx.collection::<List>(from)?.is_none() {
        return Ok(false);
    }
    ctx.collection::<List>(to)?;
    let edited = ctx.edit(from, |list: &mut List| list.pop(take_end))?;
    let Some(edited) = edited else { return Ok(false) };
    let Some(element) = edited.result else { return Ok(false) };
    ctx.changed_with(LIST, pop_event(take_end), from);
    ctx.edit_or_new(to, |list: &mut List| list.push(give_end, &element))?;
    if edited.is_gone && from != to {
        ctx.notify(GENERIC, "del", from);
    }
    ctx.changed_with(LIST, push_event(give_end), to);
    ctx.offer(to);
    let word = |end| if end == End::Left { &b"LEFT"[..] } else { &b"RIGHT"[..] };
    ctx.effect(&[b"LMOVE", from, to, word(take_end), word(give_end)]);
    ctx.out().bulk(&element);
    Ok(true)
}

const ENDS: [&str; 2] = ["LEFT", "RIGHT"];

fn take_first(ctx: &mut Ctx<'_>, key: &[u8], pop: &MultiPop<'_>) -> Result<Vec<Box<[u8]>>, Fault> {
    take(ctx, key, if pop.is_second { End::Right } else { End::Left }, pop.count)
}

pub(crate) fn lmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop_first::<List, _>(ctx, args, (1, ENDS), take_first, |out, element| out.bulk(element))
}

pub(crate) fn blmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop_first::<List, _>(ctx, args, (2, ENDS), take_first, |out, element| out.bulk(element))
}

pub(crate) fn blpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    blocking_pop(ctx, args, End::Left)
}

pub(crate) fn brpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    blocking_pop(ctx, args, End::Right)
}

fn blocking_pop(ctx: &mut Ctx<'_>, args: Args<'_>, end: End) -> Outcome {
    let deadline = timeout(ctx.now, args.at(args.len() - 1))?;
    let keys: Vec<&[u8]> = args.iter().take(args.len() - 1).skip(1).collect();
    for key in &keys {
        if ctx.collection::<List>(key)?.is_none() {
            continue;
        }
        let popped = take(ctx, key, end, 1)?;
        let out = ctx.out();
        out.array(2);
        out.bulk(key);
        out.maybe(popped.first().map(|element| &**element));
        return Ok(());
    }
    wait(ctx, args, &keys, (deadline, Timeout::NullArray));
    Ok(())
}

pub(crate) fn blmove(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let ends = (end_of(args, 3)?, end_of(args, 4)?);
    let deadline = timeout(ctx.now, args.at(5))?;
    blocking_move(ctx, args, ends, deadline)
}

pub(crate) fn brpoplpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let deadline = timeout(ctx.now, args.at(3))?;
    blocking_move(ctx, args, (End::Right, End::Left), deadline)
}

fn blocking_move(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    ends: (End, End),
    deadline: Option<i64>,
) -> Outcome {
    if !relay(ctx, (args.at(1), args.at(2)), ends)? {
        wait(ctx, args, &[args.at(1)], (deadline, Timeout::Null));
    }
    Ok(())
}
