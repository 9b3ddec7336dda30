use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::ErrorKind;

use crate::files::is_full;

#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("eventlog configuration: {0}")]
    Config(&'static str),
    #[error("{} is in use by another process ({holder})", dir.display())]
    InUse { dir: PathBuf, holder: String },
    #[error("{}: {reason}", path.display())]
    Format { path: PathBuf, reason: String },
    #[error("a topic is named by 1 to 249 of a-z A-Z 0-9 . _ - and neither . nor ..: {0:?}")]
    TopicName(String),
    #[error("a consumer group is named by 1 to 249 bytes")]
    GroupName,
    #[error("there is no topic {0}")]
    UnknownTopic(String),
    #[error("topic {topic} has no partition {partition}")]
    UnknownPartition { topic: String, partition: u32 },
    #[error("the offset is not between {start} and {end}")]
    OutOfRange { start: u64, end: u64 },
    #[error("{what} of {bytes} bytes is larger than {bytes_max}")]
    TooLarge { what: &'static str, bytes: usize, bytes_max: usize },
    #[error("there are {max} {what}, which is the most that is allowed")]
    TooMany { what: &'static str, max: usize },
    #[error("the batch is refused: {0}")]
    Batch(String),
    #[error("the disk is full: {of} takes nothing until there is room")]
    Full { of: Arc<str> },
    #[error("{of} takes nothing since the disk failed ({reason}), restart to verify it")]
    Unavailable { of: Arc<str>, reason: Arc<str> },
    #[error("the event log is closed")]
    Closed,
    #[error("{} is corrupt at byte {position}: {reason}", file.display())]
    Corrupt { file: PathBuf, position: u64, reason: String },
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownTopic(_) | Self::UnknownPartition { .. } => ErrorKind::NotFound,
            Self::Config(_)
            | Self::TopicName(_)
            | Self::GroupName
            | Self::OutOfRange { .. }
            | Self::TooLarge { .. }
            | Self::Batch(_) => ErrorKind::Invalid,
            Self::TooMany { .. } => ErrorKind::TooMany,
            Self::Io { source, .. } if is_full(source) => ErrorKind::Unavailable,
            Self::InUse { .. } | Self::Full { .. } | Self::Unavailable { .. } | Self::Closed => {
                ErrorKind::Unavailable
            }
            Self::Format { .. } | Self::Corrupt { .. } | Self::Io { .. } => ErrorKind::Internal,
        }
    }

    /// Says what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source: Arc::new(source) }
    }
}
