//! A second life for dead letters. A letter goes only in the commit of its replay's effect.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use base::{CommandId, EventId, OrganisationId};
use bytes::Bytes;
use eventlog::{Record, Stored};
use parking_lot::Mutex;

use crate::handler::{Handler, Handles};
use crate::{
    Command, Db, DeadLetter, DeadLetterFilter, DeadLetterId, Error, Origin, Read, Tx, Unhandled,
    Value, command, dead_letter, outbox, params, relay,
};

/// The handlers of events that run in this process, for as long as they run.
#[derive(Default)]
pub(crate) struct Handlers(Mutex<HashMap<Name, Vec<Weak<dyn Handles>>>>);

/// Handler, organisation and topic.
type Name = (String, OrganisationId, String);

impl Handlers {
    pub(crate) fn register(&self, handler: &Handler, handle: &Arc<dyn Handles>) {
        let name = (handler.name.to_owned(), handler.organisation, handler.topic.clone());
        let mut handlers = self.0.lock();
        let runs = handlers.entry(name).or_default();
        runs.retain(|run| run.strong_count() > 0);
        runs.push(Arc::downgrade(handle));
    }

    fn find(&self, letter: &DeadLetter) -> Result<Arc<dyn Handles>, Error> {
        let topic = letter.topic.clone().unwrap_or_default();
        let name = (letter.handler.clone(), letter.organisation, topic);
        let found = self.0.lock().get(&name).and_then(|runs| runs.iter().find_map(Weak::upgrade));
        found.ok_or_else(|| Error::NoHandler { name: letter.handler.clone() })
    }
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// The handler's effect is there.
    Handled,
    /// It waits again to be carried out, or to be moved into the event log.
    Waiting,
}

/// What a replay of many did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayedMany {
    pub replayed: u64,
    /// Failed again and still there.
    pub failed: u64,
    /// Left alone, because one before them with the same handler and key failed.
    pub held: u64,
    /// There are more than were looked at.
    pub is_more: bool,
}

/// Why a letter is still there, or no longer.
enum Unplayed {
    Gone,
    Failed(Unhandled),
}

impl From<Error> for Unplayed {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Unhandled> for Unplayed {
    fn from(unhandled: Unhandled) -> Self {
        Self::Failed(unhandled)
    }
}

impl Db {
    /// Gives an event to the handler that failed, and to no other, under its old id; puts a command back with no
    /// attempt begun; puts an event that the event log refused back into the outbox. Two at once replay once: the
    /// other one finds no letter. An error of kind `Conflict` leaves the letter, with the new reason.
    pub async fn replay(
        &self,
        organisation: OrganisationId,
        id: DeadLetterId,
    ) -> Result<Replayed, Error> {
        let letter = self.dead_letter(organisation, id).await?;
        let replayed = match letter.origin {
            Origin::Event => self.replay_event(letter).await?,
            Origin::Outbox => self.replay_into(letter, Queue::Outbox).await?,
            Origin::Command => {
                self.shared().commands.check(&letter.handler)?;
                self.replay_into(letter, Queue::Commands).await?
            }
        };
        self.shared().meter.dead_letters_replayed.inc();
        tracing::info!(%organisation, letter = %id, "a dead letter was replayed");
        Ok(replayed)
    }

