use std::io;
use std::net::IpAddr;
use std::time::Duration;

use base::ErrorKind;

use crate::egress::TargetError;
use crate::{EndpointId, MessageId, State};

/// Why a message was not taken, found or changed, or a host not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("the {what} is longer than {bytes_max} bytes")]
    TooLong { what: &'static str, bytes_max: usize },
    #[error("{what} is not valid: {reason}")]
    Invalid { what: &'static str, reason: String },
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{unsent_max} messages wait to be sent, which is the most")]
    TooManyUnsent { unsent_max: u64 },
    #[error("no message {0}")]
    NotFound(MessageId),
    #[error("message {id} is {state}, only a {wanted} one can be {deed}")]
    WrongState { id: MessageId, state: State, wanted: State, deed: &'static str },
    #[error("message {id} cannot be {deed}: its endpoint is deleted")]
    NoReceiver { id: MessageId, deed: &'static str },
    #[error("no endpoint {0}")]
    NoEndpoint(EndpointId),
    #[error("{max} {what} are there, which is the most")]
    TooMany { what: &'static str, max: u32 },
    #[error("endpoint {0} has no secret: only webhooks are signed")]
    NoSecret(EndpointId),
    #[error("{row} is sealed under the key {key}, which delivery.key_file has not, or was changed")]
    Sealed { row: EndpointId, key: String },
    #[error("no SMTP server is configured: set delivery.smtp.url")]
    NoServer,
    #[error("the mail was not taken: {reason}")]
    NotTaken { reason: String },
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
    #[error("{host} could not be trusted: {reason}")]
    Tls { host: String, reason: String },
    #[error("{host} did not answer within {limit:?}")]
    TimedOut { host: String, limit: Duration },
    #[error("the exchange with {host} broke: {reason}")]
    Broken { host: String, reason: String },
    #[error(transparent)]
    Rows(#[from] relational::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_)
            | Self::TooLong { .. }
            | Self::Invalid { .. }
            | Self::Target(_)
            | Self::Cursor => ErrorKind::Invalid,
            Self::TooManyUnsent { .. } | Self::TooMany { .. } => ErrorKind::TooMany,
            Self::NotFound(_) | Self::NoEndpoint(_) => ErrorKind::NotFound,
            Self::WrongState { .. }
            | Self::NoServer
            | Self::NoReceiver { .. }
            | Self::Sealed { .. }
            | Self::NoSecret(_) => ErrorKind::Conflict,
            Self::EgressRefused { .. } => ErrorKind::Forbidden,
            Self::Unresolved { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::TimedOut { .. }
            | Self::NotTaken { .. }
            | Self::Broken { .. } => ErrorKind::Unavailable,
            Self::Rows(error) => error.kind(),
        }
    }
}
