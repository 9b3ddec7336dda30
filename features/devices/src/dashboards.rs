//! Dashboards: charts of devices' values, kept as documents under a name.
//!
//! A document says what is to be drawn and knows nothing of what is there: a device that it names may be registered later, or be
//! gone. Whoever draws it asks for each line's series and is told.

use base::{OrganisationId, Page, PageRequest, Timestamp};
use relational::{Read, Row, Tx, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::reading::check_name;
use crate::rule::check_title;
use crate::store::{AUTHOR_CHARS_MAX, json, parse};
use crate::{Config, Error, Fault, Result};

/// A hundred years: longer than anything that is kept.
const HOURS_MAX: u64 = 876_000;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dashboard {
    pub name: String,
    pub document: Document,
    /// How often it was written.
    pub version: u64,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// Who wrote it last.
    pub author: String,
}

/// What people write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    /// For people.
    pub title: String,
    /// How far the charts reach back; null: as far as anything is kept.
    #[serde(default)]
    pub hours: Option<u64>,
    /// In the order in which they stand.
    pub charts: Vec<Chart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chart {
    /// For people; null: what its lines are called.
    #[serde(default)]
    pub title: Option<String>,
    /// It is as wide as the page; otherwise two stand side by side.
    #[serde(default)]
    pub is_wide: bool,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub device: String,
    pub sensor: String,
    /// The name of a value of the sensor.
    pub value: String,
    /// For people; null: the device and the value.
    #[serde(default)]
    pub label: Option<String>,
    /// What stands for the values of one step.
    #[serde(default)]
    pub show: Show,
}

/// What stands for many values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Show {
    #[default]
    Avg,
    Min,
    Max,
    Last,
}

impl Document {
    /// Their pointers are those of the request that writes it.
    fn faults(&self, config: &Config) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |pointer: String, fault: Option<String>| {
            faults.extend(fault.map(|text| Fault::new(format!("/document{pointer}"), text)));
        };
        let title = |text: &str| check_title(text).err().map(str::to_owned);
        check("/title".into(), title(&self.title));
        if self.hours.is_some_and(|hours| !(1..=HOURS_MAX).contains(&hours)) {
            check("/hours".into(), Some(format!("not from 1 to {HOURS_MAX}")));
        }
        let most = config.dashboard_charts_max;
        if self.charts.len() > most {
            check("/charts".into(), Some(format!("more than {most}")));
        }
        for (place, chart) in self.charts.iter().enumerate() {
            let at = |part: &str| format!("/charts/{place}/{part}");
            check(at("title"), chart.title.as_deref().and_then(title));
            let most = config.dashboard_lines_max;
            if !(1..=most).contains(&chart.lines.len()) {
                check(at("lines"), Some(format!("not from 1 to {most}")));
            }
            for (place, line) in chart.lines.iter().enumerate() {
                let at = |part: &str| at(&format!("lines/{place}/{part}"));
                for (part, name) in
                    [("device", &line.device), ("sensor", &line.sensor), ("value", &line.value)]
                {
                    check(at(part), check_name(name).err().map(|fault| fault.to_string()));
                }
                check(at("label"), line.label.as_deref().and_then(title));
            }
        }
        let bytes = json(self).len();
        let most = config.dashboard_bytes_max;
        if bytes > most {
            check(String::new(), Some(format!("{bytes} bytes as JSON, more than {most}")));
        }
        faults
    }
}

/// What a document is written under.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub name: String,
    pub document: Document,
    /// It is a change of this version, 0 being none; another one is refused.
    pub version: Option<u64>,
    pub author: String,
}

impl Fleet {
    pub(crate) async fn dashboards(&self, request: PageRequest) -> Result<Page<Dashboard>> {
        let organisation = self.organisation;
        let ask = async move |read: &mut Read| page(read, organisation, &request).await;
        self.house.needs.db.read(ask).await
    }

    pub(crate) async fn dashboard(&self, name: String) -> Result<Dashboard> {
        let organisation = self.organisation;
        let ask = async move |read: &mut Read| {
            let row = read.query_optional(ONE, params![organisation, &name]).await?;
            let found = row.as_ref().map(dashboard_of).transpose()?;
            found.ok_or_else(|| Error::NotFound("dashboard", name.clone()))
        };
        self.house.needs.db.read(ask).await
    }

