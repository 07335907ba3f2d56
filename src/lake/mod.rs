//! Iceberg as files and types: the embedded catalog, what a table's columns are in Arrow and SQL, and metadata cut down for readers.
//!
//! It is the only user of the `iceberg` crates. It refuses to know HTTP, workers and clients.

mod bounds;
pub mod catalog;
mod files;
pub mod history;
mod manifests;
mod metadata;
pub mod order;
pub mod size;
#[cfg(test)]
mod tests;
pub mod trim;
pub mod types;

use crate::names::Namespace;

pub use manifests::{LiveFile, ManifestAt, Unreadable, data_file, files, live_files, manifest_list, manifests};
pub use types::{Column, columns};

/// What can go wrong in the embedded catalog and in Iceberg metadata.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The namespace is not there.
    #[error("namespace \"{0}\" does not exist")]
    NoSuchNamespace(Namespace),
    /// The table is not there.
    #[error("table \"{0}.{1}\" does not exist")]
    NoSuchTable(Namespace, String),
    /// The namespace is there already.
    #[error("namespace \"{0}\" already exists")]
    NamespaceExists(Namespace),
    /// The table is there already.
    #[error("table \"{0}.{1}\" already exists")]
    TableExists(Namespace, String),
    /// The namespace still holds tables or namespaces.
    #[error("namespace \"{0}\" is not empty")]
    NamespaceNotEmpty(Namespace),
    /// A requirement of a commit does not hold; nothing was changed.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense to Iceberg; nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// A location outside the catalog's directory; nothing was changed.
    #[error("location {0} is outside the catalog's directory")]
    Outside(String),
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The catalog database could not be read or written; nothing was changed.
    #[error("the catalog database failed")]
    Database(#[from] sqlx::Error),
    /// The catalog database failed at the very commit: it may have been done, or not.
    #[error("the catalog database failed while committing")]
    Unsettled(#[source] sqlx::Error),
    /// The catalog database could not be opened.
    #[error("cannot open the catalog database {path}")]
    Open {
        /// The database file.
        path: String,
        /// What the driver said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
