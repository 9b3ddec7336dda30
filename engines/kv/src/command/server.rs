//! Commands about the server: what it is, how it is set, what it does.

use super::connection::{REDIS_VERSION, lines};
use super::options::integer;
use super::{COMMANDS, Command, by_name, containers, flag, subcommands};
use crate::context::{Ctx, Outcome};
use crate::engine::DATABASES;
use crate::script::Home;
use crate::store::Found;
use crate::store::object::Kind;
use crate::wire::reply::{Fault, Reply, SYNTAX};
use crate::wire::request::{Args, Owned};

pub(crate) fn time(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let micros = ctx.engine.stats.micros;
    let out = ctx.out();
    out.array(2);
    out.bulk_int(micros.div_euclid(1_000_000));
    out.bulk_int(micros.rem_euclid(1_000_000));
    Ok(())
}

pub(crate) fn info(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let wanted: Vec<String> =
        args.from(1).iter().map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase()).collect();
    let is_default = wanted.is_empty()
        || wanted.iter().any(|name| matches!(name.as_str(), "default" | "all" | "everything"));
    let is_all = wanted.iter().any(|name| matches!(name.as_str(), "all" | "everything"));
    let mut text = String::new();
    for (name, section) in SECTIONS {
        let lower = name.to_ascii_lowercase();
        let is_wanted = wanted.contains(&lower)
            || (is_default && !matches!(lower.as_str(), "commandstats"))
            || (is_all && lower == "commandstats");
        if is_wanted {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text.push_str(&format!("# {name}\r\n"));
            text.push_str(&section(ctx));
        }
    }
    ctx.out().verbatim(&text);
    Ok(())
}

