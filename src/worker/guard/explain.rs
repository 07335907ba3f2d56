//! Owns EXPLAIN: it judges the statement inside it as if that would run, and asks for its plan. Refuses EXPLAIN ANALYZE, which would run
//! the statement, and shows where the files of its tables lie.

use super::grammar::{self, Cursor};
use super::{Parser, Refusal, Scope, Verdict, judge as judge_statement};
use crate::wire::proto::Class;

/// Judges `EXPLAIN statement` and `EXPLAIN (FORMAT text | json) statement`.
pub(super) fn judge(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.expect_words(&["EXPLAIN"])?;
    let options = options(cursor)?;
    let word = cursor.peek_word();
    let kind = if word == "WITH" { grammar::after_with(*cursor) } else { word };
    if !matches!(
        kind.as_str(),
        "SELECT" | "FROM" | "VALUES" | "TABLE" | "PIVOT" | "UNPIVOT" | "(" | "INSERT" | "UPDATE" | "DELETE" | "MERGE"
    ) {
        return Err(Refusal::Unsupported("EXPLAIN shows the plans of queries, INSERT, UPDATE, DELETE and MERGE only".to_owned()));
    }
    let mut verdict = judge_statement(parser, scope, cursor.rest())?;
    if let Some(target) = verdict.target.take() {
        // Only planned: it needs the tables as a write sees them, and no right to write.
        verdict.class = Class::TimeTravel;
        if !verdict.tables.contains(&target) {
            verdict.tables.push(target);
        }
    }
    // No file is read for a plan.
    verdict.glance = true;
    verdict.sql = format!("EXPLAIN {options}{}", verdict.sql);
    Ok(verdict)
}

/// The options as the text that runs has them.
fn options(cursor: &mut Cursor<'_>) -> Result<&'static str, Refusal> {
    let mut inside = *cursor;
    let in_parentheses = inside.take_symbol('(') && matches!(inside.peek_word().as_str(), "ANALYZE" | "FORMAT" | "VERBOSE");
    if cursor.peek_word() == "ANALYZE" {
        return Err(no_analyze());
    }
    if !in_parentheses {
        return Ok("");
    }
    let formats = cursor.list(|cursor| {
        if cursor.peek_word() == "ANALYZE" {
            return Err(no_analyze());
        }
        cursor.expect_words(&["FORMAT"])?;
        match cursor.name("text or json")?.to_lowercase().as_str() {
            "text" => Ok(""),
            "json" => Ok("(FORMAT json) "),
            other => {
                Err(Refusal::Unsupported(format!("EXPLAIN in the format {other} is not supported: there are text and json")))
            }
        }
    })?;
    Ok(formats.last().copied().unwrap_or_default())
}

fn no_analyze() -> Refusal {
    Refusal::Refused(
        "EXPLAIN ANALYZE is refused: it runs the statement, and shows where the files of its tables lie; use EXPLAIN".to_owned(),
    )
}
