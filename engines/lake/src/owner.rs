use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Base;

use crate::delta::{Delta, Version};
use crate::engine::blocking;
use crate::files::{DataFile, Files};
use crate::metrics::Counters;
use crate::rows::Rows;
use crate::scan::Scan;
use crate::table::{Exchange, Shared, cause};
use crate::tail::Tail;
use crate::{Config, Error};

/// The one task that changes a table: it commits waiting rows, compacts and cleans up, one after the
/// other, so nothing it does conflicts.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    base: Base,
    counters: Counters,
    /// Absent after a failure: then the log is read anew, since a commit may have landed all the same.
    delta: Option<Delta>,
    /// When the rows that wait are committed at the latest.
    due: Option<Instant>,
    /// No attempt before it, after a failed one.
    retry_at: Option<Instant>,
    commits: usize,
    compacting: bool,
    cleaned: Instant,
}

const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Owner {
    pub(crate) fn new(shared: Arc<Shared>, delta: Delta, base: Base, counters: Counters) -> Self {
        let cleaned = base.clock.instant();
        Self {
            shared,
            base,
            counters,
            delta: Some(delta),
            due: None,
            retry_at: None,
            commits: 0,
            compacting: false,
            cleaned,
        }
    }

    /// Ends when the table is closed, or at shutdown after a last commit.
    pub(crate) async fn run(mut self) {
        let stopping = self.base.tasks.stopping();
        while !self.shared.closed.is_cancelled() {
            if stopping.is_cancelled() {
                self.flush().await;
                return;
            }
            let wait = self.work_due();
            if wait.is_zero() {
                self.flush().await;
                continue;
            }
            // After a failed commit its rows may be in the log and in memory, so that comes first.
            if self.retry_at.is_none()
                && let Some(exchange) = self.shared.next_exchange()
            {
                self.exchange(exchange).await;
                continue;
            }
            if self.compacting && self.retry_at.is_none() {
                self.compact().await;
                continue;
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = self.base.clock.sleep(wait) => {}
                () = stopping.cancelled() => {}
                () = self.shared.closed.cancelled() => {}
            }
        }
    }

    /// How long there is nothing to do.
    fn work_due(&mut self) -> Duration {
        let now = self.base.clock.instant();
        let waiting = self.shared.waiting();
        if !waiting.rows {
            self.due = None;
            return IDLE;
        }
        let due = *self.due.get_or_insert(now + self.shared.config.flush_interval);
        let due = if waiting.urgent { now } else { due };
        let due = self.retry_at.map_or(due, |retry_at| due.max(retry_at));
        due.saturating_duration_since(now)
    }

    async fn flush(&mut self) {
        self.due = None;
        let Some(tail) = self.shared.begin_flush() else { return };
        let rows = tail.rows;
        let began = self.base.clock.instant();
        let (delta, shared) = (self.delta.take(), self.shared.clone());
        match blocking(move || append(delta, tail, shared)).await {
            Ok((delta, files)) => {
                self.delta = Some(delta);
                self.retry_at = None;
                self.shared.committed(files);
                self.commits += 1;
                self.counters.commits.inc();
                self.counters.rows.inc_by(rows as u64);
                let took = self.base.clock.instant() - began;
                self.counters.seconds.inc_by(took.as_secs_f64());
                self.compacting |= self.commits >= self.shared.config.compact_commits;
            }
            Err(error) => {
                self.counters.failures.inc();
                let cause = cause(&error);
                tracing::error!(table = self.shared.spec.name, %error, cause, "rows wait in memory");
                self.retry_at = Some(self.base.clock.instant() + RETRY_AFTER);
                self.shared.failed(&error);
            }
        }
    }

    /// Compacts one day; the next turn of the loop commits waiting rows before the next day.
    async fn compact(&mut self) {
        let files = self.shared.files();
        let Some(old) = worth_compacting(&files, &self.shared.config) else {
            self.compacting = false;
            self.commits = 0;
            self.clean_up().await;
            return;
        };
        let Some(delta) = self.delta.take() else {
            self.compacting = false;
            return;
        };
        let shared = self.shared.clone();
        match blocking(move || compact(delta, old, files, shared)).await {
            Ok((delta, files)) => {
                self.delta = Some(delta);
                self.shared.replaced(files);
                self.counters.compactions.inc();
            }
            Err(error) => {
                self.counters.failures.inc();
                let cause = cause(&error);
                tracing::warn!(table = self.shared.spec.name, %error, cause, "small files stay");
                self.compacting = false;
                self.commits = 0;
            }
        }
    }

    /// Whoever asked for it hears how it went; when that one has gone, nothing is done.
    async fn exchange(&mut self, exchange: Exchange) {
        if exchange.answer.is_closed() {
            return;
        }
        let Exchange { day, column, text, rows, answer } = exchange;
        let (delta, shared) = (self.delta.take(), self.shared.clone());
        let leaving = (day, column, text);
        match blocking(move || exchanged(delta, leaving, rows, shared)).await {
            Ok((delta, files, gone)) => {
                self.delta = Some(delta);
                self.shared.replaced(files);
                self.commits += 1;
                let _ = answer.send(Ok(gone));
                self.clean_up().await;
            }
            Err(error) => {
                self.counters.failures.inc();
                let _ = answer.send(Err(error));
            }
        }
    }

    async fn clean_up(&mut self) {
        let now = self.base.clock.instant();
        let retention = self.shared.config.file_retention;
        if now.saturating_duration_since(self.cleaned) < retention {
            return;
        }
        self.cleaned = now;
        let Some(mut delta) = self.delta.take() else { return };
        let work = async move || delta.vacuum().await.map(|deleted| (delta, deleted));
        match blocking(work).await {
            Ok((delta, deleted)) => {
                self.delta = Some(delta);
                tracing::debug!(table = self.shared.spec.name, deleted, "old files deleted");
            }
            Err(error) => {
                let cause = cause(&error);
                tracing::warn!(table = self.shared.spec.name, %error, cause, "old files stay");
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Whoever waits for a commit must not wait for ever.
        self.shared.ended();
    }
}

/// Something wakes the task before.
const IDLE: Duration = Duration::from_hours(1);

async fn append(
    delta: Option<Delta>,
    tail: Arc<Tail>,
    shared: Arc<Shared>,
) -> Result<(Delta, Files), Error> {
    if let Some(text) = shared.engine.sync.broken() {
        return Err(Error::Unavailable(format!("{text}; restart to go on")));
    }
    if let Some(mut delta) = delta {
        let files = delta.append(&tail, &shared.files()).await?;
        return Ok((delta, files));
    }
    let (mut delta, version) = opened(&shared).await?;
    let landed = |(source, offset): (&String, &u64)| {
        version.offsets.get(source).is_some_and(|durable| durable >= offset)
    };
    if tail.offsets.iter().all(landed) {
        return Ok((delta, version.files));
    }
    let files = delta.append(&tail, &version.files).await?;
    Ok((delta, files))
}

async fn compact(
    mut delta: Delta,
    old: Vec<Arc<DataFile>>,
    files: Arc<Files>,
    shared: Arc<Shared>,
) -> Result<(Delta, Files), Error> {
    let scan = Scan::whole(shared.spec.schema(), None);
    let rows = shared.engine.read(scan, &old);
    let rows = rows.map_err(|error| Error::internal("read small files", error))?;
    let files = delta.compact(&old, rows, &files).await?;
    Ok((delta, files))
}

/// The table as its log says.
async fn opened(shared: &Shared) -> Result<(Delta, Version), Error> {
    let folder = &shared.folder;
    let mut delta = Delta::open(folder, &shared.engine.files)
        .await?
        .ok_or_else(|| Error::Unavailable(format!("{} is gone", folder.display())))?;
    let version = delta.version().await?;
    Ok((delta, version))
}

async fn exchanged(
    delta: Option<Delta>,
    (day, column, text): (i32, usize, String),
    rows: Rows,
    shared: Arc<Shared>,
) -> Result<(Delta, Files, usize), Error> {
    if let Some(text) = shared.engine.sync.broken() {
        return Err(Error::Unavailable(format!("{text}; restart to go on")));
    }
    let (mut delta, files) = if let Some(delta) = delta {
        (delta, shared.files())
    } else {
        let (delta, version) = opened(&shared).await?;
        (delta, Arc::new(version.files))
    };
    let old: Vec<_> = files.list.iter().filter(|file| file.day == day).cloned().collect();
    let scan = Scan::whole(shared.spec.schema(), None);
    let there = if old.is_empty() { None } else { Some(shared.engine.read(scan, &old)) };
    let there = there.transpose().map_err(|error| Error::internal("read a day", error))?;
    let leaving = (day, column, text.as_str());
    let (files, gone) = delta.exchange(leaving, (&old, there), rows.finish()?, &files).await?;
    Ok((delta, files, gone))
}

/// Small files of one day that together make about one file of the wanted size.
fn worth_compacting(files: &Files, config: &Config) -> Option<Vec<Arc<DataFile>>> {
    let mut days: HashMap<i32, Vec<Arc<DataFile>>> = HashMap::new();
    for file in files.list.iter().filter(|file| file.bytes < config.compact_file_bytes / 2) {
        days.entry(file.day).or_default().push(file.clone());
    }
    let small = days.into_values().max_by_key(Vec::len)?;
    if small.len() < config.compact_files_min {
        return None;
    }
    let mut bytes = 0;
    let fits = |file: &Arc<DataFile>| {
        bytes += file.bytes;
        bytes <= config.compact_file_bytes
    };
    let chosen: Vec<_> = small.into_iter().take_while(fits).collect();
    (chosen.len() >= 2).then_some(chosen)
}
