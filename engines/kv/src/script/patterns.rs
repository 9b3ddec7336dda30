//! Patterns as Lua 5.1 has them, matched with a look at the clock. Those of its own library would hold the thread for as long
//! as they like, and a long one would fall off its stack.

use std::borrow::Cow;

use mlua::{Error, Function, Lua, MultiValue, Table, Value};

use super::raise::{self, Raised, check_length, located};
use super::{RUN, deed};

const CAPTURES_MAX: usize = 32;
/// Parts of a pattern that are tried within each other.
const DEPTH_MAX: usize = 1_000;
/// Steps between two looks at the clock: some milliseconds.
const LOOK_EVERY: u32 = 1 << 20;
/// Signs without which a text is looked for as it is.
const SPECIAL: &[u8] = b"^$*+?.([%-";

enum Stop {
    Text(String),
    NoMemory,
    /// The script is to end.
    End,
    /// What a function of the script raised.
    Raised(Value),
    Lua(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Lua(error)
    }
}

type Tried<T> = Result<T, Stop>;

fn wrong<T>(text: &str) -> Tried<T> {
    Err(Stop::Text(text.to_owned()))
}

#[derive(Clone, Copy)]
enum Length {
    Unfinished,
    Position,
    Bytes(usize),
}

struct Matcher<'a> {
    lua: &'a Lua,
    source: &'a [u8],
    pattern: &'a [u8],
    captures: [(usize, Length); CAPTURES_MAX],
    level: usize,
    depth: usize,
    steps: u32,
}

impl<'a> Matcher<'a> {
    fn new(lua: &'a Lua, source: &'a [u8], pattern: &'a [u8]) -> Self {
        // As in C, a zero byte ends it.
        let end = memchr::memchr(0, pattern).unwrap_or(pattern.len());
        let captures = [(0, Length::Unfinished); CAPTURES_MAX];
        Self { lua, source, pattern: &pattern[..end], captures, level: 0, depth: 0, steps: 0 }
    }

    /// The pattern's byte, 0 behind its end.
    fn at(&self, place: usize) -> u8 {
        self.pattern.get(place).copied().unwrap_or(0)
    }

    fn step(&mut self) -> Tried<()> {
        self.steps += 1;
        if self.steps < LOOK_EVERY {
            return Ok(());
        }
        self.steps = 0;
        let run: Option<Function> = self.lua.named_registry_value(RUN)?;
        let Some(run) = run else { return Ok(()) };
        let (goes_on, _) = run.call::<(bool, Value)>((deed::LOOK, Value::Nil))?;
        if goes_on { Ok(()) } else { Err(Stop::End) }
    }

    /// The first match from a place on: where it begins and ends.
    fn search(&mut self, from: usize, is_anchored: bool) -> Tried<Option<(usize, usize)>> {
        for start in from..=self.source.len() {
            self.level = 0;
            if let Some(end) = self.matches(start, 0)? {
                return Ok(Some((start, end)));
            }
            if is_anchored {
                break;
            }
        }
        Ok(None)
    }

    /// Where the pattern from `p` on ends that begins at `s`.
    fn matches(&mut self, s: usize, p: usize) -> Tried<Option<usize>> {
        if self.depth == DEPTH_MAX {
            return wrong("pattern too complex");
        }
        self.depth += 1;
        let found = self.run(s, p);
        self.depth -= 1;
        found
    }

