//! From the log to everything else, each reading once. One pipeline runs per partition.
//!
//! A batch of records goes through these steps, and can be killed between any two of them:
//! 1. Records that are no readings become dead letters (again, if killed before 3).
//! 2. Readings that were there before are put aside. `series` rows tell the last time of each series as of the
//!    stored position, so a later time is new and the same time is not; for an earlier one the lake is asked.
//! 3. One commit: alerts with events and mails, last readings, and the position.
//! 4. The new readings go to the lake, which has its own durable position in the same commit as its rows.
//!
//! So after a crash the position says where to go on, and the lake lacks at most what lies between its own
//! position and that one. These records are read once more for the lake alone: whatever the lake has not by
//! identity is what step 2 took as new then, since the lake had every new reading before them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{EventId, Failure, OrganisationId, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use lake::Table;
use relational::{Read, Tx};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::commands::Wish;
use crate::fleet::{Fleet, IDLE};
use crate::health::{BATTERY, Battery};
use crate::needs::{Notice, Recipient};
use crate::pipeline::batch::{Batch, Limits, PIECE_BYTES, Poison, Reader};
use crate::reading::Reading;
use crate::reading::sheaf::{Item, Lane, Sheaf};
use crate::registry::{Device, Registry};
use crate::rollup::rows::SensorDay;
use crate::rule::{Deed, Looking, Matched, Memory, Order, Quiet, Rule, RuleId, RuleSet, Verdict};
use crate::store::{self, Alert, Commit, Raised, Saw, Series, Then, Why};
use crate::{Error, READINGS_TOPIC, Result, rollup};

mod batch;

/// What kept answers about alerts depend on.
pub(crate) const ALERTS: &str = "alerts";
/// Identities that the lake is asked for at once.
const KEYS_AT_ONCE: usize = 10_000;
/// With fewer readings, handing them to another thread costs more than it saves.
const READINGS_APART_MIN: usize = 1_024;
/// Threads that make rows for the lake at once.
const PARTS: usize = 2;
/// However many rules there are, a batch has as many readings.
const READINGS_MIN: usize = 1_000;
/// More than an action can have.
const COMMANDS_OF_AN_ACTION: u64 = 1 << 32;

/// The places where tests kill a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Fetched,
    Buried,
    Committed,
    Appended,
    /// Of a roll-up: the marks of a day.
    Taken,
    /// One of the tables of roll-ups.
    Exchanged,
    /// From when on readings are taken is said.
    Forgotten,
    /// The readings of a day.
    Deleted,
}

/// Runs one pipeline until it fails; the caller runs it again.
pub(crate) async fn run(fleet: Arc<Fleet>, partition: u32) -> Result<(), Failure> {
    let source = format!("{READINGS_TOPIC}/{partition}");
    let mut run = Run::start(&fleet, partition, &source).await?;
    run.catch_up().await?;
    let mut rules = fleet.watch_rules();
    let mut end = fleet.readings.end(partition);
    let mut epoch = fleet.roll_ups.epoch();
    let beginning = fleet.roll_ups.beginning(partition);
    let adopting = Adopting::begin(fleet.adopted(partition));
    let clock = fleet.house.base.clock.clone();
    // What was read while the batch before was written down.
    let mut ahead: Option<Batch> = None;
    loop {
        let set = rules.borrow_and_update().clone();
        adopting.adopt(set.version);
        let now = *epoch.borrow_and_update();
        run.load_marks(now).await?;
        beginning.begin(run.epoch);
        run.lag.reach(end.borrow_and_update().saturating_sub(run.next));
        let began = clock.instant();
        let batch = match ahead.take() {
            Some(batch) => Ok(batch),
            None => run.read(run.next, u64::MAX).await,
        };
        let batch = match batch {
            Err(Error::Log(eventlog::Error::OutOfRange { start, .. })) if run.next < start => {
                run.skip(start).await?;
                continue;
            }
            batch => batch?,
        };
        if batch.next == run.next {
            tokio::select! {
                changed = end.changed() => changed?,
                changed = rules.changed() => changed?,
                changed = epoch.changed() => changed?,
            }
            continue;
        }
        let is_more = *end.borrow() > batch.next;
        ahead = run.take(&set, batch, (is_more, began)).await?;
    }
}

/// Says which rules are evaluated, and that none are when the pipeline ends, however it ends.
struct Adopting<'f>(&'f watch::Sender<u64>);

impl<'f> Adopting<'f> {
    /// Comes before the rules are looked at: whoever changes them and sees this waits.
    fn begin(adopted: &'f watch::Sender<u64>) -> Self {
        adopted.send_replace(0);
        Self(adopted)
    }

    fn adopt(&self, version: u64) {
        self.0.send_replace(version);
    }
}

impl Drop for Adopting<'_> {
    fn drop(&mut self) {
        self.0.send_replace(IDLE);
    }
}

/// This pipeline's part of the gauge.
struct Lag<'f> {
    fleet: &'f Fleet,
    records: i64,
}

