//! Sessions, queues, retained messages and wills over time.

use std::time::Duration;

use super::client::{BOTH, Client, Dial, Heard, Version};
use super::house::House;

fn kept(house: &House, version: Version) -> Dial {
    Client::dial(house.address, version).name("kept").kept()
}

#[tokio::test]
async fn a_kept_session_gets_what_it_missed_also_after_a_restart() {
    for version in BOTH {
        let mut house = House::new().await;
        let (mut subscriber, present) = kept(&house, version).enter().await;
        assert!(!present);
        subscriber.subscribe("a/#", 1).await;
        subscriber.subscribe("dropped", 1).await;
        subscriber.unsubscribe("dropped").await;
        let mut publisher = house.client(version, "publisher").await;
        publisher.store("a/seen", "0").await;
        assert_eq!(subscriber.text().await, "a/seen 0 1");
        publisher.store("a/unacknowledged", "1").await;
        let unacknowledged = subscriber.look().await;
        drop(subscriber);
        publisher.store("a/missed", "2").await;
        publisher.publish("a/zero", "3", 0).await;
        publisher.retain("b/kept", "retained").await;
        for round in 0..2 {
            let (mut subscriber, present) = kept(&house, version).enter().await;
            assert!(present);
            let again = subscriber.look().await;
            assert!(again.dup, "it may have been seen");
            assert_eq!(again.topic, "a/unacknowledged");
            if round == 0 {
                assert_eq!(again.packet_id, unacknowledged.packet_id);
            }
            let missed = subscriber.look().await;
            assert_eq!((&*missed.topic, &missed.payload[..]), ("a/missed", &b"2"[..]));
            drop(subscriber);
            house = house.restarted().await;
        }
        let (mut subscriber, present) = kept(&house, version).enter().await;
        assert!(present);
        assert!(subscriber.text().await.starts_with("a/unacknowledged 1 1"));
        assert!(subscriber.text().await.starts_with("a/missed 2 1"));
        let mut publisher = house.client(version, "publisher").await;
        publisher.store("dropped", "x").await;
        publisher.store("a/live", "4").await;
        assert_eq!(subscriber.text().await, "a/live 4 1");
        subscriber.subscribe("b/+", 1).await;
        assert_eq!(subscriber.text().await, "b/kept retained 1 retained");
        subscriber.leave().await;
        let house = house.restarted().await;
        let (mut subscriber, present) = kept(&house, version).enter().await;
        assert!(present);
        subscriber.hears_nothing().await;
        subscriber.leave().await;
        let (mut clean, present) =
            kept(&house, version).change(|connect| connect.clean_start = true).enter().await;
        assert!(!present, "a clean start forgets the session");
        let mut publisher = house.client(version, "publisher").await;
        publisher.store("a/x", "5").await;
        clean.hears_nothing().await;
    }
}

#[tokio::test]
async fn a_publish_is_acknowledged_when_its_rows_are_on_disk() {
    let house = House::new().await;
    let (mut subscriber, _) = kept(&house, Version::V5).enter().await;
    subscriber.subscribe("a", 1).await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (started, holds) = tokio::sync::oneshot::channel();
    let started = parking_lot::Mutex::new(Some(started));
    let gate = parking_lot::Mutex::new(gate);
    let db = house.db.clone();
    let writer = house.base.tasks.spawn("hold the writer", async move {
        let hold = async move |_: &mut relational::Tx| {
            started.lock().take().map(|started| started.send(()));
            gate.lock().recv_timeout(Duration::from_secs(4)).unwrap();
            Ok::<_, relational::Error>(())
        };
        db.write(hold).await
    });
    holds.await.unwrap();
    let id = publisher.publish("a", "x", 1).await;
    publisher.hears_nothing().await;
    subscriber.hears_nothing().await;
    open.send(()).unwrap();
    assert_eq!(publisher.hear().await, Heard::Ack(id, 0));
    assert_eq!(subscriber.text().await, "a x 1");
    writer.await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let house = House::new().await;
    for version in BOTH {
        let (mut first, _) = kept(&house, version).will("wills", "x", 0).enter().await;
        first.subscribe("a", 1).await;
        let (mut second, present) = kept(&house, version).enter().await;
        assert!(present);
        if version == Version::V5 {
            assert_eq!(first.hear().await, Heard::Disconnect(0x8E));
        }
        assert_eq!(first.hear().await, Heard::Closed);
        second.store("a", "mine").await;
        assert_eq!(second.text().await, "a mine 1");
        second.leave().await;
        kept(&house, version)
            .change(|connect| connect.clean_start = true)
            .enter()
            .await
            .0
            .leave()
            .await;
    }
}

#[tokio::test]
async fn many_connections_of_one_client_end_with_one() {
    let house = House::new().await;
    let dials = (0..20).map(|_| kept(&house, Version::V5).enter());
    let clients = futures::future::join_all(dials).await;
    house.until("one is left", || house.mqtt.connections() == 1).await;
    assert_eq!(house.metric("madang_mqtt_sessions"), 1);
    drop(clients);
}

