//! Owns how Arrow types look to drivers: their SQL names, the `ARROW:FLIGHT:SQL:*` metadata of fields (the ODBC driver crashes without
//! it), the answer to GetXdbcTypeInfo, and schemas as IPC bytes. Refuses to know where a column comes from.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};
use arrow_flight::{FlightData, IpcMessage, SchemaAsIpc};
use bytes::Bytes;

use super::FlightError;
use crate::names::TableRef;

/// The name of a type in SQL.
pub(super) fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "UTINYINT".to_owned(),
        DataType::UInt16 => "USMALLINT".to_owned(),
        DataType::UInt32 => "UINTEGER".to_owned(),
        DataType::UInt64 => "UBIGINT".to_owned(),
        DataType::Float16 | DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BLOB".to_owned(),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("{}[]", sql_name(item.data_type()))
        }
        DataType::FixedSizeList(item, len) => format!("{}[{len}]", sql_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("\"{}\" {}", field.name().replace('"', "\"\""), sql_name(field.data_type())))
                .collect();
            format!("STRUCT({})", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("MAP({}, {})", sql_name(pair[0].data_type()), sql_name(pair[1].data_type()))
            }
            _ => "MAP".to_owned(),
        },
        DataType::Dictionary(_, value) => sql_name(value),
        DataType::RunEndEncoded(_, value) => sql_name(value.data_type()),
        DataType::Union(..) => "UNION".to_owned(),
    }
}

/// Precision and scale as drivers show them: digits of numbers, characters of dates and times.
fn precision_and_scale(data_type: &DataType) -> (Option<i32>, Option<i32>) {
    match data_type {
        DataType::Boolean => (Some(1), None),
        DataType::Int8 | DataType::UInt8 => (Some(3), Some(0)),
        DataType::Int16 | DataType::UInt16 => (Some(5), Some(0)),
        DataType::Int32 | DataType::UInt32 => (Some(10), Some(0)),
        DataType::Int64 => (Some(19), Some(0)),
        DataType::UInt64 => (Some(20), Some(0)),
        DataType::Float16 | DataType::Float32 => (Some(7), None),
        DataType::Float64 => (Some(15), None),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => (Some(i32::from(*precision)), Some(i32::from(*scale))),
        DataType::Date32 | DataType::Date64 => (Some(10), None),
        DataType::Time32(unit) | DataType::Time64(unit) => with_fraction(8, *unit),
        DataType::Timestamp(unit, _) => with_fraction(19, *unit),
        _ => (None, None),
    }
}

fn with_fraction(whole: i32, unit: TimeUnit) -> (Option<i32>, Option<i32>) {
    let digits = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    (Some(if digits == 0 { whole } else { whole + 1 + digits }), Some(digits))
}

