use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use object_store::ObjectMeta;

use crate::files::{DataFile, Files};

/// A table as one query sees it: the files of one Delta version and exactly the rows that were
/// accepted after it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) schema: SchemaRef,
    pub(crate) files: Arc<Files>,
    pub(crate) tail: Vec<RecordBatch>,
}

/// Where the files lie, in DataFusion's words.
pub(crate) const STORE: &str = "lake://files/";

#[async_trait]
impl TableProvider for View {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = match conjunction(filters.to_vec()) {
            Some(filter) => {
                let schema = DFSchema::try_from(self.schema.clone())?;
                Some(session.create_physical_expr(filter, &schema)?)
            }
            None => None,
        };
        let files = self.files.matching(&self.schema, predicate.as_ref());
        let scan = Scan {
            schema: self.schema.clone(),
            projection: projection.cloned(),
            predicate,
            limit,
            partitions: session.config().target_partitions(),
        };
        let tail = self.plan_tail(projection)?;
        if files.is_empty() {
            return Ok(tail);
        }
        let files = scan.plan(session.runtime_env(), &files)?;
        if self.tail.is_empty() {
            return Ok(files);
        }
        UnionExec::try_new(vec![files, tail])
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // Filters leave out files and pages; the plan still looks at every row.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

impl View {
    /// The rows that wait, with their texts as files have them.
    fn plan_tail(&self, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let packed = self.tail.first().map_or_else(|| self.schema.clone(), RecordBatch::schema);
        let batches = std::slice::from_ref(&self.tail);
        let tail = MemorySourceConfig::try_new_exec(batches, packed, projection.cloned())?;
        let packed = tail.schema();
        if packed
            .fields()
            .iter()
            .all(|field| !matches!(field.data_type(), DataType::Dictionary(..)))
        {
            return Ok(tail);
        }
        let columns = packed.fields().iter().enumerate().map(|(place, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), place));
            let unpacked = self.schema.field_with_name(field.name())?.data_type().clone();
            Ok((cast(column, &packed, unpacked)?, field.name().clone()))
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Result<Vec<_>>>()?, tail)?))
    }
}

/// Reading some files of a table.
pub(crate) struct Scan {
    pub(crate) schema: SchemaRef,
    pub(crate) projection: Option<Vec<usize>>,
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) limit: Option<usize>,
    pub(crate) partitions: usize,
}

impl Scan {
    pub(crate) fn plan(
        self,
        runtime: &Arc<RuntimeEnv>,
        files: &[Arc<DataFile>],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let url = ObjectStoreUrl::parse(STORE)?;
        let footers = CachedParquetFileReaderFactory::new(
            runtime.object_store(&url)?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let mut source = ParquetSource::new(self.schema.clone())
            .with_enable_page_index(true)
            .with_parquet_file_reader_factory(Arc::new(footers));
        if let Some(predicate) = self.predicate {
            source = source.with_predicate(predicate);
        }
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(files.iter().map(|file| file.rows).sum());
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups(files, self.partitions, &self.schema))
            .with_statistics(statistics)
            .with_limit(self.limit)
            .with_projection_indices(self.projection)?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Deals the files out by size, so that the threads end at about the same time.
fn groups(files: &[Arc<DataFile>], partitions: usize, schema: &SchemaRef) -> Vec<FileGroup> {
    let count = partitions.clamp(1, files.len().max(1));
    let mut groups = vec![(0_u64, Vec::new()); count];
    for file in files {
        let lightest = groups.iter_mut().min_by_key(|(bytes, _)| *bytes);
        let (bytes, group) = lightest.expect("there is at least one group");
        // A file of few bytes still costs an open.
        *bytes += file.bytes + (64 << 10);
        group.push(partitioned(file, schema));
    }
    groups.into_iter().map(|(_, group)| FileGroup::new(group)).collect()
}

fn partitioned(file: &DataFile, schema: &SchemaRef) -> PartitionedFile {
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = Precision::Exact(file.rows);
    PartitionedFile::new_from_meta(ObjectMeta {
        location: file.path.clone(),
        last_modified: std::time::UNIX_EPOCH.into(),
        size: file.bytes,
        e_tag: None,
        version: None,
    })
    .with_statistics(Arc::new(statistics))
}
