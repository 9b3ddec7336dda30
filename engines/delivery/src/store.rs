//! The rows of messages. `next_attempt` is set exactly while a message waits or is being sent, so that one index finds
//! what is due and what crashed, lane by lane.

pub(crate) mod attempts;
pub(crate) mod endpoints;
pub(crate) mod sealed;

use std::sync::Arc;
use std::time::Duration;

use base::{OrganisationId, PageRequest, Seal, Timestamp};
use parking_lot::Mutex;
use relational::{Migration, Read, Row, Tx, Value, params};

use crate::lanes::{Board, LOOK_AT_ALL_EVERY, Lane, Look, Standing};
use crate::{
    Channel, Counts, EndpointState, Error, Message, MessageFilter, MessageId, Secret, State,
};

pub(crate) const ROOM: &str = "delivery";

pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
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
    },
    Migration {
        id: "0002-endpoints",
        sql: "
ALTER TABLE delivery_messages ADD COLUMN lane VARCHAR(36) NOT NULL DEFAULT 'email';
CREATE INDEX delivery_messages_lane ON delivery_messages (lane, next_attempt);
CREATE INDEX delivery_messages_unsent ON delivery_messages (state, organisation, lane);
CREATE TABLE delivery_endpoints (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    channel VARCHAR(20) NOT NULL,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    event_types TEXT NOT NULL,
    contact TEXT,
    rate_max BIGINT,
    state VARCHAR(20) NOT NULL,
    reason TEXT,
    failures BIGINT NOT NULL,
    failing_since BIGINT,
    not_before BIGINT,
    last_success BIGINT,
    created BIGINT NOT NULL,
    changed BIGINT NOT NULL
);
CREATE INDEX delivery_endpoints_list ON delivery_endpoints (organisation, id);
CREATE TABLE delivery_secrets (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    organisation VARCHAR(36) NOT NULL,
    endpoint VARCHAR(36) NOT NULL,
    secret TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT
);
CREATE INDEX delivery_secrets_list ON delivery_secrets (endpoint, id);
CREATE TABLE delivery_attempts (
    message VARCHAR(36) NOT NULL,
    number BIGINT NOT NULL,
    organisation VARCHAR(36) NOT NULL,
    began BIGINT NOT NULL,
    outcome VARCHAR(20) NOT NULL,
    status BIGINT,
    error TEXT,
    answer TEXT,
    took BIGINT,
    PRIMARY KEY (message, number)
);
",
    },
    Migration {
        id: "0003-sealed",
        // Where `sealed_by` is null, the text is as an earlier version left it.
        sql: "
ALTER TABLE delivery_endpoints ADD COLUMN sealed_by VARCHAR(36);
ALTER TABLE delivery_secrets ADD COLUMN sealed_by VARCHAR(36);
CREATE TABLE delivery_keys (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    first_used BIGINT NOT NULL
);
",
    },
    Migration {
        id: "0004-mailboxes",
        // The address of a mail, by which all that went to somebody is found.
        sql: "
ALTER TABLE delivery_messages ADD COLUMN mailbox VARCHAR(254);
UPDATE delivery_messages SET mailbox = LOWER(recipient) WHERE lane = 'email';
CREATE INDEX delivery_messages_mailbox ON delivery_messages (organisation, mailbox, id);
",
    },
];

/// A message to be written for the first time.
pub(crate) struct New {
    pub(crate) id: MessageId,
    pub(crate) organisation: OrganisationId,
    pub(crate) channel: Channel,
    pub(crate) lane: Lane,
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) body: String,
    pub(crate) idempotency_key: String,
    pub(crate) message_id: String,
    pub(crate) state: State,
    pub(crate) attempts_max: u32,
    pub(crate) now: Timestamp,
}

/// What a look for messages that are due may take.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) look: Look,
    pub(crate) board: Arc<Mutex<Board>>,
    pub(crate) seal: Arc<Seal>,
    /// How long an attempt has a mail for itself; nothing while there is no server.
    pub(crate) mail_lease: Option<Duration>,
    pub(crate) post_lease: Duration,
    pub(crate) now: Timestamp,
}

/// A message that this attempt has for itself until its lease ends.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) id: MessageId,
    pub(crate) organisation: OrganisationId,
    pub(crate) lane: Standing,
    /// Nothing for a mail.
    pub(crate) destination: Option<Arc<Destination>>,
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

/// Where an endpoint is and what signs for it.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) channel: Channel,
    pub(crate) url: String,
    pub(crate) secrets: Vec<Secret>,
}

