//! Owns which part of a listing a query can be seen to need: the conditions of its WHERE that hold every row of a system table to certain
//! names. Refuses to be clever: a condition that it does not know leaves the listing whole, and the query applies them all itself.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::wire::proto::TablePatterns;
use crate::worker::guard::names::same;
use crate::worker::guard::system::Listed;

type Object = Map<String, Value>;
type Session<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The conditions on one table of a FROM.
#[derive(Default)]
pub(super) struct Conditions(Vec<(String, Vec<String>)>);

impl Conditions {
    /// What they leave of a listing.
    pub fn patterns(&self, listed: &Listed) -> TablePatterns {
        let of = |column: &str| {
            let found = self.0.iter().find(|(name, _)| !column.is_empty() && same(name, column));
            found.map(|(_, patterns)| patterns.clone()).unwrap_or_default()
        };
        TablePatterns { catalogs: of(listed.catalog), schemas: of(listed.schema), tables: of(listed.table) }
    }
}

/// The conditions that a SELECT has on the tables of its FROM, by where these stand in the text. `session` gives the values of the
/// session's own functions.
pub(super) fn conditions(select: &Object, session: Session<'_>) -> HashMap<u64, Conditions> {
    let mut tables = Vec::new();
    let is_known = select.get("from_table").is_some_and(|from| gather(from, &mut tables));
    let Some(condition) = select.get("where_clause").filter(|_| is_known) else {
        return HashMap::new();
    };
    let mut held = Vec::new();
    conjuncts(condition, session, &mut held);
    let is_only = tables.len() == 1;
    let of = |name: &str| {
        let own = held.iter().filter(|held| held.table.as_deref().map_or(is_only, |table| same(table, name)));
        Conditions(own.map(|held| (held.column.clone(), held.patterns.clone())).collect())
    };
    tables.into_iter().map(|(at, name)| (at, of(&name))).collect()
}

/// The tables of a FROM with the names that their columns can be qualified by. False where fewer rows of one could change more than the
/// rows that a condition drops anyway: in a sample, or in joins that look for the nearest row or count rows.
fn gather(from: &Value, tables: &mut Vec<(u64, String)>) -> bool {
    let text = |field: &str| from[field].as_str().unwrap_or("");
    match text("type") {
        "BASE_TABLE" => {
            let alias = if text("alias").is_empty() { text("table_name") } else { text("alias") };
            // Renamed columns are others than the listing's.
            let is_plain = from["sample"].is_null() && from["column_name_alias"].as_array().is_some_and(Vec::is_empty);
            match from["query_location"].as_u64() {
                Some(at) if is_plain => tables.push((at, alias.to_owned())),
                _ => return false,
            }
            true
        }
        "JOIN" => {
            ["INNER", "LEFT", "RIGHT", "OUTER"].contains(&text("join_type"))
                && ["REGULAR", "NATURAL", "CROSS"].contains(&text("ref_type"))
                && from["sample"].is_null()
                && gather(&from["left"], tables)
                && gather(&from["right"], tables)
        }
        // Not listings; a column without a qualifier may be theirs.
        "SUBQUERY" | "TABLE_FUNCTION" | "EXPRESSION_LIST" => {
            tables.push((u64::MAX, text("alias").to_owned()));
            true
        }
        _ => false,
    }
}

struct Held {
    table: Option<String>,
    column: String,
    /// LIKE patterns, one of which the column fits.
    patterns: Vec<String>,
}

/// What is joined by AND at the top of a condition.
fn conjuncts(condition: &Value, session: Session<'_>, held: &mut Vec<Held>) {
    let children = condition["children"].as_array().map_or(&[][..], Vec::as_slice);
    match (condition["type"].as_str().unwrap_or(""), children) {
        ("CONJUNCTION_AND", children) => children.iter().for_each(|child| conjuncts(child, session, held)),
        ("COMPARE_EQUAL", _) => {
            let (left, right) = (&condition["left"], &condition["right"]);
            let one = |column, value| hold(column, &[text(value, session)], literal);
            held.extend(one(left, right).or_else(|| one(right, left)));
        }
        ("COMPARE_IN", [column, values @ ..]) => {
            held.extend(hold(column, &values.iter().map(|value| text(value, session)).collect::<Vec<_>>(), literal));
        }
        ("FUNCTION", [column, pattern]) if condition["function_name"] == "~~" => {
            held.extend(hold(column, &[text(pattern, session)], like));
        }
        _ => {}
    }
}

fn hold(column: &Value, values: &[Option<String>], pattern: fn(&str) -> String) -> Option<Held> {
    let names = column["column_names"].as_array().filter(|_| column["class"] == "COLUMN_REF")?;
    let (last, before) = names.split_last()?;
    let patterns = values.iter().map(|value| value.as_deref().map(pattern)).collect::<Option<Vec<_>>>()?;
    let table = before.last().and_then(Value::as_str).map(str::to_owned);
    Some(Held { table, column: last.as_str()?.to_owned(), patterns })
}

fn text(value: &Value, session: Session<'_>) -> Option<String> {
    let is_text = value.pointer("/value/type/id").is_some_and(|id| id == "VARCHAR");
    match value["class"].as_str()? {
        "CONSTANT" if is_text => value.pointer("/value/value")?.as_str().map(str::to_owned),
        "FUNCTION" if value["children"].as_array()?.is_empty() => session(value["function_name"].as_str()?),
        _ => None,
    }
}

/// A pattern that fits this text only.
fn literal(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

/// DuckDB's LIKE has no escape of its own.
fn like(pattern: &str) -> String {
    pattern.replace('\\', "\\\\")
}
