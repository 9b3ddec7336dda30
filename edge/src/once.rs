//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that is sent again runs once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::access::Subject;
use base::{ErrorKind, OrganisationId, Timestamp};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::around::{Passage, bounded};
use crate::extract::read;
use crate::guard::{Admission, BoxFuture, Entrance, Shared, handle};
use crate::operation::{Access, Operation};
use crate::problem::{Error, Result};

/// Where the keys of requests are kept, and what became of them.
pub trait Claims: Send + Sync + 'static {
    /// Claims the key durably for one run, or says what is known of an earlier claim.
    fn begin<'a>(&'a self, request: &'a Keyed) -> BoxFuture<'a, Result<Begun>>;

    /// Keeps how the run ended, for as long as keys are kept; nothing gives the key free again.
    fn end<'a>(
        &'a self,
        request: &'a Keyed,
        claim: Timestamp,
        outcome: Option<Bytes>,
    ) -> BoxFuture<'a, Result<()>>;
}

/// A request under a key. One key is one per organisation, subject and operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    pub organisation: OrganisationId,
    pub subject: Subject,
    pub operation: &'static str,
    pub key: String,
    /// SHA-256 of the target, the media type and the body.
    pub fingerprint: [u8; 32],
}

/// What a claim finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Nobody had the key: the request runs, and ends this claim.
    New { claim: Timestamp },
    /// The key was used with another fingerprint.
    Other,
    /// A run began then and has not ended.
    Running { since: Timestamp },
    /// What [`Claims::end`] was given.
    Ended(Bytes),
}

pub(crate) const NAME: &str = "Idempotency-Key";
pub(crate) const KEY_BYTES_MAX: usize = 255;
const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How a run ended; kept as one line of JSON, before the body of the answer.
#[derive(Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Outcome {
    Answered {
        status: u16,
        media_type: Option<String>,
    },
    /// The answer was too large, a stream, or with a cookie.
    NotKept {
        status: u16,
    },
    /// It failed in a way that leaves open whether there is an effect.
    InDoubt,
}

/// Whether the operation takes the header, for the document and the gate.
pub(crate) fn is_taken(operation: &Operation) -> bool {
    let is_safe = matches!(*operation.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    !is_safe && !operation.is_secret && operation.access != Access::Public
}

/// The key that the request carries; an error when it is wrong or means nothing here.
pub(crate) fn key(
    shared: &Shared,
    operation: &Operation,
    request: &Parts,
) -> Result<Option<String>> {
    let mut given = request.headers.get_all(HEADER).iter();
    let Some(key) = given.next() else { return Ok(None) };
    if matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(None);
    }
    let refused = |detail: &str| Err(Error::unreadable("the key cannot be used").at(NAME, detail));
    let has_caller = Admission::of(&request.extensions)?.caller.is_some();
    if !is_taken(operation) || !has_caller || shared.claims.is_none() {
        return refused("this operation does not take it");
    }
    // The draft writes a quoted string, most clients a bare one.
    let text = key.to_str().unwrap_or_default();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if given.next().is_some() || text.is_empty() || text.len() > KEY_BYTES_MAX || !is_plain {
        return refused("must be one key of 1 to 255 visible ASCII characters");
    }
    Ok(Some(text.to_owned()))
}

/// Runs the request, or answers as its first run did.
pub(crate) async fn once(
    shared: Arc<Shared>,
    entrance: Arc<Entrance>,
    key: String,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = async {
        let place = &Passage::of(&parts.extensions)?.place;
        place.body(read(&shared, body, entrance.body_bytes_max)).await?
    };
    let body = match body.await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let Ok(permit) = shared.keyed.clone().try_acquire_owned() else {
        let text = "too many requests with an Idempotency-Key are being worked on";
        return Error::new(ErrorKind::Unavailable, text).into_response();
    };
    let caller = Admission::of(&parts.extensions).ok().and_then(|it| it.caller.clone());
    let (Some(caller), Some(claims)) = (caller, shared.claims.clone()) else {
        return Error::internal("a key came through the gate without a caller").into_response();
    };
    let keyed = Keyed {
        organisation: caller.organisation(),
        subject: caller.subject(),
        operation: entrance.operation.id(),
        key,
        fingerprint: fingerprint(&parts, &body),
    };
    let request = Request::from_parts(parts, Body::from(body));
    // A task of its own: a caller who goes away must not leave the run without its end.
    let run = shared.base.tasks.clone().spawn("http_once", async move {
        let response =
            claim(&shared, &*claims, &keyed, handle(&shared, &entrance, request, next)).await;
        drop(permit);
        response.unwrap_or_else(Error::into_response)
    });
    let ended = run.await.ok().flatten();
    ended.unwrap_or_else(|| Error::internal("a run under a key panicked").into_response())
}

