//! Owns the hiding of virtual columns: names that DuckDB answers on every table without the table having such a column, among them
//! the path of the data file that a row is in. Refuses to judge.
//!
//! A subquery shows real columns only. So in a statement that has one of these names anywhere, each table is read through
//! `(SELECT * FROM table)`: then the name means the table's own column, or nothing.

use serde_json::{Map, Value, json};

use crate::wire::proto;
use crate::worker::guard::names::same;

/// The virtual columns that tables have; the row lineage of Iceberg (`_row_id`, `_last_updated_sequence_number`) is for clients.
pub(in crate::worker::guard) const VIRTUAL_COLUMNS: [&str; 3] = ["filename", "file_row_number", "file_index"];

/// Whether a text could name a virtual column. No way of writing a name hides its letters: DuckDB reads no escapes in names.
pub(in crate::worker::guard) fn names_virtual_column(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    VIRTUAL_COLUMNS.iter().any(|name| sql.contains(name))
}

/// Puts a subquery around each of these tables in a judged tree, and takes the schema off the columns that are named with it, as a
/// subquery has none.
pub(super) fn hide_virtual_columns(value: &mut Value, tables: &[proto::TableName]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| hide_virtual_columns(item, tables)),
        Value::Object(node) => {
            node.values_mut().for_each(|field| hide_virtual_columns(field, tables));
            let is = |field: &str, text: &str| node.get(field).is_some_and(|value| value == text);
            if is("class", "COLUMN_REF") {
                unqualify(node, tables);
            } else if is("type", "BASE_TABLE") && node.get("catalog_name").is_some_and(|name| name != "" && name != "temp") {
                *value = subquery(std::mem::take(node));
            }
        }
        _ => {}
    }
}

fn unqualify(node: &mut Map<String, Value>, tables: &[proto::TableName]) {
    let Some(names) = node.get_mut("column_names").and_then(Value::as_array_mut) else { return };
    let begins = |path: &[&str]| {
        names.len() > path.len() && names.iter().zip(path).all(|(name, part)| name.as_str().is_some_and(|name| same(name, part)))
    };
    let dropped = tables.iter().find_map(|table| {
        let with_catalog = [table.catalog.as_str(), table.schema.as_str(), table.table.as_str()];
        let forms = [&with_catalog[..], &with_catalog[1..]];
        forms.into_iter().find(|path| begins(path)).map(|path| path.len() - 1)
    });
    names.drain(..dropped.unwrap_or(0));
}

/// `(SELECT * FROM table) AS alias`; a sample and the names that the client gave to columns stay outside.
fn subquery(mut table: Map<String, Value>) -> Value {
    let mut take = |field: &str, empty: Value| table.insert(field.to_owned(), empty.clone()).unwrap_or(empty);
    let (alias, sample) = (take("alias", json!("")), take("sample", Value::Null));
    let names = take("column_name_alias", json!([]));
    let alias = if alias == "" { table.get("table_name").cloned().unwrap_or_default() } else { alias };
    let star = json!({
        "class": "STAR", "type": "STAR", "alias": "", "relation_name": "", "exclude_list": [], "qualified_exclude_list": [],
        "replace_list": [], "rename_list": [], "columns": false, "expr": null,
    });
    let node = json!({
        "type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []}, "select_list": [star], "from_table": table,
        "where_clause": null, "group_expressions": [], "group_sets": [], "aggregate_handling": "STANDARD_HANDLING",
        "having": null, "sample": null, "qualify": null,
    });
    json!({
        "type": "SUBQUERY", "alias": alias, "sample": sample, "subquery": {"node": node, "named_param_map": []},
        "column_name_alias": names,
    })
}
