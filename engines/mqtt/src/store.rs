//! What survives a restart: kept sessions, their subscriptions and queues, and retained messages, as rows.
//! Messages are stored as MQTT 5 PUBLISH packets.

use std::sync::Arc;

use async_trait::async_trait;
use base::access::{Principal, Subject};
use base::{OrganisationId, Timestamp};
use bytes::BytesMut;
use parking_lot::Mutex;
use relational::{Db, Migration, Read, Row, Tx, params};

use crate::encode::{self, Delivered};
use crate::outbox::Delivery;
use crate::packet::{Options, RetainedAt, Version};
use crate::retained::Retained;
use crate::{Error, Message, Qos, decode};

/// Rows are keyed by the session's number, which is never used again: the end of an old session and the begin of its
/// successor may come in any order.
const MIGRATIONS: &[Migration] = &[
    Migration {
        id: "0001-session",
        sql: "CREATE TABLE mqtt_session (
            number BIGINT NOT NULL PRIMARY KEY,
            organisation VARCHAR(36) NOT NULL,
            client TEXT NOT NULL,
            subject TEXT NOT NULL,
            name TEXT NOT NULL,
            expiry BIGINT NOT NULL,
            disconnected BIGINT
        )",
    },
    Migration {
        id: "0002-subscription",
        sql: "CREATE TABLE mqtt_subscription (
            organisation VARCHAR(36) NOT NULL,
            session BIGINT NOT NULL,
            filter VARCHAR(700) NOT NULL,
            qos BIGINT NOT NULL,
            no_local BIGINT NOT NULL,
            retain_as_published BIGINT NOT NULL,
            identifier BIGINT,
            PRIMARY KEY (session, filter)
        )",
    },
    Migration {
        id: "0003-queue",
        sql: "CREATE TABLE mqtt_queue (
            organisation VARCHAR(36) NOT NULL,
            session BIGINT NOT NULL,
            sequence BIGINT NOT NULL,
            cost BIGINT NOT NULL,
            received BIGINT NOT NULL,
            expires BIGINT,
            packet BLOB NOT NULL,
            PRIMARY KEY (session, sequence)
        )",
    },
    Migration {
        id: "0004-retained",
        sql: "CREATE TABLE mqtt_retained (
            organisation VARCHAR(36) NOT NULL,
            topic VARCHAR(700) NOT NULL,
            received BIGINT NOT NULL,
            expires BIGINT,
            packet BLOB NOT NULL,
            PRIMARY KEY (organisation, topic)
        )",
    },
];

/// Rows that are read at once when everything is loaded.
const PAGE: i64 = 200;

/// Where it survives. What a call was told is on disk; each call is there whole or not at all.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// The largest number that any row holds.
    async fn last_number(&self) -> Result<u64, Error>;

    /// The sessions after `after`, by number; none at the end.
    async fn sessions(&self, after: u64) -> Result<Vec<Kept>, Error>;

    /// The retained messages after one of them, by organisation and topic; none at the end.
    async fn retained(
        &self,
        after: Option<(OrganisationId, Arc<str>)>,
    ) -> Result<Vec<(OrganisationId, Message)>, Error>;

    async fn begin(&self, session: Begun) -> Result<(), Error>;

    /// Notes that the client is back, and gives what waits for it.
    async fn resume(&self, session: Begun) -> Result<Vec<Delivery>, Error>;

    async fn disconnected(&self, number: u64, expiry: u32, at: Timestamp) -> Result<(), Error>;

    async fn end(&self, number: u64) -> Result<(), Error>;

    async fn subscribe(
        &self,
        organisation: OrganisationId,
        number: u64,
        added: Vec<(Arc<str>, Options)>,
    ) -> Result<(), Error>;

    async fn unsubscribe(&self, number: u64, removed: Vec<Arc<str>>) -> Result<(), Error>;

    /// Stores what a batch of publishes leaves behind.
    async fn keep(
        &self,
        organisation: OrganisationId,
        queued: Vec<Queued>,
        retained: Vec<RetainedChange>,
    ) -> Result<(), Error>;

    /// Forgets deliveries that are done.
    async fn forget(&self, number: u64, sequences: Vec<u64>) -> Result<(), Error>;
}

/// Rows of a database.
pub(crate) struct Rows {
    db: Db,
}

