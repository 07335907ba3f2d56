//! Owns SQL names on the command line: reading `[catalog.]namespace.table`, and quoting of identifiers and texts. Refuses to know
//! which of them exist.

use std::fmt;
use std::str::FromStr;

/// A table as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// Without it the session's default catalog is meant.
    pub catalog: Option<String>,
    /// The namespace; its levels are joined by dots.
    pub schema: String,
    /// The table's own name.
    pub table: String,
}

impl TableName {
    /// The namespace as SQL names it, with the catalog where one was given.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        let schema = quote_name(&self.schema);
        self.catalog.as_ref().map_or(schema.clone(), |catalog| format!("{}.{schema}", quote_name(catalog)))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(catalog) = &self.catalog {
            write!(f, "{catalog}.")?;
        }
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Why a text is not a table's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTableName {
    /// Only one part.
    #[error("say which namespace the table is in: NAMESPACE.TABLE or CATALOG.NAMESPACE.TABLE")]
    NoSchema,
    /// Nothing between two dots, or at an end.
    #[error("a part of the name is empty; a name with a dot in it goes in double quotes: bronze.\"a.b\"")]
    EmptyPart,
    /// A double quote without its pair, or text beside a quoted part.
    #[error("the double quotes do not match; inside a quoted name a double quote is written twice")]
    Quotes,
}

impl FromStr for TableName {
    type Err = BadTableName;

    /// Two parts are namespace and table; of more, the first is the catalog and those between are the levels of the namespace.
    fn from_str(text: &str) -> Result<Self, BadTableName> {
        let mut parts = split_name(text)?;
        let table = parts.pop().ok_or(BadTableName::EmptyPart)?;
        let catalog = (parts.len() > 1).then(|| parts.remove(0));
        if parts.is_empty() {
            return Err(BadTableName::NoSchema);
        }
        Ok(Self { catalog, schema: parts.join("."), table })
    }
}

fn split_name(text: &str) -> Result<Vec<String>, BadTableName> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => take_quoted(quoted)?,
            None => rest.find('.').map_or((rest.to_owned(), ""), |dot| (rest[..dot].to_owned(), &rest[dot..])),
        };
        if part.is_empty() {
            return Err(BadTableName::EmptyPart);
        }
        if part.contains('"') && !rest.starts_with('"') {
            return Err(BadTableName::Quotes);
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(BadTableName::Quotes),
        }
    }
}

/// The name up to its closing quote, and what follows that.
fn take_quoted(text: &str) -> Result<(String, &str), BadTableName> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let quote = rest.find('"').ok_or(BadTableName::Quotes)?;
        name.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Ok((name, rest)),
        }
    }
}

/// A name as a quoted SQL identifier.
#[must_use]
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal.
#[must_use]
pub fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (Option<String>, String, String) {
        let name: TableName = text.parse().unwrap();
        (name.catalog, name.schema, name.table)
    }

    #[test]
    fn two_parts_are_namespace_and_table() {
        assert_eq!(parts("bronze.orders"), (None, "bronze".into(), "orders".into()));
    }

    #[test]
    fn the_first_of_three_or_more_is_the_catalog() {
        assert_eq!(parts("lake.bronze.orders"), (Some("lake".into()), "bronze".into(), "orders".into()));
        assert_eq!(parts("lake.a.b.t"), (Some("lake".into()), "a.b".into(), "t".into()));
    }

    #[test]
    fn quoted_parts_may_hold_dots_and_quotes() {
        assert_eq!(parts(r#"lake."a.b"."say ""hi""""#), (Some("lake".into()), "a.b".into(), r#"say "hi""#.into()));
    }

    #[test]
    fn names_that_say_too_little_are_refused() {
        for (text, expected) in [
            ("orders", BadTableName::NoSchema),
            ("", BadTableName::EmptyPart),
            ("a..b", BadTableName::EmptyPart),
            ("a.", BadTableName::EmptyPart),
            ("\"a.b", BadTableName::Quotes),
            ("\"a\"b.c", BadTableName::Quotes),
            ("a\"b.c", BadTableName::Quotes),
        ] {
            assert_eq!(text.parse::<TableName>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn quoting_doubles_what_it_quotes_with() {
        let name: TableName = "lake.\"o\"\"k\".t".parse().unwrap();
        assert_eq!(name.schema_sql(), r#""lake"."o""k""#);
        assert_eq!(quote_text("it's"), "'it''s'");
    }
}
