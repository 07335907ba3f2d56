//! Owns what a change of a catalog makes void for everybody: the tables that it touches, and the lists that they or their namespaces stand
//! in. Refuses to know whether the change was made: what is forgotten in vain is only asked for again.

use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::Relay;

/// A change under way. What it makes void is forgotten when this is dropped: before its answer, however it ended, also when its request is
/// dropped half-way.
pub(in crate::relay) struct Voids<'a> {
    relay: &'a Relay,
    tables: Vec<TableRef>,
    lists: Vec<(CatalogName, Namespace)>,
    namespaces: Option<CatalogName>,
}

impl Relay {
    /// A change of these tables that leaves their names.
    pub(in crate::relay) fn changing(&self, tables: impl IntoIterator<Item = TableRef>) -> Voids<'_> {
        Voids { relay: self, tables: tables.into_iter().collect(), lists: Vec::new(), namespaces: None }
    }

    /// A change by which these tables come or go.
    pub(in crate::relay) fn renaming(&self, tables: impl IntoIterator<Item = TableRef>) -> Voids<'_> {
        let mut voids = self.changing(tables);
        voids.lists = voids.tables.iter().map(|table| (table.catalog.clone(), table.namespace.clone())).collect();
        voids
    }

    /// A change by which this namespace comes or goes.
    pub(in crate::relay) fn changing_namespace(&self, catalog: &CatalogName, namespace: &Namespace) -> Voids<'_> {
        let lists = vec![(catalog.clone(), namespace.clone())];
        Voids { relay: self, tables: Vec::new(), lists, namespaces: Some(catalog.clone()) }
    }
}

impl Voids<'_> {
    /// It may also make this table.
    pub(in crate::relay) fn creating(&mut self, table: &TableRef) {
        self.lists.push((table.catalog.clone(), table.namespace.clone()));
    }
}

impl Drop for Voids<'_> {
    fn drop(&mut self) {
        let Relay { cache, listings, .. } = self.relay;
        for table in &self.tables {
            cache.forget(table);
            listings.columns.forget(table);
        }
        for list in &self.lists {
            listings.tables.forget(list);
        }
        if let Some(catalog) = &self.namespaces {
            listings.namespaces.forget(catalog);
        }
    }
}
