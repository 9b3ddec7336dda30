//! What was sent, what became of it, and what the protocol says of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::access::Principal;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use testkit::sim::Sim;

use crate::{Accepted, Intake, Message};

/// One message of a client.
pub(super) struct Sent {
    pub(super) client: usize,
    pub(super) qos: u8,
    /// How often it was written to a connection.
    pub(super) transmissions: u64,
    pub(super) is_acknowledged: bool,
    /// How much had happened when it was written first.
    pub(super) at: u64,
}

/// A value that was sent to be retained; nothing when it was to be removed.
pub(super) struct Kept {
    pub(super) value: Option<usize>,
    pub(super) id: u16,
    pub(super) is_acknowledged: bool,
}

/// One connection of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Will {
    /// It must be published once.
    Due,
    /// It must not be.
    Never,
    /// Nobody can know.
    Open,
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) sent: Vec<Sent>,
    /// How often the intake saw each message.
    pub(super) accepted: BTreeMap<usize, u64>,
    /// The first time that the intake saw one of a client, in its order.
    last_accepted: BTreeMap<usize, usize>,
    pub(super) wills: BTreeMap<String, Will>,
    pub(super) published_wills: BTreeMap<String, u64>,
    /// By topic, in the order of sending.
    pub(super) kept: BTreeMap<String, Vec<Kept>>,
    pub(super) violation: Option<String>,
    pub(super) events: u64,
}

pub(super) type Shared = Arc<Mutex<Ledger>>;

/// Takes messages over as devices do.
pub(super) struct Desk {
    pub(super) sim: Sim,
    pub(super) clock: base::Clock,
    pub(super) ledger: Shared,
    pub(super) is_calm: Arc<AtomicBool>,
}

/// Payloads are `m<number>` for messages and `w<client>-<connection>` for wills.
pub(super) fn number(payload: &[u8]) -> Option<usize> {
    str::from_utf8(payload).ok()?.strip_prefix('m')?.parse().ok()
}

impl Intake for Desk {
    fn accept<'a>(&'a self, _: &'a Principal, message: &'a Message) -> BoxFuture<'a, Accepted> {
        async move {
            let late = self.sim.below(4) * self.sim.below(8);
            let mine = message.topic.starts_with("t/") && message.topic.ends_with('s');
            let is_calm = self.is_calm.load(Ordering::Relaxed);
            let fails = self.sim.strikes("intake failed", if is_calm { 0 } else { 60 });
            self.ledger.lock().accepted(message);
            self.sim.note(format_args!("intake: {} {:?}", message.topic, message.payload));
            if late > 0 {
                self.clock.sleep(std::time::Duration::from_millis(late)).await;
            }
            match (fails, mine) {
                (true, _) => Accepted::Unavailable,
                (false, true) => Accepted::Stored,
                (false, false) => Accepted::NotMine,
            }
        }
        .boxed()
    }
}

impl Ledger {
    pub(super) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn accepted(&mut self, message: &Message) {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        if text.starts_with('w') {
            *self.published_wills.entry(text).or_default() += 1;
            return;
        }
        let Some(number) = number(&message.payload) else { return };
        let times = self.accepted.entry(number).or_default();
        *times += 1;
        let (times, sent) = (*times, &self.sent[number]);
        if times > sent.transmissions {
            let (sent, what) = (sent.transmissions, format!("message {number}"));
            return self.violated(format!("{what} was sent {sent} times and taken {times} times"));
        }
        let client = sent.client;
        if times == 1 && self.last_accepted.insert(client, number).is_some_and(|it| it > number) {
            self.violated(format!("message {number} was taken after a later one of its client"));
        }
    }

    /// Looks at what must be true once nothing moves any more.
    pub(super) fn wills_are_right(&self) -> Result<u64, String> {
        for (will, expected) in &self.wills {
            let times = self.published_wills.get(will).copied().unwrap_or(0);
            let is_right = match expected {
                Will::Due => times == 1,
                Will::Never => times == 0,
                Will::Open => times <= 1,
            };
            if !is_right {
                return Err(format!("will {will} was published {times} times: {expected:?}"));
            }
        }
        Ok(self.published_wills.values().sum())
    }

    /// The values that a topic may hold, by what was acknowledged.
    pub(super) fn possible(&self, topic: &str) -> BTreeSet<Option<usize>> {
        let Some(kept) = self.kept.get(topic) else { return BTreeSet::from([None]) };
        let floor = kept.iter().rposition(|it| it.is_acknowledged);
        let mut possible: BTreeSet<_> =
            kept[floor.unwrap_or(0)..].iter().map(|it| it.value).collect();
        if floor.is_none() {
            possible.insert(None);
        }
        possible
    }
}
