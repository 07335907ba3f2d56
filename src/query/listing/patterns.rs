//! Owns which part of a listing is wanted: SQL LIKE on names. Refuses to know where names come from.

use crate::names::CatalogName;
use crate::wire::proto::TablePatterns;

/// Which part of a listing a statement needs.
pub(super) struct Patterns<'a>(pub(super) &'a [TablePatterns]);

impl Patterns<'_> {
    /// Whether something may belong to it, as far as its names are given.
    pub(super) fn fit(&self, catalog: &CatalogName, schema: Option<&str>, table: Option<&str>) -> bool {
        let any = |patterns: &[String], name: Option<&str>| {
            name.is_none_or(|name| patterns.is_empty() || patterns.iter().any(|pattern| is_like(name, pattern)))
        };
        let one = |wanted: &TablePatterns| {
            any(&wanted.catalogs, Some(catalog.as_str())) && any(&wanted.schemas, schema) && any(&wanted.tables, table)
        };
        self.0.is_empty() || self.0.iter().any(one)
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
