//! The gather encoder against arrow-ipc's decoder, and DuckDB's own batches of every type on the same way.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int8Array,
    Int64Array, IntervalMonthDayNanoArray, LargeBinaryArray, LargeStringArray, ListArray, NullArray, RecordBatch,
    RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int32Type, IntervalMonthDayNano};

use super::{TestWorker, decode_batch, decode_schema, row};
use crate::wire::proto::failure::Kind;
use crate::wire::{FrameHeader, HEADER_LEN};
use crate::worker::output::encode::{batch, schema};

const ROWS: usize = 300;

/// Reads frames back as a client would.
fn round_trip(given: &RecordBatch) -> RecordBatch {
    let bytes = |encoded: &crate::worker::output::encode::Encoded| {
        encoded.slices().iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
    };
    let split = |bytes: Vec<u8>| {
        let header = FrameHeader::from_bytes(bytes[..HEADER_LEN].try_into().unwrap()).unwrap();
        assert_eq!(header.len as usize, bytes.len() - HEADER_LEN);
        (header, bytes[HEADER_LEN..].to_vec())
    };
    let (header, payload) = split(bytes(&schema(given.schema_ref()).unwrap()));
    let schema = decode_schema(header, &payload);
    let (header, payload) = split(bytes(&batch(given).unwrap()));
    decode_batch(header, payload, schema)
}

fn columns() -> Vec<ArrayRef> {
    let some = |i: usize| !(i * 7919).is_multiple_of(5);
    let text = |i: usize| some(i).then(|| "é".repeat(i % 20));
    let bytes: Vec<Option<Vec<u8>>> = (0..ROWS).map(|i| some(i).then(|| vec![i as u8; i % 9])).collect();
    let list = (0..ROWS).map(|i| some(i).then(|| (0..i % 4).map(|v| some(v).then_some(v as i32)).collect::<Vec<_>>()));
    let interval = |i: usize| some(i).then(|| IntervalMonthDayNano::new(i as i32, -3, i as i64));
    let fixed = (0..ROWS).map(|i| some(i).then_some([i as u8; 5]));
    vec![
        Arc::new((0..ROWS).map(|i| some(i).then_some(i % 3 == 0)).collect::<BooleanArray>()),
        Arc::new((0..ROWS).map(|i| some(i).then_some(i as i8)).collect::<Int8Array>()),
        Arc::new((0..ROWS).map(|i| some(i).then_some(i as i64)).collect::<Int64Array>()),
        Arc::new((0..ROWS).map(|i| Some(i as f64)).collect::<Float64Array>()),
        Arc::new((0..ROWS).map(|i| some(i).then_some(i128::MAX / 7 - i as i128)).collect::<Decimal128Array>()),
        Arc::new((0..ROWS).map(text).collect::<StringArray>()),
        Arc::new((0..ROWS).map(text).collect::<LargeStringArray>()),
        Arc::new(bytes.iter().map(Option::as_deref).collect::<BinaryArray>()),
        Arc::new(bytes.iter().map(Option::as_deref).collect::<LargeBinaryArray>()),
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 5).unwrap()),
        Arc::new((0..ROWS).map(|i| some(i).then_some(i as i64)).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        Arc::new((0..ROWS).map(interval).collect::<IntervalMonthDayNanoArray>()),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list)),
        Arc::new(NullArray::new(ROWS)),
    ]
}

#[test]
fn every_slice_of_every_type_is_read_back() {
    for column in columns() {
        for (offset, len) in [(0, ROWS), (1, ROWS - 1), (7, 100), (64, 128), (ROWS, 0), (8, 1), (3, 64)] {
            let given = RecordBatch::try_from_iter_with_nullable(vec![("c", column.slice(offset, len), true)]).unwrap();
            assert_eq!(round_trip(&given), given, "{} at {offset}+{len}", column.data_type());
        }
    }
    let all = columns().into_iter().enumerate().map(|(at, column)| (format!("c{at}"), column, true));
    let given = RecordBatch::try_from_iter_with_nullable(all).unwrap();
    assert_eq!(round_trip(&given.slice(13, 200)), given.slice(13, 200));
}

