//! Commands on when fields of hashes expire, as in Redis 7.4.

use super::options::integer;
use crate::context::{Ctx, Outcome};
use crate::notify::{GENERIC, HASH};
use crate::store::hash::Hash;
use crate::store::number::i64_text;
use crate::wire::reply::Fault;
use crate::wire::request::Args;

/// A moment counts in milliseconds since 1970, up to here.
const MOMENT_MAX: i64 = (1 << 46) - 1;

/// How a command says a moment.
#[derive(Clone, Copy)]
struct Clock {
    name: &'static str,
    milliseconds: i64,
    is_absolute: bool,
}

const fn clock(name: &'static str, milliseconds: i64, is_absolute: bool) -> Clock {
    Clock { name, milliseconds, is_absolute }
}

pub(crate) fn hexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire(ctx, args, clock("hexpire", 1_000, false))
}

pub(crate) fn hpexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire(ctx, args, clock("hpexpire", 1, false))
}

pub(crate) fn hexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire(ctx, args, clock("hexpireat", 1_000, true))
}

pub(crate) fn hpexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire(ctx, args, clock("hpexpireat", 1, true))
}

/// When a new deadline is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    WithoutOne,
    WithOne,
    Later,
    Earlier,
}

impl Condition {
    fn allows(self, old: Option<i64>, new: i64) -> bool {
        match (self, old) {
            (Self::Always, _)
            | (Self::WithoutOne | Self::Earlier, None)
            | (Self::WithOne, Some(_)) => true,
            (Self::WithoutOne, Some(_)) | (Self::WithOne | Self::Later, None) => false,
            (Self::Later, Some(old)) => new > old,
            (Self::Earlier, Some(old)) => new < old,
        }
    }
}

/// The fields behind FIELDS and their number.
fn fields(args: Args<'_>, at: usize) -> Result<Args<'_>, Fault> {
    if at >= args.len() || !args.is(at, "FIELDS") {
        return Err("ERR Mandatory argument FIELDS is missing or not at the right position".into());
    }
    let count = args.get(at + 1).and_then(|count| integer(count).ok()).unwrap_or(0);
    if count < 1 {
        return Err("ERR Number of fields must be a positive integer".into());
    }
    if count != (args.len() - at - 2) as i64 {
        return Err("ERR The `numfields` parameter must match the number of arguments".into());
    }
    Ok(args.from(at + 2))
}

fn moment(ctx: &Ctx<'_>, text: &[u8], clock: Clock) -> Result<i64, Fault> {
    let value = integer(text)?;
    if value < 0 {
        return Err("ERR invalid expire time, must be >= 0".into());
    }
    let base = if clock.is_absolute { 0 } else { ctx.now.max(0) };
    let at = value.checked_mul(clock.milliseconds).and_then(|value| value.checked_add(base));
    at.filter(|at| *at <= MOMENT_MAX)
        .ok_or_else(|| format!("ERR invalid expire time in '{}' command", clock.name).into())
}

fn expire(ctx: &mut Ctx<'_>, args: Args<'_>, clock: Clock) -> Outcome {
    let key = args.at(1);
    let condition = match () {
        () if args.is(3, "NX") => Condition::WithoutOne,
        () if args.is(3, "XX") => Condition::WithOne,
        () if args.is(3, "GT") => Condition::Later,
        () if args.is(3, "LT") => Condition::Earlier,
        () => Condition::Always,
    };
    let fields = fields(args, if condition == Condition::Always { 3 } else { 4 })?;
    let at = moment(ctx, args.at(2), clock)?;
    let is_past = at <= ctx.now;
    let (mut answers, mut set, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    let edited = ctx.edit(key, |hash: &mut Hash| {
        for field in fields.iter() {
            let answer = match () {
                () if hash.get(field).is_none() => -2,
                () if !condition.allows(hash.deadline(field), at) => 0,
                () if is_past => {
                    hash.remove(field);
                    removed.push(field);
                    2
                }
                () => {
                    hash.set_deadline(field, at);
                    set.push(field);
                    1
                }
            };
            answers.push(answer);
        }
        hash.next_deadline()
    })?;
    let Some(edited) = edited else { return nothing(ctx, fields.len()) };
    if !set.is_empty() {
        if let Some(next) = edited.result {
            ctx.engine.schedule_fields(ctx.session.db, key, next);
        }
        let (at, count) = (i64_text(at), i64_text(set.len() as i64));
        let head: [&[u8]; 5] = [b"HPEXPIREAT", key, &at, b"FIELDS", &count];
        ctx.effect(&[&head, &*set].concat());
        ctx.changed_with(HASH, "hexpire", key);
    }
    if !removed.is_empty() {
        ctx.effect(&[&[&b"HDEL"[..], key], &*removed].concat());
        ctx.changed_with(HASH, "hdel", key);
        if edited.is_gone {
            ctx.notify(GENERIC, "del", key);
        }
    }
    answer(ctx, &answers);
    Ok(())
}

fn answer(ctx: &mut Ctx<'_>, answers: &[i64]) {
    ctx.out().array(answers.len());
    for answer in answers {
        ctx.session.out.int(*answer);
    }
}

/// None of the fields is there.
fn nothing(ctx: &mut Ctx<'_>, count: usize) -> Outcome {
    answer(ctx, &vec![-2; count]);
    Ok(())
}

pub(crate) fn hpersist(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let fields = fields(args, 2)?;
    let (mut answers, mut kept) = (Vec::new(), Vec::new());
    let edited = ctx.edit(key, |hash: &mut Hash| {
        for field in fields.iter() {
            answers.push(match () {
                () if hash.get(field).is_none() => -2,
                () if hash.persist(field) => {
                    kept.push(field);
                    1
                }
                () => -1,
            });
        }
    })?;
    if edited.is_none() {
        return nothing(ctx, fields.len());
    }
    if !kept.is_empty() {
        let count = i64_text(kept.len() as i64);
        let head: [&[u8]; 4] = [b"HPERSIST", key, b"FIELDS", &count];
        ctx.effect(&[&head, &*kept].concat());
        ctx.changed_with(HASH, "hpersist", key);
    }
    answer(ctx, &answers);
    Ok(())
}

pub(crate) fn httl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    times(ctx, args, |at, now| (at - now + 999) / 1_000)
}

pub(crate) fn hpttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    times(ctx, args, |at, now| at - now)
}

pub(crate) fn hexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    times(ctx, args, |at, _| (at + 999) / 1_000)
}

pub(crate) fn hpexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    times(ctx, args, |at, _| at)
}

fn times(ctx: &mut Ctx<'_>, args: Args<'_>, shown: fn(i64, i64) -> i64) -> Outcome {
    let fields = fields(args, 2)?;
    let now = ctx.now;
    let Some(hash) = ctx.collection::<Hash>(args.at(1))? else {
        return nothing(ctx, fields.len());
    };
    let one = |field: &[u8]| match (hash.get(field), hash.deadline(field)) {
        (None, _) => -2,
        (Some(_), None) => -1,
        (Some(_), Some(at)) => shown(at, now),
    };
    let answers: Vec<i64> = fields.iter().map(one).collect();
    answer(ctx, &answers);
    Ok(())
}
