//! SORT: elements of a list, a set or a sorted set, by their own value or by that of other keys.

use super::options::integer;
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, LIST};
use crate::store::list::{End, List};
use crate::store::number::parse_f64;
use crate::store::object::Kind;
use crate::store::object::Object;
use crate::wire::reply::{Fault, SYNTAX, WRONG_TYPE};
use crate::wire::request::Args;

#[derive(Default)]
struct Options<'a> {
    by: Option<&'a [u8]>,
    gets: Vec<&'a [u8]>,
    limit: Option<(i64, i64)>,
    falls: bool,
    by_name: bool,
    store: Option<&'a [u8]>,
}

pub(crate) fn sort(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run(ctx, args, true)
}

pub(crate) fn sort_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run(ctx, args, false)
}

fn options(args: Args<'_>, can_store: bool) -> Result<Options<'_>, Fault> {
    let mut options = Options::default();
    let mut at = 2;
    while at < args.len() {
        match () {
            () if args.is(at, "ASC") => options.falls = false,
            () if args.is(at, "DESC") => options.falls = true,
            () if args.is(at, "ALPHA") => options.by_name = true,
            () if args.is(at, "LIMIT") && at + 2 < args.len() => {
                options.limit = Some((integer(args.at(at + 1))?, integer(args.at(at + 2))?));
                at += 2;
            }
            () if can_store && args.is(at, "STORE") && at + 1 < args.len() => {
                options.store = Some(args.at(at + 1));
                at += 1;
            }
            () if args.is(at, "BY") && at + 1 < args.len() => {
                options.by = Some(args.at(at + 1));
                at += 1;
            }
            () if args.is(at, "GET") && at + 1 < args.len() => {
                options.gets.push(args.at(at + 1));
                at += 1;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    Ok(options)
}

/// What an element is ordered by.
enum Weight {
    Number(f64),
    Name(Option<Vec<u8>>),
}

fn run(ctx: &mut Ctx<'_>, args: Args<'_>, can_store: bool) -> Outcome {
    let options = options(args, can_store)?;
    let reaches_out = options.by.is_some_and(|by| by.contains(&b'*'))
        || options.gets.iter().any(|get| *get != b"#");
    if reaches_out && !ctx.session.rights.reads_all() {
        return Err("ERR BY and GET of SORT are denied due to insufficient ACL permissions".into());
    }
    // A pattern without a star names no other key, so that nothing is sorted.
    let is_sorted = options.by.is_none_or(|by| by.contains(&b'*'));
    let (elements, kind) = elements(ctx, args.at(1), (is_sorted, options.falls))?;
    let mut weighted = Vec::with_capacity(elements.len());
    for element in elements {
        let weight = if is_sorted { weight(ctx, &element, &options)? } else { Weight::Number(0.0) };
        weighted.push((element, weight));
    }
    // Sets have no order of their own, and what is stored, or given to a script, must be the same again.
    let is_kept = options.store.is_some() || ctx.session.is_script;
    let orders = is_sorted || (kind == Some(Kind::Set) && is_kept);
    if orders {
        let by_name = options.by_name || !is_sorted;
        weighted.sort_by(|(a, a_weight), (b, b_weight)| {
            let order = match (a_weight, b_weight) {
                (Weight::Number(x), Weight::Number(y)) if !by_name => x.total_cmp(y),
                (Weight::Name(x), Weight::Name(y)) if options.by.is_some() => x.cmp(y),
                _ => a.cmp(b),
            };
            let order = order.then_with(|| a.cmp(b));
            if options.falls { order.reverse() } else { order }
        });
    }
    let (from, count) = options.limit.unwrap_or((0, -1));
    let from = (from.max(0) as usize).min(weighted.len());
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let chosen: Vec<Vec<u8>> =
        weighted.into_iter().skip(from).take(most).map(|(element, _)| element).collect();
    let mut result: Vec<Option<Vec<u8>>> = Vec::new();
    for element in chosen {
        if options.gets.is_empty() {
            result.push(Some(element));
            continue;
        }
        for get in &options.gets {
            result.push(lookup(ctx, get, &element));
        }
    }
    if let Some(key) = options.store {
        return store(ctx, key, &result);
    }
    let out = ctx.out();
    out.array(result.len());
    for element in result {
        out.maybe(element.as_deref());
    }
    Ok(())
}

fn elements(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    (is_sorted, falls): (bool, bool),
) -> Result<(Vec<Vec<u8>>, Option<Kind>), Fault> {
    let Some(found) = ctx.look_up(key) else { return Ok((Vec::new(), None)) };
    let store = &ctx.engine.store;
    let kind = store.kind(found);
    if kind == Kind::String || kind == Kind::Hash {
        return Err(WRONG_TYPE);
    }
    let elements = match store.object(found) {
        Object::List(list) => list.iter().map(<[u8]>::to_vec).collect(),
        Object::Set(set) => set.iter().map(<[u8]>::to_vec).collect(),
        Object::Sorted(sorted) if !is_sorted && falls => {
            sorted.range_falling(0, sorted.len()).map(|(member, _)| member.to_vec()).collect()
        }
        Object::Sorted(sorted) => sorted.iter().map(|(member, _)| member.to_vec()).collect(),
        _ => Vec::new(),
    };
    Ok((elements, Some(kind)))
}

fn weight(ctx: &mut Ctx<'_>, element: &[u8], options: &Options<'_>) -> Result<Weight, Fault> {
    let value = match options.by {
        Some(pattern) => lookup(ctx, pattern, element),
        None => Some(element.to_vec()),
    };
    if options.by_name {
        return Ok(Weight::Name(value));
    }
    match value {
        None => Ok(Weight::Number(0.0)),
        Some(text) if text.is_empty() => Ok(Weight::Number(0.0)),
        // Blanks before a number are taken, as `strtod` takes them.
        Some(text) => parse_f64(text.trim_ascii_start())
            .map(Weight::Number)
            .ok_or_else(|| "ERR One or more scores can't be converted into double".into()),
    }
}

/// What a pattern names for an element: `#` itself, `a_*` a string, `a_*->f` a field.
fn lookup(ctx: &mut Ctx<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let rest = &pattern[star + 1..];
    let arrow = rest.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < rest.len());
    let (tail, field) = arrow.map_or((rest, None), |at| (&rest[..at], Some(&rest[at + 2..])));
    let key = [&pattern[..star], element, tail].concat();
    let found = ctx.find(&key)?;
    let store = &ctx.engine.store;
    let Some(field) = field else {
        return (store.kind(found) == Kind::String).then(|| store.string(found).to_vec());
    };
    let hash = store.collection::<crate::store::hash::Hash>(found)?;
    hash.get(field).map(<[u8]>::to_vec)
}

fn store(ctx: &mut Ctx<'_>, key: &[u8], result: &[Option<Vec<u8>>]) -> Outcome {
    ctx.out().count(result.len());
    if result.is_empty() {
        if ctx.remove(key) {
            ctx.notify(GENERIC, "del", key);
            ctx.effect(&[b"DEL", key]);
        }
        return Ok(());
    }
    let mut list = List::default();
    let mut effect: Vec<&[u8]> = vec![b"RPUSH", key];
    for element in result {
        let element = element.as_deref().unwrap_or_default();
        list.push(End::Right, element);
        effect.push(element);
    }
    ctx.effect(&[b"DEL", key]);
    ctx.effect(&effect);
    ctx.put(key, list)?;
    ctx.changed_with(LIST, "sortstore", key);
    ctx.offer(key);
    Ok(())
}
