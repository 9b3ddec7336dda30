//! Commands of publishing and listening.

use crate::context::{Ctx, Outcome};
use crate::pubsub::{Listening, names};
use crate::store::glob;
use crate::wire::reply::Fault;
use crate::wire::request::Args;

pub(crate) fn subscribe(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    join(ctx, args, Listening::Channel)
}

pub(crate) fn psubscribe(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    join(ctx, args, Listening::Pattern)
}

pub(crate) fn ssubscribe(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    join(ctx, args, Listening::Shard)
}

fn join(ctx: &mut Ctx<'_>, args: Args<'_>, listening: Listening) -> Outcome {
    // The other two are let through, as by Redis 7.0: its clients rely on it.
    if ctx.is_nested && listening == Listening::Shard {
        let (word, _) = listening.words();
        return Err(Fault::from(format!(
            "ERR {} isn't allowed for a DENY BLOCKING client",
            word.to_uppercase()
        )));
    }
    for channel in args.from(1).iter() {
        ctx.engine.channels.join(ctx.session, listening, channel);
        tell(ctx, (listening, listening.words().0), Some(channel));
    }
    Ok(())
}

/// Says what the client listens to now.
fn tell(ctx: &mut Ctx<'_>, (listening, word): (Listening, &str), channel: Option<&[u8]>) {
    let all = ctx.session.subscriptions.as_deref();
    let count = all.map_or(0, |all| match listening {
        Listening::Shard => all.shards.len(),
        _ => all.plain(),
    });
    let out = ctx.out();
    out.push(3);
    out.text(word);
    out.maybe(channel);
    out.count(count);
}

pub(crate) fn unsubscribe(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    leave(ctx, args, Listening::Channel)
}

pub(crate) fn punsubscribe(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    leave(ctx, args, Listening::Pattern)
}

pub(crate) fn sunsubscribe(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    leave(ctx, args, Listening::Shard)
}

fn leave(ctx: &mut Ctx<'_>, args: Args<'_>, listening: Listening) -> Outcome {
    let word = listening.words().1;
    let channels: Vec<Box<[u8]>> = if args.len() > 1 {
        args.from(1).iter().map(Into::into).collect()
    } else {
        let all = ctx.session.subscriptions.as_deref_mut();
        all.map(|all| names(all, listening).iter().cloned().collect()).unwrap_or_default()
    };
    if channels.is_empty() {
        tell(ctx, (listening, word), None);
    }
    for channel in channels {
        ctx.engine.channels.leave(ctx.session, listening, &channel);
        tell(ctx, (listening, word), Some(&channel));
    }
    let is_silent =
        ctx.session.subscriptions.as_ref().is_some_and(|all| all.plain() + all.shards.len() == 0);
    if is_silent {
        ctx.session.subscriptions = None;
    }
    Ok(())
}

pub(crate) fn publish(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = ctx.engine.publish(ctx.session.base, args.at(1), args.at(2));
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn spublish(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = ctx.engine.publish_to_shard(ctx.session.base, args.at(1), args.at(2));
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn channels(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    list(ctx, args, false)
}

pub(crate) fn shard_channels(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    list(ctx, args, true)
}

fn list(ctx: &mut Ctx<'_>, args: Args<'_>, shards: bool) -> Outcome {
    if args.len() > 3 {
        let given = String::from_utf8_lossy(args.at(1));
        return Err(format!(
            "ERR unknown subcommand or wrong number of arguments for '{given}'. Try PUBSUB HELP."
        )
        .into());
    }
    let base = ctx.session.base;
    let all = if shards { &ctx.engine.channels.shards } else { &ctx.engine.channels.plain };
    let matching: Vec<&[u8]> = all
        .keys()
        .filter(|(of, name)| {
            *of == base && args.get(2).is_none_or(|pattern| glob::matches(pattern, name))
        })
        .map(|(_, name)| &**name)
        .collect();
    ctx.session.out.array(matching.len());
    for name in matching {
        ctx.session.out.bulk(name);
    }
    Ok(())
}

pub(crate) fn numsub(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    count(ctx, args, false);
    Ok(())
}

pub(crate) fn shard_numsub(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    count(ctx, args, true);
    Ok(())
}

fn count(ctx: &mut Ctx<'_>, args: Args<'_>, shards: bool) {
    let base = ctx.session.base;
    let all = if shards { &ctx.engine.channels.shards } else { &ctx.engine.channels.plain };
    ctx.session.out.array(2 * (args.len() - 2));
    for name in args.from(2).iter() {
        let count = all.get(&(base, Box::from(name))).map_or(0, Vec::len);
        ctx.session.out.bulk(name);
        ctx.session.out.count(count);
    }
}

pub(crate) fn numpat(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let base = ctx.session.base;
    let count = ctx.engine.channels.patterns.keys().filter(|(of, _)| *of == base).count();
    ctx.out().count(count);
    Ok(())
}
