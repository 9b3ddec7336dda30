use std::borrow::Cow;
use std::sync::Arc;

use base::{Id, Timestamp};

/// What a column can hold, the same on every database: booleans are 0 and 1, moments are microseconds,
/// ids are text.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Int(_) => "an integer",
            Self::Real(_) => "a float",
            Self::Text(_) => "text",
            Self::Blob(_) => "bytes",
        }
    }
}

/// What can be given to a statement. Taken by reference, so that a closure can run again.
pub trait ToValue {
    fn to_value(&self) -> Value;
}

/// What can be read from a column.
pub trait FromValue: Sized {
    /// For messages: `text`, `an id`.
    const WANTED: &'static str;

    /// Nothing when the value is something else.
    fn from_value(value: &Value) -> Option<Self>;
}

/// The parameters of a statement: `params![name, &other, 3_i64]`. Takes each by reference.
#[macro_export]
macro_rules! params {
    () => { &([] as [$crate::Value; 0]) };
    ($($value:expr),+ $(,)?) => { &[$($crate::ToValue::to_value(&$value)),+] };
}

macro_rules! to_value {
    ($($type:ty: $value:ident => $made:expr;)+) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                let $value = self;
                $made
            }
        }
    )+};
}

to_value! {
    i64: value => Value::Int(*value);
    i32: value => Value::Int(i64::from(*value));
    i16: value => Value::Int(i64::from(*value));
    u32: value => Value::Int(i64::from(*value));
    u16: value => Value::Int(i64::from(*value));
    u8: value => Value::Int(i64::from(*value));
    f64: value => Value::Real(*value);
    f32: value => Value::Real(f64::from(*value));
    bool: value => Value::Int(i64::from(*value));
    str: value => Value::Text(value.to_owned());
    String: value => Value::Text(value.clone());
    Arc<str>: value => Value::Text((**value).to_owned());
    Cow<'_, str>: value => Value::Text(value.clone().into_owned());
    [u8]: value => Value::Blob(value.to_owned());
    Vec<u8>: value => Value::Blob(value.clone());
    bytes::Bytes: value => Value::Blob(value.to_vec());
    Timestamp: value => Value::Int(value.micros());
    Value: value => value.clone();
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Value {
        Value::Blob(self.to_vec())
    }
}

impl<Kind> ToValue for Id<Kind> {
    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value {
        (**self).to_value()
    }
}

macro_rules! from {
    ($($type:ty),+ $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                value.to_value()
            }
        }
    )+};
}

from!(i64, i32, i16, u32, u16, u8, f64, f32, bool, &str, &String, &[u8], Timestamp);

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Blob(value)
    }
}

impl<Kind> From<Id<Kind>> for Value {
    fn from(value: Id<Kind>) -> Self {
        value.to_value()
    }
}

impl<T> From<Option<T>> for Value
where
    Self: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

macro_rules! from_integer {
    ($($type:ty: $wanted:literal),+ $(,)?) => {$(
        impl FromValue for $type {
            const WANTED: &'static str = $wanted;

            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Int(number) => Self::try_from(*number).ok(),
                    _ => None,
                }
            }
        }
    )+};
}

from_integer! {
    i64: "a 64-bit integer",
    u64: "an integer that is not negative",
    i32: "a 32-bit integer",
    u32: "a 32-bit integer that is not negative",
    u16: "a 16-bit integer that is not negative",
    u8: "an integer between 0 and 255",
    usize: "a size",
}

impl FromValue for f64 {
    const WANTED: &'static str = "a number";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Real(number) => Some(*number),
            Value::Int(number) => Some(*number as Self),
            _ => None,
        }
    }
}

impl FromValue for bool {
    const WANTED: &'static str = "0 or 1";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(0) => Some(false),
            Value::Int(1) => Some(true),
            _ => None,
        }
    }
}

impl FromValue for String {
    const WANTED: &'static str = "text";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromValue for Vec<u8> {
    const WANTED: &'static str = "bytes";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl FromValue for Timestamp {
    const WANTED: &'static str = "a moment in microseconds";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(micros) => Some(Self::from_micros(*micros)),
            _ => None,
        }
    }
}

impl<Kind> FromValue for Id<Kind> {
    const WANTED: &'static str = "an id";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl FromValue for Value {
    const WANTED: &'static str = "a value";

    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const WANTED: &'static str = T::WANTED;

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
