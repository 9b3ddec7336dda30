use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, Failure, OrganisationId, Timestamp};
use eventlog::{EventLog, Stored, Topic};
use futures::future::try_join_all;

use crate::dead_letter::{self, NewDeadLetter};
use crate::relay::{event_id, event_kind};
use crate::{Db, Error, Tx, params};

/// Who reads a topic, and which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its place in the topic is kept under this name.
    pub name: &'static str,
    pub organisation: OrganisationId,
    pub topic: String,
}

/// Why an event was not handled, and so what becomes of it: `Invalid` sets it aside at once;
/// `Unavailable`, `TooMany` and `Conflict` try again until it works; any other kind tries a few times
/// and then sets it aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhandled {
    kind: ErrorKind,
    reason: String,
}

const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// How often an event is tried when nothing says that trying again helps.
const ATTEMPTS_MAX: u32 = 8;
const PRUNE_EVERY: Duration = Duration::from_mins(1);
const PRUNED_AT_ONCE: i64 = 1_000;

/// Reads the topic from where the handler is, for ever, and gives each record to `handle` in one
/// transaction with the note that it was handled. So the rows that `handle` writes are there exactly
/// once, however often this is stopped, the process dies or the relay repeats an event. An effect
/// elsewhere must be keyed by [`event_id`], for it can happen twice.
pub async fn run_handler<F>(
    db: Db,
    log: EventLog,
    handler: Handler,
    handle: F,
) -> Result<(), Failure>
where
    F: AsyncFn(&mut Tx, &Stored) -> Result<(), Unhandled> + Send + Sync + 'static,
{
    let topic = log.topic(handler.organisation, &handler.topic).await?;
    let (handler, handle): (_, Arc<dyn Handles>) = (Arc::new(handler), Arc::new(handle));
    db.shared().handlers.register(&handler, &handle);
    let partitions = (0..topic.partitions()).map(|number| {
        let (db, topic) = (db.clone(), topic.clone());
        Partition { db, topic, number, handler: handler.clone(), handle: handle.clone() }.run()
    });
    try_join_all(partitions).await?;
    Ok(())
}

impl Unhandled {
    pub fn new(kind: ErrorKind, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reason = format!("{reason}: {error}");
            source = error.source();
        }
        Self { kind, reason }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Nothing is wrong with the event or the handler.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::TooMany | ErrorKind::Conflict)
    }

    pub(crate) fn too_slow(limit: Duration) -> Self {
        Self { kind: ErrorKind::Unavailable, reason: format!("did not end within {limit:?}") }
    }

    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let reason = format!("panicked: {}", text.unwrap_or("no message"));
        Self { kind: ErrorKind::Internal, reason }
    }

    /// The event can never be handled.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, reason: reason.into() }
    }

    fn is_final(&self, attempts: u32) -> bool {
        match self.kind {
            ErrorKind::Invalid => true,
            _ if self.may_pass() => false,
            _ => attempts >= ATTEMPTS_MAX,
        }
    }
}

impl From<Error> for Unhandled {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl fmt::Display for Unhandled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unhandled {}

/// What a handler does with one record, its type hidden.
pub(crate) trait Handles: Send + Sync {
    fn handle<'a>(
        &'a self,
        tx: &'a mut Tx,
        stored: &'a Stored,
    ) -> Pin<Box<dyn Future<Output = Result<(), Unhandled>> + 'a>>;
}

impl<F> Handles for F
where
    F: AsyncFn(&mut Tx, &Stored) -> Result<(), Unhandled> + Send + Sync,
{
    fn handle<'a>(
        &'a self,
        tx: &'a mut Tx,
        stored: &'a Stored,
    ) -> Pin<Box<dyn Future<Output = Result<(), Unhandled>> + 'a>> {
        Box::pin(self(tx, stored))
    }
}

/// One partition of the topic; their order is independent.
struct Partition {
    db: Db,
    topic: Topic,
    number: u32,
    handler: Arc<Handler>,
    handle: Arc<dyn Handles>,
}

