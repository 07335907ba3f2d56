//! Owns the type map: what an Iceberg type is called in SQL, and which Arrow type DuckDB gives it. Refuses to convert values.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::Value;

use super::LakeError;
use super::bounds::MAX_DEPTH;

/// A column of a table's current schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// Its type as DuckDB writes it, `DECIMAL(12,2)`.
    pub sql_type: String,
    /// Its type as DuckDB's results carry it.
    pub data_type: DataType,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// Its documentation.
    pub comment: Option<String>,
    /// DuckDB reads it, and as these types say. Of others it has types of its own, or it cannot read their table.
    pub is_read_so: bool,
}

impl Column {
    /// About the bytes that it takes in memory.
    #[must_use]
    pub fn weight(&self) -> usize {
        let texts = self.name.len() + self.sql_type.len() + self.comment.as_ref().map_or(0, String::len);
        size_of::<Self>() + texts + self.data_type.size()
    }
}

/// A type of Iceberg's.
struct Typed {
    sql: String,
    arrow: DataType,
    is_read_so: bool,
}

/// The columns of table metadata's current schema, in order.
///
/// # Errors
/// `Invalid` when the metadata has no such schema or a type cannot be read. A type that DuckDB cannot read is no error here: its
/// column is listed under the Iceberg name of the type, as text.
pub fn columns(metadata: &Value) -> Result<Vec<Column>, LakeError> {
    columns_of_schema(metadata, metadata["current-schema-id"].as_i64())
}

/// The columns of the schema with this id; of the current one where there is none.
pub(super) fn columns_of_schema(metadata: &Value, id: Option<i64>) -> Result<Vec<Column>, LakeError> {
    let id = id.or(metadata["current-schema-id"].as_i64());
    let listed = metadata["schemas"].as_array().and_then(|schemas| schemas.iter().find(|s| s["schema-id"].as_i64() == id));
    // Format version 1 may have only this one, of which DuckDB does not read a table.
    let schema = listed.or_else(|| metadata.get("schema"));
    let schema = schema.ok_or_else(|| invalid("the table metadata has no current schema"))?;
    fields_of(schema)?
        .iter()
        .map(|field| {
            let Typed { sql, arrow, is_read_so } = type_of(&field["type"], 0)?;
            Ok(Column {
                name: name_of(field)?.to_owned(),
                sql_type: sql,
                data_type: arrow,
                nullable: !field["required"].as_bool().unwrap_or(false),
                comment: field["doc"].as_str().map(str::to_owned),
                is_read_so: is_read_so && listed.is_some(),
            })
        })
        .collect()
}

fn type_of(iceberg: &Value, depth: usize) -> Result<Typed, LakeError> {
    if depth > MAX_DEPTH {
        return Err(invalid("the table's types are nested too deep"));
    }
    match iceberg {
        Value::String(name) => Ok(primitive(name)),
        Value::Object(nested) => match nested.get("type").and_then(Value::as_str) {
            Some("struct") => struct_of(iceberg, depth),
            Some("list") => {
                let Typed { sql, arrow, is_read_so } = type_of(&iceberg["element"], depth + 1)?;
                let arrow = DataType::List(Arc::new(Field::new("l", arrow, true)));
                Ok(Typed { sql: format!("{sql}[]"), arrow, is_read_so })
            }
            Some("map") => {
                let (key, value) = (type_of(&iceberg["key"], depth + 1)?, type_of(&iceberg["value"], depth + 1)?);
                let entry = Fields::from(vec![Field::new("key", key.arrow, false), Field::new("value", value.arrow, true)]);
                let entries = Arc::new(Field::new("entries", DataType::Struct(entry), false));
                Ok(Typed {
                    sql: format!("MAP({}, {})", key.sql, value.sql),
                    arrow: DataType::Map(entries, false),
                    is_read_so: key.is_read_so && value.is_read_so,
                })
            }
            _ => Err(invalid(format!("unknown nested type {iceberg}"))),
        },
        _ => Err(invalid(format!("unknown type {iceberg}"))),
    }
}

fn struct_of(iceberg: &Value, depth: usize) -> Result<Typed, LakeError> {
    let mut texts = Vec::new();
    let mut fields = Vec::new();
    let mut are_read_so = true;
    for field in fields_of(iceberg)? {
        let name = name_of(field)?;
        let Typed { sql, arrow, is_read_so } = type_of(&field["type"], depth + 1)?;
        texts.push(format!("{} {sql}", quoted(name)));
        fields.push(Field::new(name, arrow, true));
        are_read_so &= is_read_so;
    }
    Ok(Typed { sql: format!("STRUCT({})", texts.join(", ")), arrow: DataType::Struct(fields.into()), is_read_so: are_read_so })
}

