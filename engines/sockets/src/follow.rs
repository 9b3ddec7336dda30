use std::collections::VecDeque;
use std::sync::Arc;

use base::access::Principal;
use bytes::Bytes;

use crate::Error;
use crate::destination::Destination;
use crate::hub::{Hub, Route};
use crate::lane::{Lane, Read, Subscriber};
use crate::message::Message;
use crate::outbox::{End, Item, Outbox};

/// A reader of one topic that is not connected by STOMP.
pub struct Follow {
    hub: Arc<Hub>,
    principal: Principal,
    destination: Destination,
    lane: Arc<Lane>,
    channel: Arc<str>,
    outbox: Arc<Outbox>,
    /// Where it is while it is not where the topic is.
    behind: Option<u64>,
    waiting: VecDeque<Followed>,
    epoch: tokio::sync::watch::Receiver<u64>,
}

/// A message as such a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    Message {
        /// Where to resume; nothing for a message that is not kept.
        id: Option<String>,
        body: Bytes,
        /// The body is UTF-8.
        is_text: bool,
    },
    /// What was asked for is not kept any more; on from this offset.
    Gap { kept_from: u64 },
}

impl Follow {
    pub(crate) async fn open(
        hub: Arc<Hub>,
        principal: Principal,
        name: &str,
        last: Option<&str>,
    ) -> Result<Self, Error> {
        let text = format!("/topic/{name}");
        let parsed = Destination::parse(&text, hub.config.destination_bytes_max);
        let destination = parsed.map_err(|fault| Error::Destination(fault.0.into_owned()))?;
        let epoch = hub.authority.epoch();
        if !hub.may_subscribe(&principal, &destination) {
            return Err(Error::Forbidden);
        }
        let Route::Topic { lane, channel } = hub.route(&principal, &destination).await? else {
            return Err(Error::NotFound("topic"));
        };
        let from = last.map(|last| place(last, &lane)).transpose()?;
        let outbox = Outbox::new(hub.config.outgoing_bytes_max, &hub.pool);
        let mut follow = Self {
            hub,
            principal,
            destination,
            lane,
            channel,
            outbox,
            behind: from,
            waiting: VecDeque::new(),
            epoch,
        };
        match from {
            None => follow.lane.join(&follow.channel, &follow.outbox, 0),
            Some(from) => follow.catch_up(from),
        }
        Ok(follow)
    }

    /// The next message; nothing when it may no longer listen, or was too slow.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            // Also while there is something to give: a slow reader is given what is kept for hours.
            if self.epoch.has_changed().is_ok_and(|has_changed| has_changed) {
                self.epoch.mark_unchanged();
                if !self.may_still() {
                    return None;
                }
            }
            if let Some(followed) = self.waiting.pop_front() {
                return Some(followed);
            }
            if let Some(from) = self.behind {
                if let Err(error) = self.read(from).await {
                    tracing::warn!(%error, "a topic could not be read on");
                    return None;
                }
                continue;
            }
            let taken = self.take();
            match taken {
                Ok(()) if !self.waiting.is_empty() => continue,
                Ok(()) => {}
                Err(end) => {
                    match end {
                        End::Slow => self.hub.meter.closed("slow"),
                        End::Crowded(_) => self.hub.meter.closed("crowded"),
                        End::Closed | End::Gone => {}
                    }
                    return None;
                }
            }
            tokio::select! {
                () = self.outbox.wake.notified() => {}
                changed = self.epoch.changed() => if changed.is_err() || !self.may_still() {
                    return None;
                }
            }
        }
    }

    fn may_still(&self) -> bool {
        self.hub.authority.is_current(&self.principal)
            && self.hub.may_subscribe(&self.principal, &self.destination)
    }

    fn take(&mut self) -> Result<(), End> {
        let (waiting, lane) = (&mut self.waiting, &self.lane);
        self.outbox.take(|item| {
            if let Item::Topic { message, .. } = item {
                waiting.push_back(followed(lane, &message));
            }
            // One at a time, so that what waits is counted where it is limited.
            false
        })?;
        Ok(())
    }

    async fn read(&mut self, from: u64) -> Result<(), Error> {
        match self.lane.read(&self.channel, from).await? {
            Read::Messages { messages, next } => {
                self.hub.meter.resumed.inc_by(messages.len() as u64);
                self.waiting.extend(messages.iter().map(|it| followed(&self.lane, it)));
                self.catch_up(next);
            }
            Read::Gap { kept_from } => {
                self.waiting.push_back(Followed::Gap { kept_from });
                self.catch_up(kept_from);
            }
        }
        Ok(())
    }

    fn catch_up(&mut self, from: u64) {
        let subscriber = Subscriber { outbox: self.outbox.clone(), number: 0, from };
        self.behind = (!self.lane.join_at(&self.channel, subscriber)).then_some(from);
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.outbox.end(End::Gone);
        self.lane.leave(&self.channel, &self.outbox, 0);
    }
}

fn followed(lane: &Lane, message: &Message) -> Followed {
    Followed::Message {
        id: message.offset.map(|offset| format!("t.{}.{offset}", lane.partition())),
        body: message.body(),
        is_text: message.is_text,
    }
}

/// The offset after a message, by its id.
fn place(id: &str, lane: &Lane) -> Result<u64, Error> {
    let wrong = || Error::Destination(format!("{id:?} is not the id of a message of this topic"));
    let (partition, offset) =
        id.strip_prefix("t.").and_then(|rest| rest.split_once('.')).ok_or_else(wrong)?;
    let partition: u32 = partition.parse().map_err(|_| wrong())?;
    let offset: u64 = offset.parse().map_err(|_| wrong())?;
    if partition == lane.partition() { Ok(offset.saturating_add(1)) } else { Err(wrong()) }
}
