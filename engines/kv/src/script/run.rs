//! One run of a script: the store is open to Lua through `redis.call`, and a look at the clock ends what takes too long.

use std::cell::RefCell;

use mlua::{Function, Lua, MultiValue, Value};

use super::raise::{self, Raised};
use super::{Call, Failed, Flags, Home, NO_MEMORY, REGISTER, RUN, What, deed, reply};
use crate::command::{self, Command, Group, flag};
use crate::engine::{Engine, NOT_READY, PANICKED, Turn};
use crate::session::Session;
use crate::store::number::f64_text;
use crate::wire::reply::Fault;
use crate::wire::request::Owned;

/// Microseconds between two looks at other clients while a script keeps the store busy.
const ASIDE_EVERY: u64 = 5_000;

/// What others are told of a script that keeps the store busy.
#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub(crate) struct Busy {
    /// Where its organisation's databases begin.
    pub(crate) base: usize,
    pub(crate) is_function: bool,
    pub(crate) name: String,
    pub(crate) command: Vec<Vec<u8>>,
    pub(crate) took_micros: u64,
    pub(crate) has_written: bool,
    /// Nobody was heard since it began.
    pub(crate) is_new: bool,
    /// Somebody asked for its end.
    pub(crate) is_killed: bool,
    pub(crate) libraries: usize,
    pub(crate) functions: usize,
}

impl Busy {
    pub(crate) fn refusal(&self) -> Fault {
        let what = if self.is_function { "FUNCTION" } else { "SCRIPT" };
        format!(
            "BUSY Redis is busy running a script. You can only call {what} KILL or SHUTDOWN NOSAVE."
        )
        .into()
    }
}

/// Why a run was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    TooLong,
    /// It wrote too much.
    TooMuch,
    /// A command panicked.
    Broken,
}

/// What goes on while a script runs.
struct Running<'a, 't> {
    engine: &'a mut Engine,
    /// The script's own connection, with the rights of the client.
    inner: &'a mut Session,
    turn: &'a Turn<'t>,
    plan: &'a Plan<'a>,
    began: u64,
    aside_at: u64,
    /// Bytes of effects and of data when it began.
    effects_before: usize,
    data_before: usize,
    /// It read keys, of which its client wants to be told.
    has_read: bool,
    end: Option<End>,
}

/// What is run, and what it may do.
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) call: Option<&'a Call>,
    pub(super) reads_only: bool,
    pub(super) flags: Flags,
    pub(super) micros: u64,
    pub(super) counts: (usize, usize),
}

/// How a run came out.
pub(super) enum Ended {
    Value(Value),
    /// What was raised.
    Failed(Value),
    /// It was not the script that ended it.
    Broken(Fault),
}

impl Engine {
    pub(super) fn run_body(
        &mut self,
        home: &mut Home,
        session: &mut Session,
        call: &Call,
        turn: &Turn<'_>,
    ) -> Result<(), Failed> {
        let (run, function, flags, name) = match &call.what {
            What::Script(name) => {
                let body =
                    home.bodies.get(name).ok_or("NOSCRIPT No matching script. Please use EVAL.")?;
                let function: mlua::Result<mlua::Function> = home.functions.raw_get(name.as_str());
                (home.run.clone(), function, body.flags, name.clone())
            }
            What::Function(name) => {
                let found = home.libraries.find(name).ok_or("ERR Function not found")?;
                let function = home.libraries.callback(found);
                (home.libraries.run.clone(), function, found.flags, name.clone())
            }
            What::Load(..) => return Ok(()),
        };
        self.check_promises(flags, call.reads_only)?;
        let plan = Plan {
            name: &name,
            call: Some(call),
            reads_only: call.reads_only || flags.no_writes,
            flags,
            micros: self.settings.scripts.micros,
            counts: home.libraries.counts(),
        };
        let mut inner = Self::inner_session(session, turn);
        let ended = self.run_lua((home, &mut inner), &plan, turn, |_| {
            let (keys, args) = (home.texts(&call.keys)?, home.texts(&call.args)?);
            let (is_done, value): (bool, Value) = run.call((function?, keys, args))?;
            Ok(if is_done { Ended::Value(value) } else { Ended::Failed(value) })
        });
        session.has_written |= inner.has_written;
        session.is_closing |= inner.is_closing;
        if session.is_tracking && inner.is_tracking {
            self.remember(session, call.keys.iter().map(Vec::as_slice));
        }
        match ended {
            Ended::Value(value) => {
                let limit = self.settings.output_bytes_max;
                let before = session.out.bytes.len();
                reply::write((&mut session.out, limit), &value, inner.out.is_resp3)?;
                let text = &session.out.bytes[before..];
                if text.starts_with(b"-") && !reply::is_counted(&value) {
                    self.stats.error(&String::from_utf8_lossy(text[1..].trim_ascii_end()));
                }
                Ok(())
            }
            Ended::Failed(value) => Err(home.failure(&value, &name)),
            Ended::Broken(fault) => {
                if fault == NO_MEMORY {
                    home.relieve();
                }
                Err(fault.into())
            }
        }
    }

