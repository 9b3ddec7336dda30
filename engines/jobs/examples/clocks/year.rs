//! A year of one server with schedules, over rows. Its clock goes from one due moment to the next; at seeded moments it is
//! set back or forward an hour, or nobody is there for hours or days. Whatever a schedule makes is compared with
//! the calendar and its choice of what becomes of missed times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{Base, Clock, Entropy, Failure, OrganisationId, Timestamp};
use jiff::tz::TimeZone;
use jobs::{Attempt, Config, Jobs, Kind, Missed, NewSchedule};
use parking_lot::Mutex;
use relational::Db;
use tokio::runtime::Runtime;

use crate::calendar::{ZONES, naive, shown};

const OURS: OrganisationId = OrganisationId::DEFAULT;
const BEGIN: &str = "2023-12-31T12:00:00Z";
const TEXTS: [&str; 2] = ["30 1,2 * * *", "*/20 0-3 29,31 2,3,10,11 *"];
const CHOICES: [Missed; 3] = [Missed::Once, Missed::All, Missed::Skip];
const HOUR: Duration = Duration::from_hours(1);
const LATE_MAX: Duration = Duration::from_mins(1);
const CATCH_UP_MAX: usize = 100;
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Outcome {
    days: u32,
    schedules: usize,
    jobs: usize,
    back: u32,
    forward: u32,
    away: u32,
    missed: usize,
    pub(crate) faults: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { days, schedules, jobs, back, forward, away, missed, faults } = self;
        write!(
            f,
            "{days} days of {schedules} schedules in {} zones: clock set back an hour {back} times, forward {forward} times, \
             nobody there {away} times; {jobs} jobs, {missed} times missed by choice, {} jobs other than the calendar's",
            ZONES.len(),
            faults.len()
        )
    }
}

/// A schedule, and what the calendar and its choice make of it.
struct Expected {
    times: Vec<Timestamp>,
    choice: Missed,
    /// Everything before it was used or missed.
    used_to: Timestamp,
    wanted: BTreeSet<Timestamp>,
}

impl Expected {
    /// The server looks at this moment.
    fn look(&mut self, now: Timestamp) {
        if now < self.used_to {
            return;
        }
        let begin = self.times.partition_point(|time| *time < self.used_to);
        let end = self.times.partition_point(|time| *time <= now);
        let due = &self.times[begin..end.max(begin)];
        match self.choice {
            Missed::Once => self.wanted.extend(due.last()),
            Missed::All => self.wanted.extend(&due[due.len().saturating_sub(CATCH_UP_MAX)..]),
            Missed::Skip => {
                self.wanted.extend(due.iter().filter(|time| now.since(**time) <= LATE_MAX));
            }
        }
        self.used_to = now.plus(Duration::from_micros(1));
    }
}

type Made = Arc<Mutex<BTreeMap<(String, Timestamp), u32>>>;

struct Server {
    jobs: Jobs,
    clock: Clock,
    runtime: Runtime,
}

