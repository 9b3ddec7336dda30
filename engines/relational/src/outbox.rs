//! Events that are durable with the rows they tell of, until the event log holds them.

use base::{EventId, OrganisationId, Timestamp};

use crate::migration::Migration;
use crate::{Error, NewEvent, Read, Tx, Value, claim, command, lease};

// A sequence may come again once its row is gone, so the relay deletes by sequence and event.
pub(crate) static MIGRATIONS: &[Migration] =
    &[OUTBOX, lease::MIGRATION, claim::MIGRATION, command::MIGRATION];

const OUTBOX: Migration = Migration {
    id: "0001-outbox",
    sql: "
        CREATE TABLE outbox (
            sequence INTEGER PRIMARY KEY,
            organisation TEXT NOT NULL,
            topic TEXT NOT NULL,
            event TEXT NOT NULL,
            kind TEXT NOT NULL,
            key TEXT NOT NULL,
            payload BLOB NOT NULL,
            time BIGINT NOT NULL
        );
        CREATE TABLE handled (
            handler TEXT NOT NULL,
            event TEXT NOT NULL,
            time BIGINT NOT NULL,
            PRIMARY KEY (handler, event)
        );
        CREATE INDEX handled_by_time ON handled (handler, time);
        CREATE TABLE handler_offset (
            handler TEXT NOT NULL,
            organisation TEXT NOT NULL,
            topic TEXT NOT NULL,
            partition_number BIGINT NOT NULL,
            next_offset BIGINT NOT NULL,
            PRIMARY KEY (handler, organisation, topic, partition_number)
        );
        CREATE TABLE dead_letter (
            sequence INTEGER PRIMARY KEY,
            organisation TEXT NOT NULL,
            handler TEXT NOT NULL,
            topic TEXT NOT NULL,
            partition_number BIGINT,
            record_offset BIGINT,
            event TEXT,
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
    pub(crate) topic: String,
    pub(crate) event: EventId,
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) time: Timestamp,
}

const INSERT: &str = "INSERT INTO outbox (organisation, topic, event, kind, key, payload, time)
    VALUES (?, ?, ?, ?, ?, ?, ?)";

pub(crate) fn emit(tx: &mut Tx, event: NewEvent) -> Result<EventId, Error> {
    let shared = tx.session.shared().clone();
    let bytes = event.payload.len();
    let bytes_max = shared.config.event_bytes_max;
    if bytes > bytes_max {
        return Err(Error::EventTooLarge { bytes, bytes_max });
    }
    let time = shared.clock.now();
    let id = EventId::new(time, &shared.entropy);
    let NewEvent { organisation, key, payload, .. } = event;
    let (topic, kind) = (event.topic.to_owned(), event.kind.to_owned());
    put(tx, Row { organisation, topic, event: id, kind, key, payload, time })?;
    Ok(id)
}

pub(crate) fn put(tx: &mut Tx, row: Row) -> Result<(), Error> {
    tx.session.shared().outbox_has_room(tx.session.emitted())?;
    let values: [Value; 7] = [
        row.organisation.into(),
        row.topic.into(),
        row.event.into(),
        row.kind.into(),
        row.key.into(),
        row.payload.into(),
        row.time.into(),
    ];
    tx.session.execute(INSERT, &values)?;
    tx.session.emits(1);
    Ok(())
}
