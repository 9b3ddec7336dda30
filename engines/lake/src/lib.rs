//! The lake: columnar tables that grow by appending, and read-only SQL over them.
//!
//! A table is a Delta table on disk and, in front of it, the rows of the last seconds in memory; a query
//! sees both as one, each row once. The offset that a source has reached is in the same commit as its rows,
//! so after a crash the source goes on at [`Table::durable`]` + 1` and no row is lost or doubled.
//!
//! It is not the source of truth: what was appended and not yet committed must be replayable by the caller.
//! It speaks no protocol and knows no accounts: whoever holds a [`Lake`] may ask for any organisation.
//!
//! What others await is boxed here: a coroutine that crosses a crate is compiled again wherever it is awaited, and this one
//! has a planner of SQL in it.
//!
//! Start at [`Lake::open`], then [`Lake::table`] and [`Lake::query`].

mod analysis;
mod answer;
mod config;
mod delta;
mod encode;
mod engine;
mod error;
mod files;
mod functions;
mod metrics;
mod owner;
mod query;
mod rows;
mod scan;
mod stop;
mod store;
mod table;
mod tail;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use base::{Base, OrganisationId};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

pub use answer::{Answer, Body, Column, Format};
pub use config::Config;
pub use error::Error;
pub use rows::{ColumnType, Key, Part, Rows, TableSpec, Texts, Value};
pub use table::Table;

use analysis::Analysis;
use delta::Delta;
use engine::{Engine, SPILL, blocking};
use metrics::Counters;
use owner::Owner;

/// All tables of all organisations; cloning shares it.
#[derive(Clone)]
pub struct Lake(Arc<Inner>);

struct Inner {
    base: Base,
    config: Arc<Config>,
    engine: Arc<Engine>,
    analysis: Analysis,
    counters: Counters,
    tables: Mutex<HashMap<(OrganisationId, String), Opening>>,
    /// Organisations whose tables on disk were looked for.
    listed: Mutex<HashSet<OrganisationId>>,
}

/// A table that somebody opens, or has opened.
type Opening = Arc<OnceCell<Table>>;

