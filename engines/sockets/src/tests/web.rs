//! The same in the frames of a WebSocket, as a door hands a connection over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::house::{House, doorman};
use crate::{Arrival, Guest, Still};

/// A client of a WebSocket that is open already.
struct Web {
    stream: TcpStream,
}

impl Web {
    async fn open(house: &House, guest: Option<Guest>, read: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, peer) = accepted.unwrap();
        let stream = base::Stream::accepted(stream, None).unwrap();
        let (sockets, read) = (house.sockets.clone(), Bytes::copy_from_slice(read));
        let arrival = Arrival { stream, read, peer: peer.ip(), guest, is_web: true };
        house.base.tasks.spawn("web", async move { sockets.serve(arrival).await });
        Self { stream: client.unwrap() }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
            middle => {
                bytes.push(0x80 | 0x7E);
                bytes.extend_from_slice(&u16::try_from(middle).unwrap().to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(&Self::frame(0x81, text.as_bytes())).await.unwrap();
    }

    /// The first byte and the payload of the next frame.
    async fn hear(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let length = match head[1] {
            126 => usize::from(self.stream.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.unwrap();
        (head[0], payload)
    }

    async fn text(&mut self) -> String {
        let (first, payload) = self.hear().await;
        assert_eq!(first, 0x81);
        String::from_utf8(payload).unwrap()
    }
}

fn guest(still: Option<Still>) -> Guest {
    Guest { principal: doorman().principal("mina").unwrap(), still, still_every: None }
}

#[tokio::test]
async fn frames_come_in_any_messages_and_go_out_one_each() {
    let house = House::new().await;
    let mut web = Web::open(&house, Some(guest(None)), &[]).await;
    web.say("CONNECT\naccept-ver").await;
    web.say("sion:1.2\nheart-beat:0,0\n\n\0\nSUBSCRIBE\nid:1\ndestination:/topic/a\n\n\0").await;
    assert!(web.text().await.starts_with("CONNECTED\nversion:1.2\n"));
    web.say("SEND\ndestination:/topic/a\n\nhi\0SEND\ndestination:/topic/a\ncontent-length:1\n\n")
        .await;
    // A body that is no text comes in a binary message and goes out in one.
    web.stream.write_all(&Web::frame(0x82, b"\xFF\0")).await.unwrap();
    assert!(web.text().await.ends_with("\n\nhi\0"));
    let (first, payload) = web.hear().await;
    assert_eq!(first, 0x82);
    assert!(payload.ends_with(b"\n\n\xFF\0"));
    web.stream.write_all(&Web::frame(0x89, b"ping")).await.unwrap();
    assert_eq!(web.hear().await, (0x8A, b"ping".to_vec()));
    web.stream.write_all(&Web::frame(0x88, &[0x03, 0xE8])).await.unwrap();
    assert_eq!(web.hear().await, (0x88, vec![0x03, 0xE8]));
    house.until("it is closed", || house.sockets.connections() == 0).await;
}

#[tokio::test]
async fn what_was_read_with_the_request_is_not_lost() {
    let house = House::new().await;
    let read = Web::frame(0x81, b"CONNECT\naccept-version:1.1\n\n\0");
    let mut web = Web::open(&house, Some(guest(None)), &read).await;
    assert!(web.text().await.starts_with("CONNECTED\nversion:1.1\n"));
}

#[tokio::test]
async fn who_came_with_a_session_needs_no_key_and_goes_with_it() {
    let house = House::new().await;
    let signed_in = Arc::new(AtomicBool::new(true));
    let asked = signed_in.clone();
    let still: Still = Arc::new(move || {
        let answer = asked.load(Ordering::SeqCst);
        Box::pin(async move { answer })
    });
    let gone = still.clone();
    let mut web = Web::open(&house, Some(guest(Some(still))), &[]).await;
    web.say("CONNECT\naccept-version:1.2\n\n\0").await;
    assert!(web.text().await.contains("user-name:mina\n"));
    house.doorman.forbid("something else");
    web.say("SUBSCRIBE\nid:1\ndestination:/topic/a\nreceipt:1\n\n\0").await;
    assert!(web.text().await.starts_with("RECEIPT\n"));
    signed_in.store(false, Ordering::SeqCst);
    house.doorman.forbid("another thing");
    assert!(web.text().await.starts_with("ERROR\nmessage:the key or the session is not valid"));
    assert_eq!(web.hear().await, (0x88, 1008_u16.to_be_bytes().to_vec()));
    // Signed out between the request and CONNECT.
    let mut web = Web::open(&house, Some(guest(Some(gone))), &[]).await;
    web.say("CONNECT\naccept-version:1.2\n\n\0").await;
    assert!(web.text().await.starts_with("ERROR\nmessage:no valid credentials"));
    // A key that is given counts, and not the session beside it.
    let mut web = Web::open(&house, Some(guest(None)), &[]).await;
    web.say("CONNECT\naccept-version:1.2\npasscode:madang_joon_wrong\n\n\0").await;
    assert!(web.text().await.starts_with("ERROR\nmessage:no valid credentials"));
    let mut web = Web::open(&house, None, &[]).await;
    web.say("CONNECT\naccept-version:1.2\n\n\0").await;
    assert!(web.text().await.starts_with("ERROR\nmessage:no valid credentials"));
}

#[tokio::test]
async fn a_session_that_ends_by_time_ends_its_connection() {
    let house = House::new().await;
    let signed_in = Arc::new(AtomicBool::new(true));
    let asked = signed_in.clone();
    let still: Still = Arc::new(move || {
        let answer = asked.load(Ordering::SeqCst);
        Box::pin(async move { answer })
    });
    let every = Some(std::time::Duration::from_millis(20));
    let guest = Guest { still_every: every, ..guest(Some(still)) };
    let mut web = Web::open(&house, Some(guest), &[]).await;
    web.say("CONNECT\naccept-version:1.2\n\n\0").await;
    assert!(web.text().await.starts_with("CONNECTED\n"));
    signed_in.store(false, Ordering::SeqCst);
    assert!(web.text().await.starts_with("ERROR\nmessage:the key or the session is not valid"));
}

#[tokio::test]
async fn a_frame_that_is_no_websocket_s_ends_the_connection() {
    let house = House::new().await;
    let mut web = Web::open(&house, Some(guest(None)), &[]).await;
    web.stream.write_all(&[0x81, 0x01, b'x']).await.unwrap();
    assert!(web.text().await.starts_with("ERROR\nmessage:a frame without a mask"));
    assert_eq!(web.hear().await, (0x88, 1002_u16.to_be_bytes().to_vec()));
}
