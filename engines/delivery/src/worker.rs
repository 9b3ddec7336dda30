//! Takes what is due, sends it, writes how it ended.
//!
//! An attempt is claimed by a commit before its first byte goes out and its end is written by another. When the process
//! dies between the receiver's yes and that second commit, the attempt's lease ends and the message is sent once more, with
//! the same `Message-ID` or `webhook-id`: at least once, and known for a repeat.
//!
//! Each endpoint is a lane with its own slots and pace (`lanes.rs`), so one that stalls holds back nobody else.

use std::sync::Arc;
use std::time::Duration;

use base::{Failure, Timestamp};
use relational::{NewEvent, Tx};
use serde_json::json;

use crate::lanes::{Lane, Slot};
use crate::mail::{self, Parts};
use crate::post::{self, Parcel, Verdict};
use crate::schedule::back_off;
use crate::store::endpoints::{self, Paused};
use crate::store::{self, Asked, Claim, Claimed, Destination, Ended, Health, Outcome};
use crate::{Channel, EmailAddress, Error, Inner, MessageId, State};

/// The longest sleep: a look at leases, idle connections, counts and old messages.
const ROUND_TIME_MAX: Duration = Duration::from_secs(30);
/// Messages deleted by one commit.
const FORGET_MAX: u32 = 500;
/// The pause before an attempt's end is written again after the database refused it.
const RECORD_PAUSE: Duration = Duration::from_millis(200);
/// The topic that tells of endpoints.
const TOPIC: &str = "delivery";

/// Runs until it is dropped.
pub(crate) async fn run(inner: Arc<Inner>) -> Result<(), Failure> {
    // By a time that no clock sets back.
    let mut housekeeping_at = inner.clock.instant();
    loop {
        let instant = inner.clock.instant();
        if instant >= housekeeping_at {
            keep_house(&inner).await?;
            housekeeping_at = instant + ROUND_TIME_MAX;
        }
        let claim = claim(&inner).await?;
        let due = claim.next;
        start(&inner, claim);
        let now = inner.clock.now();
        let pause = due.map_or(ROUND_TIME_MAX, |due| due.since(now).min(ROUND_TIME_MAX));
        tokio::select! {
            () = inner.wake.notified() => {}
            () = inner.clock.sleep(pause) => {}
        }
    }
}

/// Claims through the writer, so that a message whose transaction is still being committed is found behind it.
pub(crate) async fn claim(inner: &Inner) -> Result<Claim, Error> {
    let mail_lease = inner.relay.is_some().then(|| inner.mail_lease());
    let (board, clock, post_lease) = (inner.board.clone(), inner.clock.clone(), inner.post_lease());
    let seal = inner.seal.clone();
    let look = inner.board.lock().look(inner.clock.now());
    let work = async move |tx: &mut Tx| {
        let (board, seal, now) = (board.clone(), seal.clone(), clock.now());
        let look = look.clone();
        store::claim(tx, &Asked { look, board, seal, mail_lease, post_lease, now }).await
    };
    let claim = match inner.db.write(work).await {
        Ok(claim) => claim,
        Err(error) => {
            inner.board.lock().look_at_all();
            return Err(error);
        }
    };
    inner.meters.endpoints_read.inc_by(claim.endpoints_read);
    inner.meters.unknown.inc_by(claim.unknown);
    for (organisation, lane, id) in &claim.given_up {
        tracing::warn!(%organisation, message = %id, "a message failed: its last attempt did not end");
        inner.left_the_queue(*organisation, *lane);
        inner.meters.failed.inc();
    }
    Ok(claim)
}

fn start(inner: &Arc<Inner>, claim: Claim) {
    let now = inner.clock.now();
    for claimed in claim.claimed {
        let slot = Slot::take(&inner.board, &inner.wake, (&claimed.lane, claimed.id), now);
        let work = deliver(inner.clone(), claimed, slot);
        // Not awaited: it ends by its limits, and a panic in it leaves the lease to run out.
        drop(inner.tasks.spawn("delivery.send", work));
    }
}

async fn deliver(inner: Arc<Inner>, claimed: Claimed, slot: Slot) {
    let ended = attempt(&inner, &claimed).await;
    record(&inner, &claimed, ended).await;
    drop(slot);
}

