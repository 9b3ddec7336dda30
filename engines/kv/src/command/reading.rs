//! XREAD and XREADGROUP, which wait for entries if they are asked to.

use super::groups::{log_delivery, log_position, made_consumer, moment};
use super::options::integer;
use super::streams::strict_id;
use super::waiting::wait_as;
use crate::context::{Ctx, Outcome};
use crate::session::Timeout;
use crate::store::number::parse_i64;
use crate::store::stream::{Group, Id, Pending, Stream};
use crate::wire::reply::{Fault, SYNTAX};
use crate::wire::request::{Args, Owned};

const KEY_GONE: &str = "UNBLOCKED the stream key no longer exists";
const GROUP_GONE: &str = "NOGROUP the consumer group this client was blocked on no longer exists";

/// What both commands are asked for.
struct Reading<'a> {
    /// Milliseconds to wait; 0 is for ever.
    block: Option<i64>,
    count: usize,
    group: Option<(&'a [u8], &'a [u8])>,
    /// Nothing needs to be acknowledged.
    is_sure: bool,
    /// Where the keys begin; as many ids follow.
    streams: usize,
}

impl<'a> Reading<'a> {
    fn of(args: Args<'a>) -> Result<Self, Fault> {
        let is_group = args.is(0, "XREADGROUP");
        let mut reading =
            Self { block: None, count: usize::MAX, group: None, is_sure: false, streams: 0 };
        let mut at = 1;
        while at < args.len() {
            let value = args.get(at + 1);
            match value {
                Some(value) if args.is(at, "BLOCK") => {
                    let given =
                        parse_i64(value).ok_or("ERR timeout is not an integer or out of range")?;
                    if given < 0 {
                        return Err("ERR timeout is negative".into());
                    }
                    reading.block = Some(given);
                    at += 1;
                }
                Some(value) if args.is(at, "COUNT") => {
                    let given = usize::try_from(integer(value)?).unwrap_or(0);
                    reading.count = if given == 0 { usize::MAX } else { given };
                    at += 1;
                }
                Some(_) if args.is(at, "STREAMS") => {
                    if !(args.len() - at - 1).is_multiple_of(2) {
                        return Err("ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.".into());
                    }
                    reading.streams = at + 1;
                    break;
                }
                Some(group) if args.is(at, "GROUP") && at + 2 < args.len() => {
                    if !is_group {
                        return Err("ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.".into());
                    }
                    reading.group = Some((group, args.at(at + 2)));
                    at += 2;
                }
                _ if args.is(at, "NOACK") => {
                    if !is_group {
                        return Err("ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.".into());
                    }
                    reading.is_sure = true;
                }
                _ => return Err(SYNTAX),
            }
            at += 1;
        }
        match () {
            () if reading.streams == 0 => Err(SYNTAX),
            () if is_group && reading.group.is_none() => {
                Err("ERR Missing GROUP option for XREADGROUP".into())
            }
            () => Ok(reading),
        }
    }

    fn pairs(&self, args: Args<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let (from, count) = (self.streams, (args.len() - self.streams) / 2);
        (from..from + count).map(move |at| (args.at(at), args.at(at + count)))
    }

    fn deadline(&self, now: i64) -> Result<Option<i64>, Fault> {
        match self.block {
            None | Some(0) => Ok(None),
            Some(millis) => {
                let deadline = now.checked_add(millis);
                deadline.map(Some).ok_or_else(|| "ERR timeout is out of range".into())
            }
        }
    }
}

/// Where the keys of a whole command begin.
pub(super) fn streams_at(args: Args<'_>) -> Option<usize> {
    Reading::of(args).ok().map(|reading| reading.streams)
}

/// Whether it is asked to wait.
pub(crate) fn waits(args: Args<'_>) -> bool {
    Reading::of(args).is_ok_and(|reading| reading.block.is_some())
}

/// The head of the reply: keys with their entries.
fn write_head(ctx: &mut Ctx<'_>, count: usize) {
    let out = ctx.out();
    if out.is_resp3 { out.map(count) } else { out.array(count) }
}

fn write_key(ctx: &mut Ctx<'_>, key: &[u8]) {
    let out = ctx.out();
    if !out.is_resp3 {
        out.array(2);
    }
    out.bulk(key);
}

/// Whether a stream has an entry above an id.
fn has_above(stream: &Stream, id: Id) -> bool {
    stream.length > 0 && stream.last > id && stream.top() > id
}