#[tokio::test]
async fn another_key_gets_only_what_it_may_see() {
    let house = House::new().await;
    let (mut first, _) = kept(&house, Version::V5).key("roof").enter().await;
    first.subscribe("a/#", 1).await;
    first.subscribe("b/#", 1).await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    publisher.store("a/inflight", "1").await;
    assert_eq!(first.look().await.topic, "a/inflight");
    drop(first);
    house.until("it is gone", || house.mqtt.connections() == 1).await;
    publisher.store("a/queued", "2").await;
    publisher.store("b/queued", "3").await;
    // From now on nobody may see it; what was queued was queued for somebody who might.
    house.doorman.forbid("mqtt/a");
    let (mut second, present) = kept(&house, Version::V5).key("cellar").enter().await;
    assert!(present);
    assert_eq!(second.text().await, "b/queued 3 1");
    second.hears_nothing().await;
}

#[tokio::test]
async fn a_client_identifier_belongs_to_the_key_that_made_its_session() {
    for (version, refusal) in [(Version::V3, 2), (Version::V5, 0x85)] {
        let house = House::new().await;
        house.doorman.forbid_when(|who, action, on| {
            action.0 == "mqtt.client" && !(&*who.name == "attic" && on.path == "client/kept")
        });
        let dial = |key: &str| kept(&house, version).key(key);
        let clean = |key: &str| dial(key).change(|connect| connect.clean_start = true);
        let mut publisher = house.client(version, "publisher").await;
        publisher.subscribe("wills", 1).await;
        let (mut first, _) = dial("roof").will("wills", "gone", 0).enter().await;
        first.subscribe("a", 1).await;
        assert_eq!(dial("cellar").refused().await, refusal, "while it is there");
        assert_eq!(clean("cellar").refused().await, refusal);
        first.hears_nothing().await;
        let (mut again, present) = dial("roof").enter().await;
        assert!(present, "its own key takes it over");
        assert_eq!(publisher.text().await, "wills gone 1");
        again.hears_nothing().await;
        again.leave().await;
        publisher.store("a", "missed").await;
        assert_eq!(dial("cellar").refused().await, refusal, "while it is away");
        assert_eq!(clean("cellar").refused().await, refusal);
        let house = house.restarted().await;
        let dial = |key: &str| kept(&house, version).key(key);
        assert_eq!(dial("cellar").refused().await, refusal, "after a restart");
        // A device that was given another key goes on.
        let (mut next, present) = dial("attic").enter().await;
        assert!(present);
        assert_eq!(next.text().await, "a missed 1 again");
        assert_eq!(dial("roof").refused().await, refusal, "it is the other key's now");
        next.leave().await;
        house.doorman.revoke("attic");
        let (_, present) = dial("cellar").enter().await;
        assert!(!present, "what a key leaves behind ends with it");
    }
}

