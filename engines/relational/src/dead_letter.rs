use std::fmt;
use std::str::FromStr;

use base::access::Action;
use base::{EventId, OrganisationId, Page, PageRequest, Timestamp};
use bytes::Bytes;

use crate::{Db, Error, Read, Row, Tx, Value, params};

/// Seeing dead letters, with their payloads.
pub const DEAD_LETTERS_READ: Action = Action("dead-letters.read");
/// Replaying and discarding them.
pub const DEAD_LETTERS_WRITE: Action = Action("dead-letters.write");

/// An event or a command that cannot be handled, set aside so that those behind it can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub organisation: OrganisationId,
    pub origin: Origin,
    /// Who could not handle it; of a command, its name.
    pub handler: String,
    /// Of an event.
    pub topic: Option<String>,
    /// Where it is in the event log; nothing when it never came there.
    pub partition: Option<u32>,
    pub offset: Option<u64>,
    /// The event's id, or the command's; nothing for a record that is no event.
    pub event: Option<EventId>,
    pub kind: Option<String>,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    /// Why the last attempt failed.
    pub reason: String,
    /// Those of replays included.
    pub attempts: u32,
    /// When it was set aside.
    pub time: Timestamp,
    /// When it was replayed last, which failed.
    pub tried: Option<Timestamp>,
    /// When it was made, and the record's headers, for a replay.
    pub(crate) record_time: Timestamp,
    pub(crate) headers: Vec<(String, Bytes)>,
}

/// What a dead letter was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An event that one handler cannot handle; others may have.
    Event,
    /// An event that the event log does not take, so nobody saw it.
    Outbox,
    Command,
}

/// Names a dead letter for good: its number may come again once it is gone, its moment not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId {
    pub(crate) sequence: i64,
    pub(crate) time: Timestamp,
}

/// Which dead letters; all of them without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    pub origin: Option<Origin>,
    pub handler: Option<String>,
    pub kind: Option<String>,
    /// A part of the reason, whatever its case.
    pub reason: Option<String>,
}

pub(crate) struct NewDeadLetter<'a> {
    pub(crate) organisation: OrganisationId,
    pub(crate) handler: &'a str,
    /// Empty for a command.
    pub(crate) topic: &'a str,
    /// Partition and offset.
    pub(crate) place: Option<(u32, u64)>,
    pub(crate) event: Option<String>,
    pub(crate) kind: Option<&'a str>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
    pub(crate) reason: &'a str,
    pub(crate) attempts: u32,
    pub(crate) record_time: Timestamp,
    pub(crate) headers: Option<&'a [(String, Bytes)]>,
}

const REASON_CHARS_MAX: usize = 2_000;
const COLUMNS: &str =
    "sequence, organisation, handler, topic, partition_number, record_offset, event,
    kind, key, payload, reason, attempts, time, tried, record_time, headers";

impl Db {
    /// The organisation's dead letters, the latest first.
    pub async fn dead_letters(
        &self,
        organisation: OrganisationId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetter>, Error> {
        let before = match &page.after {
            None => i64::MAX,
            Some(after) => after.parse().map_err(|_| Error::Cursor { after: after.clone() })?,
        };
        let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX);
        let one_more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let (wanted, mut given) = filter.condition(organisation);
        let sql = format!(
            "SELECT {COLUMNS} FROM dead_letter WHERE {wanted} AND sequence < ?
            ORDER BY sequence DESC LIMIT ?"
        );
        given.extend([Value::from(before), Value::from(one_more)]);
        let rows = self.read(async move |read| read.query(&sql, &given).await);
        let rows: Vec<Row> = rows.await?;
        let letters = rows.iter().map(dead_letter).collect::<Result<_, Error>>()?;
        Ok(Page::of(letters, limit, |letter: &DeadLetter| letter.id.sequence.to_string()))
    }

    pub async fn dead_letter(
        &self,
        organisation: OrganisationId,
        id: DeadLetterId,
    ) -> Result<DeadLetter, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM dead_letter WHERE organisation = ? AND sequence = ? AND time = ?"
        );
        self.read(async move |read: &mut Read| {
            let place = params![organisation, id.sequence, id.time];
            dead_letter(&read.query_one(&sql, place).await?)
        })
        .await
    }

    pub async fn dead_letters_count(&self, organisation: OrganisationId) -> Result<u64, Error> {
        let sql = "SELECT COUNT(*) AS letters FROM dead_letter WHERE organisation = ?";
        self.read(async move |read| {
            read.query_one(sql, params![organisation]).await?.get("letters")
        })
        .await
    }
}

