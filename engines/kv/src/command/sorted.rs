//! Commands on sorted sets.

use super::options::{Scan, cursor, integer, nothing_scanned, numbered_keys, range, timeout};
use super::random::{Wanted, picks, wanted};
use super::waiting::{MultiPop, pop_first, wait};
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, SORTED};
use crate::session::Timeout;
use crate::store::number::{f64_text, parse_f64, parse_i64};
use crate::store::object::Kind;
use crate::store::sorted::Sorted;
use crate::wire::reply::{Fault, NOT_FLOAT, NOT_INTEGER, Reply, SYNTAX};
use crate::wire::request::Args;

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(super) struct AddOptions {
    pub(super) missing: bool,
    pub(super) exists: bool,
    greater: bool,
    less: bool,
    pub(super) counts_changes: bool,
    increments: bool,
}

/// What became of one member.
enum Added {
    New(f64),
    Changed(f64),
    Same(f64),
    Refused,
}

pub(crate) fn zadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut options = AddOptions::default();
    let mut at = 2;
    while at < args.len() {
        match () {
            () if args.is(at, "NX") => options.missing = true,
            () if args.is(at, "XX") => options.exists = true,
            () if args.is(at, "GT") => options.greater = true,
            () if args.is(at, "LT") => options.less = true,
            () if args.is(at, "CH") => options.counts_changes = true,
            () if args.is(at, "INCR") => options.increments = true,
            () => break,
        }
        at += 1;
    }
    let rest = args.len() - at;
    if rest == 0 || !rest.is_multiple_of(2) {
        return Err(SYNTAX);
    }
    if options.missing && options.exists {
        return Err("ERR XX and NX options at the same time are not compatible".into());
    }
    if (options.greater && options.less) || (options.missing && (options.greater || options.less)) {
        return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
    }
    if options.increments && rest > 2 {
        return Err("ERR INCR option supports a single increment-element pair".into());
    }
    let pairs: Result<Vec<(f64, &[u8])>, Fault> = (at..args.len())
        .step_by(2)
        .map(|at| Ok((parse_f64(args.at(at)).ok_or(NOT_FLOAT)?, args.at(at + 1))))
        .collect();
    add(ctx, args.at(1), &pairs?, &options)
}

pub(crate) fn zincrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let by = parse_f64(args.at(2)).ok_or(NOT_FLOAT)?;
    let options = AddOptions { increments: true, ..AddOptions::default() };
    add(ctx, args.at(1), &[(by, args.at(3))], &options)
}

/// Adds members with scores, with events and effect, and answers how many.
pub(super) fn add(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    pairs: &[(f64, &[u8])],
    options: &AddOptions,
) -> Outcome {
    let mut effect: Vec<Vec<u8>> = Vec::new();
    let (mut added, mut changed) = (0, 0);
    let mut last = Added::Refused;
    let is_there = ctx.collection::<Sorted>(key)?.is_some();
    if is_there || !options.exists {
        ctx.edit_or_new(key, |sorted: &mut Sorted| {
            for &(score, member) in pairs {
                last = add_one(sorted, score, member, options)?;
                let score = match last {
                    Added::New(score) => {
                        added += 1;
                        score
                    }
                    Added::Changed(score) => {
                        changed += 1;
                        score
                    }
                    Added::Same(_) | Added::Refused => continue,
                };
                effect.push(f64_text(score).into_bytes());
                effect.push(member.to_vec());
            }
            Ok::<(), Fault>(())
        })??;
    }
    if !effect.is_empty() {
        let event = if options.increments { "zincr" } else { "zadd" };
        ctx.changed_with(SORTED, event, key);
        let args: Vec<&[u8]> =
            [&b"ZADD"[..], key].into_iter().chain(effect.iter().map(Vec::as_slice)).collect();
        ctx.effect(&args);
        ctx.offer(key);
    }
    match (options.increments, last) {
        (true, Added::Refused) => ctx.out().null(),
        (true, Added::New(score) | Added::Changed(score) | Added::Same(score)) => {
            ctx.out().double(score);
        }
        (false, _) => ctx.out().count(if options.counts_changes { added + changed } else { added }),
    }
    Ok(())
}

