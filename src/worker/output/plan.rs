//! Owns what a client sees of a plan that DuckDB gives as JSON (EXPLAIN ANALYZE, and EXPLAIN in that format): operators, rows, times, and those details that say nothing of where
//! files lie. Refuses every key that is not on its lists; a new one of DuckDB's stays out until it is looked at.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::wire::proto::failure::Kind;
use crate::worker::failure::StatementError;
use crate::worker::guard::PlanForm;

/// Figures of the whole statement.
const TOTALS: [&str; 6] =
    ["latency", "cpu_time", "cumulative_cardinality", "cumulative_rows_scanned", "total_bytes_read", "children"];

/// Figures of one operator.
const FIGURES: [&str; 11] = [
    "name",
    "operator_name",
    "operator_type",
    "operator_timing",
    "operator_cardinality",
    "operator_rows_scanned",
    "cpu_time",
    "cumulative_cardinality",
    "cumulative_rows_scanned",
    "extra_info",
    "children",
];

/// Details of an operator, all of them made of the statement's own names and expressions, or counts.
const DETAILS: [&str; 25] = [
    "Aggregates",
    "Build Max",
    "Build Min",
    "CTE Index",
    "CTE Name",
    "Condition",
    "Conditions",
    "Delim Index",
    "Distinct On",
    "Dynamic Filters",
    "Estimated Cardinality",
    "Expression",
    "Expressions",
    "Filters",
    "Function",
    "Groups",
    "Join Type",
    "Limit",
    "Offset",
    "Order By",
    "Projections",
    "Sample Method",
    "Table Index",
    "Top",
    "Total Files Read",
];

/// What a client gets of DuckDB's plan.
pub fn shown(plan: &str, form: PlanForm) -> Result<String, StatementError> {
    let unreadable = |error| StatementError::new(Kind::Internal, format!("the plan is no JSON: {error}"));
    let mut reader = serde_json::Deserializer::from_str(plan);
    // As deep as the statement, whose depth the guard bounds.
    reader.disable_recursion_limit();
    let whole: Value = serde::Deserialize::deserialize(&mut reader).map_err(unreadable)?;
    let mut totals = match whole {
        Value::Object(whole) => allowed(whole, &TOTALS),
        // Of a plan that was not run there are only operators.
        plan => return serde_json::to_string_pretty(&operators(plan)).map_err(unreadable),
    };
    let children = totals.remove("children").map(operators).unwrap_or_default();
    totals.insert("children".to_owned(), Value::Array(children));
    match form {
        PlanForm::Json => serde_json::to_string_pretty(&totals).map_err(unreadable),
        PlanForm::Text => Ok(text(&totals)),
    }
}

/// The operators of a list, without EXPLAIN ANALYZE itself.
fn operators(list: Value) -> Vec<Value> {
    let Value::Array(list) = list else { return Vec::new() };
    let nodes = list.into_iter().filter_map(|node| if let Value::Object(node) = node { Some(node) } else { None });
    nodes
        .flat_map(|mut node| {
            if node.get("operator_type").is_some_and(|kind| kind == "EXPLAIN_ANALYZE") {
                node.remove("children").map(operators).unwrap_or_default()
            } else {
                vec![Value::Object(operator(node))]
            }
        })
        .collect()
}

fn operator(node: Map<String, Value>) -> Map<String, Value> {
    let mut node = allowed(node, &FIGURES);
    if let Some(Value::Object(details)) = node.remove("extra_info") {
        node.insert("extra_info".to_owned(), Value::Object(allowed(details, &DETAILS)));
    }
    if let Some(children) = node.remove("children") {
        node.insert("children".to_owned(), Value::Array(operators(children)));
    }
    node
}

fn allowed(mut node: Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    node.retain(|key, _| keys.contains(&key.as_str()));
    node
}

fn text(totals: &Map<String, Value>) -> String {
    let figure = |key: &str| totals.get(key).and_then(Value::as_f64).unwrap_or_default();
    let mut text = format!("total {:.4} s, cpu {:.4} s\n", figure("latency"), figure("cpu_time"));
    for root in list(totals.get("children")) {
        write_operator(&mut text, root, 0);
    }
    text
}

fn write_operator(text: &mut String, operator: &Value, level: usize) {
    let indent = "    ".repeat(level);
    let name = operator["operator_name"].as_str().unwrap_or("?").trim();
    let (rows, seconds) =
        (operator["operator_cardinality"].as_u64().unwrap_or(0), operator["operator_timing"].as_f64().unwrap_or(0.0));
    let scanned = operator["operator_rows_scanned"].as_u64().filter(|scanned| *scanned > 0);
    let scanned = scanned.map(|scanned| format!(", {scanned} scanned")).unwrap_or_default();
    // Writing to a String does not fail.
    let _ = writeln!(text, "{indent}{name} ({rows} rows{scanned}, {seconds:.4} s)");
    for (key, value) in operator["extra_info"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "{indent}  | {key}: {}", detail(value));
    }
    for child in list(operator.get("children")) {
        write_operator(text, child, level + 1);
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// On one line.
fn detail(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', ", "),
        Value::Array(items) => items.iter().map(detail).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
