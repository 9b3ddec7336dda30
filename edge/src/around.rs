//! What happens around every request, matched or not: its id, its time limit, its count, its headers.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use futures::FutureExt;

use crate::guard::Shared;
use crate::problem::{Cause, Error};

/// Names a request in its answer and in the log; a caller may give one of its own.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// Says afterwards which operation it was, also when its handler panicked.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<OnceLock<&'static str>>);

impl Trace {
    pub(crate) fn matched(&self, operation: &'static str) {
        let _ = self.0.set(operation);
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 64;

pub(crate) async fn around(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = shared.base.clock.instant();
    let id = request_id(&shared, request.headers());
    let trace = Trace::default();
    request.extensions_mut().insert(RequestId(id.clone()));
    request.extensions_mut().insert(trace.clone());
    request.extensions_mut().insert(shared.clone());

    let mut response = answer(&shared, request, next).await;

    let operation = trace.0.get().copied().unwrap_or("unmatched");
    let took = shared.base.clock.instant().duration_since(started);
    shared.counts.answered(operation, response.status().as_u16(), took);
    if let Some(Cause(error)) = response.extensions_mut().remove::<Cause>() {
        tracing::error!(request = %id, operation, error = %chain(&**error), "a request failed");
    }
    tracing::debug!(request = %id, operation, status = response.status().as_u16(), ?took);
    finish(&shared, &id, response.headers_mut());
    response
}

async fn answer(shared: &Shared, request: Request, next: Next) -> Response {
    let Ok(_permit) = shared.requests.try_acquire() else {
        return Error::new(ErrorKind::Unavailable, "too many requests are being worked on")
            .into_response();
    };
    bounded(shared, request, next).await
}

/// Runs the request within the time limit; a panic becomes an answer.
pub(crate) async fn bounded(shared: &Shared, request: Request, next: Next) -> Response {
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(shared.config.request_time_max, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            shared.counts.panics.inc();
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            Error::internal(format!("a handler panicked: {text}")).into_response()
        }
        Err(_) => {
            Error::new(ErrorKind::Unavailable, "the answer took too long to begin").into_response()
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
        None => format!("{:016x}", shared.base.entropy.number()).into(),
    }
}

/// Headers that every answer carries; a page of the console may have set its own.
fn finish(shared: &Shared, id: &str, headers: &mut HeaderMap) {
    const DEFAULTS: [(HeaderName, &str); 7] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if shared.config.cookie_secure {
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
