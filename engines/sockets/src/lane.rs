use std::collections::HashMap;
use std::sync::Arc;

use base::access::Action;
use base::{Clock, Tasks};
use bytes::Bytes;
use eventlog::{Record, Topic};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::destination::shown_to_subscriber;
use crate::hub::Hub;
use crate::message::{Draft, Message};
use crate::meter::Meter;
use crate::outbox::{Item, Outbox};
use crate::pool::Pool;
use crate::{Config, Error};

/// Records of the log that appear as topics by themselves, such as readings. Clients may not send to them.
pub trait Source: Send + Sync + 'static {
    /// The topic of the log that is followed.
    fn log_topic(&self) -> &'static str;

    /// Whether `/topic/NAME` comes from here.
    fn owns(&self, name: &str) -> bool;

    /// The key of the records of this topic; nothing when they can be in any partition.
    fn key<'a>(&self, name: &'a str) -> Option<&'a str>;

    /// What a subscriber must be granted besides: an action, and what it is done to.
    fn needs(&self, name: &str) -> Option<(Action, String)>;

    /// The names of the topics on which a record is told, as JSON.
    fn names(&self, record: &Record) -> Vec<String>;
}

/// One partition of the log with those who listen to it. Who listens is told in the order of offsets.
pub(crate) struct Lane {
    /// Nothing for what is sent by clients and features.
    source: Option<Arc<dyn Source>>,
    topic: Topic,
    partition: u32,
    sender: Option<mpsc::Sender<Publish>>,
    state: Mutex<State>,
    around: Around,
}

/// What a lane stands in.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) config: Arc<Config>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) pool: Arc<Pool>,
}

impl Around {
    pub(crate) fn new(hub: &Hub) -> Self {
        let (clock, tasks) = (hub.base.clock.clone(), hub.base.tasks.clone());
        let (config, meter) = (hub.config.clone(), hub.meter.clone());
        Self { config, meter, clock, tasks, pool: hub.pool.clone() }
    }
}

#[derive(Default)]
struct State {
    /// Everything before it was told.
    position: u64,
    channels: HashMap<Arc<str>, Channel>,
    /// What each channel's last message was, for those that had one since `since`.
    last: HashMap<Box<str>, u64>,
    since: u64,
    /// Somebody reads the log on.
    is_followed: bool,
}

#[derive(Default)]
struct Channel {
    subscribers: Vec<Subscriber>,
    told: u64,
}

#[derive(Clone)]
pub(crate) struct Subscriber {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) number: u32,
    /// What lies before it was sent already.
    pub(crate) from: u64,
}

/// Records that are appended together.
pub(crate) struct Publish {
    records: Vec<Record>,
    bytes: usize,
    answer: oneshot::Sender<Result<u64, Error>>,
}

/// A step of a resume.
pub(crate) enum Read {
    Messages {
        messages: Vec<Arc<Message>>,
        next: u64,
    },
    /// What was asked for is not kept, or was never there.
    Gap {
        kept_from: u64,
    },
}

/// A topic of the console's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// As a client writes it; queues of users as `/user/ID/queue/NAME`.
    pub destination: String,
    pub subscribers: usize,
    /// Messages since the first of these subscribers came.
    pub messages: u64,
}

