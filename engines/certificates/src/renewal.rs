//! When another certificate is due, and what is done until it is there.

use std::time::Duration;

use base::{Failure, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::certificate::Validity;
use crate::order::Usable;
use crate::store::ATTEMPTS;
use crate::{Error, Inner, Phase};

/// It looks at the clock so often: timers do not run while a machine sleeps.
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// How often the authority is asked for its wish when it does not say, and the bounds of what it may say.
const ASK_EVERY: Duration = Duration::from_hours(6);
const ASK_AFTER_MIN: Duration = Duration::from_mins(1);
const ASK_AFTER_MAX: Duration = Duration::from_hours(24);
/// Longer than this nobody is left alone, whatever the authority says.
const LEFT_ALONE_MAX: Duration = Duration::from_hours(7 * 24);
/// After an order that succeeded there is no other for so long, or for a sixth of the certificate's life.
const AFTER_SUCCESS: Duration = Duration::from_hours(24);

/// When the authority was asked, and how that went; in milliseconds since 1970, as it is kept.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Attempts {
    /// Failures since the last success.
    #[serde(skip)]
    pub(crate) failures: u32,
    /// Not before this is another order made.
    #[serde(skip)]
    not_before: i64,
    /// When the last order was begun.
    begun: i64,
    /// Until when the authority wants to be left alone.
    left_alone: i64,
}

impl Attempts {
    pub(crate) fn not_before(&self) -> Timestamp {
        Timestamp::from_millis(self.not_before)
    }

    /// After a start: somebody may have put right what was wrong, so of the pauses only the shortest counts.
    pub(crate) fn after_start(self, now: Timestamp, least: Duration) -> Self {
        let begun = Timestamp::from_millis(self.begun).min(now);
        let left_alone = Timestamp::from_millis(self.left_alone).min(now.plus(LEFT_ALONE_MAX));
        let not_before = begun.plus(least).max(left_alone).millis();
        Self { not_before, ..self }
    }
}

/// When the authority wants a certificate to be renewed (RFC 9773, section 4.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// From when to when, where it has a wish.
    pub(crate) window: Option<(Timestamp, Timestamp)>,
    pub(crate) ask_again: Timestamp,
}

impl Inner {
    /// Orders when one is due, for as long as the server runs.
    pub(crate) async fn keep(&self) -> Result<(), Failure> {
        loop {
            let due = self.due().await;
            let now = self.base.clock.now();
            self.state.lock().next = Some(due);
            if due > now {
                self.base.clock.sleep(due.since(now).min(LOOK_EVERY)).await;
                continue;
            }
            self.renew(now).await;
        }
    }

    /// When the next order is to be made.
    pub(crate) async fn due(&self) -> Timestamp {
        let now = self.base.clock.now();
        let (usable, fits, not_before) = {
            let state = self.state.lock();
            let not_before = state.attempts.not_before();
            (state.usable.clone(), state.fits, not_before)
        };
        let due = match &usable {
            Some(usable) if fits => {
                let window = self.wish(usable, now).await;
                renewal_of(usable.validity, window, share_of(usable))
            }
            _ => now,
        };
        // A moment that was noted while the clock was ahead is not waited for.
        let longest = LEFT_ALONE_MAX.max(self.config.back_off_max.mul_f64(1.25));
        due.max(not_before.min(now.plus(longest)))
    }

    async fn renew(&self, now: Timestamp) {
        // An order of a process that ends in its midst counts: one that starts again and again must not ask each time.
        let begun = self.attempted(|attempts| attempts.begun = now.millis());
        self.state.lock().phase = Phase::Ordering;
        let replaces = {
            let state = self.state.lock();
            let has_wish = state.wish.is_some_and(|wish| wish.window.is_some());
            state.usable.as_ref().filter(|_| has_wish && state.fits).and_then(Usable::name)
        };
        match self.order(replaces).await {
            Ok(usable) => {
                self.web.take_not_before();
                // Also where the new one is due at once, by a wrong clock or the authority's wish.
                let life = usable.validity.end.since(usable.validity.begin);
                let not_before = now.plus(AFTER_SUCCESS.min(life / 6)).millis();
                self.attempted(|attempts| {
                    *attempts = Attempts { failures: 0, not_before, left_alone: 0, ..*attempts };
                });
                self.orders(true);
                tracing::info!(
                    domains = ?self.config.domains,
                    end = %usable.validity.end,
                    "a certificate was issued, and is shown from now on"
                );
                self.show(usable, true);
            }
            Err(error) => self.failed(&error, begun.failures + 1),
        }
    }

