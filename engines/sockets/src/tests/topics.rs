//! Topics, and what somebody who comes back gets.

use base::OrganisationId;

use super::client::Client;
use super::house::{House, doorman};
use crate::{Error, Followed};

#[tokio::test]
async fn a_message_reaches_everybody_who_listens_and_nobody_else() {
    let house = House::new().await;
    let mut mina = house.client("mina").await;
    let mut joon = house.client("joon").await;
    let mut foreign = house.client("foreign").await;
    mina.subscribe("1", "/topic/room/7").await;
    mina.subscribe("2", "/topic/room/7").await;
    joon.subscribe("x", "/topic/room/7").await;
    joon.subscribe("y", "/topic/room/8").await;
    foreign.subscribe("1", "/topic/room/7").await;
    joon.publish("/topic/room/7", "hello").await;
    let mut subscriptions = Vec::new();
    for _ in 0..2 {
        let heard = mina.hear().await;
        assert_eq!(heard.text(), "hello");
        subscriptions.push(heard.header("subscription").to_owned());
    }
    subscriptions.sort();
    assert_eq!(subscriptions, ["1", "2"]);
    let heard = joon.hear().await;
    assert_eq!(heard.header("subscription"), "x");
    let sender = crate::destination::holder(doorman().principal("joon").unwrap().subject);
    assert_eq!(heard.header("sender"), sender, "who sends is said by the server");
    mina.done("UNSUBSCRIBE\nid:1").await;
    joon.publish("/topic/room/7", "again").await;
    assert_eq!(mina.hear().await.header("subscription"), "2");
    for client in [&mut mina, &mut foreign] {
        client.hears_nothing().await;
    }
    let topics = house.sockets.topics(OrganisationId::DEFAULT);
    let shown: Vec<_> =
        topics.iter().map(|it| (it.destination.as_str(), it.subscribers, it.messages)).collect();
    assert_eq!(shown, [("/topic/room/7", 2, 2), ("/topic/room/8", 1, 0)]);
}

#[tokio::test]
async fn binary_and_strange_headers_come_out_as_they_went_in() {
    let house = House::new().await;
    let mut client = house.client("mina").await;
    client.subscribe("1", "/topic/a").await;
    client
        .send("SEND\ndestination:/topic/a\nk\\c1:a\\nb\\\\c\ncontent-length:4\n\n\0\x01\0z\0")
        .await;
    let heard = client.hear().await;
    assert_eq!(heard.body, b"\0\x01\0z");
    assert!(heard.headers.contains(&("k\\c1".to_owned(), "a\\nb\\\\c".to_owned())), "{heard:?}");
}

/// Listens from a place and gives what comes until the text `end`: offsets and texts.
async fn resume(house: &House, from: &str) -> Vec<String> {
    let mut client = house.client("joon").await;
    client.send(&format!("SUBSCRIBE\nid:1\ndestination:/topic/a\n{from}\n\n\0")).await;
    let mut heard = Vec::new();
    loop {
        let message = client.hear().await;
        assert_eq!(message.command, "MESSAGE", "{message:?}");
        if message.text() == "end" {
            return heard;
        }
        heard.push(match message.header("resume") {
            "" => message.text().to_owned(),
            resume => format!("{resume} {}", message.header("kept-from")),
        });
    }
}

#[tokio::test]
async fn whoever_comes_back_gets_what_they_missed_and_nothing_twice() {
    let house = House::with(|config| config.resume_bytes_max = 300).await;
    let mut sender = house.client("mina").await;
    let mut listener = house.client("bora").await;
    listener.subscribe("1", "/topic/a").await;
    let mut ids = Vec::new();
    for number in 0..20 {
        sender.publish("/topic/a", &number.to_string()).await;
        sender.publish("/topic/b", "other").await;
        let heard = listener.hear().await;
        ids.push((heard.header("offset").to_owned(), heard.header("message-id").to_owned()));
    }
    sender.publish("/topic/a", "end").await;
    let all: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(resume(&house, "from:earliest").await, all);
    assert_eq!(resume(&house, &format!("from:{}", ids[7].0)).await, all[8..]);
    assert_eq!(resume(&house, &format!("resume:{}", ids[7].1)).await, all[8..]);
    // The same after everything was stopped and started.
    let house = house.restarted().await;
    assert_eq!(resume(&house, &format!("resume:{}", ids[7].1)).await, all[8..]);
    assert_eq!(resume(&house, "from:earliest").await, all);
    // What was never there is a gap too: the log is another one.
    let mut sender = house.client("mina").await;
    let mut client = house.client("joon").await;
    client.done("SUBSCRIBE\nid:1\ndestination:/topic/a\nfrom:100000").await;
    let gap = client.hear().await;
    assert_eq!((gap.header("resume"), gap.text()), ("gap", ""));
    sender.publish("/topic/a", "new").await;
    assert_eq!(client.message().await, "new");
}

