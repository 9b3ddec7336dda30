use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::message::Message;
use crate::pool::Pool;

/// What waits for one connection. It holds nothing while nothing waits.
pub(crate) struct Outbox {
    state: Mutex<State>,
    pub(crate) wake: Notify,
    bytes_max: usize,
    pool: Arc<Pool>,
    /// Its place in the pool.
    place: u64,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Of topics, whose senders do not wait.
    topic_bytes: usize,
    /// What the connection itself holds: frames that are not whole, and what is written and not taken.
    held: usize,
    /// What the pool counts for it.
    charged: usize,
    /// Whoever takes them was woken and has not looked since.
    is_told: bool,
    end: Option<End>,
}

/// Why nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// More waited than may.
    Slow,
    /// More waited for all connections than may, and the most, so many bytes, for this one.
    Crowded(usize),
    /// An administrator closes it.
    Closed,
    /// The connection has ended.
    Gone,
}

pub(crate) enum Item {
    Topic { number: u32, message: Arc<Message> },
    Queue { number: u32, row: u64, deliveries: u32, message: Arc<Message> },
}

/// What an item costs beside its message.
const ITEM_BYTES: usize = 64;

impl Item {
    fn bytes(&self) -> usize {
        let (Self::Topic { message, .. } | Self::Queue { message, .. }) = self;
        message.bytes()
    }

    fn topic_bytes(&self) -> usize {
        if matches!(self, Self::Topic { .. }) { self.bytes() } else { 0 }
    }

    /// What the pool counts. A message of a topic, which is one for all who get it, is counted by itself.
    fn cost(&self) -> usize {
        ITEM_BYTES + self.bytes() - self.topic_bytes()
    }
}

impl State {
    fn add(&mut self, item: Item, pool: &Pool) {
        self.bytes += item.bytes();
        self.topic_bytes += item.topic_bytes();
        self.charged += item.cost();
        pool.add(item.cost());
        self.items.push_back(item);
    }

    /// Takes nothing more, and gives all back.
    fn finish(&mut self, why: End, pool: &Pool) {
        self.end.get_or_insert(why);
        self.items = VecDeque::new();
        (self.bytes, self.topic_bytes, self.held) = (0, 0, 0);
        pool.free(std::mem::take(&mut self.charged));
    }
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize, pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            state: Mutex::default(),
            wake: Notify::new(),
            bytes_max,
            place: pool.enter(own),
            pool: pool.clone(),
        })
    }

    /// What is too much for a topic's subscriber ends it. Items of a queue are few: see `prefetch_bytes_max`.
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        let topic_bytes = item.topic_bytes();
        let is_over = topic_bytes > 0
            && state.topic_bytes > 0
            && state.topic_bytes + topic_bytes > self.bytes_max;
        if is_over {
            state.finish(End::Slow, &self.pool);
        } else {
            state.add(item, &self.pool);
        }
        // A connection that cannot write does not look at its items.
        let is_news = !std::mem::replace(&mut state.is_told, true) || is_over;
        drop(state);
        if is_news {
            self.wake.notify_one();
        }
        self.pool.relieve();
    }

    /// For what was read for this connection alone, as fast as it takes it.
    pub(crate) fn give(&self, item: Item) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.add(item, &self.pool);
        }
        drop(state);
        self.pool.relieve();
    }

    /// Says what the connection itself holds.
    pub(crate) fn holds(&self, bytes: usize) {
        let mut state = self.state.lock();
        if state.end.is_some() || bytes == state.held {
            return;
        }
        let former = std::mem::replace(&mut state.held, bytes);
        state.charged = state.charged + bytes - former;
        self.pool.add(bytes);
        self.pool.free(former);
        drop(state);
        if bytes > former {
            self.pool.relieve();
        }
    }

    /// Ends it; what it was ended for first stays.
    pub(crate) fn end(&self, why: End) {
        let mut state = self.state.lock();
        state.finish(why, &self.pool);
        drop(state);
        self.wake.notify_one();
    }

    /// Takes items one by one while they are wanted. Says what was left, or why there will be no more.
    pub(crate) fn take(&self, mut want: impl FnMut(Item) -> bool) -> Result<usize, End> {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            return Err(end);
        }
        state.is_told = false;
        while let Some(item) = state.items.pop_front() {
            state.bytes -= item.bytes();
            state.topic_bytes -= item.topic_bytes();
            state.charged -= item.cost();
            self.pool.free(item.cost());
            if !want(item) {
                break;
            }
        }
        if state.items.is_empty() {
            state.items = VecDeque::new();
        }
        Ok(state.items.len())
    }

    /// Why there will be no more, if so.
    pub(crate) fn ended(&self) -> Option<End> {
        self.state.lock().end
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Bytes that wait and that the connection holds; nothing when it has ended.
    pub(crate) fn weight(&self) -> usize {
        let state = self.state.lock();
        state.bytes + state.held
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.pool.leave(self.place);
        self.pool.free(self.state.get_mut().charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(message: &Arc<Message>) -> Item {
        Item::Topic { number: 0, message: message.clone() }
    }

    #[test]
    fn the_one_for_whom_the_most_waits_goes_first() {
        let pool = Pool::new(10_000);
        let message = |length: usize| {
            let message = Message::new(None, Vec::new(), &vec![b'x'; length]);
            Arc::new(message.charged(&pool))
        };
        let outboxes = [0, 1, 2].map(|_| Outbox::new(1 << 20, &pool));
        let [greedy, modest, other] = &outboxes;
        for _ in 0..5 {
            greedy.push(item(&message(1_000)));
        }
        for _ in 0..3 {
            modest.push(item(&message(1_000)));
        }
        let ended = || outboxes.each_ref().map(|outbox| outbox.ended());
        assert_eq!(ended(), [None; 3]);
        other.push(item(&message(2_000)));
        assert!(matches!(ended(), [Some(End::Crowded(5_000..)), None, None]), "{:?}", ended());
        greedy.push(item(&message(1_000)));
        assert!(pool.bytes() < 6_500, "what it held is free: {}", pool.bytes());
        modest.take(|_| true).unwrap();
        // What the connection holds counts too.
        other.holds(5_000);
        assert_eq!(ended()[1..], [None; 2]);
        other.holds(9_000);
        assert!(matches!(other.ended(), Some(End::Crowded(11_000..))));
        other.holds(9_000);
        drop(outboxes);
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn a_message_for_many_is_in_memory_once() {
        let pool = Pool::new(200_000);
        let message = Message::new(None, Vec::new(), &vec![b'x'; 50_000]);
        let message = Arc::new(message.charged(&pool));
        let outboxes: Vec<_> = (0..1_000).map(|_| Outbox::new(1 << 20, &pool)).collect();
        for outbox in &outboxes {
            outbox.push(item(&message));
        }
        assert!(outboxes.iter().all(|outbox| outbox.ended().is_none()));
        for outbox in &outboxes {
            outbox.take(|_| true).unwrap();
        }
        drop(message);
        assert_eq!(pool.bytes(), 0);
    }
}