impl Lag<'_> {
    fn reach(&mut self, records: u64) {
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        self.fleet.house.meters.lag.inc_by(records - self.records);
        self.records = records;
    }
}

impl Drop for Lag<'_> {
    fn drop(&mut self) {
        self.reach(0);
    }
}

/// What one run of a pipeline knows; it starts from the rows and is forgotten when anything fails.
struct Run<'f> {
    fleet: &'f Fleet,
    partition: u32,
    /// The name under which the lake keeps this pipeline's position.
    source: &'f str,
    /// The offset that is read next.
    next: u64,
    /// What the lake had when this run began; only after rows were restored can it be ahead of them.
    in_lake: Option<u64>,
    /// The last time of each series, by device and sensor, as of `next`.
    last: HashMap<String, HashMap<String, i64>>,
    /// Alerts by device and rule, as far as they were needed.
    quiet: HashMap<String, HashMap<RuleId, Quiet>>,
    quiet_count: usize,
    /// What rules remember, as of `next`.
    memory: Memory,
    /// Readings of the next batch: the more rules look at each, the fewer.
    pace: usize,
    /// The days that are marked in the rows to be rolled up, as of an epoch.
    marks: HashMap<String, HashSet<i64>>,
    epoch: u64,
    lag: Lag<'f>,
}

/// A lane while its readings are evaluated.
struct Course {
    /// Which rules look at it, by their place among those of the batch.
    looking: Option<usize>,
    device: Option<Arc<Device>>,
    lateness: Option<Duration>,
    newest: Option<i64>,
}

/// Rows for the lake on their way, with the offset that they reach.
type Making = (u64, BoxFuture<'static, Result<lake::Rows>>);

impl Course {
    /// How a reading comes after those before it; none when it is later than its sensor allows.
    fn pass(&mut self, time: Timestamp) -> Option<Order> {
        match self.newest {
            Some(newest) if time.micros() < newest => {
                let late = Timestamp::from_micros(newest).since(time);
                self.lateness.is_none_or(|most| late <= most).then_some(Order::Late)
            }
            _ => {
                self.newest = Some(time.micros());
                Some(Order::Newest)
            }
        }
    }
}

/// The rules of a batch, by the sensor that they are on.
struct Courses<'s> {
    all: Vec<Course>,
    looking: Vec<Looking<'s>>,
}

impl<'s> Courses<'s> {
    fn new(fleet: &Fleet, set: &'s RuleSet, lanes: &[Lane], stored: &[Option<i64>]) -> Self {
        let mut places = HashMap::<&str, Option<usize>>::new();
        let mut looking = Vec::new();
        let all = lanes.iter().zip(stored).map(|(lane, stored)| {
            let place = *places.entry(&*lane.sensor).or_insert_with(|| {
                let rules = set.looking(&lane.sensor)?;
                looking.push(rules);
                Some(looking.len() - 1)
            });
            let needs_device = place.is_some_and(|place: usize| looking[place].needs_device());
            let device = needs_device.then(|| fleet.device(&lane.device).ok()).flatten();
            let lateness = fleet.sensor(&lane.sensor).ok().and_then(|sensor| sensor.lateness);
            Course { looking: place, device, lateness, newest: *stored }
        });
        let all = all.collect();
        Self { all, looking }
    }
}

/// Why a rule raised an alert.
fn why(matched: &Matched<'_>) -> Why {
    let conditions = matched.rule.text.conditions.iter().zip(&matched.seen);
    let conditions = conditions.map(|(condition, seen)| Saw {
        value: condition.value.clone(),
        observed: seen.observed,
        other: seen.other,
        then: seen.then.map(|(time, observed)| Then {
            time: Timestamp::from_micros(time).to_string(),
            observed,
        }),
        held: seen.is_held,
    });
    Why {
        version: matched.rule.version,
        since: Timestamp::from_micros(matched.since).to_string(),
        conditions: conditions.collect(),
    }
}

/// Which readings of a batch are taken.
struct Fresh {
    is_new: Vec<bool>,
    /// Those that came when readings of their day were no longer kept.
    expired: Vec<usize>,
}

/// What the rules made of the new readings of a batch.
#[derive(Default)]
struct Evaluated {
    /// How often a rule looked at a reading.
    rules: u64,
    alerts: Vec<Raised>,
    /// The new readings up to here were evaluated; the rest comes with the next batch.
    count: usize,
}

impl<'f> Run<'f> {
    async fn start(fleet: &'f Fleet, partition: u32, source: &'f str) -> Result<Self> {
        let organisation = fleet.organisation;
        let load = async move |read: &mut Read| {
            Ok::<_, Error>((
                store::next_offset(read, organisation, partition).await?,
                store::series_times(read, organisation).await?,
                store::memory(read, organisation).await?,
            ))
        };
        let (next, series, kept) = fleet.house.needs.db.read(load).await?;
        let mut last = HashMap::<String, HashMap<String, i64>>::new();
        for (device, sensor, time) in series {
            if fleet.readings.partition_for(device.as_bytes()) == partition {
                last.entry(device).or_default().insert(sensor, time.micros());
            }
        }
        let mut memory = Memory::new(fleet.house.config.rule_memory_pairs_max);
        for kept in kept {
            if fleet.readings.partition_for(kept.device.as_bytes()) == partition {
                memory.restore(kept).ok_or_else(|| Error::damaged("what a rule remembers"))?;
            }
        }
        Ok(Self {
            fleet,
            partition,
            source,
            next,
            in_lake: fleet.table.durable(source),
            last,
            quiet: HashMap::new(),
            quiet_count: 0,
            memory,
            pace: fleet.house.config.batch_readings_max,
            marks: HashMap::new(),
            epoch: 0,
            lag: Lag { fleet, records: 0 },
        })
    }