/// What one look at the rows that are due gave.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub(crate) claimed: Vec<Claimed>,
    /// Messages whose last attempt crashed.
    pub(crate) given_up: Vec<(OrganisationId, Lane, MessageId)>,
    /// Attempts before these whose end nobody wrote.
    pub(crate) unknown: u64,
    /// Endpoints that were looked at.
    pub(crate) endpoints_read: u64,
    /// When to look again, if nothing happens before.
    pub(crate) next: Option<Timestamp>,
}

impl Claim {
    fn look_at(&mut self, moment: Timestamp) {
        self.next = Some(self.next.map_or(moment, |next| next.min(moment)));
    }
}

/// How an attempt ended, for its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent(Timestamp),
    Retry { reason: String, at: Timestamp },
    Failed { reason: String },
}

/// How an attempt ended, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// What it says of the endpoint.
    pub(crate) health: Health,
    pub(crate) status: Option<u16>,
    pub(crate) answer: Option<String>,
    pub(crate) at: Timestamp,
    pub(crate) took: Duration,
}

/// What an attempt says of its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// Nothing: it was a mail, or the message itself was refused.
    Silent,
    Well,
    Unwell {
        /// How long the endpoint asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It says that nothing will be taken any more, and why.
    Gone(String),
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
    let mailbox = (new.channel == Channel::Email).then(|| new.to.to_lowercase());
    tx.execute(
        "INSERT INTO delivery_messages (id, organisation, channel, lane, recipient, mailbox, subject, body, idempotency_key, \
         message_id, state, attempts, attempts_max, next_attempt, created) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
        params![
            new.id,
            new.organisation,
            new.channel.name(),
            new.lane.name(),
            new.to,
            mailbox,
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

/// Takes messages that are due, or whose attempt's lease ended, as many as their lanes allow.
pub(crate) async fn claim(tx: &mut Tx, asked: &Asked) -> Result<Claim, Error> {
    let now = asked.now;
    let (mut lanes, read) = endpoints::standing(tx, &asked.look).await?;
    let soon = now.plus(LOOK_AT_ALL_EVERY);
    {
        let mut board = asked.board.lock();
        lanes.iter().filter(|lane| lane.due <= soon).for_each(|lane| board.stir(lane.lane));
    }
    if asked.mail_lease.is_some()
        && let Some(due) = earliest(tx, Lane::Mail, Timestamp::from_micros(0)).await?
    {
        let (lane, channel) = (Lane::Mail, Channel::Email);
        lanes.push(Standing { lane, channel, failures: 0, rate_max: None, due });
    }
    lanes.sort_by_key(|lane| lane.due);
    let mut room = asked.board.lock().room();
    let mut claim = Claim { endpoints_read: read, ..Claim::default() };
    if let Look::Lively { all_in, .. } = &asked.look {
        claim.look_at(now.plus(*all_in));
    }
    for lane in lanes {
        if lane.due > now {
            claim.look_at(lane.due);
            continue;
        }
        let allowed = asked.board.lock().allowed(&lane, room, now);
        if allowed.count > 0 {
            let before = claim.claimed.len();
            let found = take(tx, asked, &lane, allowed.count, &mut claim).await?;
            room.plan(&lane, claim.claimed.len() - before);
            if found < allowed.count {
                if let Some(due) = earliest(tx, lane.lane, now).await? {
                    claim.look_at(due);
                }
                continue;
            }
        }
        // What stops a lane otherwise is that its slots are taken: whoever gives one back wakes the worker.
        if let Some(then) = allowed.then {
            claim.look_at(now.plus(then));
        }
    }
    if !claim.given_up.is_empty() {
        claim.look_at(now);
    }
    Ok(claim)
}

/// When the first message of a lane after a moment is due.
async fn earliest(tx: &mut Tx, lane: Lane, after: Timestamp) -> Result<Option<Timestamp>, Error> {
    let sql = "SELECT MIN(next_attempt) AS due FROM delivery_messages WHERE lane = ? AND next_attempt > ?";
    Ok(tx.query_one(sql, params![lane.name(), after]).await?.get("due")?)
}

/// Takes up to `limit` messages of one lane; says how many were due.
async fn take(
    tx: &mut Tx,
    asked: &Asked,
    lane: &Standing,
    limit: usize,
    claim: &mut Claim,
) -> Result<usize, Error> {
    let now = asked.now;
    let lease_until = now.plus(match lane.lane {
        Lane::Mail => asked.mail_lease.unwrap_or_default(),
        Lane::Endpoint(_) => asked.post_lease,
    });
    let destination = match lane.lane {
        Lane::Mail => None,
        Lane::Endpoint(id) => match endpoints::destination(tx, id, now, &asked.seal).await {
            Ok(destination) => Some(Arc::new(destination)),
            Err(error @ Error::Sealed { .. }) => {
                // Others do not wait for one that cannot be opened, and it says why it waits.
                tracing::error!(endpoint = %id, %error, "an endpoint was paused");
                let reason = error.to_string();
                let paused = (EndpointState::Paused, Some(reason.as_str()));
                endpoints::switch(tx, id, paused, now).await?;
                return Ok(0);
            }
            Err(error) => return Err(error),
        },
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = tx
        .query(
            "SELECT id, organisation, state, recipient, subject, body, message_id, attempts, attempts_max, created \
             FROM delivery_messages WHERE lane = ? AND next_attempt <= ? ORDER BY next_attempt, id LIMIT ?",
            params![lane.lane.name(), now, limit],
        )
        .await?;
    for row in &rows {
        let (id, attempts): (MessageId, u32) = (row.get("id")?, row.get("attempts")?);
        let (attempts_max, organisation): (u32, OrganisationId) =
            (row.get("attempts_max")?, row.get("organisation")?);
        if asked.board.lock().is_sending(id) {
            continue;
        }
        claim.unknown += u64::from(state_of(row)? == State::Sending);
        if attempts >= attempts_max {
            let reason = "gave up: the last attempt did not end";
            fail(tx, id, attempts, reason).await?;
            claim.given_up.push((organisation, lane.lane, id));
            continue;
        }
        let attempt = attempts + 1;
        let taken = tx
            .execute(
                "UPDATE delivery_messages SET state = 'sending', attempts = ?, next_attempt = ? \
                 WHERE id = ? AND attempts = ? AND next_attempt <= ?",
                params![attempt, lease_until, id, attempts, now],
            )
            .await?;
        if taken != 1 {
            continue;
        }
        attempts::begin(tx, organisation, (id, attempt), now).await?;
        claim.claimed.push(Claimed {
            id,
            organisation,
            lane: *lane,
            destination: destination.clone(),
            to: row.get("recipient")?,
            subject: row.get("subject")?,
            body: row.get("body")?,
            message_id: row.get("message_id")?,
            attempt,
            attempts_max,
            created: row.get("created")?,
            lease_until,
        });
    }
    Ok(rows.len())
}

/// Writes how an attempt ended; `false` when another attempt has the message by now.
pub(crate) async fn record(
    tx: &mut Tx,
    id: MessageId,
    attempt: u32,
    ended: &Ended,
) -> Result<bool, Error> {
    attempts::end(tx, (id, attempt), ended).await?;
    let rows = match &ended.outcome {
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

/// Holds a message that waits for an endpoint which is switched off.
pub(crate) async fn hold_if_off(tx: &mut Tx, id: MessageId) -> Result<(), Error> {
    let sql = "UPDATE delivery_messages SET state = 'held', next_attempt = NULL \
               WHERE id = ? AND state = 'waiting' \
               AND lane IN (SELECT id FROM delivery_endpoints WHERE state <> 'active')";
    tx.execute(sql, params![id]).await?;
    Ok(())
}

/// What a deed on one message needs of it.
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) lane: Lane,
    pub(crate) attempts: u32,
    pub(crate) idempotency_key: String,
}

pub(crate) async fn found(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: MessageId,
) -> Result<Found, Error> {
    let sql = "SELECT state, lane, attempts, idempotency_key FROM delivery_messages \
               WHERE organisation = ? AND id = ?";
    let row = tx.query_optional(sql, params![organisation, id]).await?;
    let row = row.ok_or(Error::NotFound(id))?;
    Ok(Found {
        state: state_of(&row)?,
        lane: lane_of(&row)?,
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

pub(crate) async fn discard(tx: &mut Tx, id: MessageId) -> Result<(), Error> {
    let sql = "UPDATE delivery_messages SET state = 'discarded', next_attempt = NULL WHERE id = ?";
    tx.execute(sql, params![id]).await?;
    Ok(())
}

/// The oldest messages of an endpoint that failed.
pub(crate) async fn failed_of(
    tx: &mut Tx,
    (organisation, lane): (OrganisationId, Lane),
    limit: u32,
) -> Result<Vec<(MessageId, u32)>, Error> {
    let sql = "SELECT id, attempts FROM delivery_messages \
               WHERE organisation = ? AND state = 'failed' AND lane = ? ORDER BY id LIMIT ?";
    let rows = tx.query(sql, params![organisation, lane.name(), limit]).await?;
    rows.iter().map(|row| Ok((row.get("id")?, row.get("attempts")?))).collect()
}

const COLUMNS: &str = "id, channel, lane, recipient, subject, body, state, attempts, next_attempt, last_error, \
                       message_id, created, sent";

pub(crate) async fn page(
    read: &mut Read,
    organisation: OrganisationId,
    filter: MessageFilter,
    page: &PageRequest,
) -> Result<Vec<Message>, Error> {
    let mut sql = format!("SELECT {COLUMNS} FROM delivery_messages WHERE organisation = ?");
    let mut values = params![organisation].to_vec();
    let texts = [
        (" AND state = ?", filter.state.map(|state| state.name().to_owned())),
        (" AND channel = ?", filter.channel.map(|channel| channel.name().to_owned())),
        (" AND lane = ?", filter.endpoint.map(|endpoint| endpoint.to_string())),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            sql.push_str(condition);
            values.push(Value::Text(text));
        }
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

pub(crate) async fn held_mails(
    read: &mut Read,
    organisation: OrganisationId,
) -> Result<u64, Error> {
    let sql = "SELECT COUNT(*) AS number FROM delivery_messages \
               WHERE state = 'held' AND organisation = ? AND lane = ?";
    number_of(&read.query_one(sql, params![organisation, Lane::Mail.name()]).await?)
}

/// Unsent messages of one lane and state.
pub(crate) struct Unsent {
    pub(crate) organisation: OrganisationId,
    pub(crate) lane: Lane,
    pub(crate) state: State,
    pub(crate) number: u64,
}

pub(crate) async fn unsent(read: &mut Read) -> Result<Vec<Unsent>, Error> {
    let sql = "SELECT organisation, lane, state, COUNT(*) AS number FROM delivery_messages \
               WHERE state IN ('held', 'waiting', 'sending') GROUP BY organisation, lane, state";
    let rows = read.query(sql, params![]).await?;
    let unsent_of = |row: &Row| -> Result<Unsent, Error> {
        Ok(Unsent {
            organisation: row.get("organisation")?,
            lane: lane_of(row)?,
            state: state_of(row)?,
            number: number_of(row)?,
        })
    };
    rows.iter().map(unsent_of).collect()
}

/// Deletes up to `limit` messages made before the bound that nobody waits for, and secrets that sign no more; says
/// how many messages.
pub(crate) async fn forget(
    tx: &mut Tx,
    (before, now): (MessageId, Timestamp),
    limit: u32,
) -> Result<usize, Error> {
    endpoints::forget_secrets(tx, now).await?;
    let sql = "SELECT id FROM delivery_messages \
               WHERE id < ? AND state IN ('held', 'sent', 'failed', 'discarded') ORDER BY id LIMIT ?";
    let rows = tx.query(sql, params![before, limit]).await?;
    for row in &rows {
        remove(tx, row.get("id")?).await?;
    }
    Ok(rows.len())
}

/// Mails to an address that nobody sends at this moment.
pub(crate) async fn forget_mailbox(
    tx: &mut Tx,
    organisation: OrganisationId,
    (mailbox, before): (&str, Timestamp),
    limit: i64,
) -> Result<usize, Error> {
    let sql = "SELECT id FROM delivery_messages WHERE organisation = ? AND mailbox = ?
        AND created <= ? AND state <> 'sending' ORDER BY id LIMIT ?";
    let place = params![organisation, mailbox.to_lowercase(), before, limit];
    let rows = tx.query(sql, place).await?;
    for row in &rows {
        remove(tx, row.get("id")?).await?;
    }
    Ok(rows.len())
}

/// Mails to an address, after one of them, oldest first.
pub(crate) async fn of_mailbox(
    read: &mut Read,
    (organisation, mailbox): (OrganisationId, String),
    after: &str,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM delivery_messages
        WHERE organisation = ? AND mailbox = ? AND id > ? ORDER BY id LIMIT ?"
    );
    let place = params![organisation, mailbox.to_lowercase(), after, limit];
    read.query(&sql, place).await?.iter().map(message_of).collect()
}

async fn remove(tx: &mut Tx, id: MessageId) -> Result<(), Error> {
    tx.execute("DELETE FROM delivery_attempts WHERE message = ?", params![id]).await?;
    tx.execute("DELETE FROM delivery_messages WHERE id = ?", params![id]).await?;
    Ok(())
}

fn message_of(row: &Row) -> Result<Message, Error> {
    Ok(Message {
        id: row.get("id")?,
        channel: channel_of(row)?,
        endpoint: lane_of(row)?.endpoint(),
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

fn channel_of(row: &Row) -> Result<Channel, Error> {
    Channel::named(&row.get::<String>("channel")?).ok_or_else(|| unknown("channel"))
}

fn lane_of(row: &Row) -> Result<Lane, Error> {
    Lane::named(&row.get::<String>("lane")?).ok_or_else(|| unknown("lane"))
}

fn state_of(row: &Row) -> Result<State, Error> {
    State::named(&row.get::<String>("state")?).ok_or_else(|| unknown("state"))
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