fn add_one(
    sorted: &mut Sorted,
    score: f64,
    member: &[u8],
    options: &AddOptions,
) -> Result<Added, Fault> {
    // Adding nothing makes a negative zero positive.
    let score = score + 0.0;
    let Some(old) = sorted.score(member) else {
        if options.exists {
            return Ok(Added::Refused);
        }
        sorted.set(member, score);
        return Ok(Added::New(score));
    };
    if options.missing {
        return Ok(Added::Refused);
    }
    let new = if options.increments { old + score } else { score };
    if new.is_nan() {
        return Err("ERR resulting score is not a number (NaN)".into());
    }
    if (options.greater && new <= old) || (options.less && new >= old) {
        return Ok(Added::Refused);
    }
    if new.partial_cmp(&old).is_some_and(std::cmp::Ordering::is_eq) {
        return Ok(Added::Same(new));
    }
    sorted.set(member, new);
    Ok(Added::Changed(new))
}

pub(crate) fn zrem(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let edited = ctx.edit(key, |sorted: &mut Sorted| {
        args.from(2).iter().filter(|member| sorted.remove(member).is_some()).count()
    })?;
    let removed = edited.as_ref().map_or(0, |edited| edited.result);
    if removed > 0 {
        ctx.changed_with(SORTED, "zrem", key);
        if edited.is_some_and(|edited| edited.is_gone) {
            ctx.notify(GENERIC, "del", key);
        }
        ctx.verbatim();
    }
    ctx.out().count(removed);
    Ok(())
}

pub(crate) fn zcard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    out.count(sorted.map_or(0, Sorted::len));
    Ok(())
}

fn maybe_score(out: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => out.double(score),
        None => out.null(),
    }
}

pub(crate) fn zscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    maybe_score(out, sorted.and_then(|sorted| sorted.score(args.at(2))));
    Ok(())
}

pub(crate) fn zmscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    out.array(args.len() - 2);
    for member in args.from(2).iter() {
        maybe_score(out, sorted.and_then(|sorted| sorted.score(member)));
    }
    Ok(())
}

pub(crate) fn zrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    rank(ctx, args, false)
}

pub(crate) fn zrevrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    rank(ctx, args, true)
}

fn rank(ctx: &mut Ctx<'_>, args: Args<'_>, falls: bool) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    match sorted.and_then(|sorted| Some((sorted.rank(args.at(2))?, sorted.len()))) {
        Some((rank, length)) => out.count(if falls { length - 1 - rank } else { rank }),
        None => out.null(),
    }
    Ok(())
}

/// Which members: by rank, by score, or by name among equal scores.
enum Span {
    Ranks(i64, i64),
    Scores((f64, bool), (f64, bool)),
    Names(Edge, Edge),
}

#[derive(Clone)]
enum Edge {
    Lowest,
    Highest,
    At(Vec<u8>, bool),
}

impl Span {
    fn scores(least: &[u8], most: &[u8]) -> Result<Self, Fault> {
        let edge = |text: &[u8]| {
            let (text, excludes) =
                text.strip_prefix(b"(").map_or((text, false), |text| (text, true));
            parse_f64(text).map(|score| (score, excludes))
        };
        match (edge(least), edge(most)) {
            (Some(least), Some(most)) => Ok(Self::Scores(least, most)),
            _ => Err("ERR min or max is not a float".into()),
        }
    }

    fn names(least: &[u8], most: &[u8]) -> Result<Self, Fault> {
        let edge = |text: &[u8]| match text {
            b"-" => Some(Edge::Lowest),
            b"+" => Some(Edge::Highest),
            [b'(', name @ ..] => Some(Edge::At(name.to_vec(), true)),
            [b'[', name @ ..] => Some(Edge::At(name.to_vec(), false)),
            _ => None,
        };
        match (edge(least), edge(most)) {
            (Some(least), Some(most)) => Ok(Self::Names(least, most)),
            _ => Err("ERR min or max not valid string range item".into()),
        }
    }

    /// The ranks of what it holds, the end exclusive.
    fn ranks(&self, sorted: &Sorted) -> std::ops::Range<usize> {
        let (from, to) = match self {
            Self::Ranks(from, to) => return range(*from, *to, sorted.len()),
            Self::Scores(least, most) => (
                sorted.count_while(|score, _| score < least.0 || (least.1 && score <= least.0)),
                sorted.count_while(|score, _| score < most.0 || (!most.1 && score <= most.0)),
            ),
            Self::Names(least, most) => (
                sorted.count_while(|_, name| match least {
                    Edge::Lowest => false,
                    Edge::Highest => true,
                    Edge::At(edge, excludes) => {
                        name < &edge[..] || (*excludes && name == &edge[..])
                    }
                }),
                sorted.count_while(|_, name| match most {
                    Edge::Lowest => false,
                    Edge::Highest => true,
                    Edge::At(edge, excludes) => {
                        name < &edge[..] || (!*excludes && name == &edge[..])
                    }
                }),
            ),
        };
        from..to.max(from)
    }
}

