//! Commands on consumer groups of streams.

use std::ops::Bound;
use std::sync::Arc;

use super::options::integer;
use super::streams::{id, interval_end, interval_start, strict_id};
use crate::context::{Ctx, Outcome};
use crate::notify::STREAM;
use crate::store::number::{i64_text, parse_i64};
use crate::store::stream::{Consumer, Group, Id, Pending, Stream};
use crate::wire::reply::{Fault, NO_KEY, Reply, SYNTAX};
use crate::wire::request::Args;

/// Entries that XAUTOCLAIM looks at for each that it may give.
const ATTEMPTS: usize = 10;
const CLAIMED_MAX: i64 = i64::MAX / 16;

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

pub(super) fn misused(args: Args<'_>) -> Fault {
    let (name, sub) = (shown(args.at(0)).to_uppercase(), args.get(1).unwrap_or_default());
    let sub = shown(&sub[..sub.len().min(128)]);
    format!("ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {name} HELP.")
        .into()
}

fn no_group(key: &[u8], group: &[u8]) -> Fault {
    let (key, group) = (shown(key), shown(group));
    format!("NOGROUP No such consumer group '{group}' for key name '{key}'").into()
}

fn no_key_or_group(key: &[u8], group: &[u8]) -> Fault {
    let (key, group) = (shown(key), shown(group));
    format!("NOGROUP No such key '{key}' or consumer group '{group}'").into()
}

/// The moment that a consumer was seen; while the log is read back nobody is seen later than the start.
pub(super) fn moment(ctx: &Ctx<'_>) -> i64 {
    if ctx.engine.is_replaying { ctx.engine.stats.started } else { ctx.now }
}

pub(super) fn read_text(read: Option<u64>) -> Vec<u8> {
    i64_text(read.map_or(-1, |read| read as i64))
}

/// MKSTREAM and ENTRIESREAD.
fn group_options(args: Args<'_>, makes: bool) -> Result<(bool, Option<u64>), Fault> {
    let (mut is_made, mut read) = (false, None);
    let mut at = 5;
    while at < args.len() {
        match () {
            () if makes && args.is(at, "MKSTREAM") => is_made = true,
            () if args.is(at, "ENTRIESREAD") && at + 1 < args.len() => {
                read = match integer(args.at(at + 1))? {
                    -1 => None,
                    given => Some(
                        u64::try_from(given)
                            .map_err(|_| "ERR value for ENTRIESREAD must be positive or -1")?,
                    ),
                };
                at += 1;
            }
            () => return Err(misused(args)),
        }
        at += 1;
    }
    Ok((is_made, read))
}

/// The stream of a subcommand of XGROUP.
fn stream_of<'a>(ctx: &'a mut Ctx<'_>, key: &[u8]) -> Result<&'a Stream, Fault> {
    ctx.collection::<Stream>(key)?.ok_or_else(|| {
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.".into()
    })
}

pub(crate) fn xgroup_create(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (makes, read) = group_options(args, true)?;
    let (key, name) = (args.at(2), args.at(3));
    let known = ctx.collection::<Stream>(key)?.map(|stream| stream.last);
    if known.is_none() && !makes {
        stream_of(ctx, key)?;
    }
    if args.len() > 8 {
        return Err(misused(args));
    }
    let last = match args.at(4) {
        b"$" => known.unwrap_or_default(),
        text => strict_id(text, 0)?,
    };
    let is_new = ctx.edit_or_new(key, |stream: &mut Stream| {
        stream.add_group(name, Group { last, read, ..Group::default() })
    })?;
    if !is_new {
        return Err("BUSYGROUP Consumer Group name already exists".into());
    }
    ctx.changed_with(STREAM, "xgroup-create", key);
    let (id, read) = (last.text(), read_text(read));
    ctx.effect(&[b"XGROUP", b"CREATE", key, name, &id, b"MKSTREAM", b"ENTRIESREAD", &read]);
    ctx.out().ok();
    Ok(())
}

