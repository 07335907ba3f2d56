//! Owns the forms in which a result leaves the command: table, CSV, JSON lines, Arrow IPC stream. Each is written batch by batch.
//! Refuses to hold a result.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::compute::cast;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{EncoderOptions, LineDelimited, Writer as JsonWriter, WriterBuilder, make_encoder};

use super::super::error::CliError;
use super::table::{Shown, TableWriter};

/// A form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for eyes.
    Table,
    /// With a head line; nested values as JSON, NULL as nothing.
    Csv,
    /// One object per line.
    Json,
    /// Arrow IPC stream.
    Arrow,
}

impl Format {
    /// The form that a file's name asks for.
    #[must_use]
    pub fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "arrow" | "arrows" | "ipc" => Some(Self::Arrow),
            _ => None,
        }
    }

    /// As error messages name it.
    fn name(self) -> &'static str {
        match self {
            Self::Table => "a table",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Arrow => "Arrow",
        }
    }
}

/// Writes one result.
pub struct ResultWriter<W: Write> {
    format: Format,
    form: Form<W>,
}

enum Form<W: Write> {
    Table(TableWriter<W>),
    Csv { writer: Box<csv::Writer<W>>, schema: SchemaRef, head_written: bool },
    Json(Box<JsonWriter<W, LineDelimited>>),
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write> ResultWriter<W> {
    /// A writer for a result with these columns.
    ///
    /// # Errors
    /// When `out` takes no bytes.
    pub fn new(format: Format, schema: SchemaRef, out: W, shown: Shown) -> Result<Self, CliError> {
        let form = match format {
            Format::Table => Form::Table(TableWriter::new(out, schema, shown)),
            Format::Csv => Form::Csv {
                writer: Box::new(csv::WriterBuilder::new().with_header(true).build(out)),
                schema,
                head_written: false,
            },
            // Without explicit nulls a column that is NULL would be missing from its line.
            Format::Json => Form::Json(Box::new(WriterBuilder::new().with_explicit_nulls(true).build(out))),
            Format::Arrow => Form::Arrow(Box::new(StreamWriter::try_new(out, &schema).map_err(CliError::format(format.name()))?)),
        };
        Ok(Self { format, form })
    }

    /// Writes rows.
    ///
    /// # Errors
    /// When they have no such form, or `out` takes no more.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), CliError> {
        let written = match &mut self.form {
            Form::Table(writer) => with_offsets(batch).and_then(|batch| writer.write(&batch)),
            Form::Csv { writer, head_written, .. } => {
                *head_written = true;
                with_offsets(batch).and_then(|batch| flatten(&batch)).and_then(|batch| writer.write(&batch))
            }
            Form::Json(writer) => with_offsets(batch).and_then(|batch| writer.write(&batch)),
            Form::Arrow(writer) => writer.write(batch),
        };
        written.map_err(CliError::format(self.format.name()))
    }

    /// Writes what stands at the end, and flushes.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn finish(self) -> Result<(), CliError> {
        let finished = match self.form {
            Form::Table(writer) => writer.finish().map_err(ArrowError::from),
            Form::Csv { mut writer, schema, head_written } => {
                // The head line comes with the first batch, so a result without rows needs one too.
                let head = if head_written {
                    Ok(())
                } else {
                    with_offsets(&RecordBatch::new_empty(schema)).and_then(|b| flatten(&b)).and_then(|b| writer.write(&b))
                };
                head.and_then(|()| Ok(writer.into_inner().flush()?))
            }
            Form::Json(mut writer) => writer.finish().and_then(|()| Ok(writer.into_inner().flush()?)),
            Form::Arrow(mut writer) => writer.finish().and_then(|()| Ok(writer.get_mut().flush()?)),
        };
        finished.map_err(CliError::format(self.format.name()))
    }
}

/// The zone UTC, which is the only one that instants come in, written as an offset: names of zones take a table of them to be shown.
fn with_offsets(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let typed = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(offset_type(field.data_type())));
    let fields: Fields = batch.schema().fields().iter().map(typed).collect();
    let columns = batch.columns().iter().zip(&fields);
    let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
        true => Ok(Arc::clone(column)),
        false => cast(column, field.data_type()),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields.clone())), columns.collect::<Result<_, _>>()?, &options)
}

