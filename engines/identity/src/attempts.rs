use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use base::{AccountId, Timestamp};
use parking_lot::Mutex;

use crate::{Config, Error};

/// Counts attempts in windows of time. One address cannot lock others out of an account: only the count
/// of the two together is low.
pub(crate) struct Attempts {
    counts: Mutex<HashMap<Of, Count>>,
    window: Duration,
    kept_max: usize,
    pair_max: u32,
    account_max: u32,
    address_max: u32,
    sign_ups_max: u32,
    mails_per_email_max: u32,
    mails_per_address_max: u32,
    second_max: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Of {
    Pair(String, IpAddr),
    Account(String),
    Address(IpAddr),
    SignUps(IpAddr),
    MailsTo(String),
    MailsFrom(IpAddr),
    Second(AccountId),
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Timestamp,
    count: u32,
}

impl Attempts {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            counts: Mutex::default(),
            window: config.attempts_window,
            kept_max: config.attempts_kept_max,
            pair_max: config.attempts_per_pair_max,
            account_max: config.attempts_per_account_max,
            address_max: config.attempts_per_address_max,
            sign_ups_max: config.sign_ups_per_address_max,
            mails_per_email_max: config.mails_per_email_max,
            mails_per_address_max: config.mails_per_address_max,
            second_max: config.second_per_account_max,
        }
    }

    /// Counts an attempt before it is known whether it succeeds, so that many at once do not slip through.
    pub(crate) fn sign_in(&self, now: Timestamp, email: &str, from: IpAddr) -> Result<(), Error> {
        let from = network(from);
        self.count(
            now,
            &[
                (Of::Pair(email.to_owned(), from), self.pair_max),
                (Of::Account(email.to_owned()), self.account_max),
                (Of::Address(from), self.address_max),
            ],
        )
    }

    /// Takes back an attempt that succeeded.
    pub(crate) fn succeeded(&self, email: &str, from: IpAddr) {
        let from = network(from);
        let mut counts = self.counts.lock();
        counts.remove(&Of::Pair(email.to_owned(), from));
        for of in [Of::Account(email.to_owned()), Of::Address(from)] {
            if let Some(count) = counts.get_mut(&of) {
                count.count = count.count.saturating_sub(1);
            }
        }
    }

    pub(crate) fn sign_up(&self, now: Timestamp, from: IpAddr) -> Result<(), Error> {
        self.count(now, &[(Of::SignUps(network(from)), self.sign_ups_max)])
    }

    /// Counts a mail that somebody asks for, whether its address is anybody's or not.
    pub(crate) fn mail(&self, now: Timestamp, email: &str, from: IpAddr) -> Result<(), Error> {
        self.count(
            now,
            &[
                (Of::MailsTo(email.to_owned()), self.mails_per_email_max),
                (Of::MailsFrom(network(from)), self.mails_per_address_max),
            ],
        )
    }

    /// Counts a code before it is known whether it is right.
    pub(crate) fn second(&self, now: Timestamp, account: AccountId) -> Result<(), Error> {
        self.count(now, &[(Of::Second(account), self.second_max)])
    }

    pub(crate) fn second_succeeded(&self, account: AccountId) {
        self.counts.lock().remove(&Of::Second(account));
    }

    fn count(&self, now: Timestamp, limits: &[(Of, u32)]) -> Result<(), Error> {
        let mut counts = self.counts.lock();
        let is_current = |count: &Count| now.since(count.since) < self.window;
        let is_over = limits.iter().any(|(of, max)| {
            counts.get(of).is_some_and(|count| is_current(count) && count.count >= *max)
        });
        if is_over {
            return Err(Error::TooManyAttempts);
        }
        if counts.len() + limits.len() > self.kept_max {
            counts.retain(|_, count| is_current(count));
            while counts.len() + limits.len() > self.kept_max {
                let oldest = counts.iter().min_by_key(|(_, count)| count.since);
                let Some(oldest) = oldest.map(|(of, _)| of.clone()) else { break };
                counts.remove(&oldest);
            }
        }
        for (of, _) in limits {
            let count = counts.entry(of.clone()).or_insert(Count { since: now, count: 0 });
            if !is_current(count) {
                *count = Count { since: now, count: 0 };
            }
            count.count += 1;
        }
        Ok(())
    }
}

/// Whoever has one IPv6 address has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn attempts() -> Attempts {
        Attempts::new(&Config {
            attempts_per_pair_max: 2,
            attempts_per_account_max: 4,
            attempts_per_address_max: 5,
            attempts_kept_max: 20,
            ..Config::default()
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_pair_is_limited_before_the_account_and_the_address() {
        let attempts = attempts();
        let tries = |email: &str, from: &str| {
            (0..10).take_while(|_| attempts.sign_in(NOW, email, address(from)).is_ok()).count()
        };
        assert_eq!(tries("a", "10.0.0.1"), 2);
        assert_eq!(tries("a", "10.0.0.2"), 2, "another address is not locked out");
        assert_eq!(tries("a", "10.0.0.3"), 0, "until the account's own limit");
        assert_eq!(tries("b", "10.0.0.1"), 2);
        assert_eq!(tries("c", "10.0.0.1"), 1, "the address has had five");
        assert_eq!(tries("d", "::ffff:10.0.0.1"), 0, "the same address");
        assert_eq!(tries("e", "2001:db8::1") + tries("e", "2001:db8::2"), 2, "the same network");
    }

    #[test]
    fn a_window_ends_and_a_success_counts_nothing() {
        let attempts = attempts();
        let from = address("10.0.0.1");
        for _ in 0..20 {
            attempts.sign_in(NOW, "a", from).unwrap();
            attempts.succeeded("a", from);
        }
        for _ in 0..2 {
            attempts.sign_in(NOW, "a", from).unwrap();
        }
        assert!(attempts.sign_in(NOW, "a", from).is_err());
        let later = NOW.plus(Duration::from_mins(15));
        assert!(attempts.sign_in(later, "a", from).is_ok());
    }

    #[test]
    fn counts_are_bounded() {
        let attempts = attempts();
        for number in 0..100_u8 {
            let from = IpAddr::from([10, 0, 0, number]);
            attempts.sign_in(NOW.plus(Duration::from_secs(number.into())), "a@b", from).ok();
            attempts.sign_up(NOW, from).ok();
        }
        assert!(attempts.counts.lock().len() <= 20);
    }
}
