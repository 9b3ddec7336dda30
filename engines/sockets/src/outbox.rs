use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::message::Message;

/// What waits for one connection. It holds nothing while nothing waits.
pub(crate) struct Outbox {
    state: Mutex<State>,
    pub(crate) wake: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Of topics, whose senders do not wait.
    topic_bytes: usize,
    /// Whoever takes them was woken and has not looked since.
    is_told: bool,
    end: Option<End>,
}

/// Why nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// More waited than may.
    Slow,
    /// An administrator closes it.
    Closed,
    /// The connection has ended.
    Gone,
}

pub(crate) enum Item {
    Topic { number: u32, message: Arc<Message> },
    Queue { number: u32, row: u64, deliveries: u32, message: Arc<Message> },
}

impl Item {
    fn bytes(&self) -> usize {
        let (Self::Topic { message, .. } | Self::Queue { message, .. }) = self;
        message.bytes()
    }

    fn topic_bytes(&self) -> usize {
        if matches!(self, Self::Topic { .. }) { self.bytes() } else { 0 }
    }
}

impl State {
    fn add(&mut self, item: Item) {
        self.bytes += item.bytes();
        self.topic_bytes += item.topic_bytes();
        self.items.push_back(item);
    }
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), bytes_max }
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
            state.end = Some(End::Slow);
            state.items = VecDeque::new();
        } else {
            state.add(item);
        }
        // A connection that cannot write does not look at its items.
        if !std::mem::replace(&mut state.is_told, true) || is_over {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// For what was read for this connection alone, as fast as it takes it.
    pub(crate) fn give(&self, item: Item) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.add(item);
        }
    }

    /// Ends it; what it was ended for first stays.
    pub(crate) fn end(&self, why: End) {
        let mut state = self.state.lock();
        state.end.get_or_insert(why);
        state.items = VecDeque::new();
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
}
