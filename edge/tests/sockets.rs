//! What only a real socket shows: slow and greedy clients, two versions of HTTP, and shutdown.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Authority, Door, Principal, Refused, Resource};
use base::{Base, Timestamp};
use bytes::Bytes;
use edge::{
    BoxFuture, Config, Event, Events, Gate, Json, Operation, Routes, Sessions, Streams, Switching,
    Taken, Upgrade,
};
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

struct Nobody;

impl Authority for Nobody {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(async { Err(Refused::Unauthenticated) })
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Err(Refused::Forbidden)
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        false
    }
}

impl Sessions for Nobody {
    fn session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(async { Err(Refused::Unauthenticated) })
    }
}

async fn echo(Json(text): Json<String>) -> Json<String> {
    Json(text)
}

async fn ticks(streams: Streams) -> edge::Result<Events> {
    let tick = Event { id: None, event: "tick", data: "1".into() };
    streams.open(futures::stream::once(async { tick }).chain(futures::stream::pending()))
}

/// Sends without end; only what the reader takes is made.
async fn flood(streams: Streams) -> edge::Result<Events> {
    let data = "x".repeat(64 << 10);
    streams.open(futures::stream::repeat_with(move || Event {
        id: None,
        event: "flood",
        data: data.clone(),
    }))
}

/// Says what it was given, and then everything back.
async fn parrot(upgrade: Upgrade) -> edge::Result<Switching> {
    upgrade.accept(&["new", "old"], |taken| async move {
        let Taken { mut stream, read, shown, .. } = taken;
        assert!(shown.is_none(), "nobody showed anything");
        stream.write_all(&read).await.unwrap();
        let (mut from, mut to) = tokio::io::split(stream);
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    })
}

async fn start(config: Config) -> (SocketAddr, Base) {
    let base = Base::simulated(Timestamp::from_millis(0), 1);
    let gate = Gate {
        authority: Arc::new(Nobody),
        sessions: Arc::new(Nobody),
        claims: None,
        config: config.clone(),
        base: base.clone(),
        handlers: base.tasks.clone(),
    };
    let router = Routes::new(())
        .add(Operation::post("/echo").id("echo").summary("Echoes.").public(), echo)
        .add(Operation::post("/closed").id("closed").summary("Refuses.").signed_in(), echo)
        .add(Operation::get("/ticks").id("ticks").summary("Ticks.").public(), ticks)
        .add(Operation::get("/flood").id("flood").summary("Floods.").public(), flood)
        .add(Operation::get("/parrot").id("parrot").summary("Repeats.").public(), parrot)
        .build(gate);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    base.tasks.spawn("http", edge::serve(listener, None, router, config, base.clone()));
    (address, base)
}

/// Reads until the peer closes, or fails the test.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    // A reset is a close too.
    let _ = read.await.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_client_that_never_finishes_its_headers_is_cut_off() {
    let config = Config { header_read_time_max: Duration::from_millis(200), ..Config::default() };
    let (address, _base) = start(config).await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n", "GET /ticks HTTP/1.1\r\nhost: a\r\nx-a: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(!answer.contains("200 OK"), "{begun:?}: {answer}");
    }
    // Between two requests, the same.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n\"a\"";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.ends_with("\"a\""));
}

