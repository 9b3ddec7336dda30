//! What all connections share: organisations with their sessions, subscriptions and retained messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::access::{Action, Authority, Principal, Resource, Subject};
use base::{Base, Failure, OrganisationId, Shares, Timestamp};
use parking_lot::{Mutex, RwLock};

use crate::meter::Meter;
use crate::outbox::{Budget, Room};
use crate::packet::{Close, Options, Reason, Will};
use crate::protocol::Refusal;
use crate::retained::Retained;
use crate::session::{Session, SessionInfo, State};
use crate::store::{Begun, Kept, Store};
use crate::trie::Trie;
use crate::{Config, Error, Intake, Left};

pub(crate) const PUBLISH: Action = Action("mqtt.publish");
pub(crate) const SUBSCRIBE: Action = Action("mqtt.subscribe");
/// Being a client, on `client/<identifier>`, whose session another key or account began.
pub(crate) const CLIENT: Action = Action("mqtt.client");

/// How often ends of sessions, delayed wills and expired messages are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

pub(crate) struct Broker {
    pub(crate) config: Config,
    pub(crate) base: Base,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) intake: Arc<dyn Intake>,
    pub(crate) meter: Meter,
    pub(crate) connections: AtomicUsize,
    /// Connections of each peer that are not let in yet.
    pub(crate) peers: Arc<Shares>,
    pub(crate) is_served: AtomicBool,
    /// Bytes of messages that wait in memory, in all organisations together.
    waiting: Arc<AtomicUsize>,
    organisations: RwLock<HashMap<OrganisationId, Arc<Organisation>>>,
    /// The last number of a session or a message.
    last_number: AtomicU64,
    /// What it was at the start.
    first_number: u64,
    /// Sessions by the moment when something is due, each at one moment at most, which may be out of date.
    due: Mutex<BTreeMap<(Timestamp, u64), Weak<Session>>>,
}

/// What one organisation has; nothing reaches from one to another.
pub(crate) struct Organisation {
    pub(crate) id: OrganisationId,
    pub(crate) sessions: Mutex<HashMap<Arc<str>, Arc<Session>>>,
    pub(crate) subscribers: RwLock<Trie<Subscriber>>,
    pub(crate) retained: Arc<Mutex<Retained>>,
    budget: Arc<Budget>,
}

pub(crate) struct Subscriber {
    pub(crate) session: Arc<Session>,
    pub(crate) options: Options,
}

/// A client that proved who it is.
pub(crate) struct Arrival {
    pub(crate) principal: Principal,
    pub(crate) client: Arc<str>,
    pub(crate) clean_start: bool,
    pub(crate) expiry: u32,
    pub(crate) will: Option<Will>,
}

/// A session while a connection holds it. Dropping it lets it go, also when the connection panics.
pub(crate) struct Attached {
    pub(crate) broker: Arc<Broker>,
    pub(crate) organisation: Arc<Organisation>,
    pub(crate) session: Arc<Session>,
    pub(crate) session_present: bool,
    is_released: bool,
    /// How it ended, or would end now; none before the intake knows of it.
    end: Option<Left>,
}

/// How a connection ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) with_will: bool,
    /// The client changed its mind.
    pub(crate) expiry: Option<u32>,
    pub(crate) received: Vec<u16>,
}

enum Claim {
    Begun {
        attached: Attached,
        replaced: Option<Arc<Session>>,
    },
    Kept(Attached),
    /// Another connection holds it, and was asked to let go.
    Held(Arc<Session>),
    /// It is somebody else's.
    Foreign,
    Full,
}

impl Broker {
    pub(crate) async fn open(
        config: Config,
        base: &Base,
        store: Arc<dyn Store>,
        doors: (Arc<dyn Authority>, Arc<dyn Intake>),
    ) -> Result<Arc<Self>, Error> {
        if let Some(limit) = config.fault() {
            return Err(Error::Config(limit));
        }
        let (authority, intake) = doors;
        let first_number = store.last_number().await?;
        let networks = config.peers_without_limit.clone();
        let broker = Self {
            peers: Shares::new(config.connecting_per_peer_max, networks),
            config,
            base: base.clone(),
            authority,
            intake,
            meter: Meter::new(&base.metrics),
            connections: AtomicUsize::new(0),
            is_served: AtomicBool::new(false),
            waiting: Arc::default(),
            organisations: RwLock::default(),
            last_number: AtomicU64::new(first_number),
            first_number,
            due: Mutex::default(),
            store,
        };
        broker.load().await?;
        Ok(Arc::new(broker))
    }

