use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use base::{Base, ErrorKind, EventId, Failure, Tasks, Timestamp};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::task::AbortOnDropHandle;

use crate::command::{self, Attempt, Claimant, Failed};
use crate::{Command, Db, Error, Tx, Unhandled};

/// The handlers of commands, exactly one for each name, and the runner that carries commands out.
///
/// Several servers on one database share the work: each attempt is claimed by one of them under a lease, and
/// one that was replaced changes no row. Effects in rows happen once. Effects elsewhere can happen twice and are
/// keyed by [`Command::id`].
pub struct Commands {
    db: Db,
    tasks: Tasks,
    holder: String,
    handlers: Handlers,
}

type Handlers = BTreeMap<&'static str, Arc<dyn Handles>>;

/// How often a server looks for commands of others: sent there, or left by one that ended.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the number of those that wait, which every server counts for itself, is counted in the rows.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// The pause before an attempt's end is written again after the database refused it.
const WRITE_PAUSE: Duration = Duration::from_millis(200);

impl Commands {
    pub fn new(db: &Db, base: &Base) -> Self {
        let holder = EventId::new(base.clock.now(), &base.entropy).to_string();
        let (db, tasks) = (db.clone(), base.tasks.clone());
        Self { db, tasks, holder, handlers: Handlers::new() }
    }

    /// Registers the one handler of this name, whose effects are in rows: they are durable in one commit with
    /// the command's end.
    pub fn handle<F>(&mut self, name: &'static str, handle: F) -> Result<(), Error>
    where
        F: AsyncFn(&mut Tx, &Command) -> Result<(), Unhandled> + Send + Sync + 'static,
    {
        self.register(name, Arc::new(InRows(Arc::new(handle))))
    }

    /// Registers the one handler of this name, which first has an effect elsewhere, for at most
    /// `command_time_max`, and then notes what came of it in rows. When the process ends between the two, `act`
    /// is called again for the same command.
    pub fn handle_outside<T, A, Acting, N>(
        &mut self,
        name: &'static str,
        act: A,
        note: N,
    ) -> Result<(), Error>
    where
        A: Fn(Arc<Command>) -> Acting + Send + Sync + 'static,
        Acting: Future<Output = Result<T, Unhandled>> + Send + 'static,
        T: Send + Sync + 'static,
        N: AsyncFn(&mut Tx, &Command, &T) -> Result<(), Unhandled> + Send + Sync + 'static,
    {
        let act = move |command| -> Acted<T> { act(command).boxed() };
        self.register(name, Arc::new(Outside { act: Box::new(act), note: Arc::new(note) }))
    }

    /// Begins to carry commands out, until the tasks stop. Refused while a command waits that nobody handles.
    pub async fn start(self) -> Result<(), Error> {
        let tasks = self.tasks.clone();
        let runner = Arc::new(self.runner().await?);
        tasks.supervise("commands", move || runner.clone().run());
        Ok(())
    }

    async fn runner(self) -> Result<Runner, Error> {
        let Self { db, tasks, holder, handlers } = self;
        for name in db.read(async |read| command::names(read).await).await? {
            db.shared().commands.check(&name)?;
        }
        let claimant = Arc::new(Claimant::new(handlers.keys().copied().collect(), holder));
        Ok(Runner { db, tasks, handlers, claimant })
    }

    fn register(&mut self, name: &'static str, handler: Arc<dyn Handles>) -> Result<(), Error> {
        self.db.shared().commands.register(name)?;
        self.handlers.insert(name, handler);
        Ok(())
    }
}

/// Makes one attempt: `Ok` once the effect and the command's end are durable.
trait Handles: Send + Sync {
    fn attempt(&self, db: Db, attempt: Attempt) -> BoxFuture<'static, Result<(), Stopped>>;
}

/// Why an attempt ended without carrying the command out.
enum Stopped {
    Unhandled(Unhandled),
    /// It is not this attempt's any more.
    Gone,
}

impl From<Unhandled> for Stopped {
    fn from(unhandled: Unhandled) -> Self {
        Self::Unhandled(unhandled)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Unhandled(error.into())
    }
}

type Act<T> = dyn Fn(Arc<Command>) -> Acted<T> + Send + Sync;
type Acted<T> = BoxFuture<'static, Result<T, Unhandled>>;

struct InRows<F>(Arc<F>);

impl<F> Handles for InRows<F>
where
    F: AsyncFn(&mut Tx, &Command) -> Result<(), Unhandled> + Send + Sync + 'static,
{
    fn attempt(&self, db: Db, attempt: Attempt) -> BoxFuture<'static, Result<(), Stopped>> {
        let handle = self.0.clone();
        let work = async move |tx: &mut Tx| {
            if !command::remove(tx, &attempt.command).await? {
                return Err(Stopped::Gone);
            }
            Ok(handle(tx, &attempt.command).await?)
        };
        async move { db.write(work).await }.boxed()
    }
}

