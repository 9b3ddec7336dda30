//! Commands on streams alone: adding, ranges, deleting, trimming. `groups` has those of consumer groups, `reading` XREAD
//! and XREADGROUP.

use super::options::integer;
use crate::context::{Ctx, Outcome};
use crate::notify::STREAM;
use crate::store::number::{i64_text, parse_i64};
use crate::store::stream::{ENTRY_BYTES_MAX, Entry, Id, Stream, Trim, Wish};
use crate::wire::reply::{Fault, NO_KEY, Reply, SYNTAX};
use crate::wire::request::Args;

const INVALID: &str = "ERR Invalid stream ID specified as stream command argument";
/// Redis takes no longer text for an id.
const TEXT_MAX: usize = 127;

impl Reply {
    pub(super) fn id(&mut self, id: Id) {
        self.bulk(&id.text());
    }

    pub(super) fn entry(&mut self, entry: Entry<'_>) {
        self.array(2);
        self.id(entry.id);
        self.array(entry.pairs * 2);
        for item in entry.items() {
            match item {
                crate::store::pack::Item::Int(value) => self.bulk_int(value),
                crate::store::pack::Item::Text(text) => self.bulk(text),
            }
        }
    }
}

/// A number without a sign; what `strtoull` takes is taken.
fn whole(text: &[u8]) -> Option<u64> {
    if let Some(value) = parse_i64(text) {
        return u64::try_from(value).ok();
    }
    let text = std::str::from_utf8(text).ok()?;
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(if is_negative { value.wrapping_neg() } else { value })
}

/// An id of the form `ms-seq` or `ms`; `-` and `+` are the lowest and the highest.
pub(super) fn id(text: &[u8], missing: u64) -> Result<Id, Fault> {
    match text {
        b"-" => Ok(Id::ZERO),
        b"+" => Ok(Id::MAX),
        _ => strict_id(text, missing),
    }
}

pub(super) fn strict_id(text: &[u8], missing: u64) -> Result<Id, Fault> {
    match wish(text, missing)? {
        Wish::Exactly(id) => Ok(id),
        _ => Err(INVALID.into()),
    }
}

/// An id of which `ms-*` leaves the second part open.
fn wish(text: &[u8], missing: u64) -> Result<Wish, Fault> {
    let invalid = || Fault::from(INVALID);
    if text.len() > TEXT_MAX || text == b"-" || text == b"+" {
        return Err(invalid());
    }
    let Some(dash) = memchr::memchr(b'-', text) else {
        return Ok(Wish::Exactly(Id { ms: whole(text).ok_or_else(invalid)?, seq: missing }));
    };
    let ms = whole(&text[..dash]).ok_or_else(invalid)?;
    if &text[dash + 1..] == b"*" {
        return Ok(Wish::Within(ms));
    }
    Ok(Wish::Exactly(Id { ms, seq: whole(&text[dash + 1..]).ok_or_else(invalid)? }))
}

/// The first id of an interval; `(` excludes the one it names.
pub(super) fn interval_start(text: &[u8]) -> Result<Id, Fault> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            strict_id(rest, 0)?.next().ok_or_else(|| "ERR invalid start ID for the interval".into())
        }
        _ => id(text, 0),
    }
}

pub(super) fn interval_end(text: &[u8]) -> Result<Id, Fault> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => strict_id(rest, u64::MAX)?
            .previous()
            .ok_or_else(|| "ERR invalid end ID for the interval".into()),
        _ => id(text, u64::MAX),
    }
}

/// What XADD and XTRIM are asked for.
struct Options {
    trim: Option<Trim>,
    whole: bool,
    limit: usize,
    makes: bool,
    wish: Option<Wish>,
    /// Where the first argument behind the options is.
    end: usize,
}