    /// Refuses at once what could not do what it is for.
    fn check_promises(&mut self, flags: Flags, reads_only: bool) -> Result<(), Fault> {
        if !flags.is_given {
            return Ok(());
        }
        if !flags.no_writes {
            if reads_only {
                return Err(
                    "ERR Can not execute a script with write flag using *_ro command.".into()
                );
            }
            if let Some(refusal) = self.refusal {
                return Err(refusal.into());
            }
        }
        let is_full = self.settings.memory_max > 0 && !self.make_room();
        if is_full && !flags.allow_oom && !flags.no_writes {
            return Err("OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'".into());
        }
        Ok(())
    }

    /// A connection that a script has for its calls: what it chooses there ends with it.
    pub(super) fn inner_session(session: &Session, turn: &Turn<'_>) -> Session {
        let mut inner = Session::new(session.token, session.id, "lua".into(), turn.now);
        inner.is_script = true;
        inner.base = session.base;
        inner.db = session.db;
        inner.rights = session.rights;
        inner.principal.clone_from(&session.principal);
        inner.is_quiet = session.is_quiet;
        inner.out.limit = session.out.limit;
        inner.name.clone_from(&session.name);
        inner
    }

    /// Lets Lua run with the store open to it, and with a look at the clock now and then.
    pub(super) fn run_lua(
        &mut self,
        (home, inner): (&Home, &mut Session),
        plan: &Plan<'_>,
        turn: &Turn<'_>,
        work: impl FnOnce(&Lua) -> mlua::Result<Ended>,
    ) -> Ended {
        let lua = &home.lua;
        let began = (turn.watch)();
        home.mailbox.borrow_mut().limit = self.settings.query_bytes_max;
        let (effects_before, data_before) = (self.effects.len(), self.store.used_bytes());
        let running = RefCell::new(Running {
            engine: self,
            inner,
            turn,
            plan,
            began,
            aside_at: began,
            effects_before,
            data_before,
            has_read: false,
            end: None,
        });
        let ended = lua.scope(|scope| {
            let run = scope.create_function(|lua, (deed, given): (u8, Value)| {
                let mut running = running.borrow_mut();
                let texts = || std::mem::take(&mut home.mailbox.borrow_mut().texts);
                match deed {
                    deed::CALL => running.call(lua, &texts()),
                    deed::MAY => running.may(lua, &texts()),
                    deed::SETRESP => running.setresp(lua, &given),
                    _ => Ok((running.look(), Value::Nil)),
                }
            })?;
            lua.set_named_registry_value(RUN, run)?;
            work(lua)
        });
        if let Err(error) = lua.unset_named_registry_value(RUN) {
            tracing::error!(%error, "a script's world was not closed");
        }
        let (end, has_read, has_written) = {
            let running = running.into_inner();
            (running.end, running.has_read, running.inner.has_written)
        };
        // What it tracks are the keys that it named, if it read any.
        inner.is_tracking = has_read;
        self.busy = None;
        if let Some(end) = end {
            return Ended::Broken(self.ended(end, inner, (plan, has_written)));
        }
        ended.unwrap_or_else(|error| match raise::text(&error) {
            text if text == raise::NO_MEMORY => Ended::Broken(NO_MEMORY),
            text => Ended::Broken(format!("ERR Error running script {}, {text}", plan.name).into()),
        })
    }

