//! `--sample`: a year of three real weather stations, replayed through the MQTT door as devices would send it.
//!
//! First the whole year as fast as it is taken, its times moved so that it ends now. Then live: an hour of the year each
//! second, from its beginning again, with the time of now. What was sent is remembered, so that a restart goes on.

mod weather;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use base::{Base, OrganisationId, Timestamp};
use bytes::Bytes;
use edge::Router;
use identity::KeyCredentials;
use mqtt::Client;
use relational::{Db, Migration, params};
use serde_json::{Value, json};
use tower::ServiceExt;

use weather::{Row, Weather};

/// Where the sample goes, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) base: Base,
    pub(crate) db: Db,
    pub(crate) router: Router,
    pub(crate) mqtt: SocketAddr,
    pub(crate) key: KeyCredentials,
}

const MIGRATIONS: &[Migration] = &[Migration {
    id: "0001-sample",
    sql: "
        CREATE TABLE sample (
            organisation VARCHAR(36) NOT NULL PRIMARY KEY,
            shift BIGINT NOT NULL,
            sent BIGINT NOT NULL
        );
    ",
}];

/// Rows between two notes of how far it came; after a crash at most these are sent again, and change nothing.
const ROWS_PER_NOTE: usize = 1_000;
/// One hour of the year.
const LIVE_PAUSE: Duration = Duration::from_secs(1);

/// How far the replay came.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Added to the times of the year, in microseconds.
    shift: i64,
    /// Rows sent, the live ones counted on.
    sent: usize,
}

/// Registers the stations and starts the replay.
pub(crate) async fn start(target: Target) -> Result<()> {
    target.db.migrate("sample", MIGRATIONS).await?;
    register(&target).await.context("register the sample's stations")?;
    let tasks = target.base.tasks.clone();
    tasks.supervise("sample", move || {
        let target = target.clone();
        async move { replay(&target).await.map_err(Into::into) }
    });
    Ok(())
}

async fn replay(target: &Target) -> Result<()> {
    let weather = Weather::read()?;
    let mut progress = progress(target, &weather).await?;
    let key = &target.key;
    let mut client =
        Client::connect(target.mqtt, "sample", &key.mqtt_user, &key.mqtt_password).await?;
    while progress.sent < weather.rows.len() {
        let end = weather.rows.len().min(progress.sent + ROWS_PER_NOTE);
        for row in &weather.rows[progress.sent..end] {
            let time = Timestamp::from_micros(row.time.micros() + progress.shift);
            publish(&mut client, row, time).await?;
        }
        client.settle().await?;
        progress.sent = end;
        note(target, progress).await?;
    }
    tracing::info!(rows = weather.rows.len(), "the sample's year is loaded; live readings follow");
    loop {
        target.base.clock.sleep(LIVE_PAUSE).await;
        let now = target.base.clock.now();
        let hour = weather.hour_at(progress.sent % weather.rows.len());
        for row in hour {
            publish(&mut client, row, now).await?;
        }
        client.settle().await?;
        progress.sent += hour.len();
        note(target, progress).await?;
    }
}

async fn publish(client: &mut Client, row: &Row, time: Timestamp) -> Result<()> {
    let reading = json!({
        "sensor": weather::SENSOR,
        "time": time.to_string(),
        "values": row.values.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>(),
    });
    let topic = format!("data/{}", row.station);
    Ok(client.publish(&topic, Bytes::from(reading.to_string())).await?)
}

/// Where the replay stands; at the first start the year is moved so that its last row is now.
async fn progress(target: &Target, weather: &Weather) -> Result<Progress> {
    let last = weather.rows.last().context("the sample is empty")?.time;
    let shift = target.base.clock.now().micros() - last.micros();
    let organisation = OrganisationId::DEFAULT;
    target
        .db
        .write(async move |tx| {
            let sql = "SELECT shift, sent FROM sample WHERE organisation = ?";
            if let Some(row) = tx.query_optional(sql, params![organisation]).await? {
                let sent: i64 = row.get("sent")?;
                let sent = usize::try_from(sent).unwrap_or(0);
                return Ok(Progress { shift: row.get("shift")?, sent });
            }
            let sql = "INSERT INTO sample (organisation, shift, sent) VALUES (?, ?, 0)";
            tx.execute(sql, params![organisation, shift]).await?;
            Ok::<_, relational::Error>(Progress { shift, sent: 0 })
        })
        .await
        .map_err(Into::into)
}

async fn note(target: &Target, progress: Progress) -> Result<()> {
    let sent = i64::try_from(progress.sent)?;
    let sql = "UPDATE sample SET sent = ? WHERE organisation = ?";
    let work = async move |tx: &mut relational::Tx| {
        tx.execute(sql, params![sent, OrganisationId::DEFAULT]).await.map(drop)
    };
    target.db.write(work).await.map_err(Into::into)
}

/// Makes the sensor type and the stations by the API, where they are missing.
async fn register(target: &Target) -> Result<()> {
    let values = weather::VALUES
        .map(|(name, unit, label)| json!({"name": name, "unit": unit, "label": label}));
    let sensor = json!({"name": weather::SENSOR, "values": values});
    make(target, "/v1/sensors", &sensor).await?;
    for station in weather::stations()? {
        let device = json!({
            "name": station.name,
            "label": station.label,
            "latitude": station.latitude,
            "longitude": station.longitude,
            "sensors": [weather::SENSOR],
        });
        make(target, "/v1/devices", &device).await?;
    }
    Ok(())
}

async fn make(target: &Target, path: &str, body: &Value) -> Result<()> {
    let request = Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", target.key.token))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))?;
    let response = target.router.clone().oneshot(request).await?;
    match response.status() {
        StatusCode::CREATED | StatusCode::CONFLICT => Ok(()),
        status => {
            let body = axum::body::to_bytes(response.into_body(), 64 << 10).await?;
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body))
        }
    }
}
