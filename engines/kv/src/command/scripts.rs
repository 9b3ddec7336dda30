//! Commands of scripts and functions. What is to be run is noted, and run when the command has ended.

use super::options::integer;
use crate::context::{Ctx, Outcome};
use crate::script::{Call, Library, Policy, What};
use crate::store::{dump, glob};
use crate::wire::reply::Fault;
use crate::wire::request::Args;

type Texts = Vec<Vec<u8>>;

/// Of a script's name.
const SHA1_DIGITS: usize = 40;

/// Keys and arguments behind their number.
fn keys_and_args(args: Args<'_>) -> Result<(Texts, Texts), Fault> {
    let count = integer(args.at(2))?;
    if count > (args.len() - 3) as i64 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    let count =
        usize::try_from(count).map_err(|_| Fault::from("ERR Number of keys can't be negative"))?;
    let owned = |args: Args<'_>| args.iter().map(<[u8]>::to_vec).collect::<Texts>();
    let mut keys = owned(args.from(3));
    let rest = keys.split_off(count);
    Ok((keys, rest))
}

fn run(ctx: &mut Ctx<'_>, args: Args<'_>, what: What, reads_only: bool) -> Outcome {
    let (keys, args) = keys_and_args(args)?;
    ctx.session.script = Some(Box::new(Call { what, keys, args, reads_only }));
    Ok(())
}

pub(crate) fn eval(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run_text(ctx, args, false)
}

pub(crate) fn eval_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run_text(ctx, args, true)
}

fn run_text(ctx: &mut Ctx<'_>, args: Args<'_>, reads_only: bool) -> Outcome {
    keys_and_args(args)?;
    let name = learn(ctx, args.at(1))?;
    run(ctx, args, What::Script(name), reads_only)
}

fn learn(ctx: &mut Ctx<'_>, text: &[u8]) -> Result<String, Fault> {
    let base = ctx.session.base;
    let limits = ctx.engine.settings.scripts;
    let mut home = ctx.engine.take_home(base)?;
    let learnt = home.learn(text, limits);
    ctx.engine.put_home(base, home);
    learnt
}

pub(crate) fn evalsha(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run_known(ctx, args, false)
}

pub(crate) fn evalsha_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    run_known(ctx, args, true)
}

fn run_known(ctx: &mut Ctx<'_>, args: Args<'_>, reads_only: bool) -> Outcome {
    const NOT_KNOWN: &str = "NOSCRIPT No matching script. Please use EVAL.";
    if args.at(1).len() != SHA1_DIGITS {
        return Err(NOT_KNOWN.into());
    }
    keys_and_args(args)?;
    let name = String::from_utf8_lossy(args.at(1)).to_lowercase();
    if !is_known(ctx, &name) {
        return Err(NOT_KNOWN.into());
    }
    run(ctx, args, What::Script(name), reads_only)
}

fn is_known(ctx: &Ctx<'_>, name: &str) -> bool {
    ctx.engine.home(ctx.session.base).is_some_and(|home| home.knows(name))
}

pub(crate) fn script_load(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let name = learn(ctx, args.at(2))?;
    ctx.out().text(&name);
    Ok(())
}

pub(crate) fn script_exists(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    ctx.out().array(args.len() - 2);
    for name in args.from(2).iter() {
        let name = String::from_utf8_lossy(name).to_lowercase();
        let is_known = is_known(ctx, &name);
        ctx.out().flag(is_known);
    }
    Ok(())
}

pub(crate) fn script_flush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 3 || (args.len() == 3 && !args.is(2, "SYNC") && !args.is(2, "ASYNC")) {
        return Err("ERR SCRIPT FLUSH only support SYNC|ASYNC option".into());
    }
    let base = ctx.session.base;
    ctx.engine.forget_scripts(base);
    ctx.out().ok();
    Ok(())
}

pub(crate) fn script_kill(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    kill(ctx, false)
}

pub(crate) fn function_kill(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    kill(ctx, true)
}

fn kill(ctx: &mut Ctx<'_>, is_function: bool) -> Outcome {
    let base = ctx.session.base;
    let busy = ctx.engine.busy.as_mut().filter(|busy| busy.base == base);
    let busy = busy.ok_or("NOTBUSY No scripts in execution right now.")?;
    if busy.is_function != is_function {
        return Err(busy.refusal());
    }
    if busy.has_written {
        return Err("UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.".into());
    }
    busy.is_killed = true;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn fcall(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    call(ctx, args, false)
}

pub(crate) fn fcall_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    call(ctx, args, true)
}

fn call(ctx: &mut Ctx<'_>, args: Args<'_>, reads_only: bool) -> Outcome {
    let name = String::from_utf8_lossy(args.at(1)).into_owned();
    let home = ctx.engine.home(ctx.session.base);
    if home.is_none_or(|home| home.libraries.find(&name).is_none()) {
        return Err("ERR Function not found".into());
    }
    if integer(args.at(2)).is_err() {
        return Err("ERR Bad number of keys provided".into());
    }
    run(ctx, args, What::Function(name), reads_only)
}

pub(crate) fn function_load(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (mut policy, mut at) = (Policy::New, 2);
    while at + 1 < args.len() {
        if !args.is(at, "REPLACE") {
            let option = String::from_utf8_lossy(args.at(at));
            return Err(format!("ERR Unknown option given: {option}").into());
        }
        policy = Policy::ReplaceOne;
        at += 1;
    }
    let code = args.get(at).ok_or("ERR Function code is missing")?.to_vec();
    let what = What::Load(vec![code], policy);
    let call = Call { what, keys: Vec::new(), args: Vec::new(), reads_only: false };
    ctx.session.script = Some(Box::new(call));
    Ok(())
}

