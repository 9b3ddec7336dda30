use std::sync::atomic::{AtomicU32, Ordering};

use base::Base;
use relational::{Address, Config, Db};
use tempfile::TempDir;
use testkit::{MariaDb, Postgres};

/// One kind of database.
pub(crate) struct Ground {
    kind: Kind,
    folder: TempDir,
    made: AtomicU32,
}

enum Kind {
    Embedded,
    Postgres(Postgres),
    MariaDb(MariaDb),
}

/// One opened database.
pub(crate) struct Opened {
    pub(crate) db: Db,
    pub(crate) base: Base,
    pub(crate) config: Config,
    pub(crate) name: String,
}

impl Ground {
    pub(crate) fn embedded() -> Self {
        Self::of(Kind::Embedded)
    }

    pub(crate) fn postgres() -> Self {
        Self::of(Kind::Postgres(Postgres::start().unwrap()))
    }

    pub(crate) fn mariadb() -> Self {
        Self::of(Kind::MariaDb(MariaDb::start().unwrap()))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, folder: tempfile::tempdir().unwrap(), made: AtomicU32::new(0) }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Embedded => "embedded",
            Kind::Postgres(_) => "PostgreSQL",
            Kind::MariaDb(_) => "MariaDB",
        }
    }

    /// Settings for an empty database.
    pub(crate) fn fresh(&self) -> (String, Config) {
        let name = format!("contract{}", self.made.fetch_add(1, Ordering::Relaxed));
        let path = self.folder.path().join(&name).join("rows.db");
        let url = match &self.kind {
            Kind::Embedded => String::new(),
            Kind::Postgres(server) => server.database(&name).unwrap(),
            Kind::MariaDb(server) => server.database(&name).unwrap(),
        };
        (name, Config { url: Address::new(url), path, ..Config::default() })
    }

    /// An empty database, opened.
    pub(crate) async fn open(&self) -> Opened {
        self.open_with(|_| {}).await
    }

    pub(crate) async fn open_with(&self, change: impl FnOnce(&mut Config)) -> Opened {
        let (name, mut config) = self.fresh();
        change(&mut config);
        let base = Base::system();
        let db = Db::open(config.clone(), &base).await.unwrap();
        Opened { db, base, config, name }
    }

    /// Cuts every connection to the database but this one.
    pub(crate) fn cut(&self, database: &str) {
        match &self.kind {
            Kind::Embedded => panic!("the embedded database has no connections"),
            Kind::Postgres(server) => {
                let cut = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
                );
                server.sql("postgres", &cut).unwrap();
            }
            Kind::MariaDb(server) => {
                let list = format!(
                    "SELECT id FROM information_schema.processlist WHERE db = '{database}'"
                );
                for id in server.sql(&list).unwrap().lines() {
                    // It may have gone by itself.
                    server.sql(&format!("KILL {id}")).ok();
                }
            }
        }
    }

    pub(crate) fn crash(&mut self) {
        match &mut self.kind {
            Kind::Embedded => panic!("the embedded database ends with its process"),
            Kind::Postgres(server) => server.crash().unwrap(),
            Kind::MariaDb(server) => server.crash().unwrap(),
        }
    }
}

impl Opened {
    /// What `/metrics` says of a counter.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.base.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}