type Section = fn(&Ctx<'_>) -> String;

const SECTIONS: &[(&str, Section)] = &[
    ("Server", server_section),
    ("Clients", clients_section),
    ("Memory", memory_section),
    ("Persistence", persistence_section),
    ("Stats", stats_section),
    ("Replication", replication_section),
    ("CPU", cpu_section),
    ("Commandstats", commandstats_section),
    ("Errorstats", errorstats_section),
    ("Cluster", cluster_section),
    ("Keyspace", keyspace_section),
];

fn fields(fields: &[(&str, String)]) -> String {
    fields.iter().fold(String::new(), |text, (name, value)| text + name + ":" + value + "\r\n")
}

fn server_section(ctx: &Ctx<'_>) -> String {
    let stats = &ctx.engine.stats;
    let seconds = (ctx.now - stats.started).max(0) / 1_000;
    fields(&[
        ("redis_version", REDIS_VERSION.to_owned()),
        ("redis_mode", "standalone".into()),
        ("madang_version", env!("CARGO_PKG_VERSION").into()),
        ("os", std::env::consts::OS.into()),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("server_time_usec", stats.micros.to_string()),
        ("uptime_in_seconds", seconds.to_string()),
        ("uptime_in_days", (seconds / 86_400).to_string()),
    ])
}

fn clients_section(ctx: &Ctx<'_>) -> String {
    let engine = &ctx.engine;
    let listening =
        engine.sessions.iter().flatten().filter(|session| session.subscriptions.is_some()).count();
    fields(&[
        ("connected_clients", engine.clients.to_string()),
        ("maxclients", engine.settings.clients_max.to_string()),
        ("blocked_clients", engine.stats.blocked.to_string()),
        ("pubsub_clients", listening.to_string()),
    ])
}

fn memory_section(ctx: &Ctx<'_>) -> String {
    let engine = &ctx.engine;
    fields(&[
        ("used_memory", engine.memory_used().to_string()),
        ("used_memory_dataset", engine.store.used_bytes().to_string()),
        ("used_memory_held", engine.store.held_bytes().to_string()),
        ("used_memory_lua", engine.lua_bytes(ctx.session.base).to_string()),
        (
            "number_of_cached_scripts",
            engine.home(ctx.session.base).map_or(0, Home::count).to_string(),
        ),
        ("used_memory_scripts", engine.script_bytes().to_string()),
        ("maxmemory", engine.settings.memory_max.to_string()),
        ("maxmemory_policy", engine.settings.policy.name().into()),
        ("lazyfree_pending_objects", engine.lazily_pending().to_string()),
        ("lazyfreed_objects", (engine.lazily_freed() - engine.lazily_freed_before).to_string()),
        ("mem_allocator", "arena".into()),
    ])
}

fn persistence_section(ctx: &Ctx<'_>) -> String {
    let engine = &ctx.engine;
    fields(&[
        ("loading", "0".into()),
        ("async_loading", "0".into()),
        ("rdb_changes_since_last_save", engine.stats.dirty.to_string()),
        ("rdb_bgsave_in_progress", "0".into()),
        ("rdb_last_bgsave_status", "ok".into()),
        ("aof_enabled", u8::from(engine.settings.durability.is_kept()).to_string()),
        (
            "aof_rewrite_in_progress",
            u8::from(engine.store.is_capturing() || engine.wants_rewrite).to_string(),
        ),
        ("aof_rewrite_scheduled", "0".into()),
        ("aof_last_bgrewrite_status", "ok".into()),
        ("aof_last_write_status", if engine.refusal.is_some() { "err" } else { "ok" }.into()),
        ("appendfsync", engine.settings.durability.redis_name().into()),
    ])
}

fn stats_section(ctx: &Ctx<'_>) -> String {
    let engine = &ctx.engine;
    let stats = &engine.stats;
    let [clients, keys, items, prefixes] = engine.trackers.counts(ctx.session.base);
    fields(&[
        ("total_connections_received", stats.connections.to_string()),
        ("total_commands_processed", stats.commands.to_string()),
        ("total_net_input_bytes", stats.bytes_in.to_string()),
        ("total_net_output_bytes", stats.bytes_out.to_string()),
        ("rejected_connections", stats.rejected.to_string()),
        ("expired_keys", stats.expired.to_string()),
        ("expired_subkeys", stats.expired_fields.to_string()),
        ("evicted_keys", stats.evicted.to_string()),
        ("evicted_clients", stats.evicted_clients.to_string()),
        ("keyspace_hits", stats.hits.to_string()),
        ("keyspace_misses", stats.misses.to_string()),
        ("pubsub_channels", engine.channels.plain.len().to_string()),
        ("pubsub_patterns", engine.channels.patterns.len().to_string()),
        ("tracking_clients", clients.to_string()),
        ("tracking_total_keys", keys.to_string()),
        ("tracking_total_items", items.to_string()),
        ("tracking_total_prefixes", prefixes.to_string()),
        ("migrate_cached_sockets", "0".into()),
        ("total_error_replies", stats.errors.to_string()),
        ("client_output_buffer_limit_disconnections", stats.output_closed.to_string()),
    ])
}

fn replication_section(_: &Ctx<'_>) -> String {
    fields(&[
        ("role", "master".into()),
        ("connected_slaves", "0".into()),
        ("master_repl_offset", "0".into()),
    ])
}

fn cpu_section(_: &Ctx<'_>) -> String {
    let (user, system) = cpu_seconds();
    fields(&[("used_cpu_sys", format!("{system:.6}")), ("used_cpu_user", format!("{user:.6}"))])
}

/// Seconds that this process has run, in itself and in the system.
fn cpu_seconds() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Vec<f64> = text
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse().ok())
        .collect();
    let rate = rustix::param::clock_ticks_per_second() as f64;
    match ticks[..] {
        [user, system] => (user / rate, system / rate),
        _ => (0.0, 0.0),
    }
}

fn commandstats_section(ctx: &Ctx<'_>) -> String {
    let stats = &ctx.engine.stats;
    let mut text = String::new();
    for command in COMMANDS {
        let at = command.index();
        let (calls, took) = (stats.calls[at], stats.took[at]);
        let (rejected, failed) = (stats.rejected_calls[at], stats.failed_calls[at]);
        if calls + rejected == 0 {
            continue;
        }
        let each = took as f64 / calls.max(1) as f64;
        text.push_str(&format!(
            "cmdstat_{}:calls={calls},usec={took},usec_per_call={each:.2},rejected_calls={rejected},failed_calls={failed}\r\n",
            command.name
        ));
    }
    text
}

