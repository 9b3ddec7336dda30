use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{OrganisationId, Timestamp};
use parking_lot::Mutex;
use relational::Tx;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::kind::Done;
use crate::store::Claimed;
use crate::store::ends::{End, How, Writer, write};
use crate::worker::Inner;
use crate::{Error, Failed, JobId, RunId};

/// One attempt at a job, as its handler sees it; cloning shares it.
#[derive(Clone)]
pub struct Attempt(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) claimed: Arc<Claimed>,
    pub(crate) began: Timestamp,
    pub(crate) cancel: CancellationToken,
    /// Somebody cancelled the job, rather than the server.
    pub(crate) is_cancelled: AtomicBool,
    place: Arc<str>,
    inner: Arc<Inner>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    text: String,
    lines: usize,
    dropped: u64,
}

impl Attempt {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        claimed: &Arc<Claimed>,
        place: Arc<str>,
        began: Timestamp,
    ) -> Self {
        Self(Arc::new(Shared {
            claimed: claimed.clone(),
            began,
            cancel: CancellationToken::new(),
            is_cancelled: AtomicBool::new(claimed.is_cancelled),
            place,
            inner: inner.clone(),
            log: Mutex::new(Log::default()),
        }))
    }

    /// The same at every attempt: effects elsewhere are keyed by it.
    pub fn id(&self) -> JobId {
        self.0.claimed.id
    }

    pub fn organisation(&self) -> OrganisationId {
        self.0.claimed.organisation
    }

    pub fn kind(&self) -> &str {
        &self.0.claimed.kind
    }

    /// 1 at the first attempt; whoever works under an earlier number than the job's has been replaced.
    pub fn number(&self) -> u32 {
        self.0.claimed.attempt
    }

    /// Its time: that it was to begin, or that its schedule named; the same at every attempt.
    #[allow(clippy::misnamed_getters, reason = "the row's `due` is that of this attempt")]
    pub fn due(&self) -> Timestamp {
        self.0.claimed.meant
    }

    pub fn created(&self) -> Timestamp {
        self.0.claimed.created
    }

    /// The run that it is a task of, and the task's name.
    pub fn task(&self) -> Option<(RunId, &str)> {
        self.0.claimed.run.zip(self.0.claimed.task.as_deref())
    }

    pub fn payload(&self) -> &[u8] {
        &self.0.claimed.payload
    }

    /// The payload from JSON; what is not of this shape never becomes so, and the job is dead.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failed> {
        serde_json::from_slice(self.payload())
            .map_err(|error| Failed::dead(format!("the payload cannot be read: {error}")))
    }

    /// Becomes cancelled when the job is, or when the server stops: a handler that ends then, in whatever way, ends
    /// in good order. One that does not is ended after [`crate::Config::cancel_time_max`].
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Notes a line that is kept with this attempt.
    pub fn log(&self, line: impl AsRef<str>) {
        let config = &self.0.inner.config;
        let mut log = self.0.log.lock();
        if log.lines >= config.log_lines_max {
            log.dropped += 1;
            return;
        }
        log.lines += 1;
        let line = line.as_ref().chars().filter(|c| !c.is_control());
        log.text.extend(line.take(config.log_line_chars_max));
        log.text.push('\n');
    }

    /// What a handler ends with whose effects are elsewhere.
    #[allow(clippy::unused_self, reason = "only a handler has an attempt to say it of")]
    pub fn done(&self) -> Done {
        Done { is_written: false }
    }

    /// Ends the job in the transaction of its effect, so that both are durable together, once. An error, and with it no
    /// effect, when this attempt was replaced.
    pub async fn complete_in(&self, tx: &mut Tx) -> Result<Done, Error> {
        let shared = &self.0;
        let now = shared.inner.clock.now();
        let end = self.end(How::Done, now);
        let writer = Writer { kinds: &shared.inner.kinds, place: &shared.place, now };
        if write(tx, writer, &[end]).await? != [true] {
            return Err(Error::Replaced { id: self.id(), attempt: self.number() });
        }
        tx.wake(&shared.inner.wake);
        Ok(Done { is_written: true })
    }

    pub(crate) fn end(&self, how: How, ended: Timestamp) -> End {
        let log = self.0.log.lock();
        // Not taken out: the transaction that this end is for may run again.
        let (mut text, dropped) = (log.text.clone(), log.dropped);
        drop(log);
        if dropped > 0 {
            writeln!(text, "({dropped} more lines)").expect("writing to a string cannot fail");
        }
        let (claimed, began) = (self.0.claimed.clone(), self.0.began);
        End { claimed, began, ended, how, log: text }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    pub(crate) fn was_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// Asks the handler to stop.
    pub(crate) fn stop(&self, is_cancelled: bool) {
        if is_cancelled {
            self.0.is_cancelled.store(true, Ordering::Release);
        }
        self.0.cancel.cancel();
    }
}
