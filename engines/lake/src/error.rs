use base::{ErrorKind, Failure};

/// Why the lake did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query, the rows or the table as described cannot work.
    #[error("{0}")]
    Invalid(String),
    /// A table of this name exists and is described otherwise.
    #[error("table {0} exists with other columns")]
    OtherTable(String),
    /// The name of the limit in the configuration.
    #[error("limit {0} reached")]
    TooMany(&'static str),
    /// Rows cannot be made durable now; nothing is lost that was accepted.
    #[error("{0}")]
    Unavailable(String),
    #[error("{context}")]
    Internal { context: String, source: Failure },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::OtherTable(_) => ErrorKind::AlreadyExists,
            Self::TooMany(_) => ErrorKind::TooMany,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn internal(context: impl Into<String>, source: impl Into<Failure>) -> Self {
        Self::Internal { context: context.into(), source: source.into() }
    }
}
