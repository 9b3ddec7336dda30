//! The words for one job: what is asked for, how it stands, what its attempts did.

use std::fmt;

use base::{Entropy, Id, OrganisationId, Timestamp};
use parking_lot::Mutex;

/// Marks the ids of jobs and runs; never constructed.
pub(crate) mod kind {
    #[derive(Debug)]
    pub enum Job {}
    #[derive(Debug)]
    pub enum Run {}
}

pub type JobId = Id<kind::Job>;
/// Names one run of a [`crate::Graph`].
pub type RunId = Id<kind::Run>;

/// A job to be done: `New { priority: Priority::High, ..New::of(organisation, "report.build", payload) }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    pub organisation: OrganisationId,
    /// What to do; a handler of this kind must be registered.
    pub kind: String,
    /// What the handler is told, usually JSON.
    pub payload: Vec<u8>,
    /// Under the same key of the same organisation and kind nothing is added a second time.
    pub key: Option<Key>,
    /// Where it waits; its kind's queue when nothing is said.
    pub queue: Option<String>,
    pub priority: Priority,
    /// It waits until then.
    pub run_at: Option<Timestamp>,
    /// Of one organisation's jobs of one kind with the same concurrency key, only as many run at a time as
    /// [`crate::Kind::per_key_max`] says.
    pub concurrency_key: Option<String>,
}

impl New {
    /// A job for now, of usual priority.
    pub fn of(
        organisation: OrganisationId,
        kind: impl Into<String>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            organisation,
            kind: kind.into(),
            payload: payload.into(),
            key: None,
            queue: None,
            priority: Priority::Normal,
            run_at: None,
            concurrency_key: None,
        }
    }
}

/// Says which deed a job is, so that it is not asked for twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub(crate) text: String,
    pub(crate) lasts: Lasts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    WhileKept,
    WhileUnfinished,
}

impl Key {
    /// Nothing is added under it while the job is remembered, finished or not.
    pub fn once(text: impl Into<String>) -> Self {
        Self { text: text.into(), lasts: Lasts::WhileKept }
    }

    /// Nothing is added under it until the job is finished.
    pub fn while_unfinished(text: impl Into<String>) -> Self {
        Self { text: text.into(), lasts: Lasts::WhileUnfinished }
    }
}

/// What became of a [`New`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    Added(JobId),
    /// A job with this key was there before, so nothing was added.
    Repeated(JobId),
}

impl Enqueued {
    pub fn id(self) -> JobId {
        match self {
            Self::Added(id) | Self::Repeated(id) => id,
        }
    }
}

/// Declares an enum whose variants have names in rows, URLs and the console.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$of])* $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub fn named(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use named;

named! {
    /// Of one organisation's jobs in one queue, those of higher priority begin first.
    Priority { Urgent = "urgent", High = "high", Normal = "normal", Low = "low" }
}

named! {
    /// How a job stands.
    State {
        /// It waits for its time.
        Scheduled = "scheduled",
        /// It waits for a worker.
        Ready = "ready",
        /// It waits for others that use up what may run at the same time.
        Limited = "limited",
        /// It waits for the tasks that it comes after.
        Waiting = "waiting",
        /// A worker has it.
        Running = "running",
        Done = "done",
        /// Its attempts failed; somebody has to look.
        Dead = "dead",
        Cancelled = "cancelled",
        /// A task that it comes after did not succeed.
        Skipped = "skipped",
        /// Somebody looked at a dead one, and it stays undone.
        Discarded = "discarded",
    }
}

named! {
    /// How an attempt ended.
    Outcome {
        Done = "done",
        Failed = "failed",
        /// It said that it was too early.
        Early = "early",
        Cancelled = "cancelled",
        /// Its worker went away.
        Lost = "lost",
        /// Its worker was stopped in an orderly way.
        Interrupted = "interrupted",
    }
}

