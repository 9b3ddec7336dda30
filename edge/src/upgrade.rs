use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::access::Principal;
use base::{ErrorKind, Stream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use schemars::SchemaGenerator;
use sha1::{Digest, Sha1};

use crate::around::Passage;
use crate::document::Description;
use crate::extract::{Input, Peer};
use crate::guard::{Admission, BoxFuture, Proof, Seen, Shared, Via, is_same_origin};
use crate::problem::{Error, Result};
use crate::reply::Reply;
use crate::socket::Socket;

/// A request that wants to become a WebSocket (RFC 6455); a handler takes it as an argument. What the caller showed
/// counts as at any operation, but that a browser's session counts for pages of this origin only.
pub struct Upgrade {
    shared: Arc<Shared>,
    guest: Option<Shown>,
    peer: IpAddr,
    accept: HeaderValue,
    protocols: Vec<String>,
    on: OnUpgrade,
}

/// Who a connection belongs to, as its request showed it.
pub struct Shown {
    pub principal: Principal,
    /// Whether their session is still there; nothing for a key, which the authority knows.
    pub still: Option<Still>,
    /// How often to ask besides when access changes: what they showed ends by time.
    pub still_every: Option<Duration>,
}

pub type Still = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// A connection that speaks another protocol from now on.
pub struct Taken {
    pub stream: Stream,
    /// What was read behind the request.
    pub read: Bytes,
    pub peer: IpAddr,
    pub shown: Option<Shown>,
}

/// The answer that hands a connection over.
pub struct Switching(Response);

/// Of the accept header, RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

impl Upgrade {
    /// Hands the connection to `work`, in the first of `protocols` that the client offers; a client that offers none
    /// gets none. `work` ends at shutdown by itself.
    pub fn accept<F, W>(self, protocols: &[&'static str], work: F) -> Result<Switching>
    where
        F: FnOnce(Taken) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let chosen =
            protocols.iter().find(|it| self.protocols.iter().any(|offered| offered == *it));
        if chosen.is_none() && !self.protocols.is_empty() {
            let known = protocols.join(", ");
            return Err(Error::unreadable(format!(
                "the protocols that are spoken here are {known}"
            )));
        }
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(chosen) = chosen {
            response = response.header(header::SEC_WEBSOCKET_PROTOCOL, *chosen);
        }
        let response = response.body(Body::empty()).map_err(Error::internal)?;
        let (on, peer, shown) = (self.on, self.peer, self.guest);
        self.shared.base.tasks.spawn("http_upgraded", async move {
            let parts = match on.await {
                Ok(upgraded) => downcast::<TokioIo<Socket>>(upgraded),
                Err(error) => {
                    tracing::debug!(%error, "a connection was lost before it changed protocol");
                    return;
                }
            };
            let Ok(parts) = parts else {
                tracing::error!("a connection that changes protocol is not one of this door");
                return;
            };
            let (stream, read) = (parts.io.into_inner().into_stream(), parts.read_buf);
            work(Taken { stream, read, peer, shown }).await;
        });
        Ok(Switching(response))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Peer(peer) = Peer::from_request_parts(parts, state).await?;
        let shared = Passage::of(&parts.extensions)?.shared.clone();
        let admission = Admission::of(&parts.extensions)?.clone();
        let key = wanted(&parts.headers)?;
        let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize();
        let accept = HeaderValue::from_str(&STANDARD.encode(digest)).map_err(Error::internal)?;
        let protocols = parts
            .headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|it| it.to_str().ok())
            .flat_map(|it| it.split(','))
            .map(|it| it.trim().to_owned())
            .collect();
        let guest = shown(&shared, parts, admission);
        // HTTP/2 has another way to the same, which is not there.
        let on = parts.extensions.remove::<OnUpgrade>().ok_or_else(not_one)?;
        Ok(Self { shared, guest, peer, accept, protocols, on })
    }
}

/// What the gate found. A page of another origin can make a browser send its cookie along.
fn shown(shared: &Arc<Shared>, parts: &Parts, admission: Admission) -> Option<Shown> {
    let caller = admission.caller?;
    if caller.via == Via::Key {
        return Some(Shown { principal: caller.principal, still: None, still_every: None });
    }
    // No page can make a browser send a token along.
    if caller.via == Via::Session && !is_same_origin(&parts.headers, &parts.uri) {
        return None;
    }
    // What the authority knows tells of its end by the epoch.
    let still_every =
        (!matches!(admission.shown, Proof::Known)).then_some(shared.config.token_check);
    let (shared, seen) = (shared.clone(), Arc::new(Seen::new(admission.shown)));
    let still: Still = Arc::new(move || {
        let (shared, seen) = (shared.clone(), seen.clone());
        Box::pin(async move { seen.holds(&shared).await })
    });
    Some(Shown { principal: caller.principal, still: Some(still), still_every })
}

/// Checks that a request asks for a WebSocket, and gives its key.
fn wanted(headers: &HeaderMap) -> Result<HeaderValue> {
    let has = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|it| it.to_str().ok());
        values.flat_map(|it| it.split(',')).any(|it| it.trim().eq_ignore_ascii_case(wanted))
    };
    let is_one = has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_one).ok_or_else(not_one)?;
    let is_nonce = STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16);
    if is_nonce {
        Ok(key.clone())
    } else {
        Err(Error::unreadable("Sec-WebSocket-Key is not 16 bytes in base64"))
    }
}

fn not_one() -> Error {
    let text = "this path is for WebSockets of version 13 over HTTP/1.1";
    Error::with_status(ErrorKind::Invalid, StatusCode::UPGRADE_REQUIRED, text)
}

impl IntoResponse for Switching {
    fn into_response(self) -> Response {
        self.0
    }
}

impl Reply for Switching {
    fn describe(to: &mut Description, _: &mut SchemaGenerator) {
        to.answers_nothing(101);
        // Where nobody asked for another protocol.
        to.answers(426, crate::problem::MEDIA, None);
    }
}

impl Input for Upgrade {
    fn describe(to: &mut Description, _: &mut SchemaGenerator) {
        let text = schemars::json_schema!({ "type": "string" });
        to.header("Sec-WebSocket-Protocol", text);
    }
}
