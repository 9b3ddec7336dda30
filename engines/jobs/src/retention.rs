//! The job that forgets finished jobs.

use std::sync::Arc;
use std::time::Duration;

use base::{OrganisationId, Timestamp};

use crate::attempt::Attempt;
use crate::job::first_id_at;
use crate::kind::{Kind, Registered};
use crate::schedule::NewSchedule;
use crate::store::deeds::{Old, forget};
use crate::store::runs;
use crate::worker::Inner;
use crate::{Done, Error, Failed, RunId, State};

/// The kind of job that deletes finished jobs of every organisation.
pub const FORGET: &str = "jobs.forget";
/// When it runs, by its name in the default organisation.
pub const FORGET_SCHEDULE: &str = "jobs-forget";

/// Jobs that one commit deletes.
const DELETED_AT_ONCE: i64 = 500;
/// Runs that one commit deletes; each can have many tasks.
const RUNS_AT_ONCE: i64 = 10;

pub(crate) fn schedule() -> NewSchedule {
    let cron = "17 * * * *".parse().expect("it is a cron");
    NewSchedule::of(OrganisationId::DEFAULT, FORGET_SCHEDULE, FORGET, cron)
}

impl Inner {
    pub(crate) fn retain(self: &Arc<Self>) -> Result<(), Error> {
        // A handler is held by what it would hold.
        let inner = Arc::downgrade(self);
        let options =
            Kind { time_max: Duration::from_mins(30), attempts_max: 3, ..Kind::default() };
        let handler = move |attempt: Attempt| {
            let inner = inner.upgrade();
            let forgetting = async move {
                let Some(inner) = inner else { return Err(Failed::again("the server stops")) };
                inner.forget(&attempt).await
            };
            futures::FutureExt::boxed(forgetting)
        };
        self.kinds.register(Registered { name: FORGET, options, handler: Arc::new(handler) })
    }

    async fn forget(&self, attempt: &Attempt) -> Result<Done, Failed> {
        let day = Duration::from_hours(24);
        let (short, long) = (self.config.keep_days, self.config.keep_dead_days);
        let bound = |days: u32| self.clock.now().minus(day.saturating_mul(days));
        let done = [State::Done, State::Cancelled, State::Skipped];
        let dead = [State::Dead, State::Discarded, State::Discarded];
        let mut gone = 0;
        for (states, bound) in [(done, bound(short)), (dead, bound(long))] {
            gone += self.forget_jobs(attempt, states, bound).await?;
        }
        // A run goes as a whole, so it stays as long as what is kept longest.
        gone += self.forget_runs(attempt, bound(short.max(long))).await?;
        attempt.log(format!("{gone} finished jobs were deleted"));
        Ok(attempt.done())
    }

    async fn forget_jobs(
        &self,
        attempt: &Attempt,
        states: [State; 3],
        bound: Timestamp,
    ) -> Result<u64, Failed> {
        let mut gone = 0;
        loop {
            let work = async move |tx: &mut relational::Tx| {
                let made_before = first_id_at(bound);
                let old =
                    Old { states, finished_before: bound, made_before, limit: DELETED_AT_ONCE };
                forget(tx, &old).await
            };
            let some = self.db.write(work).await?;
            gone += some;
            if some < DELETED_AT_ONCE.unsigned_abs() || attempt.cancelled().is_cancelled() {
                return Ok(gone);
            }
        }
    }

    async fn forget_runs(&self, attempt: &Attempt, bound: Timestamp) -> Result<u64, Failed> {
        let mut gone = 0;
        loop {
            let oldest = RunId::from_bytes(*first_id_at(bound).bytes());
            let work = async move |tx: &mut relational::Tx| {
                runs::forget(tx, bound, (oldest, RUNS_AT_ONCE)).await
            };
            let some = self.db.write(work).await?;
            gone += some;
            if some == 0 || attempt.cancelled().is_cancelled() {
                return Ok(gone);
            }
        }
    }
}
