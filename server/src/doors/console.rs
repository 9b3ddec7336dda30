//! The console's files, below every operation.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edge::{knows, takes_gzip};
use futures::stream;
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
        let encoding =
            if takes_gzip(&request.headers) { Encoding::Gzip } else { Encoding::Identity };
        let asset = asset(path, encoding)?;
        let mut response = if knows(&request.headers, &asset.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, asset.content_type)], body(asset.body)).into_response()
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

/// What was packed before comes at once, and what was not while others are served.
fn body(body: web_console::Body) -> Body {
    match body {
        web_console::Body::Ready(bytes) => Body::from(bytes),
        web_console::Body::Unpacked(packing) => {
            let packed = tokio::task::spawn_blocking(move || packing.run());
            Body::from_stream(stream::once(packed))
        }
    }
}