    /// Gives the lake what was committed to the rows and had not reached it.
    async fn catch_up(&mut self) -> Result<()> {
        let mut from = self.in_lake.map_or(0, |last| last + 1);
        from = from.max(self.fleet.readings.start(self.partition));
        if from >= self.next {
            return Ok(());
        }
        let organisation = self.fleet.organisation;
        let load = async move |read: &mut Read| rollup::rows::all(read, organisation).await;
        let marked = self.fleet.house.needs.db.read(load).await?;
        while from < self.next {
            let Batch { sheaf, next, .. } = self.read(from, self.next).await?;
            if next <= from {
                break;
            }
            let known = self.in_lake(&sheaf, sheaf.items.iter()).await?;
            let mut seen = HashSet::with_capacity(sheaf.items.len());
            let first: Vec<bool> =
                sheaf.items.iter().map(|item| seen.insert(identity(item))).collect();
            let new = sheaf.items.iter().zip(known.into_iter().zip(first));
            let new = new.filter(|(_, (known, first))| *first && !known).map(|(item, _)| item);
            let new = new.filter(|item| self.was_kept(&sheaf, item, &marked));
            let rows = rows(&self.fleet.table, &sheaf, new)?;
            self.fleet.table.append(self.source, next - 1, rows).await?;
            from = next;
        }
        Ok(())
    }

    /// Whether a reading that the lake lacks was kept when it was committed: then its day is marked, and stays so until this
    /// pipeline has begun a batch. One that came too late for an unmarked day was not.
    fn was_kept(&self, sheaf: &Sheaf, item: &Item, marked: &HashSet<SensorDay>) -> bool {
        let sensor = &sheaf.lane_of(item).sensor;
        let is_kept = self.fleet.roll_ups.kept_from(sensor).is_none_or(|from| item.time >= from);
        is_kept || marked.contains(&(sensor.to_string(), rollup::day_of(item.time)))
    }

    async fn read(&self, from: u64, until: u64) -> Result<Batch> {
        let reading = self.begin(from, until).await?;
        self.finish(reading).await
    }

    async fn finish(&self, reading: batch::Reading) -> Result<Batch> {
        let batch = reading.finish().await?;
        self.at(Step::Fetched).await?;
        Ok(batch)
    }

    async fn begin(&self, from: u64, until: u64) -> Result<batch::Reading> {
        let Fleet { readings, house, .. } = self.fleet;
        let reader = Reader {
            readings: readings.clone(),
            partition: self.partition,
            clock: house.base.clock.clone(),
        };
        let limits = Limits {
            bytes: house.config.batch_bytes_max,
            piece_bytes: PIECE_BYTES,
            readings: self.pace,
            until,
        };
        reader.begin(from, limits).await
    }

    /// Goes on where the log begins, when records were deleted before they were taken.
    async fn skip(&mut self, start: u64) -> Result<()> {
        let (organisation, partition, from) = (self.fleet.organisation, self.partition, self.next);
        tracing::error!(%organisation, partition, from, start, "records were deleted before they were taken");
        self.commit(Commit {
            organisation,
            partition,
            from,
            next: start,
            readings: 0,
            alerts: Vec::new(),
            new_series: Vec::new(),
            moved_series: Vec::new(),
            memory: Vec::new(),
            marks: Vec::new(),
            commands_open_max: self.fleet.house.config.commands_open_max,
        })
        .await
    }

    /// Reads the marks again when somebody may have taken some.
    async fn load_marks(&mut self, epoch: u64) -> Result<()> {
        if self.epoch == epoch {
            return Ok(());
        }
        let (organisation, partition) = (self.fleet.organisation, self.partition);
        let load =
            async move |read: &mut Read| rollup::rows::marks(read, organisation, partition).await;
        let found = self.fleet.house.needs.db.read(load).await?;
        self.marks.clear();
        for (sensor, day) in found {
            self.marks.entry(sensor).or_default().insert(day);
        }
        self.epoch = epoch;
        Ok(())
    }

