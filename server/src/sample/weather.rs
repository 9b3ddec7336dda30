//! The weather of three airports in 2013, as it is embedded. samples/weather/README.md says where it is from.

use std::io::Read;

use anyhow::{Context, Result};
use base::Timestamp;
use flate2::read::GzDecoder;

pub(super) const SENSOR: &str = "weather";

/// Name, unit and label of each value, in the order of the file's columns.
pub(super) const VALUES: [(&str, &str, &str); 9] = [
    ("temp", "°F", "Temperature"),
    ("dewp", "°F", "Dew point"),
    ("humid", "%", "Relative humidity"),
    ("wind_dir", "°", "Wind direction"),
    ("wind_speed", "mph", "Wind speed"),
    ("wind_gust", "mph", "Wind gust"),
    ("precip", "in", "Precipitation"),
    ("pressure", "mbar", "Sea level pressure"),
    ("visib", "mi", "Visibility"),
];

static ROWS: &[u8] = include_bytes!("../../../samples/weather/weather.csv.gz");
static STATIONS: &str = include_str!("../../../samples/weather/stations.csv");

pub(super) struct Weather {
    /// By time, then station.
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) station: String,
    pub(super) time: Timestamp,
    /// Those that are not missing.
    pub(super) values: Vec<(&'static str, f64)>,
}

pub(super) struct Station {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) latitude: f64,
    pub(super) longitude: f64,
}

impl Weather {
    pub(super) fn read() -> Result<Self> {
        let mut text = String::new();
        GzDecoder::new(ROWS).read_to_string(&mut text).context("unpack the sample")?;
        let rows = text
            .lines()
            .skip(1)
            .map(|line| row(line).with_context(|| format!("the sample's line {line:?}")));
        Ok(Self { rows: rows.collect::<Result<_>>()? })
    }

    /// The rows of one hour, from a row on.
    pub(super) fn hour_at(&self, first: usize) -> &[Row] {
        let rest = &self.rows[first..];
        let count = rest.iter().take_while(|row| row.time == rest[0].time).count();
        &rest[..count]
    }
}

pub(super) fn stations() -> Result<Vec<Station>> {
    let station = |line: &str| -> Option<Station> {
        let mut fields = line.split(',');
        Some(Station {
            name: fields.next()?.to_owned(),
            label: fields.next()?.to_owned(),
            latitude: fields.next()?.parse().ok()?,
            longitude: fields.next()?.parse().ok()?,
        })
    };
    let stations = STATIONS.lines().skip(1).map(station);
    stations.collect::<Option<_>>().context("the sample's stations cannot be read")
}

fn row(line: &str) -> Result<Row> {
    let mut fields = line.split(',');
    let station = fields.next().context("no station")?.to_owned();
    let time = fields.next().context("no time")?.parse()?;
    let mut values = Vec::with_capacity(VALUES.len());
    for (name, _, _) in VALUES {
        let field = fields.next().with_context(|| format!("no column for {name}"))?;
        if !field.is_empty() {
            values.push((name, field.parse()?));
        }
    }
    Ok(Row { station, time, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_year_is_whole() {
        let weather = Weather::read().unwrap();
        assert_eq!(weather.rows.len(), 26_115);
        assert_eq!(weather.rows.iter().map(|row| row.values.len()).sum::<usize>(), 211_061);
        assert!(weather.rows.is_sorted_by_key(|row| row.time));
        assert!(weather.hour_at(0).len() <= 3 && !weather.hour_at(0).is_empty());
        let names: Vec<String> = stations().unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["EWR", "JFK", "LGA"]);
    }
}
