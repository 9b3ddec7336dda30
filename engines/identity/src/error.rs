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
    #[error("invitations are not taken: sign-up is closed")]
    InvitationsClosed,
    #[error("an account with this address exists")]
    AccountExists,
    #[error("the token is not valid")]
    TokenInvalid,
    #[error("the password that counts now is missing or wrong")]
    CurrentPassword,
    #[error("the code is wrong, or was used")]
    CodeWrong,
    /// The same, of somebody who is signed in.
    #[error("the code is wrong, or was used")]
    CodeRefused,
    #[error("there is a second factor already")]
    FactorExists,
    #[error("what was sealed cannot be opened: key_file is not the one that it was sealed with")]
    SealBroken,
    #[error("the passkey was not taken: {0}")]
    Passkey(&'static str),
    #[error("the passkey is not known here, or did not sign for this")]
    PasskeyRefused,
    #[error("passkeys need http.public_url to be a name rather than an address")]
    NoPasskeys,
    #[error("the provider did not say who this is, or not for this log-in")]
    ProviderRefused,
    #[error("the provider does not answer, try again later")]
    ProviderDown,
    #[error("the provider is not set up right: {0}")]
    ProviderWrong(&'static str),
    #[error("no account is linked with this one: sign in, and link it")]
    ProviderNotLinked,
    #[error("sign in, or give the password, to show that the account is yours")]
    NotShown,
    #[error("no mail server is set up")]
    NoMail,
    #[error("too many mails wait to be sent, try again later")]
    MailsWaiting,
    #[error("no such {0}")]
    NotThere(&'static str),
    #[error("the tool did not name this place to go back to, or it is none that can be named")]
    Redirect,
    /// In OAuth's own word, and why, for the tool that asks.
    #[error("{0}: {1}")]
    OfTool(&'static str, &'static str),
    #[error("the cursor is not one of this list")]
    Cursor,
    #[error("the address {0}")]
    Email(&'static str),
    #[error("the password {0}")]
    Password(&'static str),
    #[error("the name {0}")]
    Name(&'static str),
    #[error("the grant {0}")]
    Grant(String),
    #[error("{action} on {resource} cannot be given by somebody who may not do that")]
    GrantTooWide { action: String, resource: String },
    /// Who changes an account's address or lets it in could act as it.
    #[error("this person may do more than whoever wants to change them")]
    PersonAbove,
    #[error("the organisation would be left without an administrator")]
    LastAdministrator,
    #[error("it was changed meanwhile, look again")]
    Changed,
    #[error("there is a {0} of this name already")]
    NameTaken(&'static str),
    #[error("only an account may do this")]
    NotAnAccount,
    #[error("the address and the password of this account are changed in the console")]
    NotAUser,
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
    #[error("the list of leaked passwords cannot be read, so no password is taken")]
    LeakedUnread,
    #[error("the list of who was removed cannot be written: {0}")]
    Ledger(String),
    #[error("identity: {0}")]
    Config(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SignInFailed
            | Self::LinkInvalid
            | Self::TokenInvalid
            | Self::CodeWrong
            | Self::PasskeyRefused
            | Self::ProviderRefused
            | Self::NotShown => ErrorKind::Unauthenticated,
            Self::TooManyAttempts | Self::Limit { .. } => ErrorKind::TooMany,
            Self::Busy
            | Self::NoMail
            | Self::NoPasskeys
            | Self::ProviderDown
            | Self::MailsWaiting
            | Self::LeakedUnread
            | Self::Ledger(_) => ErrorKind::Unavailable,
            Self::SignUpClosed
            | Self::InvitationsClosed
            | Self::GrantTooWide { .. }
            | Self::PersonAbove
            | Self::CurrentPassword
            | Self::ProviderNotLinked
            | Self::CodeRefused
            | Self::NotAnAccount
            | Self::NotAUser => ErrorKind::Forbidden,
            Self::AccountExists | Self::FactorExists | Self::NameTaken(_) => {
                ErrorKind::AlreadyExists
            }
            Self::LastAdministrator | Self::Changed => ErrorKind::Conflict,
            Self::Email(_)
            | Self::Password(_)
            | Self::Name(_)
            | Self::Grant(_)
            | Self::Cursor
            | Self::Passkey(_)
            | Self::Redirect
            | Self::OfTool(..)
            | Self::Config(_) => ErrorKind::Invalid,
            Self::NoSuchKey | Self::NotThere(_) => ErrorKind::NotFound,
            Self::Rows(error) => error.kind(),
            Self::ProviderWrong(_) | Self::Stored(_) | Self::Hash(_) | Self::SealBroken => {
                ErrorKind::Internal
            }
        }
    }
}
