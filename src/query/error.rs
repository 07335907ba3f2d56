//! Owns what can go wrong in the life of a statement.

use std::time::Duration;

use crate::as_of::{AsOf, AsOfError};
use crate::error::{Explain, Kind};
use crate::names::{CatalogName, PrincipalName};
use crate::pool::PoolError;
use crate::relay::CatalogError;

/// Why a statement did not end well.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No worker, a lost one, or the statement's own failure.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The worker was lost that ran the statement, and then the one that ran it again.
    #[error("the statement was run twice, and each time its worker process was lost: {0}")]
    LostTwice(PoolError),
    /// The worker of a write was lost before it ran.
    #[error("nothing of the statement has run, and it can be run again: {0}")]
    NotRun(PoolError),
    /// The worker was lost while a write was under way.
    #[error("it is not known whether the write was committed: look at the table before running it again")]
    WriteUnknown(#[source] PoolError),
    /// A catalog refused, or could not be reached.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The deadline passed, or nearly, while catalogs were asked.
    #[error("{} did not answer within {:.1} s, the time that the statement had left", named(.catalogs), .after.as_secs_f32())]
    SilentCatalog {
        /// The catalogs of its tables.
        catalogs: Vec<CatalogName>,
        /// How long they were waited for.
        after: Duration,
    },
    /// The deadline passed.
    #[error("the statement did not end within {:.1} s (its deadline, or query.statement_timeout) and was cancelled", .0.as_secs_f32())]
    Deadline(Duration),
    /// The gateway drains.
    #[error("the gateway is shutting down and takes no new statements: connect again")]
    Draining,
    /// The gateway drains, and `drain_timeout` is over.
    #[error(
        "the gateway is shutting down, and cut the statement after {:.1} s (drain_timeout): connect again and run it anew",
        .0.as_secs_f32()
    )]
    Cut(Duration),
    /// The principal has its share in work already.
    #[error(
        "{principal} has {limit} statements in work, which is the limit of one principal (query.max_statements_per_principal): try again later"
    )]
    TooManyStatements {
        /// Whose they are.
        principal: PrincipalName,
        /// The configured ceiling.
        limit: usize,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// A catalog that is not configured.
    #[error("catalog \"{name}\" does not exist; there are: {}", known.iter().map(CatalogName::as_str).collect::<Vec<_>>().join(", "))]
    NoCatalog {
        /// The name asked for.
        name: CatalogName,
        /// The configured ones.
        known: Vec<CatalogName>,
    },
    /// A schema that the catalog does not have.
    #[error("schema \"{schema}\" does not exist in catalog \"{catalog}\"")]
    NoSchema {
        /// The catalog.
        catalog: CatalogName,
        /// The schema asked for.
        schema: String,
    },
    /// A listing names more tables than allowed.
    #[error(
        "the listing has more than {limit} {what} (query.listing_tables): ask for one schema, or for a narrower name pattern"
    )]
    ListingTooLarge {
        /// `tables` or `schemas`.
        what: &'static str,
        /// The configured ceiling.
        limit: usize,
    },
    /// A listing has more rows than may be held.
    #[error(
        "the listing has more than {limit} bytes of rows (query.listing_bytes): ask for one schema, or for a narrower name pattern"
    )]
    ListingTooLong {
        /// The configured ceiling in bytes.
        limit: usize,
    },
    /// A table has more files than may be shown.
    #[error(
        "the table has more than {limit} files or partitions, which is what can be shown of one (query.listing_files): table_partitions adds its files up"
    )]
    TooManyFiles {
        /// The configured ceiling.
        limit: usize,
    },
    /// What is to be shown of tables is too long.
    #[error(
        "what is to be shown of the tables takes more than {limit_mb} MB, which is the most: ask for one table at a time, or for an older snapshot"
    )]
    TooMuchMetadata {
        /// The most, in megabytes.
        limit_mb: usize,
    },
    /// A statement that asks for more of the past than one may.
    #[error("the statement has more than {limit} {what}, which is the most of one: write several")]
    TooManyOfThePast {
        /// The most.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// A session that reads the past was told to write.
    #[error("the session reads tables as of {0}, and nothing can be written then: end that first (RESET as_of)")]
    ReadsThePast(AsOf),
    /// A text that is no instant to read at.
    #[error(transparent)]
    AsOf(#[from] AsOfError),
    /// What the client sent for an ingest is not right.
    #[error("{0}")]
    Input(String),
    /// Something that cannot happen did.
    #[error("{0}")]
    Defect(String),
}

/// `catalog "a"`, or `catalog "a" or "b"`.
fn named(catalogs: &[CatalogName]) -> String {
    let names: Vec<String> = catalogs.iter().map(|name| format!("\"{name}\"")).collect();
    if names.is_empty() { "a catalog".to_owned() } else { format!("catalog {}", names.join(" or ")) }
}

impl Explain for QueryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Pool(error) => error.kind(),
            Self::LostTwice(_) | Self::NotRun(_) | Self::Draining | Self::Cut(_) | Self::SilentCatalog { .. } => {
                Kind::Unavailable
            }
            Self::TooManyStatements { retry_after, .. } => Kind::ResourceExhausted(Some(*retry_after)),
            // Not UNAVAILABLE: clients run that again by themselves.
            Self::WriteUnknown(_) | Self::ReadsThePast(_) => Kind::FailedPrecondition,
            Self::Catalog(error) => error.kind(),
            Self::Deadline(_) => Kind::DeadlineExceeded,
            Self::NoCatalog { .. } | Self::NoSchema { .. } => Kind::NotFound,
            Self::ListingTooLarge { .. }
            | Self::ListingTooLong { .. }
            | Self::TooManyFiles { .. }
            | Self::TooManyOfThePast { .. }
            | Self::TooMuchMetadata { .. } => Kind::ResourceExhausted(None),
            Self::Input(_) | Self::AsOf(_) => Kind::InvalidArgument,
            Self::Defect(_) => Kind::Internal,
        }
    }
}
