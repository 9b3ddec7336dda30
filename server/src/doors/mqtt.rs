//! Sessions of MQTT clients, as the console shows them.

use base::{Page, PageRequest};
use edge::{Caller, Operation, PageBody, Paging, Routes, State};
use mqtt::SessionInfo;
use schemars::JsonSchema;
use serde::Serialize;

use super::Doors;

/// A session of a client, connected or kept.
#[derive(Serialize, JsonSchema)]
pub(super) struct SessionBody {
    client: String,
    /// Whose it is: an e-mail address or a key's label.
    name: String,
    connected: bool,
    /// It stays when its client goes, until its time is over.
    kept: bool,
    subscriptions: usize,
    /// Messages that wait for its client or for its PUBACK.
    waiting: usize,
    waiting_bytes: usize,
    /// Messages that it did not get since the server started, for it was full.
    missed: u64,
}

impl From<SessionInfo> for SessionBody {
    fn from(info: SessionInfo) -> Self {
        Self {
            client: info.client,
            name: info.name,
            connected: info.is_connected,
            kept: info.is_kept,
            subscriptions: info.subscriptions,
            waiting: info.waiting,
            waiting_bytes: info.waiting_bytes,
            missed: info.missed,
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone()).add(
        Operation::get("/v1/mqtt/sessions")
            .id("listMqttSessions")
            .summary("Sessions of MQTT clients, connected or kept, by client identifier.")
            .tag("mqtt")
            .action(mqtt::READ),
        list,
    )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(PageRequest { after, limit }): Paging,
) -> PageBody<SessionBody> {
    let sessions = doors.mqtt.sessions(caller.organisation(), after.as_deref(), limit + 1);
    Page::of(sessions, limit, |session| session.client.clone()).map(SessionBody::from).into()
}
