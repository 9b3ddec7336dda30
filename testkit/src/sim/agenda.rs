use std::collections::BTreeMap;
use std::time::Duration;

/// What will happen, by its time; what is due at the same time happens in the order in which it was planned.
#[derive(Debug)]
pub struct Agenda<T> {
    planned: BTreeMap<(Duration, u64), T>,
    number: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { planned: BTreeMap::new(), number: 0 }
    }
}

impl<T> Agenda<T> {
    pub fn plan(&mut self, at: Duration, event: T) {
        self.number += 1;
        self.planned.insert((at, self.number), event);
    }

    /// When the next event is due.
    pub fn next_at(&self) -> Option<Duration> {
        self.planned.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next event that is due by `now`.
    pub fn due(&mut self, now: Duration) -> Option<T> {
        self.next_at().filter(|at| *at <= now)?;
        self.planned.pop_first().map(|(_, event)| event)
    }
}