#[test]
fn a_batch_without_columns_keeps_its_rows() {
    let options = RecordBatchOptions::new().with_row_count(Some(5));
    let given = RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::empty()), vec![], &options).unwrap();
    assert_eq!(round_trip(&given).num_rows(), 5);
}

#[test]
fn every_type_of_duckdb_arrives_and_is_plain() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    let batch = connection.run(&worker, "SELECT * EXCLUDE (bit, bignum) FROM test_all_types()").batch();
    assert_eq!(batch.num_rows(), 3);
    for field in batch.schema_ref().fields() {
        assert!(field.is_nullable() && field.metadata().is_empty());
        assert!(!matches!(field.data_type(), DataType::Dictionary(..) | DataType::Utf8View | DataType::BinaryView), "{field}");
        let given =
            RecordBatch::try_from_iter_with_nullable(vec![("c", batch.column_by_name(field.name()).unwrap().slice(1, 2), true)]);
        let given = given.unwrap();
        assert_eq!(round_trip(&given), given, "{field}");
    }
}

#[test]
fn each_value_arrives_as_duckdb_has_it() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    let sql = "SELECT CASE WHEN i % 3 = 0 THEN NULL ELSE i % 2 = 0 END AS b, CASE WHEN i % 5 = 0 THEN NULL ELSE 'text ' || i END AS t, \
               CAST(i AS DECIMAL(18,3)) AS d, i, CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END::ENUM('even', 'odd') AS e, \
               TIMESTAMPTZ '2024-01-01 00:00:00+00' + to_seconds(i) AS z, NULL AS n FROM range(10000) t(i)";
    let batch = connection.run(&worker, sql).batch();
    assert_eq!(batch.num_rows(), 10_000);
    let texts = batch.column(1).as_string::<i32>();
    for row in 0..10_000 {
        assert_eq!(batch.column(0).is_null(row), row % 3 == 0);
        assert_eq!(texts.is_null(row), row % 5 == 0);
        if row % 5 != 0 {
            assert_eq!(texts.value(row), format!("text {row}"));
        }
        assert_eq!(batch.column(4).as_string::<i32>().value(row), if row % 2 == 0 { "even" } else { "odd" });
    }
    assert!(matches!(batch.column(5).data_type(), DataType::Timestamp(_, Some(zone)) if zone.as_ref() == "UTC"));
}

#[test]
fn variant_is_refused_by_name() {
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    let failure = connection.run(&worker, "SELECT 1 AS a, 2::VARIANT AS v").failure();
    assert_eq!(failure.kind(), Kind::Invalid);
    assert!(failure.message.contains("column \"v\" is VARIANT"), "{}", failure.message);
    let failure = connection.run(&worker, "SELECT ['101'::BIT] AS w").failure();
    assert!(failure.message.contains("column \"w\" is BIT"), "{}", failure.message);
}

