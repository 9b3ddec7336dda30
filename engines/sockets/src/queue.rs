use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::OrganisationId;
use parking_lot::Mutex;
use relational::Db;

use crate::lane::Around;
use crate::message::{Draft, Message};
use crate::outbox::{Item, Outbox};
use crate::session::Verdict;
use crate::store::{self, Stored};
use crate::{Config, Error};

/// Messages that go to one consumer each. Their rows are the truth; here is who has which of them.
pub(crate) struct Queue {
    pub(crate) organisation: OrganisationId,
    pub(crate) name: Arc<str>,
    db: Db,
    around: Around,
    state: Mutex<State>,
}

/// A connection and the number of its subscription.
pub(crate) type ConsumerId = (u64, u32);

#[derive(Default)]
struct State {
    /// Those in the queue, in memory or not.
    count: u64,
    bytes: u64,
    /// Every row up to this number is here, or on its way.
    loaded_to: u64,
    /// There may be rows after it.
    has_more: bool,
    is_loading: bool,
    /// Rows that are being written.
    coming: HashSet<u64>,
    /// Rows that were written while a page was read, which may not have them.
    late: Vec<(u64, Held)>,
    ready: BTreeMap<u64, Held>,
    ready_bytes: u64,
    out: HashMap<u64, (ConsumerId, Held)>,
    /// The next one to be served is first.
    consumers: VecDeque<Consumer>,
}

#[derive(Clone)]
pub(crate) struct Held {
    message: Arc<Message>,
    bytes: u64,
    /// How often it was given out.
    deliveries: u32,
}

struct Consumer {
    id: ConsumerId,
    outbox: Arc<Outbox>,
    /// How many more it may be given.
    room: usize,
    /// Of those that it has.
    bytes: u64,
}

impl Consumer {
    /// One message is always given, however large.
    fn has_room(&self, config: &Config) -> bool {
        self.room > 0 && (self.bytes == 0 || self.bytes < config.prefetch_bytes_max)
    }
}

impl Held {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A queue of the console's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    pub name: String,
    pub messages: u64,
    /// Given out and not acknowledged.
    pub unacknowledged: u64,
    pub consumers: usize,
}

/// Messages that were taken from a consumer, and what becomes of each.
#[derive(Default)]
pub(crate) struct Settled {
    /// Ready for another, with how often they were given out.
    pub(crate) again: Vec<(u64, u32)>,
    pub(crate) done: Vec<(u64, Held)>,
    pub(crate) dead: Vec<(u64, Held)>,
}

impl Queue {
    pub(crate) async fn open(
        organisation: OrganisationId,
        name: Arc<str>,
        db: Db,
        around: Around,
    ) -> Result<Arc<Self>, Error> {
        let (count, bytes) = store::size(&db, organisation, name.clone()).await?;
        let state = State { count, bytes, has_more: count > 0, ..State::default() };
        Ok(Arc::new(Self { organisation, name, db, around, state: Mutex::new(state) }))
    }

    /// Makes room for a message that is about to be written.
    pub(crate) fn expect(&self, number: u64, bytes: u64) -> Result<(), Error> {
        let mut state = self.state.lock();
        let config = &self.around.config;
        let is_full = state.count >= config.queue_messages_max
            || state.bytes.saturating_add(bytes) > config.queue_bytes_max;
        if is_full {
            return Err(Error::QueueFull(self.name.to_string()));
        }
        state.expect(number, bytes);
        Ok(())
    }

    /// The same for some that are moved here from another queue.
    pub(crate) fn expect_moved(&self, moved: &[(u64, Held)]) -> Result<(), Error> {
        let mut state = self.state.lock();
        let config = &self.around.config;
        let bytes = moved.iter().map(|(_, held)| held.bytes).sum();
        let count = state.count.saturating_add(moved.len() as u64);
        if count > config.queue_messages_max
            || state.bytes.saturating_add(bytes) > config.queue_bytes_max
        {
            return Err(Error::QueueFull(self.name.to_string()));
        }
        state.expect_all(moved);
        Ok(())
    }

    /// The same for some that leave this queue only to come back.
    pub(crate) fn expect_back(&self, moved: &[(u64, Held)]) {
        self.state.lock().expect_all(moved);
    }

    /// What was expected did not come.
    pub(crate) fn missed(&self, number: u64, bytes: u64) {
        let mut state = self.state.lock();
        state.coming.remove(&number);
        state.forget(bytes);
    }

