use base::ErrorKind;

/// Why identity refused or could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the address or the password is wrong")]
    SignInFailed,
    #[error("the link is not valid, or was used")]
    LinkInvalid,
    #[error("too many attempts, try again later")]
    TooManyAttempts,
    #[error("too many passwords are being checked, try again later")]
    Busy,
    #[error("sign-up is closed")]
    SignUpClosed,
    #[error("an account with this address exists")]
    AccountExists,
    #[error("the address {0}")]
    Email(&'static str),
    #[error("the password {0}")]
    Password(&'static str),
    #[error("the name {0}")]
    Name(&'static str),
    #[error("the grant {0}")]
    Grant(String),
    #[error("a key cannot be given {action} on {resource}: its maker may not do that")]
    GrantTooWide { action: String, resource: String },
    #[error("only an account may do this")]
    NotAnAccount,
    #[error("no such key")]
    NoSuchKey,
    #[error("there are {max} {what} already, which is the most")]
    Limit { what: &'static str, max: usize },
    #[error(transparent)]
    Rows(#[from] relational::Error),
    #[error("a stored {0} cannot be read")]
    Stored(&'static str),
    #[error("a password could not be hashed: {0}")]
    Hash(String),
    #[error("identity: {0}")]
    Config(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SignInFailed | Self::LinkInvalid => ErrorKind::Unauthenticated,
            Self::TooManyAttempts | Self::Busy | Self::Limit { .. } => ErrorKind::TooMany,
            Self::SignUpClosed | Self::GrantTooWide { .. } | Self::NotAnAccount => {
                ErrorKind::Forbidden
            }
            Self::AccountExists => ErrorKind::AlreadyExists,
            Self::Email(_)
            | Self::Password(_)
            | Self::Name(_)
            | Self::Grant(_)
            | Self::Config(_) => ErrorKind::Invalid,
            Self::NoSuchKey => ErrorKind::NotFound,
            Self::Rows(error) => error.kind(),
            Self::Stored(_) | Self::Hash(_) => ErrorKind::Internal,
        }
    }
}
