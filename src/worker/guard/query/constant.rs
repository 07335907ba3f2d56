//! Owns the question whether a query is nothing but constants, so that its plan hangs on its text alone and holds no memory but that of its
//! text. Refuses functions, all of them: which hang on the clock is not to be learnt from DuckDB, whose `age` of one argument passes for
//! pure. Refuses casts to any type that has to do with time, or of which a setting has a say.

use serde_json::Value;

use super::is_plain;

/// Types whose values are the same at any time and under all settings.
const TIMELESS: [&str; 8] = ["BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "DECIMAL", "DOUBLE", "VARCHAR"];

/// Whether the query is a `SELECT` of constants, as pools of connections send it to see whether theirs still works. `statement` is a tree
/// that was judged.
pub(super) fn is_constant(statement: &Value) -> bool {
    let node = &statement["node"];
    is_plain(node)
        && node["cte_map"]["map"].as_array().is_some_and(Vec::is_empty)
        && node["from_table"]["type"] == "EMPTY"
        && node["select_list"].as_array().is_some_and(|items| items.iter().all(is_constant_item))
}

fn is_constant_item(item: &Value) -> bool {
    let (constant, casts_to) =
        if item["class"] == "CAST" { (&item["child"], &item["cast_type"]["id"]) } else { (item, &Value::Null) };
    let timeless = |id: &Value| id.as_str().is_some_and(|id| TIMELESS.contains(&id));
    let value_type = &constant["value"]["type"]["id"];
    constant["class"] == "CONSTANT"
        && (value_type == "NULL" || timeless(value_type))
        && (casts_to.is_null() || timeless(casts_to))
}
