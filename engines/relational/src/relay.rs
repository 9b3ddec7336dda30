use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, EventId, Failure, OrganisationId, Timestamp};
use bytes::Bytes;
use eventlog::{EventLog, Record, Stored, Topic};
use futures::future::join_all;

use crate::dead_letter::{self, NewDeadLetter};
use crate::lease::{Asked, OfOwn};
use crate::{Db, Error, Lease, Read, Row, ToValue, Tx, lease, params};

const EVENT_ID: &str = "event-id";
const EVENT_KIND: &str = "event-kind";
/// The name of its lease, which also stands in a dead letter that the event log refused.
const NAME: &str = "relay";
/// The outbox is one for all organisations.
const LEASE_OF: OrganisationId = OrganisationId::DEFAULT;

/// Moves committed events from the outbox into the event log, each to the topic of its organisation,
/// those with the same key in the order of their commits. At least once: after a crash some come again,
/// with the same id. Runs until an error; safe to drop at any await and to start again.
///
/// It works under a lease: where servers share one database one of them relays, and the rows that a
/// replaced one deletes too late stay. An idle relay lets its lease run out.
pub async fn relay(db: Db, log: EventLog) -> Result<(), Failure> {
    let outbox = &db.shared().outbox;
    let _only_one = outbox.relay.acquire().await?;
    loop {
        match reign(&db, &log).await {
            Err(error) if is_fenced(&*error) => {
                tracing::warn!("another relay has taken over");
            }
            ended => return ended,
        }
    }
}

/// Relays until the lease is lost.
async fn reign(db: &Db, log: &EventLog) -> Result<(), Failure> {
    let outbox = &db.shared().outbox;
    let lasts = db.config().relay_lease;
    let mut lease = begin(db, lasts).await?;
    loop {
        let batch_max = i64::try_from(db.config().relay_batch_max)?;
        let waiting = db.read(async move |read| next(read, batch_max).await).await?;
        if waiting.is_empty() {
            outbox.filled.notified().await;
            continue;
        }
        if lease.until().since(db.now()) < lasts / 2 {
            lease::renew(db, &mut lease, lasts).await?;
        }
        relay_batch(db, log, &lease, waiting).await?;
    }
}

/// Waits for the lease; an earlier relay of this process has ended and is replaced at once.
async fn begin(db: &Db, lasts: Duration) -> Result<Lease, Error> {
    let asked = Asked { lasts, of_own: OfOwn::Replaces };
    loop {
        if let Some(lease) = lease::acquire(db, LEASE_OF, NAME, asked).await? {
            return Ok(lease);
        }
        db.shared().clock.sleep(lasts / 4).await;
    }
}

fn is_fenced(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(Error::Fenced { .. }))
}

/// The id that an event keeps from its commit to every effect; records from elsewhere have none.
pub fn event_id(stored: &Stored) -> Option<EventId> {
    std::str::from_utf8(stored.record.header(EVENT_ID)?).ok()?.parse().ok()
}

/// What the event says happened, as [`crate::NewEvent::kind`].
pub fn event_kind(stored: &Stored) -> Option<&str> {
    std::str::from_utf8(stored.record.header(EVENT_KIND)?).ok()
}

/// A row of the outbox.
#[derive(Clone)]
struct Waiting {
    sequence: i64,
    organisation: OrganisationId,
    topic: String,
    event: EventId,
    kind: String,
    key: String,
    payload: Bytes,
    time: Timestamp,
}

/// What became of the events of one partition.
#[derive(Default)]
struct Moved {
    done: Vec<Waiting>,
    refused: Vec<(Waiting, String)>,
    failed: Option<eventlog::Error>,
}

async fn next(read: &mut Read, batch_max: i64) -> Result<Vec<Waiting>, Error> {
    let oldest = "SELECT sequence, organisation, topic, event, kind, key, payload, time
        FROM outbox ORDER BY sequence LIMIT ?";
    let rows = read.query(oldest, params![batch_max]).await?;
    rows.iter().map(waiting).collect()
}

fn waiting(row: &Row) -> Result<Waiting, Error> {
    Ok(Waiting {
        sequence: row.get("sequence")?,
        organisation: row.get("organisation")?,
        topic: row.get("topic")?,
        event: row.get("event")?,
        kind: row.get("kind")?,
        key: row.get("key")?,
        payload: Bytes::from(row.get::<Vec<u8>>("payload")?),
        time: row.get("time")?,
    })
}

