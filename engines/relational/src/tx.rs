use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use base::{CommandId, EventId, OrganisationId};
use tokio::sync::Notify;

use crate::session::Session;
use crate::{Error, Lease, NewCommand, Row, Value, command, lease, outbox, params};

/// One snapshot of the rows.
pub struct Read {
    pub(crate) session: Session,
}

/// One transaction: it sees the rows as if it ran alone, and reads as [`Read`] does.
///
/// The contract is the same on every database: placeholders are `?`, and a statement that failed ends the
/// transaction: later statements and the commit give the same error again, even when the closure says `Ok`.
pub struct Tx(pub(crate) Read);

/// Something that happened, told to the other parts once the transaction is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub organisation: OrganisationId,
    /// The event log's topic.
    pub topic: &'static str,
    /// What happened, in the past tense: `device.registered`.
    pub kind: &'static str,
    /// Events with the same key arrive in the order of their commits.
    pub key: String,
    /// JSON.
    pub payload: Vec<u8>,
}

#[allow(clippy::unused_async, reason = "a database over the network is awaited here")]
impl Read {
    pub async fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        self.session.query(sql, params)
    }

    /// The first row; an error of kind `NotFound` when there is none.
    pub async fn query_one(&mut self, sql: &str, params: &[Value]) -> Result<Row, Error> {
        self.query_optional(sql, params).await?.ok_or(Error::NotFound)
    }

    /// The first row, if there is one.
    pub async fn query_optional(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<Option<Row>, Error> {
        self.session.first(sql, params)
    }
}

impl Deref for Tx {
    type Target = Read;

    fn deref(&self) -> &Read {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Read {
        &mut self.0
    }
}

#[allow(clippy::unused_async, reason = "a database over the network is awaited here")]
impl Tx {
    /// Runs one statement that changes rows, and says how many it changed.
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.session.execute(sql, params)
    }

    /// Runs one statement that changes rows, where nobody asks how many: it goes to the database together with the
    /// next statement or the commit, which saves a way there and back. What it says to a mistake ends the
    /// transaction then.
    pub async fn execute_later(&mut self, sql: &str, params: &[Value]) -> Result<(), Error> {
        self.session.execute_later(sql, params)
    }

    /// Puts an event into the outbox: it is told if, and only if, this transaction commits.
    pub async fn emit(&mut self, event: NewEvent) -> Result<EventId, Error> {
        outbox::emit(&mut self.session, event)
    }

    /// Sends a command: its one handler carries it out if, and only if, this transaction commits.
    pub async fn send(&mut self, new: NewCommand) -> Result<CommandId, Error> {
        command::send(self, new).await
    }

    /// Wakes whoever waits once this transaction is durable, and nobody when it is not.
    pub fn wake(&mut self, waiting: &Arc<Notify>) {
        self.session.wake(waiting);
    }

    /// Notes that `handler` handles `event` in this transaction. False when it did so in an earlier one.
    pub async fn first_time(&mut self, handler: &str, event: EventId) -> Result<bool, Error> {
        let seen = "SELECT 1 AS seen FROM handled WHERE handler = ? AND event = ?";
        if self.query_optional(seen, params![handler, event]).await?.is_some() {
            return Ok(false);
        }
        let now = self.session.shared().clock.now();
        let note = "INSERT INTO handled (handler, event, time) VALUES (?, ?, ?)";
        self.execute_later(note, params![handler, event, now]).await?;
        Ok(true)
    }

    /// Refuses this transaction, also when the closure goes on, unless the lease is still held: that it
    /// ran out does not matter until somebody else was granted it.
    pub async fn fenced(&mut self, lease: &Lease) -> Result<(), Error> {
        lease::check(self, lease).await
    }
}
