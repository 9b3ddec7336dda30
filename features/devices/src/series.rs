//! What a value of a device was over a span of time, as points for a chart: from roll-ups where these are whole, from the
//! readings themselves elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use base::Timestamp;
use lake::Format;
use relational::Read;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::rollup::{DAY, Width, day_of, day_start, rows};
use crate::{Error, Fault, Result};

/// How fine an answer is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resolution {
    /// The finest that has no more points than are wanted.
    #[default]
    Auto,
    Raw,
    Minute,
    Hour,
    Day,
}

/// Which points.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub device: String,
    pub sensor: String,
    pub name: String,
    pub from: Timestamp,
    pub to: Timestamp,
    pub resolution: Resolution,
    pub points: usize,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Series {
    /// What the points are made of: readings, or roll-ups.
    pub resolution: Resolution,
    /// The time of one point; 0 where each is a reading.
    pub step_seconds: u64,
    pub points: Vec<Point>,
    /// There are more points than are wanted: the rest begins after the last one.
    pub is_truncated: bool,
}

/// The values that begin at a time.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Point {
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    pub count: u64,
    pub min: f64,
    pub max: f64,
    /// Null where their sum is beyond what a 64-bit number holds.
    pub avg: Option<f64>,
    pub last: f64,
}

/// A text in SQL.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Steps that people read easily, in seconds.
const STEPS: [u64; 16] = [
    60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    2_592_000, 31_536_000,
];

/// What is read, readings where there is no width, and the time of one point, 0 where each reading is one.
type Plan = (Option<Width>, Duration);

fn plan(wanted: &Wanted) -> Plan {
    let step = match wanted.resolution {
        Resolution::Raw => return (None, Duration::ZERO),
        Resolution::Minute => Width::Minute.time(),
        Resolution::Hour => Width::Hour.time(),
        Resolution::Day => Width::Day.time(),
        Resolution::Auto => finest(wanted),
    };
    let width = Width::ALL.into_iter().rev().find(|width| {
        let width = width.time();
        step >= width && step.as_secs().is_multiple_of(width.as_secs())
    });
    (width, step)
}

/// The finest step with no more points than are wanted, where they may be two: a span can always reach over a border.
fn finest(wanted: &Wanted) -> Duration {
    let (from, to, most) = (wanted.from, wanted.to, wanted.points.max(2) as u128);
    let day = DAY.as_secs();
    let least = to.since(from).as_secs().div_ceil(wanted.points.max(1) as u64);
    let beyond = (least.div_ceil(day)..).map(|days| days * day);
    let mut steps = STEPS.into_iter().chain(beyond).map(Duration::from_secs);
    let count = |step: Duration| {
        ceiling(to, step).since(floor(from, step)).as_micros() / step.as_micros().max(1)
    };
    let fits = |step: &Duration| !step.is_zero() && count(*step) <= most;
    steps.find(fits).unwrap_or(Duration::MAX)
}

/// Reads something else where what was planned does not reach back to the beginning any more: the readings, or wider roll-ups;
/// of all that reach as far the finest, and otherwise what reaches farthest.
fn reaching(
    wanted: &Wanted,
    (width, step): Plan,
    first_day: impl Fn(Option<Width>) -> i64,
) -> Plan {
    let Some(width) = width else { return (None, step) };
    let day = day_of(floor(wanted.from, step));
    let is_free = wanted.resolution == Resolution::Auto;
    let wider = Width::ALL.into_iter().filter(|wider| is_free && *wider > width);
    let sources = [Some(width), None].into_iter().chain(wider.map(Some));
    let found = sources.min_by_key(|source| first_day(*source).max(day)).flatten();
    let of = found.map_or(1, |width| width.time().as_secs());
    (found, Duration::from_secs(step.as_secs().next_multiple_of(of)))
}

