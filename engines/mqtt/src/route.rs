//! From one publish to everybody who subscribed: promise room, make durable, deliver.

use std::sync::Arc;

use base::Timestamp;
use base::access::Principal;
use futures::FutureExt;
use futures::future::{BoxFuture, MaybeDone, maybe_done};

use crate::broker::{Broker, Organisation, PUBLISH};
use crate::outbox::Delivery;
use crate::packet::{Close, Reason, Will};
use crate::protocol::Outcome;
use crate::session::{Session, State};
use crate::store::{Queued, RetainedChange};
use crate::{Accepted, Error, Message, Qos, topic};

/// What is done with a message after the intake saw it.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// `is_stored`: the intake keeps it, so a subscriber that is too slow is no reason to refuse it.
    Route {
        is_stored: bool,
    },
    Answer(Outcome),
}

impl From<Accepted> for Verdict {
    fn from(accepted: Accepted) -> Self {
        match accepted {
            Accepted::NotMine => Self::Route { is_stored: false },
            Accepted::Stored => Self::Route { is_stored: true },
            Accepted::Refused { reason } => Self::Answer(Outcome::Refused(reason)),
            Accepted::Denied => Self::Answer(Outcome::Denied),
            Accepted::Unavailable => Self::Answer(Outcome::Unavailable),
        }
    }
}

/// A message and what is to be done with it.
pub(crate) struct Judged {
    pub(crate) message: Arc<Message>,
    pub(crate) verdict: Verdict,
}

struct Target {
    session: Arc<Session>,
    qos: Qos,
    retain: bool,
    identifiers: Vec<u32>,
    promise: Promise,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// It gets the message if there is room.
    None,
    Room,
    /// Room, and a row.
    Row,
    /// It is full and takes nothing: it does not get the message.
    Missed,
}

/// A message with its targets, whose room is promised.
struct Plan {
    /// Which of the batch it is.
    position: usize,
    message: Arc<Message>,
    sequence: u64,
    targets: Vec<Target>,
    changes_retained: bool,
}

enum Blocked {
    Session(Arc<Session>),
    Retained,
}

enum Promised {
    Yes(Promise),
    /// There is nobody to deliver to.
    Gone,
    /// A kept session that nobody empties.
    Missed,
    Full,
}

/// A wait that can be asked again when it is over.
type Sleep = MaybeDone<BoxFuture<'static, ()>>;

impl Broker {
    /// Delivers a batch in its order. When this returns `Done` for a message, what its QoS promises is durable.
    /// `source` is the sender's session.
    pub(crate) async fn route(
        self: &Arc<Self>,
        organisation: &Arc<Organisation>,
        source: u64,
        batch: Vec<Judged>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut plans = Vec::with_capacity(batch.len());
        // Once a message is not acknowledged and its connection closes, none behind it may be: it is sent again, in order.
        let mut is_closing = false;
        for Judged { message, verdict } in batch {
            if is_closing {
                outcomes.push(Outcome::Unavailable);
                continue;
            }
            let is_stored = match verdict {
                Verdict::Route { is_stored } => is_stored,
                Verdict::Answer(outcome) => {
                    is_closing = closes(&message, &outcome);
                    outcomes.push(outcome);
                    continue;
                }
            };
            let position = outcomes.len();
            outcomes.push(Outcome::Done);
            let mut deadline = None;
            loop {
                let planned = self.plan(organisation, source, &message, is_stored);
                let blocked = match planned {
                    Ok(plan) => {
                        plans.push(Plan { position, ..plan });
                        break;
                    }
                    Err(blocked) => blocked,
                };
                // What waits for room must not hold back what has it.
                if !self.carry_out(organisation, std::mem::take(&mut plans), &mut outcomes).await {
                    is_closing = true;
                    outcomes[position] = Outcome::Unavailable;
                    break;
                }
                let Blocked::Session(session) = blocked else {
                    outcomes[position] = Outcome::Full;
                    break;
                };
                let cost = message.cost();
                if !self.wait_for_room(&session, cost, &mut deadline).await {
                    self.give_up(&session);
                }
            }
        }
        self.carry_out(organisation, plans, &mut outcomes).await;
        outcomes
    }

