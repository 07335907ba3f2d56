//! Owns the way of a query from the client's text to the text that runs: DuckDB's tree of it is judged (`select`), DuckDB writes that
//! tree out, reads it back, and the text runs only if the two trees are one. Refuses what does not come back the same, as DuckDB's
//! writer is not exact for every construct.

mod columns;
mod constant;
pub(super) mod fragment;
pub(super) mod functions;
mod glance;
mod hidden;
mod narrow;
mod reads;
mod select;
mod shape;

use serde_json::{Map, Value, json};

pub(super) use self::hidden::{VIRTUAL_COLUMNS, names_virtual_column};
pub(super) use self::reads::Reads;
pub(super) use self::select::listing_table;
use super::{MAX_AST_DEPTH, Parser, Refusal, Scope};

/// What DuckDB's serializer says of a statement outside the SELECT family.
const NOT_SELECT: &str = "Only SELECT statements can be serialized";

/// Tables that one query may read: each is loaded before it runs.
const MAX_TABLES: usize = 1_000;

/// A query that was judged, as the text to run.
pub(super) struct Query {
    pub sql: String,
    pub reads: Reads,
}

/// Judges one query and writes it anew.
pub(super) fn judge(parser: &mut dyn Parser, scope: &Scope<'_>, text: &str) -> Result<Query, Refusal> {
    let mut ast = parse(parser, text)?;
    let mut reads = select::judge(parser, scope, text, &mut ast)?;
    if reads.tables.len() > MAX_TABLES {
        let message = format!("the statement reads {} tables; the most is {MAX_TABLES}", reads.tables.len());
        return Err(Refusal::Unsupported(message));
    }
    let judged = canonical(ast);
    let sql = write(parser, &judged)?;
    let statement = &judged["statements"][0];
    reads.glance = glance::is_glance(statement);
    reads.constant = constant::is_constant(statement);
    reads.embeds = statement["named_param_map"].as_array().is_some_and(Vec::is_empty);
    if reads.embeds && reads.is_of_one_table() {
        reads.columns = columns::of_table(statement);
    }
    Ok(Query { sql: if is_values(statement) { bare_values(sql) } else { sql }, reads })
}

/// The text of a canonical tree that was judged; it reads back as the same tree.
fn write(parser: &mut dyn Parser, judged: &Value) -> Result<String, Refusal> {
    let sql = parser.text(judged).map_err(|error| inexact(&error.message))?;
    expect_same(parser, judged, &sql)?;
    Ok(sql)
}

/// DuckDB's text of one expression.
fn expression_text(parser: &mut dyn Parser, expression: Value) -> Result<String, Refusal> {
    let node = json!({
        "type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []}, "select_list": [expression],
        "from_table": {"type": "EMPTY", "alias": "", "sample": null}, "where_clause": null, "group_expressions": [],
        "group_sets": [], "aggregate_handling": "STANDARD_HANDLING", "having": null, "sample": null, "qualify": null,
    });
    let statement = json!({"error": false, "statements": [{"node": node, "named_param_map": []}]});
    let text = parser.text(&statement).map_err(|error| inexact(&error.message))?;
    text.strip_prefix("SELECT ").map(str::to_owned).ok_or_else(|| inexact("in the select list"))
}

/// A VALUES list as such: DuckDB writes it as a SELECT from one, and an INSERT gives its columns' types only to the former.
fn bare_values(sql: String) -> String {
    match sql.strip_prefix("SELECT * FROM (").and_then(|sql| sql.strip_suffix(") AS valueslist")) {
        Some(list) => list.to_owned(),
        None => sql,
    }
}

/// DuckDB's tree of a text, which must be one statement of the SELECT family and not too deep.
fn parse(parser: &mut dyn Parser, text: &str) -> Result<Value, Refusal> {
    let ast = parser
        .ast(text)
        .map_err(|error| if error.message.contains(NOT_SELECT) { not_a_query() } else { Refusal::Syntax(error.message) })?;
    if depth(&ast) > MAX_AST_DEPTH {
        return Err(Refusal::Unsupported(format!("the statement is nested more than {MAX_AST_DEPTH} levels deep")));
    }
    if ast.get("error").is_some_and(|error| *error != Value::Bool(false)) {
        let message = ast.get("error_message").and_then(Value::as_str).unwrap_or("syntax error").to_owned();
        return Err(if message.contains(NOT_SELECT) { not_a_query() } else { Refusal::Syntax(message) });
    }
    match ast.get("statements").and_then(Value::as_array).map(Vec::len) {
        Some(1) => Ok(ast),
        Some(0) | None => Err(Refusal::Syntax("the statement is empty".to_owned())),
        Some(_) => Err(Refusal::Refused("one statement at a time".to_owned())),
    }
}

fn not_a_query() -> Refusal {
    Refusal::Unsupported(
        "only queries are supported here; of PIVOT, the form with an explicit IN list: FROM t PIVOT (sum(x) FOR y IN ('a', 'b'))"
            .to_owned(),
    )
}

fn expect_same(parser: &mut dyn Parser, judged: &Value, sql: &str) -> Result<(), Refusal> {
    let mut again = parse(parser, sql).map_err(|refusal| inexact(&refusal.to_string()))?;
    if judged["statements"][0]["named_param_map"].as_array().is_some_and(Vec::is_empty) {
        // A part of a statement: the parameters in the tree itself are compared, their numbers are the whole statement's.
        again["statements"][0]["named_param_map"] = json!([]);
    }
    match difference(judged, &canonical(again)) {
        None => Ok(()),
        Some(place) => Err(inexact(&format!("at {place}"))),
    }
}

