//! Owns UPDATE, DELETE and TRUNCATE. Refuses nothing of its own beyond their grammar: what their parts may be is judged like any query.

use super::Parts;
use crate::worker::guard::grammar::Cursor;
use crate::worker::guard::{Parser, Refusal, Scope, Verdict};

/// Judges `[WITH …] UPDATE table [[AS] alias] SET column = expression, … [FROM …] [WHERE …]`.
pub(in crate::worker::guard) fn update(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    cursor: &mut Cursor<'_>,
) -> Result<Verdict, Refusal> {
    let mut parts = Parts::begin(parser, scope, cursor)?;
    cursor.expect_words(&["UPDATE"])?;
    let target = parts.target(cursor, &["SET"])?;
    cursor.expect_words(&["SET"])?;
    let mut sql = format!("UPDATE {} SET {}", target.sql, parts.assignments(cursor, &["FROM", "WHERE", "RETURNING"])?);
    if cursor.take_words(&["FROM"]) {
        sql = format!("{sql} FROM {}", parts.source(cursor, &["WHERE", "RETURNING"])?.query.sql);
    }
    sql.push_str(&condition(&mut parts, cursor)?);
    parts.verdict(cursor, target.table, &sql)
}

/// Judges `[WITH …] DELETE FROM table [[AS] alias] [USING …] [WHERE …]`.
pub(in crate::worker::guard) fn delete(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    cursor: &mut Cursor<'_>,
) -> Result<Verdict, Refusal> {
    let mut parts = Parts::begin(parser, scope, cursor)?;
    cursor.expect_words(&["DELETE", "FROM"])?;
    let target = parts.target(cursor, &["USING", "WHERE", "RETURNING"])?;
    let mut sql = format!("DELETE FROM {}", target.sql);
    if cursor.take_words(&["USING"]) {
        sql = format!("{sql} USING {}", parts.source(cursor, &["WHERE", "RETURNING"])?.query.sql);
    }
    sql.push_str(&condition(&mut parts, cursor)?);
    parts.verdict(cursor, target.table, &sql)
}

/// Judges `TRUNCATE [TABLE] table`.
pub(in crate::worker::guard) fn truncate(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    cursor: &mut Cursor<'_>,
) -> Result<Verdict, Refusal> {
    let mut parts = Parts::begin(parser, scope, cursor)?;
    cursor.expect_words(&["TRUNCATE"])?;
    cursor.take_words(&["TABLE"]);
    let target = parts.target(cursor, &["CASCADE", "RESTRICT", ","])?;
    if !cursor.at_end() {
        return Err(Refusal::Unsupported("TRUNCATE takes one table and nothing else".to_owned()));
    }
    parts.verdict(cursor, target.table, &format!("TRUNCATE {}", target.sql))
}

fn condition(parts: &mut Parts<'_, '_>, cursor: &mut Cursor<'_>) -> Result<String, Refusal> {
    if !cursor.take_words(&["WHERE"]) {
        return Ok(String::new());
    }
    Ok(format!(" WHERE {}", parts.expression(cursor, &["RETURNING"])?))
}
