//! What runs at this moment, so that work which holds something for too long is named while it still does.
//!
//! A thread of its own looks, not a task: it must see also when no task can run. Start at [`Watch::begin`].

mod rest;
mod seat;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as text;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};

use crate::{Clock, Failure, Metrics};

pub use seat::{Thread, sit};

/// A line of code.
pub type Place = &'static std::panic::Location<'static>;

/// When the thread that looks says or does something. Durations are written as `1s`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often it looks.
    #[serde(with = "text")]
    pub every: Duration,
    /// A task that keeps its thread for longer is named; one that computes for most of it runs a hundredth of the time
    /// from then on, last of all.
    #[serde(with = "text")]
    pub poll_time_max: Duration,
    /// How long everybody may be held up before the process ends, so that it is started again; `0s` waits for ever.
    #[serde(with = "text")]
    pub end_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(250),
            poll_time_max: Duration::from_secs(1),
            end_after: Duration::from_mins(1),
        }
    }
}

/// Knows what runs at this moment. Cloning shares it.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    clock: Clock,
    next: AtomicU64,
    /// What was begun and has not ended.
    running: Mutex<HashMap<u64, Arc<Work>>>,
    /// How many threads each group of threads has.
    groups: Mutex<HashMap<&'static str, usize>>,
    stuck: Family<WhatLabels, Gauge>,
    told: Family<WhatLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabels {
    what: &'static str,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Somebody waits for an answer.
    Request,
    /// A thread of the runtime.
    Task,
    /// A connection that reads.
    Read,
    /// The connection that writes, which everybody's writes wait for.
    Write,
}

/// Work that is begun.
pub struct Begin {
    pub what: What,
    /// Tells it from others of its name, such as the id of a request.
    pub id: Option<Arc<str>>,
    pub place: Option<Place>,
    /// After so long it is named.
    pub told_after: Duration,
    /// How long it may take.
    pub limit: Duration,
}

/// Something that holds more than it should, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub what: &'static str,
    pub name: String,
    pub id: Option<String>,
    pub place: Option<String>,
    /// What it does, or what it did last.
    pub step: Option<String>,
    pub held: Duration,
}

/// Held while the work runs.
pub struct Running {
    number: u64,
    work: Arc<Work>,
    watch: Arc<Inner>,
}

/// One piece of work, known to the thread that runs it and to the one that looks.
struct Work {
    what: What,
    name: OnceLock<Arc<str>>,
    id: Option<Arc<str>>,
    place: Option<Place>,
    /// Nothing for a task, which may be there for ever.
    since: Option<Instant>,
    told_after: Duration,
    limit: Duration,
    is_told: AtomicBool,
    step: Mutex<Step>,
}

#[derive(Default)]
struct Step {
    text: String,
    is_running: bool,
}

/// More than so many are not named one by one at a time.
const TOLD_AT_ONCE_MAX: usize = 20;
const STEP_CHARS_MAX: usize = 500;

impl What {
    const ALL: [Self; 4] = [Self::Request, Self::Task, Self::Read, Self::Write];

    pub fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Task => "task",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Request => "a request has not ended",
            Self::Task => "a task keeps its thread",
            Self::Read => "a read keeps its connection",
            Self::Write => "a write keeps the connection that all writes need",
        }
    }
}

impl Watch {
    pub(crate) fn new(clock: &Clock, metrics: &Metrics) -> Self {
        let stuck = Family::<WhatLabels, Gauge>::default();
        for what in What::ALL {
            stuck.get_or_create(&WhatLabels { what: what.label() }).set(0);
        }
        Self(Arc::new(Inner {
            clock: clock.clone(),
            next: AtomicU64::new(0),
            running: Mutex::default(),
            groups: Mutex::default(),
            stuck: metrics.register("stuck", "What holds something for too long now.", stuck),
            told: metrics.register(
                "stuck_told",
                "Times that something held something for too long.",
                Family::default(),
            ),
        }))
    }

