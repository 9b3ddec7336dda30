use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base::ErrorKind;

/// Why there is no certificate, or not another one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("[tls.acme] {0}")]
    Config(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} cannot be opened with the keys of keys/certificates: bring those back, or delete this file, and it is made anew",
        .0.display()
    )]
    Sealed(PathBuf),
    #[error("the authority refused: {0}")]
    Refused(String),
    #[error("the authority cannot be asked: {0}")]
    Authority(String),
    #[error("{name} was not validated: {reason}")]
    NotValidated { name: String, reason: String },
    #[error("the authority does not offer {challenge} for {name}")]
    NotOffered { name: String, challenge: &'static str },
    #[error("the order did not end within {0:?}")]
    TimedOut(Duration),
    #[error("the certificate that came cannot be used: {0}")]
    Unusable(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) => ErrorKind::Invalid,
            Self::File { .. } | Self::Sealed(_) => ErrorKind::Internal,
            Self::Refused(_) | Self::NotValidated { .. } | Self::NotOffered { .. } => {
                ErrorKind::Forbidden
            }
            Self::Authority(_) | Self::TimedOut(_) | Self::Unusable(_) => ErrorKind::Unavailable,
        }
    }
}

impl From<instant_acme::Error> for Error {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => Self::Refused(told(&problem)),
            other => Self::Authority(other.to_string()),
        }
    }
}

/// What a problem says, without the words that all of them begin with.
pub(crate) fn told(problem: &instant_acme::Problem) -> String {
    let text = problem.to_string();
    text.strip_prefix("API error: ").unwrap_or(&text).to_owned()
}
