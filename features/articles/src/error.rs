use base::ErrorKind;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something about articles was not done. Each names the thing that it is about, as the Conduit API wants it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("the {0} is somebody else's")]
    Forbidden(&'static str),
    #[error("the {0} has already been taken")]
    Taken(&'static str),
    #[error("the request does not fit")]
    Invalid(Vec<Fault>),
    #[error("the address or the password is wrong")]
    Credentials,
    #[error("a second factor is needed: sign in at the console")]
    SecondFactor,
    #[error("sign-up is closed")]
    SignUpClosed,
    #[error("only an account of this organisation may do this")]
    Stranger,
    #[error("this account may not write any more")]
    Silenced,
    #[error("{0}")]
    Config(String),
    #[error("a stored {0} cannot be read")]
    Stored(&'static str),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Rows(#[from] relational::Error),
    #[error(transparent)]
    Answer(#[from] results::Error),
}

/// One part of a request that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, as the Conduit API names it.
    pub field: &'static str,
    pub text: String,
}

pub(crate) const BLANK: &str = "can't be blank";
/// No database of ours keeps such a text the same as the others.
const ZERO: &str = "must not have a null character";

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Forbidden(_) | Self::SignUpClosed | Self::Stranger | Self::Silenced => {
                ErrorKind::Forbidden
            }
            Self::Taken(_) => ErrorKind::AlreadyExists,
            Self::Invalid(_) | Self::Config(_) => ErrorKind::Invalid,
            Self::Credentials | Self::SecondFactor => ErrorKind::Unauthenticated,
            Self::Stored(_) => ErrorKind::Internal,
            Self::Identity(error) => error.kind(),
            Self::Rows(error) => error.kind(),
            Self::Answer(error) => error.kind(),
        }
    }

    pub(crate) fn invalid(field: &'static str, text: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault { field, text: text.into() }])
    }
}

impl From<Error> for edge::Error {
    fn from(error: Error) -> Self {
        use identity::Error as Of;
        let (field, text): (&str, String) = match &error {
            Error::NotFound(what) => (what, "not found".into()),
            Error::Forbidden(what) => (what, "forbidden".into()),
            Error::Taken(what) => (what, "has already been taken".into()),
            Error::Credentials | Error::Identity(Of::SignInFailed) => {
                ("credentials", "invalid".into())
            }
            Error::SecondFactor => ("credentials", error.to_string()),
            Error::Answer(answer) if answer.kind() == ErrorKind::NotFound => {
                ("article", "not found".into())
            }
            Error::Identity(Of::AccountExists) => ("email", "has already been taken".into()),
            Error::Identity(Of::Email(why)) => ("email", (*why).into()),
            Error::Identity(Of::Password(why)) => ("password", (*why).into()),
            Error::Invalid(faults) => {
                let refused = Self::invalid("the request does not fit");
                return faults
                    .iter()
                    .fold(refused, |refused, fault| refused.at(fault.field, fault.text.clone()));
            }
            _ if error.kind() == ErrorKind::Forbidden => ("account", error.to_string()),
            _ => return Self::of(error.kind(), error),
        };
        let field = field.to_owned();
        Self::of(error.kind(), error).at(field, text)
    }
}

/// What does not fit, gathered before it is refused as a whole.
#[derive(Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, field: &'static str, text: impl Into<String>) {
        self.0.push(Fault { field, text: text.into() });
    }

    /// A text that is there, is not blank, and is not longer than `most` characters.
    pub(crate) fn text(&mut self, field: &'static str, text: &str, most: usize) {
        if text.trim().is_empty() {
            self.add(field, BLANK);
        } else if text.len() > most && text.chars().count() > most {
            self.add(field, format!("is too long (maximum is {most} characters)"));
        }
        self.zero(field, text);
    }

    /// The same for one that is counted in bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, text: &str, most: usize) {
        if text.trim().is_empty() {
            self.add(field, BLANK);
        } else if text.len() > most {
            self.add(field, format!("is too long (maximum is {most} bytes)"));
        }
        self.zero(field, text);
    }

    /// A text that can be kept, or looked for.
    pub(crate) fn zero(&mut self, field: &'static str, text: &str) {
        if text.contains('\0') {
            self.add(field, ZERO);
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}
