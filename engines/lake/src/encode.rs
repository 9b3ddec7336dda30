use std::io::Write;

use base::Timestamp;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::Error;
use crate::answer::{Answer, Body};

pub(crate) fn json(answer: &Answer) -> Body {
    let mut bytes = b"{\"columns\":[".to_vec();
    for (index, column) in answer.columns.iter().enumerate() {
        separate(&mut bytes, index);
        bytes.extend_from_slice(b"{\"name\":");
        write_text(&mut bytes, &column.name);
        bytes.extend_from_slice(b",\"type\":");
        write_text(&mut bytes, &column.type_name);
        bytes.push(b'}');
    }
    bytes.extend_from_slice(b"],\"rows\":[");
    let mut first = true;
    let truncated = write_rows(answer, &mut bytes, |bytes, columns, row| {
        if !std::mem::take(&mut first) {
            bytes.push(b',');
        }
        bytes.push(b'[');
        for (index, column) in columns.iter().enumerate() {
            separate(bytes, index);
            write_json(bytes, column, row);
        }
        bytes.push(b']');
    });
    let end = format!("],\"truncated\":{truncated}}}");
    bytes.extend_from_slice(end.as_bytes());
    Body { bytes, truncated }
}

pub(crate) fn csv(answer: &Answer) -> Body {
    let mut bytes = Vec::new();
    for (index, column) in answer.columns.iter().enumerate() {
        separate(&mut bytes, index);
        write_field(&mut bytes, column.name.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    let mut field = Vec::new();
    let truncated = write_rows(answer, &mut bytes, |bytes, columns, row| {
        for (index, column) in columns.iter().enumerate() {
            separate(bytes, index);
            if column.is_null(row) {
                continue;
            }
            field.clear();
            write_plain(&mut field, column, row);
            write_field(bytes, &field);
        }
        bytes.extend_from_slice(b"\r\n");
    });
    Body { bytes, truncated }
}

pub(crate) fn arrow(answer: &Answer) -> Result<Body, Error> {
    let failed = |error| Error::internal("write an Arrow stream", error);
    let mut writer = StreamWriter::try_new(Vec::new(), &answer.schema).map_err(failed)?;
    let mut truncated = answer.truncated;
    for batch in &answer.batches {
        if writer.get_ref().len() >= answer.bytes_max {
            truncated = true;
            break;
        }
        writer.write(batch).map_err(failed)?;
    }
    Ok(Body { bytes: writer.into_inner().map_err(failed)?, truncated })
}

/// Calls `write` for every row while there is room; a row that passes the limit is taken back.
fn write_rows(
    answer: &Answer,
    bytes: &mut Vec<u8>,
    mut write: impl FnMut(&mut Vec<u8>, &[ArrayRef], usize),
) -> bool {
    for batch in &answer.batches {
        let columns = readable(batch);
        for row in 0..batch.num_rows() {
            let before = bytes.len();
            write(bytes, &columns, row);
            if bytes.len() > answer.bytes_max {
                bytes.truncate(before);
                return true;
            }
        }
    }
    answer.truncated
}

/// Dictionaries are unpacked, so that writing knows fewer types.
fn readable(batch: &RecordBatch) -> Vec<ArrayRef> {
    let unpack = |column: &ArrayRef| match column.data_type() {
        DataType::Dictionary(_, values) => cast(column, values).unwrap_or_else(|_| column.clone()),
        _ => column.clone(),
    };
    batch.columns().iter().map(unpack).collect()
}

fn separate(bytes: &mut Vec<u8>, index: usize) {
    if index > 0 {
        bytes.push(b',');
    }
}

fn write_json(bytes: &mut Vec<u8>, column: &ArrayRef, row: usize) {
    if column.is_null(row) {
        bytes.extend_from_slice(b"null");
        return;
    }
    match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let number = float_at(column, row);
            if number.is_finite() {
                write_plain(bytes, column, row);
            } else {
                bytes.extend_from_slice(b"null");
            }
        }
        kind if kind.is_integer() || kind.is_decimal() || *kind == DataType::Boolean => {
            write_plain(bytes, column, row);
        }
        DataType::List(_) => write_list(bytes, &column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => write_list(bytes, &column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(_, _) => {
            write_list(bytes, &column.as_fixed_size_list().value(row));
        }
        DataType::Struct(fields) => {
            bytes.push(b'{');
            let values = column.as_struct().columns();
            for (index, (field, values)) in fields.iter().zip(values).enumerate() {
                separate(bytes, index);
                write_text(bytes, field.name());
                bytes.push(b':');
                write_json(bytes, values, row);
            }
            bytes.push(b'}');
        }
        DataType::Map(_, _) => {
            let entries = column.as_map().value(row);
            bytes.push(b'{');
            for entry in 0..entries.len() {
                separate(bytes, entry);
                let mut key = Vec::new();
                write_plain(&mut key, entries.column(0), entry);
                write_text(bytes, &String::from_utf8_lossy(&key));
                bytes.push(b':');
                write_json(bytes, entries.column(1), entry);
            }
            bytes.push(b'}');
        }
        _ => {
            let mut text = Vec::new();
            write_plain(&mut text, column, row);
            write_text(bytes, &String::from_utf8_lossy(&text));
        }
    }
}

fn write_list(bytes: &mut Vec<u8>, items: &ArrayRef) {
    bytes.push(b'[');
    for index in 0..items.len() {
        separate(bytes, index);
        write_json(bytes, items, index);
    }
    bytes.push(b']');
}

/// The value without quotes.
fn write_plain(bytes: &mut Vec<u8>, column: &ArrayRef, row: usize) {
    match column.data_type() {
        DataType::Utf8 => bytes.extend_from_slice(column.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => {
            bytes.extend_from_slice(column.as_string::<i64>().value(row).as_bytes());
        }
        DataType::Utf8View => {
            bytes.extend_from_slice(column.as_string_view().value(row).as_bytes());
        }
        DataType::Timestamp(unit, _) => {
            let time = Timestamp::from_micros(micros_at(column, *unit, row));
            let _ = write!(bytes, "{time}");
        }
        DataType::Float64 => {
            // The shortest text that reads back as the same number.
            let _ = write!(bytes, "{:?}", column.as_primitive::<Float64Type>().value(row));
        }
        kind if kind.is_nested() => write_json(bytes, column, row),
        _ => {
            let options = FormatOptions::default();
            if let Ok(formatter) = ArrayFormatter::try_new(column, &options) {
                let _ = write!(bytes, "{}", formatter.value(row));
            }
        }
    }
}

fn float_at(column: &ArrayRef, row: usize) -> f64 {
    match column.data_type() {
        DataType::Float16 => column.as_primitive::<Float16Type>().value(row).to_f64(),
        DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
        _ => column.as_primitive::<Float64Type>().value(row),
    }
}

fn micros_at(column: &ArrayRef, unit: TimeUnit, row: usize) -> i64 {
    match unit {
        TimeUnit::Second => {
            column.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000_000)
        }
        TimeUnit::Millisecond => {
            column.as_primitive::<TimestampMillisecondType>().value(row).saturating_mul(1_000)
        }
        TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().value(row),
        TimeUnit::Nanosecond => {
            column.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000)
        }
    }
}

/// A JSON string.
fn write_text(bytes: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(&mut *bytes, text).expect("writing to memory cannot fail");
}

/// A CSV field, quoted when it must be.
fn write_field(bytes: &mut Vec<u8>, field: &[u8]) {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
    if !field.is_empty() && !field.iter().any(special) {
        bytes.extend_from_slice(field);
        return;
    }
    bytes.push(b'"');
    for byte in field {
        if *byte == b'"' {
            bytes.push(b'"');
        }
        bytes.push(*byte);
    }
    bytes.push(b'"');
}