    fn run(&mut self, mut s: usize, mut p: usize) -> Tried<Option<usize>> {
        loop {
            self.step()?;
            match (self.at(p), self.at(p + 1)) {
                (b'(', b')') => return self.open(s, p + 2, Length::Position),
                (b'(', _) => return self.open(s, p + 1, Length::Unfinished),
                (b')', _) => return self.close(s, p + 1),
                (b'%', b'b') => match self.balanced(s, p + 2)? {
                    Some(end) => {
                        (s, p) = (end, p + 4);
                        continue;
                    }
                    None => return Ok(None),
                },
                (b'%', b'f') => {
                    p += 2;
                    if self.at(p) != b'[' {
                        return wrong("missing '[' after '%f' in pattern");
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.source[s - 1] };
                    let here = self.source.get(s).copied().unwrap_or(0);
                    if self.is_in_set(before, p, end - 1) || !self.is_in_set(here, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                    continue;
                }
                (b'%', digit @ b'0'..=b'9') => match self.again(s, digit)? {
                    Some(end) => {
                        (s, p) = (end, p + 2);
                        continue;
                    }
                    None => return Ok(None),
                },
                (0, _) => return Ok(Some(s)),
                (b'$', 0) => return Ok((s == self.source.len()).then_some(s)),
                _ => {}
            }
            let end = self.class_end(p)?;
            let is_one = self.is_one(s, p, end);
            match self.at(end) {
                b'?' => {
                    if is_one && let Some(found) = self.matches(s + 1, end + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                b'*' => return self.most(s, p, end),
                b'+' if is_one => return self.most(s + 1, p, end),
                b'-' => return self.least(s, p, end),
                b'+' => return Ok(None),
                _ if is_one => (s, p) = (s + 1, end),
                _ => return Ok(None),
            }
        }
    }

    /// As many as there are, then ever fewer.
    fn most(&mut self, s: usize, p: usize, end: usize) -> Tried<Option<usize>> {
        let mut count = 0;
        while self.is_one(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        for count in (0..=count).rev() {
            if let Some(found) = self.matches(s + count, end + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Tried<Option<usize>> {
        loop {
            if let Some(found) = self.matches(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.is_one(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, length: Length) -> Tried<Option<usize>> {
        if self.level == CAPTURES_MAX {
            return wrong("too many captures");
        }
        self.captures[self.level] = (s, length);
        self.level += 1;
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.level -= 1;
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Tried<Option<usize>> {
        let open = self.captures[..self.level]
            .iter()
            .rposition(|(_, length)| matches!(length, Length::Unfinished));
        let Some(open) = open else { return wrong("invalid pattern capture") };
        self.captures[open].1 = Length::Bytes(s - self.captures[open].0);
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.captures[open].1 = Length::Unfinished;
        }
        Ok(found)
    }

    /// `%b`: from one sign to the other that belongs to it.
    fn balanced(&mut self, s: usize, p: usize) -> Tried<Option<usize>> {
        let (open, close) = (self.at(p), self.at(p + 1));
        if open == 0 || close == 0 {
            return wrong("unbalanced pattern");
        }
        if self.source.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.source.len() {
            self.step()?;
            if self.source[at] == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if self.source[at] == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// `%1`: what was captured, once more.
    fn again(&mut self, s: usize, digit: u8) -> Tried<Option<usize>> {
        let number = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let capture = self.captures[..self.level].get(number);
        match capture {
            Some((from, Length::Bytes(length))) => {
                let wanted = &self.source[*from..from + length];
                Ok(self.source[s..].starts_with(wanted).then_some(s + length))
            }
            Some((_, Length::Position)) => Ok(None),
            _ => wrong("invalid capture index"),
        }
    }

    /// Behind the single thing that begins at `p`.
    fn class_end(&self, p: usize) -> Tried<usize> {
        match self.at(p) {
            b'%' if self.at(p + 1) == 0 => wrong("malformed pattern (ends with '%')"),
            b'%' => Ok(p + 2),
            b'[' => {
                let mut p = p + 1 + usize::from(self.at(p + 1) == b'^');
                loop {
                    let sign = self.at(p);
                    if sign == 0 {
                        return wrong("malformed pattern (missing ']')");
                    }
                    p += 1;
                    if sign == b'%' && self.at(p) != 0 {
                        p += 1;
                    }
                    if self.at(p) == b']' {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn is_one(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.source.get(s) else { return false };
        match self.at(p) {
            b'.' => true,
            b'%' => is_of_class(byte, self.at(p + 1)),
            b'[' => self.is_in_set(byte, p, end - 1),
            sign => sign == byte,
        }
    }

    /// Whether a byte is in the set from `[` at `p` to `]` at `end`.
    fn is_in_set(&self, byte: u8, p: usize, end: usize) -> bool {
        let is_negated = self.at(p + 1) == b'^';
        let mut p = p + usize::from(is_negated);
        loop {
            p += 1;
            if p >= end {
                return is_negated;
            }
            let is_found = if self.at(p) == b'%' {
                p += 1;
                is_of_class(byte, self.at(p))
            } else if self.at(p + 1) == b'-' && p + 2 < end {
                p += 2;
                (self.at(p - 2)..=self.at(p)).contains(&byte)
            } else {
                self.at(p) == byte
            };
            if is_found {
                return !is_negated;
            }
        }
    }

    /// What a match captured, or the whole of it.
    fn captured(&self, number: usize, (start, end): (usize, usize)) -> Tried<Value> {
        let text = |from: usize, to: usize| -> Tried<Value> {
            Ok(Value::String(self.lua.create_string(&self.source[from..to])?))
        };
        match self.captures[..self.level].get(number) {
            None if number == 0 => text(start, end),
            None => wrong("invalid capture index"),
            Some((from, Length::Bytes(length))) => text(*from, from + length),
            Some((from, Length::Position)) => Ok(Value::Number((from + 1) as f64)),
            Some((_, Length::Unfinished)) => wrong("unfinished capture"),
        }
    }

    fn all_captured(&self, place: (usize, usize), least: usize) -> Tried<Vec<Value>> {
        (0..self.level.max(least)).map(|number| self.captured(number, place)).collect()
    }
}

fn is_of_class(byte: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_in == class.is_ascii_lowercase()
}

/// The arguments of one of the functions.
struct Given<'a> {
    lua: &'a Lua,
    name: &'static str,
    args: &'a [Value],
}

impl Given<'_> {
    fn text(&self, at: usize) -> Tried<mlua::String> {
        let value = self.args.get(at).cloned();
        let found = value.as_ref().map_or("no value", Value::type_name);
        match value {
            Some(value @ (Value::String(_) | Value::Number(_) | Value::Integer(_))) => {
                let text = self.lua.coerce_string(value)?;
                text.ok_or_else(|| Stop::Text("it is no text".into()))
            }
            _ => Err(self.bad(at, &format!("string expected, got {found}"))),
        }
    }

    /// An argument is wrong, in the words of `luaL_argerror`: whoever calls a method does not count the object.
    fn bad(&self, at: usize, why: &str) -> Stop {
        let found = self.lua.inspect_stack(0, |frame| {
            let names = frame.names();
            (names.name.map(Cow::into_owned), names.name_what == Some("method"))
        });
        let (name, is_method) = found.unwrap_or_default();
        let name = name.as_deref().unwrap_or(self.name);
        Stop::Text(match (is_method, at) {
            (true, 0) => format!("calling '{name}' on bad self ({why})"),
            (true, at) => format!("bad argument #{at} to '{name}' ({why})"),
            (false, at) => format!("bad argument #{} to '{name}' ({why})", at + 1),
        })
    }

    fn whole(&self, at: usize) -> Tried<Option<i64>> {
        match self.args.get(at) {
            None | Some(Value::Nil) => Ok(None),
            value => raise::whole(self.lua, value).map(Some).ok_or_else(|| {
                let found = value.map_or("no value", Value::type_name);
                self.bad(at, &format!("number expected, got {found}"))
            }),
        }
    }
}

/// `string.find` and `string.match`.
fn find(given: &Given<'_>) -> Tried<Vec<Value>> {
    let is_find = given.name == "find";
    let (source, pattern) = (given.text(0)?, given.text(1)?);
    let (source, pattern) = (source.as_bytes(), pattern.as_bytes());
    let length = source.len() as i64;
    let from = given.whole(2)?.unwrap_or(1);
    let from = if from < 0 { from.saturating_add(length + 1) } else { from };
    let from = usize::try_from((from - 1).clamp(0, length)).unwrap_or(0);
    let is_plain =
        given.args.get(3).is_some_and(|value| !value.is_nil() && *value != Value::Boolean(false));
    let number = |place: usize| Value::Number(place as f64);
    let stop = memchr::memchr(0, &pattern).unwrap_or(pattern.len());
    if is_find && (is_plain || !pattern[..stop].iter().any(|sign| SPECIAL.contains(sign))) {
        let found = memchr::memmem::find(&source[from..], &pattern).map(|at| from + at);
        return Ok(
            found.map_or(vec![Value::Nil], |at| vec![number(at + 1), number(at + pattern.len())])
        );
    }
    let is_anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(given.lua, &source, &pattern[usize::from(is_anchored)..]);
    let Some(place) = matcher.search(from, is_anchored)? else { return Ok(vec![Value::Nil]) };
    if !is_find {
        return matcher.all_captured(place, 1);
    }
    let mut values = vec![number(place.0 + 1), number(place.1)];
    values.extend(matcher.all_captured(place, 0)?);
    Ok(values)
}

/// The next match from a place on: where it begins and ends, and what it captured.
fn next(given: &Given<'_>) -> Tried<Vec<Value>> {
    let (source, pattern) = (given.text(0)?, given.text(1)?);
    let (source, pattern) = (source.as_bytes(), pattern.as_bytes());
    let from = usize::try_from(given.whole(2)?.unwrap_or(1)).unwrap_or(1).saturating_sub(1);
    let mut matcher = Matcher::new(given.lua, &source, &pattern);
    let Some(place) = matcher.search(from, false)? else { return Ok(vec![Value::Nil]) };
    let mut values = vec![Value::Number((place.0 + 1) as f64), Value::Number(place.1 as f64)];
    values.extend(matcher.all_captured(place, 1)?);
    Ok(values)
}

/// What stands in place of a match.
enum With {
    Text(mlua::String),
    Function(Function),
    Table(Table),
}

/// Lua's own `pcall`, which keeps whatever is raised, and a function that looks something up in a table.
struct Tools {
    pcall: Function,
    look_up: Function,
}

impl Tools {
    fn ask(&self, function: &Function, args: Vec<Value>) -> Tried<Value> {
        let all: MultiValue =
            std::iter::once(Value::Function(function.clone())).chain(args).collect();
        let mut said = self.pcall.call::<MultiValue>(all)?.into_iter();
        let is_done = said.next() == Some(Value::Boolean(true));
        match said.next().unwrap_or(Value::Nil) {
            value if is_done => Ok(value),
            Value::Error(error) => Err(Stop::Lua(*error)),
            value => Err(Stop::Raised(value)),
        }
    }
}

/// `string.gsub`
fn gsub(given: &Given<'_>, limit: usize, tools: &Tools) -> Tried<Vec<Value>> {
    let (source, pattern) = (given.text(0)?, given.text(1)?);
    let with = match given.args.get(2) {
        Some(Value::Function(function)) => With::Function(function.clone()),
        Some(Value::Table(table)) => With::Table(table.clone()),
        _ => With::Text(given.text(2).map_err(|_| given.bad(2, "string/function/table expected"))?),
    };
    let (source, pattern) = (source.as_bytes(), pattern.as_bytes());
    let most = given.whole(3)?.unwrap_or(source.len() as i64 + 1);
    let is_anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(given.lua, &source, &pattern[usize::from(is_anchored)..]);
    let (mut out, mut at, mut count) = (Vec::new(), 0, 0i64);
    while count < most {
        let Some((start, end)) = matcher.search(at, is_anchored)? else { break };
        count += 1;
        out.extend_from_slice(&source[at..start]);
        put(&mut out, (&with, tools), &matcher, (start, end))?;
        check_length(out.len(), limit).map_err(|_| Stop::NoMemory)?;
        at = end;
        if end == start {
            let Some(byte) = source.get(end) else { break };
            out.push(*byte);
            at += 1;
        }
        if is_anchored {
            break;
        }
    }
    out.extend_from_slice(source.get(at..).unwrap_or_default());
    check_length(out.len(), limit).map_err(|_| Stop::NoMemory)?;
    let text = given.lua.create_string(&out)?;
    Ok(vec![Value::String(text), Value::Number(count as f64)])
}

fn put(
    out: &mut Vec<u8>,
    (with, tools): (&With, &Tools),
    matcher: &Matcher<'_>,
    place: (usize, usize),
) -> Tried<()> {
    let value = match with {
        With::Text(text) => return put_text(out, &text.as_bytes(), matcher, place),
        With::Function(function) => tools.ask(function, matcher.all_captured(place, 1)?)?,
        With::Table(table) => {
            let args = vec![Value::Table(table.clone()), matcher.captured(0, place)?];
            tools.ask(&tools.look_up, args)?
        }
    };
    match value {
        Value::Nil | Value::Boolean(false) => {
            out.extend_from_slice(&matcher.source[place.0..place.1]);
        }
        Value::String(_) | Value::Number(_) | Value::Integer(_) => {
            if let Some(text) = matcher.lua.coerce_string(value)? {
                out.extend_from_slice(&text.as_bytes());
            }
        }
        other => {
            let found = other.type_name();
            return wrong(&format!("invalid replacement value (a {found})"));
        }
    }
    Ok(())
}

/// Adds a text in which `%0` to `%9` stand for what was captured.
fn put_text(
    out: &mut Vec<u8>,
    with: &[u8],
    matcher: &Matcher<'_>,
    place: (usize, usize),
) -> Tried<()> {
    let mut bytes = with.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match bytes.next().copied().unwrap_or(0) {
            b'0' => out.extend_from_slice(&matcher.source[place.0..place.1]),
            digit @ b'1'..=b'9' => {
                let value = matcher.captured(usize::from(digit - b'1'), place)?;
                if let Some(text) = matcher.lua.coerce_string(value)? {
                    out.extend_from_slice(&text.as_bytes());
                }
            }
            other => out.push(other),
        }
    }
    Ok(())
}

fn of(
    lua: &Lua,
    name: &'static str,
    run: impl Fn(&Given<'_>) -> Tried<Vec<Value>> + 'static,
) -> mlua::Result<Function> {
    lua.create_function(move |lua, args: MultiValue| {
        let args: Vec<Value> = args.into_iter().collect();
        match run(&Given { lua, name, args: &args }) {
            Ok(values) => Ok(values.into_iter().collect::<MultiValue>()),
            Err(Stop::Text(text)) => Err(Raised::Text(located(lua, &text)).into()),
            Err(Stop::NoMemory) => Err(Error::MemoryError(raise::NO_MEMORY.to_owned())),
            Err(Stop::End) => Err(Raised::End.into()),
            Err(Stop::Raised(value)) => {
                Err(Raised::Value(lua.create_registry_value(value)?).into())
            }
            Err(Stop::Lua(error)) => Err(error),
        }
    })
}

/// What the prelude makes the functions of `string` from.
pub(super) fn module(lua: &Lua, limit: usize) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    module.set("find", of(lua, "find", find)?)?;
    module.set("match", of(lua, "match", find)?)?;
    module.set("next", of(lua, "gmatch", next)?)?;
    let look_up = lua.load("local table, key = ... return table[key]").set_name("=prelude");
    let tools = Tools { pcall: lua.globals().get("pcall")?, look_up: look_up.into_function()? };
    module.set("gsub", of(lua, "gsub", move |given| gsub(given, limit, &tools))?)?;
    Ok(module)
}