#[test]
fn every_type_of_parameter_arrives() {
    use arrow::array::*;
    use arrow::datatypes::*;
    let worker = TestWorker::governed();
    let mut connection = worker.connect();
    let cases: Vec<(&str, ArrayRef, &str)> = vec![
        ("BOOLEAN", Arc::new(BooleanArray::from(vec![true])), "true"),
        ("INTEGER", Arc::new(Int8Array::from(vec![-5])), "-5"),
        ("BIGINT", Arc::new(Int32Array::from(vec![7])), "7"),
        ("INTEGER", Arc::new(Int64Array::from(vec![7])), "7"),
        ("UBIGINT", Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615"),
        ("DOUBLE", Arc::new(Float64Array::from(vec![1.5])), "1.5"),
        ("DECIMAL(10,2)", Arc::new(Decimal128Array::from(vec![12345]).with_precision_and_scale(10, 2).unwrap()), "123.45"),
        (
            "DECIMAL(38,2)",
            Arc::new(Decimal128Array::from(vec![i128::from(u64::MAX) * 1000]).with_precision_and_scale(38, 2).unwrap()),
            "184467440737095516150.00",
        ),
        ("DECIMAL(4,1)", Arc::new(Decimal128Array::from(vec![-11]).with_precision_and_scale(4, 1).unwrap()), "-1.1"),
        ("DECIMAL(10,2)", Arc::new(Int64Array::from(vec![3])), "3.00"),
        ("VARCHAR", Arc::new(StringArray::from(vec!["it's"])), "it's"),
        ("VARCHAR", Arc::new(StringViewArray::from(vec!["é"])), "é"),
        ("DATE", Arc::new(Date32Array::from(vec![19723])), "2024-01-01"),
        ("DATE", Arc::new(Date64Array::from(vec![19723 * 86_400_000])), "2024-01-01"),
        ("DATE", Arc::new(StringArray::from(vec!["2024-01-01"])), "2024-01-01"),
        ("TIME", Arc::new(Time64MicrosecondArray::from(vec![3_600_000_000])), "01:00:00"),
        ("TIME", Arc::new(Time32SecondArray::from(vec![3600])), "01:00:00"),
        ("TIMESTAMP", Arc::new(TimestampSecondArray::from(vec![1_704_067_200])), "2024-01-01 00:00:00"),
        ("TIMESTAMP", Arc::new(TimestampMillisecondArray::from(vec![1_704_067_200_001])), "2024-01-01 00:00:00.001"),
        ("TIMESTAMP", Arc::new(TimestampMicrosecondArray::from(vec![1_704_067_200_000_001])), "2024-01-01 00:00:00.000001"),
        (
            "TIMESTAMP_NS",
            Arc::new(TimestampNanosecondArray::from(vec![1_704_067_200_000_000_001])),
            "2024-01-01 00:00:00.000000001",
        ),
        (
            "TIMESTAMPTZ",
            Arc::new(TimestampMillisecondArray::from(vec![1_704_067_200_000]).with_timezone("Europe/Berlin")),
            "2024-01-01 00:00:00+00",
        ),
        (
            "INTERVAL",
            Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 2, 3000)])),
            "1 month 2 days 00:00:00.000003",
        ),
        ("BLOB", Arc::new(BinaryArray::from(vec![b"a\x00b".as_slice()])), "a\\x00b"),
        ("VARCHAR", Arc::new(vec!["x"].into_iter().collect::<DictionaryArray<Int8Type>>()), "x"),
        (
            "UUID",
            Arc::new(StringArray::from(vec!["8a6e0804-2bd0-4672-b79d-d97027f9071a"])),
            "8a6e0804-2bd0-4672-b79d-d97027f9071a",
        ),
    ];
    for (sql_type, value, expected) in cases {
        let given = value.data_type().clone();
        let batch = connection.run_with(
            &worker,
            &format!("SELECT CAST(CAST(? AS {sql_type}) AS VARCHAR) AS v"),
            row(vec![("1", value.clone())]),
        );
        assert_eq!(batch.batch().column(0).as_string::<i32>().value(0), expected, "{given} as {sql_type}");
        // The same without a type in the statement.
        let batch = connection.run_with(&worker, "SELECT ? AS v", row(vec![("1", value)])).batch();
        assert_eq!(batch.num_rows(), 1);
    }
    for sql_type in ["INTEGER", "VARCHAR", "DATE", "DECIMAL(10,2)"] {
        let null: ArrayRef = arrow::array::new_null_array(&DataType::Utf8, 1);
        let batch = connection.run_with(&worker, &format!("SELECT CAST(? AS {sql_type}) AS v"), row(vec![("1", null)])).batch();
        assert!(batch.column(0).is_null(0));
    }
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)])]));
    let failure = connection.run_with(&worker, "SELECT ? AS v", row(vec![("1", list)])).failure();
    assert_eq!(failure.kind(), Kind::Parameters);
    assert!(failure.message.starts_with("parameter 1 of type List"), "{}", failure.message);
    // A value that the parameter's type cannot hold is compared, not cut.
    let half: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    let batch = connection.run_with(&worker, "SELECT i FROM range(3) t(i) WHERE i > ?", row(vec![("1", half)])).batch();
    assert_eq!(batch.num_rows(), 1);
    let huge: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
    let batch =
        connection.run_with(&worker, "SELECT i FROM range(3) t(i) WHERE CAST(i AS INTEGER) < ?", row(vec![("1", huge)])).batch();
    assert_eq!(batch.num_rows(), 3);
}
