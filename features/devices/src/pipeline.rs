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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base::{EventId, Failure, OrganisationId, Timestamp};
use eventlog::Stored;
use relational::{Read, Tx};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::fleet::{Fleet, IDLE};
use crate::intake::RECEIVED;
use crate::needs::{Notice, Recipient};
use crate::reading::{Reading, Refusal};
use crate::rule::{Deed, Matched, Memory, Order, Quiet, Rule, RuleId, RuleSet, Verdict};
use crate::store::{self, Alert, Commit, Saw, Series, Then, Why};
use crate::{Error, READINGS_TOPIC, Result};

/// Identities that the lake is asked for at once.
/// What kept answers about alerts depend on.
pub(crate) const ALERTS: &str = "alerts";
const KEYS_AT_ONCE: usize = 10_000;

/// The places where tests kill a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Fetched,
    Buried,
    Committed,
    Appended,
}

/// Runs one pipeline until it fails; the caller runs it again.
pub(crate) async fn run(fleet: Arc<Fleet>, partition: u32) -> Result<(), Failure> {
    let source = format!("{READINGS_TOPIC}/{partition}");
    let mut run = Run::start(&fleet, partition, &source).await?;
    run.catch_up().await?;
    let mut rules = fleet.watch_rules();
    let mut end = fleet.readings.end(partition);
    let adopting = Adopting::begin(fleet.adopted(partition));
    loop {
        let set = rules.borrow_and_update().clone();
        adopting.adopt(set.version);
        run.lag.reach(end.borrow_and_update().saturating_sub(run.next));
        let began = fleet.house.base.clock.instant();
        let batch = match run.fetch(run.next).await {
            Err(Error::Log(eventlog::Error::OutOfRange { start, .. })) if run.next < start => {
                run.skip(start).await?;
                continue;
            }
            batch => batch?,
        };
        if batch.is_empty() {
            tokio::select! {
                changed = end.changed() => changed?,
                changed = rules.changed() => changed?,
            }
            continue;
        }
        run.take(&set, &batch).await?;
        let took = fleet.house.base.clock.instant() - began;
        fleet.house.meters.batch_seconds.observe(took.as_secs_f64());
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

/// A reading with its place in the log.
struct Item<'b> {
    offset: u64,
    received: Option<Timestamp>,
    reading: Reading<'b>,
}

/// Something in the log that is no reading.
struct Poison<'b> {
    offset: u64,
    value: &'b [u8],
    refusal: Refusal,
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
    lag: Lag<'f>,
}

/// The newest time of each device and sensor while a batch is evaluated.
struct Newest<'b> {
    set: &'b RuleSet,
    lateness: HashMap<String, Duration>,
    times: HashMap<(&'b str, &'b str), i64>,
    /// Readings that came too late for any rule.
    late: u64,
}

impl<'b> Newest<'b> {
    fn new(fleet: &Fleet, set: &'b RuleSet) -> Self {
        let lateness = fleet.registry(|registry| {
            let sensors = registry.sensors.values();
            sensors.filter_map(|it| Some((it.name.clone(), it.lateness?))).collect()
        });
        Self { set, lateness, times: HashMap::new(), late: 0 }
    }