    /// Notes that work begins; it ends when what this gives is dropped.
    pub fn begin(&self, begin: Begin) -> Running {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let work = Arc::new(Work {
            since: Some(self.0.clock.instant()),
            id: begin.id,
            told_after: begin.told_after,
            limit: begin.limit,
            ..Work::new(begin.what, begin.place)
        });
        self.0.running.lock().insert(number, work.clone());
        Running { number, work, watch: self.0.clone() }
    }

    /// Says that `size` threads, each of which calls [`sit`], do one kind of work: when all of them are stuck,
    /// nothing of it is done any more.
    pub fn group(&self, name: &'static str, size: usize) {
        self.0.groups.lock().insert(name, size);
    }

    /// Starts the thread that looks; it ends with the last handle. `end` is called with the reason when
    /// everybody has been held up for longer than [`Config::end_after`].
    pub fn start(
        &self,
        config: Config,
        end: impl Fn(&str) + Send + 'static,
    ) -> Result<(), Failure> {
        let inner = Arc::downgrade(&self.0);
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            while let Some(inner) = inner.upgrade() {
                if let Some(why) = inner.look(&config, inner.clock.instant()) {
                    end(&why);
                }
                drop(inner);
                std::thread::park_timeout(config.every);
            }
        })?;
        Ok(())
    }

    /// What holds something for too long at this moment, the longest first.
    pub fn stuck(&self) -> Vec<Stuck> {
        let now = self.0.clock.instant();
        let mut stuck: Vec<Stuck> =
            self.0.overdue(now).iter().map(|(work, held)| work.shown(work.what, *held)).collect();
        let seats = seat::stuck(now);
        stuck.extend(seats.iter().map(|(work, held)| work.shown(What::Task, *held)));
        stuck.sort_by_key(|stuck| std::cmp::Reverse(stuck.held));
        stuck
    }
}

impl Inner {
    /// Names what is new, and says why the process should end, if it should.
    fn look(&self, config: &Config, now: Instant) -> Option<String> {
        let overdue = self.overdue(now);
        let mut told = 0;
        for (work, held) in &overdue {
            if !work.is_told.swap(true, Ordering::AcqRel) {
                told += 1;
                self.tell(work, work.what, *held, told);
            }
        }
        let seats = seat::look(now, config.poll_time_max);
        for seat in seats.iter().filter(|seat| seat.is_new) {
            told += 1;
            self.tell(&seat.work, What::Task, seat.held, told);
        }
        if told > TOLD_AT_ONCE_MAX {
            let more = told - TOLD_AT_ONCE_MAX;
            tracing::warn!(more, "more hold something for too long, see /v1/stuck");
        }
        self.count(&overdue, seats.len());
        if config.end_after.is_zero() {
            return None;
        }
        self.hopeless(&overdue, &seats, config.end_after)
    }

    fn tell(&self, work: &Work, what: What, held: Duration, number: usize) {
        self.told.get_or_create(&WhatLabels { what: what.label() }).inc();
        if number > TOLD_AT_ONCE_MAX {
            return;
        }
        let Stuck { name, id, place, step, .. } = work.shown(what, held);
        tracing::warn!(name, id, place, step, ?held, "{}", what.says());
    }

