//! Commands on keys of any kind, and their expiry.

use super::options::{Scan, Unit, integer};
use crate::context::{Ctx, Outcome};
use crate::engine::{DATABASES, Engine};
use crate::notify::{GENERIC, NEW};
use crate::store::number::parse_i64;
use crate::store::object::{Kind, Object};
use crate::store::{Found, glob};
use crate::wire::reply::{FULL, Fault, NO_KEY, NOT_INTEGER, SYNTAX};
use crate::wire::request::Args;

pub(crate) fn del(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut removed = 0;
    ctx.engine.store.frees_later = args.is(0, "UNLINK");
    for key in args.from(1).iter() {
        if ctx.remove(key) {
            ctx.notify(GENERIC, "del", key);
            removed += 1;
        }
    }
    ctx.engine.store.frees_later = false;
    if removed > 0 {
        ctx.effect_with(b"DEL", args.from(1));
    }
    ctx.out().count(removed);
    Ok(())
}

pub(crate) fn exists(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = args.from(1).iter().filter(|key| ctx.glance(key).is_some()).count();
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn touch(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = args.from(1).iter().filter(|key| ctx.look_up(key).is_some()).count();
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn kind(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let name = ctx.glance(args.at(1)).map_or("none", |found| ctx.engine.store.kind(found).name());
    ctx.out().simple(name);
    Ok(())
}

pub(crate) fn expire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire_by(ctx, args, Unit::Seconds, "expire")
}

pub(crate) fn pexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire_by(ctx, args, Unit::Millis, "pexpire")
}

pub(crate) fn expireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire_by(ctx, args, Unit::SecondsAt, "expireat")
}

pub(crate) fn pexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    expire_by(ctx, args, Unit::MillisAt, "pexpireat")
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
struct ExpireWhen {
    missing: bool,
    exists: bool,
    greater: bool,
    less: bool,
}

fn expire_by(ctx: &mut Ctx<'_>, args: Args<'_>, unit: Unit, name: &str) -> Outcome {
    let mut when = ExpireWhen::default();
    for at in 3..args.len() {
        match () {
            () if args.is(at, "NX") => when.missing = true,
            () if args.is(at, "XX") => when.exists = true,
            () if args.is(at, "GT") => when.greater = true,
            () if args.is(at, "LT") => when.less = true,
            () => {
                let option = String::from_utf8_lossy(args.at(at));
                return Err(format!("ERR Unsupported option {option}").into());
            }
        }
    }
    if when.missing && (when.exists || when.greater || when.less) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if when.greater && when.less {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let value = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    let deadline = unit.moment(ctx.now, value);
    let deadline = deadline
        .ok_or_else(|| Fault::from(format!("ERR invalid expire time in '{name}' command")))?;
    let key = args.at(1);
    let Some(found) = ctx.find(key) else {
        ctx.out().int(0);
        return Ok(());
    };
    let current = ctx.engine.store.deadline(found);
    let is_refused = (when.missing && current.is_some())
        || (when.exists && current.is_none())
        || (when.greater && current.is_none_or(|current| deadline <= current))
        || (when.less && current.is_some_and(|current| deadline >= current));
    if is_refused {
        ctx.out().int(0);
        return Ok(());
    }
    ctx.out().int(1);
    expire_at(ctx, key, found, deadline)
}

/// Lets a key expire at a moment; one that has passed removes it.
pub(crate) fn expire_at(ctx: &mut Ctx<'_>, key: &[u8], found: Found, deadline: i64) -> Outcome {
    if deadline <= ctx.now {
        ctx.remove(key);
        ctx.notify(GENERIC, "del", key);
        ctx.effect(&[b"DEL", key]);
        return Ok(());
    }
    ctx.engine.store.set_deadline(ctx.session.db, found, Some(deadline)).ok_or(FULL)?;
    ctx.changed_with(GENERIC, "expire", key);
    ctx.effect(&[b"PEXPIREAT", key, &Engine::moment_text(deadline)]);
    Ok(())
}

pub(crate) fn persist(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let persisted = match ctx.find(key) {
        Some(found) => persist_found(ctx, key, found)?,
        None => false,
    };
    ctx.out().flag(persisted);
    Ok(())
}

pub(crate) fn persist_found(ctx: &mut Ctx<'_>, key: &[u8], found: Found) -> Result<bool, Fault> {
    if ctx.engine.store.deadline(found).is_none() {
        return Ok(false);
    }
    ctx.engine.store.set_deadline(ctx.session.db, found, None).ok_or(FULL)?;
    ctx.changed_with(GENERIC, "persist", key);
    ctx.effect(&[b"PERSIST", key]);
    Ok(true)
}

pub(crate) fn ttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    deadline(ctx, args, |deadline, now| (deadline - now + 500) / 1_000)
}