    /// What the client of a script is told that was ended from outside.
    fn ended(
        &mut self,
        end: End,
        inner: &Session,
        (plan, has_written): (&Plan<'_>, bool),
    ) -> Fault {
        let name = plan.name;
        match end {
            End::Broken => PANICKED.into(),
            End::Killed if matches!(plan.call, Some(Call { what: What::Function(_), .. })) => {
                format!("ERR Script killed by user with FUNCTION KILL. script: {name}").into()
            }
            End::Killed => {
                format!("ERR Script killed by user with SCRIPT KILL. script: {name}").into()
            }
            End::TooLong if plan.call.is_none() => "ERR FUNCTION LOAD timeout".into(),
            End::TooLong if has_written => self.undone(inner, name, UNDONE_LATE),
            End::TooMuch => self.undone(inner, name, UNDONE_LARGE),
            End::TooLong => format!(
                "ERR the script took longer than script_time_max and was ended. script: {name}"
            )
            .into(),
        }
    }

    /// Half of a script is never left: the data is read back as it was before this turn.
    fn undone(&mut self, inner: &Session, name: &str, text: &'static str) -> Fault {
        let text = if self.settings.durability.is_kept() { text } else { UNDONE_WITH_ALL };
        tracing::error!(script = name, "a script that had written was ended: {text}");
        self.is_broken = true;
        self.culprit = Some((inner.token, text));
        text.into()
    }
}

const UNDONE_WITH_ALL: &str = "ERR the script was ended after it had written: nothing is kept to read back, so all keys are gone";
const UNDONE_LATE: &str = "ERR the script took longer than script_time_max after it had written: nothing of it was done, and the data is read back";
const UNDONE_LARGE: &str = "ERR the script wrote more than script_write_bytes_max: nothing of it was done, and the data is read back";

impl Running<'_, '_> {
    /// Whether the script may go on; others get a word meanwhile.
    fn look(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        let now = (self.turn.watch)();
        let took = now.saturating_sub(self.began);
        if took > self.plan.micros {
            self.end = Some(End::TooLong);
            return false;
        }
        let busy_after = self.engine.settings.scripts.busy_micros;
        let is_busy = busy_after > 0 && took > busy_after && now >= self.aside_at;
        if let Some(call) = self.plan.call.filter(|_| is_busy) {
            self.aside_at = now + ASIDE_EVERY;
            self.hear(call, took);
        }
        self.end.is_none()
    }

    fn has_grown_too_much(&self) -> bool {
        let limit = self.engine.settings.scripts.write_bytes;
        self.engine.effects.len().saturating_sub(self.effects_before) > limit
            || self.engine.store.used_bytes().saturating_sub(self.data_before) > limit
    }

    /// Others are told that the store is busy, and may end the script.
    fn hear(&mut self, call: &Call, took_micros: u64) {
        let mut busy = self.engine.busy.take().unwrap_or_else(|| {
            Box::new(Busy {
                base: self.inner.base,
                is_function: matches!(call.what, What::Function(_)),
                name: self.plan.name.to_owned(),
                command: call.words(),
                took_micros,
                has_written: false,
                is_new: true,
                is_killed: false,
                libraries: self.plan.counts.0,
                functions: self.plan.counts.1,
            })
        });
        busy.took_micros = took_micros;
        busy.has_written = self.inner.has_written;
        self.engine.busy = Some(busy);
        (self.turn.aside)(self.engine, self.turn);
        if self.engine.busy.as_ref().is_some_and(|busy| busy.is_killed) {
            self.end = Some(End::Killed);
        }
    }

