//! What is said of a panic: a line for each, and the way to it once in a while.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::time::{Duration, Instant};

use base::Clock;
use parking_lot::Mutex;

/// Naming the functions of one way reads the symbols of the whole program, so a feature that panics at every request
/// would take the processor from everybody else.
const BACKTRACE_EVERY: Duration = Duration::from_secs(10);

/// Replaces what the standard library prints. With `RUST_BACKTRACE=1` the first panic of ten seconds shows its way.
pub(crate) fn report(clock: Clock) {
    let told: Mutex<Option<Instant>> = Mutex::new(None);
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or("(no text)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let backtrace = due(&told, clock.instant()).then(Backtrace::capture);
        if let Some(way) = backtrace.filter(|way| way.status() == BacktraceStatus::Captured) {
            tracing::error!(thread, place, "panic: {text}\n{way}");
        } else {
            tracing::error!(thread, place, "panic: {text}");
        }
    }));
}

/// Says whether a way may be shown now; never waits, since a panic may come in the middle of another.
fn due(told: &Mutex<Option<Instant>>, now: Instant) -> bool {
    let Some(mut told) = told.try_lock() else { return false };
    let is_due = told.is_none_or(|before| now.saturating_duration_since(before) >= BACKTRACE_EVERY);
    if is_due {
        *told = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_burst_of_panics_shows_one_way() {
        let (told, began) = (Mutex::new(None), Instant::now());
        assert!(due(&told, began));
        assert!(!due(&told, began + BACKTRACE_EVERY / 2));
        assert!(due(&told, began + BACKTRACE_EVERY));
        let _held = told.lock();
        assert!(!due(&told, began + 3 * BACKTRACE_EVERY));
    }
}