pub(crate) fn pttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    deadline(ctx, args, |deadline, now| deadline - now)
}

pub(crate) fn expiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    deadline(ctx, args, |deadline, _| (deadline + 500) / 1_000)
}

pub(crate) fn pexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    deadline(ctx, args, |deadline, _| deadline)
}

fn deadline(ctx: &mut Ctx<'_>, args: Args<'_>, show: impl Fn(i64, i64) -> i64) -> Outcome {
    let answer = match ctx.glance(args.at(1)) {
        None => -2,
        Some(found) => {
            ctx.engine.store.deadline(found).map_or(-1, |deadline| show(deadline, ctx.now))
        }
    };
    ctx.out().int(answer);
    Ok(())
}

pub(crate) fn rename(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    rename_key(ctx, args, true)?;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn renamenx(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let renamed = rename_key(ctx, args, false)?;
    ctx.out().flag(renamed);
    Ok(())
}

fn rename_key(ctx: &mut Ctx<'_>, args: Args<'_>, replaces: bool) -> Result<bool, Fault> {
    let (from, to) = (args.at(1), args.at(2));
    let found = ctx.find(from).ok_or(NO_KEY)?;
    if from == to {
        return Ok(replaces);
    }
    let kind = ctx.engine.store.kind(found);
    if ctx.find(to).is_some() {
        if !replaces {
            return Ok(false);
        }
        ctx.remove(to);
    }
    let db = ctx.session.db;
    let found = ctx.find(from).ok_or(NO_KEY)?;
    ctx.engine.store.rename((db, found), (db, to)).ok_or(FULL)?;
    ctx.engine.schedule_value(db, to);
    ctx.notify(NEW, "new", to);
    ctx.changed_with(GENERIC, "rename_from", from);
    ctx.changed_with(GENERIC, "rename_to", to);
    ctx.effect(&[b"RENAME", from, to]);
    offer_kind(ctx, kind, to);
    Ok(true)
}

/// Lets clients that wait for elements look at a key that came whole.
pub(super) fn offer_kind(ctx: &mut Ctx<'_>, kind: Kind, key: &[u8]) {
    if matches!(kind, Kind::List | Kind::Sorted | Kind::Stream) {
        ctx.offer(key);
    }
}

pub(crate) fn copy(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (from, to) = (args.at(1), args.at(2));
    let (mut db, mut replaces) = (ctx.session.db, false);
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "REPLACE") {
            replaces = true;
        } else if args.is(at, "DB") && at + 1 < args.len() {
            db = ctx.session.base + database(args.at(at + 1))?;
            at += 1;
        } else {
            return Err(SYNTAX);
        }
        at += 1;
    }
    if db == ctx.session.db && from == to {
        return Err("ERR source and destination objects are the same".into());
    }
    let Some(_) = ctx.look_up(from) else {
        ctx.out().int(0);
        return Ok(());
    };
    if let Some(old) = ctx.find_in(db, to) {
        if !replaces {
            ctx.out().int(0);
            return Ok(());
        }
        ctx.engine.offer_stream(db, old, to);
        ctx.engine.store.remove(db, old);
    }
    let found = ctx.find(from).ok_or(NO_KEY)?;
    let kind = ctx.engine.store.kind(found);
    ctx.engine.store.copy(found, (db, to)).ok_or(FULL)?;
    ctx.engine.schedule_value(db, to);
    if !ctx.engine.waiting.is_empty() && kind != Kind::String {
        ctx.engine.offers.push((db, to.into()));
    }
    ctx.changed_in(db, to);
    ctx.notify_in(db, NEW, "new", to);
    ctx.notify_in(db, GENERIC, "copy_to", to);
    let number = (db - ctx.session.base).to_string();
    ctx.effect(&[b"COPY", from, to, b"DB", number.as_bytes(), b"REPLACE"]);
    ctx.out().int(1);
    Ok(())
}

