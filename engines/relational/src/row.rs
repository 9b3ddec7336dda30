use std::sync::Arc;

use crate::{Error, FromValue, Value};

/// One row of an answer.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[Box<str>]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(columns: Arc<[Box<str>]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The column's value as a `T`; an error names the column and both types.
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T, Error> {
        let value = self.value(column)?;
        T::from_value(value).ok_or_else(|| Error::Column {
            column: column.to_owned(),
            found: value.type_name(),
            wanted: T::WANTED,
        })
    }

    /// The column's value as it is.
    pub fn value(&self, column: &str) -> Result<&Value, Error> {
        let place = self.columns.iter().position(|name| **name == *column);
        let value = place.and_then(|place| self.values.get(place));
        value.ok_or_else(|| Error::NoColumn {
            column: column.to_owned(),
            columns: self.columns.join(", "),
        })
    }

    /// Names and values, in the order of the query.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.columns.iter().map(|name| &**name).zip(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use base::OrganisationId;

    use super::*;

    #[test]
    fn a_value_of_another_type_is_refused_with_the_column_and_both_types() {
        let row = Row::new(
            Arc::from(["name".into(), "age".into(), "left".into()]),
            vec![Value::Text("Mina".into()), Value::Int(41), Value::Null],
        );
        assert_eq!(row.get::<String>("name").unwrap(), "Mina");
        assert_eq!(row.get::<Option<i64>>("left").unwrap(), None);
        assert!((row.get::<f64>("age").unwrap() - 41.0).abs() < f64::EPSILON);
        let cases = [
            (
                row.get::<i64>("name").unwrap_err(),
                "column name holds text, wanted a 64-bit integer",
            ),
            (row.get::<String>("left").unwrap_err(), "column left holds null, wanted text"),
            (row.get::<bool>("age").unwrap_err(), "column age holds an integer, wanted 0 or 1"),
            (row.get::<u8>("ages").unwrap_err(), "no column ages among name, age, left"),
            (
                row.get::<OrganisationId>("name").unwrap_err(),
                "column name holds text, wanted an id",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