    /// The days of new readings that are not marked yet.
    fn marks(&self, sheaf: &Sheaf, new: &[usize]) -> Vec<SensorDay> {
        let mut found = BTreeSet::<(&str, i64)>::new();
        // Readings of a lane follow one another, so mostly it is the same day.
        let mut last: Vec<Option<i64>> = vec![None; sheaf.lanes.len()];
        for index in new {
            let item = &sheaf.items[*index];
            let (day, last) = (rollup::day_of(item.time), &mut last[item.lane as usize]);
            if *last != Some(day) {
                *last = Some(day);
                found.insert((&sheaf.lane_of(item).sensor, day));
            }
        }
        let is_marked =
            |sensor: &str, day: i64| self.marks.get(sensor).is_some_and(|days| days.contains(&day));
        found.retain(|(sensor, day)| !is_marked(sensor, *day));
        if found.is_empty() {
            return Vec::new();
        }
        // Days of others are found when somebody wants them to be rolled up.
        let rolls_up = |registry: &Registry, sensor: &str| {
            registry.sensors.get(sensor).is_some_and(|sensor| sensor.retention.is_some())
                || self.fleet.roll_ups.kept_from(sensor).is_some()
        };
        let wanted: BTreeSet<&str> = self.fleet.registry(|registry| {
            let sensors = found.iter().map(|(sensor, _)| *sensor);
            sensors.filter(|sensor| rolls_up(registry, sensor)).collect()
        });
        found.retain(|(sensor, _)| wanted.contains(sensor));
        found.into_iter().map(|(sensor, day)| (sensor.to_owned(), day)).collect()
    }

    /// Takes a batch through all steps, or its beginning when it raises very many alerts or very many rules look at it. With
    /// more behind it, that is read meanwhile.
    async fn take(
        &mut self,
        set: &RuleSet,
        batch: Batch,
        (is_more, began): (bool, Instant),
    ) -> Result<Option<Batch>> {
        let clock = self.fleet.house.base.clock.clone();
        let Batch { sheaf, mut poison, next: end, mut took, .. } = batch;
        let mut next = end;
        let sheaf = Arc::new(sheaf);
        let stored: Vec<Option<i64>> = sheaf.lanes.iter().map(|lane| self.last_of(lane)).collect();
        self.hear(&sheaf);
        // What is behind it is read meanwhile.
        let mut ahead = if is_more { Some(self.begin(end, u64::MAX).await) } else { None };
        let Fresh { is_new, expired } = self.fresh(&sheaf, &stored).await?;
        let mut new: Vec<usize> = (0..is_new.len()).filter(|index| is_new[*index]).collect();
        let mut making = self.making(&sheaf, &new, next);
        let looked = clock.instant();
        let evaluated = self.evaluate(set, (&sheaf, &stored), &new).await?;
        took += clock.instant() - looked;
        let meters = &self.fleet.house.meters;
        meters.rules_evaluated.inc_by(evaluated.rules);
        meters.rules_seconds.inc_by(took.as_secs_f64());
        if evaluated.count < new.len() {
            next = sheaf.items[new[evaluated.count]].offset;
            new.truncate(evaluated.count);
            poison.retain(|poison| poison.offset < next);
            making = self.making(&sheaf, &new, next);
            ahead = Some(self.begin(next, u64::MAX).await);
        }
        let taken = sheaf.items.partition_point(|item| item.offset < next);
        self.bury(&poison).await?;
        let (new_series, moved_series) = Self::series((&sheaf, &stored), &new);
        let commit = Commit {
            organisation: self.fleet.organisation,
            partition: self.partition,
            from: self.next,
            next,
            readings: new.len() as u64,
            alerts: evaluated.alerts,
            new_series,
            moved_series,
            memory: self.memory.take_changes(),
            marks: self.marks(&sheaf, &new),
            commands_open_max: self.fleet.house.config.commands_open_max,
        };
        let commit = Arc::new(commit);
        // The rows for the lake are made and the next records are read while this one is on its way to the disk.
        let ahead = async {
            match ahead {
                Some(reading) => self.finish(reading?).await.map(Some),
                None => Ok(None),
            }
        };
        let made = async {
            let mut made = Vec::with_capacity(making.len());
            for (last, rows) in making {
                made.push((last, rows.await?));
            }
            Ok::<_, Error>(made)
        };
        let (raised, made, ahead) = tokio::join!(self.store(&commit), made, ahead);
        self.committed(&commit, &raised?);
        self.at(Step::Committed).await?;
        for (last, rows) in made? {
            self.fleet.table.append(self.source, last, rows).await?;
        }
        self.at(Step::Appended).await?;
        self.fleet.house.meters.batch_seconds.observe((clock.instant() - began).as_secs_f64());
        let expired = expired.partition_point(|index| *index < taken);
        self.fleet.house.meters.expired.inc_by(expired as u64);
        let repeated = taken - new.len() - expired;
        self.count(new.iter().map(|index| &sheaf.items[*index]), repeated as u64);
        // Records that were deleted meanwhile are skipped at the next turn.
        Ok(ahead.ok().flatten().filter(|ahead| ahead.from == next && ahead.next > next))
    }

