//! Pages of other origins: which operations they may call, and what a browser is told about it.
//!
//! Never with cookies: no answer says `Access-Control-Allow-Credentials`, so a page of another origin acts for nobody
//! whose session is in the browser. Whoever it acts for, it shows in the request itself.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;

use crate::problem::Error;

/// How long a browser may keep the answer of a preflight; browsers cut it to their own longest.
const PREFLIGHT_SECONDS: u32 = 7_200;
/// What scripts of another origin may read beside the body.
const EXPOSED: &str = "etag, retry-after, x-request-id";
/// What scripts of another origin may send.
const SENT: &str = "authorization, content-type, if-none-match";

/// The folders of paths that have such operations: where nothing was matched, as when the server is too busy to
/// look or there is no such path, they say whether the refusal may be read.
#[derive(Default)]
pub(crate) struct OpenPaths(Vec<&'static str>);

impl OpenPaths {
    pub(crate) fn add(&mut self, path: &'static str) {
        let fixed = path.split('{').next().unwrap_or_default();
        let folder = fixed.rfind('/').filter(|at| *at > 0);
        let beginning = folder.map_or(fixed, |at| &fixed[..=at]);
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

/// What a browser is told that asks before it sends. It sends a `POST` whatever methods it is told, so one that is for pages of this
/// origin only is refused.
pub(crate) fn preflight(methods: &[Method], asked: &HeaderMap) -> Response {
    let is_for_others = |wanted: &HeaderValue| {
        let wanted = if wanted == "HEAD" { b"GET" } else { wanted.as_bytes() };
        methods.iter().any(|method| method.as_str().as_bytes() == wanted)
    };
    if asked.get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|it| !is_for_others(it)) {
        let text = "pages of other origins may not send this method here";
        return Error::new(ErrorKind::Forbidden, text).into_response();
    }
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
        paths.add("/v1/oidc/token");
        paths.add("/thing");
        assert!(paths.have("/comments/x/gone") && paths.have("/v1/oidc/tokens"));
        assert!(!paths.have("/v1/keys") && !paths.have("/"));
        assert_eq!(paths.0.len(), 3);
    }

    fn answer(wanted: Option<&'static str>) -> Response {
        let wanted = wanted.map(HeaderValue::from_static);
        let asked = wanted.map(|wanted| (header::ACCESS_CONTROL_REQUEST_METHOD, wanted));
        preflight(&[Method::GET, Method::DELETE], &asked.into_iter().collect())
    }

    #[test]
    fn a_preflight_lets_in_what_is_for_others_and_nothing_else_of_the_path() {
        let allowed =
            |answer: &Response| answer.headers().get("access-control-allow-origin").is_some();
        for wanted in [Some("GET"), Some("HEAD"), Some("DELETE"), None] {
            let answer = answer(wanted);
            assert!(answer.status() == StatusCode::NO_CONTENT && allowed(&answer), "{wanted:?}");
        }
        for wanted in ["POST", "get", "GET, DELETE", ""] {
            let answer = answer(Some(wanted));
            assert!(answer.status() == StatusCode::FORBIDDEN && !allowed(&answer), "{wanted}");
        }
    }

    #[test]
    fn a_preflight_never_lets_cookies_in() {
        let response = answer(None);
        assert_eq!(response.headers()["access-control-allow-methods"], "GET, DELETE");
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
    }
}
