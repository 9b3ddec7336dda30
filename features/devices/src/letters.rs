//! What was refused. The letters are in the log, the newest last; what became of them since is in rows.

use std::collections::HashMap;
use std::sync::Arc;

use base::access::Principal;
use base::{OrganisationId, Page, PageRequest, Timestamp};
use base64::Engine;
use eventlog::Stored;
use relational::{Read, Tx, params};

use crate::fleet::Fleet;
use crate::intake::{Encoding, Letter, TOPIC_PREFIX};
use crate::{Devices, Error, Result};

/// A message of a device, or a record of the log, that is no reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its place among the dead letters, which no other one ever has.
    pub offset: u64,
    /// Where it came: the broker's topic, or the log's topic with partition and offset.
    pub topic: String,
    /// One word for the reason.
    pub kind: String,
    /// Why it was refused last.
    pub reason: String,
    pub payload: String,
    pub encoding: Encoding,
    /// The payload was longer.
    pub is_truncated: bool,
    /// Who sent it.
    pub from: String,
    /// Replays included.
    pub attempts: u32,
    pub time: Timestamp,
    /// When it was replayed last, and refused again.
    pub tried: Option<Timestamp>,
}

/// Which dead letters; all of them without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    pub kind: Option<String>,
    /// A part of the reason, whatever its case.
    pub reason: Option<String>,
}

impl LetterFilter {
    fn wants(&self, letter: &DeadLetter) -> bool {
        let is_kind = self.kind.as_ref().is_none_or(|kind| *kind == letter.kind);
        let reason = self.reason.as_ref().map(|part| part.to_lowercase());
        is_kind && reason.is_none_or(|part| letter.reason.to_lowercase().contains(&part))
    }
}

/// All letters are in one partition, so that they have one order.
const PARTITION: u32 = 0;

impl Devices {
    /// Those that wait, the newest first. A page can be shorter than asked for and have one behind it.
    pub async fn dead_letters(
        &self,
        organisation: OrganisationId,
        filter: &LetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetter>> {
        self.fleet(organisation).await?.letters(filter, page).await
    }

    pub async fn dead_letter(
        &self,
        organisation: OrganisationId,
        offset: u64,
    ) -> Result<DeadLetter> {
        self.fleet(organisation).await?.letter_at(offset).await
    }

    /// Takes a message again as if the principal sent it now. Refused again, the letter stays, with the new
    /// reason. Twice at once are two records of one reading, which counts once.
    pub async fn replay_dead_letter(&self, principal: &Principal, offset: u64) -> Result<()> {
        let fleet = self.fleet(principal.organisation).await?;
        fleet.replay(principal, offset).await
    }

    /// Gives a dead letter up for good.
    pub async fn discard_dead_letter(
        &self,
        organisation: OrganisationId,
        offset: u64,
    ) -> Result<()> {
        let fleet = self.fleet(organisation).await?;
        fleet.letter_at(offset).await?;
        fleet.note(offset, Fate::Settled).await
    }
}

/// What became of a letter.
enum Fate {
    Settled,
    Refused(String),
}

/// What the rows know of a letter.
struct Known {
    is_settled: bool,
    attempts: u32,
    reason: String,
    time: Timestamp,
}

impl Fleet {
    async fn letters(&self, filter: &LetterFilter, page: &PageRequest) -> Result<Page<DeadLetter>> {
        let (start, end) = (self.dead_letters.start(PARTITION), self.dead_letters.end(PARTITION));
        let mut before = *end.borrow();
        if let Some(cursor) = &page.after {
            before = before.min(cursor.parse().map_err(|_| Error::cursor(cursor))?);
        }
        let step = page.limit as u64 + 1;
        let floor = before.saturating_sub(self.house.config.dead_letters_looked_at_max as u64);
        let floor = floor.max(start);
        let mut letters = Vec::new();
        while letters.len() <= page.limit && before > floor {
            let first = floor.max(before.saturating_sub(step));
            let window = self.window(first, before).await?;
            letters.extend(window.into_iter().rev().filter(|letter| filter.wants(letter)));
            before = first;
        }
        let mut page = Page::of(letters, page.limit, |letter| letter.offset.to_string());
        if page.next.is_none() && before > start {
            page.next = Some(before.to_string());
        }
        Ok(page)
    }

    async fn letter_at(&self, offset: u64) -> Result<DeadLetter> {
        let there = self.dead_letters.start(PARTITION)..*self.dead_letters.end(PARTITION).borrow();
        let mut window = Vec::new();
        if there.contains(&offset) {
            window = self.window(offset, offset + 1).await?;
        }
        window.pop().ok_or_else(|| Error::NotFound("dead letter", offset.to_string()))
    }

    /// Those between two offsets that wait.
    async fn window(&self, first: u64, end: u64) -> Result<Vec<DeadLetter>> {
        let known = self.known(first, end).await?;
        let mut letters = Vec::new();
        let mut next = first;
        while next < end {
            let bytes_max = self.house.config.stream_bytes_max;
            let batch = self.dead_letters.fetch(PARTITION, next, bytes_max).await?;
            let Some(last) = batch.last() else { break };
            next = last.offset + 1;
            for stored in batch.iter().filter(|stored| stored.offset < end) {
                let known = known.get(&stored.offset);
                if known.is_none_or(|known| !known.is_settled) {
                    let mut letter = DeadLetter::new(stored, known);
                    letter.from = self.house.name_of(self.organisation, letter.from);
                    letters.push(letter);
                }
            }
        }
        Ok(letters)
    }