impl Server {
    async fn start(db: &Db, now: Timestamp, made: &Made) -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let clock = Clock::simulated(now);
        let base = Base { clock: clock.clone(), ..Base::system() }.on(runtime.handle());
        let config = Config {
            // Each beat is a look at a clock that stands.
            lease: Duration::from_millis(40),
            keep_days: 1_000,
            ..Config::default()
        };
        let jobs = Jobs::open(config, &base, db.clone()).await?;
        let made = made.clone();
        jobs.handle("tick", Kind::default(), move |attempt: Attempt| {
            let name = String::from_utf8_lossy(attempt.payload()).into_owned();
            *made.lock().entry((name, attempt.due())).or_default() += 1;
            std::future::ready(Ok(attempt.done()))
        })?;
        jobs.start().await?;
        Ok(Self { jobs, clock, runtime })
    }

    /// Until every schedule has looked, and what it made has run.
    async fn settle(&self) -> Result<(), Failure> {
        let real = Clock::system();
        let until = real.instant() + LIMIT;
        loop {
            let now = self.clock.now();
            let schedules = self.jobs.schedules(OURS).await?;
            let counts = self.jobs.counts(OURS).await?;
            let open: u64 = counts
                .iter()
                .filter(|(state, _)| !state.is_finished())
                .map(|(_, count)| *count)
                .sum();
            if open == 0 && schedules.iter().all(|of| of.next.is_none_or(|next| next > now)) {
                return Ok(());
            }
            if real.instant() > until {
                return Err(format!("at {now} a schedule does not go on").into());
            }
            real.sleep(Duration::from_millis(1)).await;
        }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

fn name(number: usize) -> String {
    format!("s{number}")
}

pub(crate) async fn run(days: u32, seed: u64) -> Result<Outcome, Failure> {
    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("rows.db");
    let db = Db::open(relational::Config { path, ..Default::default() }, &Base::system()).await?;
    let begin: Timestamp = BEGIN.parse()?;
    let end = begin.plus(Duration::from_hours(24).saturating_mul(days));
    let made = Made::default();
    let mut server = Server::start(&db, begin, &made).await?;
    let mut expected = Vec::new();
    for zone_name in ZONES {
        let zone = TimeZone::get(zone_name)?;
        // Whole minutes, from before the first to behind the last.
        let span = (begin.minus(24 * HOUR), end.plus(24 * 14 * HOUR));
        let shown = shown(&zone, span);
        for (text, choice) in TEXTS.iter().flat_map(|text| CHOICES.map(|choice| (*text, choice))) {
            let new = NewSchedule::of(OURS, name(expected.len()), "tick", text.parse()?);
            let payload = name(expected.len()).into_bytes();
            let zone = zone_name.to_owned();
            let new = NewSchedule { payload, zone, missed: choice, ..new };
            server.jobs.keep_schedule(new).await?;
            let times = naive(text, span.0, &shown);
            let used_to = begin.plus(Duration::from_micros(1));
            expected.push(Expected { times, choice, used_to, wanted: BTreeSet::new() });
        }
    }
    let mut outcome = Outcome {
        days,
        schedules: expected.len(),
        jobs: 0,
        back: 0,
        forward: 0,
        away: 0,
        missed: 0,
        faults: Vec::new(),
    };
    let chance = Entropy::seeded(seed);
    while server.clock.now() < end {
        let now = server.clock.now();
        let next = expected.iter().filter_map(|it| {
            it.times.get(it.times.partition_point(|time| *time < it.used_to)).copied()
        });
        let next = next.min().unwrap_or(end).max(now.plus(Duration::from_micros(1)));
        match chance.number() % 40 {
            0 => {
                outcome.back += 1;
                server.kill();
                server = Server::start(&db, now.minus(HOUR), &made).await?;
            }
            1 => {
                outcome.forward += 1;
                server.clock.advance(next.since(now) + HOUR);
            }
            2 => {
                outcome.away += 1;
                let hours = 1 + u32::try_from(chance.number() % 60)?;
                let pause =
                    HOUR.saturating_mul(hours) + Duration::from_secs(chance.number() % 3_600);
                server.kill();
                server = Server::start(&db, now.plus(pause), &made).await?;
            }
            // A little late, as a look is.
            _ => server.clock.advance(next.since(now) + Duration::from_secs(chance.number() % 50)),
        }
        let now = server.clock.now();
        server.settle().await?;
        for it in &mut expected {
            it.look(now);
        }
    }
    let last = server.clock.now();
    server.kill();
    judge(&expected, &made.lock(), last, &mut outcome);
    db.close().await;
    Ok(outcome)
}

fn judge(
    expected: &[Expected],
    made: &BTreeMap<(String, Timestamp), u32>,
    last: Timestamp,
    outcome: &mut Outcome,
) {
    outcome.jobs = made.len();
    for ((name, time), count) in made {
        if *count != 1 {
            outcome.faults.push(format!("{name} ran {count} times for {time}"));
        }
    }
    for (number, it) in expected.iter().enumerate() {
        let name = name(number);
        let found: BTreeSet<Timestamp> =
            made.keys().filter(|(of, _)| *of == name).map(|(_, time)| *time).collect();
        let begin: Timestamp = BEGIN.parse().expect("it is a moment");
        let all = it.times.iter().filter(|time| **time > begin && **time <= last).count();
        outcome.missed += all.saturating_sub(found.len());
        let differ: Vec<&Timestamp> = found.symmetric_difference(&it.wanted).collect();
        if let Some(first) = differ.first() {
            let kind = it.choice;
            let count = differ.len();
            outcome.faults.push(format!("{name} ({kind}): {count} other times, first {first}"));
        }
    }
}
