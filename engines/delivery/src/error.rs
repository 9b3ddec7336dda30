use std::io;
use std::net::IpAddr;

use base::ErrorKind;

use crate::{MessageId, State};

/// Why a message was not taken, found or changed, or a host not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("the {what} is longer than {bytes_max} bytes")]
    TooLong { what: &'static str, bytes_max: usize },
    #[error("{unsent_max} messages wait to be sent, which is the most")]
    TooManyUnsent { unsent_max: u64 },
    #[error("no message {0}")]
    NotFound(MessageId),
    #[error("message {id} is {state}, only a {wanted} one can be {deed}")]
    WrongState { id: MessageId, state: State, wanted: State, deed: &'static str },
    #[error("no SMTP server is configured: set delivery.smtp.url")]
    NoServer,
    #[error("the cursor is not one of this list")]
    Cursor,
    #[error(
        "{host} has the address {address}, of {network} network that [egress] allow does not list"
    )]
    EgressRefused { host: String, address: IpAddr, network: &'static str },
    #[error("no address of {host} was found: {source}")]
    Unresolved { host: String, source: io::Error },
    #[error("no connection to {host}, port {port}: {source}")]
    Unreachable { host: String, port: u16, source: io::Error },
    #[error(transparent)]
    Rows(#[from] relational::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::TooLong { .. } | Self::Cursor => ErrorKind::Invalid,
            Self::TooManyUnsent { .. } => ErrorKind::TooMany,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::WrongState { .. } | Self::NoServer => ErrorKind::Conflict,
            Self::EgressRefused { .. } => ErrorKind::Forbidden,
            Self::Unresolved { .. } | Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::Rows(error) => error.kind(),
        }
    }
}
