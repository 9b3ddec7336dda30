//! Edge: the HTTP conventions that every feature's API keeps, over axum. Operations as data, who is
//! calling, problems (RFC 9457), pages, limits, server-sent events, the way to a WebSocket, OpenAPI 3.1, and the listener.
//!
//! It knows no feature and makes no decision of its own about who may do what: that is
//! [`base::access::Authority`]. Pages of other origins get what says so by [`Operation::cross_origin`], and never with
//! cookies; a preflight for another method of such a path is refused, any other one is an `OPTIONS` that no operation names (405). Start at [`Routes`].

mod around;
mod challenge;
mod config;
mod document;
mod elsewhere;
mod events;
mod extract;
mod forwarded;
mod framing;
mod guard;
mod html;
mod metrics;
mod once;
mod operation;
mod origins;
mod places;
mod problem;
mod reply;
mod routes;
mod serve;
mod socket;
mod tagged;
mod upgrade;

pub use axum::Router;
pub use axum::extract::State;

pub use around::RequestId;
pub use challenge::well_known;
pub use config::Config;
pub use document::{Description, Info};
pub use elsewhere::elsewhere;
pub use events::{Event, Events, LastEventId, Streams};
pub use extract::{
    Form, FromHere, FromOwnPage, Input, Inputs, Json, Paging, Path, Peer, Query, SessionToken,
};
pub use guard::{BoxFuture, Caller, Gate, SESSION_COOKIE, Sessions, Via, cookie, parse_token};
pub use html::{escape, escaped};
pub use once::{Begun, Claims, Keyed};
pub use operation::{Access, Operation, Undeclared};
pub use problem::{Error, FieldProblem, Problem, Refusal, Result};
pub use reply::{Accepted, Created, Endpoint, NoContent, PageBody, Reply, SessionCookie};
pub use routes::Routes;
pub use serve::serve;
pub use tagged::{knows, takes_gzip};
pub use upgrade::{Shown, Still, Switching, Taken, Upgrade};