#[tokio::test]
async fn a_stream_outlives_the_time_that_headers_may_take() {
    let config = Config {
        header_read_time_max: Duration::from_millis(50),
        stream_keep_alive: Duration::from_millis(100),
        ..Config::default()
    };
    let (address, _base) = start(config).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /ticks HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut text = String::new();
    while text.matches("\n:\n").count() < 3 {
        let mut buffer = [0; 1_024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_in_words_that_arrive() {
    let (address, _base) = start(Config::default()).await;
    let body = " ".repeat(10 << 20);
    for (path, status) in [("/echo", "413"), ("/closed", "401"), ("/none", "404")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.expect("the server reads on while it refuses");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains("application/problem+json"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let config = Config { write_time_max: Duration::from_millis(200), ..Config::default() };
    let (address, base) = start(config).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /flood HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let closed = async {
        let mut opened = false;
        loop {
            let open = base.metrics.text().contains("madang_http_streams 1");
            opened |= open;
            if opened && !open {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the stream is dropped");
}

#[tokio::test]
async fn shutdown_ends_streams_and_idle_connections_at_once() {
    let (address, base) = start(Config::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /ticks HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4_096];
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    let mut idle = TcpStream::connect(address).await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(base.tasks.stop(Duration::from_secs(10)).await, "every connection has ended");
    assert!(started.elapsed() < Duration::from_secs(5), "without waiting for the limit");
    assert!(rest(&mut stream).await.ends_with("0\r\n\r\n"), "the last chunk says that it is over");
    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn both_versions_of_http_are_spoken() {
    let (address, base) = start(Config::default()).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    base.tasks.spawn("client", async move { drop(connection.await) });
    let request = hyper::Request::post(format!("http://{address}/echo"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(b"\"hello\"")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, hyper::Version::HTTP_2));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "\"hello\"");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let (address, _base) = start(Config { connections_max: 1, ..Config::default() }).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET /ticks HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4_096];
    assert!(first.read(&mut buffer).await.unwrap() > 0);
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"GET /none HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut buffer)).await;
    assert!(early.is_err(), "it was answered beside the first");
    drop(first);
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 404"));
}

/// Begins a request whose body does not come, or not yet.
async fn begin(address: SocketAddr, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\n{headers}content-type: application/json\r\n\
        connection: close\r\ncontent-length: 3\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// The status of a request with its body; 0 when the connection is closed without an answer.
async fn ask(address: SocketAddr, headers: &str) -> u16 {
    let mut stream = begin(address, "/echo", headers).await;
    let _ = stream.write_all(b"\"a\"").await;
    let answer = rest(&mut stream).await;
    answer.strip_prefix("HTTP/1.1 ").map_or(0, |answer| answer[..3].parse().unwrap())
}

async fn until(base: &Base, metric: &str) {
    let is_said = async {
        while !base.metrics.text().lines().any(|line| line == metric) {
            tokio::task::yield_now().await;
        }
    };
    let said = tokio::time::timeout(Duration::from_secs(20), is_said).await;
    said.unwrap_or_else(|_| panic!("{metric} is never said:\n{}", base.metrics.text()));
}

#[tokio::test]
async fn requests_whose_bodies_do_not_come_hold_up_nobody() {
    let config = Config {
        requests_max: 2,
        body_read_time_max: Duration::from_secs(15),
        ..Config::default()
    };
    let (address, base) = start(config).await;
    let mut stalled = Vec::new();
    for path in ["/echo", "/echo", "/echo", "/closed", "/closed", "/none"] {
        stalled.push(begin(address, path, "").await);
        // Each has a place until it is seen that its body is not there.
        until(&base, &format!("madang_http_bodies {}", stalled.len())).await;
    }
    for _ in 0..5 {
        assert_eq!(ask(address, "").await, 200);
    }
    for (stream, status) in stalled.iter_mut().zip(["200", "200", "200", "401", "401", "404"]) {
        stream.write_all(b"\"a\"").await.unwrap();
        assert!(rest(stream).await.starts_with(&format!("HTTP/1.1 {status}")));
    }
    until(&base, "madang_http_bodies 0").await;
}

#[tokio::test]
async fn streams_of_one_connection_whose_bodies_do_not_come_hold_up_nobody() {
    let config = Config { requests_max: 2, ..Config::default() };
    let (address, base) = start(config).await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    base.tasks.spawn("client", async move { drop(connection.await) });
    let mut answers = Vec::new();
    for number in 1..=50 {
        sender.ready().await.unwrap();
        let never = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>();
        let request = hyper::Request::post(format!("http://{address}/echo"))
            .header("content-type", "application/json")
            .body(http_body_util::StreamBody::new(never))
            .unwrap();
        answers.push(sender.send_request(request));
        // Each has a place until it is seen that its body is not there.
        until(&base, &format!("madang_http_bodies {number}")).await;
    }
    assert_eq!(ask(address, "").await, 200);
}

#[tokio::test]
async fn bodies_that_are_awaited_have_a_limit() {
    let (address, base) = start(Config { bodies_max: 1, ..Config::default() }).await;
    let mut first = begin(address, "/echo", "").await;
    until(&base, "madang_http_bodies 1").await;
    let mut second = begin(address, "/echo", "").await;
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 503"));
    first.write_all(b"\"a\"").await.unwrap();
    assert!(rest(&mut first).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_peer_has_its_share_of_requests() {
    let config = Config {
        requests_per_peer_max: 2,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Config::default()
    };
    let (address, base) = start(config).await;
    let mut held = Vec::new();
    for from in ["2001:db8::1", "2001:db8::2"] {
        held.push(begin(address, "/echo", &format!("x-forwarded-for: {from}\r\n")).await);
    }
    until(&base, "madang_http_bodies 2").await;
    assert_eq!(ask(address, "x-forwarded-for: 2001:db8::3\r\n").await, 429);
    assert_eq!(ask(address, "x-forwarded-for: 2001:db8:0:1::3\r\n").await, 200);
    assert_eq!(ask(address, "").await, 200, "what asks for many has no share");
    held[0].write_all(b"\"a\"").await.unwrap();
    assert!(rest(&mut held[0]).await.starts_with("HTTP/1.1 200"));
    assert_eq!(ask(address, "x-forwarded-for: 2001:db8::3\r\n").await, 200);
}

#[tokio::test]
async fn one_peer_has_its_share_of_event_streams() {
    let config =
        Config { streams_per_peer_max: 1, peers_without_limit: Vec::new(), ..Config::default() };
    let (address, base) = start(config).await;
    let follow = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /ticks HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut buffer = [0; 4_096];
        let read = stream.read(&mut buffer).await.unwrap();
        let answer = String::from_utf8_lossy(&buffer[..read]).into_owned();
        (stream, answer)
    };
    let (first, answer) = follow().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(follow().await.1.starts_with("HTTP/1.1 429"));
    drop(first);
    until(&base, "madang_http_streams 0").await;
    assert!(follow().await.1.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_peer_has_its_share_of_connections() {
    let config = Config { connections_per_peer_max: 2, ..Config::default() };
    let (address, _base) = start(config.clone()).await;
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(begin(address, "/echo", "").await);
    }
    assert_eq!(ask(address, "").await, 200, "this machine has no share");
    let (address, base) = start(Config { peers_without_limit: Vec::new(), ..config }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(begin(address, "/echo", "").await);
    }
    until(&base, "madang_http_bodies 2").await;
    assert_eq!(ask(address, "").await, 0);
    assert!(base.metrics.text().contains("madang_connections_refused_total{door=\"http\"} 1"));
    held[0].write_all(b"\"a\"").await.unwrap();
    assert!(rest(&mut held[0]).await.starts_with("HTTP/1.1 200"));
    let asked = async { while ask(address, "").await != 200 {} };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("there is room again");
}

/// A request for a WebSocket, the example of RFC 6455 (section 1.3).
fn upgrade(change: impl Fn(&mut String)) -> String {
    let mut request = "GET /parrot HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        .to_owned();
    change(&mut request);
    request + "\r\n"
}

#[tokio::test]
async fn a_connection_is_handed_over_with_what_was_read_behind_the_request() {
    let config = Config { header_read_time_max: Duration::from_millis(100), ..Config::default() };
    let (address, base) = start(config).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let offered = "sec-websocket-protocol: older, old\r\nsec-websocket-protocol: new\r\n";
    let request = upgrade(|request| request.push_str(offered)) + "early ";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.ends_with("early ") {
        let mut buffer = [0; 1_024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let answer = text.to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nsec-websocket-protocol: new\r\n"), "{answer}");
    // Longer than a connection may wait without a request: it is no connection of requests any more.
    base.clock.sleep(Duration::from_millis(300)).await;
    stream.write_all(b"late").await.unwrap();
    let mut late = [0; 4];
    stream.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"late");
}

#[tokio::test]
async fn what_is_no_request_for_a_websocket_is_told_so() {
    let (address, _base) = start(Config::default()).await;
    let plain = "GET /parrot HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    let replaced = |from: &'static str, to: &'static str| {
        upgrade(|request| *request = request.replace(from, to))
    };
    for (request, status) in [
        (plain, 426),
        (replaced("upgrade: websocket", "upgrade: h2c"), 426),
        (replaced("sec-websocket-version: 13", "sec-websocket-version: 8"), 426),
        (replaced("keep-alive, Upgrade", "keep-alive"), 426),
        (replaced("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        (upgrade(|request| request.push_str("sec-websocket-protocol: other\r\n")), 400),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = [0; 1_024];
        let read = stream.read(&mut buffer).await.unwrap();
        let answer = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
    }
}
