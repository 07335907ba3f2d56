//! Owns the names and ids that cross module borders, each a type of its own so that a catalog is never taken for a table. Refuses
//! to know where they come from.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $type {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A catalog as users name it.
    CatalogName
);
name!(
    /// An authenticated caller.
    PrincipalName
);
name!(
    /// Which caller it is: a digest, the same in every process. Callers of one name are told apart by it when they have proven it in
    /// different ways or to different authorities.
    PrincipalId
);
name!(
    /// Which upstream credential is used at the catalogs. Says nothing of the secret in it, so it may stand in the log.
    CredentialId
);
name!(
    /// The principals of one identity store: catalogs of one realm take the same log-ins.
    RealmName
);
name!(
    /// What a mapping gives a caller: credentials for some catalogs.
    RoleName
);
name!(
    /// A session of one caller.
    SessionId
);
name!(
    /// A worker's bearer token at the relay. Never shown: `Debug` of the holder must redact it.
    WorkerToken
);

/// An Iceberg namespace: one or more levels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Vec<String>);

impl Namespace {
    /// A namespace of these levels.
    #[must_use]
    pub fn new(levels: Vec<String>) -> Self {
        Self(levels)
    }

    /// The namespace that SQL names `schema`: its levels are joined by dots.
    #[must_use]
    pub fn from_schema(schema: &str) -> Self {
        Self(schema.split('.').map(str::to_owned).collect())
    }

    /// The levels, outermost first.
    #[must_use]
    pub fn levels(&self) -> &[String] {
        &self.0
    }
}

/// As SQL names it: levels joined by dots.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A table in a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableRef {
    /// The catalog as users name it.
    pub catalog: CatalogName,
    /// The namespace in it.
    pub namespace: Namespace,
    /// The table's own name.
    pub table: String,
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.catalog, self.namespace, self.table)
    }
}
