//! How often one address may do what, in windows of time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use base::Timestamp;
use parking_lot::Mutex;

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
    counts: Mutex<HashMap<(Deed, IpAddr), Count>>,
    window: Duration,
    kept_max: usize,
    most: [(Deed, u32); 4],
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Timestamp,
    count: u32,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            counts: Mutex::default(),
            window: config.limits_window,
            kept_max: config.limits_kept_max,
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
        let of = (deed, network(from));
        let is_current = |count: &Count| now.since(count.since) < self.window;
        let mut counts = self.counts.lock();
        if !counts.contains_key(&of) && counts.len() >= self.kept_max {
            counts.retain(|_, count| is_current(count));
            // All are current: whoever began first has waited longest.
            if counts.len() >= self.kept_max {
                let oldest = counts.iter().min_by_key(|(_, count)| count.since).map(|(of, _)| *of);
                oldest.and_then(|oldest| counts.remove(&oldest));
            }
        }
        let count = counts.entry(of).or_insert(Count { since: now, count: 0 });
        if !is_current(count) {
            *count = Count { since: now, count: 0 };
        }
        if count.count >= most {
            return Err(Error::TooOften(self.window.saturating_sub(now.since(count.since))));
        }
        count.count += 1;
        Ok(())
    }
}

/// Whoever has one IPv6 address has its whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
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
        assert!(limits.counts.lock().len() <= 10);
    }
}
