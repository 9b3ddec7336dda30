use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;

/// Another part's error; shared because everybody who waited for a computation gets it.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the computation said, in its words.
    #[error("{source}")]
    Computing { kind: ErrorKind, source: Source },
    #[error(transparent)]
    Rows(#[from] relational::Error),
    #[error("the computation of {question} panicked")]
    Panicked { question: &'static str },
    #[error("the computation of {question} ran longer than {limit:?}")]
    TimedOut { question: &'static str, limit: Duration },
    #[error("{flights_max} answers are being computed, which is the most")]
    TooManyFlights { flights_max: usize },
    #[error("{waits_max} callers wait for versions, which is the most")]
    TooManyWaits { waits_max: usize },
    #[error("the server is stopping")]
    Stopping,
    #[error("{0}")]
    Question(String),
    #[error("the answer of {question} has another form: {source}")]
    Form { question: &'static str, source: Arc<serde_json::Error> },
    #[error("the versions of this database are already kept in memory by another `Results`")]
    Mirrored,
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// A computation's own error, with its kind.
    pub fn of<E>(kind: ErrorKind, error: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Self::Computing { kind, source: Arc::new(error) }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Computing { kind, .. } => *kind,
            Self::Rows(error) => error.kind(),
            Self::Panicked { .. } | Self::Form { .. } => ErrorKind::Internal,
            Self::TimedOut { .. } | Self::Stopping | Self::Mirrored => ErrorKind::Unavailable,
            Self::TooManyFlights { .. } | Self::TooManyWaits { .. } => ErrorKind::TooMany,
            Self::Question(_) | Self::Config(_) => ErrorKind::Invalid,
        }
    }
}
