use base::{ErrorKind, Failure};

use crate::cron::CronError;
use crate::{JobId, RunId, State};

/// Why a job was not taken, found or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("nobody here handles jobs of the kind {0}")]
    NoHandler(String),
    #[error("the kind {0} has a handler already")]
    HandledTwice(&'static str),
    #[error("the {what} {rule}")]
    Invalid { what: &'static str, rule: String },
    #[error("{unfinished_max} jobs wait, which is the most")]
    TooManyWaiting { unfinished_max: u64 },
    #[error("no job {0}")]
    NoJob(JobId),
    #[error("no run {0}")]
    NoRun(RunId),
    #[error("no schedule {0}")]
    NoSchedule(String),
    #[error("there is already a schedule {0}")]
    ScheduleExists(String),
    #[error("schedule {0} is part of this server and can be paused, but not deleted")]
    ScheduleIsBuiltIn(String),
    #[error("job {id} is {state} and cannot be {deed}")]
    WrongState { id: JobId, state: State, deed: &'static str },
    #[error("attempt {attempt} at job {id} is over, and what it still does is not kept")]
    Replaced { id: JobId, attempt: u32 },
    #[error("a task is named {0} twice")]
    TaskTwice(String),
    #[error("task {task} comes after {missing}, which the graph does not have")]
    NoTask { task: String, missing: String },
    #[error("the tasks of the graph wait for each other: {0}")]
    Circle(String),
    #[error("this worker was taken for dead, and others have its jobs")]
    TakenForDead,
    #[error("no time zone {0}")]
    Zone(String),
    #[error(transparent)]
    Cron(#[from] CronError),
    #[error("the cursor is not one of this list")]
    Cursor,
    #[error(transparent)]
    Rows(#[from] relational::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_)
            | Self::Invalid { .. }
            | Self::TaskTwice(_)
            | Self::NoTask { .. }
            | Self::Circle(_)
            | Self::Zone(_)
            | Self::Cron(_)
            | Self::Cursor => ErrorKind::Invalid,
            Self::NoHandler(_)
            | Self::WrongState { .. }
            | Self::Replaced { .. }
            | Self::ScheduleIsBuiltIn(_)
            | Self::TakenForDead => ErrorKind::Conflict,
            Self::HandledTwice(_) => ErrorKind::Internal,
            Self::TooManyWaiting { .. } => ErrorKind::TooMany,
            Self::NoJob(_) | Self::NoRun(_) | Self::NoSchedule(_) => ErrorKind::NotFound,
            Self::ScheduleExists(_) => ErrorKind::AlreadyExists,
            Self::Rows(error) => error.kind(),
        }
    }
}

/// Why an attempt did not finish its job, and what is to become of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub(crate) reason: String,
    pub(crate) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Another attempt after a pause, while there are attempts left.
    Again,
    /// Another attempt after this pause; this one does not count.
    Later(std::time::Duration),
    /// No other attempt.
    Dead,
}

impl Failed {
    /// It is tried again, as often as its kind allows.
    pub fn again(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), then: Then::Again }
    }

    /// It can never succeed, so it is not tried again.
    pub fn dead(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), then: Then::Dead }
    }

    /// Nothing went wrong, only it is too early: it is tried again after `pause`, and this attempt does not count.
    pub fn later(pause: std::time::Duration, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), then: Then::Later(pause) }
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::again(format!("the handler panicked: {}", text.as_deref().unwrap_or("no message")))
    }
}

/// Any error, with all that caused it, is a reason to try again.
impl<E: Into<Failure>> From<E> for Failed {
    fn from(error: E) -> Self {
        let error: Failure = error.into();
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reason = format!("{reason}: {error}");
            source = error.source();
        }
        Self::again(reason)
    }
}
