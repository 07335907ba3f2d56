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
            // Another statement's error has taken the instance down: this one can be asked elsewhere.
            ErrorKind::Fatal if text.contains("has been invalidated because of a previous fatal error") => Kind::Unreachable,
            ErrorKind::Fatal | ErrorKind::Other => Kind::Internal,
        };
        let message = match error.kind {
            ErrorKind::OutOfMemory => out_of_memory(text),
            _ => without_relay(text),
        };
        Self { kind, fatal: error.kind == ErrorKind::Fatal, message }
    }
}

/// Says which limit was met by the key that sets it. DuckDB's own advice is to change settings that a client cannot change.
fn out_of_memory(text: &str) -> String {
    let what = text.lines().next().unwrap_or_default().trim_end_matches('.');
    let (key, limit) = if text.contains("max_temp_directory_size") {
        ("pool.spill_limit", "the disk that a worker may spill to")
    } else {
        ("pool.memory_budget", "the memory of a worker, its share of all workers'")
    };
    let what = what.split(" This limit was set by").next().unwrap_or(what).trim_end_matches('.');
    format!("{what}. {key} bounds {limit}: let the statement sort, join or collect fewer rows, or raise it")
}

impl From<ArrowError> for StatementError {
    fn from(error: ArrowError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

/// DuckDB's Iceberg extension names the address that it asked. That is the relay's, which means nothing to a client.
fn without_relay(text: &str) -> String {
    let Some((before, rest)) = text.split_once("'http://127.0.0.1:") else {
        return text.to_owned();
    };
    let after = rest.split_once('\'').map_or("", |(_, after)| after);
    format!("{before}the catalog{}", without_relay(after))
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
    } else if text.contains("404") || text.contains("NoSuch") || text.contains("No files found") {
        Kind::NotFound
    } else if text.contains("409") {
        Kind::Conflict
    } else {
        Kind::Unreachable
    }
}

#[cfg(test)]
mod tests {
    use super::{EngineError, Kind, StatementError};

    fn told(message: &str) -> (Kind, bool, String) {
        let error = StatementError::from(EngineError::from_message(message.to_owned()));
        (error.kind, error.fatal, error.message)
    }

    #[test]
    fn an_instance_that_is_no_longer_usable_is_fatal() {
        assert_eq!(told("FATAL Error: Failed: database has been invalidated").0, Kind::Internal);
        assert!(told("FATAL Error: Failed: database has been invalidated").1);
        let neighbour = told("FATAL Error: Failed: database has been invalidated because of a previous fatal error. Original error: x");
        assert!(neighbour.0 == Kind::Unreachable && neighbour.1);
        assert!(told("INTERNAL Error: Attempted to dereference a null pointer").1);
        assert!(!told("Binder Error: FATAL Error: not at the beginning").1);
    }

    #[test]
    fn what_the_catalog_answered_tells_the_kind_and_hides_the_relay() {
        let lost = "TransactionContext Error: Failed to commit: Request to 'http://127.0.0.1:181/v1/x' returned a non-200 status code (Conflict_409).";
        let (kind, _, message) = told(lost);
        assert_eq!(kind, Kind::Conflict);
        assert_eq!(message, "TransactionContext Error: Failed to commit: Request to the catalog returned a non-200 status code (Conflict_409).");
        assert_eq!(told("HTTP Error: Could not establish connection").0, Kind::Unreachable);
        assert_eq!(told("HTTP Error: HTTP GET error reading 's3://b/x' (HTTP 403)").0, Kind::Refused);
        assert_eq!(told("Catalog Error: Table with name x does not exist!").0, Kind::NotFound);
        assert_eq!(told("Catalog Error: Table with name \"x\" already exists").0, Kind::AlreadyExists);
        let (kind, _, message) = told("Out of Memory Error: failed to allocate data (9 MiB/9 MiB used)\n\nPossible solutions:\n* SET threads=X");
        assert_eq!(kind, Kind::OutOfMemory);
        assert!(message.contains("pool.memory_budget") && message.contains("9 MiB") && !message.contains("SET"), "{message}");
    }
}