/// A whole question: which, in which direction, how many.
struct Question {
    span: Span,
    falls: bool,
    offset: i64,
    /// Negative is all.
    limit: i64,
    with_scores: bool,
}

impl Question {
    fn plain(span: Span, falls: bool) -> Self {
        Self { span, falls, offset: 0, limit: -1, with_scores: false }
    }

    fn members(&self, sorted: &Sorted) -> Vec<(Vec<u8>, f64)> {
        // Falling ranks count from the end.
        let length = sorted.len();
        let ranks = match (&self.span, self.falls) {
            (Span::Ranks(..), true) => {
                let falling = self.span.ranks(sorted);
                length - falling.end..length - falling.start
            }
            _ => self.span.ranks(sorted),
        };
        if self.offset < 0 {
            return Vec::new();
        }
        let offset = (self.offset as usize).min(ranks.len());
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let count = (ranks.len() - offset).min(most);
        let owned = |(member, score): (&[u8], f64)| (member.to_vec(), score);
        if self.falls {
            let from = length - ranks.end + offset;
            sorted.range_falling(from, from + count).map(owned).collect()
        } else {
            let from = ranks.start + offset;
            sorted.range(from, from + count).map(owned).collect()
        }
    }
}

/// Reads ZRANGE's options from an index on.
fn question(
    args: Args<'_>,
    (first, options): (usize, usize),
    stores: bool,
) -> Result<Question, Fault> {
    let (mut by_score, mut by_name, mut falls, mut with_scores) = (false, false, false, false);
    let mut limit = None;
    let mut at = options;
    while at < args.len() {
        match () {
            () if !stores && args.is(at, "WITHSCORES") => with_scores = true,
            () if args.is(at, "BYSCORE") => by_score = true,
            () if args.is(at, "BYLEX") => by_name = true,
            () if args.is(at, "REV") => falls = true,
            () if args.is(at, "LIMIT") && at + 2 < args.len() => {
                limit = Some((integer(args.at(at + 1))?, integer(args.at(at + 2))?));
                at += 2;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    if limit.is_some() && !by_score && !by_name {
        return Err(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
                .into(),
        );
    }
    if with_scores && by_name {
        return Err("ERR syntax error, WITHSCORES not supported in combination with BYLEX".into());
    }
    let (mut low, mut high) = (args.at(first), args.at(first + 1));
    if falls && (by_score || by_name) {
        std::mem::swap(&mut low, &mut high);
    }
    let span = match () {
        () if by_score => Span::scores(low, high)?,
        () if by_name => Span::names(low, high)?,
        () => Span::Ranks(integer(low)?, integer(high)?),
    };
    let (offset, limit) = limit.unwrap_or((0, -1));
    Ok(Question { span, falls, offset, limit, with_scores })
}

fn answer(ctx: &mut Ctx<'_>, key: &[u8], question: &Question) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(key)?;
    let members = sorted.map(|sorted| question.members(sorted)).unwrap_or_default();
    write_members(out, &members, question.with_scores);
    Ok(())
}

fn write_members(out: &mut Reply, members: &[(Vec<u8>, f64)], with_scores: bool) {
    let is_nested = with_scores && out.is_resp3;
    out.array(if with_scores && !is_nested { members.len() * 2 } else { members.len() });
    for (member, score) in members {
        if is_nested {
            out.array(2);
        }
        out.bulk(member);
        if with_scores {
            out.double(*score);
        }
    }
}

pub(crate) fn zrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let question = question(args, (2, 4), false)?;
    answer(ctx, args.at(1), &question)
}

pub(crate) fn zrangestore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let question = question(args, (3, 5), true)?;
    let members = ctx
        .collection::<Sorted>(args.at(2))?
        .map(|sorted| question.members(sorted))
        .unwrap_or_default();
    let sorted = collected(&members);
    store(ctx, args.at(1), sorted, "zrangestore")
}

fn collected(members: &[(Vec<u8>, f64)]) -> Sorted {
    let mut sorted = Sorted::default();
    for (member, score) in members {
        sorted.set(member, *score);
    }
    sorted
}

/// Puts a computed sorted set under a key and answers its length; an empty one removes the key.
pub(crate) fn store(ctx: &mut Ctx<'_>, key: &[u8], mut sorted: Sorted, event: &str) -> Outcome {
    sorted.settle_zeros();
    let count = sorted.len();
    ctx.out().count(count);
    if count == 0 {
        if ctx.remove(key) {
            ctx.notify(GENERIC, "del", key);
            ctx.effect(&[b"DEL", key]);
        }
        return Ok(());
    }
    ctx.effect(&[b"DEL", key]);
    let mut effects = Vec::new();
    let object = crate::store::object::Collection::wrap(sorted);
    crate::store::snapshot::put_object(&mut effects, ctx.session.db, key, &object);
    ctx.engine.append_effects(&effects);
    if let Some(found) = ctx.find(key) {
        ctx.engine.store.remove(ctx.session.db, found);
    }
    let hash = ctx.hash(key);
    let db = ctx.session.db;
    ctx.engine.store.insert_object(db, (hash, key), object).ok_or(crate::wire::reply::FULL)?;
    ctx.changed_with(SORTED, event, key);
    ctx.offer(key);
    Ok(())
}

pub(crate) fn zrevrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let with_scores = match args.len() {
        4 => false,
        5 if args.is(4, "WITHSCORES") => true,
        _ => return Err(SYNTAX),
    };
    let span = Span::Ranks(integer(args.at(2))?, integer(args.at(3))?);
    answer(ctx, args.at(1), &Question { with_scores, ..Question::plain(span, true) })
}