fn offset_type(data_type: &DataType) -> DataType {
    let child = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(offset_type(field.data_type())));
    match data_type {
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() == "UTC" => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(field) => DataType::List(child(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(child(field), *length),
        DataType::Map(field, sorted) => DataType::Map(child(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(child).collect()),
        other => other.clone(),
    }
}

/// CSV has only flat columns: nested ones become JSON text.
fn flatten(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let nested = field.data_type().is_nested();
        columns.push(if nested { json_column(field, column)? } else { Arc::clone(column) });
        fields.push(if nested { Arc::new(Field::new(field.name(), DataType::Utf8, true)) } else { Arc::clone(field) });
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn json_column(field: &Arc<Field>, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(field, column.as_ref(), &options)?;
    let mut texts = StringBuilder::new();
    let mut buffer = Vec::new();
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        buffer.clear();
        encoder.encode(row, &mut buffer);
        texts.append_value(String::from_utf8_lossy(&buffer));
    }
    Ok(Arc::new(texts.finish()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Int32Builder, Int64Array, ListBuilder, StringArray, TimestampMicrosecondArray};
    use arrow::ipc::reader::StreamReader;

    use super::*;

    fn batch() -> RecordBatch {
        let mut list = ListBuilder::new(Int32Builder::new());
        list.append_value([Some(1), None]);
        list.append_null();
        let price = Decimal128Array::from(vec![Some(150), None]).with_precision_and_scale(10, 2).unwrap();
        let at = TimestampMicrosecondArray::from(vec![Some(1_000_000), None]);
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef, true),
            ("text", Arc::new(StringArray::from(vec![Some("a,\"b\""), None])), true),
            ("price", Arc::new(price), true),
            ("at", Arc::new(at), true),
            ("list", Arc::new(list.finish()), true),
        ])
        .unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = ResultWriter::new(format, batch().schema(), &mut out, Shown { rows: None, width: None }).unwrap();
        for batch in batches {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap();
        out
    }

    fn text(format: Format, batches: &[RecordBatch]) -> String {
        String::from_utf8(written(format, batches)).unwrap()
    }

    #[test]
    fn instants_are_shown_with_their_offset() {
        let instants = arrow::array::TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC");
        let batch = RecordBatch::try_from_iter([("at", Arc::new(instants) as ArrayRef)]).unwrap();
        for format in [Format::Table, Format::Csv, Format::Json] {
            assert!(text(format, std::slice::from_ref(&batch)).contains("1970-01-01T00:00:00"), "{format:?}");
        }
    }

    #[test]
    fn csv_has_one_head_and_nested_values_as_json() {
        let expected = "id,text,price,at,list\n1,\"a,\"\"b\"\"\",1.50,1970-01-01T00:00:01,\"[1,null]\"\n2,,,,\n";
        assert_eq!(text(Format::Csv, &[batch()]), expected);
        assert_eq!(text(Format::Csv, &[batch(), batch()]).matches("id,").count(), 1);
    }

    #[test]
    fn csv_of_no_rows_has_its_head() {
        assert_eq!(text(Format::Csv, &[]), "id,text,price,at,list\n");
    }

    #[test]
    fn json_is_one_object_a_line_with_explicit_nulls() {
        let text = text(Format::Json, &[batch()]);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["list"], serde_json::json!([1, null]));
        assert!(lines[1].as_object().unwrap().contains_key("text") && lines[1]["text"].is_null());
    }

    #[test]
    fn arrow_reads_back_as_it_was() {
        let bytes = written(Format::Arrow, &[batch(), batch()]);
        let read: Vec<_> = StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [batch(), batch()]);
    }

    #[test]
    fn a_file_name_chooses_the_format() {
        for (name, expected) in
            [("a.csv", Some(Format::Csv)), ("a.JSONL", Some(Format::Json)), ("a.arrows", Some(Format::Arrow)), ("a", None)]
        {
            assert_eq!(Format::of_file(Path::new(name)), expected, "{name}");
        }
    }
}