struct Outside<T, N> {
    act: Box<Act<T>>,
    note: Arc<N>,
}

impl<T, N> Handles for Outside<T, N>
where
    T: Send + Sync + 'static,
    N: AsyncFn(&mut Tx, &Command, &T) -> Result<(), Unhandled> + Send + Sync + 'static,
{
    fn attempt(&self, db: Db, attempt: Attempt) -> BoxFuture<'static, Result<(), Stopped>> {
        let limit = db.config().command_time_max;
        let acting = tokio::time::timeout(limit, (self.act)(attempt.command.clone()));
        let note = self.note.clone();
        let noting = async move {
            let done = acting.await.map_err(|_| Unhandled::too_slow(limit))??;
            let done = Arc::new(done);
            loop {
                let (note, done, command) = (note.clone(), done.clone(), attempt.command.clone());
                let work = async move |tx: &mut Tx| {
                    if !command::remove(tx, &command).await? {
                        return Err(Stopped::Gone);
                    }
                    Ok(note(tx, &command, &done).await?)
                };
                let (noted, clock) = (db.write(work).await, &db.shared().clock);
                // The effect is there: a note that is lost for a full disk would make a second one.
                let is_over = clock.now().plus(WRITE_PAUSE) >= attempt.until;
                match noted {
                    Err(Stopped::Unhandled(why)) if why.may_pass() && !is_over => {
                        clock.sleep(WRITE_PAUSE).await;
                    }
                    noted => return noted,
                }
            }
        };
        noting.boxed()
    }
}

/// Counts one that is being carried out, however that ends.
struct Running(Gauge);

impl Running {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct Runner {
    db: Db,
    tasks: Tasks,
    handlers: Handlers,
    claimant: Arc<Claimant>,
}

impl Runner {
    /// Claims what is due and carries it out, until the database refuses. Dropping it gives up what it carries
    /// out; the next run, or another server, takes it over.
    async fn run(self: Arc<Self>) -> Result<(), Failure> {
        let claimant = self.claimant.clone();
        self.db.write(async move |tx| command::free_own(tx, &claimant.holder).await).await?;
        let shared = self.db.shared();
        let running_max = shared.config.commands_running_max;
        let mut running = FuturesUnordered::new();
        let mut counted = shared.clock.now();
        loop {
            let now = shared.clock.now();
            if now.since(counted) >= COUNT_EVERY {
                counted = now;
                self.count().await?;
            }
            while running.next().now_or_never().flatten().is_some() {}
            let free = running_max.saturating_sub(running.len());
            let pause = self.pause().await?;
            if free > 0 && pause.is_zero() {
                for attempt in self.claim(free).await? {
                    let work = self.clone().carry_out(attempt);
                    running.push(AbortOnDropHandle::new(self.tasks.spawn("command", work)));
                }
                continue;
            }
            tokio::select! {
                Some(_) = running.next() => {}
                () = shared.commands.sent.notified(), if free > 0 => {}
                () = shared.clock.sleep(pause), if free > 0 => {}
            }
        }
    }

