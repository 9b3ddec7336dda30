//! The threads of the process: those of the doors, and those of handlers and features, which no door waits for.

use std::process::exit;
use std::time::Duration;

use anyhow::{Context, Result};
use base::Base;
use base::watch::{self, sit};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

/// How many threads there are for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Threads for doors and engines: connections, MQTT, the event log's readers. 0 takes one per core, at least 4.
    pub(crate) io: usize,
    /// Threads for handlers of requests and for what features do. 0 takes two per core, at least 4.
    pub(crate) handlers: usize,
    /// How much those of handlers give way to those of doors: 0 not at all, 19 whenever these have work.
    pub(crate) handlers_niceness: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self { io: 0, handlers: 0, handlers_niceness: 5 }
    }
}

/// Both groups of threads.
pub(crate) struct Threads {
    pub(crate) io: Runtime,
    pub(crate) handlers: Runtime,
}

/// EX_SOFTWARE of sysexits.h: whoever supervises the process starts it again.
const STUCK: i32 = 70;
const NICENESS_MAX: u8 = 19;
const END_MAX: Duration = Duration::from_millis(500);

impl Threads {
    /// Starts them, and the thread that looks whether they are stuck.
    pub(crate) fn start(config: &Config, watch: watch::Config, base: &Base) -> Result<Self> {
        anyhow::ensure!(
            config.handlers_niceness <= NICENESS_MAX,
            "[threads] handlers_niceness is over {NICENESS_MAX}"
        );
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        // More than cores: while one is kept by a task that does not let go, the system lets the others go on.
        let io = if config.io == 0 { cores.max(4) } else { config.io };
        let handlers = if config.handlers == 0 { (2 * cores).max(4) } else { config.handlers };
        base.watch.group("io", io);
        base.watch.group("handlers", handlers);
        let threads = Self {
            io: group("io", io, 0)?,
            handlers: group("handlers", handlers, config.handlers_niceness)?,
        };
        let started = base.watch.start(watch, |why| {
            tracing::error!(
                "{why}: the process ends, to be started again; nothing acknowledged is lost"
            );
            exit(STUCK);
        });
        started.map_err(|error| anyhow::anyhow!(error)).context("start the watch")?;
        Ok(threads)
    }

    /// Drops what still runs; its writes were never acknowledged.
    pub(crate) fn end(self) {
        self.handlers.shutdown_timeout(END_MAX);
        self.io.shutdown_timeout(END_MAX);
    }
}

fn group(name: &'static str, threads: usize, niceness: u8) -> Result<Runtime> {
    let start = move || {
        sit(name);
        // On Linux the priority belongs to the thread that asks.
        if niceness > 0
            && let Err(error) = rustix::process::nice(niceness.into())
        {
            tracing::warn!(%error, "{name} run at normal priority");
        }
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(start)
        .enable_all()
        .build();
    runtime.with_context(|| format!("start the threads of {name}"))
}