fn errorstats_section(ctx: &Ctx<'_>) -> String {
    let mut text = String::new();
    for (kind, count) in &ctx.engine.stats.error_kinds {
        text.push_str(&format!("errorstat_{kind}:count={count}\r\n"));
    }
    text
}

fn cluster_section(_: &Ctx<'_>) -> String {
    fields(&[("cluster_enabled", "0".into())])
}

fn keyspace_section(ctx: &Ctx<'_>) -> String {
    let store = &ctx.engine.store;
    let base = ctx.session.base;
    let mut text = String::new();
    for number in (0..DATABASES).filter(|number| store.len(base + number) > 0) {
        let (keys, expires) = (store.len(base + number), store.expiring(base + number));
        text.push_str(&format!("db{number}:keys={keys},expires={expires},avg_ttl=0\r\n"));
    }
    text
}

pub(crate) fn config_get(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for pattern in args.from(2).iter() {
        for (name, value) in ctx.engine.settings.get(pattern) {
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, value));
            }
        }
    }
    let out = ctx.out();
    out.map(found.len());
    for (name, value) in found {
        out.text(name);
        out.text(&value);
    }
    Ok(())
}

pub(crate) fn config_set(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if !args.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    let pairs: Vec<(String, String)> = (2..args.len())
        .step_by(2)
        .map(|at| {
            let text = |at| String::from_utf8_lossy(args.at(at)).into_owned();
            (text(at), text(at + 1))
        })
        .collect();
    for (at, (name, _)) in pairs.iter().enumerate() {
        if !ctx.engine.settings.is_known(name) {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            )
            .into());
        }
        if pairs[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - duplicate parameter").into());
        }
    }
    let mut done: Vec<(String, String)> = Vec::new();
    for (name, value) in &pairs {
        let before = ctx.engine.settings.get(name.as_bytes());
        if let Err(reason) = ctx.engine.settings.set(name, value) {
            // All or nothing.
            for (name, value) in done.into_iter().rev() {
                drop(ctx.engine.settings.set(&name, &value));
            }
            return Err(format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"
            )
            .into());
        }
        done.extend(before.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    ctx.out().ok();
    Ok(())
}

pub(crate) fn config_resetstat(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    ctx.engine.stats.reset();
    ctx.engine.latency.forget_histograms();
    ctx.engine.lazily_freed_before = ctx.engine.lazily_freed();
    ctx.out().ok();
    Ok(())
}

pub(crate) fn command(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let tops: Vec<&str> = top_names().collect();
    ctx.out().array(tops.len());
    for name in tops {
        write_info(ctx.out(), name.as_bytes());
    }
    Ok(())
}

fn top_names() -> impl Iterator<Item = &'static str> {
    let plain = COMMANDS.iter().map(|command| command.name).filter(|name| !name.contains('|'));
    plain.chain(containers().iter().copied().filter(|name| by_name(name.as_bytes()).is_none()))
}

pub(crate) fn command_count(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    ctx.out().count(top_names().count());
    Ok(())
}

pub(crate) fn command_list(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let keeps = |name: &str| -> Result<bool, Fault> {
        if args.len() == 2 {
            return Ok(true);
        }
        if args.len() != 5 || !args.is(2, "FILTERBY") {
            return Err(SYNTAX);
        }
        let value = String::from_utf8_lossy(args.at(4)).to_lowercase();
        Ok(match () {
            () if args.is(3, "PATTERN") => {
                crate::store::glob::matches_caseless(args.at(4), name.as_bytes())
            }
            () if args.is(3, "MODULE") => false,
            () if args.is(3, "ACLCAT") => by_name(name.as_bytes())
                .is_some_and(|command| command.categories().contains(&&*format!("@{value}"))),
            () => return Err(SYNTAX),
        })
    };
    let mut names = Vec::new();
    let subs = COMMANDS.iter().map(|command| command.name).filter(|name| name.contains('|'));
    for name in top_names().chain(subs) {
        if keeps(name)? {
            names.push(name);
        }
    }
    let out = ctx.out();
    out.array(names.len());
    for name in names {
        out.text(name);
    }
    Ok(())
}

