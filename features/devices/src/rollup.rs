//! Roll-ups: what readings say by the minute, the hour and the day, and when the readings themselves are deleted.
//!
//! A roll-up is made anew from all readings of a sensor and a UTC day, and takes the place of the one before in one commit of
//! the lake, so that it can be made again after a crash. Pipelines mark the days of new readings in the commit that takes
//! them; a late reading marks an old day. Whoever rolls a day up
//! 1. takes its marks, in rows, so that a reading which comes from here on marks it again,
//! 2. waits until every pipeline has begun another batch: what was committed under the old marks is in the lake then,
//! 3. reads the day, exchanges its roll-ups, and lets go of the mark.
//!
//! Readings are deleted by the day, after their roll-ups. First the rows say from when on readings are taken, and after each
//! pipeline has begun another batch under that, no day before it is marked again: what is marked is rolled up once more, and
//! then it goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use base::{OrganisationId, Timestamp};
use jobs::{Attempt, Failed, Jobs, Kind, NewSchedule};
use lake::{ColumnType, Format, Lake, Table, TableSpec, Value};
use parking_lot::RwLock;
use relational::{Db, Read, Tx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::pipeline::Step;
use crate::{Devices, Error, Result, store};

pub(crate) mod rows;

/// The kind of job that rolls readings up and deletes old ones, of every organisation.
pub const ROLL_UP: &str = "devices.roll-up";
/// When it runs, by its name in the default organisation.
pub const ROLL_UP_SCHEDULE: &str = "devices-roll-up";

const EVERY: &str = "*/10 * * * *";
pub(crate) const DAY: Duration = Duration::from_hours(24);
const DAY_MICROS: i64 = 86_400_000_000;

/// How many days the readings of a sensor are kept, and how many their roll-ups; for ever where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "they are the names in the API")]
pub(crate) struct Retention {
    /// Readings as they came. They are deleted by the UTC day, when that is rolled up.
    #[schemars(range(min = 1, max = 36_500))]
    pub raw_days: Option<u32>,
    /// Roll-ups by the minute.
    #[schemars(range(min = 1, max = 36_500))]
    pub minute_days: Option<u32>,
    /// Roll-ups by the hour.
    #[schemars(range(min = 1, max = 36_500))]
    pub hour_days: Option<u32>,
    /// Roll-ups by the day.
    #[schemars(range(min = 1, max = 36_500))]
    pub day_days: Option<u32>,
}

const DAYS_MAX: u32 = 36_500;

impl Retention {
    /// The name of a part that is not between a day and a hundred years.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let parts = [
            ("raw_days", self.raw_days),
            ("minute_days", self.minute_days),
            ("hour_days", self.hour_days),
            ("day_days", self.day_days),
        ];
        let is_wrong = |days: u32| !(1..=DAYS_MAX).contains(&days);
        parts.into_iter().find(|(_, days)| days.is_some_and(is_wrong)).map(|(name, _)| name)
    }

    fn of(&self, width: Width) -> Option<u32> {
        match width {
            Width::Minute => self.minute_days,
            Width::Hour => self.hour_days,
            Width::Day => self.day_days,
        }
    }
}

/// How much time one roll-up is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    Minute,
    Hour,
    Day,
}

