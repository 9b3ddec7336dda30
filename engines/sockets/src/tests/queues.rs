//! Queues: each message to one consumer, until it is acknowledged.

use std::collections::HashSet;
use std::sync::Arc;

use base::OrganisationId;

use futures::FutureExt;

use super::client::{Client, Heard};
use super::house::House;
use crate::destination::Destination;
use crate::hub::Route;
use crate::outbox::{Item, Outbox};
use crate::queue::Queue;
use crate::session::{Deed, Verdict};

async fn consume(client: &mut Client, queue: &str, mode: &str) {
    client.done(&format!("SUBSCRIBE\nid:q\ndestination:/queue/{queue}\nack:{mode}")).await;
}

async fn ack(client: &mut Client, heard: &Heard) {
    client.done(&format!("ACK\nid:{}", heard.header("ack"))).await;
}

async fn queue(house: &House, name: &str) -> (u64, u64, usize) {
    let queues = house.sockets.queues(OrganisationId::DEFAULT).await.unwrap();
    let found = queues.into_iter().find(|it| it.name == name);
    found.map_or((0, 0, 0), |it| (it.messages, it.unacknowledged, it.consumers))
}

#[tokio::test]
async fn each_message_goes_to_one_consumer_in_turn() {
    let house = House::new().await;
    let mut sender = house.client("mina").await;
    let (mut one, mut two) = (house.client("joon").await, house.client("bora").await);
    consume(&mut one, "work", "client-individual").await;
    consume(&mut two, "work", "client-individual").await;
    let mut seen = HashSet::new();
    for number in 0..6 {
        sender.publish("/queue/work", &number.to_string()).await;
    }
    for client in [&mut one, &mut two] {
        for _ in 0..3 {
            let heard = client.hear().await;
            assert_eq!(heard.header("destination"), "/queue/work");
            seen.insert(heard.text().to_owned());
            ack(client, &heard).await;
        }
    }
    assert_eq!(seen.len(), 6);
    assert_eq!(queue(&house, "work").await, (0, 0, 2));
}

#[tokio::test]
async fn what_is_not_acknowledged_is_given_to_another_in_its_old_place() {
    let house = House::new().await;
    let mut sender = house.client("mina").await;
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "client").await;
    for number in 0..4 {
        sender.publish("/queue/work", &number.to_string()).await;
    }
    let first = one.hear().await;
    ack(&mut one, &first).await;
    one.hear().await;
    drop(one);
    let mut two = house.client("bora").await;
    consume(&mut two, "work", "client").await;
    let mut last = None;
    for number in 1..4 {
        let heard = two.hear().await;
        assert_eq!(heard.text(), number.to_string());
        assert_eq!(heard.header("redelivered"), "true");
        last = Some(heard);
    }
    assert_eq!(queue(&house, "work").await, (3, 3, 1));
    // One ACK for all.
    ack(&mut two, &last.unwrap()).await;
    assert_eq!(queue(&house, "work").await, (0, 0, 1));
}

#[tokio::test]
async fn messages_wait_in_their_rows_over_a_restart_in_order() {
    let house = House::with(|config| config.queue_window = 4).await;
    let mut sender = house.client("mina").await;
    for number in 0..25 {
        sender.publish("/queue/work", &number.to_string()).await;
    }
    let house = house.restarted().await;
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "client-individual").await;
    for number in 0..25 {
        let heard = one.hear().await;
        assert_eq!(heard.text(), number.to_string());
        ack(&mut one, &heard).await;
    }
    let house = house.restarted().await;
    assert_eq!(queue(&house, "work").await, (0, 0, 0));
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "auto").await;
    one.hears_nothing().await;
}

