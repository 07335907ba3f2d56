//! Owns the embedded catalog as the relay asks it. Refuses to know files and SQL: `lake` has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Answer, CommitFault, Page, PageRequest, PropertyChange, Purpose, TableChange, Upstream};
use crate::error::chain;
use crate::lake::LakeError;
use crate::lake::catalog::{Catalog, Change, Loaded, NewTable};
use crate::names::{CatalogName, Namespace, TableRef};
use crate::relay::error::CatalogError;

/// A catalog in a directory.
pub(in crate::relay) struct Embedded {
    name: CatalogName,
    catalog: Arc<Catalog>,
}

impl Embedded {
    pub(in crate::relay) fn new(name: CatalogName, catalog: Arc<Catalog>) -> Self {
        Self { name, catalog }
    }

    fn explain(&self, error: LakeError) -> CatalogError {
        let catalog = self.name.clone();
        let text = |error: &LakeError| chain(error);
        match error {
            LakeError::NoSuchNamespace(namespace) => CatalogError::NoSuchNamespace { catalog, namespace },
            LakeError::NoSuchTable(namespace, table) => CatalogError::NoSuchTable(TableRef { catalog, namespace, table }),
            LakeError::NamespaceExists(namespace) => {
                CatalogError::AlreadyExists { catalog, what: format!("schema \"{namespace}\"") }
            }
            LakeError::TableExists(namespace, table) => {
                CatalogError::AlreadyExists { catalog, what: format!("table \"{namespace}.{table}\"") }
            }
            LakeError::NamespaceNotEmpty(namespace) => CatalogError::NotEmpty { catalog, namespace },
            LakeError::Conflict(reason) => CatalogError::Conflict { catalog, reason },
            LakeError::Invalid(reason) => CatalogError::Invalid { catalog, reason },
            LakeError::Outside(location) => CatalogError::OutsideLocation { catalog, what: "a table".to_owned(), location },
            error @ LakeError::Unsettled(_) => CatalogError::OutcomeUnknown { catalog, reason: text(&error) },
            error @ (LakeError::Io { .. } | LakeError::Database(_) | LakeError::Open { .. }) => {
                CatalogError::BadAnswer { catalog, reason: text(&error) }
            }
        }
    }

    fn explained<T>(&self, result: Result<T, LakeError>) -> Result<T, CatalogError> {
        result.map_err(|error| self.explain(error))
    }
}

#[async_trait]
impl Upstream for Embedded {
    fn name(&self) -> &CatalogName {
        &self.name
    }

    async fn list_namespaces(&self, parent: Option<&Namespace>, _: &PageRequest) -> Result<Page<Namespace>, CatalogError> {
        let items = self.explained(self.catalog.list_namespaces(parent).await)?;
        Ok(Page { items, next: None })
    }

    async fn create_namespace(&self, namespace: &Namespace, properties: BTreeMap<String, String>) -> Result<(), CatalogError> {
        self.explained(self.catalog.create_namespace(namespace, &properties).await)
    }

    async fn load_namespace(&self, namespace: &Namespace) -> Result<BTreeMap<String, String>, CatalogError> {
        self.explained(self.catalog.namespace_properties(namespace).await)
    }

    async fn update_namespace(&self, namespace: &Namespace, change: PropertyChange) -> Result<(), CatalogError> {
        self.explained(self.catalog.update_namespace(namespace, &change.removals, &change.updates).await)
    }

    async fn drop_namespace(&self, namespace: &Namespace) -> Result<(), CatalogError> {
        self.explained(self.catalog.drop_namespace(namespace).await)
    }

    async fn list_tables(&self, namespace: &Namespace, _: &PageRequest) -> Result<Page<String>, CatalogError> {
        let items = self.explained(self.catalog.list_tables(namespace).await)?;
        Ok(Page { items, next: None })
    }

    /// The mark of a state is where its metadata lies: asking again costs one look into the database.
    async fn load_table(&self, table: &TableRef, etag: Option<&str>, _: Purpose) -> Result<Answer, CatalogError> {
        if let Some(etag) = etag {
            let location = self.explained(self.catalog.metadata_location(&table.namespace, &table.table).await)?;
            if location == etag {
                return Ok(Answer::NotModified);
            }
        }
        let loaded = self.explained(self.catalog.load(&table.namespace, &table.table).await)?;
        Ok(Answer::Fresh { etag: loaded.location.clone(), body: body(loaded) })
    }

    async fn create_table(&self, namespace: &Namespace, request: Value) -> Result<Bytes, CatalogError> {
        let table: NewTable = serde_json::from_value(request)
            .map_err(|error| CatalogError::Invalid { catalog: self.name.clone(), reason: error.to_string() })?;
        self.explained(self.catalog.create_table(namespace, table).await).map(body)
    }

    async fn commit(&self, changes: &[TableChange]) -> Result<(), CommitFault> {
        let changes: Vec<Change> = changes
            .iter()
            .map(|change| Change {
                namespace: change.table.namespace.clone(),
                table: change.table.table.clone(),
                requirements: change.requirements.clone(),
                updates: change.updates.clone(),
            })
            .collect();
        match self.catalog.commit(&changes).await {
            Ok(_) => Ok(()),
            Err(error @ LakeError::Unsettled(_)) => Err(CommitFault::Unknown(self.explain(error))),
            Err(error @ LakeError::Database(_)) => Err(CommitFault::NotMade(self.explain(error))),
            Err(error) => Err(CommitFault::Refused(self.explain(error))),
        }
    }

    async fn drop_table(&self, table: &TableRef, purge: bool) -> Result<(), CatalogError> {
        self.explained(self.catalog.drop_table(&table.namespace, &table.table, purge).await)
    }

    async fn rename_table(&self, from: &TableRef, to: &TableRef) -> Result<(), CatalogError> {
        let renamed = self.catalog.rename_table((&from.namespace, &from.table), (&to.namespace, &to.table)).await;
        self.explained(renamed)
    }
}

fn body(loaded: Loaded) -> Bytes {
    let head = match loaded.location {
        Some(location) => format!("{{\"metadata-location\":{},\"metadata\":", json!(location)),
        None => "{\"metadata\":".to_owned(),
    };
    let mut body = head.into_bytes();
    body.extend_from_slice(&loaded.metadata);
    body.extend_from_slice(b",\"config\":{}}");
    Bytes::from(body)
}
