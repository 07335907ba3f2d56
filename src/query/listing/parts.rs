//! Owns the names of a listing on their way to its rows: lists as they are remembered, shared with everybody who reads them, and no name
//! is copied before its row is made. Refuses to ask for lists.

use std::sync::Arc;

use crate::names::{CatalogName, Namespace, TableRef};

/// The tables of one schema.
pub(super) struct Part {
    pub catalog: CatalogName,
    pub namespace: Namespace,
    /// All names of the schema, in order.
    pub names: Arc<[String]>,
}

impl Part {
    /// How many of its tables fit.
    pub fn fitting(&self, fits: impl Fn(&Part, &str) -> bool) -> usize {
        self.names.iter().filter(|name| fits(self, name)).count()
    }
}

/// The tables of these schemas that fit, in the order of their names.
pub(super) fn tables(mut parts: Vec<Part>, fits: impl Fn(&Part, &str) -> bool) -> impl Iterator<Item = TableRef> {
    parts.sort_by(|a, b| (&a.catalog, &a.namespace).cmp(&(&b.catalog, &b.namespace)));
    let (mut at, mut next) = (0, 0);
    std::iter::from_fn(move || {
        while let Some(part) = parts.get(at) {
            while let Some(name) = part.names.get(next) {
                next += 1;
                if fits(part, name) {
                    let (catalog, namespace) = (part.catalog.clone(), part.namespace.clone());
                    return Some(TableRef { catalog, namespace, table: name.clone() });
                }
            }
            (at, next) = (at + 1, 0);
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_in_the_order_of_their_names_and_only_those_that_fit() {
        let part = |schema: &str, names: &[&str]| Part {
            catalog: "lake".into(),
            namespace: Namespace::from_schema(schema),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let parts = vec![part("b", &["a", "x", "z"]), part("c", &[]), part("a", &["x", "y"])];
        let fits = |_: &Part, name: &str| name != "x";
        assert_eq!(parts.iter().map(|part| part.fitting(fits)).sum::<usize>(), 3);
        let names: Vec<String> = tables(parts, fits).map(|table| table.to_string()).collect();
        assert_eq!(names, ["lake.a.y", "lake.b.a", "lake.b.z"]);
    }
}
