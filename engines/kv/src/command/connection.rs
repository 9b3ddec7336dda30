//! Commands about the connection itself.

use super::options::integer;
use crate::context::{Ctx, Outcome};
use crate::engine::Engine;
use crate::pubsub::NAME_BYTES;
use crate::session::{Hello, Multi, Replies, Session, State};
use crate::wire::reply::{Fault, Reply, SYNTAX};
use crate::wire::request::Args;

/// The Redis whose behaviour is kept; clients choose what they use by it.
pub(crate) const REDIS_VERSION: &str = "7.0.15";

pub(crate) fn ping(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 2 {
        return Err("ERR wrong number of arguments for 'ping' command".into());
    }
    if ctx.session.only_listens() {
        ctx.out().array(2);
        ctx.out().text("pong");
        ctx.out().bulk(args.get(1).unwrap_or_default());
        return Ok(());
    }
    match args.get(1) {
        Some(text) => ctx.out().bulk(text),
        None => ctx.out().simple("PONG"),
    }
    Ok(())
}

pub(crate) fn echo(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    ctx.out().bulk(args.at(1));
    Ok(())
}

pub(crate) fn select(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let number = super::keys::database(args.at(1))?;
    ctx.session.db = ctx.session.base + number;
    ctx.out().ok();
    Ok(())
}

pub(crate) fn quit(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    ctx.out().ok();
    ctx.session.is_closing = true;
    Ok(())
}

pub(crate) fn reset(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    ctx.engine.forget(ctx.session);
    let session = &mut *ctx.session;
    session.multi = None;
    session.name = Vec::new();
    session.out.is_resp3 = false;
    ctx.engine.mail.is_resp3 = false;
    session.replies = Replies::On;
    (session.is_quiet, session.is_kept) = (false, false);
    session.principal = None;
    session.rights = crate::access::Rights::default();
    if let Some(principal) = ctx.engine.gate.anonymous.clone() {
        ctx.engine.let_in(ctx.session, principal);
    }
    ctx.session.db = ctx.session.base;
    ctx.out().simple("RESET");
    Ok(())
}

pub(crate) fn auth(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if args.len() > 3 {
        return Err(SYNTAX);
    }
    if args.len() == 2 && ctx.engine.gate.anonymous.is_some() {
        return Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?".into());
    }
    let proof = if args.len() == 3 { (args.at(1), args.at(2)) } else { split_secret(args.at(1)) };
    ctx.engine.ask_authority(ctx.session, proof, None)
}

/// `key:secret`, for clients that know one password only.
fn split_secret(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b':', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (b"default", text),
    }
}

pub(crate) fn hello(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut hello = Hello::default();
    if let Some(version) = args.get(1) {
        let version = integer(version)
            .map_err(|_| "ERR Protocol version is not an integer or out of range")?;
        if !(2..=3).contains(&version) {
            return Err("NOPROTO unsupported protocol version".into());
        }
        hello.version = Some(version);
    }
    let mut proof = None;
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "AUTH") && at + 2 < args.len() {
            proof = Some((args.at(at + 1), args.at(at + 2)));
            at += 3;
        } else if args.is(at, "SETNAME") && at + 1 < args.len() {
            check_name(args.at(at + 1))?;
            hello.name = Some(args.at(at + 1).to_vec());
            at += 2;
        } else {
            let option = String::from_utf8_lossy(args.at(at));
            return Err(format!("ERR Syntax error in HELLO option '{option}'").into());
        }
    }
    if let Some((key, secret)) = proof {
        let is_default = key == b"default" && ctx.engine.gate.anonymous.is_some();
        // The open default user takes any password, as Redis's `nopass` does.
        if !is_default {
            return ctx.engine.ask_authority(ctx.session, (key, secret), Some(hello));
        }
    }
    if ctx.session.principal.is_none() {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time".into());
    }
    greet(ctx.engine, ctx.session, hello);
    Ok(())
}

/// What HELLO answers.
pub(crate) fn greet(engine: &mut Engine, session: &mut Session, hello: Hello) {
    if let Some(version) = hello.version {
        session.out.is_resp3 = version == 3;
        engine.mail.is_resp3 = version == 3;
    }
    if let Some(name) = hello.name {
        session.name = name;
    }
    let version = if session.out.is_resp3 { 3 } else { 2 };
    let id = session.id as i64;
    let out = &mut session.out;
    out.map(7);
    out.text("server");
    out.text("redis");
    out.text("version");
    out.text(REDIS_VERSION);
    out.text("proto");
    out.int(version);
    out.text("id");
    out.int(id);
    out.text("mode");
    out.text("standalone");
    out.text("role");
    out.text("master");
    out.text("modules");
    out.array(0);
}

