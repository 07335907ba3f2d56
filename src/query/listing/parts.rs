//! Owns the names of a listing on their way to its rows: lists as they are remembered, shared with everybody who reads them, and no name
//! is copied before its row is made unless others of its list are left out. Refuses to ask for lists.

use std::sync::Arc;

use crate::names::{CatalogName, Namespace, TableRef};

/// The tables of one schema.
pub(super) struct Part {
    pub catalog: CatalogName,
    pub namespace: Namespace,
    /// Those of its names that are wanted, in order.
    pub names: Arc<[String]>,
}

/// The tables of these schemas, in the order of their names.
pub(super) fn tables(mut parts: Vec<Part>) -> impl Iterator<Item = TableRef> {
    parts.sort_by(|a, b| (&a.catalog, &a.namespace).cmp(&(&b.catalog, &b.namespace)));
    let (mut at, mut next) = (0, 0);
    std::iter::from_fn(move || {
        while let Some(part) = parts.get(at) {
            if let Some(name) = part.names.get(next) {
                next += 1;
                let (catalog, namespace) = (part.catalog.clone(), part.namespace.clone());
                return Some(TableRef { catalog, namespace, table: name.clone() });
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
    fn tables_come_in_the_order_of_their_names() {
        let part = |schema: &str, names: &[&str]| Part {
            catalog: "lake".into(),
            namespace: Namespace::from_schema(schema),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let parts = vec![part("b", &["a", "z"]), part("c", &[]), part("a", &["y"])];
        let names: Vec<String> = tables(parts).map(|table| table.to_string()).collect();
        assert_eq!(names, ["lake.a.y", "lake.b.a", "lake.b.z"]);
    }
}
