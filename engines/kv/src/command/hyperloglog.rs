//! Commands on HyperLogLogs, which are strings.

use crate::context::{Ctx, Outcome};
use crate::notify::STRING;
use crate::store::hyperloglog::{REGISTERS, Sketch, Wrong, estimate};
use crate::store::{Expiry, Found};
use crate::wire::reply::Fault;
use crate::wire::request::Args;

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Kind => "WRONGTYPE Key is not a valid HyperLogLog string value.".into(),
            Wrong::Damaged => "INVALIDOBJ Corrupted HLL object detected".into(),
        }
    }
}

fn sketch(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Option<(Found, Sketch)>, Fault> {
    let Some(found) = ctx.string(key)? else { return Ok(None) };
    let sketch = Sketch::of(ctx.engine.store.string(found).to_vec())?;
    Ok(Some((found, sketch)))
}

/// Writes it where it was, or anew. It is shown as a string that was changed in place, as in Redis.
fn write(ctx: &mut Ctx<'_>, key: &[u8], found: Option<Found>, sketch: &Sketch) -> Outcome {
    let is_same =
        found.filter(|found| ctx.engine.store.string(*found).len() == sketch.bytes().len());
    let found = match is_same {
        Some(found) => found,
        None => ctx.set(key, found, sketch.bytes(), Expiry::Keep)?,
    };
    let db = ctx.session.db;
    ctx.engine.store.string_mut(db, found).copy_from_slice(sketch.bytes());
    Ok(())
}

pub(crate) fn pfadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let sparse_max = ctx.engine.settings.sparse_bytes_max;
    let (found, mut sketch) = match sketch(ctx, key)? {
        Some((found, sketch)) => (Some(found), sketch),
        None => (None, Sketch::new()),
    };
    let mut changed = found.is_none();
    for element in args.from(2).iter() {
        changed |= sketch.add(element, sparse_max)?;
    }
    if changed {
        sketch.spoil();
        write(ctx, key, found, &sketch)?;
        ctx.changed_with(STRING, "pfadd", key);
        ctx.verbatim();
    }
    ctx.out().flag(changed);
    Ok(())
}

/// Takes the higher one of each register.
fn merge(into: &mut [u8], ranks: &[u8]) {
    for (register, rank) in into.iter_mut().zip(ranks) {
        *register = (*register).max(*rank);
    }
}

pub(crate) fn pfcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 2 {
        let mut all = vec![0; REGISTERS];
        for key in args.from(1).iter() {
            if let Some((_, sketch)) = sketch(ctx, key)? {
                merge(&mut all, &sketch.ranks()?);
            }
        }
        ctx.out().int(estimate(&all) as i64);
        return Ok(());
    }
    let key = args.at(1);
    let Some((found, mut sketch)) = sketch(ctx, key)? else {
        ctx.out().int(0);
        return Ok(());
    };
    let count = if let Some(count) = sketch.cached() {
        count
    } else {
        let count = estimate(&sketch.ranks()?);
        // Reads go on while nothing can be written; then it is computed again.
        if ctx.engine.refusal.is_none() {
            sketch.cache(count);
            write(ctx, key, Some(found), &sketch)?;
            ctx.changed(key);
            ctx.effect(&[b"SETRANGE", key, b"8", &count.to_le_bytes()]);
        }
        count
    };
    ctx.out().int(count as i64);
    Ok(())
}

pub(crate) fn pfmerge(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let sparse_max = ctx.engine.settings.sparse_bytes_max;
    let (mut all, mut is_dense) = (vec![0; REGISTERS], false);
    for key in args.from(1).iter() {
        if let Some((_, sketch)) = sketch(ctx, key)? {
            is_dense |= sketch.is_dense();
            merge(&mut all, &sketch.ranks()?);
        }
    }
    let (found, mut target) = match sketch(ctx, key)? {
        Some((found, sketch)) => (Some(found), sketch),
        None => (None, Sketch::new()),
    };
    if is_dense {
        target.make_dense()?;
    }
    for (index, rank) in all.into_iter().enumerate().filter(|(_, rank)| *rank > 0) {
        target.raise(index, rank, sparse_max)?;
    }
    target.spoil();
    write(ctx, key, found, &target)?;
    ctx.changed_with(STRING, "pfadd", key);
    ctx.verbatim();
    ctx.out().ok();
    Ok(())
}
