//! Names every part once, in the order they start. Nothing else knows them all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use articles::Articles;
use base::access::Authority;
use base::{Base, OrganisationId};
use comments::Comments;
use delivery::Delivery;
use devices::{Devices, Needs};
use edge::{Router, Routes};
use eventlog::EventLog;
use identity::{Grant, Identity, Mailer, NewKey};
use jobs::Jobs;
use kv::Kv;
use lake::Lake;
use mqtt::Mqtt;
use relational::{Commands, Db};
use results::Results;
use sockets::{Sockets, Source};

use crate::adapters::{
    AlertNotices, AlertTopics, BrowserSessions, DeviceKeys, DeviceMessages, GuestPasswords,
    LinkMails, ProvidersWeb, ReadingTopics, Readings, handle_commands, handle_jobs,
};
use crate::config::Config;
use crate::doors::Doors;
use crate::listen::{Entrances, Entries, Entry, Ports};
use crate::persons::{Farewells, Persons};
use crate::sample;
use crate::tls::Shown;

/// The same surroundings, with tasks on either group of threads.
pub(crate) struct Bases {
    /// For doors and engines.
    pub(crate) io: Base,
    /// For handlers and features.
    pub(crate) handlers: Base,
}

/// What an added room stands on.
#[derive(Clone)]
pub struct Ground {
    /// Tasks of it run on the threads for doors and engines.
    pub io: Base,
    /// Tasks of it run on the threads for handlers and features.
    pub handlers: Base,
    pub db: Db,
    pub log: EventLog,
}

/// Makes the operations of a room that a development tool adds.
pub type Added = fn(Ground) -> Routes<Ground>;

/// Everything but the doors' sockets.
pub(crate) struct Rooms {
    pub(crate) doors: Doors,
    pub(crate) log: EventLog,
    mqtt: Mqtt,
    kv: Kv,
    pub(crate) authority: Arc<dyn Authority>,
}

/// A process that answers.
pub(crate) struct Running {
    rooms: Rooms,
    router: Router,
    public_url: Option<String>,
    pub(crate) addresses: Addresses,
}

/// Where the doors are.
#[derive(Clone)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    /// Nothing where clients ask another server for the keys.
    pub(crate) kv: Option<SocketAddr>,
    pub(crate) http_tls: Option<SocketAddr>,
    pub(crate) mqtt_tls: Option<SocketAddr>,
    pub(crate) kv_tls: Option<SocketAddr>,
}

/// The keys of an announcement, made anew at each start.
pub(crate) struct AnnouncedKeys {
    pub(crate) admin_token: String,
    pub(crate) mqtt_user: String,
    pub(crate) mqtt_password: String,
    /// For clients that know one password only: the key's id and its secret. Nothing without a door for them.
    pub(crate) resp_password: Option<String>,
}