impl Priority {
    pub(crate) fn number(self) -> i64 {
        self as i64
    }

    pub(crate) fn numbered(number: i64) -> Self {
        let place = usize::try_from(number).unwrap_or(0).min(Self::ALL.len() - 1);
        Self::ALL[place]
    }
}

impl State {
    /// Whether nothing more happens to it by itself.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled | Self::Skipped | Self::Discarded)
    }
}

/// A job as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub organisation: OrganisationId,
    pub kind: String,
    pub queue: String,
    pub priority: Priority,
    pub state: State,
    pub payload: Vec<u8>,
    pub created: Timestamp,
    /// When it may begin, or might have.
    pub due: Timestamp,
    /// Attempts begun so far.
    pub attempts: u32,
    /// When the newest attempt was given to a worker.
    pub claimed: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// Somebody asked a running one to stop.
    pub is_cancelling: bool,
    pub key: Option<String>,
    pub concurrency_key: Option<String>,
    pub run: Option<RunId>,
    /// Its name in the run.
    pub task: Option<String>,
    /// Why it is not done.
    pub last_error: Option<String>,
}

/// What one attempt did; that of an attempt in progress is not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    pub number: u32,
    pub began: Timestamp,
    pub ended: Timestamp,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// What the handler noted, a line each.
    pub log: String,
}

/// Makes ids that sort in the order in which they are made: the time in milliseconds, then a count (RFC 9562 §6.2).
pub(crate) struct Ids {
    entropy: Entropy,
    last: Mutex<(u64, u16)>,
}

const COUNT_MAX: u16 = 0x0fff;

impl Ids {
    pub(crate) fn new(entropy: &Entropy) -> Self {
        Self { entropy: entropy.clone(), last: Mutex::new((0, 0)) }
    }

    pub(crate) fn next<Kind>(&self, now: Timestamp) -> Id<Kind> {
        let now = u64::try_from(now.millis()).unwrap_or(0);
        let (millis, count) = {
            let mut last = self.last.lock();
            *last = match *last {
                (millis, _) if now > millis => (now, 0),
                (millis, COUNT_MAX) => (millis + 1, 0),
                (millis, count) => (millis, count + 1),
            };
            *last
        };
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&(0x7000 | count).to_be_bytes());
        self.entropy.fill(&mut bytes[8..]);
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        Id::from_bytes(bytes)
    }
}

/// When an id was made: ids begin with their milliseconds.
pub(crate) fn made(id: JobId) -> Timestamp {
    let mut millis = [0; 8];
    millis[2..].copy_from_slice(&id.bytes()[..6]);
    Timestamp::from_millis(i64::try_from(u64::from_be_bytes(millis)).unwrap_or(0))
}

/// The smallest id that can be made at this moment.
pub(crate) fn first_id_at(moment: Timestamp) -> JobId {
    let millis = u64::try_from(moment.millis()).unwrap_or(0).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis[2..]);
    JobId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_they_are_made_even_when_the_clock_stands_or_goes_back() {
        let ids = Ids::new(&Entropy::seeded(1));
        let now = Timestamp::from_millis(1_700_000_000_000);
        let mut made_so_far: Vec<JobId> = (0..10_000).map(|_| ids.next(now)).collect();
        made_so_far.push(ids.next(Timestamp::from_millis(5)));
        assert!(made_so_far.is_sorted_by(|one, other| one < other));
        assert_eq!(made(made_so_far[0]), now);
        assert!(first_id_at(now) < made_so_far[0]);
        assert_eq!(made_so_far[7].to_string().parse::<JobId>().unwrap(), made_so_far[7]);
    }

    #[test]
    fn names_are_read_back() {
        for state in State::ALL {
            assert_eq!(State::named(state.name()), Some(*state));
        }
        for priority in Priority::ALL {
            assert_eq!(Priority::numbered(priority.number()), *priority);
        }
        assert_eq!(State::named("gone"), None);
    }
}
