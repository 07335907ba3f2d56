//! Owns what clients send up in DoPut: batches for a table, streamed through, and rows of parameters, collected into one Arrow IPC
//! stream of bounded size. Refuses to decode Arrow data; it reads only message headers.

use std::panic::catch_unwind;

use arrow::datatypes::DataType;
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow_flight::FlightData;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream;
use tonic::Streaming;

use super::handshake::Call;
use super::kernel::{ClientFrames, broken_input};
use super::{Edge, FlightError};
use crate::headers;
use crate::names::{Namespace, TableRef};
use crate::query::{Frame, IngestMode};

const CONTINUATION: u32 = 0xFFFF_FFFF;

/// Rows of parameters as sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Parameters {
    /// None: no schema, or one without fields, with or without batches.
    Absent,
    /// Some columns.
    Rows {
        /// A whole Arrow IPC stream.
        stream: Bytes,
        /// How many rows are in it.
        rows: u64,
        /// The types of their columns, one a parameter.
        types: Vec<DataType>,
    },
}

/// Puts messages together into an Arrow IPC stream.
struct Collector {
    stream: BytesMut,
    types: Vec<DataType>,
    rows: u64,
    limit: usize,
}

impl Collector {
    fn add(&mut self, data: &FlightData) -> Result<(), FlightError> {
        let bad = |reason: &str| FlightError::Upload(format!("the parameters are not Arrow IPC messages: {reason}"));
        let message = headers::read(&data.data_header).map_err(|error| bad(&error.to_string()))?;
        if message.header_as_schema().is_some() {
            // Arrow's reader panics on types that it does not have.
            let read = || try_schema_from_flatbuffer_bytes(&data.data_header).map_err(|error| bad(&error.to_string()));
            let schema = catch_unwind(read).unwrap_or_else(|_| Err(bad("a type that there is not")))?;
            self.types = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        } else if self.stream.is_empty() {
            return Err(bad("the first is not a schema"));
        } else if let Some(batch) = message.header_as_record_batch() {
            self.rows += u64::try_from(batch.length()).map_err(|_| bad("a negative number of rows"))?;
        }
        let body = usize::try_from(message.bodyLength()).map_err(|_| bad("a negative length"))?;
        // Some writers leave the padding of the last buffer out.
        let padding = body
            .checked_sub(data.data_body.len())
            .filter(|padding| *padding < 64)
            .ok_or_else(|| bad("a body of another length than its header says"))?;
        let header = data.data_header.len().next_multiple_of(8);
        if self.stream.len() + 8 + header + body > self.limit {
            return Err(FlightError::LargeParameters { limit: self.limit });
        }
        self.stream.put_u32_le(CONTINUATION);
        self.stream.put_u32_le(u32::try_from(header).map_err(|_| bad("a header above 4 GB"))?);
        self.stream.put_slice(&data.data_header);
        self.stream.put_bytes(0, header - data.data_header.len());
        self.stream.put_slice(&data.data_body);
        self.stream.put_bytes(0, padding);
        Ok(())
    }

    fn finish(mut self) -> Parameters {
        if self.types.is_empty() {
            return Parameters::Absent;
        }
        self.stream.put_u32_le(CONTINUATION);
        self.stream.put_u32_le(0);
        Parameters::Rows { stream: self.stream.freeze(), rows: self.rows, types: self.types }
    }
}

impl Edge {
    /// Reads the parameters of a prepared statement to the end of the client's side. A stream that breaks off is an error, so that
    /// half of the rows never run.
    pub(super) async fn parameters(&self, first: FlightData, mut rest: Streaming<FlightData>) -> Result<Parameters, FlightError> {
        let mut collector =
            Collector { stream: BytesMut::new(), types: Vec::new(), rows: 0, limit: self.config.max_parameter_bytes };
        let mut next = Some(first);
        while let Some(data) = next {
            // The first message may hold only the descriptor.
            if !data.data_header.is_empty() {
                collector.add(&data)?;
            }
            next = rest.message().await.map_err(|status| FlightError::Upload(status.message().to_owned()))?;
        }
        Ok(collector.finish())
    }

    /// DoPut of CommandStatementIngest: hands the client's batches on as they come, and answers the number of rows.
    pub(super) async fn ingest(
        &self,
        call: &Call,
        command: CommandStatementIngest,
        first: FlightData,
        rest: Streaming<FlightData>,
    ) -> Result<i64, FlightError> {
        let mode = ingest_mode(&command)?;
        let caller = call.caller();
        let catalog = command.catalog.filter(|name| !name.is_empty()).map_or_else(|| caller.catalog.clone(), Into::into);
        let schema = command.schema.filter(|name| !name.is_empty()).unwrap_or_else(|| caller.schema.clone());
        let table = TableRef { catalog, namespace: Namespace::from_schema(&schema), table: command.table };
        let rows = self.kernel.ingest(&caller, table, mode, client_frames(first, rest), call.limits).await?;
        Ok(i64::try_from(rows).unwrap_or(i64::MAX))
    }
}

