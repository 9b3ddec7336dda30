//! The loop that gives jobs to handlers, and the handlers' side of it.
//!
//! One commit does all that is to be done at a moment: it writes the ends of attempts, lets tasks begin that waited
//! for them, moves timers, and claims. While it is on its way handlers run on what the commit before it claimed. So a chain of
//! tasks takes one commit a task, and under load each commit carries hundreds of ends and claims.
//!
//! When an answer of the database is lost, the worker looks which jobs are its own: an end that is written twice is refused the
//! second time, and a claim that it does not know of is taken up.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::{Clock, Entropy, Failure, OrganisationId, Tasks, Timestamp};
use futures::FutureExt;
use parking_lot::Mutex;
use relational::{Db, Tx, params};
use tokio::sync::Notify;

use crate::attempt::Attempt;
use crate::buffer::Buffer;
use crate::error::Then;
use crate::job::{Ids, made};
use crate::kind::{Kinds, Registered, back_off};
use crate::meters::{Meters, QueueLabel};
use crate::store::ends::{End, How, Writer};
use crate::store::read::Look;
use crate::store::{self, COLUMNS, Claimed, claim, gates, schedules, workers};
use crate::{Config, Error, Failed, JobId, Key, New};

/// What the handle, the loop and every attempt have in common.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) tasks: Tasks,
    pub(crate) meters: Meters,
    pub(crate) kinds: Kinds,
    pub(crate) ids: Ids,
    /// Told when there may be something to do.
    pub(crate) wake: Arc<Notify>,
    /// Told when a timer or a schedule was written.
    pub(crate) timed: Arc<Notify>,
    /// Jobs that wait, near enough for a limit.
    pub(crate) backlog: Mutex<HashMap<OrganisationId, u64>>,
    pub(crate) work: Mutex<Work>,
    pub(crate) is_stopping: AtomicBool,
}

/// What this worker has in hand.
#[derive(Default)]
pub(crate) struct Work {
    /// Who it is; nothing before it was entered.
    pub(crate) holder: Option<Arc<str>>,
    place: Arc<str>,
    pub(crate) buffer: Buffer,
    /// Given to tasks that have not begun.
    starting: HashSet<JobId>,
    pub(crate) running: HashMap<JobId, Attempt>,
    pub(crate) ends: Vec<End>,
    /// Ends that are being written; a worker that stops writes them once more.
    writing: Arc<Vec<End>>,
    /// Tasks that run handlers, one after the other.
    slots: usize,
    /// Seconds that an attempt takes, of late; 0 before the first.
    mean: f64,
}

/// Heartbeats in a lease, so that some can fail.
const BEATS: u32 = 5;
/// Where nobody else can enqueue.
const LOOK_EVERY_EMBEDDED: Duration = Duration::from_secs(5);
/// The pause after the database refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// How long after its time is up a handler that holds its thread is given up.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Attempts that a task runs before it lets others have the thread.
const RUN_MAX: u32 = 32;
/// The newest attempt's share in the mean.
const MEAN_SHARE: f64 = 1.0 / 16.0;

/// Runs until it is dropped.
pub(crate) async fn run(inner: Arc<Inner>) -> Result<(), Failure> {
    let mut pace = inner.clone().enter().await?;
    loop {
        inner.fill();
        let instant = inner.clock.instant();
        let is_timed = inner.timed.notified().now_or_never().is_some();
        if is_timed || instant >= pace.look_at {
            inner.look(&mut pace).await;
        }
        if instant >= pace.count_at {
            pace.count_at = instant + COUNT_EVERY;
            if let Err(error) = inner.count().await {
                tracing::warn!(%error, "what waits could not be counted");
            }
        }
        if let Some(turn) = inner.plan(&mut pace) {
            if let Err(error) = inner.clone().turn(turn, &mut pace).await {
                if matches!(error, Error::TakenForDead) {
                    return Err(error.into());
                }
                tracing::warn!(%error, "jobs wait for the database");
                inner.clock.sleep(REFUSED_PAUSE).await;
            }
            continue;
        }
        let pause = inner.pause(&pace);
        tokio::select! {
            () = inner.wake.notified() => pace.is_more = true,
            () = inner.timed.notified() => pace.look_at = inner.clock.instant(),
            () = inner.clock.sleep(pause) => {}
        }
    }
}