pub(crate) fn xread(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let reading = Reading::of(args)?;
    let deadline = reading.deadline(ctx.now)?;
    let mut wanted: Vec<(&[u8], Id)> = Vec::new();
    for (key, text) in reading.pairs(args) {
        let last = ctx.collection::<Stream>(key)?.map(|stream| stream.last);
        let from = match text {
            b"$" => last.unwrap_or_default(),
            b">" => {
                return Err("ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.".into());
            }
            text => strict_id(text, 0)?,
        };
        wanted.push((key, from));
    }
    let mut found: Vec<(&[u8], Id)> = Vec::new();
    for (key, from) in &wanted {
        if ctx.collection::<Stream>(key)?.is_some_and(|stream| has_above(stream, *from)) {
            found.push((key, *from));
        }
    }
    if found.is_empty() {
        // Who waits goes on from here, whatever `$` will mean then.
        let ids: Vec<Vec<u8>> = wanted.iter().map(|(_, from)| from.text()).collect();
        let head = args.iter().take(reading.streams + wanted.len());
        let request = Owned::new(head.chain(ids.iter().map(Vec::as_slice)));
        let keys: Vec<&[u8]> = wanted.iter().map(|(key, _)| *key).collect();
        return rest(ctx, &reading, (request, &keys), deadline);
    }
    write_head(ctx, found.len());
    for (key, from) in found {
        write_key(ctx, key);
        let (stream, out) = ctx.collection_and_out::<Stream>(key)?;
        let from = from.next().unwrap_or(Id::MAX);
        let entries: Vec<_> = stream
            .into_iter()
            .flat_map(|stream| stream.range(from, Id::MAX))
            .take(reading.count)
            .collect();
        out.array(entries.len());
        for entry in entries {
            out.entry(entry);
        }
    }
    Ok(())
}

/// There is nothing: waits, or says so.
fn rest(
    ctx: &mut Ctx<'_>,
    reading: &Reading<'_>,
    (request, keys): (Owned, &[&[u8]]),
    deadline: Option<i64>,
) -> Outcome {
    if reading.block.is_some() {
        wait_as(ctx, request, keys, (deadline, Timeout::NullArray));
    } else {
        ctx.out().null_array();
    }
    Ok(())
}

/// Which entries a consumer gets: new ones, or again those above an id that it has not acknowledged.
#[derive(Clone, Copy)]
enum Wanted {
    New,
    Own(Id),
}

pub(crate) fn xreadgroup(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let reading = Reading::of(args)?;
    let deadline = reading.deadline(ctx.now)?;
    let (group, consumer) = reading.group.ok_or(SYNTAX)?;
    let mut wanted: Vec<(&[u8], Wanted)> = Vec::new();
    for (key, text) in reading.pairs(args) {
        check_group(ctx, key, group)?;
        let kind = match text {
            b"$" => {
                return Err("ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.".into());
            }
            b">" => Wanted::New,
            text => match strict_id(text, 0)? {
                Id::MAX => Wanted::New,
                id => Wanted::Own(id),
            },
        };
        wanted.push((key, kind));
    }
    let mut found: Vec<(&[u8], Vec<Id>)> = Vec::new();
    for (key, kind) in &wanted {
        let place = Place { key, group, consumer };
        if let Some(ids) = deliver(ctx, &place, *kind, &reading)? {
            found.push((key, ids));
        }
    }
    if found.is_empty() {
        let keys: Vec<&[u8]> = wanted.iter().map(|(key, _)| *key).collect();
        return rest(ctx, &reading, (Owned::new(args.iter()), &keys), deadline);
    }
    write_head(ctx, found.len());
    for (key, ids) in found {
        write_key(ctx, key);
        let (stream, out) = ctx.collection_and_out::<Stream>(key)?;
        out.array(ids.len());
        for id in ids {
            if let Some(entry) = stream.and_then(|stream| stream.get(id)) {
                out.entry(entry);
            } else {
                // It was deleted and not acknowledged.
                out.array(2);
                out.id(id);
                out.null_array();
            }
        }
    }
    Ok(())
}

/// The key and the group have to be there; who has waited for them is told that they went.
fn check_group(ctx: &mut Ctx<'_>, key: &[u8], group: &[u8]) -> Outcome {
    let has_waited = ctx.session.is_woken;
    let stream = match ctx.collection::<Stream>(key) {
        Ok(stream) => stream,
        Err(_) if has_waited => return Err(KEY_GONE.into()),
        Err(fault) => return Err(fault),
    };
    let is_there = stream.is_some();
    if stream.is_some_and(|stream| stream.group(group).is_some()) {
        return Ok(());
    }
    if has_waited {
        return Err(if is_there { GROUP_GONE } else { KEY_GONE }.into());
    }
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Err(format!(
        "NOGROUP No such key '{key}' or consumer group '{group}' in XREADGROUP with GROUP option"
    )
    .into())
}

