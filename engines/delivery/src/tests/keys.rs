//! The secrets of endpoints in their rows.

use base64::engine::general_purpose::STANDARD;
use relational::{Read, Row};

use super::endpoints::{is_signed, made, quick, round, slack, told, webhook};
use super::receiver::Receiver;
use super::*;
use crate::{EndpointChange, EndpointState, NewlyMade};

/// Every URL and secret as it is in its row, with the key that it says.
async fn rows(house: &House) -> Vec<(String, Option<String>)> {
    let sql = "SELECT url AS text, sealed_by FROM delivery_endpoints
        UNION ALL SELECT secret AS text, sealed_by FROM delivery_secrets";
    let rows = house.db.read(async |read: &mut Read| read.query(sql, &[]).await).await;
    let rows: Vec<Row> = rows.unwrap();
    let pair = |row: &Row| (row.get("text").unwrap(), row.get("sealed_by").unwrap());
    rows.iter().map(pair).collect()
}

fn is_secret(text: &str) -> bool {
    text.contains("whsec_") || text.contains("http") || text.contains("token")
}

/// Adds a key behind those of the file.
fn add_key(house: &House, id: MessageId) {
    let path = house.dir.path().join("keys/delivery");
    let keys = std::fs::read_to_string(&path).unwrap();
    let key = STANDARD.encode([7; 32]);
    std::fs::write(&path, format!("{keys}{id} {key}\n")).unwrap();
}

#[tokio::test]
async fn urls_and_secrets_are_sealed_in_their_rows_and_go_with_the_newest_key() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let delivery = house.open_idle(quick()).await;
    let NewlyMade { endpoint, secret } =
        delivery.create_endpoint(OURS, webhook(&receiver)).await.unwrap();
    let secret = secret.unwrap();
    made(&delivery, slack(&receiver)).await;
    let second = delivery.rotate_secret(OURS, endpoint.id).await.unwrap();
    let sealed = rows(&house).await;
    assert_eq!(sealed.len(), 4);
    assert!(sealed.iter().all(|(text, key)| key.is_some() && !is_secret(text)), "{sealed:?}");

    // As an earlier version left them.
    let plain = [(endpoint.id, secret.reveal()), (endpoint.id, second.reveal())];
    let url = receiver.url();
    let back = async move |tx: &mut relational::Tx| {
        let sql = "UPDATE delivery_endpoints SET url = ?, sealed_by = NULL WHERE id = ?";
        tx.execute(sql, relational::params![url, plain[0].0]).await?;
        for (secret, is_old) in [(&plain[0].1, true), (&plain[1].1, false)] {
            let which = if is_old { "IS NOT NULL" } else { "IS NULL" };
            let sql = format!(
                "UPDATE delivery_secrets SET secret = ?, sealed_by = NULL WHERE expires {which}"
            );
            tx.execute(&sql, relational::params![secret]).await?;
        }
        Ok::<_, Error>(())
    };
    house.db.write(back).await.unwrap();
    assert_eq!(rows(&house).await.iter().filter(|(text, _)| is_secret(text)).count(), 3);
    let delivery = house.open_idle(quick()).await;
    let sealed = rows(&house).await;
    assert!(sealed.iter().all(|(text, key)| key.is_some() && !is_secret(text)), "{sealed:?}");

    // Another key behind it seals everything anew, and then the old one is not needed.
    let newest = MessageId::new(house.base.clock.now(), &house.base.entropy);
    add_key(&house, newest);
    drop(delivery);
    let delivery = house.open_idle(quick()).await;
    let key = Some(newest.to_string());
    assert!(rows(&house).await.iter().all(|(_, sealed_by)| *sealed_by == key));
    let path = house.dir.path().join("keys/delivery");
    let keys = std::fs::read_to_string(&path).unwrap();
    let only = keys.lines().filter(|line| line.starts_with(&newest.to_string()));
    std::fs::write(&path, only.collect::<String>()).unwrap();
    drop(delivery);
    let delivery = house.open_idle(quick()).await;
    let id = told(&house, &delivery, endpoint.id, "a").await;
    assert_eq!(round(&delivery).await, 1);
    assert_eq!(delivery.message(OURS, id).await.unwrap().state, State::Sent);
    let got = receiver.got();
    assert!(is_signed(&got[0], &secret) && is_signed(&got[0], &second));
    let shown = delivery.endpoint(OURS, endpoint.id).await.unwrap();
    assert!(shown.url.starts_with("http://127.0.0.1:"), "{}", shown.url);
}

#[tokio::test]
async fn a_missing_key_is_said_at_the_start_and_stops_only_what_it_sealed() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let delivery = house.open_idle(quick()).await;
    let lost = made(&delivery, webhook(&receiver)).await;
    let waiting = told(&house, &delivery, lost, "a").await;
    drop(delivery);
    std::fs::remove_file(house.dir.path().join("keys/delivery")).unwrap();
    let client = Client::open(loopback()).await.unwrap();
    let config = house.keyed(quick());
    let refused = Delivery::new(config, client, &house.base, house.db.clone()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("key_file") && refused.contains("key_lost"), "{refused}");

    let delivery = house.open_idle(Config { key_lost: true, ..quick() }).await;
    let sound = made(&delivery, webhook(&receiver)).await;
    let sent = told(&house, &delivery, sound, "b").await;
    while round(&delivery).await > 0 {}
    assert_eq!(delivery.message(OURS, sent).await.unwrap().state, State::Sent);
    assert_eq!(delivery.message(OURS, waiting).await.unwrap().state, State::Held);
    let paused = delivery.endpoint(OURS, lost).await.unwrap();
    assert_eq!(paused.state, EndpointState::Paused);
    let reason = paused.reason.unwrap();
    assert!(reason.contains("sealed") && paused.url.contains("sealed"), "{reason}");
    let name = EndpointChange { name: Some("x".into()), ..EndpointChange::default() };
    let refused = delivery.change_endpoint(OURS, lost, name).await.unwrap_err();
    assert!(matches!(refused, Error::Sealed { .. }), "{refused}");
    let change = EndpointChange {
        url: Some(receiver.url()),
        is_enabled: Some(true),
        ..EndpointChange::default()
    };
    let secret = delivery.rotate_secret(OURS, lost).await.unwrap();
    delivery.change_endpoint(OURS, lost, change).await.unwrap();
    while round(&delivery).await > 0 {}
    assert_eq!(delivery.message(OURS, waiting).await.unwrap().state, State::Sent);
    assert!(is_signed(receiver.got().last().unwrap(), &secret));
}
