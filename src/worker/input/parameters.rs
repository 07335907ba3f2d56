//! Owns a statement's parameters: how they are described to a client, and how Arrow values are bound. Refuses to run anything.

use std::io::Cursor;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Field, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit,
    IntervalYearMonthType, Schema, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_ipc::reader::StreamReader;

use super::{DO_NOT_FIT, survived};
use crate::wire::proto::failure::Kind;
use crate::worker::binding::{Connection, LogicalType, Prepared, Scalar};
use crate::worker::failure::StatementError;
use crate::worker::output::types::{SchemaSize, client_type};

/// More of them are a list that should be a table. DuckDB takes the longer to tell one of them, the more there are.
const MAX_PARAMETERS: usize = 20_000;

/// The rows of parameters that came with a request: a row an execution.
pub struct ParameterRows {
    batches: Vec<RecordBatch>,
    rows: usize,
}

impl ParameterRows {
    /// Decodes an Arrow IPC stream; no bytes, or a stream without columns, mean one execution without parameters.
    pub fn decode(stream: &[u8]) -> Result<Option<Self>, StatementError> {
        if stream.is_empty() {
            return Ok(None);
        }
        let unreadable = |reason: &dyn std::fmt::Display| {
            StatementError::new(Kind::Parameters, format!("the parameters are no Arrow stream: {reason}"))
        };
        let read = || {
            let reader = StreamReader::try_new(Cursor::new(stream), None)?;
            if reader.schema().fields().is_empty() { Ok(None) } else { reader.collect::<Result<Vec<_>, _>>().map(Some) }
        };
        let batches = survived(read).ok_or_else(|| unreadable(&DO_NOT_FIT))?.map_err(|error| unreadable(&error))?;
        let Some(batches) = batches else { return Ok(None) };
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        Ok(Some(Self { batches, rows }))
    }

    /// How many executions they ask for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// The one row that a query takes.
    pub fn only(&self) -> Result<(&RecordBatch, usize), StatementError> {
        let mut rows = self.iter();
        match (rows.next(), rows.next()) {
            (Some(row), None) => Ok(row),
            _ => Err(StatementError::new(Kind::Parameters, format!("a query takes one row of parameters, {} given", self.rows))),
        }
    }

    /// Each row as batch and place in it.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordBatch, usize)> {
        self.batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)))
    }
}

/// The parameters as clients see them: nullable, text where neither the statement nor a cast settles a type, and times of day and
/// timestamps in milliseconds: the JDBC driver writes milliseconds whatever the unit says. Who has finer values binds them in their
/// own type.
pub fn describe(connection: &Connection, statement: &Prepared, casts: &[(String, String)]) -> Result<Schema, StatementError> {
    let count = statement.parameter_count();
    if count > MAX_PARAMETERS {
        let message =
            format!("the statement has {count} parameters; the most is {MAX_PARAMETERS}: ingest long lists into a table");
        return Err(StatementError::new(Kind::Parameters, message));
    }
    // One of them may have the type of a large struct that all are compared with.
    let mut size = SchemaSize::default();
    let fields = (0..count)
        .map(|at| {
            let (name, logical) = statement.parameter(at);
            let logical = logical.or_else(|| cast_type(connection, casts, &name));
            let data_type = match logical {
                Some(logical) => in_milliseconds(client_type(&connection.arrow_type(logical)?)),
                None => DataType::Utf8,
            };
            let field = Field::new(name, data_type, true);
            size.add(&field)?;
            Ok(field)
        })
        .collect::<Result<Vec<_>, StatementError>>()?;
    Ok(Schema::new(fields))
}

/// The type that a parameter is cast to.
fn cast_type(connection: &Connection, casts: &[(String, String)], name: &str) -> Option<LogicalType> {
    let (_, null) = casts.iter().find(|(cast, _)| cast == name)?;
    let columns = connection.prepare(&format!("SELECT {null}")).ok()?.columns()?;
    columns.into_iter().next().map(|(_, logical)| logical)
}

fn in_milliseconds(data_type: DataType) -> DataType {
    match data_type {
        DataType::Time64(_) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone),
        other => other,
    }
}

/// Checks that the number of values is the one that the statement takes.
pub fn check_count(statement: &Prepared, given: usize) -> Result<(), StatementError> {
    let expected = statement.parameter_count();
    if expected == given {
        return Ok(());
    }
    Err(StatementError::new(Kind::Parameters, format!("the statement takes {expected} parameter(s), {given} given")))
}

