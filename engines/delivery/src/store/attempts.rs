//! The rows of attempts. One is written before its first byte goes out, so that one whose end nobody wrote is seen.

use std::time::Duration;

use base::{OrganisationId, Timestamp};
use relational::{Read, Row, Tx, params};

use super::{Ended, Outcome, unknown};
use crate::{Attempt, AttemptOutcome, Error, MessageId};

pub(super) async fn begin(
    tx: &mut Tx,
    organisation: OrganisationId,
    (message, number): (MessageId, u32),
    now: Timestamp,
) -> Result<(), Error> {
    let sql = "INSERT INTO delivery_attempts (message, number, organisation, began, outcome) \
               VALUES (?, ?, ?, ?, 'unknown')";
    tx.execute(sql, params![message, number, organisation, now]).await?;
    Ok(())
}

pub(super) async fn end(
    tx: &mut Tx,
    (message, number): (MessageId, u32),
    ended: &Ended,
) -> Result<(), Error> {
    let (outcome, error) = match &ended.outcome {
        Outcome::Sent(_) => (AttemptOutcome::Sent, None),
        Outcome::Retry { reason, .. } => (AttemptOutcome::Retry, Some(reason)),
        Outcome::Failed { reason } => (AttemptOutcome::Failed, Some(reason)),
    };
    let took = i64::try_from(ended.took.as_micros()).unwrap_or(i64::MAX);
    let sql = "UPDATE delivery_attempts SET outcome = ?, status = ?, error = ?, answer = ?, took = ? \
               WHERE message = ? AND number = ?";
    let given = params![outcome.name(), ended.status, error, ended.answer, took, message, number];
    tx.execute(sql, given).await?;
    Ok(())
}

/// The last `limit` attempts at a message, newest first.
pub(crate) async fn list(
    read: &mut Read,
    (organisation, message): (OrganisationId, MessageId),
    limit: u32,
) -> Result<Vec<Attempt>, Error> {
    let sql = "SELECT number, began, outcome, status, error, answer, took FROM delivery_attempts \
               WHERE message = ? AND organisation = ? ORDER BY number DESC LIMIT ?";
    let rows = read.query(sql, params![message, organisation, limit]).await?;
    rows.iter().map(attempt_of).collect()
}

fn attempt_of(row: &Row) -> Result<Attempt, Error> {
    let outcome: String = row.get("outcome")?;
    let took: Option<u64> = row.get("took")?;
    Ok(Attempt {
        number: row.get("number")?,
        began: row.get("began")?,
        outcome: AttemptOutcome::named(&outcome).ok_or_else(|| unknown("outcome"))?,
        status: row.get("status")?,
        error: row.get("error")?,
        answer: row.get("answer")?,
        took: took.map(Duration::from_micros),
    })
}