/// Opens every part, from the ground up.
pub(crate) async fn open(
    config: &Config,
    mqtt_address: Option<SocketAddr>,
    bases: &Bases,
    added: Option<Added>,
) -> Result<Rooms> {
    let base = &bases.io;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("make the folder {}", config.data_dir.display()))?;

    // Engines.
    let log = EventLog::open(config.eventlog.clone(), base).await.context("open the event log")?;
    let db = Db::open(config.relational.clone(), base).await.context("open the rows")?;
    base.tasks.supervise("outbox_relay", {
        let (db, log) = (db.clone(), log.clone());
        move || relational::relay(db.clone(), log.clone())
    });
    let lake = Lake::open(config.lake.clone(), base).await.context("open the lake")?;
    let egress = config.egress.clone();
    let delivery = Delivery::open(config.delivery.clone(), egress, base, db.clone()).await?;
    let mailer = delivery.has_mail_server().then(|| {
        let mailer: Arc<dyn Mailer> = Arc::new(LinkMails(delivery.clone(), base.clone()));
        mailer
    });
    let needs = identity::Needs {
        mailer,
        web: Some(Arc::new(ProvidersWeb(delivery.clone()))),
        farewell: Some(Arc::new(Farewells(base.clock.clone()))),
    };
    let identity = Identity::open(config.identity.clone(), base, db.clone(), needs).await?;
    let authority: Arc<dyn Authority> = Arc::new(identity.clone());
    let mut commands = Commands::new(&db, base);
    handle_commands(&mut commands, delivery.clone())?;
    let jobs = Jobs::open(config.jobs.clone(), &bases.handlers, db.clone()).await?;
    handle_jobs(&jobs, delivery.clone())?;

    let folder = config.data_dir.join("kv");
    let kv = Kv::open(config.kv.part.clone(), base, &folder, authority.clone(), None);
    let kv = kv.await.context("open the keys")?;
    let kept = config.results.clone();
    let results = if config.relational.url.is_embedded() {
        Results::open_alone(kept, base, &db, &kv).await
    } else {
        Results::open(kept, base, &db, &kv).await
    };
    let results = results.context("open the results")?;

    // Features.
    let needs = comments::Needs {
        db: db.clone(),
        results: results.clone(),
        authority: authority.clone(),
        passwords: Arc::new(GuestPasswords(identity.clone())),
    };
    let comments = Comments::open(config.comments.clone(), &bases.handlers, needs).await?;
    let needs = Needs {
        db: db.clone(),
        results: results.clone(),
        log: log.clone(),
        lake: lake.clone(),
        authority: authority.clone(),
        notifier: Arc::new(AlertNotices(delivery.clone())),
        keys: Arc::new(DeviceKeys(identity.clone())),
    };
    let devices = Devices::open(config.devices.clone(), &bases.handlers, needs).await?;
    devices.roll_up_by(&jobs).await.context("have readings rolled up")?;
    let needs = articles::Needs { db: db.clone(), identity: identity.clone(), results };
    let articles = Articles::open(config.articles.clone(), &bases.handlers, needs).await?;
    let persons = Persons {
        identity: identity.clone(),
        articles: articles.clone(),
        comments: comments.clone(),
        delivery: delivery.clone(),
    };
    persons.handle(&mut commands, &base.clock)?;
    commands.start().await.context("carry out the commands that wait")?;
    let again = identity.remove_again().await.context("remove those again who were removed")?;
    if again > 0 {
        tracing::warn!(people = again, "came back with the rows, and are removed again");
    }
    jobs.start().await.context("run the jobs that wait")?;

    // The broker hands readings to devices, so it comes after them.
    let intake = Arc::new(Readings(devices.clone()));
    let mqtt = config.mqtt.part.clone();
    let mqtt = Mqtt::open(mqtt, base, db.clone(), authority.clone(), intake).await?;
    devices.connect(Arc::new(DeviceMessages(mqtt.clone())));

    let sources: Vec<Arc<dyn Source>> = vec![Arc::new(ReadingTopics), Arc::new(AlertTopics)];
    let part = config.sockets.part.clone();
    let stores = (log.clone(), db.clone());
    let sockets = Sockets::open(part, base, stores, authority.clone(), sources).await?;

    let started = base.clock.now();
    let (base, handlers) = (base.clone(), bases.handlers.clone());
    let ground = Ground { io: base.clone(), handlers, db: db.clone(), log: log.clone() };
    let added = added.map(|added| (added, ground));
    let handlers = bases.handlers.tasks.clone();
    let doors = Doors {
        kv: kv.clone(),
        base,
        handlers,
        started,
        mqtt_address,
        db,
        identity,
        persons: Arc::new(persons),
        lake,
        delivery,
        jobs,
        comments,
        devices,
        articles,
        sockets,
        mqtt: mqtt.clone(),
        certificates: None,
        added,
    };
    Ok(Rooms { doors, log, mqtt, kv, authority })
}

/// Opens every part and every door.
pub(crate) async fn start(
    mut config: Config,
    ports: Ports,
    bases: &Bases,
    added: Option<Added>,
) -> Result<Running> {
    let base = &bases.io;
    // Ports first: a busy one is told before anything is opened.
    let entrances = Entrances::open(&config, ports, base)?;
    let addresses = entrances.addresses();
    // Links in mails and passkeys are for this place, whatever a request calls it.
    let here = || format!("http://{}", addresses.http);
    config.identity.origin = config.http.public_url.clone().unwrap_or_else(here);
    config.articles.origin = config.identity.origin.trim_end_matches('/').to_owned();
    let mut rooms = open(&config, Some(addresses.mqtt), bases, added).await?;
    rooms.doors.certificates = entrances.shown.as_ref().and_then(Shown::authority);
    let sessions = Arc::new(BrowserSessions(rooms.doors.identity.clone()));
    let edge_config = config.http.part.clone();
    let router = rooms.doors.router(rooms.authority.clone(), sessions, edge_config.clone());
    let running = Running { rooms, router, public_url: config.http.public_url, addresses };
    running.open_doors(entrances, &edge_config, base)?;
    Ok(running)
}

impl Entrances {
    fn addresses(&self) -> Addresses {
        let Self { http, mqtt, kv, .. } = self;
        Addresses {
            http: http.bare.address,
            mqtt: mqtt.bare.address,
            kv: kv.as_ref().map(|kv| kv.bare.address),
            http_tls: http.secured_address(),
            mqtt_tls: mqtt.secured_address(),
            kv_tls: kv.as_ref().and_then(Entries::secured_address),
        }
    }
}