    /// Finds the subscribers and promises them room; all or none.
    fn plan(
        &self,
        organisation: &Organisation,
        source: u64,
        message: &Arc<Message>,
        is_stored: bool,
    ) -> Result<Plan, Blocked> {
        let mut changes_retained = message.retain;
        if message.retain && !message.payload.is_empty() {
            let config = &self.config;
            let (count_max, bytes_max) = (config.retained_max, config.retained_bytes_max);
            if !organisation.retained.lock().has_room(message, count_max, bytes_max) {
                if !is_stored && message.qos != Qos::AtMostOnce {
                    return Err(Blocked::Retained);
                }
                self.meter.dropped("retained_full", 1);
                changes_retained = false;
            }
        }
        let sequence = self.next_number();
        let mut targets = targets(organisation, source, message);
        for position in 0..targets.len() {
            let target = &targets[position];
            if target.qos == Qos::AtMostOnce {
                continue;
            }
            match self.promise(&target.session, message.cost(), sequence) {
                Promised::Yes(promise) => targets[position].promise = promise,
                Promised::Gone => targets[position].qos = Qos::AtMostOnce,
                Promised::Missed => targets[position].promise = Promise::Missed,
                Promised::Full => {
                    let session = target.session.clone();
                    targets.truncate(position);
                    take_back(&targets, message.cost(), sequence);
                    return Err(Blocked::Session(session));
                }
            }
        }
        // Only now it is sure that it is not planned again.
        for missed in targets.extract_if(.., |target| target.promise == Promise::Missed) {
            self.missed(&missed.session);
        }
        if changes_retained {
            let mut retained = organisation.retained.lock();
            let before = retained.count();
            if message.payload.is_empty() {
                retained.clear(&message.topic);
            } else {
                retained.set(message.clone());
            }
            let change = retained.count().cast_signed() - before.cast_signed();
            self.meter.retained.inc_by(change as i64);
        }
        Ok(Plan { position: 0, message: message.clone(), sequence, targets, changes_retained })
    }

    fn promise(&self, session: &Session, cost: usize, sequence: u64) -> Promised {
        let mut state = session.state.lock();
        let is_leaving = !state.is_stored && (state.kicked.is_some() || !state.is_connected);
        if state.has_ended || is_leaving {
            return Promised::Gone;
        }
        let limits = self.queue_room();
        let has_room = if state.is_connected {
            state.outbox.has_room(cost, limits, self.config.queues_bytes_max)
        } else {
            state.outbox.has_room_in_rows(cost, limits)
        };
        if !has_room {
            let is_given_up = state.is_stored && (state.missed.is_stalled || !state.is_connected);
            return if is_given_up { Promised::Missed } else { Promised::Full };
        }
        if state.missed.lately > 0 || state.missed.is_stalled {
            self.has_room_again(session, &mut state);
        }
        state.outbox.reserve(cost);
        if !state.is_stored {
            return Promised::Yes(Promise::Room);
        }
        state.committing.insert(sequence);
        Promised::Yes(Promise::Row)
    }

    /// Waits until the queue of a connected client has room; false when it took too long.
    async fn wait_for_room(
        &self,
        session: &Session,
        cost: usize,
        deadline: &mut Option<Sleep>,
    ) -> bool {
        let space = session.space.notified();
        tokio::pin!(space);
        space.as_mut().enable();
        {
            let state = session.state.lock();
            let has_room =
                state.outbox.has_room(cost, self.queue_room(), self.config.queues_bytes_max);
            if state.has_ended || !state.is_connected || has_room {
                return true;
            }
        }
        let clock = self.base.clock.clone();
        let wait_max = self.config.queue_wait_max;
        let sleep = || maybe_done(async move { clock.sleep(wait_max).await }.boxed());
        let deadline = deadline.get_or_insert_with(sleep);
        tokio::select! {
            biased;
            () = space => true,
            () = deadline => false,
        }
    }

