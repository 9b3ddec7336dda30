use std::future::Future;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_plan::execute_stream;
use object_store::local::LocalFileSystem;
use url::Url;

use crate::files::DataFile;
use crate::scan::{STORE, Scan};
use crate::store::{DurableFiles, Sync};
use crate::{Config, Error};

/// What all tables and queries share of DataFusion: memory, spill space, files.
pub(crate) struct Engine {
    pub(crate) files: DurableFiles,
    pub(crate) sync: Arc<Sync>,
    pub(crate) runtime: Arc<RuntimeEnv>,
}

impl Engine {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let failed = |error| Error::internal("set up the query engine", error);
        let files = DurableFiles::new(&config.dir);
        let spill = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![config.dir.join(SPILL)]))
            .with_max_temp_directory_size(config.query_spill_bytes_max);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(config.query_memory_bytes_max)))
            .with_disk_manager_builder(spill)
            .with_cache_manager(
                CacheManagerConfig::default()
                    .with_metadata_cache_limit(config.metadata_cache_bytes_max),
            )
            .build_arc()
            .map_err(failed)?;
        // Without this a query that found a way to name a file could read it.
        let _ = runtime.deregister_object_store(&parse("file:///"));
        let reading = LocalFileSystem::new_with_prefix(&config.dir)
            .map_err(|error| Error::internal("set up the query engine", error))?;
        runtime.register_object_store(&parse(STORE), Arc::new(reading));
        let sync = files.sync();
        Ok(Self { files, sync, runtime })
    }

    pub(crate) fn read(
        &self,
        scan: Scan,
        files: &[Arc<DataFile>],
    ) -> Result<SendableRecordBatchStream> {
        let plan = scan.plan(&self.runtime, files)?;
        execute_stream(plan, Arc::new(TaskContext::default().with_runtime(self.runtime.clone())))
    }
}

impl Scan {
    /// Every row, in one thread.
    pub(crate) fn whole(schema: SchemaRef, projection: Option<Vec<usize>>) -> Self {
        Self { schema, projection, predicate: None, limit: None, partitions: 1 }
    }

    /// Leaves out what lies wholly outside the times; rows outside may still come.
    pub(crate) fn between(mut self, column: usize, first: i64, last: i64) -> Self {
        let name = self.schema.field(column).name().clone();
        let time: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&name, column));
        let limit =
            |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
        let compare = |operator: Operator, micros: i64| -> Arc<dyn PhysicalExpr> {
            Arc::new(BinaryExpr::new(time.clone(), operator, limit(micros)))
        };
        let (from, to) = (compare(Operator::GtEq, first), compare(Operator::LtEq, last));
        self.predicate = Some(Arc::new(BinaryExpr::new(from, Operator::And, to)));
        self
    }
}

/// The folder, beside those of the organisations, that running queries spill to.
pub(crate) const SPILL: &str = "spill";

fn parse(url: &str) -> Url {
    Url::parse(url).expect("the text is a constant")
}

/// Runs work that keeps a thread busy, such as writing Parquet, beside the threads that serve.
pub(crate) async fn blocking<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>>,
{
    let handle = tokio::runtime::Handle::current();
    match tokio::task::spawn_blocking(move || handle.block_on(work())).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("run in the background", error)),
    }
}