    /// What was expected is in its row.
    pub(crate) fn came(self: &Arc<Self>, number: u64, draft: &Draft) {
        let held = Self::held(number, draft, 0);
        self.here(number, held);
    }

    pub(crate) fn moved_here(self: &Arc<Self>, number: u64, held: &Held) {
        self.here(number, Held { deliveries: 0, ..held.clone() });
    }

    fn here(self: &Arc<Self>, number: u64, held: Held) {
        let mut state = self.state.lock();
        state.coming.remove(&number);
        if state.is_loading {
            state.late.push((number, held));
        } else {
            state.add(number, held, &self.around.config);
        }
        self.serve(state);
    }

    pub(crate) fn join(self: &Arc<Self>, id: ConsumerId, outbox: &Arc<Outbox>, prefetch: usize) {
        let mut state = self.state.lock();
        let outbox = outbox.clone();
        state.consumers.push_front(Consumer { id, outbox, room: prefetch, bytes: 0 });
        self.serve(state);
    }

    /// A consumer goes; what it did not acknowledge is given to others, what was given out too often is moved.
    pub(crate) fn leave(self: &Arc<Self>, id: ConsumerId) -> Settled {
        let mut state = self.state.lock();
        state.consumers.retain(|it| it.id != id);
        let numbers: Vec<u64> =
            state.out.iter().filter(|(_, (holder, _))| *holder == id).map(|(it, _)| *it).collect();
        let settled = state.settle(id, &numbers, Verdict::Again, &self.around.config);
        self.serve(state);
        settled
    }

    /// Takes messages from a consumer. What is done or dead is gone from here; its row is the caller's to change.
    pub(crate) fn settle(
        self: &Arc<Self>,
        id: ConsumerId,
        numbers: &[u64],
        verdict: Verdict,
    ) -> Settled {
        let mut state = self.state.lock();
        let settled = state.settle(id, numbers, verdict, &self.around.config);
        self.serve(state);
        settled
    }

    /// The rows of what was settled are changed.
    pub(crate) fn forget(&self, settled: &Settled) {
        let mut state = self.state.lock();
        for (_, held) in settled.done.iter().chain(&settled.dead) {
            state.forget(held.bytes);
        }
    }

    /// The rows of what was settled could not be changed: it is given out again.
    pub(crate) fn put_back(self: &Arc<Self>, settled: Settled) {
        let mut state = self.state.lock();
        for (number, held) in settled.done.into_iter().chain(settled.dead) {
            state.put(number, held);
        }
        self.serve(state);
    }

    pub(crate) fn info(&self) -> QueueInfo {
        let state = self.state.lock();
        QueueInfo {
            name: self.name.to_string(),
            messages: state.count,
            unacknowledged: state.out.len() as u64,
            consumers: state.consumers.len(),
        }
    }

    /// Bytes of messages that are ready in memory.
    #[cfg(test)]
    pub(crate) fn ready_bytes(&self) -> u64 {
        self.state.lock().ready_bytes
    }

    /// Nobody needs it in memory.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.consumers.is_empty() && state.coming.is_empty() && state.out.is_empty()
    }

    fn held(number: u64, draft: &Draft, deliveries: u32) -> Held {
        // The destination is said with the subscription: a message can move to another queue.
        let mut headers = vec![("message-id".to_owned(), format!("q.{number}"))];
        headers.extend(draft.headers.iter().cloned());
        let message = Arc::new(Message::new(None, headers, &draft.body));
        Held { message, bytes: draft.bytes() as u64, deliveries }
    }

    /// Gives out what is ready to who has room, each in turn, and reads on when little is left.
    fn serve(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, State>) {
        let config = &self.around.config;
        while let Some(place) = state.consumers.iter().position(|it| it.has_room(config))
            && let Some((number, mut held)) = state.take_first()
        {
            let mut consumer = state.consumers.remove(place).expect("it was found there");
            held.deliveries += 1;
            consumer.room -= 1;
            consumer.bytes += held.bytes;
            consumer.outbox.push(Item::Queue {
                number: consumer.id.1,
                row: number,
                deliveries: held.deliveries,
                message: held.message.clone(),
            });
            state.out.insert(number, (consumer.id, held));
            state.consumers.push_back(consumer);
        }
        let is_low = state.ready.len() <= config.queue_window / 4
            && state.ready_bytes <= config.queue_window_bytes_max / 4;
        if is_low && state.has_more && !state.is_loading && !state.consumers.is_empty() {
            state.is_loading = true;
            drop(state);
            let queue = self.clone();
            self.around.tasks.spawn("sockets-queue", async move { queue.load().await });
        }
    }

    /// Reads on until it worked or nobody wants it.
    async fn load(self: Arc<Self>) {
        let stopping = self.around.tasks.stopping();
        while let Err(error) = self.load_page().await {
            tracing::warn!(%error, queue = %self.name, "a queue could not be read");
            tokio::select! {
                () = self.around.clock.sleep(LOAD_AGAIN_AFTER) => {}
                () = stopping.cancelled() => return,
            }
            let mut state = self.state.lock();
            if state.consumers.is_empty() {
                // The next one to come begins again.
                state.is_loading = false;
                state.take_late(&self.around.config);
                return;
            }
        }
    }

    async fn load_page(self: &Arc<Self>) -> Result<(), Error> {
        let after = self.state.lock().loaded_to;
        let config = &self.around.config;
        let max = (config.queue_window, config.queue_window_bytes_max);
        let key = (self.organisation, self.name.clone());
        let page = store::page(&self.db, key, after, max).await;
        let mut state = self.state.lock();
        let (page, has_more) = match page {
            Ok(page) => page,
            Err(error) => {
                // One that was moved here can be of a number that is not read again.
                state.take_late(config);
                self.serve(state);
                return Err(error);
            }
        };
        state.is_loading = false;
        state.has_more = has_more;
        for Stored { number, draft, deliveries } in page {
            state.loaded_to = state.loaded_to.max(number);
            // One that is being written comes by itself.
            if !state.coming.contains(&number) {
                state.put(number, Self::held(number, &draft, deliveries));
            }
        }
        state.take_late(config);
        self.serve(state);
        Ok(())
    }
}

