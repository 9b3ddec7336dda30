//! Jobs, their runs, queues and schedules.

use std::collections::BTreeMap;

use base::access::Action;
use base::{ErrorKind, Timestamp};
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Query, Routes, State,
    Undeclared,
};
use jobs::{
    AttemptRecord, Cancelled, Filter, Job, JobId, Key, Missed, New, NewSchedule, Priority, Queue,
    Run, RunId, Schedule,
};
use relational::Tx;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::accounts::by;

const READ: Action = jobs::READ;
const WRITE: Action = jobs::WRITE;
/// What a list shows of a payload.
const LISTED_CHARS_MAX: usize = 200;

/// A job, as lists show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Job")]
struct JobBody {
    id: String,
    kind: String,
    queue: String,
    /// `urgent`, `high`, `normal` or `low`.
    priority: &'static str,
    /// `scheduled`, `ready`, `limited`, `waiting`, `running`, `done`, `dead`, `cancelled`, `skipped` or
    /// `discarded`.
    state: &'static str,
    /// Text; in a list no more than its beginning.
    payload: String,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    /// When it may begin.
    #[schemars(extend("format" = "date-time"))]
    due: String,
    /// Attempts begun so far.
    attempts: u32,
    /// When the newest attempt was given to a worker.
    #[schemars(extend("format" = "date-time"))]
    claimed: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    finished: Option<String>,
    /// It runs and was asked to stop.
    cancelling: bool,
    key: Option<String>,
    concurrency_key: Option<String>,
    /// The run that it is a task of.
    run: Option<String>,
    task: Option<String>,
    last_error: Option<String>,
}

/// What an attempt did.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobAttempt")]
struct AttemptBody {
    number: u32,
    #[schemars(extend("format" = "date-time"))]
    began: String,
    #[schemars(extend("format" = "date-time"))]
    ended: String,
    /// `done`, `failed`, `early`, `cancelled`, `lost` or `interrupted`.
    outcome: &'static str,
    error: Option<String>,
    /// What the handler noted, a line each.
    log: String,
}

/// A job with its newest attempts; one in progress is not among them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobDetail")]
struct DetailBody {
    job: JobBody,
    attempts: Vec<AttemptBody>,
}

/// One run of a graph.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobRun")]
struct RunBody {
    id: String,
    name: String,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    /// `running`, `succeeded`, `failed` or `cancelled`.
    state: &'static str,
    /// How many tasks stand how.
    tasks: BTreeMap<&'static str, u64>,
}