#[tokio::test]
async fn who_resumes_with_nothing_missed_reads_nothing() {
    let house = House::new().await;
    let mut sender = house.client("mina").await;
    let mut listener = house.client("bora").await;
    listener.subscribe("1", "/topic/a").await;
    sender.publish("/topic/a", "1").await;
    let id = listener.hear().await.header("message-id").to_owned();
    for _ in 0..10 {
        sender.publish("/topic/b", "other").await;
    }
    let mut back = house.client("joon").await;
    back.done(&format!("SUBSCRIBE\nid:1\ndestination:/topic/a\nresume:{id}")).await;
    sender.publish("/topic/a", "2").await;
    assert_eq!(back.message().await, "2");
    assert_eq!(house.metric("madang_sockets_messages_resumed_total"), 0);
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_told_as_a_gap() {
    let house = House::with(|config| config.kept_messages = 10).await;
    let mut sender = house.client("mina").await;
    let body = "x".repeat(20_000);
    for _ in 0..40 {
        sender.publish("/topic/a", &body).await;
    }
    sender.publish("/topic/a", "end").await;
    let heard = resume(&house, "from:0").await;
    let kept_from: usize = heard[0].strip_prefix("gap ").unwrap().parse().unwrap();
    assert!(kept_from > 1, "{kept_from}");
    assert_eq!(heard.len(), 1 + 40 - kept_from, "everything that is kept comes after the gap");
}

#[tokio::test]
async fn a_thousand_resumes_in_a_stream_of_messages_miss_and_repeat_nothing() {
    let house = House::with(|config| config.resume_bytes_max = 500).await;
    let mut sender = house.client("mina").await;
    let sending = house.base.tasks.spawn("send", async move {
        for number in 0..3_000 {
            let topic = if number % 4 == 0 { "/topic/other" } else { "/topic/a" };
            sender.send(&format!("SEND\ndestination:{topic}\n\n{number}\0")).await;
            if number % 50 == 0 {
                sender.hears_nothing().await;
            }
        }
        sender.publish("/topic/a", "end").await;
    });
    let (mut heard, mut last) = (Vec::new(), String::new());
    let mut rounds = 0;
    'all: loop {
        let mut client = house.client("joon").await;
        let resume =
            if last.is_empty() { "from:earliest".to_owned() } else { format!("resume:{last}") };
        client.send(&format!("SUBSCRIBE\nid:1\ndestination:/topic/a\n{resume}\n\n\0")).await;
        // Each connection lasts for a few messages and is then cut.
        for _ in 0..=(rounds % 7) {
            let message = client.hear().await;
            assert_eq!(message.command, "MESSAGE", "{message:?}");
            assert_eq!(message.header("resume"), "");
            message.header("message-id").clone_into(&mut last);
            if message.text() == "end" {
                break 'all;
            }
            heard.push(message.text().parse::<usize>().unwrap());
        }
        rounds += 1;
    }
    let wanted: Vec<usize> = (0..3_000).filter(|number| number % 4 != 0).collect();
    assert_eq!(heard, wanted);
    assert!(rounds > 300, "{rounds} connections");
    assert!(sending.await.unwrap().is_some(), "the sender is not closed");
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_told_and_forgotten() {
    let house = House::new().await;
    let mut listener = house.client("bora").await;
    listener.subscribe("1", "/topic/a").await;
    let mut sender = house.client("mina").await;
    sender.done("SEND\ndestination:/topic/a\npersistent:false\n\ntyping").await;
    sender.publish("/topic/a", "kept").await;
    sender.publish("/topic/a", "end").await;
    let heard = listener.hear().await;
    assert_eq!((heard.text(), heard.header("offset")), ("typing", ""));
    assert_eq!(listener.message().await, "kept");
    assert_eq!(resume(&house, "from:earliest").await, ["kept"]);
}

#[tokio::test]
async fn a_user_s_queue_reaches_all_their_connections_and_resumes() {
    let house = House::new().await;
    let mina = doorman().principal("mina").unwrap();
    let (mut one, mut two) = (house.client("mina").await, house.client("mina").await);
    let mut joon = house.client("joon").await;
    for client in [&mut one, &mut two, &mut joon] {
        client.subscribe("1", "/user/queue/alarms").await;
    }
    let tell = async |text: &'static str| {
        let told =
            house.sockets.tell(mina.organisation, (mina.subject, "alarms"), &[], text.into());
        told.await.unwrap();
    };
    tell("wake up").await;
    let heard = one.hear().await;
    assert_eq!((heard.text(), heard.header("destination")), ("wake up", "/user/queue/alarms"));
    let id = heard.header("message-id").to_owned();
    assert_eq!(two.message().await, "wake up");
    drop(one);
    tell("really").await;
    let mut one = house.client("mina").await;
    one.send(&format!("SUBSCRIBE\nid:1\ndestination:/user/queue/alarms\nresume:{id}\n\n\0")).await;
    assert_eq!(one.message().await, "really");
    // Another one sends to it, by the id.
    let id = crate::destination::holder(mina.subject);
    joon.publish(&format!("/user/{id}/queue/alarms"), "from joon").await;
    assert_eq!(one.message().await, "from joon");
    joon.hears_nothing().await;
}

