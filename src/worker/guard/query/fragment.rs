//! Owns the parts of a query that stand by themselves in UPDATE, DELETE and MERGE: an expression, what stands behind FROM, a WITH clause.
//! Each is judged as a query that has nothing else in it, and comes back as the text of that part alone. Refuses a text that would be
//! more than the one part.

use serde_json::{Value, json};

use super::{Query, Reads, canonical, is_plain, is_plain_star, parse, select, write};
use crate::worker::guard::{Parser, Refusal, Scope};

/// What stands behind FROM.
pub(in crate::worker::guard) struct Source {
    pub query: Query,
    /// Several tables, joined in any way.
    pub is_join: bool,
    /// One table function.
    pub is_call: bool,
}

/// An expression. `with` is the text of a WITH clause that it may see, or empty; it is not in what comes back.
pub(in crate::worker::guard) fn expression(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    with: &str,
    text: &str,
) -> Result<Query, Refusal> {
    let alone = |node: &Value| {
        let item = node.pointer("/select_list/0");
        let is_one = node["select_list"].as_array().is_some_and(|list| list.len() == 1);
        let is_expression = item.is_some_and(|item| item["alias"] == "" && item["class"] != "STAR");
        is_one && is_expression && node["from_table"]["type"] == "EMPTY" && node["from_table"]["sample"].is_null()
    };
    let (sql, reads, _) = judge(parser, scope, &format!("{with} SELECT {text}"), alone)?;
    Ok(Query { sql: without("SELECT ", sql)?, reads })
}

/// What stands behind FROM, or behind USING.
pub(in crate::worker::guard) fn source(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    with: &str,
    text: &str,
) -> Result<Source, Refusal> {
    let alone = |node: &Value| is_plain_star(node) && node["from_table"]["type"] != "EMPTY";
    let (sql, reads, from) = judge(parser, scope, &format!("{with} SELECT * FROM {text}"), alone)?;
    let query = Query { sql: without("SELECT * FROM ", sql)?, reads };
    Ok(Source { query, is_join: from == "JOIN", is_call: from == "TABLE_FUNCTION" })
}

/// A WITH clause, with a space behind it where there is one.
pub(in crate::worker::guard) fn with(parser: &mut dyn Parser, scope: &Scope<'_>, text: &str) -> Result<Query, Refusal> {
    let query = super::judge(parser, scope, &format!("{text} SELECT 1"))?;
    let sql = query.sql.strip_suffix("SELECT 1").ok_or_else(not_alone)?;
    Ok(Query { sql: if text.is_empty() { String::new() } else { format!("{} ", sql.trim_end()) }, reads: query.reads })
}

/// Judges a query that must be nothing but the part, and writes it out without the CTEs that it saw. The last of the three is the type
/// of what it reads from.
fn judge(
    parser: &mut dyn Parser,
    scope: &Scope<'_>,
    text: &str,
    is_alone: impl Fn(&Value) -> bool,
) -> Result<(String, Reads, String), Refusal> {
    let mut ast = parse(parser, text.trim_start()).map_err(without_position)?;
    let node = &ast["statements"][0]["node"];
    if !is_plain(node) || !is_alone(node) {
        return Err(not_alone());
    }
    // A function of ours becomes a table when it is judged.
    let from = node["from_table"]["type"].as_str().unwrap_or_default().to_owned();
    let reads = select::judge(parser, scope, text.trim_start(), &mut ast)?;
    let statement = &mut ast["statements"][0];
    statement["node"]["cte_map"] = json!({"map": []});
    // The statement as a whole numbers its parameters; a part of it has some of them.
    statement["named_param_map"] = json!([]);
    if statement["node"]["from_table"]["type"] == "EMPTY" {
        // An expression that was rewritten has got the name of a column.
        statement["node"]["select_list"][0]["alias"] = json!("");
    }
    Ok((write(parser, &canonical(ast))?, reads, from))
}

fn without(prefix: &str, sql: String) -> Result<String, Refusal> {
    sql.strip_prefix(prefix).map(str::to_owned).ok_or_else(not_alone)
}

fn not_alone() -> Refusal {
    Refusal::Syntax(
        "syntax error: one expression, or one list of tables, belongs in each of its places in the statement".to_owned(),
    )
}

/// The position is one in the part.
fn without_position(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Syntax(message) => Refusal::Syntax(message.split(" (at byte ").next().unwrap_or_default().to_owned()),
        other => other,
    }
}
