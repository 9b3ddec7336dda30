use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::BufRead;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, RecordBatch};
use datafusion::arrow::compute::{
    concat_batches, filter_record_batch, sort_to_indices, take_record_batch,
};
use datafusion::arrow::datatypes::{
    DataType as ArrowType, Field, Int64Type, Schema, TimestampMicrosecondType,
};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, DataType, PrimitiveType, Remove, StructField, Transaction};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::StreamExt;
use object_store::path::Path;
use url::Url;

use crate::files::{DataFile, Files};
use crate::rows::{ColumnType, DAY, TableSpec, day_of, unpack};
use crate::store::DurableFiles;
use crate::tail::Tail;
use crate::{Config, Error};

/// A table as Delta sees it. One task owns it, so commits never conflict.
pub(crate) struct Delta {
    pub(crate) spec: Arc<TableSpec>,
    table: DeltaTable,
    folder: PathBuf,
    root: Path,
    log_cleanup_due: usize,
}

/// What a table holds at one version of its log.
pub(crate) struct Version {
    pub(crate) files: Files,
    pub(crate) offsets: BTreeMap<String, u64>,
}

const DAY_OF: &str = "madang.dayOf";
const IDENTITY: &str = "madang.identity";
/// Commits between two checkpoints and clean-ups of the log.
const CHECKPOINT_COMMITS: usize = 64;
/// Days that are written at a time.
const OPEN_FILES_MAX: usize = 32;

impl Delta {
    /// Opens the table of `folder`; `None` when there is none.
    pub(crate) async fn open(folder: &FsPath, files: &DurableFiles) -> Result<Option<Self>, Error> {
        if !folder.join("_delta_log").is_dir() {
            return Ok(None);
        }
        let mut table = bare(folder, files)?;
        let exists = table.verify_deltatable_existence().await;
        if !exists.map_err(|error| failed("look for", folder, error))? {
            return Ok(None);
        }
        table.load().await.map_err(|error| failed("open", folder, error))?;
        let spec = read_spec(&table, folder)?;
        Ok(Some(Self::with(folder, table, spec)))
    }

