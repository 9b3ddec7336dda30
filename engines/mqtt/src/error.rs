use base::ErrorKind;

/// Why the broker could not do what its own server asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the limit {0} makes no sense")]
    Config(&'static str),
    #[error("`{0}` is not a topic that can be published to")]
    Topic(String),
    #[error("a subscriber's queue or the retained messages are full")]
    Full,
    #[error("the message cannot be stored now")]
    Unavailable,
    #[error("a stored message cannot be read")]
    Damaged,
    #[error(transparent)]
    Rows(#[from] relational::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Topic(_) => ErrorKind::Invalid,
            Self::Full => ErrorKind::TooMany,
            Self::Unavailable => ErrorKind::Unavailable,
            Self::Damaged => ErrorKind::Internal,
            Self::Rows(error) => error.kind(),
        }
    }
}