/// What drivers read of a table in each of its columns.
pub(super) fn names_of(table: &TableRef) -> [(&'static str, String); 4] {
    [
        ("ARROW:FLIGHT:SQL:CATALOG_NAME", table.catalog.to_string()),
        ("ARROW:FLIGHT:SQL:SCHEMA_NAME", table.namespace.to_string()),
        ("ARROW:FLIGHT:SQL:DB_SCHEMA_NAME", table.namespace.to_string()),
        ("ARROW:FLIGHT:SQL:TABLE_NAME", table.table.clone()),
    ]
}

/// What drivers read of a column by its type.
pub(super) fn marks_of(data_type: &DataType, is_of_table: bool) -> impl Iterator<Item = (&'static str, String)> {
    let (precision, scale) = precision_and_scale(data_type);
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let yes_no = |yes: bool| if yes { "1" } else { "0" }.to_owned();
    let marks = [
        ("ARROW:FLIGHT:SQL:TYPE_NAME", Some(sql_name(data_type))),
        ("ARROW:FLIGHT:SQL:PRECISION", precision.map(|precision| precision.to_string())),
        ("ARROW:FLIGHT:SQL:SCALE", scale.map(|scale| scale.to_string())),
        ("ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT", Some(yes_no(false))),
        ("ARROW:FLIGHT:SQL:IS_CASE_SENSITIVE", Some(yes_no(is_text))),
        ("ARROW:FLIGHT:SQL:IS_READ_ONLY", Some(yes_no(!is_of_table))),
        ("ARROW:FLIGHT:SQL:IS_SEARCHABLE", Some(yes_no(true))),
    ];
    marks.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

fn described(field: &FieldRef, table: Option<&TableRef>) -> FieldRef {
    let mut metadata = field.metadata().clone();
    for (key, value) in table.into_iter().flat_map(names_of).chain(marks_of(field.data_type(), table.is_some())) {
        metadata.entry(key.to_owned()).or_insert(value);
    }
    Arc::new(Field::clone(field).with_metadata(metadata))
}

/// The schema with the metadata that drivers read; keys that are there already stay. `table` for the columns of a table, `None` for
/// those of a result.
pub(super) fn with_metadata(schema: &Schema, table: Option<&TableRef>) -> Schema {
    let fields: Vec<FieldRef> = schema.fields().iter().map(|field| described(field, table)).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

/// A schema as an encapsulated IPC message, as `FlightInfo` and its like carry it.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Bytes, FlightError> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into()?;
    Ok(bytes)
}

/// The first message of a stream.
pub(super) fn schema_message(schema: &Schema) -> FlightData {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into()
}

/// The schema message of a result with the metadata that drivers read. Dictionary ids are given anew when a schema is encoded, so a
/// schema with dictionaries stays as it is.
pub(super) fn schema_header_with_metadata(header: Bytes) -> Bytes {
    match try_schema_from_flatbuffer_bytes(&header) {
        Ok(schema) if !schema.fields().iter().any(|field| has_dictionary(field.data_type())) => {
            schema_message(&with_metadata(&schema, None)).data_header
        }
        _ => header,
    }
}

fn has_dictionary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..) => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => has_dictionary(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_dictionary(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| has_dictionary(field.data_type())),
        _ => false,
    }
}

/// The types of columns that a table can have, for GetXdbcTypeInfo.
pub(super) fn xdbc_types() -> Result<XdbcTypeInfoData, FlightError> {
    use XdbcDataType as X;
    let quote = Some("'");
    let mut types = XdbcTypeInfoDataBuilder::new();
    types.append(column_type("BOOLEAN", X::XdbcBit, DataType::Boolean, None));
    types.append(column_type("INTEGER", X::XdbcInteger, DataType::Int32, None));
    types.append(column_type("BIGINT", X::XdbcBigint, DataType::Int64, None));
    types.append(column_type("FLOAT", X::XdbcReal, DataType::Float32, None));
    types.append(column_type("DOUBLE", X::XdbcDouble, DataType::Float64, None));
    let mut decimal = column_type("DECIMAL", X::XdbcDecimal, DataType::Decimal128(38, 38), None);
    decimal.create_params = Some(vec!["precision".to_owned(), "scale".to_owned()]);
    decimal.minimum_scale = Some(0);
    types.append(decimal);
    let mut varchar = column_type("VARCHAR", X::XdbcVarchar, DataType::Utf8, quote);
    varchar.column_size = Some(i32::MAX);
    varchar.case_sensitive = true;
    types.append(varchar);
    let mut blob = column_type("BLOB", X::XdbcVarbinary, DataType::Binary, quote);
    blob.column_size = Some(i32::MAX);
    types.append(blob);
    types.append(column_type("DATE", X::XdbcDate, DataType::Date32, quote));
    types.append(column_type("TIME", X::XdbcTime, DataType::Time64(TimeUnit::Microsecond), quote));
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    types.append(column_type("TIMESTAMP", X::XdbcTimestamp, timestamp.clone(), quote));
    let mut zoned = column_type("TIMESTAMP WITH TIME ZONE", X::XdbcTimestamp, timestamp, quote);
    zoned.datetime_subcode = Some(XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone);
    types.append(zoned);
    let mut uuid = column_type("UUID", X::XdbcVarchar, DataType::Utf8, quote);
    uuid.column_size = Some(36);
    types.append(uuid);
    Ok(types.build()?)
}