impl Partition {
    async fn run(self) -> Result<(), Failure> {
        let mut end = self.topic.end(self.number);
        let mut next = self.begin().await?;
        let mut pruned = Timestamp::from_micros(0);
        loop {
            let records = match self.topic.fetch(self.number, next, FETCH_BYTES_MAX).await {
                Ok(records) => records,
                Err(eventlog::Error::OutOfRange { start, end }) => {
                    next = self.moved(next, start, end)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if records.is_empty() {
                end.wait_for(|end| *end > next).await?;
                continue;
            }
            let records: Arc<[Stored]> = records.into();
            let batch_max = self.db.config().handler_batch_max;
            for start in (0..records.len()).step_by(batch_max) {
                let range = start..records.len().min(start + batch_max);
                next = records[range.end - 1].offset + 1;
                self.batch(&records, range).await?;
            }
            let now = self.db.now();
            if now.since(pruned) >= PRUNE_EVERY {
                pruned = now;
                self.prune(now.minus(self.db.config().handled_kept)).await?;
            }
        }
    }

    async fn begin(&self) -> Result<u64, Error> {
        let (handler, partition) = (self.handler.clone(), self.number);
        let work = async move |tx: &mut Tx| stored_offset(tx, &handler, partition).await;
        Ok(self.db.write(work).await?.unwrap_or_else(|| self.topic.start(self.number)))
    }

    /// Handles some records in one transaction; when that fails, one after another.
    async fn batch(
        &self,
        records: &Arc<[Stored]>,
        range: std::ops::Range<usize>,
    ) -> Result<(), Failure> {
        if range.len() > 1 && self.attempt(records, range.clone()).await.is_ok() {
            return Ok(());
        }
        for place in range {
            self.single(records, place).await?;
        }
        Ok(())
    }

    /// Handles one record, again and again if need be, or sets it aside.
    async fn single(&self, records: &Arc<[Stored]>, place: usize) -> Result<(), Failure> {
        let mut pause = BACK_OFF_MIN;
        let mut attempts = 1;
        loop {
            let Err(unhandled) = self.attempt(records, place..place + 1).await else {
                return Ok(());
            };
            let (handler, offset) = (self.handler.name, records[place].offset);
            if unhandled.is_final(attempts) {
                tracing::warn!(handler, offset, reason = %unhandled, "an event is set aside");
                self.set_aside(records, place, (attempts, unhandled.reason)).await?;
                return Ok(());
            }
            tracing::warn!(handler, offset, attempts, reason = %unhandled, "an event is tried again");
            self.db.shared().clock.sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
            attempts += 1;
        }
    }

    async fn attempt(
        &self,
        records: &Arc<[Stored]>,
        range: std::ops::Range<usize>,
    ) -> Result<(), Unhandled> {
        let (records, handle) = (records.clone(), self.handle.clone());
        let (handler, partition) = (self.handler.clone(), self.number);
        let work = async move |tx: &mut Tx| {
            // Another run of this handler may have come further since the records were read.
            let done = stored_offset(tx, &handler, partition).await?.unwrap_or(0);
            for stored in records[range.clone()].iter().filter(|stored| stored.offset >= done) {
                let is_new = match event_id(stored) {
                    Some(event) => tx.first_time(handler.name, event).await?,
                    None => true,
                };
                if is_new {
                    handle.handle(tx, stored).await?;
                }
            }
            store_offset(tx, &handler, partition, records[range.end - 1].offset + 1).await?;
            Ok(())
        };
        self.db.write(work).await
    }

    async fn set_aside(
        &self,
        records: &Arc<[Stored]>,
        place: usize,
        (attempts, reason): (u32, String),
    ) -> Result<(), Error> {
        let (records, handler, partition) = (records.clone(), self.handler.clone(), self.number);
        let work = async move |tx: &mut Tx| {
            let stored = &records[place];
            if stored_offset(tx, &handler, partition).await?.unwrap_or(0) > stored.offset {
                return Ok(());
            }
            let letter = NewDeadLetter {
                organisation: handler.organisation,
                handler: handler.name,
                topic: &handler.topic,
                place: Some((partition, stored.offset)),
                event: event_id(stored).map(|event| event.to_string()),
                kind: event_kind(stored),
                key: stored.record.key.as_deref(),
                payload: &stored.record.value,
                reason: &reason,
                attempts,
                record_time: stored.record.timestamp,
                headers: Some(&stored.record.headers),
            };
            dead_letter::keep(tx, letter).await?;
            store_offset(tx, &handler, partition, stored.offset + 1).await
        };
        self.db.write(work).await?;
        self.db.shared().meter.dead_letters.inc();
        Ok(())
    }

    /// Where to go on when the log does not hold the offset any more, or not yet.
    fn moved(&self, next: u64, start: u64, end: u64) -> Result<u64, Failure> {
        let (handler, topic, partition) = (self.handler.name, self.topic.name(), self.number);
        if next < start {
            let lost = start - next;
            tracing::error!(handler, topic, partition, lost, "records were deleted unhandled");
            return Ok(start);
        }
        Err(format!(
            "{handler} has handled {topic}/{partition} up to {next}, but the event log ends at {end}"
        )
        .into())
    }

    /// Forgets events that were handled before `time`.
    async fn prune(&self, time: Timestamp) -> Result<(), Error> {
        loop {
            let handler = self.handler.name;
            let forgotten = self.db.write(async move |tx| forget(tx, handler, time).await).await?;
            if forgotten < PRUNED_AT_ONCE {
                return Ok(());
            }
        }
    }
}

/// How much of a partition is read at once.
const FETCH_BYTES_MAX: usize = 1 << 20;

async fn stored_offset(
    tx: &mut Tx,
    handler: &Handler,
    partition: u32,
) -> Result<Option<u64>, Error> {
    let stored = "SELECT next_offset FROM handler_offset
        WHERE handler = ? AND organisation = ? AND topic = ? AND partition_number = ?";
    let place = params![handler.name, handler.organisation, handler.topic, partition];
    let row = tx.query_optional(stored, place).await?;
    row.map(|row| row.get("next_offset")).transpose()
}

/// Moves the handler forward, never back.
async fn store_offset(
    tx: &mut Tx,
    handler: &Handler,
    partition: u32,
    next: u64,
) -> Result<(), Error> {
    let stored = stored_offset(tx, handler, partition).await?;
    let sql = match stored {
        Some(stored) if stored >= next => return Ok(()),
        Some(_) => {
            "UPDATE handler_offset SET next_offset = ?
            WHERE handler = ? AND organisation = ? AND topic = ? AND partition_number = ?"
        }
        None => {
            "INSERT INTO handler_offset
                (next_offset, handler, organisation, topic, partition_number)
            VALUES (?, ?, ?, ?, ?)"
        }
    };
    let next = i64::try_from(next).unwrap_or(i64::MAX);
    let place = params![next, handler.name, handler.organisation, handler.topic, partition];
    tx.execute(sql, place).await?;
    Ok(())
}

async fn forget(tx: &mut Tx, handler: &'static str, time: Timestamp) -> Result<i64, Error> {
    let old = "SELECT event FROM handled WHERE handler = ? AND time < ? LIMIT ?";
    let rows = tx.query(old, params![handler, time, PRUNED_AT_ONCE]).await?;
    for row in &rows {
        let delete = "DELETE FROM handled WHERE handler = ? AND event = ?";
        tx.execute(delete, params![handler, row.get::<String>("event")?]).await?;
    }
    Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
