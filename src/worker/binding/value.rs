//! Owns single values on their way into a statement's parameters.

use duckdb::ffi;

use super::{EngineError, EngineResult, ErrorKind};

/// One value to bind, each variant of the SQL type of its name. Times count in the unit that the variant names, from midnight or from 1970-01-01.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Boolean(bool),
    TinyInt(i8),
    SmallInt(i16),
    Integer(i32),
    BigInt(i64),
    UTinyInt(u8),
    USmallInt(u16),
    UInteger(u32),
    UBigInt(u64),
    Float(f32),
    Double(f64),
    Decimal { value: i128, precision: u8, scale: u8 },
    Varchar(&'a str),
    Blob(&'a [u8]),
    Date { days: i32 },
    TimeMicros(i64),
    TimeNanos(i64),
    TimestampSeconds(i64),
    TimestampMillis(i64),
    TimestampMicros(i64),
    TimestampNanos(i64),
    TimestampTzMicros(i64),
    Interval { months: i32, days: i32, micros: i64 },
}

/// A value of DuckDB that we own.
pub(super) struct Value(pub(super) ffi::duckdb_value);

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed once.
        unsafe { ffi::duckdb_destroy_value(&mut self.0) }
    }
}

impl Scalar<'_> {
    pub(super) fn to_value(&self) -> EngineResult<Value> {
        // SAFETY: each call copies what it is given; texts and bytes come with their length.
        let raw = unsafe {
            match *self {
                Self::Null => ffi::duckdb_create_null_value(),
                Self::Boolean(v) => ffi::duckdb_create_bool(v),
                Self::TinyInt(v) => ffi::duckdb_create_int8(v),
                Self::SmallInt(v) => ffi::duckdb_create_int16(v),
                Self::Integer(v) => ffi::duckdb_create_int32(v),
                Self::BigInt(v) => ffi::duckdb_create_int64(v),
                Self::UTinyInt(v) => ffi::duckdb_create_uint8(v),
                Self::USmallInt(v) => ffi::duckdb_create_uint16(v),
                Self::UInteger(v) => ffi::duckdb_create_uint32(v),
                Self::UBigInt(v) => ffi::duckdb_create_uint64(v),
                Self::Float(v) => ffi::duckdb_create_float(v),
                Self::Double(v) => ffi::duckdb_create_double(v),
                Self::Decimal { value, precision, scale } => {
                    ffi::duckdb_create_decimal(ffi::duckdb_decimal { width: precision, scale, value: hugeint(value) })
                }
                Self::Varchar(text) => ffi::duckdb_create_varchar_length(text.as_ptr().cast(), text.len() as u64),
                Self::Blob(bytes) => ffi::duckdb_create_blob(bytes.as_ptr(), bytes.len() as u64),
                Self::Date { days } => ffi::duckdb_create_date(ffi::duckdb_date { days }),
                Self::TimeMicros(micros) => ffi::duckdb_create_time(ffi::duckdb_time { micros }),
                Self::TimeNanos(nanos) => ffi::duckdb_create_time_ns(ffi::duckdb_time_ns { nanos }),
                Self::TimestampSeconds(seconds) => ffi::duckdb_create_timestamp_s(ffi::duckdb_timestamp_s { seconds }),
                Self::TimestampMillis(millis) => ffi::duckdb_create_timestamp_ms(ffi::duckdb_timestamp_ms { millis }),
                Self::TimestampMicros(micros) => ffi::duckdb_create_timestamp(ffi::duckdb_timestamp { micros }),
                Self::TimestampNanos(nanos) => ffi::duckdb_create_timestamp_ns(ffi::duckdb_timestamp_ns { nanos }),
                Self::TimestampTzMicros(micros) => ffi::duckdb_create_timestamp_tz(ffi::duckdb_timestamp { micros }),
                Self::Interval { months, days, micros } => {
                    ffi::duckdb_create_interval(ffi::duckdb_interval { months, days, micros })
                }
            }
        };
        if raw.is_null() {
            return Err(EngineError::new(ErrorKind::Invalid, "DuckDB does not take this value".to_owned()));
        }
        Ok(Value(raw))
    }
}

fn hugeint(value: i128) -> ffi::duckdb_hugeint {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "split into halves")]
    ffi::duckdb_hugeint { lower: value as u64, upper: (value >> 64) as i64 }
}
