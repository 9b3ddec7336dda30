//! The rows of messages. `next_attempt` is set exactly while a message waits or is being sent, so that one index finds
//! both what is due and what crashed.

use std::time::Duration;

use base::{OrganisationId, PageRequest, Timestamp};
use relational::{Migration, Read, Row, Tx, Value, params};

use crate::{Channel, Counts, EmailAddress, Error, Message, MessageId, State};

pub(crate) const ROOM: &str = "delivery";

pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    id: "0001-messages",
    sql: "
CREATE TABLE delivery_messages (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    channel TEXT NOT NULL,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    idempotency_key VARCHAR(200) NOT NULL,
    message_id TEXT NOT NULL,
    state VARCHAR(20) NOT NULL,
    attempts BIGINT NOT NULL,
    attempts_max BIGINT NOT NULL,
    next_attempt BIGINT,
    last_error TEXT,
    created BIGINT NOT NULL,
    sent BIGINT
);
CREATE UNIQUE INDEX delivery_messages_key ON delivery_messages (organisation, idempotency_key);
CREATE INDEX delivery_messages_state ON delivery_messages (organisation, state, id);
CREATE INDEX delivery_messages_list ON delivery_messages (organisation, id);
CREATE INDEX delivery_messages_due ON delivery_messages (next_attempt);
",
}];

/// A message to be written for the first time.
pub(crate) struct New {
    pub(crate) id: MessageId,
    pub(crate) organisation: OrganisationId,
    pub(crate) to: EmailAddress,
    pub(crate) subject: String,
    pub(crate) body: String,
    pub(crate) idempotency_key: String,
    pub(crate) message_id: String,
    pub(crate) state: State,
    pub(crate) attempts_max: u32,
    pub(crate) now: Timestamp,
}

/// A message that this attempt has for itself until its lease ends.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) id: MessageId,
    pub(crate) organisation: OrganisationId,
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) body: String,
    pub(crate) message_id: String,
    /// Counts up for ever: names the attempt in the row.
    pub(crate) attempt: u32,
    pub(crate) attempts_max: u32,
    pub(crate) created: Timestamp,
    pub(crate) lease_until: Timestamp,
}

/// What one look at the rows that are due gave.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub(crate) claimed: Vec<Claimed>,
    /// Messages whose last attempt crashed.
    pub(crate) given_up: Vec<(OrganisationId, MessageId)>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent(Timestamp),
    Retry { reason: String, at: Timestamp },
    Failed { reason: String },
}

pub(crate) async fn with_key(
    tx: &mut Tx,
    organisation: OrganisationId,
    key: &str,
) -> Result<Option<MessageId>, Error> {
    let sql = "SELECT id FROM delivery_messages WHERE organisation = ? AND idempotency_key = ?";
    let row = tx.query_optional(sql, params![organisation, key]).await?;
    Ok(row.map(|row| row.get("id")).transpose()?)
}

pub(crate) async fn insert(tx: &mut Tx, new: &New) -> Result<(), Error> {
    let next_attempt = (new.state == State::Waiting).then_some(new.now);
    tx.execute(
        "INSERT INTO delivery_messages (id, organisation, channel, recipient, subject, body, idempotency_key, \
         message_id, state, attempts, attempts_max, next_attempt, created) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
        params![
            new.id,
            new.organisation,
            Channel::Email.name(),
            new.to.to_string(),
            new.subject,
            new.body,
            new.idempotency_key,
            new.message_id,
            new.state.name(),
            new.attempts_max,
            next_attempt,
            new.now
        ],
    )
    .await?;
    Ok(())
}

