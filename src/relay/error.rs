//! Owns what can go wrong between the gateway and its catalogs, in words for the caller. Refuses to carry tokens or whole addresses:
//! a catalog is named by its name and its host.

use std::time::Duration;

use crate::error::{Explain, Kind};
use crate::lake::LakeError;
use crate::names::{CatalogName, Namespace, TableRef};
use crate::secret::SecretError;

/// Why a catalog did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// No catalog of this name is configured, or the caller does not see it.
    #[error("catalog \"{0}\" does not exist")]
    NoSuchCatalog(CatalogName),
    /// The gateway could not read an answer: a defect of its own.
    #[error("reading the catalog's answer broke; the gateway's log says where")]
    Broke,
    /// The namespace is not there.
    #[error("schema \"{namespace}\" does not exist in catalog \"{catalog}\"")]
    NoSuchNamespace {
        /// The catalog asked.
        catalog: CatalogName,
        /// The namespace asked for.
        namespace: Namespace,
    },
    /// The table is not there.
    #[error("table \"{}.{}\" does not exist in catalog \"{}\"", .0.namespace, .0.table, .0.catalog)]
    NoSuchTable(TableRef),
    /// The table has no such state.
    #[error("table \"{}.{}\" of catalog \"{}\" {reason}", .table.namespace, .table.table, .table.catalog)]
    NoSuchSnapshot {
        /// The table.
        table: TableRef,
        /// What is not there, and what is.
        reason: String,
    },
    /// The schema or table to be made is there already.
    #[error("{what} already exists in catalog \"{catalog}\"")]
    AlreadyExists {
        /// The catalog asked.
        catalog: CatalogName,
        /// Such as `table "gold.t"`.
        what: String,
    },
    /// The schema still holds something.
    #[error("schema \"{namespace}\" of catalog \"{catalog}\" is not empty; drop its tables first")]
    NotEmpty {
        /// The catalog asked.
        catalog: CatalogName,
        /// The namespace to be dropped.
        namespace: Namespace,
    },
    /// Another commit came first; nothing was changed.
    #[error("the commit to catalog \"{catalog}\" lost against another one: {reason}")]
    Conflict {
        /// The catalog asked.
        catalog: CatalogName,
        /// What the catalog said.
        reason: String,
    },
    /// The catalog knows the principal and does not allow it this.
    #[error("catalog \"{catalog}\" does not allow it: {reason}")]
    Forbidden {
        /// The catalog asked.
        catalog: CatalogName,
        /// Who lacks which privilege, and who can help.
        reason: String,
    },
    /// The catalog does not take what the caller has logged in with.
    #[error("catalog \"{catalog}\" does not accept your login any more ({reason}); log in again")]
    LoggedOut {
        /// The catalog asked.
        catalog: CatalogName,
        /// The catalog's own words, or that the token has expired.
        reason: String,
    },
    /// The catalog refused the credentials that the gateway is configured with.
    #[error("catalog \"{catalog}\" refused the gateway's credentials ({reason}); an administrator must check them")]
    Unauthorized {
        /// The catalog asked.
        catalog: CatalogName,
        /// The catalog's own words.
        reason: String,
    },
    /// The catalog finds the request wrong; nothing was changed.
    #[error("catalog \"{catalog}\" refused the request: {reason}")]
    Invalid {
        /// The catalog asked.
        catalog: CatalogName,
        /// What the catalog said.
        reason: String,
    },
    /// The catalog does not have this operation.
    #[error("catalog \"{catalog}\" does not support it: {reason}")]
    Unsupported {
        /// The catalog asked.
        catalog: CatalogName,
        /// What it does not support.
        reason: String,
    },
    /// Metadata that points out of the catalog's own storage.
    #[error("{what} lies outside the locations allowed for catalog \"{catalog}\": {location}")]
    OutsideLocation {
        /// The catalog asked.
        catalog: CatalogName,
        /// What lies there: a table, a manifest list.
        what: String,
        /// Where.
        location: String,
    },
    /// The catalog has more names than one listing may have.
    #[error("catalog \"{catalog}\" has more than the {limit} names that one listing may have")]
    TooManyNames {
        /// The catalog asked.
        catalog: CatalogName,
        /// So many may be.
        limit: usize,
    },
    /// No connection, or it broke.
    #[error("catalog \"{catalog}\" at {host} cannot be reached: {reason}")]
    Unreachable {
        /// The catalog asked.
        catalog: CatalogName,
        /// Host and port.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The catalog did not answer in time.
    #[error("catalog \"{catalog}\" at {host} did not answer within {} s", .after.as_secs_f32())]
    Timeout {
        /// The catalog asked.
        catalog: CatalogName,
        /// Host and port.
        host: String,
        /// How long the gateway waited.
        after: Duration,
    },
    /// The catalog, or what gives tokens for it, is out of order for now.
    #[error("catalog \"{catalog}\" failed: {reason}")]
    Failing {
        /// The catalog asked.
        catalog: CatalogName,
        /// What it answered.
        reason: String,
    },
    /// The catalog answered what is not Iceberg REST.
    #[error("catalog \"{catalog}\" failed: {reason}")]
    BadAnswer {
        /// The catalog asked.
        catalog: CatalogName,
        /// What was wrong with the answer.
        reason: String,
    },
    /// A change was sent and whether it was made cannot be found out.
    #[error("whether catalog \"{catalog}\" made the change is unknown ({reason}); look before running the statement again")]
    OutcomeUnknown {
        /// The catalog asked.
        catalog: CatalogName,
        /// Why it is unknown.
        reason: String,
    },
}

