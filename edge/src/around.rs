//! What happens around every request, matched or not: its id, its time limit, its count, its headers.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::watch::{Begin, Running, What};
use base::{ErrorKind, Spent};
use futures::FutureExt;

use crate::extract::Peer;
use crate::framing::Framing;
use crate::guard::{Entrance, Shared, host_of};
use crate::places::Place;
use crate::problem::{Cause, Error, Result};

/// Names a request in its answer and in the log; a caller may give one of its own.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// How a request came here.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival {
    /// Under TLS, to us or to a proxy that is believed.
    pub(crate) is_secured: bool,
    pub(crate) framing: Framing,
}

/// What a request carries through its routes. One thing, for each is a piece of memory and a place in a map.
#[derive(Clone)]
pub(crate) struct Passage {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: RequestId,
    pub(crate) trace: Trace,
    pub(crate) place: Arc<Place>,
}

impl Passage {
    pub(crate) fn of(extensions: &Extensions) -> Result<&Self> {
        let text = "an extractor of edge was used outside of its routes";
        extensions.get().ok_or_else(|| Error::internal(text))
    }
}

/// Says which operation it is: while it runs, and afterwards, also when its handler panicked.
#[derive(Clone)]
pub(crate) struct Trace(Arc<(OnceLock<Matched>, Running)>);

/// What is known of an operation once its path was matched.
struct Matched {
    operation: &'static str,
    is_cross_origin: bool,
}

impl Trace {
    fn begin(shared: &Shared, id: &Arc<str>) -> Self {
        let running = shared.base.watch.begin(Begin {
            what: What::Request,
            id: Some(id.clone()),
            place: None,
            told_after: shared.config.request_told_after,
            limit: shared.config.request_time_max,
        });
        Self(Arc::new((OnceLock::new(), running)))
    }

    pub(crate) fn matched(&self, entrance: &Entrance) {
        let Entrance { operation, .. } = entrance;
        let _ = self
            .0
            .0
            .set(Matched { operation: operation.id(), is_cross_origin: operation.is_cross_origin });
        self.0.1.name(&entrance.title);
    }

    /// Lets it be known which thread runs this part of it.
    pub(crate) fn follow<F: Future>(&self, part: F) -> impl Future<Output = F::Output> + use<F> {
        self.0.1.follow(part)
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 64;

pub(crate) async fn around(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let started = shared.base.clock.instant();
    // Of a preflight nothing is read; what lets a page go on, says so itself.
    let is_open_path =
        *request.method() != Method::OPTIONS && shared.open_paths.have(request.uri().path());
    let id = request_id(&shared, request.headers());
    let trace = Trace::begin(&shared, &id);
    let spent = Spent::default();
    let arrival = request.extensions().get::<Arrival>().copied().unwrap_or_default();
    let is_secured = arrival.is_secured;
    let is_hsts = is_secured && shared.hsts.is_some() && is_named(&request);

    let admitted = admit(&shared, arrival.framing, &request);
    let mut response = match admitted {
        Ok(place) => {
            let (shared, id, trace) = (shared.clone(), RequestId(id.clone()), trace.clone());
            let passage = Passage { shared, id, trace, place };
            spent.clone().scope(answer(passage, request, next)).await
        }
        Err(error) => error.into_response(),
    };

    let matched = trace.0.0.get();
    let operation = matched.map_or("unmatched", |matched| matched.operation);
    if matched.map_or(is_open_path, |matched| matched.is_cross_origin) {
        crate::origins::open(response.headers_mut());
    }
    let took = shared.base.clock.instant().duration_since(started);
    let status = response.status().as_u16();
    shared.counts.answered(operation, status, took);
    shared.counts.asked(operation, spent.statements());
    if let Some(Cause(error)) = response.extensions_mut().remove::<Cause>() {
        tracing::error!(request = %id, operation, error = %chain(&**error), "a request failed");
    }
    let (statements, rows) = (spent.statements(), spent.rows_time());
    tracing::debug!(request = %id, operation, status, ?took, statements, ?rows);
    // Tests read it: what an operation costs does not depend on how many rows there are.
    response.extensions_mut().insert(spent);
    finish(&shared, &id, is_secured, response.headers_mut());
    if is_hsts && let Some(hsts) = &shared.hsts {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    response
}

/// Whether the request is for a name that others may find: on `localhost` other programs answer at other ports, and
/// browsers would keep to HTTPS with them too.
fn is_named(request: &Request) -> bool {
    let host = host_of(request.headers(), request.uri());
    host.is_some_and(|name| name != "localhost" && !name.ends_with(".localhost"))
}

/// A place for a request that can be read in one way only.
fn admit(shared: &Shared, framing: Framing, request: &Request) -> Result<Arc<Place>> {
    framing.check()?;
    shared.places.take(request.extensions().get::<Peer>().map(|peer| peer.0))
}

async fn answer(passage: Passage, mut request: Request, next: Next) -> Response {
    let shared = passage.shared.clone();
    // Held at least until there is an answer, and longer by what goes on without its caller.
    let _place = passage.place.clone();
    request.extensions_mut().insert(passage);
    bounded(&shared, next.run(request)).await
}

/// Runs the work of a request within the time limit; a panic becomes an answer.
pub(crate) async fn bounded(shared: &Shared, work: impl Future<Output = Response>) -> Response {
    match tokio::time::timeout(shared.config.request_time_max, caught(shared, work)).await {
        Ok(response) => response,
        Err(_) => {
            Error::new(ErrorKind::Unavailable, "the answer took too long to begin").into_response()
        }
    }
}

pub(crate) async fn caught(shared: &Shared, work: impl Future<Output = Response>) -> Response {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            shared.counts.panics.inc();
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            Error::internal(format!("a handler panicked: {text}")).into_response()
        }
    }
}

fn request_id(shared: &Shared, headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|given| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&given.len())
            && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    match given {
        Some(given) => given.into(),
        None => format!("{:016x}", shared.request_number()).into(),
    }
}

/// Headers that every answer carries; a page of the console may have set its own.
fn finish(shared: &Shared, id: &str, is_secured: bool, headers: &mut HeaderMap) {
    const DEFAULTS: [(HeaderName, &str); 7] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    headers.reserve(DEFAULTS.len() + 2);
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if shared.config.cookie_secure || is_secured {
        let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for cookie in cookies {
            let secured = [cookie.as_bytes(), b"; Secure"].concat();
            if let Ok(secured) = HeaderValue::from_bytes(&secured) {
                headers.append(header::SET_COOKIE, secured);
            }
        }
    }
}

/// An error with its sources, for the log.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// A route that no operation names.
pub(crate) fn no_such_path() -> Error {
    Error::not_found("no operation has this path")
}

/// A path that has operations, none with this method; axum adds `Allow`.
pub(crate) async fn no_such_method(request: Request) -> Error {
    let method = request.method().clone();
    crate::extract::discard(request).await;
    Error::with_status(
        ErrorKind::Invalid,
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not an operation of this path"),
    )
}