pub(crate) fn database(text: &[u8]) -> Result<usize, Fault> {
    let number = integer(text)?;
    usize::try_from(number)
        .ok()
        .filter(|number| *number < DATABASES)
        .ok_or_else(|| "ERR DB index is out of range".into())
}

pub(crate) fn relocate(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (from_db, key) = (ctx.session.db, args.at(1));
    let db = ctx.session.base + database(args.at(2))?;
    if db == from_db {
        return Err("ERR source and destination objects are the same".into());
    }
    let (source, target) = (ctx.find(key), ctx.find_in(db, key));
    let (Some(found), None) = (source, target) else {
        ctx.out().int(0);
        return Ok(());
    };
    ctx.engine.store.rename((from_db, found), (db, key)).ok_or(FULL)?;
    ctx.engine.schedule_value(db, key);
    ctx.changed(key);
    ctx.changed_in(db, key);
    ctx.notify(GENERIC, "move_from", key);
    ctx.notify_in(db, GENERIC, "move_to", key);
    ctx.verbatim();
    ctx.out().int(1);
    Ok(())
}

pub(crate) fn swapdb(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let number = |text, which: &str| {
        let number =
            parse_i64(text).ok_or_else(|| Fault::from(format!("ERR invalid {which} DB index")))?;
        usize::try_from(number)
            .ok()
            .filter(|number| *number < DATABASES)
            .ok_or_else(|| Fault::from("ERR DB index is out of range"))
    };
    let (a, b) = (number(args.at(1), "first")?, number(args.at(2), "second")?);
    let base = ctx.session.base;
    if a != b {
        ctx.engine.store.swap(base + a, base + b);
        ctx.engine.swap_due_fields(base + a, base + b);
        ctx.engine.spoil_databases(&[base + a, base + b]);
        ctx.verbatim();
        let places = ctx.engine.waiting.keys();
        let offers: Vec<_> =
            places.filter(|(db, _)| *db == base + a || *db == base + b).cloned().collect();
        ctx.engine.offers.extend(offers);
    }
    ctx.out().ok();
    Ok(())
}

pub(crate) fn flushdb(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let db = ctx.session.db;
    flush(ctx, args, &[db])
}

pub(crate) fn flushall(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let base = ctx.session.base;
    let all: Vec<usize> = (base..base + DATABASES).collect();
    flush(ctx, args, &all)
}

fn flush(ctx: &mut Ctx<'_>, args: Args<'_>, dbs: &[usize]) -> Outcome {
    if args.len() > 2 || (args.len() == 2 && !args.is(1, "SYNC") && !args.is(1, "ASYNC")) {
        return Err(SYNTAX);
    }
    ctx.engine.spoil_databases(dbs);
    if !ctx.engine.trackers.is_empty() {
        ctx.engine.invalidate_all(ctx.session.base);
    }
    let places = ctx.engine.waiting.keys();
    let offers: Vec<_> = places.filter(|(db, _)| dbs.contains(db)).cloned().collect();
    ctx.engine.offers.extend(offers);
    ctx.engine.store.frees_later = args.is(1, "ASYNC");
    for &db in dbs {
        if ctx.engine.store.len(db) > 0 {
            ctx.engine.store.flush(db);
        }
    }
    ctx.engine.store.frees_later = false;
    ctx.engine.stats.dirty += 1;
    ctx.verbatim();
    ctx.out().ok();
    Ok(())
}

pub(crate) fn dbsize(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let count = ctx.engine.store.len(ctx.session.db);
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn randomkey(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    // Keys that have expired and are still there are tried a few times.
    for _ in 0..100 {
        let mut seed = ctx.chance();
        let found = ctx.engine.store.random(ctx.session.db, || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed ^ (seed >> 31)
        });
        let Some(found) = found else { break };
        let key = ctx.engine.store.key(found).to_vec();
        if ctx.find(&key).is_some() {
            ctx.out().bulk(&key);
            return Ok(());
        }
    }
    ctx.out().null();
    Ok(())
}

fn is_live(ctx: &Ctx<'_>, found: Found) -> bool {
    ctx.engine.store.deadline(found).is_none_or(|deadline| deadline > ctx.now)
}

