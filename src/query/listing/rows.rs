//! Owns the rows of a listing as a worker takes them for its temporary table: an Arrow IPC stream, made piece by piece and no longer than
//! it may be. Refuses to know where the names come from.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;

use crate::lake::Column;
use crate::names::{CatalogName, TableRef};
use crate::query::QueryError;

/// Rows of one batch.
const BATCH_ROWS: usize = 8192;

/// And of about so many bytes: a name may be long, and stands in each row.
const BATCH_BYTES: usize = 1 << 20;

/// Which listing it is.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Schemata,
    Tables,
    Columns,
}

impl Shape {
    fn schema(self) -> SchemaRef {
        let columns: &[&str] = match self {
            Self::Schemata => &["catalog_name", "schema_name"],
            Self::Tables => &["table_catalog", "table_schema", "table_name", "table_type"],
            Self::Columns => &[
                "table_catalog",
                "table_schema",
                "table_name",
                "column_name",
                "ordinal_position",
                "column_default",
                "is_nullable",
                "data_type",
                "comment",
            ],
        };
        let type_of = |name: &str| if name == ORDINAL { DataType::Int32 } else { DataType::Utf8 };
        Arc::new(Schema::new(columns.iter().map(|name| Field::new(*name, type_of(name), true)).collect::<Vec<_>>()))
    }
}

/// The only column that is a number.
const ORDINAL: &str = "ordinal_position";

/// A stream in the making.
pub(super) struct Rows {
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
    texts: Vec<StringBuilder>,
    ordinals: Int32Builder,
    /// In the batch that is being made.
    rows: usize,
    bytes: usize,
    limit: usize,
}

impl Rows {
    /// At most about `limit` bytes of it.
    pub(super) fn new(shape: Shape, limit: usize) -> Result<Self, QueryError> {
        let schema = shape.schema();
        let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(defect)?;
        let texts = schema.fields().iter().filter(|field| field.name() != ORDINAL).map(|_| StringBuilder::new()).collect();
        Ok(Self { schema, writer, texts, ordinals: Int32Builder::new(), rows: 0, bytes: 0, limit })
    }

    pub(super) fn schema_row(&mut self, catalog: &CatalogName, schema: &str) -> Result<(), QueryError> {
        self.add([Some(catalog.as_str()), Some(schema)], None)
    }

    pub(super) fn table_row(&mut self, table: &TableRef) -> Result<(), QueryError> {
        let namespace = table.namespace.to_string();
        self.add([Some(table.catalog.as_str()), Some(&namespace), Some(&table.table), Some("BASE TABLE")], None)
    }

    pub(super) fn column_rows(&mut self, table: &TableRef, columns: &[Column]) -> Result<(), QueryError> {
        let namespace = table.namespace.to_string();
        for (column, ordinal) in columns.iter().zip(1..) {
            let texts = [
                Some(table.catalog.as_str()),
                Some(&namespace),
                Some(&table.table),
                Some(&column.name),
                None,
                Some(if column.nullable { "YES" } else { "NO" }),
                Some(&column.sql_type),
                column.comment.as_deref(),
            ];
            self.add(texts, Some(ordinal))?;
        }
        Ok(())
    }

    /// The whole stream.
    pub(super) fn finish(mut self) -> Result<Bytes, QueryError> {
        self.flush()?;
        self.writer.into_inner().map(Bytes::from).map_err(defect)
    }

    fn add<const N: usize>(&mut self, texts: [Option<&str>; N], ordinal: Option<i32>) -> Result<(), QueryError> {
        self.bytes += texts.iter().flatten().map(|text| text.len()).sum::<usize>();
        self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_option(text));
        self.ordinals.append_option(ordinal);
        self.rows += 1;
        if self.rows < BATCH_ROWS && self.bytes < BATCH_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), QueryError> {
        (self.rows, self.bytes) = (0, 0);
        let ordinals: ArrayRef = Arc::new(self.ordinals.finish());
        let mut texts = self.texts.iter_mut();
        let columns = self.schema.fields().iter().filter_map(|field| {
            if field.name() == ORDINAL {
                Some(Arc::clone(&ordinals))
            } else {
                texts.next().map(|text| Arc::new(text.finish()) as ArrayRef)
            }
        });
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()).map_err(defect)?;
        self.writer.write(&batch).map_err(defect)?;
        if self.writer.get_ref().len() > self.limit {
            return Err(QueryError::ListingTooLong { limit: self.limit });
        }
        Ok(())
    }
}

fn defect(error: arrow::error::ArrowError) -> QueryError {
    QueryError::Defect(error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::names::Namespace;

    #[test]
    fn long_names_are_counted_before_they_are_many() {
        let table = TableRef { catalog: "lake".into(), namespace: Namespace::from_schema("s"), table: "t".repeat(60_000) };
        let column = |number| Column {
            name: format!("c{number}"),
            sql_type: "INTEGER".to_owned(),
            data_type: DataType::Int32,
            nullable: true,
            comment: None,
            is_read_so: true,
        };
        let columns: Vec<Column> = (0..BATCH_ROWS - 1).map(column).collect();
        let mut rows = Rows::new(Shape::Columns, 4 << 20).unwrap();
        let refused = rows.column_rows(&table, &columns).unwrap_err();
        assert!(matches!(refused, QueryError::ListingTooLong { .. }), "{refused}");
        assert!(rows.bytes <= 2 * BATCH_BYTES, "a whole batch was made first");
    }
}