    pub(crate) async fn create(
        folder: &FsPath,
        files: &DurableFiles,
        spec: &TableSpec,
        config: &Config,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::internal(format!("create {}", folder.display()), error))?;
        let kinds = spec.columns.iter().map(|(name, kind)| (name.as_str(), delta_type(*kind)));
        let day = std::iter::once((DAY, DataType::Primitive(PrimitiveType::Date)));
        let columns = kinds.chain(day).map(|(name, kind)| StructField::new(name, kind, true));
        let interval = |time: std::time::Duration| format!("interval {} seconds", time.as_secs());
        let properties = [
            (DAY_OF, spec.day_of.clone()),
            (IDENTITY, spec.identity.join(",")),
            ("delta.appendOnly", "false".into()),
            ("delta.checkpointInterval", CHECKPOINT_COMMITS.to_string()),
            ("delta.deletedFileRetentionDuration", interval(config.file_retention)),
            ("delta.logRetentionDuration", interval(config.log_retention)),
        ];
        let table = bare(folder, files)?
            .create()
            .with_table_name(&spec.name)
            .with_columns(columns)
            .with_partition_columns([DAY])
            .with_configuration(properties.map(|(key, value)| (key.to_owned(), Some(value))))
            .with_raise_if_key_not_exists(false)
            .await
            .map_err(|error| failed("create", folder, error))?;
        Ok(Self::with(folder, table, spec.clone()))
    }

    fn with(folder: &FsPath, table: DeltaTable, spec: TableSpec) -> Self {
        // The lake's folder is the root for reading, so that plans do not tell where it lies.
        let names: Vec<_> = folder.iter().rev().take(2).filter_map(|name| name.to_str()).collect();
        let root = names.into_iter().rev().collect();
        let folder = folder.to_path_buf();
        Self { spec: Arc::new(spec), table, folder, root, log_cleanup_due: 0 }
    }

    /// Everything that the log says now, read anew.
    pub(crate) async fn version(&mut self) -> Result<Version, Error> {
        self.table.load().await.map_err(|error| failed("read the log of", &self.folder, error))?;
        let state = self.table.snapshot().map_err(|error| failed("read", &self.folder, error))?;
        let mut list = Vec::new();
        for view in state.log_data().iter() {
            if view.deletion_vector_descriptor().is_some() {
                let text = "another program deleted rows of it in place";
                return Err(Error::internal(format!("read {}", view.path()), text));
            }
            let days = view.partition_values_map();
            let day = days.get(DAY).and_then(Option::as_deref);
            let about = (day, view.stats());
            let about = (about.0, about.1.as_deref());
            list.push(Arc::new(DataFile::new(
                &self.spec,
                &self.root,
                &view.path(),
                view.size(),
                about,
            )?));
        }
        Ok(Version { files: Files::new(list), offsets: offsets(&self.folder)? })
    }

    /// Commits the tail's rows and the offsets that they reach, both or neither.
    pub(crate) async fn append(&mut self, tail: &Tail, files: &Files) -> Result<Files, Error> {
        let mut adds = Vec::new();
        for batch in self.few_days_each(tail)? {
            let batch = unpack(&batch, &self.spec.schema())
                .map_err(|error| self.failed_with("write rows of", error))?;
            let batch = self.with_days(&batch)?;
            let mut writer = self.writer()?;
            writer.write(batch).await.map_err(|error| self.failed("write rows of", error))?;
            let files = writer.flush().await;
            adds.extend(files.map_err(|error| self.failed("write rows of", error))?);
        }
        let transactions = tail.offsets.iter().map(|(source, offset)| {
            // An offset beyond 2^63 cannot be reached.
            Transaction::new(source, i64::try_from(*offset).unwrap_or(i64::MAX))
        });
        let properties = CommitProperties::default()
            .with_application_transactions(transactions.collect())
            .with_cleanup_expired_logs(Some(self.log_cleanup()));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![DAY.into()]),
            predicate: None,
        };
        let added = self.data_files(&adds)?;
        self.commit(properties, adds.into_iter().map(Action::Add).collect(), operation).await?;
        Ok(files.changed(&HashSet::new(), added))
    }

    /// Puts the rows of `old`, which all lie in one day, into one file. The rows come as `rows`.
    pub(crate) async fn compact(
        &mut self,
        old: &[Arc<DataFile>],
        mut rows: SendableRecordBatchStream,
        files: &Files,
    ) -> Result<Files, Error> {
        let mut writer = self.writer()?;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| self.failed_with("compact", error))?;
            let batch = self.with_days(&batch)?;
            writer.write(batch).await.map_err(|error| self.failed("compact", error))?;
        }
        let mut adds = writer.flush().await.map_err(|error| self.failed("compact", error))?;
        let added = self.data_files(&adds)?;
        let rows_of = |list: &[Arc<DataFile>]| list.iter().map(|file| file.rows).sum::<usize>();
        if rows_of(&added) != rows_of(old) {
            let text = format!("{} rows became {}", rows_of(old), rows_of(&added));
            return Err(self.failed_with("compact", text));
        }
        for add in &mut adds {
            add.data_change = false;
        }
        let names: HashSet<&str> = old.iter().map(|file| file.name.as_str()).collect();
        let removes = self.removes(&names, false)?;
        let actions = adds.into_iter().map(Action::Add);
        let actions = actions.chain(removes.into_iter().map(Action::Remove)).collect();
        let properties =
            CommitProperties::default().with_cleanup_expired_logs(Some(self.log_cleanup()));
        let operation = DeltaOperation::Optimize { predicate: None, target_size: 0 };
        self.commit(properties, actions, operation).await?;
        Ok(files.changed(&names, added))
    }

    /// Puts rows in place of those of `old`, the files of one day, that have this text in this column; says how many went.
    pub(crate) async fn exchange(
        &mut self,
        (day, column, text): (i32, usize, &str),
        (old, there): (&[Arc<DataFile>], Option<SendableRecordBatchStream>),
        rows: RecordBatch,
        files: &Files,
    ) -> Result<(Files, usize), Error> {
        let mut writer = self.writer()?;
        let mut gone = 0;
        if let Some(mut there) = there {
            while let Some(batch) = there.next().await {
                let batch = batch.map_err(|error| self.failed_with("exchange rows of", error))?;
                let texts = batch.column(column).as_string::<i32>();
                let stays: BooleanArray =
                    texts.iter().map(|found| Some(found != Some(text))).collect();
                let left = filter_record_batch(&batch, &stays)
                    .map_err(|error| self.failed_with("exchange rows of", error))?;
                gone += batch.num_rows() - left.num_rows();
                self.add(&mut writer, &left).await?;
            }
        }
        if gone == 0 && rows.num_rows() == 0 {
            return Ok((files.changed(&HashSet::new(), Vec::new()), 0));
        }
        let times = rows.column(self.spec.index(&self.spec.day_of));
        let mut times = times.as_primitive::<TimestampMicrosecondType>().values().iter();
        if times.any(|time| day_of(*time) != day) {
            return Err(Error::Invalid("the rows are of another day".into()));
        }
        let rows = unpack(&rows, &self.spec.schema());
        let rows = rows.map_err(|error| self.failed_with("exchange rows of", error))?;
        self.add(&mut writer, &rows).await?;
        let adds = writer.flush().await.map_err(|error| self.failed("exchange rows of", error))?;
        let added = self.data_files(&adds)?;
        let names: HashSet<&str> = old.iter().map(|file| file.name.as_str()).collect();
        let removes = self.removes(&names, true)?;
        let actions = adds.into_iter().map(Action::Add);
        let actions = actions.chain(removes.into_iter().map(Action::Remove)).collect();
        let properties =
            CommitProperties::default().with_cleanup_expired_logs(Some(self.log_cleanup()));
        self.commit(properties, actions, DeltaOperation::Delete { predicate: None }).await?;
        Ok((files.changed(&names, added), gone))
    }

    async fn add(&self, writer: &mut RecordBatchWriter, rows: &RecordBatch) -> Result<(), Error> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = self.with_days(rows)?;
        writer.write(rows).await.map_err(|error| self.failed("exchange rows of", error))
    }

    /// Deletes files that no version within the retention needs.
    pub(crate) async fn vacuum(&mut self) -> Result<usize, Error> {
        let vacuum = self.table.clone().vacuum().with_mode(VacuumMode::Full);
        let (table, metrics) = vacuum.await.map_err(|error| self.failed("vacuum", error))?;
        self.table = table;
        Ok(metrics.files_deleted.len())
    }

    async fn commit(
        &mut self,
        properties: CommitProperties,
        actions: Vec<Action>,
        operation: DeltaOperation,
    ) -> Result<(), Error> {
        let state = self.table.snapshot().map_err(|error| self.failed("read", error))?;
        let commit = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(state), self.table.log_store(), operation)
            .await
            .map_err(|error| self.failed("commit to", error))?;
        self.table.state = Some(commit.snapshot());
        Ok(())
    }

    fn writer(&self) -> Result<RecordBatchWriter, Error> {
        RecordBatchWriter::for_table(&self.table).map_err(|error| self.failed("write", error))
    }

    fn log_cleanup(&mut self) -> bool {
        self.log_cleanup_due = (self.log_cleanup_due + 1) % CHECKPOINT_COMMITS;
        self.log_cleanup_due == 0
    }

    fn data_files(&self, adds: &[Add]) -> Result<Vec<Arc<DataFile>>, Error> {
        let file = |add: &Add| {
            let day = add.partition_values.get(DAY).and_then(Option::as_deref);
            let about = (day, add.stats.as_deref());
            DataFile::new(&self.spec, &self.root, &add.path, add.size, about).map(Arc::new)
        };
        adds.iter().map(file).collect()
    }

    fn removes(&self, names: &HashSet<&str>, is_change: bool) -> Result<Vec<Remove>, Error> {
        let state = self.table.snapshot().map_err(|error| self.failed("read", error))?;
        let views = state.log_data();
        let removes: Vec<_> = views
            .iter()
            .filter(|view| names.contains(&*view.path()))
            .map(|view| view.remove_action(is_change))
            .collect();
        if removes.len() != names.len() {
            return Err(self.failed_with("compact", "a file is not in the log"));
        }
        Ok(removes)
    }

    /// The tail's rows by time, which lets look-ups skip most pages, in batches of few days, since every
    /// day has a file of its own open while it is written.
    fn few_days_each(&self, tail: &Tail) -> Result<Vec<RecordBatch>, Error> {
        let failed = |error| self.failed_with("sort rows of", error);
        let Some(first) = tail.batches.first() else { return Ok(Vec::new()) };
        let time = self.spec.index(&self.spec.day_of);
        let rows = {
            let rows = concat_batches(&first.schema(), &tail.batches).map_err(failed)?;
            let order = sort_to_indices(rows.column(time), None, None).map_err(failed)?;
            take_record_batch(&rows, &order).map_err(failed)?
        };
        let times = rows.column(time).as_primitive::<TimestampMicrosecondType>().values();
        let days: Vec<i32> = times.iter().map(|time| day_of(*time)).collect();
        let mut batches = Vec::new();
        let (mut from, mut seen) = (0, 1);
        for row in 1..days.len() {
            seen += usize::from(days[row] != days[row - 1]);
            if seen > OPEN_FILES_MAX {
                batches.push(rows.slice(from, row - from));
                (from, seen) = (row, 1);
            }
        }
        batches.push(rows.slice(from, rows.num_rows() - from));
        Ok(batches)
    }

    /// The batch with the day of each row beside it.
    fn with_days(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let times = batch.column(self.spec.index(&self.spec.day_of));
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let days: Date32Array = times.values().iter().map(|time| Some(day_of(*time))).collect();
        let mut fields = batch.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(DAY, ArrowType::Date32, true)));
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(days) as ArrayRef);
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| self.failed_with("write", error))
    }

    fn failed(&self, what: &str, error: DeltaTableError) -> Error {
        failed(what, &self.folder, error)
    }

    fn failed_with(&self, what: &str, error: impl Into<base::Failure>) -> Error {
        Error::internal(format!("{what} {}", self.folder.display()), error)
    }
}