    /// Any reading is a sign of life, a repeated one too.
    fn hear(&self, sheaf: &Sheaf) {
        let now = self.fleet.house.base.clock.now();
        let mut heard = vec![None; sheaf.lanes.len()];
        let mut newest: Vec<Option<&Item>> = vec![None; sheaf.lanes.len()];
        for item in &sheaf.items {
            let (heard, newest) = (&mut heard[item.lane as usize], &mut newest[item.lane as usize]);
            *heard = (*heard).max(Some(item.received.unwrap_or(now).min(now)));
            if newest.is_none_or(|newest| newest.time < item.time) {
                *newest = Some(item);
            }
        }
        let mut vitals = self.fleet.vitals.lock();
        for (lane, (heard, newest)) in sheaf.lanes.iter().zip(heard.into_iter().zip(newest)) {
            let (Some(heard), Some(newest)) = (heard, newest) else { continue };
            vitals.heard(&lane.device, &lane.sensor, heard);
            if let Some(percent) = sheaf.value(newest, BATTERY) {
                vitals.powered(&lane.device, Battery { percent, time: newest.time });
            }
        }
    }

    /// Says for each reading whether it is there for the first time. What is newer than all before it is.
    async fn fresh(&self, sheaf: &Sheaf, stored: &[Option<i64>]) -> Result<Fresh> {
        let items = &sheaf.items;
        let mut newest = stored.to_vec();
        let mut is_new = Vec::with_capacity(items.len());
        let mut late = Vec::new();
        let kept_from = |lane: &Lane| self.fleet.roll_ups.kept_from(&lane.sensor);
        let kept_from: Vec<Option<Timestamp>> = sheaf.lanes.iter().map(kept_from).collect();
        let mut expired = Vec::new();
        // Only late ones need to be looked for among those of the batch.
        let (mut seen, mut looked) = (HashSet::new(), 0);
        for (index, item) in items.iter().enumerate() {
            let time = item.time.micros();
            if kept_from[item.lane as usize].is_some_and(|from| item.time < from) {
                // Whether it is a repeat cannot be told any more.
                expired.push(index);
                is_new.push(false);
                continue;
            }
            let (newest, stored) = (&mut newest[item.lane as usize], stored[item.lane as usize]);
            if newest.is_none_or(|newest| time > newest) {
                *newest = Some(time);
                is_new.push(true);
                continue;
            }
            seen.extend(items[looked..index].iter().map(identity));
            looked = index + 1;
            let is_first_here = seen.insert(identity(item));
            if is_first_here && stored.is_some_and(|stored| time < stored) {
                late.push(index);
            }
            is_new.push(is_first_here && stored.is_none_or(|stored| time > stored));
        }
        if !late.is_empty() {
            let known = self.in_lake(sheaf, late.iter().map(|index| &items[*index])).await?;
            for (index, known) in late.into_iter().zip(known) {
                is_new[index] = !known;
            }
        }
        Ok(Fresh { is_new, expired })
    }

    fn last_of(&self, lane: &Lane) -> Option<i64> {
        self.last.get(&*lane.device)?.get(&*lane.sensor).copied()
    }