    /// Replays those that match now, at most `replay_max`, the earliest first. Behind one that fails those with
    /// its handler and key are left alone, so that their order is not turned round.
    pub async fn replay_matching(
        &self,
        organisation: OrganisationId,
        filter: &DeadLetterFilter,
    ) -> Result<ReplayedMany, Error> {
        let (places, is_more) = self.earliest(organisation, filter).await?;
        let mut done = ReplayedMany { is_more, ..ReplayedMany::default() };
        let mut stuck = HashSet::new();
        for (id, place) in places {
            if stuck.contains(&place) {
                done.held += 1;
                continue;
            }
            match self.replay(organisation, id).await {
                Ok(_) => done.replayed += 1,
                // Somebody else was faster.
                Err(Error::NotFound) => {}
                Err(Error::Replay { .. } | Error::NoHandler { .. }) => {
                    done.failed += 1;
                    stuck.insert(place);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Gives a dead letter up for good.
    pub async fn discard(
        &self,
        organisation: OrganisationId,
        id: DeadLetterId,
    ) -> Result<(), Error> {
        let taken = self.write(async move |tx| take(tx, organisation, id).await).await?;
        if !taken {
            return Err(Error::NotFound);
        }
        self.shared().meter.dead_letters_discarded.inc();
        tracing::info!(%organisation, letter = %id, "a dead letter was discarded");
        Ok(())
    }

    async fn replay_event(&self, letter: DeadLetter) -> Result<Replayed, Error> {
        let handler = self.shared().handlers.find(&letter)?;
        let letter = Arc::new(letter);
        let again = letter.clone();
        let stored = stored(&letter);
        let work = async move |tx: &mut Tx| {
            if !take(tx, again.organisation, again.id).await? {
                return Err(Unplayed::Gone);
            }
            if let Some(event) = again.event {
                // The relay may have repeated it, and so it may have been set aside twice.
                let twins = "DELETE FROM dead_letter
                    WHERE handler = ? AND event = ? AND organisation = ? AND topic = ?";
                let (handler, topic) = (&again.handler, again.topic.as_deref());
                tx.execute(twins, params![handler, event, again.organisation, topic]).await?;
                if !tx.first_time(&again.handler, event).await? {
                    return Ok(());
                }
            }
            Ok(handler.handle(tx, &stored).await?)
        };
        let played = self.write(work).await;
        self.settle(&letter, played).await?;
        Ok(Replayed::Handled)
    }

    /// Puts it back where it came from.
    async fn replay_into(&self, letter: DeadLetter, queue: Queue) -> Result<Replayed, Error> {
        let letter = Arc::new(letter);
        let again = letter.clone();
        let work = async move |tx: &mut Tx| {
            if !take(tx, again.organisation, again.id).await? {
                return Err(Unplayed::Gone);
            }
            match queue {
                Queue::Outbox => outbox::put(&mut tx.session, outboxed(&again)?)?,
                Queue::Commands => {
                    let now = tx.session.shared().clock.now();
                    command::put(tx, &commanded(&again)?, now).await?;
                }
            }
            Ok(())
        };
        let played = self.write(work).await;
        self.settle(&letter, played).await?;
        Ok(Replayed::Waiting)
    }

    /// Notes at the letter why it failed again.
    async fn settle(&self, letter: &DeadLetter, played: Result<(), Unplayed>) -> Result<(), Error> {
        let unhandled = match played {
            Ok(()) => return Ok(()),
            Err(Unplayed::Gone) => return Err(Error::NotFound),
            Err(Unplayed::Failed(unhandled)) => unhandled,
        };
        let reason: Arc<str> = unhandled.to_string().into();
        let (id, organisation, now) = (letter.id, letter.organisation, self.now());
        let why = reason.clone();
        let note = async move |tx: &mut Tx| {
            let update = "UPDATE dead_letter SET reason = ?, attempts = attempts + 1, tried = ?
                WHERE organisation = ? AND sequence = ? AND time = ?";
            let why = dead_letter::shortened(&why);
            tx.execute(update, params![why, now, organisation, id.sequence, id.time]).await
        };
        let noted: Result<u64, Error> = self.write(note).await;
        if noted? == 0 {
            return Err(Error::NotFound);
        }
        tracing::warn!(%organisation, letter = %id, %reason, "a dead letter failed again");
        Err(Error::Replay { reason: reason.to_string() })
    }

    /// Discards those that match now, at most `replay_max`, the earliest first. Says how many, and whether there
    /// are more.
    pub async fn discard_matching(
        &self,
        organisation: OrganisationId,
        filter: &DeadLetterFilter,
    ) -> Result<(u64, bool), Error> {
        let (places, is_more) = self.earliest(organisation, filter).await?;
        let ids: Vec<DeadLetterId> = places.into_iter().map(|(id, _)| id).collect();
        let discard = async move |tx: &mut Tx| {
            let mut discarded = 0;
            for id in &ids {
                discarded += u64::from(take(tx, organisation, *id).await?);
            }
            Ok::<_, Error>(discarded)
        };
        let discarded = self.write(discard).await?;
        self.shared().meter.dead_letters_discarded.inc_by(discarded);
        tracing::info!(%organisation, discarded, ?filter, "dead letters were discarded");
        Ok((discarded, is_more))
    }

    async fn earliest(
        &self,
        organisation: OrganisationId,
        filter: &DeadLetterFilter,
    ) -> Result<(Vec<(DeadLetterId, Place)>, bool), Error> {
        let most = self.config().replay_max;
        let (wanted, mut given) = filter.condition(organisation);
        let sql = format!(
            "SELECT sequence, time, handler, topic, key FROM dead_letter WHERE {wanted}
            ORDER BY sequence LIMIT ?"
        );
        given.push(Value::from(i64::try_from(most + 1).unwrap_or(i64::MAX)));
        let rows = self.read(async move |read: &mut Read| read.query(&sql, &given).await);
        let rows: Vec<crate::Row> = rows.await?;
        let places = rows.iter().take(most).map(|row| {
            let id = DeadLetterId { sequence: row.get("sequence")?, time: row.get("time")? };
            Ok((id, (row.get("handler")?, row.get("topic")?, row.get("key")?)))
        });
        Ok((places.collect::<Result<_, Error>>()?, rows.len() > most))
    }
}

/// Handler, topic and key, whose order counts.
type Place = (String, String, Option<Vec<u8>>);

/// Where a letter came from.
#[derive(Clone, Copy)]
enum Queue {
    Outbox,
    Commands,
}

/// Takes a letter away. False when it is gone.
async fn take(tx: &mut Tx, organisation: OrganisationId, id: DeadLetterId) -> Result<bool, Error> {
    let delete = "DELETE FROM dead_letter WHERE organisation = ? AND sequence = ? AND time = ?";
    Ok(tx.execute(delete, params![organisation, id.sequence, id.time]).await? > 0)
}

/// The record as the handler saw it.
fn stored(letter: &DeadLetter) -> Stored {
    let mut headers = letter.headers.clone();
    if let (true, Some(event)) = (headers.is_empty(), letter.event) {
        // It was set aside by a version that kept no headers.
        headers = relay::headers(event, letter.kind.as_deref().unwrap_or_default());
    }
    Stored {
        offset: letter.offset.unwrap_or(0),
        record: Record {
            timestamp: letter.record_time,
            key: letter.key.clone().map(Bytes::from),
            value: Bytes::from(letter.payload.clone()),
            headers,
        },
    }
}

fn outboxed(letter: &DeadLetter) -> Result<outbox::Row, Error> {
    Ok(outbox::Row {
        organisation: letter.organisation,
        topic: letter.topic.clone().unwrap_or_default().into(),
        event: letter.event.ok_or_else(|| damaged("event"))?,
        kind: letter.kind.clone().unwrap_or_default().into(),
        key: text(letter.key.as_deref())?,
        payload: letter.payload.clone(),
        time: letter.record_time,
    })
}

fn commanded(letter: &DeadLetter) -> Result<Command, Error> {
    let id: EventId = letter.event.ok_or_else(|| damaged("event"))?;
    Ok(Command {
        id: CommandId::from_bytes(*id.bytes()),
        organisation: letter.organisation,
        name: letter.handler.clone(),
        key: text(letter.key.as_deref())?,
        payload: letter.payload.clone(),
        sent: letter.record_time,
        attempt: 0,
    })
}

fn text(key: Option<&[u8]>) -> Result<String, Error> {
    let key = std::str::from_utf8(key.unwrap_or_default());
    key.map(str::to_owned).map_err(|_| damaged("key"))
}

fn damaged(column: &str) -> Error {
    Error::Column { column: column.to_owned(), found: "something else", wanted: "text" }
}

#[cfg(test)]
mod tests;