    async fn load(&self) -> Result<(), Error> {
        let now = self.base.clock.now();
        let mut after = None;
        loop {
            let page = self.store.retained(after).await?;
            let Some((organisation, message)) = page.last() else { break };
            after = Some((*organisation, message.topic.clone()));
            for (organisation, mut message) in page {
                message.retain = true;
                self.organisation(organisation).retained.lock().set(Arc::new(message));
                self.meter.retained.inc();
            }
        }
        let mut after = 0;
        loop {
            let page = self.store.sessions(after).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            for kept in page {
                if let Some(forgotten) = self.load_session(kept, now) {
                    self.store.end(forgotten).await?;
                }
            }
        }
    }

    /// Puts a kept session back. Gives the number of one that must be forgotten: this one, or an older one of its client.
    fn load_session(&self, kept: Kept, now: Timestamp) -> Option<u64> {
        let Some(mut principal) = kept.principal else { return Some(kept.number) };
        // Rows name accounts by ids.
        if let Subject::Account(account) = principal.subject
            && let Some(address) = self.authority.address_of(principal.organisation, account)
        {
            principal.name = address;
        }
        let organisation = self.organisation(principal.organisation);
        let session =
            Session::new(kept.number, kept.client.clone(), principal, organisation.budget.clone());
        let session = Arc::new(session);
        {
            let mut state = session.state.lock();
            state.is_stored = true;
            state.expiry = kept.expiry;
            state.outbox.reserve_rows(kept.queued, kept.queued_bytes);
            let since = kept.disconnected.unwrap_or(now);
            state.expires_at = Some(since.plus(Duration::from_secs(kept.expiry.into())));
            state.subscriptions.extend(kept.subscriptions.iter().cloned());
        }
        let older = organisation.sessions.lock().insert(kept.client, session.clone());
        if let Some(older) = &older {
            organisation.unlink(older);
        } else {
            self.meter.sessions.inc();
        }
        organisation.link(&session, &kept.subscriptions);
        self.schedule(&session);
        older.map(|older| older.number)
    }

    pub(crate) fn organisation(&self, id: OrganisationId) -> Arc<Organisation> {
        if let Some(organisation) = self.organisations.read().get(&id) {
            return organisation.clone();
        }
        let mut organisations = self.organisations.write();
        let made = || {
            Arc::new(Organisation {
                id,
                sessions: Mutex::default(),
                subscribers: RwLock::default(),
                retained: Arc::default(),
                budget: Budget::of(&self.waiting),
            })
        };
        organisations.entry(id).or_insert_with(made).clone()
    }