    /// How long until something is due; nothing when it is.
    async fn pause(&self) -> Result<Duration, Error> {
        let claimant = self.claimant.clone();
        let due = self.db.read(async move |read| claimant.next_due(read).await).await?;
        Ok(due.map_or(LOOK_EVERY, |due| due.since(self.db.now()).min(LOOK_EVERY)))
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Attempt>, Error> {
        let claimant = self.claimant.clone();
        let claimed = self.db.write(async move |tx| claimant.claim(tx, limit).await).await?;
        for command in &claimed.dead {
            self.died(command, "its last attempt did not end");
        }
        Ok(claimed.attempts)
    }

    async fn carry_out(self: Arc<Self>, attempt: Attempt) {
        let meter = &self.db.shared().meter;
        let _counted = Running::new(&meter.commands_running);
        let (command, until) = (attempt.command.clone(), attempt.until);
        let handler = self.handlers.get(&*command.name).expect("those with a handler are claimed");
        let attempted = async { handler.attempt(self.db.clone(), attempt).await };
        let attempted = AssertUnwindSafe(attempted).catch_unwind();
        let unhandled = match attempted.await {
            Ok(Ok(())) => {
                meter.commands_done.inc();
                return;
            }
            Ok(Err(Stopped::Unhandled(unhandled))) => unhandled,
            Ok(Err(Stopped::Gone)) => return replaced(&command),
            Err(panic) => Unhandled::panicked(&*panic),
        };
        self.failed(&command, until, &unhandled).await;
    }

    /// Writes down that an attempt failed, again and again until its lease ends.
    async fn failed(&self, command: &Arc<Command>, until: Timestamp, unhandled: &Unhandled) {
        let shared = self.db.shared();
        let config = &shared.config;
        let is_last = command.attempt >= config.command_attempts_max;
        let pause = command::back_off(config, command.attempt, shared.entropy.number());
        let is_final = is_last || unhandled.kind() == ErrorKind::Invalid;
        let reason: Arc<str> = unhandled.to_string().into();
        loop {
            let next = (!is_final).then(|| shared.clock.now().plus(pause));
            let (command, reason) = (command.clone(), reason.clone());
            let (own, why) = (command.clone(), reason.clone());
            let work = async move |tx: &mut Tx| command::fail(tx, &own, &why, next).await;
            match self.db.write(work).await {
                Ok(Failed::Later) => {
                    shared.meter.commands_retried.inc();
                    let Command { id, name, attempt, .. } = &*command;
                    tracing::warn!(command = %id, name, attempt, %reason, "a command is tried again");
                    return;
                }
                Ok(Failed::Dead) => return self.died(&command, &reason),
                Ok(Failed::Gone) => return replaced(&command),
                Err(error) if shared.clock.now().plus(WRITE_PAUSE) >= until => {
                    let Command { id, name, .. } = &*command;
                    tracing::error!(command = %id, name, %error, "the end of an attempt was not written");
                    return;
                }
                Err(_) => shared.clock.sleep(WRITE_PAUSE).await,
            }
        }
    }

    fn died(&self, command: &Command, reason: &str) {
        let meter = &self.db.shared().meter;
        meter.commands_dead.inc();
        meter.dead_letters.inc();
        let Command { id, name, attempt, .. } = command;
        tracing::warn!(command = %id, name, attempt, reason, "a command is set aside");
    }

    async fn count(&self) -> Result<(), Error> {
        let known = i64::try_from(self.db.commands_length()).unwrap_or(i64::MAX);
        let counted = self.db.read(async |read| command::length(read).await).await?;
        self.db.shared().commands_changed(counted - known);
        Ok(())
    }
}

fn replaced(command: &Command) {
    let Command { id, name, attempt, .. } = command;
    tracing::warn!(command = %id, name, attempt, "an attempt ended after another had begun");
}

#[cfg(test)]
mod tests;