    /// Asks the lake for identities. It holds every new reading before `next`, since each batch waits for it.
    async fn in_lake<'b>(
        &self,
        sheaf: &Sheaf,
        items: impl Iterator<Item = &'b Item>,
    ) -> Result<Vec<bool>> {
        let keys = items.map(|item| {
            let Lane { device, sensor } = sheaf.lane_of(item);
            lake::Key::new(&[
                lake::Value::Text(device),
                lake::Value::Text(sensor),
                lake::Value::Time(item.time),
            ])
        });
        let mut keys: Vec<lake::Key> = keys.collect::<Result<_, _>>()?;
        let mut known = Vec::with_capacity(keys.len());
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(KEYS_AT_ONCE));
            known.extend(self.fleet.table.existing(keys).await?);
            keys = rest;
        }
        Ok(known)
    }

    /// Runs the rules over new readings in the order in which they arrived.
    async fn evaluate(
        &mut self,
        set: &RuleSet,
        (sheaf, stored): (&Sheaf, &[Option<i64>]),
        new: &[usize],
    ) -> Result<Evaluated> {
        let config = &self.fleet.house.config;
        if self.quiet_count > config.cooldown_pairs_max {
            self.quiet.clear();
            self.quiet_count = 0;
        }
        let mut evaluated = Evaluated::default();
        let mut matched: Vec<Matched<'_>> = Vec::new();
        let Courses { all: mut courses, mut looking } =
            Courses::new(self.fleet, set, &sheaf.lanes, stored);
        let mut late = 0;
        let full = self.memory.full;
        for index in new {
            let item = &sheaf.items[*index];
            let course = &mut courses[item.lane as usize];
            let order = course.pass(item.time);
            late += u64::from(order.is_none());
            if let Some(place) = course.looking {
                let looking = &mut looking[place];
                evaluated.rules += looking.count() as u64;
                if let Some(order) = order {
                    matched.clear();
                    let about = (course.device.as_deref(), order);
                    looking.evaluate_item((sheaf, item), about, &mut self.memory, &mut matched);
                }
            }
            if !matched.is_empty() {
                let reading = sheaf.reading(item);
                self.load_quiet(&matched, &reading.device).await?;
                for matched in matched.drain(..) {
                    let rule = matched.rule;
                    if self.is_due(rule, &reading, &evaluated.alerts).await? {
                        evaluated.alerts.push(self.raise(&matched, &reading));
                        if rule.text.is_once {
                            self.memory.raised(&reading.device, (rule.id, rule.version));
                        }
                    }
                }
            }
            evaluated.count += 1;
            if evaluated.alerts.len() >= config.batch_alerts_max
                || evaluated.rules >= config.batch_evaluations_max
            {
                break;
            }
        }
        let of_each = evaluated.rules / (evaluated.count as u64).max(1);
        let most = usize::try_from(config.batch_evaluations_max / of_each.max(1));
        let by_alerts = config.batch_alerts_max.saturating_mul(evaluated.count);
        let by_alerts = by_alerts / evaluated.alerts.len().max(1);
        let most = most.unwrap_or(usize::MAX).min(by_alerts).max(READINGS_MIN);
        self.pace = most.min(config.batch_readings_max);
        let meters = &self.fleet.house.meters;
        meters.rules_late.inc_by(late);
        meters.rules_forgotten.inc_by(self.memory.full - full);
        Ok(evaluated)
    }

    /// Reads the alerts of those pairs of rule and device that have not been needed so far.
    async fn load_quiet(&mut self, matched: &[Matched<'_>], device: &str) -> Result<()> {
        let known = self.quiet.get(device);
        let missing: Vec<RuleId> = matched
            .iter()
            .filter(|matched| !matched.rule.text.cooldown.is_zero())
            .map(|matched| matched.rule.id)
            .filter(|id| known.is_none_or(|known| !known.contains_key(id)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let limit = self.fleet.house.config.cooldown_times_max;
        let asked = (self.fleet.organisation, device.to_owned(), missing);
        let load = async move |read: &mut Read| {
            let (organisation, device, missing) = &asked;
            let mut found = Vec::with_capacity(missing.len());
            for id in missing {
                let times = store::newest_alerts(read, *organisation, (*id, device), limit).await?;
                found.push((*id, Quiet::new(times, limit)));
            }
            Ok::<_, Error>(found)
        };
        let found = self.fleet.house.needs.db.read(load).await?;
        self.quiet_count += found.len();
        self.quiet.entry(device.to_owned()).or_default().extend(found);
        Ok(())
    }

    /// Whether a match is outside of every cool-down; if so it is noted as an alert.
    async fn is_due(
        &mut self,
        rule: &Rule,
        reading: &Reading<'_>,
        raised: &[Raised],
    ) -> Result<bool> {
        let (time, cooldown) = (reading.time, rule.text.cooldown);
        let quiet = self.quiet.get_mut(&*reading.device).and_then(|known| known.get_mut(&rule.id));
        let Some(quiet) = quiet else { return Ok(true) };
        let verdict = match quiet.verdict(time, cooldown) {
            Verdict::Unknown => {
                // Alerts of this batch are in no row yet.
                let near = raised.iter().any(|Raised { alert, .. }| {
                    alert.rule == rule.id
                        && alert.device == reading.device
                        && alert.time > time.minus(cooldown)
                        && alert.time < time.plus(cooldown)
                });
                let asked = (self.fleet.organisation, rule.id, reading.device.to_string());
                let ask = async move |read: &mut Read| {
                    let (organisation, rule, device) = &asked;
                    let pair = (*rule, device.as_str());
                    store::has_alert_near(read, *organisation, pair, time, cooldown).await
                };
                let near = near || self.fleet.house.needs.db.read(ask).await?;
                if near { Verdict::Quiet } else { Verdict::Alert }
            }
            verdict => verdict,
        };
        if verdict == Verdict::Alert {
            quiet.note(time, self.fleet.house.config.cooldown_times_max);
        }
        Ok(verdict == Verdict::Alert)
    }

    fn raise(&self, matched: &Matched<'_>, reading: &Reading<'_>) -> Raised {
        let rule = matched.rule;
        let organisation = self.fleet.organisation;
        let now = self.fleet.house.base.clock.now();
        let mut alert = Alert {
            id: event_id(organisation, rule.id, reading, 0),
            rule: rule.id,
            rule_name: rule.text.name.clone(),
            device: reading.device.to_string(),
            sensor: reading.sensor.to_string(),
            time: reading.time,
            values: reading.values_json(),
            raised: now,
            mail_error: None,
            why: Some(why(matched)),
            handling: store::Handling::default(),
            escalate: rule.text.escalation.as_ref().map(|escalation| now.plus(escalation.after)),
            escalated: None,
        };
        let body = self.mail_body(matched, reading);
        let data = alert.to_json();
        let notice = |to: Recipient, part: u64| Notice {
            organisation,
            event: "alert.raised",
            to,
            subject: format!("{}: {}", rule.text.name, reading.device),
            body: body.clone(),
            occurred: reading.time,
            data: data.clone(),
            key: event_id(organisation, rule.id, reading, part),
        };
        let mut notices = vec![notice(Recipient::Subscribers, 0)];
        let mut commands = Vec::new();
        for (action, part) in rule.text.actions.iter().zip(1..) {
            match action {
                Deed::Email { to } => notices.push(notice(Recipient::Email(to.clone()), part)),
                Deed::Endpoint { endpoint } => {
                    notices.push(notice(Recipient::Endpoint(endpoint.clone()), part));
                }
                Deed::Actuator { device, actuator, steps, timeout } => {
                    let device = device.as_deref().unwrap_or(&reading.device);
                    let carries =
                        self.fleet.device(device).is_ok_and(|it| it.actuators.contains(actuator));
                    if !carries {
                        let text = format!("{device:?} does not carry the actuator {actuator:?}");
                        alert.mail_error = Some(text);
                        continue;
                    }
                    let wish = Wish {
                        device: device.to_owned(),
                        actuator: actuator.clone(),
                        steps: steps.clone(),
                        timeout: *timeout,
                        author: rule.text.name.clone(),
                        alert: Some(alert.id),
                    };
                    // Beside the parts of the messages, so that each has an id of its own.
                    let place = part * COMMANDS_OF_AN_ACTION;
                    let id = |step| event_id(organisation, rule.id, reading, place + step);
                    commands.push(wish.chain(now, id));
                }
            }
        }
        Raised { alert, notices, commands }
    }

    fn mail_body(&self, matched: &Matched<'_>, reading: &Reading<'_>) -> String {
        use std::fmt::Write;

        let rule = matched.rule;
        let sensor = self.fleet.sensor(&reading.sensor).ok();
        let mut body = format!(
            "The rule \"{}\" matched a reading.\n\nDevice: {}\nSensor: {}\nTime:   {}\n\n",
            rule.text.name, reading.device, reading.sensor, reading.time
        );
        for (name, value) in &reading.values {
            let known = sensor.as_ref().and_then(|s| s.values.iter().find(|v| v.name == **name));
            let unit = known.map_or("", |value| &value.unit);
            let space = if unit.is_empty() { "" } else { " " };
            writeln!(body, "{name} = {value}{space}{unit}").expect("writing to a string");
        }
        if matched.since < reading.time.micros() {
            let since = Timestamp::from_micros(matched.since);
            write!(body, "\nIt has held since {since}.\n").expect("writing to a string");
        }
        if !rule.text.cooldown.is_zero() {
            let quiet = rule.text.cooldown.as_secs();
            write!(body, "\nThe rule is quiet for this device for {quiet} s.\n")
                .expect("writing to a string");
        }
        body
    }

    async fn bury(&self, poison: &[Poison]) -> Result<()> {
        let letters = poison.iter().map(|Poison { offset, value, refusal }| {
            let source = format!("{}/{offset}", self.source);
            self.fleet.letter(&source, refusal, value, "")
        });
        let letters = letters.collect();
        self.fleet.bury(letters, poison.iter().map(|poison| &poison.refusal)).await?;
        self.at(Step::Buried).await
    }

    /// The rows of the last readings that these make: those that are there for the first time, and those that move.
    fn series(
        (sheaf, stored): (&Sheaf, &[Option<i64>]),
        new: &[usize],
    ) -> (Vec<Series>, Vec<Series>) {
        let mut latest: Vec<Option<&Item>> = vec![None; sheaf.lanes.len()];
        for index in new {
            let item = &sheaf.items[*index];
            let latest = &mut latest[item.lane as usize];
            if latest.is_none_or(|latest| item.time > latest.time) {
                *latest = Some(item);
            }
        }
        let (mut fresh, mut moved) = (Vec::new(), Vec::new());
        for (stored, latest) in stored.iter().zip(latest) {
            let Some(item) = latest else { continue };
            let row = || {
                let reading = sheaf.reading(item);
                Series {
                    device: reading.device.to_string(),
                    sensor: reading.sensor.to_string(),
                    time: item.time,
                    values: reading.values_json(),
                    received: item.received,
                }
            };
            match stored {
                None => fresh.push(row()),
                Some(stored) if item.time.micros() > *stored => moved.push(row()),
                Some(_) => {}
            }
        }
        (fresh, moved)
    }

    async fn commit(&mut self, commit: Commit) -> Result<()> {
        let commit = Arc::new(commit);
        let raised = self.store(&commit).await?;
        self.committed(&commit, &raised);
        Ok(())
    }

    /// Writes the commit down, and gives the alerts as they stand there.
    async fn store(&self, commit: &Arc<Commit>) -> Result<Vec<Alert>> {
        let needs = &self.fleet.house.needs;
        let (commit, notifier) = (commit.clone(), needs.notifier.clone());
        let results = needs.results.for_organisation(commit.organisation);
        let write = async move |tx: &mut Tx| {
            let raised = store::commit(tx, &commit, &*notifier).await?;
            if !raised.is_empty() {
                results.bump(tx, &[ALERTS]).await?;
            }
            Ok::<_, Error>(raised)
        };
        needs.db.write(write).await
    }

    /// From here on the pipeline stands behind the commit.
    fn committed(&mut self, commit: &Commit, raised: &[Alert]) {
        for series in commit.new_series.iter().chain(&commit.moved_series) {
            let sensors = self.last.entry(series.device.clone()).or_default();
            sensors.insert(series.sensor.clone(), series.time.micros());
        }
        self.next = commit.next;
        for (sensor, day) in &commit.marks {
            self.marks.entry(sensor.clone()).or_default().insert(*day);
        }
        for Raised { alert, commands, .. } in &commit.alerts {
            let first = (!commands.is_empty()).then_some(alert.raised);
            for at in first.into_iter().chain(alert.escalate) {
                self.fleet.errands.expect(at);
            }
        }
        let meters = &self.fleet.house.meters;
        meters.alerts.inc_by(raised.len() as u64);
        for alert in raised.iter().filter(|alert| alert.mail_error.is_some()) {
            meters.mails_refused.inc();
            tracing::warn!(alert = %alert.id, error = alert.mail_error, "a mail was not taken");
        }
    }

    /// Begins to make the rows that the lake keeps of new readings, where it has not got them: many on other threads, few when
    /// somebody waits for them.
    fn making(&self, sheaf: &Arc<Sheaf>, new: &[usize], next: u64) -> Vec<Making> {
        let has =
            |index: &usize| self.in_lake.is_some_and(|last| sheaf.items[*index].offset <= last);
        let missing = &new[new.partition_point(has)..];
        let is_apart = missing.len() >= READINGS_APART_MIN;
        let parts = if is_apart { PARTS } else { 1 };
        let of_part = missing.len().div_ceil(parts).max(1);
        let mut parts: Vec<&[usize]> = missing.chunks(of_part).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        let making = parts.into_iter().enumerate().map(|(place, part)| {
            let (table, sheaf, part) = (self.fleet.table.clone(), sheaf.clone(), part.to_vec());
            let last = match part.last() {
                Some(last) if place + 1 < count => sheaf.items[*last].offset,
                _ => next - 1,
            };
            let make = move || rows(&table, &sheaf, part.iter().map(|index| &sheaf.items[*index]));
            if !is_apart {
                return (last, async move { make() }.boxed());
            }
            let made = tokio::task::spawn_blocking(make);
            let made = made.map(|made| {
                made.map_err(|_| Error::Unavailable("making rows was interrupted")).flatten()
            });
            (last, made.boxed())
        });
        making.collect()
    }

    fn count<'b>(&self, new: impl Iterator<Item = &'b Item>, repeated: u64) {
        let (meters, now) = (&self.fleet.house.meters, self.fleet.house.base.clock.now());
        let mut count = 0;
        for item in new {
            count += 1;
            if let Some(received) = item.received {
                meters.seconds.observe(now.since(received).as_secs_f64());
            }
        }
        meters.stored.inc_by(count);
        meters.repeated.inc_by(repeated);
        self.fleet.rate.note(now, count);
    }

    async fn at(&self, step: Step) -> Result<()> {
        self.fleet.at(step).await
    }
}

/// Of readings of one batch.
fn identity(item: &Item) -> (u32, i64) {
    (item.lane, item.time.micros())
}

/// The rows that the lake keeps of readings.
fn rows<'b>(
    table: &Table,
    sheaf: &Sheaf,
    readings: impl Iterator<Item = &'b Item> + Clone,
) -> Result<lake::Rows> {
    let count = readings.clone().map(|item| sheaf.shapes.length(item.shape)).sum();
    let mut rows = table.rows_builder_for(count);
    // By shape, its names.
    let mut names: Vec<Option<lake::Texts>> = vec![None; sheaf.shapes.count()];
    for item in readings {
        let Lane { device, sensor } = sheaf.lane_of(item);
        let of_shape = || sheaf.shapes.names(item.shape).into_iter().collect();
        let values = sheaf.values(item);
        rows.push_columns(
            values.len(),
            &[
                lake::Part::Same(lake::Value::Text(device)),
                lake::Part::Same(lake::Value::Text(sensor)),
                lake::Part::Same(lake::Value::Time(item.time)),
                lake::Part::Texts(names[item.shape as usize].get_or_insert_with(of_shape)),
                lake::Part::Floats(values),
            ],
        )?;
    }
    Ok(rows)
}

/// The id of an alert (part 0) or of one of its mails: a UUID version 7 whose time is the reading's and whose
/// chance is a hash, so it is the same whenever it is made.
fn event_id(
    organisation: OrganisationId,
    rule: RuleId,
    reading: &Reading<'_>,
    part: u64,
) -> EventId {
    let mut hash = Sha256::new();
    hash.update(organisation.bytes());
    hash.update(rule.bytes());
    for name in [&reading.device, &reading.sensor] {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
    }
    hash.update(reading.time.micros().to_le_bytes());
    hash.update(part.to_le_bytes());
    let hash = hash.finalize();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&reading.time.millis().to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&hash[..10]);
    bytes[6] = 0x70 | (bytes[6] & 0x0F);
    bytes[8] = 0x80 | (bytes[8] & 0x3F);
    EventId::from_bytes(bytes)
}
