use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Base, Clock, Entropy, Failure, OrganisationId, Tasks, Timestamp};
use bytes::Bytes;
use kv::Kv;
use relational::{Db, Lease, Leases, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::flight::{Boarded, Compute, Flights, Leader};
use crate::kept::{Answer, Right, Spot, Store, Turn};
use crate::memory::{Kept, Memory};
use crate::meter::{Meter, QuestionMeter};
use crate::mirror::{Learned, Look, Mirror, Versions, covers};
use crate::question::{Asked, Identity, Question, Sharing};
use crate::version::{self, Asking};
use crate::{Config, Error};

/// Answers kept for every organisation. Cloning is cheap.
#[derive(Clone)]
pub struct Results(Arc<Room>);

/// The answers of one organisation.
#[derive(Clone)]
pub struct OrganisationResults {
    room: Arc<Room>,
    organisation: OrganisationId,
}

struct Room {
    config: Config,
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    db: Db,
    meter: Arc<Meter>,
    memory: Memory,
    flights: Arc<Flights>,
    asking: Arc<Asking>,
    /// Only where every bump comes through here.
    mirror: Option<Mirrored>,
    store: Store,
}

struct Mirrored {
    mirror: Mirror,
    is_settling: AtomicBool,
    leases: Leases,
    lease: Lease,
    tasks: Tasks,
}

/// Bumps of which it is not known whether they were committed.
const DOUBTS_MAX: usize = 16_384;
/// Computations of one flight: another one runs after a panic, and no third.
const COMPUTATIONS_MAX: u32 = 2;
/// Whoever mirrors the versions of a database holds it, so that nobody else does.
const MIRROR: &str = "results/mirror";
/// As long as the process: a database that only one process has frees leases when it is opened.
const MIRROR_LASTS: Duration = Duration::from_hours(24 * 365 * 100);

/// How often and how long a node looks whether somebody mirrors the versions.
const MIRROR_LOOKS: u32 = 20;
const MIRROR_LOOK: Duration = Duration::from_millis(50);

async fn mirror_lease(leases: &Leases) -> Result<Option<Lease>, relational::Error> {
    leases.acquire(OrganisationId::DEFAULT, MIRROR, MIRROR_LASTS).await
}

impl Results {
    /// Opens for a database that several nodes write: each question asks the rows for versions, one read
    /// for everybody who asks at the same time.
    pub async fn open(config: Config, base: &Base, db: &Db, kv: &Kv) -> Result<Self, Error> {
        let leases = Leases::new(db, base);
        for _ in 0..MIRROR_LOOKS {
            // Other nodes look at the same time.
            if let Some(lease) = mirror_lease(&leases).await? {
                leases.release(lease).await?;
                return Self::open_as(config, base, (db, kv), None).await;
            }
            base.clock.sleep(MIRROR_LOOK).await;
        }
        Err(Error::Mirrored)
    }

    /// Opens for a database that this process alone writes, and where every bump goes through this handle
    /// and its clones: versions are known in memory. A second one on the same database is refused.
    pub async fn open_alone(config: Config, base: &Base, db: &Db, kv: &Kv) -> Result<Self, Error> {
        let leases = Leases::new(db, base);
        let lease = mirror_lease(&leases).await?;
        let mirrored = Mirrored {
            mirror: Mirror::new(config.subjects_mirrored_max, DOUBTS_MAX),
            is_settling: AtomicBool::new(false),
            leases,
            lease: lease.ok_or(Error::Mirrored)?,
            tasks: base.tasks.clone(),
        };
        Self::open_as(config, base, (db, kv), Some(mirrored)).await
    }

    async fn open_as(
        config: Config,
        base: &Base,
        (db, kv): (&Db, &Kv),
        mirror: Option<Mirrored>,
    ) -> Result<Self, Error> {
        config.check()?;
        // Acknowledged after every bump of an earlier handle was decided.
        db.migrate("results", version::MIGRATIONS).await?;
        let place = version::place(db, &base.entropy).await?;
        let meter = Arc::new(Meter::new(&base.metrics));
        let waits_max = config.version_waits_max;
        let room = Arc::new(Room {
            memory: Memory::new(config.bytes_max, config.entries_max, meter.clone()),
            flights: Arc::new(Flights::new(config.flights_max, meter.clone())),
            asking: Arc::new(Asking::new(db, &base.tasks, meter.clone(), waits_max)),
            store: Store::new(&config, base, (kv, place), meter.clone()),
            clock: base.clock.clone(),
            entropy: base.entropy.clone(),
            tasks: base.tasks.clone(),
            db: db.clone(),
            config,
            meter,
            mirror,
        });
        base.tasks.supervise("results_tidy", {
            let (clock, every) = (base.clock.clone(), room.config.tidy_every);
            let room = Arc::downgrade(&room);
            move || {
                let (room, clock) = (room.clone(), clock.clone());
                async move {
                    loop {
                        clock.sleep(every).await;
                        let Some(room) = room.upgrade() else { return Ok::<_, Failure>(()) };
                        Self(room).tidy().await?;
                    }
                }
            }
        });
        Ok(Self(room))
    }

    pub fn for_organisation(&self, organisation: OrganisationId) -> OrganisationResults {
        OrganisationResults { room: self.0.clone(), organisation }
    }

    /// Takes rows away that nobody needs any more; done every `tidy_every` by itself.
    pub async fn tidy(&self) -> Result<(), Error> {
        let room = &self.0;
        let before = room.clock.now().minus(room.config.versions_kept());
        version::forget(&room.db, before).await?;
        Ok(())
    }
}

impl OrganisationResults {
    /// The kept answer, or the one of a computation that is under way, or that of `compute`. It is at least
    /// as new as every commit that was acknowledged before this was called.
    ///
    /// `compute` runs in a task of its own, so it goes on when the caller stops waiting. An error goes to
    /// everybody who waits and is not kept. When `compute` panics, that of somebody else who waits runs for
    /// all. It must not ask the question that it answers.
    pub async fn answer<F, C, E>(&self, question: Question<'_>, compute: F) -> Result<Bytes, Error>
    where
        F: FnOnce() -> C + Send + 'static,
        C: Future<Output = Result<Bytes, E>> + Send + 'static,
        E: Into<Error>,
    {
        self.answer_in_form(question, |_| true, compute).await
    }

    /// What was kept in kv counts only if it has the form.
    async fn answer_in_form<F, C, E>(
        &self,
        question: Question<'_>,
        has_form: fn(&[u8]) -> bool,
        compute: F,
    ) -> Result<Bytes, Error>
    where
        F: FnOnce() -> C + Send + 'static,
        C: Future<Output = Result<Bytes, E>> + Send + 'static,
        E: Into<Error>,
    {
        let room = &self.room;
        question.check(&room.config)?;
        let asked = question.of(self.organisation);
        let read = room.clock.now();
        let versions = room.versions(&asked).await?;
        if let Some((bytes, meter)) = room.memory.find(&asked, &versions, read) {
            meter.hits.inc();
            return Ok(bytes);
        }
        let meter = room.meter.question(question.name());
        let kept = || room.memory.find(&asked, &versions, read).map(|(bytes, _)| bytes);
        let compute: Compute =
            Box::new(move || Box::pin(async move { compute().await.map_err(Into::into) }));
        let passenger = match room.flights.board(asked.kept(), &versions, compute, kept)? {
            Boarded::Kept(bytes) => {
                meter.hits.inc();
                return Ok(bytes);
            }
            Boarded::Joined(passenger) => {
                meter.joined.inc();
                passenger
            }
            Boarded::Leads(leader, compute, passenger) => {
                meter.misses.inc();
                let plan = Plan::new((&question, has_form), leader, versions, read, meter);
                room.tasks.spawn("results_flight", room.clone().fly(plan, compute));
                passenger
            }
        };
        passenger.outcome().await.unwrap_or(Err(Error::Stopping))
    }

    /// The same for what serde can write as JSON.
    pub async fn answer_json<T, F, C, E>(
        &self,
        question: Question<'_>,
        compute: F,
    ) -> Result<T, Error>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce() -> C + Send + 'static,
        C: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Error>,
    {
        let name = question.name();
        let form = move |source| Error::Form { question: name, source: Arc::new(source) };
        let has_form = |bytes: &[u8]| serde_json::from_slice::<T>(bytes).is_ok();
        let bytes = self.answer_in_form(question, has_form, move || async move {
            let answer = compute().await.map_err(Into::into)?;
            Ok::<_, Error>(Bytes::from(serde_json::to_vec(&answer).map_err(form)?))
        });
        serde_json::from_slice(&bytes.await?).map_err(form)
    }

    /// Says in the transaction that changes rows what they are about. Once it is acknowledged, no answer
    /// from before it is given to a question that depends on any of the subjects.
    pub async fn bump(&self, tx: &mut Tx, subjects: &[&str]) -> Result<(), relational::Error> {
        let (room, organisation) = (&self.room, self.organisation);
        for subject in subjects {
            version::bump(tx, organisation, subject, room.clock.now()).await?;
            if let Some(mirrored) = &room.mirror {
                let version = version::version(tx, organisation, subject).await?;
                mirrored.mirror.doubt(organisation, subject, version);
            }
        }
        Ok(())
    }

    /// Frees the memory of answers that depend on the subject, and says how many. No answer is right or
    /// wrong for it.
    pub fn evict(&self, subject: &str) -> usize {
        self.room.memory.evict(self.organisation, subject)
    }

    /// Memory that this organisation's kept answers take.
    pub fn bytes(&self) -> u64 {
        self.room.memory.bytes_of(self.organisation)
    }
}

/// What a flight knows when it begins.
struct Plan {
    name: &'static str,
    ttl: Duration,
    sharing: Sharing,
    identity: Arc<Identity>,
    leader: Leader,
    /// Read before the computation begins: it can only see what is as new or newer.
    versions: Versions,
    read: Timestamp,
    meter: Arc<QuestionMeter>,
    has_form: fn(&[u8]) -> bool,
}

/// What a flight comes with.
struct Made {
    answer: Answer,
    /// It goes into kv.
    is_for_kv: bool,
    /// Others wait until it is there.
    _right: Option<Right>,
}

impl Plan {
    fn new(
        (question, has_form): (&Question<'_>, fn(&[u8]) -> bool),
        leader: Leader,
        versions: Versions,
        read: Timestamp,
        meter: Arc<QuestionMeter>,
    ) -> Self {
        let (name, ttl, sharing) = (question.name(), question.ttl(), question.sharing());
        let identity = leader.identity().clone();
        Self { name, ttl, sharing, identity, leader, versions, read, meter, has_form }
    }
}

impl Room {
    /// Versions that are as new as every commit that was acknowledged before.
    async fn versions(self: &Arc<Self>, asked: &Asked<'_>) -> Result<Versions, Error> {
        let Some(mirrored) = &self.mirror else { return self.asking.versions(asked).await };
        let ticket = match mirrored.mirror.look(asked.organisation, asked.subjects) {
            Look::Known(versions) => return Ok(versions),
            Look::Ask(ticket) => ticket,
        };
        let versions = self.asking.versions(asked).await?;
        let learned = mirrored.mirror.learn(ticket, asked.organisation, asked.subjects, &versions);
        if learned == Learned::InDoubt && !mirrored.is_settling.swap(true, Ordering::AcqRel) {
            let settling = Settling(self.clone());
            self.tasks.spawn("results_settle", async move { settling.run().await });
        }
        Ok(versions)
    }

    async fn fly(self: Arc<Self>, plan: Plan, compute: Compute) {
        let stopping = self.tasks.stopping();
        let spot = self.store.spot(&plan.identity);
        let work = self.work(&plan, &spot, compute);
        let made = tokio::select! {
            made = work => made,
            () = stopping.cancelled() => Err(Error::Stopping),
        };
        match made {
            Ok(made) => {
                self.keep(&plan, &made.answer);
                plan.leader.land(Ok(made.answer.bytes.clone()));
                // Nobody who asked waits for it.
                if made.is_for_kv {
                    self.store.keep(&spot, &made.answer).await;
                }
            }
            Err(error) => plan.leader.land(Err(error)),
        }
    }

    async fn work(
        self: &Arc<Self>,
        plan: &Plan,
        spot: &Spot,
        compute: Compute,
    ) -> Result<Made, Error> {
        let found = |answer| {
            plan.meter.from_kv.inc();
            Made { answer, is_for_kv: false, _right: None }
        };
        if let Some(answer) = self.store.find(spot).await
            && let Some(answer) = self.fitting(plan, answer).await
        {
            return Ok(found(answer));
        }
        let mut right = None;
        if plan.sharing == Sharing::Nodes {
            match self.store.turn(spot, &plan.versions).await {
                Turn::Ours(ours) => right = Some(ours),
                Turn::Alone => {}
                Turn::Answered(answer) => {
                    if let Some(answer) = self.fitting(plan, answer).await {
                        return Ok(found(answer));
                    }
                }
            }
        }
        let began = self.clock.instant();
        let answer = self.compute(plan, compute).await?;
        let is_dear = self.clock.instant() - began >= self.config.kept_from;
        Ok(Made { answer, is_for_kv: right.is_some() || is_dear, _right: right })
    }

    /// A kept answer, if it may be given to those who ask now.
    async fn fitting(self: &Arc<Self>, plan: &Plan, mut answer: Answer) -> Option<Answer> {
        if !covers(&answer.versions, &plan.versions) || !(plan.has_form)(&answer.bytes) {
            return None;
        }
        // Newer than what was asked for it may be only if the rows say so too: they may have been set back to an
        // older state, and what comes after that is another story.
        if answer.versions != plan.versions {
            let identity = &plan.identity;
            let subjects: Vec<&str> = identity.subjects.iter().map(|subject| &**subject).collect();
            let asked = Asked {
                organisation: identity.organisation,
                name: identity.name,
                key: &identity.key,
                subjects: &subjects,
            };
            let now = self.versions(&asked).await.ok()?;
            if !covers(&now, &answer.versions) {
                return None;
            }
        }
        // By whoever computed it, its time may be another.
        answer.until = answer.until.min(self.clock.now().plus(plan.ttl.min(self.config.ttl_max)));
        Some(answer)
    }

    async fn compute(&self, plan: &Plan, first: Compute) -> Result<Answer, Error> {
        let mut next = Some(first);
        for _ in 0..COMPUTATIONS_MAX {
            let Some(compute) = next else { break };
            if let Some(computed) = self.compute_once(plan, compute).await? {
                let until = plan.read.plus(self.ttl(plan.ttl));
                return Ok(Answer { versions: plan.versions.clone(), until, bytes: computed });
            }
            next = plan.leader.spare();
        }
        Err(Error::Panicked { question: plan.name })
    }

    /// Nothing when it panicked.
    async fn compute_once(&self, plan: &Plan, compute: Compute) -> Result<Option<Bytes>, Error> {
        let limit = self.config.compute_time_max;
        let began = self.clock.instant();
        plan.meter.computes.inc();
        // In a task of its own, where a panic ends nothing else; it ends with this.
        let task = self.tasks.spawn("results_compute", async move { compute().await });
        let computed = tokio::time::timeout(limit, AbortOnDropHandle::new(task)).await;
        plan.meter.compute_seconds.observe((self.clock.instant() - began).as_secs_f64());
        let computed = match computed {
            Ok(Ok(Some(computed))) => computed.map(Some),
            Ok(Ok(None)) => Ok(None),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(Error::TimedOut { question: plan.name, limit }),
        };
        if !matches!(computed, Ok(Some(_))) {
            plan.meter.failures.inc();
        }
        computed
    }

    fn keep(&self, plan: &Plan, answer: &Answer) {
        if answer.bytes.len() as u64 > self.config.value_bytes_max {
            plan.meter.too_large.inc();
            return;
        }
        let kept = Kept {
            identity: plan.identity.clone(),
            versions: answer.versions.clone(),
            until: answer.until,
            // Copied, as it may be a small part of a large buffer that would stay for it.
            bytes: Bytes::copy_from_slice(&answer.bytes),
            meter: plan.meter.clone(),
        };
        self.memory.keep(kept, self.clock.now());
    }

    fn ttl(&self, ttl: Duration) -> Duration {
        let ttl = ttl.min(self.config.ttl_max);
        let percent = u64::from(self.config.ttl_jitter_percent);
        if percent == 0 {
            return ttl;
        }
        let micros = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        let earlier_max = micros / 100 * percent;
        Duration::from_micros(micros - self.entropy.number() % earlier_max.saturating_add(1))
    }
}

/// Finds out whether bumps were committed; one at a time.
struct Settling(Arc<Room>);

impl Settling {
    async fn run(&self) {
        let Some(mirrored) = &self.0.mirror else { return };
        let until = mirrored.mirror.stamp();
        // Acknowledged after everything that ran before it was committed or rolled back.
        match self.0.db.write(async |_: &mut Tx| Ok::<_, relational::Error>(())).await {
            Ok(()) => mirrored.mirror.settle(until),
            Err(error) => tracing::debug!(%error, "versions stay in doubt"),
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let Some(mirrored) = &self.0.mirror {
            mirrored.is_settling.store(false, Ordering::Release);
        }
    }
}

impl Drop for Mirrored {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (leases, lease) = (self.leases.clone(), self.lease.clone());
        self.tasks.spawn("results_lease", async move {
            if let Err(error) = leases.release(lease).await {
                tracing::debug!(%error, "the database ended before its mirror");
            }
        });
    }
}

#[cfg(test)]
mod tests;
