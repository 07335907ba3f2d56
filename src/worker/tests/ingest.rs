//! Ingest through a worker whose tables are in memory.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, DurationSecondArray,
    FixedSizeBinaryArray, Float64Array, Int8Array, Int32Array, Int64Array, LargeStringArray, ListArray, MapArray, MapBuilder,
    RecordBatch, StringArray, StringBuilder, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use arrow_ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};

use super::{Reply, TestConnection, TestWorker};
use crate::wire::proto::failure::Kind;
use crate::wire::proto::{Class, Ingest, IngestMode, Proceed, request};
use crate::wire::{FrameHeader, FrameKind, write_message};

/// Frames as a gateway forwards them from a client: gRPC messages with the place of head and body.
fn frame(kind: FrameKind, head: &[u8], body: &[u8]) -> Vec<u8> {
    use prost::Message;
    let data =
        arrow_flight::FlightData { data_header: head.to_vec().into(), data_body: body.to_vec().into(), ..Default::default() };
    let message = data.encode_to_vec();
    let mut payload = vec![0];
    payload.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    payload.extend_from_slice(&message);
    let header_at = payload.windows(head.len()).position(|window| window == head).unwrap();
    let header = FrameHeader {
        len: payload.len() as u32,
        kind,
        header_at: header_at as u16,
        header_len: head.len() as u32,
        body_at: (payload.len() - body.len()) as u32,
    };
    [header.to_bytes().as_slice(), &payload].concat()
}

impl TestConnection {
    fn begin_ingest(&mut self, worker: &TestWorker, table: &str, mode: IngestMode) {
        self.begin(worker, ("memory", "main", table), mode);
    }

    fn begin(&mut self, worker: &TestWorker, (catalog, schema, table): (&str, &str, &str), mode: IngestMode) {
        let order = Ingest { catalog: catalog.into(), schema: schema.into(), table: table.into(), mode: mode.into() };
        self.request(worker, "", request::Action::Ingest(order), &[Class::BlindInsert, Class::Ddl]);
        let (header, _) = self.next();
        assert_eq!(header.kind, FrameKind::Judged);
        write_message(&mut self.socket, FrameKind::Proceed, &Proceed::default()).unwrap();
    }

    fn send_rows(&mut self, schema: &Schema, batches: &[RecordBatch]) {
        use std::io::Write;
        let (generator, options) = (IpcDataGenerator::default(), IpcWriteOptions::default());
        let mut tracker = DictionaryTracker::new(false);
        let data = generator.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
        self.socket.write_all(&frame(FrameKind::Schema, &data.ipc_message, &[])).unwrap();
        for batch in batches {
            let (dictionaries, data) =
                generator.encode(batch, &mut tracker, &options, &mut CompressionContext::default()).unwrap();
            for data in dictionaries.iter().chain([&data]) {
                self.socket.write_all(&frame(FrameKind::Batch, &data.ipc_message, &data.arrow_data)).unwrap();
            }
        }
    }

    fn end_input(&mut self) {
        use std::io::Write;
        self.socket.write_all(&FrameHeader::plain(FrameKind::EndOfInput, 0).unwrap().to_bytes()).unwrap();
    }

    fn ingest(&mut self, worker: &TestWorker, table: &str, mode: IngestMode, batch: &RecordBatch) -> Reply {
        self.ingest_into(worker, ("memory", "main", table), mode, batch)
    }

    pub fn ingest_into(
        &mut self,
        worker: &TestWorker,
        table: (&str, &str, &str),
        mode: IngestMode,
        batch: &RecordBatch,
    ) -> Reply {
        self.begin(worker, table, mode);
        self.send_rows(batch.schema_ref(), std::slice::from_ref(batch));
        self.end_input();
        self.reply(&[])
    }
}

