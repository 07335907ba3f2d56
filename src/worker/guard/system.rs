//! Owns the system tables that a statement may read, and the functions that stand for DuckDB's own: what they are called, which listing
//! each is made of, and the text that makes it, all from `system.sql`. Refuses to hold rows.

use std::sync::OnceLock;

use super::Scope;
use super::names::{quote_text, same};
use super::query::listing_table;

const DEFINITIONS: &str = include_str!("system.sql");

/// The schemas of system tables. What they have in any catalog is the same.
pub(super) const SCHEMAS: [&str; 2] = ["information_schema", "pg_catalog"];

/// The listings that the gateway makes.
const LISTINGS: [&str; 3] = ["schemata", "tables", "columns"];

/// What a statement needs made on its connection before it runs, and taken away behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemObject {
    /// A view or a macro.
    pub kind: &'static str,
    /// Its name in `temp.main`.
    pub name: String,
    /// What stands behind its name in CREATE.
    pub definition: String,
}

/// A system table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SystemTable {
    pub schema: &'static str,
    pub name: &'static str,
    /// The listing that it is made of.
    pub listing: Option<Listed>,
    query: &'static str,
}

/// The listing of a system table, and the names that its columns have there; empty where it shows none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub name: &'static str,
    pub catalog: &'static str,
    pub schema: &'static str,
    pub table: &'static str,
}

/// A function of our own.
struct SystemFunction {
    name: &'static str,
    parameters: &'static str,
    expression: &'static str,
}

#[derive(Default)]
struct Definitions {
    tables: Vec<SystemTable>,
    functions: Vec<SystemFunction>,
    lets: Vec<(&'static str, &'static str)>,
}

/// The system table of a name, whatever its case.
pub(super) fn table(schema: &str, name: &str) -> Option<&'static SystemTable> {
    definitions().tables.iter().find(|table| same(table.schema, schema) && same(table.name, name))
}

/// The names of all of a schema.
pub(super) fn names(schema: &str) -> Vec<&'static str> {
    definitions().tables.iter().filter(|table| same(table.schema, schema)).map(|table| table.name).collect()
}

/// What makes our function of this name, if there is one.
pub(super) fn function(scope: &Scope<'_>, name: &str) -> Option<SystemObject> {
    let function = definitions().functions.iter().find(|function| same(function.name, name))?;
    let definition = format!("({}) AS {}", function.parameters, filled(scope, function.expression));
    Some(SystemObject { kind: "MACRO", name: listing_table(function.name), definition })
}

impl SystemTable {
    /// What makes it.
    pub fn object(&self, scope: &Scope<'_>) -> SystemObject {
        let name = listing_table(&format!("{}_{}", self.schema, self.name));
        SystemObject { kind: "VIEW", name, definition: format!(" AS {}", filled(scope, self.query)) }
    }
}

/// A text with what stands for its names in braces. What is put in for a client's name is not looked at again: it could have braces too.
fn filled(scope: &Scope<'_>, text: &str) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, name, behind)) = placeholder(rest) {
        filled.push_str(before);
        filled.push_str(&value(scope, name));
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

/// What stands before the first `{name}`, the name, and what stands behind it.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, behind) = rest.split_once('}')?;
    Some((before, name, behind))
}

/// What stands for a name in braces.
fn value(scope: &Scope<'_>, name: &str) -> String {
    if LISTINGS.contains(&name) {
        return format!("temp.main.{}", listing_table(name));
    }
    match name {
        "catalogs" => {
            let catalogs: Vec<String> = scope.catalogs.iter().map(|catalog| quote_text(catalog)).collect();
            format!("[{}]", catalogs.join(", "))
        }
        "catalog" => quote_text(scope.owners_default_catalog()),
        "schema" => quote_text(scope.default_schema),
        _ => {
            let definition = definitions().lets.iter().find(|(known, _)| *known == name);
            definition.map(|(_, text)| filled(scope, text)).unwrap_or_default()
        }
    }
}

fn definitions() -> &'static Definitions {
    static PARSED: OnceLock<Definitions> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut all = Definitions::default();
        for (heading, text) in DEFINITIONS.split("\n--- ").skip(1).filter_map(|part| part.split_once('\n')) {
            add(&mut all, heading.trim(), text.trim());
        }
        all
    })
}

fn add(all: &mut Definitions, heading: &'static str, text: &'static str) {
    if let Some(name) = heading.strip_prefix("let ") {
        all.lets.push((name, text));
    } else if let Some((name, parameters)) = heading.strip_prefix("function ").and_then(call) {
        all.functions.push(SystemFunction { name, parameters, expression: text });
    } else {
        let (name, listing) = heading.split_once(": ").map_or((heading, None), |(name, listing)| (name, listed(listing)));
        if let Some((schema, name)) = name.split_once('.') {
            all.tables.push(SystemTable { schema, name, listing, query: text });
        }
    }
}

fn listed(text: &'static str) -> Option<Listed> {
    let (name, columns) = call(text)?;
    let mut columns = columns.split(',').map(str::trim);
    let mut next = || columns.next().unwrap_or("");
    Some(Listed { name, catalog: next(), schema: next(), table: next() })
}

/// `name(inside)`
fn call(text: &'static str) -> Option<(&'static str, &'static str)> {
    text.strip_suffix(')')?.split_once('(')
}
