//! The numbers of the console's first page.

use edge::{Caller, Json, Operation, Routes, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::Doors;

#[derive(Serialize, JsonSchema)]
struct OverviewBody {
    devices: usize,
    sensors: usize,
    rules: usize,
    /// Each reading counted once, however often it was sent.
    readings_total: u64,
    /// Over the last ten seconds.
    readings_per_second: f64,
    alerts_total: u64,
    /// Since midnight UTC.
    alerts_today: u64,
    /// Mails kept because no mail server is configured.
    messages_held: u64,
    messages_waiting: u64,
    messages_failed: u64,
    /// Readings that were refused, and events and commands that were set aside.
    dead_letters: u64,
    /// Where devices connect: address and port of the MQTT door.
    mqtt: Option<String>,
    version: &'static str,
    uptime_seconds: u64,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone()).add(
        Operation::get("/v1/overview")
            .id("overview")
            .summary("What there is and what happened, in numbers.")
            .tag("system")
            .action(devices::DEVICES_READ),
        overview,
    )
}

async fn overview(State(doors): State<Doors>, caller: Caller) -> edge::Result<Json<OverviewBody>> {
    let organisation = caller.organisation();
    let devices = doors.devices.overview(organisation).await?;
    let messages = doors.delivery.counts(organisation).await;
    let messages = messages.map_err(|error| edge::Error::of(error.kind(), error))?;
    let held_mails = doors.delivery.held_mails(organisation).await;
    let held_mails = held_mails.map_err(|error| edge::Error::of(error.kind(), error))?;
    let dead_letters = doors.db.dead_letters_count(organisation).await;
    let dead_letters = dead_letters.map_err(super::failed_rows)? + devices.dead_letters;
    Ok(Json(OverviewBody {
        devices: devices.devices,
        sensors: devices.sensors,
        rules: devices.rules,
        readings_total: devices.readings_total,
        readings_per_second: devices.readings_per_second,
        alerts_total: devices.alerts_total,
        alerts_today: devices.alerts_today,
        messages_held: held_mails,
        messages_waiting: messages.waiting + messages.sending,
        messages_failed: messages.failed,
        dead_letters,
        mqtt: doors.mqtt_address.map(|address| address.to_string()),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: doors.base.clock.now().since(doors.started).as_secs(),
    }))
}
