//! Each thread has a seat that says which work it runs. The thread that looks finds the same turn in it twice when a
//! task does not let go: so a poll costs no look at a clock.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, getpriority_process};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::Work;
use super::rest::Rests;

static SEATS: Mutex<Vec<Weak<Seat>>> = Mutex::new(Vec::new());

thread_local! {
    static SEAT: Arc<Seat> = Seat::new();
}

/// A thread by the system's number; nothing where the system does not say.
#[derive(Debug, Clone, Copy)]
pub struct Thread(Option<Pid>);

struct Seat {
    thread: Thread,
    /// Threads that do one kind of work; only theirs are made slow.
    group: OnceLock<&'static str>,
    /// Only of a thread that was once made slow.
    rests: OnceLock<&'static Rests>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Changes whenever work begins or ends on this thread.
    turn: u64,
    work: Option<Arc<Work>>,
    seen: Option<Seen>,
    /// The thread's niceness from before it was made slow.
    niceness: Option<i32>,
}

/// What the thread that looks saw when it looked before.
struct Seen {
    turn: u64,
    since: Instant,
    /// The thread's processor time then; nothing where the system does not say.
    ran: Option<Duration>,
    is_told: bool,
    /// Made slow, or it was tried.
    is_slowed: bool,
}

impl Seen {
    fn new(turn: u64, since: Instant, ran: Option<Duration>) -> Self {
        Self { turn, since, ran, is_told: false, is_slowed: false }
    }

    /// Whether the thread computed for most of the limit. One that waits for something takes nothing from others, and on
    /// a busy machine honest work keeps its thread for long because it waits for a processor: less of it would not help.
    fn computes(&self, ran: Option<Duration>, limit: Duration) -> bool {
        let (Some(before), Some(now)) = (self.ran, ran) else { return true };
        now.saturating_sub(before) >= limit / 4 * 3
    }
}

/// A seat whose work does not let go.
pub(super) struct Kept {
    pub(super) work: Arc<Work>,
    pub(super) group: Option<&'static str>,
    pub(super) held: Duration,
    /// It was not told yet.
    pub(super) is_new: bool,
}

/// On Linux the last to run.
const NICENESS_MAX: i32 = 19;
/// The shortest turn that Linux gives, in nanoseconds.
const SLICE_MIN: u64 = 100_000;
/// `SCHED_ATTR_SIZE_VER0`: what every Linux since 3.14 reads.
const ATTRIBUTES_BYTES: u32 = 48;
/// How long a slow thread waits for another to take its place.
const HAND_OVER: Duration = Duration::from_millis(20);

/// Says that this thread belongs to a group.
pub fn sit(group: &'static str) {
    SEAT.with(|seat| {
        // A thread stays where it is.
        let _ = seat.group.set(group);
    });
}

/// Puts work into this thread's seat until what this gives is dropped.
pub(super) fn take(work: &Arc<Work>) -> Seated {
    // While a thread ends it has no seat any more.
    let seat = SEAT.try_with(Arc::clone).ok();
    let before = seat.as_ref().and_then(|seat| seat.change(Some(work.clone())).0);
    Seated { seat, before }
}

pub(super) struct Seated {
    seat: Option<Arc<Seat>>,
    /// A task's work is around that of the request which it answers.
    before: Option<Arc<Work>>,
}

impl Drop for Seated {
    fn drop(&mut self) {
        let Some(seat) = &self.seat else { return };
        if let (_, Some(niceness)) = seat.change(self.before.take()) {
            seat.recover(niceness);
        }
    }
}

impl Seat {
    fn new() -> Arc<Self> {
        let seat = Arc::new(Self {
            thread: Thread::current(),
            group: OnceLock::new(),
            rests: OnceLock::new(),
            state: Mutex::default(),
        });
        let mut seats = SEATS.lock();
        seats.retain(|seat| seat.strong_count() > 0);
        seats.push(Arc::downgrade(&seat));
        seat
    }

    /// Gives the work from before and, when the thread has none any more and was made slow, its niceness from
    /// before that.
    fn change(&self, work: Option<Arc<Work>>) -> (Option<Arc<Work>>, Option<i32>) {
        let mut state = self.state.lock();
        state.turn = state.turn.wrapping_add(1);
        let niceness = if work.is_none() { state.niceness.take() } else { None };
        if let (Some(_), Some(rests)) = (niceness, self.rests.get()) {
            rests.end();
        }
        (std::mem::replace(&mut state.work, work), niceness)
    }

