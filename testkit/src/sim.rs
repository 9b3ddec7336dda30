//! Time, chance, disk and network in one process, on one thread, from one seed: for the cores that do no I/O of their
//! own. The same seed is the same run to the last byte; [`run`] tries many, and prints the seed of one that fails.
//!
//! Start at [`run`] and [`Sim`]. A run draws everything from its [`Sim`], keeps no hash map whose order it uses, asks no
//! clock and starts no thread. Each fault has a name and is counted where it takes effect, not where it is planned.

mod agenda;
mod disk;
mod network;
mod runs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use crate::disk::Dice;
pub use agenda::Agenda;
pub use disk::{Disk, DiskFile, Odds, SECTOR_BYTES};
pub use network::{Datagrams, End, Network};
pub use runs::{Outcome, Tally, run, seeds};

/// How many of the last notes are shown when a run fails.
const NOTES_MAX: usize = 60;

/// What one run draws from; cloning shares it.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<State>>);

struct State {
    seed: u64,
    dice: Dice,
    now: Duration,
    steps: u64,
    steps_max: u64,
    /// Faults that do not take effect, to find out which ones a failure needs.
    spared: BTreeSet<String>,
    counts: BTreeMap<&'static str, u64>,
    trace: Trace,
    /// The last notes, when somebody will read them.
    notes: Option<VecDeque<String>>,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            dice: Dice::new(seed),
            now: Duration::ZERO,
            steps: 0,
            steps_max: u64::MAX,
            spared: BTreeSet::new(),
            counts: BTreeMap::new(),
            trace: Trace::default(),
            notes: None,
        })))
    }

    pub fn seed(&self) -> u64 {
        self.0.lock().seed
    }

    /// A number below `end`, which is not 0.
    pub fn below(&self, end: u64) -> u64 {
        self.0.lock().dice.below(end)
    }

    /// An index into something of this length, which is not 0.
    pub fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("it is below a length")
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True once in so many times; never for 0.
    pub fn one_in(&self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// Whether a fault of this name takes effect now. It is counted.
    pub fn strikes(&self, fault: &'static str, one_in: u64) -> bool {
        let is_due = self.one_in(one_in) && !self.spares(fault);
        if is_due {
            self.count(fault);
        }
        is_due
    }

    /// Whether faults of this name are left out of this run.
    pub fn spares(&self, fault: &str) -> bool {
        self.0.lock().spared.contains(fault)
    }

    /// Counts something that took effect.
    pub fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub fn count_many(&self, what: &'static str, times: u64) {
        *self.0.lock().counts.entry(what).or_default() += times;
    }

    /// How often something of this name took effect so far.
    pub fn counted(&self, what: &str) -> u64 {
        self.0.lock().counts.get(what).copied().unwrap_or(0)
    }

    /// Begins the next operation; false when the run shall come to its end.
    pub fn step(&self) -> bool {
        let mut state = self.0.lock();
        let goes_on = state.steps < state.steps_max;
        state.steps += u64::from(goes_on);
        goes_on
    }

    /// Writes down what happened. It counts for [`Sim::trace`] and is shown when the run fails.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let mut state = self.0.lock();
        // Writing into a number cannot fail.
        let _ = state.trace.write_fmt(what);
        state.trace.mix(b"\n");
        let now = state.now;
        if let Some(notes) = &mut state.notes {
            if notes.len() == NOTES_MAX {
                notes.pop_front();
            }
            notes.push_back(format!("{now:>12.3?} {what}"));
        }
    }

    /// Takes bytes into the trace that nobody wants to read.
    pub fn note_bytes(&self, bytes: &[u8]) {
        self.0.lock().trace.mix(bytes);
    }

    /// A number that is the same for the same run.
    pub fn trace(&self) -> u64 {
        self.0.lock().trace.0
    }

    /// Time since the run began.
    pub fn now(&self) -> Duration {
        self.0.lock().now
    }

    /// Moves time on; it never goes back.
    pub fn wait_until(&self, moment: Duration) {
        let mut state = self.0.lock();
        state.now = state.now.max(moment);
    }
}

/// FNV-1a over all notes.
struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Trace {
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.mix(text.as_bytes());
        Ok(())
    }
}