impl Width {
    pub(crate) const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    pub(crate) fn table_name(self) -> &'static str {
        match self {
            Self::Minute => "readings_1m",
            Self::Hour => "readings_1h",
            Self::Day => "readings_1d",
        }
    }

    pub(crate) fn time(self) -> Duration {
        match self {
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
            Self::Day => DAY,
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The beginning of the UTC day.
pub(crate) fn day_start(day: i64) -> Timestamp {
    Timestamp::from_micros(day.saturating_mul(DAY_MICROS))
}

pub(crate) fn day_of(time: Timestamp) -> i64 {
    time.micros().div_euclid(DAY_MICROS)
}

/// One row for each device, value and time that has readings.
pub(crate) fn table(width: Width) -> TableSpec {
    TableSpec::new(
        width.table_name(),
        &[
            ("device", ColumnType::Text),
            ("sensor", ColumnType::Text),
            ("time", ColumnType::Timestamp),
            ("name", ColumnType::Text),
            ("count", ColumnType::Int),
            ("min", ColumnType::Float),
            ("max", ColumnType::Float),
            ("sum", ColumnType::Float),
            ("avg", ColumnType::Float),
            ("last", ColumnType::Float),
            ("last_time", ColumnType::Timestamp),
        ],
        "time",
        &["device", "sensor", "time", "name"],
    )
}

/// The roll-ups of one organisation's readings.
pub(crate) struct RollUps {
    /// By [`Width::ALL`].
    tables: [Table; 3],
    /// Raised to have every pipeline begin another batch.
    epoch: watch::Sender<u64>,
    /// The epoch in which each pipeline began its last batch; 0 while none runs.
    begun: Vec<watch::Sender<u64>>,
    /// From when on readings are taken, by sensor.
    forgotten: RwLock<HashMap<String, Timestamp>>,
}

/// What one run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RolledUp {
    /// Days of sensors that were rolled up.
    pub days: usize,
    /// Rows of readings and of roll-ups that were deleted.
    pub deleted: usize,
    /// More is to be done.
    pub has_more: bool,
}

/// Says in which epoch a pipeline began its batch; that there is none when it ends, however it ends.
pub(crate) struct Beginning<'f>(&'f watch::Sender<u64>);

impl Beginning<'_> {
    pub(crate) fn begin(&self, epoch: u64) {
        self.0.send_replace(epoch);
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.0.send_replace(0);
    }
}

impl RollUps {
    pub(crate) async fn open(
        lake: &Lake,
        (db, organisation): (&Db, OrganisationId),
        partitions: u32,
    ) -> Result<Self> {
        let open = async |width| lake.table(organisation, table(width)).await;
        let tables =
            [open(Width::Minute).await?, open(Width::Hour).await?, open(Width::Day).await?];
        let load = async move |read: &mut Read| rows::forgotten(read, organisation).await;
        Ok(Self {
            tables,
            epoch: watch::Sender::new(1),
            begun: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            forgotten: RwLock::new(db.read(load).await?),
        })
    }

    pub(crate) fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    pub(crate) fn beginning(&self, partition: u32) -> Beginning<'_> {
        Beginning(&self.begun[partition as usize])
    }

    /// From when on readings of the sensor are taken.
    pub(crate) fn kept_from(&self, sensor: &str) -> Option<Timestamp> {
        self.forgotten.read().get(sensor).copied()
    }

    fn table(&self, width: Width) -> &Table {
        &self.tables[width as usize]
    }

    /// Waits until every pipeline has begun another batch.
    async fn turn(&self, within: Duration) -> Result<()> {
        let mut epoch = 0;
        self.epoch.send_modify(|now| {
            *now += 1;
            epoch = *now;
        });
        let all = async {
            for begun in &self.begun {
                let mut begun = begun.subscribe();
                let reached = begun.wait_for(|begun| *begun >= epoch).await;
                reached.expect("the sender lives as long as this");
            }
        };
        tokio::time::timeout(within, all)
            .await
            .map_err(|_| Error::Unavailable("a pipeline takes long for a batch, or does not run"))
    }
}

/// What readings say in one span of time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    count: i64,
    min: f64,
    max: f64,
    sum: f64,
    last: f64,
    last_time: Timestamp,
}

impl Cell {
    fn of(time: Timestamp, value: f64) -> Self {
        Self { count: 1, min: value, max: value, sum: value, last: value, last_time: time }
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        // Beyond all numbers it stays, whatever comes: a sum of both infinities would be none.
        if !self.sum.is_finite() {
            self.sum = f64::INFINITY;
        }
        if other.last_time >= self.last_time {
            (self.last, self.last_time) = (other.last, other.last_time);
        }
    }
}

/// By device, name of the value, and beginning in microseconds.
type Cells = BTreeMap<(Box<str>, Box<str>), BTreeMap<i64, Cell>>;

fn add(cells: &mut BTreeMap<i64, Cell>, width: Width, time: i64, cell: &Cell) -> bool {
    let width = micros(width.time());
    let mut is_new = false;
    let start = time - time.rem_euclid(width);
    let known = cells.entry(start).or_insert_with(|| {
        is_new = true;
        *cell
    });
    if !is_new {
        known.add(cell);
    }
    is_new
}

