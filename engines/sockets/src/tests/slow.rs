//! Those who take nothing.

use std::time::Duration;

use base::OrganisationId;

use super::client::Client;
use super::house::House;

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_disconnected_and_the_others_go_on() {
    let house = House::with(|config| {
        config.outgoing_bytes_max = 256 << 10;
        config.close_time_max = Duration::from_millis(500);
    })
    .await;
    let mut slow = house.client("joon").await;
    slow.subscribe("1", "/topic/a").await;
    let mut quick = house.client("bora").await;
    quick.subscribe("1", "/topic/a").await;
    let mut sender = house.client("mina").await;
    let body = "x".repeat(64 << 10);
    // More than the kernel keeps for a peer, and more than may wait.
    let is_closed = || house.metric("madang_sockets_closed_total{reason=\"slow\"}") == 1;
    let mut sent = 0;
    while !is_closed() {
        sender.publish("/topic/a", &body).await;
        assert_eq!(quick.message().await.len(), body.len());
        sent += 1;
        assert!(sent < 1_000, "it is never too much");
    }
    house.until("it is gone", || house.sockets.connections() == 2).await;
    quick.hears_nothing().await;
    // What was sent to it is whole as far as it goes.
    let mut heard = 0;
    while let Some(message) = slow.next().await {
        if message.command == "ERROR" {
            assert_eq!(message.text(), "too slow: more than 262144 bytes wait to be taken");
        }
        heard += 1;
    }
    assert!(heard < sent);
}

#[tokio::test]
async fn when_too_much_waits_for_all_the_one_with_the_most_goes() {
    let house = House::with(|config| {
        config.outgoing_bytes_max = 1 << 20;
        config.waiting_bytes_max = 1 << 20;
        config.close_time_max = Duration::from_secs(10);
    })
    .await;
    let mut slowest = house.client("joon").await;
    slowest.subscribe("1", "/topic/a").await;
    let mut slow = house.client("bora").await;
    slow.subscribe("1", "/topic/b").await;
    let mut sender = house.client("mina").await;
    let body = "x".repeat(64 << 10);
    let waits = |name: &str| {
        let all = house.sockets.connections_of(OrganisationId::DEFAULT, 0, 10);
        all.into_iter().find(|it| it.name == name).map_or(0, |it| it.waiting_bytes)
    };
    let crowded = || house.metric("madang_sockets_closed_total{reason=\"crowded\"}");
    // More than the kernel keeps for a peer.
    while waits("joon") < 512 << 10 {
        sender.publish("/topic/a", &body).await;
    }
    assert_eq!(crowded(), 0);
    while crowded() == 0 {
        assert!(waits("bora") < 512 << 10, "somebody goes before");
        sender.publish("/topic/b", &body).await;
    }
    let last = loop {
        let heard = slowest.next().await.expect("it is told why");
        if heard.command == "ERROR" {
            break heard;
        }
    };
    let begins = "too slow: more than 1048576 bytes wait for all, and the most, ";
    assert!(last.text().starts_with(begins), "{}", last.text());
    house.until("it is gone", || house.sockets.connections() == 2).await;
    // The other one has missed nothing.
    sender.publish("/topic/b", "end").await;
    while slow.message().await != "end" {}
    assert_eq!(crowded(), 1);
    drop((slow, slowest, sender));
    house.until("all are gone", || house.sockets.connections() == 0).await;
    house.until("nothing is counted", || house.sockets.0.pool.bytes() == 0).await;
}

#[tokio::test]
async fn what_a_connection_sends_by_halves_counts_too() {
    let house = House::with(|config| {
        config.outgoing_bytes_max = 256 << 10;
        config.waiting_bytes_max = 256 << 10;
    })
    .await;
    let mut most = house.client("joon").await;
    let mut less = house.client("bora").await;
    let half = |length: usize| format!("SEND\ndestination:/topic/a\n\n{}", "x".repeat(length));
    most.send(&half(150 << 10)).await;
    house.until("it is there", || house.sockets.0.pool.bytes() >= 150 << 10).await;
    less.send(&half(120 << 10)).await;
    assert!(most.error().await.text().starts_with("too slow"));
    less.send("\0").await;
    less.hears_nothing().await;
}

#[tokio::test]
async fn a_resume_goes_as_fast_as_it_is_taken() {
    let house = House::with(|config| {
        config.outgoing_bytes_max = 256 << 10;
        config.resume_bytes_max = 64 << 10;
    })
    .await;
    let mut sender = house.client("mina").await;
    let body = "x".repeat(10_000);
    for _ in 0..300 {
        sender.send(&format!("SEND\ndestination:/topic/a\n\n{body}\0")).await;
    }
    sender.publish("/topic/a", "end").await;
    let mut client = house.client("joon").await;
    client.send("SUBSCRIBE\nid:1\ndestination:/topic/a\nfrom:earliest\n\n\0").await;
    for _ in 0..300 {
        assert_eq!(client.message().await.len(), 10_000);
    }
    assert_eq!(client.message().await, "end");
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_word_is_let_go() {
    let house = House::with(|config| {
        config.write_time_max = Duration::from_millis(200);
        config.prefetch = 1_000;
        config.prefetch_bytes_max = 256 << 20;
    })
    .await;
    let mut stuck = house.client("joon").await;
    // A queue gives no more than the prefetch, however slow it is: only the time ends it.
    stuck.done("SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client").await;
    let mut sender = house.client("mina").await;
    let body = "x".repeat(200 << 10);
    for _ in 0..100 {
        sender.publish("/queue/a", &body).await;
    }
    house.until("it is let go", || house.sockets.connections() == 1).await;
    let mut other: Client = house.client("bora").await;
    other.done("SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client").await;
    for _ in 0..100 {
        assert_eq!(other.message().await.len(), body.len());
    }
}
