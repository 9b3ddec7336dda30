use base::{EventId, OrganisationId, Page, PageRequest, Timestamp};

use crate::{Db, Error, Row, Tx, params};

/// An event that a handler cannot handle, set aside so that those behind it can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub sequence: i64,
    pub organisation: OrganisationId,
    /// Who could not handle it.
    pub handler: String,
    pub topic: String,
    /// Where it is in the event log; nothing when the log itself refused it.
    pub partition: Option<u32>,
    pub offset: Option<u64>,
    pub event: Option<EventId>,
    pub kind: Option<String>,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub reason: String,
    /// When it was set aside.
    pub time: Timestamp,
}

pub(crate) struct NewDeadLetter<'a> {
    pub(crate) organisation: OrganisationId,
    pub(crate) handler: &'a str,
    pub(crate) topic: &'a str,
    /// Partition and offset.
    pub(crate) place: Option<(u32, u64)>,
    pub(crate) event: Option<EventId>,
    pub(crate) kind: Option<&'a str>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
    pub(crate) reason: &'a str,
}

impl Db {
    /// The organisation's dead letters, the latest first.
    pub async fn dead_letters(
        &self,
        organisation: OrganisationId,
        page: &PageRequest,
    ) -> Result<Page<DeadLetter>, Error> {
        let before = match &page.after {
            None => i64::MAX,
            Some(after) => after.parse().map_err(|_| Error::Cursor { after: after.clone() })?,
        };
        let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX);
        let letters = self
            .read(async move |read| {
                let one_more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
                let latest = "SELECT sequence, organisation, handler, topic, partition_number,
                        record_offset, event, kind, key, payload, reason, time
                    FROM dead_letter WHERE organisation = ? AND sequence < ?
                    ORDER BY sequence DESC LIMIT ?";
                let params = params![organisation, before, one_more];
                let rows = read.query(latest, params).await?;
                rows.iter().map(dead_letter).collect::<Result<Vec<_>, Error>>()
            })
            .await?;
        Ok(Page::of(letters, limit, |letter| letter.sequence.to_string()))
    }
}

pub(crate) async fn keep(tx: &mut Tx, letter: NewDeadLetter<'_>) -> Result<(), Error> {
    let now = tx.session.shared().clock.now();
    let partition = letter.place.map(|(partition, _)| partition);
    let offset = letter.place.map(|(_, offset)| i64::try_from(offset).unwrap_or(i64::MAX));
    let insert = "INSERT INTO dead_letter (organisation, handler, topic, partition_number,
            record_offset, event, kind, key, payload, reason, time)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
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
        letter.reason,
        now,
    ];
    tx.execute(insert, params).await?;
    Ok(())
}

fn dead_letter(row: &Row) -> Result<DeadLetter, Error> {
    Ok(DeadLetter {
        sequence: row.get("sequence")?,
        organisation: row.get("organisation")?,
        handler: row.get("handler")?,
        topic: row.get("topic")?,
        partition: row.get("partition_number")?,
        offset: row.get("record_offset")?,
        event: row.get("event")?,
        kind: row.get("kind")?,
        key: row.get("key")?,
        payload: row.get("payload")?,
        reason: row.get("reason")?,
        time: row.get("time")?,
    })
}
