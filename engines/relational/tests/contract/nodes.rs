use std::collections::BTreeMap;
use std::time::Duration;

use base::{Base, OrganisationId};
use relational::{
    Command, Commands, Db, Error, Leases, Migration, NewCommand, Tx, Unhandled, params,
};

use crate::ground::Ground;
use crate::isolation::event;

pub(crate) async fn a_dead_holder_on_another_server_is_replaced_and_its_late_write_refused(
    ground: &Ground,
) {
    let opened = ground.open_with(|config| config.lease_grace = Duration::ZERO).await;
    let other = Db::open(opened.config.clone(), &Base::system()).await.unwrap();
    let organisation = OrganisationId::DEFAULT;
    let (here, there) = (Leases::new(&opened.db, &opened.base), Leases::new(&other, &opened.base));
    let short = Duration::from_secs(5);
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

static EFFECTS: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (
        sequence INTEGER PRIMARY KEY,
        key VARCHAR(20) NOT NULL,
        number BIGINT NOT NULL,
        attempt BIGINT NOT NULL
    )",
}];

/// Both servers send and carry out; every third command fails at its first attempt.
pub(crate) async fn commands_of_two_servers_are_carried_out_once_and_in_order(ground: &Ground) {
    const KEYS: i64 = 8;
    const EACH: i64 = 15;
    let opened =
        ground.open_with(|config| config.command_back_off_min = Duration::from_millis(5)).await;
    opened.db.migrate("effects", EFFECTS).await.unwrap();
    let bases = [Base::system(), Base::system()];
    let mut servers = Vec::new();
    for base in &bases {
        let db = Db::open(opened.config.clone(), base).await.unwrap();
        let mut commands = Commands::new(&db, base);
        commands.handle("thing.do", effect).unwrap();
        commands.start().await.unwrap();
        servers.push(db);
    }
    for number in 0..EACH {
        for key in 0..KEYS {
            let db = &servers[usize::try_from(key + number).unwrap() % servers.len()];
            let send = async move |tx: &mut Tx| {
                tx.send(NewCommand {
                    organisation: OrganisationId::DEFAULT,
                    name: "thing.do",
                    key: key.to_string(),
                    payload: number.to_string().into_bytes(),
                    not_before: None,
                })
                .await
            };
            Result::<_, Error>::unwrap(db.write(send).await);
        }
    }
    let limit = Duration::from_mins(1);
    let began = opened.base.clock.instant();
    let rows = loop {
        let rows = opened.db.read(async |read| {
            let all = "SELECT key, number, attempt FROM effects ORDER BY sequence";
            let rows = read.query(all, &[]).await?;
            let left = read.query("SELECT id FROM command", &[]).await?;
            Ok::<_, Error>(left.is_empty().then_some(rows))
        });
        if let Some(rows) = rows.await.unwrap() {
            break rows;
        }
        assert!(opened.base.clock.instant() - began < limit, "commands are left");
        opened.base.clock.sleep(Duration::from_millis(50)).await;
    };
    let mut of_key: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut again = 0;
    for row in &rows {
        let key = row.get("key").unwrap();
        of_key.entry(key).or_default().push(row.get("number").unwrap());
        again += i64::from(row.get::<i64>("attempt").unwrap() > 1);
    }
    assert_eq!(of_key.len(), usize::try_from(KEYS).unwrap());
    for (key, numbers) in of_key {
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "key {key}");
    }
    assert!(again >= KEYS * EACH / 3, "{again} ran again");
    for base in bases {
        base.tasks.stop(Duration::from_secs(10)).await;
    }
}

async fn effect(tx: &mut Tx, command: &Command) -> Result<(), Unhandled> {
    let text = String::from_utf8_lossy(&command.payload).into_owned();
    let number: i64 = text.parse().map_err(|_| Unhandled::invalid("no number"))?;
    let insert = "INSERT INTO effects (key, number, attempt) VALUES (?, ?, ?)";
    tx.execute(insert, params![command.key, number, command.attempt]).await?;
    if number % 3 == 0 && command.attempt == 1 {
        return Err(Unhandled::new(base::ErrorKind::Internal, &Error::Conflict));
    }
    Ok(())
}
