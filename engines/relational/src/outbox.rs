//! Events that are durable with the rows they tell of, until the event log holds them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base::{EventId, OrganisationId, Timestamp};
use sha2::{Digest, Sha256};

use crate::migration::Migration;
use crate::session::Session;
use crate::{Error, NewEvent, Read, Value, claim, command, lease};

// A sequence may come again once its row is gone, so the relay deletes by sequence and event.
pub(crate) static MIGRATIONS: &[Migration] =
    &[OUTBOX, lease::MIGRATION, claim::MIGRATION, command::MIGRATION];

const OUTBOX: Migration = Migration {
    id: "0001-outbox",
    sql: "
        CREATE TABLE outbox (
            sequence INTEGER PRIMARY KEY,
            organisation VARCHAR(36) NOT NULL,
            topic TEXT NOT NULL,
            event VARCHAR(36) NOT NULL,
            kind TEXT NOT NULL,
            key TEXT NOT NULL,
            payload BLOB NOT NULL,
            time BIGINT NOT NULL
        );
        CREATE TABLE outbox_order (
            bucket BIGINT NOT NULL PRIMARY KEY
        );
        CREATE TABLE handled (
            handler VARCHAR(200) NOT NULL,
            event VARCHAR(36) NOT NULL,
            time BIGINT NOT NULL,
            PRIMARY KEY (handler, event)
        );
        CREATE INDEX handled_by_time ON handled (handler, time);
        CREATE TABLE handler_offset (
            handler VARCHAR(200) NOT NULL,
            organisation VARCHAR(36) NOT NULL,
            topic VARCHAR(249) NOT NULL,
            partition_number BIGINT NOT NULL,
            next_offset BIGINT NOT NULL,
            PRIMARY KEY (handler, organisation, topic, partition_number)
        );
        CREATE TABLE dead_letter (
            sequence INTEGER PRIMARY KEY,
            organisation VARCHAR(36) NOT NULL,
            handler VARCHAR(200) NOT NULL,
            topic TEXT NOT NULL,
            partition_number BIGINT,
            record_offset BIGINT,
            event VARCHAR(36),
            kind TEXT,
            key BLOB,
            payload BLOB NOT NULL,
            reason TEXT NOT NULL,
            time BIGINT NOT NULL
        );
        CREATE INDEX dead_letter_by_organisation ON dead_letter (organisation, sequence);
    ",
};

pub(crate) async fn length(read: &mut Read) -> Result<i64, Error> {
    read.query_one("SELECT COUNT(*) AS length FROM outbox", &[]).await?.get("length")
}

/// An event on its way into the outbox.
pub(crate) struct Row {
    pub(crate) organisation: OrganisationId,
    pub(crate) topic: Cow<'static, str>,
    pub(crate) event: EventId,
    pub(crate) kind: Cow<'static, str>,
    pub(crate) key: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) time: Timestamp,
}

pub(crate) const INSERT: &str =
    "INSERT INTO outbox (organisation, topic, event, kind, key, payload, time)
    VALUES (?, ?, ?, ?, ?, ?, ?)";
/// The numbers between which the outbox lies.
pub(crate) const SPAN: &str = "SELECT MIN(sequence) AS oldest, MAX(sequence) AS newest FROM outbox";
/// Keys that share a number wait for each other's commit: more than run side by side.
const BUCKETS: u32 = 1 << 16;

pub(crate) fn emit(session: &mut Session, event: NewEvent) -> Result<EventId, Error> {
    let shared = session.shared().clone();
    let bytes = event.payload.len();
    let bytes_max = shared.config.event_bytes_max;
    if bytes > bytes_max {
        return Err(Error::EventTooLarge { bytes, bytes_max });
    }
    let time = shared.clock.now();
    let id = EventId::new(time, &shared.entropy);
    let NewEvent { organisation, topic, kind, key, payload } = event;
    let (topic, kind) = (topic.into(), kind.into());
    put(session, Row { organisation, topic, event: id, kind, key, payload, time })?;
    Ok(id)
}

pub(crate) fn put(session: &mut Session, row: Row) -> Result<(), Error> {
    session.shared().outbox_has_room(session.emitted())?;
    session.tell(row)
}

/// How many events there are at most.
pub(crate) fn span(row: Option<&crate::Row>) -> Result<i64, Error> {
    let Some(row) = row else { return Ok(0) };
    let (oldest, newest): (Option<i64>, Option<i64>) = (row.get("oldest")?, row.get("newest")?);
    Ok(oldest.zip(newest).map_or(0, |(oldest, newest)| newest - oldest + 1))
}

/// What is locked so that the events of each key are numbered in the order of their commits: in one order,
/// so that two commits never wait for each other.
pub(crate) fn buckets(events: &[Row]) -> BTreeSet<i32> {
    let bucket = |row: &Row| {
        let mut digest = Sha256::new();
        digest.update(row.organisation.to_string());
        digest.update(&*row.topic);
        digest.update([0]);
        digest.update(&row.key);
        let digest = digest.finalize();
        let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % BUCKETS;
        i32::try_from(number).unwrap_or_default()
    };
    events.iter().map(bucket).collect()
}

impl Row {
    /// For [`INSERT`].
    pub(crate) fn into_params(self) -> [Value; 7] {
        [
            self.organisation.into(),
            self.topic.into_owned().into(),
            self.event.into(),
            self.kind.into_owned().into(),
            self.key.into(),
            self.payload.into(),
            self.time.into(),
        ]
    }
}
