//! What waits for one client: a queue, the deliveries in flight and their packet identifiers. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::Timestamp;

use crate::{Message, Qos};

/// One message for one client.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// It may have been sent before.
    pub(crate) dup: bool,
    pub(crate) identifiers: Box<[u32]>,
    /// Grows with time; deliveries go out in this order.
    pub(crate) sequence: u64,
    /// A row holds it until it is acknowledged.
    pub(crate) is_durable: bool,
}

/// What became of a delivery that was offered to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// It is larger than the client takes: MQTT 5, section 3.1.2.11.4.
    TooLarge,
    /// No room for now.
    Later,
}

/// Limits of one queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Bytes of messages that the queues of one organisation hold in memory, and those of all together.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    own: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Budget {
    pub(crate) fn of(all: &Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { own: AtomicUsize::new(0), all: all.clone() })
    }

    /// Half is left to others: who cannot be given anything loses subscribers for it.
    fn has_room(&self, cost: usize, total: usize) -> bool {
        self.own.load(Ordering::Relaxed) + cost <= total / 2
            && self.all.load(Ordering::Relaxed) + cost <= total
    }

    fn add(&self, cost: usize) {
        self.own.fetch_add(cost, Ordering::Relaxed);
        self.all.fetch_add(cost, Ordering::Relaxed);
    }

    fn take(&self, cost: usize) {
        self.own.fetch_sub(cost, Ordering::Relaxed);
        self.all.fetch_sub(cost, Ordering::Relaxed);
    }
}

pub(crate) struct Outbox {
    /// In the order of their sequences.
    waiting: VecDeque<Delivery>,
    /// Retained messages for new subscriptions; they do not count, the store of retained messages holds them.
    retained: VecDeque<Delivery>,
    /// In the order in which they were sent first.
    inflight: VecDeque<(u16, Delivery)>,
    /// How many of `inflight`, from the front, were sent on this connection.
    sent: usize,
    last_id: u16,
    /// What counts against the limits: waiting, in flight, promised, or in rows only.
    reserved: Room,
    resident: usize,
    budget: Arc<Budget>,
}

/// What left the queue while writing.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    pub(crate) sent: u64,
    pub(crate) expired: u64,
    pub(crate) too_large: u64,
    /// Rows that are not needed any more.
    pub(crate) finished: Vec<u64>,
}

