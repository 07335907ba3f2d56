//! Owns EXPLAIN and EXPLAIN ANALYZE: it judges the statement inside as if that would run, and asks for its plan. Refuses EXPLAIN ANALYZE
//! of what changes something, as that would run it.

use super::grammar::{self, Cursor};
use super::{Parser, PlanForm, Refusal, Scope, Verdict, judge as judge_statement};
use crate::wire::proto::Class;

/// What a client asks for.
#[derive(Clone, Copy)]
struct Options {
    analyze: bool,
    form: PlanForm,
}

/// Judges `EXPLAIN [ANALYZE] statement` and `EXPLAIN ([ANALYZE,] [FORMAT text | json]) statement`.
pub(super) fn judge(parser: &mut dyn Parser, scope: &Scope<'_>, cursor: &mut Cursor<'_>) -> Result<Verdict, Refusal> {
    cursor.expect_words(&["EXPLAIN"])?;
    let options = options(cursor)?;
    let word = cursor.peek_word();
    let kind = if word == "WITH" { grammar::after_with(*cursor) } else { word };
    match kind.as_str() {
        "SELECT" | "FROM" | "VALUES" | "TABLE" | "PIVOT" | "UNPIVOT" | "(" => {}
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" if !options.analyze => {}
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE" | "CREATE" | "ALTER" | "DROP" if options.analyze => {
            let message =
                format!("EXPLAIN ANALYZE would run the {kind}: it is for queries only; EXPLAIN shows a plan without running it");
            return Err(Refusal::Refused(message));
        }
        _ => {
            let message =
                "EXPLAIN shows the plans of queries, INSERT, UPDATE, DELETE and MERGE only, EXPLAIN ANALYZE those of queries";
            return Err(Refusal::Unsupported(message.to_owned()));
        }
    }
    let mut verdict = judge_statement(parser, scope, cursor.rest())?;
    if let Some(target) = verdict.target.take() {
        // Only planned: it needs the tables as a write sees them, and no right to write.
        verdict.class = Class::TimeTravel;
        if !verdict.tables.contains(&target) {
            verdict.tables.push(target);
        }
    }
    // No file is read for a plan that is not run.
    verdict.glance = !options.analyze;
    (verdict.constant, verdict.embeds, verdict.columns) = (false, false, None);
    // The whole of a plan that was run names files; what a client gets of it is made of its JSON.
    verdict.plan = (options.analyze || options.form == PlanForm::Json).then_some(options.form);
    let asked = match options {
        Options { analyze: true, .. } => "(ANALYZE, FORMAT json) ",
        Options { form: PlanForm::Json, .. } => "(FORMAT json) ",
        Options { form: PlanForm::Text, .. } => "",
    };
    verdict.sql = format!("EXPLAIN {asked}{}", verdict.sql);
    Ok(verdict)
}

fn options(cursor: &mut Cursor<'_>) -> Result<Options, Refusal> {
    let mut options = Options { analyze: cursor.take_words(&["ANALYZE"]), form: PlanForm::Text };
    let mut inside = *cursor;
    if !inside.take_symbol('(') || !matches!(inside.peek_word().as_str(), "ANALYZE" | "FORMAT" | "VERBOSE") {
        return Ok(options);
    }
    cursor.list(|cursor| {
        if cursor.take_words(&["ANALYZE"]) {
            options.analyze = true;
            return Ok(());
        }
        cursor.expect_words(&["FORMAT"])?;
        options.form = match cursor.name("text or json")?.to_lowercase().as_str() {
            "text" => PlanForm::Text,
            "json" => PlanForm::Json,
            other => {
                let message = format!("EXPLAIN in the format {other} is not supported: there are text and json");
                return Err(Refusal::Unsupported(message));
            }
        };
        Ok(())
    })?;
    Ok(options)
}
