//! Owns CREATE SCHEMA, CREATE TABLE, CREATE TABLE AS, DROP TABLE and DROP SCHEMA, by a strict grammar. Refuses what Iceberg or
//! DuckDB's extension for it cannot do, and options that would move a table's files. `alter` owns ALTER TABLE.

mod alter;

pub(super) use self::alter::judge as alter;
use super::grammar::Cursor;
use super::token::Kind;
use super::{Parser, Reads, Refusal, SUPPORTED, Scope, Verdict, names, query, types, verdict};
use crate::wire::proto;

/// Transforms of PARTITIONED BY, and whether they take a number.
const TRANSFORMS: [(&str, bool); 7] = [
    ("identity", false),
    ("year", false),
    ("month", false),
    ("day", false),
    ("hour", false),
    ("bucket", true),
    ("truncate", true),
];

/// Table properties that WITH may set, by how they begin.
const OPTIONS: [&str; 5] = ["format-version", "write.", "read.", "commit.", "history."];

/// Judges a CREATE.
pub(super) fn create(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.expect_words(&["CREATE"])?;
    if cursor.take_words(&["OR", "REPLACE"]) {
        return Err(unsupported("CREATE OR REPLACE", "drop the table first, or use CREATE TABLE IF NOT EXISTS"));
    }
    match cursor.peek_word().as_str() {
        "SCHEMA" => create_schema(scope, cursor),
        "TABLE" => create_table(parser, scope, cursor),
        word @ ("TEMP" | "TEMPORARY" | "LOCAL" | "GLOBAL" | "UNLOGGED") => {
            Err(unsupported(&format!("CREATE {word}"), "use a WITH clause, or a table of the catalog"))
        }
        "VIEW" | "MATERIALIZED" | "RECURSIVE" => Err(unsupported("CREATE VIEW", "use a WITH clause, or CREATE TABLE AS")),
        word => Err(unsupported(&format!("CREATE {word}"), SUPPORTED)),
    }
}

/// Judges a DROP.
pub(super) fn drop(scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.expect_words(&["DROP"])?;
    match cursor.peek_word().as_str() {
        "TABLE" => {
            cursor.next();
            let if_exists = if_exists(cursor);
            let target = table(scope, cursor)?;
            end_of_drop(cursor)?;
            let sql = format!("DROP TABLE {if_exists}{}", names::quote_table(&target));
            Ok(Verdict { target: Some(target), ..verdict(proto::Class::Ddl, sql, Reads::default()) })
        }
        "SCHEMA" => {
            cursor.next();
            let if_exists = if_exists(cursor);
            let schema = schema(scope, cursor)?;
            end_of_drop(cursor)?;
            Ok(verdict(proto::Class::Ddl, format!("DROP SCHEMA {if_exists}{schema}"), Reads::default()))
        }
        word => Err(unsupported(&format!("DROP {word}"), SUPPORTED)),
    }
}