pub(crate) fn zrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    by_old_name(ctx, args, (false, true))
}

pub(crate) fn zrevrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    by_old_name(ctx, args, (true, true))
}

pub(crate) fn zrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    by_old_name(ctx, args, (false, false))
}

pub(crate) fn zrevrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    by_old_name(ctx, args, (true, false))
}

fn by_old_name(ctx: &mut Ctx<'_>, args: Args<'_>, (falls, by_score): (bool, bool)) -> Outcome {
    let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
    let mut at = 4;
    while at < args.len() {
        match () {
            () if by_score && args.is(at, "WITHSCORES") => with_scores = true,
            () if args.is(at, "LIMIT") && at + 2 < args.len() => {
                offset = integer(args.at(at + 1))?;
                limit = integer(args.at(at + 2))?;
                at += 2;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    let (low, high) = if falls { (args.at(3), args.at(2)) } else { (args.at(2), args.at(3)) };
    let span = if by_score { Span::scores(low, high)? } else { Span::names(low, high)? };
    let question = Question { span, falls, offset, limit, with_scores };
    answer(ctx, args.at(1), &question)
}

pub(crate) fn zcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let span = Span::scores(args.at(2), args.at(3))?;
    count(ctx, args, &span)
}

pub(crate) fn zlexcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let span = Span::names(args.at(2), args.at(3))?;
    count(ctx, args, &span)
}

fn count(ctx: &mut Ctx<'_>, args: Args<'_>, span: &Span) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    out.count(sorted.map_or(0, |sorted| span.ranks(sorted).len()));
    Ok(())
}

pub(crate) fn zremrangebyrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let span = Span::Ranks(integer(args.at(2))?, integer(args.at(3))?);
    remove(ctx, args.at(1), span, "zremrangebyrank")
}

pub(crate) fn zremrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let span = Span::scores(args.at(2), args.at(3))?;
    remove(ctx, args.at(1), span, "zremrangebyscore")
}

pub(crate) fn zremrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let span = Span::names(args.at(2), args.at(3))?;
    remove(ctx, args.at(1), span, "zremrangebylex")
}

fn remove(ctx: &mut Ctx<'_>, key: &[u8], span: Span, event: &str) -> Outcome {
    let question = Question::plain(span, false);
    let edited = ctx.edit(key, |sorted: &mut Sorted| {
        let members = question.members(sorted);
        for (member, _) in &members {
            sorted.remove(member);
        }
        members.len()
    })?;
    let removed = edited.as_ref().map_or(0, |edited| edited.result);
    if removed > 0 {
        ctx.changed_with(SORTED, event, key);
        if edited.is_some_and(|edited| edited.is_gone) {
            ctx.notify(GENERIC, "del", key);
        }
        ctx.verbatim();
    }
    ctx.out().count(removed);
    Ok(())
}

