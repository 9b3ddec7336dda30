//! DUMP and RESTORE.

use super::options::integer;
use crate::context::{Ctx, Outcome};
use crate::engine::Engine;
use crate::notify::GENERIC;
use crate::store::Expiry;
use crate::store::dump::{Fault as Damage, Value, read, write_object, write_string};
use crate::store::object::{Kind, Object};
use crate::wire::reply::{FULL, Fault, SYNTAX};
use crate::wire::request::Args;

pub(crate) fn dump(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let Some(found) = ctx.look_up(args.at(1)) else {
        ctx.out().null();
        return Ok(());
    };
    let store = &ctx.engine.store;
    let payload = if store.kind(found) == Kind::String {
        write_string(store.string(found))
    } else {
        write_object(store.object(found))
    };
    ctx.out().bulk(&payload);
    Ok(())
}

/// REPLACE, ABSTTL, IDLETIME and FREQ.
#[derive(Default)]
struct Options {
    replaces: bool,
    is_absolute: bool,
    idle: Option<i64>,
    frequency: Option<i64>,
}

fn options(args: Args<'_>) -> Result<Options, Fault> {
    let mut options = Options::default();
    let mut at = 4;
    while at < args.len() {
        let has_value = at + 1 < args.len();
        match () {
            () if args.is(at, "REPLACE") => options.replaces = true,
            () if args.is(at, "ABSTTL") => options.is_absolute = true,
            () if has_value && options.frequency.is_none() && args.is(at, "IDLETIME") => {
                let idle = integer(args.at(at + 1))?;
                if idle < 0 {
                    return Err("ERR Invalid IDLETIME value, must be >= 0".into());
                }
                options.idle = Some(idle);
                at += 1;
            }
            () if has_value && options.idle.is_none() && args.is(at, "FREQ") => {
                let frequency = integer(args.at(at + 1))?;
                if !(0..=255).contains(&frequency) {
                    return Err("ERR Invalid FREQ value, must be >= 0 and <= 255".into());
                }
                options.frequency = Some(frequency);
                at += 1;
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    Ok(options)
}

pub(crate) fn restore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let options = options(args)?;
    let (key, payload) = (args.at(1), args.at(3));
    if !options.replaces && ctx.find(key).is_some() {
        return Err("BUSYKEY Target key name already exists.".into());
    }
    let ttl = integer(args.at(2))?;
    if ttl < 0 {
        return Err("ERR Invalid TTL value, must be >= 0".into());
    }
    let value = read(payload).map_err(|damage| match damage {
        Damage::Frame => Fault::from("ERR DUMP payload version or checksum are wrong"),
        Damage::Content => Fault::from("ERR Bad data format"),
    })?;
    let was_there = ctx.remove(key);
    let now = if options.is_absolute { 0 } else { ctx.now };
    let deadline = (ttl > 0).then(|| ttl.saturating_add(now));
    if deadline.is_some_and(|deadline| deadline <= ctx.now) {
        if was_there {
            ctx.notify(GENERIC, "del", key);
            ctx.effect(&[b"DEL", key]);
        }
        ctx.out().ok();
        return Ok(());
    }
    put(ctx, key, value, deadline)?;
    mark(ctx, key, &options);
    ctx.changed_with(GENERIC, "restore", key);
    let at = Engine::moment_text(deadline.unwrap_or(0));
    ctx.effect(&[b"RESTORE", key, &at, payload, b"REPLACE", b"ABSTTL"]);
    if let Some(found) = ctx.find(key) {
        let kind = ctx.engine.store.kind(found);
        super::keys::offer_kind(ctx, kind, key);
    }
    ctx.out().ok();
    Ok(())
}

fn put(ctx: &mut Ctx<'_>, key: &[u8], value: Value, deadline: Option<i64>) -> Outcome {
    let object = match value {
        Value::String(value) => {
            let expiry = deadline.map_or(Expiry::Never, Expiry::At);
            ctx.set(key, None, &value, expiry)?;
            return Ok(());
        }
        Value::Object(object) => object,
    };
    let (db, hash) = (ctx.session.db, ctx.hash(key));
    let object: Object = object;
    let found = ctx.engine.store.insert_object(db, (hash, key), object).ok_or(FULL)?;
    if deadline.is_some() {
        ctx.engine.store.set_deadline(db, found, deadline).ok_or(FULL)?;
    }
    Ok(())
}

/// Lets the key count as used when it was said to have been.
fn mark(ctx: &mut Ctx<'_>, key: &[u8], options: &Options) {
    let is_counted = ctx.engine.settings.policy.is_lfu();
    let Some(found) = ctx.find(key) else { return };
    let stamp = match (options.idle, options.frequency) {
        (Some(idle), _) if !is_counted => {
            ctx.engine.store.stamp.wrapping_sub(idle as u32) & 0x00ff_ffff
        }
        (_, Some(frequency)) if is_counted => ctx.engine.stats.minutes() << 8 | frequency as u32,
        _ => return,
    };
    ctx.engine.store.set_stamp(found, stamp);
}