    /// How a reading comes after those before it; none when it is later than its sensor allows. Nobody asks where no rule
    /// would.
    fn pass(
        &mut self,
        reading: &'b Reading<'_>,
        stored: impl FnOnce() -> Option<i64>,
    ) -> Option<Order> {
        let lateness = self.lateness.get(&*reading.sensor).copied();
        if lateness.is_none() && !self.set.remembers(&reading.sensor) {
            return Some(Order::Newest);
        }
        let time = reading.time.micros();
        let series = (&*reading.device, &*reading.sensor);
        let newest = self.times.get(&series).copied().or_else(stored);
        match newest {
            Some(newest) if time < newest => {
                let late = Timestamp::from_micros(newest).since(reading.time);
                let is_allowed = lateness.is_none_or(|most| late <= most);
                self.late += u64::from(!is_allowed);
                is_allowed.then_some(Order::Late)
            }
            _ => {
                self.times.insert(series, time);
                Some(Order::Newest)
            }
        }
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

/// What the rules made of the new readings of a batch.
#[derive(Default)]
struct Evaluated {
    /// How often a rule looked at a reading.
    rules: u64,
    alerts: Vec<(Alert, Vec<Notice>)>,
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
            lag: Lag { fleet, records: 0 },
        })
    }

    /// Gives the lake what was committed to the rows and had not reached it.
    async fn catch_up(&mut self) -> Result<()> {
        let mut from = self.in_lake.map_or(0, |last| last + 1);
        from = from.max(self.fleet.readings.start(self.partition));
        while from < self.next {
            let batch = self.fetch(from).await?;
            let until = self.next;
            let batch: Vec<Stored> = batch.into_iter().filter(|s| s.offset < until).collect();
            let Some(last) = batch.last().map(|stored| stored.offset) else { break };
            let (items, _) = self.parse(&batch);
            let known = self.in_lake(items.iter()).await?;
            let mut seen = HashSet::with_capacity(items.len());
            let first: Vec<bool> = items.iter().map(|item| seen.insert(identity(item))).collect();
            let new = items.iter().zip(known.into_iter().zip(first));
            let new = new.filter(|(_, (known, first))| *first && !known).map(|(item, _)| item);
            self.append(last, new).await?;
            from = last + 1;
        }
        Ok(())
    }

    async fn fetch(&self, from: u64) -> Result<Vec<Stored>> {
        let Fleet { readings, house, .. } = self.fleet;
        let mut batch = readings.fetch(self.partition, from, house.config.batch_bytes_max).await?;
        batch.truncate(house.config.batch_readings_max);
        self.at(Step::Fetched).await?;
        Ok(batch)
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
        })
        .await
    }

    /// Takes a batch through all steps, or its beginning when it raises very many alerts.
    async fn take(&mut self, set: &RuleSet, batch: &[Stored]) -> Result<()> {
        let clock = self.fleet.house.base.clock.clone();
        let began = clock.instant();
        let (items, mut poison) = self.parse(batch);
        let parsing = clock.instant() - began;
        self.hear(&items);
        let is_new = self.fresh(&items).await?;
        let (mut new, mut repeated) = (Vec::with_capacity(items.len()), Vec::new());
        for (item, is_new) in items.into_iter().zip(is_new) {
            if is_new {
                new.push(item);
            } else {
                repeated.push(item.offset);
            }
        }
        let began = clock.instant();
        let evaluated = self.evaluate(set, &new).await?;
        let took = parsing + (clock.instant() - began);
        let meters = &self.fleet.house.meters;
        meters.rules_evaluated.inc_by(evaluated.rules);
        meters.rules_seconds.inc_by(took.as_secs_f64());
        let mut next = batch.last().map_or(self.next, |stored| stored.offset + 1);
        if evaluated.count < new.len() {
            next = new[evaluated.count].offset;
            new.truncate(evaluated.count);
            poison.retain(|poison| poison.offset < next);
            repeated.retain(|offset| *offset < next);
        }
        self.bury(&poison).await?;
        let (new_series, moved_series) = self.series(&new);
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
        };
        self.commit(commit).await?;
        self.at(Step::Committed).await?;
        let in_lake = self.in_lake;
        let missing = new.iter().filter(|item| in_lake.is_none_or(|last| item.offset > last));
        self.append(next - 1, missing).await?;
        self.at(Step::Appended).await?;
        self.count(&new, repeated.len() as u64);
        Ok(())
    }

    /// Tells readings from what is none. Asks neither clock nor registry: it must say the same again after a crash.
    fn parse<'b>(&self, batch: &'b [Stored]) -> (Vec<Item<'b>>, Vec<Poison<'b>>) {
        let mut items = Vec::with_capacity(batch.len());
        let mut poison = Vec::new();
        for stored in batch {
            let (offset, value) = (stored.offset, &*stored.record.value);
            let reading = Reading::recorded(value).and_then(|reading| {
                // Another pipeline has the series of this device, so it cannot be judged here.
                let own = self.fleet.readings.partition_for(reading.device.as_bytes());
                if own == self.partition { Ok(reading) } else { Err(Refusal::Misplaced) }
            });
            match reading {
                Ok(reading) => {
                    let received = stored.record.header(RECEIVED);
                    let received = received.and_then(|text| std::str::from_utf8(text).ok());
                    let received = received.and_then(|text| text.parse().ok());
                    let received = received.map(Timestamp::from_micros);
                    items.push(Item { offset, received, reading });
                }
                Err(refusal) => poison.push(Poison { offset, value, refusal }),
            }
        }
        (items, poison)
    }

    /// Any reading is a sign of life, a repeated one too.
    fn hear(&self, items: &[Item<'_>]) {
        let now = self.fleet.house.base.clock.now();
        let mut vitals = self.fleet.vitals.lock();
        for Item { reading, received, .. } in items {
            vitals.heard(&reading.device, &reading.sensor, received.unwrap_or(now).min(now));
        }
    }

    /// Says for each reading whether it is there for the first time.
    async fn fresh(&self, items: &[Item<'_>]) -> Result<Vec<bool>> {
        let mut seen = HashSet::with_capacity(items.len());
        let mut is_new = Vec::with_capacity(items.len());
        let mut late = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let last = self.last_of(&item.reading);
            let time = item.reading.time.micros();
            let is_first_here = seen.insert(identity(item));
            if is_first_here && last.is_some_and(|last| time < last) {
                late.push(index);
            }
            is_new.push(is_first_here && last.is_none_or(|last| time > last));
        }
        if !late.is_empty() {
            let known = self.in_lake(late.iter().map(|index| &items[*index])).await?;
            for (index, known) in late.into_iter().zip(known) {
                is_new[index] = !known;
            }
        }
        Ok(is_new)
    }

    fn last_of(&self, reading: &Reading<'_>) -> Option<i64> {
        self.last.get(&*reading.device)?.get(&*reading.sensor).copied()
    }

    /// Asks the lake for identities. It holds every new reading before `next`, since each batch waits for it.
    async fn in_lake<'b>(&self, items: impl Iterator<Item = &'b Item<'b>>) -> Result<Vec<bool>> {
        let keys = items.map(|Item { reading, .. }| {
            lake::Key::new(&[
                lake::Value::Text(&reading.device),
                lake::Value::Text(&reading.sensor),
                lake::Value::Time(reading.time),
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
    async fn evaluate(&mut self, set: &RuleSet, new: &[Item<'_>]) -> Result<Evaluated> {
        let config = &self.fleet.house.config;
        if self.quiet_count > config.cooldown_pairs_max {
            self.quiet.clear();
            self.quiet_count = 0;
        }
        let mut evaluated = Evaluated::default();
        let mut matched: Vec<Matched<'_>> = Vec::new();
        let mut newest = Newest::new(self.fleet, set);
        let full = self.memory.full;
        for Item { reading, .. } in new {
            matched.clear();
            let order = newest.pass(reading, || self.last_of(reading));
            let needs_device = set.needs_device(&reading.sensor);
            let device = needs_device.then(|| self.fleet.device(&reading.device).ok()).flatten();
            if let Some(order) = order {
                let about = (device.as_deref(), order);
                set.evaluate(reading, about, &mut self.memory, &mut matched);
            }
            evaluated.rules += set.count(&reading.sensor) as u64;
            if !matched.is_empty() {
                self.load_quiet(&matched, &reading.device).await?;
                for matched in &matched {
                    let rule = matched.rule;
                    if self.is_due(rule, reading, &evaluated.alerts).await? {
                        evaluated.alerts.push(self.raise(matched, reading));
                        if rule.text.is_once {
                            self.memory.raised(&reading.device, (rule.id, rule.version));
                        }
                    }
                }
            }
            evaluated.count += 1;
            if evaluated.alerts.len() >= config.batch_alerts_max {
                break;
            }
        }
        let meters = &self.fleet.house.meters;
        meters.rules_late.inc_by(newest.late);
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
        raised: &[(Alert, Vec<Notice>)],
    ) -> Result<bool> {
        let (time, cooldown) = (reading.time, rule.text.cooldown);
        let quiet = self.quiet.get_mut(&*reading.device).and_then(|known| known.get_mut(&rule.id));
        let Some(quiet) = quiet else { return Ok(true) };
        let verdict = match quiet.verdict(time, cooldown) {
            Verdict::Unknown => {
                // Alerts of this batch are in no row yet.
                let near = raised.iter().any(|(alert, _)| {
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

    fn raise(&self, matched: &Matched<'_>, reading: &Reading<'_>) -> (Alert, Vec<Notice>) {
        let rule = matched.rule;
        let organisation = self.fleet.organisation;
        let alert = Alert {
            id: event_id(organisation, rule.id, reading, 0),
            rule: rule.id,
            rule_name: rule.text.name.clone(),
            device: reading.device.to_string(),
            sensor: reading.sensor.to_string(),
            time: reading.time,
            values: reading.values_json(),
            raised: self.fleet.house.base.clock.now(),
            mail_error: None,
            why: Some(why(matched)),
            handling: store::Handling::default(),
        };
        let body = self.mail_body(matched, reading);
        let notice = |to: Recipient, part: u64| Notice {
            organisation,
            event: "alert.raised",
            to,
            subject: format!("{}: {}", rule.text.name, reading.device),
            body: body.clone(),
            occurred: reading.time,
            data: alert.to_json(),
            key: event_id(organisation, rule.id, reading, part),
        };
        let mut notices = vec![notice(Recipient::Subscribers, 0)];
        for (action, part) in rule.text.actions.iter().zip(1..) {
            let to = match action {
                Deed::Email { to } => Recipient::Email(to.clone()),
                Deed::Endpoint { endpoint } => Recipient::Endpoint(endpoint.clone()),
            };
            notices.push(notice(to, part));
        }
        (alert, notices)
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

    async fn bury(&self, poison: &[Poison<'_>]) -> Result<()> {
        let letters = poison.iter().map(|Poison { offset, value, refusal }| {
            let source = format!("{}/{offset}", self.source);
            self.fleet.letter(&source, refusal, value, "")
        });
        let letters = letters.collect();
        self.fleet.bury(letters, poison.iter().map(|poison| &poison.refusal)).await?;
        self.at(Step::Buried).await
    }

    /// The rows of the last readings that these make: those that are there for the first time, and those that move.
    fn series(&self, new: &[Item<'_>]) -> (Vec<Series>, Vec<Series>) {
        let mut latest = HashMap::<(&str, &str), &Item<'_>>::new();
        for item in new {
            let series = (&*item.reading.device, &*item.reading.sensor);
            let so_far = latest.entry(series).or_insert(item);
            if item.reading.time > so_far.reading.time {
                *so_far = item;
            }
        }
        let (mut fresh, mut moved) = (Vec::new(), Vec::new());
        for Item { reading, received, .. } in latest.into_values() {
            let row = || Series {
                device: reading.device.to_string(),
                sensor: reading.sensor.to_string(),
                time: reading.time,
                values: reading.values_json(),
                received: *received,
            };
            match self.last_of(reading) {
                None => fresh.push(row()),
                Some(last) if reading.time.micros() > last => moved.push(row()),
                Some(_) => {}
            }
        }
        (fresh, moved)
    }

    async fn commit(&mut self, commit: Commit) -> Result<()> {
        let commit = Arc::new(commit);
        let write = {
            let needs = &self.fleet.house.needs;
            let (commit, notifier) = (commit.clone(), needs.notifier.clone());
            let results = needs.results.for_organisation(commit.organisation);
            async move |tx: &mut Tx| {
                let raised = store::commit(tx, &commit, &*notifier).await?;
                if !raised.is_empty() {
                    results.bump(tx, &[ALERTS]).await?;
                }
                Ok::<_, Error>(raised)
            }
        };
        let raised = self.fleet.house.needs.db.write(write).await?;
        for series in commit.new_series.iter().chain(&commit.moved_series) {
            let sensors = self.last.entry(series.device.clone()).or_default();
            sensors.insert(series.sensor.clone(), series.time.micros());
        }
        self.next = commit.next;
        let meters = &self.fleet.house.meters;
        meters.alerts.inc_by(raised.len() as u64);
        for alert in raised.iter().filter(|alert| alert.mail_error.is_some()) {
            meters.mails_refused.inc();
            tracing::warn!(alert = %alert.id, error = alert.mail_error, "a mail was not taken");
        }
        Ok(())
    }

    async fn append<'b>(
        &self,
        last_offset: u64,
        new: impl Iterator<Item = &'b Item<'b>>,
    ) -> Result<()> {
        let mut rows = self.fleet.table.rows_builder();
        for Item { reading, .. } in new {
            for (name, value) in &reading.values {
                rows.push(&[
                    lake::Value::Text(&reading.device),
                    lake::Value::Text(&reading.sensor),
                    lake::Value::Time(reading.time),
                    lake::Value::Text(name),
                    lake::Value::Float(*value),
                ])?;
            }
        }
        Ok(self.fleet.table.append(self.source, last_offset, rows).await?)
    }

    fn count(&self, new: &[Item<'_>], repeated: u64) {
        let (meters, now) = (&self.fleet.house.meters, self.fleet.house.base.clock.now());
        meters.stored.inc_by(new.len() as u64);
        meters.repeated.inc_by(repeated);
        self.fleet.rate.note(now, new.len() as u64);
        for received in new.iter().filter_map(|item| item.received) {
            meters.seconds.observe(now.since(received).as_secs_f64());
        }
    }

    #[cfg(test)]
    async fn at(&self, step: Step) -> Result<()> {
        self.fleet.house.hook.at(step).await
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_async, reason = "tests wait here")]
    async fn at(&self, _: Step) -> Result<()> {
        Ok(())
    }
}

fn identity<'b>(item: &'b Item<'_>) -> (&'b str, &'b str, i64) {
    let Reading { device, sensor, time, .. } = &item.reading;
    (device, sensor, time.micros())
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
