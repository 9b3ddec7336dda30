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
    #[error("the store has ended")]
    Ended,
}

impl Error {
    pub(crate) fn io(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { deed, path, source }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Format { .. } => ErrorKind::Invalid,
            Self::InUse(_) => ErrorKind::Conflict,
            Self::Io { .. } | Self::Ended => ErrorKind::Unavailable,
            Self::Damaged { .. } => ErrorKind::Internal,
        }
    }
}