async fn relay_batch(
    db: &Db,
    log: &EventLog,
    lease: &Lease,
    waiting: Vec<Waiting>,
) -> Result<(), Failure> {
    let mut topics: BTreeMap<(OrganisationId, String), Vec<Waiting>> = BTreeMap::new();
    for event in waiting {
        topics.entry((event.organisation, event.topic.clone())).or_default().push(event);
    }
    let mut moved = Moved::default();
    let mut partitions = Vec::new();
    for ((organisation, name), events) in topics {
        match log.topic(organisation, &name).await {
            Ok(topic) => {
                let mut parts: BTreeMap<u32, Vec<Waiting>> = BTreeMap::new();
                for event in events {
                    let partition = topic.partition_for(event.key.as_bytes());
                    parts.entry(partition).or_default().push(event);
                }
                partitions.extend(parts.into_iter().map(|part| (topic.clone(), part.0, part.1)));
            }
            Err(error) => moved.not_taken(events, error),
        }
    }
    for part in join_all(partitions.into_iter().map(append)).await {
        moved.done.extend(part.done);
        moved.refused.extend(part.refused);
        moved.failed = moved.failed.or(part.failed);
    }
    let failed = moved.failed.take();
    let count = (moved.done.len(), moved.refused.len());
    let moved = Arc::new(moved);
    let lease = lease.clone();
    let settled = db.write(async move |tx| {
        tx.fenced(&lease).await?;
        settle(tx, &moved).await
    });
    settled.await?;
    let meter = &db.shared().meter;
    meter.events_relayed.inc_by(count.0 as u64);
    meter.dead_letters.inc_by(count.1 as u64);
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Appends the events of one partition; when the log refuses them, finds those that it refuses for good.
async fn append((topic, partition, events): (Topic, u32, Vec<Waiting>)) -> Moved {
    let mut moved = Moved::default();
    match topic.append(partition, events.iter().map(record).collect()).await {
        Ok(_) => moved.done = events,
        Err(error) if error.kind() == ErrorKind::Invalid && events.len() > 1 => {
            for event in events {
                match topic.append(partition, vec![record(&event)]).await {
                    Ok(_) => moved.done.push(event),
                    Err(error) => {
                        let is_final = error.kind() == ErrorKind::Invalid;
                        moved.not_taken(vec![event], error);
                        if !is_final {
                            break;
                        }
                    }
                }
            }
        }
        Err(error) => moved.not_taken(events, error),
    }
    moved
}

impl Moved {
    fn not_taken(&mut self, events: Vec<Waiting>, error: eventlog::Error) {
        if error.kind() == ErrorKind::Invalid {
            let reason = error.to_string();
            self.refused.extend(events.into_iter().map(|event| (event, reason.clone())));
        } else {
            self.failed = Some(error);
        }
    }
}

fn record(event: &Waiting) -> Record {
    Record {
        timestamp: event.time,
        key: Some(Bytes::from(event.key.clone())),
        value: event.payload.clone(),
        headers: headers(event.event, &event.kind),
    }
}

/// What an event's record carries beside its key and payload.
pub(crate) fn headers(event: EventId, kind: &str) -> Vec<(String, Bytes)> {
    vec![
        (EVENT_ID.into(), Bytes::from(event.to_string())),
        (EVENT_KIND.into(), Bytes::from(kind.to_owned())),
    ]
}

/// Deletes exactly the rows that the log holds, and keeps what it refuses as dead letters.
async fn settle(tx: &mut Tx, moved: &Moved) -> Result<(), Error> {
    for (event, reason) in &moved.refused {
        tracing::warn!(event = %event.event, topic = event.topic, reason, "the event log refuses an event");
        let letter = NewDeadLetter {
            organisation: event.organisation,
            handler: NAME,
            topic: &event.topic,
            place: None,
            event: Some(event.event.to_string()),
            kind: Some(&event.kind),
            key: Some(event.key.as_bytes()),
            payload: &event.payload,
            reason,
            attempts: 1,
            record_time: event.time,
            headers: None,
        };
        dead_letter::keep(tx, letter).await?;
    }
    let gone: Vec<&Waiting> =
        moved.done.iter().chain(moved.refused.iter().map(|(event, _)| event)).collect();
    for some in gone.chunks(DELETED_AT_ONCE) {
        let deleted = delete(tx, some).await?;
        tx.session.emits(-i64::try_from(deleted).unwrap_or(0));
    }
    Ok(())
}

const DELETED_AT_ONCE: usize = 16;
// A sequence alone may name another event by now, so the events are named too.
const DELETE: &str = "DELETE FROM outbox
    WHERE sequence IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    AND event IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Deletes up to [`DELETED_AT_ONCE`] events; fewer are named more than once.
async fn delete(tx: &mut Tx, some: &[&Waiting]) -> Result<u64, Error> {
    let mut params = Vec::with_capacity(2 * DELETED_AT_ONCE);
    params.extend(some.iter().cycle().take(DELETED_AT_ONCE).map(|event| event.sequence.to_value()));
    params.extend(some.iter().cycle().take(DELETED_AT_ONCE).map(|event| event.event.to_value()));
    tx.execute(DELETE, &params).await
}

#[cfg(test)]
mod tests;