pub(crate) fn xgroup_setid(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (_, read) = group_options(args, false)?;
    let (key, name) = (args.at(2), args.at(3));
    let stream = stream_of(ctx, key)?;
    let (last, is_there) = (stream.last, stream.group(name).is_some());
    if !is_there {
        return Err(no_group(key, name));
    }
    if args.len() != 5 && args.len() != 7 {
        return Err(misused(args));
    }
    let last = if args.at(4) == b"$" { last } else { id(args.at(4), 0)? };
    ctx.edit(key, |stream: &mut Stream| {
        stream.edit_group(name, |group| (group.last, group.read) = (last, read))
    })?;
    ctx.engine.stats.dirty += 1;
    ctx.notify(STREAM, "xgroup-setid", key);
    log_position(ctx, (key, name), (last, read));
    ctx.out().ok();
    Ok(())
}

/// Gives the log how far a group has read.
pub(super) fn log_position(
    ctx: &mut Ctx<'_>,
    (key, name): (&[u8], &[u8]),
    (last, read): (Id, Option<u64>),
) {
    let (id, read) = (last.text(), read_text(read));
    ctx.effect(&[b"XGROUP", b"SETID", key, name, &id, b"ENTRIESREAD", &read]);
}

pub(crate) fn xgroup_destroy(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, name) = (args.at(2), args.at(3));
    stream_of(ctx, key)?;
    let edited = ctx.edit(key, |stream: &mut Stream| stream.drop_group(name))?;
    let is_dropped = edited.is_some_and(|edited| edited.result);
    if is_dropped {
        ctx.engine.stats.dirty += 1;
        ctx.notify(STREAM, "xgroup-destroy", key);
        ctx.verbatim();
        // Whoever waits for this group is told.
        ctx.offer(key);
    }
    ctx.out().flag(is_dropped);
    Ok(())
}

pub(crate) fn xgroup_createconsumer(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, name) = (args.at(2), args.at(3));
    if stream_of(ctx, key)?.group(name).is_none() {
        return Err(no_group(key, name));
    }
    let seen = moment(ctx);
    let edited = ctx.edit(key, |stream: &mut Stream| {
        let known =
            stream.group(name).is_some_and(|group| group.consumers.contains_key(args.at(4)));
        !known && stream.edit_group(name, |group| group.consumer(args.at(4), seen).1) == Some(true)
    })?;
    let is_made = edited.is_some_and(|edited| edited.result);
    if is_made {
        made_consumer(ctx, (key, name), args.at(4));
    }
    ctx.out().flag(is_made);
    Ok(())
}

/// Event and effect of a consumer that is new.
pub(super) fn made_consumer(ctx: &mut Ctx<'_>, (key, group): (&[u8], &[u8]), name: &[u8]) {
    ctx.engine.stats.dirty += 1;
    ctx.notify(STREAM, "xgroup-createconsumer", key);
    ctx.effect(&[b"XGROUP", b"CREATECONSUMER", key, group, name]);
}

pub(crate) fn xgroup_delconsumer(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, name) = (args.at(2), args.at(3));
    if stream_of(ctx, key)?.group(name).is_none() {
        return Err(no_group(key, name));
    }
    let edited = ctx.edit(key, |stream: &mut Stream| {
        stream.edit_group(name, |group| group.drop_consumer(args.at(4))).flatten()
    })?;
    let dropped = edited.and_then(|edited| edited.result);
    if dropped.is_some() {
        ctx.engine.stats.dirty += 1;
        ctx.notify(STREAM, "xgroup-delconsumer", key);
        ctx.verbatim();
    }
    ctx.out().count(dropped.unwrap_or(0));
    Ok(())
}

pub(crate) fn xack(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, name) = (args.at(1), args.at(2));
    if ctx.collection::<Stream>(key)?.and_then(|stream| stream.group(name)).is_none() {
        ctx.out().int(0);
        return Ok(());
    }
    let ids: Result<Vec<Id>, Fault> = args.from(3).iter().map(|text| strict_id(text, 0)).collect();
    let ids = ids?;
    let edited = ctx.edit(key, |stream: &mut Stream| {
        stream.edit_group(name, |group| ids.iter().filter(|id| group.acknowledge(**id)).count())
    })?;
    let count = edited.and_then(|edited| edited.result).unwrap_or(0);
    if count > 0 {
        ctx.engine.stats.dirty += count as u64;
        ctx.verbatim();
    }
    ctx.out().count(count);
    Ok(())
}