pub(super) fn all_types() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
    let fields = vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)];
    let parts: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(StringArray::from(vec![Some("a"), None, Some("a text of more than twelve bytes")])),
    ];
    let nested = StructArray::new(fields.into(), parts, Some(vec![true, true, false].into()));
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k");
    map.values().append_value("v");
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let map: MapArray = map.finish();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("int", Arc::new(Int32Array::from(vec![Some(1), None, Some(-3)]))),
        ("long", Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(i64::MIN)]))),
        ("double", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::INFINITY)]))),
        ("decimal", Arc::new(Decimal128Array::from(vec![Some(12345), None, Some(-1)]).with_precision_and_scale(30, 4).unwrap())),
        ("small", Arc::new(Decimal128Array::from(vec![Some(123), None, Some(-1)]).with_precision_and_scale(4, 2).unwrap())),
        ("text", Arc::new(StringArray::from(vec![Some("short"), None, Some("a text of more than twelve bytes")]))),
        ("large", Arc::new(LargeStringArray::from(vec![Some("short"), None, Some("a text of more than twelve bytes")]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("short"), None, Some("a text of more than twelve bytes")]))),
        ("bytes", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff".as_slice()), None, Some(b"")]))),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from_iter(vec![b"abc", b"def", b"ghi"].into_iter()).unwrap())),
        ("date", Arc::new(Date32Array::from(vec![Some(0), None, Some(20000)]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(86_399_999_999)]))),
        ("stamp", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(-1)]))),
        ("zoned", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(-1)]).with_timezone("UTC"))),
        ("nanos", Arc::new(TimestampNanosecondArray::from(vec![Some(1000), None, Some(-1000)]))),
        ("category", Arc::new([Some("a"), None, Some("b")].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("list", Arc::new(list)),
        ("nested", Arc::new(nested)),
        ("map", Arc::new(map)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// Text of each value: the same whatever the Arrow type that holds it.
pub(super) fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = arrow::util::display::FormatOptions::default().with_null("NULL");
    batch
        .columns()
        .iter()
        .map(|column| {
            // Formatting times with a zone needs a zone database.
            let column = match column.data_type() {
                DataType::Timestamp(unit, Some(_)) => arrow::compute::cast(column, &DataType::Timestamp(*unit, None)).unwrap(),
                _ => Arc::clone(column),
            };
            let formatter = arrow::util::display::ArrayFormatter::try_new(&column, &options).unwrap();
            (0..column.len()).map(|row| formatter.value(row).to_string().replace("Z", "")).collect()
        })
        .collect()
}

#[test]
fn every_type_comes_back_as_it_was_sent() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    let batch = all_types();
    assert_eq!(connection.ingest(&worker, "t", IngestMode::Create, &batch).affected(), 3);
    let back = connection.run(&worker, "SELECT * FROM t").batch();
    assert_eq!(texts(&back), texts(&batch));
    // Slices of a batch, with offsets inside every array.
    let sliced = batch.slice(1, 2);
    assert_eq!(connection.ingest(&worker, "t", IngestMode::Append, &sliced).affected(), 2);
    let back = connection.run(&worker, "SELECT * FROM t OFFSET 3").batch();
    assert_eq!(texts(&back), texts(&sliced));
}

#[test]
fn large_batches_are_fed_in_chunks() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    let rows = 100_000;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new((0..rows).map(|i| (i % 3 != 0).then_some(i % 2 == 0)).collect::<BooleanArray>())),
        ("id", Arc::new((0..rows).map(Some).collect::<Int64Array>())),
        ("text", Arc::new((0..rows).map(|i| (i % 5 != 0).then(|| format!("text number {i} of many"))).collect::<StringArray>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    connection.begin_ingest(&worker, "t", IngestMode::CreateOrAppend);
    connection.send_rows(batch.schema_ref(), &[batch.clone(), batch.slice(7, 50_000), batch.slice(0, 0)]);
    connection.end_input();
    assert_eq!(connection.reply(&[]).affected(), 150_000);
    let sql = "SELECT count(*), count(text), count(bool), sum(id), count(*) FILTER (text <> 'text number ' || id || ' of many'), \
               count(*) FILTER (bool <> (id % 2 = 0)) FROM t";
    let back = connection.run(&worker, sql).batch();
    let value = |at: usize| arrow::util::display::array_value_to_string(back.column(at), 0).unwrap();
    assert_eq!((value(0), value(1), value(2)), ("150000".into(), "120000".into(), "100000".into()));
    assert_eq!((value(4), value(5)), ("0".into(), "0".into()));
    assert_eq!(connection.ingest(&worker, "t", IngestMode::CreateOrAppend, &batch).affected(), 100_000);
}

#[test]
fn columns_are_matched_by_name_whatever_their_order_and_case() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    connection.run(&worker, "CREATE TABLE t (a INTEGER, b VARCHAR, c DOUBLE)");
    let columns: Vec<(&str, ArrayRef)> =
        vec![("B", Arc::new(StringArray::from(vec!["x"]))), ("a", Arc::new(Int8Array::from(vec![1])))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    assert_eq!(connection.ingest(&worker, "t", IngestMode::Append, &batch).affected(), 1);
    let back = connection.run(&worker, "SELECT * FROM t").batch();
    assert_eq!(back.column(0).as_primitive::<Int32Type>().value(0), 1);
    assert_eq!(back.column(1).as_string::<i32>().value(0), "x");
    assert!(back.column(2).is_null(0));
}

#[test]
fn what_cannot_be_ingested_is_named() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    connection.run(&worker, "CREATE TABLE t (a INTEGER, b VARCHAR)");
    let one = |name: &str, column: ArrayRef| RecordBatch::try_from_iter(vec![(name, column)]).unwrap();
    let unsigned = one("x", Arc::new(UInt64Array::from(vec![1])));
    let mut failed = |table: &str, mode, batch: &RecordBatch| {
        let failure = connection.ingest(&worker, table, mode, batch).failure();
        // The connection serves on.
        assert_eq!(connection.run(&worker, "SELECT 1").batch().num_rows(), 1);
        (failure.kind(), failure.message)
    };
    let (kind, message) = failed("n", IngestMode::Create, &unsigned);
    assert_eq!(kind, Kind::Invalid);
    assert_eq!(message, "column \"x\" is UInt64, which Iceberg has no type for: cast it to DECIMAL(20,0) or BIGINT");
    let (kind, message) = failed("t", IngestMode::Append, &unsigned);
    assert_eq!(kind, Kind::Invalid);
    assert_eq!(message, "table memory.main.t has no column \"x\"; its columns are a, b");
    let duration = one("d", Arc::new(DurationSecondArray::from(vec![1])));
    assert!(failed("n", IngestMode::Create, &duration).1.contains("column \"d\""));
    let fine = one("n", Arc::new(TimestampNanosecondArray::from(vec![1])));
    assert!(failed("n", IngestMode::Create, &fine).1.contains("finer than a microsecond"));
    let text = one("a", Arc::new(StringArray::from(vec!["no number"])));
    let (kind, message) = failed("t", IngestMode::Append, &text);
    assert_eq!(kind, Kind::Invalid, "{message}");
    assert_eq!(failed("n", IngestMode::Append, &text).0, Kind::NotFound);
    assert_eq!(failed("t", IngestMode::Create, &text).0, Kind::AlreadyExists);
}