/// A run with its tasks.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobRunDetail")]
struct RunDetailBody {
    run: RunBody,
    tasks: Vec<JobBody>,
    edges: Vec<EdgeBody>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobEdge")]
struct EdgeBody {
    before: String,
    after: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobQueue")]
struct QueueBody {
    name: String,
    /// `running` or `paused`.
    state: &'static str,
    /// Since when it is paused.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Jobs that could begin, counted up to 10,000.
    ready: u64,
    /// When the oldest of them was enqueued.
    #[schemars(extend("format" = "date-time"))]
    oldest: Option<String>,
}

/// How jobs and queues stand.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobsOverview")]
struct OverviewBody {
    /// Jobs by state, each counted up to 10,000.
    states: BTreeMap<&'static str, u64>,
    queues: Vec<QueueBody>,
    /// Kinds that people may enqueue and schedule.
    kinds: Vec<&'static str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobSchedule")]
struct ScheduleBody {
    name: String,
    kind: String,
    payload: String,
    priority: &'static str,
    cron: String,
    zone: String,
    /// What becomes of times that passed while no server ran: `once`, `all` or `skip`.
    missed: &'static str,
    paused: bool,
    /// Part of the server.
    built_in: bool,
    #[schemars(extend("format" = "date-time"))]
    next: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    last: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    created: String,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewJobSchedule")]
#[serde(deny_unknown_fields)]
struct NewScheduleBody {
    /// Lower-case letters, digits, `-`, `_` and `.`.
    name: String,
    /// One that people may enqueue.
    kind: String,
    /// `minute hour day-of-month month day-of-week`.
    cron: String,
    /// Of the IANA time zone database: `Asia/Seoul`.
    zone: String,
    /// What the job is told; `{}` without.
    payload: Option<String>,
    /// `once` without.
    missed: Option<MissedBody>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[schemars(rename = "JobMissed")]
#[serde(rename_all = "lowercase")]
enum MissedBody {
    Once,
    All,
    Skip,
}

/// Which jobs; all of them without.
#[derive(Clone, Default, Deserialize, JsonSchema)]
struct FilterQuery {
    /// A state's name.
    state: Option<String>,
    kind: Option<String>,
    queue: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewJob")]
#[serde(deny_unknown_fields)]
struct NewJobBody {
    /// One that people may enqueue.
    kind: String,
    /// What the job is told; `{}` without.
    payload: Option<String>,
    /// `urgent`, `high`, `normal` or `low`; `normal` without.
    priority: Option<String>,
    /// It waits until then.
    #[schemars(extend("format" = "date-time"))]
    run_at: Option<String>,
    /// Under the same key and kind nothing is added while the job is remembered.
    key: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobEnqueued")]
struct EnqueuedBody {
    id: String,
    /// A job with this key was there before, and nothing was added.
    repeated: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobCancelled")]
struct CancelledBody {
    /// `cancelled`, or `asked`: it runs and was asked to stop.
    outcome: &'static str,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("jobs");
    let deed = &[ErrorKind::NotFound, ErrorKind::Conflict];
    let routes = Routes::new(doors.clone())
        .add(
            of(Operation::get("/v1/jobs"))
                .id("listJobs")
                .summary("Jobs, the newest first.")
                .action(READ),
            list,
        )
        .add(
            of(Operation::post("/v1/jobs"))
                .id("createJob")
                .summary("Enqueues a job of a kind that people may enqueue.")
                .action(WRITE)
                .kinds(&[ErrorKind::Conflict, ErrorKind::TooMany]),
            create,
        )
        .add(
            of(Operation::get("/v1/jobs/{id}"))
                .id("readJob")
                .summary("One job with its attempts and what they noted.")
                .action(READ)
                .kinds(&[ErrorKind::NotFound]),
            read,
        )
        .add(
            of(Operation::post("/v1/jobs/{id}/retry"))
                .id("retryJob")
                .summary("Gives a job that is dead, cancelled or discarded a new set of attempts.")
                .action(WRITE)
                .kinds(deed),
            retry,
        )
        .add(
            of(Operation::post("/v1/jobs/{id}/cancel"))
                .id("cancelJob")
                .summary("Keeps a job from beginning, or asks a running one to stop.")
                .action(WRITE)
                .kinds(deed),
            cancel,
        )
        .add(
            of(Operation::post("/v1/jobs/{id}/discard"))
                .id("discardJob")
                .summary("Leaves a dead job undone.")
                .action(WRITE)
                .kinds(deed),
            discard,
        )
        .add(
            of(Operation::post("/v1/jobs/{id}/run-now"))
                .id("runJobNow")
                .summary("Lets a delayed job begin now.")
                .action(WRITE)
                .kinds(deed),
            run_now,
        );
    schedules(queues(routes))
}

fn queues(routes: Routes<Doors>) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("jobs");
    routes
        .add(
            of(Operation::get("/v1/jobs-overview"))
                .id("readJobsOverview")
                .summary("How many jobs stand how, and what waits in which queue.")
                .action(READ),
            overview,
        )
        .add(
            of(Operation::post("/v1/job-queues/{name}/pause"))
                .id("pauseJobQueue")
                .summary("Lets no more jobs of a queue begin; those that run go on.")
                .action(WRITE),
            pause_queue,
        )
        .add(
            of(Operation::post("/v1/job-queues/{name}/resume"))
                .id("resumeJobQueue")
                .summary("Lets jobs of a queue begin again.")
                .action(WRITE),
            resume_queue,
        )
        .add(
            of(Operation::get("/v1/job-runs"))
                .id("listJobRuns")
                .summary("Runs of graphs of tasks, the newest first.")
                .action(READ),
            runs,
        )
        .add(
            of(Operation::get("/v1/job-runs/{id}"))
                .id("readJobRun")
                .summary("One run with its tasks and what comes after what.")
                .action(READ)
                .kinds(&[ErrorKind::NotFound]),
            run,
        )
}

fn schedules(routes: Routes<Doors>) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("jobs");
    routes
        .add(
            of(Operation::get("/v1/job-schedules"))
                .id("listJobSchedules")
                .summary("What is enqueued again and again.")
                .action(READ),
            list_schedules,
        )
        .add(
            of(Operation::post("/v1/job-schedules"))
                .id("createJobSchedule")
                .summary("Enqueues jobs of a kind at the times that a cron names in a time zone.")
                .action(WRITE)
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::Conflict]),
            create_schedule,
        )
        .add(
            of(Operation::post("/v1/job-schedules/{name}/pause"))
                .id("pauseJobSchedule")
                .summary("Enqueues nothing more until it is resumed.")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound]),
            pause_schedule,
        )
        .add(
            of(Operation::post("/v1/job-schedules/{name}/resume"))
                .id("resumeJobSchedule")
                .summary(
                    "Goes on with the next time; what passed while it was paused is not missed.",
                )
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound]),
            resume_schedule,
        )
        .add(
            of(Operation::delete("/v1/job-schedules/{name}"))
                .id("deleteJobSchedule")
                .summary("Ends a schedule that is not part of the server.")
                .action(WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            delete_schedule,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Query(filter): Query<FilterQuery>,
    Paging(page): Paging,
) -> edge::Result<PageBody<JobBody>> {
    let FilterQuery { state, kind, queue } = filter;
    let state = match state {
        None => None,
        Some(name) => Some(jobs::State::named(&name).ok_or_else(|| {
            let detail = format!("no state {name:?}");
            edge::Error::invalid("the request does not fit").at("state", detail)
        })?),
    };
    let filter = Filter { state, kind, queue };
    let jobs = doors.jobs.jobs(caller.organisation(), filter, page).await.map_err(refused)?;
    Ok(jobs.map(|job| JobBody::of(job, LISTED_CHARS_MAX)).into())
}

async fn create(
    State(doors): State<Doors>,
    caller: Caller,
    Json(body): Json<NewJobBody>,
) -> edge::Result<Created<EnqueuedBody>> {
    let unfit = |field: &str, detail: String| {
        edge::Error::invalid("the request does not fit").at(field, detail)
    };
    let kinds = doors.jobs.kinds();
    if !kinds.iter().any(|(name, kind)| *name == body.kind && kind.is_open) {
        return Err(unfit("kind", format!("no kind {:?} that people may enqueue", body.kind)));
    }
    let priority = body.priority.as_deref().unwrap_or("normal");
    let priority = Priority::named(priority)
        .ok_or_else(|| unfit("priority", format!("no priority {priority:?}")))?;
    let run_at = body.run_at.map(|time| time.parse::<Timestamp>()).transpose();
    let run_at = run_at.map_err(|error| unfit("run_at", error.to_string()))?;
    let payload = body.payload.unwrap_or_else(|| "{}".to_owned());
    let new = New {
        priority,
        run_at,
        key: body.key.map(Key::once),
        ..New::of(caller.organisation(), body.kind, payload)
    };
    let jobs = doors.jobs.clone();
    let enqueue = async move |tx: &mut Tx| jobs.enqueue(tx, new.clone()).await;
    let enqueued = doors.db.write(enqueue).await.map_err(refused)?;
    let id = enqueued.id().to_string();
    doors.note_job(&caller, format!("job/{id}"), "enqueued").await;
    let repeated = matches!(enqueued, jobs::Enqueued::Repeated(_));
    Ok(Created(EnqueuedBody { id, repeated }))
}

async fn read(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<DetailBody>> {
    let history = doors.jobs.history(caller.organisation(), job_id(&id)?).await;
    let (job, attempts) = history.map_err(refused)?;
    let attempts = attempts.into_iter().map(AttemptBody::from).collect();
    Ok(Json(DetailBody { job: JobBody::of(job, usize::MAX), attempts }))
}

async fn retry(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.jobs.retry(caller.organisation(), job_id(&id)?).await.map_err(refused)?;
    doors.note_job(&caller, format!("job/{id}"), "retried").await;
    Ok(NoContent)
}

async fn cancel(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<CancelledBody>> {
    let cancelled = doors.jobs.cancel(caller.organisation(), job_id(&id)?).await;
    let outcome = match cancelled.map_err(refused)? {
        Cancelled::AtOnce => "cancelled",
        Cancelled::Asked => "asked",
    };
    doors.note_job(&caller, format!("job/{id}"), "cancelled").await;
    Ok(Json(CancelledBody { outcome }))
}

async fn discard(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.jobs.discard(caller.organisation(), job_id(&id)?).await.map_err(refused)?;
    doors.note_job(&caller, format!("job/{id}"), "discarded").await;
    Ok(NoContent)
}

async fn run_now(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.jobs.run_now(caller.organisation(), job_id(&id)?).await.map_err(refused)?;
    doors.note_job(&caller, format!("job/{id}"), "run now").await;
    Ok(NoContent)
}

async fn overview(State(doors): State<Doors>, caller: Caller) -> edge::Result<Json<OverviewBody>> {
    let organisation = caller.organisation();
    let states = doors.jobs.counts(organisation).await.map_err(refused)?;
    let states = states.into_iter().map(|(state, count)| (state.name(), count)).collect();
    let queues = doors.jobs.queues(organisation).await.map_err(refused)?;
    let queues = queues.into_iter().map(QueueBody::from).collect();
    let kinds = doors.jobs.kinds().into_iter();
    let kinds = kinds.filter(|(_, kind)| kind.is_open).map(|(name, _)| name).collect();
    Ok(Json(OverviewBody { states, queues, kinds }))
}

async fn pause_queue(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
) -> edge::Result<NoContent> {
    doors.jobs.pause(caller.organisation(), &name).await.map_err(refused)?;
    doors.note_job(&caller, format!("job-queue/{name}"), "paused").await;
    Ok(NoContent)
}

async fn resume_queue(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
) -> edge::Result<NoContent> {
    doors.jobs.resume(caller.organisation(), &name).await.map_err(refused)?;
    doors.note_job(&caller, format!("job-queue/{name}"), "resumed").await;
    Ok(NoContent)
}

async fn runs(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<RunBody>> {
    let runs = doors.jobs.runs(caller.organisation(), page).await.map_err(refused)?;
    Ok(runs.map(RunBody::from).into())
}

async fn run(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<RunDetailBody>> {
    let id: RunId = id.parse().map_err(|_| edge::Error::not_found("there is no such run"))?;
    let detail = doors.jobs.run(caller.organisation(), id).await.map_err(refused)?;
    let tasks = detail.tasks.into_iter().map(|task| JobBody::of(task, LISTED_CHARS_MAX)).collect();
    let edges = detail.edges.into_iter().map(|(before, after)| EdgeBody { before, after });
    Ok(Json(RunDetailBody { run: detail.run.into(), tasks, edges: edges.collect() }))
}

async fn list_schedules(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<ScheduleBody>> {
    let mut items = doors.jobs.schedules(caller.organisation()).await.map_err(refused)?;
    if let Some(after) = page.after {
        items.retain(|schedule| schedule.new.name > after);
    }
    let page = base::Page::of(items, page.limit, |schedule| schedule.new.name.clone());
    Ok(page.map(ScheduleBody::from).into())
}

async fn create_schedule(
    State(doors): State<Doors>,
    caller: Caller,
    Json(body): Json<NewScheduleBody>,
) -> edge::Result<Created<ScheduleBody>> {
    let missed = match body.missed {
        None | Some(MissedBody::Once) => Missed::Once,
        Some(MissedBody::All) => Missed::All,
        Some(MissedBody::Skip) => Missed::Skip,
    };
    let cron = body.cron.parse().map_err(|error: jobs::CronError| {
        edge::Error::invalid("the request does not fit").at("cron", error.to_string())
    })?;
    let new = NewSchedule {
        organisation: caller.organisation(),
        name: body.name,
        kind: body.kind,
        payload: body.payload.unwrap_or_else(|| "{}".to_owned()).into_bytes(),
        priority: Priority::Normal,
        cron,
        zone: body.zone,
        missed,
    };
    let schedule = doors.jobs.create_schedule(new).await.map_err(refused)?;
    let resource = format!("job-schedule/{}", schedule.new.name);
    doors.note_job(&caller, resource, "created").await;
    Ok(Created(schedule.into()))
}

async fn pause_schedule(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
) -> edge::Result<Json<ScheduleBody>> {
    doors.set_paused(&caller, &name, true).await
}

async fn resume_schedule(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
) -> edge::Result<Json<ScheduleBody>> {
    doors.set_paused(&caller, &name, false).await
}

async fn delete_schedule(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
) -> edge::Result<NoContent> {
    doors.jobs.delete_schedule(caller.organisation(), &name).await.map_err(refused)?;
    doors.note_job(&caller, format!("job-schedule/{name}"), "deleted").await;
    Ok(NoContent)
}

impl Doors {
    async fn set_paused(
        &self,
        caller: &Caller,
        name: &str,
        is_paused: bool,
    ) -> edge::Result<Json<ScheduleBody>> {
        let schedule = self.jobs.pause_schedule(caller.organisation(), name, is_paused).await;
        let schedule = schedule.map_err(refused)?;
        let deed = if is_paused { "paused" } else { "resumed" };
        self.note_job(caller, format!("job-schedule/{name}"), deed).await;
        Ok(Json(schedule.into()))
    }

    /// Keeps who did it. It is done, so that it is not in the audit log is no refusal.
    async fn note_job(&self, caller: &Caller, resource: String, deed: &str) {
        let noted = self.identity.note(by(caller), WRITE, resource, deed.to_owned()).await;
        if let Err(error) = noted {
            tracing::error!(%error, deed, "a deed is missing in the audit log");
        }
    }
}

fn text(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

impl JobBody {
    fn of(job: Job, chars_max: usize) -> Self {
        Self {
            id: job.id.to_string(),
            kind: job.kind,
            queue: job.queue,
            priority: job.priority.name(),
            state: job.state.name(),
            payload: String::from_utf8_lossy(&job.payload).chars().take(chars_max).collect(),
            created: job.created.to_string(),
            due: job.due.to_string(),
            attempts: job.attempts,
            claimed: text(job.claimed),
            finished: text(job.finished),
            cancelling: job.is_cancelling,
            key: job.key,
            concurrency_key: job.concurrency_key,
            run: job.run.map(|run| run.to_string()),
            task: job.task,
            last_error: job.last_error,
        }
    }
}

impl From<AttemptRecord> for AttemptBody {
    fn from(attempt: AttemptRecord) -> Self {
        Self {
            number: attempt.number,
            began: attempt.began.to_string(),
            ended: attempt.ended.to_string(),
            outcome: attempt.outcome.name(),
            error: attempt.error,
            log: attempt.log,
        }
    }
}

impl From<Run> for RunBody {
    fn from(run: Run) -> Self {
        Self {
            id: run.id.to_string(),
            name: run.name,
            created: run.created.to_string(),
            state: run.state.name(),
            tasks: run.tasks.into_iter().map(|(state, count)| (state.name(), count)).collect(),
        }
    }
}

impl From<Queue> for QueueBody {
    fn from(queue: Queue) -> Self {
        Self {
            name: queue.name,
            state: queue.state.name(),
            since: text(queue.since),
            ready: queue.ready,
            oldest: text(queue.oldest),
        }
    }
}

impl From<Schedule> for ScheduleBody {
    fn from(schedule: Schedule) -> Self {
        let new = schedule.new;
        Self {
            name: new.name,
            kind: new.kind,
            payload: String::from_utf8_lossy(&new.payload).into_owned(),
            priority: new.priority.name(),
            cron: new.cron.to_string(),
            zone: new.zone,
            missed: new.missed.name(),
            paused: schedule.is_paused,
            built_in: schedule.is_built_in,
            next: text(schedule.next),
            last: text(schedule.last),
            created: schedule.created.to_string(),
        }
    }
}

/// What is no id names no job.
fn job_id(id: &str) -> edge::Result<JobId> {
    id.parse().map_err(|_| edge::Error::not_found("there is no such job"))
}

fn refused(error: jobs::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
