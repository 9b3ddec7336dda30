use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::RwLock;

use crate::attempt::Attempt;
use crate::{Error, Failed};

/// How jobs of one kind are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Where they wait unless they say otherwise: lower-case letters, digits, `-`, `_` and `.`.
    pub queue: &'static str,
    /// Attempts until a job is dead.
    pub attempts_max: u32,
    /// How long one attempt may take.
    pub time_max: Duration,
    /// The pause after the first attempt; it doubles with each further one, and up to half of it is chance.
    pub back_off_min: Duration,
    /// The longest pause between two attempts.
    pub back_off_max: Duration,
    /// How many run at the same time, over all organisations and servers; counts jobs enqueued under this limit.
    pub running_max: Option<u32>,
    /// How many of one organisation with the same concurrency key run at the same time, over all servers.
    pub per_key_max: u32,
    /// Whether whoever may write jobs can enqueue and schedule it by itself.
    pub is_open: bool,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            queue: "default",
            attempts_max: 20,
            time_max: Duration::from_mins(5),
            back_off_min: Duration::from_secs(1),
            back_off_max: Duration::from_hours(1),
            running_max: None,
            per_key_max: 1,
            is_open: false,
        }
    }
}

/// Says that the job is done, and whether that is written already.
#[derive(Debug)]
#[must_use = "a handler ends with it"]
pub struct Done {
    pub(crate) is_written: bool,
}

pub(crate) type Handler =
    Arc<dyn Fn(Attempt) -> BoxFuture<'static, Result<Done, Failed>> + Send + Sync>;

/// A kind with what carries it out.
pub(crate) struct Registered {
    pub(crate) name: &'static str,
    pub(crate) options: Kind,
    pub(crate) handler: Handler,
}

/// All kinds that this process knows.
#[derive(Default)]
pub(crate) struct Kinds {
    by_name: RwLock<BTreeMap<&'static str, Arc<Registered>>>,
}

const KIND_CHARS_MAX: usize = 100;
const QUEUE_CHARS_MAX: usize = 60;

impl Kinds {
    pub(crate) fn register(&self, kind: Registered) -> Result<(), Error> {
        let Registered { name, options, .. } = &kind;
        check_name("kind of a job", name, KIND_CHARS_MAX)?;
        check_queue(options.queue)?;
        let positive =
            [options.attempts_max, options.per_key_max, options.running_max.unwrap_or(1)];
        if positive.contains(&0) || options.time_max.is_zero() {
            let rule = format!("{name} must allow at least one attempt of some time");
            return Err(Error::Invalid { what: "kind of a job", rule });
        }
        let name = *name;
        let mut by_name = self.by_name.write();
        if by_name.contains_key(name) {
            return Err(Error::HandledTwice(name));
        }
        by_name.insert(name, Arc::new(kind));
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Registered>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Registered>, Error> {
        self.find(name).ok_or_else(|| Error::NoHandler(name.chars().take(KIND_CHARS_MAX).collect()))
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.by_name.read().keys().copied().collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Registered>> {
        self.by_name.read().values().cloned().collect()
    }
}

pub(crate) fn check_queue(name: &str) -> Result<(), Error> {
    check_name("name of a queue", name, QUEUE_CHARS_MAX)
}

/// What lanes are made of: a `/` or a capital letter would change their order.
pub(crate) fn check_name(what: &'static str, name: &str, chars_max: usize) -> Result<(), Error> {
    let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if !name.is_empty() && name.len() <= chars_max && name.chars().all(is_fine) {
        return Ok(());
    }
    let rule = format!("has 1 to {chars_max} lower-case letters, digits, '-', '_' and '.'");
    Err(Error::Invalid { what, rule })
}

/// Doubles with each of the `tries`; up to half of it is taken off by chance, so that what failed together spreads.
pub(crate) fn back_off(options: &Kind, tries: u32, chance: u64) -> Duration {
    let doublings = tries.saturating_sub(1).min(30);
    let whole = options.back_off_min.saturating_mul(1 << doublings).min(options.back_off_max);
    let half = u64::try_from(whole.as_micros() / 2).unwrap_or(u64::MAX - 1);
    whole.saturating_sub(Duration::from_micros(chance % (half + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_half() {
        let options = Kind {
            back_off_min: Duration::from_secs(5),
            back_off_max: Duration::from_hours(1),
            ..Kind::default()
        };
        for (tries, whole) in [(1, 5), (2, 10), (10, 2_560), (11, 3_600), (u32::MAX, 3_600)] {
            let whole = Duration::from_secs(whole);
            assert_eq!(back_off(&options, tries, 0), whole);
            for chance in [1, 12_345_678_901, u64::MAX] {
                let pause = back_off(&options, tries, chance);
                assert!(whole / 2 <= pause && pause <= whole, "{tries}: {pause:?}");
            }
        }
    }

    #[test]
    fn names_that_would_change_the_order_of_lanes_are_refused() {
        check_queue("mail-2.slow_lane").unwrap();
        for name in ["", "a/b", "A", "~x", "a b", "ä", &"x".repeat(61)] {
            assert!(check_queue(name).is_err(), "{name}");
        }
    }
}