pub(crate) fn command_info(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() == 2 {
        return command(ctx, args);
    }
    ctx.out().array(args.len() - 2);
    for name in args.from(2).iter() {
        write_info(ctx.out(), name);
    }
    Ok(())
}

fn write_info(out: &mut Reply, name: &[u8]) {
    let command = by_name(name);
    let parent = std::str::from_utf8(name).unwrap_or_default().to_lowercase();
    let subs: Vec<&Command> = subcommands(&parent).collect();
    if command.is_none() && subs.is_empty() {
        out.null_array();
        return;
    }
    out.array(10);
    out.text(&parent);
    out.int(i64::from(command.map_or(-2, |command| command.arity)));
    let words = command.map(Command::flag_words).unwrap_or_default();
    out.set(words.len());
    for word in words {
        out.simple(word);
    }
    out.int(command.map_or(0, |command| command.first_key as i64));
    out.int(command.map_or(0, |command| i64::from(command.last_key)));
    out.int(command.map_or(0, |command| command.step as i64));
    let categories = command.map(Command::categories).unwrap_or_default();
    out.set(categories.len());
    for word in categories {
        out.simple(word);
    }
    out.array(0);
    match command.filter(|command| command.first_key > 0) {
        Some(command) => {
            out.array(1);
            write_key_spec(out, command);
        }
        None => out.array(0),
    }
    out.array(subs.len());
    for sub in subs {
        write_info(out, sub.name.as_bytes());
    }
}

fn write_key_spec(out: &mut Reply, command: &Command) {
    out.map(3);
    out.text("flags");
    let words: &[&str] =
        if command.has(flag::WRITE) { &["RW", "UPDATE"] } else { &["RO", "ACCESS"] };
    out.set(words.len());
    for word in words {
        out.simple(word);
    }
    out.text("begin_search");
    out.map(2);
    out.text("type");
    out.text("index");
    out.text("spec");
    out.map(1);
    out.text("index");
    out.count(command.first_key);
    out.text("find_keys");
    out.map(2);
    out.text("type");
    out.text("range");
    out.text("spec");
    out.map(3);
    out.text("lastkey");
    let last = if command.last_key < 0 {
        command.last_key
    } else {
        command.last_key - command.first_key as i32
    };
    out.int(i64::from(last));
    out.text("keystep");
    out.count(command.step);
    out.text("limit");
    out.int(0);
}

pub(crate) fn command_docs(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let names: Vec<String> = if args.len() == 2 {
        top_names().map(str::to_owned).collect()
    } else {
        args.from(2).iter().map(|name| String::from_utf8_lossy(name).to_lowercase()).collect()
    };
    let known: Vec<&String> = names
        .iter()
        .filter(|name| by_name(name.as_bytes()).is_some() || subcommands(name).next().is_some())
        .collect();
    let out = ctx.out();
    out.map(known.len());
    for name in known {
        write_docs(out, name);
    }
    Ok(())
}

fn write_docs(out: &mut Reply, name: &str) {
    let subs: Vec<&Command> = subcommands(name).collect();
    let group = subs.first().map_or("server", |sub| sub.group.name());
    let (summary, since, group) = match by_name(name.as_bytes()) {
        Some(command) => (command.summary, command.since, command.group.name()),
        None => ("Has subcommands.", subs.first().map_or("1.0.0", |sub| sub.since), group),
    };
    out.text(name);
    out.map(3 + usize::from(!subs.is_empty()));
    for (field, value) in [("summary", summary), ("since", since), ("group", group)] {
        out.text(field);
        out.text(value);
    }
    if !subs.is_empty() {
        out.text("subcommands");
        out.map(subs.len());
        for sub in subs {
            write_docs(out, sub.name);
        }
    }
}