/// What of the pending entries XPENDING shows.
struct Window<'a> {
    idle: i64,
    from: Id,
    to: Id,
    count: usize,
    consumer: Option<&'a [u8]>,
}

fn window(args: Args<'_>) -> Result<Option<Window<'_>>, Fault> {
    if args.len() == 3 {
        return Ok(None);
    }
    if !(6..=9).contains(&args.len()) {
        return Err(SYNTAX);
    }
    let (mut first, mut idle) = (3, 0);
    if args.is(3, "IDLE") {
        idle = integer(args.at(4))?;
        if args.len() < 8 {
            return Err(SYNTAX);
        }
        first = 5;
    }
    let count = usize::try_from(integer(args.at(first + 2))?).unwrap_or(0);
    let (from, to) = (interval_start(args.at(first))?, interval_end(args.at(first + 1))?);
    Ok(Some(Window { idle, from, to, count, consumer: args.get(first + 3) }))
}

pub(crate) fn xpending(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let window = window(args)?;
    let (key, name, now) = (args.at(1), args.at(2), ctx.now);
    let (stream, out) = ctx.collection_and_out::<Stream>(key)?;
    let group = stream.and_then(|stream| stream.group(name));
    let group = group.ok_or_else(|| no_key_or_group(key, name))?;
    let Some(window) = window else {
        write_summary(out, group);
        return Ok(());
    };
    let is_wanted = |pending: &Pending| window.idle == 0 || now - pending.time >= window.idle;
    let range = (Bound::Included(window.from), Bound::Included(window.to));
    let found: Vec<(Id, &Pending)> = match window.consumer {
        _ if window.from > window.to => Vec::new(),
        None => {
            let all = group.pending.range(range).map(|(id, pending)| (*id, pending));
            all.filter(|(_, pending)| is_wanted(pending)).take(window.count).collect()
        }
        Some(consumer) => {
            let own = group.consumers.get(consumer).into_iter();
            let own = own.flat_map(|consumer| consumer.pending.range(range));
            own.filter_map(|id| Some((*id, group.pending.get(id)?)))
                .filter(|(_, pending)| is_wanted(pending))
                .take(window.count)
                .collect()
        }
    };
    out.array(found.len());
    for (id, pending) in found {
        out.array(4);
        out.id(id);
        out.bulk(&pending.consumer);
        out.int((now - pending.time).max(0));
        out.int(pending.count as i64);
    }
    Ok(())
}

fn write_summary(out: &mut Reply, group: &Group) {
    out.array(4);
    out.count(group.pending.len());
    let ends = (group.pending.first_key_value(), group.pending.last_key_value());
    let (Some((first, _)), Some((last, _))) = ends else {
        out.null();
        out.null();
        out.null_array();
        return;
    };
    out.id(*first);
    out.id(*last);
    let busy: Vec<(&Arc<[u8]>, &Consumer)> =
        group.consumers.iter().filter(|(_, consumer)| !consumer.pending.is_empty()).collect();
    out.array(busy.len());
    for (name, consumer) in busy {
        out.array(2);
        out.bulk(name);
        out.bulk_int(consumer.pending.len() as i64);
    }
}

/// What XCLAIM is asked for.
struct Claim {
    idle: i64,
    time: i64,
    count: Option<u64>,
    creates: bool,
    /// Only ids are answered, and the count of deliveries stays.
    is_brief: bool,
    last: Id,
}

fn number(text: &[u8], what: &str) -> Result<i64, Fault> {
    parse_i64(text).ok_or_else(|| format!("ERR Invalid {what}").into())
}

fn claim(ctx: &Ctx<'_>, args: Args<'_>, mut at: usize) -> Result<Claim, Fault> {
    let idle = number(args.at(4), "min-idle-time argument for XCLAIM")?.max(0);
    let mut claim =
        Claim { idle, time: -1, count: None, creates: false, is_brief: false, last: Id::ZERO };
    while at < args.len() {
        let value = args.get(at + 1);
        match value {
            _ if args.is(at, "FORCE") => claim.creates = true,
            _ if args.is(at, "JUSTID") => claim.is_brief = true,
            Some(value) if args.is(at, "IDLE") => {
                let idle = number(value, "IDLE option argument for XCLAIM")?;
                claim.time = ctx.now.wrapping_sub(idle);
                at += 1;
            }
            Some(value) if args.is(at, "TIME") => {
                claim.time = number(value, "TIME option argument for XCLAIM")?;
                at += 1;
            }
            Some(value) if args.is(at, "RETRYCOUNT") => {
                let count = number(value, "RETRYCOUNT option argument for XCLAIM")?;
                claim.count = u64::try_from(count).ok();
                at += 1;
            }
            Some(value) if args.is(at, "LASTID") => {
                claim.last = strict_id(value, 0)?;
                at += 1;
            }
            _ => {
                let option = shown(args.at(at));
                return Err(format!("ERR Unrecognized XCLAIM option '{option}'").into());
            }
        }
        at += 1;
    }
    let is_possible = claim.time >= 0 && (claim.time <= ctx.now || ctx.engine.is_replaying);
    if !is_possible {
        claim.time = ctx.now;
    }
    Ok(claim)
}

/// What a claim did to a group.
#[derive(Default)]
struct Claimed {
    ids: Vec<(Id, u64)>,
    gone: Vec<Id>,
    is_made: bool,
    /// Where to go on.
    cursor: Id,
    position: Option<(Id, Option<u64>)>,
}

pub(crate) fn xclaim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, name) = (args.at(1), args.at(2));
    if ctx.collection::<Stream>(key)?.and_then(|stream| stream.group(name)).is_none() {
        return Err(no_key_or_group(key, name));
    }
    number(args.at(4), "min-idle-time argument for XCLAIM")?;
    let ids: Vec<Id> = args.from(5).iter().map_while(|text| strict_id(text, 0).ok()).collect();
    let claim = claim(ctx, args, 5 + ids.len())?;
    let (now, seen) = (ctx.now, moment(ctx));
    let edited = ctx.edit(key, |stream: &mut Stream| {
        let there: Vec<bool> = ids.iter().map(|id| stream.get(*id).is_some()).collect();
        stream.edit_group(name, |group| {
            let mut claimed = Claimed::default();
            if claim.last > group.last {
                group.last = claim.last;
                claimed.position = Some((group.last, group.read));
            }
            for (id, is_there) in ids.iter().zip(there) {
                if !is_there {
                    if group.acknowledge(*id) {
                        claimed.gone.push(*id);
                    }
                    continue;
                }
                let old = group.pending.get(id);
                let is_fresh = old.is_some_and(|old| claim.idle > 0 && now - old.time < claim.idle);
                if is_fresh || (old.is_none() && !claim.creates) {
                    continue;
                }
                // One that is made for this counts as delivered once.
                let old = old.map_or(1, |old| old.count);
                let count = claim.count.unwrap_or_else(|| old + u64::from(!claim.is_brief));
                take(group, *id, (args.at(3), seen), (claim.time, count), &mut claimed);
            }
            claimed
        })
    })?;
    let claimed = edited.and_then(|edited| edited.result).unwrap_or_default();
    log_claimed(ctx, (key, name), args.at(3), (&claimed, claim.time));
    if let Some(position) = claimed.position {
        log_position(ctx, (key, name), position);
    }
    write_claimed(ctx, key, &claimed, claim.is_brief)
}