    /// Decides what gives way when a queue stays full, so that no publisher waits twice for one that takes nothing: a
    /// subscriber that is only connected is disconnected, a kept session misses messages until it takes some.
    fn give_up(&self, session: &Session) {
        let mut state = session.state.lock();
        if state.is_stored {
            state.missed.is_stalled = true;
            return;
        }
        drop(state);
        self.meter.dropped("slow_subscriber", 1);
        tracing::warn!(
            client = &*session.client,
            organisation = %session.organisation,
            "a subscriber that does not take its messages is disconnected"
        );
        session.kick(Close::of(Reason::QUOTA, "messages were not taken fast enough"));
    }

    /// Counts a message that a kept session has no room for.
    fn missed(&self, session: &Session) {
        self.meter.dropped("queue_full", 1);
        let missed = {
            let mut state = session.state.lock();
            state.missed.lately += 1;
            state.missed.all += 1;
            state.missed
        };
        if missed.lately == 1 {
            tracing::warn!(
                client = &*session.client,
                organisation = %session.organisation,
                "a kept session is full: it misses messages until its client takes some"
            );
        }
    }

    fn has_room_again(&self, session: &Session, state: &mut State) {
        if !state.outbox.is_half_free(self.queue_room()) {
            return;
        }
        state.missed.is_stalled = false;
        let missed = std::mem::take(&mut state.missed.lately);
        if missed > 0 {
            tracing::warn!(
                client = &*session.client,
                organisation = %session.organisation,
                missed,
                "a kept session has room again"
            );
        }
    }

    /// Makes durable what must be, in one transaction, and delivers; says whether it could.
    async fn carry_out(
        &self,
        organisation: &Organisation,
        plans: Vec<Plan>,
        outcomes: &mut [Outcome],
    ) -> bool {
        let mut queued = Vec::new();
        let mut retained = Vec::new();
        for plan in &plans {
            if plan.changes_retained {
                retained.push(RetainedChange {
                    topic: plan.message.topic.clone(),
                    retained: organisation.retained.clone(),
                });
            }
            let rows = plan.targets.iter().filter(|target| target.promise == Promise::Row);
            queued.extend(rows.map(|target| Queued {
                session: target.session.number,
                sequence: plan.sequence,
                message: plan.message.clone(),
                qos: target.qos,
                retain: target.retain,
                identifiers: target.identifiers.clone().into(),
            }));
        }
        if !(queued.is_empty() && retained.is_empty())
            && let Err(error) = self.store.keep(organisation.id, queued, retained).await
        {
            tracing::warn!(%error, "messages could not be stored");
            for plan in plans {
                outcomes[plan.position] = Outcome::Unavailable;
                take_back(&plan.targets, plan.message.cost(), plan.sequence);
            }
            return false;
        }
        let now = self.base.clock.now();
        for plan in plans {
            self.deliver(plan, now);
        }
        true
    }

    fn deliver(&self, plan: Plan, now: Timestamp) {
        let cost = plan.message.cost();
        for target in plan.targets {
            let session = target.session;
            let mut state = session.state.lock();
            let is_wanted = match target.promise {
                Promise::None | Promise::Missed => !state.has_ended && state.is_connected,
                Promise::Room => {
                    let is_there = !state.has_ended && state.is_connected;
                    if !is_there {
                        state.outbox.release(cost);
                    }
                    is_there
                }
                // When it is not there any more, the rows were read after the commit.
                Promise::Row => state.committing.remove(&plan.sequence) && state.is_connected,
            };
            if !is_wanted || plan.message.is_expired(now) && target.promise != Promise::Row {
                continue;
            }
            if target.promise == Promise::None {
                let total = self.config.queues_bytes_max;
                if !state.outbox.has_room(cost, self.queue_room(), total) {
                    self.meter.dropped("queue_full", 1);
                    state.missed.all += 1;
                    continue;
                }
                state.outbox.reserve(cost);
            }
            state.outbox.push(Delivery {
                message: plan.message.clone(),
                qos: target.qos,
                retain: target.retain,
                dup: false,
                identifiers: target.identifiers.into(),
                sequence: plan.sequence,
                is_durable: target.promise == Promise::Row,
            });
            drop(state);
            session.wake.notify_one();
        }
    }

