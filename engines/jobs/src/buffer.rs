//! The jobs that a worker holds and has not begun: those before their time, and those that wait for a handler,
//! of which each lane has its turn. Asks no clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use base::Timestamp;

use crate::JobId;
use crate::store::Claimed;

#[derive(Default)]
pub(crate) struct Buffer {
    /// By lane; those of higher priority and earlier ids first.
    lanes: BTreeMap<Arc<str>, BinaryHeap<Ranked>>,
    /// The lane that was served last.
    served: Option<Arc<str>>,
    /// By time.
    timers: BTreeMap<(Timestamp, JobId), Claimed>,
    ready: usize,
    bytes: usize,
}

struct Ranked(Reverse<(i64, JobId)>, Claimed);

/// What a job takes beside its payload.
const JOB_BYTES: usize = 400;

impl Buffer {
    /// One that may be held for its time.
    pub(crate) fn add(&mut self, claimed: Claimed, now: Timestamp) {
        if claimed.due > now {
            self.bytes += JOB_BYTES + claimed.payload.len();
            self.timers.insert((claimed.due, claimed.id), claimed);
        } else {
            self.add_ready(claimed);
        }
    }

    /// One that begins as soon as it has its turn.
    pub(crate) fn add_ready(&mut self, claimed: Claimed) {
        self.bytes += JOB_BYTES + claimed.payload.len();
        self.queue(claimed);
    }

    fn queue(&mut self, claimed: Claimed) {
        let rank = Reverse((claimed.priority, claimed.id));
        self.ready += 1;
        self.lanes.entry(claimed.lane.clone()).or_default().push(Ranked(rank, claimed));
    }

    /// Takes what is next: lanes in turn, in each the most urgent.
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<Claimed> {
        self.wake(now);
        let lane = match &self.served {
            Some(served) => {
                let behind =
                    (std::ops::Bound::Excluded(served.clone()), std::ops::Bound::Unbounded);
                let next = self.lanes.range::<Arc<str>, _>(behind).next();
                next.or_else(|| self.lanes.first_key_value())
            }
            None => self.lanes.first_key_value(),
        };
        let lane = lane?.0.clone();
        let heap = self.lanes.get_mut(&lane)?;
        let Ranked(_, claimed) = heap.pop()?;
        if heap.is_empty() {
            self.lanes.remove(&lane);
        }
        self.served = Some(lane);
        self.ready -= 1;
        self.bytes -= JOB_BYTES + claimed.payload.len();
        Some(claimed)
    }

    /// Moves those whose time has come.
    fn wake(&mut self, now: Timestamp) {
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                break;
            }
            let claimed = first.remove();
            self.queue(claimed);
        }
    }

    /// Takes one away, wherever it is.
    pub(crate) fn remove(&mut self, id: JobId) -> Option<Claimed> {
        let timer = self.timers.iter().find(|(_, claimed)| claimed.id == id).map(|(key, _)| *key);
        let removed = match timer {
            Some(key) => self.timers.remove(&key),
            None => self.remove_ready(id),
        }?;
        self.bytes -= JOB_BYTES + removed.payload.len();
        Some(removed)
    }

    fn remove_ready(&mut self, id: JobId) -> Option<Claimed> {
        let has = |heap: &BinaryHeap<Ranked>| heap.iter().any(|ranked| ranked.1.id == id);
        let lane = self.lanes.iter().find(|(_, heap)| has(heap)).map(|(lane, _)| lane.clone())?;
        let mut found = None;
        let mut left = BinaryHeap::new();
        for ranked in self.lanes.remove(&lane)? {
            if ranked.1.id == id {
                found = Some(ranked.1);
            } else {
                left.push(ranked);
            }
        }
        if !left.is_empty() {
            self.lanes.insert(lane, left);
        }
        self.ready -= 1;
        found
    }

    /// Takes everything of a lane, or of all.
    pub(crate) fn drain(&mut self, lane: Option<&str>) -> Vec<Claimed> {
        let is_of = |claimed: &Claimed| lane.is_none_or(|lane| *claimed.lane == *lane);
        let mut drained = Vec::new();
        for (key, claimed) in std::mem::take(&mut self.timers) {
            if is_of(&claimed) {
                drained.push(claimed);
            } else {
                self.timers.insert(key, claimed);
            }
        }
        for (name, heap) in std::mem::take(&mut self.lanes) {
            if lane.is_none_or(|lane| *name == *lane) {
                self.ready -= heap.len();
                drained.extend(heap.into_iter().map(|ranked| ranked.1));
            } else {
                self.lanes.insert(name, heap);
            }
        }
        self.bytes -=
            drained.iter().map(|claimed| JOB_BYTES + claimed.payload.len()).sum::<usize>();
        drained
    }

    /// When the next one comes to its time.
    pub(crate) fn next_time(&self) -> Option<Timestamp> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// How many wait for a handler.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// How many wait for their time.
    pub(crate) fn timers(&self) -> usize {
        self.timers.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(id: u128, lane: &str, priority: i64, due: i64) -> Claimed {
        let mut claimed = Claimed::for_test(JobId::fixed(id), lane);
        claimed.priority = priority;
        claimed.due = Timestamp::from_millis(due);
        claimed
    }

    fn order(buffer: &mut Buffer, now: i64) -> Vec<u128> {
        let mut order = Vec::new();
        while let Some(next) = buffer.next(Timestamp::from_millis(now)) {
            order.push(u128::from_be_bytes(*next.id.bytes()));
        }
        order
    }

    #[test]
    fn lanes_take_turns_and_in_each_the_urgent_and_the_early_come_first() {
        let mut buffer = Buffer::default();
        for (id, lane, priority) in [
            (1, "a", 2),
            (2, "a", 2),
            (3, "a", 0),
            (4, "a", 2),
            (5, "b", 3),
            (6, "c", 2),
            (7, "c", 1),
        ] {
            buffer.add(claimed(id, lane, priority, 0), Timestamp::from_millis(0));
        }
        assert_eq!(order(&mut buffer, 0), [3, 5, 7, 1, 6, 2, 4]);
        assert_eq!((buffer.ready(), buffer.bytes()), (0, 0));
    }

    #[test]
    fn what_is_early_waits_for_its_time() {
        let mut buffer = Buffer::default();
        for (id, due) in [(1, 30), (2, 10), (3, 20)] {
            buffer.add(claimed(id, "a", 2, due), Timestamp::from_millis(0));
        }
        assert_eq!(buffer.next_time(), Some(Timestamp::from_millis(10)));
        assert_eq!(order(&mut buffer, 9), [0_u128; 0]);
        assert_eq!(order(&mut buffer, 20), [2, 3]);
        assert_eq!(buffer.timers(), 1);
        assert!(
            buffer.remove(JobId::fixed(1)).is_some() && buffer.remove(JobId::fixed(1)).is_none()
        );
        assert_eq!(buffer.bytes(), 0);
    }

    #[test]
    fn a_lane_is_given_up_without_the_others() {
        let mut buffer = Buffer::default();
        for (id, lane, due) in [(1, "a", 0), (2, "b", 0), (3, "a", 50), (4, "b", 50), (5, "b", 0)] {
            buffer.add(claimed(id, lane, 2, due), Timestamp::from_millis(0));
        }
        assert_eq!(buffer.drain(Some("a")).len(), 2);
        assert!(buffer.remove(JobId::fixed(5)).is_some());
        assert_eq!((buffer.ready(), buffer.timers()), (1, 1));
        assert_eq!(order(&mut buffer, 60), [2, 4]);
        assert_eq!(buffer.bytes(), 0);
    }
}
