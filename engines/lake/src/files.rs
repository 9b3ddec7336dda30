use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use object_store::path::Path;
use serde_json::Value as Json;

use crate::Error;
use crate::rows::{ColumnType, TableSpec, day_from};

/// One Parquet file of a table, with what Delta's log says about it.
#[derive(Debug)]
pub(crate) struct DataFile {
    /// As Delta names it: relative to the table.
    pub(crate) name: String,
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    pub(crate) day: i32,
    pub(crate) rows: usize,
    /// Per column, values that no value of the file is below or above.
    bounds: Vec<Option<(ScalarValue, ScalarValue)>>,
    nulls: Vec<Option<u64>>,
}

impl DataFile {
    pub(crate) fn new(
        spec: &TableSpec,
        root: &Path,
        name: &str,
        bytes: i64,
        about: (Option<&str>, Option<&str>),
    ) -> Result<Self, Error> {
        let (day, statistics) = about;
        let bad = |what: &str| Error::internal(format!("read the log entry of {name}"), what);
        let day = day.and_then(day_from).ok_or_else(|| bad("it has no day"))?;
        let statistics: Json = statistics
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| bad("it has no statistics"))?;
        let rows = statistics["numRecords"].as_u64().ok_or_else(|| bad("it has no row count"))?;
        let path = Path::parse(format!("{root}/{name}"))
            .map_err(|error| Error::internal(format!("read the path of {name}"), error))?;
        let columns = || spec.columns.iter();
        Ok(Self {
            name: name.to_owned(),
            path,
            bytes: u64::try_from(bytes).unwrap_or(0),
            day,
            rows: usize::try_from(rows).map_err(|_| bad("its row count is too large"))?,
            bounds: columns().map(|(name, kind)| bounds(&statistics, name, *kind)).collect(),
            nulls: columns().map(|(name, _)| statistics["nullCount"][name].as_u64()).collect(),
        })
    }

    /// The first and last time in the file, as far as known.
    pub(crate) fn times(&self, day_of: usize) -> Option<(i64, i64)> {
        match self.bounds.get(day_of)? {
            Some((
                ScalarValue::TimestampMicrosecond(Some(first), _),
                ScalarValue::TimestampMicrosecond(Some(last), _),
            )) => Some((*first, *last)),
            _ => None,
        }
    }
}

fn bounds(statistics: &Json, name: &str, kind: ColumnType) -> Option<(ScalarValue, ScalarValue)> {
    let (low, high) = (&statistics["minValues"][name], &statistics["maxValues"][name]);
    let time = |micros: i64| ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()));
    Some(match kind {
        ColumnType::Text => (ScalarValue::from(low.as_str()?), ScalarValue::from(high.as_str()?)),
        ColumnType::Int => (ScalarValue::from(low.as_i64()?), ScalarValue::from(high.as_i64()?)),
        ColumnType::Float => (ScalarValue::from(low.as_f64()?), ScalarValue::from(high.as_f64()?)),
        ColumnType::Timestamp => {
            let low: Timestamp = low.as_str()?.parse().ok()?;
            let high: Timestamp = high.as_str()?.parse().ok()?;
            // Delta's log cuts to milliseconds.
            (time(low.micros()), time(high.plus(Duration::from_millis(1)).micros()))
        }
    })
}

/// The files of one version of a table; never changed, only replaced.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) list: Vec<Arc<DataFile>>,
    pub(crate) rows: usize,
}

impl Files {
    pub(crate) fn new(list: Vec<Arc<DataFile>>) -> Self {
        let rows = list.iter().map(|file| file.rows).sum();
        Self { list, rows }
    }

    pub(crate) fn changed(&self, removed: &HashSet<&str>, added: Vec<Arc<DataFile>>) -> Self {
        let kept = self.list.iter().filter(|file| !removed.contains(file.name.as_str()));
        Self::new(kept.cloned().chain(added).collect())
    }

    /// The files that may hold a row for which `predicate` is true.
    pub(crate) fn matching(
        &self,
        schema: &SchemaRef,
        predicate: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Vec<Arc<DataFile>> {
        let Some(predicate) = predicate else { return self.list.clone() };
        let pruning = PruningPredicateBuilder::new().with_file_schema(schema.clone());
        let Some(pruning) = pruning.build(predicate.clone()) else { return self.list.clone() };
        let about = About { files: &self.list, schema };
        let Ok(keep) = pruning.prune(&about) else { return self.list.clone() };
        self.list.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file.clone()).collect()
    }
}

struct About<'a> {
    files: &'a [Arc<DataFile>],
    schema: &'a SchemaRef,
}

impl About<'_> {
    fn bound(
        &self,
        column: &Column,
        pick: impl Fn(&(ScalarValue, ScalarValue)) -> ScalarValue,
    ) -> Option<ArrayRef> {
        let (index, field) = self.schema.column_with_name(&column.name)?;
        let unknown = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self
            .files
            .iter()
            .map(|file| file.bounds[index].as_ref().map_or_else(|| unknown.clone(), &pick));
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for About<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(column, |(low, _)| low.clone())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(column, |(_, high)| high.clone())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (index, _) = self.schema.column_with_name(&column.name)?;
        let nulls = self.files.iter().map(|file| file.nulls[index]);
        Some(Arc::new(nulls.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.files.iter().map(|file| Some(file.rows as u64));
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