async fn claim(
    shared: &Shared,
    claims: &dyn Claims,
    keyed: &Keyed,
    work: impl Future<Output = Response>,
) -> Result<Response> {
    // Before it is known whether the key is new, so that many at once do not slip through.
    let caller = (keyed.organisation, keyed.subject);
    let most = shared.config.keyed_requests_per_caller_max;
    if let Err(pause) = shared.keys.count(shared.base.clock.now(), &[(caller, most)]) {
        let text = format!("{most} requests with a key were begun, and as many are remembered");
        return Err(Error::new(ErrorKind::TooMany, text).retry_after(pause));
    }
    let begun = claims.begin(keyed).await;
    if !matches!(begun, Ok(Begun::New { .. })) {
        shared.keys.take_back(&caller);
    }
    let claim = match begun? {
        Begun::New { claim } => claim,
        Begun::Other => {
            let error = Error::invalid("the key was used for another request");
            return Err(error.at(NAME, "use a new key for a new request"));
        }
        Begun::Running { since } => {
            let longest = 2 * shared.config.request_time_max;
            if shared.base.clock.now().since(since) > longest {
                return Err(in_doubt());
            }
            let text = "a request with this key is being worked on";
            return Err(Error::new(ErrorKind::Conflict, text).retry_after(Duration::from_secs(1)));
        }
        Begun::Ended(outcome) => return replay(&outcome),
    };
    let response = bounded(shared, work).await;
    let (response, outcome) = taken(shared.config.kept_answer_bytes_max, response).await;
    if outcome.is_none() {
        shared.keys.take_back(&caller);
    }
    if let Err(error) = claims.end(keyed, claim, outcome).await {
        tracing::warn!(error = %error, operation = keyed.operation, "an answer was not kept");
    }
    Ok(response)
}

/// The answer, and what is kept of it; nothing when the key may be used again.
async fn taken(bytes_max: usize, response: Response) -> (Response, Option<Bytes>) {
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        return (response, None);
    }
    if status.is_server_error() {
        return (response, Some(written(&Outcome::InDoubt, &[])));
    }
    let is_small = response.body().size_hint().exact().is_some_and(|it| it <= bytes_max as u64);
    if !is_small || response.headers().contains_key(header::SET_COOKIE) {
        let outcome = Outcome::NotKept { status: status.as_u16() };
        return (response, Some(written(&outcome, &[])));
    }
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let media_type = parts.headers.get(header::CONTENT_TYPE);
            let media_type = media_type.and_then(|it| it.to_str().ok()).map(str::to_owned);
            let outcome = Outcome::Answered { status: status.as_u16(), media_type };
            let kept = written(&outcome, &body);
            (Response::from_parts(parts, Body::from(body)), Some(kept))
        }
        Err(error) => {
            let outcome = Outcome::NotKept { status: status.as_u16() };
            (Error::internal(error).into_response(), Some(written(&outcome, &[])))
        }
    }
}

fn replay(kept: &[u8]) -> Result<Response> {
    let mut parts = kept.splitn(2, |byte| *byte == b'\n');
    let outcome = serde_json::from_slice(parts.next().unwrap_or_default());
    let (status, media_type) = match outcome.map_err(Error::internal)? {
        Outcome::Answered { status, media_type } => (status, media_type),
        Outcome::NotKept { status } => {
            let text = format!("the request was answered with {status}; its answer was not kept");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        Outcome::InDoubt => return Err(in_doubt()),
    };
    let body = parts.next().unwrap_or_default().to_owned();
    let mut response =
        (StatusCode::from_u16(status).map_err(Error::internal)?, body).into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    if let Some(media_type) = media_type {
        let media_type = HeaderValue::from_str(&media_type).map_err(Error::internal)?;
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn in_doubt() -> Error {
    let text = "a request with this key began and its end is not known: it may have had its effect. \
        Look whether it had, and use a new key to try again";
    Error::new(ErrorKind::Conflict, text)
}

fn written(outcome: &Outcome, body: &[u8]) -> Bytes {
    let mut bytes = serde_json::to_vec(outcome).expect("an outcome is strings and numbers");
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes.into()
}

fn fingerprint(request: &Parts, body: &[u8]) -> [u8; 32] {
    let target = request.uri.path_and_query().map_or("", |target| target.as_str());
    let media_type = request.headers.get(header::CONTENT_TYPE);
    let mut digest = Sha256::new();
    for piece in [target.as_bytes(), media_type.map_or(&[][..], HeaderValue::as_bytes), body] {
        digest.update((piece.len() as u64).to_le_bytes());
        digest.update(piece);
    }
    digest.finalize().into()
}
