//! The handle that rooms of this process have on keys: the same on the embedded store and on another server.

use std::time::Duration;

use base::OrganisationId;

use crate::command::{self, Command, Group, flag};
use crate::space::Space;
use crate::value::{self, Value};
use crate::wire::request::Owned;
use crate::{Error, Kv};

/// Keys of one organisation that rooms keep for it. No client of the embedded store reaches them: rights are the
/// room's business. On another server they begin with the prefix and the organisation.
#[derive(Clone)]
pub struct Keys {
    kv: Kv,
    organisation: OrganisationId,
}

/// Some names, and where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub names: Vec<Vec<u8>>,
    /// Nothing when these were the last.
    pub next: Option<String>,
}

/// Names that a page looks at, at most.
const PAGE_MAX: u32 = 10_000;

/// Commands that leave the organisation's keys, or name keys by patterns.
const NOT_FOR_ROOMS: &[&str] =
    &["move", "sort", "sort_ro", "fcall", "fcall_ro", "watch", "restore", "dump"];

impl Keys {
    pub(crate) fn new(kv: Kv, organisation: OrganisationId) -> Self {
        Self { kv, organisation }
    }

    /// Runs one command that names its keys and waits for nothing, as Redis knows it. What it changed is on disk when
    /// this is answered, as far as the store's durability says so.
    pub async fn ask<T: AsRef<[u8]>>(&self, request: &[T]) -> Result<Value, Error> {
        let owned = Owned::new(request.iter().map(AsRef::as_ref));
        let command = admitted(&owned)?;
        let queued = self.kv.place_in_queue()?;
        if let Some(remote) = self.kv.remote() {
            return remote.ask(self.organisation, command, &owned).await;
        }
        let request = owned.args().iter().map(<[u8]>::to_vec).collect();
        value::read(&self.kv.run((Space::of_rooms(self.organisation), 0), request, queued).await?)
    }

    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        match self.ask(&[&b"GET"[..], key.as_ref()]).await? {
            Value::Null => Ok(None),
            value => value.bytes().map(Some).ok_or(Error::NoReply),
        }
    }

    /// Sets a key, for a time or for good.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        lasts: Option<Duration>,
    ) -> Result<(), Error> {
        let millis = lasts.map(millis);
        let mut request = vec![&b"SET"[..], key.as_ref(), value.as_ref()];
        request.extend(millis.iter().flat_map(|millis| [&b"PX"[..], millis.as_bytes()]));
        self.ask(&request).await.map(drop)
    }

    /// Sets a key for a time if it is not there; says whether it was not.
    pub async fn set_new(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        lasts: Duration,
    ) -> Result<bool, Error> {
        let millis = millis(lasts);
        let request = [&b"SET"[..], key.as_ref(), value.as_ref(), b"NX", b"PX", millis.as_bytes()];
        Ok(self.ask(&request).await? != Value::Null)
    }

    /// Removes keys; says how many were there.
    pub async fn delete<T: AsRef<[u8]>>(&self, keys: &[T]) -> Result<u64, Error> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut request = vec![&b"DEL"[..]];
        request.extend(keys.iter().map(AsRef::as_ref));
        self.number(&request).await.map(i64::unsigned_abs)
    }

    /// Adds to a number, which begins at 0, and gives it.
    pub async fn increment(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64, Error> {
        self.number(&[&b"INCRBY"[..], key.as_ref(), by.to_string().as_bytes()]).await
    }

    /// Lets a key go after a time; says whether it is there.
    pub async fn expire(&self, key: impl AsRef<[u8]>, after: Duration) -> Result<bool, Error> {
        let after = millis(after);
        Ok(self.number(&[&b"PEXPIRE"[..], key.as_ref(), after.as_bytes()]).await? == 1)
    }

    /// Runs a script of Lua 5.1 that names all its keys; it happens whole or not at all on the embedded store, and as
    /// Redis does it on another.
    pub async fn script<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        code: &str,
        keys: &[K],
        args: &[A],
    ) -> Result<Value, Error> {
        let count = keys.len().to_string();
        let mut request = vec![&b"EVAL"[..], code.as_bytes(), count.as_bytes()];
        request.extend(keys.iter().map(AsRef::as_ref));
        request.extend(args.iter().map(AsRef::as_ref));
        self.ask(&request).await
    }

    /// A page of the names that begin so, from a former page's end or from the beginning. A name that is there all the
    /// time comes at least once; a page may be empty and not the last.
    pub async fn scan(&self, prefix: &[u8], from: Option<&str>, about: u32) -> Result<Page, Error> {
        let cursor = from.unwrap_or("0");
        if !cursor.bytes().all(|digit| digit.is_ascii_digit()) || cursor.len() > 20 {
            return Err(Error::Refused(format!("{cursor:?} is not the end of a page")));
        }
        let about = about.clamp(1, PAGE_MAX);
        let pattern = pattern_of(prefix);
        let queued = self.kv.place_in_queue()?;
        let answer = if let Some(remote) = self.kv.remote() {
            remote.scan(self.organisation, (&pattern, cursor, about)).await?
        } else {
            let count = about.to_string().into_bytes();
            let request = [&b"SCAN"[..], cursor.as_bytes(), b"MATCH", &pattern, b"COUNT", &count];
            let request = request.map(<[u8]>::to_vec).to_vec();
            let place = (Space::of_rooms(self.organisation), 0);
            value::read(&self.kv.run(place, request, queued).await?)?
        };
        page_of(answer)
    }

    async fn number(&self, request: &[&[u8]]) -> Result<i64, Error> {
        self.ask(request).await?.integer().ok_or(Error::NoReply)
    }
}

