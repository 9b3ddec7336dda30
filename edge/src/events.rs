use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base::access::{Door, Resource};
use base::{ErrorKind, Share};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use schemars::{SchemaGenerator, json_schema};

use crate::around::Passage;
use crate::document::Description;
use crate::extract::{Input, Peer};
use crate::guard::{Admission, Shared};
use crate::problem::{Error, Result};
use crate::reply::Reply;

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where a reader goes on after it lost the connection.
    pub id: Option<String>,
    /// Its kind, for `addEventListener`.
    pub event: &'static str,
    pub data: String,
}

/// What the last event was that a reader saw before it lost the connection.
#[derive(Debug, Clone)]
pub struct LastEventId(pub Option<String>);

/// Opens event streams; a handler takes it as an argument.
pub struct Streams {
    shared: Arc<Shared>,
    admission: Admission,
    peer: Option<Peer>,
}

/// An open event stream, as a reply.
pub struct Events {
    events: BoxStream<'static, Result<axum::response::sse::Event, Infallible>>,
    keep_alive: KeepAlive,
}

impl Streams {
    /// The events are asked for only as fast as the reader takes them, so the source must not wait for it
    /// with unlimited memory. The stream ends at shutdown, and when its caller may no longer read it.
    pub fn open(self, events: impl Stream<Item = Event> + Send + 'static) -> Result<Events> {
        let Ok(permit) = self.shared.streams.clone().try_acquire_owned() else {
            return Err(Error::new(ErrorKind::Unavailable, "too many event streams are open"));
        };
        let share = self.peer.map(|peer| self.shared.stream_peers.take(peer.0));
        if matches!(share, Some(None)) {
            let text = "too many event streams of this address are open";
            return Err(Error::new(ErrorKind::TooMany, text));
        }
        let keep_alive = KeepAlive::new().interval(self.shared.config.stream_keep_alive);
        self.shared.counts.streams.inc();
        let open = Open(self.shared.clone(), (permit, share.flatten()));
        let events = events
            .take_until(over(self.shared, self.admission))
            .map(move |event| {
                let _ = &open;
                Ok(encode(event))
            })
            .boxed();
        Ok(Events { events, keep_alive })
    }
}

/// Counts a stream for as long as it is held.
struct Open(
    Arc<Shared>,
    #[expect(dead_code, reason = "held")] (tokio::sync::OwnedSemaphorePermit, Option<Share>),
);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.streams.dec();
    }
}

/// Is ready when the stream must end.
async fn over(shared: Arc<Shared>, admission: Admission) {
    let stopping = shared.base.tasks.stopping();
    if admission.caller.is_none() {
        return stopping.cancelled().await;
    }
    let mut epoch = shared.authority.epoch();
    loop {
        let its_time = async {
            match admission.shown.next_look(&shared).await {
                Some(at) => shared.base.clock.sleep(at.since(shared.base.clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = epoch.changed() => if changed.is_err() { return },
            () = its_time => {}
        }
        if !may_still_read(&shared, &admission).await {
            return;
        }
    }
}

async fn may_still_read(shared: &Shared, admission: &Admission) -> bool {
    let Some(caller) = &admission.caller else { return true };
    let principal = &caller.principal;
    admission.shown.holds(shared).await
        && shared.authority.is_current(principal)
        && admission.action.as_ref().is_none_or(|(action, path)| {
            let resource = Resource { organisation: principal.organisation, path };
            shared.authority.authorize_at(Door::Http, principal, *action, resource).is_ok()
        })
}

/// A line break inside an id would begin another field.
fn encode(event: Event) -> axum::response::sse::Event {
    let mut wire = axum::response::sse::Event::default().event(event.event);
    if let Some(id) = event.id {
        wire = wire.id(id.replace(['\r', '\n', '\0'], " "));
    }
    wire.data(event.data.replace('\r', " "))
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        Sse::new(self.events).keep_alive(self.keep_alive).into_response()
    }
}

impl Reply for Events {
    fn describe(to: &mut Description, _: &mut SchemaGenerator) {
        to.answers(200, "text/event-stream", Some(json_schema!({ "type": "string" })));
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Streams {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let shared = Passage::of(&parts.extensions)?.shared.clone();
        let admission = Admission::of(&parts.extensions)?.clone();
        let peer = parts.extensions.get::<Peer>().copied();
        Ok(Self { shared, admission, peer })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Some(given) = parts.headers.get("last-event-id") else { return Ok(Self(None)) };
        match given.to_str() {
            Ok("") => Ok(Self(None)),
            Ok(id) => Ok(Self(Some(id.to_owned()))),
            Err(_) => Err(Error::unreadable("Last-Event-ID is not text")),
        }
    }
}

impl Input for Streams {
    fn describe(_: &mut Description, _: &mut SchemaGenerator) {}
}

impl Input for LastEventId {
    fn describe(to: &mut Description, _: &mut SchemaGenerator) {
        to.header("Last-Event-ID", json_schema!({ "type": "string" }));
    }
}
