//! Who is let in, what they may, and how they are sent away.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::client::{BOTH, Client, Heard, Version};
use super::house::House;

#[tokio::test]
async fn only_a_key_with_its_secret_is_let_in() {
    let house = House::new().await;
    for (version, nobody, wrong) in [(Version::V3, 5, 4), (Version::V5, 0x87, 0x86)] {
        let dial = || Client::dial(house.address, version);
        let without = dial().change(|connect| {
            connect.username = None;
            connect.password = None;
        });
        assert_eq!(without.refused().await, nobody);
        let guessed = dial().change(|connect| connect.password = Some("guess".into()));
        assert_eq!(guessed.refused().await, wrong);
        let unknown = dial().key("stranger");
        assert_eq!(unknown.refused().await, wrong);
        let binary = dial().change(|connect| connect.password = Some(vec![0xFF].into()));
        assert_eq!(binary.refused().await, wrong);
        let (client, present) = dial().enter().await;
        assert!(!present);
        client.leave().await;
    }
    house.until("all connections are closed", || house.mqtt.connections() == 0).await;
}

#[tokio::test]
async fn other_protocols_and_versions_are_refused_in_their_own_words() {
    let house = House::new().await;
    let cases: [(&[u8], &[u8]); 6] = [
        (b"\x10\x0F\x00\x06MQIsdp\x03\x02\x00\x3C\x00\x01a", b"\x20\x02\x00\x01"),
        (b"\x10\x0D\x00\x04MQTT\x03\x02\x00\x3C\x00\x01a", b"\x20\x02\x00\x01"),
        (b"\x10\x0E\x00\x04MQTT\x06\x02\x00\x3C\x00\x00\x01a", b"\x20\x03\x00\x84\x00"),
        (b"\x10\x0D\x00\x04MQTZ\x04\x02\x00\x3C\x00\x01a", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (b"\xC0\x00", b""),
    ];
    for (said, heard) in cases {
        let mut stream = tokio::net::TcpStream::connect(house.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
        assert_eq!(answer, heard, "{said:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_name_gets_one_or_keeps_nothing() {
    let house = House::new().await;
    let nameless = |version| Client::dial(house.address, version).name("");
    let (client, _) = nameless(Version::V5).enter().await;
    let assigned = client.welcome.unwrap().assigned_client_id.unwrap();
    assert!(assigned.starts_with("madang-"), "{assigned}");
    nameless(Version::V3).enter().await;
    // The codec cannot write this one.
    let mut client = Client::raw(house.address, Version::V3).await;
    let connect = b"\x10\x1F\x00\x04MQTT\x04\xC0\x00\x3C\x00\x00\x00\x04roof\x00\x0Broof-secret";
    client.send_bytes(connect).await;
    assert_eq!(client.hear().await, Heard::Welcome { present: false, code: 2 });
    assert_eq!(client.hear().await, Heard::Closed);
    let long = "x".repeat(300);
    assert_eq!(Client::dial(house.address, Version::V3).name(&long).refused().await, 2);
    assert_eq!(Client::dial(house.address, Version::V5).name(&long).refused().await, 0x85);
}

#[tokio::test]
async fn what_is_not_supported_is_said_at_the_door() {
    let house = House::with(|config| config.keep_alive_seconds_max = 30).await;
    let dial = || Client::dial(house.address, Version::V5);
    let enhanced = dial().change(|connect| connect.auth_method = Some("SCRAM-SHA-1".into()));
    assert_eq!(enhanced.refused().await, 0x8C);
    assert_eq!(dial().will("a/#", "x", 0).refused().await, 0x90);
    let forever = dial().change(|connect| connect.session_expiry_interval_secs = u32::MAX);
    let (client, _) = forever.enter().await;
    let welcome = client.welcome.unwrap();
    assert!(!welcome.shared_subscription_available);
    assert_eq!(welcome.receive_max.get(), 128);
    assert_eq!(welcome.max_packet_size, Some(256 << 10));
    assert_eq!(welcome.topic_alias_max, 16);
    assert_eq!(welcome.session_expiry_interval_secs, Some(7 * 24 * 3_600));
    assert_eq!(welcome.server_keepalive_sec, Some(30));
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_so() {
    let house = House::with(|config| config.connections_max = 1).await;
    let first = house.client(Version::V3, "first").await;
    assert_eq!(Client::dial(house.address, Version::V3).name("second").refused().await, 3);
    assert_eq!(Client::dial(house.address, Version::V5).name("second").refused().await, 0x97);
    first.leave().await;
    house.until("the place is free", || house.mqtt.connections() == 0).await;
    house.client(Version::V3, "second").await;
}

#[tokio::test]
async fn a_large_packet_before_the_log_in_closes_the_connection() {
    let house = House::with(|config| config.packet_bytes_before_auth_max = 256).await;
    for version in BOTH {
        let mut client = Client::raw(house.address, version).await;
        client.send_bytes(b"\x10\x80\x80\x08\x00\x04MQTT").await;
        assert_eq!(client.hear().await, Heard::Closed);
    }
    // After it the larger limit holds.
    let mut client = house.client(Version::V5, "c").await;
    client.store("a", &"x".repeat(10_000)).await;
    client.publish("a", &"x".repeat(300_000), 1).await;
    assert_eq!(client.hear().await, Heard::Disconnect(0x95));
}

#[tokio::test]
async fn a_client_that_does_not_log_in_is_closed() {
    let house = House::with(|config| config.connect_time_max = Duration::from_millis(50)).await;
    let mut silent = Client::raw(house.address, Version::V3).await;
    assert_eq!(silent.hear().await, Heard::Closed);
    let mut halfway = Client::raw(house.address, Version::V3).await;
    halfway.send_bytes(b"\x10\x20\x00\x04MQ").await;
    assert_eq!(halfway.hear().await, Heard::Closed);
}

#[tokio::test]
async fn an_organisation_sees_nothing_of_another() {
    let house = House::new().await;
    let mut ours = house.client(Version::V5, "same-name").await;
    ours.retain("a/kept", "ours").await;
    let dial = Client::dial(house.address, Version::V5).key("foreign").name("same-name");
    let (mut theirs, present) = dial.enter().await;
    assert!(!present, "client identifiers are apart");
    assert_eq!(theirs.subscribe("#", 1).await, 1);
    assert_eq!(ours.subscribe("#", 1).await, 1);
    assert_eq!(ours.text().await, "a/kept ours 1 retained");
    ours.store("a/b", "secret").await;
    assert_eq!(ours.text().await, "a/b secret 1");
    theirs.retain("a/kept", "theirs").await;
    assert_eq!(theirs.text().await, "a/kept theirs 1", "the first and only thing that they hear");
    theirs.hears_nothing().await;
    ours.hears_nothing().await;
}

#[tokio::test]
async fn a_revoked_key_is_disconnected() {
    let house = House::new().await;
    let dial = |key, name| Client::dial(house.address, Version::V5).key(key).name(name);
    let (mut roof, _) = dial("roof", "roof").will("wills", "roof is gone", 0).enter().await;
    let (mut cellar, _) = dial("cellar", "cellar").enter().await;
    let (attic, _) = dial("attic", "attic").kept().enter().await;
    attic.leave().await;
    cellar.subscribe("wills", 1).await;
    house.doorman.revoke("attic");
    house
        .until("a kept session of a revoked key ends", || house.metric("madang_mqtt_sessions") == 2)
        .await;
    house.doorman.revoke("roof");
    assert_eq!(roof.hear().await, Heard::Disconnect(0x87));
    assert_eq!(roof.hear().await, Heard::Closed);
    assert_eq!(dial("roof", "roof").refused().await, 0x86);
    cellar.hears_nothing().await;
}

#[tokio::test]
async fn a_subscription_that_is_not_granted_any_more_ends_the_connection() {
    let house = House::new().await;
    let (mut client, _) = Client::dial(house.address, Version::V5).kept().enter().await;
    client.subscribe("a/#", 1).await;
    client.subscribe("b/#", 1).await;
    house.doorman.forbid("mqtt/b");
    assert_eq!(client.hear().await, Heard::Disconnect(0x87));
    let (mut client, present) = Client::dial(house.address, Version::V5).kept().enter().await;
    assert!(present);
    assert_eq!(client.subscribe("b/#", 1).await, 0x87);
    assert_eq!(client.unsubscribe("a/#").await, [0]);
    assert_eq!(client.unsubscribe("b/#").await, [0x11], "it is gone already");
}

#[tokio::test]
async fn grants_decide_on_topics_and_filters() {
    let house = House::new().await;
    let mut modern = house.client(Version::V5, "modern").await;
    let mut old = house.client(Version::V3, "old").await;
    for (filter, code) in
        [("forbidden/#", 0x87), ("$share/group/a", 0x9E), ("a/#/b", 0x8F), ("a", 1)]
    {
        assert_eq!(modern.subscribe(filter, 2).await, code, "{filter}");
        assert_eq!(old.subscribe(filter, 2).await, if code == 1 { 1 } else { 0x80 }, "{filter}");
    }
    for qos in [1, 2] {
        for (topic, code) in [("forbidden/a", 0x87), ("$SYS/a", 0x90)] {
            let id = modern.publish(topic, "x", qos).await;
            let answer = if qos == 1 { Heard::Ack(id, code) } else { Heard::Received(id, code) };
            assert_eq!(modern.hear().await, answer);
            let id = old.publish(topic, "x", qos).await;
            let answer = if qos == 1 { Heard::Ack(id, 0) } else { Heard::Received(id, 0) };
            assert_eq!(old.hear().await, answer, "3.1.1 has no word for it");
        }
    }
    modern.publish("a/+", "x", 1).await;
    assert_eq!(modern.hear().await, Heard::Disconnect(0x90));
    assert!(house.desk.seen().is_empty(), "what is not allowed is not taken over either");
}

#[tokio::test]
async fn a_stopping_server_says_so_and_sends_no_wills() {
    let house = House::new().await;
    let dial = Client::dial(house.address, Version::V5).will("wills", "gone", 0);
    let (mut modern, _) = dial.kept().enter().await;
    let mut old = house.client(Version::V3, "old").await;
    old.subscribe("wills", 1).await;
    assert!(house.base.tasks.stop(Duration::from_secs(20)).await);
    assert_eq!(modern.hear().await, Heard::Disconnect(0x8B));
    assert_eq!(modern.hear().await, Heard::Closed);
    assert_eq!(old.hear().await, Heard::Closed);
    assert!(house.served.await.unwrap().unwrap().is_ok());
}
