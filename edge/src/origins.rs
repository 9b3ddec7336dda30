//! Pages of other origins: which operations they may call, and what a browser is told about it.
//!
//! Never with cookies: no answer says `Access-Control-Allow-Credentials`, so a page of another origin acts for nobody
//! whose session is in the browser. Whoever it acts for, it shows in the request itself.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// How long a browser may keep the answer of a preflight; browsers cut it to their own longest.
const PREFLIGHT_SECONDS: u32 = 7_200;
/// What scripts of another origin may read beside the body.
const EXPOSED: &str = "etag, retry-after, x-request-id";
/// What scripts of another origin may send.
const SENT: &str = "authorization, content-type, if-none-match";

/// The beginnings of paths that have such operations: where nothing was matched, as when the server is too busy to
/// look, they say whether the refusal may be read.
#[derive(Default)]
pub(crate) struct OpenPaths(Vec<&'static str>);

impl OpenPaths {
    pub(crate) fn add(&mut self, path: &'static str) {
        let beginning = path.split('{').next().unwrap_or_default();
        if !self.0.contains(&beginning) {
            self.0.push(beginning);
        }
    }

    pub(crate) fn have(&self, path: &str) -> bool {
        self.0.iter().any(|beginning| path.starts_with(beginning))
    }
}

/// Lets scripts of every origin read the answer, an error too.
pub(crate) fn open(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("cross-origin"));
}

/// What a browser is told that asks before it sends.
pub(crate) fn preflight(methods: &[Method]) -> Response {
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    open(headers);
    let methods = HeaderValue::from_str(&methods.join(", ")).expect("methods are ASCII words");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_SECONDS));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_as_an_open_path_may_be_read() {
        let mut paths = OpenPaths::default();
        paths.add("/comments/{site}/thread");
        paths.add("/comments/{site}/events");
        assert!(paths.have("/comments/x/gone"));
        assert!(!paths.have("/v1/keys"));
        assert_eq!(paths.0.len(), 1);
    }

    #[test]
    fn a_preflight_never_lets_cookies_in() {
        let response = preflight(&[Method::GET, Method::POST]);
        assert_eq!(response.headers()["access-control-allow-methods"], "GET, POST");
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
    }
}
