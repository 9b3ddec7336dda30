use std::sync::atomic::{AtomicU32, Ordering};

use base::Base;
use relational::{Address, Config, Db};
use tempfile::TempDir;
use testkit::Database;

/// One kind of database.
pub(crate) struct Ground {
    database: Database,
    folder: TempDir,
    made: AtomicU32,
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
        Self::of(Database::Embedded)
    }

    pub(crate) fn postgres() -> Self {
        Self::of(Database::postgres().unwrap())
    }

    pub(crate) fn mariadb() -> Self {
        Self::of(Database::mariadb().unwrap())
    }

    fn of(database: Database) -> Self {
        Self { database, folder: tempfile::tempdir().unwrap(), made: AtomicU32::new(0) }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.database.name()
    }

    /// Settings for an empty database.
    pub(crate) fn fresh(&self) -> (String, Config) {
        let name = format!("contract{}", self.made.fetch_add(1, Ordering::Relaxed));
        let path = self.folder.path().join(&name).join("rows.db");
        let url = self.database.make(&name).unwrap();
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
        self.database.cut(database).unwrap();
    }

    pub(crate) fn crash(&mut self) {
        self.database.crash().unwrap();
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