/// What the loop knows of what is to be done when.
pub(crate) struct Pace {
    holder: Arc<str>,
    place: Arc<str>,
    beat_at: Instant,
    look_at: Instant,
    count_at: Instant,
    /// When delayed jobs are next claimed ahead of their time.
    ahead_at: Instant,
    schedule_at: Instant,
    seen: Look,
    /// Something may be ready.
    is_more: bool,
    /// The rows may say more than this worker knows of.
    is_in_doubt: bool,
    after: String,
    /// Ends that were not written yet.
    ends: Vec<End>,
}

/// What one commit does.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a thing that a commit does or leaves")]
struct Turn {
    holder: Arc<str>,
    place: Arc<str>,
    ends: Arc<Vec<End>>,
    is_beat: bool,
    is_in_doubt: bool,
    has_timers: bool,
    has_schedules: bool,
    count: usize,
    ahead: usize,
    after: Arc<str>,
}

/// What it did.
#[derive(Default)]
struct Turned {
    accepted: Vec<bool>,
    lost: Vec<End>,
    /// All that are at this worker's place.
    own: Vec<Claimed>,
    cancelled: Vec<JobId>,
    ready: Vec<Claimed>,
    /// Before their time.
    ahead: Vec<Claimed>,
    after: String,
    is_more: bool,
    is_more_ahead: bool,
    is_more_else: bool,
}

impl Turned {
    fn claimed(&self) -> impl Iterator<Item = &Claimed> {
        self.ready.iter().chain(&self.ahead)
    }
}

impl Inner {
    /// Becomes a new worker: what the one before it had is taken from it.
    async fn enter(self: Arc<Self>) -> Result<Pace, Error> {
        let holder: Arc<str> =
            self.ids.next::<crate::job::kind::Run>(self.clock.now()).to_string().into();
        let place: Arc<str> = store::place_of(&holder).into();
        let former = {
            let mut work = self.work.lock();
            // These are refused: they are of a worker that is no more.
            let forgotten = work.ends.len() + work.buffer.drain(None).len();
            work.ends.clear();
            work.writing = Arc::default();
            self.meters.late.inc_by(forgotten as u64);
            work.running.clear();
            work.starting.clear();
            work.place = place.clone();
            work.holder.replace(holder.clone())
        };
        let (inner, own) = (self.clone(), holder.clone());
        let enter = async move |tx: &mut Tx| {
            let until = inner.clock.now().plus(inner.config.lease);
            let whose = (inner.db.opening(), inner.db.is_embedded());
            workers::enter(tx, (&own, former.as_deref()), until, whose).await
        };
        self.db.write(enter).await?;
        let now = self.clock.instant();
        Ok(Pace {
            holder,
            place,
            // The first turn takes what dead workers left.
            beat_at: now,
            look_at: now,
            count_at: now,
            ahead_at: now,
            schedule_at: now,
            seen: Look::default(),
            is_more: true,
            is_in_doubt: false,
            after: String::new(),
            ends: Vec::new(),
        })
    }

    /// Begins as many as there are free handlers.
    pub(crate) fn fill(self: &Arc<Self>) {
        if self.is_stopping.load(Ordering::Acquire) {
            return;
        }
        let mut first = Vec::new();
        let waiting = {
            let mut work = self.work.lock();
            while work.slots < self.config.running_max {
                let Some(next) = work.buffer.next(self.clock.now()) else { break };
                work.slots += 1;
                work.starting.insert(next.id);
                first.push(next);
            }
            work.buffer.ready() + work.buffer.timers()
        };
        self.meters.buffered.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        for next in first {
            self.meters.running.inc();
            let slot = Slot { inner: self.clone(), is_left: false };
            // Not awaited: it ends by the limits of its kind.
            drop(self.tasks.spawn("job", slot.serve(next)));
        }
    }

    async fn look(&self, pace: &mut Pace) {
        let every =
            if self.db.is_embedded() { LOOK_EVERY_EMBEDDED } else { self.config.look_every };
        pace.look_at = self.clock.instant() + every;
        match self.db.read(async |read| store::read::look(read).await).await {
            Ok(seen) => {
                pace.seen = seen;
                pace.is_more |= seen.is_ready;
            }
            Err(error) => tracing::warn!(%error, "the database does not say which jobs wait"),
        }
    }

