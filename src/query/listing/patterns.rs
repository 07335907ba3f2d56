//! Owns which part of a listing is wanted: SQL LIKE on names. Refuses to know where names come from.

use crate::names::CatalogName;
use crate::query::TableFilter;
use crate::wire::proto::TablePatterns;

/// Which part of a listing is wanted.
pub(super) trait Choice: Sync {
    /// Whether something of the catalog may be.
    fn catalog(&self, catalog: &CatalogName) -> bool;

    /// Whether something of the schema may be.
    fn schema(&self, catalog: &CatalogName, schema: &str) -> bool;

    /// Whether the table is.
    fn table(&self, catalog: &CatalogName, schema: &str, table: &str) -> bool;

    /// Whether no schema of these catalogs is left out.
    fn has_all_schemas(&self) -> bool;

    /// Whether no table of these schemas is left out.
    fn has_all_tables(&self) -> bool;
}

/// Which part of a listing a statement needs.
pub(super) struct Patterns<'a>(pub(super) &'a [TablePatterns]);

impl Patterns<'_> {
    /// Whether something may belong to it, as far as its names are given.
    fn fit(&self, catalog: &CatalogName, schema: Option<&str>, table: Option<&str>) -> bool {
        let any = |patterns: &[String], name: Option<&str>| {
            name.is_none_or(|name| patterns.is_empty() || patterns.iter().any(|pattern| is_like(name, pattern)))
        };
        let one = |wanted: &TablePatterns| {
            any(&wanted.catalogs, Some(catalog.as_str())) && any(&wanted.schemas, schema) && any(&wanted.tables, table)
        };
        self.0.is_empty() || self.0.iter().any(one)
    }
}

impl Choice for Patterns<'_> {
    fn catalog(&self, catalog: &CatalogName) -> bool {
        self.fit(catalog, None, None)
    }

    fn schema(&self, catalog: &CatalogName, schema: &str) -> bool {
        self.fit(catalog, Some(schema), None)
    }

    fn table(&self, catalog: &CatalogName, schema: &str, table: &str) -> bool {
        self.fit(catalog, Some(schema), Some(table))
    }

    fn has_all_schemas(&self) -> bool {
        self.0.iter().all(|wanted| wanted.schemas.is_empty())
    }

    fn has_all_tables(&self) -> bool {
        // Of several, each may choose others of the schemas that one of them has.
        self.0.iter().all(|wanted| wanted.tables.is_empty())
    }
}

impl Choice for TableFilter {
    fn catalog(&self, catalog: &CatalogName) -> bool {
        self.catalog.as_ref().is_none_or(|wanted| wanted == catalog)
    }

    fn schema(&self, catalog: &CatalogName, schema: &str) -> bool {
        self.catalog(catalog) && self.schema.as_deref().is_none_or(|pattern| is_like(schema, pattern))
    }

    fn table(&self, catalog: &CatalogName, schema: &str, table: &str) -> bool {
        self.schema(catalog, schema) && self.table.as_deref().is_none_or(|pattern| is_like(table, pattern))
    }

    fn has_all_schemas(&self) -> bool {
        self.schema.is_none()
    }

    fn has_all_tables(&self) -> bool {
        self.table.is_none()
    }
}

/// SQL LIKE with `%`, `_` and the escape `\`, on characters.
pub(super) fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let (mut t, mut p) = (0, 0);
    // Where to go on when a match fails: the last `%`, and the text position that it was tried at.
    let mut last_percent: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                last_percent = Some((p, t));
                p += 1;
            }
            Some('_') => (t, p) = (t + 1, p + 1),
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => (t, p) = (t + 1, p + 2),
            Some(c) if *c != '\\' && *c == text[t] => (t, p) = (t + 1, p + 1),
            _ => match last_percent {
                Some((at, tried)) => {
                    last_percent = Some((at, tried + 1));
                    (t, p) = (tried + 1, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn patterns_are_sql_like() {
        for (text, pattern, expected) in [
            ("orders", "orders", true),
            ("orders", "%", true),
            ("orders", "o%s", true),
            ("orders", "o_ders", true),
            ("orders", "", false),
            ("", "%", true),
            ("a_b", r"a\_b", true),
            ("axb", r"a\_b", false),
            ("abcabd", "%abd", true),
            ("größe", "gr__e", true),
            ("100%", r"100\%", true),
        ] {
            assert_eq!(is_like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }
}