pub(crate) fn zpopmin(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop(ctx, args, false)
}

pub(crate) fn zpopmax(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop(ctx, args, true)
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, from_top: bool) -> Outcome {
    if args.len() > 3 {
        return Err(SYNTAX);
    }
    let count = match args.get(2) {
        None => None,
        Some(text) => {
            let count = parse_i64(text).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or("ERR value is out of range, must be positive")?)
        }
    };
    let popped = take(ctx, args.at(1), from_top, count.unwrap_or(1))?;
    if count.is_none() && ctx.session.out.is_resp3 {
        // Without a count RESP3 gets one pair, not a list of pairs.
        let out = ctx.out();
        out.array(popped.len() * 2);
        for (member, score) in &popped {
            out.bulk(member);
            out.double(*score);
        }
        return Ok(());
    }
    write_members(ctx.out(), &popped, true);
    Ok(())
}

fn take(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    from_top: bool,
    count: usize,
) -> Result<Vec<(Vec<u8>, f64)>, Fault> {
    let question =
        Question { limit: count as i64, ..Question::plain(Span::Ranks(0, -1), from_top) };
    let edited = ctx.edit(key, |sorted: &mut Sorted| {
        let members = question.members(sorted);
        for (member, _) in &members {
            sorted.remove(member);
        }
        members
    })?;
    let Some(edited) = edited else { return Ok(Vec::new()) };
    if !edited.result.is_empty() {
        ctx.changed_with(SORTED, if from_top { "zpopmax" } else { "zpopmin" }, key);
        if edited.is_gone {
            ctx.notify(GENERIC, "del", key);
        }
        let members = edited.result.iter().map(|(member, _)| member.as_slice());
        let effect: Vec<&[u8]> = [&b"ZREM"[..], key].into_iter().chain(members).collect();
        ctx.effect(&effect);
    }
    Ok(edited.result)
}

pub(crate) fn bzpopmin(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    blocking_pop(ctx, args, false)
}

pub(crate) fn bzpopmax(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    blocking_pop(ctx, args, true)
}

fn blocking_pop(ctx: &mut Ctx<'_>, args: Args<'_>, from_top: bool) -> Outcome {
    let deadline = timeout(ctx.now, args.at(args.len() - 1))?;
    let keys: Vec<&[u8]> = args.iter().take(args.len() - 1).skip(1).collect();
    for key in &keys {
        if ctx.collection::<Sorted>(key)?.is_none() {
            continue;
        }
        let popped = take(ctx, key, from_top, 1)?;
        let out = ctx.out();
        out.array(3);
        out.bulk(key);
        for (member, score) in &popped {
            out.bulk(member);
            out.double(*score);
        }
        return Ok(());
    }
    wait(ctx, args, &keys, (deadline, Timeout::NullArray));
    Ok(())
}

const ENDS: [&str; 2] = ["MIN", "MAX"];

fn take_first(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    pop: &MultiPop<'_>,
) -> Result<Vec<(Vec<u8>, f64)>, Fault> {
    take(ctx, key, pop.is_second, pop.count)
}

fn write_pair(out: &mut Reply, (member, score): &(Vec<u8>, f64)) {
    out.array(2);
    out.bulk(member);
    out.double(*score);
}

pub(crate) fn zmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop_first::<Sorted, _>(ctx, args, (1, ENDS), take_first, write_pair)
}

pub(crate) fn bzmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    pop_first::<Sorted, _>(ctx, args, (2, ENDS), take_first, write_pair)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mix {
    Any,
    Both,
    First,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Least,
    Most,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            // Opposite infinities give 0, as in Redis.
            Self::Sum => {
                if (a + b).is_nan() {
                    0.0
                } else {
                    a + b
                }
            }
            // Which of two zeros it is depends on which was first.
            Self::Least if b < a => b,
            Self::Most if b > a => b,
            Self::Least | Self::Most => a,
        }
    }
}

