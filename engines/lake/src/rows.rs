use std::collections::HashSet;
use std::sync::Arc;

use base::Timestamp;
use datafusion::arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray, Float64Builder, Int64Builder, RecordBatch,
    TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::arrow::error::ArrowError;

pub use words::Texts;
use words::Words;

use crate::Error;

mod words;

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// The name in SQL and the folder's name: lower-case letters, digits and `_`.
    pub name: String,
    pub columns: Vec<(String, ColumnType)>,
    /// The timestamp column whose UTC day decides in which folder a row lies.
    pub day_of: String,
    /// The columns that together tell one row from another; none of them is ever null.
    pub identity: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    /// Microseconds, UTC.
    Timestamp,
    Float,
    Int,
}

/// One value of a row or of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Null,
    Text(&'a str),
    Time(Timestamp),
    /// A NaN is kept as null: it would poison every minimum, maximum and comparison.
    Float(f64),
    Int(i64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}
impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}
impl From<Timestamp> for Value<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}
impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}
impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}
impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// The identity of a row: the values of [`TableSpec::identity`], in that order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) time: i64,
}

impl Key {
    /// Needs exactly one timestamp among the values: the one that decides the day.
    pub fn new(values: &[Value<'_>]) -> Result<Self, Error> {
        let mut times = values.iter().filter_map(|value| match value {
            Value::Time(time) => Some(time.micros()),
            _ => None,
        });
        let (Some(time), None) = (times.next(), times.next()) else {
            return Err(Error::Invalid("a key has exactly one timestamp".into()));
        };
        let mut bytes = Vec::with_capacity(48);
        for value in values {
            encode(*value, &mut bytes)?;
        }
        Ok(Self { bytes: bytes.into(), time })
    }

    pub(crate) fn day(&self) -> i32 {
        day_of(self.time)
    }
}

/// What one column has in rows that are added together.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// All of them the same.
    Same(Value<'a>),
    Texts(&'a Texts),
    Floats(&'a [f64]),
}

/// Rows on their way into a table; made with [`Rows::new`], filled with [`Rows::push`].
#[derive(Debug)]
pub struct Rows {
    spec: Arc<TableSpec>,
    schema: SchemaRef,
    day_of: usize,
    identity: Vec<usize>,
    columns: Vec<Column>,
    length: usize,
}

/// Encoded identities.
pub(crate) type Identities = HashSet<Box<[u8]>>;

#[derive(Debug)]
enum Column {
    Text(Box<Words>),
    Timestamp(TimestampMicrosecondBuilder),
    Float(Float64Builder),
    Int(Int64Builder),
}

impl Rows {
    pub fn new(spec: &TableSpec) -> Result<Self, Error> {
        Self::with_room(spec, 0)
    }

    /// With memory for so many rows.
    pub fn with_room(spec: &TableSpec, rows: usize) -> Result<Self, Error> {
        spec.check()?;
        let columns = spec
            .columns
            .iter()
            .map(|(_, column_type)| match column_type {
                ColumnType::Text => Column::Text(Box::new(Words::with_room(rows))),
                ColumnType::Timestamp => Column::Timestamp(
                    TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC"),
                ),
                ColumnType::Float => Column::Float(Float64Builder::with_capacity(rows)),
                ColumnType::Int => Column::Int(Int64Builder::with_capacity(rows)),
            })
            .collect();
        Ok(Self {
            schema: spec.packed_schema(),
            day_of: spec.index(&spec.day_of),
            identity: spec.identity.iter().map(|name| spec.index(name)).collect(),
            spec: Arc::new(spec.clone()),
            columns,
            length: 0,
        })
    }

    /// Adds one row, with its values in the order of the table's columns. A refused row leaves no trace.
    pub fn push(&mut self, row: &[Value<'_>]) -> Result<(), Error> {
        self.check_count(row.len())?;
        self.check(row)?;
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(*value, 1);
        }
        self.length += 1;
        Ok(())
    }

    /// Adds rows whose first values are the same, those of the identity among them: what they share is looked at once.
    /// Refused, they leave no trace.
    pub fn push_sharing<'v, const N: usize>(
        &mut self,
        shared: &[Value<'_>],
        rest: impl Iterator<Item = [Value<'v>; N]> + Clone,
    ) -> Result<(), Error> {
        self.check_count(shared.len() + N)?;
        self.check(shared)?;
        let mut count = 0;
        for row in rest.clone() {
            self.check_types(shared.len(), &row)?;
            count += 1;
        }
        let (first, last) = self.columns.split_at_mut(shared.len());
        for (column, value) in first.iter_mut().zip(shared) {
            column.push(*value, count);
        }
        for row in rest {
            for (column, value) in last.iter_mut().zip(row) {
                column.push(value, 1);
            }
        }
        self.length += count;
        Ok(())
    }

    /// Adds so many rows, whose columns are given one after another. Refused, they leave no trace.
    pub fn push_columns(&mut self, count: usize, parts: &[Part<'_>]) -> Result<(), Error> {
        self.check_count(parts.len())?;
        for (index, part) in parts.iter().enumerate() {
            let (name, column_type) = &self.spec.columns[index];
            let (fits, length) = match part {
                Part::Same(_) => (true, count),
                Part::Texts(texts) => (*column_type == ColumnType::Text, texts.len()),
                Part::Floats(floats) => (*column_type == ColumnType::Float, floats.len()),
            };
            if !fits {
                return Err(Error::Invalid(format!("column {name} takes {column_type:?} values")));
            }
            if length != count {
                let text = format!("column {name} has {length} values for {count} rows");
                return Err(Error::Invalid(text));
            }
            if let Part::Same(value) = part {
                self.check_types(index, std::slice::from_ref(value))?;
            }
        }
        let same = |index: usize| match parts[index] {
            Part::Same(value) => Some(value),
            Part::Texts(_) | Part::Floats(_) => None,
        };
        let identity = self.identity.iter().filter_map(|index| same(*index));
        if identity.into_iter().any(|value| matches!(value, Value::Null | Value::Float(_))) {
            return Err(Error::Invalid(NO_IDENTITY.into()));
        }
        self.check_day(same(self.day_of).as_ref())?;
        for (column, part) in self.columns.iter_mut().zip(parts) {
            column.push_part(part, count);
        }
        self.length += count;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn check_count(&self, count: usize) -> Result<(), Error> {
        if count == self.columns.len() {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a row of {} has {} values, not {count}",
            self.spec.name,
            self.columns.len(),
        )))
    }

    /// Checks the first values of a row, in which the identity must be.
    fn check(&self, row: &[Value<'_>]) -> Result<(), Error> {
        self.check_types(0, row)?;
        for index in &self.identity {
            match row.get(*index) {
                Some(Value::Text(_) | Value::Time(_) | Value::Int(_)) => {}
                _ => return Err(Error::Invalid(NO_IDENTITY.into())),
            }
        }
        self.check_day(row.get(self.day_of))
    }

    fn check_day(&self, time: Option<&Value<'_>>) -> Result<(), Error> {
        match time {
            Some(Value::Time(time)) if (YEAR_0..YEAR_10000).contains(&time.micros()) => Ok(()),
            Some(Value::Time(time)) => {
                Err(Error::Invalid(format!("{time} lies outside the years 0 to 9999")))
            }
            _ => Err(Error::Invalid(format!("column {} is never null", self.spec.day_of))),
        }
    }

    fn check_types(&self, from: usize, values: &[Value<'_>]) -> Result<(), Error> {
        for ((name, column_type), value) in self.spec.columns[from..].iter().zip(values) {
            let fits = matches!(
                (column_type, value),
                (_, Value::Null)
                    | (ColumnType::Text, Value::Text(_))
                    | (ColumnType::Timestamp, Value::Time(_))
                    | (ColumnType::Float, Value::Float(_))
                    | (ColumnType::Int, Value::Int(_))
            );
            if !fits {
                return Err(Error::Invalid(format!("column {name} takes {column_type:?} values")));
            }
        }
        Ok(())
    }

    pub(crate) fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// The rows as they wait for a commit: each text of a column once.
    pub(crate) fn finish(mut self) -> Result<RecordBatch, Error> {
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        RecordBatch::try_new(self.schema, columns)
            .map_err(|error| Error::internal("build a batch of rows", error))
    }
}

impl Column {
    /// Adds a value so many times.
    fn push(&mut self, value: Value<'_>, count: usize) {
        match (self, value) {
            (Self::Text(column), Value::Text(text)) => column.push(text, count),
            (Self::Timestamp(column), Value::Time(time)) => {
                column.append_value_n(time.micros(), count);
            }
            (Self::Float(column), Value::Float(number)) if !number.is_nan() => {
                column.append_value_n(number, count);
            }
            (Self::Int(column), Value::Int(number)) => column.append_value_n(number, count),
            (Self::Text(column), _) => column.push_nulls(count),
            (Self::Timestamp(column), _) => column.append_nulls(count),
            (Self::Float(column), _) => column.append_nulls(count),
            (Self::Int(column), _) => column.append_nulls(count),
        }
    }

    fn push_part(&mut self, part: &Part<'_>, count: usize) {
        match (self, part) {
            (column, Part::Same(value)) => column.push(*value, count),
            (Self::Text(column), Part::Texts(texts)) => column.push_all(texts),
            (Self::Float(column), Part::Floats(floats)) if !floats.iter().any(|it| it.is_nan()) => {
                column.append_slice(floats);
            }
            (column, Part::Floats(floats)) => {
                floats.iter().for_each(|number| column.push(Value::Float(*number), 1));
            }
            (_, Part::Texts(_)) => unreachable!("the type was checked before"),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(column) => column.finish(),
            Self::Timestamp(column) => ArrayBuilder::finish(column),
            Self::Float(column) => ArrayBuilder::finish(column),
            Self::Int(column) => ArrayBuilder::finish(column),
        }
    }
}

/// The partition column's name; hidden from queries, so no table may declare it.
pub(crate) const DAY: &str = "day";

const DAY_MICROS: i64 = 86_400_000_000;
/// 0000-01-01 and 10000-01-01: between them a day is written with four digits of year and sorts as text.
const YEAR_0: i64 = -62_167_219_200_000_000;
const YEAR_10000: i64 = 253_402_300_800_000_000;

impl TableSpec {
    /// Describes a table in one expression.
    pub fn new(
        name: &str,
        columns: &[(&str, ColumnType)],
        day_of: &str,
        identity: &[&str],
    ) -> Self {
        Self {
            name: name.into(),
            columns: columns.iter().map(|(name, kind)| ((*name).into(), *kind)).collect(),
            day_of: day_of.into(),
            identity: identity.iter().map(|name| (*name).into()).collect(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check_name("table", &self.name)?;
        let mut seen = HashSet::new();
        for (name, _) in &self.columns {
            check_name("column", name)?;
            if name == DAY {
                return Err(Error::Invalid(format!("column name {DAY} is taken by the lake")));
            }
            if !seen.insert(name) {
                return Err(Error::Invalid(format!("column {name} is declared twice")));
            }
        }
        let type_of = |wanted: &str| {
            self.columns
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, column_type)| *column_type)
        };
        if type_of(&self.day_of) != Some(ColumnType::Timestamp) {
            return Err(Error::Invalid(format!("{} is not a timestamp column", self.day_of)));
        }
        if !self.identity.contains(&self.day_of) {
            return Err(Error::Invalid(format!("the identity must contain {}", self.day_of)));
        }
        for name in &self.identity {
            let fits = match type_of(name) {
                Some(ColumnType::Text | ColumnType::Int) => true,
                Some(ColumnType::Timestamp) => *name == self.day_of,
                Some(ColumnType::Float) | None => false,
            };
            if !fits {
                return Err(Error::Invalid(format!(
                    "identity column {name} must be a text, an int or {}",
                    self.day_of
                )));
            }
        }
        Ok(())
    }

    /// As queries and files have it.
    pub(crate) fn schema(&self) -> SchemaRef {
        self.schema_with(&DataType::Utf8)
    }

    /// As rows wait for a commit.
    fn packed_schema(&self) -> SchemaRef {
        self.schema_with(&words::packed_type())
    }

    fn schema_with(&self, text: &DataType) -> SchemaRef {
        let fields = self.columns.iter().map(|(name, column_type)| {
            let data_type = match column_type {
                ColumnType::Text => text.clone(),
                ColumnType::Timestamp => {
                    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
                }
                ColumnType::Float => DataType::Float64,
                ColumnType::Int => DataType::Int64,
            };
            Field::new(name, data_type, true)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    pub(crate) fn index(&self, column: &str) -> usize {
        self.columns
            .iter()
            .position(|(name, _)| name == column)
            .expect("a checked description names its own columns only")
    }
}

pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let fits = name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !fits {
        return Err(Error::Invalid(format!(
            "{what} name {name:?} is not a lower-case letter followed by letters, digits and _"
        )));
    }
    Ok(())
}

pub(crate) fn day_of(micros: i64) -> i32 {
    i32::try_from(micros.div_euclid(DAY_MICROS)).unwrap_or(i32::MAX)
}

/// The day that `text` (`2013-01-31`) names.
pub(crate) fn day_from(text: &str) -> Option<i32> {
    format!("{text}T00:00:00Z").parse::<Timestamp>().ok().map(|time| day_of(time.micros()))
}

/// Rows that waited, as files have them.
pub(crate) fn unpack(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

/// The text of a row, which is not null.
fn text_at(column: &ArrayRef, row: usize) -> &str {
    match column.as_dictionary_opt::<Int32Type>() {
        Some(packed) => {
            let place = usize::try_from(packed.keys().value(row)).unwrap_or(0);
            packed.values().as_string::<i32>().value(place)
        }
        None => column.as_string::<i32>().value(row),
    }
}

/// Encodes the identity of one row of a batch exactly as [`Key::new`] does.
pub(crate) fn key_at(columns: &[ArrayRef], row: usize, key: &mut Vec<u8>) -> Result<(), Error> {
    key.clear();
    for column in columns {
        let value = match column.data_type() {
            DataType::Utf8 | DataType::Dictionary(..) => Value::Text(text_at(column, row)),
            DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
            _ => Value::Time(Timestamp::from_micros(
                column.as_primitive::<TimestampMicrosecondType>().value(row),
            )),
        };
        encode(value, key)?;
    }
    Ok(())
}

/// One row of a batch, with its values in the order of the columns.
pub(crate) fn row_at<'b>(columns: &'b [ArrayRef], row: usize, values: &mut Vec<Value<'b>>) {
    values.clear();
    values.extend(columns.iter().map(|column| {
        if column.is_null(row) {
            return Value::Null;
        }
        match column.data_type() {
            DataType::Utf8 | DataType::Dictionary(..) => Value::Text(text_at(column, row)),
            DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
            _ => Value::Time(Timestamp::from_micros(
                column.as_primitive::<TimestampMicrosecondType>().value(row),
            )),
        }
    }));
}

const NO_IDENTITY: &str = "an identity holds texts, ints and one timestamp";

/// Lengths go first, so that two different keys never have the same bytes.
fn encode(value: Value<'_>, bytes: &mut Vec<u8>) -> Result<(), Error> {
    match value {
        Value::Text(text) => {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        Value::Time(time) => bytes.extend_from_slice(&time.micros().to_le_bytes()),
        Value::Int(number) => bytes.extend_from_slice(&number.to_le_bytes()),
        Value::Null | Value::Float(_) => return Err(Error::Invalid(NO_IDENTITY.into())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TableSpec {
        TableSpec::new(
            "readings",
            &[
                ("device", ColumnType::Text),
                ("time", ColumnType::Timestamp),
                ("temp", ColumnType::Float),
            ],
            "time",
            &["device", "time"],
        )
    }

    #[test]
    fn a_refused_row_leaves_no_trace() {
        let mut rows = Rows::new(&spec()).unwrap();
        let time = Timestamp::from_millis(1);
        rows.push(&["a".into(), time.into(), 1.5.into()]).unwrap();
        assert!(rows.push(&["a".into(), time.into()]).is_err(), "too few values");
        assert!(rows.push(&[1_i64.into(), time.into(), 1.0.into()]).is_err(), "not a text");
        assert!(rows.push(&["a".into(), Value::Null, 1.0.into()]).is_err(), "no time");
        assert!(rows.push(&[Value::Null, time.into(), 1.0.into()]).is_err(), "no identity");
        let far = Timestamp::from_micros(i64::MAX);
        assert!(rows.push(&["a".into(), far.into(), 1.0.into()]).is_err(), "no such year");
        rows.push(&["a".into(), time.into(), f64::NAN.into()]).unwrap();
        let batch = rows.finish().unwrap();
        assert_eq!((batch.num_rows(), batch.column(2).null_count()), (2, 1));
        let mut key = Vec::new();
        key_at(&batch.columns()[..2], 0, &mut key).unwrap();
        assert_eq!(*key, *Key::new(&["a".into(), time.into()]).unwrap().bytes);
    }

    #[test]
    fn rows_that_share_values_are_those_that_come_one_by_one() {
        let spec = spec();
        let (mut one_by_one, mut sharing) = (Rows::new(&spec).unwrap(), Rows::new(&spec).unwrap());
        let time = Timestamp::from_millis(1);
        let temps = [Value::Float(1.5), Value::Null, Value::Float(f64::NAN)];
        for temp in temps {
            one_by_one.push(&["a".into(), time.into(), temp]).unwrap();
        }
        let shared = ["a".into(), time.into()];
        sharing.push_sharing(&shared, temps.iter().map(|temp| [*temp])).unwrap();
        let wrong = [Value::Float(2.0), Value::Int(3)];
        assert!(sharing.push_sharing(&shared, wrong.iter().map(|temp| [*temp])).is_err());
        assert!(
            sharing.push_sharing(&shared[..1], std::iter::once([time.into(), temps[0]])).is_err()
        );
        assert!(sharing.push_sharing(&shared[..1], std::iter::once([temps[0]])).is_err());
        assert!(sharing.push_sharing(&shared, std::iter::empty::<[Value<'_>; 1]>()).is_ok());
        assert_eq!(sharing.len(), 3);
        assert_eq!(sharing.finish().unwrap(), one_by_one.finish().unwrap());
    }

    #[test]
    fn rows_that_come_by_columns_are_those_that_come_one_by_one() {
        let mut spec = spec();
        spec.columns.push(("name".into(), ColumnType::Text));
        let mut one_by_one = Rows::new(&spec).unwrap();
        let mut together = Rows::with_room(&spec, 2).unwrap();
        let time = Timestamp::from_millis(1);
        let (temps, names) = ([1.5, f64::NAN, -2.0], ["a", "", "가"]);
        let texts: Texts = names.into_iter().collect();
        let same = Part::Same;
        let device = |device: &'static str| [same(device.into()), same(time.into())];
        for device_name in ["EWR", "JFK"] {
            for (temp, name) in temps.iter().zip(names) {
                let row = [device_name.into(), time.into(), (*temp).into(), name.into()];
                one_by_one.push(&row).unwrap();
            }
            let [device, time] = device(device_name);
            let parts = [device, time, Part::Floats(&temps), Part::Texts(&texts)];
            together.push_columns(3, &parts).unwrap();
        }
        let [device, when] = device("LGA");
        let (floats, texts) = (Part::Floats(&temps), Part::Texts(&texts));
        let null = same(Value::Null);
        for (count, parts) in [
            (2, [device, when, floats, texts]),
            (3, [device, when, texts, texts]),
            (3, [floats, when, floats, texts]),
            (3, [device, device, floats, texts]),
            (3, [device, floats, floats, texts]),
            (3, [device, null, floats, texts]),
            (3, [null, when, floats, texts]),
            (3, [device, same(Timestamp::from_micros(i64::MAX).into()), floats, texts]),
            (3, [device, when, same("x".into()), texts]),
        ] {
            assert!(together.push_columns(count, &parts).is_err(), "{parts:?}");
        }
        assert!(together.push_columns(3, &[device, when, floats]).is_err());
        assert_eq!(together.len(), 6);
        assert_eq!(together.finish().unwrap(), one_by_one.finish().unwrap());
    }

    #[test]
    fn a_description_that_cannot_work_is_refused() {
        let change = |change: fn(&mut TableSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.check()
        };
        assert!(change(|_| ()).is_ok());
        assert!(change(|spec| spec.name = "Readings".into()).is_err());
        assert!(change(|spec| spec.name = "../up".into()).is_err());
        assert!(change(|spec| spec.columns[2].0 = "day".into()).is_err());
        assert!(change(|spec| spec.columns[2].0 = "device".into()).is_err());
        assert!(change(|spec| spec.day_of = "temp".into()).is_err());
        assert!(change(|spec| spec.identity = vec!["device".into()]).is_err());
        assert!(change(|spec| spec.identity.push("temp".into())).is_err());
        assert!(change(|spec| spec.identity.push("nowhere".into())).is_err());
    }

    #[test]
    fn a_day_is_read_as_it_is_written() {
        assert_eq!(day_from("1970-01-02"), Some(1));
        assert_eq!(day_from("1969-12-31"), Some(-1));
        assert_eq!(day_of(-1), -1);
        assert_eq!(day_from("today"), None);
    }
}
