use std::io;
use std::path::{Path, PathBuf};

use base::ErrorKind;

/// Why the store could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the limit {0} makes no sense")]
    Config(&'static str),
    #[error("{deed} {}", path.display())]
    Io { deed: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is used by another process", .0.display())]
    InUse(PathBuf),
    #[error("{} is damaged at byte {at}: {reason}", path.display())]
    Damaged { path: PathBuf, at: u64, reason: String },
    #[error("the folder {} has another format: {found}", path.display())]
    Format { path: PathBuf, found: String },
    #[error(
        "the folder {} holds keys that a store with durability = \"memory\" would not read: move it away, or choose another durability",
        .0.display()
    )]
    Kept(PathBuf),
    #[error("the store has ended")]
    Ended,
    #[error("{0}")]
    Address(String),
    /// What the store answered in place of a reply: Redis's code and text.
    #[error("{0}")]
    Reply(String),
    /// A command that is not for rooms.
    #[error("{0}")]
    Refused(String),
    #[error("the store answered what is no reply")]
    NoReply,
    #[error("the store did not answer: {0}; whether the command was done is not known")]
    Lost(String),
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    #[error("{requests_max} commands wait for the store, which is the most")]
    TooMany { requests_max: usize },
}

impl Error {
    pub(crate) fn io(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { deed, path, source }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_)
            | Self::Format { .. }
            | Self::Kept(_)
            | Self::Address(_)
            | Self::Refused(_) => ErrorKind::Invalid,
            Self::InUse(_) => ErrorKind::Conflict,
            Self::Io { .. } | Self::Ended | Self::Lost(_) | Self::Unreachable(_) => {
                ErrorKind::Unavailable
            }
            Self::Damaged { .. } | Self::NoReply => ErrorKind::Internal,
            Self::TooMany { .. } => ErrorKind::TooMany,
            Self::Reply(text) => match text.split(' ').next().unwrap_or_default() {
                "OOM" | "MISCONF" | "BUSY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"
                | "READONLY" | "TRYAGAIN" => ErrorKind::Unavailable,
                "NOAUTH" | "WRONGPASS" => ErrorKind::Unauthenticated,
                "NOPERM" => ErrorKind::Forbidden,
                _ => ErrorKind::Invalid,
            },
        }
    }
}