impl Lake {
    /// Reads no table yet: each is opened when it is first asked for.
    pub fn open(mut config: Config, base: &Base) -> BoxFuture<'_, Result<Self, Error>> {
        Box::pin(async move {
            config.check()?;
            let dir = config.dir.clone();
            config.dir = blocking(move || async move {
                let failed = |error| Error::internal(format!("open {}", dir.display()), error);
                std::fs::create_dir_all(&dir).map_err(failed)?;
                let dir = std::fs::canonicalize(&dir).map_err(failed)?;
                match std::fs::remove_dir_all(dir.join(SPILL)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(failed(error))
                    }
                    _ => Ok(dir),
                }
            })
            .await?;
            let config = Arc::new(config);
            let engine = Arc::new(Engine::new(&config)?);
            let counters = Counters::new(&base.metrics);
            Ok(Self(Arc::new(Inner {
                base: base.clone(),
                analysis: Analysis::new(config.clone(), engine.clone(), counters.clone()),
                config,
                engine,
                counters,
                tables: Mutex::new(HashMap::new()),
                listed: Mutex::new(HashSet::new()),
            })))
        })
    }

    /// Opens the organisation's table of this name, made durably when it is missing.
    pub fn table(
        &self,
        organisation: OrganisationId,
        spec: TableSpec,
    ) -> BoxFuture<'_, Result<Table, Error>> {
        Box::pin(async move {
            spec.check()?;
            let name = spec.name.clone();
            let table = self.open_table(organisation, &name, Some(spec.clone())).await?;
            let table = table.ok_or_else(|| Error::Unavailable(format!("table {name} is gone")))?;
            if *table.spec() != spec {
                return Err(Error::OtherTable(name));
            }
            Ok(table)
        })
    }

    /// Runs one read-only statement over the organisation's tables.
    pub fn query<'a>(
        &'a self,
        organisation: OrganisationId,
        sql: &'a str,
    ) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move {
            let tables = self.tables(organisation).await?;
            self.0.analysis.query(sql, tables, Ok).await
        })
    }

    /// Like [`Lake::query`]; the answer is also written out on the threads of the queries.
    pub fn query_encoded<'a>(
        &'a self,
        organisation: OrganisationId,
        sql: &'a str,
        format: Format,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        Box::pin(async move {
            let tables = self.tables(organisation).await?;
            self.0.analysis.query(sql, tables, move |answer| answer.encode(format)).await
        })
    }

    /// The organisation's tables, those on disk that nobody has opened yet included.
    async fn tables(&self, organisation: OrganisationId) -> Result<Vec<Table>, Error> {
        if !self.0.listed.lock().contains(&organisation) {
            for name in self.names_on_disk(organisation).await? {
                self.open_table(organisation, &name, None).await?;
            }
            self.0.listed.lock().insert(organisation);
        }
        let tables = self.0.tables.lock();
        let own = tables.iter().filter(|((owner, _), _)| *owner == organisation);
        Ok(own.filter_map(|(_, cell)| cell.get().cloned()).collect())
    }

    async fn names_on_disk(&self, organisation: OrganisationId) -> Result<Vec<String>, Error> {
        let folder = self.folder(organisation);
        blocking(move || async move {
            let failed = |error| Error::internal(format!("list {}", folder.display()), error);
            let entries = match std::fs::read_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries.map_err(failed)?,
            };
            let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
            let names: Vec<_> = names.collect::<Result<_, _>>().map_err(failed)?;
            let names = names.into_iter().filter_map(|name| name.into_string().ok());
            Ok(names.filter(|name| rows::check_name("table", name).is_ok()).collect())
        })
        .await
    }

    async fn open_table(
        &self,
        organisation: OrganisationId,
        name: &str,
        spec: Option<TableSpec>,
    ) -> Result<Option<Table>, Error> {
        let key = (organisation, name.to_owned());
        let cell = {
            let mut tables = self.0.tables.lock();
            if !tables.contains_key(&key) && tables.len() >= self.0.config.tables_max {
                return Err(Error::TooMany("lake.tables_max"));
            }
            tables.entry(key.clone()).or_default().clone()
        };
        let opened = cell
            .get_or_try_init(|| async {
                let folder = self.folder(organisation).join(name);
                self.load(folder, spec).await.map_err(Some)?.ok_or(None)
            })
            .await;
        match opened {
            Ok(table) => Ok(Some(table.clone())),
            Err(error) => {
                let mut tables = self.0.tables.lock();
                if tables.get(&key).is_some_and(|cell| !cell.initialized()) {
                    tables.remove(&key);
                }
                error.map_or(Ok(None), Err)
            }
        }
    }

    async fn load(&self, folder: PathBuf, spec: Option<TableSpec>) -> Result<Option<Table>, Error> {
        let (config, engine) = (self.0.config.clone(), self.0.engine.clone());
        let at = folder.clone();
        let opened = blocking(move || async move {
            let mut delta = match (Delta::open(&at, &engine.files).await?, spec) {
                (Some(delta), _) => delta,
                (None, Some(spec)) => Delta::create(&at, &engine.files, &spec, &config).await?,
                (None, None) => return Ok(None),
            };
            let version = delta.version().await?;
            Ok(Some((delta, version)))
        });
        let Some((delta, version)) = opened.await? else { return Ok(None) };
        let inner = &self.0;
        let (config, engine) = (inner.config.clone(), inner.engine.clone());
        let (table, shared) = Table::new(delta.spec.clone(), config, engine, version, folder);
        let owner = Owner::new(shared, delta, inner.base.clone(), inner.counters.clone());
        // Ends with the table, or at shutdown.
        drop(inner.base.tasks.spawn("lake-table", owner.run()));
        Ok(Some(table))
    }

    fn folder(&self, organisation: OrganisationId) -> PathBuf {
        self.0.config.dir.join(organisation.to_string())
    }
}

#[cfg(test)]
mod tests;