    /// Runs a command for the script; a failure is a text behind `false`.
    fn call(&mut self, lua: &Lua, texts: &[Vec<u8>]) -> mlua::Result<(bool, Value)> {
        if !self.look() {
            return Err(Raised::End.into());
        }
        self.inner.out.bytes.clear();
        let fault = match self.prepare(texts) {
            Ok((command, request)) => {
                let place = (request.args(), NOT_READY, true);
                self.has_read |= command.has(flag::READ);
                if self.engine.monitors > 0 {
                    self.engine.show(self.inner, Some(command), request.args(), self.turn);
                }
                self.engine.call(self.inner, command, place, self.turn);
                if self.engine.is_broken || self.inner.is_closing {
                    self.end = Some(End::Broken);
                    return Err(Raised::End.into());
                }
                if self.inner.has_written && self.has_grown_too_much() {
                    self.end = Some(End::TooMuch);
                    return Err(Raised::End.into());
                }
                let bytes = &self.inner.out.bytes;
                match bytes.strip_prefix(b"-") {
                    None => return Ok((true, reply::read(lua, bytes)?)),
                    Some(text) => String::from_utf8_lossy(text.trim_ascii_end()).into_owned(),
                }
            }
            Err(fault) => {
                self.engine.stats.error(&fault.0);
                fault.0.into_owned()
            }
        };
        Ok((false, Value::String(lua.create_string(fault)?)))
    }

    fn prepare(&mut self, texts: &[Vec<u8>]) -> Result<(&'static Command, Owned), Fault> {
        if self.plan.call.is_none() {
            return Err("ERR redis.call/pcall can only be called inside a script invocation".into());
        }
        if texts.is_empty() {
            return Err("ERR Please specify at least one argument for this redis lib call".into());
        }
        let request = Owned::new(texts.iter().map(Vec::as_slice));
        let command =
            command::find(request.args()).ok_or("ERR Unknown Redis command called from script")?;
        if let Err(fault) = self.admit(command, &request) {
            self.engine.stats.rejected_calls[command.index()] += 1;
            return Err(fault);
        }
        Ok((command, request))
    }

    fn admit(&mut self, command: &'static Command, request: &Owned) -> Result<(), Fault> {
        if !command.takes(request.args().len()) {
            return Err("ERR Wrong number of args calling Redis command from script".into());
        }
        if !is_for_scripts(command) {
            return Err("ERR This Redis command is not allowed from script".into());
        }
        if matches!(command.name, "xread" | "xreadgroup") && command::waits(request.args()) {
            let name = String::from_utf8_lossy(request.args().at(0)).into_owned();
            return Err(format!(
                "ERR {name} command is not allowed with BLOCK option from scripts"
            )
            .into());
        }
        if command.has(flag::WRITE) {
            self.check_write(command)?;
        }
        let admitted = self.engine.admit_nested(self.inner, command, request.args());
        admitted.map_err(explained)
    }

    fn check_write(&mut self, command: &Command) -> Result<(), Fault> {
        if self.plan.reads_only {
            return Err("ERR Write commands are not allowed from read-only scripts.".into());
        }
        if let Some(refusal) = self.engine.refusal {
            return Err(refusal.into());
        }
        let is_limited = self.engine.settings.memory_max > 0 && !self.inner.has_written;
        let is_growing = command.has(flag::GROWS) && !self.plan.flags.allow_oom;
        if is_limited && is_growing && !self.engine.make_room() {
            return Err("OOM command not allowed when used memory > 'maxmemory'.".into());
        }
        Ok(())
    }

    /// Whether the client may run a command.
    fn may(&mut self, lua: &Lua, texts: &[Vec<u8>]) -> mlua::Result<(bool, Value)> {
        let request = Owned::new(texts.iter().map(Vec::as_slice));
        let fault = match command::find(request.args()) {
            Some(command) => {
                let may = self.inner.rights.cover(command)
                    || self.engine.check_rights(self.inner, command, request.args()).is_ok();
                return Ok((true, Value::Boolean(may)));
            }
            None if texts.is_empty() => {
                "ERR Please specify at least one argument for this redis lib call"
            }
            None => "ERR Invalid command passed to redis.acl_check_cmd()",
        };
        self.engine.stats.error(fault);
        Ok((false, Value::String(lua.create_string(fault)?)))
    }

