//! Owns what a statement may say of the past: when a table is read (AT, or the session's instant), and the functions of FROM that show a
//! table's own metadata. Refuses to know which snapshots there are; the gateway says which one stands for what.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::grammar::Cursor;
use super::names::same;
use super::{Refusal, Scope, token};
use crate::wire::proto;

type Object = Map<String, Value>;

/// Our functions of FROM, each with what it shows of a table.
const FUNCTIONS: [(&str, &str); 4] = [
    ("table_snapshots", "snapshots"),
    ("table_history", "history"),
    ("table_files", "files"),
    ("table_partitions", "partitions"),
];

/// The parts that are those of one snapshot.
const OF_A_SNAPSHOT: [&str; 2] = ["files", "partitions"];

/// A table that is read as it was, or held to what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRead {
    /// In full.
    pub table: proto::TableName,
    /// When.
    pub at: PastAt,
}

/// When a table is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PastAt {
    /// At the session's instant.
    Session,
    /// As it is now.
    Now,
    /// The id of a snapshot, or the name of a branch or a tag; an expression without columns, as text.
    Version(String),
    /// An instant; an expression without columns, as text.
    Timestamp(String),
}

/// `AT (VERSION => 'snapshot')`. As a string it reads back as itself, whatever the number.
pub(super) fn clause(snapshot: i64) -> Value {
    json!({"unit": "VERSION", "expr": constant(&snapshot.to_string())})
}

/// `TABLESAMPLE RESERVOIR (0 ROWS)`: no rows, and the columns and names of the table. What is committed to a table after it was found to
/// be without snapshots is no part of its past, and there is no snapshot yet to hold it to.
pub(super) fn no_rows() -> Value {
    let none = json!({"type": {"id": "BIGINT", "type_info": null}, "is_null": false, "value": 0});
    json!({"sample_size": none, "is_percentage": false, "method": "Reservoir", "seed": -1})
}

fn constant(text: &str) -> Value {
    let value = json!({"type": {"id": "VARCHAR", "type_info": null}, "is_null": false, "value": text});
    json!({"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "value": value})
}

/// Refuses what AT cannot know before the statement runs.
pub(super) fn refuse_open(expression: &Value) -> Result<(), Refusal> {
    match expression {
        Value::Array(items) => items.iter().try_for_each(refuse_open),
        Value::Object(fields) => match fields.get("class").and_then(Value::as_str) {
            Some("PARAMETER") => Err(Refusal::Unsupported(
                "AT takes no parameter: write the snapshot or the instant into the statement, or set the session's option as_of"
                    .to_owned(),
            )),
            Some("SUBQUERY") => Err(Refusal::Unsupported("AT takes a value, no query".to_owned())),
            Some("WINDOW" | "STAR") => Err(Refusal::Unsupported("AT takes a value without columns".to_owned())),
            _ => fields.values().try_for_each(refuse_open),
        },
        _ => Ok(()),
    }
}

/// A call of one of our functions.
pub(super) struct TableFunction {
    name: &'static str,
    part: &'static str,
}

/// Whether a node of FROM calls one of our functions.
pub(super) fn table_function(node: &Object) -> Option<TableFunction> {
    let call = node.get("function")?;
    let is_plain = call["class"] == "FUNCTION" && call["schema"] == "" && call["catalog"] == "";
    let name = call["function_name"].as_str().filter(|_| is_plain)?;
    FUNCTIONS.iter().find(|(known, _)| same(known, name)).map(|&(name, part)| TableFunction { name, part })
}

impl TableFunction {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The listing that has its rows. Its name tells it apart from those of other calls in the statement.
    pub(super) fn listing(&self, scope: &Scope<'_>, node: &Object) -> Result<proto::WantedListing, Refusal> {
        if node.get("with_ordinality").is_some_and(|with| with != "WITHOUT_ORDINALITY") {
            return Err(Refusal::Unsupported(format!("{} has no WITH ORDINALITY: use row_number() OVER ()", self.name)));
        }
        let call = &node["function"];
        let is_bare = call["filter"].is_null() && call["distinct"] == false && call["order_bys"]["orders"] == json!([]);
        let arguments = call["children"].as_array().filter(|_| is_bare).map_or(&[][..], Vec::as_slice);
        let (table, version) = match arguments {
            [table] => (text(table, ""), Some(String::new())),
            [table, version] => (text(table, ""), text(version, "version").filter(|version| !version.is_empty())),
            _ => (None, None),
        };
        let (Some(table), Some(version)) = (table, version) else { return Err(self.usage()) };
        if !version.is_empty() && !OF_A_SNAPSHOT.contains(&self.part) {
            return Err(self.usage());
        }
        let table = scope.table(&path(&table)?.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut hasher = DefaultHasher::new();
        (&table.catalog, &table.schema, &table.table, &version).hash(&mut hasher);
        let about = proto::TableMetadata { table: Some(table), part: self.part.to_owned(), version };
        let name = format!("{}_{:016x}", self.part, hasher.finish());
        Ok(proto::WantedListing { name, any_of: Vec::new(), about: Some(about) })
    }

    fn usage(&self) -> Refusal {
        let version = if OF_A_SNAPSHOT.contains(&self.part) {
            ", and of an earlier snapshot with version => its id, or the name of a branch or a tag"
        } else {
            ""
        };
        let name = self.name;
        Refusal::Syntax(format!("{name} takes the name of a table as a text without parameters: {name}('schema.table'){version}"))
    }
}

/// A constant text or number under this alias.
fn text(argument: &Value, alias: &str) -> Option<String> {
    let is_constant = argument["class"] == "CONSTANT" && argument["value"]["is_null"] == false;
    let is_named = argument["alias"].as_str().is_some_and(|given| same(given, alias));
    match &argument["value"]["value"] {
        Value::String(text) if is_constant && is_named => Some(text.clone()),
        Value::Number(number) if is_constant && is_named && !alias.is_empty() => Some(number.to_string()),
        _ => None,
    }
}

/// The parts of a table's name that is written as in SQL.
fn path(name: &str) -> Result<Vec<String>, Refusal> {
    let tokens = token::statement(name)?;
    let mut inside = Cursor::new(name, &tokens);
    let path = inside.path("the name of a table")?;
    inside.expect_end()?;
    Ok(path)
}

/// The node of a call as that of a table, without its name.
pub(super) fn as_table(call: &Object) -> Object {
    let mut table = Object::new();
    for field in ["alias", "sample", "query_location", "column_name_alias"] {
        if let Some(value) = call.get(field) {
            table.insert(field.to_owned(), value.clone());
        }
    }
    table.insert("type".to_owned(), json!("BASE_TABLE"));
    table.insert("at_clause".to_owned(), Value::Null);
    table
}