    /// What the next commit is to do, if anything.
    fn plan(&self, pace: &mut Pace) -> Option<Turn> {
        let (now, instant) = (self.clock.now(), self.clock.instant());
        let is_beat = instant >= pace.beat_at;
        if is_beat {
            self.give_up_stuck(now);
        }
        let mut work = self.work.lock();
        if self.is_stopping.load(Ordering::Acquire) {
            // What is to be written is the stop's now; this loop may be gone before its commit begins.
            return None;
        }
        let room = self.config.ends_max.saturating_sub(pace.ends.len()).min(work.ends.len());
        pace.ends.extend(work.ends.drain(..room));
        let has_timers = pace.seen.timer.is_some_and(|timer| timer <= now);
        let has_schedules =
            pace.seen.schedule.is_some_and(|next| next <= now) && instant >= pace.schedule_at;
        let soon = now.plus(self.config.ahead);
        let is_soon =
            pace.seen.timer.is_some_and(|timer| timer <= soon) && instant >= pace.ahead_at;
        let free = if work.buffer.bytes() < self.config.buffer_bytes_max {
            self.config.ahead_max.saturating_sub(work.buffer.timers())
        } else {
            0
        };
        let ahead = if is_soon { free.min(self.config.claim_max * 4) } else { 0 };
        let has_ends = !pace.ends.is_empty();
        let is_work = pace.is_more || has_ends || has_timers || has_schedules || is_beat;
        let count = if is_work { self.capacity(&work).min(self.config.claim_max) } else { 0 };
        let is_claim = pace.is_more && count > 0;
        let is_turn = is_beat || has_ends || has_timers || has_schedules || ahead > 0 || is_claim;
        if !is_turn && !pace.is_in_doubt {
            return None;
        }
        work.writing = Arc::new(std::mem::take(&mut pace.ends));
        Some(Turn {
            holder: pace.holder.clone(),
            place: pace.place.clone(),
            ends: work.writing.clone(),
            is_beat,
            is_in_doubt: pace.is_in_doubt,
            has_timers,
            has_schedules,
            count,
            ahead,
            after: pace.after.as_str().into(),
        })
    }