/// Reads a mix from the number of keys on, and computes it; says whether scores are wanted.
fn mix(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    at: usize,
    (mix, stores): (Mix, bool),
) -> Result<(Sorted, bool), Fault> {
    let name = String::from_utf8_lossy(args.at(0)).to_lowercase();
    let count = integer(args.at(at))?;
    if count < 1 {
        return Err(format!("ERR at least 1 input key is needed for '{name}' command").into());
    }
    if count as usize > args.len() - at - 1 {
        return Err(SYNTAX);
    }
    let count = count as usize;
    let keys = at + 1..at + 1 + count;
    check_kinds(ctx, args, keys.clone())?;
    let (mut weights, mut aggregate, mut with_scores) = (vec![1.0; count], Aggregate::Sum, false);
    let mut at = keys.end;
    while at < args.len() {
        match () {
            () if mix != Mix::First && args.is(at, "WEIGHTS") && at + count < args.len() => {
                for (index, weight) in weights.iter_mut().enumerate() {
                    *weight = parse_f64(args.at(at + 1 + index))
                        .ok_or("ERR weight value is not a float")?;
                }
                at += count;
            }
            () if mix != Mix::First && args.is(at, "AGGREGATE") && at + 1 < args.len() => {
                aggregate = match () {
                    () if args.is(at + 1, "SUM") => Aggregate::Sum,
                    () if args.is(at + 1, "MIN") => Aggregate::Least,
                    () if args.is(at + 1, "MAX") => Aggregate::Most,
                    () => return Err(SYNTAX),
                };
                at += 1;
            }
            () if !stores && args.is(at, "WITHSCORES") => with_scores = true,
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    let mut inputs = Vec::with_capacity(count);
    for (key, weight) in keys.map(|at| args.at(at)).zip(weights) {
        inputs.push(weighted(ctx, key, weight)?);
    }
    Ok((mixed(inputs, mix, aggregate), with_scores))
}

/// Refuses keys of other kinds, which is done before options are read.
fn check_kinds(ctx: &mut Ctx<'_>, args: Args<'_>, keys: std::ops::Range<usize>) -> Outcome {
    for key in keys.map(|at| args.at(at)) {
        let found = ctx.find(key);
        let kind = found.map(|found| ctx.engine.store.kind(found));
        if kind.is_some_and(|kind| kind != Kind::Set && kind != Kind::Sorted) {
            return Err(crate::wire::reply::WRONG_TYPE);
        }
    }
    Ok(())
}

/// The members of a sorted set or a set, with weighted scores.
fn weighted(ctx: &mut Ctx<'_>, key: &[u8], weight: f64) -> Result<Sorted, Fault> {
    let mut input = Sorted::default();
    let Some(found) = ctx.look_up(key) else { return Ok(input) };
    let scale = |score: f64| {
        let scaled = weight * score;
        if scaled.is_nan() { 0.0 } else { scaled }
    };
    match ctx.engine.store.kind(found) {
        Kind::Set => {
            if let Some(set) = ctx.engine.store.collection::<crate::store::set::Set>(found) {
                {
                    for member in set.iter() {
                        input.set(member, scale(1.0));
                    }
                }
            }
        }
        Kind::Sorted => {
            if let Some(sorted) = ctx.engine.store.collection::<Sorted>(found) {
                {
                    for (member, score) in sorted.iter() {
                        input.set(member, scale(score));
                    }
                }
            }
        }
        _ => return Err(crate::wire::reply::WRONG_TYPE),
    }
    Ok(input)
}

fn mixed(mut inputs: Vec<Sorted>, mix: Mix, aggregate: Aggregate) -> Sorted {
    if mix != Mix::First {
        // As Redis does, since sums depend on the order.
        inputs.sort_by_key(Sorted::len);
    }
    let mut inputs = inputs.into_iter();
    let mut result = inputs.next().unwrap_or_default();
    for other in inputs {
        match mix {
            Mix::Any => {
                for (member, score) in other.iter() {
                    let score = result.score(member).map_or(score, |old| aggregate.of(old, score));
                    result.set(member, score);
                }
            }
            Mix::Both => {
                let members: Vec<(Vec<u8>, f64)> = result
                    .iter()
                    .filter_map(|(member, old)| {
                        Some((member.to_vec(), aggregate.of(old, other.score(member)?)))
                    })
                    .collect();
                result = collected(&members);
            }
            Mix::First => {
                for (member, _) in other.iter() {
                    result.remove(member);
                }
            }
        }
    }
    result
}

fn show(ctx: &mut Ctx<'_>, args: Args<'_>, kind: Mix) -> Outcome {
    let (sorted, with_scores) = mix(ctx, args, 1, (kind, false))?;
    let members: Vec<(Vec<u8>, f64)> =
        sorted.iter().map(|(member, score)| (member.to_vec(), score)).collect();
    write_members(ctx.out(), &members, with_scores);
    Ok(())
}

pub(crate) fn zunion(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    show(ctx, args, Mix::Any)
}

pub(crate) fn zinter(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    show(ctx, args, Mix::Both)
}

pub(crate) fn zdiff(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    show(ctx, args, Mix::First)
}

pub(crate) fn zunionstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, _) = mix(ctx, args, 2, (Mix::Any, true))?;
    store(ctx, args.at(1), sorted, "zunionstore")
}