fn options(ctx: &Ctx<'_>, args: Args<'_>, adds: bool) -> Result<Options, Fault> {
    let mut options =
        Options { trim: None, whole: false, limit: 0, makes: true, wish: None, end: args.len() };
    let mut limit = None;
    let mut at = 2;
    while at < args.len() {
        let more = args.len() - 1 - at;
        match () {
            () if adds && args.at(at) == b"*" => {
                options.end = at;
                break;
            }
            () if more > 0 && (args.is(at, "MAXLEN") || args.is(at, "MINID")) => {
                at = trim_option(args, at, &mut options)?;
            }
            () if more > 0 && args.is(at, "LIMIT") => {
                let given = usize::try_from(integer(args.at(at + 1))?);
                limit = Some(given.map_err(|_| "ERR The LIMIT argument must be >= 0.")?);
                at += 1;
            }
            () if adds && args.is(at, "NOMKSTREAM") => options.makes = false,
            () if adds => {
                options.wish = Some(wish(args.at(at), 0)?);
                options.end = at;
                break;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    if limit.is_some_and(|limit| limit > 0) && options.trim.is_none() {
        return Err(
            "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy".into(),
        );
    }
    if !adds && options.trim.is_none() {
        return Err("ERR syntax error, XTRIM must be called with a trimming strategy".into());
    }
    options.limit = match limit {
        Some(_) if !options.whole => {
            return Err(
                "ERR syntax error, LIMIT cannot be used without the special ~ option".into()
            );
        }
        Some(limit) => limit,
        None if options.whole => match ctx.engine.settings.stream_node.1 {
            0 => 10_000,
            entries => (entries * 100).min(1_000_000),
        },
        None => 0,
    };
    Ok(options)
}

/// Reads MAXLEN or MINID with what belongs to it; gives where its last argument is.
fn trim_option(args: Args<'_>, at: usize, options: &mut Options) -> Result<usize, Fault> {
    if options.trim.is_some() {
        return Err(
            "ERR syntax error, MAXLEN and MINID options at the same time are not compatible".into(),
        );
    }
    let has_mark = at + 2 < args.len() && (args.at(at + 1) == b"~" || args.at(at + 1) == b"=");
    options.whole = has_mark && args.at(at + 1) == b"~";
    let value = at + 1 + usize::from(has_mark);
    options.trim = Some(if args.is(at, "MAXLEN") {
        let most = usize::try_from(integer(args.at(value))?);
        Trim::Length(most.map_err(|_| "ERR The MAXLEN argument must be >= 0.")?)
    } else {
        Trim::From(strict_id(args.at(value), 0)?)
    });
    Ok(value)
}

pub(crate) fn xadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let options = options(ctx, args, true)?;
    let items = args.from(options.end + 1);
    if items.len() < 2 || !items.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'xadd' command".into());
    }
    if options.wish == Some(Wish::Exactly(Id::ZERO)) {
        return Err("ERR The ID specified in XADD must be greater than 0-0".into());
    }
    let key = args.at(1);
    let last = ctx.collection::<Stream>(key)?.map(|stream| stream.last);
    if last.is_none() && !options.makes {
        ctx.out().null();
        return Ok(());
    }
    if last == Some(Id::MAX) {
        return Err(
            "ERR The stream has exhausted the last possible ID, unable to add more items".into()
        );
    }
    if items.iter().map(<[u8]>::len).sum::<usize>() > ENTRY_BYTES_MAX {
        return Err("ERR Elements are too large to be stored".into());
    }
    let wish = options.wish.unwrap_or_else(|| Wish::Any(u64::try_from(ctx.now).unwrap_or(0)));
    let limits = node_limits(ctx);
    let added = ctx.edit_or_new(key, |stream: &mut Stream| {
        let id = stream.choose(wish)?;
        stream.append(id, items.iter(), limits);
        let trimmed =
            options.trim.map_or(0, |trim| stream.trim(trim, options.whole, options.limit));
        Some((id, trimmed, stream.length))
    })?;
    let (id, trimmed, length) = added.ok_or(
        "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    )?;
    ctx.changed_with(STREAM, "xadd", key);
    let text = id.text();
    let effect: Vec<&[u8]> = [&b"XADD"[..], key, &text].into_iter().chain(items.iter()).collect();
    ctx.effect(&effect);
    if trimmed > 0 {
        ctx.notify(STREAM, "xtrim", key);
        log_trim(ctx, key, length);
    }
    ctx.offer(key);
    ctx.out().bulk(&text);
    Ok(())
}

/// Bytes and entries of a node, as Redis understands a 0.
pub(super) fn node_limits(ctx: &Ctx<'_>) -> (usize, usize) {
    let (bytes, entries) = ctx.engine.settings.stream_node;
    (if bytes == 0 { ENTRY_BYTES_MAX } else { bytes.min(ENTRY_BYTES_MAX) }, entries)
}

/// Whatever was asked for, what is left is known: the log gets that.
fn log_trim(ctx: &mut Ctx<'_>, key: &[u8], length: usize) {
    ctx.effect(&[b"XTRIM", key, b"MAXLEN", b"=", &i64_text(length as i64)]);
}

pub(crate) fn xtrim(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let options = options(ctx, args, false)?;
    let key = args.at(1);
    let edited = ctx.edit(key, |stream: &mut Stream| {
        let trimmed =
            options.trim.map_or(0, |trim| stream.trim(trim, options.whole, options.limit));
        (trimmed, stream.length)
    })?;
    let (trimmed, length) = edited.map_or((0, 0), |edited| edited.result);
    if trimmed > 0 {
        ctx.changed_with(STREAM, "xtrim", key);
        log_trim(ctx, key, length);
    }
    ctx.out().count(trimmed);
    Ok(())
}

pub(crate) fn xlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (stream, out) = ctx.collection_and_out::<Stream>(args.at(1))?;
    out.count(stream.map_or(0, |stream| stream.length));
    Ok(())
}

pub(crate) fn xrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    range(ctx, args, (2, 3), false)
}

pub(crate) fn xrevrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    range(ctx, args, (3, 2), true)
}

