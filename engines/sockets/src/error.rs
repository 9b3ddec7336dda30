use base::ErrorKind;

/// Why something about sockets was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the limit sockets.{0} makes no sense")]
    Config(&'static str),
    #[error("{0}")]
    Destination(String),
    #[error("{0:?} is written by the server")]
    NotYours(String),
    #[error("the queue {0:?} is full")]
    QueueFull(String),
    #[error("there are too many {0}")]
    TooMany(&'static str),
    #[error("not allowed")]
    Forbidden,
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("the server is stopping")]
    Stopping,
    #[error(transparent)]
    Log(#[from] eventlog::Error),
    #[error(transparent)]
    Rows(#[from] relational::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Destination(_) => ErrorKind::Invalid,
            Self::NotYours(_) | Self::Forbidden => ErrorKind::Forbidden,
            Self::QueueFull(_) | Self::TooMany(_) => ErrorKind::TooMany,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Stopping => ErrorKind::Unavailable,
            Self::Log(error) => error.kind(),
            Self::Rows(error) => error.kind(),
        }
    }
}
