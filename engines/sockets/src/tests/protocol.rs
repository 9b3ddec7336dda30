//! Frame by frame what the specification says.

use std::time::Duration;

use super::client::Client;
use super::house::House;

#[tokio::test]
async fn each_version_is_greeted_in_its_own_words() {
    let house = House::new().await;
    for version in ["1.2", "1.1", "1.0"] {
        let mut client = Client::dial(house.address).await;
        let heard = client.enter("mina", version).await;
        assert_eq!(heard.header("version"), version);
        assert_eq!(heard.header("heart-beat"), "10000,10000");
        assert!(heard.header("server").starts_with("madang/"), "{heard:?}");
        assert!(!heard.header("session").is_empty());
        client.done("SUBSCRIBE\nid:0\ndestination:/topic/a").await;
        client.done("SEND\ndestination:/topic/a\nk:v\n\nhi").await;
        let heard = client.hear().await;
        assert_eq!(heard.header("k"), "v");
        assert_eq!(heard.header("destination"), "/topic/a");
        assert_eq!(heard.header("subscription"), "0");
        assert_eq!(heard.header("content-length"), "2");
        assert_eq!(heard.text(), "hi");
    }
    let mut client = Client::dial(house.address).await;
    client.send("CONNECT\naccept-version:3.0\n\n\0").await;
    let error = client.error().await;
    assert_eq!(error.header("version"), "1.0,1.1,1.2");
    assert_eq!(error.text(), "the supported versions are 1.0, 1.1 and 1.2");
}

#[tokio::test]
async fn an_error_names_the_frame_that_it_is_about_and_closes() {
    let house = House::new().await;
    for (frame, wanted) in [
        ("SEND\nreceipt:7\n\n\0", "the header destination is missing"),
        (
            "SUBSCRIBE\nreceipt:7\nid:0\ndestination:/nowhere\n\n\0",
            "\"/nowhere\" is neither /topic/NAME, /queue/NAME nor /user/queue/NAME",
        ),
        (
            "SUBSCRIBE\nreceipt:7\nid:0\ndestination:/topic/*\n\n\0",
            "\"/topic/*\": wildcards are not supported",
        ),
        ("UNSUBSCRIBE\nreceipt:7\nid:0\n\n\0", "there is no subscription \"0\""),
        ("ACK\nreceipt:7\nid:0-0\n\n\0", "no message waits for the id \"0-0\""),
        ("COMMIT\nreceipt:7\ntransaction:t\n\n\0", "there is no transaction \"t\""),
        (
            "SEND\nreceipt:7\ndestination:/topic/sea.east\n\nx\0",
            "\"/topic/sea.east\" is written by the server",
        ),
        (
            "SUBSCRIBE\nreceipt:7\nid:0\ndestination:/user/x/queue/a\n\n\0",
            "somebody's queue is subscribed to as /user/queue/NAME",
        ),
    ] {
        let mut client = house.client("mina").await;
        client.send(frame).await;
        let error = client.error().await;
        assert_eq!(error.text(), wanted);
        assert_eq!(error.header("message").replace("\\c", ":"), wanted);
        assert_eq!(error.header("receipt-id"), "7", "{frame:?}");
    }
    for (frame, wanted) in [
        ("HELLO\n\n\0", "\"HELLO\" is not a command of a client"),
        ("SEND\nx\n\n\0", "\"x\" is not a header"),
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "\"GET / HTTP/1.1\" is not a command of a client"),
    ] {
        let mut client = house.client("mina").await;
        client.send(frame).await;
        assert_eq!(client.error().await.text(), wanted);
    }
    house.until("all connections are closed", || house.sockets.connections() == 0).await;
    assert_eq!(house.metric("madang_sockets_connections"), 0);
    assert_eq!(house.metric("madang_sockets_subscriptions"), 0);
}

#[tokio::test]
async fn receipts_come_in_the_order_of_their_frames_and_before_the_end() {
    let house = House::new().await;
    let mut client = house.client("mina").await;
    let mut frames = String::new();
    for number in 0..50 {
        let destination = if number % 3 == 0 { "/queue/q" } else { "/topic/t" };
        let frame = format!("SEND\ndestination:{destination}\nreceipt:{number}\n\nx\0\n");
        frames.push_str(&frame);
    }
    frames += "DISCONNECT\nreceipt:bye\n\n\0";
    frames += "SEND\ndestination:/topic/t\nreceipt:late\n\nx\0";
    client.send(&frames).await;
    for number in 0..50 {
        assert_eq!(client.hear().await.header("receipt-id"), number.to_string());
    }
    assert_eq!(client.hear().await.header("receipt-id"), "bye");
    assert_eq!(client.next().await, None, "nothing is done after a DISCONNECT");
}