#[tokio::test]
async fn a_session_and_its_messages_expire() {
    let house = House::simulated(|_| {}).await;
    let dial = || kept(&house, Version::V5).change(|it| it.session_expiry_interval_secs = 100);
    let (mut client, _) = dial().enter().await;
    client.subscribe("a", 1).await;
    client.leave().await;
    let mut publisher = house.client(Version::V5, "publisher").await;
    let expiring = |seconds| {
        move |publish: &mut rmqtt_codec::types::Publish| {
            publish.retain = true;
            let properties = publish.properties.as_mut().unwrap();
            properties.message_expiry_interval = std::num::NonZeroU32::new(seconds);
        }
    };
    for seconds in [30, 90] {
        publisher.publish_with("a", &seconds.to_string(), 1, expiring(seconds)).await;
        assert!(matches!(publisher.hear().await, Heard::Ack(_, 0)));
    }
    house.base.clock.advance(Duration::from_secs(50));
    let (mut client, present) = dial().enter().await;
    assert!(present);
    let delivered = client.take().await;
    let left = delivered.properties.unwrap().message_expiry_interval;
    assert_eq!((&delivered.payload[..], left.map(u32::from)), (&b"90"[..], Some(40)));
    client.subscribe("a", 1).await;
    assert_eq!(client.text().await, "a 90 1 retained");
    client.leave().await;
    house.base.clock.advance(Duration::from_secs(99));
    let (mut client, present) = dial().enter().await;
    assert!(present);
    client.subscribe("a", 1).await;
    client.hears_nothing().await;
    client.leave().await;
    house.base.clock.advance(Duration::from_secs(101));
    house.until("the session ends", || house.metric("madang_mqtt_sessions") == 1).await;
    let (client, present) = dial().enter().await;
    assert!(!present);
    // A client can change its mind as it leaves.
    let mut client = client;
    client.send_bytes(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    assert_eq!(client.hear().await, Heard::Closed);
    house.until("it ends at once", || house.metric("madang_mqtt_sessions") == 1).await;
}

#[tokio::test]
async fn a_client_that_comes_and_goes_leaves_one_thing_to_look_at() {
    let house = House::new().await;
    for round in 0..10 {
        for version in BOTH {
            let anew = |clean| kept(&house, version).change(|connect| connect.clean_start = clean);
            let (client, _) = anew(version == Version::V5 && round % 2 == 0).enter().await;
            drop(client);
            house.until("it is gone", || house.mqtt.connections() == 0).await;
        }
    }
    assert_eq!(house.mqtt.0.due_count(), 1);
}

#[tokio::test]
async fn a_will_is_sent_when_its_client_is_lost() {
    let house = House::new().await;
    let mut watcher = house.client(Version::V5, "watcher").await;
    watcher.subscribe("data/#", 1).await;
    for version in BOTH {
        let dial = || Client::dial(house.address, version).will("data/wills", "lost", 0);
        let (client, _) = dial().enter().await;
        client.leave().await;
        watcher.hears_nothing().await;
        let (client, _) = dial().enter().await;
        drop(client);
        assert_eq!(watcher.text().await, "data/wills lost 1");
        let (mut client, _) = dial().enter().await;
        client.send_bytes(b"\x00\x00").await;
        assert_eq!(watcher.text().await, "data/wills lost 1", "after a protocol error");
        let (mut client, _) = dial().keep_alive(1).enter().await;
        if version == Version::V5 {
            assert_eq!(client.hear().await, Heard::Disconnect(0x8D));
        }
        assert_eq!(client.hear().await, Heard::Closed);
        assert_eq!(watcher.text().await, "data/wills lost 1", "after silence");
    }
    let dial = Client::dial(house.address, Version::V5).will("data/wills", "wanted", 0);
    dial.enter().await.0.leave_with(4).await;
    assert_eq!(watcher.text().await, "data/wills wanted 1");
    let dial = Client::dial(house.address, Version::V5).will("forbidden/wills", "no", 0);
    drop(dial.enter().await);
    house.until("it is gone", || house.mqtt.connections() == 1).await;
    watcher.hears_nothing().await;
    let wills = house.desk.seen().iter().filter(|topic| &***topic == "data/wills").count();
    assert_eq!(wills, 7, "the intake sees wills as well");
}

#[tokio::test]
async fn a_delayed_will_waits_for_its_client() {
    let house = House::simulated(|_| {}).await;
    let mut watcher = house.client(Version::V5, "watcher").await;
    watcher.subscribe("wills", 1).await;
    let dial = |delay| kept(&house, Version::V5).will("wills", "lost", delay);
    drop(dial(60).enter().await);
    house.until("it is gone", || house.mqtt.connections() == 1).await;
    house.base.clock.advance(Duration::from_secs(59));
    let (client, present) = dial(60).enter().await;
    assert!(present);
    drop(client);
    house.until("it is gone", || house.mqtt.connections() == 1).await;
    house.base.clock.advance(Duration::from_secs(59));
    watcher.hears_nothing().await;
    house.base.clock.advance(Duration::from_secs(2));
    assert_eq!(watcher.text().await, "wills lost 1");
    // The end of the session is the end of the delay.
    let short = dial(5_000).change(|connect| connect.session_expiry_interval_secs = 10);
    drop(short.enter().await);
    house.until("it is gone", || house.mqtt.connections() == 1).await;
    house.base.clock.advance(Duration::from_secs(11));
    assert_eq!(watcher.text().await, "wills lost 1");
}

#[tokio::test]
async fn the_intake_hears_who_came_and_how_each_left() {
    let house = House::simulated(|_| {}).await;
    let visited = async |wanted: &[&str]| {
        house.until("the visits are told", || house.desk.visits().len() >= wanted.len()).await;
        assert_eq!(house.desk.visits(), wanted);
    };
    let polite = house.client(Version::V5, "a").await;
    polite.leave().await;
    visited(&["+a", "-a"]).await;
    drop(house.client(Version::V3, "b").await);
    visited(&["+a", "-a", "+b", "!b"]).await;
    let wanting_its_will = house.client(Version::V5, "c").await;
    wanting_its_will.leave_with(4).await;
    let first = house.client(Version::V5, "d").await;
    let mut second = house.client(Version::V5, "d").await;
    second.ping().await;
    drop(first);
    let so_far = ["+a", "-a", "+b", "!b", "+c", "!c", "+d", "!d", "+d"];
    visited(&so_far).await;
    let wrong = Client::dial(house.address, Version::V5).name("e").key("nobody");
    wrong.refused().await;
    // A will that is delayed gives its client time.
    let patient = || kept(&house, Version::V5).will("gone", "x", 60);
    drop(patient().enter().await);
    house.until("the session is let go", || house.mqtt.connections() == 1).await;
    drop(patient().enter().await);
    house.until("the session is let go", || house.mqtt.connections() == 1).await;
    assert_eq!(house.desk.visits().len(), so_far.len() + 2, "not told yet");
    house.base.clock.advance(Duration::from_secs(61));
    let mut all = so_far.to_vec();
    all.extend(["+kept", "+kept", "!kept"]);
    visited(&all).await;
    house.base.tasks.stop(Duration::from_secs(20)).await;
    assert_eq!(house.desk.visits(), all, "a server that stops tells nothing of its clients");
}
