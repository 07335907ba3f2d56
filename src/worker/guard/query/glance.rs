//! Owns the question whether a query looks at a few rows of one table only, or counts its rows, however large the table is. Refuses to
//! be sure of more: any other query may have to read all of it.

use serde_json::Value;

use super::takes_all_rows;

/// A LIMIT above this is no glance.
const FEW_ROWS: u64 = 1_000_000;

/// Whether the query is a plain `SELECT columns FROM table LIMIT few`, the same around a subquery of that kind, or a `SELECT count(*)
/// FROM table`: no condition, no order, no function. `statement` is a tree that was judged.
pub(super) fn is_glance(statement: &Value) -> bool {
    let node = &statement["node"];
    if !selects_all_rows(node) {
        return false;
    }
    match list(&node["modifiers"]) {
        [] => counts_rows(node) && is_table(&node["from_table"]),
        [limit] => is_few(limit) && takes_columns(node) && comes_from_scan(&node["from_table"]),
        _ => false,
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether it has neither WITH nor anything that chooses or groups rows, modifiers apart.
pub(super) fn selects_all_rows(node: &Value) -> bool {
    takes_all_rows(node) && list(&node["cte_map"]["map"]).is_empty()
}

/// Whether the select list is `count(*)`.
fn counts_rows(node: &Value) -> bool {
    let [item] = list(&node["select_list"]) else { return false };
    item["class"] == "FUNCTION" && item["function_name"] == "count_star" && item["filter"].is_null()
}

/// Whether the select list has columns and constants only. A function might be an aggregate, which reads everything.
fn takes_columns(node: &Value) -> bool {
    list(&node["select_list"]).iter().all(|item| match item["class"].as_str() {
        Some("COLUMN_REF" | "CONSTANT") => true,
        Some("CAST") => item["child"]["class"] == "COLUMN_REF",
        Some("STAR") => item["columns"] == false && item["expr"].is_null() && list(&item["replace_list"]).is_empty(),
        _ => false,
    })
}

fn is_few(modifier: &Value) -> bool {
    let offset = if modifier["offset"].is_null() { Some(0) } else { constant_rows(&modifier["offset"]) };
    let few =
        constant_rows(&modifier["limit"]).zip(offset).is_some_and(|(limit, offset)| limit.saturating_add(offset) <= FEW_ROWS);
    modifier["type"] == "LIMIT_MODIFIER" && few
}

/// How many rows a part of a LIMIT says at most, if that is a number.
pub(super) fn constant_rows(part: &Value) -> Option<u64> {
    if part["class"] == "CONSTANT" { part["value"]["value"].as_u64() } else { None }
}

/// Whether it is a table by its name, and no sample of it.
pub(super) fn is_table(table: &Value) -> bool {
    table["type"] == "BASE_TABLE" && table["sample"].is_null()
}

fn comes_from_scan(table: &Value) -> bool {
    if table["type"] != "SUBQUERY" {
        return is_table(table);
    }
    let node = &table["subquery"]["node"];
    let bounded = match list(&node["modifiers"]) {
        [] => true,
        [limit] => is_few(limit),
        _ => false,
    };
    table["sample"].is_null() && bounded && selects_all_rows(node) && takes_columns(node) && comes_from_scan(&node["from_table"])
}