pub(crate) fn function_delete(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let name = String::from_utf8_lossy(args.at(2)).into_owned();
    let base = ctx.session.base;
    let mut home = ctx.engine.take_home(base)?;
    let is_removed = home.libraries.remove(&name);
    ctx.engine.put_home(base, home);
    if !is_removed {
        return Err("ERR Library not found".into());
    }
    ctx.verbatim();
    ctx.out().ok();
    Ok(())
}

fn misused(args: Args<'_>) -> Fault {
    let sub = String::from_utf8_lossy(args.at(1));
    format!("ERR unknown subcommand or wrong number of arguments for '{sub}'. Try FUNCTION HELP.")
        .into()
}

pub(crate) fn function_flush(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 3 {
        return Err(misused(args));
    }
    if args.len() == 3 && !args.is(2, "SYNC") && !args.is(2, "ASYNC") {
        return Err("ERR FUNCTION FLUSH only supports SYNC|ASYNC option".into());
    }
    let base = ctx.session.base;
    if ctx.engine.home(base).is_some_and(|home| !home.libraries.all().is_empty()) {
        let mut home = ctx.engine.take_home(base)?;
        home.libraries.clear();
        ctx.engine.put_home(base, home);
        ctx.effect(&[b"FUNCTION", b"FLUSH"]);
    }
    ctx.out().ok();
    Ok(())
}

pub(crate) fn function_list(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (mut pattern, mut with_code) = (None, false);
    let mut at = 2;
    while at < args.len() {
        match () {
            () if !with_code && args.is(at, "WITHCODE") => with_code = true,
            () if pattern.is_none() && args.is(at, "LIBRARYNAME") => {
                at += 1;
                pattern = Some(args.get(at).ok_or("ERR library name argument was not given")?);
            }
            () => {
                let option = String::from_utf8_lossy(args.at(at));
                return Err(format!("ERR Unknown argument {option}").into());
            }
        }
        at += 1;
    }
    let home = ctx.engine.scripts.get(ctx.session.base);
    let all = home.into_iter().flat_map(|home| home.libraries.all());
    let is_wanted =
        |name: &str| pattern.is_none_or(|pattern| glob::matches_caseless(pattern, name.as_bytes()));
    let found: Vec<(&String, &Library)> = all.filter(|(name, _)| is_wanted(name)).collect();
    let out = &mut ctx.session.out;
    out.array(found.len());
    for (name, library) in found {
        out.map(if with_code { 4 } else { 3 });
        out.text("library_name");
        out.text(name);
        out.text("engine");
        out.text("LUA");
        out.text("functions");
        out.array(library.functions.len());
        for function in library.functions.values() {
            out.map(3);
            out.text("name");
            out.text(&function.name);
            out.text("description");
            out.maybe(function.description.as_deref());
            out.text("flags");
            let flags = function.flags.names();
            out.set(flags.len());
            for flag in flags {
                out.simple(flag);
            }
        }
        if with_code {
            out.text("library_code");
            out.bulk(&library.code);
        }
    }
    Ok(())
}

pub(crate) fn function_stats(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let base = ctx.session.base;
    let (engine, out) = (&mut *ctx.engine, &mut ctx.session.out);
    let busy = engine.busy.as_ref().filter(|busy| busy.base == base);
    if let Some(busy) = busy.filter(|busy| !busy.is_function) {
        return Err(busy.refusal());
    }
    let (libraries, functions) = match busy {
        Some(busy) => (busy.libraries, busy.functions),
        None => engine.scripts.get(base).map_or((0, 0), |home| home.libraries.counts()),
    };
    out.map(2);
    out.text("running_script");
    match busy {
        Some(busy) => {
            out.map(3);
            out.text("name");
            out.text(&busy.name);
            out.text("command");
            out.array(busy.command.len());
            busy.command.iter().for_each(|word| out.bulk(word));
            out.text("duration_ms");
            out.count((busy.took_micros / 1_000) as usize);
        }
        None => out.null(),
    }
    out.text("engines");
    out.map(1);
    out.text("LUA");
    out.map(2);
    out.text("libraries_count");
    out.count(libraries);
    out.text("functions_count");
    out.count(functions);
    Ok(())
}

pub(crate) fn function_dump(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let home = ctx.engine.scripts.get(ctx.session.base);
    let codes: Vec<&[u8]> = home.into_iter().flat_map(|home| home.libraries.codes()).collect();
    let payload = dump::write_functions(&codes);
    ctx.out().bulk(&payload);
    Ok(())
}

pub(crate) fn function_restore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let policy = match args.len() {
        3 => Policy::Append,
        4 if args.is(3, "APPEND") => Policy::Append,
        4 if args.is(3, "REPLACE") => Policy::Replace,
        4 if args.is(3, "FLUSH") => Policy::Flush,
        4 => {
            return Err(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE."
                    .into(),
            );
        }
        _ => return Err(misused(args)),
    };
    let codes = dump::read_functions(args.at(2)).map_err(|damage| match damage {
        dump::Fault::Frame => Fault::from("ERR DUMP payload version or checksum are wrong"),
        dump::Fault::Content => Fault::from("ERR failed loading the given functions payload"),
    })?;
    let what = What::Load(codes, policy);
    let call = Call { what, keys: Vec::new(), args: Vec::new(), reads_only: false };
    ctx.session.script = Some(Box::new(call));
    Ok(())
}