fn bare(folder: &FsPath, files: &DurableFiles) -> Result<DeltaTable, Error> {
    let url = Url::from_directory_path(folder)
        .map_err(|()| Error::Invalid(format!("{} is not absolute", folder.display())))?;
    DeltaTableBuilder::from_url(url.clone())
        .and_then(|builder| builder.with_storage_backend(Arc::new(files.clone()), url).build())
        .map_err(|error| failed("open", folder, error))
}

fn failed(what: &str, folder: &FsPath, error: DeltaTableError) -> Error {
    Error::internal(format!("{what} {}", folder.display()), error)
}

fn delta_type(kind: ColumnType) -> DataType {
    DataType::Primitive(match kind {
        ColumnType::Text => PrimitiveType::String,
        ColumnType::Timestamp => PrimitiveType::Timestamp,
        ColumnType::Float => PrimitiveType::Double,
        ColumnType::Int => PrimitiveType::Long,
    })
}

/// What the table was created with, as its own metadata say.
fn read_spec(table: &DeltaTable, folder: &FsPath) -> Result<TableSpec, Error> {
    let bad = |what: &str| Error::internal(format!("read {}", folder.display()), what);
    let state = table.snapshot().map_err(|error| failed("read", folder, error))?;
    let properties: &HashMap<String, String> = state.metadata().configuration();
    let property = |name: &str| properties.get(name).ok_or_else(|| bad("not a table of the lake"));
    let schema = state.schema();
    let columns = schema.fields().filter(|field| field.name() != DAY).map(|field| {
        let kind = match field.data_type() {
            DataType::Primitive(PrimitiveType::String) => ColumnType::Text,
            DataType::Primitive(PrimitiveType::Timestamp) => ColumnType::Timestamp,
            DataType::Primitive(PrimitiveType::Double) => ColumnType::Float,
            DataType::Primitive(PrimitiveType::Long) => ColumnType::Int,
            _ => return Err(bad("it has a column of a type that the lake does not write")),
        };
        Ok((field.name().clone(), kind))
    });
    let name = folder.file_name().and_then(|name| name.to_str());
    let spec = TableSpec {
        name: name.ok_or_else(|| bad("its name is no text"))?.to_owned(),
        columns: columns.collect::<Result<_, _>>()?,
        day_of: property(DAY_OF)?.clone(),
        identity: property(IDENTITY)?.split(',').map(ToOwned::to_owned).collect(),
    };
    spec.check()?;
    Ok(spec)
}

