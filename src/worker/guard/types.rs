//! Owns the column types of CREATE TABLE: a strict grammar of those that Iceberg has. Refuses the rest, with the column's name and a
//! type to take instead.

use super::grammar::Cursor;
use super::token::Kind;
use super::{Refusal, names};

/// Deepest nesting of LIST, STRUCT and MAP.
const MAX_DEPTH: usize = 16;

/// Largest precision of DECIMAL.
const MAX_PRECISION: u64 = 38;

/// Reads a type and writes it in DuckDB's own spelling.
pub(super) fn read(cursor: &mut Cursor<'_>, column: &str) -> Result<String, Refusal> {
    read_nested(cursor, column, 0).map(|(text, _)| text)
}

/// A type so deep in others, and how many levels it has itself.
fn read_nested(cursor: &mut Cursor<'_>, column: &str, depth: usize) -> Result<(String, usize), Refusal> {
    if depth > MAX_DEPTH {
        return Err(too_deep(column));
    }
    let (mut text, mut height) = base(cursor, column, depth)?;
    while cursor.take_symbol('[') {
        height += 1;
        if depth + height > MAX_DEPTH {
            return Err(too_deep(column));
        }
        if let Some(Kind::Number(_)) = cursor.peek().map(|token| &token.kind) {
            return Err(no_type(column, "an array of fixed length", &format!("{text}[]")));
        }
        cursor.expect_symbol(']')?;
        text.push_str("[]");
    }
    if cursor.peek_word() == "ARRAY" {
        return Err(no_type(column, "ARRAY", &format!("{text}[]")));
    }
    Ok((text, height))
}

fn too_deep(column: &str) -> Refusal {
    Refusal::Unsupported(format!("the type of column {} is nested more than {MAX_DEPTH} levels deep", names::quote(column)))
}

fn base(cursor: &mut Cursor<'_>, column: &str, depth: usize) -> Result<(String, usize), Refusal> {
    let name = cursor.name("a type")?.to_uppercase();
    let mut height = 0;
    let mut inner = |cursor: &mut Cursor<'_>| {
        let (text, levels) = read_nested(cursor, column, depth + 1)?;
        height = height.max(levels + 1);
        Ok(text)
    };
    let text = match name.as_str() {
        "BOOLEAN" | "BOOL" | "LOGICAL" => "BOOLEAN".to_owned(),
        "INTEGER" | "INT" | "INT4" | "SIGNED" => "INTEGER".to_owned(),
        "BIGINT" | "INT8" | "LONG" => "BIGINT".to_owned(),
        "REAL" | "FLOAT" | "FLOAT4" => "FLOAT".to_owned(),
        "DOUBLE" => {
            cursor.take_words(&["PRECISION"]);
            "DOUBLE".to_owned()
        }
        "FLOAT8" => "DOUBLE".to_owned(),
        "DECIMAL" | "NUMERIC" | "DEC" => decimal(cursor, column)?,
        "VARCHAR" | "TEXT" | "STRING" | "CHAR" | "BPCHAR" | "CHARACTER" | "NVARCHAR" => varchar(cursor)?,
        "BLOB" | "BYTEA" | "BINARY" | "VARBINARY" => "BLOB".to_owned(),
        "DATE" => "DATE".to_owned(),
        "UUID" => "UUID".to_owned(),
        "TIME" => time(cursor, column)?,
        "TIMESTAMP" | "DATETIME" => timestamp(cursor)?,
        "TIMESTAMPTZ" => "TIMESTAMP WITH TIME ZONE".to_owned(),
        "STRUCT" | "ROW" => {
            let fields = cursor.list(|cursor| {
                let field = cursor.name("the name of a field")?;
                Ok(format!("{} {}", names::quote(&field), inner(cursor)?))
            })?;
            format!("STRUCT({})", fields.join(", "))
        }
        "MAP" => {
            let sides = cursor.list(inner)?;
            if sides.len() != 2 {
                return Err(Refusal::Syntax(format!(
                    "the type of column {}: MAP takes a key's and a value's type",
                    names::quote(column)
                )));
            }
            format!("MAP({})", sides.join(", "))
        }
        other => return Err(refuse(column, other)),
    };
    Ok((text, height))
}

fn decimal(cursor: &mut Cursor<'_>, column: &str) -> Result<String, Refusal> {
    if cursor.peek_word() != "(" {
        return Ok("DECIMAL(18, 3)".to_owned());
    }
    let numbers = cursor.list(|cursor| cursor.number("a precision"))?;
    let (precision, scale) = match *numbers.as_slice() {
        [precision] => (precision, 0),
        [precision, scale] => (precision, scale),
        _ => return Err(cursor.unexpected("DECIMAL(precision, scale)")),
    };
    if precision == 0 || precision > MAX_PRECISION || scale > precision {
        let message = format!(
            "the type of column {}: DECIMAL takes a precision from 1 to {MAX_PRECISION} and a scale up to it",
            names::quote(column)
        );
        return Err(Refusal::Unsupported(message));
    }
    Ok(format!("DECIMAL({precision}, {scale})"))
}

/// A length is read and dropped, as DuckDB does.
fn varchar(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    cursor.take_words(&["VARYING"]);
    if cursor.peek_word() == "(" {
        cursor.list(|cursor| cursor.number("a length"))?;
    }
    Ok("VARCHAR".to_owned())
}

fn time(cursor: &mut Cursor<'_>, column: &str) -> Result<String, Refusal> {
    if cursor.take_words(&["WITH", "TIME", "ZONE"]) {
        return Err(refuse(column, "TIMETZ"));
    }
    cursor.take_words(&["WITHOUT", "TIME", "ZONE"]);
    Ok("TIME".to_owned())
}

fn timestamp(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if cursor.take_words(&["WITH", "TIME", "ZONE"]) {
        return Ok("TIMESTAMP WITH TIME ZONE".to_owned());
    }
    cursor.take_words(&["WITHOUT", "TIME", "ZONE"]);
    Ok("TIMESTAMP".to_owned())
}

fn refuse(column: &str, name: &str) -> Refusal {
    let instead = match name {
        "TINYINT" | "INT1" | "SMALLINT" | "INT2" | "SHORT" | "UTINYINT" | "USMALLINT" => "INTEGER",
        "UINTEGER" => "BIGINT",
        "UBIGINT" => "DECIMAL(20, 0)",
        "HUGEINT" | "UHUGEINT" | "INT128" => "DECIMAL(38, 0)",
        "ENUM" | "JSON" | "INTERVAL" | "BIT" | "BITSTRING" | "VARINT" | "BIGNUM" => "VARCHAR",
        "TIMETZ" => "TIME",
        "TIMESTAMP_S" | "TIMESTAMP_MS" | "TIMESTAMP_NS" => "TIMESTAMP",
        "UNION" => "STRUCT",
        "GEOMETRY" => "BLOB",
        "VARIANT" => "VARCHAR",
        _ => {
            let known = "BOOLEAN, INTEGER, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), VARCHAR, BLOB, DATE, TIME, TIMESTAMP, TIMESTAMP WITH TIME ZONE, UUID, \
                         type[], STRUCT(name type, …) and MAP(type, type)";
            return Refusal::Unsupported(format!(
                "column {} has the unknown type {name}; the types are {known}",
                names::quote(column)
            ));
        }
    };
    no_type(column, name, instead)
}

fn no_type(column: &str, name: &str, instead: &str) -> Refusal {
    Refusal::Unsupported(format!("column {} has type {name}, which Iceberg has no type for: use {instead}", names::quote(column)))
}