#[tokio::test]
async fn heart_beats_go_both_ways_as_both_sides_agreed() {
    let house = House::with(|config| {
        config.heart_beat_send = Duration::from_millis(50);
        config.heart_beat_receive = Duration::from_millis(50);
    })
    .await;
    let connect = |beat: &str| {
        format!(
            "CONNECT\naccept-version:1.2\nlogin:mina\npasscode:mina-secret\nheart-beat:{beat}\n\n\0"
        )
    };
    // The client wants to hear something and promises nothing.
    let mut listener = Client::dial(house.address).await;
    listener.send(&connect("0,20")).await;
    assert_eq!(listener.hear().await.header("heart-beat"), "50,50");
    let mut beats = 0;
    while beats < 3 {
        beats += listener.beats();
        assert!(beats >= 3 || listener.read_more().await);
    }
    // The client promises and is silent.
    let mut silent = Client::dial(house.address).await;
    silent.send(&connect("20,0")).await;
    silent.hear().await;
    assert_eq!(silent.error().await.text(), "no heart-beat came in time");
    // The client promises and keeps it, well within what is agreed: the machine may be busy meanwhile.
    let mut lively = Client::dial(house.address).await;
    lively.send(&connect("600,0")).await;
    lively.hear().await;
    for _ in 0..15 {
        lively.send("\n").await;
        house.base.clock.sleep(Duration::from_millis(100)).await;
    }
    lively.hears_nothing().await;
}

#[tokio::test]
async fn a_client_that_does_not_log_in_is_told_and_closed() {
    let house = House::with(|config| config.connect_time_max = Duration::from_millis(50)).await;
    for begun in ["", "CONN", "\n\n"] {
        let mut client = Client::dial(house.address).await;
        client.send(begun).await;
        assert_eq!(client.error().await.text(), "no CONNECT came in time");
    }
    let mut client = Client::dial(house.address).await;
    client.send(&format!("CONNECT\nx:{}", "y".repeat(9_000))).await;
    assert_eq!(client.error().await.text(), "the headers are larger than 8192 bytes");
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_so() {
    let house = House::with(|config| config.connections_max = 1).await;
    let first = house.client("mina").await;
    let mut second = Client::dial(house.address).await;
    assert_eq!(second.error().await.text(), "there are too many connections");
    drop(first);
    house.until("the place is free", || house.sockets.connections() == 0).await;
    house.client("mina").await;
}

#[tokio::test]
async fn a_stopping_server_finishes_what_was_sent_and_closes() {
    let house = House::new().await;
    let mut client = house.client("mina").await;
    client.publish("/topic/a", "x").await;
    assert!(house.base.tasks.stop(Duration::from_secs(20)).await);
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_header_s_name_ends_nobody_else_s_frame() {
    let house = House::new().await;
    let mut old = Client::dial(house.address).await;
    old.enter("joon", "1.0").await;
    old.done("SUBSCRIBE\nid:0\ndestination:/topic/a").await;
    let mut sender = house.client("mina").await;
    // 1.0 writes no escapes: what was a colon of the name is none there.
    let inner = "ab\\0MESSAGE";
    for name in ["content-length\\c2", "Content-Length", "SENDER"] {
        sender.done(&format!("SEND\ndestination:/topic/a\n{name}:2\n\n{inner}")).await;
        let heard = old.hear().await;
        let lengths = heard.headers.iter().filter(|(name, _)| {
            name.trim().eq_ignore_ascii_case("content-length")
                || name.trim().eq_ignore_ascii_case("sender")
        });
        assert_eq!(lengths.count(), 2, "{heard:?}");
        assert_eq!(heard.text(), inner);
    }
    for name in ["content-length ", "\tcontent-length", "content-length\\n", "a\\r"] {
        let mut sender = house.client("mina").await;
        sender.send(&format!("SEND\ndestination:/topic/a\n{name}:2\n\nabc\0")).await;
        let error = sender.error().await;
        assert!(error.text().contains("is not a header's name"), "{name:?}: {error:?}");
    }
    let publish = house.sockets.publish(
        base::OrganisationId::DEFAULT,
        "/topic/a",
        &[("content-length ", "2")],
        "abc".into(),
    );
    assert!(publish.await.is_err());
}

#[tokio::test]
async fn a_client_that_beats_is_not_silent_while_the_server_is_busy_with_it() {
    let house = House::with(|config| {
        config.heart_beat_receive = Duration::from_millis(100);
        config.inflight_max = 1;
    })
    .await;
    let mut client = Client::dial(house.address).await;
    let connect =
        "CONNECT\naccept-version:1.2\nlogin:mina\npasscode:mina-secret\nheart-beat:100,0\n\n\0";
    client.send(connect).await;
    assert_eq!(client.hear().await.command, "CONNECTED");
    // The rows are somebody else's for a while.
    let (db, clock) = (house.db.clone(), house.base.clock.clone());
    let busy = house.base.tasks.spawn("busy", async move {
        let busy = async move |tx: &mut relational::Tx| {
            let until = clock.instant() + Duration::from_secs(1);
            while clock.instant() < until {
                tx.query("SELECT COUNT(*) AS messages FROM socket_message", &[]).await?;
            }
            Ok::<_, relational::Error>(())
        };
        db.write(busy).await
    });
    let send = "SEND\ndestination:/queue/work\nreceipt:r\n\nx\0";
    client.send(send).await;
    client.send(send).await;
    for _ in 0..30 {
        client.send("\n").await;
        house.base.clock.sleep(Duration::from_millis(30)).await;
    }
    for _ in 0..2 {
        let heard = client.hear().await;
        assert_eq!(heard.command, "RECEIPT", "{heard:?}");
    }
    busy.await.unwrap().unwrap().unwrap();
}