/// The last offset of every source: from the last checkpoint and the commits after it. Delta's own
/// interface tells the offset of a known source only.
fn offsets(folder: &FsPath) -> Result<BTreeMap<String, u64>, Error> {
    let log = folder.join("_delta_log");
    let bad = |error: std::io::Error| Error::internal(format!("read {}", log.display()), error);
    let mut commits = BTreeMap::new();
    let mut checkpoints: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(&log).map_err(bad)? {
        let path = entry.map_err(bad)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(version) = name.get(..20).and_then(|digits| digits.parse::<u64>().ok()) else {
            continue;
        };
        let kind = &name[20..];
        if kind == ".json" {
            commits.insert(version, path);
        } else if kind.starts_with(".checkpoint") && kind.ends_with(".parquet") {
            checkpoints.entry(version).or_default().push(path);
        }
    }
    let mut offsets = BTreeMap::new();
    let mut after = 0;
    if let Some((version, paths)) = checkpoints.last_key_value() {
        for path in paths {
            checkpoint_offsets(path, &mut offsets)
                .map_err(|error| Error::internal(format!("read {}", path.display()), error))?;
        }
        after = version + 1;
    }
    for path in commits.range(after..).map(|(_, path)| path) {
        commit_offsets(path, &mut offsets)
            .map_err(|error| Error::internal(format!("read {}", path.display()), error))?;
    }
    Ok(offsets)
}

