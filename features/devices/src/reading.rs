//! One reading: what a device says, what the log keeps, and what makes two of them the same.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base::Timestamp;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::Config;

mod canonical;
pub(crate) mod sheaf;

/// The longest name of a device, sensor, value or rule, in characters.
pub(crate) const NAME_CHARS_MAX: usize = 128;
/// The longest reason that a dead letter or an answer carries, in characters.
const REASON_CHARS_MAX: usize = 512;
/// No RFC 3339 time is longer, even with nine digits of a second.
const TIME_BYTES_MAX: usize = 35;

/// A reading that was checked. Its identity is (organisation, device, sensor, time); a missing value is absent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading<'a> {
    pub device: Cow<'a, str>,
    pub sensor: Cow<'a, str>,
    pub time: Timestamp,
    pub values: Vec<(Cow<'a, str>, f64)>,
}

/// Why something was not taken as a reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the payload is larger than {0} bytes")]
    Large(usize),
    #[error("the payload is not a reading: {0}")]
    Malformed(String),
    #[error("the name of a {0} {1}")]
    Name(&'static str, NameFault),
    #[error("the time is not RFC 3339 with an offset, such as 2013-01-01T06:00:00-05:00")]
    Time,
    #[error("the time is before 1970")]
    Ancient,
    #[error("the time is more than {} s ahead of the server's clock", .0.as_secs())]
    Ahead(Duration),
    #[error("a reading has at least one value that is a number")]
    Empty,
    #[error("the device {0:?} is not registered, and the key may not register it")]
    UnknownDevice(String),
    #[error("the sensor {0:?} is not registered, and the key may not register it")]
    UnknownSensor(String),
    #[error("the device does not carry the sensor {0:?}, and the key may not add it")]
    UnfittedSensor(String),
    #[error("the sensor {0:?} has no value {1:?}, and the key may not add it")]
    UnknownValue(String, String),
    #[error("the organisation has no room for another {0}: the limit is {1}")]
    Full(&'static str, usize),
    #[error("the message cannot be taken: {0}")]
    Unheeded(String),
    #[error("the record stands in another partition than its device's")]
    Misplaced,
}

impl Refusal {
    /// One word for the metric.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Large(_) => "large",
            Self::Malformed(_) | Self::Unheeded(_) | Self::Misplaced => "malformed",
            Self::Name(..) => "name",
            Self::Time | Self::Ancient | Self::Ahead(_) => "time",
            Self::Empty => "empty",
            Self::UnknownDevice(_)
            | Self::UnknownSensor(_)
            | Self::UnfittedSensor(_)
            | Self::UnknownValue(..) => "unknown",
            Self::Full(..) => "full",
        }
    }

    /// The text that people read; bounded, because parts of it come from outside.
    pub(crate) fn reason(&self) -> String {
        let text = self.to_string();
        match text.char_indices().nth(REASON_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameFault {
    #[error("is empty")]
    Empty,
    #[error("is longer than {NAME_CHARS_MAX} characters")]
    Long,
    #[error("has a control character")]
    Control,
    #[error("has one of the characters / + # *")]
    Reserved,
    #[error("is a path step")]
    Step,
}

/// Checks a name that stands in a topic and in a URL: of a device, a sensor or a value.
pub(crate) fn check_name(name: &str) -> Result<(), NameFault> {
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name.chars().nth(NAME_CHARS_MAX).is_some() {
        return Err(NameFault::Long);
    }
    if name.contains(char::is_control) {
        return Err(NameFault::Control);
    }
    // The first three mean something in a topic; the star means everything in a grant.
    if name.contains(['/', '+', '#', '*']) {
        return Err(NameFault::Reserved);
    }
    // A client's URL library takes these away before anyone is asked.
    if matches!(name, "." | "..") {
        return Err(NameFault::Step);
    }
    Ok(())
}

impl<'a> Reading<'a> {
    /// Reads what a device published: the device stands in the topic, the rest in the payload.
    pub(crate) fn published(
        device: &'a str,
        payload: &'a [u8],
        config: &Config,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        if payload.len() > config.payload_bytes_max {
            return Err(Refusal::Large(config.payload_bytes_max));
        }
        let reading = match canonical::published(device, payload) {
            Some(reading) => reading,
            None => Self::of_device(device, payload)?,
        };
        if reading.values.len() > config.value_count_max {
            return Err(Refusal::Full("value", config.value_count_max));
        }
        if reading.time.since(now) > config.ahead_max {
            return Err(Refusal::Ahead(config.ahead_max));
        }
        Ok(reading)
    }

    /// What a device published, from any JSON.
    fn of_device(device: &'a str, payload: &'a [u8]) -> Result<Self, Refusal> {
        let Published { sensor, time, values } =
            serde_json::from_slice(payload).map_err(malformed)?;
        let (device, sensor) = (Cow::Borrowed(device), sensor.0);
        let reading = Self { device, sensor, time: moment(&time.0)?, values: values.0 };
        reading.check()?;
        Ok(reading)
    }

    /// Reads what the log keeps. Asks neither clock nor settings, so it answers the same whenever it is asked.
    pub(crate) fn recorded(value: &'a [u8]) -> Result<Self, Refusal> {
        canonical::read(value).map_or_else(|| Self::parsed(value), Ok)
    }

    /// The same from any JSON.
    fn parsed(value: &'a [u8]) -> Result<Self, Refusal> {
        let Recorded { device, sensor, time, values } =
            serde_json::from_slice(value).map_err(malformed)?;
        let reading =
            Self { device: device.0, sensor: sensor.0, time: moment(&time.0)?, values: values.0 };
        reading.check()?;
        Ok(reading)
    }

    /// The form that the log, the event stream and the alerts carry.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and finite numbers always become JSON")
    }

    pub(crate) fn values_json(&self) -> String {
        serde_json::to_string(&ValuesOut(&self.values)).expect("finite numbers always become JSON")
    }

    fn check(&self) -> Result<(), Refusal> {
        check_name(&self.device).map_err(|fault| Refusal::Name("device", fault))?;
        check_name(&self.sensor).map_err(|fault| Refusal::Name("sensor", fault))?;
        for (name, _) in &self.values {
            check_name(name).map_err(|fault| Refusal::Name("value", fault))?;
        }
        if self.values.is_empty() {
            return Err(Refusal::Empty);
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: serde_json::Error) -> Refusal {
    Refusal::Malformed(error.to_string())
}

/// Reads RFC 3339 and nothing more: jiff alone would also take a space, an hour alone, or a zone in brackets.
pub(crate) fn moment(text: &str) -> Result<Timestamp, Refusal> {
    let bytes = text.as_bytes();
    if !(20..=TIME_BYTES_MAX).contains(&bytes.len()) {
        return Err(Refusal::Time);
    }
    let shape = b"0000-00-00T00:00:00";
    let fits = bytes.iter().zip(shape).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        b'T' => byte.eq_ignore_ascii_case(&b'T'),
        _ => byte == shape,
    });
    let rest = &bytes[shape.len()..];
    let fraction = match rest {
        [b'.', digits @ ..] => 1 + digits.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    let offset_fits = match &rest[fraction..] {
        [zulu] => zulu.eq_ignore_ascii_case(&b'Z'),
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    if !fits || fraction == 1 || !offset_fits {
        return Err(Refusal::Time);
    }
    let time: Timestamp = text.parse().map_err(|_| Refusal::Time)?;
    if time.micros() < 0 {
        return Err(Refusal::Ancient);
    }
    Ok(time)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published<'a> {
    #[serde(borrow)]
    sensor: Text<'a>,
    #[serde(borrow)]
    time: Text<'a>,
    #[serde(borrow)]
    values: Values<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded<'a> {
    #[serde(borrow)]
    device: Text<'a>,
    #[serde(borrow)]
    sensor: Text<'a>,
    #[serde(borrow)]
    time: Text<'a>,
    #[serde(borrow)]
    values: Values<'a>,
}

/// A string that is borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

/// The numbers of a reading in the order they came; null is left out, a name twice is refused.
struct Values<'a>(Vec<(Cow<'a, str>, f64)>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        from.deserialize_str(Borrowing).map(Text)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(Cow<'de, str>, f64)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names: Vec<Text<'de>> = Vec::new();
                let mut values: Vec<(Cow<'de, str>, f64)> = Vec::new();
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    let value = parse_number(map.next_value::<&RawValue>()?);
                    let value = value.map_err(de::Error::custom)?;
                    if values.iter().any(|(known, _)| *known == name.0)
                        || names.iter().any(|known| known.0 == name.0)
                    {
                        return Err(de::Error::custom(format!("the value {:?} twice", name.0)));
                    }
                    // The scan above is quadratic, so the count has a limit of its own.
                    if values.len() + names.len() >= VALUE_COUNT_HARD_MAX {
                        return Err(de::Error::custom("too many values"));
                    }
                    match value {
                        Some(value) => values.push((name.0, value)),
                        None => names.push(name),
                    }
                }
                Ok(values)
            }
        }
        from.deserialize_map(Pairs).map(Values)
    }
}

