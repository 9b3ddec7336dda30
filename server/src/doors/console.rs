//! The console's files, below every operation.

use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use web_console::{Encoding, asset, content_security_policy};

/// Answers a `GET` that no operation names; `None` is a 404.
pub(super) fn pages() -> impl Fn(&Parts) -> Option<Response> + Send + Sync + 'static {
    let policy = HeaderValue::from_str(&content_security_policy()).expect("the policy is ASCII");
    move |request| {
        let path = request.uri.path();
        // A wrong address of the API is a problem, not a page.
        if ["/v1/", "/comments/", "/conduit/"].iter().any(|mount| path.starts_with(mount))
            || path == "/v1"
        {
            return None;
        }
        let text =
            |name| request.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let asset = asset(path, Encoding::accepted(text(header::ACCEPT_ENCODING)))?;
        let is_known = text(header::IF_NONE_MATCH)
            .is_some_and(|known| known.split(',').any(|etag| etag.trim() == asset.etag));
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, asset.content_type)], asset.body).into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(asset.cache_control));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
            headers.insert(header::ETAG, etag);
        }
        if let Some(encoding) = asset.content_encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        Some(response)
    }
}
