//! Owns a second opinion on a text that the guard has let through, from DuckDB's own tree and from the bare text, without a line of the
//! guard's code but its list of functions, which is read anew. Refuses to run anything.

use std::collections::HashSet;

use serde_json::Value;

/// The list of functions, as a reader without the guard understands it.
pub(super) struct Functions {
    in_expressions: HashSet<&'static str>,
    in_from: HashSet<&'static str>,
    refused: HashSet<&'static str>,
}

impl Functions {
    pub(super) fn read() -> Self {
        let mut functions = Self { in_expressions: HashSet::new(), in_from: HashSet::new(), refused: HashSet::new() };
        let mut heading = "";
        for line in include_str!("../../query/functions.txt").lines().map(str::trim) {
            if line.starts_with('[') {
                heading = line;
            } else if line.is_empty() || line.starts_with('#') {
            } else if heading.starts_with("[allowed-table]") {
                functions.in_from.insert(line);
            } else if heading.starts_with("[allowed-") {
                functions.in_expressions.insert(line);
            } else {
                functions.refused.insert(line);
            }
        }
        // What is refused as one kind stays refused for a bare text, which does not show the kind.
        let allowed: Vec<&str> = functions.in_expressions.union(&functions.in_from).copied().collect();
        functions.refused.retain(|name| !allowed.contains(name));
        assert!(functions.in_expressions.len() > 500 && functions.in_from.len() > 3 && functions.refused.len() > 100);
        functions
    }

    /// What is wrong with a tree, if anything is.
    pub(super) fn tree(&self, tree: &Value) -> Result<(), String> {
        let statements = tree["statements"].as_array().map_or(0, Vec::len);
        if statements != 1 {
            return Err(format!("{statements} statements"));
        }
        let mut ctes = HashSet::new();
        gather_ctes(tree, &mut ctes);
        self.node(tree, false, &ctes)
    }

    fn node(&self, value: &Value, in_from: bool, ctes: &HashSet<String>) -> Result<(), String> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.node(item, false, ctes)),
            Value::Object(fields) => {
                if let Some(name) = value["function_name"].as_str() {
                    self.function(value, &name.to_lowercase(), in_from)?;
                }
                match value["type"].as_str() {
                    Some("BASE_TABLE") => base_table(value, ctes)?,
                    Some("SHOW_REF") => return Err("a look into DuckDB's catalog".to_owned()),
                    _ => {}
                }
                let calls = value["type"] == "TABLE_FUNCTION";
                fields.iter().try_for_each(|(name, field)| self.node(field, calls && name == "function", ctes))
            }
            _ => Ok(()),
        }
    }

    fn function(&self, node: &Value, name: &str, in_from: bool) -> Result<(), String> {
        let place = [node["catalog"].as_str().unwrap_or(""), node["schema"].as_str().unwrap_or("")];
        let own = matches!(place, ["" | "system", "" | "main" | "pg_catalog"]);
        let known = if in_from { &self.in_from } else { &self.in_expressions };
        // Ours, in the place of DuckDB's.
        let made = !in_from && place == ["temp", "main"] && name.starts_with("listed_");
        if made || own && known.contains(name) { Ok(()) } else { Err(format!("the function {}.{name}", place.join("."))) }
    }

    /// For statements that DuckDB gives no tree for: no refused function is called in the text, and there is no second statement.
    pub(super) fn text(&self, sql: &str) -> Result<(), String> {
        let words = words(sql);
        for (at, Word { text: name, .. }) in words.iter().enumerate() {
            let back = |by: usize| at.checked_sub(by).map_or("", |at| words[at].text.as_str());
            // Behind AS it is the alias of a table with names for its columns; in full, a table of the lakehouse with some of its.
            let is_table = back(1).eq_ignore_ascii_case("as") || back(1) == "." && ["lake", "Gold"].contains(&back(4));
            let called = words.get(at + 1).is_some_and(|after| after.is_symbol("(")) && !is_table;
            if called && self.refused.contains(name.to_lowercase().as_str()) {
                return Err(format!("a call of {name}"));
            }
        }
        if words.iter().any(|word| word.is_symbol(";")) { Err("a second statement".to_owned()) } else { Ok(()) }
    }
}

fn gather_ctes(value: &Value, ctes: &mut HashSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| gather_ctes(item, ctes)),
        Value::Object(fields) => {
            for entry in value["cte_map"]["map"].as_array().into_iter().flatten() {
                ctes.extend(entry["key"].as_str().map(str::to_ascii_lowercase));
            }
            ctes.extend(value["cte_name"].as_str().map(str::to_ascii_lowercase));
            fields.values().for_each(|field| gather_ctes(field, ctes));
        }
        _ => {}
    }
}

fn base_table(node: &Value, ctes: &HashSet<String>) -> Result<(), String> {
    let part = |name: &str| node[name].as_str().unwrap_or("").to_owned();
    let name = [part("catalog_name"), part("schema_name"), part("table_name")];
    let known = match [name[0].as_str(), name[1].as_str(), name[2].as_str()] {
        ["", "", table] => ctes.contains(&table.to_ascii_lowercase()),
        ["lake" | "Gold", schema, _] => !schema.is_empty(),
        // Made for the statement, from the gateway's listings.
        ["temp", "main", table] => table.starts_with("listed_"),
        _ => false,
    };
    if known { Ok(()) } else { Err(format!("the table {}", name.join("."))) }
}

/// A word, a symbol or a quoted name, which may look like either.
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is_symbol(&self, symbol: &str) -> bool {
        !self.quoted && self.text == symbol
    }
}

/// Words, symbols and quoted names of a text; texts in quotes as one empty word.
fn words(sql: &str) -> Vec<Word> {
    let chars: Vec<char> = sql.chars().collect();
    let (mut words, mut at) = (Vec::new(), 0);
    let bare = |text: String| Word { text, quoted: false };
    while at < chars.len() {
        let start = at;
        match chars[at] {
            quote @ ('\'' | '"') => {
                let mut text = String::new();
                at += 1;
                while at < chars.len() && (chars[at] != quote || chars.get(at + 1) == Some(&quote)) {
                    at += usize::from(chars[at] == quote);
                    text.push(chars[at]);
                    at += 1;
                }
                at += 1;
                words.push(Word { text: if quote == '"' { text } else { String::new() }, quoted: true });
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
                words.push(bare(chars[start..at].iter().collect()));
            }
            c => {
                at += 1;
                if !c.is_whitespace() {
                    words.push(bare(c.to_string()));
                }
            }
        }
    }
    words
}