    fn count(&self, overdue: &[(Arc<Work>, Duration)], seats: usize) {
        for what in What::ALL {
            let count = overdue.iter().filter(|(work, _)| work.what == what).count();
            let count = if what == What::Task { seats } else { count };
            let gauge = self.stuck.get_or_create(&WhatLabels { what: what.label() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn overdue(&self, now: Instant) -> Vec<(Arc<Work>, Duration)> {
        self.running.lock().values().filter_map(|work| work.overdue(now)).collect()
    }

    /// Nobody can be helped by waiting: all writes wait for one that does not end, or every thread of a group
    /// is kept by a task that does not let go.
    fn hopeless(
        &self,
        overdue: &[(Arc<Work>, Duration)],
        seats: &[seat::Kept],
        after: Duration,
    ) -> Option<String> {
        let write = overdue.iter().find(|(work, held)| {
            work.what == What::Write && *held > work.limit.saturating_add(after)
        });
        if let Some((work, held)) = write {
            let place = work.place.map(ToString::to_string).unwrap_or_default();
            return Some(format!(
                "a write at {place} did not end for {held:.0?}, and all others wait"
            ));
        }
        let groups = self.groups.lock();
        groups.iter().find_map(|(group, size)| {
            let kept = seats.iter().filter(|seat| seat.group == Some(group) && seat.held > after);
            let names: Vec<String> =
                kept.map(|seat| seat.work.shown(What::Task, seat.held).name).collect();
            let is_over = names.len() >= (*size).max(1);
            is_over.then(|| {
                format!("all {size} threads of {group} are kept by tasks: {}", names.join(", "))
            })
        })
    }
}

impl Running {
    /// Says what it is, once that is known.
    pub fn name(&self, name: &Arc<str>) {
        // The first name stays.
        drop(self.work.name.set(name.clone()));
    }

    /// Says what it does now.
    pub fn step(&self, what: &str) {
        let mut step = self.work.step.lock();
        step.text.clear();
        step.text.push_str(what);
        step.is_running = true;
    }

    /// Says that it does nothing of what it said any more.
    pub fn step_ended(&self) {
        self.work.step.lock().is_running = false;
    }

    /// Whether it is between two steps.
    pub fn is_between_steps(&self) -> bool {
        !self.work.step.lock().is_running
    }

    /// Runs a part of the work so that it is known which thread runs it.
    pub fn follow<F: Future>(&self, part: F) -> impl Future<Output = F::Output> + use<F> {
        follow(self.work.clone(), Box::pin(part))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.running.lock().remove(&self.number);
        if self.work.is_told.load(Ordering::Acquire) {
            let now = self.watch.clock.instant();
            let held = self.work.since.map(|since| now.saturating_duration_since(since));
            let held = held.unwrap_or_default();
            let Stuck { name, id, place, .. } = self.work.shown(self.work.what, held);
            tracing::info!(name, id, place, ?held, "it has ended: {}", self.work.what.says());
        }
    }
}

/// A task by its name and the place that spawned it, for [`follow`].
pub(crate) fn task<F: Future + ?Sized>(
    name: &'static str,
    place: Place,
    future: Pin<Box<F>>,
) -> impl Future<Output = F::Output> {
    let work = Work::new(What::Task, Some(place));
    drop(work.name.set(name.into()));
    follow(Arc::new(work), future)
}

/// Notes at each poll which thread runs the work.
struct Followed<F: ?Sized> {
    work: Arc<Work>,
    future: Pin<Box<F>>,
}

fn follow<F: Future + ?Sized>(work: Arc<Work>, future: Pin<Box<F>>) -> Followed<F> {
    Followed { work, future }
}

impl<F: Future + ?Sized> Future for Followed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _seated = seat::take(&self.work);
        self.future.as_mut().poll(context)
    }
}

impl Work {
    fn new(what: What, place: Option<Place>) -> Self {
        Self {
            what,
            name: OnceLock::new(),
            id: None,
            place,
            since: None,
            told_after: Duration::MAX,
            limit: Duration::MAX,
            is_told: AtomicBool::new(false),
            step: Mutex::default(),
        }
    }

    fn overdue(self: &Arc<Self>, now: Instant) -> Option<(Arc<Self>, Duration)> {
        let held = now.saturating_duration_since(self.since?);
        (held >= self.told_after).then(|| (self.clone(), held))
    }

    fn shown(&self, what: What, held: Duration) -> Stuck {
        let step = self.step.lock();
        let text: String = step.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().take(STEP_CHARS_MAX).collect();
        let text = if step.is_running { text } else { format!("after {text}") };
        Stuck {
            what: what.label(),
            name: self.name.get().map_or_else(|| self.what.label().to_owned(), ToString::to_string),
            id: self.id.as_deref().map(str::to_owned),
            place: self.place.map(ToString::to_string),
            step: (!step.text.is_empty()).then_some(text),
            held,
        }
    }
}
