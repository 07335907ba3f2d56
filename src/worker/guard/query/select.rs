//! Owns the judging of a query by DuckDB's own syntax tree: it walks every node of the tree, against the allow-lists of `shape` and
//! `functions`, and fills in the catalog and schema of each table on its way. Refuses to make text; that is made from the
//! tree that was judged here.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::functions::{self, Place};
use super::hidden;
use super::narrow::{self, Conditions};
use super::reads::Reads;
use super::shape::{self, Part, Shape};
use crate::wire::proto;
use crate::worker::guard::names::{self, Meaning, same};
use crate::worker::guard::past::{self, PastAt, PastRead, TableFunction};
use crate::worker::guard::system::{self, SystemTable};
use crate::worker::guard::{Parser, Refusal, Scope};

type Object = Map<String, Value>;
type Judgement = Result<(), Refusal>;

/// Judges the one statement in `ast` and rewrites it in place: names in full, listings to their temporary tables, session functions
/// to their values. `text` is what `ast` was made from.
pub(super) fn judge(parser: &mut dyn Parser, scope: &Scope<'_>, text: &str, ast: &mut Value) -> Result<Reads, Refusal> {
    let mut walk = Walk { parser, scope, text, ctes: Vec::new(), conditions: HashMap::new(), reads: Reads::default() };
    let statement = ast.pointer_mut("/statements/0").ok_or_else(|| odd("a tree without a statement"))?;
    walk.select(statement)?;
    let reads = walk.reads;
    if scope.hides_virtual_columns {
        hidden::hide_virtual_columns(statement, &reads.tables);
    }
    Ok(reads)
}

struct Walk<'a> {
    parser: &'a mut dyn Parser,
    scope: &'a Scope<'a>,
    text: &'a str,
    /// Names of the CTEs that can be seen from here, innermost last.
    ctes: Vec<String>,
    /// The conditions on tables of the queries that are being walked, by where the tables stand in the text.
    conditions: HashMap<u64, Conditions>,
    reads: Reads,
}

