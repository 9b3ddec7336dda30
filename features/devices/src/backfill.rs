//! Readings of the past, from a table: CSV (RFC 4180) with a heading, one line for each reading.
//!
//! The columns `device`, `sensor` and `time` say whose it is; every other column is a value of that name, absent where its field is empty.
//! Each line becomes what the device would have sent, and goes the same way in.

use std::collections::HashSet;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Number, Value, json};

use crate::reading::check_name;
use crate::{Config, Error, Fault, Result, csv};

/// A table and what it leaves out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub csv: String,
    /// Where there is no column `device`.
    pub device: Option<String>,
    /// Where there is no column `sensor`.
    pub sensor: Option<String>,
    /// Of times without an offset, such as `Asia/Seoul`; they are refused without it.
    pub zone: Option<String>,
}

/// A reading as its device would have sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its place in the table, counted from 0 below the heading; empty lines do not count.
    pub index: usize,
    pub device: String,
    pub payload: String,
}

/// The columns that are no values.
const WHOSE: [&str; 3] = ["device", "sensor", "time"];
/// What all readings of a table may have together: a name stands in the heading once, and in each reading.
const PAYLOADS_BYTES_MAX: usize = 16 << 20;

/// The lines that have any value, and how many have none.
pub(crate) fn lines(table: &Table, config: &Config) -> Result<(Vec<Line>, usize)> {
    let fault = |text: String| Error::Invalid(vec![Fault::new("/csv", text)]);
    let zone = table.zone.as_deref().map(|name| {
        let text = || format!("there is no time zone {name:?}");
        TimeZone::get(name).map_err(|_| Error::invalid("/zone", text()))
    });
    let zone = zone.transpose()?;
    let mut rows = csv::rows(&table.csv).into_iter();
    let heading: Vec<String> =
        rows.next().unwrap_or_default().iter().map(|name| name.trim().to_owned()).collect();
    let most = config.value_count_max + WHOSE.len();
    if heading.len() > most {
        return Err(fault(format!("more than {most} columns")));
    }
    let mut known = HashSet::new();
    if let Some(name) = heading.iter().find(|name| !known.insert(name.as_str())) {
        return Err(fault(format!("the column {name:?} is there twice")));
    }
    for name in heading.iter().chain(&table.device).chain(&table.sensor) {
        check_name(name).map_err(|wrong| fault(format!("the name {name:?} {wrong}")))?;
    }
    let place = |wanted: &str| heading.iter().position(|name| name == wanted);
    let time = place("time").ok_or_else(|| fault("there is no column \"time\"".into()))?;
    let whose = |name: &'static str, given: &Option<String>| match (place(name), given) {
        (Some(place), None) => Ok(Whose::Column(place)),
        (None, Some(given)) => Ok(Whose::All(given.clone())),
        (None, None) => Err(fault(format!("there is no column {name:?}, and none is given"))),
        (Some(_), Some(_)) => Err(fault(format!("there is a column {name:?}, and one is given"))),
    };
    let (device, sensor) = (whose("device", &table.device)?, whose("sensor", &table.sensor)?);
    let most = config.import_readings_max;
    if rows.len() > most {
        return Err(fault(format!("more than {most} lines")));
    }
    let (mut found, mut empty, mut bytes) = (Vec::with_capacity(rows.len()), 0, 0);
    for (index, row) in rows.enumerate() {
        if row.len() != heading.len() {
            let (line, wanted, has) = (index + 2, heading.len(), row.len());
            return Err(fault(format!("line {line} has {has} fields, not {wanted}")));
        }
        let values: Map<String, Value> = heading
            .iter()
            .zip(&row)
            .filter(|(name, field)| !WHOSE.contains(&name.as_str()) && !field.trim().is_empty())
            .map(|(name, field)| (name.clone(), value(field.trim())))
            .collect();
        if values.is_empty() {
            empty += 1;
            continue;
        }
        let payload = json!({
            "sensor": sensor.of(&row),
            "time": moment(row[time].trim(), zone.as_ref()),
            "values": values,
        });
        let (device, payload) = (device.of(&row).to_owned(), payload.to_string());
        bytes += payload.len();
        if bytes > PAYLOADS_BYTES_MAX {
            return Err(fault(format!("its readings have more than {PAYLOADS_BYTES_MAX} bytes")));
        }
        found.push(Line { index, device, payload });
    }
    Ok((found, empty))
}

enum Whose {
    Column(usize),
    All(String),
}

impl Whose {
    fn of<'a>(&'a self, row: &'a [String]) -> &'a str {
        match self {
            Self::Column(place) => row[*place].trim(),
            Self::All(given) => given,
        }
    }
}

/// A number; what is none stays a text, and is refused like any reading with a text for a value.
fn value(field: &str) -> Value {
    let number = field.parse().ok().and_then(Number::from_f64);
    number.map_or_else(|| field.into(), Value::Number)
}

