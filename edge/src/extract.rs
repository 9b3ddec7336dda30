use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use base::{ErrorKind, PageRequest};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::around::{Passage, RequestId};
use crate::document::Description;
use crate::guard::{
    Admission, Caller, Shared, is_from_this_machine, is_same_origin, session_cookie,
};
use crate::problem::{Error, Result};

/// Something that a handler takes. It says itself what that means for the document.
pub trait Input {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator);
}

/// All arguments of a handler, as axum tells them apart.
pub trait Inputs {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator);
}

/// A JSON body, taken or given.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

/// A body as forms of pages send it, for protocols that want it so. A field that comes twice is refused.
#[derive(Debug, Clone, Copy)]
pub struct Form<T>(pub T);

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// The parameters of the path: one value, or a struct with their names.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

/// Parameters of the query, as a struct with their names.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

/// Which part of a list is asked for: `?limit=&after=`.
#[derive(Debug, Clone)]
pub struct Paging(pub PageRequest);

/// The address that the request came from; unspecified when it came through no socket.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Whether the request came from this machine itself, and not through a proxy on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FromHere(pub bool);

/// Whether a page of this server itself made the request: what forms change, pages of others must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FromOwnPage(pub bool);

/// The text of the session cookie, for signing out.
#[derive(Debug, Clone)]
pub struct SessionToken(pub Option<String>);