/// Takes up to `limit` messages that are due, or whose attempt's lease ended.
pub(crate) async fn claim(
    tx: &mut Tx,
    now: Timestamp,
    lease: Duration,
    limit: usize,
) -> Result<Claim, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = tx
        .query(
            "SELECT id, organisation, recipient, subject, body, message_id, attempts, attempts_max, created \
             FROM delivery_messages WHERE next_attempt <= ? ORDER BY next_attempt, id LIMIT ?",
            params![now, limit],
        )
        .await?;
    let mut claim = Claim::default();
    for row in rows {
        let (id, attempts): (MessageId, u32) = (row.get("id")?, row.get("attempts")?);
        let attempts_max: u32 = row.get("attempts_max")?;
        if attempts >= attempts_max {
            let reason = "gave up: the last attempt did not end";
            fail(tx, id, attempts, reason).await?;
            claim.given_up.push((row.get("organisation")?, id));
            continue;
        }
        let lease_until = now.plus(lease);
        let taken = tx
            .execute(
                "UPDATE delivery_messages SET state = 'sending', attempts = ?, next_attempt = ? \
                 WHERE id = ? AND attempts = ? AND next_attempt <= ?",
                params![attempts + 1, lease_until, id, attempts, now],
            )
            .await?;
        if taken == 1 {
            claim.claimed.push(Claimed {
                id,
                organisation: row.get("organisation")?,
                to: row.get("recipient")?,
                subject: row.get("subject")?,
                body: row.get("body")?,
                message_id: row.get("message_id")?,
                attempt: attempts + 1,
                attempts_max,
                created: row.get("created")?,
                lease_until,
            });
        }
    }
    Ok(claim)
}

/// Writes how an attempt ended; `false` when another attempt has the message by now.
pub(crate) async fn record(
    tx: &mut Tx,
    id: MessageId,
    attempt: u32,
    outcome: &Outcome,
) -> Result<bool, Error> {
    let rows = match outcome {
        // That the server took it stays true whoever has the message by now.
        Outcome::Sent(at) => {
            tx.execute(
                "UPDATE delivery_messages SET state = 'sent', sent = ?, next_attempt = NULL, last_error = NULL \
                 WHERE id = ? AND state <> 'sent'",
                params![*at, id],
            )
            .await?
        }
        Outcome::Retry { reason, at } => {
            tx.execute(
                "UPDATE delivery_messages SET state = 'waiting', next_attempt = ?, last_error = ? \
                 WHERE id = ? AND attempts = ? AND state = 'sending'",
                params![*at, reason, id, attempt],
            )
            .await?
        }
        Outcome::Failed { reason } => fail(tx, id, attempt, reason).await?,
    };
    Ok(rows == 1)
}

async fn fail(tx: &mut Tx, id: MessageId, attempt: u32, reason: &str) -> Result<u64, Error> {
    let rows = tx
        .execute(
            "UPDATE delivery_messages SET state = 'failed', next_attempt = NULL, last_error = ? \
             WHERE id = ? AND attempts = ? AND state = 'sending'",
            params![reason, id, attempt],
        )
        .await?;
    Ok(rows)
}

/// When the next message is due, if any waits.
pub(crate) async fn next_due(read: &mut Read) -> Result<Option<Timestamp>, Error> {
    let sql = "SELECT MIN(next_attempt) AS due FROM delivery_messages";
    Ok(read.query_one(sql, params![]).await?.get("due")?)
}

/// What [`crate::Delivery::release`] and [`crate::Delivery::retry`] need of a message.
pub(crate) struct Standing {
    pub(crate) state: State,
    pub(crate) attempts: u32,
    pub(crate) idempotency_key: String,
}

pub(crate) async fn standing(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: MessageId,
) -> Result<Standing, Error> {
    let sql = "SELECT state, attempts, idempotency_key FROM delivery_messages WHERE organisation = ? AND id = ?";
    let row = tx.query_optional(sql, params![organisation, id]).await?;
    let row = row.ok_or(Error::NotFound(id))?;
    Ok(Standing {
        state: state_of(&row)?,
        attempts: row.get("attempts")?,
        idempotency_key: row.get("idempotency_key")?,
    })
}

pub(crate) async fn set_waiting(
    tx: &mut Tx,
    id: MessageId,
    (attempts_max, now): (u32, Timestamp),
    message_id: Option<&str>,
) -> Result<(), Error> {
    let sql = "UPDATE delivery_messages SET state = 'waiting', next_attempt = ?, attempts_max = ?, \
               message_id = COALESCE(?, message_id) WHERE id = ?";
    tx.execute(sql, params![now, attempts_max, message_id.map(str::to_owned), id]).await?;
    Ok(())
}

