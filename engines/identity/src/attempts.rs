use std::net::IpAddr;

use base::{AccountId, Tally, Timestamp, network_of};

use crate::{Config, Error};

/// Counts attempts in windows of time. One address cannot lock others out of an account: only the count
/// of the two together is low.
pub(crate) struct Attempts {
    tally: Tally<Of>,
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

impl Attempts {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            tally: Tally::new(config.attempts_window, config.attempts_kept_max),
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
        let from = network_of(from);
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
        let from = network_of(from);
        self.tally.forget(&Of::Pair(email.to_owned(), from));
        self.tally.take_back(&Of::Account(email.to_owned()));
        self.tally.take_back(&Of::Address(from));
    }

    pub(crate) fn sign_up(&self, now: Timestamp, from: IpAddr) -> Result<(), Error> {
        self.count(now, &[(Of::SignUps(network_of(from)), self.sign_ups_max)])
    }

    /// Counts a mail that somebody asks for, whether its address is anybody's or not.
    pub(crate) fn mail(&self, now: Timestamp, email: &str, from: IpAddr) -> Result<(), Error> {
        self.count(
            now,
            &[
                (Of::MailsTo(email.to_owned()), self.mails_per_email_max),
                (Of::MailsFrom(network_of(from)), self.mails_per_address_max),
            ],
        )
    }

    /// Counts a code before it is known whether it is right.
    pub(crate) fn second(&self, now: Timestamp, account: AccountId) -> Result<(), Error> {
        self.count(now, &[(Of::Second(account), self.second_max)])
    }

    pub(crate) fn second_succeeded(&self, account: AccountId) {
        self.tally.forget(&Of::Second(account));
    }

    fn count(&self, now: Timestamp, limits: &[(Of, u32)]) -> Result<(), Error> {
        self.tally.count(now, limits).map_err(|_| Error::TooManyAttempts)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        assert!(attempts.tally.len() <= 20);
    }
}
