use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use base::{Clock, Metrics};

/// Asks until there is an answer; an error names what was waited for. The one place that polls.
pub fn within<T>(limit: Duration, what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within_every(Duration::from_millis(20), limit, what, ask)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a development tool outside the server waits in real time"
)]
pub fn within_every<T>(
    pause: Duration,
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut last = None;
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if started.elapsed() >= limit {
            match last {
                Some(error) => bail!("{what}: not within {limit:?}; last error: {error:#}"),
                None => bail!("{what}: not within {limit:?}"),
            }
        }
        std::thread::sleep(pause);
    }
}

/// Waits until the condition holds; what it waits for is a test's only clock.
pub async fn until(clock: &Clock, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came true that {what}");
}

/// What `/metrics` says of a counter.
pub fn metric(metrics: &Metrics, name: &str) -> Option<u64> {
    let text = metrics.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