fn check_name(name: &[u8]) -> Outcome {
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err(
            "ERR Client names cannot contain spaces, newlines or special characters.".into()
        );
    }
    Ok(())
}

pub(crate) fn client_id(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let id = ctx.session.id as i64;
    ctx.out().int(id);
    Ok(())
}

pub(crate) fn client_getname(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let session = &mut *ctx.session;
    session.out.maybe((!session.name.is_empty()).then_some(&*session.name));
    Ok(())
}

pub(crate) fn client_setname(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    check_name(args.at(2))?;
    ctx.session.name = args.at(2).to_vec();
    ctx.out().ok();
    Ok(())
}

pub(crate) fn client_info(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let line = describe(ctx.session, ctx.now, request_bytes(args));
    ctx.out().verbatim(&format!("{line}\n"));
    Ok(())
}

/// Bytes of the request that runs, as it is sent.
fn request_bytes(args: Args<'_>) -> usize {
    let digits = |number: usize| number.to_string().len();
    let each = args.iter().map(|arg| arg.len() + digits(arg.len()) + 5);
    each.sum::<usize>() + digits(args.len()) + 3
}

fn describe(session: &Session, now: i64, running_bytes: usize) -> String {
    let subscriptions = session.subscriptions.as_ref();
    let flags: String = [
        (session.is_monitor, 'O'),
        (subscriptions.is_some_and(|all| all.plain() + all.shards.len() > 0), 'P'),
        (session.multi.is_some(), 'x'),
        (session.is_blocked(), 'b'),
        (session.is_closing, 'c'),
        (session.is_kept, 'e'),
        (session.is_quiet, 'T'),
        (session.is_tracking, 't'),
    ]
    .iter()
    .filter(|(is_set, _)| *is_set)
    .map(|(_, letter)| *letter)
    .collect();
    let multi = session.multi.as_ref().map_or(-1, |multi| multi.queue.len() as i64);
    let user = session.principal.as_ref().map_or("(none)", |principal| &*principal.name);
    format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={multi} qbuf={} qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={} user={} redir=-1 resp={}",
        session.id,
        session.address,
        session.local_address,
        session.token,
        String::from_utf8_lossy(&session.name),
        (now - session.since) / 1_000,
        (now - session.active) / 1_000,
        if flags.is_empty() { "N" } else { &flags },
        session.db_number(),
        subscriptions.map_or(0, |all| all.channels.len()),
        subscriptions.map_or(0, |all| all.patterns.len()),
        subscriptions.map_or(0, |all| all.shards.len()),
        session.input.len() + running_bytes,
        session.multi.as_ref().map_or(0, |multi| multi.queue_bytes),
        session.out.bytes.len(),
        size_of::<Session>() + session.input.capacity() + session.out.bytes.capacity(),
        session.last_command,
        user.replace(' ', "_"),
        if session.out.is_resp3 { 3 } else { 2 },
    )
}

pub(crate) fn client_list(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut ids: Option<Vec<u64>> = None;
    let mut kind = None;
    match args.len() {
        2 => {}
        4 if args.is(2, "TYPE") => {
            let known = ["normal", "master", "replica", "slave", "pubsub"];
            let name = String::from_utf8_lossy(args.at(3)).to_ascii_lowercase();
            if !known.contains(&name.as_str()) {
                let given = String::from_utf8_lossy(args.at(3));
                return Err(format!("ERR Unknown client type '{given}'").into());
            }
            kind = Some(name);
        }
        _ if args.is(2, "ID") && args.len() > 3 => {
            let all: Result<Vec<u64>, Fault> = args.from(3).iter().map(client_number).collect();
            ids = Some(all?);
        }
        _ => return Err(SYNTAX),
    }
    let is_wanted = |session: &Session| {
        ids.as_ref().is_none_or(|ids| ids.contains(&session.id))
            && match kind.as_deref() {
                None => true,
                Some("pubsub") => session.subscriptions.is_some(),
                Some("normal") => session.subscriptions.is_none(),
                Some(_) => false,
            }
    };
    let base = ctx.session.base;
    let others = ctx.engine.sessions.iter().flatten().map(|session| &**session);
    let mut all: Vec<&Session> = others.filter(|other| other.base == base).collect();
    all.push(ctx.session);
    all.sort_by_key(|session| session.id);
    let mut text = String::new();
    for session in all.into_iter().filter(|session| is_wanted(session)) {
        let own = if session.id == ctx.session.id { request_bytes(args) } else { 0 };
        text.push_str(&describe(session, ctx.now, own));
        text.push('\n');
    }
    ctx.out().verbatim(&text);
    Ok(())
}