/// What no setting can raise: how many values one reading may have, missing ones included.
pub(crate) const VALUE_COUNT_HARD_MAX: usize = 1_024;

/// Reads a finite number or null. The standard library parses it, which is exact to the last bit.
pub(crate) fn parse_number(raw: &RawValue) -> Result<Option<f64>, &'static str> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'-' | b'0'..=b'9') => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Some(value)),
            _ => Err("a number out of range"),
        },
        _ => Err("expected a number or null"),
    }
}

impl Serialize for Reading<'_> {
    fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        let mut map = into.serialize_map(Some(4))?;
        map.serialize_entry("device", &self.device)?;
        map.serialize_entry("sensor", &self.sensor)?;
        map.serialize_entry("time", &format_args!("{}", self.time))?;
        map.serialize_entry("values", &ValuesOut(&self.values))?;
        map.end()
    }
}

struct ValuesOut<'a>(&'a [(Cow<'a, str>, f64)]);

impl Serialize for ValuesOut<'_> {
    fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        into.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn check(device: &str, payload: &str, expected: &str) {
        let config = Config { value_count_max: 3, payload_bytes_max: 300, ..Config::default() };
        let found = match Reading::published(device, payload.as_bytes(), &config, now()) {
            Ok(reading) => String::from_utf8(reading.to_json()).unwrap(),
            Err(refusal) => refusal.reason(),
        };
        assert!(found.contains(expected), "{payload}: {found}");
    }

    const SOUND: &str = r#"{"sensor":"weather","time":"2013-01-01T06:00:00-05:00","values":{"temp":39.0,"humid":59.4}}"#;

    #[test]
    fn a_reading_is_taken_in_utc_and_without_its_missing_values() {
        check(
            "EWR",
            SOUND,
            r#"{"device":"EWR","sensor":"weather","time":"2013-01-01T11:00:00Z","values":{"temp":39.0,"humid":59.4}}"#,
        );
        check(
            "EWR",
            r#"{"values":{"temp":null,"humid":1},"time":"2013-01-01t06:00:00.5z","sensor":"we\u0061ther"}"#,
            r#""sensor":"weather","time":"2013-01-01T06:00:00.5Z","values":{"humid":1.0}}"#,
        );
    }

    #[test]
    fn what_is_not_a_reading_is_refused_with_the_reason() {
        let with = |field: &str, value: &str| {
            let mut whole: serde_json::Value = serde_json::from_str(SOUND).unwrap();
            whole[field] = serde_json::from_str(value).unwrap();
            whole.to_string()
        };
        check("EWR", "", "not a reading");
        check("EWR", "[]", "not a reading");
        check("EWR", "weather,39.0,59.4", "not a reading");
        check("EWR", r#"{"sensor":"weather"}"#, "missing field");
        check("EWR", &with("battery", "3"), "unknown field `battery`");
        check("EWR", &with("device", "\"JFK\""), "unknown field `device`");
        check("EWR", &SOUND.replace("39.0", "NaN"), "not a reading");
        check("EWR", &SOUND.replace("39.0", "1e999"), "out of range");
        check("EWR", &SOUND.replace("39.0", "\"39\""), "expected a number or null");
        check("EWR", &SOUND.replace("39.0", "[39]"), "expected a number or null");
        check("EWR", &SOUND.replace("humid", "temp"), "twice");
        check("EWR", &with("values", "{}"), "at least one value");
        check("EWR", &with("values", r#"{"temp":null}"#), "at least one value");
        check(
            "EWR",
            &with("values", r#"{"a":1,"b":2,"c":3,"d":4}"#),
            "another value: the limit is 3",
        );
        check("EWR", &with("values", &format!("{{\"{}\":1}}", "x".repeat(129))), "longer than 128");
        check("EWR", &with("values", r#"{"":1}"#), "the name of a value is empty");
        check("EWR", &with("sensor", "\"a/b\""), "one of the characters / + # *");
        check("EWR", &format!("{SOUND}{}", " ".repeat(300)), "larger than 300 bytes");
        check("EWR", &format!("{SOUND}x"), "trailing characters");
        for time in ["2013-01-01T06:00:00", "2013-01-01", "yesterday", "1357020000", ""] {
            check("EWR", &with("time", &format!("{time:?}")), "not RFC 3339");
        }
        for time in [
            "2013-01-01 06:00:00Z",
            "2013-01-01T06:00:00.Z",
            "2013-01-01T06:00:00-05",
            "2013-02-30T06:00:00Z",
            "2013-01-01T06:00:00-05:00[America/New_York]",
        ] {
            check("EWR", &with("time", &format!("{time:?}")), "not RFC 3339");
        }
        check("EWR", &with("time", "1357020000"), "expected a string");
        check("EWR", &with("time", "\"1969-12-31T23:59:59Z\""), "before 1970");
        check("EWR", &with("time", "\"2026-01-02T00:00:01Z\""), "ahead of the server's clock");
        check("EWR", &with("time", "\"2026-01-02T00:00:00Z\""), "2026-01-02T00:00:00Z");
        check("", SOUND, "the name of a device is empty");
        check("a\u{7}", SOUND, "control character");
        check(&"가".repeat(129), SOUND, "longer than 128");
        check(&"가".repeat(128), SOUND, "weather");
        check("..", SOUND, "path step");
    }

    #[test]
    fn a_reason_is_bounded() {
        let name = "x".repeat(100_000);
        let refusal = Refusal::Malformed(name);
        assert!(refusal.reason().chars().count() <= REASON_CHARS_MAX + 1);
    }

    proptest! {
        #[test]
        fn what_the_log_keeps_is_what_was_published(
            sensor in "[a-z가-힣\"\\\\ ]{1,20}",
            micros in 0_i64..4_000_000_000_000_000,
            values in proptest::collection::btree_map("[a-z_\"]{1,9}", -1e300_f64..1e300, 1..9),
        ) {
            let reading = Reading {
                device: Cow::Borrowed("roof-1"),
                sensor: Cow::Owned(sensor),
                time: Timestamp::from_micros(micros),
                values: values.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect(),
            };
            let json = reading.to_json();
            prop_assert_eq!(Reading::recorded(&json).unwrap(), reading);
        }

        #[test]
        fn no_bytes_break_the_parser(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reading::published("roof-1", &payload, &Config::default(), now());
            let _ = Reading::recorded(&payload);
        }
    }
}