#[tokio::test]
async fn records_of_the_log_appear_as_topics_and_resume() {
    let house = House::new().await;
    house.measure("east", "before").await;
    let mut client = house.client("mina").await;
    client.subscribe("1", "/topic/sea.east").await;
    client.subscribe("2", "/topic/sea").await;
    house.measure("west", "w1").await;
    let offset = house.measure("east", "e1").await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        let message = client.hear().await;
        heard.push(format!("{} {}", message.header("subscription"), message.text()));
    }
    assert_eq!(heard, ["2 w1", "1 e1", "2 e1"]);
    drop(client);
    house.measure("east", "e2").await;
    let mut client = house.client("mina").await;
    client
        .send(&format!("SUBSCRIBE\nid:1\ndestination:/topic/sea.east\nfrom:{offset}\n\n\0"))
        .await;
    assert_eq!(client.message().await, "e2");
    house.measure("east", "e3").await;
    let message = client.hear().await;
    assert_eq!(message.text(), "e3");
    assert_eq!(message.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_reader_of_another_kind_follows_and_resumes() {
    let house = House::new().await;
    let mina = doorman().principal("mina").unwrap();
    let organisation = mina.organisation;
    let publish = async |body: &'static str| {
        let published = house.sockets.publish(organisation, "/topic/a", &[("k", "v")], body.into());
        published.await.unwrap();
    };
    let mut follow = house.sockets.follow(&mina, "a", None).await.unwrap();
    publish("1").await;
    publish("2").await;
    let Some(Followed::Message { id: Some(id), body, is_text }) = follow.next().await else {
        panic!("a message comes");
    };
    assert_eq!((&body[..], is_text), (&b"1"[..], true));
    drop(follow);
    publish("3").await;
    let mut follow = house.sockets.follow(&mina, "a", Some(&id)).await.unwrap();
    for wanted in ["2", "3"] {
        let Some(Followed::Message { body, .. }) = follow.next().await else {
            panic!("a message comes");
        };
        assert_eq!(body, wanted);
    }
    house.doorman.forbid("topic/a");
    assert_eq!(follow.next().await, None);
    assert!(matches!(house.sockets.follow(&mina, "a", None).await, Err(Error::Forbidden)));
    for wrong in ["", "t.0", "t.7.1", "7"] {
        assert!(house.sockets.follow(&mina, "b", Some(wrong)).await.is_err(), "{wrong}");
    }
    drop(follow);
    assert_eq!(house.sockets.topics(organisation), []);
    let mut client: Client = house.client("mina").await;
    client.hears_nothing().await;
}

#[tokio::test]
async fn a_reader_that_is_behind_gets_nothing_more_once_it_may_not() {
    let house = House::with(|config| config.resume_bytes_max = 300).await;
    let mina = doorman().principal("mina").unwrap();
    let mut sender = house.client("joon").await;
    for number in 0..30 {
        sender.publish("/topic/a", &number.to_string()).await;
    }
    let mut follow = house.sockets.follow(&mina, "a", Some("t.0.0")).await.unwrap();
    assert!(matches!(follow.next().await, Some(Followed::Message { .. })));
    house.doorman.forbid("topic/a");
    assert_eq!(follow.next().await, None);
}

#[tokio::test]
async fn a_subscription_that_ends_while_it_resumes_leaves_the_next_one_whole() {
    let house = House::with(|config| config.resume_bytes_max = 300).await;
    let mut sender = house.client("mina").await;
    for number in 0..30 {
        sender.publish("/topic/a", &format!("a{number}")).await;
        sender.publish("/topic/b", &format!("b{number}")).await;
    }
    for _ in 0..20 {
        let mut client = house.client("joon").await;
        let subscribe = |id, topic| {
            format!("SUBSCRIBE\nid:{id}\ndestination:/topic/{topic}\nfrom:earliest\n\n\0")
        };
        client.send(&(subscribe(1, "a") + &subscribe(2, "b"))).await;
        // It comes while the next step of the first one is being read.
        assert_eq!(client.hear().await.text(), "a0");
        client.send("UNSUBSCRIBE\nid:1\n\n\0").await;
        let mut number = 0;
        while number < 30 {
            let heard = client.hear().await;
            if heard.header("subscription") == "2" {
                assert_eq!(heard.text(), format!("b{number}"));
                number += 1;
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_on_disk_has_no_receipt() {
    let house = House::new().await;
    let mut client = house.client("mina").await;
    client.publish("/topic/a", "x").await;
    client.publish("/queue/work", "x").await;
    house.log.close().await;
    client.send("SEND\ndestination:/topic/a\nreceipt:r\n\ny\0").await;
    assert_eq!(client.error().await.header("receipt-id"), "r");
    let mut client = house.client("mina").await;
    house.db.close().await;
    client.send("SEND\ndestination:/queue/work\nreceipt:r\n\ny\0").await;
    assert_eq!(client.error().await.header("receipt-id"), "r");
}
