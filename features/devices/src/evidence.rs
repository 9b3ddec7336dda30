//! Why an alert was raised: its reasons, the rule as it was then, and the readings that led to it.

use base::{EventId, Timestamp};
use lake::Format;
use relational::Read;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fleet::Fleet;
use crate::reading::parse_number;
use crate::rule::RuleText;
use crate::store::{self, Alert, Why};
use crate::{Error, Result};

/// Values of readings that one answer shows.
const VALUES_MAX: usize = 1_000;
/// How far back readings are shown when the rule looked at one alone.
const BEFORE: std::time::Duration = std::time::Duration::from_hours(1);

/// An alert with what led to it.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub alert: Alert,
    pub rule: Option<RuleText>,
    /// The oldest first.
    pub readings: Vec<(Timestamp, Vec<(String, f64)>)>,
}

/// What the lake answers, borrowed from its text.
#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(borrow)]
    rows: Vec<(i64, String, Option<&'a RawValue>)>,
}

impl Fleet {
    pub(crate) async fn evidence(&self, id: EventId) -> Result<Evidence> {
        let organisation = self.organisation;
        let ask = async move |read: &mut Read| {
            let alert = store::alert(read, organisation, id).await?;
            let Some(alert) = alert else { return Ok(None) };
            let version = alert.why.as_ref().map(|why| (alert.rule, why.version));
            let rule = match version {
                Some(version) => store::version(read, organisation, version).await?,
                None => None,
            };
            Ok::<_, Error>(Some((alert, rule)))
        };
        let found = self.house.needs.db.read(ask).await?;
        let (alert, rule) = found.ok_or_else(|| Error::NotFound("alert", id.to_string()))?;
        let sql = question(&alert);
        let asked = self.house.needs.lake.query_encoded(organisation, &sql, Format::Json);
        let answer = asked.await?;
        let rows: Rows<'_> = serde_json::from_slice(&answer.bytes)
            .map_err(|_| Error::damaged("an answer of the lake"))?;
        let mut readings: Vec<(Timestamp, Vec<(String, f64)>)> = Vec::new();
        for (time, name, value) in rows.rows.into_iter().rev() {
            let time = Timestamp::from_micros(time);
            if readings.last().is_none_or(|(last, _)| *last != time) {
                readings.push((time, Vec::new()));
            }
            let value = value.and_then(|value| parse_number(value).ok().flatten());
            if let (Some(value), Some((_, values))) = (value, readings.last_mut()) {
                values.push((name, value));
            }
        }
        Ok(Evidence { alert, rule: rule.map(|version| version.text), readings })
    }
}

fn question(alert: &Alert) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (device, sensor) = (quoted(&alert.device), quoted(&alert.sensor));
    let from = earliest(alert.why.as_ref(), alert.time).min(alert.time.minus(BEFORE));
    let to = alert.time;
    format!(
        "SELECT CAST(time AS BIGINT) AS micros, name, value FROM readings \
         WHERE device = {device} AND sensor = {sensor} AND time >= '{from}' AND time <= '{to}' \
         ORDER BY time DESC, name DESC LIMIT {VALUES_MAX}"
    )
}

/// The earliest reading that the reasons speak of.
fn earliest(why: Option<&Why>, time: Timestamp) -> Timestamp {
    let Some(why) = why else { return time };
    let thens = why.conditions.iter().filter_map(|saw| saw.then.as_ref());
    let times = thens.map(|then| &then.time).chain([&why.since]);
    times.filter_map(|text| text.parse().ok()).fold(time, Timestamp::min)
}
