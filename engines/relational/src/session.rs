//! The connection that a closure has, whichever database it is of.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::dialect::Dialect;
use crate::outbox::Row as Event;
use crate::shared::Shared;
use crate::{Error, Row, Value, outbox, remote, sqlite};

#[allow(clippy::large_enum_variant, reason = "few are made, and the embedded one is used the most")]
pub(crate) enum Session {
    Embedded(sqlite::Session),
    Remote(Box<remote::Session>),
}

/// The same call on whichever session it is.
macro_rules! either {
    ($session:expr, $each:ident => $call:expr) => {
        match $session {
            Session::Embedded($each) => $call,
            Session::Remote($each) => $call,
        }
    };
}

impl Session {
    /// For the threads of the embedded database, which have no other session.
    pub(crate) fn embedded(&mut self) -> &mut sqlite::Session {
        match self {
            Self::Embedded(session) => session,
            Self::Remote(_) => unreachable!("a thread of the embedded database has its session"),
        }
    }

    /// For the threads of a database over the network, which have no other session.
    pub(crate) fn remote(&mut self) -> &mut remote::Session {
        match self {
            Self::Remote(session) => session,
            Self::Embedded(_) => unreachable!("a thread of a remote database has its session"),
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Embedded(_) => Dialect::Sqlite,
            Self::Remote(session) => session.dialect(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        either!(self, session => session.shared())
    }

    pub(crate) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        self.check(params)?;
        either!(self, session => session.query(sql, params))
    }

    pub(crate) fn first(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, Error> {
        self.check(params)?;
        either!(self, session => session.first(sql, params))
    }

    pub(crate) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.check(params)?;
        either!(self, session => session.execute(sql, params))
    }

    /// At once where there is no way to a server to save.
    pub(crate) fn execute_later(&mut self, sql: &str, params: &[Value]) -> Result<(), Error> {
        self.check(params)?;
        match self {
            Self::Embedded(session) => session.execute(sql, params).map(drop),
            Self::Remote(session) => session.execute_later(sql, params),
        }
    }

    /// Keeps other servers from migrating until this transaction ends.
    pub(crate) fn lock_schema(&mut self) -> Result<(), Error> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Remote(session) => session.lock_schema(),
        }
    }

    /// One statement of a migration. That it was run before is no error where `is_repeated` allows it.
    pub(crate) fn schema(&mut self, sql: &str, is_repeated: bool) -> Result<(), Error> {
        let sql = self.dialect().schema(sql);
        match self {
            Self::Embedded(session) => session.batch(&sql),
            Self::Remote(session) => session.schema(&sql, is_repeated),
        }
    }

    /// Puts an event into the outbox: at once where commits are one after another, else with the commit.
    pub(crate) fn tell(&mut self, event: Event) -> Result<(), Error> {
        match self {
            Self::Embedded(session) => {
                session.execute(outbox::INSERT, &event.into_params())?;
            }
            Self::Remote(session) => session.tell(event),
        }
        self.emits(1);
        Ok(())
    }

    pub(crate) fn emitted(&self) -> i64 {
        either!(self, session => session.emitted())
    }

    /// Counts what the closure added to the outbox, or took from it.
    pub(crate) fn emits(&mut self, by: i64) {
        either!(self, session => session.emits(by));
    }

    pub(crate) fn sent(&self) -> i64 {
        either!(self, session => session.sent())
    }

    /// Counts the commands that the closure sent, less those that it took away.
    pub(crate) fn sends(&mut self, by: i64) {
        either!(self, session => session.sends(by));
    }

    /// Wakes whoever waits once the closure's transaction is durable.
    pub(crate) fn wake(&mut self, waiting: &Arc<Notify>) {
        either!(self, session => session.wake(waiting));
    }

    /// Ends the closure's transaction as a failed statement does, and gives the error back.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        either!(self, session => session.fail(error))
    }

    /// A zero byte in a text is refused everywhere, because PostgreSQL cannot hold it.
    fn check(&mut self, params: &[Value]) -> Result<(), Error> {
        let has_zero = |value: &Value| matches!(value, Value::Text(text) if text.contains('\0'));
        if params.iter().any(has_zero) {
            return Err(self.fail(Error::Rule { rule: "a text has no zero byte".into() }));
        }
        Ok(())
    }
}