fn range(ctx: &mut Ctx<'_>, args: Args<'_>, places: (usize, usize), falls: bool) -> Outcome {
    let (from, to) = (interval_start(args.at(places.0))?, interval_end(args.at(places.1))?);
    let mut count = usize::MAX;
    let mut at = 4;
    while at < args.len() {
        if !args.is(at, "COUNT") || at + 1 >= args.len() {
            return Err(SYNTAX);
        }
        count = usize::try_from(integer(args.at(at + 1))?).unwrap_or(0);
        at += 2;
    }
    let (stream, out) = ctx.collection_and_out::<Stream>(args.at(1))?;
    let Some(stream) = stream else {
        out.array(0);
        return Ok(());
    };
    if count == 0 {
        out.null_array();
        return Ok(());
    }
    let found: Vec<Entry<'_>> = if falls {
        stream.range_falling(from, to).take(count).collect()
    } else {
        stream.range(from, to).take(count).collect()
    };
    out.array(found.len());
    for entry in found {
        out.entry(entry);
    }
    Ok(())
}

pub(crate) fn xdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    if ctx.collection::<Stream>(key)?.is_none() {
        ctx.out().int(0);
        return Ok(());
    }
    let ids: Result<Vec<Id>, Fault> = args.from(2).iter().map(|text| strict_id(text, 0)).collect();
    let ids = ids?;
    let edited =
        ctx.edit(key, |stream: &mut Stream| ids.iter().filter(|id| stream.delete(**id)).count())?;
    let deleted = edited.map_or(0, |edited| edited.result);
    if deleted > 0 {
        ctx.changed_with(STREAM, "xdel", key);
        ctx.verbatim();
    }
    ctx.out().count(deleted);
    Ok(())
}

pub(crate) fn xsetid(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let id = strict_id(args.at(2), 0)?;
    let (mut added, mut deleted) = (None, Id::ZERO);
    let mut at = 3;
    while at < args.len() {
        let has_value = at + 1 < args.len();
        match () {
            () if has_value && args.is(at, "ENTRIESADDED") => {
                let given = u64::try_from(integer(args.at(at + 1))?);
                added = Some(given.map_err(|_| "ERR entries_added must be positive")?);
            }
            () if has_value && args.is(at, "MAXDELETEDID") => {
                deleted = strict_id(args.at(at + 1), 0)?;
                if id < deleted {
                    return Err("ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id".into());
                }
            }
            () => return Err(SYNTAX),
        }
        at += 2;
    }
    let key = args.at(1);
    let stream = ctx.collection::<Stream>(key)?.ok_or(NO_KEY)?;
    if stream.length > 0 {
        if id < stream.top() {
            return Err(
                "ERR The ID specified in XSETID is smaller than the target stream top item".into(),
            );
        }
        if added.is_some_and(|added| (stream.length as u64) > added) {
            return Err("ERR The entries_added specified in XSETID is smaller than the target stream length".into());
        }
    }
    ctx.edit(key, |stream: &mut Stream| {
        stream.last = id;
        stream.added = added.unwrap_or(stream.added);
        if deleted != Id::ZERO {
            stream.deleted = deleted;
        }
    })?;
    ctx.changed_with(STREAM, "xsetid", key);
    ctx.verbatim();
    ctx.out().ok();
    Ok(())
}

/// XINFO STREAM.
pub(crate) fn xinfo_stream(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    ctx.collection::<Stream>(args.at(2))?.ok_or(NO_KEY)?;
    let mut count = None;
    match args.len() {
        3 => {}
        4 if args.is(3, "FULL") => count = Some(10),
        6 if args.is(3, "FULL") && args.is(4, "COUNT") => {
            count = Some(usize::try_from(integer(args.at(5))?).unwrap_or(10));
        }
        _ => return Err(super::groups::misused(args)),
    }
    let (stream, out) = ctx.collection_and_out::<Stream>(args.at(2))?;
    let stream = stream.ok_or(NO_KEY)?;
    out.map(if count.is_some() { 9 } else { 10 });
    out.text("length");
    out.count(stream.length);
    out.text("radix-tree-keys");
    out.count(stream.nodes().len());
    out.text("radix-tree-nodes");
    out.count(stream.tree_nodes());
    for (name, id) in [("last-generated-id", stream.last), ("max-deleted-entry-id", stream.deleted)]
    {
        out.text(name);
        out.id(id);
    }
    out.text("entries-added");
    out.int(stream.added as i64);
    out.text("recorded-first-entry-id");
    out.id(stream.first);
    if let Some(count) = count {
        super::groups::write_full(out, stream, if count == 0 { usize::MAX } else { count });
        return Ok(());
    }
    out.text("groups");
    out.count(stream.groups().len());
    let ends = [
        ("first-entry", stream.range(Id::ZERO, Id::MAX).next()),
        ("last-entry", stream.range_falling(Id::ZERO, Id::MAX).next()),
    ];
    for (name, entry) in ends {
        out.text(name);
        match entry {
            Some(entry) => out.entry(entry),
            None => out.null(),
        }
    }
    Ok(())
}
