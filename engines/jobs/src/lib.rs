//! Work that runs once: now, later or again and again, alone or as tasks that come after each other.
//!
//! A job is enqueued in the caller's transaction, claimed by a worker under the number of its attempt, and tried until it
//! is done or dead. A worker that dies loses its jobs to others, and what it still does afterwards is not kept:
//! [`Attempt::complete_in`] makes an effect in rows durable together with the job's end, so it happens once. Effects elsewhere
//! can happen twice and are keyed by [`Attempt::id`].
//!
//! It is no language for workflows, moves no data between tasks, and runs nothing outside this process. Start at
//! [`Jobs::handle`] and [`Jobs::enqueue`]; how a worker goes about it is told in `worker.rs`.
//!
//! Turns are fair: each commit of a worker, and each free handler, goes round the organisations that have something
//! ready in a queue, so one with a million jobs gets no more of the beginnings than one with ten. In one organisation's queue the
//! more urgent come first, then the earlier enqueued.

mod attempt;
mod buffer;
mod config;
mod cron;
mod error;
mod graph;
mod job;
mod kind;
mod meters;
mod retention;
mod schedule;
mod store;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use base::access::Action;
use base::{Base, OrganisationId, Page, PageRequest, Timestamp};
use futures::FutureExt;
use relational::{Db, Tx};

pub use attempt::Attempt;
pub use config::Config;
pub use cron::{Cron, CronError};
pub use error::{Error, Failed};
pub use graph::{Graph, Run, RunDetail, RunState, Task};
pub use job::{AttemptRecord, Enqueued, Job, JobId, Key, New, Outcome, Priority, RunId, State};
pub use kind::{Done, Kind};
pub use retention::{FORGET, FORGET_SCHEDULE};
pub use schedule::{Missed, NewSchedule, Schedule};
pub use store::deeds::Cancelled;
pub use store::read::{COUNTED_MAX, Filter, Queue, QueueState};

use crate::kind::Registered;
use crate::store::{NewRow, deeds, read, runs, schedules};
use crate::worker::{Inner, Work};

/// Listing an organisation's jobs, runs, queues and schedules.
pub const READ: Action = Action("jobs.read");
/// Enqueueing, cancelling, retrying, and pausing.
pub const WRITE: Action = Action("jobs.write");

/// Jobs of every organisation; cloning shares it.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

const KEY_CHARS_MAX: usize = 200;
const CONCURRENCY_CHARS_MAX: usize = 150;
const NAME_CHARS_MAX: usize = 100;

impl Jobs {
    /// Checks the configuration and makes the tables. Nothing runs before [`Jobs::start`].
    pub async fn open(config: Config, base: &Base, db: Db) -> Result<Self, Error> {
        config.check()?;
        db.migrate(store::ROOM, store::MIGRATIONS).await?;
        let jobs = Self(Arc::new(Inner {
            config,
            db,
            clock: base.clock.clone(),
            entropy: base.entropy.clone(),
            tasks: base.tasks.clone(),
            meters: meters::Meters::new(&base.metrics),
            kinds: kind::Kinds::default(),
            ids: job::Ids::new(&base.entropy),
            wake: Arc::default(),
            timed: Arc::default(),
            backlog: parking_lot::Mutex::default(),
            work: parking_lot::Mutex::new(Work::default()),
            is_stopping: false.into(),
        }));
        jobs.0.retain()?;
        Ok(jobs)
    }

    /// Registers the one handler of this kind. Its effects can happen twice: the process may end before the job's end is
    /// written. It ends with [`Attempt::done`], or with what [`Attempt::complete_in`] gave.
    pub fn handle<F, Handling>(
        &self,
        kind: &'static str,
        options: Kind,
        handle: F,
    ) -> Result<(), Error>
    where
        F: Fn(Attempt) -> Handling + Send + Sync + 'static,
        Handling: Future<Output = Result<Done, Failed>> + Send + 'static,
    {
        let handler: kind::Handler = Arc::new(move |attempt| handle(attempt).boxed());
        self.0.kinds.register(Registered { name: kind, options, handler })
    }