/// The readings of a day by the minute.
struct Minutes {
    sensor: String,
    cells: Cells,
    count: usize,
    most: usize,
}

impl Minutes {
    /// Takes a row of the readings' table.
    fn see(&mut self, row: &[Value<'_>]) {
        let [
            Value::Text(device),
            Value::Text(sensor),
            Value::Time(time),
            Value::Text(name),
            Value::Float(value),
        ] = *row
        else {
            return;
        };
        if sensor != self.sensor || self.count > self.most {
            return;
        }
        // Readings follow one another by time, so mostly the series is another one each time.
        let series = (Box::from(device), Box::from(name));
        let cells = self.cells.entry(series).or_default();
        let is_new = add(cells, Width::Minute, time.micros(), &Cell::of(time, value));
        self.count += usize::from(is_new);
    }
}

fn wider(cells: &Cells, width: Width) -> Cells {
    let wider = |cells: &BTreeMap<i64, Cell>| {
        let mut sums = BTreeMap::new();
        for (time, cell) in cells {
            add(&mut sums, width, *time, cell);
        }
        sums
    };
    cells.iter().map(|(series, cells)| (series.clone(), wider(cells))).collect()
}

fn lake_rows(table: &Table, sensor: &str, cells: &Cells) -> Result<lake::Rows> {
    let mut rows = table.rows_builder();
    for ((device, name), cells) in cells {
        for (time, cell) in cells {
            let Cell { count, min, max, sum, last, last_time } = *cell;
            rows.push(&[
                Value::Text(device),
                Value::Text(sensor),
                Value::Time(Timestamp::from_micros(*time)),
                Value::Text(name),
                count.into(),
                min.into(),
                max.into(),
                sum.into(),
                (sum / count as f64).into(),
                last.into(),
                last_time.into(),
            ])?;
        }
    }
    Ok(rows)
}

impl Fleet {
    /// Rolls up what is marked and deletes what is old, as much as one run may, and gives the first error. What one sensor or
    /// one day meets is no reason to leave the others.
    pub(crate) async fn roll_up(&self, is_wanted: impl Fn() -> bool) -> (RolledUp, Option<Error>) {
        let (mut done, mut failed) = (RolledUp::default(), None);
        let sensors: Vec<(String, Retention)> = self.registry(|registry| {
            let all = registry.sensors.values();
            all.filter_map(|sensor| Some((sensor.name.clone(), sensor.retention?))).collect()
        });
        for (sensor, retention) in sensors {
            if !is_wanted() {
                done.has_more = true;
                break;
            }
            if let Err(error) =
                self.roll_up_sensor((&sensor, &retention), (&mut done, &is_wanted)).await
            {
                let organisation = self.organisation;
                tracing::error!(%organisation, sensor, %error, "readings are not rolled up");
                failed.get_or_insert(error);
            }
        }
        (done, failed)
    }

    async fn roll_up_sensor(
        &self,
        (sensor, retention): (&str, &Retention),
        (done, is_wanted): (&mut RolledUp, &impl Fn() -> bool),
    ) -> Result<()> {
        self.find(sensor).await?;
        let marked = self.roll_up_marked(sensor, i64::MAX, (&mut *done, is_wanted)).await;
        let raw = self.forget_readings((sensor, retention), (&mut *done, is_wanted)).await;
        let rolled_up = self.forget_roll_ups((sensor, retention), (&mut *done, is_wanted)).await;
        done.has_more |= !is_wanted();
        marked.and(raw).and(rolled_up)
    }

    /// Marks the days that were there before days were marked.
    async fn find(&self, sensor: &str) -> Result<()> {
        if self.roll_ups.kept_from(sensor).is_some() {
            return Ok(());
        }
        // What was committed before days were marked is in the lake once every pipeline has begun a batch.
        self.roll_ups.turn(self.house.config.roll_up_wait_max).await?;
        let days = self.days_of(&self.table, sensor, i64::MAX).await?;
        let (organisation, name) = (self.organisation, sensor.to_owned());
        let found = async move |tx: &mut Tx| rows::found(tx, organisation, &name, &days).await;
        self.house.needs.db.write(found).await?;
        let start = Timestamp::from_micros(i64::MIN);
        self.roll_ups.forgotten.write().entry(sensor.to_owned()).or_insert(start);
        Ok(())
    }

