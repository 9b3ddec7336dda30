//! Work that recurs: what is due now, and what becomes of the times that nobody was there for. Asks no clock.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use base::{OrganisationId, Timestamp};
use jiff::tz::TimeZone;

use crate::cron::Cron;
use crate::job::named;
use crate::{Config, Error, Priority};

named! {
    /// What becomes of times that passed while no worker ran, or that a clock jumped over.
    Missed {
        /// One job for all of them.
        Once = "once",
        /// A job for each, the newest [`Config::catch_up_max`] of them.
        All = "all",
        /// None; a time that is late by at most [`Config::late_max`] is not missed.
        Skip = "skip",
    }
}

/// A kind of job that is enqueued again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSchedule {
    pub organisation: OrganisationId,
    pub name: String,
    pub kind: String,
    pub payload: Vec<u8>,
    pub priority: Priority,
    pub cron: Cron,
    /// Of the IANA time zone database: `Asia/Seoul`.
    pub zone: String,
    pub missed: Missed,
}

/// A schedule as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub new: NewSchedule,
    pub is_paused: bool,
    /// Part of the server, so that it comes back at every start.
    pub is_built_in: bool,
    /// Nothing while it is paused.
    pub next: Option<Timestamp>,
    pub last: Option<Timestamp>,
    pub created: Timestamp,
}

/// What is to be enqueued now, and when to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) times: Vec<Timestamp>,
    pub(crate) next: Option<Timestamp>,
}

pub(crate) fn zone(name: &str) -> Result<TimeZone, Error> {
    let zone = TimeZone::get(name).ok().filter(|zone| zone.iana_name().is_some());
    zone.ok_or_else(|| Error::Zone(name.chars().take(60).collect()))
}

impl NewSchedule {
    /// A schedule in UTC that runs once for all times it missed.
    pub fn of(
        organisation: OrganisationId,
        name: impl Into<String>,
        kind: impl Into<String>,
        cron: Cron,
    ) -> Self {
        Self {
            organisation,
            name: name.into(),
            kind: kind.into(),
            payload: b"{}".to_vec(),
            priority: Priority::Normal,
            cron,
            zone: "UTC".to_owned(),
            missed: Missed::Once,
        }
    }

    /// The first time after `now`.
    pub(crate) fn first(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        Ok(self.cron.next(now, &zone(&self.zone)?))
    }

    /// What is due at `now`, given that `next` is the first time that nothing was enqueued for. A clock that
    /// went back has nothing due until it comes to `next` again, so no time is used twice.
    pub(crate) fn tick(
        &self,
        next: Timestamp,
        now: Timestamp,
        config: &Config,
    ) -> Result<Tick, Error> {
        if now < next {
            return Ok(Tick { times: Vec::new(), next: Some(next) });
        }
        let zone = zone(&self.zone)?;
        let times = match self.missed {
            Missed::Once => self.newest(next, now, 1, &zone),
            Missed::All => self.newest(next, now, config.catch_up_max, &zone),
            Missed::Skip => {
                let begin = next.max(now.minus(config.late_max));
                self.between(begin, now, config.catch_up_max, &zone)
            }
        };
        Ok(Tick { times, next: self.cron.next(now, &zone) })
    }

    /// The newest `count` times from `begin` to `now`, found without going through a year of minutes.
    fn newest(
        &self,
        begin: Timestamp,
        now: Timestamp,
        count: usize,
        zone: &TimeZone,
    ) -> Vec<Timestamp> {
        for days in [1_u64, 32, 400] {
            let near = now.minus(Duration::from_secs(days * 24 * 60 * 60));
            if near <= begin {
                break;
            }
            let times = self.between(near, now, count, zone);
            if times.len() >= count {
                return times;
            }
        }
        self.between(begin, now, count, zone)
    }

    fn between(
        &self,
        begin: Timestamp,
        now: Timestamp,
        count: usize,
        zone: &TimeZone,
    ) -> Vec<Timestamp> {
        let mut times = VecDeque::new();
        let mut after = begin.minus(Duration::from_micros(1));
        while let Some(time) = self.cron.next(after, zone).filter(|time| *time <= now) {
            if times.len() == count {
                times.pop_front();
            }
            times.push_back(time);
            after = time;
        }
        times.into()
    }
}

#[cfg(test)]
mod tests;
