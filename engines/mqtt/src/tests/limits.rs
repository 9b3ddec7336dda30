//! What happens at the limits.

use std::time::Duration;

use super::client::{BOTH, Client, Heard, Version};
use super::house::House;

#[tokio::test]
async fn a_full_kept_queue_refuses_the_publisher() {
    let house = House::with(|config| config.queue_messages_max = 3).await;
    let dial = || Client::dial(house.address, Version::V5).name("kept").kept();
    let (mut subscriber, _) = dial().enter().await;
    subscriber.subscribe("#", 1).await;
    subscriber.leave().await;
    let mut modern = house.client(Version::V5, "modern").await;
    for payload in ["1", "2", "3"] {
        modern.store("a", payload).await;
    }
    let id = modern.publish("a", "4", 1).await;
    assert_eq!(modern.hear().await, Heard::Ack(id, 0x97));
    let mut old = house.client(Version::V3, "old").await;
    old.publish("a", "5", 1).await;
    assert_eq!(old.hear().await, Heard::Closed, "3.1.1 has no word for it but the end");
    modern.publish("a", "6", 0).await;
    let (mut subscriber, present) = dial().enter().await;
    assert!(present);
    for payload in ["1", "2", "3"] {
        assert_eq!(subscriber.text().await, format!("a {payload} 1"));
    }
    modern.store("a", "7").await;
    assert_eq!(subscriber.text().await, "a 7 1");
    subscriber.leave().await;
    // A stored reading is never refused because of a subscriber, which is told instead.
    for payload in ["1", "2", "3", "4"] {
        modern.store("data/a", payload).await;
    }
    let (_, present) = dial().enter().await;
    assert!(!present);
    assert_eq!(house.metric("madang_mqtt_dropped_total{reason=\"slow_subscriber\"}"), 1);
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
    let house = House::with(|config| config.queue_messages_max = 4).await;
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
    for id in 1..=10 {
        house.desk.open("later");
        assert_eq!(old.hear().await, Heard::Ack(id, 0));
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