impl CatalogError {
    /// Whether it says nothing but that the catalog cannot be asked now.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Failing { .. })
    }

    /// Whether it says something of the catalog or the log-in, whatever was asked for.
    #[must_use]
    pub fn is_of_the_catalog(&self) -> bool {
        self.is_outage() || matches!(self, Self::LoggedOut { .. } | Self::Unauthorized { .. })
    }
}

impl Explain for CatalogError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoSuchCatalog(_) | Self::NoSuchNamespace { .. } | Self::NoSuchTable(_) | Self::NoSuchSnapshot { .. } => {
                Kind::NotFound
            }
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            // Unknown outcomes are not `Unavailable`, which clients retry by themselves.
            Self::NotEmpty { .. } | Self::OutcomeUnknown { .. } => Kind::FailedPrecondition,
            Self::Conflict { .. } => Kind::Aborted,
            Self::Forbidden { .. } | Self::OutsideLocation { .. } => Kind::PermissionDenied,
            Self::Invalid { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::TooManyNames { .. } => Kind::ResourceExhausted(None),
            Self::LoggedOut { .. } => Kind::Unauthenticated,
            Self::Broke => Kind::Internal,
            // Not `Unauthenticated`: it is the gateway's credential, and the caller logging in again would not help.
            Self::Unauthorized { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Failing { .. }
            | Self::BadAnswer { .. } => Kind::Unavailable,
        }
    }
}

/// Why the relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The loopback port.
    #[error("the relay cannot listen on the loopback interface")]
    Listen(#[from] std::io::Error),
    /// An embedded catalog's directory or database.
    #[error("catalog \"{catalog}\" cannot be opened")]
    Open {
        /// The catalog as configured.
        catalog: CatalogName,
        /// What went wrong.
        source: LakeError,
    },
    /// A secret that the config refers to.
    #[error("catalog \"{catalog}\": its credentials cannot be had")]
    Secret {
        /// The catalog as configured.
        catalog: CatalogName,
        /// What went wrong.
        source: SecretError,
    },
    /// A setting that cannot be used.
    #[error("catalog \"{catalog}\": {reason}")]
    Config {
        /// The catalog as configured.
        catalog: CatalogName,
        /// What is wrong and what would be right.
        reason: String,
    },
}