    /// The days before one for which a table has rows of the sensor. Few days are asked for at once, so that a large table takes
    /// many queries and none of them long.
    async fn days_of(&self, table: &Table, sensor: &str, before: i64) -> Result<BTreeSet<i64>> {
        const DAYS_AT_ONCE: usize = 32;
        let all: Vec<i64> = table.days().range(..before).copied().collect();
        let (name, sensor) = (&table.spec().name, crate::series::quoted(sensor));
        let mut found = BTreeSet::new();
        for days in all.chunks(DAYS_AT_ONCE) {
            let (Some(first), Some(last)) = (days.first(), days.last()) else { continue };
            let (from, to) = (day_start(*first), day_start(*last + 1));
            let sql = format!(
                "SELECT DISTINCT CAST(time AS BIGINT) / {DAY_MICROS} FROM {name} \
                 WHERE sensor = {sensor} AND time >= '{from}' AND time < '{to}'"
            );
            let lake = &self.house.needs.lake;
            let answer = lake.query_encoded(self.organisation, &sql, Format::Json).await?;
            let answer: Days = serde_json::from_slice(&answer.bytes)
                .map_err(|_| Error::damaged("an answer of the lake"))?;
            found.extend(answer.rows.into_iter().map(|(day,)| day));
        }
        Ok(found)
    }

    /// Rolls up the marked days before `until`, some at a time.
    async fn roll_up_marked(
        &self,
        sensor: &str,
        until: i64,
        (done, is_wanted): (&mut RolledUp, &impl Fn() -> bool),
    ) -> Result<()> {
        let (organisation, db) = (self.organisation, &self.house.needs.db);
        let most = self.house.config.roll_up_days_max;
        let (mut days, mut failed) = (i64::MIN..until, None);
        while is_wanted() {
            let (name, of) = (sensor.to_owned(), days.clone());
            let take =
                async move |tx: &mut Tx| rows::take(tx, organisation, (&name, &of), most).await;
            let taken = db.write(take).await?;
            let Some(last) = taken.last().copied() else { break };
            self.at(Step::Taken).await?;
            self.roll_ups.turn(self.house.config.roll_up_wait_max).await?;
            for day in taken {
                if !is_wanted() {
                    break;
                }
                // One that cannot be rolled up stays marked, and the others come all the same.
                if let Err(error) = self.roll_up_day(sensor, day).await {
                    failed.get_or_insert(error);
                    continue;
                }
                let name = sensor.to_owned();
                let finish =
                    async move |tx: &mut Tx| rows::finish(tx, organisation, &name, day).await;
                db.write(finish).await?;
                done.days += 1;
            }
            // Days that are marked again meanwhile, or that failed, come with the next run.
            days.start = last + 1;
        }
        failed.map_or(Ok(()), Err)
    }

    async fn roll_up_day(&self, sensor: &str, day: i64) -> Result<()> {
        let time = day_start(day);
        let most = self.house.config.roll_up_cells_max;
        let minutes = Minutes { sensor: sensor.to_owned(), cells: Cells::new(), count: 0, most };
        let Minutes { cells, count, .. } =
            self.table.visit_day(time, minutes, Minutes::see).await?;
        if count > most {
            return Err(Error::TooMany(
                "a day of a sensor has more minutes than devices.roll_up_cells_max",
            ));
        }
        for width in Width::ALL {
            let table = self.roll_ups.table(width);
            let rows = match width {
                Width::Minute => lake_rows(table, sensor, &cells)?,
                _ => lake_rows(table, sensor, &wider(&cells, width))?,
            };
            table.exchange(time, ("sensor", sensor), rows).await?;
            self.at(Step::Exchanged).await?;
        }
        Ok(())
    }