/// Gives a pending entry to a consumer, which is made if it is not there.
fn take(
    group: &mut Group,
    id: Id,
    (consumer, seen): (&[u8], i64),
    (time, count): (i64, u64),
    claimed: &mut Claimed,
) {
    let (consumer, is_made) = group.consumer(consumer, seen);
    claimed.is_made |= is_made;
    group.assign(id, Pending { consumer, time, count });
    claimed.ids.push((id, count));
}

fn log_claimed(
    ctx: &mut Ctx<'_>,
    (key, group): (&[u8], &[u8]),
    consumer: &[u8],
    (claimed, time): (&Claimed, i64),
) {
    if claimed.is_made {
        made_consumer(ctx, (key, group), consumer);
    }
    if !claimed.gone.is_empty() {
        let gone: Vec<Vec<u8>> = claimed.gone.iter().map(|id| id.text()).collect();
        let effect: Vec<&[u8]> =
            [&b"XACK"[..], key, group].into_iter().chain(gone.iter().map(Vec::as_slice)).collect();
        ctx.effect(&effect);
    }
    for (id, count) in &claimed.ids {
        log_delivery(ctx, (key, group), consumer, (*id, time, *count));
    }
    ctx.engine.stats.dirty += (claimed.gone.len() + claimed.ids.len()) as u64;
}

