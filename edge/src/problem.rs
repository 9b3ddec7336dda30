use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::access::Refused;
use base::{ErrorKind, Failure};
use schemars::JsonSchema;
use serde::Serialize;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// RFC 9457.
pub(crate) const MEDIA: &str = "application/problem+json";

/// What every handler answers with when it refuses. A feature writes
/// `impl From<Error> for edge::Error` with [`Error::of`], and uses `?`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    status: StatusCode,
    detail: String,
    fields: Vec<FieldProblem>,
    retry_after: Option<Duration>,
    source: Option<Failure>,
}

/// What a refusal looks like on the wire: RFC 9457, `application/problem+json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says the type.
    pub r#type: &'static str,
    /// The words of the status.
    pub title: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// What was wrong with this request, for people.
    pub detail: String,
    /// The parts of the request that were wrong.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<FieldProblem>,
}

/// A refusal before it is written, for an API that writes its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: ErrorKind,
    pub status: u16,
    pub detail: String,
    pub fields: Vec<FieldProblem>,
}

/// One part of a request that was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldProblem {
    /// A JSON pointer (RFC 6901) into the body, or the name of a parameter.
    pub pointer: String,
    pub detail: String,
}

impl Error {
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self::with_status(kind, status_of(kind), detail)
    }

    /// Words of another error, with its kind. An internal one is logged and not shown.
    pub fn of<E>(kind: ErrorKind, error: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        if kind == ErrorKind::Internal {
            return Self::internal(error);
        }
        let mut new = Self::new(kind, error.to_string());
        new.0.source = Some(error.into());
        new
    }

    /// A defect or a fault of the machine: the caller learns nothing but the request's id.
    pub fn internal(source: impl Into<Failure>) -> Self {
        let mut new = Self::new(ErrorKind::Internal, "the server failed; see its log");
        new.0.source = Some(source.into());
        new
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, detail)
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, detail)
    }

    /// The request could not be read at all: 400, where [`Error::invalid`] is 422.
    pub fn unreadable(detail: impl Into<String>) -> Self {
        Self::with_status(ErrorKind::Invalid, StatusCode::BAD_REQUEST, detail)
    }

    /// Names a part of the request that was wrong: `("/conditions/0/value", "is not a value of weather")`.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.fields.push(FieldProblem { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// Says when to ask again.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn status(&self) -> u16 {
        self.0.status.as_u16()
    }

    pub(crate) fn with_status(
        kind: ErrorKind,
        status: StatusCode,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            status,
            detail: detail.into(),
            fields: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// The body was longer than it may be.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        Self::with_status(
            ErrorKind::Invalid,
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {bytes_max} bytes"),
        )
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::Unauthenticated => ErrorKind::Unauthenticated,
            Refused::Forbidden => ErrorKind::Forbidden,
            Refused::TooMany => ErrorKind::TooMany,
            Refused::Unavailable => ErrorKind::Unavailable,
        };
        Self::new(kind, refused.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("status", &self.0.status)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Rides on the response of an internal error, so that it is logged once, with the request's id.
#[derive(Clone)]
pub(crate) struct Cause(pub Arc<Failure>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let Inner { kind, status, detail, fields, retry_after, source } = *self.0;
        let refusal = Refusal {
            kind,
            status: status.as_u16(),
            detail: detail.clone(),
            fields: fields.clone(),
        };
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            errors: fields,
        };
        let body = serde_json::to_vec(&problem).expect("a problem is strings and numbers");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA));
        if let Some(pause) = retry_after.or_else(|| pause_of(kind)) {
            let seconds = pause.as_secs().max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(refusal);
        if let (ErrorKind::Internal, Some(source)) = (kind, source) {
            response.extensions_mut().insert(Cause(Arc::new(source)));
        }
        response
    }
}

/// Writes a refusal anew as an API wants it; headers that say more than the form stay.
pub(crate) fn shaped(shape: fn(&Refusal) -> Response, mut response: Response) -> Response {
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else { return response };
    let mut written = shape(&refusal);
    for name in [header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        if let Some(value) = response.headers_mut().remove(&name) {
            written.headers_mut().insert(name, value);
        }
    }
    written.extensions_mut().extend(std::mem::take(response.extensions_mut()));
    written
}

pub(crate) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn pause_of(kind: ErrorKind) -> Option<Duration> {
    match kind {
        ErrorKind::TooMany => Some(Duration::from_secs(10)),
        ErrorKind::Unavailable => Some(Duration::from_secs(5)),
        _ => None,
    }
}