#[tokio::test]
async fn many_senders_and_consumers_that_come_and_go_lose_and_repeat_nothing() {
    let house = House::with(|config| config.queue_window = 8).await;
    let mut senders = Vec::new();
    for sender in 0..4 {
        let mut client = house.client("mina").await;
        senders.push(house.base.tasks.spawn("send", async move {
            for number in 0..100 {
                let body = sender * 100 + number;
                client.send(&format!("SEND\ndestination:/queue/work\n\n{body}\0")).await;
            }
            client.hears_nothing().await;
        }));
    }
    let mut seen = Vec::new();
    while seen.len() < 400 {
        let mut client = house.client("joon").await;
        consume(&mut client, "work", "client-individual").await;
        for _ in 0..13.min(400 - seen.len()) {
            let heard = client.hear().await;
            ack(&mut client, &heard).await;
            seen.push(heard.text().to_owned());
        }
    }
    for sender in senders {
        assert!(sender.await.unwrap().is_some(), "no sender is closed");
    }
    let distinct: HashSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), 400);
    house.until("nobody is connected", || house.sockets.connections() == 0).await;
    assert_eq!(queue(&house, "work").await, (0, 0, 0));
}

#[tokio::test]
async fn a_consumer_is_given_no_more_than_it_said() {
    let house = House::new().await;
    let mut sender = house.client("mina").await;
    let mut one = house.client("joon").await;
    one.done("SUBSCRIBE\nid:q\ndestination:/queue/work\nack:client-individual\nprefetch-count:2")
        .await;
    for number in 0..5 {
        sender.publish("/queue/work", &number.to_string()).await;
    }
    assert_eq!(queue(&house, "work").await, (5, 2, 1));
    let (first, second) = (one.hear().await, one.hear().await);
    assert_eq!((first.text(), second.text()), ("0", "1"));
    one.hears_nothing().await;
    one.send(&format!("ACK\nid:{}\n\n\0", second.header("ack"))).await;
    assert_eq!(one.message().await, "2");
}

#[tokio::test]
async fn a_nack_gives_it_to_another_and_after_some_times_puts_it_aside() {
    let house = House::with(|config| config.queue_deliveries_max = 3).await;
    let mut sender = house.client("mina").await;
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "client-individual").await;
    sender.publish("/queue/work", "poison").await;
    for delivery in 1..=3 {
        let heard = one.hear().await;
        assert_eq!(heard.text(), "poison");
        assert_eq!(heard.header("redelivered"), if delivery > 1 { "true" } else { "" });
        one.send(&format!("NACK\nid:{}\n\n\0", heard.header("ack"))).await;
    }
    one.hears_nothing().await;
    assert_eq!(queue(&house, "work").await, (0, 0, 1));
    assert_eq!(queue(&house, "dead.work").await, (1, 0, 0));
    // At once, when it says so.
    sender.publish("/queue/work", "rubbish").await;
    let heard = one.hear().await;
    one.done(&format!("NACK\nid:{}\nrequeue:false", heard.header("ack"))).await;
    let mut dead = house.client("bora").await;
    consume(&mut dead, "dead.work", "auto").await;
    let heard = dead.hear().await;
    assert_eq!((heard.text(), heard.header("destination")), ("poison", "/queue/dead.work"));
    assert_eq!(dead.message().await, "rubbish");
    house.until("both are done", || house.metric("madang_sockets_messages_sent_total") == 6).await;
    dead.hears_nothing().await;
    assert_eq!(queue(&house, "dead.work").await.0, 0);
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let house = House::with(|config| config.queue_messages_max = 2).await;
    let mut sender = house.client("mina").await;
    sender.publish("/queue/work", "1").await;
    sender.publish("/queue/work", "2").await;
    sender.send("SEND\ndestination:/queue/work\nreceipt:3\n\n3\0").await;
    let error = sender.error().await;
    assert_eq!(error.text(), "the queue \"work\" is full");
    assert_eq!(error.header("receipt-id"), "3");
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "auto").await;
    assert_eq!(one.message().await, "1");
    assert_eq!(one.message().await, "2");
    one.hears_nothing().await;
    let mut sender = house.client("mina").await;
    sender.publish("/queue/work", "3").await;
}

