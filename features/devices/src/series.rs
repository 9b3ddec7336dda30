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
    pub avg: f64,
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

/// What is read, and the time of one point.
fn plan(wanted: &Wanted) -> (Option<Width>, Duration) {
    let step = match wanted.resolution {
        Resolution::Raw => return (None, Duration::ZERO),
        Resolution::Minute => Width::Minute.time(),
        Resolution::Hour => Width::Hour.time(),
        Resolution::Day => Width::Day.time(),
        Resolution::Auto => {
            let span = wanted.to.since(wanted.from).as_secs();
            let least = span.div_ceil(wanted.points.max(1) as u64);
            let step = STEPS.into_iter().find(|step| *step >= least);
            Duration::from_secs(step.unwrap_or_else(|| least.next_multiple_of(DAY.as_secs())))
        }
    };
    let width = Width::ALL.into_iter().rev().find(|width| {
        let width = width.time();
        step >= width && step.as_secs().is_multiple_of(width.as_secs())
    });
    (width, step)
}

fn floor(time: Timestamp, step: Duration) -> Timestamp {
    let step = i64::try_from(step.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(time.micros() - time.micros().rem_euclid(step))
}

fn ceiling(time: Timestamp, step: Duration) -> Timestamp {
    let start = floor(time, step);
    if start == time { time } else { start.plus(step) }
}

fn between(from: Timestamp, to: Timestamp) -> String {
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

/// `waiting` are the days whose roll-ups lack something; none at all when the sensor has no roll-ups.
fn sql(
    wanted: &Wanted,
    (width, step): (Option<Width>, Duration),
    waiting: Option<&BTreeSet<i64>>,
) -> String {
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
    let Some(width) = width else {
        return format!(
            "SELECT CAST(time AS BIGINT), \"count\", \"min\", \"max\", \"sum\", \"last\" FROM ({}) ORDER BY 1 LIMIT {limit}",
            readings(&between(*from, *to))
        );
    };
    // Whole steps, so that readings say the same as roll-ups.
    let (from, to) = (floor(*from, step), ceiling(*to, step));
    let source = match waiting {
        None => readings(&between(from, to)),
        Some(waiting) => {
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
    rows: Vec<(i64, u64, f64, f64, f64, f64)>,
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
        let plan = plan(&wanted);
        let (width, step) = plan;
        // They stay true when nobody asks for them any more, since days that lack something are marked all the same.
        let is_rolled_up = self.roll_ups.kept_from(&sensor.name).is_some();
        let waiting = if is_rolled_up && width.is_some() {
            Some(self.waiting(&wanted, step).await?)
        } else {
            None
        };
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
                avg: sum / count as f64,
                last,
            },
        );
        let resolution = match (width, is_rolled_up) {
            (None, _) | (_, false) => Resolution::Raw,
            (Some(Width::Minute), _) => Resolution::Minute,
            (Some(Width::Hour), _) => Resolution::Hour,
            (Some(Width::Day), _) => Resolution::Day,
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
    fn days_that_follow_one_another_are_one_span() {
        assert_eq!(spans(&BTreeSet::new()), []);
        assert_eq!(spans(&[1, 2, 3, 7, 9, 10].into()), [(1, 4), (7, 8), (9, 11)]);
    }
}
