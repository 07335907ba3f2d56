//! Owns which Arrow types an ingest takes, in which form DuckDB gets them, and which of them Iceberg has. Refuses to look at tables.

use std::fmt::Display;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::wire::proto::failure::Kind;
use crate::worker::binding::Connection;
use crate::worker::failure::StatementError;

/// Metadata key and value of Arrow's own UUID type, which is 16 bytes otherwise.
const EXTENSION: (&str, &str) = ("ARROW:extension:name", "arrow.uuid");

/// How a client's columns go into DuckDB.
pub struct FedSchema {
    schema: SchemaRef,
}

impl FedSchema {
    /// Finds the form of each column. An error names the column whose type cannot be taken at all.
    pub fn new(given: &Schema) -> Result<Self, StatementError> {
        let fields = given.fields().iter().map(|field| fed_field(field, field.name())).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { schema: Arc::new(Schema::new(fields)) })
    }

    /// The columns in DuckDB's form.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows in that form. Fails rather than lose a part of a value.
    pub fn convert(&self, batch: &RecordBatch) -> Result<RecordBatch, StatementError> {
        let columns = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| convert(column, field))
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

fn convert(column: &ArrayRef, field: &Field) -> Result<ArrayRef, StatementError> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let converted = cast(column, field.data_type())?;
    if has_nanoseconds(column.data_type()) && cast(&converted, column.data_type())?.as_ref() != column.as_ref() {
        let message = format!(
            "column \"{}\" has values finer than a microsecond, which the table's type cannot hold: round them first",
            field.name()
        );
        return Err(StatementError::new(Kind::Invalid, message));
    }
    Ok(converted)
}

fn has_nanoseconds(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) | DataType::Time64(TimeUnit::Nanosecond) => true,
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) | DataType::Map(child, _) => {
            has_nanoseconds(child.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_nanoseconds(field.data_type())),
        _ => false,
    }
}

fn fed_field(field: &FieldRef, path: &str) -> Result<FieldRef, StatementError> {
    let data_type = fed_type(field.data_type(), path)?;
    let fed = Field::new(field.name(), data_type, true);
    let (key, uuid) = EXTENSION;
    if *field.data_type() == DataType::FixedSizeBinary(16) && field.metadata().get(key).is_some_and(|name| name == uuid) {
        let fed = fed.with_data_type(DataType::FixedSizeBinary(16));
        return Ok(Arc::new(fed.with_metadata([(key.to_owned(), uuid.to_owned())].into())));
    }
    Ok(Arc::new(fed))
}

fn fed_type(given: &DataType, path: &str) -> Result<DataType, StatementError> {
    let child = |field: &FieldRef| fed_field(field, &format!("{path}.{}", field.name()));
    Ok(match given {
        DataType::Null | DataType::Utf8View => DataType::Utf8,
        DataType::Float16 => DataType::Float32,
        DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) if *s >= 0 => {
            DataType::Decimal128(*p, *s)
        }
        DataType::Dictionary(_, values) => fed_type(values, path)?,
        DataType::List(field) | DataType::FixedSizeList(field, _) => DataType::List(child(field)?),
        DataType::LargeList(field) => DataType::LargeList(child(field)?),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(child).collect::<Result<_, _>>()?),
        DataType::Map(entries, sorted) => DataType::Map(map_entries(entries, path)?, *sorted),
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            return Err(unusable(path, given, "DECIMAL of at most 38 digits and no negative scale"));
        }
        DataType::Union(..) => return Err(unusable(path, given, "a struct or VARCHAR")),
        DataType::RunEndEncoded(_, values) => return Err(unusable(path, given, &values.data_type().to_string())),
        DataType::ListView(_) | DataType::LargeListView(_) => return Err(unusable(path, given, "a list")),
        other => other.clone(),
    })
}

/// A map's entries keep their shape: keys are never null.
fn map_entries(entries: &FieldRef, path: &str) -> Result<FieldRef, StatementError> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(unusable(path, entries.data_type(), "a map of key and value"));
    };
    let fields = fields
        .iter()
        .map(|field| Ok(Arc::new(fed_field(field, path)?.as_ref().clone().with_nullable(field.is_nullable()))))
        .collect::<Result<_, StatementError>>()?;
    Ok(Arc::new(Field::new(entries.name(), DataType::Struct(fields), false)))
}

/// Checks that a table can be made of these columns: Iceberg has each of the types. `given` is what the client sent.
pub fn check_creatable(given: &Schema) -> Result<(), StatementError> {
    given.fields().iter().try_for_each(|field| creatable(field.data_type(), field.name()))
}

fn creatable(given: &DataType, path: &str) -> Result<(), StatementError> {
    let to = match given {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => "INTEGER",
        DataType::UInt32 => "BIGINT",
        DataType::UInt64 => "DECIMAL(20,0) or BIGINT",
        DataType::Interval(_) => "VARCHAR",
        DataType::Duration(_) => "BIGINT or VARCHAR",
        DataType::Null => "the type that the column shall have",
        DataType::Dictionary(_, values) => return creatable(values, path),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            return creatable(field.data_type(), &format!("{path}.{}", field.name()));
        }
        DataType::Struct(fields) => {
            return fields.iter().try_for_each(|field| creatable(field.data_type(), &format!("{path}.{}", field.name())));
        }
        DataType::Map(entries, _) => return creatable(entries.data_type(), path),
        _ => return Ok(()),
    };
    Err(unusable(path, given, to))
}

/// The refusal of a CREATE TABLE AS, with the column whose type it was: DuckDB's Iceberg extension names the type only.
#[must_use]
pub fn naming_the_column(error: StatementError, engine: &Connection, sql: &str) -> StatementError {
    if !["is not a valid Iceberg Type", "not supported in Iceberg type"].iter().any(|words| error.message.contains(words)) {
        return error;
    }
    // The query begins behind one of these words; a quoted name may hold them too, but what follows it there is no query.
    let queries = sql.match_indices(" AS ").map(|(at, separator)| &sql[at + separator.len()..]);
    let columns = queries.filter_map(|query| engine.prepare(query).ok().and_then(|statement| statement.columns())).next();
    let unknown = columns.unwrap_or_default().into_iter().find_map(|(name, logical)| Some((name, logical.unknown_to_iceberg()?)));
    match unknown {
        Some((name, (given, to))) => unusable(&name, given, to),
        None => error,
    }
}

fn unusable(path: &str, given: impl Display, to: &str) -> StatementError {
    StatementError::new(Kind::Invalid, format!("column \"{path}\" is {given}, which Iceberg has no type for: cast it to {to}"))
}
