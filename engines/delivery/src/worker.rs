//! Takes what is due, sends it, writes how it ended.
//!
//! An attempt is claimed by a commit before its first byte goes out and its end is written by another. When the process
//! dies between the server's 250 and that second commit, the attempt's lease ends and the message is sent once more, with
//! the same `Message-ID`: at least once, and known for a repeat.

use std::sync::Arc;
use std::time::Duration;

use base::{Failure, Timestamp};
use tokio::sync::OwnedSemaphorePermit;

use crate::mail::{self, Parts};
use crate::smtp::Refusal;
use crate::store::{self, Claim, Claimed, Outcome};
use crate::{EmailAddress, Error, Inner, MessageId, State};

/// The longest sleep: a look at leases, idle connections, counts and old messages.
const ROUND_TIME_MAX: Duration = Duration::from_secs(30);
/// Messages deleted by one commit.
const FORGET_MAX: u32 = 500;
/// The pause before an attempt's end is written again after the database refused it.
const RECORD_PAUSE: Duration = Duration::from_millis(200);

/// Runs until it is dropped.
pub(crate) async fn run(inner: Arc<Inner>) -> Result<(), Failure> {
    let mut housekeeping_at = inner.clock.now();
    loop {
        let now = inner.clock.now();
        if now >= housekeeping_at {
            keep_house(&inner).await?;
            housekeeping_at = now.plus(ROUND_TIME_MAX);
        }
        let due = if inner.relay.is_some() {
            let free = inner.slots.available_permits();
            let claim = claim(&inner, free).await?;
            let is_full = claim.claimed.len() == free;
            start(&inner, claim)?;
            if is_full {
                // More may be due: look again as soon as one ends.
                drop(inner.slots.acquire().await?);
                continue;
            }
            inner.db.read(async |read| store::next_due(read).await).await?
        } else {
            None
        };
        let now = inner.clock.now();
        let pause = due.map_or(ROUND_TIME_MAX, |due| due.since(now).min(ROUND_TIME_MAX));
        tokio::select! {
            () = inner.wake.notified() => {}
            () = inner.clock.sleep(pause) => {}
        }
    }
}

/// Claims through the writer, so that a message whose transaction is still being committed is found behind it.
pub(crate) async fn claim(inner: &Inner, limit: usize) -> Result<Claim, Error> {
    let (clock, lease) = (inner.clock.clone(), inner.lease());
    let claim =
        inner.db.write(async move |tx| store::claim(tx, clock.now(), lease, limit).await).await?;
    for (organisation, id) in &claim.given_up {
        tracing::warn!(%organisation, message = %id, "a message failed: its last attempt did not end");
        inner.left_the_queue(*organisation);
        inner.meters.failed.inc();
    }
    Ok(claim)
}

fn start(inner: &Arc<Inner>, claim: Claim) -> Result<(), Failure> {
    for claimed in claim.claimed {
        let slot = inner.slots.clone().try_acquire_owned()?;
        let work = deliver(inner.clone(), claimed, slot);
        // Not awaited: it ends by its limits, and a panic in it leaves the lease to run out.
        drop(inner.tasks.spawn("delivery.send", work));
    }
    Ok(())
}

async fn deliver(inner: Arc<Inner>, claimed: Claimed, slot: OwnedSemaphorePermit) {
    let outcome = attempt(&inner, &claimed).await;
    record(&inner, &claimed, outcome).await;
    drop(slot);
    inner.wake.notify_one();
}

