//! Views of what a client may do, in Redis's words. Grants are given elsewhere.

use super::{COMMANDS, by_name};
use crate::access::Rights;
use crate::command;
use crate::context::{Ctx, Outcome};
use crate::wire::reply::{Fault, SYNTAX};
use crate::wire::request::Args;

/// Redis's categories, in its order.
const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

pub(crate) fn acl_cat(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let Some(wanted) = args.get(2) else {
        ctx.out().array(CATEGORIES.len());
        for name in CATEGORIES {
            ctx.session.out.text(name);
        }
        return Ok(());
    };
    let wanted = String::from_utf8_lossy(wanted).to_ascii_lowercase();
    if args.len() > 3 {
        return Err(SYNTAX);
    }
    if !CATEGORIES.contains(&wanted.as_str()) {
        return Err(format!("ERR Unknown category '{wanted}'").into());
    }
    let name = format!("@{wanted}");
    let members = || COMMANDS.iter().filter(|command| command.categories().contains(&&*name));
    let out = ctx.out();
    out.array(members().count());
    members().for_each(|command| out.text(command.name));
    Ok(())
}

/// What somebody may do to everything, in the words of ACL rules.
struct Rules {
    commands: &'static str,
    keys: &'static str,
    channels: &'static str,
}

impl Rights {
    fn rules(self) -> Rules {
        Rules {
            commands: if self.administers_all() { "+@all" } else { "+@all -@admin" },
            keys: match (self.reads_all(), self.writes_all()) {
                (true, true) => "~*",
                (true, false) => "%R~*",
                (false, true) => "%W~*",
                (false, false) => "",
            },
            channels: if self.hears_all() { "&*" } else { "" },
        }
    }
}

fn name(ctx: &Ctx<'_>) -> String {
    ctx.session.principal.as_ref().map_or_else(String::new, |principal| principal.name.to_string())
}

pub(crate) fn acl_users(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let name = name(ctx);
    ctx.out().array(1);
    ctx.out().text(&name);
    Ok(())
}

pub(crate) fn acl_list(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let rules = ctx.session.rights.rules();
    let words = [rules.keys, rules.channels, rules.commands];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let line = format!("user {} on sanitize-payload {}", name(ctx), words.join(" "));
    ctx.out().array(1);
    ctx.out().text(&line);
    Ok(())
}

/// Nothing but of the client itself is known to it.
pub(crate) fn acl_getuser(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if name(ctx).as_bytes() != args.at(2) {
        ctx.out().null();
        return Ok(());
    }
    let rules = ctx.session.rights.rules();
    let out = ctx.out();
    out.map(6);
    out.text("flags");
    out.set(2);
    out.text("on");
    out.text("sanitize-payload");
    out.text("passwords");
    out.array(0);
    for (field, value) in
        [("commands", rules.commands), ("keys", rules.keys), ("channels", rules.channels)]
    {
        out.text(field);
        out.text(value);
    }
    out.text("selectors");
    out.array(0);
    Ok(())
}

/// Whether a command would be let through, without running it.
pub(crate) fn acl_dryrun(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if name(ctx).as_bytes() != args.at(2) {
        let given = String::from_utf8_lossy(args.at(2)).into_owned();
        return Err(format!("ERR User '{given}' not found").into());
    }
    let words = args.from(3);
    let command = command::find(words).or_else(|| by_name(words.at(0)));
    let command = command.ok_or_else(|| {
        let given = String::from_utf8_lossy(words.at(0)).into_owned();
        Fault::from(format!("ERR Command '{given}' not found"))
    })?;
    if !command.takes(words.len()) {
        return Err(format!("ERR wrong number of arguments for '{}' command", command.name).into());
    }
    let is_covered = ctx.session.rights.cover(command);
    let checked =
        if is_covered { Ok(()) } else { ctx.engine.check_rights(ctx.session, command, words) };
    match checked {
        Ok(()) => ctx.out().ok(),
        Err(fault) => {
            let text = fault.0.trim_start_matches("NOPERM ").to_owned();
            ctx.out().text(&text);
        }
    }
    Ok(())
}
