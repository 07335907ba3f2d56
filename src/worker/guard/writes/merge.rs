//! Owns MERGE INTO: its target, its source and condition, and each WHEN with its action. Refuses a source that is a join, whose end
//! only DuckDB's own parser would find.

use super::{Parts, names};
use crate::worker::guard::grammar::Cursor;
use crate::worker::guard::{Parser, Refusal, Scope, Verdict};

/// The actions that there are, for messages.
const ACTIONS: &str = "UPDATE, DELETE, INSERT, DO NOTHING or ERROR";

/// Judges `[WITH …] MERGE INTO table [[AS] alias] USING source (ON condition | USING (column, …)) WHEN …`.
pub(in crate::worker::guard) fn judge(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    cursor: &mut Cursor<'_>,
) -> Result<Verdict, Refusal> {
    let mut parts = Parts::begin(parser, scope, cursor)?;
    cursor.expect_words(&["MERGE", "INTO"])?;
    let target = parts.target(cursor, &["USING"])?;
    cursor.expect_words(&["USING"])?;
    let source = parts.source(cursor, &["ON", "USING", "WHEN", "RETURNING", "JOIN"])?;
    if source.is_join || cursor.peek_word() == "JOIN" {
        return Err(Refusal::Unsupported(
            "MERGE takes one table or one query in parentheses: USING (SELECT … FROM a JOIN b …) AS s".to_owned(),
        ));
    }
    let mut sql = format!("MERGE INTO {} USING {}", target.sql, source.query.sql);
    if cursor.take_words(&["USING"]) {
        let start = *cursor;
        let columns = cursor.list(|cursor| cursor.name("the name of a column").map(|name| names::quote(&name)))?;
        parts.note_columns(cursor, &start);
        sql = format!("{sql} USING ({})", columns.join(", "));
    } else {
        cursor.expect_words(&["ON"])?;
        sql = format!("{sql} ON {}", parts.expression(cursor, &["WHEN", "RETURNING"])?);
    }
    if cursor.peek_word() != "WHEN" {
        return Err(cursor.unexpected("WHEN MATCHED or WHEN NOT MATCHED"));
    }
    while cursor.take_words(&["WHEN"]) {
        sql = format!("{sql} {}", when(&mut parts, cursor)?);
    }
    parts.verdict(cursor, target.table, &sql)
}

/// What follows WHEN: `[NOT] MATCHED [BY SOURCE | BY TARGET] [AND condition] THEN action`.
fn when(parts: &mut Parts<'_, '_>, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    let mut sql = String::from("WHEN ");
    if cursor.take_words(&["NOT"]) {
        sql.push_str("NOT ");
    }
    cursor.expect_words(&["MATCHED"])?;
    sql.push_str("MATCHED");
    if sql.contains("NOT") {
        for side in ["SOURCE", "TARGET"] {
            if cursor.take_words(&["BY", side]) {
                sql = format!("{sql} BY {side}");
                break;
            }
        }
    }
    if cursor.take_words(&["AND"]) {
        sql = format!("{sql} AND {}", parts.expression(cursor, &["THEN"])?);
    }
    cursor.expect_words(&["THEN"])?;
    Ok(format!("{sql} THEN {}", action(parts, cursor)?))
}

fn action(parts: &mut Parts<'_, '_>, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    const ENDS: [&str; 2] = ["WHEN", "RETURNING"];
    if cursor.take_words(&["DO", "NOTHING"]) {
        return Ok("DO NOTHING".to_owned());
    }
    if cursor.take_words(&["DELETE"]) {
        return Ok("DELETE".to_owned());
    }
    if cursor.take_words(&["ERROR"]) {
        let says = !cursor.at_end() && !ENDS.contains(&cursor.peek_word().as_str());
        return Ok(if says { format!("ERROR {}", parts.expression(cursor, &ENDS)?) } else { "ERROR".to_owned() });
    }
    if cursor.take_words(&["UPDATE"]) {
        if cursor.take_words(&["BY", "NAME"]) {
            return Ok("UPDATE BY NAME".to_owned());
        }
        cursor.expect_words(&["SET"])?;
        if cursor.take_symbol('*') {
            return Ok("UPDATE SET *".to_owned());
        }
        return Ok(format!("UPDATE SET {}", parts.assignments(cursor, &ENDS)?));
    }
    if cursor.take_words(&["INSERT"]) {
        return insert(parts, cursor);
    }
    Err(cursor.unexpected(ACTIONS))
}

/// What follows INSERT: `[(column, …)] VALUES (expression, …)`, `BY NAME` or `*`.
fn insert(parts: &mut Parts<'_, '_>, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if cursor.take_words(&["BY", "NAME"]) {
        cursor.take_symbol('*');
        return Ok("INSERT BY NAME".to_owned());
    }
    if cursor.take_symbol('*') {
        return Ok("INSERT *".to_owned());
    }
    let mut sql = String::from("INSERT");
    if cursor.peek_word() == "(" {
        let columns = cursor.list(|cursor| cursor.name("the name of a column").map(|name| names::quote(&name)))?;
        sql = format!("{sql} ({})", columns.join(", "));
    }
    cursor.expect_words(&["VALUES"])?;
    let values = cursor.list(|cursor| parts.expression(cursor, &[]))?;
    Ok(format!("{sql} VALUES ({})", values.join(", ")))
}
