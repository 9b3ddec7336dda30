//! What becomes of a publish.

use std::num::{NonZeroU16, NonZeroU32};

use base::OrganisationId;
use bytes::Bytes;
use rmqtt_codec::v5::RetainHandling;

use super::client::{BOTH, Client, Heard, Version};
use super::house::House;
use crate::{Outgoing, Qos};

#[tokio::test]
async fn a_message_goes_from_every_version_to_every_version() {
    let house = House::new().await;
    for from in BOTH {
        for to in BOTH {
            let mut publisher = house.client(from, "publisher").await;
            let mut subscriber = house.client(to, "subscriber").await;
            assert_eq!(subscriber.subscribe("a/+", 2).await, 1, "QoS 2 is granted as 1");
            assert_eq!(subscriber.subscribe("z", 0).await, 0);
            publisher.publish("a/b", "zero", 0).await;
            assert_eq!(subscriber.text().await, "a/b zero 0");
            publisher.store("a/b", "one").await;
            assert_eq!(subscriber.text().await, "a/b one 1");
            publisher.store("z", "lowered").await;
            assert_eq!(subscriber.text().await, "z lowered 0");
            let id = publisher.publish("a/b", "two", 2).await;
            assert_eq!(publisher.hear().await, Heard::Received(id, 0));
            assert_eq!(subscriber.text().await, "a/b two 1");
            publisher.release(id).await;
            assert_eq!(publisher.hear().await, Heard::Complete(id, 0));
            publisher.leave().await;
            subscriber.leave().await;
        }
    }
}

#[tokio::test]
async fn a_repeated_qos_2_publish_is_delivered_once() {
    let house = House::new().await;
    for version in BOTH {
        let mut subscriber = house.client(Version::V5, "subscriber").await;
        subscriber.subscribe("a", 1).await;
        let dial = || Client::dial(house.address, version).name("publisher").kept();
        let (mut publisher, _) = dial().enter().await;
        let id = publisher.publish("a", "once", 2).await;
        assert_eq!(publisher.hear().await, Heard::Received(id, 0));
        drop(publisher);
        let (mut publisher, present) = dial().enter().await;
        assert!(present);
        let again = |publish: &mut rmqtt_codec::types::Publish| {
            publish.dup = true;
            publish.packet_id = NonZeroU16::new(id);
        };
        publisher.publish_with("a", "once", 2, again).await;
        assert_eq!(publisher.hear().await, Heard::Received(id, 0));
        publisher.release(id).await;
        assert_eq!(publisher.hear().await, Heard::Complete(id, 0));
        publisher.publish_with("a", "next", 2, again).await;
        assert_eq!(publisher.hear().await, Heard::Received(id, 0), "a released id is new again");
        assert_eq!(subscriber.text().await, "a once 1");
        assert_eq!(subscriber.text().await, "a next 1");
        publisher.release(99).await;
        publisher.release(id).await;
        let unknown = if version == Version::V5 { 0x92 } else { 0 };
        assert_eq!(publisher.hear().await, Heard::Complete(99, unknown));
        assert_eq!(publisher.hear().await, Heard::Complete(id, 0));
        publisher.leave().await;
        subscriber.leave().await;
    }
}

#[tokio::test]
async fn the_intake_decides_what_is_acknowledged_and_routed() {
    let house = House::new().await;
    let mut subscriber = house.client(Version::V5, "subscriber").await;
    subscriber.subscribe("#", 1).await;
    let mut modern = house.client(Version::V5, "modern").await;
    let mut old = house.client(Version::V3, "old").await;
    for (topic, code) in [("bad/a", 0x99), ("denied/a", 0x87), ("data/a", 0), ("chat", 0)] {
        let id = modern.publish(topic, "x", 1).await;
        assert_eq!(modern.hear().await, Heard::Ack(id, code), "{topic}");
        assert_eq!(modern.reason, if code == 0x99 { "not a reading" } else { "" });
        let id = old.publish(topic, "x", 1).await;
        assert_eq!(old.hear().await, Heard::Ack(id, 0), "{topic}");
    }
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(subscriber.text().await);
    }
    heard.sort();
    assert_eq!(heard, ["chat x 1", "chat x 1", "data/a x 1", "data/a x 1"]);
    modern.publish("down/a", "x", 0).await;
    modern.publish("down/a", "x", 1).await;
    assert_eq!(modern.hear().await, Heard::Disconnect(0x89));
    old.publish("down/a", "x", 1).await;
    assert_eq!(old.hear().await, Heard::Closed, "no PUBACK, so that it tries again");
    assert_eq!(house.metric("madang_mqtt_dropped_total{reason=\"unavailable\"}"), 1);
    let mut broken = house.client(Version::V5, "broken").await;
    broken.publish("panic/a", "x", 1).await;
    assert_eq!(broken.hear().await, Heard::Closed);
    subscriber.hears_nothing().await;
    let (_, present) = Client::dial(house.address, Version::V5).name("broken").enter().await;
    assert!(!present, "its name is free again");
}