/// A kept session as its rows tell it.
pub(crate) struct Kept {
    pub(crate) number: u64,
    pub(crate) client: Arc<str>,
    /// None when it can belong to nobody any more.
    pub(crate) principal: Option<Principal>,
    pub(crate) expiry: u32,
    /// None when it was connected when the server ended.
    pub(crate) disconnected: Option<Timestamp>,
    pub(crate) queued: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) subscriptions: Vec<(Arc<str>, Options)>,
}

/// A session that is begun or resumed.
pub(crate) struct Begun {
    pub(crate) number: u64,
    pub(crate) client: Arc<str>,
    pub(crate) principal: Principal,
    pub(crate) expiry: u32,
}

/// One delivery that a kept session must not lose.
pub(crate) struct Queued {
    pub(crate) session: u64,
    pub(crate) sequence: u64,
    pub(crate) message: Arc<Message>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) identifiers: Box<[u32]>,
}

/// The retained message of one topic changed in memory; what is there when the transaction runs is stored, so that
/// two changes at once end with the later one.
pub(crate) struct RetainedChange {
    pub(crate) topic: Arc<str>,
    pub(crate) retained: Arc<Mutex<Retained>>,
}

impl Rows {
    pub(crate) async fn open(db: Db) -> Result<Self, Error> {
        db.migrate("mqtt", MIGRATIONS).await?;
        // A delivery can be committed just after its session ended.
        let sweep = async |tx: &mut Tx| {
            for sql in [
                "DELETE FROM mqtt_queue WHERE session NOT IN (SELECT number FROM mqtt_session)",
                "DELETE FROM mqtt_subscription \
                    WHERE session NOT IN (SELECT number FROM mqtt_session)",
            ] {
                tx.execute(sql, params![]).await?;
            }
            Ok::<_, Error>(())
        };
        db.write(sweep).await?;
        Ok(Self { db })
    }
}

#[async_trait]
impl Store for Rows {
    async fn last_number(&self) -> Result<u64, Error> {
        let last = async |read: &mut Read| {
            let sql = "SELECT MAX(number) AS last FROM mqtt_session \
                UNION ALL SELECT MAX(sequence) AS last FROM mqtt_queue";
            let rows = read.query(sql, params![]).await?;
            let numbers = rows.iter().map(|row| row.get::<Option<u64>>("last"));
            let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Error>(numbers.into_iter().flatten().max().unwrap_or(0))
        };
        self.db.read(last).await
    }

    async fn sessions(&self, after: u64) -> Result<Vec<Kept>, Error> {
        let after = signed(after);
        let page = async move |read: &mut Read| {
            let sql = "SELECT number, organisation, client, subject, name, expiry, disconnected, \
                (SELECT COUNT(*) FROM mqtt_queue WHERE session = number) AS queued, \
                (SELECT COALESCE(SUM(cost), 0) FROM mqtt_queue WHERE session = number) AS cost \
                FROM mqtt_session WHERE number > ? ORDER BY number LIMIT ?";
            let mut sessions = Vec::new();
            for row in read.query(sql, params![after, PAGE]).await? {
                let number: u64 = row.get("number")?;
                let sql = "SELECT filter, qos, no_local, retain_as_published, identifier \
                    FROM mqtt_subscription WHERE session = ?";
                let rows = read.query(sql, params![signed(number)]).await?;
                sessions.push(kept(&row, &rows)?);
            }
            Ok::<_, Error>(sessions)
        };
        self.db.read(page).await
    }

    async fn retained(
        &self,
        after: Option<(OrganisationId, Arc<str>)>,
    ) -> Result<Vec<(OrganisationId, Message)>, Error> {
        let (organisation, topic) = match after {
            Some((organisation, topic)) => (organisation.to_string(), topic.as_ref().to_owned()),
            None => (String::new(), String::new()),
        };
        let page = async move |read: &mut Read| {
            let sql = "SELECT organisation, received, expires, packet FROM mqtt_retained \
                WHERE organisation > ? OR (organisation = ? AND topic > ?) \
                ORDER BY organisation, topic LIMIT ?";
            let parameters = params![organisation, organisation, topic, PAGE];
            let rows = read.query(sql, parameters).await?;
            rows.iter()
                .map(|row| Ok((row.get("organisation")?, delivery(row, 0)?)))
                .map(|found: Result<(OrganisationId, Delivery), Error>| {
                    let (organisation, delivery) = found?;
                    Ok((organisation, Arc::unwrap_or_clone(delivery.message)))
                })
                .collect::<Result<Vec<_>, Error>>()
        };
        self.db.read(page).await
    }