    /// `redis.setresp`
    fn setresp(&mut self, lua: &Lua, version: &Value) -> mlua::Result<(bool, Value)> {
        if let Some(version @ 2..=3) = raise::whole(lua, Some(version)) {
            self.inner.out.is_resp3 = version == 3;
            return Ok((true, Value::Nil));
        }
        Ok((false, Value::String(lua.create_string("ERR RESP version must be 2 or 3.")?)))
    }
}

impl Call {
    /// The command that it came with.
    fn words(&self) -> Vec<Vec<u8>> {
        let (word, name) = match &self.what {
            What::Script(name) => ("evalsha", name),
            What::Function(name) => ("fcall", name),
            What::Load(..) => return Vec::new(),
        };
        let ending = if self.reads_only { "_ro" } else { "" };
        let head = [format!("{word}{ending}"), name.clone(), self.keys.len().to_string()];
        let rest = self.keys.iter().chain(&self.args).cloned();
        head.into_iter().map(String::into_bytes).chain(rest).collect()
    }
}

/// What a script is told that may not do something.
fn explained(fault: Fault) -> Fault {
    if !fault.0.starts_with("NOPERM") {
        return fault;
    }
    let what = match () {
        () if fault.0.contains("one of the keys") => {
            "can't access at least one of the keys mentioned in the command arguments"
        }
        () if fault.0.contains("one of the channels") => {
            "can't publish to the channel mentioned in the command"
        }
        () => "can't run this command or subcommand",
    };
    format!("NOPERM The user executing the script {what}").into()
}

/// Commands about connections, waiting and scripts themselves are not for scripts.
fn is_for_scripts(command: &Command) -> bool {
    let barred =
        flag::UNQUEUED | flag::SUBSCRIBES | flag::ADMIN | flag::SECRET | flag::ALONE | flag::RUNS;
    let is_about_listening = command.group == Group::PubSub
        && (command.has(flag::LISTENING) || command.name.ends_with("unsubscribe"));
    let waits = command.has(flag::BLOCKING) && !command.name.starts_with("xread");
    !command.has(barred)
        && !waits
        && !is_about_listening
        && command.name != "unwatch"
        && !command.name.starts_with("client|")
}

/// The arguments of a call as texts, of so many bytes in all.
pub(super) fn texts(args: MultiValue, limit: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let mut bytes = 0usize;
    let text = |value: Value| match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(value) => Some(value.to_string().into_bytes()),
        Value::Number(value) => Some(f64_text(value).into_bytes()),
        _ => None,
    };
    args.into_iter()
        .map(|value| {
            let text = text(value)
                .ok_or("ERR Lua redis lib command arguments must be strings or integers")?;
            bytes += text.len();
            if bytes > limit {
                return Err("ERR the arguments are longer than request_bytes_max".into());
            }
            Ok(text)
        })
        .collect()
}

/// Lets a library say which functions it has.
pub(super) fn with_register<R>(
    lua: &Lua,
    register: &mut dyn FnMut(&[Value]) -> Result<(), String>,
    work: impl FnOnce() -> mlua::Result<R>,
) -> mlua::Result<R> {
    let register = RefCell::new(register);
    lua.scope(|scope| {
        let register: Function = scope.create_function(|lua, args: MultiValue| {
            let args: Vec<Value> = args.into_iter().collect();
            match (register.borrow_mut())(&args) {
                Ok(()) => Ok((true, Value::Nil)),
                Err(text) => {
                    let text = lua.create_string(format!("ERR {text}"))?;
                    Ok((false, Value::String(text)))
                }
            }
        })?;
        lua.set_named_registry_value(REGISTER, register)?;
        let worked = work();
        lua.unset_named_registry_value(REGISTER)?;
        worked
    })
}