    /// The first sessions of an organisation after a client identifier, by that.
    pub(crate) fn session_infos(
        &self,
        organisation: OrganisationId,
        after: Option<&str>,
        max: usize,
    ) -> Vec<SessionInfo> {
        let Some(organisation) = self.organisations.read().get(&organisation).cloned() else {
            return Vec::new();
        };
        let mut found: Vec<Arc<Session>> = {
            let sessions = organisation.sessions.lock();
            let is_after = |it: &&Arc<Session>| after.is_none_or(|after| &*it.client > after);
            sessions.values().filter(is_after).cloned().collect()
        };
        found.sort_unstable_by(|a, b| a.client.cmp(&b.client));
        found.iter().take(max).map(|session| session.info()).collect()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn queue_room(&self) -> Room {
        Room { messages: self.config.queue_messages_max, bytes: self.config.queue_bytes_max }
    }

    /// Whether it may, by a grant on `mqtt/<topic or filter>`.
    pub(crate) fn may(&self, principal: &Principal, action: Action, topic: &str) -> bool {
        self.may_on(principal, action, &format!("mqtt/{topic}"))
    }

    fn may_on(&self, principal: &Principal, action: Action, path: &str) -> bool {
        let resource = Resource { organisation: principal.organisation, path };
        self.authority.authorize(principal, action, resource).is_ok()
    }

    /// Gives a client its session: the kept one or a new one. Another connection that holds it is closed first.
    pub(crate) async fn attach(self: &Arc<Self>, arrival: Arrival) -> Result<Attached, Refusal> {
        let organisation = self.organisation(arrival.principal.organisation);
        loop {
            match self.claim(&organisation, &arrival) {
                Claim::Full => {
                    return Err(Refusal(Reason::QUOTA, "the organisation has too many sessions"));
                }
                Claim::Foreign => {
                    let text = "the client identifier belongs to the session of another key";
                    return Err(Refusal(Reason::CLIENT_ID, text));
                }
                Claim::Held(session) => {
                    let released = session.released.notified();
                    tokio::pin!(released);
                    released.as_mut().enable();
                    if session.state.lock().is_connected {
                        released.await;
                    }
                }
                Claim::Begun { attached, replaced } => {
                    return self.begin(attached, replaced, arrival).await;
                }
                Claim::Kept(attached) => return self.resume(attached, arrival).await,
            }
        }
    }

    fn claim(self: &Arc<Self>, organisation: &Arc<Organisation>, arrival: &Arrival) -> Claim {
        let mut sessions = organisation.sessions.lock();
        let kept = sessions.get(&arrival.client).cloned();
        if let Some(session) = &kept {
            let is_over = self.is_free(session);
            if !is_over && !self.may_take(session, arrival) {
                return Claim::Foreign;
            }
            let mut state = session.state.lock();
            if state.is_connected {
                drop(state);
                session.kick(Close::of(Reason::TAKEN_OVER, "the client connected again"));
                return Claim::Held(session.clone());
            }
            if !arrival.clean_start && !is_over {
                state.is_connected = true;
                state.expires_at = None;
                return Claim::Kept(self.attached(organisation, session, true));
            }
            state.has_ended = true;
        } else if sessions.len() >= self.config.sessions_max {
            return Claim::Full;
        }
        let number = self.next_number();
        let session = Session::new(
            number,
            arrival.client.clone(),
            arrival.principal.clone(),
            organisation.budget.clone(),
        );
        session.state.lock().is_connected = true;
        let session = Arc::new(session);
        sessions.insert(arrival.client.clone(), session.clone());
        if kept.is_none() {
            self.meter.sessions.inc();
        }
        Claim::Begun { attached: self.attached(organisation, &session, false), replaced: kept }
    }

    /// Whether a session is nobody's any more: its time or its key is over.
    fn is_free(&self, session: &Session) -> bool {
        let (expires_at, owner) = {
            let state = session.state.lock();
            (state.expires_at, state.principal.clone())
        };
        expires_at.is_some_and(|expires_at| expires_at <= self.base.clock.now())
            || !self.authority.is_current(&owner)
    }

    /// A session is for whoever began it, and for those who were granted to be its client: a device whose key changed.
    fn may_take(&self, session: &Session, arrival: &Arrival) -> bool {
        let owner = session.state.lock().principal.subject;
        let path = || format!("client/{}", arrival.client);
        owner == arrival.principal.subject || self.may_on(&arrival.principal, CLIENT, &path())
    }

    fn attached(
        self: &Arc<Self>,
        organisation: &Arc<Organisation>,
        session: &Arc<Session>,
        session_present: bool,
    ) -> Attached {
        Attached {
            broker: self.clone(),
            organisation: organisation.clone(),
            session: session.clone(),
            session_present,
            is_released: false,
            end: None,
        }
    }

    async fn begin(
        self: &Arc<Self>,
        attached: Attached,
        replaced: Option<Arc<Session>>,
        arrival: Arrival,
    ) -> Result<Attached, Refusal> {
        if let Some(replaced) = replaced {
            attached.organisation.unlink(&replaced);
            self.finish(&attached.organisation, &replaced).await;
        }
        if arrival.expiry > 0 {
            let begun = begun(&attached.session, &arrival);
            self.store.begin(begun).await.map_err(|error| cannot_answer(&error))?;
        }
        let mut state = attached.session.state.lock();
        state.expiry = arrival.expiry;
        state.is_stored = arrival.expiry > 0;
        state.will = arrival.will;
        drop(state);
        Ok(attached)
    }

    async fn resume(
        self: &Arc<Self>,
        attached: Attached,
        arrival: Arrival,
    ) -> Result<Attached, Refusal> {
        let session = &attached.session;
        let is_stored = session.state.lock().is_stored;
        let mut rows = Vec::new();
        if is_stored {
            let begun = begun(session, &arrival);
            rows = self.store.resume(begun).await.map_err(|error| cannot_answer(&error))?;
        }
        // Another key may have been granted the client identifier; it gets what it may see.
        let is_allowed = |topic: &str| self.may(&arrival.principal, SUBSCRIBE, topic);
        let (mut forbidden, removed);
        {
            let mut state = session.state.lock();
            forbidden = state.outbox.forbid(|message| is_allowed(&message.topic));
            // The client has them: they are not new, and must not come again.
            let done = std::mem::take(&mut state.unforgotten);
            rows.retain(|row| !done.contains(&row.sequence));
            forbidden.extend(done);
            for row in &mut rows {
                state.committing.remove(&row.sequence);
                // Nobody knows whether a former server sent it.
                row.dup = row.sequence <= self.first_number;
                if !is_allowed(&row.message.topic) && !forbidden.contains(&row.sequence) {
                    state.outbox.release(row.message.cost());
                    forbidden.push(row.sequence);
                }
            }
            rows.retain(|row| is_allowed(&row.message.topic));
            state.outbox.restore(rows);
            removed = take_forbidden(&mut state, is_allowed);
            state.principal = arrival.principal.clone();
            state.expiry = arrival.expiry;
            state.will = arrival.will;
            state.will_at = None;
        }
        attached.organisation.unlink_filters(session, &removed);
        if is_stored && !(forbidden.is_empty() && removed.is_empty()) {
            let forget = self.store.forget(session.number, forbidden.clone());
            if let Err(error) = forget.await {
                session.state.lock().unforgotten = forbidden;
                return Err(cannot_answer(&error));
            }
            let unsubscribe = self.store.unsubscribe(session.number, removed);
            unsubscribe.await.map_err(|error| cannot_answer(&error))?;
        }
        Ok(attached)
    }

    /// Ends a session for good.
    pub(crate) async fn end(
        self: &Arc<Self>,
        organisation: &Arc<Organisation>,
        session: &Arc<Session>,
    ) {
        {
            let mut sessions = organisation.sessions.lock();
            session.state.lock().has_ended = true;
            let is_current = |it: &Arc<Session>| it.number == session.number;
            if sessions.get(&session.client).is_some_and(is_current) {
                sessions.remove(&session.client);
                self.meter.sessions.dec();
            }
        }
        organisation.unlink(session);
        self.finish(organisation, session).await;
    }

    /// What is left to do when a session ended: its will and its rows.
    async fn finish(self: &Arc<Self>, organisation: &Arc<Organisation>, session: &Arc<Session>) {
        session.space.notify_waiters();
        self.schedule(session);
        let (will, principal, is_stored) = {
            let mut state = session.state.lock();
            let is_due = state.will_at.take().is_some();
            (state.will.take().filter(|_| is_due), state.principal.clone(), state.is_stored)
        };
        if let Some(will) = will {
            self.publish_will(organisation, session, principal, will);
        }
        if is_stored && let Err(error) = self.store.end(session.number).await {
            // Its row stays and it is ended again after the next start, when its time is over.
            tracing::warn!(%error, client = &*session.client, "a session's rows were not removed");
        }
    }

    /// Looks at the session again when its will or its end is due; at one that has ended, never.
    pub(crate) fn schedule(&self, session: &Arc<Session>) {
        let mut state = session.state.lock();
        let due = if state.has_ended { None } else { state.due() };
        let former = std::mem::replace(&mut state.looked_at, due);
        let mut all = self.due.lock();
        // A client that comes and goes leaves nothing behind each time.
        if let Some(former) = former {
            all.remove(&(former, session.number));
        }
        if let Some(due) = due {
            all.insert((due, session.number), Arc::downgrade(session));
        }
    }

    /// Ends sessions, sends delayed wills and forgets expired messages, forever.
    pub(crate) async fn sweep(self: Arc<Self>) -> Result<(), Failure> {
        let mut epoch = self.authority.epoch();
        epoch.mark_unchanged();
        let mut turn = 0_u32;
        loop {
            self.base.clock.sleep(SWEEP_EVERY).await;
            let now = self.base.clock.now();
            for session in self.take_due(now) {
                self.look_at(&session, now).await;
            }
            if epoch.has_changed().unwrap_or(false) {
                epoch.mark_unchanged();
                self.check_kept().await;
            }
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(40) {
                self.forget_expired(now).await?;
            }
        }
    }

    /// How many sessions are to be looked at.
    #[cfg(test)]
    pub(crate) fn due_count(&self) -> usize {
        self.due.lock().len()
    }

    fn take_due(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let mut due = self.due.lock();
        let later = due.split_off(&(now.plus(Duration::from_micros(1)), 0));
        let taken = std::mem::replace(&mut *due, later);
        taken.into_values().filter_map(|session| session.upgrade()).collect()
    }

    async fn look_at(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) {
        let organisation = self.organisation(session.organisation);
        let (will, principal, is_over) = {
            let mut state = session.state.lock();
            state.looked_at = None;
            if state.is_connected || state.has_ended {
                return;
            }
            let will_is_due = state.will_at.is_some_and(|will_at| will_at <= now);
            if will_is_due {
                state.will_at = None;
            }
            let will = if will_is_due { state.will.take() } else { None };
            let is_over = state.expires_at.is_some_and(|expires_at| expires_at <= now);
            (will, state.principal.clone(), is_over)
        };
        if let Some(will) = will {
            self.intake.left(&principal, &session.client, Left::Lost);
            self.publish_will(&organisation, session, principal.clone(), will);
        }
        if is_over && organisation.ends_now(session, now) {
            if session.state.lock().will_at.is_some() {
                self.intake.left(&principal, &session.client, Left::Lost);
            }
            self.end(&organisation, session).await;
            return;
        }
        self.schedule(session);
    }

    /// Ends kept sessions of keys and accounts that are gone, and takes subscriptions away that are not granted any
    /// more. Connections look after themselves.
    async fn check_kept(self: &Arc<Self>) {
        let organisations: Vec<_> = self.organisations.read().values().cloned().collect();
        for organisation in organisations {
            let sessions: Vec<_> = organisation.sessions.lock().values().cloned().collect();
            for session in sessions {
                let principal = {
                    let state = session.state.lock();
                    if state.is_connected || state.has_ended {
                        continue;
                    }
                    state.principal.clone()
                };
                if self.authority.is_current(&principal) {
                    self.take_lost_filters(&organisation, &session, &principal).await;
                } else {
                    let mut state = session.state.lock();
                    state.expires_at = Some(Timestamp::from_micros(i64::MIN));
                    state.will = None;
                    drop(state);
                    self.schedule(&session);
                }
                // A long list must not hold a thread.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Removes the subscriptions that the principal may not have any more; says whether there were any.
    pub(crate) async fn take_lost_filters(
        &self,
        organisation: &Organisation,
        session: &Arc<Session>,
        principal: &Principal,
    ) -> bool {
        let is_allowed = |filter: &str| self.may(principal, SUBSCRIBE, filter);
        let (removed, is_stored) = {
            let mut state = session.state.lock();
            (take_forbidden(&mut state, is_allowed), state.is_stored)
        };
        if removed.is_empty() {
            return false;
        }
        organisation.unlink_filters(session, &removed);
        if is_stored && let Err(error) = self.store.unsubscribe(session.number, removed).await {
            // They are checked again when the client comes back.
            tracing::warn!(%error, client = &*session.client, "subscriptions were not removed");
        }
        true
    }

    async fn forget_expired(&self, now: Timestamp) -> Result<(), Error> {
        let organisations: Vec<_> = self.organisations.read().values().cloned().collect();
        for organisation in organisations {
            let topics = organisation.retained.lock().expired(now);
            if topics.is_empty() {
                continue;
            }
            self.meter.dropped("expired", topics.len() as u64);
            self.clear_retained(&organisation, topics).await?;
        }
        Ok(())
    }
}

impl Organisation {
    /// Decides under the lock that claims take, so that a client that comes back now is not thrown out.
    fn ends_now(&self, session: &Session, now: Timestamp) -> bool {
        let _sessions = self.sessions.lock();
        let mut state = session.state.lock();
        let is_over = state.expires_at.is_some_and(|expires_at| expires_at <= now);
        state.has_ended |= is_over && !state.is_connected;
        state.has_ended
    }

    fn link(&self, session: &Arc<Session>, subscriptions: &[(Arc<str>, Options)]) {
        let mut subscribers = self.subscribers.write();
        for (filter, options) in subscriptions {
            let subscriber = Subscriber { session: session.clone(), options: *options };
            subscribers.insert(filter, session.number, subscriber);
        }
    }

    fn unlink(&self, session: &Session) {
        let filters: Vec<Arc<str>> =
            session.state.lock().subscriptions.drain().map(|(filter, _)| filter).collect();
        self.unlink_filters(session, &filters);
    }

    pub(crate) fn unlink_filters(&self, session: &Session, filters: &[Arc<str>]) {
        let mut subscribers = self.subscribers.write();
        for filter in filters {
            subscribers.remove(filter, session.number);
        }
    }
}

impl Attached {
    /// Tells the intake that the client was let in.
    pub(crate) fn arrived(&mut self) {
        self.end = Some(Left::Lost);
        let principal = self.session.state.lock().principal.clone();
        self.broker.intake.arrived(&principal, &self.session.client);
    }

    /// Lets the session go as its connection ends.
    pub(crate) async fn detach(mut self, ended: Ended) {
        let broker = self.broker.clone();
        let now = broker.base.clock.now();
        let (expiry, is_stored) = {
            let mut state = self.session.state.lock();
            if let Some(expiry) = ended.expiry {
                state.expiry = broker.limited_expiry(expiry);
            }
            if !ended.with_will {
                state.will = None;
                self.end = self.end.map(|_| Left::Politely);
            }
            state.received = ended.received;
            (state.expiry, state.is_stored)
        };
        // Before it is released: a client that comes back at once writes the same row after this.
        if is_stored && expiry > 0 {
            let noted = broker.store.disconnected(self.session.number, expiry, now).await;
            if let Err(error) = noted {
                tracing::warn!(%error, "the end of a connection was not noted");
            }
        }
        self.release().await;
    }

    async fn release(&mut self) {
        let broker = self.broker.clone();
        let (over, will) = self.let_go();
        if let Some((principal, will)) = will {
            broker.publish_will(&self.organisation, &self.session, principal, will);
        }
        if over {
            broker.end(&self.organisation, &self.session).await;
        }
    }

    fn left(&self, principal: &Principal) {
        if let Some(how) = self.end
            && !self.broker.base.tasks.stopping().is_cancelled()
        {
            self.broker.intake.left(principal, &self.session.client, how);
        }
    }

    /// The part that cannot wait: says whether the session is over and which will is due now.
    fn let_go(&mut self) -> (bool, Option<(Principal, Will)>) {
        self.is_released = true;
        let now = self.broker.base.clock.now();
        let mut sessions = self.organisation.sessions.lock();
        let mut state = self.session.state.lock();
        state.disconnect(now);
        let over = state.expiry == 0 || state.has_ended;
        let delay = state.will.as_ref().map_or(0, |will| will.delay);
        let mut will = None;
        let left = (over || delay == 0).then(|| state.principal.clone());
        if let Some(principal) = &left {
            will = state.will.take().map(|will| (principal.clone(), will));
        } else {
            state.will_at = Some(now.plus(Duration::from_secs(delay.into())));
        }
        if over && !state.has_ended {
            state.has_ended = true;
            sessions.remove(&self.session.client);
            self.broker.meter.sessions.dec();
        }
        drop(state);
        // Under the lock of the sessions, so that the next connection of the client arrives after this.
        if let Some(principal) = left {
            self.left(&principal);
        }
        drop(sessions);
        self.broker.schedule(&self.session);
        self.session.released.notify_waiters();
        self.session.space.notify_waiters();
        (over, will)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.is_released {
            return;
        }
        // The connection panicked or was refused halfway; what needs a wait is done by a task.
        let (over, will) = self.let_go();
        let (broker, organisation, session) =
            (self.broker.clone(), self.organisation.clone(), self.session.clone());
        if let Some((principal, will)) = will {
            broker.publish_will(&organisation, &session, principal, will);
        }
        if over {
            let tasks = broker.base.tasks.clone();
            tasks.spawn("mqtt-end", async move { broker.end(&organisation, &session).await });
        }
    }
}

impl Broker {
    pub(crate) fn limited_expiry(&self, asked: u32) -> u32 {
        let max = self.config.session_expiry_max.as_secs();
        asked.min(u32::try_from(max).unwrap_or(u32::MAX))
    }
}

fn begun(session: &Session, arrival: &Arrival) -> Begun {
    Begun {
        number: session.number,
        client: session.client.clone(),
        principal: arrival.principal.clone(),
        expiry: arrival.expiry,
    }
}

fn take_forbidden(state: &mut State, is_allowed: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
    let forbidden: Vec<Arc<str>> =
        state.subscriptions.keys().filter(|filter| !is_allowed(filter)).cloned().collect();
    for filter in &forbidden {
        state.subscriptions.remove(filter);
    }
    forbidden
}

fn cannot_answer(error: &Error) -> Refusal {
    tracing::warn!(%error, "a session could not be stored");
    Refusal(Reason::UNAVAILABLE, "the session cannot be stored now")
}
