use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};

use crate::Error;
use crate::encode;

/// What a query found.
#[derive(Debug, Clone)]
pub struct Answer {
    pub columns: Vec<Column>,
    /// Rows are missing: a limit was reached.
    pub truncated: bool,
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) bytes_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As SQL users know it: `text`, `timestamp`, `double`, `bigint`, …
    pub type_name: String,
}

/// How an answer is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{"columns":[{"name","type"}],"rows":[[…]],"truncated":false}`.
    Json,
    /// RFC 4180, with a header; null is an empty field, an empty text is `""`.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

/// An answer as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    /// Rows are missing: a limit was reached.
    pub truncated: bool,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

impl Answer {
    pub(crate) fn new(schema: SchemaRef, bytes_max: usize) -> Self {
        let columns = schema.fields().iter().map(|field| Column {
            name: field.name().clone(),
            type_name: type_name(field.data_type()),
        });
        Self {
            columns: columns.collect(),
            truncated: false,
            schema,
            batches: Vec::new(),
            bytes_max,
        }
    }

    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Keeps a thread busy for as long as the answer is large; [`crate::Lake::query_encoded`] does not.
    pub fn encode(&self, format: Format) -> Result<Body, Error> {
        match format {
            Format::Json => Ok(self.to_json()),
            Format::Csv => Ok(self.to_csv()),
            Format::Arrow => self.to_arrow(),
        }
    }

    pub fn to_json(&self) -> Body {
        encode::json(self)
    }

    pub fn to_csv(&self) -> Body {
        encode::csv(self)
    }

    pub fn to_arrow(&self) -> Result<Body, Error> {
        encode::arrow(self)
    }
}

fn type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 => "unsigned bigint",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "bytea",
        DataType::Timestamp(_, _) => "timestamp",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time",
        DataType::Duration(_) | DataType::Interval(_) => "interval",
        DataType::Decimal32(_, _)
        | DataType::Decimal64(_, _)
        | DataType::Decimal128(_, _)
        | DataType::Decimal256(_, _) => "numeric",
        DataType::Dictionary(_, values) => return type_name(values),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => return format!("{}[]", type_name(item.data_type())),
        _ => "json",
    };
    name.to_owned()
}
