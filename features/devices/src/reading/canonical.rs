//! The form in which [`Reading::to_json`](super::Reading::to_json) writes a reading, read in one pass. Whatever looks different, or is
//! refused, is left to the parser that reads every form: this one only answers with what that one would.

use std::borrow::Cow;

use base::Timestamp;

use super::{NAME_CHARS_MAX, Reading, VALUE_COUNT_HARD_MAX, check_name};

/// Room for the values of a usual reading.
const VALUES: usize = 10;
/// Below it every whole number is a `f64` of its own.
const WHOLE_MAX: u64 = 1 << 53;
/// Powers of ten that are exactly a `f64`.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// How a byte of a name is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    /// The name is looked at as a whole.
    Care,
    End,
    /// An escape, or what no JSON has.
    Strange,
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte {
            0..0x20 | 0x5C => Class::Strange,
            0x22 => Class::End,
            0x23 | 0x2A | 0x2B | 0x2E | 0x2F | 0x7F.. => Class::Care,
            _ => Class::Plain,
        };
        byte += 1;
    }
    classes
}

/// The reading that these bytes are; none where they have to be read by the other parser.
pub(super) fn read(value: &[u8]) -> Option<Reading<'_>> {
    let mut from = Cursor { text: value, at: 0 };
    from.skip(r#"{"device":""#)?;
    let device = from.name()?;
    from.skip(r#","sensor":""#)?;
    rest(from, device)
}

/// The same of what a device published, in the order of names in which the log writes them.
pub(super) fn published<'a>(device: &'a str, payload: &'a [u8]) -> Option<Reading<'a>> {
    let mut from = Cursor { text: payload, at: 0 };
    from.skip(r#"{"sensor":""#)?;
    check_name(device).ok()?;
    rest(from, device)
}

/// What stands behind the device, from the name of the sensor on.
fn rest<'a>(mut from: Cursor<'a>, device: &'a str) -> Option<Reading<'a>> {
    let sensor = from.name()?;
    from.skip(r#","time":""#)?;
    let time = from.time()?;
    from.skip(r#","values":{""#)?;
    let mut values: Vec<(Cow<'_, str>, f64)> = Vec::with_capacity(VALUES);
    // A set of the names so far, in which two of them may share a place.
    let mut places = 0_u64;
    loop {
        let name = from.name()?;
        let place = 1 << place_of(name);
        if places & place != 0 && values.iter().any(|(known, _)| known == name) {
            return None;
        }
        places |= place;
        from.skip(":")?;
        values.push((Cow::Borrowed(name), from.number()?));
        if values.len() > VALUE_COUNT_HARD_MAX {
            return None;
        }
        if from.skip(r#",""#).is_none() {
            break;
        }
    }
    from.skip("}}")?;
    let (device, sensor) = (Cow::Borrowed(device), Cow::Borrowed(sensor));
    (from.at == from.text.len()).then_some(Reading { device, sensor, time, values })
}

fn place_of(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().map_or(0, u32::from);
    let (first, middle, last) = (byte(0), byte(bytes.len() / 2), byte(bytes.len() - 1));
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    (first + middle * 5 + last * 7 + length.wrapping_mul(11)) % 64
}

/// How far a record is read. Every byte that it passes was looked at.
pub(super) struct Cursor<'a> {
    pub text: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    pub(super) fn skip(&mut self, expected: &str) -> Option<()> {
        self.rest().starts_with(expected.as_bytes()).then(|| self.at += expected.len())
    }

    /// A name that may be one, with the quotation mark behind it.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let mut needs_care = false;
        let mut length = 0;
        loop {
            match CLASSES[usize::from(*rest.get(length)?)] {
                Class::Plain => {}
                Class::Care => needs_care = true,
                Class::End => break,
                Class::Strange => return None,
            }
            length += 1;
        }
        let name = std::str::from_utf8(&rest[..length]).ok()?;
        if (needs_care || length == 0 || length > NAME_CHARS_MAX) && check_name(name).is_err() {
            return None;
        }
        self.at += length + 1;
        Some(name)
    }

    /// A moment in UTC with the quotation mark behind it.
    pub(super) fn time(&mut self) -> Option<Timestamp> {
        let rest = self.rest();
        let bytes: &[u8; 19] = rest.first_chunk()?;
        let two = |at: usize| digit(bytes[at]).zip(digit(bytes[at + 1])).map(|(a, b)| a * 10 + b);
        let are_set = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if are_set.iter().any(|(at, byte)| bytes[*at] != *byte) {
            return None;
        }
        let (year, month, day) = (two(0)? * 100 + two(2)?, two(5)?, two(8)?);
        let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
        // The year 9999 has an end of its own, and a 60th second is another one's to judge.
        let fits = (1970..9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !fits {
            return None;
        }
        let mut micros = 0;
        let mut length = 19;
        if rest.get(length) == Some(&b'.') {
            let digits = rest[length + 1..].iter().take(7).map_while(|byte| digit(*byte));
            let mut count = 0;
            for digit in digits {
                micros = micros * 10 + digit;
                count += 1;
            }
            if !(1..=6).contains(&count) {
                return None;
            }
            micros *= 10_i64.pow(6 - count);
            length += 1 + count as usize;
        }
        if rest.get(length..length + 2) != Some(b"Z\"") {
            return None;
        }
        self.at += length + 2;
        let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
        Some(Timestamp::from_micros(seconds * 1_000_000 + micros))
    }

    /// A finite number as JSON writes it, without an exponent.
    pub(super) fn number(&mut self) -> Option<f64> {
        let rest = self.rest();
        let is_negative = rest.first() == Some(&b'-');
        let start = usize::from(is_negative);
        let mut whole = 0;
        let before = take_digits(&rest[start..], &mut whole);
        if before == 0 || (before > 1 && rest[start] == b'0') {
            return None;
        }
        let (mut at, mut digits) = (start + before, before);
        if rest.get(at) == Some(&b'.') {
            let behind = take_digits(&rest[at + 1..], &mut whole);
            if behind == 0 {
                return None;
            }
            (at, digits) = (at + 1 + behind, digits + behind);
        }
        if matches!(rest.get(at), Some(b'e' | b'E')) {
            return None;
        }
        self.at += at;
        // Both are exact, so their quotient is rounded once, as by the standard library.
        let number = if digits <= 18 && whole <= WHOLE_MAX {
            let number = whole as f64 / POWERS[digits - before];
            if is_negative { -number } else { number }
        } else {
            std::str::from_utf8(&rest[..at]).ok()?.parse().ok()?
        };
        number.is_finite().then_some(number)
    }
}

/// Counts the digits at the beginning of a text, and writes them behind those of a number.
fn take_digits(text: &[u8], number: &mut u64) -> usize {
    let mut count = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        *number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        count += 1;
    }
    count
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, of a later day. A year begins in March, so that a leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_years = year * 365 + year / 4 - year / 100 + year / 400;
    of_years + (month * 153 + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(value: &[u8]) -> Option<Reading<'_>> {
        Reading::parsed(value).ok()
    }

    #[track_caller]
    fn agrees(value: &[u8]) {
        if let Some(found) = read(value) {
            let expected = parsed(value).expect("what is read here is a reading");
            assert_eq!(found, expected);
            let bits = |reading: &Reading<'_>| -> Vec<u64> {
                reading.values.iter().map(|(_, value)| value.to_bits()).collect()
            };
            assert_eq!(bits(&found), bits(&expected));
        }
        agrees_published(value);
    }

    /// The same of what a device would have published.
    #[track_caller]
    fn agrees_published(value: &[u8]) {
        let Some(sensor) = value.windows(10).position(|part| part == br#","sensor":"#) else {
            return;
        };
        let payload = [b"{", &value[sensor + 1..]].concat();
        for device in ["EWR", "a/b", ""] {
            if let Some(found) = published(device, &payload) {
                let expected = Reading::of_device(device, &payload);
                assert_eq!(Ok(found), expected);
            }
        }
        if read(value).is_some() {
            assert!(published("EWR", &payload).is_some(), "what the log would write is read");
        }
    }

    fn sound(time: &str, number: &str) -> String {
        format!(
            r#"{{"device":"EWR","sensor":"weather","time":"{time}","values":{{"temp":{number},"humid":59.4}}}}"#
        )
    }

    #[test]
    fn what_the_log_writes_is_read_here() {
        for number in ["39.0", "0", "-0.0", "10.357020000000001", "123456789012345678901.5"] {
            let value = sound("2013-01-01T11:00:00.25Z", number);
            assert!(read(value.as_bytes()).is_some(), "{number}");
            agrees(value.as_bytes());
        }
        for number in ["01", "1e5", "-", "1.", ".5", "+1", "NaN", "null", "1 "] {
            assert_eq!(read(sound("2013-01-01T11:00:00Z", number).as_bytes()), None, "{number}");
        }
    }

    #[test]
    fn every_day_is_counted_as_the_library_counts() {
        for year in (1970..2110).chain([2399, 2400, 9998]) {
            for month in 1..=12 {
                for day in 1..=32 {
                    let time = format!("{year}-{month:02}-{day:02}T23:59:59.999999Z");
                    let value = sound(&time, "1");
                    assert_eq!(read(value.as_bytes()), parsed(value.as_bytes()), "{time}");
                }
            }
        }
    }

    #[test]
    fn a_name_is_as_strict_here() {
        for name in ["", ".", "..", "a.b", "a/b", "a+b", "#", "*", "가", "a\u{7f}", "a\u{85}"] {
            let value = sound("2013-01-01T11:00:00Z", "1").replace("EWR", name);
            assert_eq!(read(value.as_bytes()), parsed(value.as_bytes()), "{name:?}");
        }
        let (long, longer) = ("x".repeat(128), "가".repeat(129));
        for name in [long, longer] {
            let value = sound("2013-01-01T11:00:00Z", "1").replace("humid", &name);
            assert_eq!(read(value.as_bytes()), parsed(value.as_bytes()), "{name:?}");
        }
        let twice = sound("2013-01-01T11:00:00Z", "1").replace("humid", "temp");
        assert_eq!(read(twice.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn both_parsers_say_the_same(
            device in "[a-z가.]{1,4}",
            micros in 0_i64..4_000_000_000_000_000,
            values in proptest::collection::btree_map("[a-z]{1,3}", any::<f64>(), 1..20),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let values = values.into_iter().filter(|(_, value)| value.is_finite());
            let reading = Reading {
                device: Cow::Owned(device),
                sensor: "weather".into(),
                time: Timestamp::from_micros(micros),
                values: values.map(|(name, value)| (Cow::Owned(name), value)).collect(),
            };
            let mut json = reading.to_json();
            agrees(&json);
            let at = at.index(json.len());
            json[at] = byte;
            agrees(&json);
            json.truncate(at);
            agrees(&json);
        }

        #[test]
        fn every_number_is_exact(whole in any::<u64>(), fraction in "[0-9]{1,20}") {
            agrees(sound("2013-01-01T11:00:00Z", &format!("{whole}.{fraction}")).as_bytes());
        }
    }
}
