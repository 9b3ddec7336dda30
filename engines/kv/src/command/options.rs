//! Options that many commands share.

use crate::store::number::parse_i64;
use crate::wire::reply::{Fault, NOT_INTEGER, Reply, SYNTAX};
use crate::wire::request::Args;

/// Whether a key must be there or must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    Missing,
    Exists,
}

impl When {
    pub(crate) fn allows(self, is_there: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Missing => !is_there,
            Self::Exists => is_there,
        }
    }
}

/// How a moment is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Millis,
    SecondsAt,
    MillisAt,
}

impl Unit {
    pub(crate) fn of(args: Args<'_>, at: usize) -> Option<Self> {
        [
            ("EX", Self::Seconds),
            ("PX", Self::Millis),
            ("EXAT", Self::SecondsAt),
            ("PXAT", Self::MillisAt),
        ]
        .into_iter()
        .find(|(word, _)| args.is(at, word))
        .map(|(_, unit)| unit)
    }

    /// Milliseconds since 1970; what is not positive or too far is refused in the name of a command.
    pub(crate) fn deadline(self, now: i64, text: &[u8], command: &str) -> Result<i64, Fault> {
        let value = parse_i64(text).ok_or(NOT_INTEGER)?;
        let invalid = || Fault::from(format!("ERR invalid expire time in '{command}' command"));
        if value <= 0 {
            return Err(invalid());
        }
        self.moment(now, value).ok_or_else(invalid)
    }

    pub(crate) fn moment(self, now: i64, value: i64) -> Option<i64> {
        let millis = if matches!(self, Self::Seconds | Self::SecondsAt) {
            value.checked_mul(1_000)?
        } else {
            value
        };
        if matches!(self, Self::Seconds | Self::Millis) {
            millis.checked_add(now)
        } else {
            Some(millis)
        }
    }
}

/// MATCH, COUNT and TYPE of the SCAN commands.
pub(crate) struct Scan<'a> {
    pub(crate) cursor: u64,
    pub(crate) pattern: Option<&'a [u8]>,
    pub(crate) count: usize,
    pub(crate) kind: Option<&'a [u8]>,
}

/// The cursor of a SCAN command on one key, which is read before the key is looked at; the options come after.
pub(crate) fn cursor(text: &[u8]) -> Result<u64, Fault> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| "ERR invalid cursor".into())
}

/// What a SCAN command answers for a key that is not there.
pub(crate) fn nothing_scanned(out: &mut Reply) {
    out.array(2);
    out.text("0");
    out.array(0);
}

impl<'a> Scan<'a> {
    /// Reads them; the cursor stands at `cursor`.
    pub(crate) fn of(args: Args<'a>, cursor: usize, with_type: bool) -> Result<Self, Fault> {
        let mut scan =
            Self { cursor: self::cursor(args.at(cursor))?, pattern: None, count: 10, kind: None };
        let mut at = cursor + 1;
        while at < args.len() {
            let value = args.get(at + 1).ok_or(SYNTAX)?;
            match () {
                () if args.is(at, "MATCH") => scan.pattern = Some(value),
                () if args.is(at, "COUNT") => {
                    let count = parse_i64(value).ok_or(NOT_INTEGER)?;
                    scan.count =
                        usize::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
                }
                () if with_type && args.is(at, "TYPE") => scan.kind = Some(value),
                () => return Err(SYNTAX),
            }
            at += 2;
        }
        Ok(scan)
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| crate::store::glob::matches(pattern, text))
    }

    /// Numbers of elements from this cursor on, and the next cursor. It goes from the last to the first, so that an
    /// element that fills the place of a removed one is seen.
    pub(crate) fn window(&self, length: usize, whole: bool) -> (std::ops::Range<usize>, u64) {
        let end = if self.cursor == 0 { length } else { length.min(self.cursor as usize) };
        if whole {
            return (0..length, 0);
        }
        let begin = end.saturating_sub(self.count);
        (begin..end, begin as u64)
    }
}

/// A range of places by first and last, which count from the end when negative; the end is exclusive.
pub(crate) fn range(from: i64, to: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let from = if from < 0 { (from + length).max(0) } else { from };
    let to = if to < 0 { to + length } else { to.min(length - 1) };
    if from > to || from >= length { 0..0 } else { from as usize..to as usize + 1 }
}

pub(crate) fn integer(text: &[u8]) -> Result<i64, Fault> {
    parse_i64(text).ok_or(NOT_INTEGER)
}

/// A time-out in seconds, as a moment; nothing is for ever.
pub(crate) fn timeout(now: i64, text: &[u8]) -> Result<Option<i64>, Fault> {
    let seconds = crate::store::number::parse_f64(text)
        .ok_or("ERR timeout is not a float or out of range")?;
    if seconds < 0.0 {
        return Err("ERR timeout is negative".into());
    }
    let millis = (seconds * 1_000.0).ceil();
    if millis > i64::MAX as f64 / 2.0 {
        return Err("ERR timeout is out of range".into());
    }
    Ok((millis > 0.0).then(|| now.saturating_add(millis as i64)))
}

/// How many keys follow, and the keys' places: a number at `at`, then as many keys.
pub(crate) fn numbered_keys(args: Args<'_>, at: usize) -> Result<std::ops::Range<usize>, Fault> {
    let count = integer(args.at(at)).ok().and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count > 0).ok_or("ERR numkeys should be greater than 0")?;
    if count > args.len() - at - 1 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    Ok(at + 1..at + 1 + count)
}
