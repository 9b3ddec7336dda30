use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, exec_datafusion_err, resources_datafusion_err};
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

/// How this part's refusals are told from others of the same kind.
pub(crate) const TOO_MANY: &str = "values of one call";

/// Replaces the functions that make much of little: what they allocate is in no memory limit, and an
/// allocation that fails ends the process.
pub(crate) fn bound(state: &mut SessionState, values_max: usize) -> Result<()> {
    let growing = [
        ("repeat", Growth::Text),
        ("lpad", Growth::Second),
        ("rpad", Growth::Second),
        ("array_repeat", Growth::Second),
        ("array_resize", Growth::Second),
        ("range", Growth::Range),
        ("generate_series", Growth::Range),
    ];
    for (name, growth) in growing {
        let inner = state.udf(name)?;
        let bounded = Bounded { inner, growth, values_max };
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(bounded)))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
    values_max: usize,
}

/// What decides how large a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// The length of the first argument times the second.
    Text,
    /// The second argument.
    Second,
    /// From the first to the second argument in steps of the third.
    Range,
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let mut total = 0.0;
        for row in 0..rows {
            let values = args.args.iter().map(|arg| match arg {
                ColumnarValue::Scalar(value) => Ok(value.clone()),
                ColumnarValue::Array(values) => ScalarValue::try_from_array(values, row),
            });
            total += self.growth.values(&values.collect::<Result<Vec<_>>>()?);
            if total > self.values_max as f64 {
                let name = self.inner.name();
                let max = self.values_max;
                return Err(resources_datafusion_err!("{name} makes over {max} {TOO_MANY}"));
            }
        }
        Ok(())
    }
}

impl Growth {
    /// Nothing for arguments that are null or that the function itself refuses.
    fn values(self, args: &[ScalarValue]) -> f64 {
        let number = |index: usize| args.get(index).and_then(magnitude);
        match (self, args) {
            (Self::Text, [text, _]) => {
                let length = text.try_as_str().flatten().map_or(0, str::len);
                length as f64 * number(1).unwrap_or(0.0)
            }
            (Self::Second, _) => number(1).unwrap_or(0.0),
            (Self::Range, [_]) => number(0).unwrap_or(0.0).abs(),
            (Self::Range, _) => {
                let (Some(from), Some(to)) = (number(0), number(1)) else { return 0.0 };
                let step = number(2).unwrap_or(1.0).abs();
                if step > 0.0 { (to - from).abs() / step } else { 0.0 }
            }
            (Self::Text, _) => 0.0,
        }
    }
}

/// A number as it is; times and intervals in seconds.
fn magnitude(value: &ScalarValue) -> Option<f64> {
    const DAY: f64 = 86_400.0;
    Some(match value {
        ScalarValue::IntervalMonthDayNano(Some(step)) => {
            let days = f64::from(step.months) * 28.0 + f64::from(step.days);
            days * DAY + step.nanoseconds as f64 / 1e9
        }
        ScalarValue::IntervalDayTime(Some(step)) => {
            f64::from(step.days) * DAY + f64::from(step.milliseconds) / 1e3
        }
        ScalarValue::IntervalYearMonth(Some(months)) => f64::from(*months) * 28.0 * DAY,
        ScalarValue::Date32(Some(days)) => f64::from(*days) * DAY,
        ScalarValue::Date64(Some(millis)) => *millis as f64 / 1e3,
        ScalarValue::TimestampSecond(Some(time), _) => *time as f64,
        ScalarValue::TimestampMillisecond(Some(time), _) => *time as f64 / 1e3,
        ScalarValue::TimestampMicrosecond(Some(time), _) => *time as f64 / 1e6,
        ScalarValue::TimestampNanosecond(Some(time), _) => *time as f64 / 1e9,
        other => match other.cast_to(&DataType::Float64).ok()? {
            ScalarValue::Float64(number) => number?,
            _ => return None,
        },
    })
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args.is_empty() {
            return Err(exec_datafusion_err!("{} needs arguments", self.name()));
        }
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