    /// Publishes the will of a client that is gone, if it still may.
    pub(crate) fn publish_will(
        self: &Arc<Self>,
        organisation: &Arc<Organisation>,
        session: &Arc<Session>,
        principal: Principal,
        will: Will,
    ) {
        let (broker, organisation, session) = (self.clone(), organisation.clone(), session.clone());
        self.base.tasks.spawn("mqtt-will", async move {
            let now = broker.base.clock.now();
            let will = will.publish;
            let expiry = will.expiry.map(|it| std::time::Duration::from_secs(it.into()));
            let message = Arc::new(Message {
                topic: will.topic,
                payload: will.payload,
                qos: will.qos,
                retain: will.retain,
                client: session.client.clone(),
                received: now,
                expires: expiry.map(|expiry| now.plus(expiry)),
                properties: will.properties,
            });
            let may = topic::is_topic(&message.topic, broker.config.topic_levels_max)
                && broker.authority.is_current(&principal)
                && broker.may(&principal, PUBLISH, &message.topic);
            if !may {
                tracing::debug!(client = &*session.client, "a will may not be published");
                return;
            }
            let verdict = broker.intake.accept(&principal, &message).await.into();
            let batch = vec![Judged { message, verdict }];
            let outcomes = broker.route(&organisation, session.number, batch).await;
            if outcomes != [Outcome::Done] {
                broker.meter.dropped("will", 1);
                tracing::warn!(client = &*session.client, ?outcomes, "a will was not published");
            }
        });
    }

    pub(crate) async fn clear_retained(
        &self,
        organisation: &Organisation,
        topics: Vec<Arc<str>>,
    ) -> Result<(), Error> {
        {
            let mut retained = organisation.retained.lock();
            for topic in &topics {
                retained.clear(topic);
                self.meter.retained.dec();
            }
        }
        let changes = topics
            .into_iter()
            .map(|topic| RetainedChange { topic, retained: organisation.retained.clone() });
        self.store.keep(organisation.id, Vec::new(), changes.collect()).await
    }
}

/// The sessions that subscribed, each once, with the best QoS of its filters: MQTT 5, section 3.3.4.
fn targets(organisation: &Organisation, source: u64, message: &Message) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let subscribers = organisation.subscribers.read();
    subscribers.matches(&message.topic, &mut |number, subscriber| {
        let options = &subscriber.options;
        if options.no_local && number == source {
            return;
        }
        let retain = message.retain && options.retain_as_published;
        targets.push(Target {
            session: subscriber.session.clone(),
            qos: options.qos.min(message.qos.granted()),
            retain,
            identifiers: options.identifier.into_iter().collect(),
            promise: Promise::None,
        });
    });
    drop(subscribers);
    if targets.len() > 1 {
        targets.sort_by_key(|target| target.session.number);
        targets.dedup_by(|later, first| {
            let is_same = later.session.number == first.session.number;
            if is_same {
                first.qos = first.qos.max(later.qos);
                first.retain |= later.retain;
                first.identifiers.append(&mut later.identifiers);
            }
            is_same
        });
    }
    targets
}

/// Whether the outcome closes the connection that the message came by.
fn closes(message: &Message, outcome: &Outcome) -> bool {
    *outcome == Outcome::Unavailable && message.qos != Qos::AtMostOnce
}

fn take_back(targets: &[Target], cost: usize, sequence: u64) {
    for target in targets {
        let mut state = target.session.state.lock();
        match target.promise {
            Promise::None | Promise::Missed => {}
            Promise::Room => state.outbox.release(cost),
            // A session that came back meanwhile has read the row already, if there is one.
            Promise::Row => {
                if state.committing.remove(&sequence) {
                    state.outbox.release(cost);
                }
            }
        }
        drop(state);
        target.session.space.notify_waiters();
    }
}