fn ingest_mode(command: &CommandStatementIngest) -> Result<IngestMode, FlightError> {
    use {TableExistsOption as Exists, TableNotExistOption as NotExist};
    if command.transaction_id.as_ref().is_some_and(|id| !id.is_empty()) {
        return Err(FlightError::NoSuchTransaction);
    }
    if command.temporary {
        return Err(FlightError::Unimplemented("temporary tables are not supported; ingest into a table of a catalog"));
    }
    if command.table.is_empty() {
        return Err(FlightError::Invalid("the ingest names no table".to_owned()));
    }
    let options = command.table_definition_options.as_ref().ok_or_else(|| {
        FlightError::Invalid("the ingest does not say what to do when the table exists or does not exist".to_owned())
    })?;
    match (options.if_not_exist(), options.if_exists()) {
        (_, Exists::Replace) => {
            Err(FlightError::Unimplemented("ingest with replace is not supported; drop the table first, or use append or create"))
        }
        (NotExist::Create, Exists::Fail) => Ok(IngestMode::Create),
        (NotExist::Create, Exists::Append) => Ok(IngestMode::CreateOrAppend),
        (NotExist::Fail, Exists::Append) => Ok(IngestMode::Append),
        (NotExist::Fail, Exists::Fail) => {
            Err(FlightError::Invalid("the ingest would fail whether the table exists or not".to_owned()))
        }
        (NotExist::Unspecified, _) | (_, Exists::Unspecified) => Err(FlightError::Invalid(
            "the ingest leaves unspecified what to do when the table exists or does not exist".to_owned(),
        )),
    }
}

