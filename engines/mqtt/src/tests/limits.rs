//! What happens at the limits.

use std::time::Duration;

use base::OrganisationId;

use super::client::{BOTH, Client, Dial, Heard, Version};
use super::house::House;

const MISSED: &str = "madang_mqtt_dropped_total{reason=\"queue_full\"}";

#[tokio::test]
async fn a_kept_session_that_is_full_misses_messages_and_holds_up_nobody() {
    let house = House::with(|config| {
        config.queue_messages_max = 4;
        config.queue_wait_max = Duration::from_hours(1);
    })
    .await;
    let dial = || Client::dial(house.address, Version::V5).name("kept").kept();
    let (mut subscriber, _) = dial().enter().await;
    subscriber.subscribe("#", 1).await;
    subscriber.leave().await;
    let mut modern = house.client(Version::V5, "modern").await;
    let mut old = house.client(Version::V3, "old").await;
    for payload in ["1", "2", "3", "4", "5"] {
        modern.store("a", payload).await;
    }
    old.store("a", "6").await;
    modern.store("data/a", "7").await;
    assert_eq!(house.metric(MISSED), 3);
    let session = || {
        let sessions = house.mqtt.sessions(OrganisationId::DEFAULT, None, 10);
        sessions.into_iter().find(|it| it.client == "kept").unwrap()
    };
    let shown = session();
    assert_eq!((shown.is_connected, shown.is_kept), (false, true));
    assert_eq!((shown.waiting, shown.missed, shown.subscriptions), (4, 3, 1));
    let (mut subscriber, present) = dial().enter().await;
    assert!(present, "it is not ended for it");
    for payload in ["1", "2", "3", "4"] {
        assert_eq!(subscriber.text().await, format!("a {payload} 1"));
    }
    house.until("they are acknowledged", || session().waiting == 0).await;
    modern.store("a", "8").await;
    assert_eq!(subscriber.text().await, "a 8 1");
    assert_eq!((house.metric(MISSED), session().missed), (3, 3));
}

#[tokio::test]
async fn a_publisher_waits_once_for_kept_sessions_that_take_nothing() {
    let house = House::simulated(|config| {
        config.queue_messages_max = 4;
        config.queue_wait_max = Duration::from_secs(5);
    })
    .await;
    let (mut publisher, mut stuck) = stuck(&house, Dial::kept).await;
    let id = publisher.publish("a", "waits", 1).await;
    publisher.hears_nothing().await;
    house.base.clock.advance(Duration::from_secs(6));
    assert_eq!(publisher.hear().await, Heard::Ack(id, 0));
    assert_eq!(house.metric(MISSED), 2);
    // Nobody waits for the same ones again.
    for _ in 0..20 {
        publisher.store("a", "x").await;
    }
    assert_eq!(house.metric(MISSED), 42);
    for client in &mut stuck {
        for _ in 0..4 {
            assert_eq!(client.text().await, "a x 1");
        }
        client.hears_nothing().await;
    }
    publisher.store("a", "y").await;
    for client in &mut stuck {
        assert_eq!(client.text().await, "a y 1");
    }
    assert_eq!(house.metric(MISSED), 42);
}

#[tokio::test]
async fn two_subscribers_that_take_nothing_cost_their_publisher_one_wait() {
    let house = House::simulated(|config| config.queue_messages_max = 4).await;
    let (mut publisher, mut stuck) = stuck(&house, |dial| dial).await;
    let id = publisher.publish("a", "waits", 1).await;
    publisher.hears_nothing().await;
    house.base.clock.advance(Duration::from_secs(2));
    assert_eq!(publisher.hear().await, Heard::Ack(id, 0));
    for client in &mut stuck {
        client.look().await;
        assert_eq!(client.hear().await, Heard::Disconnect(0x97));
    }
}