    async fn begin(&self, session: Begun) -> Result<(), Error> {
        let begin = async move |tx: &mut Tx| {
            let sql = "INSERT INTO mqtt_session \
                (number, organisation, client, subject, name, expiry, disconnected) \
                VALUES (?, ?, ?, ?, ?, ?, NULL)";
            let principal = &session.principal;
            let subject = subject_text(principal.subject);
            let parameters = params![
                signed(session.number),
                principal.organisation,
                session.client,
                subject,
                name_of(principal),
                session.expiry
            ];
            tx.execute(sql, parameters).await?;
            Ok(())
        };
        self.db.write(begin).await
    }

    async fn resume(&self, session: Begun) -> Result<Vec<Delivery>, Error> {
        let resume = async move |tx: &mut Tx| {
            let sql = "UPDATE mqtt_session \
                SET subject = ?, name = ?, expiry = ?, disconnected = NULL WHERE number = ?";
            let principal = &session.principal;
            let subject = subject_text(principal.subject);
            let number = signed(session.number);
            tx.execute(sql, params![subject, name_of(principal), session.expiry, number]).await?;
            let sql = "SELECT sequence, received, expires, packet FROM mqtt_queue \
                WHERE session = ? ORDER BY sequence";
            let rows = tx.query(sql, params![number]).await?;
            rows.iter()
                .map(|row| delivery(row, row.get("sequence")?))
                .collect::<Result<Vec<_>, Error>>()
        };
        self.db.write(resume).await
    }

    async fn disconnected(&self, number: u64, expiry: u32, at: Timestamp) -> Result<(), Error> {
        let note = async move |tx: &mut Tx| {
            let sql = "UPDATE mqtt_session SET expiry = ?, disconnected = ? WHERE number = ?";
            tx.execute(sql, params![expiry, at, signed(number)]).await?;
            Ok(())
        };
        self.db.write(note).await
    }

    async fn end(&self, number: u64) -> Result<(), Error> {
        let end = async move |tx: &mut Tx| {
            for sql in [
                "DELETE FROM mqtt_queue WHERE session = ?",
                "DELETE FROM mqtt_subscription WHERE session = ?",
                "DELETE FROM mqtt_session WHERE number = ?",
            ] {
                tx.execute(sql, params![signed(number)]).await?;
            }
            Ok(())
        };
        self.db.write(end).await
    }

    async fn subscribe(
        &self,
        organisation: OrganisationId,
        number: u64,
        added: Vec<(Arc<str>, Options)>,
    ) -> Result<(), Error> {
        let subscribe = async move |tx: &mut Tx| {
            for (filter, options) in &added {
                delete_subscription(tx, number, filter).await?;
                let sql = "INSERT INTO mqtt_subscription (organisation, session, filter, qos, \
                    no_local, retain_as_published, identifier) VALUES (?, ?, ?, ?, ?, ?, ?)";
                let parameters = params![
                    organisation,
                    signed(number),
                    filter,
                    options.qos.bits(),
                    options.no_local,
                    options.retain_as_published,
                    options.identifier
                ];
                tx.execute(sql, parameters).await?;
            }
            Ok(())
        };
        self.db.write(subscribe).await
    }

    async fn unsubscribe(&self, number: u64, removed: Vec<Arc<str>>) -> Result<(), Error> {
        let unsubscribe = async move |tx: &mut Tx| {
            for filter in &removed {
                delete_subscription(tx, number, filter).await?;
            }
            Ok(())
        };
        self.db.write(unsubscribe).await
    }

    async fn keep(
        &self,
        organisation: OrganisationId,
        queued: Vec<Queued>,
        retained: Vec<RetainedChange>,
    ) -> Result<(), Error> {
        let keep = async move |tx: &mut Tx| {
            for queued in &queued {
                insert_queued(tx, organisation, queued).await?;
            }
            for change in &retained {
                store_retained(tx, organisation, change).await?;
            }
            Ok(())
        };
        self.db.write(keep).await
    }

    async fn forget(&self, number: u64, sequences: Vec<u64>) -> Result<(), Error> {
        let forget = async move |tx: &mut Tx| {
            for sequence in &sequences {
                let sql = "DELETE FROM mqtt_queue WHERE session = ? AND sequence = ?";
                tx.execute(sql, params![signed(number), signed(*sequence)]).await?;
            }
            Ok(())
        };
        self.db.write(forget).await
    }
}

async fn delete_subscription(tx: &mut Tx, number: u64, filter: &str) -> Result<(), Error> {
    let sql = "DELETE FROM mqtt_subscription WHERE session = ? AND filter = ?";
    tx.execute(sql, params![signed(number), filter]).await?;
    Ok(())
}