/// A time with an offset; what is none stays as it is, and is refused like any reading without a time. An hour that clocks
/// show twice is the first of the two, one that they leave out is as much later.
fn moment(field: &str, zone: Option<&TimeZone>) -> String {
    if let Ok(time) = field.parse::<jiff::Timestamp>() {
        return time.to_string();
    }
    let civil = zone.and_then(|zone| Some((zone, field.parse::<DateTime>().ok()?)));
    let time = civil.and_then(|(zone, civil)| zone.to_timestamp(civil).ok());
    time.map_or_else(|| field.to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(csv: &str, zone: Option<&str>) -> Vec<(String, Value)> {
        let (device, sensor) = (Some("roof".to_owned()), Some("weather".to_owned()));
        let table = Table { csv: csv.into(), device, sensor, zone: zone.map(str::to_owned) };
        let (lines, _) = lines(&table, &Config::default()).unwrap();
        let read = |line: Line| (line.device, serde_json::from_str(&line.payload).unwrap());
        lines.into_iter().map(read).collect()
    }

    #[test]
    fn columns_are_values_and_empty_fields_are_absent() {
        let csv = "sensor,temp,time,device,humid\nweather,39.5,2013-01-01T06:00:00-05:00,EWR,\n\
                   ,,,,\nsoil, 1e2 ,2013-01-01 06:00:00Z,JFK,\"12\"\nsoil,,2013-01-01T06:00:00Z,JFK,\n";
        let table = Table { csv: csv.into(), ..Table::default() };
        let (found, empty) = lines(&table, &Config::default()).unwrap();
        assert_eq!((found.len(), empty), (2, 1));
        assert_eq!((found[1].index, &*found[1].device), (1, "JFK"));
        let payload: Value = serde_json::from_str(&found[0].payload).unwrap();
        let wanted =
            json!({"sensor": "weather", "time": "2013-01-01T11:00:00Z", "values": {"temp": 39.5}});
        assert_eq!((&*found[0].device, payload), ("EWR", wanted));
        let payload: Value = serde_json::from_str(&found[1].payload).unwrap();
        assert_eq!(payload["values"], json!({"temp": 100.0, "humid": 12.0}));
    }

    #[test]
    fn times_without_an_offset_are_those_of_the_zone() {
        let of = |time: &str, zone| {
            read(&format!("time,temp\n{time},1"), zone)[0].1["time"].as_str().unwrap().to_owned()
        };
        assert_eq!(of("2020-07-01 09:00:00", Some("Asia/Seoul")), "2020-07-01T00:00:00Z");
        assert_eq!(
            of("2020-07-01T09:00:00.25+01:00", Some("Asia/Seoul")),
            "2020-07-01T08:00:00.25Z"
        );
        // Twice, and not at all.
        assert_eq!(of("2020-11-01 01:30:00", Some("America/New_York")), "2020-11-01T05:30:00Z");
        assert_eq!(of("2020-03-08 02:30:00", Some("America/New_York")), "2020-03-08T07:30:00Z");
        assert_eq!(of("2020-07-01 09:00:00", None), "2020-07-01 09:00:00");
        assert_eq!(of("yesterday", Some("Asia/Seoul")), "yesterday");
    }

    #[test]
    fn what_is_no_number_is_left_to_be_refused() {
        let all = read("time,temp\n2020-07-01T00:00:00Z,n/a\n2020-07-01T00:00:00Z,NaN", None);
        assert_eq!(all[0].1["values"], json!({"temp": "n/a"}));
        assert_eq!(all[1].1["values"], json!({"temp": "NaN"}));
    }

    #[test]
    fn a_table_that_does_not_say_whose_it_is_or_when_is_refused() {
        let config = Config { import_readings_max: 2, value_count_max: 4, ..Config::default() };
        let refused = |table: Table| match lines(&table, &config).unwrap_err() {
            Error::Invalid(faults) => (faults[0].pointer.clone(), faults[0].text.clone()),
            error => panic!("{error}"),
        };
        let of = |csv: &str| Table {
            csv: csv.into(),
            device: Some("a".into()),
            sensor: Some("b".into()),
            zone: None,
        };
        for (csv, wanted) in [
            ("", "time"),
            ("temp\n1", "time"),
            ("time,temp,temp\n", "twice"),
            ("time,device,temp\n", "and one is given"),
            ("time,temp\n1", "has 1 fields, not 2"),
            ("time,temp\n1,1\n1,1\n1,1", "more than 2 lines"),
            ("time,a,b,c,d,e,f,g", "more than 7 columns"),
            ("time,a/b", "the name \"a/b\""),
            ("time,\n1,1", "the name \"\""),
        ] {
            let (pointer, text) = refused(of(csv));
            assert!(pointer == "/csv" && text.contains(wanted), "{csv}: {text}");
        }
        let long = Table { sensor: Some("x".repeat(129)), ..of("time,temp\n") };
        assert!(refused(long).1.contains("the name"));
        assert_eq!(refused(Table { sensor: None, ..of("time\n") }).0, "/csv");
        assert_eq!(refused(Table { zone: Some("Mars/Base".into()), ..of("time\n") }).0, "/zone");
    }
}