pub(crate) fn command_getkeys(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let request = Owned::new(args.from(2).iter());
    let request = request.args();
    let command = super::find(request).ok_or("ERR Invalid command specified")?;
    if !command.takes(request.len()) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    let keys = command.keys(request);
    if keys.is_empty() && !command.has_keys() {
        return Err("ERR The command has no key arguments".into());
    }
    let with_flags = args.is(1, "GETKEYSANDFLAGS");
    let flags = super::key_flags::flags(command.name, request);
    let out = ctx.out();
    out.array(keys.len());
    for (number, at) in keys.into_iter().enumerate() {
        if with_flags {
            out.array(2);
        }
        out.bulk(request.get(at).unwrap_or_default());
        if with_flags {
            let words = flags(number);
            out.set(words.len());
            for word in words {
                out.simple(word);
            }
        }
    }
    Ok(())
}

pub(crate) fn memory_usage(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 3 && (args.len() != 5 || !args.is(3, "SAMPLES")) {
        return Err(SYNTAX);
    }
    if let Some(samples) = args.get(4)
        && integer(samples)? < 0
    {
        return Err(SYNTAX);
    }
    match ctx.find(args.at(2)) {
        None => ctx.out().null(),
        Some(found) => {
            let bytes = entry_bytes(ctx, found);
            ctx.out().count(bytes);
        }
    }
    Ok(())
}

fn entry_bytes(ctx: &Ctx<'_>, found: Found) -> usize {
    let store = &ctx.engine.store;
    // Header, deadline, slot.
    let frame = 8 + 8 * usize::from(store.deadline(found).is_some()) + 14;
    let inner = if store.kind(found) == Kind::String {
        store.string(found).len()
    } else {
        4 + store.object(found).bytes()
    };
    frame + store.key(found).len() + inner
}

pub(crate) fn slowlog_get(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let count = match args.get(2) {
        None => 10,
        Some(text) => match integer(text)? {
            -1 => usize::MAX,
            count => usize::try_from(count)
                .map_err(|_| "ERR count should be greater than or equal to -1")?,
        },
    };
    let base = ctx.session.base;
    let own = ctx.engine.slow.entries.iter().filter(|entry| entry.base == base);
    let entries: Vec<_> = own.take(count).collect();
    let out = &mut ctx.session.out;
    out.array(entries.len());
    for entry in entries {
        out.array(6);
        out.int(entry.id as i64);
        out.int(entry.at);
        out.int(entry.micros as i64);
        out.array(entry.args.len());
        for arg in &entry.args {
            out.bulk(arg);
        }
        out.text(&entry.address);
        out.bulk(&entry.name);
    }
    Ok(())
}

pub(crate) fn slowlog_len(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let base = ctx.session.base;
    let count = ctx.engine.slow.entries.iter().filter(|entry| entry.base == base).count();
    ctx.out().count(count);
    Ok(())
}

pub(crate) fn slowlog_reset(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let base = ctx.session.base;
    ctx.engine.slow.entries.retain(|entry| entry.base != base);
    ctx.out().ok();
    Ok(())
}

/// The newest moment of each event, of all organisations.
pub(crate) fn latency_latest(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let (engine, out) = (&mut *ctx.engine, &mut ctx.session.out);
    let events = engine.latency.events();
    out.array(events.len());
    for (name, event) in events {
        let (at, millis) = event.moments.back().copied().unwrap_or_default();
        out.array(4);
        out.text(name);
        for number in [at, millis, event.longest] {
            out.int(number);
        }
    }
    Ok(())
}

pub(crate) fn latency_history(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (engine, out) = (&mut *ctx.engine, &mut ctx.session.out);
    let name = String::from_utf8_lossy(args.at(2));
    let moments = engine.latency.events().get(&*name).map(|event| &event.moments);
    out.array(moments.map_or(0, std::collections::VecDeque::len));
    for (at, millis) in moments.into_iter().flatten() {
        out.array(2);
        out.int(*at);
        out.int(*millis);
    }
    Ok(())
}

pub(crate) fn latency_reset(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let names: Vec<String> =
        args.from(2).iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let count = ctx.engine.latency.forget(&names);
    ctx.out().count(count);
    Ok(())
}

