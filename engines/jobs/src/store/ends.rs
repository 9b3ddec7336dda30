//! How attempts ended: many in one commit, each only if it is still the newest one of its job.

use std::collections::HashMap;
use std::sync::Arc;

use base::Timestamp;
use relational::{Tx, Value, params};

use crate::kind::Kinds;
use crate::store::{self, Claimed, gates, runs};
use crate::{Error, JobId, Outcome, State};

/// An attempt that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) claimed: Arc<Claimed>,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    pub(crate) how: How,
    pub(crate) log: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    Done,
    /// It failed and is followed by another.
    Again {
        reason: String,
        at: Timestamp,
    },
    /// It is followed by another, and does not count.
    Early {
        reason: String,
        at: Timestamp,
    },
    Dead {
        reason: String,
    },
    Cancelled {
        reason: String,
    },
    /// Its worker is gone; nothing follows where no time is given.
    Lost {
        reason: String,
        at: Option<Timestamp>,
    },
    /// Its worker was stopped, so it does not count.
    Interrupted {
        reason: String,
    },
    /// It never began.
    HandedBack,
}

impl How {
    fn outcome(&self) -> Option<Outcome> {
        Some(match self {
            Self::Done => Outcome::Done,
            Self::Again { .. } | Self::Dead { .. } => Outcome::Failed,
            Self::Early { .. } => Outcome::Early,
            Self::Cancelled { .. } => Outcome::Cancelled,
            Self::Lost { .. } => Outcome::Lost,
            Self::Interrupted { .. } => Outcome::Interrupted,
            Self::HandedBack => return None,
        })
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Done | Self::HandedBack => None,
            Self::Again { reason, .. }
            | Self::Early { reason, .. }
            | Self::Dead { reason }
            | Self::Cancelled { reason }
            | Self::Lost { reason, .. }
            | Self::Interrupted { reason } => Some(reason),
        }
    }
}

/// Who writes.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) kinds: &'a Kinds,
    /// Where the jobs have to be.
    pub(crate) place: &'a str,
    pub(crate) now: Timestamp,
}

/// Writes the ends of those attempts that nobody replaced; says which.
pub(crate) async fn write(
    tx: &mut Tx,
    writer: Writer<'_>,
    ends: &[End],
) -> Result<Vec<bool>, Error> {
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<JobId> = ends.iter().map(|end| end.claimed.id).collect();
    // By the id and no other index: PostgreSQL keeps an entry for every job that was ever at this place until it vacuums.
    let standing = "SELECT id, attempt, cancel FROM job WHERE COALESCE(place, '') = ? AND id IN";
    let mut current: HashMap<JobId, (u32, bool)> = HashMap::new();
    for row in store::rows_of_ids(tx, standing, params![writer.place], &ids).await? {
        current.insert(row.get("id")?, (row.get("attempt")?, row.get("cancel")?));
    }
    let (mut accepted, mut done) = (Vec::with_capacity(ends.len()), Vec::new());
    let (mut attempts, mut others) = (Vec::new(), Vec::new());
    for end in ends {
        // Taken out, so that an attempt that ends twice is refused the second time.
        let is_current =
            current.get(&end.claimed.id).is_some_and(|(of, _)| *of == end.claimed.attempt);
        let Some((_, is_cancelled)) = is_current.then(|| current.remove(&end.claimed.id)).flatten()
        else {
            accepted.push(false);
            continue;
        };
        accepted.push(true);
        let mut end = end.clone();
        if is_cancelled {
            end.how = cancelled(end.how);
        }
        attempts.extend(attempt(&end));
        if end.how == How::Done {
            done.push(end.claimed);
        } else {
            others.push(end);
        }
    }
    let ids: Vec<JobId> = done.iter().map(|claimed| claimed.id).collect();
    let finish =
        "UPDATE job SET state = 'done', place = NULL, finished = ?, last_error = NULL WHERE id IN";
    store::for_ids_later(tx, finish, params![writer.now], &ids).await?;
    let into = "job_attempt (job, attempt, began, ended, outcome, error, log)";
    store::insert_all(tx, into, attempts).await?;
    for claimed in &done {
        unlink(tx, writer, claimed, State::Done).await?;
    }
    for end in others {
        stop(tx, writer, &end).await?;
    }
    Ok(accepted)
}