fn floor(time: Timestamp, step: Duration) -> Timestamp {
    let step = i64::try_from(step.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(time.micros() - time.micros().rem_euclid(step))
}

fn ceiling(time: Timestamp, step: Duration) -> Timestamp {
    let start = floor(time, step);
    if start == time { time } else { start.plus(step) }
}

/// What can be written as a time, in microseconds: the first and the last moment of years of four digits.
const WRITTEN: [i64; 2] = [-62_135_596_800_000_000, 253_402_207_200_000_000];

fn between(from: Timestamp, to: Timestamp) -> String {
    let [first, last] = WRITTEN.map(Timestamp::from_micros);
    let (from, to) = (from.clamp(first, last), to.clamp(first, last));
    format!("time >= '{from}' AND time < '{to}'")
}

/// The spans of days that follow one another.
fn spans(days: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let mut spans: Vec<(i64, i64)> = Vec::new();
    for day in days {
        match spans.last_mut() {
            Some((_, end)) if *end == *day => *end += 1,
            _ => spans.push((*day, *day + 1)),
        }
    }
    spans
}

/// `waiting` are the days whose roll-ups lack something; none at all when only readings are read.
fn sql(wanted: &Wanted, (width, step): Plan, waiting: Option<&BTreeSet<i64>>) -> String {
    let Wanted { device, sensor, name, from, to, .. } = wanted;
    let of = format!(
        "device = {} AND sensor = {} AND name = {}",
        quoted(device),
        quoted(sensor),
        quoted(name)
    );
    let limit = wanted.points + 1;
    let readings = |when: &str| {
        format!(
            "SELECT time, CAST(1 AS BIGINT) AS \"count\", value AS \"min\", value AS \"max\", value AS \"sum\", value AS \"last\", time AS last_time \
             FROM readings WHERE {of} AND {when}"
        )
    };
    if step.is_zero() {
        return format!(
            "SELECT CAST(time AS BIGINT), \"count\", \"min\", \"max\", \"sum\", \"last\" FROM ({}) ORDER BY 1 LIMIT {limit}",
            readings(&between(*from, *to))
        );
    }
    // Whole steps, so that readings say the same as roll-ups.
    let (from, to) = (floor(*from, step), ceiling(*to, step));
    let source = match width.zip(waiting) {
        None => readings(&between(from, to)),
        Some((width, waiting)) => {
            let spans = spans(waiting);
            let in_spans = spans
                .iter()
                .map(|(first, end)| format!("({})", between(day_start(*first), day_start(*end))));
            let in_spans: Vec<String> = in_spans.collect();
            let in_spans =
                if in_spans.is_empty() { "FALSE".to_owned() } else { in_spans.join(" OR ") };
            let when = between(from, to);
            format!(
                "SELECT time, \"count\", \"min\", \"max\", \"sum\", \"last\", last_time FROM {} WHERE {of} AND {when} AND NOT ({in_spans}) \
                 UNION ALL {}",
                width.table_name(),
                readings(&format!("{when} AND ({in_spans})"))
            )
        }
    };
    let micros = step.as_micros();
    format!(
        "SELECT CAST(time AS BIGINT) / {micros} * {micros}, sum(\"count\"), min(\"min\"), max(\"max\"), sum(\"sum\"), \
         last_value(\"last\" ORDER BY last_time) \
         FROM ({source}) GROUP BY 1 ORDER BY 1 LIMIT {limit}"
    )
}

#[derive(Deserialize)]
struct Rows {
    /// An infinite sum is none in JSON.
    rows: Vec<(i64, u64, f64, f64, Option<f64>, f64)>,
}

impl Fleet {
    pub(crate) async fn series(&self, wanted: Wanted) -> Result<Series> {
        self.device(&wanted.device)?;
        let sensor = self.sensor(&wanted.sensor)?;
        let most = self.house.config.series_points_max;
        let mut faults = Vec::new();
        if wanted.from >= wanted.to {
            faults.push(Fault::new("to", "not after the beginning"));
        }
        if !(1..=most).contains(&wanted.points) {
            faults.push(Fault::new("points", format!("not from 1 to {most}")));
        }
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let mut plan = plan(&wanted);
        let mut waiting = None;
        // They stay true when nobody asks for them any more, since days that lack something are marked all the same.
        if let Some(readings) = self.roll_ups.kept_from(&sensor.name) {
            let retention = sensor.retention.unwrap_or_default();
            plan = reaching(&wanted, plan, |width| match width {
                Some(width) => self.first_day_of(&retention, width),
                None => day_of(readings),
            });
            if plan.0.is_some() {
                waiting = Some(self.waiting(&wanted, plan.1).await?);
            }
        }
        let (width, step) = plan;
        let sql = sql(&wanted, plan, waiting.as_ref());
        let lake = &self.house.needs.lake;
        let answer = lake.query_encoded(self.organisation, &sql, Format::Json).await?;
        let answer: Rows = serde_json::from_slice(&answer.bytes)
            .map_err(|_| Error::damaged("an answer of the lake"))?;
        let is_truncated = answer.rows.len() > wanted.points;
        let points = answer.rows.into_iter().take(wanted.points).map(
            |(time, count, min, max, sum, last)| Point {
                time: Timestamp::from_micros(time).to_string(),
                count,
                min,
                max,
                avg: sum.map(|sum| sum / count as f64),
                last,
            },
        );
        let resolution = match width.filter(|_| waiting.is_some()) {
            None => Resolution::Raw,
            Some(Width::Minute) => Resolution::Minute,
            Some(Width::Hour) => Resolution::Hour,
            Some(Width::Day) => Resolution::Day,
        };
        let points = points.collect();
        Ok(Series { resolution, step_seconds: step.as_secs(), points, is_truncated })
    }

    /// The days of the span whose roll-ups lack something.
    async fn waiting(&self, wanted: &Wanted, step: Duration) -> Result<BTreeSet<i64>> {
        let (organisation, name) = (self.organisation, wanted.sensor.clone());
        let ask = async move |read: &mut Read| rows::waiting(read, organisation, &name).await;
        let waiting = self.house.needs.db.read(ask).await?;
        let days = day_of(floor(wanted.from, step))..=day_of(ceiling(wanted.to, step));
        Ok(waiting.into_iter().filter(|day| days.contains(day)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(seconds: u64, points: usize, resolution: Resolution) -> Wanted {
        let from = Timestamp::from_micros(0);
        Wanted {
            device: "a".into(),
            sensor: "s".into(),
            name: "t".into(),
            from,
            to: from.plus(Duration::from_secs(seconds)),
            resolution,
            points,
        }
    }

    #[test]
    fn a_span_is_read_in_the_coarsest_roll_ups_that_are_fine_enough() {
        let plan = |seconds, points| {
            let (width, step) = plan(&wanted(seconds, points, Resolution::Auto));
            (width, step.as_secs())
        };
        assert_eq!(plan(60, 500), (Some(Width::Minute), 60));
        assert_eq!(plan(86_400, 1_440), (Some(Width::Minute), 60));
        assert_eq!(plan(86_400, 1_439), (Some(Width::Minute), 120));
        assert_eq!(plan(86_400, 24), (Some(Width::Hour), 3_600));
        assert_eq!(plan(86_400 * 365, 500), (Some(Width::Day), 86_400));
        assert_eq!(plan(86_400 * 365, 800), (Some(Width::Hour), 43_200));
    }

    #[test]
    fn a_span_off_the_grid_has_no_more_points_than_are_wanted() {
        for (from, seconds, points) in [
            (37_200, 86_400, 24),
            (37_200, 86_400, 1),
            (-3_600, 7_200, 1),
            (1, 86_400 * 365 * 300, 7),
            (59, 60, 2),
            (0, 1, 1),
        ] {
            let mut wanted = wanted(seconds, points, Resolution::Auto);
            wanted.from = Timestamp::from_micros(from * 1_000_000);
            wanted.to = wanted.from.plus(Duration::from_secs(seconds));
            let (_, step) = plan(&wanted);
            let all = ceiling(wanted.to, step).since(floor(wanted.from, step));
            let count = all.as_micros() / step.as_micros();
            assert!(count <= points.max(2) as u128, "{from} {seconds} {points}: {step:?}");
        }
        let mut day = wanted(86_400, 24, Resolution::Auto);
        day.from = Timestamp::from_micros(37_200 * 1_000_000);
        day.to = day.from.plus(DAY);
        assert_eq!(plan(&day).1, Duration::from_hours(2));
    }

    #[test]
    fn what_is_kept_no_more_is_read_from_what_is_kept_longer() {
        let day = |day: i64| day_start(day);
        let mut wanted = wanted(6 * 3_600, 500, Resolution::Auto);
        (wanted.from, wanted.to) = (day(100), day(100).plus(Duration::from_hours(6)));
        let kept = |minutes, readings, hours, days| {
            move |width: Option<Width>| match width {
                None => readings,
                Some(Width::Minute) => minutes,
                Some(Width::Hour) => hours,
                Some(Width::Day) => days,
            }
        };
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let found = |wanted: &Wanted, kept: &dyn Fn(Option<Width>) -> i64| {
            reaching(wanted, plan(wanted), kept)
        };
        assert_eq!(found(&wanted, &kept(100, 0, 0, 0)), (Some(Width::Minute), minute));
        assert_eq!(found(&wanted, &kept(101, 100, 0, 0)), (None, minute));
        assert_eq!(found(&wanted, &kept(101, 101, 0, 0)), (Some(Width::Hour), hour));
        assert_eq!(found(&wanted, &kept(101, 101, 101, 0)), (Some(Width::Day), DAY));
        // Nothing reaches so far: what reaches farthest.
        assert_eq!(found(&wanted, &kept(300, 200, 150, 180)), (Some(Width::Hour), hour));
        wanted.resolution = Resolution::Minute;
        assert_eq!(found(&wanted, &kept(101, 101, 0, 0)), (Some(Width::Minute), minute));
        assert_eq!(found(&wanted, &kept(101, 7, 0, 0)), (None, minute));
    }

    #[test]
    fn times_that_cannot_be_written_are_not_asked_for() {
        let mut wanted = wanted(1, 1, Resolution::Day);
        wanted.from = "9999-12-30T12:00:00Z".parse().unwrap();
        wanted.to = "9999-12-30T13:00:00Z".parse().unwrap();
        let text = sql(&wanted, plan(&wanted), None);
        assert!(text.contains("time < '9999-12-30T22:00:00Z'"), "{text}");
    }

    #[test]
    fn days_that_follow_one_another_are_one_span() {
        assert_eq!(spans(&BTreeSet::new()), []);
        assert_eq!(spans(&[1, 2, 3, 7, 9, 10].into()), [(1, 4), (7, 8), (9, 11)]);
    }
}