    /// Writes a document, a new one or another text of a known one.
    pub(crate) async fn write_dashboard(&self, wish: Write) -> Result<Dashboard> {
        let config = &self.house.config;
        let mut faults = wish.document.faults(config);
        if let Err(fault) = check_name(&wish.name) {
            faults.push(Fault::new("name", fault.to_string()));
        }
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let (organisation, most) = (self.organisation, config.dashboards_max);
        let now = self.house.base.clock.now();
        let write = async move |tx: &mut Tx| put(tx, (organisation, now), &wish, most).await;
        self.house.needs.db.write(write).await
    }

    pub(crate) async fn delete_dashboard(&self, name: String) -> Result<()> {
        let organisation = self.organisation;
        let delete = async move |tx: &mut Tx| {
            let sql = "DELETE FROM dashboards WHERE organisation = ? AND name = ?";
            match tx.execute(sql, params![organisation, &name]).await? {
                0 => Err(Error::NotFound("dashboard", name.clone())),
                _ => Ok(()),
            }
        };
        self.house.needs.db.write(delete).await
    }
}

const ONE: &str = "SELECT name, document, version, created, updated, author \
                   FROM dashboards WHERE organisation = ? AND name = ?";

/// The dashboards by name. The cursor is the name of the last one.
async fn page(
    read: &mut Read,
    organisation: OrganisationId,
    request: &PageRequest,
) -> Result<Page<Dashboard>> {
    let after = request.after.clone().unwrap_or_default();
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let sql = "SELECT name, document, version, created, updated, author \
               FROM dashboards WHERE organisation = ? AND name > ? ORDER BY name LIMIT ?";
    let rows = read.query(sql, params![organisation, after, limit]).await?;
    let dashboards = rows.iter().map(dashboard_of).collect::<Result<Vec<_>>>()?;
    Ok(Page::of(dashboards, request.limit, |dashboard| dashboard.name.clone()))
}

async fn put(
    tx: &mut Tx,
    (organisation, now): (OrganisationId, Timestamp),
    wish: &Write,
    most: usize,
) -> Result<Dashboard> {
    let Write { name, document, version, author } = wish;
    let row = tx.query_optional(ONE, params![organisation, name]).await?;
    let known = row.as_ref().map(dashboard_of).transpose()?;
    let before = known.as_ref().map_or(0, |known| known.version);
    if version.is_some_and(|version| version != before) {
        return Err(match before {
            0 => Error::NotFound("dashboard", name.clone()),
            _ if *version == Some(0) => Error::AlreadyExists("dashboard", name.clone()),
            _ => Error::InUse(format!("the dashboard {name:?} has version {before} by now")),
        });
    }
    let author: String = author.chars().take(AUTHOR_CHARS_MAX).collect();
    let created = known.map_or(now, |known| known.created);
    let written = Dashboard {
        name: name.clone(),
        document: document.clone(),
        version: before + 1,
        created,
        updated: now,
        author,
    };
    let (text, number) = (json(document), i64::try_from(written.version).unwrap_or(i64::MAX));
    if before == 0 {
        let sql = "SELECT COUNT(*) AS number FROM dashboards WHERE organisation = ?";
        let count: u64 = tx.query_one(sql, params![organisation]).await?.get("number")?;
        if count >= most as u64 {
            return Err(Error::Full("dashboards", most));
        }
        let sql = "INSERT INTO dashboards (organisation, name, document, version, created, updated, author) \
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        let given = params![organisation, name, text, number, created, now, written.author];
        tx.execute(sql, given).await?;
    } else {
        let sql = "UPDATE dashboards SET document = ?, version = ?, updated = ?, author = ? \
                   WHERE organisation = ? AND name = ?";
        let given = params![text, number, now, written.author, organisation, name];
        tx.execute(sql, given).await?;
    }
    Ok(written)
}

fn dashboard_of(row: &Row) -> Result<Dashboard> {
    Ok(Dashboard {
        name: row.get("name")?,
        document: parse(&row.get::<String>("document")?)?,
        version: row.get("version")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        author: row.get("author")?,
    })
}
