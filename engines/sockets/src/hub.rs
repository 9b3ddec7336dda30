//! Everything that connections share: the topics and queues of each organisation, and who is connected.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use base::access::{Action, Authority, Principal, Resource};
use base::{Base, OrganisationId, Shares, Timestamp};
use eventlog::{EventLog, Topic};
use parking_lot::Mutex;
use relational::Db;
use tokio::sync::OnceCell;

use crate::destination::{Destination, holder};
use crate::lane::{Around, Lane, Source};
use crate::message::Draft;
use crate::meter::Meter;
use crate::outbox::{End, Outbox};
use crate::pool::Pool;
use crate::queue::{Queue, Settled};
use crate::session::Deed;
use crate::store::{Added, Change};
use crate::{Config, Error, PUBLISH, SUBSCRIBE, TOPIC_OF_THE_LOG, store};

pub(crate) struct Hub {
    pub(crate) config: Arc<Config>,
    pub(crate) base: Base,
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) pool: Arc<Pool>,
    /// Connections of each peer that are not let in yet.
    pub(crate) peers: Arc<Shares>,
    log: EventLog,
    pub(crate) db: Db,
    sources: Vec<Arc<dyn Source>>,
    organisations: Mutex<HashMap<OrganisationId, Arc<Organisation>>>,
    members: Mutex<HashMap<u64, Arc<Member>>>,
    /// Open connections, those included that are not let in.
    pub(crate) connections: AtomicUsize,
    next_member: AtomicU64,
    /// The last number that a message of a queue got.
    last_row: AtomicU64,
}

/// What an organisation has in memory.
pub(crate) struct Organisation {
    id: OrganisationId,
    /// By the place of the source, own topics first.
    lanes: Vec<OnceCell<Lanes>>,
    queues: Mutex<HashMap<Arc<str>, Opening>>,
}

/// A queue, once its size is read.
type Opening = Arc<OnceCell<Arc<Queue>>>;

/// Messages and the channels that they are for.
type Drafts = Vec<(Arc<str>, Draft)>;

struct Lanes {
    topic: Topic,
    lanes: Vec<Arc<Lane>>,
}

/// Somebody who is connected and let in.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) principal: Principal,
    pub(crate) peer: IpAddr,
    pub(crate) since: Timestamp,
    pub(crate) version: &'static str,
    pub(crate) is_web: bool,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) subscriptions: AtomicU32,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

/// A connection of the console's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub id: u64,
    /// An e-mail address or a key's label.
    pub name: String,
    pub peer: IpAddr,
    pub since: Timestamp,
    /// Of STOMP.
    pub version: &'static str,
    pub is_web: bool,
    pub subscriptions: u32,
    /// Messages that it sent.
    pub received: u64,
    /// Messages that it was sent.
    pub sent: u64,
    /// Bytes that wait for it.
    pub waiting_bytes: usize,
}

/// Where a destination leads.
pub(crate) enum Route {
    Topic { lane: Arc<Lane>, channel: Arc<str> },
    Queue(Arc<Queue>),
}

/// What a frame or a transaction does, until it is durable. Dropped before that, it is undone.
#[derive(Default)]
pub(crate) struct Work {
    change: Change,
    expected: Vec<(Arc<Queue>, u64, u64)>,
    taken: Vec<Taken>,
    topics: Vec<(Arc<Lane>, Drafts)>,
    /// Told and not kept.
    told: Vec<(Arc<Lane>, Arc<str>, Draft)>,
}

/// Messages that were taken from a consumer, until their rows are changed.
struct Taken {
    queue: Arc<Queue>,
    settled: Settled,
    /// Where the dead ones go, once there is room for them.
    dead: Option<Arc<Queue>>,
}