    async fn known(&self, first: u64, end: u64) -> Result<HashMap<u64, Known>> {
        let organisation = self.organisation;
        let (first, end) = (number(first), number(end));
        let ask = async move |read: &mut Read| {
            let sql = "SELECT letter_offset, is_settled, attempts, reason, time FROM letters \
                       WHERE organisation = ? AND letter_offset >= ? AND letter_offset < ?";
            let rows = read.query(sql, params![organisation, first, end]).await?;
            let known = rows.iter().map(|row| {
                let known = Known {
                    is_settled: row.get("is_settled")?,
                    attempts: row.get("attempts")?,
                    reason: row.get("reason")?,
                    time: row.get("time")?,
                };
                Ok((row.get("letter_offset")?, known))
            });
            known.collect::<Result<_, relational::Error>>()
        };
        Ok(self.house.needs.db.read(ask).await?)
    }

    /// The record is in the log before the letter goes: killed in between, the letter can be replayed again.
    async fn replay(self: &Arc<Self>, principal: &Principal, offset: u64) -> Result<()> {
        let letter = self.letter_at(offset).await?;
        let Some(device) = letter.topic.strip_prefix(TOPIC_PREFIX) else {
            return Err(Error::Replay("it did not come from a device".into()));
        };
        if letter.is_truncated {
            return Err(Error::Replay("only the beginning of its payload was kept".into()));
        }
        let payload = match letter.encoding {
            Encoding::Utf8 => letter.payload.clone().into_bytes(),
            Encoding::Base64 => base64::engine::general_purpose::STANDARD
                .decode(&letter.payload)
                .map_err(|_| Error::damaged("the payload of a dead letter"))?,
        };
        let now = self.house.base.clock.now();
        match self.check(principal, device, &payload, now).await? {
            Ok(record) => {
                let partition = self.readings.partition_for(device.as_bytes());
                self.append_all(vec![(partition, record)]).await?;
                self.note(offset, Fate::Settled).await
            }
            Err(refusal) => {
                let reason = refusal.reason();
                self.note(offset, Fate::Refused(reason.clone())).await?;
                Err(Error::Replay(reason))
            }
        }
    }

    /// Keeps what became of a letter. A settled one stays settled.
    async fn note(&self, offset: u64, fate: Fate) -> Result<()> {
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let (start, offset) = (number(self.dead_letters.start(PARTITION)), number(offset));
        let (is_settled, reason) = match fate {
            Fate::Settled => (true, String::new()),
            Fate::Refused(reason) => (false, reason),
        };
        let note = async move |tx: &mut Tx| {
            let gone = "DELETE FROM letters WHERE organisation = ? AND letter_offset < ?";
            tx.execute(gone, params![organisation, start]).await?;
            let sql = "UPDATE letters SET is_settled = ?, attempts = attempts + 1, reason = ?, \
                       time = ? WHERE organisation = ? AND letter_offset = ? AND is_settled = 0";
            let given = params![is_settled, reason, now, organisation, offset];
            if tx.execute(sql, given).await? > 0 {
                return Ok(());
            }
            let sql = "SELECT letter_offset FROM letters \
                       WHERE organisation = ? AND letter_offset = ?";
            if tx.query_optional(sql, params![organisation, offset]).await?.is_some() {
                return Ok(());
            }
            let sql = "INSERT INTO letters (organisation, letter_offset, is_settled, attempts, \
                       reason, time) VALUES (?, ?, ?, 2, ?, ?)";
            tx.execute(sql, params![organisation, offset, is_settled, reason, now]).await?;
            Ok::<_, relational::Error>(())
        };
        Ok(self.house.needs.db.write(note).await?)
    }

    /// How many wait.
    pub(crate) async fn letters_count(&self) -> Result<u64> {
        let start = self.dead_letters.start(PARTITION);
        let there = self.dead_letters.end(PARTITION).borrow().saturating_sub(start);
        let (organisation, start) = (self.organisation, number(start));
        let ask = async move |read: &mut Read| {
            let sql = "SELECT COUNT(*) AS settled FROM letters \
                       WHERE organisation = ? AND letter_offset >= ? AND is_settled = 1";
            read.query_one(sql, params![organisation, start]).await?.get::<u64>("settled")
        };
        let settled: Result<u64, relational::Error> = self.house.needs.db.read(ask).await;
        Ok(there.saturating_sub(settled?))
    }
}

impl DeadLetter {
    fn new(stored: &Stored, known: Option<&Known>) -> Self {
        let letter: Letter = serde_json::from_slice(&stored.record.value)
            .unwrap_or_else(|_| foreign(&stored.record.value));
        Self {
            offset: stored.offset,
            topic: letter.topic,
            kind: letter.kind,
            reason: known.map_or(letter.reason, |known| known.reason.clone()),
            payload: letter.payload,
            encoding: letter.encoding,
            is_truncated: letter.is_truncated,
            from: letter.from,
            attempts: known.map_or(1, |known| known.attempts),
            time: letter.time.parse().unwrap_or(stored.record.timestamp),
            tried: known.map(|known| known.time),
        }
    }
}

/// Another program may write to the topic as well.
fn foreign(value: &[u8]) -> Letter {
    Letter {
        topic: String::new(),
        kind: "foreign".into(),
        reason: "written by another program".into(),
        payload: String::from_utf8_lossy(value).into_owned(),
        encoding: Encoding::Utf8,
        is_truncated: false,
        time: String::new(),
        from: String::new(),
    }
}

fn number(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
