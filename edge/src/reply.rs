use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use base::Page;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use crate::document::Description;
use crate::extract::Json;
use crate::guard::SESSION_COOKIE;
use crate::problem::{Error, Result};

/// What a handler gives. It says itself what that means for the document.
pub trait Reply: IntoResponse {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator);
}

/// A function whose reply is known; implemented for every handler of up to seven arguments.
pub trait Endpoint<I, O> {}

/// 201, with the new thing.
#[derive(Debug, Clone, Copy)]
pub struct Created<T>(pub T);

/// 204.
#[derive(Debug, Clone, Copy)]
pub struct NoContent;

/// 202, with nothing: it will be done, or there was nothing to do, and the answer does not say which.
#[derive(Debug, Clone, Copy)]
pub struct Accepted;

/// A part of a list on the wire.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct PageBody<T> {
    pub items: Vec<T>,
    /// Give it as `after` to go on; null on the last page.
    pub next: Option<String>,
}

/// Sets or clears the cookie of a browser's session, beside another reply: `(SessionCookie::clear(), NoContent)`.
#[derive(Debug, Clone)]
pub struct SessionCookie(String);

impl SessionCookie {
    /// The text must be URL-safe, as identity's tokens are.
    pub fn set(token: &str, lifetime: Duration) -> Self {
        let seconds = lifetime.as_secs();
        Self(format!(
            "{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}"
        ))
    }

    pub fn clear() -> Self {
        Self::set("", Duration::ZERO)
    }
}

impl<T> From<Page<T>> for PageBody<T> {
    fn from(page: Page<T>) -> Self {
        Self { items: page.items, next: page.next }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        json(StatusCode::CREATED, &self.0)
    }
}

impl<T: Serialize> IntoResponse for PageBody<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self)
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        StatusCode::ACCEPTED.into_response()
    }
}

impl IntoResponseParts for SessionCookie {
    type Error = Error;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts> {
        let cookie = HeaderValue::from_str(&self.0).map_err(Error::internal)?;
        parts.headers_mut().append(header::SET_COOKIE, cookie);
        Ok(parts)
    }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    const TYPE: [(HeaderName, HeaderValue); 1] =
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    match serde_json::to_vec(value) {
        Ok(body) => (status, TYPE, body).into_response(),
        Err(error) => Error::internal(error).into_response(),
    }
}

impl<T: Serialize + JsonSchema> Reply for Json<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        to.answers(200, "application/json", Some(schemas.subschema_for::<T>()));
    }
}

impl<T: Serialize + JsonSchema> Reply for Created<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        to.answers(201, "application/json", Some(schemas.subschema_for::<T>()));
    }
}

impl<T: Serialize + JsonSchema> Reply for PageBody<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        to.answers(200, "application/json", Some(schemas.subschema_for::<Self>()));
    }
}

impl Reply for NoContent {
    fn describe(to: &mut Description, _: &mut SchemaGenerator) {
        to.answers_nothing(204);
    }
}

impl Reply for Accepted {
    fn describe(to: &mut Description, _: &mut SchemaGenerator) {
        to.answers_nothing(202);
    }
}

/// A response of the handler's own making; its operation says what it is, by `returns` and `media`.
impl Reply for Response {
    fn describe(_: &mut Description, _: &mut SchemaGenerator) {}
}

impl<T: Reply> Reply for (SessionCookie, T) {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        T::describe(to, schemas);
    }
}

impl<T: Reply> Reply for (Option<SessionCookie>, T) {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        T::describe(to, schemas);
    }
}

impl<T: Reply> Reply for Result<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        T::describe(to, schemas);
    }
}

impl<F, R, O> Endpoint<((),), O> for F
where
    F: FnOnce() -> R,
    R: Future<Output = O>,
{
}

macro_rules! endpoint {
    ($($type:ident),+) => {
        impl<F, R, O, M, $($type),+> Endpoint<(M, $($type,)+), O> for F
        where
            F: FnOnce($($type),+) -> R,
            R: Future<Output = O>,
        {
        }
    };
}
endpoint!(T1);
endpoint!(T1, T2);
endpoint!(T1, T2, T3);
endpoint!(T1, T2, T3, T4);
endpoint!(T1, T2, T3, T4, T5);
endpoint!(T1, T2, T3, T4, T5, T6);
endpoint!(T1, T2, T3, T4, T5, T6, T7);