/// How long a queue waits that could not be read.
const LOAD_AGAIN_AFTER: Duration = Duration::from_millis(500);

impl State {
    fn expect(&mut self, number: u64, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        self.coming.insert(number);
    }

    fn expect_all(&mut self, moved: &[(u64, Held)]) {
        for (number, held) in moved {
            self.expect(*number, held.bytes);
        }
    }

    /// Takes in what is in its row, unless it has to wait there behind others.
    fn add(&mut self, number: u64, held: Held, config: &Config) {
        // Where nobody takes them they wait in their rows.
        let has_room = !self.has_more
            && !self.consumers.is_empty()
            && self.ready.len() < config.queue_window
            && self.ready_bytes < config.queue_window_bytes_max;
        if number <= self.loaded_to || has_room {
            self.loaded_to = self.loaded_to.max(number);
            self.put(number, held);
        } else {
            self.has_more = true;
        }
    }

    /// Takes in what came while a page was read; what lies behind the pages stays in its row.
    fn take_late(&mut self, config: &Config) {
        for (number, held) in std::mem::take(&mut self.late) {
            self.add(number, held, config);
        }
    }

    fn put(&mut self, number: u64, held: Held) {
        self.ready_bytes += held.bytes;
        if let Some(former) = self.ready.insert(number, held) {
            self.ready_bytes -= former.bytes;
        }
    }

    fn take_first(&mut self) -> Option<(u64, Held)> {
        let (number, held) = self.ready.pop_first()?;
        self.ready_bytes -= held.bytes;
        Some((number, held))
    }

    fn forget(&mut self, bytes: u64) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn settle(
        &mut self,
        id: ConsumerId,
        numbers: &[u64],
        verdict: Verdict,
        config: &Config,
    ) -> Settled {
        let mut settled = Settled::default();
        let (mut count, mut bytes) = (0, 0);
        for number in numbers {
            if self.out.get(number).is_none_or(|(holder, _)| *holder != id) {
                continue;
            }
            let Some((_, held)) = self.out.remove(number) else { continue };
            count += 1;
            bytes += held.bytes;
            match verdict {
                Verdict::Done => settled.done.push((*number, held)),
                Verdict::Dead => settled.dead.push((*number, held)),
                Verdict::Again if held.deliveries >= config.queue_deliveries_max => {
                    settled.dead.push((*number, held));
                }
                Verdict::Again => {
                    settled.again.push((*number, held.deliveries));
                    self.put(*number, held);
                }
            }
        }
        if let Some(consumer) = self.consumers.iter_mut().find(|it| it.id == id) {
            consumer.room += count;
            consumer.bytes -= bytes;
            // Another one first, where there is one.
            if verdict == Verdict::Again
                && let Some(place) = self.consumers.iter().position(|it| it.id == id)
                && let Some(consumer) = self.consumers.remove(place)
            {
                self.consumers.push_back(consumer);
            }
        }
        settled
    }
}
