//! Owns INSERT: its target and columns are read here, its query is judged like any other, and the two are joined anew. Refuses what
//! would need the old rows: OR REPLACE, ON CONFLICT, RETURNING.

use crate::wire::proto;
use crate::worker::guard::grammar::{self, Cursor};
use crate::worker::guard::{self, Parser, Refusal, Scope, Verdict, names, query};

/// Judges `[WITH …] INSERT INTO table [(columns)] [BY NAME | BY POSITION] query`.
pub(in crate::worker::guard) fn judge(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    cursor: &mut Cursor<'_>,
) -> Result<Verdict, Refusal> {
    let start = *cursor;
    let with = if cursor.peek_word() == "WITH" {
        grammar::skip_with(cursor);
        cursor.since(&start)
    } else {
        ""
    };
    cursor.expect_words(&["INSERT"])?;
    refuse_extras(cursor)?;
    cursor.expect_words(&["INTO"])?;
    let path = cursor.path("the name of a table")?;
    let target = scope.table(&path.iter().map(String::as_str).collect::<Vec<_>>())?;
    if cursor.take_words(&["AS"]) {
        return Err(unsupported("an alias for the table", "leave it out"));
    }
    let columns = columns(cursor)?;
    let by_name = cursor.take_words(&["BY", "NAME"]);
    if !by_name {
        cursor.take_words(&["BY", "POSITION"]);
    }
    if by_name && !columns.is_empty() {
        return Err(cursor.unexpected("a query, as BY NAME takes the columns from it"));
    }
    if cursor.take_words(&["DEFAULT", "VALUES"]) {
        return Err(unsupported("DEFAULT VALUES", "give the values"));
    }
    let query::Query { sql: text, reads } = query::judge(parser, scope, &query_text(with, cursor)?)?;
    // The relay rebases a blind INSERT on a newer snapshot without running it again, so it must not have read anything.
    let is_blind = reads.tables.is_empty() && reads.listings.is_empty() && reads.system.is_empty();
    let by_name = if by_name { " BY NAME" } else { "" };
    let class = if is_blind { proto::Class::BlindInsert } else { proto::Class::OtherWrite };
    let sql = format!("INSERT INTO {}{columns}{by_name} {text}", names::quote_table(&target));
    Ok(Verdict { target: Some(target), glance: false, ..guard::verdict(class, sql, reads) })
}

fn refuse_extras(cursor: &Cursor<'_>) -> Result<(), Refusal> {
    if cursor.peek_word() == "OR" {
        return Err(unsupported("OR REPLACE and OR IGNORE", "tables have no keys; insert the rows"));
    }
    // A table may be called conflict, and joined ON it.
    let conflicts = cursor.behind_words(&["ON", "CONFLICT"]);
    if conflicts.iter().any(|behind| ["DO", "("].contains(&behind.peek_word().as_str())) {
        return Err(unsupported("ON CONFLICT", "tables have no keys; leave out rows that are there by WHERE NOT EXISTS"));
    }
    if !cursor.behind_words(&["RETURNING"]).is_empty() {
        return Err(unsupported("RETURNING", "read the rows by a SELECT"));
    }
    Ok(())
}

fn unsupported(what: &str, instead: &str) -> Refusal {
    Refusal::Unsupported(format!("INSERT does not support {what}: {instead}"))
}

/// The list of columns as text with a space before it, or nothing. A parenthesis may also begin the query.
fn columns(cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    let mut inside = *cursor;
    let begins_query = inside.take_symbol('(')
        && ["SELECT", "WITH", "FROM", "VALUES", "TABLE", "PIVOT", "UNPIVOT", "("].contains(&inside.peek_word().as_str());
    let mut behind = inside;
    behind.next();
    // `(from)` and `(values, x)` are columns, `(FROM t)` and `(VALUES (1))` are queries.
    let is_query = begins_query && ![",", ")"].contains(&behind.peek_word().as_str());
    if cursor.peek_word() != "(" || is_query {
        return Ok(String::new());
    }
    let names = cursor.list(|cursor| cursor.name("the name of a column").map(|name| names::quote(&name)))?;
    Ok(format!(" ({})", names.join(", ")))
}

/// The embedded query with the statement's own WITH before it.
fn query_text(with: &str, cursor: &Cursor<'_>) -> Result<String, Refusal> {
    if cursor.at_end() {
        return Err(cursor.unexpected("VALUES or a query"));
    }
    match cursor.peek_word().as_str() {
        "WITH" if !with.is_empty() => Err(unsupported("WITH both before INSERT and before its query", "write one WITH clause")),
        "SELECT" | "WITH" | "FROM" | "VALUES" | "TABLE" | "(" => Ok(format!("{with} {}", cursor.rest()).trim_start().to_owned()),
        _ => Err(cursor.unexpected("VALUES or a query")),
    }
}