impl<T: DeserializeOwned> Query<T> {
    pub(crate) fn parse(uri: &Uri) -> Result<Self> {
        match axum::extract::Query::try_from_uri(uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(refused_data(
                Error::unreadable("the query cannot be read"),
                &rejection,
                Style::Name,
            )),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let is_json = is_json(request.headers());
        let body = body_of(request, (is_json, "application/json")).await?;
        match axum::Json::<T>::from_bytes(&body) {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => {
                let error = if rejection.status() == StatusCode::UNPROCESSABLE_ENTITY {
                    Error::invalid("the body does not fit")
                } else {
                    Error::unreadable("the body is not JSON")
                };
                Err(refused_data(error, &rejection, Style::Pointer))
            }
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let given = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is_form = essence.eq_ignore_ascii_case(FORM);
        let body = body_of(request, (is_form, FORM)).await?;
        let mut whole = Request::new(Body::from(body));
        *whole.method_mut() = Method::POST;
        whole.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
        match axum::Form::<T>::from_request(whole, &()).await {
            Ok(axum::Form(form)) => Ok(Self(form)),
            Err(rejection) => Err(refused_data(
                Error::unreadable("the form cannot be read"),
                &rejection,
                Style::Name,
            )),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match <axum::extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
        {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) if rejection.status() == StatusCode::BAD_REQUEST => {
                Err(Error::unreadable("the path cannot be read").at("path", rejection.body_text()))
            }
            Err(rejection) => Err(Error::internal(rejection)),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::parse(&parts.uri)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        #[derive(Deserialize)]
        struct Given {
            limit: Option<usize>,
            after: Option<String>,
        }
        let Query(Given { limit, after }) = Query::parse(&parts.uri)?;
        let limit = limit.unwrap_or(PageRequest::LIMIT_DEFAULT);
        if !(1..=PageRequest::LIMIT_MAX).contains(&limit) {
            let detail = format!("must be from 1 to {}", PageRequest::LIMIT_MAX);
            return Err(Error::unreadable("the query cannot be read").at("limit", detail));
        }
        Ok(Self(PageRequest { after, limit }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let caller = Admission::of(&parts.extensions)?.caller.clone();
        caller.ok_or_else(|| Error::internal("a public operation asked who is calling"))
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>> {
        Ok(Admission::of(&parts.extensions)?.caller.clone())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let peer = parts.extensions.get::<Self>().copied();
        Ok(peer.unwrap_or(Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for FromHere {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Self(is_from_this_machine(parts)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for FromOwnPage {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Self(is_same_origin(&parts.headers, &parts.uri)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SessionToken {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Self(session_cookie(&parts.headers).map(str::to_owned)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Passage::of(&parts.extensions)?.id.clone())
    }
}

impl<T: JsonSchema> Input for Json<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        to.body = Some(schemas.subschema_for::<T>());
    }
}

impl<T: JsonSchema> Input for Form<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        to.body = Some(schemas.subschema_for::<T>());
        to.is_form = true;
    }
}

impl<T: JsonSchema> Input for Path<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        to.path = Some(T::json_schema(schemas));
    }
}

impl<T: JsonSchema> Input for Query<T> {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        let schema = T::json_schema(schemas);
        to.query_of(&schema);
    }
}

impl Input for Paging {
    fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
        #[derive(JsonSchema)]
        #[expect(dead_code, reason = "read by its schema only")]
        struct Paging {
            /// How many items at most.
            #[schemars(range(min = 1, max = 1000))]
            limit: Option<u32>,
            /// What `next` of the page before said.
            after: Option<String>,
        }
        let schema = Paging::json_schema(schemas);
        to.query_of(&schema);
    }
}

macro_rules! says_nothing {
    ($($type:ty),* $(,)?) => {$(
        impl Input for $type {
            fn describe(_: &mut Description, _: &mut SchemaGenerator) {}
        }
    )*};
}
says_nothing!(
    Caller,
    Option<Caller>,
    Peer,
    FromHere,
    FromOwnPage,
    SessionToken,
    RequestId,
    HeaderMap
);

impl<S> Input for State<S> {
    fn describe(_: &mut Description, _: &mut SchemaGenerator) {}
}

impl Inputs for ((),) {
    fn describe(_: &mut Description, _: &mut SchemaGenerator) {}
}

macro_rules! inputs {
    ($($type:ident),+) => {
        impl<M, $($type: Input),+> Inputs for (M, $($type,)+) {
            fn describe(to: &mut Description, schemas: &mut SchemaGenerator) {
                $($type::describe(to, schemas);)+
            }
        }
    };
}
inputs!(A);
inputs!(A, B);
inputs!(A, B, C);
inputs!(A, B, C, D);
inputs!(A, B, C, D, E);
inputs!(A, B, C, D, E, F);
inputs!(A, B, C, D, E, F, G);

fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok())
    else {
        return false;
    };
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

pub(crate) async fn read(shared: &Shared, mut body: Body, bytes_max: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    let work = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "a body ended early");
                Error::unreadable("the body ended early")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > bytes_max {
                drain(body, shared.config.body_discard_bytes_max).await;
                return Err(Error::too_large(bytes_max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(shared.config.body_read_time_max, work).await {
        Ok(read) => read,
        Err(_) => Err(Error::with_status(
            ErrorKind::Invalid,
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long to arrive",
        )),
    }
}

/// The whole body of a request that says it is of the right type.
async fn body_of(request: Request, (is_right, right): (bool, &str)) -> Result<Bytes> {
    let Passage { shared, place, .. } = Passage::of(request.extensions())?.clone();
    let bytes_max = Admission::of(request.extensions())?.body_bytes_max;
    if !is_right {
        discard(request).await;
        let text = format!("the body must be {right}");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Error::with_status(ErrorKind::Invalid, status, text));
    }
    place.body(read(&shared, request.into_body(), bytes_max)).await?
}

/// Reads what is left of a refused request, within limits: a client that is still sending would
/// otherwise see a broken connection in place of the refusal.
pub(crate) async fn discard(request: Request) {
    let Ok(Passage { shared, place, .. }) = Passage::of(request.extensions()).cloned() else {
        return;
    };
    // Whoever asks before sending has sent nothing yet, and shall not be told to.
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let work = drain(request.into_body(), shared.config.body_discard_bytes_max);
    let arrival = async {
        if tokio::time::timeout(shared.config.body_read_time_max, work).await.is_err() {
            tracing::debug!("a refused body took too long to arrive");
        }
    };
    place.rest(arrival).await;
}

async fn drain(mut body: Body, mut bytes_max: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(left) = bytes_max.checked_sub(length) else { return };
        bytes_max = left;
    }
}

#[derive(Clone, Copy)]
enum Style {
    Pointer,
    Name,
}

/// Adds where it went wrong, which serde's own error writes as `values[0].unit: missing field`.
fn refused_data(error: Error, rejection: &dyn std::error::Error, style: Style) -> Error {
    let mut innermost = rejection;
    while let Some(source) = innermost.source() {
        // serde_path_to_error writes its path before the words of its own source.
        if source.source().is_none() {
            break;
        }
        innermost = source;
    }
    let text = innermost.to_string();
    let (path, detail) = match text.split_once(": ") {
        Some((path, detail)) if !path.contains(' ') => (path, detail),
        _ => ("", text.as_str()),
    };
    match style {
        Style::Name => error.at(path, detail),
        Style::Pointer => error.at(pointer(path), detail),
    }
}

/// `values[0].unit` as a JSON pointer: `/values/0/unit`.
fn pointer(path: &str) -> String {
    path.split(['.', '[']).filter(|step| !step.is_empty() && *step != "?").fold(
        String::new(),
        |mut pointer, step| {
            pointer.push('/');
            let step = step.strip_suffix(']').unwrap_or(step);
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
            pointer
        },
    )
}