impl Hub {
    pub(crate) async fn open(
        config: Config,
        base: &Base,
        (log, db): (EventLog, Db),
        authority: Arc<dyn Authority>,
        sources: Vec<Arc<dyn Source>>,
    ) -> Result<Arc<Self>, Error> {
        if let Some(fault) = config.fault() {
            return Err(Error::Config(fault));
        }
        // The clock goes on while rows are deleted, so no number, which clients tell messages apart by, comes twice.
        let moment = u64::try_from(base.clock.now().micros()).unwrap_or(0);
        let last_row = store::open(&db).await?.max(moment);
        let networks = config.peers_without_limit.clone();
        Ok(Arc::new(Self {
            pool: Pool::new(config.waiting_bytes_max),
            peers: Shares::new(config.connecting_per_peer_max, networks),
            config: Arc::new(config),
            meter: Arc::new(Meter::new(&base.metrics)),
            base: base.clone(),
            authority,
            log,
            db,
            sources,
            organisations: Mutex::default(),
            members: Mutex::default(),
            connections: AtomicUsize::new(0),
            next_member: AtomicU64::new(1),
            last_row: AtomicU64::new(last_row),
        }))
    }

    pub(crate) fn organisation(&self, id: OrganisationId) -> Result<Arc<Organisation>, Error> {
        let mut organisations = self.organisations.lock();
        if let Some(found) = organisations.get(&id) {
            return Ok(found.clone());
        }
        if organisations.len() >= self.config.organisations_max {
            return Err(Error::TooMany("organisations"));
        }
        let lanes = (0..=self.sources.len()).map(|_| OnceCell::new()).collect();
        let made = Arc::new(Organisation { id, lanes, queues: Mutex::default() });
        organisations.insert(id, made.clone());
        Ok(made)
    }

    pub(crate) fn may(&self, principal: &Principal, action: Action, path: &str) -> bool {
        let resource = Resource { organisation: principal.organisation, path };
        self.authority.authorize(principal, action, resource).is_ok()
    }

    /// Whether somebody may listen to a destination: also what its source asks for.
    pub(crate) fn may_subscribe(&self, principal: &Principal, destination: &Destination) -> bool {
        let source = match destination {
            Destination::Topic(name) => self.source_of(name).map(|(_, source)| (source, name)),
            _ => None,
        };
        let needed = source.and_then(|(source, name)| source.needs(name));
        self.may(principal, SUBSCRIBE, &destination.resource())
            && needed.is_none_or(|(action, path)| self.may(principal, action, &path))
    }

    pub(crate) fn may_publish(
        &self,
        principal: &Principal,
        destination: &Destination,
    ) -> Result<(), Error> {
        if !self.may(principal, PUBLISH, &destination.resource()) {
            return Err(Error::Forbidden);
        }
        self.check_publish(destination)
    }

    /// What a source tells is sent by nobody else.
    fn check_publish(&self, destination: &Destination) -> Result<(), Error> {
        match destination {
            Destination::Topic(name) if self.source_of(name).is_some() => {
                Err(Error::NotYours(format!("/topic/{name}")))
            }
            _ => Ok(()),
        }
    }

    fn source_of(&self, name: &str) -> Option<(usize, &Arc<dyn Source>)> {
        self.sources.iter().enumerate().find(|(_, source)| source.owns(name))
    }

    /// Finds where a destination of somebody leads, and opens it when nobody has before.
    pub(crate) async fn route(
        &self,
        principal: &Principal,
        destination: &Destination,
    ) -> Result<Route, Error> {
        let organisation = self.organisation(principal.organisation)?;
        let Some(channel) = destination.channel(principal.subject) else {
            let Destination::Queue(name) = destination else {
                return Err(Error::NotFound("destination"));
            };
            return Ok(Route::Queue(self.queue(&organisation, name).await?));
        };
        let found = match destination {
            Destination::Topic(name) => self.source_of(name).map(|found| (found, name)),
            _ => None,
        };
        let Some(((index, source), name)) = found else {
            let lanes = self.lanes(&organisation, None).await?;
            let partition = lanes.topic.partition_for(channel.as_bytes());
            return Ok(Route::Topic { lane: lanes.lanes[partition as usize].clone(), channel });
        };
        let lanes = self.lanes(&organisation, Some((index, source))).await?;
        let partition = match (source.key(name), lanes.lanes.len()) {
            (_, 1) => 0,
            (Some(key), _) => lanes.topic.partition_for(key.as_bytes()),
            (None, count) => {
                let text = format!("/topic/{name} is in {count} partitions, which have no order");
                return Err(Error::Destination(text));
            }
        };
        Ok(Route::Topic { lane: lanes.lanes[partition as usize].clone(), channel })
    }