    /// Registers the one handler of this kind whose effects are in rows: they are durable in one commit with the
    /// job's end, so they happen once. It may run more than once, and awaits nothing but its `Tx`.
    pub fn handle_in_rows<F>(
        &self,
        kind: &'static str,
        options: Kind,
        handle: F,
    ) -> Result<(), Error>
    where
        F: AsyncFn(&mut Tx, &Attempt) -> Result<(), Failed> + Send + Sync + 'static,
    {
        let (handle, db) = (Arc::new(handle), self.0.db.clone());
        self.handle(kind, options, move |attempt| {
            let (handle, db) = (handle.clone(), db.clone());
            let work = async move |tx: &mut Tx| {
                // Before the effect, so that a replaced attempt has none.
                let done = attempt.complete_in(tx).await?;
                handle(tx, &attempt).await?;
                Ok::<_, Failed>(done)
            };
            async move { db.write(work).await }
        })
    }

    /// Begins to run jobs, until the tasks stop. Without it this process only enqueues.
    pub async fn start(&self) -> Result<(), Error> {
        self.keep_schedule(retention::schedule()).await?;
        let inner = self.0.clone();
        self.0.tasks.supervise("jobs", move || worker::run(inner.clone()));
        // Not awaited: it ends when the tasks stop.
        drop(self.0.tasks.spawn("jobs.stop", self.0.clone().stop()));
        Ok(())
    }

    /// Enqueues a job in the caller's transaction: it runs if, and only if, that is committed.
    pub async fn enqueue(&self, tx: &mut Tx, new: New) -> Result<Enqueued, Error> {
        self.0.check_backlog(new.organisation)?;
        let mut enqueued = self.0.put(tx, vec![new]).await?;
        Ok(enqueued.pop().expect("one was given"))
    }

    /// Enqueues many in a few statements, in the order given.
    pub async fn enqueue_all(&self, tx: &mut Tx, new: Vec<New>) -> Result<Vec<Enqueued>, Error> {
        let (count, max) = (new.len(), self.0.config.enqueue_max);
        if count > max {
            let rule = format!("has {count} jobs, and may have {max}");
            return Err(Error::Invalid { what: "call", rule });
        }
        for new in &new {
            self.0.check_backlog(new.organisation)?;
        }
        self.0.put(tx, new).await
    }

    /// Enqueues the tasks of a graph: those that come after nothing begin when the transaction is committed.
    pub async fn enqueue_graph(&self, tx: &mut Tx, graph: Graph) -> Result<RunId, Error> {
        self.0.check_backlog(graph.organisation)?;
        self.0.put_graph(tx, graph).await
    }

    /// The organisation's jobs, newest first.
    pub async fn jobs(
        &self,
        organisation: OrganisationId,
        filter: Filter,
        page: PageRequest,
    ) -> Result<Page<Job>, Error> {
        let now = self.0.clock.now();
        let jobs = async move |read: &mut relational::Read| {
            read::page(read, organisation, &filter, &page, now).await
        };
        self.0.db.read(jobs).await
    }

    pub async fn job(&self, organisation: OrganisationId, id: JobId) -> Result<Job, Error> {
        let now = self.0.clock.now();
        self.0.db.read(async move |read| read::one(read, organisation, id, now).await).await
    }

    /// A job with what its attempts did, the newest last.
    pub async fn history(
        &self,
        organisation: OrganisationId,
        id: JobId,
    ) -> Result<(Job, Vec<AttemptRecord>), Error> {
        let now = self.0.clock.now();
        let history = async move |read: &mut relational::Read| {
            let job = read::one(read, organisation, id, now).await?;
            Ok::<_, Error>((job, read::attempts(read, id).await?))
        };
        self.0.db.read(history).await
    }

    /// How many of its jobs stand how, counted up to [`COUNTED_MAX`].
    pub async fn counts(
        &self,
        organisation: OrganisationId,
    ) -> Result<BTreeMap<State, u64>, Error> {
        self.0.db.read(async move |read| read::counts(read, organisation).await).await
    }

    /// Its runs of graphs, newest first.
    pub async fn runs(
        &self,
        organisation: OrganisationId,
        page: PageRequest,
    ) -> Result<Page<Run>, Error> {
        self.0.db.read(async move |read| read::runs(read, organisation, &page).await).await
    }

