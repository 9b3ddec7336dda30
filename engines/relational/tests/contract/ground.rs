use base::Base;
use relational::{Address, Config, Db};
use testkit::{Databases, Fresh, metric};

/// One kind of database.
pub(crate) struct Ground(pub(crate) Databases);

/// One opened database.
pub(crate) struct Opened {
    pub(crate) db: Db,
    pub(crate) base: Base,
    pub(crate) config: Config,
    pub(crate) name: String,
}

impl Ground {
    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Settings for an empty database.
    pub(crate) fn fresh(&self) -> (String, Config) {
        let Fresh { name, url, path } = self.0.fresh().unwrap();
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
}

impl Opened {
    /// What `/metrics` says of a counter.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&self.base.metrics, name).unwrap()
    }
}