/// How long calls took, of the commands that are named, their subcommands included, or of all.
pub(crate) fn latency_histogram(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let names: Vec<String> =
        args.from(2).iter().map(|name| String::from_utf8_lossy(name).to_lowercase()).collect();
    let is_wanted = |name: &str| {
        names.is_empty()
            || names.iter().any(|one| {
                one == name || name.split_once('|').is_some_and(|(parent, _)| parent == one)
            })
    };
    let (engine, out) = (&mut *ctx.engine, &mut ctx.session.out);
    let called = |at: usize| engine.stats.calls[at] > 0;
    let found: Vec<usize> =
        (0..COMMANDS.len()).filter(|at| called(*at) && is_wanted(COMMANDS[*at].name)).collect();
    out.map(found.len());
    for at in found {
        out.text(COMMANDS[at].name);
        out.map(2);
        out.text("calls");
        out.int(i64::try_from(engine.stats.calls[at]).unwrap_or(i64::MAX));
        out.text("histogram_usec");
        let histogram = engine.latency.histogram(at);
        out.map(histogram.len());
        for (bound, count) in histogram {
            out.int(i64::try_from(bound).unwrap_or(i64::MAX));
            out.int(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    Ok(())
}

pub(crate) fn latency_doctor(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let engine = &ctx.engine;
    let mut text = String::new();
    if engine.settings.latency_millis == 0 {
        text.push_str("Nothing is watched: CONFIG SET latency-monitor-threshold says from how many milliseconds on.\n");
    }
    if engine.latency.events().is_empty() {
        text.push_str("Nothing took long.\n");
    }
    for (name, event) in engine.latency.events() {
        let count = event.moments.len() as i64;
        let mean = event.moments.iter().map(|(_, millis)| millis).sum::<i64>() / count.max(1);
        let advice = match *name {
            "command" | "fast-command" => "SLOWLOG GET names the commands.",
            "expire-cycle" => "Large values expire, or many keys at once: spread their times.",
            "aof-fsync-always" => "The disk is slow: each reply waits for its fsync.",
            _ => "The disk is slow to take what is written.",
        };
        text.push_str(&format!(
            "{name}: {count} times, {mean} ms on average, {} ms at most. {advice}\n",
            event.longest
        ));
    }
    ctx.out().verbatim(&text);
    Ok(())
}

pub(crate) fn bgrewriteaof(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    if !ctx.engine.settings.durability.is_kept() {
        return Err(KEEPS_NOTHING.into());
    }
    if ctx.engine.wants_rewrite || ctx.engine.store.is_capturing() {
        return Err("ERR Background append only file rewriting already in progress".into());
    }
    ctx.engine.wants_rewrite = true;
    ctx.out().simple("Background append only file rewriting started");
    Ok(())
}

pub(crate) fn monitor(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    if !ctx.session.is_monitor {
        ctx.session.is_monitor = true;
        ctx.engine.monitors += 1;
    }
    ctx.out().ok();
    Ok(())
}

pub(crate) fn role(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let out = ctx.out();
    out.array(3);
    out.text("master");
    out.int(0);
    out.array(0);
    Ok(())
}

const KEEPS_NOTHING: &str = "ERR nothing is kept on disk: the store's durability is memory";

/// With `always` it is so anyway.
pub(crate) fn save(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    if !ctx.engine.settings.durability.is_kept() {
        return Err(KEEPS_NOTHING.into());
    }
    if let Some(refusal) = ctx.engine.refusal {
        return Err(refusal.into());
    }
    ctx.engine.wants_sync = true;
    ctx.engine.bind(ctx.session);
    ctx.out().ok();
    Ok(())
}

pub(crate) fn debug_set_active_expire(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    ctx.engine.expires_actively = integer(args.at(2))? != 0;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn acl_whoami(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let session = &mut *ctx.session;
    let name = session.principal.as_ref().map_or("default", |principal| &*principal.name);
    session.out.text(name);
    Ok(())
}

/// The subcommands of a command with what each is.
pub(crate) fn help(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let name = String::from_utf8_lossy(args.at(0)).to_lowercase();
    let mut text = vec![format!(
        "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        name.to_uppercase()
    )];
    for sub in subcommands(&name) {
        let word = sub.name.split_once('|').map_or("", |(_, word)| word);
        text.push(word.to_uppercase());
        text.push(format!("    {}", sub.summary));
    }
    lines(ctx.out(), &text);
    Ok(())
}