/// Binds one row.
pub fn bind(connection: &Connection, statement: &mut Prepared, batch: &RecordBatch, row: usize) -> Result<(), StatementError> {
    check_count(statement, batch.num_columns())?;
    for (at, column) in batch.columns().iter().enumerate() {
        let (name, logical) = statement.parameter(at);
        let expected = logical.map(|logical| connection.arrow_type(logical)).transpose()?;
        let value = single(column, row, expected.as_ref()).map_err(|e| unusable(&name, column.data_type(), &e.to_string()))?;
        let scalar = scalar(value.as_ref()).map_err(|reason| unusable(&name, column.data_type(), &reason))?;
        statement.bind(at, &scalar)?;
    }
    Ok(())
}

/// Text for each parameter without a type, NULL for the others, so that a result's columns can be told before real values are there.
pub fn bind_text(statement: &mut Prepared, casts: &[(String, String)]) -> Result<(), StatementError> {
    for at in 0..statement.parameter_count() {
        let (name, logical) = statement.parameter(at);
        let is_typed = logical.is_some() || casts.iter().any(|(cast, _)| *cast == name);
        let scalar = if is_typed { Scalar::Null } else { Scalar::Varchar("") };
        statement.bind(at, &scalar)?;
    }
    Ok(())
}

/// NULL for each parameter; DuckDB makes a column of nothing but such a one an integer.
pub fn bind_nulls(statement: &mut Prepared) -> Result<(), StatementError> {
    for at in 0..statement.parameter_count() {
        statement.bind(at, &Scalar::Null)?;
    }
    Ok(())
}

fn unusable(name: &str, data_type: &DataType, reason: &str) -> StatementError {
    StatementError::new(Kind::Parameters, format!("parameter {name} of type {data_type} cannot be used: {reason}"))
}

/// One value as an array of one row, in the statement's own type where that loses nothing: a comparison in another type would cast
/// the column, and lose the filter's push-down.
fn single(column: &ArrayRef, row: usize, expected: Option<&DataType>) -> Result<ArrayRef, arrow::error::ArrowError> {
    let row = u32::try_from(row).map_err(|_| arrow::error::ArrowError::InvalidArgumentError("too many rows".to_owned()))?;
    let value = take(column, &UInt32Array::from(vec![row]), None)?;
    let value = match value.data_type() {
        DataType::Dictionary(_, values) => cast(&value, &values.clone())?,
        _ => value,
    };
    let Some(expected) = expected.filter(|expected| comparable(value.data_type(), expected)) else {
        return Ok(value);
    };
    let converted = cast(&value, expected).and_then(|there| Ok((cast(&there, value.data_type())?, there)));
    Ok(match converted {
        Ok((back, there)) if *back == *value => there,
        _ => value,
    })
}

/// Types between which a value may be carried over when nothing of it is lost.
fn comparable(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Date64, Timestamp};
    if from == to {
        return false;
    }
    match (from, to) {
        (Timestamp(_, from_zone), Timestamp(_, to_zone)) => from_zone.is_some() == to_zone.is_some(),
        (Date32 | Date64, Date32 | Date64) => true,
        _ => from.is_numeric() && to.is_numeric(),
    }
}

/// The one value of an array as DuckDB takes it.
fn scalar(array: &dyn Array) -> Result<Scalar<'_>, String> {
    if array.is_null(0) || *array.data_type() == DataType::Null {
        return Ok(Scalar::Null);
    }
    Ok(match array.data_type() {
        DataType::Boolean => Scalar::Boolean(array.as_boolean().value(0)),
        DataType::Int8 => Scalar::TinyInt(array.as_primitive::<Int8Type>().value(0)),
        DataType::Int16 => Scalar::SmallInt(array.as_primitive::<Int16Type>().value(0)),
        DataType::Int32 => Scalar::Integer(array.as_primitive::<Int32Type>().value(0)),
        DataType::Int64 => Scalar::BigInt(array.as_primitive::<Int64Type>().value(0)),
        DataType::UInt8 => Scalar::UTinyInt(array.as_primitive::<UInt8Type>().value(0)),
        DataType::UInt16 => Scalar::USmallInt(array.as_primitive::<UInt16Type>().value(0)),
        DataType::UInt32 => Scalar::UInteger(array.as_primitive::<UInt32Type>().value(0)),
        DataType::UInt64 => Scalar::UBigInt(array.as_primitive::<UInt64Type>().value(0)),
        DataType::Float16 => Scalar::Float(array.as_primitive::<Float16Type>().value(0).to_f32()),
        DataType::Float32 => Scalar::Float(array.as_primitive::<Float32Type>().value(0)),
        DataType::Float64 => Scalar::Double(array.as_primitive::<Float64Type>().value(0)),
        DataType::Decimal32(p, s) => decimal(array.as_primitive::<Decimal32Type>().value(0).into(), *p, *s)?,
        DataType::Decimal64(p, s) => decimal(array.as_primitive::<Decimal64Type>().value(0).into(), *p, *s)?,
        DataType::Decimal128(p, s) => decimal(array.as_primitive::<Decimal128Type>().value(0), *p, *s)?,
        DataType::Utf8 => Scalar::Varchar(array.as_string::<i32>().value(0)),
        DataType::LargeUtf8 => Scalar::Varchar(array.as_string::<i64>().value(0)),
        DataType::Utf8View => Scalar::Varchar(array.as_string_view().value(0)),
        DataType::Binary => Scalar::Blob(array.as_binary::<i32>().value(0)),
        DataType::LargeBinary => Scalar::Blob(array.as_binary::<i64>().value(0)),
        DataType::BinaryView => Scalar::Blob(array.as_binary_view().value(0)),
        DataType::FixedSizeBinary(_) => Scalar::Blob(array.as_fixed_size_binary().value(0)),
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => {
            temporal(array)?
        }
        DataType::Interval(unit) => interval(array, *unit),
        DataType::Duration(_) => return Err("bind an INTERVAL or a number instead".to_owned()),
        _ => {
            return Err(
                "only single values can be bound, not lists, structs or maps: pass text and cast it in the statement".to_owned()
            );
        }
    })
}

