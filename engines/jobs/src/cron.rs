//! Five fields of time, and the next moment that they name in a time zone. Asks no clock.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use base::Timestamp;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// When something recurs: `minute hour day-of-month month day-of-week`, as crontab(5) writes it, with lists,
/// ranges, steps and English names, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
///
/// Where both days are restricted, either is enough. When clocks change, an hour field that begins with `*` means
/// elapsed time: a repeated hour counts twice, a skipped one not at all. Any other hour field means the wall clock:
/// a repeated moment counts once, when it comes first, and skipped ones count once, together, at the end of the gap.
#[derive(Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bit 0 is Sunday.
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
    by_elapsed_time: bool,
}

/// Why a text is no [`Cron`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("a cron has the five fields minute, hour, day of month, month and day of week")]
    Fields,
    #[error("the field {field} of a cron is not {text}")]
    Field { field: &'static str, text: String },
    #[error("no such day ever comes")]
    Never,
}

struct Field {
    name: &'static str,
    range: RangeInclusive<u8>,
    names: &'static [&'static str],
    /// The number of the first name.
    first: u8,
}

const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", range: 0..=59, names: &[], first: 0 },
    Field { name: "hour", range: 0..=23, names: &[], first: 0 },
    Field { name: "day of month", range: 1..=31, names: &[], first: 0 },
    Field { name: "month", range: 1..=12, names: MONTHS, first: 1 },
    Field { name: "day of week", range: 0..=7, names: WEEKDAYS, first: 0 },
];
/// 29 February is up to eight years away, and on one weekday up to forty.
const DAYS_MAX: u32 = 41 * 366;

impl Cron {
    /// The first moment after `after` that it names.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_microsecond(after.micros()).ok()?;
        // The day before can still have moments to come: when clocks go back over midnight.
        let mut date = zone.to_datetime(after).date().yesterday().ok()?;
        for _ in 0..DAYS_MAX {
            if let Some(first) = self.first_on(date, after, zone) {
                let next_day = date.tomorrow().ok();
                let other = next_day.and_then(|date| self.first_on(date, after, zone));
                let first = other.map_or(first, |other| other.min(first));
                return Some(Timestamp::from_micros(first.as_microsecond()));
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The earliest of a day's moments that is after `after`.
    fn first_on(
        &self,
        date: Date,
        after: jiff::Timestamp,
        zone: &TimeZone,
    ) -> Option<jiff::Timestamp> {
        if !self.has_day(date) {
            return None;
        }
        if let Some(offset) = only_offset(date, zone) {
            let local = offset.to_datetime(after);
            let hour = if local.date() == date { local.hour() } else { 0 };
            if local.date() > date {
                return None;
            }
            let later = self
                .times(hour)
                .map(|(hour, minute)| offset.to_timestamp(date.at(hour, minute, 0, 0)).ok());
            return later.flatten().find(|moment| *moment > after);
        }
        let moments = self.times(0).flat_map(|time| self.moments(date, time, zone));
        moments.filter(|moment| *moment > after).min()
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let is_day = match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        is_day && has(self.months, date.month())
    }

    /// The hours and minutes of any day, from an hour on.
    fn times(&self, hour: i8) -> impl Iterator<Item = (i8, i8)> {
        let hours = (hour..24).filter(|hour| has(self.hours, *hour));
        hours.flat_map(|hour| {
            (0..60).filter(|minute| has(self.minutes, *minute)).map(move |minute| (hour, minute))
        })
    }

    /// The moments at which a clock in the zone shows this; the end of the gap where none does.
    fn moments(
        &self,
        date: Date,
        (hour, minute): (i8, i8),
        zone: &TimeZone,
    ) -> impl Iterator<Item = jiff::Timestamp> {
        let shown = date.at(hour, minute, 0, 0);
        let (first, second) = match zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset.to_timestamp(shown).ok(), None),
            AmbiguousOffset::Gap { .. } if self.by_elapsed_time => (None, None),
            AmbiguousOffset::Gap { before, .. } => {
                let as_if = before.to_timestamp(shown).ok();
                (as_if.and_then(|as_if| last_change(as_if, zone)), None)
            }
            AmbiguousOffset::Fold { before, after } => {
                let again = after.to_timestamp(shown).ok().filter(|_| self.by_elapsed_time);
                (before.to_timestamp(shown).ok(), again)
            }
        };
        first.into_iter().chain(second)
    }
}

/// The offset of a day on which clocks do not change.
fn only_offset(date: Date, zone: &TimeZone) -> Option<Offset> {
    let at = |date: Date| match zone.to_ambiguous_timestamp(date.at(0, 0, 0, 0)).offset() {
        AmbiguousOffset::Unambiguous { offset } => Some(offset),
        AmbiguousOffset::Gap { .. } | AmbiguousOffset::Fold { .. } => None,
    };
    let (begin, end) = (at(date)?, at(date.tomorrow().ok()?)?);
    (begin == end).then_some(begin)
}

/// When clocks changed last, this moment included.
fn last_change(moment: jiff::Timestamp, zone: &TimeZone) -> Option<jiff::Timestamp> {
    let after = jiff::Timestamp::from_microsecond(moment.as_microsecond() + 1).ok()?;
    zone.preceding(after).next().map(|change| change.timestamp())
}

fn has(set: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| set >> number & 1 == 1)
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        let mut set = 0;
        for part in text.split(',') {
            set |= self.part(part).ok_or_else(|| self.refused(text))?;
        }
        Ok(set)
    }

    /// `*`, `5`, `5-9`, each with `/step` behind it.
    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u8>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (begin, end) = match range.split_once('-') {
            _ if range == "*" => (*self.range.start(), *self.range.end()),
            Some((begin, end)) => (self.number(begin)?, self.number(end)?),
            None => {
                let begin = self.number(range)?;
                (begin, if step.is_some() { *self.range.end() } else { begin })
            }
        };
        if begin > end {
            return None;
        }
        let numbers = (begin..=end).step_by(usize::from(step.unwrap_or(1)));
        Some(numbers.fold(0, |set, number| set | 1 << number))
    }

    fn number(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(place) => u8::try_from(place).ok()? + self.first,
            None if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse().ok()?,
            None => return None,
        };
        self.range.contains(&number).then_some(number)
    }

    fn refused(&self, text: &str) -> CronError {
        let text = text.chars().take(40).collect();
        CronError::Field { field: self.name, text }
    }
}

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let words = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            words => words,
        };
        let words: Vec<&str> = words.split_ascii_whitespace().collect();
        let words: [&str; 5] = words.try_into().map_err(|_| CronError::Fields)?;
        let mut sets = [0; 5];
        for ((set, field), word) in sets.iter_mut().zip(&FIELDS).zip(words) {
            *set = field.parse(word)?;
        }
        let [minutes, hours, days, months, weekdays] = sets;
        let cron = Self {
            text: words.join(" "),
            minutes,
            hours,
            days,
            months,
            // Both 0 and 7 are Sunday.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            any_day: words[2].starts_with('*'),
            any_weekday: words[4].starts_with('*'),
            by_elapsed_time: words[1].starts_with('*'),
        };
        match cron.next(Timestamp::from_micros(0), &TimeZone::UTC) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never),
        }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({})", self.text)
    }
}

#[cfg(test)]
mod tests;