fn inexact(detail: &str) -> Refusal {
    Refusal::Unsupported(format!(
        "the statement cannot be written out exactly ({detail}): put joins in parentheses into a subquery of their own"
    ))
}

/// Levels of lists and objects. Not recursive: the tree may be too deep for that.
fn depth(ast: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(ast, 1)];
    while let Some((value, level)) = open.pop() {
        deepest = deepest.max(level);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, level + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|field| (field, level + 1))),
            _ => {}
        }
    }
    deepest
}

/// The tree without what text cannot keep and meaning does not need: positions, the subquery that DuckDB puts around VALUES, the
/// order of grouping expressions and of parameters.
fn canonical(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        Value::Object(fields) => {
            let fields: Map<String, Value> = fields
                .into_iter()
                .filter(|(name, _)| name != "query_location")
                .map(|(name, value)| (name, canonical(value)))
                .collect();
            canonical_node(fields)
        }
        other => other,
    }
}

fn canonical_node(mut node: Map<String, Value>) -> Value {
    if let Some(Value::Array(parameters)) = node.get_mut("named_param_map") {
        parameters.sort_by_key(Value::to_string);
    }
    if node.get("group_sets").and_then(Value::as_array).is_some_and(|sets| !sets.is_empty()) {
        number_groups(&mut node);
    }
    let is_values_subquery = node.get("alias").and_then(Value::as_str) == Some("valueslist")
        && node.get("type").and_then(Value::as_str) == Some("SUBQUERY")
        && node.get("sample").is_none_or(Value::is_null)
        && node.get("column_name_alias").and_then(Value::as_array).is_some_and(Vec::is_empty)
        && node.get("subquery").is_some_and(is_values);
    if is_values_subquery
        && let Some(list) = node.get_mut("subquery").and_then(|subquery| subquery.pointer_mut("/node/from_table"))
    {
        return list.take();
    }
    Value::Object(node)
}

/// Numbers grouping expressions by where the sets first name them, as DuckDB does on reading them.
fn number_groups(node: &mut Map<String, Value>) {
    let index = |value: &Value| value.as_u64().and_then(|index| usize::try_from(index).ok());
    let mut order: Vec<usize> = Vec::new();
    for set in node["group_sets"].as_array().into_iter().flatten() {
        for old in set.as_array().into_iter().flatten().filter_map(index) {
            if !order.contains(&old) {
                order.push(old);
            }
        }
    }
    let Some(expressions) = node.get("group_expressions").and_then(Value::as_array).filter(|all| all.len() == order.len()) else {
        return;
    };
    let Some(expressions) = order.iter().map(|old| expressions.get(*old).cloned()).collect::<Option<Vec<Value>>>() else {
        return;
    };
    for set in node.get_mut("group_sets").and_then(Value::as_array_mut).into_iter().flatten() {
        let mut numbers: Vec<usize> = set
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(index)
            .filter_map(|old| order.iter().position(|other| *other == old))
            .collect();
        numbers.sort_unstable();
        *set = Value::from(numbers);
    }
    node.insert("group_expressions".to_owned(), Value::Array(expressions));
}

/// Whether a statement is nothing but a VALUES list.
fn is_values(statement: &Value) -> bool {
    let node = &statement["node"];
    is_plain(node)
        && is_plain_star(node)
        && node["from_table"]["type"] == "EXPRESSION_LIST"
        && node["from_table"]["alias"] == "valueslist"
        && node["from_table"]["sample"].is_null()
        && node["cte_map"]["map"].as_array().is_some_and(Vec::is_empty)
}

/// Whether a query has only WITH, a select list and FROM.
fn is_plain(node: &Value) -> bool {
    takes_all_rows(node) && node.get("modifiers").and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// Whether a query neither chooses nor groups the rows of its FROM, modifiers apart.
fn takes_all_rows(node: &Value) -> bool {
    let empty = |field: &str| node.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty);
    let null = |field: &str| node.get(field).is_none_or(Value::is_null);
    node["type"] == "SELECT_NODE"
        && ["group_expressions", "group_sets"].iter().all(|field| empty(field))
        && ["where_clause", "having", "qualify", "sample"].iter().all(|field| null(field))
        && node["aggregate_handling"] == "STANDARD_HANDLING"
}

/// Whether the select list of a query is `*` and nothing else.
fn is_plain_star(node: &Value) -> bool {
    let [item] = node["select_list"].as_array().map_or(&[][..], Vec::as_slice) else { return false };
    item["class"] == "STAR"
        && item["columns"] == false
        && item["relation_name"] == ""
        && item["expr"].is_null()
        && ["exclude_list", "qualified_exclude_list", "replace_list", "rename_list"]
            .iter()
            .all(|field| item[*field].as_array().is_some_and(Vec::is_empty))
}

/// Where two trees first differ.
fn difference(left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let missing = right.keys().find(|name| !left.contains_key(*name)).cloned();
            missing.or_else(|| {
                left.iter().find_map(|(name, value)| match right.get(name) {
                    None => Some(name.clone()),
                    Some(other) => difference(value, other).map(|place| format!("{name}.{place}")),
                })
            })
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => left
            .iter()
            .zip(right)
            .enumerate()
            .find_map(|(at, (left, right))| difference(left, right).map(|place| format!("{at}.{place}"))),
        (left, right) => (left != right).then(|| "value".to_owned()),
    }
}
