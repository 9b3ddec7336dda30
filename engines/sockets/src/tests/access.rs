//! Who is let in, what they may, and how they are sent away.

use base::OrganisationId;

use super::client::Client;
use super::house::House;

#[tokio::test]
async fn only_a_key_with_its_secret_is_let_in() {
    let house = House::new().await;
    for credentials in
        ["", "login:mina\npasscode:guess\n", "login:stranger\npasscode:stranger-secret\n"]
    {
        let mut client = Client::dial(house.address).await;
        client.send(&format!("CONNECT\naccept-version:1.2\n{credentials}receipt:c\n\n\0")).await;
        let error = client.error().await;
        assert_eq!(error.text(), "no valid credentials");
        assert_eq!(error.header("receipt-id"), "c");
    }
    for credentials in
        ["Authorization:Bearer madang_mina_mina-secret", "passcode:madang_mina_mina-secret"]
    {
        let mut client = Client::dial(house.address).await;
        client.send(&format!("STOMP\naccept-version:1.2\n{credentials}\n\n\0")).await;
        let heard = client.hear().await;
        assert_eq!((heard.command.as_str(), heard.header("user-name")), ("CONNECTED", "mina"));
    }
}

#[tokio::test]
async fn grants_decide_on_every_subscribe_and_send() {
    let house = House::new().await;
    house.doorman.forbid("sockets.publish sockets/topic/news");
    house.doorman.forbid("sea.read measured/sea.west");
    for (frame, wanted) in [
        (
            "SUBSCRIBE\nid:1\ndestination:/topic/forbidden\n\n\0",
            "not allowed: sockets.subscribe on sockets/topic/forbidden",
        ),
        (
            "SUBSCRIBE\nid:1\ndestination:/queue/forbidden\n\n\0",
            "not allowed: sockets.subscribe on sockets/queue/forbidden",
        ),
        (
            "SUBSCRIBE\nid:1\ndestination:/user/queue/forbidden\n\n\0",
            "not allowed: sockets.subscribe on sockets/user/forbidden",
        ),
        (
            "SUBSCRIBE\nid:1\ndestination:/topic/sea.west\n\n\0",
            "not allowed: sockets.subscribe on sockets/topic/sea.west",
        ),
        (
            "SEND\ndestination:/topic/news\n\nx\0",
            "not allowed: sockets.publish on sockets/topic/news",
        ),
        (
            "SEND\ndestination:/user/7/queue/forbidden\n\nx\0",
            "not allowed: sockets.publish on sockets/users/7/forbidden",
        ),
        (
            "BEGIN\ntransaction:t\n\n\0SEND\ndestination:/topic/news\ntransaction:t\n\nx\0COMMIT\ntransaction:t\n\n\0",
            "not allowed: sockets.publish on sockets/topic/news",
        ),
    ] {
        let mut client = house.client("mina").await;
        client.send(frame).await;
        assert_eq!(client.error().await.text(), wanted);
    }
    let mut client = house.client("mina").await;
    client.subscribe("1", "/topic/news").await;
    client.subscribe("2", "/topic/sea.east").await;
}

#[tokio::test]
async fn a_revoked_key_is_told_and_disconnected() {
    let house = House::new().await;
    let mut mina = house.client("mina").await;
    let mut joon = house.client("joon").await;
    mina.subscribe("1", "/topic/a").await;
    house.doorman.revoke("mina");
    assert_eq!(mina.error().await.text(), "the key or the session is not valid any more");
    joon.publish("/topic/a", "x").await;
    assert_eq!(house.metric("madang_sockets_closed_total{reason=\"revoked\"}"), 1);
    house.doorman.forbid("sockets.subscribe sockets/topic/b");
    joon.subscribe("1", "/topic/c").await;
    house.doorman.forbid("topic/c");
    assert_eq!(
        joon.error().await.text(),
        "not allowed any more: sockets.subscribe on sockets/topic/c"
    );
}

#[tokio::test]
async fn an_administrator_sees_connections_of_their_organisation_and_closes_them() {
    let house = House::new().await;
    let mut mina = house.client("mina").await;
    let mut foreign = house.client("foreign").await;
    mina.subscribe("1", "/topic/a").await;
    mina.publish("/topic/a", "x").await;
    mina.hear().await;
    let shown = house.sockets.connections_of(OrganisationId::DEFAULT, 0, 10);
    assert_eq!(shown.len(), 1);
    let info = &shown[0];
    assert_eq!((info.name.as_str(), info.version, info.subscriptions), ("mina", "1.2", 1));
    assert_eq!((info.received, info.sent, info.is_web), (1, 1, false));
    assert!(house.sockets.connections_of(OrganisationId::DEFAULT, info.id, 10).is_empty());
    assert!(house.sockets.close(testkit::Doorman::OTHER, info.id).is_err(), "not theirs");
    house.sockets.close(OrganisationId::DEFAULT, info.id).unwrap();
    assert_eq!(mina.error().await.text(), "closed by an administrator");
    foreign.hears_nothing().await;
}

#[tokio::test]
async fn a_key_that_is_revoked_while_it_is_checked_is_not_let_in() {
    let house = House::new().await;
    house.doorman.revoke_while_let_in("bora");
    let mut client = Client::dial(house.address).await;
    client.send("CONNECT\naccept-version:1.2\nlogin:bora\npasscode:bora-secret\n\n\0").await;
    assert_eq!(client.error().await.text(), "no valid credentials");
}

#[tokio::test]
async fn connections_of_one_peer_that_do_not_log_in_leave_room_for_others() {
    let house = House::with(|config| {
        config.connecting_per_peer_max = 2;
        config.peers_without_limit = Vec::new();
    })
    .await;
    let silent = [Client::dial(house.address).await, Client::dial(house.address).await];
    house.until("they are there", || house.sockets.connections() == 2).await;
    let mut third = Client::dial(house.address).await;
    assert_eq!(third.next().await, None);
    assert_eq!(house.metric("madang_connections_refused_total{door=\"stomp\"}"), 1);
    drop(silent);
    house.until("they are gone", || house.sockets.connections() == 0).await;
    // Whoever is let in does not count.
    let mut let_in = Vec::new();
    for _ in 0..5 {
        let_in.push(house.client("mina").await);
    }
    assert_eq!(house.sockets.connections(), 5);
}