fn commit_offsets(path: &FsPath, offsets: &mut BTreeMap<String, u64>) -> Result<(), base::Failure> {
    for line in std::io::BufReader::new(std::fs::File::open(path)?).lines() {
        let line = line?;
        if !line.starts_with("{\"txn\"") {
            continue;
        }
        let action: serde_json::Value = serde_json::from_str(&line)?;
        let (source, offset) = (action["txn"]["appId"].as_str(), action["txn"]["version"].as_u64());
        if let (Some(source), Some(offset)) = (source, offset) {
            offsets.insert(source.to_owned(), offset);
        }
    }
    Ok(())
}

fn checkpoint_offsets(
    path: &FsPath,
    offsets: &mut BTreeMap<String, u64>,
) -> Result<(), base::Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["txn"]);
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let Some(txn) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt())
        else {
            continue;
        };
        let source = txn.column_by_name("appId").and_then(|column| column.as_string_opt::<i32>());
        let offset = txn.column_by_name("version");
        let offset = offset.and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(source), Some(offset)) = (source, offset) else {
            return Err("a checkpoint without the columns of transactions".into());
        };
        for row in 0..batch.num_rows() {
            use datafusion::arrow::array::Array;
            if txn.is_valid(row) && source.is_valid(row) && offset.is_valid(row) {
                let offset = u64::try_from(offset.value(row)).unwrap_or(0);
                offsets.insert(source.value(row).to_owned(), offset);
            }
        }
    }
    Ok(())
}
