//! Owns ALTER TABLE: columns added, dropped, renamed and widened, the table renamed, its partitions changed. Refuses what Iceberg or
//! DuckDB's extension for it cannot do.

use super::{if_exists, if_not_exists, no_sorting, partitions, table, unsupported};
use crate::wire::proto;
use crate::worker::guard::grammar::Cursor;
use crate::worker::guard::{Reads, Refusal, Scope, Verdict, names, types, verdict};

/// What there is, for messages.
const FORMS: &str =
    "there are ADD COLUMN, DROP COLUMN, RENAME COLUMN … TO …, RENAME TO, ALTER COLUMN … TYPE and SET PARTITIONED BY";

/// Judges `ALTER TABLE [IF EXISTS] table change`, one change a statement.
pub(in crate::worker::guard) fn judge(scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.expect_words(&["ALTER"])?;
    if !cursor.take_words(&["TABLE"]) {
        return Err(unsupported(&format!("ALTER {}", cursor.peek_word()), "only ALTER TABLE is"));
    }
    let if_exists = if_exists(cursor);
    let target = table(scope, cursor)?;
    let change = change(scope, &target, cursor)?;
    if cursor.peek_word() == "," {
        return Err(unsupported("more than one change in ALTER TABLE", "write a statement for each"));
    }
    cursor.expect_end()?;
    let sql = format!("ALTER TABLE {if_exists}{} {change}", names::quote_table(&target));
    let mut reads = Reads::default();
    if if_exists.is_empty() {
        // A table that isn't there is told by the gateway; DuckDB would look through its whole catalog for names like it.
        reads.add_table(target.clone());
    }
    Ok(Verdict { target: Some(target), ..verdict(proto::Class::Ddl, sql, reads) })
}

fn change(scope: &Scope<'_>, target: &proto::TableName, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if cursor.take_words(&["ADD"]) {
        return add(cursor);
    }
    if cursor.take_words(&["DROP"]) {
        if matches!(cursor.peek_word().as_str(), "CONSTRAINT" | "PARTITION") {
            return Err(other(cursor));
        }
        cursor.take_words(&["COLUMN"]);
        let if_exists = if_exists(cursor);
        let column = column(cursor)?;
        let _ = cursor.take_words(&["RESTRICT"]) || cursor.take_words(&["CASCADE"]);
        return Ok(format!("DROP COLUMN {if_exists}{column}"));
    }
    if cursor.take_words(&["RENAME"]) {
        return rename(scope, target, cursor);
    }
    if cursor.take_words(&["ALTER"]) {
        return alter_column(cursor);
    }
    if cursor.take_words(&["SET"]) {
        return match cursor.peek_word().as_str() {
            "PARTITIONED" => Ok(format!("SET{}", partitions(cursor)?)),
            "SORTED" => Err(no_sorting()),
            "(" => Err(unsupported("SET of table properties", "give them in CREATE TABLE … WITH (…)")),
            _ => Err(other(cursor)),
        };
    }
    if cursor.take_words(&["RESET", "PARTITIONED", "BY"]) {
        return Ok("RESET PARTITIONED BY".to_owned());
    }
    Err(other(cursor))
}

fn other(cursor: &Cursor<'_>) -> Refusal {
    match cursor.peek_word().as_str() {
        "" => cursor.unexpected("a change of the table"),
        word => unsupported(&format!("{word} in ALTER TABLE"), FORMS),
    }
}

/// A column of the table itself.
fn column(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    let name = cursor.name("the name of a column")?;
    if cursor.peek_word() == "." {
        return Err(unsupported("changing a field of a STRUCT", "add a column of the new type, and drop the old one"));
    }
    Ok(names::quote(&name))
}

fn add(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if matches!(cursor.peek_word().as_str(), "CONSTRAINT" | "PRIMARY" | "UNIQUE" | "FOREIGN" | "CHECK") {
        return Err(other(cursor));
    }
    cursor.take_words(&["COLUMN"]);
    let if_not_exists = if_not_exists(cursor);
    let mut named = *cursor;
    let column = column(cursor)?;
    let name = named.name("the name of a column")?;
    let type_text = types::read(cursor, &name)?;
    if type_text.contains(['(', '[']) && !type_text.starts_with("DECIMAL") || type_text.ends_with(']') {
        return Err(unsupported(&format!("adding column {column} of a nested type"), "make a new table by CREATE TABLE AS"));
    }
    let text = format!("ADD COLUMN {if_not_exists}{column} {type_text}");
    match cursor.peek_word().as_str() {
        "NOT" => {
            Err(unsupported("a new column that is NOT NULL", "the rows that are there have no value for it; leave NOT NULL out"))
        }
        "DEFAULT" => Err(unsupported(&format!("DEFAULT of column {column}"), "add the column, and fill it by an UPDATE")),
        "NULL" => {
            cursor.next();
            Ok(text)
        }
        _ => Ok(text),
    }
}

fn rename(scope: &Scope<'_>, target: &proto::TableName, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if cursor.take_words(&["TO"]) {
        let mut whole = *cursor;
        let name = cursor.name("the table's new name")?;
        names::refuse_odd_name(&name)?;
        if names::looks_like_file(&format!("_.{name}")) {
            return Err(names::file_refused(&name));
        }
        if cursor.peek_word() == "." {
            return Err(moved(scope, target, &whole.path("the table's new name")?));
        }
        return Ok(format!("RENAME TO {}", names::quote(&name)));
    }
    cursor.take_words(&["COLUMN"]);
    let from = column(cursor)?;
    cursor.expect_words(&["TO"])?;
    Ok(format!("RENAME COLUMN {from} TO {}", column(cursor)?))
}

/// For a new name of several parts. Another catalog in it would be written as well as the table's own.
fn moved(scope: &Scope<'_>, target: &proto::TableName, name: &[String]) -> Refusal {
    match name.first().and_then(|first| scope.catalog(first)) {
        Some(other) if other != target.catalog => {
            let what = format!("moving a table from catalog {} to catalog {other}", target.catalog);
            unsupported(&what, "a statement writes one catalog; make it there by CREATE TABLE AS, and drop it here")
        }
        _ => unsupported("moving a table to another schema", "RENAME TO takes a name without a schema"),
    }
}

fn alter_column(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    cursor.take_words(&["COLUMN"]);
    let mut named = *cursor;
    let column = column(cursor)?;
    let name = named.name("the name of a column")?;
    if cursor.take_words(&["SET", "DATA", "TYPE"]) || cursor.take_words(&["TYPE"]) {
        let text = format!("ALTER COLUMN {column} TYPE {}", types::read(cursor, &name)?);
        if cursor.peek_word() == "USING" {
            return Err(unsupported("USING", "a column's type can only be widened; add a column, and fill it by an UPDATE"));
        }
        return Ok(text);
    }
    let _ = cursor.take_words(&["SET"]) || cursor.take_words(&["DROP"]);
    match cursor.peek_word().as_str() {
        "DEFAULT" => Err(unsupported("a column's DEFAULT", "give the value in each INSERT")),
        "NOT" => Err(unsupported("changing NOT NULL", "Iceberg fixes it when a column is added")),
        _ => Err(other(cursor)),
    }
}