fn client_number(text: &[u8]) -> Result<u64, Fault> {
    let number = integer(text).ok().and_then(|number| u64::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or_else(|| "ERR Invalid client ID".into())
}

/// Which clients CLIENT KILL means.
#[derive(Default)]
struct Kill {
    id: Option<u64>,
    address: Option<Vec<u8>>,
    kind: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    spares_self: bool,
}

pub(crate) fn client_kill(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut kill = Kill { spares_self: true, ..Kill::default() };
    let is_old = args.len() == 3;
    if is_old {
        kill.address = Some(args.at(2).to_vec());
        kill.spares_self = false;
    } else if args.len().is_multiple_of(2) {
        for at in (2..args.len()).step_by(2) {
            kill.take(args, at)?;
        }
    } else {
        return Err(SYNTAX);
    }
    let base = ctx.session.base;
    if let Some(user) = &kill.user {
        let is_it = |session: &Session| {
            session.principal.as_ref().is_some_and(|principal| principal.name.as_bytes() == user)
        };
        let mut others = ctx.engine.sessions.iter().flatten();
        if !is_it(ctx.session) && !others.any(|other| other.base == base && is_it(other)) {
            return Err(format!("ERR No such user '{}'", String::from_utf8_lossy(user)).into());
        }
    }
    let matching: Vec<usize> = ctx
        .engine
        .sessions
        .iter()
        .flatten()
        .filter(|other| other.base == base && kill.means(other))
        .map(|other| other.token)
        .collect();
    let mut count = matching.len();
    for token in matching {
        if let Some(session) = ctx.engine.sessions[token].as_mut() {
            session.is_closing = true;
        }
        ctx.engine.touched.push(token);
    }
    if !kill.spares_self && kill.means(ctx.session) {
        ctx.session.is_closing = true;
        count += 1;
    }
    match (is_old, count) {
        (true, 0) => return Err("ERR No such client".into()),
        (true, _) => ctx.out().ok(),
        (false, _) => ctx.out().count(count),
    }
    Ok(())
}

impl Kill {
    fn take(&mut self, args: Args<'_>, at: usize) -> Outcome {
        let value = args.at(at + 1);
        match () {
            () if args.is(at, "ID") => {
                self.id = Some(
                    client_number(value).map_err(|_| "ERR client-id should be greater than 0")?,
                );
            }
            () if args.is(at, "ADDR") => self.address = Some(value.to_vec()),
            () if args.is(at, "LADDR") => self.address = Some(value.to_vec()),
            () if args.is(at, "TYPE") => {
                let kind = value.to_ascii_lowercase();
                let known: [&[u8]; 5] = [b"normal", b"master", b"replica", b"slave", b"pubsub"];
                if !known.contains(&&*kind) {
                    let given = String::from_utf8_lossy(value);
                    return Err(format!("ERR Unknown client type '{given}'").into());
                }
                self.kind = Some(kind);
            }
            () if args.is(at, "USER") => self.user = Some(value.to_vec()),
            () if args.is(at, "SKIPME") && args.is(at + 1, "yes") => self.spares_self = true,
            () if args.is(at, "SKIPME") && args.is(at + 1, "no") => self.spares_self = false,
            () => return Err(SYNTAX),
        }
        Ok(())
    }

    fn means(&self, session: &Session) -> bool {
        let user = session.principal.as_ref().map_or("", |principal| &*principal.name);
        self.id.is_none_or(|id| id == session.id)
            && self.address.as_ref().is_none_or(|address| address == session.address.as_bytes())
            && self.user.as_ref().is_none_or(|wanted| wanted == user.as_bytes())
            && match self.kind.as_deref() {
                None => true,
                Some(b"pubsub") => session.subscriptions.is_some(),
                Some(b"normal") => session.subscriptions.is_none(),
                Some(_) => false,
            }
    }
}

pub(crate) fn client_no_evict(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    ctx.session.is_kept = on_or_off(args, 2)?;
    ctx.out().ok();
    Ok(())
}

fn on_or_off(args: Args<'_>, at: usize) -> Result<bool, Fault> {
    match () {
        () if args.is(at, "ON") => Ok(true),
        () if args.is(at, "OFF") => Ok(false),
        () => Err(SYNTAX),
    }
}

pub(crate) fn client_reply(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    match () {
        () if args.is(2, "ON") => {
            ctx.session.replies = Replies::On;
            ctx.out().ok();
        }
        () if args.is(2, "OFF") => ctx.session.replies = Replies::Off,
        () if args.is(2, "SKIP") => {
            if ctx.session.replies == Replies::On {
                ctx.session.replies = Replies::SkipNext;
            }
        }
        () => return Err(SYNTAX),
    }
    Ok(())
}

pub(crate) fn client_unblock(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let error = match args.get(3) {
        None => None,
        Some(_) if args.is(3, "TIMEOUT") => None,
        Some(_) if args.is(3, "ERROR") => Some("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
        Some(_) => return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into()),
    };
    let id = integer(args.at(2))?;
    let base = ctx.session.base;
    let found = ctx.engine.sessions.iter().flatten().find(|session| {
        session.id as i64 == id
            && session.base == base
            && matches!(session.state, State::Blocked(_))
    });
    let token = found.map(|session| session.token);
    if let Some(token) = token {
        ctx.engine.end_wait(token, error);
    }
    ctx.out().flag(token.is_some());
    Ok(())
}

pub(crate) fn multi(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    if ctx.session.multi.is_some() {
        return Err("ERR MULTI calls can not be nested".into());
    }
    ctx.session.multi = Some(Box::new(Multi::default()));
    ctx.out().ok();
    Ok(())
}

pub(crate) fn exec(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    let Some(multi) = ctx.session.multi.take() else { return Err("ERR EXEC without MULTI".into()) };
    // A watched key whose time has come counts as changed.
    let watched = ctx.session.watched.clone();
    for (db, key) in watched {
        ctx.find_in(db, &key);
    }
    let is_spoiled = ctx.session.is_spoiled || std::mem::take(&mut ctx.engine.own_spoiled);
    ctx.engine.unwatch(ctx.session);
    if multi.is_broken {
        return Err("EXECABORT Transaction discarded because of previous errors.".into());
    }
    if is_spoiled {
        ctx.out().null_array();
        return Ok(());
    }
    let writes = multi.queue.iter().any(|(command, _)| command.has(super::flag::WRITE));
    if writes && let Some(refusal) = ctx.engine.refusal {
        return Err(format!("EXECABORT Transaction discarded because of: {refusal}").into());
    }
    ctx.out().array(multi.queue.len());
    ctx.session.multi = Some(Box::new(Multi { is_running: true, ..*multi }));
    Ok(())
}

pub(crate) fn discard(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    if ctx.session.multi.take().is_none() {
        return Err("ERR DISCARD without MULTI".into());
    }
    ctx.engine.unwatch(ctx.session);
    ctx.out().ok();
    Ok(())
}

pub(crate) fn watch(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    if ctx.session.multi.is_some() {
        return Err("ERR WATCH inside MULTI is not allowed".into());
    }
    for key in args.from(1).iter() {
        // One that has expired goes first, so that its going does not count as a change.
        ctx.find(key);
        let place = (ctx.session.db, Box::<[u8]>::from(key));
        let watchers = ctx.engine.watchers.entry(place.clone()).or_default();
        if !watchers.contains(&ctx.session.token) {
            watchers.push(ctx.session.token);
            ctx.session.watched_bytes += key.len() + NAME_BYTES;
            ctx.session.watched.push(place);
        }
    }
    ctx.out().ok();
    Ok(())
}

pub(crate) fn unwatch(ctx: &mut Ctx<'_>, _: Args<'_>) -> Outcome {
    ctx.engine.unwatch(ctx.session);
    ctx.out().ok();
    Ok(())
}

/// A list of lines, for HELP.
pub(crate) fn lines(out: &mut Reply, lines: &[String]) {
    out.array(lines.len());
    for line in lines {
        out.simple(line);
    }
}
