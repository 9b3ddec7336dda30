//! Rests of a thread that computes without end: it runs for a tenth of a millisecond, sleeps for ten, and so on.
//!
//! Niceness is not enough: a thread that only computes keeps its processor until the scheduler's next tick, and one
//! request in a hundred would wait up to four milliseconds for it. So a timer of the thread's own interrupts it, and the
//! handler of the signal sleeps. See timer_create(2) and signal-safety(7).

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Pid;

/// How long the thread runs at a time, and how long it sleeps then.
const RUN: Duration = Duration::from_micros(100);
const REST: Duration = Duration::from_micros(9_900);
/// A thread that ran for less since its last rest waits for something, or for a processor: it needs no rest, and is
/// looked at again after a while that doubles each time.
const RAN_MIN_NANOS: u64 = 30_000;
const AGAIN_MIN: Duration = Duration::from_millis(1);
const DOUBLED_MAX: u32 = 7;
/// Nobody else in this process asks for it, and where nobody answers it is ignored.
const SIGNAL: i32 = libc::SIGURG;

/// What the watch and the handler of the thread's signal share.
pub(super) struct Rests {
    is_on: AtomicBool,
    timer: AtomicPtr<libc::c_void>,
    /// The thread's processor time at the end of its last rest.
    ran: AtomicU64,
    /// Times in a row that it needed none.
    idle: AtomicU32,
}

impl Rests {
    /// There for ever, since a signal may come late.
    pub(super) fn leaked() -> &'static Self {
        Box::leak(Box::new(Self {
            is_on: AtomicBool::new(false),
            timer: AtomicPtr::default(),
            ran: AtomicU64::new(0),
            idle: AtomicU32::new(0),
        }))
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Sends the thread to rest until [`Self::end`].
    #[allow(unsafe_code, reason = "no safe crate makes a timer that signals one thread")]
    pub(super) fn begin(&'static self, thread: Pid) -> std::io::Result<()> {
        answer_signals()?;
        // SAFETY: an all-zero sigevent is a valid one.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_notify_thread_id = thread.as_raw_pid();
        event.sigev_value.sival_ptr = std::ptr::from_ref(self).cast_mut().cast();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both places outlive the call, and what the event points to is there for ever.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if made != 0 {
            return Err(std::io::Error::last_os_error());
        }
        self.timer.store(timer, Ordering::Release);
        self.idle.store(0, Ordering::Relaxed);
        self.is_on.store(true, Ordering::Release);
        self.wait(RUN);
        Ok(())
    }

    #[allow(unsafe_code, reason = "no safe crate has timers that signal one thread")]
    pub(super) fn end(&self) {
        if !self.is_on.swap(false, Ordering::AcqRel) {
            return;
        }
        // SAFETY: the timer was made by `begin`, and is deleted once.
        unsafe {
            libc::timer_delete(self.timer.load(Ordering::Acquire));
        }
    }

    /// Has the signal sent after a while. A handler may call it.
    #[allow(unsafe_code, reason = "no safe crate has timers that signal one thread")]
    fn wait(&self, time: Duration) {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let once = libc::itimerspec { it_interval: never, it_value: time_of(time) };
        // SAFETY: `once` outlives the call; a timer that is deleted meanwhile is refused by the kernel.
        unsafe {
            let timer = self.timer.load(Ordering::Acquire);
            libc::timer_settime(timer, 0, &raw const once, std::ptr::null_mut());
        }
    }

    /// What the handler does, on the thread and with all signals held back: only what signal-safety(7) allows.
    fn rest(&self) {
        if !self.is_on() {
            return;
        }
        let ran = processor_nanos();
        if ran.saturating_sub(self.ran.load(Ordering::Relaxed)) < RAN_MIN_NANOS {
            let idle = self.idle.fetch_add(1, Ordering::Relaxed);
            self.wait(AGAIN_MIN * (1 << idle.min(DOUBLED_MAX)));
            return;
        }
        self.idle.store(0, Ordering::Relaxed);
        sleep(REST);
        self.ran.store(processor_nanos(), Ordering::Relaxed);
        if self.is_on() {
            self.wait(RUN);
        }
    }
}

/// Sets the handler, once for the process.
#[allow(unsafe_code, reason = "a handler of signals is unsafe by nature")]
fn answer_signals() -> std::io::Result<()> {
    static ANSWERED: Once = Once::new();
    let mut done = Ok(());
    ANSWERED.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = answer as *const () as usize;
        // On the thread's own stack: that for signals is small, and another signal may come on top.
        action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        // SAFETY: the action outlives both calls, and its handler does only what a handler may.
        let set = unsafe {
            libc::sigfillset(&raw mut action.sa_mask);
            libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut())
        };
        if set != 0 {
            done = Err(std::io::Error::last_os_error());
        }
    });
    done
}

#[allow(unsafe_code, reason = "the kernel says by a pointer which thread it is")]
extern "C" fn answer(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo that outlives the call; one of a timer holds what `begin` put there, which is
    // there for ever. The place of errno is this thread's own.
    unsafe {
        if info.is_null() || (*info).si_code != libc::SI_TIMER {
            return;
        }
        let rests = (*info).si_value().sival_ptr.cast_const().cast::<Rests>();
        let errno = libc::__errno_location();
        let before = *errno;
        if let Some(rests) = rests.as_ref() {
            rests.rest();
        }
        *errno = before;
    }
}

/// The thread's own.
#[allow(unsafe_code, reason = "a handler of signals may not ask the standard library")]
fn processor_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call.
    unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
    }
    let (seconds, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

#[allow(unsafe_code, reason = "a handler of signals may not ask the standard library")]
fn sleep(time: Duration) {
    let (nothing, time) = (std::ptr::null_mut(), time_of(time));
    // SAFETY: without descriptors it reads the time only, which outlives the call.
    unsafe {
        libc::pselect(0, nothing, nothing, nothing, &raw const time, std::ptr::null());
    }
}

/// Of times under a second.
fn time_of(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() }
}