struct Place<'a> {
    key: &'a [u8],
    group: &'a [u8],
    consumer: &'a [u8],
}

/// What was delivered of one stream.
#[derive(Default)]
struct Delivered {
    is_made: bool,
    is_served: bool,
    /// Ids with the number of their deliveries.
    ids: Vec<(Id, u64)>,
    position: (Id, Option<u64>),
}

/// Gives a consumer entries of one stream, with events and effects; nothing when there are none to give.
fn deliver(
    ctx: &mut Ctx<'_>,
    place: &Place<'_>,
    wanted: Wanted,
    reading: &Reading<'_>,
) -> Result<Option<Vec<Id>>, Fault> {
    let (now, seen, count, is_sure) = (ctx.now, moment(ctx), reading.count, reading.is_sure);
    let edited = ctx.edit(place.key, |stream: &mut Stream| {
        let mut delivered = Delivered::default();
        let last = stream.group(place.group).map(|group| group.last).unwrap_or_default();
        if matches!(wanted, Wanted::New) && !has_above(stream, last) {
            return delivered;
        }
        delivered.is_served = true;
        let made = stream.edit_group(place.group, |group| group.consumer(place.consumer, seen));
        delivered.is_made = made.is_some_and(|(_, is_made)| is_made);
        match wanted {
            Wanted::New => deliver_new(stream, place, (now, count, is_sure), &mut delivered),
            Wanted::Own(above) => {
                let there = own(stream, place, above, count);
                stream.edit_group(place.group, |group| {
                    again(group, &there, now, &mut delivered);
                });
            }
        }
        delivered
    })?;
    let Some(delivered) = edited.map(|edited| edited.result) else { return Ok(None) };
    if delivered.is_made {
        made_consumer(ctx, (place.key, place.group), place.consumer);
    }
    if !delivered.is_served {
        return Ok(None);
    }
    let is_new = matches!(wanted, Wanted::New);
    if !is_new || !is_sure {
        for (id, count) in delivered.ids.iter().filter(|(_, count)| *count > 0) {
            let entry = (*id, now, *count);
            log_delivery(ctx, (place.key, place.group), place.consumer, entry);
        }
    }
    if is_new && !delivered.ids.is_empty() {
        log_position(ctx, (place.key, place.group), delivered.position);
    }
    ctx.engine.stats.dirty += 1;
    Ok(Some(delivered.ids.into_iter().map(|(id, _)| id).collect()))
}

fn deliver_new(
    stream: &mut Stream,
    place: &Place<'_>,
    (now, count, is_sure): (i64, usize, bool),
    delivered: &mut Delivered,
) {
    let Some(last) = stream.group(place.group).map(|group| group.last) else { return };
    let from = last.next().unwrap_or(Id::MAX);
    let ids: Vec<Id> = stream.range(from, Id::MAX).take(count).map(|entry| entry.id).collect();
    for id in &ids {
        stream.deliver(place.group, *id);
    }
    delivered.ids = ids.iter().map(|id| (*id, 1)).collect();
    let position = stream.edit_group(place.group, |group| {
        if !is_sure {
            let known = group.consumers.get_key_value(place.consumer);
            let consumer = known.map(|(name, _)| name.clone()).unwrap_or_default();
            for id in ids {
                group.assign(id, Pending { consumer: consumer.clone(), time: now, count: 1 });
            }
        }
        (group.last, group.read)
    });
    delivered.position = position.unwrap_or_default();
}

/// What a consumer has not acknowledged above an id, and whether it is still there.
fn own(stream: &Stream, place: &Place<'_>, above: Id, count: usize) -> Vec<(Id, bool)> {
    let consumer = stream.group(place.group).and_then(|group| group.consumers.get(place.consumer));
    let Some(from) = above.next() else { return Vec::new() };
    let ids = consumer.into_iter().flat_map(|consumer| consumer.pending.range(from..));
    ids.take(count).map(|id| (*id, stream.get(*id).is_some())).collect()
}

/// Counts another delivery of entries that are there.
fn again(group: &mut Group, ids: &[(Id, bool)], now: i64, delivered: &mut Delivered) {
    for (id, is_there) in ids {
        let mut count = 0;
        if let Some(pending) = group.pending.get_mut(id).filter(|_| *is_there) {
            pending.time = now;
            pending.count += 1;
            count = pending.count;
        }
        delivered.ids.push((*id, count));
    }
}