fn primitive(name: &str) -> Typed {
    let utc = || Some("UTC".into());
    let (sql, arrow) = match name {
        "boolean" => ("BOOLEAN", DataType::Boolean),
        "int" => ("INTEGER", DataType::Int32),
        "long" => ("BIGINT", DataType::Int64),
        "float" => ("FLOAT", DataType::Float32),
        "double" => ("DOUBLE", DataType::Float64),
        "date" => ("DATE", DataType::Date32),
        "time" => ("TIME", DataType::Time64(TimeUnit::Microsecond)),
        "timestamp" => ("TIMESTAMP", DataType::Timestamp(TimeUnit::Microsecond, None)),
        "timestamptz" => ("TIMESTAMP WITH TIME ZONE", DataType::Timestamp(TimeUnit::Microsecond, utc())),
        "timestamp_ns" => ("TIMESTAMP_NS", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        // DuckDB has no type for instants finer than a microsecond.
        "timestamptz_ns" => ("TIMESTAMP WITH TIME ZONE", DataType::Timestamp(TimeUnit::Microsecond, utc())),
        "string" => ("VARCHAR", DataType::Utf8),
        "uuid" => ("UUID", DataType::Utf8),
        "binary" => ("BLOB", DataType::Binary),
        _ if name.starts_with("fixed[") => ("BLOB", DataType::Binary),
        _ => {
            let unknown = || Typed { sql: name.to_uppercase(), arrow: DataType::Utf8, is_read_so: false };
            return decimal(name).unwrap_or_else(unknown);
        }
    };
    Typed { sql: sql.to_owned(), arrow, is_read_so: name != "timestamptz_ns" }
}

fn decimal(name: &str) -> Option<Typed> {
    let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let is_read_so = (1..=38).contains(&precision) && scale.try_into().is_ok_and(|scale: u8| scale <= precision);
    Some(Typed { sql: format!("DECIMAL({precision},{scale})"), arrow: DataType::Decimal128(precision, scale), is_read_so })
}

fn fields_of(schema: &Value) -> Result<&Vec<Value>, LakeError> {
    schema["fields"].as_array().ok_or_else(|| invalid("a struct has no fields"))
}

fn name_of(field: &Value) -> Result<&str, LakeError> {
    field["name"].as_str().ok_or_else(|| invalid("a column has no name"))
}

fn invalid(reason: impl Into<String>) -> LakeError {
    LakeError::Invalid(reason.into())
}

/// A member's name as DuckDB writes it inside a type.
fn quoted(name: &str) -> String {
    let mut letters = name.chars();
    let plain = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !KEYWORDS.split_whitespace().any(|keyword| keyword.eq_ignore_ascii_case(name));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The words that DuckDB 1.5 quotes when they are names (`duckdb_keywords()`, all but the unreserved ones).
const KEYWORDS: &str = "
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create default deferrable
    desc describe distinct do else end except false fetch for foreign from group having in initially intersect into lambda lateral
    leading limit not null offset on only or order pivot pivot_longer pivot_wider placing primary qualify references returning
    select show some summarize symmetric table then to trailing true union unique unpivot using variadic when where window with
    anti asof at authorization between bigint binary bit boolean by char character coalesce collation columns concurrently cross
    dec decimal exists extract float freeze full generated glob grouping grouping_id ilike inner inout int integer interval is
    isnull join left like map national natural nchar none notnull nullif numeric out outer overlaps overlay position positional
    precision real right row semi setof similar smallint struct substring tablesample time timestamp treat trim try_cast unpack
    values varchar verbose xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize
    xmltable";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(iceberg: Value) -> (String, DataType) {
        let Typed { sql, arrow, .. } = type_of(&iceberg, 0).unwrap();
        (sql, arrow)
    }

    #[test]
    fn of_types_that_duckdb_reads_otherwise_or_not_it_is_said() {
        let list = |element: &str| json!({ "type": "list", "element-id": 1, "element": element, "element-required": false });
        let map = |key: &str, value: &str| json!({ "type": "map", "key-id": 1, "key": key, "value-id": 2, "value": value });
        let field = |of: &str| json!({ "type": "struct", "fields": [{ "id": 1, "name": "a", "required": true, "type": of }] });
        for iceberg in
            [json!("uuid"), json!("decimal(38,38)"), json!("timestamp_ns"), list("int"), map("int", "date"), field("time")]
        {
            assert!(type_of(&iceberg, 0).unwrap().is_read_so, "{iceberg}");
        }
        for iceberg in [
            json!("timestamptz_ns"),
            json!("variant"),
            json!("UUID"),
            json!("varchar"),
            json!("decimal(39,2)"),
            json!("decimal(0,0)"),
            json!("decimal(5,-2)"),
            json!("decimal(5,6)"),
            list("unknown"),
            map("geometry", "int"),
            map("int", "geometry"),
            field("timestamptz_ns"),
        ] {
            assert!(!type_of(&iceberg, 0).unwrap().is_read_so, "{iceberg}");
        }
        let fields = json!([{ "id": 1, "name": "a", "required": true, "type": "int" }]);
        let is_read_so = |metadata: &Value| columns(metadata).unwrap()[0].is_read_so;
        assert!(is_read_so(&json!({ "current-schema-id": 0, "schemas": [{ "schema-id": 0, "fields": fields }] })));
        assert!(!is_read_so(&json!({ "schema": { "fields": fields } })));
    }

    #[test]
    fn every_iceberg_type_has_its_sql_name_and_arrow_type() {
        let utc: Option<Arc<str>> = Some("UTC".into());
        for (iceberg, sql, arrow) in [
            ("boolean", "BOOLEAN", DataType::Boolean),
            ("int", "INTEGER", DataType::Int32),
            ("long", "BIGINT", DataType::Int64),
            ("float", "FLOAT", DataType::Float32),
            ("double", "DOUBLE", DataType::Float64),
            ("decimal(12, 2)", "DECIMAL(12,2)", DataType::Decimal128(12, 2)),
            ("decimal(38,0)", "DECIMAL(38,0)", DataType::Decimal128(38, 0)),
            ("date", "DATE", DataType::Date32),
            ("time", "TIME", DataType::Time64(TimeUnit::Microsecond)),
            ("timestamp", "TIMESTAMP", DataType::Timestamp(TimeUnit::Microsecond, None)),
            ("timestamptz", "TIMESTAMP WITH TIME ZONE", DataType::Timestamp(TimeUnit::Microsecond, utc)),
            ("timestamp_ns", "TIMESTAMP_NS", DataType::Timestamp(TimeUnit::Nanosecond, None)),
            ("string", "VARCHAR", DataType::Utf8),
            ("uuid", "UUID", DataType::Utf8),
            ("binary", "BLOB", DataType::Binary),
            ("fixed[16]", "BLOB", DataType::Binary),
            ("variant", "VARIANT", DataType::Utf8),
        ] {
            assert_eq!(one(json!(iceberg)), (sql.to_owned(), arrow), "{iceberg}");
        }
    }

    #[test]
    fn nested_types_are_written_as_duckdb_writes_them() {
        let (sql, arrow) = one(json!({
            "type": "struct",
            "fields": [
                { "id": 1, "name": "a", "required": true, "type": "int" },
                { "id": 2, "name": "select", "required": false, "type": { "type": "list", "element-id": 3, "element": "string", "element-required": false } },
                { "id": 4, "name": "say \"x\"", "required": false, "type": {
                    "type": "map", "key-id": 5, "key": "string", "value-id": 6, "value": "long", "value-required": false } },
            ],
        }));
        assert_eq!(sql, r#"STRUCT(a INTEGER, "select" VARCHAR[], "say ""x""" MAP(VARCHAR, BIGINT))"#);
        let entries = Field::new(
            "entries",
            DataType::Struct(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)].into()),
            false,
        );
        assert_eq!(
            arrow,
            DataType::Struct(
                vec![
                    Field::new("a", DataType::Int32, true),
                    Field::new("select", DataType::List(Arc::new(Field::new("l", DataType::Utf8, true))), true),
                    Field::new("say \"x\"", DataType::Map(Arc::new(entries), false), true),
                ]
                .into()
            )
        );
    }

    #[test]
    fn the_columns_are_those_of_the_current_schema() {
        let found = columns(&json!({
            "current-schema-id": 1,
            "schemas": [
                { "schema-id": 0, "type": "struct", "fields": [{ "id": 1, "name": "old", "required": false, "type": "int" }] },
                { "schema-id": 1, "type": "struct", "fields": [
                    { "id": 1, "name": "id", "required": true, "type": "long", "doc": "the key" },
                    { "id": 2, "name": "at", "required": false, "type": "timestamptz" },
                ] },
            ],
        }))
        .unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].nullable, found[0].comment.as_deref()), ("id", false, Some("the key")));
        assert_eq!((found[1].sql_type.as_str(), found[1].nullable), ("TIMESTAMP WITH TIME ZONE", true));
    }

    #[test]
    fn metadata_without_a_current_schema_is_an_error() {
        assert!(columns(&json!({ "current-schema-id": 5, "schemas": [] })).is_err());
        assert!(columns(&json!({})).is_err());
    }

    #[test]
    fn endless_nesting_is_an_error_and_no_stack_overflow() {
        let mut nested = json!("int");
        for _ in 0..MAX_DEPTH + 2 {
            nested = json!({ "type": "list", "element-id": 1, "element": nested, "element-required": false });
        }
        assert!(type_of(&nested, 0).is_err());
    }
}