pub(crate) fn zinterstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, _) = mix(ctx, args, 2, (Mix::Both, true))?;
    store(ctx, args.at(1), sorted, "zinterstore")
}

pub(crate) fn zdiffstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, _) = mix(ctx, args, 2, (Mix::First, true))?;
    store(ctx, args.at(1), sorted, "zdiffstore")
}

pub(crate) fn zintercard(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if integer(args.at(1))? < 1 {
        return Err("ERR at least 1 input key is needed for 'zintercard' command".into());
    }
    let keys = numbered_keys(args, 1).map_err(|_| SYNTAX)?;
    check_kinds(ctx, args, keys.clone())?;
    let mut limit = 0;
    let mut at = keys.end;
    while at < args.len() {
        if !args.is(at, "LIMIT") || at + 1 >= args.len() {
            return Err(SYNTAX);
        }
        let given = integer(args.at(at + 1)).ok().and_then(|limit| usize::try_from(limit).ok());
        limit = given.ok_or("ERR LIMIT can't be negative")?;
        at += 2;
    }
    let mut inputs = Vec::new();
    for key in keys.map(|at| args.at(at)) {
        inputs.push(weighted(ctx, key, 1.0)?);
    }
    let count = mixed(inputs, Mix::Both, Aggregate::Sum).len();
    ctx.out().count(if limit == 0 { count } else { count.min(limit) });
    Ok(())
}

pub(crate) fn zrandmember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = args.get(2).map(|text| parse_i64(text).ok_or(NOT_INTEGER)).transpose()?;
    let with_scores = match args.len() {
        2 | 3 => false,
        4 if args.is(3, "WITHSCORES") => true,
        _ => return Err(SYNTAX),
    };
    if with_scores && count.is_some_and(|count| count.unsigned_abs() > i64::MAX as u64 / 2) {
        return Err("ERR value is out of range".into());
    }
    let wanted = wanted(count)?;
    let seed = ctx.chance();
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    let Some(sorted) = sorted else {
        if wanted == Wanted::One {
            out.null();
        } else {
            out.array(0);
        }
        return Ok(());
    };
    let chosen: Vec<(Vec<u8>, f64)> = picks(sorted.len(), wanted, seed)
        .into_iter()
        .filter_map(|at| sorted.at(at).map(|(member, score)| (member.to_vec(), score)))
        .collect();
    match (wanted, chosen.first()) {
        (Wanted::One, Some((member, _))) => out.bulk(member),
        (Wanted::One, None) => out.null(),
        _ => write_members(out, &chosen, with_scores),
    }
    Ok(())
}

pub(crate) fn zscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    cursor(args.at(2))?;
    if ctx.collection::<Sorted>(args.at(1))?.is_none() {
        nothing_scanned(ctx.out());
        return Ok(());
    }
    let scan = Scan::of(args, 2, false)?;
    let packed = ctx.engine.settings.sorted_packed;
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    let (window, next) =
        sorted.map_or((0..0, 0), |sorted| scan.window(sorted.len(), sorted.is_packed(packed)));
    let found: Vec<(&[u8], f64)> = match sorted {
        // A packed one is given whole, in order.
        Some(sorted) if sorted.is_packed(packed) => {
            sorted.iter().filter(|(member, _)| scan.matches(member)).collect()
        }
        Some(sorted) => window
            .filter_map(|at| sorted.at(at))
            .filter(|(member, _)| scan.matches(member))
            .collect(),
        None => Vec::new(),
    };
    out.array(2);
    out.text(&next.to_string());
    out.array(found.len() * 2);
    for (member, score) in found {
        out.bulk(member);
        out.text(&f64_text(score));
    }
    Ok(())
}