impl Walk<'_> {
    /// A field of a node, judged as its shape says.
    fn part(&mut self, part: Part, value: &mut Value) -> Judgement {
        match part {
            Part::Plain => plain(value),
            Part::Nothing => nothing(value),
            Part::Expr => self.optional(value, Self::expression),
            Part::Table => self.optional(value, Self::table),
            Part::Exprs => self.each(value, Self::expression),
            Part::Items => self.each(value, Self::item),
            Part::Rows => self.each(value, |walk, row| walk.each(row, Self::expression)),
            Part::Pairs => self.each(value, Self::pair),
            Part::Call => self.call(value),
            Part::Node => self.node(value),
            Part::Select => self.select(value),
            Part::Modifiers if value.is_array() => self.each(value, Self::modifier),
            Part::Modifiers => self.optional(value, Self::modifier),
            Part::Orders => self.each(value, Self::order),
            Part::Type => type_of(value),
            Part::Types => self.each(value, |_, value| type_of(value)),
            Part::Value => constant(value),
            Part::Ctes => Ok(()),
            Part::Sample => self.optional(value, |_, value| sample(value)),
            Part::At => self.optional(value, Self::at),
            Part::Pivots => self.each(value, Self::pivot),
        }
    }

    fn optional(&mut self, value: &mut Value, judge: impl Fn(&mut Self, &mut Value) -> Judgement) -> Judgement {
        if value.is_null() { Ok(()) } else { judge(self, value) }
    }

    fn each(&mut self, value: &mut Value, judge: impl Fn(&mut Self, &mut Value) -> Judgement) -> Judgement {
        let items = value.as_array_mut().ok_or_else(|| odd("something else where a list belongs"))?;
        items.iter_mut().try_for_each(|item| judge(self, item))
    }

    /// Every field of a node; one that its shape does not have is refused.
    fn fields(&mut self, shape: &Shape, node: &mut Object) -> Judgement {
        for (name, value) in node {
            match name.as_str() {
                "class" | "type" | "alias" | "query_location" => plain(value)?,
                _ => {
                    let part = shape.fields.iter().find(|(field, _)| field == name).map(|(_, part)| *part);
                    let part = part.ok_or_else(|| odd(&format!("the field {name} of {}", shape.class)))?;
                    self.part(part, value)?;
                }
            }
        }
        Ok(())
    }

    /// A statement inside a statement, or the whole.
    fn select(&mut self, value: &mut Value) -> Judgement {
        for (name, value) in object(value)? {
            match name.as_str() {
                "node" => self.node(value)?,
                "named_param_map" => plain(value)?,
                other => return Err(odd(&format!("the field {other} of a statement"))),
            }
        }
        Ok(())
    }

    /// A query node: its CTEs first, each seeing the ones before it, then the rest, which sees them all.
    fn node(&mut self, value: &mut Value) -> Judgement {
        let node = object(value)?;
        let shape = find(shape::NODES, text_of(node, "type"), "query")?;
        let outside = self.ctes.len();
        if let Some(ctes) = node.get_mut("cte_map") {
            for (name, list) in object(ctes)? {
                match name.as_str() {
                    "map" => self.each(list, Self::cte)?,
                    other => return Err(odd(&format!("the field {other} of WITH"))),
                }
            }
        }
        if shape.class == "RECURSIVE_CTE_NODE" {
            self.recursive(shape, node)?;
        } else {
            if shape.class == "SELECT_NODE" {
                let found = narrow::conditions(node, &|function| self.session_value(function));
                self.conditions.extend(found);
            }
            self.fields(shape, node)?;
        }
        self.ctes.truncate(outside);
        Ok(())
    }

    /// The first part of a recursive CTE does not see the CTE, the second does.
    fn recursive(&mut self, shape: &Shape, node: &mut Object) -> Judgement {
        let name = text_of(node, "cte_name").to_owned();
        if let Some(left) = node.get_mut("left") {
            self.node(left)?;
        }
        let mut left = node.remove("left");
        self.see_cte(&name)?;
        let rest = self.fields(shape, node);
        if let Some(left) = left.take() {
            node.insert("left".to_owned(), left);
        }
        rest
    }

    fn cte(&mut self, value: &mut Value) -> Judgement {
        let entry = object(value)?;
        let name = text_of(entry, "key").to_owned();
        for (field, value) in entry {
            match field.as_str() {
                "key" => plain(value)?,
                "value" => {
                    for (field, value) in object(value)? {
                        match field.as_str() {
                            "aliases" | "materialized" => plain(value)?,
                            "query" => self.select(value)?,
                            "key_targets" => self.each(value, Self::expression)?,
                            other => return Err(odd(&format!("the field {other} of a CTE"))),
                        }
                    }
                }
                other => return Err(odd(&format!("the field {other} of WITH"))),
            }
        }
        self.see_cte(&name)
    }

    /// From here on `name` is a CTE. It must not be a name that DuckDB would answer in another way if it did not see the CTE.
    fn see_cte(&mut self, name: &str) -> Judgement {
        names::refuse_odd_name(name)?;
        if name.contains('.') && names::looks_like_file(name) {
            return Err(names::file_refused(name));
        }
        let lower = name.to_lowercase();
        if ["duckdb_", "pg_", "pragma_", "sqlite_", "listed_"].iter().any(|prefix| lower.starts_with(prefix)) {
            return Err(Refusal::Refused(format!("{} is a system name: give the CTE another one", names::quote(name))));
        }
        self.ctes.push(name.to_owned());
        Ok(())
    }

    /// An expression of the select list. What is rewritten keeps the name of its column: that of the client's own text.
    fn item(&mut self, value: &mut Value) -> Judgement {
        let is_named = value["alias"] != "" || value["class"] == "STAR";
        let before = (!is_named).then(|| value.clone());
        self.expression(value)?;
        // An expression that has no text of its own is found out when the whole is written.
        if let Some(before) = before.filter(|before| before != value)
            && let Ok(name) = self.column_name(before)
        {
            value["alias"] = Value::String(name);
        }
        Ok(())
    }

    /// The column name that DuckDB gives to an expression without an alias.
    fn column_name(&mut self, item: Value) -> Result<String, Refusal> {
        if item["class"] == "COLUMN_REF" {
            let name = item["column_names"].as_array().and_then(|names| names.last()).and_then(Value::as_str);
            return name.map(str::to_owned).ok_or_else(|| odd("a column without a name"));
        }
        super::expression_text(self.parser, item)
    }

    fn expression(&mut self, value: &mut Value) -> Judgement {
        let node = object(value)?;
        let class = text_of(node, "class");
        if class == "DEFAULT" {
            return Err(Refusal::Unsupported(
                "DEFAULT is not supported as a value: leave the column out of the column list".to_owned(),
            ));
        }
        let shape = find(shape::EXPRESSIONS, class, "expression")?;
        let kind = text_of(node, "type");
        if !shape.types.contains(&kind) {
            return Err(odd(&format!("{} of type {kind}", shape.class)));
        }
        match shape.class {
            "FUNCTION" => self.function(node, Place::Expression)?,
            "WINDOW" => {
                own_function(node)?;
                functions::judge(text_of(node, "function_name"), Place::Window)?;
            }
            _ => {}
        }
        self.fields(shape, node)?;
        if shape.class == "CAST" {
            self.note_cast(node);
        }
        if let Some(replacement) = self.replacement(shape, node) {
            *value = replacement;
        } else if shape.class == "COLUMN_REF" {
            unqualify_listing(node);
        }
        Ok(())
    }

    fn note_cast(&mut self, node: &Object) {
        let child = node.get("child").filter(|child| child["class"] == "PARAMETER");
        let Some(name) = child.and_then(|child| child["identifier"].as_str()) else { return };
        let value = json!({"type": {"id": "NULL", "type_info": null}, "is_null": true});
        let mut cast = node.clone();
        cast.insert("child".to_owned(), json!({"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "value": value}));
        cast.insert("alias".to_owned(), json!(""));
        if let Ok(text) = super::expression_text(self.parser, Value::Object(cast)) {
            self.reads.casts.push((name.to_owned(), text));
        }
    }

    /// A call by name. `x.f(1)` is DuckDB's other way to write `f(x, 1)` unless a schema x has a function f; it is rewritten, so that
    /// only DuckDB's own functions are ever named.
    fn function(&mut self, node: &mut Object, place: Place) -> Judgement {
        if place == Place::Expression && own_function(node).is_ok() {
            if let Some(object) = system::function(self.scope, text_of(node, "function_name")) {
                name_function(node, "temp", "main", &object.name);
                self.reads.add_system(object);
                return Ok(());
            }
            if text_of(node, "schema") == "pg_catalog" {
                // Tools name functions so that DuckDB has elsewhere.
                let name = text_of(node, "function_name").to_owned();
                name_function(node, "", "", &name);
            }
        }
        let (catalog, schema) = (text_of(node, "catalog").to_owned(), text_of(node, "schema").to_owned());
        functions::judge(text_of(node, "function_name"), place)?;
        if place == Place::Table || schema.is_empty() || own_function(node).is_ok() {
            return own_function(node);
        }
        let name = text_of(node, "function_name");
        if system::function(self.scope, name).is_some() {
            return Err(Refusal::Unsupported(format!("write {name}(x, …) instead of x.{name}(…)")));
        }
        let path: Vec<String> = [catalog, schema].into_iter().filter(|part| !part.is_empty()).collect();
        // In text `current_schema` is the keyword, whatever it was in the tree.
        let keyword = if let [name] = path.as_slice() { self.session_value(name) } else { None };
        let subject = match keyword {
            Some(value) => text_constant(&value, ""),
            None => json!({"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": path}),
        };
        let arguments = node.get_mut("children").and_then(Value::as_array_mut).ok_or_else(|| odd("a call without arguments"))?;
        arguments.insert(0, subject);
        node.insert("catalog".to_owned(), json!(""));
        node.insert("schema".to_owned(), json!(""));
        Ok(())
    }

    /// The call of a table function.
    fn call(&mut self, value: &mut Value) -> Judgement {
        let node = object(value)?;
        if text_of(node, "class") != "FUNCTION" {
            return Err(odd("a table function that is not a call"));
        }
        let shape = find(shape::EXPRESSIONS, "FUNCTION", "expression")?;
        self.function(node, Place::Table)?;
        self.fields(shape, node)
    }

    /// What stands for an expression that would mean something else in a worker, or in text: session functions become their values,
    /// and DOUBLE constants casts, as DuckDB writes `1e3` as `1000.0`, which reads as a DECIMAL.
    fn replacement(&self, shape: &Shape, node: &Object) -> Option<Value> {
        let alias = text_of(node, "alias");
        let session = match shape.class {
            "FUNCTION" if arguments(node) == 0 => self.session_value(text_of(node, "function_name")),
            "COLUMN_REF" => self.session_value(self.unquoted_column(node)?),
            _ => None,
        };
        if let Some(text) = session {
            return Some(text_constant(&text, alias));
        }
        let value = (shape.class == "CONSTANT").then(|| node.get("value")).flatten()?;
        let is_double = value.pointer("/type/id")?.as_str()? == "DOUBLE" && value.get("is_null") == Some(&Value::Bool(false));
        let number = is_double.then(|| value.get("value")?.as_f64()).flatten()?;
        Some(cast(text_constant(&format!("{number:e}"), ""), "DOUBLE", alias))
    }

    fn session_value(&self, function: &str) -> Option<String> {
        match function.to_lowercase().as_str() {
            "current_schema" => Some(self.scope.default_schema.to_owned()),
            "current_database" | "current_catalog" => Some(self.scope.default_catalog.to_owned()),
            _ => None,
        }
    }

    /// The name of a column that stands alone and unquoted: then `current_schema` is the keyword, not a column of that name.
    fn unquoted_column<'n>(&self, node: &'n Object) -> Option<&'n str> {
        let [name] = node.get("column_names")?.as_array()?.as_slice() else { return None };
        let name = name.as_str()?;
        let start = usize::try_from(node.get("query_location")?.as_u64()?).ok()?;
        // DuckDB gives a position out of all bounds to what it made up itself.
        let written = self.text.get(start..start.checked_add(name.len())?)?;
        written.eq_ignore_ascii_case(name).then_some(name)
    }

    fn table(&mut self, value: &mut Value) -> Judgement {
        let node = object(value)?;
        let class = text_of(node, "type");
        if class == "SHOW_REF" {
            return Err(Refusal::Unsupported(
                "SHOW, DESCRIBE and SUMMARIZE are not supported inside a query: read information_schema.columns".to_owned(),
            ));
        }
        if class == "TABLE_FUNCTION"
            && let Some(function) = past::table_function(node)
        {
            return self.metadata(node, function);
        }
        let shape = find(shape::TABLES, class, "table reference")?;
        self.fields(shape, node)?;
        match shape.class {
            "BASE_TABLE" => self.base_table(node),
            "JOIN" => {
                spell_out_cross_joins(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A table by name: a CTE, a listing, or a table of the lakehouse, whose name is then given in full.
    fn base_table(&mut self, node: &mut Object) -> Judgement {
        let parts: Vec<String> = ["catalog_name", "schema_name", "table_name"]
            .iter()
            .map(|field| text_of(node, field).to_owned())
            .filter(|part| !part.is_empty())
            .collect();
        let travels = node.get("at_clause").is_some_and(|at| !at.is_null());
        if let [name] = parts.as_slice()
            && self.ctes.iter().any(|cte| same(cte, name))
        {
            return if travels { Err(Refusal::Unsupported("AT works on tables, not on CTEs".to_owned())) } else { Ok(()) };
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match self.scope.resolve(&parts)? {
            Meaning::Table(table) => {
                self.note_when(node, &table)?;
                name_table(node, &table.catalog, &table.schema, &table.table);
                self.reads.add_table(table);
            }
            Meaning::System(_) if travels => {
                return Err(Refusal::Unsupported("AT works on tables of the lakehouse only".to_owned()));
            }
            Meaning::System(system) => {
                if text_of(node, "alias").is_empty() {
                    let alias = text_of(node, "table_name").to_owned();
                    node.insert("alias".to_owned(), Value::String(alias));
                }
                self.system_table(node, system);
            }
        }
        Ok(())
    }

    /// A function that shows a table's own metadata becomes the listing of its rows.
    fn metadata(&mut self, node: &mut Object, function: TableFunction) -> Judgement {
        ["alias", "column_name_alias", "query_location"].iter().filter_map(|field| node.get(*field)).try_for_each(plain)?;
        if let Some(value) = node.get_mut("sample") {
            self.optional(value, |_, value| sample(value))?;
        }
        let listing = function.listing(self.scope, node)?;
        let mut table = past::as_table(node);
        if text_of(&table, "alias").is_empty() {
            table.insert("alias".to_owned(), json!(function.name()));
        }
        name_table(&mut table, "temp", "main", &listing_table(&listing.name));
        self.reads.add_listing(listing);
        *node = table;
        Ok(())
    }

    /// A system table becomes the view that the worker makes of it.
    fn system_table(&mut self, node: &mut Object, system: &SystemTable) {
        if let Some(listed) = &system.listing {
            let at = node.get("query_location").and_then(Value::as_u64);
            let conditions = at.and_then(|at| self.conditions.remove(&at)).unwrap_or_default();
            let mut patterns = conditions.patterns(listed);
            if system.schema == "pg_catalog" {
                patterns.catalogs = vec![self.scope.owners_default_catalog().to_owned()];
            }
            let any_of = if patterns == proto::TablePatterns::default() { Vec::new() } else { vec![patterns] };
            self.reads.add_listing(proto::WantedListing { name: listed.name.to_owned(), any_of, about: None });
        }
        let object = system.object(self.scope);
        name_table(node, "temp", "main", &object.name);
        self.reads.add_system(object);
    }

    /// Takes note of when a table is read, or writes the snapshot down that stands for it.
    fn note_when(&mut self, node: &mut Object, table: &proto::TableName) -> Judgement {
        let at = match node.get("at_clause").filter(|at| !at.is_null()) {
            Some(clause) => self.at_of(&clause.clone())?,
            None if self.scope.in_the_past => PastAt::Session,
            None => PastAt::Now,
        };
        let read = PastRead { table: table.clone(), at };
        let known = self.scope.versions.and_then(|versions| versions.iter().find(|(known, _)| *known == read));
        if let Some((_, snapshot)) = known {
            node.insert("at_clause".to_owned(), snapshot.map_or(Value::Null, past::clause));
            if snapshot.is_none() {
                node.insert("sample".to_owned(), past::no_rows());
            }
        }
        match read.at {
            PastAt::Now => self.reads.add_present(read.table),
            _ => self.reads.add_past(read),
        }
        Ok(())
    }

    fn at_of(&mut self, clause: &Value) -> Result<PastAt, Refusal> {
        let text = super::expression_text(self.parser, super::canonical(clause["expr"].clone()))?;
        match clause["unit"].as_str().unwrap_or_default().to_ascii_uppercase().as_str() {
            "VERSION" => Ok(PastAt::Version(text)),
            "TIMESTAMP" => Ok(PastAt::Timestamp(text)),
            unit => Err(odd(&format!("AT ({unit} => …)"))),
        }
    }

    fn at(&mut self, value: &mut Value) -> Judgement {
        for (name, value) in object(value)? {
            match name.as_str() {
                "unit" => plain(value)?,
                "expr" => {
                    past::refuse_open(value)?;
                    self.expression(value)?;
                }
                other => return Err(odd(&format!("the field {other} of AT"))),
            }
        }
        Ok(())
    }

    fn modifier(&mut self, value: &mut Value) -> Judgement {
        let node = object(value)?;
        let shape = find(shape::MODIFIERS, text_of(node, "type"), "modifier")?;
        self.fields(shape, node)
    }

    fn order(&mut self, value: &mut Value) -> Judgement {
        for (name, value) in object(value)? {
            match name.as_str() {
                "type" | "null_order" => plain(value)?,
                "expression" => {
                    let was_constant = value["class"] == "CONSTANT";
                    self.expression(value)?;
                    if value["class"] == "CONSTANT" && !was_constant {
                        // A bare constant in ORDER BY is an error, or the number of a column.
                        *value = cast(value.take(), "VARCHAR", "");
                    }
                }
                other => return Err(odd(&format!("the field {other} of ORDER BY"))),
            }
        }
        Ok(())
    }

    /// The branches of CASE and the replacements of a star: objects of expressions, some under a plain key.
    fn pair(&mut self, value: &mut Value) -> Judgement {
        for (name, value) in object(value)? {
            match name.as_str() {
                "when_expr" | "then_expr" | "value" => self.expression(value)?,
                "key" => plain(value)?,
                other => return Err(odd(&format!("the field {other} of a pair"))),
            }
        }
        Ok(())
    }

    fn pivot(&mut self, value: &mut Value) -> Judgement {
        for (name, value) in object(value)? {
            match name.as_str() {
                "pivot_expressions" => self.each(value, Self::expression)?,
                "unpivot_names" => plain(value)?,
                "entries" => self.each(value, Self::pivot_entry)?,
                "pivot_enum" | "subquery" => nothing(value)?,
                other => return Err(odd(&format!("the field {other} of PIVOT"))),
            }
        }
        Ok(())
    }

    fn pivot_entry(&mut self, value: &mut Value) -> Judgement {
        for (name, value) in object(value)? {
            match name.as_str() {
                "values" => self.each(value, |_, value| constant(value))?,
                "star_expr" => self.optional(value, Self::expression)?,
                "alias" => plain(value)?,
                other => return Err(odd(&format!("the field {other} of PIVOT"))),
            }
        }
        Ok(())
    }
}

/// The temporary table that holds a listing.
pub(in crate::worker::guard) fn listing_table(name: &str) -> String {
    format!("listed_{name}")
}

fn find(shapes: &'static [Shape], class: &str, what: &str) -> Result<&'static Shape, Refusal> {
    shapes.iter().find(|shape| shape.class == class).ok_or_else(|| odd(&format!("the {what} {class}")))
}

fn odd(what: &str) -> Refusal {
    Refusal::Unsupported(format!("{what} is not supported"))
}

fn object(value: &mut Value) -> Result<&mut Object, Refusal> {
    value.as_object_mut().ok_or_else(|| odd("something else where a node belongs"))
}

fn text_of<'n>(node: &'n Object, field: &str) -> &'n str {
    node.get(field).and_then(Value::as_str).unwrap_or("")
}

fn arguments(node: &Object) -> usize {
    node.get("children").and_then(Value::as_array).map_or(usize::MAX, Vec::len)
}

fn name_table(node: &mut Object, catalog: &str, schema: &str, table: &str) {
    for (field, text) in [("catalog_name", catalog), ("schema_name", schema), ("table_name", table)] {
        node.insert(field.to_owned(), Value::String(text.to_owned()));
    }
}

fn name_function(node: &mut Object, catalog: &str, schema: &str, name: &str) {
    for (field, text) in [("catalog", catalog), ("schema", schema), ("function_name", name)] {
        node.insert(field.to_owned(), Value::String(text.to_owned()));
    }
}

/// Refuses a function that is named in a schema other than DuckDB's own.
fn own_function(node: &Object) -> Judgement {
    let (catalog, schema) = (text_of(node, "catalog"), text_of(node, "schema"));
    let is_own = (catalog.is_empty() || catalog == "system") && ["", "main", "pg_catalog"].contains(&schema);
    let name = text_of(node, "function_name");
    if is_own { Ok(()) } else { Err(Refusal::Refused(format!("there is no function {schema}.{name}"))) }
}

/// `information_schema.columns.data_type` after the table has become a temporary one with the alias `columns`.
fn unqualify_listing(node: &mut Object) {
    let Some(names) = node.get_mut("column_names").and_then(Value::as_array_mut) else { return };
    let is_system = |name: &str| system::SCHEMAS.iter().any(|schema| same(schema, name));
    let at = names.iter().position(|name| name.as_str().is_some_and(is_system));
    if let Some(at) = at.filter(|at| *at <= 1 && names.len() >= at + 3) {
        names.drain(..=at);
    }
}

/// DuckDB writes CROSS JOIN as a comma, which binds less than any JOIN beside it: inside another join it is made an INNER JOIN ON true.
fn spell_out_cross_joins(node: &mut Object) {
    let sides: &[&str] = if text_of(node, "ref_type") == "CROSS" { &["right"] } else { &["left", "right"] };
    for side in sides {
        let Some(inner) = node.get_mut(*side).and_then(Value::as_object_mut) else { continue };
        if text_of(inner, "type") == "JOIN" && text_of(inner, "ref_type") == "CROSS" {
            inner.insert("ref_type".to_owned(), json!("REGULAR"));
            inner.insert("condition".to_owned(), cast(text_constant("t", ""), "BOOLEAN", ""));
        }
    }
}

fn text_constant(text: &str, alias: &str) -> Value {
    let value = json!({"type": {"id": "VARCHAR", "type_info": null}, "is_null": false, "value": text});
    json!({"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": alias, "value": value})
}

fn cast(child: Value, to: &str, alias: &str) -> Value {
    let to = json!({"id": to, "type_info": null});
    json!({"class": "CAST", "type": "OPERATOR_CAST", "alias": alias, "child": child, "cast_type": to, "try_cast": false})
}

/// Scalars, lists and objects of scalars, with nothing in them that could be a node.
fn plain(value: &Value) -> Judgement {
    match value {
        Value::Array(items) => items.iter().try_for_each(plain),
        Value::Object(fields) if fields.contains_key("class") || fields.contains_key("type") => {
            Err(odd("a node where a plain value belongs"))
        }
        Value::Object(fields) => fields.values().try_for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn nothing(value: &Value) -> Judgement {
    let empty = match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if empty { Ok(()) } else { Err(odd("a part of a node that only other statements have")) }
}

fn sample(value: &mut Value) -> Judgement {
    for (name, value) in object(value)? {
        match name.as_str() {
            "sample_size" => constant(value)?,
            "is_percentage" | "method" | "seed" => plain(value)?,
            other => return Err(odd(&format!("the field {other} of a sample"))),
        }
    }
    Ok(())
}

/// A constant: its type, and its value, which for nested types holds constants again.
fn constant(value: &mut Value) -> Judgement {
    for (name, value) in object(value)? {
        match name.as_str() {
            "type" => type_of(value)?,
            "is_null" => plain(value)?,
            "value" => match value.get_mut("children").and_then(Value::as_array_mut) {
                Some(children) => children.iter_mut().try_for_each(constant)?,
                None => plain(value)?,
            },
            other => return Err(odd(&format!("the field {other} of a constant"))),
        }
    }
    Ok(())
}

fn type_of(value: &mut Value) -> Judgement {
    for (name, value) in object(value)? {
        match name.as_str() {
            "id" => {
                let id = value.as_str().unwrap_or("");
                if !shape::TYPES.contains(&id) {
                    return Err(odd(&format!("the type {id}")));
                }
            }
            "type_info" if value.is_null() => {}
            "type_info" => type_info(object(value)?)?,
            other => return Err(odd(&format!("the field {other} of a type"))),
        }
    }
    Ok(())
}

fn type_info(info: &mut Object) -> Judgement {
    if text_of(info, "type") == "UNBOUND_TYPE_INFO" {
        let name = text_of(info, "name").to_lowercase();
        let qualified = !text_of(info, "catalog").is_empty() || !text_of(info, "schema").is_empty();
        if qualified || !shape::NAMED_TYPES.contains(&name.as_str()) {
            return Err(Refusal::NotFound(format!("there is no type {name}")));
        }
    }
    for (name, value) in info {
        match name.as_str() {
            "type" | "alias" | "name" | "catalog" | "schema" | "width" | "scale" | "size" | "collation" => plain(value)?,
            "extension_info" => nothing(value)?,
            "child_type" => type_of(value)?,
            "child_types" => {
                let children = value.as_array_mut().ok_or_else(|| odd("a type without members"))?;
                children.iter_mut().try_for_each(member_type)?;
            }
            "user_type_modifiers" => {
                let modifiers = value.as_array_mut().ok_or_else(|| odd("a type with odd modifiers"))?;
                modifiers.iter_mut().try_for_each(constant)?;
            }
            other => return Err(odd(&format!("the field {other} of a type"))),
        }
    }
    Ok(())
}

fn member_type(value: &mut Value) -> Judgement {
    for (name, value) in object(value)? {
        match name.as_str() {
            "first" => plain(value)?,
            "second" => type_of(value)?,
            other => return Err(odd(&format!("the field {other} of a type"))),
        }
    }
    Ok(())
}