fn decimal(value: i128, precision: u8, scale: i8) -> Result<Scalar<'static>, String> {
    let scale = u8::try_from(scale).map_err(|_| "decimals with a negative scale are not supported".to_owned())?;
    Ok(Scalar::Decimal { value, precision, scale })
}

fn interval(array: &dyn Array, unit: IntervalUnit) -> Scalar<'static> {
    match unit {
        IntervalUnit::YearMonth => {
            Scalar::Interval { months: array.as_primitive::<IntervalYearMonthType>().value(0), days: 0, micros: 0 }
        }
        IntervalUnit::DayTime => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(0);
            Scalar::Interval { months: 0, days: value.days, micros: i64::from(value.milliseconds) * 1000 }
        }
        IntervalUnit::MonthDayNano => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
            Scalar::Interval { months: value.months, days: value.days, micros: value.nanoseconds / 1000 }
        }
    }
}

fn temporal(array: &dyn Array) -> Result<Scalar<'static>, String> {
    Ok(match array.data_type() {
        DataType::Date32 => Scalar::Date { days: array.as_primitive::<Date32Type>().value(0) },
        DataType::Date64 => {
            let days = array.as_primitive::<Date64Type>().value(0).div_euclid(86_400_000);
            Scalar::Date { days: i32::try_from(days).map_err(|_| "the date is out of range".to_owned())? }
        }
        DataType::Time32(TimeUnit::Second) => {
            Scalar::TimeMicros(i64::from(array.as_primitive::<Time32SecondType>().value(0)) * 1_000_000)
        }
        DataType::Time32(_) => Scalar::TimeMicros(i64::from(array.as_primitive::<Time32MillisecondType>().value(0)) * 1000),
        DataType::Time64(TimeUnit::Nanosecond) => Scalar::TimeNanos(array.as_primitive::<Time64NanosecondType>().value(0)),
        DataType::Time64(_) => Scalar::TimeMicros(array.as_primitive::<Time64MicrosecondType>().value(0)),
        DataType::Timestamp(unit, zone) => timestamp(array, *unit, zone.is_some())?,
        other => return Err(format!("{other} is no time")),
    })
}

fn timestamp(array: &dyn Array, unit: TimeUnit, with_zone: bool) -> Result<Scalar<'static>, String> {
    let out_of_range = || "the timestamp is out of range".to_owned();
    let value = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(0),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(0),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(0),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(0),
    };
    if with_zone {
        let micros = match unit {
            TimeUnit::Second => value.checked_mul(1_000_000).ok_or_else(out_of_range)?,
            TimeUnit::Millisecond => value.checked_mul(1000).ok_or_else(out_of_range)?,
            TimeUnit::Microsecond => value,
            TimeUnit::Nanosecond => value.div_euclid(1000),
        };
        return Ok(Scalar::TimestampTzMicros(micros));
    }
    Ok(match unit {
        TimeUnit::Second => Scalar::TimestampSeconds(value),
        TimeUnit::Millisecond => Scalar::TimestampMillis(value),
        TimeUnit::Microsecond => Scalar::TimestampMicros(value),
        TimeUnit::Nanosecond => Scalar::TimestampNanos(value),
    })
}
