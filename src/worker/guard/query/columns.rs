//! Owns the question whether the columns of a query's result are its table's own, so that whoever knows the table's columns can describe
//! the query without binding it. Refuses whatever could fail to bind for another reason than a column that is not there.

use serde_json::Value;

use super::glance::{constant_rows, is_table, list, selects_all_rows};
use crate::wire::proto::{ShownColumn, TableColumns};

/// With more of them than this a query is bound.
const MAX_ITEMS: usize = 1_000;

/// What a plain `SELECT columns FROM table` shows, with ORDER BY of columns and LIMIT or without; `None` for any other query. `statement`
/// is a tree that was judged.
pub(super) fn of_table(statement: &Value) -> Option<TableColumns> {
    let (node, table) = (&statement["node"], &statement["node"]["from_table"]);
    let renames = !list(&table["column_name_alias"]).is_empty();
    if !selects_all_rows(node) || !is_table(table) || !table["at_clause"].is_null() || renames {
        return None;
    }
    let name = [&table["alias"], &table["table_name"]].into_iter().filter_map(Value::as_str).find(|name| !name.is_empty())?;
    let items = list(&node["select_list"]);
    if items.len() > MAX_ITEMS || items.iter().filter(|item| item["class"] == "STAR").count() > 1 {
        return None;
    }
    let shown = items.iter().map(|item| shown(item, name)).collect::<Option<_>>()?;
    let mut needed = Vec::new();
    for modifier in list(&node["modifiers"]) {
        match modifier["type"].as_str()? {
            "LIMIT_MODIFIER" => {
                constant_rows(&modifier["limit"])?;
                if !modifier["offset"].is_null() {
                    constant_rows(&modifier["offset"])?;
                }
            }
            "ORDER_MODIFIER" => {
                let orders = list(&modifier["orders"]);
                if orders.len() > MAX_ITEMS {
                    return None;
                }
                for order in orders {
                    needed.push(column(&order["expression"], name)?.to_owned());
                }
            }
            _ => return None,
        }
    }
    Some(TableColumns { shown, needed })
}

fn shown(item: &Value, table: &str) -> Option<ShownColumn> {
    let alias = item["alias"].as_str()?.to_owned();
    match item["class"].as_str()? {
        "COLUMN_REF" => Some(ShownColumn { name: column(item, table)?.to_owned(), alias }),
        // An alias of a star is one of each of its columns.
        "STAR" if alias.is_empty() && is_star_of(item, table) => Some(ShownColumn::default()),
        _ => None,
    }
}

/// The name of a column that stands there, by itself or behind its table's name.
fn column<'a>(expression: &'a Value, table: &str) -> Option<&'a str> {
    let parts: Vec<&str> = list(&expression["column_names"]).iter().map(Value::as_str).collect::<Option<_>>()?;
    match parts[..] {
        [name] => Some(name),
        [of, name] if of.eq_ignore_ascii_case(table) => Some(name),
        _ => None,
    }
}

/// Whether it is `*` or `table.*`, without any change.
fn is_star_of(item: &Value, table: &str) -> bool {
    item["relation_name"].as_str().is_some_and(|of| of.is_empty() || of.eq_ignore_ascii_case(table))
        && item["columns"] == false
        && item["expr"].is_null()
        && ["exclude_list", "qualified_exclude_list", "replace_list", "rename_list"]
            .iter()
            .all(|field| list(&item[*field]).is_empty())
}