#[tokio::test]
async fn a_transaction_is_one_commit() {
    let house = House::with(|config| config.queue_messages_max = 2).await;
    let mut client = house.client("mina").await;
    consume(&mut client, "in", "client-individual").await;
    let mut listener = house.client("joon").await;
    listener.subscribe("1", "/topic/done").await;
    let mut sender = house.client("bora").await;
    sender.publish("/queue/in", "job").await;
    let job = client.hear().await;
    client.send("BEGIN\ntransaction:t\n\n\0").await;
    client.send("SEND\ndestination:/queue/out\ntransaction:t\n\nresult\0").await;
    client.send("SEND\ndestination:/topic/done\ntransaction:t\n\nnews\0").await;
    client.send(&format!("ACK\nid:{}\ntransaction:t\n\n\0", job.header("ack"))).await;
    client.hears_nothing().await;
    assert_eq!(queue(&house, "out").await.0, 0, "nothing before the COMMIT");
    listener.hears_nothing().await;
    client.done("COMMIT\ntransaction:t").await;
    assert_eq!(queue(&house, "out").await.0, 1);
    assert_eq!(queue(&house, "in").await.0, 0);
    assert_eq!(listener.message().await, "news");
    // One that cannot be done leaves nothing behind.
    sender.publish("/queue/in", "job 2").await;
    let job = client.hear().await;
    client.send("BEGIN\ntransaction:t\n\n\0").await;
    client.send(&format!("ACK\nid:{}\ntransaction:t\n\n\0", job.header("ack"))).await;
    for _ in 0..2 {
        client.send("SEND\ndestination:/queue/out\ntransaction:t\n\nresult\0").await;
    }
    client.send("COMMIT\ntransaction:t\n\n\0").await;
    assert_eq!(client.error().await.text(), "the queue \"out\" is full");
    let mut other = house.client("joon").await;
    consume(&mut other, "in", "client").await;
    assert_eq!(other.message().await, "job 2");
    assert_eq!(queue(&house, "out").await.0, 1);
}

#[tokio::test]
async fn how_often_a_message_was_given_out_outlives_a_restart() {
    let house = House::with(|config| config.queue_deliveries_max = 3).await;
    let mut sender = house.client("mina").await;
    sender.publish("/queue/work", "poison").await;
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "client-individual").await;
    let heard = one.hear().await;
    one.done(&format!("NACK\nid:{}", heard.header("ack"))).await;
    assert_eq!(one.message().await, "poison");
    // It comes back as its consumer goes with the server.
    let house = house.restarted().await;
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "client-individual").await;
    let heard = one.hear().await;
    assert_eq!(heard.header("redelivered"), "true");
    one.done(&format!("NACK\nid:{}", heard.header("ack"))).await;
    one.hears_nothing().await;
    assert_eq!(queue(&house, "work").await.0, 0, "three times is enough");
    assert_eq!(queue(&house, "dead.work").await.0, 1);
    // There it begins anew.
    let house = house.restarted().await;
    let mut dead = house.client("bora").await;
    consume(&mut dead, "dead.work", "client").await;
    assert_eq!(dead.hear().await.header("redelivered"), "");
}

#[tokio::test]
async fn the_number_of_a_message_is_never_that_of_another() {
    let house = House::new().await;
    let mut numbers = HashSet::new();
    let mut house = house;
    for _ in 0..3 {
        let mut client = house.client("mina").await;
        consume(&mut client, "work", "client").await;
        client.publish("/queue/work", "x").await;
        let heard = client.hear().await;
        assert!(numbers.insert(heard.header("message-id").to_owned()), "{numbers:?}");
        ack(&mut client, &heard).await;
        drop(client);
        house = house.restarted().await;
    }
}

