//! Owns the types that clients get for DuckDB's own, and the way of a batch into them. Refuses to know where batches go.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// The schema that clients get: dictionaries become their values, views become plain text and bytes.
#[must_use]
pub fn client_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|field| Field::new(field.name(), client_type(field.data_type()), true)).collect();
    Arc::new(Schema::new(fields))
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