    fn failed(&self, error: &Error, failures: u32) {
        // What it offers may have moved: the directory is read anew.
        *self.account.lock() = None;
        let now = self.base.clock.now();
        let bounds = (self.config.back_off_min, self.config.back_off_max);
        let pause = back_off(failures, bounds, self.base.entropy.fraction());
        let left_alone = self.web.take_not_before().unwrap_or(now).min(now.plus(LEFT_ALONE_MAX));
        let next = now.plus(pause).max(left_alone);
        self.orders(false);
        {
            // Before the failure is counted: whoever sees that there is one sees why.
            let mut state = self.state.lock();
            (state.phase, state.failure) = (Phase::Waiting, Some((now, error.to_string())));
        }
        self.attempted(|attempts| {
            let (not_before, left_alone) = (next.millis(), left_alone.millis());
            *attempts = Attempts { failures, not_before, left_alone, ..*attempts };
        });
        let end = self.state.lock().usable.as_ref().map(|usable| usable.validity.end);
        let shown = match end {
            Some(end) => format!("one until {end} is shown"),
            None => "none is shown".to_owned(),
        };
        tracing::error!(%error, %next, failures, "no certificate was issued; {shown}");
    }

    /// Notes how it went; the order goes on where that cannot be kept.
    fn attempted(&self, change: impl FnOnce(&mut Attempts)) -> Attempts {
        let attempts = {
            let mut state = self.state.lock();
            change(&mut state.attempts);
            state.attempts
        };
        if let Err(error) = self.store.write(ATTEMPTS, &attempts) {
            tracing::warn!(%error, "when the authority was asked is not kept");
        }
        attempts
    }

    /// When the authority wants it to be renewed; nothing where it has no wish, or cannot be asked.
    async fn wish(&self, usable: &Usable, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        if let Some(wish) = self.state.lock().wish.filter(|wish| wish.ask_again > now) {
            return wish.window;
        }
        let asked = self.ask(usable).await;
        let wish = match asked {
            Ok(Some((window, after))) => {
                let after = after.clamp(ASK_AFTER_MIN, ASK_AFTER_MAX);
                Wish { window: Some(window), ask_again: now.plus(after) }
            }
            Ok(None) => Wish { window: None, ask_again: now.plus(ASK_AFTER_MAX) },
            Err(error) => {
                tracing::debug!(%error, "the authority did not say when to renew");
                // What it wanted before still counts.
                let window = self.state.lock().wish.and_then(|wish| wish.window);
                Wish { window, ask_again: now.plus(ASK_EVERY) }
            }
        };
        self.web.take_not_before();
        self.state.lock().wish = Some(wish);
        wish.window
    }

    async fn ask(
        &self,
        usable: &Usable,
    ) -> Result<Option<((Timestamp, Timestamp), Duration)>, Error> {
        let Some(name) = usable.name() else { return Ok(None) };
        let (info, after) = match self.account().await?.renewal_info(&name).await {
            Err(instant_acme::Error::Unsupported(_)) => return Ok(None),
            asked => asked?,
        };
        let at = |moment: i64| Timestamp::from_millis(moment.saturating_mul(1_000));
        let window = info.suggested_window;
        let window = (at(window.start.unix_timestamp()), at(window.end.unix_timestamp()));
        if window.1 <= window.0 {
            return Err(Error::Authority("it wants a renewal in no time at all".to_owned()));
        }
        Ok(Some((window, after)))
    }
}

