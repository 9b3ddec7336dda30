use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Sim, State};

/// So many seeds are worth a thread for each core. Each run keeps to one.
const SEEDS_ALONE_MAX: u64 = 2_000;

/// What one run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    pub trace: u64,
    pub steps: u64,
    /// What went wrong, if something did.
    pub violation: Option<String>,
}

/// What many runs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub seeds: u64,
    pub steps: u64,
    /// How often what took effect, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// The traces of all runs together, whatever their order.
    pub trace: u64,
}

/// The seeds to try: `MADANG_SIM_SEED` is one, `MADANG_SIM_SEEDS` so many from 0 on, otherwise `few`.
#[allow(clippy::disallowed_methods, reason = "how a test is told to replay a seed")]
pub fn seeds(few: u64) -> Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
    };
    if let Some(seed) = number("MADANG_SIM_SEED") {
        return seed..seed + 1;
    }
    0..number("MADANG_SIM_SEEDS").unwrap_or(few)
}

/// Runs `one` for each seed. The first that fails is shortened to as few operations and kinds of fault as still fail,
/// told with its last notes, and ends the test. `package` is whose tests replay it.
#[track_caller]
pub fn run<F>(package: &str, seeds: Range<u64>, one: F) -> Tally
where
    F: Fn(&Sim) -> Result<(), String> + Sync,
{
    let next = AtomicU64::new(seeds.start);
    let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(None::<u64>));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().is_some() {
                return;
            }
            let sim = Sim::new(seed);
            let violation = attempt(&sim, &one);
            tally.lock().add(&sim.0.lock());
            if violation.is_some() {
                let mut failed = failed.lock();
                *failed = Some(failed.map_or(seed, |other| other.min(seed)));
            }
        }
    };
    if seeds.end - seeds.start <= SEEDS_ALONE_MAX {
        work();
    } else {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    if let Some(seed) = *failed.lock() {
        panic!("{}", told(package, seed, &one));
    }
    tally.into_inner()
}

fn attempt(sim: &Sim, one: &impl Fn(&Sim) -> Result<(), String>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| one(sim))) {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("it panicked: {}", text_of(&*panic))),
    }
}

/// Makes a failure small and says what is known of it.
fn told(package: &str, seed: u64, one: &impl Fn(&Sim) -> Result<(), String>) -> String {
    let plain = Sim::new(seed);
    let first = attempt(&plain, one);
    let Some(violation) = first else {
        return format!("seed {seed} failed and then did not: the run is not deterministic");
    };
    let all: Vec<&'static str> = plain.0.lock().counts.keys().copied().collect();
    let steps = plain.0.lock().steps;
    let again = |steps_max: u64, spared: &[&str], is_noted: bool| {
        let sim = Sim::new(seed);
        {
            let mut state = sim.0.lock();
            state.steps_max = steps_max;
            state.spared = spared.iter().map(|fault| (*fault).to_owned()).collect();
            state.notes = is_noted.then(Default::default);
        }
        let violation = attempt(&sim, one);
        (sim, violation)
    };
    let fewest = (0..=steps).find(|steps| again(*steps, &[], false).1.is_some()).unwrap_or(steps);
    let mut spared = Vec::new();
    for fault in all {
        spared.push(fault);
        if again(fewest, &spared, false).1.is_none() {
            spared.pop();
        }
    }
    let (sim, shortened) = again(fewest, &spared, true);
    let state = sim.0.lock();
    let needed: Vec<&str> =
        state.counts.keys().copied().filter(|kind| !spared.contains(kind)).collect();
    let notes: Vec<&str> = state.notes.iter().flatten().map(String::as_str).collect();
    format!(
        "seed {seed} fails: {violation}\n\
         it also does after {fewest} of {steps} operations, with: {}: {}\n{}\n\
         replay it: MADANG_SIM_SEED={seed} cargo test -p {package} simulated\n",
        needed.join(", "),
        shortened.unwrap_or_default(),
        notes.join("\n"),
    )
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

impl Outcome {
    /// Runs one seed.
    pub fn of(seed: u64, one: impl Fn(&Sim) -> Result<(), String>) -> Self {
        let sim = Sim::new(seed);
        let violation = attempt(&sim, &one);
        let state = sim.0.lock();
        Self { seed, trace: state.trace.0, steps: state.steps, violation }
    }
}

impl Tally {
    fn add(&mut self, state: &State) {
        self.seeds += 1;
        self.steps += state.steps;
        self.trace = self.trace.wrapping_add(state.trace.0);
        for (what, times) in &state.counts {
            *self.counts.entry(what).or_default() += times;
        }
    }

    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Those of these names that never took effect.
    pub fn missing<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| self.count(name) == 0).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seeds, {} operations", self.seeds, self.steps)?;
        for (what, times) in &self.counts {
            write!(f, "; {what}: {times}")?;
        }
        write!(f, "; trace {:016x}", self.trace)
    }
}
