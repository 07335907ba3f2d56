//! Owns what the relay asks of a catalog, whichever kind it is. Refuses to cache and to retry commits: what a failed commit means
//! is told, what to do about it is decided in `commit`.

pub(super) mod embedded;
pub(super) mod health;
pub(super) mod http;
pub(super) mod reach;
pub(super) mod rest;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use self::health::Health;
use super::error::CatalogError;
use crate::names::{CatalogName, Namespace, TableRef};

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct PageRequest {
    /// Where the page before ended, in the catalog's own words.
    pub(super) token: Option<String>,
    /// How many items at most.
    pub(super) size: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub(super) struct Page<T> {
    /// In the catalog's order.
    pub(super) items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub(super) next: Option<String>,
}

/// What a table is loaded for. A catalog may have rights of their own for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// To read or write its rows.
    Data,
    /// To see its columns.
    Columns,
}

/// What came of loading a table.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Its state now.
    Fresh {
        /// The load answer as it came, JSON.
        body: Bytes,
        /// By which the catalog knows this state again.
        etag: Option<String>,
    },
    /// The state is the one that the given mark stands for.
    NotModified,
}

/// Changes of one table in a commit.
#[derive(Clone, Debug)]
pub(super) struct TableChange {
    pub(super) table: TableRef,
    pub(super) requirements: Vec<Value>,
    pub(super) updates: Vec<Value>,
}

/// Changes of a namespace's properties.
#[derive(Clone, Debug, Default)]
pub(super) struct PropertyChange {
    pub(super) removals: Vec<String>,
    pub(super) updates: BTreeMap<String, String>,
}

/// Why a commit did not answer that it was made.
#[derive(Clone, Debug)]
pub(super) enum CommitFault {
    /// It was refused; nothing was changed, and the same commit would be refused again.
    Refused(CatalogError),
    /// It certainly was not made, and may be sent again.
    NotMade(CatalogError),
    /// It may have been made, or may still be.
    Unknown(CatalogError),
}

impl From<CatalogError> for CommitFault {
    fn from(error: CatalogError) -> Self {
        Self::Refused(error)
    }
}

/// A catalog, asked with one credential.
#[async_trait]
pub(super) trait Upstream: Send + Sync + 'static {
    /// What users call the catalog.
    fn name(&self) -> &CatalogName;

    /// Whether the catalog answers, where that can be otherwise.
    fn health(&self) -> Option<&Arc<Health>> {
        None
    }

    /// Whether the right to a table's data is another one than the right to its columns.
    fn tells_data_from_columns(&self) -> bool {
        false
    }

    /// Has what every call needs, unless it is here: a token, and where to call. What cannot be had is for the call to say.
    async fn make_ready(&self) {}

    /// Whether the catalog lets the credential in, asked anew.
    async fn prove(&self) -> Result<(), CatalogError> {
        Ok(())
    }

    /// Whether the catalog answers the credential, by the cheapest call there is, with the token that is there.
    async fn knock(&self) -> Result<(), CatalogError> {
        Ok(())
    }

    /// Namespaces directly below `parent`, or the outermost ones.
    async fn list_namespaces(&self, parent: Option<&Namespace>, page: &PageRequest) -> Result<Page<Namespace>, CatalogError>;

    async fn create_namespace(&self, namespace: &Namespace, properties: BTreeMap<String, String>) -> Result<(), CatalogError>;

    /// A namespace's properties; an error when it is not there.
    async fn load_namespace(&self, namespace: &Namespace) -> Result<BTreeMap<String, String>, CatalogError>;

    async fn update_namespace(&self, namespace: &Namespace, change: PropertyChange) -> Result<(), CatalogError>;

    async fn drop_namespace(&self, namespace: &Namespace) -> Result<(), CatalogError>;

    async fn list_tables(&self, namespace: &Namespace, page: &PageRequest) -> Result<Page<String>, CatalogError>;

    /// A table's state, unless it is the one that `etag` stands for.
    async fn load_table(&self, table: &TableRef, etag: Option<&str>, purpose: Purpose) -> Result<Answer, CatalogError>;

    /// Creates or stages a table from a create-table request, and gives the answer's body.
    async fn create_table(&self, namespace: &Namespace, request: Value) -> Result<Bytes, CatalogError>;

    /// Commits all changes or none.
    async fn commit(&self, changes: &[TableChange]) -> Result<(), CommitFault>;

    async fn drop_table(&self, table: &TableRef, purge: bool) -> Result<(), CatalogError>;

    async fn rename_table(&self, from: &TableRef, to: &TableRef) -> Result<(), CatalogError>;
}
