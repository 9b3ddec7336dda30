use std::time::Duration;

use base::{Base, OrganisationId};
use relational::{Db, Error, Leases, Tx};

use crate::ground::Ground;
use crate::isolation::event;

pub(crate) async fn a_dead_holder_on_another_server_is_replaced_and_its_late_write_refused(
    ground: &Ground,
) {
    let opened = ground.open_with(|config| config.lease_grace = Duration::ZERO).await;
    let other = Db::open(opened.config.clone(), &Base::system()).await.unwrap();
    let organisation = OrganisationId::DEFAULT;
    let (here, there) = (Leases::new(&opened.db, &opened.base), Leases::new(&other, &opened.base));
    let short = Duration::from_millis(300);
    let held = here.acquire(organisation, "door", short).await.unwrap().unwrap();
    assert!(there.acquire(organisation, "door", short).await.unwrap().is_none(), "it is held");
    let replaced = loop {
        match there.acquire(organisation, "door", Duration::from_mins(1)).await.unwrap() {
            Some(lease) => break lease,
            None => opened.base.clock.sleep(Duration::from_millis(20)).await,
        }
    };
    let late = held.clone();
    let write = opened.db.write(async move |tx: &mut Tx| tx.fenced(&late).await);
    assert!(matches!(write.await, Err(Error::Fenced { .. })));
    let now = replaced.clone();
    other.write(async move |tx: &mut Tx| tx.fenced(&now).await).await.unwrap();
}

pub(crate) async fn events_of_another_server_are_relayed(ground: &Ground) {
    let opened = ground.open().await;
    let other = Db::open(opened.config.clone(), &Base::system()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = eventlog::Config { dir: folder.path().join("log"), ..Default::default() };
    let log = eventlog::EventLog::open(config, &opened.base).await.unwrap();
    let relay = relational::relay(opened.db.clone(), log.clone());
    let relay = opened.base.tasks.spawn("relay", relay);
    other
        .write(async |tx: &mut Tx| {
            tx.emit(event("note.written", "elsewhere".into(), 1)).await?;
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    let topic = log.topic(OrganisationId::DEFAULT, "notes").await.unwrap();
    let mut end = topic.end(0);
    let arrived = tokio::time::timeout(Duration::from_secs(10), end.wait_for(|end| *end == 1));
    arrived.await.unwrap().unwrap();
    relay.abort();
}
