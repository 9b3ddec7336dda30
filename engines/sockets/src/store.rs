//! Messages of queues as rows: there from the commit of their SEND to the commit of their ACK.

use std::sync::Arc;

use base::{OrganisationId, Timestamp};
use bytes::Bytes;
use relational::{Db, Migration, Read, Row, Tx, params};

use crate::Error;
use crate::message::Draft;

const MIGRATIONS: &[Migration] = &[MESSAGE, DELIVERIES];

const DELIVERIES: Migration = Migration {
    id: "0002-deliveries",
    sql: "ALTER TABLE socket_message ADD COLUMN deliveries BIGINT NOT NULL DEFAULT 0",
};

const MESSAGE: Migration = Migration {
    id: "0001-message",
    sql: "CREATE TABLE socket_message (
        organisation VARCHAR(36) NOT NULL,
        queue VARCHAR(500) NOT NULL,
        number BIGINT NOT NULL,
        headers BLOB NOT NULL,
        body BLOB NOT NULL,
        bytes BIGINT NOT NULL,
        sent BIGINT NOT NULL,
        PRIMARY KEY (organisation, queue, number)
    )",
};

/// A message of a queue as its row tells it.
pub(crate) struct Stored {
    pub(crate) number: u64,
    pub(crate) draft: Draft,
    /// How often it was given out and came back.
    pub(crate) deliveries: u32,
}

/// What one commit changes; all of it or nothing.
#[derive(Clone, Default)]
pub(crate) struct Change {
    pub(crate) added: Vec<Added>,
    pub(crate) removed: Vec<(Arc<str>, u64)>,
    /// Those that came back, with how often they were given out.
    pub(crate) returned: Vec<(Arc<str>, u64, u32)>,
    /// From one queue to another.
    pub(crate) moved: Vec<(Arc<str>, Arc<str>, u64)>,
}

#[derive(Clone)]
pub(crate) struct Added {
    pub(crate) queue: Arc<str>,
    pub(crate) number: u64,
    pub(crate) draft: Arc<Draft>,
}

impl Change {
    fn is_nothing(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.returned.is_empty()
            && self.moved.is_empty()
    }
}

pub(crate) async fn open(db: &Db) -> Result<u64, Error> {
    db.migrate("sockets", MIGRATIONS).await?;
    let last = async |read: &mut Read| {
        let sql = "SELECT MAX(number) AS last FROM socket_message";
        let row = read.query_one(sql, params![]).await?;
        Ok::<_, Error>(row.get::<Option<u64>>("last")?.unwrap_or(0))
    };
    db.read(last).await
}

/// How many messages a queue has, and their bytes.
pub(crate) async fn size(
    db: &Db,
    organisation: OrganisationId,
    queue: Arc<str>,
) -> Result<(u64, u64), Error> {
    let size = async move |read: &mut Read| {
        let sql = "SELECT COUNT(*) AS count, COALESCE(SUM(bytes), 0) AS size \
            FROM socket_message WHERE organisation = ? AND queue = ?";
        let row = read.query_one(sql, params![organisation, queue]).await?;
        Ok::<_, Error>((row.get::<u64>("count")?, row.get::<u64>("size")?))
    };
    db.read(size).await
}

/// The queues of an organisation that have messages, with how many.
pub(crate) async fn queues(
    db: &Db,
    organisation: OrganisationId,
    max: usize,
) -> Result<Vec<(String, u64)>, Error> {
    let list = async move |read: &mut Read| {
        let sql = "SELECT queue, COUNT(*) AS count FROM socket_message \
            WHERE organisation = ? GROUP BY queue ORDER BY queue LIMIT ?";
        let rows = read.query(sql, params![organisation, signed(max as u64)]).await?;
        let pair = |row: &Row| Ok((row.get("queue")?, row.get("count")?));
        rows.iter().map(pair).collect::<Result<Vec<_>, Error>>()
    };
    db.read(list).await
}

/// The next messages of a queue after a number, at most so many and of so many bytes, at least one; and whether there
/// may be more.
pub(crate) async fn page(
    db: &Db,
    (organisation, queue): (OrganisationId, Arc<str>),
    after: u64,
    (max, bytes_max): (usize, u64),
) -> Result<(Vec<Stored>, bool), Error> {
    let page = async move |read: &mut Read| {
        let sql = "SELECT number, bytes FROM socket_message \
            WHERE organisation = ? AND queue = ? AND number > ? ORDER BY number LIMIT ?";
        let parameters = params![organisation, queue, signed(after), signed(max as u64)];
        let (mut last, mut bytes, mut count) = (after, 0_u64, 0);
        for row in read.query(sql, parameters).await? {
            bytes = bytes.saturating_add(row.get("bytes")?);
            if count > 0 && bytes > bytes_max {
                break;
            }
            (last, count) = (row.get("number")?, count + 1);
        }
        let sql = "SELECT number, headers, body, deliveries FROM socket_message \
            WHERE organisation = ? AND queue = ? AND number > ? AND number <= ? ORDER BY number";
        let parameters = params![organisation, queue, signed(after), signed(last)];
        let rows = read.query(sql, parameters).await?;
        let page = rows.iter().map(stored).collect::<Result<Vec<_>, Error>>()?;
        Ok::<_, Error>((page, count == max || bytes > bytes_max))
    };
    db.read(page).await
}

fn stored(row: &Row) -> Result<Stored, Error> {
    let headers: Vec<u8> = row.get("headers")?;
    let headers = serde_json::from_slice(&headers).map_err(|_| Error::NotFound("message"))?;
    let body: Vec<u8> = row.get("body")?;
    let draft = Draft { headers, body: body.into() };
    Ok(Stored { number: row.get("number")?, draft, deliveries: row.get("deliveries")? })
}

/// Makes a change durable.
pub(crate) async fn change(
    db: &Db,
    organisation: OrganisationId,
    change: Change,
    now: Timestamp,
) -> Result<(), Error> {
    if change.is_nothing() {
        return Ok(());
    }
    let write = async move |tx: &mut Tx| {
        for Added { queue, number, draft } in &change.added {
            let sql = "INSERT INTO socket_message \
                (organisation, queue, number, headers, body, bytes, sent) \
                VALUES (?, ?, ?, ?, ?, ?, ?)";
            let headers = serde_json::to_vec(&draft.headers).expect("texts always become JSON");
            let headers: Bytes = headers.into();
            let bytes = signed(draft.bytes() as u64);
            let parameters =
                params![organisation, queue, signed(*number), headers, draft.body, bytes, now];
            tx.execute(sql, parameters).await?;
        }
        for (queue, number) in &change.removed {
            let sql = "DELETE FROM socket_message \
                WHERE organisation = ? AND queue = ? AND number = ?";
            tx.execute(sql, params![organisation, queue, signed(*number)]).await?;
        }
        for (queue, number, deliveries) in &change.returned {
            // It may have been given out again since, and come back already.
            let sql = "UPDATE socket_message SET deliveries = ? \
                WHERE organisation = ? AND queue = ? AND number = ? AND deliveries < ?";
            let count = i64::from(*deliveries);
            let parameters = params![count, organisation, queue, signed(*number), count];
            tx.execute(sql, parameters).await?;
        }
        for (from, to, number) in &change.moved {
            let sql = "UPDATE socket_message SET queue = ?, deliveries = 0 \
                WHERE organisation = ? AND queue = ? AND number = ?";
            tx.execute(sql, params![to, organisation, from, signed(*number)]).await?;
        }
        Ok::<_, Error>(())
    };
    db.write(write).await
}

/// Numbers are counted from 1 and stay far below the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
