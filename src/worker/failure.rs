//! Owns what the gateway is told when a statement fails. Refuses to know the wire.

use arrow::error::ArrowError;

use super::binding::{EngineError, ErrorKind};
use crate::wire::proto::failure::Kind;
use crate::wire::proto::Failure;

/// Why a statement did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StatementError {
    /// What it means for the caller.
    pub kind: Kind,
    /// What was wrong and what would be right.
    pub message: String,
    /// The instance is no longer usable.
    pub fatal: bool,
}

impl StatementError {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fatal: false }
    }

    /// For the wire.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        Failure { kind: self.kind.into(), message: self.message.clone(), fatal: self.fatal }
    }
}

impl From<EngineError> for StatementError {
    fn from(error: EngineError) -> Self {
        let text = error.message.as_str();
        let kind = match error.kind {
            ErrorKind::Invalid | ErrorKind::Constraint => Kind::Invalid,
            ErrorKind::Catalog if text.contains("already exists") => Kind::AlreadyExists,
            ErrorKind::Catalog => Kind::NotFound,
            ErrorKind::NotImplemented => Kind::Unsupported,
            ErrorKind::Permission => Kind::Refused,
            ErrorKind::OutOfMemory => Kind::OutOfMemory,
            ErrorKind::Interrupted => Kind::Interrupted,
            ErrorKind::Transaction => commit_kind(text),
            ErrorKind::Io => io_kind(text),
            ErrorKind::Fatal | ErrorKind::Other => Kind::Internal,
        };
        Self { kind, fatal: error.kind == ErrorKind::Fatal, message: error.message }
    }
}

impl From<ArrowError> for StatementError {
    fn from(error: ArrowError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

/// A commit that the catalog refused, told by the status that the text of DuckDB's Iceberg extension carries.
fn commit_kind(text: &str) -> Kind {
    if text.contains("409") || text.to_ascii_lowercase().contains("conflict") {
        Kind::Conflict
    } else if text.contains("403") || text.contains("401") {
        Kind::Refused
    } else if text.contains("already exists") {
        Kind::AlreadyExists
    } else {
        Kind::Unreachable
    }
}

/// A request that the catalog or the object store did not serve.
fn io_kind(text: &str) -> Kind {
    if text.contains("403") || text.contains("401") || text.contains("Forbidden") || text.contains("Unauthorized") {
        Kind::Refused
    } else if text.contains("404") || text.contains("NoSuch") {
        Kind::NotFound
    } else if text.contains("409") {
        Kind::Conflict
    } else {
        Kind::Unreachable
    }
}