/// A publisher, and two subscribers that acknowledge nothing and whose queues are full.
async fn stuck(house: &House, change: impl Fn(Dial) -> Dial) -> (Client, Vec<Client>) {
    let mut stuck = Vec::new();
    for name in ["one", "two"] {
        let dial = change(Client::dial(house.address, Version::V5).name(name));
        let (mut client, _) =
            dial.change(|it| *it = std::mem::take(it).receive_max(1)).enter().await;
        client.subscribe("a", 1).await;
        stuck.push(client);
    }
    let mut publisher = house.client(Version::V5, "publisher").await;
    for _ in 0..4 {
        publisher.store("a", "x").await;
    }
    (publisher, stuck)
}

#[tokio::test]
async fn connections_of_one_peer_that_do_not_log_in_leave_room_for_others() {
    let house = House::with(|config| {
        config.connecting_per_peer_max = 2;
        config.peers_without_limit = Vec::new();
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(Client::raw(house.address, Version::V5).await);
    }
    house.until("they are there", || house.mqtt.connections() == 2).await;
    let mut third = Client::raw(house.address, Version::V5).await;
    assert_eq!(third.hear().await, Heard::Closed);
    assert_eq!(house.metric("madang_connections_refused_total{door=\"mqtt\"}"), 1);
    drop(silent);
    house.until("they are gone", || house.mqtt.connections() == 0).await;
    // Whoever is let in does not count.
    let mut let_in = Vec::new();
    for number in 0..5 {
        let_in.push(house.client(Version::V5, &format!("c{number}")).await);
    }
    assert_eq!(house.mqtt.connections(), 5);
}

#[tokio::test]
async fn a_slow_subscriber_loses_qos_0_and_then_its_connection() {
    let house = House::with(|config| {
        config.queue_messages_max = 50;
        config.write_bytes_max = 1_000;
        config.queue_wait_max = Duration::from_millis(100);
    })
    .await;
    let dial = Client::dial(house.address, Version::V5).name("slow");
    let (mut slow, _) = dial.change(|it| *it = std::mem::take(it).receive_max(5)).enter().await;
    slow.subscribe("a", 1).await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    for _ in 0..50 {
        publisher.store("a", "x").await;
    }
    publisher.publish("a", "zero", 0).await;
    publisher.hears_nothing().await;
    assert_eq!(house.metric("madang_mqtt_dropped_total{reason=\"queue_full\"}"), 1);
    // Nothing is taken in the time that a publisher waits, so the subscriber goes and the publisher goes on.
    publisher.store("a", "x").await;
    for _ in 0..5 {
        slow.look().await;
    }
    assert_eq!(slow.hear().await, Heard::Disconnect(0x97));
}

#[tokio::test]
async fn a_publisher_waits_for_a_subscriber_that_takes_its_messages() {
    let house = House::with(|config| {
        config.queue_messages_max = 4;
        config.queue_wait_max = Duration::from_secs(30);
    })
    .await;
    let mut subscriber = house.client(Version::V5, "subscriber").await;
    subscriber.subscribe("a", 1).await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    let publish = async {
        for number in 0..500 {
            publisher.publish("a", &number.to_string(), 1).await;
            assert!(matches!(publisher.hear().await, Heard::Ack(_, 0)));
        }
    };
    let take = async {
        for number in 0..500 {
            assert_eq!(subscriber.text().await, format!("a {number} 1"));
        }
    };
    futures::join!(publish, take);
}

#[tokio::test]
async fn a_client_that_exceeds_the_receive_maximum_is_disconnected() {
    let house = House::with(|config| config.inflight_max = 2).await;
    let mut modern = house.client(Version::V5, "modern").await;
    for _ in 0..3 {
        modern.publish("gate/closed", "x", 1).await;
    }
    assert_eq!(modern.hear().await, Heard::Disconnect(0x93));
    let mut modern = house.client(Version::V5, "qos-2").await;
    for _ in 0..2 {
        let id = modern.publish("a", "x", 2).await;
        assert_eq!(modern.hear().await, Heard::Received(id, 0));
    }
    modern.publish("a", "x", 2).await;
    assert_eq!(modern.hear().await, Heard::Disconnect(0x93));
    // Version 3 knows no such limit; its socket waits.
    let mut old = house.client(Version::V3, "old").await;
    for _ in 0..10 {
        old.publish("gate/later", "x", 1).await;
    }
    // Two that came together are answered together.
    for id in (1..=10).step_by(2) {
        house.desk.open("later");
        house.desk.open("later");
        assert_eq!(old.hear().await, Heard::Ack(id, 0));
        assert_eq!(old.hear().await, Heard::Ack(id + 1, 0));
    }
}

#[tokio::test]
async fn retained_messages_have_a_limit() {
    let house = House::with(|config| config.retained_max = 2).await;
    let mut modern = house.client(Version::V5, "modern").await;
    modern.retain("a", "1").await;
    modern.retain("b", "1").await;
    modern.retain("b", "2").await;
    let retain = |publish: &mut rmqtt_codec::types::Publish| publish.retain = true;
    let id = modern.publish_with("c", "1", 1, retain).await;
    assert_eq!(modern.hear().await, Heard::Ack(id, 0x97));
    modern.retain("data/c", "stored elsewhere").await;
    modern.publish_with("c", "1", 0, retain).await;
    modern.hears_nothing().await;
    assert_eq!(house.metric("madang_mqtt_dropped_total{reason=\"retained_full\"}"), 2);
    assert_eq!(house.metric("madang_mqtt_retained"), 2);
    modern.retain("a", "").await;
    modern.retain("c", "1").await;
}

#[tokio::test]
async fn sessions_and_subscriptions_have_a_limit() {
    let house = House::with(|config| {
        config.subscriptions_max = 2;
        config.sessions_max = 2;
        config.topic_levels_max = 3;
    })
    .await;
    let mut first = house.client(Version::V5, "first").await;
    assert_eq!(first.subscribe("a/b/c/d", 0).await, 0x8F);
    assert_eq!(first.subscribe("a", 0).await, 0);
    assert_eq!(first.subscribe("b", 0).await, 0);
    assert_eq!(first.subscribe("c", 0).await, 0x97);
    assert_eq!(first.subscribe("b", 1).await, 1);
    let _second = house.client(Version::V5, "second").await;
    assert_eq!(Client::dial(house.address, Version::V5).name("third").refused().await, 0x97);
    assert_eq!(Client::dial(house.address, Version::V3).name("third").refused().await, 3);
    let foreign = Client::dial(house.address, Version::V5).key("foreign").name("third");
    foreign.enter().await;
}

#[tokio::test]
async fn more_retained_messages_than_a_queue_holds_arrive() {
    let house = House::with(|config| {
        config.queue_messages_max = 10;
        config.write_bytes_max = 2_000;
    })
    .await;
    for version in BOTH {
        let mut publisher = house.client(version, "publisher").await;
        for number in 0..200 {
            publisher.retain(&format!("r/{number}"), "x").await;
        }
        let mut subscriber = house.client(version, "subscriber").await;
        subscriber.subscribe("r/#", 1).await;
        for _ in 0..200 {
            assert!(subscriber.text().await.ends_with("x 1 retained"));
        }
        subscriber.hears_nothing().await;
        subscriber.leave().await;
    }
}

#[tokio::test]
async fn hostile_bytes_end_only_their_own_connection() {
    let house = House::new().await;
    let mut bystander = house.client(Version::V5, "bystander").await;
    let chance = base::Entropy::seeded(11);
    for round in 0..100 {
        let version = BOTH[round % 2];
        let mut client = house.client(version, "hostile").await;
        let mut bytes = vec![0; (chance.number() % 4_000) as usize];
        chance.fill(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            // Every packet type in turn.
            *first = u8::try_from(round % 16).unwrap() << 4 | (*first & 0x0F);
        }
        client.send_bytes(&bytes).await;
        client.hang_up().await;
        while client.hear().await != Heard::Closed {}
    }
    bystander.store("a", "x").await;
    assert_eq!(house.metric("madang_task_panics_total{task=\"mqtt-connection\"}"), 0);
}