    pub async fn run(&self, organisation: OrganisationId, id: RunId) -> Result<RunDetail, Error> {
        let now = self.0.clock.now();
        self.0.db.read(async move |read| read::run(read, organisation, id, now).await).await
    }

    /// Keeps a job from beginning, or asks a running one to stop; a worker on another server hears of it with its
    /// next heartbeat.
    pub async fn cancel(
        &self,
        organisation: OrganisationId,
        id: JobId,
    ) -> Result<Cancelled, Error> {
        let inner = self.0.clone();
        let cancel = async move |tx: &mut Tx| {
            tx.wake(&inner.wake);
            deeds::cancel(tx, &inner.kinds, (organisation, id), inner.clock.now()).await
        };
        let cancelled = self.0.db.write(cancel).await?;
        if cancelled == Cancelled::Asked {
            worker::cancel(&mut self.0.work.lock(), id, self.0.clock.now());
            self.0.wake.notify_one();
        }
        Ok(cancelled)
    }

    /// Gives a job that is dead, cancelled or discarded a whole new set of attempts; the tasks of its run that were
    /// skipped for it go on behind it.
    pub async fn retry(&self, organisation: OrganisationId, id: JobId) -> Result<(), Error> {
        let inner = self.0.clone();
        let retry = async move |tx: &mut Tx| {
            tx.wake(&inner.wake);
            deeds::retry(tx, &inner.kinds, (organisation, id), inner.clock.now()).await
        };
        self.0.db.write(retry).await
    }

    /// Leaves a dead job undone.
    pub async fn discard(&self, organisation: OrganisationId, id: JobId) -> Result<(), Error> {
        self.0.db.write(async move |tx| deeds::discard(tx, organisation, id).await).await
    }

    /// Lets a delayed job begin now; one that another server holds for its time begins then.
    pub async fn run_now(&self, organisation: OrganisationId, id: JobId) -> Result<(), Error> {
        let inner = self.0.clone();
        let run = async move |tx: &mut Tx| {
            tx.wake(&inner.wake);
            deeds::run_now(tx, organisation, id, inner.clock.now()).await
        };
        if self.0.db.write(run).await?.is_some() {
            let now = self.0.clock.now();
            let mut work = self.0.work.lock();
            if let Some(mut claimed) = work.buffer.remove(id) {
                claimed.due = now;
                work.buffer.add(claimed, now);
            }
            drop(work);
            self.0.wake.notify_one();
        }
        Ok(())
    }

    /// Every queue that a kind here has, or that is paused.
    pub async fn queues(&self, organisation: OrganisationId) -> Result<Vec<Queue>, Error> {
        let kinds = self.0.kinds.all();
        let known: Vec<String> = kinds.iter().map(|kind| kind.options.queue.to_owned()).collect();
        self.0
            .db
            .read(async move |read| read::queues(read, organisation, known.clone()).await)
            .await
    }

    /// Lets no more of the organisation's jobs in a queue begin; those that run go on. Another server still begins what it
    /// took ahead.
    pub async fn pause(&self, organisation: OrganisationId, queue: &str) -> Result<(), Error> {
        kind::check_queue(queue)?;
        let (inner, name) = (self.0.clone(), queue.to_owned());
        let pause =
            async move |tx: &mut Tx| deeds::pause(tx, organisation, &name, inner.clock.now()).await;
        self.0.db.write(pause).await?;
        let (lane, now) = (store::lane(queue, organisation), self.0.clock.now());
        let mut work = self.0.work.lock();
        let held = work.buffer.drain(Some(&lane));
        work.ends.extend(held.into_iter().map(|claimed| worker::handed_back(claimed, now)));
        drop(work);
        self.0.wake.notify_one();
        Ok(())
    }

    pub async fn resume(&self, organisation: OrganisationId, queue: &str) -> Result<(), Error> {
        kind::check_queue(queue)?;
        let (inner, name) = (self.0.clone(), queue.to_owned());
        let resume = async move |tx: &mut Tx| {
            tx.wake(&inner.wake);
            tx.wake(&inner.timed);
            deeds::resume(tx, organisation, &name).await
        };
        self.0.db.write(resume).await
    }

    pub async fn schedules(&self, organisation: OrganisationId) -> Result<Vec<Schedule>, Error> {
        self.0.db.read(async move |read| schedules::all(read, organisation).await).await
    }