impl Running {
    /// Lets clients in.
    fn open_doors(&self, entrances: Entrances, config: &edge::Config, base: &Base) -> Result<()> {
        let Entrances { http, mqtt, kv, stomp, shown } = entrances;
        let answers = shown.as_ref().and_then(Shown::answers);
        if let Some(shown) = shown {
            let on = base.clone();
            base.tasks.supervise("certificate", move || shown.clone().follow(on.clone()));
        }
        for Entry { listener, tls, address } in http.each() {
            let router = match self.elsewhere(tls.is_some(), address) {
                Some(url) => edge::elsewhere(url),
                None => self.router.clone(),
            };
            let router = match answers.clone().filter(|_| tls.is_none()) {
                Some(answers) => edge::well_known(router, move |token| answers.http_answer(token)),
                None => router,
            };
            let served = edge::serve(listener, tls, router, config.clone(), base.clone());
            base.tasks.spawn("http", served);
        }
        for Entry { listener, tls, .. } in mqtt.each() {
            let broker = self.rooms.mqtt.clone();
            base.tasks.spawn("mqtt", async move { broker.serve(listener, tls).await });
        }
        if let Some(Entries { bare, secured }) = kv {
            let store = self.rooms.kv.clone();
            if let Some(Entry { listener, tls, .. }) = secured {
                store.listen(listener.into_std()?, tls)?;
            }
            let resp = bare.listener.into_std()?;
            base.tasks.spawn("kv", async move {
                if let Err(error) = store.serve(resp).await {
                    tracing::error!(%error, "the store for Redis clients has ended");
                }
            });
        }
        for Entry { listener, tls, .. } in stomp {
            let sockets = self.rooms.doors.sockets.clone();
            base.tasks.spawn("sockets", async move { sockets.listen(listener, tls).await });
        }
        Ok(())
    }

    /// Where a bare door that the network can reach sends those who come, when there is another under TLS.
    fn elsewhere(&self, is_tls: bool, address: SocketAddr) -> Option<&str> {
        let has_tls = self.addresses.http_tls.is_some();
        let url = self.public_url.as_deref().filter(|url| url.starts_with("https://"))?;
        (has_tls && !is_tls && !address.ip().is_loopback()).then_some(url)
    }

    /// Where people open the console, with a slash at the end.
    pub(crate) fn console_url(&self) -> String {
        let url =
            self.public_url.clone().unwrap_or_else(|| format!("http://{}", self.addresses.http));
        format!("{}/", url.trim_end_matches('/'))
    }

    pub(crate) async fn administrator_link(&self) -> Result<Option<String>> {
        Ok(self.rooms.doors.identity.administrator_link().await?)
    }

    pub(crate) async fn announced_keys(&self) -> Result<AnnouncedKeys> {
        let admin = self.server_key("announced administrator", vec![Grant::new("*", "*")]).await?;
        let device = self.server_key("announced device", device_grants()).await?;
        let mut resp_password = None;
        if self.addresses.kv.is_some() {
            let grants = vec![Grant::new("kv.*", "kv/*"), Grant::new("kv.*", "kv-channel/*")];
            let store = self.server_key("announced store", grants).await?;
            resp_password = Some(format!("{}:{}", store.mqtt_user, store.mqtt_password));
        }
        Ok(AnnouncedKeys {
            admin_token: admin.token,
            mqtt_user: device.mqtt_user,
            mqtt_password: device.mqtt_password,
            resp_password,
        })
    }

    /// Starts the replay of the sample, as a device that came from outside.
    pub(crate) async fn start_sample(&self) -> Result<()> {
        let mut grants = device_grants();
        grants.push(Grant::new("devices.write", "*"));
        let key = self.server_key("sample", grants).await?;
        let doors = &self.rooms.doors;
        let target = sample::Target {
            base: doors.base.clone(),
            db: doors.db.clone(),
            router: self.router.clone(),
            mqtt: self.addresses.mqtt,
            key,
        };
        sample::start(target).await
    }

    async fn server_key(
        &self,
        label: &str,
        grants: Vec<Grant>,
    ) -> Result<identity::KeyCredentials> {
        let new = NewKey { label: label.to_owned(), grants };
        Ok(self.rooms.doors.identity.ensure_key(OrganisationId::DEFAULT, new).await?)
    }

    /// Lets the doors and tasks end, then closes what holds files.
    pub(crate) async fn stop(self, base: &Base, within: Duration) {
        if !base.tasks.stop(within).await {
            tracing::warn!("some tasks did not end in time");
        }
        self.rooms.log.close().await;
        self.rooms.doors.db.close().await;
    }
}

/// What a device may do that registers itself by its first reading.
fn device_grants() -> Vec<Grant> {
    vec![
        Grant::new("mqtt.*", "mqtt/*"),
        // Every start makes another key, and devices go on with what they missed.
        Grant::new("mqtt.client", "client/*"),
        Grant::new("devices.register", "device/*"),
        Grant::new("readings.*", "*"),
    ]
}