#[tokio::test]
async fn acknowledgements_keep_the_order_of_the_publishes() {
    let house = House::new().await;
    for version in BOTH {
        let mut publisher = house.client(version, "publisher").await;
        let mut subscriber = house.client(version, "subscriber").await;
        subscriber.subscribe("gate/#", 1).await;
        let mut sent = Vec::new();
        for gate in ["one", "two", "three"] {
            sent.push(publisher.publish(&format!("gate/{gate}"), gate, 1).await);
        }
        house.desk.open("three");
        house.desk.open("two");
        publisher.hears_nothing().await;
        subscriber.hears_nothing().await;
        house.desk.open("one");
        for id in sent {
            assert_eq!(publisher.hear().await, Heard::Ack(id, 0));
        }
        for gate in ["one", "two", "three"] {
            assert_eq!(subscriber.text().await, format!("gate/{gate} {gate} 1"));
        }
        publisher.leave().await;
        subscriber.leave().await;
    }
}

#[tokio::test]
async fn a_publish_is_finished_also_when_its_client_leaves() {
    let house = House::new().await;
    let mut subscriber = house.client(Version::V5, "subscriber").await;
    subscriber.subscribe("gate/#", 1).await;
    let mut publisher = house.client(Version::V3, "publisher").await;
    for _ in 0..300 {
        publisher.publish("gate/late", "x", 0).await;
    }
    publisher.send_bytes(&[0xE0, 0]).await;
    drop(publisher);
    for _ in 0..300 {
        house.desk.open("late");
    }
    for _ in 0..300 {
        assert_eq!(subscriber.text().await, "gate/late x 0");
    }
}

#[tokio::test]
async fn the_properties_of_version_5_go_along() {
    let house = House::new().await;
    let mut subscriber = house.client(Version::V5, "subscriber").await;
    subscriber.subscribe_with("a/#", 1, Some(7), |_| {}).await;
    subscriber.subscribe_with("+/b", 0, Some(300), |_| {}).await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    publisher
        .publish_with("a/b", "{}", 1, |publish| {
            let properties = publish.properties.as_mut().unwrap();
            properties.topic_alias = NonZeroU16::new(3);
            properties.content_type = Some("application/json".into());
            properties.response_topic = Some("answers".into());
            properties.correlation_data = Some(Bytes::from_static(b"\x00\x01"));
            properties.is_utf8_payload = true;
            properties.message_expiry_interval = NonZeroU32::new(60);
            properties.user_properties = vec![("b".into(), "1".into()), ("a".into(), "2".into())];
        })
        .await;
    let delivered = subscriber.take().await;
    let properties = delivered.properties.unwrap();
    assert_eq!(delivered.qos.value(), 1, "the best of both subscriptions, once");
    let mut identifiers: Vec<u32> = properties.subscription_ids.iter().map(|id| id.get()).collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [7, 300]);
    assert_eq!(properties.topic_alias, None);
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.response_topic.as_deref(), Some("answers"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\x00\x01"[..]));
    assert!(properties.is_utf8_payload);
    assert_eq!(properties.message_expiry_interval.map(u32::from), Some(60));
    assert_eq!(properties.user_properties, [("b".into(), "1".into()), ("a".into(), "2".into())]);
    assert!(matches!(publisher.hear().await, Heard::Ack(_, 0)));
    let alias = |publish: &mut rmqtt_codec::types::Publish| {
        publish.properties.as_mut().unwrap().topic_alias = NonZeroU16::new(3);
    };
    publisher.publish_with("", "by alias", 0, alias).await;
    assert_eq!(subscriber.text().await, "a/b by alias 0");
    publisher
        .publish_with("", "x", 0, |publish| {
            publish.properties.as_mut().unwrap().topic_alias = NonZeroU16::new(17);
        })
        .await;
    assert_eq!(publisher.hear().await, Heard::Disconnect(0x94));
}

#[tokio::test]
async fn a_client_that_wants_no_echo_gets_none() {
    let house = House::new().await;
    let mut client = house.client(Version::V5, "client").await;
    client.subscribe_with("a", 1, None, |options| options.no_local = true).await;
    client.store("a", "mine").await;
    client.hears_nothing().await;
    let mut other = house.client(Version::V5, "other").await;
    other.store("a", "theirs").await;
    assert_eq!(client.text().await, "a theirs 1");
}

