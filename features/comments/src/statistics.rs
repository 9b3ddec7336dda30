//! Comments by hour, day or month in the owner's time zone. Every range is bounded before anything is counted: each step
//! goes on to the next bucket, and there are at most so many.

use base::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Comments are counted by quarters of an hour, as every zone's days begin with one.
const QUARTER_MICROS: i64 = 15 * 60 * 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    Hour,
    Day,
    Month,
}

/// One stretch of time in the site's zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Bucket {
    /// When it begins there, as `2026-11-21T18`, `2026-11-21` or `2026-11`.
    pub begins: String,
    pub comments: i64,
    #[serde(skip)]
    first: i64,
}

/// The quarter of an hour that a moment falls in.
pub(crate) fn quarter(moment: Timestamp) -> i64 {
    moment.micros().div_euclid(QUARTER_MICROS)
}

/// The empty buckets from a day to a day, both included, and the quarters that they cover.
#[derive(Debug)]
pub(crate) struct Range {
    buckets: Vec<Bucket>,
    /// The first quarter that is no more in it.
    end: i64,
}

impl Range {
    pub(crate) fn new(by: By, (from, to): (&str, &str), zone: &str, most: usize) -> Result<Self> {
        let zone = TimeZone::get(zone).map_err(|_| Error::damaged("a site's time zone"))?;
        let day = |name, text: &str| {
            let day = text.parse::<Date>();
            day.map_err(|_| Error::invalid(name, "must be a day such as 2026-11-21"))
        };
        let (from, to) = (day("from", from)?, day("to", to)?);
        if from > to {
            return Err(Error::invalid("from", "is after `to`"));
        }
        let too_long = || Error::invalid("to", format!("the range has more than {most} parts"));
        // Before a single one is made: a thousand years are refused at once.
        let days = i64::from((to - from).get_days()) + 1;
        let least = match by {
            By::Hour => days * 23,
            By::Day => days,
            By::Month => days / 31,
        };
        if usize::try_from(least).unwrap_or(usize::MAX) > most {
            return Err(too_long());
        }
        let start = match by {
            By::Hour | By::Day => from.to_datetime(jiff::civil::Time::midnight()),
            By::Month => from.first_of_month().to_datetime(jiff::civil::Time::midnight()),
        };
        let end = to.tomorrow().map_err(|_| too_long())?.to_datetime(jiff::civil::Time::midnight());
        let end = quarter_at(end, &zone)?;
        let mut buckets = Vec::new();
        let mut at = start;
        let mut first = quarter_at(at, &zone)?;
        while first < end {
            if buckets.len() == most {
                return Err(too_long());
            }
            buckets.push(Bucket { begins: shown(by, at), comments: 0, first });
            let (next, next_first) = next(by, at, first, &zone)?;
            (at, first) = (next, next_first);
        }
        Ok(Self { buckets, end })
    }

    /// The quarters that are asked for, the end excluded.
    pub(crate) fn quarters(&self) -> (i64, i64) {
        (self.buckets.first().map_or(self.end, |first| first.first), self.end)
    }

    pub(crate) fn add(&mut self, quarter: i64, comments: i64) {
        if quarter >= self.end {
            return;
        }
        let after = self.buckets.partition_point(|bucket| bucket.first <= quarter);
        if let Some(bucket) = after.checked_sub(1).and_then(|index| self.buckets.get_mut(index)) {
            bucket.comments += comments;
        }
    }

    pub(crate) fn buckets(self) -> Vec<Bucket> {
        self.buckets
    }
}

fn shown(by: By, at: DateTime) -> String {
    let format = match by {
        By::Hour => "%Y-%m-%dT%H",
        By::Day => "%Y-%m-%d",
        By::Month => "%Y-%m",
    };
    at.strftime(format).to_string()
}

fn quarter_at(at: DateTime, zone: &TimeZone) -> Result<i64> {
    let moment = zone.to_timestamp(at).map_err(|_| Error::invalid("to", "is beyond all time"))?;
    Ok(quarter(Timestamp::from_micros(moment.as_microsecond())))
}