/// Sends a claimed message and says how that ended; writes nothing.
pub(crate) async fn attempt(inner: &Inner, claimed: &Claimed) -> Ended {
    let begun = inner.clock.instant();
    let (verdict, health, status, answer) = match &claimed.destination {
        None => {
            let (verdict, status) = mail(inner, claimed).await;
            (verdict, Health::Silent, status, None)
        }
        Some(destination) => {
            let posted = post(inner, claimed, destination).await;
            (posted.verdict, posted.health, posted.status, posted.answer)
        }
    };
    let (at, took) = (inner.clock.now(), inner.clock.instant().saturating_duration_since(begun));
    let outcome = match verdict {
        Verdict::Taken => Outcome::Sent(at),
        Verdict::Never(reason) => Outcome::Failed { reason },
        Verdict::Later(reason) if claimed.attempt >= claimed.attempts_max => {
            Outcome::Failed { reason: format!("gave up: {reason}") }
        }
        Verdict::Later(reason) => {
            let asked = match &health {
                Health::Unwell { retry_after } => retry_after.unwrap_or_default(),
                Health::Silent | Health::Well | Health::Gone(_) => Duration::ZERO,
            };
            Outcome::Retry { reason, at: at.plus(pause(inner, claimed).max(asked)) }
        }
    };
    Ended { outcome, health, status, answer, at, took }
}

async fn mail(inner: &Inner, claimed: &Claimed) -> (Verdict, Option<u16>) {
    let Some(relay) = &inner.relay else {
        return (Verdict::Never(Error::NoServer.to_string()), None);
    };
    let (to, mail) = match composed(inner, claimed) {
        Ok(composed) => composed,
        Err(error) => return (Verdict::Never(error.to_string()), None),
    };
    match relay.send(&to, &mail).await {
        Ok(code) => (Verdict::Taken, Some(code)),
        Err(refusal) if refusal.is_permanent => (Verdict::Never(refusal.reason), refusal.code),
        Err(refusal) => (Verdict::Later(refusal.reason), refusal.code),
    }
}

fn composed(inner: &Inner, claimed: &Claimed) -> Result<(EmailAddress, Vec<u8>), Failure> {
    let to: EmailAddress = claimed.to.parse()?;
    let mail = mail::compose(&Parts {
        from: &inner.sender,
        to: &to,
        subject: &claimed.subject,
        body: &claimed.body,
        message_id: &claimed.message_id,
        created: claimed.created,
    })?;
    Ok((to, mail))
}

async fn post(inner: &Inner, claimed: &Claimed, destination: &Destination) -> post::Posted {
    let at = inner.clock.now();
    let parcel = Parcel { message_id: &claimed.message_id, body: &claimed.body, at };
    post::post(&inner.client, destination, &parcel, inner.reading()).await
}

fn pause(inner: &Inner, claimed: &Claimed) -> Duration {
    let attempts_left = claimed.attempts_max.saturating_sub(claimed.attempt);
    let tries = inner.config.attempts_max.saturating_sub(attempts_left);
    back_off((inner.config.back_off_min, inner.config.back_off_max), tries, inner.entropy.number())
}

/// Writes how an attempt ended, again and again until its lease ends: a lost `sent` would be a second message.
pub(crate) async fn record(inner: &Arc<Inner>, claimed: &Claimed, ended: Ended) {
    let (id, attempt) = (claimed.id, claimed.attempt);
    loop {
        let (inner_again, claimed_again, ended_again) =
            (inner.clone(), claimed.clone(), ended.clone());
        let written = inner
            .db
            .write(async move |tx| write_end(tx, &inner_again, &claimed_again, &ended_again).await)
            .await;
        match written {
            Ok(true) => break,
            Ok(false) => {
                tracing::warn!(message = %id, attempt, "an attempt ended after another one began");
                return;
            }
            Err(error) if inner.clock.now() >= claimed.lease_until => {
                tracing::error!(message = %id, attempt, %error, "the end of an attempt could not be written");
                return;
            }
            Err(_) => inner.clock.sleep(RECORD_PAUSE).await,
        }
    }
    tell(inner, claimed, &ended);
}

async fn write_end(
    tx: &mut Tx,
    inner: &Inner,
    claimed: &Claimed,
    ended: &Ended,
) -> Result<bool, Error> {
    let is_ours = store::record(tx, claimed.id, claimed.attempt, ended).await?;
    if let Lane::Endpoint(id) = claimed.lane.lane {
        if let Some(paused) = endpoints::note(tx, id, ended, inner.patience()).await? {
            tell_of_pause(tx, inner, &paused, ended.at).await?;
        }
        if matches!(ended.outcome, Outcome::Retry { .. }) {
            store::hold_if_off(tx, claimed.id).await?;
        }
    }
    Ok(is_ours)
}