impl Outbox {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            waiting: VecDeque::new(),
            retained: VecDeque::new(),
            inflight: VecDeque::new(),
            sent: 0,
            last_id: 0,
            reserved: Room { messages: 0, bytes: 0 },
            resident: 0,
            budget,
        }
    }

    pub(crate) fn has_room(&self, cost: usize, limits: Room, total: usize) -> bool {
        self.has_room_in_rows(cost, limits) && self.budget.has_room(cost, total)
    }

    /// The same for what goes into a row and not into memory.
    pub(crate) fn has_room_in_rows(&self, cost: usize, limits: Room) -> bool {
        self.reserved.messages < limits.messages && self.reserved.bytes + cost <= limits.bytes
    }

    /// Whether half of it is free.
    pub(crate) fn is_half_free(&self, limits: Room) -> bool {
        self.reserved.messages <= limits.messages / 2 && self.reserved.bytes <= limits.bytes / 2
    }

    /// How many messages count against the limits, and their bytes.
    pub(crate) fn reserved(&self) -> Room {
        self.reserved
    }

    /// Promises room to a delivery that will be pushed, or is kept in a row.
    pub(crate) fn reserve(&mut self, cost: usize) {
        self.reserved.messages += 1;
        self.reserved.bytes += cost;
    }

    /// Takes a promise back.
    pub(crate) fn release(&mut self, cost: usize) {
        debug_assert!(self.reserved.messages > 0, "only what was reserved is released");
        self.reserved.messages = self.reserved.messages.saturating_sub(1);
        self.reserved.bytes = self.reserved.bytes.saturating_sub(cost);
    }

    /// Counts what rows hold, after a start.
    pub(crate) fn reserve_rows(&mut self, messages: usize, bytes: usize) {
        self.reserved.messages += messages;
        self.reserved.bytes += bytes;
    }

    /// Adds a delivery whose room is reserved. Two publishers may come out of order by a little.
    pub(crate) fn push(&mut self, delivery: Delivery) {
        self.hold(delivery.message.cost());
        let is_last = self.waiting.back().is_none_or(|last| last.sequence <= delivery.sequence);
        if is_last {
            self.waiting.push_back(delivery);
            return;
        }
        let position = self.waiting.partition_point(|it| it.sequence <= delivery.sequence);
        self.waiting.insert(position, delivery);
    }

    pub(crate) fn push_retained(&mut self, delivery: Delivery) {
        self.retained.push_back(delivery);
    }

    /// Retained messages that wait.
    pub(crate) fn retained_count(&self) -> usize {
        self.retained.len()
    }

    /// Offers deliveries to `write` until it has no room, `window` are in flight or nothing waits.
    pub(crate) fn flush(
        &mut self,
        now: Timestamp,
        window: usize,
        mut write: impl FnMut(&Delivery, u16) -> Written,
    ) -> Flushed {
        let mut flushed = Flushed::default();
        if !self.resend(window, &mut flushed, &mut write) {
            return flushed;
        }
        loop {
            let from_retained = !self.retained.is_empty();
            let queue = if from_retained { &self.retained } else { &self.waiting };
            let Some(delivery) = queue.front() else { break };
            let needs_id = delivery.qos != Qos::AtMostOnce;
            if needs_id && self.inflight.len() >= window {
                break;
            }
            let is_expired = delivery.message.is_expired(now);
            let id = if needs_id && !is_expired { self.unused_id() } else { 0 };
            let written = if is_expired { Written::TooLarge } else { write(delivery, id) };
            if written == Written::Later {
                break;
            }
            let queue = if from_retained { &mut self.retained } else { &mut self.waiting };
            let delivery = queue.pop_front().expect("the front was looked at above");
            match written {
                Written::Yes if needs_id => {
                    self.last_id = id;
                    if from_retained {
                        // From here on it is as any other.
                        let cost = delivery.message.cost();
                        self.reserve(cost);
                        self.hold(cost);
                    }
                    self.inflight.push_back((id, delivery));
                    self.sent = self.inflight.len();
                    flushed.sent += 1;
                    continue;
                }
                Written::Yes => flushed.sent += 1,
                _ if is_expired => flushed.expired += 1,
                _ => flushed.too_large += 1,
            }
            if !from_retained {
                self.finish(&delivery, &mut flushed.finished);
            }
        }
        flushed
    }

    /// Sends again what the last connection left unacknowledged; says whether all of it went.
    fn resend(
        &mut self,
        window: usize,
        flushed: &mut Flushed,
        write: &mut impl FnMut(&Delivery, u16) -> Written,
    ) -> bool {
        while self.sent < self.inflight.len() {
            if self.sent >= window {
                return false;
            }
            let (id, delivery) = &self.inflight[self.sent];
            match write(delivery, *id) {
                Written::Later => return false,
                Written::Yes => {
                    self.sent += 1;
                    flushed.sent += 1;
                }
                Written::TooLarge => {
                    let removed = self.inflight.remove(self.sent);
                    let (_, delivery) = removed.expect("it was looked at above");
                    flushed.too_large += 1;
                    self.finish(&delivery, &mut flushed.finished);
                }
            }
        }
        true
    }

    /// The client has it. None when it was not in flight.
    pub(crate) fn acknowledge(&mut self, id: u16) -> Option<Delivery> {
        let position = self.inflight.iter().position(|(inflight, _)| *inflight == id)?;
        if position >= self.sent {
            return None;
        }
        let (_, delivery) = self.inflight.remove(position)?;
        self.sent -= 1;
        self.finish(&delivery, &mut Vec::new());
        Some(delivery)
    }

    /// The connection is gone and the session stays: what is in flight is sent again later, what rows hold is
    /// forgotten, and the rest was for a client that is there.
    pub(crate) fn disconnect(&mut self) {
        self.sent = 0;
        for (_, delivery) in &mut self.inflight {
            delivery.dup = true;
        }
        self.retained.clear();
        for delivery in std::mem::take(&mut self.waiting) {
            let cost = delivery.message.cost();
            self.let_go(cost);
            if !delivery.is_durable {
                self.release(cost);
            }
        }
        self.waiting.shrink_to_fit();
    }

    /// Takes the rows of a session that is back. What is in flight is there already.
    pub(crate) fn restore(&mut self, rows: Vec<Delivery>) {
        for delivery in rows {
            let known = |(_, inflight): &(u16, Delivery)| {
                inflight.is_durable && inflight.sequence == delivery.sequence
            };
            let waits = self.waiting.binary_search_by_key(&delivery.sequence, |it| it.sequence);
            if waits.is_err() && !self.inflight.iter().any(known) {
                self.push(delivery);
            }
        }
    }

    /// Drops what is in flight and not for this client any more; gives the rows to forget.
    pub(crate) fn forbid(&mut self, is_allowed: impl Fn(&Message) -> bool) -> Vec<u64> {
        debug_assert_eq!(self.sent, 0, "nothing was sent on this connection yet");
        let mut finished = Vec::new();
        for (id, delivery) in std::mem::take(&mut self.inflight) {
            if is_allowed(&delivery.message) {
                self.inflight.push_back((id, delivery));
            } else {
                self.finish(&delivery, &mut finished);
            }
        }
        finished
    }

    fn finish(&mut self, delivery: &Delivery, finished: &mut Vec<u64>) {
        let cost = delivery.message.cost();
        self.release(cost);
        self.let_go(cost);
        if delivery.is_durable {
            finished.push(delivery.sequence);
        }
    }

    /// Never one in flight; there are fewer of those than identifiers.
    fn unused_id(&self) -> u16 {
        let mut id = self.last_id;
        loop {
            id = if id == u16::MAX { 1 } else { id + 1 };
            if !self.inflight.iter().any(|(inflight, _)| *inflight == id) {
                return id;
            }
        }
    }

    fn hold(&mut self, cost: usize) {
        self.resident += cost;
        self.budget.add(cost);
    }

    fn let_go(&mut self, cost: usize) {
        self.resident -= cost;
        self.budget.take(cost);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.budget.take(self.resident);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Properties;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn delivery(sequence: u64, qos: Qos) -> Delivery {
        let message = Message {
            topic: "t".into(),
            payload: Bytes::copy_from_slice(sequence.to_string().as_bytes()),
            qos,
            retain: false,
            client: "".into(),
            received: NOW,
            expires: None,
            properties: Properties::default(),
        };
        Delivery {
            message: Arc::new(message),
            qos,
            retain: false,
            dup: false,
            identifiers: Box::default(),
            sequence,
            is_durable: qos != Qos::AtMostOnce,
        }
    }

    fn push(outbox: &mut Outbox, delivery: Delivery) {
        outbox.reserve(delivery.message.cost());
        outbox.push(delivery);
    }

    /// Writes what goes and says it as `sequence/id`, with `!` for DUP.
    fn flush(outbox: &mut Outbox, window: usize) -> String {
        let mut sent = Vec::new();
        outbox.flush(NOW, window, |delivery, id| {
            let dup = if delivery.dup { "!" } else { "" };
            sent.push(format!("{}/{id}{dup}", delivery.sequence));
            Written::Yes
        });
        sent.join(" ")
    }

    #[test]
    fn deliveries_go_in_order_within_the_window_and_again_after_a_reconnect() {
        let budget = Arc::new(Budget::default());
        let mut outbox = Outbox::new(budget.clone());
        for sequence in [1, 2, 4, 3, 5] {
            push(&mut outbox, delivery(sequence, Qos::AtLeastOnce));
        }
        assert_eq!(flush(&mut outbox, 3), "1/1 2/2 3/3");
        assert_eq!(outbox.acknowledge(2).unwrap().sequence, 2);
        assert!(outbox.acknowledge(2).is_none(), "twice is not in flight");
        assert_eq!(flush(&mut outbox, 3), "4/4");
        outbox.disconnect();
        assert!(outbox.acknowledge(1).is_none(), "not sent on this connection yet");
        outbox.restore(vec![
            delivery(3, Qos::AtLeastOnce),
            delivery(5, Qos::AtLeastOnce),
            delivery(5, Qos::AtLeastOnce),
        ]);
        assert_eq!(flush(&mut outbox, 2), "1/1! 3/3!", "the new client takes fewer at once");
        assert_eq!(outbox.acknowledge(1).unwrap().sequence, 1);
        assert_eq!(flush(&mut outbox, 2), "4/4!");
        for id in [3, 4] {
            outbox.acknowledge(id);
        }
        assert_eq!(flush(&mut outbox, 2), "5/5");
        outbox.acknowledge(5);
        assert_eq!((outbox.reserved.messages, outbox.reserved.bytes), (0, 0));
        assert_eq!(budget.all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_packet_identifier_in_flight_is_not_given_again() {
        let mut outbox = Outbox::new(Arc::default());
        outbox.last_id = u16::MAX - 1;
        for sequence in 0..3 {
            push(&mut outbox, delivery(sequence, Qos::AtLeastOnce));
        }
        assert_eq!(flush(&mut outbox, 9), "0/65535 1/1 2/2");
        outbox.last_id = 0;
        push(&mut outbox, delivery(9, Qos::AtLeastOnce));
        assert_eq!(flush(&mut outbox, 9), "9/3");
    }

    #[test]
    fn what_is_expired_or_too_large_leaves_no_trace() {
        let budget = Arc::new(Budget::default());
        let mut outbox = Outbox::new(budget.clone());
        let mut expired = delivery(1, Qos::AtLeastOnce);
        Arc::get_mut(&mut expired.message).unwrap().expires = Some(NOW);
        push(&mut outbox, expired);
        push(&mut outbox, delivery(2, Qos::AtLeastOnce));
        let flushed = outbox.flush(NOW, 9, |_, _| Written::TooLarge);
        assert_eq!((flushed.expired, flushed.too_large), (1, 1));
        assert_eq!(flushed.finished, [1, 2], "their rows go as well");
        assert_eq!((outbox.reserved.messages, budget.all.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn one_organisation_leaves_half_of_the_memory_to_the_others() {
        let all = Arc::default();
        let (mut greedy, modest) = (Outbox::new(Budget::of(&all)), Outbox::new(Budget::of(&all)));
        let room = Room { messages: 1_000, bytes: 1_000_000 };
        while greedy.has_room(100, room, 10_000) {
            push(&mut greedy, delivery(1, Qos::AtLeastOnce));
        }
        assert!(modest.has_room(4_000, room, 10_000));
        drop(greedy);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_queue_is_full_by_count_by_bytes_and_by_the_sum_of_all() {
        let mut outbox = Outbox::new(Arc::default());
        push(&mut outbox, delivery(1, Qos::AtMostOnce));
        let room = |messages, bytes| Room { messages, bytes };
        assert!(outbox.has_room(100, room(2, 1_000), 10_000));
        assert!(!outbox.has_room(100, room(1, 1_000), 10_000));
        assert!(!outbox.has_room(100, room(2, 200), 10_000));
        assert!(!outbox.has_room(100, room(2, 1_000), 200));
    }
}