fn column_type(name: &str, data_type: XdbcDataType, arrow: DataType, quote: Option<&str>) -> XdbcTypeInfo {
    let (precision, scale) = precision_and_scale(&arrow);
    let number = arrow.is_numeric();
    // The general ODBC type of dates and times is "datetime"; the subcode says which.
    let (sql_data_type, datetime_subcode) = match data_type {
        XdbcDataType::XdbcDate => (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeYear)),
        XdbcDataType::XdbcTime => (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeTime)),
        XdbcDataType::XdbcTimestamp => (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp)),
        other => (other, None),
    };
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        column_size: precision,
        literal_prefix: quote.map(str::to_owned),
        literal_suffix: quote.map(str::to_owned),
        create_params: None,
        nullable: Nullable::NullabilityNullable,
        case_sensitive: false,
        searchable: Searchable::Full,
        unsigned_attribute: number.then_some(false),
        fixed_prec_scale: false,
        auto_increment: Some(false),
        local_type_name: Some(name.to_owned()),
        minimum_scale: scale,
        maximum_scale: scale,
        sql_data_type,
        datetime_subcode,
        num_prec_radix: number.then_some(10),
        interval_precision: None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, IntervalUnit};

    use super::*;

    #[test]
    fn every_field_gets_the_metadata_that_odbc_reads() {
        let fields = vec![
            Field::new("d", DataType::Decimal128(18, 2), true),
            Field::new("s", DataType::Utf8, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        ];
        let table =
            TableRef { catalog: "lake".into(), namespace: crate::names::Namespace::from_schema("gold"), table: "t".to_owned() };
        let schema = with_metadata(&Schema::new(fields), Some(&table));
        let get = |field: usize, key: &str| schema.field(field).metadata().get(&format!("ARROW:FLIGHT:SQL:{key}")).cloned();
        assert_eq!(get(0, "TYPE_NAME").unwrap(), "DECIMAL(18,2)");
        assert_eq!((get(0, "PRECISION").unwrap(), get(0, "SCALE").unwrap()), ("18".to_owned(), "2".to_owned()));
        assert_eq!(get(0, "CATALOG_NAME").unwrap(), "lake");
        assert_eq!(get(0, "SCHEMA_NAME").unwrap(), "gold");
        assert_eq!(get(0, "TABLE_NAME").unwrap(), "t");
        assert_eq!((get(1, "IS_CASE_SENSITIVE").unwrap(), get(1, "PRECISION")), ("1".to_owned(), None));
        assert_eq!((get(2, "PRECISION").unwrap(), get(2, "SCALE").unwrap()), ("26".to_owned(), "6".to_owned()));
        for key in ["IS_AUTO_INCREMENT", "IS_CASE_SENSITIVE", "IS_READ_ONLY", "IS_SEARCHABLE"] {
            assert!((0..3).all(|field| get(field, key).is_some()), "{key}");
        }
    }

    #[test]
    fn names_of_nested_types_are_sql() {
        let item = Arc::new(Field::new("item", DataType::Decimal128(4, 1), true));
        let pair =
            DataType::Struct(vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::List(item), true)].into());
        let map = DataType::Map(Arc::new(Field::new("entries", pair.clone(), false)), false);
        assert_eq!(sql_name(&map), "MAP(VARCHAR, DECIMAL(4,1)[])");
        assert_eq!(sql_name(&pair), "STRUCT(\"k\" VARCHAR, \"v\" DECIMAL(4,1)[])");
        assert_eq!(sql_name(&DataType::Interval(IntervalUnit::MonthDayNano)), "INTERVAL");
    }

    #[test]
    fn a_schema_with_dictionaries_keeps_its_message() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let plain = schema_message(&Schema::new(vec![Field::new("a", DataType::Int32, true)])).data_header;
        let coded = schema_message(&Schema::new(vec![Field::new("a", dictionary, true)])).data_header;
        assert_ne!(schema_header_with_metadata(plain.clone()), plain);
        assert_eq!(schema_header_with_metadata(coded.clone()), coded);
    }

    #[test]
    fn type_info_has_19_columns_and_can_be_filtered() {
        let types = xdbc_types().unwrap();
        let all = types.record_batch(None).unwrap();
        assert_eq!((all.num_columns(), all.num_rows()), (19, 13));
        let varchars = types.record_batch(Some(XdbcDataType::XdbcVarchar as i32)).unwrap();
        assert_eq!(varchars.num_rows(), 2);
        assert!(all.column(1).as_primitive::<Int32Type>().values().is_sorted());
    }
}
