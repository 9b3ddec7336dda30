//! What the broker knows of one client, connected or not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base::access::Principal;
use base::{OrganisationId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::outbox::{Budget, Outbox};
use crate::packet::{Close, Options, Will};

pub(crate) struct Session {
    /// Never used again for another session.
    pub(crate) number: u64,
    pub(crate) organisation: OrganisationId,
    pub(crate) client: Arc<str>,
    pub(crate) state: Mutex<State>,
    /// Tells the connection that something waits or that it is to end.
    pub(crate) wake: Notify,
    /// Tells publishers that the queue has room again, or never will.
    pub(crate) space: Notify,
    /// Tells the next connection of the same client that this one let go.
    pub(crate) released: Notify,
}

pub(crate) struct State {
    pub(crate) principal: Principal,
    pub(crate) outbox: Outbox,
    pub(crate) subscriptions: HashMap<Arc<str>, Options>,
    /// Seconds that it is kept without its client.
    pub(crate) expiry: u32,
    /// Rows hold it, so its deliveries are rows as well.
    pub(crate) is_stored: bool,
    pub(crate) is_connected: bool,
    /// It is not in the organisation any more.
    pub(crate) has_ended: bool,
    /// Why the connection is to end.
    pub(crate) kicked: Option<Close>,
    /// Deliveries whose rows are being committed.
    pub(crate) committing: HashSet<u64>,
    /// Deliveries that are done and whose rows could not be removed.
    pub(crate) unforgotten: Vec<u64>,
    pub(crate) will: Option<Will>,
    /// When a delayed will is due.
    pub(crate) will_at: Option<Timestamp>,
    /// When it ends, while there is no connection.
    pub(crate) expires_at: Option<Timestamp>,
    /// The moment at which the broker looks at it again.
    pub(crate) looked_at: Option<Timestamp>,
    /// Packets of QoS 2 that the client has not released.
    pub(crate) received: Vec<u16>,
    pub(crate) missed: Missed,
}

/// A session as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub client: String,
    /// Whose it is: an e-mail address or a key's label.
    pub name: String,
    pub is_connected: bool,
    /// It stays when its client goes, until its time is over.
    pub is_kept: bool,
    pub subscriptions: usize,
    /// Messages that wait for its client or for its PUBACK.
    pub waiting: usize,
    pub waiting_bytes: usize,
    /// Messages that it did not get since the server started, for it had no room.
    pub missed: u64,
}

/// Messages for which a session had no room.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Missed {
    /// A publisher waited in vain for room: no other does until half of its queue is free.
    pub(crate) is_stalled: bool,
    /// Since it had room last.
    pub(crate) lately: u64,
    /// Since it is in memory.
    pub(crate) all: u64,
}

impl Session {
    pub(crate) fn new(
        number: u64,
        client: Arc<str>,
        principal: Principal,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            number,
            organisation: principal.organisation,
            client,
            state: Mutex::new(State {
                principal,
                outbox: Outbox::new(budget),
                subscriptions: HashMap::new(),
                expiry: 0,
                is_stored: false,
                is_connected: false,
                has_ended: false,
                kicked: None,
                committing: HashSet::new(),
                unforgotten: Vec::new(),
                will: None,
                will_at: None,
                expires_at: None,
                looked_at: None,
                received: Vec::new(),
                missed: Missed::default(),
            }),
            wake: Notify::new(),
            space: Notify::new(),
            released: Notify::new(),
        }
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let state = self.state.lock();
        let waiting = state.outbox.reserved();
        SessionInfo {
            client: self.client.to_string(),
            name: state.principal.name.to_string(),
            is_connected: state.is_connected,
            is_kept: state.is_stored,
            subscriptions: state.subscriptions.len(),
            waiting: waiting.messages,
            waiting_bytes: waiting.bytes,
            missed: state.missed.all,
        }
    }

    /// Ends the connection, if there is one.
    pub(crate) fn kick(&self, close: Close) {
        let mut state = self.state.lock();
        if state.is_connected && state.kicked.is_none() {
            state.kicked = Some(close);
            self.wake.notify_one();
        }
    }
}

impl State {
    /// The connection is gone and the session stays until its time is over.
    pub(crate) fn disconnect(&mut self, now: Timestamp) {
        self.is_connected = false;
        self.kicked = None;
        self.outbox.disconnect();
        self.expires_at = Some(now.plus(std::time::Duration::from_secs(self.expiry.into())));
    }

    /// When it wants to be looked at.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match (self.will_at, self.expires_at) {
            (Some(will), Some(end)) => Some(will.min(end)),
            (will, end) => will.or(end),
        }
    }
}
