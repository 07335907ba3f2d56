//! Owns USE, SET schema and SET as_of: they run nothing, they change where the session looks names up, and when it reads. Refuses every
//! other SET, and to read an instant: the gateway does.

use super::grammar::Cursor;
use super::token::Kind;
use super::{Reads, Refusal, SUPPORTED, Scope, Verdict, names, verdict};
use crate::wire::proto;

/// The option that says when tables are read.
const AS_OF: &str = "AS_OF";

/// Judges `USE catalog[.schema]`, `USE schema`, `SET [SESSION] schema = '…'`, `SET [SESSION] as_of = '…'` and `RESET [SESSION] as_of`. Of one
/// part, a catalog's name stands for the catalog with the session's schema.
pub(super) fn judge(scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    let mut ahead = *cursor;
    let is_change = ahead.take_words(&["SET"]) || ahead.take_words(&["RESET"]);
    ahead.take_words(&["SESSION"]);
    if is_change && ahead.take_words(&[AS_OF]) {
        return as_of(cursor.take_words(&["RESET"]), &mut ahead);
    }
    if cursor.peek_word() == "RESET" {
        return Err(super::unsupported_kind("RESET"));
    }
    let is_set = cursor.take_words(&["SET"]);
    let path = if is_set {
        set_schema(cursor)?
    } else {
        cursor.expect_words(&["USE"])?;
        cursor.path("a catalog or a schema")?
    };
    cursor.expect_end()?;
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let (catalog, schema) = match *parts.as_slice() {
        [catalog] if !is_set && scope.catalog(catalog).is_some() => scope.schema(&[catalog, scope.default_schema])?,
        _ => scope.schema(&parts)?,
    };
    Ok(changing(proto::SessionChange { catalog, schema, as_of: None }))
}

fn changing(change: proto::SessionChange) -> Verdict {
    Verdict { session: Some(change), ..verdict(proto::Class::Session, String::new(), Reads::default()) }
}

/// Behind the option's name: nothing, or `(= | TO) value`, the value as a string, DEFAULT or NULL.
fn as_of(resets: bool, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    let mut value = String::new();
    if !resets {
        if !cursor.take_words(&["TO"]) {
            cursor.expect_symbol('=')?;
        }
        if !cursor.take_words(&["DEFAULT"]) && !cursor.take_words(&["NULL"]) {
            value = cursor.text("an instant in quotes such as '2026-03-01T12:00:00Z'")?;
        }
    }
    cursor.expect_end()?;
    Ok(changing(proto::SessionChange { as_of: Some(value), ..proto::SessionChange::default() }))
}

/// `[SESSION | LOCAL] schema (= | TO) value`, the value as a name or a string of one or two parts.
fn set_schema(cursor: &mut Cursor<'_>) -> Result<Vec<String>, Refusal> {
    cursor.take_words(&["SESSION"]);
    if !cursor.take_words(&["SCHEMA"]) {
        let option = cursor.name("an option").unwrap_or_default();
        return Err(Refusal::Refused(format!(
            "SET {option} is refused: clients do not change the workers' settings; {SUPPORTED}"
        )));
    }
    if !cursor.take_words(&["TO"]) {
        cursor.expect_symbol('=')?;
    }
    match cursor.peek().map(|token| &token.kind) {
        Some(Kind::Text(text)) => {
            cursor.next();
            split(text)
        }
        _ => cursor.path("a schema"),
    }
}

/// A name in a string may be quoted inside it.
fn split(text: &str) -> Result<Vec<String>, Refusal> {
    if !text.contains(['"', '.']) {
        return Ok(vec![text.to_owned()]);
    }
    let tokens = super::token::statement(text)?;
    let mut inside = Cursor::new(text, &tokens);
    let path = inside.path("a schema")?;
    inside.expect_end()?;
    for part in &path {
        names::refuse_odd_name(part)?;
    }
    Ok(path)
}
