use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::error::ArrowError;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use futures::StreamExt;

use crate::answer::Answer;
use crate::engine::Engine;
use crate::functions;
use crate::stop::Stop;
use crate::table::Table;
use crate::{Config, Error};

/// What all queries have in common: functions, rules, limits. It knows no table.
pub(crate) struct Session {
    state: SessionState,
    rows_max: usize,
    bytes_max: usize,
}

const CATALOG: &str = "madang";
const SCHEMA: &str = "public";
/// How deep expressions and sub-queries may nest.
const DEPTH_MAX: usize = 64;

impl Session {
    pub(crate) fn new(config: &Config, engine: &Engine) -> Result<Self, Error> {
        let session = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .with_target_partitions(config.query_threads);
        let mut state = SessionStateBuilder::new()
            .with_config(session)
            .with_runtime_env(engine.runtime.clone())
            .with_default_features()
            .build();
        functions::bound(&mut state, config.function_values_max)
            .map_err(|error| Error::internal("set up the functions of SQL", error))?;
        let bytes_max = config.response_bytes_max;
        Ok(Self { state, rows_max: config.rows_max, bytes_max })
    }

    pub(crate) async fn run(
        &self,
        sql: &str,
        tables: &[Table],
        stop: &Stop,
    ) -> Result<Answer, Error> {
        let statement = parse(sql)?;
        let catalogs = catalogs(tables).map_err(explain)?;
        let state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(catalogs)
            .build();
        // Taken from a context, the state also knows when the query began.
        let state = SessionContext::new_with_state(state).state();
        let plan = state.statement_to_plan(statement).await.map_err(explain)?;
        let read_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(explain)?;
        let plan = state.create_physical_plan(&plan).await.map_err(explain)?;
        let plan = stop.watch(plan).map_err(explain)?;
        self.collect(plan, &state).await
    }

    async fn collect(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        state: &SessionState,
    ) -> Result<Answer, Error> {
        let mut answer = Answer::new(plan.schema(), self.bytes_max);
        let mut stream = execute_stream(plan, state.task_ctx()).map_err(explain)?;
        let (mut rows, mut bytes) = (0, 0);
        while let Some(batch) = stream.next().await {
            let mut batch = batch.map_err(explain)?;
            if rows + batch.num_rows() > self.rows_max {
                batch = batch.slice(0, self.rows_max - rows);
                answer.truncated = true;
            }
            let room = self.bytes_max - bytes;
            let wanted = size(&batch);
            if wanted > room {
                // As if all rows were of the same size: the answer as sent is cut exactly.
                batch = batch.slice(0, batch.num_rows() * room / wanted);
                answer.truncated = true;
            }
            bytes += wanted.min(room);
            rows += batch.num_rows();
            if batch.num_rows() > 0 {
                answer.batches.push(batch);
            }
            if answer.truncated {
                break;
            }
        }
        Ok(answer)
    }
}

fn size(batch: &RecordBatch) -> usize {
    let size = |column: &Arc<dyn Array>| {
        // Types that cannot tell are rare; their buffers count whole.
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(size).sum()
}

fn parse(sql: &str) -> Result<Statement, Error> {
    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&PostgreSqlDialect {})
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(explain)?;
    match (statements.pop_front(), statements.is_empty()) {
        (None, _) => Err(Error::Invalid("no statement was given".into())),
        (Some(_), false) => Err(Error::Invalid("only one statement can be run at a time".into())),
        (Some(statement), true) => Ok(statement),
    }
}

/// The only tables that the query can name.
fn catalogs(tables: &[Table]) -> PlanResult<Arc<dyn CatalogProviderList>> {
    let schema = MemorySchemaProvider::new();
    for table in tables {
        schema.register_table(table.spec().name.clone(), Arc::new(table.view()))?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(schema))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    Ok(Arc::new(catalogs))
}

/// In whose words an error is told: those of the limit, of the asker, or of this machine.
fn explain(error: DataFusionError) -> Error {
    if error.find_root().to_string().contains(SPILL_FULL) {
        return Error::TooMany("lake.query_spill_bytes_max");
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(text) if text.contains(functions::TOO_MANY) => {
            Error::TooMany("lake.function_values_max")
        }
        DataFusionError::ResourcesExhausted(_) => Error::TooMany("lake.query_memory_bytes_max"),
        DataFusionError::ArrowError(cause, _) if of_the_machine(cause) => {
            Error::internal("run a query", error)
        }
        DataFusionError::SQL(_, _)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(_, _)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::Execution(_)
        | DataFusionError::ArrowError(_, _)
        | DataFusionError::Diagnostic(_, _) => Error::Invalid(error.strip_backtrace()),
        _ => Error::internal("run a query", error),
    }
}

/// What DataFusion says, in errors of several kinds, when the spill space is used up.
const SPILL_FULL: &str = "The used disk space during the spilling process";

fn of_the_machine(cause: &ArrowError) -> bool {
    matches!(
        cause,
        ArrowError::IoError(_, _)
            | ArrowError::IpcError(_)
            | ArrowError::ExternalError(_)
            | ArrowError::ParquetError(_)
            | ArrowError::MemoryError(_)
            | ArrowError::CDataInterface(_)
    )
}
