//! ETags (RFC 9110 section 8.8.3): a reader that has the newest form of an answer is told so and is sent nothing.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Result;

/// An answer with its tag in front, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tagged(Bytes);

/// A quoted tag of 128 bits.
pub(crate) const BYTES: usize = 34;

impl Tagged {
    pub(crate) fn of<T: Serialize>(value: &T) -> Result<Self> {
        let mut bytes = vec![0; BYTES];
        serde_json::to_writer(&mut bytes, value).map_err(|_| crate::Error::Stored("article"))?;
        Ok(Self::behind_its_place(bytes))
    }

    /// Writes the tag of a body into the [`BYTES`] that were left free in front of it.
    pub(crate) fn behind_its_place(mut bytes: Vec<u8>) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let (place, body) = bytes.split_at_mut(BYTES);
        place.fill(b'"');
        for (digits, byte) in place[1..].chunks_exact_mut(2).zip(&Sha256::digest(body)[..16]) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(bytes.into())
    }

    pub(crate) fn kept(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// `is_shared` where the answer is the same for everybody.
    pub(crate) fn answer(&self, request: &HeaderMap, is_shared: bool) -> Response {
        let tag = self.0.slice(..BYTES.min(self.0.len()));
        let is_known = std::str::from_utf8(&tag).is_ok_and(|tag| edge::knows(request, tag));
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let body = self.0.slice(BYTES.min(self.0.len())..);
            ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body)
                .into_response()
        };
        let headers = response.headers_mut();
        // Kept by whoever likes to, and asked about each time.
        let keeping = if is_shared { "no-cache" } else { "private, no-cache" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keeping));
        headers.insert(header::VARY, HeaderValue::from_static("authorization, cookie"));
        if let Ok(tag) = HeaderValue::from_maybe_shared(tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}

pub(crate) fn tagged<T: Serialize>(
    request: &HeaderMap,
    value: &T,
    is_shared: bool,
) -> Result<Response> {
    Ok(Tagged::of(value)?.answer(request, is_shared))
}