/// What begins so, for `MATCH`.
pub fn pattern_of(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for &byte in prefix {
        if b"*?[]\\".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}

fn page_of(answer: Value) -> Result<Page, Error> {
    let parts = answer.list().ok_or(Error::NoReply)?;
    let [cursor, names]: [Value; 2] = parts.try_into().map_err(|_| Error::NoReply)?;
    let cursor = cursor.bytes().and_then(|bytes| String::from_utf8(bytes).ok());
    let cursor = cursor.ok_or(Error::NoReply)?;
    let names = names.list().ok_or(Error::NoReply)?;
    let names: Option<Vec<Vec<u8>>> = names.into_iter().map(Value::bytes).collect();
    let next = (cursor != "0").then_some(cursor);
    Ok(Page { names: names.ok_or(Error::NoReply)?, next })
}

/// At least one millisecond: 0 is no time that Redis takes.
fn millis(time: Duration) -> String {
    time.as_millis().max(1).min(i64::MAX as u128 / 2).to_string()
}

/// What rooms may ask for: on both kinds of store it does the same.
fn admitted(request: &Owned) -> Result<&'static Command, Error> {
    let args = request.args();
    let Some(command) = command::find(args) else {
        return Err(Error::Reply(command::unknown(args).0.into_owned()));
    };
    let refused = |why: &str| {
        Err(Error::Refused(format!("{} {why}", command.name.replace('|', " ").to_uppercase())))
    };
    if !command.takes(args.len()) {
        let name = command.name;
        let text = format!("ERR wrong number of arguments for '{name}' command");
        return Err(Error::Reply(text));
    }
    if !command.has_keys() || NOT_FOR_ROOMS.contains(&command.name) {
        return refused("is not for rooms: it does not name the keys that it is about");
    }
    let is_waiting = matches!(command.name, "xread" | "xreadgroup") && command::waits(args);
    if is_waiting || command.has(flag::BLOCKING) && command.group != Group::Stream {
        return refused("waits, which the connection that rooms share cannot");
    }
    if command.name == "copy" && (3..args.len()).any(|at| args.is(at, "DB")) {
        return refused("leaves the organisation's keys");
    }
    Ok(command)
}