#[tokio::test]
async fn a_client_gets_no_packet_that_is_too_large_for_it() {
    let house = House::new().await;
    let dial = Client::dial(house.address, Version::V5).name("small");
    let small = dial.change(|connect| connect.max_packet_size = NonZeroU32::new(60));
    let (mut small, _) = small.enter().await;
    small.subscribe("a", 1).await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    publisher.store("a", &"x".repeat(100)).await;
    publisher.store("a", "fits").await;
    assert_eq!(small.text().await, "a fits 1");
    assert_eq!(house.metric("madang_mqtt_dropped_total{reason=\"too_large\"}"), 1);
    let id = small.publish("bad/a", "x", 1).await;
    assert_eq!(small.hear().await, Heard::Ack(id, 0x99));
}

#[tokio::test]
async fn the_last_retained_message_waits_for_new_subscribers() {
    let house = House::new().await;
    for version in BOTH {
        let mut publisher = house.client(version, "publisher").await;
        publisher.retain("r/a", "first").await;
        publisher.retain("r/a", "second").await;
        publisher.retain("r/b", "other").await;
        let mut early = house.client(version, "early").await;
        assert_eq!(early.subscribe("r/+", 1).await, 1);
        let mut heard = [early.text().await, early.text().await];
        heard.sort();
        assert_eq!(heard, ["r/a second 1 retained", "r/b other 1 retained"]);
        publisher.retain("r/a", "").await;
        publisher.retain("r/b", "").await;
        assert_eq!(early.text().await, "r/a  1", "a live message is not marked");
        assert_eq!(early.text().await, "r/b  1");
        let mut late = house.client(version, "late").await;
        late.subscribe("r/+", 1).await;
        late.hears_nothing().await;
        assert_eq!(house.metric("madang_mqtt_retained"), 0);
        for client in [publisher, early, late] {
            client.leave().await;
        }
    }
}

#[tokio::test]
async fn a_subscription_says_when_it_wants_retained_messages() {
    let house = House::new().await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    publisher.retain("r", "kept").await;
    let mut client = house.client(Version::V5, "client").await;
    client
        .subscribe_with("r", 1, None, |options| {
            options.retain_handling = RetainHandling::NoAtSubscribe;
        })
        .await;
    client.hears_nothing().await;
    let only_new = |options: &mut rmqtt_codec::v5::SubscriptionOptions| {
        options.retain_handling = RetainHandling::AtSubscribeNew;
        options.retain_as_published = true;
    };
    client.subscribe_with("r", 1, None, only_new).await;
    client.hears_nothing().await;
    assert_eq!(client.unsubscribe("r").await, [0]);
    client.subscribe_with("r", 1, None, only_new).await;
    assert_eq!(client.text().await, "r kept 1 retained");
    publisher.retain("r", "live").await;
    assert_eq!(client.text().await, "r live 1 retained", "as it was published");
}

#[tokio::test]
async fn the_server_itself_publishes() {
    let house = House::new().await;
    let mut client = house.client(Version::V3, "client").await;
    client.subscribe("$madang/#", 1).await;
    let outgoing = |topic: &str| Outgoing {
        topic: topic.to_owned(),
        payload: Bytes::from_static(b"hello"),
        qos: Qos::AtLeastOnce,
        retain: false,
    };
    house.mqtt.publish(OrganisationId::DEFAULT, outgoing("$madang/a")).await.unwrap();
    assert_eq!(client.text().await, "$madang/a hello 1");
    let wrong = house.mqtt.publish(OrganisationId::DEFAULT, outgoing("a/#")).await;
    assert_eq!(wrong.unwrap_err().kind(), base::ErrorKind::Invalid);
    assert_eq!(house.mqtt.connections(), 1);
    assert_eq!(house.metric("madang_mqtt_connections"), 1);
    assert_eq!(house.metric("madang_mqtt_sessions"), 1);
    assert_eq!(house.metric("madang_mqtt_messages_sent_total"), 1);
    assert!(house.base.metrics.text().contains("madang_mqtt_publish_seconds_bucket"));
}

#[tokio::test]
async fn nothing_behind_a_message_that_could_not_be_stored_is_acknowledged_or_delivered() {
    let house = House::new().await;
    for (rounds, version) in (1..).zip(BOTH) {
        let mut subscriber = house.client(version, "subscriber").await;
        subscriber.subscribe("#", 1).await;
        let mut publisher = house.client(version, "publisher").await;
        let first = publisher.publish("gate/first", "1", 1).await;
        publisher.publish("down/second", "2", 1).await;
        publisher.publish("data/third", "3", 1).await;
        let seen = |topic: &str| house.desk.seen().iter().filter(|it| &***it == topic).count();
        house.until("all three are looked at", || seen("data/third") == rounds).await;
        house.desk.open("first");
        assert_eq!(publisher.hear().await, Heard::Ack(first, 0));
        let end = publisher.hear().await;
        assert!(matches!(end, Heard::Closed | Heard::Disconnect(_)), "{end:?}");
        assert_eq!(subscriber.text().await, "gate/first 1 1");
        subscriber.hears_nothing().await;
        subscriber.leave().await;
    }
}