/// Gives the log that an entry is pending, for whom, since when and the how manieth time.
pub(super) fn log_delivery(
    ctx: &mut Ctx<'_>,
    (key, group): (&[u8], &[u8]),
    consumer: &[u8],
    (id, time, count): (Id, i64, u64),
) {
    let (id, time, count) = (id.text(), i64_text(time), i64_text(count as i64));
    ctx.effect(&[
        b"XCLAIM",
        key,
        group,
        consumer,
        b"0",
        &id,
        b"TIME",
        &time,
        b"RETRYCOUNT",
        &count,
        b"FORCE",
        b"JUSTID",
    ]);
}

/// Answers entries, or their ids only.
fn write_claimed(ctx: &mut Ctx<'_>, key: &[u8], claimed: &Claimed, is_brief: bool) -> Outcome {
    let (stream, out) = ctx.collection_and_out::<Stream>(key)?;
    out.array(claimed.ids.len());
    for (id, _) in &claimed.ids {
        match stream.and_then(|stream| stream.get(*id)) {
            Some(entry) if !is_brief => out.entry(entry),
            _ => out.id(*id),
        }
    }
    Ok(())
}

pub(crate) fn xautoclaim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let idle = number(args.at(4), "min-idle-time argument for XAUTOCLAIM")?.max(0);
    let from = interval_start(args.at(5))?;
    let (mut count, mut is_brief) = (100, false);
    let mut at = 6;
    while at < args.len() {
        match () {
            () if args.is(at, "COUNT") && at + 1 < args.len() => {
                let given = integer(args.at(at + 1))?;
                if !(1..=CLAIMED_MAX).contains(&given) {
                    return Err("ERR COUNT must be > 0".into());
                }
                count = given as usize;
                at += 1;
            }
            () if args.is(at, "JUSTID") => is_brief = true,
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    let (key, name, now, seen) = (args.at(1), args.at(2), ctx.now, moment(ctx));
    if ctx.collection::<Stream>(key)?.and_then(|stream| stream.group(name)).is_none() {
        return Err(no_key_or_group(key, name));
    }
    let edited = ctx.edit(key, |stream: &mut Stream| {
        let candidates: Vec<(Id, i64, u64, bool)> = stream
            .group(name)
            .into_iter()
            .flat_map(|group| group.pending.range(from..))
            .take(count.saturating_mul(ATTEMPTS))
            .map(|(id, pending)| (*id, pending.time, pending.count, stream.get(*id).is_some()))
            .collect();
        stream.edit_group(name, |group| {
            let mut claimed = Claimed::default();
            let mut next = Bound::Included(from);
            for (id, time, deliveries, is_there) in candidates {
                if claimed.ids.len() + claimed.gone.len() >= count {
                    break;
                }
                next = Bound::Excluded(id);
                if !is_there {
                    group.acknowledge(id);
                    claimed.gone.push(id);
                } else if idle == 0 || now - time >= idle {
                    let deliveries = deliveries + u64::from(!is_brief);
                    take(group, id, (args.at(3), seen), (now, deliveries), &mut claimed);
                }
            }
            let rest = group.pending.range((next, Bound::Unbounded)).next();
            claimed.cursor = rest.map_or(Id::ZERO, |(id, _)| *id);
            claimed
        })
    })?;
    let claimed = edited.and_then(|edited| edited.result).unwrap_or_default();
    log_claimed(ctx, (key, name), args.at(3), (&claimed, now));
    ctx.out().array(3);
    ctx.out().id(claimed.cursor);
    write_claimed(ctx, key, &claimed, is_brief)?;
    ctx.out().array(claimed.gone.len());
    for id in claimed.gone {
        ctx.out().id(id);
    }
    Ok(())
}

pub(crate) fn xinfo_groups(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (stream, out) = ctx.collection_and_out::<Stream>(args.at(2))?;
    let stream = stream.ok_or(NO_KEY)?;
    out.array(stream.groups().len());
    for (name, group) in stream.groups() {
        out.map(6);
        out.text("name");
        out.bulk(name);
        out.text("consumers");
        out.count(group.consumers.len());
        out.text("pending");
        out.count(group.pending.len());
        write_position(out, stream, group);
    }
    Ok(())
}

/// How far a group has read, and how far it has to go.
fn write_position(out: &mut Reply, stream: &Stream, group: &Group) {
    out.text("last-delivered-id");
    out.id(group.last);
    out.text("entries-read");
    match group.read {
        Some(read) => out.int(read as i64),
        None => out.null(),
    }
    out.text("lag");
    match stream.lag(group) {
        Some(lag) => out.int(lag),
        None => out.null(),
    }
}

pub(crate) fn xinfo_consumers(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (key, name, now) = (args.at(2), args.at(3), ctx.now);
    let (stream, out) = ctx.collection_and_out::<Stream>(key)?;
    let group = stream.ok_or(NO_KEY)?.group(name).ok_or_else(|| no_group(key, name))?;
    out.array(group.consumers.len());
    for (name, consumer) in &group.consumers {
        out.map(3);
        out.text("name");
        out.bulk(name);
        out.text("pending");
        out.count(consumer.pending.len());
        out.text("idle");
        out.int((now - consumer.seen).max(0));
    }
    Ok(())
}

/// Entries and groups of XINFO STREAM FULL.
pub(super) fn write_full(out: &mut Reply, stream: &Stream, count: usize) {
    out.text("entries");
    let entries: Vec<_> = stream.range(Id::ZERO, Id::MAX).take(count).collect();
    out.array(entries.len());
    for entry in entries {
        out.entry(entry);
    }
    out.text("groups");
    out.array(stream.groups().len());
    for (name, group) in stream.groups() {
        out.map(7);
        out.text("name");
        out.bulk(name);
        write_position(out, stream, group);
        out.text("pel-count");
        out.count(group.pending.len());
        out.text("pending");
        out.array(group.pending.len().min(count));
        for (id, pending) in group.pending.iter().take(count) {
            out.array(4);
            out.id(*id);
            out.bulk(&pending.consumer);
            out.int(pending.time);
            out.int(pending.count as i64);
        }
        out.text("consumers");
        out.array(group.consumers.len());
        for (name, consumer) in &group.consumers {
            write_consumer(out, (name, consumer), group, count);
        }
    }
}

fn write_consumer(
    out: &mut Reply,
    (name, consumer): (&[u8], &Consumer),
    group: &Group,
    count: usize,
) {
    out.map(4);
    out.text("name");
    out.bulk(name);
    out.text("seen-time");
    out.int(consumer.seen);
    out.text("pel-count");
    out.count(consumer.pending.len());
    out.text("pending");
    let own: Vec<(&Id, &Pending)> = consumer
        .pending
        .iter()
        .filter_map(|id| group.pending.get_key_value(id))
        .take(count)
        .collect();
    out.array(own.len());
    for (id, pending) in own {
        out.array(3);
        out.id(*id);
        out.int(pending.time);
        out.int(pending.count as i64);
    }
}
