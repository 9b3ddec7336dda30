//! Commands about copies that clients keep.

use std::collections::BTreeSet;

use super::options::integer;
use crate::access;
use crate::context::{Ctx, Outcome};
use crate::tracking::Wishes;
use crate::wire::reply::{Fault, SYNTAX};
use crate::wire::request::Args;

pub(crate) fn client_tracking(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let id = ctx.session.id;
    let wishes = read(ctx, args)?;
    match () {
        () if args.is(2, "ON") => {}
        () if args.is(2, "OFF") => {
            ctx.engine.trackers.stop(id);
            ctx.session.is_tracking = false;
            ctx.out().ok();
            return Ok(());
        }
        () => return Err(SYNTAX),
    }
    let old = ctx.engine.trackers.of(id).map(|tracker| tracker.wishes.clone());
    let wishes = checked(wishes, old)?;
    if wishes.broadcasts {
        check_rights(ctx, &wishes.prefixes)?;
    }
    let redirect = match wishes.redirect {
        None => None,
        Some(other) if other == id => Some(ctx.session.token),
        Some(other) => {
            let base = ctx.session.base;
            let mut sessions = ctx.engine.sessions.iter().flatten();
            let found = sessions.find(|session| session.id == other && session.base == base);
            let found = found.ok_or("ERR The client ID you want redirect to does not exist")?;
            Some(found.token)
        }
    };
    ctx.engine.trackers.start(ctx.session, (wishes, redirect));
    ctx.session.is_tracking = true;
    ctx.out().ok();
    Ok(())
}

fn read(ctx: &Ctx<'_>, args: Args<'_>) -> Result<Wishes, Fault> {
    let mut wishes = Wishes::default();
    let mut at = 3;
    while at < args.len() {
        match () {
            () if args.is(at, "REDIRECT") && at + 1 < args.len() => {
                at += 1;
                if wishes.redirect.is_some() {
                    return Err("ERR A client can only redirect to a single other client".into());
                }
                let id = integer(args.at(at)).map_err(|_| "ERR Invalid client ID")?;
                let id = u64::try_from(id).map_err(|_| "ERR Invalid client ID")?;
                wishes.redirect = (id > 0).then_some(id);
                let is_known = |id| {
                    let mut others = ctx.engine.sessions.iter().flatten();
                    id == ctx.session.id || others.any(|other| other.id == id)
                };
                if wishes.redirect.is_some_and(|id| !is_known(id)) {
                    return Err("ERR The client ID you want redirect to does not exist".into());
                }
            }
            () if args.is(at, "BCAST") => wishes.broadcasts = true,
            () if args.is(at, "OPTIN") => wishes.opts_in = true,
            () if args.is(at, "OPTOUT") => wishes.opts_out = true,
            () if args.is(at, "NOLOOP") => wishes.no_loop = true,
            () if args.is(at, "PREFIX") && at + 1 < args.len() => {
                at += 1;
                let prefix = args.at(at);
                if let Some(other) = wishes.prefixes.iter().find(|other| overlap(other, prefix)) {
                    return Err(overlapping(other, prefix, "another provided"));
                }
                wishes.prefixes.insert(prefix.into());
            }
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    Ok(wishes)
}

fn overlap(one: &[u8], other: &[u8]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn overlapping(one: &[u8], other: &[u8], which: &str) -> Fault {
    let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    format!("ERR Prefix '{one}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap.").into()
}

/// What fits together, and to what the client already tracks.
fn checked(mut wishes: Wishes, old: Option<Wishes>) -> Result<Wishes, Fault> {
    if wishes.opts_in && wishes.opts_out {
        return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
    }
    if !wishes.broadcasts && !wishes.prefixes.is_empty() {
        return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
    }
    if let Some(old) = &old
        && old.broadcasts != wishes.broadcasts
    {
        return Err("ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.".into());
    }
    if wishes.broadcasts && (wishes.opts_in || wishes.opts_out) {
        return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
    }
    if let Some(old) = &old
        && ((wishes.opts_in && old.opts_out) || (wishes.opts_out && old.opts_in))
    {
        return Err("ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.".into());
    }
    if wishes.broadcasts {
        let before: BTreeSet<Box<[u8]>> = old.map(|old| old.prefixes).unwrap_or_default();
        if wishes.prefixes.is_empty() && before.is_empty() {
            wishes.prefixes.insert(Box::default());
        }
        for prefix in &wishes.prefixes {
            let other = before.iter().find(|other| *other != prefix && overlap(other, prefix));
            if let Some(other) = other {
                return Err(overlapping(prefix, other, "an existing"));
            }
        }
        wishes.prefixes.extend(before);
    }
    Ok(wishes)
}

/// Names of keys are told only to who may read them.
fn check_rights(ctx: &Ctx<'_>, prefixes: &BTreeSet<Box<[u8]>>) -> Outcome {
    let Some(principal) = &ctx.session.principal else { return Ok(()) };
    let authority = &*ctx.engine.gate.authority;
    let may = |prefix: &[u8]| access::may_read_all(authority, principal, prefix);
    if ctx.session.rights.reads_all() || prefixes.iter().all(|prefix| may(prefix)) {
        return Ok(());
    }
    Err("NOPERM this user has no permissions to access all keys with the given prefixes".into())
}

pub(crate) fn client_caching(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let tracker = ctx.engine.trackers.of_mut(ctx.session.id);
    let tracker = tracker.filter(|tracker| tracker.wishes.opts_in || tracker.wishes.opts_out);
    let tracker = tracker.ok_or("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")?;
    match () {
        () if args.is(2, "YES") && tracker.wishes.opts_in => {}
        () if args.is(2, "YES") => {
            return Err(
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
                    .into(),
            );
        }
        () if args.is(2, "NO") && tracker.wishes.opts_out => {}
        () if args.is(2, "NO") => {
            return Err(
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
                    .into(),
            );
        }
        () => return Err(SYNTAX),
    }
    tracker.caching = true;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn client_getredir(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let number = redirect(ctx);
    ctx.out().int(number);
    Ok(())
}

fn redirect(ctx: &Ctx<'_>) -> i64 {
    let tracker = ctx.engine.trackers.of(ctx.session.id);
    tracker.map_or(-1, |tracker| tracker.wishes.redirect.unwrap_or(0) as i64)
}

pub(crate) fn client_trackinginfo(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let number = redirect(ctx);
    let tracker = ctx.engine.trackers.of(ctx.session.id);
    let mut flags = vec![if tracker.is_some() { "on" } else { "off" }];
    let mut prefixes = Vec::new();
    if let Some(tracker) = tracker {
        let wishes = &tracker.wishes;
        let known = [
            (wishes.broadcasts, "bcast"),
            (wishes.opts_in, "optin"),
            (wishes.opts_in && tracker.caching, "caching-yes"),
            (wishes.opts_out, "optout"),
            (wishes.opts_out && tracker.caching, "caching-no"),
            (wishes.no_loop, "noloop"),
            (tracker.is_broken, "broken_redirect"),
        ];
        flags.extend(known.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word));
        prefixes.extend(wishes.prefixes.iter());
    }
    let out = &mut ctx.session.out;
    out.map(3);
    out.text("flags");
    out.set(flags.len());
    for flag in flags {
        out.text(flag);
    }
    out.text("redirect");
    out.int(number);
    out.text("prefixes");
    out.array(prefixes.len());
    for prefix in prefixes {
        out.bulk(prefix);
    }
    Ok(())
}