    async fn lanes<'a>(
        &self,
        organisation: &'a Organisation,
        source: Option<(usize, &Arc<dyn Source>)>,
    ) -> Result<&'a Lanes, Error> {
        let place = source.map_or(0, |(index, _)| index + 1);
        let name = source.map_or(TOPIC_OF_THE_LOG, |(_, source)| source.log_topic());
        let open = || async {
            let topic = self.log.topic(organisation.id, name).await?;
            let around = Around::new(self);
            let lane = |partition| match source {
                None => Lane::own(topic.clone(), partition, around.clone()),
                Some((_, source)) => {
                    Lane::following(source.clone(), topic.clone(), partition, around.clone())
                }
            };
            let lanes = (0..topic.partitions()).map(lane).collect();
            Ok::<_, Error>(Lanes { topic, lanes })
        };
        organisation.lanes[place].get_or_try_init(open).await
    }

    async fn queue(
        &self,
        organisation: &Organisation,
        name: &Arc<str>,
    ) -> Result<Arc<Queue>, Error> {
        let cell = {
            let mut queues = organisation.queues.lock();
            if queues.len() >= self.config.queues_max && !queues.contains_key(name) {
                // One that somebody holds is about to be used.
                queues.retain(|_, cell| {
                    Arc::strong_count(cell) > 1
                        || cell.get().is_some_and(|it| Arc::strong_count(it) > 1 || !it.is_idle())
                });
                if queues.len() >= self.config.queues_max {
                    return Err(Error::TooMany("queues"));
                }
            }
            queues.entry(name.clone()).or_default().clone()
        };
        let around = Around::new(self);
        let open = || Queue::open(organisation.id, name.clone(), self.db.clone(), around);
        Ok(cell.get_or_try_init(open).await?.clone())
    }

    /// Finds where everything of a frame or a transaction goes, and makes room for it.
    pub(crate) async fn prepare(
        &self,
        (member, principal): (u64, &Principal),
        deeds: Vec<Deed>,
    ) -> Result<Work, Error> {
        let mut work = Work::default();
        for deed in deeds {
            match deed {
                Deed::Send { destination, draft, is_kept } => {
                    match self.route(principal, &destination).await? {
                        Route::Topic { lane, channel } if is_kept => {
                            work.publish(lane, channel, draft);
                        }
                        Route::Topic { lane, channel } => work.told.push((lane, channel, draft)),
                        Route::Queue(queue) => work.add(&queue, self.next_row(), draft)?,
                    }
                }
                Deed::Settle { destination, number, rows, verdict } => {
                    let Route::Queue(queue) = self.route(principal, &destination).await? else {
                        continue;
                    };
                    let settled = queue.settle((member, number), &rows, verdict);
                    self.settle(&mut work, queue, settled).await?;
                }
            }
        }
        Ok(work)
    }

    /// Makes it durable and tells it: rows in one commit, then messages to topics.
    pub(crate) async fn commit(
        &self,
        organisation: OrganisationId,
        mut work: Work,
    ) -> Result<(), Error> {
        let change = work.change.clone();
        store::change(&self.db, organisation, change, self.base.clock.now()).await?;
        let told = std::mem::take(&mut work.told);
        let topics = std::mem::take(&mut work.topics);
        work.done();
        for (lane, channel, draft) in told {
            lane.tell_only(&channel, &draft);
        }
        for (lane, drafts) in topics {
            let answered = lane.publish(drafts).await?;
            answered.await.map_err(|_| Error::Stopping)??;
        }
        Ok(())
    }

    /// Notes what becomes of the rows of messages that were taken from a consumer.
    async fn settle(
        &self,
        work: &mut Work,
        queue: Arc<Queue>,
        settled: Settled,
    ) -> Result<(), Error> {
        for (number, _) in &settled.done {
            work.change.removed.push((queue.name.clone(), *number));
        }
        for (number, deliveries) in &settled.again {
            work.change.returned.push((queue.name.clone(), *number, *deliveries));
        }
        let has_dead = !settled.dead.is_empty();
        // From here on it is put back when this does not come to its end, also where it only waits.
        work.taken.push(Taken { queue: queue.clone(), settled, dead: None });
        if !has_dead {
            return Ok(());
        }
        let organisation = self.organisation(queue.organisation)?;
        // A dead one that is not taken is dead where it is.
        let dead = if queue.name.starts_with(DEAD) {
            queue.clone()
        } else {
            self.queue(&organisation, &format!("{DEAD}{}", queue.name).into()).await?
        };
        let taken = work.taken.last_mut().expect("it was put there");
        // In its own queue it takes no further room.
        if Arc::ptr_eq(&dead, &queue) {
            queue.expect_back(&taken.settled.dead);
        } else {
            dead.expect_moved(&taken.settled.dead)?;
        }
        for (number, _) in &taken.settled.dead {
            work.change.moved.push((queue.name.clone(), dead.name.clone(), *number));
        }
        taken.dead = Some(dead);
        Ok(())
    }

    /// A consumer has gone: others get what it did not acknowledge.
    pub(crate) async fn leave_queue(&self, queue: Arc<Queue>, id: (u64, u32)) {
        let settled = queue.leave(id);
        if settled.dead.is_empty() && settled.again.is_empty() {
            return;
        }
        let mut work = Work::default();
        let organisation = queue.organisation;
        let changed = match self.settle(&mut work, queue, settled).await {
            Ok(()) => self.commit(organisation, work).await,
            Err(error) => Err(error),
        };
        if let Err(error) = changed {
            tracing::warn!(%error, "messages that nobody takes could not be put aside");
        }
    }

    fn next_row(&self) -> u64 {
        self.last_row.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn enter(&self, member: Member) -> Arc<Member> {
        let member = Arc::new(member);
        self.members.lock().insert(member.id, member.clone());
        member
    }

    pub(crate) fn next_member(&self) -> u64 {
        self.next_member.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn gone(&self, member: &Member) {
        self.members.lock().remove(&member.id);
    }

    /// Open connections of an organisation after an id, by id.
    pub(crate) fn connections_of(
        &self,
        organisation: OrganisationId,
        after: u64,
        max: usize,
    ) -> Vec<ConnectionInfo> {
        let members = self.members.lock();
        let mut found: Vec<&Arc<Member>> = members
            .values()
            .filter(|it| it.principal.organisation == organisation && it.id > after)
            .collect();
        found.sort_unstable_by_key(|it| it.id);
        found.into_iter().take(max).map(|it| it.info()).collect()
    }

    pub(crate) fn close(&self, organisation: OrganisationId, id: u64) -> Result<(), Error> {
        let members = self.members.lock();
        let found = members.get(&id).filter(|it| it.principal.organisation == organisation);
        found.ok_or(Error::NotFound("connection"))?.outbox.end(End::Closed);
        Ok(())
    }

    pub(crate) fn topics(&self, organisation: OrganisationId) -> Vec<crate::TopicInfo> {
        let Some(found) = self.organisations.lock().get(&organisation).cloned() else {
            return Vec::new();
        };
        let lanes = found.lanes.iter().filter_map(OnceCell::get).flat_map(|it| &it.lanes);
        let mut topics: Vec<_> = lanes.flat_map(|lane| lane.topics()).collect();
        topics.sort_by(|a, b| a.destination.cmp(&b.destination));
        topics
    }

    /// Queues with messages or consumers.
    pub(crate) async fn queues(
        &self,
        organisation: OrganisationId,
    ) -> Result<Vec<crate::QueueInfo>, Error> {
        let stored = store::queues(&self.db, organisation, self.config.queues_max).await?;
        let mut infos: HashMap<String, crate::QueueInfo> = stored
            .into_iter()
            .map(|(name, messages)| {
                let info = crate::QueueInfo {
                    name: name.clone(),
                    messages,
                    unacknowledged: 0,
                    consumers: 0,
                };
                (name, info)
            })
            .collect();
        let found = self.organisations.lock().get(&organisation).cloned();
        if let Some(found) = found {
            for queue in found.queues.lock().values().filter_map(|cell| cell.get()) {
                let info = queue.info();
                if info.messages > 0 || info.consumers > 0 {
                    infos.insert(info.name.clone(), info);
                }
            }
        }
        let mut infos: Vec<_> = infos.into_values().collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    /// A message in the server's own name.
    pub(crate) async fn publish(
        &self,
        principal: &Principal,
        destination: &Destination,
        draft: Draft,
    ) -> Result<(), Error> {
        self.check_publish(destination)?;
        let destination = destination.clone();
        let deed = Deed::Send { destination, draft, is_kept: true };
        let work = self.prepare((0, principal), vec![deed]).await?;
        self.commit(principal.organisation, work).await
    }
}

/// What the name of a queue of dead messages begins with.
const DEAD: &str = "dead.";

impl Work {
    fn publish(&mut self, lane: Arc<Lane>, channel: Arc<str>, draft: Draft) {
        match self.topics.iter_mut().find(|(it, _)| Arc::ptr_eq(it, &lane)) {
            Some((_, drafts)) => drafts.push((channel, draft)),
            None => self.topics.push((lane, vec![(channel, draft)])),
        }
    }

    fn add(&mut self, queue: &Arc<Queue>, number: u64, draft: Draft) -> Result<(), Error> {
        let bytes = draft.bytes() as u64;
        queue.expect(number, bytes)?;
        self.expected.push((queue.clone(), number, bytes));
        let (queue, draft) = (queue.name.clone(), Arc::new(draft));
        self.change.added.push(Added { queue, number, draft });
        Ok(())
    }

    fn done(mut self) {
        let expected = std::mem::take(&mut self.expected);
        for ((queue, number, _), added) in expected.into_iter().zip(&self.change.added) {
            queue.came(number, &added.draft);
        }
        for Taken { queue, settled, dead } in std::mem::take(&mut self.taken) {
            queue.forget(&settled);
            let Some(dead) = dead else { continue };
            for (number, held) in &settled.dead {
                dead.moved_here(*number, held);
            }
        }
    }
}

impl Drop for Work {
    /// What was not made durable is as if it had never been.
    fn drop(&mut self) {
        for (queue, number, bytes) in self.expected.drain(..) {
            queue.missed(number, bytes);
        }
        for Taken { queue, settled, dead } in self.taken.drain(..) {
            if let Some(dead) = dead {
                settled.dead.iter().for_each(|(number, held)| dead.missed(*number, held.bytes()));
            }
            queue.put_back(settled);
        }
    }
}

impl Member {
    fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            name: self.principal.name.to_string(),
            peer: self.peer,
            since: self.since,
            version: self.version,
            is_web: self.is_web,
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            waiting_bytes: self.outbox.bytes(),
        }
    }

    /// Who sent a message, as its `sender` header says.
    pub(crate) fn sender(principal: &Principal) -> String {
        holder(principal.subject)
    }
}