/// Where between two moments this certificate is renewed: by chance, and the same after each start.
fn share_of(usable: &Usable) -> u32 {
    let digest = Sha256::digest(&usable.certified.cert[0]);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// When it is renewed: within the window that the authority wants, or when a third of its life is left, or up to a tenth of that
/// third earlier.
fn renewal_of(validity: Validity, window: Option<(Timestamp, Timestamp)>, share: u32) -> Timestamp {
    let part = |of: Duration| of.mul_f64(f64::from(share) / f64::from(u32::MAX));
    let by_age = {
        let third = validity.end.since(validity.begin) / 3;
        validity.end.minus(third).minus(part(third / 10))
    };
    match window {
        // Never after its end, whatever is wanted.
        Some((start, end)) => start.plus(part(end.since(start))).min(validity.end.max(by_age)),
        None => by_age,
    }
}

/// The pause after so many failures: twice as long each time, and by up to a quarter more or less.
fn back_off(failures: u32, (least, most): (Duration, Duration), chance: f64) -> Duration {
    let doubled = least.saturating_mul(1_u32 << failures.saturating_sub(1).min(20)).min(most);
    doubled.mul_f64(0.75 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn without_a_wish_it_is_renewed_when_a_third_is_left_or_a_little_before() {
        let validity =
            Validity { begin: at("2026-01-01T00:00:00Z"), end: at("2026-04-01T00:00:00Z") };
        assert_eq!(renewal_of(validity, None, 0), at("2026-03-02T00:00:00Z"));
        assert_eq!(renewal_of(validity, None, u32::MAX), at("2026-02-27T00:00:00Z"));
        // Six days, as short ones are.
        let short = Validity { begin: at("2026-01-01T00:00:00Z"), end: at("2026-01-07T00:00:00Z") };
        assert_eq!(renewal_of(short, None, 0), at("2026-01-05T00:00:00Z"));
    }

    #[test]
    fn a_wish_is_followed_and_one_for_later_than_the_end_is_not() {
        let validity =
            Validity { begin: at("2026-01-01T00:00:00Z"), end: at("2026-04-01T00:00:00Z") };
        let window = Some((at("2026-01-10T00:00:00Z"), at("2026-01-12T00:00:00Z")));
        assert_eq!(renewal_of(validity, window, 0), at("2026-01-10T00:00:00Z"));
        let middle = renewal_of(validity, window, u32::MAX / 2);
        assert!(middle.since(at("2026-01-10T23:59:00Z")) < Duration::from_mins(2), "{middle}");
        let late = Some((at("2027-01-10T00:00:00Z"), at("2027-01-12T00:00:00Z")));
        assert_eq!(renewal_of(validity, late, 5), validity.end);
    }

    #[test]
    fn after_a_start_only_the_shortest_pause_counts_and_what_the_authority_asked_for() {
        let now = at("2026-01-10T00:00:00Z");
        let least = Duration::from_mins(2);
        let due = |begun: &str, left_alone: &str| {
            let (begun, left_alone) = (at(begun).millis(), at(left_alone).millis());
            let not_before = now.plus(Duration::from_hours(6)).millis();
            let attempts = Attempts { failures: 0, not_before, begun, left_alone };
            Timestamp::from_millis(attempts.after_start(now, least).not_before)
        };
        let past = "2026-01-01T00:00:00Z";
        assert!(due(past, past) < now);
        assert_eq!(due("2026-01-09T23:59:00Z", past), at("2026-01-10T00:01:00Z"));
        assert_eq!(due("2030-01-01T00:00:00Z", past), now.plus(least), "a clock that went wrong");
        assert_eq!(due(past, "2026-01-11T00:00:00Z"), at("2026-01-11T00:00:00Z"));
        assert_eq!(due(past, "2030-01-01T00:00:00Z"), at("2026-01-17T00:00:00Z"));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let bounds = (Duration::from_mins(2), Duration::from_hours(6));
        let minutes = |failures| back_off(failures, bounds, 0.5).as_secs_f64() / 60.0;
        for (failures, expected) in
            [(1, 2.0), (2, 4.0), (3, 8.0), (8, 256.0), (9, 360.0), (90, 360.0)]
        {
            assert!(
                (minutes(failures) - expected).abs() < 0.01,
                "{failures}: {}",
                minutes(failures)
            );
        }
        assert_eq!(back_off(1, bounds, 0.0), Duration::from_secs(90));
        assert!(back_off(1, bounds, 1.0) <= Duration::from_secs(150));
    }
}
