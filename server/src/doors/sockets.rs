//! STOMP over WebSocket, topics as server-sent events, and what the console shows of both.

use base::access::Action;
use base::{ErrorKind, Page, PageRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use edge::{
    Caller, Event, Events, LastEventId, NoContent, Operation, PageBody, Paging, Path, Routes,
    Shown, State, Streams, Switching, Taken, Upgrade,
};
use futures::stream::unfold;
use schemars::JsonSchema;
use serde::Serialize;
use sockets::{
    Arrival, ConnectionInfo, Follow, Followed, Guest, PROTOCOLS, QueueInfo, Sockets, TopicInfo,
};

use super::Doors;

const READ: Action = sockets::READ;
const WRITE: Action = sockets::WRITE;

/// An open connection.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConnectionBody {
    id: String,
    /// An e-mail address or a key's label.
    name: String,
    peer: String,
    since: String,
    /// `websocket` or `tcp`.
    transport: &'static str,
    /// Of STOMP.
    version: &'static str,
    subscriptions: u32,
    /// Messages that it sent.
    received: u64,
    /// Messages that it was sent.
    sent: u64,
    /// Bytes that wait for it.
    waiting_bytes: usize,
}

/// A topic that somebody listens to.
#[derive(Serialize, JsonSchema)]
pub(super) struct TopicBody {
    destination: String,
    subscribers: usize,
    /// Messages since the first of these subscribers came.
    messages: u64,
}

/// A queue with messages or consumers.
#[derive(Serialize, JsonSchema)]
pub(super) struct QueueBody {
    name: String,
    messages: u64,
    /// Given out and not acknowledged.
    unacknowledged: u64,
    consumers: usize,
}

impl From<ConnectionInfo> for ConnectionBody {
    fn from(info: ConnectionInfo) -> Self {
        Self {
            id: info.id.to_string(),
            name: info.name,
            peer: info.peer.to_string(),
            since: info.since.to_string(),
            transport: if info.is_web { "websocket" } else { "tcp" },
            version: info.version,
            subscriptions: info.subscriptions,
            received: info.received,
            sent: info.sent,
            waiting_bytes: info.waiting_bytes,
        }
    }
}

impl From<TopicInfo> for TopicBody {
    fn from(info: TopicInfo) -> Self {
        let TopicInfo { destination, subscribers, messages } = info;
        Self { destination, subscribers, messages }
    }
}

impl From<QueueInfo> for QueueBody {
    fn from(info: QueueInfo) -> Self {
        let QueueInfo { name, messages, unacknowledged, consumers } = info;
        Self { name, messages, unacknowledged, consumers }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/stomp")
                .id("stomp")
                .summary("STOMP 1.0, 1.1 and 1.2 in a WebSocket; CONNECT says who is calling.")
                .tag("sockets")
                .session_or_public()
                .at_the_door(),
            stomp,
        )
        .add(
            Operation::get("/v1/topics/{name}/events")
                .id("followTopic")
                .summary("Messages of a topic as they come, as server-sent events that resume.")
                .tag("sockets")
                .signed_in(),
            follow,
        )
        .add(
            Operation::get("/v1/sockets/connections")
                .id("listConnections")
                .summary("Open STOMP connections.")
                .tag("sockets")
                .action(READ),
            list_connections,
        )
        .add(
            Operation::delete("/v1/sockets/connections/{id}")
                .id("closeConnection")
                .summary("Closes a connection with an ERROR that says so.")
                .tag("sockets")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound]),
            close,
        )
        .add(
            Operation::get("/v1/sockets/topics")
                .id("listTopics")
                .summary("Topics that somebody listens to, by name.")
                .tag("sockets")
                .action(READ),
            list_topics,
        )
        .add(
            Operation::get("/v1/sockets/queues")
                .id("listQueues")
                .summary("Queues with messages or consumers, by name.")
                .tag("sockets")
                .action(READ),
            list_queues,
        )
}

async fn stomp(State(doors): State<Doors>, upgrade: Upgrade) -> edge::Result<Switching> {
    let sockets = doors.sockets;
    upgrade.accept(&PROTOCOLS, move |taken| serve(sockets, taken))
}

async fn serve(sockets: Sockets, taken: Taken) {
    let Taken { stream, read, peer, shown } = taken;
    let guest = shown.map(|Shown { principal, still, still_every }| Guest {
        principal,
        still,
        still_every,
    });
    sockets.serve(Arrival { stream, read, peer, guest, is_web: true }).await;
}

async fn follow(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
    LastEventId(last): LastEventId,
    streams: Streams,
) -> edge::Result<Events> {
    let follow = doors.sockets.follow(&caller.principal, &name, last.as_deref()).await;
    let follow = follow.map_err(refused)?;
    streams.open(unfold(follow, |mut follow: Follow| async move {
        let event = event(follow.next().await?);
        Some((event, follow))
    }))
}

fn event(followed: Followed) -> Event {
    match followed {
        Followed::Message { id, body, is_text: true } => {
            let data = String::from_utf8_lossy(&body).into_owned();
            Event { id, event: "message", data }
        }
        Followed::Message { id, body, is_text: false } => {
            Event { id, event: "binary", data: STANDARD.encode(&body) }
        }
        Followed::Gap { kept_from } => {
            Event { id: None, event: "gap", data: kept_from.to_string() }
        }
    }
}

async fn list_connections(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<ConnectionBody>> {
    let after = match &page.after {
        None => 0,
        Some(after) => after.parse().map_err(|_| cursor(after))?,
    };
    let found = doors.sockets.connections_of(caller.organisation(), after, page.limit + 1);
    let page = Page::of(found, page.limit, |it| it.id.to_string());
    Ok(page.map(ConnectionBody::from).into())
}

async fn close(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    // What is no number names no connection.
    let id = id.parse().map_err(|_| refused(sockets::Error::NotFound("connection")))?;
    doors.sockets.close(caller.organisation(), id).map_err(refused)?;
    Ok(NoContent)
}

async fn list_topics(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<TopicBody>> {
    let topics = doors.sockets.topics(caller.organisation());
    Ok(part(topics, &page, |it| it.destination.clone()).map(TopicBody::from).into())
}

async fn list_queues(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<QueueBody>> {
    let queues = doors.sockets.queues(caller.organisation()).await.map_err(refused)?;
    Ok(part(queues, &page, |it| it.name.clone()).map(QueueBody::from).into())
}

/// The page of a list that is sorted by a name; its cursor is the last name.
fn part<T>(all: Vec<T>, page: &PageRequest, name: impl Fn(&T) -> String) -> Page<T> {
    let after = page.after.clone().unwrap_or_default();
    let rest = all.into_iter().filter(|it| name(it) > after);
    Page::of(rest.take(page.limit + 1).collect(), page.limit, name)
}

fn cursor(after: &str) -> edge::Error {
    edge::Error::invalid("the request does not fit")
        .at("after", format!("a page cannot begin after {after:?}"))
}

fn refused(error: sockets::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