fn if_exists(cursor: &mut Cursor<'_>) -> &'static str {
    if cursor.take_words(&["IF", "EXISTS"]) { "IF EXISTS " } else { "" }
}

fn if_not_exists(cursor: &mut Cursor<'_>) -> &'static str {
    if cursor.take_words(&["IF", "NOT", "EXISTS"]) { "IF NOT EXISTS " } else { "" }
}

fn end_of_drop(cursor: &mut Cursor<'_>) -> Result<(), Refusal> {
    match cursor.peek_word().as_str() {
        "CASCADE" => Err(unsupported("CASCADE", "drop the schema's tables one by one")),
        "," => Err(unsupported("dropping several things at once", "write a statement for each")),
        _ => {
            cursor.take_words(&["RESTRICT"]);
            cursor.expect_end()
        }
    }
}

fn create_schema(scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.next();
    let if_not_exists = if_not_exists(cursor);
    let schema = schema(scope, cursor)?;
    cursor.expect_end()?;
    Ok(verdict(proto::Class::Ddl, format!("CREATE SCHEMA {if_not_exists}{schema}"), Reads::default()))
}

fn create_table(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.next();
    let if_not_exists = if_not_exists(cursor);
    let target = table(scope, cursor)?;
    let head = format!("CREATE TABLE {if_not_exists}{}", names::quote_table(&target));
    let columns = if cursor.peek_word() == "(" { Some(cursor.list(column)?.join(", ")) } else { None };
    let layout = format!("{}{}", partitions(cursor)?, options(cursor)?);
    let (sql, reads) = match columns {
        Some(columns) => {
            if cursor.peek_word() == "AS" {
                return Err(unsupported("a list of columns before AS", "name the columns in the query"));
            }
            cursor.expect_end()?;
            (format!("{head} ({columns}){layout}"), Reads::default())
        }
        None => {
            cursor.expect_words(&["AS"])?;
            let mut endings =
                [&["WITH", "DATA"][..], &["WITH", "NO", "DATA"][..]].into_iter().flat_map(|words| cursor.behind_words(words));
            if endings.any(|behind| behind.at_end()) {
                return Err(unsupported("WITH [NO] DATA", "leave it out; LIMIT 0 makes an empty table"));
            }
            let query::Query { sql, reads } = query::judge(parser, scope, cursor.rest())?;
            (format!("{head}{layout} AS {sql}"), reads)
        }
    };
    Ok(Verdict { target: Some(target), creates_target: true, ..verdict(proto::Class::Ddl, sql, reads) })
}

/// `name type [NOT NULL | NULL]`.
fn column(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if matches!(cursor.peek_word().as_str(), "PRIMARY" | "UNIQUE" | "FOREIGN" | "CHECK" | "CONSTRAINT" | "LIKE") {
        return Err(no_constraint(&cursor.peek_word()));
    }
    let name = cursor.name("the name of a column")?;
    if [",", ")"].contains(&cursor.peek_word().as_str()) {
        return Err(Refusal::Syntax(format!("column {} has no type", names::quote(&name))));
    }
    let mut text = format!("{} {}", names::quote(&name), types::read(cursor, &name)?);
    let mut not_null = false;
    loop {
        if cursor.take_words(&["NOT", "NULL"]) {
            not_null = true;
        } else if !cursor.take_words(&["NULL"]) {
            break;
        }
    }
    if not_null {
        text.push_str(" NOT NULL");
    }
    match cursor.peek_word().as_str() {
        "," | ")" => Ok(text),
        "DEFAULT" => Err(unsupported(&format!("DEFAULT of column {}", names::quote(&name)), "give the value in each INSERT")),
        word @ ("PRIMARY" | "UNIQUE" | "REFERENCES" | "CHECK" | "CONSTRAINT" | "GENERATED" | "AS" | "COLLATE" | "USING") => {
            Err(no_constraint(word))
        }
        _ => Err(cursor.unexpected("\",\" or \")\" after a column")),
    }
}

fn no_constraint(word: &str) -> Refusal {
    unsupported(&format!("{word} in CREATE TABLE"), "Iceberg knows columns and NOT NULL only")
}

/// `PARTITIONED BY (column, transform(column[, number]), …)` as text with a space before it, or nothing.
fn partitions(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if cursor.peek_word() == "PARTITION" {
        return Err(cursor.unexpected("PARTITIONED BY"));
    }
    if !cursor.take_words(&["PARTITIONED", "BY"]) {
        return Ok(String::new());
    }
    let items = cursor.list(partition)?;
    if cursor.peek_word() == "SORTED" {
        return Err(no_sorting());
    }
    Ok(format!(" PARTITIONED BY ({})", items.join(", ")))
}

fn no_sorting() -> Refusal {
    unsupported("SORTED BY", "sort the query with ORDER BY")
}

fn partition(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    let name = cursor.name("a column or a transform of one")?;
    if cursor.peek_word() != "(" {
        return Ok(names::quote(&name));
    }
    let transform = TRANSFORMS.into_iter().find(|(transform, _)| names::same(transform, &name));
    let Some((transform, takes_number)) = transform else {
        let known: Vec<&str> = TRANSFORMS.into_iter().map(|(transform, _)| transform).collect();
        return Err(unsupported(&format!("partitioning by {name}(…)"), &format!("the transforms are {}", known.join(", "))));
    };
    let arguments = cursor.list(|cursor| match cursor.peek().map(|token| &token.kind) {
        Some(Kind::Number(_)) => cursor.number("a number").map(|number| (true, number.to_string())),
        _ => cursor.name("a column").map(|name| (false, names::quote(&name))),
    })?;
    let kinds: Vec<bool> = arguments.iter().map(|(is_number, _)| *is_number).collect();
    let fits = if takes_number { kinds == [true, false] || kinds == [false, true] } else { kinds == [false] };
    if !fits {
        let form = if takes_number { format!("{transform}(number, column)") } else { format!("{transform}(column)") };
        return Err(unsupported(&format!("this form of {transform}"), &format!("write {form}")));
    }
    if transform == "identity" {
        // The extension has no function of this name; a bare column is the same.
        return Ok(arguments.into_iter().map(|(_, text)| text).collect());
    }
    // The extension wants the number first; both orders are in use elsewhere.
    let (numbers, columns): (Vec<_>, Vec<_>) = arguments.into_iter().partition(|(is_number, _)| *is_number);
    let arguments: Vec<String> = numbers.into_iter().chain(columns).map(|(_, text)| text).collect();
    Ok(format!("{transform}({})", arguments.join(", ")))
}

/// `WITH ('key' = 'value', …)` as text with a space before it, or nothing.
fn options(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if !cursor.take_words(&["WITH"]) {
        return Ok(String::new());
    }
    let options = cursor.list(option)?;
    Ok(format!(" WITH ({})", options.join(", ")))
}

fn option(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    let key = match cursor.peek().map(|token| &token.kind) {
        Some(Kind::Text(_)) => cursor.text("an option")?,
        _ => cursor.path("an option")?.join("."),
    };
    let lower = key.to_lowercase();
    let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let is_known = OPTIONS.iter().any(|option| if option.ends_with('.') { lower.starts_with(option) } else { lower == *option });
    if !is_plain || !is_known || lower.contains("path") || lower.contains("location") || lower.contains("manifest-list") {
        let message = format!(
            "the table property {key:?} cannot be set here; those that begin with {} can, except for places of files",
            OPTIONS.join(", ")
        );
        return Err(Refusal::Refused(message));
    }
    cursor.expect_symbol('=')?;
    let value = match cursor.peek().map(|token| &token.kind) {
        Some(Kind::Number(_)) => cursor.number("a value")?.to_string(),
        Some(Kind::Word(word)) if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") => {
            cursor.next();
            word.to_lowercase()
        }
        _ => cursor.text("a value in single quotes")?,
    };
    Ok(format!("{} = {}", names::quote_text(&key), names::quote_text(&value)))
}

fn table(scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<proto::TableName, Refusal> {
    let path = cursor.path("the name of a table")?;
    scope.table(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

fn schema(scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    let path = cursor.path("the name of a schema")?;
    let (catalog, schema) = scope.schema(&path.iter().map(String::as_str).collect::<Vec<_>>())?;
    if ["information_schema", "pg_catalog"].iter().any(|system| names::same(system, &schema)) {
        return Err(Refusal::Refused(format!("{schema} is a system schema")));
    }
    Ok(format!("{}.{}", names::quote(&catalog), names::quote(&schema)))
}

fn unsupported(what: &str, instead: &str) -> Refusal {
    Refusal::Unsupported(format!("{what} is not supported: {instead}"))
}
