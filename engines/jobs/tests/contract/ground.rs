use std::time::Duration;

use base::{Base, OrganisationId};
use jobs::{Config, Done, Enqueued, Failed, Job, JobId, Jobs, Kind, New, State};
use relational::{Address, Db, Migration, Tx, params};
use testkit::{Databases, Fresh, metric};
use tokio::runtime::Runtime;

pub(crate) const OURS: OrganisationId = OrganisationId::DEFAULT;
pub(crate) const THEIRS: OrganisationId = OrganisationId::fixed(2);

/// One kind of database.
pub(crate) struct Ground(pub(crate) Databases);

static EFFECTS: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (
        sequence INTEGER PRIMARY KEY,
        job VARCHAR(36) NOT NULL,
        attempt BIGINT NOT NULL
    )",
}];

impl Ground {
    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }

    /// An empty database.
    pub(crate) async fn open(&self) -> Opened {
        let Fresh { name, url, path } = self.0.fresh().unwrap();
        let config =
            relational::Config { url: Address::new(url), path, ..relational::Config::default() };
        let base = Base::system();
        let db = Db::open(config.clone(), &base).await.unwrap();
        db.migrate("effects", EFFECTS).await.unwrap();
        Opened { db, base, config, name }
    }
}

/// One opened database.
pub(crate) struct Opened {
    pub(crate) db: Db,
    pub(crate) base: Base,
    pub(crate) config: relational::Config,
    pub(crate) name: String,
}

/// A server with a worker, on threads of its own, so that it can die.
pub(crate) struct Server {
    pub(crate) jobs: Jobs,
    pub(crate) base: Base,
    pub(crate) db: Db,
    runtime: Option<Runtime>,
}

/// Quick to retry and to take a worker for dead.
pub(crate) fn config() -> Config {
    Config {
        lease: Duration::from_millis(500),
        look_every: Duration::from_millis(50),
        cancel_time_max: Duration::from_millis(200),
        ..Config::default()
    }
}

/// Of a worker that nobody takes for dead, however slow the machine is.
pub(crate) fn living() -> Config {
    Config { lease: Duration::from_secs(30), ..config() }
}

pub(crate) fn kind() -> Kind {
    Kind {
        back_off_min: Duration::from_millis(5),
        back_off_max: Duration::from_millis(20),
        ..Kind::default()
    }
}

impl Opened {
    /// A server on this very database handle.
    pub(crate) async fn server(&self, register: impl FnOnce(&Jobs)) -> Server {
        self.server_with(config(), register).await
    }

    pub(crate) async fn server_with(&self, config: Config, register: impl FnOnce(&Jobs)) -> Server {
        Server::start(self.db.clone(), config, Base::system(), register).await
    }

    /// A server whose clock stands at a moment.
    pub(crate) async fn server_at(
        &self,
        now: base::Timestamp,
        register: impl FnOnce(&Jobs),
    ) -> Server {
        let base = Base { clock: base::Clock::simulated(now), ..Base::system() };
        Server::start(self.own_db().await, config(), base, register).await
    }

    /// A handle of its own, where that can be.
    async fn own_db(&self) -> Db {
        if self.db.is_embedded() {
            return self.db.clone();
        }
        Db::open(self.config.clone(), &Base::system()).await.unwrap()
    }

    /// A server with a database handle of its own, where that can be.
    pub(crate) async fn other(&self, register: impl FnOnce(&Jobs)) -> Server {
        self.other_with(config(), register).await
    }

    pub(crate) async fn other_with(&self, config: Config, register: impl FnOnce(&Jobs)) -> Server {
        Server::start(self.own_db().await, config, Base::system(), register).await
    }

    /// How often each job had its effect.
    pub(crate) async fn effects(&self) -> Vec<(JobId, i64)> {
        let sql = "SELECT job, COUNT(*) AS times FROM effects GROUP BY job ORDER BY job";
        let rows = self.db.read(async |read| read.query(sql, &[]).await).await;
        let rows: Vec<relational::Row> = rows.unwrap();
        rows.iter().map(|row| (row.get("job").unwrap(), row.get("times").unwrap())).collect()
    }

    pub(crate) async fn until<F: AsyncFn() -> bool>(&self, what: &str, is_so: F) {
        let wait = async {
            while !is_so().await {
                self.base.clock.sleep(Duration::from_millis(5)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_mins(1), wait).await;
        assert!(came.is_ok(), "never: {what}");
    }
}

impl Server {
    async fn start(db: Db, config: Config, base: Base, register: impl FnOnce(&Jobs)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let base = base.on(runtime.handle());
        let jobs = Jobs::open(config, &base, db.clone()).await.unwrap();
        register(&jobs);
        jobs.start().await.unwrap();
        Self { jobs, base, db, runtime: Some(runtime) }
    }

    /// Ends as a process does that is killed: whatever it does stops, and it says nothing more.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// The same for one that has its own handle, and nothing of it is on its way any more: what it asked of a database before
    /// would be done there by its clock.
    pub(crate) async fn killed(mut self) {
        let runtime = self.runtime.take().unwrap();
        let ended = move || runtime.shutdown_timeout(Duration::from_secs(20));
        tokio::task::spawn_blocking(ended).await.unwrap();
        if !self.db.is_embedded() {
            self.db.close().await;
        }
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) async fn enqueue(&self, new: New) -> JobId {
        self.try_enqueue(new).await.unwrap().id()
    }

    pub(crate) async fn try_enqueue(&self, new: New) -> Result<Enqueued, jobs::Error> {
        let jobs = self.jobs.clone();
        self.db.write(async move |tx: &mut Tx| jobs.enqueue(tx, new.clone()).await).await
    }

    pub(crate) async fn enqueue_all(&self, new: Vec<New>) -> Vec<JobId> {
        let jobs = self.jobs.clone();
        let all = async move |tx: &mut Tx| jobs.enqueue_all(tx, new.clone()).await;
        self.db.write(all).await.unwrap().iter().map(|enqueued| enqueued.id()).collect()
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.jobs.job(OURS, id).await.unwrap()
    }

    pub(crate) async fn until(&self, id: JobId, state: State) {
        let wait = async {
            while self.job(id).await.state != state {
                self.base.clock.sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(came.is_ok(), "not {state}: {:?}", self.job(id).await);
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&self.base.metrics, name).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn new(kind: &str) -> New {
    New::of(OURS, kind, "{}")
}

/// Writes down that it ran, in one commit with its end.
pub(crate) async fn effect(tx: &mut Tx, attempt: &jobs::Attempt) -> Result<(), Failed> {
    let insert = "INSERT INTO effects (job, attempt) VALUES (?, ?)";
    tx.execute(insert, params![attempt.id(), attempt.number()]).await?;
    Ok(())
}

/// Does nothing, and is done.
pub(crate) async fn nothing(attempt: jobs::Attempt) -> Result<Done, Failed> {
    Ok(attempt.done())
}