/// Where the next bucket begins; always later. Hours go by the clock of the world, so that an hour that comes twice
/// in autumn is there twice, and one that is left out in spring is not there.
fn next(by: By, at: DateTime, first: i64, zone: &TimeZone) -> Result<(DateTime, i64)> {
    let beyond = |_| Error::invalid("to", "is beyond all time");
    if by == By::Hour {
        let next = first + 4;
        let moment = jiff::Timestamp::from_microsecond(next * QUARTER_MICROS).map_err(beyond)?;
        return Ok((zone.to_datetime(moment), next));
    }
    let step: Span = if by == By::Day { 1.day() } else { 1.month() };
    let next = at.checked_add(step).map_err(beyond)?;
    Ok((next, quarter_at(next, zone)?.max(first + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(by: By, from: &str, to: &str, zone: &str) -> Result<Range> {
        Range::new(by, (from, to), zone, 1_000)
    }

    fn at(text: &str) -> i64 {
        quarter(text.parse().unwrap())
    }

    #[test]
    fn a_start_after_the_end_and_a_thousand_years_are_refused() {
        for by in [By::Hour, By::Day, By::Month] {
            assert!(range(by, "2026-11-22", "2026-11-21", "UTC").is_err());
            assert!(range(by, "1000-01-01", "9999-12-31", "UTC").is_err());
            assert!(range(by, "-9999-01-01", "9999-12-31", "Asia/Seoul").is_err());
            assert!(range(by, "9999-12-31", "9999-12-31", "America/New_York").is_err());
            assert!(range(by, "yesterday", "2026-11-21", "UTC").is_err());
        }
        assert!(range(By::Day, "2021-01-01", "2026-11-21", "UTC").is_err());
    }

    #[test]
    fn a_day_that_already_has_comments_is_one_bucket_like_others() {
        let mut days = range(By::Day, "2021-08-23", "2021-08-25", "Asia/Seoul").unwrap();
        let (first, end) = days.quarters();
        assert_eq!((first, end), (at("2021-08-22T15:00:00Z"), at("2021-08-25T15:00:00Z")));
        days.add(at("2021-08-22T14:59:59Z"), 100);
        days.add(at("2021-08-22T15:00:00Z"), 1);
        days.add(at("2021-08-24T14:59:59Z"), 2);
        days.add(at("2021-08-24T14:45:00Z"), 3);
        days.add(at("2021-08-25T15:00:00Z"), 100);
        let said: Vec<_> = days.buckets().into_iter().map(|it| (it.begins, it.comments)).collect();
        let wanted = [("2021-08-23", 1), ("2021-08-24", 5), ("2021-08-25", 0)];
        assert_eq!(said, wanted.map(|(day, count)| (day.to_owned(), count)));
    }

    #[test]
    fn hours_follow_the_clocks_of_the_zone() {
        let hours = |day, zone| range(By::Hour, day, day, zone).unwrap().buckets();
        assert_eq!(hours("2026-11-21", "Asia/Seoul").len(), 24);
        let autumn = hours("2026-11-01", "America/New_York");
        assert_eq!(autumn.len(), 25);
        assert_eq!(autumn[1].begins, autumn[2].begins);
        assert_eq!(hours("2026-03-08", "America/New_York").len(), 23);
        assert_eq!(hours("2026-11-21", "Asia/Kathmandu").len(), 24);
    }

    #[test]
    fn months_begin_with_their_first_day() {
        let months = range(By::Month, "2025-12-15", "2026-02-01", "Asia/Seoul").unwrap();
        assert_eq!(months.quarters().0, at("2025-11-30T15:00:00Z"));
        let months: Vec<_> = months.buckets().into_iter().map(|it| it.begins).collect();
        assert_eq!(months, ["2025-12", "2026-01", "2026-02"]);
    }
}
