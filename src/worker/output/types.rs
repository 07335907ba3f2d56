//! Owns the types that clients get for DuckDB's own, and the way of a batch into them. Refuses to know where batches go.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// Columns of a result, these with all that is nested in them, and bytes of their names. A schema is read as a whole, by the gateway and
/// by clients, and a short statement can multiply it: `SELECT *, *, *`.
const MAX_COLUMNS: usize = 20_000;
const MAX_FIELDS: usize = 100_000;
const MAX_NAME_BYTES: usize = 4 << 20;

/// A schema that is too large, of a result or of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are more than {MAX_COLUMNS} columns, or {MAX_FIELDS} with what is nested in them, or {} MB of their names: ask for fewer at once",
    MAX_NAME_BYTES >> 20
)]
pub struct TooWide;

/// To be asked before the columns are: DuckDB takes the longer for each of them, the more there are.
///
/// # Errors
/// When there are too many.
pub fn check_column_count(columns: usize) -> Result<(), TooWide> {
    if columns > MAX_COLUMNS { Err(TooWide) } else { Ok(()) }
}

/// The schema that clients get: dictionaries become their values, views become plain text and bytes.
///
/// # Errors
/// When it is too large.
pub fn client_schema(schema: &Schema) -> Result<SchemaRef, TooWide> {
    check_column_count(schema.fields().len())?;
    let mut size = SchemaSize::default();
    schema.fields().iter().try_for_each(|field| size.add(field))?;
    let fields: Vec<Field> =
        schema.fields().iter().map(|field| Field::new(field.name(), client_type(field.data_type()), true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// How large a schema is, as it is put together.
#[derive(Default)]
pub struct SchemaSize {
    fields: usize,
    name_bytes: usize,
}

impl SchemaSize {
    /// Adds a field with all that is nested in it.
    ///
    /// # Errors
    /// When the schema is too large with it.
    pub fn add(&mut self, field: &Field) -> Result<(), TooWide> {
        self.fields += 1;
        self.name_bytes += field.name().len();
        if self.fields > MAX_FIELDS || self.name_bytes > MAX_NAME_BYTES {
            return Err(TooWide);
        }
        match field.data_type() {
            DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) | DataType::Map(inner, _) => {
                self.add(inner)
            }
            DataType::Struct(inner) => inner.iter().try_for_each(|field| self.add(field)),
            DataType::Union(inner, _) => inner.iter().try_for_each(|(_, field)| self.add(field)),
            _ => Ok(()),
        }
    }
}

/// The type that clients get for one of DuckDB's.
#[must_use]
pub fn client_type(data_type: &DataType) -> DataType {
    let child = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(client_type(field.data_type())));
    match data_type {
        DataType::Dictionary(_, value) => client_type(value),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) => DataType::List(child(field)),
        DataType::LargeList(field) => DataType::LargeList(child(field)),
        DataType::FixedSizeList(field, len) => DataType::FixedSizeList(child(field), *len),
        DataType::Map(field, sorted) => DataType::Map(child(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(child).collect::<Fields>()),
        other => other.clone(),
    }
}

/// A batch in the types of the client's schema.
pub fn client_batch(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let (_, columns, _) = batch.into_parts();
    let columns: Vec<ArrayRef> = columns
        .into_iter()
        .zip(schema.fields())
        .map(
            |(column, field)| if column.data_type() == field.data_type() { Ok(column) } else { cast(&column, field.data_type()) },
        )
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_multiplies_is_refused() {
        let schema = |name: &str, columns: usize, nested: usize| {
            let inner: Fields = (0..nested).map(|_| Field::new(name, DataType::Int32, true)).collect();
            let list = DataType::List(Arc::new(Field::new("l", DataType::Struct(inner), true)));
            Schema::new((0..columns).map(|_| Field::new("c", list.clone(), true)).collect::<Vec<_>>())
        };
        assert!(client_schema(&schema("a", 1_000, 98)).is_ok());
        assert_eq!(client_schema(&schema("a", 1_000, 99)), Err(TooWide));
        assert!(client_schema(&schema("a", MAX_COLUMNS, 3)).is_ok());
        assert_eq!(client_schema(&schema("a", MAX_COLUMNS + 1, 1)), Err(TooWide));
        assert!(client_schema(&schema(&"a".repeat(1 << 18), 2, 7)).is_ok());
        assert_eq!(client_schema(&schema(&"a".repeat(1 << 18), 2, 8)), Err(TooWide));
    }
}