impl DeadLetterFilter {
    /// A condition with its parameters.
    pub(crate) fn condition(&self, organisation: OrganisationId) -> (String, Vec<Value>) {
        let mut sql = "organisation = ?".to_owned();
        let mut given = vec![Value::from(organisation)];
        sql.push_str(match self.origin {
            None => "",
            Some(Origin::Event) => " AND record_offset IS NOT NULL",
            Some(Origin::Outbox) => " AND record_offset IS NULL AND topic <> ''",
            Some(Origin::Command) => " AND topic = ''",
        });
        let columns = [(" AND handler = ?", &self.handler), (" AND kind = ?", &self.kind)];
        for (condition, wanted) in columns {
            if let Some(wanted) = wanted {
                sql.push_str(condition);
                given.push(Value::from(wanted));
            }
        }
        if let Some(reason) = &self.reason {
            let escaped = reason.to_lowercase().replace('!', "!!");
            let escaped = escaped.replace('%', "!%").replace('_', "!_");
            sql.push_str(" AND LOWER(reason) LIKE ? ESCAPE '!'");
            given.push(Value::from(format!("%{escaped}%")));
        }
        (sql, given)
    }
}

impl DeadLetterId {
    /// Grows with time; what a page's cursor says.
    pub fn sequence(self) -> i64 {
        self.sequence
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sequence, self.time.micros())
    }
}

impl FromStr for DeadLetterId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('-').and_then(|(sequence, time)| {
            Some((sequence.parse().ok()?, time.parse().ok().map(Timestamp::from_micros)?))
        });
        parts.map(|(sequence, time)| Self { sequence, time }).ok_or(Error::NotFound)
    }
}

pub(crate) async fn keep(tx: &mut Tx, letter: NewDeadLetter<'_>) -> Result<(), Error> {
    let now = tx.session.shared().clock.now();
    let partition = letter.place.map(|(partition, _)| partition);
    let offset = letter.place.map(|(_, offset)| i64::try_from(offset).unwrap_or(i64::MAX));
    let insert = "INSERT INTO dead_letter (organisation, handler, topic, partition_number,
            record_offset, event, kind, key, payload, reason, attempts, time, record_time, headers)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let params = params![
        letter.organisation,
        letter.handler,
        letter.topic,
        partition,
        offset,
        letter.event,
        letter.kind,
        letter.key,
        letter.payload,
        shortened(letter.reason),
        letter.attempts,
        now,
        letter.record_time,
        letter.headers.map(packed),
    ];
    tx.execute(insert, params).await?;
    Ok(())
}

/// A reason may hold anything that comes from outside.
pub(crate) fn shortened(reason: &str) -> &str {
    reason.char_indices().nth(REASON_CHARS_MAX).map_or(reason, |(end, _)| &reason[..end])
}

fn dead_letter(row: &Row) -> Result<DeadLetter, Error> {
    let time = row.get("time")?;
    let topic: String = row.get("topic")?;
    let offset: Option<u64> = row.get("record_offset")?;
    let origin = match offset {
        _ if topic.is_empty() => Origin::Command,
        Some(_) => Origin::Event,
        None => Origin::Outbox,
    };
    let headers: Option<Vec<u8>> = row.get("headers")?;
    Ok(DeadLetter {
        id: DeadLetterId { sequence: row.get("sequence")?, time },
        organisation: row.get("organisation")?,
        origin,
        handler: row.get("handler")?,
        topic: Some(topic).filter(|topic| !topic.is_empty()),
        partition: row.get("partition_number")?,
        offset,
        event: row.get("event")?,
        kind: row.get("kind")?,
        key: row.get("key")?,
        payload: row.get("payload")?,
        reason: row.get("reason")?,
        attempts: row.get("attempts")?,
        time,
        tried: row.get("tried")?,
        record_time: row.get::<Option<Timestamp>>("record_time")?.unwrap_or(time),
        headers: headers.map(|packed| unpacked(&packed)).unwrap_or_default(),
    })
}

/// Each text with its length in front of it, name and value in turn.
fn packed(headers: &[(String, Bytes)]) -> Vec<u8> {
    let mut packed = Vec::new();
    for text in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        let length = u32::try_from(text.len()).expect("a record is shorter than 4 GiB");
        packed.extend(length.to_le_bytes());
        packed.extend(text);
    }
    packed
}

fn unpacked(mut packed: &[u8]) -> Vec<(String, Bytes)> {
    let mut next = || {
        let (length, rest) = packed.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        packed = rest;
        Some(text)
    };
    let mut headers = Vec::new();
    while let Some((name, value)) = next().zip(next()) {
        headers.push((String::from_utf8_lossy(name).into_owned(), Bytes::copy_from_slice(value)));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were_and_what_is_cut_is_left_out() {
        let headers = vec![
            ("event-id".to_owned(), Bytes::from_static(b"7")),
            (String::new(), Bytes::new()),
            ("마당".to_owned(), Bytes::from_static(&[0, 255])),
        ];
        let mut bytes = packed(&headers);
        assert_eq!(unpacked(&bytes), headers);
        bytes.pop();
        assert_eq!(unpacked(&bytes), headers[..2]);
    }

    #[test]
    fn an_id_survives_text_and_anything_else_names_nothing() {
        let id = DeadLetterId { sequence: 7, time: Timestamp::from_micros(1_700_000_000_000_001) };
        assert_eq!(id.to_string().parse::<DeadLetterId>().unwrap(), id);
        for text in ["", "7", "7-", "-7", "7-x", "7-1-2"] {
            let error = text.parse::<DeadLetterId>().unwrap_err();
            assert_eq!(error.kind(), base::ErrorKind::NotFound, "{text:?}");
        }
    }
}