    fn look(&self, now: Instant, limit: Duration) -> Option<Kept> {
        let mut state = self.state.lock();
        let State { turn, work, seen, niceness, .. } = &mut *state;
        let Some(work) = work else {
            *seen = None;
            return None;
        };
        let seen = match seen {
            Some(seen) if seen.turn == *turn => seen,
            other => other.insert(Seen::new(*turn, now, self.thread.ran())),
        };
        let held = now.saturating_duration_since(seen.since);
        if held < limit {
            return None;
        }
        let is_new = !std::mem::replace(&mut seen.is_told, true);
        let group = self.group.get().copied();
        let may_slow = group.is_some() && niceness.is_none() && !seen.is_slowed;
        if may_slow && seen.computes(self.thread.ran(), limit) {
            seen.is_slowed = true;
            *niceness = self.thread.slow();
            if niceness.is_some() {
                // Under the lock, so that the rests are of the work that was found.
                self.thread.rest(self.rests.get_or_init(Rests::leaked));
            }
        }
        Some(Kept { work: work.clone(), group, held, is_new })
    }

    /// Once the task let go: makes the thread as quick as it was, or, where that is not allowed, gives its place in
    /// the runtime to another thread.
    fn recover(&self, niceness: i32) {
        tracing::info!("the task has let go of its thread");
        if self.thread.quicken(niceness) {
            return;
        }
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        if flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread)
            && !std::thread::panicking()
        {
            tokio::task::block_in_place(|| std::thread::park_timeout(HAND_OVER));
        }
    }
}

impl Thread {
    /// The thread that asks.
    pub fn current() -> Self {
        let number = || {
            let path = std::fs::read_link("/proc/thread-self").ok()?;
            Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?)
        };
        Self(number())
    }

    /// Lets every other thread go first; gives the niceness from before.
    ///
    /// Niceness says how much processor time the thread has, the short slice that who wakes beside it does not wait
    /// for the end of a long turn. `SCHED_IDLE` would not do: Linux takes a processor that runs nothing else for a
    /// free one and puts what wakes there, which then waits up to four milliseconds.
    pub fn slow(self) -> Option<i32> {
        // Without a number it would be the thread that asks.
        let thread = Some(self.0?);
        let slowed = getpriority_process(thread)
            .map_err(std::io::Error::from)
            .and_then(|before| self.schedule(NICENESS_MAX, SLICE_MIN).map(|()| before));
        slowed.inspect_err(|error| tracing::warn!(%error, "its priority stays as it is")).ok()
    }

    /// The processor time that it has used.
    #[allow(unsafe_code, reason = "no safe crate asks this for a thread by its number")]
    fn ran(self) -> Option<Duration> {
        let thread = self.0?.as_raw_pid();
        // As pthread_getcpuclockid(3) makes it: of one thread, as the scheduler counts.
        let clock = !thread << 3 | 0b110;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel checks the number of the clock, and writes one timespec, which outlives the call.
        let asked = unsafe { libc::clock_gettime(clock, &raw mut time) };
        let (seconds, nanos) = (time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?);
        (asked == 0).then(|| Duration::new(seconds, nanos))
    }

    fn rest(self, rests: &'static Rests) {
        let Some(thread) = self.0 else { return };
        if let Err(error) = rests.begin(thread) {
            tracing::warn!(%error, "it takes no rests while it computes");
        }
    }

    fn quicken(self, niceness: i32) -> bool {
        self.0.is_some() && self.schedule(niceness, 0).is_ok()
    }

    /// `slice` counts since Linux 6.12; zero is the system's own.
    #[allow(unsafe_code, reason = "no safe crate asks this for a thread by its number")]
    fn schedule(self, niceness: i32, slice: u64) -> std::io::Result<()> {
        let Some(thread) = self.0 else { return Ok(()) };
        let attributes = libc::sched_attr {
            size: ATTRIBUTES_BYTES,
            sched_policy: libc::SCHED_OTHER.cast_unsigned(),
            sched_flags: 0,
            sched_nice: niceness,
            sched_priority: 0,
            sched_runtime: slice,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: the kernel reads as many bytes of the attributes as they say, which outlive the call, and checks the
        // number of the thread.
        let done = unsafe {
            libc::syscall(libc::SYS_sched_setattr, thread.as_raw_pid(), &raw const attributes, 0)
        };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

/// Every seat whose work has not let go for `limit`.
pub(super) fn look(now: Instant, limit: Duration) -> Vec<Kept> {
    let seats: Vec<_> = SEATS.lock().iter().filter_map(Weak::upgrade).collect();
    seats.iter().filter_map(|seat| seat.look(now, limit)).collect()
}

/// What was told and has not changed since.
pub(super) fn stuck(now: Instant) -> Vec<(Arc<Work>, Duration)> {
    let seats: Vec<_> = SEATS.lock().iter().filter_map(Weak::upgrade).collect();
    let stuck = seats.iter().filter_map(|seat| {
        let state = seat.state.lock();
        let seen = state.seen.as_ref().filter(|seen| seen.is_told && seen.turn == state.turn)?;
        Some((state.work.clone()?, now.saturating_duration_since(seen.since)))
    });
    stuck.collect()
}