/// The client's messages as frames, schema first.
fn client_frames(first: FlightData, rest: Streaming<FlightData>) -> ClientFrames {
    let first = (!first.data_header.is_empty()).then_some(Ok(first));
    stream::iter(first)
        .chain(rest)
        .map(|data| {
            let data = data.map_err(|status| broken_input(format!("the client's stream broke off: {}", status.message())))?;
            Ok(Frame { header: data.data_header, body: data.data_body, message: Bytes::new() })
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, DictionaryArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
    use arrow::datatypes::{Int32Type, Schema};
    use arrow::ipc;
    use arrow::ipc::reader::StreamReader;
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
    use arrow_flight::sql::TableDefinitionOptions;
    use arrow_flight::utils::batches_to_flight_data;
    use flatbuffers::{FlatBufferBuilder, WIPOffset};
    use futures::TryStreamExt;

    use super::*;

    /// As clients send them: dictionaries in messages of their own.
    fn messages(batches: Vec<RecordBatch>) -> Vec<FlightData> {
        let encoder = FlightDataEncoderBuilder::new().with_dictionary_handling(DictionaryHandling::Resend);
        futures::executor::block_on(encoder.build(stream::iter(batches.into_iter().map(Ok))).try_collect()).unwrap()
    }

    fn collected(messages: &[FlightData], limit: usize) -> Result<Parameters, FlightError> {
        let mut collector = Collector { stream: BytesMut::new(), types: Vec::new(), rows: 0, limit };
        messages.iter().try_for_each(|data| collector.add(data))?;
        Ok(collector.finish())
    }

    fn batch() -> RecordBatch {
        let coded: DictionaryArray<Int32Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
        RecordBatch::try_from_iter([
            ("0", Arc::new(Int64Array::from(vec![1, 2, 3])) as Arc<dyn Array>),
            ("1", Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")]))),
            ("2", Arc::new(coded)),
        ])
        .unwrap()
    }

    #[test]
    fn parameters_become_one_ipc_stream() {
        let messages = messages(vec![batch(), batch()]);
        assert_eq!(messages.len(), 4, "schema, dictionary, two batches");
        let Parameters::Rows { stream, rows, .. } = collected(&messages, 1 << 20).unwrap() else { panic!("no rows") };
        let read: Vec<RecordBatch> = StreamReader::try_new(stream.as_ref(), None).unwrap().map(Result::unwrap).collect();
        assert_eq!((rows, read), (6, vec![batch(), batch()]));
    }

    #[test]
    fn no_fields_means_no_parameters() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(0));
        let none = RecordBatch::try_new_with_options(Arc::clone(&schema), Vec::new(), &options).unwrap();
        let messages = batches_to_flight_data(&schema, vec![none]).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(collected(&messages, 1 << 20).unwrap(), Parameters::Absent);
        assert_eq!(collected(&messages[..1], 1 << 20).unwrap(), Parameters::Absent);
        assert_eq!(collected(&[], 1 << 20).unwrap(), Parameters::Absent);
    }

    /// A header in which the fields of a struct are one and the same, so many times, with a name of so many bytes.
    fn repeating(times: usize, name: usize) -> FlightData {
        let mut buffer = FlatBufferBuilder::new();
        let none = buffer.create_vector::<WIPOffset<ipc::Field<'_>>>(&[]);
        let name = buffer.create_string(&"n".repeat(name));
        let mut number = ipc::IntBuilder::new(&mut buffer);
        number.add_bitWidth(64);
        number.add_is_signed(true);
        let number = number.finish().as_union_value();
        let is_struct = ipc::Struct_Builder::new(&mut buffer).finish().as_union_value();
        let field = |buffer: &mut FlatBufferBuilder<'static>, tag, type_of, children| {
            let mut field = ipc::FieldBuilder::new(buffer);
            field.add_name(name);
            field.add_type_type(tag);
            field.add_type_(type_of);
            field.add_children(children);
            field.finish()
        };
        let child = field(&mut buffer, ipc::Type::Int, number, none);
        let children = buffer.create_vector(&vec![child; times]);
        let column = field(&mut buffer, ipc::Type::Struct_, is_struct, children);
        let columns = buffer.create_vector(&[column]);
        let mut schema = ipc::SchemaBuilder::new(&mut buffer);
        schema.add_fields(columns);
        let schema = schema.finish().as_union_value();
        let mut message = ipc::MessageBuilder::new(&mut buffer);
        message.add_version(ipc::MetadataVersion::V5);
        message.add_header_type(ipc::MessageHeader::Schema);
        message.add_header(schema);
        let message = message.finish();
        buffer.finish(message, None);
        FlightData { data_header: Bytes::copy_from_slice(buffer.finished_data()), ..FlightData::default() }
    }

    #[test]
    fn a_header_that_names_one_part_many_times_is_refused() {
        assert!(matches!(collected(&[repeating(1000, 100)], 1 << 20), Ok(Parameters::Rows { .. })));
        for (times, name) in [(30_000, 60_000), (130_000, 1)] {
            let data = repeating(times, name);
            assert!(data.data_header.len() < 1_000_000);
            let refused = collected(&[data], 16 << 20).unwrap_err();
            assert!(matches!(&refused, FlightError::Upload(reason) if reason.contains("send fewer columns")), "{refused}");
        }
    }

    #[test]
    fn parameters_are_bounded_and_must_be_arrow() {
        let messages = messages(vec![batch()]);
        assert!(matches!(collected(&messages, 500), Err(FlightError::LargeParameters { limit: 500 })));
        assert!(matches!(collected(&messages[1..], 1 << 20), Err(FlightError::Upload(_))));
        let cut = FlightData { data_body: Bytes::new(), ..messages[2].clone() };
        assert!(matches!(collected(&[messages[0].clone(), cut], 1 << 20), Err(FlightError::Upload(_))));
        let nonsense = FlightData { data_header: Bytes::from_static(b"nonsense"), ..FlightData::default() };
        assert!(matches!(collected(&[nonsense], 1 << 20), Err(FlightError::Upload(_))));
    }

    #[test]
    fn ingest_modes_are_told_apart() {
        let command = |not_exist: TableNotExistOption, exists: TableExistsOption| CommandStatementIngest {
            table: "t".to_owned(),
            table_definition_options: Some(TableDefinitionOptions { if_not_exist: not_exist as i32, if_exists: exists as i32 }),
            ..CommandStatementIngest::default()
        };
        use {TableExistsOption as Exists, TableNotExistOption as NotExist};
        let mode = |not_exist, exists| ingest_mode(&command(not_exist, exists));
        assert_eq!(mode(NotExist::Create, Exists::Fail).unwrap(), IngestMode::Create);
        assert_eq!(mode(NotExist::Fail, Exists::Append).unwrap(), IngestMode::Append);
        assert_eq!(mode(NotExist::Create, Exists::Append).unwrap(), IngestMode::CreateOrAppend);
        assert!(matches!(mode(NotExist::Create, Exists::Replace), Err(FlightError::Unimplemented(_))));
        assert!(matches!(mode(NotExist::Unspecified, Exists::Append), Err(FlightError::Invalid(_))));
        let temporary = CommandStatementIngest { temporary: true, ..command(NotExist::Create, Exists::Append) };
        assert!(matches!(ingest_mode(&temporary), Err(FlightError::Unimplemented(_))));
        let empty_transaction =
            CommandStatementIngest { transaction_id: Some(Bytes::new()), ..command(NotExist::Create, Exists::Append) };
        assert!(ingest_mode(&empty_transaction).is_ok());
    }
}