/// Somebody asked it to stop, so it is not tried again.
fn cancelled(how: How) -> How {
    match how {
        How::Again { reason, .. } | How::Early { reason, .. } | How::Interrupted { reason } => {
            How::Cancelled { reason }
        }
        How::Lost { reason, at: Some(_) } => How::Cancelled { reason },
        How::HandedBack => How::Cancelled { reason: "cancelled before it began".to_owned() },
        how => how,
    }
}

fn attempt(end: &End) -> Option<Vec<Value>> {
    let outcome = end.how.outcome()?;
    let log = Some(end.log.clone()).filter(|log| !log.is_empty());
    Some(vec![
        end.claimed.id.into(),
        end.claimed.attempt.into(),
        end.began.into(),
        end.ended.into(),
        outcome.name().into(),
        end.how.reason().map(store::shortened).into(),
        log.into(),
    ])
}

/// Writes an end that left the job undone.
async fn stop(tx: &mut Tx, writer: Writer<'_>, end: &End) -> Result<(), Error> {
    let (claimed, now) = (&end.claimed, writer.now);
    let (next, counts) = match &end.how {
        How::Again { at, .. } | How::Lost { at: Some(at), .. } => (Ok(*at), 1),
        How::Early { at, .. } => (Ok(*at), 0),
        How::Interrupted { .. } => (Ok(now), 0),
        How::HandedBack => (Ok(claimed.due), 0),
        How::Cancelled { .. } => (Err(State::Cancelled), 0),
        How::Dead { .. } | How::Lost { at: None, .. } | How::Done => (Err(State::Dead), 1),
    };
    let state = match next {
        Ok(at) if at > now => State::Scheduled,
        Ok(_) => State::Ready,
        Err(state) => state,
    };
    let place = (state == State::Ready).then(|| claimed.lane.to_string());
    let due = next.unwrap_or(claimed.due);
    let finished = state.is_finished().then_some(now);
    // Where a statement sees what it has set itself, `due` has to be read before.
    let update = "UPDATE job SET meant = COALESCE(meant, due), state = ?, place = ?, due = ?,
        tries = tries + ?, finished = ?, last_error = COALESCE(?, last_error) WHERE id = ?";
    let reason = end.how.reason().map(store::shortened);
    let row = params![state.name(), place, due, counts, finished, reason, claimed.id];
    tx.execute(update, row).await?;
    if state == State::Scheduled {
        let timer = vec![due.into(), claimed.id.into(), claimed.organisation.into()];
        store::insert_timers(tx, vec![timer]).await?;
    }
    unlink(tx, writer, claimed, state).await
}

/// What others waited for in a job that runs no more: its place behind a gate, its key, its run.
pub(crate) async fn unlink(
    tx: &mut Tx,
    writer: Writer<'_>,
    claimed: &Claimed,
    state: State,
) -> Result<(), Error> {
    let is_finished = state.is_finished();
    gates::leave(tx, writer.kinds, claimed, is_finished).await?;
    if !is_finished {
        return Ok(());
    }
    if let Some(key) = &claimed.key {
        let delete = "DELETE FROM job_key
            WHERE organisation = ? AND kind = ? AND unique_key = ? AND job = ?";
        let key = params![claimed.organisation, claimed.kind, key, claimed.id];
        tx.execute(delete, key).await?;
    }
    match claimed.run {
        Some(run) if state == State::Done => runs::succeeded(tx, run, claimed.id, writer.now).await,
        Some(run) => runs::settle(tx, writer, run).await,
        None => Ok(()),
    }
}