async fn insert_queued(
    tx: &mut Tx,
    organisation: OrganisationId,
    queued: &Queued,
) -> Result<(), Error> {
    let message = &queued.message;
    let packet = packet(&Delivered {
        message,
        qos: queued.qos,
        dup: false,
        retain: queued.retain,
        id: 1,
        expiry: None,
        identifiers: &queued.identifiers,
    });
    let sql = "INSERT INTO mqtt_queue \
        (organisation, session, sequence, cost, received, expires, packet) \
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    let parameters = params![
        organisation,
        signed(queued.session),
        signed(queued.sequence),
        signed(message.cost() as u64),
        message.received,
        message.expires,
        packet
    ];
    tx.execute(sql, parameters).await?;
    Ok(())
}

async fn store_retained(
    tx: &mut Tx,
    organisation: OrganisationId,
    change: &RetainedChange,
) -> Result<(), Error> {
    let current = change.retained.lock().get(&change.topic).cloned();
    let sql = "DELETE FROM mqtt_retained WHERE organisation = ? AND topic = ?";
    tx.execute(sql, params![organisation, change.topic]).await?;
    let Some(message) = current else { return Ok(()) };
    let packet = packet(&Delivered {
        message: &message,
        qos: message.qos.granted(),
        dup: false,
        retain: true,
        id: 1,
        expiry: None,
        identifiers: &[],
    });
    let sql = "INSERT INTO mqtt_retained (organisation, topic, received, expires, packet) \
        VALUES (?, ?, ?, ?, ?)";
    let parameters =
        params![organisation, message.topic, message.received, message.expires, packet];
    tx.execute(sql, parameters).await?;
    Ok(())
}

fn packet(delivered: &Delivered<'_>) -> Vec<u8> {
    let mut packet = BytesMut::new();
    encode::publish(&mut packet, Version::V5, delivered, u32::MAX);
    packet.to_vec()
}

fn delivery(row: &Row, sequence: u64) -> Result<Delivery, Error> {
    let packet: Vec<u8> = row.get("packet")?;
    let publish = decode::stored_publish(&packet).map_err(|_| Error::Damaged)?;
    let message = Message {
        topic: publish.topic,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        client: "".into(),
        received: row.get("received")?,
        expires: row.get("expires")?,
        properties: publish.properties,
    };
    Ok(Delivery {
        qos: message.qos,
        retain: message.retain,
        message: Arc::new(message),
        dup: false,
        identifiers: publish.identifiers.into(),
        sequence,
        is_durable: true,
    })
}

fn kept(row: &Row, subscriptions: &[Row]) -> Result<Kept, Error> {
    let subject = subject(&row.get::<String>("subject")?);
    let organisation = row.get("organisation")?;
    let name: String = row.get("name")?;
    let client: String = row.get("client")?;
    let mut filters = Vec::with_capacity(subscriptions.len());
    for row in subscriptions {
        let filter: String = row.get("filter")?;
        let options = Options {
            qos: if row.get::<u8>("qos")? == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
            no_local: row.get("no_local")?,
            retain_as_published: row.get("retain_as_published")?,
            retained: RetainedAt::Never,
            identifier: row.get("identifier")?,
        };
        filters.push((filter.into(), options));
    }
    Ok(Kept {
        number: row.get("number")?,
        client: client.into(),
        principal: subject.map(|subject| Principal { organisation, subject, name: name.into() }),
        expiry: row.get("expiry")?,
        disconnected: row.get("disconnected")?,
        queued: row.get("queued")?,
        queued_bytes: row.get("cost")?,
        subscriptions: filters,
    })
}

/// What is kept of a name: an account's is its address, which is no business of a row.
fn name_of(principal: &Principal) -> String {
    match principal.subject {
        Subject::Account(_) => subject_text(principal.subject),
        Subject::Key(_) | Subject::System(_) => principal.name.to_string(),
    }
}

fn subject_text(subject: Subject) -> String {
    match subject {
        Subject::Account(id) => format!("account:{id}"),
        Subject::Key(id) => format!("key:{id}"),
        Subject::System(part) => format!("system:{part}"),
    }
}

/// Parts of the server do not come by a socket, so none is read back.
fn subject(text: &str) -> Option<Subject> {
    match text.split_once(':')? {
        ("account", id) => id.parse().ok().map(Subject::Account),
        ("key", id) => id.parse().ok().map(Subject::Key),
        _ => None,
    }
}

/// Databases have no unsigned integers; no counter comes near the difference.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