impl Lane {
    /// A lane that clients send to.
    pub(crate) fn own(topic: Topic, partition: u32, around: Around) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(around.config.publish_queue_max);
        let lane = Self::new(None, (topic, partition), Some(sender), around);
        let (publisher, tasks) = (lane.clone(), lane.around.tasks.clone());
        tasks.spawn("sockets-publish", async move { publisher.publish_all(receiver).await });
        lane
    }

    /// A lane that follows what others append.
    pub(crate) fn following(
        source: Arc<dyn Source>,
        topic: Topic,
        partition: u32,
        around: Around,
    ) -> Arc<Self> {
        Self::new(Some(source), (topic, partition), None, around)
    }

    fn new(
        source: Option<Arc<dyn Source>>,
        (topic, partition): (Topic, u32),
        sender: Option<mpsc::Sender<Publish>>,
        around: Around,
    ) -> Arc<Self> {
        let position = *topic.end(partition).borrow();
        let state = State { position, since: position, ..State::default() };
        Arc::new(Self { source, topic, partition, sender, state: Mutex::new(state), around })
    }

    /// Appends messages together and tells them; gives the first one's offset once they are on disk.
    pub(crate) async fn publish(
        &self,
        drafts: Vec<(Arc<str>, Draft)>,
    ) -> Result<oneshot::Receiver<Result<u64, Error>>, Error> {
        let now = self.around.clock.now();
        let bytes = drafts.iter().map(|(_, draft)| draft.bytes()).sum();
        let records = drafts.into_iter().map(|(channel, draft)| Record {
            timestamp: now,
            key: Some(Bytes::copy_from_slice(channel.as_bytes())),
            value: draft.body,
            headers: draft.headers.into_iter().map(|(name, it)| (name, it.into())).collect(),
        });
        let (answer, answered) = oneshot::channel();
        let publish = Publish { records: records.collect(), bytes, answer };
        let sender = self.sender.as_ref().ok_or_else(|| Error::NotYours("topic".to_owned()))?;
        sender.send(publish).await.map_err(|_| Error::Stopping)?;
        Ok(answered)
    }

    /// Tells a message to whoever listens now, and keeps nothing.
    pub(crate) fn tell_only(&self, channel: &Arc<str>, draft: &Draft) {
        let mut state = self.state.lock();
        let Some(found) = state.channels.get_mut(channel) else { return };
        let number = self.around.meter.unkept();
        let mut headers = vec![
            ("destination".to_owned(), shown_to_subscriber(channel)),
            ("message-id".to_owned(), format!("n.{number}")),
        ];
        headers.extend(draft.headers.iter().cloned());
        let message = Message::new(None, headers, &draft.body).charged(&self.around.pool);
        let message = Arc::new(message);
        found.tell(&message);
        self.around.meter.told(found.subscribers.len());
    }

    /// The one that appends: it takes what waits, appends it with one sync, and tells it in order.
    async fn publish_all(self: Arc<Self>, mut receiver: mpsc::Receiver<Publish>) {
        let stopping = self.around.tasks.stopping();
        let batch_max = self.around.config.publish_batch_bytes_max;
        loop {
            let first = tokio::select! {
                biased;
                first = receiver.recv() => first,
                () = stopping.cancelled() => None,
            };
            let Some(first) = first else { return };
            let mut bytes = first.bytes;
            let mut batch = vec![first];
            while bytes < batch_max
                && let Ok(next) = receiver.try_recv()
            {
                bytes += next.bytes;
                batch.push(next);
            }
            self.publish_batch(batch).await;
        }
    }

    async fn publish_batch(&self, batch: Vec<Publish>) {
        let records: Vec<Record> =
            batch.iter().flat_map(|publish| publish.records.iter().cloned()).collect();
        let mut offset = match self.topic.append(self.partition, records).await {
            Ok(offset) => offset,
            Err(error) => {
                tracing::warn!(%error, "messages to topics could not be kept");
                for publish in batch {
                    // Whoever asked may be gone.
                    drop(publish.answer.send(Err(Error::Log(error.clone()))));
                }
                return;
            }
        };
        let end = batch.iter().fold(offset, |end, it| end + it.records.len() as u64);
        let records = batch.iter().flat_map(|publish| &publish.records);
        self.tell((offset..).zip(records), end);
        for publish in batch {
            let count = publish.records.len() as u64;
            drop(publish.answer.send(Ok(offset)));
            offset += count;
        }
        self.trim(end).await;
    }

    /// Lets old messages go, whole files of them.
    async fn trim(&self, end: u64) {
        let kept = self.around.config.kept_messages;
        let before = end.saturating_sub(kept);
        if before.saturating_sub(self.topic.start(self.partition)) <= kept / 10 {
            return;
        }
        if let Err(error) = self.topic.trim(self.partition, before).await {
            tracing::warn!(%error, "old messages of topics could not be deleted");
        }
    }

    /// Tells records to whoever listens; `next` is the offset after them.
    fn tell<'a>(&self, records: impl Iterator<Item = (u64, &'a Record)>, next: u64) {
        let mut state = self.state.lock();
        let mut told = 0;
        for (offset, record) in records {
            for channel in self.channels(record) {
                state.remember(&channel, offset, self.around.config.remembered_topics_max);
                let Some(found) = state.channels.get_mut(&*channel) else { continue };
                let message = Arc::new(self.message(&channel, offset, record));
                told += found.tell(&message);
            }
        }
        state.position = state.position.max(next);
        drop(state);
        self.around.meter.told(told);
    }

    /// The channels that a record is for.
    fn channels(&self, record: &Record) -> Vec<String> {
        if let Some(source) = &self.source {
            return source.names(record).into_iter().map(|name| format!("topic/{name}")).collect();
        }
        let channel = record.key.as_ref().and_then(|key| std::str::from_utf8(key).ok());
        channel.map(str::to_owned).into_iter().collect()
    }

    fn message(&self, channel: &str, offset: u64, record: &Record) -> Message {
        let mut headers = Vec::with_capacity(record.headers.len() + 4);
        headers.push(("destination".to_owned(), shown_to_subscriber(channel)));
        headers.push(("message-id".to_owned(), format!("t.{}.{offset}", self.partition)));
        headers.push(("offset".to_owned(), offset.to_string()));
        if self.source.is_some() {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        } else {
            for (name, value) in &record.headers {
                headers.push((name.clone(), String::from_utf8_lossy(value).into_owned()));
            }
        }
        Message::new(Some(offset), headers, &record.value).charged(&self.around.pool)
    }

    /// Tells a subscriber that what it asked for is not kept: an empty message with `resume:gap`.
    pub(crate) fn gap(&self, channel: &str, kept_from: u64) -> Arc<Message> {
        let last = kept_from.saturating_sub(1);
        let headers = vec![
            ("destination".to_owned(), shown_to_subscriber(channel)),
            ("message-id".to_owned(), format!("t.{}.{last}", self.partition)),
            ("resume".to_owned(), "gap".to_owned()),
            ("kept-from".to_owned(), kept_from.to_string()),
        ];
        Arc::new(Message::new(None, headers, b""))
    }

    pub(crate) fn partition(&self) -> u32 {
        self.partition
    }

    /// The first offset that is kept.
    pub(crate) fn start(&self) -> u64 {
        self.topic.start(self.partition)
    }

    /// Listens from now on.
    pub(crate) fn join(self: &Arc<Self>, channel: &Arc<str>, outbox: &Arc<Outbox>, number: u32) {
        let mut state = self.followed();
        let from = state.position;
        state.add(channel, Subscriber { outbox: outbox.clone(), number, from });
    }

    /// Listens from an offset on, if nothing lies between it and what is being told; otherwise [`Lane::read`] it.
    pub(crate) fn join_at(self: &Arc<Self>, channel: &Arc<str>, subscriber: Subscriber) -> bool {
        let mut state = self.followed();
        let from = subscriber.from;
        let was_last = state.last.get(&**channel);
        let has_nothing = from >= state.since && was_last.is_none_or(|last| from > *last);
        // What was never there is told by reading.
        let is_known = from <= state.position.max(*self.topic.end(self.partition).borrow());
        let can = is_known && (from >= state.position || has_nothing);
        if can {
            state.add(channel, subscriber);
        }
        can
    }

    pub(crate) fn leave(&self, channel: &Arc<str>, outbox: &Arc<Outbox>, number: u32) {
        let mut state = self.state.lock();
        let Some(found) = state.channels.get_mut(channel) else { return };
        let is_it = |it: &Subscriber| it.number == number && Arc::ptr_eq(&it.outbox, outbox);
        if let Some(place) = found.subscribers.iter().position(is_it) {
            found.subscribers.swap_remove(place);
        }
        if found.subscribers.is_empty() {
            state.channels.remove(channel);
        }
    }

    /// Reads kept messages of a channel from an offset on, as far as one step goes.
    pub(crate) async fn read(&self, channel: &str, from: u64) -> Result<Read, Error> {
        let bytes_max = self.around.config.resume_bytes_max;
        let batch = match self.topic.fetch(self.partition, from, bytes_max).await {
            Ok(batch) => batch,
            Err(eventlog::Error::OutOfRange { start, end }) => {
                return Ok(Read::Gap { kept_from: if from < start { start } else { end } });
            }
            Err(error) => return Err(error.into()),
        };
        let next = batch.last().map_or(from, |last| last.offset + 1);
        let mut messages = Vec::new();
        for stored in &batch {
            if self.channels(&stored.record).iter().any(|it| it == channel) {
                messages.push(Arc::new(self.message(channel, stored.offset, &stored.record)));
            }
        }
        Ok(Read::Messages { messages, next })
    }

    pub(crate) fn topics(&self) -> Vec<TopicInfo> {
        let state = self.state.lock();
        let info = |(channel, it): (&Arc<str>, &Channel)| TopicInfo {
            destination: match channel.strip_prefix("user/").and_then(|it| it.split_once('/')) {
                Some((holder, name)) => format!("/user/{holder}/queue/{name}"),
                None => format!("/{channel}"),
            },
            subscribers: it.subscribers.len(),
            messages: it.told,
        };
        state.channels.iter().map(info).collect()
    }

    /// The state, once it is sure that somebody moves it on.
    fn followed(self: &Arc<Self>) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if self.source.is_some() && !state.is_followed {
            state.is_followed = true;
            // What came while nobody listened was not told and is not known.
            state.position = *self.topic.end(self.partition).borrow();
            state.since = state.position;
            state.last = HashMap::new();
            let follower = self.clone();
            self.around.tasks.spawn("sockets-follow", async move { follower.follow().await });
        }
        state
    }

    /// Tells what others append, for as long as somebody listens.
    async fn follow(self: Arc<Self>) {
        let stopping = self.around.tasks.stopping();
        let mut end = self.topic.end(self.partition);
        loop {
            let from = {
                let mut state = self.state.lock();
                if state.channels.is_empty() {
                    state.is_followed = false;
                    return;
                }
                state.position
            };
            end.borrow_and_update();
            let batch =
                self.topic.fetch(self.partition, from, self.around.config.resume_bytes_max).await;
            match batch {
                Ok(batch) if !batch.is_empty() => {
                    let next = batch.last().map_or(from, |last| last.offset + 1);
                    self.tell(batch.iter().map(|it| (it.offset, &it.record)), next);
                    continue;
                }
                Ok(_) => {}
                Err(eventlog::Error::OutOfRange { start, .. }) => {
                    let mut state = self.state.lock();
                    state.position = state.position.max(start);
                    // What they missed is told as a gap when they resume.
                    state.end_all(crate::outbox::End::Slow);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a topic of the log is not followed any more");
                    let mut state = self.state.lock();
                    state.is_followed = false;
                    state.end_all(crate::outbox::End::Closed);
                    return;
                }
            }
            tokio::select! {
                changed = end.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
                // Those who left meanwhile are seen again after a while.
                () = self.around.clock.sleep(self.around.config.heart_beat_send) => {}
            }
        }
    }
}

impl State {
    fn add(&mut self, channel: &Arc<str>, subscriber: Subscriber) {
        self.channels.entry(channel.clone()).or_default().subscribers.push(subscriber);
    }

    fn end_all(&mut self, why: crate::outbox::End) {
        let channels = std::mem::take(&mut self.channels).into_values();
        channels.flat_map(|channel| channel.subscribers).for_each(|it| it.outbox.end(why));
    }

    fn remember(&mut self, channel: &str, offset: u64, max: usize) {
        if let Some(last) = self.last.get_mut(channel) {
            *last = offset;
            return;
        }
        if self.last.len() >= max {
            self.last = HashMap::new();
            self.since = offset;
        }
        self.last.insert(channel.into(), offset);
    }
}

impl Channel {
    fn tell(&mut self, message: &Arc<Message>) -> usize {
        self.told += 1;
        let mut told = 0;
        for subscriber in &self.subscribers {
            if message.offset.is_none_or(|offset| offset >= subscriber.from) {
                let (number, message) = (subscriber.number, message.clone());
                subscriber.outbox.push(Item::Topic { number, message });
                told += 1;
            }
        }
        told
    }
}