pub(crate) fn keys(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let pattern = args.at(1);
    if glob::is_literal(pattern) {
        let is_there = ctx.find(pattern).is_some();
        ctx.out().array(usize::from(is_there));
        if is_there {
            ctx.out().bulk(pattern);
        }
        return Ok(());
    }
    let mut found = Vec::new();
    let store = &ctx.engine.store;
    store.scan(ctx.session.db, 0, usize::MAX, |entry| {
        if glob::matches(pattern, store.key(entry)) && is_live(ctx, entry) {
            found.push(entry);
        }
    });
    ctx.session.out.array(found.len());
    for entry in found {
        ctx.session.out.bulk(ctx.engine.store.key(entry));
    }
    Ok(())
}

pub(crate) fn scan(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let scan = Scan::of(args, 1, true)?;
    let mut found = Vec::new();
    let store = &ctx.engine.store;
    let next = store.scan(ctx.session.db, scan.cursor, scan.count, |entry| {
        let has_kind = scan
            .kind
            .is_none_or(|kind| kind.eq_ignore_ascii_case(store.kind(entry).name().as_bytes()));
        if has_kind && scan.matches(store.key(entry)) && is_live(ctx, entry) {
            found.push(entry);
        }
    });
    let out = &mut ctx.session.out;
    out.array(2);
    out.text(&next.to_string());
    out.array(found.len());
    for entry in found {
        out.bulk(ctx.engine.store.key(entry));
    }
    Ok(())
}

pub(crate) fn object_encoding(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    match ctx.glance(args.at(2)) {
        None => ctx.out().null(),
        Some(found) => {
            let name = encoding(ctx, found);
            ctx.out().text(name);
        }
    }
    Ok(())
}

/// What Redis would hold the value in.
pub(crate) fn encoding(ctx: &Ctx<'_>, found: Found) -> &'static str {
    let (store, settings) = (&ctx.engine.store, &ctx.engine.settings);
    if store.kind(found) == Kind::String {
        let value = store.string(found);
        return match value.len() {
            _ if store.is_raw(found) => "raw",
            _ if parse_i64(value).is_some() => "int",
            0..=44 => "embstr",
            _ => "raw",
        };
    }
    match store.object(found) {
        Object::Hash(hash) if hash.is_packed(settings.hash_packed) => "listpack",
        Object::Sorted(sorted) if sorted.is_packed(settings.sorted_packed) => "listpack",
        Object::Sorted(_) => "skiplist",
        Object::List(_) => "quicklist",
        Object::Stream(_) => "stream",
        Object::Set(set) if set.is_numbers(settings.numbers_max) => "intset",
        _ => "hashtable",
    }
}

pub(crate) fn object_refcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    match ctx.glance(args.at(2)) {
        None => ctx.out().null(),
        Some(_) => ctx.out().int(1),
    }
    Ok(())
}

pub(crate) fn object_idletime(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if ctx.engine.settings.policy.is_lfu() {
        return Err("ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.".into());
    }
    match ctx.glance(args.at(2)) {
        None => ctx.out().null(),
        Some(found) => {
            let store = &ctx.engine.store;
            let idle = store.stamp.wrapping_sub(store.stamp_of(found)) & 0x00ff_ffff;
            ctx.out().int(i64::from(idle));
        }
    }
    Ok(())
}

pub(crate) fn object_freq(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if !ctx.engine.settings.policy.is_lfu() {
        return Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.".into());
    }
    match ctx.glance(args.at(2)) {
        None => ctx.out().null(),
        Some(found) => {
            let stamp = ctx.engine.store.stamp_of(found);
            let count = ctx.engine.settings.decayed(stamp, ctx.engine.stats.minutes());
            ctx.out().int(i64::from(count));
        }
    }
    Ok(())
}

impl Engine {
    /// Marks everybody who watches a key of these databases that is there.
    pub(crate) fn spoil_databases(&mut self, dbs: &[usize]) {
        let watched: Vec<(usize, Box<[u8]>)> =
            self.watchers.keys().filter(|(db, _)| dbs.contains(db)).cloned().collect();
        for (db, key) in watched {
            let hash = self.store.hash_of(&key);
            let is_there = dbs.iter().any(|db| self.store.find(*db, hash, &key).is_some());
            if is_there {
                self.spoil(db, &key);
            }
        }
    }
}