/// Sends a claimed message and says how that ended; writes nothing.
pub(crate) async fn attempt(inner: &Inner, claimed: &Claimed) -> Outcome {
    let Some(relay) = &inner.relay else {
        return Outcome::Failed { reason: Error::NoServer.to_string() };
    };
    let (to, mail) = match composed(inner, claimed) {
        Ok(composed) => composed,
        Err(error) => return Outcome::Failed { reason: error.to_string() },
    };
    match relay.send(&to, &mail).await {
        Ok(()) => Outcome::Sent(inner.clock.now()),
        Err(Refusal::Permanent(reason)) => Outcome::Failed { reason },
        Err(Refusal::Transient(reason)) if claimed.attempt >= claimed.attempts_max => {
            Outcome::Failed { reason: format!("gave up: {reason}") }
        }
        Err(Refusal::Transient(reason)) => {
            Outcome::Retry { reason, at: inner.clock.now().plus(pause(inner, claimed)) }
        }
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

fn pause(inner: &Inner, claimed: &Claimed) -> Duration {
    let attempts_left = claimed.attempts_max.saturating_sub(claimed.attempt);
    let tries = inner.config.attempts_max.saturating_sub(attempts_left);
    back_off((inner.config.back_off_min, inner.config.back_off_max), tries, inner.entropy.number())
}

/// Doubles with each of the `tries` since the message began to wait; up to half of it is taken off by chance, so that
/// messages spread.
fn back_off((min, max): (Duration, Duration), tries: u32, chance: u64) -> Duration {
    let whole = min.saturating_mul(1 << tries.saturating_sub(1).min(30)).min(max);
    let half = u64::try_from(whole.as_micros() / 2).unwrap_or(u64::MAX - 1);
    whole.saturating_sub(Duration::from_micros(chance % (half + 1)))
}

/// Writes how an attempt ended, again and again until its lease ends: a lost `sent` would be a second mail.
pub(crate) async fn record(inner: &Inner, claimed: &Claimed, outcome: Outcome) {
    let id = claimed.id;
    loop {
        let (attempt, outcome_again) = (claimed.attempt, outcome.clone());
        let written = inner
            .db
            .write(async move |tx| store::record(tx, id, attempt, &outcome_again).await)
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
    tell(inner, claimed, &outcome);
}

fn tell(inner: &Inner, claimed: &Claimed, outcome: &Outcome) {
    let (organisation, id) = (claimed.organisation, claimed.id);
    match outcome {
        Outcome::Sent(at) => {
            inner.meters.sent.inc();
            inner.meters.seconds.observe(at.since(claimed.created).as_secs_f64());
            inner.left_the_queue(organisation);
        }
        Outcome::Retry { reason, .. } => {
            inner.meters.retried.inc();
            tracing::warn!(%organisation, message = %id, reason, "a message could not be sent yet");
        }
        Outcome::Failed { reason } => {
            inner.meters.failed.inc();
            inner.left_the_queue(organisation);
            tracing::warn!(%organisation, message = %id, reason, "a message failed");
        }
    }
}

pub(crate) async fn keep_house(inner: &Inner) -> Result<(), Error> {
    if let Some(relay) = &inner.relay {
        relay.close_idle(inner.config.smtp.connection_idle_max).await;
    }
    let keep = Duration::from_secs(u64::from(inner.config.keep_days) * 24 * 60 * 60);
    let before = first_id_at(inner.clock.now().minus(keep));
    while inner.db.write(async move |tx| store::forget(tx, before, FORGET_MAX).await).await?
        == FORGET_MAX as usize
    {}
    count(inner).await
}

/// Sets the counts that commits move only approximately to what the rows say.
pub(crate) async fn count(inner: &Inner) -> Result<(), Error> {
    let unsent = inner.db.read(async |read| store::unsent(read).await).await?;
    let sum = |wanted: fn(State) -> bool| {
        let numbers = unsent.iter().filter(|(_, state, _)| wanted(*state));
        i64::try_from(numbers.map(|(_, _, number)| number).sum::<u64>()).unwrap_or(i64::MAX)
    };
    inner.meters.held.set(sum(|state| state == State::Held));
    inner.meters.waiting.set(sum(|state| state != State::Held));
    let mut backlog = inner.backlog.lock();
    backlog.clear();
    for (organisation, _, number) in &unsent {
        *backlog.entry(*organisation).or_default() += number;
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
    fn pauses_double_up_to_the_longest_and_lose_at_most_half() {
        let bounds = (Duration::from_secs(5), Duration::from_hours(1));
        for (tries, whole) in
            [(1, 5), (2, 10), (3, 20), (10, 2_560), (11, 3_600), (u32::MAX, 3_600)]
        {
            let whole = Duration::from_secs(whole);
            assert_eq!(back_off(bounds, tries, 0), whole);
            for chance in [1, 12_345_678_901, u64::MAX] {
                let pause = back_off(bounds, tries, chance);
                assert!(whole / 2 <= pause && pause <= whole, "{tries}: {pause:?}");
            }
        }
        let longest = (Duration::MAX, Duration::MAX);
        assert!(back_off(longest, 2, u64::MAX) > Duration::from_hours(1));
    }

    #[test]
    fn ids_of_a_moment_are_not_before_its_first() {
        let moment = Timestamp::from_millis(1_700_000_000_123);
        let id = MessageId::new(moment, &base::Entropy::seeded(3));
        let earlier =
            MessageId::new(moment.minus(Duration::from_millis(1)), &base::Entropy::seeded(3));
        assert!(first_id_at(moment) < id && earlier < first_id_at(moment));
    }
}