    /// Makes a schedule for a kind that allows it.
    pub async fn create_schedule(&self, new: NewSchedule) -> Result<Schedule, Error> {
        if !self.0.kinds.get(&new.kind)?.options.is_open {
            let rule = format!("{} is not one that people may schedule", new.kind);
            return Err(Error::Invalid { what: "kind", rule });
        }
        self.0.check_schedule(&new)?;
        let inner = self.0.clone();
        let create = async move |tx: &mut Tx| {
            tx.wake(&inner.timed);
            schedules::insert(tx, &new, inner.made(false)).await
        };
        self.0.db.write(create).await
    }

    /// Makes or changes a schedule that is part of the server.
    pub async fn keep_schedule(&self, new: NewSchedule) -> Result<(), Error> {
        self.0.kinds.get(&new.kind)?;
        self.0.check_schedule(&new)?;
        let inner = self.0.clone();
        let keep = async move |tx: &mut Tx| {
            tx.wake(&inner.timed);
            schedules::keep(tx, &new, inner.made(true)).await
        };
        self.0.db.write(keep).await
    }

    /// Times that pass while it is paused are not missed.
    pub async fn pause_schedule(
        &self,
        organisation: OrganisationId,
        name: &str,
        is_paused: bool,
    ) -> Result<Schedule, Error> {
        let (inner, name) = (self.0.clone(), name.to_owned());
        let pause = async move |tx: &mut Tx| {
            tx.wake(&inner.timed);
            let now = inner.clock.now();
            schedules::set_paused(tx, (organisation, &name), is_paused, now).await
        };
        self.0.db.write(pause).await
    }

    pub async fn delete_schedule(
        &self,
        organisation: OrganisationId,
        name: &str,
    ) -> Result<(), Error> {
        let name = name.to_owned();
        self.0.db.write(async move |tx| schedules::delete(tx, organisation, &name).await).await
    }

    /// The kinds that have a handler here.
    pub fn kinds(&self) -> Vec<(&'static str, Kind)> {
        self.0.kinds.all().iter().map(|kind| (kind.name, kind.options.clone())).collect()
    }
}

impl Inner {
    fn check_backlog(&self, organisation: OrganisationId) -> Result<(), Error> {
        let unfinished_max = self.config.unfinished_max;
        if self.backlog.lock().get(&organisation).is_some_and(|waiting| *waiting >= unfinished_max)
        {
            return Err(Error::TooManyWaiting { unfinished_max });
        }
        Ok(())
    }

    fn check(&self, new: &New) -> Result<Arc<Registered>, Error> {
        let kind = self.kinds.get(&new.kind)?;
        let bytes_max = self.config.payload_bytes_max;
        if new.payload.len() > bytes_max {
            let rule = format!("is longer than {bytes_max} bytes");
            return Err(Error::Invalid { what: "payload", rule });
        }
        if let Some(queue) = &new.queue {
            kind::check_queue(queue)?;
        }
        let key = new.key.as_ref().map(|key| key.text.as_str());
        for (what, text, chars_max) in [
            ("key", key, KEY_CHARS_MAX),
            ("concurrency key", new.concurrency_key.as_deref(), CONCURRENCY_CHARS_MAX),
        ] {
            check_text(what, text, chars_max)?;
        }
        Ok(kind)
    }

    /// Writes jobs that are not there already.
    pub(crate) async fn put(&self, tx: &mut Tx, new: Vec<New>) -> Result<Vec<Enqueued>, Error> {
        let now = self.clock.now();
        let mut enqueued = Vec::with_capacity(new.len());
        let mut rows = Vec::with_capacity(new.len());
        let mut keys: HashMap<(OrganisationId, String, String), JobId> = HashMap::new();
        for new in new {
            let kind = self.check(&new)?;
            let id: JobId = self.ids.next(now);
            if let Some(key) = &new.key {
                let place = (new.organisation, new.kind.clone(), key.text.clone());
                let there = match keys.get(&place) {
                    Some(there) => Some(*there),
                    None => store::with_key(tx, &place).await?,
                };
                if let Some(there) = there {
                    enqueued.push(Enqueued::Repeated(there));
                    continue;
                }
                keys.insert(place, id);
            }
            enqueued.push(Enqueued::Added(id));
            rows.push(self.row(&kind, new, (id, now)));
        }
        self.write_rows(tx, rows).await?;
        Ok(enqueued)
    }