#[test]
fn an_ingest_that_fails_early_leaves_the_connection_usable() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    connection.run(&worker, "CREATE TABLE t (a INTEGER)");
    let bad: ArrayRef = Arc::new((0..3000).map(|_| Some("no number")).collect::<StringArray>());
    let bad = RecordBatch::try_from_iter(vec![("a", bad)]).unwrap();
    connection.begin_ingest(&worker, "t", IngestMode::Append);
    let many = vec![bad.clone(); 3];
    connection.send_rows(bad.schema_ref(), &many);
    // Told before the input has ended.
    assert_eq!(connection.reply(&[]).failure().kind(), Kind::Invalid);
    connection.end_input();
    let back = connection.run(&worker, "SELECT count(*) AS n FROM t").batch();
    assert_eq!(back.column(0).as_primitive::<Int64Type>().value(0), 0);
}

#[test]
fn an_ingest_whose_client_goes_away_leaves_no_rows() {
    let mut worker = TestWorker::governed();
    let mut connection = worker.connect();
    connection.run(&worker, "CREATE TABLE t (a INTEGER)");
    let rows: ArrayRef = Arc::new((0..3000).map(Some).collect::<Int32Array>());
    let rows = RecordBatch::try_from_iter(vec![("a", rows)]).unwrap();
    connection.begin_ingest(&worker, "t", IngestMode::Append);
    connection.send_rows(rows.schema_ref(), std::slice::from_ref(&rows));
    drop(connection);
    worker.event();
    let back = worker.connect().run(&worker, "SELECT count(*) AS n FROM t").batch();
    assert_eq!(back.column(0).as_primitive::<Int64Type>().value(0), 0);
}

#[test]
fn a_cancelled_ingest_ends_though_its_client_is_silent() {
    use crate::wire::proto::{Cancel, control, event};
    let mut worker = TestWorker::governed();
    let mut connection = worker.connect();
    connection.run(&worker, "CREATE TABLE t (a INTEGER)");
    let rows = RecordBatch::try_from_iter(vec![("a", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
    connection.begin_ingest(&worker, "t", IngestMode::Append);
    connection.send_rows(rows.schema_ref(), std::slice::from_ref(&rows));
    std::thread::sleep(std::time::Duration::from_millis(100));
    worker.send(control::Message::Cancel(Cancel { statement_id: connection.id }));
    assert!(matches!(worker.event(), event::Message::Ended(_)));
    assert_eq!(connection.reply(&[]).failure().kind(), Kind::Interrupted);
}