/// An event, and a mail to whom the endpoint names, in the commit of the pause.
async fn tell_of_pause(
    tx: &mut Tx,
    inner: &Inner,
    paused: &Paused,
    now: Timestamp,
) -> Result<(), Error> {
    let Paused { id, organisation, name, reason, contact } = paused;
    tracing::warn!(%organisation, endpoint = %id, reason, "an endpoint was paused");
    let payload = json!({ "endpoint": id.to_string(), "name": name, "reason": reason });
    tx.emit(NewEvent {
        organisation: *organisation,
        topic: TOPIC,
        kind: "endpoint.paused",
        key: id.to_string(),
        payload: payload.to_string().into_bytes(),
    })
    .await?;
    let Some(contact) = contact else { return Ok(()) };
    let key = format!("endpoint.paused/{id}/{}", now.micros());
    let body = format!(
        "Madang has stopped sending to the endpoint \"{name}\": {reason}.\n\n\
         Messages for it are held. They go out when somebody switches it on again.\n"
    );
    let notice = store::New {
        id: MessageId::new(now, &inner.entropy),
        organisation: *organisation,
        channel: Channel::Email,
        lane: Lane::Mail,
        to: contact.to_string(),
        subject: mail::one_line(&format!("Paused: {name}")),
        body,
        message_id: mail::message_id(*organisation, &key, &inner.domain),
        idempotency_key: key,
        state: if inner.relay.is_some() { State::Waiting } else { State::Held },
        attempts_max: inner.config.attempts_max,
        now,
    };
    store::insert(tx, &notice).await
}

fn tell(inner: &Inner, claimed: &Claimed, ended: &Ended) {
    let (organisation, id, lane) = (claimed.organisation, claimed.id, claimed.lane);
    let channel = lane.channel.name();
    match &ended.outcome {
        Outcome::Sent(at) => {
            inner.meters.sent.inc();
            inner.meters.seconds.observe(at.since(claimed.created).as_secs_f64());
            inner.left_the_queue(organisation, lane.lane);
        }
        Outcome::Retry { reason, .. } => {
            inner.meters.retried.inc();
            tracing::warn!(%organisation, message = %id, channel, reason, "a message could not be sent yet");
        }
        Outcome::Failed { reason } => {
            inner.meters.failed.inc();
            inner.left_the_queue(organisation, lane.lane);
            tracing::warn!(%organisation, message = %id, channel, reason, "a message failed");
        }
    }
}

pub(crate) async fn keep_house(inner: &Inner) -> Result<(), Error> {
    if let Some(relay) = &inner.relay {
        relay.close_idle(inner.config.smtp.connection_idle_max).await;
    }
    let now = inner.clock.now();
    inner.board.lock().tidy(now);
    let keep = Duration::from_secs(u64::from(inner.config.keep_days) * 24 * 60 * 60);
    let bounds = (first_id_at(now.minus(keep)), now);
    while inner.db.write(async move |tx| store::forget(tx, bounds, FORGET_MAX).await).await?
        == FORGET_MAX as usize
    {}
    count(inner).await
}

/// Sets the counts that commits move only approximately to what the rows say.
pub(crate) async fn count(inner: &Inner) -> Result<(), Error> {
    let unsent = inner.db.read(async |read| store::unsent(read).await).await?;
    let sum = |is_held: bool| {
        let numbers = unsent.iter().filter(|part| (part.state == State::Held) == is_held);
        i64::try_from(numbers.map(|part| part.number).sum::<u64>()).unwrap_or(i64::MAX)
    };
    inner.meters.held.set(sum(true));
    inner.meters.waiting.set(sum(false));
    let mut backlog = inner.backlog.lock();
    backlog.clear();
    for part in &unsent {
        *backlog.entry((part.organisation, part.lane)).or_default() += part.number;
    }
    Ok(())
}

/// The smallest id that a message made at this moment can have: ids begin with their milliseconds (RFC 9562 §5.7).
fn first_id_at(moment: Timestamp) -> MessageId {
    let millis = u64::try_from(moment.millis()).unwrap_or(0).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis[2..]);
    MessageId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_moment_are_not_before_its_first() {
        let moment = Timestamp::from_millis(1_700_000_000_123);
        let id = MessageId::new(moment, &base::Entropy::seeded(3));
        let earlier =
            MessageId::new(moment.minus(Duration::from_millis(1)), &base::Entropy::seeded(3));
        assert!(first_id_at(moment) < id && earlier < first_id_at(moment));
    }
}