const COLUMNS: &str = "id, channel, recipient, subject, body, state, attempts, next_attempt, last_error, \
                       message_id, created, sent";

pub(crate) async fn page(
    read: &mut Read,
    organisation: OrganisationId,
    state: Option<State>,
    page: &PageRequest,
) -> Result<Vec<Message>, Error> {
    let mut sql = format!("SELECT {COLUMNS} FROM delivery_messages WHERE organisation = ?");
    let mut values = params![organisation].to_vec();
    if let Some(state) = state {
        sql.push_str(" AND state = ?");
        values.push(Value::Text(state.name().to_owned()));
    }
    if let Some(after) = &page.after {
        let after: MessageId = after.parse().map_err(|_| Error::Cursor)?;
        sql.push_str(" AND id < ?");
        values.push(Value::Text(after.to_string()));
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX) + 1;
    values.push(Value::Int(i64::try_from(limit).unwrap_or(i64::MAX)));
    read.query(&sql, &values).await?.iter().map(message_of).collect()
}

pub(crate) async fn one(
    read: &mut Read,
    organisation: OrganisationId,
    id: MessageId,
) -> Result<Message, Error> {
    let sql = format!("SELECT {COLUMNS} FROM delivery_messages WHERE organisation = ? AND id = ?");
    let row = read.query_optional(&sql, params![organisation, id]).await?;
    message_of(&row.ok_or(Error::NotFound(id))?)
}

pub(crate) async fn counts(read: &mut Read, organisation: OrganisationId) -> Result<Counts, Error> {
    let sql = "SELECT state, COUNT(*) AS number FROM delivery_messages WHERE organisation = ? GROUP BY state";
    let mut counts = Counts::default();
    for row in read.query(sql, params![organisation]).await? {
        *counts.of(state_of(&row)?) = number_of(&row)?;
    }
    Ok(counts)
}

/// Unsent messages by organisation, and whether they are held.
pub(crate) async fn unsent(read: &mut Read) -> Result<Vec<(OrganisationId, State, u64)>, Error> {
    let sql = "SELECT organisation, state, COUNT(*) AS number FROM delivery_messages \
               WHERE state IN ('held', 'waiting', 'sending') GROUP BY organisation, state";
    let rows = read.query(sql, params![]).await?;
    rows.iter().map(|row| Ok((row.get("organisation")?, state_of(row)?, number_of(row)?))).collect()
}

/// Deletes up to `limit` messages made before the bound that nobody waits for; says how many.
pub(crate) async fn forget(tx: &mut Tx, before: MessageId, limit: u32) -> Result<usize, Error> {
    let sql = "SELECT id FROM delivery_messages WHERE id < ? AND state IN ('held', 'sent', 'failed') \
               ORDER BY id LIMIT ?";
    let rows = tx.query(sql, params![before, limit]).await?;
    for row in &rows {
        let id: MessageId = row.get("id")?;
        tx.execute("DELETE FROM delivery_messages WHERE id = ?", params![id]).await?;
    }
    Ok(rows.len())
}

fn message_of(row: &Row) -> Result<Message, Error> {
    let channel: String = row.get("channel")?;
    Ok(Message {
        id: row.get("id")?,
        channel: Channel::named(&channel).ok_or_else(|| unknown("channel"))?,
        to: row.get("recipient")?,
        subject: row.get("subject")?,
        body: row.get("body")?,
        state: state_of(row)?,
        attempts: row.get("attempts")?,
        next_attempt: row.get("next_attempt")?,
        last_error: row.get("last_error")?,
        message_id: row.get("message_id")?,
        created: row.get("created")?,
        sent: row.get("sent")?,
    })
}

fn state_of(row: &Row) -> Result<State, Error> {
    let name: String = row.get("state")?;
    State::named(&name).ok_or_else(|| unknown("state"))
}

fn number_of(row: &Row) -> Result<u64, Error> {
    Ok(u64::try_from(row.get::<i64>("number")?).unwrap_or(0))
}

fn unknown(column: &str) -> Error {
    Error::Rows(relational::Error::Column {
        column: column.to_owned(),
        found: "an unknown name",
        wanted: "a known one",
    })
}