    /// Deletes readings that are older than they are kept.
    async fn forget_readings(
        &self,
        (sensor, retention): (&str, &Retention),
        (done, is_wanted): (&mut RolledUp, &impl Fn() -> bool),
    ) -> Result<()> {
        let Some(days) = retention.raw_days else { return Ok(()) };
        let first = self.first_day(days);
        let before = day_start(first);
        let (organisation, db, name) = (self.organisation, &self.house.needs.db, sensor.to_owned());
        let forget = async move |tx: &mut Tx| rows::forget(tx, organisation, &name, before).await;
        db.write(forget).await?;
        {
            let mut forgotten = self.roll_ups.forgotten.write();
            let known = forgotten.entry(sensor.to_owned()).or_insert(before);
            *known = (*known).max(before);
        }
        self.at(Step::Forgotten).await?;
        let old = self.days_of(&self.table, sensor, first).await?;
        if old.is_empty() {
            return Ok(());
        }
        // From here on none of them is marked again.
        self.roll_ups.turn(self.house.config.roll_up_wait_max).await?;
        let marked = self.roll_up_marked(sensor, first, (&mut *done, is_wanted)).await;
        let name = sensor.to_owned();
        let ask = async move |read: &mut Read| rows::waiting(read, organisation, &name).await;
        let waiting = db.read(ask).await?;
        for day in old.into_iter().filter(|day| !waiting.contains(day)) {
            if !is_wanted() {
                break;
            }
            let (time, rows) = (day_start(day), self.table.rows_builder());
            done.deleted += self.table.exchange(time, ("sensor", sensor), rows).await?;
            self.at(Step::Deleted).await?;
        }
        marked
    }

    /// Deletes roll-ups that are older than they are kept.
    async fn forget_roll_ups(
        &self,
        (sensor, retention): (&str, &Retention),
        (done, is_wanted): (&mut RolledUp, &impl Fn() -> bool),
    ) -> Result<()> {
        for width in Width::ALL {
            let Some(days) = retention.of(width) else { continue };
            let table = self.roll_ups.table(width);
            for day in self.days_of(table, sensor, self.first_day(days)).await? {
                if !is_wanted() {
                    return Ok(());
                }
                let (time, rows) = (day_start(day), table.rows_builder());
                done.deleted += table.exchange(time, ("sensor", sensor), rows).await?;
            }
        }
        Ok(())
    }

    /// The first day whose roll-ups are kept.
    pub(crate) fn first_day_of(&self, retention: &Retention, width: Width) -> i64 {
        retention.of(width).map_or(i64::MIN, |days| self.first_day(days))
    }

    /// The first day that is kept when so many before today are.
    fn first_day(&self, days: u32) -> i64 {
        day_of(self.house.base.clock.now()) - i64::from(days)
    }
}

#[derive(Deserialize)]
struct Days {
    rows: Vec<(i64,)>,
}

impl Devices {
    /// Has readings rolled up, and old ones deleted, by a job every ten minutes.
    pub async fn roll_up_by(&self, jobs: &Jobs) -> Result<(), jobs::Error> {
        let devices = self.clone();
        let options = Kind {
            time_max: Duration::from_hours(1),
            attempts_max: 3,
            running_max: Some(1),
            ..Kind::default()
        };
        jobs.handle(ROLL_UP, options, move |attempt: Attempt| {
            let devices = devices.clone();
            async move {
                devices.roll_up(&attempt).await?;
                Ok(attempt.done())
            }
        })?;
        let cron = EVERY.parse().expect("it is a cron");
        let schedule = NewSchedule::of(OrganisationId::DEFAULT, ROLL_UP_SCHEDULE, ROLL_UP, cron);
        jobs.keep_schedule(schedule).await
    }

    async fn roll_up(&self, attempt: &Attempt) -> Result<(), Failed> {
        let list = async |read: &mut Read| store::organisations(read).await;
        let mut first = None;
        for organisation in self.house.needs.db.read(list).await? {
            let fleet = self.fleet(organisation).await?;
            loop {
                let is_wanted = || !attempt.cancelled().is_cancelled();
                let (RolledUp { days, deleted, has_more }, failed) = fleet.roll_up(is_wanted).await;
                first = first.or(failed);
                if days + deleted > 0 {
                    attempt.log(format!(
                        "{organisation}: {days} days rolled up, {deleted} rows deleted"
                    ));
                }
                if !has_more {
                    break;
                }
                if !is_wanted() {
                    return Err(Failed::again("the server stops"));
                }
            }
        }
        first.map_or(Ok(()), |error| Err(error.into()))
    }
}

#[cfg(test)]
mod tests;
