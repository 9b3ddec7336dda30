use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;

use crate::work::Place;

/// The database's own error, kept for logs; shared because one commit can fail for many callers.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why rows could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is already a row with the same {constraint}")]
    AlreadyExists { constraint: String },
    #[error("the row names one that is not there, or is named by one that is")]
    Reference,
    #[error("a value breaks the rule {rule}")]
    Rule { rule: String },
    #[error("no such row")]
    NotFound,
    #[error("lost against a concurrent change")]
    Conflict,
    #[error("the lease on {name} is no longer held under token {token}")]
    Fenced { name: Arc<str>, token: i64 },
    #[error("{claims_max} requests with a key are remembered, and none is old enough to forget")]
    ClaimsFull { claims_max: u64 },
    #[error("more than {rows_max} rows")]
    TooManyRows { rows_max: usize },
    #[error("the queue for {queue} is full")]
    QueueFull { queue: &'static str },
    #[error("ran longer than {limit:?} (at {place})")]
    TimedOut { place: Place, limit: Duration },
    #[error("the disk, or the database's share of it, is full")]
    Full { source: Source },
    #[error("the database cannot answer: {during}")]
    Unavailable { during: String, source: Source },
    #[error("the database failed and is being opened again")]
    Recovering,
    #[error("no {what} can begin, for one at {place} does not end")]
    Stuck { what: &'static str, place: Place },
    #[error("the database is closed")]
    Closed,
    #[error("a transaction awaited something other than its Tx (at {place})")]
    Awaited { place: Place },
    #[error("a transaction panicked (at {place}): {message}")]
    Panicked { place: Place, message: String },
    #[error("a read cannot write")]
    ReadOnly,
    #[error("this statement is not for a closure: {sql}")]
    Forbidden { sql: String },
    #[error("{sql}")]
    Statement { sql: String, source: Source },
    #[error("{wanted} parameters are wanted and {given} given: {sql}")]
    Parameters { sql: String, wanted: usize, given: usize },
    #[error("column {column} holds {found}, wanted {wanted}")]
    Column { column: String, found: &'static str, wanted: &'static str },
    #[error("no column {column} among {columns}")]
    NoColumn { column: String, columns: String },
    #[error("migration {id} of {room} {problem}")]
    Migration { room: &'static str, id: String, problem: String },
    #[error("the outbox holds {length} events that the event log has not taken")]
    OutboxFull { length: u64 },
    #[error("an event of {bytes} bytes is larger than {bytes_max}")]
    EventTooLarge { bytes: usize, bytes_max: usize },
    #[error("{length} commands wait, which is the most that may")]
    CommandsFull { length: u64 },
    #[error("a command of {bytes} bytes is larger than {bytes_max}")]
    CommandTooLarge { bytes: usize, bytes_max: usize },
    #[error("nobody here handles {name}")]
    NoHandler { name: String },
    #[error("{name} has a handler already, and a command has exactly one")]
    HandledTwice { name: &'static str },
    #[error("it could not be handled again: {reason}")]
    Replay { reason: String },
    #[error("a page cannot begin after {after:?}")]
    Cursor { after: String },
    #[error("{0}")]
    Config(String),
    #[error("{path} is in use by {holder}: two servers cannot share one embedded database")]
    InUse { path: PathBuf, holder: String },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::NotFound => ErrorKind::NotFound,
            Self::Reference
            | Self::Conflict
            | Self::Fenced { .. }
            | Self::NoHandler { .. }
            | Self::Replay { .. } => ErrorKind::Conflict,
            Self::Rule { .. }
            | Self::EventTooLarge { .. }
            | Self::CommandTooLarge { .. }
            | Self::Cursor { .. }
            | Self::Config(_) => ErrorKind::Invalid,
            Self::TooManyRows { .. }
            | Self::QueueFull { .. }
            | Self::ClaimsFull { .. }
            | Self::CommandsFull { .. } => ErrorKind::TooMany,
            Self::TimedOut { .. }
            | Self::Full { .. }
            | Self::Unavailable { .. }
            | Self::Recovering
            | Self::Stuck { .. }
            | Self::Closed
            | Self::OutboxFull { .. }
            | Self::InUse { .. } => ErrorKind::Unavailable,
            Self::Awaited { .. }
            | Self::Panicked { .. }
            | Self::ReadOnly
            | Self::Forbidden { .. }
            | Self::Statement { .. }
            | Self::Parameters { .. }
            | Self::Column { .. }
            | Self::NoColumn { .. }
            | Self::Migration { .. }
            | Self::HandledTwice { .. } => ErrorKind::Internal,
        }
    }
}