    fn row(&self, kind: &Registered, new: New, (id, created): (JobId, Timestamp)) -> NewRow {
        let concurrency = new.concurrency_key;
        let gates =
            store::gates::names(&self.kinds, new.organisation, &new.kind, concurrency.as_deref());
        NewRow {
            id,
            organisation: new.organisation,
            queue: new.queue.unwrap_or_else(|| kind.options.queue.to_owned()),
            kind: new.kind,
            priority: new.priority.number(),
            payload: new.payload,
            created,
            due: new.run_at.unwrap_or(created),
            key: new.key.map(|key| (key.text, key.lasts)),
            concurrency,
            gates,
            run: None,
            waits: 0,
        }
    }

    async fn write_rows(&self, tx: &mut Tx, rows: Vec<NewRow>) -> Result<(), Error> {
        tx.wake(&self.wake);
        if rows.iter().any(|row| row.due > row.created) {
            tx.wake(&self.timed);
        }
        self.meters.enqueued.inc_by(rows.len() as u64);
        self.note_waiting(&rows);
        store::insert(tx, rows).await
    }

    fn note_waiting(&self, rows: &[NewRow]) {
        let mut backlog = self.backlog.lock();
        for row in rows {
            *backlog.entry(row.organisation).or_default() += 1;
        }
    }

    async fn put_graph(&self, tx: &mut Tx, graph: Graph) -> Result<RunId, Error> {
        check_text("name of a graph", Some(&graph.name), NAME_CHARS_MAX)?;
        let (count, tasks_max) = (graph.tasks.len(), self.config.tasks_max);
        if count == 0 || count > tasks_max {
            let rule = format!("has {count} tasks, and may have 1 to {tasks_max}");
            return Err(Error::Invalid { what: "graph", rule });
        }
        let before = graph.check()?;
        let now = self.clock.now();
        let (run, organisation) = (self.ids.next::<job::kind::Run>(now), graph.organisation);
        let ids: Vec<JobId> = graph.tasks.iter().map(|_| self.ids.next(now)).collect();
        let (mut rows, mut tasks, mut edges) = (Vec::new(), Vec::new(), Vec::new());
        for ((named, id), before) in graph.tasks.into_iter().zip(&ids).zip(&before) {
            check_text("name of a task", Some(&named.name), NAME_CHARS_MAX)?;
            let new = named.task.job(organisation);
            let kind = self.check(&new)?;
            let mut row = self.row(&kind, new, (*id, now));
            row.run = Some((run, named.name.clone()));
            row.waits = u32::try_from(before.len()).unwrap_or(u32::MAX);
            edges.extend(before.iter().map(|first| (ids[*first], *id)));
            tasks.push((named.name, *id));
            rows.push(row);
        }
        self.write_rows(tx, rows).await?;
        let new =
            runs::NewRun { id: run, organisation, name: graph.name, created: now, tasks, edges };
        runs::insert(tx, new).await?;
        Ok(run)
    }

    fn check_schedule(&self, new: &NewSchedule) -> Result<(), Error> {
        kind::check_name("name of a schedule", &new.name, NAME_CHARS_MAX)?;
        schedule::zone(&new.zone)?;
        check_text("cron", Some(&new.cron.to_string()), 200)?;
        let job = New::of(new.organisation, new.kind.clone(), new.payload.clone());
        self.check(&job).map(drop)
    }

    fn made(&self, is_built_in: bool) -> schedules::Made {
        let schedules_max = self.config.schedules_max;
        schedules::Made { is_built_in, now: self.clock.now(), schedules_max }
    }
}

fn check_text(what: &'static str, text: Option<&str>, chars_max: usize) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    let is_fine = !text.is_empty()
        && text.chars().nth(chars_max).is_none()
        && !text.chars().any(char::is_control);
    if is_fine {
        return Ok(());
    }
    let rule = format!("has 1 to {chars_max} characters, and none of them steers a terminal");
    Err(Error::Invalid { what, rule })
}