#[tokio::test]
async fn a_full_queue_of_dead_ones_takes_no_more_and_nothing_is_lost() {
    let house = House::with(|config| config.queue_messages_max = 2).await;
    let mut sender = house.client("mina").await;
    for number in 0..3 {
        sender.publish("/queue/work", &number.to_string()).await;
        let mut one = house.client("joon").await;
        consume(&mut one, "work", "client").await;
        let heard = one.hear().await;
        let nack = format!("NACK\nid:{}\nrequeue:false\nreceipt:n\n\n\0", heard.header("ack"));
        one.send(&nack).await;
        if number < 2 {
            assert_eq!(one.hear().await.command, "RECEIPT");
        } else {
            assert_eq!(one.error().await.text(), "the queue \"dead.work\" is full");
        }
    }
    assert_eq!(queue(&house, "dead.work").await.0, 2);
    let mut other = house.client("bora").await;
    consume(&mut other, "work", "client").await;
    assert_eq!(other.message().await, "2");
}

#[tokio::test]
async fn messages_that_nobody_takes_are_in_their_rows_and_a_consumer_has_a_share_of_bytes() {
    let house = House::with(|config| {
        config.queue_window_bytes_max = 100_000;
        config.prefetch_bytes_max = 50_000;
    })
    .await;
    let mut sender = house.client("mina").await;
    let body = "x".repeat(20_000);
    for _ in 0..30 {
        sender.publish("/queue/work", &body).await;
    }
    let (principal, destination) = work();
    let Ok(Route::Queue(held)) = house.sockets.0.route(&principal, &destination).await else {
        panic!("it is a queue");
    };
    assert_eq!(held.ready_bytes(), 0);
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "client-individual").await;
    for number in 0..30 {
        let heard = one.hear().await;
        assert!(held.ready_bytes() <= 200_000, "{}", held.ready_bytes());
        if number == 0 {
            house.until("it has its share", || held.info().unacknowledged == 3).await;
        }
        ack(&mut one, &heard).await;
    }
    assert_eq!(queue(&house, "work").await, (0, 0, 1));
}

fn work() -> (base::access::Principal, Destination) {
    let principal = super::house::doorman().principal("joon").unwrap();
    (principal, Destination::parse("/queue/work", 100).unwrap())
}

#[tokio::test]
async fn an_answer_that_is_given_up_half_way_gives_its_messages_back() {
    let house = House::new().await;
    let (principal, destination) = work();
    let Ok(Route::Queue(held)) = house.sockets.0.route(&principal, &destination).await else {
        panic!("it is a queue");
    };
    let outbox = Outbox::new(1 << 20, &house.sockets.0.pool);
    held.join((77, 0), &outbox, 10);
    house.client("mina").await.publish("/queue/work", "x").await;
    let given = || {
        let mut rows = Vec::new();
        let _ = outbox.take(|item| {
            if let Item::Queue { row, .. } = item {
                rows.push(row);
            }
            true
        });
        rows
    };
    let rows = given();
    assert_eq!(rows.len(), 1);
    // The queue of the dead is opened for it; whoever asked is gone before that is done.
    let deed = Deed::Settle { destination, number: 0, rows: rows.clone(), verdict: Verdict::Dead };
    drop(house.sockets.0.prepare((77, &principal), vec![deed]).now_or_never());
    assert_eq!(given(), rows, "it is given out again");
    assert_eq!(queue(&house, "work").await.0, 1);
}

#[tokio::test]
async fn an_acknowledgement_of_one_who_left_is_not_that_of_another() {
    let house = House::new().await;
    let (principal, destination) = work();
    let Ok(Route::Queue(held)) = house.sockets.0.route(&principal, &destination).await else {
        panic!("it is a queue");
    };
    let outbox = Outbox::new(1 << 20, &house.sockets.0.pool);
    held.join((1, 0), &outbox, 10);
    house.client("mina").await.publish("/queue/work", "x").await;
    let mut row = None;
    let _ = outbox.take(|item| {
        if let Item::Queue { row: found, .. } = item {
            row = Some(found);
        }
        true
    });
    let row = row.unwrap();
    held.join((2, 0), &outbox, 10);
    assert_eq!(held.leave((1, 0)).again, [(row, 1)]);
    assert!(held.settle((1, 0), &[row], Verdict::Done).done.is_empty(), "the second one has it");
    assert_eq!(held.settle((2, 0), &[row], Verdict::Done).done.len(), 1);
}

