//! How often one address may do what, in windows of time.

use std::net::IpAddr;

use base::{Tally, Timestamp, network_of};

use crate::{Config, Error, Result};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    Write,
    Like,
    Report,
    /// A guest's password that is tried.
    Password,
}

pub(crate) struct Limits {
    tally: Tally<(Deed, IpAddr)>,
    most: [(Deed, u32); 4],
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            tally: Tally::new(config.limits_window, config.limits_kept_max),
            most: [
                (Deed::Write, config.writes_per_address_max),
                (Deed::Like, config.likes_per_address_max),
                (Deed::Report, config.reports_per_address_max),
                (Deed::Password, config.passwords_per_address_max),
            ],
        }
    }

    /// Counts one more, or says when to come again.
    pub(crate) fn count(&self, deed: Deed, from: IpAddr, now: Timestamp) -> Result<()> {
        let most = self.most.iter().find(|(known, _)| *known == deed).map_or(0, |(_, most)| *most);
        self.tally.count(now, &[((deed, network_of(from)), most)]).map_err(Error::TooOften)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn one_address_is_held_back_and_others_are_not() {
        let limits = Limits::new(&Config {
            writes_per_address_max: 2,
            limits_kept_max: 10,
            ..Config::default()
        });
        let from = |last| IpAddr::from([10, 0, 0, last]);
        let tries = |deed, from| (0..5).filter(|_| limits.count(deed, from, NOW).is_ok()).count();
        assert_eq!(tries(Deed::Write, from(1)), 2);
        assert_eq!(tries(Deed::Write, from(2)), 2);
        assert!(limits.count(Deed::Like, from(1), NOW).is_ok());
        let Err(Error::TooOften(pause)) = limits.count(Deed::Write, from(1), NOW) else { panic!() };
        assert!(limits.count(Deed::Write, from(1), NOW.plus(pause)).is_ok());
        for last in 0..100 {
            limits.count(Deed::Write, from(last), NOW).ok();
        }
        assert!(limits.tally.len() <= 10);
    }
}