    /// How many more to claim: for each free handler one, and of light jobs as many as begin within a moment.
    fn capacity(&self, work: &Work) -> usize {
        if self.is_stopping.load(Ordering::Acquire)
            || work.buffer.bytes() >= self.config.buffer_bytes_max
        {
            return 0;
        }
        let running_max = self.config.running_max;
        let free = running_max.saturating_sub(work.slots);
        let light = if work.mean > 0.0 {
            let rate = running_max as f64 / work.mean;
            (rate * self.config.buffer_time.as_secs_f64()).min(self.config.buffer_max as f64)
        } else {
            0.0
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and buffer_max"
        )]
        let light = light as usize;
        let ready = work.buffer.ready();
        if free == 0 && ready * 2 > light {
            return 0;
        }
        (free + light).saturating_sub(ready)
    }

    async fn turn(self: Arc<Self>, turn: Turn, pace: &mut Pace) -> Result<(), Error> {
        let (inner, asked) = (self.clone(), turn.clone());
        let commit = async move |tx: &mut Tx| inner.commit(tx, &asked).await;
        let turned = match self.db.write(commit).await {
            Ok(turned) => turned,
            Err(error) => {
                // What of it was written is refused the second time.
                pace.ends.splice(0..0, turn.ends.iter().cloned());
                pace.is_in_doubt = true;
                return Err(error);
            }
        };
        let instant = self.clock.instant();
        pace.is_in_doubt = false;
        if turn.is_beat && !turned.is_more_else {
            pace.beat_at = instant + self.config.lease / BEATS;
        }
        let is_timed = turn.ends.iter().any(|end| end.how != How::Done) || !turned.lost.is_empty();
        if is_timed || turn.has_timers || turn.has_schedules || turn.ahead > 0 {
            pace.look_at = instant;
        }
        if turn.ahead > 0 && !turned.is_more_ahead {
            pace.ahead_at = instant + self.config.look_every;
        }
        if turn.has_schedules {
            pace.schedule_at = instant + self.config.look_every;
        }
        if turn.count > 0 {
            pace.is_more = turned.is_more;
            pace.after.clone_from(&turned.after);
        }
        self.learn(&turn, turned);
        Ok(())
    }

    /// One transaction; it may run again.
    async fn commit(&self, tx: &mut Tx, turn: &Turn) -> Result<Turned, Error> {
        let now = self.clock.now();
        let kinds = &self.kinds;
        let mut turned = Turned::default();
        if turn.is_beat {
            workers::beat(tx, &turn.holder, now.plus(self.config.lease)).await?;
            let taken = workers::bury(tx, kinds, now, self.entropy.number()).await?;
            turned.is_more_else = taken.is_more;
            turned.lost = taken.lost;
            gates::sweep(tx, kinds).await?;
        } else {
            workers::check(tx, &turn.holder).await?;
        }
        let writer = Writer { kinds, place: &turn.place, now };
        turned.accepted = store::ends::write(tx, writer, &turn.ends).await?;
        if turn.is_beat || turn.is_in_doubt {
            self.own(tx, turn, &mut turned).await?;
        }
        if turn.has_schedules {
            let due = schedules::due(tx, now, kinds, &self.config).await?;
            let news = due.into_iter().map(|(schedule, time)| New {
                key: Some(Key::once(format!("{}@{}", schedule.name, time.micros()))),
                priority: schedule.priority,
                run_at: Some(time),
                ..New::of(schedule.organisation, schedule.kind, schedule.payload)
            });
            self.put(tx, news.collect()).await?;
        }
        if turn.has_timers {
            turned.is_more = claim::promote(tx, now).await?;
        }
        let wanted = |count, after| claim::Wanted {
            kinds,
            place: &turn.place,
            now,
            count,
            lanes_max: self.config.lanes_max,
            after,
        };
        if turn.count > 0 && !kinds.names().is_empty() {
            let found = claim::ready(tx, &wanted(turn.count, &turn.after)).await?;
            turned.ready = found.claimed;
            turned.after = found.after;
            turned.is_more |= found.is_more;
        }
        if turn.ahead > 0 {
            let until = now.plus(self.config.ahead);
            let found = claim::ahead(tx, &wanted(turn.ahead, ""), until).await?;
            turned.ahead = found.claimed;
            turned.is_more_ahead = found.is_more;
        }
        turned.is_more |= turned.is_more_else;
        Ok(turned)
    }

    /// Which of this worker's jobs somebody cancelled; and, in doubt, which there are.
    async fn own(&self, tx: &mut Tx, turn: &Turn, turned: &mut Turned) -> Result<(), Error> {
        let cancelled = "SELECT id FROM job WHERE place = ? AND cancel = 1";
        for row in tx.query(cancelled, params![turn.place]).await? {
            turned.cancelled.push(row.get("id")?);
        }
        if turn.is_in_doubt {
            let own = format!("SELECT {COLUMNS} FROM job WHERE place = ?");
            let rows = tx.query(&own, params![turn.place]).await?;
            turned.own = rows.iter().map(Claimed::of).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Takes up what a commit gave.
    fn learn(self: &Arc<Self>, turn: &Turn, mut turned: Turned) {
        let now = self.clock.now();
        for (end, is_accepted) in turn.ends.iter().zip(&turned.accepted) {
            self.tell(end, *is_accepted);
        }
        for end in &turned.lost {
            self.meters.lost.inc();
            self.tell(end, true);
        }
        let mut work = self.work.lock();
        work.writing = Arc::default();
        let own: Vec<Claimed> = std::mem::take(&mut turned.own);
        for own in own {
            let is_known = work.starting.contains(&own.id)
                || work.running.get(&own.id).is_some_and(|at| at.number() == own.attempt)
                || work.ends.iter().any(|end| end.claimed.id == own.id)
                || turned.claimed().any(|claimed| claimed.id == own.id);
            if !is_known && work.buffer.remove(own.id).is_none() {
                tracing::warn!(job = %own.id, "a claim is taken up whose answer was lost");
            }
            if !is_known {
                work.buffer.add(own, now);
            }
        }
        for claimed in turned.ready {
            // Its time has come, also when the clock was set back since.
            work.buffer.add_ready(claimed);
        }
        for claimed in turned.ahead {
            work.buffer.add(claimed, now);
        }
        for id in turned.cancelled {
            cancel(&mut work, id, now);
        }
    }

    fn tell(&self, end: &End, is_accepted: bool) {
        let Claimed { id, organisation, kind, attempt, .. } = &*end.claimed;
        if !is_accepted {
            self.meters.late.inc();
            tracing::warn!(%organisation, job = %id, kind, attempt, "an attempt ended after it was replaced");
            return;
        }
        match &end.how {
            How::Done => {
                self.meters.done.inc();
            }
            How::Again { reason, .. } => {
                self.meters.failed.inc();
                tracing::warn!(%organisation, job = %id, kind, attempt, reason, "a job is tried again");
            }
            How::Dead { reason } | How::Lost { reason, at: None } => {
                self.meters.failed.inc();
                self.meters.dead.inc();
                tracing::warn!(%organisation, job = %id, kind, attempt, reason, "a job is dead");
            }
            How::Lost { reason, .. } => {
                tracing::warn!(%organisation, job = %id, kind, attempt, reason, "a job is tried again");
            }
            How::Early { .. }
            | How::Cancelled { .. }
            | How::Interrupted { .. }
            | How::HandedBack => {}
        }
    }

    /// Until when there is nothing to do.
    fn pause(&self, pace: &Pace) -> Duration {
        let (now, instant) = (self.clock.now(), self.clock.instant());
        let until = |moment: Instant| moment.saturating_duration_since(instant);
        let mut pause = until(pace.beat_at).min(until(pace.look_at)).min(until(pace.count_at));
        if let Some(timer) = pace.seen.timer {
            let ahead = timer.minus(self.config.ahead).since(now).max(until(pace.ahead_at));
            pause = pause.min(timer.since(now)).min(ahead);
        }
        if let Some(schedule) = pace.seen.schedule {
            pause = pause.min(schedule.since(now).max(until(pace.schedule_at)));
        }
        if let Some(next) = self.work.lock().buffer.next_time() {
            pause = pause.min(next.since(now));
        }
        pause
    }

    /// Ends attempts that hold their thread beyond their time, for their jobs; the threads stay held.
    fn give_up_stuck(&self, now: Timestamp) {
        let mut work = self.work.lock();
        let is_stuck = |attempt: &Attempt| {
            let time_max = self.kinds.find(attempt.kind()).map(|kind| kind.options.time_max);
            let limit = time_max.unwrap_or_default() + STUCK_AFTER;
            now.since(attempt.shared().began) > limit
        };
        let stuck = work.running.values().filter(|attempt| is_stuck(attempt)).cloned();
        for attempt in stuck.collect::<Vec<_>>() {
            work.running.remove(&attempt.id());
            let failed = Failed::again("it ran longer than its time and does not end");
            let how = self.how(&attempt, failed);
            work.ends.push(attempt.end(how, now));
        }
    }

    /// What becomes of a job whose attempt failed.
    fn how(&self, attempt: &Attempt, failed: Failed) -> How {
        let Failed { reason, then } = failed;
        if attempt.was_cancelled() {
            return How::Cancelled { reason };
        }
        if self.is_stopping.load(Ordering::Acquire) && attempt.cancelled().is_cancelled() {
            return How::Interrupted { reason };
        }
        let now = self.clock.now();
        let tries = attempt.shared().claimed.tries + 1;
        let options = self.kinds.find(attempt.kind()).map(|kind| kind.options.clone());
        let options = options.unwrap_or_default();
        match then {
            Then::Later(pause) => How::Early { reason, at: now.plus(pause) },
            Then::Again if tries < options.attempts_max => {
                let pause = back_off(&options, tries, self.entropy.number());
                How::Again { reason, at: now.plus(pause) }
            }
            Then::Again | Then::Dead => How::Dead { reason },
        }
    }

    /// Sets the counts that enqueueing moves only approximately to what the rows say.
    async fn count(&self) -> Result<(), Error> {
        let waiting = self.db.read(async |read| store::read::waiting(read).await).await?;
        let now = self.clock.now();
        let mut backlog: HashMap<OrganisationId, u64> = HashMap::new();
        let mut depth: HashMap<String, (u64, Duration)> = HashMap::new();
        for (lane, number, oldest) in waiting.lanes {
            let Some((queue, organisation)) = lane.split_once('/') else { continue };
            let of_queue = depth.entry(queue.to_owned()).or_default();
            of_queue.0 += number;
            of_queue.1 = of_queue.1.max(oldest.map_or(Duration::ZERO, |id| now.since(made(id))));
            if let Ok(organisation) = organisation.parse() {
                *backlog.entry(organisation).or_default() += number;
            }
        }
        let mut delayed = 0;
        for (organisation, number) in waiting.delayed {
            *backlog.entry(organisation).or_default() += number;
            delayed += number;
        }
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (organisation, number) in waiting.limited {
            *backlog.entry(organisation).or_default() += number;
        }
        self.meters.delayed.set(gauge(delayed));
        self.meters.depth.clear();
        self.meters.oldest.clear();
        for (queue, (number, oldest)) in depth {
            let label = QueueLabel { queue };
            self.meters.depth.get_or_create(&label).set(gauge(number));
            self.meters.oldest.get_or_create(&label).set(gauge(oldest.as_secs()));
        }
        *self.backlog.lock() = backlog;
        Ok(())
    }

    /// Runs one attempt to its end.
    async fn attempt(self: &Arc<Self>, claimed: Claimed) {
        let claimed = Arc::new(claimed);
        let began = self.clock.now();
        let is_stopping = self.is_stopping.load(Ordering::Acquire);
        let Some(kind) = self.kinds.find(&claimed.kind).filter(|_| !is_stopping) else {
            let how = How::HandedBack;
            let mut work = self.work.lock();
            work.starting.remove(&claimed.id);
            work.ends.push(End { claimed, began, ended: began, how, log: String::new() });
            drop(work);
            self.wake.notify_one();
            return;
        };
        let place = self.work.lock().place.clone();
        let attempt = Attempt::new(self, &claimed, place, began);
        {
            let mut work = self.work.lock();
            work.starting.remove(&claimed.id);
            work.running.insert(claimed.id, attempt.clone());
        }
        self.meters.started.inc();
        self.meters.waited.observe(began.since(claimed.due).as_secs_f64());
        let how = self.handle(&kind, &attempt).await;
        let ended = self.clock.now();
        let took = ended.since(began).as_secs_f64();
        self.meters.took.observe(took);
        let mut work = self.work.lock();
        // At least a microsecond, so that it is known to be known.
        let took = took.max(0.000_001);
        work.mean =
            if work.mean > 0.0 { work.mean + (took - work.mean) * MEAN_SHARE } else { took };
        let is_current =
            work.running.get(&claimed.id).is_some_and(|at| at.number() == claimed.attempt);
        if is_current {
            work.running.remove(&claimed.id);
        }
        match how {
            Some(how) => work.ends.push(attempt.end(how, ended)),
            None => {
                self.meters.done.inc();
            }
        }
        drop(work);
        self.wake.notify_one();
    }

    /// How it ended; nothing when that is written already.
    async fn handle(&self, kind: &Arc<Registered>, attempt: &Attempt) -> Option<How> {
        let handling = AssertUnwindSafe(async { (kind.handler)(attempt.clone()).await });
        let time_max = kind.options.time_max;
        let handling = tokio::time::timeout(time_max, handling.catch_unwind());
        let stopped = async {
            attempt.cancelled().cancelled().await;
            self.clock.sleep(self.config.cancel_time_max).await;
        };
        let failed = tokio::select! {
            biased;
            handled = handling => match handled {
                Ok(Ok(Ok(done))) => return (!done.is_written).then_some(How::Done),
                Ok(Ok(Err(failed))) => failed,
                Ok(Err(panic)) => Failed::panicked(&*panic),
                Err(_) => Failed::again(format!("it took longer than {time_max:?}")),
            },
            () = stopped => Failed::again("it was asked to stop and was ended"),
        };
        Some(self.how(attempt, failed))
    }

    /// Gives back what a stopping worker has, once its handlers have ended or had their time.
    pub(crate) async fn stop(self: Arc<Self>) {
        self.tasks.stopping().cancelled().await;
        self.is_stopping.store(true, Ordering::Release);
        let (holder, place) = {
            let mut work = self.work.lock();
            let now = self.clock.now();
            let held = work.buffer.drain(None);
            let ends = held.into_iter().map(|claimed| handed_back(claimed, now));
            work.ends.extend(ends.collect::<Vec<_>>());
            // Where they are written already, they are refused.
            let writing = std::mem::take(&mut work.writing);
            work.ends.splice(0..0, writing.iter().cloned());
            work.running.values().for_each(|attempt| attempt.stop(false));
            (work.holder.clone(), work.place.clone())
        };
        let Some(holder) = holder else { return };
        let until = self.clock.instant() + self.config.stop_time_max;
        loop {
            let (ends, is_running) = {
                let mut work = self.work.lock();
                let is_running = !work.running.is_empty() || !work.starting.is_empty();
                (std::mem::take(&mut work.ends), is_running)
            };
            if let Err(error) = self.write_ends(ends, &place).await {
                tracing::warn!(%error, "ends of jobs were not written; they are done again");
                break;
            }
            if !is_running || self.clock.instant() >= until {
                break;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.clock.sleep(Duration::from_millis(20)) => {}
            }
        }
        if let Err(error) = self.leave(&holder).await {
            tracing::warn!(%error, "jobs stay with a worker that has stopped, until its lease ends");
        }
    }

    async fn write_ends(self: &Arc<Self>, ends: Vec<End>, place: &Arc<str>) -> Result<(), Error> {
        for some in ends.chunks(self.config.ends_max) {
            let (inner, place, ends) = (self.clone(), place.clone(), some.to_vec());
            let write = async move |tx: &mut Tx| {
                let writer = Writer { kinds: &inner.kinds, place: &place, now: inner.clock.now() };
                store::ends::write(tx, writer, &ends).await
            };
            let accepted = self.db.write(write).await?;
            // One that is refused was written before, as the last thing that the worker did.
            let written = some.iter().zip(accepted).filter(|(_, is_accepted)| *is_accepted);
            written.for_each(|(end, _)| self.tell(end, true));
        }
        Ok(())
    }

    async fn leave(self: &Arc<Self>, holder: &Arc<str>) -> Result<(), Error> {
        loop {
            let (inner, holder) = (self.clone(), holder.clone());
            let leave = async move |tx: &mut Tx| {
                workers::leave(tx, &inner.kinds, &holder, inner.clock.now()).await
            };
            if self.db.write(leave).await?.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Stops a job that this worker has, if it has it.
pub(crate) fn cancel(work: &mut Work, id: JobId, now: Timestamp) {
    if let Some(claimed) = work.buffer.remove(id) {
        let how = How::Cancelled { reason: "cancelled before it began".to_owned() };
        work.ends.push(End { how, ..handed_back(claimed, now) });
    } else if let Some(attempt) = work.running.get(&id) {
        attempt.stop(true);
    }
}

pub(crate) fn handed_back(claimed: Claimed, now: Timestamp) -> End {
    let (claimed, how) = (Arc::new(claimed), How::HandedBack);
    End { claimed, began: now, ended: now, how, log: String::new() }
}

/// One of the handlers that run at the same time; free again however it ends.
struct Slot {
    inner: Arc<Inner>,
    is_left: bool,
}

impl Slot {
    async fn serve(mut self, first: Claimed) {
        let (mut next, mut ran) = (Some(first), 0);
        while let Some(claimed) = next {
            self.inner.attempt(claimed).await;
            ran += 1;
            if ran % RUN_MAX == 0 {
                tokio::task::yield_now().await;
            }
            next = self.next();
        }
    }

    /// Leaves in the same moment in which there is nothing more, so that what comes then finds it free.
    fn next(&mut self) -> Option<Claimed> {
        let inner = self.inner.clone();
        let mut work = inner.work.lock();
        let is_stopping = inner.is_stopping.load(Ordering::Acquire);
        let next = if is_stopping { None } else { work.buffer.next(inner.clock.now()) };
        if let Some(claimed) = &next {
            // A stop that comes now waits for it.
            work.starting.insert(claimed.id);
        }
        if next.is_none() {
            self.is_left = true;
            work.slots -= 1;
            inner.meters.running.dec();
        }
        next
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_left {
            self.inner.work.lock().slots -= 1;
            self.inner.meters.running.dec();
        }
    }
}