#[tokio::test]
async fn a_message_whose_sender_stops_waiting_is_sent_all_the_same() {
    let house = House::new().await;
    let mut one = house.client("joon").await;
    consume(&mut one, "work", "auto").await;
    let sent = house.sockets.publish(OrganisationId::DEFAULT, "/queue/work", &[], "x".into());
    assert!(sent.now_or_never().is_none(), "it takes a moment");
    assert_eq!(one.message().await, "x");
}

/// Takes what was given to a consumer, says that it is done, and notes it.
fn take_all(queue: &Arc<Queue>, id: (u64, u32), outbox: &Outbox, seen: &mut Vec<u64>) {
    let mut rows = Vec::new();
    let _ = outbox.take(|item| {
        if let Item::Queue { row, .. } = item {
            rows.push(row);
        }
        true
    });
    queue.settle(id, &rows, Verdict::Done);
    seen.extend(rows);
}

#[tokio::test]
async fn what_was_moved_to_a_queue_while_it_could_not_be_read_is_given_out() {
    let house = House::with(|config| config.queue_window = 2).await;
    let mut sender = house.client("mina").await;
    sender.publish("/queue/work", "old").await;
    for _ in 0..8 {
        sender.publish("/queue/dead.work", "x").await;
    }
    let queue_of = async |name: &str| {
        let (principal, _) = work();
        let destination = Destination::Queue(name.into());
        match house.sockets.0.route(&principal, &destination).await {
            Ok(Route::Queue(queue)) => queue,
            _ => panic!("it is a queue"),
        }
    };
    let (from, to) = (queue_of("work").await, queue_of("dead.work").await);
    let outboxes = [0, 1].map(|_| Outbox::new(1 << 20, &house.sockets.0.pool));
    from.join((1, 0), &outboxes[0], 1);
    let given = || outboxes[0].bytes() > 0;
    house.until("it is given out", given).await;
    let mut row = None;
    let _ = outboxes[0].take(|item| {
        if let Item::Queue { row: found, .. } = item {
            row = Some(found);
        }
        true
    });
    let moved = from.settle((1, 0), &[row.unwrap()], Verdict::Dead).dead;
    let id = (2, 0);
    to.join(id, &outboxes[1], 1);
    house.until("the first page is there", || outboxes[1].bytes() > 0).await;
    let rename = async |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        let renamed = house.db.write(async move |tx: &mut relational::Tx| {
            tx.execute(&sql, relational::params![]).await?;
            Ok::<_, relational::Error>(())
        });
        renamed.await.unwrap();
    };
    rename("socket_message", "aside").await;
    // With the first page done the next one is asked for; meanwhile a message with an older number comes.
    let seen = parking_lot::Mutex::new(Vec::new());
    for _ in 0..2 {
        take_all(&to, id, &outboxes[1], &mut seen.lock());
    }
    to.expect_moved(&moved).unwrap();
    to.moved_here(moved[0].0, &moved[0].1);
    let has_come = || {
        take_all(&to, id, &outboxes[1], &mut seen.lock());
        seen.lock().contains(&moved[0].0)
    };
    house.until("the moved one is given out", has_come).await;
    assert_eq!(seen.lock().len(), 3);
    rename("aside", "socket_message").await;
    let all = || {
        take_all(&to, id, &outboxes[1], &mut seen.lock());
        seen.lock().len() == 9
    };
    house.until("the rest is read by itself", all).await;
}
