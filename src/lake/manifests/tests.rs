//! Manifests against the decoder that parses them: what is left of them, what is counted, and what hostile ones cost.

use std::collections::HashMap;

use apache_avro::types::Value;
use apache_avro::{Codec, DeflateSettings, Reader, Schema, Writer};
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, DataFileBuilder, DataFileFormat, Datum, ManifestWriterBuilder, NestedField, PartitionSpec, PrimitiveType,
    Schema as TableSchema, Struct,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::container::{Container, put_bytes, put_long};
use super::*;

/// No limit is reached.
const ALL: Limits = Limits {
    head: 1 << 30,
    unpacked: 1 << 40,
    left: 1 << 40,
    records: 1 << 40,
    values: 1 << 40,
    of_record: 1 << 40,
    passed: 1 << 40,
};

const AT: ManifestAt = ManifestAt { location: String::new(), length: 0, added_by: 7, spec: 0 };

/// Types of any kind, in each other.
fn any_type(random: &mut SmallRng, depth: usize, names: &mut Vec<String>) -> String {
    let simple = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
    let name = format!("n{}", names.len());
    match random.random_range(if depth > 3 { 3 } else { 0 }..10) {
        0 => format!(r#"{{"type":"array","items":{}}}"#, any_type(random, depth + 1, names)),
        1 => format!(r#"{{"type":"map","values":{}}}"#, any_type(random, depth + 1, names)),
        2 => {
            let fields: Vec<String> = (0..random.random_range(0..4))
                .map(|at| format!(r#"{{"name":"f{at}","type":{}}}"#, any_type(random, depth + 1, names)))
                .collect();
            let name = format!("n{}", names.len());
            names.push(name.clone());
            format!(r#"{{"type":"record","name":"{name}","fields":[{}]}}"#, fields.join(","))
        }
        3 => {
            names.push(name.clone());
            format!(r#"{{"type":"fixed","name":"{name}","size":{}}}"#, random.random_range(0..40))
        }
        4 => {
            names.push(name.clone());
            format!(r#"{{"type":"enum","name":"{name}","symbols":["A","B"]}}"#)
        }
        6 => r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#.to_owned(),
        7 => r#"{"type":"long","logicalType":"timestamp-micros"}"#.to_owned(),
        _ => format!("\"{}\"", simple.choose(random).unwrap()),
    }
}

fn field_type(random: &mut SmallRng, names: &mut Vec<String>) -> String {
    let inner = any_type(random, 0, names);
    match random.random_range(0..3) {
        _ if inner == r#""null""# => inner,
        0 => inner,
        1 => format!(r#"["null",{inner}]"#),
        _ => format!(r#"[{inner},"null"]"#),
    }
}

/// A schema of records as manifests have them, with any types.
fn any_schema(random: &mut SmallRng) -> Schema {
    let mut names = Vec::new();
    let mut fields = |random: &mut SmallRng| {
        let fields =
            (0..random.random_range(1..6)).map(|at| format!(r#"{{"name":"f{at}","type":{}}}"#, field_type(random, &mut names)));
        fields.collect::<Vec<_>>().join(",")
    };
    let (before, inner, behind) = (fields(random), fields(random), fields(random).replace(r#"{"name":"f"#, r#"{"name":"g"#));
    let inner = format!(r#"{{"name":"data_file","type":{{"type":"record","name":"d","fields":[{inner}]}}}}"#);
    let schema = format!(r#"{{"type":"record","name":"entry","fields":[{before},{inner},{behind}]}}"#);
    Schema::parse_str(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"))
}

fn any_value(schema: &Schema, random: &mut SmallRng) -> Value {
    let bytes = |random: &mut SmallRng, length: usize| (0..length).map(|_| random.random()).collect::<Vec<u8>>();
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(random.random()),
        Schema::Int => Value::Int(random.random()),
        Schema::Long => Value::Long(random.random()),
        Schema::Float => Value::Float(random.random()),
        Schema::Double => Value::Double(random.random()),
        Schema::TimestampMicros => Value::TimestampMicros(random.random()),
        Schema::Bytes => Value::Bytes({
            let length = random.random_range(0..200);
            bytes(random, length)
        }),
        Schema::String => Value::String("x".repeat(random.random_range(0..200))),
        Schema::Decimal(_) => Value::Decimal(bytes(random, 3).into()),
        Schema::Fixed(fixed) => Value::Fixed(fixed.size, bytes(random, fixed.size)),
        Schema::Enum(of) => Value::Enum(1, of.symbols[1].clone()),
        Schema::Array(of) => Value::Array((0..random.random_range(0..5)).map(|_| any_value(&of.items, random)).collect()),
        Schema::Map(of) => {
            let items = (0..random.random_range(0..5)).map(|at| (format!("k{at}"), any_value(&of.types, random)));
            Value::Map(items.collect())
        }
        Schema::Union(of) => {
            let at = random.random_range(0..of.variants().len());
            Value::Union(at as u32, Box::new(any_value(&of.variants()[at], random)))
        }
        Schema::Record(of) => {
            Value::Record(of.fields.iter().map(|field| (field.name.clone(), any_value(&field.schema, random))).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// What is left of a field, and how many values that is; by the rule as it is told, on the values that the decoder makes.
fn left_of(schema: &Schema, value: Value) -> (Value, u64) {
    let is_small = |schema: &Schema| {
        let is_long = matches!(schema, Schema::Fixed(of) if of.size > 16);
        let is_dear = matches!(
            schema,
            Schema::Bytes | Schema::String | Schema::Array(_) | Schema::Map(_) | Schema::Record(_) | Schema::Decimal(_)
        );
        !is_long && !is_dear
    };
    if let Schema::Union(of) = schema
        && let Some(null) = of.variants().iter().position(|variant| matches!(variant, Schema::Null))
        && !of.variants().iter().all(is_small)
    {
        return (Value::Union(null as u32, Box::new(Value::Null)), 1);
    }
    let number = count(schema, &value);
    (value, number)
}

fn count(schema: &Schema, value: &Value) -> u64 {
    1 + match (schema, value) {
        (Schema::Decimal(_), _) => 1,
        (Schema::Array(of), Value::Array(items)) => items.iter().map(|item| count(&of.items, item)).sum(),
        (Schema::Map(of), Value::Map(items)) => items.values().map(|item| count(&of.types, item)).sum(),
        (Schema::Union(of), Value::Union(at, inner)) => count(&of.variants()[*at as usize], inner),
        (Schema::Record(of), Value::Record(items)) => {
            items.iter().zip(&of.fields).map(|((_, item), field)| count(&field.schema, item)).sum()
        }
        _ => 0,
    }
}

fn slim_value(schema: &Schema, value: Value) -> (Value, u64) {
    let (Schema::Record(of), Value::Record(items)) = (schema, value) else { panic!("no record") };
    let mut number = 0;
    let items = of.fields.iter().zip(items).map(|(field, (name, item))| {
        let is_inner = name == "data_file" && matches!(field.schema, Schema::Record(_));
        let (item, of_item) = if is_inner { slim_value(&field.schema, item) } else { left_of(&field.schema, item) };
        number += of_item;
        (name, item)
    });
    (Value::Record(items.collect()), number)
}

#[test]
fn what_is_left_is_what_the_decoder_reads_and_its_values_are_counted() {
    let mut random = SmallRng::seed_from_u64(11);
    for _ in 0..200 {
        let schema = any_schema(&mut random);
        let codec = if random.random() { Codec::Null } else { Codec::Deflate(DeflateSettings::default()) };
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec);
        for _ in 0..random.random_range(0..8) {
            writer.append(any_value(&schema, &mut random)).unwrap_or_else(|error| panic!("{schema:?}: {error}"));
        }
        let file = writer.into_inner().unwrap();
        let decoded: Vec<Value> = Reader::new(&file[..]).unwrap().map(Result::unwrap).collect();
        let (expected, numbers): (Vec<Value>, Vec<u64>) = decoded.into_iter().map(|record| slim_value(&schema, record)).unzip();
        let slim = slimmed(&file, ALL).unwrap_or_else(|trouble| panic!("{trouble}: {}", schema.canonical_form()));
        let left: Vec<Value> = Reader::new(&slim[..]).unwrap().map(Result::unwrap).collect();
        assert_eq!(left, expected, "{}", schema.canonical_form());
        let (values, largest) = (numbers.iter().sum(), numbers.iter().copied().max().unwrap_or_default());
        let enough = Limits { values, of_record: largest, records: numbers.len() as u64, ..ALL };
        assert_eq!(slimmed(&file, enough).as_ref(), Ok(&slim), "{}", schema.canonical_form());
        if values > 0 {
            let outcome = slimmed(&file, Limits { values: values - 1, ..ALL });
            assert_eq!(outcome, Err(Unreadable::Values(values - 1)));
            let outcome = slimmed(&file, Limits { of_record: largest - 1, ..ALL });
            assert_eq!(outcome, Err(Unreadable::OfRecord(largest - 1)));
            let outcome = slimmed(&file, Limits { records: numbers.len() as u64 - 1, ..ALL });
            assert_eq!(outcome, Err(Unreadable::Records(numbers.len() as u64 - 1)));
        }
    }
}

fn data_file(number: i32) -> DataFile {
    let statistics = |from: u64| (1..40).map(|column| (column, from + column as u64)).collect::<HashMap<i32, u64>>();
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("s3://w/t/data/{number}.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([Some(Literal::int(number % 3)), (number % 2 == 0).then(|| Literal::string("größer"))]))
        .record_count(u64::try_from(number).unwrap() * 10)
        .file_size_in_bytes(u64::try_from(number).unwrap() + 1000)
        .column_sizes(statistics(5))
        .value_counts(statistics(7))
        .null_value_counts(statistics(0))
        .lower_bounds((1..3).map(|column| (column, Datum::int(number))).take(1).collect())
        .key_metadata(Some(vec![1; 100]))
        .split_offsets(Some(vec![4, 500]))
        .sort_order_id(0)
        .build()
        .unwrap()
}

/// A manifest with statistics as other writers make it, of a table whose rows are divided by two of its columns.
async fn manifest(files: i32, version: FormatVersion) -> Vec<u8> {
    let field = |id: i32, of: PrimitiveType| NestedField::optional(id, format!("c{id}"), Type::Primitive(of)).into();
    let fields = [field(1, PrimitiveType::Int), field(2, PrimitiveType::String)];
    let schema = Arc::new(TableSchema::builder().with_fields(fields).build().unwrap());
    let spec = PartitionSpec::builder(schema.clone())
        .add_partition_field("c1", "c1", Transform::Identity)
        .unwrap()
        .add_partition_field("c2", "name", Transform::Identity)
        .unwrap()
        .build()
        .unwrap();
    let io = FileIO::new_with_memory();
    let output = io.new_output("memory:/m.avro").unwrap();
    let builder = ManifestWriterBuilder::new(output, Some(3), schema, spec);
    let mut writer = match version {
        FormatVersion::V1 => builder.build_v1(),
        FormatVersion::V2 => builder.build_v2_data(),
        FormatVersion::V3 => builder.build_v3_data(),
    };
    for number in 0..files {
        writer.add_file(data_file(number), 1).unwrap();
    }
    writer.write_manifest_file().await.unwrap();
    io.new_input("memory:/m.avro").unwrap().read().await.unwrap().to_vec()
}

#[tokio::test]
async fn a_manifest_without_its_statistics_says_the_same_of_its_files() {
    for version in [FormatVersion::V1, FormatVersion::V2, FormatVersion::V3] {
        let whole = manifest(50, version).await;
        let read = live_files(&AT, &whole).unwrap();
        let entries = Manifest::parse_avro(&whole).unwrap().into_parts().0;
        assert_eq!((read.len(), entries.len()), (50, 50));
        for (read, entry) in read.iter().zip(entries) {
            let file = entry.data_file();
            assert_eq!(
                (read.path.as_str(), read.records, read.bytes),
                (file.file_path(), file.record_count(), file.file_size_in_bytes())
            );
            assert_eq!((read.added_by, read.sort_order, read.format.as_str()), (3, Some(0), "PARQUET"));
            assert!(file.column_sizes().len() > 30);
        }
        let partition =
            |number: usize| read[number].partition.iter().map(|(name, value)| (&**name, value.as_deref())).collect::<Vec<_>>();
        assert_eq!(partition(4), [("c1", Some("1")), ("name", Some("größer"))]);
        assert_eq!(partition(5), [("c1", Some("2")), ("name", None)]);
        let slim = slimmed(&whole, MANIFEST).unwrap();
        assert!(slim.len() * 3 < whole.len(), "{} of {}", slim.len(), whole.len());
    }
}

#[tokio::test]
async fn cut_and_changed_manifests_are_read_or_refused() {
    let whole = manifest(6, FormatVersion::V2).await;
    let mut random = SmallRng::seed_from_u64(5);
    let small =
        Limits { unpacked: 1 << 20, left: 1 << 20, records: 1000, values: 100_000, of_record: 1000, passed: 100_000, ..MANIFEST };
    let (mut read, mut refused) = (0, 0);
    for round in 0..600 {
        let mut bytes = whole.clone();
        if round % 3 == 0 {
            bytes.truncate(random.random_range(0..bytes.len()));
        }
        for _ in 0..random.random_range(0..4) {
            if !bytes.is_empty() {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
        // What is left may be nonsense; it is one that can be parsed in bounds.
        match contained(|| slimmed(&bytes, small)) {
            Ok(slim) => {
                assert!(slim.len() < 2 << 20);
                read += 1;
            }
            Err(_) => refused += 1,
        }
        let _ = live_files(&AT, &bytes);
        let _ = manifest_list(&bytes);
    }
    assert!(read > 40 && refused > 40, "{read} {refused}");
}

#[tokio::test]
async fn a_name_at_which_the_decoder_panics_makes_a_broken_file() {
    let mut file = manifest(6, FormatVersion::V2).await;
    let name = b"manifest_entry";
    let at = file.windows(name.len()).position(|bytes| bytes == name).unwrap();
    file[at + 8] = b'-';
    assert!(std::panic::catch_unwind(|| Schema::parse_str(r#"{"type":"fixed","name":"a-b","size":1}"#)).is_err());
    assert_eq!(live_files(&AT, &file), Err(Unreadable::Broken));
    assert_eq!(manifest_list(&file), Err(Unreadable::Broken));
    assert_eq!(
        (super::data_file(&file), files(&file, u64::MAX), manifests(&file, u64::MAX)),
        (Err(Unreadable::Broken), None, None)
    );
}

/// A file with this head, and without records.
fn with_pairs(pairs: &[(&str, String)]) -> Vec<u8> {
    let mut file = b"Obj\x01".to_vec();
    put_long(&mut file, pairs.len());
    for (name, value) in pairs {
        put_bytes(&mut file, name.as_bytes());
        put_bytes(&mut file, value.as_bytes());
    }
    put_long(&mut file, 0);
    file.extend_from_slice(&[7; 16]);
    file
}

/// The same file with other words in its head.
fn with_head(file: &[u8], change: impl Fn(&str, &mut String)) -> Vec<u8> {
    let container = Container::open(file, 1 << 30).unwrap();
    let slim = slimmed(file, ALL).unwrap();
    let records = Container::open(&slim, 1 << 30).unwrap().next(1 << 30).unwrap().unwrap();
    let mut pairs = Vec::new();
    for name in ["avro.schema", "schema", "schema-id", "partition-spec", "partition-spec-id", "format-version", "content"] {
        for value in container.said(name.as_bytes()) {
            let mut value = String::from_utf8(value.to_vec()).unwrap();
            change(name, &mut value);
            pairs.push((name, value));
        }
    }
    let head = with_pairs(&pairs);
    let mut made = head.clone();
    Container::open(&head, 1 << 30).unwrap().put(&mut made, records.records as usize, &records.bytes);
    made
}

#[tokio::test]
async fn a_head_that_multiplies_is_refused() {
    let whole = manifest(6, FormatVersion::V2).await;
    let unchanged = with_head(&whole, |_, _| {});
    assert_eq!(live_files(&AT, &unchanged).unwrap().len(), 6);
    let told = |file: &[u8]| live_files(&AT, file).unwrap_err().to_string();
    // Each field of the specification is a value of each record, although no record has it.
    let specified = with_head(&whole, |name, value| {
        if name == "partition-spec" {
            let field =
                |number| format!(r#"{{"source-id":1,"field-id":{number},"name":"a{number}","transform":"bucket[{number}]"}}"#);
            *value = format!("[{}]", (1000..1600).map(field).collect::<Vec<_>>().join(","));
        }
    });
    assert_eq!(told(&specified), "its head has more than 200 partition fields");
    let namespace = with_head(&whole, |name, value| {
        if name == "avro.schema" {
            *value = value.replacen('{', &format!(r#"{{"namespace":"{}","#, "a".repeat(2000)), 1);
        }
    });
    assert_eq!(told(&namespace), "its head has more than 256 bytes in a namespace");
    let aliases = with_head(&whole, |name, value| {
        if name == "avro.schema" {
            *value = value.replacen('{', &format!(r#"{{"aliases":[{}],"#, vec![r#""a""#; 17].join(",")), 1);
        }
    });
    assert_eq!(told(&aliases), "its head has more than 16 other names for one");
    let deep = with_head(&whole, |name, value| {
        if name == "schema" {
            let list =
                |inner: String, _| format!(r#"{{"type":"list","element-id":9,"element-required":false,"element":{inner}}}"#);
            let deep = (0..70).fold(r#""int""#.to_owned(), list);
            *value = format!(r#"{{"type":"struct","fields":[{{"id":1,"name":"c","required":false,"type":{deep}}}]}}"#);
        }
    });
    assert_eq!(live_files(&AT, &deep), Err(Unreadable::Deep));
    let long = with_head(&whole, |name, value| {
        if name == "schema" {
            value.push_str(&" ".repeat(MANIFEST.head));
        }
    });
    assert_eq!(live_files(&AT, &long), Err(Unreadable::Head(MANIFEST.head as u64)));
}

#[test]
fn points_in_time_are_written_or_given_as_their_number() {
    let point = Type::Primitive(iceberg::spec::PrimitiveType::Timestamptz);
    let written = |micros| text(Transform::Identity, &point, &Literal::timestamptz(micros));
    assert_eq!(written(1_500_000).unwrap(), "1970-01-01 00:00:01.500 UTC");
    assert_eq!(written(-500_000).unwrap(), "1969-12-31 23:59:59.500 UTC");
    assert_eq!(written(i64::MAX).unwrap(), i64::MAX.to_string());
}

/// A file of one block.
fn file_of(schema: &str, records: usize, bytes: &[u8]) -> Vec<u8> {
    let empty = Writer::new(&Schema::parse_str(schema).unwrap(), Vec::new()).into_inner().unwrap();
    let container = Container::open(&empty, 1 << 20).unwrap();
    let mut file = container.anew();
    container.put(&mut file, records, bytes);
    file
}

fn record(of: &str) -> String {
    format!(r#"{{"type":"record","name":"r","fields":[{{"name":"f","type":{of}}}]}}"#)
}

#[test]
fn values_of_no_bytes_and_false_lengths_are_counted_or_refused() {
    let tight = Limits { values: 100_000, of_record: 10_000, passed: 200_000, ..MANIFEST };
    // 2^62 items.
    let many = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0];
    let nulls = r#"{"type":"array","items":"null"}"#;
    assert_eq!(slimmed(&file_of(&record(nulls), 1, &many), tight), Err(Unreadable::OfRecord(10_000)));
    let left_out = [&[2][..], &many].concat();
    let optional = record(&format!(r#"["null",{nulls}]"#));
    assert_eq!(slimmed(&file_of(&optional, 1, &left_out), tight), Err(Unreadable::Values(200_000)));
    // -2^63 items, and a length of its own.
    let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0];
    assert_eq!(slimmed(&file_of(&record(nulls), 1, &negative), tight), Err(Unreadable::OfRecord(10_000)));
    // Two items of null in a block that says how long it is, whatever it says.
    for length in [0, 8, 0x7f] {
        let file = file_of(&record(nulls), 1, &[3, length, 0]);
        assert_eq!(slimmed(&file, tight).map(|slim| slim.len()), Ok(file.len()));
    }
    // More records than there are bytes.
    let file = file_of(&record(r#""null""#), 200_001, &[]);
    assert_eq!(slimmed(&file, MANIFEST), Err(Unreadable::Records(200_000)));
    // A text that is longer than its block.
    assert_eq!(slimmed(&file_of(&record(r#""string""#), 1, &[0xfe, 0xff, 0xff, 0xff, 0x0f, 1]), tight), Err(Unreadable::Broken));
    // Bytes behind the last record.
    assert_eq!(slimmed(&file_of(&record(r#""int""#), 1, &[0, 0]), tight), Err(Unreadable::Broken));
}

#[test]
fn schemas_that_call_types_by_their_names_or_go_too_deep_are_refused() {
    let tight = Limits { values: 100_000, of_record: 10_000, passed: 200_000, ..MANIFEST };
    let itself = record(r#"{"type":"record","name":"x","fields":[{"name":"x","type":["null","x"]}]}"#);
    assert_eq!(slimmed(&file_of(&itself, 1, &[0]), tight), Err(Unreadable::Broken));
    // The decoder takes the `r2` of its own, which is a record with lists in it, for what is called so here.
    let other = r#"{"type":"record","name":"m","fields":[{"name":"x","type":["null",{"type":"fixed","name":"r2","size":200}]},
        {"name":"data_file","type":"r2"}]}"#;
    assert_eq!(slimmed(&file_of(other, 1, &[0; 201]), tight), Err(Unreadable::Broken));
    let twice = |name: &str| {
        let fields =
            format!(r#"{{"name":"a","type":{{"type":"fixed","name":"{name}","size":4}}}},{{"name":"b","type":"{name}"}}"#);
        format!(r#"{{"type":"record","name":"m","fields":[{fields}]}}"#)
    };
    for name in ["decimal_9_2", "fixed_4"] {
        let told = slimmed(&file_of(&twice(name), 1, &[0; 8]), tight).unwrap_err().to_string();
        assert!(told.contains("partitioned by several columns of one decimal or fixed type"), "{told}");
    }
    let uuid = record(r#"{"type":"fixed","name":"uuid_fixed","size":16,"logicalType":"uuid"}"#);
    let told = slimmed(&with_pairs(&[("avro.schema", uuid)]), tight).unwrap_err().to_string();
    assert!(told.contains("partitioned by a column of UUIDs"), "{told}");
    let nested = (0..60).fold(r#""int""#.to_owned(), |inner, _| format!(r#"{{"type":"array","items":{inner}}}"#));
    assert_eq!(slimmed(&file_of(&record(&nested), 1, &[0]), tight), Err(Unreadable::Deep));
}

#[tokio::test]
async fn giant_statistics_are_passed_over() {
    let whole = manifest(1, FormatVersion::V2).await;
    let container = Container::open(&whole, 1 << 20).unwrap();
    let schema = Schema::parse_str(container.schema().unwrap()).unwrap();
    let Schema::Record(entry) = &schema else { panic!("no record") };
    // Status, snapshot and sequence numbers; content, path, format, partition, rows, bytes; then the first of the statistics.
    let mut bytes = vec![2, 2, 2, 0, 0, 0, 2, b'p', 14];
    bytes.extend_from_slice(b"PARQUET");
    bytes.extend_from_slice(&[2, 2, 0, 2, 2]);
    let items = 50_000;
    bytes.push(2);
    put_long(&mut bytes, items);
    bytes.extend(std::iter::repeat_n(2, 2 * items));
    bytes.push(0);
    let Schema::Record(file) = &entry.fields.last().unwrap().schema else { panic!("no file") };
    let at = file.fields.iter().position(|field| field.name == "column_sizes").unwrap();
    bytes.extend(std::iter::repeat_n(0, file.fields.len() - at - 1));
    let mut giant = container.anew();
    container.put(&mut giant, 1, &bytes);
    let files = live_files(&AT, &giant).unwrap();
    assert_eq!((files.len(), files[0].path.as_str(), files[0].records), (1, "p", 1));
    assert_eq!(Manifest::parse_avro(&giant).unwrap().entries()[0].data_file().column_sizes().len(), 1, "all of one column");
    let tight = Limits { passed: items as u64, ..MANIFEST };
    assert_eq!(slimmed(&giant, tight), Err(Unreadable::Values(items as u64)));
}
